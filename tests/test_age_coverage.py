"""Ages onto images by path: whatever the zeros, nothing assumed, everything that did not match counted and shown."""

from __future__ import annotations

import json
import random
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fuzzing import assert_only_named_errors, mutations

from interproto_lib.data.age_coverage import AgeCoverage, label_ages
from interproto_lib.data.collections import FolderImages, ImageCollection, text_column
from interproto_lib.errors import ConfigError, ManifestError


def collection_of(paths: Sequence[str], ages: Sequence[float] | None = None) -> ImageCollection:
    column = text_column(pa.array(list(paths), type=pa.string()))
    table = pd.DataFrame(
        {
            "path": column,
            "identity": [path.partition("/")[0] for path in paths],
            "age_years": np.full(len(paths), np.nan) if ages is None else np.array(ages, dtype=np.float64),
            "kept": range(len(paths)),
        }
    )
    return ImageCollection(
        name="casia",
        shape="identity_folders",
        place=Path("/data/casia"),
        table=table,
        encoded=FolderImages("/data/casia", column),
        fingerprint="f",
    )


def write(folder: Path, *lines: str, name: str = "labels.txt", end: str = "\n") -> Path:
    file = folder / name
    file.write_bytes("".join(line + end for line in lines).encode("utf-8"))
    return file


def label(folder: Path, paths: Sequence[str], *lines: str, **settings: Any) -> tuple[list[float], AgeCoverage]:
    labelled, coverage = label_ages(collection_of(paths), write(folder, *lines), **settings)
    assert labelled.table["kept"].tolist() == list(range(len(paths)))
    return labelled.table["age_years"].tolist(), coverage


IMAGES = ["000000/00000001.jpg", "000000/00000002.jpg", "000010/00000030.jpg"]


# --- matching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder_digits", [1, 2, 6, 9])
@pytest.mark.parametrize("file_digits", [1, 8, 12])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_any_zeros_before_numbers_match(tmp_path: Path, folder_digits: int, file_digits: int, is_swapped: bool):
    numbers = [(0, 1), (0, 2), (7, 70), (10, 100), (10, 30), (100, 1)]
    padded = [f"{identity:0{folder_digits}d}/{image:0{file_digits}d}.jpg" for identity, image in numbers]
    plain = [f"{identity}/{image}.jpg" for identity, image in numbers]
    images, labels = (plain, padded) if is_swapped else (padded, plain)
    lines = [f"{path.split('/')[0]} casia/{path} {age}.5 1" for age, path in enumerate(labels)]
    random.Random(0).shuffle(lines)
    ages, coverage = label(tmp_path, images, *lines)
    assert ages == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert (coverage.n_labelled, coverage.n_rows, coverage.n_rows_unmatched) == (6, 6, 0)
    assert coverage.n_rows_padded == sum(image != path for image, path in zip(images, labels, strict=True))
    assert coverage.n_ids_disagreeing == 0


def test_zeros_inside_a_number_and_other_letters_count(tmp_path: Path):
    with pytest.raises(ManifestError, match="5 of 5 rows match no image"):
        label(
            tmp_path,
            ["10/1.jpg"],
            *(f"1 c/{path} 3 1" for path in ("1/1.jpg", "100/1.jpg", "10/1.JPG", "10/10.jpg", "10/1")),
        )


def test_images_that_zeros_make_alike_are_matched_exactly_or_refused(tmp_path: Path):
    images = ["0/1.jpg", "00/1.jpg", "1/1.jpg", "a01/2.jpg", "a1/2.jpg"]
    ages, _ = label(tmp_path, images, "0 c/00/1.jpg 5 1", "0 c/0/1.jpg 6 1", "1 c/01/01.jpg 7 1", "0 c/a1/2.jpg 8 1")
    assert ages[:3] == [6.0, 5.0, 7.0]
    assert np.isnan(ages[3])
    assert ages[4] == 8.0
    with pytest.raises(
        ManifestError, match=r"labels\.txt, row 2 \(line 2\).* '000/1\.jpg' could mean '0/1\.jpg' or '00/1\.j"
    ):
        label(tmp_path, images, "0 c/0/1.jpg 5 1", "0 c/000/1.jpg 5 1")


def test_letters_match_however_composed(tmp_path: Path):
    name = "Zoé/1.jpg"
    for image, row in ((name, unicodedata.normalize("NFD", name)), (unicodedata.normalize("NFD", name), name)):
        ages, coverage = label(tmp_path, [image, "b/1.jpg"], f"0 c/{row} 9 0")
        assert ages[0] == 9.0
        assert coverage.n_rows_padded == 0


