"""Executed notebooks made up for the tests of the report."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
import numpy as np


def png(colour: int = 200) -> bytes:
    """A small grey picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), colour, np.uint8)).save(buffer, format="png")
    return buffer.getvalue()


def markdown(text: str, name: str = "text") -> nbformat.NotebookNode:
    cell = nbformat.v4.new_markdown_cell(text)
    cell["id"] = name
    return cell


def code(source: str, *data: dict[str, Any], name: str = "cell", stream: str = "") -> nbformat.NotebookNode:
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=stream)] if stream else []
    for one in data:
        alt = {"image/png": {"width": 6, "height": 4, "alt": one["alt"]}} if "alt" in one else {}
        shown = {kind: value for kind, value in one.items() if kind != "alt"}
        outputs.append(nbformat.v4.new_output("display_data", data=shown, metadata=alt))
    cell = nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)
    cell["id"] = name
    return cell


def picture(colour: int = 200, alt: str = "What it shows.") -> dict[str, Any]:
    return {"image/png": base64.b64encode(png(colour)).decode(), "text/plain": "Figure", "alt": alt}


def said(text: str) -> dict[str, Any]:
    return {"text/markdown": text, "text/plain": "<Markdown>"}


def write_copy(path: Path, *cells: nbformat.NotebookNode, title: str = "# 3. A title\n\n**Question.** Why?") -> Path:
    """An executed copy as papermill leaves it."""
    notebook = nbformat.v4.new_notebook(cells=[markdown(title, "question"), *cells])
    notebook.metadata["papermill"] = {
        "parameters": {"experiment": "made", "runs_dir": "/somewhere"},
        "end_time": "2026-11-22T22:03:34.975779+00:00",
        "duration": 12.5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
