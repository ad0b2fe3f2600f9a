"""Intra-class and inter-class similarity (paper, section 3), by class means instead of image pairs.

The mean cosine over all pairs of images of two identities is bilinear: it equals the inner product of the two means
of unit embeddings. So the matrix over n images and k identities costs O(n d + k^2 d) instead of O(n^2 d).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError

_ROWS_AT_A_TIME = 8192
_LENGTH_TOLERANCE = 1e-3

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def class_means(embeddings: Floats, labels: Integers, n_classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean embedding of each class, summed in float64, reading the embeddings once.

    Args:
        embeddings: (n, d) floating point, in memory or memory-mapped.
        labels: (n,) integers in [-1, n_classes); -1 leaves the image out.
        n_classes: k >= 1.

    Returns:
        (k, d) float64 means, NaN where a class has no image, and (k,) int64 counts.

    Raises:
        ConfigError: Shapes that do not fit, or a label out of range.

    Example:
        >>> means, counts = class_means(np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]), np.array([0, 0, -1]), 1)
        >>> means, counts
        (array([[0.5, 0.5]]), array([2]))
    """
    labels = np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != (len(embeddings),):
        raise ConfigError(f"embeddings {embeddings.shape} and labels {labels.shape} do not fit: need (n, d) and (n,).")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(f"labels must be integers, got {labels.dtype}.")
    wrong = np.flatnonzero((labels < -1) | (labels >= n_classes))
    if len(wrong):
        raise ConfigError(f"label {labels[wrong[0]]} in row {wrong[0]} is outside [-1, {n_classes}).")
    order = np.argsort(labels, kind="stable")
    order = order[np.searchsorted(labels[order], 0) :]
    sums = np.zeros((n_classes, embeddings.shape[1]), dtype=np.float64)
    for start in range(0, len(order), _ROWS_AT_A_TIME):
        rows = order[start : start + _ROWS_AT_A_TIME]
        of_rows = labels[rows]
        starts = np.flatnonzero(np.concatenate(([True], of_rows[1:] != of_rows[:-1])))
        sums[of_rows[starts]] += np.add.reduceat(embeddings[rows], starts, axis=0, dtype=np.float64)
    counts = np.bincount(labels[order], minlength=n_classes).astype(np.int64)
    sums[counts == 0] = np.nan
    sums /= np.maximum(counts, 1)[:, None]
    return sums, counts


def intra_class_similarity(embeddings: Floats, labels: Integers, prototypes: Floats) -> NDArray[np.float32]:
    """Mean cosine of each identity's images with its own prototype.

    Formula: S_i = (1/N_i) sum_k W_i . f(x_ik), the paper's Eq. 1, with W_i scaled to unit length as in its text
    ("averaged cosine similarity"); computed as (mean of f) . W_i in float64.

    Args:
        embeddings: (n, d) unit rows.
        labels: (n,) integers in [-1, k); -1 leaves the image out.
        prototypes: (k, d) any length above 0.

    Returns:
        (k,) float32, NaN where an identity has no image.

    Raises:
        ConfigError: Shapes that do not fit, embeddings that are not unit rows, or a prototype of length zero.

    Example:
        >>> intra_class_similarity(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([0, 0]), np.array([[2.0, 0.0]]))
        array([0.8], dtype=float32)
    """
    prototypes = unit_prototypes(prototypes)
    check_unit_rows(embeddings, labels, "embeddings")
    if embeddings.shape[1] != prototypes.shape[1]:
        raise ConfigError(f"embeddings have {embeddings.shape[1]} dimensions, prototypes {prototypes.shape[1]}.")
    means, _ = class_means(embeddings, labels, len(prototypes))
    return row_products(means, prototypes)


