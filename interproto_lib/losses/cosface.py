"""CosFace: an additive margin on the cosine."""

from __future__ import annotations

from torch import Tensor

from interproto_lib.losses.cosines import check_margin, check_scale
from interproto_lib.losses.margin_rule import MarginRule, others_unchanged, rule_logits


def cosface_logits(cosines: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.35) -> Tensor:
    """Logits of CosFace: the own class must win by a margin of cosine.

    Formula: z_y = s (c_y - m), z_j = s c_j for j != y.
    Source: Wang et al., "CosFace: large margin cosine loss for deep face recognition", CVPR 2018. The authors of the
    Inter-Prototype paper use m = 0.35; insightface and AdaFace use 0.40.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n).
        scale: s > 0.
        margin: m in [0, 2], in units of cosine; 0 is NormFace.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, or a scale or margin out of range.

    Example:
        >>> import torch
        >>> cosface_logits(torch.tensor([[0.75, -0.25]]), torch.tensor([0]), scale=64.0, margin=0.25)
        tensor([[ 32., -16.]])
    """
    return rule_logits(cosines, labels, cosface_rule(scale=scale, margin=margin))


def cosface_rule(*, scale: float = 64.0, margin: float = 0.35) -> MarginRule:
    """Give `cosface_logits` for the own class and the others apart; arguments and errors are the same."""
    check_scale(scale)
    check_margin(margin, name="margin of cosface", upper=2.0)
    return MarginRule(lambda own: own - margin, others_unchanged, scale)
