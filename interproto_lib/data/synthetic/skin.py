"""The face itself: outline, relief under the light, colour of the skin, freckles, moles, beard."""

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
    noise_tiles,
    on_skin,
    positive,
    ridge,
    skin_index,
    spot,
)


class Skin:
    """Skin of one face while it is drawn.

    Attributes:
        height: (size, size) relief towards the viewer above an even head, in face units.
        dark: (size, size) share of light lost in hollows that the relief is too coarse for.
        outline: (size, size) signed distance to the outline of the face, negative inside.
        shade: (size, size) light that arrives, 1 is full; set by `light_skin`.
        colour: (3, size, size) colour of the skin in that light; set by `light_skin`.
    """

    def __init__(self, face: Face, canvas: Canvas) -> None:
        self.height = np.zeros((canvas.size, canvas.size), np.float32)
        self.dark = np.zeros((canvas.size, canvas.size), np.float32)
        self.outline = face_outline(face, canvas)
        self.shade = self.height
        self.colour = np.zeros((3, canvas.size, canvas.size), np.float32)


def face_outline(face: Face, canvas: Canvas) -> Plane:
    """Signed distance (approximate, face units) to the outline: an egg whose jaw is wider or narrower.

    At height y the half width is face_width * sqrt((1 - t^2) (1 + j t^2)) with t from 0 at the cheeks to 1 at the
    chin; j grows with `jaw` but stays below 0.55, where the jaw would become a box.
    """
    jaw = 0.55 * face.jaw / float(np.sqrt(0.6 + face.jaw * face.jaw))
    middle = 0.25
    down = positive(canvas.y - middle)
    down *= 1.0 / (face.chin_y - middle)
    np.multiply(down, down, out=down)
    up = np.minimum(canvas.y - middle, 0.0)
    up *= 1.0 / 1.85
    np.multiply(up, up, out=up)
    up += down
    down *= jaw
    down += 1.0
    across = canvas.x * (1.0 / face.face_width)
    np.multiply(across, across, out=across)
    across /= down
    across += up
    np.sqrt(across, out=across)
    across -= 1.0
    across *= face.face_width
    return across


