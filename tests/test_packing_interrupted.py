"""A packing that is killed, interrupted or out of space goes on when it is begun again, and gives the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from packing_process import N_IMAGES, run
from test_packing import Pictures, contents, make_collection, names, pack, pixels, small_blocks, stop_at

from interproto_lib.data import load_dataset, packed_images, packing_journal, verify_dataset
from interproto_lib.data import packing as packing_module
from interproto_lib.errors import DatasetError, DatasetNotFoundError, WriteError

__all__ = ["small_blocks"]  # a fixture of every test

PROCESS = Path(__file__).with_name("packing_process.py")


def begin(folder: Path, *, n_threads: int = 2, seconds_an_image: float = 0.002) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROCESS), str(folder), str(n_threads), str(seconds_an_image)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "packing" / "journal.jsonl").read_text().splitlines()]


def n_done(folder: Path) -> int:
    return sum(entry.get("rows", 0) for entry in journal(folder))


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_twenty_moments_it_gives_the_same_bytes(tmp_path: Path):
    """SIGKILL after random times; each start goes on, until one comes to the end."""
    run(tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    chance = random.Random(0)
    folder = tmp_path / "killed"
    n_killed, n_kills, reached = 0, 0, [0]
    while True:
        process = begin(folder, n_threads=chance.choice([1, 2, 4]), seconds_an_image=0.04)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            process.wait(timeout=chance.uniform(0.0, 0.3) if n_kills < 20 else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            n_killed += 1
        n_kills += 1
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        if (folder / "packing" / "journal.jsonl").is_file():
            reached.append(n_done(folder))
    assert n_killed >= 20
    assert reached == sorted(reached), "what was done stays done"
    assert len(set(reached)) > 5
    assert contents(folder) == wanted
    verify_dataset(folder)


WRITES: list[tuple[Any, str]] = [
    (packed_images, "_to_disk"),
    (packing_journal.PackingJournal, "_append"),
    (packing_module, "finish_packing"),
    (packing_module, "written_description"),
    (packed_images, "file_sha256"),
    (Path, "replace"),
    (shutil, "rmtree"),
]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the library may catch it."""


@pytest.mark.parametrize("rejects", [False, True])
def test_stopped_before_and_after_each_write_it_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rejects: bool
):
    """Not at random: every call that brings something to the disk is the last one once, before and after its work."""
    encoded = Pictures({4: b"", 20: b"x"} if rejects else {})

    def make(folder: Path) -> None:
        pack(make_collection(21, encoded), folder, on_rejected="drop", n_threads=1)

    make(tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    n_stops = 0
    for number, (owner, name) in enumerate(WRITES):
        for is_after in (False, True):
            for nth in (1, 2, 4):
                folder = tmp_path / f"{number}-{is_after}-{nth}"
                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, stopping(getattr(owner, name), nth, is_after))
                    try:
                        make(folder)
                    except Killed:
                        n_stops += 1
                    else:
                        break  # there is no nth call
                make(folder)
                found = contents(folder)
                found.pop(".packing.lock", None)
                assert found == wanted, f"{name}, call {nth}, {'after' if is_after else 'before'}"
    assert n_stops >= 18


def stopping(function: Callable[..., Any], nth: int, is_after: bool) -> Callable[..., Any]:
    n_calls = 0

    def stopped(*arguments: Any, **named: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == nth and not is_after:
            raise Killed
        result = function(*arguments, **named)
        if n_calls == nth:
            raise Killed
        return result

    return stopped


def test_an_interrupted_packing_goes_on_and_reads_nothing_twice(tmp_path: Path):
    pictures = Pictures()
    with pytest.raises(KeyboardInterrupt):
        pack(make_collection(40, pictures), tmp_path / "d", decode=stop_at(30), n_threads=1)
    assert n_done(tmp_path / "d") == 28
    with pytest.raises(DatasetNotFoundError, match="not packed to its end"):
        verify_dataset(tmp_path / "d")
    read_before = dict(pictures.n_read)
    reports: list[int] = []
    dataset = pack(make_collection(40, pictures), tmp_path / "d", progress=lambda done, of: reports.append(done))
    np.testing.assert_array_equal(dataset.images, [pixels(row) for row in range(40)])
    assert min(reports) > 28
    assert all(pictures.n_read[row] == read_before[row] == 1 for row in range(28))
    pack(make_collection(40), tmp_path / "whole")
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


def test_splits_and_ages_may_change_on_the_way(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        pack(make_collection(), tmp_path / "d", decode=stop_at(30))
    table = make_collection().table.assign(age_years=5.0)
    split = np.full(40, "heldout")
    pack(make_collection(table=table), tmp_path / "d", split=split)
    pack(make_collection(table=table), tmp_path / "whole", split=split)
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


# --- begun as one, gone on with as another ---------------------------------------------------------------------------


def test_nothing_is_mixed(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        pack(make_collection(), tmp_path, decode=stop_at(30))
    before = contents(tmp_path)
    renamed = make_collection().table
    renamed["path"] = renamed["path"].str.replace("p0/", "q0/")
    others: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"fingerprint": "f1"}, {}, "the source was changed: its files were added, removed or written anew"),
        ({}, {"settings": {"fit": "pad", "way": [1, 2]}}, "fit was 'error', now 'pad'"),
        ({}, {"settings": {"fit": "error", "way": [1, 2], "new": 1}}, "new was None, now 1"),
        ({}, {"image_size": 9}, "image_size was 8, now 9"),
        ({"table": renamed}, {}, "the images have other names, or another order"),
        ({"n": 39}, {"split": np.full(39, "train")}, "n_images was 40, now 39"),
    ]
    for of_collection, of_packing, message in others:
        with pytest.raises(
            DatasetError, match="packing that was stopped after 28 of 40 images and was another"
        ) as caught:
            pack(make_collection(**of_collection), tmp_path, **of_packing)
        assert message in str(caught.value)
        assert f"To begin anew, remove {tmp_path / 'packing'}." in str(caught.value)
        assert contents(tmp_path) == before
    shutil.rmtree(tmp_path / "packing")
    assert len(pack(make_collection(fingerprint="f1"), tmp_path)) == 40


