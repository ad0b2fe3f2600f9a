"""Where to compute: the device of a setting, and how many CPU threads torch takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from interproto_lib.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Give the device that a setting names.

    Args:
        name: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:0` and so on.

    Returns:
        The device.

    Raises:
        ConfigError: There is no such device, or not on this machine.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r} is not a device: use 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and not n_gpus:
        raise ConfigError(f"device={name!r}: this machine has no usable GPU. Use 'cpu' or 'auto'.")
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise ConfigError(
            f"device={name!r}: this machine has {n_gpus} GPUs, counted from 0. Use one of them, or 'auto'."
        )
    return device


@contextmanager
def torch_threads(n_threads: int | None) -> Iterator[None]:
    """Let torch use a number of CPU threads, and put its setting back afterwards.

    Args:
        n_threads: At least 1; None leaves the setting as it is.

    Raises:
        ConfigError: The number is below 1.

    Example:
        >>> with torch_threads(1):
        ...     torch.get_num_threads()
        1
    """
    if n_threads is not None and n_threads < 1:
        raise ConfigError(f"n_threads is {n_threads}; it must be at least 1.")
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
