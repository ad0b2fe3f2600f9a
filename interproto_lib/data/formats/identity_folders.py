"""Reading `<root>/<identity>/<image>`: one folder a person, the layout of CASIA-WebFace and of most collections."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.formats.age_labels import ImageAges, UnmatchedAges, ages_of_images
from interproto_lib.data.formats.folder_listing import FolderListing, list_folder
from interproto_lib.data.formats.image_files import FITS, IMAGE_ENDINGS, Fit, fit_image, read_image
from interproto_lib.data.splits import check_shares, choose_splits
from interproto_lib.errors import ConfigError, DatasetError

_MAX_NAMED = 10


@dataclass(kw_only=True)
class _Reading:
    """What came of reading every image: pixels, the rows that could be read, and what was wrong with the others."""

    pixels: NDArray[np.uint8]
    read: list[int] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    misfits: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)


def read_identity_folder(
    root: str | Path,
    *,
    name: str | None = None,
    ages: str | Path | None = None,
    image_size: int = 112,
    fit: Fit = "error",
    heldout_share: float = 0.25,
    validation_share: float = 0.1,
    seed: int = 0,
    min_images_per_identity: int = 2,
    on_unreadable: Literal["error", "drop"] = "error",
    unmatched_ages: UnmatchedAges = "error",
    follow_links: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FaceDataset:
    """Read a folder with one subfolder per person into a dataset in memory.

    The name of a subfolder, as it is on the disk, is the identity. Identities and images are in natural order ("s2"
    before "s10"). Images (see `read_image` for what is converted) end in .jpg .jpeg .png .bmp .pgm .ppm .webp .tif
    .tiff, in any case. Hidden files and folders are left out; other files are counted in `settings["files_not_read"]`;
    an image that lies anywhere else than in an identity's folder is an error.

    People, not images, are held out; `choose_splits` says how they are drawn.

    Args:
        root: The folder.
        name: What to call the dataset, also its `source` in the manifest; None takes the name of `root`.
        ages: A .csv or .parquet with the columns `path` (relative to `root`) and `age_years`, or a list of age labels
            ending in .txt (see `read_age_labels`). An image that is not in the table, or has no age there, is
            unlabelled. None leaves all unlabelled.
        image_size: Height and width of the images, in pixels.
        fit: What to do with images of another size: "error" refuses them; "pad", "crop" and "stretch" scale them (see
            `FITS`). Faces for the paper's models are aligned to 112 x 112 beforehand; scaling does not align.
        heldout_share: Share of the identities to hold out, 0 to 1; 0 holds out none, 1 holds out all.
        validation_share: Share of the identities, of all of them, that choose epoch and threshold, 0 to 1; 0 takes
            none. Together with `heldout_share` at most 1. Which identities are held out does not depend on it.
        seed: Chooses which identities are held out and which validate.
        min_images_per_identity: An identity with fewer images is an error that names it.
        on_unreadable: "error" names the files that cannot be read; "drop" leaves them out, warns, and lists them in
            `settings["dropped"]`.
        unmatched_ages: Rows of the age table that match no image: "error" names them; "drop" leaves them out, warns,
            and counts them in `settings["ages"]`.
        follow_links: Follow links that lead out of the folder; otherwise such a link is an error that names it.
        progress: Called with the number of images read and the number of all.

    Returns:
        The dataset. All images are held in memory, n * image_size * image_size * 3 bytes: 38 kB an image at 112, so
        18.5 GB for the 490,623 of CASIA-WebFace, and twice that while unreadable ones are dropped. `settings` holds
        the arguments and what was found: `files_not_read`, `dropped`, `original_sizes`, and `ages` (images labelled
        and unlabelled, rows of the table and how many of them match no image).

    Raises:
        ConfigError: An argument is out of range.
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is another, images cannot be read or have another size, or there are too few
            identities or images to train, to validate and to check on held-out people.
        ManifestError: The age table is malformed or names files that are not there.
    """
    check_shares(heldout_share, validation_share)
    _check_settings(image_size, fit, min_images_per_identity, on_unreadable, unmatched_ages)
    folder = Path(root)
    listing = list_folder(folder, follow_links=follow_links)
    _refuse_other_layout(listing)
    paths = listing.paths.tolist()
    found = ImageAges(age_years=np.full(len(paths), np.nan), n_rows=0, n_unmatched=0)
    if ages is not None:
        found = ages_of_images(ages, paths, folder, unmatched=unmatched_ages)
    reading = _read_images(folder, paths, image_size, fit, progress)
    _refuse_unreadable(folder, reading, len(paths), on_unreadable)
    _refuse_misfits(folder, reading, len(paths), image_size)
    identities = listing.parents.iloc[reading.read].reset_index(drop=True)
    counts = Counter(identities)
    _refuse_small_identities(folder, listing.folders, counts, min_images_per_identity)
    splits = choose_splits(
        identities, heldout_share=heldout_share, validation_share=validation_share, seed=seed, where=folder
    )
    title = name if name is not None else folder.resolve().name
    kept_ages = found.age_years[reading.read]
    manifest = pd.DataFrame(
        {
            "path": listing.paths.iloc[reading.read].reset_index(drop=True),
            "identity": identities,
            "age_years": kept_ages,
            "split": pd.Series(splits, dtype="str"),
            "source": title,
        }
    )
    n_people = manifest.groupby("split")["identity"].nunique()
    n_labelled = int(np.isfinite(kept_ages).sum())
    settings: dict[str, Any] = {
        "format": "identity_folders",
        "root": str(folder),
        "image_size": image_size,
        "fit": fit,
        "heldout_share": heldout_share,
        "validation_share": validation_share,
        "seed": seed,
        "min_images_per_identity": min_images_per_identity,
        "on_unreadable": on_unreadable,
        "unmatched_ages": unmatched_ages,
        "n_train_identities": int(n_people.get("train", 0)),
        "n_validation_identities": int(n_people.get("validation", 0)),
        "n_heldout_identities": int(n_people.get("heldout", 0)),
        "original_sizes": dict(reading.sizes.most_common(_MAX_NAMED)),
        "dropped": [{"path": path, "reason": reason} for path, reason in reading.unreadable],
        "files_not_read": {"count": listing.n_others, "examples": list(listing.other_examples)},
        "ages": {
            "table": None if ages is None else str(ages),
            "n_labelled": n_labelled,
            "n_unlabelled": len(manifest) - n_labelled,
            "n_rows": found.n_rows,
            "n_rows_unmatched": found.n_unmatched,
        },
    }
    pixels = reading.pixels if len(manifest) == len(paths) else reading.pixels[reading.read]
    return FaceDataset(name=title, folder=None, manifest=manifest, images=pixels, settings=settings)


def _check_settings(
    image_size: int,
    fit: str,
    min_images_per_identity: int,
    on_unreadable: str,
    unmatched_ages: str,
) -> None:
    if image_size < 1:
        raise ConfigError(f"image_size is {image_size}; it must be at least 1 pixel.")
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}; choose one of: {', '.join(FITS)}.")
    if min_images_per_identity < 1:
        raise ConfigError(f"min_images_per_identity is {min_images_per_identity}; it must be at least 1.")
    for name, value in (("on_unreadable", on_unreadable), ("unmatched_ages", unmatched_ages)):
        if value not in ("error", "drop"):
            raise ConfigError(f"{name} is {value!r}; choose error or drop.")


def _refuse_other_layout(listing: FolderListing) -> None:
    """Refuse a folder without images, or with images that do not lie in a folder of a person directly below it."""
    root = listing.root
    misplaced = listing.paths[listing.paths.str.count("/") != 1].tolist()
    if misplaced:
        raise DatasetError(
            f"{len(misplaced)} images in {root} do not lie in <root>/<identity>/<image>: {_named(misplaced)}. "
            "Move each into the folder of its person, directly below the root."
        )
    if len(listing.paths) == 0:
        n_folders, n_others = len(listing.folders), listing.n_others
        found = f"{n_folders} subfolders and {n_others} other files" if n_folders or n_others else "nothing"
        raise DatasetError(
            f"There are no images in {root}: found {found}. Expected <root>/<identity>/<image>, images ending in "
            f"{' '.join(IMAGE_ENDINGS)}."
        )


def _read_images(
    root: Path, paths: list[str], size: int, fit: Fit, progress: Callable[[int, int], None] | None
) -> _Reading:
    reading = _Reading(pixels=np.zeros((len(paths), size, size, 3), dtype=np.uint8))
    for row, path in enumerate(paths):
        if progress is not None:
            progress(row + 1, len(paths))
        try:
            image = read_image(root / path)
        except DatasetError as error:
            reading.unreadable.append((path, str(error)))
            continue
        reading.sizes[f"{image.width}x{image.height}"] += 1
        try:
            reading.pixels[row] = np.asarray(fit_image(image, size, fit))
        except DatasetError as error:
            reading.misfits.append((path, str(error)))
            continue
        reading.read.append(row)
    return reading


def _refuse_unreadable(root: Path, reading: _Reading, n_images: int, on_unreadable: str) -> None:
    if not reading.unreadable:
        return
    listed = "\n".join(f"  {path}: {reason}" for path, reason in reading.unreadable[:_MAX_NAMED])
    more = len(reading.unreadable) - _MAX_NAMED
    rest = f"\n  and {more} more" if more > 0 else ""
    what = f"{len(reading.unreadable)} of {n_images} images in {root} cannot be read"
    if on_unreadable == "error":
        raise DatasetError(
            f"{what}:\n{listed}{rest}\nRepair or remove these files, or leave them out with on_unreadable='drop'."
        )
    warnings.warn(f"{what} and are left out:\n{listed}{rest}", stacklevel=3)


def _refuse_misfits(root: Path, reading: _Reading, n_images: int, size: int) -> None:
    if reading.misfits:
        path, reason = reading.misfits[0]
        ways = "; ".join(f"fit={name!r}: {what}" for name, what in FITS.items() if name != "error")
        raise DatasetError(
            f"{len(reading.misfits)} of {n_images} images in {root} are not {size} x {size} pixels. The first, {path}, "
            f"{reason}. Align and crop the faces first, or choose how to scale them: {ways}."
        )


def _refuse_small_identities(root: Path, identities: list[str], counts: Counter[str], least: int) -> None:
    small = [identity for identity in identities if counts[identity] < least]
    if small:
        named = [f"{identity} ({counts[identity]})" for identity in small]
        no_images = " A folder without images is no person." if any(counts[identity] == 0 for identity in small) else ""
        way_on = ", or pass min_images_per_identity=1 to keep them for training" if least > 1 else ""
        raise DatasetError(
            f"{len(small)} of {len(identities)} identities in {root} have fewer than {least} readable images: "
            f"{_named(named)}.{no_images} Add images, or remove these folders{way_on}."
        )


def _named(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
