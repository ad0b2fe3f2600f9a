"""Pages that open offline: what an HTML text would load from other hosts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_LOADING = {"src", "srcset", "poster", "data", "background"}
_CSS_LOAD = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""")
_SCRIPT_LOAD = re.compile(r"""(?:import\s*\(\s*|import\s+[^;'"]*|from\s+)['"]((?:https?:)?//[^'"]+)""")


def remote_loads(page: str) -> list[str]:
    """List what a browser would load from other hosts when it opens an HTML page.

    Scripts, styles, pictures, frames and imports count; links that a reader may follow do not.

    Args:
        page: The HTML text.

    Returns:
        The addresses, in their order.

    Example:
        >>> remote_loads('<a href="https://example.org">link</a><img src="https://example.org/x.png">')
        ['https://example.org/x.png']
    """
    finder = _LoadFinder()
    finder.feed(page)
    finder.close()
    return finder.found


class _LoadFinder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            loads = name in _LOADING or (name in ("href", "xlink:href") and tag in ("link", "image", "use", "base"))
            if loads and re.match(r"\s*(https?:)?//", value or ""):
                self.found.append((value or "").strip())
            if name == "style":
                self.found += _CSS_LOAD.findall(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.found += _CSS_LOAD.findall(data)
        elif self._inside == "script":
            self.found += _SCRIPT_LOAD.findall(data)
