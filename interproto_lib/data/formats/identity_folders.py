"""Reading `<root>/<identity>/<image>`: one folder a person, the layout of CASIA-WebFace and of most collections."""

from __future__ import annotations

import hashlib
import os
import re
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
from interproto_lib.data.formats.age_labels import ImageAges, UnmatchedAges, ages_of_images, composed
from interproto_lib.data.formats.image_files import FITS, IMAGE_ENDINGS, Fit, fit_image, read_image
from interproto_lib.data.tables import CONTROL_CHARACTERS
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

_MAX_NAMED = 10
_MIN_IDENTITIES = 2


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """The files of a root folder: images as (identity, path), in natural order, and what else lies there."""

    identities: list[str]
    images: list[tuple[str, str]]
    others: list[str]


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
    progress: Callable[[int, int], None] | None = None,
) -> FaceDataset:
    """Read a folder with one subfolder per person into a dataset in memory.

    The name of a subfolder, as it is on the disk, is the identity. Identities and images are in natural order ("s2"
    before "s10"). Images (see `read_image` for what is converted) end in .jpg .jpeg .png .bmp .pgm .ppm .webp .tif
    .tiff, in any case. Hidden files and folders are left out; other files are counted in `settings["files_not_read"]`;
    an image that lies anywhere else than in an identity's folder is an error.

    People, not images, are held out: identities are ordered by the SHA-256 of seed and name, and the first
    `heldout_share` of them, at least two, become the split "heldout", the next `validation_share` of them, again at
    least two, the split "validation". Which ones depends on nothing but seed and names. Only identities with at least
    two images are taken for either, since a person with one image gives no pair.

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
    _check_shares(heldout_share, validation_share)
    _check_settings(image_size, fit, min_images_per_identity, on_unreadable, unmatched_ages)
    folder = Path(root)
    listing = _list_images(folder)
    paths = [path for _, path in listing.images]
    found = ImageAges(age_years=np.full(len(paths), np.nan), n_rows=0, n_unmatched=0)
    if ages is not None:
        found = ages_of_images(ages, paths, folder, unmatched=unmatched_ages)
    reading = _read_images(folder, paths, image_size, fit, progress)
    _refuse_unreadable(folder, reading, len(paths), on_unreadable)
    _refuse_misfits(folder, reading, len(paths), image_size)
    kept = [listing.images[row] for row in reading.read]
    counts = Counter(identity for identity, _ in kept)
    _refuse_small_identities(folder, listing.identities, counts, min_images_per_identity)
    heldout, validation = _choose_unseen(folder, counts, heldout_share, validation_share, seed)
    splits = dict.fromkeys(heldout, "heldout") | dict.fromkeys(validation, "validation")
    title = name if name is not None else folder.resolve().name
    kept_ages = found.age_years[reading.read]
    manifest = pd.DataFrame(
        {
            "path": [path for _, path in kept],
            "identity": [identity for identity, _ in kept],
            "age_years": kept_ages,
            "split": [splits.get(identity, "train") for identity, _ in kept],
            "source": title,
        }
    )
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
        "n_train_identities": len(counts) - len(splits),
        "n_validation_identities": len(validation),
        "n_heldout_identities": len(heldout),
        "original_sizes": dict(reading.sizes.most_common(_MAX_NAMED)),
        "dropped": [{"path": path, "reason": reason} for path, reason in reading.unreadable],
        "files_not_read": {"count": len(listing.others), "examples": listing.others[:_MAX_NAMED]},
        "ages": {
            "table": None if ages is None else str(ages),
            "n_labelled": n_labelled,
            "n_unlabelled": len(kept) - n_labelled,
            "n_rows": found.n_rows,
            "n_rows_unmatched": found.n_unmatched,
        },
    }
    pixels = reading.pixels if len(kept) == len(paths) else reading.pixels[reading.read]
    return FaceDataset(name=title, folder=None, manifest=manifest, images=pixels, settings=settings)


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return a key that sorts names as people do, numbers by their value: "s2" before "s10".

    Example:
        >>> sorted(["s10", "s2", "s1"], key=natural_key)
        ['s1', 's2', 's10']
    """
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if odd % 2 else part for odd, part in enumerate(parts)), name


def _check_shares(heldout_share: float, validation_share: float) -> None:
    for name, share in (("heldout_share", heldout_share), ("validation_share", validation_share)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share}; it is a share of the identities, 0 to 1.")
    if _together(heldout_share, validation_share) > 1:
        raise ConfigError(
            f"heldout_share {heldout_share:g} and validation_share {validation_share:g} together are more than all "
            "identities. Choose a smaller validation_share (0 for none) or a smaller heldout_share."
        )


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


