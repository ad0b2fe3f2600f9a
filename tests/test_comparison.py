"""Comparison of runs: who is compared with whom, the same measures for all runs and notebooks, pairing by seed."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from toy import tiny, toy_dataset

from interproto_lib.analysis import (
    Embeddings,
    JudgingRules,
    available_cohorts,
    child_identities,
    choose_identities,
    cohort_matrix,
    common_rules,
    comparison_results,
    confused_table,
    different_pairs,
    embed_dataset,
    gap_results,
    held_out_accuracies,
    held_out_check,
    held_out_results,
    held_out_scores,
    identities_child_first,
    load_embeddings,
    of_seeds,
    paired_with_baseline,
    prototype_feature_gaps,
    prototype_pairs,
    prototypes_of,
    runs_of_seed,
    save_embeddings,
    similarity_measures,
    similarity_table,
    two_side_by_side,
)
from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.data import save_dataset
from interproto_lib.errors import ConfigError, DatasetError, RunError
from interproto_lib.runs import Result, runs_by_method, write_results
from interproto_lib.training import train

NAN = float("nan")
METHODS = {"arcface": "none", "interproto-sum": "child"}
MIN_CHILD_IMAGES = 3


def toy_with_all_kinds_of_identities():
    """Three child identities, one with too few child images, adults, unlabelled images; three held-out people."""
    dataset = toy_dataset(n_identities=8, n_child=4, n_images=6, n_heldout=3, n_validation=3)
    manifest = dataset.manifest
    manifest.loc[(manifest["identity"] == "id003") & (manifest["age_years"] > 6), "age_years"] = 40.0
    manifest.loc[manifest["path"].isin(["id000/5.png", "id005/0.png"]), "age_years"] = NAN
    return dataset


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment as notebooks 01 and 02 leave it: two methods, two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    dataset = save_dataset(toy_with_all_kinds_of_identities(), folder / "dataset")
    for method, scope in METHODS.items():
        for seed in (0, 1):
            config = TrainConfig(
                backbone="tiny",
                embedding_dim=8,
                epochs=2,
                batch_size=16,
                threads=1,
                device="cpu",
                precision="float32",
                seed=seed,
                inter_prototype=scope,
                min_child_images=MIN_CHILD_IMAGES,
            )
            run = train(config, dataset, folder / f"{method}-s{seed}", progress="none")
            embeddings = embed_dataset(run, dataset)
            save_embeddings(embeddings, run)
            rules = JudgingRules(evaluation=EvaluationConfig(), child_below_years=config.child_below_years)
            table = held_out_check(*held_out_scores(run, dataset))
            results = held_out_results(table, run=run.name, rules=rules)
            write_results(run.path, "held_out", results, parameters=rules.to_dict())
    return folder


@pytest.fixture(scope="module")
def runs(experiment):
    return runs_by_method(experiment, "arcface")


def brute_force(run):
    """Every measure from its definition, image pair by image pair, in float64."""
    embeddings = load_embeddings(run)
    vectors, table = embeddings.vectors.astype(np.float64), embeddings.manifest
    groups = {"child": table["age_years"] < 13, "adult": table["age_years"] >= 13}
    children = ["id000", "id001", "id002"]  # by hand: id003 has one child image, three are needed

    def mean(rows, columns, split, both_orders):
        of = {
            name: [vectors[(groups[side] & (table["identity"] == name)).to_numpy()] for side in (rows, columns)]
            for name in sorted(set(table.loc[table["split"] == split, "identity"]))
            if split == "heldout" or "child" not in (rows, columns) or name in children
        }
        pairs = [(i, j) for i in of for j in of if (i != j if both_orders else i < j)]
        return np.mean([np.mean([a @ b for a in of[i][0] for b in of[j][1]]) for i, j in pairs])

    measures = {
        f"{rows}-{columns}, {words}": mean(rows, columns, split, rows != columns)
        for split, words in (("train", "train"), ("heldout", "held-out"))
        for rows, columns in (("child", "child"), ("child", "adult"), ("adult", "adult"))
    }
    unit = [w / np.linalg.norm(w) for w in run.prototypes[:3].astype(np.float64)]
    squares = [(unit[i] @ unit[j]) ** 2 for i in range(3) for j in range(i)]
    return measures | {"child-child, prototypes (rms)": np.sqrt(np.mean(squares))}


def test_measures_equal_brute_force_for_every_run(runs):
    measures = similarity_measures(similarity_table(runs))
    for method, of_method in runs.items():
        for run in of_method:
            rows = measures[(measures["method"] == method) & (measures["seed"] == run.seed)]
            assert rows.set_index("measure")["value"].to_dict() == pytest.approx(brute_force(run), abs=1e-6)
    assert len(measures) == 4 * 7


def run_cells(name, cells, repo, **parameters):
    """Execute some cells of a notebook, by their id, in this process."""
    notebook = json.loads((repo / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    sources = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"]}
    space: dict[str, object] = {}
    exec(sources["parameters"], space)
    space.update(parameters)
    for cell in cells:
        exec(sources[cell], space)
    return space


def test_notebooks_00_and_03_show_the_same_numbers(experiment, repo):
    parameters = {"experiment": "toy", "runs_dir": str(experiment.parent)}
    start = run_cells("00_start_here", ["load", "similarity-paired"], repo, **parameters)
    detail = run_cells(
        "03_similarity", ["settings", "fig2-said", "whole", "fig4", "table", "paired"], repo, **parameters
    )
    pd.testing.assert_frame_equal(start["paired_similarities"], detail["paired"])
    pd.testing.assert_frame_equal(start["shown"], detail["shown_pairs"])
    assert start["shown"]["measure"].iloc[0] == "child–child, train"
    measured = start["similarities"]
    of_baseline = measured[(measured["method"] == "arcface") & (measured["seed"] == 0)].set_index("measure")["value"]
    summarise = detail["summarise_similarity"]
    for cohort in ("child-child", "child-adult", "adult-adult"):
        shown = of_baseline[f"{cohort}, train"]
        assert detail["of_cohorts"][cohort].mean == pytest.approx(shown, abs=1e-7), "Fig. 2"
        if cohort in detail["after"]:
            assert summarise(detail["after"][cohort]["arcface"]).mean == pytest.approx(shown, abs=1e-7), "Fig. 4"


def test_values_are_paired_by_seed_and_not_by_place():
    rows = [
        ("C20", "a", 0, 80.0),
        ("C20", "a", 1, 70.0),
        ("C20", "a", 2, 60.0),
        ("C20", "b", 2, 61.0),
        ("C20", "b", 1, 73.0),
    ]
    table = pd.DataFrame(rows, columns=["measure", "method", "seed", "value"])
    paired = paired_with_baseline(table, "a").set_index("seed")
    assert paired[["baseline", "treated"]].to_dict("index") == {
        2: {"baseline": 60.0, "treated": 61.0},
        1: {"baseline": 70.0, "treated": 73.0},
    }
    with pytest.raises(RunError, match="'b' and 'a' have no seed in common"):
        paired_with_baseline(table.replace({"seed": {1: 5, 2: 6}}).drop(index=[1, 2]), "a")
    assert paired_with_baseline(table[table["method"] == "a"], "a").empty


def test_results_record_mean_interval_and_runs():
    table = pd.DataFrame(
        {
            "measure": ["C20", "C20", "C30"],
            "method": "ip",
            "seed": [0, 1, 0],
            "baseline": [80.0, 81.0, 70.0],
            "treated": [81.0, 83.0, 69.0],
        }
    )
    first, second = comparison_results({"percentage points": table}, baseline="arcface")
    assert (first.name, first.value, first.unit) == ("C20/ip minus arcface", 1.5, "percentage points")
    half = 12.706205 * np.std([1.0, 2.0], ddof=1) / np.sqrt(2)  # t quantile 0.975 with 1 degree of freedom
    assert first.interval == pytest.approx((1.5 - half, 1.5 + half), rel=1e-6)
    assert (first.n, first.n_of, first.confidence) == (2, "seeds", 0.95)
    assert first.runs == ["arcface-s0", "ip-s0", "arcface-s1", "ip-s1"]
    assert (second.value, second.interval, second.confidence) == (-1.0, None, None)
    assert "no interval" in second.note
    assert comparison_results({"cosine": table.iloc[:0]}, baseline="arcface") == []


def test_held_out_accuracies_are_those_recorded(runs):
    table = held_out_accuracies(runs)
    assert set(table["method"]) == set(METHODS)
    assert (table.groupby(["method", "seed"]).size() == table["measure"].nunique()).all()
    recorded = json.loads((runs["arcface"][1].path / "results" / "held_out.json").read_text())["results"]
    rows = table[(table["method"] == "arcface") & (table["seed"] == 1)].set_index("measure")["value"]
    wanted = {r["name"].split("/")[1]: r["value"] for r in recorded if r["value"] is not None}
    assert rows.to_dict() == wanted
    with pytest.raises(RunError, match="02_train"):
        held_out_accuracies({"arcface": [SimpleNamespace(path=runs["arcface"][0].path.parent)]})


def judged(folder, method, **parameters):
    """A run of which only the record of the held-out check is there."""
    run = SimpleNamespace(name=f"{method}-s0", seed=0, path=folder / f"{method}-s0")
    parameters = {**asdict(EvaluationConfig()), "child_below_years": 13.0, **parameters}
    result = Result(name="accuracy/C20", value=80.0, unit="percent", n=10, n_of="pairs")
    write_results(run.path, "held_out", [result], parameters={k: v for k, v in parameters.items() if v is not None})
    return {method: [run]}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"gap_inclusive": False}, "a-s0 by gap_inclusive=True, b-s0 by gap_inclusive=False"),
        ({"epoch_choice": "best_on_test"}, "a-s0 by epoch_choice='validation', b-s0 by epoch_choice='best_on_test'"),
        ({"child_below_years": 16.0}, r"a-s0 by child_below_years=13\.0, b-s0 by child_below_years=16\.0"),
    ],
)
def test_runs_judged_by_different_rules_are_not_compared(tmp_path, other, message):
    runs = judged(tmp_path, "a") | judged(tmp_path, "b")
    assert common_rules(runs) == JudgingRules(evaluation=EvaluationConfig(), child_below_years=13.0)
    assert list(held_out_accuracies(runs)["value"]) == [80.0, 80.0]
    runs |= judged(tmp_path, "b", **other)
    with pytest.raises(RunError, match=message):
        held_out_accuracies(runs)


def test_a_record_without_rules_says_what_to_run(tmp_path):
    with pytest.raises(RunError, match=r"epoch_choice missing.*02_train\.ipynb for run 'a-s0' again"):
        common_rules(judged(tmp_path, "a", epoch_choice=None))


def test_runs_of_some_seeds_are_kept():
    runs = {m: [SimpleNamespace(seed=s) for s in seeds] for m, seeds in (("a", (0, 1, 2)), ("b", (1, 2)))}
    assert {m: [run.seed for run in of] for m, of in of_seeds(runs).items()} == {"a": [0, 1, 2], "b": [1, 2]}
    assert {m: [run.seed for run in of] for m, of in of_seeds(runs, [2, 1]).items()} == {"a": [1, 2], "b": [1, 2]}
    with pytest.raises(RunError, match=r"'b' has no finished run of seed 0, only of 1, 2\. .* run='b-s0' and seed=0"):
        of_seeds(runs, [0, 1])
    with pytest.raises(ConfigError, match="whole numbers, '1' is none"):
        of_seeds(runs, ["1"])


def test_gap_of_prototypes_and_features_against_loops(runs):
    gaps = prototype_feature_gaps(runs, cohort="child-child")
    assert [(row.method, row.seed) for row in gaps.itertuples()] == [(m, s) for m in METHODS for s in (0, 1)]
    for row, run in zip(gaps.itertuples(), (run for of in runs.values() for run in of), strict=True):
        embeddings = load_embeddings(run)
        vectors, table = embeddings.vectors.astype(np.float64), embeddings.manifest
        unit = [w / np.linalg.norm(w) for w in run.prototypes[:3].astype(np.float64)]
        of = [vectors[((table["identity"] == f"id00{i}") & (table["age_years"] < 13)).to_numpy()] for i in range(3)]
        pairs = [(unit[i] @ unit[j], (of[i] @ of[j].T).mean()) for i, j in ((0, 1), (0, 2), (1, 2))]
        differences = [prototype - feature for prototype, feature in pairs]
        assert row.n_pairs == 3
        assert row.gap_mean == pytest.approx(np.mean(differences), abs=1e-6)
        assert row.gap_rms == pytest.approx(np.sqrt(np.mean(np.square(differences))), abs=1e-6)
        assert row.correlation == pytest.approx(np.corrcoef(np.transpose(pairs))[0, 1], abs=1e-4)
    results = {result.name: result for result in gap_results(gaps)}
    assert len(results) == 2 * 3
    of_baseline = results["prototype-feature gap_mean/arcface"]
    assert of_baseline.value == pytest.approx(gaps["gap_mean"][:2].mean())
    assert (of_baseline.n, of_baseline.runs) == (2, ["arcface-s0", "arcface-s1"])
    unknown = gap_results(gaps.assign(correlation=NAN))[2]
    assert (unknown.value, unknown.n) == (None, 0)
    assert "nothing correlates" in unknown.note


def test_runs_of_one_seed_are_drawn():
    runs = {
        m: [SimpleNamespace(seed=s, name=f"{m}{s}") for s in seeds] for m, seeds in (("a", (0, 1, 2)), ("b", (1, 2)))
    }
    assert {m: run.name for m, run in runs_of_seed(runs).items()} == {"a": "a1", "b": "b1"}
    assert runs_of_seed(runs, 2)["a"].name == "a2"
    with pytest.raises(RunError, match="not all methods have seed 0"):
        runs_of_seed(runs, 0)
    with pytest.raises(RunError, match="no seed is shared"):
        runs_of_seed({"a": runs["a"][:1], "b": runs["b"]})


def test_two_methods_side_by_side_differ_in_the_loss_where_any_do():
    def method(**settings):
        return [SimpleNamespace(config=tiny(**settings))]

    plain = method(inter_prototype="none")
    others = {
        "cosface": method(inter_prototype="none", margin_loss="cosface"),
        "on-all": method(inter_prototype="all", seed=3, threads=2),
        "sum": method(inter_prototype="child", ip_reduction="sum"),
        "mean": method(inter_prototype="child", ip_reduction="mean"),
    }
    assert list(two_side_by_side({"arcface": plain, **others})) == ["arcface", "sum"]
    assert list(two_side_by_side({"arcface": plain, "cosface": others["cosface"], "on-all": others["on-all"]})) == [
        "arcface",
        "on-all",
    ]
    assert list(two_side_by_side({"arcface": plain, "cosface": others["cosface"]})) == ["arcface", "cosface"]
    assert list(two_side_by_side({"arcface": plain})) == ["arcface"]


AGES = {"a": [5, 8, 30], "b": [4, 40, 50], "c": [6, 7, 9], "d": [30, 31, NAN]}
HELDOUT = {"x": [3, 30], "y": [4, 40]}


def made(ages=AGES, heldout=HELDOUT, *, min_child_images=2, child_below_years=13.0):
    """A run of random vectors: of the training identities a and c are child identities, b has one child image."""
    rows = [
        (name, age, split)
        for part, split in ((ages, "train"), (heldout, "heldout"))
        for name in part
        for age in part[name]
    ]
    table = pd.DataFrame(rows, columns=["identity", "age_years", "split"]).astype({"age_years": float})
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(len(table), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = sorted(ages)
    n_child = [sum(age < child_below_years for age in ages[name]) for name in names]
    classes = pd.DataFrame({"identity": names, "is_child": [n >= min_child_images for n in n_child]})
    prototypes = generator.normal(size=(len(names), 8)).astype(np.float32)
    config = SimpleNamespace(min_child_images=min_child_images, child_below_years=child_below_years)
    run = SimpleNamespace(name="arcface-s0", seed=0, classes=classes, prototypes=prototypes, config=config)
    return run, Embeddings(vectors.astype(np.float32), table)


def test_cohorts_need_two_child_identities_in_training_and_child_images_elsewhere():
    run, embeddings = made()
    # c has no adult image, so child-adult has only a on both sides
    assert available_cohorts(run, embeddings.manifest) == ["child-child", "adult-adult"]
    assert available_cohorts(run, embeddings.manifest, split="heldout") == ["child-child", "child-adult", "adult-adult"]
    strict, _ = made(min_child_images=3)  # only c is left, though a and b have child images too
    assert available_cohorts(strict, embeddings.manifest) == ["all"]
    assert available_cohorts(strict, embeddings.manifest, split="heldout")[0] == "child-child"
    assert available_cohorts(run, embeddings.manifest.assign(age_years=NAN)) == ["all"]


def test_matrix_of_children_is_of_the_runs_child_identities():
    run, embeddings = made()
    assert list(cohort_matrix(run, embeddings, "child-child").row_identities) == ["a", "c"]
    assert list(cohort_matrix(run, embeddings, "adult-adult").row_identities) == ["a", "b", "d"]
    assert list(cohort_matrix(run, embeddings, "child-child", split="heldout").row_identities) == ["x", "y"]
    named = cohort_matrix(run, embeddings, "child-child", identities=["b", "a"])
    assert list(named.row_identities) == ["b", "a"]
    none, _ = made(min_child_images=9)
    with pytest.raises(DatasetError, match=r"no child identity \(min_child_images=9\)"):
        cohort_matrix(none, embeddings, "child-child")
    with pytest.raises(ConfigError, match="unknown cohort 'old'"):
        cohort_matrix(run, embeddings, "old")


def test_who_is_a_child_follows_the_run():
    ages = {"a": [5, 8, 30], "b": [14, 15, 50], "c": [6, 7, 15]}
    run, embeddings = made(ages, {"x": [14, 30], "y": [15, 40]}, child_below_years=16.0)
    usual, _ = made(ages, {"x": [14, 30], "y": [15, 40]})
    assert available_cohorts(run, embeddings.manifest, split="heldout")[0] == "child-child"
    assert available_cohorts(usual, embeddings.manifest, split="heldout") == ["all"]
    assert list(cohort_matrix(run, embeddings, "child-child").row_identities) == ["a", "b", "c"]
    assert list(cohort_matrix(run, embeddings, "child-child").n_row_images) == [2, 2, 3]
    assert list(cohort_matrix(usual, embeddings, "child-child").n_row_images) == [2, 2]
    assert choose_identities(run, embeddings.manifest, "adult-adult", n=9) == ["a", "b"]
    assert choose_identities(usual, embeddings.manifest, "adult-adult", n=9) == ["a", "b", "c"]
    assert choose_identities(run, embeddings.manifest, "child-child", n=9) == ["a", "b", "c"]


def test_matrix_of_all_images_against_loops():
    run, embeddings = made()
    order = ["d", "a", "c"]
    matrix = cohort_matrix(run, embeddings, "all", identities=order)
    shown = matrix.with_diagonal()
    vectors, names = embeddings.vectors.astype(np.float64), embeddings.manifest["identity"].to_numpy()
    own = run.prototypes / np.linalg.norm(run.prototypes, axis=1, keepdims=True)
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            pairs = vectors[names == first] @ vectors[names == second].T
            expected = (vectors[names == first] @ own["abcd".index(first)]).mean() if i == j else pairs.mean()
            assert shown[i, j] == pytest.approx(expected, abs=1e-6)
    assert list(cohort_matrix(run, embeddings, "all").row_identities) == list("abcd")
    held_out = cohort_matrix(run, embeddings, "all", split="heldout")
    assert np.isnan(held_out.intra).all(), "held-out people have no prototype"
    assert list(held_out.row_identities) == ["x", "y"]


def test_each_pair_counts_once_and_prototypes_come_in_the_same_order():
    run, embeddings = made()
    units = run.prototypes / np.linalg.norm(run.prototypes, axis=1, keepdims=True)
    matrix = cohort_matrix(run, embeddings, "all")
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    values = matrix.values  # noqa: PD011
    assert list(different_pairs(matrix)) == [values[i, j] for i, j in pairs]
    assert prototype_pairs(run, matrix) == pytest.approx([units[i] @ units[j] for i, j in pairs], abs=1e-6)
    both = cohort_matrix(run, embeddings, "child-adult", identities=["b", "a"])
    values = both.values  # noqa: PD011
    assert list(different_pairs(both)) == [values[0, 1], values[1, 0]]
    assert prototype_pairs(run, both) == pytest.approx([units[0] @ units[1]] * 2, abs=1e-6)


def test_prototypes_come_in_the_order_asked_for():
    run, _ = made()
    assert np.array_equal(prototypes_of(run, ["c", "a"]), run.prototypes[[2, 0]])
    with pytest.raises(ConfigError, match="'x': they have no prototype"):
        prototypes_of(run, ["a", "x"])


def test_child_identities_stand_first():
    run, _ = made()
    assert identities_child_first(run) == (["a", "c", "b", "d"], 2)
    assert child_identities(run) == ["a", "c"]
    assert child_identities(made(min_child_images=9)[0]) == []


def test_sample_is_seeded_no_larger_than_asked_and_of_child_identities():
    run, embeddings = made()
    sample = choose_identities(run, embeddings.manifest, "all", n=3, seed=1)
    assert len(set(sample)) == 3
    assert sample == choose_identities(run, embeddings.manifest, "all", n=3, seed=1)
    assert choose_identities(run, embeddings.manifest, "child-child", n=10) == ["a", "c"]
    assert choose_identities(run, embeddings.manifest, "adult-adult", n=10) == ["a", "b", "d"]
    with pytest.raises(DatasetError, match="child-child"):
        choose_identities(made(min_child_images=9)[0], embeddings.manifest, "child-child", n=3)


def test_table_without_ages_counts_all_images(monkeypatch):
    run, embeddings = made({k: [NAN] * 3 for k in AGES}, {k: [NAN] * 2 for k in HELDOUT})
    monkeypatch.setattr("interproto_lib.analysis.comparison.load_embeddings", lambda run: embeddings)
    table = similarity_table({"arcface": [run]})
    assert list(zip(table["split"], table["cohort"], table["what"], table["n_pairs"], strict=True)) == [
        ("train", "all", "features", 6),
        ("train", "all", "prototypes", 6),
        ("heldout", "all", "features", 1),
    ]
    assert list(similarity_measures(table)["measure"]) == ["all, train", "all, prototypes (rms)", "all, held-out"]


def test_most_similar_pairs_come_first():
    run, embeddings = made()
    matrix = cohort_matrix(run, embeddings, "all")
    table = confused_table({"ArcFace": matrix, "IP": matrix}, top=2)
    assert list(table["method"]) == ["ArcFace", "ArcFace", "IP", "IP"]
    assert table["similarity"][:2].tolist() == sorted(different_pairs(matrix), reverse=True)[:2]
    best = table.iloc[0]
    i, j = (list(matrix.row_identities).index(best[name]) for name in ("row_identity", "column_identity"))
    assert matrix.values[i, j] == best["similarity"]  # noqa: PD011
