"""Who is confused with whom: the highest cells of a matrix that is never built, and the table that leads to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from numpy.typing import NDArray

from interproto_lib.analysis.similarity_summary import highest_cells
from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.cohort_matrices import CohortMatrices
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.live_view import LiveView, read_script
from interproto_lib.views.explorer.matrix_terms import MatrixTerm, TermMatrix

_CELLS_AT_A_TIME = 16_000_000


def most_confused_cells(
    matrices: CohortMatrices,
    *,
    which: int = 0,
    top: int = 50,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the highest cells of a matrix, those that pair an identity with itself left out; exact, block by block.

    Args:
        matrices: Linked matrices.
        which: The matrix whose cells are ordered.
        top: How many, >= 1; fewer are returned where there are fewer.
        progress: Called with the rows done and all rows after each block.
        stop: Once set, the search ends after the block under way.

    Returns:
        Rows and columns of the cells (k,), highest first; of a symmetric matrix each unordered pair once. Both are
        empty if the search was stopped.

    Raises:
        ConfigError: There is no such matrix, or `top` is below 1.
    """
    if not 0 <= which < len(matrices.matrices):
        raise ConfigError(f"matrix {which}: there are {len(matrices.matrices)}, counted from 0.")
    if top < 1:
        raise ConfigError(f"top is {top}; it must be at least 1.")
    blocks = _blocks(matrices, matrices.matrices[which], progress=progress, stop=stop)
    rows, columns, _ = highest_cells(blocks, top)
    if stop is not None and stop.is_set():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return rows, columns


