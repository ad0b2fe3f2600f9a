"""Prototypes in the plane, kept in the run's folder: a projection takes from seconds to minutes."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import unit_prototypes
from interproto_lib.analysis.projection import project_prototypes
from interproto_lib.errors import WriteError
from interproto_lib.files import write_arrays


def kept_projection(
    folder: str | Path,
    prototypes: NDArray[np.floating],
    *,
    method: str = "tsne",
    seed: int = 0,
    n_threads: int | None = None,
) -> NDArray[np.float32]:
    """Place prototypes in the plane, or read the places that were kept.

    They are kept in `projections/<method>-s<seed>.safetensors`, with a hash of the directions that they were made from:
    others, fewer, or the same in another order are projected anew. A damaged file, which its checksum shows, is made
    anew; a change of the library's projections is not noticed, so remove the folder then. Where the folder cannot
    be written, a warning says that the places are not kept.

    Args:
        folder: The run's folder.
        prototypes: (n, d), any length above 0: only directions count.
        method: `tsne` or `umap`, see `project_prototypes`.
        seed: Of the projection.
        n_threads: Threads; None takes those torch and OpenMP are set to.

    Returns:
        (n, 2) float32, row i for prototype i.

    Raises:
        ConfigError: They cannot be projected in this way.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    unit = _directions(prototypes)
    made_from = _hash(unit)
    path = Path(folder) / "projections" / f"{method}-s{seed}.safetensors"
    if path.is_file():
        try:
            kept = load_file(path)
            points, found = kept["points"], (kept["made_from"].tobytes(), kept["checksum"].tobytes())
            if found == (made_from, _hash(points)) and points.shape == (len(unit), 2):
                return points
        except (SafetensorError, KeyError, OSError):
            pass  # damaged: made anew
    points = project_prototypes(unit, method=method, seed=seed, n_threads=n_threads)
    try:
        proofs = {"made_from": made_from, "checksum": _hash(points)}
        of_bytes = {name: np.frombuffer(proof, dtype=np.uint8) for name, proof in proofs.items()}
        write_arrays(path, {"points": points, **of_bytes})
    except WriteError as problem:
        warnings.warn(f"The places of the prototypes are not kept. {problem}", stacklevel=2)
    return points


def _directions(prototypes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Unit rows in float32; those that are so already stay as they are, to the last bit."""
    if prototypes.dtype == np.float32 and (np.abs(np.vecdot(prototypes, prototypes) - 1) < 1e-5).all():
        return np.ascontiguousarray(prototypes)
    return unit_prototypes(prototypes).astype(np.float32)


def _hash(values: NDArray[np.floating]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()
