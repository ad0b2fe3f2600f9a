"""The training images in the order of an epoch: a function of seed, epoch and step, so that any step can be resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from interproto_lib.errors import ConfigError

LARGEST_IN_MEMORY = 4 * 2**30
"""Bytes of images up to which a CPU run reads them all at once; beyond, they stay memory-mapped."""


class EpochBatches:
    """Shuffled, mirrored batches of one dataset split, kept on the device where they fit.

    Args:
        images: (N, h, w, 3) uint8 of the whole dataset, in memory or memory-mapped.
        rows: (n,) rows of the images to train on.
        labels: (n,) their class labels.
        batch_size: Images in a batch; the last, smaller one is dropped.
        flip: Mirror each image with probability one half.
        seed: Seed of order and flips.
        device: Where batches are wanted.

    Raises:
        ConfigError: There are fewer images than a batch holds.
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        flip: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        if len(rows) < batch_size:
            raise ConfigError(f"batch_size={batch_size} is larger than the {len(rows)} training images")
        self._images = images
        self._rows = rows
        self._labels = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)).to(device)
        self._batch_size = batch_size
        self._flip = flip
        self._seed = seed
        self._device = device
        self._resident = self._load_resident()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._rows) // self._batch_size

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the batches of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            first_step: Batches of the epoch to skip, when a run is resumed within it.

        Yields:
            Images (b, h, w, 3) uint8 and labels (b,) int64, on the device.
        """
        generator = torch.Generator().manual_seed(_mixed_seed(self._seed, epoch))
        order = torch.randperm(len(self._rows), generator=generator)
        mirrored = torch.rand(len(self._rows), generator=generator) < (0.5 if self._flip else 0.0)
        mirrored = mirrored.to(self._device)
        order_on_device = order.to(self._device)
        for step in range(first_step, self.steps_per_epoch):
            part = slice(step * self._batch_size, (step + 1) * self._batch_size)
            images = self._gather(order[part], order_on_device[part])
            images = torch.where(mirrored[part, None, None, None], images.flip(2), images)
            yield images, self._labels[order_on_device[part]]

    def _load_resident(self) -> Tensor | None:
        """The training images on the device, or None where they are too large (half of a GPU's free memory)."""
        n_bytes = len(self._rows) * int(np.prod(self._images.shape[1:]))
        on_gpu = self._device.type == "cuda"
        limit = torch.cuda.mem_get_info(self._device)[0] // 2 if on_gpu else LARGEST_IN_MEMORY
        if n_bytes > limit:
            return None
        return torch.from_numpy(self._images[self._rows]).to(self._device)

    def _gather(self, positions: Tensor, positions_on_device: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[positions_on_device]
        images = torch.from_numpy(self._images[self._rows[positions.numpy()]])
        if self._device.type == "cuda":
            return images.pin_memory().to(self._device, non_blocking=True)
        return images


def _mixed_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63
