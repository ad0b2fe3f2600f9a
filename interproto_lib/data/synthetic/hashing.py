"""Random numbers as a function of what they are for: the same on every machine, in any order, in any batch.

A key, such as (seed, identity, stream, image), is hashed to a number; nothing is drawn from a stream, so that the
face of one image does not depend on which other images are drawn, how many at a time, or by how many processes.

Source: the finaliser of splitmix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, used here on a counter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_START = np.uint64(0x243F6A8885A308D3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_COUNTER = np.uint64(0xD1342543DE82EF95)
_SQRT_3 = 1.7320508075688772


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def uniforms(*key: ArrayLike, count: int) -> NDArray[np.float64]:
    """Give `count` numbers uniform in [0, 1) for each key, multiples of 2**-53.

    Args:
        *key: Whole numbers, each a scalar or an array of n entries; entry i of all of them is the key of row i.
        count: How many numbers for each key.

    Returns:
        (n, count); row i depends on entry i of the key alone, column j is the same whatever `count` is.

    Example:
        >>> uniforms(0, [7, 8], count=2).shape
        (2, 2)
        >>> bool((uniforms(0, [7, 8], count=3)[1, :2] == uniforms(0, 8, count=2)[0]).all())
        True
    """
    parts = np.broadcast_arrays(*[np.atleast_1d(np.asarray(part, dtype=np.int64)) for part in key])
    with np.errstate(over="ignore"):
        state: NDArray[np.uint64] = np.full(parts[0].shape, _START)
        for part in parts:
            state = _mix(state ^ part.astype(np.uint64))
        counters = np.arange(1, count + 1, dtype=np.uint64) * _COUNTER
        bits = _mix(state[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * (1.0 / 9007199254740992.0)


def normals(*key: ArrayLike, count: int) -> NDArray[np.float64]:
    """Give `count` nearly normal numbers for each key: mean 0, variance 1, none beyond 3.47.

    sqrt(3) * (u1 + u2 + u3 + u4 - 2) with uniform u, the Irwin-Hall distribution of order 4: it needs no logarithm
    and no cosine, whose last bits differ between machines.

    Args:
        *key: As in `uniforms`.
        count: How many numbers for each key.

    Returns:
        (n, count).
    """
    u = uniforms(*key, count=4 * count)
    u = u.reshape(len(u), count, 4)
    return (((u[:, :, 0] + u[:, :, 1]) + (u[:, :, 2] + u[:, :, 3])) - 2.0) * _SQRT_3
