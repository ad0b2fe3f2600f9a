"""The six tables of the paper in the layout of the paper, with the published numbers and ours side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interproto_lib.analysis.published import COST_COLUMNS, MULTIPLY_ADDS, PublishedTable, published_table
from interproto_lib.analysis.trials import CELL_COLUMNS as TRIAL_COLUMNS
from interproto_lib.errors import ConfigError, ManifestError
from interproto_lib.views.table_files import (
    MISSING,
    latex_escape,
    latex_table,
    markdown_escape,
    markdown_lines,
)
from interproto_lib.views.tables import styled_table
from interproto_lib.views.wording import listed, resampled_words

MEASURED_COLUMNS = tuple(column for column in TRIAL_COLUMNS if column != "note")
"""Columns of a table of measured cells, as `paper_table` and the figures of verification take it."""

CELL_COLUMNS = (
    "row",
    "column",
    "source",
    "unit",
    "mean",
    "std",
    "low",
    "high",
    "n_seeds",
    "n_pairs",
    "n_identities",
    "bold",
    "note",
)
"""Columns of `PaperTable.frame`."""

INFERENCE_PARAMETERS = "Inference parameters (million)"
TRAINING_PARAMETERS = "Training-only parameters (million)"
MEASURED_COSTS = (MULTIPLY_ADDS, INFERENCE_PARAMETERS, TRAINING_PARAMETERS)
"""Test sets of Table 3 that are no accuracies but costs: billions or millions, as their names say."""

_UNITS = {column: column.rsplit("(", 1)[1].rstrip(")") for column in (*COST_COLUMNS, *MEASURED_COSTS)}
_IDENTIFICATION = 3
_MARKS = "*†‡"
_COUNTS = ("n_seeds", "n_pairs", "n_identities")


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """What is written in one place, as plain text."""

    value: str
    std: str = ""
    interval: str = ""
    mark: str = ""
    bold: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class PaperTable:
    """A table of the paper with our numbers beside the published ones.

    Attributes:
        number: Number of the table in the paper.
        title: What it shows, in a sentence.
        caption: What is ours and what is published, computed from the content.
        frame: One row a cell, missing ones included, in the order of the layout: `row` (method), `column` (test set or
            cost), `source` (`published` or `ours`), `unit`, `mean`, `std`, the interval `low` to `high`, `n_seeds`,
            `n_pairs`, `n_identities`, `bold`, `note`.
    """

    number: int
    title: str
    caption: str
    frame: pd.DataFrame

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Give the columns in their order, and which of `published` and `ours` each has."""
        return {
            str(column): tuple(dict.fromkeys(cells["source"]))
            for column, cells in self.frame.groupby("column", sort=False)
        }

    def to_csv(self) -> str:
        """Write the cells in long form with all digits; the places of missing numbers are empty."""
        return self.frame.to_csv(index=False)

    def to_styler(self) -> Any:
        """Format the table for a notebook, as `interproto_lib.views.tables.styled_table` does.

        Returns:
            A pandas `Styler`; as the last expression of a cell it shows itself.
        """
        below = f"<span style='font-weight: 400'>{html.escape(self.caption, quote=False)}</span>"
        grid = self._grid()
        keys = [(html.escape(column), source) for column, sources in self.columns().items() for source in sources]
        shown = pd.DataFrame(
            [[_html_cell(cell) for cell in cells] for cells in grid.values()],
            index=pd.Index([html.escape(row) for row in grid], name="Method"),
            columns=pd.MultiIndex.from_tuples(keys),
            dtype=object,
        )
        conventions = styled_table(pd.DataFrame(index=pd.Index([], name="Method")), "")
        styler = shown.style.use(conventions.export()).set_caption(f"{html.escape(self.title)}.<br>{below}")
        # By element and class, not by cell: the conventions align `td`, which outweighs the id of a single cell.
        return styler.set_table_styles(
            [
                {"selector": "th.col_heading", "props": "text-align: right; padding: 2px 6px;"},
                {"selector": "th.col_heading.level0", "props": "text-align: center;"},
                {"selector": "th.col_heading.level1", "props": "font-weight: 400;"},
                {"selector": "th.row_heading", "props": "vertical-align: top; white-space: nowrap;"},
                {
                    "selector": "td.data",
                    "props": "text-align: right; vertical-align: top; white-space: nowrap; padding: 2px 6px;",
                },
            ],
            overwrite=False,
        )

    def to_markdown(self) -> str:
        """Write title, caption and table as Markdown; the interval stands after its number."""
        sources = [(column, source) for column, sources in self.columns().items() for source in sources]
        header = ["Method", *(f"{column}, {source}" for column, source in sources)]
        rows = [[markdown_escape(row), *map(_markdown_cell, cells)] for row, cells in self._grid().items()]
        above = f"**{markdown_escape(self.title)}.** {markdown_escape(self.caption)}\n\n"
        return above + markdown_lines([markdown_escape(name) for name in header], rows, [False] + [True] * len(sources))

    def to_latex(self) -> str:
        """Write a LaTeX table, the interval under its number; the document needs the package booktabs, and no other."""
        columns = self.columns()
        heads, rules, place = ["Method"], [], 2
        for column, sources in columns.items():
            heads.append(rf"\multicolumn{{{len(sources)}}}{{c}}{{{latex_escape(column)}}}")
            rules.append(rf"\cmidrule(lr){{{place}-{place + len(sources) - 1}}}")
            place += len(sources)
        second = ["", *(source for sources in columns.values() for source in sources)]
        lines = [_latex_line(heads), "".join(rules), _latex_line(second), r"\midrule"]
        own_rows = self._own_rows()
        for row, cells in self._grid().items():
            if row == next(iter(own_rows), None):
                lines.append(r"\midrule")
            lines.append(_latex_line([latex_escape(row), *map(_latex_cell, cells)]))
            if any(cell is not None and cell.interval for cell in cells):
                small = [rf"{{\tiny {cell.interval}}}" if cell and cell.interval else "" for cell in cells]
                lines.append(_latex_line(["", *small]))
        return latex_table(
            lines,
            alignment="l" + "r" * (place - 2),
            caption=rf"\textbf{{{latex_escape(self.title)}.}} {latex_escape(self.caption)}",
            label=f"tab:paper-{self.number}",
            size=r"\scriptsize\setlength{\tabcolsep}{3pt}",
            wide=True,
        )

    def _own_rows(self) -> list[str]:
        published = self.frame[self.frame["source"] == "published"].groupby("row", sort=False)["mean"].count()
        return [str(row) for row, n_numbers in published.items() if n_numbers == 0]

    def _grid(self) -> dict[str, list[_Cell | None]]:
        """Row -> its places in the order of the columns; None where there is no number."""
        notes = [note for note in dict.fromkeys(self.frame["note"]) if note]
        return {
            str(row): [None if pd.isna(cell["mean"]) else _cell(cell, notes) for cell in cells.to_dict("records")]
            for row, cells in self.frame.groupby("row", sort=False)
        }


