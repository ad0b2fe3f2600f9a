"""The similarity map in JupyterLab, seen from a headless Chromium: what a person waits for, frames a second, memory.

Run: python -m benchmarks.bench_explorer [--sizes 200 10572 85742] [--seconds 3]

Two runs and their difference, d = 512, three linked maps. Everything passes through JupyterLab and a kernel as it does
for a person; times are those of the page's clock. Frames a second depend on what else the machine does; the processor
time of the page's main thread for a frame does so less, and 1000 over it bounds the frames of an idle machine. Chromium
is the one that CHROMIUM names, or that is on the path; without it nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests" / "browser"))

from find_chromium import find_chromium, why_none  # noqa: E402 (it stands beside the tests)
from lab_pages import LabServer, notebook_of_cells, open_page  # noqa: E402

CELLS = [
    """import os, numpy as np, ipywidgets
from benchmarks.bench_explorer_tiles import two_runs
from interproto_lib.views.explorer.similarity_map import Side, SimilarityMap
n = {n}
matrices = two_runs(n)
side = Side(names=[f"{{i:06d}}" for i in range(n)], kinds=(np.arange(n) % 5 == 0).astype(np.uint8))
def memory():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
before = memory()""",
    """shown = SimilarityMap(matrices, ["a", "b", "a - b"], side)
shown""",
    """button = ipywidgets.Button(description="another order")
rng = np.random.default_rng(0)
button.on_click(lambda _: shown.reorder(rng.permutation(n)))
button""",
    """print(before, memory())""",
]

LISTEN = """() => {
    window.measured = { tiles: [], drawn: 0, firstTile: null, lastTile: 0 };
    document.addEventListener('interproto:tiles', (event) => {
        measured.tiles.push(event.detail.milliseconds);
        measured.lastTile = performance.now();
        measured.firstTile ??= measured.lastTile;
    });
    document.addEventListener('interproto:drawn', () => measured.drawn++);
}"""

# Turns the wheel, or drags, once a frame, and counts the frames that were drawn.
MOVE = """async ([kind, seconds]) => {
    const canvas = document.querySelector('canvas.ip-matrix');
    canvas.focus();
    canvas.setPointerCapture = () => null;
    const box = canvas.getBoundingClientRect();
    const at = (x, y) => ({ clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true });
    const fire = (event) => canvas.dispatchEvent(event);
    const pointer = (name, x, y) => fire(new PointerEvent(name, { ...at(x, y), pointerId: 1, button: 0 }));
    measured.tiles = [];
    measured.drawn = 0;
    const begin = performance.now();
    if (kind === 'pan') pointer('pointerdown', 0.5, 0.5);
    for (let k = 0; performance.now() - begin < 1000 * seconds; k++) {
        const deltaY = k % 80 < 40 ? -40 : 40;
        if (kind === 'zoom') fire(new WheelEvent('wheel', { ...at(0.4, 0.6), deltaY, cancelable: true }));
        else pointer('pointermove', 0.5 + 0.3 * Math.sin(k / 9), 0.5 + 0.3 * Math.cos(k / 7));
        await new Promise(requestAnimationFrame);
    }
    if (kind === 'pan') pointer('pointerup', 0.5, 0.5);
    return [measured.drawn / ((performance.now() - begin) / 1000), measured.drawn, measured.tiles];
}"""

# Points at a cell, clicks it, and waits for its words.
CHOOSE = """async ([x, y]) => {
    const canvas = document.querySelector('canvas.ip-matrix');
    const line = document.querySelector('.ip-cell-line');
    canvas.setPointerCapture = () => null;
    const box = canvas.getBoundingClientRect();
    const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    const where = { ...place, bubbles: true, pointerId: 1, button: 0 };
    const changed = new Promise((done) => new MutationObserver(done).observe(line, { childList: true }));
    const begin = performance.now();
    for (const name of ['pointerdown', 'pointerup']) canvas.dispatchEvent(new PointerEvent(name, where));
    await changed;
    return performance.now() - begin;
}"""


@contextmanager
def lab_server(folder: Path) -> Iterator[LabServer]:
    """A JupyterLab in a folder of its own."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    token = secrets.token_hex(8)
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    places |= {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = {**os.environ, **{name: str(folder / place) for name, place in places.items()}}
    environment["PYTHONPATH"] = str(REPO)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--port-retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True"),
    ]
    log = folder / "lab.log"
    with log.open("w") as written:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=written, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield LabServer(url=url, token=token, root=folder, log=log)
        finally:
            server.terminate()
            server.wait(30)


