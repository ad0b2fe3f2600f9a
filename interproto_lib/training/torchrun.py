"""Training in several processes of this machine, started from one that does not train itself, such as a notebook's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError, RunError, TrainingStoppedError
from interproto_lib.progress import ProgressStyle, resolve_style
from interproto_lib.runs import RunFolder, open_run

LAUNCHER_VARIABLE = "INTERPROTO_LAUNCHER"
"""Environment variable with the id of the process that started torchrun: without it the training stops."""

EXIT_STOPPED = 128 + signal.SIGTERM
"""Exit status of a training that SIGTERM ended: what a shell gives a program that the signal ended."""

_SECONDS_TO_STOP = 60.0
_SECONDS_BETWEEN_LOOKS = 0.5
_LINES_KEPT = 40
_MESSAGE = "interproto: "


def train_in_processes(
    config: TrainConfig, dataset: str | Path, folder: str | Path, *, processes: int, progress: ProgressStyle = "auto"
) -> RunFolder:
    """Train as `interproto_lib.training.train` does, in several processes that torchrun starts beside this one.

    They end with this process, also where it is killed. Interrupted (Ctrl-C, or the notebook's button), it has them
    write a checkpoint before, and passes the interrupt on.

    Args:
        config: The settings; `batch_parts` is a multiple of the number of processes.
        dataset: The dataset's folder.
        folder: The run folder.
        processes: How many; on GPUs one each.
        progress: `bar` writes each line of progress over the one before; else see `train`.

    Returns:
        The finished run.

    Raises:
        ConfigError: The number of processes is below 1, or does not divide `batch_parts`.
        RunError: A process ended with an error; the message is its own, with the traceback of an error that no message
            explains, or the last that was heard of it.
        TrainingStoppedError: SIGTERM stopped the training; a checkpoint is written.
        KeyboardInterrupt: It was interrupted; where the processes have stopped, what they said then is shown.
    """
    if processes < 1:
        raise ConfigError(f"processes={processes}: must be at least 1")
    if config.batch_parts % processes:
        raise ConfigError(
            f"processes={processes} cannot share batch_parts={config.batch_parts} evenly: set batch_parts={processes} "
            "or a multiple of it."
        )
    style = resolve_style(progress)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "interproto_lib.cli", "train", str(dataset), str(folder)]
    command += ["--progress", "none" if style == "none" else "lines", *_as_options(config)]
    threads = config.threads or max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, LAUNCHER_VARIABLE: str(os.getpid())}
    # In a session of their own: a notebook's interrupt would reach them all, and end them before they are asked to.
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        complaints = _Complaints()
        listener = threading.Thread(target=complaints.listen, args=(job.stderr,), daemon=True)
        listener.start()
        try:
            _show(job.stdout, over_one_another=style == "bar")
            status = job.wait()
        except BaseException:
            _stop(job)
            listener.join(timeout=_SECONDS_BETWEEN_LOOKS)
            if complaints.stopped is not None:
                print(complaints.stopped, flush=True)
            raise
        listener.join()
    if status == 0:
        return open_run(folder)
    raise complaints.error(status)


def _as_options(config: TrainConfig) -> list[str]:
    usual, options = TrainConfig().to_dict(), []
    for name, value in config.to_dict().items():
        if value != usual[name]:
            options += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return options


def _show(lines: IO[str], *, over_one_another: bool) -> None:
    widest = 0
    for line in lines:
        text = line.rstrip("\n")
        if over_one_another:
            widest = max(widest, len(text))
            sys.stdout.write("\r" + text.ljust(widest))
        else:
            sys.stdout.write(line)
        sys.stdout.flush()
    if widest:
        sys.stdout.write("\n")


def _stop(job: subprocess.Popen[str]) -> None:
    """Have the processes write a checkpoint and end; kill them where they do not."""
    job.terminate()
    try:
        job.wait(timeout=_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


@dataclass
class _Complaints:
    """What was written to standard error: messages of this library, of Python in a process, and of torchrun itself.

    Apart from each other, because torchrun ends with long texts about where in itself it found that a process ended.
    """

    messages: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES_KEPT))
    of_python: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_LINES_KEPT)))
    others: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES_KEPT))

    @property
    def stopped(self) -> str | None:
        """What a training says that SIGTERM stopped."""
        return next((text for text in self.messages if "stopped by SIGTERM" in text), None)

    def listen(self, lines: IO[str]) -> None:
        """Take all lines there are, to the end."""
        for line in lines:
            text = line.rstrip()
            of_process = re.match(r"\[rank\d+\]:", text)
            if text.startswith(_MESSAGE):
                self.messages.append(text.removeprefix(_MESSAGE))
            else:
                (self.others if of_process is None else self.of_python[of_process[0]]).append(text)

    def error(self, status: int) -> RunError | TrainingStoppedError:
        """Give the error that they amount to."""
        if self.stopped is not None:
            return TrainingStoppedError(self.stopped)
        found = {signal for line in self.others for signal in re.findall(r"Signal \d+ \(\w+\)", line)}
        killed = sorted(found - {"Signal 15 (SIGTERM)"})  # with which torchrun ends the others
        by_signal = [f"A process was ended by {', '.join(killed)}."] if killed else []
        messages = dict.fromkeys(self.messages)
        first_of_python = next(iter(self.of_python.values()), None)
        heard: Iterable[str] = first_of_python or ([] if messages else self.others)
        last = ["The last that was heard:\n" + "\n".join(heard)] if heard or not messages else []
        return RunError(" ".join([f"The training ended with status {status}.", *by_signal, *messages, *last]))


def stop_without_starter() -> None:
    """Have this process stop as by SIGTERM once torchrun, or what started torchrun, is gone; return at once.

    A killed notebook or torchrun then leaves no training behind that nobody watches.
    """
    threading.Thread(target=_watch, args=(os.getppid(), os.environ.get(LAUNCHER_VARIABLE)), daemon=True).start()


def _watch(torchrun: int, launcher: str | None) -> None:
    while os.getppid() == torchrun and (launcher is None or Path("/proc", launcher).exists() or _lives(int(launcher))):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
