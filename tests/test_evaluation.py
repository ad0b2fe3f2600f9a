"""Judging by scores: thresholds and epochs come from where the rules say, and the official way never looks worse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import OFFICIAL_PROCEDURE, PairScores, chosen_epoch, judge_run
from interproto_lib.config import EvaluationConfig
from interproto_lib.errors import RunError

VALIDATION = EvaluationConfig()
TEN_FOLD = EvaluationConfig(verification_threshold="ten_fold", epoch_choice="last")


def scores(same, cosines, *, name="C20", epochs=None):
    """Scores as of a run: `cosines` (epochs, pairs)."""
    cosines = np.atleast_2d(np.asarray(cosines, dtype=np.float32))
    m = len(same)
    pairs = pd.DataFrame(
        {
            "left": [f"l{i}" for i in range(m)],
            "right": [f"r{i}" for i in range(m)],
            "left_identity": [f"p{i % 5}" for i in range(m)],
            "right_identity": [f"p{i % 5 if s else i % 5 + 1}" for i, s in enumerate(same)],
            "left_age_years": 5.0,
            "right_age_years": 30.0,
            "same": np.asarray(same, dtype=bool),
        }
    )
    epochs = epochs or tuple(range(1, len(cosines) + 1))
    return PairScores(test_set=name, pairs=pairs, epochs=epochs, cosines=cosines, made_from={})


def of_others(given):
    """The same scores, of other people."""
    renamed = {side: "v" + given.pairs[side] for side in ("left_identity", "right_identity")}
    return PairScores(
        test_set=given.test_set,
        pairs=given.pairs.assign(**renamed),
        epochs=given.epochs,
        cosines=given.cosines,
        made_from={},
    )


def judge(tests, validation, evaluation):
    return judge_run(tests, {name: of_others(one) for name, one in validation.items()}, evaluation)


def random_scores(seed, *, n_epochs=4, m=200, shift=0.3, name="C20"):
    rng = np.random.default_rng(seed)
    same = rng.random(m) < 0.5
    return scores(same, rng.normal(shift * same, 0.2, (n_epochs, m)), name=name)


def accuracy_at_best_threshold(values, same):
    """By trying every cut."""
    cuts = np.concatenate([np.sort(values), [np.inf]])
    return max(float(np.mean((values >= cut) == same)) for cut in cuts)


def test_the_threshold_comes_from_the_validation_pairs_alone():
    same = np.arange(40) < 20
    validation = scores(same, np.where(same, 0.8, 0.6))
    # On the test pairs 0.5 would tell all apart; on the validation pairs it is between 0.6 and 0.8.
    test = scores(same, np.where(same, 0.65, 0.35))
    judged = judge({"C20": test}, {"C20": validation}, VALIDATION)["C20"]
    assert 0.6 < judged.threshold <= 0.8
    assert judged.accuracy == 0.5
    assert list(judged.correct) == list(~same)
    assert judge({"C20": test}, {}, OFFICIAL_PROCEDURE)["C20"].accuracy == 1.0


def test_the_epoch_comes_from_the_validation_pairs_and_is_one_for_all_test_sets():
    tests = {name: random_scores(seed, name=name) for seed, name in enumerate(("adult-adult", "C20", "any"))}
    validation = {name: random_scores(10 + seed, name=name) for seed, name in enumerate(("adult-adult", "C20", "any"))}
    by_hand = [accuracy_at_best_threshold(row, validation["C20"].same) for row in validation["C20"].cosines]
    best = max(epoch for epoch, accuracy in enumerate(by_hand, 1) if accuracy == max(by_hand))
    judged = judge(tests, validation, VALIDATION)
    assert list(judged) == list(tests)
    assert {one.epoch for one in judged.values()} == {best}
    for name, one in judged.items():
        np.testing.assert_array_equal(one.scores, tests[name].cosines[best - 1])
        expected = (tests[name].cosines[best - 1].astype(np.float64) >= one.threshold) == tests[name].same
        np.testing.assert_array_equal(one.correct, expected)


def test_the_epoch_is_never_chosen_on_the_people_judged():
    """Two sets that calibrate each other: each has its epoch chosen on the other."""
    same = np.arange(40) < 20
    perfect, useless = np.where(same, 0.9, 0.1), np.full(40, 0.5)
    first, second = scores(same, [perfect, useless], name="A"), scores(same, [useless, perfect], name="B")
    second = of_others(second)
    judged = judge_run({"A": first, "B": second}, {"A": second, "B": first}, VALIDATION)
    assert (judged["A"].epoch, judged["B"].epoch) == (2, 1)
    alone = judge_run({"A": first, "B": second}, {"A": second}, VALIDATION)
    assert alone["B"].accuracy is None
    assert alone["B"].reason == "the epoch would be chosen on people of this very test set"


def test_of_equally_good_epochs_the_latest_is_taken():
    same = np.arange(40) < 20
    perfect, useless = np.where(same, 0.9, 0.1), np.full(40, 0.5)
    validation = {"C20": scores(same, [useless, perfect, perfect, useless])}
    assert chosen_epoch(validation, (1, 2, 3, 4), VALIDATION) == 3
    assert judge({"C20": validation["C20"]}, {}, OFFICIAL_PROCEDURE)["C20"].epoch == 3


def test_judging_on_the_test_pairs_never_looks_worse():
    for seed in range(20):
        test, validation = random_scores(seed), random_scores(100 + seed)
        honest = judge({"C20": test}, {"C20": validation}, VALIDATION)["C20"]
        folds = judge({"C20": test}, {}, TEN_FOLD)["C20"]
        official = judge({"C20": test}, {}, OFFICIAL_PROCEDURE)["C20"]
        by_hand = max(accuracy_at_best_threshold(row, test.same) for row in test.cosines)
        assert official.accuracy == pytest.approx(by_hand, abs=1e-12)
        assert official.accuracy >= max(honest.accuracy, folds.accuracy)
        assert folds.epoch == 4


def test_shuffled_labels_give_a_half_by_the_default_rules_and_more_by_the_official_ones():
    rng = np.random.default_rng(0)
    m = 1000
    test, validation = (scores(rng.random(m) < 0.5, rng.normal(size=(10, m))) for _ in range(2))
    honest = judge({"C20": test}, {"C20": validation}, VALIDATION)["C20"].accuracy
    official = judge({"C20": test}, {}, OFFICIAL_PROCEDURE)["C20"].accuracy
    assert abs(honest - 0.5) < 3 * np.sqrt(0.25 / m)
    assert official > 0.5 + np.sqrt(0.25 / m), "ten epochs and a thousand thresholds to choose from"


def test_what_cannot_be_judged_says_why():
    few = scores([True] * 3 + [False] * 30, np.linspace(0, 1, 33), name="C30")
    enough = random_scores(1, n_epochs=1)
    judged = judge({"C20": enough, "C30": few}, {"C20": enough}, VALIDATION)
    assert judged["C20"].accuracy is not None
    assert judged["C30"].accuracy is None
    assert "3 test pairs" in judged["C30"].reason
    judged = judge({"C20": enough, "any": enough}, {"C20": enough}, VALIDATION)
    assert judged["any"].reason == "there are no validation pairs of its kind"
    judged = judge({"C20": enough}, {"C20": few}, VALIDATION)
    assert "3 validation pairs" in judged["C20"].reason
    assert judge({}, {}, VALIDATION) == {}


def test_an_epoch_cannot_be_chosen_from_nothing():
    test = random_scores(1)
    with pytest.raises(RunError, match=r"no validation identities.*epoch_choice='last'"):
        judge({"C20": test}, {}, VALIDATION)
    only_last = scores(test.same, test.cosines[-1:], epochs=(4,))
    with pytest.raises(RunError, match=r"kept no epochs.*epoch_choice='last'"):
        judge({"C20": only_last}, {"C20": only_last}, VALIDATION)
    with pytest.raises(RunError, match=r"kept no epochs.*keep_every_epoch=True"):
        judge({"C20": only_last}, {}, OFFICIAL_PROCEDURE)
