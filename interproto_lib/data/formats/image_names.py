"""Who is on an image, and how old, as far as its file name says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from interproto_lib.data.formats.age_labels import composed
from interproto_lib.errors import ConfigError, DatasetError

NamesLayout = Literal["agedb", "fgnet", "lag", "folder", "lfw_file", "none"]

_MAX_NAMED = 10
_MAX_AGE_YEARS = 130


@dataclass(frozen=True, kw_only=True)
class NamedImage:
    """What a file name says.

    Attributes:
        identity: The person; None where the name does not say.
        age_years: The age in years; NaN where the name does not say.
        young: Whether it is filed as an image of the young person; None where the layout has no such files.
    """

    identity: str | None = None
    age_years: float = np.nan
    young: bool | None = None


@dataclass(frozen=True, kw_only=True)
class NameLayout:
    """One way to name images.

    Attributes:
        form: What a path looks like, in words.
        read: From a path to what it says; None where the path is not of this form.
    """

    form: str
    read: Callable[[str], NamedImage | None]


_ENDING = "(?:jpe?g|png|bmp)"  # aligned copies are often saved as PNG


def _read_agedb(path: str) -> NamedImage | None:
    *folders, file = path.split("/")
    found = re.fullmatch(rf"\d+_(.+)_(\d{{1,3}})\.{_ENDING}", file, flags=re.IGNORECASE)
    if found is None or not folders or composed(folders[-1]) != composed(found[1]) or int(found[2]) > _MAX_AGE_YEARS:
        return None
    return NamedImage(identity=folders[-1], age_years=float(found[2]))


def _read_fgnet(path: str) -> NamedImage | None:
    found = re.fullmatch(rf"(\d{{3}})A(\d{{2}})[a-z]?\.{_ENDING}", path.rpartition("/")[2], flags=re.IGNORECASE)
    return None if found is None else NamedImage(identity=found[1], age_years=float(found[2]))


def _read_lag(path: str) -> NamedImage | None:
    folders = path.split("/")[:-1]
    young = len(folders) > 1 and folders[-1] == "y"
    if not folders or (folders[-1] == "y" and not young):
        return None
    return NamedImage(identity=folders[-2] if young else folders[-1], young=young)


def _read_folder(path: str) -> NamedImage | None:
    folders = path.split("/")[:-1]
    return NamedImage(identity=folders[-1]) if folders else None


def _read_lfw_file(path: str) -> NamedImage | None:
    found = re.fullmatch(r"(.+)_\d+\.[A-Za-z]+", path.rpartition("/")[2])
    return None if found is None else NamedImage(identity=found[1])


NAME_LAYOUTS: dict[str, NameLayout] = {
    "agedb": NameLayout(form="<Name>/<idx>_<Name>_<age>.jpg, the age 0 to 130", read=_read_agedb),
    "fgnet": NameLayout(form="NNNAaa.JPG, person NNN, age aa, a letter may follow", read=_read_fgnet),
    "lag": NameLayout(form="<person>/y/<file> (young) or <person>/<file> (old)", read=_read_lag),
    "folder": NameLayout(form="<person>/<file>", read=_read_folder),
    "lfw_file": NameLayout(form="<Name>_<number>.jpg, in whatever folder", read=_read_lfw_file),
    "none": NameLayout(form="any path; the identity stays unknown", read=lambda path: NamedImage()),
}
"""How the images of known collections are named. "lag": a folder y is never a person."""


def describe_images(paths: Sequence[str], layout: str) -> pd.DataFrame:
    """Read identity and age of images from their paths.

    Args:
        paths: The images (n,), with forward slashes; folders above those of the layout do not matter.
        layout: A key of `NAME_LAYOUTS`.

    Returns:
        One row an image, in the order given: `path` (str), `identity` (str, missing where unknown), `age_years`
        (float64, NaN where unknown); with the layout "lag" also `young` (bool).

    Raises:
        ConfigError: There is no such layout.
        DatasetError: Paths are not of this layout; the message names up to ten of them and the number of all.

    Example:
        >>> table = describe_images(["JohnnyCash/6472_JohnnyCash_10.jpg"], "agedb")
        >>> table["identity"].tolist(), table["age_years"].tolist()
        (['JohnnyCash'], [10.0])
    """
    if layout not in NAME_LAYOUTS:
        raise ConfigError(f"There is no layout of names {layout!r}. Known: {', '.join(NAME_LAYOUTS)}.")
    chosen = NAME_LAYOUTS[layout]
    read = [chosen.read(path) for path in paths]
    wrong = [path for path, image in zip(paths, read, strict=True) if image is None]
    if wrong:
        more = f" and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise DatasetError(
            f"{len(wrong)} of {len(paths)} paths are not of the layout {layout!r}, {chosen.form}: "
            f"{', '.join(map(repr, wrong[:_MAX_NAMED]))}{more}. Choose another layout of names "
            f"({', '.join(NAME_LAYOUTS)}), or correct the paths."
        )
    images = [image for image in read if image is not None]
    table = pd.DataFrame(
        {
            "path": list(paths),
            "identity": [image.identity for image in images],
            "age_years": np.array([image.age_years for image in images], dtype=np.float64),
        }
    )
    return table.assign(young=[bool(image.young) for image in images]) if layout == "lag" else table
