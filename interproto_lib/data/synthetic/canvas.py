"""The sheet a face is drawn on: face coordinates of the pixels, windows around features, soft edges, textures.

Everything here and in the modules that draw uses + - * / sqrt min max and comparisons on float32 planes, one image at
a time, and numbers in float64 beside them: IEEE 754 fixes each of these to the last bit, so that a face has the same
bytes on every machine, alone or among others.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.alignment import TEMPLATE, TEMPLATE_SIZE
from interproto_lib.data.synthetic.hashing import uniforms

Plane = NDArray[np.float32]
Window = tuple[slice, slice]
Colour = NDArray[np.float32] | list[float]

_TILE = 256
_TILE_MASK = _TILE - 1
_STRANDS = 4096
_ZERO, _ONE = np.array(0.0, np.float32), np.array(1.0, np.float32)
_ZEROS = np.zeros((TEMPLATE_SIZE, TEMPLATE_SIZE), np.float32)


class Face(SimpleNamespace):
    """All numbers of one image, as Python floats: what `person_at_age` and `draw_nuisance` name, one row of each."""


def bump(q: Plane) -> Plane:
    """Give a smooth bump max(1 - q, 0)^2 of a squared distance q; overwrites q."""
    np.subtract(_ONE, q, out=q)
    np.maximum(q, _ZEROS[: q.shape[0], : q.shape[1]], out=q)
    return np.multiply(q, q, out=q)


def positive(value: Plane, *, out: Plane | None = None) -> Plane:
    """Give max(value, 0) of a plane (h, w); against a plane of zeros, which numpy does faster than against a number."""
    return np.maximum(value, _ZEROS[: value.shape[0], : value.shape[1]], out=out)


def ridge(distance: Plane, width: float) -> Plane:
    """Give a bump across a line: 1 where `distance` is 0, 0 from `width` on; overwrites `distance`."""
    distance *= 1.0 / width
    np.multiply(distance, distance, out=distance)
    return bump(distance)


def spot(x: Plane, y: Plane, x0: float, y0: float, rx: float, ry: float) -> Plane:
    """Give a bump around (x0, y0) of radii rx and ry."""
    a = x - x0
    a *= 1.0 / rx
    np.multiply(a, a, out=a)
    b = y - y0
    b *= 1.0 / ry
    np.multiply(b, b, out=b)
    a += b
    return bump(a)


def clip01(value: Plane) -> Plane:
    """Hold between 0 and 1, in place."""
    return value.clip(_ZERO, _ONE, out=value)


def cover(distance: Plane, sharpness: float) -> Plane:
    """Share of a pixel inside an edge: 1 inside (distance below 0), 0 outside; overwrites `distance`.

    Args:
        distance: Signed distance to the edge, in face units.
        sharpness: One over the width of the transition.
    """
    distance *= -sharpness
    distance += 0.5
    return clip01(distance)


def blend(image: Plane, colour: Colour | Plane, alpha: Plane) -> None:
    """Lay a colour over an image: image += (colour - image) * alpha.

    Args:
        image: (3, h, w), changed.
        colour: Three numbers, or (3, h, w).
        alpha: (h, w) in [0, 1].
    """
    if not isinstance(colour, np.ndarray):
        colour = np.array(colour, dtype=np.float32)
    if colour.ndim == 1:
        colour = colour[:, None, None]
    change = colour - image
    change *= alpha
    image += change


class Canvas:
    """Face coordinates of every pixel of one image, and the way back.

    The face's five landmarks, turned by the pose and shaken by the jitter, are laid on the template by the similarity
    of least squares, as an aligner does; `x` and `y` are the inverse of turning and similarity at each pixel.

    Attributes:
        size: Height and width in pixels.
        x: (size, size) face coordinate to the right, on the surface of the head.
        y: (size, size) face coordinate down.
        ax: (size, size) absolute value of x.
        scale: Pixels for one face unit.
        edge: Sharpness of an edge one pixel wide, for `cover`.
        nose_x: Where the tip of the nose seems to be, for it stands out of the face.
        mouth_x: The same for the mouth.
    """

    def __init__(self, face: Face, size: int) -> None:
        self.size = size
        yaw, pitch = face.yaw, face.pitch
        self._cos_yaw, self._sin_yaw = (1.0 - yaw * yaw) / (1.0 + yaw * yaw), 2.0 * yaw / (1.0 + yaw * yaw)
        self._cos_pitch = (1.0 - pitch * pitch) / (1.0 + pitch * pitch)
        self._sin_pitch = 2.0 * pitch / (1.0 + pitch * pitch)
        self.nose_x = self._sin_yaw * 0.38
        self.mouth_x = self._sin_yaw * 0.14
        self._align(self.landmarks(face))
        self.scale = size / TEMPLATE_SIZE / self._shrink
        self.edge = 0.8 * self.scale
        self._place_pixels()

    def landmarks(self, face: Face) -> list[tuple[float, float]]:
        """Five landmarks after turning and jitter: the order of `TEMPLATE`, in turned face units."""
        width = face.mouth_width * (1.0 + 0.14 * face.smile)
        points = (
            (-face.eye_distance, -face.eye_asymmetry),
            (face.eye_distance, face.eye_asymmetry),
            (self.nose_x, face.nose_length - self._sin_pitch * 0.30),
            (self.mouth_x - width, face.mouth_y - face.mouth_tilt * 0.5),
            (self.mouth_x + width, face.mouth_y + face.mouth_tilt * 0.5),
        )
        turned = [self._turn(x, y) for x, y in points]
        return [(x + face.jitter[2 * i], y + face.jitter[2 * i + 1]) for i, (x, y) in enumerate(turned)]

    def _turn(self, x: float, y: float) -> tuple[float, float]:
        held = min(max(x, -1.3), 1.3)
        depth = (held * held - 0.25) * -0.40
        return x * self._cos_yaw + self._sin_yaw * depth, y * self._cos_pitch - self._sin_pitch * held * held * 0.2

    def _align(self, points: list[tuple[float, float]]) -> None:
        """Similarity of least squares from the template (112 pixels) to turned face units."""
        # Added one by one: the built-in sum of floats rounds otherwise from Python 3.12 on.
        px = py = tx = ty = 0.0
        for (x, y), (u, v) in zip(points, TEMPLATE, strict=True):
            px, py, tx, ty = px + x, py + y, tx + u, ty + v
        px, py, tx, ty = px / 5.0, py / 5.0, tx / 5.0, ty / 5.0
        along = across = norm = 0.0
        for (x, y), (u, v) in zip(points, TEMPLATE, strict=True):
            x, y, u, v = x - px, y - py, u - tx, v - ty
            along += x * u + y * v
            across += x * v - y * u
            norm += x * x + y * y
        along, across = along / norm, across / norm
        self._forward = along, across, px, py, tx, ty
        squared = along * along + across * across
        self._inverse = along / squared, across / squared
        self._shrink = float(np.sqrt(1.0 / squared))

    def _place_pixels(self) -> None:
        a, b = self._inverse
        _, _, px, py, tx, ty = self._forward
        at = (np.arange(self.size) + 0.5) * (TEMPLATE_SIZE / self.size) - 0.5
        u, v = at - tx, at - ty
        turned_x = (a * u).astype(np.float32)[None, :] + (b * v + px).astype(np.float32)[:, None]
        turned_y = (-b * u).astype(np.float32)[None, :] + (a * v + py).astype(np.float32)[:, None]
        x = turned_x
        if self._sin_yaw != 0.0:
            for _ in range(2):
                held = x.clip(np.float32(-1.3), np.float32(1.3))
                held *= held
                held -= 0.25
                held *= 0.40 * self._sin_yaw
                held += turned_x
                held *= 1.0 / self._cos_yaw
                x = held
        self.x = x
        self.ax = np.abs(x)
        lift = np.minimum(self.ax, 1.3)
        lift *= lift
        lift *= 0.2 * self._sin_pitch
        turned_y += lift
        turned_y *= 1.0 / self._cos_pitch
        self.y = turned_y

    def window(self, left: float, right: float, top: float, bottom: float) -> Window:
        """Rows and columns that hold the rectangle of face coordinates, two pixels wider; may be empty."""
        along, across, px, py, tx, ty = self._forward
        (u0, above0), (u1, above1) = self._turn(left, 0.0), self._turn(right, 0.0)
        u0, u1 = u0 - px, u1 - px
        high, low = top * self._cos_pitch - py, bottom * self._cos_pitch - py
        up0, up1, down0, down1 = high + above0, high + above1, low + above0, low + above1
        columns = (along * u0 - across * up0, along * u1 - across * up1,
                   along * u0 - across * down0, along * u1 - across * down1)  # fmt: skip
        rows = (across * u0 + along * up0, across * u1 + along * up1,
                across * u0 + along * down0, across * u1 + along * down1)  # fmt: skip
        # A pitched head bends the rectangle: its middle may lie above or below its corners.
        bend = abs(above0 - above1) if left * right > 0.0 else max(abs(above0), abs(above1))
        ratio = self.size / TEMPLATE_SIZE
        bend *= along
        return (
            self._span(min(rows) - bend + ty, max(rows) + bend + ty, ratio),
            self._span(min(columns) + tx, max(columns) + tx, ratio),
        )

    def _span(self, least: float, most: float, ratio: float) -> slice:
        # Shifted by 200 pixels, so that rounding towards zero rounds down.
        low, high = int(least * ratio + 200.0) - 202, int(most * ratio + 200.0) - 196
        start = min(max(low, 0), self.size)
        return slice(start, max(start, min(high, self.size)))

    def fine(self, width: float) -> float:
        """Widen a line so that it is not lost between pixels."""
        return max(width, 1.1 / self.scale)


@cache
def strand_table(size: int) -> Plane:
    """Brightness across strands of hair: (4096,) mean about 0, within about +-1, periodic; finer for larger images."""
    white = ((uniforms(77, count=_STRANDS)[0] - 0.5) * 2.0).astype(np.float32)
    fine, coarse = white, white
    for step in (1, 2, 3) if size > 80 else (1, 2, 4, 6):
        fine = (np.roll(fine, step) + fine + np.roll(fine, -step)) * np.float32(0.5)
    for step in (1, 2, 4, 8, 16, 24):
        coarse = (np.roll(coarse, step) + coarse + np.roll(coarse, -step)) * np.float32(0.5)
    fine *= np.float32(0.45 if size > 80 else 0.22)
    coarse *= np.float32(0.16)
    return np.minimum(np.maximum(fine + coarse, -1.2), 1.2)


def strands(coordinate: Plane, size: int, offset: float) -> Plane:
    """Brightness of hair whose strands lie along lines of equal `coordinate` (face units); overwrites it."""
    coordinate *= 130.0
    coordinate += 2048.0 + 29.0 * offset
    index = coordinate.astype(np.int32)
    index &= _STRANDS - 1
    return strand_table(size).take(index)


@cache
def noise_tiles() -> tuple[Plane, Plane, Plane, Plane]:
    """Textures of 256x256, periodic: camera noise (3 planes), fine clouds, coarse clouds, freckles.

    The clouds are smoothed and of about variance 1; freckles are soft round spots, 0 to 1.
    """
    white = ((uniforms(78, count=3 * _TILE * _TILE).reshape(3, _TILE, _TILE) - 0.5) * 3.46).astype(np.float32)
    fine = white[0]
    for step in (1, 2, 3):
        fine = (np.roll(fine, step, 0) + fine + np.roll(fine, -step, 0)) * np.float32(0.5)
        fine = (np.roll(fine, step, 1) + fine + np.roll(fine, -step, 1)) * np.float32(0.5)
    coarse = white[1]
    for step in (1, 2, 4, 8, 12, 16):
        coarse = (np.roll(coarse, step, 0) + coarse + np.roll(coarse, -step, 0)) * np.float32(0.5)
        coarse = (np.roll(coarse, step, 1) + coarse + np.roll(coarse, -step, 1)) * np.float32(0.5)
    # Noise of a camera: mostly common to the three colours.
    white = white * np.float32(0.5) + white[:1] * np.float32(0.7)
    return white, fine * np.float32(0.30), coarse * np.float32(0.085), _freckle_tile()


def _freckle_tile() -> Plane:
    """Soft round spots strewn over a tile: one a cell of a 20x20 grid, shifted at random, of random size."""
    cells = 20
    u = uniforms(79, count=cells * cells * 4).reshape(cells * cells, 4)
    tile = np.zeros((_TILE, _TILE), np.float32)
    at = np.arange(_TILE, dtype=np.float32)
    pitch = _TILE / cells
    for number in range(cells * cells):
        row, column = divmod(number, cells)
        distances = []
        for place, shift in ((row, u[number, 0]), (column, u[number, 1])):
            gap = np.abs(at - float((place + shift) * pitch))
            distances.append(np.minimum(gap, _TILE - gap))
        radius = 2.2 + 2.6 * float(u[number, 2])
        q = (distances[0] * distances[0])[:, None] + (distances[1] * distances[1])[None, :]
        q *= 1.0 / (radius * radius)
        strength = 0.45 + 0.55 * float(u[number, 3])
        np.maximum(tile, np.maximum(1.0 - q, 0.0) * np.maximum(1.0 - q, 0.0) * np.float32(strength), out=tile)
    return tile


def on_skin(tile: Plane, x: Plane, y: Plane, per_unit: float, offset_x: float, offset_y: float) -> Plane:
    """Look up a 256x256 texture at face coordinates, so that it moves with the face.

    Args:
        tile: (256, 256).
        x: (h, w) face coordinates.
        y: (h, w) face coordinates.
        per_unit: Texture elements for one face unit.
        offset_x: Shift in texture elements, >= 0.
        offset_y: Shift in texture elements, >= 0.

    Returns:
        (h, w).
    """
    return tile.ravel().take(skin_index(x, y, per_unit, offset_x, offset_y))


def skin_index(x: Plane, y: Plane, per_unit: float, offset_x: float, offset_y: float) -> NDArray[np.int32]:
    """Give the element of a flattened 256x256 texture at each face coordinate, see `on_skin`; for several textures."""
    column = x * per_unit
    column += 1024.0 + offset_x
    row = y * per_unit
    row += 1024.0 + offset_y
    index = row.astype(np.int32)
    index &= _TILE_MASK
    index *= _TILE
    across = column.astype(np.int32)
    across &= _TILE_MASK
    index += across
    return index


def tile_cut(tile: Plane, size: int, row: float, column: float) -> Plane:
    """Cut (..., size, size) out of a 256x256 texture, from a row and column below 128."""
    r, c = int(row), int(column)
    return tile[..., r : r + size, c : c + size]
