"""Processes that train together: how they are joined, how they agree and end together, and what asks them to stop."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from interproto_lib.config import TrainConfig
from interproto_lib.devices import resolve_device
from interproto_lib.errors import ConfigError, InterprotoError, RunError, TrainingStoppedError
from interproto_lib.losses.ranks import rank, world_size

STEP_TIMEOUT_SECONDS = 50.0
"""How long the processes wait for one another within a step. One that dies is noticed at once, for its connections
close; this is for a machine that vanishes or hangs."""

LONG_TIMEOUT_SECONDS = 1800.0
"""How long they wait where one may have much to do alone: hashing a dataset, reading or writing a checkpoint."""

TIMEOUT_VARIABLE = "INTERPROTO_TIMEOUT_SECONDS"
"""Environment variable with another number for `STEP_TIMEOUT_SECONDS`."""

Shared = TypeVar("Shared")
_COMMUNICATION = re.compile("gloo|nccl|connection|socket|timed out|timeout|store->get", re.IGNORECASE)
_patient_groups: dict[dist.ProcessGroup, dist.ProcessGroup] = {}


class EndedElsewhereError(RunError):
    """Another process of this training met an error and reports it; this one ends with it."""


@contextmanager
def joined_processes(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; without torchrun, or with one process, there is nothing to join.

    Over gloo on CPUs, over NCCL on GPUs, one GPU a process.

    Args:
        device: The setting `device`.

    Raises:
        ConfigError: There is no such device, or not one for each process.
        RunError: The other processes cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    number = os.environ.get("RANK")
    if number is None:
        raise ConfigError("WORLD_SIZE is set but RANK is not. Start the processes with torchrun, or unset WORLD_SIZE.")
    own = _device_of(device, local_rank=int(os.environ.get("LOCAL_RANK", number)))
    on_gpu = own.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(own)
    timeout = datetime.timedelta(seconds=step_timeout_seconds())
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout, device_id=own if on_gpu else None)
        patient_group()
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"Process {number} cannot reach the others ({_first_line(error)}). Start all of them with "
            "torchrun; on several machines give each the same --rdzv-endpoint and another --node-rank."
        ) from error
    try:
        yield
    except TrainingStoppedError:  # on all of them
        dist.destroy_process_group()
        raise
    # Not after another error: the others may have gone, and leaving NCCL waits for them.
    dist.destroy_process_group()


def leave_at_once(status: int) -> NoReturn:
    """End this process after an error, without what Python does at its end.

    There gloo, whose connections are still open, would abort the process (SIGABRT), and NCCL would wait for processes
    that have gone.

    Args:
        status: The exit status.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def step_timeout_seconds() -> float:
    """Give how long the processes wait for one another within a step.

    Raises:
        ConfigError: The environment variable INTERPROTO_TIMEOUT_SECONDS is no number above 0.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return STEP_TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{TIMEOUT_VARIABLE}={text!r}: must be a number of seconds above 0")
    return seconds


def device_of_rank(name: str) -> torch.device:
    """Give the device that a setting names to this process: on GPUs each process has its own.

    Args:
        name: The setting `device`.

    Raises:
        ConfigError: There is no such device, or not one for each process.
    """
    if world_size() == 1:
        return resolve_device(name)
    return _device_of(name, local_rank=int(os.environ.get("LOCAL_RANK", rank())))


def _device_of(name: str, *, local_rank: int) -> torch.device:
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(f"device={name!r} names one GPU for several processes. Use 'cuda' or 'auto'.")
    n_gpus = torch.cuda.device_count()
    if local_rank >= n_gpus:
        raise ConfigError(
            f"Each process needs a GPU of its own, but this machine has {n_gpus} and process {local_rank + 1} was "
            f"started on it. Start {n_gpus}, or set device='cpu'."
        )
    return torch.device("cuda", local_rank)


def processes_here() -> int:
    """Give how many processes of this training share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def patient_group() -> dist.ProcessGroup | None:
    """Give the group for what may take long and for what lies in main memory: gloo, `LONG_TIMEOUT_SECONDS`.

    The first call makes it, so all processes make that call together.

    Returns:
        The group; None without several processes.
    """
    if world_size() == 1:
        return None
    whole = dist.group.WORLD
    assert whole is not None
    if whole not in _patient_groups:
        timeout = datetime.timedelta(seconds=LONG_TIMEOUT_SECONDS)
        made = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(made, dist.ProcessGroup)
        _patient_groups[whole] = made
    return _patient_groups[whole]


