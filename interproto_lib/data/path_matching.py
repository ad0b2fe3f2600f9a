"""Rows of a table and images, joined by path; and what paths look like where they do not join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.tables import SourceTable
from interproto_lib.errors import ManifestError

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_PATTERNS = 10
_BLOCK_ROWS = 2**20
_ZEROS_BEFORE_A_NUMBER = r"(^|[^0-9])0+([0-9])"


@dataclass(frozen=True, kw_only=True)
class PathPattern:
    """Paths alike but for their digits.

    Attributes:
        pattern: The path with "#" for each digit.
        n_paths: How many there are.
        example: The first of them.
    """

    pattern: str
    n_paths: int
    example: str


def match_paths(table: SourceTable, paths: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Find the image that each row of a table names.

    Paths match however their letters are composed in Unicode and however many zeros stand before a number. Where that
    makes two images one, a row must name one of them letter by letter.

    Args:
        table: A table with the column `path`, all text (m rows).
        paths: The images (n,), text, each once.

    Returns:
        The image of each row (m,), -1 where there is none; and which rows match only because zeros do not count (m,).

    Raises:
        ManifestError: A row could mean two images; the message names file, row and line, and both images.
    """
    import pyarrow.compute as pc

    named = table.frame["path"]
    encoded = _keys(paths).combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    n_images = np.bincount(codes, minlength=len(encoded.dictionary))
    first = np.empty(len(encoded.dictionary), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    of_row = pc.index_in(_keys(named), value_set=encoded.dictionary).fill_null(-1).to_numpy()
    rows = np.where(of_row >= 0, first[of_row], -1)
    doubtful = np.flatnonzero((of_row >= 0) & (n_images[of_row] > 1))
    if len(doubtful):
        alike = np.flatnonzero(n_images[codes] > 1)
        rows[doubtful] = _match_exactly(table, doubtful, paths.iloc[alike], alike, codes, of_row)
    is_padded = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = np.flatnonzero(rows[start : start + _BLOCK_ROWS] >= 0) + start
        differs = pc.not_equal(_composed_texts(paths.iloc[rows[block]]), _composed_texts(named.iloc[block]))
        is_padded[block] = differs.to_numpy(zero_copy_only=False)
    return rows, is_padded


def path_patterns(paths: pd.Series) -> tuple[int, tuple[PathPattern, ...]]:
    """Sort paths by what they look like with every digit as "#".

    Args:
        paths: Paths (n,), text.

    Returns:
        How many patterns there are, and the commonest ten.

    Example:
        >>> path_patterns(pd.Series(["00/1.jpg", "01/7.jpg", "2/x.jpg"]))[1][0]
        PathPattern(pattern='##/#.jpg', n_paths=2, example='00/1.jpg')
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(paths) == 0:
        return 0, ()
    shapes = pc.replace_substring_regex(pa.array(paths, from_pandas=True).cast(pa.large_string()), "[0-9]", "#")
    counts = sorted(pc.value_counts(shapes).to_pylist(), key=lambda entry: -entry["counts"])
    return len(counts), tuple(
        PathPattern(
            pattern=entry["values"],
            n_paths=entry["counts"],
            example=str(paths.iloc[pc.index(shapes, entry["values"]).as_py()]),
        )
        for entry in counts[:_MAX_PATTERNS]
    )


def _match_exactly(
    table: SourceTable,
    doubtful: NDArray[np.int64],
    paths: pd.Series,
    images: NDArray[np.int64],
    codes: NDArray[np.integer[Any]],
    of_row: NDArray[np.integer[Any]],
) -> list[int]:
    """Match rows, letter by letter, to images that differ only in zeros before numbers or in composed letters."""
    exact = dict(zip(paths, images.tolist(), strict=True))
    found: list[int] = []
    for row in doubtful.tolist():
        path = table.frame["path"].iloc[row]
        image = exact.get(path)
        if image is None:
            alike = [other for other, number in exact.items() if codes[number] == of_row[row]]
            raise ManifestError(
                f"{table.place(row, 'path')}: {path!r} could mean {alike[0]!r} or {alike[1]!r}, which differ only in "
                "zeros before a number or in how letters are composed in Unicode. Write the path as the image's."
            )
        found.append(image)
    return found


def _keys(paths: pd.Series) -> pa.ChunkedArray:
    """Paths with their letters composed and without zeros before numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    blocks = [
        pc.replace_substring_regex(
            _composed_texts(paths.iloc[start : start + _BLOCK_ROWS]), _ZEROS_BEFORE_A_NUMBER, r"\1\2"
        )
        for start in range(0, len(paths), _BLOCK_ROWS)
    ]
    return pa.chunked_array(blocks, type=pa.large_string())


def _composed_texts(paths: pd.Series) -> pa.Array:
    """Paths with their letters composed as Unicode recommends (NFC)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pa.array(paths, from_pandas=True).cast(pa.large_string())
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return texts
    return pc.utf8_normalize(texts, form="NFC")
