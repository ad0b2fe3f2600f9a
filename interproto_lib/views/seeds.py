"""Differences to the baseline, seed by seed, with their mean and interval: how much of a difference is chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from interproto_lib.analysis.statistics import PairedDifference, paired_difference
from interproto_lib.errors import ConfigError
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, method_styles, new_figure
from interproto_lib.views.wording import listed, number, signed

PAIRED_COLUMNS = ("measure", "method", "seed", "baseline", "treated")
"""Columns of a table of paired values: what was measured, the treated method, the seed, and both values."""


def paired_differences(table: pd.DataFrame, *, confidence: float = 0.95) -> dict[tuple[str, str], PairedDifference]:
    """Compute the paired difference for each measure and method of a table.

    Args:
        table: One row a measure, method and seed, with the columns `PAIRED_COLUMNS`.
        confidence: Confidence of the interval.

    Returns:
        (measure, method) -> difference treated minus baseline, in the order of the table.

    Raises:
        ConfigError: A column is missing, or a seed stands twice.
    """
    missing = [column for column in PAIRED_COLUMNS if column not in table.columns]
    if missing:
        raise ConfigError(
            f"The table of paired values has no column {listed(missing)}; its columns: {listed([*map(str, table)])}."
        )
    twice = table.duplicated(["measure", "method", "seed"])
    if twice.any():
        raise ConfigError(f"Seed given twice: {table.loc[twice, ['measure', 'method', 'seed']].iloc[0].to_dict()}.")
    return {
        (str(measure), str(method)): paired_difference(
            group["baseline"].to_numpy(dtype=float), group["treated"].to_numpy(dtype=float), confidence=confidence
        )
        for (measure, method), group in table.groupby(["measure", "method"], sort=False)
    }


def paired_difference_figure(
    table: pd.DataFrame, *, baseline: str, unit: str, scale: float = 1.0, confidence: float = 0.95
) -> LabelledFigure:
    """Draw the difference to the baseline for each seed, its mean and its t-interval, one row a measure and method.

    Args:
        table: One row a measure, method and seed, with the columns `PAIRED_COLUMNS`.
        baseline: Name of the baseline, for the axis.
        unit: Unit of a difference, as in `percentage points` or `cosine`.
        scale: Differences are multiplied by it, as in 100 for percentage points.
        confidence: Confidence of the interval.

    Returns:
        The figure; hollow markers are single seeds, filled ones means, whiskers the interval (none with one seed). Of
        an empty table, as where there is only the baseline, a line that says so.
    """
    if table.empty:
        return _nothing_to_compare(f"There is no other method, or nothing measured, to compare with {baseline}.")
    differences = paired_differences(table, confidence=confidence)
    measures = list(dict.fromkeys(measure for measure, _ in differences))
    styles = method_styles([baseline, *(method for _, method in differences)])
    n_seeds = {difference.n for difference in differences.values()}
    over = f"n = {min(n_seeds)} seed{'s' if max(n_seeds) > 1 else ''}" if len(n_seeds) == 1 else (
        f"n = {min(n_seeds)} to {max(n_seeds)} seeds"
    )  # fmt: skip
    description = f"Paired differences to {baseline} in {listed(measures)}, {over}."
    with figure_style():
        figure = new_figure(
            PAGE_WIDTH_INCHES, 0.95 + 0.25 * len(differences) + 0.22 * len(measures), description=description
        )
        axes = figure.subplots()
        axes.axvline(0, color="#404040", linewidth=0.9)
        row, centres = 0.0, []
        for measure in measures:
            rows = [method for m, method in differences if m == measure]
            centres.append(row + (len(rows) - 1) / 2)
            for method in rows:
                difference, style = differences[measure, method], styles[method]
                values = scale * np.asarray(difference.differences)
                axes.plot(values, [row] * len(values), linestyle="", marker=style.marker, markersize=5.5,
                          color=style.colour, markerfacecolor="white", markeredgewidth=1.0)  # fmt: skip
                if difference.interval is not None:
                    low, high = (scale * bound for bound in difference.interval)
                    axes.plot([low, high], [row, row], color=style.colour, linewidth=1.2, zorder=1)
                    axes.plot([low, high], [row, row], color=style.colour, linestyle="", marker="|", markersize=7)
                    axes.plot([scale * difference.mean], [row], marker=style.marker, markersize=6, color=style.colour)
                row += 1
            row += 0.9 if len(rows) > 1 else 0.2
        axes.set_yticks(centres, measures)
        axes.set_ylim(row - 0.4, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.grid(visible=True)
        axes.set_xlabel(f"Difference to {baseline}, same seed ({unit}); {over}")
        handles = [
            Line2D([], [], color=style.colour, marker=style.marker, label=method)
            for method, style in styles.items()
            if method != baseline
        ]
        if max(n_seeds) > 1:
            handles.append(Line2D([], [], color="#7F7F7F", label=f"mean and {confidence:.0%} t-interval"))
        handles.append(
            Line2D([], [], linestyle="", marker="o", color="#7F7F7F", markerfacecolor="white", label="single seed")
        )
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _nothing_to_compare(sentence: str) -> LabelledFigure:
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 0.4, description=sentence)
        figure.text(0.01, 0.5, sentence, verticalalignment="center")
    return figure


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
        One line a measure and method, as a Markdown list. An interval that holds 0 is not told from chance, whatever
        the sign of the mean; that a single seed has no interval is said once, before its lines.
    """
    if table.empty:
        return f"There is no other method, or nothing measured, to compare with {baseline}."
    with_interval, single = [], []
    for (measure, method), difference in paired_differences(table, confidence=confidence).items():
        mean = signed(scale * difference.mean, decimals=decimals)
        if difference.interval is None:
            single.append(f"- {measure}: {method} {mean} {unit}")
            continue
        low, high = (number(scale * bound, decimals=decimals) for bound in difference.interval)
        with_interval.append(
            f"- {measure}: {method} differs from {baseline} by {mean} {unit} (mean of {difference.n} seeds, "
            f"{confidence:.0%} interval {low} to {high}); {interval_verdict(difference)}."
        )
    parts = ["\n".join(with_interval)] if with_interval else []
    if single:
        parts.append(
            f"With a single seed it cannot be said how much of a difference is chance. Differences to {baseline}:\n\n"
            + "\n".join(single)
        )
    return "\n\n".join(parts)


def interval_verdict(difference: PairedDifference) -> str:
    """Say on which side of zero the interval of a difference lies.

    Args:
        difference: The difference.

    Returns:
        The words; empty for a single seed, which has no interval.

    Example:
        >>> interval_verdict(paired_difference([1.0, 2.0], [1.5, 2.5])), interval_verdict(paired_difference([1], [2]))
        ('the interval lies above zero', '')
    """
    if difference.interval is None:
        return ""
    if difference.excludes_zero:
        return f"the interval lies {'above' if difference.interval[0] > 0 else 'below'} zero"
    return "the interval holds zero: not told from chance"
