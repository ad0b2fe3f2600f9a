"""A widget in a page without JupyterLab; its messages are answered by the widget itself, in the process of the test."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>widget</title>
<style>:root { color-scheme: SCHEME; } body { margin: 8px; background: Canvas; color: CanvasText; }</style>
<div id="here"></div>
<script type="module">
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const read = (value) => (value && value.base64 !== undefined ? bytes(value.base64) : value);
const state = {};
const changed = {};
const handlers = {};
const trigger = (name, ...values) => { for (const handler of handlers[name] ?? []) handler(...values); };
const take = (answers) => {
  for (const { message, buffers } of answers) trigger("msg:custom", message, buffers.map(bytes));
};
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = changed[name] = value; trigger(`change:${name}`); },
  save_changes: () => {
    window.toKernel({ state: { ...changed } }).then(take);
    for (const name of Object.keys(changed)) delete changed[name];
  },
  send: (message) => window.toKernel({ message }).then(take),
  on: (name, handler) => (handlers[name] ??= []).push(handler),
  off: () => {},
};
window.setFromKernel = (values) => {
  for (const [name, value] of Object.entries(values)) state[name] = read(value);
  for (const name of Object.keys(values)) trigger(`change:${name}`);
};
window.start = async (values, script) => {
  window.setFromKernel(values);
  const widget = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  widget.default.render({ model, el: document.getElementById("here") });
};
</script></html>
"""

_NOT_OF_THE_WIDGET = {"layout", "tooltip", "tabbable"}


class AnsweredPage:
    """A page, the widget behind it, and what the page asked.

    Attributes:
        page: The page of playwright.
        widget: The widget.
        asked: Messages of the page, in order.
        errors: Uncaught exceptions of the page.
        answering: False lets messages go unanswered, as a kernel does that is gone.
    """

    def __init__(self, page: Page, widget: Any) -> None:
        self.page = page
        self.widget = widget
        self.asked: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.answering = True
        self._answers: list[dict[str, Any]] = []
        widget.send = self._keep
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.expose_function("toKernel", self._take)

    def push(self, *names: str) -> None:
        """Tell the page of traits that were set in Python."""
        self.page.evaluate("(state) => window.setFromKernel(state)", self._state(names))

    def start(self) -> None:
        """Draw the widget in the page."""
        state, script = self._state(()), str(self.widget._esm)
        self.page.evaluate("([state, script]) => window.start(state, script)", [state, script])

    def _state(self, names: tuple[str, ...]) -> dict[str, Any]:
        values = self.widget.get_state(list(names) or None)
        return {
            name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
            for name, value in values.items()
            if not name.startswith("_") and name not in _NOT_OF_THE_WIDGET
        }

    def _keep(self, message: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        coded = [base64.b64encode(content).decode() for content in buffers or []]
        self._answers.append({"message": message, "buffers": coded})

    def _take(self, sent: dict[str, Any]) -> list[dict[str, Any]]:
        if not self.answering:
            return []
        for name, value in sent.get("state", {}).items():
            setattr(self.widget, name, value)
        if "message" in sent:
            self.asked.append(sent["message"])
            self.widget._answer(self.widget, sent["message"], [])
        answers, self._answers = self._answers, []
        return answers


@contextmanager
def answered_page(
    browser: Browser,
    widget: Any,
    folder: Path,
    *,
    width: int = 1100,
    height: int = 800,
    scale: float = 1,
    scheme: str = "light",
) -> Iterator[AnsweredPage]:
    """Show a widget; fail at the end for what the page threw.

    Args:
        browser: The running browser.
        widget: The widget.
        folder: Where the page is written.
        width: Width of the window in CSS pixels.
        height: Its height.
        scale: Pixels of the screen to a CSS pixel.
        scheme: `light` or `dark`.

    Yields:
        The page.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=scale)
    page = context.new_page()
    answered = AnsweredPage(page, widget)
    path = folder / "page.html"
    path.write_text(_PAGE.replace("SCHEME", scheme), encoding="utf-8")
    page.goto(path.as_uri())
    answered.start()
    yield answered
    context.close()
    assert answered.errors == []
