"""How much memory a training takes: predicted before it starts; and freed memory kept by the process on a CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses import build_head
from interproto_lib.losses.ranks import shard_rows
from interproto_lib.methods import METHODS, AgeMethod, build_recogniser
from interproto_lib.models import Backbone, count_parameters

_FLOAT32 = 4
_GIB = 2**30

_DENSE_MATRICES = {"curricularface": 6, "broadface": 6}
_CHUNK_MATRICES = {"curricularface": 8, "sphereface": 6, "mv_am": 6, "mv_arc": 6}
"""(b, n) matrices that a margin loss holds at most, with the whole softmax and with a chunk of it; else 4 and 5."""

_DENSE_COPIES, _CHUNK_COPIES = 4, 6
"""Copies of the prototypes, or of a chunk of them, that the softmax holds beside their gradient: their directions, and
what differentiating these takes."""

_LAYER_COPIES = 2
"""The backward pass of one layer holds the largest feature map this often: the gradients of what goes in and out."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that one process of a training holds at most, by what they are for.

    Attributes:
        held: What the process holds before: on a CPU Python and its libraries, as given to `predict_memory`.
        images: Training images kept on the device, uint8.
        weights: Parameters and buffers of the network, of an age method and of the margin loss.
        gradients: Of these parameters.
        momentum: Of these parameters.
        prototypes: The rows of this process with momentum and gradients.
        activations: What differentiation keeps of the part of a batch that goes through the network at once, bfloat16
            copies of weights included.
        layer: What the backward pass of the largest layer holds for itself.
        softmax: What the margin loss holds, with its chunk of the prototypes.
        keeps_gradients: Whether gradients are held while the margin loss is computed: where parts of a batch follow one
            another, and where processes exchange them.
    """

    held: int = 0
    images: int
    weights: int
    gradients: int
    momentum: int
    prototypes: int
    activations: int
    layer: int
    softmax: int
    keeps_gradients: bool

    @property
    def total(self) -> int:
        """Bytes held at most: softmax and gradients of the network do not always meet."""
        always = self.held + self.images + self.weights + self.momentum + self.prototypes + self.activations
        if self.keeps_gradients:
            return always + self.gradients + max(self.softmax, self.layer)
        return always + max(self.softmax, self.gradients + self.layer)

    def to_dict(self) -> dict[str, int]:
        """Give the parts and the total in bytes."""
        parts = {name: value for name, value in dataclasses.asdict(self).items() if name != "keeps_gradients"}
        return {**parts, "total": self.total}

    def describe(self, *, available: int | None = None) -> str:
        """Say it in one line, the largest parts first.

        Args:
            available: Bytes that there are; None where unknown.

        Returns:
            Such as "expected memory: at most 5.2 GiB (activations 3.1, images 1.2, prototypes 0.5, network 0.4)".
        """
        parts = {
            "already held": self.held,
            "images": self.images,
            "network": self.weights + self.gradients + self.momentum,
            "prototypes": self.prototypes,
            "activations": self.activations + self.layer,
            "softmax": self.softmax,
        }
        named = sorted(parts.items(), key=lambda part: -part[1])
        shares = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in named if size >= 0.005 * _GIB)
        line = f"expected memory: at most {self.total / _GIB:.2f} GiB" + (f" ({shares})" if shares else "")
        if available is None or self.total <= available:
            return line
        return f"{line}; that is more than the {available / _GIB:.2f} GiB there are: {self._advice(parts)}"

    def _advice(self, parts: dict[str, int]) -> str:
        largest = max(("activations", "softmax", "prototypes"), key=lambda name: parts[name])
        return {
            "activations": "set precision='bfloat16', more batch_parts or a smaller batch_size",
            "softmax": "set softmax_chunk, 65536 for instance",
            "prototypes": "use more processes, which share the prototypes",
        }[largest]


def predict_memory(
    config: TrainConfig,
    *,
    image_size: int,
    n_identities: int,
    n_images: int = 0,
    world_size: int = 1,
    autocast_dtype: torch.dtype | None = None,
    held: int = 0,
) -> MemoryEstimate:
    """Predict the most memory that one process of a training holds, before it starts.

    Weights, momentum and prototypes are counted. What differentiation keeps is measured: two small batches go through
    the network of the settings on the CPU, under the same autocast, while every tensor kept is noted; the rest follows,
    for it grows with the images in a straight line. Softmax and single layers are counted by the copies that they were
    seen to hold. Not counted: memory that an allocator holds without need, the context of a GPU (0.5 GiB), files that
    are read ahead (three batches), and what a GPU's convolutions borrow.

    The global random state is left as it was.

    Args:
        config: Settings of the training.
        image_size: Height and width of the images in pixels.
        n_identities: Number n of prototypes, over all processes.
        n_images: Training images that are kept on the device; 0 where they are read batch by batch.
        world_size: Number of processes.
        autocast_dtype: Lower precision of the networks; None where they compute in float32.
        held: Bytes that the process holds already.

    Returns:
        The prediction, for the process with the most prototypes.

    Raises:
        ConfigError: The processes cannot share the parts of a batch evenly, or sizes are below 1.
    """
    if image_size < 1 or n_identities < 1 or n_images < 0 or world_size < 1:
        raise ConfigError(
            f"predict_memory needs sizes of at least 1, got image_size={image_size}, n_identities={n_identities}, "
            f"n_images={n_images} and world_size={world_size}."
        )
    if config.batch_parts % world_size:
        raise ConfigError(f"batch_parts={config.batch_parts} cannot be spread over {world_size} processes evenly.")
    part = config.batch_size // config.batch_parts
    network = _measured_network(config, image_size, autocast_dtype)
    rows = len(shard_rows(n_identities, world_size, 0))
    return MemoryEstimate(
        held=held,
        images=n_images * 3 * image_size**2,
        weights=network.parameters + network.buffers + _bytes(build_head(config).buffers()),
        gradients=network.parameters,
        momentum=network.parameters if config.momentum else 0,
        prototypes=_prototype_bytes(config, rows),
        activations=network.kept_once + part * network.kept_an_image,
        layer=_LAYER_COPIES * part * network.largest_an_image,
        softmax=_softmax_bytes(config, rows, batch=part * world_size, is_spread=world_size > 1),
        keeps_gradients=config.batch_parts > 1 or world_size > 1,
    )


def held_by_process(device: torch.device) -> int:
    """Bytes that this process holds now, to begin a prediction with: on a CPU all its main memory, else its tensors.

    Args:
        device: Where it trains.

    Returns:
        Bytes; 0 on a CPU whose system does not say it in /proc.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, where the C library is glibc (Linux): for training on a CPU.

    Feature maps are freed and asked for at every layer. By default glibc gives large ones back to the system, which
    clears each page of them anew on the next request. Afterwards they come from the process's own heap, and the process
    stays as large as it was at its largest. No number that is computed changes. The setting holds until the process
    ends: glibc cannot tell what it was before.

    Returns:
        Whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    trim_threshold, mmap_max, largest = -1, -4, 2**31 - 1  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    return bool(library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, largest))


