"""What lies in a folder of photographs and in its age table, in a few numbers, to notice when it has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interproto_lib.data.formats.image_files import IMAGE_ENDINGS
from interproto_lib.errors import ConfigError
from interproto_lib.runs import PROJECT_ROOT


def project_path(path: str | Path) -> Path:
    """Return a path with `~` expanded; a relative one starts at the project's root, wherever the process runs.

    Raises:
        ConfigError: The path starts at the home folder of a user whom this machine does not know.
    """
    try:
        return PROJECT_ROOT / Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{str(path)!r}: this machine has no home folder for it. Write the path in full.") from error


def source_contents(root: str | Path, ages: str | Path = "") -> dict[str, Any]:
    """Describe a folder `<root>/<identity>/<image>` and its age table without reading an image.

    Two descriptions are equal when no image was added, removed, renamed or written anew, and the table holds the same
    bytes. Hidden files and files that are no images by their ending do not count. Nothing is checked: what cannot be
    listed is left out, for `read_identity_folder` says what is wrong with it.

    Args:
        root: The folder, see `project_path`; empty for none.
        ages: The age table; empty for none.

    Returns:
        `n_images`; `n_bytes` of all images; `files_sha256` of relative path, size and time of the last change of each
        image; `ages_sha256` of the table, None without one.
    """
    entries = sorted(_image_files(project_path(root))) if str(root) else []
    digest = hashlib.sha256()
    for path, size, modified_ns in entries:
        digest.update(os.fsencode(path) + f"\0{size}\0{modified_ns}\n".encode())
    table = project_path(ages) if str(ages) else None
    return {
        "n_images": len(entries),
        "n_bytes": sum(max(0, size) for _, size, _ in entries),
        "files_sha256": digest.hexdigest(),
        "ages_sha256": _file_sha256(table) if table is not None and table.is_file() else None,
    }


def dataset_contents(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a dataset is made from, so that the batch graph notices when it has changed.

    Args:
        parameters: Parameters of notebook 01: `dataset` says the kind, `root` and `ages` where it lies.

    Returns:
        For a prepared dataset the SHA-256 of its `dataset.json`, None where there is none yet; for photographs see
        `source_contents`; for the built-in faces the same of nothing.
    """
    root = parameters.get("root", "")
    if parameters.get("dataset") == "prepared":
        index = project_path(root) / "dataset.json"
        return {"index_sha256": _file_sha256(index) if index.is_file() else None}
    return source_contents(root, parameters.get("ages", ""))


def files_of_test_sets(specifications: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, int, int]]]:
    """Describe the files that test sets are read from, so that one that appears or changes is noticed.

    Args:
        specifications: Name -> description of a test set, as `interproto_lib.data.read_test_set` takes it.

    Returns:
        Name -> path, size and time of the last change of its list or verification file and of its folder of images, as
        far as they are there. Images that change inside the folder do not show here; scores notice them.
    """
    found: dict[str, list[tuple[str, int, int]]] = {}
    for name, specification in specifications.items():
        places = [project_path(str(specification[key])) for key in ("pairs", "images", "bin") if key in specification]
        states = [(place, place.stat()) for place in places if place.exists()]
        found[str(name)] = [
            (str(place), 0 if place.is_dir() else state.st_size, state.st_mtime_ns) for place, state in states
        ]
    return found


def describe_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what is different between two descriptions of `source_contents`.

    Args:
        before: The older description.
        now: The newer one, not equal to the older.

    Returns:
        A phrase, as in "the folder held 400 images, now 403; the age table has changed".
    """
    changes = []
    if before["files_sha256"] != now["files_sha256"]:
        if before["n_images"] != now["n_images"]:
            changes.append(f"the folder held {before['n_images']:,} images, now {now['n_images']:,}")
        elif before["n_bytes"] != now["n_bytes"]:
            changes.append(
                f"the {now['n_images']:,} images took {before['n_bytes']:,} bytes, now {now['n_bytes']:,}: some are "
                "other ones"
            )
        else:
            changes.append(f"some of the {now['n_images']:,} images were renamed or written anew")
    if before["ages_sha256"] != now["ages_sha256"]:
        changes.append(
            "there was no age table, now there is one"
            if before["ages_sha256"] is None
            else "there is no age table any more"
            if now["ages_sha256"] is None
            else "the age table has changed"
        )
    return "; ".join(changes)


def _image_files(root: Path) -> Iterator[tuple[str, int, int]]:
    for folder in _visible(root):
        for file in _visible(folder):
            if file.name.lower().endswith(IMAGE_ENDINGS):
                try:
                    status = file.stat()
                except OSError:
                    yield f"{folder.name}/{file.name}", -1, 0
                else:
                    yield f"{folder.name}/{file.name}", status.st_size, status.st_mtime_ns


def _visible(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scan:
            return [entry for entry in scan if not entry.name.startswith(".")]
    except OSError:
        return []


def _file_sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
