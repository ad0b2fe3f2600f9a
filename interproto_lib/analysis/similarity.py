"""Intra-class and inter-class similarity (paper, section 3), by class means instead of image pairs.

The mean cosine over all pairs of images of two identities is bilinear: it equals the inner product of the two means
of unit embeddings. So the matrix over n images and k identities costs O(n d + k^2 d) instead of O(n^2 d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.errors import ConfigError, DatasetError

COHORTS: dict[str, tuple[str, str]] = {
    "child-child": ("child", "child"),
    "child-adult": ("child", "adult"),
    "adult-adult": ("adult", "adult"),
}
"""Cohort -> whose images stand in the rows and whose in the columns."""

_ROWS_AT_A_TIME = 8192
_LENGTH_TOLERANCE = 1e-3

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityMatrix:
    """Similarity of identities, between the images of one group and the images of the same or another group.

    Attributes:
        values: (r, c) float32, Eq. 2. NaN where an identity has no image in the group. In "child-child" and
            "adult-adult" the diagonal is NaN, since Eq. 2 is for i != j; in "child-adult" an entry that pairs an
            identity with itself is the similarity of its own child and adult images.
        row_identities: (r,) identity of each row.
        column_identities: (c,) identity of each column.
        cohort: A name in `COHORTS`.
        intra: (r,) float32, Eq. 1 over the images of the rows' group; NaN without image or prototype.
        n_row_images: (r,) images in the rows' group.
        n_column_images: (c,) images in the columns' group.
    """

    values: NDArray[np.float32]
    row_identities: NDArray[np.object_]
    column_identities: NDArray[np.object_]
    cohort: str
    intra: NDArray[np.float32]
    n_row_images: NDArray[np.int64]
    n_column_images: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows, columns = self.values.shape
        lengths = (len(self.row_identities), len(self.intra), len(self.n_row_images))
        if lengths != (rows,) * 3 or (len(self.column_identities), len(self.n_column_images)) != (columns,) * 2:
            raise ConfigError(f"a matrix of {rows} x {columns} needs as many identities, intra values and counts.")
        if self.cohort not in COHORTS:
            raise ConfigError(f"unknown cohort {self.cohort!r}: choose one of {', '.join(COHORTS)}.")
        if not self.both_orders and not np.array_equal(self.row_identities, self.column_identities):
            raise ConfigError(f"cohort {self.cohort!r} is symmetric: rows and columns must be the same identities.")

    @property
    def both_orders(self) -> bool:
        """Whether (i, j) and (j, i) differ: true where rows and columns show different groups."""
        return len(set(COHORTS[self.cohort])) == 2

    def with_diagonal(self) -> NDArray[np.float32]:
        """Return a copy of the values whose diagonal holds Eq. 1, as in the paper's Fig. 2 and 4.

        Returns:
            (r, c) float32; entry (i, i) is the similarity of the row's images to the identity's own prototype.

        Raises:
            ConfigError: Rows and columns are not the same identities.
        """
        if not np.array_equal(self.row_identities, self.column_identities):
            raise ConfigError("rows and columns are different identities, so there is no diagonal to fill.")
        values = self.values.copy()
        np.fill_diagonal(values, self.intra)
        return values


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
    _check_unit_rows(embeddings, labels, "embeddings")
    if embeddings.shape[1] != prototypes.shape[1]:
        raise ConfigError(f"embeddings have {embeddings.shape[1]} dimensions, prototypes {prototypes.shape[1]}.")
    means, _ = class_means(embeddings, labels, len(prototypes))
    return _row_products(means, prototypes)


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
    _check_unit_rows(embeddings, labels, "embeddings")
    means, _ = class_means(embeddings, labels, _n_classes(labels, n_classes))
    if other_embeddings is None or other_labels is None:
        if n_other_classes is not None:
            raise ConfigError("n_other_classes needs other_embeddings and other_labels.")
        values = _products(means)
        np.fill_diagonal(values, np.nan)
        return values
    _check_unit_rows(other_embeddings, other_labels, "other_embeddings")
    if embeddings.shape[1] != other_embeddings.shape[1]:
        raise ConfigError(f"embeddings have {embeddings.shape[1]} dimensions, others {other_embeddings.shape[1]}.")
    other_means, _ = class_means(other_embeddings, other_labels, _n_classes(other_labels, n_other_classes))
    return _products(means, other_means)


def cohort_similarity(
    embeddings: Floats,
    manifest: pd.DataFrame,
    prototypes: Floats | None,
    classes: pd.DataFrame | None,
    *,
    cohort: str = "child-child",
    identities: Sequence[str] | NDArray[np.object_] | None = None,
    child_below_years: float = CHILD_BELOW_YEARS,
    adult_from_years: float | None = None,
    split: str = "train",
) -> SimilarityMatrix:
    """Similarity matrix of identities for child images, adult images, or child against adult images.

    Source: the paper's Fig. 2 ("child-child" and "adult-adult" over sampled identities) and Fig. 4 ("child-child" and
    "child-adult" over identities with child images). An image without an age belongs to no cohort.

    Args:
        embeddings: (n, d) unit rows, row i for manifest row i.
        manifest: n rows with `identity`, `age_years` and `split`.
        prototypes: (k, d), row i for class i; None (with classes None) where there are none, as for held-out
            identities: then `intra` is NaN.
        classes: k rows with `identity` (see `class_table`), or None.
        cohort: "child-child", "child-adult" (rows child, columns adult images) or "adult-adult".
        identities: Rows and columns, in this order; one without an image keeps its place as a NaN row or column, so
            that panels stay comparable. None takes every identity with an image in both groups, sorted, and leaves
            the others out.
        child_below_years: An image is a child's below this age.
        adult_from_years: An image is an adult's from this age; None takes `child_below_years`, so that every image
            with an age is in one of the two groups, as in the paper.
        split: Which rows of the manifest count, "train" (the paper: training images) or "heldout".

    Returns:
        The square matrix with Eq. 2 in its values and Eq. 1 in `intra`.

    Raises:
        ConfigError: Shapes that do not fit, an unknown cohort, repeated identities, an identity that is not a class
            although prototypes are given, or ages that overlap.
        DatasetError: No identity has images in both groups.
    """
    _check_cohort(cohort)
    if len(embeddings) != len(manifest):
        raise ConfigError(f"{len(embeddings)} embeddings do not fit {len(manifest)} manifest rows.")
    if (prototypes is None) != (classes is None):
        raise ConfigError("give prototypes and classes together, or neither.")
    if prototypes is not None and classes is not None and len(prototypes) != len(classes):
        raise ConfigError(f"{len(prototypes)} prototypes do not fit {len(classes)} classes.")
    groups = _groups(manifest, child_below_years, adult_from_years, split)
    names = manifest["identity"].to_numpy(dtype=object)
    row_group, column_group = (groups[name] for name in COHORTS[cohort])
    if identities is None:
        chosen = _identities_in_both(names, row_group, column_group, cohort, split)
    else:
        chosen = np.asarray(identities, dtype=object)
    if len(chosen) == 0:
        raise ConfigError("identities is empty: name at least one, or leave it out for all.")
    index = pd.Index(chosen)
    if not index.is_unique:
        raise ConfigError(f"identity {index[index.duplicated()][0]!r} is given twice.")
    position = index.get_indexer(pd.Index(names))
    row_labels = np.where(row_group, position, -1)
    _check_unit_rows(embeddings, row_labels, "embeddings")
    means, counts = class_means(embeddings, row_labels, len(chosen))
    if row_group is column_group:
        column_counts = counts
        values = _products(means)
        np.fill_diagonal(values, np.nan)
    else:
        column_labels = np.where(column_group, position, -1)
        _check_unit_rows(embeddings, column_labels, "embeddings")
        column_means, column_counts = class_means(embeddings, column_labels, len(chosen))
        values = _products(means, column_means)
    intra = np.full(len(chosen), np.nan, dtype=np.float32)
    if prototypes is not None and classes is not None:
        intra = _row_products(means, unit_prototypes(prototypes[class_positions(chosen, classes)]))
    return SimilarityMatrix(
        values=values,
        row_identities=chosen,
        column_identities=chosen,
        cohort=cohort,
        intra=intra,
        n_row_images=counts,
        n_column_images=column_counts,
    )


def sample_identities(
    manifest: pd.DataFrame,
    *,
    cohort: str,
    n: int = 200,
    seed: int = 0,
    child_below_years: float = CHILD_BELOW_YEARS,
    adult_from_years: float | None = None,
    split: str = "train",
) -> NDArray[np.object_]:
    """Draw identities at random among those with at least one image on both sides of a cohort.

    Source: the paper's Fig. 2 shows 200 randomly sampled identities.

    Args:
        manifest: Rows with `identity`, `age_years` and `split`.
        cohort: A name in `COHORTS`; "child-adult" wants a child and an adult image of each.
        n: How many, >= 1. Where there are fewer, all of them are returned: compare the length of the result.
        seed: Chooses the sample.
        child_below_years: An image is a child's below this age.
        adult_from_years: An image is an adult's from this age; None takes `child_below_years`.
        split: Which rows of the manifest count.

    Returns:
        At most n identities, sorted.

    Raises:
        ConfigError: An unknown cohort, n below 1, or ages that overlap.
        DatasetError: No identity has such images.
    """
    _check_cohort(cohort)
    if n < 1:
        raise ConfigError(f"n is {n}; it must be at least 1.")
    groups = _groups(manifest, child_below_years, adult_from_years, split)
    names = manifest["identity"].to_numpy(dtype=object)
    rows, columns = (groups[name] for name in COHORTS[cohort])
    candidates = _identities_in_both(names, rows, columns, cohort, split)
    drawn = np.random.default_rng(seed).permutation(len(candidates))[:n]
    return candidates[np.sort(drawn)]


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
    cosines = _products(unit)
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


def class_positions(identities: NDArray[np.object_], classes: pd.DataFrame) -> NDArray[np.int64]:
    """Row of each identity in the class table; ConfigError for one that is not a class."""
    positions = pd.Index(classes["identity"].to_numpy(dtype=object)).get_indexer(identities)
    if (positions < 0).any():
        missing = identities[positions < 0]
        raise ConfigError(
            f"{len(missing)} of {len(identities)} identities are not training classes, the first {missing[0]!r}: "
            "they have no prototype."
        )
    return positions.astype(np.int64)


def _groups(
    manifest: pd.DataFrame, child_below_years: float, adult_from_years: float | None, split: str
) -> dict[str, NDArray[np.bool_]]:
    adult_from_years = child_below_years if adult_from_years is None else adult_from_years
    if adult_from_years < child_below_years:
        raise ConfigError(f"adults from {adult_from_years} years overlap children below {child_below_years} years.")
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    counted = (manifest["split"] == split).to_numpy(dtype=bool)
    return {"child": counted & (ages < child_below_years), "adult": counted & (ages >= adult_from_years)}


def _identities_in_both(
    names: NDArray[np.object_], rows: NDArray[np.bool_], columns: NDArray[np.bool_], cohort: str, split: str
) -> NDArray[np.object_]:
    found = sorted(set(names[rows]) & set(names[columns]))
    if not found:
        raise DatasetError(
            f"no identity of split {split!r} has the images that cohort {cohort!r} needs: "
            "check age_years and split of the manifest."
        )
    return np.array(found, dtype=object)


def _check_cohort(cohort: str) -> None:
    if cohort not in COHORTS:
        raise ConfigError(f"unknown cohort {cohort!r}: choose one of {', '.join(COHORTS)}.")


def _n_classes(labels: Integers, n_classes: int | None) -> int:
    if n_classes is not None:
        return n_classes
    return int(labels.max()) + 1 if len(labels) else 0


def _check_unit_rows(embeddings: Floats, labels: Integers, name: str) -> None:
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


def _row_products(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.einsum("ij,ij->i", left, right).astype(np.float32)


def _products(
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
