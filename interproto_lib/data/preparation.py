"""Making a dataset folder once: made when it is missing, loaded when it is there, refused when it is another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from interproto_lib.config import from_namespace
from interproto_lib.data.contents import describe_change, project_path, source_contents
from interproto_lib.data.datasets import INDEX_FILE, FaceDataset, load_dataset, save_dataset
from interproto_lib.data.formats.age_labels import UnmatchedAges
from interproto_lib.data.formats.image_files import Fit
from interproto_lib.data.packed_folders import pack_identity_folder
from interproto_lib.data.prepared_folders import PreparedSettings, describe_prepared, link_dataset
from interproto_lib.data.registry import require_dataset
from interproto_lib.data.synthetic import SyntheticSettings, make_synthetic_dataset
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

Progress = Callable[[int, int], None]

_CONTENTS = "contents"


@dataclass(frozen=True, kw_only=True)
class IdentityFolderSettings:
    """What a dataset of photographs is made from and how (see `read_identity_folder` for each in full).

    Attributes:
        root: The folder with one folder for each identity; `~` is expanded, a relative path starts at the project's
            root.
        image_size: Height and width of the images, in pixels.
        ages: The table of ages, likewise; empty for none.
        card: The card in `data_manifests/` that tells how to obtain the folder when it is missing; empty for none.
        fit: What to do with images of another size: `error`, `pad`, `crop` or `stretch`.
        heldout_share: Share of the identities to hold out.
        validation_share: Share of the identities that choose epoch and threshold.
        min_images_per_identity: An identity with fewer images is an error.
        on_unreadable: What to do with images that cannot be read: `error` or `drop`.
        unmatched_ages: What to do with rows of the age table that match no image: `error` or `drop`.
        seed: Chooses which identities are held out and which validate.

    Raises:
        ConfigError: `root` is empty. The others are checked where the folder is read.
    """

    root: str
    image_size: int
    ages: str = ""
    card: str = ""
    fit: Fit = "error"
    heldout_share: float = 0.25
    validation_share: float = 0.1
    min_images_per_identity: int = 2
    on_unreadable: Literal["error", "drop"] = "error"
    unmatched_ages: UnmatchedAges = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.root.strip():
            raise ConfigError(
                "root is empty: set it to the folder of your photographs, which holds one folder for each identity "
                "(in a preset, the line `root:` of the section `dataset`)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON can hold them; `IdentityFolderSettings(**...)` takes them back."""
        return asdict(self)


DatasetSettings = SyntheticSettings | IdentityFolderSettings | PreparedSettings

DATASETS: dict[str, type[DatasetSettings]] = {
    "synthetic": SyntheticSettings,
    "identity_folder": IdentityFolderSettings,
    "prepared": PreparedSettings,
}
"""Kinds of datasets, each with its settings: the built-in faces, a folder of photographs, a prepared dataset folder."""


