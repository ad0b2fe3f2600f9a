"""A preparation that is killed goes on and gives the same bytes; two at once do not damage one another."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from intake_sources import jpeg, put

from interproto_lib.data.datasets import verify_dataset
from interproto_lib.data.packing import packing_lock

N_IMAGES = 240
N_KILLED = 20

# Imports once and runs each command in a process forked off, so that many of them take little time. The blocks are
# small, so that a short preparation has many moments at which it can be stopped.
SERVER = """
import json, os, signal, sys, time
from interproto_lib import cli
from interproto_lib.data import packed_folders, packed_images, packing
packed_images.BLOCK_BYTES = 8 * 112 * 112 * 3
decode_image_bytes = packed_folders.decode_image_bytes

def slowly(content):
    time.sleep(command["seconds_an_image"])
    return decode_image_bytes(content)

for line in sys.stdin:
    command = json.loads(line)
    if "end" in command:
        print(os.waitstatus_to_exitcode(os.waitpid(command["end"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        packing.LOCK_WAIT_SECONDS = command["lock_wait_seconds"]
        packed_folders.decode_image_bytes = slowly
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        code = cli.main(command["arguments"])
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
"""


class Commands:
    """Runs `interproto` commands in processes that start at once."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._n_started = 0
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "INTERPROTO_PROGRESS": "none"},
        )

    def start(self, *arguments: object, lock_wait_seconds: float = 60.0, seconds_an_image: float = 0.0) -> Running:
        self._n_started += 1
        log = self._logs / f"{self._n_started}.log"
        command = {
            "arguments": [*map(str, arguments)],
            "log": str(log),
            "lock_wait_seconds": lock_wait_seconds,
            "seconds_an_image": seconds_an_image,
        }
        return Running(process=self._ask(command), log=log)

    def end(self, running: Running) -> tuple[int, str]:
        """Wait for a command and return its exit code, negative for a signal, and what it printed."""
        return self._ask({"end": running.process}), running.log.read_text(encoding="utf-8")

    def run(self, *arguments: object, lock_wait_seconds: float = 60.0) -> tuple[int, str]:
        return self.end(self.start(*arguments, lock_wait_seconds=lock_wait_seconds))

    def close(self) -> None:
        self._server.communicate()

    def _ask(self, command: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


@dataclass(frozen=True)
class Running:
    process: int
    log: Path


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(tmp_path_factory.mktemp("logs"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of twelve people, every 50th damaged."""
    root = tmp_path_factory.mktemp("interrupted") / "source"
    for number in range(N_IMAGES):
        content = jpeg(number) if number % 50 != 49 else b"damaged"
        put(root, f"{number % 12:06d}/{number:08d}.jpg", content)
    return root


def lasting_files(folder: Path) -> dict[str, bytes]:
    """Name -> content of all files; of the report all but how long it took."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    report = json.loads(found["preparation.json"])
    del report["time"]
    found["preparation.json"] = json.dumps(report).encode()
    return found


def arguments(source: Path, out: Path) -> list[object]:
    return ["prepare", "identity_folder", source, out, "--on-rejected", "drop", "--seed", "3"]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, commands: Commands, source: Path) -> dict[str, bytes]:
    """The files of a preparation that nothing interrupts."""
    out = tmp_path_factory.mktemp("wanted") / "out"
    code, text = commands.run(*arguments(source, out))
    assert code == 0, text
    assert f"Rejected: {N_IMAGES // 50} images" in text
    return lasting_files(out)


@pytest.mark.slow
def test_killed_at_twenty_moments_it_gives_the_same_bytes(tmp_path, commands, source, wanted):
    started = time.monotonic()
    commands.run(*arguments(source, tmp_path / "whole"))
    seconds = time.monotonic() - started
    draw = random.Random(7)
    n_killed = n_gone_on = number = 0
    while n_killed < N_KILLED:
        number += 1
        assert number < 10 * N_KILLED, "hardly any of the commands was still running when it was to be killed"
        out = tmp_path / f"killed-{number}"
        for _ in range(5):
            running = commands.start(*arguments(source, out))
            time.sleep(draw.uniform(0.0, seconds))
            os.kill(running.process, signal.SIGKILL)  # it is no one else's: its end was not asked for yet
            code, text = commands.end(running)
            assert code in (0, -signal.SIGKILL), text
            if code == 0:
                break
            n_killed += 1
            n_gone_on += (out / "packing").is_dir() or (out / "dataset.json").is_file()
        code, text = commands.run(*arguments(source, out))
        assert code == 0, text
        assert lasting_files(out) == wanted
        verify_dataset(out)
    assert n_gone_on >= N_KILLED // 4  # so many were killed when there was something to go on from


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command_goes_on(tmp_path, commands, source, wanted, sent):
    out = tmp_path / "out"
    journal = out / "packing" / "journal.jsonl"
    running = commands.start(*arguments(source, out), seconds_an_image=0.02)
    deadline = time.monotonic() + 20
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(running.process, sent)
    code, text = commands.end(running)
    assert code == (-signal.SIGKILL if sent == signal.SIGKILL else 130), text
    if sent != signal.SIGKILL:
        assert text.endswith("interproto: interrupted; the same command goes on from here.\n")
    assert not (out / "dataset.json").exists()
    n_blocks = journal.read_bytes().count(b"\n") - 1
    code, text = commands.run(*arguments(source, out))
    assert code == 0, text
    assert lasting_files(out) == wanted
    decoded = json.loads((out / "preparation.json").read_bytes())["time"]["images_decoded"]
    assert N_IMAGES - 8 * (n_blocks + 1) <= decoded <= N_IMAGES - 8 * 2
    assert "were there from before the interruption" in text


def test_two_at_once_do_not_damage_one_another(tmp_path, commands, source, wanted):
    both = [commands.start(*arguments(source, tmp_path / "out")) for _ in range(2)]
    for code, text in map(commands.end, both):
        assert code == 0, text
    assert lasting_files(tmp_path / "out") == wanted
    verify_dataset(tmp_path / "out")


def test_a_folder_in_use_is_said(tmp_path, commands, source, wanted):
    out = tmp_path / "out"
    with packing_lock(out):
        code, text = commands.run(*arguments(source, out), lock_wait_seconds=0.0)
    assert code == 2
    assert "Another process packs images into" in text
    assert not (out / "dataset.json").exists()
    code, text = commands.run(*arguments(source, out))
    assert code == 0, text
    assert lasting_files(out) == wanted
