"""Exact softmax over prototypes that are spread over processes and looked at in chunks; no (b, n) logits are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from interproto_lib.errors import ConfigError
from interproto_lib.losses.cosines import at_least_float32, autocast_off, unit_rows
from interproto_lib.losses.margin_rule import MarginRule
from interproto_lib.losses.partial_fc import DrawnRows
from interproto_lib.losses.ranks import max_over_ranks, sum_over_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class PrototypeShard:
    """The prototypes that this process holds, and which of them a step looks at.

    Attributes:
        prototypes: (rows, d) floating point; there may be none.
        rows: Classes that they stand for.
        drawn: Those looked at (partial FC); None: all.
        chunk: How many to look at at a time; 0: all at once.
        of_unit_length: Whether scores are those of prototypes scaled to length 1.
    """

    prototypes: Tensor
    rows: range
    drawn: DrawnRows | None = None
    chunk: int = 0
    of_unit_length: bool = True

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.prototypes):
            raise ConfigError(f"{len(self.prototypes)} prototypes cannot be those of the classes {self.rows}.")

    def __len__(self) -> int:
        """How many prototypes are looked at."""
        return len(self.prototypes if self.drawn is None else self.drawn.places)

    def held_fixed(self) -> PrototypeShard:
        """Give the same prototypes, without gradient."""
        return replace(self, prototypes=self.prototypes.detach())

    def chunks(self) -> Iterator[slice]:
        """Give chunk by chunk the places among the prototypes looked at."""
        size = self.chunk or max(len(self), 1)
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def part(self, chunk: slice) -> Tensor:
        """Give the (k, d) prototypes of a chunk, as they are."""
        return self.prototypes[chunk if self.drawn is None else self.drawn.places[chunk]]

    def places(self, labels: Tensor) -> Tensor:
        """Give the (b,) places of classes among the prototypes looked at; -1 where another process holds one."""
        places = labels.long() - self.rows.start
        held = (places >= 0) & (places < len(self.rows))
        if self.drawn is not None:
            places = torch.searchsorted(self.drawn.places, places)
        return torch.where(held, places, -1)

    def classes(self, places: Tensor) -> Tensor:
        """Give the classes at places among the prototypes looked at."""
        if self.drawn is not None and len(self):
            places = self.drawn.places[places.clamp_min(0)]
        return places + self.rows.start


@torch.no_grad()
def prototypes_of(labels: Tensor, shard: PrototypeShard) -> Tensor:
    """Give the prototypes of classes, whichever processes hold them.

    Args:
        labels: (b,) classes, the same on all processes.
        shard: What this process holds.

    Returns:
        (b, d), at least float32, the same on all processes, without gradient.

    Raises:
        ConfigError: A label is no class at all; looked for on the CPU alone, where it costs no waiting.
    """
    places = labels.long() - shard.rows.start
    held = ((places >= 0) & (places < len(shard.rows)))[:, None]
    if len(shard.rows):
        rows = at_least_float32(shard.prototypes[places.clamp(0, len(shard.rows) - 1)]).masked_fill(~held, 0)
    else:
        rows = at_least_float32(shard.prototypes.new_zeros((len(labels), shard.prototypes.shape[1])))
    if labels.device.type == "cpu":
        missing = (sum_over_ranks(held[:, 0].int()) == 0).nonzero()
        if len(missing):
            row, n = int(missing[0]), int(max_over_ranks(torch.tensor(shard.rows.stop)))
            raise ConfigError(
                f"label {int(labels[row])} in row {row} of the batch is outside [0, {n}): "
                "labels are row numbers of the prototypes."
            )
    return sum_over_ranks(rows)


@torch.no_grad()
def own_scores(embeddings: Tensor, labels: Tensor, shard: PrototypeShard) -> Tensor:
    """Give the score of each embedding with the prototype of its own class.

    Args:
        embeddings: (b, d), those of all processes; of unit length for cosines.
        labels: (b,) their classes.
        shard: What this process holds.

    Returns:
        (b, 1), at least float32, the same on all processes, without gradient.

    Raises:
        ConfigError: See `prototypes_of`.
    """
    with autocast_off(embeddings):
        rows = prototypes_of(labels, shard)
        return (embeddings * (unit_rows(rows) if shard.of_unit_length else rows)).sum(dim=1, keepdim=True)


def softmax_over_shards(
    embeddings: Tensor,
    labels: Tensor,
    shard: PrototypeShard,
    rule: MarginRule,
    *,
    own: Tensor,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of a margin loss over the prototypes of all processes.

    Formula: sum_i w_i (log sum_j e^{z_ij} - z_{i, y_i}), the sum over j in chunks and over processes. The backward pass
    goes through the chunks once more; every logit is computed twice, but no more than a chunk of them is ever held.
    Sent between processes: b numbers six times.

    Args:
        embeddings: (b, d) at least float32, those of all processes (see `gather_rows`); of unit length for cosines.
            The gradient they get is the part of this process: the sum over processes is the whole.
        labels: (b,) their classes, each of which is looked at by the process that holds it.
        shard: What this process holds. Prototypes get their whole gradient: dense, or a sparse tensor of the rows
            looked at.
        rule: The margin loss, for these b embeddings.
        own: (b, 1) scores with the own prototypes (see `own_scores`).
        weights: (b,) w_i; None: 1 / b each.

    Returns:
        The loss, a scalar, and the (b,) classes with the highest score without margin, among those looked at; the same
        on all processes.

    """
    dtype = torch.promote_types(embeddings.dtype, at_least_float32(shard.prototypes).dtype)
    if weights is None:
        weights = torch.full((len(embeddings),), 1 / max(len(embeddings), 1), dtype=dtype, device=embeddings.device)
    is_drawn = None if shard.drawn is None else shard.drawn.is_drawn
    of_rule = _Rule(rule, own.to(dtype), shard.places(labels), is_drawn)
    loss, predicted = _ShardedSoftmax.apply(
        embeddings.to(dtype), rule.scale, shard.prototypes, shard, of_rule, weights.to(dtype)
    )
    return loss, predicted


