"""One side of the whole steps in `bench_training_step`, in a process of its own: a step for each line it reads.

Run: python -m benchmarks.training_step_side SIDE BATCH THREADS
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import nn

from interproto_lib.config import TrainConfig
from interproto_lib.models.prelu import PReLU
from interproto_lib.training.batches import Batch
from interproto_lib.training.memory import keep_freed_memory
from interproto_lib.training.parts import PartedBatch
from interproto_lib.training.recognizer import Recognizer, build_optimizers

SIDES = {
    "plain": "float32, channels first, PyTorch's own PReLU, SGD and memory",
    "float32": "the library, precision='float32'",
    "bfloat16": "the library, precision='bfloat16'",
    "bfloat16-returned": "the same, freed memory given back to the system",
}
"""The sides, and what each of them is."""

IMAGE_SIZE = 112
N_IDENTITIES = 10_572
N_CHILDREN = 229


def settings(side: str, batch: int, backbone: str = "ir_se50") -> TrainConfig:
    """The published training of IR-SE-50 on CASIA-WebFace, and what a side changes of it."""
    precision = "bfloat16" if side.startswith("bfloat16") else "float32"
    changes = {"precision": precision, "channels_last": side != "plain", "batch_size": batch, "backbone": backbone}
    return TrainConfig.preset("official", **changes)


def recognizer_of(config: TrainConfig) -> Recognizer:
    """Network and prototypes, as a training makes them."""
    torch.manual_seed(config.seed)
    recognizer = Recognizer(config, image_size=IMAGE_SIZE, is_child=np.arange(N_IDENTITIES) < N_CHILDREN)
    return recognizer.to(memory_format=torch.channels_last) if config.channels_last else recognizer


def with_plain_prelu(module: nn.Module) -> None:
    """Give every PReLU its class in PyTorch back."""
    for part in module.modules():
        if type(part) is PReLU:
            part.__class__ = nn.PReLU  # type: ignore[assignment]


def main(side: str, batch_size: int, n_threads: int) -> None:
    """Take a step for each line of the standard input and say how long it took, in seconds and of the processor."""
    torch.set_num_threads(n_threads)
    config = settings(side, batch_size)
    recognizer = recognizer_of(config)
    if side in ("float32", "bfloat16"):
        keep_freed_memory()
    optimizers: dict[str, torch.optim.Optimizer]
    if side == "plain":
        with_plain_prelu(recognizer)
        optimizers = {"sgd": torch.optim.SGD(recognizer.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)}
    else:
        optimizers = build_optimizers(recognizer)
    parted = PartedBatch(recognizer, config, autocast_dtype=torch.bfloat16 if config.precision == "bfloat16" else None)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randint(0, 256, (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, N_IDENTITIES, (batch_size,), generator=generator),
        torch.full((batch_size,), 30.0),
    )
    for number, _ in enumerate(sys.stdin):
        started, of_processor = time.perf_counter(), time.process_time()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        parted.backward(batch, step=number)
        for optimizer in optimizers.values():
            optimizer.step()
        print(time.perf_counter() - started, time.process_time() - of_processor, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
