"""The journal of a packing: how far it is, so that one that was stopped goes on, and never with other images."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from interproto_lib.errors import DatasetError

JOURNAL_VERSION = 1


class RejectedRow(NamedTuple):
    """An image that is not packed.

    Attributes:
        row: Its row in the collection.
        kind: The kind of problem, a few words.
        reason: What is wrong with this image.
    """

    row: int
    kind: str
    reason: str


@dataclass(kw_only=True)
class PackingState:
    """How far a packing is.

    Attributes:
        request: What is packed and how.
        n_done: Rows of the collection that are done.
        n_kept: Rows of them whose pixels are in the partial file.
        rejected: The others, in order.
        original_sizes: How many images had each size before they were brought to one, as far as it was told.
        refused: It came to its end and was refused for its rejected images.
        images_sha256: SHA-256 of the finished file of images; None before.
    """

    request: Mapping[str, Any]
    n_done: int = 0
    n_kept: int = 0
    rejected: list[RejectedRow] = field(default_factory=list)
    original_sizes: Counter[str] = field(default_factory=Counter)
    refused: bool = False
    images_sha256: str | None = None


class PackingJournal:
    """A file of JSON lines beside the images: the request first, then one line a block, each on the disk when written.

    A line that was cut off by the end of its writer does not count: the block it speaks of is packed again.

    Args:
        file: The journal; made when `begin` is called.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._n_bytes = 0

    def read(self) -> PackingState | None:
        """Read how far the packing is.

        Returns:
            The state; None when there is no journal, or nothing whole in it.

        Raises:
            DatasetError: A line that is not the last is damaged, or another version wrote the journal.
        """
        if not self._file.is_file():
            return None
        state: PackingState | None = None
        with self._file.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    state = _next_state(state, json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise DatasetError(
                        f"{self._file}, line {number}, is damaged ({type(error).__name__}: {error}). Remove "
                        f"{self._file.parent} to begin the packing anew."
                    ) from error
                self._n_bytes += len(line)
        return state

    def begin(self, request: Mapping[str, Any]) -> PackingState:
        """Start a new journal in the place of an older one."""
        self._n_bytes = 0
        self._append({"journal": JOURNAL_VERSION, "request": dict(request)})
        sync_folder(self._file.parent)
        return PackingState(request=request)

    def add_block(
        self,
        state: PackingState,
        *,
        n_rows: int,
        rejected: Sequence[RejectedRow],
        original_sizes: Mapping[str, int],
    ) -> None:
        """Note that a block is on the disk, and count it in `state`."""
        entry: dict[str, Any] = {"rows": n_rows, "rejected": rejected, "sizes": original_sizes}
        self._append(entry)
        _next_state(state, entry)

    def add_refusal(self, state: PackingState) -> None:
        """Note that all rows are done, and that the packing was refused for its rejected images."""
        self._append({"refused": True})
        state.refused = True

    def add_hash(self, state: PackingState, images_sha256: str) -> None:
        """Note the hash of the finished file of images."""
        self._append({"images_sha256": images_sha256})
        state.images_sha256 = images_sha256

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        with self._file.open("r+b" if self._file.is_file() else "wb") as handle:
            handle.truncate(self._n_bytes)
            handle.seek(self._n_bytes)
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
        self._n_bytes += len(line)


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what is different between two requests.

    Args:
        before: The older request, as JSON gives it back.
        now: The newer one.

    Returns:
        A phrase, as in "image_size was 56, now 112; fit was 'pad', now 'crop'"; empty when nothing is. `root` plays no
        part in it.

    Example:
        >>> describe_difference({"image_size": 56, "settings": {"fit": "pad"}},
        ...                     {"image_size": 112, "settings": {"fit": "crop"}})
        "fit was 'pad', now 'crop'; image_size was 56, now 112"
    """
    told: list[str] = []
    for place, was, is_now in _differences(plain_json(before), plain_json(now)):
        if place == "fingerprint":
            told.append(fingerprint_difference(str(was), str(is_now)))
        elif place in _WHAT_CHANGED:
            told.append(_WHAT_CHANGED[place])
        else:
            told.append(f"{place} was {was!r}, now {is_now!r}")
    return "; ".join(sorted(told))


def plain_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """Give content as it comes back from a JSON file: tuples as lists, keys as text.

    Raises:
        ValueError, TypeError: It cannot be written as JSON.
    """
    plain: dict[str, Any] = json.loads(json.dumps(dict(content), ensure_ascii=False, allow_nan=False).encode("utf-8"))
    return plain


def sync_folder(folder: Path) -> None:
    """Bring the names of new files to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint_difference(before: str, now: str) -> str:
    """Say how the files of a source differ.

    Args:
        before: The older fingerprint of the collection; of a folder and of RecordIO, see `FileFingerprint`.
        now: The newer one.

    Returns:
        A phrase; empty where nothing has changed.
    """
    (before_all, _, before_sizes), (now_all, _, now_sizes) = before.partition(":"), now.partition(":")
    if before_all == now_all:
        return ""
    if before_sizes and before_sizes == now_sizes:
        return (
            "the files of the source have the same names and sizes, only times of change differ: a copy that did not "
            "keep them (cp -a and rsync -t do), or files written anew, which cannot be told apart"
        )
    return "the source was changed: its files were added, removed or written anew"


_WHAT_CHANGED = {
    "paths_sha256": "the images have other names, or another order",
    "table_sha256": "identities, ages, splits or other columns of the table are others",
}

_ONLY_RECORDED = ("root",)
"""Settings that decide nothing: whose images these are is told by names, sizes and times, not by where they lie."""


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in [*before, *(key for key in now if key not in before)]:
        if key in _ONLY_RECORDED:
            continue
        was, is_now = before.get(key), now.get(key)
        if key == "fingerprint" and not fingerprint_difference(str(was), str(is_now)):
            continue  # one of them may be of before there were two parts
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from _differences(was, is_now)
        elif was != is_now:
            yield key, was, is_now


def _next_state(state: PackingState | None, entry: Any) -> PackingState:
    if state is None:
        if entry["journal"] != JOURNAL_VERSION:
            raise ValueError(f"written as version {entry['journal']}, this library reads {JOURNAL_VERSION}")
        return PackingState(request=dict(entry["request"]))
    if "refused" in entry:
        state.refused = True
    elif "images_sha256" in entry:
        state.images_sha256 = str(entry["images_sha256"])
    else:
        n_rows = int(entry["rows"])
        rejected = [RejectedRow(int(row), str(kind), str(reason)) for row, kind, reason in entry["rejected"]]
        state.n_done += n_rows
        state.n_kept += n_rows - len(rejected)
        state.rejected += rejected
        state.original_sizes.update({str(size): int(count) for size, count in entry["sizes"].items()})
    return state
