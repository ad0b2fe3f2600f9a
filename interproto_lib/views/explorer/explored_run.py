"""One run, seen on some identities: their mean embeddings, prototypes and images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.runs import RunFolder
from interproto_lib.views.explorer.stored_means import Floats32, ImageGroup, StoredMeans

__all__ = ["ExploredRun", "Floats32", "ImageGroup", "Positions"]

Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class ExploredRun:
    """One run, seen on some identities; identity i is row i everywhere.

    Attributes:
        name: How it is called in figures.
        run: Its folder.
        prototypes: (n, d) float32 unit rows; None where the run has none or the identities are no classes.
        vectors: (m, d) float32 unit embeddings of all images of the run, mapped from its file.
        manifest: m rows, as in the file.
        positions: (m,) identity of each image, -1 for an image that does not count here.
        child_below_years: An image is a child's below this age.
        own_rows: (n,) row of each identity in the tables of `stored_means`.
        stored_means: Mean embeddings of all identities of the run; None where nobody looks at images.
    """

    name: str
    run: RunFolder
    prototypes: Floats32 | None
    vectors: Floats32
    manifest: pd.DataFrame
    positions: Positions
    n_identities: int
    child_below_years: float
    own_rows: Positions | None = None
    stored_means: StoredMeans | None = None

    def means(self, images: ImageGroup) -> Floats32:
        """Mean embedding of each identity over some of its images; see `StoredMeans`.

        Args:
            images: Which images count: `all`, `child` or `adult`. An image without an age is only in `all`.

        Returns:
            (n, d) float32; NaN where an identity has no such image.
        """
        if images not in self._means:
            assert self.stored_means is not None, "asked for only where images are looked at"
            table, rows = self.stored_means.means(images), self.own_rows
            all_of_them = rows is None or np.array_equal(rows, np.arange(len(table)))
            self._means[images] = table if all_of_them else table[rows]
        return self._means[images]

    def images_of(self, position: int, images: ImageGroup = "all") -> Positions:
        """Rows of the manifest that show an identity, in their order.

        Args:
            position: The identity.
            images: Which images count.
        """
        order, starts = self._by_identity
        rows = order[starts[position] : starts[position + 1]]
        return rows[self.in_group(images)[rows]]

    def group_rows(self, images: ImageGroup, among: Positions) -> Positions:
        """Rows of the manifest that show any of some identities, in their order."""
        wanted = np.zeros(self.n_identities + 1, dtype=bool)
        wanted[among] = True
        return np.flatnonzero(wanted[self.positions] & self.in_group(images))

    def in_group(self, images: ImageGroup) -> NDArray[np.bool_]:
        """(m,) which images count in a group."""
        if images not in self._groups:
            ages = self.manifest["age_years"].to_numpy(dtype=np.float64)
            counted = self.positions >= 0
            self._groups[images] = {
                "all": counted,
                "child": counted & (ages < self.child_below_years),
                "adult": counted & (ages >= self.child_below_years),
            }[images]
        return self._groups[images]

    @cached_property
    def _means(self) -> dict[str, Floats32]:
        return {}

    @cached_property
    def _groups(self) -> dict[str, NDArray[np.bool_]]:
        return {}

    @cached_property
    def _by_identity(self) -> tuple[Positions, Positions]:
        """Images sorted by identity, and where each identity begins among them."""
        order = np.argsort(self.positions, kind="stable")
        return order, np.searchsorted(self.positions[order], np.arange(self.n_identities + 1))
