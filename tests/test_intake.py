"""Preparing datasets: what is made of each true format, what is said beside its card, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzzing import assert_only_named_errors, mutations
from intake_sources import N_CASIA, agedb, att_like, casia, casia_paths, fgnet, jpeg, lag, put, recordio
from intake_sources import verification_bin as write_bin
from PIL import Image

from interproto_lib.data.card_counts import CardCount, compare_with_card, count_images
from interproto_lib.data.datasets import load_dataset, verify_dataset
from interproto_lib.data.face_decoding import AlignmentOptions
from interproto_lib.data.intake import prepare_source
from interproto_lib.data.intake_report import IntakeReport
from interproto_lib.data.prepared_check import check_prepared
from interproto_lib.data.registry import read_card
from interproto_lib.data.verification_files import check_verification_file
from interproto_lib.errors import CheckpointError, ConfigError, DatasetError, DatasetNotFoundError, ManifestError

ATT_FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "att_faces"


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def rejected_rows(folder: Path) -> list[tuple[str, str]]:
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["path", "reason"]
    return [(path, reason) for path, reason in rows[1:]]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- counts beside the card ------------------------------------------------------------------------------------------


def test_children_are_counted_as_the_official_code_counts_them():
    """At least ten images below 13 years, whatever the split; counted here by hand."""
    ages = {"a": [12.99] * 10, "b": [0.0] * 9 + [13.0] * 5, "c": [float("nan")] * 12, "d": [5.0] * 11 + [70.0]}
    table = pd.DataFrame([(name, age) for name, of_name in ages.items() for age in of_name])
    table.columns = ["identity", "age_years"]
    counts = count_images(table)
    assert counts == {"identities": 4, "images": 48, "child_images": 30, "child_classes": 2}
    unlabelled = count_images(table.assign(age_years=float("nan")))
    assert unlabelled == {"identities": 4, "images": 48, "child_images": None, "child_classes": None}
    without_children = count_images(table.assign(age_years=40.0))
    assert without_children["child_images"] == without_children["child_classes"] == 0


@pytest.mark.parametrize(
    ("found", "further", "words"),
    [
        ({"images": 490_623}, {}, "images: 490,623, as on the card"),
        ({"images": 490_600}, {"n_rejected": 23}, "23 fewer. The 23 rejected images are the difference."),
        ({"images": 490_600}, {"n_rejected": 22}, "23 fewer. Usually a copy or an export that stopped early"),
        ({"images": 494_414}, {}, "3,791 more. Usually the collection before it was cleaned"),
        ({"identities": 10_575}, {}, "3 more. Usually the collection before it was cleaned, or folders that are no"),
        ({"identities": 10_500}, {}, "72 fewer. Usually a copy or an export that stopped early"),
        (
            {"child_classes": None},
            {},
            "child identities (10 child images or more): unknown, the card says 229.",
        ),
        ({"child_images": 9_000}, {"n_unlabelled": 5}, "326 fewer. Images without an age (5) count as"),
        ({"child_images": 9_000}, {}, "326 fewer. Usually other age labels than the card's"),
    ],
)
def test_a_difference_is_said_with_what_it_usually_means(found, further, words):
    count = compare_with_card(read_card("casia_webface"), found, **further)[0]
    assert words in str(count)
    assert count.differs == ("as on the card" not in words)


def test_a_card_without_a_number_makes_no_difference():
    count = CardCount(key="images", found=3, expected=None)
    assert not count.differs
    assert str(count) == "images: 3 (the card names no number)"


# --- verification files ----------------------------------------------------------------------------------------------


def test_a_verification_file_needs_no_preparation(tmp_path):
    write_bin(tmp_path / "cfp_fp.bin", n_pairs=6)
    seen: list[tuple[int, int]] = []
    card = read_card("cfp_fp")
    report = check_verification_file(card, tmp_path / "cfp_fp.bin", progress=lambda done, of: seen.append((done, of)))
    assert (report.n_pairs, report.n_same) == (6, 3)
    assert seen == [(n, 12) for n in range(1, 13)]
    text = str(report)
    assert "6 pairs, 3 of them of one person; all 12 images can be read" in text
    assert "pairs: 6, the card says 7,000: 6,994 fewer." in text
    assert "It needs no preparation" in text
    assert f'CFP-FP: {{bin: "{tmp_path / "cfp_fp.bin"}", validation: any}}' in text


@pytest.mark.parametrize(
    ("card", "title"), [("lfw", "LFW"), ("calfw", "CALFW"), ("cplfw", "CPLFW"), ("agedb_30", "AgeDB-30")]
)
def test_the_name_of_a_test_set_is_the_usual_one(tmp_path, card, title):
    file = tmp_path / f"{card}.bin"
    write_bin(file, n_pairs=1)
    assert f"\n      {title}: {{bin: " in str(check_verification_file(read_card(card), file))


def test_a_damaged_verification_file_names_its_images(tmp_path):
    images = [jpeg(seed) for seed in range(24)]
    images[3] = images[3][:100]
    images[20] = jpeg(0, size=(96, 112))
    file = tmp_path / "lfw.bin"
    file.write_bytes(pickle.dumps((images, [True] * 12), protocol=2))
    with pytest.raises(DatasetError) as caught:
        check_verification_file(read_card("lfw"), file)
    message = str(caught.value)
    assert f"2 of 24 images of {file} cannot be used" in message
    assert "image 3 is damaged or cut short" in message
    assert "image 20 is 96 x 112 pixels, expected 112 x 112" in message
    with pytest.raises(ConfigError, match=r"the card lag describes a dataset that has none\. .*agedb_30.*lfw"):
        check_verification_file(read_card("lag"), file)


# --- each shape ------------------------------------------------------------------------------------------------------


def test_folders_with_padded_names_and_labels_without_zeros(tmp_path):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    told: list[str] = []
    report = prepare_source(
        "casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "ages.txt", say=told.append
    )
    dataset = load_dataset(tmp_path / "out")
    assert dataset.manifest["path"].tolist() == [f"{i:06d}/{n:08d}.jpg" for i, n in casia_paths()]
    assert dataset.manifest["identity"].tolist() == [f"{i:06d}" for i, _ in casia_paths()]
    assert set(dataset.manifest["split"]) == {"train"}
    assert set(dataset.manifest["source"]) == {"casia_webface"}
    ages = [7.0] * 11 + [np.nan] + [12.0] * 3 + [34.0] * 11
    np.testing.assert_array_equal(dataset.manifest["age_years"], ages)
    for row, (_, number) in enumerate(casia_paths()):
        np.testing.assert_array_equal(dataset.images[row], decoded(jpeg(number)))

    assert {count.key: count.found for count in report.counts} == {
        "identities": 4,
        "images": N_CASIA,
        "child_images": 14,
        "child_classes": 1,
    }
    assert report.ages["n_labelled"] == 25
    assert report.rejected == ()
    assert rejected_rows(tmp_path / "out") == []
    # Said before the images are decoded, so that wrong labels are seen in time.
    assert len(told) >= 1
    assert "identity_folders" in told[0]
    assert any("25" in text and "######/########.jpg" in text for text in told)
    text = str(report)
    assert "child identities (10 child images or more): 1, the card says 229: 228 fewer. Images without an age" in text
    assert "train 26 images of 4 identities" in text
    assert "Rejected: none." in text
    written = json.loads((tmp_path / "out" / "preparation.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["time"]["images_decoded"] == N_CASIA


def test_recordio_gives_what_the_folders_of_its_export_give(tmp_path):
    casia(tmp_path / "folders", labels=tmp_path / "ages.txt")
    recordio(tmp_path / "records")
    prepared = {}
    for name, source in (("folders", "folders"), ("records", "records"), ("file", "records/train.rec")):
        report = prepare_source(
            "casia_webface", tmp_path / source, tmp_path / f"out-{name}", ages=tmp_path / "ages.txt"
        )
        assert report.shape == ("identity_folders" if name == "folders" else "recordio")
        prepared[name] = load_dataset(tmp_path / f"out-{name}")
    for name in ("records", "file"):
        pd.testing.assert_frame_equal(prepared[name].manifest, prepared["folders"].manifest)
        assert prepared[name].images_sha256 == prepared["folders"].images_sha256


@pytest.mark.parametrize(
    ("card", "write", "identities", "ages"),
    [
        ("agedb", agedb, 3, [9, 11, 40, 35, 61, 12, 13]),
        ("fgnet", fgnet, 3, [2, 28, 7, 7, 45]),
        ("lag", lag, 2, [np.nan] * 5),
    ],
)
def test_evaluation_sets_are_held_out_whole(tmp_path, card, write, identities, ages):
    write(tmp_path / "source")
    report = prepare_source(card, tmp_path / "source", tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    assert report.shape == card
    assert set(dataset.manifest["split"]) == {"heldout"}
    assert dataset.manifest["identity"].nunique() == identities
    np.testing.assert_array_equal(np.sort(dataset.manifest["age_years"]), np.sort(np.array(ages, dtype=float)))
    paths = {file.relative_to(tmp_path / "source").as_posix() for file in (tmp_path / "source").rglob("*.[jJ]*")}
    assert set(dataset.manifest["path"]) == paths
    for row, path in enumerate(dataset.manifest["path"]):
        np.testing.assert_array_equal(dataset.images[row], decoded((tmp_path / "source" / path).read_bytes()))
    if card == "lag":
        young = dataset.manifest["path"].str.contains("/y/").tolist()
        assert dataset.manifest["young"].tolist() == young
        assert sum(young) == 3


def test_without_ages_all_are_unlabelled_and_children_are_not_counted(tmp_path):
    casia(tmp_path / "source")
    told: list[str] = []
    report = prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", say=told.append)
    assert load_dataset(tmp_path / "out").manifest["age_years"].isna().all()
    assert "all 26 images are unlabelled, no age is assumed, and child images and child identities cannot" in told[1]
    found = {count.key: count.found for count in report.counts}
    assert found["child_images"] is None
    assert found["child_classes"] is None
    text = str(report)
    assert "all 26 images are unlabelled" in text
    assert "child identities (10 child images or more): unknown, the card says 229." in text
    assert "No image has an age, and none is assumed." in text


def test_labels_that_are_damaged_are_refused_or_counted(tmp_path):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    lines = (tmp_path / "ages.txt").read_text().splitlines(keepends=True)
    (tmp_path / "ages.txt").write_text("".join([*lines[:-1], lines[-1].replace("34.0", "nan")]))
    with pytest.raises(ManifestError, match=r"ages\.txt.*line 25"):
        prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "ages.txt")
    report = prepare_source(
        "casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "ages.txt", bad_ages="count"
    )
    assert report.ages["n_labelled"] == 24
    assert report.ages["in_source"]["n_rows_bad_age"] == 1
    assert np.isnan(load_dataset(tmp_path / "out").manifest["age_years"].iloc[-1])


def test_shares_go_by_the_role_on_the_card_and_can_be_chosen(tmp_path):
    casia(tmp_path / "source")
    att_like(tmp_path / "own", people=8)

    def members(card: str, source: str, **shares: float) -> dict[str, int]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        report = prepare_source(card, tmp_path / source, out, fit="pad", image_size=16, **shares)
        manifest = load_dataset(out).manifest
        by_hand = manifest.groupby("split")["identity"].nunique().to_dict()
        assert {split: of["identities"] for split, of in report.splits.items() if of["images"]} == by_hand
        assert len(manifest[["identity", "split"]].drop_duplicates()) == sum(by_hand.values())
        return by_hand

    assert members("casia_webface", "source") == {"train": 4}
    assert members("casia_webface", "source", heldout_share=0.5) == {"train": 2, "heldout": 2}
    assert members("agedb", "source", validation_share=0.5) == {"heldout": 2, "validation": 2}
    assert members("agedb", "source", heldout_share=0.5) == {"train": 2, "heldout": 2}
    assert members("identity_folder", "own") == {"train": 4, "validation": 2, "heldout": 2}
    assert members("identity_folder", "own", heldout_share=1.0) == {"heldout": 8}
    with pytest.raises(ConfigError, match="share"):
        members("casia_webface", "source", heldout_share=1.5)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def damaged_casia(root: Path) -> dict[str, str]:
    """The images of `casia`, three of them damaged; path -> a word of the reason."""
    casia(root)
    put(root, "000001/00000014.jpg", b"")
    put(root, "000002/00000018.jpg", b"no image at all")
    put(root, "000003/00000022.jpg", jpeg(22, size=(112, 96)))
    return {
        "000001/00000014.jpg": "empty",
        "000002/00000018.jpg": "not an image",
        "000003/00000022.jpg": "112 x 96",
    }


def test_images_that_cannot_be_used_are_all_listed(tmp_path):
    reasons = damaged_casia(tmp_path / "source")
    with pytest.raises(DatasetError) as caught:
        prepare_source("casia_webface", tmp_path / "source", tmp_path / "out")
    message = str(caught.value)
    assert str(tmp_path / "out" / "rejected.csv") in message
    assert "--on-rejected drop" in message
    listed = dict(rejected_rows(tmp_path / "out"))
    assert set(listed) == set(reasons)
    for path, word in reasons.items():
        assert word in listed[path]
        assert path in message
    assert not (tmp_path / "out" / "dataset.json").exists()

    report = prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", on_rejected="drop")
    assert [image.path for image in report.rejected] == sorted(reasons)
    assert dict(rejected_rows(tmp_path / "out")) == listed
    manifest = load_dataset(tmp_path / "out").manifest
    assert len(manifest) == N_CASIA - 3
    assert not set(manifest["path"]) & set(reasons)
    verify_dataset(tmp_path / "out")
    assert "Rejected: 3 images, listed in" in str(report)


def test_a_long_list_is_named_in_part_and_written_whole(tmp_path):
    casia(tmp_path / "source")
    for number in range(13):
        put(tmp_path / "source", f"000009/{number}.jpg", b"x")
    report = prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", on_rejected="drop")
    assert "and 3 more" in str(report)
    assert len(rejected_rows(tmp_path / "out")) == 13


def test_no_image_left_is_an_error(tmp_path):
    put(tmp_path / "source", "a/1.jpg", b"x")
    put(tmp_path / "source", "b/1.jpg", b"x")
    with pytest.raises(DatasetError):
        prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", on_rejected="drop")


# --- alignment -------------------------------------------------------------------------------------------------------

TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Where the points of an aligned face are (methods: alignment)."""


