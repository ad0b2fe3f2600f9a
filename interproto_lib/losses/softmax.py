"""Softmax without a margin: plain (inner products) and normalised (scaled cosines)."""

from __future__ import annotations

from torch import Tensor

from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import check_scale
from interproto_lib.losses.margin_rule import MarginRule, others_unchanged, rule_logits, unchanged


def softmax_logits(scores: Tensor, labels: Tensor, *, scale: float = 1.0, margin: float = 0.0) -> Tensor:
    """Logits of plain softmax: the inner products themselves.

    Formula: z_j = x . W_j, nothing normalised, no bias. The input must come from `inner_products`, not from
    `cosine_similarities`: with cosines as logits n classes can never reach a loss below log(1 + (n - 1) e^-2).

    Args:
        scores: (b, n) inner products.
        labels: (b,) integers in [0, n); only checked.
        scale: must be 1: plain softmax has no scale.
        margin: must be 0: plain softmax has no margin.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, a scale other than 1 or a margin other than 0.

    Example:
        >>> import torch
        >>> softmax_logits(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
        tensor([[ 2., -1.]])
    """
    return rule_logits(scores, labels, softmax_rule(scale=scale, margin=margin))


def softmax_rule(*, scale: float = 1.0, margin: float = 0.0) -> MarginRule:
    """Give `softmax_logits` for the own class and the others apart; arguments and errors are the same."""
    if scale != 1 or margin != 0:
        raise ConfigError(
            f"softmax has neither scale nor margin: set scale=1 and margin=0 (got {scale} and {margin}), "
            "or choose normface for a scale, cosface or arcface for a margin."
        )
    return MarginRule(unchanged, others_unchanged, 1.0)


def normface_logits(cosines: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.0) -> Tensor:
    """Logits of normalised softmax (NormFace): scaled cosines.

    Formula: z_j = s c_j. Source: Wang et al., "NormFace: L2 hypersphere embedding for face verification", ACM MM 2017.
    Deviation: the scale is fixed, as in the margin losses that followed, where the original could learn it.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n); only checked.
        scale: s > 0.
        margin: must be 0: NormFace has no margin.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, a scale that is not positive or a margin other than 0.

    Example:
        >>> import torch
        >>> normface_logits(torch.tensor([[0.5, -0.25]]), torch.tensor([0]), scale=64.0)
        tensor([[ 32., -16.]])
    """
    return rule_logits(cosines, labels, normface_rule(scale=scale, margin=margin))


def normface_rule(*, scale: float = 64.0, margin: float = 0.0) -> MarginRule:
    """Give `normface_logits` for the own class and the others apart; arguments and errors are the same."""
    check_scale(scale)
    if margin != 0:
        raise ConfigError(f"normface has no margin: set margin=0 (got {margin}), or choose cosface or arcface.")
    return MarginRule(unchanged, others_unchanged, scale)
