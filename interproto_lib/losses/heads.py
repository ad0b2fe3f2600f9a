"""Margin losses with what they remember: embeddings, prototypes and labels in, the loss of a batch out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses.adaface import NormStatistics, adaface_rule, batch_statistics, updated_statistics
from interproto_lib.losses.broadface_head import BroadFaceHead
from interproto_lib.losses.curricularface import curricularface_rule, updated_progress
from interproto_lib.losses.margin_head import MarginHead, RuleHead
from interproto_lib.losses.margin_rule import MarginRule
from interproto_lib.losses.margin_softmax import margin_rule
from interproto_lib.losses.mv_softmax import mv_softmax_rule
from interproto_lib.losses.sphereface import sphereface_annealing, sphereface_rule


class StatelessHead(RuleHead):
    """softmax, normface, cosface and arcface: nothing is remembered."""

    def _rule(self, own: Tensor, norms: Tensor, *, n_parts: int) -> MarginRule:
        config = self.config
        return margin_rule(kind=config.margin_loss, scale=config.scale, margin=config.margin)


class SphereFaceHead(RuleHead):
    """SphereFace; remembers how many steps it has seen, for its annealing."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self._steps = 0  # a plain number: reading it from a device at every step would stall the queue

    def _rule(self, own: Tensor, norms: Tensor, *, n_parts: int) -> MarginRule:
        config = self.config
        annealing = sphereface_annealing(
            self._steps,
            start=config.sphereface_lambda_start,
            decay=config.sphereface_lambda_decay,
            lowest=config.sphereface_lambda_min,
        )
        return sphereface_rule(norms, margin_factor=int(config.margin), annealing=annealing)

    def _end_step(self) -> None:
        self._steps += 1

    def get_extra_state(self) -> Tensor:
        """Give what the state dict holds beside the buffers: the steps seen."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self._steps = int(state)


class CurricularFaceHead(RuleHead):
    """CurricularFace; remembers t, the running mean of the own cosines, averaged over the parts of a step.

    As in the original, t is brought up to date with a batch before it is used for it.
    """

    progress: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.register_buffer("progress", torch.zeros(()))

    def _rule(self, own: Tensor, norms: Tensor, *, n_parts: int) -> MarginRule:
        config, progress = self.config, self.progress.clone()
        if self.training:
            own_means = own.unflatten(0, (n_parts, -1)).mean(dim=(1, 2))
            of_parts = updated_progress(progress, own_means, momentum=config.curricular_momentum)
            self._of_parts.append(of_parts)
            progress = of_parts.repeat_interleave(len(own) // n_parts)[:, None]
        return curricularface_rule(progress=progress, scale=config.scale, margin_rad=config.margin)

    def _end_step(self) -> None:
        self.progress.copy_(torch.cat(self._of_parts).mean())


class MVSoftmaxHead(RuleHead):
    """MV-Softmax with the margin on the cosine (`mv_am`) or on the angle (`mv_arc`); nothing is remembered."""

    def _rule(self, own: Tensor, norms: Tensor, *, n_parts: int) -> MarginRule:
        config = self.config
        variant: Literal["am", "arc"] = "am" if config.margin_loss == "mv_am" else "arc"
        return mv_softmax_rule(
            variant=variant,
            scale=config.scale,
            margin=config.margin,
            hard_weight=config.mv_hard_weight,
            adaptive=config.mv_adaptive,
            easy_margin=config.mv_easy_margin,
        )


class AdaFaceHead(RuleHead):
    """AdaFace; remembers how long embeddings are, mean and standard deviation, averaged over the parts of a step.

    As in the original, the statistics are brought up to date with a batch before they are used for it.
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def _rule(self, own: Tensor, norms: Tensor, *, n_parts: int) -> MarginRule:
        config, statistics = self.config, NormStatistics(self.norm_mean.clone(), self.norm_std.clone())
        if self.training:
            of_parts = batch_statistics(norms.unflatten(0, (n_parts, -1)))
            of_parts = updated_statistics(statistics, of_parts, weight=config.adaface_ema)
            self._of_parts.append(torch.stack(of_parts))
            statistics = NormStatistics(*(value.repeat_interleave(len(norms) // n_parts) for value in of_parts))
        return adaface_rule(
            norms,
            statistics=statistics,
            scale=config.scale,
            margin=config.margin,
            concentration=config.adaface_concentration,
        )

    def _end_step(self) -> None:
        mean, std = torch.cat(self._of_parts, dim=1).mean(dim=1)
        self.norm_mean.copy_(mean)
        self.norm_std.copy_(std)


HEADS: dict[str, Callable[[TrainConfig], MarginHead]] = {
    **dict.fromkeys(("softmax", "normface", "cosface", "arcface"), StatelessHead),
    "sphereface": SphereFaceHead,
    "curricularface": CurricularFaceHead,
    "mv_am": MVSoftmaxHead,
    "mv_arc": MVSoftmaxHead,
    "adaface": AdaFaceHead,
    "broadface": BroadFaceHead,
}
"""Name of a margin loss -> its head."""


def build_head(config: TrainConfig) -> MarginHead:
    """Make the head of the settings' margin loss.

    Args:
        config: Settings of the training; `margin_loss` names the head.

    Returns:
        The head, in training mode, with nothing remembered.

    Raises:
        ConfigError: There is no head of that name.
    """
    if config.margin_loss not in HEADS:
        raise ConfigError(f"There is no margin loss {config.margin_loss!r}; known are {', '.join(HEADS)}.")
    return HEADS[config.margin_loss](config)
