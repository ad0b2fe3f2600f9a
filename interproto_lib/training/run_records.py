"""What a training is a training of, checked before it starts and recorded in its run folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interproto_lib.config import UNDECISIVE_SETTINGS, TrainConfig
from interproto_lib.data.datasets import FaceDataset, hash_images
from interproto_lib.data.manifests import class_table
from interproto_lib.errors import ConfigError, DatasetError, RunError
from interproto_lib.files import write_json
from interproto_lib.methods import METHODS
from interproto_lib.runs import RunFolder, table_hash


def checked_training(config: TrainConfig, dataset: FaceDataset) -> tuple[pd.DataFrame, dict[str, dict[str, object]]]:
    """Check that settings and dataset make a training, before it starts.

    Args:
        config: The settings.
        dataset: The images.

    Returns:
        Its classes, one row a prototype, and what it is a training of: the settings under `train` and the dataset's
        record under `dataset`, as `config.json` holds them.

    Raises:
        ConfigError: The settings do not fit the dataset.
        DatasetError: There are fewer than two identities to train on.
    """
    classes = class_table(
        dataset.manifest,
        min_child_images=config.min_child_images,
        child_below_years=config.child_below_years,
        unlabelled_as_years=config.unlabelled_as_years,
    )
    if len(classes) < 2:
        raise DatasetError(f"Dataset {dataset.name!r} has {len(classes)} training identities; training needs two.")
    if config.age_method != "none":
        METHODS[config.age_method].check(config, known_ages(dataset, dataset.rows("train"), config))
        per_part = config.batch_size // config.batch_parts
        if per_part < METHODS[config.age_method].min_batch:
            raise ConfigError(
                f"age_method={config.age_method!r} needs parts of {METHODS[config.age_method].min_batch} images or "
                f"more, but batch_size={config.batch_size} in batch_parts={config.batch_parts} makes them {per_part}."
            )
    return classes, {"train": config.to_dict(), "dataset": dataset_record(dataset, classes)}


def known_ages(dataset: FaceDataset, rows: np.ndarray, config: TrainConfig) -> np.ndarray:
    """Give the ages in years of some images, NaN where unknown, as the settings read them.

    Args:
        dataset: The dataset.
        rows: (n,) row numbers.
        config: Settings; `unlabelled_as_years` matters.
    """
    ages = dataset.manifest["age_years"].to_numpy(dtype=np.float64)[rows]
    return ages if config.unlabelled_as_years is None else np.where(np.isnan(ages), config.unlabelled_as_years, ages)


def dataset_record(dataset: FaceDataset, classes: pd.DataFrame) -> dict[str, object]:
    """Describe the dataset of a run, as `config.json` holds it: name, sizes, settings and hashes.

    Args:
        dataset: The dataset.
        classes: Its classes, as `class_table` gives them.
    """
    columns = ["path", "identity", "age_years", "split"]
    return {
        "name": dataset.name,
        "image_size": dataset.image_size,
        "n_images": len(dataset),
        "manifest_sha256": table_hash(dataset.manifest[columns]),
        "classes_sha256": table_hash(classes),
        "images_sha256": hash_images(dataset),
        "settings": dataset.settings,
    }


def require_same_run(run: RunFolder, identity: dict[str, dict[str, object]]) -> None:
    """Refuse to go on in a folder that holds a run with other settings or of another dataset.

    Args:
        run: The run that is there.
        identity: The settings under `train` and the dataset's record under `dataset`, as wanted now.

    Raises:
        RunError: They differ; the message names the first difference.
    """
    there = {"train": run.config.to_dict(), "dataset": run.dataset_info}
    for part, wanted in identity.items():
        found = there[part]
        compared = wanted if part == "dataset" else {n: v for n, v in wanted.items() if n not in UNDECISIVE_SETTINGS}
        differing = [name for name in compared if found.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            others = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise RunError(
                f"{run.path} holds a run with other {'settings' if part == 'train' else 'data'}: {name} was "
                f"{found.get(name)!r}, now {wanted[name]!r}{others}. Choose another run name, or remove the folder."
            )


def record_environment(run: RunFolder, now: dict[str, Any], *, step: int) -> None:
    """Describe the machine of a new run; of a resumed one add what differs from when it last went on.

    Args:
        run: The run.
        now: Machine and software now.
        step: Steps made so far.
    """
    if step == 0 or not (run.path / "environment.json").is_file():
        write_json(run.path / "environment.json", now)
        return
    record = run.environment
    resumptions = record.get("resumed_with", [])
    last = {**record, **{name: value for resumption in resumptions for name, value in resumption.items()}}
    differing = {name: value for name, value in now.items() if name != "time_utc" and value != last.get(name)}
    if differing:
        resumption = {"step": step, "time_utc": now["time_utc"], **differing}
        write_json(run.path / "environment.json", {**record, "resumed_with": [*resumptions, resumption]})
