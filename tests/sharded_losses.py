"""Losses over several gloo processes: what each computes, in a form that one process can compute as well."""

import datetime
import os
from pathlib import Path

import torch
import torch.distributed
from forked_ranks import forked_ranks

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses import HEADS, build_head, inter_prototype_loss
from interproto_lib.losses.ranks import (
    average_over_ranks,
    gather_rows,
    max_over_ranks,
    rank,
    shard_rows,
    sum_over_ranks,
    world_size,
)

N_PARTS, PART, D = 6, 3, 5
REMEMBERING = ("sphereface", "curricularface", "adaface", "broadface")
MARGINS = {"sphereface": 4.0, "softmax": 0.0, "normface": 0.0, "cosface": 0.35, "mv_am": 0.35, "adaface": 0.4}
CASES = {
    f"{kind} {name}": {"kind": kind, **case}
    for kind in HEADS
    for name, case in {
        "two at a time": {"n": 7, "chunk": 2},
        "float32, all at once": {"n": 7, "dtype": torch.float32},
        "partial FC": {"n": 23, "chunk": 100, "rate": 0.3},
        "fewer classes than processes": {"n": 2, "chunk": 1},
    }.items()
    if kind in REMEMBERING or "fewer" not in name
}
IP_CASES = {
    f"n={n} d={d} {reduction} {scope} {dtype}": (n, d, reduction, scope, dtype)
    for n, d in ((5, 8), (8, 8), (40, 6))
    for reduction in ("sum", "mean")
    for scope in ("all", "child")
    for dtype in (torch.float32, torch.float64)
}


def settings(kind, **changes):
    scale = 1.0 if kind in ("softmax", "sphereface") else 16.0
    chosen = {"margin_loss": kind, "scale": scale, "margin": MARGINS.get(kind, 0.5), "embedding_dim": D}
    return TrainConfig(**{**chosen, "broadface_queue": 25, "seed": 3, **changes})


def config_of(case, *, chunk=None):
    return settings(
        case["kind"],
        softmax_chunk=case.get("chunk", 0) if chunk is None else chunk,
        partial_fc_rate=case.get("rate", 1.0),
    )


