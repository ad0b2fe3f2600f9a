"""Judging a run by its scores: which epoch, which threshold, which pairs are told correctly, and by whose choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.scores import PairScores
from interproto_lib.analysis.verification import best_threshold_accuracy, calibrated_accuracy, ten_fold_accuracy
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.protocols import PAIR_KINDS
from interproto_lib.errors import RunError

N_FOLDS = 10
"""Folds of `ten_fold`, and the fewest pairs of one person (and of two) that a test set is judged, or chosen, with."""

TEN_FOLD_PROCEDURE = EvaluationConfig(verification_threshold="ten_fold", epoch_choice="last")
"""A way to judge that chooses nothing on the pairs judged and needs no validation people."""

OFFICIAL_PROCEDURE = EvaluationConfig(verification_threshold="best_on_test", epoch_choice="best_on_test")
"""How the official code judges: the epoch and the threshold that are best on the very pairs judged (optimistic)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What a run says of the pairs of a test set, and how often it is right.

    Attributes:
        test_set: Name of the test set.
        pairs: m pairs, as in `PairScores`.
        epoch: The epoch judged.
        scores: (m,) cosines at that epoch.
        threshold: The cosine from which on two images are said to show one person, for `ten_fold` the mean over the
            folds; None where the set could not be judged.
        correct: (m,) whether each pair is told correctly; None where the set could not be judged.
        reason: Why it could not be judged, in one sentence; empty otherwise.
    """

    test_set: str
    pairs: pd.DataFrame
    epoch: int
    scores: NDArray[np.float32]
    threshold: float | None
    correct: NDArray[np.bool_] | None
    reason: str = ""

    @property
    def accuracy(self) -> float | None:
        """Share of the pairs told correctly, in [0, 1]; None where the set could not be judged."""
        return None if self.correct is None else float(self.correct.mean())


def judge_run(
    tests: Mapping[str, PairScores],
    validation: Mapping[str, PairScores],
    evaluation: EvaluationConfig,
) -> dict[str, Judgement]:
    """Judge a run on all of its test sets.

    One epoch is chosen for the run, on the validation pairs of the first test set in the order of `PAIR_KINDS` (C20
    where there is any), and thresholds for each test set on its own validation pairs. A test set that shares people
    with these validation pairs has its epoch chosen on its own. Only `best_on_test` chooses an epoch on the test set
    itself. Of equally good epochs the latest is taken. A run with a single epoch, such as an imported one, leaves
    nothing to choose: by every rule that epoch is judged.

    Args:
        tests: Name of the test set -> its scores.
        validation: Name of the test set -> scores of pairs of other people, on which epoch and threshold are chosen; a
            test set may be missing.
        evaluation: How to judge.

    Returns:
        Name of the test set -> judgement, in the order of `tests`. A set that cannot be judged (too few pairs of a
        class, no validation pairs for its threshold) has no accuracy but a reason.

    Raises:
        RunError: An epoch is to be chosen and there are no validation pairs, or the run kept no epochs.
    """
    if not tests:
        return {}
    chosen = chosen_epoch(validation, next(iter(tests.values())).epochs, evaluation)
    chosen_on = _people(_choosing(validation)) if evaluation.epoch_choice == "validation" else set()
    judged = {}
    for name, scores in tests.items():
        epochs = _epochs_to_judge(scores, evaluation, chosen)
        if scores.epochs != (1,) and chosen_on & _people(scores):
            own = validation.get(name)
            epochs = (_best_epoch(own),) if own is not None and not _why_too_few(own, "validation") else ()
        judged[name] = _judge(scores, validation.get(name), evaluation, epochs)
    return judged


def chosen_epoch(
    validation: Mapping[str, PairScores], epochs: tuple[int, ...], evaluation: EvaluationConfig
) -> int | None:
    """Choose the epoch that a run is judged at on all of its test sets.

    Args:
        validation: Name of the test set -> scores of validation pairs.
        epochs: The epochs that were scored, rising.
        evaluation: Its `epoch_choice` decides.

    Returns:
        The epoch; None where each test set is to choose its own (`best_on_test`).

    Raises:
        RunError: There are no validation pairs to choose on.
    """
    if evaluation.epoch_choice == "best_on_test":
        return None
    if evaluation.epoch_choice == "last" or epochs == (1,):
        return epochs[-1]
    _check_kept(epochs)
    choosing = _choosing(validation)
    if choosing is None:
        raise RunError(
            "There are no validation identities with pairs enough to choose an epoch on. Make the dataset with some "
            "(notebook 01: n_validation_identities or validation_share), or judge with epoch_choice='last' and "
            "verification_threshold='ten_fold'."
        )
    return _best_epoch(choosing)


def _choosing(validation: Mapping[str, PairScores]) -> PairScores | None:
    """The validation pairs that a run's epoch is chosen on; None where there are none with enough of both classes."""
    usable = {name: scores for name, scores in validation.items() if not _why_too_few(scores, "validation")}
    return next((usable[name] for name in (*PAIR_KINDS, *usable) if name in usable), None)


