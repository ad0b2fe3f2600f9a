"""Pictures of parts of similarity matrices that are too large to build: means and maxima of blocks, from their factors.

A matrix is a weighted sum of products, sum_k w_k R_k C_k^T. The sum over a block of such a matrix is the product of
the sums of its rows and of its columns, so a picture of 400 x 400 block means costs 400 x 400 products, whatever the
size of the matrix. Maxima have no such short cut: see `block_maxima`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from interproto_lib.devices import resolve_device
from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.bin_sums import BinSums
from interproto_lib.views.explorer.block_maxima import BlockMaxima
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.explorer.matrix_terms import (
    Floats32,
    Ints,
    MatrixTerm,
    TermMatrix,
    checked_own_columns,
    common_shape,
    finite_rows,
)
from interproto_lib.views.explorer.ordered_matrix import Bins, OrderedMatrix, OwnCells, OwnPlaces, Picture, cells_of

__all__ = ["LinkedMatrices", "MatrixTerm", "Pooling", "TermMatrix", "Tile"]

Pooling = Literal["mean", "max"]
"""What a block of cells shows: their mean, or the highest of them."""

_MOST_CELLS_AT_ONCE = 2_000_000
"""Products of cells made while somebody waits for maxima; a view of more needs those computed beforehand."""

_KEPT_MAXIMA_BYTES = 512 * 2**20
"""Memory for maxima of orders that stood before; those of the order that stands are kept whatever they take."""

_ROWS_AT_A_TIME = 8192

NO_MAXIMA = "The highest values of squares cannot be computed:"
"""What is said where maxima fail; the reason follows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Tile:
    """A part of each matrix as a picture, all of the same cells.

    Attributes:
        values: (p, h, w) float32, one picture a matrix; NaN where a block has no value.
        rows: First place among the rows, and the place after the last. Both are multiples of the block, so the last
            block may reach beyond the matrix.
        columns: The same among the columns.
        row_block: Rows in a block, a power of two.
        column_block: Columns in a block.
        pooling: What the blocks show. It is "mean" although maxima were asked for while these are not computed yet.
    """

    values: Floats32
    rows: tuple[int, int]
    columns: tuple[int, int]
    row_block: int
    column_block: int
    pooling: Pooling


