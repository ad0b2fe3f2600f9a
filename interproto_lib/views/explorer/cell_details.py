"""From a cell to its reason: the image pairs behind it, against all pairs of different people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.similarity import COHORTS
from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.explored_run import ExploredRun, Floats32, Positions

MOST_PAIRS_COUNTED = 20_000_000
"""Up to this many image pairs the impostor distribution counts all of them; of more it draws a sample."""

PAIRS_SAMPLED = 2_000_000

COSINE_BINS = np.linspace(-1.0, 1.0, 201)
"""Edges of the bins that image pairs are counted in."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImpostorPairs:
    """How similar images of different people are, in bins of 0.01.

    Attributes:
        counts: (200,) pairs in each bin from -1 to 1.
        n_pairs: Image pairs of different identities that there are.
        sampled: Whether `counts` is of a random sample of them.
    """

    counts: NDArray[np.int64]
    n_pairs: int
    sampled: bool

    def share_above(self, cosine: float) -> float:
        """Share of the pairs at or above a cosine, to the width of a bin."""
        first = int(np.clip(np.floor((cosine + 1) / 0.01 + 1e-9), 0, len(self.counts)))
        return float(self.counts[first:].sum() / max(1, self.counts.sum()))


@dataclass(frozen=True, eq=False, kw_only=True)
class CellPairs:
    """The image pairs behind a cell, as one run sees them.

    Attributes:
        cosines: (r, c) every image of the row's identity with every image of the column's; NaN where an image would be
            compared with itself. (0, c) or (r, 0) where an identity has no such image.
        row_images: (r,) rows of the run's manifest.
        column_images: (c,) rows of the run's manifest.
        prototypes: Cosine of the two prototypes; None where there are none.
    """

    cosines: Floats32
    row_images: Positions
    column_images: Positions
    prototypes: float | None

    @property
    def mean(self) -> float:
        """Mean cosine; NaN without a pair. Of two identities it is the cell's value (Eq. 2)."""
        return float(np.nanmean(self.cosines)) if np.isfinite(self.cosines).any() else float("nan")

    @property
    def closest(self) -> tuple[int, int] | None:
        """Rows of the manifest of the two images that are most similar; None without a pair."""
        if not np.isfinite(self.cosines).any():
            return None
        row, column = np.unravel_index(int(np.nanargmax(self.cosines)), self.cosines.shape)
        return int(self.row_images[row]), int(self.column_images[column])


def cell_pairs(run: ExploredRun, row: int, column: int, *, cohort: str = "all") -> CellPairs:
    """Compare every image of one identity with every image of another.

    Args:
        run: The run.
        row: Identity of the row.
        column: Identity of the column; it may be the same.
        cohort: Whose images are compared, a name of `COHORTS`.

    Returns:
        The pairs. Of one identity's images of one kind each pair stands once, above the diagonal.
    """
    row_group, column_group = COHORTS[cohort]
    left, right = run.images_of(row, row_group), run.images_of(column, column_group)  # type: ignore[arg-type]
    cosines = np.asarray(run.vectors[left] @ run.vectors[right].T, dtype=np.float32)
    if row == column and row_group == column_group:
        cosines[np.tril_indices(len(left))] = np.nan
    prototypes = None if run.prototypes is None else float(run.prototypes[row] @ run.prototypes[column])
    return CellPairs(cosines=cosines, row_images=left, column_images=right, prototypes=prototypes)


def impostor_pairs(
    run: ExploredRun, rows: Positions, columns: Positions, *, cohort: str, seed: int = 0
) -> ImpostorPairs:
    """Count how similar images of different people are, over a whole cohort.

    Args:
        run: The run.
        rows: Identities in the rows of the cohort.
        columns: Identities in its columns.
        cohort: Whose images are compared, a name of `COHORTS`. Within one group each pair is counted once.
        seed: Of the sample, where there are more than `MOST_PAIRS_COUNTED` pairs.

    Returns:
        The counts.
    """
    row_group, column_group = COHORTS[cohort]
    left = run.group_rows(row_group, rows)  # type: ignore[arg-type]
    right = run.group_rows(column_group, columns)  # type: ignore[arg-type]
    halved = row_group == column_group
    n_pairs = _n_impostor(run, left, right)
    n_pairs = n_pairs // 2 if halved else n_pairs
    if len(left) * len(right) > MOST_PAIRS_COUNTED:
        cosines = _sampled(run, left, right, seed)
        return ImpostorPairs(counts=_counted(cosines), n_pairs=n_pairs, sampled=True)
    counts = np.zeros(len(COSINE_BINS) - 1, dtype=np.int64)
    columns_vectors, of_columns = np.asarray(run.vectors[right]), run.positions[right]
    for start in range(0, len(left), 512):
        block = left[start : start + 512]
        different = run.positions[block][:, None] != of_columns
        if halved:
            different &= np.arange(start, start + len(block))[:, None] < np.arange(len(right))
        counts += _counted((run.vectors[block] @ columns_vectors.T)[different])
    return ImpostorPairs(counts=counts, n_pairs=n_pairs, sampled=False)


