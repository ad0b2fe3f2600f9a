"""Statistics over seeds against scipy's t test and hand-computed values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from interproto_lib.analysis import mean_and_std, paired_difference, paired_differences
from interproto_lib.analysis.statistics import PAIRED_COLUMNS
from interproto_lib.errors import ConfigError


def test_mean_and_std():
    result = mean_and_std([82.65, 82.96, 82.34])
    assert result.mean == pytest.approx(82.65)
    assert result.std == pytest.approx(0.31)  # sqrt((0.31^2 + 0.31^2) / 2)
    assert result.n == 3
    assert str(result) == "82.65 +- 0.31 (3 runs)"


def test_one_run_has_no_spread():
    result = mean_and_std([5.0])
    assert (result.mean, result.std, result.n) == (5.0, None, 1)
    assert str(result) == "5 (1 run)"


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_equals_scipy(n, confidence):
    rng = np.random.default_rng(n)
    baseline, treated = rng.normal(80, 1, n), rng.normal(81, 1, n)
    result = paired_difference(baseline, treated, confidence=confidence)
    expected = scipy.stats.ttest_rel(treated, baseline).confidence_interval(confidence)
    assert result.interval == pytest.approx((expected.low, expected.high))
    assert result.mean == pytest.approx(np.mean(treated - baseline))
    assert result.std == pytest.approx(np.std(treated - baseline, ddof=1))
    assert result.differences == pytest.approx(tuple(treated - baseline))
    assert (result.n, result.confidence) == (n, confidence)


def test_interval_for_three_seeds_by_hand():
    # t(0.975; 2) = 4.30265: differences 1, 2, 3 have mean 2, deviation 1.
    result = paired_difference([10, 20, 30], [11, 22, 33])
    half = 4.30265 / 3**0.5
    assert result.interval == pytest.approx((2 - half, 2 + half), abs=1e-4)
    assert result.excludes_zero is False
    assert str(result) == "+2 [-0.4841, +4.484] (95%, 3 seeds)"


def test_shared_noise_between_seeds_cancels():
    shared = np.array([0.0, 50.0, -30.0, 10.0])
    gain = paired_difference(80 + shared, 80 + shared + [1.0, 1.1, 0.9, 1.0])
    assert gain.excludes_zero is True
    loss = paired_difference(80 + shared + [1.0, 1.1, 0.9, 1.0], 80 + shared)
    assert loss.interval == pytest.approx((-gain.interval[1], -gain.interval[0]))
    assert loss.excludes_zero is True


def test_one_seed_has_no_interval():
    result = paired_difference([80.0], [81.5])
    assert result.mean == 1.5
    assert (result.interval, result.std, result.excludes_zero, result.n) == (None, None, None, 1)
    assert str(result) == "+1.5 (1 seed, no interval)"


def test_a_table_is_paired_measure_by_measure_and_method_by_method():
    rows = [("C20", "a", 0, 1.0, 2.0), ("C20", "b", 0, 1.0, 4.0), ("C20", "a", 1, 3.0, 5.0), ("C30", "a", 0, 1.0, 0.0)]
    table = pd.DataFrame(rows, columns=list(PAIRED_COLUMNS))
    found = paired_differences(table)
    assert {key: d.differences for key, d in found.items()} == {
        ("C20", "a"): (1.0, 2.0),
        ("C20", "b"): (3.0,),
        ("C30", "a"): (-1.0,),
    }
    assert list(found) == [("C20", "a"), ("C20", "b"), ("C30", "a")]
    assert paired_differences(table, confidence=0.5)["C20", "a"].confidence == 0.5
    with pytest.raises(ConfigError, match="no column treated"):
        paired_differences(table.drop(columns="treated"))
    with pytest.raises(ConfigError, match="Seed given twice"):
        paired_differences(pd.concat([table, table.iloc[:1]]))


def test_errors():
    with pytest.raises(ConfigError, match="2 baseline and 1 treated"):
        paired_difference([1, 2], [1])
    with pytest.raises(ConfigError, match="confidence"):
        paired_difference([1, 2], [1, 2], confidence=95)
    with pytest.raises(ConfigError, match="treated must be"):
        paired_difference([1.0], [np.nan])
    with pytest.raises(ConfigError, match="values must be"):
        mean_and_std([])
