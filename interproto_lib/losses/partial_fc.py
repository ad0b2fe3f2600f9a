"""Partial FC: a step's softmax looks at the prototypes of its images and at a random share of all others."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_BITS = 31
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def drawn_rows(rows: range, labels: Tensor, *, rate: float, seed: int, step: int) -> Tensor:
    """Draw the prototypes of a shard that a step looks at.

    Every class is drawn by itself with probability `rate`, by a hash (the finaliser of SplitMix64) of seed, step and
    its number; the classes of the batch are added. So the same classes are drawn however they are spread over
    processes, on every device, and by a run that goes on.
    Source: An et al., "Killing two birds with one stone: efficient and robust training of face recognition CNNs by
    partial FC", CVPR 2022.
    Deviation: there each process draws a fixed number, the positives within it, which depends on how many there are.

    Args:
        rows: Classes that this process holds.
        labels: (b,) classes of the batch, all processes together.
        rate: Share of the classes, in (0, 1].
        seed: Of the training.
        step: Steps made so far.

    Returns:
        (k,) int64, ascending places within `rows`.

    Example:
        >>> drawn_rows(range(50, 100), torch.tensor([7, 77, 77]), rate=0.1, seed=0, step=3).tolist()
        [4, 7, 9, 23, 27, 36, 40, 49]
    """
    wanted = _hashes(rows, seed=seed, step=step, device=labels.device) < rate * 2**_BITS
    places = labels.long() - rows.start
    wanted[places[(places >= 0) & (places < len(rows))]] = True
    return wanted.nonzero()[:, 0]


def _hashes(rows: range, *, seed: int, step: int, device: torch.device) -> Tensor:
    """One number in [0, 2^31) for each row."""
    key = int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "little")
    mixed = torch.arange(rows.start, rows.stop, device=device).mul_(_signed(_GOLDEN)).add_(_signed(key))
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        mixed.bitwise_xor_(_shifted(mixed, shift)).mul_(_signed(factor))
    return _shifted(mixed.bitwise_xor_(_shifted(mixed, 31)), 64 - _BITS)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """Shift to the right without keeping the sign."""
    return (numbers >> by).bitwise_and_(2 ** (64 - by) - 1)


def _signed(number: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return number - 2**64 if number >= 2**63 else number
