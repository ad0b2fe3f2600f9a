"""Dataset folders made elsewhere, taken into an experiment without copying their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interproto_lib.data.datasets import (
    IMAGES_FILE,
    INDEX_FILE,
    FaceDataset,
    load_dataset,
    read_index,
    written_description,
)
from interproto_lib.data.image_arrays import file_sha256
from interproto_lib.errors import ConfigError, DatasetError, WriteError


@dataclass(frozen=True, kw_only=True)
class PreparedSettings:
    """A dataset folder that is there already, as `interproto prepare` makes it.

    Attributes:
        root: The folder; `~` is expanded, a relative path starts at the project's root.
        image_size: Height and width its images must have, in pixels; None takes them as they are.
        card: The card in `data_manifests/` that tells how to obtain and prepare it when it is missing; empty for none.

    Raises:
        ConfigError: `root` is empty.
    """

    root: str
    image_size: int | None = None
    card: str = ""

    def __post_init__(self) -> None:
        if not self.root.strip():
            raise ConfigError(
                "root is empty: set it to a dataset folder made by `interproto prepare` (in a preset, the line `root:` "
                "of the section `dataset`)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON can hold them; `PreparedSettings(**...)` takes them back."""
        return asdict(self)


def describe_prepared(root: Path, image_size: int | None) -> dict[str, Any]:
    """Describe a prepared dataset in a few values that change whenever it is prepared anew.

    Args:
        root: The dataset folder.
        image_size: Height and width its images must have, in pixels; None for any.

    Returns:
        `image_size`, `n_images`, and `index_sha256` of its `dataset.json`, which holds the hashes of all its files.

    Raises:
        DatasetNotFoundError: There is no finished dataset.
        DatasetError: It is damaged, or its images have another size.
    """
    index = read_index(root)
    found = int(index["image_size"])
    if image_size is not None and image_size != found:
        raise DatasetError(
            f"{root} holds images of {found} x {found} pixels, not {image_size} x {image_size}. Set image_size to "
            f"{found}, or prepare the dataset again with the other size."
        )
    return {"image_size": found, "n_images": index["n_images"], "index_sha256": file_sha256(root / INDEX_FILE)}


def link_dataset(folder: Path, root: Path, *, requested: Mapping[str, Any]) -> FaceDataset:
    """Make a dataset folder of another one: manifest and index are written, the images are the same file.

    The images are linked: by a hard link, so that they stay when the other folder is removed; where the file system
    refuses that, by a symbolic link to the file.

    Args:
        folder: The folder to make.
        root: The other one.
        requested: Put into the settings under `requested`.

    Returns:
        The dataset, images memory-mapped.

    Raises:
        DatasetError: The other folder cannot be loaded.
        WriteError: The folder cannot be written.
    """
    prepared = load_dataset(root)
    dataset = FaceDataset(
        name=prepared.name,
        folder=folder,
        manifest=prepared.manifest,
        images=prepared.images,
        settings={**prepared.settings, "requested": dict(requested)},
        images_sha256=prepared.images_sha256,
    )
    if dataset.images_sha256 is None:
        raise DatasetError(f"{root} does not say the hash of its images. Prepare it again.")
    with written_description(dataset, folder) as describe:
        describe(dataset.images_sha256)
        _link((root / IMAGES_FILE).resolve(), folder / IMAGES_FILE)
    return dataset


def _link(file: Path, link: Path) -> None:
    try:
        link.unlink(missing_ok=True)
        try:
            link.hardlink_to(file)
        except OSError:  # another file system, or one without hard links, or a file of another user
            link.symlink_to(file)
    except OSError as error:
        raise WriteError(
            f"Cannot link {link} to {file}: {error.strerror or error}. Choose a folder on a file system with links."
        ) from error
