"""CurricularFace: an angular margin, and hard negatives that count more as training goes on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interproto_lib.losses.arcface import turned_cosines, turned_or_lowered
from interproto_lib.losses.cosines import (
    at_least_float32,
    autocast_off,
    check_batch,
    check_margin,
    check_scale,
)


def curricularface_logits(
    cosines: Tensor, labels: Tensor, *, progress: Tensor | float, scale: float = 64.0, margin_rad: float = 0.5
) -> Tensor:
    """Logits of CurricularFace: an angular margin on the own class, other classes beyond it modulated.

    Formula: T = cos(theta_y + m). z_y = s T where c_y > cos(pi - m), else s (c_y - m sin(pi - m)). A negative is hard
    where c_j > T (T itself, also beyond pi); then z_j = s c_j (t + c_j), else z_j = s c_j.
    Source: Huang et al., "CurricularFace: adaptive curriculum learning loss for deep face recognition", CVPR 2020.
    Deviation: 1 - c^2 is clamped from below as in `arcface_logits`.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n).
        progress: t, a scalar: the running mean of the own cosines (see `updated_progress`).
        scale: s > 0.
        margin_rad: m in [0, pi], radians.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, or a scale or margin out of range.

    Example:
        >>> cosines = torch.tensor([[0.0, 0.5, -0.75]])
        >>> curricularface_logits(cosines, torch.tensor([0]), progress=0.25, scale=1.0, margin_rad=torch.pi / 6)
        tensor([[-0.5000,  0.3750, -0.7500]])
    """
    labels = check_batch(cosines, labels)
    check_scale(scale)
    check_margin(margin_rad, name="margin of curricularface, in radians,", upper=math.pi)
    with autocast_off(cosines):
        cosines = at_least_float32(cosines)
        own = cosines.gather(1, labels[:, None])
        turned = turned_cosines(own, margin_rad)
        target = turned_or_lowered(own, turned, margin_rad)
        modulated = torch.where(cosines > turned, cosines * (progress + cosines), cosines)
        return modulated.scatter(1, labels[:, None], target) * scale


def updated_progress(progress: Tensor, own_mean: Tensor, *, momentum: float = 0.99) -> Tensor:
    """Give t after a batch: momentum * t + (1 - momentum) * mean(c_y), with c_y before the margin.

    Args:
        progress: t before, a scalar.
        own_mean: Mean cosine of the batch with the own prototypes (over all ranks, where there are several).
        momentum: Weight of the old value; 0.99 in the original.

    Returns:
        t, detached.
    """
    return (momentum * progress + (1 - momentum) * own_mean).detach()