def first_process_says(value: Shared) -> Shared:
    """Give the first process's value to all.

    Args:
        value: A value that pickles; only the first process's counts.
    """
    if world_size() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, group=patient_group(), device=torch.device("cpu"))
    return said[0]


@contextmanager
def ending_together() -> Iterator[None]:
    """Do something on every process; where it fails on one, it fails on all.

    All processes wait for one another at the end of the block, which must not wait for them within.

    Raises:
        EndedElsewhereError: Another process met an error of this library; its own error is raised there.
    """
    found: InterprotoError | None = None
    try:
        yield
    except InterprotoError as error:
        if world_size() == 1:
            raise
        found = error
    if world_size() == 1:
        return
    messages: list[str | None] = [None] * world_size()
    dist.all_gather_object(messages, None if found is None else str(found), group=patient_group())
    failed = [number for number, message in enumerate(messages) if message is not None]
    if failed:
        if found is not None and failed[0] == rank():
            raise found
        raise EndedElsewhereError(f"Process {failed[0]} of {world_size()}: {messages[failed[0]]}")


def raise_together(error: InterprotoError) -> None:
    """Raise an error that all processes have found at the same moment; the first one's is to be read.

    Args:
        error: The error.
    """
    raise error if rank() == 0 else EndedElsewhereError(f"Process 0 of {world_size()}: {error}")


def require_equal(identity: dict[str, Any]) -> None:
    """Refuse processes that were started with different settings or data.

    Args:
        identity: What must be equal, as JSON holds it.

    Raises:
        RunError: They differ.
    """
    if world_size() == 1:
        return
    own = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    first = first_process_says(own)
    with ending_together():
        if first != own:
            raise RunError(
                f"Process {rank()} of {world_size()} was started with other settings or data than process 0. Start all "
                "with the same command, on the same dataset."
            )


def require_whole_parts(config: TrainConfig) -> None:
    """Refuse a number of processes that the parts of a batch cannot be spread over.

    Args:
        config: Settings of the training.

    Raises:
        ConfigError: The number of processes does not divide `batch_parts`.
    """
    n = world_size()
    if config.batch_parts % n:
        raise ConfigError(
            f"batch_parts={config.batch_parts} cannot be spread over {n} processes: set batch_parts={n} or a multiple "
            f"of it (it decides the result, so keep it over all runs that are compared), or start as many processes as "
            "divide it."
        )


def any_process(value: bool, device: torch.device) -> bool:
    """Say whether something holds on any process; all ask together.

    Args:
        value: Whether it holds on this one.
        device: Where the processes' group works.
    """
    if world_size() == 1:
        return value
    flag = torch.tensor(float(value), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Say in plain words that another process has gone, where torch says what its connection did.

    Raises:
        RunError: Another process has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1:
            raise
        if not isinstance(error, dist.DistError) and not _COMMUNICATION.search(str(error)):
            raise
        raise RunError(
            f"Process {rank()} of {world_size()}: another process of this training has ended or does not answer "
            f"({_first_line(error)}). See what that one said last. The same command goes on from the last checkpoint."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()


class StopRequest:
    """SIGTERM, as a batch system sends it before the time is up, turned into a stop that all processes agree on.

    While it is entered, the signal is only noted. `agreed`, asked after each step by all processes, says on all of them
    after the same step whether one of them was told. With several processes it knows one step late: the question goes
    round while the next step is made, and nobody waits for the answer.
    """

    def __init__(self) -> None:
        self._asked = False
        self._flag = torch.zeros(())
        self._question: dist.Work | None = None

    def __enter__(self) -> StopRequest:
        self._handled = threading.current_thread() is threading.main_thread()
        if self._handled:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handled:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Say whether to stop after this step."""
        if world_size() == 1:
            return self._asked
        answer = self.answer()
        self._flag = torch.tensor(float(self._asked))
        self._question = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=patient_group(), async_op=True)
        return answer

    def answer(self) -> bool:
        """Wait for the last answer, at the end of a training."""
        if self._question is None:
            return False
        self._question.wait()
        self._question = None
        return bool(self._flag)
