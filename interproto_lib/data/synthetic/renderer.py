"""Drawing faces: rows of numbers in, images out, one image at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interproto_lib.data.synthetic.accessories import draw_glasses, draw_occluder
from interproto_lib.data.synthetic.ageing import person_at_age
from interproto_lib.data.synthetic.camera import take_picture
from interproto_lib.data.synthetic.canvas import Canvas, Face, Plane, blend, cover
from interproto_lib.data.synthetic.eyes import draw_eyes
from interproto_lib.data.synthetic.hair import Hair, draw_hair_behind, draw_hair_in_front, shade_under_hair
from interproto_lib.data.synthetic.hashing import uniforms
from interproto_lib.data.synthetic.identities import draw_identities
from interproto_lib.data.synthetic.mouth import draw_mouth
from interproto_lib.data.synthetic.nuisance import draw_nuisance
from interproto_lib.data.synthetic.settings import SyntheticSettings
from interproto_lib.data.synthetic.skin import Skin, colour_skin, light_skin, raise_relief
from interproto_lib.data.synthetic.surroundings import draw_background, draw_ears, draw_neck_and_clothes
from interproto_lib.errors import ConfigError

_STREAM_TEXTURE = 9
_ROWS_AT_ONCE = 512


def draw_faces(
    identity_index: ArrayLike,
    image_index: ArrayLike,
    age_years: ArrayLike,
    *,
    settings: SyntheticSettings | None = None,
    image_size: int | None = None,
) -> NDArray[np.uint8]:
    """Draw faces, each a function of its row and the settings alone.

    The bytes do not depend on the machine, nor on which rows are drawn together or in which order.

    Args:
        identity_index: (n,) whole numbers >= 0: who.
        image_index: (n,) whole numbers >= 0: which chance of pose, light and camera.
        age_years: (n,) in [0, 120]: at which age.
        settings: Appearance (`nuisance`, `amplitude`, `child_amplitude_floor`, `seed`) and size; the defaults if None.
        image_size: 56 or 112; the settings' own if None.

    Returns:
        (n, size, size, 3) uint8, RGB, aligned to the template of `canvas.TEMPLATE`.

    Raises:
        ConfigError: Arrays of different lengths, an age or index out of range, another image size.

    Example:
        >>> draw_faces([3, 3], [0, 1], [7.0, 40.0], image_size=56).shape
        (2, 56, 56, 3)
    """
    chosen = settings or SyntheticSettings()
    size = chosen.image_size if image_size is None else image_size
    if size not in (56, 112):
        raise ConfigError(f"image_size is {size}; faces are drawn at 56 or 112 pixels.")
    who = np.atleast_1d(np.asarray(identity_index, dtype=np.int64))
    which = np.atleast_1d(np.asarray(image_index, dtype=np.int64))
    age = np.atleast_1d(np.asarray(age_years, dtype=np.float64))
    if not (who.ndim == 1 and who.shape == which.shape == age.shape):
        raise ConfigError(
            f"identity_index, image_index and age_years must be equally long; their shapes are {who.shape}, "
            f"{which.shape} and {age.shape}."
        )
    if len(age) and not (age.min() >= 0.0 and age.max() <= 120.0):
        raise ConfigError(f"age_years must lie in [0, 120]; found {age.min()} to {age.max()}.")
    if len(who) and (who.min() < 0 or which.min() < 0):
        raise ConfigError("identity_index and image_index must not be negative.")
    images = np.empty((len(who), size, size, 3), np.uint8)
    for start in range(0, len(who), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        for number, face in enumerate(_faces(who[rows], which[rows], age[rows], chosen)):
            images[start + number] = draw_face(face, size)
    return images


def _faces(
    who: NDArray[np.int64], which: NDArray[np.int64], age: NDArray[np.float64], settings: SyntheticSettings
) -> Iterator[Face]:
    people = draw_identities(who, seed=settings.seed)
    numbers = person_at_age(
        people, age, amplitude=settings.amplitude, child_amplitude_floor=settings.child_amplitude_floor
    )
    numbers |= draw_nuisance(who, which, numbers, nuisance=settings.nuisance, seed=settings.seed)
    texture = np.floor(uniforms(settings.seed, who, _STREAM_TEXTURE, count=4) * 256.0)
    numbers["skin_offset"], numbers["freckle_offset"] = texture[:, :2], texture[:, 2:]
    columns = {name: values.tolist() for name, values in numbers.items()}
    for row in range(len(who)):
        yield Face(**{name: values[row] for name, values in columns.items()})


def draw_face(face: Face, size: int) -> NDArray[np.uint8]:
    """Draw one face.

    Args:
        face: All its numbers.
        size: 56 or 112.

    Returns:
        (size, size, 3) uint8.
    """
    canvas = Canvas(face, size)
    image = draw_background(face, size)
    hair = Hair(face, canvas)
    draw_hair_behind(face, canvas, hair, image)
    draw_neck_and_clothes(face, canvas, image)
    if not hair.covers_ears:
        draw_ears(face, canvas, image)
    skin = Skin(face, canvas)
    raise_relief(face, canvas, skin)
    shade_under_hair(canvas, hair, skin)
    light_skin(face, canvas, skin)
    colour_skin(face, canvas, skin)
    draw_mouth(face, canvas, skin)
    draw_eyes(face, canvas, skin)
    _lay_face(canvas, face, skin, image)
    draw_hair_in_front(face, canvas, hair, image)
    if face.glasses > 0.0:
        draw_glasses(face, canvas, image)
    if face.occluder > 0.0:
        draw_occluder(face, canvas, image)
    return take_picture(image, face)


def _lay_face(canvas: Canvas, face: Face, skin: Skin, image: Plane) -> None:
    w = canvas.window(-face.face_width - 0.1, face.face_width + 0.1, -1.74, face.chin_y + 0.08)
    alpha = cover(skin.outline[w].copy(), canvas.edge * 0.8)
    blend(image[:, w[0], w[1]], skin.colour[:, w[0], w[1]], alpha)
