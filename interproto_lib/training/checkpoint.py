"""The whole state of a training on disk: written atomically, read without unpickling more than tensors and numbers."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interproto_lib.errors import CheckpointError
from interproto_lib.files import atomic_write

FORMAT = 2


@dataclass(kw_only=True)
class TrainingState:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        step: Steps made since the start; epoch and place in the epoch follow from it.
        recognizer: State dict of the recognizer: backbone (with batch-norm statistics) and prototypes.
        optimizer: State dict of the optimiser (momentum).
        window: Sums of the losses since the last logged row, so that the next row is the same.
        window_steps: Steps they were summed over.
        random_state: State of the CPU generator (dropout).
        cuda_random_state: State of the GPU's generator, or None on a CPU.
        seconds: Seconds of training so far.
    """

    step: int
    recognizer: dict[str, Tensor]
    optimizer: dict[str, Any]
    window: Tensor
    window_steps: int
    random_state: Tensor
    cuda_random_state: Tensor | None
    seconds: float


def save_checkpoint(state: TrainingState, path: Path) -> None:
    """Write the state of a training, replacing the last one only when the new one is whole.

    Args:
        state: The state.
        path: The file.

    Raises:
        WriteError: The file cannot be written; the last checkpoint is kept.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, **vars(state)}, temporary)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError of its zip writer
            raise OSError(None, f"writing the checkpoint failed ({str(error).splitlines()[0]})") from error


def load_checkpoint(path: Path, *, device: torch.device) -> TrainingState:
    """Read the state of a training.

    Args:
        path: The file.
        device: Where its tensors are wanted; random states stay on the CPU.

    Returns:
        The state.

    Raises:
        CheckpointError: The file is damaged, or not a checkpoint of this format.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is not a checkpoint, or was cut short")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader fail in more ways than can be listed
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({reason}). Remove it to train this run from the start."
        ) from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is not a training checkpoint of this version. Remove it to start the run again.")
    try:
        state = TrainingState(**content)
    except TypeError as error:
        raise CheckpointError(f"{path} lacks parts of a checkpoint ({error}). Remove it to start again.") from error
    state.recognizer = {name: tensor.to(device) for name, tensor in state.recognizer.items()}
    state.window = state.window.to(device)
    return state
