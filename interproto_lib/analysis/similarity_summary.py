# ruff: noqa: PD011 (SimilarityMatrix.values is an array)
"""What a similarity matrix says in numbers: distribution, most confused pairs, prototypes against features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import Floats, unit_prototypes
from interproto_lib.analysis.similarity import SimilarityMatrix, class_positions
from interproto_lib.errors import ConfigError

_SYMMETRY_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class SimilaritySummary:
    """Distribution of the similarity of pairs of different identities.

    Attributes:
        n_pairs: Pairs counted: unordered where the matrix is symmetric, ordered for child-adult.
        mean: Their mean.
        rms: Root of their mean square; for prototypes, the Inter-Prototype loss over n (n - 1), under the root.
        p05: 5th percentile.
        median: 50th percentile.
        p95: 95th percentile.
        max: Largest.
        share_above: Share of pairs with a similarity above `threshold`.
        threshold: That threshold, a cosine.
    """

    n_pairs: int
    mean: float
    rms: float
    p05: float
    median: float
    p95: float
    max: float
    share_above: float
    threshold: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dictionary, for a table or JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PrototypeFeatureGap:
    """How far the similarity of prototypes is from the similarity of the features they stand for.

    Attributes:
        n_pairs: Pairs of different identities counted.
        prototype_mean: Mean cosine of their prototypes.
        feature_mean: Mean similarity of their images (Eq. 2).
        gap_mean: Mean of prototype minus feature; below 0, features are closer together than prototypes.
        gap_rms: Root mean square of the gap.
        gap_p05: 5th percentile of the gap.
        gap_median: Its median.
        gap_p95: Its 95th percentile.
        correlation: Pearson correlation of the two over the pairs; NaN where either is constant.
    """

    n_pairs: int
    prototype_mean: float
    feature_mean: float
    gap_mean: float
    gap_rms: float
    gap_p05: float
    gap_median: float
    gap_p95: float
    correlation: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dictionary, for a table or JSON."""
        return asdict(self)


def summarise_similarity(
    matrix: SimilarityMatrix | Floats, *, threshold: float = 0.3, both_orders: bool | None = None
) -> SimilaritySummary:
    """Summarise the off-diagonal entries of a similarity matrix.

    A symmetric cohort counts each unordered pair once; child-adult counts both orders, since the child images of i
    against the adult images of j are other pairs than the reverse. NaN entries (identities without images) are left
    out and lower `n_pairs`.

    Args:
        matrix: A SimilarityMatrix, or a square array such as `prototype_similarity` gives.
        threshold: Cosine above which a pair counts in `share_above`.
        both_orders: None takes what the matrix says, and unordered pairs for an array, which must then be symmetric.

    Returns:
        The summary.

    Raises:
        ConfigError: An array that is not square or, with unordered pairs, not symmetric; or no pair to count.

    Example:
        >>> summarise_similarity(np.array([[1.0, 0.4, 0.2], [0.4, 1.0, 0.3], [0.2, 0.3, 1.0]])).mean.__round__(3)
        0.3
    """
    pairs = _pair_values(matrix, both_orders)
    mean, mean_square = _moments(pairs)
    largest, n_above = float(pairs.max()), int(np.count_nonzero(pairs > threshold))
    p05, median, p95 = _quantiles(pairs)
    return SimilaritySummary(
        n_pairs=len(pairs),
        mean=mean,
        rms=mean_square**0.5,
        p05=p05,
        median=median,
        p95=p95,
        max=largest,
        share_above=n_above / len(pairs),
        threshold=threshold,
    )


