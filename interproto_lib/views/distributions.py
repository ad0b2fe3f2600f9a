"""Distributions of similarity: how many pairs of identities are how similar, in features and among prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import METHODS_IN_A_LEGEND, legend_above, method_handles, trim_height, wrapped
from interproto_lib.views.style import (
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    MethodStyle,
    figure_style,
    method_styles,
    new_figure,
)
from interproto_lib.views.wording import cohort_words, compared, listed, number

SUMMARY_QUANTITIES = {
    "mean": "Mean",
    "rms": "Root mean square",
    "p95": "95th percentile",
    "share_above": "Share above {threshold:g}",
}
"""Columns that `similarity_summary_figure` draws, and how they are called there."""

_CROSS_COLOUR = "#D55E00"
_MAX_BAR_INCHES = 4.0


def similarity_distribution_figure(
    values: Mapping[str, Mapping[str, np.ndarray]], *, threshold: float = 0.3, n_bins: int | None = None
) -> LabelledFigure:
    """Draw how similar different identities are: left the density, right the share of pairs above each value.

    One row a cohort, all in the same range; one line style a method. The right side has a logarithmic scale, so that
    the few most similar pairs, those that are confused, can be read.

    Args:
        values: Cohort -> method -> values of Eq. 2, of any shape; NaN is ignored.
        threshold: Marked by a vertical line.
        n_bins: Bins of the density; None takes 20 to 60, more for more pairs.

    Returns:
        The figure; of up to four methods, the markers above the curves on the left are the means.

    Raises:
        ConfigError: There is nothing to draw.
    """
    finite = {c: {m: v[np.isfinite(v)] for m, v in by_method.items()} for c, by_method in values.items()}
    finite = {c: {m: v for m, v in by_method.items() if v.size} for c, by_method in finite.items()}
    finite = {c: by_method for c, by_method in finite.items() if by_method}
    if not finite:
        raise ConfigError("There is no similarity of different identities to draw.")
    everything = [v for by_method in finite.values() for v in by_method.values()]
    if n_bins is None:
        n_bins = int(np.clip(2 * min(v.size for v in everything) ** 0.5, 20, 60))
    edges = np.linspace(min(v.min() for v in everything), max(max(v.max() for v in everything), threshold), n_bins + 1)
    styles = method_styles(method for by_method in finite.values() for method in by_method)
    cohorts = listed([cohort_words(cohort) for cohort in finite])
    description = f"Distributions of the similarity of different identities ({cohorts}) for {listed(list(styles))}."
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 0.75 + 1.55 * len(finite), description=description)
        grid = figure.subplots(len(finite), 2, sharex=True, squeeze=False)
        for (density, above), (cohort, by_method) in zip(grid, finite.items(), strict=True):
            for method, of_method in by_method.items():
                _draw_density(density, of_method, edges, styles[method])
                _draw_share_above(above, of_method, styles[method])
            if len(styles) <= METHODS_IN_A_LEGEND:
                _draw_means(density, by_method, styles)
            for axes in (density, above):
                axes.axvline(threshold, color="#8C8C8C", linewidth=0.8, zorder=0)
            density.set(ylabel="Density", yticks=[], xlim=(edges[0], edges[-1]))
            density.set_title(f"Pairs: {cohort_words(cohort)}", loc="left")
            above.set_ylabel("Pairs above")
        smallest = min(1 / v.size for v in everything)
        for axes in grid[:, 1]:
            axes.set(yscale="log", ylim=(smallest / 1.5, 1.3))
            axes.yaxis.grid(visible=True)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
        for axes in grid[-1]:
            axes.set_xlabel("Similarity of two identities (Eq. 2)")
        handles = method_handles(styles, line=True, marker=len(styles) <= METHODS_IN_A_LEGEND)
        if len(styles) <= METHODS_IN_A_LEGEND:
            handles.append(Line2D([], [], color="#8C8C8C", linestyle="", marker="o", markersize=5, label="mean"))
        handles.append(Line2D([], [], color="#8C8C8C", linewidth=0.8, label=f"similarity {threshold:g}"))
        legend_above(figure, handles, handlelength=3.6)
    return figure


def _draw_density(axes: Axes, values: np.ndarray, edges: np.ndarray, style: MethodStyle) -> None:
    density, _ = np.histogram(values, edges, density=True)
    axes.stairs(density, edges, color=style.colour, linestyle=style.line, linewidth=1.3)


def _draw_means(axes: Axes, by_method: Mapping[str, np.ndarray], styles: Mapping[str, MethodStyle]) -> None:
    """Mark the means above the curves, one below the other, so that none hides another."""
    highest = axes.dataLim.y1
    step = highest * min(0.09, 0.5 / len(by_method))
    for line, (method, values) in enumerate(reversed(list(by_method.items())), start=1):
        axes.plot([values.mean()], [highest + line * step], linestyle="", marker=styles[method].marker,
                  markersize=4.5, color=styles[method].colour)  # fmt: skip
    axes.set_ylim(0, highest + (len(by_method) + 1) * step)


def _draw_share_above(axes: Axes, values: np.ndarray, style: MethodStyle) -> None:
    ordered = np.sort(values, axis=None)
    if ordered.size > 2000:
        positions = np.unique(
            np.concatenate([np.linspace(0, ordered.size - 1, 1500), ordered.size - np.geomspace(1, ordered.size, 500)])
            .round()
            .astype(np.int64)
        )
    else:
        positions = np.arange(ordered.size)
    share = 1 - positions / ordered.size
    axes.plot(ordered[positions], share, drawstyle="steps-pre", color=style.colour, linestyle=style.line)


def prototype_vs_feature_figure(
    prototype_values: Mapping[str, np.ndarray], feature_values: Mapping[str, np.ndarray], *, pairs: str
) -> LabelledFigure:
    """Draw, pair of identities by pair, the similarity of features against that of prototypes, one panel a method.

    Where the cloud lies above the dashed line, features are more alike than the prototypes they are trained towards.

    Args:
        prototype_values: Method -> cosines of the two prototypes, shape (n_pairs,).
        feature_values: Method -> similarities of the two identities' features (Eq. 2), shape (n_pairs,), same pairs.
        pairs: What the pairs are, as in `pairs of child identities`.

    Returns:
        The figure; all panels share axes and colours, the cross marks the means, the dashed line equal values.

    Raises:
        ConfigError: The two mappings do not hold the same methods and pairs.
    """
    if not prototype_values or list(prototype_values) != list(feature_values):
        raise ConfigError(
            f"Prototype and feature similarities must be of the same methods; got {list(prototype_values)} and "
            f"{list(feature_values)}."
        )
    clean = {}
    for method, x in prototype_values.items():
        y = feature_values[method]
        if x.shape != y.shape or x.ndim != 1:
            raise ConfigError(f"{method}: {x.shape} prototype and {y.shape} feature similarities are not one a pair.")
        both = np.isfinite(x) & np.isfinite(y)
        clean[method] = (x[both].astype(np.float64), y[both].astype(np.float64))
    low = min(min(x.min(), y.min()) for x, y in clean.values())
    high = max(max(x.max(), y.max()) for x, y in clean.values())
    extent = (low - 0.03 * (high - low), high + 0.03 * (high - low))
    n_columns = min(3, len(clean))
    n_rows = -(-len(clean) // n_columns)
    side = min(2.7, (PAGE_WIDTH_INCHES - 0.8) / n_columns)
    description = f"Similarity of features against similarity of prototypes of {pairs} for {listed(list(clean))}."
    with figure_style():
        figure = new_figure(
            PAGE_WIDTH_INCHES if n_columns > 2 else 0.9 + side * n_columns,
            0.9 + n_rows * (side + 0.5),
            description=description,
            layout="compressed",
        )
        grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        greys = ListedColormap(mpl.colormaps["Greys"](np.linspace(0.22, 1.0, 256)))
        clouds = []
        for axes, (method, (x, y)) in zip(grid.flat, clean.items(), strict=False):
            clouds.append(
                axes.hexbin(x, y, gridsize=36, extent=(*extent, *extent), mincnt=1, cmap=greys, linewidths=0.1)
            )
            axes.plot(extent, extent, color="#1A1A1A", linewidth=0.8, linestyle=(0, (4, 3)))
            axes.plot([x.mean()], [y.mean()], marker="P", markersize=9, color=_CROSS_COLOUR, markeredgecolor="white")
            correlation = np.corrcoef(x, y)[0, 1] if x.size > 2 and x.std() > 0 and y.std() > 0 else np.nan
            below = f"r = {number(correlation, decimals=2)}, n = {x.size:,}"
            axes.set_title(f"{wrapped(method, side)}\n{below}", linespacing=1.3)
            axes.set(xlim=extent, ylim=extent, aspect="equal")
        most = max(2.0, *(float(np.max(cloud.get_array())) for cloud in clouds))
        counts = LogNorm(vmin=1, vmax=most)
        for cloud in clouds:
            cloud.set_norm(counts)
        for axes in grid.flat[len(clean) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("Cosine of prototypes")
        for axes in grid[:, 0]:
            axes.set_ylabel("Similarity of features (Eq. 2)")
        shrink = min(0.85, _MAX_BAR_INCHES / figure.get_figheight())
        bar = figure.colorbar(clouds[0], ax=grid, shrink=shrink, aspect=26, pad=0.02, format="{x:,.0f}")
        bar.minorticks_off()
        bar.set_ticks([tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000) if tick <= most])
        bar.set_label("Pairs in a cell")
        bar.outline.set_visible(False)
        cross: Any = {"linestyle": "", "marker": "P", "color": _CROSS_COLOUR, "markeredgecolor": "white"}
        handles = [
            Line2D([], [], markersize=9, label="means", **cross),
            Line2D([], [], color="#1A1A1A", linewidth=0.8, linestyle=(0, (4, 3)), label="both equal"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        trim_height(figure)
    return figure


def describe_gaps(gaps: pd.DataFrame) -> str:
    """Say for each method how far the similarity of prototypes is from that of features, and whether they go together.

    Args:
        gaps: One row a method and seed, as `interproto_lib.analysis.prototype_feature_gaps` gives it.

    Returns:
        One line a method, as a Markdown list, means over the seeds; the wording follows sign and size.
    """
    lines = []
    for method, of_method in gaps.groupby("method", sort=False):
        mean, rms, correlation = (float(of_method[name].mean()) for name in ("gap_mean", "gap_rms", "correlation"))
        than = f"{compared(mean)} than" if round(mean, 3) else f"{compared(mean)} as"
        together = (
            ""
            if np.isnan(correlation)
            else f"; over the pairs the correlation of the two is {number(correlation, decimals=2)}"
        )
        seeds = "one seed" if len(of_method) == 1 else f"mean of {len(of_method)} seeds"
        lines.append(
            f"- {method}: the cosine of two prototypes is on average {than} the similarity of their images "
            f"({number(float(of_method['prototype_mean'].mean()))} against "
            f"{number(float(of_method['feature_mean'].mean()))}), the root mean square of this gap is {number(rms)}"
            f"{together} ({seeds})."
        )
    return "\n".join(lines)


def similarity_summary_figure(table: pd.DataFrame, *, threshold: float = 0.3, pairs: str = "") -> LabelledFigure:
    """Draw mean, rms, 95th percentile and share above the threshold of prototypes and features, one dot a seed.

    Args:
        table: One row a method, seed and `what` (`prototypes` or `features`), with the columns `mean`, `rms`, `p95` and
            `share_above`; methods and `what` are drawn in the order of their first row.
        threshold: What `share_above` was counted with.
        pairs: Which identities were compared, as in `child–child`.

    Returns:
        The figure, one panel a quantity; bars are means over seeds, hollow dots single seeds.
    """
    kinds = list(dict.fromkeys(table["what"]))
    styles = method_styles(table["method"])
    description = f"Similarity of {listed(kinds)} for {listed(list(styles))}: mean, rms, 95th percentile, share above."
    with figure_style():
        height = 1.1 + 0.2 * len(kinds) * len(styles) + 0.18 * len(kinds)
        figure = new_figure(PAGE_WIDTH_INCHES, height, description=description)
        grid = figure.subplots(1, len(SUMMARY_QUANTITIES), sharey=True)
        for axes, (column, title) in zip(grid, SUMMARY_QUANTITIES.items(), strict=True):
            centres = _draw_summary_dots(axes, table, column, kinds, styles)
            axes.axvline(0, color="#404040", linewidth=0.7)
            axes.set_title(title.format(threshold=threshold))
            axes.xaxis.grid(visible=True)
            axes.locator_params(axis="x", nbins=4)
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        grid[-1].xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        grid[0].set_yticks(centres, kinds)
        grid[0].set_ylim(len(kinds) * (len(styles) + 1) - 1.3, -0.8)
        kind = f" ({pairs})" if pairs else ""
        figure.supxlabel(f"Cosine similarity of two identities{kind}", fontsize=8.5)
        handles = method_handles(styles, line=True)
        if len(set(table["seed"])) > 1:
            handles.append(Line2D([], [], color="#7F7F7F", linestyle="", marker="|", markersize=9, markeredgewidth=1.8,
                                  label="mean"))  # fmt: skip
        handles.append(Line2D([], [], color="#7F7F7F", linestyle="", marker="o", markersize=4.5,
                              markerfacecolor="white", label="single seed"))  # fmt: skip
        legend_above(figure, handles, handlelength=3.6)
    return figure


def _draw_summary_dots(
    axes: Axes, table: pd.DataFrame, column: str, kinds: list[str], styles: Mapping[str, MethodStyle]
) -> list[float]:
    centres = []
    for k, kind in enumerate(kinds):
        top = k * (len(styles) + 1)
        centres.append(top + (len(styles) - 1) / 2)
        for m, (method, style) in enumerate(styles.items()):
            seeds = table.loc[(table["what"] == kind) & (table["method"] == method), column].to_numpy(dtype=float)
            if seeds.size == 0:
                continue
            axes.plot([0, seeds.mean()], [top + m] * 2, color=style.colour, linestyle=style.line)
            hollow: Any = {"markerfacecolor": "white", "markeredgecolor": style.colour, "markersize": 4.5}
            axes.plot(seeds, [top + m] * seeds.size, linestyle="", marker=style.marker, **hollow)
            axes.plot([seeds.mean()], [top + m], marker="|", markersize=11, markeredgewidth=1.8, color=style.colour)
    return centres


def describe_prototypes_and_features(table: pd.DataFrame) -> str:
    """Say for each method but the first how prototypes and how features changed, and whether they moved together.

    Args:
        table: As for `similarity_summary_figure`; the first method is the baseline.

    Returns:
        Two sentences a method; the wording follows the signs, to three decimals.
    """
    means = table.groupby(["method", "what"], sort=False)[["mean", "rms"]].mean()
    baseline, *others = dict.fromkeys(table["method"])
    n_seeds = table["seed"].nunique()
    over = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
    if not others:
        values = [f"{number(means.loc[(baseline, what), 'mean'])} of {what}" for what in ("prototypes", "features")]
        return f"{baseline}, {over}: mean similarity {listed(values)}."
    sentences = []
    for method in others:
        prototypes, features = (means.loc[(method, w)] - means.loc[(baseline, w)] for w in ("prototypes", "features"))
        sentences.append(
            f"{method} against {baseline} ({over}): the mean similarity of prototypes is "
            f"{compared(prototypes['mean'])} (rms {compared(prototypes['rms'])}), that of features "
            f"{compared(features['mean'])} (rms {compared(features['rms'])}). "
            f"By the mean they {_together(prototypes['mean'], features['mean'])}, by the rms they "
            f"{_together(prototypes['rms'], features['rms'])}."
        )
    return " ".join(sentences)


def _together(prototypes: float, features: float) -> str:
    first, second = np.sign(round(prototypes, 3)), np.sign(round(features, 3))
    if first == second:
        return "stay as they are" if first == 0 else f"both {'rise' if first > 0 else 'fall'}"
    return "do not move together"
