"""Processes of one training, forked from one that has imported everything, which takes seconds."""

import atexit
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

SERVER = """
import importlib, json, os, sys, traceback
sys.path.insert(0, "tests")
import torch, torch._dynamo, torch.utils.tensorboard
import torch.distributed.checkpoint, torch.distributed.tensor
import interproto_lib.training
for line in sys.stdin:
    order = json.loads(line)
    children = []
    for rank in range(order["n"]):
        child = os.fork()
        if child == 0:
            code = 1
            os.dup2(2, 1)  # standard output is for the answers below
            try:
                if order["n"] > 1:
                    os.environ.update(order["environment"], RANK=str(rank), LOCAL_RANK=str(rank))
                module, function = order["call"].split(":")
                getattr(importlib.import_module(module), function)(**order["arguments"])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@functools.cache
def forked_ranks():
    """Give the one server of this test process, which all files of tests share."""
    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    started = ForkedRanks(folder / "said.txt")
    atexit.register(lambda: (started.close(), shutil.rmtree(folder, ignore_errors=True)))
    return started


class ForkedRanks:
    """Starts functions of modules in `tests`, each in one process or several that may form a process group."""

    def __init__(self, said: Path):
        """`said` is the file that gets what the processes print."""
        self._said = said
        self._said_before = 0
        self._is_running = False
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        with said.open("w") as error:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                cwd=REPO,
                env=environment,
                stdin=pipe,
                stdout=pipe,
                stderr=error,
                text=True,
            )

    def start(self, n, call, **arguments):
        """Start `module:function` in `n` processes, of which `exit_codes` tells the end."""
        if self._is_running:  # a test that failed did not wait for them
            self.exit_codes()
        self._said_before = self._said.stat().st_size
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
        order = {"n": n, "call": call, "arguments": arguments, "environment": environment}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        self._is_running = True

    def exit_codes(self):
        """Wait for the processes started last."""
        codes = json.loads(self.server.stdout.readline())
        self._is_running = False
        return codes

    def said(self):
        """Give what the processes started last have printed, on standard output and error."""
        with self._said.open() as file:
            file.seek(self._said_before)
            return file.read()

    def run(self, n, call, **arguments):
        """Run `module:function` in `n` processes to its end, in each."""
        self.start(n, call, **arguments)
        codes = self.exit_codes()
        assert codes == [0] * n, f"{call} ended with {codes}: {self.said()[-3000:]}"

    def close(self):
        """End the server."""
        self.server.communicate()
