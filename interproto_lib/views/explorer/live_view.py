"""What all widgets of the explorer share: script, word to the page that the kernel lives, figures, code to copy."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from interproto_lib.errors import InterprotoError
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.style import FIGURE_FORMATS, LabelledFigure, save_figure

_FOLDER = Path(__file__).parent
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z_]+\.js)";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) )", re.M)


def read_script(name: str) -> str:
    """Give a widget's script as one ES module, with the scripts of this folder that it imports in front.

    A widget's script reaches the page as text, where nothing can be imported by a relative path.

    Args:
        name: File in the folder of this module, as in `projection_map.js`.

    Returns:
        The text; its default export is the widget.

    Example:
        >>> "./frame.js" in read_script("projection_map.js")
        False
    """
    parts: dict[str, str] = {}

    def read(file: str) -> None:
        if file in parts:
            return
        text = (_FOLDER / file).read_text(encoding="utf-8")
        for imported in _IMPORT.findall(text):
            read(imported)
        parts[file] = _IMPORT.sub("", text if file == name else _EXPORT.sub("", text))

    read(name)
    return "\n".join(parts.values())


def with_words(bundle: Any, name: str) -> Any:
    """Put words beside a widget for where no kernel runs, such as a page made of the notebook, in place of its code.

    Args:
        bundle: What the `_repr_mimebundle_` of the widget gave: the data, or the data and its metadata.
        name: What the widget is, as in `The similarity explorer`.

    Returns:
        The bundle with the words as its plain text.
    """
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    data["text/plain"] = (
        f"{name} stands here in JupyterLab. It needs a running kernel: open the notebook there and run its cells. The "
        "figure beside it shows the same without."
    )
    return bundle


class LiveView(anywidget.AnyWidget):
    """A widget that saves its static figure and shows the code that draws it.

    Attributes:
        live: Whether a kernel stands behind the page; False hides what only a kernel can do.
        code: The library call that draws the static figure of what is shown.
        problem: What went wrong in the background, for the page to say; empty for nothing.
        draw_figure: Gives the static figure; set by whoever makes the widget.
        figure_name: Name of the saved file, without suffix.
    """

    live = traitlets.Bool(True).tag(sync=True)
    code = traitlets.Unicode("").tag(sync=True)
    problem = traitlets.Unicode("").tag(sync=True)

    view_name = "A view to walk around in"
    """What stands in its place where no kernel runs, see `with_words`."""

    def __init__(self, *, draw_figure: Callable[[], LabelledFigure], figure_name: str, **state: Any) -> None:
        super().__init__(**state)
        self.draw_figure = draw_figure
        self.figure_name = figure_name
        self.on_msg(self._answer)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return with_words(super()._repr_mimebundle_(**kwargs), self.view_name)

    def _answer(self, _: Any, message: Any, __: Any) -> None:
        """Answer a message of the page: `ping`, or `save_figure` with a `format`."""
        if not isinstance(message, dict):
            return
        if message.get("type") == "ping":
            self.send({"type": "pong"})
        elif message.get("type") == "save_figure":
            with self.saying("figure"):
                self._send_figure(str(message.get("format")))

    @contextmanager
    def saying(self, about: str, **more: Any) -> Iterator[None]:
        """Answer the page within this, and say there what goes wrong.

        Args:
            about: Type of the answer: the next one of this type tells the page that all is well again.
            more: What else the page needs to know which question it was.
        """
        try:
            yield
        except Exception as problem:
            self.send({"type": "problem", "about": about, "text": failure_words(problem), **more})
            if not isinstance(problem, InterprotoError):
                raise  # for the kernel's log, where a fault of the program can be traced

    def _send_figure(self, file_format: str) -> None:
        content = figure_bytes(self.draw_figure(), file_format)
        self.send({"type": "figure", "name": f"{self.figure_name}.{file_format}"}, [content])


def figure_bytes(figure: LabelledFigure, file_format: str) -> bytes:
    """Give a figure as the content of a file.

    Args:
        figure: The figure.
        file_format: One of `FIGURE_FORMATS`; a page may ask for any text, and gets an SVG for what is none of them.

    Returns:
        The content, the same bytes as `save_figure` writes.
    """
    suffix = file_format if file_format in FIGURE_FORMATS else "svg"
    with tempfile.TemporaryDirectory() as folder:
        paths = dict(zip(FIGURE_FORMATS, save_figure(figure, folder, "figure"), strict=True))
        return paths[suffix].read_bytes()
