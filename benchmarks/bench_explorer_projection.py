"""The projection and pair explorers in a headless Chromium without a GPU: frames a second, latencies, memory.

Run: python -m benchmarks.bench_explorer_projection [--sizes 400 10572 85742] [--pairs 100000] [--seconds 3]

The first picture is that of a cell run in JupyterLab: from the command to both panels drawn. All else is measured in a
page that stands alone, without a kernel: nothing of it asks one. Frames a second depend on what else the machine does;
the processor time that the page's main thread spends on a frame does so less, and 1000 over it bounds the frames of an
idle machine; so does the time of all of Chromium's threads. Chromium is the one that CHROMIUM names, or that is on the
path; without it nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from find_chromium import find_chromium, why_none
from lab_pages import notebook_of_cells, open_page
from shimmed_page import write_page

from interproto_lib.views.explorer.pair_explorer import PairExplorer
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer

DRAG = """async ([kind, seconds]) => {
    const {panel} = document.querySelector('#here').projectionView.panels[0];
    const box = panel.overlay.getBoundingClientRect();
    const at = (x, y) => ({clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true});
    const fire = (name, x, y, more = {}) => panel.overlay.dispatchEvent(
        new (name === 'wheel' ? WheelEvent : PointerEvent)(name, {...at(x, y), pointerId: 1, button: 0, ...more}));
    panel.overlay.setPointerCapture = () => null;
    const frame = () => new Promise(requestAnimationFrame);
    const begin = performance.now();
    const [draws, times] = [[], []];
    if (kind !== 'hover' && kind !== 'zoom') fire('pointerdown', 0.5, 0.5, {shiftKey: kind === 'lasso'});
    let [frames, last] = [panel.frames, begin];
    for (let k = 0; performance.now() - begin < 1000 * seconds; k++) {
        const [x, y] = [0.5 + 0.3 * Math.sin(k / 9), 0.5 + 0.3 * Math.cos(k / 7)];
        if (kind === 'zoom') fire('wheel', 0.45, 0.55, {deltaY: k % 60 < 30 ? -100 : 100, cancelable: true});
        else fire('pointermove', x, y);
        await frame();
        draws.push(panel.lastDrawMs);
        const now = performance.now();
        times.push(now - last);
        last = now;
    }
    const elapsed = performance.now() - begin;
    const released = performance.now();
    if (kind !== 'hover' && kind !== 'zoom') fire('pointerup', 0.5, 0.5);
    await frame(); await new Promise((done) => setTimeout(done));
    times.sort((a, b) => a - b); draws.sort((a, b) => a - b);
    return {fps: 1000 * times.length / elapsed, drawn: panel.frames - frames, n: times.length,
            late: times[Math.floor(0.95 * times.length)], draw: draws[draws.length >> 1],
            release: performance.now() - released};
}"""

CHANGE = """async ([name, value]) => {
    const begin = performance.now();
    window.model.set(name, value);
    await new Promise(requestAnimationFrame);
    await new Promise((done) => setTimeout(done));
    return performance.now() - begin;
}"""

MOVE = """async (n) => {
    const view = document.querySelector('#here').pairsView;
    const found = [];
    for (let k = 0; k < n; k++) {
        const begin = performance.now();
        view.moveThreshold(0, view.low + (0.1 + 0.8 * k / n) * (view.high - view.low));
        await new Promise(requestAnimationFrame);
        await new Promise((done) => setTimeout(done));
        found.push([performance.now() - begin, view.lastUpdateMs]);
    }
    return found;
}"""


LAB_CELLS = (
    """from benchmarks.bench_explorer_projection import ProjectionExplorer, points_in_clusters
