"""Reading other people's checkpoints (files of torch.save, safetensors) so that nothing in them is ever run.

A file of torch.save is a pickle, which may name any function to be called. It is read with `weights_only`: PyTorch
then rebuilds tensors and plain containers and refuses every other name. A few names that training frameworks write
beside the weights (`_FRAMEWORK_NAMES`) are answered with an empty object of ours instead; what they name is never
imported, and what they held is thrown away. Before that, the file's own claims about sizes are checked against its
size, and its checksums against its content.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from interproto_lib.errors import CheckpointError

MAX_PICKLE_BYTES = 4 * 2**20
"""Largest pickle that is read, without the weights beside it. That of a network of 152 units has 0.2 MB."""

MAX_INSTRUCTIONS = 2_000_000
"""Most instructions of a pickle that is followed by its weights, as PyTorch wrote them before version 1.6."""

_CHUNK_BYTES = 2**20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5  # magic number, version, sizes of C types, content, names of the storages

SAVE_A_STATE_DICT = (
    "Its owner can save the weights alone, where the code that made it is at hand: "
    'torch.save(model.state_dict(), "backbone.pth").'
)


class _Unread:
    """Stands for an object of a training framework that is not read."""

    def __new__(cls, *args: object, **kwargs: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
_CALLBACKS = (
    "early_stopping.EarlyStopping",
    "lr_monitor.LearningRateMonitor",
    "model_checkpoint.ModelCheckpoint",
    "timer.Timer",
)
_FRAMEWORK_NAMES: dict[str, type] = {
    **{f"{package}.callbacks.{name}": _Unread for package in _LIGHTNING for name in _CALLBACKS},
    **{f"{package}.utilities.parsing.AttributeDict": OrderedDict for package in _LIGHTNING},
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "utils.dotdict": OrderedDict,
    "easydict.EasyDict": OrderedDict,
    "argparse.Namespace": _Unread,
    **{f"pathlib.{name}": _Unread for name in ("Path", "PosixPath", "WindowsPath")},
    **{f"numpy.{core}.multiarray.scalar": _Unread for core in ("core", "_core")},
    "numpy.dtype": _Unread,
}
"""Names in checkpoints of Lightning (AdaFace's among them) and what stands for them: callbacks and settings."""


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint: a file of torch.save, of any age, or a safetensors file; which one shows in its first bytes.

    Nothing in the file is run. Tensors come to the CPU, and where possible stay in the file until they are used (a
    memory map), so copy what is kept.

    Args:
        path: The file.

    Returns:
        What was saved: most often a dict of tensors, or a dict that holds one.

    Raises:
        CheckpointError: There is no such file, it is damaged or of another kind, or it asks for more than tensors and
            plain containers; the message says what, and what to do.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"bias": torch.ones(2)}, f"{folder}/a.pth")
        ...     read_checkpoint(f"{folder}/a.pth")["bias"].clone()
        tensor([1., 1.])
    """
    file = Path(path)
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder, not a checkpoint: give the file in it.")
    if not file.is_file():
        raise CheckpointError(f"There is no checkpoint at {file}.")
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}).") from error
    if not start:
        raise CheckpointError(f"{file} is empty: copy it again.")
    if start[:2] == b"PK":
        return _read_zip(file)
    if start[:1] == b"\x80":
        return _read_legacy(file)
    if start[8:9] == b"{":
        return _read_safetensors(file)
    raise CheckpointError(
        f"{file} is neither a file of torch.save nor a safetensors file (it begins with {start!r}). Weights of another "
        "framework (ONNX, MXNet, TensorFlow) have to be converted first; a damaged file copied again."
    )


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{file} cannot be read as a safetensors file ({_short(error)}). It is cut short or damaged: copy it again."
        ) from error


def _read_zip(file: Path) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_archive(archive, file.stat().st_size)
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}") from error
    except Exception as error:  # the reader of archives raises many types on damaged files
        raise _damaged(file, error) from error
    return _load(file, memory_map=True)


def _check_archive(archive: zipfile.ZipFile, file_size: int) -> None:
    """Refuse archives that are no files of torch.save, are packed, overlap, or whose checksums do not fit."""
    records = archive.infolist()
    names = [record.filename.rsplit("/", 1)[-1] for record in records]
    if "constants.pkl" in names:
        raise CheckpointError(
            "holds a TorchScript program, which runs when it is opened; it is not opened. Its owner can save the "
            'weights alone: torch.save(torch.jit.load(file).state_dict(), "backbone.pth").'
        )
    if names.count("data.pkl") != 1:
        raise CheckpointError(
            f"is a zip archive, but not one of torch.save (it holds {len(names)} files, data.pkl "
            f"{names.count('data.pkl')} times). If the checkpoint is inside, unpack it first."
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError("is a compressed zip archive, which torch.save never writes. Unpack it first.")
    if sum(record.file_size for record in records) > file_size:
        raise CheckpointError("states more bytes than it has: it is damaged. Copy it again.")
    for record, name in zip(records, names, strict=True):
        if name == "data.pkl" and record.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"describes its content in {record.file_size} bytes, expected at most {MAX_PICKLE_BYTES}: it holds "
                f"much besides weights. {SAVE_A_STATE_DICT}"
            )
        if record.CRC == 0:  # none was written: torch.serialization.set_crc32_options(False)
            continue
        with archive.open(record) as content:
            while content.read(_CHUNK_BYTES):
                pass  # the end of each record compares its checksum


def _read_legacy(file: Path) -> Any:
    try:
        with file.open("rb") as opened:
            _check_legacy(opened, file.stat().st_size)
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}") from error
    except Exception as error:  # damaged pickles raise many types
        raise _damaged(file, error) from error
    return _load(file, memory_map=False)


def _check_legacy(opened: BinaryIO, file_size: int) -> None:
    """Refuse pickles of endless work, and storages that claim more bytes than the file has."""
    n_instructions = 0
    for number in range(_LEGACY_PICKLES):
        numbers: list[int] = []
        for opcode, argument, _ in pickletools.genops(opened):
            n_instructions += 1
            if n_instructions > MAX_INSTRUCTIONS:
                raise CheckpointError(
                    f"has more than {MAX_INSTRUCTIONS} instructions: it holds much besides weights. {SAVE_A_STATE_DICT}"
                )
            if opcode.name == "MARK":
                numbers.clear()
            elif isinstance(argument, int):
                numbers.append(argument)
            elif opcode.name == "BINPERSID" and max(numbers, default=0) > file_size:
                raise CheckpointError("states more values than it has bytes: it is damaged. Copy it again.")
        if number == 0 and _LEGACY_MAGIC not in numbers:
            raise CheckpointError(f"is a pickle, but not one of torch.save; it is not opened. {SAVE_A_STATE_DICT}")


def _load(file: Path, *, memory_map: bool) -> Any:
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (stand_in, name) for name, stand_in in _FRAMEWORK_NAMES.items()
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # about pickle protocols and old storages
            return torch.load(str(file), map_location="cpu", weights_only=True, mmap=memory_map)
    except Exception as error:  # torch.load raises many types on damaged files
        asked = re.search(r"GLOBAL (\S+)|supported class (\S+)|module (\S+) is blocked", str(error))
        if asked is None:
            raise _damaged(file, error) from error
        name = _printable(next(group for group in asked.groups() if group))
        raise CheckpointError(
            f"{file} asks for {name}, which is no tensor and no plain container: either a whole model was pickled, "
            f"class and all, or the file is an attack. Nothing was run. {SAVE_A_STATE_DICT}"
        ) from None


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read as a file of torch.save ({_short(error)}). It is cut short, damaged or of another "
        "kind: copy it again."
    )


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {_printable(lines[0])}" if lines else type(error).__name__


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
