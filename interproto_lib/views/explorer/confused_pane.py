"""The part of the similarity explorer that lists the most confused pairs, found in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ipywidgets
import pandas as pd

from interproto_lib.views.explorer.cohort_matrices import QUANTITIES, CohortMatrices
from interproto_lib.views.explorer.confused_pairs import (
    ConfusedPairsTable,
    confused_pairs_table,
    most_confused_cells,
)
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.explorer.inputs import labelled_choice, row_of_inputs
from interproto_lib.views.style import LabelledFigure
from interproto_lib.views.wording import cohort_words

PAIRS_FOUND_WHILE_WAITING = 1_000_000
"""Up to this many cells are looked through at once, in a moment; more in a thread."""

PAIRS_FOUND_UNASKED = 150_000_000
"""Up to this many cells are looked through without being asked: it takes some seconds."""


class ConfusedPane:
    """A table of the pairs with the highest values, and what it is ordered by.

    Attributes:
        widget: What shows itself.
        table: The table in the page.
        listed: Input: the matrix whose highest cells are listed.
        n_listed: Input: how many.
        pairs: The table as it is listed; empty until it is found.
    """

    def __init__(
        self,
        explored: ExploredRuns,
        *,
        n_listed: int,
        draw_figure: Callable[[], LabelledFigure],
        choose: Callable[[str, str], None],
    ) -> None:
        """Make the pane, empty.

        Args:
            explored: The runs.
            n_listed: How many pairs at first.
            draw_figure: The static figure that stands beside the table.
            choose: Called with the identities of a row, once it is chosen.
        """
        self.explored = explored
        self.pairs = pd.DataFrame()
        self._matrices: CohortMatrices | None = None
        self._choose = choose
        self._stop = threading.Event()
        self._renaming = False
        self.table = ConfusedPairsTable(draw_figure=draw_figure, figure_name="similarity")
        self.listed = labelled_choice("Highest in", [("", 0)], 0)
        self.n_listed = ipywidgets.BoundedIntText(
            description="Pairs", min=1, max=1000, value=n_listed, layout={"width": "150px"}
        )
        button = ipywidgets.Button(description="List pairs", layout={"width": "auto"})
        button.on_click(lambda _: self.find(asked=True))
        for box in (self.listed, self.n_listed):
            box.observe(lambda _: None if self._renaming else self.find(asked=False), "value")
        self.table.observe(self._row_chosen, "chosen")
        self.widget = ipywidgets.VBox([row_of_inputs([self.listed, self.n_listed, button]), self.table])

    def show(self, matrices: CohortMatrices) -> None:
        """List the pairs of other matrices.

        Args:
            matrices: The matrices.
        """
        self._matrices = matrices
        options = [(title, place) for place, title in enumerate(matrices.titles)]
        if list(self.listed.options) != options:
            self._renaming = True
            self.listed.options, self.listed.value = options, 0
            self._renaming = False
        self.find(asked=False)

    def find(self, *, asked: bool) -> None:
        """Look for the pairs; a search that is under way is given up.

        Args:
            asked: Whether somebody waits for it; if not, very many pairs are not looked through.
        """
        self._stop.set()
        self._stop = stop = threading.Event()
        matrices, which, top = self._matrices, int(self.listed.value), int(self.n_listed.value)
        if matrices is None:
            return
        n_cells = len(matrices.rows) * len(matrices.columns)
        if not asked and n_cells > PAIRS_FOUND_UNASKED:
            self.table.problem = ""
            self.table.caption = f"{n_cells:,} pairs are not looked through unasked: press “List pairs”."
            return
        self.table.caption, self.table.problem = "Looking for the most confused pairs …", ""
        search = threading.Thread(
            target=self._search, args=(matrices, which, top, stop), name="confused pairs", daemon=True
        )
        search.start()
        if n_cells <= PAIRS_FOUND_WHILE_WAITING:
            search.join()

    def _search(self, matrices: CohortMatrices, which: int, top: int, stop: threading.Event) -> None:
        """What the thread does: find the pairs, or say why not."""
        try:
            self._find(matrices, which, top, stop)
        except Exception as problem:
            if not stop.is_set():
                self.pairs = pd.DataFrame()
                self.table.clear("No pairs are listed.")
                self.table.problem = f"The most confused pairs cannot be found: {failure_words(problem)}"

    def _find(self, matrices: CohortMatrices, which: int, top: int, stop: threading.Event) -> None:
        def progress(done: int, of: int) -> None:
            if not stop.is_set() and done < of:
                self.table.caption = f"Looking for the most confused pairs … {done / of:.0%}"

        rows, columns = most_confused_cells(matrices, which=which, top=top, progress=progress, stop=stop)
        pairs = confused_pairs_table(self.explored, matrices, rows, columns)
        if stop.is_set():
            return
        self.pairs = pairs
        title = matrices.titles[which]
        words = f"{cohort_words(matrices.cohort)}, {QUANTITIES[matrices.quantity]}"
        self.table.show(
            pairs,
            caption=f"The {len(pairs):,} pairs with the highest values in {title}: {words}",
            sort=title,
            file_name=f"confused_{matrices.cohort}_{matrices.quantity}.csv",
        )

    def _row_chosen(self, change: dict[str, Any]) -> None:
        if 0 <= change["new"] < len(self.pairs):
            row = self.pairs.iloc[change["new"]]
            self._choose(str(row["row_identity"]), str(row["column_identity"]))