def test_csv_and_parquet_are_read_too(tmp_path: Path):
    rows = pd.DataFrame({"path": ["0/1.jpg", "000010/00000030.jpg", "0/2.jpg"], "age_years": [4.5, 60.0, np.nan]})
    rows.to_csv(tmp_path / "a.csv", index=False)
    rows.to_parquet(tmp_path / "a.parquet")
    rows.assign(age_years=["4.5", "60", ""], id=[9, 9, 9]).to_csv(tmp_path / "b.csv", index=False)
    for name in ("a.csv", "a.parquet", "b.csv"):
        labelled, coverage = label_ages(collection_of(IMAGES), tmp_path / name)
        np.testing.assert_array_equal(labelled.table["age_years"], [4.5, np.nan, 60.0])
        assert (coverage.n_labelled, coverage.n_rows_without_age, coverage.n_rows_bad_age) == (2, 1, 0)
        assert (coverage.n_rows_padded, coverage.n_ids_disagreeing) == (2, 0)


# --- the report ------------------------------------------------------------------------------------------------------


def test_what_did_not_match_is_shown_by_pattern(tmp_path: Path):
    images = [*IMAGES, "000011/00000031.png", "000011/00000032.png", "x/7.jpg"]
    lines = ["0 c/000000/00000001.jpg 3.0 1", "11 c/000011/00000031.jpg 4.0 0", "11 c/000011/00000032.jpg 5.0 0"]
    lines += ["5 c/5/x6.jpg 5.0 0"]
    ages, coverage = label(tmp_path, images, *lines, few="count")
    assert ages[0] == 3.0
    assert np.isnan(ages[1:]).all()
    patterns = [(entry.pattern, entry.n_paths, entry.example) for entry in coverage.unmatched_rows]
    assert patterns == [("######/########.jpg", 2, "000011/00000031.jpg"), ("#/x#.jpg", 1, "5/x6.jpg")]
    assert [(entry.pattern, entry.n_paths) for entry in coverage.unlabelled_images] == [
        ("######/########.jpg", 2),
        ("######/########.png", 2),
        ("x/#.jpg", 1),
    ]
    assert (coverage.n_images, coverage.n_labelled, coverage.n_rows, coverage.n_rows_unmatched) == (6, 1, 4, 3)
    report = str(coverage)
    assert report.startswith("1 of 6 images (16.7 %) have an age, by 4 rows of ")
    assert "3 rows are no image:\n" in report
    assert "######/########.png  (such as 000011/00000031.png)" in report
    again = json.loads(json.dumps(coverage.to_dict(), allow_nan=False))
    assert again["n_rows_unmatched"] == 3
    assert again["unlabelled_images"][1] == {
        "pattern": "######/########.png",
        "n_paths": 2,
        "example": "000011/00000031.png",
    }
    with pytest.raises(
        ManifestError, match=r"labels\.txt, row 2 \(line 2\), .*: 3 of 4 rows match no image in /data/casia"
    ):
        label(tmp_path, images, *lines, unmatched="error")


def test_many_patterns_are_cut_and_counted(tmp_path: Path):
    lines = [f"0 c/{letter}/1.jpg 3 1" for letter in "abcdefghijklmnop"]
    images = ["a/1.jpg", *(f"{number}/{'x' * number}.jpg" for number in range(1, 15))]
    _, coverage = label(tmp_path, images, *lines, few="count")
    assert (len(coverage.unmatched_rows), coverage.n_unmatched_patterns) == (10, 15)
    assert (len(coverage.unlabelled_images), coverage.n_unlabelled_patterns) == (10, 14)
    assert "and 5 more patterns" in str(coverage)


def test_a_table_of_another_dataset_is_refused_whatever_is_allowed(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"(?s)1 of 1 rows match no image.*#/#\.png .*######/########\.jpg"):
        label(tmp_path, IMAGES, "0 c/0/1.png 3 1", unmatched="count", bad_rows="count")


