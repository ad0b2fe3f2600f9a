"""Test sets made of lists with folders of images, and of verification files; what is missing is named."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interproto_lib.data import (
    FolderSource,
    load_dataset,
    pair_list_set,
    prepare_source,
    read_test_set,
    verification_bin_set,
)
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError, ManifestError
from tests.conftest import REPO

START = "dataset/test/AgeDB-aligned"
LIST = f"""1 {START}/Ann/1_Ann_5.png {START}/Ann/2_Ann_40.png
1 {START}/Zoé/3_Zoé_9.png {START}/Zoé/4_Zoé_33.png
0 {START}/Ann/1_Ann_5.png {START}/Zoé/4_Zoé_33.png
"""
NAMES = ["Ann/1_Ann_5.jpg", "Ann/2_Ann_40.jpg", "Zoé/3_Zoé_9.jpg", "Zoé/4_Zoé_33.jpg"]


def pixels(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(seed: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, size)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def agedb(tmp_path: Path) -> tuple[Path, Path]:
    """The list and the folder that holds `dataset`; images are PNG inside, so that their pixels are known."""
    for seed, name in enumerate(NAMES):
        file = tmp_path / "root" / START / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(seed))
    pairs = tmp_path / "agedb20_child.txt"
    pairs.write_text(LIST.replace(".png", ".jpg"), encoding="utf-8")
    return pairs, tmp_path / "root"


@pytest.mark.parametrize("below", ["", "dataset", "dataset/test", START])
def test_pair_list_set(agedb: tuple[Path, Path], below: str):
    pairs, root = agedb
    found = pair_list_set("AgeDB-C20", pairs, root / below, names="agedb", image_size=16)
    assert found.name == "AgeDB-C20"
    assert found.images["path"].tolist() == [f"{START}/{NAMES[row]}" for row in (0, 2, 1, 3)]
    assert found.images["identity"].tolist() == ["Ann", "Zoé", "Ann", "Zoé"]
    assert found.images["age_years"].tolist() == [5, 9, 40, 33]
    assert found.pairs.to_numpy().tolist() == [[0, 2, True], [1, 3, True], [0, 3, False]]
    expected = "".join(line.replace(" ", "\t").replace("\t", " ", 1) + "\n" for line in LIST.splitlines())
    assert found.sha256 == hashlib.sha256(expected.replace(".png", ".jpg").encode()).hexdigest()
    read = found.source.read(found.images["path"].tolist()[::-1])
    np.testing.assert_array_equal(read, np.stack([pixels(row) for row in (3, 1, 2, 0)]))


def test_the_last_folder_may_have_another_name(agedb: tuple[Path, Path]):
    pairs, root = agedb
    (root / START).rename(root / "faces")
    found = pair_list_set("x", pairs, root / "faces", names="agedb", image_size=16)
    np.testing.assert_array_equal(found.source.read([f"{START}/{NAMES[3]}"])[0], pixels(3))


def test_images_of_a_prepared_dataset(agedb: tuple[Path, Path], tmp_path: Path):
    """What `interproto prepare` made of the photographs serves the official list, in the order of the list."""
    pairs, root = agedb
    prepared = tmp_path / "prepared"
    prepare_source("agedb", root / START, prepared, image_size=16)
    from_folder = pair_list_set("x", pairs, root, names="agedb", image_size=16)
    found = pair_list_set("x", pairs, prepared, names="agedb", image_size=16)
    assert found.sha256 == from_folder.sha256
    paths = found.images["path"].tolist()[::-1]
    np.testing.assert_array_equal(found.source.read(paths), from_folder.source.read(paths))
    assert found.source.state(paths) == load_dataset(prepared).images_sha256
    assert (
        read_test_set("x", {"pairs": str(pairs), "images": str(prepared), "names": "agedb"}, image_size=16).source.key
        == found.source.key
    )
    with pytest.raises(DatasetError, match="prepared at 16 x 16 pixels, needed are 112 x 112"):
        pair_list_set("x", pairs, prepared, names="agedb")
    with pytest.raises(DatasetError, match=r"has no image 'nobody\.jpg'"):
        found.source.read(["nobody.jpg"])
    pairs.write_text(
        f"1 {START}/Ann/1_Ann_5.jpg {START}/Ann/2_Ann_41.jpg\n0 {START}/Ann/1_Ann_5.jpg {START}/Zoé/4_Zoé_33.jpg\n"
    )
    with pytest.raises(DatasetError, match=r"1 of the 3 images .* not in .*prepared.*\n.*nearest: Ann/2_Ann_40\.jpg"):
        pair_list_set("x", pairs, prepared, names="agedb", image_size=16)


def test_sets_of_one_folder_share_their_images(agedb: tuple[Path, Path], tmp_path: Path):
    pairs, root = agedb
    (tmp_path / "other.txt").write_text("\n".join(pairs.read_text("utf-8").splitlines()[1:]), encoding="utf-8")
    one = pair_list_set("C20", pairs, root, names="agedb", image_size=16)
    other = pair_list_set("C30", tmp_path / "other.txt", root, names="agedb", image_size=16)
    resized = pair_list_set("C20", pairs, root, names="agedb", image_size=8, fit="stretch")
    assert one.source.key == other.source.key != resized.source.key
    assert resized.source.read([f"{START}/{NAMES[0]}"]).shape == (1, 8, 8, 3)


def test_letters_composed_otherwise_on_the_disk(agedb: tuple[Path, Path]):
    pairs, root = agedb
    base = root / START
    for file in list((base / "Zoé").iterdir()):
        file.rename(file.with_name(unicodedata.normalize("NFD", file.name)))
    (base / "Zoé").rename(base / unicodedata.normalize("NFD", "Zoé"))
    found = pair_list_set("x", pairs, root, names="agedb", image_size=16)
    np.testing.assert_array_equal(found.source.read([f"{START}/{NAMES[2]}"])[0], pixels(2))


def test_missing_images_are_all_named_with_the_nearest_one(agedb: tuple[Path, Path]):
    pairs, root = agedb
    base = root / START
    (base / NAMES[0]).rename(base / "Ann/1_Ann_5.JPG")
    (base / NAMES[1]).rename(base / "Ann/2_Anne_40.jpg")
    (base / "Zoé").rename(base / "Zoe")
    (base / "Zoe/4_Zoé_33.jpg").rename(base / "Ann/4_Zoé_33.jpg")
    with pytest.raises(DatasetError) as error:
        pair_list_set("C20", pairs, root, names="agedb", image_size=16)
    first, *listed = str(error.value).splitlines()
    assert first.startswith("Test set 'C20': 4 of the 4 images that")
    assert str(pairs) in first
    assert str(root) in first
    assert listed == [
        f"  {START}/Ann/1_Ann_5.jpg (nearest: {START}/Ann/1_Ann_5.JPG)",
        f"  {START}/Zoé/3_Zoé_9.jpg (nearest: {START}/Zoe/3_Zoé_9.jpg)",
        f"  {START}/Ann/2_Ann_40.jpg (nearest: {START}/Ann/2_Anne_40.jpg)",
        f"  {START}/Zoé/4_Zoé_33.jpg (nearest: {START}/Zoe/3_Zoé_9.jpg)",
    ]


def test_a_missing_image_may_lie_in_another_folder(agedb: tuple[Path, Path]):
    pairs, root = agedb
    base = root / START
    (base / "quite another").mkdir()
    (base / NAMES[3]).rename(base / "quite another/4_zoé_33.jpg")
    (base / NAMES[2]).unlink()
    (base / "Zoé").rmdir()
    with pytest.raises(DatasetError, match=r"2 of the 4 images") as error:
        pair_list_set("C20", pairs, root, names="agedb", image_size=16)
    assert f"  {START}/Zoé/3_Zoé_9.jpg\n" in str(error.value) + "\n"
    assert f"  {START}/Zoé/4_Zoé_33.jpg (nearest: {START}/quite another/4_zoé_33.jpg)" in str(error.value)


def test_thousands_of_missing_names_are_fast(tmp_path: Path):
    n = 4000
    (tmp_path / "images").mkdir()
    for number in range(0, 2 * n, 2):
        (tmp_path / "images" / f"{number:05d}A.jpg").touch()
    lines = [f"{number % 4 // 2} d/{number:05d}B.jpg d/{number + 2:05d}B.jpg" for number in range(0, 2 * n - 2, 2)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines), encoding="utf-8")
    started = time.monotonic()
    with pytest.raises(DatasetError, match="4000 of the 4000 images") as error:
        pair_list_set("x", tmp_path / "pairs.txt", tmp_path / "images", names="none")
    assert time.monotonic() - started < 20
    nearest = [line.split(" (nearest: ") for line in str(error.value).splitlines()[1:]]
    assert len(nearest) == n
    assert all(one.strip()[2:7] == other[:5] for one, other in nearest)


def test_images_that_cannot_be_used_are_named(agedb: tuple[Path, Path]):
    pairs, root = agedb
    (root / START / NAMES[0]).write_bytes(png(1)[:100])
    (root / START / NAMES[1]).write_bytes(png(1, 20))
    found = pair_list_set("x", pairs, root, names="agedb", image_size=16)
    (root / START / NAMES[2]).unlink()
    with pytest.raises(DatasetError, match=r"3 images .*Ann_5\.jpg: .*damaged.*Zoé_9.*is 20 x 20 pixels, expected 16"):
        found.source.read(found.images["path"].tolist())
    with pytest.raises(DatasetError, match=r"1 images .* is not there"):
        FolderSource(root, 16).read(["nothing.jpg"])


def test_what_pair_list_set_refuses(agedb: tuple[Path, Path], tmp_path: Path):
    pairs, root = agedb
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"fit": "x"}, "fit is 'x'"),
        ({"names": "x"}, "no layout of names 'x'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"incomplete": "keep"}, "a pair needs two images"),
        ({"layout": "x"}, "layout is 'x'"),
    ]
    for settings, what in wrong:
        with pytest.raises(ConfigError, match=what):
            pair_list_set("x", pairs, root, **{"names": "agedb", **settings})
    with pytest.raises(DatasetNotFoundError, match="There is no folder of images"):
        pair_list_set("x", pairs, tmp_path / "absent", names="agedb")
    with pytest.raises(DatasetError, match="4 of 4 paths are not of the layout 'fgnet'"):
        pair_list_set("x", pairs, root, names="fgnet")


def test_incomplete_lines_of_lag(tmp_path: Path):
    text = "1 t/LAG/a/y/1.png t/LAG/a/2.png\n1 t/LAG/b/y/two t/words\n0 t/LAG/a/y/1.png t/LAG/b/3.png\n"
    (tmp_path / "lag.txt").write_text(text, encoding="utf-8")
    for name in ("a/y/1.png", "a/2.png", "b/3.png", "b/y/two words 4.png"):
        (tmp_path / "LAG" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "LAG" / name).write_bytes(png(1))
    with pytest.raises(ManifestError, match=r"lag\.txt, line 2: .*two words"):
        pair_list_set("LAG", tmp_path / "lag.txt", tmp_path, names="lag", image_size=16)
    dropped = pair_list_set("LAG", tmp_path / "lag.txt", tmp_path, names="lag", image_size=16, incomplete="drop")
    assert dropped.pairs.to_numpy().tolist() == [[0, 1, True], [0, 2, False]]
    official = pair_list_set("LAG", tmp_path / "lag.txt", tmp_path, names="lag", image_size=16, incomplete="official")
    assert official.pairs.to_numpy().tolist() == [[0, 1, True], [0, 1, True], [0, 2, False]]


# Verification files.


def write_bin(folder: Path, images: list[bytes], labels: list[bool], name: str = "lfw.bin") -> Path:
    file = folder / name
    file.write_bytes(pickle.dumps((images, labels), protocol=2))
    return file


def test_verification_bin_set(tmp_path: Path):
    file = write_bin(tmp_path, [png(0), png(1), png(2), png(0)], [True, False])
    found = verification_bin_set("LFW", file, image_size=16)
    assert found.images["path"].str[:6].tolist() == ["000000", "000001", "000002"]
    assert found.images["path"].iloc[2] == "000002-" + hashlib.sha256(png(2)).hexdigest()[:16]
    assert found.images["identity"].isna().all()
    assert found.images["age_years"].isna().all()
    assert found.pairs.to_numpy().tolist() == [[0, 1, True], [2, 0, False]]
    read = found.source.read(found.images["path"].tolist())
    np.testing.assert_array_equal(read, np.stack([pixels(seed) for seed in range(3)]))
    with pytest.raises(DatasetError, match="has no image 'x'"):
        found.source.read(["x"])


def test_two_files_are_told_apart(tmp_path: Path):
    one = verification_bin_set("a", write_bin(tmp_path, [png(0), png(1)] * 2, [True, False], "a.bin"), image_size=16)
    other = verification_bin_set("b", write_bin(tmp_path, [png(2), png(3)] * 2, [True, False], "b.bin"), image_size=16)
    assert one.source.key != other.source.key
    assert one.sha256 != other.sha256


def test_what_verification_bin_set_refuses(tmp_path: Path):
    file = write_bin(tmp_path, [png(0), png(1), png(2, 20), b"none"], [True, False])
    with pytest.raises(DatasetError, match=r"2 of 4 images .*000002-\w+ is 20 x 20 .*000003-\w+ is not an image"):
        verification_bin_set("LFW", file, image_size=16)
    with pytest.raises(DatasetError, match=r"4 of 4 images .* is 16 x 16 pixels, expected 112 x 112"):
        verification_bin_set("LFW", write_bin(tmp_path, [png(0), png(1), png(2), png(3)], [True, False]))
    with pytest.raises(DatasetError, match="both classes"):
        verification_bin_set("LFW", write_bin(tmp_path, [png(0), png(1)], [True]), image_size=16)
    cut = verification_bin_set(
        "LFW", write_bin(tmp_path, [png(0), png(1), png(2), png(3)[:-200]], [True, False]), image_size=16
    )
    with pytest.raises(DatasetError, match=r"image 000003-\w+ is damaged or cut short"):
        cut.source.read(cut.images["path"].tolist())


# As described in presets and notebooks.


def test_read_test_set(agedb: tuple[Path, Path], tmp_path: Path):
    pairs, root = agedb
    spec = {"pairs": str(pairs), "images": str(root), "names": "agedb"}
    found = read_test_set("AgeDB-C20", spec, image_size=16)
    assert found.sha256 == pair_list_set("x", pairs, root, names="agedb", image_size=16).sha256
    full = {**spec, "layout": "child_adult", "fit": "crop", "duplicates": "keep", "incomplete": "drop"}
    assert read_test_set("AgeDB-C20", full, image_size=8).source.image_size == 8
    file = write_bin(tmp_path, [png(0), png(1), png(2), png(3)], [True, False])
    assert len(read_test_set("LFW", {"bin": file}, image_size=16).pairs) == 2


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"pair": "a", "images": "b", "names": "agedb"}, r"no key 'pair' \(did you mean 'pairs'\?\)"),
        ({"pairs": "a"}, "missing keys: images, names"),
        ({}, "missing keys: pairs, images, names"),
        ({"bin": "a", "names": "agedb"}, "the key bin stands alone, found beside it: names"),
        ({"bin": 3}, "key bin: found 3, expected text"),
        ({"bin": ""}, "key bin: found '', expected text"),
        ("lfw.bin", "found 'lfw.bin', expected keys"),
    ],
)
def test_wrong_descriptions(spec: Any, what: str):
    with pytest.raises(ConfigError, match=f"Test set 'LFW'.*{what}"):
        read_test_set("LFW", spec, image_size=112)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("AgeDB-C20", "agedb"),
        ("FGNET-C30", "fgnet"),
        ("FG-NET-C20", "fgnet"),
        ("LAG", "lag"),
        ("AgeDB-30", "agedb_30"),
        ("CFP-FP", "cfp_fp"),
    ],
)
def test_a_known_set_that_is_not_there_comes_with_its_steps(tmp_path: Path, name: str, card: str):
    for spec in (
        {"pairs": tmp_path / "list.txt", "images": tmp_path / "absent", "names": "none"},
        {"bin": tmp_path / "absent" / "set.bin"},
        {"bin": tmp_path / "set.bin"},
    ):
        with pytest.raises(DatasetNotFoundError, match=rf"Test set '{name}': .*\({card}\).*To obtain it:\n  1\."):
            read_test_set(name, spec, image_size=112)


def test_an_unknown_set_that_is_not_there(agedb: tuple[Path, Path], tmp_path: Path):
    _, root = agedb
    (tmp_path / "empty").mkdir()
    for images, what in ((root, "no list of pairs"), (tmp_path / "empty", "or empty"), (tmp_path / "no", "not there")):
        with pytest.raises(DatasetNotFoundError, match=f"Test set 'mine': .*{what}"):
            read_test_set("mine", {"pairs": tmp_path / "x.txt", "images": images, "names": "none"}, image_size=112)
    with pytest.raises(DatasetNotFoundError, match="no verification file"):
        read_test_set("mine", {"bin": tmp_path / "x.bin"}, image_size=112)


def test_relative_paths_start_at_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetNotFoundError) as error:
        read_test_set("mine", {"bin": "no/such.bin"}, image_size=112)
    assert str(REPO / "no/such.bin") in str(error.value)
