"""Prototypes in the plane: Fig. 5 of the paper, with the numbers without which such a picture misleads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interproto_lib.analysis.projection import ProjectionQuality
from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import wrapped
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    axes_at,
    broken_rows,
    figure_style,
    new_figure,
)
from interproto_lib.views.wording import compared, listed

PROJECTION_NAMES = {"tsne": "t-SNE", "umap": "UMAP"}
"""How the methods of `project_prototypes` are called in a figure."""

_RASTER_FROM = 2000


def projection_figure(
    points: Mapping[str, Mapping[str, np.ndarray]],
    is_child: np.ndarray,
    quality: Mapping[str, Mapping[str, ProjectionQuality]],
) -> LabelledFigure:
    """Draw prototypes in the plane, one row a projection, one column a method, children above adults.

    More than three methods go on below, with all projections again.

    Source: Fig. 5, which does not say how it was projected. Axes have no ticks: neither position nor distance between
    clusters means anything, only who is whose neighbour. Under each panel stand the share of children among the nearest
    neighbours of a child prototype (in the original space, in the plane, and by chance), the recall of neighbours and
    the trustworthiness of the plane.

    Args:
        points: Projection (as in `t-SNE`) -> method -> points, shape (n, 2).
        is_child: Whether prototype i belongs to a child identity, shape (n,), bool; all False without age labels.
        quality: Projection -> method -> quality of these points, same keys.

    Returns:
        The figure.

    Raises:
        ConfigError: Keys or lengths do not fit together.
    """
    methods = _checked_methods(points, is_child, quality)
    places, n_rows, n_columns = broken_rows(len(points) * len(methods), len(methods))
    side = min(3.3, (PAGE_WIDTH_INCHES - 0.3) / n_columns)
    n_child = int(is_child.sum())
    description = (
        f"{len(is_child):,} prototypes in the plane ({listed(list(points))}) for {listed(methods)}; "
        f"{n_child:,} belong to child identities."
    )
    with figure_style():
        figure = new_figure(0.3 + side * n_columns, 0.35 + n_rows * (side + 0.65), description=description)
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        panels = [(projection, method) for projection in points for method in methods]
        for (projection, method), place in zip(panels, places, strict=True):
            axes = axes_at(grid, place)
            _draw_points(axes, points[projection][method], is_child)
            axes.set_xlabel(_quality_text(quality[projection][method]), fontsize=7.5, linespacing=1.35)
            if place[1] == 0:
                axes.set_ylabel(projection, fontsize=9)
            if place[0] % len(points) == 0:
                axes.set_title(wrapped(method, side))
        for place in set(np.ndindex(n_rows, n_columns)) - set(places):
            axes_at(grid, place).set_axis_off()
        _legend(figure, len(is_child) - n_child, n_child)
    return figure


def _checked_methods(
    points: Mapping[str, Mapping[str, np.ndarray]],
    is_child: np.ndarray,
    quality: Mapping[str, Mapping[str, ProjectionQuality]],
) -> list[str]:
    if not points or not next(iter(points.values())):
        raise ConfigError("There are no points to draw.")
    methods = list(next(iter(points.values())))
    for projection, by_method in points.items():
        if list(by_method) != methods or projection not in quality or set(methods) - set(quality[projection]):
            raise ConfigError(f"{projection}: points and quality must be given for the methods {', '.join(methods)}.")
        for method, of_method in by_method.items():
            if of_method.shape != (len(is_child), 2):
                raise ConfigError(
                    f"{projection}, {method}: points of shape {of_method.shape} do not fit {len(is_child)} prototypes."
                )
    return methods


def _draw_points(axes: Axes, points: np.ndarray, is_child: np.ndarray) -> None:
    raster = len(points) > _RASTER_FROM
    size = float(np.clip(4500 / len(points), 1.2, 12.0))
    adults, children = points[~is_child], points[is_child]
    axes.scatter(
        adults[:, 0], adults[:, 1], s=size, marker="o", color=ADULT_COLOUR, alpha=0.55, linewidths=0, rasterized=raster
    )
    axes.scatter(
        children[:, 0],
        children[:, 1],
        s=2.2 * size + 4,
        marker="^",
        color=CHILD_COLOUR,
        edgecolors="#1A1A1A",
        linewidths=0.0 if raster else 0.3,
        zorder=3,
        rasterized=raster,
    )
    middle, half = (points.max(axis=0) + points.min(axis=0)) / 2, 0.53 * float(np.ptp(points, axis=0).max())
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#B0B0B0")


def _quality_text(quality: ProjectionQuality) -> str:
    trust = f"recall {quality.recall:.2f}, trustworthiness {quality.trustworthiness:.2f}"
    if np.isnan(quality.child_purity_original):
        return trust
    return (
        f"child share of {quality.k_purity} neighbours: {quality.child_purity_original:.2f}\n"
        f"(in the plane {quality.child_purity_plane:.2f}, by chance {quality.base_rate:.2f})\n{trust}"
    )


def _legend(figure: LabelledFigure, n_adult: int, n_child: int) -> None:
    without = f"other identities, n = {n_adult:,}" if n_child else f"identities, n = {n_adult:,}"
    handles = [Line2D([], [], linestyle="", marker="o", markersize=4, color=ADULT_COLOUR, label=without)]
    if n_child:
        label = f"child identities, n = {n_child:,}"
        handles.append(
            Line2D([], [], linestyle="", marker="^", markersize=6, color=CHILD_COLOUR, markeredgecolor="#1A1A1A",
                   markeredgewidth=0.4, label=label)
        )  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=2, handletextpad=0.3)


def describe_purity(purity: Mapping[str, Sequence[float]], *, base_rate: float, k: int, n_child: int) -> str:
    """Say how many of a child prototype's neighbours are children, for each method, against chance and the baseline.

    Args:
        purity: Method -> share in the original space, one a seed; baseline first.
        base_rate: Share expected by chance.
        k: Neighbours counted.
        n_child: Child identities; with none of them there is nothing to say but that.

    Returns:
        A few sentences; the wording follows the numbers.
    """
    if n_child == 0:
        return (
            "No identity counts as a child identity here, so neighbours cannot be told apart and one colour is drawn."
        )
    means = {method: float(np.mean(values)) for method, values in purity.items()}
    n_seeds = max(len(values) for values in purity.values())
    over = "one seed" if n_seeds == 1 else f"mean of {n_seeds} seeds"
    shares = []
    for method, mean in means.items():
        times = f", {mean / base_rate:.1f} times chance" if base_rate > 0 else ""
        shares.append(f"{mean:.2f} ({method}{times})")
    sentences = [
        f"Of the {k} nearest neighbours of a child prototype in the original space a share of {listed(shares)} belongs "
        f"to child identities ({over}); by chance it would be {base_rate:.2f}."
    ]
    (baseline, first), *others = means.items()
    if others:
        changes = [f"{compared(mean - first, decimals=2)} with {method}" for method, mean in others]
        sentences.append(f"Against {baseline} the share is {listed(changes)}.")
    return " ".join(sentences)


def describe_projections(quality: Mapping[str, Mapping[str, ProjectionQuality]]) -> str:
    """Say how far each picture can be trusted, and whether it shows the bunching of the original space.

    Args:
        quality: Projection -> method -> quality.

    Returns:
        One sentence a projection.
    """
    sentences = []
    for projection, by_method in quality.items():
        kept = [f"{q.recall:.0%} ({method})" for method, q in by_method.items()]
        k = next(iter(by_method.values())).k_recall
        text = f"{projection} keeps {listed(kept)} of the {k} nearest neighbours"
        shifts = [
            f"{compared(q.child_purity_plane - q.child_purity_original, decimals=2)} ({method})"
            for method, q in by_method.items()
            if not np.isnan(q.child_purity_original)
        ]
        if shifts:
            text += f"; against the original space, the share of children among neighbours is {listed(shifts)}"
        sentences.append(f"{text}.")
    return " ".join(sentences)