def dataset_settings(dataset: str, namespace: Mapping[str, Any], *, seed: int) -> DatasetSettings:
    """Make the settings of a dataset from the variables of a notebook, where every setting is a parameter.

    Args:
        dataset: A name of `DATASETS`.
        namespace: Usually `globals()`; names that are no settings of this kind of dataset are left alone.
        seed: The seed of the data; a prepared dataset has none.

    Returns:
        The settings.

    Raises:
        ConfigError: The kind is unknown, a setting has no variable, or a value is wrong.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"dataset={dataset!r}: must be {' or '.join(map(repr, DATASETS))}.")
    kind = DATASETS[dataset]
    if kind is PreparedSettings:  # it has the size it has; the parameter is that of faces to be made
        return from_namespace(PreparedSettings, namespace, image_size=None)
    return from_namespace(kind, namespace, seed=seed)


def prepare_dataset(
    folder: str | Path,
    settings: DatasetSettings,
    *,
    n_processes: int = 1,
    progress: Progress | None = None,
) -> FaceDataset:
    """Load the dataset of a folder if it was made with these settings, or make and save it.

    Args:
        folder: The dataset folder, as in `runs/<experiment>/dataset`.
        settings: What to make; their type says whether faces are drawn, photographs read, or a prepared dataset taken.
        n_processes: How many processes draw, or threads read photographs, >= 1.
        progress: Called with the number of images done and the number of all.

    Returns:
        The dataset as loaded from the folder, images memory-mapped; its settings hold what was asked for under
        `requested`.

    Raises:
        ConfigError: A setting is wrong.
        DatasetNotFoundError: The photographs are not there.
        DatasetError: The folder holds a dataset that was made otherwise, which is left as it is, or the photographs
            cannot be read.
        ManifestError: The age table is malformed or does not belong to the photographs.
        WriteError: The folder cannot be written.
    """
    if isinstance(settings, SyntheticSettings):
        return prepare_synthetic(folder, settings, n_processes=n_processes, progress=progress)
    if isinstance(settings, PreparedSettings):
        return take_prepared(folder, settings)
    return prepare_identity_folder(folder, settings, n_threads=n_processes, progress=progress)


def prepare_synthetic(
    folder: str | Path, settings: SyntheticSettings, *, n_processes: int = 1, progress: Progress | None = None
) -> FaceDataset:
    """Load the built-in faces of a folder, or draw and save them; see `prepare_dataset`."""
    requested = {"dataset": "synthetic", **settings.to_dict()}
    return _prepare_once(
        folder,
        requested=requested,
        make=lambda: _save_made(
            make_synthetic_dataset(settings, n_processes=n_processes, progress=progress), folder, requested
        ),
    )


def prepare_identity_folder(
    folder: str | Path, settings: IdentityFolderSettings, *, n_threads: int = 1, progress: Progress | None = None
) -> FaceDataset:
    """Load the photographs of a dataset folder, or pack them (see `pack_identity_folder`); see `prepare_dataset`.

    With the settings, what lies in the folder of photographs is compared (`source_contents`): photographs that were
    added, removed or changed and an edited age table are noticed, and refused.
    """
    root = project_path(settings.root)
    ages = project_path(settings.ages) if settings.ages else None
    if settings.card:
        require_dataset(settings.card, root, files=[] if ages is None else [ages])
    if not root.is_dir():
        raise DatasetNotFoundError(
            f"There is no folder {root} (root={settings.root!r}). It should hold one folder for each identity, with "
            "that person's images in it."
        )
    asked = settings.to_dict()
    del asked["card"]  # says how to get the photographs, not what is made of them
    options = {name: value for name, value in asked.items() if name not in ("root", "ages")}
    requested = {"dataset": "identity_folder", **asked, _CONTENTS: source_contents(root, ages or "")}
    return _prepare_once(
        folder,
        requested=requested,
        make=lambda: pack_identity_folder(
            folder, root, ages=ages, requested=requested, n_threads=n_threads, progress=progress, **options
        ),
    )


def take_prepared(folder: str | Path, settings: PreparedSettings) -> FaceDataset:
    """Load the prepared dataset of a folder, or take it there without copying its images; see `prepare_dataset`.

    That it was prepared anew since is noticed by the hash of its `dataset.json`, and refused.
    """
    root = project_path(settings.root)
    if settings.card:
        require_dataset(settings.card, root)
    contents = describe_prepared(root, settings.image_size)
    asked = settings.to_dict()
    del asked["card"]  # says how to get the dataset, not what it is
    requested = {**asked, "dataset": "prepared", "image_size": contents["image_size"], _CONTENTS: contents}
    return _prepare_once(
        folder, requested=requested, make=lambda: link_dataset(Path(folder), root, requested=requested)
    )


def _save_made(made: FaceDataset, folder: str | Path, requested: Mapping[str, Any]) -> FaceDataset:
    return save_dataset(replace(made, settings={**made.settings, "requested": dict(requested)}), folder)


def _prepare_once(folder: str | Path, *, requested: Mapping[str, Any], make: Callable[[], FaceDataset]) -> FaceDataset:
    target = Path(folder)
    dataset = load_dataset(target) if (target / INDEX_FILE).is_file() else make()
    found = dataset.settings.get("requested", {})
    other = [name for name in {**found, **requested} if found.get(name) != requested.get(name)]
    named = [f"{name} was {found.get(name)!r}, now {requested.get(name)!r}" for name in other if name != _CONTENTS]
    if named:
        raise DatasetError(
            f"{target} holds a dataset made with other settings ({'; '.join(named)}). "
            "Choose another experiment name, set these parameters as they were, or remove the folder."
        )
    if other:
        raise DatasetError(_changed(target, requested, found.get(_CONTENTS)))
    return dataset


def _changed(target: Path, requested: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    if before is None:
        change = "what it held was not recorded"
    elif "index_sha256" in before:
        change = "it was prepared anew"
    else:
        change = describe_change(before, requested[_CONTENTS])
    return (
        f"{requested['root']} is not as it was when {target} was made from it: {change}. Choose another experiment "
        f"name to work with it as it is now, or remove {target} and the runs trained on it to make them anew."
    )
