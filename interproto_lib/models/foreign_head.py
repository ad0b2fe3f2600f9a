"""Prototypes out of the heads of other people's checkpoints, as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from interproto_lib.errors import CheckpointError
from interproto_lib.models.foreign_keys import some
from interproto_lib.models.foreign_tensors import as_float32, find_state_dict, require_plain
from interproto_lib.models.restricted_loading import read_checkpoint

_WRAPPERS = ("state_dict_softmax_fc", "state_dict", "head", "state_dict_head")
_COLUMNS = ("kernel", "head.kernel")
_ROWS = ("weight", "head.weight")


def load_foreign_head(path: str | Path, *, embedding_dim: int | None = None) -> NDArray[np.float32]:
    """Load the prototypes of a classification head of another code, one row an identity.

    Read are the heads of the Inter-Prototype code, InsightFace_Pytorch and AdaFace, whose `kernel` has one column an
    identity and is transposed here, and those of arcface_torch, whose `weight` has one row an identity: a head's own
    file, a checkpoint that has the head beside the backbone, or the single tensor that partial-fc saved. The rows are
    not normalised. arcface_torch on several GPUs leaves one file a GPU, each with a part of the identities: stack them
    in the order of their numbers.

    Args:
        path: The file; nothing in it is run.
        embedding_dim: Length d that a prototype must have; None takes what is there.

    Returns:
        The prototypes, (n, d) float32.

    Raises:
        CheckpointError: The file cannot be read, holds no head or two, or one of another length or with values that
            are not finite or all 0; the message says what was found.
    """
    file = Path(path)
    content = read_checkpoint(file)
    try:
        key, head, transposed = _find_head(content)
        require_plain(key, head)
        if head.ndim != 2 or not head.numel():
            raise CheckpointError(f"holds {key} of shape {tuple(head.shape)}, expected two axes and an identity.")
        n, d = tuple(head.shape)[::-1] if transposed else tuple(head.shape)
        if embedding_dim is not None and d != embedding_dim:
            raise CheckpointError(
                f"holds {key} of shape {tuple(head.shape)}, which is {n} prototypes of length {d}, expected length "
                f"{embedding_dim}: it does not belong to this backbone."
            )
        rows = as_float32(key, head.T if transposed else head).numpy()
        empty = np.flatnonzero(~rows.any(axis=1))
        if len(empty):
            raise CheckpointError(f"holds {len(empty)} prototypes that are all 0, the first is number {empty[0]}.")
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}") from error
    return rows


def _find_head(content: Any) -> tuple[str, Tensor, bool]:
    """Give the name of the head's weights, the weights, and whether its columns are the identities."""
    if isinstance(content, Tensor):
        return "one tensor", content, False
    tensors, _, _ = find_state_dict(content, _WRAPPERS)
    bare = {key.removeprefix("module.").removeprefix("model."): key for key in tensors}
    found = [key for key in (*_COLUMNS, *_ROWS) if key in bare]
    if not found:
        raise CheckpointError(
            f"holds no head: expected {', '.join((*_COLUMNS, *_ROWS))}, found the tensors {some(tensors)}. "
            "A backbone's own file has none; give the file that was saved for the head."
        )
    if len(found) > 1:
        raise CheckpointError(f"holds {len(found)} heads ({', '.join(found)}). Save the one that is meant by itself.")
    return found[0], tensors[bare[found[0]]], found[0] in _COLUMNS
