"""Reading and writing insightface's verification files (.bin): a pickle of encoded images in pairs, and labels."""

from __future__ import annotations

import io
import pickle
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from interproto_lib.data.formats.plain_pickles import MAX_INSTRUCTIONS, PickledArray, called, read_plain_pickle
from interproto_lib.errors import DatasetError
from interproto_lib.files import atomic_write

MAX_FILE_BYTES = 2**30
"""Largest file that is read, 1 GiB. The known ones take 40 to 200 MB."""

MAX_PAIRS = MAX_INSTRUCTIONS // 10
"""Most pairs that are written, 200,000, so that the file can be read. The known ones have 6,000 or 7,000."""

_PROTOCOL = 4  # bytes as bytes; read by Python 3.4 and later
_MOST_BITS = 64
_FORMATS = ("JPEG", "PNG", "BMP")
_MODES = ("RGB", "L", "P", "1", "RGBA", "LA")


def read_verification_bin(path: str | Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    """Read a verification file of insightface: `(list of 2N encoded images, list of N booleans)` as a pickle.

    Read are all pickle protocols of Python 2 and 3, images as bytes, Python 2 texts or numpy arrays of uint8, labels as
    truth values or whole numbers, 0 and 1, of Python or numpy. Nothing in the file is run, whatever it asks for (see
    `read_plain_pickle`). The images are not decoded (see `decode_image`); images 2i and 2i + 1 make pair i.

    Args:
        path: The file, at most `MAX_FILE_BYTES`. Reading takes about three times its size in memory.

    Returns:
        The 2N encoded images, and whether the N pairs show one person (N,).

    Raises:
        DatasetError: There is no such file, it asks for an import, is damaged, or holds something else; the message
            says what.
    """
    file = Path(path)
    content = _read_file(file)
    try:
        found = read_plain_pickle(content)
    except DatasetError as error:
        raise DatasetError(f"{file} is no verification file that can be read: {error}") from error
    return _check_content(file, found)


def write_verification_bin(path: str | Path, images: Sequence[bytes], same: ArrayLike) -> None:
    """Write a verification file of insightface: a pickle of (list of 2N encoded images, list of N booleans).

    insightface reads it by `pickle.load(file, encoding="bytes")`, and `read_verification_bin` reads it. It is in
    pickle protocol 4, which Python 2 does not read.

    Args:
        path: The file to write.
        images: The 2N encoded images; images 2i and 2i + 1 make pair i. They are written as they come.
        same: Whether the N pairs show one person (N,) of truth values, N >= 1.

    Raises:
        DatasetError: An image is no bytes or empty, a label is no truth value, the numbers do not fit, or there is
            more than `read_verification_bin` would read.
        WriteError: The file cannot be written; what was there before stays.
    """
    file = Path(path)
    try:
        labels = np.asarray(same)
    except ValueError as error:  # rows of different lengths
        raise DatasetError(f"{file} is not written: the labels are no row of truth values ({error}).") from error
    if labels.dtype != np.bool_ or labels.ndim != 1:
        raise DatasetError(
            f"{file} is not written: the labels are {labels.dtype} of shape {labels.shape}, expected (N,) truth values."
        )
    if len(images) != 2 * len(labels) or not 0 < len(labels) <= MAX_PAIRS:
        raise DatasetError(
            f"{file} is not written: there are {len(images)} images and {len(labels)} labels; expected two images for "
            f"each label, and 1 to {MAX_PAIRS} pairs."
        )
    for number, image in enumerate(images):
        if not isinstance(image, bytes) or not image:
            what = "is empty (0 bytes)" if isinstance(image, bytes) else f"is {called(image)}"
            raise DatasetError(f"{file} is not written: image {number} {what}, expected an encoded image as bytes.")
    n_bytes = sum(map(len, images)) + 20 * len(images)
    if n_bytes > MAX_FILE_BYTES:
        raise DatasetError(f"{file} is not written: it would have {n_bytes} bytes, at most {MAX_FILE_BYTES} are read.")
    with atomic_write(file) as temporary, temporary.open("wb") as handle:
        pickle.dump((list(images), labels.tolist()), handle, protocol=_PROTOCOL)


def decode_image(content: bytes, image_size: int) -> NDArray[np.uint8]:
    """Decode one image of a verification file.

    Args:
        content: The encoded image: JPEG, PNG or BMP, 8 bits a channel; grey and palette become RGB. An EXIF
            orientation is not applied: these images are aligned.
        image_size: Height and width that it must have, in pixels.

    Returns:
        The pixels, (image_size, image_size, 3) RGB.

    Raises:
        DatasetError: It cannot be decoded, or has another size; the message is the reason.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_header(image, image_size)
            return np.asarray(image.convert("RGB"))
    except DatasetError:
        raise
    except Exception as error:  # decoders raise many types on damaged images: each means that it is not readable
        raise DatasetError(_reason(error)) from error


def image_problem(content: bytes, image_size: int) -> str | None:
    """Say what is wrong with an encoded image as far as its header tells, without decoding it; None if nothing is."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_header(image, image_size)
    except DatasetError as error:
        return str(error)
    except Exception as error:  # as in decode_image
        return _reason(error)
    return None


def _check_header(image: Image.Image, image_size: int) -> None:
    if image.size != (image_size, image_size):
        raise DatasetError(f"is {image.width} x {image.height} pixels, expected {image_size} x {image_size}")
    if image.mode not in _MODES:
        raise DatasetError(f"has pixels of the kind {image.mode}, expected 8 bits a channel, RGB or grey")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "is not an image of a known format"
    return f"is damaged or cut short ({type(error).__name__}: {error})"


def _read_file(file: Path) -> bytes:
    try:
        status = file.stat()
    except OSError as error:
        raise DatasetError(f"There is no verification file {file} ({error.strerror}). Check the path.") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{file} is not a file.")
    if not 0 < status.st_size <= MAX_FILE_BYTES:
        raise DatasetError(f"{file} has {status.st_size} bytes, expected 1 to {MAX_FILE_BYTES}.")
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}).") from error


