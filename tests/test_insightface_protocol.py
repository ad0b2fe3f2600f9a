"""insightface's protocol against plain loops over thresholds and folds, and against numbers made under SciPy 1.8."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.interpolate
import sklearn.model_selection
import sklearn.preprocessing

from interproto_lib.analysis import insightface_accuracy, insightface_accuracy_of_distances, ten_fold_accuracy
from interproto_lib.analysis.insightface_protocol import _threshold_at_far
from interproto_lib.errors import ConfigError, DatasetError


def make_embeddings(m, seed, noise=0.8, d=16):
    """Pairs with interleaved labels; rows as insightface has them: image and mirror image summed, scaled, float64."""
    rng = np.random.default_rng(seed)
    same = rng.random(m) < 0.5
    left = rng.normal(size=(m, d)).astype(np.float32)
    other = np.where(same[:, None], left, rng.normal(size=(m, d)))
    right = (other + noise * rng.normal(size=(m, d))).astype(np.float32)
    rows = []
    for images in (left, right):
        mirrored = images + np.float32(0.1) * rng.normal(size=(m, d)).astype(np.float32)
        rows.append(sklearn.preprocessing.normalize(images.astype(np.float64) + mirrored.astype(np.float64)))
    return rows[0], rows[1], same


def naive(dist, same, n_folds=10, far_target=1e-3):
    """The described procedure, as it stands: every threshold compared with every distance, in every fold."""
    accuracy, tar, far, accuracy_thresholds, tar_thresholds = [], [], [], [], []
    correct = np.zeros(len(dist), dtype=bool)
    for train, test in sklearn.model_selection.KFold(n_splits=n_folds, shuffle=False).split(np.arange(len(dist))):
        thresholds = np.arange(0, 4, 0.01)
        best, best_right = None, -1.0
        for threshold in thresholds:
            right = float(np.sum((dist[train] < threshold) == same[train])) / len(train)
            if right > best_right:  # the first of equally good ones
                best, best_right = threshold, right
        accuracy_thresholds.append(best)
        correct[test] = (dist[test] < best) == same[test]
        accuracy.append(float(np.sum(correct[test])) / len(test))

        thresholds = np.arange(0, 4, 0.001)
        rates = [float(np.sum((dist[train] < t) & ~same[train])) / float(np.sum(~same[train])) for t in thresholds]
        threshold = 0.0
        if max(rates) >= far_target:
            i = max(k for k, rate in enumerate(rates) if rate <= far_target)
            along = (far_target - rates[i]) / (rates[i + 1] - rates[i])
            threshold = thresholds[i] + along * (thresholds[i + 1] - thresholds[i])
        tar_thresholds.append(threshold)
        match = dist[test] < threshold
        tar.append(float(np.sum(match & same[test])) / float(np.sum(same[test])))
        far.append(float(np.sum(match & ~same[test])) / float(np.sum(~same[test])))
    return (
        {
            "accuracy": np.mean(accuracy),
            "std": np.std(accuracy),
            "fold_accuracies": tuple(accuracy),
            "fold_thresholds": tuple(accuracy_thresholds),
            "tar": np.mean(tar),
            "tar_std": np.std(tar),
            "far": np.mean(far),
        },
        tuple(tar_thresholds),
        correct,
    )


def assert_equal(result, expected):
    values, tar_thresholds, correct = expected
    for name, value in values.items():
        assert getattr(result, name) == value, name  # to the last bit
    np.testing.assert_array_equal(result.correct, correct)
    np.testing.assert_allclose(result.fold_tar_thresholds, tar_thresholds, rtol=1e-12)


@pytest.mark.parametrize(("m", "seed", "noise"), [(200, 0, 0.5), (333, 1, 1.0), (607, 2, 2.0), (1200, 3, 0.9)])
def test_equals_the_plain_loops(m, seed, noise):
    left, right, same = make_embeddings(m, seed, noise)
    dist = np.sum(np.square(np.subtract(left, right)), 1)
    result = insightface_accuracy(left, right, same)
    assert_equal(result, naive(dist, same))
    assert 0.5 < result.accuracy < 1
    assert (result.n_pairs, result.n_positives) == (m, same.sum())
    assert result.threshold == pytest.approx(np.mean(result.fold_thresholds))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", [0, 1])
def test_distances_on_thresholds_equal_the_plain_loops(dtype, seed):
    # Every distance is a threshold of one grid or the other; "same if dist < threshold" must not become <=.
    rng = np.random.default_rng(seed)
    same = rng.random(240) < 0.5
    grid = np.concatenate([np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)])
    dist = rng.choice(grid[(grid > 0.8) & (grid < 2)], 240) - 0.4 * same
    dist = np.array([grid[np.argmin(np.abs(grid - value))] for value in dist]).astype(dtype)
    result = insightface_accuracy_of_distances(dist, same, far_target=0.05)
    assert_equal(result, naive(dist, same, far_target=0.05))
    assert result.tar > 0


def test_a_pair_on_the_threshold_does_not_match():
    # 0.01 separates 0.005 from 0.01 only because 0.01 < 0.01 is false.
    dist, same = np.array([0.005, 0.01] * 4), np.array([True, False] * 4)
    assert insightface_accuracy_of_distances(dist, same, n_folds=2).fold_thresholds == (0.01, 0.01)
    assert insightface_accuracy_of_distances(dist, same, n_folds=2).accuracy == 1


def test_equals_numbers_computed_under_scipy_1_8():
    # From insightface's procedure with scipy.interpolate.interp1d(kind="slinear") of SciPy 1.8.1 under NumPy 1.23.5.
    rng = np.random.default_rng(42)
    same = rng.integers(0, 2, 3000) == 1
    dist = rng.integers(0, 2**20, 3000) / 2**19 + np.where(same, 0.0, 1.9) * (rng.integers(0, 2**20, 3000) / 2**20)
    result = insightface_accuracy_of_distances(dist, same)
    assert (result.accuracy, result.std) == (0.73, 0.015846485765339625)
    assert (result.tar, result.tar_std, result.far) == (
        0.032185359721335384,
        0.018043793171242967,
        0.0019974868928463105,
    )
    assert result.fold_thresholds == (1.86, 1.53, 1.78, 1.62, *3 * (1.6300000000000001,), 1.53, 1.86, 1.86)
    first_three = (0.062351000000000004, 0.062356999999999996, 0.062370999999999996)
    assert result.fold_tar_thresholds[:3] == first_three
    assert result.fold_tar_thresholds[8:] == (0.13034900000000002, 0.132359)


def test_thresholds_at_a_far_equal_scipy_1_8():
    # (FAR counts of 1,000 at the thresholds 0, 0.001, ..; target) -> what SciPy 1.8.1's interp1d gives.
    cases = {
        ((0, 0, 0, 1, 1, 1, 4, 4, 10, 10), 1e-3): 0.005,
        ((0, 0, 0, 1, 1, 1, 4, 4, 10, 10), 5e-4): 0.0025,
        ((0, 0, 0, 1, 1, 1, 4, 4, 10, 10), 3e-3): 0.005666666666666667,
        ((0, 0, 0, 5, 5), 1e-3): 0.0022,
        ((0, 0, 0, 5, 5), 5e-4): 0.0021000000000000003,
        ((0, 0, 1, 2, 2, 3), 3e-3): 0.005,
        ((0, 0, 1, 1, 1), 1e-3): 0.0,  # the largest FAR, reached at several thresholds
    }
    for (counts, target), threshold in cases.items():
        assert _threshold_at_far(np.array(counts) / 1000, np.arange(len(counts)) * 0.001, target) == threshold
    assert _threshold_at_far(np.array([0.0, 0.0, 0.0005]), np.arange(3) * 0.001, 1e-3) == 0


def test_thresholds_at_a_far_equal_scipy_where_no_far_repeats():
    rng = np.random.default_rng(0)
    for _ in range(50):
        far = np.concatenate(([0.0], np.sort(rng.random(20))))
        thresholds = np.arange(21) * 0.001
        ours = _threshold_at_far(far, thresholds, 1e-3 + far[-1] / 3)
        assert ours == scipy.interpolate.interp1d(far, thresholds, kind="slinear")(1e-3 + far[-1] / 3)


def test_identical_images_make_no_error():
    left, right, same = make_embeddings(100, 4, noise=0)
    right[same] = left[same]
    result = insightface_accuracy(left, right, same)
    assert (result.accuracy, result.std, result.tar) == (1, 0, 1)
    assert result.correct.all()


def test_shuffled_labels_are_chance():
    left, right, same = make_embeddings(2000, 5)
    shuffled = np.random.default_rng(6).permutation(same)
    # 4.4 standard deviations of a binomial with 2,000 trials: 1 in 100,000 by chance.
    assert abs(insightface_accuracy(left, right, shuffled).accuracy - 0.5) < 4.4 * np.sqrt(0.25 / 2000)
    assert insightface_accuracy(left, right, same).accuracy > 0.9


def test_agrees_with_the_stratified_folds():
    left, right, same = make_embeddings(3000, 7, noise=1.0)
    cosines = np.einsum("ij,ij->i", left, right)
    ours = ten_fold_accuracy(cosines, same).accuracy
    assert insightface_accuracy(left, right, same).accuracy == pytest.approx(ours, abs=0.01)


def test_folds_of_one_class_are_refused():
    left, right, same = make_embeddings(100, 0)
    with pytest.raises(DatasetError, match=r"fold 1 of 10, pairs 0 to 9, has 10 positives among 10 pairs.*ten_fold"):
        insightface_accuracy(left, right, np.arange(100) < 50)
    same = np.where(np.arange(100) // 10 == 3, False, np.arange(100) % 2 == 0)
    with pytest.raises(DatasetError, match="fold 4 of 10, pairs 30 to 39, has 0 positives among 10 pairs"):
        insightface_accuracy(left, right, same)
    with pytest.raises(DatasetError, match="both classes are needed"):
        insightface_accuracy(left, right, np.ones(100, dtype=bool))


def test_errors():
    left, right, same = make_embeddings(100, 0)
    with pytest.raises(ConfigError, match=r"\(100, 16\) and \(100, 8\)"):
        insightface_accuracy(left, right[:, :8], same)
    with pytest.raises(ConfigError, match=r"scores \(100,\) and same \(99,\)"):
        insightface_accuracy(left, right, same[:99])
    for value, length in ((np.nan, "nan"), (0.0, "0"), (np.inf, "inf")):
        broken = right.copy()
        broken[7] = value
        with pytest.raises(ConfigError, match=f"embeddings_right: row 7 has length {length}"):
            insightface_accuracy(left, broken, same)
    with pytest.raises(ConfigError, match="embeddings_left: row 0 has length 2"):
        insightface_accuracy(2 * left, right, same)
    with pytest.raises(ConfigError, match="at least 2"):
        insightface_accuracy(left, right, same, n_folds=1)
    with pytest.raises(ConfigError, match="far_target is 0"):
        insightface_accuracy(left, right, same, far_target=0)
    with pytest.raises(ConfigError, match="score 2 is not finite"):
        insightface_accuracy_of_distances([0.1, 0.2, np.nan, 0.3], [1, 0, 1, 0], n_folds=2)
