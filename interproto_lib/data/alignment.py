"""Bringing a face to the place where recognisers expect it: five landmarks onto a template, by a similarity transform.

Landmarks are five points (x, y) in pixels of the photograph, in the order of `LANDMARK_NAMES`, x to the right and y
down, with (0, 0) at the centre of the first pixel, as OpenCV, scikit-image and the detectors of the field have it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from interproto_lib.errors import ConfigError, DatasetError

LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""The five landmarks in their order: centres of the eyes, tip of the nose, corners of the mouth. Left is the side that
lies to the left in the image: of a person who faces the camera, the person's right eye."""

TEMPLATE_SIZE = 112
TEMPLATE: tuple[tuple[float, float], ...] = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where the landmarks of an aligned face of 112 x 112 pixels lie (x, y). Source: the alignment of ArcFace, Deng et al.,
CVPR 2019."""

MAX_ALIGNED_SIZE = 1024
"""Largest height and width, in pixels, of an aligned face."""

_MAX_COORDINATE = 1e6
_MIN_SPREAD = 1.0  # pixels, from their mean to all points together
_MIN_BREADTH = 0.01  # across the line nearest to the points, as a share of their spread along it
_MIN_LIKENESS = 0.4  # heads of a three-dimensional face turned by up to 90 degrees to either side have 0.5 and more
_MIRRORED_RATIO = 1.3  # by how much a reflection must fit better: in an extreme profile the eyes may swap sides


def face_template(size: int = TEMPLATE_SIZE) -> NDArray[np.float64]:
    """Give the places of the five landmarks in an aligned face.

    The template of ArcFace (Deng et al., CVPR 2019) for 112 x 112 pixels, times `size` / 112 for other sizes, as
    InsightFace does it.

    Args:
        size: Height and width of the aligned face in pixels, 16 to `MAX_ALIGNED_SIZE`.

    Returns:
        The points (5, 2) as (x, y), in the order of `LANDMARK_NAMES`.

    Raises:
        ConfigError: `size` is out of range.

    Example:
        >>> face_template()[2].tolist()
        [56.0252, 71.7366]
    """
    if not 16 <= size <= MAX_ALIGNED_SIZE:
        raise ConfigError(f"size is {size}, expected 16 to {MAX_ALIGNED_SIZE} pixels.")
    return np.array(TEMPLATE) * (size / TEMPLATE_SIZE)


def estimate_similarity(landmarks: ArrayLike, template: ArrayLike | None = None) -> NDArray[np.float64]:
    """Find the rotation, scale and shift that bring landmarks nearest to a template, in the sense of least squares.

    With both sets of points written as complex numbers, p and q, and their means taken off, the transform is
    q ≈ z p + t with z = Σ conj(p) q / Σ |p|² and t = mean(q) - z mean(p): the solution of Umeyama (IEEE PAMI 1991,
    eq. 40-43) for two dimensions, without a singular value decomposition. A reflection is never given: the
    determinant, |z|², is positive.

    Args:
        landmarks: Points of the photograph (n, 2) as (x, y) in pixels, n at least 2.
        template: Where they belong (n, 2); None: `face_template()`, with n = 5.

    Returns:
        The matrix (2, 3) that brings (x, y, 1) of the photograph to (x, y) of the template.

    Raises:
        DatasetError: The points cannot be used; the message is the reason, in a few words. Numbers are not finite or
            no pixel coordinates; the points lie on one place or one line; they are mirrored, which is to say that a
            reflection would fit clearly better than any rotation; they are not like the template at all.

    Example:
        >>> estimate_similarity(2 * face_template() + 10)[:, 2].round(6).tolist()
        [-5.0, -5.0]
    """
    wanted = face_template() if template is None else np.asarray(template, dtype=np.float64)
    source, target = _complex(_check_points(landmarks, len(wanted))), _complex(wanted)
    from_centre, to_centre = source.mean(), target.mean()
    source, target = source - from_centre, target - to_centre
    _check_spread(source)
    rotated, mirrored = _sums(source, target)
    if abs(mirrored) > _MIRRORED_RATIO * abs(rotated):
        raise DatasetError("landmarks are mirrored: left and right are swapped, as seen in the image")
    if abs(rotated) < _MIN_LIKENESS * np.linalg.norm(source) * np.linalg.norm(target):
        raise DatasetError(f"landmarks do not form a face; expected them in the order {', '.join(LANDMARK_NAMES)}")
    turn = rotated / (np.abs(source) ** 2).sum()
    shift = to_centre - turn * from_centre
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def face_likeness(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Say how much sets of landmarks are like the template, whatever their rotation, scale and place.

    The correlation |Σ conj(p) q| / sqrt(Σ|p|² Σ|q|²) of landmarks p and template q as centred complex numbers: 1 where
    a similarity transform brings them there exactly. Faces seen from the front have 0.9 and more, profiles about 0.7.
    A wrong order of the landmarks gives 0.8 at most, but for some upside down.

    Args:
        landmarks: Sets of landmarks (k, 5, 2) as (x, y).

    Returns:
        One number a set (k,), 0 to 1; NaN where all five lie on one place.

    Example:
        >>> face_likeness(face_template()[None, ::-1] * (1, -1)).round(2).tolist()
        [0.23]
    """
    points = np.asarray(landmarks, dtype=np.float64)
    source, target = points[..., 0] + 1j * points[..., 1], _complex(face_template())
    source, target = source - source.mean(axis=-1, keepdims=True), target - target.mean()
    length = np.linalg.norm(source, axis=-1) * np.linalg.norm(target)
    likeness = np.full(len(points), np.nan)
    return np.divide(np.abs(_sums(source, target)[0]), length, out=likeness, where=length > 0)


