"""Prototypes in the plane for a page without a kernel: every run of a report side by side, linked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.projection import SMALLEST_PROJECTION
from interproto_lib.runs import RunFolder
from interproto_lib.views.explorer.explored import open_explored
from interproto_lib.views.explorer.live_view import read_script
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer
from interproto_lib.views.explorer.projections import stored_projection
from interproto_lib.views.projection import PROJECTION_NAMES
from interproto_lib.views.report.embedded import EmbeddedView, widget_state
from interproto_lib.views.style import LabelledFigure, sentence_figure
from interproto_lib.views.wording import listed

PLANES = "planes"
"""Anchor of the planes in a report."""

_NOTHING = f"No run has prototypes of {SMALLEST_PROJECTION} identities or more, so there is nothing to project."


def plane_explorer(
    runs: Mapping[str, RunFolder],
    *,
    projections: Sequence[str] = ("tsne", "umap"),
    seed: int = 0,
    n_threads: int | None = None,
) -> ProjectionExplorer | None:
    """Place the prototypes of runs in the plane, each run in a panel of its own.

    Args:
        runs: What a run is called -> the run, the first of which says who is there: an identity that another run does
            not know has no place in that run's panel. Runs without prototypes are left out.
        projections: `tsne`, `umap` or both; places that a run has kept are read, see `stored_projection`.
        seed: Of the projections.
        n_threads: Threads; None takes those torch and OpenMP are set to.

    Returns:
        The explorer, made for a page without a kernel; None where no run has prototypes or there are too few.

    Raises:
        ConfigError: The prototypes cannot be projected in this way.
        RunError: A run has no embeddings.
    """
    opened = {name: open_explored(run) for name, run in runs.items()}
    opened = {name: explored for name, explored in opened.items() if explored.runs[0].prototypes is not None}
    opened = {name: explored for name, explored in opened.items() if len(explored.names) >= SMALLEST_PROJECTION}
    if not opened:
        return None
    identities = next(iter(opened.values())).identities
    points: dict[str, dict[str, NDArray[np.float32]]] = {PROJECTION_NAMES.get(p, p): {} for p in projections}
    prototypes = {}
    for name, explored in opened.items():
        run = explored.runs[0]
        rows = pd.Index(explored.names).get_indexer(pd.Index(identities["identity"]))
        for projection in projections:
            places = stored_projection(run, method=projection, seed=seed, n_threads=n_threads)
            points[PROJECTION_NAMES.get(projection, projection)][name] = _rows_or_nan(places, rows)
        assert run.prototypes is not None
        prototypes[name] = _rows_or_nan(run.prototypes, rows)
    made_by = "\n".join(
        [
            "from interproto_lib.runs import open_run",
            "from interproto_lib.views.report import plane_explorer",
            "",
            f"runs = {{name: open_run(path) for name, path in { {n: str(r.path) for n, r in runs.items()}!r}.items()}}",
            f"explorer = plane_explorer(runs, projections={list(projections)!r}, seed={seed})",
        ]
    )
    return ProjectionExplorer(points, identities, prototypes=prototypes, made_by=made_by, live=False)


def planes_figure(explorer: ProjectionExplorer | None) -> LabelledFigure:
    """Draw the projection that the view shows first.

    Args:
        explorer: As `plane_explorer` gives it.

    Returns:
        The figure; a sentence where there is nothing to draw.
    """
    return sentence_figure(_NOTHING) if explorer is None else explorer.figure()


def planes_view(explorer: ProjectionExplorer | None) -> EmbeddedView | None:
    """Make the view of a page from an explorer.

    Args:
        explorer: As `plane_explorer` gives it.

    Returns:
        The view, whose text says what is in it; None where there is nothing to show.
    """
    if explorer is None:
        return None
    return EmbeddedView(
        anchor=PLANES,
        title="The prototypes in the plane, to look around in",
        text=describe_planes(explorer),
        script=read_script("projection_map.js"),
        state=widget_state(explorer.map),
    )


def describe_planes(explorer: ProjectionExplorer | None) -> str:
    """Say what the planes show.

    Args:
        explorer: As `plane_explorer` gives it.

    Returns:
        A few sentences; how far a plane can be trusted is said under the static figure.
    """
    if explorer is None:
        return _NOTHING
    n, n_child = len(explorer.identities), int(explorer.is_child.sum())
    runs = {run: of_run for by_run in explorer.points.values() for run, of_run in by_run.items()}
    unplaced = {run: int((~np.isfinite(of_run).all(axis=1)).sum()) for run, of_run in runs.items()}
    absent = [f"{count:,} of {run}" for run, count in unplaced.items() if count]
    return (
        f"{n:,} prototypes, {n_child:,} of child identities, of {listed(list(runs))}; projected by "
        f"{listed(list(explorer.points))}. Only who is whose neighbour means anything; distances, sizes and places of "
        "clusters do not."
        + (f" Without a place, because the run does not know the identity: {listed(absent)}." if absent else "")
    )


def _rows_or_nan(table: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of a table; NaN where a position is -1."""
    chosen = table[np.maximum(rows, 0)].astype(np.float32)
    chosen[rows < 0] = np.nan
    return chosen
