"""Prototypes in the plane (paper, Fig. 5), and how far the picture can be trusted.

A projection keeps neighbours, more or less; distances between clusters and their sizes mean nothing. So the claim that
child prototypes bunch is measured in the original space (`projection_quality`), and the picture illustrates it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import Floats
from interproto_lib.devices import torch_threads
from interproto_lib.errors import ConfigError

SMALLEST_PROJECTION = 10
"""Fewer prototypes than this have no neighbourhoods to keep."""

LARGEST_TSNE = 30_000
"""Up to here scikit-learn's t-SNE takes minutes."""

TSNE_PERPLEXITY = 30.0
UMAP_NEIGHBOURS = 15

_BLOCK_BYTES = 64 * 2**20

Indices = NDArray[np.int64]
Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ProjectionQuality:
    """What the neighbourhoods of a projection say, and how faithful they are.

    Attributes:
        child_purity_original: Share of child prototypes among the `k_purity` nearest of a child prototype, in the
            original space (cosine), averaged over child prototypes; NaN without any.
        child_purity_plane: The same among the nearest points of the plane.
        base_rate: The share that a random arrangement would give, (n_child - 1) / (n - 1).
        recall: Share of the `k_recall` nearest of the original space found among the `k_recall` nearest in the plane.
        trustworthiness: 1 minus the penalty for points that are near in the plane and far in the original space.
        k_purity: Neighbours counted for purity.
        k_recall: Neighbours counted for recall and trustworthiness.
        n: Prototypes.
        n_child: Child prototypes.
        n_queries: Prototypes that recall and trustworthiness were averaged over; below n it is a random sample.
    """

    child_purity_original: float
    child_purity_plane: float
    base_rate: float
    recall: float
    trustworthiness: float
    k_purity: int
    k_recall: int
    n: int
    n_child: int
    n_queries: int

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dictionary, for a table or JSON."""
        return asdict(self)


def nearest_neighbours(
    vectors: Floats, k: int, *, rows: Indices | None = None, n_threads: int | None = None
) -> tuple[Indices, Points]:
    """The k nearest others of every vector by cosine, exact, block of rows by block of rows.

    Args:
        vectors: (n, d) any length above 0.
        k: 1 <= k <= n - 1.
        rows: (q,) positions whose neighbours are wanted; None takes all n.
        n_threads: Threads of the matrix product; None leaves torch's setting.

    Returns:
        (q, k) int64 positions, nearest first and never the vector itself, and their (q, k) float32 cosines.

    Raises:
        ConfigError: k out of range, not a matrix, or a vector of length zero.

    Example:
        >>> nearest_neighbours(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 1)
        (array([[1],
               [0],
               [1]]), array([[0.8],
               [0.8],
               [0.6]], dtype=float32))
    """
    unit = _unit(vectors)
    n = len(unit)
    if not 1 <= k <= n - 1:
        raise ConfigError(f"k is {k}; {n} vectors have between 1 and {n - 1} neighbours.")
    rows = np.arange(n) if rows is None else rows
    indices = np.empty((len(rows), k), dtype=np.int64)
    cosines = np.empty((len(rows), k), dtype=np.float32)
    with torch_threads(n_threads):
        for part, block in _cosine_blocks(unit, rows):
            found = block.topk(k, dim=1)
            indices[part], cosines[part] = found.indices.numpy(), found.values.numpy()
    return indices, cosines


def project_prototypes(
    prototypes: Floats, *, method: str = "tsne", seed: int = 0, n_threads: int | None = None
) -> Points:
    """Place prototypes in the plane so that neighbours by cosine stay neighbours.

    Source: the paper's Fig. 5 (which does not name its method). Rows are scaled to unit length, where squared Euclidean
    distance is 2 (1 - cosine), so both methods see neighbours by cosine in all d dimensions. Both start from the first
    two principal axes, which keeps the large-scale layout alike between runs.

    "tsne": scikit-learn, Barnes-Hut, perplexity 30 (for n < 91 a third of n - 1), learning rate max(n / 48, 50), 1000
    iterations; for n <= 30,000. "umap": 15 neighbours, found exactly, min_dist 0.1, 500 epochs up to 10,000 prototypes
    and 200 above; for any n.

    Args:
        prototypes: (n, d) any length above 0, n >= 10.
        method: "tsne" or "umap".
        seed: Of the optimisation; the same seed gives the same points on the same machine and number of threads.
        n_threads: Threads; None takes those torch and OpenMP are set to.

    Returns:
        (n, 2) float32 points; units mean nothing.

    Raises:
        ConfigError: An unknown method, too few prototypes, too many for t-SNE, or one of length zero.
    """
    unit = _unit(prototypes)
    n = len(unit)
    if n < SMALLEST_PROJECTION:
        raise ConfigError(f"{n} prototypes are too few to project: at least {SMALLEST_PROJECTION} are needed.")
    if method == "tsne":
        if n > LARGEST_TSNE:
            raise ConfigError(
                f"{n} prototypes are too many for t-SNE here (at most {LARGEST_TSNE}): choose method='umap', or "
                "project all child prototypes with a random sample of the others."
            )
        return _tsne(unit, seed=seed, n_threads=n_threads)
    if method == "umap":
        return _umap(unit, seed=seed, n_threads=n_threads)
    raise ConfigError(f"unknown projection {method!r}: choose tsne or umap.")


def projection_quality(
    prototypes: Floats,
    points: Floats,
    is_child: NDArray[np.bool_],
    *,
    k_purity: int = 5,
    k_recall: int = 15,
    max_queries: int = 5000,
    seed: int = 0,
    n_threads: int | None = None,
) -> ProjectionQuality:
    """Measure how much child prototypes bunch, and how faithful a projection is.

    Formula of trustworthiness: 1 - 2 / (n k (2n - 3k - 1)) sum_i sum_j max(0, r(i, j) - k), j over the k nearest of i
    in the plane and r(i, j) the rank of j among the neighbours of i in the original space. Source: Venna and Kaski,
    "Neighborhood preservation in nonlinear projection methods", ICANN 2001; it equals scikit-learn's function.
    Recall and trustworthiness average over at most `max_queries` prototypes, each compared with all n, so memory stays
    small and the sampling error is about 0.5 / sqrt(max_queries) at most. Purity uses every child prototype.

    Args:
        prototypes: (n, d) any length above 0.
        points: (n, 2) the projection.
        is_child: (n,) booleans.
        k_purity: Neighbours counted for purity, at most n - 1.
        k_recall: Neighbours counted for recall and trustworthiness, below n / 2.
        max_queries: Where n is larger, a random sample of this many.
        seed: Chooses the sample.
        n_threads: Threads of the matrix product; None leaves torch's setting.

    Returns:
        The measures.

    Raises:
        ConfigError: Shapes that do not fit or neighbours out of range.
    """
    from sklearn.neighbors import NearestNeighbors

    unit = _unit(prototypes)
    child = np.asarray(is_child)
    n = len(unit)
    if points.shape != (n, 2) or child.shape != (n,) or child.dtype != np.bool_:
        raise ConfigError(
            f"{n} prototypes need points ({n}, 2) and booleans ({n},); got {points.shape} and {child.shape} "
            f"of {child.dtype}."
        )
    if not 1 <= k_purity <= n - 1 or not 1 <= k_recall < n / 2 or max_queries < 1:
        raise ConfigError(
            f"k_purity={k_purity}, k_recall={k_recall} and max_queries={max_queries} do not fit {n} prototypes: "
            "k_purity must be below n, k_recall below n / 2, all at least 1."
        )
    children = np.flatnonzero(child)
    queries = np.arange(n) if n <= max_queries else np.sort(np.random.default_rng(seed).permutation(n)[:max_queries])
    tree = NearestNeighbors(n_neighbors=max(k_purity, k_recall), algorithm="kd_tree").fit(points)
    in_plane = tree.kneighbors(return_distance=False)
    if len(children):
        near_children, _ = nearest_neighbours(unit, k_purity, rows=children, n_threads=n_threads)
        purity_original = float(child[near_children].mean())
        purity_plane = float(child[in_plane[children, :k_purity]].mean())
    else:
        purity_original = purity_plane = float("nan")
    recall, trustworthiness = _faithfulness(unit, in_plane[queries, :k_recall], queries, n_threads=n_threads)
    return ProjectionQuality(
        child_purity_original=purity_original,
        child_purity_plane=purity_plane,
        base_rate=(len(children) - 1) / (n - 1) if len(children) else 0.0,
        recall=recall,
        trustworthiness=trustworthiness,
        k_purity=k_purity,
        k_recall=k_recall,
        n=n,
        n_child=len(children),
        n_queries=len(queries),
    )


def _faithfulness(unit: Points, in_plane: Indices, queries: Indices, *, n_threads: int | None) -> tuple[float, float]:
    """Recall and trustworthiness of the neighbours found in the plane for some rows."""
    n, k = len(unit), in_plane.shape[1]
    found, penalty = 0, 0
    with torch_threads(n_threads):
        for part, block in _cosine_blocks(unit, queries):
            cosines = block.gather(1, torch.from_numpy(np.ascontiguousarray(in_plane[part])))
            for column in range(k):
                ranks = 1 + (block > cosines[:, column : column + 1]).sum(dim=1)
                found += int((ranks <= k).sum())
                penalty += int((ranks - k).clamp_min(0).sum())
    recall = found / (len(queries) * k)
    return recall, 1 - 2 * penalty / (len(queries) * k * (2 * n - 3 * k - 1))


def _tsne(unit: Points, *, seed: int, n_threads: int | None) -> Points:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n = len(unit)
    start = _principal_plane(unit)
    with threadpool_limits(limits=n_threads):
        points = TSNE(
            n_components=2,
            perplexity=min(TSNE_PERPLEXITY, (n - 1) / 3),
            early_exaggeration=12.0,
            learning_rate=max(n / 48, 50.0),
            max_iter=1000,
            metric="euclidean",
            method="barnes_hut",
            init=1e-4 * start / start[:, 0].std(),
            random_state=seed,
            n_jobs=n_threads,
        ).fit_transform(unit)
    return np.ascontiguousarray(points, dtype=np.float32)


def _umap(unit: Points, *, seed: int, n_threads: int | None) -> Points:
    try:
        from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding
    except ImportError as error:
        raise ConfigError("method='umap' needs the package umap-learn: install it, or choose method='tsne'.") from error

    n = len(unit)
    k = min(UMAP_NEIGHBOURS, n - 1)
    others, cosines = nearest_neighbours(unit, k - 1, n_threads=n_threads)
    # The graph counts a point as its own first neighbour.
    indices = np.concatenate([np.arange(n)[:, None], others], axis=1)
    distances = np.concatenate([np.zeros((n, 1), np.float32), np.clip(1 - cosines, 0, 2)], axis=1)
    random_state = np.random.RandomState(seed)
    graph, _, _ = fuzzy_simplicial_set(
        unit, k, random_state, "cosine", knn_indices=indices.astype(np.int32), knn_dists=distances.astype(np.float32)
    )
    a, b = find_ab_params(1.0, 0.1)
    points, _ = simplicial_set_embedding(
        unit,
        graph,
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=500 if n <= 10_000 else 200,
        init=_principal_plane(unit),
        random_state=random_state,
        metric="cosine",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    return np.ascontiguousarray(points, dtype=np.float32)


def _principal_plane(unit: Points) -> Points:
    """Coordinates along the two first principal axes, each axis turned so that its largest loading is positive."""
    centred = unit - unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = axes[:, [-1, -2]] if axes.shape[1] > 1 else np.concatenate([axes, np.zeros_like(axes)], axis=1)
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return centred @ axes.astype(np.float32)


def _unit(vectors: Floats) -> Points:
    rows = np.asarray(vectors)
    if rows.ndim != 2:
        raise ConfigError(f"vectors must have shape (items, dimension), got {rows.shape}.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(lengths > 0):
        raise ConfigError(f"vector {int(np.flatnonzero(~(lengths[:, 0] > 0))[0])} has length zero or is not finite.")
    return np.ascontiguousarray(rows / lengths, dtype=np.float32)


def _cosine_blocks(unit: Points, rows: Indices) -> Iterator[tuple[slice, torch.Tensor]]:
    """Cosines of some rows with all, -inf with themselves, in blocks of one reused buffer."""
    everything = torch.from_numpy(unit)
    at_a_time = max(1, min(len(rows), _BLOCK_BYTES // (4 * len(unit))))
    buffer = torch.empty(at_a_time, len(unit))
    for start in range(0, len(rows), at_a_time):
        chosen = torch.from_numpy(np.ascontiguousarray(rows[start : start + at_a_time], dtype=np.int64))
        block = torch.mm(everything[chosen], everything.T, out=buffer[: len(chosen)])
        block[torch.arange(len(chosen)), chosen] = -torch.inf
        yield slice(start, start + len(chosen)), block
