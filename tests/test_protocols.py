"""Verification pairs against brute force over all pairs, and against the published pair lists."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interproto_lib.data.protocols import PAIR_KINDS, available_pair_kinds, verification_pairs
from interproto_lib.data.seeded_draws import seeded_hash
from interproto_lib.errors import ConfigError, DatasetError, ManifestError

REPO = Path(__file__).resolve().parents[1]
PAIR_LISTS = REPO.parent / "shared" / "reference" / "child_adult_pairs"
needs_lists = pytest.mark.skipif(not PAIR_LISTS.is_dir(), reason=f"the official pair lists are not at {PAIR_LISTS}")


def random_manifest(seed: int, n: int = 60, n_identities: int = 8, unlabelled: float = 0.15) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    # Halves are exact in binary, so that a gap is the same number however it is computed; many ages are equal.
    ages = rng.choice([0, 1.5, 5, 12.5, 13, 17.5, 18, 21.5, 25, 32.5, 33, 45, 80], n)
    ages[rng.random(n) < unlabelled] = np.nan
    return pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(n)],
            "identity": [f"p{number}" for number in rng.integers(0, n_identities, n)],
            "age_years": ages,
            "split": rng.choice(["train", "heldout"], n, p=[0.25, 0.75]),
            "source": "x",
        }
    )


def fits(kind: str, first: float, second: float, child_below: float, inclusive: bool) -> bool:
    if kind == "any":
        return True
    if np.isnan(first) or np.isnan(second):
        return False
    young, old = min(first, second), max(first, second)
    if kind == "adult-adult":
        return young >= 18
    if kind == "child-child":
        return old < child_below
    gap = {"C20": 20, "C30": 30}[kind]
    return young < child_below <= old and (old - young >= gap if inclusive else old - young > gap)


def brute_force(
    manifest: pd.DataFrame, kind: str, split: str = "heldout", child_below: float = 13, inclusive: bool = True
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """All positive and all negative pairs as (left, right), left the younger, at equal or unknown ages the earlier."""
    positives, negatives = set(), set()
    ages, identities = manifest["age_years"].tolist(), manifest["identity"].tolist()
    rows = [row for row in range(len(manifest)) if manifest["split"].iloc[row] == split]
    for first, second in combinations(rows, 2):
        if fits(kind, ages[first], ages[second], child_below, inclusive):
            pair = (second, first) if ages[second] < ages[first] else (first, second)
            (positives if identities[first] == identities[second] else negatives).add(pair)
    return positives, negatives


def as_sets(pairs: pd.DataFrame) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    both = [set(map(tuple, pairs.loc[pairs["same"] == same, ["left", "right"]].to_numpy())) for same in (True, False)]
    return both[0], both[1]


@pytest.mark.parametrize("kind", PAIR_KINDS)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "settings", [{}, {"gap_inclusive": False}, {"child_below_years": 18.5}, {"split": "train"}, {"max_positives": 7}]
)
def test_pairs_are_those_of_brute_force(kind: str, seed: int, settings: dict[str, Any]):
    manifest = random_manifest(seed)
    options = {
        "split": settings.get("split", "heldout"),
        "child_below": settings.get("child_below_years", 13),
        "inclusive": settings.get("gap_inclusive", True),
    }
    positives, negatives = brute_force(manifest, kind, **options)
    counted = available_pair_kinds(manifest, **{k: v for k, v in settings.items() if k != "max_positives"})
    assert counted[kind] == len(positives)
    if not positives or not negatives:
        with pytest.raises(DatasetError):
            verification_pairs(manifest, kind, **settings)
        return
    pairs = verification_pairs(manifest, kind, seed=seed, **settings)
    found_positives, found_negatives = as_sets(pairs)
    n_expected = min(len(positives), len(negatives), settings.get("max_positives", 3000))
    assert len(pairs) == 2 * n_expected
    assert len(found_positives) == len(found_negatives) == n_expected  # as many, and none twice
    assert found_positives <= positives
    assert found_negatives <= negatives
    ages = manifest["age_years"].to_numpy()
    np.testing.assert_array_equal(pairs["left_age_years"], ages[pairs["left"]])
    np.testing.assert_array_equal(pairs["right_age_years"], ages[pairs["right"]])
    assert pairs["same"].tolist() == [True] * n_expected + [False] * n_expected


def test_every_negative_is_found_when_all_are_needed():
    """With many positives and few negatives, each negative must come out once and the positives be trimmed."""
    manifest = random_manifest(3, n=40, n_identities=1, unlabelled=0.0).assign(split="heldout")
    manifest.loc[[7, 23], "identity"] = "other"
    for kind in ("C20", "adult-adult", "any"):
        positives, negatives = brute_force(manifest, kind)
        assert 0 < len(negatives) < len(positives)
        found_positives, found_negatives = as_sets(verification_pairs(manifest, kind))
        assert found_negatives == negatives
        assert len(found_positives) == len(negatives)
        assert found_positives < positives


def test_the_draw_depends_on_the_seed_alone():
    manifest = random_manifest(1, n=300, n_identities=10)
    first = verification_pairs(manifest, "any", seed=4, max_positives=50)
    pd.testing.assert_frame_equal(first, verification_pairs(manifest, "any", seed=4, max_positives=50))
    for seed in (5, -1, 2**70):
        other = verification_pairs(manifest, "any", seed=seed, max_positives=50)
        for mine, theirs in zip(as_sets(first), as_sets(other), strict=True):
            assert len(mine & theirs) < 25


def test_the_draw_is_the_same_on_every_machine():
    """The rows drawn for one seed, written down: another platform or numpy version must draw them as well."""
    manifest = random_manifest(1, n=300, n_identities=10)
    manifest["identity"] = [f"p{row % 10}" for row in range(300)]
    manifest["split"] = "heldout"
    pairs = verification_pairs(manifest, "any", seed=0, max_positives=3)
    assert (pairs["left"] % 10 == pairs["right"] % 10).tolist() == [True] * 3 + [False] * 3
    drawn = {frozenset(pair) for pair in pairs[["left", "right"]].to_numpy().tolist()}
    positives = [{77, 197}, {46, 256}, {105, 125}]
    negatives = [{161, 288}, {52, 173}, {192, 234}]
    assert drawn == {frozenset(pair) for pair in positives + negatives}


def test_the_hash_is_splitmix64():
    """The first three outputs of splitmix64 started at 0, as its authors' reference program prints them."""
    assert seeded_hash(np.arange(3, dtype=np.uint64)).tolist() == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_negatives_are_drawn_evenly():
    manifest = random_manifest(2, n=40, n_identities=4, unlabelled=0.0).assign(split="heldout")
    _, negatives = brute_force(manifest, "any")
    counts = dict.fromkeys(negatives, 0)
    n_seeds, n_drawn = 400, 60
    for seed in range(n_seeds):
        for pair in as_sets(verification_pairs(manifest, "any", seed=seed, max_positives=n_drawn))[1]:
            counts[pair] += 1
    expected = n_seeds * n_drawn / len(negatives)
    spread = np.sqrt(expected * (1 - n_drawn / len(negatives)))
    values = np.array(list(counts.values()))
    assert abs(values.std() / spread - 1) < 0.15
    assert np.abs(values - expected).max() < 5 * spread


