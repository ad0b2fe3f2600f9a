"""The file of images of a dataset: an .npy of uint8 (n, size, size, 3), written and hashed block by block."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

BLOCK_BYTES = 2**24
"""Some megabytes, so that a block costs one call and little memory."""


def npy_header(n_images: int, image_size: int) -> bytes:
    """Give the header of an .npy file of images; it is as long for every number of them, so it can be written anew.

    Args:
        n_images: How many images follow.
        image_size: Their height and width, in pixels.
    """
    header = io.BytesIO()
    shape = (n_images, image_size, image_size, 3)
    npy_format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def npy_blocks(images: NDArray[np.uint8]) -> Iterator[bytes | memoryview]:
    """Give the content of an .npy file of images (n, size, size, 3): its header, then some megabytes at a time."""
    yield npy_header(len(images), images.shape[1])
    n_rows = max(1, BLOCK_BYTES // math.prod(images.shape[1:]))
    for start in range(0, len(images), n_rows):
        yield np.ascontiguousarray(images[start : start + n_rows]).data


def write_images(images: NDArray[np.uint8], file: Path) -> str:
    """Write images (n, size, size, 3) as an .npy file, and return the SHA-256 of the file."""
    digest = hashlib.sha256()
    with file.open("wb") as handle:
        for block in npy_blocks(images):
            digest.update(block)
            handle.write(block)
    return digest.hexdigest()


def file_sha256(file: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """Give the SHA-256 of a file, read block by block.

    Args:
        file: The file.
        progress: Called with the number of bytes read.
    """
    digest = hashlib.sha256()
    n_read = 0
    with file.open("rb") as handle:
        while block := handle.read(BLOCK_BYTES):
            digest.update(block)
            n_read += len(block)
            if progress is not None:
                progress(n_read)
    return digest.hexdigest()


def sync_file(file: Path) -> None:
    """Bring what was written to a file to the disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
