"""Tables of text and numbers read from CSV and Parquet, whose messages name file, row, line and column."""

from __future__ import annotations

import csv
import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.errors import ManifestError

MAX_AGE_YEARS = 130.0
"""An age above this is taken for an error of the table."""

# The characters themselves, no escapes: escapes of Unicode keep pandas from searching within Arrow.
CONTROL_CHARACTERS = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
"""A pattern that finds what breaks lines, tables and terminals; no name or text may hold it."""

_UNLABELLED_TEXT = ("", "nan")
_CSV_CHUNK_ROWS = 100_000
_NOT_PLAIN = r"(?:^|/)\.{0,2}(?:/|$)"  # a leading, trailing or double slash, or a part that is "." or ".."
_HASHED_ROWS = 100_000
_NUMBER = r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?"


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceTable:
    """A table together with where it came from, so that a message can name file, row, line and column.

    Attributes:
        frame: The rows.
        where: The file, or another name for the table.
        lines: For a CSV, the line of the file on which each row ends (n,); otherwise None.
    """

    frame: pd.DataFrame
    where: str
    lines: NDArray[np.int64] | None = None

    def place(self, row: int, column: str | None = None) -> str:
        """Say where a row stands: file, data row counted from 1, line of a CSV, column."""
        line = "" if self.lines is None else f" (line {self.lines[row]})"
        return f"{self.where}, row {row + 1}{line}" + ("" if column is None else f", column {column}")

    def refuse(self, bad: NDArray[np.bool_], column: str, problem: Callable[[Any], str]) -> None:
        """Raise a ManifestError for the first row marked in `bad` (n,), saying how many others there are."""
        rows = np.flatnonzero(bad)
        if len(rows) == 0:
            return
        others = "" if len(rows) == 1 else f" {len(rows) - 1} more rows have the same problem."
        value = self.frame[column].iloc[int(rows[0])]
        raise ManifestError(f"{self.place(int(rows[0]), column)}: {problem(value)}{others}")

    def require_columns(self, columns: tuple[str, ...]) -> None:
        """Raise a ManifestError when a column is missing or there twice, or there is no row at all."""
        found = [str(column) for column in self.frame.columns]
        missing = [column for column in columns if column not in found]
        if missing:
            raise ManifestError(
                f"{self.where} has no column {', '.join(missing)}. Found: {', '.join(found) or 'none'}. "
                f"Needed: {', '.join(columns)}."
            )
        twice = sorted({column for column in found if found.count(column) > 1})
        if twice:
            raise ManifestError(f"{self.where} has the column {', '.join(twice)} more than once. Keep one of each.")
        if len(self.frame) == 0:
            raise ManifestError(f"{self.where} has no rows: only column names. Write one row per image.")

    def ages(self, column: str = "age_years") -> NDArray[np.float64]:
        """Return the ages (n,) in years as float64, NaN where the cell is empty: such an image is unlabelled.

        Raises:
            ManifestError: An age is not a number, negative, or above 130.
        """
        values = self.frame[column]
        if pd.api.types.is_bool_dtype(values):
            raise ManifestError(f"{self.where}, column {column}: found true/false, expected ages in years.")
        if not pd.api.types.is_numeric_dtype(values):
            text = values.map(lambda value: value.strip() if isinstance(value, str) else value)
            empty = text.isna() | text.map(lambda value: isinstance(value, str) and value.lower() in _UNLABELLED_TEXT)
            numbers = pd.to_numeric(text.where(~empty), errors="coerce")
            self.refuse(
                (numbers.isna() & ~empty).to_numpy(dtype=bool),
                column,
                lambda value: f"{value!r} is not a number. Write years, such as 7 or 7.5, or leave the cell empty.",
            )
            values = numbers
        ages: NDArray[np.float64] = values.to_numpy(dtype=np.float64, na_value=np.nan).copy()
        self.refuse(
            (ages < 0) | (ages > MAX_AGE_YEARS),
            column,
            lambda value: (
                f"{value} is not an age: expected 0 to {MAX_AGE_YEARS:.0f} years. If it stands for 'unknown', "
                "leave the cell empty: the image is then unlabelled."
            ),
        )
        return ages

    def check_paths(self, column: str = "path") -> None:
        """Raise a ManifestError unless every path is text, unique, relative, and stays below the image root."""
        self.check_text(column)
        paths = self.frame[column]
        self.refuse(
            paths.str.contains(r"\\|^[A-Za-z]:/").to_numpy(dtype=bool),
            column,
            lambda value: f"{value!r} is a Windows path. Write it relative to the image root, with forward slashes.",
        )
        self.refuse(paths.str.contains(_NOT_PLAIN).to_numpy(dtype=bool), column, _path_problem)
        again = paths.duplicated().to_numpy(dtype=bool) if _may_repeat(paths) else np.zeros(0, dtype=bool)
        if again.any():
            second = int(np.flatnonzero(again)[0])
            value = paths.iloc[second]
            first = int(np.flatnonzero((paths == value).to_numpy(dtype=bool))[0])
            raise ManifestError(
                f"{self.place(second, column)}: {value!r} is already in row {first + 1}"
                + ("" if self.lines is None else f" (line {self.lines[first]})")
                + f". {int(again.sum())} rows repeat an earlier path; keep one row per image."
            )

    def check_text(self, column: str) -> None:
        """Raise a ManifestError unless every cell of a column is text, not empty, and without control characters."""
        values = self.frame[column]
        self.refuse(
            values.isna().to_numpy(dtype=bool),
            column,
            lambda value: f"the cell is empty. Every row needs a {column}.",
        )
        if not isinstance(values.dtype, pd.StringDtype):
            self.refuse(
                values.map(lambda value: not isinstance(value, str)).to_numpy(dtype=bool),
                column,
                lambda value: (
                    f"found {value} of type {type(value).__name__}, expected text. Convert the column with "
                    f"manifest[{column!r}].astype(str), or quote the values where the table is made."
                ),
            )
        self.refuse(
            (values.str.strip() == "").to_numpy(dtype=bool),
            column,
            lambda value: f"the cell is empty. Every row needs a {column}.",
        )
        self.refuse(
            values.str.contains(CONTROL_CHARACTERS).to_numpy(dtype=bool),
            column,
            lambda value: (
                f"{value!r} contains a control character, such as a tab or the end of a line. Remove it; where it "
                "comes from the name of a file or folder, rename that."
            ),
        )


