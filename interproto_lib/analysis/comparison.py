"""Comparing methods over seeds: the same measures for every run, paired with the baseline of the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import pandas as pd

from interproto_lib.analysis.class_similarity import prototype_similarity
from interproto_lib.analysis.cohorts import available_cohorts, cohort_matrix, prototypes_of
from interproto_lib.analysis.embedding import load_embeddings
from interproto_lib.analysis.held_out import JudgingRules, judging_rules
from interproto_lib.analysis.projection import nearest_neighbours
from interproto_lib.analysis.similarity import SimilarityMatrix
from interproto_lib.analysis.similarity_summary import (
    PrototypeFeatureGap,
    SimilaritySummary,
    most_confused_pairs,
    prototype_feature_gap,
    summarise_similarity,
)
from interproto_lib.analysis.statistics import mean_and_std, paired_differences
from interproto_lib.config import INTER_PROTOTYPE_SETTINGS
from interproto_lib.deciding_settings import deciding_settings
from interproto_lib.errors import ConfigError, DatasetError, RunError
from interproto_lib.runs import Result, RunFolder, read_results

MEASURE_COLUMNS = ("measure", "method", "seed", "value")
"""Columns of the tables that `held_out_accuracies` and `similarity_measures` give."""

GAP_MEASURES = ("gap_mean", "gap_rms", "correlation")
"""Columns of `prototype_feature_gaps` that `gap_results` records."""


def of_seeds(methods: Mapping[str, Sequence[RunFolder]], seeds: Sequence[int] = ()) -> dict[str, list[RunFolder]]:
    """Keep the runs of some seeds.

    Args:
        methods: Method -> its runs, as `interproto_lib.runs.runs_by_method` gives them.
        seeds: The seeds wanted of every method; empty keeps all runs.

    Returns:
        Method -> its runs, in their order.

    Raises:
        ConfigError: A seed is not a whole number.
        RunError: A method has no run of a seed; the message says which training to run first.
    """
    wrong = [seed for seed in seeds if type(seed) is not int]
    if wrong:
        raise ConfigError(f"seeds={list(seeds)!r}: must be a list of whole numbers, {wrong[0]!r} is none")
    for method, runs in methods.items():
        there = [run.seed for run in runs]
        missing = [seed for seed in seeds if seed not in there]
        if missing:
            raise RunError(
                f"Method {method!r} has no finished run of seed {', '.join(map(str, missing))}, only of "
                f"{', '.join(map(str, there))}. Run notebooks/02_train.ipynb with "
                f"run={f'{method}-s{missing[0]}'!r} and seed={missing[0]} first."
            )
    return {method: [run for run in runs if not seeds or run.seed in seeds] for method, runs in methods.items()}


def runs_of_seed(methods: Mapping[str, Sequence[RunFolder]], seed: int | None = None) -> dict[str, RunFolder]:
    """Choose the run of each method that is drawn: the same seed for all.

    Args:
        methods: Method -> its runs.
        seed: The seed; None takes the first that every method has.

    Returns:
        Method -> run.

    Raises:
        RunError: The methods share no seed, or not the one asked for.
    """
    seeds = {method: [run.seed for run in runs] for method, runs in methods.items()}
    shared = sorted(set.intersection(*(set(of_method) for of_method in seeds.values())))
    if not shared or (seed is not None and seed not in shared):
        wanted = (
            "no seed is shared by all methods" if seed is None or not shared else f"not all methods have seed {seed}"
        )
        there = "; ".join(f"{method}: {of_method}" for method, of_method in seeds.items())
        raise RunError(f"Cannot draw methods side by side: {wanted} ({there}). Train the missing runs with 02_train.")
    chosen = shared[0] if seed is None else seed
    return {method: runs[seeds[method].index(chosen)] for method, runs in methods.items()}


def two_side_by_side(methods: Mapping[str, Sequence[RunFolder]]) -> dict[str, Sequence[RunFolder]]:
    """Choose two methods to look at side by side: the first, and the other one that tells most about the loss.

    That is one that differs from it in the settings of the Inter-Prototype loss alone, where there is one: with the
    loss on child prototypes rather than on all, then the first. Else it is the next method.

    Args:
        methods: Method -> its runs, at least one each, the baseline first.

    Returns:
        The two of them, or the only one.
    """
    settings = {method: deciding_settings(runs[0].config) for method, runs in methods.items()}
    first, *others = settings
    fixed = settings[first].keys() - INTER_PROTOTYPE_SETTINGS
    twins = [other for other in others if all(settings[other][name] == settings[first][name] for name in fixed)]
    twins.sort(key=lambda other: settings[other]["inter_prototype"] != "child")
    return {method: methods[method] for method in (first, *[*twins, *others][:1])}


def paired_with_baseline(measures: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Put each value beside the baseline's value of the same measure and seed.

    A seed that only one of the two methods was trained with has no partner and no row.

    Args:
        measures: As `held_out_accuracies` or `similarity_measures` gives it.
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


def common_rules(methods: Mapping[str, Sequence[RunFolder]]) -> JudgingRules:
    """Give the rules by which all runs were judged on held-out people.

    Args:
        methods: Method -> its runs, whose held-out checks were recorded.

    Returns:
        The rules.

    Raises:
        RunError: A run has no record, or two runs were judged by different rules, so that their accuracies must not be
            compared; the message names both.
    """
    first, *others = [run for runs in methods.values() for run in runs]
    rules = judging_rules(first)
    for other in others:
        differing = [
            (name, mine, theirs)
            for (name, mine), theirs in zip(
                rules.to_dict().items(), judging_rules(other).to_dict().values(), strict=True
            )
            if mine != theirs
        ]
        if differing:
            by_first, by_other = (
                ", ".join(f"{name}={(mine, theirs)[side]!r}" for name, mine, theirs in differing) for side in (0, 1)
            )
            raise RunError(
                f"Accuracies of runs that were judged by different rules must not be compared: {first.name} by "
                f"{by_first}, {other.name} by {by_other}. Run notebooks/02_train.ipynb for both with the same rules."
            )
    return rules


def held_out_accuracies(methods: Mapping[str, Sequence[RunFolder]]) -> pd.DataFrame:
    """Read the held-out accuracies of runs that were judged by the same rules.

    Args:
        methods: Method -> its runs, whose held-out checks were recorded.

    Returns:
        One row a kind of pair, method and seed, with the columns `MEASURE_COLUMNS`: the accuracy in percent. A kind
        that could not be judged is left out.

    Raises:
        RunError: A run has no record (the message says what to run first), or runs were judged by different rules.
    """
    common_rules(methods)
    rows = [
        (result.name.removeprefix("accuracy/"), method, run.seed, result.value)
        for method, runs in methods.items()
        for run in runs
        for result in read_results(run.path, "held_out", made_by="02_train")
        if result.value is not None
    ]
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


def similarity_table(methods: Mapping[str, Sequence[RunFolder]], *, threshold: float = 0.3) -> pd.DataFrame:
    """Summarise the similarity of different identities for every run: features of all cohorts, and prototypes.

    Who is in a cohort is decided in `interproto_lib.analysis.cohorts`: on training images the run's child identities,
    on held-out images every identity with child images. Prototypes are those of the run's child identities. Where a
    split has no two child identities, all of its identities and images count.

    Args:
        methods: Method -> its runs; embeddings are read run by run.
        threshold: Cosine above which a pair counts in `share_above`.

    Returns:
        One row a method, seed, split, cohort and `what` (`features` or `prototypes`), with `n_pairs`, `mean`, `rms`,
        `p05`, `median`, `p95`, `max`, `share_above` and `threshold`.

    Raises:
        RunError: A run has no embeddings; the message says what to run first.
    """
    rows = [
        {"method": method, "seed": run.seed, "split": split, "cohort": cohort, "what": what, **summary.to_dict()}
        for method, runs in methods.items()
        for run in runs
        for split, cohort, what, summary in _similarities(run, threshold)
    ]
    columns = ["method", "seed", "split", "cohort", "what", *(field.name for field in fields(SimilaritySummary))]
    return pd.DataFrame(rows, columns=columns)


def similarity_measures(table: pd.DataFrame) -> pd.DataFrame:
    """Name one number of each row of `similarity_table` as a measure, ready to be paired with a baseline.

    Args:
        table: As `similarity_table` gives it.

    Returns:
        Columns `MEASURE_COLUMNS`. A measure is named as in `child-child, train`, `child-child, held-out`: the mean
        similarity (Eq. 2) of the features; or as in `child-child, prototypes (rms)`: the root mean square cosine of
        prototypes, which is what the Inter-Prototype loss lowers.
    """
    of_prototypes = table["what"] == "prototypes"
    what = table["split"].replace({"heldout": "held-out"}).mask(of_prototypes, "prototypes (rms)")
    value = table["mean"].mask(of_prototypes, table["rms"])
    return pd.DataFrame(
        {"measure": table["cohort"] + ", " + what, "method": table["method"], "seed": table["seed"], "value": value}
    )


def confused_table(matrices: Mapping[str, SimilarityMatrix], *, top: int = 10) -> pd.DataFrame:
    """List the most similar pairs of different identities of each method.

    Args:
        matrices: Method -> similarity of the images of identities (Eq. 2).
        top: Pairs a method.

    Returns:
        One row a method and pair, most similar first: `method`, `row_identity`, `column_identity`, `similarity`.
    """
    pairs = [most_confused_pairs(matrix, top=top).assign(method=method) for method, matrix in matrices.items()]
    return pd.concat(pairs, ignore_index=True)[["method", "row_identity", "column_identity", "similarity"]]


def prototype_feature_gaps(methods: Mapping[str, Sequence[RunFolder]], *, cohort: str) -> pd.DataFrame:
    """Measure for every run how far its prototypes are from the features they stand for.

    Args:
        methods: Method -> its runs; embeddings are read run by run.
        cohort: Whose training images are compared, a name of `interproto_lib.analysis.COHORTS`.

    Returns:
        One row a method and seed: `method`, `seed`, `cohort` and the fields of `PrototypeFeatureGap`.

    Raises:
        DatasetError: A run has no identities of this cohort.
        RunError: A run has no embeddings; the message says what to run first.
    """
    rows = []
    for method, runs in methods.items():
        for run in runs:
            matrix = cohort_matrix(run, load_embeddings(run), cohort)
            gap = prototype_feature_gap(matrix, run.prototypes, run.classes)
            rows.append({"method": method, "seed": run.seed, "cohort": cohort, **gap.to_dict()})
    columns = ["method", "seed", "cohort", *(field.name for field in fields(PrototypeFeatureGap))]
    return pd.DataFrame(rows, columns=columns)


def gap_results(gaps: pd.DataFrame) -> list[Result]:
    """Turn the gaps between prototypes and features into records.

    Args:
        gaps: As `prototype_feature_gaps` gives it.

    Returns:
        One result a method and column of `GAP_MEASURES`: its mean over the seeds.
    """
    results = []
    for (method, cohort), of_method in gaps.groupby(["method", "cohort"], sort=False):
        for measure in GAP_MEASURES:
            values = of_method[measure].dropna()
            mean = mean_and_std(values).mean if len(values) else None
            results.append(
                Result(
                    name=f"prototype-feature {measure}/{method}",
                    value=mean,
                    unit="correlation" if measure == "correlation" else "cosine",
                    n=len(values),
                    n_of="seeds",
                    runs=[f"{method}-s{seed}" for seed in of_method["seed"]],
                    protocol=f"{cohort} pairs of training identities, prototypes minus features",
                    note="" if mean is not None else "Prototypes or features do not vary, so nothing correlates.",
                )
            )
    return results


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
        for (measure, method), difference in paired_differences(table, confidence=confidence).items():
            seeds = table.loc[(table["measure"] == measure) & (table["method"] == method), "seed"]
            results.append(
                Result(
                    name=f"{measure}/{method} minus {baseline}",
                    value=difference.mean,
                    unit=unit,
                    n=difference.n,
                    n_of="seeds",
                    interval=difference.interval,
                    confidence=confidence if difference.interval else None,
                    runs=[f"{name}-s{seed}" for seed in seeds for name in (baseline, method)],
                    note="" if difference.interval else "One seed has no interval.",
                )
            )
    return results


def _similarities(run: RunFolder, threshold: float) -> Iterator[tuple[str, str, str, SimilaritySummary]]:
    """Split, cohort, features or prototypes, and what they say, for everything that can be compared in a run."""
    embeddings = load_embeddings(run)
    for split in ("train", "heldout"):
        if embeddings.manifest.loc[embeddings.manifest["split"] == split, "identity"].nunique() < 2:
            continue
        for cohort in available_cohorts(run, embeddings.manifest, split=split):
            matrix = cohort_matrix(run, embeddings, cohort, split=split)
            yield split, cohort, "features", summarise_similarity(matrix, threshold=threshold)
            if split == "train" and cohort in ("child-child", "all"):
                cosines = prototype_similarity(prototypes_of(run, matrix.row_identities))
                yield split, cohort, "prototypes", summarise_similarity(cosines, threshold=threshold)
