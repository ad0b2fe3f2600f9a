"""The faces of a step of face age synthesis: a function of seed and step, so that any step can be resumed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.errors import ConfigError
from interproto_lib.methods.face_synthesis import age_groups
from interproto_lib.methods.synthesis_settings import SynthesisConfig
from interproto_lib.models.inputs import images_to_input


class SynthesisBatch(NamedTuple):
    """Faces of one step, on the device.

    Attributes:
        real: (b, 3, h, w) in [-1, 1], real faces, each of the age group wanted of the face beside it.
        ages_years: (b,) their ages.
        groups: (b,) int64, their age groups.
        sources: (b, 3, h, w), the faces to age, of any age.
    """

    real: Tensor
    ages_years: Tensor
    groups: Tensor
    sources: Tensor


class SynthesisDraws:
    """Draws the training images of known age: real faces by age group, all groups alike; faces to age as they come.

    Args:
        dataset: The images; its split `train` is drawn from.
        config: Age groups, batch size, flips and seed.
        device: Where batches are wanted.

    Raises:
        ConfigError: No training image has an age, or an age group has none.
    """

    def __init__(self, dataset: FaceDataset, config: SynthesisConfig, device: torch.device) -> None:
        rows = dataset.rows("train")
        ages = dataset.manifest["age_years"].to_numpy(dtype=np.float64)[rows]
        known = np.isfinite(ages)
        if not known.any():
            raise ConfigError(
                f"Face age synthesis learns from ages, but none of the {len(rows):,} training images of dataset "
                f"{dataset.name!r} has one. Give the dataset a table of ages."
            )
        groups = age_groups(torch.from_numpy(ages[known]), config.group_starts_years)
        self.counts = torch.bincount(groups, minlength=config.n_groups)
        if not bool(self.counts.all()):
            empty = [name for name, count in zip(config.group_names, self.counts, strict=True) if not count]
            raise ConfigError(
                f"No training image of dataset {dataset.name!r} shows anyone aged {', '.join(empty)}, so nothing can "
                "be learned about that age. Give other group_starts_years, or more images."
            )
        order = torch.argsort(groups, stable=True)
        self._rows = torch.from_numpy(rows[known])[order]
        self._ages = torch.from_numpy(ages[known].astype(np.float32))[order]
        self._starts = self.counts.cumsum(0) - self.counts
        self._images = dataset.images
        self._config = config
        self._device = device

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, step: int) -> SynthesisBatch:
        """Draw the faces of a step.

        Args:
            step: Number of the step, from 0.

        Returns:
            The batch.
        """
        config = self._config
        size = (config.batch_size,)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
        groups = torch.randint(config.n_groups, size, generator=generator)
        share = torch.rand(size, generator=generator, dtype=torch.float64)
        real = self._starts[groups] + (share * self.counts[groups]).long()
        sources = torch.randint(len(self._rows), size, generator=generator)
        mirrored = torch.rand(2, *size, generator=generator) < (0.5 if config.flip else 0.0)
        return SynthesisBatch(
            self._read(real, mirrored[0]),
            self._ages[real].to(self._device),
            groups.to(self._device),
            self._read(sources, mirrored[1]),
        )

    def _read(self, places: Tensor, mirrored: Tensor) -> Tensor:
        images = torch.from_numpy(self._images[self._rows[places].numpy()])
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        return images_to_input(images.to(self._device))
