"""Each shape in which collections lie on a disk is recognised at first try; what is no shape is told what it lacks."""

from __future__ import annotations

import io
import itertools
import math
import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from fuzzing import assert_only_named_errors
from PIL import Image

from interproto_lib.data import describe_images, read_card
from interproto_lib.data.shapes import SHAPES, open_collection
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

ATT_FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "att_faces"
PAIR_LISTS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "child_adult_pairs"


def write(root: Path, *paths: str, content: bytes = b"x") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def write_record(folder: Path) -> Path:
    """A .rec by hand as insightface writes it: 2 people with 2 images each, one pixel a JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    image = buffer.getvalue()
    payloads = [struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<2f", 5.0, 7.0)]
    payloads += [
        struct.pack("<IfQQ", 0, float(label), number + 1, 0) + image for number, label in enumerate((0, 0, 1, 1))
    ]
    payloads += [struct.pack("<IfQQ", 2, 0.0, 0, 0) + struct.pack("<2f", *ends) for ends in ((1.0, 3.0), (3.0, 5.0))]
    record, index = b"", ""
    for key, payload in enumerate(payloads):
        index += f"{key}\t{len(record)}\n"
        record += struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
    (folder / "train.rec").write_bytes(record)
    (folder / "train.idx").write_text(index)
    (folder / "property").write_text("2,112,112\n")
    return folder


# --- each shape, and in a folder of datasets --------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "datasets"])
def test_identity_folders(tmp_path: Path, above: str):
    paths = [f"{identity:06d}/{number:08d}.jpg" for number, identity in enumerate((0, 0, 2, 10), start=1)]
    root = write(tmp_path / above / "casia-webface", *paths)
    write(tmp_path / above, *(["age-label/casia-webface.txt"] if above else []))
    collection = open_collection(tmp_path / (above or "casia-webface"), name="casia_webface")
    assert (collection.shape, collection.place, collection.name) == ("identity_folders", root, "casia_webface")
    assert collection.table["path"].tolist() == paths
    assert collection.table["identity"].tolist() == ["000000", "000000", "000002", "000010"]
    assert collection.table["age_years"].isna().all()
    assert [collection.encoded.read(row) for row in range(4)] == [b"x"] * 4
    assert collection.notes == (
        (f"The images lie in the folder casia-webface of {tmp_path / above}.",) if above else ()
    )


@pytest.mark.parametrize("above", ["", "AgeDB-aligned/"])
def test_agedb(tmp_path: Path, above: str):
    root = write(
        tmp_path, *(f"{above}{path}" for path in ("A B/0_A B_7.jpg", "A B/1_A B_101.JPG", "Zoé/12_Zoé_40.png"))
    )
    collection = open_collection(root, name="agedb")
    assert (collection.shape, collection.place) == ("agedb", tmp_path / above)
    assert collection.table["identity"].tolist() == ["A B", "A B", "Zoé"]
    assert collection.table["age_years"].tolist() == [7.0, 101.0, 40.0]


@pytest.mark.parametrize("above", ["", "FGNET-aligned/"])
def test_fgnet(tmp_path: Path, above: str):
    write(tmp_path, *(f"{above}{path}" for path in ("001A02.JPG", "001A02b.JPG", "010A43.jpg")))
    write(tmp_path, "points/001a02.pts")
    collection = open_collection(tmp_path, name="fgnet")
    assert (collection.shape, collection.place) == ("fgnet", tmp_path / above)
    assert collection.table["path"].tolist() == ["001A02.JPG", "001A02b.JPG", "010A43.jpg"]
    assert collection.table["identity"].tolist() == ["001", "001", "010"]
    assert collection.table["age_years"].tolist() == [2.0, 2.0, 43.0]


@pytest.mark.parametrize("above", ["", "LAG-aligned/"])
def test_lag_has_young_and_no_ages(tmp_path: Path, above: str):
    write(tmp_path, *(f"{above}{path}" for path in ("a/old 1.png", "a/y/young one.png", "b/y/1.png", "b/2.png")))
    collection = open_collection(tmp_path, name="lag")
    assert (collection.shape, collection.place) == ("lag", tmp_path / above)
    young = dict(zip(collection.table["path"], collection.table["young"], strict=True))
    assert young == {"a/old 1.png": False, "a/y/young one.png": True, "b/2.png": False, "b/y/1.png": True}
    assert collection.table["identity"].tolist() == ["a", "a", "b", "b"]
    assert collection.table["age_years"].isna().all()


@pytest.mark.parametrize("source", ["datasets", "datasets/ms1m", "datasets/ms1m/train.rec"])
def test_recordio(tmp_path: Path, source: str):
    write_record(tmp_path / "datasets" / "ms1m")
    write(tmp_path, "datasets/ms1m/lfw.bin", "datasets/age-label/ms1m.txt")
    for shape in ("auto", "recordio"):
        collection = open_collection(tmp_path / source, name="ms1mv2", shape=shape)  # type: ignore[arg-type]
        assert (collection.shape, collection.place.name) == ("recordio", "train.rec")
        assert len(collection) == 4
        assert collection.table["identity"].nunique() == 2


@pytest.mark.skipif(not ATT_FACES.is_dir(), reason=f"the AT&T faces are not at {ATT_FACES}")
def test_the_att_faces(tmp_path: Path):
    (tmp_path / "link").symlink_to(ATT_FACES)
    collection = open_collection(tmp_path / "link", name="att_faces")
    assert (collection.shape, len(collection), collection.table["identity"].nunique()) == ("identity_folders", 400, 40)
    with Image.open(io.BytesIO(collection.encoded.read(399))) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(ATT_FACES / "s40" / "10.pgm")))


@pytest.mark.skipif(not PAIR_LISTS.is_dir(), reason=f"the pair lists are not at {PAIR_LISTS}")
@pytest.mark.parametrize("card", ["agedb", "fgnet", "lag"])
def test_the_images_that_the_official_lists_name(tmp_path: Path, card: str):
    lists = {"agedb": "agedb20_child", "fgnet": "fgnet20_child", "lag": "lag"}
    lines = (PAIR_LISTS / f"{lists[card]}.txt").read_text(encoding="utf-8").splitlines()
    named = [path for line in lines for path in line.split(" ")[1:] if path.count("/") >= 3 and "." in path]
    named = sorted({path.removeprefix("dataset/test/") for path in named})
    write(tmp_path, *named)
    top = next(line.strip().rstrip("/") for line in read_card(card).layout.splitlines() if "aligned" in line)
    collection = open_collection(tmp_path, name=card)
    assert (collection.shape, collection.place.name, len(collection)) == (card, top, len(named))
    expected = describe_images(named, card).set_index("path")
    for path, identity, age in zip(*(collection.table[c] for c in ("path", "identity", "age_years")), strict=True):
        row = expected.loc[f"{top}/{path}"]
        assert identity == row["identity"]
        assert age == row["age_years"] or (math.isnan(age) and card == "lag")


# --- doubt -----------------------------------------------------------------------------------------------------------


def test_names_that_do_not_match_are_counted_and_named(tmp_path: Path):
    root = write(tmp_path, *(f"A/{number}_A_{number}.jpg" for number in range(5)), "A/5_B_5.jpg", "A/6_A_131.jpg")
    with pytest.raises(
        DatasetError, match=r"(?s)fits several shapes.*5 of 7 names .* agedb .*A/5_B_5.jpg, A/6_A_131"
    ) as e:
        open_collection(root, name="n")
    assert "shape='agedb'" in str(e.value)
    assert "shape='identity_folders'" in str(e.value)
    with pytest.raises(DatasetError, match=r"2 of 7 images in .* not of the shape 'agedb' .*: A/5_B_5.jpg, A/6_A_131"):
        open_collection(root, name="n", shape="agedb")
    collection = open_collection(root, name="n", shape="identity_folders")
    assert collection.notes == ("5 names read like those of agedb; no age is taken from them.",)
    write(root, *(f"B/{number}.jpg" for number in range(4)))
    assert open_collection(root, name="n").shape == "identity_folders"


def test_folders_of_people_with_names_of_fgnet_are_asked_for(tmp_path: Path):
    write(tmp_path, "1/001A02.JPG", "2/002A03.JPG")
    with pytest.raises(DatasetError, match=r"2 of 2 names read like those of fgnet"):
        open_collection(tmp_path, name="n")
    assert open_collection(tmp_path, name="n", shape="fgnet").table["age_years"].tolist() == [2.0, 3.0]
    assert open_collection(tmp_path, name="n", shape="identity_folders").table["identity"].tolist() == ["1", "2"]


def test_a_record_file_beside_images_is_asked_for(tmp_path: Path):
    write(write_record(tmp_path), "imgs/a/1.jpg")
    with pytest.raises(DatasetError, match=r"holds both a \.rec file and 1 images in folders.*shape='recordio'"):
        open_collection(tmp_path, name="n")
    assert open_collection(tmp_path, name="n", shape="recordio").shape == "recordio"
    assert open_collection(tmp_path, name="n", shape="identity_folders").place == tmp_path / "imgs"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["casia/a/1.jpg", "ms1m/b/1.jpg"], r"These folders hold images: casia, ms1m\. .* give the folder of one"),
        (["a/1.jpg", "b/2.jpg", "c.jpg"], r"nearest: 1 of 3 .*'identity_folders'.*: c\.jpg"),
        (["001A02.JPG", "001A03.JPG", "Thumb.JPG"], r"nearest: 1 of 3 .*'fgnet'.*: Thumb\.JPG"),
        (["a/1.jpg", "a/y/2.jpg", "a/z/3.jpg"], r"nearest: 1 of 3 .*'lag'.*: a/z/3\.jpg"),
        (["a/b.txt", "a/lfw.bin"], r"no images in .* found 1 folder and 2 other files \(a/b\.txt, a/lfw\.bin\)"),
        (["a/lfw.bin"], r"a/lfw\.bin is a verification file.*test_sets: \{<name>: \{bin: "),
        ([], "found nothing"),
        (["a/x.rec", "b/y.rec"], r"2 folders in .* hold a \.rec file: a, b\. Give"),
    ],
)
def test_what_is_no_shape_says_what_was_found_and_what_is_needed(tmp_path: Path, paths: list[str], message: str):
    write(tmp_path, *paths)
    with pytest.raises(DatasetError, match=f"(?s){message}") as caught:
        open_collection(tmp_path, name="n")
    if "rec" not in message:
        assert all(f"\n  {shape}: {form}" in str(caught.value) for shape, form in SHAPES.items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lfw.bin", b"\x80\x02", r"is a verification file: .* test_sets: \{<name>: \{bin: .*lfw\.bin\}\}"),
        (
            "agedb20_child.txt",
            b"1 A/1_A_3.jpg A/2_A_40.jpg\n",
            r"is a list.* test_sets: \{<name>: \{pairs: .*child\.txt",
        ),
        ("casia.txt", b"\xef\xbb\xbf0 casia-webface/0/1.jpg 26.0 1\n", "is a list of age labels.* as its ages"),
        ("ages.csv", b"path,age_years\n", "A table of ages is given beside the folder"),
        ("casia.zip", b"PK", "is an archive. Unpack it first"),
        ("train.idx", b"0\t0\n", "belongs to a .rec file"),
        ("1.jpg", b"\xff\xd8", "is a single image"),
        ("x.py", b"print()", "neither a folder nor a file of a known kind"),
    ],
)
def test_files_that_are_no_source_say_what_they_are(tmp_path: Path, name: str, content: bytes, message: str):
    write(tmp_path, name, content=content)
    with pytest.raises(DatasetError, match=f"(?s){message}"):
        open_collection(tmp_path / name, name="n")


def test_sources_that_are_not_there_and_shapes_that_are_not(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match=r"There is nothing at .*none"):
        open_collection(tmp_path / "none", name="n")
    with pytest.raises(DatasetError, match=r"Cannot look at .*File name too long"):
        open_collection(tmp_path / ("x" * 300), name="n")
    with pytest.raises(ConfigError, match="There is no shape 'mtcnn'"):
        open_collection(tmp_path, name="n", shape="mtcnn")  # type: ignore[arg-type]
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(DatasetError, match=r"No image in .* lies in a folder y"):
        open_collection(tmp_path, name="n", shape="lag")
    with pytest.raises(DatasetError, match=r"holds no \.rec file"):
        open_collection(tmp_path, name="n", shape="recordio")
    with pytest.raises(DatasetError, match=r"shape recordio, not agedb"):
        open_collection(write_record(tmp_path / "r") / "train.rec", name="n", shape="agedb")


def test_folders_without_images_and_other_files_are_noted(tmp_path: Path):
    write(tmp_path, "a/1.jpg", "b/1.jpg", "a/x.txt")
    (tmp_path / "nobody").mkdir()
    collection = open_collection(tmp_path, name="n")
    assert collection.notes == ("1 folder holds no image: nobody.",)
    assert collection.others == (1, ("a/x.txt",))


def test_links_are_refused_or_followed_as_asked(tmp_path: Path):
    root = write(tmp_path / "root", "a/1.jpg", "b/1.jpg")
    write(tmp_path, "elsewhere/1.jpg")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="leads out of it"):
        open_collection(root, name="n")
    assert open_collection(root, name="n", follow_links=True).table["identity"].tolist() == ["a", "b", "c"]


# --- any folder ------------------------------------------------------------------------------------------------------


def test_any_folder_is_opened_or_refused_with_reasons(tmp_path: Path):
    draw = random.Random(0)
    folders = ["a", "y", "001", "A_B", "LAG", "casia-webface", "김", "."]
    files = [
        "1.jpg",
        "001A02.JPG",
        "1_a_5.jpg",
        "7_A_B_99.png",
        "x.rec",
        "lfw.bin",
        "pairs.txt",
        "property",
        "n.idx",
        "b.tif",
    ]
    roots = []
    for number in range(1000):
        root = tmp_path / str(number)
        root.mkdir()
        for _ in range(draw.choice((0, 1, 2, 3, 5))):
            place = root.joinpath(*(draw.choice(folders) for _ in range(draw.choice((0, 1, 1, 2, 3)))))
            place.mkdir(parents=True, exist_ok=True)
            (place / draw.choice(files)).touch()
        roots.append(root)
    shapes = itertools.cycle(["auto", "auto", *SHAPES])

    def check(root: Path) -> None:
        collection = open_collection(root, name="n", shape=next(shapes))  # type: ignore[arg-type]
        table = collection.table
        assert table["path"].is_unique
        assert all((collection.place / path).is_file() for path in table["path"])
        assert table["identity"].str.len().min() > 0

    start = time.monotonic()
    n_refused = assert_only_named_errors(check, roots)
    assert 100 < n_refused < 1000
    assert time.monotonic() - start < 60
