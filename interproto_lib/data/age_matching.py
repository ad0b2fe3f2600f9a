"""Negative pairs of the same ages as the positive ones, so that ages alone say nothing about who is who."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.pair_rules import PairRule
from interproto_lib.data.seeded_draws import seeded_hash, stream_key

IntArray = NDArray[np.int64]

_STREAM_ORDER, _STREAM_TIES = 0, 3


def age_matched_negatives(
    manifest: pd.DataFrame,
    rule: PairRule,
    rows: IntArray,
    positives: IntArray,
    *,
    seed: int,
    max_age_difference_years: float,
) -> IntArray:
    """Find for every positive pair a negative one: its left image with an image of another person of the right age.

    Pairs choose in a seeded order, each the image nearest in age to its right image among those that the rule allows
    with its left image and that no pair with the same left image has taken; of several as near, a seeded one.

    Args:
        manifest: A checked manifest of n images.
        rule: The age rule; the negatives obey it as well.
        rows: Rows (a,) that may be used.
        positives: Rows (2, m) of pairs of one person, the left image the younger (at equal ages the earlier row).
        seed: Decides the order and the ties; any integer.
        max_age_difference_years: How far the ages of the two right images may be apart.

    Returns:
        For each positive the row (m,) of the other person's image; -1 where there is none near enough, or where an
        age is unknown. No pair of left image and other image comes twice.
    """
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    identities = pd.factorize(manifest["identity"])[0]
    fitting = rows[rule.fits(ages[rows]) & ~np.isnan(ages[rows])]
    shuffled = seeded_hash(fitting.astype(np.uint64) + stream_key(seed, stream=_STREAM_TIES))
    order = fitting[np.lexsort((shuffled, ages[fitting]))]  # ascending ages, equal ones shuffled
    years, starts = np.unique(ages[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    of_left = ages[positives[0]]
    apart = rule.ages == "child-adult"
    first = rule.first_partner(years, of_left) if apart else np.searchsorted(years, of_left)
    numbers = np.arange(positives.shape[1], dtype=np.uint64)
    ties = seeded_hash(numbers + stream_key(seed, stream=_STREAM_TIES))
    found = np.full(positives.shape[1], -1, dtype=np.int64)
    taken: dict[int, set[int]] = {}
    for number in np.argsort(seeded_hash(numbers + stream_key(seed, stream=_STREAM_ORDER)), kind="stable").tolist():
        left, right = positives[:, number].tolist()
        of_the_same_left = taken.setdefault(left, set())
        for groups in _by_nearness(years, ages[right], int(first[number]), max_age_difference_years):
            candidates = np.concatenate([order[starts[group] : ends[group]] for group in groups])
            allowed = identities[candidates] != identities[left]
            if not apart:  # of two images, the left one is the younger, at equal ages the earlier row
                allowed &= (ages[candidates] > ages[left]) | (candidates > left)
            free = [row for row in candidates[allowed].tolist() if row not in of_the_same_left]
            if free:
                found[number] = free[int(ties[number] % np.uint64(len(free)))]
                of_the_same_left.add(int(found[number]))
                break
    return found


def _by_nearness(years: NDArray[np.float64], wanted: float, first: int, furthest: float) -> list[list[int]]:
    """Give the positions in the ascending `years` from `first` on, nearest first, ties together, to the furthest off.

    None where `wanted` is unknown.
    """
    if np.isnan(wanted):
        return []
    differences = np.abs(years[first:] - wanted)
    near = np.flatnonzero(differences <= furthest)
    groups: dict[float, list[int]] = {}
    for position in near[np.argsort(differences[near], kind="stable")].tolist():
        groups.setdefault(float(differences[position]), []).append(first + position)
    return list(groups.values())
