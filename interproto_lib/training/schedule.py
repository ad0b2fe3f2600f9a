"""The learning rate as a function of the step alone, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

from interproto_lib.config import TrainConfig


def learning_rate_at(config: TrainConfig, step: int, *, steps_per_epoch: int) -> float:
    """Give the learning rate of a step.

    Args:
        config: Settings; `learning_rate`, `schedule`, `milestones`, `warmup_epochs` and `epochs` matter.
        step: Number of steps already made, from 0.
        steps_per_epoch: Steps in an epoch.

    Returns:
        The learning rate: base value, times a linear rise over the warm-up, times the schedule's factor: one tenth for
        each milestone (in whole epochs) reached, or half a cosine wave that ends at 0 after the last step.

    Example:
        >>> config = TrainConfig(epochs=4, schedule="milestones", milestones=(2,), warmup_epochs=0)
        >>> [round(learning_rate_at(config, step, steps_per_epoch=1), 3) for step in range(4)]
        [0.1, 0.1, 0.01, 0.01]
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if config.schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * step / (config.epochs * steps_per_epoch)))
    else:
        factor = 0.1 ** sum(step // steps_per_epoch >= milestone for milestone in config.milestones)
    return config.learning_rate * rise * factor
