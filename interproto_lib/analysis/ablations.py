"""Sweeps of settings: which setting a sweep varies, what was measured at each of its values, and what that changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from interproto_lib.analysis.class_similarity import prototype_similarity
from interproto_lib.analysis.cohorts import available_cohorts, child_identities, cohort_matrix, prototypes_of
from interproto_lib.analysis.comparison import comparison_results, held_out_accuracies, of_seeds
from interproto_lib.analysis.embedding import load_embeddings
from interproto_lib.analysis.published import paper_row, published_table
from interproto_lib.analysis.similarity_summary import summarise_similarity
from interproto_lib.config import INTER_PROTOTYPE_SETTINGS
from interproto_lib.deciding_settings import deciding_settings
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.runs import Result, RunFolder

ABLATION_COLUMNS = (
    "sweep",
    "method",
    "reference",
    "setting",
    "at",
    "line",
    "seed",
    "measure",
    "unit",
    "value",
)
"""Columns of `ablation_table`."""

_DIFFERENCE_UNITS = {"percent": "percentage points", "cosine": "cosine"}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs set side by side, and what tells them apart. Which setting it varies is read from the runs themselves.

    Attributes:
        name: Name of the sweep.
        runs: Method -> its runs.
        references: Method -> the method that it is compared with: the one of the sweep that differs from it only in
            that the loss is off; else the baseline; else the first of the sweep. A method that is itself what the
            others start from is not in it.
        setting: The numeric setting along which more than half of the methods lie, all others being equal; None where
            there is none, as in a sweep of losses.
        positions: Method -> its value of that setting, for those in which the setting means something.
        lines: Method -> the other settings that tell it from methods on another line, as in `ip_reduction=sum`; empty
            where there is one line.
    """

    name: str
    runs: Mapping[str, Sequence[RunFolder]]
    references: Mapping[str, str]
    setting: str | None
    positions: Mapping[str, float]
    lines: Mapping[str, str]


def sweep_states(
    runs: Mapping[str, Sequence[RunFolder]], sweeps: Mapping[str, Sequence[str]], seeds: Sequence[int] = ()
) -> pd.DataFrame:
    """List for every sweep and method which runs are there and which are not.

    Args:
        runs: Method -> its finished runs: all of an experiment, as `interproto_lib.runs.runs_by_method` gives them.
        sweeps: Sweep -> the methods that it sets side by side.
        seeds: The seeds wanted of every method; empty is content with any.

    Returns:
        One row a sweep and method: `sweep`, `method`, `trained` and `missing`, both lists of run names.
    """
    rows = []
    for sweep, methods in sweeps.items():
        for method in methods:
            there = {run.seed: run.name for run in runs.get(method, ())}
            wanted = list(seeds) or list(there) or [0]
            rows.append(
                {
                    "sweep": sweep,
                    "method": method,
                    "trained": [there[seed] for seed in wanted if seed in there],
                    "missing": [f"{method}-s{seed}" for seed in wanted if seed not in there],
                }
            )
    return pd.DataFrame(rows, columns=["sweep", "method", "trained", "missing"])


def trained_sweeps(
    runs: Mapping[str, Sequence[RunFolder]],
    sweeps: Mapping[str, Sequence[str]],
    *,
    baseline: str,
    seeds: Sequence[int] = (),
) -> dict[str, Sweep]:
    """Take the sweeps all of whose runs are there; `sweep_states` lists the others.

    Args:
        runs: Method -> its finished runs: all of an experiment, as `interproto_lib.runs.runs_by_method` gives them.
        sweeps: Sweep -> the methods that it sets side by side.
        baseline: The method that others are compared with.
        seeds: The seeds wanted of every method; empty takes all runs.

    Returns:
        Name -> sweep, in the given order.

    Raises:
        ConfigError: There is no sweep, one names no method, or a seed is not a whole number.
        RunError: No sweep has all of its runs; the message says which training to run first.
    """
    if not sweeps:
        raise ConfigError("No sweep is named: give sweeps={name: [methods]}.")
    for name, methods in sweeps.items():
        if not methods:
            raise ConfigError(f"Sweep {name!r} names no method. Methods there: {', '.join(runs)}.")
    of_seeds({}, seeds)
    states = sweep_states(runs, sweeps, seeds)
    lacking = states[states["missing"].map(len) > 0]
    whole = [name for name in sweeps if name not in set(lacking["sweep"])]
    if not whole:
        first = lacking["missing"].iloc[0][0]
        raise RunError(
            f"No sweep has all of its runs; {lacking['sweep'].iloc[0]!r} lacks {first!r}. Run notebooks/02_train.ipynb "
            f"with run={first!r} first, or `interproto reproduce` with the preset."
        )
    chosen = {name: of_seeds({method: runs[method] for method in sweeps[name]}, seeds) for name in whole}
    return {name: _sweep(name, of_sweep, baseline) for name, of_sweep in chosen.items()}


