"""Verification protocols: which pairs of images are compared, half of them of the same person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.manifests import CHILD_BELOW_YEARS, SPLITS, validate_manifest
from interproto_lib.errors import ConfigError, DatasetError

ADULT_FROM_YEARS = 18.0
"""The youngest age of an image in an "adult-adult" pair."""

PAIR_KINDS: dict[str, str] = {
    "C20": "a child and, 20 years later or more, an adult",
    "C30": "a child and, 30 years later or more, an adult",
    "adult-adult": f"two images at {ADULT_FROM_YEARS:.0f} years or above",
    "child-child": "two child images",
    "any": "two images, whatever their ages",
}
"""The kinds of pairs, each with its rule for the ages."""

_GAP_YEARS = {"C20": 20.0, "C30": 30.0}
_COLUMNS = ("left", "right", "same", "left_age_years", "right_age_years")

IntArray = NDArray[np.int64]


def verification_pairs(
    manifest: pd.DataFrame,
    kind: str,
    *,
    split: str = "heldout",
    seed: int = 0,
    max_positives: int = 3000,
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
) -> pd.DataFrame:
    """Draw balanced verification pairs: every pair of one person under an age rule, and as many of two people.

    Source: paper section 5.1 (child-adult pairs, equal numbers of positive and negative pairs) and the official pair
    lists, whose FG-NET positives are exactly the positives found here. The paper says "more than" 20 and 30 years, its
    lists hold gaps of at least 20 and 30: `gap_inclusive` chooses. The lists' negative pairs are not reproduced; ours
    are a seeded draw, without replacement, under the same age rule. Images without an age are used by "any" alone.

    Args:
        manifest: A manifest of n images.
        kind: One of `PAIR_KINDS`.
        split: Which images to use, "train" or "heldout".
        seed: Chooses the negatives, and the positives where there are more than are kept; any integer. The draw
            depends on nothing else than seed and manifest, neither on the machine nor on numpy's version.
        max_positives: Keep at most this many positives, a seeded sample of all, >= 1.
        child_below_years: An image is a child's when its age in years is below this.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough.

    Returns:
        One row a pair, positives first (so shuffle or stratify before making folds): `left` and `right`, row
        positions in the manifest, left the younger (at equal or unknown ages the earlier row); `same`; the ages
        `left_age_years` and `right_age_years`. Where fewer negatives than positives exist, positives are left out
        until both are as many.

    Raises:
        ConfigError: An argument is out of range.
        DatasetError: There is no positive or no negative pair; the message says why.
        ManifestError: The manifest breaks a rule.

    Example:
        >>> table = pd.DataFrame({"path": ["a1", "a2", "b1", "b2"], "identity": ["a", "a", "b", "b"],
        ...                       "age_years": [5, 40, 9, 33], "split": "heldout", "source": "mine"})
        >>> pairs = verification_pairs(table, "C20")
        >>> pairs[["left", "right", "same"]].values.tolist()
        [[0, 1, True], [2, 3, True], [0, 3, False], [2, 1, False]]
    """
    if max_positives < 1:
        raise ConfigError(f"max_positives is {max_positives}; it must be at least 1.")
    checked = validate_manifest(manifest)
    pairs = _eligible(checked, kind, split, child_below_years, gap_inclusive)
    if pairs.n_positives == 0:
        raise DatasetError(_why_none(checked, kind, split, child_below_years, gap_inclusive))
    if pairs.n_negatives == 0:
        raise DatasetError(
            f"There are {pairs.n_positives} {kind} pairs of one person in the split {split!r} but none of two people: "
            "no two identities have images that fit the ages. Add identities."
        )
    n_pairs = min(pairs.n_positives, pairs.n_negatives, max_positives)
    positives = pairs.positives(_sample(pairs.n_positives, n_pairs, seed, stream=1))
    negatives = pairs.negatives(_sample(pairs.n_negatives, n_pairs, seed, stream=2))
    ages = checked["age_years"].to_numpy(dtype=np.float64)
    left, right = _younger_first(np.concatenate([positives, negatives], axis=1), ages)
    same = np.repeat([True, False], n_pairs)
    columns = (left, right, same, ages[left], ages[right])
    frame = pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))
    return frame.sort_values(["same", "left", "right"], ascending=[False, True, True], ignore_index=True)


def available_pair_kinds(
    manifest: pd.DataFrame,
    *,
    split: str = "heldout",
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
) -> dict[str, int]:
    """Count the pairs of one person that each kind of verification would find.

    Args:
        manifest: A manifest.
        split: Which images to use, "train" or "heldout".
        child_below_years: An image is a child's when its age in years is below this.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough.

    Returns:
        For each of `PAIR_KINDS` the number of positive pairs, which may be 0.

    Raises:
        ConfigError: An argument is out of range.
        ManifestError: The manifest breaks a rule.
    """
    checked = validate_manifest(manifest)
    return {kind: _eligible(checked, kind, split, child_below_years, gap_inclusive).n_positives for kind in PAIR_KINDS}


@dataclass(frozen=True, kw_only=True)
class _EligiblePairs:
    """All pairs under an age rule, numbered without being listed.

    The partners of the image `left[i]` are all of `order` from the position `start[i]` on. `members` holds the
    positions in `order` grouped by identity, ascending in each group; the group of `left[i]` begins at `group_from[i]`,
    and of it the slice from `same_from[i]` lies among the partners.

    Attributes:
        left: Rows (a,) of the manifest.
        order: Rows (b,) of the manifest.
        start: Positions (a,) in `order`.
        members: Positions (b,) in `order`.
        group_from: Positions (a,) in `members`.
        same_from: Positions (a,) in `members`.
        offset: Identity (a,) of each left image times `b + 1`, which keeps identities apart in sorted keys.
        shifted: For each of `members` (b,) its position less its rank in its group, plus that offset; ascending.
        positives_to: Running total (a,) of pairs of one person.
        negatives_to: Running total (a,) of pairs of two people.
    """

    left: IntArray
    order: IntArray
    start: IntArray
    members: IntArray
    group_from: IntArray
    same_from: IntArray
    offset: IntArray
    shifted: IntArray
    positives_to: IntArray
    negatives_to: IntArray

    @classmethod
    def build(cls, left: IntArray, order: IntArray, start: IntArray, identities: IntArray) -> _EligiblePairs:
        """Number the pairs; `identities` (n,) is the identity of every row of the manifest, 0 .. k - 1."""
        width = len(order) + 1
        members = np.argsort(identities[order], kind="stable").astype(np.int64)
        groups = identities[order][members]
        rank = np.arange(len(order)) - np.searchsorted(groups, groups, side="left")
        keys = groups * width + members
        offset = identities[left] * width
        same_from = np.searchsorted(keys, offset + start)
        n_same = np.searchsorted(keys, offset + len(order)) - same_from
        return cls(
            left=left,
            order=order,
            start=start,
            members=members,
            group_from=np.searchsorted(keys, offset),
            same_from=same_from,
            offset=offset,
            shifted=keys - rank,
            positives_to=np.cumsum(n_same),
            negatives_to=np.cumsum(len(order) - start - n_same),
        )

    @property
    def n_positives(self) -> int:
        """How many pairs of one person there are."""
        return int(self.positives_to[-1]) if len(self.positives_to) else 0

    @property
    def n_negatives(self) -> int:
        """How many pairs of two people there are."""
        return int(self.negatives_to[-1]) if len(self.negatives_to) else 0

    def positives(self, numbers: IntArray) -> IntArray:
        """Return the rows (2, m) of the pairs of one person with these numbers (m,), 0 .. n_positives - 1."""
        item, rest = _locate(self.positives_to, numbers)
        return np.stack([self.left[item], self.order[self.members[self.same_from[item] + rest]]])

    def negatives(self, numbers: IntArray) -> IntArray:
        """Return the rows (2, m) of the pairs of two people with these numbers (m,), 0 .. n_negatives - 1.

        The partner is the `rest`-th that is another person. Before it stand as many partners of the same person as
        have at most `rest` others before them: those whose position less rank is at most the one sought.
        """
        item, rest = _locate(self.negatives_to, numbers)
        before = self.same_from[item] - self.group_from[item]
        sought = self.offset[item] + self.start[item] + rest - before
        stepped_over = np.maximum(np.searchsorted(self.shifted, sought, side="right") - self.same_from[item], 0)
        return np.stack([self.left[item], self.order[self.start[item] + rest + stepped_over]])


def _eligible(
    manifest: pd.DataFrame, kind: str, split: str, child_below_years: float, gap_inclusive: bool
) -> _EligiblePairs:
    if kind not in PAIR_KINDS:
        raise ConfigError(f"{kind!r} is not a kind of pairs; choose one of: {', '.join(PAIR_KINDS)}.")
    if split not in SPLITS:
        raise ConfigError(f"{split!r} is not a split; choose one of: {', '.join(SPLITS)}.")
    if not child_below_years > 0:
        raise ConfigError(f"child_below_years is {child_below_years}; it must be above 0.")
    identities = pd.factorize(manifest["identity"])[0].astype(np.int64)
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    rows = np.flatnonzero((manifest["split"] == split).to_numpy(dtype=bool))
    if kind in _GAP_YEARS:
        left = rows[ages[rows] < child_below_years]
        grown = rows[ages[rows] >= child_below_years]
        order = grown[np.argsort(ages[grown], kind="stable")]
        start = np.searchsorted(ages[order], ages[left] + _GAP_YEARS[kind], "left" if gap_inclusive else "right")
        return _EligiblePairs.build(left, order, start, identities)
    fits: dict[str, Callable[[NDArray[np.float64]], NDArray[np.bool_]]] = {
        "adult-adult": lambda years: years >= ADULT_FROM_YEARS,
        "child-child": lambda years: years < child_below_years,
        "any": lambda years: np.ones(len(years), dtype=bool),
    }
    order = rows[fits[kind](ages[rows])]
    return _EligiblePairs.build(order, order, np.arange(1, len(order) + 1), identities)


def _locate(totals: IntArray, numbers: IntArray) -> tuple[IntArray, IntArray]:
    """Return the item (m,) that each number (m,) falls into, by running totals, and its number within the item."""
    item = np.searchsorted(totals, numbers, side="right")
    return item, numbers - (totals[item] - np.diff(totals, prepend=0)[item])


def _younger_first(pairs: IntArray, ages: NDArray[np.float64]) -> tuple[IntArray, IntArray]:
    first, second = pairs.min(axis=0), pairs.max(axis=0)
    swap = ages[second] < ages[first]  # False where an age is unknown
    return np.where(swap, second, first), np.where(swap, first, second)


def _sample(n: int, k: int, seed: int, *, stream: int) -> IntArray:
    """Return `k` different numbers below `n` (k,), drawn by hashing a counter: the same on every machine."""
    if k == n:
        return np.arange(n)
    key = np.array([(seed * 4 + stream) % 2**64], dtype=np.uint64)
    if n <= 8 * k:
        return np.argsort(_hash(np.arange(n, dtype=np.uint64) + _hash(key)), kind="stable")[:k]
    drawn = np.empty(0, dtype=np.int64)
    first = drawn
    while len(first) < k:
        counter = np.arange(len(drawn), len(drawn) + 2 * k, dtype=np.uint64)
        drawn = np.concatenate([drawn, (_hash(counter + _hash(key)) % np.uint64(n)).astype(np.int64)])
        first = np.unique(drawn, return_index=True)[1]
    return drawn[np.sort(first)[:k]]


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit counters into 64 bits that look random: the finaliser of splitmix64 (Steele, Lea, Flood, 2014)."""
    mixed = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _why_none(manifest: pd.DataFrame, kind: str, split: str, child_below_years: float, gap_inclusive: bool) -> str:
    chosen = manifest[manifest["split"] == split]
    labelled = chosen["age_years"].notna()
    n_children = int((chosen["age_years"] < child_below_years).sum())
    counts = available_pair_kinds(
        manifest, split=split, child_below_years=child_below_years, gap_inclusive=gap_inclusive
    )
    others = ", ".join(f"{name} ({count})" for name, count in counts.items() if count) or "none"
    if len(chosen) == 0:
        reason = "the split has no images"
    elif chosen["identity"].value_counts().max() < 2:
        reason = "no identity has two images"
    elif kind != "any" and not labelled.any():
        reason = f"none of its {len(chosen)} images has an age; give age labels when the dataset is made"
    elif kind != "adult-adult" and kind != "any" and n_children == 0:
        reason = f"none of its {int(labelled.sum())} images with an age is below {child_below_years:g} years"
    else:
        reason = f"no identity has such images (of {len(chosen)} images, {n_children} of children)"
    return (
        f"There is no {kind} pair ({PAIR_KINDS[kind]}) of one person in the split {split!r}: {reason}. "
        f"Kinds with pairs: {others}."
    )
