"""The prototypes of a finished run as one file, gathered from all processes a block at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from interproto_lib.errors import WriteError
from interproto_lib.files import atomic_write
from interproto_lib.losses.ranks import rank, shard_rows, world_size
from interproto_lib.training.processes import ending_together, patient_group

_ROWS_AT_A_TIME = 65536


def write_prototypes(path: Path, rows: Tensor, *, n: int) -> None:
    """Write the whole matrix as `prototypes` of a safetensors file, without ever holding it whole.

    All processes call it; the first one writes, atomically, and all wait until it has. Equal prototypes give equal
    bytes, those that the writer of safetensors itself gives, for any number of processes.

    Args:
        path: The file to write.
        rows: (rows, d) float32, those of this process, as `shard_rows` gives them.
        n: Rows of the whole matrix.

    Raises:
        WriteError: The file cannot be written.
        EndedElsewhereError: The first process cannot write it.
    """
    blocks = _blocks(rows.detach(), n)
    with ending_together():
        try:
            if rank() == 0:
                _write(path, blocks, shape=(n, rows.shape[1]))
            else:
                _exhaust(blocks)
        except WriteError:
            _exhaust(blocks)  # the others are about to send them all
            raise


def _exhaust(blocks: Iterator[Tensor]) -> None:
    for _ in blocks:
        pass


def _write(path: Path, blocks: Iterator[Tensor], *, shape: tuple[int, int]) -> None:
    header = {"prototypes": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            file.write(np.ascontiguousarray(block.numpy(), dtype="<f4").data)


def _blocks(rows: Tensor, n: int) -> Iterator[Tensor]:
    """In the first process, all rows in order, in main memory; the others send theirs on the way and get nothing."""
    for owner in range(world_size()):
        held = shard_rows(n, world_size(), owner)
        for start in range(0, len(held), _ROWS_AT_A_TIME):
            size = min(_ROWS_AT_A_TIME, len(held) - start)
            if owner == rank():
                block = rows[start : start + size].cpu().contiguous()
                if rank() == 0:
                    yield block
                else:
                    dist.send(block, dst=0, group=patient_group())
            elif rank() == 0:
                block = torch.empty(size, rows.shape[1])
                dist.recv(block, src=owner, group=patient_group())
                yield block
