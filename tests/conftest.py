"""Settings and helpers that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

# Before any test imports them: one thread each, so that two test processes fit two cores, and no window system.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

REPO = Path(__file__).resolve().parents[1]

# Modules are collected for their doctests. Two of one name cannot be: these hold fixtures, and no examples.
collect_ignore = ["conftest.py", "browser/conftest.py"]

NotebookWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def write_notebook() -> NotebookWriter:
    """A function that writes a notebook: path, source of the parameters cell (or None), sources of the code cells."""
    import nbformat

    def write(path: Path, parameters: str | None, cells: Sequence[str], *, title: str = "# A test") -> Path:
        notebook = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        )
        notebook.cells.append(nbformat.v4.new_markdown_cell(title))
        if parameters is not None:
            notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        notebook.cells.extend(nbformat.v4.new_code_cell(source) for source in cells)
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write
