"""Collections of files: listed in natural order and little memory, links with care, odd files by a named error."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import tracemalloc
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fuzzing import assert_only_named_errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interproto_lib.data.collections import FolderImages, ImageCollection, read_file_bytes, text_column
from interproto_lib.data.formats import list_folder
from interproto_lib.data.formats.image_files import IMAGE_ENDINGS
from interproto_lib.errors import DatasetError, DatasetNotFoundError


def write(root: Path, *paths: str, content: bytes = b"x") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


# --- encoded images --------------------------------------------------------------------------------------------------


def test_images_are_read_by_row_from_threads_and_after_pickling(tmp_path: Path):
    paths = [f"{number % 7}/{number}.jpg" for number in range(200)]
    for number, path in enumerate(paths):
        write(tmp_path, path, content=f"content {number}".encode())
    images: FolderImages = pickle.loads(pickle.dumps(FolderImages(tmp_path, text_column(pa.array(paths)))))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(images.read, range(200))) == [f"content {number}".encode() for number in range(200)]


def test_what_is_no_readable_file_says_so(tmp_path: Path):
    write(tmp_path, "a/empty.jpg", content=b"")
    write(tmp_path, "a/large.jpg", content=bytes(101))
    write(tmp_path, "a/just.jpg", content=bytes(100))
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "folder.jpg").mkdir()
    (tmp_path / "a" / "nowhere.jpg").symlink_to("gone.jpg")
    (tmp_path / "a" / "self.jpg").symlink_to("self.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(tmp_path / "a")  # a socket's path may hold 107 bytes only
        try:
            listening.bind("socket.jpg")
        finally:
            os.chdir(here)
    reasons = {
        "a/empty.jpg": r"^the file is empty \(0 bytes\)$",
        "a/large.jpg": "^the file is too large: 101 bytes, at most 100 are read$",
        "a/pipe.jpg": "^not a file$",
        "a/socket.jpg": "^not a file$",
        "a/folder.jpg": "^not a file$",
        "a/nowhere.jpg": "^the file does not exist, or is a link to nowhere$",
        "a/self.jpg": "symbolic link",
        "b/none.jpg": "^the file does not exist",
        "../outside.jpg": "^its path leads out of the folder$",
        "a/../../outside.jpg": "^its path leads out of the folder$",
        "/etc/hostname": "^its path leads out of the folder$",
        "a/nul\0.jpg": "^its path leads out of the folder$",
        f"{'x' * 300}.jpg": "too long",
    }
    images = FolderImages(tmp_path, pd.Series(list(reasons)), max_bytes=100)
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    for row, reason in enumerate(reasons.values()):
        with pytest.raises(DatasetError, match=reason):
            images.read(row)
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open
    assert read_file_bytes(tmp_path / "a" / "just.jpg", max_bytes=100) == bytes(100)


def test_a_file_too_large_is_refused_without_reading_it(tmp_path: Path):
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(2**34)  # 16 GiB that take no room on the disk
    tracemalloc.start()
    with pytest.raises(DatasetError, match="too large: 17,179,869,184 bytes"):
        read_file_bytes(tmp_path / "x.jpg")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# --- collections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        ({"path": ["a/1"], "identity": ["a"]}, "n", "no column age_years"),
        ({"path": [], "identity": [], "age_years": np.zeros(0)}, "n", "holds no images"),
        ({"path": ["a/1"], "identity": ["a"], "age_years": ["7"]}, "n", "float64 ages"),
        ({"path": ["a/1"], "identity": ["a"], "age_years": [7.0]}, " ", "needs a name"),
    ],
)
def test_a_collection_needs_its_columns(tmp_path: Path, table: dict[str, list[object]], name: str, message: str):
    with pytest.raises(DatasetError, match=message):
        ImageCollection(
            name=name,
            shape="identity_folders",
            place=tmp_path,
            table=pd.DataFrame(table),
            encoded=FolderImages(tmp_path, pd.Series(dtype=str)),
            fingerprint="",
        )


# --- listing ---------------------------------------------------------------------------------------------------------


def test_images_at_any_depth_are_listed_in_natural_order(tmp_path: Path):
    write(
        tmp_path, "s10/2.jpg", "s10/10.JPG", "s2/b/c/1.png", "s2/z.webp", "7.bmp", "s2/notes.txt", "README", ".x/1.jpg"
    )
    listing = list_folder(tmp_path)
    assert listing.paths.tolist() == ["7.bmp", "s2/z.webp", "s2/b/c/1.png", "s10/2.jpg", "s10/10.JPG"]
    assert listing.parents.tolist() == ["", "s2", "s2/b/c", "s10", "s10"]
    assert listing.folders == ["s2", "s10"]
    assert listing.others == (2, ("README", "s2/notes.txt"))


def test_more_others_than_ten_are_counted(tmp_path: Path):
    write(tmp_path, *(f"{folder}/{number}.txt" for folder in "ab" for number in range(8)), "a/x.jpg")
    assert list_folder(tmp_path).others == (16, (*(f"a/{n}.txt" for n in range(8)), "b/0.txt", "b/1.txt"))


def test_the_fingerprint_changes_with_path_size_and_time_and_with_nothing_else(tmp_path: Path):
    write(tmp_path, "a/1.jpg", "a/2.jpg")
    for file in sorted((tmp_path / "a").iterdir()):
        os.utime(file, ns=(0, 10**9))
    lines = (b"a/1.jpg\x001\x001000000000\na/2.jpg\x001\x001000000000\n", b"a/1.jpg\x001\na/2.jpg\x001\n")
    expected = ":".join(hashlib.sha256(of_all).hexdigest() for of_all in lines)
    assert list_folder(tmp_path).fingerprint == expected
    write(tmp_path, "a/readme.txt")
    assert list_folder(tmp_path).fingerprint == expected
    seen = {expected}
    for change in (
        lambda: (tmp_path / "a/1.jpg").write_bytes(b"xy"),
        lambda: os.utime(tmp_path / "a/2.jpg", ns=(0, 2 * 10**9)),
        lambda: (tmp_path / "a/1.jpg").rename(tmp_path / "a/3.jpg"),
        lambda: write(tmp_path, "b/1.jpg"),
    ):
        change()
        seen.add(list_folder(tmp_path).fingerprint)
    assert len(seen) == 5


def test_progress_counts_images(tmp_path: Path):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    counts: list[int] = []
    list_folder(tmp_path, progress=counts.append)
    assert counts[-1] == 2


def test_many_files_take_little_memory(tmp_path: Path):
    for folder in range(30):
        place = tmp_path / f"{folder:06d}"
        place.mkdir()
        for number in range(100):
            os.close(os.open(place / f"{number:08d}.jpg", os.O_CREAT | os.O_WRONLY))
    list_folder(tmp_path)  # what is imported on the way does not count
    tracemalloc.start()
    listing = list_folder(tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(listing.paths) == 3_000
    assert held < 100_000  # Python objects: 33 bytes an image; the texts themselves are Arrow's
    assert listing.paths.memory_usage(index=False) + listing.parents.memory_usage(index=False) < 50 * 3_000


# --- links -----------------------------------------------------------------------------------------------------------


def test_links_inside_the_folder_are_followed_also_where_the_folder_is_a_link(tmp_path: Path):
    root = write(tmp_path / "real", "a/1.jpg", ".store/kept/2.jpg")
    (root / "a" / "again.jpg").symlink_to("1.jpg")
    (root / "b").symlink_to(".store/kept")
    (root / "c").symlink_to(root / "a")
    (tmp_path / "link").symlink_to("real")
    expected = ["a/1.jpg", "a/again.jpg", "b/2.jpg", "c/1.jpg", "c/again.jpg"]
    assert list_folder(root).paths.tolist() == expected
    assert list_folder(tmp_path / "link").paths.tolist() == expected


@pytest.mark.parametrize("target", ["{0}/outside", "../../outside/1.jpg", "../../real2", "/etc", "../../gone", "../.."])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, target: str):
    root = write(tmp_path / "real", "a/1.jpg", "b/1.jpg")
    write(tmp_path, "outside/1.jpg", "real2/1.jpg")
    (root / "b" / "leak.jpg").symlink_to(target.format(tmp_path))
    with pytest.raises(DatasetError, match=r"b/leak\.jpg in .* is a link that leads out of it, to .*follow_links=True"):
        list_folder(root)


def test_links_out_of_the_folder_are_followed_on_request(tmp_path: Path):
    root = write(tmp_path / "real", "a/1.jpg")
    write(tmp_path, "outside/1.jpg")
    (root / "b").symlink_to(tmp_path / "outside")
    (root / "a" / "2.jpg").symlink_to(tmp_path / "outside" / "1.jpg")
    assert list_folder(root, follow_links=True).paths.tolist() == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]


@pytest.mark.parametrize("follow_links", [False, True])
def test_circles_of_links_end(tmp_path: Path, follow_links: bool):
    circles = {
        "up": {"a/up": ".."},
        "here": {"a/here": "."},
        "self": {"a/me": "me"},
        "two": {"a/to_b": "../b", "b/to_a": "../a"},
    }
    for name, links in circles.items():
        root = write(tmp_path / name, "a/1.jpg", "b/1.jpg")
        for link, target in links.items():
            (root / link).symlink_to(target)
        with pytest.raises(DatasetError, match=r"a link that leads (back )?to .* a circle\. Remove"):
            list_folder(root, follow_links=follow_links)


def test_a_circle_through_the_outside_ends(tmp_path: Path):
    root = write(tmp_path / "real", "a/1.jpg")
    (tmp_path / "outside").mkdir()
    (root / "b").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "back").symlink_to(root)
    with pytest.raises(DatasetError, match=r"b/back in .* leads back to .*: a circle"):
        list_folder(root, follow_links=True)


def test_links_that_double_at_every_step_end(tmp_path: Path):
    for number in range(40):  # 2 to the 40 ways without a circle
        write(tmp_path, f"d{number}/1.jpg")
        for name in ("x", "y"):
            if number < 39:
                (tmp_path / f"d{number}" / name).symlink_to(f"../d{number + 1}")
    with pytest.raises(DatasetError, match=r"More than 8 links in .* lead to "):
        list_folder(tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


def test_odd_names_are_refused(tmp_path: Path):
    for number, (name, message) in enumerate(
        {"a\\b.jpg": "contains a backslash", " ": "is blank", "a\x1bb.jpg": "control character"}.items()
    ):
        with pytest.raises(DatasetError, match=message):
            list_folder(write(tmp_path / str(number), f"p/{name}"))
    with pytest.raises(DatasetNotFoundError, match="There is no folder"):
        list_folder(tmp_path / "none")


def test_a_folder_too_deep_to_be_opened_is_named(tmp_path: Path):
    place = os.open(tmp_path, os.O_RDONLY)
    name = "d" * 250
    for _ in range(20):
        os.mkdir(name, dir_fd=place)
        place, before = os.open(name, os.O_RDONLY, dir_fd=place), place
        os.close(before)
    os.close(place)
    with pytest.raises(DatasetError, match=r"Cannot look into .*File name too long"):
        list_folder(tmp_path)


ODD_NAMES = [b"..jpg", b"...", b"..\xc2\x85", b"%2e%2e", b"-rf", b"$(x)", b"~", b"con", b"\xff\xfe", b"x" * 251]
NAMES = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(ODD_NAMES),
).map(lambda name: b"p" + name.replace(b"/", b"_").replace(b"\0", b"_"))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.tuples(NAMES, NAMES, st.sampled_from(IMAGE_ENDINGS)), min_size=4, max_size=4))
def test_any_names_are_listed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[bytes, bytes, str]]
):
    roots = []
    for folder, file, ending in names:  # 1,000 folders in all
        root = tmp_path_factory.mktemp("names")
        place = root / os.fsdecode(folder)
        with suppress(OSError):  # a name that this file system does not take
            place.mkdir()
            (place / os.fsdecode(file + ending.encode())).touch()
        roots.append(root)

    def check(root: Path) -> None:
        for path in list_folder(root).paths:
            assert (root / path).is_file()
            assert "Cc" not in {unicodedata.category(letter) for letter in path}

    assert_only_named_errors(check, roots)
