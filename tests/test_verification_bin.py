"""Verification files as Python 2 and 3 and numpy write them; attacks, bombs and damage, all of which run nothing."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import random
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import assert_only_named_errors, mutations
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from interproto_lib.data.formats import decode_image, plain_pickles, read_verification_bin, verification_bin
from interproto_lib.data.formats.verification_bin import write_verification_bin
from interproto_lib.errors import DatasetError

LABELS = [True, False, True, False]


def encoded(seed: int, size: int = 16, image_format: str = "JPEG", mode: str = "RGB") -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, image_format)
    return buffer.getvalue()


IMAGES = [encoded(seed) for seed in range(8)]


def python_2(images: list[bytes], labels: list[bool]) -> bytes:
    """What Python 2 writes for `pickle.dump((images, labels), file, 2)`: its texts are bytes."""
    parts = [b"\x80\x02", b"]q\x01("]
    for number, image in enumerate(images):
        parts += [b"T", struct.pack("<i", len(image)), image, b"r", struct.pack("<I", 100 + number)]
    parts += [b"e]q\x02(", *(b"\x88" if label else b"\x89" for label in labels), b"e\x86q\x03."]
    return b"".join(parts)


def read(folder: Path, content: bytes) -> tuple[list[bytes], Any]:
    file = folder / "set.bin"
    file.write_bytes(content)
    return read_verification_bin(file)


def test_the_handwritten_python_2_file_is_what_python_reads():
    assert pickle.loads(python_2(IMAGES, LABELS), encoding="bytes") == (IMAGES, LABELS)


def test_python_2(tmp_path: Path):
    images, same = read(tmp_path, python_2(IMAGES, LABELS))
    assert images == IMAGES
    assert same.dtype == bool
    assert same.tolist() == LABELS


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("images", ["bytes", "arrays", "columns"])
@pytest.mark.parametrize("labels", ["list", "array", "numpy scalars"])
def test_python_3_and_numpy(tmp_path: Path, protocol: int, images: str, labels: str):
    rows: list[Any] = list(IMAGES)
    if images != "bytes":
        rows = [np.frombuffer(image, dtype=np.uint8).copy() for image in IMAGES]
    if images == "columns":  # as older writers of OpenCV give them
        rows = [row[:, None] for row in rows]
    same: Any = LABELS if labels == "list" else np.array(LABELS)
    if labels == "numpy scalars":
        same = list(same)
    found, found_same = read(tmp_path, pickle.dumps((rows, same), protocol=protocol))
    assert found == IMAGES
    assert found_same.tolist() == LABELS


def test_names_of_numpy_before_version_2(tmp_path: Path):
    rows = [np.frombuffer(image, dtype=np.uint8).copy() for image in IMAGES]
    content = pickle.dumps((rows, list(np.array(LABELS))), protocol=2)
    older = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in older
    assert read(tmp_path, older)[0] == IMAGES


def python_2_protocol_0(images: list[bytes], labels: list[bool]) -> bytes:
    """What Python 2 writes where no protocol is named: `S` and the repr of its text, whose bytes are those of a str."""
    parts = [b"((lp0\n"]
    for number, image in enumerate(images):
        parts += [b"S", repr(image)[1:].encode("ascii"), b"\np%d\na" % (number + 1)]
    parts += [b"(lp100\n", *(b"I01\na" if label else b"I00\na" for label in labels), b"tp101\n."]
    return b"".join(parts)


def test_python_2_without_a_protocol(tmp_path: Path):
    """Every byte, with both quotes, backslashes and ends of line among them."""
    every = [bytes(range(256)), bytes(reversed(range(256))), b"'\\'", b'"\n\\n"', b"\\x41", b"\\", b"it's", *IMAGES[7:]]
    content = python_2_protocol_0(every, LABELS)
    assert pickle.loads(content, encoding="bytes") == (every, LABELS)
    images, same = read(tmp_path, content)
    assert images == every
    assert same.tolist() == LABELS


@pytest.mark.parametrize(
    "text", [b"'a", b"a'", b"'", b"", b"'a\"", b"a", b"'\\'", b"'\\q'", b"'\\x4'", b"'\\777'", b"'a\\'"]
)
def test_texts_that_are_cut_or_mean_nothing(tmp_path: Path, text: bytes):
    content = python_2_protocol_0(IMAGES[:2], [True])
    start = content.index(b"S")
    with pytest.raises(DatasetError, match="damaged or cut short"):
        read(tmp_path, content[: start + 1] + text + content[content.index(b"\n", start) :])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [">i8", "<i8", ">u2", "i1", "u1", "<i4"])
def test_labels_as_whole_numbers(tmp_path: Path, protocol: int, dtype: str):
    numbers = np.array([int(label) for label in LABELS], dtype=dtype)
    for labels in (numbers, list(numbers), numbers.tolist()):
        assert read(tmp_path, pickle.dumps((IMAGES, labels), protocol=protocol))[1].tolist() == LABELS


class Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_import_is_named_and_nothing_runs(tmp_path: Path, protocol: int):
    victim = tmp_path / "made by the attack"
    for attack, name in (
        (Attack(os.mkdir, str(victim)), r"(posix|nt)\.mkdir"),
        (Attack(eval, f"__import__('os').mkdir({str(victim)!r})"), r"(builtins|__builtin__)\.eval"),
        (Attack(np.load, str(victim)), r"numpy\.load"),
    ):
        content = pickle.dumps((IMAGES, [*LABELS[:3], attack]), protocol=protocol)
        with pytest.raises(DatasetError, match=rf"set\.bin .* asks to import {name}; .*Nothing was imported"):
            read(tmp_path, content)
    assert not victim.exists()


def test_known_imports_cannot_be_used_for_anything_else(tmp_path: Path):
    for content, what in (
        (b"cnumpy\nndarray\n(I1\ntR.", "the pickle calls numpy.ndarray"),
        (b"cnumpy\nndarray\n.", "the name numpy.ndarray"),
        (b"c_codecs\nencode\n(Vtext\nVrot13\ntR.", "another encoding"),
        (b"c_codecs\nencode\n}b.", "EMPTY_DICT"),
        (b"c_codecs\nencode\n(tb.", "sets the state of the name _codecs.encode"),
        (b"cnumpy\ndtype\n(VO8\ntR.", "numbers of type 'O8'"),
        (b"cnumpy\ndtype\n((tI1\ntR.", "type is no text"),
        (b"(icollections\nOrderedDict\n.", "the instruction INST"),
        (b"Pid\n.", "the instruction PERSID"),
        (b"\x82\x01.", "the instruction EXT1"),
    ):
        with pytest.raises(DatasetError, match=what):
            read(tmp_path, content)


def nested_tuples() -> bytes:
    """A key of a dictionary that takes 2 ** 60 steps to hash, and as many to print."""
    return b"\x80\x02)" + b"q\x00h\x00\x86" * 60


@pytest.mark.parametrize(
    "content",
    [
        nested_tuples() + b"}h\x00K\x01s.",  # hashing
        nested_tuples() + b".",  # a tuple of two, each of two ...
        b"\x80\x02]" + nested_tuples()[2:] + b"\x86.",
        b"\x80\x02cnumpy\ndtype\n" + nested_tuples()[2:] + b"\x85R.",
        b"\x80\x04]r\xff\xff\xff\xff].",  # an entry of the memo that Python's own reader makes room for
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # bytes announced but not there
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"].",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02]q\x00h\x00h\x00\x86.",
        b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
        b"\x80\x02" + b"(" * 50_000 + b".",
    ],
)
def test_bombs_are_refused_at_once(tmp_path: Path, content: bytes):
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError):
            read(tmp_path, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert time.monotonic() - started < 20


def test_bytes_that_multiply(tmp_path: Path):
    text = b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x01"
    text += b"X\x06\x00\x00\x00latin1q\x02"
    with pytest.raises(DatasetError, match="builds more bytes than the file has"):
        read(tmp_path, text + b"h\x00h\x01h\x02\x86R" * 1000 + b".")


def test_too_many_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_pickles, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(DatasetError, match="more than 1000 instructions"):
        read(tmp_path, b"]" * 1001 + b".")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ((IMAGES[:7], LABELS), "holds 7 images and 4 labels, expected two images for each label"),
        ((IMAGES, LABELS[:3]), "holds 8 images and 3 labels"),
        (([], []), "holds 0 images and 0 labels"),
        (([*IMAGES[:7], b""], LABELS), "image 7 is empty"),
        (([*IMAGES[:7], "text"], LABELS), "image 7: found a value of type str"),
        (([*IMAGES[:7], None], LABELS), "image 7: found nothing"),
        (([*IMAGES[:7], np.array(LABELS)], LABELS), "image 7: found an array of b1"),
        ((IMAGES, [1, 0, 2, 0]), "label 2: found 2, expected 0 or 1"),
        ((IMAGES, [1, 0, 1, -1]), "label 3: found -1, expected 0 or 1"),
        ((IMAGES, [1, 0, 1, 1 << 5000]), "label 3: found a huge number"),
        ((IMAGES, [1, 0, 1.0, 0]), "label 2: found a value of type float|the instruction BINFLOAT"),
        ((IMAGES, "1010"), "a value of type str for its labels"),
        ((IMAGES, np.array([1, 0, 1, 0], dtype=float)), "numbers of type 'f8'"),
        ((IMAGES, np.array([1, 0, 3, 0], dtype=np.uint8)), "the labels hold 3, expected 0 and 1"),
        ((IMAGES, np.array([1, 0, 256, 0], dtype=">i2")), "the labels hold 256, expected 0 and 1"),
        ((IMAGES[0], LABELS), "a value of type bytes for its images"),
        (([np.zeros((2, 2), dtype=np.uint8)], LABELS), "not a single row"),
        ((IMAGES, LABELS, LABELS), "holds a tuple of 3, expected two lists"),
        ({"images": IMAGES}, "the instruction EMPTY_DICT"),
        (3, "a value of type int, expected two lists"),
    ],
)
def test_other_content(tmp_path: Path, content: Any, what: str):
    with pytest.raises(DatasetError, match=what):
        read(tmp_path, pickle.dumps(content, protocol=4))


def test_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DatasetError, match="There is no verification file"):
        read_verification_bin(tmp_path / "absent.bin")
    with pytest.raises(DatasetError, match="is not a file"):
        read_verification_bin(tmp_path)
    os.mkfifo(tmp_path / "pipe.bin")
    with pytest.raises(DatasetError, match="is not a file"):
        read_verification_bin(tmp_path / "pipe.bin")
    with pytest.raises(DatasetError, match="has 0 bytes"):
        read(tmp_path, b"")
    with pytest.raises(DatasetError, match="damaged or cut short"):
        read(tmp_path, encoded(1))
    monkeypatch.setattr("interproto_lib.data.formats.verification_bin.MAX_FILE_BYTES", 10)
    with pytest.raises(DatasetError, match="has 11 bytes, expected 1 to 10"):
        read(tmp_path, b"0123456789a")


@pytest.mark.parametrize("writer", ["python 2", "python 3", "numpy"])
def test_files_cut_short(tmp_path: Path, writer: str):
    rows = [np.frombuffer(image, dtype=np.uint8) for image in IMAGES]
    whole = {
        "python 2": python_2(IMAGES, LABELS),
        "python 3": pickle.dumps((IMAGES, LABELS)),
        "numpy": pickle.dumps((rows, np.array(LABELS))),
    }[writer]
    for length in range(1, len(whole), 97):
        with pytest.raises(DatasetError):
            read(tmp_path, whole[:length])


@pytest.mark.parametrize("writer", ["python 2", "protocol 0", "python 3", "numpy"])
def test_mutated_files_give_images_or_a_named_error(tmp_path: Path, writer: str):
    small = [bytes([seed]) * 3 for seed in range(8)]  # little content, so that most changes hit instructions
    whole = {
        "python 2": python_2(small, LABELS),
        "protocol 0": python_2_protocol_0(small, LABELS),
        "python 3": pickle.dumps((small, LABELS), protocol=2),
        "numpy": pickle.dumps(([np.frombuffer(row, dtype=np.uint8) for row in small], list(np.array(LABELS)))),
    }[writer]
    codes = [ord(opcode.code) for opcode in pickletools.opcodes]
    draw = random.Random(5)
    n_refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.choice([draw.choice(codes), draw.randrange(256)])
        try:
            images, same = read(tmp_path, bytes(content))
        except DatasetError:
            n_refused += 1
        else:
            assert len(images) == 2 * len(same) > 0
            assert all(isinstance(image, bytes) and image for image in images)
    assert n_refused > 100


@pytest.mark.parametrize("writer", ["python 2", "ours"])
def test_damaged_files_give_images_or_a_named_error(tmp_path: Path, writer: str):
    small = [bytes([seed]) * 5 for seed in range(8)]
    write_verification_bin(tmp_path / "whole.bin", small, LABELS)
    whole = python_2(small, LABELS) if writer == "python 2" else (tmp_path / "whole.bin").read_bytes()
    tracemalloc.start()
    try:
        inputs = mutations(whole, n=600, seed=6)
        assert assert_only_named_errors(lambda content: read(tmp_path, content), inputs) > 200
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


# --- writing --------------------------------------------------------------------------------------


Content = st.binary(min_size=1, max_size=300)


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(Content, Content, st.booleans()), min_size=1, max_size=6))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[bytes, bytes, bool]]):
    images = [image for first, second, _ in pairs for image in (first, second)]
    same = [label for _, _, label in pairs]
    file = tmp_path_factory.mktemp("written") / "set.bin"
    write_verification_bin(file, images, same)
    with file.open("rb") as handle:  # as insightface does
        bins, issame_list = pickle.load(handle, encoding="bytes")
    assert bins == images
    assert issame_list == same
    assert all(type(label) is bool for label in issame_list)
    found, found_same = read_verification_bin(file)
    assert found == images
    assert found_same.tolist() == same


def test_writing_again_and_one_image_often(tmp_path: Path):
    write_verification_bin(tmp_path / "deeper" / "set.bin", IMAGES, np.array(LABELS))
    write_verification_bin(tmp_path / "deeper" / "set.bin", tuple(IMAGES[:1] * 4), [True, False])
    images, same = read_verification_bin(tmp_path / "deeper" / "set.bin")
    assert images == IMAGES[:1] * 4
    assert same.tolist() == [True, False]
    assert [file.name for file in (tmp_path / "deeper").iterdir()] == ["set.bin"]


@pytest.mark.parametrize(
    ("images", "same", "what"),
    [
        (IMAGES[:7], LABELS, "7 images and 4 labels; expected two images for each label"),
        (IMAGES, LABELS[:3], "8 images and 3 labels"),
        ([], np.zeros(0, dtype=bool), "0 images and 0 labels"),
        ([], [], "the labels are float64 of shape"),
        (IMAGES, [1, 0, 1, 0], "the labels are int64 of shape"),
        (IMAGES, np.array([LABELS]), r"bool of shape \(1, 4\)"),
        (IMAGES, [True, False, None, True], "the labels are object"),
        (IMAGES, [True, [False]], "the labels are no row of truth values"),
        ([*IMAGES[:7], b""], LABELS, "image 7 is empty"),
        ([*IMAGES[:7], "text"], LABELS, "image 7 is a value of type str"),
        ([*IMAGES[:7], np.zeros(4, dtype=np.uint8)], LABELS, "image 7 is a value of type ndarray"),
    ],
)
def test_what_is_not_written(tmp_path: Path, images: Any, same: Any, what: str):
    write_verification_bin(tmp_path / "set.bin", IMAGES, LABELS)
    before = (tmp_path / "set.bin").read_bytes()
    with pytest.raises(DatasetError, match=rf"set\.bin is not written: .*{what}"):
        write_verification_bin(tmp_path / "set.bin", images, same)
    assert (tmp_path / "set.bin").read_bytes() == before


def test_what_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verification_bin, "MAX_FILE_BYTES", 3000)
    with pytest.raises(DatasetError, match="at most 3000 are read"):
        write_verification_bin(tmp_path / "set.bin", IMAGES, LABELS)
    monkeypatch.setattr(verification_bin, "MAX_PAIRS", 3)
    with pytest.raises(DatasetError, match="1 to 3 pairs"):
        write_verification_bin(tmp_path / "set.bin", IMAGES, LABELS)
    assert list(tmp_path.iterdir()) == []


def test_as_many_pairs_as_are_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_pickles, "MAX_INSTRUCTIONS", 1000)
    write_verification_bin(tmp_path / "set.bin", [bytes([n]) for n in range(200)], [True] * 100)
    assert len(read_verification_bin(tmp_path / "set.bin")[1]) == 100


def test_decoding():
    for image_format in ("PNG", "BMP"):
        expected = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        np.testing.assert_array_equal(decode_image(encoded(3, 16, image_format), 16), expected)
    grey = decode_image(encoded(3, mode="L"), 16)
    assert grey.shape == (16, 16, 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    with pytest.raises(DatasetError, match="is 16 x 16 pixels, expected 112 x 112"):
        decode_image(encoded(3), 112)
    with pytest.raises(DatasetError, match="not an image of a known format"):
        decode_image(b"not an image", 16)
    with pytest.raises(DatasetError, match="damaged or cut short"):
        decode_image(encoded(3)[:-200], 16)
    with pytest.raises(DatasetError, match="pixels of the kind CMYK"):
        decode_image(encoded(3, mode="CMYK"), 16)
