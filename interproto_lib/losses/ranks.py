"""What the processes of a training know of each other; without a process group there is one, and nothing is sent."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from interproto_lib.errors import ConfigError


def world_size() -> int:
    """Give how many processes train together; 1 without a process group."""
    return torch.distributed.get_world_size() if _in_a_group() else 1


def rank() -> int:
    """Give the number of this process among them, from 0 on; 0 without a process group."""
    return torch.distributed.get_rank() if _in_a_group() else 0


def shard_rows(n: int, world_size: int, rank: int) -> range:
    """Give the rows that one of several processes holds, by the rule of `torch.chunk`.

    Each holds ceil(n / world_size) rows, the last ones what is left: fewer, or none.

    Args:
        n: Rows of the whole matrix, >= 0.
        world_size: Number of processes, >= 1.
        rank: Number of the process, in [0, world_size).

    Returns:
        Its rows.

    Raises:
        ConfigError: A number is out of range.

    Example:
        >>> [list(shard_rows(5, 4, rank)) for rank in range(4)]
        [[0, 1], [2, 3], [4], []]
    """
    if n < 0 or not 0 <= rank < world_size:
        raise ConfigError(f"Rows are spread from 0 <= rank < world_size, n >= 0; got {rank}, {world_size} and {n}.")
    most = -(-n // world_size)
    return range(min(rank * most, n), min((rank + 1) * most, n))


def sum_over_ranks(value: Tensor) -> Tensor:
    """Give the sum of a tensor over all ranks; without several ranks, the value itself.

    Args:
        value: A tensor of one shape and type on all ranks.

    Returns:
        The sum, the same on all ranks, without gradient where there are several.
    """
    return _reduced(value, torch.distributed.ReduceOp.SUM)


def average_over_ranks(value: Tensor) -> Tensor:
    """Give the mean of a statistic over all ranks; without several ranks, the value itself.

    Args:
        value: A floating point tensor of one shape on all ranks.

    Returns:
        The mean, the same on all ranks, without gradient where there are several.
    """
    return value if world_size() == 1 else sum_over_ranks(value) / world_size()


def max_over_ranks(value: Tensor) -> Tensor:
    """Give the largest of each entry over all ranks; without several ranks, the value itself.

    Args:
        value: A tensor of one shape and type on all ranks.

    Returns:
        The maxima, the same on all ranks, without gradient where there are several.
    """
    return _reduced(value, torch.distributed.ReduceOp.MAX)


def _reduced(value: Tensor, operation: torch.distributed.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value
    reduced = value.detach().clone()
    torch.distributed.all_reduce(reduced, op=operation)
    return reduced


def gather_rows(rows: Tensor) -> Tensor:
    """Put the rows of all ranks under one another, those of rank 0 first.

    The backward pass is for a loss that every rank computes from all rows and its own part of the prototypes: the
    gradients that the ranks arrive at are parts of one sum. They are added, each rank takes those of its own rows, and
    multiplies them by the number of ranks, because DistributedDataParallel divides by it.

    Args:
        rows: (b, ...) of one shape and type on all ranks.

    Returns:
        (b * world_size, ...); without several ranks, the rows themselves.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        gathered = rows.new_empty((world_size() * len(rows), *rows.shape[1:]))
        torch.distributed.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        n_ranks = world_size()
        own = gradient.new_empty((len(gradient) // n_ranks, *gradient.shape[1:]))
        torch.distributed.reduce_scatter_tensor(own, gradient.contiguous())
        return own * n_ranks


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
