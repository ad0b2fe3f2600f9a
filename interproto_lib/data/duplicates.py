"""People and images that two sets have in common: names that are alike, images that are equal, images that are near."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.errors import ConfigError, ManifestError

MAX_HASH_DISTANCE = 16
"""Largest distance that `nearest_hashes` searches; unrelated hashes differ in 32 bits on average."""

_HASH_BITS = 64
_GREY = (299.0, 587.0, 114.0)  # ITU-R 601 in thousandths, so that all sums are whole numbers
_BLOCK_BYTES = 2**23
_PAIRS_AT_ONCE = 2**20
_NUMBER = re.compile(r"([a-z]{0,2})0*(\d+)")


def name_key(name: str) -> str:
    """Return what stays the same of a name in other spellings: letters and digits, composed, without case.

    Example:
        >>> name_key("JohnnyCash") == name_key("Johnny_Cash") == name_key("johnny  cash")
        True
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    kept = "".join(letter for letter in folded if letter.isalnum() or unicodedata.combining(letter))
    return kept or folded


def shared_identities(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """List the identities that two tables have in common by name, however it is written (see `name_key`).

    A number (at most two letters, then digits, whatever the zeros before it) says who someone is only within one
    source: such identities are compared where their `source` is the same.

    Args:
        first: Rows of a manifest: columns `identity` and `source`.
        second: The same; for two splits of one manifest, its rows of each.

    Returns:
        One row for each two spellings that are alike, sorted: `key`, `first_identity`, `second_identity`, `n_first`
        and `n_second` (images of these identities).

    Raises:
        ManifestError: A column is missing.
    """
    people = [_people(table, side) for table, side in ((first, "first"), (second, "second"))]
    shared = people[0].merge(people[1], on="key")
    shared = shared.sort_values(["key", "first_identity", "second_identity"], ignore_index=True)
    return shared[["key", "first_identity", "second_identity", "n_first", "n_second"]]


def image_digests(
    images: NDArray[np.uint8],
    rows: NDArray[np.int64] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint64]:
    """Hash the pixels of images, some megabytes at a time: images of equal pixels, and no others, have equal hashes.

    Args:
        images: uint8 (n, ...), in memory or memory-mapped.
        rows: Which of them (m,); None takes all.
        progress: Called with the number of images hashed and the number of all.

    Returns:
        128 bits of BLAKE2b for each (m, 2).
    """
    found = [_digests_of(block) for block in _blocks(images, rows, progress)]
    return np.concatenate([np.zeros((0, 2), dtype=np.uint64), *found])


def difference_hashes(
    images: NDArray[np.uint8],
    rows: NDArray[np.int64] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint64]:
    """Hash what images look like: whether each of 9 x 8 grey areas is lighter than the one to its left.

    Compression, resizing and a change of brightness leave most bits as they are. The means of the areas are compared
    in whole numbers, so that every machine gives the same bits. Source: the "dHash" of N. Krawetz (2013), by means of
    areas instead of a resampled picture.

    Args:
        images: uint8 (n, height, width, 3), in memory or memory-mapped.
        rows: Which of them (m,); None takes all.
        progress: Called with the number of images hashed and the number of all.

    Returns:
        64 bits for each (m,), row by row from the top left, the first one the highest.
    """
    found = [_hashes_of(block) for block in _blocks(images, rows, progress)]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *found])


def nearest_hashes(queries: NDArray[np.uint64], references: NDArray[np.uint64], *, max_distance: int) -> pd.DataFrame:
    """Find for each hash the nearest of others, exactly, by the number of bits in which they differ.

    The bits are cut into `max_distance` + 1 bands. Two hashes that differ in at most `max_distance` bits agree in one
    band at least, so only hashes that agree in a band are compared. Memory does not grow with the number of pairs.

    Args:
        queries: Hashes (n,) of 64 bits.
        references: Hashes (m,) of 64 bits.
        max_distance: The most bits that may differ, 0 to 16.

    Returns:
        One row for each query that has a reference within the distance, in their order: `query` and `reference`
        (positions; the first of several that are equally near), `distance` (bits), `n` (all references within it).

    Raises:
        ConfigError: `max_distance` is out of range.
    """
    if not 0 <= max_distance <= MAX_HASH_DISTANCE:
        raise ConfigError(f"max_distance is {max_distance}; expected 0 to {MAX_HASH_DISTANCE} bits.")
    ours, of_query = np.unique(queries, return_inverse=True)
    theirs, first, counts = np.unique(references, return_index=True, return_counts=True)
    none = np.iinfo(np.int64).max
    best, n_near = np.full(len(ours), none), np.zeros(len(ours), dtype=np.int64)
    for query, reference, distance in _near_pairs(ours, theirs, max_distance):
        np.minimum.at(best, query, distance * len(references) + first[reference])
        np.add.at(n_near, query, counts[reference])
    found = np.flatnonzero(best[of_query] < none)
    distances, nearest = np.divmod(best[of_query[found]], max(1, len(references)))
    return pd.DataFrame({"query": found, "reference": nearest, "distance": distances, "n": n_near[of_query[found]]})


