"""The order in which the identities of a cohort stand, on both sides of its matrices."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.cohort_matrices import CohortMatrices
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.orders import ORDERS, cluster_order, name_order, similarity_order, value_order

Places = NDArray[np.int64]

_CLUSTERED_AT_ONCE = 1000  # identities a side that take a fraction of a second


def order_sides(
    explored: ExploredRuns, matrices: CohortMatrices, order: str, *, identity: str | None = None
) -> tuple[Places, Places]:
    """Order rows and columns of a cohort, both by the same rule, and by the first run where runs differ.

    Args:
        explored: The runs.
        matrices: The matrices of the cohort.
        order: A name of `ORDERS`. `cluster` clusters what the rows and columns are made of: mean embeddings, or
            prototypes; it takes seconds for thousands of identities.
        identity: Name of the identity that `similarity` orders by.

    Returns:
        (r,) place -> row, and (c,) place -> column.

    Raises:
        ConfigError: An unknown order, or no such identity in the cohort.
    """
    if order == "similarity":
        return _by_similarity(explored, matrices, identity)
    if order == "cluster":
        term = matrices.matrices[0].terms[0]
        rows = cluster_order(term.rows)
        return rows, rows if term.columns is term.rows else cluster_order(term.columns)
    table = explored.identities
    orders = {
        "identity": lambda: name_order(explored.names),
        "child_share": lambda: value_order(table["child_share"], descending=True),
        "age": lambda: value_order(table["age_years"]),
    }
    if order not in orders:
        raise ConfigError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}.")
    rank = np.argsort(orders[order]())
    return np.argsort(rank[matrices.rows]), np.argsort(rank[matrices.columns])


class ClusterOrders:
    """The orders `cluster` of the cohorts of some runs: of many identities computed in a thread, and all kept.

    Attributes:
        explored: The runs.
    """

    def __init__(self, explored: ExploredRuns) -> None:
        self.explored = explored
        self._kept: dict[tuple[str, str], tuple[Places, Places]] = {}
        self._under_way: set[tuple[str, str]] = set()

    def ready(self, matrices: CohortMatrices) -> bool:
        """Whether the order is there, or there in a moment."""
        few = max(len(matrices.rows), len(matrices.columns)) <= _CLUSTERED_AT_ONCE
        return few or (matrices.cohort, matrices.quantity) in self._kept

    def order(self, matrices: CohortMatrices) -> tuple[Places, Places]:
        """Give the order, computed now if it is not there.

        Args:
            matrices: The matrices of the cohort.

        Returns:
            As `order_sides`.
        """
        key = matrices.cohort, matrices.quantity
        if key not in self._kept:
            self._kept[key] = order_sides(self.explored, matrices, "cluster")
        return self._kept[key]

    def begin(
        self,
        matrices: CohortMatrices,
        done: Callable[[CohortMatrices], None],
        failed: Callable[[CohortMatrices, Exception], None],
    ) -> None:
        """Compute the order in a thread, unless that is under way.

        Args:
            matrices: The matrices of the cohort.
            done: Called in the thread with the matrices, once their order is there.
            failed: Called in the thread with the matrices and with what stopped it, such as a lack of memory.
        """
        key = matrices.cohort, matrices.quantity
        if key in self._under_way:
            return
        self._under_way.add(key)

        def compute() -> None:
            try:
                try:
                    self.order(matrices)
                finally:
                    self._under_way.discard(key)
                done(matrices)
            except Exception as problem:
                failed(matrices, problem)

        threading.Thread(target=compute, name="cluster order", daemon=True).start()


def find_identity(explored: ExploredRuns, matrices: CohortMatrices, text: str) -> tuple[int, int]:
    """Find an identity of a cohort by its name, or by the beginning of it or a part of it where only one has it.

    Args:
        explored: The runs.
        matrices: The matrices of the cohort.
        text: What is looked for; the case of letters does not count unless the whole name is given.

    Returns:
        Its row and its column, -1 where it stands on the other side only.

    Raises:
        ConfigError: No identity of the cohort fits, or several do; the message names some.
    """
    names = explored.names.astype(str)
    there = np.union1d(matrices.rows, matrices.columns)
    wanted = text.strip()
    if not wanted:
        raise ConfigError("Type the name of an identity, or a part of it.")
    exact = there[names[there] == wanted]
    lower, part = np.char.lower(names[there]), wanted.lower()
    begins, holds = there[np.char.startswith(lower, part)], there[np.char.find(lower, part) >= 0]
    fitting = next((found for found in (exact, begins, holds) if len(found)), holds)
    if len(fitting) == 0:
        known = np.flatnonzero(np.char.find(np.char.lower(names), part) >= 0)
        if len(known):
            raise ConfigError(f"{names[known[0]]!r} has no images of this cohort.")
        raise ConfigError(f"No identity is called {wanted!r}, in whole or in part.")
    if len(fitting) > 1:
        some = ", ".join(repr(str(name)) for name in names[fitting[:5]])
        raise ConfigError(f"{len(fitting):,} identities fit {wanted!r}: {some}{', …' if len(fitting) > 5 else ''}")
    return _place(matrices.rows, fitting[0]), _place(matrices.columns, fitting[0])


def _place(side: Places, identity: int) -> int:
    found = np.flatnonzero(side == identity)
    return int(found[0]) if len(found) else -1


def _by_similarity(explored: ExploredRuns, matrices: CohortMatrices, identity: str | None) -> tuple[Places, Places]:
    """Order rows by their cell with the identity's column, and columns by their cell with its row.

    An identity that stands on one side only, as an adult without child images, orders its own side by the product of
    what the side is made of.
    """
    found = np.flatnonzero(explored.names == identity)
    if len(found) == 0:
        raise ConfigError(f"There is no identity {identity!r} to order by.")
    row, column = _place(matrices.rows, found[0]), _place(matrices.columns, found[0])
    if row < 0 and column < 0:
        raise ConfigError(f"{identity!r} has no images of this cohort, so nothing can be ordered by it.")
    terms = matrices.matrices[0].terms
    of_rows = sum(t.weight * (t.rows @ (t.columns[column] if column >= 0 else t.rows[row])) for t in terms)
    of_columns = sum(t.weight * (t.columns @ (t.rows[row] if row >= 0 else t.columns[column])) for t in terms)
    return (
        similarity_order(np.asarray(of_rows), chosen=row if row >= 0 else None),
        similarity_order(np.asarray(of_columns), chosen=column if column >= 0 else None),
    )
