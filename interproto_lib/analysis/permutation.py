"""A paired permutation test of two methods, whose unit is the person, not the pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.errors import ConfigError, DatasetError

_BLOCK_NUMBERS = 2**22
_ROUNDING = 1e-12  # sums that differ by less, relative to the largest there can be, are equal


@dataclass(frozen=True, kw_only=True)
class PermutationResult:
    """Result of a two-sided sign-flip test.

    Attributes:
        p_value: Chance of a mean difference at least as far from 0 if the methods were exchangeable, in (0, 1].
        statistic: Mean of treated minus baseline over all pairs and seeds.
        n_clusters: Clusters (people); those without any difference between the methods included.
        n_permutations: Sign patterns looked at: all of them if exact, else those drawn.
        exact: Whether all sign patterns were looked at.
    """

    p_value: float
    statistic: float
    n_clusters: int
    n_permutations: int
    exact: bool

    def __str__(self) -> str:
        how = "all" if self.exact else "drawn"
        return (
            f"{self.statistic:+.4g}, p = {self.p_value:.3g} ({self.n_clusters} clusters, {self.n_permutations} sign "
            f"patterns, {how})"
        )


def permutation_test(
    baseline: ArrayLike,
    treated: ArrayLike,
    cluster: ArrayLike,
    *,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> PermutationResult:
    """Test whether two methods differ on the same pairs: a sign-flip test over clusters of pairs.

    Formula: with D_c the sum of treated minus baseline over the pairs of cluster c and all seeds, the statistic is
    T = sum_c D_c / (s m). If the methods are exchangeable for each cluster, every sign in sum_c +-D_c is as likely as
    the other. The p-value is the share of sign patterns with |T*| >= |T|: of all 2^k patterns if they are at most
    `n_permutations`, k the clusters with D_c != 0 (the others cannot change the sum); otherwise (b + 1) / (n + 1) of n
    patterns drawn, b of them as extreme (Phipson and Smyth, 2010), so that it is never 0.

    Assumptions: clusters are independent of each other; seeds are not resampled, so that the test speaks of these
    training runs and not of training in general. A pair of two people belongs to the identity of its left image, by
    convention the child; that it also depends on its right image is ignored, which makes p rather too small where few
    people stand on the right of many pairs. Compare with `bootstrap_difference`, which minds both sides.

    Args:
        baseline: (m,) or (s, m) booleans or shares: whether pair j was decided right in the run of seed i.
        treated: Of the same shape, pairs and seeds in the same order.
        cluster: (m,) the cluster of each pair, such as `left_identity`. Where identities are unknown, `range(m)` makes
            every pair its own cluster.
        n_permutations: Sign patterns to draw, >= 1.
        seed: Seeds the draw, >= 0.

    Returns:
        p-value, statistic and how it was found.

    Raises:
        ConfigError: Shapes that do not fit, values that are not finite, or an argument out of range.
        DatasetError: A cluster is missing.

    Example:
        >>> permutation_test([0, 0, 0, 0], [1, 1, 1, 1], ["a", "b", "c", "d"]).p_value
        0.125
    """
    if n_permutations < 1:
        raise ConfigError(f"n_permutations is {n_permutations}; it must be at least 1.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0.")
    differences = _differences(baseline, treated)
    names = np.asarray(cluster, dtype=object)
    if names.shape != differences.shape[1:]:
        raise ConfigError(
            f"cluster has shape {names.shape}; expected one cluster for each of {differences.shape[1]} pairs."
        )
    missing = np.asarray(pd.isna(names), dtype=bool)
    if missing.any():
        raise DatasetError(
            f"The cluster of pair {int(np.flatnonzero(missing)[0])} is missing, as of {int(missing.sum())} in all. "
            "Give all, or make every pair its own cluster: range(m)."
        )
    codes, kinds = pd.factorize(names)
    sums = np.bincount(codes, weights=differences.sum(axis=0), minlength=len(kinds))
    observed = abs(sums.sum())
    sizes = np.abs(sums[sums != 0])
    least = observed - _ROUNDING * sizes.sum()
    exact = len(sizes) < 63 and 2 ** len(sizes) <= n_permutations
    if exact:
        flipped = np.zeros(1)
        for size in sizes:
            flipped = np.concatenate([flipped + size, flipped - size])
        n_seen = len(flipped)
        p_value = float(np.mean(np.abs(flipped) >= least))
    else:
        n_seen = n_permutations
        p_value = (_count_extreme(sizes, least, n_permutations, seed) + 1) / (n_permutations + 1)
    return PermutationResult(
        p_value=p_value,
        statistic=float(sums.sum() / differences.size),
        n_clusters=len(kinds),
        n_permutations=n_seen,
        exact=exact,
    )


def _count_extreme(sizes: NDArray[np.float64], least: float, n: int, seed: int) -> int:
    """Draw n sign patterns and count the sums that are at least so far from 0.

    Of clusters of one size only the number of plus signs matters, which is binomial.
    """
    rng = np.random.default_rng(seed)
    kinds, counts = np.unique(sizes, return_counts=True)
    step, extreme = max(1, _BLOCK_NUMBERS // len(kinds)), 0
    for start in range(0, n, step):
        plus = rng.binomial(counts, 0.5, size=(min(step, n - start), len(kinds)))
        extreme += int(np.count_nonzero(np.abs((2 * plus - counts) @ kinds) >= least))
    return extreme


def _differences(baseline: ArrayLike, treated: ArrayLike) -> NDArray[np.float64]:
    """Treated minus baseline, shape (s, m)."""
    before, after = (np.asarray(values, dtype=np.float64) for values in (baseline, treated))
    if before.shape != after.shape or before.ndim not in (1, 2) or before.size == 0:
        raise ConfigError(
            f"baseline {before.shape} and treated {after.shape} must have the same shape, (pairs,) or (seeds, pairs)."
        )
    differences = np.atleast_2d(after - before)
    if not np.isfinite(differences).all():
        row, column = np.argwhere(~np.isfinite(differences))[0]
        raise ConfigError(f"baseline or treated is not finite for pair {column} of seed {row}.")
    return differences
