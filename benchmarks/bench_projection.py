"""Exact neighbours and projections of prototypes: seconds and quality.

Run: python -m benchmarks.bench_projection [--threads 2] [--sizes 1000 10575 85742] [--methods umap tsne]

The default size is CASIA's (10,575). Random prototypes have no neighbourhoods to keep, so these are drawn in 300
clusters. UMAP compiles on its first call; a small call before the table takes that out of the times.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from interproto_lib.analysis import nearest_neighbours, project_prototypes, projection_quality
from interproto_lib.analysis.projection import LARGEST_TSNE

DIMENSION = 512
N_CLUSTERS = 300
PLAIN_SIZE = 4000


def clustered(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prototypes in clusters, a tenth of the clusters child ones."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((N_CLUSTERS, DIMENSION), dtype=np.float32)
    members = rng.integers(0, N_CLUSTERS, n)
    vectors = centres[members] + 1.5 * rng.standard_normal((n, DIMENSION), dtype=np.float32)
    return vectors, members < N_CLUSTERS // 10


def plain_neighbours(vectors: np.ndarray, k: int) -> np.ndarray:
    """All cosines at once, then a full sort."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1)[:, :k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_575])
    parser.add_argument("--methods", nargs="+", default=["umap", "tsne"], choices=["umap", "tsne"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    vectors, _ = clustered(PLAIN_SIZE)
    ours, plain = float("inf"), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        nearest_neighbours(vectors, 15)
        middle = time.perf_counter()
        plain_neighbours(vectors, 15)
        ours, plain = min(ours, middle - start), min(plain, time.perf_counter() - middle)
    print(f"15 nearest neighbours of {PLAIN_SIZE:,} vectors, d = {DIMENSION}, {options.threads} thread(s)\n")
    print("| blocks and top-k | full sort | ratio |\n|---:|---:|---:|")
    print(f"| {ours:.2f} s | {plain:.2f} s | {plain / ours:.1f}x |\n")

    if "umap" in options.methods:
        start = time.perf_counter()
        project_prototypes(clustered(200)[0], method="umap", n_threads=options.threads)
        print(f"UMAP's first call (compiling, 200 prototypes): {time.perf_counter() - start:.0f} s\n")
    print("| n | method | seconds | 15-NN recall | trustworthiness | child purity, original | plane | base rate |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for n in options.sizes:
        vectors, is_child = clustered(n)
        start = time.perf_counter()
        nearest_neighbours(vectors, 15, n_threads=options.threads)
        print(f"| {n:,} | exact neighbours | {time.perf_counter() - start:.1f} | | | | | |", flush=True)
        for method in options.methods:
            if method == "tsne" and n > LARGEST_TSNE:
                print(f"| {n:,} | tsne | refused above {LARGEST_TSNE:,} | | | | | |")
                continue
            start = time.perf_counter()
            points = project_prototypes(vectors, method=method, n_threads=options.threads)
            taken = time.perf_counter() - start
            quality = projection_quality(vectors, points, is_child, n_threads=options.threads)
            print(
                f"| {n:,} | {method} | {taken:.1f} | {quality.recall:.2f} | {quality.trustworthiness:.3f} "
                f"| {quality.child_purity_original:.2f} | {quality.child_purity_plane:.2f} | {quality.base_rate:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
