"""Packing: the images of a collection decoded once and streamed into a dataset folder; what was stopped goes on."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from interproto_lib.data.collections import ImageCollection
from interproto_lib.data.datasets import (
    IMAGES_FILE,
    INDEX_FILE,
    PACKING_FOLDER,
    FaceDataset,
    load_dataset,
    written_description,
)
from interproto_lib.data.manifests import validate_manifest
from interproto_lib.data.packed_images import (
    Begun,
    Decode,
    PackedImages,
    Progress,
    mark_refused,
    pack_images,
    rebuild_journal,
    seal_images,
)
from interproto_lib.data.packing_journal import RejectedRow, describe_difference, plain_json, sync_folder
from interproto_lib.errors import ConfigError, DatasetError
from interproto_lib.files import file_lock

LOCK_WAIT_SECONDS = 10.0
"""How long a second process waits for one that packs into the same folder: one that is being stopped needs some."""

_LOCK_FILE = ".packing.lock"
_MAX_NAMED = 10
_ROWS_AT_A_TIME = 100_000
_CHOOSE = "Choose another folder, or remove this one to pack anew."
_ADDED = ("dropped", "rejected_counts", "original_sizes", "packing")


class RejectedImagesError(DatasetError):
    """Images cannot be packed; all of them were tried first.

    Attributes:
        rejected: What was rejected and why, in the order of the collection.
    """

    def __init__(self, message: str, rejected: Sequence[RejectedRow]) -> None:
        super().__init__(message)
        self.rejected = tuple(rejected)


def pack_collection(
    collection: ImageCollection,
    folder: str | Path,
    *,
    split: ArrayLike,
    image_size: int,
    decode: Decode,
    name: str | None = None,
    settings: Mapping[str, Any],
    on_rejected: Literal["error", "drop"],
    n_threads: int = 2,
    progress: Progress | None = None,
    begun: Begun | None = None,
    relabel: bool = False,
) -> FaceDataset:
    """Decode the images of a collection into a dataset folder, in little memory, however many they are.

    The pixels are written block by block into a partial file in `<folder>/packing`, beside a journal of what is on the
    disk. Stopped at any moment - killed, interrupted, disk full - and called again with the same arguments, it goes on,
    and the dataset has the same bytes as one that was never stopped. `dataset.json` is written last, as `save_dataset`
    does. A finished dataset of the same collection and arguments is loaded; any other is refused and left as it is;
    where only its table or `on_rejected` differ, `relabel` writes manifest and index anew and keeps the images.

    An unfinished packing is gone on with when name, files (`collection.fingerprint`), paths, `image_size` and
    `settings` are equal; `root` among the settings is only a record of where the images lay, and decides nothing.
    Identities, ages, splits and `on_rejected` play a part at the end only, and may change. One that differs is refused,
    and the message says where; but one that came to its end and was refused for rejected images, or has kept none,
    gives way to the new one.

    Args:
        collection: The images (n).
        folder: The dataset folder; made when missing.
        split: The split of each row (n,).
        image_size: Height and width to pack, in pixels.
        decode: Makes pixels of an image's bytes, see `Decode`.
        name: What to call the dataset, also the `source` in its manifest; None takes the collection's name.
        settings: How the dataset is made, all that `decode` depends on included; anything JSON can hold. It may not
            have the keys that are added: `dropped`, `rejected_counts`, `original_sizes` and `packing`.
        on_rejected: "error" tries all images, then names those that `decode` rejects; called again with "drop" it goes
            on from there and reads no other image again. "drop" leaves them out and lists them with their reasons in
            `settings["dropped"]`, counted by kind in `settings["rejected_counts"]`.
        n_threads: How many threads read and decode, >= 1; the result does not depend on it.
        progress: Called with the number of images done and the number of all; it starts where an earlier one stopped.
        begun: See `Begun`; not called where the dataset is finished already.
        relabel: Give a finished dataset of the same images the identities, ages and splits of now. No image is decoded,
            their file is read once for its hash, and all files are those of a new packing; stopped at any moment, the
            same call goes on. Where there is no finished dataset it changes nothing.

    Returns:
        The dataset, images memory-mapped.

    Raises:
        ConfigError: An argument is out of range.
        ManifestError: The table of the collection breaks a rule of manifests.
        RejectedImagesError: Images were rejected and `on_rejected` is "error".
        DatasetError: No image is left, or the folder holds something else.
        RunError: Another process packs into this folder.
        WriteError: The folder cannot be written, or the disk is full; what was packed is kept.
    """
    target = Path(folder)
    title = collection.name if name is None else name
    asked = _checked(collection, split, image_size, settings, on_rejected, n_threads)
    manifest = _manifest(collection, split, title)
    request = packing_request(collection, name=title, image_size=image_size, settings=asked)
    record = {
        "shape": collection.shape,
        "fingerprint": collection.fingerprint,
        "paths_sha256": request["paths_sha256"],
        "table_sha256": _table_sha256(manifest),
        "on_rejected": on_rejected,
    }
    wanted = {"name": title, "image_size": image_size, "settings": asked, **record}
    if (target / INDEX_FILE).is_file() and not relabel:
        return _finished(target, wanted, manifest)
    with packing_lock(target):
        is_finished = (target / INDEX_FILE).is_file()
        if is_finished and not (relabel and _unpack_finished(target, wanted, collection, request)):
            return _finished(target, wanted, manifest)
        packed = pack_images(
            collection,
            target,
            image_size=image_size,
            decode=decode,
            request=request,
            n_threads=n_threads,
            progress=progress,
            begun=begun,
        )
        if packed.n_kept == 0 or (packed.rejected and on_rejected == "error"):
            raise refuse_rejected(collection, packed)
        return finish_packing(
            packed,
            name=title,
            manifest=manifest if not packed.rejected else manifest.iloc[packed.kept_rows()],
            settings={**asked, **packing_record(collection, packed), "packing": record},
        )


def packing_request(
    collection: ImageCollection, *, name: str, image_size: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe what the pixels of a packing depend on, for `pack_images`.

    Args:
        collection: The images.
        name: What the dataset is to be called.
        image_size: Height and width, in pixels.
        settings: All that the decoder depends on; anything JSON can hold.
    """
    return {
        "name": name,
        "fingerprint": collection.fingerprint,
        "n_images": len(collection),
        "paths_sha256": _table_sha256(collection.table[["path"]]),
        "image_size": image_size,
        "settings": plain_json(settings),
    }


