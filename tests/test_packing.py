"""Packing: what is decoded stands in the dataset, in order; what is rejected is named; nothing is mixed or lost."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from interproto_lib.data import (
    DecodedImage,
    FaceDataset,
    ImageCollection,
    ImageRejectedError,
    RejectedImagesError,
    load_dataset,
    pack_collection,
    pack_identity_folder,
    packed_images,
    packing,
    read_identity_folder,
    verify_dataset,
)
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError, ManifestError, RunError
from interproto_lib.files import file_lock
from interproto_lib.training.batches import EpochBatches

REPO = Path(__file__).resolve().parents[1]
SIZE = 8


class Pictures:
    """Encoded images that are drawn when they are read: row r is noise of seed r, as PNG."""

    def __init__(self, broken: dict[int, bytes] | None = None) -> None:
        self.broken = broken or {}
        self.n_read = Counter[int]()

    def read(self, row: int) -> bytes:
        self.n_read[row] += 1
        if row in self.broken:
            return self.broken[row]
        buffer = io.BytesIO()
        Image.fromarray(pixels(row)).save(buffer, "PNG")
        return buffer.getvalue()


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def decode(row: int, content: bytes) -> np.ndarray:
    if not content.startswith(b"\x89PNG"):
        raise DatasetError(f"not a picture ({len(content)} bytes)")
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def make_collection(n: int = 40, encoded: Any = None, **changes: Any) -> ImageCollection:
    table = pd.DataFrame(
        {
            "path": [f"p{row // 4}/{row}.png" for row in range(n)],
            "identity": [f"p{row // 4}" for row in range(n)],
            "age_years": [float(row % 100) if row % 3 else np.nan for row in range(n)],
            "young": [row % 2 == 0 for row in range(n)],
        }
    )
    given: dict[str, Any] = {
        "name": "mine",
        "shape": "identity_folders",
        "place": Path("/somewhere"),
        "table": table,
        "encoded": encoded or Pictures(),
        "fingerprint": "f0",
    }
    return ImageCollection(**(given | changes))


def pack(collection: ImageCollection, folder: Path, **changes: Any) -> FaceDataset:
    given: dict[str, Any] = {
        "split": np.where(np.arange(len(collection)) % 8 < 4, "train", "heldout"),
        "image_size": SIZE,
        "decode": decode,
        "settings": {"fit": "error", "way": (1, 2)},
        "on_rejected": "error",
    }
    return pack_collection(collection, folder, **(given | changes))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of seven images, decoded three at a time, so that few images make many blocks."""
    monkeypatch.setattr(packed_images, "_MOST_ROWS_IN_BLOCK", 7)
    monkeypatch.setattr(packed_images, "_ROWS_AT_A_TIME", 3)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def stop_at(row: int, error: BaseException | None = None) -> Callable[[int, bytes], np.ndarray]:
    """A decoder that fails when it comes to a row."""

    def stopping(at: int, content: bytes) -> np.ndarray:
        if at == row:
            raise error or KeyboardInterrupt
        return decode(at, content)

    return stopping


# --- what is packed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 9, 10, 40])
def test_every_image_stands_in_its_row(tmp_path: Path, n: int):
    reports: list[tuple[int, int]] = []
    dataset = pack(make_collection(n), tmp_path / "d", progress=lambda done, of: reports.append((done, of)))
    assert names(tmp_path / "d") == ["dataset.json", "images.npy", "manifest.parquet"]
    for back in (dataset, load_dataset(tmp_path / "d"), verify_dataset(tmp_path / "d")):
        np.testing.assert_array_equal(back.images, [pixels(row) for row in range(n)])
        assert not back.images.flags.writeable
        assert back.manifest["path"].tolist() == [f"p{row // 4}/{row}.png" for row in range(n)]
        assert back.manifest["young"].tolist() == [row % 2 == 0 for row in range(n)]
        assert back.manifest["split"].tolist() == ["train" if row % 8 < 4 else "heldout" for row in range(n)]
        assert set(back.manifest["source"]) == {"mine"}
        np.testing.assert_array_equal(back.manifest["age_years"], make_collection(n).table["age_years"])
        assert back.settings["fit"] == "error"
        assert back.settings["way"] == [1, 2]
        assert (back.settings["dropped"], back.settings["rejected_counts"]) == ([], {})
        assert back.name == "mine"
    file = np.load(tmp_path / "d" / "images.npy")
    np.testing.assert_array_equal(file, dataset.images)
    assert dataset.images_sha256 == hashlib.sha256((tmp_path / "d" / "images.npy").read_bytes()).hexdigest()
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert reports[-1] == (n, n)


