"""Sweeps of settings drawn: lines over a number, or a row a method, with every seed visible."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interproto_lib.analysis.statistics import mean_and_std
from interproto_lib.views.ablations import line_words, setting_words, shown_measures
from interproto_lib.views.comparison import measure_words
from interproto_lib.views.layout import legend_above, method_handles
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, method_styles, new_figure
from interproto_lib.views.wording import listed

_LOGARITHMIC = ("ip_weight", "embedding_dim")
_N_TO_SHOW_A_SPREAD = 2
_BESIDE = 0.3
_NAME_CHARACTERS = 26


def sweep_figure(table: pd.DataFrame, *, names: Mapping[str, str]) -> LabelledFigure:
    """Draw what was measured at each setting of a sweep, one panel a measure.

    Where the sweep varies a number, lines join the means over it, on a logarithmic axis for weights and dimensions, and
    a method in which the setting means nothing is a dashed level; otherwise a row is a method.

    Args:
        table: The rows of one sweep, as `interproto_lib.analysis.ablation_table` gives them.
        names: Method -> spelling.

    Returns:
        The figure; hollow markers are single seeds, filled ones their mean.
    """
    measures = shown_measures(table)
    setting = str(table["setting"].iloc[0])
    description = f"{listed([measure_words(m) for m in measures])} of {table['method'].nunique()} methods"
    if setting:
        description += f" over the {setting_words(setting)}"
    with figure_style():
        if setting:
            return _numeric_figure(table, measures, setting, names, description=f"{description}.")
        return _categorical_figure(table, measures, names, description=f"{description}.")


def _axis_label(of: pd.DataFrame, measure: str) -> str:
    return f"{measure_words(measure)} (%)" if of["unit"].iloc[0] == "percent" else measure_words(measure)


def _seed_legend(table: pd.DataFrame) -> list[Line2D]:
    grey: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "#7F7F7F"}
    handles = [Line2D([], [], markerfacecolor="white", label="single seed", **grey)]
    if table["seed"].nunique() >= _N_TO_SHOW_A_SPREAD:
        handles.append(Line2D([], [], label="mean of seeds", **grey))
    return handles


def _categorical_figure(
    table: pd.DataFrame, measures: Iterable[str], names: Mapping[str, str], *, description: str
) -> LabelledFigure:
    measures, methods = list(measures), list(dict.fromkeys(table["method"]))
    reference, compared = method_styles(["reference", "compared"]).values()
    referred_to = set(table["reference"])
    lines = [textwrap.fill(names[method], _NAME_CHARACTERS, break_on_hyphens=False) for method in methods]
    height = 1.15 + 0.15 * len(methods) + 0.13 * sum(line.count("\n") + 1 for line in lines)
    figure = new_figure(PAGE_WIDTH_INCHES, height, description=description)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        of = table[table["measure"] == measure]
        for row, method in enumerate(methods):
            _dots(
                axes,
                of.loc[of["method"] == method, "value"].tolist(),
                row,
                reference if method in referred_to else compared,
                along="x",
            )
        references = {reference for reference in table["reference"] if reference}
        if len(references) == 1:
            level = of.loc[of["method"].isin(references), "value"].mean()
            axes.axvline(level, color="#9A9A9A", linewidth=0.9, linestyle=(0, (4, 2)), zorder=0)
        axes.xaxis.grid(visible=True)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=3)
        axes.set_xlabel(_axis_label(of, measure).replace(", ", ",\n"))
        axes.yaxis.grid(visible=True, linestyle=(0, (1, 3)))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(methods)), lines)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    kinds = {"others are compared with it": reference, "compared with another": compared}
    handles = [*_seed_legend(table), *(method_handles(kinds) if referred_to & set(methods) else [])]
    legend_above(figure, handles)
    return figure


def _numeric_figure(
    table: pd.DataFrame, measures: Iterable[str], setting: str, names: Mapping[str, str], *, description: str
) -> LabelledFigure:
    measures = list(measures)
    on_it = table.dropna(subset="at")
    levels = list(dict.fromkeys(table.loc[table["at"].isna(), "method"]))
    lines = list(dict.fromkeys(on_it["line"]))
    styles = method_styles([*(f"level {method}" for method in levels), *(f"line {line}" for line in lines)])
    ticks = sorted(set(on_it["at"]))
    n_rows = -(-len(measures) // 2)
    figure = new_figure(PAGE_WIDTH_INCHES, 0.5 + 1.75 * n_rows, description=description)
    panels = figure.subplots(n_rows, min(2, len(measures)), sharex=True, squeeze=False).ravel()
    for axes in panels[len(measures) :]:
        axes.set_visible(False)
    for place, (axes, measure) in enumerate(zip(panels, measures, strict=False)):
        of = table[table["measure"] == measure]
        for method in levels:
            style = styles[f"level {method}"]
            axes.axhline(of.loc[of["method"] == method, "value"].mean(), color=style.colour, linestyle=(0, (4, 2)))
        for line in lines:
            style = styles[f"line {line}"]
            along = of[of["line"].eq(line) & of["at"].notna()]
            means = along.groupby("at")["value"].mean().sort_index()
            axes.plot(means.index, means, color=style.colour, linestyle=style.line)
            for at in ticks:
                _dots(axes, along.loc[along["at"] == at, "value"].tolist(), at, style, along="y")
        if setting in _LOGARITHMIC and ticks[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.yaxis.grid(visible=True)
        axes.margins(y=0.12)
        axes.set_ylabel(_axis_label(of, measure).replace(", ", ",\n"))
        is_lowest = place + 2 >= len(measures)
        axes.tick_params(axis="x", labelbottom=is_lowest)
        axes.set_xlabel(setting_words(setting) if is_lowest else "")
    named = [
        *(Line2D([], [], color=styles[f"level {m}"].colour, linestyle=(0, (4, 2)), label=names[m]) for m in levels),
        *(
            Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker, label=line_words(line))
            for line in lines
            if line
            for style in [styles[f"line {line}"]]
        ),
    ]
    legend_above(figure, [*named, *_seed_legend(table)])
    return figure


def _dots(axes: Axes, values: list[float], place: float, style: Any, *, along: str) -> None:
    """Hollow markers for single seeds and, from two on, a filled one for their mean; of rows, the seeds below it."""
    if not values:
        return
    marks: dict[str, Any] = {"linestyle": "", "marker": style.marker, "color": style.colour}

    def draw(numbers: list[float], at: float, **how: Any) -> None:
        places = [at] * len(numbers)
        axes.plot(*((numbers, places) if along == "x" else (places, numbers)), **marks, **how)

    several = len(values) >= _N_TO_SHOW_A_SPREAD
    beside = _BESIDE if several and along == "x" else 0.0
    draw(values, place + beside, markersize=3.6 if several else 5.0, markerfacecolor="white", markeredgewidth=0.9)
    if several:
        draw([mean_and_std(values).mean], place, markersize=6.0)
