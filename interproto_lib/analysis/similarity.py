"""Similarity matrices of identities: whose images are compared with whose, and between which identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import (
    Floats,
    check_unit_rows,
    class_means,
    products,
    row_products,
    unit_prototypes,
)
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.errors import ConfigError, DatasetError

COHORTS: dict[str, tuple[str, str]] = {
    "child-child": ("child", "child"),
    "child-adult": ("child", "adult"),
    "adult-adult": ("adult", "adult"),
    "all": ("all", "all"),
}
"""Cohort -> whose images stand in the rows and whose in the columns; `all` needs no ages."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityMatrix:
    """Similarity of identities, between the images of one group and the images of the same or another group.

    Attributes:
        values: (r, c) float32, Eq. 2. NaN where an identity has no image in the group. Where rows and columns show the
            same group the diagonal is NaN, since Eq. 2 is for i != j; in "child-adult" an entry that pairs an identity
            with itself is the similarity of its own child and adult images.
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
    """Similarity matrix of identities for child images, adult images, child against adult images, or all images.

    Source: the paper's Fig. 2 ("child-child" and "adult-adult" over sampled identities) and Fig. 4 ("child-child" and
    "child-adult" over identities with child images). An image without an age belongs to no cohort but "all".

    Args:
        embeddings: (n, d) unit rows, row i for manifest row i.
        manifest: n rows with `identity`, `age_years` and `split`.
        prototypes: (k, d), row i for class i; None (with classes None) where there are none, as for held-out
            identities: then `intra` is NaN.
        classes: k rows with `identity` (see `class_table`), or None.
        cohort: A name in `COHORTS`: "child-child", "child-adult" (rows child, columns adult images), "adult-adult", or
            "all" (every image, with an age or without).
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
        chosen = _needed(_in_both(names, row_group, column_group), cohort, split)
    else:
        chosen = np.asarray(identities, dtype=object)
    if len(chosen) == 0:
        raise ConfigError("identities is empty: name at least one, or leave it out for all.")
    index = pd.Index(chosen)
    if not index.is_unique:
        raise ConfigError(f"identity {index[index.duplicated()][0]!r} is given twice.")
    position = index.get_indexer(pd.Index(names))
    row_labels = np.where(row_group, position, -1)
    check_unit_rows(embeddings, row_labels, "embeddings")
    means, counts = class_means(embeddings, row_labels, len(chosen))
    if row_group is column_group:
        column_counts = counts
        values = products(means)
        np.fill_diagonal(values, np.nan)
    else:
        column_labels = np.where(column_group, position, -1)
        check_unit_rows(embeddings, column_labels, "embeddings")
        column_means, column_counts = class_means(embeddings, column_labels, len(chosen))
        values = products(means, column_means)
    intra = np.full(len(chosen), np.nan, dtype=np.float32)
    if prototypes is not None and classes is not None:
        intra = row_products(means, unit_prototypes(prototypes[class_positions(chosen, classes)]))
    return SimilarityMatrix(
        values=values,
        row_identities=chosen,
        column_identities=chosen,
        cohort=cohort,
        intra=intra,
        n_row_images=counts,
        n_column_images=column_counts,
    )


def cohort_identities(
    manifest: pd.DataFrame,
    cohort: str,
    *,
    child_below_years: float = CHILD_BELOW_YEARS,
    adult_from_years: float | None = None,
    split: str = "train",
) -> NDArray[np.object_]:
    """List the identities with at least one image on both sides of a cohort.

    Args:
        manifest: Rows with `identity`, `age_years` and `split`.
        cohort: A name in `COHORTS`; "child-adult" wants a child and an adult image of each.
        child_below_years: An image is a child's below this age.
        adult_from_years: An image is an adult's from this age; None takes `child_below_years`.
        split: Which rows of the manifest count.

    Returns:
        The identities, sorted; empty where there is none.

    Raises:
        ConfigError: An unknown cohort, or ages that overlap.
    """
    _check_cohort(cohort)
    groups = _groups(manifest, child_below_years, adult_from_years, split)
    rows, columns = (groups[name] for name in COHORTS[cohort])
    return _in_both(manifest["identity"].to_numpy(dtype=object), rows, columns)


def sample_identities(
    manifest: pd.DataFrame,
    *,
    cohort: str,
    n: int = 200,
    seed: int = 0,
    child_below_years: float = CHILD_BELOW_YEARS,
    adult_from_years: float | None = None,
    split: str = "train",
    among: Sequence[str] | None = None,
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
        among: Draw only from these identities; None draws from all.

    Returns:
        At most n identities, sorted.

    Raises:
        ConfigError: An unknown cohort, n below 1, or ages that overlap.
        DatasetError: No identity has such images.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; it must be at least 1.")
    found = cohort_identities(
        manifest, cohort, child_below_years=child_below_years, adult_from_years=adult_from_years, split=split
    )
    if among is not None:
        found = found[np.isin(found.astype(str), np.asarray(among, dtype=str))]
    candidates = _needed(found, cohort, split)
    drawn = np.random.default_rng(seed).permutation(len(candidates))[:n]
    return candidates[np.sort(drawn)]


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
    """Mark the images of each group that `COHORTS` names."""
    adult_from_years = child_below_years if adult_from_years is None else adult_from_years
    if adult_from_years < child_below_years:
        raise ConfigError(f"adults from {adult_from_years} years overlap children below {child_below_years} years.")
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    counted = (manifest["split"] == split).to_numpy(dtype=bool)
    return {
        "child": counted & (ages < child_below_years),
        "adult": counted & (ages >= adult_from_years),
        "all": counted,
    }


def _in_both(names: NDArray[np.object_], rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> NDArray[np.object_]:
    return np.array(sorted(set(names[rows]) & set(names[columns])), dtype=object)


def _needed(identities: NDArray[np.object_], cohort: str, split: str) -> NDArray[np.object_]:
    if len(identities) == 0:
        raise DatasetError(
            f"no identity of split {split!r} has the images that cohort {cohort!r} needs: "
            "check age_years and split of the manifest."
        )
    return identities


def _check_cohort(cohort: str) -> None:
    if cohort not in COHORTS:
        raise ConfigError(f"unknown cohort {cohort!r}: choose one of {', '.join(COHORTS)}.")
