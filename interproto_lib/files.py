"""Writing files so that a reader never sees half of one, whatever stops the writer."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from interproto_lib.errors import RunError, WriteError

_SECONDS_BETWEEN_TRIES = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_say_at_once = functools.partial(print, flush=True)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put it in the place of `path` when the block succeeds.

    The temporary file keeps the suffix of `path`, is flushed to disk before it is renamed, and is removed when the
    block raises, so `path` holds either its old content or the whole new one. Missing parent folders are made.

    A writer that is killed leaves its temporary file behind; the next one to write `path` removes it first. It knows
    such files by a lock that each writer holds on its own and that ends with the process.

    Args:
        path: The file to write.

    Yields:
        The temporary path to write to, in the same folder.

    Raises:
        WriteError: The folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    handle: int | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        temporary = Path(name)
        _try_lock(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise WriteError(f"Cannot write {target}: {_reason(error, target)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def file_lock(
    path: str | Path,
    *,
    busy: str,
    wait_seconds: float = 0.0,
    say: Callable[[str], object] = _say_at_once,
) -> Iterator[None]:
    """Hold a lock that no second process can take and that vanishes with the process, even when it is killed.

    Args:
        path: The lock file; made if missing, with its folder, and never removed.
        busy: What to say when another process holds it.
        wait_seconds: How long to wait for the other process to let go: one that is being stopped needs some seconds.
        say: Told once, in one line, that it waits.

    Raises:
        RunError: Another process holds the lock, and still does after the wait.
        WriteError: The lock file cannot be made, or the file system knows no locks.
    """
    target = Path(path)
    deadline = time.monotonic() + wait_seconds
    waits = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = target.open("a")
    except OSError as error:
        raise WriteError(f"Cannot write {target}: {_reason(error, target)}") from error
    with handle:
        while True:
            try:
                is_held = _lock(handle.fileno())
            except OSError as error:
                raise WriteError(f"Cannot lock {target}: {_reason(error, target)}") from error
            if is_held:
                break
            if time.monotonic() >= deadline:
                raise RunError(busy)
            if not waits:
                waits = True
                say(f"{target.parent} is in use by another process; waiting up to {wait_seconds:g} s for it to end.")
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a safetensors file, atomically.

    Args:
        path: The file to write.
        arrays: Name -> array of any shape and of a number type that safetensors has. Equal arrays give equal bytes.

    Raises:
        WriteError: The file cannot be written.

    Example:
        >>> from safetensors.numpy import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_arrays(Path(folder, "a.safetensors"), {"a": np.arange(3)})
        ...     load_file(Path(folder, "a.safetensors"))["a"]
        array([0, 1, 2])
    """
    from safetensors.numpy import save

    # Bytes first: the writer of safetensors itself reports a full disk as an error of its own kind.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically.

    Args:
        path: The file to write.
        content: Anything `json` can write; NaN and infinity are refused.

    Raises:
        WriteError: The file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _lock(handle: int) -> bool:
    """Take the lock of an open file; False where another process holds it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock(handle: int) -> bool:
    """Take the lock of an open file where there is one to take; False too where the file system knows no locks."""
    try:
        return _lock(handle)
    except OSError:
        return False


def _remove_left_behind(target: Path) -> None:
    """Remove temporary files of `target` that no living writer holds."""
    name = re.compile(rf"\.{re.escape(target.stem)}-[a-z0-9_]{{8}}{re.escape(target.suffix)}")
    for path in target.parent.iterdir():
        if not name.fullmatch(path.name):
            continue
        # One that may not be opened, of another user for example, is left.
        with suppress(OSError), path.open("r+b") as left:
            if _try_lock(left.fileno()):
                path.unlink()


def _reason(error: OSError, target: Path) -> str:
    reason = error.strerror or str(error)
    folder = next((parent for parent in target.parents if parent.is_dir()), None)
    if isinstance(error, PermissionError):
        return f"{reason}. Choose a folder you may write to, or change the permissions of {folder}."
    blocking = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        return f"{blocking} is a file, expected a folder. Choose another place, or move that file away."
    if folder is not None and error.errno in _FULL:
        free = shutil.disk_usage(folder).free / 2**20
        return f"{reason} ({free:.0f} MiB free in {folder}). Free some space or choose another folder."
    return f"{reason}." if folder is None else f"{reason} (in {folder}). Choose another place."
