"""Making a dataset folder once: made when it is missing, loaded when it is there, refused when it is another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from interproto_lib.data.datasets import INDEX_FILE, FaceDataset, load_dataset, save_dataset
from interproto_lib.errors import DatasetError


def prepare_dataset(
    folder: str | Path, *, requested: Mapping[str, Any], make: Callable[[], FaceDataset]
) -> FaceDataset:
    """Load the dataset of a folder if it was made as requested, or make and save it.

    Args:
        folder: The dataset folder, as in `runs/<experiment>/dataset`.
        requested: The settings that decide what the dataset holds; anything JSON can hold. They are kept in the
            dataset's settings under `requested`, and compared when it is there already.
        make: Makes the dataset; called only when the folder holds none.

    Returns:
        The dataset as loaded from the folder, images memory-mapped.

    Raises:
        DatasetError: The folder holds a dataset that was requested otherwise; it is left as it is.
        WriteError: The folder cannot be written.
    """
    target = Path(folder)
    if not (target / INDEX_FILE).is_file():
        made = make()
        return save_dataset(replace(made, settings={**made.settings, "requested": dict(requested)}), target)
    dataset = load_dataset(target)
    found = dataset.settings.get("requested", {})
    other = [
        f"{name} was {found.get(name)!r}, now {requested.get(name)!r}"
        for name in {**found, **requested}
        if found.get(name) != requested.get(name)
    ]
    if other:
        raise DatasetError(
            f"{target} holds a dataset made with other settings ({'; '.join(other)}). "
            "Choose another experiment name, set these parameters as they were, or remove the folder."
        )
    return dataset
