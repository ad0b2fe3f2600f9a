"""A training of a toy in one process or several, that may be told to die: what `test_training_killed.py` starts."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

from toy import toy_dataset

from interproto_lib.config import TrainConfig
from interproto_lib.losses.ranks import rank
from interproto_lib.training import checkpoint_storage, train
from interproto_lib.training.processes import joined_processes


def train_toy(settings, folder, die=None):
    """Train; `die` lists a rank, a moment and its number (see `die_at`), or a rank, `seconds` and how many."""
    with joined_processes("cpu"):
        if die is not None and die[0] == rank():
            if die[1] == "seconds":
                threading.Thread(target=die_in, args=die[2:], daemon=True).start()
            else:
                die_at(*die[1:])
        train(TrainConfig.from_dict(settings), toy_dataset(image_size=28), folder, progress="none")


def start_up():
    """Do nothing, once everything is imported."""


def die_in(seconds):
    """End this process like a power cut, after a time."""
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment, countdown):
    """End this process like a power cut at a moment of writing.

    Args:
        moment: `any` operation on the disk; or `before <name>` or `after <name>`, when a file of that name is put in
            its place; or `amid`, within the blocks of a checkpoint's file.
        countdown: The how manieth of those moments it is.
    """
    left = [countdown]

    def passed(*moments):
        left[0] -= moment in moments
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner, name):
        whole = getattr(owner, name)

        def watched(*args, **kwargs):
            target = Path(args[1]).name if name == "replace" else ""
            passed("any", f"before {target}")
            result = whole(*args, **kwargs)
            passed("any", f"after {target}")
            return result

        setattr(owner, name, watched)

    blocks = checkpoint_storage._blocks

    def watched_blocks(*args):
        for block in blocks(*args):
            passed("any", "amid")
            yield block

    checkpoint_storage._blocks = watched_blocks
    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync"), (shutil, "rmtree")):
        around(owner, name)
