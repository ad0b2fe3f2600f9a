"""Contact sheets: faces side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.synthetic.renderer import draw_faces
from interproto_lib.data.synthetic.settings import SyntheticSettings
from interproto_lib.errors import ConfigError


def contact_sheet(
    identity_index: Sequence[int],
    ages_years: Sequence[float],
    *,
    settings: SyntheticSettings | None = None,
    image_size: int | None = None,
    first_image_index: int = 0,
    gap: int = 2,
) -> NDArray[np.uint8]:
    """Draw people at several ages on one sheet: a row an identity, a column an age.

    Args:
        identity_index: Who, from top to bottom.
        ages_years: At which ages, from left to right; the same age several times gives several images.
        settings: Appearance; the defaults if None.
        image_size: Size of one face, 56 or 112; the settings' own if None.
        first_image_index: Number of the image in the first column; the others follow.
        gap: White pixels between faces.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ConfigError: Nobody or no age is given, or a value is out of range.

    Example:
        >>> contact_sheet([0, 1], [4, 30, 70], image_size=56).shape
        (114, 172, 3)
    """
    n_rows, n_columns = len(identity_index), len(ages_years)
    if not n_rows or not n_columns:
        raise ConfigError("A contact sheet needs at least one identity and one age.")
    if gap < 0:
        raise ConfigError(f"gap={gap} must not be negative.")
    images = draw_faces(
        np.repeat(np.asarray(identity_index), n_columns),
        np.tile(np.arange(first_image_index, first_image_index + n_columns), n_rows),
        np.tile(np.asarray(ages_years, dtype=np.float64), n_rows),
        settings=settings,
        image_size=image_size,
    )
    size = images.shape[1]
    step = size + gap
    sheet = np.full((n_rows * step - gap, n_columns * step - gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, n_columns)
        sheet[row * step : row * step + size, column * step : column * step + size] = image
    return sheet
