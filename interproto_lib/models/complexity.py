"""How large and how costly a network is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def count_parameters(module: nn.Module) -> int:
    """Number of learned values of a module (weights and biases; running statistics are not parameters).

    Args:
        module: Any module, on any device, also "meta".

    Returns:
        The count.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(module: nn.Module, image_size: int) -> int:
    """Multiply-adds of all convolutions and linear layers for one image, without computing any of them.

    A convolution costs (output values) * (input channels / groups) * (kernel area), a linear layer (output values) *
    (input features); biases, normalisations and activations are not counted. The papers' "FLOPs" are this number.
    The module is run on shapes only ("meta" tensors) and not changed: milliseconds whatever its size, after the
    seconds that torch takes to prepare for such tensors once in a process.

    Args:
        module: A module that takes a (1, 3, image_size, image_size) batch.
        image_size: Side of the image, in pixels.

    Returns:
        The count.

    Example:
        >>> count_multiply_adds(nn.Conv2d(3, 8, 3, padding=1), 10)
        21600
    """
    total = 0

    def add_convolution(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        height, width = layer.kernel_size
        total += output.numel() * (layer.in_channels // layer.groups) * height * width

    def add_linear(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear)
        total += output.numel() * layer.in_features

    hooks = []
    modes = {part: part.training for part in module.modules()}
    try:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                hooks.append(part.register_forward_hook(add_convolution))
            elif isinstance(part, nn.Linear):
                hooks.append(part.register_forward_hook(add_linear))
        module.eval()
        shapes = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        with torch.no_grad():
            functional_call(module, shapes, (torch.empty(1, 3, image_size, image_size, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return total
