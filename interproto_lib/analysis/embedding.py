"""From images to embeddings: the features that every analysis after training is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from interproto_lib.config import Flip
from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.manifests import read_manifest, write_manifest
from interproto_lib.data.test_sets import ImageSource
from interproto_lib.devices import resolve_device
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.files import write_arrays
from interproto_lib.methods import build_recogniser
from interproto_lib.models import Backbone, load_backbone_weights
from interproto_lib.models.inference import for_inference, inference_batch_size
from interproto_lib.models.inputs import images_to_input
from interproto_lib.runs import RunFolder

EmbeddingPrecision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit feature vectors and the manifest rows they belong to.

    Attributes:
        vectors: (n, d) float32, rows of length 1.
        manifest: The n rows of the manifest, in the same order.
    """

    vectors: np.ndarray
    manifest: pd.DataFrame

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.manifest):
            raise ConfigError(f"{self.vectors.shape} vectors do not fit {len(self.manifest)} manifest rows")


def load_backbone(run: RunFolder, *, epoch: int | None = None) -> Backbone:
    """Rebuild the trained backbone of a run, ready for inference on the CPU.

    Args:
        run: A finished run.
        epoch: Number of an epoch, from 1, of a run trained with `keep_every_epoch`; None takes the end of training.

    Returns:
        The backbone in evaluation mode.

    Raises:
        RunError: The run or the epoch is not there.
        CheckpointError: The weights do not fit the settings.
    """
    config = run.config
    path = run.path / "backbone.safetensors"
    if epoch is not None:
        path = run.path / "epochs" / f"backbone-{epoch:04d}.safetensors"
    if not path.is_file():
        raise RunError(
            f"{path} is missing. Train run {run.name!r} with notebooks/02_train.ipynb first"
            + (" with keep_every_epoch=True." if epoch is not None else ".")
        )
    backbone = build_recogniser(config, image_size=int(run.dataset_info["image_size"]))
    load_backbone_weights(backbone, path)
    return backbone.eval()


