"""Verification against loops over thresholds, cases by hand, and the official pair lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import (
    accuracy_at_threshold,
    best_threshold_accuracy,
    calibrated_accuracy,
    pair_scores,
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


def test_identical_images_make_no_error():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(100, 64)).astype(np.float32)
    pairs = pd.DataFrame({"left": np.arange(100) % 50, "right": np.arange(100)})
    same = np.arange(100) < 50
    scores = pair_scores(embeddings, pairs)
    for result in (ten_fold_accuracy(scores, same), best_threshold_accuracy(scores, same)):
        assert result.accuracy == 1
        assert result.correct.all()
        assert scores[~same].max() < result.threshold <= scores[same].min()


def test_shuffled_labels_are_chance():
    scores, same = make_scores(m=5000, gap=3)
    shuffled = np.random.default_rng(1).permutation(same)
    # 4.4 standard deviations of a binomial with 5,000 trials: 1 in 100,000 by chance.
    assert abs(ten_fold_accuracy(scores, shuffled).accuracy - 0.5) < 4.4 * np.sqrt(0.25 / 5000)
    calibrated = calibrated_accuracy(scores, shuffled, calibration_scores=scores, calibration_same=same)
    assert abs(calibrated.accuracy - 0.5) < 4.4 * np.sqrt(0.25 / 5000)
    assert ten_fold_accuracy(scores, same).accuracy > 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ties", [False, True])
def test_results_say_which_pairs_are_right(dtype, ties):
    scores, same = make_scores(m=300, ties=ties)
    scores = scores.astype(dtype)
    rng = np.random.default_rng(0)
    fold = np.empty(300, dtype=int)
    for members in (np.flatnonzero(same), np.flatnonzero(~same)):
        fold[rng.permutation(members)] = np.arange(len(members)) % 10
    folds = ten_fold_accuracy(scores, same)
    exact = scores.astype(np.float64)
    expected = [(exact[i] >= folds.fold_thresholds[fold[i]]) == same[i] for i in range(300)]
    assert folds.correct.dtype == bool
    assert folds.correct.tolist() == expected
    best = best_threshold_accuracy(scores, same)
    assert best.correct.tolist() == [(exact[i] >= best.threshold) == same[i] for i in range(300)]
    assert np.mean(best.correct) == best.accuracy


def test_the_order_of_the_pairs_carries_over():
    order = np.random.default_rng(2).permutation(300)
    scores, same = make_scores(m=300)
    assert best_threshold_accuracy(scores[order], same[order]).correct.tolist() == (
        best_threshold_accuracy(scores, same).correct[order].tolist()
    )


def test_single_precision_scores_are_judged_exactly():
    # The threshold between two neighbouring float32 scores is no float32: rounded, it would let the lower one match.
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    scores, same = np.array([high, low] * 10, dtype=np.float32), np.array([True, False] * 10)
    assert best_threshold_accuracy(scores, same).accuracy == 1
    assert ten_fold_accuracy(scores, same).accuracy == 1
    threshold = best_threshold_accuracy(scores, same).threshold
    assert float(low) < threshold < float(high)
    assert accuracy_at_threshold(scores, same, threshold).accuracy == 1
    wide = ten_fold_accuracy(scores.astype(np.float64), same)
    assert ten_fold_accuracy(scores, same) == wide


def test_accuracy_at_a_threshold_by_hand():
    scores = [0.9, 0.5, 0.2, 0.6, 0.5, 0.1]
    same = [True, True, True, False, False, False]
    for threshold, correct in (
        (0.55, [1, 0, 0, 0, 1, 1]),
        (0.5, [1, 1, 0, 0, 0, 1]),  # a score equal to the threshold matches
        (-np.inf, [1, 1, 1, 0, 0, 0]),
        (np.inf, [0, 0, 0, 1, 1, 1]),
    ):
        result = accuracy_at_threshold(scores, same, threshold)
        assert result.correct.tolist() == [bool(c) for c in correct]
        assert result.accuracy == sum(correct) / 6
        assert (result.threshold, result.n_pairs, result.n_positives) == (threshold, 6, 3)


def test_calibrated_accuracy_takes_the_threshold_from_the_other_pairs():
    scores, same = make_scores(m=200, seed=1)
    others, others_same = make_scores(m=100, seed=2)
    result = calibrated_accuracy(scores, same, calibration_scores=others + 0.7, calibration_same=others_same)
    chosen = best_threshold_accuracy(others + 0.7, others_same)
    assert result.threshold == chosen.threshold
    assert result.correct.tolist() == ((scores >= chosen.threshold) == same).tolist()
    assert result.accuracy == np.mean(result.correct)
    assert (result.calibration_accuracy, result.n_calibration_pairs) == (chosen.accuracy, 100)
    assert (result.n_pairs, result.n_positives) == (200, 100)
    assert result.accuracy < best_threshold_accuracy(scores, same).accuracy  # shifted scores: a wrong threshold costs


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


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_pair_scores_of_very_short_and_very_long_embeddings(scale):
    embeddings = np.array([[3.0, 4.0], [4.0, 3.0]]) * scale  # their squares leave the range of float32
    for dtype in (np.float32, np.float64):
        scores = pair_scores(embeddings.astype(dtype), pd.DataFrame({"left": [0], "right": [1]}))
        assert scores[0] == pytest.approx(0.96, abs=1e-6)


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
    pairs = pd.DataFrame({"left": [0, 2], "right": [2, 1]})
    with pytest.raises(ConfigError, match="embedding 1 has length zero"):
        pair_scores(embeddings * [[1], [0], [1]], pairs)
    for value in (np.nan, np.inf, -np.inf):
        broken = embeddings.copy()
        broken[2, 1] = value
        with pytest.raises(ConfigError, match="embedding 2 is not finite"):
            pair_scores(broken, pairs)
    with pytest.raises(ConfigError, match=r"floating point of shape .* got object"):
        pair_scores(np.array([[1.0], [1.0, 2.0]], dtype=object), pairs)
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
    with pytest.raises(ConfigError, match="score 3 is not finite"):
        best_threshold_accuracy(np.where(np.arange(20) == 3, np.nan, scores), same)
    with pytest.raises(ConfigError, match="must both"):
        accuracy_at_threshold(scores, same[1:], 0)
    with pytest.raises(ConfigError, match="booleans"):
        best_threshold_accuracy(scores, same * 2)
    with pytest.raises(ConfigError, match="not a number"):
        accuracy_at_threshold(scores, same, np.nan)
    with pytest.raises(DatasetError, match="20 pairs with 0 positives"):
        accuracy_at_threshold(scores, np.zeros(20, bool), 0)
    with pytest.raises(DatasetError, match="calibration pairs: 20 pairs with 20 positives"):
        calibrated_accuracy(scores, same, calibration_scores=scores, calibration_same=np.ones(20, bool))
    with pytest.raises(ConfigError, match="calibration pairs: score 1 is not finite"):
        calibrated_accuracy(scores, same, calibration_scores=[0.1, np.inf], calibration_same=[True, False])
    assert best_threshold_accuracy(scores, same.astype(int)) == best_threshold_accuracy(scores, same)


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