def _check_content(file: Path, found: Any) -> tuple[list[bytes], NDArray[np.bool_]]:
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise DatasetError(
            f"{file} holds {called(found)}, expected two lists: encoded images and labels. Is it a verification file?"
        )
    images, labels = found
    if not isinstance(images, (list, tuple)):
        raise DatasetError(f"{file} holds {called(images)} for its images, expected a list of encoded images.")
    encoded: list[bytes] = []
    for number, image in enumerate(images):
        content = image.content if isinstance(image, PickledArray) and image.dtype == "u1" else image
        if not isinstance(content, bytes):
            raise DatasetError(f"{file}, image {number}: found {called(image)}, expected an encoded image as bytes.")
        if not content:
            raise DatasetError(f"{file}, image {number} is empty (0 bytes).")
        encoded.append(content)
    same = _check_labels(file, labels)
    if len(encoded) != 2 * len(same) or not encoded:
        raise DatasetError(
            f"{file} holds {len(encoded)} images and {len(same)} labels, expected two images for each label, and at "
            "least one pair."
        )
    return encoded, same


def _check_labels(file: Path, labels: Any) -> NDArray[np.bool_]:
    if isinstance(labels, PickledArray) and labels.dtype is not None and labels.content is not None:
        kind = np.dtype(labels.dtype.replace("b", "u")).newbyteorder(">" if labels.is_big_endian else "<")
        values = np.frombuffer(labels.content, dtype=kind)
        if not np.isin(values, (0, 1)).all():
            raise DatasetError(f"{file}: the labels hold {int(values.max())}, expected 0 and 1, or truth values.")
        return values.astype(bool)
    if not isinstance(labels, (list, tuple)):
        raise DatasetError(f"{file} holds {called(labels)} for its labels, expected a list of truth values.")
    for number, label in enumerate(labels):
        if not isinstance(label, int):
            raise DatasetError(f"{file}, label {number}: found {called(label)}, expected a truth value.")
        if label not in (0, 1):
            found = str(label) if label.bit_length() < _MOST_BITS else "a huge number"
            raise DatasetError(f"{file}, label {number}: found {found}, expected 0 or 1, or a truth value.")
    return np.array(labels, dtype=bool)
