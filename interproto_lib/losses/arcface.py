"""ArcFace: an additive margin on the angle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interproto_lib.losses.cosines import check_margin, check_scale
from interproto_lib.losses.margin_rule import MarginRule, others_unchanged, rule_logits

SMALLEST_SQUARED_SINE = 1e-9
"""Lower clamp of 1 - c^2: the square root has an infinite slope at 0, which would give NaN at c = 1 and c = -1."""


def arcface_logits(cosines: Tensor, labels: Tensor, *, scale: float = 64.0, margin_rad: float = 0.5) -> Tensor:
    """Logits of ArcFace: the own class must win by a margin of angle.

    Formula: z_y = s cos(theta_y + m) = s (c_y cos m - sqrt(1 - c_y^2) sin m) where c_y > cos(pi - m), that is as long
    as theta_y + m stays below pi; beyond that, where the cosine would rise again, z_y = s (c_y - m sin m).
    z_j = s c_j for j != y.
    Source: Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019 (the paper's
    Eq. 3), with the fall-back beyond pi as the Inter-Prototype authors' code has it.
    Deviation: 1 - c^2 is computed as (1 - c)(1 + c) and clamped from below at 1e-9, so that the gradient stays finite
    at c = 1 and c = -1; this changes a logit by less than s * 3.2e-5.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n).
        scale: s > 0.
        margin_rad: m in [0, pi], radians; 0 is NormFace.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, or a scale or margin out of range.

    Example:
        >>> cosines = torch.tensor([[0.75, 1.5]]).cos()
        >>> arcface_logits(cosines, torch.tensor([0]), scale=1.0, margin_rad=0.5).acos()
        tensor([[1.2500, 1.5000]])
    """
    return rule_logits(cosines, labels, arcface_rule(scale=scale, margin_rad=margin_rad))


def arcface_rule(*, scale: float = 64.0, margin_rad: float = 0.5) -> MarginRule:
    """Give `arcface_logits` for the own class and the others apart; arguments and errors are the same."""
    check_scale(scale)
    check_margin(margin_rad, name="margin of arcface, in radians,", upper=math.pi)

    def target(own: Tensor) -> Tensor:
        return turned_or_lowered(own, turned_cosines(own, margin_rad), margin_rad)

    return MarginRule(target, others_unchanged, scale)


def turned_cosines(cosines: Tensor, margin_rad: float) -> Tensor:
    """Give cos(theta + m) for c = cos(theta), by the addition theorem, with a gradient that stays finite at |c| = 1."""
    sine = ((1 - cosines) * (1 + cosines)).clamp_min(SMALLEST_SQUARED_SINE).sqrt()
    return cosines * math.cos(margin_rad) - sine * math.sin(margin_rad)


def turned_or_lowered(cosines: Tensor, turned: Tensor, margin_rad: float) -> Tensor:
    """Give cos(theta + m) as long as theta + m stays below pi, and c - m sin m beyond, where it would rise again."""
    return torch.where(cosines > math.cos(math.pi - margin_rad), turned, cosines - margin_rad * math.sin(margin_rad))