@dataclass(frozen=True, eq=False)
class _Rule:
    """A margin loss for a batch whose own prototypes lie here and there."""

    rule: MarginRule
    own: Tensor
    places: Tensor
    is_drawn: Tensor | None

    def own_places(self, chunk: slice) -> tuple[Tensor, Tensor]:
        """For each row whether its own class lies in a chunk, and where, if so; both (b, 1)."""
        here = (self.places >= chunk.start) & (self.places < chunk.stop)
        return here[:, None], (self.places - chunk.start).clamp(0, chunk.stop - chunk.start - 1)[:, None]

    def logits(self, scores: Tensor, scale: float | Tensor, chunk: slice) -> Tensor:
        """Logits of a chunk; minus infinity for classes that a row does not look at."""
        here, place = self.own_places(chunk)
        at_place = scores.gather(1, place)
        replaced = torch.where(here, self.rule.target(at_place), self.rule.others(at_place, self.own)) * scale
        return self.looked_at((self.rule.others(scores, self.own) * scale).scatter_(1, place, replaced), chunk)

    def looked_at(self, values: Tensor, chunk: slice) -> Tensor:
        """Values of a chunk; minus infinity for classes that a row does not look at."""
        if self.is_drawn is None:
            return values
        here, place = self.own_places(chunk)
        others = ~self.is_drawn[chunk].expand(values.shape)
        return values.masked_fill(others.scatter(1, place, others.gather(1, place) & ~here), -math.inf)


def _scores(embeddings: Tensor, prototypes: Tensor, *, of_unit_length: bool) -> Tensor:
    rows = unit_rows(prototypes) if of_unit_length else at_least_float32(prototypes)
    return embeddings @ rows.to(embeddings.dtype).T


class _ShardedSoftmax(Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        scale: float | Tensor,
        prototypes: Tensor,
        shard: PrototypeShard,
        rule: _Rule,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with autocast_off(embeddings):
            log_sums = embeddings.new_full((len(embeddings),), -math.inf)
            own_logits, best = torch.zeros_like(log_sums), log_sums.clone()
            best_place = torch.full_like(rule.places, -1)
            for chunk in shard.chunks():
                scores = _scores(embeddings, shard.part(chunk), of_unit_length=shard.of_unit_length)
                highest, at = rule.looked_at(scores, chunk).max(dim=1)
                best_place = torch.where(highest > best, at + chunk.start, best_place)
                best = torch.maximum(best, highest)
                logits = rule.logits(scores, scale, chunk)
                here, place = rule.own_places(chunk)
                own_logits += logits.gather(1, place).masked_fill_(~here, 0)[:, 0]
                log_sums = torch.logaddexp(log_sums, logits.logsumexp(dim=1))
                del scores, logits
            largest = max_over_ranks(log_sums)
            log_sums = largest + sum_over_ranks((log_sums - largest).exp()).log()
            of_own, n_holders = sum_over_ranks(torch.stack((own_logits, (rule.places >= 0).to(own_logits.dtype))))
            loss = (weights * (log_sums - of_own / n_holders)).sum()  # NaN where nobody holds a class
            # Of equal scores the class with the lower number counts, as in argmax.
            classes = shard.classes(best_place)
            none = torch.iinfo(classes.dtype).max
            reached = (best == max_over_ranks(best)) & (best_place >= 0)
            predicted = -max_over_ranks(-torch.where(reached, classes, none))
        ctx.shard, ctx.rule = shard, rule
        ctx.scale = None if isinstance(scale, Tensor) else scale
        ctx.save_for_backward(embeddings, scale if ctx.scale is None else None, prototypes, weights, log_sums)
        ctx.mark_non_differentiable(predicted)
        return loss, predicted

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, scale, prototypes, weights, log_sums = ctx.saved_tensors
        shard: PrototypeShard = ctx.shard
        wanted = ctx.needs_input_grad[:3]
        with autocast_off(embeddings):
            sums = [torch.zeros_like(t) if want else None for t, want in zip((embeddings, scale), wanted, strict=False)]
            of_prototypes = prototypes.new_empty((len(shard), prototypes.shape[1])) if wanted[2] else None
            for chunk in shard.chunks():
                with torch.enable_grad():
                    leaves = [
                        t.detach().requires_grad_(want) if isinstance(t, Tensor) else t
                        for t, want in zip((embeddings, scale, shard.part(chunk)), wanted, strict=True)
                    ]
                    scores = _scores(leaves[0], leaves[2], of_unit_length=shard.of_unit_length)
                    factor = ctx.scale if leaves[1] is None else leaves[1]
                    logits = ctx.rule.logits(scores, factor, chunk)
                here, place = ctx.rule.own_places(chunk)
                changes = (logits.detach() - log_sums[:, None]).exp_()
                changes.scatter_(1, place, changes.gather(1, place) - here.to(changes.dtype))
                changes.mul_((gradient * weights)[:, None])
                asked = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
                found = iter(torch.autograd.grad(logits, asked, changes))
                del scores, logits, changes
                for total in sums:
                    if total is not None:
                        total.add_(next(found))
                if of_prototypes is not None:
                    of_prototypes[chunk] = next(found)
        if of_prototypes is not None and shard.drawn is not None:
            of_prototypes = torch.sparse_coo_tensor(
                shard.drawn.places[None], of_prototypes, prototypes.shape, is_coalesced=True, check_invariants=False
            )
        return *sums, of_prototypes, None, None, None
