"""A small network with its checkpoints, in one process or several: what `test_checkpoints.py` saves and loads."""

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from interproto_lib.errors import WriteError
from interproto_lib.losses.ranks import rank, shard_rows, world_size
from interproto_lib.training import checkpoint_storage, checkpoints
from interproto_lib.training.checkpoints import CheckpointStore, TrainingState
from interproto_lib.training.processes import TIMEOUT_VARIABLE, EndedElsewhereError, joined_processes, patient_group


class Net(nn.Module):
    """Weights in channels-last order, a norm, rows that may be split, and buffers of every kind."""

    def __init__(self, n_rows=7, width=5):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.counter = Counter()
        self.prototypes = nn.Parameter(torch.zeros(len(shard_rows(n_rows, world_size(), rank())), width))
        self.register_buffer("short", torch.zeros(3, dtype=torch.bfloat16))
        self.register_buffer("flags", torch.zeros(2, 2, dtype=torch.bool))
        self.register_buffer("none", torch.zeros(0, 4))
        self.register_buffer("number", torch.zeros((), dtype=torch.float64))


class Counter(nn.Module):
    """A module that keeps what is no parameter and no buffer."""

    count = 0.0

    def get_extra_state(self):
        return torch.tensor(self.count)

    def set_extra_state(self, state):
        self.count = float(state)


class Toy:
    """The network, two optimisers and a store of their checkpoints."""

    def __init__(self, folder, *, n_rows=7, width=5, **options):
        self.n_rows = n_rows
        self.net = Net(n_rows, width)
        own = [p for name, p in self.net.named_parameters() if name != "conv.bias"]
        self.optimizers = {
            "sgd": torch.optim.SGD(own, lr=0.1, momentum=0.9),
            "adam": torch.optim.Adam([self.net.conv.bias], lr=0.1),
        }
        self.store = CheckpointStore(Path(folder), self.net, self.optimizers, sharded={"prototypes": n_rows}, **options)

    def fill(self, step):
        """Give every tensor the numbers of a step, those of split ones the same for any number of processes."""
        rows = shard_rows(self.n_rows, world_size(), rank())
        if not self.optimizers["sgd"].state:
            for parameter in self.net.parameters():
                parameter.grad = torch.zeros_like(parameter)
            for optimizer in self.optimizers.values():
                optimizer.step()
        for name, tensor in sorted(self.tensors().items()):
            draw = torch.Generator().manual_seed(step * 1000 + sum(name.encode()))
            is_split = "prototypes" in name
            shape = (self.n_rows, *tensor.shape[1:]) if is_split else tuple(tensor.shape)
            drawn = torch.randint(-(2**20), 2**20, shape, generator=draw) / 3
            if name.endswith("/step"):
                drawn.fill_(step)
            with torch.no_grad():
                tensor.copy_(drawn[rows.start : rows.stop] if is_split else drawn)
        self.net.counter.count = step / 4
        return self

    def tensors(self):
        """Every tensor of a checkpoint by name."""
        tensors = {name: tensor.detach() for name, tensor in self.net.state_dict().items()}
        for of, optimizer in self.optimizers.items():
            for number, states in optimizer.state_dict()["state"].items():
                parameter = optimizer.param_groups[0]["params"][number]
                name = next(n for n, p in self.net.named_parameters() if p is parameter)
                tensors |= {f"{of}/{name}/{key}": value for key, value in states.items()}
        return tensors

    def save(self, step):
        self.fill(step)
        self.store.save(state_of(step))
        return self

    def content(self):
        """Types, shapes and bytes of all tensors."""
        return {name: described(tensor) for name, tensor in self.tensors().items()}


def state_of(step):
    return TrainingState(
        step=step, window=torch.tensor([0.1, 1e30, -0.0]) * step, window_steps=step % 4, seconds=step / 3
    )


def described(tensor):
    return str(tensor.dtype), tuple(tensor.shape), bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


def save(folder, steps, n_rows):
    with joined_processes("cpu"):
        toy = Toy(folder, n_rows=n_rows)
        for step in steps:
            toy.save(step)


def load(folder, n_rows, out):
    """Load the newest checkpoint and write what each process has then."""
    with joined_processes("cpu"):
        toy = Toy(folder, n_rows=n_rows)
        state = toy.store.load_newest()
        assert torch.equal(state.window, state_of(state.step).window)
        np.savez(
            Path(out, f"rank-{rank()}.npz"),
            step=state.step,
            **{name.replace("/", "|"): tensor.float().numpy() for name, tensor in toy.tensors().items()},
        )


def save_beyond_a_limit(folder):
    """Save, then again where the last process may not write files of the size that it needs."""
    with joined_processes("cpu"):
        toy = Toy(folder, n_rows=40_000).save(1)
        if rank() == world_size() - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
        with pytest.raises(EndedElsewhereError if rank() else WriteError, match=r"step-00000002.*File too large"):
            toy.save(2)
        again = Toy(folder, n_rows=40_000)
        assert again.store.load_newest().step == 1
        assert again.content() == Toy(Path(folder, "unused"), n_rows=40_000).fill(1).content()


def save_and_load_in_the_patient_group_alone(folder):
    """Save and load where the processes' first group cannot be asked for anything: it is no group at all."""
    with joined_processes("cpu"):
        toy = Toy(folder, n_rows=9)
        patient_group()
        asked = []
        for name in ("all_reduce", "broadcast", "all_gather", "barrier", "send", "recv", "all_gather_into_tensor"):
            watch(torch.distributed, name, asked)
        toy.save(4)
        again = Toy(folder, n_rows=9)
        assert again.store.load_newest().step == 4
        assert again.content() == toy.content()
        assert asked, "they do ask one another"
        assert {id(group) for group in asked} == {id(patient_group())}
        assert len(torch.distributed.distributed_c10d._world.pg_map) == 2, "no further group was made"


def watch(module, name, asked):
    """Note of which group a collective is asked; `torch.distributed` calls its own under the names in c10d."""
    from torch.distributed import distributed_c10d

    whole = getattr(distributed_c10d, name)

    def watched(*args, **kwargs):
        groups = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.distributed.ProcessGroup)]
        asked.append(groups[0] if groups else torch.distributed.group.WORLD)
        return whole(*args, **kwargs)

    setattr(distributed_c10d, name, watched)
    setattr(module, name, watched)


def save_and_load_slowly(folder, slow, seconds, timeout):
    """Save and load where one process needs longer to write, to compare and to read than a step may take."""
    os.environ[TIMEOUT_VARIABLE] = timeout
    with joined_processes("cpu"):
        if rank() == slow:
            for owner, name in (
                (checkpoint_storage, "_write_shard"),
                (checkpoints, "find_damage"),
                (checkpoint_storage, "_read_block"),
            ):
                slow_once(owner, name, seconds)
        toy = Toy(folder, n_rows=9).save(4 + slow)
        torch.distributed.barrier()
        again = Toy(folder, n_rows=9)
        started = time.monotonic()
        assert again.store.load_newest().step == 4 + slow
        assert time.monotonic() - started > 2 * seconds
        assert again.content() == toy.content()


def slow_once(owner, name, seconds):
    """Have a function sleep before it does its work for the first time."""
    whole, slept = getattr(owner, name), []

    def slow(*args):
        if not slept:
            slept.append(True)
            time.sleep(seconds)
        return whole(*args)

    setattr(owner, name, slow)
