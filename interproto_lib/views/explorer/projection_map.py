"""The widget of points in the plane: what crosses to the page, and what comes back from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets
from numpy.typing import NDArray

from interproto_lib.views.explorer.live_view import LiveView, read_script
from interproto_lib.views.style import LabelledFigure

COLOURINGS = ("kind", "age_years", "n_images", "confusion")
"""What points can be coloured by: child or adult, mean age, number of images, highest cosine to another identity."""

TOOLS = ("move", "lasso", "rectangle")
"""What dragging does."""

_STEPS = 65_000
_MISSING = 65_535


class ProjectionMap(LiveView):
    """Panels of points, one a run, drawn by the page; the identities of all panels are the same n rows.

    Everything that is drawn is sent once, so that colouring, hovering and selecting need no kernel.

    Attributes:
        runs: Names of the panels, p of them.
        projections: Names of the projections, q of them.
        points: (q, p, n, 2) unsigned 16-bit integers, see `quantise_points`.
        names: The n identities, one a line.
        kinds: (n,) bytes: 1 child identity, 2 another without any age, 0 every other.
        age_years: (n,) float32 mean ages, NaN where unknown.
        n_images: (n,) float32.
        confusion: (p, n) float32 highest cosine to another identity; empty where unknown.
        confused_with: (p, n) int32 row of that identity.
        projection: Name of the projection shown.
        colouring: One of `COLOURINGS`.
        tool: One of `TOOLS`.
        selected: Rows selected, rising.
        chosen: The one row chosen; -1 for none.
        views: Per panel x, y and zoom.
        table_call: The call that gives the selection as a table, as it is shown.
    """

    _esm = read_script("projection_map.js")
    view_name = "The projection explorer"

    runs = traitlets.List(traitlets.Unicode()).tag(sync=True)
    projections = traitlets.List(traitlets.Unicode()).tag(sync=True)
    points = traitlets.Bytes().tag(sync=True)
    names = traitlets.Unicode().tag(sync=True)
    kinds = traitlets.Bytes().tag(sync=True)
    age_years = traitlets.Bytes().tag(sync=True)
    n_images = traitlets.Bytes().tag(sync=True)
    confusion = traitlets.Bytes().tag(sync=True)
    confused_with = traitlets.Bytes().tag(sync=True)
    projection = traitlets.Unicode().tag(sync=True)
    colouring = traitlets.Enum(COLOURINGS, "kind").tag(sync=True)
    tool = traitlets.Enum(TOOLS, "move").tag(sync=True)
    selected: traitlets.List[Any] = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    views: traitlets.List[Any] = traitlets.List().tag(sync=True)
    table_call = traitlets.Unicode("explorer.selected_table()").tag(sync=True)

    def __init__(
        self,
        points: Mapping[str, Mapping[str, NDArray[np.floating]]],
        *,
        identities: Sequence[str],
        kinds: NDArray[np.uint8],
        age_years: NDArray[np.floating],
        n_images: NDArray[Any],
        draw_figure: Callable[[], LabelledFigure],
        figure_name: str = "projection",
        **state: Any,
    ) -> None:
        """Pack the arrays for the page.

        Args:
            points: Projection -> run -> (n, 2) points; NaN rows are not drawn.
            identities: The n names.
            kinds: (n,) 0, 1 or 2, see the class.
            age_years: (n,) mean ages.
            n_images: (n,) numbers of images.
            draw_figure: Gives the static figure.
            figure_name: Name of the saved file, without suffix.
            state: Traits to begin with.
        """
        runs = list(next(iter(points.values())))
        super().__init__(
            draw_figure=draw_figure,
            figure_name=figure_name,
            runs=runs,
            projections=list(points),
            points=np.stack(
                [np.stack([quantise_points(of_run) for of_run in by_run.values()]) for by_run in points.values()]
            ).tobytes(),
            names=_one_a_line(identities),
            kinds=np.ascontiguousarray(kinds, dtype=np.uint8).tobytes(),
            age_years=np.ascontiguousarray(age_years, dtype="<f4").tobytes(),
            n_images=np.ascontiguousarray(n_images, dtype="<f4").tobytes(),
            **{"projection": next(iter(points)), "views": [[0.5, 0.5, 1.0] for _ in runs], **state},
        )

    def set_confusion(self, cosines: NDArray[np.floating], rows: NDArray[np.integer]) -> None:
        """Give the page what it colours by confusion.

        Args:
            cosines: (p, n) highest cosine to another identity, a run a row.
            rows: (p, n) row of that identity.
        """
        with self.hold_sync():
            self.confused_with = np.ascontiguousarray(rows, dtype="<i4").tobytes()
            self.confusion = np.ascontiguousarray(cosines, dtype="<f4").tobytes()


def quantise_points(points: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Put points into the unit square, in steps that no screen resolves, the longer side filling it.

    Args:
        points: (n, 2); a row that is not finite has no place.

    Returns:
        (n, 2) unsigned 16-bit: coordinate 0 to 65,000 for 0 to 1; 65,535 for a row without a place.

    Example:
        >>> quantise_points(np.array([[-1.0, 5.0], [1.0, 6.0], [np.nan, 0.0]])).tolist()
        [[0, 16250], [65000, 48750], [65535, 65535]]
    """
    x, y = (np.ascontiguousarray(points[:, column], dtype=np.float64) for column in (0, 1))
    placed = np.isfinite(x) & np.isfinite(y)
    steps = np.full(points.shape, _MISSING, dtype="<u2")
    if not placed.any():
        return steps
    all_placed = bool(placed.all())
    known = (x, y) if all_placed else (x[placed], y[placed])
    ends = [(float(values.min()), float(values.max())) for values in known]
    side = max(high - low for low, high in ends) or 1.0
    for column, (values, (low, high)) in enumerate(zip(known, ends, strict=True)):
        of_column = np.rint(_STEPS * ((values - (low + high) / 2) / side + 0.5))
        steps[slice(None) if all_placed else placed, column] = of_column
    return steps


def _one_a_line(names: Sequence[str]) -> str:
    joined = "\n".join(names)
    if joined.count("\n") == len(names) - 1 and "\r" not in joined:
        return joined
    return "\n".join(" ".join(name.splitlines()) for name in names)