def test_photographs_are_aligned_by_landmarks(tmp_path):
    """Photographs in which the template lies shifted by whole pixels: their aligned faces are pieces of them."""
    lines = []
    shifts = {"a/1.png": (30, 12), "a/2.png": (0, 0), "b/1.png": (88, 80), "b/2.png": (7, 41)}
    for seed, (path, shift) in enumerate(shifts.items()):
        put(tmp_path / "source", path, jpeg(seed, size=(220, 200), encoding="PNG"))
        points = " ".join(f"{x:.4f} {y:.4f}" for x, y in TEMPLATE + np.array(shift))
        lines.append(f"{path} {points}\n")
    put(tmp_path / "source", "b/3.png", jpeg(9, size=(220, 200), encoding="PNG"))
    (tmp_path / "points.txt").write_text("".join(lines))

    def prepare() -> IntakeReport:
        return prepare_source(
            "identity_folder",
            tmp_path / "source",
            tmp_path / "out",
            landmarks=tmp_path / "points.txt",
            on_rejected="drop",
            heldout_share=0,
            validation_share=0,
        )

    report = prepare()
    assert [(image.path, image.reason) for image in report.rejected] == [("b/3.png", "not in the landmark file")]
    assert any("b/3.png" in note for note in report.notes)
    dataset = load_dataset(tmp_path / "out")
    assert dataset.manifest["path"].tolist() == list(shifts)
    for row, (path, (x, y)) in enumerate(shifts.items()):
        piece = decoded((tmp_path / "source" / path).read_bytes())[y : y + 112, x : x + 112].astype(int)
        assert np.abs(dataset.images[row].astype(int) - piece).max() <= 2, path
    assert prepare().n_decoded == 0
    (tmp_path / "points.txt").write_text("".join(lines[::-1]))
    with pytest.raises(DatasetError, match="packed otherwise"):
        prepare()