def paper_sweep(sweeps: Mapping[str, Sweep], number: int) -> dict[str, str]:
    """Find the sweep that sets side by side what a table of the paper does.

    Args:
        sweeps: Name -> sweep.
        number: Number of the table: 5 (whose prototypes) or 6 (which margin loss).

    Returns:
        Method -> its row of the table, for the first sweep with at least two rows of the table, each once, and nothing
        else; empty where there is none.

    Raises:
        ConfigError: The paper has no such table.
    """
    of_table = published_table(number).rows
    for sweep in sweeps.values():
        rows = {method: paper_row(runs[0].config) for method, runs in sweep.runs.items()}
        named = {method: row for method, row in rows.items() if row is not None and row in of_table}
        if len(named) == len(rows) == len(set(named.values())) >= 2:
            return named
    return {}


def ablation_table(sweeps: Mapping[str, Sweep], *, baseline: RunFolder) -> pd.DataFrame:
    """Measure every run of some sweeps: verification, and similarity of prototypes and of features.

    Prototypes are compared between the same identities in all runs, the child identities of `baseline`, although a
    sweep over `min_child_images` lets the loss act on others; without two child identities, between all.

    Args:
        sweeps: Name -> sweep, as `trained_sweeps` gives them.
        baseline: A run whose child identities are those whose prototypes are compared.

    Returns:
        One row a sweep, method, seed and measure, with the columns `ABLATION_COLUMNS`. `reference` is the method
        compared with (empty for one that has none), `at` the value of `setting` (missing where it means nothing),
        `unit` is `percent` or `cosine`. Measures are the kinds of held-out pairs, `<cohort>, prototypes (rms)` (root
        mean square cosine) and `<cohort>, held-out` (mean similarity of features, Eq. 2). What the data do not allow is
        left out.

    Raises:
        RunError: A run has no record or no embeddings, or runs were judged by different rules; the message says what to
            run first.
    """
    methods = {method: runs for sweep in sweeps.values() for method, runs in sweep.runs.items()}
    accuracies = held_out_accuracies(methods).assign(unit="percent")
    identities = child_identities(baseline)
    cohort = "child-child" if len(identities) >= 2 else "all"
    if cohort == "all":
        identities = [str(name) for name in baseline.classes["identity"]]
    similarities = [
        {"measure": measure, "method": method, "seed": run.seed, "value": value, "unit": "cosine"}
        for method, runs in methods.items()
        for run in runs
        for measure, value in _similarities(run, cohort, identities)
    ]
    measured = pd.concat([accuracies, pd.DataFrame(similarities)], ignore_index=True)
    parts = []
    for sweep in sweeps.values():
        for method in sweep.runs:
            seeds = [run.seed for run in sweep.runs[method]]
            mine = measured[(measured["method"] == method) & measured["seed"].isin(seeds)]
            parts.append(
                mine.assign(
                    sweep=sweep.name,
                    reference=sweep.references.get(method, ""),
                    setting=sweep.setting or "",
                    at=sweep.positions.get(method, float("nan")),
                    line=sweep.lines.get(method, ""),
                )
            )
    return pd.concat(parts, ignore_index=True)[list(ABLATION_COLUMNS)]


