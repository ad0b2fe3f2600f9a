"""Sweeps of settings in words and tables: what each varies, what it changed, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from interproto_lib.analysis.ablations import Sweep
from interproto_lib.analysis.published import published_table
from interproto_lib.analysis.statistics import PairedDifference, paired_differences
from interproto_lib.views.compared_runs import CHILD_ADULT_ENDINGS
from interproto_lib.views.comparison import measure_words, measures_table
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
_DECIMALS = {"percent": 2, "cosine": 3}


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
    child_adult = [kind for ending in CHILD_ADULT_ENDINGS for kind in kinds if kind.endswith(ending)]
    return [*(child_adult or kinds[-1:]), *of_unit.get("cosine", [])]


def line_words(line: str) -> str:
    """Write the name of a line of a figure for people.

    Args:
        line: The settings that tell it from the others, as in `interproto_lib.analysis.Sweep`.

    Returns:
        The words.

    Example:
        >>> line_words("ip_reduction=sum"), line_words("epochs=3")
        ('sum (Eq. 5)', 'epochs 3')
    """
    return ", ".join(_LINE_WORDS.get(part, part.replace("_", " ").replace("=", " ")) for part in line.split(", "))


def sweep_table(table: pd.DataFrame, *, names: Mapping[str, str]) -> pd.DataFrame:
    """Lay out a sweep for a person: a row a method, a column a measure, mean ± standard deviation over seeds.

    Args:
        table: The rows of one sweep, as `interproto_lib.analysis.ablation_table` gives them.
        names: Method -> spelling.

    Returns:
        Text cells; accuracies in percent.
    """
    columns: dict[str, pd.Series] = {}
    for unit, of_unit in table.groupby("unit", sort=False):
        cells = measures_table(of_unit, decimals=_DECIMALS[str(unit)], most_in_columns=0).set_index("method")
        columns |= {measure_words(str(measure)): cells[measure] for measure in cells}
    rows = list(dict.fromkeys(table["method"]))
    laid_out = pd.DataFrame(
        [{"method": names[m], **{measure: of.get(m, "–") for measure, of in columns.items()}} for m in rows],
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


def describe_without_paper_table(number: int) -> str:
    """Say that no sweep holds the rows of a table of the paper, and which these are.

    Args:
        number: Number of the table.

    Returns:
        One sentence.
    """
    rows = listed(list(published_table(number).rows))
    return f"No sweep of this experiment sets the rows of Table {number} side by side ({rows})."


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _value_words(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:g}"


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
        words.append(f"{line_words(line)}: {span}" if line else span)
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
