"""What `test_training_ranks.py` starts in one process or several: trainings of a toy, some disturbed on purpose."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from toy import toy_dataset

from interproto_lib import cli
from interproto_lib.config import TrainConfig
from interproto_lib.errors import InterprotoError
from interproto_lib.losses.ranks import rank, shard_rows, world_size
from interproto_lib.training import loop, train
from interproto_lib.training.processes import TIMEOUT_VARIABLE, joined_processes
from interproto_lib.training.prototype_file import write_prototypes


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


def run_command(arguments, disturb, at_step, by_rank):
    """Run `interproto train`, which something happens to; the process ends with the status of the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    if int(os.environ["RANK"]) == by_rank:
        _disturb(DISTURBANCES[disturb], at_step)
    status = cli.main(arguments)
    sys.stderr.flush()
    os._exit(status)


def write_where_there_is_no_place(folder, n_rows):
    """Write a file of prototypes where the first process cannot."""
    with joined_processes("cpu"):
        rows = shard_rows(n_rows, world_size(), rank())
        said = {}
        try:
            write_prototypes(Path(folder, "a file", "prototypes.safetensors"), torch.zeros(len(rows), 3), n=n_rows)
        except InterprotoError as error:
            said = {"error": type(error).__name__, "message": str(error)}
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
    time.sleep(7)


def _raise_a_bug(trainer):
    raise ValueError("a bug that nobody foresaw")


def _interrupt_all(trainer):
    """Ctrl-C, as torchrun hands it on: to all processes, the others being within a collective."""
    time.sleep(1)
    parent = os.getppid()
    for process in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        os.kill(int(process), signal.SIGINT)


DISTURBANCES = {
    "terminate": _terminate,
    "kill": _kill,
    "spoil": _spoil,
    "hang": _hang,
    "bug": _raise_a_bug,
    "interrupt": _interrupt_all,
}


def _disturb(disturbance, at_step):
    optimise = loop._Trainer._optimise

    def disturbed(self, batch):
        if self.step == at_step:
            disturbance(self)
        optimise(self, batch)

    loop._Trainer._optimise = disturbed


if __name__ == "__main__":  # under torchrun: the command with a bug in one process
    if os.environ["RANK"] == "1":
        _disturb(_raise_a_bug, 5)
    sys.exit(cli.main(sys.argv[1:]))
