"""A JupyterLab server of its own and a headless Chromium for the tests of what a person sees.

The browser is one that the system has: `CHROMIUM` in the environment, or `chromium` on the path (Debian's package).
Where there is none, the tests are skipped and say why; with `BROWSER_TESTS=required` they fail instead.
Pictures are kept in `build/screenshots`, or in the folder that `SCREENSHOTS` names.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the tests in a browser need playwright (the dev extra)")

from find_chromium import find_chromium, why_none
from lab_pages import LabServer, NotebookPage, OpenNotebook, notebook_of_cells, open_page, parameterised_copy
from playwright.sync_api import Browser, Error, sync_playwright

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# No background traffic, and no sandbox where the tests run as root, as in a container.
BROWSER_OPTIONS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

# Nothing is asked: neither for news, nor which kernel to start. Cells outside the window stay on the page.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"autoStartDefaultKernel": True, "windowingMode": "none"},
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All tests of this folder are slow."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package")
def chromium() -> str:
    """Path of the browser; without one the test is skipped, or fails where the browser is required."""
    found = find_chromium()
    if found is not None:
        return found
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(f"the tests in a browser are required (BROWSER_TESTS) and cannot run: {why_none()}")
    pytest.skip(why_none())


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """The running browser."""
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=[*BROWSER_OPTIONS, *sandbox])
        yield running
        running.close()


@pytest.fixture(scope="package")
def lab(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """A JupyterLab that knows nothing of the settings, extensions and workspaces of whoever runs the tests."""
    root, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    token = secrets.token_hex(8)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))},
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    # What computes caches keeps them where it kept them: compiling anew in a fresh home takes half a minute.
    for name, default in (("MPLCONFIGDIR", ".config/matplotlib"), ("NUMBA_CACHE_DIR", ".cache/numba")):
        environment.setdefault(name, str(Path.home() / default))
    log = home / "lab.log"
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--port-retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
        *("--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True"),
    ]
    with log.open("w") as written:
        server = subprocess.Popen(
            command,
            env=environment,
            cwd=root,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
            yield LabServer(url=f"http://127.0.0.1:{port}", token=token, root=root, log=log)
        finally:
            _stop(server)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Folder of the pictures."""
    return Path(os.environ.get("SCREENSHOTS") or REPO / "build" / "screenshots")


@contextlib.contextmanager
def notebooks_of(lab: LabServer, browser: Browser, screenshots: Path) -> Iterator[OpenNotebook]:
    """A function that opens notebooks; at the end, what went wrong on their pages fails, and they are closed."""
    opened, contexts = [], []

    def open_it(
        source: str | list[str], *, zoom: float = 1.0, width: int = 1400, height: int = 1000, **parameters: Any
    ) -> NotebookPage:
        folder = Path(tempfile.mkdtemp(dir=lab.root))
        if isinstance(source, str):
            notebook = parameterised_copy(REPO / "notebooks" / f"{source}.ipynb", folder, parameters)
        else:
            notebook = notebook_of_cells(folder / "cells.ipynb", source)
        page, context = open_page(
            lab, browser, notebook, screenshots=screenshots, zoom=zoom, width=width, height=height
        )
        opened.append(page)
        contexts.append(context)
        return page

    try:
        yield open_it
        for page in opened:
            page.check()
    finally:
        for page, context in zip(opened, contexts, strict=True):
            with contextlib.suppress(Error):  # the test has ended the kernel or left the page
                page.kill_kernel()
            context.close()


@pytest.fixture
def open_notebook(lab: LabServer, browser: Browser, screenshots: Path) -> Iterator[OpenNotebook]:
    """A function that opens a notebook and fails the test, at its end, for what went wrong on the page.

    `open_notebook("08_explore", experiment="x", runs_dir="/y")` opens a notebook of the project with these parameters;
    `open_notebook(["import ..", "widget"])` one that holds these code cells. `zoom=2` zooms the page.
    """
    with notebooks_of(lab, browser, screenshots) as open_it:
        yield open_it


@pytest.fixture(scope="module")
def open_for_module(lab: LabServer, browser: Browser, screenshots: Path) -> Iterator[OpenNotebook]:
    """The same for a page that the tests of a module share, one after the other."""
    with notebooks_of(lab, browser, screenshots) as open_it:
        yield open_it


def _end_with_parent() -> None:
    """Have Linux end this process when the tests are killed, so that no server is left behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, *, timeout_s: float = 90) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    _stop(server)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-3000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