def _n_impostor(run: ExploredRun, left: Positions, right: Positions) -> int:
    of_left = np.bincount(run.positions[left], minlength=run.n_identities)
    of_right = np.bincount(run.positions[right], minlength=run.n_identities)
    return len(left) * len(right) - int(of_left @ of_right)


def _sampled(run: ExploredRun, left: Positions, right: Positions, seed: int) -> Floats32:
    """Cosines of pairs drawn at random: some thousand images of either side, all of their pairs."""
    draw = np.random.default_rng(seed)
    side = round(PAIRS_SAMPLED**0.5)
    of_left = np.sort(draw.choice(left, min(side, len(left)), replace=False))
    of_right = np.sort(draw.choice(right, min(side, len(right)), replace=False))
    cosines = np.asarray(run.vectors[of_left]) @ np.asarray(run.vectors[of_right]).T
    return np.asarray(cosines[run.positions[of_left][:, None] != run.positions[of_right]])


def _counted(cosines: NDArray[np.floating]) -> NDArray[np.int64]:
    """Count values in 200 bins; rounding may put a cosine just beyond 1."""
    bins = np.clip(((cosines + 1) * 100).astype(np.int64), 0, len(COSINE_BINS) - 2)
    return np.bincount(bins.ravel(), minlength=len(COSINE_BINS) - 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class CellReason:
    """What stands behind one cell in all runs.

    Attributes:
        row: Identity of the row.
        column: Identity of the column.
        cohort: Whose images are compared.
        pairs: One for each run.
        impostors: One for each run.
    """

    row: int
    column: int
    cohort: str
    pairs: tuple[CellPairs, ...]
    impostors: tuple[ImpostorPairs, ...]


class CellReasons:
    """Gives the reason of any cell of one cohort; the impostor pairs are counted once.

    Attributes:
        explored: The runs.
        cohort: A name of `COHORTS`.
    """

    def __init__(self, explored: ExploredRuns, cohort: str) -> None:
        self.explored, self.cohort = explored, cohort
        self._rows, self._columns = explored.sides(cohort)
        self._impostors: tuple[ImpostorPairs, ...] = ()

    def of(self, row: int, column: int) -> CellReason:
        """Give what stands behind a cell.

        Args:
            row: Identity of the row, counted in `explored.identities`.
            column: Identity of the column.

        Raises:
            ConfigError: There is no such identity.
        """
        n = len(self.explored.identities)
        if not (0 <= row < n and 0 <= column < n):
            raise ConfigError(f"cell ({row}, {column}): there are {n} identities, 0 to {n - 1}.")
        runs = self.explored.runs
        if not self._impostors:
            self._impostors = tuple(impostor_pairs(run, self._rows, self._columns, cohort=self.cohort) for run in runs)
        return CellReason(
            row=row,
            column=column,
            cohort=self.cohort,
            pairs=tuple(cell_pairs(run, row, column, cohort=self.cohort) for run in runs),
            impostors=self._impostors,
        )

    def of_names(self, row: str, column: str) -> CellReason:
        """Give what stands behind the cell of two identities.

        Args:
            row: Name of the identity of the row.
            column: Name of the identity of the column.

        Raises:
            ConfigError: There is no such identity.
        """
        positions = pd.Index(self.explored.names).get_indexer(pd.Index([row, column], dtype=object))
        if (positions < 0).any():
            raise ConfigError(f"There is no identity {[row, column][int(np.argmin(positions))]!r} here.")
        return self.of(int(positions[0]), int(positions[1]))