def paper_table(
    number: int,
    measured: pd.DataFrame,
    *,
    own_columns: Sequence[str] = (),
    experiment: str = "",
    confidence: float = 0.95,
) -> PaperTable:
    """Put our numbers beside the published ones of a table of the paper.

    Rows are the paper's methods in the paper's order, then our methods that measured something in a column shown and
    have no row in the paper. Columns are the paper's test sets, then `own_columns`, then costs. Of the measured test
    sets those of the table and of `own_columns` are shown; the others belong to other tables.

    Args:
        number: Number of the table, 1 to 6.
        measured: One row a method and test set with the columns `MEASURED_COLUMNS`: `method` (name of the row),
            `test_set`, `mean` and `std` over seeds (percent; NaN where there is none), `n_seeds`, the interval `low`
            to `high` over identities (percent), `n_pairs` (Table 3: probes), `n_identities`, and `bold`, whether it is
            the best and differs from the others beyond chance. In Table 3, rows whose `test_set` is one of
            `MEASURED_COSTS` are costs. An empty table leaves our places empty.
        own_columns: Test sets of ours that the paper does not have, in their order.
        experiment: Name of the experiment that was measured, for the caption.
        confidence: Confidence of the intervals, for the caption.

    Returns:
        The table; missing numbers are in `frame` with a mean of NaN.

    Raises:
        ConfigError: There is no such table, or an own column is in the paper or named twice.
        ManifestError: A column is missing, a cell is there twice, or a value is no percentage.
    """
    published = published_table(number)
    twice = [c for c in own_columns if list(own_columns).count(c) > 1 or c in (*published.columns, *_UNITS)]
    if twice:
        raise ConfigError(f"own_columns: {twice[0]!r} is named twice, or is a column of Table {number} already.")
    measured = _checked(measured)
    accuracies = [column for column in published.columns if column not in COST_COLUMNS]
    costs = [c for c in published.columns if c in COST_COLUMNS]
    columns = [*accuracies, *own_columns, *costs]
    if number == _IDENTIFICATION:
        columns += [cost for cost in MEASURED_COSTS if cost not in columns]
    shown = measured[measured["test_set"].isin(columns)]
    rows = list(dict.fromkeys([*published.rows, *shown["method"]]))
    cells = []
    by_place = {(cell["method"], cell["test_set"]): cell for cell in shown.to_dict("records")}
    for row in rows:
        for column in columns:
            place: dict[Any, Any] = {"row": row, "column": column, "unit": _UNITS.get(column, "percent")}
            if column in published.columns:
                cells.append(place | _published_cell(published, row, column))
            if column not in COST_COLUMNS or column in MEASURED_COSTS:
                cells.append(place | {"source": "ours", "note": "", **by_place.get((row, column), {"bold": False})})
    frame = pd.DataFrame(cells).reindex(columns=list(CELL_COLUMNS))
    frame = frame.astype({**dict.fromkeys(("mean", "std", "low", "high"), "float64"), "bold": "bool"})
    frame = frame.astype(dict.fromkeys(_COUNTS, "Int64"))
    return PaperTable(
        number=number,
        title=f"Table {number} of the paper: {published.title}",
        caption=_caption(published, frame, list(own_columns), experiment, confidence),
        frame=frame,
    )


