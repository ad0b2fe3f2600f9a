"""The command `interproto train`: one training, in one process or, under torchrun, in many."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError, InterprotoError, TrainingStoppedError
from interproto_lib.setting_checks import refuse_unknown

HELP = "train in one process, or under torchrun in many"

DESCRIPTION = """\
Trains a recogniser on a dataset folder and writes a run folder, as notebook 02 does. The same command
goes on from the last checkpoint of a training that was stopped, killed or lost a process."""

EPILOG = """\
one process:
  interproto train runs/demo/dataset runs/demo/arcface-s0 --preset demo --method arcface --seed 0

all GPUs of one machine (batch_parts: a multiple of the number of processes; it decides the result):
  torchrun --standalone --nproc-per-node 8 -m interproto_lib.cli train DATASET RUN --set batch_parts=8

several machines that share a file system; the same command on each, HOST being one of them:
  torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --rdzv-id NAME \\
      -m interproto_lib.cli train DATASET RUN --set batch_parts=32

SLURM: one task a machine (--ntasks-per-node=1) runs `srun torchrun ...` as above. With --signal=TERM@120
the training is told 120 s before its time is up: it writes a checkpoint after the step that it is in and
ends with status 143. torchrun hands the signal on, gives its processes 30 s (more with its option
--shutdown-timeout, where it has that) and itself ends with status 1. A job script goes on with
  srun ... || [ -f RUN/summary.json ] || scontrol requeue $SLURM_JOB_ID
for summary.json is the last file that a training writes. Preempted jobs are requeued by SLURM itself.

A process that dies ends all of them: at once on its own machine, and where its machine vanishes after
INTERPROTO_TIMEOUT_SECONDS (default 50).

Exit status of a process: 0 finished, 2 an error that the message explains, 1 any other error, with a traceback,
130 interrupted, 143 stopped by SIGTERM. torchrun's own is 1 whenever one of its processes has another than 0."""

EXIT_ERROR = 2
"""Exit status after an error that the message explains."""

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C."""

_EXIT_UNEXPECTED = 1

_SECONDS_FOR_THE_MESSAGE = 1.0  # torchrun ends all processes once one has ended: first the one that says why


def add_train_command(commands: Any) -> None:
    """Add `train` to the command's parser.

    Args:
        commands: The subparsers of `argparse`.
    """
    parser = commands.add_parser(
        "train",
        help=HELP,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="the dataset folder")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder to make, as in runs/demo/arcface-s0")
    parser.add_argument(
        "--preset", help="take the settings of a preset of the notebooks, but for its `processes`: name or .yaml file"
    )
    parser.add_argument("--method", help="method of the preset")
    parser.add_argument("--seed", type=int, help="seed to train with")
    parser.add_argument(
        "--set", dest="changes", metavar="NAME=VALUE", action="append", default=[], help="one setting, over the preset"
    )
    parser.add_argument(
        "--progress", choices=("auto", "bar", "lines", "none"), default="auto", help="(default: %(default)s)"
    )
    parser.set_defaults(action=_train)


def settings_of(
    *, preset: str | None = None, method: str | None = None, seed: int | None = None, changes: Sequence[str] = ()
) -> TrainConfig:
    """Give the settings that the options of the command name.

    Args:
        preset: A preset of the notebooks; None for the defaults.
        method: A method of it.
        seed: The seed; None for the default, or one that `changes` name.
        changes: `name=value`, a value as YAML writes it, or a number such as 1e-3.

    Returns:
        The settings.

    Raises:
        ConfigError: A name is unknown, a value is wrong, or a method is given without a preset.

    Example:
        >>> settings_of(seed=3, changes=["learning_rate=1e-2", "milestones=[]"]).learning_rate
        0.01
    """
    if preset is None and method is not None:
        raise ConfigError("--method chooses from a preset: give --preset too, or settings with --set.")
    hints = typing.get_type_hints(TrainConfig)
    settings: dict[str, Any] = {}
    if preset is not None:
        from interproto_lib.presets import read_preset

        parameters = read_preset(preset).parameters("02_train", method=method, seed=seed)
        settings = {name: value for name, value in parameters.items() if name in hints}
    if seed is not None:
        settings["seed"] = seed
    for change in changes:
        name, mark, text = change.partition("=")
        if not mark:
            raise ConfigError(f"--set {change}: write NAME=VALUE, as in --set epochs=20")
        refuse_unknown([name], hints, what="training setting")
        settings[name] = _value(name, text, hints[name])
    return TrainConfig.from_dict(settings)


def _value(name: str, text: str, hint: Any) -> Any:
    import yaml

    if hint is str or typing.get_origin(hint) is typing.Literal:
        return text
    if text in ("none", "None"):
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {name}={text}: cannot be read") from error
    if isinstance(value, str):  # 1e-3, which YAML takes for text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _train(options: argparse.Namespace) -> None:
    from interproto_lib.data import load_dataset
    from interproto_lib.training.loop import train
    from interproto_lib.training.processes import EndedElsewhereError, ending_together, joined_processes, leave_at_once
    from interproto_lib.training.torchrun import EXIT_STOPPED, stop_without_starter

    config = settings_of(preset=options.preset, method=options.method, seed=options.seed, changes=options.changes)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_without_starter()
    try:
        with joined_processes(config.device):
            with ending_together():
                dataset = load_dataset(options.dataset)
            train(config, dataset, options.run, progress=options.progress)
    except TrainingStoppedError as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"interproto: {stopped}", file=sys.stderr, flush=True)
        sys.exit(EXIT_STOPPED)
    except EndedElsewhereError:
        time.sleep(_SECONDS_FOR_THE_MESSAGE)
        leave_at_once(EXIT_ERROR)
    except (Exception, KeyboardInterrupt) as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise
        leave_at_once(_told(error, number=os.environ.get("RANK", "?")))


def _told(error: BaseException, *, number: str) -> int:
    """Say why this one of several processes ends, and give its exit status."""
    if isinstance(error, InterprotoError):
        print(f"interproto: {error}", file=sys.stderr)
        return EXIT_ERROR
    if isinstance(error, KeyboardInterrupt):
        if number == "0":
            print("interproto: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return EXIT_INTERRUPTED
    lines = "".join(traceback.format_exception(error)).splitlines()
    print("\n".join(f"[rank{number}]: {line}" for line in lines), file=sys.stderr)
    return _EXIT_UNEXPECTED
