"""The frame of all margin losses with memory: one process or several, all prototypes at once or a part at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import (
    at_least_float32,
    autocast_off,
    check_batch,
    check_labels,
    check_vectors,
    cosine_similarities,
    inner_products,
    unit_rows,
)
from interproto_lib.losses.margin_rule import MarginRule, rule_logits
from interproto_lib.losses.partial_fc import drawn_rows
from interproto_lib.losses.ranks import gather_rows, rank, world_size
from interproto_lib.losses.sharded_softmax import PrototypeShard, own_scores, softmax_over_shards


class HeadOutput(NamedTuple):
    """What a head computes.

    Attributes:
        loss: Scalar, the mean loss of the batch, over all processes; the same on all of them.
        predicted: (b,) int64, the class of the highest score without margin: what an image is taken for.
    """

    loss: Tensor
    predicted: Tensor


class MarginHead(nn.Module):
    """A margin loss. What it remembers between steps are its buffers, so that a checkpoint holds it.

    A step may go through in parts, side by side in several processes and one after another in each. Each part is looked
    at with what was remembered before the step, brought up to date with that part alone; after the last part the mean
    over all parts is remembered. So nothing depends on how many processes there are. What is remembered
    changes in training mode only, and within `forward`.

    Args:
        config: Settings of the training; each head reads its own, and all read `softmax_chunk`, `partial_fc_rate` and
            `seed`.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        embeddings: Tensor,
        prototypes: Tensor,
        labels: Tensor,
        *,
        rows: range | None = None,
        step: int = 0,
        ends_step: bool = True,
    ) -> HeadOutput:
        """Compute the mean loss of a batch, float32 even under autocast.

        With several processes each gives a part of the batch, all of one size, and holds a part of the prototypes. The
        gradient of the embeddings is then multiplied by the number of processes, by which DistributedDataParallel
        divides it; that of the prototypes is the whole one.

        Where there is one process, `softmax_chunk` is 0 and `partial_fc_rate` 1, the logits of the batch are kept for
        the backward pass; otherwise they are computed anew in it (see `softmax_over_shards`). Under partial FC the
        prototypes get a sparse gradient, of the rows looked at, and only what an image looks at is predicted for it.

        Args:
            embeddings: (b, d) floating point, any length.
            prototypes: (rows, d) floating point, any length.
            labels: (b,) integers in [0, n).
            rows: Classes that the prototypes stand for, with several processes (see `shard_rows`); None: all.
            step: Steps made so far, which decides what partial FC draws.
            ends_step: Whether this is this process's last part of the step.

        Returns:
            The loss and the classes predicted.

        Raises:
            ConfigError: Shapes, labels or settings do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    def _is_spread(self, embeddings: Tensor, prototypes: Tensor, labels: Tensor, rows: range | None) -> bool:
        """Whether to look at prototypes of several processes, or at a part of them at a time."""
        check_vectors(embeddings, prototypes)
        check_labels(labels, rows=len(embeddings))
        if rows is None and world_size() > 1:
            raise ConfigError(
                f"There are {world_size()} processes: each must say which rows of the prototypes it holds."
            )
        if rows is not None and (world_size() == 1) and rows != range(len(prototypes)):
            raise ConfigError(f"One process holds all {len(prototypes)} prototypes, not the rows {rows} alone.")
        config = self.config
        return world_size() > 1 or 0 < config.softmax_chunk < len(prototypes) or config.partial_fc_rate < 1

    def _shard(self, prototypes: Tensor, labels: Tensor, rows: range | None, step: int) -> PrototypeShard:
        """The prototypes of this process; `labels` are those that partial FC keeps in any case."""
        config, rows = self.config, range(len(prototypes)) if rows is None else rows
        drawn = None
        if config.partial_fc_rate < 1:
            drawn = drawn_rows(rows, labels, rate=config.partial_fc_rate, seed=config.seed, step=step)
        return PrototypeShard(
            prototypes=prototypes,
            rows=rows,
            drawn=drawn,
            chunk=config.softmax_chunk,
            of_unit_length=config.margin_loss != "softmax",
        )


class RuleHead(MarginHead):
    """A margin loss that is one softmax over the classes, by a rule that may change with what is remembered."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self._of_parts: list[Tensor] = []

    def forward(
        self,
        embeddings: Tensor,
        prototypes: Tensor,
        labels: Tensor,
        *,
        rows: range | None = None,
        step: int = 0,
        ends_step: bool = True,
    ) -> HeadOutput:
        """Compute the loss; see `MarginHead`."""
        if self._is_spread(embeddings, prototypes, labels, rows):
            output = self._over_shards(embeddings, prototypes, labels, rows, step)
        else:
            of_unit_length = self.config.margin_loss != "softmax"
            scores = (cosine_similarities if of_unit_length else inner_products)(embeddings, prototypes)
            own = scores.detach().gather(1, check_batch(scores, labels)[:, None])
            logits = rule_logits(scores, labels, self._rule(own, lengths(embeddings), n_parts=1))
            with autocast_off(logits):
                output = HeadOutput(F.cross_entropy(logits, labels.long()), scores.detach().argmax(1))
        if self.training and ends_step:
            self._end_step()
            self._of_parts.clear()
        return output

    def _over_shards(
        self, embeddings: Tensor, prototypes: Tensor, labels: Tensor, rows: range | None, step: int
    ) -> HeadOutput:
        with autocast_off(embeddings):
            everybody, identities = gather_rows(at_least_float32(embeddings)), gather_rows(labels)
            shard = self._shard(prototypes, identities, rows, step)
            directions = unit_rows(everybody) if shard.of_unit_length else everybody
            own = own_scores(directions, identities, shard)
            rule = self._rule(own, lengths(everybody), n_parts=world_size())
            loss, predicted = softmax_over_shards(directions, identities, shard, rule, own=own)
        return HeadOutput(loss, predicted[rank() * len(labels) :][: len(labels)])

    def _rule(self, own: Tensor, norms: Tensor, *, n_parts: int) -> MarginRule:
        """Give the rule for a batch, and in training note in `_of_parts` what its parts leave to be remembered.

        Args:
            own: (b, 1) scores with the own prototypes, without gradient.
            norms: (b,) lengths of the embeddings.
            n_parts: How many parts of one size the batch consists of, one after another.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _rule")

    def _end_step(self) -> None:
        """Remember what the parts of the step left in `_of_parts`."""


def lengths(embeddings: Tensor) -> Tensor:
    """Lengths of embeddings, (b,), at least float32."""
    with autocast_off(embeddings):
        return torch.linalg.vector_norm(at_least_float32(embeddings), dim=1)
