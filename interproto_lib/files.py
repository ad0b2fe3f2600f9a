"""Writing files so that a reader never sees half of one, whatever stops the writer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interproto_lib.errors import RunError, WriteError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put it in the place of `path` when the block succeeds.

    The temporary file keeps the suffix of `path`, is flushed to disk before it is renamed, and is removed when the
    block raises, so `path` holds either its old content or the whole new one. Missing parent folders are made.

    Args:
        path: The file to write.

    Yields:
        The temporary path to write to, in the same folder.

    Raises:
        WriteError: The folder cannot be made or written, or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
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


@contextmanager
def file_lock(path: str | Path, *, busy: str) -> Iterator[None]:
    """Hold a lock that no second process can take and that vanishes with the process, even when it is killed.

    Args:
        path: The lock file; made if missing, with its folder, and never removed.
        busy: What to say when another process holds it.

    Raises:
        RunError: Another process holds the lock.
        WriteError: The lock file cannot be made.
    """
    import fcntl

    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = target.open("a")
    except OSError as error:
        raise WriteError(f"Cannot write {target}: {_reason(error, target)}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(busy) from error
        yield


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


def _reason(error: OSError, target: Path) -> str:
    reason = error.strerror or str(error)
    folder = next((parent for parent in target.parents if parent.is_dir()), None)
    if isinstance(error, PermissionError):
        return f"{reason}. Choose a folder you may write to, or change the permissions of {folder}."
    if folder is not None:
        free = shutil.disk_usage(folder).free / 2**20
        return f"{reason} ({free:.0f} MiB free in {folder}). Free some space or choose another folder."
    return f"{reason}."
