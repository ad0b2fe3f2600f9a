"""The held-out check: pairs by the run's own rules, accuracies with intervals, a record that names the rules."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from toy import toy_dataset

from interproto_lib.analysis import (
    OFFICIAL_PROCEDURE,
    JudgingRules,
    held_out_check,
    held_out_results,
    held_out_scores,
    judge_run,
    judging_rules,
)
from interproto_lib.analysis.held_out import HELD_OUT_COLUMNS
from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.data import FaceDataset
from interproto_lib.errors import RunError
from interproto_lib.runs import RunFolder, write_results
from interproto_lib.training import train
from interproto_lib.views import describe_held_out

EPOCHS = 3


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(n_identities=8, n_heldout=6, n_validation=5, n_images=6)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A run for which a child is below 8 years, so that of the toy's ages 6, 7, 8 and 33 on one falls out."""
    config = TrainConfig(
        backbone="tiny",
        embedding_dim=8,
        epochs=EPOCHS,
        batch_size=16,
        threads=1,
        device="cpu",
        precision="float32",
        child_below_years=8.0,
    )
    return train(config, dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "arcface-s0")
    return RunFolder(tmp_path / "arcface-s0")


def with_manifest(dataset, **columns):
    manifest = dataset.manifest.assign(**columns)
    return FaceDataset(name="toy", folder=None, manifest=manifest, images=dataset.images, settings={})


def n_pairs(run, dataset, **evaluation):
    tests, _ = held_out_scores(run, dataset, evaluation=EvaluationConfig(**evaluation))
    return {kind: len(scores.pairs) for kind, scores in tests.items()}


def test_without_held_out_people_there_is_nothing_to_check(run, dataset):
    tests, validation = held_out_scores(run, with_manifest(dataset, split="train"))
    assert (tests, validation) == ({}, {})
    table = held_out_check(tests, validation)
    assert table.empty
    assert list(table.columns) == list(HELD_OUT_COLUMNS)
    assert "nothing could be verified" in describe_held_out(table)


def test_without_ages_any_two_images_are_paired(run, dataset):
    unlabelled = with_manifest(dataset, age_years=np.nan)
    assert n_pairs(run, unlabelled) == {"any": 2 * 6 * 15}
    assert "no child-adult pairs" in describe_held_out(held_out_check(*held_out_scores(run, unlabelled)))


def test_who_is_a_child_follows_the_run(run, dataset):
    # 6 held-out people with images at 6, 7, 8 years and 33, 34, 35: below 8 years are two of them
    counts = n_pairs(run, dataset)
    assert counts["child-child"] == 2 * 6 * 1
    assert counts["C20"] == 2 * 6 * 2 * 3
    assert counts["adult-adult"] == 2 * 6 * 3


def test_gaps_follow_the_rules(run, dataset):
    years = {5: 26.0, 4: 26.0, 3: 27.0}  # of a child at 6: 20, 20 and 21 years later
    last = dataset.manifest["path"].str[-5].astype(int)
    changed = with_manifest(
        dataset, age_years=dataset.manifest["age_years"].mask(last.isin(list(years)), last.map(years))
    )
    # children at 6 and 7: 6 -> 26, 26, 27 and 7 -> 27 are 20 years or more; 6 -> 27 alone is more than 20
    assert n_pairs(run, changed)["C20"] == 2 * 6 * 4
    assert n_pairs(run, changed, gap_inclusive=False)["C20"] == 2 * 6 * 1


def test_validation_pairs_are_of_validation_people_and_test_pairs_of_held_out_people(run, dataset):
    split_of = dataset.manifest.set_index("path")["split"]
    for scores, split in zip(held_out_scores(run, dataset), ("heldout", "validation"), strict=True):
        assert {"C20", "child-child", "adult-adult", "any"} <= set(scores)
        for of_kind in scores.values():
            assert set(split_of[of_kind.pairs["left"]]) == set(split_of[of_kind.pairs["right"]]) == {split}


@pytest.mark.parametrize(
    "evaluation",
    [EvaluationConfig(), EvaluationConfig(verification_threshold="ten_fold", epoch_choice="last"), OFFICIAL_PROCEDURE],
)
def test_the_table_holds_what_was_judged_with_an_interval_around_it(run, dataset, evaluation):
    tests, validation = held_out_scores(run, dataset)
    table = held_out_check(tests, validation, evaluation=evaluation).set_index("pairs")
    judged = judge_run(tests, validation, evaluation)
    assert list(table.index) == list(judged)
    for kind, one in judged.items():
        row = table.loc[kind]
        assert row["epoch"] == one.epoch
        assert row["n_pairs"] == len(one.pairs)
        assert row["n_identities"] == 6
        if one.accuracy is None:
            assert np.isnan(row["accuracy_percent"])
            assert row["note"] == one.reason
        else:
            assert row["accuracy_percent"] == pytest.approx(100 * one.accuracy)
            assert row["low_percent"] <= row["accuracy_percent"] <= row["high_percent"]
            assert row["low_percent"] < row["high_percent"] or one.accuracy == 1.0
    assert table["accuracy_percent"].notna().sum() >= 3


def test_the_record_names_the_rules_and_gives_them_back(run, dataset, tmp_path):
    rules = JudgingRules(evaluation=OFFICIAL_PROCEDURE, child_below_years=8.0)
    table = held_out_check(*held_out_scores(run, dataset), evaluation=OFFICIAL_PROCEDURE)
    results = held_out_results(table, run=run.name, rules=rules)
    assert [r.name for r in results] == [f"accuracy/{kind}" for kind in table["pairs"]]
    for result, row in zip(results, table.to_dict("records"), strict=True):
        for said in ("verification_threshold='best_on_test'", "gap_inclusive=True", "child_below_years=8.0"):
            assert said in result.protocol
        assert f"epoch {row['epoch']};" in result.protocol
        assert (result.value is None) == np.isnan(row["accuracy_percent"])
        assert result.value is None or result.interval == (row["low_percent"], row["high_percent"])
    write_results(tmp_path, "held_out", results, parameters={"run": run.name, **rules.to_dict()})
    assert judging_rules(RunFolder(tmp_path)) == rules
    path = tmp_path / "results" / "held_out.json"
    record = json.loads(path.read_text())
    del record["parameters"]["gap_inclusive"]
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"gap_inclusive missing\. Run notebooks/02_train\.ipynb"):
        judging_rules(RunFolder(tmp_path))
