"""A toy dataset that a tiny network learns in seconds, settings to train it with, and whether two runs are the same."""

import numpy as np
import pandas as pd

from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import FaceDataset

TINY = {
    "backbone": "tiny",
    "embedding_dim": 16,
    "epochs": 3,
    "batch_size": 16,
    "min_child_images": 3,
    "threads": 1,
    "log_every_steps": 4,
    "device": "cpu",
    "precision": "float32",
}


def tiny(**changes):
    """Settings of a training of a second."""
    return TrainConfig(**{**TINY, **changes})


def toy_dataset(n_identities=12, n_child=4, n_images=8, n_heldout=0, n_validation=0, image_size=56, seed=0):
    """Identities are coarse colour patterns, images noisy copies of them; those that validate change no other."""
    splits = ["train"] * n_identities + ["heldout"] * n_heldout + ["validation"] * n_validation
    drawn = [_draw(n_identities + n_heldout, n_images, image_size, seed)]
    if n_validation:
        drawn.append(_draw(n_validation, n_images, image_size, (seed, 1)))
    rows = [
        {
            "path": f"id{i:03d}/{k}.png",
            "identity": f"id{i:03d}",
            "age_years": 6.0 + k if (i < n_child or i >= n_identities) and k < n_images // 2 else 30.0 + k,
            "split": split,
            "source": "toy",
        }
        for i, split in enumerate(splits)
        for k in range(n_images)
    ]
    images = np.concatenate(drawn)
    return FaceDataset(name="toy", folder=None, manifest=pd.DataFrame(rows), images=images, settings={"seed": seed})


def _draw(n, n_images, image_size, seed):
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 255, (n, 7, 7, 3)).repeat(image_size // 7, 1).repeat(image_size // 7, 2)
    noise = rng.integers(-50, 50, (n, n_images, image_size, image_size, 3))
    return np.clip(patterns[:, None] + noise, 0, 255).astype(np.uint8).reshape(-1, image_size, image_size, 3)


def files_of(run):
    losses = run.metrics().drop(columns=["images_per_second", "data_wait"])
    return [(run.path / name).read_bytes() for name in ("backbone.safetensors", "prototypes.safetensors")] + [losses]


def assert_same_run(first, second):
    for one, other in zip(files_of(first)[:2], files_of(second)[:2], strict=True):
        assert one == other
    assert files_of(first)[2].equals(files_of(second)[2])
