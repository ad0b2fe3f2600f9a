"""Numbers that all processes of a training agree on."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def average_over_ranks(value: Tensor) -> Tensor:
    """Give the mean of a statistic over all ranks; without several ranks, the value itself.

    Args:
        value: A tensor without gradient, of one shape on all ranks.

    Returns:
        The mean, the same on all ranks.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
