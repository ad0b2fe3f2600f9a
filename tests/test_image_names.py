"""Identity and age by file name, in the ways that the known collections name their files."""

from __future__ import annotations

import math
import unicodedata

import pandas as pd
import pytest

from interproto_lib.data import NAME_LAYOUTS, describe_images
from interproto_lib.errors import ConfigError, DatasetError


@pytest.mark.parametrize(
    ("layout", "path", "identity", "age_years"),
    [
        ("agedb", "dataset/test/AgeDB-aligned/JohnnyCash/6472_JohnnyCash_10.jpg", "JohnnyCash", 10.0),
        ("agedb", "A_B/0_A_B_101.jpg", "A_B", 101.0),
        ("agedb", "StВphaneAudran/15875_StВphaneAudran_48.jpg", "StВphaneAudran", 48.0),
        ("fgnet", "FGNET-aligned/047A05.JPG", "047", 5.0),
        ("fgnet", "001A43b.jpg", "001", 43.0),
        ("agedb", "JohnnyCash/6472_JohnnyCash_10.png", "JohnnyCash", 10.0),
        ("fgnet", "FGNET-aligned/047A05.png", "047", 5.0),
        ("folder", "faces/Ann Lee/3.png", "Ann Lee", math.nan),
        ("lfw_file", "Aaron_Eckhart_0001.jpg", "Aaron_Eckhart", math.nan),
        ("lfw_file", "images/Aaron_Eckhart_2.jpg", "Aaron_Eckhart", math.nan),
        ("lag", "LAG-aligned/sean_astin/y/sean-astin_2.png", "sean_astin", math.nan),
        ("lag", "LAG-aligned/sean_astin/sean-astin_1.png", "sean_astin", math.nan),
    ],
)
def test_names(layout: str, path: str, identity: str, age_years: float):
    row = describe_images([path], layout).iloc[0]
    assert (row["path"], row["identity"]) == (path, identity)
    assert row["age_years"] == pytest.approx(age_years, nan_ok=True)


def test_folder_and_file_name_may_compose_their_letters_differently():
    name = "AndréRieu"
    path = f"{unicodedata.normalize('NFD', name)}/1_{name}_30.jpg"
    assert describe_images([path], "agedb")["age_years"].tolist() == [30]


def test_lag_says_who_is_young():
    table = describe_images(["a/y/1.png", "a/1.png", "LAG/y_z/2.png", "LAG/a/y/y.png"], "lag")
    assert table["young"].tolist() == [True, False, False, True]
    assert table["identity"].tolist() == ["a", "a", "y_z", "a"]
    assert describe_images(["a/1.png"], "folder").columns.tolist() == ["path", "identity", "age_years"]


def test_nothing_is_known_of_other_names():
    table = describe_images(["1.png", "x/2.png"], "none")
    assert table["identity"].isna().all()
    assert table["age_years"].isna().all()
    assert isinstance(table.index, pd.RangeIndex)


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("agedb", "6472_JohnnyCash_10.jpg"),
        ("agedb", "JohnnyCash/6472_JuneCarter_10.jpg"),
        ("agedb", "JohnnyCash/6472_JohnnyCash_131.jpg"),
        ("agedb", "JohnnyCash/6472_JohnnyCash.jpg"),
        ("agedb", "JohnnyCash/6472_JohnnyCash_10_m.jpg"),
        ("fgnet", "47A05.JPG"),
        ("fgnet", "047A05ab.JPG"),
        ("fgnet", "047B05.JPG"),
        ("fgnet", "047A5.JPG"),
        ("folder", "a.png"),
        ("lfw_file", "Aaron.jpg"),
        ("lfw_file", "_0001.jpg"),
        ("lag", "y/a.png"),
        ("lag", "a.png"),
    ],
)
def test_paths_of_another_layout(layout: str, path: str):
    with pytest.raises(DatasetError, match=f"1 of 1 paths are not of the layout '{layout}'"):
        describe_images([path], layout)


def test_wrong_paths_are_listed_and_counted():
    paths = ["001A05.JPG", *(f"bad{number}.JPG" for number in range(12))]
    with pytest.raises(DatasetError, match=r"12 of 13 paths .* person NNN.*'bad0\.JPG'.*'bad9\.JPG' and 2 more"):
        describe_images(paths, "fgnet")


def test_unknown_layout():
    with pytest.raises(ConfigError, match=f"no layout of names 'x'. Known: {', '.join(NAME_LAYOUTS)}"):
        describe_images(["a"], "x")
