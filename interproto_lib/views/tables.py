"""Tables for people: numbers rounded, columns named, readable in JupyterLab, light or dark, and in a saved page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def styled_table(
    table: pd.DataFrame,
    caption: str,
    *,
    formats: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    decimals: int = 3,
) -> Any:
    """Format a table for a notebook.

    Only alignment, spacing and the weight of the caption are set, never a colour, so that it follows the page's theme.

    Args:
        table: The table; its index is not shown unless it has a name.
        caption: One line above the table.
        formats: Column (its name in `table`) -> format of its values, as in `{:.1%}`.
        names: Column -> what it is called in the table shown.
        decimals: Digits after the point of other floating point columns.

    Returns:
        A pandas `Styler`; as the last expression of a cell it shows itself.
    """
    chosen = {c: f"{{:,.{decimals}f}}" for c in table.columns if pd.api.types.is_float_dtype(table[c])}
    chosen |= {c: "{:,}" for c in table.columns if pd.api.types.is_integer_dtype(table[c])}
    chosen |= dict(formats or {})
    numeric = [i for i, c in enumerate(table.columns) if pd.api.types.is_numeric_dtype(table[c])]
    renamed = {column: (names or {}).get(column, str(column).replace("_", " ")) for column in table.columns}
    shown = table.rename(columns=renamed)
    styler = shown.style.format({renamed[c]: f for c, f in chosen.items()}, na_rep="–").set_caption(caption)
    styles: list[Any] = [
        {"selector": "caption", "props": "caption-side: top; text-align: left; font-weight: 600; padding: 4px 0;"},
        {"selector": "th", "props": "text-align: left; font-weight: 600; padding: 2px 10px;"},
        {"selector": "td", "props": "text-align: left; padding: 2px 10px; font-variant-numeric: tabular-nums;"},
    ]
    # By element and class: the rule for `td` outweighs what is set cell by cell.
    styles += [{"selector": f"th.col{i}, td.col{i}", "props": "text-align: right;"} for i in numeric]
    styler = styler.set_table_styles(styles)
    return styler if table.index.name else styler.hide(axis="index")
