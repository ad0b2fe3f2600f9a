"""Notebooks in a real JupyterLab, driven as a person does: open, run all, wait, look for errors, take pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route

LOOPBACK = {"127.0.0.1", "localhost", "[::1]", "::1"}

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

_ERROR_OUTPUTS = (
    '.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]',
    '.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]',
)

# What JupyterLab itself complains of in the console, whatever the notebook holds.
_LABS_OWN_COMPLAINTS = re.compile(
    r"Failed to load resource.*(404|403)|Could not establish connection|ResizeObserver loop|"
    r"Could not restore the debugger state|Lazy load failed|"
    r"WebSocket.*(closed|failed)|Kernel: .*(disconnect|terminat)|Connection lost",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab.

    Attributes:
        url: Its address on the loopback device.
        token: What lets one in.
        root: The folder it shows.
        log: What the server wrote.
    """

    url: str
    token: str
    root: Path
    log: Path


@dataclass
class NotebookPage:
    """A notebook open in a browser, with everything that went wrong on the page.

    Attributes:
        page: The page of playwright.
        path: The notebook's file; the kernel's working folder is the one it lies in.
        screenshots: Folder of the pictures.
        outside: Addresses that the page asked for beyond loopback; each such request is made to fail.
        errors: Uncaught exceptions of the page, and errors in its console.
    """

    page: Page
    path: Path
    screenshots: Path
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run_all(self, *, timeout_s: float = 90, may_fail: bool = False) -> None:
        """Run all cells and wait for the last; fail on an error or on anything in the error stream of a cell."""
        self.command("notebook:run-all-cells")
        self.wait_until_run(timeout_s=timeout_s)
        if not may_fail:
            assert self.cell_errors() == []

    def run_cell(self, number: int, *, timeout_s: float = 60) -> None:
        """Run one code cell, counted from 0, and wait for it."""
        self._run(self.page.locator(".jp-CodeCell").nth(number), timeout_s)

    def run_cell_with(self, text: str, *, timeout_s: float = 60) -> None:
        """Run the first code cell that holds a text, and wait for it."""
        self._run(self.page.locator(".jp-CodeCell").filter(has_text=text).first, timeout_s)

    def _run(self, cell: Locator, timeout_s: float) -> None:
        prompt = cell.locator(".jp-InputPrompt").first
        before = prompt.inner_text()
        cell.locator(".cm-content").first.click()
        self.command("notebook:run-cell")
        self.page.wait_for_function(
            """([prompt, before]) =>
                /\\[\\d+\\]/.test(prompt.textContent) && prompt.textContent.trim() !== before.trim()""",
            arg=[prompt.element_handle(), before],
            timeout=1000 * timeout_s,
        )

    def wait_until_run(self, *, timeout_s: float = 90) -> None:
        """Wait until every code cell that holds something has its number, or one has failed."""
        self.page.wait_for_function(
            """errors => {
                if (document.querySelector(errors)) return true;
                const cells = [...document.querySelectorAll('.jp-CodeCell')];
                return cells.length > 0 && cells.every(cell =>
                    /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent));
            }""",
            arg=_ERROR_OUTPUTS[0],
            timeout=1000 * timeout_s,
        )

    def cell_errors(self) -> list[str]:
        """Errors and error streams that the cells show."""
        return self.page.locator(", ".join(_ERROR_OUTPUTS)).all_inner_texts()

    def command(self, name: str, **arguments: Any) -> Any:
        """Call a command of JupyterLab, such as `kernelmenu:restart`."""
        return self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => null)", [name, arguments]
        )

    def restart_kernel(self) -> None:
        """Restart the kernel without a word; the outputs of the cells stay."""
        self.page.evaluate(
            """async () => {
                const widget = window.jupyterapp.shell.currentWidget;
                await widget.sessionContext.session.kernel.restart();
            }"""
        )

    def kill_kernel(self) -> None:
        """Shut the kernel down for good; the outputs of the cells stay."""
        self.page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")

    def theme(self, name: str) -> None:
        """Change to the theme `light` or `dark`."""
        self.command("apputils:change-theme", theme=THEMES[name])
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light", arg="true" if name == "light" else "false"
        )
        self.page.wait_for_timeout(400)

    def picture(self, name: str, part: Locator | None = None) -> Path:
        """Keep a picture of the page, or of a part of it, as `<name>.png`."""
        path = self.screenshots / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if part is None:
            self.page.screenshot(path=path)
            return path
        size = self.page.viewport_size
        assert size is not None
        box = part.bounding_box()
        assert box is not None, "the part is not on the page"
        if box["height"] > size["height"] - 200:  # a part of a scrolled page is only there as far as it is seen
            self.page.set_viewport_size({"width": size["width"], "height": round(box["height"]) + 300})
            self.page.wait_for_timeout(500)
        part.scroll_into_view_if_needed()
        part.screenshot(path=path)
        self.page.set_viewport_size(size)
        return path

    def check(self) -> None:
        """Fail on whatever went wrong on the page, and on any request that left the machine."""
        assert self.outside == [], "the page asked for something beyond loopback"
        assert self.errors == []


