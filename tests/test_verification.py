"""Verification against loops over thresholds, scikit-learn, and the official pair lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from interproto_lib.analysis import (
    best_threshold_accuracy,
    pair_scores,
    roc_auc,
    roc_curve,
    ten_fold_accuracy,
)
from interproto_lib.errors import ConfigError, DatasetError

PAIR_LISTS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "child_adult_pairs"


def make_scores(m=400, seed=0, gap=1.0, ties=False):
    rng = np.random.default_rng(seed)
    same = np.arange(m) < m // 2  # all positives first, as in the official lists
    scores = rng.normal(size=m) + gap * same
    return (np.round(scores, 1) if ties else scores), same


def reference_best(scores, same):
    """Try every threshold: below all, every score, above all. Accuracy and the range of best thresholds."""
    best = 0.0
    for threshold in [*sorted(set(scores.tolist())), np.inf]:
        best = max(best, float(np.mean((scores >= threshold) == same)))
    return best


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
def test_best_threshold_equals_trying_all(gap, ties):
    scores, same = make_scores(gap=gap, ties=ties)
    result = best_threshold_accuracy(scores, same)
    assert result.accuracy == pytest.approx(reference_best(scores, same), abs=1e-12)
    assert np.mean((scores >= result.threshold) == same) == pytest.approx(result.accuracy, abs=1e-12)
    assert (result.n_pairs, result.n_positives) == (400, 200)


def test_best_threshold_at_the_ends():
    # Scores the wrong way round: best is to call everything one class, here the larger one.
    assert best_threshold_accuracy([0.0, 0.1, 0.9], [True, True, False]).accuracy == pytest.approx(2 / 3)
    result = best_threshold_accuracy([0.5, 0.8, 0.9], [True, False, False])
    assert result.accuracy == pytest.approx(2 / 3)
    assert np.isfinite(result.threshold)
    assert result.threshold > 0.9


def test_threshold_lies_between_neighbouring_floats():
    low = np.float64(0.5)
    high = np.nextafter(low, 1)
    result = best_threshold_accuracy([high, low], [True, False])
    assert result.accuracy == 1
    assert low < result.threshold <= high


@pytest.mark.parametrize("ties", [False, True])
def test_ten_fold_thresholds_are_the_best_of_the_other_folds(ties):
    scores, same = make_scores(m=300, ties=ties)
    result = ten_fold_accuracy(scores, same, n_folds=5, seed=3)
    # Rebuild the folds from the documented rule: dealt at random within each class.
    fold = np.empty(300, dtype=int)
    rng = np.random.default_rng(3)
    for members in (np.flatnonzero(same), np.flatnonzero(~same)):
        fold[rng.permutation(members)] = np.arange(len(members)) % 5
    for k in range(5):
        test = fold == k
        assert same[test].sum() == 30
        train_accuracy = np.mean((scores[~test] >= result.fold_thresholds[k]) == same[~test])
        assert train_accuracy == pytest.approx(reference_best(scores[~test], same[~test]), abs=1e-12)
        test_accuracy = np.mean((scores[test] >= result.fold_thresholds[k]) == same[test])
        assert result.fold_accuracies[k] == pytest.approx(test_accuracy, abs=1e-12)
    assert result.accuracy == pytest.approx(np.mean(result.fold_accuracies))
    assert result.std == pytest.approx(np.std(result.fold_accuracies, ddof=1))
    assert result.threshold == pytest.approx(np.mean(result.fold_thresholds))
    assert (result.n_pairs, result.n_positives) == (300, 150)


def test_separable_scores_are_perfect_and_chance_is_chance():
    scores, same = make_scores(gap=50)
    assert ten_fold_accuracy(scores, same).accuracy == 1
    chance = [ten_fold_accuracy(*make_scores(m=2000, gap=0, seed=s)).accuracy for s in range(5)]
    assert 0.46 < np.mean(chance) < 0.54
    optimistic = [best_threshold_accuracy(*make_scores(m=2000, gap=0, seed=s)).accuracy for s in range(5)]
    assert all(a <= b for a, b in zip(chance, optimistic, strict=True))


def test_a_higher_score_scale_changes_nothing():
    scores, same = make_scores()
    one, two = ten_fold_accuracy(scores, same), ten_fold_accuracy(8 * scores + 4, same)
    assert one.fold_accuracies == two.fold_accuracies


def test_seed_changes_the_folds_only():
    scores, same = make_scores()
    assert ten_fold_accuracy(scores, same, seed=1) == ten_fold_accuracy(scores, same, seed=1)
    one, two = ten_fold_accuracy(scores, same, seed=1), ten_fold_accuracy(scores, same, seed=2)
    assert one.fold_accuracies != two.fold_accuracies
    assert abs(one.accuracy - two.accuracy) < 0.03


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("gap", [-1.0, 0.0, 1.0, 3.0])
def test_roc_equals_scikit_learn(gap, ties):
    scores, same = make_scores(gap=gap, ties=ties)
    assert roc_auc(scores, same) == pytest.approx(sklearn.metrics.roc_auc_score(same, scores), abs=1e-12)
    false_match, match, thresholds = roc_curve(scores, same)
    expected = sklearn.metrics.roc_curve(same, scores, drop_intermediate=False)
    for ours, theirs in zip((false_match, match, thresholds), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_roc_auc_is_the_chance_to_rank_a_positive_higher():
    scores, same = make_scores(m=120, ties=True)
    wins = [(p > q) + 0.5 * (p == q) for p in scores[same] for q in scores[~same]]
    assert roc_auc(scores, same) == pytest.approx(np.mean(wins), abs=1e-12)


def test_pair_scores_equal_the_loop():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 16)).astype(np.float32) * rng.uniform(0.1, 9, size=(50, 1)).astype(np.float32)
    pairs = pd.DataFrame({"left": rng.integers(0, 20, 40_000), "right": rng.integers(10, 50, 40_000)})
    scores = pair_scores(embeddings, pairs)
    assert scores.dtype == np.float32
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    for i in [0, 1, 16383, 16384, 32767, 32768, 39_999]:
        expected = float(unit[pairs["left"][i]] @ unit[pairs["right"][i]])
        assert scores[i] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(scores, (unit @ unit.T)[pairs["left"], pairs["right"]], atol=1e-6)


def test_pair_scores_read_each_used_image_once(tmp_path):
    class Counting(np.ndarray):
        def __getitem__(self, key):
            read.append(np.asarray(key))
            return super().__getitem__(key)

    read = []
    embeddings = np.eye(6, dtype=np.float32).view(Counting)
    pair_scores(embeddings, pd.DataFrame({"left": [4, 4, 1], "right": [1, 4, 2]}))
    assert [rows.tolist() for rows in read if rows.ndim] == [[1, 2, 4]]


def test_pair_scores_errors():
    embeddings = np.eye(3, dtype=np.float32)
    with pytest.raises(ConfigError, match="no column 'right'"):
        pair_scores(embeddings, pd.DataFrame({"left": [0]}))
    with pytest.raises(ConfigError, match="pair 1 has right 3, outside the 3 embeddings"):
        pair_scores(embeddings, pd.DataFrame({"left": [0, 1], "right": [1, 3]}))
    with pytest.raises(ConfigError, match="integers"):
        pair_scores(embeddings, pd.DataFrame({"left": [0.0], "right": [1]}))
    with pytest.raises(ConfigError, match="embedding 1 has length zero"):
        pair_scores(embeddings * [[1], [0], [1]], pd.DataFrame({"left": [0, 2], "right": [2, 1]}))
    with pytest.raises(ConfigError, match="shape"):
        pair_scores(embeddings[0], pd.DataFrame({"left": [0], "right": [1]}))


def test_accuracy_errors():
    scores, same = make_scores(m=20)
    with pytest.raises(DatasetError, match="10 positive and 10 negative pairs are too few for 11 folds"):
        ten_fold_accuracy(scores, same, n_folds=11)
    with pytest.raises(ConfigError, match="at least 2"):
        ten_fold_accuracy(scores, same, n_folds=1)
    with pytest.raises(DatasetError, match="both classes"):
        ten_fold_accuracy(scores, np.ones(20, bool))
    with pytest.raises(DatasetError, match="both classes"):
        roc_auc(scores, np.zeros(20, bool))
    with pytest.raises(ConfigError, match="score 3 is not finite"):
        best_threshold_accuracy(np.where(np.arange(20) == 3, np.nan, scores), same)
    with pytest.raises(ConfigError, match="must both"):
        roc_auc(scores, same[1:])
    with pytest.raises(ConfigError, match="booleans"):
        roc_auc(scores, same * 2)
    assert roc_auc(scores, same.astype(int)) == roc_auc(scores, same)


@pytest.mark.skipif(not PAIR_LISTS.is_dir(), reason="the official pair lists are not beside the repository")
def test_official_list_order_needs_stratified_folds():
    labels = [line.split()[0] == "1" for line in (PAIR_LISTS / "fgnet30_child.txt").read_text().splitlines()]
    same = np.array(labels)
    assert (len(same), same.sum()) == (372, 186)
    assert same[:186].all()  # contiguous folds would hold one class only
    scores = np.random.default_rng(0).normal(size=372) + 2 * same
    result = ten_fold_accuracy(scores, same)
    assert result.n_pairs == 372
    assert result.accuracy == pytest.approx(best_threshold_accuracy(scores, same).accuracy, abs=0.05)