def test_threads_play_no_part(tmp_path: Path):
    seen: set[str] = set()

    def watched(row: int, content: bytes) -> np.ndarray:
        seen.add(threading.current_thread().name)
        return decode(row, content)

    for n_threads in (1, 4):
        broken = Pictures({5: b"", 23: b"x"})
        pack(
            make_collection(200, broken),
            tmp_path / str(n_threads),
            decode=watched,
            n_threads=n_threads,
            on_rejected="drop",
        )
        assert all(count == 1 for count in broken.n_read.values())
    assert contents(tmp_path / "1") == contents(tmp_path / "4")
    assert threading.current_thread().name not in seen


def test_the_form_is_that_of_a_saved_dataset(tmp_path: Path):
    """An .npy as numpy itself writes it, also where the number of images loses a digit by rejected ones."""
    rejected = Pictures({3: b"x"})
    dataset = pack(make_collection(10, rejected), tmp_path / "d", on_rejected="drop")
    np.save(tmp_path / "own.npy", np.array(dataset.images))
    assert (tmp_path / "own.npy").read_bytes() == (tmp_path / "d" / "images.npy").read_bytes()


def test_original_sizes_are_counted_where_the_decoder_tells(tmp_path: Path):
    def telling(row: int, content: bytes) -> DecodedImage:
        return DecodedImage(decode(row, content), (640, 480) if row % 4 else (112, 112))

    dataset = pack(make_collection(), tmp_path, decode=telling)
    assert dataset.settings["original_sizes"] == {"640x480": 30, "112x112": 10}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_little_memory_a_row(tmp_path: Path):
    """The table and all that is done with it, in processes of their own; `benchmarks` measures 5.8 million rows."""

    def peak_gb(n_rows: int) -> float:
        command = [sys.executable, "-m", "benchmarks.packing_memory", "pack", str(n_rows), str(tmp_path / str(n_rows))]
        call = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, timeout=120)
        return float(re.search(r"peak memory ([0-9.]+) GB", call.stdout)[1])  # type: ignore[index]

    # Some 450 bytes a row, of which the table itself takes 50; a Python object for each cell would take 500 more.
    assert (peak_gb(200_000) - peak_gb(1000)) * 1e9 / 199_000 < 700


# --- what is refused -------------------------------------------------------------------------------------------------


def test_all_rejected_images_are_collected_and_some_named(tmp_path: Path):
    broken = Pictures({row: b"" if row % 2 else b"xy" for row in range(3, 33)})
    with pytest.raises(RejectedImagesError) as caught:
        pack(make_collection(40, broken), tmp_path)
    assert [(image.row, image.reason) for image in caught.value.rejected] == [
        (row, f"not a picture ({0 if row % 2 else 2} bytes)") for row in range(3, 33)
    ]
    message = str(caught.value)
    assert message.startswith(
        "30 of 40 images of 'mine' in /somewhere cannot be packed:\n  p0/3.png: not a picture (0 b"
    )
    assert "and 20 more. All, by kind: 30 x not a picture (# bytes)" in message
    assert "on_rejected='drop'" in message
    with pytest.raises(DatasetNotFoundError, match=r"not packed to its end\. Prepare it again"):
        load_dataset(tmp_path)


def test_a_refused_packing_is_done_at_once_when_the_images_are_left_out(tmp_path: Path):
    pictures = Pictures({3: b"", 39: b"x"})
    with pytest.raises(RejectedImagesError):
        pack(make_collection(40, pictures), tmp_path / "d")
    with pytest.raises(RejectedImagesError, match="2 of 40 images"):
        pack(make_collection(40, pictures), tmp_path / "d")
    dataset = pack(make_collection(40, pictures), tmp_path / "d", on_rejected="drop")
    assert all(count == 1 for row, count in pictures.n_read.items() if row not in (3, 39)), "no other is read again"
    kept = [row for row in range(40) if row not in (3, 39)]
    np.testing.assert_array_equal(dataset.images, [pixels(row) for row in kept])
    assert dataset.manifest["path"].tolist() == [f"p{row // 4}/{row}.png" for row in kept]
    assert dataset.settings["dropped"] == [
        {"path": "p0/3.png", "reason": "not a picture (0 bytes)"},
        {"path": "p9/39.png", "reason": "not a picture (1 bytes)"},
    ]
    assert dataset.settings["rejected_counts"] == {"not a picture (# bytes)": 2}
    pack(make_collection(40, Pictures({3: b"", 39: b"x"})), tmp_path / "at once", on_rejected="drop")
    assert contents(tmp_path / "d") == contents(tmp_path / "at once")


