"""Mean embeddings of identities by the age of the images, kept beside the embeddings: these are read only once.

The embeddings of MS1MV2 take 12 GB, their means 0.4 GB. The means are kept in the folder `embeddings/class_means` of
the run, one file a split and group of images, with a hash of what they were made from: the file of the embeddings (its
size, its time of change and samples of its content), the identities, and for each image whose it is and in which group
it counts. So they are computed anew when the embeddings, the manifest or the rule changes that says who is a child.
Each file holds a checksum of its numbers; one that is damaged is computed anew.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import check_unit_rows
from interproto_lib.errors import WriteError
from interproto_lib.files import write_arrays

ImageGroup = Literal["all", "child", "adult"]

IMAGE_GROUPS: tuple[ImageGroup, ...] = ("all", "child", "adult")

Floats32 = NDArray[np.float32]
Means = tuple[NDArray[np.int32], Floats32]

_KINDS = {"child": 0, "adult": 1}  # and 2 for an image without an age
_ROWS_AT_A_TIME = 8192
_LENGTH_TOLERANCE = 1e-3
_FORM = b"class means 1"
_N_SAMPLES, _SAMPLE_BYTES = 64, 4096


def group_codes(labels: NDArray[np.integer], ages: NDArray[np.floating], child_below_years: float) -> NDArray[np.int32]:
    """Say of each image to whose mean it adds, and in which group.

    Args:
        labels: (m,) identity of each image, -1 for one that does not count.
        ages: (m,) years, NaN unknown.
        child_below_years: An image is a child's below this age.

    Returns:
        (m,) 3 * identity + kind, the kind 0 for a child's image, 1 for an adult's, 2 without an age; -1 for one that
        does not count.

    Example:
        >>> group_codes(np.array([0, 0, 2, -1]), np.array([5.0, 13.0, np.nan, 5.0]), 13.0).tolist()
        [0, 1, 8, -1]
    """
    kinds = np.where(np.isnan(ages), 2, np.where(ages < child_below_years, _KINDS["child"], _KINDS["adult"]))
    return np.where(labels >= 0, 3 * labels + kinds, -1).astype(np.int32)


def group_means(vectors: Floats32, codes: NDArray[np.int32], n: int, *, name: str) -> dict[ImageGroup, Means]:
    """Compute the mean embedding of each identity over all its images, its child and its adult ones.

    The embeddings are read once, in their order; sums are made in float64. Beside them it takes memory by identities:
    one sum for each identity and kind of image that occurs.

    Args:
        vectors: (m, d) unit rows, in memory or mapped.
        codes: (m,) see `group_codes`.
        n: Identities.
        name: What to call the embeddings in messages.

    Returns:
        For each of `IMAGE_GROUPS` the identities with such an image (k,), rising, and their means (k, d). An image
        without an age counts in `all` only.

    Raises:
        ConfigError: A row that counts is not of length 1.
    """
    n_images = np.bincount(codes[codes >= 0], minlength=3 * n)
    occurring = np.flatnonzero(n_images)
    sums = _sums(vectors, codes, occurring, 3 * n, name)
    identities, kinds = occurring // 3, occurring % 3
    means: dict[ImageGroup, Means] = {}
    for group in ("child", "adult"):
        which = np.flatnonzero(kinds == _KINDS[group])
        of_group = (sums[which] / n_images[occurring[which], None]).astype(np.float32)
        means[group] = identities[which].astype(np.int32), of_group
    starts = np.flatnonzero(np.diff(identities, prepend=-1))
    of_all = np.empty((len(starts), sums.shape[1]), dtype=np.float32)
    for first in range(0, len(starts), _ROWS_AT_A_TIME):  # a block at a time: no second table in float64
        some = starts[first : first + _ROWS_AT_A_TIME]
        stop = starts[first + len(some)] if first + len(some) < len(starts) else len(sums)
        counts = np.add.reduceat(n_images[occurring[some[0] : stop]], some - some[0])
        of_all[first : first + len(some)] = np.add.reduceat(sums[some[0] : stop], some - some[0]) / counts[:, None]
    means["all"] = identities[starts].astype(np.int32), of_all
    return means


def _sums(
    vectors: Floats32, codes: NDArray[np.int32], occurring: NDArray[np.int64], n_codes: int, name: str
) -> NDArray[np.float64]:
    """Sum the rows of each code that occurs, by a product with a sparse matrix of ones for some rows at a time."""
    from scipy.sparse import csr_array

    place_of = np.full(n_codes, -1, dtype=np.int64)
    place_of[occurring] = np.arange(len(occurring))
    sums = np.zeros((len(occurring), vectors.shape[1]), dtype=np.float64)
    for start in range(0, len(codes), _ROWS_AT_A_TIME):
        of_rows = codes[start : start + _ROWS_AT_A_TIME]
        counted = np.flatnonzero(of_rows >= 0)
        if len(counted) == 0:
            continue
        block = vectors[start : start + len(of_rows)]
        lengths = np.sqrt(np.vecdot(block, block)[counted])
        if not (np.abs(lengths - 1) <= _LENGTH_TOLERANCE).all():
            check_unit_rows(vectors, codes, name)  # says which row it is
        order = counted[np.argsort(of_rows[counted], kind="stable")]
        firsts = np.flatnonzero(np.diff(of_rows[order], prepend=-1))
        ones = csr_array((np.ones(len(order)), order, np.append(firsts, len(order))), shape=(len(firsts), len(block)))
        sums[place_of[of_rows[order[firsts]]]] += ones @ np.asarray(block, dtype=np.float64)
    return sums


class StoredMeans:
    """Mean embeddings of all identities of a split of a run, read from its folder, or computed and kept there."""

    def __init__(
        self, embeddings: Path, vectors: Floats32, codes: NDArray[np.int32], names: NDArray[np.object_], *, split: str,
        run: str,
    ) -> None:  # fmt: skip
        """Take what the means are made of; nothing is read yet.

        Args:
            embeddings: The file that `vectors` is mapped from.
            vectors: (m, d) unit embeddings.
            codes: (m,) see `group_codes`, -1 for the images of other splits.
            names: (n,) names of the identities.
            split: The split, for the names of the files.
            run: What to call the run in messages.
        """
        self._embeddings, self._vectors, self._codes, self._names = embeddings, vectors, codes, names
        self._split, self._run = split, run
        self._made_from = b""
        self._computed: Mapping[ImageGroup, Means] = {}

    def means(self, images: ImageGroup) -> Floats32:
        """Give the mean embedding of each identity over some of its images.

        Where the folder cannot be written, the means are computed all the same, and a warning says that they are not
        kept.

        Args:
            images: Which images count.

        Returns:
            (n, d) float32; NaN where an identity has no such image.

        Raises:
            ConfigError: An embedding is not of length 1.
        """
        rows, means = self._computed.get(images) or self._read(images) or self._compute()[images]
        if len(rows) == len(self._names):
            return means
        result = np.full((len(self._names), self._vectors.shape[1]), np.nan, dtype=np.float32)
        result[rows] = means
        return result

    def _path(self, images: ImageGroup) -> Path:
        return self._embeddings.parent / "class_means" / f"{self._split}-{images}.safetensors"

    def _read(self, images: ImageGroup) -> Means | None:
        """Read what is kept; None where there is nothing, or nothing of just these embeddings, or it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self._path(images)
        if not path.is_file():
            return None
        try:
            kept = load_file(path)
            rows, means = kept["identities"], kept["means"]
            proofs = kept["made_from"].tobytes(), kept["checksum"].tobytes()
        except (SafetensorError, KeyError, OSError):
            return None
        is_table = rows.dtype == np.int32 and means.dtype == np.float32
        fits = is_table and rows.ndim == 1 and means.shape == (len(rows), self._vectors.shape[1])
        return (rows, means) if fits and proofs == (self._origin(), self._checksum(images, rows, means)) else None

    def _compute(self) -> Mapping[ImageGroup, Means]:
        """Compute all groups, since reading the embeddings is what takes long, and keep them."""
        origin = self._origin()
        computed = group_means(self._vectors, self._codes, len(self._names), name=f"embeddings of run {self._run!r}")
        self._made_from = b""
        if self._origin() != origin:  # rewritten meanwhile: what was read is of no file that there is
            self._computed = computed
            return computed
        try:
            for images, (rows, means) in computed.items():
                proofs = {"made_from": origin, "checksum": self._checksum(images, rows, means)}
                of_bytes = {name: np.frombuffer(proof, dtype=np.uint8) for name, proof in proofs.items()}
                write_arrays(self._path(images), {"identities": rows, "means": means, **of_bytes})
        except WriteError as problem:
            self._computed = computed
            warnings.warn(
                f"The mean embeddings of run {self._run!r} are not kept, so all its embeddings are read again when it "
                f"is opened again. {problem}",
                stacklevel=2,
            )
        return computed

    def _checksum(self, images: ImageGroup, rows: NDArray[np.int32], means: Floats32) -> bytes:
        """A checksum of a file's numbers and of its name, so that none is taken for that of another group."""
        checked = zlib.crc32(f"{self._split}-{images}".encode())
        for array in (rows, means):
            checked = zlib.crc32(np.ascontiguousarray(array).data, checked)
        return checked.to_bytes(4, "little")

    def _origin(self) -> bytes:
        """A hash of all that the means are made from; of the embeddings samples."""
        if not self._made_from:
            content = hashlib.sha256(_FORM)
            for part in (_stamp(self._embeddings), "\n".join(self._names).encode(), self._codes.tobytes()):
                content.update(hashlib.sha256(part).digest())
            self._made_from = content.digest()
        return self._made_from


def _stamp(path: Path) -> bytes:
    """What changes with a file: its size, its time of change, and samples of its content."""
    state = path.stat()
    content = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode())
    with path.open("rb") as file:
        for k in range(_N_SAMPLES):
            file.seek(max(0, state.st_size - _SAMPLE_BYTES) * k // (_N_SAMPLES - 1))
            content.update(file.read(_SAMPLE_BYTES))
    return content.digest()
