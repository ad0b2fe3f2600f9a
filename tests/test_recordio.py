"""RecordIO files written by hand with struct for the reader, read by hand for the writer; damage; bounds of memory."""

from __future__ import annotations

import pickle
import struct
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fuzzing import assert_only_named_errors, mutations
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_dataset

from interproto_lib.data.formats import record_file, recordio
from interproto_lib.data.formats.image_files import decode_image_bytes
from interproto_lib.data.formats.record_file import RecordFile
from interproto_lib.data.formats.record_writer import write_dataset_as_recordio, write_recordio
from interproto_lib.data.formats.recordio import recordio_collection
from interproto_lib.data.manifests import class_table
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

MAGIC = struct.pack("<I", 0xCED7230A)

CONTENT = st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=6).map(b"".join)

Labels = float | Sequence[float]
Entry = tuple[int, Labels, bytes]


def payload(key: int, labels: Labels, content: bytes) -> bytes:
    """`mx.recordio.pack(IRHeader(...), content)`."""
    if isinstance(labels, (int, float)):
        return struct.pack("<IfQQ", 0, labels, key, 0) + content
    return struct.pack("<IfQQ", len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + content


def framed(data: bytes) -> bytes:
    """dmlc's RecordIOWriter::WriteRecord, word by word."""
    out, done, lower = b"", 0, len(data) // 4 * 4 if MAGIC in data else 0
    for at in range(0, lower, 4):
        if data[at : at + 4] == MAGIC:
            out += MAGIC + struct.pack("<I", (1 if done == 0 else 2) << 29 | at - done) + data[done:at]
            done = at + 4
    out += MAGIC + struct.pack("<I", (3 if done else 0) << 29 | len(data) - done) + data[done:]
    return out + bytes(-len(data) % 4)


def written(folder: Path, entries: Sequence[Entry], *, idx: bool = True, name: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rec, lines = b"", ""
    for key, labels, content in entries:
        lines += f"{key}\t{len(rec)}\n"
        rec += framed(payload(key, labels, content))
    (folder / f"{name}.rec").write_bytes(rec)
    if idx:
        (folder / f"{name}.idx").write_text(lines)
    return folder / f"{name}.rec"


def by_hand(rec: Path) -> dict[int, tuple[list[float], int, bytes]]:
    """Labels, flag and content by key; dmlc's RecordIOReader::NextRecord and `mx.recordio.unpack`."""
    data = rec.read_bytes()
    found = {}
    for line in rec.with_suffix(".idx").read_text().splitlines():
        key, at = map(int, line.split("\t"))
        joined = b""
        while True:
            magic, word = struct.unpack_from("<II", data, at)
            assert magic == 0xCED7230A
            length = word & (2**29 - 1)
            joined += data[at + 8 : at + 8 + length]
            at += 8 + (length + 3) // 4 * 4
            if word >> 29 in (0, 3):
                break
            joined += MAGIC
        flag, label, number, second = struct.unpack_from("<IfQQ", joined)
        assert (number, second) == (key, 0)
        labels = list(struct.unpack_from(f"<{flag}f", joined, 24)) if flag else [label]
        found[key] = (labels, flag, joined[24 + 4 * flag :])
    return found


TRAP = MAGIC * 2 + b"ab" + MAGIC + b"xyz" + MAGIC  # at a multiple of four and not, repeated, at both ends
IMAGES: list[Entry] = [
    (1, 0.0, b"first"),
    (2, 0.0, TRAP),
    (3, 1.0, b"\xff\xd8 third \xff\xd9"),
    (4, 2.0, MAGIC),
    (5, 2.0, b"fifth5"),
]
RANGES: list[Entry] = [(6, [1, 3], b""), (7, [3, 4], b""), (8, [4, 6], b"")]
WHOLE: list[Entry] = [(0, [6, 9], b""), *IMAGES, *RANGES]
PATHS = ["000000/00000001.jpg", "000000/00000002.jpg", "000001/00000003.jpg", "000002/00000004.jpg"]
PATHS.append("000002/00000005.jpg")


@pytest.mark.parametrize("order", ["record 0 first", "record 0 after the images"])
@pytest.mark.parametrize("idx", [True, False])
def test_the_layout_of_insightface(tmp_path: Path, order: str, idx: bool):
    entries = WHOLE if order == "record 0 first" else [*IMAGES, WHOLE[0], *RANGES]  # face2rec2.py writes it so
    rec = written(tmp_path, entries, idx=idx)
    (tmp_path / "property").write_text("3,112,112\n")
    (tmp_path / "lfw.bin").write_bytes(b"x")
    found = recordio_collection(tmp_path, name="set")
    assert found.table["path"].tolist() == PATHS
    assert found.table["identity"].tolist() == ["000000", "000000", "000001", "000002", "000002"]
    assert found.table["age_years"].isna().all()
    assert [found.encoded.read(row) for row in range(5)] == [content for _, _, content in IMAGES]
    assert (found.shape, found.place, found.others) == ("recordio", rec, (1, ("lfw.bin",)))
    assert found.notes == (() if idx else ("There is no .idx: records go by the ids in their headers.",))
    assert recordio_collection(rec, name="set").table.equals(found.table)


def test_labels_in_arrays(tmp_path: Path):
    """insightface's newer exports: `[label, aligned]` for each image."""
    images = [(key, [labels, 1.0], content) for key, labels, content in IMAGES]
    found = recordio_collection(written(tmp_path, [*images, WHOLE[0], *RANGES]), name="set")
    assert found.table["path"].tolist() == PATHS
    assert found.encoded.read(1) == TRAP
    assert found.notes == ("Images have up to 2 labels; the first is taken for the identity.",)


def test_images_only(tmp_path: Path):
    """MXNet's im2rec: keys from 0, no record 0 that announces anything."""
    rec = written(tmp_path, [(0, 5.0, b"a"), (1, 5.0, b"b"), (2, 123456.0, b"c")])
    found = recordio_collection(rec, name="set")
    assert found.table["path"].tolist() == ["000005/00000000.jpg", "000005/00000001.jpg", "123456/00000002.jpg"]
    assert "There is no record 0" in found.notes[0]
    same_ids = [framed(struct.pack("<IfQQ", 0, 1.0, 77, 0) + content) for content in (b"a", b"b")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.rec").write_bytes(b"".join(same_ids))
    found = recordio_collection(tmp_path / "other", name="set")
    assert found.table["path"].tolist() == ["000001/00000000.jpg", "000001/00000001.jpg"]
    assert "records are numbered from 0" in found.notes[0]


def test_labels_and_keys_with_more_digits(tmp_path: Path):
    rec = written(tmp_path, [(123456789, 16777216.0, b"a"), (9, 0.0, b"b")])
    found = recordio_collection(rec, name="set").table
    assert found["path"].tolist() == ["000000/00000009.jpg", "16777216/123456789.jpg"]


def test_one_record(tmp_path: Path):
    file = RecordFile(written(tmp_path, [(3, [1.5, -2.0, 3.0], TRAP), (8, 0.0, b"")]))
    record = file.read(3)
    assert (record.key, record.ids, record.content) == (3, (3, 0), TRAP)
    assert record.labels.tolist() == [1.5, -2.0, 3.0]
    assert record.labels.dtype == np.float32
    assert file.read(8).content == b""
    assert file.keys.tolist() == [3, 8]
    with pytest.raises(DatasetError, match=r"train\.idx has no record 4: it lists 2 records, keys 3 to 8"):
        file.read(4)


def test_large_records_between_small_ones(tmp_path: Path):
    contents = [np.random.default_rng(n).bytes(n) for n in (0, 1, 2**14 - 32, 2**14, 2**20 + 1, 3, 9 * 2**20, 5)]
    entries = [(key, 1.0, content) for key, content in enumerate(contents)]
    for idx in (True, False):
        file = RecordFile(written(tmp_path / str(idx), entries, idx=idx))
        assert [file.read(key).content for key in range(len(entries))] == contents
        assert file.heads().n_bytes.tolist() == [len(content) for content in contents]


@settings(max_examples=100, deadline=None)
@given(
    entries=st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, 9).map(float),
                st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3),
            ),
            CONTENT,
        ),
        min_size=1,
        max_size=8,
    ),
    idx=st.booleans(),
)
def test_any_content(tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[Labels, bytes]], idx: bool):
    listed = [(key, labels, content) for key, (labels, content) in enumerate(entries)]
    file = RecordFile(written(tmp_path_factory.mktemp("any"), listed, idx=idx))
    heads = file.heads()
    for key, labels, content in listed:
        record = file.read(key)
        expected = [labels] if isinstance(labels, float) else labels
        assert record.content == content
        assert record.labels.tolist() == expected
        assert heads.n_bytes[key] == len(content)
        assert heads.n_labels[key] == len(expected)
        np.testing.assert_array_equal(heads.labels[key], [*expected[:2], np.nan][:2])
    assert (heads.n_unlisted_bytes, heads.n_bytes_behind) == (0, 0)