def test_a_refused_packing_gives_way_to_the_repaired_source(tmp_path: Path):
    with pytest.raises(RejectedImagesError):
        pack(make_collection(40, Pictures({3: b""})), tmp_path / "d")
    dataset = pack(make_collection(40, fingerprint="f1"), tmp_path / "d")
    np.testing.assert_array_equal(dataset.images, [pixels(row) for row in range(40)])
    assert names(tmp_path / "d") == ["dataset.json", "images.npy", "manifest.parquet"]


def test_an_image_that_can_be_read_after_all_is_not_left_out(tmp_path: Path):
    """Permissions, for example, leave no trace in the fingerprint of a source."""
    pictures = Pictures({3: b"", 30: b""})
    with pytest.raises(RejectedImagesError, match="2 of 40 images"):
        pack(make_collection(40, pictures), tmp_path / "d")
    del pictures.broken[30]
    dataset = pack(make_collection(40, pictures), tmp_path / "d", on_rejected="drop")
    np.testing.assert_array_equal(dataset.images, [pixels(row) for row in range(40) if row != 3])
    assert [image["path"] for image in dataset.settings["dropped"]] == ["p0/3.png"]


def test_kinds_of_rejection_are_counted(tmp_path: Path):
    def choosy(row: int, content: bytes) -> np.ndarray:
        if row % 10 == 0:
            raise ImageRejectedError(f"the face is {row} pixels wide", kind="small face")
        if row % 10 == 1:
            raise DatasetError("line\none\x00 " + "x" * 400 + "\udcff")
        return decode(row, content)

    dataset = pack(make_collection(), tmp_path, decode=choosy, on_rejected="drop")
    assert list(dataset.settings["rejected_counts"].values()) == [4, 4]
    assert dataset.settings["rejected_counts"]["small face"] == 4
    assert dataset.settings["dropped"][2] == {"path": "p2/10.png", "reason": "the face is 10 pixels wide"}
    assert all(len(image["reason"]) <= 300 and "\n" not in image["reason"] for image in dataset.settings["dropped"])


def test_nothing_left_leaves_nothing(tmp_path: Path):
    nothing = Pictures(dict.fromkeys(range(40), b""))
    for on_rejected in ("error", "drop"):
        with pytest.raises(RejectedImagesError, match="None of the 40 images of 'mine' in /somewhere can be packed"):
            pack(make_collection(40, nothing), tmp_path / "d", on_rejected=on_rejected)
        assert names(tmp_path / "d") == [".packing.lock"]


def test_a_hopeless_packing_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_images, "HOPELESS_IMAGES", 20)
    nothing = Pictures(dict.fromkeys(range(200), b""))
    with pytest.raises(RejectedImagesError, match=r"None of the 21 images .* \(the other 179 were not tried\)"):
        pack(make_collection(200, nothing), tmp_path)
    assert len(nothing.n_read) < 50


def test_wrong_arguments(tmp_path: Path):
    collection = make_collection()
    for changes, message in (
        ({"split": ["train"]}, r"split has the shape \(1,\); expected one split for each of 40 rows"),
        ({"image_size": 0}, "image_size is 0"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"on_rejected": "skip"}, "on_rejected is 'skip'"),
        ({"settings": {"dropped": []}}, "already have dropped"),
        ({"settings": {"a": float("nan")}}, "cannot be written as JSON"),
        ({"settings": {"a": np.float32(1)}}, "cannot be written as JSON"),
        ({"decode": lambda row, content: np.zeros((SIZE, SIZE), np.uint8)}, r"gave uint8 \(8, 8\) for row 0"),
        ({"decode": lambda row, content: np.zeros((SIZE, SIZE, 3))}, "gave float64"),
    ):
        with pytest.raises(ConfigError, match=message):
            pack(collection, tmp_path / "d", **changes)
    with pytest.raises(ManifestError, match="'test' is not a split"):
        pack(collection, tmp_path / "e", split=np.full(40, "test"))
    twice = collection.table.assign(path="a/0.png")
    with pytest.raises(ManifestError, match=r"the manifest of 'mine', made from /somewhere, row 2.*already in row 1"):
        pack(make_collection(table=twice), tmp_path / "e")
    assert not (tmp_path / "e").exists(), "the table is checked before anything is made"


