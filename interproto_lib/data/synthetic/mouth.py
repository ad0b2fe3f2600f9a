"""Mouth: lips, the line between them, teeth when it is open."""

from __future__ import annotations

import numpy as np

from interproto_lib.data.synthetic.canvas import Canvas, Face, blend, bump, clip01, cover, positive, ridge
from interproto_lib.data.synthetic.skin import Skin


def draw_mouth(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Draw the mouth onto the colour of the skin; lips and opening lie between parabolas of the width."""
    smile = face.smile
    width = face.mouth_width * (1.0 + 0.14 * smile)
    opened = face.mouth_open + 0.05 * max(smile - 0.75, 0.0)
    middle = canvas.mouth_x
    bottom = face.mouth_y + face.lower_lip + opened + 0.14
    w = canvas.window(middle - width - 0.06, middle + width + 0.06, face.mouth_y - face.upper_lip - 0.16, bottom)
    image, shade = skin.colour[:, w[0], w[1]], skin.shade[w]
    u = canvas.x[w] - middle
    u *= 1.0 / width
    squared = u * u
    arc = np.subtract(1.0, squared)
    inside = arc > 0.0
    positive(arc, out=arc)
    # The line between the lips: bent by mood, with a dip under the middle of the upper lip.
    line = squared - 0.5
    line *= face.mouth_curve - 0.014 - 0.065 * smile
    line += u * (0.5 * face.mouth_tilt)
    line += 0.012 * bump(squared * 9.0)
    y = canvas.y[w] - face.mouth_y
    y -= line
    bow = bump(squared * 14.0)
    bow *= -0.30
    bow += 1.0
    soft = np.sqrt(arc)
    soft *= 0.35
    soft += 0.65 * arc
    upper = soft * bow
    upper *= -face.upper_lip
    upper -= arc * (0.35 * opened)
    lower = soft * face.lower_lip
    lower += arc * (0.65 * opened)
    alpha = cover(np.maximum(upper - y, y - lower), canvas.edge * 0.75)
    alpha *= inside
    alpha *= 0.85
    red = face.lip_red
    lip = [face.skin[0] * (1.0 - red * 0.30), face.skin[1] * (1.0 - red * 1.45), face.skin[2] * (1.0 - red * 1.15)]
    # The upper lip turns from the light, the lower towards it, with a gleam.
    lit = clip01(y * 9.0 + 0.5)
    lit *= 0.22
    lit += 0.84
    gleam = ridge(y - (0.65 * opened + 0.50 * face.lower_lip), 0.035)
    gleam *= bump(squared * 2.2)
    lit += 0.13 * gleam
    lit *= shade
    blend(image, np.array(lip, np.float32).reshape(3, 1, 1) * lit, alpha)
    if opened > 0.02:
        gap_top, gap_bottom = arc * (-0.35 * opened), arc * (0.65 * opened)
        hole = cover(np.maximum(gap_top - y, y - gap_bottom), canvas.edge)
        hole *= inside
        teeth = clip01((0.055 - y - 0.10 * squared) * 14.0)
        teeth *= min(opened * 12.0, 1.0) * 0.85
        inner = np.array([0.26, 0.10, 0.10], np.float32).reshape(3, 1, 1) + teeth * np.array(
            [0.56, 0.70, 0.68], np.float32
        ).reshape(3, 1, 1)
        light = shade * 0.7
        light += 0.25
        inner *= light
        blend(image, inner, hole)
    dark = ridge(y + arc * (0.35 * opened), canvas.fine(0.028))
    dark *= inside
    dark *= 0.62 if opened <= 0.02 else 0.35
    np.subtract(1.0, dark, out=dark)
    image *= dark