def shared_images(
    first: FaceDataset,
    second: FaceDataset,
    *,
    first_rows: NDArray[np.int64] | None = None,
    second_rows: NDArray[np.int64] | None = None,
    max_distance: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """List the images of one dataset that are equal to, or look like, one of another: test images seen in training.

    Equal is equal in every pixel; near is a difference hash within `max_distance` (see `difference_hashes`). Near is a
    hint, to be looked at: photographs of one sitting, and images without contrast, can be near as well. On the 400
    AT&T faces, scaled to 112 pixels, 2 bits hold all copies saved as JPEG of quality 75 or brought to half the size and
    back, 0.9 % of the pairs of one person and none of two; copies moved by a pixel need 5 to 9.

    Args:
        first: Dataset to look in, usually training images.
        second: Dataset whose images are looked for, usually test images.
        first_rows: Which of its images (n,); None takes all.
        second_rows: Which of its images (m,); None takes all. Of one and the same dataset they must be others.
        max_distance: The most bits, of 64, in which near images differ, 0 to 16.
        progress: Called with the number of images hashed and the number of all, for the first and then the second.

    Returns:
        One row for each image of the second that is found, in its order: `second_row`, `second_path`,
        `second_identity`; the nearest image of the first, an equal one before others: `first_row`, `first_path`,
        `first_identity`; `is_equal`, `distance` (bits), `n_equal` and `n_near` (how many of the first are equal, and
        how many are within the distance, equal ones included).

    Raises:
        ConfigError: `max_distance` is out of range, or rows of one dataset are on both sides.
    """
    sides = [
        np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
        for dataset, rows in ((first, first_rows), (second, second_rows))
    ]
    is_same = first.images is second.images or (first.folder is not None and first.folder == second.folder)
    if is_same and len(np.intersect1d(sides[0], sides[1])):
        raise ConfigError("Rows of the same dataset are on both sides: each would be found as its own duplicate.")
    first_digests, first_hashes = _digests_and_hashes(first.images, sides[0], progress)
    second_digests, second_hashes = _digests_and_hashes(second.images, sides[1], progress)
    near = nearest_hashes(second_hashes, first_hashes, max_distance=max_distance).set_index("query")
    equal, n_equal = _first_equal(second_digests, first_digests)
    found = near.index.to_numpy()  # equal images have equal hashes, so they are among the near ones
    is_equal = equal[found] >= 0
    matched = np.where(is_equal, equal[found], near["reference"].to_numpy())
    table: dict[str, object] = {}
    for side, dataset, rows in (("second", second, sides[1][found]), ("first", first, sides[0][matched])):
        table[f"{side}_row"] = rows
        for column in ("path", "identity"):
            table[f"{side}_{column}"] = dataset.manifest[column].iloc[rows].to_numpy()
    table |= {"is_equal": is_equal, "distance": near["distance"].to_numpy()}
    return pd.DataFrame(table | {"n_equal": n_equal[found], "n_near": near["n"].to_numpy()})


def _people(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """Count the images of each identity, and give it the key by which it is compared."""
    for column in ("identity", "source"):
        if column not in table.columns:
            raise ManifestError(f"The {side} table has no column {column}; give rows of a manifest.")
    counts = table.groupby(["identity", "source"], sort=False, observed=True).size().reset_index(name=f"n_{side}")
    counts["key"] = [_person_key(*names) for names in zip(counts["identity"], counts["source"], strict=True)]
    people = counts.groupby(["key", "identity"], sort=False)[f"n_{side}"].sum().reset_index()
    return people.rename(columns={"identity": f"{side}_identity"})


def _person_key(identity: str, source: str) -> str:
    key = name_key(str(identity))
    number = _NUMBER.fullmatch(key)
    return key if number is None else f"{number[1]}{number[2]} of {source}"


def _blocks(
    images: NDArray[np.uint8], rows: NDArray[np.int64] | None, progress: Callable[[int, int], None] | None
) -> Iterator[NDArray[np.uint8]]:
    """Go through images some megabytes at a time."""
    n = len(images) if rows is None else len(rows)
    step = max(1, _BLOCK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, n, step):
        chosen = slice(start, start + step) if rows is None else rows[start : start + step]
        yield np.ascontiguousarray(images[chosen])
        if progress is not None:
            progress(min(start + step, n), n)


def _digests_and_hashes(
    images: NDArray[np.uint8], rows: NDArray[np.int64], progress: Callable[[int, int], None] | None
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return what `image_digests` and `difference_hashes` do, reading the images once."""
    found = [(_digests_of(block), _hashes_of(block)) for block in _blocks(images, rows, progress)]
    digests = np.concatenate([np.zeros((0, 2), dtype=np.uint64), *(digests for digests, _ in found)])
    return digests, np.concatenate([np.zeros(0, dtype=np.uint64), *(hashes for _, hashes in found)])


def _digests_of(block: NDArray[np.uint8]) -> NDArray[np.uint64]:
    digests = (hashlib.blake2b(pixels.data, digest_size=16).digest() for pixels in block.reshape(len(block), -1))
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2).astype(np.uint64)


def _hashes_of(block: NDArray[np.uint8]) -> NDArray[np.uint64]:
    down, across = _areas(block.shape[1], 8), _areas(block.shape[2], 9)
    grey = sum(weight * block[..., channel] for channel, weight in enumerate(_GREY))
    means = down @ grey @ across.T
    bits = (means[:, :, 1:] > means[:, :, :-1]).reshape(len(block), _HASH_BITS)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _areas(n_pixels: int, n_areas: int) -> NDArray[np.float64]:
    """How much of each pixel lies in each of equal areas (n_areas, n_pixels), in whole numbers."""
    pixels, areas = np.arange(n_pixels) * n_areas, np.arange(n_areas)[:, None] * n_pixels
    overlap = np.minimum(pixels + n_areas, areas + n_pixels) - np.maximum(pixels, areas)
    return np.maximum(0, overlap).astype(np.float64)


def _near_pairs(
    queries: NDArray[np.uint64], references: NDArray[np.uint64], max_distance: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all pairs within a distance, each once and some at a time: positions, and bits in which they differ."""
    edges = np.linspace(0, _HASH_BITS, max_distance + 2).astype(int)
    bands = [np.uint64((1 << int(end)) - (1 << int(start))) for start, end in itertools.pairwise(edges)]
    for number, band in enumerate(bands):
        order = np.argsort(references & band)
        values = (references & band)[order]
        start = np.searchsorted(values, queries & band, side="left")
        counts = np.searchsorted(values, queries & band, side="right") - start
        behind = np.cumsum(counts)
        at = 0
        while at < len(queries):
            end = max(at + 1, int(np.searchsorted(behind, behind[at] - counts[at] + _PAIRS_AT_ONCE, side="right")))
            n_each = counts[at:end]
            query = np.repeat(np.arange(at, end), n_each)
            place = np.arange(len(query)) - np.repeat(np.cumsum(n_each) - n_each, n_each) + start[query]
            differing = queries[query] ^ references[order[place]]
            distance = np.bitwise_count(differing).astype(np.int64)
            kept = distance <= max_distance
            for earlier in bands[:number]:  # these have come already
                kept &= (differing & earlier) != 0
            yield query[kept], order[place[kept]], distance[kept]
            at = end


def _first_equal(
    queries: NDArray[np.uint64], references: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each digest the first reference that is equal, -1 for none, and how many there are."""
    whole = np.concatenate([references, queries])
    order = np.lexsort((whole[:, 1], whole[:, 0]))
    is_new = np.concatenate([[True], (whole[order][1:] != whole[order][:-1]).any(axis=1)])
    group = np.empty(len(whole), dtype=np.int64)
    group[order] = np.cumsum(is_new) - 1
    of_reference, of_query = group[: len(references)], group[len(references) :]
    first = np.full(len(whole), len(whole), dtype=np.int64)
    np.minimum.at(first, of_reference, np.arange(len(references)))
    n = np.bincount(of_reference, minlength=len(whole))
    return np.where(n[of_query] > 0, first[of_query], -1), n[of_query]
