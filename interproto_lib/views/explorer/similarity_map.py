"""The widget of linked similarity matrices: the page draws, the kernel keeps the values and answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets
from numpy.typing import ArrayLike

from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.explorer.live_view import LiveView, read_script
from interproto_lib.views.explorer.matrix_colours import palette_bytes, sampled_limit, value_codes
from interproto_lib.views.explorer.matrix_side import Side
from interproto_lib.views.explorer.tiles import NO_MAXIMA, LinkedMatrices, Pooling
from interproto_lib.views.style import LabelledFigure, sentence_figure

__all__ = ["POOLINGS", "Side", "SimilarityMap"]

POOLINGS: tuple[Pooling, ...] = ("mean", "max")
"""What a square shows that stands for many pairs."""

_SECONDS_BETWEEN_REPORTS = 0.5


class SimilarityMap(LiveView):
    """One to three similarity matrices side by side, with one order, one zoom and one colour range.

    Example:
        A matrix of 3 identities against 2, the second column chosen for the first row:

        >>> from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix
        >>> term = MatrixTerm(rows=np.eye(3, dtype=np.float32), columns=np.eye(3, dtype=np.float32)[:2])
        >>> names = Side(names=["Ann", "Bob", "Cy"]), Side(names=["Ann", "Bob"])
        >>> shown = SimilarityMap(LinkedMatrices([TermMatrix(terms=(term,))]), ["run"], *names)
        >>> shown.chosen = (0, 1)
        >>> shown.reorder([2, 1, 0], [0, 1])
        >>> shown.cell  # row 0 stands at the third place now
        [2, 1]

    Attributes:
        chosen: Row and column of the chosen cell, or (); by number, so it stays with its identities in every order.
        view: Places shown, {"rows": [from, to], "columns": [from, to]}; fractions are allowed. {} shows the whole.
        pooling: One of `POOLINGS`.
        limits: (p,) colours of matrix k run from -limits[k] to limits[k].
        titles: (p,) what each matrix shows.
        revision: Rises whenever pictures must be made anew.
        matrices_revision: Rises with every new set of matrices.
        cell: Places of the chosen cell, or []; the page sets it, too.
        progress: Share of the maxima computed, -1 while none are under way.
        n_rows: Rows of each matrix.
        n_columns: Columns of each matrix.
        row_words: What stands along the rows.
        column_words: What stands along the columns.
        row_kinds: Kind of the identity at each place, a byte each; empty for none.
        column_kinds: The same for the columns.
        row_marks: Places of marked rows, rising, four bytes each.
        column_marks: The same for the columns.
        palette: 256 x 3 bytes: colour of a missing value, then those from -limit to limit.
        has_figure: Whether there is a static figure to save.
    """

    _esm = read_script("similarity_map.js")
    view_name = "The similarity map"

    titles = traitlets.List(traitlets.Unicode()).tag(sync=True)
    n_rows = traitlets.Int(1).tag(sync=True)
    n_columns = traitlets.Int(1).tag(sync=True)
    row_words = traitlets.Unicode().tag(sync=True)
    column_words = traitlets.Unicode().tag(sync=True)
    limits = traitlets.List(traitlets.Float()).tag(sync=True)
    palette = traitlets.Bytes().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    cell = traitlets.List(traitlets.Int()).tag(sync=True)
    pooling = traitlets.Enum(POOLINGS, "mean").tag(sync=True)
    revision = traitlets.Int(0).tag(sync=True)
    matrices_revision = traitlets.Int(0).tag(sync=True)
    progress = traitlets.Float(-1.0).tag(sync=True)
    row_kinds = traitlets.Bytes().tag(sync=True)
    column_kinds = traitlets.Bytes().tag(sync=True)
    row_marks = traitlets.Bytes().tag(sync=True)
    column_marks = traitlets.Bytes().tag(sync=True)
    has_figure = traitlets.Bool(False).tag(sync=True)
    chosen = traitlets.Tuple(default_value=())

    def __init__(
        self,
        matrices: LinkedMatrices,
        titles: Sequence[str],
        rows: Side,
        columns: Side | None = None,
        *,
        limit: float | None = None,
        state: Mapping[str, Any] | None = None,
        draw_figure: Callable[[], LabelledFigure] | None = None,
        figure_name: str = "similarity",
        **traits: Any,
    ) -> None:
        """Show matrices in the order in which they stand.

        Args:
            matrices: The matrices; the widget reorders them.
            titles: One a matrix.
            rows: Who stands in the rows.
            columns: Who stands in the columns; None: the same as in the rows.
            limit: Colours run from -limit to limit; None chooses from a sample of cells.
            state: What `state()` of an earlier widget gave.
            draw_figure: Gives the static figure; None hides its buttons.
            figure_name: Name of the saved figure, without suffix.
            traits: Others to begin with, such as `pooling`.

        Raises:
            ConfigError: Not one title a matrix, or not one name for each row and column.
        """
        self._matrices = matrices
        super().__init__(
            draw_figure=draw_figure or (lambda: sentence_figure("There is no figure.")),
            figure_name=figure_name,
            palette=palette_bytes(),
            has_figure=draw_figure is not None,
        )
        self.show(matrices, titles, rows, columns, limit=limit)
        for name, value in traits.items():
            setattr(self, name, value)
        self.restore(state or {})

    def show(
        self,
        matrices: LinkedMatrices,
        titles: Sequence[str],
        rows: Side,
        columns: Side | None = None,
        *,
        limit: float | None = None,
    ) -> None:
        """Show other matrices in the order in which they stand.

        A chosen cell stays chosen where both its identities are among these, by name; the view stays where the shape
        does; marks are taken off.

        Args:
            matrices: The matrices.
            titles: One a matrix.
            rows: Who stands in the rows.
            columns: Who stands in the columns; None: the same as in the rows.
            limit: See the class.

        Raises:
            ConfigError: Not one title a matrix, or not one name for each row and column.
        """
        columns = rows if columns is None else columns
        if len(titles) != len(matrices):
            raise ConfigError(f"{len(titles)} titles do not fit {len(matrices)} matrices.")
        rows.check(matrices.n_rows, "rows")
        columns.check(matrices.n_columns, "columns")
        kept = self.state() if self.titles else {}
        same_shape = (self.n_rows, self.n_columns) == (matrices.n_rows, matrices.n_columns)
        if matrices is not self._matrices:
            self._matrices.stop_maxima()
        self._matrices, self._rows, self._columns = matrices, rows, columns
        self._marked = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        chosen_limit = sampled_limit(matrices) if limit is None else limit
        with self.hold_sync():
            self.titles = list(titles)
            self.n_rows, self.n_columns = matrices.n_rows, matrices.n_columns
            self.row_words, self.column_words = rows.words, columns.words
            self.limits = [float(chosen_limit)] * len(matrices)
            self.view = self.view if same_shape else {}
            self.chosen = ()
            self.restore({"chosen": kept.get("chosen", ())})
            self._place()
            self.matrices_revision += 1

    def reorder(self, rows: ArrayLike, columns: ArrayLike | None = None) -> None:
        """Stand rows and columns in another order; chosen and marked identities stay so.

        Args:
            rows: (n,) place -> row.
            columns: (m,) place -> column; None takes that of the rows.

        Raises:
            ConfigError: Not a permutation.
        """
        self._matrices.reorder(rows, columns)
        with self.hold_sync():
            self._place()

    def mark(self, rows: ArrayLike, columns: ArrayLike | None = None) -> None:
        """Mark identities along the sides, such as those of a lasso.

        Args:
            rows: Numbers of rows; an empty list takes the marks off.
            columns: Numbers of columns; None takes those of the rows.

        Raises:
            ConfigError: There is no such row or column.
        """
        marked = []
        for numbers, n, name in (
            (rows, self._matrices.n_rows, "row"),
            (rows if columns is None else columns, self._matrices.n_columns, "column"),
        ):
            wanted = np.unique(np.asarray(numbers, dtype=np.int64))
            if len(wanted) and (wanted[0] < 0 or wanted[-1] >= n):
                raise ConfigError(f"cannot mark {name} {wanted[0] if wanted[0] < 0 else wanted[-1]} of {n}.")
            marked.append(wanted)
        self._marked = marked[0], marked[1]
        with self.hold_sync():
            self._place_marks()

    def go_to(self, row: int, column: int, *, n_places: int = 40) -> None:
        """Choose a cell and show it with its surroundings.

        Args:
            row: Number of the row.
            column: Number of the column.
            n_places: Rows and columns to show, the cell in their middle.

        Raises:
            ConfigError: There is no such cell.
        """
        self._check_cell(row, column)
        spans = []
        for place, n in (
            (int(self._matrices.row_places[row]), self._matrices.n_rows),
            (int(self._matrices.column_places[column]), self._matrices.n_columns),
        ):
            size = min(n_places, n)
            start = min(max(0, place - size // 2), n - size)
            spans.append([float(start), float(start + size)])
        with self.hold_sync():
            self.view = {"rows": spans[0], "columns": spans[1]}
            self.chosen = (row, column)

    def set_limit(self, limit: float | Sequence[float]) -> None:
        """Colour from -limit to limit: one for all matrices, or one each.

        Args:
            limit: Above 0.

        Raises:
            ConfigError: A limit that is not above 0, or not one a matrix.
        """
        limits = [float(some) for some in np.broadcast_to(np.asarray(limit, dtype=np.float64), len(self._matrices))]
        if not all(some > 0 for some in limits):
            raise ConfigError(f"colours need a limit above 0, got {limits}.")
        with self.hold_sync():
            self.limits = limits
            self.revision += 1

    def state(self) -> dict[str, Any]:
        """Give what a new widget needs to go on where this one is; identities by name."""
        names = [str(side.names[k]) for side, k in zip((self._rows, self._columns), self.chosen, strict=False)]
        return {"view": self.view, "pooling": self.pooling, "chosen": tuple(names)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the state of an earlier widget; identities that are not here are let go.

        Args:
            state: What `state()` gave, or a part of it.
        """
        with self.hold_sync():
            self.view = dict(state.get("view", self.view))
            self.pooling = state.get("pooling", self.pooling)
            names = tuple(state.get("chosen", ()))
            if len(names) == 2:
                row, column = self._rows.number(names[0]), self._columns.number(names[1])
                if row is not None and column is not None:
                    self.chosen = (row, column)

    # --- places and numbers ---------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Tell the page where everything stands now, and that its pictures are out of date."""
        for side, order, name in (
            (self._rows, self._matrices.row_order, "row_kinds"),
            (self._columns, self._matrices.column_order, "column_kinds"),
        ):
            kinds = b"" if side.kinds is None else np.asarray(side.kinds, dtype=np.uint8)[order].tobytes()
            setattr(self, name, kinds)
        self._place_marks()
        self._place_chosen()
        self.progress, self.problem = -1.0, ""
        self.revision += 1

    def _place_marks(self) -> None:
        rows, columns = self._marked
        self.row_marks = np.sort(self._matrices.row_places[rows]).astype("<u4").tobytes()
        self.column_marks = np.sort(self._matrices.column_places[columns]).astype("<u4").tobytes()

    def _place_chosen(self) -> None:
        if self.chosen:
            row, column = self.chosen
            self.cell = [int(self._matrices.row_places[row]), int(self._matrices.column_places[column])]
        else:
            self.cell = []

    def _check_cell(self, row: int, column: int) -> None:
        if not (0 <= row < self._matrices.n_rows and 0 <= column < self._matrices.n_columns):
            shape = f"{self._matrices.n_rows} x {self._matrices.n_columns}"
            raise ConfigError(f"there is no cell ({row}, {column}) in a matrix of {shape}.")

    @traitlets.validate("chosen")
    def _valid_chosen(self, proposal: Any) -> tuple[int, ...]:
        value = tuple(int(number) for number in proposal["value"])
        if value and len(value) != 2:
            raise ConfigError(f"chosen must be a row and a column, or empty; got {value}.")
        if value:
            self._check_cell(*value)
        return value

    @traitlets.observe("chosen")
    def _chosen_changed(self, _: Any) -> None:
        self._place_chosen()

    @traitlets.observe("cell")
    def _cell_changed(self, _: Any) -> None:
        if len(self.cell) == 2:
            row, column = self.cell
            self._check_cell(row, column)
            self.chosen = (int(self._matrices.row_order[row]), int(self._matrices.column_order[column]))
        else:
            self.chosen = ()

    @traitlets.observe("pooling")
    def _pooling_changed(self, _: Any) -> None:
        self._matrices.forget_failed_maxima()  # who asks for them again wants them tried again
        self.problem = ""
        self.revision += 1

    # --- messages of the page -------------------------------------------------------------------------------------

    def _answer(self, widget: Any, message: Any, buffers: Any) -> None:
        """Answer `tiles` and `describe`; see the script for what they hold. What is wrong is said on the page."""
        answers = {"tiles": (self._send_tiles, "tiles"), "describe": (self._send_description, "description")}
        kind = message.get("type") if isinstance(message, dict) else None
        if kind not in answers:
            super()._answer(widget, message, buffers)
            return
        answer, about = answers[kind]
        with self.saying(about, number=message.get("number")):
            answer(message)

    def _send_tiles(self, message: dict[str, Any]) -> None:
        rows, columns, size = (tuple(message[key]) for key in ("rows", "columns", "size"))
        pooling: Pooling = "max" if self.pooling == "max" else "mean"
        tile = self._matrices.tile(rows, columns, size, pooling=pooling)
        if tile.pooling != pooling:
            self._matrices.start_maxima(self._report_of(self._matrices), self._failure_of(self._matrices))
        codes = [value_codes(values, limit) for values, limit in zip(tile.values, self.limits, strict=True)]
        self.send(
            {
                "type": "tiles",
                "number": message.get("number"),
                "revision": message.get("revision"),
                "rows": list(tile.rows),
                "columns": list(tile.columns),
                "shape": list(codes[0].shape),
                "blocks": [tile.row_block, tile.column_block],
                "pooling": tile.pooling,
            },
            [code.tobytes() for code in codes],
        )

    def _send_description(self, message: dict[str, Any]) -> None:
        row_place, column_place = int(message["row"]), int(message["column"])
        self._check_cell(row_place, column_place)
        row, column = self._matrices.row_order[row_place], self._matrices.column_order[column_place]
        values = self._matrices.values(row, column)[:, 0, 0]
        self.send(
            {
                "type": "description",
                "number": message.get("number"),
                "row_text": self._rows.text(row),
                "column_text": self._columns.text(column),
                "values": [None if np.isnan(value) else float(value) for value in values],
            }
        )

    def _report_of(self, matrices: LinkedMatrices) -> Callable[[int, int], None]:
        """Make a report that shows how far the maxima of some matrices are, and has them drawn at the end."""
        last = 0.0

        def report(done: int, of: int) -> None:
            nonlocal last
            if matrices is not self._matrices:
                return
            if done == of:
                with self.hold_sync():
                    self.progress = -1.0
                    self.revision += 1
            elif time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
                last = time.monotonic()
                self.progress = done / of

        return report

    def _failure_of(self, matrices: LinkedMatrices) -> Callable[[Exception], None]:
        """Make what says on the page why there are no maxima of some matrices."""

        def failed(problem: Exception) -> None:
            if matrices is not self._matrices:
                return
            with self.hold_sync():
                self.progress = -1.0
                self.problem = f"{NO_MAXIMA} {failure_words(problem)} Means are shown instead."

        return failed
