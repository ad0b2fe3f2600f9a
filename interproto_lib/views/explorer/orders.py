"""Orders in which identities stand along a similarity matrix: each a permutation, place -> identity."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from threading import Thread

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interproto_lib.errors import ConfigError

ORDERS: dict[str, str] = {
    "identity": "identity",
    "cluster": "hierarchical cluster",
    "child_share": "share of child images",
    "age": "mean age",
    "similarity": "similarity to an identity",
}
"""Name of an order -> how it is called."""

MOST_IN_ONE_TREE = 2000
"""Identities that one tree holds; more are first put into clusters by k-means."""

_MOST_WITH_BEST_LEAVES = 500  # turning the branches of larger trees for the least steps costs far more than the tree

Ints = NDArray[np.int64]


def name_order(names: Sequence[str] | NDArray[np.object_]) -> Ints:
    """Sort identities by name, as text.

    Args:
        names: (n,) names.

    Returns:
        (n,) place -> identity.

    Example:
        >>> name_order(["b", "a", "c"]).tolist()
        [1, 0, 2]
    """
    return np.argsort(np.asarray(names, dtype=str), kind="stable")


def value_order(values: ArrayLike, *, descending: bool = False) -> Ints:
    """Sort identities by a number, such as the child share or the mean age; equal ones stay in their order.

    Args:
        values: (n,) numbers; where one is NaN, the identity comes last.
        descending: The highest first.

    Returns:
        (n,) place -> identity.

    Example:
        >>> value_order([0.2, np.nan, 0.9, 0.2], descending=True).tolist()
        [2, 0, 3, 1]
    """
    numbers = np.asarray(values, dtype=np.float64)
    return np.argsort(-numbers if descending else numbers, kind="stable")


def similarity_order(similarities: ArrayLike, chosen: int | None = None) -> Ints:
    """Sort identities by their similarity to a chosen one, the most similar first.

    Args:
        similarities: (n,) similarity to the chosen identity, as `LinkedMatrices.values` gives a row; NaN comes last.
        chosen: The chosen identity, which comes first whatever its own value; None where it is not among these.

    Returns:
        (n,) place -> identity.

    Raises:
        ConfigError: There is no such identity.

    Example:
        >>> similarity_order([0.1, np.nan, 0.7], chosen=1).tolist()
        [1, 2, 0]
    """
    values = np.array(similarities, dtype=np.float64)
    if chosen is not None:
        if not 0 <= chosen < len(values):
            raise ConfigError(f"there is no identity {chosen} among {len(values)}.")
        values[chosen] = np.inf
    return value_order(values, descending=True)


def cluster_order(vectors: NDArray[np.floating], *, seed: int = 0) -> Ints:
    """Stand similar identities side by side: the leaves of a tree of average linkage over cosine distances.

    Up to `MOST_IN_ONE_TREE` identities stand in one tree (scipy). Of more, k-means (scikit-learn, mini-batches) first
    makes about sqrt(n) clusters; a tree over the cluster means orders the clusters, and a tree over the members orders
    each from within. So the order of 85,742 identities is that of one tree between clusters, not across their edges.

    Args:
        vectors: (n, d) such as class means or prototypes, of any length; a row with a NaN or of length zero comes last.
        seed: Chooses the first cluster means.

    Returns:
        (n,) place -> identity.

    Raises:
        ConfigError: Not a table.
    """
    if vectors.ndim != 2:
        raise ConfigError(f"vectors must have shape (identities, dimension), got {vectors.shape}.")
    lengths = np.linalg.norm(vectors, axis=1)
    with_direction = np.isfinite(lengths) & (lengths > 0)
    known = np.flatnonzero(with_direction)
    unit = (vectors[known] / lengths[known, None]).astype(np.float32)
    return np.concatenate([known[_leaves_of_all(unit, seed)], np.flatnonzero(~with_direction)])


def cluster_order_in_background(vectors: NDArray[np.floating], *, seed: int = 0) -> Future[Ints]:
    """Begin `cluster_order` in a thread: it takes seconds for thousands of identities.

    Args:
        vectors: See `cluster_order`.
        seed: The same.

    Returns:
        What will hold the order; ask `done()` and `result()`, or give `add_done_callback` a function.
    """
    future: Future[Ints] = Future()

    def compute() -> None:
        try:
            future.set_result(cluster_order(vectors, seed=seed))
        except Exception as problem:  # handed on to whoever asks for the result
            future.set_exception(problem)

    future.set_running_or_notify_cancel()
    Thread(target=compute, name="cluster order", daemon=True).start()
    return future


def _leaves_of_all(unit: NDArray[np.float32], seed: int) -> Ints:
    if len(unit) <= MOST_IN_ONE_TREE:
        return _leaves(unit)
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    n_clusters = round(len(unit) ** 0.5)
    means = MiniBatchKMeans(n_clusters, batch_size=4096, n_init=1, max_iter=20, random_state=seed)
    with threadpool_limits(1):  # many small steps: threads would wait for one another, and for whoever looks at the map
        labels = means.fit(unit).labels_
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=n_clusters))[:-1])
    filled = [cluster for cluster in members if len(cluster)]
    centres = np.stack([unit[cluster].mean(axis=0) for cluster in filled])
    return np.concatenate([_within(unit, filled[cluster]) for cluster in _leaves(centres)])


def _within(unit: NDArray[np.float32], members: Ints) -> Ints:
    """Order the members of a cluster: by their tree, or by nearness to their mean where they are too many for one."""
    if len(members) <= MOST_IN_ONE_TREE:
        return members[_leaves(unit[members], best=False)]
    return members[np.argsort(-(unit[members] @ unit[members].mean(axis=0)), kind="stable")]


def _leaves(vectors: NDArray[np.float32], *, best: bool = True) -> Ints:
    """Leaves of the tree of average linkage over cosine distances; `best` turns its branches for the least steps."""
    if len(vectors) < 3:
        return np.arange(len(vectors))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    distances = np.clip(1.0 - directions.astype(np.float64) @ directions.T, 0.0, None)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0.0)
    condensed = squareform(distances, checks=False)
    tree = linkage(condensed, "average", optimal_ordering=best and len(vectors) <= _MOST_WITH_BEST_LEAVES)
    return leaves_list(tree).astype(np.int64)