def most_confused_pairs(matrix: SimilarityMatrix, *, top: int = 20) -> pd.DataFrame:
    """List the pairs of different identities with the highest similarity.

    Args:
        matrix: The similarity of identities.
        top: How many pairs, >= 1; fewer are returned where there are fewer.

    Returns:
        Columns `row_identity`, `column_identity`, `similarity`, `n_row_images`, `n_column_images`, highest first. A
        symmetric cohort lists each unordered pair once, child-adult each order.

    Raises:
        ConfigError: `top` is below 1.
    """
    if top < 1:
        raise ConfigError(f"top is {top}; it must be at least 1.")
    best_rows, best_columns, best_values = highest_cells(_masked_blocks(matrix), top)
    return pd.DataFrame(
        {
            "row_identity": matrix.row_identities[best_rows],
            "column_identity": matrix.column_identities[best_columns],
            "similarity": best_values,
            "n_row_images": matrix.n_row_images[best_rows],
            "n_column_images": matrix.n_column_images[best_columns],
        }
    )


def highest_cells(
    blocks: Iterable[tuple[int, int, Floats]], top: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Find the highest cells of a matrix that comes block by block.

    Args:
        blocks: Row and column of a block's first cell in the matrix, and its values (r, c); NaN counts nowhere.
        top: How many cells, >= 1; fewer are returned where there are fewer.

    Returns:
        Rows, columns and values of the cells (k,), highest first, equal ones by row and column.

    Example:
        >>> blocks = [(0, 0, np.array([[1.0, 3.0]])), (1, 0, np.array([[2.0, np.nan]]))]
        >>> rows, columns, values = highest_cells(blocks, 2)
        >>> rows.tolist(), columns.tolist(), values.tolist()
        ([0, 1], [1, 0], [3.0, 2.0])
    """
    best: Floats = np.empty(0, dtype=np.float32)
    rows = columns = np.empty(0, dtype=np.int64)
    for first_row, first_column, block in blocks:
        floor = best[-1] if len(best) == top else -np.inf
        flat = block.ravel()
        found = np.flatnonzero(flat > floor)  # NaN compares false
        if len(found) > top:
            found = found[np.argpartition(-flat[found], top - 1)[:top]]
        best = np.concatenate([best, flat[found]])
        rows = np.concatenate([rows, first_row + found // block.shape[1]])
        columns = np.concatenate([columns, first_column + found % block.shape[1]])
        order = np.lexsort((columns, rows, -best))[:top]
        best, rows, columns = best[order], rows[order], columns[order]
    return rows, columns, best


def prototype_feature_gap(matrix: SimilarityMatrix, prototypes: Floats, classes: pd.DataFrame) -> PrototypeFeatureGap:
    """Compare the cosines of prototypes with the similarity of the images, pair of identities by pair.

    The Inter-Prototype loss acts on prototypes; this tells whether the features followed.

    Args:
        matrix: Similarity of features (Eq. 2).
        prototypes: (k, d), row i for class i.
        classes: k rows with `identity`.

    Returns:
        Means, distribution of the gap, and correlation, over the pairs that `summarise_similarity` counts.

    Raises:
        ConfigError: An identity of the matrix is not a class, or there is no pair to count.
    """
    if len(prototypes) != len(classes):
        raise ConfigError(f"{len(prototypes)} prototypes do not fit {len(classes)} classes.")
    unit = unit_prototypes(prototypes).astype(np.float32)
    rows = unit[class_positions(matrix.row_identities, classes)]
    columns = unit[class_positions(matrix.column_identities, classes)]
    gaps = _Gathered(matrix.values.size)
    sums = np.zeros(5)
    for start, left, block in _masked_blocks(matrix):
        counted = ~np.isnan(block)
        feature = block[counted]
        cosine = (rows[start : start + len(block)] @ columns[left:].T)[counted]
        gaps.add(cosine - feature)
        f, c = feature.astype(np.float64), cosine.astype(np.float64)
        sums += (f.sum(), c.sum(), f @ f, c @ c, f @ c)
    gap = gaps.found()
    feature_mean, cosine_mean, feature_square, cosine_square, product = (float(x) for x in sums / len(gap))
    gap_mean, gap_square = _moments(gap)
    spread = max(feature_square - feature_mean**2, 0.0) * max(cosine_square - cosine_mean**2, 0.0)
    p05, median, p95 = _quantiles(gap)
    return PrototypeFeatureGap(
        n_pairs=len(gap),
        prototype_mean=cosine_mean,
        feature_mean=feature_mean,
        gap_mean=gap_mean,
        gap_rms=gap_square**0.5,
        gap_p05=p05,
        gap_median=median,
        gap_p95=p95,
        correlation=(product - feature_mean * cosine_mean) / spread**0.5 if spread > 0 else float("nan"),
    )


class _Gathered:
    """Values gathered block by block into one array; memory is taken only for what is added."""

    def __init__(self, at_most: int) -> None:
        self._all = np.empty(at_most, dtype=np.float32)
        self._n = 0

    def add(self, values: NDArray[np.float32]) -> None:
        self._all[self._n : self._n + len(values)] = values
        self._n += len(values)

    def found(self) -> NDArray[np.float32]:
        if self._n == 0:
            raise ConfigError("the matrix has no pair of different identities with images to count.")
        return self._all[: self._n]


def _masked_blocks(
    matrix: SimilarityMatrix, *, rows_at_a_time: int = 256
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """First row, first column and a copy of each block, NaN where an entry is not to be counted.

    A symmetric matrix gives only the blocks that reach above the diagonal.
    """
    column_of = {identity: j for j, identity in enumerate(matrix.column_identities)}
    for start in range(0, len(matrix.values), rows_at_a_time):
        left = 0 if matrix.both_orders else start
        block = matrix.values[start : start + rows_at_a_time, left:].copy()
        if matrix.both_orders:
            for i in range(len(block)):
                same = column_of.get(matrix.row_identities[start + i])
                if same is not None:
                    block[i, same] = np.nan
        else:
            block[np.tril_indices(len(block))] = np.nan
        yield start, left, block


def _pair_values(matrix: SimilarityMatrix | Floats, both_orders: bool | None) -> NDArray[np.float32]:
    if isinstance(matrix, SimilarityMatrix):
        if both_orders not in (None, matrix.both_orders):
            raise ConfigError(f"cohort {matrix.cohort!r} has both_orders={matrix.both_orders}; leave both_orders out.")
        gathered = _Gathered(matrix.values.size)
        for _, _, block in _masked_blocks(matrix):
            gathered.add(block[~np.isnan(block)])
        return gathered.found()
    values = np.asarray(matrix)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ConfigError(f"an array must be square to have off-diagonal pairs, got shape {values.shape}.")
    if not both_orders and not _is_symmetric(values):
        raise ConfigError("the array is not symmetric: pass both_orders=True to count (i, j) and (j, i) apart.")
    gathered = _Gathered(values.size)
    for i, row in enumerate(values):
        for part in (row[:i], row[i + 1 :]) if both_orders else (row[i + 1 :],):
            gathered.add(part[~np.isnan(part)])
    return gathered.found()


def _is_symmetric(values: Floats, *, rows_at_a_time: int = 1024) -> bool:
    return all(
        np.allclose(
            values[start : start + rows_at_a_time],
            values[:, start : start + rows_at_a_time].T,
            rtol=0,
            atol=_SYMMETRY_TOLERANCE,
            equal_nan=True,
        )
        for start in range(0, len(values), rows_at_a_time)
    )


def _moments(values: NDArray[np.float32], *, at_a_time: int = 1 << 20) -> tuple[float, float]:
    """Mean and mean square, accumulated in float64 without a float64 copy of everything."""
    total = total_square = 0.0
    for start in range(0, len(values), at_a_time):
        block = values[start : start + at_a_time].astype(np.float64)
        total += float(block.sum())
        total_square += float(block @ block)
    return total / len(values), total_square / len(values)


def _quantiles(values: NDArray[np.float32]) -> tuple[float, float, float]:
    """5th, 50th and 95th percentile, interpolated linearly; sorts the values in place, faster than selecting them."""
    values.sort()
    place = np.array([0.05, 0.5, 0.95]) * (len(values) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.ceil(place).astype(np.int64)
    low, high = values[below].astype(np.float64), values[above].astype(np.float64)
    p05, median, p95 = (low + (place - below) * (high - low)).tolist()
    return p05, median, p95