def _people(scores: PairScores | None) -> set[str]:
    if scores is None:
        return set()
    return {name for side in ("left", "right") for name in scores.pairs[f"{side}_identity"].dropna()}


def _check_kept(epochs: tuple[int, ...]) -> None:
    if len(epochs) == 1 and epochs[0] > 1:
        raise RunError(
            "The run kept no epochs to choose from. Train it with keep_every_epoch=True, or judge with "
            "epoch_choice='last'."
        )


def _best_epoch(scores: PairScores) -> int:
    accuracies = [best_threshold_accuracy(scores.at(epoch), scores.same).accuracy for epoch in scores.epochs]
    return max(zip(accuracies, scores.epochs, strict=True))[1]


def _epochs_to_judge(scores: PairScores, evaluation: EvaluationConfig, chosen: int | None) -> tuple[int, ...]:
    if chosen is not None:
        return (chosen,)
    _check_kept(scores.epochs)
    return scores.epochs


def _judge(
    scores: PairScores, validation: PairScores | None, evaluation: EvaluationConfig, epochs: tuple[int, ...]
) -> Judgement:
    if not epochs:
        return _unjudged(scores, scores.epochs[-1], "the epoch would be chosen on people of this very test set")
    at_epochs = [_judge_epoch(scores, validation, evaluation, epoch) for epoch in epochs]
    return max(at_epochs, key=lambda judged: (-1.0 if judged.accuracy is None else judged.accuracy, judged.epoch))


def _unjudged(scores: PairScores, epoch: int, reason: str) -> Judgement:
    return Judgement(
        test_set=scores.test_set,
        pairs=scores.pairs,
        epoch=epoch,
        scores=scores.at(epoch),
        threshold=None,
        correct=None,
        reason=reason,
    )


def _judge_epoch(
    scores: PairScores, validation: PairScores | None, evaluation: EvaluationConfig, epoch: int
) -> Judgement:
    cosines, same = scores.at(epoch), scores.same
    threshold, correct, reason = None, None, _why_too_few(scores, "test")
    if not reason and evaluation.verification_threshold == "validation":
        reason = "there are no validation pairs of its kind" if validation is None else ""
        if validation is not None:
            reason = _why_too_few(validation, "validation")
    if not reason:
        if evaluation.verification_threshold == "ten_fold":
            folds = ten_fold_accuracy(cosines, same, n_folds=N_FOLDS)
            threshold, correct = folds.threshold, folds.correct
        elif evaluation.verification_threshold == "best_on_test":
            best = best_threshold_accuracy(cosines, same)
            threshold, correct = best.threshold, best.correct
        elif validation is not None:
            calibrated = calibrated_accuracy(
                cosines, same, calibration_scores=validation.at(epoch), calibration_same=validation.same
            )
            threshold, correct = calibrated.threshold, calibrated.correct
    return Judgement(
        test_set=scores.test_set,
        pairs=scores.pairs,
        epoch=epoch,
        scores=cosines,
        threshold=threshold,
        correct=correct,
        reason=reason,
    )


def _why_too_few(scores: PairScores, what: str) -> str:
    n_same = int(scores.same.sum())
    fewer = min(n_same, len(scores.same) - n_same)
    if fewer >= N_FOLDS:
        return ""
    return (
        f"it has only {n_same} {what} pairs of one person and {len(scores.same) - n_same} of two (at least {N_FOLDS})"
    )