def measure(server: LabServer, browser: Any, n: int, seconds: float) -> None:
    """Print one row of the table."""
    folder = server.root / str(n)
    folder.mkdir()
    notebook = notebook_of_cells(folder / "cells.ipynb", [cell.format(n=n) for cell in CELLS])
    opened, context = open_page(server, browser, notebook, screenshots=folder)
    page = opened.page
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.evaluate(LISTEN)
    opened.run_cell(0, timeout_s=240)
    begin = page.evaluate("performance.now()")
    opened.run_cell(1, timeout_s=120)
    page.wait_for_function("measured.firstTile !== null", timeout=60_000)
    first = page.evaluate("measured.firstTile") - begin
    opened.run_cell(2)
    page.locator("canvas.ip-matrix").first.scroll_into_view_if_needed()
    moves = {}
    for kind in ("zoom", "pan"):
        cpu = _main_thread_s(session)
        rate, drawn, tiles = page.evaluate(MOVE, [kind, seconds])
        moves[kind] = rate, 1000 * (_main_thread_s(session) - cpu) / max(1, drawn), tiles
        page.wait_for_timeout(500)
    choices = [page.evaluate(CHOOSE, [0.2 + 0.06 * k, 0.7 - 0.05 * k]) for k in range(8)]
    orders = []
    for _ in range(5):
        begin = page.evaluate("performance.now()")
        page.get_by_role("button", name="another order").evaluate("button => button.click()")
        page.wait_for_function("begin => measured.lastTile > begin", arg=begin, timeout=60_000)
        orders.append(page.evaluate("measured.lastTile") - begin)
        page.wait_for_timeout(400)
    opened.run_cell(3)
    before, after = (float(text) for text in page.locator(".jp-OutputArea-output pre").last.inner_text().split())
    tiles = sorted(moves["zoom"][2] + moves["pan"][2])
    late = tiles[int(0.95 * (len(tiles) - 1))]
    cells = [
        f"{n:,}",
        f"{first / 1000:.2f}",
        f"{statistics.median(tiles):.0f} ({late:.0f})",
        f"{statistics.median(choices):.0f}",
        f"{statistics.median(orders) / 1000:.2f}",
        *(f"{rate:.0f} ({cpu:.1f})" for rate, cpu, _ in moves.values()),
        f"{before:.0f} + {after - before:.0f}",
        f"{_page_mib(session):.0f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    opened.kill_kernel()
    context.close()


def _main_thread_s(session: Any) -> float:
    """Processor time that the page's main thread has taken."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def _page_mib(session: Any) -> float:
    """Memory of all scripts of the page, JupyterLab's included."""
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    parts = ("usedSize", "embedderHeapUsedSize", "backingStorageSize")
    return sum(usage.get(part, 0) for part in parts) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 10_572, 85_742])
    parser.add_argument("--seconds", type=float, default=3.0, help="of zooming, and of panning")
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        print(f"Nothing measured: {why_none()}.")
        return
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    print(
        "| identities | first picture, s | tile, ms (19 of 20 within) | choose, ms | another order, s | zoom, frames/s "
        "(ms of the page's thread a frame) | pan, the same | kernel, MiB: tables and library + map | page, MiB |"
    )
    print("|---:" * 9 + "|")
    with tempfile.TemporaryDirectory() as folder, lab_server(Path(folder)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--disable-gpu", "--disable-dev-shm-usage", *sandbox]
        )
        for n in options.sizes:
            measure(server, browser, n, options.seconds)
        browser.close()


if __name__ == "__main__":
    main()
