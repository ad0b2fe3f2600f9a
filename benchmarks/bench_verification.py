"""Threshold search, curves and identification: seconds, memory, and the ratio to the plain ways.

Run: python -m benchmarks.bench_verification [--pairs 10000000] [--gallery 200000] [--threads 2] [--skip-identification]

The plain threshold search compares every score with each of 400 thresholds, for each of 10 folds, as insightface's
code does; both sides run on the same, smaller number of pairs. The plain identification makes the whole matrix of
cosines and sorts it; again on a smaller gallery. The large gallery runs in a process of its own, memory-mapped from a
file that is removed afterwards; its peak memory counts the pages of that file, which the system can take back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from interproto_lib.analysis import (
    best_threshold_accuracy,
    equal_error_rate,
    identification_ranks,
    insightface_accuracy_of_distances,
    rank_accuracy,
    roc_curve,
    tar_at_far,
    ten_fold_accuracy,
)

DIMENSION = 512
N_PROBES = 1000
PLAIN_PAIRS = 100_000
PLAIN_GALLERY = 20_000


def make_scores(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of m pairs, half of them of the same person."""
    rng = np.random.default_rng(0)
    same = rng.random(m) < 0.5
    return (0.15 * rng.standard_normal(m, dtype=np.float32) + np.float32(0.4) * same).clip(-1, 1), same


def plain_ten_fold(distances: np.ndarray, same: np.ndarray) -> float:
    """Every distance against every threshold, in every fold."""
    thresholds, accuracies = np.arange(0, 4, 0.01), []
    for test in np.array_split(np.arange(len(same)), 10):
        train = np.ones(len(same), dtype=bool)
        train[test] = False
        of_train, same_train = distances[train], same[train]
        best = thresholds[np.argmax([np.mean((of_train < threshold) == same_train) for threshold in thresholds])]
        accuracies.append(np.mean((distances[test] < best) == same[test]))
    return float(np.mean(accuracies))


def plain_ranks(probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """All cosines at once, then a full sort; the mate of probe i is gallery image i."""
    cosines = (probes / np.linalg.norm(probes, axis=1, keepdims=True)) @ (
        gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ).T
    return 1 + np.argmax(np.argsort(-cosines, axis=1) == np.arange(len(probes))[:, None], axis=1)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(ours: Callable[[], object], plain: Callable[[], object], turns: int) -> tuple[float, float]:
    """Best seconds of each side, taken in turns."""
    times = [(seconds(ours), seconds(plain)) for _ in range(turns)]
    return min(t[0] for t in times), min(t[1] for t in times)


def make_people(n: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Probes and n gallery images; image i is the mate of probe i."""
    rng = np.random.default_rng(1)
    gallery = rng.standard_normal((n, DIMENSION), dtype=np.float32)
    return gallery[:N_PROBES] + noise * rng.standard_normal((N_PROBES, DIMENSION), dtype=np.float32), gallery


def peak_gib() -> float:
    """Peak memory of this process alone; what getrusage says begins with the parent's, on Linux."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def gallery_case(folder: str, n: int, threads: int) -> dict[str, float]:
    """Rank the probes in a memory-mapped gallery; seconds and peak memory."""
    torch.set_num_threads(threads)
    probes = np.load(Path(folder) / "probes.npy")
    gallery = np.load(Path(folder) / "gallery.npy", mmap_mode="r")
    identification_ranks(probes[:2], [0, 1], gallery[:100], np.arange(100))  # first calls load libraries
    before = peak_gib()
    start = time.perf_counter()
    ranks = identification_ranks(probes, np.arange(N_PROBES), gallery, np.arange(n))
    taken = time.perf_counter() - start
    return {"seconds": taken, "before": before, "after": peak_gib(), "rank_1": rank_accuracy(ranks, (1,))[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-identification", action="store_true")
    parser.add_argument("--gallery-only", metavar="FOLDER", help="print one JSON line; used by this script itself")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.gallery_only:
        print(json.dumps(gallery_case(options.gallery_only, options.gallery, options.threads)))
        return

    scores, same = make_scores(PLAIN_PAIRS)
    distances = 2 - 2 * scores.astype(np.float64)
    print(f"Threshold search with 10 folds, {PLAIN_PAIRS:,} pairs, one thread\n")
    print("| what | seconds | 400 thresholds x 10 folds, compared | ratio |\n|---|---:|---:|---:|")
    for name, function in (
        ("ten_fold_accuracy (every threshold)", lambda: ten_fold_accuracy(scores, same)),
        ("insightface_accuracy_of_distances (with TAR)", lambda: insightface_accuracy_of_distances(distances, same)),
    ):
        ours, plain = compare(function, lambda: plain_ten_fold(distances, same), turns=3)
        print(f"| {name} | {ours:.3f} | {plain:.2f} | {plain / ours:.0f}x |", flush=True)

    scores, same = make_scores(options.pairs)
    distances = 2 - 2 * scores.astype(np.float64)
    print(f"\n{options.pairs:,} pairs, float32 scores, one thread\n\n| what | seconds |\n|---|---:|")
    for name, function in (
        ("ten_fold_accuracy", lambda: ten_fold_accuracy(scores, same)),
        ("best_threshold_accuracy", lambda: best_threshold_accuracy(scores, same)),
        ("insightface_accuracy_of_distances", lambda: insightface_accuracy_of_distances(distances, same)),
        ("roc_curve", lambda: roc_curve(scores, same)),
        ("equal_error_rate", lambda: equal_error_rate(scores, same)),
        ("tar_at_far", lambda: tar_at_far(scores, same, (1e-3, 1e-4))),
    ):
        print(f"| {name} | {seconds(function):.1f} |", flush=True)
    if options.skip_identification:
        return

    probes, gallery = make_people(PLAIN_GALLERY, noise=5)
    people = np.arange(PLAIN_GALLERY)
    ours, plain = compare(
        lambda: identification_ranks(probes, people[:N_PROBES], gallery, people),
        lambda: plain_ranks(probes, gallery),
        turns=2,
    )
    print(f"\nIdentification, {N_PROBES:,} probes, d = {DIMENSION}, {options.threads} thread(s)\n")
    print("| gallery | blocks | full sort | ratio | peak memory added* | rank 1 |\n|---:|---:|---:|---:|---:|---:|")
    rank_1 = rank_accuracy(identification_ranks(probes, people[:N_PROBES], gallery, people), (1,))[1]
    print(f"| {PLAIN_GALLERY:,} | {ours:.2f} s | {plain:.2f} s | {plain / ours:.1f}x | | {rank_1:.3f} |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for name, rows in zip(("probes", "gallery"), make_people(options.gallery, noise=5), strict=True):
            np.save(Path(folder) / f"{name}.npy", rows)
        command = [sys.executable, "-m", "benchmarks.bench_verification", "--gallery-only", folder]
        command += ["--gallery", str(options.gallery), "--threads", str(options.threads)]
        root = Path(__file__).resolve().parent.parent
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    case = json.loads(result.stdout.strip().splitlines()[-1])
    size = options.gallery * DIMENSION * 4 / 2**30
    print(
        f"| {options.gallery:,} ({size:.2f} GiB, memory-mapped) | {case['seconds']:.1f} s | | "
        f"| {case['after'] - case['before']:.2f} GiB | {case['rank_1']:.3f} |\n\n* mapped pages included"
    )


if __name__ == "__main__":
    main()
