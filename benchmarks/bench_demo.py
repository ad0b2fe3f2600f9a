"""Images a second of the demo's whole training loop, beside a plain PyTorch loop over a folder of image files.

Run: python -m benchmarks.bench_demo [--epochs 4]

The plain loop is what a newcomer would write: one PNG a face, read by a DataLoader without workers, float32 tensors in
contiguous order, torch.optim.SGD, ArcFace written out, `loss.item()` at every step, and, for the Inter-Prototype loss,
the n x n matrix against the identity. Same backbone, same images, same batch size, one thread each, timed in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from interproto_lib.config import TrainConfig
from interproto_lib.data import FaceDataset, class_table, training_labels
from interproto_lib.data.synthetic import SyntheticSettings, make_synthetic_dataset
from interproto_lib.models import build_backbone
from interproto_lib.training import train

ROUNDS = 3


class ImageFiles(Dataset[tuple[torch.Tensor, int]]):
    """Faces as files, decoded one by one."""

    def __init__(self, paths: list[Path], labels: np.ndarray) -> None:
        self.paths = paths
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = np.asarray(Image.open(self.paths[index]).convert("RGB"), dtype=np.float32)
        image = torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1).contiguous()
        return (image.flip(2) if torch.rand(()) < 0.5 else image), int(self.labels[index])


def plain_loop(files: ImageFiles, n_identities: int, child_rows: torch.Tensor, config: TrainConfig) -> float:
    """Train for the epochs of the settings; returns images a second."""
    backbone = build_backbone(config.backbone, embedding_dim=config.embedding_dim, image_size=56, dropout=0.0).train()
    prototypes = torch.nn.Parameter(torch.randn(n_identities, config.embedding_dim))
    optimizer = torch.optim.SGD([*backbone.parameters(), prototypes], lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(files, batch_size=config.batch_size, shuffle=True, drop_last=True)
    n_images, started = 0, time.perf_counter()
    for _ in range(config.epochs):
        for images, labels in loader:
            features = torch.nn.functional.normalize(backbone(images))
            unit = torch.nn.functional.normalize(prototypes)
            theta = (features @ unit.T).clamp(-1 + 1e-7, 1 - 1e-7).arccos()
            own = torch.nn.functional.one_hot(labels, n_identities)
            loss = torch.nn.functional.cross_entropy(config.scale * (theta + config.margin * own).cos(), labels)
            if config.inter_prototype != "none":
                cosines = unit[child_rows] @ unit[child_rows].T
                loss = loss + torch.nn.functional.mse_loss(cosines, torch.eye(len(child_rows)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert np.isfinite(loss.item())
            n_images += len(labels)
    return n_images / (time.perf_counter() - started)


def library_loop(dataset: FaceDataset, config: TrainConfig, folder: Path) -> float:
    """Train with the library, checkpoints and metrics included; returns images a second."""
    started = time.perf_counter()
    run = train(config, dataset, folder, progress="none")
    return run.summary["steps"] * config.batch_size / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training (default: %(default)s)")
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    started = time.perf_counter()
    dataset = make_synthetic_dataset(SyntheticSettings.demo())
    print(f"{len(dataset):,} faces of 56x56 drawn in {time.perf_counter() - started:.1f} s with one process\n")
    classes = class_table(dataset.manifest, min_child_images=5)
    rows, labels = training_labels(dataset, classes)
    child_rows = torch.from_numpy(np.flatnonzero(classes["is_child"].to_numpy()))
    print("| loss | plain loop, images/s | library, images/s | ratio |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{row:05d}.png" for row in rows]
        for path, row in zip(paths, rows, strict=True):
            Image.fromarray(dataset.images[row]).save(path)
        files = ImageFiles(paths, labels)
        for scope in ("none", "child"):
            config = TrainConfig(
                epochs=epochs,
                threads=1,
                device="cpu",
                precision="float32",
                inter_prototype=scope,
            )
            speeds = [
                (
                    plain_loop(files, len(classes), child_rows, config),
                    library_loop(dataset, config, Path(folder) / f"{scope}-{turn}"),
                )
                for turn in range(ROUNDS)
            ]
            plain, library = (sorted(column)[ROUNDS // 2] for column in zip(*speeds, strict=True))
            ratio = sorted(ours / theirs for theirs, ours in speeds)[ROUNDS // 2]
            name = "ArcFace" if scope == "none" else "ArcFace + Inter-Prototype (mean, child)"
            print(f"| {name} | {plain:,.0f} | {library:,.0f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