def inter_class_similarity(
    embeddings: Floats,
    labels: Integers,
    other_embeddings: Floats | None = None,
    other_labels: Integers | None = None,
    *,
    n_classes: int | None = None,
    n_other_classes: int | None = None,
) -> NDArray[np.float32]:
    """Mean cosine between the images of each identity and the images of each other one.

    Formula: S_ij = (1/(N_i N_j)) sum_k sum_l f(x_ik) . f(x_jl) for i != j, the paper's Eq. 2; computed exactly as
    (mean of f over i) . (mean of f over j), sums and products in float64.

    Args:
        embeddings: (n, d) unit rows: the images of the matrix's rows.
        labels: (n,) integers in [-1, k); -1 leaves the image out.
        other_embeddings: (m, d) unit rows: the images of the columns; None takes those of the rows.
        other_labels: (m,) integers in [-1, k2); given exactly when `other_embeddings` is.
        n_classes: k; None takes the largest label + 1.
        n_other_classes: k2; None takes the largest other label + 1.

    Returns:
        (k, k2) float32, NaN where an identity has no image. Without others the diagonal is NaN, since Eq. 2 is for
        i != j; with others every entry is computed.

    Raises:
        ConfigError: Shapes that do not fit, embeddings that are not unit rows, or labels out of range.

    Example:
        >>> inter_class_similarity(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), np.array([0, 0, 1]))
        array([[nan, 0.7],
               [0.7, nan]], dtype=float32)
    """
    if (other_embeddings is None) != (other_labels is None):
        raise ConfigError("give other_embeddings and other_labels together, or neither.")
    check_unit_rows(embeddings, labels, "embeddings")
    means, _ = class_means(embeddings, labels, _n_classes(labels, n_classes))
    if other_embeddings is None or other_labels is None:
        if n_other_classes is not None:
            raise ConfigError("n_other_classes needs other_embeddings and other_labels.")
        values = products(means)
        np.fill_diagonal(values, np.nan)
        return values
    check_unit_rows(other_embeddings, other_labels, "other_embeddings")
    if embeddings.shape[1] != other_embeddings.shape[1]:
        raise ConfigError(f"embeddings have {embeddings.shape[1]} dimensions, others {other_embeddings.shape[1]}.")
    other_means, _ = class_means(other_embeddings, other_labels, _n_classes(other_labels, n_other_classes))
    return products(means, other_means)


def prototype_similarity(prototypes: Floats) -> NDArray[np.float32]:
    """Cosine of every prototype with every other: the matrix C of the paper's Eq. 6.

    Args:
        prototypes: (n, d) any length above 0.

    Returns:
        (n, n) float32 with ones on the diagonal.

    Raises:
        ConfigError: Not a matrix, or a prototype of length zero.

    Example:
        >>> prototype_similarity(np.array([[2.0, 0.0], [3.0, 4.0]]))
        array([[1. , 0.6],
               [0.6, 1. ]], dtype=float32)
    """
    unit = unit_prototypes(prototypes)
    cosines = products(unit)
    np.fill_diagonal(cosines, 1.0)
    return cosines


def unit_prototypes(prototypes: Floats) -> NDArray[np.float64]:
    """Prototypes scaled to length 1, float64; ConfigError for one of length zero, which has no direction."""
    rows = np.asarray(prototypes, dtype=np.float64)
    if rows.ndim != 2:
        raise ConfigError(f"prototypes must have shape (identities, dimension), got {rows.shape}.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(lengths > 0):
        raise ConfigError(f"prototype {int(np.flatnonzero(~(lengths[:, 0] > 0))[0])} has length zero or is not finite.")
    return rows / lengths


def _n_classes(labels: Integers, n_classes: int | None) -> int:
    if n_classes is not None:
        return n_classes
    return int(labels.max()) + 1 if len(labels) else 0


def check_unit_rows(embeddings: Floats, labels: Integers, name: str) -> None:
    """Raise ConfigError where a row whose label is not -1 has a length other than 1, or where shapes do not fit."""
    if embeddings.ndim != 2 or len(labels) != len(embeddings):
        raise ConfigError(f"{name} {embeddings.shape} and labels {np.shape(labels)} do not fit: need (n, d) and (n,).")
    for start in range(0, len(embeddings), _ROWS_AT_A_TIME):
        block = embeddings[start : start + _ROWS_AT_A_TIME]
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        used = np.asarray(labels[start : start + _ROWS_AT_A_TIME]) >= 0
        wrong = np.flatnonzero(used & ~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
        if len(wrong):
            raise ConfigError(
                f"row {start + wrong[0]} of {name} has length {lengths[wrong[0]]:.4g}, not 1: similarity is a cosine, "
                "so scale the rows to unit length first."
            )


def row_products(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float32]:
    """Inner product of each row of one matrix with the same row of another."""
    return np.einsum("ij,ij->i", left, right).astype(np.float32)


def products(
    left: NDArray[np.float64], right: NDArray[np.float64] | None = None, *, rows_at_a_time: int = 1024
) -> NDArray[np.float32]:
    """Inner products of all rows of two matrices, or of one with itself; made in float64, kept in float32."""
    columns = left if right is None else right
    values = np.empty((len(left), len(columns)), dtype=np.float32)
    buffer = torch.empty(min(rows_at_a_time, len(left)) * len(columns), dtype=torch.float64)
    for start in range(0, len(left), rows_at_a_time):
        stop = min(start + rows_at_a_time, len(left))
        first = start if right is None else 0  # what lies left of the diagonal block is mirrored
        shape = (stop - start, len(columns) - first)
        block = torch.mm(
            torch.from_numpy(left[start:stop]),
            torch.from_numpy(columns[first:]).T,
            out=buffer[: shape[0] * shape[1]].view(shape),
        ).numpy()
        values[start:stop, first:] = block
        if right is None:
            values[start:, start:stop] = values[start:stop, start:].T
    return values
