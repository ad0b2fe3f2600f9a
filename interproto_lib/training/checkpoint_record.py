"""The last file of a checkpoint: what it holds and the checksum of each file, so that damage never goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interproto_lib.errors import CheckpointError
from interproto_lib.files import write_json

RECORD_FILE = "checkpoint.json"
"""Written last: a folder without it is no checkpoint."""

FORMAT = 3

MAX_RECORD_BYTES = 256 * 2**20

_SHARD_FILE = re.compile(r"part-\d{5,9}\.safetensors")
_BLOCK_BYTES = 16 * 2**20
_MOST = 2**53


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor in one of the files, there under the tensor's name.

    Attributes:
        file: Name of the file.
        start: Where the block begins in the tensor, one number a dimension.
        shape: Its shape.
    """

    file: str
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        dtype: Its type by torch's name, as `float32`.
        shape: Its shape, over all processes.
        chunks: Blocks that cover it, each number once.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint.

    Attributes:
        n_bytes: Its size.
        sha256: SHA-256 of its content, hexadecimal.
    """

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint holds.

    Attributes:
        values: Single numbers by name, such as the step.
        tensors: Tensors by name.
        files: Files by name.
    """

    values: dict[str, int | float]
    tensors: dict[str, StoredTensor]
    files: dict[str, StoredFile]


def write_record(folder: Path, record: CheckpointRecord) -> None:
    """Write the record of a checkpoint, and with it make the folder one.

    Args:
        folder: The folder of the checkpoint.
        record: The record.

    Raises:
        WriteError: It cannot be written.
    """
    content = {"format": FORMAT, **asdict(record)}
    write_json(folder / RECORD_FILE, {"sha256": _hash_of(content), "content": content})


def read_record(folder: Path) -> CheckpointRecord:
    """Read the record of a checkpoint.

    Args:
        folder: The folder of the checkpoint.

    Returns:
        The record; its files are not looked at.

    Raises:
        CheckpointError: The record is damaged or of another version.
    """
    path = folder / RECORD_FILE
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise ValueError("it is too large")
        read = json.loads(path.read_text(encoding="utf-8"))
        content = read["content"]
        if read["sha256"] != _hash_of(content):
            raise ValueError("its checksum is another one")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({_first_line(error)})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of another version of this library")
    try:
        return _parsed(content)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} is no record of a checkpoint ({_first_line(error)})") from error


def find_damage(folder: Path, files: Mapping[str, StoredFile]) -> str | None:
    """Compare files with what was written.

    Args:
        folder: The folder of the checkpoint.
        files: Files by name, as the record has them.

    Returns:
        What is wrong with the first file that is damaged, or None.
    """
    for name, stored in files.items():
        path = folder / name
        try:
            if (n_bytes := path.stat().st_size) != stored.n_bytes:
                return f"{name} has {n_bytes} bytes, {stored.n_bytes} were written"
            if hash_file(path) != stored.sha256:
                return f"{name} holds other bytes than were written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, hexadecimal.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    block = bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(block):
            digest.update(memoryview(block)[:n_bytes])
    return digest.hexdigest()


def _hash_of(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _parsed(content: Mapping[str, Any]) -> CheckpointRecord:
    """Give the record of what was read, with everything checked that a later step relies on."""
    files = {name: StoredFile(_size(of["n_bytes"]), str(of["sha256"])) for name, of in content["files"].items()}
    for name in files:
        if not _SHARD_FILE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file of it")
    tensors = {}
    for name, of in content["tensors"].items():
        chunks = [Chunk(str(c["file"]), _sizes(c["start"]), _sizes(c["shape"])) for c in of["chunks"]]
        tensors[name] = StoredTensor(str(of["dtype"]), _sizes(of["shape"]), tuple(chunks))
        _check_cover(name, tensors[name], files)
    values = dict(content["values"])
    for name, value in values.items():
        if type(value) not in (int, float) or not 0 <= value < _MOST:
            raise ValueError(f"{name} is no number")
    return CheckpointRecord(values, tensors, files)


def _check_cover(name: str, tensor: StoredTensor, files: Mapping[str, StoredFile]) -> None:
    """Refuse chunks outside of the tensor, that miss a part of it, or that claim more than their files hold."""
    covered = 0
    for chunk in tensor.chunks:
        if chunk.file not in files or len(chunk.start) != len(chunk.shape) or len(chunk.shape) != len(tensor.shape):
            raise ValueError(f"a chunk of {name} is nowhere")
        ends = [start + length for start, length in zip(chunk.start, chunk.shape, strict=True)]
        if any(end > size for end, size in zip(ends, tensor.shape, strict=True)):
            raise ValueError(f"a chunk of {name} is outside of it")
        n_values = math.prod(chunk.shape)
        if n_values > files[chunk.file].n_bytes:
            raise ValueError(f"a chunk of {name} is larger than its file")
        covered += n_values
    starts = {chunk.start for chunk in tensor.chunks}
    if covered != math.prod(tensor.shape) or len(starts) != len(tensor.chunks):
        raise ValueError(f"the chunks of {name} do not cover it")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError(f"{value!r:.40} is no size")
    return value


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(_size(value) for value in values)


def _first_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason.splitlines()[0][:200] if reason else type(error).__name__
