"""Eyes and brows: left and right at once, on coordinates folded about the middle of the face."""

from __future__ import annotations

import numpy as np

from interproto_lib.data.synthetic.canvas import (
    Canvas,
    Face,
    Plane,
    blend,
    bump,
    clip01,
    cover,
    positive,
    ridge,
    strands,
)
from interproto_lib.data.synthetic.skin import Skin


def draw_eyes(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Draw both eyes and brows onto the colour of the skin."""
    _eyes(face, canvas, skin)
    _brows(face, canvas, skin)


def _sides(x: Plane) -> Plane:
    """-1 left of the middle, 1 right of it."""
    return np.copysign(np.float32(1.0), x)


def _eyes(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Eyes: the opening lies between two parabolas; ball, iris and pupil are discs behind it."""
    width, height = face.eye_width, face.eye_height * face.lid
    reach = face.eye_distance + width * 1.2
    w = canvas.window(-reach, reach, -height - 0.17, height * 0.55 + 0.10)
    side = _sides(canvas.x[w])
    x = canvas.ax[w] - face.eye_distance
    y = canvas.y[w] + x * (2.0 * face.eye_tilt)
    y -= side * face.eye_asymmetry
    image, shade = skin.colour[:, w[0], w[1]], skin.shade[w]
    u = x * (1.0 / width)
    opening = u * u
    np.subtract(1.0, opening, out=opening)
    inside = opening > 0.0
    held = positive(opening)
    upper = u * face.eye_skew
    upper += 1.0
    upper *= held
    upper *= -height
    lower = held * (height * 0.52)
    above = upper - y  # positive above the upper lid
    below = y - lower
    # Fold of the upper lid, and its shadow towards the inner corner.
    fold = above - (face.lid_gap + 0.035)
    near = opening > -0.12
    crease = ridge(fold, canvas.fine(0.032))
    crease *= near
    crease *= 0.50 * min(face.lid_crease, 0.9)
    np.subtract(1.0, crease, out=crease)
    image *= crease
    alpha = cover(np.maximum(above, below), canvas.edge)
    alpha *= inside
    gaze_x, gaze_y = x - side * face.gaze_x, y - (face.gaze_y - 0.012)
    radius = gaze_x * gaze_x
    radius += gaze_y * gaze_y
    np.sqrt(radius, out=radius)
    iris = face.iris_radius
    # White of the eye, darker under the lid and at the corners.
    light = np.minimum(shade, 1.0)
    light *= 0.55
    light += 0.42
    lid_shadow = ridge(above + 0.012, 0.075)
    lid_shadow *= -0.38
    lid_shadow += 1.0
    light *= lid_shadow
    corner = held * 1.6
    np.minimum(corner, 1.0, out=corner)
    corner *= 0.25
    corner += 0.72
    ball = np.empty_like(image)
    ball[:] = light * corner
    ball *= np.array([0.96, 0.93, 0.91], np.float32).reshape(3, 1, 1)
    glow = radius * (0.75 / iris)
    np.minimum(glow, 0.80, out=glow)
    glow += 0.55 + 0.12 * (1.0 - face.growth)
    glow *= light
    blend(ball, np.array(face.iris, np.float32).reshape(3, 1, 1) * (glow * 1.25), cover(radius - iris, canvas.edge))
    limbus = ridge(radius - iris, canvas.fine(0.026))
    limbus *= -0.55
    limbus += 1.0
    ball *= limbus
    blend(ball, [0.025, 0.02, 0.02], cover(radius - iris * 0.43, canvas.edge))
    gleam_x, gleam_y = gaze_x - side * (face.light[0] * 0.05), gaze_y + 0.042
    gleam = gleam_x * gleam_x
    gleam += gleam_y * gleam_y
    gleam *= 1.0 / (canvas.fine(0.040) * canvas.fine(0.040))
    blend(ball, [0.97, 0.97, 0.97], bump(gleam))
    ball -= image
    ball *= alpha
    image += ball
    # Lashes: a dark line above, thicker outwards and in women, a faint one below.
    grown = 0.010 * face.puberty * (1.0 - face.male)
    thick = u * 0.006
    thick += canvas.fine(0.030) + grown
    lash = above / thick
    np.multiply(lash, lash, out=lash)
    bump(lash)
    lash *= opening > -0.06
    lash *= 0.80
    under = ridge(below, canvas.fine(0.024))
    under *= inside
    under *= 0.24
    np.maximum(lash, under, out=lash)
    np.subtract(1.0, lash, out=lash)
    image *= lash


def _brows(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Brows: an arched band, thick and square inside, thin outside, of slanting hairs."""
    length, middle = face.brow_length, face.eye_distance + 0.02
    centre = face.brow_y - face.brow_raise
    w = canvas.window(-middle - length, middle + length, centre - 0.17, centre + 0.13)
    x = canvas.ax[w] - middle
    y = canvas.y[w] - _sides(canvas.x[w]) * face.eye_asymmetry
    y -= centre
    u = x * (1.0 / length)
    arch = u - 0.15
    np.multiply(arch, arch, out=arch)
    arch -= 1.0
    arch *= face.brow_arch + 0.02
    arch += u * (face.brow_tilt + 0.012)
    ends = u * u
    np.multiply(ends, ends, out=ends)
    np.subtract(1.0, ends, out=ends)
    positive(ends, out=ends)
    thick = u * -0.40
    thick += 0.95
    thick *= ends
    thick *= face.brow_thickness * 1.15
    off = y - arch
    hairs = strands(x + off * 0.9, canvas.size, face.offsets[6])
    alpha = cover(np.abs(off) - thick, canvas.edge * 0.55)
    alpha *= ends > 0.0
    hairs *= 0.30
    hairs += 1.0
    alpha *= hairs
    alpha *= face.brow_darkness * (1.0 - 0.25 * face.old) * 0.95
    clip01(alpha)
    colour = [c * 0.55 + 0.02 for c in face.hair] if face.grey < 0.5 else [c * 0.75 for c in face.hair]
    shade = skin.shade[w] * 0.5
    shade += 0.5
    blend(skin.colour[:, w[0], w[1]], np.array(colour, np.float32).reshape(3, 1, 1) * shade, alpha)
