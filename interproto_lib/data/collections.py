"""Collections: what lies at a source, image by image, before anything is decoded."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from interproto_lib.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_IMAGE_BYTES = 2**28
"""Largest image file that is read, 256 MiB: far above any photograph, far below what fills a memory."""

_COLUMNS = ("path", "identity", "age_years")
_NOT_BELOW = re.compile(r"^/|(?:^|/)\.\.(?:/|$)|\0")


class EncodedImages(Protocol):
    """The encoded images of a collection, read one at a time.

    An implementation can be pickled, opens its files when first read, and may be read by many threads at once.
    """

    def read(self, row: int) -> bytes:
        """Return the encoded bytes of the image of a row.

        Raises:
            DatasetError: It cannot be read; the message is the reason, without a file's name.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCollection:
    """A manifest without splits, and the encoded images it speaks of: nothing is decoded.

    Attributes:
        name: What to call it, also the `source` in the manifest.
        shape: How it lies on the disk, a key of `interproto_lib.data.shapes.SHAPES`.
        place: Its folder, or its .rec file.
        table: One row an image (n), with a plain index: `path` (str, unique, forward slashes), `identity` (str),
            `age_years` (float64, NaN where unknown); further columns are kept. Texts are held by Arrow, so that 5.8
            million rows take less than half a GB (see `text_column`).
        encoded: The images; row i is that of row i of `table`.
        fingerprint: Two SHA-256 of path, size and time of the last change of each image, or of the files that hold
            them, the second without the times (see `FileFingerprint`): equal while nothing has changed.
        others: How many files there are no images of it, and the first ten of them.
        notes: What a reader of the collection must know.

    Raises:
        DatasetError: The table has other columns, or none of its rows.
    """

    name: str
    shape: str
    place: Path
    table: pd.DataFrame
    encoded: EncodedImages
    fingerprint: str
    others: tuple[int, tuple[str, ...]] = (0, ())
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise DatasetError(f"The collection at {self.place} needs a name.")
        missing = [column for column in _COLUMNS if column not in self.table.columns]
        if missing:
            raise DatasetError(f"The table of {self.name!r} has no column {', '.join(missing)}.")
        if len(self.table) == 0:
            raise DatasetError(f"{self.place} holds no images of {self.name!r}.")
        if self.table["age_years"].dtype != np.float64 or not isinstance(self.table.index, pd.RangeIndex):
            raise DatasetError(f"The table of {self.name!r} needs float64 ages and a plain index, 0 to n - 1.")

    def __len__(self) -> int:
        return len(self.table)


class FolderImages:
    """The image files below a folder.

    Args:
        root: The folder.
        paths: The images (n,), relative to `root`, forward slashes.
        max_bytes: Larger files are refused unread.
    """

    def __init__(self, root: str | Path, paths: pd.Series, *, max_bytes: int = MAX_IMAGE_BYTES) -> None:
        self._root = str(root)
        self._paths = paths
        self._max_bytes = max_bytes

    def read(self, row: int) -> bytes:
        """Return the bytes of the file of a row.

        Raises:
            DatasetError: The file is not there, may not be read, is empty, too large, no regular file, or lies outside
                of the folder; the message is the reason.
        """
        path = str(self._paths.iloc[row])
        if _NOT_BELOW.search(path):
            raise DatasetError("its path leads out of the folder")
        return read_file_bytes(os.path.join(self._root, path), max_bytes=self._max_bytes)  # noqa: PTH118 - speed


def read_file_bytes(file: str | Path, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """Read a regular file whole, and never wait for a pipe or a device.

    Args:
        file: The file; a link is followed.
        max_bytes: Larger files are refused unread.

    Returns:
        Its content, at least one byte.

    Raises:
        DatasetError: It is not there, may not be read, is empty, too large, or no regular file; the message is the
            reason, without the file's name.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read_open_file(handle, max_bytes)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise DatasetError("the file does not exist, or is a link to nowhere") from None
    except PermissionError:
        raise DatasetError("no permission to read it") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO:  # a socket
            raise DatasetError("not a file") from None
        raise DatasetError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _read_open_file(handle: int, max_bytes: int) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError("not a file")
    if status.st_size == 0:
        raise DatasetError("the file is empty (0 bytes)")
    if status.st_size > max_bytes:
        raise DatasetError(f"the file is too large: {status.st_size:,} bytes, at most {max_bytes:,} are read")
    pieces: list[bytes] = []
    n_read = 0
    while n_read < status.st_size and (piece := os.read(handle, status.st_size - n_read)):
        pieces.append(piece)
        n_read += len(piece)
    if n_read < status.st_size:
        raise DatasetError(f"cut short while it was read: {n_read:,} of {status.st_size:,} bytes")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def text_column(values: pa.Array | pa.ChunkedArray) -> pd.Series:
    """Make a column of text of an Arrow array, without a Python object for each cell.

    Args:
        values: Texts (n,), of Arrow's type string or large_string.

    Returns:
        The column (n,) of pandas' type str, held by Arrow in one piece.

    Example:
        >>> import pyarrow as pa
        >>> text_column(pa.chunked_array([["a/0.jpg"], ["a/1.jpg", "b/0.jpg"]])).tolist()
        ['a/0.jpg', 'a/1.jpg', 'b/0.jpg']
    """
    import pyarrow as pa

    whole = pa.chunked_array(values) if isinstance(values, pa.Array) else values
    whole = pa.chunked_array([whole.cast(pa.large_string()).combine_chunks()], type=pa.large_string())
    column: pd.Series = whole.to_pandas(types_mapper=lambda _: pd.StringDtype("pyarrow", na_value=np.nan))
    return column
