"""Tables as files for other programs: CSV with all digits, Markdown and LaTeX with the digits that a reader wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from interproto_lib.errors import ConfigError
from interproto_lib.files import atomic_write

TABLE_FORMATS = {"csv": ".csv", "markdown": ".md", "latex": ".tex"}
"""The formats that `write_table_files` writes, and the suffix of each."""

MISSING = "–"
"""What stands where there is no number."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "[": "{[}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "λ": r"$\lambda$",
    "²": "$^2$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "\n": " ",
}


class WritableTable(Protocol):
    """A table that can write itself, such as `interproto_lib.views.paper_tables.PaperTable`."""

    def to_csv(self) -> str:
        """Give the table as CSV."""

    def to_markdown(self) -> str:
        """Give the table as Markdown."""

    def to_latex(self) -> str:
        """Give the table as LaTeX."""


def write_table_files(
    table: WritableTable | pd.DataFrame,
    folder: str | Path,
    stem: str,
    *,
    caption: str = "",
    formats: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Write a table as CSV, Markdown and LaTeX (UTF-8), each atomically.

    Args:
        table: A table that can write itself, or a data frame (its index is written where it has a name).
        folder: Where to write; made if missing.
        stem: File name without suffix.
        caption: For a data frame, what stands above it in Markdown and LaTeX.
        formats: For a data frame, column -> format of its values in Markdown and LaTeX, as in `{:.1%}`.

    Returns:
        Name of the format, a key of `TABLE_FORMATS` -> path.

    Raises:
        ConfigError: `stem` is no file name.
        WriteError: A file cannot be written.
    """
    if not stem or Path(stem).name != stem:
        raise ConfigError(f"stem={stem!r}: give a file name without folder and suffix.")
    if isinstance(table, pd.DataFrame):
        texts = {
            "csv": table.to_csv(index=bool(table.index.name)),
            "markdown": frame_to_markdown(table, caption=caption, formats=formats),
            "latex": frame_to_latex(table, caption=caption, formats=formats),
        }
    else:
        texts = {"csv": table.to_csv(), "markdown": table.to_markdown(), "latex": table.to_latex()}
    paths = {name: Path(folder) / f"{stem}{suffix}" for name, suffix in TABLE_FORMATS.items()}
    for name, path in paths.items():
        with atomic_write(path) as temporary:
            temporary.write_text(texts[name], encoding="utf-8", newline="\n")
    return paths


def frame_to_markdown(
    frame: pd.DataFrame, *, caption: str = "", formats: Mapping[str, str] | None = None, decimals: int = 3
) -> str:
    r"""Write a data frame as a Markdown table.

    Args:
        frame: The table; its index is written where it has a name.
        caption: A paragraph above the table.
        formats: Column -> format of its values, as in `{:.1%}`.
        decimals: Digits after the point of other floating point numbers.

    Returns:
        The text, ending in a line break; missing values are an en dash.

    Example:
        >>> print(frame_to_markdown(pd.DataFrame({"method": ["a|b"], "share": [0.25]}), formats={"share": "{:.0%}"}))
        | method | share |
        | :--- | ---: |
        | a\|b | 25% |
        <BLANKLINE>
    """
    header, rows, is_number = _texts(frame, formats or {}, decimals)
    above = f"{markdown_escape(caption)}\n\n" if caption else ""
    return above + markdown_lines(
        [markdown_escape(name) for name in header], [[markdown_escape(text) for text in row] for row in rows], is_number
    )


def frame_to_latex(
    frame: pd.DataFrame,
    *,
    caption: str = "",
    label: str = "",
    formats: Mapping[str, str] | None = None,
    decimals: int = 3,
) -> str:
    """Write a data frame as a LaTeX table; the document needs the package booktabs, and no other.

    Args:
        frame: The table; its index is written where it has a name.
        caption: Above the table.
        label: To refer to it; none where empty.
        formats: Column -> format of its values, as in `{:.1%}`.
        decimals: Digits after the point of other floating point numbers.

    Returns:
        A `table` environment in UTF-8, ending in a line break; characters that mean something to LaTeX are escaped,
        missing values are an en dash.
    """
    header, rows, is_number = _texts(frame, formats or {}, decimals)
    lines = [" & ".join(latex_escape(text) for text in row) + r" \\" for row in rows]
    heading = " & ".join(latex_escape(name) for name in header) + r" \\"
    return latex_table(
        [heading, r"\midrule", *lines],
        alignment="".join("r" if number else "l" for number in is_number),
        caption=latex_escape(caption),
        label=label,
    )


def latex_table(
    lines: Sequence[str], *, alignment: str, caption: str, label: str = "", size: str = "", wide: bool = False
) -> str:
    r"""Put the lines of a tabular into a LaTeX table with the rules of booktabs.

    Args:
        lines: Everything between the first and the last rule, LaTeX already.
        alignment: One letter a column.
        caption: Above the table, LaTeX already; none where empty.
        label: To refer to it; none where empty.
        size: Commands for the size of type, such as `\small`.
        wide: Over both columns of a page in two columns.

    Returns:
        The text, ending in a line break.
    """
    environment = "table*" if wide else "table"
    head = [rf"\begin{{{environment}}}", r"\centering"]
    if caption:
        head.append(rf"\caption{{{caption}}}")
    if label:
        head.append(rf"\label{{{label}}}")
    if size:
        head.append(size)
    body = [rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*head, *body, rf"\end{{{environment}}}", ""])


def markdown_lines(header: Sequence[str], rows: Sequence[Sequence[str]], is_number: Sequence[bool]) -> str:
    """Put texts into a Markdown table.

    Args:
        header: One text a column, Markdown already.
        rows: One text a column, Markdown already.
        is_number: Columns to be aligned on the right.

    Returns:
        The text, ending in a line break.
    """
    rule = ["---:" if number else ":---" for number in is_number]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def markdown_escape(text: str) -> str:
    r"""Escape what Markdown would take for a sign of its own, and what would end a cell.

    Args:
        text: Plain text.

    Returns:
        Markdown of one line that shows the text.

    Example:
        >>> print(markdown_escape("ip_sum *"))
        ip\_sum \*
    """
    for sign in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split("\n"))


def latex_escape(text: str) -> str:
    r"""Escape what LaTeX would take for a command, and write signs that its plain fonts do not have.

    Args:
        text: Plain text.

    Returns:
        LaTeX that shows the text.

    Example:
        >>> print(latex_escape("ip_sum & 5 % ± 1 – 2"))
        ip\_sum \& 5 \% $\pm$ 1 -- 2
    """
    return "".join(_LATEX.get(character, character) for character in text)


def _texts(
    frame: pd.DataFrame, formats: Mapping[str, str], decimals: int
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, rows and whether a column holds numbers, all as plain text."""
    shown = frame.reset_index() if frame.index.name else frame
    unknown = [column for column in formats if column not in shown.columns]
    if unknown:
        raise ConfigError(f"There is no column {unknown[0]!r} to format; the table has {', '.join(map(str, shown))}.")
    columns = [
        [_text(value, formats.get(name), decimals) for value in shown.iloc[:, place]]
        for place, name in enumerate(shown.columns)
    ]
    header = [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in shown.columns]
    is_number = [pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in shown.dtypes]
    return header, [list(row) for row in zip(*columns, strict=True)], is_number


def _text(value: Any, chosen: str | None, decimals: int) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return MISSING
    if chosen is not None:
        text = chosen.format(value)
    elif pd.api.types.is_bool(value):
        return "yes" if value else "no"
    elif pd.api.types.is_integer(value):
        text = f"{value:,}"
    elif pd.api.types.is_float(value):
        text = f"{value:,.{decimals}f}"
    else:
        return str(value)
    return f"−{text[1:]}" if text.startswith("-") else text