def test_what_is_missing_for_all_images_rejects_none(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match="no model"):
        pack(make_collection(), tmp_path, decode=stop_at(0, DatasetNotFoundError("no model")), on_rejected="drop")


# --- finished, and others --------------------------------------------------------------------------------------------


def test_a_finished_dataset_is_loaded_or_refused(tmp_path: Path):
    pack(make_collection(), tmp_path)
    before = contents(tmp_path)
    pictures = Pictures()
    again = pack(make_collection(encoded=pictures), tmp_path)
    assert len(again) == 40
    assert not pictures.n_read
    others: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"fingerprint": "f1"}, {}, "the source was changed: its files were added, removed or written anew"),
        ({}, {"settings": {"fit": "pad", "way": (1, 2)}}, "fit was 'error', now 'pad'"),
        ({}, {"image_size": 9}, "image_size was 8, now 9"),
        ({}, {"name": "yours"}, "name was 'mine', now 'yours'"),
        ({}, {"on_rejected": "drop"}, "on_rejected was 'error', now 'drop'"),
        ({}, {"split": np.full(40, "train")}, "identities, ages, splits or other columns of the table are others"),
        ({"n": 39}, {"split": np.full(39, "train")}, "the images have other names, or another order"),
    ]
    for of_collection, of_packing, message in others:
        with pytest.raises(DatasetError, match=f"already holds a dataset that was packed otherwise: .*{message}"):
            pack(make_collection(**of_collection), tmp_path, **of_packing)
    assert contents(tmp_path) == before


def test_a_dataset_of_another_making_is_left(tmp_path: Path):
    from interproto_lib.data import save_dataset

    given = load_dataset(pack(make_collection(), tmp_path / "a").folder or "")
    save_dataset(
        FaceDataset(name="own", folder=None, manifest=given.manifest, images=given.images, settings={}), tmp_path / "b"
    )
    with pytest.raises(DatasetError, match="already holds a dataset, 'own', that was not packed from a collection"):
        pack(make_collection(), tmp_path / "b")


# --- two at once -----------------------------------------------------------------------------------------------------


def test_a_second_process_waits_or_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "LOCK_WAIT_SECONDS", 0.0)
    with file_lock(tmp_path / ".packing.lock", busy=""), pytest.raises(RunError, match="Another process packs images"):
        pack(make_collection(), tmp_path)
    assert names(tmp_path) == [".packing.lock"]


def test_two_processes_at_once_make_one_dataset(tmp_path: Path):
    """Threads stand for processes here: their locks exclude one another in the same way."""
    pictures = Pictures()
    made: list[FaceDataset] = []

    def run() -> None:
        made.append(pack(make_collection(200, pictures), tmp_path / "d"))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(dataset) for dataset in made] == [200, 200, 200]
    assert set(pictures.n_read.values()) == {1}
    assert names(tmp_path / "d") == ["dataset.json", "images.npy", "manifest.parquet"]
    verify_dataset(tmp_path / "d")


# --- verification ----------------------------------------------------------------------------------------------------


def test_verification_tells_how_far_it_is_and_checks_what_hashes_do_not(tmp_path: Path):
    pack(make_collection(), tmp_path)
    reports: list[tuple[int, int]] = []
    verify_dataset(tmp_path, progress=lambda done, of: reports.append((done, of)))
    n_bytes = sum((tmp_path / name).stat().st_size for name in ("images.npy", "manifest.parquet"))
    assert reports[-1] == (n_bytes, n_bytes)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)

    index = json.loads((tmp_path / "dataset.json").read_text())
    manifest = pd.read_parquet(tmp_path / "manifest.parquet")

    def rewrite(table: pd.DataFrame) -> None:
        table.to_parquet(tmp_path / "manifest.parquet", index=False)
        digest = hashlib.sha256((tmp_path / "manifest.parquet").read_bytes()).hexdigest()
        (tmp_path / "dataset.json").write_text(json.dumps(index | {"manifest_sha256": digest}))

    rewrite(manifest.assign(split="test"))
    with pytest.raises(ManifestError, match=f"in {tmp_path}, row 1, column split: 'test' is not a split"):
        verify_dataset(tmp_path)
    rewrite(manifest.iloc[:39])
    with pytest.raises(DatasetError, match=r"has 39 rows, but dataset\.json says 40"):
        verify_dataset(tmp_path)


