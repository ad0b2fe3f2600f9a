"""Behind and below the face: background, neck and clothes, ears."""

from __future__ import annotations

import numpy as np

from interproto_lib.data.synthetic.canvas import (
    Canvas,
    Face,
    Plane,
    blend,
    clip01,
    cover,
    noise_tiles,
    positive,
    spot,
    tile_cut,
)


def draw_background(face: Face, size: int) -> Plane:
    """Give an image (3, size, size) of a wall out of focus: two shades, tilted, faintly clouded."""
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(1.0 / size) - np.float32(0.5)
    mix = at[:, None] * 0.8 + at[None, :] * face.background_tilt
    mix += tile_cut(noise_tiles()[2], size, face.offsets[0], face.offsets[1]) * 0.07
    mix += 0.5
    clip01(mix)
    near = np.array(face.background_near, np.float32).reshape(3, 1, 1)
    far = np.array(face.background_far, np.float32).reshape(3, 1, 1)
    image = (far - near) * mix
    image += near
    return image


def draw_neck_and_clothes(face: Face, canvas: Canvas, image: Plane) -> None:
    """Draw the neck in the shadow of the chin, shoulders and collar."""
    chin, width = face.chin_y, face.face_width
    w = canvas.window(-2.5, 2.5, chin - 0.75, 3.2)
    y, ax = canvas.y[w], canvas.ax[w]
    if y.size == 0:
        return
    below = positive(y - (chin - 0.05))
    neck = ax - (0.60 + 0.06 * face.male * face.puberty) * width
    neck -= 0.35 * (below * below)
    alpha = cover(neck, canvas.edge)
    shadow = y - (chin - 0.30)
    shadow *= 0.55
    np.minimum(shadow, 0.42, out=shadow)
    positive(shadow, out=shadow)
    np.subtract(0.78, shadow, out=shadow)
    shadow -= 0.14 * (ax * ax)
    blend(image[:, w[0], w[1]], np.array(face.skin, np.float32).reshape(3, 1, 1) * shadow, alpha)
    # Shoulders slope outwards; the collar dips in the middle.
    line = ax * (0.22 + 0.25 * face.collar)
    dip = positive(0.66 - ax)
    line -= dip * (0.9 * face.collar)
    line += chin + 0.12 - 0.10 * face.collar
    line -= y
    light = np.array(face.cloth, np.float32).reshape(3, 1, 1) * (0.95 - 0.12 * ax)
    blend(image[:, w[0], w[1]], light, cover(line, canvas.edge))


def draw_ears(face: Face, canvas: Canvas, image: Plane) -> None:
    """Draw both ears, half behind the face."""
    size = face.ear_size
    middle = face.face_width - 0.01
    w = canvas.window(-middle - size, middle + size, 0.14 - 1.4 * size, 0.14 + 1.5 * size)
    ax, y = canvas.ax[w], canvas.y[w]
    across = ax - middle
    across -= 0.12 * (0.14 - y)
    across *= 1.0 / (0.52 * size)
    down = y - 0.14
    down *= 1.0 / (1.25 * size)
    distance = across * across
    distance += down * down
    np.sqrt(distance, out=distance)
    light = 0.80 - 0.34 * spot(ax, y, middle + 0.06 * size, 0.12, 0.36 * size, 0.85 * size)
    distance -= 1.0
    distance *= 0.6 * size
    tint = np.array([face.skin[0], face.skin[1] * 0.93, face.skin[2] * 0.92], np.float32).reshape(3, 1, 1)
    blend(image[:, w[0], w[1]], tint * light, cover(distance, canvas.edge))
