"""AdaFace: a margin that depends on the length of the embedding, taken for the quality of the image."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import at_least_float32, autocast_off, check_lengths, check_scale
from interproto_lib.losses.margin_rule import MarginRule, rule_logits

NORM_RANGE = (0.001, 100.0)
"""Lengths of embeddings are clipped to this range."""

ANGLE_BORDER = 1e-3
"""Angles stay this far from 0 and pi, cosines this far from 1 and -1."""


class NormStatistics(NamedTuple):
    """Running mean and standard deviation of the lengths of embeddings: scalars, or one pair a batch."""

    mean: Tensor
    std: Tensor


def adaface_logits(
    cosines: Tensor,
    labels: Tensor,
    norms: Tensor,
    *,
    statistics: NormStatistics,
    scale: float = 64.0,
    margin: float = 0.4,
    concentration: float = 0.333,
) -> Tensor:
    """Logits of AdaFace: images of high quality get an additive margin, those of low quality an angular one.

    Formula: q = clip(h (|x| - mu) / (sigma + 1e-3), -1, 1), without gradient; z_y = s (cos(clip(theta_y - m q)) -
    (m + m q)), the angle clipped to [1e-3, pi - 1e-3]; z_j = s c_j for j != y. q = -1 is ArcFace, q = 0 CosFace.
    Source: Kim et al., "AdaFace: quality adaptive margin for face recognition", CVPR 2022. As in its code cosines are
    clipped to [-1 + 1e-3, 1 - 1e-3] first, which keeps the gradient of the angle finite.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n).
        norms: (b,) lengths |x| of the embeddings.
        statistics: Running mean and standard deviation of the lengths (see `updated_statistics`): scalars, or (b,).
        scale: s > 0.
        margin: m in [0, 1].
        concentration: h > 0: how many standard deviations make the quality 1 is 1 / h.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, or a number out of range.

    Example:
        >>> import torch
        >>> cosines, average = torch.tensor([[0.75, -0.25]]), NormStatistics(torch.tensor(20.0), torch.tensor(5.0))
        >>> adaface_logits(cosines, torch.tensor([0]), torch.tensor([20.0]), statistics=average, scale=4.0, margin=0.25)
        tensor([[ 2., -1.]])
    """
    check_lengths(norms, rows=len(cosines))
    rule = adaface_rule(norms, statistics=statistics, scale=scale, margin=margin, concentration=concentration)
    return rule_logits(cosines, labels, rule)


def adaface_rule(
    norms: Tensor,
    *,
    statistics: NormStatistics,
    scale: float = 64.0,
    margin: float = 0.4,
    concentration: float = 0.333,
) -> MarginRule:
    """Give `adaface_logits` for the own class and the others apart; arguments and errors are the same."""
    check_scale(scale)
    if not 0 <= margin <= 1:
        raise ConfigError(f"margin of adaface must be in [0, 1], got {margin}.")
    if not (math.isfinite(concentration) and concentration > 0):
        raise ConfigError(f"concentration of adaface must be a finite number above 0, got {concentration}.")
    with autocast_off(norms):
        lengths = at_least_float32(norms.detach()).clamp(*NORM_RANGE)
        quality = ((lengths - statistics.mean) / (statistics.std + 1e-3) * concentration).clamp(-1, 1)[:, None]

    def target(own: Tensor) -> Tensor:
        angle = _clipped(own).acos()
        turned = (angle - margin * quality).clamp(ANGLE_BORDER, math.pi - ANGLE_BORDER).cos()
        return turned - margin - margin * quality

    return MarginRule(target, lambda cosines, own: _clipped(cosines), scale)


def _clipped(cosines: Tensor) -> Tensor:
    return cosines.clamp(-1 + ANGLE_BORDER, 1 - ANGLE_BORDER)


def updated_statistics(statistics: NormStatistics, batch: NormStatistics, *, weight: float = 0.01) -> NormStatistics:
    """Give the running statistics after a batch: weight * batch + (1 - weight) * old.

    Args:
        statistics: Before the batch; the original starts at 20 and 100.
        batch: Of the batch (see `batch_statistics`); of several batches each is taken by itself.
        weight: Weight of the batch.

    Returns:
        The statistics, detached.
    """
    return NormStatistics(
        *((weight * new + (1 - weight) * old).detach() for old, new in zip(statistics, batch, strict=True))
    )


def batch_statistics(norms: Tensor) -> NormStatistics:
    """Give mean and standard deviation (n - 1 in the denominator) of clipped lengths.

    Args:
        norms: (b,) lengths of embeddings, b >= 2; or (k, b) of k batches.

    Returns:
        Two scalars, or two of shape (k,); detached, at least float32.

    Raises:
        ConfigError: There are fewer than two.
    """
    if norms.shape[-1] < 2:
        raise ConfigError(f"adaface needs two images in a batch to know how lengths spread, got {norms.shape[-1]}.")
    lengths = at_least_float32(norms.detach()).clamp(*NORM_RANGE)
    return NormStatistics(lengths.mean(dim=-1), lengths.std(dim=-1))
