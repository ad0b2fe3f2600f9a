"""The shapes in which collections of faces lie on a disk: recognised, checked, opened."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.collections import FolderImages, ImageCollection
from interproto_lib.data.formats.folder_listing import FolderListing, list_folder
from interproto_lib.data.formats.image_files import IMAGE_ENDINGS
from interproto_lib.data.formats.image_names import NAME_LAYOUTS, describe_images
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

Shape = Literal["auto", "identity_folders", "recordio", "agedb", "fgnet", "lag"]

SHAPES: dict[str, str] = {
    "identity_folders": "<root>/<identity>/<image>: one folder a person, its images directly in it",
    "recordio": "a file .rec of MXNet; its .idx and the file property are read where they lie beside it",
    "agedb": "<root>/<Name>/<idx>_<Name>_<age>.jpg, the age 0 to 130",
    "fgnet": "<root>/NNNAaa.JPG: person NNN, age aa, a letter may follow; all images in one folder",
    "lag": "<root>/<person>/<old image> and <root>/<person>/y/<young image>",
}
"""The shapes that are read, each with what lies where."""

_RECORD_ENDING = ".rec"
_MAX_NAMED = 10
_LOOKED_AT_BYTES = 2**16
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
# What all paths of a layout look like to Arrow; those that do are then read closely, one by one.
_MAYBE_NAMED = {
    "agedb": r"[0-9]_.+_[0-9]{1,3}\.[A-Za-z]+$",
    "fgnet": r"(?:^|/)[0-9]{3}[Aa][0-9]{2}[A-Za-z]?\.[A-Za-z]+$",
}
_AGE_LABEL = re.compile(rb"\d+ \S+/\S+ \S+ \S+")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Looks:
    """How the images of a listing lie and are named: for each shape of folders, which images fit it (n,)."""

    depth: NDArray[np.int64]
    fits: dict[str, NDArray[np.bool_]]

    def all_fit(self, shape: str) -> bool:
        """Whether all images fit a shape."""
        return bool(self.fits[shape].all())

    def n_fitting(self, shape: str) -> int:
        """How many images fit a shape; with "auto", that which most of them fit."""
        return max(int(self.fits[name].sum()) for name in (self.fits if shape == "auto" else (shape,)))


def open_collection(
    source: str | Path,
    *,
    name: str,
    shape: Shape = "auto",
    follow_links: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ImageCollection:
    """Recognise how the images of a source lie on the disk, and list them; no image is opened.

    A folder that holds the images of one dataset only, in a subfolder, such as <datasets> with casia-webface/ and
    age-label/, is taken for that subfolder. AgeDB and FG-NET give ages by their file names, LAG a column `young`
    (bool); otherwise ages are unknown. Files and folders whose names begin with a dot are left out.

    Args:
        source: The folder, or a .rec file.
        name: What to call the collection; also its `source` in a manifest.
        shape: One of `SHAPES`, or "auto": the one that fits.
        follow_links: Follow links that lead out of the folder; otherwise such a link is an error that names it.
        progress: Called with the number of images listed so far, now and then; not for RecordIO.

    Returns:
        The collection; its `place` is the folder of the images themselves, or the .rec file.

    Raises:
        ConfigError: There is no such shape.
        DatasetNotFoundError: There is nothing at `source`.
        DatasetError: The source is of another shape, of none, or of several: the message says what was found, how many
            names do not fit and which, and what each shape needs. Or it cannot be listed (see `list_folder`).
    """
    if shape != "auto" and shape not in SHAPES:
        raise ConfigError(f"There is no shape {shape!r}. Choose auto or one of:\n{_needs()}")
    place = Path(source)
    try:
        if not place.exists():
            raise DatasetNotFoundError(f"There is nothing at {place}. Check the path. What can be read:\n{_needs()}")
        if not place.is_dir():
            return _open_file(place, name, shape)
        has_records = any(_is_record_file(file) for file in place.iterdir())
    except DatasetNotFoundError:
        raise
    except OSError as error:
        raise DatasetError(f"Cannot look at {place}: {error.strerror}. Check path and permissions.") from error
    if shape == "recordio":
        return _open_records(place, name, has_records)
    listing = list_folder(place, follow_links=follow_links, progress=progress)
    if len(listing.paths) == 0:
        if shape == "auto":
            return _open_records(place, name, has_records, listing)
        raise DatasetError(f"{_no_images(listing)} Needed: {SHAPES[shape]}.")
    if has_records and shape == "auto":
        raise DatasetError(
            f"{place} holds both a {_RECORD_ENDING} file and {len(listing.paths):,} images in folders. Say which to "
            "take: shape='recordio', or the shape of the folders (on the command line: --shape recordio). What each "
            "needs:\n" + _needs()
        )
    return _open_folder(listing, name, shape, follow_links, progress)


def _open_folder(
    listing: FolderListing, name: str, shape: str, follow_links: bool, progress: Callable[[int], None] | None
) -> ImageCollection:
    looks = _look(listing)
    chosen = _recognise(listing, looks, shape)
    levels = [(listing, looks)]
    inner = _only_folder_with_images(listing)
    notes: tuple[str, ...] = ()
    if inner is not None and (chosen is None or (chosen == "fgnet" and (looks.depth == 2).all())):
        notes = (f"The images lie in the folder {inner} of {listing.root}.",)
        listing = list_folder(listing.root / inner, follow_links=follow_links, progress=progress)
        looks = _look(listing)
        levels.append((listing, looks))
        chosen = _recognise(listing, looks, shape)
    if chosen is None:
        listing, looks = max(levels, key=lambda level: level[1].n_fitting(shape))
        if shape == "auto":
            raise DatasetError(_unknown(listing, looks))
        raise DatasetError(f"{_not_of_shape(listing, looks, shape)} {_perhaps_one_person(listing, looks)}".rstrip())
    return _collect(listing, looks, name, chosen, notes)


def _look(listing: FolderListing) -> _Looks:
    paths = listing.paths
    depth: NDArray[np.int64] = paths.str.count("/").to_numpy(dtype=np.int64) + np.int64(1)
    in_young = listing.parents.str.endswith("/y").to_numpy(dtype=bool)
    in_folder_y = paths.str.startswith("y/").to_numpy(dtype=bool)  # a folder y is never a person of LAG
    return _Looks(
        depth=depth,
        fits={
            "identity_folders": depth == 2,
            "agedb": (depth == 2) & _named_as(paths, "agedb"),
            "fgnet": _named_as(paths, "fgnet"),
            "lag": ((depth == 2) | ((depth == 3) & in_young)) & ~in_folder_y,
        },
    )


def _named_as(paths: pd.Series, layout: str) -> NDArray[np.bool_]:
    named = paths.str.contains(_MAYBE_NAMED[layout]).to_numpy(dtype=bool).copy()
    rows = np.flatnonzero(named)
    read = NAME_LAYOUTS[layout].read
    named[rows] = [read(path) is not None for path in paths.iloc[rows]]
    return named


def _recognise(listing: FolderListing, looks: _Looks, shape: str) -> str | None:
    """Return the shape that all images fit, the one that says most; None where there is none."""
    if shape != "auto":
        is_lag = shape != "lag" or (looks.depth == 3).any()
        return shape if looks.all_fit(shape) and is_lag else None
    in_folders = looks.all_fit("identity_folders")
    if looks.all_fit("fgnet") and (not in_folders or _only_folder_with_images(listing) is not None):
        return "fgnet"
    if looks.all_fit("agedb"):
        return "agedb"
    if in_folders:
        for layout in ("agedb", "fgnet"):
            _refuse_doubt(listing, looks, layout)
        return "identity_folders"
    return "lag" if looks.all_fit("lag") else None


def _refuse_doubt(listing: FolderListing, looks: _Looks, layout: str) -> None:
    """Refuse to guess where most names of folders of people read like those of a layout that says more."""
    n_named, n_all = int(looks.fits[layout].sum()), len(listing.paths)
    if 2 * n_named > n_all:
        others = (
            f", {n_all - n_named:,} do not: {_named(listing.paths[~looks.fits[layout]])}" if n_named < n_all else ""
        )
        raise DatasetError(
            f"{listing.root} fits several shapes: it holds folders of people, and {n_named:,} of {n_all:,} names read "
            f"like those of {layout} ({NAME_LAYOUTS[layout].form}){others}. Say which it is: shape={layout!r} takes "
            "people and ages from the names, all of which must be so; shape='identity_folders' takes people from the "
            f"folders, and no ages (on the command line: --shape {layout} or --shape identity_folders)."
        )


def _collect(listing: FolderListing, looks: _Looks, name: str, shape: str, notes: tuple[str, ...]) -> ImageCollection:
    if shape == "identity_folders":
        table = pd.DataFrame({"path": listing.paths, "identity": listing.parents, "age_years": np.nan})
        for layout in ("agedb", "fgnet"):
            if n_named := int(looks.fits[layout].sum()):
                notes += (f"{n_named:,} names read like those of {layout}; no age is taken from them.",)
    else:
        table = describe_images(listing.paths.tolist(), shape).assign(path=listing.paths)
    if shape != "fgnet":
        holders = set(_folders_with_images(listing))
        empty = [folder for folder in listing.folders if folder not in holders]
        if empty:
            what = "1 folder holds" if len(empty) == 1 else f"{len(empty):,} folders hold"
            notes += (f"{what} no image: {_named(empty)}.",)
    if listing.n_unread_pictures:
        notes += (_unread_pictures(listing),)
    return ImageCollection(
        name=name,
        shape=shape,
        place=listing.root,
        table=table,
        encoded=FolderImages(listing.root, listing.paths),
        fingerprint=listing.fingerprint,
        others=listing.others,
        notes=notes,
    )


def _only_folder_with_images(listing: FolderListing) -> str | None:
    """Return the folder directly below the root that holds all images; None where several do, or the root does."""
    first = str(listing.parents.iloc[0]).partition("/")[0]
    return first if first and listing.paths.str.startswith(first + "/").all() else None


def _folders_with_images(listing: FolderListing) -> list[str]:
    """Return the folders directly below the root that hold images, also deeper ones."""
    return list(dict.fromkeys(str(parent).partition("/")[0] for parent in listing.parents.unique()))


def _is_record_file(file: Path) -> bool:
    return file.suffix.lower() == _RECORD_ENDING and not file.name.startswith(".") and not file.is_dir()


def _open_records(place: Path, name: str, has_records: bool, listing: FolderListing | None = None) -> ImageCollection:
    """Open the .rec in a folder or in the only subfolder that has one."""
    from interproto_lib.data.formats.recordio import recordio_collection

    if has_records:
        return recordio_collection(place, name=name)
    inner = sorted({file.parent for file in place.glob("*/*") if _is_record_file(file)}, key=lambda path: path.name)
    inner = [folder for folder in inner if not folder.name.startswith(".")]
    if len(inner) == 1:
        found = recordio_collection(inner[0], name=name)
        return replace(found, notes=(*found.notes, f"The images lie in the folder {inner[0].name} of {place}."))
    if inner:
        names = _named([folder.name for folder in inner])
        raise DatasetError(
            f"{len(inner)} folders in {place} hold a {_RECORD_ENDING} file: {names}. Give the folder of one of them."
        )
    if listing is None:
        raise DatasetError(f"{place} holds no {_RECORD_ENDING} file. Needed: {SHAPES['recordio']}.")
    raise DatasetError(f"{_no_images(listing)} What can be read:\n{_needs()}")


def _open_file(file: Path, name: str, shape: str) -> ImageCollection:
    if _is_record_file(file):
        if shape not in ("auto", "recordio"):
            raise DatasetError(f"{file} is of the shape recordio, not {shape}. Needed: {SHAPES[shape]}.")
        from interproto_lib.data.formats.recordio import recordio_collection

        return recordio_collection(file, name=name)
    raise DatasetError(f"{file} {_what_it_is(file)} A source is a folder or a {_RECORD_ENDING} file:\n{_needs()}")


def _what_it_is(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix == ".bin":
        return (
            "is a verification file: encoded images in pairs, to test on, without identities. It needs no preparation; "
            "name it in the settings as test_sets: {<name>: {bin: " + str(file) + "}}."
        )
    if suffix in _ARCHIVES:
        return "is an archive. Unpack it first, and give the folder."
    if suffix == ".idx" or file.name == "property":
        return f"belongs to a {_RECORD_ENDING} file. Give that file, or the folder of both."
    if suffix in IMAGE_ENDINGS:
        return "is a single image. Give the folder of all."
    if suffix in (".txt", ".csv", ".tsv", ".lst", ".list", ".parquet"):
        if suffix != ".parquet" and _AGE_LABEL.match(_beginning(file)):
            return "is a list of age labels. Give the folder of the images as the source, and this list as its ages."
        return (
            "is a list, not the images. A list of pairs is to test on; name it in the settings as test_sets: {<name>: "
            "{pairs: " + str(file) + ", images: <folder>}}. A table of ages is given beside the folder, as its ages."
        )
    return "is neither a folder nor a file of a known kind."


def _beginning(file: Path) -> bytes:
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as handle:
            return handle.read(_LOOKED_AT_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}). Check its permissions.") from error


def _no_images(listing: FolderListing) -> str:
    n_folders, n_others = len(listing.folders), listing.n_others
    folders = "1 folder" if n_folders == 1 else f"{n_folders:,} folders"
    others = "1 other file" if n_others == 1 else f"{n_others:,} other files"
    found = f"{folders} and {others}" if n_folders or n_others else "nothing"
    named = f" ({_named(list(listing.other_examples))})" if n_others else ""
    bins = [name for name in listing.other_examples if name.lower().endswith(".bin")]
    hint = f" {bins[0]} {_what_it_is(listing.root / bins[0])}" if bins else ""
    hint += f" {_unread_pictures(listing)}" if listing.n_unread_pictures else ""
    return (
        f"There are no images in {listing.root}: found {found}{named}; images end in {' '.join(IMAGE_ENDINGS)}.{hint}"
    )


def _unknown(listing: FolderListing, looks: _Looks) -> str:
    n_all = len(listing.paths)
    counts = [
        f"{int(there.sum()):,} {where} (first: {listing.paths[there].iloc[0]})"
        for there, where in (
            (looks.depth == 1, "directly in it"),
            (looks.depth == 2, "in a folder of it"),
            (looks.depth > 2, "deeper"),
        )
        if there.any()
    ]
    several = ""
    if (looks.depth > 2).all():
        holders = _named(_folders_with_images(listing))
        several = f"These folders hold images: {holders}. If they are several datasets, give the folder of one. "
    several += _perhaps_one_person(listing, looks)
    fits = {shape: int(fitting.sum()) for shape, fitting in looks.fits.items() if fitting.any()}
    nearest = max(fits, key=lambda shape: fits[shape], default=None)
    close = "" if nearest is None else f"The nearest: {_not_of_shape(listing, looks, nearest)} "
    return (
        f"The {n_all:,} images in {listing.root} lie in none of the known shapes: {', '.join(counts)}. {several}{close}"
        f"What can be read:\n{_needs()}"
    )


def _unread_pictures(listing: FolderListing) -> str:
    n, examples = listing.n_unread_pictures, ", ".join(listing.unread_picture_examples[:3])
    what = "1 picture is of a format that is" if n == 1 else f"{n:,} pictures are of formats that are"
    return f"{what} not read, such as {examples}. Convert them to PNG to use them."


def _perhaps_one_person(listing: FolderListing, looks: _Looks) -> str:
    if not (looks.depth == 1).all():
        return ""
    parent = listing.root.resolve().parent
    return f"If {listing.root} is the folder of one person, give the folder of all people: {parent}. "


def _not_of_shape(listing: FolderListing, looks: _Looks, shape: str) -> str:
    fitting = looks.fits[shape]
    if fitting.all():
        return f"No image in {listing.root} lies in a folder y, so this is not the shape {shape!r} ({SHAPES[shape]})."
    return (
        f"{int((~fitting).sum()):,} of {len(fitting):,} images in {listing.root} are not of the shape {shape!r} "
        f"({SHAPES[shape]}): {_named(listing.paths[~fitting])}. Correct these, or choose another shape."
    )


def _named(names: pd.Series | list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(list(names[:_MAX_NAMED])) + more


def _needs() -> str:
    return "\n".join(f"  {shape}: {form}" for shape, form in SHAPES.items())
