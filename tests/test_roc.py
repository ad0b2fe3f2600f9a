"""Curves over all thresholds against scikit-learn, counting loops, and six pairs by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.interpolate
import scipy.optimize
import sklearn.metrics

from interproto_lib.analysis import det_curve, equal_error_rate, roc_auc, roc_curve, tar_at_far
from interproto_lib.errors import ConfigError, DatasetError

# FMR and FNMR at the thresholds inf, .9, .7, .6, .4, .3, .2.
SIX_SCORES = [0.9, 0.7, 0.3, 0.6, 0.4, 0.2]
SIX_SAME = [True, True, True, False, False, False]

CASES = [
    (m, ties, dtype)
    for m in (2, 3, 6, 50, 1000, 10_000)
    for ties in (None, 1, 0)  # decimals kept
    for dtype in (np.float32, np.float64)
]


def make_scores(m, ties, dtype, gap=1.0):
    rng = np.random.default_rng(m)
    same = rng.permutation(np.arange(m) < max(1, m // 3))
    scores = rng.normal(size=m) + gap * same
    return (scores if ties is None else np.round(scores, ties)).astype(dtype), same


@pytest.mark.parametrize(("m", "ties", "dtype"), CASES)
def test_roc_and_auc_equal_scikit_learn(m, ties, dtype):
    for gap in (-1.0, 0.0, 2.0):
        scores, same = make_scores(m, ties, dtype, gap)
        expected = sklearn.metrics.roc_curve(same, scores, drop_intermediate=False)
        for ours, theirs in zip(roc_curve(scores, same), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)
        assert roc_auc(scores, same) == pytest.approx(sklearn.metrics.roc_auc_score(same, scores), abs=1e-12)


@pytest.mark.parametrize(("m", "ties", "dtype"), CASES)
def test_det_equals_scikit_learn(m, ties, dtype):
    scores, same = make_scores(m, ties, dtype)
    false_match, false_non_match, thresholds = det_curve(scores, same)
    # scikit-learn runs the other way, and leaves out what comes before the last FMR of 0 and after the first FNMR of 0.
    first = np.flatnonzero(false_match == 0)[-1]
    last = np.flatnonzero(false_non_match == 0)[0]
    part = slice(first, last + 1)
    expected = sklearn.metrics.det_curve(same, scores)
    for ours, theirs in zip((false_match, false_non_match, thresholds), expected, strict=True):
        np.testing.assert_allclose(ours[part][::-1], theirs, rtol=1e-12, atol=1e-15)
    assert (false_match[0], false_non_match[0], thresholds[0]) == (0, 1, np.inf)
    assert (false_match[-1], false_non_match[-1]) == (1, 0)


@pytest.mark.parametrize(("m", "ties", "dtype"), CASES)
def test_equal_error_rate_is_where_scikit_learns_roc_meets_the_diagonal(m, ties, dtype):
    scores, same = make_scores(m, ties, dtype)
    result = equal_error_rate(scores, same)
    fpr, tpr, _ = sklearn.metrics.roc_curve(same, scores, drop_intermediate=False)
    # The ROC as a path, so that steps straight up have their place too; it meets FMR = 1 - TMR once.
    along = np.arange(len(fpr))
    fmr, fnmr = scipy.interpolate.interp1d(along, fpr), scipy.interpolate.interp1d(along, 1 - tpr)
    place = scipy.optimize.brentq(lambda t: fmr(t) - fnmr(t), 0, len(fpr) - 1, xtol=1e-14)
    assert result.rate == pytest.approx(float(fmr(place)), abs=1e-9)
    assert (result.n_positives, result.n_negatives) == (same.sum(), (~same).sum())
    # At the threshold the two rates are the result's, but for the steps of the pairs next to it.
    assert scores.min() <= result.threshold <= scores.max()
    above, below = scores > result.threshold, scores >= result.threshold
    bounds = sorted([np.mean(above[~same]), np.mean(below[~same]), np.mean(~above[same]), np.mean(~below[same])])
    one_pair = 1 / min(same.sum(), (~same).sum())
    assert bounds[0] - one_pair <= result.rate <= bounds[-1] + one_pair


def test_roc_auc_is_the_chance_to_rank_a_positive_higher():
    scores, same = make_scores(120, 1, np.float64)
    wins = [(p > q) + 0.5 * (p == q) for p in scores[same] for q in scores[~same]]
    assert roc_auc(scores, same) == pytest.approx(np.mean(wins), abs=1e-12)


def test_six_pairs_by_hand():
    third = 1 / 3
    false_match, match, thresholds = roc_curve(SIX_SCORES, SIX_SAME)
    np.testing.assert_allclose(false_match, [0, 0, 0, third, 2 * third, 2 * third, 1])
    np.testing.assert_allclose(match, [0, third, 2 * third, 2 * third, 2 * third, 1, 1])
    assert thresholds.tolist() == [np.inf, 0.9, 0.7, 0.6, 0.4, 0.3, 0.2]
    np.testing.assert_allclose(det_curve(SIX_SCORES, SIX_SAME)[1], [1, 2 * third, third, third, third, 0, 0])
    assert roc_auc(SIX_SCORES, SIX_SAME) == pytest.approx(7 / 9)
    result = equal_error_rate(SIX_SCORES, SIX_SAME)
    assert (result.rate, result.threshold) == (pytest.approx(third), pytest.approx(0.6))
    assert (result.n_positives, result.n_negatives) == (3, 3)


def test_equal_error_rate_between_two_points_by_hand():
    # FMR - FNMR is -1/2 at .8 (FMR 0, FNMR 1/2) and 1/3 at .5 (FMR 1/3, FNMR 0): they meet 3/5 of the way.
    result = equal_error_rate([0.8, 0.5, 0.5, 0.3, 0.1], [True, True, False, False, False])
    assert result.rate == pytest.approx(0.2)
    assert result.threshold == pytest.approx(0.8 - 0.6 * 0.3)


def test_equal_error_rate_at_the_ends():
    perfect = equal_error_rate([0.9, 0.8, 0.1], [True, True, False])
    assert (perfect.rate, perfect.threshold) == (0, 0.8)
    reversed_ = equal_error_rate([0.1, 0.9], [True, False])
    assert reversed_.rate == 1
    alike = equal_error_rate([0.4, 0.4, 0.4], [True, False, False])
    assert (alike.rate, alike.threshold) == (0.5, 0.4)


@pytest.mark.parametrize(("m", "ties", "dtype"), CASES)
def test_tar_at_far_equals_trying_all_thresholds(m, ties, dtype):
    scores, same = make_scores(m, ties, dtype)
    targets = (1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0)
    n_negatives = int((~same).sum())
    candidates = [np.inf, *np.unique(scores)] if m <= 1000 else [np.inf, *np.unique(scores)[-2500:]]
    rates = [(np.mean(scores[~same] >= t), np.mean(scores[same] >= t), t) for t in candidates]
    for target, result in zip(targets, tar_at_far(scores, same, targets), strict=True):
        assert (result.far_target, result.n_negatives) == (target, n_negatives)
        if target * n_negatives < 1:
            assert (result.tar, result.far, result.threshold) == (None, None, None)
            assert f"{n_negatives} negative pairs cannot resolve a FAR of {target:g}" in result.reason
            continue
        if m > 1000 and target > 0.01:
            continue  # beyond the thresholds tried
        tar = max(tar for far, tar, _ in rates if far <= target)
        assert result.tar == tar
        assert result.far <= target
        assert result.threshold == max(t for far, rate, t in rates if rate == tar)
        assert np.mean(scores[~same] >= result.threshold) == result.far
        assert result.reason == ""


def test_tar_at_far_by_hand():
    half, two_thirds, all_ = tar_at_far(SIX_SCORES, SIX_SAME, (0.5, 2 / 3, 1.0))
    assert (half.tar, half.far, half.threshold) == (2 / 3, 0, 0.7)
    assert (two_thirds.tar, two_thirds.far, two_thirds.threshold) == (1, 2 / 3, 0.3)
    assert (all_.tar, all_.far, all_.threshold) == (1, 2 / 3, 0.3)
    # The highest scores are negatives: no positive can match within the target.
    none = tar_at_far([0.1, 0.9, 0.8], [True, False, False], (0.5,))[0]
    assert (none.tar, none.far, none.threshold) == (0, 0, np.inf)


def test_a_target_of_one_negative_is_resolved():
    rng = np.random.default_rng(0)
    scores, same = rng.normal(size=1010), np.arange(1010) < 10
    second, first = np.sort(scores[~same])[-2:]
    scores[:3] = (first + 1, (first + second) / 2, second - 0.01)  # one positive above both, between, below
    resolved = tar_at_far(scores, same)[0]
    assert (resolved.tar, resolved.far, resolved.threshold) == (2 / 10, 1 / 1000, scores[1])
    too_few = tar_at_far(scores[:-1], same[:-1])[0]
    assert too_few.tar is None
    assert too_few.reason == "999 negative pairs cannot resolve a FAR of 0.001: it takes 1000 or more."


def test_errors():
    for function in (roc_curve, roc_auc, det_curve, equal_error_rate, tar_at_far):
        with pytest.raises(DatasetError, match="3 pairs with 3 positives: both classes are needed"):
            function([0.1, 0.2, 0.3], [True, True, True])
        with pytest.raises(DatasetError, match="3 pairs with 0 positives"):
            function([0.1, 0.2, 0.3], [False, False, False])
        with pytest.raises(ConfigError, match="score 1 is not finite"):
            function([0.1, np.nan, 0.3], [True, False, True])
        with pytest.raises(ConfigError, match="must both have shape"):
            function([0.1, 0.2, 0.3], [True, False])
        with pytest.raises(ConfigError, match="booleans"):
            function([0.1, 0.2, 0.3], [0, 1, 2])
        with pytest.raises(DatasetError, match="0 pairs"):
            function([], np.zeros(0, dtype=bool))
    for target in (0, -0.1, 1.1, np.nan):
        with pytest.raises(ConfigError, match="must lie in"):
            tar_at_far(SIX_SCORES, SIX_SAME, (0.5, target))
    assert roc_auc(SIX_SCORES, np.array(SIX_SAME, dtype=int)) == roc_auc(SIX_SCORES, SIX_SAME)
