"""Notebook 02 in batch, with one process and with two."""

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
from toy import TINY, toy_dataset

from interproto_lib.batch import NOTEBOOKS_DIR, run_notebook
from interproto_lib.data.datasets import save_dataset
from interproto_lib.runs import RunFolder


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    """Losses, prototypes, embeddings and accuracies on held-out people, to rounding."""
    experiment = tmp_path / "runs" / "toy"
    save_dataset(toy_dataset(image_size=28, n_heldout=8, n_validation=8), experiment / "dataset")
    common = {
        **TINY,
        "epochs": 2,
        "batch_size": 24,
        "batch_parts": 2,
        "learning_rate": 1e-3,
        "inter_prototype": "child",
    }
    runs, accuracies = [], []
    for processes in (1, 2):
        name = f"toy{processes}-s0"
        places = {"experiment": "toy", "runs_dir": str(tmp_path / "runs"), "run": name}
        parameters = {**common, **places, "processes": processes}
        copy = run_notebook(NOTEBOOKS_DIR / "02_train.ipynb", tmp_path / f"{name}.ipynb", parameters)
        texts = [output.get("text", "") for cell in nbformat.read(copy, 4).cells for output in cell.get("outputs", [])]
        assert f"{name}: finished, 8 steps" in "".join(texts), "the processes' progress is shown"
        runs.append(RunFolder(experiment / name))
        record = json.loads((runs[-1].path / "results" / "held_out.json").read_text())
        assert record["parameters"]["processes"] == runs[-1].summary["processes"] == processes
        accuracies.append({result["name"]: result["value"] for result in record["results"]})
    one, two = runs
    np.testing.assert_allclose(two.metrics()["loss"], one.metrics()["loss"], rtol=2e-5)
    np.testing.assert_allclose(two.prototypes, one.prototypes, atol=2e-6)
    for test in ("C20", "any"):
        scores = [pd.read_parquet(run.path / "scores" / f"{test}.parquet")["cosine"].to_numpy() for run in runs]
        np.testing.assert_allclose(*scores, atol=1e-3)
    assert accuracies[0].keys() == accuracies[1].keys()
    np.testing.assert_allclose(list(accuracies[1].values()), list(accuracies[0].values()), atol=2.0)
