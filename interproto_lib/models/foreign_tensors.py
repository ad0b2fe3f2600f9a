"""Tensors out of what a foreign checkpoint holds: finding its state dict, and copying values as float32."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from interproto_lib.errors import CheckpointError
from interproto_lib.models.foreign_keys import readable, some

PLAIN = (Tensor, nn.Parameter)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def find_state_dict(content: Any, wrappers: tuple[str, ...]) -> tuple[dict[str, Tensor], str, list[str]]:
    """Find the state dict in what a checkpoint holds.

    Args:
        content: What was read.
        wrappers: Names under which a state dict may stand, the first that is there is taken.

    Returns:
        Name -> tensor; the wrapper's name, empty if there is none; and all names beside it, which are left out.

    Raises:
        CheckpointError: There is none; the message is the reason.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"holds {_called(content)}, expected a state dict (names and tensors).")
    for wrapper in wrappers:
        inner = dict.get(content, wrapper)
        if isinstance(inner, dict):
            tensors, others = _tensors(inner)
            if tensors:
                beside = [key for key in dict.keys(content) if isinstance(key, str) and key != wrapper]
                return tensors, wrapper, beside + others
    tensors, others = _tensors(content)
    if not tensors:
        raise CheckpointError(
            f"holds no tensors by name. It holds: {some(others) or 'nothing'}. Looked for were a state dict itself and "
            f"one under {', '.join(wrappers)}."
        )
    return tensors, "", others


def _tensors(mapping: dict[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Split a mapping into its tensors and the names of the rest.

    A file may set attributes of ordered dicts and of tensors, also such that hide their methods: therefore the methods
    of the plain types are called, and plain tensors are taken without their attributes.
    """
    tensors, others = {}, []
    for key, value in dict.items(mapping):
        if isinstance(key, str) and isinstance(value, Tensor):
            tensors[key] = Tensor.detach(value) if type(value) in PLAIN else value
        else:
            others.append(key if isinstance(key, str) else _called(key))
    return tensors, others


def _called(value: object) -> str:
    """Name a value without looking into it: what a file holds may be nested without end."""
    if isinstance(value, Tensor):
        return "one tensor"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


def require_plain(key: str, tensor: Tensor) -> None:
    """Refuse tensors that are no plain arrays of values in the file (sparse, quantised, expanded, on "meta").

    Args:
        key: Its name, for the message.
        tensor: The tensor; nothing is computed with it.

    Raises:
        CheckpointError: It is not plain; the message is the reason.
    """
    plain = (
        type(tensor) in PLAIN
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and tensor.device.type == "cpu"
    )
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"holds {readable(key)} as no plain array of values, expected a dense tensor.")


def as_float32(key: str, tensor: Tensor) -> Tensor:
    """Copy a plain tensor as float32, of its own memory.

    Args:
        key: Its name, for the message.
        tensor: The tensor, of 16, 32 or 64 bit floating point.

    Returns:
        The copy, contiguous.

    Raises:
        CheckpointError: It has another type, or a value is not finite (in float32); the message is the reason.
    """
    if tensor.dtype not in FLOATING:
        raise CheckpointError(
            f"holds {readable(key)} as {tensor.dtype}, expected floating point. Weights made smaller for deployment "
            "are not read: take those of the training."
        )
    copy = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if copy.numel() and not all(map(math.isfinite, map(float, torch.aminmax(copy)))):  # takes no memory, passes NaN on
        n_bad = int((~torch.isfinite(copy)).sum())
        raise CheckpointError(
            f"holds values that are not finite: {n_bad} of {copy.numel()} in {readable(key)}. The training diverged or "
            "the file is damaged: take an earlier checkpoint or copy it again."
        )
    return copy
