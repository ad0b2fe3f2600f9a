"""Child-adult pairs of any gap, and negatives of matched ages, against brute force over all pairs."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interproto_lib.data import PAIR_KINDS, available_pair_kinds, child_adult_pairs, verification_pairs
from interproto_lib.errors import ConfigError, DatasetError

REPO = Path(__file__).resolve().parents[1]
PAIR_LISTS = REPO.parent / "shared" / "reference" / "child_adult_pairs"
needs_lists = pytest.mark.skipif(not PAIR_LISTS.is_dir(), reason=f"the official pair lists are not at {PAIR_LISTS}")

Pairs = set[tuple[int, int]]


def random_manifest(seed: int, n: int = 80, n_identities: int = 6, unlabelled: float = 0.1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ages = rng.choice([0, 2.5, 4, 7, 11.5, 12.5, 13, 16, 18, 20, 22.5, 24, 27, 29, 33, 36, 41, 47, 70], n)
    ages[rng.random(n) < unlabelled] = np.nan
    return pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(n)],
            "identity": [f"p{number}" for number in rng.integers(0, n_identities, n)],
            "age_years": ages,
            "split": rng.choice(["train", "validation", "heldout"], n, p=[0.2, 0.3, 0.5]),
            "source": "x",
        }
    )


def allowed(kind: str, x: float, y: float) -> bool:
    """Whether an image at x years may stand left of one at y >= x years."""
    if kind in ("C20", "C30"):
        return x < 13 <= y and y - x >= float(kind[1:])
    return {"adult-adult": x >= 18, "child-child": y < 13, "any": True}[kind]


def ordered_pairs(manifest: pd.DataFrame, kind: str) -> tuple[Pairs, Pairs]:
    """All positives and negatives of images with ages: left the younger, at equal ages the earlier row."""
    ages, names = manifest["age_years"].to_numpy(), manifest["identity"].tolist()
    found: tuple[Pairs, Pairs] = (set(), set())
    for left, right in product(np.flatnonzero(~np.isnan(ages)).tolist(), repeat=2):
        if (ages[left], left) < (ages[right], right) and allowed(kind, ages[left], ages[right]):
            found[names[left] != names[right]].add((left, right))
    return found


def as_sets(pairs: pd.DataFrame) -> tuple[Pairs, Pairs]:
    both = [set(map(tuple, pairs.loc[pairs["same"] == same, ["left", "right"]].to_numpy())) for same in (True, False)]
    return both[0], both[1]


# --- any gap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gap", [0.0, 7.5, 20.0, 33.0])
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("split", [None, "train", "validation", "heldout"])
def test_all_child_adult_pairs_are_found(seed: int, gap: float, inclusive: bool, split: str | None):
    manifest = random_manifest(seed)
    ages, names, splits = (manifest[column].to_numpy() for column in ("age_years", "identity", "split"))
    expected: tuple[Pairs, Pairs] = (set(), set())
    for child, adult in product(range(len(manifest)), repeat=2):
        far = ages[adult] - ages[child] >= gap if inclusive else ages[adult] - ages[child] > gap
        in_split = split is None or splits[child] == splits[adult] == split
        if in_split and ages[child] < 12 <= ages[adult] and far:
            expected[names[child] != names[adult]].add((child, adult))
    settings: dict[str, Any] = {"min_gap_years": gap, "gap_inclusive": inclusive, "split": split}
    if not all(expected):
        with pytest.raises(DatasetError):
            child_adult_pairs(manifest, child_below_years=12, **settings)
        return
    pairs = child_adult_pairs(manifest, child_below_years=12, **settings)
    positives, negatives = as_sets(pairs)
    assert positives == expected[0] if len(expected[0]) <= len(expected[1]) else positives < expected[0]
    assert negatives <= expected[1]
    assert len(pairs) == 2 * len(positives) == 2 * len(negatives)
    assert pairs.attrs == {"n_eligible_positives": len(expected[0]), "n_unmatched_positives": 0}


def test_they_are_c20_and_c30_without_a_limit():
    manifest = random_manifest(3, n=400)
    for kind, gap in (("C20", 20.0), ("C30", 30.0)):
        for seed in (0, 5):
            ours = child_adult_pairs(manifest, min_gap_years=gap, split="heldout", seed=seed)
            theirs = verification_pairs(manifest, kind, seed=seed, max_positives=None)
            pd.testing.assert_frame_equal(ours, theirs)
    assert len(child_adult_pairs(manifest, max_positives=9)) == 18
    everybody = available_pair_kinds(manifest, split=None)
    by_split = [available_pair_kinds(manifest, split=split) for split in ("train", "validation", "heldout")]
    assert everybody["C20"] == len(child_adult_pairs(manifest)) // 2 > sum(counts["C20"] for counts in by_split)


def test_large_protocols_are_not_cut_off():
    n = 900
    manifest = pd.DataFrame(
        {
            "path": [str(row) for row in range(n)],
            "identity": np.repeat(["a", "b", "c"], n // 3),
            "age_years": np.tile([5.0, 40.0], n // 2),
            "split": "train",
            "source": "x",
        }
    )
    assert len(child_adult_pairs(manifest)) == 2 * 3 * 150 * 150


# --- matched ages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PAIR_KINDS)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tolerance", [0.0, 3.0, 100.0])
def test_matched_negatives_are_the_nearest_that_are_free(kind: str, seed: int, tolerance: float):
    """What makes the choice right, stated without the algorithm: nobody can be given a nearer image that is free."""
    manifest = random_manifest(seed)
    ages = manifest["age_years"].to_numpy()
    expected, others = ordered_pairs(manifest, kind)
    pairs = verification_pairs(
        manifest,
        kind,
        split=None,
        seed=seed,
        negatives="age_matched",
        max_positives=None,
        max_age_difference_years=tolerance,
    )
    positives, negatives = (pairs[pairs["same"] == same].reset_index(drop=True) for same in (True, False))
    assert as_sets(pairs)[0] <= expected
    assert as_sets(pairs)[1] <= others, "negatives obey the age rule, and the left image is the younger one"
    assert len(as_sets(pairs)[1]) == len(negatives), "no negative pair comes twice"
    np.testing.assert_array_equal(positives["left"], negatives["left"])
    differences = np.abs(positives["right_age_years"] - negatives["right_age_years"])
    assert differences.max() <= tolerance
    candidates = {left: [right for other, right in others if other == left] for left, _ in expected}
    free = {left: set(right) for left, right in candidates.items()}
    for left, right in as_sets(pairs)[1]:
        free[left].remove(right)
    for left, right, difference in zip(positives["left"], positives["right"], differences, strict=True):
        assert all(abs(ages[other] - ages[right]) >= difference for other in free[left])
    for left, right in expected - as_sets(pairs)[0]:
        assert all(abs(ages[other] - ages[right]) > tolerance for other in free[left]), "left out without need"
    without_age = available_pair_kinds(manifest, split=None)[kind] - len(expected)
    assert pairs.attrs["n_eligible_positives"] == len(expected) + without_age
    assert pairs.attrs["n_unmatched_positives"] == without_age + len(expected) - len(positives)


@pytest.mark.parametrize("kind", ["C20", "C30", "adult-adult", "child-child"])
def test_ages_do_not_tell_the_classes_apart(kind: str):
    rng = np.random.default_rng(0)
    n = 3000
    manifest = pd.DataFrame(
        {
            "path": [str(row) for row in range(n)],
            "identity": [f"p{number}" for number in rng.integers(0, 60, n)],
            "age_years": rng.integers(0, 80, n).astype(float),
            "split": "heldout",
            "source": "x",
        }
    )
    # Each person was photographed in a few years of life only, so that gaps within a person are small.
    late = rng.integers(0, 40, 60)[[int(name[1:]) for name in manifest["identity"]]]
    manifest["age_years"] = np.where(rng.random(n) < 0.3, rng.integers(0, 13, n), late + rng.integers(0, 40, n))

    def separation(pairs: pd.DataFrame) -> float:
        """Area under the curve of guessing the class from the gap alone; 0.5 is no better than chance."""
        gaps = (pairs["right_age_years"] - pairs["left_age_years"]).to_numpy()
        yes, no = gaps[pairs["same"]], gaps[~pairs["same"]]
        return float((yes[:, None] < no).mean() + 0.5 * (yes[:, None] == no).mean())

    matched = verification_pairs(manifest, kind, negatives="age_matched", max_positives=1500)
    left = [np.sort(matched.loc[matched["same"] == same, "left_age_years"]) for same in (True, False)]
    right = [np.sort(matched.loc[matched["same"] == same, "right_age_years"]) for same in (True, False)]
    np.testing.assert_array_equal(*left)
    assert np.abs(right[0] - right[1]).max() <= 3
    assert abs(separation(matched) - 0.5) < 0.005
    assert matched.attrs["n_unmatched_positives"] < 30
    if kind == "adult-adult":  # without matching they do
        assert abs(separation(verification_pairs(manifest, kind, max_positives=1500)) - 0.5) > 0.015


def test_the_matched_draw_depends_on_the_seed_alone_and_ties_are_drawn_evenly():
    n = 41
    manifest = pd.DataFrame(
        {
            "path": [str(row) for row in range(n)],
            "identity": ["a", *["a"], *[f"p{row % 13}" for row in range(n - 2)]],
            "age_years": [5.0, 40.0, *np.repeat([40.0, 42.0, 60.0], 13)],
            "split": "heldout",
            "source": "x",
        }
    )
    counts = dict.fromkeys(range(2, 15), 0)
    for seed in range(520):
        pairs = child_adult_pairs(manifest, seed=seed, negatives="age_matched")
        if seed < 5:
            pd.testing.assert_frame_equal(pairs, child_adult_pairs(manifest, seed=seed, negatives="age_matched"))
        assert pairs["left"].tolist() == [0, 0]
        counts[int(pairs["right"].iloc[1])] += 1  # only those of exactly 40 years
    assert min(counts.values()) > 40 * 0.5
    assert max(counts.values()) < 40 * 1.6


def tiny(ages: list[float], identities: str) -> pd.DataFrame:
    paths = [f"{row}.png" for row in range(len(ages))]
    columns = {"path": paths, "identity": list(identities), "age_years": ages}
    return pd.DataFrame(columns | {"split": "validation", "source": "x"})


def test_a_positive_without_a_match_is_left_out_and_counted():
    manifest = tiny([5, 40, 60, 6, 42], "aaabb")
    pairs = child_adult_pairs(manifest, negatives="age_matched")
    assert as_sets(pairs) == ({(0, 1), (3, 4)}, {(0, 4), (3, 1)})
    assert pairs.attrs == {"n_eligible_positives": 3, "n_unmatched_positives": 1}
    with pytest.raises(DatasetError, match=r"None of the 3 child-adult pairs .* within 1 years.*Raise max_age_diff"):
        child_adult_pairs(manifest, negatives="age_matched", max_age_difference_years=1)
    assert len(child_adult_pairs(manifest, negatives="age_matched", max_age_difference_years=2)) == 4


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (tiny([5, 20, 6, 24], "aabb"), "There is no child-adult pair (a child and, 20 years later or more, an adult)"),
        (tiny([30, 40, 60, 50], "aabb"), "none of its 4 images with an age is below 13 years"),
        (tiny([np.nan] * 4, "aabb"), "none of its 4 images has an age"),
        (tiny([5, 40, 6, 50], "abcd"), "one person in the manifest: no identity has two images"),
        (tiny([5, 40, 6, 50], "aaaa"), "child-adult pairs of one person in the manifest but none of two people"),
    ],
)
def test_the_reason_is_told_when_there_is_no_pair(manifest: pd.DataFrame, message: str):
    with pytest.raises(DatasetError, match=re.escape(message)):
        child_adult_pairs(manifest)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_gap_years": -1.0},
        {"min_gap_years": float("nan")},
        {"child_below_years": 0.0},
        {"max_positives": 0},
        {"negatives": "random"},
        {"max_age_difference_years": -1.0},
        {"max_age_difference_years": float("nan")},
    ],
)
def test_bad_arguments_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        child_adult_pairs(tiny([5, 40, 6, 50], "aabb"), **wrong)


def test_an_unknown_split_is_refused():
    for function in (child_adult_pairs, available_pair_kinds):
        with pytest.raises(ConfigError, match="'test' is not a split"):
            function(tiny([5, 40, 6, 50], "aabb"), split="test")
    with pytest.raises(DatasetError, match="more than 36 years later"):
        child_adult_pairs(tiny([5, 40, 6, 42], "aabb"), min_gap_years=36, gap_inclusive=False)


# --- the published lists ---------------------------------------------------------------------------------------------


def fgnet(name: str) -> list[tuple[bool, str, str]]:
    cells = [line.split() for line in (PAIR_LISTS / name).read_text(encoding="utf-8").splitlines()]
    return [(same == "1", Path(child).name, Path(adult).name) for same, child, adult in cells]


@needs_lists
@pytest.mark.parametrize(("gap", "n_positives"), [(20, 517), (30, 186)])
def test_fgnet_positives_are_the_published_ones(gap: int, n_positives: int):
    names = sorted({name for row in fgnet("fgnet20_child.txt") for name in row[1:]})
    manifest = pd.DataFrame(
        {
            "path": names,
            "identity": [name[:3] for name in names],
            "age_years": [float(name[4:6]) for name in names],
            "split": "heldout",
            "source": "FG-NET",
        }
    )
    published = {(child, adult) for same, child, adult in fgnet(f"fgnet{gap}_child.txt") if same}
    assert len(published) == n_positives
    for negatives in ("age_rule", "age_matched"):
        pairs = child_adult_pairs(manifest, min_gap_years=gap, negatives=negatives)
        same = pairs[pairs["same"]]
        paths = np.array(names, dtype=object)
        found = set(zip(paths[same["left"]], paths[same["right"]], strict=True))
        assert found <= published
        assert len(published) - len(found) == pairs.attrs["n_unmatched_positives"]
        if negatives == "age_rule":
            assert found == published
        assert len(pairs) == 2 * len(same)