def test_a_missing_detector_comes_with_the_steps_to_get_one(tmp_path):
    casia(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"RetinaFace(.|\n)*--detector"):
        prepare_source("agedb", tmp_path / "source", tmp_path / "out", detector=tmp_path / "det.onnx")
    assert not (tmp_path / "out").exists()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_not_there_comes_with_the_steps_to_get_it(tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        prepare_source("casia_webface", tmp_path / "nowhere", tmp_path / "out")
    message = str(caught.value)
    assert f"was looked for in {tmp_path / 'nowhere'}, which does not exist" in message
    assert f"1. {read_card('casia_webface').how_to_obtain[0]}" in message
    with pytest.raises(DatasetNotFoundError, match=r"no dataset card 'casia'\. .*|no dataset card 'casia'"):
        prepare_source("casia", tmp_path, tmp_path / "out")
    casia(tmp_path / "source")
    with pytest.raises((ManifestError, DatasetNotFoundError), match=r"nowhere\.txt"):
        prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "nowhere.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fit": "squeeze"}, "fit is 'squeeze'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"n_threads": 0}, "n_threads"),
        ({"on_rejected": "skip"}, "on_rejected"),
        ({"shape": "zip"}, "zip"),
        ({"landmarks": "a.csv", "detector": "b.onnx"}, "landmarks and detector"),
        ({"landmarks": "a.csv", "fit": "pad"}, "fit"),
        ({"alignment": AlignmentOptions(choose="largest", antialias=True)}, "choose='largest', antialias=True is for"),
        ({"alignment": AlignmentOptions(score_threshold=0.9), "landmarks": "a.csv"}, "a detector finds"),
        ({"validation_share": 0.7, "heldout_share": 0.7}, "share"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(tmp_path, arguments: dict[str, Any], words: str):
    casia(tmp_path / "source")
    with pytest.raises(ConfigError, match=words):
        prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_written_to(tmp_path):
    casia(tmp_path / "source")
    before = everything(tmp_path / "source")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    for out in (tmp_path / "source", tmp_path / "source" / "out", tmp_path / "link" / "a" / "b"):
        with pytest.raises(ConfigError, match="inside the source"):
            prepare_source("casia_webface", tmp_path / "source", out)
    prepare_source("casia_webface", tmp_path / "source", tmp_path / "out")
    assert everything(tmp_path / "source") == before


def test_built_in_faces_are_drawn_and_not_prepared(tmp_path):
    with pytest.raises(ConfigError, match="drawn"):
        prepare_source("builtin", tmp_path, tmp_path / "out")


# --- again -----------------------------------------------------------------------------------------------------------


def test_a_second_preparation_finds_the_first(tmp_path):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    first = prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "ages.txt")
    files = everything(tmp_path / "out")
    second = prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "ages.txt")
    assert second.n_decoded == 0
    assert "were prepared before" in str(second)
    after = everything(tmp_path / "out")
    assert {name for name in files if files[name] != after[name]} <= {"preparation.json"}
    assert second.counts == first.counts


