"""Verification: are two images of the same person? Scores of pairs, accuracy by folds, ROC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

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
    """

    accuracy: float
    std: float
    threshold: float
    n_pairs: int
    n_positives: int
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BestThresholdResult:
    """Accuracy with the threshold that is best on the very pairs it is measured on: optimistic.

    Attributes:
        accuracy: In [0, 1]; the official code's number, an upper bound of what any fixed threshold reaches here.
        threshold: The threshold, a cosine.
        n_pairs: Pairs in all.
        n_positives: Pairs of the same person.
    """

    accuracy: float
    threshold: float
    n_pairs: int
    n_positives: int


def pair_scores(embeddings: NDArray[np.floating], pairs: pd.DataFrame) -> NDArray[np.float32]:
    """Cosine of the two images of every pair.

    Every image that occurs in a pair is read and scaled to unit length once, however many pairs it is in.

    Args:
        embeddings: (n, d) floating point, any length above 0, in memory or memory-mapped.
        pairs: m rows with `left` and `right`, row positions in the embeddings.

    Returns:
        (m,) float32 cosines.

    Raises:
        ConfigError: A missing column, a position outside [0, n), or an embedding of length zero.

    Example:
        >>> pair_scores(np.array([[2.0, 0.0], [3.0, 4.0]]), pd.DataFrame({"left": [0, 0], "right": [1, 0]}))
        array([0.6, 1. ], dtype=float32)
    """
    if embeddings.ndim != 2:
        raise ConfigError(f"embeddings must have shape (images, dimension), got {embeddings.shape}.")
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
    vectors = np.asarray(embeddings[used], dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.all(lengths > 0):
        raise ConfigError(f"embedding {used[~(lengths[:, 0] > 0)][0]} has length zero or is not finite.")
    vectors = vectors / lengths
    scores = np.empty(m, dtype=np.float32)
    for start in range(0, m, _PAIRS_AT_A_TIME):
        stop = min(start + _PAIRS_AT_A_TIME, m)
        scores[start:stop] = np.einsum("ij,ij->i", vectors[place[start:stop]], vectors[place[m + start : m + stop]])
    return scores


def ten_fold_accuracy(scores: ArrayLike, same: ArrayLike, *, n_folds: int = 10, seed: int = 0) -> VerificationResult:
    """Accuracy by cross-validation: each fold is judged with the threshold that is best on the other folds.

    Pairs are dealt to the folds at random within each class, so every fold holds as many positives as the next (give
    or take one): the official pair lists have all positives first, and unshuffled folds of them hold one class only.
    A pair counts as the same person when its score >= threshold. The threshold lies halfway between two neighbouring
    training scores; of several equally good ones the lowest is taken. Scores are sorted once for all folds.
    Deviations from insightface's protocol: cosines, not squared distances; all thresholds, not a grid of 400;
    stratified folds.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.
        n_folds: >= 2, and at most the number of pairs of the rarer class.
        seed: Chooses the folds.

    Returns:
        Mean and spread of the accuracy, and the thresholds.

    Raises:
        ConfigError: Shapes that do not fit, a score that is not finite, or fewer than two folds.
        DatasetError: Fewer pairs of a class than folds.

    Example:
        >>> result = ten_fold_accuracy([0.9, 0.8, 0.2, 0.1], [True, True, False, False], n_folds=2)
        >>> result.accuracy, result.n_pairs
        (1.0, 4)
    """
    values, truth = _check(scores, same)
    if n_folds < 2:
        raise ConfigError(f"n_folds is {n_folds}; it must be at least 2.")
    rarer = min(int(truth.sum()), int((~truth).sum()))
    if rarer < n_folds:
        raise DatasetError(
            f"{int(truth.sum())} positive and {int((~truth).sum())} negative pairs are too few for {n_folds} folds: "
            "take more pairs or fewer folds."
        )
    fold = np.empty(len(values), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for members in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        fold[rng.permutation(members)] = np.arange(len(members)) % n_folds
    order = np.argsort(values, kind="stable")
    values, truth, fold = values[order], truth[order], fold[order]
    accuracies, thresholds = [], []
    for held_out in range(n_folds):
        test = fold == held_out
        threshold, _ = _best_threshold(values[~test], truth[~test])
        thresholds.append(threshold)
        accuracies.append(float(np.mean((values[test] >= threshold) == truth[test])))
    return VerificationResult(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies, ddof=1)),
        threshold=float(np.mean(thresholds)),
        n_pairs=len(values),
        n_positives=int(truth.sum()),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=tuple(thresholds),
    )


def best_threshold_accuracy(scores: ArrayLike, same: ArrayLike) -> BestThresholdResult:
    """Accuracy at the best threshold of these same pairs: the official code's number, optimistic by construction.

    It is never below what any fixed threshold reaches on these pairs; report it only to compare with the paper.

    Args:
        scores: (m,) finite scores, higher for more similar.
        same: (m,) booleans, true for the same person.

    Returns:
        The accuracy and its threshold.

    Raises:
        ConfigError: Shapes that do not fit, or a score that is not finite.
        DatasetError: Only one class of pairs.

    Example:
        >>> best_threshold_accuracy([0.9, 0.3, 0.4, 0.1], [True, True, False, False]).accuracy
        0.75
    """
    values, truth = _check(scores, same)
    order = np.argsort(values, kind="stable")
    threshold, correct = _best_threshold(values[order], truth[order])
    return BestThresholdResult(
        accuracy=correct / len(values), threshold=threshold, n_pairs=len(values), n_positives=int(truth.sum())
    )


def roc_curve(
    scores: ArrayLike, same: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
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
    values, truth = _check(scores, same)
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    matches = np.concatenate(([0], np.cumsum(truth)[last])) / truth.sum()
    false_matches = np.concatenate(([0], np.cumsum(~truth)[last])) / (~truth).sum()
    return false_matches, matches, np.concatenate(([np.inf], values[last]))


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


def _best_threshold(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, int]:
    """Threshold with the most correct answers on sorted scores, and how many; the lowest of equally good ones."""
    positives_from = truth.sum() - np.concatenate(([0], np.cumsum(truth)))
    negatives_below = np.concatenate(([0], np.cumsum(~truth)))
    correct = positives_from + negatives_below
    inside = np.concatenate(([False], values[1:] == values[:-1], [False]))
    correct[inside] = -1  # a cut between equal scores is no threshold
    cut = int(np.argmax(correct))
    if cut == 0:
        threshold = values[0]
    elif cut == len(values):
        threshold = np.nextafter(values[-1], np.inf)
    else:
        # Halfway, unless rounding puts that onto the lower score.
        threshold = max((values[cut - 1] + values[cut]) / 2, np.nextafter(values[cut - 1], np.inf))
    return float(threshold), int(correct[cut])


def _check(scores: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(same)
    if values.ndim != 1 or truth.shape != values.shape:
        raise ConfigError(f"scores {values.shape} and same {truth.shape} must both have shape (pairs,).")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise ConfigError("same must hold booleans (or 0 and 1).")
        truth = truth.astype(bool)
    if not np.isfinite(values).all():
        raise ConfigError(f"score {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite.")
    if not truth.any() or truth.all():
        raise DatasetError(f"{len(values)} pairs with {int(truth.sum())} positives: both classes are needed.")
    return values, truth
