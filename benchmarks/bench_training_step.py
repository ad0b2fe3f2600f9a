"""Images a second of one training step: small networks, the whole step of IR-SE-50, and a GPU where there is one.

Run: python -m benchmarks.bench_training_step [--parts small large gpu] [--threads 1 2] [--rounds 8]

Small: forward, backward and SGD of a backbone on this CPU. Large: IR-SE-50 at 112x112 with 10,572 prototypes, ArcFace
and the Inter-Prototype loss, a plain step beside the library's, each side in a process of its own. The sides are timed
in turns, so that other work on the machine disturbs all of them alike. Compare within one table only.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import training_step_gpu
from benchmarks.training_step_side import SIDES
from interproto_lib.models import build_backbone, count_multiply_adds, count_parameters

STEPS_PER_TURN = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to train one backbone."""

    backbone: str
    image_size: int
    embedding_dim: int
    batch: int
    channels_last: bool
    bfloat16: bool


def cases(batch: int) -> list[Case]:
    """The table's rows."""
    kinds = [("tiny", 56, 64), ("small", 56, 128)]
    return [
        Case(
            backbone=name,
            image_size=size,
            embedding_dim=dim,
            batch=batch,
            channels_last=channels_last,
            bfloat16=bfloat16,
        )
        for name, size, dim in kinds
        for channels_last, bfloat16 in ((False, False), (True, False), (True, True))
    ]


def training_step(case: Case) -> Callable[[], None]:
    """One step of SGD (momentum 0.9, weight decay 5e-4) on fixed images, with a loss that costs nothing."""
    torch.manual_seed(0)
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    backbone = build_backbone(
        case.backbone, embedding_dim=case.embedding_dim, image_size=case.image_size, dropout=None
    ).to(memory_format=memory_format)
    images = torch.rand(case.batch, 3, case.image_size, case.image_size).mul_(2).sub_(1)
    images = images.contiguous(memory_format=memory_format)
    gradient = torch.randn(case.batch, case.embedding_dim) / case.batch
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.bfloat16):
            embeddings = backbone(images)
        embeddings.float().backward(gradient)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def images_per_second(rows: list[Case], *, n_rounds: int) -> list[float]:
    """Time all rows in turns; the fastest turn of each counts."""
    steps = [training_step(row) for row in rows]
    for step in steps:
        step()
        step()
    best = [float("inf")] * len(rows)
    for _ in range(n_rounds):
        for position, step in enumerate(steps):
            start = time.perf_counter()
            for _ in range(STEPS_PER_TURN):
                step()
            best[position] = min(best[position], (time.perf_counter() - start) / STEPS_PER_TURN)
    return [row.batch / seconds for row, seconds in zip(rows, best, strict=True)]


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"torch {torch.__version__}, {model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"


class Side:
    """A process that makes a whole step of IR-SE-50 whenever it is asked to."""

    def __init__(self, name: str, *, batch: int, n_threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.training_step_side", name, str(batch), str(n_threads)]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self) -> tuple[float, float]:
        """Seconds of a step: by the clock, and of the processor."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A side of the benchmark ended with exit code {self._process.wait()}.")
        clock, processor = (float(number) for number in line.split())
        return clock, processor

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def large_steps(batch: int, *, n_threads: int, n_rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each side's steps, (n_rounds, 2): by the clock and of the processor; a first step is not counted."""
    sides = {name: Side(name, batch=batch, n_threads=n_threads) for name in SIDES}
    try:
        for side in sides.values():
            side.step()
        turns = [[side.step() for side in sides.values()] for _ in range(n_rounds)]
    finally:
        for side in sides.values():
            side.close()
    return {name: np.array([turn[position] for turn in turns]) for position, name in enumerate(sides)}


def report_large(batch: int, *, n_threads: int, n_rounds: int) -> None:
    """Print the table of whole steps: medians, and the median and range of the ratios of turns side by side."""
    found = large_steps(batch, n_threads=n_threads, n_rounds=n_rounds)
    print(f"\nIR-SE-50, 112x112, batch {batch}, {n_threads} threads, load {os.getloadavg()[0]:.1f}, {n_rounds} turns")
    print(
        f"{'seconds: best':>14} {'median':>7} {'ratio (range)':>22} {'of best':>8} {'processor':>10} {'ratio':>6}  side"
    )
    for name, seconds in found.items():
        ratios = found["plain"][:, 0] / seconds[:, 0]
        of_processor = np.median(found["plain"][:, 1] / seconds[:, 1])
        of_best = found["plain"][:, 0].min() / seconds[:, 0].min()
        print(
            f"{seconds[:, 0].min():14.2f} {np.median(seconds[:, 0]):7.2f} "
            f"{f'{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})':>22} {of_best:8.2f} "
            f"{np.median(seconds[:, 1]):10.2f} {of_processor:6.2f}  {SIDES[name]}"
        )


def report_small(batch: int, *, threads: list[int], n_rounds: int) -> None:
    """Print the table of small networks."""
    rows = cases(batch)
    for row in rows[::3]:
        backbone = build_backbone(row.backbone, embedding_dim=row.embedding_dim, image_size=row.image_size)
        print(
            f"{row.backbone}: {row.image_size}x{row.image_size}, d = {row.embedding_dim}, "
            f"{count_parameters(backbone):,} parameters, "
            f"{count_multiply_adds(backbone, row.image_size) / 1e6:,.1f} M multiply-adds an image"
        )
    header = f"{'backbone':10} {'batch':>5} {'threads':>7} {'layout':14} {'precision':9} {'images/s':>9} {'ratio':>6}"
    print(f"\n{header}   (ratio: to contiguous float32 of the same backbone and threads)")
    for n_threads in threads:
        torch.set_num_threads(n_threads)
        speeds = images_per_second(rows, n_rounds=n_rounds)
        for position, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
            layout = "channels-last" if row.channels_last else "contiguous"
            precision = "bfloat16" if row.bfloat16 else "float32"
            ratio = speed / speeds[position // 3 * 3]
            print(
                f"{row.backbone:10} {row.batch:5d} {n_threads:7d} {layout:14} {precision:9} {speed:9.1f} {ratio:6.2f}"
            )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ["small", "large", "gpu"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to time")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch of the small networks")
    parser.add_argument("--large-batch", type=int, nargs="+", default=[16, 32], help="the same of IR-SE-50 on the CPU")
    parser.add_argument("--gpu-batch", type=int, default=512, help="the same on a GPU")
    parser.add_argument("--gpu-steps", type=int, default=40, help="steps timed on a GPU")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that read files for the GPU")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each case")
    chosen = parser.parse_args()

    print(describe_machine())
    if "small" in chosen.parts:
        report_small(chosen.batch, threads=chosen.threads, n_rounds=chosen.rounds)
    if "large" in chosen.parts:
        for n_threads in chosen.threads:
            for batch in chosen.large_batch:
                report_large(batch, n_threads=n_threads, n_rounds=chosen.rounds)
    if "gpu" in chosen.parts:
        training_step_gpu.report(batch=chosen.gpu_batch, n_steps=chosen.gpu_steps, workers=chosen.workers)


if __name__ == "__main__":
    main()
