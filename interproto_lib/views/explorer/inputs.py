"""Plain inputs of the explorer: labelled choices, and rows of inputs that wrap where the page is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets


def labelled_choice(label: str, options: Sequence[tuple[str, Any]], value: Any) -> ipywidgets.Dropdown:
    """Make a choice whose label is never cut off.

    Args:
        label: What is chosen.
        options: Words and value of each.
        value: Chosen first.

    Returns:
        The input.
    """
    return ipywidgets.Dropdown(
        description=label,
        options=list(options),
        value=value,
        layout={"width": "auto", "max_width": "100%"},
        style={"description_width": "initial"},
    )


def row_of_inputs(inputs: Sequence[ipywidgets.Widget]) -> ipywidgets.HBox:
    """Put inputs side by side, and below one another where there is no room."""
    return ipywidgets.HBox(list(inputs), layout={"flex_flow": "row wrap", "align_items": "center"})
