"""Bootstrap intervals against plain loops, hand-made cases and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

import interproto_lib.analysis.bootstrap as bootstrap
from interproto_lib.analysis.bootstrap import (
    BootstrapInterval,
    bootstrap_accuracy,
    bootstrap_difference,
    bootstrap_identification,
)
from interproto_lib.errors import ConfigError, DatasetError


def make_pairs(*, n_people=12, n_positives=60, n_negatives=45, n_seeds=3, seed=0):
    rng = np.random.default_rng(seed)
    own = rng.integers(0, n_people, n_positives)
    left = rng.integers(0, n_people, n_negatives)
    right = (left + rng.integers(1, n_people, n_negatives)) % n_people
    names = np.array([f"p{i:02d}" for i in range(n_people)])
    same = np.repeat([True, False], [n_positives, n_negatives])
    order = rng.permutation(len(same))
    correct = rng.random((n_seeds, len(same))) < np.linspace(0.6, 0.9, n_seeds)[:, None]
    return (
        correct,
        same[order],
        names[np.concatenate([own, left])][order],
        names[np.concatenate([own, right])][order],
    )


def reference_replicates(values, same, left, right, *, n_resamples, seed):
    """The documented draw, with every pair of a replicate written out as often as it weighs."""
    n_seeds, m = values.shape
    people = sorted({*left, *right})
    identity_rng, seed_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    seeds = seed_rng.integers(0, n_seeds, size=(n_resamples, n_seeds))
    drawn = identity_rng.integers(0, len(people), size=(n_resamples, len(people)))
    replicates = np.full(n_resamples, np.nan)
    pending = list(range(n_resamples))
    while pending:
        for row, of_people in zip(list(pending), drawn, strict=True):
            chosen = [people[i] for i in of_people]
            times = {person: chosen.count(person) for person in people}
            by_class = {True: [], False: []}
            for j in range(m):
                n = times[left[j]] if left[j] == right[j] else times[left[j]] * times[right[j]]
                by_class[bool(same[j])].extend([j] * n)
            classes = [c for c in (True, False) if (same == c).any()]
            if any(not by_class[c] for c in classes):
                continue
            of_seeds = []
            for s in seeds[row]:
                means = {c: math.fsum(float(values[s, j]) for j in by_class[c]) / len(by_class[c]) for c in classes}
                of_seeds.append(sum(np.mean(same == c) * means[c] for c in classes))
            replicates[row] = np.mean(of_seeds)
            pending.remove(row)
        drawn = identity_rng.integers(0, len(people), size=(len(pending), len(people)))
    return replicates


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("n_people", [3, 12])  # of 3, every other replicate is drawn again
def test_equals_the_loop_over_repeated_pairs(n_seeds, n_people):
    correct, same, left, right = make_pairs(n_people=n_people, n_seeds=n_seeds)
    if n_people == 3:
        keep = same | ((left == "p00") & (right == "p01"))
        correct, same, left, right = correct[:, keep], same[keep], left[keep], right[keep]
    expected = reference_replicates(correct, same, left, right, n_resamples=150, seed=5)
    result = bootstrap_accuracy(correct, same, left, right, n_resamples=150, confidence=0.9, seed=5)
    assert result.estimate == pytest.approx(correct.mean(), abs=1e-12)
    np.testing.assert_allclose((result.low, result.high), np.quantile(expected, [0.05, 0.95]), atol=1e-12)
    assert (result.n_pairs, result.n_identities, result.n_seeds) == (len(same), n_people, n_seeds)
    assert (result.n_resamples, result.confidence, result.resampled) == (150, 0.9, "identities")


def test_difference_equals_the_loop_and_one_draw_serves_both():
    baseline, same, left, right = make_pairs()
    treated = make_pairs(seed=1)[0]
    one, two = (reference_replicates(v, same, left, right, n_resamples=100, seed=2) for v in (baseline, treated))
    result = bootstrap_difference(baseline, treated, same, left, right, n_resamples=100, seed=2)
    np.testing.assert_allclose((result.low, result.high), np.quantile(two - one, [0.025, 0.975]), atol=1e-12)
    assert result.estimate == pytest.approx(treated.mean() - baseline.mean())
    back = bootstrap_difference(treated, baseline, same, left, right, n_resamples=100, seed=2)
    np.testing.assert_allclose((back.estimate, back.low, back.high), (-result.estimate, -result.high, -result.low))


def test_identification_equals_the_loop():
    rng = np.random.default_rng(0)
    hits, people = rng.random((2, 30)) < 0.7, np.array([f"p{i % 25}" for i in range(30)])
    expected = reference_replicates(hits, np.ones(30, bool), people, people, n_resamples=100, seed=0)
    result = bootstrap_identification(hits, people, n_resamples=100)
    np.testing.assert_allclose((result.low, result.high), np.quantile(expected, [0.025, 0.975]), atol=1e-12)
    assert (result.n_pairs, result.n_identities, result.n_seeds) == (30, 25, 2)


def test_blocks_change_nothing(monkeypatch):
    correct, same, left, right = make_pairs()
    whole = bootstrap_accuracy(correct, same, left, right, n_resamples=97)
    unknown = [None] * len(same)
    pairs = bootstrap_accuracy(correct, same, unknown, unknown, n_resamples=97)
    monkeypatch.setattr(bootstrap, "_BLOCK_NUMBERS", 50)
    assert bootstrap_accuracy(correct, same, left, right, n_resamples=97) == whole
    assert bootstrap_accuracy(correct, same, unknown, unknown, n_resamples=97) == pairs


def test_neither_order_of_pairs_nor_sides_matter():
    correct, same, left, right = make_pairs()
    one = bootstrap_accuracy(correct, same, left, right, n_resamples=200)
    order = np.random.default_rng(0).permutation(len(same))
    assert bootstrap_accuracy(correct[:, order], same[order], left[order], right[order], n_resamples=200) == one
    assert bootstrap_accuracy(correct, same, right, left, n_resamples=200) == one
    assert bootstrap_accuracy(correct.astype(float), same.astype(int), left, right, n_resamples=200) == one


def test_seed_decides_the_draw():
    pairs = make_pairs()
    assert bootstrap_accuracy(*pairs, seed=3) == bootstrap_accuracy(*pairs, seed=3)
    one, two = bootstrap_accuracy(*pairs, seed=3), bootstrap_accuracy(*pairs, seed=4)
    assert (one.low, one.high) != (two.low, two.high)
    assert one.low == pytest.approx(two.low, abs=0.02)


def test_all_right_and_all_wrong_are_certain():
    _, same, left, right = make_pairs()
    for value in (True, False):
        result = bootstrap_accuracy(np.full((3, len(same)), value), same, left, right)
        assert (result.estimate, result.low, result.high) == (value, value, value)


def test_two_people_by_hand():
    # Of a there are two pairs, both right, of b one pair, wrong: drawn aa 1, ab and ba 2/3, bb 0.
    people = ["a", "a", "b"]
    result = bootstrap_accuracy([1, 1, 0], [True] * 3, people, people, n_resamples=4000, confidence=0.4)
    assert (result.estimate, result.low, result.high) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    wide = bootstrap_accuracy([1, 1, 0], [True] * 3, people, people, n_resamples=4000, confidence=0.6)
    assert (wide.low, wide.high) == (0, 1)  # each end has a quarter of the replicates


def test_class_balance_is_held():
    # Positives all right, negatives all wrong: every replicate has the list's own share of positives.
    _, same, left, right = make_pairs()
    result = bootstrap_accuracy(same, same, left, right)
    assert result.low == result.high == result.estimate == same.mean()


def test_identical_runs_differ_by_exactly_nothing():
    correct, same, left, right = make_pairs()
    result = bootstrap_difference(correct, correct, same, left, right)
    assert (result.estimate, result.low, result.high) == (0, 0, 0)
    assert not result.excludes_zero


def test_a_clear_difference_excludes_zero_and_seeds_widen_the_interval():
    correct, same, left, right = make_pairs(n_people=40, n_positives=400, n_negatives=400)
    assert bootstrap_difference(correct, np.ones_like(correct), same, left, right).excludes_zero
    one = bootstrap_accuracy(correct[1], same, left, right)
    two = bootstrap_accuracy(correct, same, left, right)  # 60, 75 and 90% by seed
    assert two.high - two.low > 2 * (one.high - one.low)
    assert (one.n_seeds, two.n_seeds) == (1, 3)


def test_shuffled_labels_leave_chance_inside():
    rng = np.random.default_rng(0)
    _, same, left, right = make_pairs(n_people=60, n_positives=500, n_negatives=500, n_seeds=1)
    scores = rng.normal(size=1000) + 3 * same
    shuffled = rng.permutation(same)
    judged = (scores >= 1.5) == shuffled
    result = bootstrap_accuracy(judged, shuffled, left, right)
    assert result.low < 0.5 < result.high
    assert bootstrap_accuracy((scores >= 1.5) == same, same, left, right).low > 0.85


def test_unknown_identities_resample_pairs_and_say_so():
    rng = np.random.default_rng(1)
    same = np.repeat([True, False], [300, 700])
    correct = np.stack([rng.random(1000) < np.where(same, 0.6, 0.9)] * 2)
    for unknown in ([None] * 1000, np.full(1000, np.nan)):
        result = bootstrap_accuracy(correct, same, unknown, unknown, n_resamples=20_000)
        assert (result.resampled, result.n_identities) == ("pairs", None)
        # Two binomial classes, held apart; equal seeds add nothing.
        p1, p0 = correct[0, same].mean(), correct[0, ~same].mean()
        deviation = math.sqrt(300 * p1 * (1 - p1) + 700 * p0 * (1 - p0)) / 1000
        assert result.low == pytest.approx(result.estimate - 1.96 * deviation, abs=0.002)
        assert result.high == pytest.approx(result.estimate + 1.96 * deviation, abs=0.002)
    assert "identities unknown" in str(result)


def simulated_coverage(n_experiments=300, n_people=60):
    """Share of experiments whose interval holds the truth: the normal interval of independent pairs, and ours."""
    rng = np.random.default_rng(7)
    naive, ours, truth = 0, 0, 0.8
    n_of = np.r_[np.full(6, 30), np.full(n_people - 6, 3)]  # a few people carry half of the positive pairs
    own = np.repeat(np.arange(n_people), n_of)
    left = np.repeat(np.arange(20), len(own) // 20)  # every child in many negative pairs
    for experiment in range(n_experiments):
        effect = rng.choice([-0.15, 0.15], n_people)  # how easy a person is
        right = (left + rng.integers(1, n_people, len(left))) % n_people
        chance = np.concatenate([truth + effect[own], truth + 0.6 * (effect[left] + effect[right])])
        correct = rng.random(len(chance)) < chance
        same = np.repeat([True, False], [len(own), len(left)])
        result = bootstrap_accuracy(
            correct, same, np.r_[own, left], np.r_[own, right], n_resamples=300, seed=experiment
        )
        half = 1.96 * math.sqrt(correct.mean() * (1 - correct.mean()) / len(correct))
        naive += abs(correct.mean() - truth) <= half
        ours += result.low <= truth <= result.high
    return naive / n_experiments, ours / n_experiments


def test_identities_cover_where_pairs_do_not():
    naive, ours = simulated_coverage()
    assert naive < 0.8
    assert 0.9 < ours < 0.985


def test_text_names_what_was_resampled():
    result = BootstrapInterval(
        estimate=0.82345, low=0.80123, high=0.84, confidence=0.95, n_pairs=3786, n_identities=530, n_seeds=3,
        n_resamples=2000, resampled="identities",
    )  # fmt: skip
    assert str(result) == "0.8235 [0.8012, 0.84] (95%, 3786 pairs of 530 identities, 3 seeds)"
    assert result.excludes_zero


def test_errors():
    correct, same, left, right = make_pairs()
    unknown = left.astype(object)
    unknown[4] = None
    with pytest.raises(DatasetError, match="1 of 210 identities of the pairs are unknown, the first in pair 4"):
        bootstrap_accuracy(correct, same, unknown, right)
    with pytest.raises(DatasetError, match="All 3 pairs are of the identity 'a'"):
        bootstrap_identification([1, 0, 1], ["a"] * 3)
    with pytest.raises(ConfigError, match="right_identity has shape"):
        bootstrap_accuracy(correct, same, left, right[1:])
    with pytest.raises(ConfigError, match="same has shape"):
        bootstrap_accuracy(correct, same[1:], left, right)
    with pytest.raises(ConfigError, match="booleans"):
        bootstrap_accuracy(correct, same * 2, left, right)
    wrong = correct.astype(float)
    wrong[1, 7] = np.nan
    with pytest.raises(ConfigError, match="not finite for pair 7 of seed 1"):
        bootstrap_accuracy(wrong, same, left, right)
    with pytest.raises(ConfigError, match="same seeds on the same pairs"):
        bootstrap_difference(correct, correct[:2], same, left, right)
    with pytest.raises(ConfigError, match=r"must have shape \(pairs,\)"):
        bootstrap_accuracy(correct[None], same, left, right)
    for wrong_setting in ({"n_resamples": 0}, {"confidence": 1.0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong_setting))):
            bootstrap_accuracy(correct, same, left, right, **wrong_setting)


def test_too_few_people_for_a_class(monkeypatch):
    # The only negative pair needs both a and b, which 15 of 27 draws lack.
    left, right = ["a", "b", "c", "a"], ["a", "b", "c", "b"]
    assert bootstrap_accuracy([1, 0, 1, 1], [1, 1, 1, 0], left, right, n_resamples=50).n_identities == 3
    monkeypatch.setattr(bootstrap, "_MAX_ROUNDS", 1)
    with pytest.raises(DatasetError, match="3 identities are too few to resample"):
        bootstrap_accuracy([1, 0, 1, 1], [1, 1, 1, 0], left, right, n_resamples=50)
