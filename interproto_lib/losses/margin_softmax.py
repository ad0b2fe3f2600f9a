"""One door to all margin losses: by name, with one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from interproto_lib.errors import ConfigError
from interproto_lib.losses.arcface import arcface_rule
from interproto_lib.losses.cosface import cosface_rule
from interproto_lib.losses.cosines import autocast_off, cosine_similarities, inner_products
from interproto_lib.losses.margin_rule import MarginRule, rule_logits
from interproto_lib.losses.softmax import normface_rule, softmax_rule


class MarginDefaults(NamedTuple):
    """Scale and margin a loss was published with."""

    scale: float
    margin: float


def _arcface_rule(*, scale: float, margin: float) -> MarginRule:
    return arcface_rule(scale=scale, margin_rad=margin)


MARGIN_RULES: dict[str, Callable[..., MarginRule]] = {
    "softmax": softmax_rule,
    "normface": normface_rule,
    "cosface": cosface_rule,
    "arcface": _arcface_rule,
}
"""Name -> function (*, scale, margin) giving the rule of a margin loss."""

MARGIN_DEFAULTS: dict[str, MarginDefaults] = {
    "softmax": MarginDefaults(scale=1.0, margin=0.0),
    "normface": MarginDefaults(scale=64.0, margin=0.0),
    "cosface": MarginDefaults(scale=64.0, margin=0.35),
    "arcface": MarginDefaults(scale=64.0, margin=0.5),
}
"""Name -> scale and margin used by the Inter-Prototype authors (margin in cosine for cosface, radians for arcface)."""


def class_scores(embeddings: Tensor, prototypes: Tensor, *, kind: str) -> Tensor:
    """The scores a loss wants: inner products for plain softmax, cosines for all others.

    Args:
        embeddings: (b, d) floating point.
        prototypes: (n, d) floating point.
        kind: a name in `MARGIN_RULES`.

    Returns:
        (b, n) scores, float32 (float64 for float64 input).

    Raises:
        ConfigError: an unknown kind or shapes that do not fit.

    Example:
        >>> import torch
        >>> class_scores(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]), kind="softmax")
        tensor([[6.]])
        >>> class_scores(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]), kind="arcface")
        tensor([[1.]])
    """
    _check_kind(kind)
    return (inner_products if kind == "softmax" else cosine_similarities)(embeddings, prototypes)


def margin_rule(*, kind: str = "arcface", scale: float | None = None, margin: float | None = None) -> MarginRule:
    """Margin loss of this name, elementwise; arguments and errors are those of `margin_logits`."""
    _check_kind(kind)
    published = MARGIN_DEFAULTS[kind]
    return MARGIN_RULES[kind](
        scale=published.scale if scale is None else scale, margin=published.margin if margin is None else margin
    )


def margin_logits(
    scores: Tensor, labels: Tensor, *, kind: str = "arcface", scale: float | None = None, margin: float | None = None
) -> Tensor:
    """Logits of the margin loss of this name.

    Args:
        scores: (b, n) from `class_scores` with the same kind.
        labels: (b,) integers in [0, n).
        kind: "softmax", "normface", "cosface" or "arcface".
        scale: s > 0; None takes the published value in `MARGIN_DEFAULTS`.
        margin: m >= 0, radians for arcface and cosine for cosface; None takes the published value.

    Returns:
        (b, n) logits, float32 (float64 for float64 input).

    Raises:
        ConfigError: an unknown kind, or a scale, margin, shape or label that it does not accept.

    Example:
        >>> import torch
        >>> margin_logits(torch.tensor([[0.75, -0.25]]), torch.tensor([0]), kind="cosface", scale=4.0, margin=0.5)
        tensor([[ 1., -1.]])
    """
    return rule_logits(scores, labels, margin_rule(kind=kind, scale=scale, margin=margin))


def margin_softmax_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    kind: str = "arcface",
    scale: float | None = None,
    margin: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Softmax cross-entropy over the logits of a margin loss.

    Formula: L_m = (1/N) sum_i -log(e^{z_{i, y_i}} / sum_j e^{z_{i, j}}), the paper's Eq. 3 for arcface; computed in
    float32 even under autocast.

    Args:
        scores: (b, n) from `class_scores` with the same kind.
        labels: (b,) integers in [0, n).
        kind: "softmax", "normface", "cosface" or "arcface".
        scale: s > 0; None takes the published value in `MARGIN_DEFAULTS`.
        margin: m >= 0, radians for arcface and cosine for cosface; None takes the published value.
        reduction: "mean" over the batch, "sum", or "none" for one value an image.

    Returns:
        A scalar, or (b,) with reduction "none".

    Raises:
        ConfigError: an unknown kind or reduction, or a scale, margin, shape or label that it does not accept.

    Example:
        >>> import torch
        >>> cosines = torch.zeros(1, 4)
        >>> margin_softmax_loss(cosines, torch.tensor([2]), kind="normface").exp()
        tensor(4.)
    """
    if reduction not in ("mean", "sum", "none"):
        raise ConfigError(f"reduction must be mean, sum or none, got {reduction!r}.")
    logits = margin_logits(scores, labels, kind=kind, scale=scale, margin=margin)
    with autocast_off(logits):
        return F.cross_entropy(logits, labels.long(), reduction=reduction)


def _check_kind(kind: str) -> None:
    if kind not in MARGIN_RULES:
        raise ConfigError(f"unknown margin loss {kind!r}: choose one of {', '.join(MARGIN_RULES)}.")