def test_the_same_source_by_another_path_is_the_same(tmp_path, monkeypatch):
    casia(tmp_path / "work" / "source")
    monkeypatch.chdir(tmp_path / "work")
    prepare_source("casia_webface", "source", "../out")
    written = (tmp_path / "out" / "dataset.json").read_bytes()
    assert json.loads(written)["settings"]["root"] == str(tmp_path / "work" / "source")
    for folder, source in (("work", tmp_path / "work" / "source"), ("work/source", "."), (".", "work/source")):
        monkeypatch.chdir(tmp_path / folder)
        assert prepare_source("casia_webface", source, tmp_path / "out").n_decoded == 0
    assert (tmp_path / "out" / "dataset.json").read_bytes() == written


def test_another_preparation_is_not_mixed_with_the_first(tmp_path):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    prepare_source("casia_webface", tmp_path / "source", tmp_path / "out")
    before = everything(tmp_path / "out")
    for change in ({"image_size": 56, "fit": "pad"}, {"ages": tmp_path / "ages.txt"}, {"heldout_share": 0.5}):
        with pytest.raises(DatasetError):
            prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", **change)
    put(tmp_path / "source", "000000/00000099.jpg", jpeg(99))
    with pytest.raises(DatasetError):
        prepare_source("casia_webface", tmp_path / "source", tmp_path / "out")
    assert everything(tmp_path / "out") == before


