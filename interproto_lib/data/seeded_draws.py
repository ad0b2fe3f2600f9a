"""Draws that depend on a seed and on nothing else: neither on the machine nor on numpy's version."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def seeded_hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit counters into 64 bits that look random: the finaliser of splitmix64 (Steele, Lea, Flood, 2014).

    Args:
        values: Counters (n,).

    Returns:
        (n,), entry i a function of `values[i]`.

    Example:
        >>> [hex(value) for value in seeded_hash(np.arange(2, dtype=np.uint64)).tolist()]
        ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    mixed = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def stream_key(seed: int, *, stream: int) -> NDArray[np.uint64]:
    """Give the key (1,) of one of the four streams of a seed; streams of one seed have nothing in common.

    Args:
        seed: Any integer.
        stream: 0 to 3.

    Returns:
        What to add to counters before `seeded_hash`.
    """
    return seeded_hash(np.array([(seed * 4 + stream) % 2**64], dtype=np.uint64))


def draw_numbers(n: int, k: int, seed: int, *, stream: int) -> IntArray:
    """Draw `k` different numbers below `n`, each set of them equally likely.

    Args:
        n: How many numbers there are, >= k.
        k: How many to draw.
        seed: Any integer.
        stream: 0 to 3; draws of different streams of one seed have nothing in common.

    Returns:
        The numbers (k,); all of them in order where k is n.
    """
    if k == n:
        return np.arange(n)
    key = stream_key(seed, stream=stream)
    if n <= 8 * k:
        return np.argsort(seeded_hash(np.arange(n, dtype=np.uint64) + key), kind="stable")[:k]
    drawn = np.empty(0, dtype=np.int64)
    first = drawn
    while len(first) < k:
        counter = np.arange(len(drawn), len(drawn) + 2 * k, dtype=np.uint64)
        drawn = np.concatenate([drawn, (seeded_hash(counter + key) % np.uint64(n)).astype(np.int64)])
        first = np.unique(drawn, return_index=True)[1]
    return drawn[np.sort(first)[:k]]


def text_hash(seed: int, role: str, text: str) -> str:
    """Hash a text for a draw among texts: the one with the smallest hash is drawn, whatever their order.

    Args:
        seed: Any integer.
        role: What is drawn; draws of different roles have nothing in common.
        text: The text.

    Returns:
        The SHA-256 of "<seed> <role> <text>" in UTF-8, 64 hexadecimal digits.
    """
    return hashlib.sha256(f"{seed} {role} {text}".encode()).hexdigest()
