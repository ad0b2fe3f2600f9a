"""Images of a prepared dataset, found by the paths of a list of pairs, as those of a folder are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.datasets import INDEX_FILE, FaceDataset, hash_images, load_dataset
from interproto_lib.data.formats.age_labels import composed
from interproto_lib.errors import DatasetError


def is_prepared(folder: str | Path) -> bool:
    """Say whether a folder is a dataset folder, as `interproto prepare` makes it."""
    return (Path(folder) / INDEX_FILE).is_file()


class PreparedImages:
    """The images of a dataset folder by their paths; see `interproto_lib.data.image_folders.ImageFolder`.

    Names are compared with their letters composed as Unicode recommends (NFC).

    Args:
        root: The dataset folder.

    Raises:
        DatasetNotFoundError: There is no finished dataset.
        DatasetError: It is damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.dataset = load_dataset(root)
        self._rows = {composed(path): row for row, path in enumerate(self.dataset.manifest["path"])}

    def find(self, path: str, n_stripped: int = 0) -> int | None:
        """Find an image.

        Args:
            path: Its path, with forward slashes.
            n_stripped: How many leading folders of the path to take off.

        Returns:
            Its row in the dataset; None where there is none.
        """
        return self._rows.get(composed("/".join(path.split("/")[n_stripped:])))

    def leading_folders(self, paths: Sequence[str]) -> int:
        """Find how many leading folders to take off all paths so that most of them are here; the fewest, if several."""
        limit = min(path.count("/") for path in paths) + 1
        found = [sum(self.find(path, n_stripped) is not None for path in paths) for n_stripped in range(limit)]
        return int(np.argmax(found))

    def nearest(self, path: str, n_stripped: int = 0) -> str | None:
        """Find the image whose path is most like that of a missing one; None where there is nothing alike."""
        wanted = composed("/".join(path.split("/")[n_stripped:]))
        folder = wanted.rpartition("/")[0]
        near = [known for known in self._rows if known.rpartition("/")[0] == folder] or list(self._rows)
        close = difflib.get_close_matches(wanted, near, n=1)
        return close[0] if close else None


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSource:
    """Images of a prepared dataset as a source for test sets; see `interproto_lib.data.test_sets.ImageSource`.

    Attributes:
        images: The images.
        leading_folders: How many leading folders of a path to take off.
    """

    images: PreparedImages
    leading_folders: int = 0

    @property
    def _dataset(self) -> FaceDataset:
        return self.images.dataset

    @property
    def key(self) -> str:
        """Folder, hash and how paths are read: sets of equal keys share their images."""
        return f"{self.images.root.resolve()} {hash_images(self._dataset)[:16]} {self.leading_folders}"

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self._dataset.image_size

    def state(self, paths: Sequence[str]) -> str:
        """Describe the images: by the hash of all images of the dataset."""
        return hash_images(self._dataset)

    def read(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        """Read the images of these paths, (k, size, size, 3) RGB, in their order.

        Raises:
            DatasetError: An image is not there.
        """
        rows = [self.images.find(path, self.leading_folders) for path in paths]
        missing = [path for path, row in zip(paths, rows, strict=True) if row is None]
        if missing:
            raise DatasetError(f"The dataset {self.images.root} has no image {missing[0]!r}.")
        return np.asarray(self._dataset.images[np.array(rows, dtype=np.int64)])