points, table = points_in_clusters({n})""",
    "ProjectionExplorer(points, table)",
)

LISTEN = """() => document.addEventListener('interproto:drawn', ({target}) => {
    if (!window.drawn.has(target)) window.drawn.set(target, performance.now());
})"""

RUN_AND_DRAW = """async () => {
    window.drawn = new Map();  // panel -> when its first picture was there
    const begin = performance.now();
    await window.jupyterapp.commands.execute('notebook:run-cell');
    while (window.drawn.size < 2) await new Promise(requestAnimationFrame);
    return (Math.max(...window.drawn.values()) - begin) / 1000;
}"""


def points_in_clusters(n: int) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Points of identities in clusters of about sixty, in two runs, and their table."""
    rng = np.random.default_rng(0)
    members = rng.integers(0, max(8, n // 60), n)
    centres = rng.normal(size=(2, members.max() + 1, 2)) * 10
    points = (centres[:, members] + 0.5 * rng.normal(size=(2, n, 2))).astype(np.float32)
    is_child = members % 7 == 0
    table = pd.DataFrame(
        {
            "identity": [f"id{i:06d}" for i in range(n)],
            "is_child": is_child,
            "age_years": np.where(is_child, rng.uniform(3, 12, n), rng.uniform(18, 70, n)),
            "n_images": rng.integers(3, 300, n),
        }
    )
    return {"UMAP": {"baseline": points[0], "treated": points[1]}}, table


def projection_explorer(n: int) -> ProjectionExplorer:
    """The explorer of such points, with confusion."""
    rng = np.random.default_rng(1)
    explorer = ProjectionExplorer(*points_in_clusters(n))
    explorer.map.set_confusion(rng.uniform(0.2, 0.8, (2, n)), rng.integers(0, n, (2, n)))
    return explorer


def pair_explorer(m: int) -> PairExplorer:
    """Two runs on m pairs of all ages."""
    rng = np.random.default_rng(0)
    same = rng.random(m) < 0.5
    table: dict[str, Any] = {f"{side}_age_years": rng.uniform(2, 70, m) for side in ("left", "right")}
    table |= {side: np.char.add(side, np.arange(m).astype(str)) for side in ("left", "right")}
    table |= {f"{side}_identity": rng.integers(0, 900, m).astype(str) for side in ("left", "right")}
    scores = {
        run: np.where(same, rng.normal(mean, 0.15, m), rng.normal(0.05, 0.12, m)).clip(-1, 1)
        for run, mean in (("baseline", 0.5), ("treated", 0.6))
    }
    return PairExplorer({"pairs": pd.DataFrame(table).assign(same=same)}, {"pairs": scores})


def first_pictures_in_lab(server: Any, browser: Any, n: int, times: int = 3) -> list[float]:
    """Seconds from the command that runs the cell to the picture of both panels."""
    folder = server.root / f"projection{n}"
    folder.mkdir()
    notebook = notebook_of_cells(folder / "cells.ipynb", [cell.format(n=n) for cell in LAB_CELLS])
    shown, context = open_page(server, browser, notebook, screenshots=folder)
    shown.run_cell(0, timeout_s=240)
    shown.page.evaluate(LISTEN)
    found = []
    for _ in range(times):
        shown.page.locator(".jp-CodeCell .cm-content").nth(1).click()
        found.append(float(shown.page.evaluate(RUN_AND_DRAW)))
    shown.kill_kernel()
    context.close()
    return found


def opened(browser: Any, widget: Any, folder: Path, scale: float = 1.0) -> tuple[Any, float]:
    """A page with the widget, and the seconds until it is drawn."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, device_scale_factor=scale)
    page = context.new_page()
    file = write_page(widget, folder / "page.html")
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_function("window.ready")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return page, time.perf_counter() - start


def memory_mib(session: Any) -> float:
    """Memory of the page's script, its arrays included."""
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    parts = ("usedSize", "embedderHeapUsedSize", "backingStorageSize")
    return sum(usage.get(part, 0) for part in parts) / 2**20


def all_threads_s() -> float:
    """Processor time of all processes that this one has started, the browser's, which live while it is measured."""
    children: dict[int, list[int]] = {}
    taken: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        taken[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    own = children.get(os.getpid(), [])
    for process in own:
        own.extend(children.get(process, []))
    return sum(taken[process] for process in own)


def main_thread_s(session: Any) -> float:
    """Processor time that the page's main thread has taken."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def measure_projection(page: Any, n: int, seconds: float) -> None:
    """Print a row for each thing that a hand does."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    side = page.evaluate("() => document.querySelector('canvas').width")
    start = f"| {n:,} | {side}² | {memory_mib(session):.0f} |"
    for kind in ("move", "zoom", "hover", "lasso"):
        before, all_before = main_thread_s(session), all_threads_s()
        found = page.evaluate(DRAG, [kind, seconds])
        taken = 1000 * (main_thread_s(session) - before) / found["n"]
        of_all = 1000 * (all_threads_s() - all_before) / found["n"]
        print(f"{start} {kind} | {found['fps']:.0f} | {found['late']:.0f} | {taken:.1f} | {of_all:.1f} |", flush=True)
        if kind == "lasso":
            print(f"| | | | the lasso ends, its selection is drawn | | {found['release']:.0f} | | |")
    for value in ("age_years", "confusion", "kind"):
        print(f"| | | | colour by {value} | | {page.evaluate(CHANGE, ['colouring', value]):.0f} | | |", flush=True)


def measure_pairs(page: Any, explorer: PairExplorer, first: float) -> None:
    """Print how long a moved threshold takes in the page and in the kernel."""
    moved = np.array(page.evaluate(MOVE, 100))
    scores, times = explorer._sorted["pairs", "baseline"], []
    for threshold in np.linspace(-0.2, 0.9, 50):
        start = time.perf_counter()
        scores.rates(threshold)
        times.append(1000 * (time.perf_counter() - start))
    m, memory = len(explorer.pairs["pairs"]), memory_mib(page.context.new_cdp_session(page))
    print(f"\n{m:,} pairs, two runs: first picture {first:.2f} s, page {memory:.0f} MiB")
    print("\n| threshold moved | median, ms | 95 % within, ms |\n|---|---:|---:|")
    of = {"until the next frame": moved[:, 0], "the page's own work": moved[:, 1], "rates in the kernel": times}
    for name, values in of.items():
        print(f"| {name} | {np.median(values):.1f} | {np.quantile(values, 0.95):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[400, 10_572, 85_742])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        print(f"Not measured: {why_none()}.")
        return
    from playwright.sync_api import sync_playwright

    from benchmarks.bench_explorer import lab_server

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        print("| identities | first picture in JupyterLab, s |\n|---:|---:|")
        with lab_server(Path(folder)) as server:
            for n in options.sizes:
                found = first_pictures_in_lab(server, browser, n)
                print(f"| {n:,} | {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}) |", flush=True)
        print(
            "\n| identities | pixels | MiB | doing | frames/s | 95 % within, ms | main thread, ms a frame | "
            "all threads, ms a frame |"
        )
        print("|---:|---:|---:|---|---:|---:|---:|---:|", flush=True)
        for n in options.sizes:
            widget = projection_explorer(n).map
            for scale in (1.0, 2.0):
                page, _ = opened(browser, widget, Path(folder), scale)
                measure_projection(page, n, options.seconds)
                page.context.close()
        explorer = pair_explorer(options.pairs)
        page, first = opened(browser, explorer.view, Path(folder))
        measure_pairs(page, explorer, first)
        browser.close()


if __name__ == "__main__":
    main()
