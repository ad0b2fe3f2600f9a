"""Datasets: a manifest together with its images, in memory or memory-mapped from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.image_arrays import file_sha256, npy_blocks, sync_file, write_images
from interproto_lib.data.manifests import MANIFEST_COLUMNS, SPLITS, validate_manifest
from interproto_lib.data.tables import read_table
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError
from interproto_lib.files import atomic_write

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.parquet"
IMAGES_FILE = "images.npy"
INDEX_FILE = "dataset.json"
PACKING_FOLDER = "packing"
"""What a packing that is not finished keeps in the dataset's folder."""

_INDEX_TYPES: dict[str, type] = {
    "format_version": int,
    "name": str,
    "n_images": int,
    "image_size": int,
    "settings": dict,
    "images_sha256": str,
    "manifest_sha256": str,
}
_HOW_TO_MAKE = "Run notebooks/01_datasets_and_ages.ipynb to make it."
_HOW_TO_REMAKE = "Make it again with notebooks/01_datasets_and_ages.ipynb."


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceDataset:
    """Images and the manifest that describes them: row i of one belongs to row i of the other.

    Attributes:
        name: What to call it, in figures and records.
        folder: Where it is saved; None when it lives in memory only.
        manifest: The checked manifest, n rows (see `interproto_lib.data.manifests.validate_manifest`).
        images: uint8 (n, size, size, 3), RGB, rows top to bottom; a read-only memory map when loaded from a folder.
        settings: How it was made; anything JSON can hold.
        images_sha256: SHA-256 of the images as `images.npy`, known where the dataset was saved or loaded; None in
            memory, where `hash_images` computes the same. Whoever changes the images sets it to None.

    Raises:
        ManifestError: The manifest breaks a rule.
        DatasetError: The images have another type or shape, or another number than the manifest has rows, or the
            settings cannot be written as JSON.
    """

    name: str
    folder: Path | None
    manifest: pd.DataFrame
    images: NDArray[np.uint8]
    settings: dict[str, Any]
    images_sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise DatasetError("A dataset needs a name.")
        what = f"dataset {self.name!r}"
        where = f"the manifest of {what}" + ("" if self.folder is None else f" in {self.folder}")
        object.__setattr__(self, "manifest", validate_manifest(self.manifest, where=where))
        _check_images(self.images, len(self.manifest), what)
        try:
            json.dumps(self.settings, allow_nan=False, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError) as error:
            raise DatasetError(f"The settings of {what} cannot be written as JSON: {error}.") from error

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.images.shape[1])

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the row positions (m,) of a split, ascending; none when the dataset has no such images.

        Args:
            split: One of `SPLITS`.

        Raises:
            ConfigError: There is no split of that name.
        """
        if split not in SPLITS:
            raise ConfigError(f"{split!r} is not a split; choose one of: {', '.join(SPLITS)}.")
        return np.flatnonzero((self.manifest["split"] == split).to_numpy(dtype=bool)).astype(np.int64)


def save_dataset(dataset: FaceDataset, folder: str | Path) -> FaceDataset:
    """Write a dataset as a folder of `manifest.parquet`, `images.npy` and `dataset.json`.

    All three are first written under temporary names; when all are on the disk they take their places, `dataset.json`
    last: a folder without it is unfinished. When writing fails, what was in the folder before is untouched.

    Args:
        dataset: What to write; its images may themselves be a memory map, and are written block by block.
        folder: Where to; made when missing, a dataset already there is replaced.

    Returns:
        The same dataset, its `folder` set and its images memory-mapped from there.

    Raises:
        WriteError: A file cannot be written (no permission, full disk).
    """
    target = Path(folder)
    with written_description(dataset, target) as describe, atomic_write(target / IMAGES_FILE) as images_file:
        images_sha256 = write_images(dataset.images, images_file)
        sync_file(images_file)
        describe(images_sha256)
    images = np.load(target / IMAGES_FILE, mmap_mode="r")
    return replace(dataset, folder=target, images=images, images_sha256=images_sha256)


@contextmanager
def written_description(dataset: FaceDataset, folder: Path) -> Iterator[Callable[[str], None]]:
    """Write manifest and index of a dataset under temporary names, which take their places when the block succeeds.

    Args:
        dataset: What to describe.
        folder: Its folder; made when missing.

    Yields:
        A function to call with the SHA-256 of the images, once they are on the disk and before they take their place:
        then the index is written, and an older one is removed, so that the folder counts as unfinished until the end of
        the block, an instant later.

    Raises:
        WriteError: A file cannot be written; what was in the folder before is untouched.
    """
    # Left in reverse: the manifest takes its place first, then the index.
    with (
        atomic_write(folder / INDEX_FILE) as index_file,
        atomic_write(folder / MANIFEST_FILE) as manifest_file,
    ):
        dataset.manifest.to_parquet(manifest_file, index=False)

        def describe(images_sha256: str) -> None:
            index = {
                "format_version": FORMAT_VERSION,
                "name": dataset.name,
                "n_images": len(dataset),
                "image_size": dataset.image_size,
                "settings": dataset.settings,
                "images_sha256": images_sha256,
                "manifest_sha256": file_sha256(manifest_file),
            }
            index_file.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            for written in (manifest_file, index_file):
                sync_file(written)
            (folder / INDEX_FILE).unlink(missing_ok=True)

        yield describe


def load_dataset(folder: str | Path, *, in_memory: bool = False) -> FaceDataset:
    """Open a dataset folder.

    Completeness, types, shapes and row counts are checked; the content of the images is not (see `verify_dataset`).

    Args:
        folder: A folder written by `save_dataset`.
        in_memory: Read the images into memory instead of mapping the file.

    Returns:
        The dataset; `images` is read-only when mapped.

    Raises:
        DatasetNotFoundError: There is no such folder, or no finished dataset in it; the message says what makes it.
        DatasetError: A file is missing, damaged, or does not fit the others.
        ManifestError: The manifest breaks a rule.
    """
    source = Path(folder)
    index = read_index(source)
    images = _open_images(source / IMAGES_FILE, index)
    if not (source / MANIFEST_FILE).is_file():
        raise DatasetError(f"{source} has no {MANIFEST_FILE}. {_HOW_TO_REMAKE}")
    manifest = read_table(source / MANIFEST_FILE, text_columns=MANIFEST_COLUMNS).frame  # checked with the dataset
    if len(manifest) != index["n_images"]:
        raise DatasetError(
            f"{source / MANIFEST_FILE} has {len(manifest)} rows, but {INDEX_FILE} says {index['n_images']}. "
            f"{_HOW_TO_REMAKE}"
        )
    return FaceDataset(
        name=index["name"],
        folder=source,
        manifest=manifest,
        images=np.array(images) if in_memory else images,
        settings=index["settings"],
        images_sha256=index["images_sha256"],
    )


def hash_images(dataset: FaceDataset) -> str:
    """Give the SHA-256 of a dataset's images, the same in memory and on disk.

    Args:
        dataset: Its `images_sha256` is taken where it is known; otherwise all images are read (about a second a GB).

    Returns:
        64 hexadecimal digits: the hash of the `images.npy` that `save_dataset` would write.
    """
    if dataset.images_sha256 is not None:
        return dataset.images_sha256
    digest = hashlib.sha256()
    for block in npy_blocks(dataset.images):
        digest.update(block)
    return digest.hexdigest()


def verify_dataset(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> FaceDataset:
    """Read a whole dataset folder again: are its files what was written, and are they a dataset?

    The SHA-256 of the files is compared with those in `dataset.json`; then what a hash does not show is checked: types,
    shapes, numbers of rows, and the rules of the manifest.

    Args:
        folder: A folder written by `save_dataset`.
        progress: Called with the number of bytes read and the number of all.

    Returns:
        The dataset, as `load_dataset` gives it.

    Raises:
        DatasetNotFoundError: There is no finished dataset.
        DatasetError: A file has changed since it was written, cannot be opened, or does not fit the others.
        ManifestError: The manifest breaks a rule.
    """
    source = Path(folder)
    index = read_index(source)
    for name in (IMAGES_FILE, MANIFEST_FILE):
        if not (source / name).is_file():
            raise DatasetError(f"{source} has no {name}. {_HOW_TO_REMAKE}")
    sizes = {name: (source / name).stat().st_size for name in (MANIFEST_FILE, IMAGES_FILE)}
    n_before = 0
    for name, key in ((MANIFEST_FILE, "manifest_sha256"), (IMAGES_FILE, "images_sha256")):
        found = file_sha256(source / name, progress=_shifted(progress, n_before, sum(sizes.values())))
        n_before += sizes[name]
        if found != index[key]:
            raise DatasetError(
                f"{source / name} has changed since it was written: SHA-256 {found}, {INDEX_FILE} says {index[key]}. "
                f"{_HOW_TO_REMAKE}"
            )
    return load_dataset(source)


def training_labels(dataset: FaceDataset, classes: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which images to train on, and the class of each.

    Args:
        dataset: Its split "train" is used.
        classes: One row a class with a column `identity`, as of `class_table`; row i is label i.

    Returns:
        Row positions (m,) in the dataset, ascending, and labels (m,), 0 to k - 1, both int64.

    Raises:
        DatasetError: The classes are not exactly the identities with training images.
    """
    if "identity" not in classes.columns:
        raise DatasetError(f"The classes have no column identity; found: {', '.join(map(str, classes.columns))}.")
    lookup = pd.Index(classes["identity"].astype("str"))
    if not lookup.is_unique:
        twice = lookup[lookup.duplicated()][0]
        raise DatasetError(f"The identity {twice!r} is more than one row of the classes. Keep one row per identity.")
    rows = dataset.rows("train")
    identities = dataset.manifest["identity"].iloc[rows]
    labels = lookup.get_indexer(pd.Index(identities)).astype(np.int64)
    if (labels < 0).any():
        unknown = sorted(set(identities[labels < 0]))
        raise DatasetError(
            f"{len(unknown)} identities with training images are not among the {len(lookup)} classes (first: "
            f"{', '.join(map(repr, unknown[:3]))}). Make the classes from this dataset with class_table."
        )
    without = lookup[np.bincount(labels, minlength=len(lookup)) == 0]
    if len(without):
        raise DatasetError(
            f"{len(without)} of {len(lookup)} classes have no training image in dataset {dataset.name!r} (first: "
            f"{', '.join(map(repr, without[:3]))}). Make the classes from this dataset with class_table."
        )
    return rows, labels


