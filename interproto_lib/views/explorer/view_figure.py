"""The static figure of what the similarity explorer shows: the same cells, order and colours."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from interproto_lib.analysis.similarity import COHORTS
from interproto_lib.views.explorer.cohort_matrices import QUANTITIES, CohortMatrices
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.matrix_orders import order_sides
from interproto_lib.views.explorer.orders import ORDERS
from interproto_lib.views.explorer.tiles import LinkedMatrices, Pooling, Tile
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    figure_style,
    new_figure,
    similarity_colours,
    symmetric_limit,
)
from interproto_lib.views.wording import cohort_words, compared, listed, number

FIGURE_PIXELS = 300
"""Cells, or blocks of cells, that a panel of the static figure shows along each side at most."""

_NAMES_UP_TO = 24
_STRIP = 0.035


def similarity_view_figure(
    explored: ExploredRuns,
    *,
    cohort: str = "all",
    quantity: str = "features",
    order: str = "identity",
    identity: str | None = None,
    rows: tuple[float, float] | None = None,
    columns: tuple[float, float] | None = None,
    pooling: Pooling = "mean",
    limit: float | None = None,
    pixels: int = FIGURE_PIXELS,
) -> LabelledFigure:
    """Draw a part of the matrices of one or two runs and of their difference, in one order and one colour range.

    Args:
        explored: The runs.
        cohort: A name of `explored.cohorts`.
        quantity: A name of `explored.quantities`.
        order: A name of `ORDERS`.
        identity: Name of the identity that the order `similarity` goes by.
        rows: From and to, places among the rows in this order; None for all.
        columns: The same among the columns.
        pooling: What a pixel shows where it stands for several cells: their `mean`, or the highest, `max`.
        limit: Colours run from -limit to limit; None chooses it from what is drawn.
        pixels: Cells or blocks of cells a side, at most.

    Returns:
        One panel a matrix. Strips along the axes say who is a child identity.

    Raises:
        ConfigError: An unknown name, or no place of the matrices is asked for.
    """
    matrices = explored.matrices(cohort, quantity)
    row_order, column_order = order_sides(explored, matrices, order, identity=identity)
    linked = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns)
    linked.reorder(row_order, column_order)
    shown = ((0, len(row_order)) if rows is None else rows, (0, len(column_order)) if columns is None else columns)
    if pooling == "max" and linked.needs_maxima(*shown, (pixels, pixels)):
        linked.start_maxima()
        linked.wait_for_maxima()
    tile = linked.tile(*shown, (pixels, pixels), pooling=pooling)
    return draw_tile(explored, matrices, tile, (row_order, column_order), shown, order=order, limit=limit)


def mean_similarities(explored: ExploredRuns, *, cohort: str = "all", quantity: str = "features") -> dict[str, float]:
    """Average the matrices over all cells of different identities, without building them.

    Args:
        explored: The runs.
        cohort: A name of `explored.cohorts`.
        quantity: A name of `explored.quantities`.

    Returns:
        Title of the matrix -> its mean.
    """
    matrices = explored.matrices(cohort, quantity)
    linked = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns)
    whole = linked.tile((0, len(matrices.rows)), (0, len(matrices.columns)), (1, 1)).values[:, 0, 0]
    return {title: float(mean) for title, mean in zip(matrices.titles, whole, strict=True)}


def describe_view(explored: ExploredRuns, *, cohort: str = "all", quantity: str = "features") -> str:
    """Say how similar different identities are on average, and what the second run changes.

    Args:
        explored: The runs.
        cohort: A name of `explored.cohorts`.
        quantity: A name of `explored.quantities`.

    Returns:
        One or two sentences; the wording follows the numbers.
    """
    means = mean_similarities(explored, cohort=cohort, quantity=quantity)
    names = [run.name for run in explored.runs]
    listed_means = listed([f"{number(means[name])} ({name})" for name in names])
    words = f"{cohort_words(cohort)}, {QUANTITIES[quantity]}"
    text = f"Over all pairs of different identities ({words}) the mean is {listed_means}."
    if len(names) == 2:
        text += f" Against {names[0]} it is {compared(means[names[1]] - means[names[0]])} with {names[1]}."
    return text


def draw_tile(
    explored: ExploredRuns,
    matrices: CohortMatrices,
    tile: Tile,
    orders: tuple[NDArray[np.int64], NDArray[np.int64]],
    shown: tuple[tuple[float, float], tuple[float, float]],
    *,
    order: str,
    limit: float | None = None,
) -> LabelledFigure:
    """Draw a tile that is computed already.

    Args:
        explored: The runs.
        matrices: Whose matrices the tile shows.
        tile: The tile.
        orders: Place -> row, and place -> column.
        shown: From and to among the rows, and among the columns.
        order: Name of the order, for the words.
        limit: Colours run from -limit to limit; None chooses it.

    Returns:
        One panel a matrix.
    """
    n_panels = len(matrices.matrices)
    chosen = symmetric_limit(list(tile.values)) if limit is None else limit
    (top, bottom), (left, right) = shown
    side = min(3.4, (PAGE_WIDTH_INCHES - 0.8) / n_panels)
    height = side * float(np.clip((bottom - top) / (right - left), 0.3, 1.6))
    words = f"{cohort_words(matrices.cohort)}, {QUANTITIES[matrices.quantity]}"
    description = (
        f"Similarity of {words}: {', '.join(matrices.titles)}; order: {ORDERS[order]}; colours from "
        f"{number(-chosen, decimals=2)} to {chosen:.2f}."
    )
    with figure_style():
        figure = new_figure(0.8 + side * n_panels, height + 0.95, description=description, layout="compressed")
        grid = figure.subplots(1, n_panels, squeeze=False)[0]
        for axes, title, values in zip(grid, matrices.titles, tile.values, strict=True):
            image = axes.imshow(
                np.ma.masked_invalid(values),
                cmap=similarity_colours(),
                vmin=-chosen,
                vmax=chosen,
                interpolation="none",
                extent=(tile.columns[0], tile.columns[1], tile.rows[1], tile.rows[0]),
                aspect="auto",
            )
            axes.set(xlim=(left, right), ylim=(bottom, top))
            axes.set_box_aspect(height / side)
            _mark_sides(axes, explored, matrices, orders, shown, named=axes is grid[0])
            axes.set_title(title)
        grid[0].set_ylabel(f"{COHORTS[matrices.cohort][0]} images")
        beyond = bool((np.abs(np.nan_to_num(tile.values)) > chosen).any())
        bar = figure.colorbar(
            image, ax=list(grid), extend="both" if beyond else "neither", shrink=0.9, aspect=25, pad=0.02
        )
        bar.outline.set_visible(False)
        ticks = np.linspace(-chosen, chosen, 5)
        bar.set_ticks(list(ticks), labels=[number(tick, decimals=3).rstrip("0").rstrip(".") for tick in ticks])
        blocks = "" if tile.row_block == tile.column_block == 1 else (
            f"; a pixel is the {'highest' if tile.pooling == 'max' else 'mean'} of {tile.row_block} × "
            f"{tile.column_block} pairs"
        )  # fmt: skip
        figure.supxlabel(
            f"{COHORTS[matrices.cohort][1]} images; {QUANTITIES[matrices.quantity]}; order: {ORDERS[order]}{blocks}\n"
            "strips: child identities orange, others blue",
            fontsize=8,
        )
    return figure


def _mark_sides(
    axes: Axes,
    explored: ExploredRuns,
    matrices: CohortMatrices,
    orders: tuple[NDArray[np.int64], NDArray[np.int64]],
    shown: tuple[tuple[float, float], tuple[float, float]],
    *,
    named: bool,
) -> None:
    """Strips that tell child identities from others, and ticks: names where there is room, else places."""
    sides = (matrices.rows, matrices.columns)
    axes.tick_params(length=2.5, pad=6)
    for which, (side, order, (first, last)) in enumerate(zip(sides, orders, shown, strict=True)):
        start, stop = max(0, int(first)), min(len(order), int(np.ceil(last)))
        identities = side[order[start:stop]]
        axes.add_collection(_strip(axes, explored.is_child[identities], start, vertical=which == 0), autolim=False)
        axis = axes.yaxis if which == 0 else axes.xaxis
        if stop - start <= _NAMES_UP_TO:
            labels = [str(name) for name in explored.names[identities]] if named or which == 1 else []
            axis.set_ticks(list(np.arange(start, stop) + 0.5), labels=labels or [""] * (stop - start), fontsize=6)
            axis.set_tick_params(rotation=0 if which == 0 else 90, length=0)
        elif which == 0 and not named:
            axis.set_ticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#8C8C8C")


def _strip(axes: Axes, is_child: NDArray[np.bool_], start: int, *, vertical: bool) -> PatchCollection:
    """A strip outside an axis in the colours of child identities and others; of many identities by majority."""
    block = -(-len(is_child) // FIGURE_PIXELS)
    starts = np.arange(0, len(is_child), block)
    shares = np.add.reduceat(is_child, starts, dtype=np.int64) / np.minimum(block, len(is_child) - starts)
    bars, colours = [], []
    for child, first, last in _stretches(shares >= 0.5 if block > 1 else is_child):
        place, length = start + first * block, min(last * block, len(is_child)) - first * block
        bars.append(
            Rectangle((-_STRIP, place), 0.8 * _STRIP, length)
            if vertical
            else Rectangle((place, -_STRIP), length, 0.8 * _STRIP)
        )
        colours.append(CHILD_COLOUR if child else ADULT_COLOUR)
    transform = axes.get_yaxis_transform() if vertical else axes.get_xaxis_transform()
    return PatchCollection(bars, facecolors=colours, linewidths=0, transform=transform, clip_on=False)


def _stretches(marks: NDArray[np.bool_]) -> list[tuple[bool, int, int]]:
    """Runs of equal marks: the mark, where it begins and where it ends."""
    if len(marks) == 0:
        return []
    edges = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), len(marks)]
    return [(bool(marks[a]), a, b) for a, b in pairwise(edges)]
