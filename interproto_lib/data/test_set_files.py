"""Test sets from files: lists of pairs with a folder of images, and insightface's verification files."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.contents import project_path
from interproto_lib.data.formats.image_files import FITS, Fit
from interproto_lib.data.formats.image_names import NAME_LAYOUTS, describe_images
from interproto_lib.data.formats.pair_lists import IncompletePairs, PairLayout, RepeatedPairs, read_pairs
from interproto_lib.data.formats.verification_bin import decode_image, image_problem, read_verification_bin
from interproto_lib.data.image_folders import FolderSource, ImageFolder
from interproto_lib.data.prepared_images import PreparedImages, PreparedSource, is_prepared
from interproto_lib.data.registry import list_cards, require_dataset
from interproto_lib.data.test_sets import VerificationSet
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

_MAX_NAMED = 10
_LIST_KEYS = ("pairs", "images", "names")
_LIST_OPTIONS = ("layout", "fit", "duplicates", "incomplete")
_BIN_KEYS = ("bin",)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedSource:
    """Encoded images in memory as a source for test sets; see `interproto_lib.data.test_sets.ImageSource`.

    Attributes:
        images: Path -> encoded image.
        key: What the images are a part of.
        image_size: Height and width of the images, in pixels.
    """

    images: Mapping[str, bytes]
    key: str
    image_size: int

    def state(self, paths: Sequence[str]) -> str:
        """Describe the images: their paths hold the hash of their content."""
        return ""

    def read(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        """Decode the images of these paths, (k, size, size, 3) RGB, in their order."""
        pixels = np.empty((len(paths), self.image_size, self.image_size, 3), dtype=np.uint8)
        for row, path in enumerate(paths):
            if path not in self.images:
                raise DatasetError(f"{self.key} has no image {path!r}.")
            try:
                pixels[row] = decode_image(self.images[path], self.image_size)
            except DatasetError as error:
                raise DatasetError(f"{self.key}: image {path} {error}.") from error
        return pixels


def pair_list_set(
    name: str,
    pairs: str | Path,
    images: str | Path,
    *,
    names: str,
    layout: PairLayout = "auto",
    image_size: int = 112,
    fit: Fit = "error",
    duplicates: RepeatedPairs = "error",
    incomplete: IncompletePairs = "error",
) -> VerificationSet:
    """Make a test set of a list of pairs and a folder of images.

    The paths of a list start with folders that may lie elsewhere, as `dataset/test/AgeDB-aligned/` of the official
    lists: `images` may be any folder on that way. As many leading folders are taken off, from all paths alike, as finds
    most of the images. Names match however their letters are composed in Unicode.

    Args:
        name: What to call the test set.
        pairs: The list (see `interproto_lib.data.formats.read_pairs`).
        images: The folder of the images, or a dataset folder that `interproto prepare` made of them.
        names: How the images are named, for their identities and ages: a key of `NAME_LAYOUTS`.
        layout: Layout of the list, or "auto".
        image_size: Height and width of the images, in pixels.
        fit: What to do with images of another size (see `interproto_lib.data.formats.FITS`).
        duplicates: Whether a pair may stand twice: "error" or "keep".
        incomplete: What to do with the 17 incomplete lines of the official list of LAG: "error" names them, "drop"
            leaves them out, "official" does as the official code (see `read_pairs`).

    Returns:
        The test set. The paths of its images are those of the list, so that its hash is the same on every machine.

    Raises:
        ConfigError: An argument has an unknown value.
        ManifestError: The list is malformed.
        DatasetNotFoundError: There is no such folder.
        DatasetError: Images are not there: all are named, each with the nearest name that is. Or their names are not
            of the layout `names`, or a dataset folder holds images of another size.
    """
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}, expected one of: {', '.join(FITS)}.")
    if image_size < 1:
        raise ConfigError(f"image_size is {image_size}, expected at least 1.")
    if incomplete == "keep":
        raise ConfigError("incomplete is 'keep', but a pair needs two images. Choose 'error', 'drop' or 'official'.")
    if names not in NAME_LAYOUTS:
        raise ConfigError(f"There is no layout of names {names!r}. Known: {', '.join(NAME_LAYOUTS)}.")
    table = read_pairs(pairs, layout=layout, duplicates=duplicates, incomplete=incomplete)
    places, paths = pd.factorize(pd.concat([table["left"], table["right"]], ignore_index=True))
    listed = [str(path) for path in paths]
    described = describe_images(listed, names)
    folder = PreparedImages(images) if is_prepared(images) else ImageFolder(images)
    n_stripped = folder.leading_folders(listed)
    missing = [path for path in listed if folder.find(path, n_stripped) is None]
    if missing:
        raise DatasetError(_missing_images(name, Path(pairs), folder, missing, len(listed), n_stripped))
    return VerificationSet(
        name=name,
        images=described[["path", "identity", "age_years"]],
        pairs=pd.DataFrame(
            {
                "left": places[: len(table)].astype(np.int64),
                "right": places[len(table) :].astype(np.int64),
                "same": table["same"].to_numpy(dtype=bool),
            }
        ),
        source=_source(folder, image_size, fit, n_stripped, name),
    )


def verification_bin_set(name: str, path: str | Path, *, image_size: int = 112) -> VerificationSet:
    """Make a test set of a verification file of insightface, such as lfw.bin.

    Identities and ages are unknown. Images of equal bytes count as one, so that each is embedded once.

    Args:
        name: What to call the test set.
        path: The file (see `interproto_lib.data.read_verification_bin`).
        image_size: Height and width that the images must have, in pixels.

    Returns:
        The test set. The path of an image is its first position in the file and the beginning of the SHA-256 of its
        bytes, as in "000000-5f78c33274e43fa9", so that the hash of the test set stands for the images too.

    Raises:
        DatasetError: The file is damaged, asks for an import, or its images cannot be read or have another size.
    """
    encoded, same = read_verification_bin(path)
    number_of: dict[bytes, int] = {}
    places = np.array([number_of.setdefault(image, len(number_of)) for image in encoded], dtype=np.int64)
    first = pd.Series(places).drop_duplicates().index
    images = {f"{row:06d}-{hashlib.sha256(encoded[row]).hexdigest()[:16]}": encoded[row] for row in first}
    problems = [f"{key} {why}" for key, image in images.items() if (why := image_problem(image, image_size))]
    if problems:
        more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
        raise DatasetError(
            f"{path}: {len(problems)} of {len(images)} images cannot be used: {'; '.join(problems[:_MAX_NAMED])}{more}."
        )
    digest = hashlib.sha256("\n".join(images).encode()).hexdigest()
    return VerificationSet(
        name=name,
        images=pd.DataFrame({"path": list(images), "identity": None, "age_years": np.nan}),
        pairs=pd.DataFrame({"left": places[::2], "right": places[1::2], "same": same}),
        source=EncodedSource(
            images=images, key=f"{Path(path).resolve()} {digest[:16]} {image_size}", image_size=image_size
        ),
    )


def read_test_set(name: str, spec: Mapping[str, Any], *, image_size: int) -> VerificationSet:
    """Make a test set as it is described in a preset or in a notebook's parameters.

    Args:
        name: What to call the test set, as in "AgeDB-C20".
        spec: `{"pairs": list, "images": folder, "names": layout of names}`, and where wanted `layout`, `fit`,
            `duplicates` and `incomplete` (see `pair_list_set`); or `{"bin": file}`. Relative paths start at the
            project's root.
        image_size: Height and width of the images, in pixels.

    Returns:
        The test set.

    Raises:
        ConfigError: A key is unknown or missing, or a value is wrong.
        DatasetNotFoundError: A file or folder is missing; where the name is that of a known dataset, the message holds
            the steps to obtain it.
        ManifestError: The list is malformed.
        DatasetError: Images are missing, cannot be read or have another size.

    Example:
        >>> read_test_set("LFW", {"bim": "lfw.bin"}, image_size=112)
        Traceback (most recent call last):
            ...
        interproto_lib.errors.ConfigError: Test set 'LFW': there is no key 'bim' (did you mean 'bin'?). Known: ...
    """
    _check_spec(name, spec)
    if "bin" in spec:
        file = project_path(spec["bin"])
        if not file.is_file():
            _refuse_absent(name, file.parent, file, f"there is no verification file {file}")
        return verification_bin_set(name, file, image_size=image_size)
    pairs, images = project_path(spec["pairs"]), project_path(spec["images"])
    if not images.is_dir() or not any(images.iterdir()):
        found = "is not there, or empty" if not images.is_file() else "is a file"
        _refuse_absent(name, images, pairs, f"the folder of images {images} {found}")
    if not pairs.is_file():
        _refuse_absent(name, images, pairs, f"there is no list of pairs {pairs}")
    options = {key: spec[key] for key in _LIST_OPTIONS if key in spec}
    return pair_list_set(name, pairs, images, names=spec["names"], image_size=image_size, **options)


def _check_spec(name: str, spec: Mapping[str, Any]) -> None:
    what = f"Test set {name!r}"
    known = (*_LIST_KEYS, *_LIST_OPTIONS, *_BIN_KEYS)
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{what}: found {spec!r}, expected keys with values: {', '.join(known)}.")
    for key in spec:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"{what}: there is no key {key!r}{hint}. Known: {', '.join(known)}.")
        if not isinstance(spec[key], str | Path) or not str(spec[key]).strip():
            raise ConfigError(f"{what}, key {key}: found {spec[key]!r}, expected text.")
    if "bin" in spec:
        if len(spec) > 1:
            others = ", ".join(key for key in spec if key != "bin")
            raise ConfigError(f"{what}: the key bin stands alone, found beside it: {others}.")
        return
    missing = [key for key in _LIST_KEYS if key not in spec]
    if missing:
        raise ConfigError(
            f"{what}: missing keys: {', '.join(missing)}. Needed are {', '.join(_LIST_KEYS)}, or bin alone."
        )


def _refuse_absent(name: str, folder: Path, file: Path, what: str) -> None:
    """Say what is not there, with the steps to obtain it where the test set's name is that of a dataset's card."""
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    for card in list_cards():
        if plain.removesuffix("c20").removesuffix("c30") == card.name.replace("_", ""):
            try:
                require_dataset(card.name, folder, files=[file])
            except DatasetNotFoundError as error:
                raise DatasetNotFoundError(f"Test set {name!r}: {what}. {error}") from error
    raise DatasetNotFoundError(f"Test set {name!r}: {what}. Correct the path; a relative one starts at the project.")


def _source(
    folder: ImageFolder | PreparedImages, image_size: int, fit: Fit, n_stripped: int, name: str
) -> FolderSource | PreparedSource:
    if isinstance(folder, ImageFolder):
        return FolderSource(folder.root, image_size, fit, leading_folders=n_stripped)
    if folder.dataset.image_size != image_size:
        size = folder.dataset.image_size
        raise DatasetError(
            f"Test set {name!r}: {folder.root} was prepared at {size} x {size} pixels, needed are {image_size} x "
            f"{image_size}. Prepare it again with --image-size {image_size}."
        )
    return PreparedSource(images=folder, leading_folders=n_stripped)


def _missing_images(
    name: str, pairs: Path, folder: ImageFolder | PreparedImages, missing: Sequence[str], n_all: int, n_stripped: int
) -> str:
    lines = []
    for path in missing:
        nearest = folder.nearest(path, n_stripped)
        lines.append(f"  {path} (nearest: {nearest})" if nearest else f"  {path}")
    left_out = f" (looked for without the first {n_stripped} folders of their paths)" if n_stripped else ""
    return (
        f"Test set {name!r}: {len(missing)} of the {n_all} images that {pairs} names are not in "
        f"{folder.root}{left_out}. Rename or add them, or correct the folder:\n" + "\n".join(lines)
    )
