"""Formulas that a browser shows by itself: LaTeX in Markdown becomes MathML, so that a page needs no script for it."""

from __future__ import annotations

import re
from collections.abc import Callable

_FORMULA = re.compile(r"(?<![\\$])(\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\d))", re.S)
_CODE = re.compile(r"(```.*?```|~~~.*?~~~|`[^`\n]+`)", re.S)


class FormulaMarks:
    """Formulas taken out of Markdown, each with a mark in its place, to be put into the page that is made of it.

    A converter of Markdown takes HTML apart tag by tag, so the formulas are put in when it is done.
    """

    def __init__(self) -> None:
        self._formulas: dict[str, str] = {}

    def take_out(self, text: str) -> str:
        """Put a mark in the place of each formula of a Markdown text, and leave code as it is.

        Args:
            text: Markdown; `$...$` is a formula in a line, `$$...$$` one of its own.

        Returns:
            The text with marks.
        """
        return outside_code(text, lambda part: _FORMULA.sub(self._mark, part))

    def put_in(self, page: str) -> str:
        """Put the formulas into an HTML text, as MathML; marks inside tags, as in the anchors of headings, go.

        Args:
            page: The HTML made of what `take_out` gave.

        Returns:
            The HTML with formulas.
        """
        if not self._formulas:
            return page
        marks = re.compile("|".join(sorted(self._formulas, key=len, reverse=True)))
        parts = re.split(r"(<[^>]*>)", page)
        parts[::2] = [marks.sub(lambda found: self._formulas[found[0]], text) for text in parts[::2]]
        parts[1::2] = [marks.sub("", tag) for tag in parts[1::2]]
        return "".join(parts)

    def _mark(self, formula: re.Match[str]) -> str:
        name = f"formula{len(self._formulas)}of{id(self)}"
        self._formulas[name] = _mathml(formula)
        return name


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change a Markdown text everywhere but in its code.

    Args:
        text: Markdown.
        change: What to make of a piece between two pieces of code.

    Returns:
        The text changed.

    Example:
        >>> outside_code("x and `x`", str.upper)
        'X AND `x`'
    """
    parts = _CODE.split(text)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def _mathml(formula: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    display = formula["display"] is not None
    text = (formula["display"] if display else formula["inline"]).strip()
    return str(convert(text, display="block" if display else "inline"))
