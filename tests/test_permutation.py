"""The sign-flip test against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

import interproto_lib.analysis.permutation as permutation
from interproto_lib.analysis.permutation import permutation_test
from interproto_lib.errors import ConfigError, DatasetError


def make_runs(*, n_people=10, m=60, n_seeds=2, effect=0.0, seed=0):
    rng = np.random.default_rng(seed)
    people = rng.integers(0, n_people, m)
    skill = rng.uniform(0.4, 0.8, n_people)[people]
    baseline = rng.random((n_seeds, m)) < skill
    treated = rng.random((n_seeds, m)) < skill + effect
    return baseline, treated, people


def reference(baseline, treated, people, **options):
    sums = [float(sum((treated - baseline)[:, people == p].sum(axis=0))) for p in np.unique(people)]
    return scipy.stats.permutation_test(
        (np.array(sums),), lambda x, axis: np.sum(x, axis=axis), permutation_type="samples", vectorized=True, **options
    ).pvalue


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("whole", [True, False])
def test_exact_equals_scipy(seed, whole):
    baseline, treated, people = make_runs(n_people=9, seed=seed, effect=0.1)
    baseline, treated = baseline.astype(float), treated.astype(float)
    if not whole:  # shares, whose sums differ
        treated += np.random.default_rng(seed).normal(scale=0.2, size=treated.shape)
    result = permutation_test(baseline, treated, people)
    assert result.exact
    assert result.n_clusters == 9
    assert result.p_value == pytest.approx(reference(baseline, treated, people, n_resamples=np.inf), abs=1e-12)
    assert result.statistic == pytest.approx(np.mean(treated - baseline))


def test_drawn_signs_approach_the_exact_value():
    baseline, treated, people = make_runs(n_people=12, effect=0.08, seed=3)
    exact = permutation_test(baseline, treated, people)
    drawn = permutation_test(baseline, treated, people, n_permutations=2**9 - 1)
    assert exact.exact
    assert not drawn.exact
    many = [permutation_test(baseline, treated, people, n_permutations=500, seed=s).p_value for s in range(40)]
    assert np.mean(many) == pytest.approx(exact.p_value, abs=0.01)
    assert 0.05 < exact.p_value < 0.95  # the comparison above says something


def test_drawn_equals_scipy_on_many_people():
    baseline, treated, people = make_runs(n_people=40, m=300, effect=0.05, seed=1)
    baseline, treated = baseline.astype(float), treated.astype(float)
    expected = reference(baseline, treated, people, n_resamples=20_000, rng=np.random.default_rng(0))
    result = permutation_test(baseline, treated, people, n_permutations=20_000)
    assert not result.exact
    assert result.n_permutations == 20_000
    assert result.p_value == pytest.approx(expected, abs=0.015)


def test_p_is_uniform_without_an_effect():
    rng = np.random.default_rng(0)
    values = []
    for seed in range(400):
        baseline, treated, people = make_runs(n_people=25, m=200, seed=seed)
        smooth = treated + rng.normal(scale=0.1, size=treated.shape)  # without ties, which make p larger
        values.append(permutation_test(baseline, smooth, people, n_permutations=400).p_value)
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01
    assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_pairs_of_one_person_are_no_independent_evidence():
    # Each person's pairs change together and people differ: counting pairs as independent finds too much.
    rng = np.random.default_rng(0)
    by_person, by_pair = [], []
    for _ in range(200):
        people = np.repeat(np.arange(12), 20)
        better = rng.choice([-1.0, 0.0, 1.0], 12)[people]
        baseline = np.zeros(240)
        by_person.append(permutation_test(baseline, better, people).p_value)
        by_pair.append(permutation_test(baseline, better, np.arange(240), n_permutations=400).p_value)
    assert np.mean(np.array(by_person) <= 0.05) < 0.09
    assert np.mean(np.array(by_pair) <= 0.05) > 0.4


def test_a_clear_effect_is_found():
    assert permutation_test(*make_runs(n_people=60, m=600, effect=0.2)).p_value == 1 / 10_001


def test_by_hand():
    # Sums 2, 1, 1: of 8 sign patterns only +++ and --- reach 4.
    result = permutation_test([0, 0, 0, 0], [1, 1, 1, 1], ["a", "a", "b", "c"])
    assert (result.p_value, result.statistic, result.n_clusters, result.n_permutations) == (0.25, 1.0, 3, 8)
    assert str(result) == "+1, p = 0.25 (3 clusters, 8 sign patterns, all)"


def test_equal_runs_and_the_order_of_methods():
    baseline, treated, people = make_runs(effect=0.2)
    equal = permutation_test(baseline, baseline, people)
    assert (equal.p_value, equal.statistic, equal.exact) == (1.0, 0.0, True)
    one, two = permutation_test(baseline, treated, people), permutation_test(treated, baseline, people)
    assert (one.p_value, one.statistic) == (two.p_value, -two.statistic)


def test_many_people_without_a_difference_stay_exact():
    baseline = np.zeros(1000)
    treated = np.r_[np.ones(5), np.zeros(995)]
    result = permutation_test(baseline, treated, np.arange(1000))
    assert result.exact
    assert (result.p_value, result.n_clusters) == (2 / 32, 1000)


def test_blocks_and_seed(monkeypatch):
    runs = make_runs(n_people=40, m=300, effect=0.05)
    whole = permutation_test(*runs, seed=1)
    assert permutation_test(*runs, seed=1) == whole
    assert permutation_test(*runs, seed=2).p_value != whole.p_value
    monkeypatch.setattr(permutation, "_BLOCK_NUMBERS", 100)
    assert permutation_test(*runs, seed=1) == whole


def test_errors():
    baseline, treated, people = make_runs()
    with pytest.raises(ConfigError, match="same shape"):
        permutation_test(baseline, treated[:1], people)
    with pytest.raises(ConfigError, match="cluster has shape"):
        permutation_test(baseline, treated, people[1:])
    with pytest.raises(DatasetError, match="cluster of pair 0 is missing, as of 60"):
        permutation_test(baseline, treated, [None] * 60)
    wrong = treated.astype(float)
    wrong[1, 2] = np.inf
    with pytest.raises(ConfigError, match="not finite for pair 2 of seed 1"):
        permutation_test(baseline, wrong, people)
    with pytest.raises(ConfigError, match="n_permutations"):
        permutation_test(baseline, treated, people, n_permutations=0)
    with pytest.raises(ConfigError, match="seed"):
        permutation_test(baseline, treated, people, seed=-1)
