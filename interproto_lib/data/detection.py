"""Finding faces and their five landmarks in photographs, with a RetinaFace network that the user supplies as ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interproto_lib.data.faces import Faces
from interproto_lib.data.retinaface import OutputFamily, recognise_outputs
from interproto_lib.errors import BrokenEnvironmentError, CheckpointError, ConfigError, DatasetError

DETECTOR_STEPS = """\
1. Choose a network. The paper detects faces with RetinaFace. Of the projects on GitHub, biubug6/Pytorch_Retinaface has
   it with weights (MIT licence); the model packs of deepinsight/insightface hold newer detectors, for non-commercial
   research only.
2. From Pytorch_Retinaface: get Resnet50_Final.pth as its README says, and run there
   `python convert_to_onnx.py --trained_model weights/Resnet50_Final.pth --network resnet50`.
   It writes FaceDetector.onnx.
3. From insightface: get the pack buffalo_l as its README says and take det_10g.onnx out of it. It needs no conversion.
4. Name the file: `--detector FaceDetector.onnx`. Instead of a detector, landmarks can be given: `--landmarks FILE`."""
"""How to get a detector."""

_DEFAULT_INPUT_SIZE = 640
_MIN_INPUT_SIZE, _MAX_INPUT_SIZE = 64, 4096
_COARSEST_STRIDE = 32
_INPUT_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class FaceDetector:
    """A RetinaFace network in ONNX Runtime.

    Two kinds of models are known and told apart by what they answer (see `recognise_outputs`): RetinaFace with priors
    as Pytorch_Retinaface exports it, and the detectors with key points of InsightFace's model packs.

    A photograph is scaled, larger or smaller, until it fits the network's input, and put into its upper left corner.
    Scaling is bilinear, and with a filter where it makes smaller, which the field leaves out. Places are mapped back
    by the two scales alone, as in the field. Of faces that overlap, the one of the highest score stays.

    Detectors may be used by many threads at once.

    Args:
        path: The model, an .onnx file.
        score_threshold: Least score of a face, between 0 and 1.
        overlap_threshold: A face is dropped when it overlaps a better one by more than this share of their union,
            between 0 and 1; InsightFace and Pytorch_Retinaface have 0.4.
        input_size: Height and width in pixels of what the network sees, a multiple of 32; None: those that the model
            has, or 640 where it leaves them open.
        providers: The execution providers of ONNX Runtime to try, in this order.
        n_threads: Threads for one image; None: ONNX Runtime decides.

    Raises:
        BrokenEnvironmentError: ONNX Runtime is not installed.
        CheckpointError: There is no such model (the message gives the steps to get one), it cannot be loaded, or is no
            detector of a known kind.
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        score_threshold: float = 0.5,
        overlap_threshold: float = 0.4,
        input_size: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        n_threads: int | None = None,
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("overlap_threshold", overlap_threshold)):
            if not 0 < value < 1:
                raise ConfigError(f"{name} is {value}, expected a number between 0 and 1.")
        _check_input_size(input_size)
        self.path = Path(path)
        self.score_threshold = score_threshold
        self.overlap_threshold = overlap_threshold
        self._session = _open_session(self.path, providers, n_threads)
        self.sha256 = _hash(self.path)
        self._input_name, self._input_type, self.input_size = _read_input(self.path, self._session, input_size)
        height, width = self.input_size
        try:
            blank = self._run(np.zeros((1, 3, height, width), dtype=self._input_type))
            self.family: OutputFamily = recognise_outputs(blank, height=height, width=width)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path} is no face detector that can be used: {error}") from error

    def __repr__(self) -> str:
        height, width = self.input_size
        return f"FaceDetector({str(self.path)!r}: {self.family.name}, input {width} x {height})"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which faces are found, as JSON can hold it."""
        return {
            "model": self.path.name,
            "sha256": self.sha256,
            "family": self.family.name,
            "input_size": list(self.input_size),
            "score_threshold": self.score_threshold,
            "overlap_threshold": self.overlap_threshold,
        }

    def detect(self, image: NDArray[np.uint8]) -> Faces:
        """Find the faces of a photograph.

        Args:
            image: The photograph (height, width, 3), uint8 RGB, upright.

        Returns:
            The faces by falling score, in pixels of the photograph; boxes may stand out of it. Where there are none,
            `best_score` says how near the network came.

        Raises:
            ConfigError: The image is no uint8 RGB image.
            DatasetError: The network answers with numbers that are not finite.
            CheckpointError: The network fails.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ConfigError(f"image is {image.dtype} {image.shape}, expected uint8 (height, width, 3).")
        height, width = self.input_size
        values, scales = self._letterboxed(image)
        found = self.family.decode(self._run(values), height, width, self.score_threshold)
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.landmarks).all()):
            raise DatasetError("the detector answers with numbers that are not finite")
        kept = self._without_overlaps(found)
        return Faces(
            boxes=found.boxes[kept] / np.tile(scales, 2),
            scores=found.scores[kept],
            landmarks=found.landmarks[kept] / scales,
            best_score=found.best_score,
        )

    def _letterboxed(self, image: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Give the network's input (1, 3, height, width) and by what the photograph was scaled, in x and y."""
        height, width = self.input_size
        scale = min(height / image.shape[0], width / image.shape[1])
        new_height = min(height, max(1, round(image.shape[0] * scale)))
        new_width = min(width, max(1, round(image.shape[1] * scale)))
        resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
        family = self.family
        values = np.empty((height, width, 3), dtype=np.float32)
        values[:] = family.padding
        pixels = np.asarray(resized)
        values[:new_height, :new_width] = pixels if family.channels == "RGB" else pixels[..., ::-1]
        values = (values - np.array(family.mean, dtype=np.float32)) / np.float32(family.divisor)
        scales = np.array([new_width / image.shape[1], new_height / image.shape[0]])
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=self._input_type), scales

    def _without_overlaps(self, faces: Faces) -> NDArray[np.int64]:
        import torch
        from torchvision.ops import nms

        real = np.flatnonzero((faces.boxes[:, 2:] > faces.boxes[:, :2]).all(axis=1))
        boxes = torch.from_numpy(faces.boxes[real])
        kept = nms(boxes, torch.from_numpy(faces.scores[real]), self.overlap_threshold)
        return real[kept.numpy()]

    def _run(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, {self._input_name: values})
        except Exception as error:  # ONNX Runtime raises types of its own, without a common base
            raise CheckpointError(f"{self.path} fails in ONNX Runtime: {_first_line(error)}") from error
        return outputs


