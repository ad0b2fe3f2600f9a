"""Writing files: whole or not at all, with a reason that a person can act on."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from interproto_lib.errors import RunError, WriteError
from interproto_lib.files import atomic_write, file_lock, write_arrays, write_json

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KiB, or a skip where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_failed_block_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_json(path, {"old": 1})
    with contextlib.suppress(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_the_temporary_file_keeps_the_suffix_and_the_mode_follows_the_umask(tmp_path):
    with atomic_write(tmp_path / "images.npy") as temporary:
        assert temporary.suffix == ".npy"
        assert temporary.parent == tmp_path
        temporary.touch()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "images.npy").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_is_said_and_loses_nothing(small_disk):
    write_json(small_disk / "a.json", {"old": 1})
    with (
        pytest.raises(WriteError, match=r"No space left on device \(\d+ MiB free in .*Free some space"),
        atomic_write(small_disk / "a.json") as temporary,
    ):
        temporary.write_bytes(bytes(2**20))
    assert (small_disk / "a.json").read_text() == '{\n  "old": 1\n}\n'
    assert [entry.name for entry in small_disk.iterdir()] == ["a.json"]


def test_a_folder_that_may_not_be_written_is_said(tmp_path):
    if os.geteuid() == 0:  # root may write anywhere on a common disk; a kernel folder refuses even root
        target = Path("/proc/interproto/a.json")
    else:
        tmp_path.chmod(0o500)
        target = tmp_path / "a.json"
    with pytest.raises(WriteError, match=r"Cannot write .*a\.json"):
        write_json(target, {})


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(WriteError, match="Cannot write"):
        write_json(tmp_path / "runs" / "a.json", {})


def test_json_refuses_numbers_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_arrays_on_a_full_disk_are_a_write_error(small_disk):
    write_arrays(small_disk / "a.safetensors", {"a": np.arange(4)})
    old = (small_disk / "a.safetensors").read_bytes()
    with pytest.raises(WriteError, match=r"No space left on device .*Free some space"):
        write_arrays(small_disk / "a.safetensors", {"a": np.zeros(2**18)})
    assert (small_disk / "a.safetensors").read_bytes() == old


def test_arrays_come_back_whatever_their_memory_order(tmp_path):
    from safetensors.numpy import load_file

    matrix = np.arange(6.0).reshape(2, 3)
    write_arrays(tmp_path / "a.safetensors", {"turned": matrix.T, "every_second": matrix[:, ::2]})
    back = load_file(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(back["turned"], matrix.T)
    np.testing.assert_array_equal(back["every_second"], matrix[:, ::2])


KILLED_WRITER = """
import os, signal, sys
from interproto_lib.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_spares_a_living_one(tmp_path):
    path = tmp_path / "images.npy"
    neighbours = [".images-2.npy", ".images-abcdefgh.csv", ".other-abcdefgh.npy", "images-abcdefgh.npy"]
    for name in neighbours:
        (tmp_path / name).touch()

    def left() -> list[str]:
        return sorted({entry.name for entry in tmp_path.iterdir()} - {*neighbours, path.name})

    def writer(fate: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", KILLED_WRITER, str(path), fate]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=REPO, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout.readline() == "written\n"
        return process

    killed = writer("killed")
    killed.communicate()
    assert len(left()) == 1
    living = writer("alive")
    of_the_living = left()
    assert len(of_the_living) == 1, "the second writer removed what the first had left"
    with atomic_write(path) as temporary:
        temporary.write_text("mine")
    assert path.read_text() == "mine"
    assert left() == of_the_living
    living.communicate()
    assert living.returncode == 0
    assert path.read_text() == "half"
    assert left() == []
    assert all((tmp_path / name).exists() for name in neighbours)


def test_a_lock_keeps_a_second_process_out_and_vanishes_with_the_first(tmp_path):
    code = (
        "import sys, time; from interproto_lib.files import file_lock\n"
        "with file_lock(sys.argv[1], busy='x'):\n    print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "deep" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="somebody is there"), file_lock(path, busy="somebody is there"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with file_lock(path, busy="somebody is there"):
        pass


def test_a_lock_that_is_let_go_is_waited_for_and_one_line_says_so(tmp_path):
    path, said = tmp_path / ".lock", []
    first = contextlib.ExitStack()
    first.enter_context(file_lock(path, busy="x"))
    letting_go = threading.Timer(0.7, first.close)
    letting_go.start()
    with file_lock(path, busy="still there", wait_seconds=30, say=said.append):
        letting_go.join()
        assert said == [f"{tmp_path} is in use by another process; waiting up to 30 s for it to end."]
        with (
            pytest.raises(RunError, match="still there"),
            file_lock(path, busy="still there", wait_seconds=0.3, say=said.append),
        ):
            pass
    assert len(said) == 2
    with file_lock(path, busy="x", wait_seconds=30, say=said.append):
        assert len(said) == 2, "a free lock needs no word"
