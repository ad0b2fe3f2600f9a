"""Ages from a table onto the images of a collection, with a report of what matched and what did not."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.collections import ImageCollection
from interproto_lib.data.formats.age_labels import AGE_LABELS_ENDING, AgeLabels, age_table
from interproto_lib.data.path_matching import PathPattern, match_paths, path_patterns
from interproto_lib.data.tables import MAX_AGE_YEARS, SourceTable
from interproto_lib.errors import ConfigError, ManifestError

Problems = Literal["error", "count"]

_MAX_EXAMPLES = 3
_LEAST_COMMON_LETTERS = 3
_BLOCK_ROWS = 2**20


@dataclass(frozen=True, kw_only=True)
class AgeCoverage:
    """How far a table of ages covers a collection.

    Attributes:
        table: The table's file.
        dataset: The folder of a dataset that was taken off the paths of a list of age labels; empty without one.
        is_dataset_another: That folder is called neither as the collection nor as its folder, however it is spelt.
        n_images: Images of the collection.
        n_labelled: Images that have an age now.
        n_rows: Rows of the table.
        n_rows_unmatched: Rows whose path is no image.
        n_images_matched: Images that a row names.
        n_rows_padded: Rows that matched only because zeros before a number do not count.
        n_rows_without_age: Rows whose cell of the age is empty (CSV and Parquet).
        n_rows_bad_age: Rows whose age is no number of years from 0 to 130; they label nothing.
        n_rows_repeated: Rows that name an image once more.
        n_images_conflicting: Images that rows give different ages; they are unlabelled.
        n_ids_disagreeing: Lines of a list of age labels whose id is not the number of the path's folder.
        examples: Kind of problem -> the first places of the table where there is one.
        unmatched_rows: The commonest patterns of rows that are no image, at most ten.
        n_unmatched_patterns: How many such patterns there are.
        unlabelled_images: The commonest patterns of images without an age, at most ten.
        n_unlabelled_patterns: How many such patterns there are.
    """

    table: str
    dataset: str
    is_dataset_another: bool
    n_images: int
    n_labelled: int
    n_rows: int
    n_rows_unmatched: int
    n_images_matched: int
    n_rows_padded: int
    n_rows_without_age: int
    n_rows_bad_age: int
    n_rows_repeated: int
    n_images_conflicting: int
    n_ids_disagreeing: int
    examples: dict[str, tuple[str, ...]]
    unmatched_rows: tuple[PathPattern, ...]
    n_unmatched_patterns: int
    unlabelled_images: tuple[PathPattern, ...]
    n_unlabelled_patterns: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return asdict(self) | {"examples": {kind: list(places) for kind, places in self.examples.items()}}

    def __str__(self) -> str:
        share = 100 * self.n_labelled / self.n_images
        lines = [
            f"{self.n_labelled:,} of {self.n_images:,} images ({share:.1f} %) have an age, by {self.n_rows:,} rows of "
            f"{self.table}."
        ]
        if self.dataset:
            another = " It is not the name of this dataset: are they its labels?" if self.is_dataset_another else ""
            lines.append(f"  Its paths begin with {self.dataset}/, which is taken off.{another}")
        counts = (
            ("padded", self.n_rows_padded, "rows matched only because zeros before a number do not count"),
            ("without age", self.n_rows_without_age, "rows have no age"),
            ("bad age", self.n_rows_bad_age, f"rows have no age from 0 to {MAX_AGE_YEARS:.0f} years"),
            ("repeated", self.n_rows_repeated, "rows name an image once more"),
            ("conflicting", self.n_images_conflicting, "images get different ages and stay without one"),
            ("id", self.n_ids_disagreeing, "lines have an id that is not the number of their folder"),
        )
        for kind, count, what in counts:
            if count:
                places = "; ".join(self.examples.get(kind, ()))
                lines.append(f"  {count:,} {what}" + (f" (first: {places})" if places else ""))
        lines += _pattern_lines(
            "rows are no image", self.n_rows_unmatched, self.unmatched_rows, self.n_unmatched_patterns
        )
        n_unlabelled = self.n_images - self.n_labelled
        lines += _pattern_lines("images have no age", n_unlabelled, self.unlabelled_images, self.n_unlabelled_patterns)
        return "\n".join(lines)


def label_ages(
    collection: ImageCollection,
    labels_file: str | Path,
    *,
    unmatched: Problems = "count",
    bad_rows: Problems = "error",
    few: Problems = "error",
) -> tuple[ImageCollection, AgeCoverage]:
    """Give the images of a collection the ages of a table, joined by path.

    Paths match however their letters are composed in Unicode and however many zeros stand before a number:
    `0/1.jpg` is `000000/00000001.jpg`. Where that makes two images one, a row must name one of them exactly. An image
    that no row names stays without an age; none is ever assumed.

    Args:
        collection: Its images have no ages yet.
        labels_file: A list of age labels of MTLFace ending in .txt (see `read_age_labels`), or a .csv or .parquet with
            the columns `path` (relative to the collection's folder) and `age_years`.
        unmatched: Rows that name no image: "count" reports them, "error" refuses them. That no row at all names an
            image is always an error.
        bad_rows: Ages that are no number from 0 to 130 (in a list also "nan"), and images named by two rows: "error"
            names the first; "count" leaves such an age out, takes equal rows once, leaves images with different ages
            without one, and reports how many there are.
        few: A table of which less than half of the rows name an image, and that names less than half of the images: it
            may belong to another dataset and fit by chance. "error" refuses it, "count" takes it.

    Returns:
        The collection with ages, and how far they cover it. 5.8 million lines take about half a minute and 2 GB.

    Raises:
        ConfigError: The images have ages already, from their names; or an argument has an unknown value.
        ManifestError: The table is malformed; or what `unmatched`, `bad_rows` and `few` refuse; or a row could mean two
            images. The message names file, row and line.
    """
    for argument, value in (("unmatched", unmatched), ("bad_rows", bad_rows), ("few", few)):
        if value not in ("error", "count"):
            raise ConfigError(f"{argument} is {value!r}; choose error or count.")
    if collection.table["age_years"].notna().any():
        raise ConfigError(
            f"The images of {collection.name!r} have ages by their names (shape {collection.shape}). Leave the table "
            "of ages out, or open the collection as shape='identity_folders' (on the command line: "
            "--shape identity_folders)."
        )
    table = age_table(Path(labels_file))
    table.check_text("path")
    paths = collection.table["path"]
    ages, is_empty, is_bad = _read_ages(table)
    if bad_rows == "error":
        _refuse_ages(table, is_bad)
    rows, is_padded = match_paths(table, paths)
    is_matched = rows >= 0
    if not is_matched.all() and (unmatched == "error" or not is_matched.any()):
        raise ManifestError(_all_unmatched(table, ~is_matched, collection))
    n_images_matched = len(np.unique(rows[is_matched]))
    if few == "error" and 2 * int(is_matched.sum()) < len(rows) and 2 * n_images_matched < len(paths):
        raise ManifestError(_few_matched(table, is_matched, n_images_matched, collection))
    again, conflicting = _repeated(rows, ages)
    if bad_rows == "error" and again.any():
        raise ManifestError(_said_again(table, rows, again, conflicting, paths))
    found = np.full(len(paths), np.nan)
    usable = is_matched & np.isfinite(ages)
    found[rows[usable]] = ages[usable]
    found[conflicting] = np.nan
    disagrees = _ids_disagree(table)
    n_unmatched_patterns, unmatched_rows = path_patterns(table.frame["path"][~is_matched])
    n_unlabelled_patterns, unlabelled_images = path_patterns(paths[np.isnan(found)])
    is_conflicting = np.zeros(len(rows), dtype=bool)
    is_conflicting[is_matched] = np.isin(rows[is_matched], conflicting)
    marked = {
        "padded": is_padded,
        "bad age": is_bad,
        "repeated": again,
        "conflicting": is_conflicting,
        "id": disagrees,
    }
    coverage = AgeCoverage(
        table=str(labels_file),
        dataset=_dataset(table),
        is_dataset_another=_is_another(_dataset(table), collection),
        n_images=len(paths),
        n_labelled=int(np.isfinite(found).sum()),
        n_rows=len(rows),
        n_rows_unmatched=int((~is_matched).sum()),
        n_images_matched=n_images_matched,
        n_rows_padded=int(is_padded.sum()),
        n_rows_without_age=int(is_empty.sum()),
        n_rows_bad_age=int(is_bad.sum()),
        n_rows_repeated=int(again.sum()),
        n_images_conflicting=len(conflicting),
        n_ids_disagreeing=int(disagrees.sum()),
        examples={kind: _examples(table, mask) for kind, mask in marked.items() if mask.any()},
        unmatched_rows=unmatched_rows,
        n_unmatched_patterns=n_unmatched_patterns,
        unlabelled_images=unlabelled_images,
        n_unlabelled_patterns=n_unlabelled_patterns,
    )
    return replace(collection, table=collection.table.assign(age_years=found)), coverage


def _read_ages(table: SourceTable) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the ages, NaN where there is none, and which cells are empty and which hold no age."""
    column = table.frame["age_years"]
    if pd.api.types.is_bool_dtype(column):
        raise ManifestError(f"{table.where}, column age_years: found true/false, expected ages in years.")
    ages = np.full(len(column), np.nan)
    empty = np.zeros(len(column), dtype=bool)
    if pd.api.types.is_numeric_dtype(column):
        ages = column.to_numpy(dtype=np.float64, na_value=np.nan).copy()
        empty = np.isnan(ages)
    else:
        for start in range(0, len(column), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            cells = column.iloc[block].astype(object)
            ages[block] = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            without = np.flatnonzero(np.isnan(ages[block]))
            if not _is_list(table):
                texts = cells.iloc[without]
                empty[start + without] = texts.isna() | texts.astype(str).str.strip().str.lower().isin(("", "nan"))
    bad = ~((ages >= 0) & (ages <= MAX_AGE_YEARS)) & ~empty
    ages[bad] = np.nan
    return ages, empty, bad


def _is_list(table: SourceTable) -> bool:
    return table.where.lower().endswith(AGE_LABELS_ENDING)


def _refuse_ages(table: SourceTable, bad: NDArray[np.bool_]) -> None:
    values = pd.to_numeric(table.frame["age_years"][bad].astype(object), errors="coerce")
    is_above = 2 * int((values > MAX_AGE_YEARS).sum()) > len(bad)
    hint = f" Most ages are above {MAX_AGE_YEARS:.0f}: are they months instead of years?" if is_above else ""
    table.refuse(
        bad,
        "age_years",
        lambda value: (
            f"{value!r} is not an age: expected a number of years, 0 to {MAX_AGE_YEARS:.0f}. Correct it, or leave such "
            f"rows out with bad_rows='count' (on the command line: --bad-ages count).{hint}"
        ),
    )


def _repeated(rows: NDArray[np.int64], ages: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which rows name an image that a row before names, and the images that get different ages."""
    again = np.zeros(len(rows), dtype=bool)
    matched = np.flatnonzero(rows >= 0)
    shared = matched[np.bincount(rows[matched])[rows[matched]] > 1] if len(matched) else matched
    in_order = shared[np.argsort(rows[shared], kind="stable")]
    is_next = np.diff(rows[in_order], prepend=-1) == 0
    again[in_order[is_next]] = True
    aged = in_order[np.isfinite(ages[in_order])]
    differs = (np.diff(rows[aged], prepend=-1) == 0) & (np.diff(ages[aged], prepend=0.0) != 0)
    return again, np.unique(rows[aged[differs]])


def _said_again(
    table: SourceTable,
    rows: NDArray[np.int64],
    again: NDArray[np.bool_],
    conflicting: NDArray[np.int64],
    paths: pd.Series,
) -> str:
    second = int(
        np.flatnonzero(again & np.isin(rows, conflicting))[0] if len(conflicting) else np.flatnonzero(again)[0]
    )
    first = int(np.flatnonzero(rows == rows[second])[0])
    line = "" if table.lines is None else f" (line {table.lines[first]})"
    ages = table.frame["age_years"]
    return (
        f"{table.place(second, 'path')}: the image {paths.iloc[rows[second]]!r} is already in row {first + 1}{line}, "
        f"there with the age {ages.iloc[first]}, here {ages.iloc[second]}. {int(again.sum()):,} rows repeat an image, "
        f"{len(conflicting):,} images get different ages. Keep one row per image, or let them be counted with "
        "bad_rows='count' (on the command line: --bad-ages count)."
    )


def _ids_disagree(table: SourceTable) -> NDArray[np.bool_]:
    """Return which lines of a list have an id other than the number of their folder; none where that is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    disagrees = np.zeros(len(table.frame), dtype=bool)
    for start in range(0, len(table.frame) if _is_list(table) else 0, _BLOCK_ROWS):
        block = table.frame.iloc[start : start + _BLOCK_ROWS]
        folders = pc.replace_substring_regex(pa.array(block["path"]), r"^0*([0-9]+)/.*$", r"\1")
        ids = pc.replace_substring_regex(pa.array(block["id"]), r"^0*([0-9]+)$", r"\1")
        other = pc.and_(pc.not_equal(folders, ids), pc.invert(pc.match_substring(folders, "/")))
        disagrees[start : start + len(block)] = other.to_numpy(zero_copy_only=False)
    return disagrees


def _examples(table: SourceTable, mask: NDArray[np.bool_]) -> tuple[str, ...]:
    places = []
    for row in np.flatnonzero(mask)[:_MAX_EXAMPLES].tolist():
        line = row + 1 if table.lines is None else table.lines[row]
        places.append(f"{'row' if table.lines is None else 'line'} {line}: {table.frame['path'].iloc[row]}")
    return tuple(places)


def _all_unmatched(table: SourceTable, unmatched: NDArray[np.bool_], collection: ImageCollection) -> str:
    rows = np.flatnonzero(unmatched)
    n_patterns, patterns = path_patterns(table.frame["path"][unmatched])
    n_of_images, of_images = path_patterns(collection.table["path"])
    return "\n".join(
        [
            f"{table.place(int(rows[0]), 'path')}: {len(rows):,} of {len(unmatched):,} rows match no image in "
            f"{collection.place}, the first is {table.frame['path'].iloc[int(rows[0])]!r}. Correct the paths, or give "
            "the table that belongs to these images.",
            *_pattern_lines("rows are no image", len(rows), patterns, n_patterns),
            *_pattern_lines("images are named", len(collection), of_images, n_of_images),
        ]
    )


def _few_matched(
    table: SourceTable, matched: NDArray[np.bool_], n_images_matched: int, collection: ImageCollection
) -> str:
    n_patterns, patterns = path_patterns(table.frame["path"][~matched])
    n_of_images, of_images = path_patterns(collection.table["path"])
    dataset = _dataset(table)
    begin = f" Its paths begin with {dataset}/, the images are those of {collection.name}." if dataset else ""
    return "\n".join(
        [
            f"{table.where}: only {int(matched.sum()):,} of {len(matched):,} rows name an image of {collection.place}, "
            f"and only {n_images_matched:,} of {len(collection):,} images are named.{begin} Labels of another dataset "
            "fit so by chance. Give those of these images, or take these with few='count' (on the command line: "
            "--few-ages count).",
            *_pattern_lines("rows are no image", int((~matched).sum()), patterns, n_patterns),
            *_pattern_lines("images there are", len(collection), of_images, n_of_images),
        ]
    )


def _dataset(table: SourceTable) -> str:
    return table.dataset if isinstance(table, AgeLabels) else ""


def _is_another(dataset: str, collection: ImageCollection) -> bool:
    """Whether labels name another dataset; `casia-webface` and `casia_webface` are one, and so are `ms1m`, `ms1mv2`."""
    names = (dataset, collection.name, collection.place.name)
    asked, *known = (re.sub(r"[\W_]+", "", name.casefold()) for name in names)
    pairs = [sorted((asked, name), key=len) for name in known]
    return bool(asked) and not any(
        long == short or (len(short) >= _LEAST_COMMON_LETTERS and long.startswith(short)) for short, long in pairs
    )


def _pattern_lines(what: str, count: int, patterns: tuple[PathPattern, ...], n_patterns: int) -> list[str]:
    if count == 0:
        return []
    more = [f"    and {n_patterns - len(patterns):,} more patterns"] if n_patterns > len(patterns) else []
    listed = [f"    {entry.n_paths:>10,}  {entry.pattern}  (such as {entry.example})" for entry in patterns]
    return [f"  {count:,} {what}:", *listed, *more]
