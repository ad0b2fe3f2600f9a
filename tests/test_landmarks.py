"""Files of landmarks as tables and as lines: what they mean, what is refused and where, and damage of every kind."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import assert_only_named_errors, mutations
from hypothesis import given, settings
from hypothesis import strategies as st

from interproto_lib.data.faces import FACE_CHOICES, choose_face, faces_at
from interproto_lib.data.formats.landmarks import read_landmarks
from interproto_lib.errors import ConfigError, DatasetError, InterprotoError, ManifestError

COLUMNS = [
    "left_eye_x",
    "left_eye_y",
    "right_eye_x",
    "right_eye_y",
    "nose_x",
    "nose_y",
    "left_mouth_x",
    "left_mouth_y",
    "right_mouth_x",
    "right_mouth_y",
]
FACE = np.array([38.25, 51.75, 73.5, 51.5, 56, 71.75, 41.5, 92.25, 70.75, 92.25])


def face(scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    return FACE * scale + np.tile([x, y], 5)


def csv_of(rows, *, more: tuple[str, ...] = (), end: str = "\n") -> str:
    """Rows are (path, ten numbers, values of further columns)."""
    lines = [",".join(["path", *COLUMNS, *more])]
    lines += [",".join([path, *(f"{n:g}" for n in numbers), *map(str, values)]) for path, numbers, *values in rows]
    return end.join(lines) + end


def text_of(rows) -> str:
    return "".join(f"{path} {' '.join(f'{n:g}' for n in numbers)}\n" for path, numbers in rows)


def read(folder: Path, content: str | bytes, name: str = "landmarks.csv"):
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_landmarks(file)


ROWS = [("a/0.jpg", face()), ("a/1.jpg", face(2, 7, 9)), ("b/0.jpg", face(0.5))]


def test_tables_and_lines_say_the_same(tmp_path: Path):
    frame = pd.DataFrame([numbers for _, numbers in ROWS], columns=COLUMNS)
    frame.insert(0, "path", [path for path, _ in ROWS])
    frame[["left_mouth_y", "path", *reversed(COLUMNS[:7]), *COLUMNS[8:]]].assign(note="x").to_parquet(
        tmp_path / "landmarks.parquet"
    )
    files = [
        read(tmp_path, csv_of(ROWS)),
        read(tmp_path, "\ufeff" + csv_of(ROWS, end="\r\n")),
        read(tmp_path, text_of(ROWS), "landmarks.txt"),
        read(tmp_path, "\ufeff\n" + text_of(ROWS).replace(" ", "\t").replace("\n", "\r\n\r\n"), "landmarks.txt"),
        read_landmarks(tmp_path / "landmarks.parquet"),
    ]
    for found in files:
        assert found.paths.tolist() == ["a/0.jpg", "a/1.jpg", "b/0.jpg"]
        assert found.scores is None
        assert len(found) == 3
        for image, (_, numbers) in enumerate(ROWS):
            faces = found.faces(image)
            np.testing.assert_array_equal(faces.landmarks, numbers.reshape(1, 5, 2))
            assert np.isnan(faces.scores).all()
    assert len({found.sha256 for found in files}) == 5


def test_many_lines_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [(f"{row % 5}/{row // 5}.jpg", face(1 + row)) for row in range(23)]
    whole = read(tmp_path, text_of(rows), "landmarks.txt")
    for n in (1, 4, 23):
        monkeypatch.setattr("interproto_lib.data.formats.landmarks._BLOCK_ROWS", n)
        found = read(tmp_path, text_of(rows), "landmarks.txt")
        assert found.paths.tolist() == whole.paths.tolist() == [path for path, _ in rows]
        np.testing.assert_array_equal(found.landmarks.reshape(-1, 10), [numbers for _, numbers in rows])


def test_left_of_the_image_comes_first(tmp_path: Path):
    (landmarks,) = read(tmp_path, csv_of(ROWS[:1])).faces(0).landmarks
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]


def test_several_faces_of_an_image(tmp_path: Path):
    rows = [
        ("b.jpg", face(3), 2, 0.25),
        ("a.jpg", face(1), 0, 0.5),
        ("b.jpg", face(2), 0, ""),
        ("b.jpg", face(4), 1, 0.75),
    ]
    found = read(tmp_path, csv_of(rows, more=("face", "score")))
    assert found.paths.tolist() == ["b.jpg", "a.jpg"]
    faces = found.faces(0)
    np.testing.assert_array_equal(faces.landmarks.reshape(3, 10), [face(2), face(4), face(3)])
    np.testing.assert_array_equal(faces.scores, [np.nan, 0.75, 0.25])
    np.testing.assert_array_equal(found.faces(1).scores, [0.5])
    lines = read(tmp_path, text_of([row[:2] for row in rows]), "landmarks.txt")
    np.testing.assert_array_equal(lines.faces(0).landmarks.reshape(3, 10), [face(3), face(2), face(4)])


def test_paths_with_spaces_and_letters_composed_otherwise(tmp_path: Path):
    found = read(tmp_path, text_of([("a b/c d.jpg", face()), ("Jos\u00e9.jpg", face(2))]), "landmarks.txt")
    images = pd.Series(["x.jpg", "Jose\u0301.jpg", "a b/c d.jpg"])
    assert found.find(images).tolist() == [-1, 1, 0]
    with pytest.raises(ManifestError, match=r"names none of the 1 images.*'a b/c d.jpg'.*the images are 'c d.jpg'"):
        found.find(pd.Series(["c d.jpg"]))
    twice = read(tmp_path, text_of([("Jos\u00e9.jpg", face()), ("Jose\u0301.jpg", face(2))]), "landmarks.txt")
    with pytest.raises(ManifestError, match="names one image twice, as 'Jos\u00e9"):
        twice.find(images)
    padded = read(tmp_path, text_of([("000001/00000002.jpg", face()), ("7/3.jpg", face(2))]), "landmarks.txt")
    assert padded.find(pd.Series(["7/03.jpg", "1/2.jpg"])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (csv_of(ROWS).replace("nose_y", "nosey"), r"landmarks\.csv has no column nose_y\. Found: path, left_eye_x"),
        (csv_of([]), "has no rows"),
        ("", "is empty"),
        (
            csv_of([*ROWS, ROWS[0]]),
            r"row 4 \(line 5\), .*'a/0\.jpg' is already in row 1 \(line 2\)\. .*face",
        ),
        (
            csv_of([(*ROWS[0], 3), (*ROWS[1], 0), (*ROWS[0], 3)], more=("face",)),
            r"row 3 \(line 4\), column path: 'a/0\.jpg' is already in row 1 \(line 2\)\. Give each face",
        ),
        (csv_of([(*ROWS[0], 0.5)], more=("face",)), r"line 2\), column face: 0\.5 is no whole number"),
        (csv_of([(*ROWS[0], "")], more=("face",)), "column face: "),
        (csv_of([*ROWS[:2], ("../x.jpg", face())]), r"row 3 \(line 4\), column path: .*contains '\.\.'"),
        (csv_of([*ROWS[:1], *ROWS[:1], ("/x.jpg", face())]), r"row 3 \(line 4\), column path: .*is absolute"),
        (csv_of([("a\\b.jpg", face())]), r"Windows path"),
        (csv_of([*ROWS[:2], ("", face())]), r"row 3 \(line 4\), column path: the cell is empty"),
        (csv_of(ROWS).replace("73.5", "left"), r"row 1 \(line 2\), column right_eye_x: 'left' is not a number"),
        (csv_of(ROWS).replace("73.5", ""), r"row 1 \(line 2\), column right_eye_x: there is no number\. Leave out"),
        (csv_of(ROWS).replace("73.5", "nan"), r"row 1 \(line 2\), column right_eye_x: "),
        (csv_of(ROWS).replace("73.5", "1e400"), r"row 1 \(line 2\), column right_eye_x: inf is infinite"),
        (csv_of(ROWS).replace("73.5", "1e7"), r"row 1 \(line 2\), column right_eye_x: 10000000\.0 is no place"),
        (csv_of([(*ROWS[0], "sure")], more=("score",)), "column score: 'sure' is not a number"),
        (csv_of([(*ROWS[0], "1e999")], more=("score",)), "column score: inf is infinite"),
        (csv_of(ROWS).replace("path,left", "path,path,left"), "cells, but the header names|more than once"),
    ],
)
def test_tables_refused(tmp_path: Path, content: str, reason: str):
    with pytest.raises(ManifestError, match=reason):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty; expected one line"),
        ("\n \n", "is empty; expected one line"),
        (text_of(ROWS) + "a.jpg 1 2 3\n", r"landmarks\.txt, line 4: found a\.jpg 1 2 3; expected `path x1 y1"),
        ("path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5\n", "line 1: .*A table with a header is read from .csv"),
        ("1 2 3 4 5 6 7 8 9 10\n", "line 1: "),
        (text_of(ROWS).replace("73.5", "7_3"), "line 1: "),
        (text_of(ROWS).replace("73.5", "٧"), "line 1: "),
        (text_of(ROWS).replace("73.5", "nan"), "line 1: "),
        (text_of(ROWS).replace("73.5", "1e300"), "line 1: 1e.300 is no place in an image"),
        (
            "\n" + text_of([ROWS[0], ROWS[1], ROWS[0]]),
            r"row 3 \(line 4\), .*in row 1 \(line 2\)\. Keep one line",
        ),
        ("x" * 20_000, "line 1: longer than"),
        (text_of([("a/../b.jpg", face())]), r"line 1\), column path: .*contains '\.\.'"),
    ],
)
def test_lines_refused(tmp_path: Path, content: str, reason: str):
    with pytest.raises(ManifestError, match=reason):
        read(tmp_path, content, "landmarks.txt")


def test_other_files(tmp_path: Path):
    for name in ("absent.csv", "absent.txt", "absent.parquet"):
        with pytest.raises(ManifestError, match="There is no"):
            read_landmarks(tmp_path / name)
    with pytest.raises(ManifestError, match=r"ends in \.json"):
        read(tmp_path, "{}", "landmarks.json")
    with pytest.raises(ManifestError, match="line 2: the text is not UTF-8"):
        read(tmp_path, text_of(ROWS[:1]).encode() + "J\u00fcrgen".encode("latin-1"), "landmarks.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ManifestError, match="There is no"):
        read_landmarks(tmp_path / "folder.txt")


@pytest.mark.parametrize("kind", ["lists", "dates", "flags", "text"])
def test_tables_with_cells_of_other_types(tmp_path: Path, kind: str):
    frame = pd.DataFrame([face(), face(2)], columns=COLUMNS).assign(path=["a", "b"])
    frame["nose_x"] = {
        "lists": [[1.0], [2.0]],
        "dates": pd.to_datetime(["2020-01-01", "2020-01-02"]),
        "flags": [True, False],
        "text": ["56", "one"],
    }[kind]
    frame.to_parquet(tmp_path / "landmarks.parquet")
    with pytest.raises(ManifestError, match="column nose_x"):
        read_landmarks(tmp_path / "landmarks.parquet")


def test_orders_that_most_faces_contradict(tmp_path: Path):
    draw = np.random.default_rng(0)
    faces = [face(3, 50, 80) + draw.normal(0, 3, 10) for _ in range(30)]

    def rows(order):
        return [(f"{i}.jpg", numbers.reshape(5, 2)[order].ravel()) for i, numbers in enumerate(faces)]

    assert len(read(tmp_path, csv_of(rows([0, 1, 2, 3, 4])))) == 30
    with pytest.raises(ManifestError, match="Left and right are swapped: left is the left of the image"):
        read(tmp_path, csv_of(rows([1, 0, 2, 4, 3])))
    for order in ([2, 0, 1, 3, 4], [0, 1, 3, 4, 2], [0, 1, 2, 4, 3], [3, 4, 2, 1, 0]):
        with pytest.raises(ManifestError, match=r"most landmarks do not form a face .*Expected x and y of left_eye"):
            read(tmp_path, csv_of(rows(order)))
    with pytest.raises(ManifestError, match="most landmarks do not form a face"):
        read(tmp_path, csv_of([(f"{i}.jpg", np.full(10, i)) for i in range(30)]))


# --- which face -----------------------------------------------------------------------------------


def value_by_hand(box, width, height, choose):
    left, top, right, bottom = box
    area = (right - left) * (bottom - top)
    if choose == "largest":
        return area
    return area - 2 * (((left + right) / 2 - width / 2) ** 2 + ((top + bottom) / 2 - height / 2) ** 2)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), choose=st.sampled_from(["central", "largest", "highest_score"]))
@settings(max_examples=100, deadline=None)
def test_the_face_chosen(seed: int, n: int, choose):
    draw = np.random.default_rng(seed)
    landmarks = draw.uniform(0, 300, (n, 5, 2))
    faces = faces_at(landmarks, draw.uniform(0, 1, n))
    for box, points in zip(faces.boxes, landmarks, strict=True):
        left, top, right, bottom = box
        assert right - left == pytest.approx(2 * np.ptp(points[:, 0]))
        assert (bottom + top) / 2 == pytest.approx((points[:, 1].min() + points[:, 1].max()) / 2)
    values = [
        score if choose == "highest_score" else value_by_hand(box, 320, 200, choose)
        for box, score in zip(faces.boxes, faces.scores, strict=True)
    ]
    assert choose_face(faces, width=320, height=200, choose=choose) == values.index(max(values))


def test_no_choice(tmp_path: Path):
    assert list(FACE_CHOICES) == ["central", "largest", "highest_score", "only"]
    two = faces_at(np.stack([face(), face(2)]).reshape(2, 5, 2), np.array([0.5, np.nan]))
    one = faces_at(face().reshape(1, 5, 2), np.array([np.nan]))
    none = faces_at(np.empty((0, 5, 2)), np.empty(0))
    with pytest.raises(DatasetError, match=r"several faces \(2\)"):
        choose_face(two, width=9, height=9, choose="only")
    with pytest.raises(DatasetError, match=r"several faces without a score \(2\)"):
        choose_face(two, width=9, height=9, choose="highest_score")
    assert choose_face(one, width=9, height=9, choose="only") == 0
    assert choose_face(one, width=9, height=9, choose="highest_score") == 0
    for name in FACE_CHOICES:
        with pytest.raises(DatasetError, match="no face found"):
            choose_face(none, width=9, height=9, choose=name)
    with pytest.raises(ConfigError, match="choose is 'best', expected one of: central, largest, highest_score, only"):
        choose_face(one, width=9, height=9, choose="best")


# --- damage ---------------------------------------------------------------------------------------


def parquet_of(rows) -> bytes:
    frame = pd.DataFrame([numbers for _, numbers in rows], columns=COLUMNS)
    frame.insert(0, "path", [path for path, _ in rows])
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "n"),
    [
        (
            "landmarks.csv",
            csv_of([(*row, i % 2, 0.5) for i, row in enumerate(ROWS)], more=("face", "score")).encode(),
            500,
        ),
        ("landmarks.txt", text_of([*ROWS, ("a b.jpg", face(3))]).encode(), 1000),
        ("landmarks.parquet", parquet_of(ROWS), 300),
    ],
)
def test_damaged_files_give_landmarks_or_a_named_error(tmp_path: Path, name: str, content: bytes, n: int):
    def call(damaged: bytes) -> None:
        found = read(tmp_path, damaged, name)
        assert len(found) == len(found.starts) - 1 > 0
        assert np.isfinite(found.landmarks).all()
        assert found.starts[-1] == len(found.landmarks)

    tracemalloc.start()
    try:
        n_refused = assert_only_named_errors(call, mutations(content, n=n, seed=4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_refused > n / 3
    assert peak < 64 * 2**20


@given(text=st.text(max_size=200), name=st.sampled_from(["landmarks.csv", "landmarks.txt"]), head=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_gives_landmarks_or_a_named_error(tmp_path_factory, text: str, name: str, head: bool):
    folder = tmp_path_factory.getbasetemp()
    start = (csv_of(ROWS) if name.endswith("csv") else text_of(ROWS)) if head else ""
    try:
        read(folder, (start + text).encode("utf-8", "surrogatepass"), name)
    except InterprotoError:
        return
