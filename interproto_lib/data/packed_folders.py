"""Folders of photographs, one for each person, packed into a dataset folder without holding all images in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.age_coverage import AgeCoverage, label_ages
from interproto_lib.data.collections import ImageCollection
from interproto_lib.data.datasets import INDEX_FILE, FaceDataset, load_dataset
from interproto_lib.data.formats.age_labels import UnmatchedAges
from interproto_lib.data.formats.image_files import FITS, Fit, decode_image_bytes, fit_image
from interproto_lib.data.packed_images import (
    Decode,
    DecodedImage,
    ImageRejectedError,
    PackedImages,
    Progress,
    pack_images,
)
from interproto_lib.data.packing import (
    finish_packing,
    name_rejected,
    packing_lock,
    packing_record,
    packing_request,
    refuse_rejected,
)
from interproto_lib.data.shapes import open_collection
from interproto_lib.data.splits import check_shares, choose_splits
from interproto_lib.errors import ConfigError, DatasetError

MISFIT = "another size"
"""The kind of rejected images that have another size than is wanted, where they are not to be scaled."""

_MAX_NAMED = 10


def pack_identity_folder(
    folder: str | Path,
    root: str | Path,
    *,
    ages: str | Path | None = None,
    image_size: int = 112,
    fit: Fit = "error",
    heldout_share: float = 0.25,
    validation_share: float = 0.1,
    seed: int = 0,
    min_images_per_identity: int = 2,
    on_unreadable: Literal["error", "drop"] = "error",
    unmatched_ages: UnmatchedAges = "error",
    requested: Mapping[str, Any] | None = None,
    n_threads: int = 2,
    progress: Progress | None = None,
) -> FaceDataset:
    """Make a dataset folder of `<root>/<identity>/<image>`, in little memory and going on where it was stopped.

    Images, manifest and splits are those of `read_identity_folder`, which takes the same arguments and holds all
    images in memory; but ages match as `label_ages` has it, however many zeros stand before a number, and folders
    without images are warned of. What can be told from the listing alone - too few people, ages of other images - is
    told before an image is decoded. See `pack_collection` for what happens when it is stopped.

    Args:
        folder: The dataset folder; one that is finished is loaded as it is.
        root: The folder of photographs.
        ages: See `read_identity_folder`, as for all that are not explained here.
        image_size: Height and width of the images, in pixels.
        fit: What to do with images of another size.
        heldout_share: Share of the identities to hold out.
        validation_share: Share of the identities that validate.
        seed: Chooses them.
        min_images_per_identity: An identity with fewer images is an error.
        on_unreadable: What to do with images that cannot be read.
        unmatched_ages: What to do with rows of the age table that match no image.
        requested: Put into the dataset's settings under `requested`.
        n_threads: How many threads read and decode, >= 1.
        progress: Called with the number of images done and the number of all.

    Returns:
        The dataset, images memory-mapped.

    Raises:
        ConfigError: An argument is out of range.
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is another, images cannot be read or have another size, or people are too few.
        ManifestError: The age table is malformed or names files that are not there.
        RunError: Another process makes this dataset.
        WriteError: The folder cannot be written, or the disk is full; what was packed is kept.
    """
    _check_settings(image_size, fit, min_images_per_identity, on_unreadable, unmatched_ages, n_threads)
    check_shares(heldout_share, validation_share)
    target, place = Path(folder), Path(root)
    shares: dict[str, Any] = {"heldout_share": heldout_share, "validation_share": validation_share, "seed": seed}
    collection = open_collection(place, name=place.resolve().name, shape="identity_folders")
    if collection.place != place:
        raise DatasetError(f"The images of {place} lie one folder deeper. Set root to {collection.place}.")
    for note in collection.notes:
        warnings.warn(f"{place}: {note}", stacklevel=2)
    identities = collection.table["identity"]
    collection, coverage = _with_ages(collection, ages, unmatched_ages)
    _refuse_small_identities(place, identities, identities, min_images_per_identity)
    choose_splits(identities, **shares, where=place)
    with packing_lock(target):
        if (target / INDEX_FILE).is_file():
            return load_dataset(target)
        packed = pack_images(
            collection,
            target,
            image_size=image_size,
            decode=fitting_decoder(image_size, fit),
            request=packing_request(
                collection, name=collection.name, image_size=image_size, settings={"root": str(place), "fit": fit}
            ),
            n_threads=n_threads,
            progress=progress,
        )
        _refuse_or_warn(collection, packed, on_unreadable)
        rows = packed.kept_rows()
        _refuse_small_identities(place, identities, identities.iloc[rows], min_images_per_identity)
        manifest = collection.table.iloc[rows].reset_index(drop=True)
        manifest["split"] = pd.Series(choose_splits(manifest["identity"], **shares, where=place), dtype="str")
        manifest["source"] = collection.name
        n_people = manifest.groupby("split")["identity"].nunique()
        n_labelled = int(manifest["age_years"].notna().sum())
        settings = {
            "format": "identity_folders",
            "root": str(place),
            "image_size": image_size,
            "fit": fit,
            **shares,
            "min_images_per_identity": min_images_per_identity,
            "on_unreadable": on_unreadable,
            "unmatched_ages": unmatched_ages,
            **{f"n_{split}_identities": int(n_people.get(split, 0)) for split in ("train", "validation", "heldout")},
            **packing_record(collection, packed),
            "files_not_read": {"count": collection.others[0], "examples": list(collection.others[1])},
            "ages": {
                "table": None if ages is None else str(ages),
                "n_labelled": n_labelled,
                "n_unlabelled": len(manifest) - n_labelled,
                "n_rows": 0 if coverage is None else coverage.n_rows,
                "n_rows_unmatched": 0 if coverage is None else coverage.n_rows_unmatched,
            },
            "requested": dict(requested or {}),
        }
        return finish_packing(packed, name=collection.name, manifest=manifest, settings=settings)


def fitting_decoder(image_size: int, fit: Fit) -> Decode:
    """Give the decoder that brings images to a size as `fit` says, and tells what size they had.

    Args:
        image_size: Height and width to reach, in pixels.
        fit: One of `FITS`.
    """

    def decode(row: int, content: bytes) -> DecodedImage:
        image = decode_image_bytes(content)
        try:
            pixels: NDArray[np.uint8] = np.asarray(fit_image(image, image_size, fit))
        except DatasetError as error:
            raise ImageRejectedError(str(error), kind=MISFIT) from error
        return DecodedImage(pixels, image.size)

    return decode


def _check_settings(
    image_size: int, fit: str, min_images_per_identity: int, on_unreadable: str, unmatched_ages: str, n_threads: int
) -> None:
    counts = {"image_size": image_size, "min_images_per_identity": min_images_per_identity, "n_threads": n_threads}
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}; it must be at least 1.")
    choices = ("error", "drop")
    for name, choice, known in (
        ("fit", fit, tuple(FITS)),
        ("on_unreadable", on_unreadable, choices),
        ("unmatched_ages", unmatched_ages, choices),
    ):
        if choice not in known:
            raise ConfigError(f"{name} is {choice!r}; choose one of: {', '.join(known)}.")


def _with_ages(
    collection: ImageCollection, ages: str | Path | None, unmatched_ages: UnmatchedAges
) -> tuple[ImageCollection, AgeCoverage | None]:
    if ages is None:
        return collection, None
    labelled, coverage = label_ages(
        collection, ages, unmatched="error" if unmatched_ages == "error" else "count", few="count"
    )
    if coverage.n_rows_unmatched:
        warnings.warn(f"Rows of the age table are left out. {coverage}", stacklevel=3)
    return labelled, coverage


def _refuse_or_warn(collection: ImageCollection, packed: PackedImages, on_unreadable: str) -> None:
    unreadable = [image for image in packed.rejected if image.kind != MISFIT]
    misfits = [image for image in packed.rejected if image.kind == MISFIT]
    if misfits or packed.n_kept == 0 or (unreadable and on_unreadable == "error"):
        error = refuse_rejected(collection, packed, way_out="on_unreadable='drop'")
        if not misfits or (unreadable and on_unreadable == "error"):
            raise error
        path = collection.table["path"].iloc[misfits[0].row]
        ways = "; ".join(f"fit={name!r}: {what}" for name, what in FITS.items() if name != "error")
        size = packed.image_size
        raise DatasetError(
            f"{len(misfits)} of {packed.n_rows} images in {collection.place} are not {size} x {size} pixels. The "
            f"first, {path}, {misfits[0].reason}. Align and crop the faces first, or choose how to scale them: {ways}."
        ) from error
    if unreadable:
        warnings.warn(
            f"{len(unreadable)} of {packed.n_rows} images in {collection.place} cannot be read and are left out:\n"
            f"{name_rejected(collection, unreadable)}",
            stacklevel=3,
        )


def _refuse_small_identities(root: Path, listed: pd.Series, readable: pd.Series, least: int) -> None:
    counts = readable.value_counts().reindex(listed.unique(), fill_value=0)
    small = counts[counts < least]
    if len(small):
        named = ", ".join(f"{identity} ({count})" for identity, count in small.head(_MAX_NAMED).items())
        more = f" and {len(small) - _MAX_NAMED} more" if len(small) > _MAX_NAMED else ""
        raise DatasetError(
            f"{len(small)} of {len(counts)} identities in {root} have fewer than {least} readable images: "
            f"{named}{more}. Add images, or remove these folders, or pass min_images_per_identity=1 to keep them for "
            "training."
        )
