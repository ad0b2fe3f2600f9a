"""Tables that pandas wrote as HTML, made fit for one page with others: own names, plain tags, numbered captions."""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

_TAGS = {
    *("table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "th", "td"),
    *("b", "strong", "i", "em", "sub", "sup", "small", "span", "br", "code"),
}
_WITHOUT_END = {"br", "col"}
_ATTRIBUTES = {"id", "class", "colspan", "rowspan", "scope"}
_UNSAFE_STYLE = re.compile(r"url\s*\(|@import|expression|<|\\", re.I)


def table_html(html: str, *, name: str, caption_opening: str) -> tuple[str, str]:
    """Clean a table.

    Only tags and attributes of tables and of plain text stay; any other tag is shown as text. The table's own style
    stays, with the table's new name.

    Args:
        html: What pandas wrote: a `<style>` and a `<table>`.
        name: Id of the table in the page.
        caption_opening: Stands before the caption, as in `Table 3.1. `.

    Returns:
        The HTML, and the words of the caption.
    """
    reader = _TableReader(name, caption_opening)
    reader.feed(html)
    reader.close()
    style = "".join(reader.style)
    for old in reader.names:
        style = style.replace(f"#{old}", f"#{name}")
    kept = f"<style>{style.strip()}</style>" if style.strip() and not _UNSAFE_STYLE.search(style) else ""
    table = "".join(reader.parts)
    if not reader.has_caption:
        own = f"<caption>{escape(caption_opening)}</caption>"
        table = re.sub(r"<table[^>]*>", lambda tag: tag[0] + own, table, count=1)
    return kept + table, " ".join("".join(reader.caption).split())


class _TableReader(HTMLParser):
    def __init__(self, name: str, caption_opening: str) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.style: list[str] = []
        self.caption: list[str] = []
        self.names: list[str] = []
        self.has_caption = False
        self._name, self._opening = name, caption_opening
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "style":
            self._inside = "style"
            return
        if tag not in _TAGS:
            self.parts.append(escape(self.get_starttag_text() or ""))
            return
        given = {key: value or "" for key, value in attrs if key in _ATTRIBUTES}
        if tag == "table":
            if given.get("id"):
                self.names.append(given["id"])
            given["id"] = self._name
        elif "id" in given:
            given["id"] = self._renamed(given["id"])
        written = "".join(f' {key}="{escape(value)}"' for key, value in given.items())
        self.parts.append(f"<{tag}{written}>")
        if tag == "caption":
            self.has_caption, self._inside = True, "caption"
            self.parts.append(f"<span>{escape(self._opening)}</span>")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "caption"):
            self._inside = ""
        if tag in _TAGS and tag not in _WITHOUT_END:
            self.parts.append(f"</{tag}>")
        elif tag not in _TAGS and tag != "style":
            self.parts.append(escape(f"</{tag}>"))

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.style.append(data)
            return
        if self._inside == "caption":
            self.caption.append(data)
        self.parts.append(escape(data, quote=False))

    def _renamed(self, name: str) -> str:
        for old in self.names:
            if name.startswith(f"{old}_"):
                return f"{self._name}_{name[len(old) + 1 :]}"
        return f"{self._name}_{name}"
