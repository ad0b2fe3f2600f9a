"""Photographs into aligned faces, by a file and by a detector: what comes out, what is rejected and why."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from interproto_lib.data.alignment import align_face
from interproto_lib.data.detection import FaceDetector
from interproto_lib.data.face_decoding import aligned_decode
from interproto_lib.data.faces import Faces, faces_at
from interproto_lib.data.formats.landmarks import read_landmarks
from interproto_lib.data.packed_images import ImageRejectedError
from interproto_lib.errors import ConfigError, DatasetError, ManifestError

ATT_FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "att_faces"
TEMPLATE = np.array([(38.25, 51.75), (73.5, 51.5), (56, 71.75), (41.5, 92.25), (70.75, 92.25)])


def photograph(seed: int, height: int = 240, width: int = 200) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), np.uint8))


def encoded(image: np.ndarray, image_format: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format, **more)
    return buffer.getvalue()


def landmark_file(folder: Path, faces: list[tuple[str, np.ndarray]], scores: list[float] | None = None) -> Path:
    names = [
        f"{name}_{axis}" for name in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in "xy"
    ]
    frame = pd.DataFrame([points.ravel() for _, points in faces], columns=names)
    frame["path"] = [path for path, _ in faces]
    frame["face"] = range(len(faces))
    if scores is not None:
        frame["score"] = scores
    frame.to_csv(folder / "landmarks.csv", index=False)
    return folder / "landmarks.csv"


def detector_of(faces: Faces, score_threshold: float = 0.5) -> FaceDetector:
    """A detector that finds the same in every image, without a network."""
    detector = FaceDetector.__new__(FaceDetector)
    detector.path, detector.sha256, detector.input_size = Path("model.onnx"), "0" * 64, (640, 640)
    detector.score_threshold, detector.overlap_threshold = score_threshold, 0.4
    detector.family = SimpleNamespace(name="priors")
    detector.detect = lambda image: faces
    return detector


IMAGES = [photograph(seed) for seed in range(4)]
PATHS = pd.Series([f"a/{row}.png" for row in range(4)])
PLACES = [TEMPLATE * 1.5 + (12, 20), np.add(TEMPLATE, (60, 100)), TEMPLATE * 0.7 + 40, TEMPLATE]


def rejection(decode, row: int, image: np.ndarray | bytes = IMAGES[0]) -> tuple[str, str]:
    with pytest.raises(ImageRejectedError) as caught:
        decode(row, image if isinstance(image, bytes) else encoded(image))
    return caught.value.kind, str(caught.value)


def test_a_file_of_landmarks(tmp_path: Path):
    order = [2, 0, 3, 1]  # the file's order is not that of the images
    file = landmark_file(tmp_path, [(PATHS[row], PLACES[row]) for row in order])
    decode = aligned_decode(read_landmarks(file), paths=PATHS, image_size=112)
    for row, image in enumerate(IMAGES):
        for content in (encoded(image), encoded(image, "BMP")):
            found = decode(row, content)
            np.testing.assert_array_equal(found.pixels, align_face(image, PLACES[row].astype(np.float32)))
            assert found.original_size == (200, 240)
    assert decode.notes == ()
    assert decode.settings == {
        "landmarks": {"file": "landmarks.csv", "sha256": read_landmarks(file).sha256},
        "choose_face": "central",
        "min_face_pixels": 16.0,
        "antialias": False,
    }


def test_sizes_and_filter(tmp_path: Path):
    file = landmark_file(tmp_path, [(PATHS[0], TEMPLATE * 2)])
    decode = aligned_decode(read_landmarks(file), paths=PATHS, image_size=128, antialias=True)
    expected = align_face(IMAGES[0], TEMPLATE * 2, 128, antialias=True)
    np.testing.assert_array_equal(decode(0, encoded(IMAGES[0])).pixels, expected)
    assert (expected != align_face(IMAGES[0], TEMPLATE * 2, 128)).any()


def test_landmarks_are_places_in_the_upright_image(tmp_path: Path):
    image = photograph(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise to stand upright
    lying = encoded(np.ascontiguousarray(np.rot90(image)), exif=exif)
    file = landmark_file(tmp_path, [(PATHS[0], PLACES[0])])
    found = aligned_decode(read_landmarks(file), paths=PATHS)(0, lying)
    np.testing.assert_array_equal(found.pixels, align_face(image, PLACES[0].astype(np.float32)))
    assert found.original_size == (200, 240)


def test_images_that_the_file_does_not_name(tmp_path: Path):
    file = landmark_file(tmp_path, [(PATHS[2], PLACES[2]), ("b/9.png", PLACES[0]), ("b/8.png", PLACES[0])])
    decode = aligned_decode(read_landmarks(file), paths=PATHS)
    decode(2, encoded(IMAGES[2]))
    assert rejection(decode, 0) == ("not in the landmark file", "not in the landmark file")
    assert decode.notes == (
        f"{file} does not name 3 (a/0.png, a/1.png, a/3.png) of 4 images.",
        f"{file} names 2 (b/9.png, b/8.png) of 3 images that are not in the collection.",
    )
    with pytest.raises(ManifestError, match="names none of the 1 images"):
        aligned_decode(read_landmarks(file), paths=pd.Series(["c.png"]))
    with pytest.raises(ConfigError, match="give `paths`"):
        aligned_decode(read_landmarks(file))


def test_one_of_several_faces(tmp_path: Path):
    large, central = TEMPLATE * 1.2, np.add(TEMPLATE, (44, 48))
    faces = [(PATHS[0], large), (PATHS[0], central)]
    landmarks = read_landmarks(landmark_file(tmp_path, faces, scores=[0.5, 0.9]))
    content = encoded(IMAGES[0])
    expected = {"largest": large, "central": central, "highest_score": central}
    for choose, points in expected.items():
        found = aligned_decode(landmarks, paths=PATHS, choose=choose)(0, content).pixels
        np.testing.assert_array_equal(found, align_face(IMAGES[0], points.astype(np.float32)))
    kind, reason = rejection(aligned_decode(landmarks, paths=PATHS, choose="only"), 0)
    assert (kind, reason) == ("several faces", "several faces (2), expected only one")
    without = read_landmarks(landmark_file(tmp_path, faces))
    with pytest.raises(ConfigError, match=r"highest_score', but .*landmarks\.csv has no column score"):
        aligned_decode(without, paths=PATHS, choose="highest_score")
    half = read_landmarks(landmark_file(tmp_path, faces, scores=[0.5, np.nan]))
    kind, reason = rejection(aligned_decode(half, paths=PATHS, choose="highest_score"), 0)
    assert reason == "several faces without a score (2), expected one score a face"


def test_faces_that_cannot_be_used(tmp_path: Path):
    faces = [
        (PATHS[0], TEMPLATE * 0.15 + 20),
        (PATHS[1], TEMPLATE * (-1, 1) + (112, 0)),
        (PATHS[2], TEMPLATE + 5000),
        (PATHS[3], PLACES[3]),
    ]
    landmarks = read_landmarks(landmark_file(tmp_path, faces))
    decode = aligned_decode(landmarks, paths=PATHS)
    kind, reason = rejection(decode, 0)
    assert (kind, reason) == ("face too small", "face too small (11 pixels, expected at least 16)")
    aligned_decode(landmarks, paths=PATHS, min_face_pixels=10)(0, encoded(IMAGES[0]))
    kind, reason = rejection(decode, 1)
    assert kind == "landmarks cannot be aligned"
    assert reason.startswith("landmarks are mirrored")
    kind, reason = rejection(decode, 2)
    assert kind == "landmarks cannot be aligned"
    assert reason.startswith("all landmarks lie outside of the image of 200 x 240 pixels")
    cut = encoded(IMAGES[3], "JPEG")[:900]
    for content, what in ((b"", "empty"), (b"no image", "not an image"), (cut, "cut short")):
        with pytest.raises(DatasetError, match=what):
            decode(3, content)


def test_a_detector():
    points = np.stack([PLACES[0], PLACES[2]])
    found = faces_at(points, np.array([0.7, 0.99]))
    decode = aligned_decode(detector_of(found))
    np.testing.assert_array_equal(decode(7, encoded(IMAGES[1])).pixels, align_face(IMAGES[1], PLACES[0]))
    best = aligned_decode(detector_of(found), choose="highest_score")
    np.testing.assert_array_equal(best(0, encoded(IMAGES[1])).pixels, align_face(IMAGES[1], PLACES[2]))
    assert rejection(aligned_decode(detector_of(found), choose="only"), 0)[0] == "several faces"
    assert rejection(aligned_decode(detector_of(found), min_face_pixels=200), 0)[0] == "face too small"
    none = Faces(boxes=np.empty((0, 4)), scores=np.empty(0), landmarks=np.empty((0, 5, 2)), best_score=0.312)
    assert rejection(aligned_decode(detector_of(none)), 0) == (
        "no face found",
        "no face found (best score 0.31, below 0.5)",
    )
    assert decode.settings["detector"]["sha256"] == "0" * 64
    assert decode.notes == ()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_size": 4}, "size is 4, expected 16 to 1024"),
        ({"choose": "best"}, "choose is 'best'"),
        ({"min_face_pixels": -1}, "min_face_pixels is -1"),
        ({"min_face_pixels": float("nan")}, "min_face_pixels is nan"),
    ],
)
def test_other_settings(settings, reason: str):
    with pytest.raises(ConfigError, match=reason):
        aligned_decode(detector_of(faces_at(PLACES[0][None], np.ones(1))), **settings)


def test_a_real_network_on_many_threads(tmp_path: Path):
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    from onnx import TensorProto, helper, numpy_helper

    # One prior of the finest grid answers with a face, in units of a tenth of its side, 16 pixels, around (108, 100).
    height, width, row = 240, 200, 2 * (12 * 25 + 13)
    n_rows = 2 * (30 * 25 + 15 * 13 + 8 * 7)
    loc, conf, landms = np.zeros((1, n_rows, 4)), np.zeros((1, n_rows, 2)), np.zeros((1, n_rows, 10))
    conf[..., 0], conf[0, row] = 1, (0.1, 0.9)
    loc[0, row] = (0, 0, np.log(5) / 0.2, np.log(6) / 0.2)
    landms[0, row] = ((PLACES[1] - (108, 100)) / 1.6).ravel()
    outputs = {"loc": loc, "conf": conf, "landms": landms}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_value"], [name]) for name in outputs],
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in outputs.items()],
        [numpy_helper.from_array(value.astype(np.float32), f"{name}_value") for name, value in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "model.onnx"))
    decode = aligned_decode(FaceDetector(tmp_path / "model.onnx", n_threads=1))
    contents = [encoded(photograph(seed)) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decode, range(24), contents))
    for seed, face in enumerate(found):
        difference = face.pixels.astype(int) - align_face(photograph(seed), PLACES[1])
        assert np.abs(difference).max() <= 1
    assert len({face.pixels.tobytes() for face in found}) == 24


@pytest.mark.skipif(not ATT_FACES.is_dir(), reason=f"the AT&T faces are not at {ATT_FACES}")
def test_photographs(tmp_path: Path):
    files = sorted(ATT_FACES.glob("s?/*.pgm"))[:30]
    points = np.array([(30, 52), (62, 51), (46, 70), (34, 86), (59, 85)], dtype=float)  # made up, about right
    paths = pd.Series([file.relative_to(ATT_FACES).as_posix() for file in files])
    landmarks = read_landmarks(landmark_file(tmp_path, [(path, points) for path in paths]))
    decode = aligned_decode(landmarks, paths=paths)
    for row, file in enumerate(files):
        face = decode(row, file.read_bytes())
        assert face.original_size == (92, 112)
        assert face.pixels.std() > 15
        np.testing.assert_array_equal(face.pixels[..., 0], face.pixels[..., 2])
