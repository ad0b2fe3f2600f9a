"""Similarity matrices written as sums of products of two tables, one row an identity, and what these must fulfil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interproto_lib.errors import ConfigError

_ROWS_AT_A_TIME = 8192

Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixTerm:
    """One product of a matrix: cell (i, j) gains weight * (row i of `rows` . row j of `columns`).

    Attributes:
        rows: (n, d) float32. Where row i holds a NaN, the cells of row i have no value.
        columns: (m, d) float32, the same for the columns. May be the very array `rows`.
        weight: Factor of the product, such as -1 for the run that is taken off.
    """

    rows: Floats32
    columns: Floats32
    weight: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class TermMatrix:
    """A matrix (n, m) by its terms.

    Attributes:
        terms: At least one; d may differ between them.
        own_values: (n,) what a cell shows that pairs an identity with itself: Eq. 1 as in the paper's Fig. 2, NaN for
            nothing. Such cells then count in no block. None shows the product there and counts it, as in a matrix of
            child against adult images.
    """

    terms: tuple[MatrixTerm, ...]
    own_values: NDArray[np.floating] | None = None


def common_shape(matrices: Sequence[TermMatrix]) -> tuple[int, int]:
    """Give the shape (n, m) that all matrices have; ConfigError where tables do not fit together."""
    if not matrices:
        raise ConfigError("give at least one matrix.")
    shapes = set()
    for matrix in matrices:
        if not matrix.terms:
            raise ConfigError("a matrix needs at least one term.")
        for term in matrix.terms:
            for array in (term.rows, term.columns):
                if array.ndim != 2 or array.dtype != np.float32:
                    raise ConfigError(f"tables of a matrix must be (n, d) float32, got {array.shape} {array.dtype}.")
            if term.rows.shape[1] != term.columns.shape[1]:
                raise ConfigError(f"rows have {term.rows.shape[1]} dimensions, columns {term.columns.shape[1]}.")
            shapes.add((len(term.rows), len(term.columns)))
        if matrix.own_values is not None and matrix.own_values.shape != (len(matrix.terms[0].rows),):
            raise ConfigError(
                f"own_values have shape {matrix.own_values.shape}; expected one for each of "
                f"{len(matrix.terms[0].rows)} rows."
            )
    if len(shapes) > 1:
        raise ConfigError(f"linked matrices must have one shape, got {', '.join(map(str, sorted(shapes)))}.")
    shape = shapes.pop()
    if 0 in shape:
        raise ConfigError(f"a matrix of {shape[0]} x {shape[1]} has nothing to show.")
    return shape


def checked_own_columns(own_columns: ArrayLike | None, n_rows: int, n_columns: int) -> Ints:
    """Give for each row the column of the same identity, see `LinkedMatrices`; ConfigError where it cannot be."""
    if own_columns is None:
        return np.arange(n_rows) if n_rows == n_columns else np.full(n_rows, -1)
    own = np.array(own_columns, dtype=np.int64)
    if own.shape != (n_rows,) or own.min() < -1 or own.max() >= n_columns:
        raise ConfigError(f"own_columns must name one of {n_columns} columns, or -1, for each of {n_rows} rows.")
    columns, counts = np.unique(own[own >= 0], return_counts=True)
    if (counts > 1).any():
        raise ConfigError(f"own_columns names column {columns[counts > 1][0]} for two rows.")
    return own


def finite_rows(array: Floats32) -> NDArray[np.bool_]:
    """Which rows hold numbers only; a block of rows at a time, so that no second table is made."""
    blocks = range(0, len(array), _ROWS_AT_A_TIME)
    return np.concatenate([np.isfinite(array[s : s + _ROWS_AT_A_TIME].sum(axis=1)) for s in blocks])