@contextmanager
def packing_lock(folder: Path) -> Iterator[None]:
    """Let only one process pack into a folder.

    Raises:
        RunError: Another one does, and still does after `LOCK_WAIT_SECONDS`.
    """
    busy = f"Another process packs images into {folder}. Wait for its end, or choose another folder."
    lock = folder / _LOCK_FILE
    with file_lock(lock, busy=busy, wait_seconds=LOCK_WAIT_SECONDS):
        try:
            yield
        finally:
            # Whoever takes the lock of a finished dataset only reads, so two who hold one of the same name do no harm.
            if (folder / INDEX_FILE).is_file():
                lock.unlink(missing_ok=True)


def refuse_rejected(
    collection: ImageCollection, packed: PackedImages, *, way_out: str = "on_rejected='drop'"
) -> RejectedImagesError:
    """Make the error that names the rejected images of a packing, once all rows are done.

    What was packed is kept and marked as refused: the same request goes on from there when the images are to be left
    out, another one replaces it. Where nothing was packed, nothing is kept.

    Args:
        collection: The images.
        packed: What came of packing them.
        way_out: The setting that leaves them out.

    Returns:
        The error, to be raised.

    Raises:
        WriteError: The folder cannot be written.
    """
    place = packed.folder / PACKING_FOLDER
    n_rejected = len(packed.rejected)
    what = f"images of {collection.name!r} in {collection.place}"
    if packed.n_kept == 0:
        shutil.rmtree(place, ignore_errors=True)
        untried = len(collection) - packed.n_rows
        others = f" (the other {untried} were not tried)" if untried else ""
        said = f"None of the {n_rejected} {what} can be packed{others}"
        advice = "Check the source and the settings."
    else:
        mark_refused(packed)
        said = f"{n_rejected} of {packed.n_rows} {what} cannot be packed"
        advice = (
            f"Repair or remove them and begin again, with all images. Or leave them out with {way_out}: what is packed "
            "of the others is kept for that."
        )
    return RejectedImagesError(f"{said}:\n{name_rejected(collection, packed.rejected)}\n{advice}", packed.rejected)


