"""Verification protocols: which pairs of images are compared, half of them of the same person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.age_matching import age_matched_negatives
from interproto_lib.data.manifests import CHILD_BELOW_YEARS, SPLITS, validate_manifest
from interproto_lib.data.pair_rules import PAIR_KINDS, EligiblePairs, PairRule
from interproto_lib.data.seeded_draws import draw_numbers
from interproto_lib.errors import ConfigError, DatasetError

Negatives = Literal["age_rule", "age_matched"]

NEGATIVES: dict[str, str] = {
    "age_rule": "any two people, under the same age rule",
    "age_matched": "for each pair of one person its left image and an image of another of the same age",
}
"""How pairs of two people are chosen."""

_COLUMNS = ("left", "right", "same", "left_age_years", "right_age_years")

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """How pairs are drawn from those that a rule allows; see `verification_pairs`."""

    split: str | None
    seed: int
    max_positives: int | None
    negatives: Negatives
    max_age_difference_years: float

    def __post_init__(self) -> None:
        _check_split(self.split)
        if self.max_positives is not None and self.max_positives < 1:
            raise ConfigError(f"max_positives is {self.max_positives}; it must be at least 1, or None for all.")
        if self.negatives not in NEGATIVES:
            raise ConfigError(f"negatives is {self.negatives!r}; choose one of: {', '.join(NEGATIVES)}.")
        if not self.max_age_difference_years >= 0:
            raise ConfigError(f"max_age_difference_years is {self.max_age_difference_years}; it must be at least 0.")


def verification_pairs(
    manifest: pd.DataFrame,
    kind: str,
    *,
    split: str | None = "heldout",
    seed: int = 0,
    max_positives: int | None = 3000,
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
    negatives: Negatives = "age_rule",
    max_age_difference_years: float = 3.0,
) -> pd.DataFrame:
    """Draw balanced verification pairs: every pair of one person under an age rule, and as many of two people.

    Source: paper section 5.1 (child-adult pairs, equal numbers of positive and negative pairs) and the official pair
    lists, whose FG-NET positives are exactly the positives found here. The paper says "more than" 20 and 30 years, its
    lists hold gaps of at least 20 and 30: `gap_inclusive` chooses. The lists' negative pairs are not reproduced; ours
    are a seeded draw, without replacement, under the same age rule. Images without an age are used by "any" alone.

    Under an age rule, pairs of one person and of two can still differ in their ages, since a person is photographed in
    some years of life only. `negatives="age_matched"` takes that away. For each positive pair it takes one negative
    with the same left image, whose right image is another person's of the nearest age that is still free. The ages of
    the left images are then equally distributed in both classes, and the right ages differ by no more than
    `max_age_difference_years` from pair to pair. A positive pair without such a negative is left out, since keeping
    it would let ages tell the classes apart; `attrs` of the result say how many. An unknown age matches none.

    Args:
        manifest: A manifest of n images.
        kind: One of `PAIR_KINDS`.
        split: Which images to use, one of `SPLITS`; None uses all.
        seed: Chooses the negatives, and the positives where there are more than are kept; any integer. The draw
            depends on nothing else than seed and manifest, neither on the machine nor on numpy's version.
        max_positives: Keep at most this many positives, a seeded sample of all, >= 1; None keeps all.
        child_below_years: An image is a child's when its age in years is below this.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough.
        negatives: How the pairs of two people are chosen, a key of `NEGATIVES`.
        max_age_difference_years: For "age_matched", how far the ages of two right images may be apart, >= 0.

    Returns:
        One row a pair, positives first (so shuffle or stratify before making folds): `left` and `right`, row
        positions in the manifest, left the younger (at equal or unknown ages the earlier row); `same`; the ages
        `left_age_years` and `right_age_years`. With "age_matched", negatives stand in the order of their positives.
        Where fewer negatives than positives exist, positives are left out until both are as many. `attrs` hold
        `n_eligible_positives`, the pairs of one person that the rule allows, and `n_unmatched_positives`, how many of
        those drawn were left out for want of a negative of matching ages.

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
    rule = PairRule.of_kind(kind, child_below_years=child_below_years, gap_inclusive=gap_inclusive)
    draw = _Draw(
        split=split,
        seed=seed,
        max_positives=max_positives,
        negatives=negatives,
        max_age_difference_years=max_age_difference_years,
    )
    return _draw_pairs(validate_manifest(manifest), rule, draw)


