"""Similarities as codes of one byte, and the colours of the codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interproto_lib.views.explorer.tiles import LinkedMatrices
from interproto_lib.views.style import symmetric_limit

_SAMPLED_CELLS_A_SIDE = 400

# Seventeen stops of seaborn's vlag, the map of `similarity_colours`: importing seaborn takes seconds, for which the
# first picture would wait. A test compares them.
_STOPS = """
2369BD 4A7BBC 678BBE 829CC3 9BAECB B5C0D4 CFD4E0 E9E9ED FAF5F4
F3E2E0 E7C8C6 DDAFAD D39794 C97F7D BF6765 B44F4F A9373B
"""
_MISSING = 0xD9


def value_codes(values: NDArray[np.floating], limit: float) -> NDArray[np.uint8]:
    """Turn similarities into the codes of colours.

    Args:
        values: Any shape; NaN is missing.
        limit: Above 0.

    Returns:
        The same shape: 0 where missing, 128 for 0, 1 for -limit and below, 255 for limit and above.

    Example:
        >>> value_codes(np.array([np.nan, -0.9, 0.0, 0.25, 0.5]), 0.5).tolist()
        [0, 1, 128, 192, 255]
    """
    steps = np.rint(np.clip(values / limit, -1, 1) * 127) + 128
    return np.nan_to_num(steps, nan=0.0).astype(np.uint8)


def palette_bytes() -> bytes:
    """Colours of the codes of `value_codes`, 256 x 3 bytes: those of the static figures, to 3 parts in 255."""
    stops = np.array([list(bytes.fromhex(stop)) for stop in _STOPS.split()], dtype=np.float64)
    places, shades = np.linspace(0, 1, len(stops)), np.linspace(0, 1, 255)
    colours = np.stack([np.interp(shades, places, part) for part in stops.T], axis=1)
    return np.vstack([np.full(3, _MISSING), np.rint(colours)]).astype(np.uint8).tobytes()


def sampled_limit(matrices: LinkedMatrices) -> float:
    """Choose the colour range of matrices from a sample of their cells, without those of one identity with itself."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.permutation(n)[:_SAMPLED_CELLS_A_SIDE] for n in (matrices.n_rows, matrices.n_columns))
    values = matrices.values(rows, columns)
    values[:, matrices.own_columns[rows][:, None] == columns] = np.nan
    return symmetric_limit([values])
