"""Identification: whose image is it? Ranks of probes in a gallery of any size, CMC curve, rank-1/5/10 accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from interproto_lib.devices import resolve_device
from interproto_lib.errors import ConfigError, DatasetError

_PROBES_AT_A_TIME = 1024
_PAIRS_AT_A_TIME = 16384

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class IdentificationResult:
    """How often the right person is among the best matches of a probe.

    Attributes:
        rank_1: Share of probes of rank 1, in [0, 1].
        rank_5: Share of probes of rank 5 or better.
        rank_10: Share of probes of rank 10 or better.
        n_probes: Probe images.
        n_gallery: Gallery images.
        n_gallery_identities: People in the gallery.
        ranks: (p,) rank of each probe, from 1, in the order of the probes; takes no part in comparisons.
    """

    rank_1: float
    rank_5: float
    rank_10: float
    n_probes: int
    n_gallery: int
    n_gallery_identities: int
    ranks: Integers = field(repr=False, compare=False)


def identification_ranks(
    probes: Floats,
    probe_identities: ArrayLike,
    gallery: Floats,
    gallery_identities: ArrayLike,
    *,
    block_rows: int = 8192,
    device: str = "cpu",
) -> Integers:
    """Rank of each probe's person among the images of a gallery.

    Formula: rank = 1 + the number of gallery images of other identities whose cosine with the probe is at least that
    of the best image of the probe's own identity. Images are counted, not identities; the two are the same where the
    gallery has one image a person, and rank 1 is the same always. Ties count against the probe, so that a network
    that maps all images to one point is right never, not always.
    The gallery is read once, block by block, and compared in float32; cosines closer to the best mate's than float32
    can tell are computed again in float64, one by one. So ranks do not depend on blocks or device. Memory beside
    the probes: about block_rows x (3 d + 1,024) numbers of 4 to 8 bytes.

    Args:
        probes: (p, d) floating point, any length above 0. None of them may be in the gallery.
        probe_identities: (p,) names or numbers.
        gallery: (g, d) floating point, any length above 0, in memory or memory-mapped, float16 too.
        gallery_identities: (g,) names or numbers; people who are no probe's make the task harder and are welcome.
        block_rows: Gallery images compared at a time.
        device: Where to compute: `auto`, `cpu`, `cuda` ...

    Returns:
        (p,) int64 ranks, from 1.

    Raises:
        ConfigError: Shapes that do not fit, an image without identity, or an embedding that is not finite or of length
            zero; the message names the row.
        DatasetError: A probe without an image of the same identity in the gallery; the message names it.

    Example:
        >>> gallery = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> identification_ranks(np.array([[0.8, 0.6]]), ["a"], gallery, ["a", "b", "c"])
        array([2])
    """
    _check_shapes(probes, gallery, block_rows)
    of_probe, of_gallery = _identity_codes(probe_identities, gallery_identities, len(probes), len(gallery))
    where = resolve_device(device)
    unit_probes = _unit_rows(probes, "probe", np.arange(len(probes)))
    best = _best_mate_scores(unit_probes, of_probe, gallery, of_gallery, probe_identities)
    # Any order of summing d products of unit vectors in float32 errs by less than this; twice that for safety.
    margin = (probes.shape[1] + 8) * 2.0**-23
    ranks = np.ones(len(probes), dtype=np.int64)
    with _full_float32(where):
        on_device = [
            (
                start,
                torch.from_numpy(unit_probes[start : start + _PROBES_AT_A_TIME].astype(np.float32)).to(where),
                torch.from_numpy(best[start : start + _PROBES_AT_A_TIME, None].astype(np.float32)).to(where),
            )
            for start in range(0, len(probes), _PROBES_AT_A_TIME)
        ]
        for first in range(0, len(gallery), block_rows):
            block_images = np.arange(first, min(first + block_rows, len(gallery)))
            unit = _unit_rows(gallery[first : first + block_rows], "gallery", block_images)
            block = torch.from_numpy(unit.astype(np.float32)).to(where).T
            for start, rows, threshold in on_device:
                above = (rows @ block).sub_(threshold)
                ranks[start : start + len(rows)] += (above > margin).sum(dim=1).cpu().numpy()
                close = (above.abs_() <= margin).nonzero().cpu().numpy()
                probe, image = close[:, 0] + start, close[:, 1]
                other = of_probe[probe] != of_gallery[first + image]
                probe, image = probe[other], image[other]
                for part in _parts(len(probe)):
                    exact = (unit_probes[probe[part]] * unit[image[part]]).sum(axis=1)
                    np.add.at(ranks, probe[part], exact >= best[probe[part]])
    return ranks


def identification_accuracy(
    probes: Floats,
    probe_identities: ArrayLike,
    gallery: Floats,
    gallery_identities: ArrayLike,
    *,
    block_rows: int = 8192,
    device: str = "cpu",
) -> IdentificationResult:
    """Rank-1, rank-5 and rank-10 accuracy of probes in a gallery.

    Args:
        probes: (p, d) floating point, any length above 0. None of them may be in the gallery.
        probe_identities: (p,) names or numbers.
        gallery: (g, d) floating point, any length above 0, in memory or memory-mapped.
        gallery_identities: (g,) names or numbers.
        block_rows: Gallery images compared at a time.
        device: Where to compute: `auto`, `cpu`, `cuda` ...

    Returns:
        The accuracies, the ranks, and how many images they come from.

    Raises:
        ConfigError: As `identification_ranks`.
        DatasetError: As `identification_ranks`.
    """
    ranks = identification_ranks(
        probes, probe_identities, gallery, gallery_identities, block_rows=block_rows, device=device
    )
    shares = rank_accuracy(ranks, (1, 5, 10))
    return IdentificationResult(
        rank_1=shares[1],
        rank_5=shares[5],
        rank_10=shares[10],
        n_probes=len(ranks),
        n_gallery=len(gallery),
        n_gallery_identities=int(pd.Series(np.asarray(gallery_identities)).nunique()),
        ranks=ranks,
    )


def cmc_curve(ranks: ArrayLike, *, max_rank: int) -> NDArray[np.float64]:
    """Cumulative match characteristic: share of probes of rank k or better.

    Args:
        ranks: (p,) integers from 1.
        max_rank: Largest k, at least 1.

    Returns:
        (max_rank,) shares for k = 1, 2, ..., rising, in [0, 1].

    Raises:
        ConfigError: No ranks, a rank below 1, or `max_rank` below 1.

    Example:
        >>> cmc_curve([1, 3, 1, 9], max_rank=3)
        array([0.5 , 0.5 , 0.75])
    """
    values = np.asarray(ranks)
    if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.integer) or values.min() < 1:
        raise ConfigError("ranks must be integers from 1, one a probe, and there must be at least one.")
    if max_rank < 1:
        raise ConfigError(f"max_rank is {max_rank}; it must be at least 1.")
    counts = np.bincount(np.minimum(values, max_rank + 1), minlength=max_rank + 2)
    return np.cumsum(counts[1 : max_rank + 1]) / len(values)


def rank_accuracy(ranks: ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Rank-k accuracy: share of probes of rank k or better, for several k.

    Args:
        ranks: (p,) integers from 1.
        ks: The ranks asked for, each at least 1.

    Returns:
        k -> share, in [0, 1].

    Raises:
        ConfigError: No ranks, a rank below 1, or a k below 1.

    Example:
        >>> rank_accuracy([1, 3, 1, 9])
        {1: 0.5, 5: 0.75, 10: 1.0}
    """
    return {k: float(cmc_curve(ranks, max_rank=k)[-1]) for k in ks}


