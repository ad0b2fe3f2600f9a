"""The Inter-Prototype loss: prototypes of identities with child images are pushed apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import autocast_off, unit_rows

REDUCTIONS = ("sum", "mean")
FORMS = ("auto", "pairs", "gram")


def inter_prototype_loss(prototypes: Tensor, *, reduction: str = "sum", form: str = "auto") -> Tensor:
    """Squared cosines between different prototypes: 0 exactly where all are orthogonal.

    Formula: with u_i = W_i / |W_i| and C = U U^T (the paper's Eq. 6),

        sum:  L_ip = sum over i != j of C_ij^2               the paper's Eq. 5, both orders of a pair counted
        mean: L_ip / n^2                                     the official code, MSE(C, I) over all n^2 entries

    The two readings differ by the factor n^2 (52,441 at 229 child identities): lambda belongs to one reading.
    Deviation from the official code: the diagonal is left out rather than computed as (C_ii - 1)^2; the difference is
    rounding only, except for a prototype of length zero, which there adds 1 to the sum and here adds 0.

    Two exactly equal forms:

        pairs: the n x n matrix C            O(n^2 d) time, O(n^2) memory
        gram:  G = U^T U, d x d;  L_ip = sum_kl G_kl^2 - sum_i |u_i|^4     O(n d^2) time, O(d^2) memory

    "auto" takes pairs for n <= d and gram for n > d. There the measured times cross (one thread, d = 64, 128 and 512),
    and there gram stops losing digits: near orthogonality its two terms of about n cancel, which leaves an error of
    about n * 1e-7 (pairs has none), but for n well above d the Welch bound keeps the loss itself of the order of n.
    The sum of fourth powers, rather than n, is subtracted because the |u_i| are 1 only up to rounding, and G holds the
    same rounding.

    Computed in float32 (float64 for float64 input) even under autocast: in bfloat16 both forms are noise near 0. The
    gradient is written by hand, 4 (C - diag C) U or 4 (U G - |u_i|^2 u_i): one matrix product where automatic
    differentiation takes two. Second derivatives are exact too.

    Args:
        prototypes: (n, d) floating point, any length: the rows the loss acts on, that is `prototypes[child_rows]` for
            the paper's method and all rows for its "Full" ablation. A row no longer than 1e-12 counts as the zero
            vector: it adds nothing and its gradient is 0.
        reduction: "sum" or "mean".
        form: "auto", "pairs" or "gram".

    Returns:
        A scalar >= 0 up to rounding; 0 with a gradient of zeros for n = 0 and n = 1.

    Raises:
        ConfigError: prototypes are not a floating point matrix, or an unknown reduction or form.

    Example:
        >>> import torch
        >>> inter_prototype_loss(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        tensor(2.)
        >>> inter_prototype_loss(torch.eye(3))
        tensor(0.)
    """
    if prototypes.ndim != 2 or not prototypes.is_floating_point():
        raise ConfigError(
            f"prototypes must be a floating point tensor of shape (identities, dimension), got "
            f"{tuple(prototypes.shape)} of {prototypes.dtype}."
        )
    if reduction not in REDUCTIONS:
        raise ConfigError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")
    if form not in FORMS:
        raise ConfigError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    n, d = prototypes.shape
    if form == "auto":
        form = "gram" if n > d else "pairs"
    unit = unit_rows(prototypes)
    with autocast_off(prototypes):
        total = (_GramForm if form == "gram" else _PairsForm).apply(unit)
        return total if reduction == "sum" else total / max(n, 1) ** 2


def welch_bound(n: int, d: int) -> float:
    """Smallest value the loss can take, with reduction "sum", for n prototypes in d dimensions.

    Formula: max(0, n^2 / d - n). For n <= d it is reached by orthonormal vectors, for n > d by tight frames, such as
    the simplex (n = d + 1) or several orthonormal bases together.
    Source: Welch, "Lower bounds on the maximum cross correlation of signals", 1974 (its first-order case); Benedetto
    and Fickus, "Finite normalized tight frames", 2003.

    Args:
        n: number of prototypes, >= 0.
        d: dimension, >= 1.

    Returns:
        The bound; divide by n^2 for reduction "mean".

    Raises:
        ConfigError: n < 0 or d < 1.

    Example:
        >>> welch_bound(229, 512), welch_bound(1024, 512)
        (0.0, 1024.0)
    """
    if n < 0 or d < 1:
        raise ConfigError(f"welch_bound needs n >= 0 and d >= 1, got n={n} and d={d}.")
    return max(0.0, n * n / d - n)


def _cosines_of_pairs(unit: Tensor) -> Tensor:
    return (unit @ unit.T).fill_diagonal_(0)


class _PairsForm(Function):
    """Sum of squared off-diagonal entries of U U^T."""

    @staticmethod
    def forward(ctx: FunctionCtx, unit: Tensor) -> Tensor:
        cosines = _cosines_of_pairs(unit)
        ctx.save_for_backward(unit, cosines)
        return cosines.square().sum()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        unit, cosines = ctx.saved_tensors  # type: ignore[attr-defined]
        with autocast_off(unit):
            if torch.is_grad_enabled():  # a second derivative is wanted: it must see how C depends on U
                cosines = _cosines_of_pairs(unit)
            return (cosines @ unit) * (4 * gradient)


class _GramForm(Function):
    """Sum of squared entries of U^T U less the fourth powers of the lengths."""

    @staticmethod
    def forward(ctx: FunctionCtx, unit: Tensor) -> Tensor:
        gram = unit.T @ unit
        ctx.save_for_backward(unit, gram)
        return gram.square().sum() - unit.square().sum(dim=1).square().sum()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        unit, gram = ctx.saved_tensors  # type: ignore[attr-defined]
        with autocast_off(unit):
            if torch.is_grad_enabled():  # a second derivative is wanted: it must see how G depends on U
                gram = unit.T @ unit
            squared_lengths = unit.square().sum(dim=1, keepdim=True)
            return (unit @ gram - squared_lengths * unit) * (4 * gradient)