def read_index(folder: Path) -> dict[str, Any]:
    """Read the `dataset.json` of a dataset folder and check that nothing is missing in it.

    Raises:
        DatasetNotFoundError: There is no such folder, or no finished dataset in it; the message says what makes it.
        DatasetError: The file is damaged, or of another version.
    """
    if not folder.is_dir():
        raise DatasetNotFoundError(f"There is no dataset folder {folder}. {_HOW_TO_MAKE}")
    file = folder / INDEX_FILE
    if not file.is_file():
        found = sorted(entry.name for entry in folder.iterdir())
        if PACKING_FOLDER in found:
            raise DatasetNotFoundError(
                f"{folder} holds a dataset that is not packed to its end. Prepare it again as it was begun: it goes on "
                "where it stopped."
            )
        unfinished = {MANIFEST_FILE, IMAGES_FILE} & set(found)
        raise DatasetNotFoundError(
            f"{folder} holds an unfinished dataset: {INDEX_FILE}, which is written last, is missing. {_HOW_TO_REMAKE}"
            if unfinished
            else f"{folder} is not a dataset folder: it has no {INDEX_FILE}. {_HOW_TO_MAKE}"
        )
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{file} is not readable JSON: {error}. {_HOW_TO_REMAKE}") from error
    for key, kind in _INDEX_TYPES.items():
        if not isinstance(index, dict) or not isinstance(index.get(key), kind):
            raise DatasetError(f"{file} has no {key} of type {kind.__name__}. {_HOW_TO_REMAKE}")
    if index["format_version"] != FORMAT_VERSION:
        raise DatasetError(
            f"{file} has format version {index['format_version']}; this version of the library reads "
            f"{FORMAT_VERSION}. {_HOW_TO_REMAKE}"
        )
    return index