def read_table(path: str | Path, *, text_columns: tuple[str, ...] = ()) -> SourceTable:
    """Read a CSV (UTF-8, comma, one header line) or a Parquet file, keeping track of lines for messages.

    In a CSV nothing is guessed for `text_columns`: "007" and "NA" stay text. Another column becomes numbers when every
    filled cell is a plain number, true/false when every cell is True or False, and is text otherwise. Blank lines are
    skipped.

    Args:
        path: A file ending in .csv or .parquet.
        text_columns: Columns to keep as text.

    Returns:
        The table, with the line of each row when it is a CSV.

    Raises:
        ManifestError: There is no such file, its ending is another, or it cannot be read as what it says it is.
    """
    file = Path(path)
    if not file.is_file():
        raise ManifestError(f"There is no table {file}. Check the path.")
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return SourceTable(frame=_read_parquet(file), where=str(file))
    if suffix != ".csv":
        raise ManifestError(f"{file} ends in {suffix or 'nothing'}; tables are read from .csv and .parquet.")
    frame, lines = _read_csv(file)
    for column in frame.columns:
        if column not in text_columns:
            frame[column] = _infer(frame[column])
    return SourceTable(frame=frame, where=str(file), lines=lines)


def _may_repeat(values: pd.Series) -> bool:
    """Whether two values have one hash: looked at first, since comparing millions of texts themselves takes a GB."""
    hashes = np.empty(len(values), dtype=np.uint64)
    for start in range(0, len(values), _HASHED_ROWS):
        part = values.iloc[start : start + _HASHED_ROWS].to_numpy(dtype=object)
        hashes[start : start + len(part)] = pd.util.hash_array(part, categorize=False)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow as pa

    try:
        frame = pd.read_parquet(file)
        for column in frame.columns:
            if isinstance(frame[column].dtype, pd.StringDtype):
                pa.array(frame[column]).validate(full=True)  # Parquet is not looked through for broken UTF-8
    except Exception as error:  # what a damaged file says of its columns raises many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ManifestError(f"{file} cannot be read as Parquet: {reason}. Make the file again.") from error
    return frame


def _path_problem(value: str) -> str:
    if value.startswith("/"):
        return f"{value!r} is absolute. Write it relative to the image root."
    if ".." in value.split("/"):
        return f"{value!r} contains '..'. Write it relative to the image root, without leaving it."
    return f"{value!r} is not in its plain form. Remove '.', doubled slashes and a slash at the end."


def _infer(column: pd.Series) -> pd.Series:
    filled = column[column != ""]
    if len(filled) and filled.str.fullmatch(_NUMBER).all():
        return pd.to_numeric(column.mask(column == ""))
    if len(filled) == len(column) and filled.isin(["True", "False"]).all():
        return column == "True"
    return column


def _read_csv(file: Path) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    lines = array("q")
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = next(reader, None)
            if not header:
                raise ManifestError(f"{file} is empty: its first line must name the columns.")
            if twice := [name for name, count in Counter(header).items() if count > 1]:
                raise ManifestError(f"{file}, line 1: the column {twice[0]!r} stands there more than once. Keep one.")
            frames = [pd.DataFrame(rows, columns=header) for rows in _chunks(file, reader, len(header), lines)]
    except UnicodeDecodeError as error:
        line = _first_line_not_utf8(file)
        raise ManifestError(
            f"{file}, line {line}: the text is not UTF-8 ({error.reason}). Save the table as UTF-8 and read it again."
        ) from error
    except csv.Error as error:
        raise ManifestError(f"{file}, line {reader.line_num}: not a readable CSV ({error}).") from error
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=header)
    return frame, np.asarray(lines, dtype=np.int64)


def _chunks(file: Path, reader: Any, n_columns: int, lines: array[int]) -> Iterator[list[list[str]]]:
    rows: list[list[str]] = []
    for row in reader:
        if not row:
            continue
        if len(row) != n_columns:
            raise ManifestError(
                f"{file}, row {len(lines) + 1} (line {reader.line_num}): {len(row)} cells, but the header names "
                f"{n_columns} columns. A cell with a comma in it must stand in double quotes."
            )
        lines.append(reader.line_num)
        rows.append(row)
        if len(rows) == _CSV_CHUNK_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _first_line_not_utf8(file: Path) -> int:
    with file.open("rb") as handle:
        return 1 + sum(1 for _ in itertools.takewhile(_is_utf8, handle))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
