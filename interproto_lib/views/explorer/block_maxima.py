"""The highest cell of every block of very large similarity matrices, computed in the background.

A maximum cannot be had from sums: every cell must be computed once, n m d operations. For 10,572 identities that takes
seconds, for 85,742 minutes on two cores, and again in every new order, since the blocks hold other cells then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from interproto_lib.views.explorer.ordered_matrix import Bins, OrderedMatrix, cells_of

_MOST_BLOCKS = 6144
"""Blocks along a side that are kept: at most 151 MB a matrix."""

_SMALLEST_BLOCK = 4
"""Maxima of smaller blocks are quick enough to be computed when they are looked at."""

_CELLS_AT_ONCE = 2**20
"""Cells computed between two looks whether somebody waits for a picture, about 20 ms."""


class BlockMaxima:
    """Maxima of all blocks of some matrices over the same rows and columns, filled by a thread.

    Args:
        matrices: The matrices, in the order for which the maxima hold.
        n_rows: Rows of each.
        n_columns: Columns of each.
        quiet: Set while nobody waits for a picture; the thread computes only then.
        report: Called in the thread with the steps done and all of them; None reports nothing.
        failed: Called in the thread with what stopped it, such as a lack of memory; `problem` keeps it.
    """

    def __init__(
        self,
        matrices: Sequence[OrderedMatrix],
        n_rows: int,
        n_columns: int,
        *,
        quiet: threading.Event,
        report: Callable[[int, int], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self.row_block, self.column_block = _kept_block(n_rows), _kept_block(n_columns)
        self.ready = False
        self.problem: Exception | None = None
        self._matrices = matrices
        self._quiet = quiet
        self._report, self._failed = report, failed
        self._stopped = threading.Event()
        self._shape = (len(matrices), -(-n_rows // self.row_block), -(-n_columns // self.column_block))
        self._symmetric = n_rows == n_columns and all(matrix.symmetric for matrix in matrices)
        self._levels: list[torch.Tensor] = []
        self._thread = threading.Thread(target=self._work, name="block maxima", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """Stop computing and wait for the thread's end, at most the time of one step."""
        self._stopped.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether the maxima are there."""
        self._thread.join(timeout)
        return self.ready

    @property
    def nbytes(self) -> int:
        """Memory of the maxima."""
        return sum(level.nbytes for level in self._levels)

    def maxima(self, rows: Bins, columns: Bins) -> torch.Tensor:
        """Give the maxima of blocks at least as large as those kept.

        Args:
            rows: The bins of the picture's rows, of a multiple of `row_block` places.
            columns: The bins of its columns, of a multiple of `column_block` places.

        Returns:
            (p, rows, columns) float32, -inf where no cell of a block counts.
        """
        row_factor, column_factor = rows.size // self.row_block, columns.size // self.column_block
        level = min(row_factor, column_factor, 2 ** (len(self._levels) - 1)).bit_length() - 1
        row_factor, column_factor = row_factor >> level, column_factor >> level
        kept = self._levels[level][
            :,
            rows.first * row_factor : rows.stop * row_factor,
            columns.first * column_factor : columns.stop * column_factor,
        ]
        return _coarser(kept, row_factor, column_factor)

    def _work(self) -> None:
        """What the thread does: fill, or say why not."""
        try:
            self._fill()
        except Exception as problem:
            self._levels, self.problem = [], problem
            if self._failed is not None:
                self._failed(problem)

    def _fill(self) -> None:
        """Compute block by block, then the coarser levels."""
        self._levels.append(torch.empty(self._shape))
        _, n_row_bins, n_column_bins = self._shape
        side = int(_CELLS_AT_ONCE**0.5)
        row_step, column_step = max(1, side // self.row_block), max(1, side // self.column_block)
        steps = [
            (row, column)
            for row in range(0, n_row_bins, row_step)
            for column in range(row if self._symmetric else 0, n_column_bins, column_step)
        ]
        for done, (row, column) in enumerate(steps):
            self._quiet.wait()
            if self._stopped.is_set():
                return
            self._compute(
                Bins(size=self.row_block, first=row, stop=min(row + row_step, n_row_bins)),
                Bins(size=self.column_block, first=column, stop=min(column + column_step, n_column_bins)),
            )
            if self._report is not None:
                self._report(done, len(steps))
        while max(self._levels[-1].shape[1:]) > 256:
            self._levels.append(_coarser(self._levels[-1], 2, 2))
        self.ready = True
        if self._report is not None:
            self._report(len(steps), len(steps))

    def _compute(self, rows: Bins, columns: Bins) -> None:
        cells = cells_of(rows, columns)
        for kept, matrix in zip(self._levels[0], self._matrices, strict=True):
            highest = matrix.maxima(cells, rows, columns).cpu()
            kept[rows.first : rows.stop, columns.first : columns.stop] = highest
            if self._symmetric:
                kept[columns.first : columns.stop, rows.first : rows.stop] = highest.T


def _kept_block(n: int) -> int:
    """The smallest block, a power of two, of which few enough are kept along a side."""
    block = _SMALLEST_BLOCK
    while -(-n // block) > _MOST_BLOCKS:
        block *= 2
    return block


def _coarser(maxima: torch.Tensor, row_factor: int, column_factor: int) -> torch.Tensor:
    """Maxima of blocks of maxima; the last blocks may be smaller."""
    if row_factor == column_factor == 1:
        return maxima
    return torch.nn.functional.max_pool2d(maxima, (row_factor, column_factor), ceil_mode=True)