# --- checking --------------------------------------------------------------------------------------------------------


def test_a_prepared_dataset_is_checked(tmp_path):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    report = prepare_source("casia_webface", tmp_path / "source", tmp_path / "out", ages=tmp_path / "ages.txt")
    seen: list[tuple[int, int]] = []
    checked = check_prepared(tmp_path / "out", progress=lambda done, of: seen.append((done, of)))
    assert checked.counts == report.counts
    assert checked.splits == report.splits
    assert seen
    assert seen[-1][0] == seen[-1][1]
    text = str(checked)
    assert "is as it was written" in text
    assert "the card says 490,623" in text

    unchanged = check_prepared(tmp_path / "out", source=tmp_path / "source")
    assert "has not changed" in str(unchanged)
    os.utime(tmp_path / "source" / "000000" / "00000001.jpg", (1, 1))
    assert "has changed since" in str(check_prepared(tmp_path / "out", source=tmp_path / "source"))


@pytest.mark.parametrize("name", ["images.npy", "manifest.parquet"])
def test_a_changed_file_is_named(tmp_path, name):
    casia(tmp_path / "source")
    prepare_source("casia_webface", tmp_path / "source", tmp_path / "out")
    content = bytearray((tmp_path / "out" / name).read_bytes())
    content[-7] ^= 1
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(DatasetError, match=name):
        check_prepared(tmp_path / "out")
    with pytest.raises(DatasetNotFoundError):
        check_prepared(tmp_path / "nowhere")


