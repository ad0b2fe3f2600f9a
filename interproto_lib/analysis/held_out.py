"""The short check that gives a training its outcome: verification of people it has never seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from interproto_lib.analysis.bootstrap import CONFIDENCE, bootstrap_accuracy
from interproto_lib.analysis.evaluation import judge_run
from interproto_lib.analysis.roc import roc_auc
from interproto_lib.analysis.scores import PairScores, score_test_sets
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.test_sets import held_out_sets
from interproto_lib.errors import RunError
from interproto_lib.runs import Result, RunFolder, read_results

HELD_OUT_COLUMNS = (
    "pairs",
    "n_pairs",
    "n_identities",
    "accuracy_percent",
    "low_percent",
    "high_percent",
    "auc",
    "threshold",
    "epoch",
    "note",
)
"""Columns of the table that `held_out_check` gives."""

_RECORD = "held_out"
_MADE_BY = "02_train"


@dataclass(frozen=True, kw_only=True)
class JudgingRules:
    """By what rules a run was judged; accuracies compare only between runs with the same.

    Attributes:
        evaluation: How threshold and epoch were chosen, and which gaps count.
        child_below_years: An image is a child's below this age.
    """

    evaluation: EvaluationConfig
    child_below_years: float

    def to_dict(self) -> dict[str, Any]:
        """Give the rules as one flat dictionary, as they stand among the parameters of a record."""
        return {**asdict(self.evaluation), "child_below_years": self.child_below_years}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items())


def judging_rules(run: RunFolder) -> JudgingRules:
    """Read by what rules a run was judged.

    Args:
        run: A finished run whose held-out check was recorded.

    Returns:
        The rules.

    Raises:
        RunError: There is no record, or it does not hold the rules; the message says what to run first.
    """
    read_results(run.path, _RECORD, made_by=_MADE_BY)
    path = run.path / "results" / f"{_RECORD}.json"
    parameters = json.loads(path.read_text(encoding="utf-8"))["parameters"]
    names = [field.name for field in fields(EvaluationConfig)]
    missing = [name for name in (*names, "child_below_years") if name not in parameters]
    if missing:
        raise RunError(
            f"{path} does not say by what rules the run was judged: {', '.join(missing)} missing. "
            f"Run notebooks/{_MADE_BY}.ipynb for run {run.path.name!r} again; it is not trained again."
        )
    evaluation = EvaluationConfig(**{name: parameters[name] for name in names})
    return JudgingRules(evaluation=evaluation, child_below_years=float(parameters["child_below_years"]))


def held_out_scores(
    run: RunFolder,
    dataset: FaceDataset,
    *,
    evaluation: EvaluationConfig | None = None,
    pair_seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, PairScores], dict[str, PairScores]]:
    """Score the pairs that a dataset's own held-out and validation identities allow, and keep the scores in the run.

    Who is a child is decided by the run's `child_below_years`.

    Args:
        run: A finished run.
        dataset: The dataset it was trained on.
        evaluation: Which gaps count, and how images are embedded; None takes the defaults.
        pair_seed: Seed of the negative pairs; the same for all runs that are compared.
        device: Where to compute, see `score_test_sets`.
        progress: Called with images done and all images after each batch.

    Returns:
        Kind of pair -> scores of pairs of held-out identities; and likewise of validation identities.

    Raises:
        ConfigError: The machine has no such device.
        RunError: The run is not finished.
        WriteError: The scores cannot be written.
    """
    evaluation = evaluation or EvaluationConfig()
    tests, validation = (
        held_out_sets(
            dataset,
            split=split,
            child_below_years=run.config.child_below_years,
            gap_inclusive=evaluation.gap_inclusive,
            seed=pair_seed,
        )
        for split in ("heldout", "validation")
    )
    scores = score_test_sets(
        run, [*tests.values(), *validation.values()], evaluation=evaluation, device=device, progress=progress
    )
    return (
        {kind: scores[test_set.name] for kind, test_set in tests.items()},
        {kind: scores[test_set.name] for kind, test_set in validation.items()},
    )


def held_out_check(
    tests: Mapping[str, PairScores],
    validation: Mapping[str, PairScores],
    *,
    evaluation: EvaluationConfig | None = None,
) -> pd.DataFrame:
    """Judge a run on pairs of held-out identities.

    Args:
        tests: Kind of pair -> scores of held-out identities, as `held_out_scores` gives them.
        validation: Kind of pair -> scores of validation identities.
        evaluation: How threshold and epoch are chosen; None takes the defaults, which never look at the pairs judged.

    Returns:
        One row a kind with the columns `HELD_OUT_COLUMNS`: kind, number of pairs and of identities in them, accuracy in
        percent with its interval (identities resampled, `bootstrap_accuracy`), area under the ROC curve, cosine
        threshold and the epoch judged. A kind that cannot be judged has no accuracy; `note` says why. There is no row
        where there are no held-out identities.

    Raises:
        RunError: An epoch is to be chosen, but the run kept none or there are no validation pairs.
    """
    rows = []
    for kind, judged in judge_run(tests, validation, evaluation or EvaluationConfig()).items():
        pairs, correct = judged.pairs, judged.correct
        same = pairs["same"].to_numpy(dtype=bool)
        accuracy = low = high = float("nan")
        if correct is not None:
            interval = bootstrap_accuracy(
                correct, same, pairs["left_identity"], pairs["right_identity"], confidence=CONFIDENCE
            )
            accuracy, low, high = interval.estimate, interval.low, interval.high
        rows.append(
            (
                kind,
                len(pairs),
                len(set(pairs["left_identity"]) | set(pairs["right_identity"])),
                100 * accuracy,
                100 * low,
                100 * high,
                roc_auc(judged.scores, same),
                float("nan") if judged.threshold is None else judged.threshold,
                judged.epoch,
                judged.reason,
            )
        )
    return pd.DataFrame(rows, columns=list(HELD_OUT_COLUMNS))


def held_out_results(table: pd.DataFrame, *, run: str, rules: JudgingRules) -> list[Result]:
    """Turn the table of a held-out check into records.

    Args:
        table: As `held_out_check` gives it.
        run: Name of the run.
        rules: By what rules it was judged; the protocol of each record names them.

    Returns:
        One result a kind of pair: the accuracy in percent.
    """
    return [
        Result(
            name=f"accuracy/{row['pairs']}",
            value=None if np.isnan(row["accuracy_percent"]) else float(row["accuracy_percent"]),
            unit="percent",
            n=int(row["n_pairs"]),
            n_of="pairs",
            interval=None if np.isnan(row["low_percent"]) else (float(row["low_percent"]), float(row["high_percent"])),
            confidence=None if np.isnan(row["low_percent"]) else CONFIDENCE,
            runs=(run,),
            protocol=f"held-out identities, {row['pairs']} pairs, epoch {row['epoch']}; {rules}",
            note=row["note"]
            or f"The interval resamples the {row['n_identities']} identities of this run; how much runs differ by "
            "their seed belongs to the comparison of runs.",
        )
        for row in table.to_dict("records")
    ]
