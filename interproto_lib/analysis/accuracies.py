"""Methods compared by verification: what each tells correctly, its rates over all thresholds, and other procedures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interproto_lib.analysis.bootstrap import CONFIDENCE, bootstrap_accuracy
from interproto_lib.analysis.evaluation import Judgement
from interproto_lib.analysis.roc import equal_error_rate, roc_auc, tar_at_far
from interproto_lib.analysis.scored_runs import JudgedRun, ScoredRun, judge_methods
from interproto_lib.analysis.statistics import mean_and_std
from interproto_lib.analysis.trials import Trials
from interproto_lib.config import EvaluationConfig
from interproto_lib.errors import RunError

OPERATING_COLUMNS = ("test_set", "method", "measure", "mean", "std", "n_seeds", "note")
"""Columns of `operating_points`."""

FALSE_ACCEPT_RATES = (1e-2, 1e-3)
"""The rates of accepted pairs of two people at which true accept rates are given."""


def pair_trials(judged: Mapping[str, Sequence[JudgedRun]], *, n_resamples: int = 2000, seed: int = 0) -> list[Trials]:
    """Give for each test set which pairs each method tells correctly.

    Args:
        judged: Method -> its judged runs.
        n_resamples: Resamples of identities and seeds, see `bootstrap_accuracy`.
        seed: Seed of the resampling.

    Returns:
        The trials of each test set; a trial is a pair, its cluster the identity of its left image (the child's, in
        child-adult pairs), or the pair itself where identities are unknown.

    Raises:
        RunError: Two runs were scored on different pairs of a test set.
    """
    return [_trials(judged, test_set, n_resamples, seed) for test_set in _test_sets(judged)]


def operating_points(judged: Mapping[str, Sequence[JudgedRun]]) -> pd.DataFrame:
    """Give what does not depend on one threshold: area under the ROC curve, equal error rate, TAR at fixed FAR.

    Args:
        judged: Method -> its judged runs; the scores of the judged epoch are used.

    Returns:
        One row a test set, method and measure with the columns `OPERATING_COLUMNS`: mean and standard deviation over
        seeds, all in percent. A rate that the pairs are too few to resolve is NaN; `note` says so.
    """
    rows = []
    for test_set in _test_sets(judged):
        for method, runs in judged.items():
            measured = [_measures(run.judgements[test_set]) for run in runs]
            for measure in measured[0]:
                values = [one[measure] for one in measured]
                if any(np.isnan(values)):
                    note = "too few pairs of two people to resolve this rate"
                    rows.append((test_set, method, measure, np.nan, np.nan, len(values), note))
                    continue
                over = mean_and_std(values)
                std = np.nan if over.std is None else over.std
                rows.append((test_set, method, measure, over.mean, std, over.n, ""))
    return pd.DataFrame(rows, columns=list(OPERATING_COLUMNS))


def procedure_table(
    scored: Mapping[str, Sequence[ScoredRun]], procedures: Mapping[str, EvaluationConfig]
) -> pd.DataFrame:
    """Judge the same scores by several procedures, so that the optimism of one is visible beside the other.

    Args:
        scored: Method -> its scored runs.
        procedures: What to call a procedure -> how it chooses threshold and epoch.

    Returns:
        Columns method, test_set, procedure, mean, std (over seeds, percent) and n_seeds; NaN where a procedure cannot
        judge.

    Raises:
        RunError: A procedure is to choose an epoch, but a run kept none or there are no validation pairs.
    """
    rows = []
    for name, evaluation in procedures.items():
        judged = judge_methods(scored, evaluation)
        for test_set in _test_sets(judged):
            for method, runs in judged.items():
                accuracies = [run.judgements[test_set].accuracy for run in runs]
                values = [100 * accuracy for accuracy in accuracies if accuracy is not None]
                over = mean_and_std(values) if values else None
                mean, std = (np.nan, None) if over is None else (over.mean, over.std)
                rows.append((method, test_set, name, mean, np.nan if std is None else std, len(values)))
    return pd.DataFrame(rows, columns=["method", "test_set", "procedure", "mean", "std", "n_seeds"])


def _trials(judged: Mapping[str, Sequence[JudgedRun]], test_set: str, n_resamples: int, seed: int) -> Trials:
    every = [run.judgements[test_set] for runs in judged.values() for run in runs]
    pairs = every[0].pairs
    for other in every:
        if not other.pairs[["left", "right", "same"]].equals(pairs[["left", "right", "same"]]):
            raise RunError(
                f"The runs were scored on different pairs of {test_set!r}. Run notebooks/05_verification.ipynb for all "
                "of them with the same settings."
            )
    same, left, right = pairs["same"].to_numpy(dtype=bool), pairs["left_identity"], pairs["right_identity"]
    known = left.notna()
    return Trials(
        test_set=test_set,
        outcomes={
            method: {
                run.seed: correct
                for run in sorted(runs, key=lambda run: run.seed)
                if (correct := run.judgements[test_set].correct) is not None
            }
            for method, runs in judged.items()
        },
        notes={
            method: next((run.judgements[test_set].reason for run in runs if run.judgements[test_set].reason), "")
            for method, runs in judged.items()
        },
        clusters=left.where(known, pd.Series(pairs.index.astype(str), index=pairs.index)).to_numpy(dtype=object),
        n_identities=len(set(left[known]) | set(right[right.notna()])),
        interval=lambda values: bootstrap_accuracy(
            values, same, left, right, n_resamples=n_resamples, confidence=CONFIDENCE, seed=seed
        ),
    )


def _test_sets(judged: Mapping[str, Sequence[JudgedRun]]) -> list[str]:
    return list(dict.fromkeys(name for runs in judged.values() for run in runs for name in run.judgements))


def _measures(judgement: Judgement) -> dict[str, float]:
    same = judgement.pairs["same"].to_numpy(dtype=bool)
    measures = {
        "AUC": 100 * roc_auc(judgement.scores, same),
        "EER": 100 * equal_error_rate(judgement.scores, same).rate,
    }
    for point in tar_at_far(judgement.scores, same, FALSE_ACCEPT_RATES):
        measures[f"TAR@FAR={point.far_target:g}"] = np.nan if point.tar is None else 100 * point.tar
    return measures
