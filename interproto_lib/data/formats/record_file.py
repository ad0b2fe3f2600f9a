"""Reading MXNet's RecordIO files (.rec, .idx) of labelled images, without MXNet and without holding the file."""

from __future__ import annotations

import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.formats.record_index import (
    FIRST,
    HOW_TO_SCAN,
    IMAGE_HEAD,
    LAST,
    LENGTH_BITS,
    MAGIC,
    PART_HEAD,
    WHOLE,
    RecordPlaces,
    padded,
    read_index,
    scan_records,
)
from interproto_lib.errors import DatasetError, DatasetNotFoundError

MAX_RECORD_BYTES = 2**26
"""Largest record that is read or written, 64 MiB: far above any encoded face."""

_MAGIC_BYTES = MAGIC.to_bytes(4, "little")
_READ_AHEAD_BYTES = 2**14
_WINDOW_BYTES = 2**22
_HEAD = np.dtype(
    [
        ("magic", "<u4"),
        ("word", "<u4"),
        ("n_labels", "<u4"),
        ("label", "<f4"),
        ("id", "<u8"),
        ("id2", "<u8"),
        ("first", "<f4"),
        ("second", "<f4"),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One record.

    Attributes:
        key: Its key.
        labels: Its labels (k,) float32: one where it has a single number for a label.
        ids: The two numbers in its header; insightface writes the key and 0.
        content: What follows the labels, usually an encoded image; may be empty.
    """

    key: int
    labels: NDArray[np.float32]
    ids: tuple[int, int]
    content: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordHeads:
    """What the headers of all records say, by ascending key.

    Attributes:
        n_labels: How many labels each has (n,) uint32, at least 1.
        labels: The first two labels (n, 2) float32, NaN where there is none.
        n_bytes: Bytes of content after the labels (n,) uint32.
        n_unlisted_bytes: Bytes between and after the records that belong to none of them.
        n_bytes_behind: Those of them after the last record.
    """

    n_labels: NDArray[np.uint32]
    labels: NDArray[np.float32]
    n_bytes: NDArray[np.uint32]
    n_unlisted_bytes: int
    n_bytes_behind: int


class RecordFile:
    """A RecordIO file of labelled images: records by key, and the headers of all of them.

    Nothing but the place of each record (24 bytes) is held in memory. It can be pickled, opens its file when first
    read, and may be read by many threads at once.

    Args:
        rec: The .rec file.
        idx: Its .idx file; None takes the file beside it that has the same name but for the ending, and where there is
            none goes through the .rec once to find its records (see `scan_records`).

    Raises:
        DatasetNotFoundError: There is no such .rec or .idx.
        DatasetError: One of them is damaged, or they do not belong together; the message names file, record, byte and
            what to do.
    """

    def __init__(self, rec: str | Path, idx: str | Path | None = None) -> None:
        self.rec = Path(rec)
        beside = self.rec.with_suffix(".idx")
        self.idx = Path(idx) if idx is not None else beside if beside.exists() else None
        status = _status(self.rec)
        self._size, self._changed_ns = status.st_size, status.st_mtime_ns
        self._lock = threading.Lock()
        self._handle: int | None = None
        if self.idx is not None:
            _status(self.idx)
            self._places: RecordPlaces = read_index(self.idx, self._size)
        else:
            self._places = scan_records(self.rec, self._size, self._read)

    @property
    def keys(self) -> NDArray[np.int64]:
        """The keys of the records (n,), ascending."""
        return self._places.keys

    @property
    def keys_are_counted(self) -> bool:
        """Whether keys are the numbers of the records, from 0: there is no .idx, and no ids name them."""
        return self._places.are_counted

    def __len__(self) -> int:
        return len(self._places.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_handle")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._handle = None

    def read(self, key: int) -> Record:
        """Read the record of a key.

        Args:
            key: One of `keys`.

        Returns:
            The record.

        Raises:
            DatasetError: There is no such key, or the record is damaged; the message names file, record and byte.
        """
        position = int(np.searchsorted(self._places.keys, key))
        if position == len(self) or self._places.keys[position] != key:
            found = f"{len(self)} records, keys {self._places.keys[0]} to {self._places.keys[-1]}"
            raise DatasetError(f"{self.idx or self.rec} has no record {key}: it lists {found}.")
        return self.read_at(position)

    def read_at(self, position: int) -> Record:
        """Read the record at a position of `keys`; as `read`."""
        return self._record(position)[0]

    def heads(self, *, progress: Callable[[int, int], None] | None = None) -> RecordHeads:
        """Read the headers of all records, in one pass through the file.

        Args:
            progress: Called with the number of records read and the number of all.

        Returns:
            What they say, by ascending key.

        Raises:
            DatasetError: A record is damaged; the message names file, record and byte.
        """
        n_labels = np.zeros(len(self), dtype=np.uint32)
        labels = np.full((len(self), 2), np.nan, dtype=np.float32)
        n_bytes = np.zeros(len(self), dtype=np.uint32)
        n_done, n_unlisted, n_behind = 0, int(self._places.offsets.min()), 0
        for positions, heads in self._windows():
            room = self._places.room[positions]
            kind = heads["word"] >> LENGTH_BITS
            length = (heads["word"] & (1 << LENGTH_BITS) - 1).astype(np.int64)
            count = heads["n_labels"].astype(np.int64)
            content = length - IMAGE_HEAD.size - 4 * count
            plain = (heads["magic"] == MAGIC) & (kind == WHOLE) & (length <= room - PART_HEAD.size) & (content >= 0)
            n_labels[positions] = np.maximum(1, count)
            labels[positions, 0] = np.where(count == 0, heads["label"], heads["first"])
            labels[positions, 1] = np.where(count > 1, heads["second"], np.nan)
            n_bytes[positions] = np.maximum(0, content)
            taken = PART_HEAD.size + (length + 3) // 4 * 4
            for row in np.flatnonzero(~plain):  # a split record; or a damaged one: then this says what is wrong
                record, taken[row] = self._record(int(positions[row]))
                n_labels[positions[row]] = len(record.labels)
                labels[positions[row]] = [*record.labels[:2], np.nan][:2]
                n_bytes[positions[row]] = len(record.content)
            unlisted = np.maximum(0, room - taken)
            n_unlisted += int(unlisted.sum())
            n_behind = int(unlisted[-1])
            n_done += len(positions)
            if progress is not None:
                progress(n_done, len(self))
        return RecordHeads(
            n_labels=n_labels, labels=labels, n_bytes=n_bytes, n_unlisted_bytes=n_unlisted, n_bytes_behind=n_behind
        )

    def place(self, position: int) -> str:
        """Name the record at a position of `keys` in a message: file, key and byte."""
        return f"{self.rec}, record {self._places.keys[position]} at byte {self._places.offsets[position]}"

    def _windows(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Go through the file: positions of some records that lie together, and their first 40 bytes."""
        order = np.argsort(self._places.offsets, kind="stable")
        offsets = self._places.offsets[order]
        first = 0
        while first < len(order):
            start = int(offsets[first])
            end = max(first + 1, int(np.searchsorted(offsets, start + _WINDOW_BYTES)))
            content = self._read(int(offsets[end - 1]) + _HEAD.itemsize - start, start)
            window = np.frombuffer(content + b"\0" * _HEAD.itemsize, dtype=np.uint8)
            heads = np.lib.stride_tricks.sliding_window_view(window, _HEAD.itemsize)[offsets[first:end] - start]
            yield order[first:end], heads.view(_HEAD)[:, 0]
            first = end

    def _record(self, position: int) -> tuple[Record, int]:
        """Return the record at a position of `keys`, and how many bytes of the file it takes."""
        payload, taken = self._payload(position)
        if len(payload) < IMAGE_HEAD.size:
            raise self._damage(position, f"holds {len(payload)} bytes, fewer than the {IMAGE_HEAD.size} of a header")
        n_labels, label, *ids = IMAGE_HEAD.unpack_from(payload)
        start = IMAGE_HEAD.size + 4 * n_labels
        if start > len(payload):
            raise self._damage(position, f"announces {n_labels} labels, but holds {len(payload)} bytes")
        labels = np.array([label], dtype=np.float32)
        if n_labels:
            labels = np.frombuffer(payload, dtype="<f4", count=n_labels, offset=IMAGE_HEAD.size).astype(np.float32)
        key = int(self._places.keys[position])
        return Record(key=key, labels=labels, ids=(ids[0], ids[1]), content=payload[start:]), taken

    def _payload(self, position: int) -> tuple[bytes, int]:
        """Return what the record at a position holds, its parts joined, and how many bytes of the file it takes."""
        offset, room = int(self._places.offsets[position]), int(self._places.room[position])
        ahead = self._read(min(room, _READ_AHEAD_BYTES), offset)
        parts: list[bytes] = []
        at, total = 0, 0
        while True:
            head = ahead[at : at + PART_HEAD.size]
            if len(head) < PART_HEAD.size:
                head = self._read(min(PART_HEAD.size, room - at), offset + at)
            if len(head) < PART_HEAD.size:
                raise self._damage(position, f"ends within a part's header, {at + len(head)} bytes on")
            magic, word = PART_HEAD.unpack(head)
            kind, length = word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1
            if magic != MAGIC or kind > LAST or (kind in (WHOLE, FIRST)) != (not parts):
                raise self._damage(
                    position, f"has no part of it {at} bytes after its beginning (found {head.hex(' ')})"
                )
            at += PART_HEAD.size
            if length > room - at:
                raise self._damage(
                    position, f"announces {length} bytes, but the next record or the end is {room - at} on"
                )
            total += length + len(parts[:1]) * len(_MAGIC_BYTES)
            if total > MAX_RECORD_BYTES:
                raise self._damage(position, f"has more than {MAX_RECORD_BYTES} bytes, the most that is read")
            part = ahead[at : at + length]
            parts.append(part if len(part) == length else self._read(length, offset + at))
            if len(parts[-1]) < length:
                raise DatasetError(f"{self.place(position)}: the file became shorter while it was read. Read it again.")
            at += padded(length)
            if kind in (WHOLE, LAST):
                return _MAGIC_BYTES.join(parts), min(at, room)

    def _damage(self, position: int, what: str) -> DatasetError:
        advice = "The .rec is damaged. Get it anew."
        if self.idx is not None:
            advice = f"The .rec is damaged, or {self.idx} belongs to another one. {HOW_TO_SCAN}"
        return DatasetError(f"{self.place(position)}: the record {what}. {advice}")

    def _read(self, n_bytes: int, offset: int) -> bytes:
        """Return bytes of the file; fewer only at its end."""
        try:
            return os.pread(self._opened(), max(0, min(n_bytes, self._size - offset)), offset)
        except OSError as error:
            raise DatasetError(f"{self.rec}, byte {offset}: cannot be read ({error.strerror}).") from error

    def _opened(self) -> int:
        with self._lock:
            if self._handle is None:
                handle = os.open(self.rec, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                status = os.fstat(handle)
                if (status.st_size, status.st_mtime_ns) != (self._size, self._changed_ns):
                    os.close(handle)
                    raise DatasetError(f"{self.rec} has changed since its records were listed. Open it again.")
                weakref.finalize(self, os.close, handle)
                self._handle = handle
            return self._handle


def _status(file: Path) -> os.stat_result:
    try:
        status = file.stat()
    except OSError as error:
        raise DatasetNotFoundError(f"There is no file {file} ({error.strerror}). Check the path.") from error
    except ValueError as error:  # a NUL in the path
        raise DatasetNotFoundError(f"There is no file {str(file)!r} ({error}). Check the path.") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{file} is not a file.")
    return status
