"""Faces found in one photograph, and which of them a photograph of one person is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError, DatasetError

FaceChoice = Literal["central", "largest", "highest_score", "only"]

FACE_CHOICES: dict[str, str] = {
    "central": "the one of most area less twice the squared distance from the image's centre, as InsightFace has it",
    "largest": "the one whose box has most area",
    "highest_score": "the one the detector is surest of",
    "only": "the only one: images with several faces are refused",
}
"""Ways to choose one face of an image, each with what it takes."""

_CENTRE_WEIGHT = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces:
    """The faces of one photograph; none is a valid answer.

    Attributes:
        boxes: Left, top, right and bottom of each face (k, 4) in pixels of the photograph.
        scores: How sure the detector is (k,), 0 to 1; NaN where nobody said.
        landmarks: Five landmarks of each (k, 5, 2) in pixels of the photograph (see `interproto_lib.data.alignment`).
        best_score: The highest score of any place of the photograph, also of one that is no face; NaN where nobody
            said.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    best_score: float = float("nan")

    def __len__(self) -> int:
        return len(self.boxes)

    def sides(self) -> NDArray[np.float64]:
        """Give the shorter side of each face's box (k,) in pixels."""
        sides: NDArray[np.float64] = (self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1)
        return sides


def faces_at(landmarks: NDArray[np.floating], scores: NDArray[np.floating]) -> Faces:
    """Make faces of landmarks alone.

    Their boxes are twice as wide and high as the landmarks reach, about what a detector draws around a face.

    Args:
        landmarks: Five landmarks a face (k, 5, 2), in pixels.
        scores: How sure of each (k,); NaN where unknown.

    Returns:
        The faces.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    low, high = points.min(axis=1), points.max(axis=1)
    boxes = np.concatenate([1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low], axis=1)
    return Faces(boxes=boxes, scores=np.asarray(scores, dtype=np.float64), landmarks=points)


def choose_face(faces: Faces, *, width: int, height: int, choose: FaceChoice = "central") -> int:
    """Choose the face that a photograph of one person is about.

    The default is what InsightFace and the alignment of FaceNet do with photographs of one person: area of the box
    minus twice the squared distance of its centre from that of the image, all in pixels. Of equal faces the first.

    Args:
        faces: The faces (k), at least one.
        width: Width of the photograph in pixels.
        height: Its height.
        choose: One of `FACE_CHOICES`.

    Returns:
        The number of the face, from 0.

    Raises:
        ConfigError: There is no such choice.
        DatasetError: There is no face, there are several and `choose` is "only", or a score is missing where it
            decides; the message is the reason.

    Example:
        >>> landmarks = np.array([[[0, 0], [4, 0], [2, 2], [1, 4], [3, 4]]]) * [[[1]], [[3]]] + [[[40]], [[0]]]
        >>> faces = faces_at(landmarks, np.array([0.9, 0.8]))
        >>> [choose_face(faces, width=80, height=80, choose=name) for name in ("central", "largest", "highest_score")]
        [0, 1, 0]
    """
    check_face_choice(choose)
    if len(faces) == 0:
        raise DatasetError("no face found")
    if choose == "only":
        if len(faces) > 1:
            raise DatasetError(f"several faces ({len(faces)}), expected only one")
        return 0
    if choose == "highest_score":
        if np.isnan(faces.scores).any() and len(faces) > 1:
            raise DatasetError(f"several faces without a score ({len(faces)}), expected one score a face")
        return int(np.argmax(faces.scores))
    sizes = faces.boxes[:, 2:] - faces.boxes[:, :2]
    value = np.maximum(sizes, 0).prod(axis=1)
    if choose == "central":
        offsets = (faces.boxes[:, 2:] + faces.boxes[:, :2]) / 2 - (width / 2, height / 2)
        value = value - _CENTRE_WEIGHT * (offsets**2).sum(axis=1)
    return int(np.argmax(value))


def check_face_choice(choose: str) -> None:
    """Raise a ConfigError unless `choose` is one of `FACE_CHOICES`."""
    if choose not in FACE_CHOICES:
        raise ConfigError(f"choose is {choose!r}, expected one of: {', '.join(FACE_CHOICES)}.")
