"""Intervals that resample people, not pairs: few identities carry most pairs of a test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.errors import ConfigError, DatasetError

CONFIDENCE = 0.95
"""Confidence of all intervals that the notebooks give."""

_MAX_ROUNDS = 100
_BLOCK_NUMBERS = 2**22  # of 8 bytes each, held a few times over

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BootstrapInterval:
    """An estimate with its percentile bootstrap interval.

    Attributes:
        estimate: Mean over all pairs and seeds.
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Coverage aimed at, in (0, 1).
        n_pairs: Pairs, or probes of an identification.
        n_identities: Different identities that occur in them; None where the identities are unknown.
        n_seeds: Training seeds. With one, the interval holds nothing of the spread between training runs.
        n_resamples: Replicates.
        resampled: "identities", or "pairs" where the identities are unknown: then the interval takes every pair for
            independent of the others, and is too narrow where people occur in several pairs.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n_pairs: int
    n_identities: int | None
    n_seeds: int
    n_resamples: int
    resampled: str

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        what = "pairs, identities unknown" if self.n_identities is None else f"pairs of {self.n_identities} identities"
        seeds = "1 seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds"
        return (
            f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"({self.confidence:.0%}, {self.n_pairs} {what}, {seeds})"
        )


def bootstrap_accuracy(
    correct: ArrayLike,
    same: ArrayLike,
    left_identity: ArrayLike,
    right_identity: ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Accuracy over pairs with an interval that resamples identities and, where there are several, training seeds.

    Each replicate draws as many identities as occur, with replacement. A pair of one person weighs as often as that
    person was drawn, a pair of two people the product of both: the vertex bootstrap of a graph (Snijders and Borgatti,
    "Non-parametric standard errors and tests for network statistics", Connections 22(2), 1999), here by weights, so
    that a person drawn twice makes no pair with itself. Seeds are drawn with replacement independently of that and
    crossed with the identities (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007). The share
    of positive pairs stays that of the list: with n pairs, n1 of them positive, a replicate is
    (n1 a1 + (n - n1) a0) / n, where a1 and a0 are the weighted means of the positives and the negatives. Identities
    are drawn by `default_rng([seed, 0]).integers` and seeds by `default_rng([seed, 1]).integers`, row by row.

    How far to trust it: weights that are products count what is particular to a single pair of two people up to three
    times, so the interval is rather too wide where identities matter little. It is too narrow with few identities
    (below about 20), and has no width where all pairs are decided right. Two or three seeds show their spread only
    roughly, on average (s - 1) / s of its variance. Whether two methods differ is a question for
    `bootstrap_difference`, not for whether two intervals overlap.

    Args:
        correct: (m,) or (s, m) booleans or shares in [0, 1]: whether pair j was decided right in the run of seed i.
        same: (m,) booleans, true for positive pairs; if only one class occurs, it has all the weight.
        left_identity: (m,) identity of the left image; None or NaN where unknown.
        right_identity: (m,) identity of the right image. If all are unknown, pairs are resampled within their class,
            and the result says so.
        n_resamples: Replicates, >= 1.
        confidence: Coverage in (0, 1).
        seed: Seeds the draw, >= 0. Replicates without weight in a class are drawn again, at most 100 times.

    Returns:
        Mean of `correct` and percentile interval.

    Raises:
        ConfigError: Shapes that do not fit, values that are not finite, or an argument out of range.
        DatasetError: Some identities are known and others not, a single identity, or too few to resample.

    Example:
        >>> bootstrap_accuracy([True, True, False], [True] * 3, ["a", "b", "b"], ["a", "b", "b"]).high
        1.0
    """
    values = _values(correct, "correct")
    return _interval(values, same, left_identity, right_identity, n_resamples, confidence, seed)


def bootstrap_difference(
    baseline: ArrayLike,
    treated: ArrayLike,
    same: ArrayLike,
    left_identity: ArrayLike,
    right_identity: ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Difference in accuracy of two methods on the same pairs with the same seeds: one draw serves both.

    What both methods share, hard pairs and difficult people, cancels. The draw is that of `bootstrap_accuracy`.

    Args:
        baseline: (m,) or (s, m) booleans or shares: whether each pair was decided right.
        treated: Of the same shape, pairs and seeds in the same order.
        same: (m,) booleans, true for positive pairs.
        left_identity: (m,) identity of the left image; None or NaN where unknown.
        right_identity: (m,) identity of the right image.
        n_resamples: Replicates, >= 1.
        confidence: Coverage in (0, 1).
        seed: Seeds the draw, >= 0.

    Returns:
        Mean of treated minus baseline, and its interval.

    Raises:
        ConfigError: Shapes that do not fit, values that are not finite, or an argument out of range.
        DatasetError: Some identities are known and others not, a single identity, or too few to resample.

    Example:
        >>> runs, people = [[True, False, True]], ["a", "b", "c"]
        >>> print(bootstrap_difference(runs, runs, [True] * 3, people, people))
        0 [0, 0] (95%, 3 pairs of 3 identities, 1 seed)
    """
    before, after = _values(baseline, "baseline"), _values(treated, "treated")
    if before.shape != after.shape:
        raise ConfigError(
            f"baseline {before.shape} and treated {after.shape} must have the same shape (seeds, pairs): compare the "
            "same seeds on the same pairs."
        )
    differences = after.astype(np.float64)
    differences -= before
    return _interval(differences, same, left_identity, right_identity, n_resamples, confidence, seed)


def bootstrap_identification(
    hits: ArrayLike,
    probe_identities: ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Share of probes found, as rank-1, with an interval that resamples the people of the probes and the seeds.

    The gallery is taken as it is: the interval says how much hangs on whose probes were searched, not on who else was
    enrolled. The draw is that of `bootstrap_accuracy`.

    Args:
        hits: (p,) or (s, p) booleans or shares: whether probe j was found in the run of seed i.
        probe_identities: (p,) identity of each probe; None or NaN where unknown.
        n_resamples: Replicates, >= 1.
        confidence: Coverage in (0, 1).
        seed: Seeds the draw, >= 0.

    Returns:
        Mean of `hits` and its interval; `n_pairs` counts the probes.

    Raises:
        ConfigError: Shapes that do not fit, values that are not finite, or an argument out of range.
        DatasetError: Some identities are known and others not, or there is a single one.

    Example:
        >>> print(bootstrap_identification([True, True, True], ["a", "b", "c"]))
        1 [1, 1] (95%, 3 pairs of 3 identities, 1 seed)
    """
    values = _values(hits, "hits")
    same = np.ones(values.shape[1], dtype=bool)
    return _interval(values, same, probe_identities, probe_identities, n_resamples, confidence, seed)


def multiplicity_blocks(
    rng: np.random.Generator, n_identities: int, n_resamples: int
) -> Iterator[tuple[slice, Floats]]:
    """Draw all identities with replacement, again and again, in blocks of bounded size.

    Args:
        rng: Draws `n_identities` integers a replicate, row by row: the blocks do not change the draw.
        n_identities: k >= 1.
        n_resamples: Replicates.

    Yields:
        Which replicates, and (k, b) how often each identity was drawn in each of them.
    """
    step = max(1, min(n_resamples, _BLOCK_NUMBERS // n_identities))
    for start in range(0, n_resamples, step):
        block = slice(start, min(start + step, n_resamples))
        n = block.stop - block.start
        drawn = rng.integers(0, n_identities, size=(n, n_identities))
        places = (drawn * n + np.arange(n)[:, None]).ravel()
        counts = np.bincount(places, minlength=n_identities * n).reshape(n_identities, n)
        yield block, counts.astype(np.float64)


def weighted_sums(first: Ints, second: Ints, values: Floats, multiplicities: Floats) -> Floats:
    """Sum values over cells of two identities, each weighted as its identities were drawn.

    Args:
        first: (c,) number of the first identity of each cell, 0 .. k - 1.
        second: (c,) number of the second; where it is the first, the weight is its multiplicity, else the product.
        values: (v, c) what is summed.
        multiplicities: (k, b) as `multiplicity_blocks` draws them.

    Returns:
        (v, b) sums.
    """
    n = multiplicities.shape[1]
    sums = np.zeros((len(values), n))
    step = max(1, _BLOCK_NUMBERS // n)
    for start in range(0, len(first), step):
        a, b = first[start : start + step], second[start : start + step]
        weights = multiplicities[a]
        two = a != b
        if two.all():
            weights *= multiplicities[b]
        elif two.any():
            weights[two] *= multiplicities[b[two]]
        sums += values[:, start : start + step] @ weights
    return sums


def check_interval_settings(n_resamples: int, confidence: float, seed: int) -> None:
    """Raise a ConfigError for a number of replicates, a confidence or a seed out of range."""
    if n_resamples < 1:
        raise ConfigError(f"n_resamples is {n_resamples}; it must be at least 1.")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0.")


def _interval(
    values: NDArray[Any],
    same: ArrayLike,
    left_identity: ArrayLike,
    right_identity: ArrayLike,
    n_resamples: int,
    confidence: float,
    seed: int,
) -> BootstrapInterval:
    """Percentile interval of the mean of values (s, m)."""
    check_interval_settings(n_resamples, confidence, seed)
    n_seeds, n_pairs = values.shape
    truth = _truth(same, n_pairs)
    classes = [chosen for chosen in (truth, ~truth) if chosen.any()]
    identities = _identities(left_identity, right_identity, n_pairs)
    rng = np.random.default_rng([seed, 0])
    total = np.zeros((n_seeds, n_resamples))
    if identities is None:
        n_identities = None
        for chosen in classes:
            total += _pair_resamples(values[:, chosen], n_resamples, rng)
    else:
        left, right, n_identities = identities
        cells = [_cells(values[:, chosen], left[chosen], right[chosen], n_identities) for chosen in classes]
        total += _identity_resamples(cells, n_identities, n_resamples, rng)
    drawn = np.random.default_rng([seed, 1]).integers(0, n_seeds, size=(n_resamples, n_seeds))
    replicates = np.take_along_axis(total.T, drawn, axis=1).sum(axis=1) / (n_seeds * n_pairs)
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return BootstrapInterval(
        estimate=float(values.sum(dtype=np.float64) / values.size),
        low=float(low),
        high=float(high),
        confidence=confidence,
        n_pairs=n_pairs,
        n_identities=n_identities,
        n_seeds=n_seeds,
        n_resamples=n_resamples,
        resampled="pairs" if identities is None else "identities",
    )


def _identity_resamples(
    classes: list[tuple[Ints, Ints, Floats]], n_identities: int, n_resamples: int, rng: np.random.Generator
) -> Floats:
    """Replicates (s, r) of the sum over classes of their size times their weighted mean."""
    result = np.empty((len(classes[0][2]) - 1, n_resamples))
    pending = np.arange(n_resamples)
    for _ in range(_MAX_ROUNDS):
        empty = np.zeros(len(pending), dtype=bool)
        for block, multiplicities in multiplicity_blocks(rng, n_identities, len(pending)):
            total = np.zeros((len(result), multiplicities.shape[1]))
            for first, second, cells in classes:
                sums = weighted_sums(first, second, cells, multiplicities)
                weights = sums[-1]
                empty[block] |= weights == 0
                total += cells[-1].sum() * (sums[:-1] / np.where(weights == 0, 1, weights))
            result[:, pending[block]] = total
        pending = pending[empty]
        if len(pending) == 0:
            return result
    raise DatasetError(
        f"{n_identities} identities are too few to resample: {len(pending)} of {n_resamples} replicates were left "
        f"without a pair of one class in {_MAX_ROUNDS} draws. Use a test set of more people."
    )


def _pair_resamples(values: NDArray[Any], n_resamples: int, rng: np.random.Generator) -> Floats:
    """Replicates (s, r) of the sum of values (s, m) over m pairs drawn with replacement.

    Pairs with the same values are drawn together, by a multinomial draw: with booleans these are at most 2^s kinds.
    """
    kinds, counts = np.unique(values, axis=1, return_counts=True)
    result = np.empty((len(values), n_resamples))
    step = max(1, _BLOCK_NUMBERS // len(counts))
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=stop - start)
        result[:, start:stop] = kinds.astype(np.float64) @ drawn.T
    return result


def _cells(values: NDArray[Any], left: Ints, right: Ints, n_identities: int) -> tuple[Ints, Ints, Floats]:
    """Both identities (c,) of each cell, and the sums of values (s, m) over its pairs with their count (s + 1, c)."""
    keys = np.minimum(left, right) * n_identities + np.maximum(left, right)
    cells, place = np.unique(keys, return_inverse=True)
    sums = np.empty((len(values) + 1, len(cells)))
    for row, of_seed in enumerate(values):
        sums[row] = np.bincount(place, weights=of_seed, minlength=len(cells))
    sums[-1] = np.bincount(place, minlength=len(cells))
    return cells // n_identities, cells % n_identities, sums


def _identities(left: ArrayLike, right: ArrayLike, n_pairs: int) -> tuple[Ints, Ints, int] | None:
    """Number the identities of both sides, by their sorted names; None where all are unknown."""
    sides = []
    for name, given in (("left_identity", left), ("right_identity", right)):
        side = np.asarray(given, dtype=object)
        if side.shape != (n_pairs,):
            raise ConfigError(f"{name} has shape {side.shape}; expected one identity for each of {n_pairs} pairs.")
        sides.append(side)
    names = np.concatenate(sides)
    unknown = np.asarray(pd.isna(names), dtype=bool)
    if unknown.all():
        return None
    if unknown.any():
        raise DatasetError(
            f"{int(unknown.sum())} of {len(names)} identities of the pairs are unknown, the first in pair "
            f"{int(np.flatnonzero(unknown)[0]) % n_pairs}. Give all identities, or none to resample pairs."
        )
    codes, kinds = pd.factorize(names, sort=True)
    if len(kinds) < 2:
        raise DatasetError(f"All {n_pairs} pairs are of the identity {kinds[0]!r}: an interval needs several people.")
    return codes[:n_pairs].astype(np.int64), codes[n_pairs:].astype(np.int64), len(kinds)


def _values(given: ArrayLike, name: str) -> NDArray[Any]:
    """Check results and give them the shape (s, m), booleans as they are, anything else as float64."""
    values = np.asarray(given)
    if values.dtype != np.bool_:
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} must hold booleans or numbers, got {values.dtype}.") from error
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or values.size == 0:
        raise ConfigError(f"{name} must have shape (pairs,) or (seeds, pairs), got {np.shape(given)}.")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ConfigError(f"{name} is not finite for pair {column} of seed {row}.")
    return values


def _truth(same: ArrayLike, n_pairs: int) -> NDArray[np.bool_]:
    truth = np.asarray(same)
    if truth.shape != (n_pairs,):
        raise ConfigError(f"same has shape {truth.shape}; expected one value for each of {n_pairs} pairs.")
    if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
        raise ConfigError("same must hold booleans (or 0 and 1).")
    return truth.astype(bool)
