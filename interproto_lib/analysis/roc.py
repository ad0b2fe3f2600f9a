"""Verification over all thresholds: ROC and DET curves, their area, equal error rate, TAR at a given FAR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interproto_lib.errors import ConfigError, DatasetError

Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class EqualErrorRate:
    """The error rate where false matches and false non-matches are equally frequent.

    Attributes:
        rate: In [0, 1]; 0.5 is chance.
        threshold: The score that the rate belongs to.
        n_positives: Pairs of the same person.
        n_negatives: Pairs of two people.
    """

    rate: float
    threshold: float
    n_positives: int
    n_negatives: int


@dataclass(frozen=True, kw_only=True)
class TarAtFar:
    """Share of the positive pairs that match while the share of matching negatives stays at or below a target.

    Attributes:
        far_target: The false accept rate asked for.
        tar: True accept rate, in [0, 1]; None where the negatives are too few to resolve the target.
        far: False accept rate reached, never above the target; None with `tar`.
        threshold: The score from which a pair matches, the lowest matching positive's; infinity where no positive can
            match within the target; None with `tar`.
        n_positives: Pairs of the same person.
        n_negatives: Pairs of two people; a target below 1 / n_negatives cannot be resolved.
        reason: Why there is no rate; empty where there is one.
    """

    far_target: float
    tar: float | None
    far: float | None
    threshold: float | None
    n_positives: int
    n_negatives: int
    reason: str = ""


def roc_curve(scores: ArrayLike, same: ArrayLike) -> Curve:
    """False match rate against true match rate over all thresholds.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.

    Returns:
        (t,) false match rate and (t,) true match rate, both rising from 0 to 1, and (t,) thresholds, falling from
        infinity: a pair matches when its score >= threshold. One point a different score, and the origin.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs.
    """
    false_matches, matches, thresholds = _match_counts(*checked_scores(scores, same))
    return false_matches / false_matches[-1], matches / matches[-1], thresholds


def roc_auc(scores: ArrayLike, same: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive pair scores above a negative one, ties counting half.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs.

    Example:
        >>> roc_auc([0.9, 0.3, 0.4, 0.1], [True, True, False, False])
        0.75
    """
    false_match_rate, true_match_rate, _ = roc_curve(scores, same)
    return float(np.trapezoid(true_match_rate, false_match_rate))


def det_curve(scores: ArrayLike, same: ArrayLike) -> Curve:
    """False match rate against false non-match rate over all thresholds.

    The rates are plain; a DET figure draws both on probit axes, where rates of 0 and 1 have no place.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.

    Returns:
        (t,) false match rate, rising from 0 to 1, (t,) false non-match rate, falling from 1 to 0, and (t,) thresholds,
        falling from infinity: the points of `roc_curve`.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs.

    Example:
        >>> det_curve([0.9, 0.3, 0.4, 0.1], [True, True, False, False])[1]
        array([1. , 0.5, 0.5, 0. , 0. ])
    """
    false_matches, matches, thresholds = _match_counts(*checked_scores(scores, same))
    return false_matches / false_matches[-1], (matches[-1] - matches) / matches[-1], thresholds


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> EqualErrorRate:
    """Error rate where the false match rate and the false non-match rate cross.

    With falling threshold the first rate rises and the second falls. Between the last operating point with FMR < FNMR
    and the next one both rates, and the threshold, run along straight lines; the rate is where the two lines meet.
    Where the upper of these points is the threshold at infinity, the lower one's threshold is given.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.

    Returns:
        The rate with its threshold.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs.

    Example:
        >>> equal_error_rate([0.9, 0.3, 0.4, 0.1], [True, True, False, False]).rate
        0.5
    """
    false_matches, matches, thresholds = _match_counts(*checked_scores(scores, same))
    n_negatives, n_positives = int(false_matches[-1]), int(matches[-1])
    false_match_rate, false_non_match_rate = false_matches / n_negatives, (n_positives - matches) / n_positives
    gap = false_match_rate - false_non_match_rate
    after = int(np.argmax(gap >= 0))
    before = after - 1
    along = gap[before] / (gap[before] - gap[after])
    rate = false_match_rate[before] + along * (false_match_rate[after] - false_match_rate[before])
    threshold = thresholds[after]
    if before > 0:
        threshold = thresholds[before] + along * (thresholds[after] - thresholds[before])
    return EqualErrorRate(
        rate=float(rate), threshold=float(threshold), n_positives=n_positives, n_negatives=n_negatives
    )


