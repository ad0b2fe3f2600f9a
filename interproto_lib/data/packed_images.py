"""Pixels of a collection, decoded on a few threads and written block by block, with a journal to go on from."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.collections import EncodedImages, ImageCollection
from interproto_lib.data.datasets import IMAGES_FILE, PACKING_FOLDER
from interproto_lib.data.image_arrays import BLOCK_BYTES, file_sha256, npy_header
from interproto_lib.data.packing_journal import PackingJournal, PackingState, RejectedRow, describe_difference
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError, WriteError

Progress = Callable[[int, int], None]
Begun = Callable[[int], object]
"""Told once, before anything is decoded, how many images were done by an earlier, interrupted packing."""

JOURNAL_FILE = "journal.jsonl"
HOPELESS_IMAGES = 1000
"""When so many images were all rejected, from the first on, the others are not tried."""

_MOST_ROWS_IN_BLOCK = 4096
_ROWS_AT_A_TIME = 32
_REASON_LENGTH = 300
_KIND_LENGTH = 80


class DecodedImage(NamedTuple):
    """What a decoder may give instead of the bare pixels, so that the sizes of the originals are counted.

    Attributes:
        pixels: uint8 (size, size, 3), RGB.
        original_size: Width and height before it was brought to `size`, in pixels.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


Decode = Callable[[int, bytes], NDArray[np.uint8] | DecodedImage]
"""Row and encoded bytes in, RGB pixels (size, size, 3) out; a DatasetError rejects the image, its message says why."""


