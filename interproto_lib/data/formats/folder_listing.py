"""What lies in a folder and below it: images in natural order, other files counted, links followed with care."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interproto_lib.data.collections import text_column
from interproto_lib.data.formats.age_labels import composed
from interproto_lib.data.formats.image_files import IMAGE_ENDINGS
from interproto_lib.data.tables import CONTROL_CHARACTERS
from interproto_lib.errors import DatasetError, DatasetNotFoundError

_MAX_NAMED = 10
_MAX_WAYS = 8
_UNREAD_PICTURES = (
    *(".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".svg", ".psd", ".tga", ".ico", ".exr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"),
)
_CHUNK_ROWS = 2**16
_UNUSABLE = re.compile(CONTROL_CHARACTERS)


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderListing:
    """The images below a folder.

    Attributes:
        root: The folder.
        paths: The images (n,), str, relative to `root`, forward slashes: natural order, a folder's own before those of
            its subfolders.
        parents: The folder of each image (n,), str, relative to `root`; empty where it lies in `root` itself.
        folders: Names of the folders directly below `root`, in natural order.
        n_others: How many files are no images by their ending.
        other_examples: The first ten of them.
        n_unread_pictures: How many of them are pictures all the same, of formats that are not read.
        unread_picture_examples: The first ten of these.
        fingerprint: Path, size and time of the last change of each image, see `FileFingerprint`.
    """

    root: Path
    paths: pd.Series
    parents: pd.Series
    folders: list[str]
    n_others: int
    other_examples: tuple[str, ...]
    fingerprint: str
    n_unread_pictures: int = 0
    unread_picture_examples: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[int, tuple[str, ...]]:
        """How many files are no images, and the first ten of them."""
        return self.n_others, self.other_examples


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A folder to look into: where, its path below the root, and the real folders in which links led here."""

    folder: str
    below: str
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What lies in one folder: names and (size, time) of images, names of other files, folders to look into."""

    images: dict[str, tuple[int, int]]
    others: list[str]
    folders: list[_Place]


def list_folder(
    root: str | Path, *, follow_links: bool = False, progress: Callable[[int], None] | None = None
) -> FolderListing:
    """List the images below a folder, at any depth, without opening one.

    Images are known by their ending (see `IMAGE_ENDINGS`), in any case of letters. Hidden files and folders are left
    out. Links that stay inside the folder are followed; the folder itself may be a link. An image that is a link to
    nowhere is listed: reading it says so. Memory is about 45 bytes an image and the length of its path.

    Args:
        root: The folder.
        follow_links: Follow links that lead out of the folder too.
        progress: Called with the number of images listed so far, now and then.

    Returns:
        The images; none may be there.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: It is a file; a folder may not be looked into; a name is not UTF-8 or holds control characters or
            a backslash; two folders side by side differ only in how Unicode composes their letters; a link leads out of
            the folder, or back to a folder that holds it.
    """
    folder = Path(root)
    if not folder.exists():
        raise DatasetNotFoundError(
            f"There is no folder {folder}. It should hold one subfolder per person, with that person's images in it."
        )
    if not folder.is_dir():
        raise DatasetError(f"{folder} is a file; expected a folder with one subfolder per person.")
    walk = _Walk(folder, follow_links)
    images = _Images()
    folders: list[str] = []
    n_others = n_unread = 0
    examples: list[str] = []
    unread_examples: list[str] = []
    places = [_Place(folder=str(folder), below="")]
    while places:
        place = places.pop()
        found = walk.look_into(place)
        images.add(place.below, found.images)
        if progress is not None and images.n_since_flush == 0:
            progress(images.n_images)
        n_others += len(found.others)
        examples += [_joined(place.below, name) for name in found.others[: _MAX_NAMED - len(examples)]]
        unread = [name for name in found.others if name.lower().endswith(_UNREAD_PICTURES)]
        n_unread += len(unread)
        unread_examples += [_joined(place.below, name) for name in unread[: _MAX_NAMED - len(unread_examples)]]
        if not place.below:
            folders = [inner.below for inner in found.folders]
        places += reversed(found.folders)
    if progress is not None:
        progress(images.n_images)
    paths, parents = images.columns()
    return FolderListing(
        root=folder,
        paths=paths,
        parents=parents,
        folders=folders,
        n_others=n_others,
        other_examples=tuple(examples),
        n_unread_pictures=n_unread,
        unread_picture_examples=tuple(unread_examples),
        fingerprint=str(images.fingerprint),
    )


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return a key that sorts names as people do, numbers by their value: "s2" before "s10".

    Example:
        >>> sorted(["s10", "s2", "s1"], key=natural_key)
        ['s1', 's2', 's10']
    """
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if odd % 2 else part for odd, part in enumerate(parts)), name


class FileFingerprint:
    """Two SHA-256 with a colon between them: of path, size and time of the last change of files, and without the times.

    So it can be told whether files were only copied. Written as text, it is equal while nothing has changed.
    """

    def __init__(self) -> None:
        self._with_times = hashlib.sha256()
        self._without_times = hashlib.sha256()

    def add(self, path: str, size: int, modified_ns: int) -> None:
        """Take a file: its path below the source, its bytes, its last change in nanoseconds."""
        self._with_times.update(f"{path}\0{size}\0{modified_ns}\n".encode("utf-8", "surrogateescape"))
        self._without_times.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))

    def __str__(self) -> str:
        return f"{self._with_times.hexdigest()}:{self._without_times.hexdigest()}"


