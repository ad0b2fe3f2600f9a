"""Publishing protocols: a table as CSV, and beside it a JSON that holds its SHA-256 and how it came about."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interproto_lib.data.identification_sets import IDENTIFICATION_COLUMNS, IdentificationSet
from interproto_lib.data.test_sets import ImageSource, VerificationSet
from interproto_lib.errors import DatasetError, DatasetNotFoundError
from interproto_lib.files import atomic_write, write_json

FORMAT_VERSION = 1
PUBLISHED_PAIR_COLUMNS = (
    *("same", "left", "right"),
    *("left_identity", "right_identity", "left_age_years", "right_age_years"),
)
"""Columns of a published list of pairs: whether they show one person, the two paths, and what is known of each."""


def write_identification_set(identification: IdentificationSet, path: str | Path) -> None:
    """Publish an identification set: its images as CSV, and beside it a JSON with hash, rule and settings.

    Args:
        identification: The set.
        path: The file to write, ending in .csv: columns `IDENTIFICATION_COLUMNS`, probes first. The JSON has the same
            name with .json. Both are written atomically.

    Raises:
        DatasetError: `path` does not end in .csv.
        WriteError: A file cannot be written.
    """
    about = {
        "rule": identification.rule,
        "settings": identification.settings,
        "n_probes": len(identification.probes),
        "n_gallery": len(identification.gallery),
    }
    _publish(path, identification.csv_text, protocol="identification", name=identification.name, about=about)


def read_identification_set(path: str | Path) -> IdentificationSet:
    """Read a published identification set.

    Args:
        path: The CSV; its JSON lies beside it.

    Returns:
        The set, probes first, then the gallery, in the order of the file.

    Raises:
        DatasetNotFoundError: The CSV or its JSON is missing.
        DatasetError: The CSV is not the one that was published (its SHA-256 is another), or is none of probes and
            gallery.
    """
    rows, about = _read(path, protocol="identification", columns=IDENTIFICATION_COLUMNS, keys=("rule", "settings"))
    roles = np.array([row[0] for row in rows], dtype=object)
    for line, role in enumerate(roles, start=2):
        if role not in ("probe", "gallery"):
            raise DatasetError(f"{path}, line {line}: {role!r} is not a role; a role is probe or gallery.")
    images = pd.DataFrame(
        {
            "path": [row[1] for row in rows],
            "identity": [row[2] for row in rows],
            "age_years": [_age(row[3], path) for row in rows],
        }
    )
    return IdentificationSet(
        name=about["name"],
        images=images,
        probes=np.flatnonzero(roles == "probe").astype(np.int64),
        gallery=np.flatnonzero(roles == "gallery").astype(np.int64),
        rule=about["rule"],
        settings=about["settings"],
    )


def write_verification_set(verification_set: VerificationSet, path: str | Path) -> None:
    """Publish pairs: as CSV, and beside it a JSON with its hash.

    The official line format, `<1|0> <left> <right>`, is ambiguous where a name holds a blank; CSV is not.

    Args:
        verification_set: The pairs.
        path: The file to write, ending in .csv: columns `PUBLISHED_PAIR_COLUMNS`, one line a pair, `same` 1 or 0,
            unknown identities and ages empty. The JSON has the same name with .json. Both are written atomically.

    Raises:
        DatasetError: `path` does not end in .csv.
        WriteError: A file cannot be written.
    """
    images, pairs = verification_set.images, verification_set.pairs
    known = images["identity"].notna().to_numpy(dtype=bool)
    paths = images["path"].tolist()
    identities = [str(name) if there else "" for name, there in zip(images["identity"], known, strict=True)]
    ages = ["" if math.isnan(age) else repr(float(age)) for age in images["age_years"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PUBLISHED_PAIR_COLUMNS)
    for left, right, same in zip(pairs["left"], pairs["right"], pairs["same"], strict=True):
        of_images = [column[side] for column in (paths, identities, ages) for side in (left, right)]
        writer.writerow([int(same), *of_images])
    about = {
        "protocol_sha256": verification_set.sha256,
        "n_pairs": len(pairs),
        "n_positives": int(pairs["same"].sum()),
    }
    _publish(path, text.getvalue(), protocol="verification", name=verification_set.name, about=about)


def read_verification_set(path: str | Path, source: ImageSource) -> VerificationSet:
    """Read published pairs.

    Args:
        path: The CSV; its JSON lies beside it.
        source: Where the images are read from.

    Returns:
        The pairs in the order of the file; images in the order in which they first come.

    Raises:
        DatasetNotFoundError: The CSV or its JSON is missing.
        DatasetError: The CSV is not the one that was published (its SHA-256 is another), or is no list of pairs.
    """
    rows, about = _read(path, protocol="verification", columns=PUBLISHED_PAIR_COLUMNS)
    found: dict[str, tuple[str, str]] = {}
    pairs: dict[str, list[Any]] = {"left": [], "right": [], "same": []}
    positions: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        if row[0] not in ("0", "1"):
            raise DatasetError(f"{path}, line {line}: same is {row[0]!r}; expected 1 or 0.")
        pairs["same"].append(row[0] == "1")
        for number, side in enumerate(("left", "right"), start=1):
            image, known = row[number], (row[number + 2], row[number + 4])
            if found.setdefault(image, known) != known:
                raise DatasetError(f"{path}, line {line}: {image!r} has another identity or age than in a line before.")
            pairs[side].append(positions.setdefault(image, len(positions)))
    images = pd.DataFrame(
        {
            "path": list(found),
            "identity": pd.Series([name or None for name, _ in found.values()], dtype="str"),
            "age_years": [_age(age, path) for _, age in found.values()],
        }
    )
    return VerificationSet(name=about["name"], images=images, pairs=pd.DataFrame(pairs), source=source)


def _publish(path: str | Path, text: str, *, protocol: str, name: str, about: dict[str, Any]) -> None:
    file = Path(path)
    if file.suffix != ".csv":
        raise DatasetError(f"{file} ends in {file.suffix or 'nothing'}; a protocol is published as .csv.")
    content = text.encode("utf-8")
    with atomic_write(file) as temporary:
        temporary.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    header = {"format_version": FORMAT_VERSION, "protocol": protocol, "name": name, "sha256": digest}
    write_json(file.with_suffix(".json"), header | about)


def _read(
    path: str | Path, *, protocol: str, columns: tuple[str, ...], keys: tuple[str, ...] = ()
) -> tuple[list[list[str]], dict[str, Any]]:
    file = Path(path)
    beside = file.with_suffix(".json")
    for there in (file, beside):
        if not there.is_file():
            raise DatasetNotFoundError(
                f"There is no {there}; a protocol is published as two files, {file.name} and {beside.name}."
            )
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{beside} is not readable JSON: {error}.") from error
    expected = {"format_version": FORMAT_VERSION, "protocol": protocol}
    found = {key: about.get(key) for key in expected} if isinstance(about, dict) else about
    if found != expected:
        raise DatasetError(f"{beside} describes {found}; expected {expected}.")
    lacking = [key for key in ("name", "sha256", *keys) if key not in about]
    if lacking:
        raise DatasetError(f"{beside} lacks {', '.join(lacking)}.")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != about["sha256"]:
        raise DatasetError(
            f"{file} has changed since it was published: SHA-256 {digest}, {beside.name} says {about['sha256']}. "
            "Take the published file, or make and publish the protocol again."
        )
    rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))
    if not rows or tuple(rows[0]) != columns or any(len(row) != len(columns) for row in rows):
        raise DatasetError(f"{file} is no table of the columns {', '.join(columns)}.")
    return rows[1:], about


def _age(text: str, path: str | Path) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise DatasetError(f"{path}: {text!r} is not an age.") from error