@dataclass(frozen=True)
class _Network:
    """Bytes of a network: its state, and what differentiation keeps, once and for each image."""

    parameters: int
    buffers: int
    kept_once: int
    kept_an_image: int
    largest_an_image: int


def _measured_network(config: TrainConfig, image_size: int, autocast_dtype: torch.dtype | None) -> _Network:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        backbone = build_recogniser(config, image_size=image_size)
        method = None if config.age_method == "none" else METHODS[config.age_method](config, backbone)
        parts = nn.ModuleList([backbone] if method is None else [backbone, method])
        if config.channels_last:
            parts.to(memory_format=torch.channels_last)
        few = 2 if method is None else max(2, method.min_batch)
        state = {tensor.untyped_storage().data_ptr() for tensor in (*parts.parameters(), *parts.buffers())}
        fewer, more = (
            _kept(backbone, method, torch.zeros(n, 3, image_size, image_size), autocast_dtype, state)
            for n in (few, few + 1)
        )
        parameters, buffers = _FLOAT32 * count_parameters(parts), _bytes(parts.buffers())
    grown = [larger - smaller for smaller, larger in zip(fewer, more, strict=True)]
    return _Network(parameters, buffers, sum(fewer) - few * sum(grown), sum(grown), max(grown))


def _kept(
    backbone: Backbone, method: AgeMethod | None, images: Tensor, dtype: torch.dtype | None, state: set[int]
) -> list[int]:
    """Bytes of every storage that differentiation keeps, `state` excepted, in the order of the layers."""
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in state:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=dtype, enabled=dtype is not None),
    ):
        outputs = backbone(images) if method is None else method(backbone, images)
    del outputs
    return [storage.nbytes() for storage in kept.values()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _looked_at(config: TrainConfig, rows: int, batch: int) -> int:
    """Prototypes that the softmax of a step looks at."""
    return min(rows, round(config.partial_fc_rate * rows) + batch)


def _prototype_bytes(config: TrainConfig, rows: int) -> int:
    size = _FLOAT32 * config.embedding_dim
    once = rows * size
    held = once * (2 if config.momentum else 1)
    looked_at = _looked_at(config, rows, config.batch_size) * size
    if config.partial_fc_rate < 1 and config.inter_prototype == "all":  # a dense gradient, a sparse one, and their sum
        return held + 2 * once + looked_at
    if config.partial_fc_rate < 1:  # a sparse gradient, and rows and momentum taken out, changed and put back
        return held + 4 * looked_at
    of_pushing = once if config.inter_prototype != "none" else 0  # until it is added to that of the margin loss
    return held + once + of_pushing


def _softmax_bytes(config: TrainConfig, rows: int, *, batch: int, is_spread: bool) -> int:
    kind, size = config.margin_loss, _FLOAT32 * config.embedding_dim
    images = batch + (config.broadface_queue if kind == "broadface" else 0)
    if not (is_spread or 0 < config.softmax_chunk < rows or config.partial_fc_rate < 1):
        return _FLOAT32 * images * rows * _DENSE_MATRICES.get(kind, 4) + _DENSE_COPIES * rows * size
    chunk = _looked_at(config, rows, images)
    if config.softmax_chunk:
        chunk = min(chunk, config.softmax_chunk)
    return _FLOAT32 * images * chunk * _CHUNK_MATRICES.get(kind, 5) + _CHUNK_COPIES * chunk * size