def name_rejected(collection: ImageCollection, rejected: Sequence[RejectedRow]) -> str:
    """List the first rejected images with their reasons, a line each, and count all by kind where there are more."""
    paths = collection.table["path"]
    lines = [f"  {paths.iloc[image.row]}: {image.reason}" for image in rejected[:_MAX_NAMED]]
    if len(rejected) > _MAX_NAMED:
        kinds = "; ".join(f"{count} x {kind}" for kind, count in _kinds(rejected).items())
        lines.append(f"  and {len(rejected) - _MAX_NAMED} more. All, by kind: {kinds}")
    return "\n".join(lines)


def packing_record(collection: ImageCollection, packed: PackedImages) -> dict[str, Any]:
    """Give what the settings of a dataset say of its packing: `dropped`, `rejected_counts` and `original_sizes`."""
    paths = collection.table["path"]
    return {
        "dropped": [{"path": paths.iloc[image.row], "reason": image.reason} for image in packed.rejected],
        "rejected_counts": _kinds(packed.rejected),
        "original_sizes": dict(list(packed.original_sizes.items())[:_MAX_NAMED]),
    }


def finish_packing(
    packed: PackedImages, *, name: str, manifest: pd.DataFrame, settings: Mapping[str, Any]
) -> FaceDataset:
    """Make a dataset of packed images: write manifest and index, and put everything in its place, the index last.

    Args:
        packed: What was packed.
        name: What to call the dataset.
        manifest: The rows (n_kept) that were packed, in order, see `PackedImages.kept_rows`.
        settings: How it was made.

    Returns:
        The dataset, images memory-mapped.

    Raises:
        ManifestError: The manifest breaks a rule.
        DatasetError: The packed images are not what was written.
        WriteError: A file cannot be written; what was packed is kept.
    """
    target = packed.folder
    file, images_sha256 = seal_images(packed)
    dataset = FaceDataset(
        name=name,
        folder=target,
        manifest=manifest,
        images=np.load(file, mmap_mode="r"),
        settings=dict(settings),
        images_sha256=images_sha256,
    )
    with written_description(dataset, target) as describe:
        describe(images_sha256)
        file.replace(target / IMAGES_FILE)
    sync_folder(target)
    shutil.rmtree(target / PACKING_FOLDER, ignore_errors=True)
    return dataset