# --- photographs -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ATT_FACES.is_dir(), reason=f"the AT&T faces are not at {ATT_FACES}")
def test_the_att_faces(tmp_path):
    source = next(folder for folder in (ATT_FACES, *sorted(ATT_FACES.iterdir())) if (folder / "s1").is_dir())
    report = prepare_source("att_faces", source, tmp_path / "out", fit="pad")
    assert [str(count).split(",")[-1].strip() for count in report.counts[:2]] == ["as on the card"] * 2
    dataset = load_dataset(tmp_path / "out")
    assert dataset.images.shape == (400, 112, 112, 3)
    row = dataset.manifest["path"].tolist().index("s7/3.pgm")
    with (source / "s7" / "3.pgm").open("rb") as handle:
        assert [handle.readline() for _ in range(3)] == [b"P5\n", b"92 112\n", b"255\n"]
        grey = np.frombuffer(handle.read(), dtype=np.uint8).reshape(112, 92)
    np.testing.assert_array_equal(dataset.images[row, :, 10:102], np.repeat(grey[..., None], 3, axis=2))
    assert not dataset.images[row, :, :10].any()
    assert not dataset.images[row, :, 102:].any()


# --- files that somebody changed -------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A prepared dataset that is read in little time, one image left out; and what prepares it again."""
    casia(tmp_path / "source")
    put(tmp_path / "source", "000000/00000003.jpg", b"x")

    def prepare() -> IntakeReport:
        return prepare_source(
            "casia_webface", tmp_path / "source", tmp_path / "out", image_size=8, fit="stretch", on_rejected="drop"
        )

    prepare()
    return tmp_path / "out", prepare


@pytest.mark.parametrize("place", ["settings", "card", "format", "root", "follow_links", "dropped", "packing", "fit"])
def test_settings_of_another_kind_are_refused_or_read(tmp_path, small, place):
    folder, prepare = small
    written = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    odd = [None, True, -1, 1e300, "", "../lfw", "\x00", [], [None], [{"path": 1}], [{"a": "b"}], {}, {"path": []}]

    def call(case: tuple[Callable[[], object], object]) -> object:
        changed = json.loads(json.dumps(written))
        (changed if place == "settings" else changed["settings"])[place] = case[1]
        (folder / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
        return case[0]()

    calls: list[Callable[[], object]] = [lambda: check_prepared(folder, source=tmp_path / "source")]
    if place in ("settings", "dropped", "packing"):
        calls.append(prepare)
    assert_only_named_errors(call, [(of_calls, value) for of_calls in calls for value in odd])


def test_a_damaged_index_gives_named_errors(small):
    folder, _ = small
    files = sorted(folder.iterdir())
    written = (folder / "dataset.json").read_bytes()

    def call(content: bytes) -> object:
        (folder / "dataset.json").write_bytes(content)
        return check_prepared(folder)

    assert assert_only_named_errors(call, mutations(written, n=400, seed=5)) > 200
    assert sorted(folder.iterdir()) == files