def test_many_threads_and_pickling(tmp_path: Path):
    contents = [bytes([n % 256]) * (n * 37 % 1000 + 1) for n in range(300)]
    collection = recordio_collection(written(tmp_path, [(n, 0.0, c) for n, c in enumerate(contents)]), name="set")
    images = pickle.loads(pickle.dumps(collection.encoded))
    wrong: list[int] = []

    def read(start: int) -> None:
        order = np.random.default_rng(start).permutation(300)
        wrong.extend(row for row in order if images.read(int(row)) != contents[row])

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with (tmp_path / "train.rec").open("ab") as handle:
        handle.write(b"more")
    with pytest.raises(DatasetError, match="has changed since its records were listed"):
        pickle.loads(pickle.dumps(images)).read(0)


def test_the_fingerprint_notices_changes(tmp_path: Path):
    rec = written(tmp_path, WHOLE)
    first = recordio_collection(rec, name="a").fingerprint
    assert recordio_collection(tmp_path, name="b").fingerprint == first
    (tmp_path / "property").write_text("3,112,112\n")
    assert recordio_collection(rec, name="a").fingerprint != first


# --- what does not fit together -------------------------------------------------------------------


def replaced(key: int, labels: Labels, content: bytes = b"") -> list[Entry]:
    return [(key, labels, content) if entry[0] == key else entry for entry in WHOLE]


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        (replaced(3, 1.5, b"x"), r"train\.rec, record 3 at byte \d+: its label is 1\.5, expected the number"),
        (replaced(3, float("nan"), b"x"), "record 3 at byte .* its label is nan"),
        (replaced(3, -1.0, b"x"), "its label is -1"),
        (replaced(3, float("inf"), b"x"), "its label is inf"),
        (replaced(3, 2.0**25, b"x"), "its label is .*, expected the number of an identity, 0 to 16777216; 1 of 5"),
        (replaced(6, [1, 4]), r"record 6 .* \[1, 4\), but the labels of these images are 0, 1"),
        (replaced(6, [0, 3]), r"record 6 .* \[0, 3\), which is no range within the images 1 to 5"),
        (replaced(8, [4, 7]), r"record 8 .* \[4, 7\), which is no range within"),
        (replaced(7, [4, 3]), r"record 7 .* \[4, 3\), which is no range within"),
        (replaced(7, [2.5, 3]), "which is no range within"),
        (replaced(7, [float("nan"), 3]), r"\[nan, 3\), which is no range within"),
        (replaced(7, [1, 2]), r"record 7 .* \[1, 2\), which overlaps that of record 6"),
        (replaced(7, [3, 4], b"image"), "record 7 .* expected the range of an identity here"),
        (replaced(0, [6, 10]), "record 0 announces images up to record 5 and identities up to record 9"),
        (replaced(0, [5, 9]), "expected the range of an identity here, record 5"),
        (replaced(0, [1e18, 1e18]), "record 0 announces images up to record 99999"),
        (replaced(0, [1, 9]), "record 0 has 2 labels, the first 1 and 9; expected two whole numbers"),
        (replaced(0, [6.5, 9]), "record 0 has 2 labels, the first 6.5"),
        (replaced(0, [float("nan"), 9]), "record 0 has 2 labels, the first nan"),
        (replaced(0, [float("inf"), float("inf")]), "record 0 "),
        (replaced(0, [6, 9, 1]), "record 0 has 3 labels"),
        (WHOLE[:-1], "identities up to record 8, but there are 5 images, and the last record is 7"),
        ([*WHOLE[:1], *WHOLE[6:]], "record 0 announces images up to record 5 .* but there are 0 images"),
        (WHOLE[1:], "it has two labels and no image, as the range of an identity has, but record 0"),
    ],
)
def test_records_that_contradict_each_other(tmp_path: Path, entries: list[Entry], what: str):
    with pytest.raises(DatasetError, match=what):
        recordio_collection(written(tmp_path, entries), name="set")


