"""Ages in a table of their own: a CSV or Parquet of paths and ages, or the list that MTLFace published."""

from __future__ import annotations

import functools
import unicodedata
import warnings
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.collections import text_column
from interproto_lib.data.tables import SourceTable, read_table
from interproto_lib.errors import ManifestError

UnmatchedAges = Literal["error", "drop"]

AGE_COLUMNS = ("path", "age_years")
AGE_LABELS_ENDING = ".txt"
"""A table of this ending is taken for a list of age labels; others are CSV or Parquet."""

_MAX_NAMED = 10
_MAX_LINE_BYTES = 2**16
_CHUNK_ROWS = 2**16
_MARK = b"\xef\xbb\xbf"  # a byte order mark


@dataclass(frozen=True, eq=False)
class AgeLabels(SourceTable):
    """A list of age labels.

    Attributes:
        dataset: The folder of the dataset, which was taken off all paths.
    """

    dataset: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageAges:
    """The ages of a folder's images, and how much of the table went into them.

    Attributes:
        age_years: One age an image (n,), NaN where the table has none.
        n_rows: Rows of the table.
        n_unmatched: How many of them match no image and were dropped.
    """

    age_years: NDArray[np.float64]
    n_rows: int
    n_unmatched: int


def read_age_labels(path: str | Path) -> pd.DataFrame:
    """Read a list of age labels as published with MTLFace, for CASIA-WebFace and MS1MV2.

    A line is `id path age gender`, separated by single spaces, without a header, as in
    `0 casia-webface/000000/00000001.jpg 26.0 1`. The first part of the path is the folder of the dataset, the same on
    every line; it is taken off, so that paths are relative to that folder, the root of the identity folders. Id and
    gender are not read.

    Args:
        path: The list, UTF-8, with or without a byte order mark, Unix or Windows ends of line.

    Returns:
        One row a line: `path` (str, unique, relative to the dataset's folder) and `age_years` (float64, 0 to 130).

    Raises:
        ManifestError: There is no such file, or a line is not of this form; the message names file and line.
    """
    table = _age_labels_table(Path(path))
    table.check_paths()
    return table.frame[list(AGE_COLUMNS)].assign(age_years=table.ages())


def ages_of_images(
    table_file: str | Path, paths: list[str], root: Path, *, unmatched: UnmatchedAges = "error"
) -> ImageAges:
    """Look up the age of every image of a folder; names match however their letters are composed in Unicode.

    Args:
        table_file: A .csv or .parquet with the columns `path` (relative to `root`) and `age_years`, or a list of age
            labels ending in .txt (see `read_age_labels`).
        paths: The images (n,), relative to `root`.
        root: The folder, for messages.
        unmatched: What to do with rows that match no image: "error" names them, "drop" leaves them out and warns.

    Returns:
        The ages (n,) and how many rows there were.

    Raises:
        ManifestError: The table is malformed, has rows that match no image, or none that match any.
    """
    table = age_table(Path(table_file))
    table.check_paths()
    values = table.ages()
    position = {composed(path): row for row, path in enumerate(paths)}
    rows = np.array([position.get(composed(path), -1) for path in table.frame["path"]], dtype=np.int64)
    matched = rows >= 0
    if not matched.all():
        _report_unmatched(table, matched, root, example=paths[0], unmatched=unmatched)
    doubled = [row for row, count in Counter(rows[matched].tolist()).items() if count > 1]
    if doubled:
        raise ManifestError(
            f"{table.where}, column path: {paths[doubled[0]]!r} is named by more than one row. Keep one row per image."
        )
    ages = np.full(len(paths), np.nan)
    ages[rows[matched]] = values[matched]
    return ImageAges(age_years=ages, n_rows=len(rows), n_unmatched=int((~matched).sum()))


def composed(text: str) -> str:
    """Return a name with its letters composed as Unicode recommends (NFC), to compare names written either way."""
    return unicodedata.normalize("NFC", text)


