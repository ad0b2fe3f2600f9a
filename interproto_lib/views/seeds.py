"""Differences to the baseline, seed by seed, with their mean and interval: how much of a difference is chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interproto_lib.analysis.statistics import PairedDifference, paired_differences
from interproto_lib.views.accuracies import draw_interval
from interproto_lib.views.layout import method_rows
from interproto_lib.views.style import LabelledFigure, MethodStyle, figure_style, method_styles, sentence_figure
from interproto_lib.views.wording import METHODS_TOLD_ONE_BY_ONE, differences_in_a_line, listed, number, signed

_SEED_SIZE = 3.6
_BELOW = 0.36


def paired_difference_figure(
    table: pd.DataFrame, *, baseline: str, unit: str, scale: float = 1.0, confidence: float = 0.95
) -> LabelledFigure:
    """Draw the difference to the baseline for each seed, its mean and its t-interval, one row a measure and method.

    Args:
        table: One row a measure, method and seed, with the columns of `interproto_lib.analysis.paired_differences`.
        baseline: Name of the baseline, for the axis.
        unit: Unit of a difference, as in `percentage points` or `cosine`.
        scale: Differences are multiplied by it, as in 100 for percentage points.
        confidence: Confidence of the interval.

    Returns:
        The figure; hollow markers are single seeds, filled ones means, whiskers the interval (none with one seed). Of
        an empty table, as where there is only the baseline, a line that says so.
    """
    if table.empty:
        return sentence_figure(f"There is no other method, or nothing measured, to compare with {baseline}.")
    differences = paired_differences(table, confidence=confidence)
    measures = list(dict.fromkeys(measure for measure, _ in differences))
    styles = method_styles([baseline, *(method for _, method in differences)])
    n_seeds = {difference.n for difference in differences.values()}
    over = f"n = {min(n_seeds)} seed{'s' if max(n_seeds) > 1 else ''}" if len(n_seeds) == 1 else (
        f"n = {min(n_seeds)} to {max(n_seeds)} seeds"
    )  # fmt: skip
    description = f"Paired differences to {baseline} in {listed(measures)}, {over}."
    with figure_style():
        groups = {measure: [method for of, method in differences if of == measure] for measure in measures}
        rows = method_rows(groups, {measure: measure for measure in measures}, description, row_inches=0.24)
        for axes in rows.panels:
            axes.axvline(0, color="#404040", linewidth=0.9)
        for (measure, method), difference in differences.items():
            _draw_difference(*rows.places[measure, method], difference, styles[method], scale=scale)
        handles = []
        if max(n_seeds) > 1:
            handles.append(Line2D([], [], color="#7F7F7F", marker="o", label=f"mean and {confidence:.0%} t-interval"))
        handles.append(Line2D([], [], linestyle="", markersize=_SEED_SIZE, marker="o", color="#7F7F7F",
                              markerfacecolor="white", label="single seed"))  # fmt: skip
        treated = {method: style for method, style in styles.items() if method != baseline}
        rows.finish(f"Difference to {baseline}, same seed ({unit}); {over}", treated, handles)
    return rows.figure


def _draw_difference(axes: Axes, row: float, difference: PairedDifference, style: MethodStyle, *, scale: float) -> None:
    """Draw mean and interval, and below them the seeds, so that they do not hide each other."""
    values = scale * np.asarray(difference.differences)
    alone = difference.interval is None
    below = row if alone else row + _BELOW
    axes.plot(
        values,
        [below] * len(values),
        linestyle="",
        marker=style.marker,
        markersize=5.5 if alone else _SEED_SIZE,
        color=style.colour,
        markerfacecolor="white",
        markeredgewidth=0.8,
    )
    if difference.interval is not None:
        low, high = (scale * bound for bound in difference.interval)
        draw_interval(axes, row, low, high, style)
        axes.plot([scale * difference.mean], [row], marker=style.marker, markersize=5.5, color=style.colour)


def describe_paired_differences(
    table: pd.DataFrame,
    *,
    baseline: str,
    unit: str,
    scale: float = 1.0,
    confidence: float = 0.95,
    decimals: int = 2,
) -> str:
    """Say how large each difference to the baseline is, and whether it stands out from chance.

    Args:
        table: As for `paired_difference_figure`.
        baseline: Name of the baseline.
        unit: Unit of a difference.
        scale: Differences are multiplied by it.
        confidence: Confidence of the interval.
        decimals: Digits after the point.

    Returns:
        A Markdown list of one line a measure and method (of more than `METHODS_TOLD_ONE_BY_ONE` methods, one line a
        measure), after a sentence that says what the numbers are. A difference
        whose interval holds 0 is not told from chance, whatever the sign of the mean; that a single seed has no
        interval is said once, before its lines.
    """
    if table.empty:
        return f"There is no other method, or nothing measured, to compare with {baseline}."
    differences = paired_differences(table, confidence=confidence)
    with_interval, single = [], []
    for measure in dict.fromkeys(measure for measure, _ in differences):
        of_measure = {method: difference for (of, method), difference in differences.items() if of == measure}
        judged = [
            (scale * difference.mean, (scale * difference.interval[0], scale * difference.interval[1]), method)
            for method, difference in of_measure.items()
            if difference.interval is not None
        ]
        if len(judged) > METHODS_TOLD_ONE_BY_ONE:
            with_interval.append(f"- **{measure}** – {differences_in_a_line(judged, decimals=decimals)}.")
            judged = []
        for mean, interval, method in judged:
            low, high = (number(bound, decimals=decimals) for bound in interval)
            verdict = "" if of_measure[method].excludes_zero else ", not told from chance"
            with_interval.append(f"- {measure}: {method} {signed(mean, decimals=decimals)} ({low} to {high}){verdict}")
        single += [
            f"- {measure}: {method} {signed(scale * difference.mean, decimals=decimals)}"
            for method, difference in of_measure.items()
            if difference.interval is None
        ]
    parts = []
    if with_interval:
        n_seeds = sorted({difference.n for difference in differences.values() if difference.n > 1})
        over = str(n_seeds[0]) if len(n_seeds) == 1 else f"{n_seeds[0]} to {n_seeds[-1]}"
        parts.append(
            f"Difference to {baseline} in {unit}, mean of {over} seeds with its {confidence:.0%} interval. Where the "
            "interval holds zero, a difference is not told from chance.\n\n" + "\n".join(with_interval)
        )
    if single:
        parts.append(
            f"With a single seed it cannot be said how much of a difference is chance. Difference to {baseline} in "
            f"{unit}:\n\n" + "\n".join(single)
        )
    return "\n\n".join(parts)
