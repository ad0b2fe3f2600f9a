"""Measures of runs in words and tables for people: spelling, means over seeds, what the ages allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from interproto_lib.analysis.statistics import mean_and_std
from interproto_lib.views.style import display_names
from interproto_lib.views.wording import cohort_words, compared, listed, number

SPLIT_WORDS = {"held-out": "on held-out people", "train": "on training images"}
"""Split, as in the name of a measure -> how a sentence says it."""

METHODS_IN_COLUMNS = 6
"""Methods that stand side by side in a table of measures; more stand one below the other."""


def measure_words(measure: str) -> str:
    """Write the name of a measure for people.

    Args:
        measure: As `interproto_lib.analysis.similarity_measures` or a kind of pair names it.

    Returns:
        The words.

    Example:
        >>> measure_words("child-child, held-out"), measure_words("all, prototypes (rms)"), measure_words("C20")
        ('child–child, held-out', 'all images, prototypes (rms)', 'C20')
    """
    cohort, comma, rest = measure.partition(", ")
    return f"{cohort_words(cohort)}{comma}{rest}"


def readable_measures(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Spell methods and measures of a table as people read them.

    Args:
        table: A table with the columns `measure` and `method`.
        names: Method -> spelling, as `display_names` gives it.

    Returns:
        The table with these two columns spelt out; what is kept as a record keeps the plain names.
    """
    return table.assign(measure=table["measure"].map(measure_words), method=table["method"].map(names))


def measures_table(measures: pd.DataFrame, *, decimals: int, most_in_columns: int = METHODS_IN_COLUMNS) -> pd.DataFrame:
    """Lay measures out for a person: mean ± standard deviation over seeds, a row a measure and a column a method.

    Of many methods it is the other way round, so that the table is not wider than a page.

    Args:
        measures: As `held_out_accuracies` or `similarity_measures` of `interproto_lib.analysis` gives it, or as
            `readable_measures` spells it.
        decimals: Digits after the point.
        most_in_columns: Methods that may stand side by side; with more a row is a method.

    Returns:
        Text cells; a dash where a method lacks a measure, no deviation where there is one seed.
    """
    methods = list(dict.fromkeys(measures["method"]))
    cells = {
        (measure, method): _mean_text(group["value"].tolist(), decimals)
        for (measure, method), group in measures.groupby(["measure", "method"], sort=False)
    }
    kinds = list(dict.fromkeys(measures["measure"]))
    if len(methods) > most_in_columns:
        by_method = [
            {"method": method, **{name: cells.get((name, method), "–") for name in kinds}} for method in methods
        ]
        return pd.DataFrame(by_method, columns=["method", *kinds])
    rows = [{"measure": name, **{method: cells.get((name, method), "–") for method in methods}} for name in kinds]
    return pd.DataFrame(rows, columns=["measure", *methods])


def describe_similarities(measures: pd.DataFrame, baseline: str) -> str:
    """Say whether the baseline puts children closer together than adults, on held-out people and training images.

    Args:
        measures: Measures of `interproto_lib.analysis.similarity_measures` for all runs.
        baseline: The method to describe.

    Returns:
        A sentence a split; one that says so where there are no two identities with child images.
    """
    of_baseline = measures[measures["method"] == baseline].groupby("measure")["value"].mean()
    name = display_names([baseline])[baseline]
    sentences = []
    for split, words in SPLIT_WORDS.items():
        child, adult = f"child-child, {split}", f"adult-adult, {split}"
        if child in of_baseline and adult in of_baseline:
            difference = float(of_baseline[child] - of_baseline[adult])
            sentences.append(
                f"With {name}, two different children have a mean similarity of {number(of_baseline[child])} "
                f"{words}, two different adults {number(of_baseline[adult])}: that of children is "
                f"{compared(difference)}."
            )
    return " ".join(sentences) or (
        "Children and adults cannot be compared: that needs two identities of each with images of a known age."
    )


def describe_available_cohorts(cohorts: Sequence[str]) -> str:
    """Say what the ages of the training images allow.

    Args:
        cohorts: As `interproto_lib.analysis.available_cohorts` gives them.

    Returns:
        One sentence.
    """
    if list(cohorts) == ["all"]:
        return (
            "There are no two child identities among the training images, so children cannot be compared: every map "
            "below is over all images of all identities."
        )
    return f"The ages allow the cohorts {listed([cohort_words(cohort) for cohort in cohorts])}."


def _mean_text(values: list[float], decimals: int) -> str:
    summary = mean_and_std(values)
    mean = number(summary.mean, decimals=decimals)
    return mean if summary.std is None else f"{mean} ± {number(summary.std, decimals=decimals)}"