def align_face(
    image: NDArray[np.uint8], landmarks: ArrayLike, size: int = TEMPLATE_SIZE, *, antialias: bool = False
) -> NDArray[np.uint8]:
    """Cut an aligned face out of a photograph: each of its pixels is interpolated bilinearly, black beyond the border.

    Pixel (x, y) of the face shows the place of the photograph that `estimate_similarity` brings to (x, y). Its value
    is computed in floating point and rounded; OpenCV's `warpAffine`, which the field uses, rounds that place to 1/32
    of a pixel beforehand and so differs by a few grey levels at sharp edges.

    A face larger than `size` is made smaller. As in the field, this is done by interpolation alone, without a filter:
    of a face four times as large, most pixels are not looked at, and fine patterns turn into coarse ones. Models
    trained on such images expect them. `antialias` filters instead.

    Args:
        image: The photograph (height, width, 3), uint8 RGB.
        landmarks: The five landmarks (5, 2) as (x, y) in pixels of the photograph.
        size: Height and width of the face in pixels; the template grows with it.
        antialias: Average over all pixels of a face that is made smaller: the photograph is reduced to the scale of
            the face first, with a triangle filter. Faces that are not made smaller stay the same.

    Returns:
        The face (size, size, 3), uint8 RGB.

    Raises:
        DatasetError: The landmarks cannot be used (see `estimate_similarity`), or all lie outside of the image.
        ConfigError: The image is no uint8 RGB image, or `size` is out of range.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ConfigError(f"image is {image.dtype} {image.shape}, expected uint8 (height, width, 3).")
    matrix = estimate_similarity(landmarks, face_template(size))
    height, width = image.shape[:2]
    x, y = np.asarray(landmarks, dtype=np.float64).T
    if not ((x > -1) & (x < width) & (y > -1) & (y < height)).any():
        raise DatasetError(
            f"all landmarks lie outside of the image of {width} x {height} pixels: do they belong to it, at this size?"
        )
    turn = complex(matrix[0, 0], matrix[1, 0])
    back = 1 / turn
    start = -back * complex(matrix[0, 2], matrix[1, 2])
    steps = np.arange(size)
    columns = (back.real * steps)[None, :] + (start.real - back.imag * steps)[:, None]
    rows = (back.imag * steps)[None, :] + (start.imag + back.real * steps)[:, None]
    if antialias and abs(turn) < 1:
        image, columns, rows = _reduced(image, columns, rows, abs(turn))
    return _interpolated(image, columns, rows)


def _check_points(landmarks: ArrayLike, n_points: int) -> NDArray[np.float64]:
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (n_points, 2):
        raise DatasetError(f"landmarks have the shape {points.shape}, expected ({n_points}, 2): x and y of each")
    if not np.isfinite(points).all():
        raise DatasetError("landmarks hold NaN or infinity, expected numbers in pixels")
    if np.abs(points).max() > _MAX_COORDINATE:
        raise DatasetError(f"landmarks reach {np.abs(points).max():.3g}, which is no place in an image in pixels")
    if points.min() >= 0 and points.max() <= 1:
        raise DatasetError("landmarks all lie between 0 and 1; expected pixels, not shares of width and height")
    return points


def _complex(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]


def _sums(
    source: NDArray[np.complex128], target: NDArray[np.complex128]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Give the covariances with a target of centred points (..., n), and of their mirror images."""
    return (source.conj() * target).sum(axis=-1), (source * target).sum(axis=-1)


