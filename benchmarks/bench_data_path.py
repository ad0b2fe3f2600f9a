"""The way of images from disk to the network alone, against a folder of JPEGs read by one worker; and data wait.

Run: python -m benchmarks.bench_data_path [--n-images 10240] [--rounds 5]

Both sides end with what a network takes: shuffled batches of 128 images of 112 x 112, half of them mirrored, float32 in
[-1, 1]. The pack gives uint8 batches, which are mirrored and scaled as a whole; the worker decodes, mirrors and scales
image by image. As in a training on a CPU, the process keeps the memory it frees. Warm: the files are in the page cache.
Cold: they were dropped from it before each turn. Data wait is the share of a training's time in which it waits for the
next batch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench_packing import SIZE, draw_folder, forget, pack_folder
from interproto_lib.data import load_dataset
from interproto_lib.models import build_backbone, images_to_input
from interproto_lib.training import batches
from interproto_lib.training.batches import EpochBatches
from interproto_lib.training.memory import keep_freed_memory

BATCH = 128
JPEG_BATCHES = 16


class JpegInputs(Dataset[Tensor]):
    """Files decoded, mirrored and scaled one by one, as in the usual training script."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(self.files[row]) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        values = torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1).contiguous()
        return values.flip(2) if torch.rand(()) < 0.5 else values


def jpeg_inputs(files: list[Path], *, cold: bool) -> Iterator[Tensor]:
    """Batches of a DataLoader with one worker, which has started and given one when this returns."""
    if cold:
        forget(files)
    torch.manual_seed(0)
    found = iter(DataLoader(JpegInputs(files), batch_size=BATCH, shuffle=True, num_workers=1))
    next(found)
    return found


def packed_inputs(folder: Path, turn: int, *, cold: bool, resident: bool) -> Iterator[Tensor]:
    """Batches of an epoch of the pack, from main memory or from the memory map."""
    if cold:
        forget([folder / "images.npy"])
    largest = batches.LARGEST_IN_MEMORY
    batches.LARGEST_IN_MEMORY = largest if resident else 0
    try:
        dataset = load_dataset(folder)
        rows = np.arange(len(dataset))
        found = EpochBatches(
            dataset.images,
            rows,
            np.zeros(len(rows), dtype=np.int64),
            batch_size=BATCH,
            flip=True,
            seed=0,
            device=torch.device("cpu"),
        )
    finally:
        batches.LARGEST_IN_MEMORY = largest
    return (images_to_input(batch.images) for batch in found.epoch(turn))


def speed(inputs: Iterable[Tensor], n_batches: int | None = None) -> float:
    """Images a second of going through batches."""
    started, n_images = time.perf_counter(), 0
    for number, images in enumerate(inputs, start=1):
        n_images += len(images)
        if number == n_batches:
            break
    return n_images / (time.perf_counter() - started)


def data_wait(inputs: Iterator[Tensor], n_steps: int) -> float:
    """Share of the time in which a training of `small` waits for its batches, the first step not counted."""
    torch.manual_seed(0)
    backbone = build_backbone("small", embedding_dim=128, image_size=SIZE, dropout=0.0)
    backbone.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9, fused=True)
    waited, started = 0.0, 0.0
    for step in range(n_steps + 1):
        if step == 1:
            waited, started = 0.0, time.perf_counter()
        asked = time.perf_counter()
        images = next(inputs)
        waited += time.perf_counter() - asked
        optimizer.zero_grad(set_to_none=True)
        backbone(images).square().mean().backward()
        optimizer.step()
    return waited / (time.perf_counter() - started)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-images", type=int, default=10240, help="images in the folder and the pack")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        root, packed = Path(place, "jpegs"), Path(place, "packed")
        files = draw_folder(root, chosen.n_images)
        pack_folder(root, packed, 2)
        os.sync()  # only what is on the disk can be dropped from the page cache
        sides: dict[str, tuple[str, Callable[[int], float]]] = {
            "JPEGs, one worker, warm": (
                "JPEGs, one worker, warm",
                lambda turn: speed(jpeg_inputs(files, cold=False), JPEG_BATCHES),
            ),
            "pack in memory": (
                "JPEGs, one worker, warm",
                lambda turn: speed(packed_inputs(packed, turn, cold=False, resident=True)),
            ),
            "pack memory-mapped, warm": (
                "JPEGs, one worker, warm",
                lambda turn: speed(packed_inputs(packed, turn, cold=False, resident=False)),
            ),
            "JPEGs, one worker, cold": (
                "JPEGs, one worker, cold",
                lambda turn: speed(jpeg_inputs(files, cold=True), JPEG_BATCHES),
            ),
            "pack memory-mapped, cold": (
                "JPEGs, one worker, cold",
                lambda turn: speed(packed_inputs(packed, turn, cold=True, resident=False)),
            ),
        }
        turns = [{name: measure(turn) for name, (_, measure) in sides.items()} for turn in range(chosen.rounds)]
        print(f"{chosen.n_images:,} images, batches of {BATCH}, load {os.getloadavg()[0]:.1f}")
        print(f"{'side':28} {'images/s (range)':>28} {'ratio (range)':>24}")
        for name, (rival, _) in sides.items():
            found = np.array([turn[name] for turn in turns])
            ratios = found / np.array([turn[rival] for turn in turns])
            print(
                f"{name:28} {f'{np.median(found):,.0f} ({found.min():,.0f} to {found.max():,.0f})':>28} "
                f"{f'{np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f})':>24}"
            )
        n_steps = min(20, chosen.n_images // BATCH - 2)
        print(f"\ndata wait of a training of `small` at {SIZE} x {SIZE}, one thread, {n_steps} steps:")
        for name, inputs in (
            ("pack in memory", packed_inputs(packed, 0, cold=False, resident=True)),
            ("pack memory-mapped", packed_inputs(packed, 0, cold=False, resident=False)),
            ("JPEGs, one worker", jpeg_inputs(files, cold=False)),
        ):
            print(f"  {name:20} {data_wait(inputs, n_steps):7.2%}", flush=True)


if __name__ == "__main__":
    main()
