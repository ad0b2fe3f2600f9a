"""Notebooks are committed as sources only: no outputs, no execution counts, nothing that papermill leaves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]


def leftovers(notebook: dict[str, Any]) -> list[str]:
    """What an execution left in a notebook, in words."""
    found = [f"metadata.{key}" for key in ("papermill", "widgets") if key in notebook["metadata"]]
    for number, cell in enumerate(notebook["cells"], 1):
        if cell.get("outputs"):
            found.append(f"cell {number}: outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {number}: execution count")
        found += [f"cell {number}: metadata.{key}" for key in ("papermill", "execution") if key in cell["metadata"]]
        if "injected-parameters" in cell["metadata"].get("tags", []):
            found.append(f"cell {number}: injected parameters")
    return found


def committed_notebooks() -> list[str]:
    call = subprocess.run(["git", "ls-files", "-z", "*.ipynb"], cwd=REPO, capture_output=True, check=True)
    return [name for name in call.stdout.decode().split("\0") if name and (REPO / name).is_file()]


def test_no_committed_notebook_carries_leftovers():
    found = {
        name: problems
        for name in committed_notebooks()
        if (problems := leftovers(json.loads((REPO / name).read_text(encoding="utf-8"))))
    }
    assert found == {}, "run: .venv/bin/python -m nbstripout --keep-id NOTEBOOK"


@pytest.mark.parametrize("name", committed_notebooks())
def test_notebook_has_one_parameters_cell_that_papermill_reads_whole(name):
    import papermill

    notebook = json.loads((REPO / name).read_text(encoding="utf-8"))
    tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = [line for line in "".join(tagged[0]["source"]).splitlines() if line and not line.startswith(("#", "from "))]
    read = papermill.inspect_notebook(str(REPO / name))
    assert len(read) == len(lines)
    for parameter in read.values():
        assert parameter["inferred_type_name"] != "None", f"{parameter['name']}: no type that papermill reads"
        assert parameter["help"], f"{parameter['name']}: no explanation"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}, ["cell 1: outputs"]),
        ({"execution_count": 3}, ["cell 1: execution count"]),
        ({"metadata": {"papermill": {}}}, ["cell 1: metadata.papermill"]),
        ({"metadata": {"tags": ["injected-parameters"]}}, ["cell 1: injected parameters"]),
        ({}, []),
    ],
)
def test_leftovers_are_found(change, expected):
    cell = {"cell_type": "code", "source": "", "outputs": [], "execution_count": None, "metadata": {}, **change}
    assert leftovers({"metadata": {}, "cells": [cell]}) == expected
    assert leftovers({"metadata": {"papermill": {}}, "cells": [cell]}) == ["metadata.papermill", *expected]
