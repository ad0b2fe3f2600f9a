"""Verification as insightface measures it, number for number, to compare with published tables (LFW, CALFW, ...).

For results of our own take `ten_fold_accuracy`: stratified folds, cosines, every threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interproto_lib.analysis.roc import checked_scores
from interproto_lib.errors import ConfigError, DatasetError

_LENGTH_TOLERANCE = 1e-3
_ROWS_AT_A_TIME = 65536

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class InsightfaceResult:
    """Accuracy and TAR@FAR over unshuffled folds; all thresholds are squared L2 distances of unit vectors, in [0, 4].

    Attributes:
        accuracy: Mean over the folds, in [0, 1].
        std: Standard deviation over the folds (n in the denominator). The folds share identities, so this is no
            confidence interval.
        threshold: Mean of the folds' thresholds.
        n_pairs: Pairs in all.
        n_positives: Pairs of the same person.
        fold_accuracies: Accuracy of each fold.
        fold_thresholds: Threshold of each fold, chosen on the other folds.
        correct: (m,) whether each pair is judged rightly by its fold's threshold, in the order of the pairs; takes no
            part in comparisons.
        far_target: The false accept rate aimed at.
        tar: Mean over the folds of the true accept rate, in [0, 1].
        tar_std: Its standard deviation over the folds (n in the denominator).
        far: Mean over the folds of the false accept rate reached; may lie above the target.
        fold_tar_thresholds: Threshold of each fold for the true accept rate, interpolated on the other folds.
    """

    accuracy: float
    std: float
    threshold: float
    n_pairs: int
    n_positives: int
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    correct: NDArray[np.bool_] = field(repr=False, compare=False)
    far_target: float
    tar: float
    tar_std: float
    far: float
    fold_tar_thresholds: tuple[float, ...]


def insightface_accuracy(
    embeddings_left: NDArray[np.floating],
    embeddings_right: NDArray[np.floating],
    same: ArrayLike,
    *,
    n_folds: int = 10,
    far_target: float = 1e-3,
) -> InsightfaceResult:
    """Accuracy and TAR@FAR by insightface's protocol (`verification.py` of its recognition code).

    Per pair the squared L2 distance, sum((left - right)^2), in the type of the embeddings. Folds are runs of
    neighbouring pairs (scikit-learn's `KFold`, not shuffled). A pair matches when its distance < threshold. Accuracy:
    of the thresholds 0, 0.01, ... 3.99 the first with the most right answers on the other folds. TAR: over the
    thresholds 0, 0.001, ... 3.999 the one where the FAR of the other folds reaches the target, see
    `insightface_accuracy_of_distances`. Mean and standard deviation (n in the denominator) over the folds.
    insightface sums the embeddings of image and mirror image and scales the sum to unit length, all in float64; that is
    the caller's part: pass float64 for its numbers to the last bit.
    Deviations: folds of one class, where insightface divides by zero, are refused; so are rows that are not of unit
    length, which insightface would compare with thresholds that mean nothing for them.

    Args:
        embeddings_left: (m, d) unit rows, float32 or float64.
        embeddings_right: (m, d) unit rows.
        same: (m,) booleans, true for the same person, both classes in every fold.
        n_folds: At least 2.
        far_target: In (0, 1).

    Returns:
        The result.

    Raises:
        ConfigError: Shapes that do not fit, or a row that is not finite or not of unit length; the message names it.
        DatasetError: A fold has pairs of one class only, as in a list with all positives first.

    Example:
        >>> left, right = np.eye(4)[[0, 0, 1, 1]], np.eye(4)[[0, 1, 1, 2]]
        >>> result = insightface_accuracy(left, right, [True, False, True, False], n_folds=2)
        >>> result.accuracy, result.fold_thresholds
        (1.0, (0.01, 0.01))
    """
    if embeddings_left.shape != embeddings_right.shape or embeddings_left.ndim != 2:
        raise ConfigError(
            f"embeddings {embeddings_left.shape} and {embeddings_right.shape} must both have shape (pairs, dimension)."
        )
    distances = np.empty(len(embeddings_left), np.result_type(embeddings_left, embeddings_right))
    for start in range(0, len(distances), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        left, right = np.asarray(embeddings_left[part]), np.asarray(embeddings_right[part])
        _check_unit_rows(left, "embeddings_left", start)
        _check_unit_rows(right, "embeddings_right", start)
        distances[part] = np.sum(np.square(np.subtract(left, right)), 1)
    return insightface_accuracy_of_distances(distances, same, n_folds=n_folds, far_target=far_target)


def insightface_accuracy_of_distances(
    distances: ArrayLike, same: ArrayLike, *, n_folds: int = 10, far_target: float = 1e-3
) -> InsightfaceResult:
    """Accuracy and TAR@FAR by insightface's protocol, from squared distances.

    The threshold for a FAR target is the straight line through the points (FAR, threshold), read at the target:
    between the last point with FAR <= target and the next one; 0 where the largest FAR is below the target, and where
    it equals the target at several thresholds. That is `interp1d(kind="slinear")` of SciPy 1.8, which insightface was
    written for; later versions refuse the repeated FARs that every real curve has. Comparisons are in float64, as
    under NumPy 2.

    Args:
        distances: (m,) finite squared L2 distances, lower for more similar.
        same: (m,) booleans, true for the same person, both classes in every fold.
        n_folds: At least 2.
        far_target: In (0, 1).

    Returns:
        The result.

    Raises:
        ConfigError: Shapes that do not fit, a distance that is not finite, or a setting out of range.
        DatasetError: A fold has pairs of one class only, as in a list with all positives first.

    Example:
        >>> insightface_accuracy_of_distances([0.2, 1.7, 0.2, 0.1], [True, False, True, False], n_folds=2).accuracy
        0.5
    """
    values, truth = checked_scores(distances, same)
    if n_folds < 2:
        raise ConfigError(f"n_folds is {n_folds}; it must be at least 2.")
    if not 0 < far_target < 1:
        raise ConfigError(f"far_target is {far_target}; it must lie in (0, 1).")
    sizes = np.full(n_folds, len(values) // n_folds)
    sizes[: len(values) % n_folds] += 1
    fold = np.repeat(np.arange(n_folds), sizes)
    n_positives = np.bincount(fold, weights=truth, minlength=n_folds).astype(np.int64)
    n_negatives = sizes - n_positives
    _check_both_classes(sizes, n_positives)

    grid = np.arange(0, 4, 0.01)
    accepted, false_accepted = _matches_below(values, truth, fold, grid, n_folds)
    right = accepted + n_negatives[:, None] - false_accepted
    best = np.argmax(right.sum(axis=0) - right, axis=1)
    folds = np.arange(n_folds)
    accuracies = right[folds, best] / sizes

    fine_grid = np.arange(0, 4, 0.001)
    _, false_accepted = _matches_below(values, truth, fold, fine_grid, n_folds)
    training_far = (false_accepted.sum(axis=0) - false_accepted) / (n_negatives.sum() - n_negatives)[:, None]
    tar_thresholds = np.array([_threshold_at_far(far, fine_grid, far_target) for far in training_far])
    match = values < tar_thresholds[fold]
    tars = np.bincount(fold, weights=match & truth) / n_positives
    fars = np.bincount(fold, weights=match & ~truth) / n_negatives
    return InsightfaceResult(
        accuracy=float(np.mean(accuracies)),
        std=float(np.std(accuracies)),
        threshold=float(np.mean(grid[best])),
        n_pairs=len(values),
        n_positives=int(n_positives.sum()),
        fold_accuracies=tuple(accuracies.tolist()),
        fold_thresholds=tuple(grid[best].tolist()),
        correct=(values < grid[best][fold]) == truth,
        far_target=float(far_target),
        tar=float(np.mean(tars)),
        tar_std=float(np.std(tars)),
        far=float(np.mean(fars)),
        fold_tar_thresholds=tuple(tar_thresholds.tolist()),
    )


def _matches_below(
    distances: NDArray[np.floating], truth: NDArray[np.bool_], fold: Integers, thresholds: NDArray[np.float64], k: int
) -> tuple[Integers, Integers]:
    """For each of k folds and each threshold: positives and negatives with distance < threshold, each (k, t)."""
    n = len(thresholds) + 1
    # The first threshold above a distance, in float64: the distance matches from there on.
    place = np.searchsorted(thresholds, distances.astype(np.float64), side="right") + n * fold
    positives, negatives = (
        np.bincount(place[members], minlength=k * n).reshape(k, n)[:, :-1].cumsum(axis=1) for members in (truth, ~truth)
    )
    return positives, negatives


def _threshold_at_far(far: NDArray[np.float64], thresholds: NDArray[np.float64], target: float) -> float:
    """Threshold where a rising FAR reaches the target; a spline of degree 1 through the points, repeated FARs kept."""
    from scipy.interpolate import BSpline

    if far[-1] < target:
        return 0.0
    return float(BSpline(np.r_[far[0], far, far[-1]], thresholds, 1)(target))


def _check_unit_rows(rows: NDArray[np.floating], name: str, first: int) -> None:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
    if len(wrong):
        raise ConfigError(
            f"{name}: row {first + wrong[0]} has length {lengths[wrong[0]]:g}; "
            "rows must be scaled to length 1 (image and mirror image summed first, where both are used)."
        )


def _check_both_classes(sizes: Integers, n_positives: Integers) -> None:
    one_class = np.flatnonzero((n_positives == 0) | (n_positives == sizes))
    if len(one_class):
        number = int(one_class[0])
        start = int(sizes[:number].sum())
        raise DatasetError(
            f"fold {number + 1} of {len(sizes)}, pairs {start} to {start + int(sizes[number]) - 1}, has "
            f"{n_positives[number]} positives among {sizes[number]} pairs: insightface takes folds in the order of the "
            "list and needs both classes in each. Use ten_fold_accuracy, which deals each class to all folds."
        )