def raise_relief(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Model sockets, nose, cheeks, lips and chin, folds and wrinkles."""
    _sockets_and_cheeks(face, canvas, skin)
    _nose(face, canvas, skin)
    _mouth_region(face, canvas, skin)
    _folds(face, canvas, skin)
    if face.old > 0.02:
        _wrinkles(face, canvas, skin)


def _sockets_and_cheeks(face: Face, canvas: Canvas, skin: Skin) -> None:
    y, ax = canvas.y, canvas.ax
    eye = face.eye_distance
    w = canvas.window(-1.0, 1.0, -0.42, 0.32)
    skin.height[w] -= (0.03 + 0.30 * face.eye_socket) * spot(ax[w], y[w], eye - 0.04, -0.03, 0.38, 0.24)
    # Inner corner beside the root of the nose.
    skin.dark[w] += (0.06 + 0.5 * face.eye_socket) * spot(ax[w], y[w], eye - 0.24, -0.05, 0.16, 0.16)
    # Bags: a swelling with a shadow under it.
    lower = y[w] - (0.15 + face.eye_height * 0.4)
    across = ax[w] - eye
    across *= 3.6
    np.multiply(across, across, out=across)
    lower += 0.07 * across
    fade = bump(0.8 * across)
    skin.height[w] += (0.10 * face.eye_bag) * ridge(lower + 0.03, 0.09) * fade
    skin.dark[w] += (0.03 + 0.55 * face.eye_bag) * ridge(lower - 0.05, canvas.fine(0.05)) * fade
    # Brow ridge, of men above all.
    w = canvas.window(-0.9, 0.9, -0.50, -0.08)
    brow = 0.02 + 0.03 * face.male * face.puberty + 0.06 * face.nose_bridge
    skin.height[w] += brow * spot(ax[w], y[w], 0.42, face.brow_y + 0.02, 0.50, 0.16)
    w = canvas.window(-1.1, 1.1, 0.1, 1.4)
    skin.height[w] += (0.02 + 0.45 * face.cheek) * spot(ax[w], y[w], 0.60, 0.55, 0.46, 0.46)
    skin.height[w] += 0.35 * face.cheekbone * spot(ax[w], y[w], 0.74, 0.40, 0.34, 0.26)
    hollow = spot(ax[w], y[w], 0.80, 0.93, 0.36, 0.46)
    skin.height[w] -= (0.20 * face.cheekbone) * hollow
    skin.dark[w] += (0.75 * face.cheekbone) * hollow


def _nose(face: Face, canvas: Canvas, skin: Skin) -> None:
    length, width, lift = face.nose_length, face.nose_width, face.nose_bridge
    reach = 0.10 + abs(canvas.nose_x)
    w = canvas.window(-1.6 * width - reach, 1.6 * width + reach, -0.30, length + 0.16)
    y = canvas.y[w]
    down = y * (1.0 / length)
    lean = positive(down)
    np.minimum(lean, 1.1, out=lean)
    lean *= canvas.nose_x
    x = canvas.x[w] - lean
    ax = np.abs(x)
    held = clip01(down.copy())
    # The bridge: narrow above, wider and higher towards the tip.
    breadth = held * (0.75 * width)
    breadth += 0.75 * width
    across = x / breadth
    np.multiply(across, across, out=across)
    up_down = down - 0.50
    up_down *= 1.42
    np.multiply(up_down, up_down, out=up_down)
    rise = held * (0.055 + 0.10 * lift)
    rise += 0.03 + 0.14 * lift
    rise *= bump(across)
    rise *= bump(np.multiply(up_down, up_down, out=up_down))
    height = skin.height[w]
    height += rise
    tip = length - 0.085
    height += (0.026 + 0.20 * face.nose_tip) * spot(x, y, 0.0, tip, 0.85 * width, 0.80 * width)
    height += (0.026 + 0.014 * face.growth) * spot(ax, y, 0.70 * width, length - 0.035, 0.52 * width, 0.12)
    dark = skin.dark[w]
    # Under the tip, the nostrils, the crease around the wing.
    dark += (0.05 + 0.16 * lift + 0.05 * face.growth) * spot(x, y, 0.0, length + 0.06, 1.1 * width, 0.10)
    dark += (0.38 + 0.16 * face.growth) * spot(ax, y, 0.50 * width, length + 0.012, 0.34 * width, canvas.fine(0.044))
    bend = y - (length - 0.05)
    np.multiply(bend, bend, out=bend)
    bend *= 2.5
    bend += ax
    bend -= 1.04 * width
    crease = ridge(bend, canvas.fine(0.045))
    crease *= ridge(y - (length - 0.04), 0.13)
    dark += 0.20 * crease
    # The side of the bridge turned away from the light.
    slope = x * (-1.2 * (lift + 0.1) * face.light[0] / width)
    positive(slope, out=slope)
    slope *= bump(x * x * (1.0 / (2.2 * width * width)))
    off = down - 0.5
    off *= 1.6
    slope *= bump(np.multiply(off, off, out=off))
    dark += slope


def _mouth_region(face: Face, canvas: Canvas, skin: Skin) -> None:
    middle = canvas.mouth_x
    mouth, width = face.mouth_y, face.mouth_width
    w = canvas.window(-0.75, 0.75, face.nose_length - 0.02, face.chin_y + 0.05)
    x, y = canvas.x[w], canvas.y[w]
    height, dark = skin.height[w], skin.dark[w]
    height += 0.05 * spot(x, y, middle, mouth, 1.25 * width, 0.30)
    height -= 0.05 * spot(x, y, middle, mouth + face.lower_lip + 0.10, 0.9 * width, 0.13)
    dark += 0.13 * spot(x, y, middle, mouth + face.lower_lip + 0.075, 0.75 * width, 0.075)
    height += (0.05 + 0.5 * max(face.chin_relief, 0.0)) * spot(x, y, middle, face.chin_y - 0.24, 0.32, 0.26)
    groove = spot(x, y, middle, 0.5 * (face.nose_length + mouth), canvas.fine(0.065), 0.17)
    dark += (0.03 + 0.8 * face.philtrum) * groove
    # Corners of the mouth.
    ax = np.abs(x - middle)
    dark += 0.10 * spot(ax, y, width + 0.03, mouth - 0.05 * face.smile, 0.09, 0.07)


def _folds(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Folds from the wings of the nose to the corners of the mouth; a smile deepens them."""
    depth = face.nose_fold + 0.05 * max(face.smile, 0.0)
    if depth < 0.03:
        return
    top, bottom = face.nose_length, face.mouth_y
    w = canvas.window(-0.85, 0.85, top - 0.15, bottom + 0.25)
    down = canvas.y[w] - top
    down *= 1.0 / (bottom - top)
    start, end = face.nose_width + 0.04, face.mouth_width + 0.12
    line = down * (start - end)
    line += canvas.ax[w]
    line -= start
    line += 0.05 * bump(np.multiply(down - 0.5, down - 0.5) * 3.0)
    fade = bump(np.multiply(down - 0.45, down - 0.45) * 2.0)
    skin.dark[w] += (0.9 * depth) * (ridge(line.copy(), canvas.fine(0.07)) * fade)
    skin.height[w] += (0.14 * depth) * (ridge(line - 0.10, 0.20) * fade)


def _wrinkles(face: Face, canvas: Canvas, skin: Skin) -> None:
    old, eye = face.old, face.eye_distance
    cloud = noise_tiles()[2]
    w = canvas.window(-0.9, 0.9, -0.95, -0.40)
    x, y = canvas.x[w], canvas.y[w]
    wave = on_skin(cloud, x, y, 60.0, face.skin_offset[0], face.skin_offset[1])
    wave *= 0.018
    wave += 0.06 * (x * x)
    wave += y
    fade: Plane = x * x
    fade *= 1.5
    bump(fade)
    lines = ridge(wave + 0.50, canvas.fine(0.032)) * 0.7
    lines += ridge(wave + 0.63, canvas.fine(0.034))
    lines += ridge(wave + 0.76, canvas.fine(0.032)) * 0.8
    skin.dark[w] += (0.20 * old) * (lines * fade)
    skin.height[w] -= (0.006 * old) * (lines * fade)
    # Crow's feet.
    w = canvas.window(-1.1, 1.1, -0.22, 0.28)
    y = canvas.y[w]
    out = canvas.ax[w] - (eye + 0.26)
    fade = bump(np.multiply(out - 0.13, out - 0.13) * 45.0)
    for slope in (-0.55, 0.05, 0.60):
        line = out * -slope
        line += y
        line -= 0.02
        skin.dark[w] += (0.23 * old + 0.02 * max(face.smile, 0.0)) * (ridge(line, canvas.fine(0.028)) * fade)
    # Lines down from the corners of the mouth, hanging cheeks.
    w = canvas.window(-0.95, 0.95, face.mouth_y - 0.12, face.chin_y + 0.05)
    ax, y = canvas.ax[w], canvas.y[w] - face.mouth_y
    line = y * -0.28
    line += ax
    line -= face.mouth_width + 0.07
    fade = ridge(y - 0.20, 0.30)
    skin.dark[w] += (0.20 * old) * (ridge(line.copy(), canvas.fine(0.055)) * fade)
    skin.height[w] += (0.05 * old) * (ridge(line - 0.14, 0.18) * fade)


def light_skin(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Turn relief into light and colour it.

    Lambert's law on the normal (base - slope of the relief) of an even head, above ambient light; shadows on skin are
    redder than its lit parts, as light is scattered under it.
    """
    _, fine, coarse, _ = noise_tiles()
    w = canvas.window(-face.face_width - 0.12, face.face_width + 0.12, -1.75, face.chin_y + 0.1)
    x, y, height = canvas.x[w], canvas.y[w], skin.height[w]
    index = skin_index(x, y, 80.0, face.skin_offset[0], face.skin_offset[1])
    mottle = fine.ravel().take(index)
    mottle *= 0.0015 + 0.0035 * face.old
    mottle += height
    height = mottle
    lx, ly, lz = face.light
    slope = 0.5 * canvas.scale
    nx = x * 0.62
    nx[:, 1:-1] -= (height[:, 2:] - height[:, :-2]) * slope
    ny = y - 0.20
    ny *= 0.40
    ny[1:-1] -= (height[2:] - height[:-2]) * slope
    base = x * x
    base *= -0.38
    base += 1.0
    np.maximum(base, 0.10, out=base)
    np.sqrt(base, out=base)
    length = nx * nx
    length += ny * ny
    length += base * base
    np.sqrt(length, out=length)
    nx *= lx
    ny *= ly
    base *= lz
    nx += ny
    nx += base
    nx /= length
    positive(nx, out=nx)
    shine = nx * nx
    shine *= shine
    shine *= shine
    nx *= (1.0 - face.ambient) * 1.14
    nx += face.ambient
    # The rim turns away, hollows get less.
    rim = skin.outline[w] + 0.26
    positive(rim, out=rim)
    rim *= 0.75
    rim += skin.dark[w]
    rim *= -1.0
    rim += 1.0
    np.maximum(rim, 0.15, out=rim)
    nx *= rim
    shade = np.zeros_like(skin.height)
    shade[w] = nx
    skin.shade = shade
    red, green, blue = face.skin
    colour = skin.colour[:, w[0], w[1]]
    patches = coarse.ravel().take(index)
    patches *= 0.012 + 0.02 * face.old
    shine *= 0.05
    nx += patches
    np.multiply(nx, red * 0.93, out=colour[0])
    colour[0] += red * 0.07
    np.multiply(nx, green, out=colour[1])
    np.multiply(nx, blue * 1.02, out=colour[2])
    colour[2] -= blue * 0.02
    colour += shine


def colour_skin(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Blush, freckles, moles, beard."""
    pale = face.skin[1]
    w = canvas.window(-1.1, 1.1, 0.1, 1.0)
    blush = spot(canvas.ax[w], canvas.y[w], 0.62, 0.56, 0.44, 0.36)
    blush *= (0.07 + 0.10 * (1.0 - face.growth)) * (0.4 + 0.8 * pale)
    blush *= -1.0
    blush += 1.0
    skin.colour[1:, w[0], w[1]] *= blush
    w = canvas.window(-0.35, 0.35, 0.2, 0.8)
    tip = spot(canvas.x[w], canvas.y[w], canvas.nose_x, face.nose_length - 0.05, 0.24, 0.18)
    tip *= -0.07
    tip += 1.0
    skin.colour[1:, w[0], w[1]] *= tip
    if face.freckles > 0.12:
        _freckles(face, canvas, skin)
    for number in range(len(face.mole_x)):
        if face.mole_strength[number] > 0.0:
            _mole(face, canvas, skin, number)
    if face.beard_today > 0.05:
        _beard(face, canvas, skin)


def _freckles(face: Face, canvas: Canvas, skin: Skin) -> None:
    tile = noise_tiles()[3]
    w = canvas.window(-1.0, 1.0, -0.15, 0.95)
    x, y = canvas.x[w], canvas.y[w]
    dots = on_skin(tile, x, y, 105.0, face.freckle_offset[0], face.freckle_offset[1])
    dots *= spot(canvas.ax[w], y, 0.42, 0.42, 0.72, 0.52)
    dots *= min(face.freckles, 0.8) * 0.95
    skin.colour[:, w[0], w[1]] *= np.array([1.0, 1.0, 1.0], np.float32)[:, None, None] - dots * np.array(
        [0.42, 0.62, 0.70], np.float32
    ).reshape(3, 1, 1)


def _mole(face: Face, canvas: Canvas, skin: Skin, number: int) -> None:
    x0, y0, radius = face.mole_x[number], face.mole_y[number], face.mole_radius[number]
    w = canvas.window(x0 - 0.12, x0 + 0.12, y0 - 0.12, y0 + 0.12)
    x, y = canvas.x[w] - x0, canvas.y[w] - y0
    x *= x
    y *= y
    x += y
    np.sqrt(x, out=x)
    x -= radius
    alpha = cover(x, canvas.edge * 0.7)
    alpha *= face.mole_strength[number]
    blend(skin.colour[:, w[0], w[1]], [c * 0.30 for c in face.skin], alpha)


def _beard(face: Face, canvas: Canvas, skin: Skin) -> None:
    """Stubble, full beard, beard round the mouth or moustache, by `beard_style`."""
    top, mouth, middle = face.nose_length, face.mouth_y, canvas.mouth_x
    w = canvas.window(-1.2, 1.2, 0.2, face.chin_y + 0.15)
    x, y, ax = canvas.x[w], canvas.y[w], canvas.ax[w]
    off = x - middle
    aoff = np.abs(off)
    lip = face.mouth_width
    # Moustache: from under the nose down beside the mouth.
    arc = y - (0.46 * top + 0.54 * mouth - 0.015)
    arc -= 0.22 * (off * off)
    alpha = ridge(arc, 0.115)
    alpha *= clip01(5.0 * (lip * 1.12 - aoff))
    alpha *= 1.5
    style = face.beard_style
    if style < 0.75:
        # Beard on the chin, left free around the mouth.
        round_mouth = np.sqrt(
            (off * (1.0 / (lip * 1.05))) * (off * (1.0 / (lip * 1.05))) + ((y - mouth) * 5.0) * ((y - mouth) * 5.0)
        )
        free = clip01((round_mouth - 1.0) * 2.5)
        if style < 0.5:
            line = y - (0.62 * mouth + 0.02) + positive(face.face_width - 0.10 - ax) * -0.50
            line += 0.22 * bump(np.multiply(ax - 0.85, ax - 0.85) * 30.0)
            chin = clip01(line * 5.0)
        else:
            chin = clip01((lip * 1.25 - aoff) * 6.0)
            chin *= clip01((y - (mouth - 0.12)) * 6.0)
        chin *= free
        np.maximum(alpha, chin, out=alpha)
    np.minimum(alpha, 1.0, out=alpha)
    short = style < 0.25
    tone = on_skin(noise_tiles()[1], x, y, 190.0, 7.0, 11.0)
    tone *= 0.30
    tone += 0.85
    alpha *= tone
    alpha *= face.beard_today * (0.42 if short else 0.90)
    np.minimum(alpha, 0.95, out=alpha)
    positive(alpha, out=alpha)
    light = skin.shade[w] * 0.85
    hair = np.array([c * 0.75 + 0.02 for c in face.hair], np.float32).reshape(3, 1, 1)
    blend(skin.colour[:, w[0], w[1]], hair * light, alpha)