class ImageRejectedError(DatasetError):
    """An image that is not to be packed, with the kind of problem for counts; any DatasetError of a decoder rejects.

    Args:
        reason: What is wrong with this image.
        kind: What is wrong with all images of its kind, a few words.
    """

    def __init__(self, reason: str, *, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class PackedImages:
    """What came of packing the pixels of a collection.

    Attributes:
        folder: The dataset's folder; the pixels are in a partial file in it until `finish_packing`.
        n_rows: How many images were tried: all, unless the first `HOPELESS_IMAGES` were all rejected.
        image_size: Height and width, in pixels.
        rejected: The images that are not packed, in order.
        original_sizes: How many images had each size ("640x480") before they were brought to one, the most frequent
            first, as far as the decoder tells it.
    """

    folder: Path
    n_rows: int
    image_size: int
    rejected: tuple[RejectedRow, ...]
    original_sizes: dict[str, int]

    @property
    def n_kept(self) -> int:
        """How many images were packed."""
        return self.n_rows - len(self.rejected)

    def kept_rows(self) -> NDArray[np.int64]:
        """Return the rows (n_kept,) of the collection that were packed, ascending."""
        keep = np.ones(self.n_rows, dtype=bool)
        keep[[image.row for image in self.rejected]] = False
        return np.flatnonzero(keep).astype(np.int64)


def pack_images(
    collection: ImageCollection,
    folder: Path,
    *,
    image_size: int,
    decode: Decode,
    request: Mapping[str, Any],
    n_threads: int = 2,
    progress: Progress | None = None,
    begun: Begun | None = None,
) -> PackedImages:
    """Decode the images of a collection and write their pixels, in order and without those that are rejected.

    The caller holds the lock of the folder (`packing_lock`). Each block of some megabytes is on the disk before the
    journal says so; when the same request is made again, whatever stopped the last one, it goes on after the last such
    block, and what is written is the same. After a packing that was refused, the rejected images are tried once more:
    where one can be decoded now, everything begins anew.

    Args:
        collection: The images (n).
        folder: The dataset's folder.
        image_size: Height and width of the pixels to write.
        decode: See `Decode`; called by `n_threads` threads.
        request: All that the pixels depend on, as JSON gives it back: a packing is gone on with for an equal one only.
        n_threads: How many threads read and decode, >= 1.
        progress: Called with the number of images done, those done earlier included, and the number of all.
        begun: See `Begun`.

    Returns:
        What was packed and what was rejected.

    Raises:
        DatasetError: The folder holds a packing of another request that is not finished, which is left as it is; or
            what it holds is damaged.
        WriteError: The folder cannot be written, or the disk is full or too small; what was written is kept.
    """
    place = folder / PACKING_FOLDER
    journal = PackingJournal(place / JOURNAL_FILE)
    with _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        state = _begin_or_go_on(journal, place, collection, request)
        if state.refused and _is_any_readable(collection, state.rejected, image_size, decode):
            state = journal.begin(request)
    if begun is not None:
        begun(state.n_done)
    if state.images_sha256 is None:
        _check_space(place, n_bytes=(len(collection) - state.n_done) * image_size * image_size * 3)
        with _opened_images(place, image_size, len(collection), state.n_kept) as images:
            _write_blocks(collection, images, journal, state, image_size, decode, n_threads, progress)
    return PackedImages(
        folder=folder,
        n_rows=state.n_done,
        image_size=image_size,
        rejected=tuple(state.rejected),
        original_sizes=dict(state.original_sizes.most_common()),
    )


def seal_images(packed: PackedImages) -> tuple[Path, str]:
    """Bring the partial file of images to its final form; all rows are done.

    Returns:
        The file, in its place already when the last writer came so far, and its SHA-256.

    Raises:
        DatasetError: The file is not what was written.
        WriteError: The file cannot be written.
    """
    place = packed.folder / PACKING_FOLDER
    file = place / IMAGES_FILE
    journal = PackingJournal(place / JOURNAL_FILE)
    header = npy_header(packed.n_kept, packed.image_size)
    n_bytes = len(header) + packed.n_kept * packed.image_size * packed.image_size * 3
    with _writing(file):
        state = journal.read()
        known = None if state is None else state.images_sha256
        if state is None or (known is None and not file.is_file()):
            raise _damaged(place, "its files were removed")
        if not file.is_file():
            file = packed.folder / IMAGES_FILE
            if not file.is_file() or file_sha256(file) != known:
                raise _damaged(place, f"{file} is not what was packed")
        elif file.stat().st_size != n_bytes:
            raise _damaged(place, f"{IMAGES_FILE} has {file.stat().st_size} bytes, expected {n_bytes}")
        if known is None:
            with file.open("r+b") as handle:
                handle.write(header)
                _to_disk(handle)
            known = file_sha256(file)
            journal.add_hash(state, known)
    return file, known


def rebuild_journal(
    folder: Path,
    request: Mapping[str, Any],
    *,
    n_rows: int,
    rejected: Sequence[RejectedRow],
    original_sizes: Mapping[str, int],
    images_sha256: str,
) -> None:
    """Write the journal of a packing whose images are in their place, as it was when only the manifest was missing.

    Args:
        folder: The dataset's folder.
        request: See `pack_images`.
        n_rows: How many images there were, the rejected ones included.
        rejected: The images that are not packed, in order.
        original_sizes: How many images had each size.
        images_sha256: SHA-256 of the file of images.

    Raises:
        WriteError: The journal cannot be written.
    """
    place = folder / PACKING_FOLDER
    with _writing(place):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        journal = PackingJournal(place / JOURNAL_FILE)
        state = journal.begin(request)
        journal.add_block(state, n_rows=n_rows, rejected=rejected, original_sizes=original_sizes)
        journal.add_hash(state, images_sha256)


def mark_refused(packed: PackedImages) -> None:
    """Note in the journal that all rows are done, and that the packing was refused for its rejected images.

    Raises:
        WriteError: The journal cannot be written.
    """
    journal = PackingJournal(packed.folder / PACKING_FOLDER / JOURNAL_FILE)
    with _writing(packed.folder):
        state = journal.read()
        if state is not None and not state.refused:
            journal.add_refusal(state)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What came of some rows: the pixels are in their places."""

    rejected: list[RejectedRow]
    original_sizes: Counter[str]


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Rows that are decoded together, and the threads' work on them."""

    first_row: int
    pixels: NDArray[np.uint8]
    parts: list[Future[_Outcome]]


def _begin_or_go_on(
    journal: PackingJournal, place: Path, collection: ImageCollection, request: Mapping[str, Any]
) -> PackingState:
    state = journal.read()
    if state is None:
        return journal.begin(request)
    difference = describe_difference(state.request, request)
    # One that came to its end and was refused, or kept nothing, stands in nobody's way.
    if difference and (state.refused or state.n_kept == 0):
        return journal.begin(request)
    if difference:
        n_all = state.request.get("n_images", "?")
        raise DatasetError(
            f"{place.parent} holds a packing that was stopped after {state.n_done} of {n_all} images and was another: "
            f"{difference}. To go on with it, set and lay everything as it was. To begin anew, remove {place}."
        )
    if state.n_done > len(collection) or state.n_kept < 0:
        raise _damaged(place, f"{JOURNAL_FILE} speaks of {state.n_done} images, there are {len(collection)}")
    return state


def _write_blocks(
    collection: ImageCollection,
    images: IO[bytes],
    journal: PackingJournal,
    state: PackingState,
    image_size: int,
    decode: Decode,
    n_threads: int,
    progress: Progress | None,
) -> None:
    n_all = len(collection)
    # The hash is made on the way while the header is known; otherwise the file is read once more at the end.
    digest = hashlib.sha256(npy_header(n_all, image_size)) if state.n_done == 0 else None
    for block in _decoded_blocks(collection, state.n_done, image_size, decode, n_threads, progress):
        outcomes = [part.result() for part in block.parts]
        rejected = [image for outcome in outcomes for image in outcome.rejected]
        kept = np.delete(block.pixels, [image.row - block.first_row for image in rejected], axis=0)
        with _writing(Path(images.name)):
            _write_all(images, kept)
            _to_disk(images)
            sizes = sum((outcome.original_sizes for outcome in outcomes), Counter[str]())
            journal.add_block(state, n_rows=len(block.pixels), rejected=rejected, original_sizes=sizes)
        digest = None if rejected or digest is None else digest
        if digest is not None:
            digest.update(kept.data)
        if state.n_kept == 0 and state.n_done >= HOPELESS_IMAGES:
            return
    if digest is not None:
        with _writing(Path(images.name)):
            journal.add_hash(state, digest.hexdigest())


def _decoded_blocks(
    collection: ImageCollection,
    first_row: int,
    image_size: int,
    decode: Decode,
    n_threads: int,
    progress: Progress | None,
) -> Iterator[_Block]:
    """Decode block after block, one ahead of the one that is given."""
    n_all = len(collection)
    n_rows = min(_MOST_ROWS_IN_BLOCK, max(1, BLOCK_BYTES // (image_size * image_size * 3)))
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="packing")

    def begin(start: int) -> _Block:
        pixels = np.empty((min(n_rows, n_all - start), image_size, image_size, 3), dtype=np.uint8)
        parts = [
            pool.submit(_decode_rows, collection.encoded, decode, start + at, pixels[at : at + _ROWS_AT_A_TIME])
            for at in range(0, len(pixels), _ROWS_AT_A_TIME)
        ]
        return _Block(first_row=start, pixels=pixels, parts=parts)

    try:
        ahead = begin(first_row) if first_row < n_all else None
        while ahead is not None:
            block, after = ahead, ahead.first_row + len(ahead.pixels)
            ahead = begin(after) if after < n_all else None
            for number, part in enumerate(block.parts, 1):
                part.result()
                if progress is not None:
                    progress(min(block.first_row + number * _ROWS_AT_A_TIME, after), n_all)
            yield block
    finally:
        pool.shutdown(cancel_futures=True)


def _is_any_readable(
    collection: ImageCollection, rejected: Sequence[RejectedRow], image_size: int, decode: Decode
) -> bool:
    """Whether a rejected image can be decoded now: permissions and mounts change without a trace in the listing."""
    place = np.empty((1, image_size, image_size, 3), dtype=np.uint8)
    return any(not _decode_rows(collection.encoded, decode, image.row, place).rejected for image in rejected)


def _decode_rows(encoded: EncodedImages, decode: Decode, first_row: int, pixels: NDArray[np.uint8]) -> _Outcome:
    """Decode consecutive rows into their places (n, size, size, 3)."""
    rejected: list[RejectedRow] = []
    sizes: Counter[str] = Counter()
    for row, place in enumerate(pixels, first_row):
        try:
            decoded = decode(row, encoded.read(row))
        except DatasetNotFoundError:  # what is missing is not this image
            raise
        except DatasetError as error:
            rejected.append(_rejected(row, error))
            continue
        if isinstance(decoded, DecodedImage):
            width, height = decoded.original_size
            sizes[f"{width}x{height}"] += 1
            decoded = decoded.pixels
        if decoded.shape != place.shape or decoded.dtype != np.uint8:
            raise ConfigError(
                f"The decoder gave {decoded.dtype} {decoded.shape} for row {row}; expected uint8 {place.shape}."
            )
        place[...] = decoded
    return _Outcome(rejected=rejected, original_sizes=sizes)


def _rejected(row: int, error: DatasetError) -> RejectedRow:
    reason = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode("utf-8")[:_REASON_LENGTH]
    kind = error.kind if isinstance(error, ImageRejectedError) else re.sub(r"\d[\d,.]*", "#", reason)
    return RejectedRow(row, kind[:_KIND_LENGTH], reason)


@contextmanager
def _opened_images(place: Path, image_size: int, n_images: int, n_kept: int) -> Iterator[IO[bytes]]:
    """Open the partial file behind the images that it holds; what a stopped writer left after them is cut off."""
    file = place / IMAGES_FILE
    header = npy_header(n_images, image_size)
    n_bytes = len(header) + n_kept * image_size * image_size * 3
    with _writing(file):
        if n_kept == 0:
            file.write_bytes(header)
        elif not file.is_file() or file.stat().st_size < n_bytes:
            raise _damaged(place, f"{IMAGES_FILE} is shorter than {JOURNAL_FILE} says")
        handle = file.open("r+b", buffering=0)  # or what could not be written would be tried again when it is closed
    with handle:
        with _writing(file):
            handle.truncate(n_bytes)
            handle.seek(n_bytes)
        yield handle


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Cannot write {file}: {error.strerror or error}. What was packed before is kept: when the place can be "
            "written, begin the same again, and it goes on."
        ) from error


def _check_space(place: Path, *, n_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise WriteError(
            f"The images still to pack take {n_bytes / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free in "
            f"{place.parent}. Free some space, or choose another folder."
        )


def _damaged(place: Path, what: str) -> DatasetError:
    return DatasetError(f"What {place} holds of an earlier packing is damaged: {what}. Remove it to begin anew.")


def _write_all(handle: IO[bytes], pixels: NDArray[np.uint8]) -> None:
    rest = pixels.reshape(-1).data
    while len(rest):
        rest = rest[handle.write(rest) :]


def _to_disk(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())