@pytest.mark.parametrize(
    ("n_images", "n_rows", "n_matched", "is_refused"),
    [(240, 195, 7, True), (10, 11, 4, True), (10, 10, 5, False), (10, 100, 5, False), (100, 10, 5, False)],
)
def test_labels_that_hardly_match_are_refused(tmp_path: Path, n_images: int, n_rows: int, n_matched: int, is_refused):
    """Less than half of the rows and less than half of the images: either alone is a part of a list or of a dataset."""
    images = [f"{number:06d}/{number:08d}.jpg" for number in range(n_images)]
    lines = [
        f"0 ms1m/{number:06d}/{number if number < n_matched else 90_000_000 + number:08d}.jpg 30 1"
        for number in range(n_rows)
    ]
    ages, coverage = label(tmp_path, images, *lines, few="count")
    assert (coverage.n_images_matched, np.isfinite(ages).sum()) == (n_matched, n_matched)
    if not is_refused:
        assert label(tmp_path, images, *lines)[1] == coverage
        return
    with pytest.raises(ManifestError) as caught:
        label(tmp_path, images, *lines)
    message = str(caught.value)
    assert f"only {n_matched} of {n_rows} rows name an image of /data/casia" in message
    assert f"only {n_matched} of {n_images} images are named. Its paths begin with ms1m/" in message
    assert "--few-ages count" in message


@pytest.mark.parametrize(
    ("folder", "is_another"),
    [("casia", False), ("CASIA-WebFace", False), ("c_a_s-i.a", False), ("ms1m", True), ("c", True), ("casio", True)],
)
def test_the_folder_taken_off_is_shown(tmp_path: Path, folder: str, is_another: bool):
    _, coverage = label(tmp_path, IMAGES, *(f"0 {folder}/{path} 3 1" for path in IMAGES))
    assert (coverage.dataset, coverage.is_dataset_another) == (folder, is_another)
    assert f"Its paths begin with {folder}/, which is taken off." in str(coverage)
    assert ("are they its labels?" in str(coverage)) == is_another


def test_ids_other_than_their_folder_are_reported(tmp_path: Path):
    lines = ["0 c/000000/00000001.jpg 3 1", "1 c/000000/00000002.jpg 3 1", "00010 c/10/30.jpg 3 1", "9 c/x/1.jpg 3 1"]
    _, coverage = label(tmp_path, [*IMAGES, "x/1.jpg"], *lines)
    assert coverage.n_ids_disagreeing == 1
    assert coverage.examples["id"] == ("line 2: 000000/00000002.jpg",)
    assert "1 lines have an id that is not the number of their folder (first: line 2" in str(coverage)


# --- bad rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", ["-1", "130.5", "nan", "inf", "1e999", "old", "-0.1", "4O", "0x10"])
def test_an_age_that_is_none_is_refused_or_counted(tmp_path: Path, age: str):
    lines = ["0 c/0/1.jpg 0 1", f"0 c/0/2.jpg {age} 1", "10 c/10/30.jpg 130 1"]
    with pytest.raises(ManifestError, match=r"labels\.txt, row 2 \(line 2\), column age_years: .* is not an age"):
        label(tmp_path, IMAGES, *lines)
    ages, coverage = label(tmp_path, IMAGES, *lines, bad_rows="count")
    np.testing.assert_array_equal(ages, [0.0, np.nan, 130.0])
    assert (coverage.n_labelled, coverage.n_rows_bad_age) == (2, 1)
    assert coverage.examples["bad age"] == ("line 2: 0/2.jpg",)
    assert "1 rows have no age from 0 to 130 years" in str(coverage)


def test_repeated_rows_are_refused_or_counted(tmp_path: Path):
    lines = ["0 c/0/1.jpg 3 1", "", "0 c/00/2.jpg 4 1", "0 c/000000/1.jpg 3.0 1", "0 c/0/2.jpg 5 1", "0 c/0/2.jpg 4 1"]
    message = (
        r"row 4 \(line 5\), .*'000000/00000002\.jpg' is already in row 2 \(line 3\), there with the age 4, here 5\. "
        "3 rows repeat an image, 1 images get different ages"
    )
    with pytest.raises(ManifestError, match=message):
        label(tmp_path, IMAGES, *lines)
    ages, coverage = label(tmp_path, IMAGES, *lines, bad_rows="count")
    np.testing.assert_array_equal(ages, [3.0, np.nan, np.nan])
    assert (coverage.n_labelled, coverage.n_rows_repeated, coverage.n_images_conflicting) == (1, 3, 1)
    with pytest.raises(
        ManifestError, match=r"row 2 \(line 2\), .*already in row 1 \(line 1\).* 1 rows repeat an image, 0 "
    ):
        label(tmp_path, IMAGES, lines[0], lines[3])


def test_a_bad_age_beside_a_good_one_is_no_conflict(tmp_path: Path):
    lines = ["0 c/0/1.jpg nan 1", "0 c/0/1.jpg 4 1", "0 c/0/1.jpg old 1", "0 c/0/1.jpg 4.0 1"]
    ages, coverage = label(tmp_path, IMAGES, *lines, bad_rows="count")
    assert ages[0] == 4.0
    assert (coverage.n_rows_bad_age, coverage.n_rows_repeated, coverage.n_images_conflicting) == (2, 3, 0)


