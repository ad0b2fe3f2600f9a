"""The notebook sequence for real: the preset `tiny` and, where it is at hand, a folder of real photographs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from safetensors.numpy import load_file

from interproto_lib.html import remote_loads
from interproto_lib.presets import AGEING_NOTEBOOK, REPORT_NOTEBOOK

REPO = Path(__file__).resolve().parents[1]
# What the preset `tiny` runs: faces are aged where a preset asks for it, and the explorer (08) is for people; both have
# tests of their own.
ELSEWHERE = {AGEING_NOTEBOOK, "08_explore"}
NOTEBOOKS = sorted({path.stem for path in (REPO / "notebooks").glob("*.ipynb")} - ELSEWHERE)
PHOTOGRAPHS = REPO.parent / "shared" / "data" / "att_faces"

pytestmark = pytest.mark.slow


def interproto(*arguments, timeout=600):
    command = [sys.executable, "-m", "interproto_lib.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=timeout)


def reproduce(preset, runs_dir, cores=1):
    call = interproto("reproduce", "--preset", preset, "--runs-dir", runs_dir, "--cores", cores)
    assert call.returncode == 0, call.stdout + call.stderr
    return call.stdout


def outputs(notebook):
    """Texts and pictures of an executed copy, and what it wrote to the error stream."""
    texts, pictures, complaints = [], 0, []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts.append(data.get("text/markdown", ""))
            pictures += "image/png" in data
            if output.output_type == "stream" and output.name == "stderr":
                complaints.append(output.text)
    return "\n".join(texts), pictures, complaints


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("runs")
    return reproduce("tiny", runs_dir, cores=2), runs_dir / "tiny"


def test_the_batch_ends_with_a_report_that_opens_offline(tiny):
    said, folder = tiny
    report = Path(re.search(r"^Report: (.*)$", said, re.MULTILINE).group(1))
    assert report == folder / "report.html"
    assert remote_loads(report.read_text(encoding="utf-8")) == []
    assert report.stat().st_size < 15e6
    assert "accuracy" in said, "the training lines are streamed"


def test_every_notebook_shows_figures_and_complains_of_nothing(tiny):
    _, folder = tiny
    copies = sorted((folder / "notebooks").glob("*.ipynb"))
    assert {path.name.split(".")[0] for path in copies} == set(NOTEBOOKS)
    for copy in copies:
        _, pictures, complaints = outputs(copy)
        assert pictures >= 1 or copy.stem == REPORT_NOTEBOOK, copy.name
        assert complaints == [], copy.name


def test_what_is_told_is_what_was_computed(tiny):
    """The story's numbers, computed again from the saved vectors by the definitions, image pair by image pair."""
    _, folder = tiny
    table = pd.read_csv(folder / "tables" / "00_similarity.csv")
    run = folder / "arcface-s0"
    vectors = load_file(run / "embeddings" / "vectors.safetensors")["vectors"].astype(np.float64)
    manifest = pd.read_parquet(run / "embeddings" / "manifest.parquet")
    children = vectors[(manifest["split"] == "heldout") & (manifest["age_years"] < 13)]
    names = manifest["identity"][(manifest["split"] == "heldout") & (manifest["age_years"] < 13)].to_numpy()
    of_pairs = [
        float((children[names == one] @ children[names == other].T).mean())
        for one in np.unique(names)
        for other in np.unique(names)
        if one != other
    ]
    row = table[(table["method"] == "arcface") & table["measure"].str.contains("child.child, held.?out", regex=True)]
    assert row["value"].item() == pytest.approx(np.mean(of_pairs), abs=1e-6)
    prototypes = load_file(run / "prototypes.safetensors")["prototypes"].astype(np.float64)
    is_child = pd.read_csv(run / "classes.csv")["is_child"].to_numpy()
    unit = prototypes[is_child] / np.linalg.norm(prototypes[is_child], axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(int(is_child.sum()), dtype=bool)]
    row = table[(table["method"] == "arcface") & table["measure"].str.contains("prototypes")]
    assert row["value"].item() == pytest.approx(np.sqrt((cosines**2).mean()), abs=1e-6)


def test_accuracies_are_judged_at_the_epoch_and_threshold_of_validation_people(tiny):
    """Chosen again from the saved scores by trying every epoch and every cut."""
    _, folder = tiny
    told = pd.read_csv(folder / "tables" / "05_accuracies.csv").set_index(["method", "test_set"])["mean"]
    for method in ("arcface", "interproto-sum"):
        scores = folder / f"{method}-s0" / "scores"

        def right_at_every_cut(of_pairs, column):
            values, same = of_pairs[column].to_numpy(dtype=float), of_pairs["same"].to_numpy(dtype=bool)
            each = np.unique(values)
            cuts = np.concatenate([[each[0]], (each[1:] + each[:-1]) / 2, [np.nextafter(each[-1], np.inf)]])
            return cuts, np.array([np.mean((values >= cut) == same) for cut in cuts])

        validation = pd.read_parquet(scores / "validation_C20.parquet")
        epochs = [*sorted(column for column in validation.columns if column.startswith("cosine_")), "cosine"]
        assert len(epochs) == 12
        best = [right_at_every_cut(validation, column)[1].max() for column in epochs]
        column = epochs[max(i for i, accuracy in enumerate(best) if accuracy == max(best))]
        for kind in ("C20", "C30", "child-child"):
            cuts, right = right_at_every_cut(pd.read_parquet(scores / f"validation_{kind}.parquet"), column)
            pairs = pd.read_parquet(scores / f"{kind}.parquet")
            same = pairs["left_identity"] == pairs["right_identity"]
            accuracy = ((pairs[column].astype(float) >= cuts[right.argmax()]) == same).mean()
            assert told[method, kind] == pytest.approx(100 * accuracy, abs=1e-9)


