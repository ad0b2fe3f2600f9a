"""Sweeps of settings: one figure, one table and the computed sentences of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interproto_lib.analysis.ablations import Sweep
from interproto_lib.analysis.statistics import PairedDifference, mean_and_std, paired_differences
from interproto_lib.views.comparison import measure_words, measures_table
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, method_styles, new_figure
from interproto_lib.views.wording import listed, number, signed

SETTING_WORDS = {
    "ip_weight": "weight λ",
    "min_child_images": "child images k that make a child identity",
    "embedding_dim": "embedding dimension d",
}
"""Setting that a sweep may vary -> its name in figures; others keep their own."""

_SHORT_SETTINGS = {"ip_weight": "λ", "min_child_images": "k", "embedding_dim": "d"}
_LINE_WORDS = {
    "inter_prototype=none": "without the loss",
    "inter_prototype=child": "loss on child prototypes",
    "inter_prototype=all": "loss on all prototypes",
    "ip_reduction=sum": "sum (Eq. 5)",
    "ip_reduction=mean": "mean (official code)",
}
_LOGARITHMIC = ("ip_weight", "embedding_dim")
_DECIMALS = {"percent": 2, "cosine": 3}
_N_TO_SHOW_A_SPREAD = 2


def setting_words(setting: str) -> str:
    """Write the name of a setting for people.

    Args:
        setting: A name of `interproto_lib.config.TrainConfig`.

    Returns:
        The words.

    Example:
        >>> setting_words("ip_weight"), setting_words("epochs")
        ('weight λ', 'epochs')
    """
    return SETTING_WORDS.get(setting, setting.replace("_", " "))


def shown_measures(table: pd.DataFrame) -> list[str]:
    """Choose the measures that a figure shows: verification of child-adult pairs, then the similarities.

    Args:
        table: As `interproto_lib.analysis.ablation_table` gives it.

    Returns:
        The C20 and the C30 kinds that were measured; without any, the first kind measured; then all similarities.
    """
    of_unit = {unit: list(dict.fromkeys(group["measure"])) for unit, group in table.groupby("unit", sort=False)}
    kinds = of_unit.get("percent", [])
    child_adult = [kind for ending in ("C20", "C30") for kind in kinds if kind.endswith(ending)]
    return [*(child_adult or kinds[-1:]), *of_unit.get("cosine", [])]


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
    description = f"{listed([measure_words(m) for m in measures])} of {_counted(table['method'].nunique(), 'setting')}"
    if setting:
        description += f" over the {setting_words(setting)}"
    with figure_style():
        if setting:
            return _numeric_figure(table, measures, setting, names, description=f"{description}.")
        return _categorical_figure(table, measures, names, description=f"{description}.")


def sweep_table(table: pd.DataFrame, *, names: Mapping[str, str]) -> pd.DataFrame:
    """Lay out a sweep for a person: a row a method, a column a measure, mean ± standard deviation over seeds.

    Args:
        table: The rows of one sweep, as `interproto_lib.analysis.ablation_table` gives them.
        names: Method -> spelling.

    Returns:
        Text cells; accuracies in percent.
    """
    columns = {}
    for unit, of_unit in table.groupby("unit", sort=False):
        for row in measures_table(of_unit, decimals=_DECIMALS[str(unit)]).to_dict("records"):
            columns[measure_words(row.pop("measure"))] = row
    rows = list(dict.fromkeys(table["method"]))
    laid_out = pd.DataFrame(
        [{"method": names[m], **{measure: of[m] for measure, of in columns.items()}} for m in rows],
        columns=["method", *columns],
    )
    setting = str(table["setting"].iloc[0])
    if setting:
        at = table.drop_duplicates("method").set_index("method")["at"]
        laid_out.insert(1, _SHORT_SETTINGS.get(setting, setting), [_value_words(at[m]) for m in rows])
    return laid_out


def describe_sweep(
    table: pd.DataFrame, differences: pd.DataFrame, *, names: Mapping[str, str], confidence: float = 0.95
) -> str:
    """Say what a sweep changed: for each measure its range, and which differences stand out from chance.

    Args:
        table: The rows of one sweep, as `interproto_lib.analysis.ablation_table` gives them.
        differences: The rows of the same sweep, as `interproto_lib.analysis.ablation_differences` gives them.
        names: Method -> spelling.
        confidence: Confidence of the intervals.

    Returns:
        A Markdown list of one line a measure, after a sentence that says what is compared. A difference whose interval
        holds zero is called not told from chance; with a single seed there is no verdict, which is said.
    """
    if differences.empty:
        return "There is nothing to compare: the sweep holds a single method, or none of its measures is there."
    found = paired_differences(differences, confidence=confidence)
    references = dict(zip(differences["method"], differences["reference"], strict=True))
    n_seeds = sorted({difference.n for difference in found.values()})
    setting = str(table["setting"].iloc[0])
    compared_with = [names[reference] for reference in dict.fromkeys(references.values())]
    own = "" if len(compared_with) == 1 else "its own reference: "
    opening = f"Each against {own}{listed(compared_with)}, seed by seed. "
    if n_seeds == [1]:
        opening += "With a single seed it cannot be said how much of a difference is chance."
    else:
        over = str(n_seeds[0]) if len(n_seeds) == 1 else f"{n_seeds[0]} to {n_seeds[-1]}"
        opening += f"Means over {over} seeds, in brackets the {confidence:.0%} interval of a difference."
    lines = []
    for measure in shown_measures(table):
        of = table[table["measure"] == measure]
        decimals = _DECIMALS[str(of["unit"].iloc[0])]
        means = of.groupby("method", sort=False)["value"].mean()
        mine = {m: found[measure, m] for m in means.index if (measure, m) in found}
        if setting:
            parts = [_range_words(means, of, setting, names, decimals)]
            parts += _verdict_words(mine, references, names, decimals)
        else:
            parts = _difference_words(mine, references, means, names, decimals)
        unit = " in %" if str(of["unit"].iloc[0]) == "percent" else ""
        lines.append(f"- {measure_words(measure)}{unit}: {' '.join(parts)}")
    return f"{opening}\n\n" + "\n".join(lines)


def describe_sweep_settings(sweep: Sweep, *, names: Mapping[str, str]) -> str:
    """Say what a sweep varies and which runs it sets side by side.

    Args:
        sweep: As `interproto_lib.analysis.trained_sweeps` gives it.
        names: Method -> spelling.

    Returns:
        One sentence.
    """
    n_runs = sum(len(runs) for runs in sweep.runs.values())
    of = f"{_counted(n_runs, 'run')} of {listed([names[method] for method in sweep.runs])}"
    if sweep.setting is None:
        return f"{of}, side by side."
    values = sorted(set(sweep.positions.values()))
    return f"the {setting_words(sweep.setting)} at {listed([f'{value:g}' for value in values])}; {of}."


def describe_missing_sweeps(states: pd.DataFrame) -> str:
    """Say which sweeps cannot be shown because runs are missing, and what to run first.

    Args:
        states: As `interproto_lib.analysis.sweep_states` gives it.

    Returns:
        A line a sweep; one that says so where all runs are there.
    """
    lacking = states[states["missing"].map(len) > 0]
    if lacking.empty:
        n_methods = states["method"].nunique()
        return f"All runs are there: {_counted(states['sweep'].nunique(), 'sweep')}, {_counted(n_methods, 'method')}."
    lines = []
    for sweep, of in lacking.groupby("sweep", sort=False):
        runs = [run for missing in of["missing"] for run in missing]
        lines.append(
            f"- **{sweep}** is not trained: {_counted(len(runs), 'run')} missing ({', '.join(runs[:4])}"
            f"{' and others' if len(runs) > 4 else ''}). Run notebooks/02_train.ipynb for each first, or "
            "`interproto reproduce` with the preset."
        )
    return "\n".join(lines)


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _value_words(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:g}"


def _line_words(line: str) -> str:
    return ", ".join(_LINE_WORDS.get(part, part.replace("_", " ").replace("=", " ")) for part in line.split(", "))


def _range_words(means: pd.Series, of: pd.DataFrame, setting: str, names: Mapping[str, str], decimals: int) -> str:
    """From the lowest to the highest mean along each line, and at which value."""
    short = _SHORT_SETTINGS.get(setting, setting_words(setting))
    of_methods = of.drop_duplicates("method")
    places = dict(zip(of_methods["method"], of_methods["at"].astype(float), strict=True))
    lines: dict[str, list[str]] = {}
    for method, line in zip(of_methods["method"], of_methods["line"], strict=True):
        if not np.isnan(places[method]):
            lines.setdefault(line, []).append(method)

    def value(method: str) -> str:
        return f"{number(means[method], decimals=decimals)} at {short} = {places[method]:g}"

    words = []
    for line, methods in lines.items():
        low, high = min(methods, key=means.__getitem__), max(methods, key=means.__getitem__)
        span = f"lowest {value(low)}, highest {value(high)}" if len(methods) > 1 else value(low)
        words.append(f"{_line_words(line)}: {span}" if line else span)
    words += [f"{names[m]} {number(means[m], decimals=decimals)}" for m in places if np.isnan(places[m])]
    text = "; ".join(words)
    return f"{text[0].upper()}{text[1:]}."


def _difference_words(
    found: Mapping[str, PairedDifference],
    references: Mapping[str, str],
    means: pd.Series,
    names: Mapping[str, str],
    decimals: int,
) -> list[str]:
    """One part a reference: its value and all differences to it."""
    parts = []
    for reference in dict.fromkeys(references[method] for method in found):
        against = {method: difference for method, difference in found.items() if references[method] == reference}
        shown = [_one_difference(names[method], difference, decimals) for method, difference in against.items()]
        parts.append(f"{names[reference]} {number(means[reference], decimals=decimals)}; {', '.join(shown)}.")
    return parts


def _verdict_words(
    found: Mapping[str, PairedDifference], references: Mapping[str, str], names: Mapping[str, str], decimals: int
) -> list[str]:
    """The differences that stand out from chance; nothing where no interval can be given."""
    if not any(difference.interval for difference in found.values()):
        return []
    told = {method: difference for method, difference in found.items() if difference.excludes_zero}
    if not told:
        return [f"Of {_counted(len(found), 'difference')} none is told from chance."]
    several = len({references[method] for method in found}) > 1
    shown = [
        _one_difference(f"{names[m]} against {names[references[m]]}" if several else names[m], difference, decimals)
        for m, difference in told.items()
    ]
    return [f"Told from chance ({len(told)} of {_counted(len(found), 'difference')}): {', '.join(shown)}."]


def _one_difference(name: str, difference: PairedDifference, decimals: int) -> str:
    text = f"{name} {signed(difference.mean, decimals=decimals)}"
    if difference.interval is None:
        return text
    low, high = (number(bound, decimals=decimals) for bound in difference.interval)
    return f"{text} ({low} to {high}{'' if difference.excludes_zero else ', not told from chance'})"


def _axis_label(of: pd.DataFrame, measure: str) -> str:
    return f"{measure_words(measure)} (%)" if of["unit"].iloc[0] == "percent" else measure_words(measure)


def _seed_legend(table: pd.DataFrame) -> list[Line2D]:
    grey: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "#7F7F7F"}
    handles = [Line2D([], [], markerfacecolor="white", label="single seed", **grey)]
    if table["seed"].nunique() >= _N_TO_SHOW_A_SPREAD:
        handles.append(Line2D([], [], label="mean", **grey))
    return handles


def _categorical_figure(
    table: pd.DataFrame, measures: Iterable[str], names: Mapping[str, str], *, description: str
) -> LabelledFigure:
    measures, methods = list(measures), list(dict.fromkeys(table["method"]))
    styles = method_styles(methods)
    figure = new_figure(PAGE_WIDTH_INCHES, 1.05 + 0.27 * len(methods), description=description)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        of = table[table["measure"] == measure]
        for row, method in enumerate(methods):
            _dots(axes, of.loc[of["method"] == method, "value"].tolist(), row, styles[method], along="x")
        references = {reference for reference in table["reference"] if reference}
        if len(references) == 1:
            level = of.loc[of["method"].isin(references), "value"].mean()
            axes.axvline(level, color="#9A9A9A", linewidth=0.9, linestyle=(0, (4, 2)), zorder=0)
        axes.xaxis.grid(visible=True)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=3)
        axes.set_xlabel(_axis_label(of, measure).replace(", ", ",\n"))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(methods)), [names[method] for method in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(handles=_seed_legend(table), loc="outside upper center", ncols=4)
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
            Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker, label=_line_words(line))
            for line in lines
            if line
            for style in [styles[f"line {line}"]]
        ),
    ]
    figure.legend(handles=[*named, *_seed_legend(table)], loc="outside upper center", ncols=5)
    return figure


def _dots(axes: Axes, values: list[float], place: float, style: Any, *, along: str) -> None:
    """Hollow markers for single seeds and, from two on, a filled one for their mean."""
    if not values:
        return
    marks: dict[str, Any] = {"linestyle": "", "marker": style.marker, "color": style.colour}

    def draw(numbers: list[float], **how: Any) -> None:
        places = [place] * len(numbers)
        axes.plot(*((numbers, places) if along == "x" else (places, numbers)), **marks, **how)

    draw(values, markersize=5.0, markerfacecolor="white", markeredgewidth=1.0)
    if len(values) >= _N_TO_SHOW_A_SPREAD:
        draw([mean_and_std(values).mean], markersize=6.0)