def _checked(measured: pd.DataFrame) -> pd.DataFrame:
    if measured.empty:
        return pd.DataFrame(columns=list(MEASURED_COLUMNS))
    missing = [column for column in MEASURED_COLUMNS if column not in measured.columns]
    if missing:
        raise ManifestError(f"The table of measured cells has no column {listed(missing)}.")
    twice = measured[measured.duplicated(["method", "test_set"])]
    if len(twice):
        raise ManifestError(
            f"{twice['method'].iloc[0]} on {twice['test_set'].iloc[0]} is there twice; give methods different names."
        )
    accuracies = measured[~measured["test_set"].isin(MEASURED_COSTS)]
    wrong = accuracies[(accuracies["mean"] < 0) | (accuracies["mean"] > 100)]
    if len(wrong):
        first = wrong.iloc[0]
        raise ManifestError(f"{first['method']} on {first['test_set']}: {first['mean']} is no percentage.")
    return measured.loc[:, list(MEASURED_COLUMNS)]


def _published_cell(published: PublishedTable, row: str, column: str) -> dict[str, Any]:
    if row not in published.rows:
        return {"source": "published", "bold": False, "note": ""}
    cell = published.cell(row, column)
    bold = row in published.best(column)
    return {"source": "published", "mean": cell.mean, "std": cell.std, "bold": bold, "note": cell.note}


