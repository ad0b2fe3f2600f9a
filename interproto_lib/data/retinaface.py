"""What a RetinaFace network answers, turned into faces: two families of exported models, told apart by their outputs.

Everything is in pixels of the network's input, whose places lie on three grids, one cell every 8, 16 and 32 pixels, row
by row; each cell answers twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.faces import Faces
from interproto_lib.errors import CheckpointError

STRIDES = (8, 16, 32)
"""Pixels from one cell of a grid to the next, for each of the three grids."""

PRIOR_SIZES = ((16, 32), (64, 128), (256, 512))
"""Sides in pixels of the two square priors of a cell, for each grid."""

_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_ANSWERS_PER_CELL = 2
_MAX_FACES_CONSIDERED = 5000
_WIDTHS = {"priors": (2, 4, 10), "anchor points": (1, 1, 1, 4, 4, 4, 10, 10, 10)}

Outputs = Sequence[NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True)
class OutputFamily:
    """One way in which exported networks take an image and say where faces are.

    Attributes:
        name: What it is called in messages.
        source: The projects whose models are of it.
        channels: The order of the channels that it takes, "RGB" or "BGR".
        mean: What is taken off the values 0 to 255 of each channel, in that order.
        divisor: By what they are divided then.
        padding: The value, 0 to 255, of each channel, in that order, where the image does not fill the input.
        decode: Turns outputs, height and width of the input and the least score into faces, best first.
    """

    name: str
    source: str
    channels: str
    mean: tuple[float, float, float]
    divisor: float
    padding: tuple[float, float, float]
    decode: Callable[[Outputs, int, int, float], Faces]


def recognise_outputs(outputs: Sequence[NDArray[Any]], *, height: int, width: int) -> OutputFamily:
    """Tell of which family a network is by what it answered.

    Three outputs of 2, 4 and 10 numbers a row, in any order, are those of priors. Nine outputs, three each of 1, 4 and
    10 numbers a row, are those of anchor points. A first dimension of 1, the batch, may be there or not.

    Args:
        outputs: The outputs of the network for one image.
        height: Height of its input in pixels.
        width: Width of its input.

    Returns:
        The family.

    Raises:
        CheckpointError: The outputs are of no known family, have other numbers of rows than the size of the input asks
            for, or scores that are no probabilities.
    """
    shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
    flat = [_without_batch(output) for output in outputs]
    widths = tuple(sorted(output.shape[1] if output.ndim == 2 else 0 for output in flat))
    if widths == (1, 1, 1, 4, 4, 4):
        raise CheckpointError("The network gives boxes without landmarks. Take a model that has five key points.")
    name = next((name for name, expected in _WIDTHS.items() if expected == widths), None)
    if name is None:
        raise CheckpointError(
            f"The network gives {len(outputs)} outputs of the shapes {shapes}. Expected is RetinaFace with priors "
            "(three outputs of 4, 2 and 10 numbers a row: boxes, probabilities, landmarks) or a detector of "
            "InsightFace with key points (nine outputs, for each of three strides 1, 4 and 10 numbers a row)."
        )
    cells = _cells(height, width)
    n_rows = [cells.sum()] * 3 if name == "priors" else sorted([*cells] * 3)
    if sorted(len(output) for output in flat) != [count * _ANSWERS_PER_CELL for count in n_rows]:
        raise CheckpointError(
            f"For an input of {width} x {height} pixels the network gives outputs of the shapes {shapes}. Expected are "
            f"two rows for each cell of grids of 8, 16 and 32 pixels: {', '.join(str(2 * n) for n in cells)}"
            + (" together." if name == "priors" else ".")
        )
    family = OUTPUT_FAMILIES[name]
    scores = _of_width(flat, 2 if name == "priors" else 1)
    for score in scores:
        is_probability = (score > -1e-3).all() and (score < 1 + 1e-3).all()
        if not is_probability or (name == "priors" and np.abs(score.sum(axis=1) - 1).max() > 1e-2):
            raise CheckpointError(
                "The network gives scores that are no probabilities. Export it as it is for use, with a softmax or "
                "sigmoid at the end: RetinaFace with phase='test'."
            )
    return family


def decode_priors(outputs: Outputs, height: int, width: int, score_threshold: float) -> Faces:
    """Decode what RetinaFace with priors answers.

    A prior of side s around the centre (x, y) of a cell, with the output (a, b, c, d), is a box with the centre
    (x + 0.1 s a, y + 0.1 s b), s exp(0.2 c) wide and s exp(0.2 d) high; a landmark is (x + 0.1 s a, y + 0.1 s b). A row
    of probabilities is (no face, face). Source: Deng et al., RetinaFace (CVPR 2020), with the priors of the PyTorch
    implementation, Pytorch_Retinaface.

    Args:
        outputs: Boxes (1, n, 4), probabilities (1, n, 2) and landmarks (1, n, 10), in any order.
        height: Height of the network's input in pixels.
        width: Width of it.
        score_threshold: Least probability of a face.

    Returns:
        The faces by falling score, at most 5,000, before any is dropped for overlapping another.
    """
    flat = [_without_batch(output) for output in outputs]
    (loc,), (conf,), (points,) = (_of_width(flat, n) for n in (4, 2, 10))
    scores = conf[:, 1].astype(np.float64)
    rows = _best_rows(scores, score_threshold)
    priors = _priors(height, width)[rows]
    centre, side = priors[:, :2], priors[:, 2:]
    loc, points = loc[rows].astype(np.float64), points[rows].astype(np.float64).reshape(-1, 5, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        middle = centre + _CENTRE_VARIANCE * side * loc[:, :2]
        half = side * np.exp(_SIZE_VARIANCE * loc[:, 2:]) / 2
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        landmarks = centre[:, None] + _CENTRE_VARIANCE * side[:, None] * points
    return Faces(boxes=boxes, scores=scores[rows], landmarks=landmarks, best_score=_best(scores))


def decode_anchor_points(outputs: Outputs, height: int, width: int, score_threshold: float) -> Faces:
    """Decode what the detectors of InsightFace answer.

    At the upper left corner (x, y) of a cell of stride s, the output (a, b, c, d) is a box from (x - s a, y - s b) to
    (x + s c, y + s d), and a landmark (a, b) is (x + s a, y + s b). Source: SCRFD (Guo et al., ICLR 2022) and the
    detectors of InsightFace's model packs.

    Args:
        outputs: Scores (n, 1), distances (n, 4) and landmarks (n, 10) for each of the three strides, in any order.
        height: Height of the network's input in pixels.
        width: Width of it.
        score_threshold: Least score of a face.

    Returns:
        The faces by falling score, at most 5,000, before any is dropped for overlapping another.
    """
    flat = [_without_batch(output) for output in outputs]
    # The finest grid has most rows; the sort is stable, and grids of equal length keep their order.
    by_width = [sorted(_of_width(flat, n), key=len, reverse=True) for n in (1, 4, 10)]
    scores, distances, points = (np.concatenate(arrays).astype(np.float64) for arrays in by_width)
    rows = _best_rows(scores[:, 0], score_threshold)
    corners = _corners(height, width)[rows]
    place, stride = corners[:, :2], corners[:, 2:]
    reach = stride * distances[rows]
    boxes = np.concatenate([place - reach[:, :2], place + reach[:, 2:]], axis=1)
    landmarks = place[:, None] + stride[:, None] * points[rows].reshape(-1, 5, 2)
    return Faces(boxes=boxes, scores=scores[rows, 0], landmarks=landmarks, best_score=_best(scores))


OUTPUT_FAMILIES: dict[str, OutputFamily] = {
    "priors": OutputFamily(
        name="RetinaFace with priors",
        source="Pytorch_Retinaface",
        channels="BGR",
        mean=(104.0, 117.0, 123.0),
        divisor=1.0,
        padding=(104.0, 117.0, 123.0),
        decode=decode_priors,
    ),
    "anchor points": OutputFamily(
        name="anchor points",
        source="InsightFace",
        channels="RGB",
        mean=(127.5, 127.5, 127.5),
        divisor=128.0,
        padding=(0.0, 0.0, 0.0),
        decode=decode_anchor_points,
    ),
}
"""The families of models that are known."""


def _without_batch(output: NDArray[Any]) -> NDArray[Any]:
    return output[0] if output.ndim == 3 and len(output) == 1 else output


def _of_width(outputs: Sequence[NDArray[Any]], n: int) -> list[NDArray[Any]]:
    return [output for output in outputs if output.shape[1] == n]


def _cells(height: int, width: int) -> NDArray[np.int64]:
    """Give how many cells each of the three grids has."""
    return np.array([-(-height // stride) * -(-width // stride) for stride in STRIDES])


def _grid(height: int, width: int, stride: int) -> NDArray[np.float64]:
    """Give the upper left corners (n, 2) of a grid's cells, row by row, each as often as a cell answers."""
    y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
    corners = np.stack([x.ravel(), y.ravel()], axis=1) * float(stride)
    return corners.repeat(_ANSWERS_PER_CELL, axis=0)


@lru_cache(maxsize=8)
def _priors(height: int, width: int) -> NDArray[np.float64]:
    """Give centre x, centre y and side of all priors (n, 3)."""
    grids = []
    for stride, sizes in zip(STRIDES, PRIOR_SIZES, strict=True):
        centres = _grid(height, width, stride) + stride / 2
        grids.append(np.column_stack([centres, np.resize(np.array(sizes, dtype=np.float64), len(centres))]))
    return np.concatenate(grids)


@lru_cache(maxsize=8)
def _corners(height: int, width: int) -> NDArray[np.float64]:
    """Give x, y and stride of all anchor points (n, 3)."""
    grids = [_grid(height, width, stride) for stride in STRIDES]
    strides = np.repeat(STRIDES, [len(grid) for grid in grids])
    return np.column_stack([np.concatenate(grids), strides])


def _best_rows(scores: NDArray[np.float64], score_threshold: float) -> NDArray[np.int64]:
    rows = np.flatnonzero(scores >= score_threshold)
    return rows[np.argsort(-scores[rows], kind="stable")[:_MAX_FACES_CONSIDERED]]


def _best(scores: NDArray[np.float64]) -> float:
    return float(scores.max()) if scores.size else float("nan")
