"""The whole state of a training on disk: in shards that any number of processes writes and any number reads."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from interproto_lib.errors import CheckpointError, InterprotoError, WriteError
from interproto_lib.losses.ranks import rank, world_size
from interproto_lib.training.checkpoint_record import (
    RECORD_FILE,
    CheckpointRecord,
    StoredTensor,
    find_damage,
    read_record,
)
from interproto_lib.training.processes import first_process_says, patient_group, raise_together

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

CHECKPOINT_FOLDER = "checkpoints"
"""Name of the folder in that of a run."""

_WINDOW = "window"
_STEP_FOLDER = re.compile(r"step-(\d{8,})")

T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class TrainingState:
    """What a run needs beside its networks and optimisers to go on as if it had never stopped.

    Attributes:
        step: Steps made since the start; epoch and place in the epoch follow from it.
        window: Sums of the losses since the last logged row, so that the next row is the same; on the CPU when loaded.
        window_steps: Steps they were summed over.
        seconds: Seconds of training so far.
    """

    step: int
    window: Tensor
    window_steps: int
    seconds: float


class CheckpointStore:
    """The checkpoints of one training: `<folder>/step-00001234/`, each with one file a process and a record of all.

    A checkpoint counts once its record is there, which is written last; what a killed writer left is removed by the
    next one. The record has the SHA-256 of every file and of itself, and each is compared before a number is used.
    Nothing in a checkpoint is pickled.

    All processes of a job call every method, and find the folder on a file system that they share. Tensors named in
    `sharded` are split by rows over the processes; of all others each process holds the same numbers, and they are
    written once. The optimisers' state of a parameter is split as the parameter is. A checkpoint may be read by
    another number of processes than wrote it. The processes wait for one another in the patient group alone: one may
    take long to write, to read or to compare what others have done in a moment.

    Args:
        folder: Where the checkpoints are; made when the first is written.
        networks: Whose parameters and buffers to save.
        optimizers: Whose state to save, by name; each of their parameters belongs to `networks`.
        sharded: Parameters of `networks` that are split over the processes where there are several, with their number
            of rows over all. Each process holds the rows that `torch.chunk` would give it.
        keep: How many checkpoints are kept, at least 1.
        say: Told in one line, in the first process, when a damaged checkpoint is passed over.
    """

    def __init__(
        self,
        folder: Path,
        networks: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        *,
        sharded: Mapping[str, int] | None = None,
        keep: int = 2,
        say: Callable[[str], object] = print,
    ) -> None:
        self.folder = folder
        self.passed_over: list[str] = []
        """Damaged checkpoints that the last `load_newest` found, each with what is wrong."""
        self._networks = networks
        self._optimizers = optimizers
        self._sharded = dict(sharded or {})
        self._keep = keep
        self._say = say
        self._saved_step: int | None = None
        self._mesh: DeviceMesh | None = None

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint, whole or damaged; None where there is none."""
        return next(iter(_checkpoints(self.folder)), None)

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, then remove all but the newest.

        Args:
            state: The state; equal in all processes.

        Raises:
            WriteError: It cannot be written by some process; earlier checkpoints are kept, and nothing is left of it.
        """
        if state.step != self._saved_step:
            with _said_once():
                self._save(state)
            self._saved_step = state.step

    def load_newest(self) -> TrainingState | None:
        """Put networks and optimisers to where the newest whole checkpoint was made.

        Returns:
            The rest of the state; None where there is no checkpoint.

        Raises:
            CheckpointError: All checkpoints are damaged, or the newest whole one is of other networks.
        """
        with _said_once():
            return self._load_newest()

    def _save(self, state: TrainingState) -> None:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.api import CheckpointException

        from interproto_lib.training.checkpoint_storage import ShardWriter

        target = self.folder / f"step-{state.step:08d}"
        values = {"step": state.step, "window_steps": state.window_steps, "seconds": state.seconds}
        tensors = {**self._network_tensors(), **self._optimizer_tensors(), _WINDOW: state.window.detach()}
        try:
            with _quietly():
                checkpoint.save(
                    {name: self._placed(name, tensor) for name, tensor in tensors.items()},
                    storage_writer=ShardWriter(target, values),
                    planner=checkpoint.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                    process_group=patient_group(),
                    no_dist=world_size() == 1,
                )
        except CheckpointException as failure:
            in_first_process(lambda: shutil.rmtree(target, ignore_errors=True))
            raise _cause(failure) from failure
        in_first_process(lambda: _remove_others(self.folder, state.step, keep=self._keep))

    def _load_newest(self) -> TrainingState | None:
        self.passed_over = []
        found = in_first_process(lambda: _checkpoints(self.folder))
        for folder in found:
            try:
                record = in_first_process(partial(read_record, folder))
                _require_whole(folder, record)
            except CheckpointError as damage:
                self.passed_over.append(str(damage))
                continue
            if self.passed_over and rank() == 0:
                self._say(f"{'; '.join(self.passed_over)}. The run goes on from {folder.name}, which is whole.")
            return self._load(folder, record)
        if found:
            raise CheckpointError(
                f"No checkpoint in {self.folder} is whole: {'; '.join(self.passed_over)}. "
                "Remove that folder to train from the start."
            )
        return None

    def _load(self, folder: Path, record: CheckpointRecord) -> TrainingState:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.api import CheckpointException

        from interproto_lib.training.checkpoint_storage import ShardReader

        networks = self._network_tensors()
        try:
            states = self._empty_optimizer_tensors(record)
            window = _empty(record.tensors[_WINDOW])
            tensors = {**networks, **states, _WINDOW: window}
            _require_same_names(record, tensors)
            placed = {name: self._placed(name, tensor) for name, tensor in tensors.items()}
            for name, tensor in placed.items():
                _require_same_form(name, record.tensors[name], tensor)
            step, window_steps = int(record.values["step"]), int(record.values["window_steps"])
            seconds = float(record.values["seconds"])
        except (KeyError, ValueError, RuntimeError) as error:
            reason = f"without {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(
                f"{folder} is of another training ({reason}). Remove {self.folder} to train from the start."
            ) from error
        try:
            with _quietly():
                checkpoint.load(
                    placed,
                    storage_reader=ShardReader(folder, record),
                    planner=checkpoint.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                    process_group=patient_group(),
                    no_dist=world_size() == 1,
                )
        except CheckpointException as failure:
            raise _cause(failure) from failure
        # Parameters and buffers were read in place; what a module keeps otherwise is handed to it.
        self._networks.load_state_dict({name.partition("/")[2]: tensor for name, tensor in networks.items()})
        self._put_optimizer_tensors(states)
        self._saved_step = step
        return TrainingState(step=step, window=window, window_steps=window_steps, seconds=seconds)

    def _network_tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, value in self._networks.state_dict().items():
            if not isinstance(value, Tensor):
                raise CheckpointError(f"The networks keep {name}, a {type(value).__name__}, expected a tensor.")
            tensors[f"network/{name}"] = value.detach()
        return tensors

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for prefix, parameter, optimizer in self._optimised():
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}/{name}"] = value.detach()
                elif value is not None:
                    raise CheckpointError(
                        f"The optimiser keeps {name}, a {type(value).__name__}; only tensors are saved."
                    )
        return tensors

    def _optimised(self) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
        """Yield the parameters in the order in which their optimiser numbers them, with what their state goes by."""
        names = {id(parameter): name for name, parameter in self._networks.named_parameters()}
        for of, optimizer in self._optimizers.items():
            for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
                yield f"optimizer/{of}/{names[id(parameter)]}", parameter, optimizer

    def _empty_optimizer_tensors(self, record: CheckpointRecord) -> dict[str, Tensor]:
        """Make room for the state of the optimisers, which have none before their first step."""
        tensors = {}
        parameters = {prefix: parameter for prefix, parameter, _ in self._optimised()}
        for name, stored in record.tensors.items():
            if name.startswith("optimizer/"):
                prefix = name.rpartition("/")[0]
                if prefix not in parameters:
                    raise ValueError(f"with {name}")
                parameter = parameters[prefix].detach()
                is_like_it = stored.shape == self._whole_shape(prefix.rpartition("/")[2], parameter)
                dtype = _dtype(stored)
                tensors[name] = torch.empty_like(parameter, dtype=dtype) if is_like_it else _empty(stored)
        return tensors

    def _put_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        of_prefix: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            prefix, _, key = name.rpartition("/")
            of_prefix.setdefault(prefix, {})[key] = tensor
        for optimizer in self._optimizers.values():
            numbered = enumerate(prefix for prefix, _, owner in self._optimised() if owner is optimizer)
            state = {number: of_prefix[prefix] for number, prefix in numbered if prefix in of_prefix}
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _whole_shape(self, parameter_name: str, parameter: Tensor) -> tuple[int, ...]:
        n_rows = self._sharded.get(parameter_name)
        return tuple(parameter.shape) if n_rows is None else (n_rows, *parameter.shape[1:])

    def _placed(self, name: str, tensor: Tensor) -> Tensor:
        """Give a tensor as `torch.distributed.checkpoint` wants it: of a split one, which rows these are."""
        kind, _, rest = name.partition("/")
        parameter = rest if kind == "network" else rest.partition("/")[2].rpartition("/")[0]
        if parameter not in self._sharded or tensor.dim() == 0 or world_size() == 1:
            return tensor
        return self._as_rows(tensor, self._sharded[parameter])

    def _as_rows(self, rows: Tensor, n_rows: int) -> DTensor:
        """Say of the rows of this process that they are a part of a tensor of `n_rows`."""
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Shard

        if self._mesh is None:
            group = patient_group()
            assert group is not None
            self._mesh = DeviceMesh.from_group(group, rows.device.type)
        shape = torch.Size((n_rows, *rows.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(rows, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def in_first_process(call: Callable[[], T]) -> T:
    """Call something in the first process and give its result, or raise its error, in all.

    Args:
        call: What to call; its result or error is sent to the others.
    """
    outcome: Any = None
    if rank() == 0:
        try:
            outcome = call(), None
        except Exception as raised:
            outcome = None, raised
    result, error = first_process_says(outcome)
    if error is not None:
        raise error
    return cast(T, result)


def _require_whole(folder: Path, record: CheckpointRecord) -> None:
    """Compare the files with their checksums, each in one of the processes.

    Raises:
        CheckpointError: One is damaged; in all processes.
    """
    names = sorted(record.files)[rank() :: world_size()]
    damages = [find_damage(folder, {name: record.files[name] for name in names})]
    if world_size() > 1:
        mine, damages = damages[0], [None] * world_size()
        torch.distributed.all_gather_object(damages, mine, group=patient_group())
    damage = next((found for found in damages if found is not None), None)
    if damage is not None:
        raise CheckpointError(f"{folder} is damaged ({damage})")


def _checkpoints(folder: Path) -> list[Path]:
    """Folders of checkpoints that were finished, the newest first."""
    return [path for _, path in _steps(folder) if (path / RECORD_FILE).is_file()]


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Folders of checkpoints with their steps, the newest first, finished or not."""
    paths = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    named = [(_STEP_FOLDER.fullmatch(path.name), path) for path in paths]
    return sorted(((int(name[1]), path) for name, path in named if name is not None), reverse=True)


