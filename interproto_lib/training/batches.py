"""The training images in the order of an epoch: a function of seed, epoch and step, so that any step can be resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interproto_lib.errors import ConfigError

LARGEST_IN_MEMORY = 4 * 2**30
"""Bytes of images up to which a CPU run reads them all at once; beyond, they stay memory-mapped."""

_READING_THREADS = 4
_BATCHES_AHEAD = 2
_ROWS_AT_A_TIME = 4096


class Batch(NamedTuple):
    """Images of one step, on the device.

    Attributes:
        images: (b, h, w, 3) uint8.
        labels: (b,) int64, classes.
        ages_years: (b,) float32, NaN where the age is unknown.
    """

    images: Tensor
    labels: Tensor
    ages_years: Tensor


class EpochBatches:
    """Shuffled, mirrored batches of one dataset split, kept on the device where they fit.

    Images that do not fit are read by a few threads while the batches before them are worked on, on the way to a GPU
    through page-locked memory; the batches are the same.

    Args:
        images: (N, h, w, 3) uint8 of the whole dataset, in memory or memory-mapped.
        rows: (n,) rows of the images to train on.
        labels: (n,) their class labels.
        ages_years: (n,) their ages in years, NaN where unknown; None where nobody asks for ages.
        batch_size: Images in a batch; the last, smaller one is dropped.
        flip: Mirror each image with probability one half.
        seed: Seed of order and flips.
        device: Where batches are wanted.
        share: The part of each batch that is wanted, and how many equal parts there are: each of several processes
            takes its own. They divide the batch size.
        sharers: How many processes share the machine's main memory.

    Raises:
        ConfigError: There are fewer images than a batch holds, or rows that the dataset has not.
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        *,
        ages_years: np.ndarray | None = None,
        batch_size: int,
        flip: bool,
        seed: int,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        sharers: int = 1,
    ) -> None:
        if len(rows) < batch_size:
            raise ConfigError(f"batch_size={batch_size} is larger than the {len(rows)} training images")
        if rows.min() < 0 or rows.max() >= len(images):
            raise ConfigError(f"rows go from {rows.min()} to {rows.max()}, but there are {len(images)} images")
        self._images = images
        self._rows = rows
        self._labels = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)).to(device)
        ages = np.full(len(rows), np.nan) if ages_years is None else ages_years
        self._ages_years = torch.from_numpy(np.array(ages, dtype=np.float32)).to(device)
        self._batch_size = batch_size
        self._flip = flip
        self._seed = seed
        self._device = device
        self._share = share
        self._resident = self._load_resident(sharers)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._rows) // self._batch_size

    @property
    def n_resident(self) -> int:
        """Images kept on the device: all, or none."""
        return 0 if self._resident is None else len(self._resident)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Batch, None, None]:
        """Go through the batches of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            first_step: Batches of the epoch to skip, when a run is resumed within it.

        Yields:
            The batches, or this process's share of each, on the device.
        """
        generator = torch.Generator().manual_seed(_mixed_seed(self._seed, epoch))
        order = torch.randperm(len(self._rows), generator=generator)
        mirrored = torch.rand(len(self._rows), generator=generator) < 0.5
        mirrored = mirrored.to(self._device)
        order_on_device = order.to(self._device)
        number, of = self._share
        size = self._batch_size // of
        starts = [step * self._batch_size + number * size for step in range(first_step, self.steps_per_epoch)]
        parts = [slice(start, start + size) for start in starts]
        if self._resident is not None:
            found = (self._resident.index_select(0, order_on_device[part]) for part in parts)
        else:
            found = self._read_ahead([order[part].numpy() for part in parts])
        with closing(found):
            for part, images in zip(parts, found, strict=True):
                rows = order_on_device[part]
                yield Batch(
                    _mirror(images, mirrored[part]) if self._flip else images,
                    self._labels[rows],
                    self._ages_years[rows],
                )

    def _load_resident(self, sharers: int) -> Tensor | None:
        """The training images on the device, or None where they are too large (half of a GPU's free memory).

        Each process keeps all of them: the order of an epoch gives any image to any process.
        """
        n_bytes = len(self._rows) * int(np.prod(self._images.shape[1:]))
        on_gpu = self._device.type == "cuda"
        limit = torch.cuda.mem_get_info(self._device)[0] // 2 if on_gpu else LARGEST_IN_MEMORY // sharers
        if n_bytes > limit:
            return None
        resident = torch.empty((len(self._rows), *self._images.shape[1:]), dtype=torch.uint8, device=self._device)
        for start in range(0, len(self._rows), _ROWS_AT_A_TIME):  # in parts, so that main memory never holds all twice
            part = slice(start, start + _ROWS_AT_A_TIME)
            resident[part] = torch.from_numpy(self._images[self._rows[part]]).to(self._device)
        return resident

    def _read_ahead(self, positions: Sequence[np.ndarray]) -> Generator[Tensor, None, None]:
        """The images at each of these positions (b,), read while earlier ones are in use."""
        with ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="batches") as readers:
            ahead: deque[tuple[Tensor, list[Future[None]]]] = deque()
            try:
                for step in range(len(positions) + _BATCHES_AHEAD):
                    if step < len(positions):
                        ahead.append(self._begin_reading(readers, self._rows[positions[step]]))
                    if step >= _BATCHES_AHEAD:
                        images, parts = ahead.popleft()
                        for part in parts:
                            part.result()
                        yield images.to(self._device, non_blocking=True)
            finally:
                readers.shutdown(cancel_futures=True)

    def _begin_reading(self, readers: ThreadPoolExecutor, rows: np.ndarray) -> tuple[Tensor, list[Future[None]]]:
        images = torch.empty(
            (len(rows), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )
        places = np.array_split(images.numpy(), _READING_THREADS)
        parts = [
            readers.submit(_read_rows, self._images, part, place)
            for part, place in zip(np.array_split(rows, _READING_THREADS), places, strict=True)
        ]
        return images, parts


def _mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the marked ones of these images (b, h, w, 3), in place where that is faster."""
    if images.device.type != "cpu":
        return torch.where(mirrored[:, None, None, None], images.flip(2), images)
    rows = np.flatnonzero(mirrored.numpy())
    # numpy and index_select copy whole images, torch.where and indexing single bytes
    images.numpy()[rows] = images.index_select(0, torch.from_numpy(rows)).flip(2).numpy()
    return images


def _read_rows(images: np.ndarray, rows: np.ndarray, place: np.ndarray) -> None:
    """Copy rows into a place; other threads run meanwhile, for numpy lets go of the interpreter."""
    np.take(images, rows, axis=0, out=place, mode="clip")  # the rows are valid; checking them would copy once more


def _mixed_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63
