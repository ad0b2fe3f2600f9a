"""Batches from a packed dataset against a folder of JPEGs read by one worker, and what packing takes.

Run: python -m benchmarks.bench_packing [--n-images 20480] [--rows 5800000] [--rounds 5]

Both sides give shuffled batches of 256 uint8 tensors at 112 x 112. The JPEGs are drawn faces saved at quality 95, each
face under several names. The pack is read as in training, images memory-mapped. For the cold turns the files of either
side are dropped from the system's page cache first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.packing_memory import peak_gb
from interproto_lib.data import load_dataset, pack_collection
from interproto_lib.data.packed_folders import fitting_decoder
from interproto_lib.data.shapes import open_collection
from interproto_lib.data.synthetic import SyntheticSettings, draw_faces, synthetic_manifest
from interproto_lib.training import batches
from interproto_lib.training.batches import EpochBatches

BATCH = 256
SIZE = 112
N_DRAWN = 1024
PER_IDENTITY = 64


class JpegFolder(Dataset[torch.Tensor]):
    """Files decoded one by one, as in the usual training script."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.files[row]) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))


def draw_folder(root: Path, n_images: int) -> list[Path]:
    """Drawn faces at 112 x 112, JPEG of quality 95, in folders of `PER_IDENTITY`."""
    settings = SyntheticSettings.demo(image_size=SIZE)
    rows = synthetic_manifest(settings).sample(N_DRAWN, random_state=0)
    faces = draw_faces(rows["identity_index"], rows["image_index"], rows["age_years"], settings=settings)
    files: list[Path] = []
    for number in range(n_images):
        file = root / f"{number // PER_IDENTITY:06d}" / f"{number:08d}.jpg"
        if number % PER_IDENTITY == 0:
            file.parent.mkdir(parents=True)
        if number < N_DRAWN:
            Image.fromarray(faces[number]).save(file, quality=95)
        else:
            file.write_bytes(files[number % N_DRAWN].read_bytes())
        files.append(file)
    return files


def forget(files: list[Path]) -> None:
    """Drop files from the page cache of the system."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def jpeg_speed(files: list[Path], n_batches: int, *, cold: bool) -> float:
    """Images a second of a DataLoader with one worker, its start and first batch not counted."""
    if cold:
        forget(files)
    torch.manual_seed(0)
    loader = iter(DataLoader(JpegFolder(files), batch_size=BATCH, shuffle=True, num_workers=1))
    next(loader)
    start = time.perf_counter()
    for _ in range(n_batches):
        next(loader)
    return n_batches * BATCH / (time.perf_counter() - start)


def packed_speed(folder: Path, epoch: int, *, cold: bool) -> float:
    """Images a second of an epoch from the memory map, the first batch counted."""
    if cold:
        forget([folder / "images.npy"])
    dataset = load_dataset(folder)
    rows = np.arange(len(dataset))
    epochs = EpochBatches(
        dataset.images,
        rows,
        np.zeros(len(rows), dtype=np.int64),
        batch_size=BATCH,
        flip=False,
        seed=0,
        device=torch.device("cpu"),
    )
    start = time.perf_counter()
    n_images = sum(len(batch[0]) for batch in epochs.epoch(epoch))
    return n_images / (time.perf_counter() - start)


def pack_folder(root: Path, folder: Path, n_threads: int) -> float:
    """Images a second of packing the folder of JPEGs, listing and hash included."""
    start = time.perf_counter()
    collection = open_collection(root, name="drawn", shape="identity_folders")
    pack_collection(
        collection,
        folder,
        split=np.full(len(collection), "train"),
        image_size=SIZE,
        decode=fitting_decoder(SIZE, "error"),
        settings={},
        on_rejected="error",
        n_threads=n_threads,
    )
    return len(collection) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-images", type=int, default=20480, help="images in the folder and the pack")
    parser.add_argument("--rows", type=int, default=5_800_000, help="rows of the collection that measures memory")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    batches.LARGEST_IN_MEMORY = 0  # as for a pack that does not fit
    with tempfile.TemporaryDirectory() as place:
        root, packed = Path(place, "jpegs"), Path(place, "packed")
        files = draw_folder(root, chosen.n_images)
        n_bytes = sum(file.stat().st_size for file in files)
        print(f"{len(files):,} JPEGs of {n_bytes / len(files) / 1000:.1f} kB, batches of {BATCH}")
        for n_threads in (1, 2):
            speed = pack_folder(root, Path(place, f"packed{n_threads}"), n_threads)
            print(f"packing, {n_threads} threads that decode: {speed:,.0f} images/s")
        Path(place, "packed2").rename(packed)
        print(f"peak memory of this process after packing: {peak_gb():.2f} GB")
        os.sync()  # only what is on the disk can be dropped from the page cache
        speeds: dict[str, list[float]] = {"jpeg": [], "warm": [], "cold jpeg": [], "cold": []}
        packed_speed(packed, 0, cold=False)
        for turn in range(chosen.rounds):
            speeds["jpeg"].append(jpeg_speed(files, 12, cold=False))
            speeds["warm"].append(packed_speed(packed, turn, cold=False))
            speeds["cold jpeg"].append(jpeg_speed(files, 12, cold=True))
            speeds["cold"].append(packed_speed(packed, turn, cold=True))
        print(f"\n{'side':28} {'images/s (range)':>28} {'ratio (range)':>20}")
        for name, label, rival in (
            ("jpeg", "JPEGs, one worker, warm", "jpeg"),
            ("warm", "pack, warm", "jpeg"),
            ("cold jpeg", "JPEGs, one worker, cold", "cold jpeg"),
            ("cold", "pack, cold", "cold jpeg"),
        ):
            found = np.array(speeds[name])
            ratios = found / np.array(speeds[rival])
            print(
                f"{label:28} {f'{np.median(found):,.0f} ({found.min():,.0f} to {found.max():,.0f})':>28} "
                f"{f'{np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f})':>20}"
            )
        print(f"\nmemory at {chosen.rows:,} rows, images of 2 x 2 pixels:", flush=True)
        for step in ("pack", "load"):
            command = [sys.executable, "-m", "benchmarks.packing_memory", step, str(chosen.rows)]
            subprocess.run([*command, str(Path(place, "large"))], check=True)


if __name__ == "__main__":
    main()
