"""Accuracies on test sets: with their intervals over identities, and how much higher an official choice reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interproto_lib.errors import ConfigError, ManifestError
from interproto_lib.views.layout import MethodRows, method_rows
from interproto_lib.views.paper_tables import MEASURED_COLUMNS
from interproto_lib.views.style import LabelledFigure, MethodStyle, figure_style, method_styles, sentence_figure
from interproto_lib.views.wording import cohort_words, listed, number, resampled_words, signed

OPTIMISM_COLUMNS = ("method", "test_set", "procedure", "mean")
"""Columns of a table of accuracies (percent) by procedure."""

_CHANCE_PERCENT = 50.0


def accuracy_figure(cells: pd.DataFrame, *, confidence: float = 0.95) -> LabelledFigure:
    """Draw the accuracy of each method on each test set as a dot with its interval over identities.

    Args:
        cells: One row a method and test set with the columns `interproto_lib.views.paper_tables.MEASURED_COLUMNS`;
            accuracies and intervals in percent, NaN where there is none. Drawn in the order of their first rows.
        confidence: Confidence of the intervals, for the legend.

    Returns:
        The figure; a dotted line is chance where it is in range. Without any accuracy, a line that says so.

    Raises:
        ManifestError: A column is missing, or a method is twice on a test set.
    """
    cells = _checked(cells, MEASURED_COLUMNS, ["method", "test_set"])
    if cells.empty:
        return sentence_figure("No accuracy is measured.")
    styles = method_styles(cells["method"])
    test_sets = list(dict.fromkeys(cells["test_set"]))
    description = f"Accuracy of {listed(list(styles))} on {listed(test_sets)}."
    with figure_style():
        rows = rows_by_test_set(cells, list(styles), description)
        for cell in cells.to_dict("records"):
            style, (axes, row) = styles[cell["method"]], rows.places[cell["test_set"], cell["method"]]
            draw_interval(axes, row, cell["low"], cell["high"], style)
            axes.plot([cell["mean"]], [row], marker=style.marker, markersize=5.5, color=style.colour)
        handles = []
        if cells["low"].notna().any():
            handles.append(interval_handle(f"{confidence:.0%} interval over {_resampled(cells)}"))
        low, high = rows.panels[0].get_xlim()
        if low <= _CHANCE_PERCENT <= high:
            for axes in rows.panels:
                chance = axes.axvline(_CHANCE_PERCENT, color="#404040", linewidth=0.9, linestyle=":", label="chance")
            handles.append(chance)
        rows.finish(f"Accuracy (percent), {_seeds(cells)}", styles, handles)
    return rows.figure


def describe_accuracies(cells: pd.DataFrame, *, confidence: float = 0.95) -> str:
    """Say for each test set how accurate each method is, from the highest to the lowest, and what stands out.

    Args:
        cells: As for `accuracy_figure`.
        confidence: Confidence of the intervals.

    Returns:
        A Markdown list of one line a test set, after a sentence that says what the numbers are.

    Raises:
        ManifestError: A column is missing, or a method is twice on a test set.
    """
    cells = _checked(cells, MEASURED_COLUMNS, ["method", "test_set"])
    if cells.empty:
        return "No accuracy is measured."
    lines = []
    for test_set, of_set in cells.groupby("test_set", sort=False):
        ordered = of_set.sort_values("mean", ascending=False, kind="stable").to_dict("records")
        found = [f"{cell['method']} {cell['mean']:.2f}{_interval(cell)}" for cell in ordered]
        line = f"- {cohort_words(str(test_set))}{_size(of_set)}: {', '.join(found)}"
        bold = [str(cell["method"]) for cell in ordered if cell["bold"]]
        if len(ordered) > 1:
            line += (
                f"; {listed(bold)} stands out from the others" if bold else "; none stands out from all of the others"
            )
        lines.append(f"{line}.")
    interval = ""
    if cells["low"].notna().any():
        interval = (
            f" In brackets the {confidence:.0%} interval of each method from resampling {_resampled(cells)}; "
            "whether two methods differ follows from the interval of their paired difference, not from whether these "
            "overlap."
        )
    return f"Accuracy in percent, {_seeds(cells)}.{interval}\n\n" + "\n".join(lines)


def optimism_figure(table: pd.DataFrame, *, leak_free: str, official: str) -> LabelledFigure:
    """Draw how much higher the official procedure reads: it takes epoch and threshold that are best on the test set.

    Args:
        table: One row a method, test set and procedure with the columns `OPTIMISM_COLUMNS`, accuracies in percent, NaN
            where there is none; other procedures than the two are not drawn.
        leak_free: Name of the procedure that looks at no pair judged.
        official: Name of the official procedure.

    Returns:
        The figure: hollow markers are leak-free, filled ones official, with their difference in percentage points. A
        line that says so where nothing was judged by both.

    Raises:
        ConfigError: The two procedures are one.
        ManifestError: A column is missing, or a cell is there twice.
    """
    both = _both_procedures(table, leak_free, official)
    if both.empty:
        return sentence_figure(f"Nothing is judged by both procedures ({leak_free} and {official}).")
    styles = method_styles(both["method"])
    description = (
        f"Accuracy by the procedures {leak_free} and {official} for {listed(list(styles))} on "
        f"{listed(list(dict.fromkeys(both['test_set'])))}."
    )
    with figure_style():
        rows = rows_by_test_set(both, list(styles), description)
        for cell in both.to_dict("records"):
            style, (axes, row) = styles[cell["method"]], rows.places[cell["test_set"], cell["method"]]
            ends = [cell[leak_free], cell[official]]
            axes.plot(ends, [row, row], color=style.colour, linewidth=1.2, zorder=1)
            for value, face in ((cell[official], style.colour), (cell[leak_free], "white")):
                axes.plot([value], [row], marker=style.marker, markersize=4.0 if rows.named else 5.5,
                          color=style.colour, markerfacecolor=face)  # fmt: skip
            axes.annotate(signed(cell["optimism"], decimals=2), (max(ends), row), xytext=(7, 0), va="center",
                          textcoords="offset points", fontsize=7.5)  # fmt: skip
        for axes in rows.panels:
            axes.margins(x=0.3 if rows.named else 0.14)
        handles = [
            Line2D([], [], linestyle="", marker="o", color="#7F7F7F", markerfacecolor=face, label=name)
            for name, face in ((leak_free, "white"), (official, "#7F7F7F"))
        ]
        rows.finish("Accuracy (percent); the number is the difference in percentage points", styles, handles)
    return rows.figure


def describe_optimism(table: pd.DataFrame, *, leak_free: str, official: str) -> str:
    """Say how much higher or lower the official procedure reads than the leak-free one.

    Args:
        table: As for `optimism_figure`.
        leak_free: Name of the procedure that looks at no pair judged.
        official: Name of the official procedure.

    Returns:
        The sentences.

    Raises:
        ConfigError: The two procedures are one.
        ManifestError: A column is missing, or a cell is there twice.
    """
    both = _both_procedures(table, leak_free, official)
    if both.empty:
        return f"Nothing is judged by both procedures ({leak_free} and {official})."
    lines = []
    for test_set, of_set in both.groupby("test_set", sort=False):
        found = [f"{cell['method']} {signed(cell['optimism'], decimals=2)}" for cell in of_set.to_dict("records")]
        lines.append(f"- {cohort_words(str(test_set))}: {', '.join(found)}")
    text = (
        f"The official procedure takes the epoch and the threshold that are best on each test set. By it ({official}), "
        f"against the one that looks at no pair judged ({leak_free}), the accuracies differ by, in percentage points:"
        "\n\n" + "\n".join(lines) + "\n\n"
    )
    if len(both) > 1:
        text += f"The mean is {signed(float(both['optimism'].mean()), decimals=2)}. "
    changed = [
        str(test_set)
        for test_set, of_set in both.groupby("test_set", sort=False)
        if not _highest(of_set, leak_free) & _highest(of_set, official)
    ]
    if changed:
        text += f"The method with the highest accuracy is another by the two procedures on {listed(changed)}."
    return text.rstrip()


def _highest(of_set: pd.DataFrame, procedure: str) -> set[str]:
    return set(of_set.loc[of_set[procedure] == of_set[procedure].max(), "method"])


def _both_procedures(table: pd.DataFrame, leak_free: str, official: str) -> pd.DataFrame:
    """One row a method and test set that both procedures judged: a column each, and `optimism`, their difference."""
    if leak_free == official:
        raise ConfigError(f"leak_free and official are both {official!r}; name two procedures.")
    known = _checked(table, OPTIMISM_COLUMNS, ["method", "test_set", "procedure"])
    places = [
        known.loc[known["procedure"] == name].set_index(["method", "test_set"])["mean"]
        for name in (leak_free, official)
    ]
    both = pd.concat(places, axis=1, keys=[leak_free, official], join="inner").reset_index()
    return both.assign(optimism=both[official] - both[leak_free])


def _checked(table: pd.DataFrame, columns: tuple[str, ...], key: list[str]) -> pd.DataFrame:
    """The rows that hold a number."""
    if table.empty:
        return pd.DataFrame(columns=list(columns))
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ManifestError(f"The table of accuracies has no column {listed(missing)}.")
    twice = table[table.duplicated(key)]
    if len(twice):
        raise ManifestError(f"The table of accuracies holds {', '.join(map(str, twice[key].iloc[0]))} twice.")
    return table.loc[table["mean"].notna(), list(columns)]


def rows_by_test_set(cells: pd.DataFrame, methods: Sequence[str], description: str) -> MethodRows:
    """Make a figure with a row for each method in groups of test sets.

    Args:
        cells: One row a method and test set, with `method`, `test_set`, and for the labels `n_pairs`, `n_identities`.
        methods: The methods, in the order of the rows.
        description: What the figure shows, for those who cannot see it.

    Returns:
        The figure and its places; `C20`, as in `test_set`, is the name of a group.
    """
    of_sets = {str(test_set): of_set for test_set, of_set in cells.groupby("test_set", sort=False)}
    groups = {name: [m for m in methods if m in set(of_set["method"])] for name, of_set in of_sets.items()}
    labels = {name: cohort_words(name) + _size(of_set, "\n") for name, of_set in of_sets.items()}
    return method_rows(groups, labels, description)


def draw_interval(axes: Axes, row: float, low: float, high: float, style: MethodStyle) -> None:
    """Draw an interval as a line with ends; nothing where there is none."""
    if not (pd.isna(low) or pd.isna(high)):
        axes.plot([low, high], [row, row], color=style.colour, linewidth=1.2, zorder=1)
        axes.plot([low, high], [row, row], color=style.colour, linestyle="", marker="|", markersize=6)


def interval_handle(label: str) -> Line2D:
    """Make the entry of intervals in a legend."""
    return Line2D([], [], color="#7F7F7F", label=label, linewidth=1.2)


def _size(of_set: pd.DataFrame, before: str = " ") -> str:
    if "n_pairs" not in of_set.columns or of_set["n_pairs"].isna().all():
        return ""
    counts = []
    for column, what in (("n_pairs", "pairs"), ("n_identities", "people")):
        known = of_set[column].dropna().astype(np.int64)
        if len(known):
            low, high = int(known.min()), int(known.max())
            several = f"{low:,} {what}" if low == high else f"{low:,} to {high:,} {what}"
            counts.append("people unknown" if (what, high) == ("people", 0) else several)
    return f"{before}({', '.join(counts)})"


def _resampled(cells: pd.DataFrame) -> str:
    return resampled_words(cells["n_identities"], cells["n_seeds"])


def _seeds(cells: pd.DataFrame) -> str:
    low, high = int(cells["n_seeds"].min()), int(cells["n_seeds"].max())
    if high == 1:
        return "one seed"
    return f"mean over {high} seeds" if low == high else f"mean over {low} to {high} seeds"


def _interval(cell: dict[Any, Any]) -> str:
    if pd.isna(cell["low"]) or pd.isna(cell["high"]):
        return ""
    return f" [{number(cell['low'], decimals=1)}, {number(cell['high'], decimals=1)}]"
