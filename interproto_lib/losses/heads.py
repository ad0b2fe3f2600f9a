"""Margin losses with what they remember: embeddings, prototypes and labels in, the loss of a batch out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses.adaface import NormStatistics, adaface_logits, batch_statistics, updated_statistics
from interproto_lib.losses.broadface import broadface_loss, compensated
from interproto_lib.losses.cosines import at_least_float32, autocast_off, check_batch, cosine_similarities
from interproto_lib.losses.curricularface import curricularface_logits, updated_progress
from interproto_lib.losses.margin_softmax import class_scores, margin_softmax_loss
from interproto_lib.losses.mv_softmax import mv_softmax_logits
from interproto_lib.losses.ranks import average_over_ranks
from interproto_lib.losses.sphereface import sphereface_annealing, sphereface_logits


class HeadOutput(NamedTuple):
    """What a head computes.

    Attributes:
        loss: Scalar, the mean loss of the batch.
        predicted: (b,) int64, the class of the highest score without margin: what an image is taken for.
    """

    loss: Tensor
    predicted: Tensor


class MarginHead(nn.Module):
    """A margin loss. What it remembers between batches are its buffers, so that a checkpoint holds it.

    Buffers change in training mode only, and within `forward`.

    Args:
        config: Settings of the training; each head reads its own.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the mean loss of a batch, float32 even under autocast.

        Args:
            embeddings: (b, d) floating point, any length.
            prototypes: (n, d) floating point, any length.
            labels: (b,) integers in [0, n).

        Returns:
            The loss and the classes predicted.

        Raises:
            ConfigError: Shapes, labels or settings do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward")


class StatelessHead(MarginHead):
    """softmax, normface, cosface and arcface: nothing is remembered."""

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss; see `MarginHead`."""
        config = self.config
        scores = class_scores(embeddings, prototypes, kind=config.margin_loss)
        loss = margin_softmax_loss(scores, labels, kind=config.margin_loss, scale=config.scale, margin=config.margin)
        return HeadOutput(loss, scores.detach().argmax(1))


class SphereFaceHead(MarginHead):
    """SphereFace; remembers how many batches it has seen, for its annealing."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self._steps = 0  # a plain number: reading it from a device at every step would stall the queue

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss; see `MarginHead`."""
        config = self.config
        annealing = sphereface_annealing(
            self._steps,
            start=config.sphereface_lambda_start,
            decay=config.sphereface_lambda_decay,
            lowest=config.sphereface_lambda_min,
        )
        self._steps += self.training
        cosines = cosine_similarities(embeddings, prototypes)
        logits = sphereface_logits(
            cosines,
            labels,
            _lengths(embeddings),
            margin_factor=int(config.margin),
            annealing=annealing,
        )
        return HeadOutput(_cross_entropy(logits, labels), cosines.detach().argmax(1))

    def get_extra_state(self) -> Tensor:
        """Give what the state dict holds beside the buffers: the batches seen."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self._steps = int(state)


class CurricularFaceHead(MarginHead):
    """CurricularFace; remembers t, the running mean of the own cosines, averaged over ranks."""

    progress: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss; t is updated before it is used, as in the original."""
        cosines = cosine_similarities(embeddings, prototypes)
        if self.training:
            own = cosines.detach().gather(1, check_batch(cosines, labels)[:, None]).mean()
            progress = updated_progress(
                self.progress, average_over_ranks(own), momentum=self.config.curricular_momentum
            )
            self.progress.copy_(progress)
        logits = curricularface_logits(
            cosines, labels, progress=self.progress.clone(), scale=self.config.scale, margin_rad=self.config.margin
        )
        return HeadOutput(_cross_entropy(logits, labels), cosines.detach().argmax(1))


class MVSoftmaxHead(MarginHead):
    """MV-Softmax with the margin on the cosine (`mv_am`) or on the angle (`mv_arc`); nothing is remembered."""

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss; see `MarginHead`."""
        config = self.config
        variant: Literal["am", "arc"] = "am" if config.margin_loss == "mv_am" else "arc"
        cosines = cosine_similarities(embeddings, prototypes)
        logits = mv_softmax_logits(
            cosines,
            labels,
            variant=variant,
            scale=config.scale,
            margin=config.margin,
            hard_weight=config.mv_hard_weight,
            adaptive=config.mv_adaptive,
            easy_margin=config.mv_easy_margin,
        )
        return HeadOutput(_cross_entropy(logits, labels), cosines.detach().argmax(1))


class AdaFaceHead(MarginHead):
    """AdaFace; remembers how long embeddings are, mean and standard deviation, averaged over ranks."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss; the statistics are updated before they are used, as in the original."""
        config = self.config
        lengths = _lengths(embeddings)
        if self.training:
            batch = NormStatistics(*(average_over_ranks(value) for value in batch_statistics(lengths)))
            updated = updated_statistics(
                NormStatistics(self.norm_mean, self.norm_std), batch, weight=config.adaface_ema
            )
            self.norm_mean.copy_(updated.mean)
            self.norm_std.copy_(updated.std)
        cosines = cosine_similarities(embeddings, prototypes)
        logits = adaface_logits(
            cosines,
            labels,
            lengths,
            statistics=NormStatistics(self.norm_mean.clone(), self.norm_std.clone()),
            scale=config.scale,
            margin=config.margin,
            concentration=config.adaface_concentration,
        )
        return HeadOutput(_cross_entropy(logits, labels), cosines.detach().argmax(1))


class BroadFaceHead(MarginHead):
    """BroadFace; remembers past embeddings with their prototypes of that time, the oldest leaving first.

    Its loss is the sum of two cross-entropies (see `broadface_loss`), about twice that of other heads.
    """

    queue: Tensor
    queue_prototypes: Tensor
    queue_labels: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        size = (config.broadface_queue, config.embedding_dim)
        self.register_buffer("queue", torch.zeros(size))
        self.register_buffer("queue_prototypes", torch.zeros(size))
        self.register_buffer("queue_labels", torch.zeros(size[0], dtype=torch.int64))
        self._filled, self._next = 0, 0  # plain numbers, as in SphereFace

    def forward(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss; the batch joins the queue afterwards."""
        filled = self._filled
        then = self.queue_labels[:filled]
        now = prototypes[then].to(self.queue.dtype)
        loss, cosines = broadface_loss(
            embeddings,
            prototypes,
            labels,
            queued=compensated(self.queue[:filled], self.queue_prototypes[:filled], now),
            queued_labels=then,
            scale=self.config.scale,
            margin_rad=self.config.margin,
        )
        if self.training:
            self._remember(embeddings.detach(), prototypes.detach(), labels)
        return HeadOutput(loss, cosines.argmax(1))

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor) -> None:
        size = len(self.queue)
        kept = min(len(labels), size)
        places = (torch.arange(kept, device=labels.device) + self._next) % size
        newest = labels[-kept:].long()
        self.queue[places] = embeddings[-kept:].to(self.queue.dtype)
        self.queue_prototypes[places] = prototypes[newest].to(self.queue.dtype)
        self.queue_labels[places] = newest
        self._filled = min(self._filled + kept, size)
        self._next = (self._next + kept) % size

    def get_extra_state(self) -> Tensor:
        """Give what the state dict holds beside the buffers: how full the queue is, and where it goes on."""
        return torch.tensor([self._filled, self._next])

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self._filled, self._next = (int(number) for number in state)


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


def _lengths(embeddings: Tensor) -> Tensor:
    with autocast_off(embeddings):
        return torch.linalg.vector_norm(at_least_float32(embeddings), dim=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    with autocast_off(logits):
        return F.cross_entropy(logits, labels.long())
