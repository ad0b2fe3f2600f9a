"""Manifests: bad tables are named with file, row, line and column; ages, groups and classes are counted right."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import assert_only_named_errors, mutations

from interproto_lib.data.manifests import (
    AGE_GROUPS,
    age_group,
    class_table,
    read_manifest,
    summarise_manifest,
    validate_manifest,
    write_manifest,
)
from interproto_lib.data.tables import read_table
from interproto_lib.errors import ConfigError, ManifestError, WriteError

HEADER = "path,identity,age_years,split,source\n"


def small_manifest(n: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": [f"p{row // 2}/{row}.png" for row in range(n)],
            "identity": [f"p{row // 2}" for row in range(n)],
            "age_years": [7.5, np.nan, 40.0, 12.0][:n],
            "split": ["train", "train", "heldout", "heldout"][:n],
            "source": ["mine"] * n,
        }
    )


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


# --- validation ------------------------------------------------------------------------------------------------------


def test_clean_copy_has_the_right_types_and_leaves_the_input_alone():
    given = small_manifest().set_index(pd.Index([9, 8, 7, 6]))[["source", "split", "age_years", "identity", "path"]]
    given["extra"] = [1, 2, 3, 4]
    checked = validate_manifest(given)
    assert list(checked.columns) == ["path", "identity", "age_years", "split", "source", "extra"]
    assert list(checked.index) == [0, 1, 2, 3]
    assert checked["age_years"].dtype == np.float64
    assert math.isnan(checked["age_years"][1])
    assert list(given.index) == [9, 8, 7, 6]
    checked.loc[0, "identity"] = "other"
    assert given["identity"].iloc[0] == "p0"


def test_ages_of_other_types_are_read_and_a_missing_age_stays_missing():
    for ages in ([7, None, 40, 12], ["7", "", " 40 ", "nan"], pd.array([7, None, 40, 12], dtype="Int64")):
        manifest = small_manifest().assign(age_years=ages)
        checked = validate_manifest(manifest)["age_years"]
        assert checked.dtype == np.float64
        assert checked[0] == 7
        assert checked[2] == 40
        assert math.isnan(checked[1])


def test_missing_columns_are_named_with_those_found():
    with pytest.raises(ManifestError, match=r"table\.csv has no column age_years, split\. Found: path, identity"):
        validate_manifest(small_manifest().drop(columns=["age_years", "split"]), where="table.csv")


def test_a_column_there_twice_is_refused():
    manifest = small_manifest()
    manifest.insert(0, "identity", manifest["identity"], allow_duplicates=True)
    with pytest.raises(ManifestError, match="column identity more than once"):
        validate_manifest(manifest)


def test_an_empty_table_is_refused():
    with pytest.raises(ManifestError, match="no rows"):
        validate_manifest(small_manifest().iloc[:0])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("identity", "", "row 3, column identity: the cell is empty"),
        ("identity", "  ", "row 3, column identity: the cell is empty"),
        ("identity", None, "row 3, column identity: the cell is empty"),
        ("path", None, "row 3, column path: the cell is empty"),
        ("source", "", "row 3, column source: the cell is empty"),
        ("split", "test", "row 3, column split: 'test' is not a split. Write one of: train, validation, heldout"),
        ("age_years", -1.0, "row 3, column age_years: -1.0 is not an age"),
        ("age_years", 131.0, "row 3, column age_years: 131.0 is not an age"),
        ("age_years", np.inf, "row 3, column age_years: inf is not an age"),
        ("path", "/data/1.png", "row 3, column path: '/data/1.png' is absolute"),
        ("path", "../1.png", "row 3, column path: '../1.png' contains '..'"),
        ("path", "a/../../1.png", "contains '..'"),
        ("path", "a/..", "contains '..'"),
        ("path", "a//1.png", "not in its plain form"),
        ("path", "./a/1.png", "not in its plain form"),
        ("path", "a/1.png/", "not in its plain form"),
        ("path", "a\\1.png", "is a Windows path"),
        ("path", "C:/a/1.png", "is a Windows path"),
        ("path", "a/1\n.png", "control character"),
        ("identity", "a\nb", "'a\\nb' contains a control character, such as a tab"),
        ("source", "web\x1b[31m", "control character"),
        ("identity", "a\u2028b", "control character"),
        ("path", "p0/0.png", "row 3, column path: 'p0/0.png' is already in row 1"),
    ],
)
def test_bad_cells_are_named(column: str, value: object, message: str):
    manifest = small_manifest()
    manifest.loc[2, column] = value
    with pytest.raises(ManifestError) as caught:
        validate_manifest(manifest, where="table")
    assert message in str(caught.value)
    assert str(caught.value).startswith("table, row ")


@pytest.mark.parametrize("path", ["...", "..a/1.png", "a../b.png", "가족/사진 1.jpg", "Ана/é ü.png", "a/.b.png"])
def test_unusual_paths_are_allowed(path: str):
    manifest = small_manifest()
    manifest.loc[2, "path"] = path
    assert validate_manifest(manifest)["path"][2] == path


def test_the_number_of_further_bad_rows_is_told():
    with pytest.raises(ManifestError, match=r"row 1, column split.*3 more rows have the same problem"):
        validate_manifest(small_manifest().assign(split="val"))


def test_identities_that_are_numbers_are_refused_rather_than_turned_into_text():
    with pytest.raises(ManifestError, match=r"row 1, column identity: found 1 of type int64.*astype\(str\)"):
        validate_manifest(small_manifest().assign(identity=[1, 1, 2, 2]))
    with pytest.raises(ManifestError, match="row 2, column identity: found 5 of type int,"):
        validate_manifest(small_manifest().assign(identity=["a", 5, "b", "b"]))


@pytest.mark.parametrize(("age", "shown"), [("seven", "'seven'"), ("7 years", "'7 years'"), ("unknown", "'unknown'")])
def test_an_age_that_is_no_number_is_named(age: str, shown: str):
    with pytest.raises(ManifestError, match=f"row 2, column age_years: {shown} is not a number"):
        validate_manifest(small_manifest().assign(age_years=["7", age, "", "9"]))


def test_true_and_false_are_no_ages():
    with pytest.raises(ManifestError, match="found true/false"):
        validate_manifest(small_manifest().assign(age_years=[True, False, True, False]))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_written_manifest_reads_back_equal(tmp_path: Path, suffix: str):
    manifest = small_manifest()
    manifest["identity"] = ["007", "007", "NA", "null"]
    manifest["path"] = ["김철수/1.png", "Ёлка/2, drei.png", 'a/"3".png', "b/4.png"]
    manifest["age_years"] = [0.1 + 0.2, np.nan, 130.0, 0.0]
    manifest["identity_index"] = [3, 1, 4, 1]
    manifest["note"] = ["", "x", "007", "y"]
    manifest["checked"] = [True, False, True, True]
    file = tmp_path / f"deep/er/table{suffix}"
    write_manifest(manifest, file)
    back = read_manifest(file)
    pd.testing.assert_frame_equal(back, validate_manifest(manifest))
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_csv_messages_count_lines_as_an_editor_does(tmp_path: Path):
    file = write_text(tmp_path / "t.csv", HEADER + "a/1.png,a,5,train,x\n\n\na/2.png,a,-5,train,x\n")
    with pytest.raises(ManifestError, match=r"t\.csv, row 2 \(line 5\), column age_years: -5"):
        read_manifest(file)


def test_a_duplicate_in_a_csv_names_both_rows_and_lines(tmp_path: Path):
    rows = "a/1.png,a,5,train,x\n\na/2.png,a,5,train,x\na/1.png,a,6,train,x\na/1.png,a,7,train,x\n"
    with pytest.raises(ManifestError) as caught:
        read_manifest(write_text(tmp_path / "t.csv", HEADER + rows))
    message = str(caught.value)
    assert "row 3 (line 5), column path: 'a/1.png' is already in row 1 (line 2)" in message
    assert "2 rows repeat" in message


def test_a_row_with_another_number_of_cells_is_named(tmp_path: Path):
    file = write_text(tmp_path / "t.csv", HEADER + "a/1.png,a,5,train,x\na/2.png,a,train,x\n")
    with pytest.raises(ManifestError, match=r"row 2 \(line 3\): 4 cells, but the header names 5 columns"):
        read_manifest(file)


def test_a_csv_from_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_bytes(("\ufeff" + HEADER + "a/1.png,a,5,train,x\r\n").encode())
    assert read_manifest(file)["age_years"].tolist() == [5]


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path):
    file = tmp_path / "latin.csv"
    file.write_bytes((HEADER + "a/1.png,a,5,train,x\nJosé/1.png,José,5,train,x\n").encode("latin-1"))
    with pytest.raises(ManifestError, match=r"latin\.csv, line 3: the text is not UTF-8"):
        read_manifest(file)
    file.write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(ManifestError, match="line 1: the text is not UTF-8"):
        read_manifest(file)


def test_files_that_are_no_tables_are_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match="There is no table"):
        read_manifest(tmp_path / "nowhere.csv")
    with pytest.raises(ManifestError, match="There is no table"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match=r"ends in \.xlsx"):
        read_manifest(write_text(tmp_path / "t.xlsx", HEADER))
    with pytest.raises(ManifestError, match="is empty"):
        read_manifest(write_text(tmp_path / "zero.csv", ""))
    with pytest.raises(ManifestError, match="no rows"):
        read_manifest(write_text(tmp_path / "header.csv", HEADER))
    with pytest.raises(ManifestError, match="line 2: not a readable CSV"):
        read_manifest(write_text(tmp_path / "quote.csv", HEADER + '"a/1.png,a,5,train,x\n'))
    with pytest.raises(ManifestError, match=r"t\.xlsx|ends in \.xlsx"):
        write_manifest(small_manifest(), tmp_path / "t.xlsx")


def test_damaged_parquet_is_refused(tmp_path: Path):
    file = tmp_path / "t.parquet"
    for content in (b"", b"PAR1 nonsense PAR1", b"path,identity\n"):
        file.write_bytes(content)
        with pytest.raises(ManifestError, match=r"t\.parquet cannot be read as Parquet"):
            read_manifest(file)
    write_manifest(small_manifest(), file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ManifestError, match="cannot be read as Parquet"):
        read_manifest(file)


def test_an_extra_column_becomes_numbers_only_when_all_its_cells_are(tmp_path: Path):
    file = write_text(tmp_path / "t.csv", "path,number,gaps,code,flag,mixed\na,1,2.5,007,True,1\nb,-2e3,,08,False,x\n")
    frame = read_table(file, text_columns=("path",)).frame
    assert frame["number"].tolist() == [1, -2000]
    assert frame["gaps"][0] == 2.5
    assert math.isnan(frame["gaps"][1])
    assert frame["code"].tolist() == ["007", "08"]
    assert frame["flag"].tolist() == [True, False]
    assert frame["mixed"].tolist() == ["1", "x"]


def test_a_full_disk_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "t.parquet"
    write_manifest(small_manifest(), file)
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(WriteError, match=r"Cannot write .*t\.parquet: No space left"):
        write_manifest(small_manifest(2), file)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]


# --- ages and classes ------------------------------------------------------------------------------------------------


def test_age_groups_follow_the_table_of_the_paper():
    bounds = [(0, 12), (13, 18), (19, 25), (26, 35), (36, 45), (46, 55), (56, 65), (66, 130)]
    for group, (first, last) in zip(AGE_GROUPS, bounds, strict=True):
        for years in range(first, last + 1):
            for part in (0.0, 0.5, 0.999):
                if years + part <= 130:
                    assert age_group([years + part])[0] == group


def test_a_missing_age_has_no_group_and_groups_are_ordered():
    groups = age_group(pd.Series([np.nan, 12.5, 13.0, 70]))
    assert groups.isna().tolist() == [True, False, False, False]
    assert groups.ordered
    assert list(groups.categories) == list(AGE_GROUPS)
    assert groups.min() == "0-12"
    for bad in (-0.5, 131, np.inf):
        with pytest.raises(ManifestError, match="is not an age"):
            age_group([bad])


def class_manifest() -> pd.DataFrame:
    rows = []
    for identity, split, ages in [
        ("b", "train", [12.9] * 10 + [13.0, np.nan]),
        ("a", "train", [5.0] * 9 + [40.0]),
        ("가", "train", [np.nan] * 12),
        ("B", "train", [30.0]),
        ("z", "heldout", [4.0] * 20),
        ("v", "validation", [7.0, 30.0, np.nan]),
    ]:
        rows += [(f"{identity}/{i}", identity, age, split, "x") for i, age in enumerate(ages)]
    frame = pd.DataFrame(rows, columns=["path", "identity", "age_years", "split", "source"])
    return frame.sample(frac=1, random_state=3)


def test_class_table_counts_training_images_only():
    classes = class_table(class_manifest())
    assert classes.to_dict("list") == {
        "identity": ["B", "a", "b", "가"],
        "n_images": [1, 10, 12, 12],
        "n_child_images": [0, 9, 10, 0],
        "n_unlabelled": [0, 0, 1, 12],
        "is_child": [False, False, True, False],
    }
    assert list(classes.index) == [0, 1, 2, 3]
    assert classes["is_child"].dtype == bool


def test_class_table_thresholds_and_assumed_ages():
    manifest = class_manifest()
    assert class_table(manifest, min_child_images=9)["is_child"].tolist() == [False, True, True, False]
    assert class_table(manifest, child_below_years=12.9)["n_child_images"].tolist() == [0, 9, 0, 0]
    assumed = class_table(manifest, unlabelled_as_years=5)
    assert assumed["n_child_images"].tolist() == [0, 9, 11, 12]
    assert assumed["n_unlabelled"].tolist() == [0, 0, 1, 12]
    assert class_table(manifest, unlabelled_as_years=30)["n_child_images"].tolist() == [0, 9, 10, 0]
    for bad in ({"min_child_images": 0}, {"child_below_years": 0.0}, {"unlabelled_as_years": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            class_table(manifest, **bad)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="no training image"):
        class_table(manifest[manifest["split"] == "heldout"])


def test_summary_counts_and_reads_well():
    manifest = class_manifest()
    summary = summarise_manifest(manifest)
    assert (summary.n_images, summary.n_identities) == (58, 6)
    assert (summary.n_train_images, summary.n_validation_images, summary.n_heldout_images) == (35, 3, 20)
    assert (summary.n_train_identities, summary.n_validation_identities, summary.n_heldout_identities) == (4, 1, 1)
    assert summary.n_shared_identities == 0
    assert (summary.n_child_images, summary.n_child_identities, summary.n_unlabelled) == (40, 4, 14)
    frame = summary.to_frame()
    assert list(frame.index) == [*AGE_GROUPS, "unlabelled"]
    assert frame.loc["0-12"].tolist() == [19, 1, 20]
    assert frame.loc["13-18"].tolist() == [1, 0, 0]
    assert frame.loc["unlabelled"].tolist() == [13, 1, 0]
    assert int(frame.to_numpy().sum()) == 58
    text = str(summary)
    assert "58 images of 6 identities" in text
    assert "unlabelled (no age): 14 images" in text
    assert "validation  3 images of 1 identities" in text
    assert "several splits" not in text


@pytest.mark.parametrize(
    ("splits", "n_shared"),
    [
        (["train", "train", "heldout", "heldout"], 1),
        (["train", "validation", "validation", "heldout"], 1),
        (["train", "train", "train", "heldout"], 0),
        (["validation", "train", "heldout", "heldout"], 1),
    ],
)
def test_summary_tells_identities_in_several_splits(splits: list[str], n_shared: int):
    summary = summarise_manifest(small_manifest().assign(identity=["a", "b", "a", "c"], split=splits))
    assert summary.n_shared_identities == n_shared
    assert ("1 identities are in several splits" in str(summary)) == bool(n_shared)
    thrice = small_manifest().assign(identity="a", split=["train", "validation", "heldout", "train"])
    assert summarise_manifest(thrice).n_shared_identities == 1


def test_damaged_parquet_gives_named_errors(tmp_path):
    table = pd.DataFrame(
        {
            "path": [f"p{i}/é{i}.png" for i in range(40)],
            "identity": [f"p{i // 4}" for i in range(40)],
            "age_years": [float(i) for i in range(40)],
            "split": ["train"] * 40,
            "source": ["mine"] * 40,
        }
    )
    file = tmp_path / "manifest.parquet"
    table.to_parquet(file, index=False)

    def read(content):
        file.write_bytes(content)
        return read_manifest(file)

    assert assert_only_named_errors(read, mutations(file.read_bytes(), n=600, seed=0)) > 300


def test_a_column_that_stands_twice_is_named(tmp_path):
    file = tmp_path / "manifest.csv"
    file.write_text("path,identity,path\na/1.png,a,a/2.png\n")
    with pytest.raises(ManifestError, match=r"line 1: the column 'path' stands there more than once"):
        read_table(file)
