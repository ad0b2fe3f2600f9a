"""What `test_training_ranks.py` starts in one process or several: trainings of a toy, some disturbed on purpose."""

import json
import os
import signal
import time
from pathlib import Path

import torch
from toy import toy_dataset

from interproto_lib.config import TrainConfig
from interproto_lib.errors import InterprotoError
from interproto_lib.losses.ranks import rank
from interproto_lib.training import loop, train
from interproto_lib.training.processes import TIMEOUT_VARIABLE, joined_processes


def train_toys(runs, disturb=None, at_step=0, by_rank=0, n_children=4, timeout=None):
    """Train several settings, folder by folder; what each process met is written beside the folder.

    Args:
        runs: Folder -> settings.
        disturb: What happens in process `by_rank` within step `at_step`: a key of `DISTURBANCES`.
        at_step: Steps made before.
        by_rank: Number of the process.
        n_children: Child identities of the toy, of 12.
        timeout: Seconds that they wait for one another in a step, as text; None for the usual.
    """
    if timeout is not None:
        os.environ[TIMEOUT_VARIABLE] = timeout
    dataset = toy_dataset(image_size=28, n_child=n_children)
    with joined_processes("cpu"):
        if disturb is not None and rank() == by_rank:
            _disturb(DISTURBANCES[disturb], at_step)
        for folder, settings in runs.items():
            said, started = {}, time.monotonic()
            try:
                train(TrainConfig.from_dict(settings), dataset, folder, progress="none")
            except InterprotoError as error:
                said = {"error": type(error).__name__, "message": str(error), "after": time.monotonic() - started}
            Path(f"{folder}.said-{rank()}").write_text(json.dumps(said))


def train_each_its_own(folder, settings):
    """Start processes with different settings."""
    with joined_processes("cpu"):
        own = TrainConfig.from_dict({**settings, "seed": rank()})
        try:
            train(own, toy_dataset(image_size=28), folder, progress="none")
        except InterprotoError as error:
            said = {"error": type(error).__name__, "message": str(error)}
            Path(f"{folder}.said-{rank()}").write_text(json.dumps(said))


def _terminate(trainer):
    os.kill(os.getpid(), signal.SIGTERM)


def _kill(trainer):
    os.kill(os.getpid(), signal.SIGKILL)


def _spoil(trainer):
    with torch.no_grad():
        trainer.recognizer.prototypes[0, 0] = float("nan")


def _hang(trainer):
    time.sleep(12)


DISTURBANCES = {"terminate": _terminate, "kill": _kill, "spoil": _spoil, "hang": _hang}


def _disturb(disturbance, at_step):
    optimise = loop._Trainer._optimise

    def disturbed(self, batch):
        if self.step == at_step:
            disturbance(self)
        optimise(self, batch)

    loop._Trainer._optimise = disturbed
