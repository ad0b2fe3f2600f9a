"""Backbones: networks that map aligned face images to embeddings."""

from __future__ import annotations

from collections.abc import Callable

from interproto_lib.errors import ConfigError
from interproto_lib.models.backbone import Backbone
from interproto_lib.models.checkpoints import load_backbone_weights, save_backbone
from interproto_lib.models.complexity import count_multiply_adds, count_parameters
from interproto_lib.models.inputs import images_to_input
from interproto_lib.models.ir import IRBackbone, ir50, ir100, ir152, ir_se50, ir_se100, ir_se152
from interproto_lib.models.mobilefacenet import MobileFaceNet, mobilefacenet
from interproto_lib.models.small import SmallBackbone, small, tiny

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "ir50": ir50,
    "ir100": ir100,
    "ir152": ir152,
    "ir_se50": ir_se50,
    "ir_se100": ir_se100,
    "ir_se152": ir_se152,
    "mobilefacenet": mobilefacenet,
    "small": small,
    "tiny": tiny,
}
"""Constructor of each backbone by name; each takes `embedding_dim`, `image_size` and `dropout` by keyword."""


def build_backbone(
    name: str, *, embedding_dim: int = 512, image_size: int = 112, dropout: float | None = 0.6
) -> Backbone:
    """Build a backbone by name, with PyTorch's default initialisation (seed it with `torch.manual_seed`).

    Args:
        name: A key of `BACKBONES`.
        embedding_dim: Length d of an embedding, at least 1.
        image_size: Side of the images in pixels: a multiple of 16 (IR, IR-SE, MobileFaceNet) or at least 16 (`small`,
            `tiny`).
        dropout: Share in [0, 1) of features zeroed before the last linear layer while training; 0.6 is the official
            code's. None takes the network's own default: 0.6 for IR and IR-SE, 0 for the others.

    Returns:
        A module in training mode, taking (b, 3, image_size, image_size) float RGB in [-1, 1] and giving (b, d)
        embeddings that are not L2-normalised; it remembers `embedding_dim`, `image_size` and `dropout`.

    Raises:
        ConfigError: The name is unknown, or a size is out of range.

    Example:
        >>> import torch
        >>> backbone = build_backbone("tiny", embedding_dim=64, image_size=56, dropout=0.0).eval()
        >>> backbone(torch.zeros(2, 3, 56, 56)).shape
        torch.Size([2, 64])
    """
    if name not in BACKBONES:
        raise ConfigError(f"There is no backbone named {name!r}; known are {', '.join(sorted(BACKBONES))}.")
    settings = {} if dropout is None else {"dropout": dropout}
    return BACKBONES[name](embedding_dim=embedding_dim, image_size=image_size, **settings)


__all__ = [
    "BACKBONES",
    "Backbone",
    "IRBackbone",
    "MobileFaceNet",
    "SmallBackbone",
    "build_backbone",
    "count_multiply_adds",
    "count_parameters",
    "images_to_input",
    "ir50",
    "ir100",
    "ir152",
    "ir_se50",
    "ir_se100",
    "ir_se152",
    "load_backbone_weights",
    "mobilefacenet",
    "save_backbone",
    "small",
    "tiny",
]