def embed_images(
    backbone: torch.nn.Module,
    images: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    batch_size: int | None = None,
    flip: Flip = "none",
    precision: EmbeddingPrecision = "float32",
    device: str | torch.device = "cpu",
    channels_last: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embed images, each once.

    Args:
        backbone: Network from (b, 3, h, w) in [-1, 1] to (b, d); a copy of it, made ready for inference
            (`for_inference`), computes on `device`.
        images: (N, h, w, 3) uint8 RGB, in memory or memory-mapped.
        rows: (n,) positions of the images to embed, in the order wanted; None takes all N.
        batch_size: Images at a time; None takes what the device likes, see `inference_batch_size`.
        flip: `none` as in the official code; `sum`: embeddings of the image and its mirror image are added, as in
            insightface; `concatenate`: one after the other, (n, 2 d).
        precision: `float32`, without autocast, whatever the training used; or `bfloat16` by autocast.
        device: Where to compute.
        channels_last: Memory order of the images.
        progress: Called with images done and all images after each batch.

    Returns:
        (n, d) float32, rows of length 1.

    Raises:
        ConfigError: `flip` or `precision` is unknown, or there is no image to embed.
    """
    n_images = len(images) if rows is None else len(rows)
    step = _images_at_a_time(device, precision) if batch_size is None else batch_size
    parts = (slice(start, start + step) for start in range(0, n_images, step))
    batches = (np.array(images[part if rows is None else rows[part]]) for part in parts)
    return _embed_batches(
        backbone,
        batches,
        n_images,
        flip=flip,
        precision=precision,
        device=device,
        channels_last=channels_last,
        progress=progress,
    )


def embed_paths(
    backbone: torch.nn.Module,
    source: ImageSource,
    paths: Sequence[str],
    *,
    batch_size: int | None = None,
    flip: Flip = "none",
    precision: EmbeddingPrecision = "float32",
    device: str | torch.device = "cpu",
    channels_last: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embed images of a source, each once; while the network computes, the next batch is read.

    Args:
        backbone: See `embed_images`, as for the other arguments.
        source: Where the images are read from.
        paths: The n images to embed.
        batch_size: Images at a time; None takes what the device likes, see `inference_batch_size`.
        flip: What is embedded.
        precision: Numbers that the network computes with.
        device: Where to compute.
        channels_last: Memory order of the images.
        progress: Called with images done and all images after each batch.

    Returns:
        (n, d) float32, rows of length 1, in the order of the paths.

    Raises:
        ConfigError: `flip` or `precision` is unknown, or there is no image to embed.
        DatasetError: An image cannot be read.
    """
    step = _images_at_a_time(device, precision) if batch_size is None else batch_size
    parts = [paths[start : start + step] for start in range(0, len(paths), step)]
    return _embed_batches(
        backbone,
        _read_ahead(source, parts),
        len(paths),
        flip=flip,
        precision=precision,
        device=device,
        channels_last=channels_last,
        progress=progress,
    )


def _images_at_a_time(device: str | torch.device, precision: EmbeddingPrecision) -> int:
    return inference_batch_size(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)


def _read_ahead(source: ImageSource, parts: Sequence[Sequence[str]]) -> Iterator[np.ndarray]:
    """Read batches of images, always one ahead of the one that is worked on."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(source.read, parts[0]) if parts else None
        for following in (*parts[1:], None):
            if upcoming is None:
                return
            current = upcoming.result()
            upcoming = None if following is None else reader.submit(source.read, following)
            yield current


def _embed_batches(
    backbone: torch.nn.Module,
    batches: Iterator[np.ndarray],
    n_images: int,
    *,
    flip: Flip,
    precision: EmbeddingPrecision,
    device: str | torch.device,
    channels_last: bool,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    if flip not in ("none", "sum", "concatenate"):
        raise ConfigError(f"flip={flip!r}: must be 'none', 'sum' or 'concatenate'")
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision={precision!r}: must be 'float32' or 'bfloat16'")
    if not n_images:
        raise ConfigError("There are no images to embed")
    backbone = for_inference(backbone).to(device)
    if channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")
    parts: list[torch.Tensor] = []
    done = 0
    with torch.inference_mode(), autocast:
        for batch in batches:
            values = images_to_input(torch.from_numpy(batch).to(device), channels_last=channels_last)
            embeddings = backbone(values).float()
            if flip != "none":
                mirrored = backbone(values.flip(3)).float()
                embeddings = embeddings + mirrored if flip == "sum" else torch.cat([embeddings, mirrored], dim=1)
            parts.append(torch.nn.functional.normalize(embeddings).cpu())
            done += len(batch)
            if progress is not None:
                progress(done, n_images)
    return torch.cat(parts).numpy()


def embed_dataset(
    run: RunFolder,
    dataset: FaceDataset,
    *,
    flip: Flip = "none",
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """Embed every image of a dataset, train and held-out, with the backbone of a run.

    Args:
        run: A finished run.
        dataset: The images.
        flip: See `embed_images`.
        device: Where to compute: `auto` (a GPU where there is one), `cpu`, `cuda`; None takes the run's own setting.
        progress: Called with images done and all images after each batch, as
            `interproto_lib.progress.count_progress` gives it.

    Returns:
        The embeddings, row i for manifest row i.

    Raises:
        ConfigError: The machine has no such device.
        RunError: The run is not finished.
        CheckpointError: The weights do not fit the settings.
    """
    backbone = load_backbone(run)
    vectors = embed_images(
        backbone,
        dataset.images,
        flip=flip,
        device=resolve_device(run.config.device if device is None else device),
        channels_last=run.config.channels_last,
        progress=progress,
    )
    return Embeddings(vectors, dataset.manifest)


def save_embeddings(embeddings: Embeddings, run: RunFolder) -> Path:
    """Write embeddings into the folder `embeddings` of a run.

    Args:
        embeddings: The embeddings.
        run: The run.

    Returns:
        The folder written.

    Raises:
        WriteError: The folder cannot be written.
    """
    folder = run.path / "embeddings"
    write_manifest(embeddings.manifest, folder / "manifest.parquet")
    write_arrays(folder / "vectors.safetensors", {"vectors": embeddings.vectors.astype(np.float32, copy=False)})
    return folder


def load_embeddings(run: RunFolder) -> Embeddings:
    """Read the embeddings that `save_embeddings` wrote.

    Args:
        run: The run.

    Returns:
        The embeddings.

    Raises:
        RunError: There are none; the message says what to run first.
    """
    from safetensors.numpy import load_file

    path = run.path / "embeddings" / "vectors.safetensors"
    if not path.is_file():
        raise RunError(f"{path} is missing. Run notebooks/02_train.ipynb for run {run.name!r} first.")
    return Embeddings(load_file(path)["vectors"], read_manifest(path.parent / "manifest.parquet"))
