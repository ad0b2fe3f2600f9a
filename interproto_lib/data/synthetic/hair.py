"""Hair: its line on the forehead, how it falls, what of it is seen behind the face.

Every cut is one construction with other numbers: an outer edge around the head, an opening for the face, and the
direction of the strands. The opening is bounded above by the edge of the hair, y = line + arch (x - parting)^2 + drop *
ramp(x), and at the sides by a distance from the middle; the corner between them is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interproto_lib.data.synthetic.canvas import (
    Canvas,
    Face,
    Plane,
    Window,
    blend,
    bump,
    clip01,
    cover,
    noise_tiles,
    on_skin,
    positive,
    ridge,
    strands,
)
from interproto_lib.data.synthetic.skin import Skin


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How hair is worn in one image.

    Attributes:
        parting: x of the parting.
        side: Direction to which swept hair falls: -1, 1, or 0 for both sides of the parting.
        drop: How far the edge comes down where the hair falls, face units.
        even: Whether the edge comes down evenly, as a fringe.
        cheek: How far hair at the sides covers the face, face units.
        length: y at which it ends, at the sides and behind.
        ragged: Unevenness of the edges.
        volume: Thickness around the head.
    """

    parting: float
    side: float
    drop: float
    even: bool
    cheek: float
    length: float
    ragged: float
    volume: float


_MEN = (
    # up to, drop, sides, cheek, ragged
    (0.30, 0.03, 0.0, 0.00, 0.035),  # cropped
    (0.62, 0.22, 1.0, 0.02, 0.040),  # parted at the side
    (0.80, 0.30, 1.0, 0.03, 0.075),  # brushed over the forehead
    (0.90, 0.34, 0.0, 0.10, 0.050),  # falling to both sides
    (1.00, -0.06, 0.0, 0.02, 0.030),  # brushed back
)
_WOMEN = (
    (0.34, 0.36, 0.0, 0.12, 0.030),  # parted in the middle
    (0.66, 0.42, 1.0, 0.10, 0.035),  # swept to one side
    (0.80, 0.48, 1.0, 0.15, 0.060),  # a long side fringe
    (0.90, -0.02, 0.0, 0.02, 0.025),  # drawn back
    (1.00, 0.26, 1.0, 0.06, 0.070),  # short and tousled
)


def choose_cut(face: Face) -> Cut:
    """Find how the hair is worn today from the person's habit, sex and age, and the chances of the image."""
    styles = _MEN if face.male > 0.5 else _WOMEN
    _, drop, sideways, cheek, ragged = next(style for style in styles if face.hair_style < style[0])
    length = face.hair_length + face.hair_length_change
    tied = face.tied_back > 0.0 and length > 0.4
    if tied:
        drop, sideways, cheek, ragged, length = -0.02, 0.0, 0.02, 0.025, 0.10
    if face.male < 0.5 and face.hair_style >= 0.80:
        length = min(length, 0.30)
    if length < 0.45:
        cheek = min(cheek, 0.06)
    thin = 1.0 - face.bald
    side = 0.0 if sideways == 0.0 else (1.0 if face.parting < 0.0 else -1.0)
    parting = face.parting * (0.35 if side == 0.0 else 0.9)
    even = face.fringe > 0.0 and not tied and face.recession < 0.5
    if even:
        drop, ragged = face.fringe + 0.04, 0.06
    return Cut(
        parting=parting,
        side=side,
        drop=drop * thin * (0.85 + 0.3 * (face.hair_tousle - 0.6)),
        even=even,
        cheek=cheek * thin,
        length=length if face.bald < 0.35 else min(length, 0.25),
        ragged=ragged * face.hair_tousle,
        volume=max(0.03, (face.hair_volume + face.hair_lift * 0.5) * (1.0 - 0.6 * face.bald))
        + (0.05 * face.curl if not tied else 0.0),
    )


class Hair:
    """Hair of one image while it is drawn.

    Attributes:
        cut: How it is worn.
        covers_ears: Whether the ears are hidden.
        window: Rows and columns of the hair in front.
        front: (h, w) signed distance from the opening of the face, negative in hair, within `window`.
        tone: (size, size) brightness of the strands around 0.
        behind: (size, size) share of hair behind face and neck.
        within: (size, size) share of a pixel within the outer edge.
    """

    def __init__(self, face: Face, canvas: Canvas) -> None:
        self.cut = choose_cut(face)
        self.covers_ears = self.cut.length > 0.75
        self.tone = _tone(face, canvas, self.cut)
        self.within = _outer_edge(face, canvas, self.cut, self.tone)
        bottom = min(max(self.cut.length + 0.1, 0.35), 2.2)
        self.window: Window = canvas.window(-2.0, 2.0, -2.0, bottom)
        self.front = _opening(face, canvas, self.cut, self.tone, self.window)


def _tone(face: Face, canvas: Canvas, cut: Cut) -> Plane:
    above = np.minimum(canvas.y, 0.1)
    if cut.side != 0.0 and not cut.even:
        lean = above * (-0.75 * cut.side)
        lean += canvas.x
        lean *= 0.95
        tone = strands(lean, canvas.size, face.offsets[4])
    else:
        off = canvas.x - cut.parting
        np.abs(off, out=off)
        above *= 0.40
        above += 1.15
        off /= above
        tone = strands(off, canvas.size, face.offsets[4])
    if face.curl > 0.05:
        cloud = on_skin(noise_tiles()[1], canvas.x, canvas.y, 75.0, face.offsets[4], face.offsets[5])
        cloud *= 0.75
        cloud -= tone
        cloud *= min(1.0, 1.4 * face.curl)
        tone += cloud
    return tone


