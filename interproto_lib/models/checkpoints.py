"""Backbone weights on disk: safetensors files, which hold arrays and text and can run no code when read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from interproto_lib.errors import CheckpointError
from interproto_lib.files import atomic_write

N_KEYS_SHOWN = 8


def save_backbone(module: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the state dict of a module (parameters and running statistics) to a safetensors file, atomically.

    The values are written exactly, in their own dtype and always contiguous, so a channels-last model and a
    contiguous one write the same bytes.

    Args:
        module: The module, on any device but "meta".
        path: The file to write; missing parent folders are made, an existing file is replaced.
        metadata: Text kept in the file beside the tensors, for example {"backbone": "small"}.

    Returns:
        `path` as a Path.

    Raises:
        CheckpointError: The metadata is not text, or the module has no values ("meta" device).
        WriteError: The file cannot be written.
    """
    entries = dict(metadata or {})
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise CheckpointError(f"Checkpoint metadata must be text, found {key!r}: {value!r}. Convert it with str().")
    tensors: dict[str, Tensor] = {}
    for key, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise CheckpointError(f"{key} has no values (it is on the meta device), so there is nothing to save.")
        # A fresh copy for every key: safetensors refuses two names for one piece of memory.
        tensors[key] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    content = to_safetensors(tensors, metadata=entries)
    target = Path(path)
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
    return target


def load_backbone_weights(module: nn.Module, path: str | Path) -> dict[str, str]:
    """Copy the weights of a safetensors file into a module whose keys, shapes and dtypes fit exactly.

    Everything is compared before the first value is copied: a file that does not fit leaves the module as it was.
    Device and memory format of the module stay. Nothing is unpickled.

    Args:
        module: The module to fill, built with the settings that the file was made with.
        path: A file written by `save_backbone`, or any safetensors file of a bare state dict.

    Returns:
        The metadata kept in the file (empty where there is none).

    Raises:
        CheckpointError: The file is missing, is not a complete safetensors file, or does not fit the module; the
            message names the keys.
    """
    source = Path(path)
    tensors, metadata = _read(source)
    own = module.state_dict()
    _require_fit(own, tensors, source, metadata)
    with torch.no_grad():
        for key, tensor in tensors.items():
            own[key].copy_(tensor)
    return metadata


def _read(source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if source.is_dir():
        raise CheckpointError(f"{source} is a folder, not a checkpoint: give the .safetensors file in it.")
    if not source.is_file():
        raise CheckpointError(f"There is no checkpoint at {source}.")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{source} cannot be read as a safetensors file ({error}). {_advice(source)}") from error


def _advice(source: Path) -> str:
    """What to do about a file that is no safetensors file, judged by its first bytes."""
    try:
        with source.open("rb") as file:
            start = file.read(4)
    except OSError:
        return "Check that you may read it."
    if not start:
        return "It is empty: copy it again or train again."
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return (
            "It looks like a file of torch.save, which can run code when opened and is therefore never opened here: "
            "convert it to safetensors where you trust it."
        )
    return "It is cut short, damaged or of another kind: copy it again or train again."


def _require_fit(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: Path, metadata: Mapping[str, str]
) -> None:
    problems: list[str] = []
    missing = [key for key in own if key not in tensors]
    unexpected = [key for key in tensors if key not in own]
    if missing:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} unknown to the model: {_some(unexpected)}")
    common = [key for key in own if key in tensors]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in common
        if tensors[key].shape != own[key].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_some(shapes)}")
    dtypes = [
        f"{key} is {tensors[key].dtype}, the model has {own[key].dtype}"
        for key in common
        if tensors[key].dtype != own[key].dtype
    ]
    if dtypes:
        problems.append(f"{len(dtypes)} of another dtype: {_some(dtypes)}")
    if problems:
        notes = ", ".join(f"{key}={value}" for key, value in sorted(metadata.items()))
        origin = f" The file says of itself: {notes}." if notes else ""
        raise CheckpointError(
            f"{source} does not fit the model, nothing was loaded. Keys {'; '.join(problems)}.{origin} "
            "Build the backbone with the name, embedding_dim and image_size that the file was made with."
        )


def _some(items: Iterable[str]) -> str:
    shown = list(items)
    rest = len(shown) - N_KEYS_SHOWN
    return ", ".join(shown[:N_KEYS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