def _blocks(
    matrices: CohortMatrices,
    matrix: TermMatrix,
    *,
    progress: Callable[[int, int], None] | None,
    stop: threading.Event | None,
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Row and column of each block's first cell and its values, until the end or a stop; see `highest_cells`."""
    n_rows, n_columns = len(matrices.rows), len(matrices.columns)
    step = max(1, _CELLS_AT_A_TIME // n_columns)
    for start in range(0, n_rows, step):
        if stop is not None and stop.is_set():
            return
        end = min(start + step, n_rows)
        left = start if matrices.is_symmetric else 0  # what lies below the diagonal is above it as well
        yield start, left, _different_cells(matrix, matrices, start, end, left)
        if progress is not None:
            progress(end, n_rows)


def find_confused_pairs(
    explored: ExploredRuns,
    *,
    cohort: str = "all",
    quantity: str = "features",
    which: int = 0,
    top: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """List the pairs of identities that are most similar.

    Args:
        explored: The runs.
        cohort: A name of `explored.cohorts`.
        quantity: A name of `explored.quantities`.
        which: Whose highest cells: 0 for the first run, 1 for the second, 2 for the second minus the first.
        top: How many.
        progress: Called with the rows done and all rows.

    Returns:
        See `confused_pairs_table`; highest first.

    Raises:
        ConfigError: An unknown name, no such matrix, or `top` below 1.
    """
    matrices = explored.matrices(cohort, quantity)
    return confused_pairs_table(
        explored, matrices, *most_confused_cells(matrices, which=which, top=top, progress=progress)
    )


def confused_pairs_table(
    explored: ExploredRuns, matrices: CohortMatrices, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> pd.DataFrame:
    """Describe cells: who they pair, how old, and what every matrix shows there.

    Args:
        explored: The runs.
        matrices: Linked matrices.
        rows: (k,) rows of the cells.
        columns: (k,) columns of the cells.

    Returns:
        k rows: `row_identity`, `column_identity`, one column a matrix under its title, `row_age_years`,
        `column_age_years` (mean ages), `row_images`, `column_images` (all images of the identity).
    """
    table = explored.identities
    of_rows, of_columns = table.iloc[matrices.rows[rows]], table.iloc[matrices.columns[columns]]
    values = {
        title: np.array([_cell(matrix, row, column) for row, column in zip(rows, columns, strict=True)], np.float32)
        for title, matrix in zip(matrices.titles, matrices.matrices, strict=True)
    }
    return pd.DataFrame(
        {
            "row_identity": of_rows["identity"].to_numpy(dtype=object),
            "column_identity": of_columns["identity"].to_numpy(dtype=object),
            **values,
            "row_age_years": of_rows["age_years"].to_numpy(),
            "column_age_years": of_columns["age_years"].to_numpy(),
            "row_images": of_rows["n_images"].to_numpy(),
            "column_images": of_columns["n_images"].to_numpy(),
        }
    )


def _different_cells(
    matrix: TermMatrix, matrices: CohortMatrices, start: int, end: int, left: int
) -> NDArray[np.float32]:
    """Cells of some rows from a column on; NaN where they pair an identity with itself, or stand twice."""
    block = sum(_product(term, start, end, left) for term in matrix.terms)
    assert isinstance(block, np.ndarray)
    own = matrices.own_columns[start:end] - left
    there = (own >= 0) & (own < block.shape[1])
    block[np.flatnonzero(there), own[there]] = np.nan
    if matrices.is_symmetric:
        block[np.tril_indices(end - start, m=block.shape[1])] = np.nan
    return block


def _product(term: MatrixTerm, start: int, end: int, left: int) -> NDArray[np.float32]:
    product = term.rows[start:end] @ term.columns[left:].T
    return product if term.weight == 1.0 else np.float32(term.weight) * product


def _cell(matrix: TermMatrix, row: int, column: int) -> float:
    return float(sum(term.weight * float(term.rows[row] @ term.columns[column]) for term in matrix.terms))


class ConfusedPairsTable(LiveView):
    """A table of pairs in the page: sorted by any column, exported as CSV, and a row can be chosen.

    Attributes:
        columns: Name, heading, kind of each column: [name, heading, `text` | `value` | `age` | `count`].
        rows: The cells, row by row; null where a number is not known.
        sort: [name of the column, whether the highest stands first].
        chosen: The row chosen, counted in `rows`; -1 for none.
        caption: What the table shows.
        file_name: Name of the exported file.
    """

    _esm = read_script("confused_pairs.js")

    columns: traitlets.List[Any] = traitlets.List().tag(sync=True)
    rows: traitlets.List[Any] = traitlets.List().tag(sync=True)
    sort: traitlets.List[Any] = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)
    file_name = traitlets.Unicode("pairs.csv").tag(sync=True)

    def show(self, table: pd.DataFrame, *, caption: str, sort: str, file_name: str = "pairs.csv") -> None:
        """Show another table.

        Args:
            table: As `confused_pairs_table` gives it.
            caption: What it shows.
            sort: The column that it is sorted by, highest first.
            file_name: Name of the exported file.
        """
        known = table.astype(object).where(table.notna(), None)
        with self.hold_sync():
            self.chosen = -1
            self.columns = [[name, *_heading(name)] for name in table.columns]
            self.rows = [[_plain(value) for value in row] for row in known.itertuples(index=False)]
            self.sort = [sort, True]
            self.caption = caption
            self.file_name = file_name

    def clear(self, caption: str) -> None:
        """Show no table.

        Args:
            caption: What is said in its place.
        """
        with self.hold_sync():
            self.chosen = -1
            self.rows, self.columns = [], []
            self.caption = caption


def _heading(name: str) -> tuple[str, str]:
    """What stands over a column, and of what kind it is."""
    headings = {
        "row_identity": ("Row", "text"),
        "column_identity": ("Column", "text"),
        "row_age_years": ("Row, years", "age"),
        "column_age_years": ("Column, years", "age"),
        "row_images": ("Row, images", "count"),
        "column_images": ("Column, images", "count"),
    }
    return headings.get(name, (name, "value"))


def _plain(value: Any) -> Any:
    """A value that JSON knows."""
    return value.item() if isinstance(value, np.generic) else value