def test_large_manifests_are_quick_and_right():
    rng = np.random.default_rng(0)
    n = 10_000
    manifest = pd.DataFrame(
        {
            "path": [str(row) for row in range(n)],
            "identity": [f"p{number}" for number in rng.integers(0, 300, n)],
            "age_years": rng.integers(0, 80, n).astype(float),
            "split": "heldout",
            "source": "x",
        }
    )
    identities, ages = manifest["identity"].to_numpy(dtype=object), manifest["age_years"].to_numpy()
    for kind in PAIR_KINDS:
        pairs = verification_pairs(manifest, kind)
        assert len(pairs) == 6000
        left, right = pairs["left"].to_numpy(), pairs["right"].to_numpy()
        np.testing.assert_array_equal(identities[left] == identities[right], pairs["same"])
        assert all(fits(kind, a, b, 13, True) for a, b in zip(ages[left], ages[right], strict=True))
        assert (ages[left] <= ages[right]).all()
        assert len({frozenset(pair) for pair in zip(left.tolist(), right.tolist(), strict=True)}) == 6000
    one = manifest["identity"] == "p0"
    grown = int((one & (manifest["age_years"] >= 18)).sum())
    many = available_pair_kinds(manifest[one].reset_index(drop=True))
    assert many["adult-adult"] == grown * (grown - 1) // 2
    assert many["any"] == int(one.sum()) * (int(one.sum()) - 1) // 2


def tiny(ages: list[float], identities: str, split: str = "heldout") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(len(ages))],
            "identity": list(identities),
            "age_years": ages,
            "split": split,
            "source": "x",
        }
    )


