"""Landmarks of faces in a file of their own: a table with named columns, or lines of a path and ten numbers."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.alignment import LANDMARK_NAMES, face_likeness
from interproto_lib.data.collections import text_column
from interproto_lib.data.faces import Faces, faces_at
from interproto_lib.data.path_matching import match_paths
from interproto_lib.data.tables import SourceTable, read_table
from interproto_lib.errors import ManifestError

LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in LANDMARK_NAMES for axis in ("x", "y"))
"""The columns of a table of landmarks beside `path`: left_eye_x, left_eye_y, right_eye_x and so on."""

LANDMARKS_TEXT_ENDING = ".txt"
"""A file of this ending is taken for lines `path x1 y1 ... x5 y5`; others are CSV or Parquet."""

_MAX_COORDINATE = 1e6
_MAX_LINE_BYTES = 2**14
_N_NUMBERS = len(LANDMARK_COLUMNS)
_N_TYPICAL, _MAX_COMPARED = 10, 10_000
_MIN_TYPICAL_LIKENESS = 0.8
_BLOCK_ROWS = 100_000
_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkFile:
    """The landmarks of a file, by image.

    Attributes:
        where: The file.
        sha256: SHA-256 of its bytes.
        paths: The images it speaks of (m,), each once, in the order of the file.
        starts: The faces of image i are `starts[i]` to `starts[i + 1]` - 1 (m + 1,).
        landmarks: Five landmarks a face (n, 5, 2) as (x, y) in pixels of the upright image, float32, which is exact to
            1/2000 of a pixel up to 8,192 pixels.
        scores: How sure of each face (n,), NaN where the file does not say; None: it has no scores.
    """

    where: str
    sha256: str
    paths: pd.Series
    starts: NDArray[np.int64]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.paths)

    def find(self, paths: pd.Series) -> NDArray[np.int64]:
        """Look up images; names match whatever their zeros and composed letters (see `match_paths`).

        Args:
            paths: Paths of images (k,), relative to the same folder as those of the file.

        Returns:
            Which of the file's images each is (k,); -1: the file does not name it.

        Raises:
            ManifestError: Two paths of the file name one image, or one could mean two; or all name other images.
        """
        table = SourceTable(frame=pd.DataFrame({"path": self.paths}), where=self.where)
        images, _ = match_paths(table, paths)
        named = np.flatnonzero(images >= 0)
        if len(named) == 0:
            raise ManifestError(
                f"{self.where} names none of the {len(paths)} images. It has paths such as {_some(self.paths)}; the "
                f"images are {_some(paths)}. Write the paths as those of the images."
            )
        found = np.full(len(paths), -1, dtype=np.int64)
        found[images[named]] = named
        twice = named[found[images[named]] != named]
        if len(twice):
            one, other = self.paths.iloc[twice[0]], self.paths.iloc[found[images[twice[0]]]]
            raise ManifestError(f"{self.where} names one image twice, as {one!r} and as {other!r}. Keep one of them.")
        return found

    def faces(self, image: int) -> Faces:
        """Return the faces of one of the file's images, with boxes around their landmarks (see `faces_at`)."""
        rows = slice(self.starts[image], self.starts[image + 1])
        landmarks = self.landmarks[rows]
        scores = np.full(len(landmarks), np.nan) if self.scores is None else self.scores[rows]
        return faces_at(landmarks, scores)