def _report_unmatched(
    table: SourceTable, matched: NDArray[np.bool_], root: Path, *, example: str, unmatched: UnmatchedAges
) -> None:
    rows = np.flatnonzero(~matched)
    named = ", ".join(f"{table.frame['path'].iloc[row]} (row {row + 1})" for row in rows[:_MAX_NAMED].tolist())
    more = f" and {len(rows) - _MAX_NAMED} more" if len(rows) > _MAX_NAMED else ""
    what = f"{table.where}, column path: {len(rows)} of {len(matched)} rows match no image in {root}: {named}{more}."
    if unmatched == "drop" and matched.any():
        warnings.warn(f"{what} They are left out.", stacklevel=4)
        return
    way_on = ", or leave these rows out with unmatched_ages='drop'" if matched.any() else ""
    raise ManifestError(f"{what} Paths are relative to that folder, such as {example!r}. Correct them{way_on}.")


def age_table(file: Path) -> SourceTable:
    """Read a table of ages as it stands: nothing is checked but that it can be read.

    Args:
        file: A .csv or .parquet with the columns `path` and `age_years`, or a list of age labels ending in .txt.

    Returns:
        `path` and `age_years`, not yet numbers where they were read from text; `AgeLabels` from a list, also with `id`.
        Held by Arrow, a list of 5.8 million lines takes half a GB.

    Raises:
        ManifestError: There is no such file, or it is malformed.
    """
    if file.suffix.lower() == AGE_LABELS_ENDING:
        return _age_labels_table(file)
    table = read_table(file, text_columns=AGE_COLUMNS)
    table.require_columns(AGE_COLUMNS)
    return table


def _age_labels_table(file: Path) -> AgeLabels:
    if not file.is_file():
        raise ManifestError(f"There is no list of age labels {file}. Check the path.")
    import pyarrow as pa

    chunks: list[tuple[pa.Array, ...]] = []
    rows: list[tuple[str, str, str]] = []
    lines = array("q")
    dataset = ""
    for number, folder, row in _age_label_lines(file):
        dataset = folder
        rows.append(row)
        lines.append(number)
        if len(rows) == _CHUNK_ROWS:
            chunks.append(tuple(pa.array(column) for column in zip(*rows, strict=True)))
            rows = []
    if rows:
        chunks.append(tuple(pa.array(column) for column in zip(*rows, strict=True)))
    if not chunks:
        raise ManifestError(f"{file} is empty; expected one line `id path age gender` for each image.")
    columns = {
        name: text_column(pa.chunked_array(list(pieces)))
        for name, pieces in zip(("path", "age_years", "id"), zip(*chunks, strict=True), strict=True)
    }
    found = pd.DataFrame(columns)
    return AgeLabels(frame=found, where=str(file), lines=np.asarray(lines, dtype=np.int64), dataset=dataset)


def _age_label_lines(file: Path) -> Iterator[tuple[int, str, tuple[str, str, str]]]:
    """Yield number, folder of the dataset, and path, age and id, of each line that is not blank."""
    dataset = ""
    with file.open("rb") as handle:
        contents = iter(functools.partial(handle.readline, _MAX_LINE_BYTES + 1), b"")
        for number, content in enumerate(contents, start=1):
            if len(content) > _MAX_LINE_BYTES:
                raise _bad_line(file, number, f"it is longer than {_MAX_LINE_BYTES} bytes. Is it a list of age labels?")
            try:
                text = (content.removeprefix(_MARK) if number == 1 else content).decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise _bad_line(file, number, f"the text is not UTF-8 ({error.reason}).") from error
            parts = text.split(" ")
            if len(parts) != 4:
                if not text.strip():
                    continue
                raise _bad_line(
                    file,
                    number,
                    f"found {text!r}; expected `id path age gender` with single spaces between them, as in "
                    "`0 casia-webface/000000/00000001.jpg 26.0 1`. A table with a header is read from .csv.",
                )
            folder, _, path = parts[1].partition("/")
            if path.count("/") != 1:
                raise _bad_line(file, number, f"the path {parts[1]!r} is not of the form <dataset>/<identity>/<image>.")
            dataset = dataset or folder
            if folder != dataset:
                raise _bad_line(
                    file,
                    number,
                    f"the path {parts[1]!r} starts with {folder!r}, the lines before with {dataset!r}. Keep one list "
                    "for each dataset.",
                )
            yield number, dataset, (path, parts[2], parts[0])


def _bad_line(file: Path, number: int, problem: str) -> ManifestError:
    return ManifestError(f"{file}, line {number}: {problem}")
