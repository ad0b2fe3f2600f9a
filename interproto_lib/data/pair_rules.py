"""Age rules of pairs, and the pairs that they allow, numbered without being listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError

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

Ages = Literal["child-adult", "adult-adult", "child-child", "any"]

_GAP_YEARS = {"C20": 20.0, "C30": 30.0}

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairRule:
    """Which two ages make a pair.

    Attributes:
        name: What such pairs are called, as in "C20".
        words: The rule in words.
        ages: "child-adult" (a child and, some years later, an image that is no child's), or which ages both have.
        min_gap_years: Years between child and adult, for "child-adult" alone.
        child_below_years: An image is a child's when its age in years is below this.
        gap_inclusive: Whether a gap of exactly `min_gap_years` is enough.

    Raises:
        ConfigError: A number is out of range.
    """

    name: str
    words: str
    ages: Ages
    min_gap_years: float
    child_below_years: float
    gap_inclusive: bool

    def __post_init__(self) -> None:
        if not self.child_below_years > 0:
            raise ConfigError(f"child_below_years is {self.child_below_years}; it must be above 0.")
        if not 0 <= self.min_gap_years < np.inf:
            raise ConfigError(f"min_gap_years is {self.min_gap_years}; it must be a number of years, at least 0.")

    @classmethod
    def of_kind(cls, kind: str, *, child_below_years: float, gap_inclusive: bool) -> PairRule:
        """Give the rule of one of `PAIR_KINDS`.

        Raises:
            ConfigError: There is no such kind, or a number is out of range.
        """
        if kind not in PAIR_KINDS:
            raise ConfigError(f"{kind!r} is not a kind of pairs; choose one of: {', '.join(PAIR_KINDS)}.")
        gap = _GAP_YEARS.get(kind)
        ages: dict[str, Ages] = {"adult-adult": "adult-adult", "child-child": "child-child", "any": "any"}
        return cls(
            name=kind,
            words=PAIR_KINDS[kind] if gap is None or gap_inclusive else _child_adult_words(gap, inclusive=False),
            ages=ages.get(kind, "child-adult"),
            min_gap_years=gap or 0.0,
            child_below_years=child_below_years,
            gap_inclusive=gap_inclusive,
        )

    @classmethod
    def child_adult(cls, *, min_gap_years: float, child_below_years: float, gap_inclusive: bool) -> PairRule:
        """Give the rule of a child and, some years later, an adult.

        Raises:
            ConfigError: A number is out of range.
        """
        return cls(
            name="child-adult",
            words=_child_adult_words(min_gap_years, inclusive=gap_inclusive),
            ages="child-adult",
            min_gap_years=min_gap_years,
            child_below_years=child_below_years,
            gap_inclusive=gap_inclusive,
        )

    def fits(self, years: FloatArray) -> NDArray[np.bool_]:
        """Say of ages (n,) whether an image of that age can stand in a pair; of a child-adult pair, as the adult."""
        if self.ages == "child-adult":
            return years >= self.child_below_years
        if self.ages == "adult-adult":
            return years >= ADULT_FROM_YEARS
        return years < self.child_below_years if self.ages == "child-child" else np.ones(len(years), dtype=bool)

    def first_partner(self, years: FloatArray, of_years: FloatArray) -> IntArray:
        """Give for each child (m,) the position of the first of the ascending ages `years` (n,) that is far enough."""
        side: Literal["left", "right"] = "left" if self.gap_inclusive else "right"
        return np.searchsorted(years, of_years + self.min_gap_years, side).astype(np.int64)


def _child_adult_words(gap_years: float, *, inclusive: bool) -> str:
    when = f"{gap_years:g} years later or more" if inclusive else f"more than {gap_years:g} years later"
    return f"a child and, {when}, an adult"


@dataclass(frozen=True, kw_only=True)
class EligiblePairs:
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
    def of(cls, manifest: pd.DataFrame, rule: PairRule, rows: IntArray) -> EligiblePairs:
        """Number the pairs that a rule allows among some rows (m,) of a checked manifest, given ascending."""
        identities = pd.factorize(manifest["identity"])[0].astype(np.int64)
        ages = manifest["age_years"].to_numpy(dtype=np.float64)
        fitting = rows[rule.fits(ages[rows])]
        if rule.ages != "child-adult":
            return cls.build(fitting, fitting, np.arange(1, len(fitting) + 1), identities)
        left = rows[ages[rows] < rule.child_below_years]
        order = fitting[np.argsort(ages[fitting], kind="stable")]
        return cls.build(left, order, rule.first_partner(ages[order], ages[left]), identities)

    @classmethod
    def build(cls, left: IntArray, order: IntArray, start: IntArray, identities: IntArray) -> EligiblePairs:
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


def _locate(totals: IntArray, numbers: IntArray) -> tuple[IntArray, IntArray]:
    """Return the item (m,) that each number (m,) falls into, by running totals, and its number within the item."""
    item = np.searchsorted(totals, numbers, side="right")
    return item, numbers - (totals[item] - np.diff(totals, prepend=0)[item])
