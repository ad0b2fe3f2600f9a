"""CurricularFace: an angular margin, and hard negatives that count more as training goes on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interproto_lib.losses.arcface import turned_cosines, turned_or_lowered
from interproto_lib.losses.cosines import check_margin, check_scale
from interproto_lib.losses.margin_rule import MarginRule, rule_logits


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
        progress: t, the running mean of the own cosines (see `updated_progress`): a scalar, or (b, 1).
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
    return rule_logits(cosines, labels, curricularface_rule(progress=progress, scale=scale, margin_rad=margin_rad))


def curricularface_rule(*, progress: Tensor | float, scale: float = 64.0, margin_rad: float = 0.5) -> MarginRule:
    """Give `curricularface_logits` for the own class and the others apart; arguments and errors are the same."""
    check_scale(scale)
    check_margin(margin_rad, name="margin of curricularface, in radians,", upper=math.pi)

    def target(own: Tensor) -> Tensor:
        return turned_or_lowered(own, turned_cosines(own, margin_rad), margin_rad)

    def others(cosines: Tensor, own: Tensor) -> Tensor:
        hard = cosines > turned_cosines(own, margin_rad)
        return torch.where(hard, cosines * (progress + cosines), cosines)

    return MarginRule(target, others, scale)


def updated_progress(progress: Tensor, own_mean: Tensor, *, momentum: float = 0.99) -> Tensor:
    """Give t after a batch: momentum * t + (1 - momentum) * mean(c_y), with c_y before the margin.

    Args:
        progress: t before, a scalar.
        own_mean: Mean cosine of the batch with the own prototypes; of several batches (k,), each by itself.
        momentum: Weight of the old value; 0.99 in the original.

    Returns:
        t, detached, of the shape of `own_mean`.
    """
    return (momentum * progress + (1 - momentum) * own_mean).detach()
