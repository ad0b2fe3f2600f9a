"""Training cost of an image by method, as a ratio to ArcFace: forward, backward and SGD of whole training steps.

Run: python -m benchmarks.bench_methods [--rounds 2] [--threads 1] [--networks small ir_se50]

All methods of a network are timed in turns, round after round, in seconds of the processor, and the fastest turn of
each counts, so that other work on the machine disturbs all of them alike and little. A turn of DAL holds steps of its
opponent and steps of the rest as often as its settings say. Beside each ratio stands the one that multiply-adds give
(`training_multiply_adds`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.bench_training_step import describe_machine
from interproto_lib.analysis.training_costs import training_multiply_adds
from interproto_lib.config import TrainConfig
from interproto_lib.presets import read_preset
from interproto_lib.training.recognizer import Recognizer, parameter_groups


@dataclass(frozen=True, kw_only=True)
class Network:
    """What all methods are trained with in one table."""

    backbone: str
    image_size: int
    embedding_dim: int
    batch_size: int
    n_identities: int
    queue: int
    rounds: int


NETWORKS = {
    "small": Network(
        backbone="small", image_size=56, embedding_dim=128, batch_size=64, n_identities=400, queue=320, rounds=10
    ),
    "ir_se50": Network(
        backbone="ir_se50", image_size=64, embedding_dim=512, batch_size=16, n_identities=2_000, queue=4_000, rounds=2
    ),
}
BASELINE = "arcface"
DAL_ROUND = (5, 2)
"""Steps of the rest and of the opponent in a turn of DAL, as 50 and 20."""


def cases(network: Network) -> dict[str, TrainConfig]:
    """The methods of the preset `methods`, each with the network's size."""
    preset = read_preset("methods")
    common = {**preset.sections["train"], "backbone": network.backbone, "embedding_dim": network.embedding_dim}
    common |= {"batch_size": network.batch_size, "device": "cpu"}
    configs = {name: TrainConfig.from_dict({**common, **settings}) for name, settings in preset.methods.items()}
    configs["broadface"] = replace(configs["broadface"], broadface_queue=network.queue)
    return configs


def turn_of(config: TrainConfig, network: Network) -> tuple[Callable[[], None], int]:
    """A turn of training steps on fixed images, and how many they are."""
    torch.manual_seed(0)
    is_child = np.arange(network.n_identities) < max(2, network.n_identities // 7)
    recognizer = Recognizer(config, image_size=network.image_size, is_child=is_child)
    recognizer.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        parameter_groups(recognizer, config.weight_decay), lr=0.01, momentum=config.momentum, fused=True
    )
    shape = (network.batch_size, network.image_size, network.image_size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, network.n_identities, (network.batch_size,))
    ages = torch.rand(network.batch_size) * 80
    steps = [0]
    if config.age_method == "dal":  # the opponent's steps come first in a round
        first = config.dal_opponent_steps
        steps = [*range(first, first + DAL_ROUND[0]), *range(DAL_ROUND[1])]

    def turn() -> None:
        for step in steps:
            losses = recognizer(images, labels, ages, step=step)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()
            optimiser.step()

    if config.margin_loss == "broadface":
        with torch.no_grad():  # a full queue, as in all but the first steps of a training
            head = recognizer.head
            while int(head.get_extra_state()[0]) < network.queue:
                n = min(2_000, network.queue)
                head(torch.randn(n, network.embedding_dim), recognizer.prototypes, torch.randint(0, 100, (n,)))
    return turn, len(steps)


def seconds_a_step(configs: Mapping[str, TrainConfig], network: Network, *, n_rounds: int) -> dict[str, float]:
    """Time all methods in turns; the fastest turn of each counts."""
    turns = {name: turn_of(config, network) for name, config in configs.items()}
    for turn, _ in turns.values():
        turn()
    best = dict.fromkeys(turns, float("inf"))
    for _ in range(n_rounds):
        for name, (turn, n_steps) in turns.items():
            start = time.process_time()
            turn()
            best[name] = min(best[name], (time.process_time() - start) / n_steps)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="sets of turns: 10 with small, 2 with ir_se50")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to train")
    settings = parser.parse_args()

    torch.set_num_threads(settings.threads)
    print(f"{describe_machine()}, {settings.threads} threads")
    for name in settings.networks:
        network = NETWORKS[name]
        print(
            f"\n{network.backbone}, {network.image_size}x{network.image_size}, d = {network.embedding_dim}, batch "
            f"{network.batch_size}, {network.n_identities:,} identities, BroadFace's queue {network.queue:,}"
        )
        configs = cases(network)
        seconds = seconds_a_step(configs, network, n_rounds=network.rounds * settings.rounds)
        counted = {
            method: training_multiply_adds(config, image_size=network.image_size, n_identities=network.n_identities)
            for method, config in configs.items()
        }
        print(f"{'method':16} {'images/s':>9} {'ratio':>6} {'counted':>8}   (cost of an image, ArcFace = 1)")
        for method, time_of in seconds.items():
            speed = network.batch_size / time_of
            ratio, by_counting = time_of / seconds[BASELINE], counted[method] / counted[BASELINE]
            print(f"{method:16} {speed:9.1f} {ratio:6.2f} {by_counting:8.2f}")


if __name__ == "__main__":
    main()