def ablation_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Put each value beside that of its reference of the same sweep, measure and seed.

    Args:
        table: As `ablation_table` gives it.

    Returns:
        Columns sweep, reference, measure, method, seed, unit (of a difference: `percentage points` or `cosine`),
        baseline (the value of the reference) and treated.

    Raises:
        RunError: A method shares no seed with its reference.
    """
    keys = ["sweep", "reference", "measure", "seed"]
    base = table.drop(columns="reference").rename(columns={"method": "reference", "value": "baseline"})
    treated = table[table["reference"] != ""].rename(columns={"value": "treated"})
    paired = treated.merge(base[[*keys, "baseline"]], on=keys, how="inner", sort=False)
    paired_with = set(zip(paired["sweep"], paired["method"], strict=True))
    for sweep, method, reference in treated[["sweep", "method", "reference"]].itertuples(index=False):
        if (sweep, method) not in paired_with:
            raise RunError(
                f"{method!r} and {reference!r} share no seed. Run notebooks/02_train.ipynb with the same seeds."
            )
    paired["unit"] = paired["unit"].map(_DIFFERENCE_UNITS)
    return paired[["sweep", "reference", "measure", "method", "seed", "unit", "baseline", "treated"]]


def ablation_results(differences: pd.DataFrame, *, confidence: float = 0.95) -> list[Result]:
    """Turn the differences of all sweeps into records.

    Args:
        differences: As `ablation_differences` gives it.
        confidence: Confidence of the t-interval over seeds.

    Returns:
        One result a sweep, measure and method, named `<sweep>: <measure>/<method> minus <reference>`.
    """
    results = []
    for (sweep, reference, unit), of in differences.groupby(["sweep", "reference", "unit"], sort=False):
        found = comparison_results({str(unit): of}, baseline=str(reference), confidence=confidence)
        results += [replace(result, name=f"{sweep}: {result.name}") for result in found]
    return results


def _similarities(run: RunFolder, cohort: str, identities: Sequence[str]) -> Iterator[tuple[str, float]]:
    cosines = prototype_similarity(prototypes_of(run, identities))
    yield f"{cohort}, prototypes (rms)", summarise_similarity(cosines).rms
    embeddings = load_embeddings(run)
    manifest = embeddings.manifest
    if manifest.loc[manifest["split"] == "heldout", "identity"].nunique() < 2:
        return
    seen = "child-child" if "child-child" in available_cohorts(run, manifest, split="heldout") else "all"
    yield f"{seen}, held-out", summarise_similarity(cohort_matrix(run, embeddings, seen, split="heldout")).mean


def _sweep(name: str, runs: Mapping[str, Sequence[RunFolder]], baseline: str) -> Sweep:
    settings = {method: deciding_settings(of_method[0].config) for method, of_method in runs.items()}
    setting = _varied(settings)
    positions = {
        method: float(of_method[setting])
        for method, of_method in settings.items()
        if setting is not None and of_method[setting] is not None
    }
    on_it = {method: settings[method] for method in positions}
    others = [other for other in _differing(on_it, ignore_unused=True) if other != setting]
    return Sweep(
        name=name,
        runs=runs,
        references=_references(settings, baseline),
        setting=setting,
        positions=positions,
        lines={
            method: ", ".join(f"{other}={of[other]}" for other in others if of[other] is not None)
            for method, of in on_it.items()
        },
    )


def _differing(settings: Mapping[str, Mapping[str, Any]], *, ignore_unused: bool = False) -> list[str]:
    """Names of the settings in which some methods differ; a setting that means nothing in a method is None there."""
    every = list(settings.values())
    found = []
    for name in every[0] if every else ():
        values = [of[name] for of in every if of[name] is not None or not ignore_unused]
        if any(value != values[0] for value in values):
            found.append(name)
    return found


def _varied(settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The numeric setting along which more than half of the methods lie, the others being equal."""
    differing = _differing(settings)
    most, chosen = len(settings) // 2, None
    for name in differing:
        lines: dict[tuple[Any, ...], set[float]] = {}
        for of in settings.values():
            if isinstance(of[name], (int, float)) and not isinstance(of[name], bool):
                lines.setdefault(tuple(str(of[other]) for other in differing if other != name), set()).add(of[name])
        along = sum(len(values) for values in lines.values() if len(values) > 1)
        if along > most:
            most, chosen = along, name
    return chosen


def _references(settings: Mapping[str, Mapping[str, Any]], baseline: str) -> dict[str, str]:
    first = baseline if baseline in settings else next(iter(settings))
    references = {}
    for method, of in settings.items():
        twins = [
            other
            for other, of_other in settings.items()
            if of["inter_prototype"] != "none"
            and of_other["inter_prototype"] == "none"
            and set(_differing({method: of, other: of_other})) <= INTER_PROTOTYPE_SETTINGS
        ]
        reference = twins[0] if twins else first
        if reference != method:
            references[method] = reference
    return references
