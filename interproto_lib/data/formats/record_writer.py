"""Writing insightface's training sets in RecordIO: .rec, .idx and property."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.formats.record_file import MAX_RECORD_BYTES
from interproto_lib.data.formats.record_index import (
    FIRST,
    IMAGE_HEAD,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MIDDLE,
    PART_HEAD,
    WHOLE,
)
from interproto_lib.data.formats.recordio import MAX_EXACT, PROPERTY_FILE
from interproto_lib.errors import ConfigError, DatasetError
from interproto_lib.files import atomic_write

_MAGIC_BYTES = MAGIC.to_bytes(4, "little")
_FIRST_IMAGE = 1
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def write_recordio(
    prefix: str | Path, images: Iterable[tuple[int | Sequence[float], bytes]], *, image_size: int = 112
) -> Path:
    """Write encoded images as a training set of insightface: `<prefix>.rec`, `<prefix>.idx`, and `property` beside.

    Record 0 holds [N + 1, end], the images follow with the keys 1 to N, then one record for each identity with the
    range [start, end) of its images' keys (as insightface's face2rec2.py; there record 0 stands after the images in
    the file, but has the same key). Content is split where it holds RecordIO's magic at a multiple of four bytes, as
    dmlc's writer does. The images are taken one by one: memory does not grow with their number, but for 16 bytes an
    identity. The files take their places when all is written, the .rec last.

    Args:
        prefix: Path without an ending; a folder that exists takes `train` in it.
        images: Label and encoded image, all images of an identity one after the other. A label is the number of the
            identity, or several numbers of which the first is: whole, 0 to 2**24, exact in float32.
        image_size: Height and width of the images, in pixels, for `property`; the images are written as they come.

    Returns:
        The .rec file.

    Raises:
        ConfigError: `image_size` is below 1.
        DatasetError: There is no image, one is empty or too large, a label is no identity, an identity comes again
            after another, there are too many for the float32 numbers of the layout, or the folder holds another .rec.
        WriteError: A file cannot be written; what was there before stays.
    """
    if image_size < 1:
        raise ConfigError(f"image_size is {image_size}; it must be at least 1 pixel.")
    rec, idx, properties = _files(Path(prefix))
    with ExitStack() as stack:
        # Left in reverse: property takes its place first, the .rec last.
        rec_file, idx_file, property_file = (stack.enter_context(atomic_write(f)) for f in (rec, idx, properties))
        with rec_file.open("wb") as rec_handle, idx_file.open("w", encoding="ascii", newline="\n") as idx_handle:
            writer = _Records(rec_handle, idx_handle)
            n_classes = _write_all(writer, images)
        property_file.write_text(f"{n_classes},{image_size},{image_size}\n", encoding="ascii")
        rec.unlink(missing_ok=True)  # an old .rec never stands beside a new .idx
    return rec


def write_dataset_as_recordio(
    dataset: FaceDataset,
    prefix: str | Path,
    *,
    splits: Sequence[str] = ("train",),
    jpeg_quality: int | None = None,
) -> pd.DataFrame:
    """Write images of a dataset as a training set of insightface (see `write_recordio`).

    Args:
        dataset: Images and manifest.
        prefix: As in `write_recordio`.
        splits: Which splits to write. The label of an identity is its place among their identities, sorted; for
            "train" alone it is the class that `class_table` gives it.
        jpeg_quality: None writes PNG, which loses nothing; 1 to 100 writes JPEG of that quality.

    Returns:
        One row an image, in the order written: `key`, `label`, `identity`, `path` (as in the manifest), `path_written`
        (`<label>/<key>.jpg` as readers of the file name it), `age_years`. The file itself holds neither names nor ages.

    Raises:
        ConfigError: There is no split of that name, or the quality is out of range.
        DatasetError: These splits have no images, or `write_recordio` refuses them.
        WriteError: A file cannot be written.
    """
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise ConfigError(f"jpeg_quality is {jpeg_quality}; expected None for PNG, or 1 to 100.")
    rows = np.concatenate([dataset.rows(split) for split in splits] or [np.zeros(0, dtype=np.int64)])
    if len(rows) == 0:
        raise DatasetError(f"Dataset {dataset.name!r} has no images of the splits {', '.join(splits)}.")
    labels, identities = pd.factorize(dataset.manifest["identity"].iloc[rows], sort=True)
    order = np.lexsort((rows, labels))
    rows, labels = rows[order], labels[order]

    def encoded() -> Iterator[tuple[int, bytes]]:
        for row, label in zip(rows, labels, strict=True):
            yield int(label), _encode(dataset.images[row], jpeg_quality)

    write_recordio(prefix, encoded(), image_size=dataset.image_size)
    keys = np.arange(_FIRST_IMAGE, _FIRST_IMAGE + len(rows))
    return pd.DataFrame(
        {
            "key": keys,
            "label": labels,
            "identity": identities[labels],
            "path": dataset.manifest["path"].iloc[rows].to_numpy(),
            "path_written": [f"{label:06d}/{key:08d}.jpg" for label, key in zip(labels, keys, strict=True)],
            "age_years": dataset.manifest["age_years"].iloc[rows].to_numpy(),
        }
    )


class _Records:
    """Writes records and their places."""

    def __init__(self, rec: BinaryIO, idx: io.TextIOWrapper) -> None:
        self._rec = rec
        self._idx = idx

    def write(self, key: int, labels: Sequence[float] | float, content: bytes = b"") -> None:
        """Write one record at the end, and its line of the .idx."""
        self._idx.write(f"{key}\t{self._rec.tell()}\n")
        self._rec.write(_framed(_payload(key, labels, content)))

    def write_first_anew(self, labels: Sequence[float]) -> None:
        """Write the labels of record 0, which stands first, over those that it has."""
        self._rec.seek(0)
        self._rec.write(_framed(_payload(0, labels, b"")))


def _files(prefix: Path) -> tuple[Path, Path, Path]:
    if prefix.is_dir():
        prefix = prefix / "train"
    rec = prefix.with_name(prefix.name.removesuffix(".rec") + ".rec")
    others = sorted(
        file.name for file in rec.parent.glob("*.rec") if file.name != rec.name and not file.name.startswith(".")
    )
    if others:
        raise DatasetError(
            f"{rec.parent} holds another training set, {others[0]}, whose {PROPERTY_FILE} would be replaced. Choose a "
            "folder of its own."
        )
    return rec, rec.with_suffix(".idx"), rec.with_name(PROPERTY_FILE)


def _write_all(writer: _Records, images: Iterable[tuple[int | Sequence[float], bytes]]) -> int:
    """Write all records, and return the number of classes: one more than the largest label."""
    writer.write(0, (0.0, 0.0))
    starts: dict[int, int] = {}
    last: int | None = None
    key = _FIRST_IMAGE
    for label, content in images:
        labels = _checked_labels(key, label)
        identity = int(labels[0])
        if identity != last:
            if identity in starts:
                raise DatasetError(
                    f"Image {key}: identity {identity} comes again after identity {last}. Give all images of an "
                    "identity one after the other."
                )
            starts[identity] = key
            last = identity
        _check_content(key, content)
        writer.write(key, labels[0] if isinstance(label, (int, np.integer)) else labels, content)
        key += 1
        if key + len(starts) > MAX_EXACT:
            raise DatasetError(
                f"There are more than {MAX_EXACT} images and identities: the layout names them by float32 numbers, "
                "which are rounded above. Write several files."
            )
    if not starts:
        raise DatasetError("There is no image to write.")
    ends = [*list(starts.values())[1:], key]
    for number, (start, end) in enumerate(zip(starts.values(), ends, strict=True)):
        writer.write(key + number, (float(start), float(end)))
    writer.write_first_anew((float(key), float(key + len(starts))))
    return max(starts) + 1


def _checked_labels(key: int, label: int | Sequence[float]) -> list[float]:
    labels = [float(label)] if isinstance(label, (int, np.integer)) else [float(value) for value in label]
    first = labels[0] if labels else math.nan
    if not 0 <= first <= MAX_EXACT or first % 1 or not all(abs(value) <= _MAX_FLOAT32 for value in labels):
        raise DatasetError(
            f"Image {key}: its label is {label!r}; expected the number of an identity, 0 to {MAX_EXACT}, or several "
            "finite numbers of which the first is one."
        )
    return labels


def _check_content(key: int, content: bytes) -> None:
    if not isinstance(content, bytes) or not content:
        raise DatasetError(f"Image {key}: found {content!r:.40}, expected an encoded image as bytes.")
    if len(content) > MAX_RECORD_BYTES // 2:
        raise DatasetError(f"Image {key} has {len(content)} bytes, at most {MAX_RECORD_BYTES // 2} are written.")


def _payload(key: int, labels: Sequence[float] | float, content: bytes) -> bytes:
    if isinstance(labels, (int, float)):
        return IMAGE_HEAD.pack(0, labels, key, 0) + content
    return IMAGE_HEAD.pack(len(labels), 0.0, key, 0) + np.asarray(labels, dtype="<f4").tobytes() + content


def _framed(payload: bytes) -> bytes:
    """Return a record as it stands in a file: split at each magic that lies at a multiple of four bytes, padded."""
    cuts = []
    at = payload.find(_MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at = payload.find(_MAGIC_BYTES, at + 4 if at % 4 == 0 else at + 1)
    pieces: list[bytes] = []
    start = 0
    for number, end in enumerate([*cuts, len(payload)]):
        kind = WHOLE if not cuts else FIRST if number == 0 else LAST if number == len(cuts) else MIDDLE
        pieces += [PART_HEAD.pack(MAGIC, kind << LENGTH_BITS | end - start), payload[start:end]]
        start = end + len(_MAGIC_BYTES)
    pieces.append(b"\0" * (-len(payload) % 4))
    return b"".join(pieces)


def _encode(pixels: np.ndarray, jpeg_quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if jpeg_quality is None:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=jpeg_quality)
    return buffer.getvalue()
