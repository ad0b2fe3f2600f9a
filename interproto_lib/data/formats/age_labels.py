"""Ages in a table of their own: a CSV or Parquet of paths and ages, or the list that MTLFace published."""

from __future__ import annotations

import unicodedata
import warnings
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.tables import SourceTable, read_table
from interproto_lib.errors import ManifestError

UnmatchedAges = Literal["error", "drop"]

AGE_COLUMNS = ("path", "age_years")
AGE_LABELS_ENDING = ".txt"
"""A table of this ending is taken for a list of age labels; others are CSV or Parquet."""

_MAX_NAMED = 10


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
        path: The list, UTF-8.

    Returns:
        One row a line: `path` (str, unique, relative to the dataset's folder) and `age_years` (float64, 0 to 130).

    Raises:
        ManifestError: There is no such file, or a line is not of this form; the message names file and line.
    """
    table = _age_labels_table(Path(path))
    return table.frame.assign(age_years=table.ages())


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
    file = Path(table_file)
    if file.suffix.lower() == AGE_LABELS_ENDING:
        table = _age_labels_table(file)
    else:
        table = read_table(file, text_columns=AGE_COLUMNS)
        table.require_columns(AGE_COLUMNS)
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


def _age_labels_table(file: Path) -> SourceTable:
    if not file.is_file():
        raise ManifestError(f"There is no list of age labels {file}. Check the path.")
    paths: list[str] = []
    ages: list[str] = []
    lines = array("q")
    dataset = ""
    with file.open("rb") as handle:
        for number, content in enumerate(handle, start=1):
            place = f"{file}, line {number}"
            try:
                text = content.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ManifestError(f"{place}: the text is not UTF-8 ({error.reason}).") from error
            if not text.strip():
                continue
            parts = text.split(" ")
            if len(parts) != 4:
                raise ManifestError(
                    f"{place}: found {text!r}; expected `id path age gender` with single spaces between them, as in "
                    "`0 casia-webface/000000/00000001.jpg 26.0 1`. A table with a header is read from .csv."
                )
            folder, _, path = parts[1].partition("/")
            if path.count("/") != 1:
                raise ManifestError(f"{place}: the path {parts[1]!r} is not of the form <dataset>/<identity>/<image>.")
            dataset = dataset or folder
            if folder != dataset:
                raise ManifestError(
                    f"{place}: the path {parts[1]!r} starts with {folder!r}, the lines before with {dataset!r}. Keep "
                    "one list for each dataset."
                )
            paths.append(path)
            ages.append(parts[2])
            lines.append(number)
    if not paths:
        raise ManifestError(f"{file} is empty; expected one line `id path age gender` for each image.")
    frame = pd.DataFrame({"path": paths, "age_years": ages})
    table = SourceTable(frame=frame, where=str(file), lines=np.asarray(lines, dtype=np.int64))
    table.check_paths()
    return table
