"""Partial FC: an image's softmax looks at its own prototype and at a random share of all others."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

_BITS = 31
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class DrawnRows(NamedTuple):
    """Prototypes of a shard that a step looks at.

    Attributes:
        places: (k,) int64, ascending, within the rows of the shard: those drawn and the classes of the batch.
        is_drawn: (k,) bool, which were drawn; images of other classes look at these alone.
    """

    places: Tensor
    is_drawn: Tensor


def drawn_rows(rows: range, labels: Tensor, *, rate: float, seed: int, step: int) -> DrawnRows:
    """Draw the prototypes of a shard that a step looks at.

    Every class is drawn by itself with probability `rate`, by a hash (the finaliser of SplitMix64) of seed, step and
    its number. So the same classes are drawn however they are spread over processes, on every device, and by a run that
    goes on. Each image looks at the classes drawn and at its own.
    How many there are is known on the processor only once a GPU has counted them: each step waits for it here.
    Source: An et al., "Killing two birds with one stone: efficient and robust training of face recognition CNNs by
    partial FC", CVPR 2022.
    Deviations: there each process draws a fixed number, which depends on how many processes there are; and there the
    classes of the batch count as drawn for all of its images, which depends on how a step is divided into parts.

    Args:
        rows: Classes that this process holds.
        labels: (b,) classes of the batch, all processes together.
        rate: Share of the classes, in (0, 1].
        seed: Of the training.
        step: Steps made so far.

    Returns:
        The rows to look at.

    Example:
        >>> found = drawn_rows(range(50, 100), torch.tensor([7, 77, 77]), rate=0.05, seed=0, step=3)
        >>> found.places.tolist(), found.is_drawn.tolist()
        ([7, 9, 23, 27, 40], [True, True, True, False, True])
    """
    wanted = _hashes(rows, seed=seed, step=step, device=labels.device) < rate * 2**_BITS
    places = labels.long() - rows.start
    looked_at = wanted.clone()
    looked_at[places[(places >= 0) & (places < len(rows))]] = True
    found = looked_at.nonzero()[:, 0]
    return DrawnRows(found, wanted[found])


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
