"""Dataset folders: what is written reads back, half-written or damaged ones are refused, old ones survive a failure."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interproto_lib.data import datasets, image_arrays
from interproto_lib.data.datasets import (
    FaceDataset,
    hash_images,
    load_dataset,
    save_dataset,
    training_labels,
    verify_dataset,
)
from interproto_lib.data.manifests import class_table
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError, ManifestError, WriteError


def make_dataset(n: int = 12, size: int = 8, seed: int = 0, **changes: Any) -> FaceDataset:
    manifest = pd.DataFrame(
        {
            "path": [f"p{row // 3}/{row}.png" for row in range(n)],
            "identity": [f"p{row // 3}" for row in range(n)],
            "age_years": [float(row) if row % 2 else np.nan for row in range(n)],
            "split": ["heldout" if row // 3 == 1 else "train" for row in range(n)],
            "source": "mine",
            "identity_index": np.arange(n) // 3,
        }
    )
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    given: dict[str, Any] = {
        "name": "toy",
        "folder": None,
        "manifest": manifest,
        "images": images,
        "settings": {"seed": seed, "Größe": [1, 2]},
    }
    return FaceDataset(**(given | changes))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- in memory -------------------------------------------------------------------------------------------------------


def test_rows_and_sizes():
    dataset = make_dataset()
    assert len(dataset) == 12
    assert dataset.image_size == 8
    assert dataset.rows("heldout").tolist() == [3, 4, 5]
    assert dataset.rows("validation").tolist() == []
    assert dataset.rows("train").tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert dataset.rows("train").dtype == np.int64
    with pytest.raises(ConfigError, match="'test' is not a split"):
        dataset.rows("test")
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((12, 8, 8, 3), dtype=np.float32), "float32 values; expected a numpy array of uint8"),
        ([[0]], "a list; expected"),
        (np.zeros((12, 8, 8), dtype=np.uint8), r"shape \(12, 8, 8\)"),
        (np.zeros((12, 3, 8, 8), dtype=np.uint8), r"shape \(12, 3, 8, 8\)"),
        (np.zeros((12, 8, 9, 3), dtype=np.uint8), "square and RGB"),
        (np.zeros((12, 0, 0, 3), dtype=np.uint8), "square and RGB"),
        (np.zeros((11, 8, 8, 3), dtype=np.uint8), "11 images but 12 rows"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Any, message: str):
    with pytest.raises(DatasetError, match=message):
        make_dataset(images=images)


def test_bad_manifest_name_and_settings_are_refused():
    with pytest.raises(ManifestError, match="the manifest of dataset 'toy', row 1, column split"):
        make_dataset(manifest=make_dataset().manifest.assign(split="val"))
    with pytest.raises(DatasetError, match="needs a name"):
        make_dataset(name=" ")
    for bad in ({"a": np.float32(1)}, {"a": float("nan")}, {"a": "\udcff"}):
        with pytest.raises(DatasetError, match="settings of dataset 'toy' cannot be written as JSON"):
            make_dataset(settings=bad)


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_a_saved_dataset_reads_back_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_arrays, "BLOCK_BYTES", 500)  # several blocks of two images, the last one short
    dataset = make_dataset(n=11)
    saved = save_dataset(dataset, tmp_path / "deep" / "toy")
    assert names(tmp_path / "deep" / "toy") == ["dataset.json", "images.npy", "manifest.parquet"]
    for back in (saved, load_dataset(tmp_path / "deep" / "toy"), load_dataset(saved.folder or "", in_memory=True)):
        assert back.name == "toy"
        assert back.folder == tmp_path / "deep" / "toy"
        assert back.settings == dataset.settings
        assert back.images.dtype == np.uint8
        np.testing.assert_array_equal(back.images, dataset.images)
        pd.testing.assert_frame_equal(back.manifest, dataset.manifest)


def test_images_are_mapped_or_in_memory_as_asked(tmp_path: Path):
    save_dataset(make_dataset(), tmp_path)
    mapped = load_dataset(tmp_path).images
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    inside = load_dataset(tmp_path, in_memory=True).images
    assert type(inside) is np.ndarray
    assert inside.flags.writeable


def test_the_written_hash_is_that_of_the_file(tmp_path: Path):
    save_dataset(make_dataset(), tmp_path)
    index = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert index["images_sha256"] == hashlib.sha256((tmp_path / "images.npy").read_bytes()).hexdigest()
    assert index["manifest_sha256"] == hashlib.sha256((tmp_path / "manifest.parquet").read_bytes()).hexdigest()
    assert (index["n_images"], index["image_size"], index["name"]) == (12, 8, "toy")
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), make_dataset().images)


def test_the_hash_of_images_is_one_in_memory_and_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = make_dataset(n=11)
    assert dataset.images_sha256 is None
    in_memory = hash_images(dataset)
    monkeypatch.setattr(image_arrays, "BLOCK_BYTES", 500)
    assert hash_images(dataset) == in_memory, "blocks play no part"
    saved = save_dataset(dataset, tmp_path)
    file = hashlib.sha256((tmp_path / "images.npy").read_bytes()).hexdigest()
    for back in (saved, load_dataset(tmp_path), load_dataset(tmp_path, in_memory=True)):
        assert back.images_sha256 == hash_images(back) == file == in_memory
    images = dataset.images.copy()
    images[5, 0, 0, 0] ^= 1
    changed = dataclasses.replace(dataset, images=images)
    assert hash_images(changed) != in_memory
    stale = dataclasses.replace(changed, images_sha256=in_memory)
    assert save_dataset(stale, tmp_path).images_sha256 == hash_images(changed), "writing always hashes what it writes"


def test_images_left_by_a_killed_writer_are_removed(tmp_path: Path):
    for name in (".images-a_8bcdef.npy", ".manifest-abcdefgh.parquet", ".dataset-abcdefgh.json"):
        (tmp_path / name).write_bytes(b"half")
    save_dataset(make_dataset(), tmp_path)
    assert names(tmp_path) == ["dataset.json", "images.npy", "manifest.parquet"]


def test_a_mapped_dataset_can_be_written_over_itself(tmp_path: Path):
    save_dataset(make_dataset(), tmp_path)
    loaded = load_dataset(tmp_path)
    again = save_dataset(dataclasses.replace(loaded, name="renamed"), tmp_path)
    np.testing.assert_array_equal(again.images, make_dataset().images)
    assert load_dataset(tmp_path).name == "renamed"
    verify_dataset(tmp_path)


def test_non_contiguous_images_are_written_in_order(tmp_path: Path):
    images = make_dataset().images
    saved = save_dataset(make_dataset(images=images[:, :, ::-1]), tmp_path)
    np.testing.assert_array_equal(saved.images, images[:, :, ::-1])


def test_what_is_not_there_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match=r"no dataset folder .*01_datasets_and_ages"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetNotFoundError, match=r"is not a dataset folder: it has no dataset\.json"):
        load_dataset(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetNotFoundError, match="no dataset folder"):
        load_dataset(tmp_path / "file")


def test_an_unfinished_folder_is_refused(tmp_path: Path):
    save_dataset(make_dataset(), tmp_path)
    (tmp_path / "dataset.json").unlink()
    for check in (load_dataset, verify_dataset):
        with pytest.raises(DatasetNotFoundError, match="unfinished dataset"):
            check(tmp_path)


def damage_index(folder: Path, **changes: Any) -> None:
    file = folder / "dataset.json"
    index = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({key: value for key, value in index.items() if value is not None}), encoding="utf-8")


def test_damaged_folders_are_refused_with_the_file_and_what_was_found(tmp_path: Path):
    good = tmp_path / "good"
    save_dataset(make_dataset(), good)

    def damaged(message: str) -> Path:
        folder = tmp_path / message
        shutil.copytree(good, folder)
        return folder

    def refused(folder: Path, message: str) -> None:
        with pytest.raises(DatasetError, match=message) as caught:
            load_dataset(folder)
        assert str(folder) in str(caught.value)
        assert "01_datasets_and_ages" in str(caught.value)

    folder = damaged("no images")
    (folder / "images.npy").unlink()
    refused(folder, r"has no images\.npy")
    folder = damaged("no manifest")
    (folder / "manifest.parquet").unlink()
    refused(folder, r"has no manifest\.parquet")
    folder = damaged("short images")
    (folder / "images.npy").write_bytes((good / "images.npy").read_bytes()[:-100])
    refused(folder, r"images\.npy cannot be opened \(\d+ bytes")
    folder = damaged("empty images")
    (folder / "images.npy").write_bytes(b"")
    refused(folder, r"images\.npy cannot be opened \(0 bytes")
    folder = damaged("other type")
    np.save(folder / "images.npy", make_dataset().images.astype(np.float32))
    refused(folder, r"holds float32 \(12, 8, 8, 3\), but dataset\.json says uint8")
    folder = damaged("other shape")
    np.save(folder / "images.npy", make_dataset(n=9).images)
    refused(folder, r"uint8 \(9, 8, 8, 3\)")
    folder = damaged("pickle")
    np.save(folder / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(folder, "cannot be opened")
    folder = damaged("other rows")
    make_dataset(n=9).manifest.to_parquet(folder / "manifest.parquet")
    refused(folder, "has 9 rows, but dataset.json says 12")
    folder = damaged("no json")
    (folder / "dataset.json").write_text("{", encoding="utf-8")
    refused(folder, "is not readable JSON")
    folder = damaged("a list")
    (folder / "dataset.json").write_text("[]", encoding="utf-8")
    refused(folder, "has no format_version of type int")
    folder = damaged("no size")
    damage_index(folder, image_size=None)
    refused(folder, "has no image_size of type int")
    folder = damaged("newer")
    damage_index(folder, format_version=2)
    refused(folder, "has format version 2; this version of the library reads 1")


def test_verify_finds_one_changed_byte(tmp_path: Path):
    save_dataset(make_dataset(), tmp_path)
    verify_dataset(tmp_path)
    file = tmp_path / "images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    load_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"images\.npy has changed since it was written: SHA-256"):
        verify_dataset(tmp_path)
    file.unlink()
    with pytest.raises(DatasetError, match=r"has no images\.npy"):
        verify_dataset(tmp_path)


# --- failing writes --------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("step", ["images", "manifest", "sync"])
def test_a_failed_write_leaves_the_old_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: str):
    save_dataset(make_dataset(), tmp_path)
    before = contents(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    target: dict[str, tuple[Any, str]] = {
        "images": (datasets, "write_images"),
        "manifest": (pd.DataFrame, "to_parquet"),
        "sync": (os, "fsync"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*target[step], fail)
        with pytest.raises(WriteError, match=f"Cannot write .*{os.strerror(number)}"):
            save_dataset(make_dataset(n=9, seed=1), tmp_path)
    assert contents(tmp_path) == before
    assert len(load_dataset(tmp_path)) == 12


def test_a_failed_last_step_leaves_a_folder_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_dataset(make_dataset(), tmp_path)
    replace = Path.replace

    def fail_on_manifest(self: Path, target: Path) -> Path:
        if Path(target).name == "manifest.parquet":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_on_manifest)
        with pytest.raises(WriteError, match=r"manifest\.parquet"):
            save_dataset(make_dataset(seed=1), tmp_path)
    with pytest.raises(DatasetNotFoundError, match="unfinished dataset"):
        load_dataset(tmp_path)
    save_dataset(make_dataset(seed=1), tmp_path)
    verify_dataset(tmp_path)


def test_a_folder_without_write_permission(tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(WriteError, match="Choose a folder you may write to"):
        save_dataset(make_dataset(), folder)


def test_a_full_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        save_dataset(make_dataset(), disk / "toy")
        before = contents(disk / "toy")
        with pytest.raises(WriteError, match=r"Cannot write .*images\.npy: No space left on device \(\d+ MiB free"):
            save_dataset(make_dataset(n=12, size=100), disk / "toy")
        assert contents(disk / "toy") == before
        verify_dataset(disk / "toy")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_place_under_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="Cannot write"):
        save_dataset(make_dataset(), tmp_path / "file" / "toy")


# --- labels ----------------------------------------------------------------------------------------------------------


def test_training_labels_follow_the_classes():
    dataset = make_dataset()
    classes = class_table(dataset.manifest)
    rows, labels = training_labels(dataset, classes)
    assert rows.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows.dtype == labels.dtype == np.int64
    rows, labels = training_labels(dataset, classes.iloc[::-1].reset_index(drop=True))
    assert labels.tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_training_labels_refuse_other_classes():
    dataset = make_dataset()
    classes = class_table(dataset.manifest)
    with pytest.raises(DatasetError, match=r"1 identities with training images are not among the 2 classes.*'p3'"):
        training_labels(dataset, classes[classes["identity"] != "p3"])
    more = pd.concat([classes, pd.DataFrame({"identity": ["p1", "nobody"]})])
    with pytest.raises(DatasetError, match=r"2 of 5 classes have no training image .*'p1', 'nobody'"):
        training_labels(dataset, more)
    with pytest.raises(DatasetError, match="'p0' is more than one row"):
        training_labels(dataset, pd.concat([classes, classes.iloc[:1]]))
    with pytest.raises(DatasetError, match="no column identity"):
        training_labels(dataset, classes.drop(columns="identity"))
