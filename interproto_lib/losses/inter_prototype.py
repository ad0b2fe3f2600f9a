"""The Inter-Prototype loss: prototypes of identities with child images are pushed apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import ZERO_LENGTH, at_least_float32, autocast_off, unit_rows
from interproto_lib.losses.ranks import sum_over_ranks, world_size

REDUCTIONS = ("sum", "mean")
FORMS = ("auto", "pairs", "gram")

ROWS_AT_A_TIME = {"cpu": 4096, "cuda": 65_536}
"""How many prototypes the form `gram` normalises at a time: a copy of all of them is never made."""


def inter_prototype_loss(
    prototypes: Tensor, *, reduction: str = "sum", form: str = "auto", n_total: int | None = None
) -> Tensor:
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
    same rounding. Gram goes through the prototypes a few thousand at a time and makes no copy of all of them.

    Over several processes, each of which holds some of the rows, it is gram in any case: the processes add their G in
    one all-reduce of d x d numbers, and each has the gradient of its own rows. For n <= d, where pairs would be taken,
    that is computed in float64, in which nothing is lost.

    Computed in float32 (float64 for float64 input) even under autocast: in bfloat16 both forms are noise near 0. The
    gradient is written by hand, 4 (C - diag C) U, or 4 (U G) of which the part along u_i is taken away: one matrix
    product where automatic differentiation takes two. Second derivatives are exact too, in one process.

    Args:
        prototypes: (n, d) floating point, any length: the rows the loss acts on, that is `prototypes[child_rows]` for
            the paper's method and all rows for its "Full" ablation. A row no longer than 1e-12 counts as the zero
            vector: it adds nothing and its gradient is 0.
        reduction: "sum" or "mean".
        form: "auto", "pairs" or "gram".
        n_total: Where the rows are spread over processes: how many there are in all of them; `prototypes` are then
            those of this process, maybe none. None: they are all.

    Returns:
        A scalar >= 0 up to rounding, the same on all processes; 0 with a gradient of zeros for n = 0 and n = 1.

    Raises:
        ConfigError: prototypes are not a floating point matrix, an unknown reduction or form, pairs over several
            processes, or fewer rows in all than here.

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
    is_spread = n_total is not None and world_size() > 1
    n, d = prototypes.shape if n_total is None else (n_total, prototypes.shape[1])
    if n < len(prototypes) or (n > len(prototypes) and not is_spread):
        raise ConfigError(f"There are {len(prototypes)} rows here, which cannot be some or all of n_total={n}.")
    if is_spread and form == "pairs":
        raise ConfigError("form='pairs' looks at all rows at once; rows spread over processes need 'gram' or 'auto'.")
    with autocast_off(prototypes):
        if form == "gram" or is_spread or (form == "auto" and n > d):
            needs_float64 = prototypes.dtype == torch.float64 or (is_spread and n <= d)
            total = _GramForm.apply(prototypes, is_spread, torch.float64 if needs_float64 else torch.float32)
        else:
            total = _PairsForm.apply(unit_rows(prototypes))
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
    """Sum of squared entries of U^T U less the fourth powers of the lengths, U being the rows scaled to length 1."""

    @staticmethod
    def forward(ctx: Any, prototypes: Tensor, is_spread: bool, dtype: torch.dtype) -> Tensor:
        gram, fourth_powers = _gram(prototypes, dtype)
        if is_spread:
            sums = sum_over_ranks(torch.cat([gram.flatten(), fourth_powers[None]]))
            gram, fourth_powers = sums[:-1].view_as(gram), sums[-1]
        ctx.save_for_backward(prototypes, gram)
        ctx.is_spread = is_spread
        total: Tensor = (gram.square().sum() - fourth_powers).to(at_least_float32(prototypes).dtype)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        prototypes, gram = ctx.saved_tensors
        with autocast_off(prototypes):
            if torch.is_grad_enabled():  # a second derivative is wanted: it must see how G depends on the prototypes
                if ctx.is_spread:
                    raise RuntimeError("The Inter-Prototype loss over several processes has no second derivative.")
                gram, _ = _gram(prototypes, gram.dtype)
                changes = [_gram_gradient(rows, gram, gradient) for rows in _chunks(prototypes)]
                return torch.cat(changes), None, None
            change = torch.empty_like(prototypes)
            for rows, into in zip(_chunks(prototypes), _chunks(change), strict=True):
                into.copy_(_gram_gradient(rows, gram, gradient))
            return change, None, None


def _chunks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(ROWS_AT_A_TIME.get(rows.device.type, 65_536))


def _gram(prototypes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """G and the sum of the fourth powers of the lengths."""
    d = prototypes.shape[1]
    gram, fourth_powers = prototypes.new_zeros((d, d), dtype=dtype), prototypes.new_zeros((), dtype=dtype)
    for rows in _chunks(prototypes):
        unit = unit_rows(rows.to(dtype))
        gram = torch.addmm(gram, unit.T, unit)
        fourth_powers = fourth_powers + torch.linalg.vecdot(unit, unit).square().sum()
    return gram, fourth_powers


def _gram_gradient(rows: Tensor, gram: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of some rows: what moves a row along itself changes no cosine and is taken away."""
    rows = rows.to(gram.dtype)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    inverse = 1 / lengths.masked_fill(lengths <= ZERO_LENGTH, math.inf)
    unit = rows * inverse
    towards = unit @ gram
    along = torch.linalg.vecdot(unit, towards)[:, None]
    change: Tensor = torch.addcmul(towards, unit, along, value=-1) * (inverse * (4 * gradient))
    return change