def _list_images(root: Path) -> _Listing:
    if not root.exists():
        raise DatasetNotFoundError(
            f"There is no folder {root}. It should hold one subfolder per person, with that person's images in it."
        )
    if not root.is_dir():
        raise DatasetError(f"{root} is a file; expected a folder with one subfolder per person.")
    identities: list[str] = []
    images: list[tuple[str, str]] = []
    others: list[str] = []
    misplaced: list[str] = []
    for entry in _entries(root, root):
        if not Path(entry).is_dir():
            (misplaced if _is_image(entry.name) else others).append(entry.name)
            continue
        identities.append(entry.name)
        for file in _entries(root, Path(entry)):
            path = f"{entry.name}/{file.name}"
            if Path(file).is_dir():
                deeper = _deeper_files(root, Path(file))
                misplaced += [below for below in deeper if _is_image(below)]
                others += [below for below in deeper if not _is_image(below)]
            elif _is_image(file.name):
                images.append((entry.name, path))
            else:
                others.append(path)
    if misplaced:
        raise DatasetError(
            f"{len(misplaced)} images in {root} do not lie in <root>/<identity>/<image>: {_named(misplaced)}. "
            "Move each into the folder of its person, directly below the root."
        )
    if not images:
        found = f"{len(identities)} subfolders and {len(others)} other files" if identities or others else "nothing"
        raise DatasetError(
            f"There are no images in {root}: found {found}. Expected <root>/<identity>/<image>, images ending in "
            f"{' '.join(IMAGE_ENDINGS)}."
        )
    _refuse_twins(root, identities)
    return _Listing(identities=identities, images=images, others=others)


def _entries(root: Path, folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, hidden entries left out, in natural order."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"Cannot look into {folder}: {error.strerror}. Check its permissions.") from error
    for entry in entries:
        try:
            entry.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DatasetError(
                f"A name in {folder.relative_to(root.parent) if folder != root else root} is not UTF-8: "
                f"{os.fsencode(entry.name)!r}. Rename it."
            ) from error
        if re.search(CONTROL_CHARACTERS, entry.name):
            raise DatasetError(f"The name {entry.name!r} in {folder} contains a control character. Rename it.")
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def _deeper_files(root: Path, folder: Path) -> list[str]:
    files: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        below = Path(place).relative_to(root)
        files += [(below / name).as_posix() for name in sorted(names, key=natural_key) if not name.startswith(".")]
    return files


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _refuse_twins(root: Path, identities: list[str]) -> None:
    """Refuse two folders whose names look the same and differ only in how Unicode composes accents."""
    spellings: dict[str, str] = {}
    for identity in identities:
        other = spellings.setdefault(composed(identity), identity)
        if other is not identity:
            raise DatasetError(
                f"{root} has two folders that read {identity!r} and differ only in how their letters are composed in "
                f"Unicode ({other.encode('utf-8')!r} and {identity.encode('utf-8')!r}). Merge them into one."
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


def _choose_unseen(
    root: Path, counts: Counter[str], heldout_share: float, validation_share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Return the identities that are held out and those that validate."""
    n_all = len(counts)
    train_on_none = _together(heldout_share, validation_share) == 1
    n_heldout = _share_of(n_all, heldout_share)
    n_validation = n_all - n_heldout if train_on_none else _share_of(n_all, validation_share)
    uses = (
        (not train_on_none, n_all - n_heldout - n_validation, "to train on"),
        (validation_share > 0, n_validation, "to validate"),
        (heldout_share > 0, n_heldout, "to hold out"),
    )
    if any(wanted and n < _MIN_IDENTITIES for wanted, n, _ in uses):
        needed = [f"two {use}" for wanted, _, use in uses if wanted]
        raise DatasetError(
            f"{root} has {n_all} {'identity' if n_all == 1 else 'identities'} ({_named(list(counts))}); with "
            f"heldout_share={heldout_share:g} and validation_share={validation_share:g} there must be "
            f"{' and '.join(needed)}. Add folders of more people, or choose other shares (0 takes nobody)."
        )
    pairable = [identity for identity in counts if counts[identity] >= 2]
    if len(pairable) < n_heldout + n_validation:
        raise DatasetError(
            f"{n_heldout} of the {n_all} identities in {root} are to be held out and {n_validation} are to validate, "
            f"but only {len(pairable)} have the two images that a pair needs. Add images or identities, or choose a "
            "smaller heldout_share or validation_share."
        )
    drawn = sorted(pairable, key=lambda identity: _draw(identity, seed))
    return drawn[:n_heldout], drawn[n_heldout : n_heldout + n_validation]


def _together(heldout_share: float, validation_share: float) -> float:
    return round(heldout_share + validation_share, 12)  # so that 0.7 and 0.3 are all, whatever their last bits


def _share_of(n_all: int, share: float) -> int:
    return 0 if share == 0 else n_all if share == 1 else max(_MIN_IDENTITIES, int(share * n_all + 0.5))


def _draw(identity: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{composed(identity)}".encode()).hexdigest()


def _named(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
