"""What a margin loss does to the scores of an image, elementwise, so that it can be done to any part of the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from interproto_lib.losses.cosines import at_least_float32, autocast_off, check_batch


class MarginRule(NamedTuple):
    """A margin loss: logits from scores, the own class and the others apart.

    Attributes:
        target: (b, 1) scores of the own classes -> (b, 1) with the margin. Its gradient is finite for every score in
            [-1, 1] (softmax: any score).
        others: (b, k) scores of any k classes, (b, 1) scores of the own classes -> (b, k). The gradient goes through
            the first alone: own scores are compared with, nothing else.
        scale: What both are multiplied by, a number or (b, 1).
    """

    target: Callable[[Tensor], Tensor]
    others: Callable[[Tensor, Tensor], Tensor]
    scale: float | Tensor


def unchanged(scores: Tensor) -> Tensor:
    """The own score of a loss without margin."""
    return scores


def others_unchanged(scores: Tensor, own: Tensor) -> Tensor:
    """Scores of the other classes where a loss leaves them as they are."""
    return scores


def rule_logits(scores: Tensor, labels: Tensor, rule: MarginRule) -> Tensor:
    """Apply a margin loss to the scores of all classes.

    Args:
        scores: (b, n) cosines, or inner products for plain softmax.
        labels: (b,) integers in [0, n).
        rule: The margin loss.

    Returns:
        (b, n) logits, float32 (float64 for float64 input), computed so even under autocast.

    Raises:
        ConfigError: Wrong shapes or labels.
    """
    places = check_batch(scores, labels)[:, None]
    with autocast_off(scores):
        scores = at_least_float32(scores)
        own = scores.gather(1, places)
        others = rule.others(scores, own.detach())
        return others.mul(rule.scale).scatter_(1, places, rule.target(own) * rule.scale)
