"""Markdown of notebooks as HTML of a report: headings with anchors, links to chapters, formulas as MathML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from html import escape

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from interproto_lib.views.report.formulas import FormulaMarks, outside_code

_NOTEBOOK_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[\w./-]+)\.ipynb\)")
_LOWEST_HEADING = 6


class Anchors:
    """Names of places in a page, each given once.

    Example:
        >>> anchors = Anchors()
        >>> anchors.new("Tables 1, 2 and 4"), anchors.new("Tables 1, 2 and 4")
        ('tables-1-2-and-4', 'tables-1-2-and-4-2')
    """

    def __init__(self) -> None:
        self._given: set[str] = set()

    def new(self, words: str) -> str:
        """Give an anchor that resembles some words and no other anchor has."""
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "part"
        name, number = stem, 1
        while name in self._given:
            number += 1
            name = f"{stem}-{number}"
        self._given.add(name)
        return name


class _Renderer(IPythonRenderer):
    """HTML in the text is shown as text, headings stand below those of the report."""

    def __init__(self, below: int) -> None:
        super().__init__(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
        self._below = below

    def heading(self, text: str, level: int, **attrs: object) -> str:
        rank = min(_LOWEST_HEADING, max(level, self._below + 1))
        return f"<h{rank}>{text}</h{rank}>\n"

    def table(self, text: str) -> str:
        return f'<div class="scroll" tabindex="0"><table class="prose">\n{text}</table></div>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Pictures of files lie beside a notebook, not in it: their words remain."""
        return f"<em>{text}</em>"


def markdown_html(text: str, *, chapters: Mapping[str, str], below: int = 3) -> str:
    r"""Write Markdown as HTML.

    Args:
        text: Markdown; raw HTML in it is shown as text.
        chapters: Notebook -> anchor of its chapter. Links to other notebooks become plain text.
        below: Level of the heading that the text stands under.

    Returns:
        The HTML.

    Example:
        >>> markdown_html("See [this](03_similarity.ipynb), <b>.", chapters={"03_similarity": "chapter-3"})
        '<p>See <a href="#chapter-3">this</a>, &lt;b&gt;.</p>\n'
    """

    def linked(link: re.Match[str]) -> str:
        notebook = link["target"].rpartition("/")[2]
        return f"[{link['text']}](#{chapters[notebook]})" if notebook in chapters else link["text"]

    formulas = FormulaMarks()
    marked = outside_code(formulas.take_out(text), lambda part: _NOTEBOOK_LINK.sub(linked, part))
    return formulas.put_in(MarkdownWithMath(renderer=_Renderer(below)).render(marked))


def plain_words(markdown: str) -> str:
    """Give a Markdown line without its marks, escaped, for a table of contents.

    Example:
        >>> plain_words("Tables `1` & **2**")
        'Tables 1 &amp; 2'
    """
    return escape(re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", lambda found: found[1] or "", markdown))
