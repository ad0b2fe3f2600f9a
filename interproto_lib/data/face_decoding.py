"""From the bytes of a photograph to an aligned face: landmarks given as a file, or found by a detector."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.alignment import TEMPLATE_SIZE, align_face, face_template
from interproto_lib.data.detection import FaceDetector
from interproto_lib.data.faces import FaceChoice, Faces, check_face_choice, choose_face
from interproto_lib.data.formats.image_files import decode_image_bytes
from interproto_lib.data.formats.landmarks import LandmarkFile
from interproto_lib.data.packed_images import DecodedImage, ImageRejectedError
from interproto_lib.errors import ConfigError, DatasetError

MIN_FACE_PIXELS = 16.0
"""Least shorter side of a face's box, in pixels of the photograph: that of RetinaFace's smallest prior."""

_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions:
    """Which face of a photograph is taken, and how it is aligned.

    Attributes:
        choose: How one of several faces is chosen, one of `FACE_CHOICES`.
        min_face_pixels: Least shorter side of a face's box in pixels of the photograph.
        antialias: Whether large faces are filtered when made smaller (see `align_face`).
        score_threshold: Least score of a face that a detector finds, between 0 and 1.
    """

    choose: FaceChoice = "central"
    min_face_pixels: float = MIN_FACE_PIXELS
    antialias: bool = False
    score_threshold: float = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedDecode:
    """Decodes photographs into aligned faces, as `pack_collection` wants it; made by `aligned_decode`.

    It may be called by many threads at once.

    Attributes:
        source: Where landmarks come from.
        image_size: Height and width of the faces in pixels.
        choose: How one of several faces is chosen, one of `FACE_CHOICES`.
        min_face_pixels: Least shorter side of a face's box in pixels.
        antialias: Whether large faces are filtered when made smaller (see `align_face`).
        places: For a file of landmarks, the place in it of each image (n,), -1 where it does not name one.
        notes: What a reader must know of the file: images that it does not name, and names without an image.
    """

    source: LandmarkFile | FaceDetector
    image_size: int
    choose: FaceChoice
    min_face_pixels: float
    antialias: bool
    places: NDArray[np.int64] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """All that the pixels depend on beside the photographs, as JSON can hold it."""
        if isinstance(self.source, LandmarkFile):
            source: dict[str, Any] = {"file": Path(self.source.where).name, "sha256": self.source.sha256}
        else:
            source = self.source.settings
        return {
            "landmarks" if isinstance(self.source, LandmarkFile) else "detector": source,
            "choose_face": self.choose,
            "min_face_pixels": self.min_face_pixels,
            "antialias": self.antialias,
        }

    def __call__(self, row: int, content: bytes) -> DecodedImage:
        """Decode an image.

        Args:
            row: Its row in the collection.
            content: Its encoded bytes.

        Returns:
            The aligned face, and the size of the photograph.

        Raises:
            DatasetError: It cannot be read, or shows no face that can be used; the message is the reason.
        """
        if isinstance(self.source, LandmarkFile) and self.places[row] < 0:
            raise ImageRejectedError("not in the landmark file", kind="not in the landmark file")
        image = np.asarray(decode_image_bytes(content))
        faces = self._faces(row, image)
        landmarks = faces.landmarks[self._chosen(faces, image)]
        try:
            face = align_face(image, landmarks, self.image_size, antialias=self.antialias)
        except DatasetError as error:
            raise ImageRejectedError(str(error), kind="landmarks cannot be aligned") from error
        return DecodedImage(face, (image.shape[1], image.shape[0]))

    def _faces(self, row: int, image: NDArray[np.uint8]) -> Faces:
        if isinstance(self.source, LandmarkFile):
            return self.source.faces(int(self.places[row]))
        found = self.source.detect(image)
        if len(found) == 0:
            raise ImageRejectedError(
                f"no face found (best score {found.best_score:.2f}, below {self.source.score_threshold:g})",
                kind="no face found",
            )
        return found

    def _chosen(self, faces: Faces, image: NDArray[np.uint8]) -> int:
        height, width = image.shape[:2]
        try:
            chosen = choose_face(faces, width=width, height=height, choose=self.choose)
        except DatasetError as error:
            raise ImageRejectedError(str(error), kind="several faces") from error
        side = float(faces.sides()[chosen])
        if side < self.min_face_pixels:
            raise ImageRejectedError(
                f"face too small ({side:.0f} pixels, expected at least {self.min_face_pixels:g})", kind="face too small"
            )
        return chosen


def aligned_decode(
    source: LandmarkFile | FaceDetector,
    *,
    image_size: int = TEMPLATE_SIZE,
    paths: pd.Series | None = None,
    choose: FaceChoice = "central",
    min_face_pixels: float = MIN_FACE_PIXELS,
    antialias: bool = False,
) -> AlignedDecode:
    """Make a decoder that aligns the face of each photograph.

    Args:
        source: Landmarks (see `read_landmarks`), or a detector that finds them.
        image_size: Height and width of the faces in pixels.
        paths: The images of the collection (n,), in its order; needed for landmarks, to find each image among them.
        choose: Which of several faces is meant, one of `FACE_CHOICES`.
        min_face_pixels: Faces whose box has a shorter side are rejected; of landmarks without boxes, the box is twice
            as wide and high as they reach.
        antialias: Filter large faces when they are made smaller, which the field does not (see `align_face`).

    Returns:
        The decoder. It rejects an image with a reason; the kinds are "no face found", "several faces", "face too
        small", "not in the landmark file", "landmarks cannot be aligned", and what makes an image unreadable.

    Raises:
        ConfigError: A setting is out of range, or `paths` is missing.
        ManifestError: The file of landmarks names none of the images, or one of them twice.
    """
    face_template(image_size)
    check_face_choice(choose)
    if not 0 <= min_face_pixels < np.inf:
        raise ConfigError(f"min_face_pixels is {min_face_pixels}, expected 0 or more.")
    places = np.empty(0, dtype=np.int64)
    notes: tuple[str, ...] = ()
    if isinstance(source, LandmarkFile):
        if paths is None:
            raise ConfigError("Landmarks of a file need the paths of the images: give `paths`.")
        if choose == "highest_score" and source.scores is None:
            raise ConfigError(f"choose is 'highest_score', but {source.where} has no column score.")
        places = source.find(paths)
        notes = _notes(source, paths, places)
    return AlignedDecode(
        source=source,
        image_size=image_size,
        choose=choose,
        min_face_pixels=min_face_pixels,
        antialias=antialias,
        places=places,
        notes=notes,
    )


def _notes(source: LandmarkFile, paths: pd.Series, places: NDArray[np.int64]) -> tuple[str, ...]:
    is_used = np.zeros(len(source), dtype=bool)
    is_used[places[places >= 0]] = True
    missing, unused = paths[places < 0], source.paths[~is_used]
    notes = []
    if len(missing):
        notes.append(f"{source.where} does not name {_counted(missing, len(paths))} images.")
    if len(unused):
        notes.append(f"{source.where} names {_counted(unused, len(source))} images that are not in the collection.")
    return tuple(notes)


def _counted(paths: pd.Series, n_all: int) -> str:
    more = "" if len(paths) <= _MAX_NAMED else ", ..."
    return f"{len(paths):,} ({', '.join(paths.iloc[:_MAX_NAMED])}{more}) of {n_all:,}"
