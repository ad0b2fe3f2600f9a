"""Who stands along the sides of similarity matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class Side:
    """The identities along one side of the matrices, by row (or column) number, whatever the order.

    Attributes:
        names: (n,) names.
        notes: (n,) what is said of each beside its name, such as its age; None for nothing.
        kinds: (n,) 0 no child identity, 1 child identity, 2 without any age; None marks nothing.
        words: What stands along the side, as in `identities, child images`.
    """

    names: Sequence[str] | NDArray[np.object_]
    notes: Sequence[str] | None = None
    kinds: NDArray[np.uint8] | None = None
    words: str = "identities"

    def text(self, number: int) -> str:
        """Name and notes of one identity."""
        note = self.notes[number] if self.notes is not None else ""
        return f"{self.names[number]} ({note})" if note else str(self.names[number])

    def number(self, name: str) -> int | None:
        """Number of the identity of a name; None where it is not among these."""
        found = np.flatnonzero(np.asarray(self.names, dtype=object) == name)
        return int(found[0]) if len(found) else None

    def check(self, n: int, what: str) -> None:
        """Raise ConfigError unless there is one name, note and kind for each of n rows or columns."""
        given = {"names": self.names, "notes": self.notes, "kinds": self.kinds}
        lengths = {name: len(some) for name, some in given.items() if some is not None}
        if set(lengths.values()) != {n}:
            raise ConfigError(f"{n} {what} need as many names, notes and kinds, got {lengths}.")


class IdentityNotes(Sequence[str]):
    """What is said of each identity of a side beside its name, made when it is asked for.

    Args:
        table: All identities, see `ExploredRuns.identities`.
        side: (n,) rows of the table that stand along the side.
    """

    def __init__(self, table: pd.DataFrame, side: NDArray[np.int64]) -> None:
        self._table, self._side = table, side

    def __len__(self) -> int:
        return len(self._side)

    def __getitem__(self, number: Any) -> Any:
        row = self._table.iloc[int(self._side[number])]
        kind = "child identity" if row["is_child"] else "no child identity"
        age = "age unknown" if np.isnan(row["age_years"]) else f"mean age {row['age_years']:.1f} years"
        return f"{kind}, {age}, {row['n_images']:,} images"


def side_words(images: str) -> str:
    """What stands along a side on which these images count, a name in `COHORTS`."""
    return "identities, all their images" if images == "all" else f"identities, their {images} images"
