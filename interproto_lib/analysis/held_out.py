"""The short check that gives a training its outcome: verification of people it has never seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from interproto_lib.analysis.embedding import Embeddings, embed_images, load_backbone
from interproto_lib.analysis.verification import best_threshold_accuracy, pair_scores, roc_auc, ten_fold_accuracy
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.protocols import available_pair_kinds, verification_pairs
from interproto_lib.devices import resolve_device
from interproto_lib.errors import RunError
from interproto_lib.runs import Result, RunFolder, read_results

N_FOLDS = 10
"""Folds of the check; a kind with fewer pairs of one person is listed without an accuracy."""

HELD_OUT_COLUMNS = ("pairs", "n_pairs", "accuracy_percent", "sd_over_folds", "auc", "threshold", "epoch")
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


def held_out_check(
    run: RunFolder,
    dataset: FaceDataset,
    embeddings: Embeddings,
    *,
    evaluation: EvaluationConfig | None = None,
    pair_seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Verify pairs of held-out identities by the cosine of their embeddings.

    Who is a child is decided by the run's `child_below_years`.

    Args:
        run: The run, for its epochs where one of them is to be chosen.
        dataset: The dataset; its split `heldout` is used.
        embeddings: Embeddings of all its images at the end of training.
        evaluation: How threshold and epoch are chosen; None takes the defaults, which never look at the test pairs.
        pair_seed: Seed of the negative pairs; the same for all runs that are compared.
        device: Where kept epochs are embedded, see `embed_dataset`; None takes the run's own setting.
        progress: Called with images done and all images, where kept epochs are embedded. Only images that occur in a
            pair are.

    Returns:
        One row for each kind of pair that the ages allow, with the columns `HELD_OUT_COLUMNS`: kind, number of pairs
        (half of them of one person), accuracy in percent, its standard deviation over folds in percentage points
        (missing for `best_on_test`, which has no folds), area under the ROC curve, cosine threshold (mean over folds)
        and the epoch judged. A kind with fewer than ten pairs of one person has no accuracy. There is no row where
        there are no held-out identities.

    Raises:
        ConfigError: The machine has no such device.
        RunError: `epoch_choice="best_on_test"` but the run did not keep its epochs.
    """
    evaluation, config = evaluation or EvaluationConfig(), run.config
    choose_epoch = evaluation.epoch_choice == "best_on_test"
    if choose_epoch and not config.keep_every_epoch:
        raise RunError(f"Run {run.name!r} kept no epochs to choose from. Train it with keep_every_epoch=True.")
    ages: dict[str, Any] = {"child_below_years": config.child_below_years, "gap_inclusive": evaluation.gap_inclusive}
    pairs = {
        kind: verification_pairs(dataset.manifest, kind, seed=pair_seed, **ages)
        for kind, n_positives in available_pair_kinds(dataset.manifest, **ages).items()
        if n_positives
    }
    tables = [_check(embeddings.vectors, pairs, evaluation, epoch=config.epochs)]
    if choose_epoch and pairs and config.epochs > 1:
        rows = np.unique(np.concatenate([table[side] for table in pairs.values() for side in ("left", "right")]))
        among_rows = {
            kind: table.assign(left=np.searchsorted(rows, table["left"]), right=np.searchsorted(rows, table["right"]))
            for kind, table in pairs.items()
        }
        for epoch in range(1, config.epochs):
            vectors = embed_images(
                load_backbone(run, epoch=epoch),
                dataset.images,
                rows=rows,
                device=resolve_device(config.device if device is None else device),
                channels_last=config.channels_last,
                progress=_part(progress, epoch - 1, config.epochs - 1),
            )
            tables.append(_check(vectors, among_rows, evaluation, epoch=epoch))
    table = pd.concat(tables, ignore_index=True)
    best_first = table.sort_values("accuracy_percent", ascending=False, kind="stable").drop_duplicates("pairs")
    return best_first.set_index("pairs").loc[list(pairs)].reset_index()[list(HELD_OUT_COLUMNS)]


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
            runs=(run,),
            protocol=f"held-out identities, {row['pairs']} pairs, epoch {row['epoch']}; {rules}",
            note="The interval over seeds belongs to the comparison of runs; one run has none.",
        )
        for row in table.to_dict("records")
    ]


def _part(progress: Callable[[int, int], None] | None, part: int, of_parts: int) -> Callable[[int, int], None] | None:
    """Report one of several equally long parts as a stretch of the whole."""
    if progress is None:
        return None
    return lambda done, of: progress(part * of + done, of_parts * of)


def _check(
    vectors: np.ndarray, pairs: dict[str, pd.DataFrame], evaluation: EvaluationConfig, *, epoch: int
) -> pd.DataFrame:
    rows: list[tuple[object, ...]] = []
    for kind, table in pairs.items():
        scores = pair_scores(vectors, table)
        same = table["same"].to_numpy(dtype=bool)
        if same.sum() < N_FOLDS:
            accuracy = deviation = threshold = float("nan")
        elif evaluation.verification_threshold == "ten_fold":
            folds = ten_fold_accuracy(scores, same, n_folds=N_FOLDS)
            accuracy, deviation, threshold = folds.accuracy, folds.std, folds.threshold
        else:
            best = best_threshold_accuracy(scores, same)
            accuracy, deviation, threshold = best.accuracy, float("nan"), best.threshold
        rows.append((kind, len(table), 100 * accuracy, 100 * deviation, roc_auc(scores, same), threshold, epoch))
    return pd.DataFrame(rows, columns=list(HELD_OUT_COLUMNS))