def test_what_is_unusual_is_said(tmp_path: Path):
    gap = [entry for entry in WHOLE if entry[0] != 4]
    found = recordio_collection(written(tmp_path / "a", gap), name="set")
    assert len(found) == 4
    assert found.notes == (
        "There are no records for 1 of the images 1 to 5 that record 0 announces (first: record 4).",
    )
    again = replaced(3, 2.0, b"x")
    assert recordio_collection(written(tmp_path / "b", again), name="set").notes == (
        "3 identity ranges belong to 2 labels: some people are in several.",
    )
    rec = written(tmp_path / "c", replaced(3, 1.0, b""))
    found = recordio_collection(rec, name="set")
    assert found.notes == ("1 records of images hold no image (0 bytes; first: record 3).",)
    with pytest.raises(DatasetError, match=r"record 3 at byte \d+: the record holds no image \(0 bytes\)"):
        found.encoded.read(2)
    (rec.parent / "property").write_bytes(b"85742,112,112")
    found = recordio_collection(rec, name="set")
    assert "property says 85742 classes, the images have 3 labels, up to 2." in found.notes
    assert "2 images lie in no identity range" in " ".join(
        recordio_collection(written(tmp_path / "d", replaced(8, [6, 6])), name="set").notes
    )


@pytest.mark.parametrize("content", [b"", b"10572", b"a,112,112", b"1,2,3,4", b"\xff\xfe1,2,3", b"1" * 2000])
def test_another_property(tmp_path: Path, content: bytes):
    rec = written(tmp_path, WHOLE)
    (tmp_path / "property").write_bytes(content)
    with pytest.raises(DatasetError, match=r"property holds .* expected classes,height,width"):
        recordio_collection(rec, name="set")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is empty"),
        ("0\t0\n\n", r"train\.idx, line 2: found b''"),
        ("0\t0\n1 92\n", "line 2: found b'1 92', expected a record's key and its byte offset"),
        ("0\t0\n1\t-92\n", "line 2: found"),
        ("0\t0\n1\t0x5c\n", "line 2: found"),
        ("0\t0\t1\n92\n", "line 1: found"),
        ("0\n0\n1\n92\n", "line 1: found"),
        ("\ufeff0\t0\n", "line 1: found"),
        ("0\t0\n1\t" + "9" * 30 + "\n", "line 2: found b'1.t9999"),
        ("0\t0\n1\t5\0\n", "line 2: found"),
        ("0\t0\n0\t40\n", "has the key 0 more than once"),
        ("0\t0\n1\t0\n", "has the byte offset 0 more than once"),
        ("0\t0\n1\t999999\n2\t1999999\n", "puts 2 of 3 records beyond the end .* record 1 at byte 999999"),
        (
            "0\t0\n1\t44\n",
            r"record 1 at byte 44: the record has no part of it 0 bytes after .* belongs to another",
        ),
        ("0\t0\n1\t40\n", "bytes of .* stand after the last record"),
        ("0\t8\n1\t40\n", "record 0 at byte 8: the record has no part of it"),
        ("".join(f"{n}\t{n}\n" for n in range(1000)), "lists at least 1000 records, more than"),
    ],
)
def test_another_idx(tmp_path: Path, content: str, what: str):
    rec = written(tmp_path, WHOLE)
    rec.with_suffix(".idx").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=what):
        recordio_collection(rec, name="set")


