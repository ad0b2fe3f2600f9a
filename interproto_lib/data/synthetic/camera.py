"""What the camera does: exposure, blur, noise, block compression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.synthetic.canvas import Face, Plane, noise_tiles, tile_cut

# cos(k pi / 16), k = 1 to 7, as numbers, for no cosine is the same on every machine.
_C1, _C2, _C3, _C4 = 0.9807852804032304, 0.9238795325112867, 0.8314696123025452, 0.7071067811865476
_C5, _C6, _C7 = 0.5555702330196022, 0.38268343236508984, 0.19509032201612825

# Steps of quantisation by vertical and horizontal frequency (8 x 8), growing as those of the JPEG standard's annex K.
_STEPS = (3.0 + 1.9 * np.add.outer(np.arange(8.0), np.arange(8.0))) / 255.0


def take_picture(image: Plane, face: Face) -> NDArray[np.uint8]:
    """Turn the drawn image into the stored one.

    Args:
        image: (3, size, size) RGB, about 0 to 1; overwritten.
        face: Its chances: `gain`, `blur`, `noise`, `compression`, `grey_image`.

    Returns:
        (size, size, 3) uint8.
    """
    size = image.shape[1]
    if face.grey_image > 0.0:
        grey = image[0] * 0.30
        grey += image[1] * 0.59
        grey += image[2] * 0.11
        grey *= face.gain[1]
        image[:] = grey
    else:
        image *= np.array(face.gain, np.float32).reshape(3, 1, 1)
    if face.blur > 0.02:
        image = _blur(image, face.blur)
    noise = tile_cut(noise_tiles()[0], size, face.offsets[2], face.offsets[3])
    image += noise * face.noise
    if face.compression > 0.0:
        _compress(image, face.compression)
    image *= 255.0
    image += 0.5
    image.clip(np.float32(0.0), np.float32(255.0), out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))


def _blur(image: Plane, amount: float) -> Plane:
    """Mix each pixel with its four neighbours, in two passes; the border keeps its own."""
    share = 0.36 * amount
    for _ in range(2):
        around = image[:, 2:] + image[:, :-2]
        around *= 0.5
        around -= image[:, 1:-1]
        around *= share
        image[:, 1:-1] += around
        around = image[:, :, 2:] + image[:, :, :-2]
        around *= 0.5
        around -= image[:, :, 1:-1]
        around *= share
        image[:, :, 1:-1] += around
    return image


def _forward8(block: Plane, axis: int) -> Plane:
    """Discrete cosine transform of eight values along an axis, scaled to be orthonormal."""
    v = [block.take(k, axis=axis) for k in range(8)]
    s = [v[k] + v[7 - k] for k in range(4)]
    d = [v[k] - v[7 - k] for k in range(4)]
    a, b, c, e = s[0] + s[3], s[1] + s[2], s[0] - s[3], s[1] - s[2]
    out = [
        (a + b) * _C4,
        ((d[0] * _C1 + d[1] * _C3) + d[2] * _C5) + d[3] * _C7,
        c * _C2 + e * _C6,
        ((d[0] * _C3 - d[1] * _C7) - d[2] * _C1) - d[3] * _C5,
        (a - b) * _C4,
        ((d[0] * _C5 - d[1] * _C1) + d[2] * _C7) + d[3] * _C3,
        c * _C6 - e * _C2,
        ((d[0] * _C7 - d[1] * _C5) + d[2] * _C3) - d[3] * _C1,
    ]
    result = np.stack(out, axis=axis)
    result *= 0.5
    return result


def _inverse8(block: Plane, axis: int) -> Plane:
    """Invert `_forward8`."""
    f = [block.take(k, axis=axis) for k in range(8)]
    p, q = (f[0] + f[4]) * _C4, (f[0] - f[4]) * _C4
    r, t = f[2] * _C2 + f[6] * _C6, f[2] * _C6 - f[6] * _C2
    even = [p + r, q + t, q - t, p - r]
    odd = [
        ((f[1] * _C1 + f[3] * _C3) + f[5] * _C5) + f[7] * _C7,
        ((f[1] * _C3 - f[3] * _C7) - f[5] * _C1) - f[7] * _C5,
        ((f[1] * _C5 - f[3] * _C1) + f[5] * _C7) + f[7] * _C3,
        ((f[1] * _C7 - f[3] * _C5) + f[5] * _C3) - f[7] * _C1,
    ]
    result = np.stack([e + o for e, o in zip(even, odd, strict=True)] + [
        e - o for e, o in zip(even[::-1], odd[::-1], strict=True)
    ], axis=axis)  # fmt: skip
    result *= 0.5
    return result


def _compress(image: Plane, strength: float) -> None:
    """Round the cosine coefficients of 8x8 blocks, of brightness finely, of the two colour differences coarsely."""
    size = image.shape[1]
    red, green, blue = image
    light = red * 0.299
    light += green * 0.587
    light += blue * 0.114
    planes = np.stack([light, blue - light, red - light]).reshape(3, size // 8, 8, size // 8, 8)
    coefficients = _forward8(_forward8(planes, 2), 4)
    step = (_STEPS * strength * 1.6).astype(np.float32)
    steps = np.stack([step, step * np.float32(2.6), step * np.float32(2.6)]).reshape(3, 1, 8, 1, 8)
    coefficients /= steps
    np.rint(coefficients, out=coefficients)
    coefficients *= steps
    light, blue_less, red_less = _inverse8(_inverse8(coefficients, 4), 2).reshape(3, size, size)
    np.add(light, red_less, out=image[0])
    np.add(light, blue_less, out=image[2])
    light -= image[0] * 0.299
    light -= image[2] * 0.114
    np.multiply(light, 1.0 / 0.587, out=image[1])