def child_adult_pairs(
    manifest: pd.DataFrame,
    *,
    min_gap_years: float = 20.0,
    child_below_years: float = CHILD_BELOW_YEARS,
    seed: int = 0,
    split: str | None = None,
    gap_inclusive: bool = True,
    negatives: Negatives = "age_rule",
    max_positives: int | None = None,
    max_age_difference_years: float = 3.0,
) -> pd.DataFrame:
    """Make a child-adult protocol: every pair of a child and the same person some years later, and as many of two.

    Source: paper section 5.1. On the images of the official FG-NET lists the positives are exactly the published 517
    (20 years) and 186 (30 years). With 20 or 30 years these are the pairs "C20" and "C30" of `verification_pairs`,
    where the rest is explained.

    Args:
        manifest: A manifest of n images.
        min_gap_years: Years between the two images, >= 0; the later one is no child's at any rate.
        child_below_years: An image is a child's when its age in years is below this.
        seed: Chooses the negatives; any integer.
        split: Which images to use, one of `SPLITS`; None uses all.
        gap_inclusive: Whether a gap of exactly `min_gap_years` is enough; False asks for more.
        negatives: How the pairs of two people are chosen, a key of `NEGATIVES`.
        max_positives: Keep at most this many positives, a seeded sample of all; None keeps all.
        max_age_difference_years: For "age_matched", how far the ages of two right images may be apart, >= 0.

    Returns:
        One row a pair, as of `verification_pairs`: `left` the child, `right` the adult.

    Raises:
        ConfigError: An argument is out of range.
        DatasetError: There is no positive or no negative pair; the message says why.
        ManifestError: The manifest breaks a rule.

    Example:
        >>> table = pd.DataFrame({"path": ["a1", "a2", "b1", "b2"], "identity": ["a", "a", "b", "b"],
        ...                       "age_years": [5, 40, 9, 33], "split": "train", "source": "mine"})
        >>> child_adult_pairs(table, min_gap_years=30)[["left", "right", "same"]].values.tolist()
        [[0, 1, True], [2, 1, False]]
    """
    rule = PairRule.child_adult(
        min_gap_years=min_gap_years, child_below_years=child_below_years, gap_inclusive=gap_inclusive
    )
    draw = _Draw(
        split=split,
        seed=seed,
        max_positives=max_positives,
        negatives=negatives,
        max_age_difference_years=max_age_difference_years,
    )
    return _draw_pairs(validate_manifest(manifest), rule, draw)


def available_pair_kinds(
    manifest: pd.DataFrame,
    *,
    split: str | None = "heldout",
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
) -> dict[str, int]:
    """Count the pairs of one person that each kind of verification would find.

    Args:
        manifest: A manifest.
        split: Which images to use, one of `SPLITS`; None uses all.
        child_below_years: An image is a child's when its age in years is below this.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough.

    Returns:
        For each of `PAIR_KINDS` the number of positive pairs, which may be 0.

    Raises:
        ConfigError: An argument is out of range.
        ManifestError: The manifest breaks a rule.
    """
    _check_split(split)
    checked = validate_manifest(manifest)
    rows = _rows(checked, split)
    counts = {}
    for kind in PAIR_KINDS:
        rule = PairRule.of_kind(kind, child_below_years=child_below_years, gap_inclusive=gap_inclusive)
        counts[kind] = EligiblePairs.of(checked, rule, rows).n_positives
    return counts


