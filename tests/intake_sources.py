"""Small sources in the true formats, each written from its published description and not with the library."""

from __future__ import annotations

import io
import pickle
import random
import struct
from pathlib import Path

import numpy as np
from PIL import Image

N_CASIA = 26
"""Images of `casia`: 12, 4, 5 and 5 of four people."""


def jpeg(seed: int, *, size: tuple[int, int] = (112, 112), encoding: str = "JPEG") -> bytes:
    """An encoded picture, different for each seed, that compresses as a photograph does."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, encoding)
    return buffer.getvalue()


def put(root: Path, path: str, content: bytes) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def casia_paths() -> list[tuple[int, int]]:
    """Identity and image number of every image: 12, 4, 5 and 5 images of four people."""
    owners = [0] * 12 + [1] * 4 + [2] * 5 + [3] * 5
    return [(identity, number) for number, identity in enumerate(owners, start=1)]


def casia(root: Path, *, labels: Path | None = None) -> None:
    """Folders as the RecordIO export of CASIA-WebFace has them, ids of 6 digits and files of 8; and the age labels.

    The labels write the ids without zeros, as MTLFace's do in places. Person 0 has 11 child images and one without a
    label, person 1 three child images.
    """
    for identity, number in casia_paths():
        put(root, f"{identity:06d}/{number:08d}.jpg", jpeg(number))
    if labels is not None:
        lines = []
        for identity, number in casia_paths():
            age = 7.0 if number <= 11 else 12.0 if number in (13, 14, 15) else 34.0
            if number != 12:
                lines.append(f"{identity} casia-webface/{identity}/{number}.jpg {age} 1\n")
        labels.write_text("".join(lines), encoding="utf-8")


def agedb(root: Path) -> None:
    ages = {"JaneDoe": (9, 11, 40), "JörgÄrmel": (35, 61), "MaxMuster": (12, 13)}
    index = 0
    for name, of_name in ages.items():
        for age in of_name:
            put(root, f"{name}/{index}_{name}_{age}.jpg", jpeg(index))
            index += 1


def fgnet(root: Path) -> None:
    for seed, name in enumerate(("001A02.JPG", "001A28.JPG", "002A07a.JPG", "002A07b.JPG", "010A45.JPG")):
        put(root, name, jpeg(seed))


def lag(root: Path) -> None:
    for seed, path in enumerate(("1/y/a.jpg", "1/y/b c.jpg", "1/old.jpg", "2/y/a.jpg", "2/old.jpg")):
        put(root, path, jpeg(seed))


def recordio(folder: Path) -> None:
    """The images of `casia` as train.rec, train.idx and property, with identity ranges and scalar labels."""
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted({identity for identity, _ in casia_paths()})
    numbers = {identity: [n for i, n in casia_paths() if i == identity] for identity in order}
    n_images = len(casia_paths())
    payloads = {0: struct.pack("<IfQQ2f", 2, 0.0, 0, 0, n_images + 1, n_images + 1 + len(order))}
    for identity, number in casia_paths():
        payloads[number] = struct.pack("<IfQQ", 0, float(order.index(identity)), number, 0) + jpeg(number)
    for label, identity in enumerate(order):
        first, last = numbers[identity][0], numbers[identity][-1]
        key = n_images + 1 + label
        payloads[key] = struct.pack("<IfQQ2f", 2, float(label), key, 0, first, last + 1)
    index = []
    with (folder / "train.rec").open("wb") as handle:
        for key, payload in payloads.items():
            index.append(f"{key}\t{handle.tell()}\n")
            assert struct.pack("<I", 0xCED7230A) not in payload  # such a record would have to be split
            handle.write(struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4))
    (folder / "train.idx").write_text("".join(index))
    (folder / "property").write_text(f"{len(order)},112,112")


def verification_bin(file: Path, *, n_pairs: int = 6, size: tuple[int, int] = (112, 112)) -> None:
    images = [jpeg(seed, size=size) for seed in range(2 * n_pairs)]
    file.write_bytes(pickle.dumps((images, [number % 2 == 0 for number in range(n_pairs)]), protocol=2))


def att_like(root: Path, *, people: int = 8, images: int = 3) -> None:
    """Grey 92 x 112 PGM, as the AT&T faces are."""
    draw = random.Random(0)
    for person in range(1, people + 1):
        for number in range(1, images + 1):
            put(root, f"s{person}/{number}.pgm", b"P5\n92 112\n255\n" + draw.randbytes(92 * 112))
