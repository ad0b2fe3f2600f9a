"""The part of the similarity explorer that shows what stands behind the chosen cell."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError, InterprotoError
from interproto_lib.views.explorer.cell_details import CellReason, CellReasons
from interproto_lib.views.explorer.cell_figures import (
    cell_figure,
    closest_faces_figure,
    describe_cell,
    may_draw_faces,
)
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.style import LabelledFigure

_TEXT = "margin:3px 0;line-height:1.45"
_HINT = "Choose a cell to see the image pairs behind it."


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

    def show(self, row: int, column: int, *, cohort: str) -> None:
        """Show what stands behind a cell.

        Args:
            row: Identity of the row, counted in `explored.identities`.
            column: Identity of the column.
            cohort: Whose images are compared.
        """
        if self._reasons.cohort != cohort:
            self._reasons = CellReasons(self.explored, cohort)
        self.reason = self._reasons.of(row, column)
        texts = [
            f'<p class="ip-said" style="{_TEXT}">{html.escape(text)}</p>'
            for text in describe_cell(self.explored, self.reason)
        ]
        self.widget.value = "".join([*texts, picture(self.figure(), "ip-reason"), self._faces(self.reason)])

    def clear(self) -> None:
        """Show that no cell is chosen."""
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
        if not any(pairs.closest for pairs in reason.pairs):
            return ""
        try:
            figure = closest_faces_figure(self.explored, reason)
        except InterprotoError as problem:
            return _hint(f"The images cannot be drawn. {problem}")
        return f"{_hint('The most similar images of the cell, as each run sees it:')}{picture(figure, 'ip-faces')}"


def picture(figure: LabelledFigure, name: str) -> str:
    """Give a figure as it stands in a page: sharp on a dense screen, never wider than the page, with words for it.

    Args:
        figure: The figure.
        name: Class of the image.

    Returns:
        An HTML image that holds its content.
    """
    data, metadata = figure._repr_mimebundle_()
    return (
        f'<img class="{name}" alt="{html.escape(figure.description)}" width="{metadata["image/png"]["width"]}" '
        f'style="max-width:100%;height:auto" src="data:image/png;base64,{data["image/png"]}">'
    )


def _hint(text: str) -> str:
    return f'<p class="ip-hint" style="{_TEXT};color:var(--jp-ui-font-color2,#555)">{html.escape(text)}</p>'
