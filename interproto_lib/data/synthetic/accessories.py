"""Glasses, and things before the face: a hand, a scarf, a phone."""

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
    on_skin,
    positive,
    ridge,
)
from interproto_lib.data.synthetic.nuisance import OCCLUDERS

_FINGERS = ((-0.33, -0.44, 0.02), (-0.11, -0.17, -0.16), (0.11, 0.10, -0.12), (0.33, 0.38, 0.04))
"""x of the foot, x and y of the tip of each finger of a hand, about its middle, in face units."""


def draw_glasses(face: Face, canvas: Canvas, image: Plane) -> None:
    """Draw two lenses with rims, a bridge and the beginning of the arms."""
    eye, half, high = face.eye_distance, face.frame_width, face.frame_height
    w = canvas.window(-1.25, 1.25, -0.40, 0.48)
    y, ax = canvas.y[w] - 0.04, canvas.ax[w]
    u, v = (ax - (eye + 0.01)) * (1.0 / half), y * (1.0 / high)
    u *= u
    v *= v
    # Between an ellipse and a rounded rectangle.
    square = 1.0 - face.frame_round
    lens = u + v
    lens += square * (u * u + v * v - lens)
    np.sqrt(lens, out=lens)
    lens -= 1.0
    lens *= high
    dark = face.sunglasses > 0.0
    view = image[:, w[0], w[1]]
    glass = cover(lens.copy(), canvas.edge)
    if dark:
        blend(view, [0.07, 0.065, 0.06], 0.90 * glass)
    glint = canvas.x[w] * 0.8
    glint += y
    glint += 0.28
    shine = ridge(np.abs(glint) - 0.06, 0.10)
    shine *= glass
    shine *= 0.16
    blend(view, [0.95, 0.97, 1.0], shine)
    thick = 0.5 * canvas.fine(0.040)
    rim = cover(np.abs(lens) - thick, canvas.edge)
    bar = np.abs(y + 0.05) - thick
    gap = ax - (eye + 0.01) + half
    bridge = cover(np.maximum(bar - 0.02 * bump_between(ax), gap), canvas.edge)
    arm = cover(np.maximum(np.abs(y + 0.06) - thick, (eye + 0.01) + half - ax), canvas.edge)
    arm *= ax < face.face_width + 0.03
    np.maximum(rim, bridge, out=rim)
    np.maximum(rim, arm, out=rim)
    rim *= 0.92
    blend(view, [float(c) for c in face.frame_colour], rim)


def bump_between(ax: Plane) -> Plane:
    """Arch of the bridge: 1 in the middle, 0 from 0.2 on."""
    return clip01(1.0 - ax * 5.0)


def draw_occluder(face: Face, canvas: Canvas, image: Plane) -> None:
    """Draw the thing before the face that `face.occluder` names."""
    kind = OCCLUDERS[int(face.occluder) - 1]
    {"hand": _hand, "scarf": _scarf, "phone": _phone}[kind](face, canvas, image)


def _hand(face: Face, canvas: Canvas, image: Plane) -> None:
    """A hand laid on cheek and chin from below: four rounded fingers, lit from the front, on a palm."""
    side = face.occluder_side
    shift_x, shift_y = face.occluder_shift
    x, y = canvas.x * side - (0.62 + 0.3 * shift_x), canvas.y - (0.95 + 0.4 * shift_y)
    low = y - 0.85
    palm = np.sqrt(x * x + low * low)
    palm -= 0.52
    blend(image, _lit(face, 0.88 - 0.25 * clip01(y - 0.4)), cover(palm, canvas.edge))
    for foot, tip, reach in _FINGERS:
        along = y - reach
        np.minimum(along, 0.65, out=along)
        positive(along, out=along)
        across = along * ((tip - foot) / 0.65)
        across += x
        across -= tip
        end = y - reach
        end -= along
        end *= end
        distance = across * across
        distance += end
        np.sqrt(distance, out=distance)
        distance -= 0.118
        light = across * across
        light *= -11.0
        light += across * (1.2 * side * face.light[0])
        light += 0.98
        # A line of shadow around each finger.
        blend(image, _darker(face), 0.55 * ridge(distance - 0.01, canvas.fine(0.035)))
        blend(image, _lit(face, light), cover(distance, canvas.edge))
        nail = y - (reach - 0.02)
        nail *= nail
        nail += 2.2 * (across * across)
        np.sqrt(nail, out=nail)
        nail -= 0.055
        blend(image, [min(1.0, c * 1.06 + 0.04) for c in face.skin], 0.5 * cover(nail, canvas.edge))


def _lit(face: Face, light: Plane) -> Plane:
    """Skin in a light (h, w) -> (3, h, w)."""
    return np.array(face.skin, np.float32).reshape(3, 1, 1) * light


def _darker(face: Face) -> list[float]:
    return [c * 0.45 for c in face.skin]


def _scarf(face: Face, canvas: Canvas, image: Plane) -> None:
    """A scarf drawn up over chin and mouth, in folds."""
    shift_x, shift_y = face.occluder_shift
    top = face.mouth_y - 0.12 + 0.35 * shift_y
    x, y = canvas.x, canvas.y
    fold = on_skin(noise_tiles()[2], x, y, 26.0, face.offsets[2], face.offsets[3])
    line = x * x
    line *= -0.16 if abs(shift_x) < 0.25 else 0.10
    line += top
    line += (0.25 * shift_x) * x
    line += 0.02 * fold
    line -= y
    wave = y * 5.0
    wave += 1.2 * x * (1.0 if shift_x > 0 else -1.0)
    wave += 0.5 * fold
    wave -= np.rint(wave)
    light = canvas.ax * -0.18
    light += 0.95
    light -= 1.6 * (wave * wave)
    light += 0.05 * fold
    cloth = np.array(face.occluder_colour, np.float32).reshape(3, 1, 1)
    blend(image, cloth * light, cover(line, canvas.edge))


def _phone(face: Face, canvas: Canvas, image: Plane) -> None:
    """A phone held to the cheek: a dark rounded slab with a lens, three fingers around it."""
    side = face.occluder_side
    shift_x, shift_y = face.occluder_shift
    x, y = canvas.x * side - (1.00 + 0.25 * shift_x), canvas.y - (0.70 + 0.3 * shift_y)
    u, v = x * 0.97 + y * 0.24, y * 0.97 - x * 0.24
    p, q = positive(np.abs(u) - 0.20), positive(np.abs(v) - 0.62)
    slab = np.sqrt(p * p + q * q)
    slab -= 0.10
    tint = np.array([c * 0.40 for c in face.occluder_colour], np.float32).reshape(3, 1, 1)
    blend(image, tint * (1.0 - 0.25 * clip01(u + 0.4)), cover(slab, canvas.edge))
    p, q = u + 0.10, v + 0.50
    lens = np.sqrt(p * p + q * q)
    lens -= 0.07
    blend(image, [0.03, 0.03, 0.04], cover(lens, canvas.edge))
    for place in (-0.02, 0.20, 0.42):
        off = v - place
        off *= off
        reach = positive(-0.10 - u)
        finger = np.sqrt(off + reach * reach)
        finger -= 0.105
        blend(image, _darker(face), 0.55 * ridge(finger - 0.01, canvas.fine(0.035)))
        off *= -18.0
        off += 0.95
        blend(image, _lit(face, off), cover(finger, canvas.edge))
