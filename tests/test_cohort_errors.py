"""Error rates by age against brute force over all pairs, and the factor between children and adults."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import child_factor, cohort_error_rates, threshold_at_fmr
from interproto_lib.data import AGE_GROUPS
from interproto_lib.errors import ConfigError, DatasetError, ManifestError

GROUP_STARTS = (0, 13, 19, 26, 36, 46, 56, 66)


def make_images(*, n=90, n_people=25, d=6, seed=0, unlabelled=5):
    rng = np.random.default_rng(seed)
    people = rng.integers(0, n_people, n)
    centres = rng.normal(size=(n_people, d))
    embeddings = (centres[people] + 0.5 * rng.normal(size=(n, d))) * rng.uniform(0.1, 9, size=(n, 1))
    ages = np.where(rng.random(n) < 0.3, rng.uniform(0, 13, n), rng.uniform(13, 80, n))
    ages[rng.permutation(n)[:unlabelled]] = np.nan
    manifest = pd.DataFrame({"identity": [f"p{i:02d}" for i in people], "age_years": ages})
    return embeddings.astype(np.float32), manifest


def all_scores(embeddings):
    """Every pair i < j with its cosine, by a loop."""
    unit = [row.astype(np.float64) / math.sqrt(math.fsum(row.astype(np.float64) ** 2)) for row in embeddings]
    for i, j in itertools.combinations(range(len(unit)), 2):
        yield i, j, np.float32(math.fsum(unit[i] * unit[j]))


def impostor_scores(embeddings, identities):
    return np.array([score for i, j, score in all_scores(embeddings) if identities[i] != identities[j]])


@pytest.mark.parametrize("block_rows", [1, 7, 1000])
@pytest.mark.parametrize("target", [0.0005, 0.01, 0.2, 0.95])
def test_threshold_is_the_lowest_that_keeps_the_target(target, block_rows):
    embeddings, manifest = make_images()
    scores = impostor_scores(embeddings, manifest["identity"])
    threshold = threshold_at_fmr(embeddings, manifest["identity"], target_fmr=target, block_rows=block_rows)
    assert np.mean(scores >= threshold) <= target
    below = scores[scores < threshold].max()
    assert np.mean(scores >= below) > target
    above = scores[scores >= threshold].min()
    assert threshold == pytest.approx((float(below) + float(above)) / 2, abs=1e-7)


def test_tied_cosines_all_match_or_none_does():
    # 1 once, 0.6 four times, -0.28 once, -0.6 and -1 twice each.
    embeddings = np.array([[5, 0], [5, 0], [3, 4], [3, -4], [-5, 0]], dtype=np.float32)
    people = list("abcde")
    scores = impostor_scores(embeddings, people)
    np.testing.assert_allclose(np.sort(scores), [-1, -1, -0.6, -0.6, -0.28, 0.6, 0.6, 0.6, 0.6, 1], atol=1e-6)
    cases = {0.1: 0.8, 0.2: 0.8, 0.49: 0.8, 0.5: 0.16, 0.6: -0.44, 0.7: -0.44, 0.8: -0.8, 0.9: -0.8}
    for target, expected in cases.items():
        assert threshold_at_fmr(embeddings, people, target_fmr=target) == pytest.approx(expected, abs=1e-6)


def test_threshold_above_a_tie_at_the_top():
    embeddings = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    threshold = threshold_at_fmr(embeddings, list("abcd"), target_fmr=0.3)  # one of six may match, three tie
    assert threshold == np.nextafter(np.float32(1), np.float32(2))
    manifest = pd.DataFrame({"identity": list("abcd"), "age_years": 30.0})
    assert cohort_error_rates(embeddings, manifest, threshold=threshold).overall_fmr == 0
    assert cohort_error_rates(embeddings, manifest, threshold=1.0).overall_fmr == 0.5


def test_threshold_between_neighbouring_float32_numbers_is_exact():
    # A threshold that float32 cannot hold: the cosine just below it must not match, the one just above must.
    cosine = np.float32(0.6)
    manifest = pd.DataFrame({"identity": ["a", "b"], "age_years": 30.0})
    embeddings = np.array([[1, 0], [3, 4]], dtype=np.float64)
    between = (float(cosine) + float(np.nextafter(cosine, np.float32(1)))) / 2
    assert cohort_error_rates(embeddings, manifest, threshold=float(cosine)).overall_fmr == 1
    assert cohort_error_rates(embeddings, manifest, threshold=between).overall_fmr == 0


def test_threshold_errors():
    embeddings, manifest = make_images(n=12, n_people=4)
    people = manifest["identity"]
    n = len(impostor_scores(embeddings, people))
    with pytest.raises(DatasetError, match=rf"{n} pairs of two people are too few .* resolve is {1 / n:.3g}"):
        threshold_at_fmr(embeddings, people, target_fmr=0.99 / n)
    assert threshold_at_fmr(embeddings, people, target_fmr=1 / n) < 1
    with pytest.raises(DatasetError, match="two people are needed"):
        threshold_at_fmr(embeddings, ["a"] * 12)
    with pytest.raises(DatasetError, match="identity of image 3 is missing, as of 1"):
        threshold_at_fmr(embeddings, [None if i == 3 else "a" for i in range(12)])
    for target in (0, 1, -0.1, math.nan):
        with pytest.raises(ConfigError, match="target_fmr"):
            threshold_at_fmr(embeddings, people, target_fmr=target)
    with pytest.raises(ConfigError, match="block_rows"):
        threshold_at_fmr(embeddings, people, target_fmr=0.5, block_rows=0)
    with pytest.raises(ConfigError, match="one for each of 12"):
        threshold_at_fmr(embeddings, people[1:])
    with pytest.raises(ConfigError, match="embedding 2 has length zero"):
        threshold_at_fmr(np.where(np.arange(12)[:, None] == 2, 0, embeddings), people)
    with pytest.raises(ConfigError, match="embedding 2 has length zero or is not finite"):
        threshold_at_fmr(np.where(np.arange(12)[:, None] == 2, np.nan, embeddings), people)
    with pytest.raises(ConfigError, match="shape"):
        threshold_at_fmr(embeddings[0], people)


@pytest.mark.parametrize("block_rows", [1, 16, 512])
def test_rates_equal_brute_force(block_rows):
    embeddings, manifest = make_images()
    threshold = 0.55
    counts = {name: np.zeros((8, 8), dtype=int) for name in ("impostor", "false match", "genuine", "false non-match")}
    for i, j, score in all_scores(embeddings):
        ages = manifest["age_years"][[i, j]].to_numpy()
        if np.isnan(ages).any():
            continue
        a, b = (max(k for k, start in enumerate(GROUP_STARTS) if age >= start) for age in ages)
        same = manifest["identity"][i] == manifest["identity"][j]
        names = ["genuine" if same else "impostor"]
        if (score >= threshold) != same:
            names.append("false non-match" if same else "false match")
        for name in names:
            counts[name][a, b] += 1
            if a != b:
                counts[name][b, a] += 1
    result = cohort_error_rates(embeddings, manifest, threshold=threshold, block_rows=block_rows)
    np.testing.assert_array_equal(result.n_impostor, counts["impostor"])
    np.testing.assert_array_equal(result.n_false_matches, counts["false match"])
    np.testing.assert_array_equal(result.n_genuine, counts["genuine"])
    np.testing.assert_array_equal(result.n_false_non_matches, counts["false non-match"])
    assert counts["false match"].sum() > 50
    assert counts["false non-match"].sum() > 5
    assert result.groups == AGE_GROUPS
    assert (result.n_images, result.n_unlabelled) == (85, 5)
    for rate, wrong, all_ in ((result.fmr, "false match", "impostor"), (result.fnmr, "false non-match", "genuine")):
        for a, b in itertools.product(range(8), repeat=2):
            expected = counts[wrong][a, b] / counts[all_][a, b] if counts[all_][a, b] else math.nan
            assert rate[a, b] == pytest.approx(expected, nan_ok=True)
    upper = np.triu_indices(8)
    assert result.overall_fmr == counts["false match"][upper].sum() / counts["impostor"][upper].sum()
    assert result.overall_fnmr == counts["false non-match"][upper].sum() / counts["genuine"][upper].sum()


def test_long_table_holds_each_two_groups_once():
    result = cohort_error_rates(*make_images(), threshold=0.55)
    frame = result.to_frame()
    assert len(frame) == 36
    assert not frame.duplicated(["group_a", "group_b"]).any()
    assert frame["n_impostor"].sum() + frame["n_genuine"].sum() == 85 * 84 // 2
    row = frame[(frame["group_a"] == "0-12") & (frame["group_b"] == "26-35")].iloc[0]
    assert row["n_false_matches"] == result.n_false_matches[0, 3]
    assert row["fmr"] == result.fmr[0, 3]


def test_no_pairs_are_nan_and_nothing_warns():
    manifest = pd.DataFrame({"identity": ["a", "b"], "age_years": [5.0, 40.0]})
    result = cohort_error_rates(np.eye(2), manifest, threshold=0.5)
    assert result.fmr[0, 4] == result.overall_fmr == 0
    assert np.isnan(result.fmr[0, 0])
    assert np.isnan(result.fnmr).all()
    assert math.isnan(result.overall_fnmr)


def test_rates_errors():
    embeddings, manifest = make_images()
    with pytest.raises(ConfigError, match="no column age_years"):
        cohort_error_rates(embeddings, manifest[["identity"]], threshold=0.5)
    with pytest.raises(ConfigError, match="89 embeddings do not fit 90"):
        cohort_error_rates(embeddings[1:], manifest, threshold=0.5)
    with pytest.raises(ConfigError, match="finite"):
        cohort_error_rates(embeddings, manifest, threshold=math.nan)
    with pytest.raises(DatasetError, match="0 of 90 images have an age"):
        cohort_error_rates(embeddings, manifest.assign(age_years=np.nan), threshold=0.5)
    with pytest.raises(ManifestError, match="age"):
        cohort_error_rates(embeddings, manifest.assign(age_years=-1.0), threshold=0.5)


def reference_factors(embeddings, manifest, *, threshold, n_resamples, seed):
    """The documented draw, every pair of images weighted in a loop."""
    ages, names = manifest["age_years"].to_numpy(), manifest["identity"].to_numpy()
    child, adult = ages < 13, ages >= 18
    people = sorted(set(names[child | adult]))
    pairs = {"child": [], "adult": []}
    for i, j, score in all_scores(embeddings):
        for cohort, members in (("child", child), ("adult", adult)):
            if names[i] != names[j] and members[i] and members[j]:
                pairs[cohort].append((people.index(names[i]), people.index(names[j]), bool(score >= threshold)))
    factors = []
    for drawn in np.random.default_rng([seed, 0]).integers(0, len(people), size=(n_resamples, len(people))):
        times = np.bincount(drawn, minlength=len(people))
        rates = []
        for of_cohort in pairs.values():
            weight = sum(times[a] * times[b] for a, b, _ in of_cohort)
            matches = sum(times[a] * times[b] for a, b, match in of_cohort if match)
            rates.append(matches / weight if weight else math.nan)
        if not any(map(math.isnan, rates)) and any(rates):
            factors.append(rates[0] / rates[1] if rates[1] else math.inf)
    return np.array(sorted(factors)), pairs


def test_factor_equals_brute_force():
    embeddings, manifest = make_images(n=60, n_people=15, seed=2)
    factors, pairs = reference_factors(embeddings, manifest, threshold=0.4, n_resamples=200, seed=4)
    result = child_factor(embeddings, manifest, threshold=0.4, n_resamples=200, confidence=0.9, seed=4, block_rows=9)
    assert (result.n_child_pairs, result.n_adult_pairs) == (len(pairs["child"]), len(pairs["adult"]))
    assert result.child_fmr == pytest.approx(np.mean([match for *_, match in pairs["child"]]))
    assert result.adult_fmr == pytest.approx(np.mean([match for *_, match in pairs["adult"]]))
    assert result.factor == pytest.approx(result.child_fmr / result.adult_fmr)
    assert 0 < result.low < result.factor < result.high < math.inf
    n = len(factors)
    assert result.low == pytest.approx(factors[int(0.05 * n)])
    assert result.high == pytest.approx(factors[n - 1 - int(0.05 * n)])
    children = manifest[manifest["age_years"] < 13]
    assert result.n_child_identities == children["identity"].nunique()
    if n == 200:
        assert result.note == ""
    else:
        assert result.note.startswith(f"{200 - n} of 200 replicates")


def confused_images(share_child, share_adult, *, n_people=200, seed=0):
    """One child and one adult image a person; in each cohort some people share one face, all others have their own."""
    rng = np.random.default_rng(seed)
    rows, records = [], []
    faces = iter(np.eye(2 * n_people + 2))
    for age, share in ((6.0, share_child), (40.0, share_adult)):
        common = next(faces)
        n_common = round(share * n_people)
        for person in range(n_people):
            rows.append(common if person < n_common else next(faces))
            records.append({"identity": f"p{person}", "age_years": age})
    order = rng.permutation(len(rows))
    return np.array(rows)[order], pd.DataFrame(records).iloc[order].reset_index(drop=True)


def test_children_confused_ten_times_as_often():
    # Shares 0.40 and 0.13 of 200 people: 80 * 79 / 2 = 3160 and 26 * 25 / 2 = 325 matches.
    result = child_factor(*confused_images(0.4, 0.13), threshold=0.5)
    assert result.factor == pytest.approx(3160 / 325)
    assert 3 < result.low < 3160 / 325 < result.high < 40
    mirrored = child_factor(*confused_images(0.13, 0.4), threshold=0.5)
    assert mirrored.factor == pytest.approx(325 / 3160)
    assert mirrored.high < 1 / 3


def test_equal_cohorts_have_factor_one_exactly():
    embeddings, manifest = make_images(n=60, n_people=15, unlabelled=0)
    both = pd.concat([manifest.assign(age_years=6.0), manifest.assign(age_years=40.0)], ignore_index=True)
    result = child_factor(np.concatenate([embeddings, embeddings]), both, threshold=0.7)
    assert (result.factor, result.low, result.high) == (1, 1, 1)  # one draw for both cohorts


def test_factor_is_none_with_a_reason():
    none_of = child_factor(*confused_images(0.4, 0.0), threshold=0.5)
    assert (none_of.factor, none_of.low, none_of.high) == (None, None, None)
    assert none_of.adult_fmr == 0
    assert none_of.note == "no factor: no false match in 19,900 pairs of adults"
    assert "pairs of children and in 19,900 pairs of adults" in child_factor(*confused_images(0, 0), threshold=0.5).note
    embeddings, manifest = confused_images(0.4, 0.13)
    grown = child_factor(embeddings, manifest.assign(age_years=30.0), threshold=0.5)
    assert (grown.child_fmr, grown.factor, grown.n_child_identities) == (None, None, 0)
    assert grown.note == "no factor: there are no two children to compare"
    between = child_factor(embeddings, manifest.assign(age_years=15.0), threshold=0.5)
    assert between.note == "no factor: there are no two children and no two adults to compare"


def test_rare_matches_open_the_interval_and_say_so():
    # Two adults share a face: most replicates lack one of them, so the factor has no upper bound.
    result = child_factor(*confused_images(0.4, 0.01), threshold=0.5)
    assert result.factor == 3160
    assert result.high == math.inf
    assert result.low > 100
    # The same two people are alone in being confused, as children and as adults: else neither rate is above 0.
    rare = child_factor(*confused_images(0.01, 0.01), threshold=0.5)
    assert rare.factor == 1
    assert rare.low is rare.high is None
    assert rare.note.startswith("no interval: ")
    assert int(rare.note.split()[2]) > 1000


def test_factor_errors():
    embeddings, manifest = make_images()
    with pytest.raises(ConfigError, match="overlap"):
        child_factor(embeddings, manifest, threshold=0.5, child_below_years=20)
    with pytest.raises(ConfigError, match="n_resamples"):
        child_factor(embeddings, manifest, threshold=0.5, n_resamples=0)
    with pytest.raises(ConfigError, match="do not fit"):
        child_factor(embeddings[1:], manifest, threshold=0.5)
    with pytest.raises(DatasetError, match="missing"):
        child_factor(embeddings, manifest.assign(identity=None), threshold=0.5)
