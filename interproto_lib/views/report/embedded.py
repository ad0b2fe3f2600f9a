"""Live views in a page without a kernel: the script of a widget, and all of its state, embedded."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from interproto_lib.errors import ConfigError
from interproto_lib.views.report.markdown import markdown_html

_EXPORT = re.compile(r"^export default ", re.M)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedView:
    """A widget as a page can show it by itself.

    Attributes:
        anchor: Id of its place in the page.
        title: Its heading.
        text: Markdown under the heading: what is shown, and what is not.
        script: An ES module without imports, whose default export has `render({model, el})`.
        state: What the model of the widget holds; bytes and what JSON can say.
        answers: Bytes from which the page answers what the script would ask a kernel, see `report.js`.
    """

    anchor: str
    title: str
    text: str
    script: str
    state: Mapping[str, Any]
    answers: Mapping[str, Any] | None = None


def widget_state(widget: Any) -> dict[str, Any]:
    """Give what a widget shares with its page, without what belongs to Jupyter.

    Args:
        widget: An `anywidget.AnyWidget`.

    Returns:
        Trait -> value.
    """
    own = [name for name in widget.keys if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")]
    return {name: getattr(widget, name) for name in own}


def embedded_html(view: EmbeddedView, *, level: int) -> str:
    """Write a view as HTML: its heading, its text, its place, its state and its script.

    Args:
        view: The view.
        level: Level of its heading.

    Returns:
        The HTML.

    Raises:
        ConfigError: The script is not one module with one default export.
    """
    if len(_EXPORT.findall(view.script)) != 1 or re.search(r"^import ", view.script, re.M):
        raise ConfigError(f"the script of {view.title!r} must import nothing and have one `export default`.")
    anchor = view.anchor
    script = _EXPORT.sub("const widget = ", view.script).replace("</script", "<\\/script")
    state = _json({"state": _packed(view.state), "answers": _packed(view.answers or {})})
    return f"""<section class="view" id="{anchor}" aria-labelledby="{anchor}-title">
<h{level} id="{anchor}-title">{escape(view.title)}</h{level}>
{markdown_html(view.text, chapters={}, below=level)}
<p class="only-print">This view is live: open the file in a browser.</p>
<noscript><p>This view needs JavaScript, which is switched off.</p></noscript>
<div class="place" id="{anchor}-place"></div>
<script type="application/json" id="{anchor}-state">{state}</script>
<script type="module">
{script}
showView("{anchor}", widget);
</script>
</section>"""


def _packed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes become {"base64": text}, which the page turns back."""
    return {
        name: {"base64": base64.b64encode(bytes(value)).decode("ascii")}
        if isinstance(value, (bytes, bytearray, memoryview))
        else value
        for name, value in values.items()
    }


def _json(content: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