def tar_at_far(scores: ArrayLike, same: ArrayLike, far: Sequence[float] = (1e-3,)) -> tuple[TarAtFar, ...]:
    """True accept rate at the lowest threshold whose false accept rate does not exceed a target.

    Conservative: no interpolation between operating points, and no threshold with a rate above the target. Of several
    thresholds with the same TAR the highest is given.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.
        far: Targets, each in (0, 1].

    Returns:
        One record a target, in their order; without a rate, and with the reason, where the target lies below
        1 / (number of negative pairs).

    Raises:
        ConfigError: Shapes that do not fit, a score that is not finite, or a target outside (0, 1].
        DatasetError: Only one class of pairs.

    Example:
        >>> at_half, at_thousandth = tar_at_far([0.9, 0.3, 0.4, 0.1], [True, True, False, False], (0.5, 1e-3))
        >>> at_half.tar, at_half.threshold, at_thousandth.tar
        (1.0, 0.3, None)
        >>> at_thousandth.reason
        '2 negative pairs cannot resolve a FAR of 0.001: it takes 1000 or more.'
    """
    for target in far:
        if not 0 < target <= 1:
            raise ConfigError(f"FAR target {target} must lie in (0, 1].")
    false_matches, matches, thresholds = _match_counts(*checked_scores(scores, same))
    n_negatives, n_positives = int(false_matches[-1]), int(matches[-1])
    rates = false_matches / n_negatives
    results = []
    for target in far:
        if target < 1 / n_negatives:
            reason = (
                f"{n_negatives} negative pairs cannot resolve a FAR of {target:g}: "
                f"it takes {int(np.ceil(1 / target))} or more."
            )
            found: tuple[float | None, float | None, float | None] = (None, None, None)
        else:
            last = int(np.searchsorted(rates, target, side="right")) - 1
            point = int(np.searchsorted(matches, matches[last]))
            reason, found = "", (matches[point] / n_positives, rates[point], thresholds[point])
        tar, reached, threshold = (None if value is None else float(value) for value in found)
        results.append(
            TarAtFar(
                far_target=float(target),
                tar=tar,
                far=reached,
                threshold=threshold,
                n_positives=n_positives,
                n_negatives=n_negatives,
                reason=reason,
            )
        )
    return tuple(results)


def checked_scores(scores: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Scores and labels as arrays, once it is sure that they can be judged.

    Args:
        scores: (m,) finite scores; float32 and float64 stay as they are, anything else becomes float64.
        same: (m,) booleans, or 0 and 1.

    Returns:
        (m,) float32 or float64 scores and (m,) booleans.

    Raises:
        ConfigError: Shapes that do not fit, labels that are not boolean, or a score that is not finite.
        DatasetError: Only one class of pairs.
    """
    values = np.asarray(scores)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    truth = np.asarray(same)
    if values.ndim != 1 or truth.shape != values.shape:
        raise ConfigError(f"scores {values.shape} and same {truth.shape} must both have shape (pairs,).")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise ConfigError("same must hold booleans (or 0 and 1).")
        truth = truth.astype(bool)
    finite = np.isfinite(values)
    if not finite.all():
        raise ConfigError(f"score {int(np.argmin(finite))} is not finite.")
    if not truth.any() or truth.all():
        raise DatasetError(f"{len(values)} pairs with {int(truth.sum())} positives: both classes are needed.")
    return values, truth


def _match_counts(
    values: NDArray[np.floating], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Matching negatives and matching positives at every different score, falling from infinity, and the scores."""
    order = np.argsort(values)[::-1]
    values, truth = values[order], truth[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    matches = np.concatenate(([0], np.cumsum(truth)[last]))
    false_matches = np.concatenate(([0], last + 1)) - matches
    return false_matches, matches, np.concatenate(([np.inf], values[last].astype(np.float64)))
