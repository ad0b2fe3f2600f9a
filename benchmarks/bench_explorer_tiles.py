"""Tiles of linked similarity matrices in the kernel: time of a tile, of another order, of maxima; memory beside them.

Run: python -m benchmarks.bench_explorer_tiles [--sizes 200 10572 85742] [--threads 2] [--maxima]

Two runs and their difference, d = 512, 400 x 400 blocks: what one answer to the page costs, three pictures each. Beside
the time on the clock stands the processor time, which other work on the machine changes less. Maxima of 85,742
identities take minutes and are computed only with --maxima; without it a share of them is, and the whole estimated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from interproto_lib.views.explorer.orders import cluster_order, name_order, value_order
from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix

DIMENSION = 512
PIXELS = (400, 400)
TURNS = 5


def two_runs(n: int, seed: int = 0) -> LinkedMatrices:
    """Baseline, treated and their difference over n identities, one of which has no value."""
    rng = np.random.default_rng(seed)
    terms = []
    for _ in range(2):
        rows = rng.standard_normal((n, DIMENSION), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows[n // 2] = np.nan
        terms.append(MatrixTerm(rows=rows, columns=rows))
    minus = MatrixTerm(rows=terms[1].rows, columns=terms[1].columns, weight=-1.0)
    own = np.full(n, 0.5, dtype=np.float32)
    return LinkedMatrices([TermMatrix(terms=t, own_values=own) for t in ((terms[0],), (terms[1],), (terms[0], minus))])


def timed(call: Callable[[], object], turns: int = TURNS) -> tuple[float, float]:
    """Median milliseconds on the clock and of the processor."""
    clock, processor = [], []
    for _ in range(turns):
        start, cpu = time.perf_counter(), time.process_time()
        call()
        clock.append(1000 * (time.perf_counter() - start))
        processor.append(1000 * (time.process_time() - cpu))
    return statistics.median(clock), statistics.median(processor)


def row(name: str, n: int, times: tuple[float, float] | None) -> None:
    shown = "| |" if times is None else f"{times[0]:,.0f} | {times[1]:,.0f} |"
    print(f"| {n:,} | {name} | {shown}", flush=True)


def measure_tiles(n: int, whole_maxima: bool) -> None:
    """Print what each thing costs that a person asks for."""
    linked = two_runs(n)
    matrices = linked._matrices
    row("open (check the tables)", n, timed(lambda: LinkedMatrices(matrices), 1))
    whole = (0.0, float(n))
    row("first picture, whole matrix", n, timed(lambda: linked.tile(whole, whole, PIXELS), 1))
    rng = np.random.default_rng(1)
    for name, size in (("whole matrix", n), ("a third a side", n // 3), ("1,500 a side", 1500), ("100 a side", 100)):
        if size <= n:

            def tile(size: int = size) -> None:
                first, second = rng.uniform(0, n - size, 2)
                linked.tile((first, first + size), (second, second + size), PIXELS)

            row(f"tile, {name}", n, timed(tile))

    def reorder() -> None:
        linked.reorder(rng.permutation(n))
        linked.tile(whole, whole, PIXELS)

    row("another order and its picture", n, timed(reorder))
    row("similarity to an identity, all values", n, timed(lambda: linked.values(0, np.arange(n))))
    row("order by a number", n, timed(lambda: value_order(rng.random(n))))
    names = [f"{i:06d}" for i in rng.permutation(n)]
    row("order by name", n, timed(lambda: name_order(names)))
    row("order by cluster (in the background)", n, timed(lambda: cluster_order(matrices[0].terms[0].rows), 1))
    kept = linked.nbytes / 2**20
    size = min(n, 1000)
    row(f"maxima, {size:,} a side", n, timed(lambda: linked.tile((0, size), (0, size), PIXELS, pooling="max")))
    measure_maxima(linked, n, whole_maxima or n < 20_000)
    maxima = linked.nbytes / 2**20 - kept
    tables = sum(m.terms[0].rows.nbytes for m in matrices[:2]) / 2**20
    row(f"memory: tables {tables:.0f} MiB, beside them {kept:.0f} MiB, maxima {maxima:.0f} MiB", n, None)


def measure_maxima(linked: LinkedMatrices, n: int, whole: bool, *, share_s: float = 20.0) -> None:
    """All maxima, or as many as fit into some seconds and the time of all by their share."""
    last = (0, 1)

    def report(done: int, of: int) -> None:
        nonlocal last
        last = (done, of)

    start, cpu = time.perf_counter(), time.process_time()
    linked.start_maxima(report)
    linked.wait_for_maxima(None if whole else share_s)
    clock, processor = 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - cpu)
    if linked.tile((0, n), (0, n), PIXELS, pooling="max").pooling == "max":
        row("all maxima (in the background)", n, (clock, processor))
        row("tile of maxima, whole matrix", n, timed(lambda: linked.tile((0, n), (0, n), PIXELS, pooling="max")))
    else:
        linked.stop_maxima()
        factor = last[1] / max(1, last[0])
        row(f"all maxima, by {last[0] / last[1]:.1%} of them", n, (clock * factor, processor * factor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 10_572, 85_742])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--maxima", action="store_true", help="compute all maxima, however long it takes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("Two runs and their difference, 400 x 400 blocks, milliseconds\n")
    print("| identities | what | clock | processor |\n|---:|---|---:|---:|")
    for n in options.sizes:
        measure_tiles(n, options.maxima)


if __name__ == "__main__":
    main()
