"""SphereFace: a multiplicative margin on the angle, brought in step by step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import at_least_float32, autocast_off, check_lengths
from interproto_lib.losses.margin_rule import MarginRule, others_unchanged, rule_logits


def sphereface_logits(
    cosines: Tensor, labels: Tensor, norms: Tensor, *, margin_factor: int = 4, annealing: float = 5.0
) -> Tensor:
    """Logits of SphereFace (A-Softmax): the own angle counts several times.

    Formula: z_y = |x| (lambda c_y + psi(theta_y)) / (1 + lambda) with psi(theta) = (-1)^k cos(m theta) - 2k and
    k = floor(m theta / pi), which falls from 1 to 1 - 2m without a jump; z_j = |x| c_j for j != y. There is no scale:
    the length of the embedding takes its place. cos(m theta) is computed from the cosine by the Chebyshev polynomial.
    Source: Liu et al., "SphereFace: deep hypersphere embedding for face recognition", CVPR 2017.

    Args:
        cosines: (b, n) in [-1, 1].
        labels: (b,) integers in [0, n).
        norms: (b,) lengths |x| of the embeddings.
        margin_factor: m, a whole number >= 1; 1 is softmax on |x| c_j.
        annealing: lambda >= 0, the weight of the plain cosine beside the one with margin (see
            `sphereface_annealing`).

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: wrong shapes or labels, or a factor or an annealing out of range.

    Example:
        >>> cosines = torch.tensor([[0.25, 0.5]]).cos()
        >>> logits = sphereface_logits(cosines, torch.tensor([0]), torch.ones(1), margin_factor=4, annealing=0.0)
        >>> logits.acos()
        tensor([[1.0000, 0.5000]])
    """
    check_lengths(norms, rows=len(cosines))
    return rule_logits(cosines, labels, sphereface_rule(norms, margin_factor=margin_factor, annealing=annealing))


def sphereface_rule(norms: Tensor, *, margin_factor: int = 4, annealing: float = 5.0) -> MarginRule:
    """Give `sphereface_logits` for the own class and the others apart; arguments and errors are the same."""
    if margin_factor < 1 or margin_factor != int(margin_factor):
        raise ConfigError(f"margin of sphereface must be a whole number from 1 on, got {margin_factor}.")
    if not (math.isfinite(annealing) and annealing >= 0):
        raise ConfigError(f"annealing of sphereface must be a finite number from 0 on, got {annealing}.")

    def target(own: Tensor) -> Tensor:
        angle = own.detach().clamp(-1, 1).acos()
        turns = (angle * (margin_factor / math.pi)).floor().clamp_max(margin_factor - 1)
        psi = (1 - 2 * turns.remainder(2)) * _chebyshev(own, int(margin_factor)) - 2 * turns
        return (annealing * own + psi) / (1 + annealing)

    with autocast_off(norms):
        return MarginRule(target, others_unchanged, at_least_float32(norms)[:, None])


def sphereface_annealing(step: int, *, start: float = 1000.0, decay: float = 0.12, lowest: float = 5.0) -> float:
    """Weight of the plain cosine at a step: lambda = max(lowest, start / (1 + decay * step)).

    Source: the authors' published training settings; methods differ only in these three numbers.

    Args:
        step: Steps made so far, >= 0.
        start: lambda at step 0.
        decay: How fast it falls.
        lowest: Where it stays.

    Returns:
        lambda.

    Example:
        >>> sphereface_annealing(0), sphereface_annealing(10**6)
        (1000.0, 5.0)
    """
    return max(lowest, start / (1 + decay * step))


def _chebyshev(cosine: Tensor, order: int) -> Tensor:
    """cos(m theta) as a polynomial of cos(theta): T_0 = 1, T_1 = c, T_{k+1} = 2 c T_k - T_{k-1}."""
    before, now = torch.ones_like(cosine), cosine
    for _ in range(order - 1):
        before, now = now, 2 * cosine * now - before
    return now
