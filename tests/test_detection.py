"""Decoding of both families against loops written out, on models that the tests build; what is no detector is told."""

from __future__ import annotations

import builtins
import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import assert_only_named_errors, mutations
from PIL import Image

from interproto_lib.data.detection import FaceDetector
from interproto_lib.data.retinaface import OUTPUT_FAMILIES, recognise_outputs
from interproto_lib.errors import BrokenEnvironmentError, CheckpointError, ConfigError, DatasetError

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

STRIDES = (8, 16, 32)
MIN_SIZES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}


# --- models ---------------------------------------------------------------------------------------


def save_model(file: Path, nodes, outputs, *, input_shape, constants=None, input_type=None) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", input_type or TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(file))
    return file


def constant_model(file: Path, outputs: list[np.ndarray], *, input_shape=(1, 3, 96, 64), **more: Any) -> Path:
    """A model that answers the same whatever it sees."""
    from onnx import helper

    names = [f"output{number}" for number in range(len(outputs))]
    nodes = [helper.make_node("Identity", [f"value{number}"], [name]) for number, name in enumerate(names)]
    constants = {f"value{number}": np.asarray(value, np.float32) for number, value in enumerate(outputs)}
    return save_model(file, nodes, names, input_shape=input_shape, constants=constants, **more)


def seeing_model(file: Path, family: str, *, input_shape=("n", 3, "h", "w"), channel: int = 0) -> Path:
    """A model whose score is the mean of one input channel over each cell, and whose boxes have a fixed shape."""
    from onnx import helper

    nodes, constants, outputs = [], {}, []
    by_kind: dict[int, list[str]] = {}
    widths = (4, 2, 10) if family == "priors" else (1, 4, 10)
    for stride, width in itertools.product(STRIDES, widths):
        name = f"{stride}_{width}"
        weight = np.zeros((2 * width, 3, stride, stride), np.float32)
        is_score = width == widths[1 if family == "priors" else 0]
        if is_score:
            weight[width - 1 :: width, channel] = 1 / stride**2
        bias = np.zeros(2 * width, np.float32) if is_score else np.linspace(0.1, 1, 2 * width, dtype=np.float32)
        constants |= {f"w{name}": weight, f"b{name}": bias}
        constants[f"s{name}"] = np.array([1, -1, width] if family == "priors" else [-1, width])
        nodes += [
            helper.make_node("Conv", ["image", f"w{name}", f"b{name}"], [f"c{name}"], strides=[stride, stride]),
            helper.make_node("Transpose", [f"c{name}"], [f"t{name}"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"t{name}", f"s{name}"], [f"r{name}"]),
        ]
        by_kind.setdefault(width, []).append(f"r{name}")
    if family == "priors":
        for width, parts in by_kind.items():
            last = f"p{width}" if width == 2 else f"o{width}"
            nodes.append(helper.make_node("Concat", parts, [last], axis=1))
        constants["divisor"] = np.array(40.0, np.float32)  # of values up to 151
        nodes.append(helper.make_node("Div", ["p2", "divisor"], ["q2"]))
        nodes.append(helper.make_node("Softmax", ["q2"], ["o2"], axis=2))
        outputs = ["o4", "o2", "o10"]
    else:
        for part in by_kind[1]:
            nodes.append(helper.make_node("Sigmoid", [part], [f"p{part}"]))
        outputs = [*(f"p{part}" for part in by_kind[1]), *by_kind[4], *by_kind[10]]
    return save_model(file, nodes, outputs, input_shape=input_shape, constants=constants)


def n_rows(stride: int, height: int, width: int) -> int:
    return 2 * math.ceil(height / stride) * math.ceil(width / stride)


def prior_outputs(seed: int, height=96, width=64) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    n = sum(n_rows(stride, height, width) for stride in STRIDES)
    face = draw.uniform(0, 1, n)
    return {
        "loc": draw.normal(0, 2, (1, n, 4)),
        "conf": np.stack([1 - face, face], axis=1)[None],
        "landms": draw.normal(0, 2, (1, n, 10)),
    }


