"""Gradient reversal: what comes after it learns a task, what comes before it unlearns the same task in one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse_gradient(values: Tensor) -> Tensor:
    """Give the same values, behind which the gradient changes its sign.

    Formula: R(x) = x, dR/dx := -1.
    Source: Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015, with lambda = 1.

    Args:
        values: Of any shape.

    Returns:
        The values.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> (3 * reverse_gradient(x)).sum().backward()
        >>> x.grad
        tensor([-3., -3.])
    """
    reversed_values: Tensor = _GradientReversal.apply(values)
    return reversed_values
