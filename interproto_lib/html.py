"""Executed notebooks as single HTML files that open offline: nothing in them is loaded from any host."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from interproto_lib.errors import ConfigError
from interproto_lib.files import atomic_write

_FORMULA = re.compile(r"(?<![\\$])(\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\d))", re.S)
_CODE = re.compile(r"(```.*?```|~~~.*?~~~|`[^`\n]+`)", re.S)
_NOTEBOOK_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[\w./-]+)\.ipynb\)")
_OFFLINE_TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
"""
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_LOADING = {"src", "srcset", "poster", "data", "background"}
_CSS_LOAD = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""")
_SCRIPT_LOAD = re.compile(r"""(?:import\s*\(\s*|import\s+[^;'"]*|from\s+)['"]((?:https?:)?//[^'"]+)""")


def export_html(notebook: str | Path, output: str | Path, *, siblings: Iterable[str] = ()) -> Path:
    """Write an executed notebook as one self-contained HTML file.

    Pictures and styles are inside the file, formulas become MathML, which browsers show by themselves, and plotly
    figures bring plotly's script once. Prose and outputs are shown, code is left out. Of a widget the text remains.

    Args:
        notebook: The executed `.ipynb` file.
        output: The HTML file to write; its folder is made.
        siblings: Names of notebooks (without `.ipynb`) whose pages lie beside this one: links to these notebooks lead
            to their pages. Links to other notebooks become plain text.

    Returns:
        The HTML file.

    Raises:
        ConfigError: The notebook cannot be read, or the page would load something from a host; the message says what.
        WriteError: The file cannot be written.
    """
    import nbformat
    from nbconvert import HTMLExporter

    path = Path(notebook)
    try:
        content = nbformat.read(path, as_version=4)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no notebook {path}.") from error
    except Exception as error:
        raise ConfigError(f"{path} is not a notebook: {error}") from error
    formulas = _prepare(content, frozenset(siblings))
    exporter = HTMLExporter(
        raw_template=_OFFLINE_TEMPLATE,
        embed_images=True,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    page, _ = exporter.from_notebook_node(content, resources=resources)
    page = _put_formulas(page, formulas)
    loads = remote_loads(page)
    if loads:
        raise ConfigError(
            f"{path}: the HTML page would load {', '.join(loads[:5])}. Use files beside the notebook instead."
        )
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(output)


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


def _prepare(content: Any, siblings: frozenset[str]) -> dict[str, str]:
    """Make the outputs fit for a page without a kernel, and put a mark in the place of each formula.

    The exporter takes HTML inside Markdown apart tag by tag, so the formulas are put in afterwards.

    Returns:
        Mark -> MathML.
    """
    formulas: dict[str, str] = {}

    def marked(text: str) -> str:
        parts = _CODE.split(text)
        parts[::2] = [_NOTEBOOK_LINK.sub(linked, _FORMULA.sub(mark, part)) for part in parts[::2]]
        return "".join(parts)

    def linked(link: re.Match[str]) -> str:
        name = Path(link["target"]).name
        return f"[{link['text']}]({name}.html)" if name in siblings else link["text"]

    def mark(formula: re.Match[str]) -> str:
        name = f"formula{len(formulas)}of{id(formulas)}"
        formulas[name] = _mathml(formula)
        return name

    plotly = False
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = marked(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(_WIDGET_VIEW, None)  # shows nothing without a kernel; its text stays
            if "text/markdown" in data:
                data["text/markdown"] = marked(data["text/markdown"])
            plotly |= _inline_plotly(data, first=not plotly)
    return formulas


def _put_formulas(page: str, formulas: dict[str, str]) -> str:
    if not formulas:
        return page
    marks = re.compile("|".join(sorted(formulas, key=len, reverse=True)))
    parts = re.split(r"(<[^>]*>)", page)
    parts[::2] = [marks.sub(lambda found: formulas[found[0]], text) for text in parts[::2]]
    parts[1::2] = [marks.sub("", tag) for tag in parts[1::2]]  # the anchors that headings get
    return "".join(parts)


def _mathml(formula: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    display = formula["display"] is not None
    text = (formula["display"] if display else formula["inline"]).strip()
    return str(convert(text, display="block" if display else "inline"))


def _inline_plotly(data: Any, *, first: bool) -> bool:
    """Replace a plotly figure by HTML that draws it; the first one brings plotly's script along."""
    figure = data.pop("application/vnd.plotly.v1+json", None)
    if figure is None:
        return False
    from plotly.io import to_html

    data["text/html"] = to_html(
        {"data": figure["data"], "layout": figure.get("layout", {})},
        include_plotlyjs=first,
        full_html=False,
        validate=False,
    )
    return True
