"""Comparing methods over seeds: the same measures for every run, paired with the baseline of the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from interproto_lib.analysis.embedding import Embeddings, load_embeddings
from interproto_lib.analysis.projection import nearest_neighbours
from interproto_lib.analysis.similarity import COHORTS, cohort_similarity, prototype_similarity
from interproto_lib.analysis.similarity_summary import summarise_similarity
from interproto_lib.analysis.statistics import paired_difference
from interproto_lib.errors import DatasetError, RunError
from interproto_lib.runs import Result, RunFolder, read_results

MEASURE_COLUMNS = ("measure", "method", "seed", "value")
"""Columns of the tables that `measure_runs` gives."""


def measure_runs(
    runs: Mapping[str, Sequence[RunFolder]], measure: Callable[[RunFolder], Mapping[str, float]]
) -> pd.DataFrame:
    """Take the same measures of every run.

    Args:
        runs: Method -> its runs, as `interproto_lib.runs.runs_by_method` gives them.
        measure: Gives the measures of one run by name, such as `held_out_accuracies`.

    Returns:
        One row a measure, method and seed, with the columns `MEASURE_COLUMNS`.
    """
    rows = [
        (name, method, run.seed, value)
        for method, of_method in runs.items()
        for run in of_method
        for name, value in measure(run).items()
    ]
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


def paired_with_baseline(measures: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Put each value beside the baseline's value of the same measure and seed.

    A seed that only one of the two methods was trained with has no partner and no row.

    Args:
        measures: As `measure_runs` gives it.
        baseline: The method that the others are compared with.

    Returns:
        Columns measure, method, seed, baseline, treated; one row a measure, other method and common seed.

    Raises:
        RunError: A method shares no seed with the baseline.
    """
    base = measures[measures["method"] == baseline].rename(columns={"value": "baseline"}).drop(columns="method")
    treated = measures[measures["method"] != baseline].rename(columns={"value": "treated"})
    paired = treated.merge(base, on=["measure", "seed"], how="inner", sort=False)
    lonely = sorted(set(treated["method"]) - set(paired["method"]))
    if lonely:
        raise RunError(
            f"{lonely[0]!r} and {baseline!r} have no seed in common. Run notebooks/02_train.ipynb with the same seeds."
        )
    return paired[["measure", "method", "seed", "baseline", "treated"]]


def held_out_accuracies(run: RunFolder) -> dict[str, float]:
    """Read the held-out accuracies of a run.

    Args:
        run: A finished run whose held-out check was recorded.

    Returns:
        Kind of pair -> accuracy in percent; a kind that could not be judged is left out.

    Raises:
        RunError: There is no record; the message says what to run first.
    """
    results = read_results(run.path, "held_out", made_by="02_train")
    return {r.name.removeprefix("accuracy/"): r.value for r in results if r.value is not None}


def similarity_measures(run: RunFolder) -> dict[str, float]:
    """Measure how close a run puts different identities: features of each cohort, and prototypes.

    Args:
        run: A finished run with saved embeddings.

    Returns:
        Mean similarity (Eq. 2) of each cohort that exists, on training and on held-out images, and, where there are
        two child identities, the root mean square cosine of their prototypes.

    Raises:
        RunError: There are no embeddings; the message says what to run first.
    """
    embeddings = load_embeddings(run)
    measures = {
        f"{cohort}, {split}": mean
        for split in ("train", "heldout")
        for cohort in COHORTS
        if (mean := _cohort_mean(embeddings, cohort, split)) is not None
    }
    is_child = run.classes["is_child"].to_numpy(dtype=bool)
    if is_child.sum() >= 2:
        summary = summarise_similarity(prototype_similarity(run.prototypes[is_child]))
        measures["child prototypes, rms"] = summary.rms
    return measures


def child_neighbour_share(run: RunFolder, *, k: int = 5) -> tuple[float, float]:
    """Measure how much the child prototypes of a run bunch in the space they live in.

    Args:
        run: A finished run with at least one child identity.
        k: Neighbours looked at.

    Returns:
        The share of child prototypes among the k nearest neighbours of a child prototype, and the share expected of
        neighbours drawn at random.

    Raises:
        DatasetError: There is no child identity.
    """
    is_child = run.classes["is_child"].to_numpy(dtype=bool)
    n, n_child = len(is_child), int(is_child.sum())
    if n_child == 0:
        raise DatasetError(f"Run {run.name!r} has no child identity (min_child_images={run.config.min_child_images}).")
    neighbours, _ = nearest_neighbours(run.prototypes, min(k, n - 1))
    return float(is_child[neighbours[is_child]].mean()), (n_child - 1) / (n - 1)


def _cohort_mean(embeddings: Embeddings, cohort: str, split: str) -> float | None:
    try:
        matrix = cohort_similarity(embeddings.vectors, embeddings.manifest, None, None, cohort=cohort, split=split)
    except DatasetError:  # no identity has such images: the cohort does not exist here
        return None
    return summarise_similarity(matrix).mean if np.isfinite(matrix.values).sum() and len(matrix.values) > 1 else None


def comparison_results(paired: Mapping[str, pd.DataFrame], *, baseline: str, confidence: float = 0.95) -> list[Result]:
    """Turn paired tables into records: one mean difference, with its interval, for each measure and method.

    Args:
        paired: Unit of the values -> table as `paired_with_baseline` gives it.
        baseline: Name of the baseline.
        confidence: Confidence of the t-interval over seeds.

    Returns:
        The results, named `<measure>/<method> minus <baseline>`.
    """
    results = []
    for unit, table in paired.items():
        for (measure, method), rows in table.groupby(["measure", "method"], sort=False):
            difference = paired_difference(
                rows["baseline"].to_numpy(dtype=float), rows["treated"].to_numpy(dtype=float), confidence=confidence
            )
            results.append(
                Result(
                    name=f"{measure}/{method} minus {baseline}",
                    value=difference.mean,
                    unit=unit,
                    n=difference.n,
                    n_of="seeds",
                    interval=difference.interval,
                    confidence=confidence if difference.interval else None,
                    runs=[f"{name}-s{seed}" for seed in rows["seed"] for name in (baseline, str(method))],
                    note="" if difference.interval else "One seed has no interval.",
                )
            )
    return results
