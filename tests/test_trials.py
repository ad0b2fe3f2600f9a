"""Methods on the same pairs: means, intervals, who is called best, and that other pairs are not compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from interproto_lib.analysis import (
    OFFICIAL_PROCEDURE,
    PairScores,
    ScoredRun,
    bootstrap_accuracy,
    bootstrap_difference,
    judge_methods,
    operating_points,
    pair_trials,
    procedure_table,
    trial_cells,
    trial_differences,
    trial_results,
)
from interproto_lib.config import EvaluationConfig
from interproto_lib.errors import RunError

TEN_FOLD = EvaluationConfig(verification_threshold="ten_fold", epoch_choice="last")
N_PEOPLE = 40


def pairs(m=400, seed=0):
    rng = np.random.default_rng(seed)
    left = rng.integers(0, N_PEOPLE, m)
    same = np.arange(m) < m // 2
    right = np.where(same, left, (left + rng.integers(1, N_PEOPLE, m)) % N_PEOPLE)
    return pd.DataFrame(
        {
            "left": [f"{i}l" for i in range(m)],
            "right": [f"{i}r" for i in range(m)],
            "left_identity": [f"p{i}" for i in left],
            "right_identity": [f"p{i}" for i in right],
            "left_age_years": 5.0,
            "right_age_years": 40.0,
            "same": same,
        }
    )


def scored(separations, *, test_set="C20", n_epochs=3, of_pairs=None):
    """Runs whose pairs of one person score higher by `separation`; one a seed, all with the same noise a seed."""
    of_pairs = pairs() if of_pairs is None else of_pairs
    runs = []
    for seed, separation in separations.items():
        noise = np.random.default_rng(seed).normal(0, 0.1, (n_epochs, len(of_pairs)))
        cosines = (noise + separation * of_pairs["same"].to_numpy()).astype(np.float32)
        scores = PairScores(
            test_set=test_set, pairs=of_pairs, epochs=tuple(range(1, n_epochs + 1)), cosines=cosines, made_from={}
        )
        runs.append(ScoredRun(run=f"x-s{seed}", seed=seed, tests={test_set: scores}, validation={test_set: scores}))
    return runs


@pytest.fixture(scope="module")
def methods():
    return {
        "arcface": scored({0: 0.20, 1: 0.21, 2: 0.19}),
        "same": scored({0: 0.20, 1: 0.21, 2: 0.19}),
        "better": scored({0: 0.40, 1: 0.41, 2: 0.39}),
    }


@pytest.fixture(scope="module")
def judged(methods):
    return judge_methods(methods, TEN_FOLD)


def test_cells_hold_mean_spread_and_interval_of_what_was_judged(judged):
    cells = trial_cells(pair_trials(judged)).set_index("method")
    for method, runs in judged.items():
        correct = np.stack([run.judgements["C20"].correct for run in runs])
        accuracies = 100 * correct.mean(axis=1)
        row = cells.loc[method]
        assert row["mean"] == pytest.approx(np.mean(accuracies))
        assert row["std"] == pytest.approx(np.std(accuracies, ddof=1))
        of = pairs()
        interval = bootstrap_accuracy(correct, of["same"], of["left_identity"], of["right_identity"])
        assert (row["low"], row["high"]) == pytest.approx((100 * interval.low, 100 * interval.high))
        assert (row["n_seeds"], row["n_pairs"], row["n_identities"]) == (3, 400, N_PEOPLE)


def test_only_a_method_that_beats_every_other_beyond_chance_is_bold(judged):
    bold = trial_cells(pair_trials(judged)).set_index("method")["bold"]
    assert bold.to_dict() == {"arcface": False, "same": False, "better": True}
    equal = {method: judged[method] for method in ("arcface", "same")}
    assert not trial_cells(pair_trials(equal))["bold"].any(), "two equal methods have no winner"
    alone = {"better": judged["better"]}
    assert not trial_cells(pair_trials(alone))["bold"].any(), "one method has won nothing"


def test_differences_are_paired_by_seed_and_pair(judged):
    table = trial_differences(pair_trials(judged), "arcface").set_index("method")
    assert list(table.index) == ["same", "better"]
    assert table.loc["same", ["difference", "low", "high"]].tolist() == [0.0, 0.0, 0.0]
    assert table.loc["same", "p_value"] == 1.0
    of, row = pairs(), table.loc["better"]
    before, after = (np.stack([r.judgements["C20"].correct for r in judged[m]]) for m in ("arcface", "better"))
    expected = bootstrap_difference(before, after, of["same"], of["left_identity"], of["right_identity"])
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        (100 * expected.estimate, 100 * expected.low, 100 * expected.high)
    )
    assert row["low"] > 0
    assert row["p_value"] < 0.01
    assert row["seed_low"] < row["difference"] < row["seed_high"]
    one_seed = {method: runs[:1] for method, runs in judged.items()}
    assert np.isnan(trial_differences(pair_trials(one_seed), "arcface")["seed_low"]).all()


def test_the_seeds_that_both_have_are_compared_and_no_others(methods):
    runs = judge_methods({"arcface": methods["arcface"], "better": methods["better"][1:]}, TEN_FOLD)
    table = trial_differences(pair_trials(runs), "arcface")
    accuracy = {m: {r.seed: r.judgements["C20"].accuracy for r in of} for m, of in runs.items()}
    expected = 100 * np.mean([accuracy["better"][seed] - accuracy["arcface"][seed] for seed in (1, 2)])
    assert table["difference"].item() == pytest.approx(expected)
    assert table["n_seeds"].item() == 2
    apart = judge_methods({"arcface": methods["arcface"][:1], "better": methods["better"][1:]}, TEN_FOLD)
    with pytest.raises(RunError, match="no seed in common"):
        trial_differences(pair_trials(apart), "arcface")


def test_runs_scored_on_different_pairs_are_not_compared(methods):
    swapped = pairs().iloc[::-1].reset_index(drop=True)
    other = scored({0: 0.2}, of_pairs=swapped)
    with pytest.raises(RunError, match="different pairs of 'C20'"):
        pair_trials(judge_methods({"arcface": methods["arcface"], "other": other}, TEN_FOLD))


def test_what_cannot_be_judged_is_an_empty_cell_with_its_reason(methods):
    few = pairs().iloc[195:].reset_index(drop=True)  # five pairs of one person
    runs = judge_methods({"arcface": scored({0: 0.2}, of_pairs=few), "b": scored({0: 0.4}, of_pairs=few)}, TEN_FOLD)
    trials = pair_trials(runs)
    cells = trial_cells(trials)
    assert cells["mean"].isna().all()
    assert cells["note"].str.contains("5 test pairs").all()
    assert trial_differences(trials, "arcface").empty
    runs_of = {method: [SimpleNamespace(name=f"{method}-s0")] for method in ("arcface", "b")}
    records = trial_results(
        "accuracy",
        cells,
        trial_differences(trials, "arcface"),
        runs_of,
        baseline="arcface",
        n_of="pairs",
        protocols={"C20": "p"},
    )
    assert [(r.value, r.interval) for r in records] == [(None, None)] * 2
    assert all("5 test pairs" in r.note for r in records)


def test_unknown_people_are_resampled_pair_by_pair_and_counted_as_none():
    unknown = pairs().assign(left_identity=None, right_identity=None)
    runs = judge_methods({"arcface": scored({0: 0.2}, of_pairs=unknown)}, TEN_FOLD)
    (trials,) = pair_trials(runs)
    assert trials.n_identities == 0
    assert len(set(trials.clusters)) == len(unknown), "each pair is a cluster of its own"
    cell = trial_cells([trials]).iloc[0]
    assert cell["low"] < cell["mean"] < cell["high"]


def test_records_name_what_when_and_how_many(judged):
    trials = pair_trials(judged)
    cells, differences = trial_cells(trials), trial_differences(trials, "arcface")
    runs_of = {method: [SimpleNamespace(name=f"{method}-s{seed}") for seed in range(3)] for method in judged}
    records = trial_results(
        "accuracy", cells, differences, runs_of, baseline="arcface", n_of="pairs", protocols={"C20": "rules"}
    )
    assert [r.name for r in records] == [
        *(f"accuracy/C20/{method}" for method in judged),
        *(f"accuracy/C20/{method} minus arcface" for method in ("same", "better")),
    ]
    assert records[-1].unit == "percentage points"
    assert records[-1].runs == [f"{m}-s{s}" for m in ("arcface", "better") for s in range(3)]
    assert all(r.n == 400 and r.interval and r.confidence == 0.95 and r.protocol == "rules" for r in records)


def test_operating_points_agree_with_scikit_learn(judged):
    table = operating_points(judged).set_index(["method", "measure"])
    same = pairs()["same"].to_numpy()
    for method, runs in judged.items():
        scores = [run.judgements["C20"].scores for run in runs]
        assert table.loc[(method, "AUC"), "mean"] == pytest.approx(
            100 * np.mean([roc_auc_score(same, one) for one in scores])
        )
        tars = []
        for one in scores:
            far, tar, _ = sklearn_roc(same, one, drop_intermediate=False)
            tars.append(100 * tar[far <= 0.01].max())
        assert table.loc[(method, "TAR@FAR=0.01"), "mean"] == pytest.approx(np.mean(tars))
        assert np.isnan(table.loc[(method, "TAR@FAR=0.001"), "mean"]), "200 negatives do not resolve 1 in 1,000"
        assert "too few" in table.loc[(method, "TAR@FAR=0.001"), "note"]


def test_the_optimism_of_the_official_procedure_is_visible(methods):
    procedures = {"ten folds": TEN_FOLD, "official": OFFICIAL_PROCEDURE}
    table = procedure_table(methods, procedures).pivot_table("mean", "method", "procedure")
    assert (table["official"] >= table["ten folds"]).all()
    assert (table["official"] > table["ten folds"]).any()