@pytest.mark.parametrize(
    ("manifest", "kind", "message"),
    [
        (tiny([5, 40, 6, 50], "aabb", "train"), "C20", "the split has no images"),
        (tiny([5, 40, 6, 50], "abcd"), "C20", "no identity has two images"),
        (tiny([np.nan] * 4, "aabb"), "C20", "none of its 4 images has an age.*Kinds with pairs: any (2)"),
        (tiny([30, 40, 60, 50], "aabb"), "C30", "none of its 4 images with an age is below 13 years"),
        (tiny([5, 24.5, 6, 25.5], "aabb"), "C20", "no identity has such images (of 4 images, 2 of children)"),
        (tiny([5, 40, 6, 50], "aabb"), "adult-adult", "no identity has such images.*Kinds with pairs: C20 (2)"),
        (tiny([5, 40, 6, 50], "aaaa"), "C20", "none of two people"),
    ],
)
def test_the_reason_is_told_when_there_is_no_pair(manifest: pd.DataFrame, kind: str, message: str):
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(DatasetError, match=pattern):
        verification_pairs(manifest, kind)


def test_a_gap_of_exactly_twenty_years():
    manifest = tiny([5, 25, 6, 27], "aabb")
    assert available_pair_kinds(manifest)["C20"] == 2
    assert available_pair_kinds(manifest, gap_inclusive=False)["C20"] == 1


def test_bad_arguments_are_refused():
    manifest = tiny([5, 40, 6, 50], "aabb")
    with pytest.raises(ConfigError, match="'C25' is not a kind of pairs"):
        verification_pairs(manifest, "C25")
    with pytest.raises(ConfigError, match="'test' is not a split"):
        verification_pairs(manifest, "C20", split="test")
    with pytest.raises(ConfigError, match="max_positives is 0"):
        verification_pairs(manifest, "C20", max_positives=0)
    with pytest.raises(ConfigError, match="child_below_years is 0"):
        verification_pairs(manifest, "C20", child_below_years=0)
    with pytest.raises(ManifestError, match="row 1, column split"):
        verification_pairs(manifest.assign(split="val"), "C20")


# --- the published lists ---------------------------------------------------------------------------------------------


def read_list(name: str) -> list[tuple[bool, str, str]]:
    lines = (PAIR_LISTS / name).read_text(encoding="utf-8").splitlines()
    cells = [line.split() for line in lines]
    return [(same == "1", Path(child).name, Path(adult).name) for same, child, adult in cells]


def manifest_of(names: list[str], identity: str, age: str) -> pd.DataFrame:
    def matched(pattern: str, name: str) -> str:
        found = re.fullmatch(pattern, name)
        assert found is not None, name
        return found.group(1)

    return pd.DataFrame(
        {
            "path": names,
            "identity": [matched(identity, name) for name in names],
            "age_years": [float(matched(age, name)) for name in names],
            "split": "heldout",
            "source": "list",
        }
    )


def positives_of(manifest: pd.DataFrame, kind: str) -> set[tuple[str, str]]:
    pairs = verification_pairs(manifest, kind)
    names = manifest["path"].to_numpy(dtype=object)
    same = pairs[pairs["same"]]
    return set(zip(names[same["left"]], names[same["right"]], strict=True))


@needs_lists
@pytest.mark.parametrize(("kind", "name", "n_positives"), [("C20", "fgnet20", 517), ("C30", "fgnet30", 186)])
def test_fgnet_positives_are_the_published_ones(kind: str, name: str, n_positives: int):
    names = sorted({name for row in read_list("fgnet20_child.txt") for name in row[1:]})
    assert len(names) == 631
    manifest = manifest_of(names, r"(\d{3})A\d\d[a-z]?\.JPG", r"\d{3}A(\d\d)[a-z]?\.JPG")
    assert available_pair_kinds(manifest)[kind] == n_positives
    published = {(child, adult) for same, child, adult in read_list(f"{name}_child.txt") if same}
    assert len(published) == n_positives
    assert positives_of(manifest, kind) == published
    assert available_pair_kinds(manifest, gap_inclusive=False)[kind] < n_positives


@needs_lists
def test_agedb_positives_of_the_wider_gap_are_the_published_ones():
    rows = [row for row in read_list("agedb20_child.txt") if row[0]]
    names = sorted({name for row in rows for name in row[1:]})
    manifest = manifest_of(names, r"\d+_(.+)_\d+\.jpg", r"\d+_.+_(\d+)\.jpg")
    assert manifest["identity"].nunique() == 63
    published = {(child, adult) for same, child, adult in read_list("agedb30_child.txt") if same}
    assert len(published) == 1389
    assert positives_of(manifest, "C30") == published
    assert positives_of(manifest, "C20") >= {(child, adult) for _, child, adult in rows}
