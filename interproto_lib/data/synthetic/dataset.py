"""The built-in dataset: its manifest, and its images drawn by one or several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.synthetic.hashing import normals, uniforms
from interproto_lib.data.synthetic.renderer import draw_faces
from interproto_lib.data.synthetic.settings import OLDEST_YEARS, YOUNGEST_ADULT_YEARS, SyntheticSettings
from interproto_lib.errors import ConfigError

FloatArray = NDArray[np.float64]

WITHIN_IDENTITY_SPREAD_YEARS = 7.0
_STREAM_COUNTS, _STREAM_AGES = 100, 101
_ROWS_OF_A_TASK = 64


def synthetic_manifest(settings: SyntheticSettings) -> pd.DataFrame:
    """Give the manifest of a built-in dataset: who is drawn how often, and how old.

    Args:
        settings: Numbers of identities and images, ages and seed.

    Returns:
        One row an image: training identities first, then held-out, then validation ones, each identity's child images
        first; adding identities at the end changes no row before. Columns: `path` as in "id0001/003.png", `identity`
        as in "id0001", `age_years` in steps of 0.1, `split`, `source` "synthetic", `identity_index` and `image_index`
        (int64), which with the age are what `draw_faces` takes.

    Example:
        >>> synthetic_manifest(SyntheticSettings.tiny())["identity"].nunique()
        136
    """
    n_train = settings.n_identities
    validation_from = n_train + settings.n_heldout_identities
    n_all = validation_from + settings.n_validation_identities
    digits = max(4, len(str(validation_from)))
    identity, image, ages = [], [], []
    for index in range(n_all):
        of_identity = _train_ages(settings, index) if index < n_train else _unseen_ages(settings, index)
        identity.append(np.full(len(of_identity), index))
        image.append(np.arange(len(of_identity)))
        ages.append(np.rint(of_identity * 10.0) / 10.0)
    identity_index = np.concatenate(identity).astype(np.int64)
    image_index = np.concatenate(image).astype(np.int64)
    split = np.searchsorted([n_train, validation_from], identity_index, side="right")
    names = [f"id{index:0{digits}d}" for index in identity_index]
    return pd.DataFrame(
        {
            "path": [f"{name}/{number:03d}.png" for name, number in zip(names, image_index, strict=True)],
            "identity": names,
            "age_years": np.concatenate(ages),
            "split": np.array(["train", "heldout", "validation"], dtype=object)[split],
            "source": "synthetic",
            "identity_index": identity_index,
            "image_index": image_index,
        }
    )


def _child_ages(settings: SyntheticSettings, index: int, count: int) -> FloatArray:
    return 1.0 + 11.9 * uniforms(settings.seed, index, _STREAM_COUNTS, count=10 + count)[0, 10:]


def _adult_ages(settings: SyntheticSettings, index: int, count: int, *, centre: float, spread: float) -> FloatArray:
    z = normals(settings.seed, index, _STREAM_AGES, count=1 + count)[0]
    return (centre + spread * z[0]) + WITHIN_IDENTITY_SPREAD_YEARS * z[1:]


def _train_ages(settings: SyntheticSettings, index: int) -> FloatArray:
    u = uniforms(settings.seed, index, _STREAM_COUNTS, count=2)[0]
    n_images = max(2, int(settings.images_per_identity * (0.6 + 0.8 * u[0])))
    n_child = 0
    centre, spread = settings.adult_age_years, settings.adult_age_spread_years
    if index < settings.n_child_identities:
        fewest, most = settings.child_images
        n_child = fewest + int(u[1] * (most - fewest + 1))
        n_images = max(n_images, n_child + 1)
        centre = settings.child_identity_adult_age_years
        spread = spread if centre > 30.0 else spread * 0.625
    adult = _adult_ages(settings, index, n_images - n_child, centre=centre, spread=spread)
    adult = np.minimum(np.maximum(adult, YOUNGEST_ADULT_YEARS), OLDEST_YEARS)
    return np.concatenate([_child_ages(settings, index, n_child), adult])


def _unseen_ages(settings: SyntheticSettings, index: int) -> FloatArray:
    """Ages of an identity that is held out or validates: a child, an adult, and old enough for every gap."""
    n_adult = settings.heldout_adult_images
    n_old = min(n_adult, 2 if n_adult >= 4 else 1)
    adult = _adult_ages(
        settings,
        index,
        n_adult - n_old,
        centre=settings.adult_age_years,
        spread=settings.adult_age_spread_years,
    )
    adult = np.minimum(np.maximum(adult, 18.0), OLDEST_YEARS)
    old = 44.0 + 26.0 * uniforms(settings.seed, index, _STREAM_COUNTS, count=4)[0, 2 : 2 + n_old]
    return np.concatenate([_child_ages(settings, index, settings.heldout_child_images), adult, old])


def make_synthetic_dataset(
    settings: SyntheticSettings,
    *,
    n_processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FaceDataset:
    """Draw a built-in dataset.

    Args:
        settings: What to draw.
        n_processes: How many processes draw, >= 1; the bytes are the same for any number. Several are started afresh
            (not forked, which is unsafe beside the threads of torch), which takes a second or two: worth it from a
            thousand images on. A script that asks for several needs the usual `if __name__ == "__main__":`.
        progress: Called with the number of images done and the number of all, from time to time and at the end.

    Returns:
        The dataset, in memory; `save_dataset` keeps it.

    Raises:
        ConfigError: `n_processes` is not a whole number >= 1.
    """
    if type(n_processes) is not int or n_processes < 1:
        raise ConfigError(f"n_processes={n_processes!r} must be a whole number, at least 1.")
    manifest = synthetic_manifest(settings)
    who, which = manifest["identity_index"].to_numpy(), manifest["image_index"].to_numpy()
    age = manifest["age_years"].to_numpy()
    total, size = len(manifest), settings.image_size
    images = np.empty((total, size, size, 3), np.uint8)
    tasks = [slice(start, min(start + _ROWS_OF_A_TASK, total)) for start in range(0, total, _ROWS_OF_A_TASK)]
    report = progress or (lambda done, of: None)
    if n_processes == 1 or len(tasks) == 1:
        for rows in tasks:
            images[rows] = _draw_task(who[rows], which[rows], age[rows], settings)
            report(rows.stop, total)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(n_processes, len(tasks)), mp_context=context) as pool:
            drawn = [pool.submit(_draw_task, who[rows], which[rows], age[rows], settings) for rows in tasks]
            try:
                for rows, task in zip(tasks, drawn, strict=True):
                    images[rows] = task.result()
                    report(rows.stop, total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return FaceDataset(
        name="synthetic",
        folder=None,
        manifest=manifest,
        images=images,
        settings=settings.to_dict(),
    )


def _draw_task(
    who: NDArray[np.int64], which: NDArray[np.int64], age: FloatArray, settings: SyntheticSettings
) -> NDArray[np.uint8]:
    return draw_faces(who, which, age, settings=settings)
