"""Sums of neighbouring rows of a table in any order, at any bin size, without a copy of the table."""

from __future__ import annotations

import torch

_STORED_SIZE = 8
"""Bins of so many rows and more are kept; smaller ones are summed anew, which for a picture costs a few ms."""


class BinSums:
    """A table in an order, and the sums of its rows by bins of 1, 2, 4, 8... places.

    Bins of 8 places and more are kept once asked for: up to a quarter of the table's memory.

    Args:
        vectors: (n, d) float32.
        valid: (n,) bool, the rows that count; the others add nothing, whatever they hold.
        order: (n,) int64, place -> row.
    """

    def __init__(self, vectors: torch.Tensor, valid: torch.Tensor, order: torch.Tensor) -> None:
        self._vectors = vectors
        shown = valid[order]
        self._shown_rows = order[shown]
        self._shown_before = torch.cat([shown.new_zeros(1, dtype=torch.int64), shown.cumsum(0)])
        self._levels: dict[int, torch.Tensor] = {}

    def sums(self, size: int, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the bins first to stop - 1.

        Args:
            size: Places in a bin, a power of two; bin k starts at place k * size, and the last one may be smaller.
            first: The first bin.
            stop: The bin after the last.

        Returns:
            (stop - first, d) sums, and (stop - first,) int64 how many rows count in each.
        """
        counts = self._edges(size, first, stop).diff()
        if size < _STORED_SIZE:
            return self._summed(size, first, stop), counts
        return self._level(size)[first:stop], counts

    @property
    def nbytes(self) -> int:
        """Memory of the kept bins."""
        return sum(level.nbytes for level in self._levels.values())

    def _edges(self, size: int, first: int, stop: int) -> torch.Tensor:
        places = torch.arange(first, stop + 1, device=self._shown_before.device) * size
        return self._shown_before[places.clamp(max=len(self._shown_before) - 1)]

    def _summed(self, size: int, first: int, stop: int) -> torch.Tensor:
        edges = self._edges(size, first, stop)
        start, end = int(edges[0]), int(edges[-1])
        if start == end:
            return self._vectors.new_zeros(stop - first, self._vectors.shape[1])
        return torch.nn.functional.embedding_bag(
            self._shown_rows[start:end], self._vectors, edges - start, mode="sum", include_last_offset=True
        )

    def _level(self, size: int) -> torch.Tensor:
        if size not in self._levels:
            if size == _STORED_SIZE:
                n_places = len(self._shown_before) - 1
                self._levels[size] = self._summed(size, 0, -(-n_places // size))
            else:
                finer = self._level(size // 2)
                level = finer[0::2].clone()
                level[: len(finer) // 2] += finer[1::2]
                self._levels[size] = level
        return self._levels[size]
