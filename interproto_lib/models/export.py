"""Backbones as files for others, ONNX and safetensors, and back from safetensors with nothing but the file."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from interproto_lib import __version__
from interproto_lib.errors import CheckpointError, ConfigError
from interproto_lib.files import atomic_write
from interproto_lib.models.backbone import Backbone
from interproto_lib.models.building import BACKBONES, build_backbone
from interproto_lib.models.checkpoints import load_backbone_weights, save_backbone
from interproto_lib.models.inference import for_inference

ONNX_INPUT = "images"
ONNX_OUTPUT = "embeddings"
CHANNELS = "RGB"
PIXEL_VALUES = "(x / 255 - 0.5) / 0.5"
"""How pixel values 0 to 255 become what a backbone takes."""

TOLERANCE = 1e-4
"""How far an exported network may be from the original, in units of an embedding's length."""

LOWEST_OPSET = 18
"""The lowest version of ONNX operators that the exporter writes."""

_CHECKED_BATCHES = (1, 7)
_NETWORK = "network"
_EXPORTERS = r"(torch|onnxscript|onnx_ir|onnx|copyreg)\b"


def backbone_name(backbone: Backbone) -> str:
    """Say which of `BACKBONES` a network is, by the names and shapes of its weights.

    Args:
        backbone: The network, as `build_backbone` made it.

    Returns:
        The name.

    Raises:
        ConfigError: It is none of them, for example because its layers were changed or folded (`for_inference`).

    Example:
        >>> backbone_name(build_backbone("tiny", embedding_dim=8, image_size=32))
        'tiny'
    """
    own = _shapes(backbone)
    for name in BACKBONES:
        try:
            if _shapes(_on_meta(name, backbone.embedding_dim, backbone.image_size)) == own:
                return name
        except ConfigError:  # this one does not take images of that size
            continue
    raise ConfigError(
        f"{type(backbone).__name__} has the weights of none of the backbones {', '.join(sorted(BACKBONES))}. "
        "Give a network that build_backbone made, before for_inference."
    )


def export_safetensors(backbone: Backbone, path: str | Path) -> Path:
    """Write a backbone as safetensors, with what it takes to build it again in the file's metadata.

    The metadata has one entry, `network`, a JSON object: backbone, embedding_dim, image_size, channels (RGB), pixels
    (how values 0 to 255 become input) and library (the version that wrote it). `open_backbone` reads it.

    Args:
        backbone: The network, on any device, in either mode.
        path: The file to write, atomically; missing folders are made.

    Returns:
        `path` as a Path.

    Raises:
        ConfigError: The network is none of `BACKBONES`.
        WriteError: The file cannot be written.
    """
    # One entry, because safetensors keeps several in no fixed order and equal networks are to be equal bytes.
    return save_backbone(backbone, path, metadata={_NETWORK: json.dumps(_network_record(backbone))})