def numbers(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def step_of(case, step):
    """Embeddings and labels of the parts of a step, and the prototypes at that step, which move."""
    n, dtype = case["n"], case.get("dtype", torch.float64)
    labels = torch.randint(0, n, (N_PARTS, PART), generator=torch.Generator().manual_seed(step))
    prototypes = numbers(100, n, D) + 0.2 * step * numbers(101, n, D)
    embeddings = 2 * numbers(step, N_PARTS, PART, D) + 0.5 * prototypes[labels]
    return embeddings.to(dtype), labels, prototypes.to(dtype)


def train(case, config, *, dense=False):
    """What each step gives on this process: loss, classes predicted, both gradients; and what the head remembers."""
    head = build_head(config).to(case.get("dtype", torch.float64))
    n_ranks, turns = world_size(), N_PARTS // world_size()
    rows = shard_rows(case["n"], n_ranks, rank())
    steps = []
    for step in range(2 if case["kind"] in REMEMBERING else 1):
        embeddings, labels, prototypes = step_of(case, step)
        shard = prototypes[rows.start : rows.stop].clone().requires_grad_()
        parts = range(rank() * turns, (rank() + 1) * turns)
        leaves = [embeddings[part].clone().requires_grad_() for part in parts]
        loss, predicted = 0.0, []
        for turn, (part, leaf) in enumerate(zip(parts, leaves, strict=True)):
            known = {} if dense else {"rows": rows}
            output = head(leaf, shard, labels[part], step=step, ends_step=turn == turns - 1, **known)
            (output.loss / turns).backward()
            loss += output.loss.item() / turns
            predicted.append(output.predicted)
        # A process may hold no prototype; its gradient is then as empty.
        steps.append(
            {
                "loss": loss,
                "predicted": torch.cat(predicted),
                "embeddings": torch.cat([leaf.grad for leaf in leaves]) / n_ranks,
                "prototypes": shard.grad.to_dense(),
                "is_sparse": shard.grad.is_sparse,
                "drawn": (shard.grad.coalesce().indices()[0] + rows.start).tolist() if shard.grad.is_sparse else [],
            }
        )
    return {"steps": steps, "state": head.state_dict()}


def prototypes_in_scope(n, d, scope, dtype):
    """All rows, of different lengths; those in scope: all, or three of the first shard and none elsewhere."""
    rows = ((numbers(n, n, d) + 0.3) * (1 + numbers(n + 1, n, 1).abs())).to(dtype)
    return rows, torch.arange(n) if scope == "all" else torch.tensor([0, 1] if n < 6 else [0, 1, 2])


def push_apart(case):
    n, d, reduction, scope, dtype = case
    prototypes, in_scope = prototypes_in_scope(n, d, scope, dtype)
    rows = shard_rows(n, world_size(), rank())
    shard = prototypes[rows.start : rows.stop].clone().requires_grad_()
    held = in_scope[(in_scope >= rows.start) & (in_scope < rows.stop)] - rows.start
    loss = inter_prototype_loss(shard[held], reduction=reduction, n_total=len(in_scope))
    (2 * loss).backward()
    return {"loss": loss.item(), "dtype": loss.dtype, "gradient": shard.grad, "n_held": len(held)}


def communicate():
    """The functions of `ranks` on numbers that differ from process to process."""
    own = torch.tensor([1.0 + rank(), -3.0 * rank()])
    rows = (torch.arange(4.0).view(2, 2) + 10 * rank()).requires_grad_()
    gathered = gather_rows(rows)
    # Each process's loss is its part of a sum: row i of the gathered rows counts (i + 1) times its number plus 1.
    factors = torch.arange(1.0, len(gathered) + 1)[:, None] * (rank() + 1)
    (gathered * factors).sum().backward()
    return {
        "place": (rank(), world_size()),
        "sum": sum_over_ranks(own),
        "mean": average_over_ranks(own),
        "max": max_over_ranks(own),
        "own": own,
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "labels": gather_rows(torch.tensor([rank(), 7])),
    }


def refusals():
    """What is said of calls that cannot be right, on every process alike."""
    case = {"kind": "arcface", "n": 7}
    embeddings, labels, prototypes = step_of(case, 0)
    rows = shard_rows(7, world_size(), rank())
    shard, head = prototypes[rows.start : rows.stop], build_head(settings("arcface"))
    calls = {
        "label": lambda: head(embeddings[0], shard, labels[0] + 7, rows=rows),
        "rows missing": lambda: head(embeddings[0], shard, labels[0]),
        "rows of others": lambda: head(embeddings[0], shard, labels[0], rows=range(100, 101 + len(shard))),
        "pairs": lambda: inter_prototype_loss(shard, form="pairs", n_total=7),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
        except ConfigError as error:
            said[name] = str(error)
    return said


def under_autocast():
    """Losses of bfloat16 embeddings with autocast on and off."""
    case = {"kind": "curricularface", "n": 7, "dtype": torch.float32}
    embeddings, labels, prototypes = step_of(case, 0)
    rows = shard_rows(7, world_size(), rank())
    found = []
    for enabled in (False, True):
        leaf = embeddings[rank()].bfloat16().requires_grad_()
        shard = prototypes[rows.start : rows.stop].clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = build_head(settings("curricularface"))(leaf, shard, labels[rank()], rows=rows).loss
            pushed = inter_prototype_loss(shard, n_total=7)
            (loss + pushed).backward()
        found.append((loss.detach(), pushed.detach(), leaf.grad, shard.grad))
    return found


def everything(sizes, folder):
    """Body of each process: all cases, one after the other, in one group after the other; the results go into files."""
    torch.set_num_threads(1)
    number = int(os.environ["RANK"])
    for n_processes in (size for size in sizes if number < size):
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting-{n_processes}",
            rank=number,
            world_size=n_processes,
            timeout=datetime.timedelta(seconds=120),
        )
        found = {
            "heads": {name: train(case, config_of(case)) for name, case in CASES.items()},
            "inter_prototype": {name: push_apart(case) for name, case in IP_CASES.items()},
            "ranks": communicate(),
            "refusals": refusals(),
            "autocast": under_autocast(),
        }
        torch.distributed.destroy_process_group()
        torch.save(found, Path(folder, f"{n_processes}-{number}.pt"))


def in_processes(sizes, folder):
    """Run `everything` in groups of each size, and give what each process of each found."""
    forked_ranks().run(max(sizes), "sharded_losses:everything", sizes=list(sizes), folder=str(folder))
    return {n: [torch.load(folder / f"{n}-{number}.pt", weights_only=False) for number in range(n)] for n in sizes}
