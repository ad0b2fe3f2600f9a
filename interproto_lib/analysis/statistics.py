"""Results over seeds: mean and spread, and paired differences with their interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.errors import ConfigError

PAIRED_COLUMNS = ("measure", "method", "seed", "baseline", "treated")
"""Columns of a table of paired values: what was measured, the treated method, the seed, and both values."""


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """Mean and sample standard deviation of repeated runs.

    Attributes:
        mean: Mean.
        std: Standard deviation with n - 1 in the denominator; None for a single run.
        n: Runs.
    """

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} (1 run)" if self.std is None else f"{self.mean:.4g} +- {self.std:.2g} ({self.n} runs)"


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Difference between two methods run with the same seeds.

    Attributes:
        differences: Treated minus baseline, one a seed.
        mean: Their mean.
        std: Their standard deviation (n - 1); None for one seed.
        interval: Student t interval of the mean; None for one seed, which says nothing about the spread.
        confidence: Coverage of the interval.
        n: Seeds.
    """

    differences: tuple[float, ...]
    mean: float
    std: float | None
    interval: tuple[float, float] | None
    confidence: float
    n: int

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval lies on one side of 0; None where there is no interval."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.mean:+.4g} (1 seed, no interval)"
        low, high = self.interval
        return f"{self.mean:+.4g} [{low:+.4g}, {high:+.4g}] ({self.confidence:.0%}, {self.n} seeds)"


def mean_and_std(values: ArrayLike) -> MeanStd:
    """Mean and sample standard deviation of repeated runs.

    Args:
        values: (n,) finite numbers, n >= 1.

    Returns:
        Mean, standard deviation (None for n = 1) and n.

    Raises:
        ConfigError: No value, or one that is not finite.

    Example:
        >>> print(mean_and_std([81.0, 82.0, 83.0]))
        82 +- 1 (3 runs)
    """
    numbers = _numbers(values, "values")
    return MeanStd(mean=float(numbers.mean()), std=_std(numbers), n=len(numbers))


def paired_difference(baseline: ArrayLike, treated: ArrayLike, *, confidence: float = 0.95) -> PairedDifference:
    """Mean difference of two methods over shared seeds, with a Student t interval.

    Formula: with d_k = treated_k - baseline_k, the interval is mean(d) -+ t(1 - (1 - confidence)/2; n - 1) std(d)
    / sqrt(n). Pairing by seed removes what both runs share: data, initial weights, order of the batches.

    Args:
        baseline: (n,) finite results, one a seed.
        treated: (n,) finite results of the same seeds in the same order.
        confidence: Coverage in (0, 1).

    Returns:
        The differences, their mean and interval; no interval for n = 1.

    Raises:
        ConfigError: Lengths that differ, no value, one that is not finite, or a confidence out of range.

    Example:
        >>> print(paired_difference([80.0, 81.0, 82.0], [81.0, 82.5, 82.5]))
        +1 [-0.2421, +2.242] (95%, 3 seeds)
    """
    before, after = _numbers(baseline, "baseline"), _numbers(treated, "treated")
    if len(before) != len(after):
        raise ConfigError(f"{len(before)} baseline and {len(after)} treated results: give one of each a seed.")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}.")
    differences = after - before
    n, mean, std = len(differences), float(differences.mean()), _std(differences)
    interval = None
    if std is not None:
        from scipy.stats import t

        half = float(t.ppf(0.5 + confidence / 2, n - 1)) * std / n**0.5
        interval = (mean - half, mean + half)
    return PairedDifference(
        differences=tuple(float(d) for d in differences),
        mean=mean,
        std=std,
        interval=interval,
        confidence=confidence,
        n=n,
    )


def paired_differences(table: pd.DataFrame, *, confidence: float = 0.95) -> dict[tuple[str, str], PairedDifference]:
    """Compute the paired difference for each measure and method of a table.

    Args:
        table: One row a measure, method and seed, with the columns `PAIRED_COLUMNS`.
        confidence: Confidence of the interval.

    Returns:
        (measure, method) -> difference treated minus baseline, in the order of the table.

    Raises:
        ConfigError: A column is missing, or a seed stands twice.
    """
    missing = [column for column in PAIRED_COLUMNS if column not in table.columns]
    if missing:
        raise ConfigError(
            f"The table of paired values has no column {', '.join(missing)}; its columns: {', '.join(map(str, table))}."
        )
    twice = table.duplicated(["measure", "method", "seed"])
    if twice.any():
        raise ConfigError(f"Seed given twice: {table.loc[twice, ['measure', 'method', 'seed']].iloc[0].to_dict()}.")
    return {
        (str(measure), str(method)): paired_difference(
            group["baseline"].to_numpy(dtype=float), group["treated"].to_numpy(dtype=float), confidence=confidence
        )
        for (measure, method), group in table.groupby(["measure", "method"], sort=False)
    }


def _std(numbers: NDArray[np.float64]) -> float | None:
    return float(numbers.std(ddof=1)) if len(numbers) > 1 else None


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or not np.isfinite(numbers).all():
        raise ConfigError(f"{name} must be one or more finite numbers, got {values!r}.")
    return numbers
