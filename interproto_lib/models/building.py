"""Every backbone by name."""

from __future__ import annotations

from collections.abc import Callable

from interproto_lib.errors import ConfigError
from interproto_lib.models.backbone import Backbone
from interproto_lib.models.ir import ir50, ir100, ir152, ir_se50, ir_se100, ir_se152
from interproto_lib.models.iresnet import iresnet18, iresnet34, iresnet50, iresnet100
from interproto_lib.models.mobilefacenet import mobilefacenet
from interproto_lib.models.normalised_ir import (
    adaface_ir18,
    adaface_ir34,
    adaface_ir50,
    adaface_ir101,
    adaface_ir_se50,
    mtlface_ir50,
)
from interproto_lib.models.small import small, tiny

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "adaface_ir18": adaface_ir18,
    "adaface_ir34": adaface_ir34,
    "adaface_ir50": adaface_ir50,
    "adaface_ir101": adaface_ir101,
    "adaface_ir_se50": adaface_ir_se50,
    "ir50": ir50,
    "ir100": ir100,
    "ir152": ir152,
    "ir_se50": ir_se50,
    "ir_se100": ir_se100,
    "ir_se152": ir_se152,
    "iresnet18": iresnet18,
    "iresnet34": iresnet34,
    "iresnet50": iresnet50,
    "iresnet100": iresnet100,
    "mobilefacenet": mobilefacenet,
    "mtlface_ir50": mtlface_ir50,
    "small": small,
    "tiny": tiny,
}
"""Constructor of each backbone by name; each takes `embedding_dim`, `image_size` and `dropout` by keyword."""


def build_backbone(
    name: str, *, embedding_dim: int = 512, image_size: int = 112, dropout: float | None = 0.6
) -> Backbone:
    """Build a backbone by name, with the initialisation of its source (seed it with `torch.manual_seed`).

    Args:
        name: A key of `BACKBONES`.
        embedding_dim: Length d of an embedding, at least 1.
        image_size: Side of the images in pixels: at least 16 (`small`, `tiny`) or a multiple of 16 (all others).
        dropout: Share in [0, 1) of features zeroed before the last linear layer while training; 0.6 is the official
            code's. None takes the network's own default: 0.6 for IR and IR-SE, 0.4 for AdaFace's, 0.5 for MTLFace's, 0
            for the others.

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
