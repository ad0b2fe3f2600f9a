"""A backbone and its prototypes under one loss: what Algorithm 1 of the paper optimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses import RowSGD, build_head, inter_prototype_loss
from interproto_lib.losses.ranks import rank, shard_rows, world_size
from interproto_lib.methods import METHODS, AgeMethod, MethodOutputs, build_recogniser
from interproto_lib.models.inputs import images_to_input

_ROWS_AT_A_TIME = 65536


@dataclass(frozen=True)
class StepLosses:
    """What one step computed, still on the device.

    Attributes:
        total: Scalar to differentiate: Eq. 7, and the losses of an age method; in a step of such a method's opponent,
            the opponent's loss alone. Of a part of a batch: its share in the loss of the whole batch.
        margin: Scalar, the margin loss, Eq. 3.
        inter_prototype: Scalar, the Inter-Prototype loss before its weight, Eq. 5; 0 where it is off.
        accuracy: Scalar, share of the batch whose nearest prototype is its own, without margin.
        method: Scalars, the weighted losses of the age method by `AgeMethod.loss_names`; none without one.
    """

    total: Tensor
    margin: Tensor
    inter_prototype: Tensor
    accuracy: Tensor
    method: tuple[Tensor, ...] = ()


class Recognizer(nn.Module):
    """Backbone f and prototypes W, with the losses of the settings.

    The prototypes start as rows of independent uniform(-1, 1) numbers scaled to length 1, as in the official code. Of
    several processes each holds some rows of them, and all else whole. All draw the same numbers and keep their own, so
    that a training starts the same for any number of processes.

    Args:
        config: Settings of the training.
        image_size: Height and width of the images in pixels.
        is_child: (n,) bool, which identities count as child identities; n is the number of prototypes.

    Attributes:
        prototypes: (rows, d) parameter, the rows of this process; all n where there is one process.
        prototype_rows: Which of the n rows these are.
        n_pushed_apart: How many of the n prototypes the Inter-Prototype loss pushes apart.

    Raises:
        ConfigError: The settings ask for the Inter-Prototype loss but fewer than two prototypes are in its scope.
    """

    pushed_apart: Tensor

    def __init__(self, config: TrainConfig, *, image_size: int, is_child: np.ndarray) -> None:
        super().__init__()
        n_identities = len(is_child)
        scope = inter_prototype_scope(config, is_child)
        self.config = config
        self.backbone = build_recogniser(config, image_size=image_size)
        self.prototype_rows = shard_rows(n_identities, world_size(), rank())
        self.prototypes = nn.Parameter(_drawn_rows(n_identities, config.embedding_dim, self.prototype_rows))
        self.head = build_head(config)
        self.method: AgeMethod | None = None
        if config.age_method != "none":
            self.method = METHODS[config.age_method](config, self.backbone)
        self.n_pushed_apart = len(scope)
        first, end = self.prototype_rows.start, self.prototype_rows.stop
        own = torch.from_numpy(scope[(scope >= first) & (scope < end)] - first)
        self.register_buffer("pushed_apart", own, persistent=False)  # rows of `prototypes`

    @property
    def method_loss_names(self) -> tuple[str, ...]:
        """Names of the age method's losses, none without one."""
        return () if self.method is None else self.method.loss_names

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        ages_years: Tensor | None = None,
        *,
        step: int = 0,
        autocast_dtype: torch.dtype | None = None,
        share: float = 1.0,
        ends_step: bool = True,
    ) -> StepLosses:
        """Compute the losses of a batch, or of a part of one.

        Args:
            images: (b, h, w, 3) uint8.
            labels: (b,) integers, rows of the prototypes.
            ages_years: (b,) float32, NaN where unknown; None where all are.
            step: Steps made so far, for methods that alternate.
            autocast_dtype: Lower precision of the networks; None keeps float32. The losses are float32 in any case.
            share: Weight of these images' losses in the total: 1 over the parts of the batch that a process takes.
            ends_step: Whether this is the last part of the step that a process takes; the Inter-Prototype loss, which
                comes once a step, is in the total of that one.

        Returns:
            The losses.
        """
        method, device = self.method, images.device.type
        inputs = images_to_input(images, channels_last=self.config.channels_last)
        if method is None:
            with torch.autocast(device, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                outputs = MethodOutputs(self.backbone(inputs), {})
            return self._losses(outputs, labels, {}, step=step, share=share, ends_step=ends_step)
        ages = torch.full_like(labels, torch.nan, dtype=torch.float32) if ages_years is None else ages_years
        opposes = method.opposes(step)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not opposes):
            with torch.autocast(device, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                outputs = method(self.backbone, inputs)
            self.head.train(self.training and not opposes)  # what it remembers is not to hold what it does not train on
            of_method = method.losses(outputs, ages)
            losses = self._losses(outputs, labels, of_method, step=step, share=share, ends_step=ends_step)
        return replace(losses, total=share * method.opposing_loss(outputs)) if opposes else losses

    def _losses(
        self,
        outputs: MethodOutputs,
        labels: Tensor,
        of_method: Mapping[str, Tensor],
        *,
        step: int,
        share: float,
        ends_step: bool,
    ) -> StepLosses:
        config = self.config
        margin, predicted = self.head(
            outputs.embeddings, self.prototypes, labels, rows=self.prototype_rows, step=step, ends_step=ends_step
        )
        total, pushed = share * margin, margin.new_zeros(())
        if config.inter_prototype != "none" and ends_step:
            rows = self._rows_pushed_apart()
            pushed = inter_prototype_loss(rows, reduction=config.ip_reduction, n_total=self.n_pushed_apart)
            total = total + config.ip_weight * pushed
        for loss in of_method.values():
            total = total + share * loss
        return StepLosses(
            total=total,
            margin=margin.detach(),
            inter_prototype=pushed.detach(),
            accuracy=(predicted == labels).float().mean(),
            method=tuple(of_method[name].detach() for name in self.method_loss_names),
        )

    def _rows_pushed_apart(self) -> Tensor:
        """The own prototypes in scope: no copy where all are; under partial FC only they get a gradient."""
        if len(self.pushed_apart) == len(self.prototypes):
            return self.prototypes
        if self.config.partial_fc_rate < 1:
            return nn.functional.embedding(self.pushed_apart, self.prototypes, sparse=True)
        return self.prototypes[self.pushed_apart]


def _drawn_rows(n: int, dim: int, kept: range) -> Tensor:
    """Draw the n prototypes in turn and keep some: the same numbers for any division, and never all in memory."""
    rows = torch.empty(len(kept), dim)
    for start in range(0, n, _ROWS_AT_A_TIME):
        end = min(start + _ROWS_AT_A_TIME, n)
        drawn = nn.functional.normalize(torch.empty(end - start, dim).uniform_(-1, 1))
        first, last = max(start, kept.start), min(end, kept.stop)
        if first < last:
            rows[first - kept.start : last - kept.start] = drawn[first - start : last - start]
    return rows


def inter_prototype_scope(config: TrainConfig, is_child: np.ndarray) -> np.ndarray:
    """Give the prototypes that the Inter-Prototype loss pushes apart.

    Args:
        config: Settings; `inter_prototype` names the scope.
        is_child: (n,) bool, which identities count as child identities.

    Returns:
        Row numbers, int64; empty where the loss is off.

    Raises:
        ConfigError: The loss is on but there are fewer than two prototypes to push apart.
    """
    if config.inter_prototype == "none":
        return np.empty(0, dtype=np.int64)
    rows = np.flatnonzero(is_child) if config.inter_prototype == "child" else np.arange(len(is_child))
    if len(rows) >= 2:
        return rows.astype(np.int64)
    if config.inter_prototype == "all":
        raise ConfigError(f"inter_prototype='all' needs two identities, found {len(rows)}. Use inter_prototype='none'.")
    raise ConfigError(
        f"inter_prototype='child' needs two child identities, found {len(rows)} with at least "
        f"min_child_images={config.min_child_images} images below {config.child_below_years:g} years. "
        "Lower min_child_images, add age labels, or use inter_prototype='all'."
    )


def build_optimizers(model: Recognizer) -> dict[str, torch.optim.Optimizer]:
    """Make the SGD of a training; under partial FC the prototypes have one of their own, which moves only rows drawn.

    Args:
        model: The model, on its device.

    Returns:
        The optimisers by name, together with every parameter once.
    """
    config = model.config
    groups = parameter_groups(model, config.weight_decay)
    rate, momentum = config.learning_rate, config.momentum
    if config.partial_fc_rate == 1:
        return {"sgd": torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=True)}
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter is not model.prototypes]
    prototypes = RowSGD([model.prototypes], lr=rate, momentum=momentum, weight_decay=config.weight_decay)
    return {"sgd": torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=True), "prototypes": prototypes}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those with weight decay and those of batch normalisation, without, as officially done.

    Args:
        model: The model.
        weight_decay: L2 penalty of the first group.

    Returns:
        Two groups for `torch.optim`, together every parameter once.
    """
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    spared = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
