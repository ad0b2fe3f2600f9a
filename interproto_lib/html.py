"""Executed notebooks as single HTML files that open offline: nothing in them is loaded from any host."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interproto_lib.errors import ConfigError
from interproto_lib.files import atomic_write
from interproto_lib.views.report.formulas import FormulaMarks, outside_code
from interproto_lib.views.report.offline import remote_loads

__all__ = ["export_html", "remote_loads"]

_NOTEBOOK_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[\w./-]+)\.ipynb\)")
_OFFLINE_TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
"""
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_CODE = re.compile(r"\w+\(.*\)|<.* object at 0x\w+>", re.DOTALL)
_NEEDS_KERNEL = "needs a running kernel"
_WIDGET_WORDS = f"A view stands here in JupyterLab. It {_NEEDS_KERNEL}: open the notebook there and run its cells."


def export_html(notebook: str | Path, output: str | Path, *, siblings: Iterable[str] = ()) -> Path:
    """Write an executed notebook as one self-contained HTML file.

    Pictures and styles are inside the file, formulas become MathML, which browsers show by themselves, and plotly
    figures bring plotly's script once. Prose and outputs are shown, code is left out. In the place of a widget stand
    words: that it needs a running kernel, or those that it brings.

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
    page = formulas.put_in(page)
    loads = remote_loads(page)
    if loads:
        raise ConfigError(
            f"{path}: the HTML page would load {', '.join(loads[:5])}. Use files beside the notebook instead."
        )
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(output)


def _prepare(content: Any, siblings: frozenset[str]) -> FormulaMarks:
    """Make the outputs fit for a page without a kernel, and put a mark in the place of each formula."""
    formulas = FormulaMarks()

    def marked(text: str) -> str:
        return outside_code(formulas.take_out(text), lambda part: _NOTEBOOK_LINK.sub(linked, part))

    def linked(link: re.Match[str]) -> str:
        name = Path(link["target"]).name
        return f"[{link['text']}]({name}.html)" if name in siblings else link["text"]

    plotly = False
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = marked(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(_WIDGET_VIEW, None) is not None:
                _say_of_widget(data)
            if "text/markdown" in data:
                data["text/markdown"] = marked(data["text/markdown"])
            plotly |= _inline_plotly(data, first=not plotly)
    return formulas


def _say_of_widget(data: Any) -> None:
    """Put words in the place of a widget, which shows nothing without a kernel; other text of it stays as it is."""
    text = str(data.get("text/plain", "")).strip()
    if not text or _WIDGET_CODE.fullmatch(text):
        text = _WIDGET_WORDS
    if _NEEDS_KERNEL in text:
        style = "border-left: 4px solid #8a8a8a; padding: 4px 10px; margin: 0"
        data["text/html"] = f'<p style="{style}">{html.escape(text)}</p>'


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
