"""Images in folders, found by the paths of a list: where they lie, what is nearest to a missing one, their pixels."""

from __future__ import annotations

import bisect
import difflib
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.formats.age_labels import composed
from interproto_lib.data.formats.image_files import Fit, fit_image, read_image
from interproto_lib.errors import DatasetError, DatasetNotFoundError

_MAX_NAMED = 10
_MAX_THREADS = 4
_N_NEIGHBOURS = 4


class _Names:
    """Names of one folder, in order by their beginnings and by their ends, to find the one nearest to another fast."""

    def __init__(self, names: Sequence[str]) -> None:
        self._forwards = sorted(names)
        self._backwards = sorted(name[::-1] for name in names)
        self._folded = {name.casefold(): name for name in self._forwards}

    def most_alike(self, name: str) -> str | None:
        """The same name, or the same in another letter case, or else the most similar of the neighbours in order."""
        at = bisect.bisect_left(self._forwards, name)
        if self._forwards[at : at + 1] == [name]:
            return name
        if name.casefold() in self._folded:
            return self._folded[name.casefold()]
        end = bisect.bisect_left(self._backwards, name[::-1])
        near = self._forwards[max(0, at - _N_NEIGHBOURS) : at + _N_NEIGHBOURS]
        near += [other[::-1] for other in self._backwards[max(0, end - _N_NEIGHBOURS) : end + _N_NEIGHBOURS]]
        close = difflib.get_close_matches(name, list(dict.fromkeys(near)), n=1)
        return close[0] if close else None


