"""MV-Softmax: negatives that are taken for the own class count more (support vectors of the softmax)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from interproto_lib.errors import ConfigError
from interproto_lib.losses.arcface import turned_cosines
from interproto_lib.losses.cosines import check_margin, check_scale
from interproto_lib.losses.margin_rule import MarginRule, rule_logits

MVVariant = Literal["am", "arc"]


def mv_softmax_logits(
    cosines: Tensor,
    labels: Tensor,
    *,
    variant: MVVariant = "am",
    scale: float = 32.0,
    margin: float = 0.35,
    hard_weight: float = 0.2,
    adaptive: bool = True,
    easy_margin: bool = True,
) -> Tensor:
    """Logits of MV-Softmax with an additive margin on the cosine ("am") or on the angle ("arc").

    Formula: T = c_y - m (am) or cos(theta_y + m) (arc). A negative is hard where c_j > T; it becomes (t + 1) c_j + t
    (adaptive) or c_j + t (fixed). The own class becomes T; with the easy margin only where c_y > 0, else it stays c_y.
    All are multiplied by s. t = 0 in "am" is CosFace.
    Source: Wang et al., "Mis-classified vector guided softmax loss for face recognition", AAAI 2020. Defaults are the
    original's; the authors of the Inter-Prototype paper compare with "am", s = 32, m = 0.5, t = 0.2, no easy margin.
    Deviation: in "arc", 1 - c^2 is clamped from below as in `arcface_logits`.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n).
        variant: "am" or "arc".
        scale: s > 0.
        margin: m >= 0: units of cosine up to 2 for "am", radians up to pi for "arc".
        hard_weight: t >= 0.
        adaptive: Whether the weight of a hard negative grows with its cosine.
        easy_margin: Whether images on the wrong side of their prototype (c_y <= 0) are spared the margin.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: an unknown variant, wrong shapes or labels, or a number out of range.

    Example:
        >>> cosines = torch.tensor([[0.5, 0.25, 0.0]])
        >>> mv_softmax_logits(cosines, torch.tensor([0]), scale=1.0, margin=0.3, hard_weight=0.2)
        tensor([[0.2000, 0.5000, 0.0000]])
    """
    rule = mv_softmax_rule(
        variant=variant,
        scale=scale,
        margin=margin,
        hard_weight=hard_weight,
        adaptive=adaptive,
        easy_margin=easy_margin,
    )
    return rule_logits(cosines, labels, rule)


def mv_softmax_rule(
    *,
    variant: MVVariant = "am",
    scale: float = 32.0,
    margin: float = 0.35,
    hard_weight: float = 0.2,
    adaptive: bool = True,
    easy_margin: bool = True,
) -> MarginRule:
    """Give `mv_softmax_logits` for the own class and the others apart; arguments and errors are the same."""
    check_scale(scale)
    if variant not in ("am", "arc"):
        raise ConfigError(f"variant of MV-Softmax must be 'am' or 'arc', got {variant!r}.")
    check_margin(margin, name=f"margin of mv_{variant}", upper=2.0 if variant == "am" else math.pi)
    if not (math.isfinite(hard_weight) and hard_weight >= 0):
        raise ConfigError(f"hard_weight of MV-Softmax must be a finite number from 0 on, got {hard_weight}.")

    def turned(own: Tensor) -> Tensor:
        return own - margin if variant == "am" else turned_cosines(own, margin)

    def target(own: Tensor) -> Tensor:
        return torch.where(own > 0, turned(own), own) if easy_margin else turned(own)

    def others(cosines: Tensor, own: Tensor) -> Tensor:
        weighted = (hard_weight + 1) * cosines + hard_weight if adaptive else cosines + hard_weight
        return torch.where(cosines > turned(own), weighted, cosines)

    return MarginRule(target, others, scale)
