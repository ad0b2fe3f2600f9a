"""The embeddings of a run as a memory map: opened at once, however many images there are, and read where looked at."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.manifests import read_manifest
from interproto_lib.errors import RunError
from interproto_lib.runs import RunFolder

_LARGEST_HEADER = 1 << 20


def embeddings_path(run: RunFolder) -> Path:
    """The file that holds the embeddings of a run, once there are any."""
    return run.path / "embeddings" / "vectors.safetensors"


def map_embeddings(run: RunFolder) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Open the embeddings of a run without reading them.

    Args:
        run: A finished run.

    Returns:
        (m, d) float32, read-only, and the m rows of the manifest.

    Raises:
        RunError: There are none, or the file is damaged; the message says what to run.
    """
    path = embeddings_path(run)
    again = (
        f"Run notebooks/02_train.ipynb for run {run.name!r} first."
        if run.imported is None
        else "Import the same network into the same folder again: it goes on from there."
    )
    if not path.is_file():
        raise RunError(f"The embeddings of run {run.name!r} are missing: there is no {path}. {again}")
    vectors = _mapped(path, again)
    manifest = read_manifest(path.parent / "manifest.parquet")
    if len(vectors) != len(manifest):
        raise RunError(f"{path} holds {len(vectors)} vectors, its manifest {len(manifest)} rows. {again}")
    return vectors, manifest


def _mapped(path: Path, again: str) -> NDArray[np.float32]:
    """Map the table `vectors` of a safetensors file: 8 bytes length, a JSON header, then the numbers."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LARGEST_HEADER):
                raise ValueError(f"a header of {length} bytes")
            entry = json.loads(file.read(length))["vectors"]
        n, d = map(int, entry["shape"])
        start, stop = map(int, entry["data_offsets"])
        if entry["dtype"] != "F32" or n < 1 or d < 1 or stop - start != 4 * n * d or 8 + length + stop > size:
            raise ValueError(f"{entry} in a file of {size} bytes")
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise RunError(f"{path} is damaged ({error}). {again}") from error
    return np.memmap(path, dtype="<f4", mode="r", offset=8 + length + start, shape=(n, d))