def _remove_others(folder: Path, step: int, *, keep: int) -> None:
    """Remove all but the newest checkpoints up to a step; those of later steps are damaged, or it would not be here."""
    finished = set(_checkpoints(folder))
    kept = [path for of_step, path in _steps(folder) if path in finished and of_step <= step][:keep]
    for _, path in _steps(folder):
        if path not in kept:
            try:
                (path / RECORD_FILE).unlink(missing_ok=True)  # first of all, so that half of one never counts
                shutil.rmtree(path)
            except OSError as error:
                raise WriteError(f"Cannot remove the old checkpoint {path}: {error.strerror}.") from error


def _require_same_names(record: CheckpointRecord, tensors: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(tensors) - set(record.tensors)), sorted(set(record.tensors) - set(tensors))
    if missing or unknown:
        raise ValueError(f"without {missing[0]}" if missing else f"with {unknown[0]}")


def _require_same_form(name: str, stored: StoredTensor, wanted: Tensor) -> None:
    if stored.shape != tuple(wanted.shape) or _dtype(stored) != wanted.dtype:
        raise ValueError(
            f"{name} is {stored.dtype} {stored.shape}, expected "
            f"{str(wanted.dtype).removeprefix('torch.')} {tuple(wanted.shape)}"
        )


def _dtype(stored: StoredTensor) -> torch.dtype:
    from interproto_lib.training.checkpoint_storage import DTYPES

    if stored.dtype not in DTYPES:
        raise ValueError(f"{stored.dtype!r:.40} is no type of a tensor")
    dtype: torch.dtype = getattr(torch, stored.dtype)
    return dtype


def _empty(stored: StoredTensor) -> Tensor:
    return torch.empty(stored.shape, dtype=_dtype(stored))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning of `torch.distributed.checkpoint` that there is one process alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


@contextmanager
def _said_once() -> Iterator[None]:
    """Raise an error that all processes have found together as the first one's."""
    try:
        yield
    except InterprotoError as error:
        raise_together(error)


def _cause(failure: Any) -> BaseException:
    """The error of the first process that failed, as it was raised there."""
    _, (error, _) = min(failure.failures.items())
    cause: BaseException = error
    return cause
