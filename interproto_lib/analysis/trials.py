"""Methods compared on the same trials: means over seeds, intervals over people, and who may be called best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.bootstrap import CONFIDENCE, BootstrapInterval
from interproto_lib.analysis.permutation import permutation_test
from interproto_lib.analysis.statistics import mean_and_std, paired_difference
from interproto_lib.errors import RunError
from interproto_lib.runs import Result, RunFolder

CELL_COLUMNS = (
    "method",
    "test_set",
    "mean",
    "std",
    "n_seeds",
    "low",
    "high",
    "n_pairs",
    "n_identities",
    "bold",
    "note",
)
"""Columns of `trial_cells`."""

DIFFERENCE_COLUMNS = (
    "test_set",
    "method",
    "difference",
    "low",
    "high",
    "p_value",
    "seed_low",
    "seed_high",
    "n_seeds",
    "n_pairs",
    "n_identities",
)
"""Columns of `trial_differences`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """Whether each of several methods is right in each of m trials: the pairs of a test set, or the probes of one.

    Attributes:
        test_set: Name of the test set.
        outcomes: Method -> seed -> (m,) booleans; a method that could not be judged has no seeds.
        notes: Method -> why it could not be judged; empty otherwise.
        clusters: (m,) identity that each trial belongs to, for the permutation test.
        n_identities: Identities in the trials; 0 where they are unknown.
        interval: Gives for (s, m) values the interval of their mean that resamples identities and seeds.
    """

    test_set: str
    outcomes: Mapping[str, Mapping[int, NDArray[np.bool_]]]
    notes: Mapping[str, str]
    clusters: NDArray[np.object_]
    n_identities: int
    interval: Callable[[NDArray[np.float64]], BootstrapInterval]

    def shares(self, method: str) -> NDArray[np.float64]:
        """Give the share (s,) of trials that a method is right in, one a seed."""
        return np.array([outcome.mean() for outcome in self.outcomes[method].values()])

    def paired(self, baseline: str, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the outcomes (s, m) of two methods for the seeds that both have.

        Raises:
            RunError: They have no seed in common.
        """
        before, after = self.outcomes[baseline], self.outcomes[method]
        seeds = [seed for seed in before if seed in after]
        if not seeds:
            raise RunError(
                f"{method!r} and {baseline!r} have no seed in common. Run notebooks/02_train.ipynb with the same seeds."
            )
        stacked = [np.stack([of[seed] for seed in seeds]).astype(np.float64) for of in (before, after)]
        return stacked[0], stacked[1]


def trial_cells(test_sets: Sequence[Trials]) -> pd.DataFrame:
    """Give how often each method is right on each test set, as the cells of a table.

    Args:
        test_sets: The trials of each test set.

    Returns:
        One row a method and test set with the columns `CELL_COLUMNS`: mean and standard deviation over seeds in
        percent, the interval of the mean that resamples identities (and seeds, where there are several), how many
        seeds, trials and identities, and whether the cell is `bold`: only where it has the highest mean of its test
        set and the paired interval of its difference to every other method, on the same seeds and trials, lies above
        0. A cell that could not be judged is NaN; `note` says why.
    """
    rows: list[tuple[object, ...]] = []
    for trials in test_sets:
        best = _clearly_best(trials)
        for method, of_seeds in trials.outcomes.items():
            counts = (len(trials.clusters), trials.n_identities)
            if not of_seeds:
                unknown = (np.nan, np.nan, 0, np.nan, np.nan)
                rows.append((method, trials.test_set, *unknown, *counts, False, trials.notes[method]))
                continue
            over_seeds = mean_and_std(100 * trials.shares(method))
            interval = trials.interval(np.stack(list(of_seeds.values())).astype(np.float64))
            std = np.nan if over_seeds.std is None else over_seeds.std
            numbers = (over_seeds.mean, std, over_seeds.n, 100 * interval.low, 100 * interval.high)
            rows.append((method, trials.test_set, *numbers, *counts, method == best, ""))
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS))


def trial_differences(test_sets: Sequence[Trials], baseline: str, *, n_permutations: int = 10_000) -> pd.DataFrame:
    """Compare each method with the baseline on the same seeds and trials.

    Args:
        test_sets: The trials of each test set.
        baseline: The method that the others are compared with.
        n_permutations: Permutations of the test, see `permutation_test`.

    Returns:
        One row a test set and other method with the columns `DIFFERENCE_COLUMNS`: the mean difference in percentage
        points, its interval over identities (and seeds), the p-value of the permutation test, in which the two methods
        are exchanged person by person, and the Student t interval over seeds (NaN for one seed). What could not be
        judged has no row.

    Raises:
        RunError: A method shares no seed with the baseline.
    """
    rows: list[tuple[object, ...]] = []
    for trials in test_sets:
        for method, of_seeds in trials.outcomes.items():
            if method == baseline or not of_seeds or not trials.outcomes[baseline]:
                continue
            before, after = trials.paired(baseline, method)
            interval = trials.interval(after - before)
            test = permutation_test(before, after, trials.clusters, n_permutations=n_permutations)
            over_seeds = paired_difference(100 * before.mean(axis=1), 100 * after.mean(axis=1), confidence=CONFIDENCE)
            seed_low, seed_high = over_seeds.interval or (np.nan, np.nan)
            numbers = (100 * interval.estimate, 100 * interval.low, 100 * interval.high, test.p_value)
            counts = (len(before), len(trials.clusters), trials.n_identities)
            rows.append((trials.test_set, method, *numbers, seed_low, seed_high, *counts))
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def trial_results(
    measure: str,
    cells: pd.DataFrame,
    differences: pd.DataFrame,
    runs: Mapping[str, Sequence[RunFolder]],
    *,
    baseline: str,
    n_of: str,
    protocols: Mapping[str, str],
) -> list[Result]:
    """Turn cells and differences into records.

    Args:
        measure: What was measured, as in `accuracy`; the names of the records begin with it.
        cells: As `trial_cells` gives them.
        differences: As `trial_differences` gives them.
        runs: Method -> its runs.
        baseline: The method that the others are compared with.
        n_of: What a trial is, as in `pairs`.
        protocols: Test set -> its pairs or probes, and by what rules it was judged.

    Returns:
        One result a cell and one a difference.
    """
    results = []
    for cell in cells.to_dict("records"):
        judged = not np.isnan(cell["mean"])
        results.append(
            Result(
                name=f"{measure}/{cell['test_set']}/{cell['method']}",
                value=float(cell["mean"]) if judged else None,
                unit="percent",
                n=int(cell["n_pairs"]),
                n_of=n_of,
                interval=(float(cell["low"]), float(cell["high"])) if judged else None,
                confidence=CONFIDENCE if judged else None,
                runs=[run.name for run in runs[cell["method"]]],
                protocol=protocols[cell["test_set"]],
                note=cell["note"] or f"{cell['n_seeds']} seeds, {_people(cell['n_identities'])}",
            )
        )
    for row in differences.to_dict("records"):
        results.append(
            Result(
                name=f"{measure}/{row['test_set']}/{row['method']} minus {baseline}",
                value=float(row["difference"]),
                unit="percentage points",
                n=int(row["n_pairs"]),
                n_of=n_of,
                interval=(float(row["low"]), float(row["high"])),
                confidence=CONFIDENCE,
                runs=[run.name for method in (baseline, row["method"]) for run in runs[method]],
                protocol=protocols[row["test_set"]],
                note=f"{row['n_seeds']} seeds, {_people(row['n_identities'])}; p = {row['p_value']:.4f}",
            )
        )
    return results


def _clearly_best(trials: Trials) -> str | None:
    """The method whose paired interval to every other lies above 0, if there is one."""
    means = {method: trials.shares(method).mean() for method, of_seeds in trials.outcomes.items() if of_seeds}
    if len(means) < 2:
        return None
    best = max(means, key=lambda method: means[method])
    for other in means:
        if other != best:
            if not set(trials.outcomes[other]) & set(trials.outcomes[best]):
                return None
            before, after = trials.paired(other, best)
            if trials.interval(after - before).low <= 0:
                return None
    return best


def _people(n_identities: int) -> str:
    return f"{n_identities} identities" if n_identities else "identities unknown, so the interval resamples pairs"
