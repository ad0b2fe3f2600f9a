"""Sweeps: what they vary, with whom each method is compared, and every measure against its definition."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from toy import tiny, toy_dataset

from interproto_lib.analysis import (
    ABLATION_COLUMNS,
    Embeddings,
    ablation_differences,
    ablation_results,
    ablation_table,
    paper_sweep,
    save_embeddings,
    sweep_states,
    trained_sweeps,
)
from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.data import class_table
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.files import write_json
from interproto_lib.runs import Result, RunFolder, runs_by_method, write_results

NAN = float("nan")
CHILDREN = ["id000", "id001", "id002", "id003"]


def fake_runs(**settings):
    """Method -> one run of seed 0 with these changes of the settings."""
    return {
        name: [SimpleNamespace(name=f"{name}-s0", seed=0, config=TrainConfig(**changes))]
        for name, changes in settings.items()
    }


def sweep_of(baseline="arcface", **settings):
    return trained_sweeps(fake_runs(**settings), {"x": list(settings)}, baseline=baseline)["x"]


NONE, CHILD, ALL = ({"inter_prototype": scope} for scope in ("none", "child", "all"))
SUM = {**CHILD, "ip_reduction": "sum"}
COSFACE = {"margin_loss": "cosface", "margin": 0.2}


def test_a_weight_is_found_and_the_method_without_it_is_off_the_axis():
    sweep = sweep_of(arcface=NONE, a={**CHILD, "ip_weight": 0.1}, b=CHILD, c={**CHILD, "ip_weight": 10.0})
    assert sweep.setting == "ip_weight"
    assert sweep.positions == {"a": 0.1, "b": 1.0, "c": 10.0}
    assert set(sweep.lines.values()) == {""}
    assert sweep.references == dict.fromkeys("abc", "arcface")


def test_two_reductions_are_two_lines():
    sweep = sweep_of(
        arcface=NONE,
        m1={**CHILD, "ip_weight": 1.0},
        m9={**CHILD, "ip_weight": 9.0},
        s1={**SUM, "ip_weight": 0.01},
        s9={**SUM, "ip_weight": 0.1},
    )
    assert sweep.setting == "ip_weight"
    assert sweep.lines == {
        "m1": "ip_reduction=mean",
        "m9": "ip_reduction=mean",
        "s1": "ip_reduction=sum",
        "s9": "ip_reduction=sum",
    }


def test_each_dimension_has_its_own_reference_without_the_loss():
    sweep = sweep_of(
        arcface=NONE,
        a64={**NONE, "embedding_dim": 64},
        child=CHILD,
        c64={**CHILD, "embedding_dim": 64},
        c32={**CHILD, "embedding_dim": 32},
    )
    assert sweep.setting == "embedding_dim"
    assert sweep.positions == {"arcface": 128, "a64": 64, "child": 128, "c64": 64, "c32": 32}
    assert sweep.lines["a64"] == sweep.lines["arcface"] == "inter_prototype=none"
    assert sweep.references == {"a64": "arcface", "child": "arcface", "c64": "a64", "c32": "arcface"}


def test_the_threshold_of_child_identities_is_found():
    sweep = sweep_of(arcface=NONE, k1={**CHILD, "min_child_images": 1}, k5=CHILD, k8={**CHILD, "min_child_images": 8})
    assert (sweep.setting, sweep.positions) == ("min_child_images", {"k1": 1, "k5": 5, "k8": 8})


def test_losses_and_scopes_have_no_axis():
    scope = sweep_of(arcface=NONE, child=CHILD, every=ALL)
    assert (scope.setting, scope.positions, scope.lines) == (None, {}, {})
    assert scope.references == {"child": "arcface", "every": "arcface"}
    margin = sweep_of(arcface=NONE, child=CHILD, cosface={**NONE, **COSFACE}, both={**CHILD, **COSFACE})
    assert margin.setting is None
    assert margin.references == {"child": "arcface", "cosface": "arcface", "both": "cosface"}
    reduction = sweep_of(arcface=NONE, mean=CHILD, s={**SUM, "ip_weight": 0.01}, s1=SUM)
    assert reduction.setting is None, "one weight of four methods is no axis"


def test_without_the_baseline_the_first_is_the_reference():
    assert sweep_of("elsewhere", child=CHILD, every=ALL).references == {"every": "child"}
    assert sweep_of("every", child=CHILD, every=ALL).references == {"child": "every"}


def test_settings_that_only_say_where_a_training_runs_tell_nothing_apart():
    sweep = sweep_of(a={**NONE, "threads": 1, "ip_weight": 3.0}, b={**NONE, "threads": 2})
    assert sweep.setting is None


def test_a_sweep_that_lacks_runs_is_listed_and_left_out():
    runs = fake_runs(arcface=NONE, child=CHILD)
    sweeps = {"whole": ["arcface", "child"], "part": ["arcface", "every"]}
    states = sweep_states(runs, sweeps, [0])
    assert states.to_dict("list") == {
        "sweep": ["whole", "whole", "part", "part"],
        "method": ["arcface", "child", "arcface", "every"],
        "trained": [["arcface-s0"], ["child-s0"], ["arcface-s0"], []],
        "missing": [[], [], [], ["every-s0"]],
    }
    assert list(trained_sweeps(runs, sweeps, baseline="arcface", seeds=[0])) == ["whole"]
    assert sweep_states(runs, sweeps, [0, 7])["missing"].tolist() == [
        *(["arcface-s7"], ["child-s7"], ["arcface-s7"], ["every-s0", "every-s7"])
    ]
    with pytest.raises(RunError, match=r"'part' lacks 'every-s0'.*02_train\.ipynb with run='every-s0'"):
        trained_sweeps(runs, {"part": sweeps["part"]}, baseline="arcface")
    with pytest.raises(RunError, match="'whole' lacks 'arcface-s7'"):
        trained_sweeps(runs, sweeps, baseline="arcface", seeds=[0, 7])


def test_wrong_sweeps_are_refused():
    runs = fake_runs(arcface=NONE)
    for sweeps, seeds, message in (
        ({}, [], "No sweep is named"),
        ({"a": []}, [], "'a' names no method"),
        ({"a": ["arcface"]}, ["0"], "whole numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            trained_sweeps(runs, sweeps, baseline="arcface", seeds=seeds)


# --- measures ----------------------------------------------------------------------------------------

METHODS = {
    "arcface": {},
    "k3": {"inter_prototype": "child"},
    "k4": {"inter_prototype": "child", "min_child_images": 4},
}


def write_run(folder, method, seed, dataset, *, accuracy):
    """A finished run with drawn prototypes and embeddings, as 02_train leaves it."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng([seed, *method.encode()])
    config = tiny(seed=seed, **METHODS[method])
    path = folder / f"{method}-s{seed}"
    path.mkdir(parents=True)
    write_json(path / "config.json", {"train": config.to_dict(), "dataset": {}})
    write_json(path / "summary.json", {})
    classes = class_table(dataset.manifest, min_child_images=config.min_child_images)
    classes.to_csv(path / "classes.csv", index=False)
    prototypes = rng.normal(size=(len(classes), 6)).astype(np.float32)
    save_file({"prototypes": prototypes}, path / "prototypes.safetensors")
    vectors = rng.normal(size=(len(dataset.manifest), 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    run = RunFolder(path)
    save_embeddings(Embeddings(vectors=vectors, manifest=dataset.manifest), run)
    results = [
        Result(name=f"accuracy/{kind}", value=value, unit="percent", n=20, n_of="pairs")
        for kind, value in {"C20": accuracy, "any": accuracy and accuracy + 10, "C30": None}.items()
    ]
    rules = EvaluationConfig().__dict__ | {"child_below_years": config.child_below_years}
    write_results(path, "held_out", results, parameters=rules)
    return prototypes, vectors


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Three methods and two seeds; one of four child identities has too few child images for the last method."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    dataset = toy_dataset(n_identities=8, n_child=4, n_images=8, n_heldout=3)
    manifest = dataset.manifest
    manifest.loc[(manifest["identity"] == "id003") & (manifest["age_years"] == 6.0), "age_years"] = 40.0
    saved = {
        (method, seed): write_run(folder, method, seed, dataset, accuracy=70.0 + 5 * place + 2 * seed)
        for place, method in enumerate(METHODS)
        for seed in (0, 1)
    }
    return folder, manifest, saved


@pytest.fixture(scope="module")
def table(experiment):
    runs = runs_by_method(experiment[0], "arcface")
    found = trained_sweeps(runs, {"k": list(METHODS), "two": ["arcface", "k4"]}, baseline="arcface", seeds=[0, 1])
    return ablation_table(found, baseline=runs["arcface"][0])


def brute_force(prototypes, vectors, manifest):
    unit = [w.astype(np.float64) / np.linalg.norm(w.astype(np.float64)) for w in prototypes[: len(CHILDREN)]]
    squares = [(unit[i] @ unit[j]) ** 2 for i in range(4) for j in range(i)]
    seen = (manifest["split"] == "heldout") & (manifest["age_years"] < 13)
    of = {name: vectors[(seen & (manifest["identity"] == name)).to_numpy()] for name in manifest["identity"][seen]}
    means = [np.mean([float(a @ b) for a in of[i] for b in of[j]]) for i in of for j in of if i < j]
    return {"child-child, prototypes (rms)": np.sqrt(np.mean(squares)), "child-child, held-out": np.mean(means)}


def test_measures_equal_brute_force_between_the_same_identities(experiment, table):
    _, manifest, saved = experiment
    assert tuple(table.columns) == ABLATION_COLUMNS
    assert len(table) == (3 + 2) * 2 * 4
    for (method, seed), (prototypes, vectors) in saved.items():
        rows = table[(table["sweep"] == "k") & (table["method"] == method) & (table["seed"] == seed)]
        found = rows[rows["unit"] == "cosine"].set_index("measure")["value"].to_dict()
        assert found == pytest.approx(brute_force(prototypes, vectors, manifest), abs=1e-6)
        accuracy = 70.0 + 5 * list(METHODS).index(method) + 2 * seed
        found = rows[rows["unit"] == "percent"].set_index("measure")["value"].to_dict()
        assert found == {"C20": accuracy, "any": accuracy + 10}, "a kind that could not be judged is left out"


def test_the_table_says_where_a_method_stands(table):
    of = table[(table["sweep"] == "k") & (table["measure"] == "C20") & (table["seed"] == 0)].set_index("method")
    assert of["at"].to_dict() == pytest.approx({"arcface": NAN, "k3": 3.0, "k4": 4.0}, nan_ok=True)
    assert of["reference"].to_dict() == {"arcface": "", "k3": "arcface", "k4": "arcface"}
    assert set(of["setting"]) == {"min_child_images"}
    assert set(table.loc[table["sweep"] == "two", "setting"]) == {""}


def test_differences_are_paired_by_seed(table):
    shuffled = table.sample(frac=1, random_state=1)
    differences = ablation_differences(shuffled)
    assert len(differences) == (2 + 1) * 2 * 4
    c20 = differences[(differences["measure"] == "C20") & (differences["sweep"] == "k")]
    c20 = c20.sort_values(["method", "seed"]).reset_index(drop=True)
    assert c20[["method", "seed", "baseline", "treated"]].to_numpy().tolist() == [
        ["k3", 0, 70.0, 75.0],
        ["k3", 1, 72.0, 77.0],
        ["k4", 0, 70.0, 80.0],
        ["k4", 1, 72.0, 82.0],
    ]
    assert set(c20["unit"]) == {"percentage points"}
    assert set(differences.loc[differences["measure"].str.contains("child"), "unit"]) == {"cosine"}


def test_records_name_sweep_measure_and_reference(table):
    results = {result.name: result for result in ablation_results(ablation_differences(table))}
    assert len(results) == 3 * 4
    result = results["k: C20/k4 minus arcface"]
    assert (result.value, result.unit, result.n, result.n_of) == (10.0, "percentage points", 2, "seeds")
    assert result.runs == ["arcface-s0", "k4-s0", "arcface-s1", "k4-s1"]
    assert results["two: C20/k4 minus arcface"].value == 10.0


def test_methods_without_a_common_seed_are_refused(table):
    lonely = table[(table["method"] == "arcface") | (table["seed"] == 1)]
    lonely = lonely[(lonely["method"] != "arcface") | (lonely["seed"] == 0)]
    with pytest.raises(RunError, match="'k3' and 'arcface' share no seed"):
        ablation_differences(lonely)


def test_without_children_all_identities_are_compared(experiment, tmp_path):
    dataset = toy_dataset(n_identities=5, n_child=0, n_images=4, n_heldout=2)
    dataset.manifest["age_years"] = NAN
    prototypes, vectors = write_run(tmp_path, "arcface", 0, dataset, accuracy=60.0)
    runs = runs_by_method(tmp_path, "arcface")
    found = trained_sweeps(runs, {"one": ["arcface"]}, baseline="arcface")
    measured = ablation_table(found, baseline=runs["arcface"][0]).set_index("measure")["value"]
    unit = prototypes.astype(np.float64) / np.linalg.norm(prototypes.astype(np.float64), axis=1, keepdims=True)
    squares = [(unit[i] @ unit[j]) ** 2 for i in range(5) for j in range(i)]
    assert measured["all, prototypes (rms)"] == pytest.approx(np.sqrt(np.mean(squares)), abs=1e-6)
    assert measured["all, held-out"] == pytest.approx(np.mean(vectors[20:24] @ vectors[24:28].T), abs=1e-6)
    table = ablation_table(found, baseline=runs["arcface"][0])
    assert ablation_differences(table).empty
    assert ablation_results(ablation_differences(table)) == []


def test_a_run_without_embeddings_says_what_to_run(experiment, tmp_path):
    dataset = toy_dataset(n_identities=5, n_child=3, n_images=8, n_heldout=2)
    write_run(tmp_path, "arcface", 0, dataset, accuracy=60.0)
    (tmp_path / "arcface-s0" / "embeddings" / "vectors.safetensors").unlink()
    runs = runs_by_method(tmp_path, "arcface")
    with pytest.raises(RunError, match="02_train"):
        ablation_table(trained_sweeps(runs, {"a": ["arcface"]}, baseline="arcface"), baseline=runs["arcface"][0])


def test_runs_without_held_out_people_keep_their_prototypes(tmp_path):
    dataset = toy_dataset(n_identities=5, n_child=3, n_images=8, n_heldout=0)
    for method in ("arcface", "k3"):
        write_run(tmp_path, method, 0, dataset, accuracy=None)
    runs = runs_by_method(tmp_path, "arcface")
    table = ablation_table(
        trained_sweeps(runs, {"a": ["arcface", "k3"]}, baseline="arcface"), baseline=runs["arcface"][0]
    )
    assert set(table["measure"]) == {"child-child, prototypes (rms)"}
    assert len(ablation_results(ablation_differences(table))) == 1
    with pytest.raises(RunError, match="No sweep has all"):
        trained_sweeps(runs, {"a": ["arcface", "k4"]}, baseline="arcface")


def test_tables_of_the_paper_find_their_sweeps():
    every = {"arcface": NONE, "child": CHILD, "every": ALL, "cosface": {**NONE, **COSFACE}}
    every |= {"both": {**CHILD, **COSFACE}, "child_again": {**CHILD, "ip_weight": 2.0}}
    sweeps = {
        "ip_weight": ["arcface", "child", "child_again"],
        "margin": ["arcface", "child", "cosface", "both"],
        "scope": ["arcface", "child", "every"],
    }
    found = trained_sweeps(fake_runs(**every), sweeps, baseline="arcface")
    assert paper_sweep(found, 5) == {
        "arcface": "ArcFace",
        "child": "Inter-Prototype",
        "every": "Inter-Prototype, all identities",
    }
    assert paper_sweep(found, 6) == {
        "arcface": "ArcFace",
        "child": "Inter-Prototype",
        "cosface": "CosFace",
        "both": "Inter-Prototype + CosFace",
    }
    assert paper_sweep({"ip_weight": found["ip_weight"]}, 5) == {}, "one row of the table would stand for two methods"
    with pytest.raises(ConfigError, match="no Table 9"):
        paper_sweep(found, 9)