def anchor_outputs(seed: int, height=96, width=64) -> dict[str, list[np.ndarray]]:
    draw = np.random.default_rng(seed)
    rows = [n_rows(stride, height, width) for stride in STRIDES]
    return {
        "score": [draw.uniform(0, 1, (n, 1)) for n in rows],
        "bbox": [draw.uniform(-0.3, 3, (n, 4)) for n in rows],
        "kps": [draw.normal(0, 2, (n, 10)) for n in rows],
    }


# --- brute force ----------------------------------------------------------------------------------


def decode_priors_by_hand(loc, conf, landms, height, width):
    """As the training of RetinaFace with priors encodes it, in shares of width and height, one prior after another."""
    faces, row = [], 0
    for stride in STRIDES:
        for i in range(math.ceil(height / stride)):
            for j in range(math.ceil(width / stride)):
                for size in MIN_SIZES[stride]:
                    x, y = (j + 0.5) * stride / width, (i + 0.5) * stride / height
                    w, h = size / width, size / height
                    a, b, c, d = loc[0, row]
                    centre_x, centre_y = x + a * 0.1 * w, y + b * 0.1 * h
                    box_w, box_h = w * math.exp(c * 0.2), h * math.exp(d * 0.2)
                    box = [
                        (centre_x - box_w / 2) * width,
                        (centre_y - box_h / 2) * height,
                        (centre_x + box_w / 2) * width,
                        (centre_y + box_h / 2) * height,
                    ]
                    landmarks = landms[0, row].reshape(5, 2)
                    points = [((x + a * 0.1 * w) * width, (y + b * 0.1 * h) * height) for a, b in landmarks]
                    faces.append((conf[0, row, 1], box, points))
                    row += 1
    assert row == loc.shape[1]
    return faces


def decode_anchors_by_hand(score, bbox, kps, height, width):
    faces = []
    for level, stride in enumerate(STRIDES):
        row = 0
        for i in range(math.ceil(height / stride)):
            for j in range(math.ceil(width / stride)):
                for _ in range(2):
                    x, y = j * stride, i * stride
                    left, top, right, bottom = (stride * value for value in bbox[level][row])
                    points = [(x + stride * a, y + stride * b) for a, b in kps[level][row].reshape(5, 2)]
                    faces.append((score[level][row, 0], [x - left, y - top, x + right, y + bottom], points))
                    row += 1
        assert row == len(bbox[level])
    return faces


def overlap(one, other):
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return across * down / (sum(areas) - across * down)


def suppress_by_hand(faces, score_threshold, overlap_threshold):
    kept: list[Any] = []
    for face in sorted(faces, key=lambda face: -face[0]):
        _, box, _ = face
        if face[0] < score_threshold or box[2] <= box[0] or box[3] <= box[1]:
            continue
        if all(overlap(box, other[1]) <= overlap_threshold for other in kept):
            kept.append(face)
    return kept


def assert_same_faces(found, expected, scales=(1.0, 1.0)):
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, [face[0] for face in expected], atol=1e-5)
    boxes = np.array([face[1] for face in expected]) / [*scales, *scales]
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
    np.testing.assert_allclose(found.landmarks, np.array([face[2] for face in expected]) / scales, atol=1e-3)


