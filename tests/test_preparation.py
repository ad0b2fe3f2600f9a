"""A dataset folder is made once, loaded when it is there, and never replaced by another or taken for another."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy import toy_dataset

from interproto_lib.data import (
    IdentityFolderSettings,
    PreparedSettings,
    dataset_contents,
    dataset_settings,
    load_dataset,
    prepare_dataset,
    read_card,
    save_dataset,
    source_contents,
    verify_dataset,
)
from interproto_lib.data.synthetic import SyntheticSettings
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError, WriteError
from interproto_lib.runs import PROJECT_ROOT

FEW = SyntheticSettings(
    n_identities=3,
    images_per_identity=2,
    n_child_identities=1,
    child_images=(1, 1),
    n_heldout_identities=0,
    n_validation_identities=0,
)


@pytest.fixture
def photographs(tmp_path: Path) -> IdentityFolderSettings:
    root = tmp_path / "faces"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16, 3), dtype=np.uint8)
    for identity, images in zip("abcd", pixels, strict=True):
        (root / identity).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / identity / f"{number}.png")
    (tmp_path / "ages.csv").write_text("path,age_years\na/0.png,5\n")
    return IdentityFolderSettings(root=str(root), ages=str(tmp_path / "ages.csv"), image_size=16, validation_share=0.0)


# --- drawn faces -----------------------------------------------------------------------------------------------------


def test_drawn_once_then_loaded_then_refused(tmp_path: Path):
    drawn: list[int] = []

    def count(done: int, of: int) -> None:
        drawn.append(done)

    first = prepare_dataset(tmp_path / "d", FEW, progress=count)
    n_reports = len(drawn)
    again = prepare_dataset(tmp_path / "d", FEW, progress=count)
    assert n_reports > 0
    assert len(drawn) == n_reports
    assert np.array_equal(first.images, again.images)
    assert again.settings["requested"] == {"dataset": "synthetic", **FEW.to_dict()}
    with pytest.raises(DatasetError, match=r"nuisance was 0\.7, now 0\.5; seed was 0, now 1.*Choose another exper"):
        prepare_dataset(tmp_path / "d", replace(FEW, seed=1, nuisance=0.5))
    verify_dataset(tmp_path / "d")


def test_photographs_do_not_take_the_place_of_drawn_faces(tmp_path: Path, photographs: IdentityFolderSettings):
    prepare_dataset(tmp_path / "d", FEW)
    with pytest.raises(DatasetError, match="dataset was 'synthetic', now 'identity_folder'"):
        prepare_dataset(tmp_path / "d", photographs)


# --- photographs -----------------------------------------------------------------------------------------------------


def test_read_once_then_loaded(tmp_path: Path, photographs: IdentityFolderSettings):
    first = prepare_dataset(tmp_path / "d", photographs)
    assert len(first) == 12
    assert first.settings["ages"]["n_labelled"] == 1

    def never(done: int, of: int) -> None:
        raise AssertionError("read again")

    again = prepare_dataset(tmp_path / "d", replace(photographs, card="att_faces"), progress=never)
    assert np.array_equal(first.images, again.images)
    with pytest.raises(DatasetError, match="fit was 'error', now 'pad'"):
        prepare_dataset(tmp_path / "d", replace(photographs, fit="pad"))


def test_what_changed_in_the_folder_is_said(tmp_path: Path, photographs: IdentityFolderSettings):
    prepare_dataset(tmp_path / "d", photographs)
    before = (tmp_path / "d" / "dataset.json").read_bytes()
    root, ages = Path(photographs.root), Path(photographs.ages)

    def refused(change: str) -> None:
        with pytest.raises(DatasetError) as caught:
            prepare_dataset(tmp_path / "d", photographs)
        message = str(caught.value)
        assert message.startswith(f"{root} is not as it was when {tmp_path / 'd'} was made from it: {change}. Choose")
        assert f"remove {tmp_path / 'd'} and the runs trained on it" in message
        assert (tmp_path / "d" / "dataset.json").read_bytes() == before

    table = ages.read_bytes()
    ages.write_text("path,age_years\na/0.png,6\n")
    refused("the age table has changed")
    (root / "d" / "notes.txt").write_text("no image")
    (root / "d" / ".hidden.png").write_bytes(b"x")
    ages.write_bytes(table)
    prepare_dataset(tmp_path / "d", photographs)

    added = root / "d" / "3.png"
    Image.new("RGB", (16, 16)).save(added)
    refused("the folder held 12 images, now 13")
    ages.write_text("path,age_years\na/0.png,6\n")
    refused("the folder held 12 images, now 13; the age table has changed")
    ages.write_bytes(table)
    added.unlink()

    image = root / "a" / "0.png"
    status, content = image.stat(), image.read_bytes()
    image.write_bytes(content + b"x")
    total = sum(file.stat().st_size for file in root.glob("*/[0-9].png"))
    refused(f"the 12 images took {total - 1:,} bytes, now {total:,}: some are other ones")
    image.write_bytes(content)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refused("some of the 12 images were renamed or written anew")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    prepare_dataset(tmp_path / "d", photographs)
    (root / "a").rename(root / "e")
    refused("some of the 12 images were renamed or written anew")


def test_a_dataset_without_a_record_of_the_folder_is_refused(tmp_path: Path, photographs: IdentityFolderSettings):
    prepare_dataset(tmp_path / "d", photographs)
    index = json.loads((tmp_path / "d" / "dataset.json").read_text())
    del index["settings"]["requested"]["contents"]
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(DatasetError, match="what it held was not recorded"):
        prepare_dataset(tmp_path / "d", photographs)


def test_a_reading_that_fails_leaves_nothing_but_its_lock(tmp_path: Path, photographs: IdentityFolderSettings):
    with pytest.raises(DatasetError, match=r"12 of 12 images in .* are not 8 x 8 pixels"):
        prepare_dataset(tmp_path / "d", replace(photographs, image_size=8))
    assert [entry.name for entry in (tmp_path / "d").iterdir()] == [".packing.lock"]
    prepare_dataset(tmp_path / "d", photographs)
    assert sorted(entry.name for entry in (tmp_path / "d").iterdir()) == [
        "dataset.json",
        "images.npy",
        "manifest.parquet",
    ]


def test_paths_start_at_home_or_at_the_projects_root(
    tmp_path: Path, photographs: IdentityFolderSettings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = replace(photographs, root="~/faces", ages="~/ages.csv")
    assert len(prepare_dataset(tmp_path / "home", at_home)) == 12
    relative = replace(photographs, root=os.path.relpath(photographs.root, PROJECT_ROOT), ages="")
    assert len(prepare_dataset(tmp_path / "relative", relative)) == 12
    with pytest.raises(ConfigError, match="no home folder for it"):
        prepare_dataset(tmp_path / "d", replace(photographs, root="~no-such-user-here/faces"))


# --- what is missing -------------------------------------------------------------------------------------------------


def test_a_missing_folder_with_a_card_gives_its_steps(tmp_path: Path, photographs: IdentityFolderSettings):
    missing = replace(photographs, root=str(tmp_path / "casia-webface"), card="casia_webface")
    with pytest.raises(DatasetNotFoundError) as caught:
        prepare_dataset(tmp_path / "d", missing)
    assert f"was looked for in {tmp_path / 'casia-webface'}, which does not exist" in str(caught.value)
    steps = [f"  {n}. {step}" for n, step in enumerate(read_card("casia_webface").how_to_obtain, start=1)]
    assert all(step in str(caught.value) for step in steps)
    no_ages = replace(photographs, ages=str(tmp_path / "none.txt"), card="casia_webface")
    with pytest.raises(DatasetNotFoundError, match=r"but its file .*none\.txt does not exist. To obtain it:\n  1\. "):
        prepare_dataset(tmp_path / "d", no_ages)
    with pytest.raises(DatasetNotFoundError, match=r"There is no folder .*nowhere.*one folder for each identity"):
        prepare_dataset(tmp_path / "d", replace(photographs, root=str(tmp_path / "nowhere")))
    with pytest.raises(DatasetNotFoundError, match="no dataset card 'casia'"):
        prepare_dataset(tmp_path / "d", replace(photographs, card="casia"))


def test_a_root_must_be_set():
    with pytest.raises(ConfigError, match="root is empty: set it to the folder of your photographs"):
        IdentityFolderSettings(root=" ", image_size=112)


def test_settings_come_from_the_variables_of_a_notebook():
    names = {**FEW.to_dict(), "root": "r", "ages": "", "card": "", "fit": "pad", "heldout_share": 0.5}
    names |= {"validation_share": 0.2}
    names |= {"min_images_per_identity": 1, "on_unreadable": "drop", "unmatched_ages": "drop", "folder": 3}
    assert dataset_settings("synthetic", names, seed=4) == replace(FEW, seed=4)
    photographs = dataset_settings("identity_folder", names, seed=4)
    assert isinstance(photographs, IdentityFolderSettings)
    assert (photographs.root, photographs.fit, photographs.seed) == ("r", "pad", 4)
    assert (photographs.heldout_share, photographs.validation_share) == (0.5, 0.2)
    with pytest.raises(ConfigError, match="dataset='folder': must be 'synthetic' or 'identity_folder'"):
        dataset_settings("folder", names, seed=0)


# --- prepared elsewhere ----------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path, photographs: IdentityFolderSettings) -> PreparedSettings:
    prepare_dataset(tmp_path / "prepared", photographs)
    return PreparedSettings(root=str(tmp_path / "prepared"))


def test_a_prepared_dataset_is_taken_without_a_copy_of_its_images(tmp_path: Path, prepared: PreparedSettings):
    taken = prepare_dataset(tmp_path / "d", prepared)
    original = load_dataset(prepared.root)
    assert (tmp_path / "d" / "images.npy").samefile(tmp_path / "prepared" / "images.npy")
    assert not (tmp_path / "d" / "images.npy").is_symlink()
    assert not (tmp_path / "d" / "manifest.parquet").samefile(tmp_path / "prepared" / "manifest.parquet")
    for back in (taken, verify_dataset(tmp_path / "d"), prepare_dataset(tmp_path / "d", prepared)):
        assert back.name == original.name
        np.testing.assert_array_equal(back.images, original.images)
        pd.testing.assert_frame_equal(back.manifest, original.manifest)
        assert {**back.settings, "requested": original.settings["requested"]} == original.settings
        index = hashlib.sha256((tmp_path / "prepared" / "dataset.json").read_bytes()).hexdigest()
        assert back.settings["requested"] == {
            "dataset": "prepared",
            "root": prepared.root,
            "image_size": 16,
            "contents": {"image_size": 16, "n_images": 12, "index_sha256": index},
        }
    shutil.rmtree(tmp_path / "prepared")
    verify_dataset(tmp_path / "d")
    with pytest.raises(DatasetNotFoundError, match="no dataset folder"):
        prepare_dataset(tmp_path / "d", prepared)


def test_where_hard_links_are_refused_the_images_are_linked_by_name(
    tmp_path: Path, prepared: PreparedSettings, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.chdir(tmp_path)
    prepare_dataset(tmp_path / "d", PreparedSettings(root=os.path.relpath(prepared.root, PROJECT_ROOT)))
    assert (tmp_path / "d" / "images.npy").is_symlink()
    assert (tmp_path / "d" / "images.npy").samefile(tmp_path / "prepared" / "images.npy")
    verify_dataset(tmp_path / "d")
    prepare_dataset(tmp_path / "of a link", PreparedSettings(root=str(tmp_path / "d")))
    assert (tmp_path / "of a link" / "images.npy").readlink() == tmp_path / "prepared" / "images.npy"
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(WriteError, match="Choose a folder on a file system with links"):
        prepare_dataset(tmp_path / "e", prepared)
    assert not (tmp_path / "e" / "dataset.json").exists()


def test_another_preparation_is_noticed(
    tmp_path: Path, prepared: PreparedSettings, photographs: IdentityFolderSettings
):
    prepare_dataset(tmp_path / "d", prepared)
    images = (tmp_path / "d" / "images.npy").read_bytes()
    shutil.rmtree(prepared.root)
    prepare_dataset(prepared.root, replace(photographs, image_size=8, fit="pad"))
    with pytest.raises(DatasetError, match="image_size was 16, now 8"):
        prepare_dataset(tmp_path / "d", prepared)
    shutil.rmtree(prepared.root)
    prepare_dataset(prepared.root, replace(photographs, seed=1))
    with pytest.raises(
        DatasetError, match=r"prepared is not as it was when .*d was made from it: it was prepared anew\."
    ):
        prepare_dataset(tmp_path / "d", prepared)
    assert (tmp_path / "d" / "images.npy").read_bytes() == images


def test_the_image_size_must_agree_if_it_is_given(tmp_path: Path, prepared: PreparedSettings):
    with pytest.raises(DatasetError, match=r"holds images of 16 x 16 pixels, not 112 x 112\. Set image_size to 16"):
        prepare_dataset(tmp_path / "d", replace(prepared, image_size=112))
    prepare_dataset(tmp_path / "d", replace(prepared, image_size=16))
    prepare_dataset(tmp_path / "d", prepared)


def test_what_is_not_prepared_is_refused(tmp_path: Path, prepared: PreparedSettings):
    with pytest.raises(ConfigError, match="root is empty: set it to a dataset folder made by `interproto prepare`"):
        PreparedSettings(root="")
    (Path(prepared.root) / "dataset.json").unlink()
    with pytest.raises(DatasetNotFoundError, match="unfinished dataset"):
        prepare_dataset(tmp_path / "d", prepared)
    prepare_dataset(tmp_path / "synthetic", FEW)
    prepare_dataset(tmp_path / "again", PreparedSettings(root=str(tmp_path / "synthetic")))
    with pytest.raises(DatasetError, match="dataset was 'synthetic', now 'prepared'"):
        prepare_dataset(tmp_path / "synthetic", PreparedSettings(root=str(tmp_path / "again")))


def test_settings_of_a_prepared_dataset_come_from_the_variables_of_a_notebook():
    names = {"root": "r", "image_size": 112, "card": "", "fit": "pad", "seed": 3}
    found = dataset_settings("prepared", names, seed=4)
    assert found == PreparedSettings(root="r"), "its images have the size they have, whatever faces are to be made"
    with pytest.raises(ConfigError, match="No variable for the setting card"):
        dataset_settings("prepared", {"root": "r"}, seed=4)


# --- what lies in a folder -------------------------------------------------------------------------------------------


def test_contents_do_not_depend_on_where_the_folder_lies(tmp_path: Path, photographs: IdentityFolderSettings):
    contents = source_contents(photographs.root, photographs.ages)
    assert contents["n_images"] == 12
    assert contents["n_bytes"] == sum(file.stat().st_size for file in Path(photographs.root).glob("*/*.png"))
    Path(photographs.root).rename(tmp_path / "moved")
    assert source_contents(tmp_path / "moved", photographs.ages) == contents
    assert source_contents(tmp_path / "moved")["ages_sha256"] is None


def test_contents_of_what_cannot_be_listed(tmp_path: Path, photographs: IdentityFolderSettings):
    nothing = source_contents("")
    assert nothing["n_images"] == 0
    assert source_contents(tmp_path / "nowhere", tmp_path / "none.csv") == nothing
    contents = source_contents(photographs.root)
    (Path(photographs.root) / "a" / "link.png").symlink_to(tmp_path / "gone.png")
    with_link = source_contents(photographs.root)
    assert with_link["n_images"] == 13
    assert with_link["n_bytes"] == contents["n_bytes"]


def test_the_graph_notices_a_dataset_prepared_anew(tmp_path):
    folder = tmp_path / "prepared"
    parameters = {"dataset": "prepared", "root": str(folder)}
    before = dataset_contents(parameters)
    assert before == {"index_sha256": None}
    save_dataset(toy_dataset(n_identities=3), folder)
    made = dataset_contents(parameters)
    save_dataset(toy_dataset(n_identities=4), folder)
    assert len({str(state) for state in (before, made, dataset_contents(parameters))}) == 3
