"""insightface's training sets in RecordIO: train.rec, train.idx and property."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.collections import ImageCollection, text_column
from interproto_lib.data.formats.folder_listing import FileFingerprint
from interproto_lib.data.formats.record_file import RecordFile, RecordHeads
from interproto_lib.data.formats.record_index import HOW_TO_SCAN
from interproto_lib.errors import DatasetError, DatasetNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

PROPERTY_FILE = "property"
"""Beside the .rec: one line, `classes,height,width`."""

MAX_EXACT = 2**24
"""Whole numbers up to this one are exact in the float32 of labels; larger ones are rounded."""

_MAX_PROPERTY_BYTES = 1000
_N_NAMED = 10
_ROWS_AT_ONCE = 2**18


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Which records are images and which are ranges of identities: positions of a file's keys."""

    images: NDArray[np.int64]
    ranges: NDArray[np.int64]
    notes: tuple[str, ...]


class RecordImages:
    """The images of some records, as `interproto_lib.data.collections.EncodedImages`.

    Args:
        file: The records.
        positions: Which of its keys are the images (n,); row i is the image of key `file.keys[positions[i]]`.
    """

    def __init__(self, file: RecordFile, positions: NDArray[np.int64]) -> None:
        self._file = file
        self._positions = positions

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row.

        Raises:
            DatasetError: The record is damaged or holds no image.
        """
        position = int(self._positions[row])
        content = self._file.read_at(position).content
        if not content:
            raise DatasetError(f"{self._file.place(position)}: the record holds no image (0 bytes)")
        return content


def recordio_collection(
    path: str | Path, *, name: str, progress: Callable[[int, int], None] | None = None
) -> ImageCollection:
    """List the images of a RecordIO file as insightface publishes its training sets.

    Layout (insightface's face2rec2.py): record 0 holds no image but two labels, N + 1 and `end`. Records 1 to N are the
    images; the identity of one is its label, or the first of its labels. Records N + 1 to `end` - 1 hold two labels
    each, the range [start, end) of the keys of one identity's images. A file without record 0, as MXNet's im2rec
    writes it, is a file of images only.

    The identity is written with six digits and the path as `<identity>/<key with eight digits>.jpg`: the names of the
    published exports, which age labels refer to. They say nothing about the kind of image.

    Args:
        path: The .rec file, or a folder that holds exactly one. Its .idx of the same name and `property` are taken from
            beside it; without an .idx the file is gone through twice.
        name: What to call the collection.
        progress: Called with the number of headers read and the number of all.

    Returns:
        The collection, by ascending key. One pass is made through the file. About 100 bytes are held an image, and
        nearly twice that while it is listed. `notes` says what is unusual: missing record numbers, identities in
        several ranges, another number of classes in `property`.

    Raises:
        DatasetNotFoundError: There is no .rec.
        DatasetError: A record is damaged, the files do not belong together, a label is no identity, or the ranges of
            identities contradict the labels of the images; the message names file, record, byte and what to do.
    """
    rec, others = _find_rec(Path(path))
    file = RecordFile(rec)
    images, labels, notes = _images(file, progress)
    return ImageCollection(
        name=name,
        shape="recordio",
        place=rec,
        table=_table(labels, file.keys[images]),
        encoded=RecordImages(file, images),
        fingerprint=_fingerprint(rec, file.idx),
        others=(len(others), tuple(others[:_N_NAMED])),
        notes=notes,
    )


def _find_rec(place: Path) -> tuple[Path, list[str]]:
    """Return the .rec of a place, and the other files of a folder that are no part of it."""
    if place.is_dir():
        try:
            names = sorted(entry.name for entry in place.iterdir() if entry.is_file())
        except OSError as error:
            raise DatasetError(f"Cannot look into {place}: {error.strerror}. Check its permissions.") from error
        names = [name for name in names if not name.startswith(".")]
        found = [name for name in names if name.endswith(".rec")]
        if not found:
            raise DatasetNotFoundError(f"There is no .rec file in {place}. Expected train.rec, train.idx and property.")
        if len(found) > 1:
            raise DatasetError(
                f"{place} holds {len(found)} .rec files: {', '.join(found[:_N_NAMED])}. Give the path of one of them."
            )
        rec = place / found[0]
        return rec, [name for name in names if name not in (rec.name, rec.with_suffix(".idx").name, PROPERTY_FILE)]
    if place.suffix != ".rec":
        raise DatasetNotFoundError(f"{place} is neither a folder nor a .rec file. Check the path.")
    return place, []


def _images(
    file: RecordFile, progress: Callable[[int, int], None] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Return the positions (n,) of the images among the file's keys, their identities (n,), and what to know."""
    heads = file.heads(progress=progress)
    layout = _layout(file, heads)
    labels = _identities(file, heads, layout.images)
    notes = [*layout.notes, *_check_ranges(file, heads, layout, labels), *_check_property(file.rec, labels)]
    most = int(heads.n_labels[layout.images].max())
    if most > 1:
        notes.append(f"Images have up to {most} labels; the first is taken for the identity.")
    empty = layout.images[heads.n_bytes[layout.images] == 0]
    if len(empty):
        notes.append(f"{len(empty)} records of images hold no image (0 bytes; first: record {file.keys[empty[0]]}).")
    return layout.images, labels, tuple(notes)


def _layout(file: RecordFile, heads: RecordHeads) -> _Layout:
    notes = _check_listing(file, heads)
    looks_like_range = (heads.n_labels == 2) & (heads.n_bytes == 0)
    if file.keys[0] != 0 or heads.n_labels[0] < 2 or heads.n_bytes[0] > 0:
        if looks_like_range.any():
            raise DatasetError(
                f"{file.place(int(np.argmax(looks_like_range)))}: it has two labels and no image, as the range of an "
                "identity has, but record 0, which announces such ranges, is missing. Get .rec and .idx anew."
            )
        images = np.arange(len(file), dtype=np.int64)
        notes.append("There is no record 0 that lists identities: every record is taken for an image.")
        return _Layout(images=images, ranges=images[:0], notes=tuple(notes))
    first_range, end = (float(label) for label in heads.labels[0])
    if heads.n_labels[0] != 2 or not 2 <= first_range <= end or first_range % 1 or end % 1:
        raise DatasetError(
            f"{file.place(0)}: record 0 has {heads.n_labels[0]} labels, the first {first_range:g} and {end:g}; "
            "expected two whole numbers, the key after the last image and the key after the last identity. Get the "
            ".rec anew."
        )
    begin = first_range
    if first_range >= MAX_EXACT:  # rounded: the first range is found by what it holds
        near = looks_like_range & (file.keys >= first_range - np.spacing(np.float32(first_range)))
        begin = float(file.keys[near].min(initial=int(first_range)))
    images = np.flatnonzero((file.keys > 0) & (file.keys < begin))
    ranges = np.flatnonzero(file.keys >= begin)
    last = file.keys[-1] + 1 if len(ranges) else begin
    expected = np.arange(begin, begin + len(ranges))
    n_missing = int(begin) - 1 - len(images)
    if np.float32(begin) != np.float32(first_range) or np.float32(last) != np.float32(end) or n_missing >= len(images):
        raise DatasetError(
            f"{file.place(0)}: record 0 announces images up to record {first_range - 1:.0f} and identities up to "
            f"record {end - 1:.0f}, but there are {len(images)} images, and the last record is {file.keys[-1]}: .rec "
            f"and .idx do not belong together, or one is cut short. {HOW_TO_SCAN}"
        )
    wrong = (file.keys[ranges] != expected) | ~looks_like_range[ranges]
    if wrong.any():
        raise DatasetError(
            f"{file.place(int(ranges[np.argmax(wrong)]))}: expected the range of an identity here, record "
            f"{expected[np.argmax(wrong)]:.0f} with two labels and no image. {HOW_TO_SCAN}"
        )
    if n_missing:
        numbers = np.arange(1, len(images) + 1)
        gaps = numbers[file.keys[images] != numbers]
        absent = f"{n_missing} of the images 1 to {begin - 1:.0f} that record 0 announces (first: record " + (
            f"{gaps[0] if len(gaps) else len(images) + 1})"
        )
        if heads.n_unlisted_bytes:
            raise DatasetError(
                f"{file.idx} lacks {absent}, and {heads.n_unlisted_bytes} bytes of {file.rec} belong to no listed "
                f"record. {HOW_TO_SCAN}"
            )
        notes.append(f"There are no records for {absent}.")
    return _Layout(images=images, ranges=ranges, notes=tuple(notes))


def _check_listing(file: RecordFile, heads: RecordHeads) -> list[str]:
    """Say how the records were found; refuse an .idx that ends before its .rec does."""
    if file.keys_are_counted:
        return ["There is no .idx, and the ids of the records are not unique: records are numbered from 0."]
    if file.idx is None:
        return ["There is no .idx: records go by the ids in their headers."]
    if heads.n_bytes_behind:
        raise DatasetError(
            f"{heads.n_bytes_behind} bytes of {file.rec} stand after the last record that {file.idx} lists: the .idx "
            f"is cut short or belongs to another .rec. {HOW_TO_SCAN}"
        )
    if heads.n_unlisted_bytes:
        return [f"{heads.n_unlisted_bytes} bytes between the records belong to none that the .idx lists."]
    return []


def _identities(file: RecordFile, heads: RecordHeads, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the identities (n,) of the images; their labels must be whole numbers from 0."""
    labels = heads.labels[images, 0]
    wrong = ~((labels >= 0) & (labels <= MAX_EXACT) & (labels == np.floor(labels)))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DatasetError(
            f"{file.place(int(images[first]))}: its label is {labels[first]:g}, expected the number of an identity, 0 "
            f"to {MAX_EXACT}; {int(wrong.sum())} of {len(labels)} images are like that. Is it a .rec of faces by "
            "identity, as insightface's face2rec2.py or MXNet's im2rec writes it?"
        )
    return labels.astype(np.int64)


def _check_ranges(file: RecordFile, heads: RecordHeads, layout: _Layout, labels: NDArray[np.int64]) -> list[str]:
    """Compare the ranges of identities with the labels of the images; refuse ranges that contradict them."""
    if len(layout.ranges) == 0:
        return []
    starts, ends = heads.labels[layout.ranges].astype(np.float64).T
    begin = float(file.keys[layout.ranges[0]])
    is_exact = ~((starts > MAX_EXACT) | (ends > MAX_EXACT))
    is_sound = (starts >= 1) & (starts <= ends) & (ends < np.inf)
    is_sound &= ~is_exact | ((starts == np.floor(starts)) & (ends == np.floor(ends)) & (ends <= begin))
    if not is_sound.all():
        wrong = int(layout.ranges[np.argmin(is_sound)])
        raise _range_error(file, heads, wrong, f"which is no range within the images 1 to {begin - 1:.0f}")
    first, end = (np.searchsorted(file.keys[layout.images], values[is_exact]) for values in (starts, ends))
    is_filled = end > first
    first, end, rows = first[is_filled], end[is_filled], layout.ranges[is_exact][is_filled]
    changes = np.concatenate([[0], np.cumsum(labels[1:] != labels[:-1])])
    mixed = np.flatnonzero(changes[end - 1] != changes[first])
    if len(mixed):
        found = pd.unique(labels[first[mixed[0]] : end[mixed[0]]])
        named = ", ".join(map(str, found[:_N_NAMED]))
        raise _range_error(file, heads, int(rows[mixed[0]]), f"but the labels of these images are {named}")
    order = np.argsort(first, kind="stable")
    overlaps = np.flatnonzero(first[order][1:] < end[order][:-1])
    if len(overlaps):
        wrong, other = int(rows[order[overlaps[0] + 1]]), file.keys[rows[order[overlaps[0]]]]
        raise _range_error(file, heads, wrong, f"which overlaps that of record {other}")
    notes = []
    if not is_exact.all():
        n_rounded = int((~is_exact).sum())
        notes.append(f"{n_rounded} identity ranges lie above {MAX_EXACT}, where labels are rounded: not compared.")
    elif outside := len(labels) - int((end - first).sum()):
        notes.append(f"{outside} images lie in no identity range; their labels are taken.")
    n_identities = len(np.unique(labels[first]))
    if len(first) > n_identities:
        notes.append(f"{len(first)} identity ranges belong to {n_identities} labels: some people are in several.")
    return notes


def _range_error(file: RecordFile, heads: RecordHeads, position: int, what: str) -> DatasetError:
    start, end = heads.labels[position]
    return DatasetError(
        f"{file.place(position)}: the range of an identity is [{start:.0f}, {end:.0f}), {what}. The .rec was put "
        "together from parts that do not fit. Get it anew, or make it again from the images."
    )


def _check_property(rec: Path, labels: NDArray[np.int64]) -> list[str]:
    """Compare the number of classes in `property` with the labels."""
    file = rec.with_name(PROPERTY_FILE)
    if not file.is_file():
        return []
    try:
        with file.open("rb") as handle:
            content = handle.read(_MAX_PROPERTY_BYTES)
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}). Check its permissions.") from error
    found = re.fullmatch(rb"(?:\xef\xbb\xbf)?\s*(\d{1,9})\s*,\s*(\d{1,5})\s*,\s*(\d{1,5})\s*", content)
    if found is None:
        raise DatasetError(
            f"{file} holds {content[:60]!r}, expected classes,height,width such as 10572,112,112. Correct it, or move "
            "it away: it is not needed."
        )
    n_classes, n_labels = int(found[1]), len(np.unique(labels))
    if n_classes == n_labels:
        return []
    return [f"{PROPERTY_FILE} says {n_classes} classes, the images have {n_labels} labels, up to {labels.max()}."]


def _table(labels: NDArray[np.int64], keys: NDArray[np.int64]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": _texts(lambda rows: _path_texts(labels[rows], keys[rows]), len(labels)),
            "identity": _texts(lambda rows: _with_zeros(labels[rows], 6), len(labels)),
            "age_years": np.full(len(labels), np.nan),
        }
    )


def _texts(make: Callable[[slice], pa.Array], n: int) -> pd.Series:
    """Make a column of text (n,) some rows at a time, so that little is held besides it."""
    import pyarrow as pa

    blocks = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, n, _ROWS_AT_ONCE)]
    return text_column(pa.chunked_array([make(rows) for rows in blocks]))


def _path_texts(labels: NDArray[np.int64], keys: NDArray[np.int64]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    slash, ending, nothing = (pa.scalar(text, pa.large_string()) for text in ("/", ".jpg", ""))
    names = pc.binary_join_element_wise(_with_zeros(keys, 8), ending, nothing)
    return pc.binary_join_element_wise(_with_zeros(labels, 6), names, slash)


def _with_zeros(numbers: NDArray[np.int64], width: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.utf8_lpad(pa.array(numbers).cast(pa.large_string()), width, "0")


def _fingerprint(rec: Path, idx: Path | None) -> str:
    fingerprint = FileFingerprint()
    for file in (rec, idx, rec.with_name(PROPERTY_FILE)):
        if file is not None and file.is_file():
            status = file.stat()
            fingerprint.add(file.name, status.st_size, status.st_mtime_ns)
    return str(fingerprint)
