"""Verification: are two images of the same person? Scores of pairs, and accuracy with a threshold.

Thresholds are chosen on other pairs (folds, calibration), on these same pairs (the official, optimistic way), or given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.analysis.roc import checked_scores
from interproto_lib.errors import ConfigError, DatasetError

_PAIRS_AT_A_TIME = 16384


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """Accuracy with a threshold chosen on other pairs than those it is measured on.

    Attributes:
        accuracy: Mean over the folds, in [0, 1].
        std: Standard deviation over the folds (n - 1 in the denominator). The folds share identities, so this is no
            confidence interval.
        threshold: Mean of the folds' thresholds, a cosine.
        n_pairs: Pairs in all.
        n_positives: Pairs of the same person.
        fold_accuracies: Accuracy of each fold.
        fold_thresholds: Threshold of each fold, chosen on the other folds.
        correct: (m,) whether each pair is judged rightly by its fold's threshold, in the order of the pairs; takes no
            part in comparisons.
    """

    accuracy: float
    std: float
    threshold: float
    n_pairs: int
    n_positives: int
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    correct: NDArray[np.bool_] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class ThresholdResult:
    """Accuracy with one threshold for all pairs, given from outside.

    Attributes:
        accuracy: In [0, 1].
        threshold: The threshold, a cosine.
        n_pairs: Pairs in all.
        n_positives: Pairs of the same person.
        correct: (m,) whether each pair is judged rightly, in the order of the pairs; takes no part in comparisons.
    """

    accuracy: float
    threshold: float
    n_pairs: int
    n_positives: int
    correct: NDArray[np.bool_] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class BestThresholdResult(ThresholdResult):
    """Accuracy with the threshold that is best on the very pairs it is measured on: optimistic.

    The accuracy is the official code's number, an upper bound of what any fixed threshold reaches on these pairs.
    """


@dataclass(frozen=True, kw_only=True)
class CalibratedResult(ThresholdResult):
    """Accuracy with the threshold that is best on other pairs, of other people.

    Attributes:
        calibration_accuracy: Accuracy of the threshold on the pairs it was chosen on, in [0, 1].
        n_calibration_pairs: Pairs it was chosen on.
    """

    calibration_accuracy: float
    n_calibration_pairs: int


def pair_scores(embeddings: NDArray[np.floating], pairs: pd.DataFrame) -> NDArray[np.float32]:
    """Cosine of the two images of every pair.

    Every image that occurs in a pair is read and scaled to unit length once, however many pairs it is in. Lengths are
    summed in float64, products in float32.

    Args:
        embeddings: (n, d) floating point, any length above 0, in memory or memory-mapped.
        pairs: m rows with `left` and `right`, row positions in the embeddings.

    Returns:
        (m,) float32 cosines.

    Raises:
        ConfigError: A missing column, a position outside [0, n), or an embedding that is not finite or of length zero;
            the message names the row.

    Example:
        >>> pair_scores(np.array([[2.0, 0.0], [3.0, 4.0]]), pd.DataFrame({"left": [0, 0], "right": [1, 0]}))
        array([0.6, 1. ], dtype=float32)
    """
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
        raise ConfigError(
            "embeddings must be floating point of shape (images, dimension), "
            f"got {embeddings.dtype} of shape {embeddings.shape}."
        )
    for column in ("left", "right"):
        if column not in pairs.columns:
            raise ConfigError(f"pairs have no column {column!r}; found {', '.join(map(str, pairs.columns))}.")
        positions = pairs[column].to_numpy()
        if not np.issubdtype(positions.dtype, np.integer):
            raise ConfigError(f"column {column!r} of pairs must hold integers, got {positions.dtype}.")
        wrong = np.flatnonzero((positions < 0) | (positions >= len(embeddings)))
        if len(wrong):
            raise ConfigError(
                f"pair {wrong[0]} has {column} {positions[wrong[0]]}, outside the {len(embeddings)} embeddings."
            )
    m = len(pairs)
    used, place = np.unique(np.concatenate([pairs["left"], pairs["right"]]), return_inverse=True)
    vectors = np.asarray(embeddings[used])
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        what = "has length zero" if lengths[wrong[0]] == 0 else "is not finite (NaN or infinity)"
        raise ConfigError(f"embedding {used[wrong[0]]} {what}; embed its image again before comparing pairs.")
    unit = np.empty(vectors.shape, dtype=np.float32)
    np.divide(vectors, lengths[:, None], out=unit, casting="same_kind")
    scores = np.empty(m, dtype=np.float32)
    for start in range(0, m, _PAIRS_AT_A_TIME):
        stop = min(start + _PAIRS_AT_A_TIME, m)
        scores[start:stop] = np.einsum("ij,ij->i", unit[place[start:stop]], unit[place[m + start : m + stop]])
    return scores


def ten_fold_accuracy(scores: ArrayLike, same: ArrayLike, *, n_folds: int = 10, seed: int = 0) -> VerificationResult:
    """Accuracy by cross-validation: each fold is judged with the threshold that is best on the other folds.

    Pairs are dealt to the folds at random within each class, so every fold holds as many positives as the next (give
    or take one): the official pair lists have all positives first, and unshuffled folds of them hold one class only.
    A pair counts as the same person when its score >= threshold. The threshold lies halfway between two neighbouring
    training scores; of several equally good ones the lowest is taken. Scores are sorted once for all folds, and each
    fold counts over the sorted scores once.
    Deviations from insightface's protocol (`insightface_accuracy`): cosines, not squared distances; all thresholds,
    not a grid of 400; stratified folds.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.
        n_folds: >= 2, and at most the number of pairs of the rarer class.
        seed: Chooses the folds.

    Returns:
        Mean and spread of the accuracy, the thresholds, and which pairs are judged rightly.

    Raises:
        ConfigError: Shapes that do not fit, a score that is not finite, or fewer than two folds.
        DatasetError: Fewer pairs of a class than folds.

    Example:
        >>> result = ten_fold_accuracy([0.9, 0.8, 0.2, 0.1], [True, True, False, False], n_folds=2)
        >>> result.accuracy, result.n_pairs
        (1.0, 4)
    """
    values, truth = checked_scores(scores, same)
    if n_folds < 2:
        raise ConfigError(f"n_folds is {n_folds}; it must be at least 2.")
    n_positives = int(truth.sum())
    if min(n_positives, len(truth) - n_positives) < n_folds:
        raise DatasetError(
            f"{n_positives} positive and {len(truth) - n_positives} negative pairs are too few for {n_folds} folds: "
            "take more pairs or fewer folds."
        )
    fold = np.empty(len(values), dtype=np.int32)
    rng = np.random.default_rng(seed)
    for members in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        fold[rng.permutation(members)] = np.arange(len(members)) % n_folds
    ranked = _RankedPairs(values, truth)
    fold_of_ranked = fold[ranked.order]
    thresholds = np.array([ranked.best_threshold(fold_of_ranked != held_out) for held_out in range(n_folds)])
    correct = (values >= thresholds[fold]) == truth
    accuracies = np.bincount(fold, weights=correct, minlength=n_folds) / np.bincount(fold, minlength=n_folds)
    return VerificationResult(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies, ddof=1)),
        threshold=float(np.mean(thresholds)),
        n_pairs=len(values),
        n_positives=n_positives,
        fold_accuracies=tuple(accuracies.tolist()),
        fold_thresholds=tuple(thresholds.tolist()),
        correct=correct,
    )


def best_threshold_accuracy(scores: ArrayLike, same: ArrayLike) -> BestThresholdResult:
    """Accuracy at the best threshold of these same pairs: the official code's number, optimistic by construction.

    It is never below what any fixed threshold reaches on these pairs; report it only to compare with the paper.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.

    Returns:
        The accuracy, its threshold, and which pairs are judged rightly.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs.

    Example:
        >>> best_threshold_accuracy([0.9, 0.3, 0.4, 0.1], [True, True, False, False]).accuracy
        0.75
    """
    values, truth = checked_scores(scores, same)
    threshold = _RankedPairs(values, truth).best_threshold()
    accuracy, n_positives, correct = _judge(values, truth, threshold)
    return BestThresholdResult(
        accuracy=accuracy, threshold=threshold, n_pairs=len(values), n_positives=n_positives, correct=correct
    )


def accuracy_at_threshold(scores: ArrayLike, same: ArrayLike, threshold: float) -> ThresholdResult:
    """Accuracy at a given threshold.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.
        threshold: A pair counts as the same person when its score >= threshold, compared in float64.

    Returns:
        The accuracy, and which pairs are judged rightly.

    Raises:
        ConfigError: Shapes that do not fit, a score that is not finite, or a threshold that is not a number.
        DatasetError: Only one class of pairs.

    Example:
        >>> result = accuracy_at_threshold([0.9, 0.3, 0.4, 0.1], [True, True, False, False], 0.35)
        >>> result.accuracy, result.correct
        (0.5, array([ True, False, False,  True]))
    """
    values, truth = checked_scores(scores, same)
    if np.isnan(threshold):
        raise ConfigError("threshold is not a number.")
    accuracy, n_positives, correct = _judge(values, truth, float(threshold))
    return ThresholdResult(
        accuracy=accuracy, threshold=float(threshold), n_pairs=len(values), n_positives=n_positives, correct=correct
    )


def calibrated_accuracy(
    scores: ArrayLike, same: ArrayLike, *, calibration_scores: ArrayLike, calibration_same: ArrayLike
) -> CalibratedResult:
    """Accuracy at the threshold that is best on other pairs.

    The number is free of optimism when the calibration pairs are of other people than these; that is for the caller to
    see to.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.
        calibration_scores: (c,) finite scores of the pairs that choose the threshold.
        calibration_same: (c,) booleans.

    Returns:
        The accuracy on the m pairs, which of them are judged rightly, and the accuracy on the calibration pairs.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs, here or in the calibration.

    Example:
        >>> calibration = {"calibration_scores": [0.7, 0.5], "calibration_same": [True, False]}
        >>> result = calibrated_accuracy([0.9, 0.3, 0.4, 0.1], [True, True, False, False], **calibration)
        >>> round(result.threshold, 6), result.accuracy
        (0.6, 0.75)
    """
    values, truth = checked_scores(scores, same)
    try:
        calibration = best_threshold_accuracy(calibration_scores, calibration_same)
    except (ConfigError, DatasetError) as error:
        raise type(error)(f"calibration pairs: {error}") from error
    accuracy, n_positives, correct = _judge(values, truth, calibration.threshold)
    return CalibratedResult(
        accuracy=accuracy,
        threshold=calibration.threshold,
        n_pairs=len(values),
        n_positives=n_positives,
        correct=correct,
        calibration_accuracy=calibration.accuracy,
        n_calibration_pairs=calibration.n_pairs,
    )


def _judge(
    values: NDArray[np.floating], truth: NDArray[np.bool_], threshold: float
) -> tuple[float, int, NDArray[np.bool_]]:
    """Accuracy, number of positives, and the pairs judged rightly at a threshold."""
    # A float64 threshold: a Python float would be rounded to float32 beside float32 scores, onto one of them at worst.
    correct = (values >= np.float64(threshold)) == truth
    return float(np.mean(correct)), int(truth.sum()), correct


class _RankedPairs:
    """Pairs sorted by score, ready for the search of the best threshold on all of them or on a part."""

    def __init__(self, values: NDArray[np.floating], truth: NDArray[np.bool_]) -> None:
        self.order = np.argsort(values)
        self.values = values[self.order]
        # What moving the threshold above a pair does to the number of right answers.
        self.gain = np.where(truth[self.order], -1, 1).astype(np.int8)
        # A cut between equal scores is no threshold; cut c has c pairs below it.
        self.no_cut = np.flatnonzero(self.values[1:] == self.values[:-1]) + 1
        self.count_type = np.int32 if len(values) < 2**31 else np.int64

    def best_threshold(self, members: NDArray[np.bool_] | None = None) -> float:
        """Threshold with the most right answers among all pairs, or the members; the lowest of equally good ones."""
        gained = np.zeros(len(self.values) + 1, dtype=self.count_type)
        np.cumsum(self.gain if members is None else self.gain * members, out=gained[1:])
        gained[self.no_cut] = np.iinfo(self.count_type).min
        cut = int(np.argmax(gained))
        # The members next to the cut. It is the lowest of its count, so a member lies directly below, unless it is 0.
        if members is None:
            members = np.ones(len(self.values), dtype=bool)
        above = float(self.values[cut + np.argmax(members[cut:])]) if members[cut:].any() else np.inf
        if cut == 0:
            return above
        below = float(self.values[cut - 1 - np.argmax(members[:cut][::-1])])
        next_up = float(np.nextafter(below, np.inf))
        # Halfway, unless rounding puts that onto the lower score.
        return next_up if above == np.inf else max((below + above) / 2, next_up)
