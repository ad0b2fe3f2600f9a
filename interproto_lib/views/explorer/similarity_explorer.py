"""The similarity explorer: linked maps, what stands behind a cell, and who is confused with whom."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.similarity import COHORTS
from interproto_lib.errors import ConfigError, InterprotoError
from interproto_lib.views.explorer.cell_pane import CellPane
from interproto_lib.views.explorer.cohort_matrices import QUANTITIES, CohortMatrices
from interproto_lib.views.explorer.confused_pane import ConfusedPane
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.explorer.inputs import labelled_choice, row_of_inputs
from interproto_lib.views.explorer.live_view import with_words
from interproto_lib.views.explorer.matrix_orders import ClusterOrders, find_identity, order_sides
from interproto_lib.views.explorer.matrix_side import IdentityNotes, side_words
from interproto_lib.views.explorer.orders import ORDERS
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer
from interproto_lib.views.explorer.similarity_map import POOLINGS, Side, SimilarityMap
from interproto_lib.views.explorer.tiles import LinkedMatrices
from interproto_lib.views.explorer.view_figure import FIGURE_PIXELS, draw_tile
from interproto_lib.views.style import LabelledFigure
from interproto_lib.views.wording import cohort_words

_POOLING_WORDS = {"mean": "their mean", "max": "the highest"}


class SimilarityExplorer:
    """Walk around in the similarity matrices of one or two runs.

    The object shows itself as the last line of a cell. What its inputs do can be done from Python as well, as in
    `explorer.controls["order"].value = "age"`.

    Attributes:
        explored: The runs.
        map: The linked maps; its trait `chosen` says which cell is chosen.
        pane: What stands behind the chosen cell.
        confused: The most confused pairs.
        controls: Name -> input: `cohort`, `quantity`, `order`, `pooling`, `identity`, `row`, `column`, `limit`.
        widget: All of it.
    """

    def __init__(
        self,
        explored: ExploredRuns,
        *,
        cohort: str | None = None,
        quantity: str = "features",
        points: Sequence[NDArray[np.floating] | None] = (),
        show_faces: bool = False,
        n_listed: int = 50,
        state: SimilarityExplorer | Mapping[str, Any] | None = None,
    ) -> None:
        """Make the widgets.

        Args:
            explored: The runs.
            cohort: Shown first, a name of `explored.cohorts`; None takes the first of them.
            quantity: Shown first, a name of `explored.quantities`.
            points: For each run its prototypes in the plane, as `stored_projection` gives them; the details of a cell
                then show where its two prototypes lie.
            show_faces: Whether photographs of real people may be drawn; faces drawn by formula always are.
            n_listed: Most confused pairs listed at first.
            state: An explorer made before, or its `state`: the new one shows the same where it is there still.

        Raises:
            ConfigError: The runs have no such cohort or quantity, or points that do not fit.
        """
        before = dict(state.state if isinstance(state, SimilarityExplorer) else state or {})
        if before.get("cohort") in explored.cohorts:
            cohort = before["cohort"]
        if before.get("quantity") in explored.quantities:
            quantity = before["quantity"]
        self.explored = explored
        self._matrices = explored.matrices(explored.cohorts[0] if cohort is None else cohort, quantity)
        self._linked = self._linked_matrices()
        self._identity: str | None = before.get("identity")  # that the order `similarity` goes by
        self._latest: str | None = None  # looked at last: what it would go by next
        self._standing = "identity"  # the order that the maps show; another may be asked for and not be ready yet
        self._clusters = ClusterOrders(explored)
        self._marked: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._filling = False
        self._turn = threading.RLock()  # an order that comes from a thread waits until an input is done
        self.map = SimilarityMap(
            self._linked,
            self._matrices.titles,
            *self._sides(),
            draw_figure=self.figure,
            pooling=before.get("pooling", POOLINGS[0]),
        )
        self.pane = CellPane(explored, points=points, show_faces=show_faces)
        self.confused = ConfusedPane(explored, n_listed=n_listed, draw_figure=self.figure, choose=self._choose_listed)
        self.controls = self._make_controls()
        self._said = ipywidgets.HTML()
        self.widget = self._compose()
        self._listen()
        self._restore(before)
        self.confused.show(self._matrices)

    # --- what can be asked and set --------------------------------------------------------------------------------

    @property
    def chosen(self) -> tuple[str, str] | None:
        """Names of the identities of the chosen cell, row first; None where none is chosen."""
        if not self.map.chosen:
            return None
        row, column = self.map.chosen
        names = self.explored.names
        return str(names[self._matrices.rows[row]]), str(names[self._matrices.columns[column]])

    @property
    def state(self) -> dict[str, Any]:
        """What is shown, by names of identities, as JSON holds it; give it to the next explorer."""
        values = {name: self.controls[name].value for name in ("cohort", "quantity", "order", "pooling")}
        return {**values, "identity": self._identity, "chosen": self.chosen, "view": dict(self.map.view)}

    def choose(self, row: str, column: str) -> None:
        """Choose the cell of two identities, and show it with its surroundings.

        Args:
            row: Name of the identity in the rows.
            column: Name of the identity in the columns.

        Raises:
            ConfigError: The identities do not stand there.
        """
        at_row, _ = find_identity(self.explored, self._matrices, row)
        _, at_column = find_identity(self.explored, self._matrices, column)
        if at_row < 0 or at_column < 0:
            raise ConfigError(f"There is no cell of {row!r} (row) and {column!r} (column) in this cohort.")
        self.map.go_to(at_row, at_column)

    def mark(self, identities: Iterable[int]) -> None:
        """Mark identities along both sides of the maps; they stay marked in other cohorts and orders.

        Args:
            identities: Rows of `explored.identities`, such as the selection of a `ProjectionExplorer`.
        """
        self._marked = np.asarray(list(identities), dtype=np.int64)
        sides = (self._matrices.rows, self._matrices.columns)
        self.map.mark(*(np.flatnonzero(np.isin(side, self._marked)) for side in sides))

    def link_selection(self, projection: ProjectionExplorer) -> None:
        """Mark whatever is selected in a projection explorer, now and later.

        Args:
            projection: An explorer of the same identities: its table is `explored.identities`.

        Raises:
            ConfigError: It shows other identities.
        """
        if list(projection.identities["identity"]) != list(self.explored.identities["identity"]):
            raise ConfigError("The projection explorer shows other identities: make it of `explored.identities`.")
        projection.map.observe(lambda change: self.mark(change["new"]), "selected")
        self.mark(projection.map.selected)

    def figure(self) -> LabelledFigure:
        """Draw the static figure of what is shown, as `similarity_view_figure` draws it with the code's arguments."""
        options, linked, pixels = self._figure_options(), self._linked, (FIGURE_PIXELS, FIGURE_PIXELS)
        rows = options.get("rows", (0, len(self._matrices.rows)))
        columns = options.get("columns", (0, len(self._matrices.columns)))
        if self.map.pooling == "max" and linked.needs_maxima(rows, columns, pixels):
            linked.start_maxima()
            linked.wait_for_maxima()
        tile = linked.tile(rows, columns, pixels, pooling=self.map.pooling)
        return draw_tile(
            self.explored,
            self._matrices,
            tile,
            (linked.row_order, linked.column_order),
            (rows, columns),
            order=self._standing,
            limit=options["limit"],
        )

    def confused_pairs(self) -> pd.DataFrame:
        """Give the most confused pairs as they are listed; empty while they are being looked for."""
        return self.confused.pairs

    # --- making ---------------------------------------------------------------------------------------------------

    def _make_controls(self) -> dict[str, Any]:
        matrices = self._matrices
        number_box = {"min": 0, "max": 0, "layout": {"width": "160px"}}
        cohorts = [(cohort_words(name), name) for name in self.explored.cohorts]
        quantities = [(QUANTITIES[name], name) for name in self.explored.quantities]
        orders = [(words, name) for name, words in ORDERS.items()]
        poolings = [(words, name) for name, words in _POOLING_WORDS.items()]
        limit = round(max(self.map.limits), 4)
        return {
            "cohort": labelled_choice("Cohort", cohorts, matrices.cohort),
            "quantity": labelled_choice("Similarity of", quantities, matrices.quantity),
            "order": labelled_choice("Order by", orders, "identity"),
            "pooling": labelled_choice("A square of many pairs shows", poolings, self.map.pooling),
            "identity": ipywidgets.Text(
                description="Identity", placeholder="name or part of it", continuous_update=False,
                layout={"width": "270px"},
            ),
            "row": ipywidgets.BoundedIntText(description="Row", **number_box),
            "column": ipywidgets.BoundedIntText(description="Column", **number_box),
            "limit": ipywidgets.BoundedFloatText(
                description="Colours to ±", min=0.01, max=2.0, step=0.05, value=limit, layout={"width": "170px"},
                style={"description_width": "initial"},
            ),
        }  # fmt: skip

    def _compose(self) -> ipywidgets.VBox:
        self._go = ipywidgets.Button(description="Go to", tooltip="Show this identity", layout={"width": "auto"})
        self._choose_cell = ipywidgets.Button(
            description="Choose cell", tooltip="Choose the cell of this row and column", layout={"width": "auto"}
        )
        c = self.controls
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.explored.notes)
        parts = [
            row_of_inputs([c["cohort"], c["quantity"], c["order"], c["pooling"], c["limit"]]),
            row_of_inputs([c["identity"], self._go, c["row"], c["column"], self._choose_cell]),
            *([ipywidgets.HTML(notes)] if notes else []),
            self._said,
            self.map,
            self.pane.widget,
            self.confused.widget,
        ]
        return ipywidgets.VBox(parts).add_class("interproto-similarity")

    def _listen(self) -> None:
        c = self.controls
        actions: list[tuple[ipywidgets.Widget, Callable[[], None]]] = [
            (c["cohort"], self._show_matrices),
            (c["quantity"], self._show_matrices),
            (c["order"], self._choose_order),
            (c["pooling"], self._set_pooling),
            (c["limit"], self._set_limit),
            (c["identity"], self._go_to),
        ]
        for box, act in actions:
            box.observe(self._guarded(act), "value")
        self._go.on_click(self._guarded(self._go_to))
        self._choose_cell.on_click(self._guarded(self._choose_by_numbers))
        self.map.observe(self._guarded(self._show_reason), "chosen")
        self.map.observe(lambda _: self._write_code(), ["view", "pooling", "limits"])

    def _guarded(self, act: Callable[[], None]) -> Callable[[Any], None]:
        """Do something when the page asks for it, and say there what is wrong with it."""

        def do(_: Any) -> None:
            with self._turn:
                if self._filling:
                    return
                self._say("")
                try:
                    act()
                except Exception as problem:
                    self._say(failure_words(problem))
                    if not isinstance(problem, InterprotoError):
                        raise  # for the kernel's log, where a fault of the program can be traced
                self._write_code()

        return do

    def _say(self, text: str) -> None:
        style = "border-left:4px solid #D55E00;padding:4px 8px;background:var(--jp-layout-color2,#eee)"
        self._said.value = f'<div role="alert" style="{style}">{html.escape(text)}</div>' if text else ""

    def _linked_matrices(self) -> LinkedMatrices:
        return LinkedMatrices(self._matrices.matrices, own_columns=self._matrices.own_columns)

    def _sides(self) -> tuple[Side, Side]:
        """Who stands along the maps, with what is said of each."""
        table = self.explored.identities
        unaged = np.isnan(table["age_years"].to_numpy(dtype=np.float64))
        kinds = np.where(self.explored.is_child, 1, np.where(unaged, 2, 0)).astype(np.uint8)
        row_images, column_images = COHORTS[self._matrices.cohort]
        rows, columns = self._matrices.rows, self._matrices.columns
        return (
            Side(names=self.explored.names[rows], notes=IdentityNotes(table, rows), kinds=kinds[rows],
                 words=side_words(row_images)),
            Side(names=self.explored.names[columns], notes=IdentityNotes(table, columns), kinds=kinds[columns],
                 words=side_words(column_images)),
        )  # fmt: skip

    # --- acting ---------------------------------------------------------------------------------------------------

    def _show_matrices(self) -> None:
        """Show the cohort and quantity of the inputs; the chosen cell stays with its identities if they are there."""
        self._matrices = self.explored.matrices(self.controls["cohort"].value, self.controls["quantity"].value)
        self._linked = self._linked_matrices()
        chosen = self.map.chosen
        self.map.show(self._linked, self._matrices.titles, *self._sides())
        self._fill("limit", round(max(self.map.limits), 4))
        problem = None
        try:
            self._reorder()
        except ConfigError as error:  # the identity that was ordered by is not in this cohort
            problem = error
            self._fill("order", "identity")
            self._reorder()
        self.mark(self._marked)
        if self.map.chosen == chosen:  # the same numbers may be of other identities, or of other images
            self._show_reason()
        self.confused.show(self._matrices)
        if problem is not None:
            raise problem

    def _choose_order(self) -> None:
        if self.controls["order"].value == "similarity":
            self._identity = self._latest or self._identity
            if self._identity is None:
                raise ConfigError("To order by similarity, choose a cell or go to an identity by its name.")
        self._reorder()

    def _reorder(self) -> None:
        order = self.controls["order"].value
        waits = order == "cluster" and not self._clusters.ready(self._matrices)
        if waits:
            self._say("Similar identities are being brought together; the order changes when that is done.")
            order = self._standing if self._standing != "cluster" else "identity"
        if order == "cluster":
            rows, columns = self._clusters.order(self._matrices)
        else:
            rows, columns = order_sides(self.explored, self._matrices, order, identity=self._identity)
        self.map.reorder(rows, columns)
        self._standing = order
        self._fill_numbers()
        if waits:
            self._clusters.begin(self._matrices, self._clustered, self._not_clustered)

    def _clustered(self, matrices: CohortMatrices) -> None:
        """Take the order that was computed in a thread, unless something else is shown or asked for by now."""
        if matrices is self._matrices and self.controls["order"].value == "cluster":
            self._guarded(self._reorder)(None)

    def _not_clustered(self, matrices: CohortMatrices, problem: Exception) -> None:
        """Say why there is no order that was asked for; the one that stands is that of the input again."""
        with self._turn:
            if matrices is self._matrices and self.controls["order"].value == "cluster":
                self._fill("order", self._standing)
                self._say(f"Similar identities cannot be brought together: {failure_words(problem)}")

    def _set_pooling(self) -> None:
        self.map.pooling = self.controls["pooling"].value

    def _set_limit(self) -> None:
        self.map.set_limit(self.controls["limit"].value)

    def _go_to(self) -> None:
        """Go to the row of the identity that is typed in, or to its column where it has no row."""
        if not self.controls["identity"].value.strip():
            return
        row, column = find_identity(self.explored, self._matrices, self.controls["identity"].value)
        found = self._matrices.rows[row] if row >= 0 else self._matrices.columns[column]
        at_row, at_column = self.map.chosen or (0, 0)
        self.map.go_to(row if row >= 0 else at_row, column if column >= 0 else at_column)
        self._latest = str(self.explored.names[found])
        if self.controls["order"].value == "similarity":
            self._choose_order()
            self.map.go_to(*self.map.chosen)

    def _choose_by_numbers(self) -> None:
        row, column = self.controls["row"].value, self.controls["column"].value
        self.map.go_to(int(self._linked.row_order[row]), int(self._linked.column_order[column]))

    def _choose_listed(self, row: str, column: str) -> None:
        self._guarded(lambda: self.choose(row, column))(None)

    def _show_reason(self) -> None:
        if not self.map.chosen:
            self.pane.clear()
            return
        self._fill_numbers()
        row, column = self.map.chosen
        self._latest = str(self.explored.names[self._matrices.rows[row]])
        self.pane.show(int(self._matrices.rows[row]), int(self._matrices.columns[column]), cohort=self._matrices.cohort)

    def _fill_numbers(self) -> None:
        """Write the place of the chosen cell into the number boxes."""
        places = (self._linked.row_places, self._linked.column_places)
        for which, name in enumerate(("row", "column")):
            self.controls[name].max = len(places[which]) - 1
            if self.map.chosen:
                self._fill(name, int(places[which][self.map.chosen[which]]))

    def _fill(self, name: str, value: Any) -> None:
        """Set an input without acting on it."""
        self._filling = True
        try:
            self.controls[name].value = value
        finally:
            self._filling = False

    # --- state, figure and code -----------------------------------------------------------------------------------

    def _restore(self, before: Mapping[str, Any]) -> None:
        if before.get("order") in ORDERS:
            self._fill("order", before["order"])
        if before.get("chosen"):
            self.map.restore({"chosen": before["chosen"]})
        self._guarded(self._reorder)(None)
        if before.get("view"):
            self.map.view = dict(before["view"])

    def _figure_options(self) -> dict[str, Any]:
        view = self.map.view
        options: dict[str, Any] = {
            "cohort": self._matrices.cohort,
            "quantity": self._matrices.quantity,
            "order": self._standing,
            "identity": self._identity if self._standing == "similarity" else None,
            "rows": _span(view.get("rows"), len(self._matrices.rows)),
            "columns": _span(view.get("columns"), len(self._matrices.columns)),
            "pooling": self.map.pooling,
            "limit": round(max(self.map.limits), 4),
        }
        return {name: value for name, value in options.items() if value is not None}

    def _write_code(self) -> None:
        folders = ", ".join(repr(str(run.run.path)) for run in self.explored.runs)
        split = "" if self.explored.split == "train" else f", split={self.explored.split!r}"
        options = "".join(f"    {name}={value!r},\n" for name, value in self._figure_options().items())
        self.map.code = (
            "from interproto_lib.views import save_figure\n"
            "from interproto_lib.views.explorer import open_explored, similarity_view_figure\n\n"
            f"explored = open_explored({folders}{split})\n"
            f"figure = similarity_view_figure(\n    explored,\n{options})\n"
            'save_figure(figure, "figures", "similarity")\n'
            "figure"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_words(self.widget._repr_mimebundle_(**kwargs), "The similarity explorer")


def _span(shown: Sequence[float] | None, n: int) -> tuple[float, float] | None:
    """The stretch shown; None for all of it."""
    if not shown or (shown[0] <= 0 and shown[1] >= n):
        return None
    return round(float(shown[0]), 2), round(float(shown[1]), 2)
