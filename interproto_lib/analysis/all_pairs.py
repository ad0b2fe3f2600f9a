"""Every pair of images compared, block by block: which match, and what threshold lets so many through."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from interproto_lib.devices import resolve_device
from interproto_lib.errors import ConfigError, DatasetError

BLOCK_ROWS = 512
"""Images compared at once with all others: 16,000 images take about 130 MB a block."""

_BELOW_ALL = -2.0  # no cosine is so low

Ints = NDArray[np.int64]


def threshold_at_fmr(
    embeddings: NDArray[np.floating],
    identities: ArrayLike,
    *,
    target_fmr: float = 1e-3,
    block_rows: int = BLOCK_ROWS,
    device: str = "cpu",
) -> float:
    """Lowest threshold at which at most a given share of all pairs of two people match.

    Exact over all pairs of images of different people, each pair once. A pair matches when its cosine >= threshold;
    pairs that tie all match or all do not, so the share that matches may lie below the target. The threshold lies
    halfway between two neighbouring cosines. Cosines are float64 products rounded to float32, here and wherever a
    threshold is applied in this module, so that a pair is judged alike in blocks of any size.

    Args:
        embeddings: (n, d) floating point, any length above 0.
        identities: (n,) identity of each image.
        target_fmr: False match rate not to be exceeded, in (0, 1). With N pairs of two people the smallest that can be
            told from 0 is 1 / N.
        block_rows: Images compared at once with all others, >= 1; bounds the memory and changes nothing else. Beside
            the blocks the highest `target_fmr` N cosines are held.
        device: Where to compute, as `resolve_device` takes it.

    Returns:
        The threshold, a float32 number: a cosine, or just above the highest.

    Raises:
        ConfigError: Shapes that do not fit, an embedding of length zero or not finite, or an argument out of range.
        DatasetError: An identity is missing, or there are too few pairs of two people for the target; the message
            names the smallest that they resolve.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> round(threshold_at_fmr(vectors, ["a", "b", "c", "d"], target_fmr=0.2), 3)  # 0.96, 0.8, 0.8, 0.6, 0.6, 0
        0.88
    """
    if not 0 < target_fmr < 1:
        raise ConfigError(f"target_fmr is {target_fmr}; it must be between 0 and 1.")
    vectors = unit_vectors(embeddings, device)
    codes, _ = identity_codes(identities, len(vectors))
    of_identity = np.bincount(codes)
    n_impostor = (len(codes) ** 2 - int((of_identity**2).sum())) // 2
    n_allowed = int(target_fmr * n_impostor * (1 + 1e-12))
    if n_allowed < 1:
        smallest = f"the smallest rate they resolve is {1 / n_impostor:.3g}" if n_impostor else "two people are needed"
        raise DatasetError(
            f"{n_impostor} pairs of two people are too few for a false match rate of {target_fmr:g}: {smallest}. "
            "Ask for a higher rate or take more images."
        )
    person = torch.as_tensor(codes, device=vectors.device)
    highest = torch.empty(0, dtype=torch.float32, device=vectors.device)
    floor = _BELOW_ALL
    waiting: list[torch.Tensor] = []
    for start, scores in _blocks(vectors, block_rows):
        scores[person[start : start + len(scores), None] == person[None, start:]] = -torch.inf
        waiting.append(scores[scores >= floor])
        if sum(map(len, waiting)) > n_allowed:
            highest, waiting = _highest([highest, *waiting], n_allowed + 1), []
            floor = float(highest[-1])
    ranked = _highest([highest, *waiting], n_allowed + 1).cpu().numpy()
    refused = ranked[-1]  # the highest cosine that may not match
    just_above = np.nextafter(refused, np.float32(np.inf))
    accepted = ranked[ranked > refused]
    return float(max(just_above, (refused + accepted[-1]) / np.float32(2)) if len(accepted) else just_above)


def matching_pairs(
    vectors: torch.Tensor, threshold: float, *, block_rows: int = BLOCK_ROWS
) -> Iterator[tuple[Ints, Ints]]:
    """Find all pairs of images that match at a threshold.

    Args:
        vectors: (n, d) as `unit_vectors` gives them.
        threshold: A pair matches when its cosine >= threshold.
        block_rows: Images compared at once with all others, >= 1.

    Yields:
        Positions (p,) of the first and of the second image of matching pairs, first < second; each pair once.

    Raises:
        ConfigError: A threshold that is not finite, or `block_rows` out of range.
    """
    if not np.isfinite(threshold):
        raise ConfigError(f"threshold is {threshold}; it must be finite.")
    lowest = np.float32(threshold)
    if float(lowest) < threshold:  # compare with the first float32 that is not below the threshold
        lowest = np.nextafter(lowest, np.float32(np.inf))
    for start, scores in _blocks(vectors, block_rows):
        rows, columns = torch.nonzero(scores >= float(lowest), as_tuple=True)
        yield rows.cpu().numpy() + start, columns.cpu().numpy() + start


def unit_vectors(embeddings: NDArray[np.floating], device: str) -> torch.Tensor:
    """Scale embeddings (n, d) to unit length in float64 on a device; ConfigError for a length of zero or not finite."""
    if np.ndim(embeddings) != 2:
        raise ConfigError(f"embeddings must have shape (images, dimension), got {np.shape(embeddings)}.")
    vectors = torch.tensor(np.asarray(embeddings, dtype=np.float64), device=resolve_device(device))
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    wrong = torch.nonzero(~((lengths > 0) & torch.isfinite(lengths))[:, 0])
    if len(wrong):
        raise ConfigError(f"embedding {int(wrong[0])} has length zero or is not finite.")
    return vectors / lengths


def identity_codes(identities: ArrayLike, n_images: int) -> tuple[Ints, int]:
    """Number the identities (n,) by their sorted names, and count them; DatasetError where one is missing."""
    names = np.asarray(identities, dtype=object)
    if names.shape != (n_images,):
        raise ConfigError(f"identities have shape {names.shape}; expected one for each of {n_images} embeddings.")
    missing = np.asarray(pd.isna(names), dtype=bool)
    if missing.any():
        raise DatasetError(
            f"The identity of image {int(np.flatnonzero(missing)[0])} is missing, as of {int(missing.sum())} in all: "
            "without it nobody can say which matches are false."
        )
    codes, kinds = pd.factorize(names, sort=True)
    return codes.astype(np.int64), len(kinds)


def _blocks(vectors: torch.Tensor, block_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Cosines (b, n - start) of some images with themselves and all later ones; -inf except where first < second."""
    if block_rows < 1:
        raise ConfigError(f"block_rows is {block_rows}; it must be at least 1.")
    for start in range(0, len(vectors), block_rows):
        block = vectors[start : start + block_rows]
        scores = (block @ vectors[start:].T).to(torch.float32)
        n = len(block)
        scores[:, :n].masked_fill_(torch.ones(n, n, dtype=torch.bool, device=scores.device).tril(), -torch.inf)
        yield start, scores


def _highest(parts: list[torch.Tensor], k: int) -> torch.Tensor:
    """Give the k highest of several tensors, falling; all where there are fewer."""
    scores = torch.cat(parts)
    return torch.topk(scores, min(k, len(scores)))[0]