def test_it_goes_on_from_another_path(tmp_path: Path):
    """Where the images lie is recorded and decides nothing: also in journals and datasets that were begun before."""
    settings = {"fit": "error", "root": "../source"}
    with pytest.raises(KeyboardInterrupt):
        pack(make_collection(), tmp_path / "d", decode=stop_at(30), settings=settings)
    pictures = Pictures()
    for root in ("/elsewhere/source", "source"):
        pack(make_collection(encoded=pictures), tmp_path / "d", settings=settings | {"root": root})
    assert sum(pictures.n_read.values()) == 40 - 28
    assert load_dataset(tmp_path / "d").settings["root"] == "/elsewhere/source"


def test_a_packing_that_kept_nothing_stands_in_nobodys_way(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        pack(make_collection(), tmp_path, decode=stop_at(2))
    assert n_done(tmp_path) == 0
    assert len(pack(make_collection(fingerprint="f1"), tmp_path)) == 40


# --- what is damaged -------------------------------------------------------------------------------------------------


def test_a_line_cut_off_does_not_count(tmp_path: Path):
    pack(make_collection(), tmp_path / "whole")
    for n_bytes in (1, 2, 10, 40):
        folder = tmp_path / str(n_bytes)
        with pytest.raises(KeyboardInterrupt):
            pack(make_collection(), folder, decode=stop_at(30))
        file = folder / "packing" / "journal.jsonl"
        file.write_bytes(file.read_bytes()[:-n_bytes])
        with (folder / "packing" / "images.npy").open("ab") as images:
            images.write(b"left behind")
        pack(make_collection(), folder)
        assert contents(folder) == contents(tmp_path / "whole")


def test_a_damaged_journal_or_file_is_refused(tmp_path: Path):
    def stopped(name: str) -> Path:
        with pytest.raises(KeyboardInterrupt):
            pack(make_collection(), tmp_path / name, decode=stop_at(30))
        return tmp_path / name / "packing"

    def refused(place: Path, message: str) -> None:
        with pytest.raises(DatasetError, match=message) as caught:
            pack(make_collection(), place.parent)
        assert str(place) in str(caught.value)
        assert "to begin" in str(caught.value)

    for number, damage in enumerate(
        (b"{", b"[]", b"1", b"null", b'{"rows": "many", "rejected": [], "sizes": {}}', b'{"rows": 7}', b"\xff\xfe", b"")
    ):
        place = stopped(f"line {number}")
        lines = (place / "journal.jsonl").read_bytes().split(b"\n")
        (place / "journal.jsonl").write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
        refused(place, r"journal\.jsonl, line 2, is damaged")
    place = stopped("version")
    text = (place / "journal.jsonl").read_text()
    (place / "journal.jsonl").write_text(text.replace('"journal": 1', '"journal": 2'))
    refused(place, "written as version 2, this library reads 1")
    place = stopped("short")
    os.truncate(place / "images.npy", 1000)
    refused(place, r"images\.npy is shorter than journal\.jsonl says")
    place = stopped("gone")
    (place / "images.npy").unlink()
    refused(place, r"images\.npy is shorter than journal\.jsonl says")
    place = stopped("more rows")
    with (place / "journal.jsonl").open("a") as handle:
        handle.write('{"rows": 70, "rejected": [], "sizes": {}}\n')
    refused(place, "speaks of 98 images, there are 40")


def test_images_that_were_put_into_the_place_are_not_taken_for_the_packed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(packing_module, "written_description", stopping(packing_module.written_description, 1, False))
        with pytest.raises(Killed):
            pack(make_collection(), tmp_path)
    (tmp_path / "packing" / "images.npy").unlink()
    with pytest.raises(DatasetError, match=r"is not what was packed. Remove it to begin anew"):
        pack(make_collection(), tmp_path)
    np.save(tmp_path / "images.npy", np.zeros((40, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"is not what was packed. Remove it to begin anew"):
        pack(make_collection(), tmp_path)


# --- full and forbidden places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("where", ["images", "journal", "manifest"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, nth: int):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    n_calls = 0

    def fail(*arguments: Any, **named: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls >= nth or where == "manifest":
            raise full
        return original(*arguments, **named)

    owner, name = {
        "images": (packed_images, "_to_disk"),
        "journal": (packing_journal.os, "fsync"),
        "manifest": (__import__("pandas").DataFrame, "to_parquet"),
    }[where]
    original = getattr(owner, name)
    pictures = Pictures()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(WriteError, match=r"Cannot write .*No space left on device"):
            pack(make_collection(40, pictures), tmp_path / "d")
    n_read = sum(pictures.n_read.values())
    pack(make_collection(40, pictures), tmp_path / "d")
    pack(make_collection(40), tmp_path / "whole")
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")
    assert sum(pictures.n_read.values()) <= n_read + 40
    if where == "manifest":
        assert n_read == sum(pictures.n_read.values()), "everything was packed before"


def test_a_file_that_may_not_grow_further(tmp_path: Path):
    """A limit of the system on the size of files, which is what a quota does."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from packing_process import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "from interproto_lib.errors import WriteError\n"
        "try:\n"
        "    run(Path(sys.argv[1]))\n"
        "except WriteError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "d"), str(PROCESS.parent)]
    call = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in call.stdout
    assert "What was packed before is kept" in call.stdout
    assert 50 < n_done(tmp_path / "d") < N_IMAGES
    run(tmp_path / "d")
    run(tmp_path / "whole")
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


def test_a_disk_too_small_is_told_at_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictures = Pictures()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 5000))  # type: ignore[attr-defined]
        with pytest.raises(WriteError, match=r"still to pack take 0\.0 GiB, but only 0\.0 GiB are free in .*d"):
            pack(make_collection(40, pictures), tmp_path / "d")
    assert not pictures.n_read
    assert len(pack(make_collection(), tmp_path / "d")) == 40


def test_a_folder_without_write_permission(tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(WriteError, match="Choose a folder you may write to"):
        pack(make_collection(), folder)


def test_a_finished_dataset_on_a_read_only_disk_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pack(make_collection(), tmp_path)

    def forbidden(*arguments: Any, **named: Any) -> IO[Any]:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(packing_module, "file_lock", forbidden)
    assert len(pack(make_collection(), tmp_path)) == 40


def test_a_place_under_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="Cannot write"):
        pack(make_collection(), tmp_path / "file" / "d")


# --- two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_do_not_damage_each_others_work(tmp_path: Path):
    folder = tmp_path / "d"
    both = [begin(folder, seconds_an_image=0.001) for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert names(folder) == ["dataset.json", "images.npy", "manifest.parquet"]
    run(tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


# --- the same images with other labels -------------------------------------------------------------------------------


def relabelled() -> dict[str, Any]:
    return {"split": np.full(40, "heldout"), "on_rejected": "drop", "relabel": True}


def test_other_labels_keep_the_images(tmp_path: Path):
    """All files are those of a new packing with these labels; nothing is decoded."""
    pictures = {5: b"", 23: b"x"}
    table = make_collection().table.assign(age_years=5.0)
    pack(make_collection(encoded=Pictures(pictures)), tmp_path / "d", on_rejected="drop")
    before = (tmp_path / "d" / "images.npy").stat()
    unread = Pictures(pictures)
    for _ in range(2):
        pack(make_collection(encoded=unread, table=table), tmp_path / "d", **relabelled())
    assert not unread.n_read
    after = (tmp_path / "d" / "images.npy").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    pack(make_collection(encoded=Pictures(pictures), table=table), tmp_path / "whole", **relabelled())
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")
    verify_dataset(tmp_path / "d")
    for change in ({"image_size": 9}, {"settings": {"fit": "pad"}}, {"on_rejected": "error"}):
        with pytest.raises(DatasetError, match="packed otherwise"):
            pack(make_collection(encoded=unread), tmp_path / "d", **(relabelled() | change))
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


@pytest.mark.parametrize("at", range(1, 9))
def test_other_labels_that_are_stopped_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int):
    """Stopped at each step that changes a file's name: what is there is the old dataset, the new one, or goes on."""
    pack(make_collection(), tmp_path / "d")
    pack(make_collection(), tmp_path / "whole", **relabelled())
    steps = {"replace": Path.replace, "unlink": Path.unlink}
    n_steps = 0

    def stopping(name: str) -> Callable[..., Any]:
        def step(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal n_steps
            n_steps += 1
            if n_steps >= at:
                raise KeyboardInterrupt
            return steps[name](path, *arguments, **options)

        return step

    with monkeypatch.context() as patched:
        for name in steps:
            patched.setattr(Path, name, stopping(name))
        with suppress(KeyboardInterrupt):
            pack(make_collection(), tmp_path / "d", **relabelled())
    unread = Pictures()
    pack(make_collection(encoded=unread), tmp_path / "d", **relabelled())
    assert not unread.n_read
    verify_dataset(tmp_path / "d")
    kept = ("dataset.json", "images.npy", "manifest.parquet")
    for name in kept:
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
