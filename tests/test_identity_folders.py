"""Folders of identities: what is there is read whole, what cannot be read is named, people are held out."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from interproto_lib.data.datasets import FaceDataset, load_dataset, save_dataset, verify_dataset
from interproto_lib.data.formats import natural_key, read_identity_folder
from interproto_lib.data.manifests import validate_manifest
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError, ManifestError

REPO = Path(__file__).resolve().parents[1]
ATT_FACES = REPO.parent / "shared" / "data" / "att_faces"
SIZE = 16


def noise(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A random picture of (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def make_folder(root: Path, people: dict[str, int] | None = None, ending: str = ".png") -> Path:
    for number, (identity, n_images) in enumerate((people or dict.fromkeys("abcde", 3)).items()):
        (root / identity).mkdir(parents=True)
        for image in range(n_images):
            noise(100 * number + image).save(root / identity / f"{image}{ending}")
    return root


def read(root: Path, **settings: Any) -> FaceDataset:
    return read_identity_folder(root, **({"image_size": SIZE, "validation_share": 0.0} | settings))


# --- the plain case --------------------------------------------------------------------------------------------------


def test_a_folder_is_read_whole(tmp_path: Path):
    root = make_folder(tmp_path / "mine", {"p10": 2, "p9": 3, "p1": 2, "Q": 2, "z": 2})
    dataset = read(root)
    assert dataset.name == "mine"
    assert dataset.folder is None
    assert dataset.manifest["path"].tolist() == [
        *("Q/0.png", "Q/1.png", "p1/0.png", "p1/1.png", "p9/0.png", "p9/1.png", "p9/2.png"),
        *("p10/0.png", "p10/1.png", "z/0.png", "z/1.png"),
    ]
    assert dataset.manifest["identity"].tolist() == [path.split("/")[0] for path in dataset.manifest["path"]]
    assert dataset.manifest["age_years"].isna().all()
    assert set(dataset.manifest["source"]) == {"mine"}
    for row, path in enumerate(dataset.manifest["path"]):
        with Image.open(root / path) as image:
            np.testing.assert_array_equal(dataset.images[row], np.asarray(image))
    assert dataset.settings["ages"] == {
        "table": None,
        "n_labelled": 0,
        "n_unlabelled": 11,
        "n_rows": 0,
        "n_rows_unmatched": 0,
    }
    assert dataset.settings["original_sizes"] == {"16x16": 11}


def test_every_ending_in_any_case_is_read(tmp_path: Path):
    root = make_folder(tmp_path, {"a": 2, "b": 2, "c": 2})
    (root / "d").mkdir()
    picture = noise(7)
    endings = ["jpg", "JPEG", "Png", "bmp", "pgm", "PPM", "webp", "tif", "TIFF"]
    for ending in endings:
        chosen = picture.convert("L") if ending == "pgm" else picture
        chosen.save(root / "d" / f"x.{ending}", **({"lossless": True} if ending == "webp" else {}))
    dataset = read(root)
    rows = dataset.manifest[dataset.manifest["identity"] == "d"]
    assert sorted(rows["path"]) == sorted(f"d/x.{ending}" for ending in endings)
    exact = {"Png", "bmp", "PPM", "webp", "tif", "TIFF"}
    for row, path in rows["path"].items():
        if path.split(".")[1] in exact:
            np.testing.assert_array_equal(dataset.images[row], np.asarray(picture))
    grey = dataset.images[rows.index[rows["path"] == "d/x.pgm"][0]]
    np.testing.assert_array_equal(grey, np.repeat(np.asarray(picture.convert("L"))[:, :, None], 3, axis=2))


def test_names_in_other_scripts_and_with_spaces_stay_as_they_are(tmp_path: Path):
    decomposed = unicodedata.normalize("NFD", "José")
    people = {"김 철수": 2, "Анна Иванова": 2, decomposed: 2, "with, comma": 2, "NA": 2, "007": 2}
    root = make_folder(tmp_path / "얼굴", people)
    noise(5).save(root / "김 철수" / "사진 3 é.png")
    dataset = read(root)
    assert set(dataset.manifest["identity"]) == set(people)
    assert "김 철수/사진 3 é.png" in set(dataset.manifest["path"])
    assert decomposed in set(dataset.manifest["identity"])
    saved = save_dataset(dataset, tmp_path / "저장")
    pd.testing.assert_frame_equal(load_dataset(tmp_path / "저장").manifest, dataset.manifest)
    assert saved.settings["root"] == str(root)


def test_natural_order():
    names = ["s10", "s2", "s1", "s02", "a", "10", "9", "1b", "1a", "²", "S1"]
    assert sorted(names, key=natural_key) == ["1a", "1b", "9", "10", "S1", "a", "s1", "s02", "s2", "s10", "²"]


# --- layout ----------------------------------------------------------------------------------------------------------


def test_missing_and_empty_folders(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match=r"There is no folder .*nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no images in .*found nothing"):
        read(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"found 1 subfolders and 1 other files. Expected <root>/<identity>/<image>"):
        read(tmp_path)
    with pytest.raises(DatasetError, match="is a file; expected a folder"):
        read(tmp_path / "a" / "readme.txt")


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path: Path):
    root = make_folder(tmp_path)
    for name in ("README", "a/Thumbs.db", "a/notes/deep.txt", ".DS_Store", "a/._0.png", "b/.hidden.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / ".cache").mkdir()
    noise(1).save(root / ".cache" / "x.png")
    dataset = read(root)
    assert len(dataset) == 15
    found = dataset.settings["files_not_read"]
    assert found["count"] == 3
    assert sorted(found["examples"]) == ["README", "a/Thumbs.db", "a/notes/deep.txt"]


@pytest.mark.parametrize("place", ["x.png", "a/y/x.JPG", "a/y/z/x.webp"])
def test_an_image_in_another_place_is_an_error(tmp_path: Path, place: str):
    root = make_folder(tmp_path)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(b"x")
    with pytest.raises(DatasetError, match=f"1 images in .* do not lie in <root>/<identity>/<image>: {place}"):
        read(root)


def test_two_spellings_of_one_name_are_an_error(tmp_path: Path):
    people = {unicodedata.normalize(form, "Zoé"): 2 for form in ("NFC", "NFD")}
    root = make_folder(tmp_path, people | dict.fromkeys("abcd", 2))
    if len(list(root.iterdir())) != 6:
        pytest.skip("this file system holds the two spellings for one name")
    with pytest.raises(DatasetError, match="two folders that read 'Zoé'"):
        read(root)


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path):
    root = make_folder(tmp_path)
    try:
        (Path(os.fsdecode(os.fsencode(root) + b"/a/Jos\xe9.png"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DatasetError, match=r"is not UTF-8: b'Jos\\xe9.png'"):
        read(root)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x85b"])
def test_a_name_with_a_control_character_is_an_error(tmp_path: Path, name: str):
    for place in (make_folder(tmp_path / "people") / name, make_folder(tmp_path / "images") / "a" / f"{name}.png"):
        try:
            place.mkdir()
        except OSError:
            pytest.skip("this file system refuses such names")
        with pytest.raises(DatasetError, match=r"contains a control character\. Rename it"):
            read(tmp_path / place.relative_to(tmp_path).parts[0])


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path):
    root = make_folder(tmp_path)
    (root / "a").chmod(0o000)
    if os.access(root / "a", os.R_OK):
        pytest.skip("this user may read anything")
    try:
        with pytest.raises(DatasetError, match=r"Cannot look into .*a: Permission denied"):
            read(root)
    finally:
        (root / "a").chmod(0o700)


def test_a_folder_that_may_not_be_read_is_an_error_even_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make_folder(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match=r"Cannot look into .*: Permission denied. Check its permissions"):
        read(root)


# --- images that cannot be read --------------------------------------------------------------------------------------


def spoil(root: Path) -> dict[str, str]:
    """Put unreadable files into the folder of `make_folder`; returns what must be said of each."""
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "a" / "text.jpg").write_text("this is no image", encoding="utf-8")
    noise(1).save(root / "b" / "short.png")
    os.truncate(root / "b" / "short.png", 500)
    (root / "b" / "link.png").symlink_to(root / "b" / "gone.png")
    noise(1).save(root / "c" / "pages.tif", save_all=True, append_images=[noise(2)])
    return {
        "a/empty.jpg": "the file is empty (0 bytes)",
        "a/text.jpg": "not an image of a known format",
        "b/link.png": "does not exist, or is a link to nowhere",
        "b/short.png": "damaged or cut short",
        "c/pages.tif": "holds 2 frames",
    }


def test_unreadable_files_are_collected_with_reasons(tmp_path: Path):
    root = make_folder(tmp_path)
    reasons = spoil(root)
    with pytest.raises(DatasetError) as caught:
        read(root)
    message = str(caught.value)
    assert message.startswith("5 of 20 images in ")
    for path, reason in reasons.items():
        line = next(line for line in message.splitlines() if line.startswith(f"  {path}: "))
        assert reason in line
    assert "on_unreadable='drop'" in message


def test_more_than_ten_unreadable_files_are_counted(tmp_path: Path):
    root = make_folder(tmp_path)
    for number in range(13):
        (root / "a" / f"bad{number}.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="13 of 28 images") as caught:
        read(root)
    assert len([line for line in str(caught.value).splitlines() if line.startswith("  a/bad")]) == 10
    assert "and 3 more" in str(caught.value)


def test_unreadable_files_can_be_dropped_with_a_warning(tmp_path: Path):
    root = make_folder(tmp_path)
    before = read(root)
    reasons = spoil(root)
    with pytest.warns(UserWarning, match=r"(?s)5 of 20 images in .* cannot be read and are left out:.*a/empty\.jpg"):
        dataset = read(root, on_unreadable="drop")
    pd.testing.assert_frame_equal(dataset.manifest, before.manifest)
    np.testing.assert_array_equal(dataset.images, before.images)
    assert [entry["path"] for entry in dataset.settings["dropped"]] == list(reasons)
    for entry in dataset.settings["dropped"]:
        assert reasons[entry["path"]] in entry["reason"]


def test_dropping_can_leave_too_little(tmp_path: Path):
    root = make_folder(tmp_path)
    for name in ("0.png", "1.png"):
        (root / "a" / name).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="2 of 15"),
        pytest.raises(DatasetError, match=r"1 of 5 identities .* fewer than 2 readable images: a \(1\)"),
    ):
        read(root, on_unreadable="drop")


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make_folder(tmp_path)
    noise(1, (40, 40)).save(root / "a" / "large.png")
    for limit in (1599, 799):  # Pillow warns above the limit and refuses above its double
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DatasetError, match=r"(?s)1 of 16 images.*a/large\.png: .*pixels"):
            read(root)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_other_sizes_are_refused_with_the_ways_to_fit(tmp_path: Path):
    root = make_folder(tmp_path)
    noise(1, (20, 16)).save(root / "b" / "7.png")
    noise(1, (16, 20)).save(root / "c" / "8.png")
    with pytest.raises(DatasetError) as caught:
        read(root)
    message = str(caught.value)
    assert message.startswith("2 of 17 images in ")
    assert "The first, b/7.png, is 20 x 16 pixels, expected 16 x 16" in message
    for way in ("fit='pad'", "fit='crop'", "fit='stretch'"):
        assert way in message
    assert read(root, fit="pad").settings["original_sizes"] == {"16x16": 15, "20x16": 1, "16x20": 1}


# --- ages ------------------------------------------------------------------------------------------------------------


def test_ages_are_matched_by_path(tmp_path: Path):
    root = make_folder(tmp_path / "mine")
    for file in (tmp_path / "ages.csv", tmp_path / "ages.parquet"):
        table = pd.DataFrame({"path": ["c/1.png", "a/0.png", "a/1.png"], "age_years": [7.5, 41.0, np.nan]})
        table.to_csv(file, index=False) if file.suffix == ".csv" else table.to_parquet(file)
        dataset = read(root, ages=file)
        known = dataset.manifest.dropna(subset="age_years")
        assert dict(zip(known["path"], known["age_years"], strict=True)) == {"a/0.png": 41.0, "c/1.png": 7.5}
        assert dataset.settings["ages"] == {
            "table": str(file),
            "n_labelled": 2,
            "n_unlabelled": 13,
            "n_rows": 3,
            "n_rows_unmatched": 0,
        }


def test_ages_match_however_letters_are_composed(tmp_path: Path):
    root = make_folder(tmp_path / "mine", {unicodedata.normalize("NFD", "Zoé"): 2} | dict.fromkeys("abcd", 2))
    (tmp_path / "ages.csv").write_text("path,age_years\n" + unicodedata.normalize("NFC", "Zoé/1.png") + ",9\n")
    assert read(root, ages=tmp_path / "ages.csv").settings["ages"]["n_labelled"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,age_years\na/0.png,5\nx/9.png,6\n",
            r"1 of 2 rows match no image in .*: x/9.png \(row 2\).*such as '",
        ),
        ("path,age_years\na/0.png,-1\n", r"row 1 \(line 2\), column age_years: -1 is not an age"),
        ("path,age_years\na/0.png,old\n", "column age_years: 'old' is not a number"),
        ("path,age_years\na/0.png,5\na/0.png,6\n", r"row 2 \(line 3\), column path: 'a/0.png' is already in row 1"),
        ("path,age\na/0.png,5\n", "has no column age_years"),
        ("path,age_years\n", "has no rows"),
        ("path,age_years\n/a/0.png,5\n", "is absolute"),
    ],
)
def test_bad_age_tables_are_refused(tmp_path: Path, text: str, message: str):
    root = make_folder(tmp_path / "mine")
    (tmp_path / "ages.csv").write_text(text)
    with pytest.raises(ManifestError, match=message) as caught:
        read(root, ages=tmp_path / "ages.csv")
    assert "ages.csv" in str(caught.value)


def test_a_missing_age_table_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match="There is no table"):
        read(make_folder(tmp_path / "mine"), ages=tmp_path / "ages.csv")


# --- splits ----------------------------------------------------------------------------------------------------------


def heldout(root: Path, **settings: Any) -> set[str]:
    manifest = read(root, **settings).manifest
    split_of = manifest.groupby("identity")["split"].nunique()
    assert (split_of == 1).all()
    return set(manifest.loc[manifest["split"] == "heldout", "identity"])


def in_drawn_order(people: list[str], seed: int) -> list[str]:
    return sorted(people, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())


def test_people_are_held_out_by_hash(tmp_path: Path):
    people = [f"p{number}" for number in range(20)]
    root = make_folder(tmp_path, dict.fromkeys(people, 2))
    for seed in (0, 1):
        by_hash = in_drawn_order(people, seed)
        assert heldout(root, seed=seed) == set(by_hash[:5])
        assert heldout(root, seed=seed, heldout_share=0.5) == set(by_hash[:10])
    assert heldout(root, heldout_share=0.0) == set()
    assert heldout(root, heldout_share=0.01) == set(in_drawn_order(people, 0)[:2])
    assert heldout(root, heldout_share=1.0) == set(people)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("heldout_share", "n_heldout"), [(0.25, 5), (0.01, 2), (0.0, 0), (0.7, 14)])
@pytest.mark.parametrize(("validation_share", "n_validation"), [(0.3, 6), (0.15, 3), (0.02, 2), (0.0, 0)])
def test_validation_people_are_the_next_by_hash(
    tmp_path: Path, seed: int, heldout_share: float, n_heldout: int, validation_share: float, n_validation: int
):
    people = [f"p{number}" for number in range(20)]
    root = make_folder(tmp_path, dict.fromkeys(people, 2))
    dataset = read(root, seed=seed, heldout_share=heldout_share, validation_share=validation_share)
    drawn = in_drawn_order(people, seed)
    expected = dict.fromkeys(people, "train")
    expected |= dict.fromkeys(drawn[:n_heldout], "heldout")
    expected |= dict.fromkeys(drawn[n_heldout : n_heldout + n_validation], "validation")
    manifest = dataset.manifest
    assert manifest["split"].tolist() == [expected[name] for name in manifest["identity"]]
    assert dataset.settings["n_validation_identities"] == n_validation
    assert dataset.settings["n_heldout_identities"] == n_heldout
    assert dataset.settings["n_train_identities"] == 20 - n_heldout - n_validation


def test_all_people_can_be_kept_from_training(tmp_path: Path):
    root = make_folder(tmp_path, dict.fromkeys("abcdef", 2))
    for shares, expected in (((0.7, 0.3), (4, 2)), ((0.1, 0.9), (2, 4)), ((1.0, 0.0), (6, 0)), ((0.0, 1.0), (0, 6))):
        dataset = read(root, heldout_share=shares[0], validation_share=shares[1])
        rows = (dataset.rows("heldout"), dataset.rows("validation"))
        assert tuple(len(part) // 2 for part in rows) == expected
        assert len(dataset.rows("train")) == 0


def test_a_new_person_does_not_reshuffle_the_others(tmp_path: Path):
    root = make_folder(tmp_path, {f"p{number}": 2 for number in range(20)})
    before = heldout(root)
    make_folder(root, {"new": 2})
    assert len(before - heldout(root)) <= 1


def test_too_few_people_are_refused_where_the_purpose_is_impossible(tmp_path: Path):
    one = make_folder(tmp_path / "one", {"a": 5})
    with pytest.raises(DatasetError, match=r"has 1 identity \(a\).*two to train on and two to hold out"):
        read(one)
    for share, needed in ((0.0, "two to train on"), (1.0, "two to hold out")):
        with pytest.raises(DatasetError, match=f"there must be {needed}\\."):
            read(one, heldout_share=share)
    two = make_folder(tmp_path / "two", {"a": 2, "b": 2})
    assert len(read(two, heldout_share=0.0)) == len(read(two, heldout_share=1.0)) == 4
    with pytest.raises(DatasetError, match="has 2 identities"):
        read(two)
    three = make_folder(tmp_path / "three", {"a": 2, "b": 2, "c": 2})
    with pytest.raises(DatasetError, match="has 3 identities"):
        read(three)
    four = make_folder(tmp_path / "four", dict.fromkeys("abcd", 2))
    assert len(heldout(four)) == 2
    with pytest.raises(
        DatasetError,
        match=r"heldout_share=0\.25 and validation_share=0\.1 there must be two to train on and two to val",
    ):
        read(four, validation_share=0.1)
    six = make_folder(tmp_path / "six", dict.fromkeys("abcdef", 2))
    assert read_identity_folder(six, image_size=SIZE).manifest["split"].value_counts().to_dict() == {
        "train": 4,
        "validation": 4,
        "heldout": 4,
    }


def test_people_with_one_image_are_named_or_kept_for_training(tmp_path: Path):
    root = make_folder(tmp_path, {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3})
    with pytest.raises(DatasetError, match=r"2 of 5 .* fewer than 2 readable images: a \(1\), b \(1\)") as caught:
        read(root)
    assert "min_images_per_identity=1" in str(caught.value)
    for seed in range(6):
        assert heldout(root, min_images_per_identity=1, seed=seed) < {"c", "d", "e"}
    make_folder(root, {"f": 1, "g": 1, "h": 1})
    with pytest.raises(DatasetError, match=r"4 of the 8 identities .* only 3 have the two images"):
        read(root, min_images_per_identity=1, heldout_share=0.5)
    with pytest.raises(DatasetError, match=r"2 of the 8 .* held out and 2 are to validate, but only 3 have the two"):
        read(root, min_images_per_identity=1, validation_share=0.25)


def test_a_person_without_images_is_named(tmp_path: Path):
    root = make_folder(tmp_path)
    (root / "nobody").mkdir()
    for least in (1, 2):
        with pytest.raises(DatasetError, match=r"nobody \(0\)\. A folder without images is no person"):
            read(root, min_images_per_identity=least)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 0},
        {"fit": "squeeze"},
        {"heldout_share": -0.1},
        {"heldout_share": 1.1},
        {"heldout_share": float("nan")},
        {"validation_share": -0.1},
        {"validation_share": 1.1},
        {"validation_share": 0.8},
        {"min_images_per_identity": 0},
        {"on_unreadable": "skip"},
        {"unmatched_ages": "skip"},
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        read(tmp_path, **settings)


# --- photographs -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ATT_FACES.is_dir(), reason=f"the AT&T faces are not at {ATT_FACES}")
def test_att_faces_from_end_to_end(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"400 of 400 images.*The first, s1/1\.pgm, is 92 x 112 pixels"):
        read_identity_folder(ATT_FACES)
    dataset = read_identity_folder(ATT_FACES, fit="pad", validation_share=0.15)
    validate_manifest(dataset.manifest)
    assert dataset.images.shape == (400, 112, 112, 3)
    assert dataset.manifest["identity"].nunique() == 40
    assert dataset.manifest["identity"].unique().tolist() == [f"s{number}" for number in range(1, 41)]
    assert dataset.manifest["age_years"].notna().sum() == 0
    assert len(dataset.rows("heldout")) == 100
    assert len(dataset.rows("validation")) == 60
    assert len(dataset.rows("train")) == 240
    row = dataset.manifest.index[dataset.manifest["path"] == "s7/10.pgm"][0]
    content = (ATT_FACES / "s7" / "10.pgm").read_bytes()
    pixels = np.frombuffer(content[-92 * 112 :], dtype=np.uint8).reshape(112, 92)
    for channel in range(3):
        np.testing.assert_array_equal(dataset.images[row, :, 10:102, channel], pixels)
    assert dataset.images[:, :, :10].max() == 0
    save_dataset(dataset, tmp_path / "att")
    verify_dataset(tmp_path / "att")
    assert len(load_dataset(tmp_path / "att")) == 400