# --- folders of photographs ------------------------------------------------------------------------------------------


def make_folder(root: Path, n_people: int = 6, n_images: int = 3) -> Path:
    for person in range(n_people):
        (root / f"p{person}").mkdir(parents=True)
        for image in range(n_images):
            Image.fromarray(pixels(100 * person + image)).save(root / f"p{person}" / f"{image}.png")
    return root


OPTIONS: dict[str, Any] = {"image_size": SIZE, "heldout_share": 0.34, "validation_share": 0.34}


def test_a_packed_folder_is_the_folder_read_into_memory(tmp_path: Path):
    root = make_folder(tmp_path / "faces")
    (root / "p1" / "notes.txt").write_text("x")
    (tmp_path / "ages.csv").write_text("path,age_years\np0/0.png,5\np3/1.png,40.5\n")
    packed = pack_identity_folder(tmp_path / "d", root, ages=tmp_path / "ages.csv", requested={"a": 1}, **OPTIONS)
    read = read_identity_folder(root, ages=tmp_path / "ages.csv", **OPTIONS)
    np.testing.assert_array_equal(packed.images, read.images)
    pd.testing.assert_frame_equal(packed.manifest, read.manifest)
    assert packed.name == read.name
    added = {"rejected_counts": {}, "requested": {"a": 1}}
    assert packed.settings == json.loads(json.dumps(read.settings)) | added
    assert packed.settings["original_sizes"] == {"8x8": 18}
    again = pack_identity_folder(tmp_path / "d", root, **OPTIONS)
    assert again.images_sha256 == packed.images_sha256


def test_unreadable_photographs_are_named_or_dropped(tmp_path: Path):
    root = make_folder(tmp_path / "faces", n_images=4)
    (root / "p2" / "1.png").write_bytes(b"no picture")
    (root / "p4" / "0.png").write_bytes((root / "p4" / "0.png").read_bytes()[:100])
    with pytest.raises(
        DatasetError, match=r"(?s)2 of 24 images of 'faces'.*p2/1\.png: not an image[^\n]*\n.*p4/0\.png: dam"
    ) as caught:
        pack_identity_folder(tmp_path / "d", root, **OPTIONS)
    assert "on_unreadable='drop'" in str(caught.value)
    with pytest.warns(UserWarning, match="2 of 24 images in .* cannot be read and are left out"):
        packed = pack_identity_folder(tmp_path / "d", root, on_unreadable="drop", **OPTIONS)
    with pytest.warns(UserWarning, match="cannot be read"):
        read = read_identity_folder(root, on_unreadable="drop", **OPTIONS)
    np.testing.assert_array_equal(packed.images, read.images)
    pd.testing.assert_frame_equal(packed.manifest, read.manifest)
    assert packed.settings["dropped"] == read.settings["dropped"]


def test_photographs_of_another_size_are_refused_then_scaled(tmp_path: Path):
    root = make_folder(tmp_path / "faces")
    Image.new("RGB", (SIZE + 1, SIZE)).save(root / "p0" / "wide.png")
    for on_unreadable in ("error", "drop"):
        with pytest.raises(DatasetError, match=r"1 of 19 images .*p0/wide\.png, is 9 x 8 pixels.*fit='pad'"):
            pack_identity_folder(tmp_path / "d", root, on_unreadable=on_unreadable, **OPTIONS)
    packed = pack_identity_folder(tmp_path / "d", root, fit="pad", **OPTIONS)
    np.testing.assert_array_equal(packed.images, read_identity_folder(root, fit="pad", **OPTIONS).images)