def open_backbone(path: str | Path, *, image_size: int | None = None) -> tuple[str, Backbone]:
    """Build the network that a safetensors file of this library holds: an exported one, or one that a training left.

    Args:
        path: A file of `export_safetensors`, or `backbone.safetensors` of a run folder.
        image_size: Side of the images in pixels; needed where the file does not say it, as those of a training do not.

    Returns:
        Name of the backbone and the network with its weights, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: The file is missing or damaged, says nothing of its network, takes images of another size, or
            does not fit the network that it names.
    """
    source = Path(path)
    network = _read_network_record(source)
    named = network.get("image_size")
    size = image_size if named is None else named
    if size is None:
        raise CheckpointError(f"{source} does not say what size of images it takes: give image_size.")
    if image_size is not None and size != image_size:
        raise CheckpointError(f"{source} takes images of {size} pixels, not of {image_size}.")
    if network.get("channels") != CHANNELS:
        raise CheckpointError(f"{source} takes channels {network.get('channels')!r}; expected {CHANNELS!r}.")
    name = str(network.get("backbone"))
    try:
        # Sizes come from the file: nothing is allocated before they are held against its length.
        needed = sum(
            tensor.nbytes for tensor in _on_meta(name, network.get("embedding_dim"), size).state_dict().values()
        )
    except (ConfigError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{source} names a network that cannot be built: {error}") from error
    if needed > source.stat().st_size:
        raise CheckpointError(
            f"{source} has {source.stat().st_size:,} bytes, but the weights of the network that it names ({name}, "
            f"embedding_dim={network['embedding_dim']}, image_size={size}) take {needed:,}."
        )
    backbone = build_backbone(name, embedding_dim=network["embedding_dim"], image_size=size, dropout=None)
    load_backbone_weights(backbone, source)
    return name, backbone.eval()


def is_own_file(path: str | Path) -> bool:
    """Say whether a file is a backbone of this library: a safetensors file whose metadata name its network.

    Args:
        path: Any file.

    Returns:
        False too where the file is missing or no safetensors file.
    """
    try:
        _read_network_record(Path(path))
    except CheckpointError:
        return False
    return True


def export_onnx(
    backbone: Backbone, path: str | Path, *, normalise: bool = True, opset: int | None = None, check: bool = True
) -> Path:
    """Write a backbone as one ONNX file that any ONNX runtime can embed images with.

    Input `images`: float32 (batch, 3, size, size), RGB in [-1, 1], any batch from 1 on. Output `embeddings`: float32
    (batch, d). Batch normalisation is folded into the layer before it (`for_inference`). The file's metadata hold
    backbone, embedding_dim, image_size, channels, pixels, normalised and library. It holds no paths of this machine.

    Args:
        backbone: The network, on any device, in either mode; it is left as it is.
        path: The file to write, atomically; missing folders are made.
        normalise: Whether embeddings are scaled to length 1, as everything in this library compares them.
        opset: Version of the ONNX operators, at least 18; None takes PyTorch's choice.
        check: Run the model in ONNX Runtime on batches of 1 and 7 drawn images, and refuse to write one whose
            embeddings differ by more than `TOLERANCE` times their length.

    Returns:
        `path` as a Path.

    Raises:
        ConfigError: The network is none of `BACKBONES`, `opset` is too low, or the packages for ONNX are missing.
        CheckpointError: The network cannot be exported, or the exported one computes something else; nothing is
            written.
        WriteError: The file cannot be written.
    """
    if opset is not None and (type(opset) is not int or opset < LOWEST_OPSET):
        raise ConfigError(f"opset={opset!r}: must be a whole number of at least {LOWEST_OPSET}, or None.")
    _require_onnx()
    record = {**_network_record(backbone), "normalised": normalise}
    plain = copy.deepcopy(backbone).cpu().float().to(memory_format=torch.contiguous_format)
    original = _Embedder(plain, normalise=normalise).eval()
    exported = _Embedder(for_inference(original.backbone), normalise=normalise).eval()
    content = _to_onnx(exported, backbone.image_size, record, opset)
    if check:
        _check_equal(content, original, backbone.image_size)
    target = Path(path)
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
    return target


class _Embedder(nn.Module):
    """A backbone, and the division by the length where asked."""

    def __init__(self, backbone: nn.Module, *, normalise: bool) -> None:
        super().__init__()
        self.backbone, self.normalise = backbone, normalise

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.backbone(images)
        return nn.functional.normalize(embeddings) if self.normalise else embeddings


def _to_onnx(network: nn.Module, image_size: int, record: dict[str, Any], opset: int | None) -> bytes:
    import onnx

    # Two images, because PyTorch takes a batch of one for a constant.
    example = torch.zeros(2, 3, image_size, image_size)
    try:
        with warnings.catch_warnings():
            # What PyTorch and its exporter tell each other of their own code; all other warnings pass.
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|onnxscript|onnx_ir|onnx|copyreg)\b"
                )
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[ONNX_INPUT],
                output_names=[ONNX_OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                verbose=False,
            )
        if program is None:
            raise CheckpointError(f"PyTorch {torch.__version__} gave no ONNX model.")
        model = program.model_proto
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"The network cannot be exported to ONNX: {error}") from error
    _strip(model)
    model.doc_string = f"{ONNX_INPUT}: {CHANNELS}, {PIXEL_VALUES}, aligned faces. {ONNX_OUTPUT}: one row an image."
    onnx.helper.set_model_props(model, {name: _text(value) for name, value in record.items()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Remove what the exporter notes of the source code: stack traces with the paths of this machine."""
    graph = model.graph
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    for part in (*nodes, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""


def _check_equal(content: bytes, original: nn.Module, image_size: int) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    for n_images in _CHECKED_BATCHES:
        images = draw.uniform(-1, 1, (n_images, 3, image_size, image_size)).astype(np.float32)
        (found,) = session.run([ONNX_OUTPUT], {ONNX_INPUT: images})
        with torch.inference_mode():
            expected = original(torch.from_numpy(images)).numpy()
        if found.shape != expected.shape:
            raise CheckpointError(
                f"The exported network gives {found.shape} for {n_images} images, PyTorch {expected.shape}. "
                "Nothing was written."
            )
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        difference = float(np.max(np.abs(found - expected) / np.maximum(lengths, np.finfo(np.float32).tiny)))
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"The exported network differs from the original by {difference:.2g} of an embedding's length "
                f"({n_images} images; allowed {TOLERANCE:g}). Nothing was written. Look for weights that are not "
                "finite, or try another opset."
            )


def _require_onnx() -> None:
    missing = []
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise ConfigError(
            f'The export to ONNX needs {", ".join(missing)}: install with pip install "interproto-lib[onnx]".'
        )


def _network_record(backbone: Backbone) -> dict[str, Any]:
    return {
        "backbone": backbone_name(backbone),
        "embedding_dim": backbone.embedding_dim,
        "image_size": backbone.image_size,
        "channels": CHANNELS,
        "pixels": PIXEL_VALUES,
        "library": __version__,
    }


def _read_network_record(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise CheckpointError(f"There is no checkpoint at {source}.")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_NETWORK)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{source} cannot be read as a safetensors file: {error}") from error
    if text is None:
        raise CheckpointError(f"{source} does not say which network it is: its metadata have no entry {_NETWORK!r}.")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"The entry {_NETWORK!r} of {source} is not readable JSON: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"The entry {_NETWORK!r} of {source} is {text!r:.200}; expected a JSON object.")
    return record


def _on_meta(name: str, embedding_dim: Any, image_size: Any) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, embedding_dim=embedding_dim, image_size=image_size, dropout=None)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