def _check_spread(centred: NDArray[np.complex128]) -> None:
    """Refuse points that lie on one place or one line, by the singular values of the matrix (n, 2) they form."""
    sum_of_squares, difference = (np.abs(centred) ** 2).sum(), abs((centred**2).sum())
    along, across = np.sqrt(np.maximum([sum_of_squares + difference, sum_of_squares - difference], 0) / 2)
    if along < _MIN_SPREAD:
        raise DatasetError("landmarks lie on one place, within a pixel")
    if len(centred) > 2 and across < _MIN_BREADTH * along:
        raise DatasetError("landmarks lie on one line; expected eyes, nose and mouth of a face")


def _reduced(
    image: NDArray[np.uint8], columns: NDArray[np.float64], rows: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Reduce the part of an image that is looked at, and give the places to look at in what is left of it."""
    height, width = image.shape[:2]
    margin = int(np.ceil(2 / scale)) + 1
    left, right = _part(columns, width, margin)
    top, bottom = _part(rows, height, margin)
    part = Image.fromarray(image[top:bottom, left:right])
    small = part.resize(
        (max(1, round(part.width * scale)), max(1, round(part.height * scale))), Image.Resampling.BILINEAR
    )
    # Pixel i covers i - 0.5 to i + 0.5: its edges are scaled, not its centre.
    columns = (columns - left + 0.5) * (small.width / part.width) - 0.5
    rows = (rows - top + 0.5) * (small.height / part.height) - 0.5
    return np.asarray(small), columns, rows


def _part(places: NDArray[np.float64], length: int, margin: int) -> tuple[int, int]:
    first = int(np.clip(np.floor(places.min()) - margin, 0, length - 1))
    last = int(np.clip(np.ceil(places.max()) + margin, first + 1, length))
    return first, last


def _interpolated(
    image: NDArray[np.uint8], columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Look up an image (h, w, 3) at places between its pixels, which are black outside of it."""
    height, width = image.shape[:2]
    pixels = np.ascontiguousarray(image).reshape(-1, 3)
    left, top = np.floor(columns), np.floor(rows)
    right_share, bottom_share = (columns - left).astype(np.float32), (rows - top).astype(np.float32)
    left_column, top_row = left.astype(np.int64), top.astype(np.int64)
    total = np.zeros((*columns.shape, 3), dtype=np.float32)
    for row, row_share in ((top_row, 1 - bottom_share), (top_row + 1, bottom_share)):
        row_weight = row_share * ((row >= 0) & (row < height))
        row_start = np.clip(row, 0, height - 1) * width
        for column, column_share in ((left_column, 1 - right_share), (left_column + 1, right_share)):
            weight = row_weight * column_share * ((column >= 0) & (column < width))
            neighbours = pixels.take(row_start + np.clip(column, 0, width - 1), axis=0)
            total += neighbours * weight[..., None]
    return np.rint(total).astype(np.uint8)
