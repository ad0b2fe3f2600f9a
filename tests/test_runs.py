"""Results and places: written whole, read back equal, named when missing."""

import json

import pandas as pd
import pytest

from interproto_lib.errors import ConfigError, RunError
from interproto_lib.runs import (
    PROJECT_ROOT,
    Result,
    RunFolder,
    environment,
    experiment_folder,
    read_results,
    resolve_runs_dir,
    run_folder,
    table_hash,
    write_results,
)


def test_relative_folders_start_at_the_projects_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_runs_dir("runs") == PROJECT_ROOT / "runs"
    assert resolve_runs_dir(tmp_path) == tmp_path
    assert experiment_folder("demo", tmp_path) == tmp_path / "demo"
    assert (PROJECT_ROOT / "pyproject.toml").is_file()


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "../x"])
def test_names_that_would_leave_the_folder_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="experiment="):
        experiment_folder(name, tmp_path)


def test_results_survive_the_way_through_json(tmp_path):
    results = [
        Result(name="mean", value=0.25, unit="cosine", n=3, n_of="seeds", interval=(0.1, 0.4), confidence=0.95),
        Result(name="none", value=None, unit="percent", n=0, n_of="pairs", runs=("arcface-s0",), note="no child"),
    ]
    path = write_results(tmp_path, "03_similarity", results, parameters={"n_sampled": 200})
    back = read_results(tmp_path, "03_similarity", made_by="03_similarity")
    assert [r.name for r in back] == ["mean", "none"]
    assert [r.value for r in back] == [0.25, None]
    assert [r.interval for r in back] == [(0.1, 0.4), None]
    assert [r.note for r in back] == ["", "no child"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["parameters"] == {"n_sampled": 200}
    assert content["environment"]["packages"]["torch"] != "not installed"
    with pytest.raises(RunError, match=r"Run notebooks/02_train\.ipynb"):
        read_results(tmp_path, "held_out", made_by="02_train")


def test_the_environment_says_what_a_reader_needs():
    stamp = environment()
    assert stamp["python"].count(".") == 2
    assert stamp["time_utc"].endswith("+00:00")
    assert stamp["cpus"] >= 1


def test_a_hash_tells_tables_apart():
    table = pd.DataFrame({"identity": ["김", "b"], "age_years": [1.5, None]})
    assert table_hash(table) == table_hash(table.copy())
    assert table_hash(table) != table_hash(table.assign(age_years=[1.5, 2.0]))
    assert table_hash(table) != table_hash(table.iloc[::-1])


def test_a_damaged_run_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"train": ')
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        _ = RunFolder(tmp_path).config


def test_method_and_seed_are_read_from_the_name(tmp_path):
    assert RunFolder(tmp_path / "interproto-sum-s12").method == "interproto-sum"
    assert RunFolder(tmp_path / "mine").method == "mine"


@pytest.mark.parametrize(
    ("run", "seed", "said"),
    [
        ("../x", 0, "use letters"),
        ("a/b", 0, "use letters"),
        ("", 0, "use letters"),
        ("dataset", 0, r"keeps its dataset under that name.*'arcface-s0'"),
        ("Notebooks", 3, r"keeps its notebooks.*'arcface-s3'"),
        ("cosface-s1", 0, r"says seed 1, but seed=0\. Set seed=1, or run='cosface-s0'"),
        ("cosface-s01", 1, "says seed 01, but seed=1"),
        ("a-s0-s12", 2, "says seed 12"),
    ],
)
def test_a_run_name_that_misleads_is_refused(run, seed, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run_folder(tmp_path, run, seed=seed)


@pytest.mark.parametrize(
    ("run", "seed"), [("cosface-s1", 1), ("mine", 7), ("mine-s", 7), ("datasets", 0), ("a-sum", 2)]
)
def test_a_run_lies_in_its_experiment(run, seed, tmp_path):
    assert run_folder(tmp_path, run, seed=seed) == tmp_path / run
