"""Errors of verification at any threshold, by the ages of both images: sorted scores, counted by bisection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.analysis.roc import checked_scores
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.data.pair_rules import ADULT_FROM_YEARS
from interproto_lib.errors import ConfigError

PAIR_COHORTS = ("child-child", "child-adult", "adult-adult", "other")
"""Pairs by the ages of both images; `other` has an image between child and adult, or without an age."""

ERROR_KINDS = ("false_match", "false_non_match")
"""A pair of two people that matches; a pair of one person that does not."""

RATE_COLUMNS = (
    "cohort",
    "n_genuine",
    "n_impostor",
    "n_false_matches",
    "n_false_non_matches",
    "accuracy",
    "fmr",
    "fnmr",
)
"""Columns of `SortedScores.rates`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SortedScores:
    """The scores of a test set, sorted within each cohort and class, so that counting takes no time.

    Attributes:
        genuine: For each of `PAIR_COHORTS` the rising float32 scores of pairs of one person.
        impostor: For each of `PAIR_COHORTS` those of pairs of two people.
    """

    genuine: tuple[NDArray[np.float32], ...]
    impostor: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, scores: ArrayLike, same: ArrayLike, cohorts: NDArray[np.integer]) -> SortedScores:
        """Sort scores.

        Args:
            scores: (m,) finite cosines; they are compared as float32.
            same: (m,) booleans, true for one person.
            cohorts: (m,) positions in `PAIR_COHORTS`, as `pair_cohorts` gives them.

        Raises:
            ConfigError: Shapes that do not fit, or a score that is not finite.
        """
        checked, genuine = checked_scores(scores, same)
        values = checked.astype(np.float32)
        if cohorts.shape != values.shape:
            raise ConfigError(f"{cohorts.shape} cohorts do not fit {values.shape} scores.")
        of_class = [
            tuple(np.sort(values[(genuine == one_person) & (cohorts == code)]) for code in range(len(PAIR_COHORTS)))
            for one_person in (True, False)
        ]
        return cls(genuine=of_class[0], impostor=of_class[1])

    def rates(self, threshold: float) -> pd.DataFrame:
        """Count the errors at a threshold; a pair matches when its score >= threshold.

        Args:
            threshold: A cosine.

        Returns:
            One row for `all` and one for each of `PAIR_COHORTS`, with the columns `RATE_COLUMNS`; a rate of no pairs is
            NaN.
        """
        at = np.float64(threshold)
        missed = np.array([np.searchsorted(scores.astype(np.float64), at) for scores in self.genuine], dtype=np.int64)
        below = np.array([np.searchsorted(scores.astype(np.float64), at) for scores in self.impostor], dtype=np.int64)
        n_genuine = np.array([len(scores) for scores in self.genuine])
        n_impostor = np.array([len(scores) for scores in self.impostor])
        counts = np.stack([n_genuine, n_impostor, n_impostor - below, missed])
        counts = np.concatenate([counts.sum(axis=1, keepdims=True), counts], axis=1)
        n_pairs = counts[0] + counts[1]
        rates = [
            _shares(n_pairs - counts[2] - counts[3], n_pairs),
            _shares(counts[2], counts[1]),
            _shares(counts[3], counts[0]),
        ]
        values = [["all", *PAIR_COHORTS], *counts, *rates]
        return pd.DataFrame(dict(zip(RATE_COLUMNS, values, strict=True)))


def pair_cohorts(
    left_age_years: ArrayLike,
    right_age_years: ArrayLike,
    *,
    child_below_years: float = CHILD_BELOW_YEARS,
    adult_from_years: float = ADULT_FROM_YEARS,
) -> NDArray[np.int8]:
    """Put pairs into cohorts by the ages of both images.

    Args:
        left_age_years: (m,) ages, NaN unknown.
        right_age_years: (m,) ages, NaN unknown.
        child_below_years: An image is a child's below this age.
        adult_from_years: An image is an adult's from this age, at least `child_below_years`.

    Returns:
        (m,) positions in `PAIR_COHORTS`.

    Raises:
        ConfigError: Ages that overlap, or lengths that differ.

    Example:
        >>> pair_cohorts([5, 5, 40, 15], [7, 40, 41, 40]).tolist()
        [0, 1, 2, 3]
    """
    if not 0 < child_below_years <= adult_from_years:
        raise ConfigError(f"adults from {adult_from_years} years overlap children below {child_below_years} years.")
    ages = [np.asarray(side, dtype=np.float64) for side in (left_age_years, right_age_years)]
    if ages[0].shape != ages[1].shape:
        raise ConfigError(f"{ages[0].shape} left ages do not fit {ages[1].shape} right ages.")
    n_children = sum((side < child_below_years).astype(np.int8) for side in ages)
    n_adults = sum((side >= adult_from_years).astype(np.int8) for side in ages)
    names = [n_children == 2, (n_children == 1) & (n_adults == 1), n_adults == 2]
    return np.select(names, [0, 1, 2], default=3).astype(np.int8)


def hardest_pairs(
    scores: NDArray[np.floating], same: NDArray[np.bool_], kind: str, *, n: int | None = None
) -> NDArray[np.int64]:
    """Order the pairs in which an error is possible, from the most to the least mistaken.

    Args:
        scores: (m,) cosines.
        same: (m,) true for one person.
        kind: `false_match`, the pairs of two people from the highest score down, or `false_non_match`, the pairs of one
            person from the lowest score up.
        n: How many at most; None for all.

    Returns:
        Rows of the pairs; of equal scores the earlier row first.

    Raises:
        ConfigError: An unknown kind.
    """
    if kind not in ERROR_KINDS:
        raise ConfigError(f"{kind!r} is no kind of error; choose one of {', '.join(ERROR_KINDS)}.")
    rows = np.flatnonzero(same if kind == "false_non_match" else ~same)
    badness = scores[rows] if kind == "false_non_match" else -scores[rows]
    return rows[np.argsort(badness, kind="stable")[:n]]


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
