"""Differences of methods to a baseline on the same pairs and seeds: figure, table and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from interproto_lib.analysis.bootstrap import CONFIDENCE
from interproto_lib.views.accuracies import draw_interval, interval_handle, rows_by_test_set
from interproto_lib.views.style import LabelledFigure, figure_style, method_styles, sentence_figure
from interproto_lib.views.wording import (
    METHODS_TOLD_ONE_BY_ONE,
    cohort_words,
    compared,
    differences_in_a_line,
    listed,
    number,
    resampled_words,
    signed,
)

_EMPTY = "There is no other method, or nothing judged, to compare with {baseline}."


def difference_figure(differences: pd.DataFrame, *, baseline: str, unit: str = "percentage points") -> LabelledFigure:
    """Draw each difference to the baseline as a dot with its interval over people and seeds.

    Args:
        differences: As `interproto_lib.analysis.trial_differences` gives them, methods spelt as they are to be called.
        baseline: Name of the baseline.
        unit: Unit of a difference.

    Returns:
        The figure; the vertical line is no difference. Where there is nothing to compare, a line that says so.
    """
    if differences.empty:
        return sentence_figure(_EMPTY.format(baseline=baseline))
    styles = method_styles([baseline, *differences["method"]])
    of_methods = {method: style for method, style in styles.items() if method != baseline}
    test_sets = list(dict.fromkeys(differences["test_set"]))
    description = f"Differences of {listed(list(of_methods))} to {baseline} on {listed(test_sets)}."
    with figure_style():
        rows = rows_by_test_set(differences, list(of_methods), description)
        for axes in rows.panels:
            axes.axvline(0, color="#404040", linewidth=0.9)
        for row in differences.to_dict("records"):
            style, (axes, place) = of_methods[row["method"]], rows.places[row["test_set"], row["method"]]
            draw_interval(axes, place, row["low"], row["high"], style)
            axes.plot([row["difference"]], [place], marker=style.marker, markersize=5.5, color=style.colour)
        label = f"Difference to {baseline}, same seeds and pairs ({unit})"
        rows.finish(label, of_methods, [interval_handle(f"{CONFIDENCE:.0%} interval over {_over(differences)}")])
    return rows.figure


def describe_differences(differences: pd.DataFrame, *, baseline: str, unit: str = "percentage points") -> str:
    """Say how large each difference to the baseline is, and whether it is told from chance.

    Args:
        differences: As for `difference_figure`.
        baseline: Name of the baseline.
        unit: Unit of a difference.

    Returns:
        A Markdown list of one line a test set and method, after a sentence that says what the intervals hold; of more
        than `METHODS_TOLD_ONE_BY_ONE` methods one line a test set, without the tests of each.
    """
    if differences.empty:
        return _EMPTY.format(baseline=baseline)
    spelt = differences.assign(test_set=differences["test_set"].map(cohort_words))
    if differences["method"].nunique() > METHODS_TOLD_ONE_BY_ONE:
        return f"{_in_general(differences, baseline)}\n\n" + "\n".join(_sorted_lines(spelt))
    lines = []
    for row in spelt.to_dict("records"):
        told = "the interval holds zero" if row["low"] <= 0 <= row["high"] else "the interval excludes zero"
        size = compared(row["difference"], decimals=2, unit=f" {unit}")
        interval = f"[{signed(row['low'], decimals=2)}, {signed(row['high'], decimals=2)}]"
        p = "< 0.001" if row["p_value"] < 0.001 else f"= {number(row['p_value'], decimals=3)}"
        test = f"permutation test p {p}"
        lines.append(f"- {row['test_set']}, {row['method']}: {size} {interval}, {told}; {test}{_over_seeds(row)}.")
    tests = (
        " The permutation test exchanges the two methods person by person and takes the trainings as they are, so that "
        "its p can be small where other seeds might well turn the difference round."
    )
    return f"{_in_general(differences, baseline)}{tests}\n\n" + "\n".join(lines)


def _in_general(differences: pd.DataFrame, baseline: str) -> str:
    n = len(differences)
    return (
        f"Differences to {baseline} on the same pairs. The interval ({CONFIDENCE:.0%}) resamples "
        f"{_over(differences)}; where it holds zero, the difference is not told from chance. Of {n} "
        f"comparisons {number(n * (1 - CONFIDENCE), decimals=1)} would exclude zero by chance alone."
    )


def _sorted_lines(differences: pd.DataFrame) -> list[str]:
    """A line a test set: who is higher, who is lower, who is not told from chance, each from the largest difference."""
    lines = []
    for test_set, of_set in differences.groupby("test_set", sort=False):
        told = [(row["difference"], (row["low"], row["high"]), str(row["method"])) for row in of_set.to_dict("records")]
        lines.append(f"- **{test_set}** – {differences_in_a_line(told, decimals=2)}.")
    return lines


def readable_trials(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Spell the methods of a table of trials as people read them; what is recorded keeps the plain names."""
    return table.assign(method=table["method"].map(names))


def _over_seeds(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["seed_low"]):
        return ""
    interval = f"[{signed(row['seed_low'], decimals=2)}, {signed(row['seed_high'], decimals=2)}]"
    return f"; t-interval over the {row['n_seeds']} seeds alone {interval}"


def _over(differences: pd.DataFrame) -> str:
    return resampled_words(differences["n_identities"], differences["n_seeds"])
