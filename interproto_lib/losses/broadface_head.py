"""The head of BroadFace, which remembers past embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from interproto_lib.config import TrainConfig
from interproto_lib.losses.arcface import arcface_rule
from interproto_lib.losses.broadface import broadface_loss, compensated
from interproto_lib.losses.cosines import at_least_float32, autocast_off, unit_rows
from interproto_lib.losses.margin_head import HeadOutput, MarginHead
from interproto_lib.losses.ranks import gather_rows, rank, world_size
from interproto_lib.losses.sharded_softmax import PrototypeShard, own_scores, prototypes_of, softmax_over_shards


class BroadFaceHead(MarginHead):
    """BroadFace; remembers past embeddings with their prototypes of that time, the oldest leaving first.

    Its loss is the sum of two cross-entropies (see `broadface_loss`), about twice that of other heads. With several
    processes each holds the whole queue. Each part of a step is joined by the queue as it was before the step.
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
        self._of_parts: list[tuple[Tensor, Tensor, Tensor]] = []

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
        """Compute the loss; the step joins the queue afterwards."""
        past = self.queue_labels[: self._filled]
        if self._is_spread(embeddings, prototypes, labels, rows):
            with autocast_off(embeddings):
                everybody, identities = gather_rows(at_least_float32(embeddings)), gather_rows(labels.long())
                shard = self._shard(prototypes, torch.cat([past, identities]), rows, step)
                output = self._over_shards(everybody, identities, shard)
            now = prototypes_of(identities, shard) if self.training else None
        else:
            everybody, identities = embeddings, labels.long()
            loss, cosines = broadface_loss(
                embeddings,
                prototypes,
                labels,
                queued=self._compensated(prototypes[past]),
                queued_labels=past,
                scale=self.config.scale,
                margin_rad=self.config.margin,
            )
            output = HeadOutput(loss, cosines.argmax(1))
            now = prototypes.detach()[identities] if self.training else None
        if now is not None:
            self._of_parts.append((everybody.detach(), now, identities))
            if ends_step:
                self._end_step()
        return output

    def _compensated(self, prototypes_now: Tensor) -> Tensor:
        then = self.queue_prototypes[: self._filled]
        return compensated(self.queue[: self._filled], then, prototypes_now.to(self.queue.dtype))

    def _over_shards(self, everybody: Tensor, identities: Tensor, shard: PrototypeShard) -> HeadOutput:
        """`broadface_loss` for each process's part of the batch, the mean over them."""
        rule = arcface_rule(scale=self.config.scale, margin_rad=self.config.margin)
        past, n_parts = self.queue_labels[: self._filled], world_size()
        queued = self._compensated(prototypes_of(past, shard))
        directions = unit_rows(everybody)
        own = own_scores(directions, identities, shard)
        of_batch, predicted = softmax_over_shards(directions, identities, shard.held_fixed(), rule, own=own)
        held = torch.cat([unit_rows(queued).to(directions.dtype), directions.detach()])
        everyone = torch.cat([past, identities])
        of_part = len(identities) // n_parts
        weights = held.new_full((len(held),), 1 / (len(past) + of_part))
        weights[len(past) :] /= n_parts
        of_all, _ = softmax_over_shards(
            held, everyone, shard, rule, own=own_scores(held, everyone, shard), weights=weights
        )
        return HeadOutput(of_batch + of_all, predicted[rank() * of_part :][:of_part])

    @torch.no_grad()
    def _end_step(self) -> None:
        """Let the parts of the step join the queue, those of the first process first, as one process would have."""
        n_parts, size = world_size(), len(self.queue)
        embeddings, prototypes, labels = (
            torch.stack([part.unflatten(0, (n_parts, -1)) for part in parts], dim=1).flatten(0, 2)
            for parts in zip(*self._of_parts, strict=True)
        )
        self._of_parts.clear()
        kept = min(len(labels), size)
        places = (torch.arange(kept, device=labels.device) + self._next) % size
        self.queue[places] = embeddings[-kept:].to(self.queue.dtype)
        self.queue_prototypes[places] = prototypes[-kept:].to(self.queue.dtype)
        self.queue_labels[places] = labels[-kept:]
        self._filled = min(self._filled + kept, size)
        self._next = (self._next + kept) % size

    def get_extra_state(self) -> Tensor:
        """Give what the state dict holds beside the buffers: how full the queue is, and where it goes on."""
        return torch.tensor([self._filled, self._next])

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self._filled, self._next = (int(number) for number in state)