def test_the_tables_of_the_paper_are_there_in_three_forms_with_ours_beside(tiny):
    _, folder = tiny
    for stem in ("05_table1", "05_table2", "05_table4", "06_table3", "07_table5"):
        cells = pd.read_csv(folder / "tables" / f"{stem}.csv")
        ours = cells[(cells["source"] == "ours") & cells["mean"].notna()]
        assert cells.loc[cells["source"] == "published", "mean"].notna().any()
        assert ours.empty == (stem == "05_table2"), "nothing here was trained on MS1MV2"
        assert (folder / "tables" / f"{stem}.md").read_text().count("|") > 20
        assert r"\toprule" in (folder / "tables" / f"{stem}.tex").read_text()


def test_the_trainings_learn(tiny):
    """Far above chance on people they were trained on and on people they never saw."""
    _, folder = tiny
    for run in ("arcface-s0", "interproto-sum-s0"):
        assert json.loads((folder / run / "summary.json").read_text())["accuracy"] > 0.8
        results = json.loads((folder / run / "results" / "held_out.json").read_text())["results"]
        accuracy = {result["name"]: result["value"] for result in results}
        assert set(accuracy) == {f"accuracy/{k}" for k in ("C20", "C30", "adult-adult", "child-child", "any")}
        assert min(accuracy.values()) > 60


@pytest.mark.parametrize(
    ("notebook", "record"),
    [(name, f"results/{name}.json") for name in NOTEBOOKS if name not in ("01_datasets_and_ages", "02_train")]
    + [("02_train", "arcface-s0/results/held_out.json")],
)
def test_records_hold_all_parameters(tiny, notebook, record):
    """All but runs_dir, which is where the record lies; with the software that computed it."""
    _, folder = tiny
    written = json.loads((folder / record).read_text())
    parameters = set(papermill.inspect_notebook(str(REPO / "notebooks" / f"{notebook}.ipynb"))) - {"runs_dir"}
    assert parameters <= set(written["parameters"])
    assert written["environment"]["packages"]["torch"] != "not installed"
    assert written["results"], "there is something to record"


def test_a_second_call_does_nothing_again(tiny):
    _, folder = tiny
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".snakemake" not in path.parts}
    said = reproduce("tiny", folder.parent, cores=2)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".snakemake" not in path.parts}
    changed = [path for path in after if after[path] != before.get(path) and path.is_file() and path.name != ".lock"]
    assert changed == []
    assert "Report: " in said


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_each_notebook_runs_alone_with_plain_papermill(tiny, tmp_path, notebook):
    _, folder = tiny
    unread = () if notebook == REPORT_NOTEBOOK else ("notebooks",)  # the report alone reads executed copies
    shutil.copytree(folder, tmp_path / "tiny", ignore=shutil.ignore_patterns(".snakemake", "report.html", *unread))
    method = ["--method", "arcface", "--seed", "0"] if notebook == "02_train" else []
    preset = interproto("preset", "tiny", notebook, "--runs-dir", tmp_path, *method)
    assert preset.returncode == 0, preset.stderr
    (tmp_path / "parameters.yaml").write_text(preset.stdout)
    call = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(tmp_path / "out.ipynb")),
            *("-f", str(tmp_path / "parameters.yaml"), "--no-progress-bar"),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert call.returncode == 0, call.stderr[-3000:]
    help_text = subprocess.run(
        [sys.executable, "-m", "papermill", "--help-notebook", f"notebooks/{notebook}.ipynb"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert "experiment: str" in help_text
    assert "folder of the experiment" in help_text


@pytest.mark.parametrize(
    ("notebook", "first"),
    [
        ("00_start_here", "01_datasets_and_ages"),
        ("02_train", "01_datasets_and_ages"),
        ("03_similarity", "02_train"),
        ("04_prototype_projection", "02_train"),
        ("05_verification", "02_train"),
        ("06_identification", "02_train"),
        ("07_ablations", "02_train"),
        ("08_explore", "02_train"),
        (REPORT_NOTEBOOK, "02_train"),
        (AGEING_NOTEBOOK, "02_train"),
    ],
)
def test_a_notebook_that_lacks_something_says_what_to_run_first(tmp_path, notebook, first):
    call = interproto(
        *("run-notebook", f"notebooks/{notebook}.ipynb", tmp_path / "out.ipynb"),
        *("-p", "experiment", "nothing-here", "-p", "runs_dir", tmp_path),
    )
    assert call.returncode == 2
    assert f"notebooks/{first}.ipynb" in call.stderr
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"the AT&T faces are not at {PHOTOGRAPHS}")
def test_a_folder_of_photographs_without_ages_runs_through_and_says_so(tmp_path):
    reproduce("att_faces", tmp_path)
    folder = tmp_path / "att_faces"
    manifest = pd.read_parquet(folder / "dataset" / "manifest.parquet")
    assert (len(manifest), manifest["identity"].nunique()) == (400, 40)
    assert manifest["age_years"].isna().all()
    told, _, complaints = outputs(folder / "notebooks" / "00_start_here.ipynb")
    assert complaints == []
    assert "cannot be compared" in told or "no child" in told.lower()
    assert "not drawn" in told, "photographs of people are shown only on request"
    results = json.loads((folder / "arcface-s0" / "results" / "held_out.json").read_text())["results"]
    assert [result["name"] for result in results] == ["accuracy/any"]
    assert results[0]["value"] > 70, "photographs of people never seen in training are verified far above chance"