def _caption(
    published: PublishedTable, frame: pd.DataFrame, own_columns: list[str], experiment: str, confidence: float
) -> str:
    ours = frame[(frame["source"] == "ours") & frame["mean"].notna()]
    sentences = ["Published: mean ± standard deviation of three trials, in percent."]
    of = f" (experiment {experiment})" if experiment else ""
    if ours.empty:
        sentences.append(f"Ours{of}: nothing is measured yet, its places are empty ({MISSING}).")
    else:
        sentences += _about_ours(ours, of, confidence, published.number)
    best = "Bold: of the published numbers the highest of a test set"
    if ours["bold"].any():
        best += "; of ours the best where the paired interval of its difference to the others excludes zero"
    elif ours[~ours["column"].isin(_UNITS)].groupby("column").size().max() > 1:
        best += "; of ours none: no method differs from every other beyond chance"
    sentences.append(f"{best}.")
    if own_columns:
        be = "is a test set" if len(own_columns) == 1 else "are test sets"
        sentences.append(
            f"{listed(own_columns)} {be} of ours that the paper does not have: published numbers are of other test "
            "sets and are not comparable."
        )
    sentences.append(
        "Published and ours side by side compare only as far as test set, training data, network and protocol agree."
    )
    printed = [f"{row} “{name}”" for row, name in published.printed_names.items()]
    if printed:
        sentences.append(f"The paper calls {listed(printed)}.")
    without = [row for row in dict.fromkeys(frame["row"]) if row not in published.rows]
    if without:
        have = "has" if len(without) == 1 else "have"
        sentences.append(f"{listed(without)} {have} no row in the paper's table.")
    for mark, note in zip(_MARKS, [note for note in dict.fromkeys(frame["note"]) if note], strict=False):
        sentences.append(f"{mark} {note[0].upper()}{note[1:]}.")
    return " ".join([*sentences, published.remark]).strip()


def _about_ours(ours: pd.DataFrame, of: str, confidence: float, number: int) -> list[str]:
    accuracies = ours[~ours["column"].isin(_UNITS)]
    if accuracies.empty:
        return [f"Ours{of}: costs alone are measured."]
    seeds = sorted({int(n) for n in accuracies["n_seeds"]})
    over = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'' if seeds == [1] else 's'}"
    spread = "" if seeds == [1] else " ± standard deviation"
    interval = ""
    if accuracies["low"].notna().any():
        interval = f"; in brackets the {confidence:.0%} interval from resampling "
        interval += resampled_words(accuracies["n_identities"].fillna(0), accuracies["n_seeds"])
    what = "probes" if number == _IDENTIFICATION else "pairs"
    sizes = []
    for column, cells in accuracies.groupby("column", sort=False):
        pairs, people = (_range(cells[name]) for name in ("n_pairs", "n_identities"))
        sizes.append(f"{column} ({pairs} {what} of {'unknown' if people == '0' else people} people)")
    mean = "mean" if seeds != [1] else "value"
    return [f"Ours{of}: {mean}{spread} of {over}, in percent{interval}. Measured on {listed(sizes)}."]


def _range(counts: pd.Series[Any]) -> str:
    known = counts.dropna()
    if known.empty:
        return "an unknown number of"
    low, high = int(known.min()), int(known.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _cell(cell: dict[Any, Any], notes: list[str]) -> _Cell:
    has_interval = not pd.isna(cell["low"]) and not pd.isna(cell["high"])
    return _Cell(
        value=f"{cell['mean']:.3g}" if cell["column"] in _UNITS and cell["mean"] < 1 else f"{cell['mean']:.2f}",
        std="" if pd.isna(cell["std"]) else f"{cell['std']:.2f}",
        interval=f"[{cell['low']:.1f}, {cell['high']:.1f}]" if has_interval else "",
        mark=_MARKS[notes.index(cell["note"])] if cell["note"] else "",
        bold=bool(cell["bold"]),
    )


def _html_cell(cell: _Cell | None) -> str:
    if cell is None:
        return MISSING
    text = f"{cell.value} <small>± {cell.std}</small>" if cell.std else cell.value
    text = f"<strong>{text}</strong>" if cell.bold else text
    below = f"<br><small>{cell.interval}</small>" if cell.interval else ""
    return f"{text}{cell.mark}{below}"


def _markdown_cell(cell: _Cell | None) -> str:
    if cell is None:
        return MISSING
    text = f"{cell.value} ± {cell.std}" if cell.std else cell.value
    text = f"**{text}**" if cell.bold else text
    return text + markdown_escape(cell.mark) + (f" {markdown_escape(cell.interval)}" if cell.interval else "")


def _latex_cell(cell: _Cell | None) -> str:
    if cell is None:
        return latex_escape(MISSING)
    text = rf"\textbf{{{cell.value}}}" if cell.bold else cell.value
    text += rf"\textsuperscript{{{latex_escape(cell.mark)}}}" if cell.mark else ""
    return text + (rf"{{\tiny$\pm${cell.std}}}" if cell.std else "")


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
