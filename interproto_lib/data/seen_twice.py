"""Training people and images among those that are judged: within a dataset, and in test sets beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from interproto_lib.data.contents import project_path
from interproto_lib.data.datasets import FaceDataset, load_dataset
from interproto_lib.data.duplicates import shared_identities, shared_images

JUDGED_IMAGES = "the validation and held-out images"


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenTwice:
    """What images that are judged have in common with the training images of a dataset.

    Attributes:
        where: What was looked through, in words.
        n_images: How many images that are.
        identities: As `shared_identities` gives it, training first.
        images: As `shared_images` gives it, training first.
    """

    where: str
    n_images: int
    identities: pd.DataFrame
    images: pd.DataFrame


def find_seen_twice(
    dataset: FaceDataset,
    test_sets: Sequence[str | Path] = (),
    *,
    max_distance: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[SeenTwice]:
    """Look for training people and images among the other images of a dataset, and in further datasets.

    Args:
        dataset: The dataset whose training images are looked for.
        test_sets: Dataset folders, all of whose images are looked through; a relative path starts at the project's
            root.
        max_distance: The most bits, of 64, in which images that look alike differ, 0 to 16.
        progress: Called with the number of images hashed and the number of all, for each side in turn.

    Returns:
        One record for the validation and held-out images, where there are any, and one for each test set.

    Raises:
        ConfigError: `max_distance` is out of range.
        DatasetNotFoundError: A test set is not there.
    """
    trained = dataset.rows("train")
    judged = np.concatenate([dataset.rows("validation"), dataset.rows("heldout")])
    others = [(dataset, judged, JUDGED_IMAGES)] if len(judged) else []
    for folder in test_sets:
        other = load_dataset(project_path(folder))
        others.append((other, np.arange(len(other)), other.name))
    found = []
    for other, rows, where in others if len(trained) else []:
        images = shared_images(
            dataset, other, first_rows=trained, second_rows=rows, max_distance=max_distance, progress=progress
        )
        people = shared_identities(dataset.manifest.iloc[trained], other.manifest.iloc[rows])
        found.append(SeenTwice(where=where, n_images=len(rows), identities=people, images=images))
    return found