# --- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 160), (100, 70)])
def test_priors_equal_the_loops(tmp_path: Path, seed: int, height: int, width: int):
    outputs = prior_outputs(seed, height, width)
    order = random.Random(seed).sample(list(outputs.values()), 3)  # told by their widths, whatever their order
    file = constant_model(tmp_path / "model.onnx", order, input_shape=(1, 3, height, width))
    detector = FaceDetector(file, score_threshold=0.6, overlap_threshold=0.35)
    assert detector.family.name == "RetinaFace with priors"
    assert detector.input_size == (height, width)
    found = detector.detect(np.zeros((height, width, 3), np.uint8))
    every = decode_priors_by_hand(**outputs, height=height, width=width)
    expected = suppress_by_hand(every, 0.6, 0.35)
    assert len(expected) < sum(face[0] >= 0.6 for face in every)  # some are dropped
    assert_same_faces(found, expected)
    assert found.best_score == pytest.approx(max(face[0] for face in every), abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("with_batch", [False, True])
@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 160)])
def test_anchor_points_equal_the_loops(tmp_path: Path, seed: int, with_batch: bool, height: int, width: int):
    outputs = anchor_outputs(seed, height, width)
    flat = [*outputs["score"], *outputs["bbox"], *outputs["kps"]]
    if seed % 2:
        flat = random.Random(seed).sample(flat, 9)
    shaped = [array[None] for array in flat] if with_batch else flat
    file = constant_model(tmp_path / "model.onnx", shaped, input_shape=(1, 3, height, width))
    detector = FaceDetector(file, score_threshold=0.6)
    assert detector.family.name == "anchor points"
    found = detector.detect(np.zeros((height, width, 3), np.uint8))
    every = decode_anchors_by_hand(**outputs, height=height, width=width)
    expected = suppress_by_hand(every, 0.6, 0.4)
    assert len(expected) < sum(face[0] >= 0.6 for face in every)
    assert_same_faces(found, expected)


def test_no_face(tmp_path: Path):
    outputs = prior_outputs(0)
    outputs["conf"] = np.stack([np.full((1, 252), 0.69), np.full((1, 252), 0.31)], axis=2)
    found = FaceDetector(constant_model(tmp_path / "model.onnx", list(outputs.values()))).detect(
        np.zeros((50, 40, 3), np.uint8)
    )
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)
    assert found.landmarks.shape == (0, 5, 2)
    assert found.best_score == pytest.approx(0.31)


def test_numbers_that_are_not_finite(tmp_path: Path):
    outputs = prior_outputs(0)
    outputs["loc"][...] = 1e4  # exp of it overflows
    detector = FaceDetector(constant_model(tmp_path / "model.onnx", list(outputs.values())))
    with pytest.raises(DatasetError, match="numbers that are not finite"):
        detector.detect(np.zeros((50, 40, 3), np.uint8))


# --- what the network sees, and back --------------------------------------------------------------


def seen_by_hand(image: np.ndarray, height: int, width: int, family: str) -> tuple[np.ndarray, tuple[float, float]]:
    """The values that a network of the family was trained on, (1, 3, height, width), and the scales in x and y."""
    scale = min(height / len(image), width / len(image[0]))
    new_height, new_width = max(1, round(len(image) * scale)), max(1, round(len(image[0]) * scale))
    seen = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR), dtype=float)
    if family == "priors":
        seen = np.stack([seen[..., 2] - 104, seen[..., 1] - 117, seen[..., 0] - 123])
        border = 0.0
    else:
        seen = (seen.transpose(2, 0, 1) - 127.5) / 128
        border = -127.5 / 128
    values = np.full((1, 3, height, width), border)
    values[0, :, :new_height, :new_width] = seen
    return values, (new_width / len(image[0]), new_height / len(image))


