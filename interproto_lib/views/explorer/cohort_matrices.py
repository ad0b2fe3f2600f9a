"""The matrices of a cohort by their terms: images, prototypes or the difference of both, for one run or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from interproto_lib.analysis.class_similarity import row_products
from interproto_lib.analysis.similarity import COHORTS
from interproto_lib.views.explorer.explored_run import ExploredRun, Floats32, ImageGroup, Positions
from interproto_lib.views.explorer.matrix_terms import MatrixTerm, TermMatrix

Quantity = Literal["features", "prototypes", "difference"]

QUANTITIES: dict[str, str] = {
    "features": "images (Eq. 2)",
    "prototypes": "prototypes",
    "difference": "prototypes minus images",
}
"""What a matrix shows -> how it is called. `difference` is the gap between what the loss acts on and what follows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CohortMatrices:
    """Linked matrices of a cohort: one for each run and, of two runs, their difference.

    Attributes:
        matrices: The matrices, by their terms.
        titles: What each shows.
        rows: (r,) identities that stand in the rows.
        columns: (c,) identities that stand in the columns; the same as the rows but in `child-adult`.
        own_columns: (r,) for each row the column of the same identity, -1 for none.
        cohort: A name of `COHORTS`.
        quantity: A name of `QUANTITIES`.
    """

    matrices: tuple[TermMatrix, ...]
    titles: tuple[str, ...]
    rows: Positions
    columns: Positions
    own_columns: Positions
    cohort: str
    quantity: str

    @property
    def is_symmetric(self) -> bool:
        """Whether cell (i, j) and cell (j, i) show the same."""
        return len(set(COHORTS[self.cohort])) == 1


def term_matrix(run: ExploredRun, rows: Positions, columns: Positions, cohort: str, quantity: str) -> TermMatrix:
    """Give one run's matrix of a cohort.

    Args:
        run: The run.
        rows: (r,) identities in the rows.
        columns: (c,) identities in the columns.
        cohort: A name of `COHORTS`: whose images are compared.
        quantity: A name of `QUANTITIES`; without prototypes only `features`.

    Returns:
        The matrix by its terms.
    """
    if quantity == "difference":
        return matrix_difference(
            term_matrix(run, rows, columns, cohort, "prototypes"), term_matrix(run, rows, columns, cohort, "features")
        )
    row_images, column_images = COHORTS[cohort]
    if quantity == "prototypes":
        table = run.prototypes
        assert table is not None, "asked for only where there are prototypes"
        term = _term(table, table, rows, columns)
        return TermMatrix(terms=(term,), own_values=np.ones(len(rows), dtype=np.float32))
    of_rows, of_columns = run.means(_group(row_images)), run.means(_group(column_images))
    if row_images != column_images:
        own = row_products(of_rows[rows].astype(np.float64), of_columns[rows].astype(np.float64))
    elif run.prototypes is not None:
        own = row_products(of_rows[rows].astype(np.float64), run.prototypes[rows].astype(np.float64))
    else:
        own = np.full(len(rows), np.nan, dtype=np.float32)
    return TermMatrix(terms=(_term(of_rows, of_columns, rows, columns),), own_values=own)


def _group(images: str) -> ImageGroup:
    groups: dict[str, ImageGroup] = {"child": "child", "adult": "adult", "all": "all"}
    return groups[images]


def _term(of_rows: Floats32, of_columns: Floats32, rows: Positions, columns: Positions) -> MatrixTerm:
    """A product of two tables on some of their rows; one array where both sides are the same."""
    left = _taken(of_rows, rows)
    same = of_rows is of_columns and np.array_equal(rows, columns)
    return MatrixTerm(rows=left, columns=left if same else _taken(of_columns, columns))


def _taken(table: Floats32, rows: Positions) -> Floats32:
    return table if len(rows) == len(table) else np.ascontiguousarray(table[rows])


def matrix_difference(minuend: TermMatrix, subtrahend: TermMatrix) -> TermMatrix:
    """Subtract one matrix from another, term by term.

    Args:
        minuend: The first matrix.
        subtrahend: The matrix taken off, of the same shape.

    Returns:
        The difference by its terms; own cells are subtracted too.
    """
    taken_off = tuple(MatrixTerm(rows=t.rows, columns=t.columns, weight=-t.weight) for t in subtrahend.terms)
    own = None
    if minuend.own_values is not None and subtrahend.own_values is not None:
        own = minuend.own_values - subtrahend.own_values
    return TermMatrix(terms=(*minuend.terms, *taken_off), own_values=own)
