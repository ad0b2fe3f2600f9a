"""Both forms of the Inter-Prototype loss, and the margin losses, against plain implementations in the same run.

Run: python -m benchmarks.bench_losses [--threads 2] [--rounds 5]

Forward and backward together; all cases of one size are timed in turns and the fastest turn of each counts. Memory is
the highest that a process of its own came to, less what it had before it made the prototypes, their gradient included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from interproto_lib.losses import inter_prototype_loss, margin_softmax_loss

DIMENSION = 512
IDENTITIES = (229, 1148, 10_575, 85_742)
MOST_PAIRS_BYTES = 1 << 30
"""The pairs form holds three n x n matrices at its peak; above one GiB each it is skipped."""


def plain_inter_prototype_loss(prototypes: Tensor) -> Tensor:
    """The formula as one would first write it: n x n cosines, differentiated automatically."""
    unit = F.normalize(prototypes)
    cosines = unit @ unit.T
    return cosines.square().sum() - cosines.diagonal().square().sum()


def plain_arcface_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """ArcFace as one would first write it: angles of all classes, a one-hot mask."""
    mask = F.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
    angles = cosines.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    return F.cross_entropy(64 * (angles + 0.5 * mask).cos(), labels)


def seconds(function: Callable[[Tensor], Tensor], leaf: Tensor) -> float:
    leaf.grad = None
    start = time.perf_counter()
    function(leaf).backward()
    return time.perf_counter() - start


def fastest(functions: dict[str, Callable[[Tensor], Tensor]], leaf: Tensor, rounds: int) -> dict[str, float]:
    """Fastest of several turns of each function, taken in turns after one warm-up."""
    best = dict.fromkeys(functions, float("inf"))
    for turn in range(rounds + 1):
        for name, function in functions.items():
            taken = seconds(function, leaf)
            if turn:
                best[name] = min(best[name], taken)
    return best


def highest_bytes() -> int:
    """The most memory that this process has held; that of its parent, which getrusage can give, does not count."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_bytes(n: int) -> int:
    """Memory that the library's loss of n prototypes takes, forward and backward."""
    torch.set_num_threads(1)
    inter_prototype_loss(torch.randn(2 * DIMENSION, DIMENSION, requires_grad=True)).backward()
    before = highest_bytes()
    inter_prototype_loss(torch.randn(n, DIMENSION).requires_grad_()).backward()
    return highest_bytes() - before


def milliseconds(value: float | None) -> str:
    return "too large" if value is None else f"{1000 * value:.1f}"


def ratio(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one / other:.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)

    print(f"Inter-Prototype loss, forward + backward, d = {DIMENSION}, {options.threads} thread(s), milliseconds\n")
    print("| n | plain n x n | pairs | gram | auto takes | plain / auto | value, gram / pairs - 1 | memory, GiB |")
    print("|---:|---:|---:|---:|---|---:|---:|---:|")
    for n in IDENTITIES:
        prototypes = torch.randn(n, DIMENSION, generator=generator).requires_grad_()
        fits = 4 * n * n <= MOST_PAIRS_BYTES
        cases: dict[str, Callable[[Tensor], Tensor]] = {"gram": lambda w: inter_prototype_loss(w, form="gram")}
        if fits:
            cases["pairs"] = lambda w: inter_prototype_loss(w, form="pairs")
            cases["plain"] = plain_inter_prototype_loss
        best: dict[str, float] = fastest(cases, prototypes, options.rounds if n < 5000 else 2)
        auto = "gram" if n > DIMENSION else "pairs"
        agreement = ""
        if fits:
            with torch.no_grad():
                gram, pairs = (inter_prototype_loss(prototypes, form=form).item() for form in ("gram", "pairs"))
            agreement = f"{gram / pairs - 1:+.1e}"
        with multiprocessing.get_context("spawn").Pool(1) as process:
            memory = process.apply(peak_bytes, (n,)) / 2**30
        print(
            f"| {n:,} | {milliseconds(best.get('plain'))} | {milliseconds(best.get('pairs'))} "
            f"| {milliseconds(best['gram'])} | {auto} | {ratio(best.get('plain'), best.get(auto))} | {agreement} "
            f"| {memory:.2f} |",
            flush=True,
        )

    batch, n = 256, 10_575
    cosines = (torch.rand(batch, n, generator=generator) * 0.6 - 0.3).requires_grad_()
    labels = torch.randint(0, n, (batch,), generator=generator)
    kinds = ("normface", "cosface", "arcface")
    margin_cases: dict[str, Callable[[Tensor], Tensor]] = {
        kind: lambda c, kind=kind: margin_softmax_loss(c, labels, kind=kind)  # type: ignore[misc]
        for kind in kinds
    }
    margin_cases["plain arcface"] = lambda c: plain_arcface_loss(c, labels)
    best = fastest(margin_cases, cosines, options.rounds)
    print(f"\nMargin losses on given cosines, forward + backward, batch {batch}, {n:,} classes, milliseconds\n")
    print("| loss | ms | plain arcface / this |\n|---|---:|---:|")
    for name, value in best.items():
        print(f"| {name} | {milliseconds(value)} | {ratio(best['plain arcface'], value)} |")


if __name__ == "__main__":
    main()