class _Images:
    """Images as they come, kept as Arrow arrays of some ten thousand rows each."""

    def __init__(self) -> None:
        self.fingerprint = FileFingerprint()
        self.n_images = 0
        self.n_since_flush = 0
        self._paths: list[str] = []
        self._parents: list[str] = []
        self._chunks: list[tuple[Any, Any]] = []

    def add(self, below: str, images: dict[str, tuple[int, int]]) -> None:
        """Take the images of one folder."""
        for name, (size, modified_ns) in images.items():
            path = _joined(below, name)
            self.fingerprint.add(path, size, modified_ns)
            self._paths.append(path)
        self._parents += [below] * len(images)
        self.n_images += len(images)
        self.n_since_flush = len(self._paths)
        if self.n_since_flush >= _CHUNK_ROWS:
            self._flush()

    def columns(self) -> tuple[pd.Series, pd.Series]:
        """Paths and parents of all."""
        import pyarrow as pa

        self._flush()
        paths, parents = zip(*self._chunks, strict=True)
        self._chunks = []
        return text_column(pa.chunked_array(list(paths))), text_column(pa.chunked_array(list(parents)))

    def _flush(self) -> None:
        import pyarrow as pa

        chunk = (pa.array(self._paths, type=pa.large_string()), pa.array(self._parents, type=pa.large_string()))
        self._chunks.append(chunk)
        self._paths, self._parents, self.n_since_flush = [], [], 0


class _Walk:
    """Looks into the folders below a root, one at a time."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._follow_links = follow_links
        self._n_ways: Counter[str] = Counter()

    def look_into(self, place: _Place) -> _Found:
        """Return what lies in a folder, hidden entries left out, in natural order."""
        try:
            with os.scandir(place.folder) as scan:
                entries = {entry.name: entry for entry in scan if not entry.name.startswith(".")}
        except OSError as error:
            raise DatasetError(f"Cannot look into {place.folder}: {error.strerror}. Check its permissions.") from error
        for name in entries:
            _check_name(name, place.folder)
        found = _Found(images={}, others=[], folders=[])
        for name in sorted(entries, key=natural_key):
            entry = entries[name]
            target = self._target(entry, place) if entry.is_symlink() else None
            if self._is_folder(entry):
                holders = place.holders if target is None else self._follow(entry, place, target)
                inner = _Place(folder=entry.path, below=_joined(place.below, name), holders=holders)
                found.folders.append(inner)
            elif name.lower().endswith(IMAGE_ENDINGS):
                found.images[name] = _size_and_time(entry)
            else:
                found.others.append(name)
        _refuse_twins(place.folder, [Path(inner.folder).name for inner in found.folders])
        return found

    def _target(self, entry: os.DirEntry[str], place: _Place) -> str:
        """The real path that a link leads to, refused where that is outside of the root."""
        target = os.path.realpath(entry.path)
        if not self._follow_links and not _lies_in(target, self._real_root):
            raise DatasetError(
                f"{_joined(place.below, entry.name)} in {self._root} is a link that leads out of it, to {target}. Put "
                "the files themselves there, or allow such links with follow_links=True (on the command line: "
                "--follow-links)."
            )
        return target

    def _follow(self, entry: os.DirEntry[str], place: _Place, target: str) -> tuple[str, ...]:
        """Check that a link to a folder makes no circle; returns the real folders that hold links on the way."""
        holders = (*place.holders, os.path.realpath(place.folder))
        if any(_lies_in(holder, target) for holder in holders):
            raise DatasetError(
                f"{_joined(place.below, entry.name)} in {self._root} is a link that leads back to {target}, in which "
                "it lies itself: a circle. Remove the link."
            )
        self._n_ways[target] += 1
        if self._n_ways[target] > _MAX_WAYS:
            raise DatasetError(
                f"More than {_MAX_WAYS} links in {self._root} lead to {target}, the last is "
                f"{_joined(place.below, entry.name)}: its images would count as often. Remove these links."
            )
        return holders

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise DatasetError(f"{entry.path} is a link that leads to itself: a circle. Remove it.") from error
            return False


def _check_name(name: str, folder: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DatasetError(f"A name in {folder} is not UTF-8: {os.fsencode(name)!r}. Rename it.") from error
    if _UNUSABLE.search(name):
        raise DatasetError(f"The name {name!r} in {folder} contains a control character. Rename it.")
    if "\\" in name or not name.strip():
        what = "contains a backslash" if "\\" in name else "is blank"
        raise DatasetError(f"The name {name!r} in {folder} {what}. Rename it.")


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere, or no permission: whoever reads the image says so
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _refuse_twins(folder: str, names: list[str]) -> None:
    """Refuse two folders whose names look the same and differ only in how Unicode composes accents."""
    spellings: dict[str, str] = {}
    for name in names:
        if name.isascii():
            continue
        other = spellings.setdefault(composed(name), name)
        if other is not name:
            raise DatasetError(
                f"{folder} has two folders that read {name!r} and differ only in how their letters are composed in "
                f"Unicode ({other.encode('utf-8')!r} and {name.encode('utf-8')!r}). Merge them into one."
            )


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _joined(below: str, name: str) -> str:
    return f"{below}/{name}" if below else name