def _check_shapes(probes: Floats, gallery: Floats, block_rows: int) -> None:
    for name, values in (("probes", probes), ("gallery", gallery)):
        if values.ndim != 2 or not len(values) or not np.issubdtype(values.dtype, np.floating):
            raise ConfigError(
                f"{name} must be floating point of shape (images, dimension), got {values.dtype} of {values.shape}."
            )
    if probes.shape[1] != gallery.shape[1]:
        raise ConfigError(
            f"probes have {probes.shape[1]} dimensions, the gallery {gallery.shape[1]}: embed both with one network."
        )
    if block_rows < 1:
        raise ConfigError(f"block_rows is {block_rows}; it must be at least 1.")


def _identity_codes(
    probe_identities: ArrayLike, gallery_identities: ArrayLike, n_probes: int, n_gallery: int
) -> tuple[Integers, Integers]:
    """Numbers that are equal where identities are, for probes and gallery."""
    both = []
    for name, given, n in (("probe", probe_identities, n_probes), ("gallery", gallery_identities, n_gallery)):
        identities = pd.Series(np.asarray(given), dtype=object)
        if len(identities) != n:
            raise ConfigError(f"{len(identities)} {name} identities do not fit {n} {name} embeddings.")
        missing = np.flatnonzero(identities.isna())
        if len(missing):
            raise ConfigError(
                f"{name} row {missing[0]} has no identity (missing in {len(missing)} rows): name it, or leave it out."
            )
        both.append(identities)
    codes, _ = pd.factorize(pd.concat(both, ignore_index=True))
    return codes[:n_probes].astype(np.int64), codes[n_probes:].astype(np.int64)


def _unit_rows(rows: Floats, name: str, positions: Integers) -> NDArray[np.float64]:
    """Rows scaled to length 1, in float64; their positions are for the message where one cannot be."""
    # In C order always: the order of summing decides the last bit, and equal rows must give equal cosines.
    values = np.array(rows, dtype=np.float64, order="C")
    lengths = np.sqrt((values * values).sum(axis=1))
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        what = "has length zero" if lengths[wrong[0]] == 0 else "is not finite (NaN or infinity)"
        raise ConfigError(f"{name} embedding {positions[wrong[0]]} {what}; embed its image again before comparing.")
    values /= lengths[:, None]
    return values


def _best_mate_scores(
    unit_probes: NDArray[np.float64],
    of_probe: Integers,
    gallery: Floats,
    of_gallery: Integers,
    probe_identities: ArrayLike,
) -> NDArray[np.float64]:
    """Highest float64 cosine of each probe with a gallery image of its own identity."""
    order = np.argsort(of_gallery, kind="stable")
    start, stop = (np.searchsorted(of_gallery[order], of_probe, side=side) for side in ("left", "right"))
    counts = stop - start
    alone = np.flatnonzero(counts == 0)
    if len(alone):
        name = np.asarray(probe_identities)[alone[0]]
        others = f", nor have {len(alone) - 1} other probes" if len(alone) > 1 else ""
        raise DatasetError(
            f"probe {alone[0]} (identity {name}) has no image of the same identity in the gallery{others}: "
            "a rank needs one. Add it, or leave the probe out."
        )
    probe = np.repeat(np.arange(len(of_probe)), counts)
    image = order[np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - start, counts)]
    best = np.full(len(of_probe), -np.inf)
    for part in _parts(len(probe)):
        mates = _unit_rows(gallery[image[part]], "gallery", image[part])
        np.maximum.at(best, probe[part], (unit_probes[probe[part]] * mates).sum(axis=1))
    return best


def _parts(n: int) -> Iterator[slice]:
    """Slices that cover n items, a bounded number at a time."""
    return (slice(start, start + _PAIRS_AT_A_TIME) for start in range(0, n, _PAIRS_AT_A_TIME))


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Products in full float32: TF32 and bfloat16 would err by more than the margin allows for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