class ImageFolder:
    """A folder and what lies below it; each folder is listed once, when it is first asked for.

    Names are compared with their letters composed as Unicode recommends (NFC): some systems write them otherwise.

    Args:
        root: The folder.

    Raises:
        DatasetNotFoundError: There is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DatasetNotFoundError(f"There is no folder of images {self.root}. Check the path.")
        self._folders: dict[Path, dict[str, os.DirEntry[str]]] = {}
        self._names: dict[tuple[Path, bool], _Names] = {}

    def find(self, path: str, n_stripped: int = 0) -> Path | None:
        """Find an image.

        Args:
            path: Its path, with forward slashes.
            n_stripped: How many leading folders of the path to take off.

        Returns:
            The file; None where there is none.
        """
        *folders, file = path.split("/")[n_stripped:]
        place = self.root
        for name in folders:
            entry = self._list(place).get(composed(name))
            if entry is None or not entry.is_dir():
                return None
            place = Path(entry.path)
        entry = self._list(place).get(composed(file))
        return Path(entry.path) if entry is not None and entry.is_file() else None

    def leading_folders(self, paths: Sequence[str]) -> int:
        """Find how many leading folders to take off all paths so that most of them are here.

        Args:
            paths: Paths, with forward slashes.

        Returns:
            The number, below the number of parts of the shortest path. Where several find as many images, the one that
            finds most of their folders; then the one that leaves no folder, where files lie here; then the smallest.
        """
        has_files = any(entry.is_file() for entry in self._list(self.root).values())

        def n_found(n_stripped: int) -> tuple[int, int, bool]:
            n_files = sum(self.find(path, n_stripped) is not None for path in paths)
            folders = {tuple(path.split("/")[n_stripped:-1]) for path in paths}
            n_folders = sum(self._holds_folder(folder) for folder in folders if folder)
            return n_files, n_folders, folders == {()} and has_files

        limit = min(path.count("/") for path in paths) + 1
        return max(range(limit), key=lambda n_stripped: (*n_found(n_stripped), -n_stripped))

    def nearest(self, path: str, n_stripped: int = 0) -> str | None:
        """Find the image whose path is most like that of a missing one.

        The way is followed folder by folder; where a name is missing, the one nearest to it is taken: the same in other
        letter case, or else the most similar among its neighbours in alphabetical order. Where that leads to no file, a
        file of the same name, in whatever case, in another folder.

        Args:
            path: The missing path, with forward slashes.
            n_stripped: How many leading folders of the path to take off.

        Returns:
            The path relative to the folder; None where there is nothing alike.
        """
        parts = path.split("/")[n_stripped:]
        place = self.root
        for number, name in enumerate(parts):
            is_last = number == len(parts) - 1
            found = self._names_in(place, files=is_last).most_alike(composed(name))
            if found is None:
                break
            place = Path(self._list(place)[found].path)
            if is_last:
                return place.relative_to(self.root).as_posix()
        return self._files_by_name.get(composed(parts[-1]).casefold())

    def _list(self, folder: Path) -> dict[str, os.DirEntry[str]]:
        if folder not in self._folders:
            try:
                with os.scandir(folder) as scan:
                    self._folders[folder] = {composed(entry.name): entry for entry in scan}
            except OSError as error:
                raise DatasetError(f"The folder {folder} cannot be listed ({error.strerror}).") from error
        return self._folders[folder]

    def _names_in(self, folder: Path, *, files: bool) -> _Names:
        if (folder, files) not in self._names:
            entries = self._list(folder).items()
            self._names[folder, files] = _Names([name for name, entry in entries if entry.is_file() == files])
        return self._names[folder, files]

    def _holds_folder(self, folders: Sequence[str]) -> bool:
        place = self.root
        for name in folders:
            entry = self._list(place).get(composed(name))
            if entry is None or not entry.is_dir():
                return False
            place = Path(entry.path)
        return True

    @cached_property
    def _files_by_name(self) -> dict[str, str]:
        """Name in small letters -> first path of that name."""
        found: dict[str, str] = {}
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for file in sorted(files):
                relative = Path(folder, file).relative_to(self.root).as_posix()
                found.setdefault(composed(file).casefold(), relative)
        return found


class FolderSource:
    """Images in a folder as a source for test sets; see `interproto_lib.data.test_sets.ImageSource`.

    Args:
        root: The folder.
        image_size: Height and width that the images get, in pixels.
        fit: What to do with images of another size (see `interproto_lib.data.formats.FITS`).
        leading_folders: How many leading folders of a path to take off.

    Raises:
        DatasetNotFoundError: There is no such folder.
    """

    def __init__(self, root: str | Path, image_size: int, fit: Fit = "error", *, leading_folders: int = 0) -> None:
        self.image_size = image_size
        self._folder = ImageFolder(root)
        self._fit: Fit = fit
        self._leading_folders = leading_folders

    @property
    def key(self) -> str:
        """Folder, size and what is done with other sizes: sets of equal keys share their images."""
        return f"{self._folder.root.resolve()} {self._leading_folders} {self.image_size} {self._fit}"

    def state(self, paths: Sequence[str]) -> str:
        """Describe images without reading them: hash of path, size and time of the last change of each."""
        digest = hashlib.sha256()
        for path in paths:
            file = self._folder.find(path, self._leading_folders)
            status = None if file is None else file.stat()
            digest.update(f"{path}\0{status and status.st_size}\0{status and status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def read(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        """Read the images of these paths, (k, size, size, 3) RGB, in their order, on a few threads.

        Raises:
            DatasetError: Images are missing, cannot be read or have another size; up to ten are named.
        """
        pixels = np.empty((len(paths), self.image_size, self.image_size, 3), dtype=np.uint8)

        def read_row(row: int) -> str | None:
            file = self._folder.find(paths[row], self._leading_folders)
            if file is None:
                return f"{paths[row]} is not there"
            try:
                pixels[row] = np.asarray(fit_image(read_image(file), self.image_size, self._fit))
            except DatasetError as error:
                return f"{paths[row]}: {error}"
            return None

        with ThreadPoolExecutor(max_workers=_MAX_THREADS) as threads:
            problems = [problem for problem in threads.map(read_row, range(len(paths))) if problem is not None]
        if problems:
            more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
            named = "; ".join(problems[:_MAX_NAMED])
            raise DatasetError(f"{len(problems)} images in {self._folder.root} cannot be used: {named}{more}.")
        return pixels
