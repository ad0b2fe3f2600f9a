"""A widget in a page without a kernel: its state is written into the page, and what it sends is kept there."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>widget</title>
<style>
:root {{ color-scheme: {scheme}; }}
body {{ margin: 8px; background: Canvas; color: CanvasText; {extra} }}
</style>
<div id="here"></div>
<script type="module">
const bytes = (text) => {{
  const coded = atob(text);
  const raw = new Uint8Array(coded.length);
  for (let i = 0; i < raw.length; i++) raw[i] = coded.charCodeAt(i);
  return new DataView(raw.buffer);
}};
const state = {state};
for (const [name, value] of Object.entries(state)) {{
  if (value && value.base64 !== undefined) state[name] = bytes(value.base64);
}}
const handlers = {{}};
window.sent = [];
window.model = {{
  get: (name) => state[name],
  set: (name, value) => {{
    state[name] = value;
    for (const handler of handlers[`change:${{name}}`] ?? []) handler();
  }},
  save_changes: () => {{}},
  send: (message) => window.sent.push(message),
  on: (name, handler) => (handlers[name] ??= []).push(handler),
  off: () => {{}},
}};
window.trigger = (name, ...values) => {{ for (const handler of handlers[name] ?? []) handler(...values); }};
const script = bytes("{script}");
const widget = await import(URL.createObjectURL(new Blob([script], {{ type: "text/javascript" }})));
widget.default.render({{ model: window.model, el: document.getElementById("here") }});
window.ready = true;
</script></html>
"""


def write_page(widget: Any, path: Path, *, scheme: str = "light", extra_style: str = "") -> Path:
    """Write the page.

    Args:
        widget: The widget; its synced traits become the state.
        path: The file.
        scheme: `light` or `dark`.
        extra_style: CSS of the body.

    Returns:
        The file.
    """
    state = {
        name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes | memoryview) else value
        for name, value in widget.get_state().items()
        if not name.startswith("_") and name not in {"layout", "tooltip", "tabbable"}
    }
    script = base64.b64encode(widget._esm.encode()).decode()
    text = _PAGE.format(scheme=scheme, extra=extra_style, state=json.dumps(state).replace("</", "<\\/"), script=script)
    path.write_text(text, encoding="utf-8")
    return path
