"""Similarity by class means: against the definition over image pairs where that is feasible, and at CASIA size.

Run: python -m benchmarks.bench_similarity [--threads 2] [--skip-casia]

The CASIA case (490,623 embeddings of 10,572 identities) runs in a process of its own, whose peak memory is read before
and after the analysis.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from interproto_lib.analysis import (
    cohort_similarity,
    inter_class_similarity,
    most_confused_pairs,
    prototype_feature_gap,
    summarise_similarity,
)

DIMENSION = 512
SMALL = (8000, 200)
CASIA = (490_623, 10_572)


def unit_embeddings(n: int, rng: np.random.Generator) -> np.ndarray:
    """Random unit rows, drawn in blocks so that drawing does not set the peak of memory."""
    vectors = np.empty((n, DIMENSION), dtype=np.float32)
    for start in range(0, n, 8192):
        block = rng.standard_normal((min(8192, n - start), DIMENSION), dtype=np.float32) + 0.02
        vectors[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def plain_inter_class_similarity(embeddings: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Eq. 2 as it stands: all cosines of images, then the mean of each block of two identities."""
    order = np.argsort(labels, kind="stable")
    cosines = embeddings[order] @ embeddings[order].T
    counts = np.bincount(labels, minlength=k)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    sums = np.add.reduceat(np.add.reduceat(cosines, starts, axis=0, dtype=np.float64), starts, axis=1)
    return sums / counts[:, None] / counts[None]


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def casia_case(threads: int) -> dict[str, float]:
    """One adult-adult analysis at CASIA size; seconds of each step, and memory before and after."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    n, k = CASIA
    embeddings = unit_embeddings(n, rng)
    labels = np.concatenate([np.arange(k), np.sort(rng.integers(0, k, n - k))])
    manifest = pd.DataFrame(
        {"identity": [f"{i:06d}" for i in labels], "age_years": rng.uniform(13, 70, n), "split": "train"}
    )
    classes = pd.DataFrame({"identity": [f"{i:06d}" for i in range(k)]})
    prototypes = rng.standard_normal((k, DIMENSION), dtype=np.float32)
    times = {"peak_before_gib": peak_gib()}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        times[name] = time.perf_counter() - clock
        clock = time.perf_counter()

    matrix = cohort_similarity(embeddings, manifest, prototypes, classes, cohort="adult-adult")
    lap("cohort_similarity")
    times["peak_after_matrix_gib"] = peak_gib()
    summarise_similarity(matrix)
    lap("summarise_similarity")
    most_confused_pairs(matrix)
    lap("most_confused_pairs")
    prototype_feature_gap(matrix, prototypes, classes)
    lap("prototype_feature_gap")
    times["peak_after_all_gib"] = peak_gib()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-casia", action="store_true")
    parser.add_argument("--casia-only", action="store_true", help="print one JSON line; used by this script itself")
    options = parser.parse_args()
    if options.casia_only:
        print(json.dumps(casia_case(options.threads)))
        return

    torch.set_num_threads(options.threads)
    n, k = SMALL
    rng = np.random.default_rng(1)
    embeddings, labels = unit_embeddings(n, rng), np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    ours, plain = float("inf"), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        values = inter_class_similarity(embeddings, labels, n_classes=k)
        middle = time.perf_counter()
        expected = plain_inter_class_similarity(embeddings, labels, k)
        ours, plain = min(ours, middle - start), min(plain, time.perf_counter() - middle)
    off = ~np.eye(k, dtype=bool)
    difference = np.abs(values[off] - expected[off]).max()
    print(f"Inter-class similarity, d = {DIMENSION}, {options.threads} thread(s)\n")
    print("| images | identities | class means | image pairs | ratio | largest difference |")
    print("|---:|---:|---:|---:|---:|---:|")
    print(f"| {n:,} | {k:,} | {ours:.3f} s | {plain:.2f} s | {plain / ours:.0f}x | {difference:.1e} |")

    if not options.skip_casia:
        command = [
            sys.executable,
            "-m",
            "benchmarks.bench_similarity",
            "--casia-only",
            "--threads",
            str(options.threads),
        ]
        root = Path(__file__).resolve().parent.parent
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
        times = json.loads(result.stdout.strip().splitlines()[-1])
        n, k = CASIA
        print(f"\nCASIA size: {n:,} embeddings ({n * DIMENSION * 4 / 2**30:.2f} GiB) of {k:,} identities\n")
        print("| step | seconds |\n|---|---:|")
        steps = [name for name in times if not name.endswith("gib")]
        for name in steps:
            print(f"| {name} | {times[name]:.1f} |")
        print(f"| total | {sum(times[name] for name in steps):.1f} |")
        print(
            f"\nPeak memory of the process: {times['peak_before_gib']:.2f} GiB with the embeddings loaded, "
            f"{times['peak_after_matrix_gib']:.2f} GiB after the matrix, "
            f"{times['peak_after_all_gib']:.2f} GiB after all."
        )


if __name__ == "__main__":
    main()
