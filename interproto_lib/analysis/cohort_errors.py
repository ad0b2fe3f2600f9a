"""Who is confused with whom at one threshold: error rates by the ages of both images, and children against adults."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.analysis.all_pairs import BLOCK_ROWS, identity_codes, matching_pairs, unit_vectors
from interproto_lib.analysis.bootstrap import check_interval_settings, multiplicity_blocks, weighted_sums
from interproto_lib.data.manifests import AGE_GROUPS, CHILD_BELOW_YEARS, age_group
from interproto_lib.data.pair_rules import ADULT_FROM_YEARS
from interproto_lib.errors import ConfigError, DatasetError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class CohortErrors:
    """Errors at one threshold by the age groups of both images; all arrays are (g, g) and symmetric.

    Attributes:
        groups: Names of the g age groups, in the order of rows and columns.
        threshold: A pair matches when its cosine >= threshold.
        n_impostor: Pairs of two people, each unordered pair of images once.
        n_false_matches: Those of them that match.
        n_genuine: Pairs of two images of one person.
        n_false_non_matches: Those of them that do not match.
        n_images: Images compared.
        n_unlabelled: Images without an age, left out.
    """

    groups: tuple[str, ...]
    threshold: float
    n_impostor: Ints
    n_false_matches: Ints
    n_genuine: Ints
    n_false_non_matches: Ints
    n_images: int
    n_unlabelled: int

    @property
    def fmr(self) -> Floats:
        """False match rate: the share of pairs of two people that match; NaN where there is no such pair."""
        return _shares(self.n_false_matches, self.n_impostor)

    @property
    def fnmr(self) -> Floats:
        """False non-match rate: the share of pairs of one person that do not match; NaN where there is none."""
        return _shares(self.n_false_non_matches, self.n_genuine)

    @property
    def overall_fmr(self) -> float:
        """False match rate over all pairs of two people with an age; NaN where there is none."""
        return float(_shares(_once(self.n_false_matches), _once(self.n_impostor)))

    @property
    def overall_fnmr(self) -> float:
        """False non-match rate over all pairs of one person with an age; NaN where there is none."""
        return float(_shares(_once(self.n_false_non_matches), _once(self.n_genuine)))

    def to_frame(self) -> pd.DataFrame:
        """Return a long table: one row for each two groups, `group_a` not above `group_b`, with counts and rates."""
        first, second = np.triu_indices(len(self.groups))
        names = np.array(self.groups, dtype=object)
        counts = ("n_impostor", "n_false_matches", "fmr", "n_genuine", "n_false_non_matches", "fnmr")
        columns = {name: getattr(self, name)[first, second] for name in counts}
        return pd.DataFrame({"group_a": names[first], "group_b": names[second], **columns})


@dataclass(frozen=True, kw_only=True)
class ChildFactor:
    """How many times as often two children are taken for one person as two adults are, at one threshold.

    Attributes:
        child_fmr: False match rate of two children; None without a pair.
        adult_fmr: False match rate of two adults; None without a pair.
        factor: Child rate over adult rate; None where a rate is 0 or missing (see `note`).
        low: Lower end of the interval; 0 where too many replicates have no false match of children. None without one.
        high: Upper end; infinite where too many replicates have no false match of adults. None without one.
        n_child_pairs: Pairs of child images of two people.
        n_adult_pairs: Pairs of adult images of two people.
        n_child_identities: People with a child image.
        n_adult_identities: People with an adult image; some may be counted in both.
        confidence: Coverage aimed at.
        note: Why there is no factor or no interval, or what to mind about it; empty where there is nothing to say.
    """

    child_fmr: float | None
    adult_fmr: float | None
    factor: float | None
    low: float | None
    high: float | None
    n_child_pairs: int
    n_adult_pairs: int
    n_child_identities: int
    n_adult_identities: int
    confidence: float
    note: str


def cohort_error_rates(
    embeddings: NDArray[np.floating],
    manifest: pd.DataFrame,
    *,
    threshold: float,
    block_rows: int = BLOCK_ROWS,
    device: str = "cpu",
) -> CohortErrors:
    """Count false matches and false non-matches for each two age groups at one threshold for all.

    This is how large evaluations report differences between ages: NIST FRVT part 3 (Grother, Ngan, Hanaoka, NISTIR
    8280, 2019) fixes a threshold by its false match rate over all pairs and looks at the rate in each two groups. A
    single threshold is what is deployed. All pairs of images count, so people with many images weigh more.

    Args:
        embeddings: (n, d) floating point, any length above 0, row i for row i of the manifest.
        manifest: n rows with `identity` and `age_years`. Images without an age are counted apart and left out.
        threshold: A pair matches when its cosine >= threshold, as `threshold_at_fmr` finds it.
        block_rows: Images compared at once with all others, >= 1; bounds the memory and changes nothing else.
        device: Where to compute, as `resolve_device` takes it.

    Returns:
        Counts and rates for each two of the groups `AGE_GROUPS`.

    Raises:
        ConfigError: Shapes that do not fit, a missing column, an embedding of length zero or not finite, or an argument
            out of range.
        DatasetError: An identity is missing, or fewer than two images have an age.
        ManifestError: An age is out of range.
    """
    _check_rows(embeddings, manifest)
    ages = np.asarray(age_group(manifest["age_years"]).codes, dtype=np.int64)
    labelled = np.flatnonzero(ages >= 0)
    if len(labelled) < 2:
        raise DatasetError(
            f"{len(labelled)} of {len(ages)} images have an age: no two to compare by age. Give age labels."
        )
    group = ages[labelled]
    person, n_people = identity_codes(manifest["identity"].to_numpy(dtype=object)[labelled], len(labelled))
    g = len(AGE_GROUPS)
    matches = {True: np.zeros(g * g, dtype=np.int64), False: np.zeros(g * g, dtype=np.int64)}
    vectors = unit_vectors(embeddings[labelled], device)
    for first, second in matching_pairs(vectors, threshold, block_rows=block_rows):
        cells, same = group[first] * g + group[second], person[first] == person[second]
        for genuine, counts in matches.items():
            counts += np.bincount(cells[same == genuine], minlength=g * g)
    images = np.bincount(group, minlength=g)
    of_person = np.bincount(person * g + group, minlength=n_people * g).reshape(n_people, g)
    n_genuine = _unordered(of_person.T @ of_person, images)
    n_impostor = _unordered(np.outer(images, images), images) - n_genuine
    return CohortErrors(
        groups=AGE_GROUPS,
        threshold=threshold,
        n_impostor=n_impostor,
        n_false_matches=_fold(matches[False].reshape(g, g)),
        n_genuine=n_genuine,
        n_false_non_matches=n_genuine - _fold(matches[True].reshape(g, g)),
        n_images=len(labelled),
        n_unlabelled=len(ages) - len(labelled),
    )


def child_factor(
    embeddings: NDArray[np.floating],
    manifest: pd.DataFrame,
    *,
    threshold: float,
    child_below_years: float = CHILD_BELOW_YEARS,
    adult_from_years: float = ADULT_FROM_YEARS,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    block_rows: int = BLOCK_ROWS,
    device: str = "cpu",
) -> ChildFactor:
    """Compare how often two children and how often two adults are confused, with an interval that resamples people.

    Formula: with M_ij the matches and N_ij all pairs of images of persons i and j, a replicate's rate is
    sum_{i<j} w_i w_j M_ij / sum_{i<j} w_i w_j N_ij, w_i how often person i was drawn (see `bootstrap_accuracy`). One
    draw over all people serves children and adults: many are both. The ends of the interval are order statistics of the
    replicates, hence the same on a logarithmic scale. Replicates in which neither rate is above 0, or a cohort has no
    pair, have no factor and are left out; `note` counts them.

    Args:
        embeddings: (n, d) floating point, any length above 0, row i for row i of the manifest.
        manifest: n rows with `identity` and `age_years`; images without an age belong to no cohort.
        threshold: A pair matches when its cosine >= threshold.
        child_below_years: An image is a child's when its age in years is below this.
        adult_from_years: An image is an adult's from this age; at least `child_below_years`.
        n_resamples: Replicates, >= 1.
        confidence: Coverage in (0, 1).
        seed: Seeds the draw, >= 0.
        block_rows: Images compared at once with all others, >= 1; bounds the memory and changes nothing else.
        device: Where to compute, as `resolve_device` takes it.

    Returns:
        Both rates, their ratio and its interval. Where a rate is 0 or missing there is no ratio; `note` says why.

    Raises:
        ConfigError: Shapes that do not fit, a missing column, an embedding of length zero or not finite, or an argument
            out of range.
        DatasetError: The identity of a child or adult image is missing.
    """
    _check_rows(embeddings, manifest)
    check_interval_settings(n_resamples, confidence, seed)
    if not 0 < child_below_years <= adult_from_years:
        raise ConfigError(f"adults from {adult_from_years} years overlap children below {child_below_years} years.")
    ages = manifest["age_years"].to_numpy(dtype=np.float64)
    used = np.flatnonzero((ages < child_below_years) | (ages >= adult_from_years))
    person, n_people = identity_codes(manifest["identity"].to_numpy(dtype=object)[used], len(used))
    children, adults = (
        _Confusions.count(embeddings[used[rows]], person[rows], n_people, threshold, block_rows, device)
        for rows in (np.flatnonzero(ages[used] < child_below_years), np.flatnonzero(ages[used] >= adult_from_years))
    )
    note = _why_no_factor(children, adults)
    factor = low = high = None
    if not note:
        factor = children.rate / adults.rate
        low, high, note = _factor_interval(children, adults, n_people, n_resamples, confidence, seed)
    return ChildFactor(
        child_fmr=children.rate if children.n_pairs else None,
        adult_fmr=adults.rate if adults.n_pairs else None,
        factor=factor,
        low=low,
        high=high,
        n_child_pairs=children.n_pairs,
        n_adult_pairs=adults.n_pairs,
        n_child_identities=int(np.count_nonzero(children.images)),
        n_adult_identities=int(np.count_nonzero(adults.images)),
        confidence=confidence,
        note=note,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Confusions:
    """False matches of one cohort by the two people.

    Attributes:
        images: (k,) images of each person.
        first: (c,) persons i of cells with a match.
        second: (c,) persons j > i of these cells.
        matches: (c,) false matches of i and j.
    """

    images: Ints
    first: Ints
    second: Ints
    matches: Ints

    @classmethod
    def count(
        cls,
        embeddings: NDArray[np.floating],
        person: Ints,
        n_people: int,
        threshold: float,
        block_rows: int,
        device: str,
    ) -> _Confusions:
        """Compare all images (n, d) of a cohort; `person` (n,) numbers the people, 0 .. n_people - 1."""
        keys = [np.empty(0, dtype=np.int64)]
        for left, right in matching_pairs(unit_vectors(embeddings, device), threshold, block_rows=block_rows):
            a, b = person[left], person[right]
            keys.append((np.minimum(a, b) * n_people + np.maximum(a, b))[a != b])
        cells, matches = np.unique(np.concatenate(keys), return_counts=True)
        images = np.bincount(person, minlength=n_people)
        return cls(images=images, first=cells // n_people, second=cells % n_people, matches=matches)

    @property
    def n_pairs(self) -> int:
        """Pairs of images of two people."""
        return int(self.images.sum() ** 2 - (self.images**2).sum()) // 2

    @property
    def rate(self) -> float:
        """False match rate; there must be a pair."""
        return int(self.matches.sum()) / self.n_pairs

    def rates(self, multiplicities: Floats) -> Floats:
        """False match rates (b,) when people weigh as in `multiplicities` (k, b); NaN without a pair."""
        matches = weighted_sums(self.first, self.second, self.matches[None].astype(np.float64), multiplicities)[0]
        weighted = multiplicities * self.images[:, None]
        pairs = (weighted.sum(axis=0) ** 2 - (weighted**2).sum(axis=0)) / 2
        return _shares(matches, pairs)


def _factor_interval(
    children: _Confusions, adults: _Confusions, n_people: int, n_resamples: int, confidence: float, seed: int
) -> tuple[float | None, float | None, str]:
    factors = np.full(n_resamples, np.nan)
    for block, multiplicities in multiplicity_blocks(np.random.default_rng([seed, 0]), n_people, n_resamples):
        child, adult = children.rates(multiplicities), adults.rates(multiplicities)
        unbounded = np.where((child > 0) & (adult == 0), np.inf, np.nan)
        factors[block] = np.divide(child, adult, out=unbounded, where=adult > 0)
    known = np.sort(factors[~np.isnan(factors)])
    n_left_out = n_resamples - len(known)
    if 2 * len(known) < n_resamples:
        note = (
            f"no interval: {n_left_out} of {n_resamples} replicates have too few people or false matches for a factor"
        )
        return None, None, note
    beyond = math.floor((1 - confidence) / 2 * len(known) + 1e-9)  # replicates beyond each end
    low, high = float(known[beyond]), float(known[-1 - beyond])
    note = f"{n_left_out} of {n_resamples} replicates have no factor and are left out" if n_left_out else ""
    return low, high, note


def _why_no_factor(children: _Confusions, adults: _Confusions) -> str:
    """Say which rate is missing or 0; empty where there is a factor."""
    cohorts = (("children", children), ("adults", adults))
    without_pairs = [name for name, cohort in cohorts if cohort.n_pairs == 0]
    if without_pairs:
        return f"no factor: there are no two {' and no two '.join(without_pairs)} to compare"
    without_matches = [f"{cohort.n_pairs:,} pairs of {name}" for name, cohort in cohorts if cohort.rate == 0]
    return f"no factor: no false match in {' and in '.join(without_matches)}" if without_matches else ""


def _check_rows(embeddings: NDArray[np.floating], manifest: pd.DataFrame) -> None:
    missing = [column for column in ("identity", "age_years") if column not in manifest.columns]
    if missing:
        raise ConfigError(f"The table of images has no column {', '.join(missing)}.")
    if len(embeddings) != len(manifest):
        raise ConfigError(f"{len(embeddings)} embeddings do not fit {len(manifest)} manifest rows.")


def _shares(part: ArrayLike, whole: ArrayLike) -> Floats:
    numbers = np.asarray(whole, dtype=np.float64)
    return np.divide(part, numbers, out=np.full(numbers.shape, np.nan), where=numbers > 0)


def _unordered(products: Ints, images: Ints) -> Ints:
    """Turn ordered pairs (g, g) of images, each image with itself included, into unordered pairs of two images."""
    pairs = products.copy()
    np.fill_diagonal(pairs, (np.diag(products) - images) // 2)
    return pairs


def _fold(counts: Ints) -> Ints:
    """Add (a, b) and (b, a), and write the sum in both places."""
    folded = counts + counts.T
    np.fill_diagonal(folded, np.diag(counts))
    return folded


def _once(counts: Ints) -> int:
    """Sum over unordered groups."""
    return int(np.triu(counts).sum())
