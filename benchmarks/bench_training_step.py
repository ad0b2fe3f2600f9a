"""Images a second of one training step on this CPU: forward, backward and SGD of a backbone.

Run: python benchmarks/bench_training_step.py [--large] [--threads 1 2] [--batch 64] [--rounds 8]

All cases of one thread count are timed in turns, round after round, and the fastest turn of each counts, so that other
work on the machine disturbs all of them alike. Compare within one table only.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

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


def cases(batch: int, *, large: bool) -> list[Case]:
    """The table's rows; `large` adds IR-SE-50 at 112x112."""
    kinds = [("tiny", 56, 64, batch), ("small", 56, 128, batch)]
    if large:
        kinds.append(("ir_se50", 112, 512, 4))
    return [
        Case(backbone=name, image_size=size, embedding_dim=dim, batch=n, channels_last=channels_last, bfloat16=bfloat16)
        for name, size, dim, n in kinds
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to time")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each case; the fastest counts")
    parser.add_argument("--large", action="store_true", help="also IR-SE-50 at 112x112, batch 4")
    settings = parser.parse_args()

    print(describe_machine())
    rows = cases(settings.batch, large=settings.large)
    for row in rows[::3]:
        backbone = build_backbone(row.backbone, embedding_dim=row.embedding_dim, image_size=row.image_size)
        print(
            f"{row.backbone}: {row.image_size}x{row.image_size}, d = {row.embedding_dim}, "
            f"{count_parameters(backbone):,} parameters, "
            f"{count_multiply_adds(backbone, row.image_size) / 1e6:,.1f} M multiply-adds an image"
        )
    header = f"{'backbone':10} {'batch':>5} {'threads':>7} {'layout':14} {'precision':9} {'images/s':>9} {'ratio':>6}"
    print(f"\n{header}   (ratio: to contiguous float32 of the same backbone and threads)")
    for n_threads in settings.threads:
        torch.set_num_threads(n_threads)
        speeds = images_per_second(rows, n_rounds=settings.rounds)
        for position, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
            layout = "channels-last" if row.channels_last else "contiguous"
            precision = "bfloat16" if row.bfloat16 else "float32"
            ratio = speed / speeds[position // 3 * 3]
            print(
                f"{row.backbone:10} {row.batch:5d} {n_threads:7d} {layout:14} {precision:9} {speed:9.1f} {ratio:6.2f}"
            )


if __name__ == "__main__":
    main()