def read_landmarks(path: str | Path) -> LandmarkFile:
    """Read the landmarks of faces, one row a face.

    A CSV or Parquet file has the column `path` and, for each of `LANDMARK_NAMES`, its x and y (`LANDMARK_COLUMNS`):
    the eye, nose and corner of the mouth on the left of the image come before those on the right, as seen. It may have
    `score`, and `face`, a whole number, where images have several faces. Other columns are not read. A text file,
    ending in .txt, has lines `path x1 y1 ... x5 y5` in the same order, separated by spaces or tabs; an image with
    several faces has several lines. A path may hold spaces.

    Coordinates are pixels of the upright image, (0, 0) at the centre of its first pixel.

    Args:
        path: The file, UTF-8.

    Returns:
        The landmarks by image.

    Raises:
        ManifestError: There is no such file or it is malformed; the message names row, line and column. Among ten faces
            and more, most are not like faces: the points are in another order, or left and right are swapped.
    """
    file = Path(path)
    if file.suffix.lower() == LANDMARKS_TEXT_ENDING:
        table, landmarks = _read_text(file)
        number = np.arange(len(landmarks), dtype=np.float64)
        scores = None
    else:
        table = read_table(file, text_columns=("path",))
        table.require_columns(("path", *LANDMARK_COLUMNS))
        table.check_text("path")
        landmarks = np.empty((len(table.frame), _N_NUMBERS), dtype=np.float32)
        for place, column in enumerate(LANDMARK_COLUMNS):
            landmarks[:, place] = _numbers(table, column, limit=_MAX_COORDINATE)
        landmarks = landmarks.reshape(-1, 5, 2)
        scores = _numbers(table, "score", may_miss=True).astype(np.float32) if "score" in table.frame else None
        number = _face_numbers(table)
    codes, paths = pd.factorize(table.frame["path"])
    first = np.unique(codes, return_index=True)[1]
    _FirstRows(
        frame=table.frame[["path"]].iloc[first], where=table.where, lines=table.lines, table=table, rows=first
    ).check_paths()
    order = np.lexsort((number, codes))
    _refuse_repeated(table, codes, number if "face" in table.frame else None, landmarks, order)
    _refuse_other_orders(table.where, landmarks)
    return LandmarkFile(
        where=str(file),
        sha256=_hash(file),
        paths=pd.Series(paths),
        starts=np.searchsorted(codes[order], np.arange(len(paths) + 1)),
        landmarks=landmarks[order],
        scores=None if scores is None else scores[order],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _FirstRows(SourceTable):
    """Some rows of a table, each of which still knows its place in the whole."""

    table: SourceTable
    rows: NDArray[np.int64]

    def place(self, row: int, column: str | None = None) -> str:
        return self.table.place(int(self.rows[row]), column)


def _numbers(table: SourceTable, column: str, *, limit: float = np.inf, may_miss: bool = False) -> NDArray[np.float64]:
    values = table.frame[column]
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_complex_dtype(values):
        raise ManifestError(f"{table.where}, column {column}: found {values.dtype}, expected numbers.")
    if not pd.api.types.is_numeric_dtype(values):
        text = values.map(lambda value: value if isinstance(value, str) else None)
        filled = text.notna() & (text != "")
        numbers = pd.to_numeric(text.where(filled), errors="coerce")
        wrong = (text.isna() & values.notna()) | (filled & numbers.isna())
        table.refuse(wrong.to_numpy(dtype=bool), column, lambda value: f"{value!r:.80} is not a number.")
        values = numbers
    found: NDArray[np.float64] = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if not may_miss:
        table.refuse(
            np.isnan(found),
            column,
            lambda value: "there is no number. Leave out the row of an image whose landmarks are unknown.",
        )
    table.refuse(np.isinf(found), column, lambda value: f"{value} is infinite.")
    table.refuse(np.abs(found) > limit, column, lambda value: f"{value} is no place in an image in pixels.")
    return found


def _face_numbers(table: SourceTable) -> NDArray[np.float64]:
    if "face" not in table.frame:
        return np.arange(len(table.frame), dtype=np.float64)
    numbers = _numbers(table, "face")
    table.refuse(numbers != np.floor(numbers), "face", lambda value: f"{value} is no whole number.")
    return numbers


def _refuse_repeated(
    table: SourceTable,
    codes: NDArray[np.int64],
    number: NDArray[np.float64] | None,
    landmarks: NDArray[np.float32],
    order: NDArray[np.int64],
) -> None:
    """Refuse a face that is there twice: by its number, or, in lines without numbers, by its landmarks."""
    again = np.flatnonzero(codes[order[:-1]] == codes[order[1:]])
    before, after = order[again], order[again + 1]
    is_text = table.where.lower().endswith(LANDMARKS_TEXT_ENDING)
    if number is not None:
        is_same = number[before] == number[after]
        advice = "Give each face of an image a number of its own."
    elif is_text:
        is_same = (landmarks[before] == landmarks[after]).all(axis=(1, 2))
        advice = "Keep one line a face."
    else:
        is_same = np.ones(len(again), dtype=bool)
        advice = "Keep one row an image, or number its faces in a column `face`."
    if is_same.any():
        second = np.flatnonzero(is_same)[0]
        row, other = int(after[second]), int(before[second])
        line = "" if table.lines is None else f" (line {table.lines[other]})"
        path = table.frame["path"].iloc[row]
        raise ManifestError(f"{table.place(row, 'path')}: {path!r} is already in row {other + 1}{line}. {advice}")


def _refuse_other_orders(where: str, landmarks: NDArray[np.float32]) -> None:
    if len(landmarks) < _N_TYPICAL:
        return
    landmarks = landmarks[:: len(landmarks) // _MAX_COMPARED + 1]
    typical = _typical_likeness(landmarks)
    if typical >= _MIN_TYPICAL_LIKENESS:
        return
    swapped = _typical_likeness(landmarks[:, [1, 0, 2, 4, 3]])
    raise ManifestError(
        f"{where}: most landmarks do not form a face (typical likeness {typical:.2f}, where faces have 0.9 and more). "
        + (
            "Left and right are swapped: left is the left of the image, which is the right of the person."
            if swapped >= _MIN_TYPICAL_LIKENESS
            else f"Expected x and y of {', '.join(LANDMARK_NAMES)}, in this order, in pixels."
        )
    )


def _typical_likeness(landmarks: NDArray[np.float32]) -> float:
    return float(np.median(np.nan_to_num(face_likeness(landmarks), nan=0.0)))


def _read_text(file: Path) -> tuple[SourceTable, NDArray[np.float32]]:
    if not file.is_file():
        raise ManifestError(f"There is no file of landmarks {file}. Check the path.")
    import pyarrow as pa

    blocks: list[pa.Array] = []
    paths: list[str] = []
    lines, numbers = array("q"), array("f")
    for number, text in _lines(file):
        parts = text.rsplit(maxsplit=_N_NUMBERS)
        values = parts[1:]
        try:
            found = [float(value) for value in values]
        except ValueError:
            found = []
        if len(found) != _N_NUMBERS or not _is_plain("".join(values)):
            raise ManifestError(
                f"{file}, line {number}: found {text:.200}; expected `path x1 y1 ... x5 y5`, ten numbers after the "
                "path: x and y in pixels of left eye, right eye, nose, left and right corner of the mouth. A table "
                "with a header is read from .csv."
            )
        if max(map(abs, found)) > _MAX_COORDINATE:
            raise ManifestError(f"{file}, line {number}: {max(map(abs, found)):g} is no place in an image in pixels.")
        paths.append(parts[0])
        numbers.extend(found)
        lines.append(number)
        if len(paths) == _BLOCK_ROWS:
            blocks.append(pa.array(paths, type=pa.large_string()))
            paths = []
    if not lines:
        raise ManifestError(f"{file} is empty; expected one line `path x1 y1 ... x5 y5` for each face.")
    blocks.append(pa.array(paths, type=pa.large_string()))
    frame = pd.DataFrame({"path": text_column(pa.chunked_array(blocks))})
    table = SourceTable(frame=frame, where=str(file), lines=np.asarray(lines, dtype=np.int64))
    table.check_text("path")
    return table, np.asarray(numbers, dtype=np.float32).reshape(-1, 5, 2)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Give the lines that are not blank, with their numbers."""
    with file.open("rb") as handle:
        number = 0
        while content := handle.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(content) > _MAX_LINE_BYTES:
                raise ManifestError(f"{file}, line {number}: longer than {_MAX_LINE_BYTES} bytes. Is it a text file?")
            try:
                text = content.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ManifestError(f"{file}, line {number}: the text is not UTF-8 ({error.reason}).") from error
            if text.strip():
                yield number, text


def _is_plain(numbers: str) -> bool:
    """Tell whether what Python reads as numbers is written with digits, signs, points and exponents alone."""
    return not set(numbers) - set("0123456789+-.eE")


def _some(paths: pd.Series) -> str:
    return ", ".join(repr(path) for path in paths.iloc[:_MAX_NAMED])


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