def _check_input_size(input_size: int | None) -> None:
    if input_size is None:
        return
    if not _MIN_INPUT_SIZE <= input_size <= _MAX_INPUT_SIZE or input_size % _COARSEST_STRIDE:
        raise ConfigError(
            f"input_size is {input_size}, expected a multiple of {_COARSEST_STRIDE} from {_MIN_INPUT_SIZE} to "
            f"{_MAX_INPUT_SIZE} pixels."
        )


def _open_session(file: Path, providers: Sequence[str], n_threads: int | None) -> Any:
    if not file.is_file():
        raise CheckpointError(f"There is no detector model {file}. To get one:\n{DETECTOR_STEPS}")
    try:
        import onnxruntime
    except ImportError as error:
        raise BrokenEnvironmentError(
            f"Detecting faces needs ONNX Runtime, which cannot be imported ({error}). Install it with "
            '`pip install "interproto-lib[onnx]"`, or give landmarks as a file.'
        ) from error
    available = onnxruntime.get_available_providers()
    unknown = [provider for provider in providers if provider not in available]
    if unknown or not providers:
        raise ConfigError(
            f"providers are {', '.join(providers) or 'none'}; this ONNX Runtime has {', '.join(available)}."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime raises types of its own, without a common base
        raise CheckpointError(f"{file} cannot be loaded as an ONNX model: {_first_line(error)}") from error


def _read_input(file: Path, session: Any, input_size: int | None) -> tuple[str, Any, tuple[int, int]]:
    """Give name, type and (height, width) of what the network takes."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or not _may_be(shape[0], 1) or not _may_be(shape[1], 3):
        shapes = ", ".join(f"{entry.name} {entry.shape}" for entry in inputs)
        raise CheckpointError(f"{file} takes {shapes or 'nothing'}; expected one image, (1, 3, height, width).")
    if inputs[0].type not in _INPUT_TYPES:
        raise CheckpointError(f"{file} takes values of type {inputs[0].type}, expected float or float16.")
    sides = [side if isinstance(side, int) and side > 0 else None for side in shape[2:]]
    for side in sides:
        if side is not None and input_size is not None and side != input_size:
            raise ConfigError(f"input_size is {input_size}, but {file} takes images of {sides[1]} x {sides[0]} pixels.")
        if side is not None and not _COARSEST_STRIDE <= side <= _MAX_INPUT_SIZE:
            raise CheckpointError(f"{file} takes images of {shape[3]} x {shape[2]} pixels, which no detector does.")
    height, width = (side or input_size or _DEFAULT_INPUT_SIZE for side in sides)
    return inputs[0].name, _INPUT_TYPES[inputs[0].type], (height, width)


def _may_be(side: Any, expected: int) -> bool:
    return side == expected or not isinstance(side, int) or side <= 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