def colours_of(canvas: Locator) -> int:
    """Count the different colours of a canvas: a picture that was never drawn has one."""
    return int(
        canvas.evaluate(
            """canvas => {
                const {width, height} = canvas;
                const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
                const seen = new Set();
                for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
                return seen.size;
            }"""
        )
    )


def open_page(
    server: LabServer,
    browser: Browser,
    notebook: Path,
    *,
    screenshots: Path,
    zoom: float = 1.0,
    width: int = 1400,
    height: int = 1000,
) -> tuple[NotebookPage, BrowserContext]:
    """Open a notebook of the server in a fresh window, with its kernel started and idle.

    Args:
        server: The running JupyterLab.
        browser: The running browser.
        notebook: A file in the server's folder.
        screenshots: Folder of the pictures.
        zoom: Zoom of the browser; 2 leaves half as many pixels of the page on either side, drawn twice as large.
        width: Width of the window in pixels of the screen.
        height: Its height.

    Returns:
        The page, and the window to close afterwards.
    """
    context = browser.new_context(
        viewport={"width": round(width / zoom), "height": round(height / zoom)},
        device_scale_factor=zoom,
        accept_downloads=True,
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    opened = NotebookPage(page=page, path=notebook, screenshots=screenshots)
    _keep_inside(context, opened.outside)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("console", lambda message: _note_complaint(message, opened.errors))
    place = notebook.relative_to(server.root).as_posix()
    page.goto(f"{server.url}/doc/tree/{place}?token={server.token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    wait_for_kernel(page)
    return opened, context


def wait_for_kernel(page: Page, *, timeout_s: float = 120) -> None:
    """Wait until the kernel of the notebook is connected and idle.

    The sign in the toolbar says idle before there is a kernel, too; JupyterLab itself knows.
    """
    page.wait_for_function(
        """() => {
            const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
            const kernel = context?.session?.kernel;
            return context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
        }""",
        polling=100,
        timeout=1000 * timeout_s,
    )


def parameterised_copy(notebook: Path, folder: Path, parameters: dict[str, Any]) -> Path:
    """Copy a notebook with other values in its parameters, as papermill would run it; nothing is executed."""
    import papermill

    target = folder / notebook.name
    if not parameters:
        shutil.copyfile(notebook, target)
    else:
        papermill.execute_notebook(str(notebook), str(target), parameters, prepare_only=True, progress_bar=False)
    return target


def notebook_of_cells(path: Path, sources: Sequence[str]) -> Path:
    """Write a notebook that holds these code cells."""
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[nbformat.v4.new_code_cell(source) for source in sources],
    )
    nbformat.write(notebook, path)
    return path


def _keep_inside(context: BrowserContext, outside: list[str]) -> None:
    """Let requests to this machine through, make every other fail, and note it."""

    def decide(route: Route) -> None:
        if _stays_inside(route.request.url):
            route.fallback()
        else:
            outside.append(route.request.url)
            route.abort()

    context.route("**/*", decide)
    context.on("request", lambda request: None if _stays_inside(request.url) else outside.append(request.url))


def _stays_inside(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in {"data", "blob", "about"} or parts.hostname in LOOPBACK


def _note_complaint(message: Any, errors: list[str]) -> None:
    if message.type == "error" and not _LABS_OWN_COMPLAINTS.search(message.text):
        errors.append(message.text)


OpenNotebook = Callable[..., NotebookPage]
