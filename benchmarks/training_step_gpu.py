"""The part of `bench_training_step` that needs a GPU: images a second, and the share of what the card can multiply."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench_packing import draw_folder
from benchmarks.training_step_side import IMAGE_SIZE, N_IDENTITIES, recognizer_of, settings, with_plain_prelu
from interproto_lib.models import count_multiply_adds
from interproto_lib.training.batches import Batch, EpochBatches
from interproto_lib.training.memory import predict_memory
from interproto_lib.training.parts import PartedBatch
from interproto_lib.training.recognizer import build_optimizers

N_IMAGES = 20_480
WARM_UP_STEPS = 10
MATRIX = 8192


class LabelledJpegs(Dataset[tuple[torch.Tensor, int]]):
    """Faces as files, decoded one by one, as in the usual training script."""

    def __init__(self, files: list[Path], labels: np.ndarray) -> None:
        self.files = files
        self.labels = labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[row]) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        values = torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(2, 0, 1).contiguous()
        return (values.flip(2) if torch.rand(()) < 0.5 else values), int(self.labels[row])


def matrix_product_ceiling(device: torch.device) -> float:
    """Operations a second of a large bfloat16 matrix product, the best of ten turns of ten."""
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(10):
            left @ right
        torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - started) / 10)
    return 2 * MATRIX**3 / best


def library_speed(device: torch.device, *, backbone: str, batch: int, n_steps: int, compiled: bool) -> dict[str, float]:
    """Steps of the library on images that live on the card: images a second, data wait, warm-up, peak and predicted."""
    torch.cuda.empty_cache()
    config = settings("bfloat16", batch, backbone)
    pixels = np.random.default_rng(0).integers(0, 256, (N_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    labels = np.arange(N_IMAGES) % N_IDENTITIES
    torch.cuda.reset_peak_memory_stats(device)
    batches = EpochBatches(
        pixels, np.arange(N_IMAGES), labels, batch_size=batch, flip=config.flip, seed=config.seed, device=device
    )
    recognizer = recognizer_of(config).to(device)
    if compiled:
        recognizer.backbone.compile()
    optimizers = build_optimizers(recognizer)
    parted = PartedBatch(recognizer, config, autocast_dtype=torch.bfloat16)
    losses = torch.zeros(4, device=device)
    waited, begun, started = 0.0, time.perf_counter(), 0.0
    with closing(_without_end(batches)) as endless:
        for step in range(WARM_UP_STEPS + n_steps):
            if step == WARM_UP_STEPS:
                torch.cuda.synchronize(device)
                waited, started = 0.0, time.perf_counter()
            asked = time.perf_counter()
            images = next(endless)
            waited += time.perf_counter() - asked
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            losses += parted.backward(images, step=step)
            for optimizer in optimizers.values():
                optimizer.step()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    if not bool(torch.isfinite(losses).all()):
        raise RuntimeError("The losses of the benchmark are not finite: its speed says nothing.")
    predicted = predict_memory(
        config,
        image_size=IMAGE_SIZE,
        n_identities=N_IDENTITIES,
        n_images=N_IMAGES,
        autocast_dtype=torch.bfloat16,
    )
    return {
        "images_per_second": n_steps * batch / seconds,
        "data_wait": waited / seconds,
        "warm_up_seconds": started - begun,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "predicted_gib": predicted.total / 2**30,
    }


def _without_end(batches: EpochBatches) -> Generator[Batch, None, None]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def plain_speed(device: torch.device, files: list[Path], *, backbone: str, batch: int, workers: int) -> float:
    """Images a second of a plain loop: float32, channels first, files decoded by workers, `loss.item()` each step."""
    torch.cuda.empty_cache()
    config = settings("plain", batch, backbone)
    recognizer = recognizer_of(config).to(device)
    with_plain_prelu(recognizer)
    network, prototypes, children = recognizer.backbone, recognizer.prototypes, recognizer.pushed_apart
    optimizer = torch.optim.SGD(recognizer.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    dataset = LabelledJpegs(files, np.arange(len(files)) % N_IDENTITIES)
    loader = DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=True)
    n_steps, started = 0, 0.0
    for images, labels in loader:
        if n_steps == 2:  # workers and card are warm
            torch.cuda.synchronize(device)
            started = time.perf_counter()
        images, labels = images.to(device), labels.to(device)
        features = torch.nn.functional.normalize(network(images))
        unit = torch.nn.functional.normalize(prototypes)
        theta = (features @ unit.T).clamp(-1 + 1e-7, 1 - 1e-7).arccos()
        own = torch.nn.functional.one_hot(labels, N_IDENTITIES)
        loss = torch.nn.functional.cross_entropy(config.scale * (theta + config.margin * own).cos(), labels)
        pushed = unit[children] @ unit[children].T
        loss = loss + torch.nn.functional.mse_loss(pushed, torch.eye(len(children), device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        n_steps += 1
    torch.cuda.synchronize(device)
    return (n_steps - 2) * batch / (time.perf_counter() - started)


def report(*, batch: int, n_steps: int, workers: int) -> None:
    """Print the tables of the first GPU; "no GPU" where there is none."""
    print("\nOn a GPU:")
    if not torch.cuda.is_available():
        print("no GPU")
        return
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    ceiling = matrix_product_ceiling(device)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"bfloat16 product of {MATRIX} x {MATRIX} matrices: {ceiling / 1e12:.0f} TFLOP/s, the ceiling below")
    print(
        f"\n{'backbone':10} {'batch':>5} {'side':28} {'images/s':>9} {'of ceiling':>10} {'data wait':>9} "
        f"{'warm-up':>8} {'peak GiB':>9} {'predicted':>9}"
    )
    fastest = 0.0
    for backbone in ("ir_se50", "ir50"):
        network = recognizer_of(settings("plain", 2, backbone)).backbone
        operations = 3 * 2 * count_multiply_adds(network, IMAGE_SIZE)  # forward, and twice as many backward
        for compiled in (False, True):
            found = library_speed(device, backbone=backbone, batch=batch, n_steps=n_steps, compiled=compiled)
            speed = found["images_per_second"]
            if backbone == "ir_se50":
                fastest = max(fastest, speed if not compiled else 0.0)
            side = "library" + (", network compiled" if compiled else "")
            print(
                f"{backbone:10} {batch:5d} {side:28} {speed:9,.0f} {speed * operations / ceiling:10.1%} "
                f"{found['data_wait']:9.2%} {found['warm_up_seconds']:7.1f}s {found['peak_gib']:9.2f} "
                f"{found['predicted_gib']:9.2f}",
                flush=True,
            )
    with tempfile.TemporaryDirectory() as place:
        files = draw_folder(Path(place, "jpegs"), N_IMAGES)
        for n_workers in sorted({1, workers}):
            speed = plain_speed(device, files, backbone="ir_se50", batch=min(batch, 128), workers=n_workers)
            side = f"plain float32 loop, {n_workers} workers"
            print(
                f"{'ir_se50':10} {min(batch, 128):5d} {side:28} {speed:9,.0f}   library / this: {fastest / speed:.1f}x"
            )