def test_line_ends_of_an_idx(tmp_path: Path):
    rec = written(tmp_path, WHOLE)
    expected = recordio_collection(rec, name="set").table
    text = rec.with_suffix(".idx").read_text()
    for other in (text.replace("\n", "\r\n"), text.rstrip("\n"), "\n".join(reversed(text.split("\n")[:-1])) + "\n"):
        rec.with_suffix(".idx").write_bytes(other.encode())
        assert recordio_collection(rec, name="set").table.equals(expected)


def test_an_idx_that_lacks_an_image(tmp_path: Path):
    rec = written(tmp_path, WHOLE)
    lines = rec.with_suffix(".idx").read_text().splitlines(keepends=True)
    rec.with_suffix(".idx").write_text("".join(lines[:3] + lines[4:]))
    with pytest.raises(DatasetError, match=r"lacks 1 of the images .*first: record 3\), and 44 bytes of"):
        recordio_collection(rec, name="set")


def test_every_place_where_a_file_can_end(tmp_path: Path):
    rec = written(tmp_path, WHOLE)
    whole = rec.read_bytes()
    for idx in (True, False):
        if not idx:
            rec.with_suffix(".idx").unlink()
        for length in range(0, len(whole), 3):
            rec.write_bytes(whole[:length])
            with pytest.raises(DatasetError, match=r"train\.(rec|idx)"):
                recordio_collection(rec, name="set")


