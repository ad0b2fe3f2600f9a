"""One similarity matrix in one order, by its factors: means and maxima of blocks of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from interproto_lib.views.explorer.bin_sums import BinSums


@dataclass(frozen=True, eq=False, kw_only=True)
class Bins:
    """Bins along one side of a picture.

    Attributes:
        size: Places in a bin, a power of two.
        first: The first bin.
        stop: The bin after the last.
    """

    size: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def places(self) -> tuple[int, int]:
        """First place, and the place after the last; it may lie beyond the matrix."""
        return self.first * self.size, self.stop * self.size


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnPlaces:
    """Where cells pair an identity with itself.

    Attributes:
        rows: (k,) int64, place of each among the rows.
        columns: (k,) int64, place of each among the columns.
    """

    rows: torch.Tensor
    columns: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnCells:
    """What the cells hold that pair an identity with itself.

    Attributes:
        places: Where they are.
        products: (k,) float32, what the factors give there; 0 where row or column has no value.
        counted: (k,) float32, 1 where row and column have a value, else 0.
        shown: (k,) float32, what the cell shows instead.
    """

    places: OwnPlaces
    products: torch.Tensor
    counted: torch.Tensor
    shown: torch.Tensor


class BlockSums(NamedTuple):
    """Sums of the cells of blocks.

    Attributes:
        values: (h, w) float32; a cell without a value adds nothing.
        row_counts: (h,) int64, rows of each block that have a value.
        column_counts: (w,) int64, columns of each block that have one.
    """

    values: torch.Tensor
    row_counts: torch.Tensor
    column_counts: torch.Tensor


@dataclass(frozen=True, eq=False)
class Picture:
    """The blocks of a picture, and what matrices share that are shown in it: a term that two of them hold is made once.

    Attributes:
        rows: The bins of its rows.
        columns: The bins of its columns.
    """

    rows: Bins
    columns: Bins
    _sums: dict[tuple[int, int], BlockSums] = field(default_factory=dict)
    _own: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def sums(self, rows: BinSums, columns: BinSums) -> BlockSums:
        """Sum of each block of the product of two tables."""
        key = (id(rows), id(columns))
        if key not in self._sums:
            row_sums, row_counts = rows.sums(self.rows.size, self.rows.first, self.rows.stop)
            column_sums, column_counts = columns.sums(self.columns.size, self.columns.first, self.columns.stop)
            self._sums[key] = BlockSums(row_sums @ column_sums.T, row_counts, column_counts)
        return self._sums[key]

    def own(self, places: OwnPlaces) -> tuple[torch.Tensor, torch.Tensor]:
        """Which own cells lie in the picture, (k',), and the number of each one's block, counted row by row, (k',)."""
        if id(places) not in self._own:
            (top, bottom), (left, right) = self.rows.places, self.columns.places
            inside = (places.rows >= top) & (places.rows < bottom) & (places.columns >= left) & (places.columns < right)
            which = inside.nonzero()[:, 0]
            row = (places.rows[which] - top) // self.rows.size
            column = (places.columns[which] - left) // self.columns.size
            self._own[id(places)] = which, row * len(self.columns) + column
        return self._own[id(places)]


@dataclass(frozen=True, eq=False, kw_only=True)
class OrderedMatrix:
    """A weighted sum of products of two tables, each in its order.

    Attributes:
        terms: Weight, rows and columns of each product. All tables of a side count the same rows.
        own: Cells that count in no block; None where every cell counts.
    """

    terms: Sequence[tuple[float, BinSums, BinSums]]
    own: OwnCells | None

    @property
    def symmetric(self) -> bool:
        """Whether cell (i, j) equals cell (j, i) in this order."""
        return all(rows is columns for _, rows, columns in self.terms)

    def means(self, picture: Picture) -> torch.Tensor:
        """Mean of each block of cells, NaN where none counts; a block of one cell shows it, also an own cell.

        Args:
            picture: The blocks.

        Returns:
            (h, w) float32.
        """
        of_blocks = self._sums(picture)
        sums = of_blocks.values.clone()
        n_cells = of_blocks.row_counts[:, None].float() * of_blocks.column_counts
        if self.own is not None:
            which, block = picture.own(self.own.places)
            if picture.rows.size == picture.columns.size == 1:
                sums.view(-1)[block] = self.own.shown[which]
                n_cells.view(-1)[block] = 1
            else:
                sums.view(-1).scatter_add_(0, block, -self.own.products[which])
                n_cells.view(-1).scatter_add_(0, block, -self.own.counted[which])
        return sums.div_(n_cells).masked_fill_(n_cells == 0, torch.nan)

    def maxima(self, cells: Picture, rows: Bins, columns: Bins) -> torch.Tensor:
        """Highest cell of each block, -inf where none counts.

        Args:
            cells: All cells of the blocks, see `cells_of`.
            rows: The bins of the picture's rows.
            columns: The bins of its columns.

        Returns:
            (rows, columns) float32.
        """
        values, row_counts, column_counts = self._sums(cells)
        empty_rows, empty_columns = (counts == 0 for counts in (row_counts, column_counts))
        own_cells = None if self.own is None else cells.own(self.own.places)[1]
        if empty_rows.any() or empty_columns.any() or (own_cells is not None and len(own_cells)):
            values = values.clone()
            values[empty_rows] = -torch.inf
            values[:, empty_columns] = -torch.inf
            if own_cells is not None:
                values.view(-1)[own_cells] = -torch.inf
        highest = values.view(len(rows), rows.size, -1).amax(1)
        return highest.view(len(rows), len(columns), columns.size).amax(2)

    def _sums(self, picture: Picture) -> BlockSums:
        """Sum of each block over all its cells that have a value, own cells too; others may hold the same tensors."""
        (weight, rows, columns), *others = self.terms
        of_blocks = picture.sums(rows, columns)
        total = of_blocks.values if weight == 1.0 else of_blocks.values * weight
        for weight, rows, columns in others:
            total = torch.add(total, picture.sums(rows, columns).values, alpha=weight)
        return of_blocks._replace(values=total)


def cells_of(rows: Bins, columns: Bins) -> Picture:
    """The picture of every single cell of some blocks."""
    row_cells, column_cells = (Bins(size=1, first=bins.places[0], stop=bins.places[1]) for bins in (rows, columns))
    return Picture(row_cells, column_cells)
