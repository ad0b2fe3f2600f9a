"""One step on a batch in parts: one after another in a process, side by side in several, with the same result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from interproto_lib.config import TrainConfig
from interproto_lib.losses.ranks import rank, sum_over_ranks, world_size
from interproto_lib.methods import AgeMethod
from interproto_lib.training.batches import Batch
from interproto_lib.training.recognizer import Recognizer, StepLosses


class PartedBatch:
    """Forward and backward pass of a batch in `batch_parts` parts, spread over the processes.

    Each part goes through the network by itself, so that what it computes does not depend on how many processes there
    are. The gradient is that of the mean loss over the batch. Running statistics of batch normalisation become the mean
    over the parts of what each part alone would have made of them. Before each part the random generator is seeded
    with seed, step and number of the part, so that dropout draws the same numbers for any division, and for a run that
    goes on. With several processes, gradients of everything but the prototypes are averaged by
    `torch.nn.parallel.DistributedDataParallel`; each process holds prototypes of its own.

    Making one is done by all processes together.

    Args:
        recognizer: The model, on its device.
        config: Settings of the training; the number of processes divides `batch_parts`.
        autocast_dtype: See `Recognizer.forward`.
    """

    def __init__(self, recognizer: Recognizer, config: TrainConfig, *, autocast_dtype: torch.dtype | None) -> None:
        self._config = config
        self._autocast_dtype = autocast_dtype
        self._n_rounds = config.batch_parts // world_size()
        self._first_part = rank() * self._n_rounds
        self._statistics = _RunningStatistics(recognizer) if config.batch_parts > 1 else None
        self._model: nn.Module = recognizer
        if world_size() > 1:
            # The second name is what a part of DistributedDataParallel calls a parameter of the outermost module.
            own = ["prototypes", ".prototypes", *(name for name, _ in recognizer.named_buffers())]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(recognizer, own)
            self._model = DistributedDataParallel(
                recognizer,
                gradient_as_bucket_view=True,
                find_unused_parameters=_alternates(recognizer.method),
            )

    def backward(self, batch: Batch, *, step: int) -> Tensor:
        """Compute the losses of this process's part of a batch and add their gradients to the parameters.

        Args:
            batch: This process's part.
            step: Steps made so far.

        Returns:
            Total, margin and Inter-Prototype loss, accuracy, losses of the age method; the mean over the processes is
            that of the batch.
        """
        sums: Tensor | None = None
        if self._statistics is not None:
            self._statistics.begin_step()
        for number in range(self._n_rounds):
            ends_step = number == self._n_rounds - 1
            part = Batch(*(values.chunk(self._n_rounds)[number] for values in batch))
            torch.manual_seed(_seed_of_part(self._config.seed, step, self._first_part + number))
            with nullcontext() if ends_step else self._without_exchange():
                losses: StepLosses = self._model(
                    *part,
                    step=step,
                    autocast_dtype=self._autocast_dtype,
                    share=1.0 / self._n_rounds,
                    ends_step=ends_step,
                )
                losses.total.backward()
            if self._statistics is not None:
                self._statistics.end_part(begins_another=not ends_step)
            values = self._values(losses)
            sums = values if sums is None else sums + values
        if self._statistics is not None:
            self._statistics.end_step(self._config.batch_parts)
        assert sums is not None
        return sums

    def _without_exchange(self) -> AbstractContextManager[None]:
        return self._model.no_sync() if isinstance(self._model, DistributedDataParallel) else nullcontext()

    def _values(self, losses: StepLosses) -> Tensor:
        of_part = torch.stack((losses.margin, losses.accuracy, *losses.method)) / self._n_rounds
        margin, accuracy, *of_method = of_part.unbind()
        return torch.stack((losses.total.detach(), margin, losses.inter_prototype, accuracy, *of_method))


class _RunningStatistics:
    """Running statistics of batch normalisation, averaged over the parts of a batch."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self._now = [statistic for m in norms for statistic in (m.running_mean, m.running_var) if statistic is not None]
        self._counts = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._before: list[Tensor] = []
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def begin_step(self) -> None:
        self._before = [statistic.clone() for statistic in (*self._now, *self._counts)]
        self._sums = [torch.zeros_like(statistic) for statistic in self._now]

    @torch.no_grad()
    def end_part(self, *, begins_another: bool) -> None:
        torch._foreach_add_(self._sums, self._now)
        if begins_another:
            torch._foreach_copy_([*self._now, *self._counts], self._before)

    @torch.no_grad()
    def end_step(self, n_parts: int) -> None:
        whole = sum_over_ranks(torch.cat([values.flatten() for values in self._sums])) / n_parts
        sizes = [values.numel() for values in self._now]
        means = [mean.view_as(now) for mean, now in zip(whole.split(sizes), self._now, strict=True)]
        torch._foreach_copy_(self._now, means)


def _alternates(method: AgeMethod | None) -> bool:
    """Whether some steps train only a part of the model."""
    return method is not None and type(method).opposes is not AgeMethod.opposes


def _seed_of_part(seed: int, step: int, part: int) -> int:
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> 1)