def _outer_edge(face: Face, canvas: Canvas, cut: Cut, tone: Plane) -> Plane:
    """Share within the outer edge: an ellipse above, straight or widening sides below."""
    half = face.face_width + cut.volume
    high = 1.50 + 1.3 * cut.volume
    up = np.minimum(canvas.y + 0.15, 0.0)
    up *= 1.0 / high
    np.multiply(up, up, out=up)
    # Rounder than an ellipse: t^2 (0.55 + 0.45 t^2).
    up *= 0.55 + 0.45 * up
    if cut.length > 0.45:
        widening = positive(canvas.y)
        widening *= 0.10
    else:
        # Short hair lies close above the ears.
        widening = clip01((canvas.y + 0.75) * 1.4)
        widening *= -0.75 * cut.volume
    widening += half
    across = canvas.x / widening
    np.multiply(across, across, out=across)
    across += up
    np.sqrt(across, out=across)
    across -= 1.0
    across *= half
    across += tone * (-0.025 * face.hair_tousle - 0.05 * face.curl)
    return cover(across, canvas.edge * 0.8)


def _opening(face: Face, canvas: Canvas, cut: Cut, tone: Plane, window: Window) -> Plane:
    x, y, ax = canvas.x[window], canvas.y[window], canvas.ax[window]
    off = x - cut.parting
    line = face.hairline_y - 0.75 * face.bald - 0.10 * face.recession
    edge = off * off
    edge *= 0.15 if cut.even else face.hairline_arch * (0.35 if cut.side == 0.0 and cut.drop > 0.1 else 0.8)
    if cut.even:
        edge += line + cut.drop
    else:
        ramp = np.abs(off) if cut.side == 0.0 else off * cut.side
        ramp += 0.02
        clip01(ramp)
        # Falling hair: steep at the parting, then level.
        ease = np.subtract(1.0, ramp)
        ease *= ease
        np.subtract(1.0, ease, out=ease)
        ease *= cut.drop
        edge += ease
        edge += line
    # Temples that recede.
    if face.recession > 0.05 and not cut.even:
        corner = np.abs(x) - 0.50
        corner *= 1.0 / 0.34
        edge -= (0.26 * face.recession) * bump(corner * corner)
    below = y - edge
    side = positive(y - 0.05)
    side *= 0.10 if cut.length > 0.45 else 0.9
    side += face.face_width * (0.955 if cut.length > 0.45 else 0.94) - cut.cheek
    top = np.minimum(y + 0.25, 0.0)
    side += 0.10 * top
    side -= ax
    radius = 0.42
    np.subtract(radius, below, out=below)
    positive(below, out=below)
    np.subtract(radius, side, out=side)
    positive(side, out=side)
    below *= below
    side *= side
    below += side
    np.sqrt(below, out=below)
    np.subtract(radius, below, out=below)
    return below + tone[window] * cut.ragged


def draw_hair_behind(face: Face, canvas: Canvas, hair: Hair, image: Plane) -> None:
    """Draw what hangs behind face and neck: nothing but a shade at the nape where it is short."""
    if face.bald > 0.6:
        return
    length = hair.cut.length if hair.cut.length > 0.45 else 0.0
    w = canvas.window(-2.2, 2.2, -2.0, length + 0.25)
    end = canvas.y[w] - length
    end += hair.tone[w] * 0.08
    end += 0.10 * (canvas.x[w] * canvas.x[w])
    alpha = cover(end, canvas.edge * 0.4)
    alpha *= hair.within[w]
    light = hair.tone[w] * 0.32
    light += 0.50
    blend(image[:, w[0], w[1]], np.array(face.hair, np.float32).reshape(3, 1, 1) * light, alpha)


def shade_under_hair(canvas: Canvas, hair: Hair, skin: Skin) -> None:
    """Darken the skin along the edge of the hair."""
    near = positive(hair.front - 0.01)
    skin.dark[hair.window] += 0.26 * ridge(near, 0.16)


def draw_hair_in_front(face: Face, canvas: Canvas, hair: Hair, image: Plane) -> None:
    """Draw the hair around the face."""
    w = hair.window
    x, y = canvas.x[w], canvas.y[w]
    alpha = cover(hair.front.copy(), canvas.edge * 0.6)
    alpha *= hair.within[w]
    length = hair.cut.length if hair.cut.length > 0.45 else 0.12
    end = y - length
    end += hair.tone[w] * 0.06
    if hair.cut.length <= 0.45:
        # Sideburns before the ear, nothing over it.
        end += 2.2 * positive(canvas.ax[w] - 0.90 * face.face_width)
    alpha *= cover(end, canvas.edge * 0.35)
    if face.bald > 0.3:
        # Thin on top.
        bare = min(1.0, 1.6 * face.bald)
        thin = clip01((y + 0.62) * 2.5)
        thin *= bare
        thin += 1.0 - bare
        alpha *= thin
    # Light: sheen in a band across the head, darker towards the edges and away from the light.
    light = hair.tone[w] * 0.40
    light += 0.80
    band = y + 1.06
    band += 0.22 * (x * x)
    light += (0.20 - 0.08 * face.curl) * ridge(band, 0.34)
    turn = x * (0.22 * face.light[0])
    turn -= 0.10 * (x * x)
    light += turn
    low = positive(y)
    light -= 0.10 * low
    near = ridge(np.minimum(hair.front + 0.02, 0.0), 0.14)
    light -= 0.16 * near
    light *= 0.55 + 0.45 * (face.ambient + 0.45)
    colour = np.array(face.hair, np.float32).reshape(3, 1, 1) * light
    blend(image[:, w[0], w[1]], colour, alpha)