class LinkedMatrices:
    """Matrices over the same rows and columns in one order, such as two runs and their difference.

    Arrays are used where they lie; beside them up to a quarter of their memory is taken. A term that several matrices
    hold is multiplied once.

    Attributes:
        n_rows: n.
        n_columns: m.
        row_order: (n,) place -> row.
        column_order: (m,) place -> column.
        row_places: (n,) row -> place.
        column_places: (m,) column -> place.
        own_columns: (n,) row -> column of the same identity, -1 for none.

    Example:
        >>> vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
        >>> matrices = LinkedMatrices([TermMatrix(terms=(MatrixTerm(rows=vectors, columns=vectors),))])
        >>> matrices.reorder([2, 0, 1])
        >>> matrices.tile((0, 1), (0, 3), (4, 4)).values[0].round(2)  # row 2 with columns 2, 0 and 1
        array([[1. , 0.6, 0.8]], dtype=float32)
    """

    def __init__(
        self, matrices: Sequence[TermMatrix], *, own_columns: ArrayLike | None = None, device: str = "cpu"
    ) -> None:
        """Check the arrays; rows and columns stand as given.

        Args:
            matrices: At least one, all of the same shape (n, m).
            own_columns: (n,) for each row the column of the same identity, -1 for none. None: column i is the identity
                of row i where n = m, and no cell pairs an identity with itself elsewhere.
            device: Where to compute, as `resolve_device` takes it.

        Raises:
            ConfigError: Shapes or types that do not fit, or `own_columns` out of range or with a column twice.
        """
        self._matrices = tuple(matrices)
        self.n_rows, self.n_columns = common_shape(self._matrices)
        self.own_columns = checked_own_columns(own_columns, self.n_rows, self.n_columns)
        self._device = resolve_device(device)
        self._tensors: dict[int, torch.Tensor] = {}
        self._finite: dict[int, NDArray[np.bool_]] = {}
        for array in (a for matrix in self._matrices for term in matrix.terms for a in (term.rows, term.columns)):
            if id(array) not in self._tensors:
                usable = array if array.flags.writeable and array.flags.c_contiguous else array.copy()
                self._tensors[id(array)] = torch.from_numpy(usable).to(self._device)
                self._finite[id(array)] = finite_rows(array)
        self._own_products = [self._products_of_own_cells(matrix) for matrix in self._matrices]
        self._maxima: BlockMaxima | None = None
        self._maxima_before: dict[tuple[bytes, bytes], BlockMaxima] = {}
        self._quiet = threading.Event()
        self._quiet.set()
        self._stand(np.arange(self.n_rows), np.arange(self.n_columns))

    def __len__(self) -> int:
        """The number of matrices, p."""
        return len(self._matrices)

    def reorder(self, rows: ArrayLike, columns: ArrayLike | None = None) -> None:
        """Stand rows and columns in another order. Maxima that are under way are given up.

        Args:
            rows: (n,) a permutation, place -> row.
            columns: (m,) a permutation, place -> column; None takes that of the rows.

        Raises:
            ConfigError: Not a permutation of all rows, or of all columns.
        """
        row_order = _permutation(rows, self.n_rows, "rows")
        column_order = _permutation(rows if columns is None else columns, self.n_columns, "columns")
        self.stop_maxima()
        if self._maxima is not None:
            self._maxima_before[self._order_key()] = self._maxima
        self._stand(row_order, column_order)
        self._maxima = self._maxima_before.pop(self._order_key(), None)
        while sum(kept.nbytes for kept in self._maxima_before.values()) > _KEPT_MAXIMA_BYTES:
            self._maxima_before.pop(next(iter(self._maxima_before)))

    def tile(
        self,
        rows: tuple[float, float],
        columns: tuple[float, float],
        size: tuple[int, int],
        *,
        pooling: Pooling = "mean",
    ) -> Tile:
        """Compute a picture of some places of the matrices.

        Args:
            rows: From and to, places among the rows in the order that stands, may be fractions; what lies outside the
                matrix is left out.
            columns: The same among the columns.
            size: Pixels high and wide: blocks are the smallest powers of two that need no more. Those of maxima can be
                larger, see `block_maxima`.
            pooling: What a block shows.

        Returns:
            The tile; it holds the places asked for, up to the edges of blocks.

        Raises:
            ConfigError: No place of the matrix is asked for, a size below 1, or an unknown pooling.
        """
        if pooling not in ("mean", "max"):
            raise ConfigError(f"pooling {pooling!r}: must be 'mean' or 'max'.")
        row_bins = _bins(rows, self.n_rows, size[0], "rows")
        column_bins = _bins(columns, self.n_columns, size[1], "columns")
        with self._somebody_waits():
            maxima = self._shown_maxima(row_bins, column_bins) if pooling == "max" else None
            if maxima is not None:
                values, row_bins, column_bins = maxima
            else:
                picture = Picture(row_bins, column_bins)
                values = torch.stack([matrix.means(picture) for matrix in self._ordered])
        return Tile(
            values=values.cpu().numpy(),
            rows=row_bins.places,
            columns=column_bins.places,
            row_block=row_bins.size,
            column_block=column_bins.size,
            pooling="mean" if maxima is None else "max",
        )

    def values(self, rows: ArrayLike, columns: ArrayLike) -> Floats32:
        """Compute single cells.

        Args:
            rows: (r,) numbers of rows, whatever the order.
            columns: (c,) numbers of columns.

        Returns:
            (p, r, c) float32, one matrix after the other.
        """
        row, column = (np.atleast_1d(np.asarray(some, dtype=np.int64)) for some in (rows, columns))
        which_row, which_column = np.nonzero(self.own_columns[row][:, None] == column)
        products: dict[tuple[int, int], Floats32] = {}
        result = np.zeros((len(self), len(row), len(column)), dtype=np.float32)
        for values, matrix in zip(result, self._matrices, strict=True):
            for term in matrix.terms:
                key = (id(term.rows), id(term.columns))
                if key not in products:
                    left, right = self._taken(term.rows, row), self._taken(term.columns, column)
                    products[key] = (left @ right.T).cpu().numpy()
                values += term.weight * products[key]
            if matrix.own_values is not None:
                values[which_row, which_column] = matrix.own_values[row[which_row]]
        return result

    def _taken(self, array: Floats32, numbers: Ints) -> torch.Tensor:
        """Some rows of a table; the table itself, without a copy, where all are taken in their order."""
        tensor = self._tensors[id(array)]
        if len(numbers) == len(tensor) and np.array_equal(numbers, np.arange(len(tensor))):
            return tensor
        return tensor[torch.from_numpy(numbers).to(self._device)]

    def start_maxima(
        self,
        report: Callable[[int, int], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> bool:
        """Begin to compute the maxima of all blocks in a thread, unless they are there or under way.

        Every cell is computed once: n m d multiplications a product, half of it where rows and columns are the same
        arrays in the same order.

        Args:
            report: Called in the thread with the steps done and all steps, equal once the maxima can be shown.
            failed: Called in the thread with what stopped it, such as a lack of memory. They are not begun again until
                the order changes, or `forget_failed_maxima`.

        Returns:
            Whether a thread was started.
        """
        if self._maxima is not None:
            return False
        self._maxima = BlockMaxima(
            self._ordered, self.n_rows, self.n_columns, quiet=self._quiet, report=report, failed=failed
        )
        self._maxima.start()
        return True

    def stop_maxima(self) -> None:
        """Give up the maxima that are under way; those that are computed stay."""
        if self._maxima is not None and not self._maxima.ready:
            self._maxima.stop()
            self._maxima = None

    def forget_failed_maxima(self) -> None:
        """Let maxima that could not be computed be tried again."""
        if self._maxima is not None and self._maxima.problem is not None:
            self._maxima = None

    def wait_for_maxima(self, timeout: float | None = None) -> bool:
        """Wait for the maxima that are under way, at most so many seconds; whether they are there.

        Raises:
            ConfigError: They could not be computed; the message says why.
        """
        if self._maxima is None:
            return False
        ready = self._maxima.wait(timeout)
        if self._maxima.problem is not None:
            raise ConfigError(f"{NO_MAXIMA} {failure_words(self._maxima.problem)}") from self._maxima.problem
        return ready

    def needs_maxima(self, rows: tuple[float, float], columns: tuple[float, float], size: tuple[int, int]) -> bool:
        """Whether a tile of these arguments shows maxima only after `start_maxima` has done its work."""
        row_bins = _bins(rows, self.n_rows, size[0], "rows")
        column_bins = _bins(columns, self.n_columns, size[1], "columns")
        return not self._quick_maxima(row_bins, column_bins) and not (self._maxima is not None and self._maxima.ready)

    @property
    def nbytes(self) -> int:
        """Memory of what is kept beside the arrays: sums of bins, and maxima."""
        tables = {id(table): table for m in self._ordered for _, *both in m.terms for table in both}
        maxima = [*self._maxima_before.values(), *([] if self._maxima is None else [self._maxima])]
        return sum(table.nbytes for table in tables.values()) + sum(kept.nbytes for kept in maxima)

    def _stand(self, row_order: Ints, column_order: Ints) -> None:
        """Make the tables of the order; their sums are made when a picture needs them."""
        self.row_order, self.column_order = row_order, column_order
        self.row_places, self.column_places = np.argsort(row_order), np.argsort(column_order)
        tables: dict[tuple[int, bytes, bytes], BinSums] = {}

        def table(array: Floats32, valid: NDArray[np.bool_], order: Ints) -> BinSums:
            key = (id(array), valid.tobytes(), order.tobytes())
            if key not in tables:
                place = [torch.from_numpy(some).to(self._device) for some in (valid, order)]
                tables[key] = BinSums(self._tensors[id(array)], *place)
            return tables[key]

        self._ordered = []
        own_rows = np.flatnonzero(self.own_columns >= 0)
        own_places = OwnPlaces(
            rows=torch.from_numpy(self.row_places[own_rows]).to(self._device),
            columns=torch.from_numpy(self.column_places[self.own_columns[own_rows]]).to(self._device),
        )
        for matrix, own_products in zip(self._matrices, self._own_products, strict=True):
            valid_rows, valid_columns = self._valid(matrix)
            self._ordered.append(
                OrderedMatrix(
                    terms=[
                        (t.weight, table(t.rows, valid_rows, row_order), table(t.columns, valid_columns, column_order))
                        for t in matrix.terms
                    ],
                    own=self._own_cells(matrix, own_products, own_places),
                )
            )

    def _valid(self, matrix: TermMatrix) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The rows and the columns that have a value in every term."""
        rows = np.logical_and.reduce([self._finite[id(term.rows)] for term in matrix.terms])
        return rows, np.logical_and.reduce([self._finite[id(term.columns)] for term in matrix.terms])

    def _products_of_own_cells(self, matrix: TermMatrix) -> Floats32:
        """What the terms give where row i meets its own column, (n,); 0 where one of them has no value."""
        rows = np.flatnonzero(self.own_columns >= 0)
        result = np.zeros(self.n_rows, dtype=np.float32)
        if matrix.own_values is None:
            return result
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            row = rows[start : start + _ROWS_AT_A_TIME]
            for term in matrix.terms:
                result[row] += term.weight * np.vecdot(term.rows[row], term.columns[self.own_columns[row]])
        return np.nan_to_num(result, copy=False, nan=0.0)

    def _own_cells(self, matrix: TermMatrix, products: Floats32, places: OwnPlaces) -> OwnCells | None:
        rows = np.flatnonzero(self.own_columns >= 0)
        if matrix.own_values is None or len(rows) == 0:
            return None
        valid_rows, valid_columns = self._valid(matrix)
        counted = (valid_rows[rows] & valid_columns[self.own_columns[rows]]).astype(np.float32)
        arrays = (products[rows], counted, matrix.own_values[rows].astype(np.float32))
        product, counted_there, shown = (torch.from_numpy(array).to(self._device) for array in arrays)
        return OwnCells(places=places, products=product, counted=counted_there, shown=shown)

    def _quick_maxima(self, rows: Bins, columns: Bins) -> bool:
        """Whether all cells of the blocks can be computed while somebody waits."""
        n_products = len({(id(t.rows), id(t.columns)) for matrix in self._matrices for t in matrix.terms})
        return len(rows) * rows.size * len(columns) * columns.size * n_products <= _MOST_CELLS_AT_ONCE

    def _shown_maxima(self, rows: Bins, columns: Bins) -> tuple[torch.Tensor, Bins, Bins] | None:
        """Maxima of the blocks or of larger ones; None while these are not computed."""
        if rows.size == columns.size == 1:
            picture = Picture(rows, columns)
            return torch.stack([matrix.means(picture) for matrix in self._ordered]), rows, columns
        if self._quick_maxima(rows, columns):
            cells = cells_of(rows, columns)
            values = torch.stack([matrix.maxima(cells, rows, columns) for matrix in self._ordered])
        elif self._maxima is not None and self._maxima.ready:
            rows, columns = _at_least(rows, self._maxima.row_block), _at_least(columns, self._maxima.column_block)
            values = self._maxima.maxima(rows, columns).clone()
        else:
            return None
        return values.masked_fill_(values == -torch.inf, torch.nan), rows, columns

    def _order_key(self) -> tuple[bytes, bytes]:
        return self.row_order.tobytes(), self.column_order.tobytes()

    @contextmanager
    def _somebody_waits(self) -> Iterator[None]:
        """Let the thread of the maxima pause, and work on one thread: a picture is too small to share."""
        n_threads = torch.get_num_threads()
        self._quiet.clear()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            self._quiet.set()


def _bins(span: tuple[float, float], n: int, pixels: int, name: str) -> Bins:
    """The bins that show the places of a span with no more than so many pixels."""
    if pixels < 1:
        raise ConfigError(f"a tile of {pixels} pixels for its {name} shows nothing; give at least 1.")
    first, stop = max(0.0, span[0]), min(float(n), span[1])
    if not first < stop:
        raise ConfigError(f"places {span[0]:g} to {span[1]:g} of the {name} hold none of the matrix's {n} {name}.")
    size = 1
    while stop - first > pixels * size:
        size *= 2
    return Bins(size=size, first=int(first // size), stop=int(-(-stop // size)))


def _at_least(bins: Bins, size: int) -> Bins:
    """The bins of at least a size that hold the places of some bins."""
    if bins.size >= size:
        return bins
    return Bins(size=size, first=bins.places[0] // size, stop=-(-bins.places[1] // size))


def _permutation(order: ArrayLike, n: int, name: str) -> Ints:
    result = np.array(order, dtype=np.int64)
    if result.shape != (n,) or not np.array_equal(np.sort(result), np.arange(n)):
        raise ConfigError(f"the order of the {name} must hold each of 0 to {n - 1} once.")
    return result