def test_parts_out_of_order(tmp_path: Path):
    data = payload(0, 0.0, b"abcd")
    for kinds in ([2], [3], [1], [1, 0], [1, 1, 3], [0, 3], [4], [7], [1, 2]):
        rec = tmp_path / "train.rec"
        rec.write_bytes(b"".join(MAGIC + struct.pack("<I", kind << 29 | len(data)) + data for kind in kinds))
        with pytest.raises(DatasetError, match=r"byte|cut short"):
            RecordFile(rec).read(0)
        rec.with_suffix(".idx").write_text("0\t0\n")
        with pytest.raises(DatasetError, match=r"byte|stand after the last record"):
            recordio_collection(rec, name="set")
        rec.with_suffix(".idx").unlink()


def test_lengths_that_lie_cost_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rec = written(tmp_path, [(0, 0.0, bytes(1000)), (1, 0.0, bytes(1000))])
    whole = rec.read_bytes()
    tracemalloc.start()
    try:
        for idx in (True, False):
            if not idx:
                rec.with_suffix(".idx").unlink()
            for word in (2**29 - 1, 1 << 29 | 2**29 - 1, 1028, 5000):
                rec.write_bytes(whole[:4] + struct.pack("<I", word) + whole[8:])
                with pytest.raises(DatasetError, match="byte"):
                    recordio_collection(rec, name="set")
            for n_labels in (2**32 - 1, 251):
                rec.write_bytes(whole[:8] + struct.pack("<I", n_labels) + whole[12:])
                with pytest.raises(DatasetError, match=f"announces {n_labels} labels"):
                    recordio_collection(rec, name="set")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    rec.write_bytes(whole)
    monkeypatch.setattr(record_file, "MAX_RECORD_BYTES", 900)
    with pytest.raises(DatasetError, match="more than 900 bytes, the most that is read"):
        RecordFile(rec).read(0)


