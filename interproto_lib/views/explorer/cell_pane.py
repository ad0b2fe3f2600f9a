"""The part of the similarity explorer that shows what stands behind the chosen cell."""

from __future__ import annotations

import asyncio
import base64
import html
import io
import sys
from collections.abc import Sequence

import ipywidgets
import numpy as np
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError, InterprotoError
from interproto_lib.views.explorer.cell_details import CellReason, CellReasons
from interproto_lib.views.explorer.cell_figures import cell_figure, describe_cell
from interproto_lib.views.explorer.closest_faces import closest_faces, may_draw_faces
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.style import LabelledFigure, figure_style

_TEXT = "margin:3px 0;line-height:1.45"
_HINT = "Choose a cell to see the image pairs behind it."
_DRAWN_AFTER_SECONDS = 0.03  # with no other cell chosen meanwhile


class CellPane:
    """Words, distributions, prototypes in the plane and the closest images of one cell.

    Attributes:
        widget: What shows itself.
        reason: What stands behind the cell; None where none is chosen.
    """

    def __init__(
        self, explored: ExploredRuns, *, points: Sequence[NDArray[np.floating] | None] = (), show_faces: bool = False
    ) -> None:
        """Make the pane, empty.

        Args:
            explored: The runs.
            points: For each run its prototypes in the plane, None where there are none.
            show_faces: Whether photographs of real people may be drawn; faces drawn by formula always are.

        Raises:
            ConfigError: Not one table of points a run, or not one point an identity.
        """
        if points and [None if p is None else p.shape for p in points] != [
            None if p is None else (len(explored.identities), 2) for p in points
        ]:
            raise ConfigError(f"points must be ({len(explored.identities)}, 2), a place for each identity.")
        if points and len(points) != len(explored.runs):
            raise ConfigError(f"{len(points)} tables of points do not fit {len(explored.runs)} runs.")
        self.explored, self.points = explored, list(points)
        self.widget = ipywidgets.HTML(_hint(_HINT))
        self.reason: CellReason | None = None
        self._draws_faces = may_draw_faces(explored, show_faces=show_faces)
        self._reasons = CellReasons(explored, explored.cohorts[0])
        self._places: dict[tuple[str, int], list[Bbox]] = {}
        self._drawing: asyncio.TimerHandle | None = None

    def show(self, row: int, column: int, *, cohort: str) -> None:
        """Show what stands behind a cell.

        The words come at once. In a notebook the figure follows a moment later, and only for the cell that was chosen
        last: many choices in a row wait for no drawing.

        Args:
            row: Identity of the row, counted in `explored.identities`.
            column: Identity of the column.
            cohort: Whose images are compared.
        """
        if self._reasons.cohort != cohort:
            self._reasons = CellReasons(self.explored, cohort)
        self.reason = self._reasons.of(row, column)
        # The map above names the cell that is pointed at; this is the chosen one.
        names = " and ".join(html.escape(str(self.explored.names[identity])) for identity in (row, column))
        texts = [
            f'<p class="ip-cell" style="{_TEXT}"><b>{names}</b>, chosen</p>',
            *(
                f'<p class="ip-said" style="{_TEXT}">{html.escape(text)}</p>'
                for text in describe_cell(self.explored, self.reason)
            ),
        ]
        self._stop_drawing()
        loop = _kernel_loop()
        if loop is None:  # nobody can choose another before this is drawn
            self._draw(texts)
            return
        self.widget.value = "".join([*texts, _hint("Drawing …")])
        self._drawing = loop.call_later(_DRAWN_AFTER_SECONDS, self._draw, texts)

    def _draw(self, texts: list[str]) -> None:
        """Add the figure and the images to the words; what goes wrong is said in their place."""
        self._drawing = None
        assert self.reason is not None
        try:
            pictures = [self._picture(self.figure()), self._faces(self.reason)]
        except Exception as problem:  # called by the loop, which would tell nobody
            pictures = [_hint(f"The figure cannot be drawn: {failure_words(problem)}")]
        self.widget.value = "".join([*texts, *pictures])

    def _stop_drawing(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None

    def clear(self) -> None:
        """Show that no cell is chosen."""
        self._stop_drawing()
        self.reason, self.widget.value = None, _hint(_HINT)

    def figure(self) -> LabelledFigure:
        """Draw the static figure of the cell.

        Raises:
            ConfigError: No cell is chosen.
        """
        if self.reason is None:
            raise ConfigError("Choose a cell first: its image pairs are what is drawn.")
        return cell_figure(self.explored, self.reason, points=self.points)

    def _faces(self, reason: CellReason) -> str:
        """The closest images, or why they are not drawn."""
        if not self._draws_faces:
            return _hint("Photographs of real people are not drawn; show_faces asks for it.")
        try:
            faces = closest_faces(self.explored, reason)
        except InterprotoError as problem:
            return _hint(f"The images cannot be drawn. {problem}")
        return f"{_hint('The most similar images of the cell, as each run sees it:')}{faces}" if faces else ""

    def _picture(self, figure: LabelledFigure) -> str:
        """Give a figure as it stands in a page: sharp on a dense screen, never wider than the page, with words for it.

        Panels stand as in the figure drawn before of the same cohort: to space them takes longer than to draw them.
        """
        assert self.reason is not None
        key = self.reason.cohort, len(figure.axes)
        with figure_style():
            if key not in self._places:
                figure.draw_without_rendering()
                self._places[key] = [axes.get_position(original=True) for axes in figure.axes]
            figure.set_layout_engine(None)
            for axes, place in zip(figure.axes, self._places[key], strict=True):
                axes.set_position(place)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=2 * figure.dpi, pil_kwargs={"compress_level": 1})
        return (
            f'<img class="ip-reason" alt="{html.escape(figure.description)}" width="{round(figure.bbox.width)}" '
            f'style="max-width:100%;height:auto" src="data:image/png;base64,'
            f'{base64.b64encode(file.getvalue()).decode("ascii")}">'
        )


def _kernel_loop() -> asyncio.AbstractEventLoop | None:
    """The loop in which a notebook's kernel takes what the page sends; None outside of a notebook."""
    kernels = sys.modules.get("ipykernel.kernelapp")  # not imported: tqdm would take that for a notebook
    if kernels is None or not kernels.IPKernelApp.initialized():
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _hint(text: str) -> str:
    return f'<p class="ip-hint" style="{_TEXT};color:var(--jp-ui-font-color2,#555)">{html.escape(text)}</p>'