def _draw_pairs(manifest: pd.DataFrame, rule: PairRule, draw: _Draw) -> pd.DataFrame:
    rows = _rows(manifest, draw.split)
    pairs = EligiblePairs.of(manifest, rule, rows)
    if pairs.n_positives == 0:
        raise DatasetError(_why_none(manifest, rule, draw.split))
    if pairs.n_negatives == 0:
        raise DatasetError(
            f"There are {pairs.n_positives} {rule.name} pairs of one person {_where(draw.split)} but none of two "
            "people: no two identities have images that fit the ages. Add identities."
        )
    most = pairs.n_positives if draw.max_positives is None else draw.max_positives
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    if draw.negatives == "age_matched":
        n_drawn = min(pairs.n_positives, most)
        drawn = _in_order(pairs.positives(draw_numbers(pairs.n_positives, n_drawn, draw.seed, stream=1)), ages)
        frame = _age_matched(manifest, rule, draw, rows, drawn)
    else:
        n_drawn = min(pairs.n_positives, pairs.n_negatives, most)
        positives = pairs.positives(draw_numbers(pairs.n_positives, n_drawn, draw.seed, stream=1))
        negatives = pairs.negatives(draw_numbers(pairs.n_negatives, n_drawn, draw.seed, stream=2))
        frame = _as_frame(_in_order(positives, ages), _in_order(negatives, ages), ages)
    frame.attrs = {
        "n_eligible_positives": pairs.n_positives,
        "n_unmatched_positives": n_drawn - len(frame) // 2 if draw.negatives == "age_matched" else 0,
    }
    return frame


def _age_matched(
    manifest: pd.DataFrame, rule: PairRule, draw: _Draw, rows: IntArray, positives: IntArray
) -> pd.DataFrame:
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    others = age_matched_negatives(
        manifest, rule, rows, positives, seed=draw.seed, max_age_difference_years=draw.max_age_difference_years
    )
    matched = others >= 0
    if not matched.any():
        raise DatasetError(
            f"None of the {len(others)} {rule.name} pairs of one person {_where(draw.split)} has a pair of two people "
            f"with the same left image and a right age within {draw.max_age_difference_years:g} years: other people "
            "have no images of such ages. Raise max_age_difference_years, or take negatives='age_rule'."
        )
    return _as_frame(positives[:, matched], np.stack([positives[0, matched], others[matched]]), ages)


def _as_frame(positives: IntArray, negatives: IntArray, ages: NDArray[np.float64]) -> pd.DataFrame:
    left, right = np.concatenate([positives, negatives], axis=1)
    same = np.repeat([True, False], [positives.shape[1], negatives.shape[1]])
    columns = (left, right, same, ages[left], ages[right])
    return pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))


def _in_order(pairs: IntArray, ages: NDArray[np.float64]) -> IntArray:
    """Put the younger image of each pair (2, m) left, at equal or unknown ages the earlier row, and sort the pairs."""
    first, second = pairs.min(axis=0), pairs.max(axis=0)
    swap = ages[second] < ages[first]  # False where an age is unknown
    left, right = np.where(swap, second, first), np.where(swap, first, second)
    return np.stack([left, right])[:, np.lexsort((right, left))]


def _check_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise ConfigError(f"{split!r} is not a split; choose one of: {', '.join(SPLITS)}.")


def _rows(manifest: pd.DataFrame, split: str | None) -> IntArray:
    chosen = np.ones(len(manifest), dtype=bool) if split is None else (manifest["split"] == split).to_numpy(dtype=bool)
    return np.flatnonzero(chosen).astype(np.int64)


def _where(split: str | None) -> str:
    return "in the manifest" if split is None else f"in the split {split!r}"


def _why_none(manifest: pd.DataFrame, rule: PairRule, split: str | None) -> str:
    chosen = manifest.iloc[_rows(manifest, split)]
    labelled = chosen["age_years"].notna()
    n_children = int((chosen["age_years"] < rule.child_below_years).sum())
    counts = available_pair_kinds(
        manifest, split=split, child_below_years=rule.child_below_years, gap_inclusive=rule.gap_inclusive
    )
    others = ", ".join(f"{name} ({count})" for name, count in counts.items() if count) or "none"
    if len(chosen) == 0:
        reason = "the split has no images"
    elif chosen["identity"].value_counts().max() < 2:
        reason = "no identity has two images"
    elif rule.ages != "any" and not labelled.any():
        reason = f"none of its {len(chosen)} images has an age; give age labels when the dataset is made"
    elif rule.ages in ("child-adult", "child-child") and n_children == 0:
        reason = f"none of its {int(labelled.sum())} images with an age is below {rule.child_below_years:g} years"
    else:
        reason = f"no identity has such images (of {len(chosen)} images, {n_children} of children)"
    return (
        f"There is no {rule.name} pair ({rule.words}) of one person {_where(split)}: {reason}. "
        f"Kinds with pairs: {others}."
    )