def _checked(
    collection: ImageCollection,
    split: ArrayLike,
    image_size: int,
    settings: Mapping[str, Any],
    on_rejected: str,
    n_threads: int,
) -> dict[str, Any]:
    """Check arguments, and give the settings as JSON gives them back."""
    if np.shape(split) != (len(collection),):
        raise ConfigError(
            f"split has the shape {np.shape(split)}; expected one split for each of {len(collection)} rows."
        )
    if image_size < 1:
        raise ConfigError(f"image_size is {image_size}; it must be at least 1 pixel.")
    if n_threads < 1:
        raise ConfigError(f"n_threads is {n_threads}; it must be at least 1.")
    if on_rejected not in ("error", "drop"):
        raise ConfigError(f"on_rejected is {on_rejected!r}; choose error or drop.")
    taken = [key for key in _ADDED if key in settings]
    if taken:
        raise ConfigError(f"The settings already have {', '.join(taken)}, which packing adds. Leave it out.")
    try:
        return plain_json(settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The settings of a packing cannot be written as JSON: {error}.") from error


def _manifest(collection: ImageCollection, split: ArrayLike, source: str) -> pd.DataFrame:
    manifest = collection.table.copy(deep=False)
    manifest["split"] = pd.Series(np.asarray(split)).astype("str")
    manifest["source"] = source
    return validate_manifest(manifest, where=f"the manifest of {source!r}, made from {collection.place}")


def _finished(folder: Path, wanted: Mapping[str, Any], manifest: pd.DataFrame) -> FaceDataset:
    """Load a finished dataset if it is the one that was asked for."""
    dataset = load_dataset(folder)
    before = _packed_as(dataset)
    difference = describe_difference(before, wanted)
    if not difference:
        shutil.rmtree(folder / PACKING_FOLDER, ignore_errors=True)
        return dataset
    told = f"{folder} already holds a dataset that was packed otherwise: {difference}"
    if _is_only_the_table_another(dataset, before, wanted):
        kept = manifest[~manifest["path"].isin(_dropped_paths(dataset))]
        raise DatasetError(
            f"{told} ({_table_difference(dataset.manifest, kept)}). Give the same labels and shares as then, or choose "
            "another folder. Or keep its images and write these labels and splits with relabel=True (on the command "
            "line: --relabel)."
        )
    raise DatasetError(f"{told}. {_CHOOSE}")


def _packed_as(dataset: FaceDataset) -> dict[str, Any]:
    """Give what a finished dataset was asked for with."""
    folder = dataset.folder
    found = dataset.settings.get("packing")
    if not isinstance(found, dict):
        raise DatasetError(
            f"{folder} already holds a dataset, {dataset.name!r}, that was not packed from a collection. {_CHOOSE}"
        )
    return {
        "name": dataset.name,
        "image_size": dataset.image_size,
        "settings": {key: value for key, value in dataset.settings.items() if key not in _ADDED},
        **found,
    }


def _is_only_the_table_another(dataset: FaceDataset, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a dataset holds the wanted images, and only what is said of them differs."""
    free = {"table_sha256"}
    if wanted["on_rejected"] == "drop" or not _dropped_paths(dataset):
        free.add("on_rejected")
    of_images = [{key: value for key, value in asked.items() if key not in free} for asked in (before, wanted)]
    return before.get("table_sha256") != wanted["table_sha256"] and not describe_difference(*of_images)


def _dropped_paths(dataset: FaceDataset) -> list[str]:
    try:
        return [str(image["path"]) for image in dataset.settings["dropped"]]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{dataset.folder}: its settings do not list which images were dropped.") from error


def _table_difference(before: pd.DataFrame, now: pd.DataFrame) -> str:
    """Say in numbers how two manifests of the same images differ."""
    n_before, n_now = (int(table["age_years"].notna().sum()) for table in (before, now))
    told = [f"ages: {n_before:,} images had one, now {n_now:,}"] if n_before != n_now else []
    if n_before == n_now and not np.array_equal(before["age_years"], now["age_years"], equal_nan=True):
        told.append("ages: others for as many images")
    splits = [
        ", ".join(f"{split} {count:,}" for split, count in table["split"].value_counts(sort=False).items())
        for table in (before, now)
    ]
    if not np.array_equal(before["split"], now["split"]):
        told.append(f"splits: {splits[0]} images, now {splits[1]}")
    if not np.array_equal(before["identity"], now["identity"]):
        told.append(f"identities: {before['identity'].nunique():,}, now {now['identity'].nunique():,}, or other names")
    return "; ".join(told) or "other columns"


def _unpack_finished(
    folder: Path, wanted: Mapping[str, Any], collection: ImageCollection, request: Mapping[str, Any]
) -> bool:
    """Write the journal of a finished dataset again, as it was before its end; False where only a new packing will do.

    From there on it is an interrupted packing whose images are in their place, so that it can be stopped and go on.
    """
    dataset = load_dataset(folder)
    if not _is_only_the_table_another(dataset, _packed_as(dataset), wanted):
        return False
    settings, dropped = dataset.settings, _dropped_paths(dataset)
    rows = np.flatnonzero(collection.table["path"].isin(dropped)).tolist()
    try:
        kinds = [kind for kind, count in settings["rejected_counts"].items() for _ in range(min(count, len(rows)))]
        reasons = [str(image["reason"]) for image in settings["dropped"]]
        rejected = [RejectedRow(*of_image) for of_image in zip(rows, kinds, reasons, strict=True)]
        sizes = {str(size): int(count) for size, count in settings["original_sizes"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{folder}: its settings do not say which images were dropped, and why. {_CHOOSE}"
        ) from error
    if len(rejected) + len(dataset) != len(collection) or dataset.images_sha256 is None:
        raise DatasetError(f"{folder} holds {len(dataset)} images, its settings speak of others. {_CHOOSE}")
    rebuild_journal(
        folder,
        request,
        n_rows=len(collection),
        rejected=rejected,
        original_sizes=sizes,
        images_sha256=dataset.images_sha256,
    )
    return True


def _kinds(rejected: Sequence[RejectedRow]) -> dict[str, int]:
    return dict(Counter(image.kind for image in rejected).most_common())


def _table_sha256(table: pd.DataFrame) -> str:
    digest = hashlib.sha256("\n".join(map(str, table.columns)).encode("utf-8"))
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        rows = pd.util.hash_pandas_object(table.iloc[start : start + _ROWS_AT_A_TIME], index=False)
        digest.update(rows.to_numpy(dtype="<u8").tobytes())
    return digest.hexdigest()