def test_ages_of_names_are_never_replaced(tmp_path: Path):
    collection = collection_of(IMAGES, [3.0, np.nan, np.nan])
    with pytest.raises(ConfigError, match="have ages by their names"):
        label_ages(collection, write(tmp_path, "0 c/0/1.jpg 3 1"))
    for argument in ("unmatched", "bad_rows"):
        with pytest.raises(ConfigError, match=f"{argument} is 'skip'"):
            label(tmp_path, IMAGES, "0 c/0/1.jpg 3 1", **{argument: "skip"})


# --- files -----------------------------------------------------------------------------------------------------------


def test_windows_lines_and_a_byte_order_mark_change_nothing(tmp_path: Path):
    lines = ["\ufeff0 c/0/1.jpg 3 1", "0 c/0/2.jpg 4 1", "", "10 c/10/30.jpg 5 1"]
    labelled, coverage = label_ages(collection_of(IMAGES), write(tmp_path, *lines, end="\r\n"))
    assert labelled.table["age_years"].tolist() == [3.0, 4.0, 5.0]
    assert coverage.n_ids_disagreeing == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0 c/0/1.jpg 3 1\n0 c/0/\x002.jpg 3 1\n", r"row 2 \(line 2\), column path: .* control character"),
        (b"0 c/0/1.jpg 3 1\n" + "0 c/0/2.jpg 3 1\n".encode("utf-16"), "line 2"),
        (b"0 c/0/1.jpg 3 1\r0 c/0/2.jpg 3 1\r", r"line 1: found .* single spaces"),
        (b"0 c/0/" + b"1" * 70_000, "line 1: it is longer than 65536 bytes"),
        (b"", "is empty; expected one line"),
        (b"\n\n", "is empty; expected one line"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        label_ages(collection_of(IMAGES), tmp_path / "labels.txt", bad_rows="count")


def test_a_parquet_with_broken_text_is_refused(tmp_path: Path):
    file = tmp_path / "a.parquet"
    pd.DataFrame({"path": ["0/1.jpg", "0/2.jpg"], "age_years": [3.0, 4.0]}).to_parquet(file, compression=None)
    file.write_bytes(file.read_bytes().replace(b"0/2.jpg", b"0/\xff.jpg"))
    with pytest.raises(ManifestError, match=r"a\.parquet cannot be read as Parquet: .*UTF"):
        label_ages(collection_of(IMAGES), file)


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
@pytest.mark.parametrize("bad_rows", ["error", "count"])
def test_damaged_tables_give_ages_or_named_errors(tmp_path: Path, kind: str, bad_rows: Any):
    file = tmp_path / f"labels.{kind}"
    rows = [(0, 1, 3.0), (0, 2, 40.5), (10, 30, 61.0)]
    if kind == "txt":
        write(tmp_path, *(f"{a} casia-webface/{a:06d}/{b:08d}.jpg {age} 1" for a, b, age in rows))
    else:
        frame = pd.DataFrame({"path": [f"{a}/{b}.jpg" for a, b, _ in rows], "age_years": [age for *_, age in rows]})
        frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    content = file.read_bytes()
    collection = collection_of([*IMAGES, "é/1.jpg"])

    def check(damaged: bytes) -> None:
        file.write_bytes(damaged)
        labelled, coverage = label_ages(collection, file, bad_rows=bad_rows)
        ages = labelled.table["age_years"]
        assert ages.dropna().between(0, 130).all()
        assert coverage.n_labelled == ages.notna().sum()
        assert str(coverage)

    start = time.monotonic()
    n = 600 if kind == "txt" else 300
    assert 0 < assert_only_named_errors(check, mutations(content, n=n, seed=len(bad_rows))) < n
    assert time.monotonic() - start < 60


def test_a_hundred_thousand_lines_take_seconds(tmp_path: Path):
    n = 100_000
    images = [f"{number // 68:06d}/{number:08d}.jpg" for number in range(n)]
    file = write(tmp_path, *(f"{k // 68} ms1m/{k // 68}/{k}.jpg {k % 90}.0 1" for k in reversed(range(n))))
    collection = collection_of(images)
    start = time.perf_counter()
    labelled, coverage = label_ages(collection, file)
    assert time.perf_counter() - start < 15
    np.testing.assert_array_equal(labelled.table["age_years"], np.arange(n) % 90)
    assert coverage.n_rows_padded == n
