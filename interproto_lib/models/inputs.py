"""From stored images to what a backbone takes."""

from __future__ import annotations

import torch
from torch import Tensor


def images_to_input(images: Tensor, *, channels_last: bool = True) -> Tensor:
    """Turn stored images into network input.

    Formula: (x / 255 - 0.5) / 0.5, as the official code normalises. Stored images have the channels last, so that
    the channels-last order costs no copy.

    Args:
        images: (b, h, w, 3) uint8 RGB, on any device.
        channels_last: Memory order of the result: channels-last, or contiguous.

    Returns:
        (b, 3, h, w) float32 in [-1, 1], on the same device.

    Raises:
        ValueError: The images have another shape or type.

    Example:
        >>> images_to_input(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)).amax()
        tensor(1.)
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 of shape (b, h, w, 3), got {images.dtype} of {tuple(images.shape)}")
    values = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    return values if channels_last else values.contiguous()