def _check_images(images: NDArray[Any], n_images: int, what: str) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = f"{images.dtype} values" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
        raise DatasetError(f"The images of {what} are {found}; expected a numpy array of uint8, 0 to 255.")
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2] or images.shape[1] == 0:
        raise DatasetError(
            f"The images of {what} have the shape {images.shape}; expected (n, size, size, 3): square and RGB."
        )
    if len(images) != n_images:
        raise DatasetError(f"{what} has {len(images)} images but {n_images} rows in its manifest; they must agree.")


def _open_images(file: Path, index: dict[str, Any]) -> NDArray[np.uint8]:
    if not file.is_file():
        raise DatasetError(f"{file.parent} has no {IMAGES_FILE}. {_HOW_TO_REMAKE}")
    try:
        images = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{file} cannot be opened ({file.stat().st_size} bytes; {error}): it is damaged or cut short. "
            f"{_HOW_TO_REMAKE}"
        ) from error
    expected = (index["n_images"], index["image_size"], index["image_size"], 3)
    if images.dtype != np.uint8 or images.shape != expected:
        raise DatasetError(
            f"{file} holds {images.dtype} {images.shape}, but {INDEX_FILE} says uint8 {expected}. {_HOW_TO_REMAKE}"
        )
    return images


def _shifted(progress: Callable[[int, int], None] | None, n_before: int, n_all: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda n_read: progress(n_before + n_read, n_all)
