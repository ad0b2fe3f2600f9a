"""One step on prototypes that are spread over processes: exact softmax, or partial FC, and the update.

Run: python -m benchmarks.bench_prototypes [--identities 2500000] [--processes 2] [--dimension 64] [--batch 64]

Each case runs in processes of its own. Memory is the highest that a process came to, less what it had before it made
its prototypes. A first line compares loss and gradients with one process that keeps all logits, where they are few.
"""

from __future__ import annotations

import argparse
import datetime
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from benchmarks.bench_losses import highest_bytes
from interproto_lib.config import TrainConfig
from interproto_lib.losses import RowSGD, build_head, inter_prototype_loss
from interproto_lib.losses.ranks import rank, shard_rows, world_size

SMALL = 2_000
"""Identities of the comparison with one process."""


def settings(options: argparse.Namespace, rate: float) -> TrainConfig:
    return TrainConfig(
        margin_loss="arcface",
        embedding_dim=options.dimension,
        softmax_chunk=options.chunk,
        partial_fc_rate=rate,
    )


def batch(n: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(options.batch, options.dimension, generator=generator)
    return embeddings, torch.randint(0, n, (options.batch,), generator=generator)


def shard(n: int, dimension: int, rows: range) -> Tensor:
    """Rows of prototypes that do not depend on who makes them, a piece at a time."""
    found = torch.empty(len(rows), dimension)
    size = 100_000
    for piece in range(rows.start // size, -(-rows.stop // size)):
        drawn = torch.randn(size, dimension, generator=torch.Generator().manual_seed(piece))
        first, last = max(piece * size, rows.start), min((piece + 1) * size, rows.stop)
        found[first - rows.start : last - rows.start] = drawn[first - piece * size : last - piece * size]
    return found


def losses(n: int, rate: float, options: argparse.Namespace, leaf: Tensor, prototypes: Tensor) -> Tensor:
    """ArcFace, and where all prototypes are looked at the Inter-Prototype loss of all of them."""
    config, rows = settings(options, rate), shard_rows(n, world_size(), rank())
    labels = batch(n, options)[1].chunk(world_size())[rank()]
    loss = build_head(config)(leaf, prototypes, labels, rows=rows).loss
    if rate == 1:
        loss = loss + inter_prototype_loss(prototypes, reduction="mean", n_total=n)
    return loss


def work(number: int, n: int, rate: float, options: argparse.Namespace, folder: str) -> None:
    """Body of each process: some steps; what was measured goes into a file."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // options.processes))
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=number,
        world_size=options.processes,
        timeout=datetime.timedelta(minutes=10),
    )
    rows = shard_rows(n, options.processes, number)
    leaf = batch(n, options)[0].chunk(options.processes)[number].requires_grad_()
    before = highest_bytes()
    prototypes = torch.nn.Parameter(shard(n, options.dimension, rows))
    optimizer: torch.optim.Optimizer = (
        RowSGD([prototypes], 0.1, momentum=0.9, weight_decay=5e-4)
        if rate < 1
        else torch.optim.SGD([prototypes], 0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    )
    fastest, least_work = float("inf"), float("inf")
    for _ in range(options.steps):
        optimizer.zero_grad()
        torch.distributed.barrier()
        started, worked = time.perf_counter(), time.process_time()
        loss = losses(n, rate, options, leaf, prototypes)
        loss.backward()
        optimizer.step()
        least_work = min(least_work, time.process_time() - worked)
        torch.distributed.barrier()
        fastest = min(fastest, time.perf_counter() - started)
    result = {
        "loss": loss.item(),
        "seconds": fastest,
        "processor_seconds": least_work,
        "bytes": highest_bytes() - before,
        "gradients": (leaf.grad, prototypes.grad) if n == SMALL else None,
    }
    torch.save(result, Path(folder) / f"{number}.pt")
    torch.distributed.destroy_process_group()


def measure(n: int, rate: float, options: argparse.Namespace) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (n, rate, options, folder), nprocs=options.processes)
        return [torch.load(Path(folder) / f"{number}.pt") for number in range(options.processes)]


def compare(options: argparse.Namespace) -> str:
    """Largest differences from one process that keeps all logits and takes all pairs of prototypes."""
    results = measure(SMALL, 1.0, argparse.Namespace(**{**vars(options), "steps": 1}))
    leaf, labels = batch(SMALL, options)
    prototypes = shard(SMALL, options.dimension, range(SMALL)).requires_grad_()
    dense = argparse.Namespace(**{**vars(options), "chunk": 0})
    loss = build_head(settings(dense, 1.0))(leaf.requires_grad_(), prototypes, labels).loss
    loss = loss + inter_prototype_loss(prototypes, reduction="mean", form="pairs")
    loss.backward()
    of_loss = abs(results[0]["loss"] / loss.item() - 1)
    of_embeddings, of_prototypes = (
        difference(torch.cat([result["gradients"][place] for result in results]) / factor, whole)
        for place, whole, factor in ((0, leaf, options.processes), (1, prototypes, 1))
    )
    return (
        f"{SMALL:,} identities, {options.processes} processes against one that keeps all logits, relative differences: "
        f"loss {of_loss:.0e}, gradients of embeddings {of_embeddings:.0e}, of prototypes {of_prototypes:.0e}"
    )


def difference(gradient: Tensor, whole: Tensor) -> float:
    assert whole.grad is not None
    return float((gradient - whole.grad).norm() / whole.grad.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, nargs="+", default=[625_000, 1_250_000, 2_500_000])
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="images, over all processes")
    parser.add_argument("--chunk", type=int, default=16_384, help="prototypes at a time")
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()

    print(compare(options), flush=True)
    print(
        f"\nOne step of ArcFace, with the Inter-Prototype loss of all prototypes where the share is 1; "
        f"batch {options.batch}, d = {options.dimension}, {options.processes} processes, "
        f"{options.chunk:,} prototypes at a time\n"
    )
    print("| identities | share | seconds | processor seconds a process | GiB a process | of them prototypes |")
    print("|---:|---:|---:|---:|---:|---:|")
    for rate in options.rates:
        for n in options.identities:
            results = measure(n, rate, options)
            memory = max(result["bytes"] for result in results) / 2**30
            held = 4 * options.dimension * -(-n // options.processes) / 2**30
            seconds, work_of_one = (max(r[name] for r in results) for name in ("seconds", "processor_seconds"))
            print(f"| {n:,} | {rate:g} | {seconds:.1f} | {work_of_one:.1f} | {memory:.2f} | {held:.2f} |", flush=True)


if __name__ == "__main__":
    main()
