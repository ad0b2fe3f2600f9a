"""One run, seen on some identities: their mean embeddings, prototypes and images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import check_unit_rows, class_means
from interproto_lib.runs import RunFolder

ImageGroup = Literal["all", "child", "adult"]

Floats32 = NDArray[np.float32]
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
    """

    name: str
    run: RunFolder
    prototypes: Floats32 | None
    vectors: Floats32
    manifest: pd.DataFrame
    positions: Positions
    n_identities: int
    child_below_years: float

    def means(self, images: ImageGroup) -> Floats32:
        """Mean embedding of each identity over some of its images, computed once.

        Args:
            images: Which images count: `all`, `child` or `adult`. An image without an age is only in `all`.

        Returns:
            (n, d) float32; NaN where an identity has no such image.
        """
        if images not in self._means:
            labels = np.where(self.in_group(images), self.positions, -1)
            check_unit_rows(self.vectors, labels, f"embeddings of run {self.run.name!r}")
            means, _ = class_means(self.vectors, labels, self.n_identities)
            self._means[images] = means.astype(np.float32)
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