def test_a_large_file_is_not_held(tmp_path: Path):
    rec = written(tmp_path, [(n, float(n // 4), bytes(2**20)) for n in range(40)])
    tracemalloc.start()
    try:
        recordio_collection(rec, name="set")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rec.stat().st_size > 40 * 2**20
    assert peak < 20 * 2**20


def test_other_places(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match="no \\.rec file"):
        recordio_collection(tmp_path, name="set")
    with pytest.raises(DatasetNotFoundError, match="neither a folder nor a \\.rec"):
        recordio_collection(tmp_path / "absent", name="set")
    with pytest.raises(DatasetNotFoundError, match="There is no file"):
        recordio_collection(tmp_path / "absent.rec", name="set")
    written(tmp_path, WHOLE)
    written(tmp_path, WHOLE, name="val")
    with pytest.raises(DatasetError, match=r"2 \.rec files: train\.rec, val\.rec"):
        recordio_collection(tmp_path, name="set")
    (tmp_path / "folder.rec" / "x").mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match="no \\.rec file"):
        recordio_collection(tmp_path / "folder.rec", name="set")
    with pytest.raises(DatasetError, match="is not a file"):
        RecordFile(tmp_path / "folder.rec")
    with pytest.raises(DatasetNotFoundError):
        RecordFile(tmp_path / "val.rec", tmp_path / "other.idx")


@pytest.mark.slow
def test_ten_million_and_more_images_have_rounded_ranges():
    """Glint360K: above 2**24 the float32 labels of record 0 and of the ranges are the nearest even numbers."""
    n_images, n_identities = 2**24 + 41, 101
    keys = np.arange(n_images + 1 + n_identities)
    starts = np.linspace(1, n_images + 1, n_identities + 1).astype(np.int64)
    labels = np.zeros((len(keys), 2), dtype=np.float32)
    labels[0] = n_images + 1, n_images + 1 + n_identities
    labels[1 : n_images + 1, 0] = np.repeat(np.arange(n_identities), np.diff(starts))
    labels[n_images + 1 :] = np.stack([starts[:-1], starts[1:]], axis=1)
    n_labels, n_bytes = np.ones(len(keys), dtype=np.uint32), np.full(len(keys), 9, dtype=np.uint32)
    is_range = (keys == 0) | (keys > n_images)
    n_labels[is_range], n_bytes[is_range] = 2, 0

    class File:
        rec, idx, keys_are_counted = Path("train.rec"), Path("train.idx"), False

        def __init__(self) -> None:
            self.keys = keys

        def __len__(self) -> int:
            return len(keys)

        def place(self, position: int) -> str:
            return f"record {keys[position]}"

        def heads(self, progress: object = None) -> record_file.RecordHeads:
            return record_file.RecordHeads(
                n_labels=n_labels, labels=labels, n_bytes=n_bytes, n_unlisted_bytes=0, n_bytes_behind=0
            )

    images, identities, notes = recordio._images(File(), None)
    assert (len(images), images[0], images[-1]) == (n_images, 1, n_images)
    assert np.array_equal(identities, labels[1 : n_images + 1, 0])
    assert notes == ("1 identity ranges lie above 16777216, where labels are rounded: not compared.",)
    labels[n_images + 5, 1] += 1000  # a range that is exact and wrong
    with pytest.raises(DatasetError, match="but the labels of these images are 4, 5"):
        recordio._images(File(), None)


def read_all(rec: Path) -> None:
    collection = recordio_collection(rec, name="set")
    for row in range(len(collection)):
        try:
            collection.encoded.read(row)
        except DatasetError as error:
            assert "0 bytes" in str(error) or "record" in str(error)  # noqa: PT017 - others pass through


@pytest.mark.parametrize("damaged", ["train.rec", "train.rec without .idx", "train.idx", "property"])
def test_damaged_files_give_images_or_a_named_error(tmp_path: Path, damaged: str):
    rec = written(tmp_path, WHOLE, idx=not damaged.endswith("without .idx"))
    (tmp_path / "property").write_text("3,112,112\n")
    file = tmp_path / damaged.split(" ", maxsplit=1)[0]
    whole = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        read_all(rec)

    n = 100 if damaged == "property" else 400
    assert assert_only_named_errors(read, mutations(whole, n=n, seed=4)) > n // 3


# --- writing --------------------------------------------------------------------------------------


def test_what_is_written_is_what_insightface_reads(tmp_path: Path):
    images = [(0, b"a"), (0, TRAP), ([2, 1.0], MAGIC), (1, b"dd" + MAGIC)]
    rec = write_recordio(tmp_path / "faces" / "train", iter(images), image_size=96)
    assert rec == tmp_path / "faces" / "train.rec"
    assert sorted(file.name for file in rec.parent.iterdir()) == ["property", "train.idx", "train.rec"]
    assert (rec.parent / "property").read_text() == "3,96,96\n"
    assert by_hand(rec) == {
        0: ([5.0, 8.0], 2, b""),
        1: ([0.0], 0, b"a"),
        2: ([0.0], 0, TRAP),
        3: ([2.0, 1.0], 2, MAGIC),
        4: ([1.0], 0, b"dd" + MAGIC),
        5: ([1.0, 3.0], 2, b""),
        6: ([3.0, 4.0], 2, b""),
        7: ([4.0, 5.0], 2, b""),
    }
    expected = written(
        tmp_path / "by hand", [(key, x[0] if x[1] else x[0][0], x[2]) for key, x in by_hand(rec).items()]
    )
    assert rec.read_bytes() == expected.read_bytes()
    assert rec.with_suffix(".idx").read_text() == expected.with_suffix(".idx").read_text()


@settings(max_examples=40, deadline=None)
@given(people=st.dictionaries(st.integers(0, 30), st.lists(CONTENT.filter(len), min_size=1, max_size=4), min_size=1))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, people: dict[int, list[bytes]]):
    folder = tmp_path_factory.mktemp("round")
    images = [(label, content) for label, contents in people.items() for content in contents]
    found = recordio_collection(write_recordio(folder, images), name="set")
    assert [(int(i), found.encoded.read(n)) for n, i in enumerate(found.table["identity"])] == images
    assert (len(found.notes) == 0) == (max(people) + 1 == len(people))
    by_key = by_hand(folder / "train.rec")
    assert [(int(by_key[key][0][0]), by_key[key][2]) for key in range(1, len(images) + 1)] == images


@pytest.mark.parametrize(
    ("images", "what"),
    [
        ([], "There is no image"),
        ([(0, b"a"), (1, b"b"), (0, b"c")], "Image 3: identity 0 comes again after identity 1"),
        ([(0, b"a"), (1, b"")], "Image 2: found b''"),
        ([(0, "text")], "Image 1: found 'text'"),
        ([(-1, b"a")], "Image 1: its label is -1"),
        ([(2**24 + 1, b"a")], "its label is 16777217"),
        ([([0.5, 1], b"a")], "its label is"),
        ([([], b"a")], "its label is"),
        ([([1, float("nan")], b"a")], "its label is"),
        ([([1, 1e39], b"a")], "its label is"),
    ],
)
def test_what_is_not_written(tmp_path: Path, images: list, what: str):
    rec = write_recordio(tmp_path, [(0, b"before")])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(DatasetError, match=what):
        write_recordio(tmp_path, images)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert recordio_collection(rec, name="set").encoded.read(0) == b"before"


def test_where_it_is_not_written(tmp_path: Path):
    write_recordio(tmp_path / "train.rec", [(0, b"a")])
    write_recordio(tmp_path / "train", [(0, b"b")])
    assert by_hand(tmp_path / "train.rec")[1][2] == b"b"
    with pytest.raises(DatasetError, match=r"holds another training set, train\.rec, whose property"):
        write_recordio(tmp_path / "val", [(0, b"a")])
    with pytest.raises(ConfigError, match="image_size is 0"):
        write_recordio(tmp_path / "train", [(0, b"a")], image_size=0)


def test_writing_holds_no_images(tmp_path: Path):
    tracemalloc.start()
    try:
        write_recordio(tmp_path, ((n // 8, bytes(2**20)) for n in range(40)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24


def test_a_dataset_goes_out_and_comes_back(tmp_path: Path):
    dataset = toy_dataset()
    table = write_dataset_as_recordio(dataset, tmp_path)
    found = recordio_collection(tmp_path, name="back")
    assert found.table["path"].tolist() == table["path_written"].tolist()
    assert found.notes == ()
    rows = dataset.manifest.reset_index().set_index("path").loc[table["path"], "index"]
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(np.asarray(decode_image_bytes(found.encoded.read(number))), dataset.images[row])
    assert sorted(rows) == dataset.rows("train").tolist()
    classes = class_table(dataset.manifest)["identity"]
    assert classes[table["label"]].tolist() == table["identity"].tolist()
    assert dataset.manifest["identity"][rows].tolist() == table["identity"].tolist()
    np.testing.assert_array_equal(dataset.manifest["age_years"][rows], table["age_years"])
    size = dataset.image_size
    assert (tmp_path / "property").read_text() == f"{len(classes)},{size},{size}\n"


def test_a_dataset_as_jpeg(tmp_path: Path):
    dataset = toy_dataset(n_heldout=3)
    n_bytes = []
    for quality in (40, 95):
        write_dataset_as_recordio(
            dataset, tmp_path / str(quality) / "x", jpeg_quality=quality, splits=("train", "heldout")
        )
        found = recordio_collection(tmp_path / str(quality), name="back")
        assert len(found) == len(dataset.rows("train")) + len(dataset.rows("heldout"))
        assert found.encoded.read(0)[:2] == b"\xff\xd8"
        n_bytes.append(len(found.encoded.read(0)))
    assert n_bytes[0] < n_bytes[1]
    with pytest.raises(ConfigError, match="jpeg_quality is 0"):
        write_dataset_as_recordio(dataset, tmp_path, jpeg_quality=0)
    with pytest.raises(ConfigError, match="is not a split"):
        write_dataset_as_recordio(dataset, tmp_path, splits=("test",))
    with pytest.raises(DatasetError, match="has no images"):
        write_dataset_as_recordio(dataset, tmp_path, splits=())
