"""The record of a training: one row a log step in `metrics.jsonl`, TensorBoard always, Weights & Biases when asked."""

from __future__ import annotations

import json
import resource
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError, RunError, WriteError
from interproto_lib.files import atomic_write, write_json
from interproto_lib.training.memory import held_by_process


class MetricsLog:
    """Writes metrics as they come, so that they can be followed live and outlive a kill.

    A resumed training computes the steps after its checkpoint again. In the files their rows replace the old ones;
    Weights & Biases takes no step twice, so rows that it has from before the kill are not sent again.

    Args:
        folder: The run folder.
        config: Settings of the training, for Weights & Biases.
        resume_step: Rows after this step are dropped: they will be computed again.

    Raises:
        ConfigError: Weights & Biases is asked for but not installed.
        RunError: The file that keeps the run's id at Weights & Biases is damaged.
        WriteError: The folder cannot be written.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._wandb = _start_wandb(folder, config) if config.wandb else None
        self._path = folder / "metrics.jsonl"
        _keep_rows_up_to(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write(self, row: Mapping[str, float]) -> None:
        """Write one row; `step` is its key, all other values are plotted against it.

        Args:
            row: Metric names and finite values.

        Raises:
            WriteError: The row cannot be written, as on a full disk.
        """
        text = json.dumps(dict(row), allow_nan=False) + "\n"
        values = {name: value for name, value in row.items() if name != "step"}
        try:
            self._file.write(text)
            self._file.flush()
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, int(row["step"]))
            self._tensorboard.flush()
        except OSError as error:
            raise WriteError(f"Cannot write {self._path}: {error.strerror}. Free some space, then go on.") from error
        if self._wandb is not None and int(row["step"]) >= self._wandb.step:
            self._wandb.log(values, step=int(row["step"]), commit=True)

    def close(self) -> None:
        """Close the files."""
        with suppress(OSError):  # what could not be written has been said
            self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most memory that this process has held: on a GPU its tensors, else all of the process's main memory.

    Args:
        device: Where it trains.

    Returns:
        On a GPU since `torch.cuda.reset_peak_memory_stats`, else since the process was started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def available_memory_bytes(device: torch.device, *, sharers: int = 1) -> int | None:
    """Give how much memory a process may take: all of a GPU's, else its share of what is left and what it has already.

    Args:
        device: Where it trains; a GPU is its own.
        sharers: Processes of the training that share the machine's main memory.

    Returns:
        Bytes; None on a CPU whose system does not say it in /proc.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="utf-8").splitlines() if meminfo.is_file() else []
    left = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return None if left is None else left // sharers + held_by_process(device)


def _keep_rows_up_to(path: Path, step: int) -> None:
    """Drop rows after `step`, and a last line that a kill cut short."""
    kept = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if row["step"] <= step:
                kept.append(line + "\n")
    with atomic_write(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def _start_wandb(folder: Path, config: TrainConfig) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "wandb=True needs the package: pip install 'interproto-lib[wandb]', or set wandb=False"
        ) from error
    return wandb.init(
        project="interproto",
        group=folder.parent.name,
        name=folder.name,
        dir=str(folder),
        config=config.to_dict(),
        id=_wandb_id(folder / "wandb.json"),
        resume="allow",
    )


def _wandb_id(path: Path) -> str:
    """The run's id at Weights & Biases: random, since names repeat between machines, and kept, so that it resumes."""
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(8)})
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise RunError(
            f"{path} is damaged ({error}). Remove it; the run then starts anew at Weights & Biases."
        ) from error
