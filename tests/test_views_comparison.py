"""Runs beside each other: matrices of cohorts, the table over seeds, and what the notebooks say about them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import interproto_lib.views.comparison as comparison
from interproto_lib.analysis.embedding import Embeddings
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.views.ages import describe_child_identities, describe_pair_kinds
from interproto_lib.views.similarity import similarity_figure

NAN = float("nan")
AGES = {"a": [5, 8, 30], "b": [4, 40, 50], "c": [6, 7, 9], "d": [30, 31, NAN]}
HELDOUT = {"x": [3, 30], "y": [4, 40]}


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made(ages=AGES, heldout=HELDOUT, seed=0):
    rows = [
        (name, age, split)
        for part, split in ((ages, "train"), (heldout, "heldout"))
        for name in part
        for age in part[name]
    ]
    table = pd.DataFrame(rows, columns=["identity", "age_years", "split"]).astype({"age_years": float})
    generator = np.random.default_rng(seed)
    vectors = unit(generator.normal(size=(len(table), 8)))
    names = sorted(ages)
    n_child = [sum(age < 13 for age in ages[name]) for name in names]
    classes = pd.DataFrame({"identity": names, "n_child_images": n_child, "is_child": [n >= 2 for n in n_child]})
    prototypes = generator.normal(size=(len(names), 8)).astype(np.float32)
    run = SimpleNamespace(name=f"arcface-s{seed}", seed=seed, classes=classes, prototypes=prototypes)
    return run, Embeddings(vectors, table)


def test_runs_of_one_seed_are_drawn():
    runs = {
        m: [SimpleNamespace(seed=s, name=f"{m}{s}") for s in seeds] for m, seeds in (("a", (0, 1, 2)), ("b", (1, 2)))
    }
    assert {m: run.name for m, run in comparison.runs_of_seed(runs).items()} == {"a": "a1", "b": "b1"}
    assert comparison.runs_of_seed(runs, 2)["a"].name == "a2"
    with pytest.raises(RunError, match="not all methods have seed 0"):
        comparison.runs_of_seed(runs, 0)
    with pytest.raises(RunError, match="no seed is shared"):
        comparison.runs_of_seed({"a": runs["a"][:1], "b": runs["b"]})


def test_cohorts_follow_the_ages():
    _, embeddings = made()
    assert comparison.available_cohorts(embeddings.manifest) == ["child-child", "child-adult", "adult-adult"]
    without = embeddings.manifest.assign(age_years=NAN)
    assert comparison.available_cohorts(without) == ["all"]
    assert "all identities" in comparison.describe_available_cohorts(["all"])
    assert "child–child and adult–adult" in comparison.describe_available_cohorts(["child-child", "adult-adult"])


def test_matrix_of_all_images_against_loops():
    run, embeddings = made()
    order = ["d", "a", "c"]
    matrix = comparison.cohort_matrix(run, embeddings, "all", identities=order)
    vectors, names = embeddings.vectors.astype(np.float64), embeddings.manifest["identity"].to_numpy()
    own = run.prototypes / np.linalg.norm(run.prototypes, axis=1, keepdims=True)
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            pairs = vectors[names == first] @ vectors[names == second].T
            expected = (vectors[names == first] @ own["abcd".index(first)]).mean() if i == j else pairs.mean()
            assert matrix[i, j] == pytest.approx(expected, abs=1e-6)


def test_held_out_people_have_no_prototype():
    run, embeddings = made()
    matrix = comparison.cohort_matrix(run, embeddings, "all", split="heldout")
    assert np.isnan(np.diag(matrix)).all()
    assert np.isfinite(matrix[0, 1])


def test_each_pair_counts_once():
    symmetric = np.array([[9.0, 1, 2], [1, 9, 3], [2, 3, 9]])
    assert list(comparison.different_pairs(symmetric)) == [1, 2, 3]
    run, embeddings = made()
    both = comparison.cohort_matrix(run, embeddings, "child-adult", identities=["a", "b"])
    assert list(comparison.different_pairs(both)) == [both.values[0, 1], both.values[1, 0]]  # noqa: PD011


def test_prototypes_come_in_the_order_asked_for():
    run, _ = made()
    assert np.array_equal(comparison.prototypes_of(run, ["c", "a"]), run.prototypes[[2, 0]])
    with pytest.raises(ConfigError, match="'x' is no class"):
        comparison.prototypes_of(run, ["a", "x"])


def test_child_identities_stand_first():
    run, _ = made()
    assert comparison.identities_child_first(run) == (["a", "c", "b", "d"], 2)
    assert comparison.child_identities(run) == ["a", "c"]
    run.classes["is_child"] = [True, False, False, False]
    assert comparison.child_identities(run) is None


def test_sample_is_seeded_and_no_larger_than_asked():
    run, embeddings = made()
    sample = comparison.choose_identities(run, embeddings.manifest, "all", n=3, seed=1)
    assert len(set(sample)) == 3
    assert sample == comparison.choose_identities(run, embeddings.manifest, "all", n=3, seed=1)
    assert comparison.choose_identities(run, embeddings.manifest, "child-child", n=10) == ["a", "b", "c"]


def test_table_has_every_run_cohort_and_kind(monkeypatch):
    runs = {seed: made(seed=seed) for seed in (0, 1)}
    monkeypatch.setattr(comparison, "load_embeddings", lambda run: runs[run.seed][1])
    table = comparison.similarity_table({"arcface": [run for run, _ in runs.values()]}, threshold=0.2)
    assert len(table) == 2 * (3 + 1 + 3)
    row = table[(table["seed"] == 1) & (table["split"] == "train") & (table["cohort"] == "child-child")]
    run, embeddings = runs[1]
    ages, names = embeddings.manifest["age_years"].to_numpy(), embeddings.manifest["identity"].to_numpy()
    of = {name: embeddings.vectors[(names == name) & (ages < 13)].astype(np.float64) for name in "ac"}
    features = row[row["what"] == "features"].iloc[0]
    assert features["n_pairs"] == 1
    assert features["mean"] == pytest.approx((of["a"] @ of["c"].T).mean(), abs=1e-6)
    first, second = run.prototypes[[0, 2]].astype(np.float64)
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert row[row["what"] == "prototypes"].iloc[0]["mean"] == pytest.approx(cosine, abs=1e-6)
    measures = comparison.similarity_measures_table(table)
    values = measures[measures["seed"] == 1].set_index("measure")["value"]
    assert values["child–child, prototypes (rms)"] == pytest.approx(abs(cosine), abs=1e-6)
    assert values["child–child, train"] == pytest.approx(features["mean"])
    assert "child–adult, held-out" in values.index


def test_table_without_ages_counts_all_images(monkeypatch):
    run, embeddings = made({k: [NAN] * 3 for k in AGES}, {k: [NAN] * 2 for k in HELDOUT})
    monkeypatch.setattr(comparison, "load_embeddings", lambda run: embeddings)
    table = comparison.similarity_table({"arcface": [run]})
    assert list(zip(table["split"], table["cohort"], table["what"], table["n_pairs"], strict=True)) == [
        ("train", "all", "features", 6),
        ("train", "all", "prototypes", 6),
        ("heldout", "all", "features", 1),
    ]


def test_most_similar_pairs_come_first():
    values = np.array([[1.0, 0.1, 0.7], [0.1, 1.0, 0.3], [0.7, 0.3, 1.0]], dtype=np.float32)
    table = comparison.confused_table({"ArcFace": values}, ["a", "b", "c"], top=2)
    assert table[["method", "row_identity", "column_identity"]].to_numpy().tolist() == [
        ["ArcFace", "a", "c"],
        ["ArcFace", "b", "c"],
    ]
    run, embeddings = made()
    matrix = comparison.cohort_matrix(run, embeddings, "child-child")
    best = comparison.confused_table({"ArcFace": matrix}, [], top=1).iloc[0]
    assert best["similarity"] == pytest.approx(np.nanmax(comparison.different_pairs(matrix)))


def test_map_of_an_array_marks_where_children_end():
    values = np.full((4, 4), 0.2, dtype=np.float32)
    axes = similarity_figure([values], ["ArcFace"], n_child_first=2).axes[0]
    assert axes.get_title() == "ArcFace\nall images, mean 0.200"
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1], [2, 2]]
    assert not similarity_figure([values], ["ArcFace"]).axes[0].lines


def test_sentence_on_child_identities():
    classes = pd.DataFrame({"n_child_images": [0, 1, 7, 12]})
    assert "2 of 4 do, 3 have at least one" in describe_child_identities(classes, min_child_images=5)
    assert "needs two" not in describe_child_identities(classes, min_child_images=5)
    assert "needs two" in describe_child_identities(classes, min_child_images=10)


def test_sentence_on_pairs():
    text = describe_pair_kinds({"C20": 3, "any": 1000, "C30": 0})
    assert "allow C20 (3 pairs of one person) and any (1,000 pairs of one person)." in text
    assert text.endswith("They do not allow C30.")
    assert "nothing can be verified" in describe_pair_kinds({"any": 0})
