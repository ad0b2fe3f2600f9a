"""Stochastic gradient descent that leaves alone the rows of a matrix that a step did not look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from interproto_lib.errors import ConfigError


class RowSGD(Optimizer):
    """SGD with momentum and weight decay, row by row, for prototypes under partial FC.

    A sparse gradient names the rows that the step looked at: only they decay, move, and have their momentum changed.
    All others keep both bit by bit, as in the original (An et al., 2022). A dense gradient names all rows, and the
    step is that of `torch.optim.SGD`. As there, v <- momentum v + (g + weight_decay w) and w <- w - lr v, and the state
    is called `momentum_buffer`.

    Args:
        parameters: Matrices, or groups of them, as in `torch.optim`.
        lr: Learning rate, >= 0.
        momentum: In [0, 1).
        weight_decay: L2 penalty, >= 0.

    Raises:
        ConfigError: A number is out of range.

    Example:
        >>> rows = torch.nn.Parameter(torch.ones(3, 2))
        >>> rows.grad = torch.sparse_coo_tensor([[1]], [[1.0, 2.0]], (3, 2), check_invariants=True)
        >>> RowSGD([rows], lr=0.5).step()
        >>> rows.tolist()
        [[1.0, 1.0], [0.5, 0.0], [1.0, 1.0]]
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ConfigError(
                "RowSGD needs lr >= 0, weight_decay >= 0 and momentum in [0, 1), got "
                f"{lr}, {weight_decay} and {momentum}."
            )
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step on all parameters that have a gradient.

        Args:
            closure: Computes the loss anew, as in `torch.optim`.

        Returns:
            What the closure gave; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                velocity = self._velocity(parameter) if group["momentum"] else None
                if parameter.grad.is_sparse:
                    _step_rows(parameter, parameter.grad.coalesce(), velocity, group)
                else:
                    _step(parameter, parameter.grad, velocity, group)
        return loss

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity: Tensor = state["momentum_buffer"]
        return velocity


def _step(values: Tensor, gradient: Tensor, velocity: Tensor | None, group: dict[str, Any]) -> None:
    """One step in place, without another tensor of that size."""
    rate, decay = group["lr"], group["weight_decay"]
    if velocity is None:
        values.mul_(1 - rate * decay).add_(gradient, alpha=-rate)
    else:
        velocity.mul_(group["momentum"]).add_(gradient).add_(values, alpha=decay)
        values.sub_(velocity, alpha=rate)


def _step_rows(values: Tensor, gradient: Tensor, velocity: Tensor | None, group: dict[str, Any]) -> None:
    places = gradient.indices()[0]
    rows = values[places]
    if velocity is None:
        _step(rows, gradient.values(), None, group)
    else:
        of_rows = velocity[places]
        _step(rows, gradient.values(), of_rows, group)
        velocity[places] = of_rows
    values[places] = rows
