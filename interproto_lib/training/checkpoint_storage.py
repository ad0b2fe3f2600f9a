"""Files of a checkpoint for `torch.distributed.checkpoint`: one safetensors file a process, nothing pickled.

`torch.distributed.checkpoint` plans which process writes and reads which block of which tensor, whatever their
numbers are. Its own storage keeps that plan as a pickle, which runs what it likes when it is read, and has no
checksums; here the plan is JSON and each file has one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from interproto_lib.errors import CheckpointError, WriteError
from interproto_lib.files import atomic_write
from interproto_lib.training.checkpoint_record import (
    CheckpointRecord,
    Chunk,
    StoredFile,
    StoredTensor,
    write_record,
)

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Types that a checkpoint holds: torch's name -> that of safetensors."""

_BLOCK_BYTES = 16 * 2**20
"""How much is copied from the device, hashed and written at once."""


class ShardWriter(StorageWriter):
    """Writes a checkpoint: each process a file of its blocks, then the first process the record.

    Args:
        folder: The folder of the checkpoint; what it held before is removed.
        values: Single numbers to keep in the record.
    """

    def __init__(self, folder: Path, values: dict[str, int | float]) -> None:
        self._folder = folder
        self._values = values

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two checkpoints.

        Args:
            checkpoint_id: Unused; the folder is known.
        """

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make the folder, in the first process.

        Args:
            is_coordinator: Whether this is the first process.
            args: Unused.
            kwargs: Unused.
        """
        if not is_coordinator:
            return
        try:
            if self._folder.exists():
                shutil.rmtree(self._folder)
            self._folder.mkdir(parents=True)
        except OSError as error:
            raise WriteError(f"Cannot write {self._folder}: {error.strerror}. Choose another place.") from error

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Leave out the empty share of a process that has no rows of a tensor.

        Args:
            plan: What this process holds.
        """
        kept = [item for item in plan.items if item.type != WriteItemType.SHARD or _n_bytes(item)]
        return dataclasses.replace(plan, items=kept)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name the file of each process.

        Args:
            plans: What each process writes.
        """
        names = (f"part-{number:05d}.safetensors" for number in range(len(plans)))
        return [dataclasses.replace(plan, storage_data=name) for plan, name in zip(plans, names, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the file of this process.

        Args:
            plan: The blocks it writes.
            planner: Gives their numbers.

        Returns:
            A finished future of one result a block, each with the file's name, size and checksum.

        Raises:
            WriteError: The file cannot be written.
        """
        results: list[WriteResult] = []
        if plan.items:
            # Long types first, so that each tensor begins at a multiple of its type's size.
            items = sorted(plan.items, key=lambda item: (-_dtype(item).itemsize, item.index.fqn))
            stored = _write_shard(self._folder / plan.storage_data, items, planner)
            results = [WriteResult(item.index, _n_bytes(item), (plan.storage_data, stored)) for item in items]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the record, in the first process, when all files are there.

        Args:
            metadata: Types and shapes of the tensors.
            results: What each process wrote.

        Raises:
            WriteError: The record cannot be written, or the file of another process is not there.
        """
        files: dict[str, StoredFile] = {}
        file_of: dict[MetadataIndex, str] = {}
        for result in (result for of_process in results for result in of_process):
            file_of[result.index], files[file_of[result.index]] = result.storage_data
        for name, stored in files.items():
            path = self._folder / name
            if not path.is_file() or path.stat().st_size != stored.n_bytes:
                raise WriteError(
                    f"The first process does not find {path} as another process wrote it. "
                    "Give a run folder that all machines share."
                )
        tensors = {}
        for name, of in metadata.state_dict_metadata.items():
            assert isinstance(of, TensorStorageMetadata), "only tensors are saved"
            chunks = [
                Chunk(file_of[MetadataIndex(name, c.offsets)], tuple(c.offsets), tuple(c.sizes)) for c in of.chunks
            ]
            tensors[name] = StoredTensor(_name(of.properties.dtype), tuple(of.size), tuple(chunks))
        sync_folder(self._folder)
        write_record(self._folder, CheckpointRecord(self._values, tensors, files))
        sync_folder(self._folder)
        sync_folder(self._folder.parent)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Say that this storage takes no names of its own.

        Args:
            checkpoint_id: The name.
        """
        return False


class ShardReader(StorageReader):
    """Reads a checkpoint that `ShardWriter` wrote, in as many processes as there are.

    Args:
        folder: The folder of the checkpoint.
        record: Its record; the files are taken to be whole.
    """

    def __init__(self, folder: Path, record: CheckpointRecord) -> None:
        self._folder = folder
        self._record = record

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two checkpoints.

        Args:
            checkpoint_id: Unused; the folder is known.
        """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Give what the checkpoint holds, from its record.

        Args:
            args: Unused.
            kwargs: Unused.
        """
        tensors, files = {}, {}
        for name, tensor in self._record.tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(c.start), torch.Size(c.shape)) for c in tensor.chunks]
            properties = TensorProperties(dtype=getattr(torch, tensor.dtype))
            tensors[name] = TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)
            files.update({MetadataIndex(name, chunk.start): chunk.file for chunk in tensor.chunks})
        return Metadata(dict(tensors), storage_data=files)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Remember where each block is.

        Args:
            metadata: What the checkpoint holds.
            is_coordinator: Unused.
            args: Unused.
            kwargs: Unused.
        """
        self._files: dict[MetadataIndex, str] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Leave the plan of a process as it is.

        Args:
            plan: The blocks to read.
        """
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Leave the plans of all processes as they are.

        Args:
            plans: The blocks to read.
        """
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the blocks of this process into the tensors that it has for them.

        Args:
            plan: The blocks to read.
            planner: Gives the tensors.

        Returns:
            A finished future.

        Raises:
            CheckpointError: A file does not hold what the record says.
        """
        of_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            of_file[self._files[item.storage_index]].append(item)
        for name, items in of_file.items():
            try:
                with safe_open(self._folder / name, framework="pt", device="cpu") as opened:
                    for item in items:
                        _read_block(opened, item, planner)
            except (SafetensorError, OSError, ValueError, RuntimeError, IndexError) as error:
                raise CheckpointError(f"{self._folder / name} does not hold what it should ({error}).") from error
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Say that this storage takes no names of its own.

        Args:
            checkpoint_id: The name.
        """
        return False


def sync_folder(folder: Path) -> None:
    """Make sure that what a folder lists is on the disk.

    Args:
        folder: The folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_shard(path: Path, items: list[WriteItem], planner: SavePlanner) -> StoredFile:
    header, end = {}, 0
    for item in items:
        span = [end, end := end + _n_bytes(item)]
        header[item.index.fqn] = {"dtype": DTYPES[_name(_dtype(item))], "shape": _shape(item), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    n_bytes = 0
    with atomic_write(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(1) as beside:
        for block in _blocks(text, items, planner):
            hashed = beside.submit(digest.update, block)
            file.write(block)
            hashed.result()
            n_bytes += len(block)
    return StoredFile(n_bytes, digest.hexdigest())


def _blocks(header: bytes, items: list[WriteItem], planner: SavePlanner) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file in turn, with one block of a tensor on the CPU at a time."""
    yield len(header).to_bytes(8, "little") + header
    for item in items:
        data = planner.resolve_data(item)
        if not isinstance(data, Tensor):
            raise CheckpointError(f"{item.index.fqn} is no tensor.")
        rows = data.detach()
        rows = rows.unsqueeze(0) if rows.dim() == 0 else rows
        if rows.numel() == 0:
            continue
        for part in rows.split(_rows_of_a_block(rows)):
            whole = part.contiguous().cpu()
            # A single number may have any stride; bytes may not.
            yield memoryview(whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy())


def _read_block(opened: Any, item: ReadItem, planner: LoadPlanner) -> None:
    """Read a part of a stored block, some rows at a time."""
    target = planner.resolve_tensor(item).detach()
    name = item.storage_index.fqn
    if target.dim() == 0:
        target.copy_(opened.get_tensor(name))
    elif target.numel():
        found = opened.get_slice(name)
        first, *others = (slice(at, at + n) for at, n in zip(item.storage_offsets, item.lengths, strict=True))
        at = first.start
        for part in target.split(_rows_of_a_block(target)):
            read = found[(slice(at, at + len(part)), *others)]
            if read.shape != part.shape or read.dtype != part.dtype:
                raise ValueError(
                    f"{name} is {read.dtype} {tuple(read.shape)}, expected {part.dtype} {tuple(part.shape)}"
                )
            part.copy_(read)
            at += len(part)
    planner.commit_tensor(item, target)


def _rows_of_a_block(tensor: Tensor) -> int:
    return max(1, _BLOCK_BYTES * len(tensor) // max(1, tensor.numel() * tensor.element_size()))


def _shape(item: WriteItem) -> tuple[int, ...]:
    assert item.tensor_data is not None, "only tensors are saved"
    return tuple(item.tensor_data.chunk.sizes)


def _dtype(item: WriteItem) -> torch.dtype:
    assert item.tensor_data is not None, "only tensors are saved"
    return item.tensor_data.properties.dtype


def _n_bytes(item: WriteItem) -> int:
    return math.prod(_shape(item)) * _dtype(item).itemsize


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
