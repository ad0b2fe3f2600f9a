"""Where the records of a RecordIO file begin: read from its .idx, or found by going through it."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interproto_lib.errors import DatasetError

MAGIC = 0xCED7230A
"""The four bytes that begin each part of a record, as a little-endian number."""

PART_HEAD = struct.Struct("<II")
"""Begins a part: `MAGIC`, then the kind of part (upper 3 bits) and its length in bytes (lower 29)."""

IMAGE_HEAD = struct.Struct("<IfQQ")
"""Begins the content of a record: how many labels follow (0: the label is here), the label, two numbers (ids)."""

WHOLE, FIRST, MIDDLE, LAST = range(4)
"""The kinds of part: of a record in one piece, and of one that was split where its content holds the magic."""

LENGTH_BITS = 29

_WHOLE_HEAD = struct.Struct("<IIIfQQ")
_BLOCK_BYTES = 2**22
_MAX_ID = 10**18
_NO_ID = 2**64 - 1
_MAX_DIGITS = 18  # of a number in an .idx, so that it fits 64 bits
HOW_TO_SCAN = "Get both anew, or move the .idx away: without it the .rec is gone through once."


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordPlaces:
    """Where records begin, by key.

    Attributes:
        keys: Keys (n,) int64, ascending, each once.
        offsets: The byte at which each begins (n,) int64.
        room: Bytes from there to where the next one begins, or to the end of the file (n,) int64.
        are_counted: Whether the keys are the numbers of the records, for want of others.
    """

    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    room: NDArray[np.int64]
    are_counted: bool = False


def padded(length: int) -> int:
    """Round a length up to a multiple of four, as parts of records are."""
    return -(-length // 4) * 4


def read_index(idx: Path, rec_bytes: int) -> RecordPlaces:
    """Read an .idx file: one record a line, `key<tab>byte offset`.

    Args:
        idx: The file.
        rec_bytes: Size of the .rec file, in bytes.

    Returns:
        Where its records begin. Nothing is known yet about what stands there.

    Raises:
        DatasetError: A line is something else, a key or an offset stands twice, or an offset lies beyond the .rec.
    """
    numbers: list[NDArray[np.int64]] = []
    n_lines = 0
    for block in _blocks_of_lines(idx):
        numbers.append(_numbers(idx, block, n_lines))
        n_lines += len(numbers[-1])
        if n_lines * PART_HEAD.size > rec_bytes:
            raise DatasetError(
                f"{idx} lists at least {n_lines} records, more than {rec_bytes} bytes can hold: it belongs to another "
                f".rec, or the .rec is cut short. {HOW_TO_SCAN}"
            )
    if n_lines == 0:
        raise DatasetError(f"{idx} is empty. {HOW_TO_SCAN}")
    table = np.concatenate(numbers)
    numbers.clear()
    order = np.argsort(table[:, 0], kind="stable")
    keys, offsets = table[order, 0], table[order, 1]
    del table, order
    _refuse_twice(idx, "key", keys)
    by_offset = np.argsort(offsets, kind="stable")
    _refuse_twice(idx, "byte offset", offsets[by_offset])
    beyond = np.flatnonzero(offsets + PART_HEAD.size > rec_bytes)
    if len(beyond):
        first = int(beyond[np.argmin(offsets[beyond])])
        raise DatasetError(
            f"{idx} puts {len(beyond)} of {len(keys)} records beyond the end of the .rec, which has {rec_bytes} bytes: "
            f"the first is record {keys[first]} at byte {offsets[first]}. The .rec is cut short, or the .idx belongs "
            f"to another one. {HOW_TO_SCAN}"
        )
    return RecordPlaces(keys=keys, offsets=offsets, room=_room(offsets, by_offset, rec_bytes))


def scan_records(rec: Path, rec_bytes: int, read: Callable[[int, int], bytes]) -> RecordPlaces:
    """Go through a .rec file from its beginning to its end, record by record.

    The key of a record is the first id of its content where these are all different, as insightface and MXNet's im2rec
    write them; otherwise the number of the record, counted from 0.

    Args:
        rec: The file, for messages.
        rec_bytes: Its size, in bytes.
        read: Gives bytes of the file: how many, and from where; fewer only at its end.

    Returns:
        Where its records begin; they fill the file without a gap.

    Raises:
        DatasetError: It holds no record, or something else stands where a record should begin, or it is cut short.
    """
    offsets, ids = array("q"), array("Q")
    block, block_start, at = b"", 0, 0
    is_inside = False
    while at < rec_bytes:
        if at + _WHOLE_HEAD.size > block_start + len(block):
            block, block_start = read(_BLOCK_BYTES, at), at
        head = block[at - block_start : at - block_start + _WHOLE_HEAD.size]
        magic, word = PART_HEAD.unpack_from(head.ljust(PART_HEAD.size, b"\0"))
        kind, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
        where = f"{rec}, record number {len(offsets) - is_inside} (counted from 0), byte {at}"
        if len(head) >= PART_HEAD.size and (magic != MAGIC or kind > LAST or is_inside != (kind in (MIDDLE, LAST))):
            raise DatasetError(
                f"{where}: no part of a record begins here (found {head[:8].hex(' ')}): it is no RecordIO file, or "
                "damaged from here on. Get it anew."
            )
        if len(head) < PART_HEAD.size or at + PART_HEAD.size + length > rec_bytes:
            raise DatasetError(f"{where}: the file ends within it, at byte {rec_bytes}; it is cut short. Get it anew.")
        if not is_inside:
            offsets.append(at)
            has_id = len(head) == _WHOLE_HEAD.size and length >= IMAGE_HEAD.size
            ids.append(_WHOLE_HEAD.unpack(head)[4] if has_id else _NO_ID)
        is_inside = kind in (FIRST, MIDDLE)
        at += PART_HEAD.size + padded(length)
    if is_inside or not offsets:
        what = "it ends within a record" if offsets else "it is empty"
        raise DatasetError(f"{rec}: {what}; it is cut short. Get it anew.")
    starts = np.frombuffer(offsets, dtype=np.int64)
    found = np.frombuffer(ids, dtype=np.uint64)
    are_keys = found.max() < _MAX_ID and len(np.unique(found)) == len(found)
    keys = found.astype(np.int64) if are_keys else np.arange(len(starts), dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    room = _room(starts, np.arange(len(starts)), rec_bytes)
    return RecordPlaces(keys=keys[order], offsets=starts[order], room=room[order], are_counted=not are_keys)


def _room(offsets: NDArray[np.int64], by_offset: NDArray[np.int64], rec_bytes: int) -> NDArray[np.int64]:
    room = np.empty_like(offsets)
    room[by_offset] = np.diff(offsets[by_offset], append=rec_bytes)
    return room


def _blocks_of_lines(idx: Path) -> Iterator[bytes]:
    try:
        with idx.open("rb") as handle:
            rest = b""
            while block := handle.read(_BLOCK_BYTES):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if len(rest) > _BLOCK_BYTES:
                    raise DatasetError(f"{idx} has a line of more than {_BLOCK_BYTES} bytes. {HOW_TO_SCAN}")
                if newline:
                    yield whole + newline
            if rest:
                yield rest + b"\n"
    except OSError as error:
        raise DatasetError(f"{idx} cannot be read ({error.strerror}). Check the path and its permissions.") from error


def _numbers(idx: Path, block: bytes, n_before: int) -> NDArray[np.int64]:
    """Return the two numbers of each line (m, 2); all lines of the block end in a newline."""
    text = block.replace(b"\r\n", b"\n")
    values = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero((values == ord("\t")) | (values == ord("\n")))
    widths = np.diff(ends, prepend=-1) - 1
    separators = values[ends]
    is_plain = not text.translate(None, b"0123456789\t\n")
    is_paired = len(ends) % 2 == 0 and (separators[::2] == ord("\t")).all() and (separators[1::2] == ord("\n")).all()
    if not is_plain or not is_paired or (widths < 1).any() or (widths > _MAX_DIGITS).any():
        lines = text.split(b"\n")[:-1]
        wrong = next(number for number, line in enumerate(lines) if not _is_entry(line))
        raise DatasetError(
            f"{idx}, line {n_before + wrong + 1}: found {lines[wrong][:60]!r}, expected a record's key and its byte "
            f"offset, two numbers with a tab between. {HOW_TO_SCAN}"
        )
    return np.fromstring(text, dtype=np.int64, sep=" ").reshape(-1, 2)


def _is_entry(line: bytes) -> bool:
    parts = line.split(b"\t")
    return len(parts) == 2 and all(part.isdigit() and len(part) <= _MAX_DIGITS for part in parts)


def _refuse_twice(idx: Path, what: str, values: NDArray[np.int64]) -> None:
    twice = np.flatnonzero(values[1:] == values[:-1])
    if len(twice):
        raise DatasetError(f"{idx} has the {what} {values[twice[0]]} more than once. {HOW_TO_SCAN}")
