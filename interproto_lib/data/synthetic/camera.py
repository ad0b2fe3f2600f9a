"""What the camera does: exposure, blur, noise, block compression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.synthetic.canvas import Face, Plane, noise_tiles, tile_cut

# cos(k pi / 16), k = 1 to 7, as numbers, for no cosine is the same on every machine.
_C1, _C2, _C3, _C4 = 0.9807852804032304, 0.9238795325112867, 0.8314696123025452, 0.7071067811865476
_C5, _C6, _C7 = 0.5555702330196022, 0.38268343236508984, 0.19509032201612825

# Half the odd rows (1, 3, 5, 7) of the cosine transform, on differences of opposite values.
_ODD = tuple(
    tuple(0.5 * value for value in row)
    for row in ((_C1, _C3, _C5, _C7), (_C3, -_C7, -_C1, -_C5), (_C5, -_C1, _C7, _C3), (_C7, -_C5, _C3, -_C1))
)

# Steps of quantisation by vertical and horizontal frequency, for brightness and the two colour differences
# (8, 8, 3, 1, 1); they grow with the frequency as those of the JPEG standard's annex K.
_STEPS = (
    (1.6 / 255.0)
    * (3.0 + 1.9 * (np.arange(8.0)[:, None] + np.arange(8.0)[None, :]))[:, :, None, None, None]
    * np.array([1.0, 2.6, 2.6])[:, None, None]
).astype(np.float32)


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
    v = np.moveaxis(block, axis, 0)
    s = [v[k] + v[7 - k] for k in range(4)]
    d = [v[k] - v[7 - k] for k in range(4)]
    a, b, c, e = s[0] + s[3], s[1] + s[2], s[0] - s[3], s[1] - s[2]
    result = np.empty_like(block)
    out = np.moveaxis(result, axis, 0)
    np.multiply(a + b, 0.5 * _C4, out=out[0])
    np.multiply(a - b, 0.5 * _C4, out=out[4])
    np.add(c * (0.5 * _C2), e * (0.5 * _C6), out=out[2])
    np.subtract(c * (0.5 * _C6), e * (0.5 * _C2), out=out[6])
    for k, (w0, w1, w2, w3) in zip((1, 3, 5, 7), _ODD, strict=True):
        np.add(d[0] * w0 + d[1] * w1, d[2] * w2 + d[3] * w3, out=out[k])
    return result


def _inverse8(block: Plane, axis: int) -> Plane:
    """Invert `_forward8`."""
    f = np.moveaxis(block, axis, 0)
    p, q = (f[0] + f[4]) * (0.5 * _C4), (f[0] - f[4]) * (0.5 * _C4)
    r, t = f[2] * (0.5 * _C2) + f[6] * (0.5 * _C6), f[2] * (0.5 * _C6) - f[6] * (0.5 * _C2)
    even = (p + r, q + t, q - t, p - r)
    result = np.empty_like(block)
    out = np.moveaxis(result, axis, 0)
    for k in range(4):
        odd = f[1] * _ODD[0][k] + f[3] * _ODD[1][k]
        odd += f[5] * _ODD[2][k] + f[7] * _ODD[3][k]
        np.add(even[k], odd, out=out[k])
        np.subtract(even[k], odd, out=out[7 - k])
    return result


def _compress(image: Plane, strength: float) -> None:
    """Round the cosine coefficients of 8x8 blocks, of brightness finely, of the two colour differences coarsely."""
    size = image.shape[1]
    n = size // 8
    planes = np.empty((3, size, size), np.float32)
    light = planes[0]
    np.multiply(image[0], 0.299, out=light)
    light += image[1] * 0.587
    light += image[2] * 0.114
    np.subtract(image[2], light, out=planes[1])
    np.subtract(image[0], light, out=planes[2])
    # Row and column within the block first, so that every frequency of all blocks lies together.
    blocks = np.ascontiguousarray(planes.reshape(3, n, 8, n, 8).transpose(2, 4, 0, 1, 3))
    coefficients = _forward8(_forward8(blocks, 0), 1)
    steps = _STEPS * np.float32(strength)
    coefficients /= steps
    np.rint(coefficients, out=coefficients)
    coefficients *= steps
    blocks = _inverse8(_inverse8(coefficients, 1), 0)
    planes[:] = blocks.transpose(2, 3, 0, 4, 1).reshape(3, size, size)
    np.add(light, planes[2], out=image[0])
    np.add(light, planes[1], out=image[2])
    light -= image[0] * 0.299
    light -= image[2] * 0.114
    np.multiply(light, 1.0 / 0.587, out=image[1])
