"""What a cell of the similarity matrix looks like from near: its image pairs, and where its prototypes lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from interproto_lib.views.explorer.cell_details import COSINE_BINS, CellPairs, CellReason, ImpostorPairs
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    figure_style,
    new_figure,
)
from interproto_lib.views.wording import cohort_words, number

_HIGHLIGHT = "#AA3377"
_FINE_BINS_FROM = 50_000


def describe_cell(explored: ExploredRuns, reason: CellReason) -> list[str]:
    """Say what stands behind a cell, a sentence or two for each run.

    Args:
        explored: The runs.
        reason: What stands behind the cell.

    Returns:
        One text a run.
    """
    row, column = (explored.names[i] for i in (reason.row, reason.column))
    texts = []
    for run, pairs, impostors in zip(explored.runs, reason.pairs, reason.impostors, strict=True):
        n = int(np.isfinite(pairs.cosines).sum())
        prototypes = "" if pairs.prototypes is None else f" The cosine of the prototypes is {number(pairs.prototypes)}."
        if n == 0:
            without = row if len(pairs.row_images) == 0 else column
            alone = len(pairs.row_images) > 0 and len(pairs.column_images) > 0  # one image is not compared with itself
            what = "no second image to compare" if alone else "no image"
            texts.append(f"{run.name}: {without} has {what} in this cohort.{prototypes}")
            continue
        what = f"{n:,} image pair{'s' if n > 1 else ''}"
        sample = " (of a sample)" if impostors.sampled else ""
        highest = float(np.nanmax(pairs.cosines))
        texts.append(
            f"{run.name}: the mean of {what} is {number(pairs.mean)}, the highest {number(highest)}. "
            f"{impostors.share_above(highest):.2%} of the image pairs of different people are at least as similar "
            f"as the closest pair{sample}.{prototypes}"
        )
    return texts


def cell_figure(
    explored: ExploredRuns, reason: CellReason, *, points: Sequence[NDArray[np.floating] | None] = ()
) -> LabelledFigure:
    """Draw the image pairs of a cell against all impostor pairs, and where the two prototypes lie.

    Args:
        explored: The runs.
        reason: What stands behind the cell.
        points: For each run its (n, 2) prototypes in the plane, None or nothing where there are none.

    Returns:
        One column a run: above the distributions, both as densities, below the projection.
    """
    row, column = (explored.names[i] for i in (reason.row, reason.column))
    planes = [plane for plane in points if plane is not None]
    n_rows = 2 if planes else 1
    description = f"Image pairs of {row} and {column} ({cohort_words(reason.cohort)}) against all impostor pairs."
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 2.3 + (2.7 if planes else 0), description=description)
        grid = figure.subplots(
            n_rows, len(explored.runs), squeeze=False, sharex="row" if n_rows == 1 else False,
            gridspec_kw={"height_ratios": [2, 2.4][:n_rows]},
        )  # fmt: skip
        for index, run in enumerate(explored.runs):
            _draw_distributions(grid[0, index], reason.pairs[index], reason.impostors[index])
            grid[0, index].set_title(run.name)
        low = min(axes.get_xlim()[0] for axes in grid[0])
        for axes in grid[0]:
            axes.set_xlim(low, 1.0)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        if planes:
            for axes, plane in zip(grid[1], points, strict=True):
                _draw_plane(axes, plane, explored, reason.row, reason.column)
    return figure


def _draw_distributions(axes: Axes, pairs: CellPairs, impostors: ImpostorPairs) -> None:
    n = int(impostors.counts.sum())
    merged = 1 if n > _FINE_BINS_FROM else 4  # of few pairs, fine bins would show chance
    edges = COSINE_BINS[::merged]
    density = impostors.counts.reshape(-1, merged).sum(axis=1) / max(1, n) / (0.01 * merged)
    label = f"different people ({'a sample of ' if impostors.sampled else ''}{impostors.n_pairs:,} image pairs)"
    axes.stairs(density, edges, fill=True, color="#C9C9C9", label="image pairs of different people")
    axes.set_xlabel(f"Cosine\n{label}", fontsize=8)
    occupied = np.flatnonzero(impostors.counts)
    low = COSINE_BINS[occupied[0]] if len(occupied) else -0.2
    cosines = pairs.cosines[np.isfinite(pairs.cosines)]
    top = float(density.max()) or 1.0
    if len(cosines):
        low = min(low, float(cosines.min()))
        height = 0.16 * top
        axes.vlines(cosines, -height, -0.25 * height, color=_HIGHLIGHT, linewidth=0.8, alpha=0.75,
                    label="image pairs of this cell")  # fmt: skip
        axes.axvline(pairs.mean, color=_HIGHLIGHT, linewidth=1.4, label="their mean")
    if pairs.prototypes is not None:
        axes.axvline(
            pairs.prototypes, color="#1A1A1A", linewidth=1.2, linestyle=(0, (3, 2)), label="the two prototypes"
        )
        low = min(low, pairs.prototypes)
    axes.axhline(0, color="#404040", linewidth=0.6)
    axes.set(xlim=(max(-1.0, low - 0.05), 1.0), ylim=(-0.2 * top, 1.05 * top), yticks=[])
    axes.set_ylabel("Density")


def _draw_plane(axes: Axes, plane: NDArray[np.floating] | None, explored: ExploredRuns, row: int, column: int) -> None:
    if plane is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no prototypes", ha="center", transform=axes.transAxes)
        return
    is_child = explored.is_child
    size = float(np.clip(2500 / len(plane), 0.8, 14.0))
    raster = len(plane) > 2000
    for which, colour, marker in ((~is_child, ADULT_COLOUR, "o"), (is_child, CHILD_COLOUR, "^")):
        x, y = plane[which].T
        axes.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.5, linewidths=0, rasterized=raster)
    by_side = sorted(dict.fromkeys((row, column)), key=lambda position: float(plane[position, 0]))
    for place, position in enumerate(by_side):
        marker, colour = ("^", CHILD_COLOUR) if is_child[position] else ("o", ADULT_COLOUR)
        x, y = plane[position]
        axes.scatter([x], [y], s=70, color=colour, marker=marker, edgecolors="#1A1A1A", linewidths=1.3, zorder=4)
        leftmost = place == 0 and len(by_side) == 2  # its name to the left, so that two names never cover each other
        axes.annotate(
            str(explored.names[position]), (x, y), xytext=(-8 if leftmost else 8, 0), textcoords="offset points",
            ha="right" if leftmost else "left", va="center", fontsize=8, zorder=5, annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    half = 0.55 * float(np.ptp(plane, axis=0).max())
    x, y = (plane.max(axis=0) + plane.min(axis=0)) / 2
    axes.set(xticks=[], yticks=[], aspect="equal", xlabel="The prototypes in the plane")
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#B0B0B0")