def test_what_the_listing_tells_is_told_before_an_image_is_read(tmp_path: Path):
    root = make_folder(tmp_path / "faces", n_people=4)
    (tmp_path / "ages.csv").write_text("path,age_years\nnobody/0.png,5\np3/1.png,40.5\n")
    for changes, message in (
        ({"min_images_per_identity": 4}, "4 of 4 identities .* have fewer than 4 readable images: p0 (3)"),
        ({"heldout_share": 0.9}, "there must be two to train on"),
        ({"ages": tmp_path / "ages.csv"}, "1 of 2 rows match no image"),
        ({"fit": "squeeze"}, "fit is 'squeeze'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"on_unreadable": "skip"}, "on_unreadable is 'skip'"),
    ):
        options = OPTIONS | {"heldout_share": 0.25, "validation_share": 0.0} | changes
        with pytest.raises(
            (DatasetError, ManifestError, ConfigError), match=message.replace("(", r"\(").replace(")", r"\)")
        ):
            pack_identity_folder(tmp_path / "d", root, **options)
    deeper = make_folder(tmp_path / "outer" / "inner").parent
    with pytest.raises(DatasetError, match=r"lie one folder deeper\. Set root to .*inner"):
        pack_identity_folder(tmp_path / "d", deeper, **OPTIONS)
    (root / "empty").mkdir()
    with pytest.warns(UserWarning, match="1 folder holds no image: empty"):
        pack_identity_folder(tmp_path / "f", root, **OPTIONS | {"heldout_share": 0.25, "validation_share": 0.0})
    assert not (tmp_path / "d").exists()


def test_an_identity_that_loses_its_images_is_an_error_and_the_packing_is_kept(tmp_path: Path):
    root = make_folder(tmp_path / "faces")
    for image in range(3):
        (root / "p5" / f"{image}.png").write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match="3 of 18 images"),
        pytest.raises(DatasetError, match=r"1 of 6 identities .* have fewer than 1 readable images: p5 \(0\)"),
    ):
        pack_identity_folder(tmp_path / "d", root, on_unreadable="drop", min_images_per_identity=1, **OPTIONS)
    assert "packing" in names(tmp_path / "d")


# --- training reads it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_of_a_memory_map_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str):
    from interproto_lib.training import batches

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    dataset = pack(make_collection(90), tmp_path)
    rows = np.random.default_rng(0).permutation(90)[:70]
    labels = np.arange(70) % 7
    epochs = EpochBatches(dataset.images, rows, labels, batch_size=16, flip=True, seed=3, device=torch.device(device))
    if device == "cpu":
        monkeypatch.setattr(batches, "LARGEST_IN_MEMORY", 0)
    else:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 0))
    mapped = EpochBatches(dataset.images, rows, labels, batch_size=16, flip=True, seed=3, device=torch.device(device))
    for epoch, first_step in ((0, 0), (5, 0), (5, 3), (5, 4)):
        found = [(batch[0], batch[1]) for batch in mapped.epoch(epoch, first_step=first_step)]
        wanted = [(batch[0], batch[1]) for batch in epochs.epoch(epoch, first_step=first_step)]
        assert len(found) == len(wanted) == 4 - first_step
        for (images, classes), (same_images, same_classes) in zip(found, wanted, strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(classes, same_classes)
            assert images.dtype == torch.uint8
    # An independent reckoning of the first batch: order and mirrors by their definition.
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    order = torch.randperm(70, generator=generator).numpy()[:16]
    mirrored = torch.rand(70, generator=generator)[:16].numpy() < 0.5
    images = next(iter(mapped.epoch(0)))[0].cpu().numpy()
    for image, row, turned in zip(images, rows[order], mirrored, strict=True):
        np.testing.assert_array_equal(image, pixels(int(row))[:, ::-1] if turned else pixels(int(row)))


def test_threads_that_read_ahead_end_with_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from interproto_lib.training import batches

    monkeypatch.setattr(batches, "LARGEST_IN_MEMORY", 0)
    dataset = pack(make_collection(90), tmp_path)
    mapped = EpochBatches(
        dataset.images, np.arange(90), np.zeros(90), batch_size=4, flip=False, seed=0, device=torch.device("cpu")
    )
    epoch = mapped.epoch(0)
    next(epoch)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    epoch.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())
    with pytest.raises(ConfigError, match="rows go from 0 to 90, but there are 90 images"):
        EpochBatches(
            dataset.images, np.arange(91), np.zeros(91), batch_size=4, flip=False, seed=0, device=torch.device("cpu")
        )