def raw_outputs(file: Path, values: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": values.astype(np.float32)})


@pytest.mark.parametrize("family", ["priors", "anchor points"])
@pytest.mark.parametrize(
    ("channel", "input_shape", "height", "width"),
    [
        (0, (1, 3, 96, 96), 96, 96),
        (1, ("n", 3, "h", "w"), 300, 200),
        (2, (1, 3, 96, None), 40, 90),
        (0, (1, 3, 96, 128), 900, 30),
        (1, (1, 3, 96, 128), 20, 600),
    ],
)
def test_values_channels_padding_and_places(tmp_path: Path, family: str, channel: int, input_shape, height, width):
    file = seeing_model(tmp_path / "model.onnx", family, channel=channel, input_shape=input_shape)
    draw = np.random.default_rng(channel)
    blocks = np.kron(draw.integers(0, 256, (8, 8, 3)), np.ones((height // 8 + 1, width // 8 + 1, 1)))
    image = blocks[:height, :width].astype(np.uint8)
    is_open = not isinstance(input_shape[-1], int)
    detector = FaceDetector(file, input_size=96 if is_open else None, score_threshold=0.3, n_threads=1)
    seen_width = 128 if 128 in input_shape else 96
    assert detector.input_size == (96, seen_width)
    found = detector.detect(image)
    values, scales = seen_by_hand(image, 96, seen_width, family)
    outputs = raw_outputs(file, values)
    if family == "priors":
        every = decode_priors_by_hand(*outputs, 96, seen_width)
    else:
        every = decode_anchors_by_hand(outputs[:3], outputs[3:6], outputs[6:], 96, seen_width)
    expected = suppress_by_hand(every, 0.3, 0.4)
    assert found.best_score == pytest.approx(max(face[0] for face in every), abs=1e-5)
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found.scores, [face[0] for face in expected], atol=1e-5)
    np.testing.assert_allclose(found.boxes, np.array([face[1] for face in expected]) / [*scales, *scales], atol=1e-3)
    np.testing.assert_allclose(found.landmarks, np.array([face[2] for face in expected]) / scales, atol=1e-3)


@pytest.mark.parametrize("family", ["priors", "anchor points"])
@pytest.mark.parametrize(("height", "width"), [(600, 400), (40, 90), (128, 128), (900, 60)])
def test_a_white_spot_is_found_where_it_is(tmp_path: Path, family: str, height: int, width: int):
    detector = FaceDetector(seeing_model(tmp_path / "model.onnx", family), input_size=128, n_threads=1)
    side = max(height, width) / 4
    for left, top in ((0.0, 0.0), (width - side, 0.0), (0.0, height - side)):
        image = np.zeros((height, width, 3), np.uint8)
        image[max(0, round(top)) : round(top + side), max(0, round(left)) : round(left + side)] = 255
        x, y = detector.detect(image).landmarks[0].mean(axis=0)
        assert left - side <= x <= left + 2 * side
        assert top - side <= y <= top + 2 * side


# --- models that are none -------------------------------------------------------------------------


def with_other(outputs: list[np.ndarray], place: int, value: np.ndarray) -> list[np.ndarray]:
    return [value if number == place else output for number, output in enumerate(outputs)]


PRIORS = list(prior_outputs(0).values())
ANCHORS = [array for arrays in anchor_outputs(0).values() for array in arrays]


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([np.zeros((1, 512))], r"gives 1 outputs of the shapes \(1, 512\)\. Expected is RetinaFace with priors"),
        (PRIORS[:2], "gives 2 outputs"),
        (ANCHORS[:6], "boxes without landmarks"),
        ([array[:, :-2] for array in PRIORS], "an input of 64 x 96 pixels .*for each cell .*: 192, 48, 12 together"),
        (with_other(ANCHORS, 0, ANCHORS[0][:-1]), "two rows for each cell"),
        (with_other(PRIORS, 1, PRIORS[1] * 5 - 2), "scores that are no probabilities. .*phase='test'"),
        (with_other(PRIORS, 1, PRIORS[1] * 0.5), "scores that are no probabilities"),
        (with_other(PRIORS, 1, PRIORS[1] * np.nan), "scores that are no probabilities"),
        (with_other(ANCHORS, 1, ANCHORS[1] * 8 - 4), "scores that are no probabilities"),
        ([np.zeros((1, 16, 12, 8))] * 9, "gives 9 outputs"),
    ],
)
def test_other_outputs(tmp_path: Path, outputs, reason: str):
    with pytest.raises(CheckpointError, match=f"(?s)is no face detector that can be used: .*{reason}"):
        FaceDetector(constant_model(tmp_path / "model.onnx", outputs))


def test_recognised_by_outputs_alone():
    assert recognise_outputs(PRIORS, height=96, width=64) is OUTPUT_FAMILIES["priors"]
    assert recognise_outputs(ANCHORS, height=96, width=64) is OUTPUT_FAMILIES["anchor points"]
    with pytest.raises(CheckpointError, match="two rows for each cell"):
        recognise_outputs(PRIORS, height=64, width=64)


@pytest.mark.parametrize(
    ("input_shape", "reason"),
    [
        ((1, 3, 96), r"takes image \[1, 3, 96\]; expected one image"),
        ((1, 1, 96, 64), r"expected one image, \(1, 3, height, width\)"),
        ((1, 96, 64, 3), "expected one image"),
        ((8, 3, 96, 64), "expected one image"),
        ((1, 3, 96, 8), "8 x 96 pixels, which no detector does"),
        ((1, 3, 96, 2**30), "which no detector does"),
    ],
)
def test_other_inputs(tmp_path: Path, input_shape, reason: str):
    with pytest.raises(CheckpointError, match=reason):
        FaceDetector(constant_model(tmp_path / "model.onnx", PRIORS, input_shape=input_shape))


def test_inputs_of_other_types(tmp_path: Path):
    from onnx import TensorProto

    half = constant_model(tmp_path / "half.onnx", PRIORS, input_type=TensorProto.FLOAT16)
    assert len(FaceDetector(half).detect(np.zeros((96, 64, 3), np.uint8))) > 0
    with pytest.raises(CheckpointError, match=r"values of type tensor\(uint8\), expected float"):
        FaceDetector(constant_model(tmp_path / "bytes.onnx", PRIORS, input_type=TensorProto.UINT8))


def test_a_missing_model_gives_the_steps(tmp_path: Path):
    with pytest.raises(CheckpointError) as caught:
        FaceDetector(tmp_path / "absent.onnx")
    text = str(caught.value)
    assert text.startswith(f"There is no detector model {tmp_path / 'absent.onnx'}. To get one:\n1. ")
    steps = ("\n2. ", "\n3. ", "\n4. ")
    for part in (*steps, "biubug6/Pytorch_Retinaface", "convert_to_onnx.py", "insightface", "--detector"):
        assert part in text
    assert "://" not in text


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = constant_model(tmp_path / "model.onnx", PRIORS)
    real_import = builtins.__import__

    def without_onnxruntime(name, *arguments, **more):
        if name.split(".")[0] == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real_import(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_onnxruntime)
    with pytest.raises(BrokenEnvironmentError, match=r'pip install "interproto-lib\[onnx\]"'):
        FaceDetector(file)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"score_threshold": 0}, "score_threshold is 0, expected a number between 0 and 1"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"overlap_threshold": 1}, "overlap_threshold is 1"),
        ({"input_size": 650}, "input_size is 650, expected a multiple of 32"),
        ({"input_size": 0}, "input_size is 0"),
        ({"input_size": 2**20}, "input_size is 1048576"),
        ({"input_size": 640}, "input_size is 640, but .*model.onnx takes images of 64 x 96 pixels"),
        (
            {"providers": ["MagicExecutionProvider"]},
            "providers are MagicExecutionProvider; this ONNX .*CPU",
        ),
        ({"providers": []}, "providers are none"),
    ],
)
def test_other_settings(tmp_path: Path, settings, reason: str):
    file = constant_model(tmp_path / "model.onnx", PRIORS)
    with pytest.raises(ConfigError, match=reason):
        FaceDetector(file, **settings)


def test_other_images(tmp_path: Path):
    detector = FaceDetector(constant_model(tmp_path / "model.onnx", PRIORS))
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ConfigError, match="expected uint8"):
            detector.detect(image)
    assert len(detector.detect(np.zeros((1, 3000, 3), np.uint8))) > 0
    assert "RetinaFace with priors, input 64 x 96" in repr(detector)
    assert detector.settings["input_size"] == [96, 64]
    assert len(detector.settings["sha256"]) == 64


def test_damaged_models_are_named(tmp_path: Path):
    file = constant_model(tmp_path / "model.onnx", PRIORS)
    content = file.read_bytes()

    def call(damaged: bytes) -> None:
        file.write_bytes(damaged)
        FaceDetector(file).detect(np.zeros((20, 20, 3), np.uint8))

    n_refused = assert_only_named_errors(call, mutations(content, n=150, seed=2))
    assert n_refused > 30
    with pytest.raises(CheckpointError, match="cannot be loaded as an ONNX model"):
        call(b"not a model")
