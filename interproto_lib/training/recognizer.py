"""A backbone and its prototypes under one loss: what Algorithm 1 of the paper optimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.losses import build_head, inter_prototype_loss
from interproto_lib.methods import METHODS, AgeMethod, MethodOutputs, build_recogniser
from interproto_lib.models.inputs import images_to_input


@dataclass(frozen=True)
class StepLosses:
    """What one step computed, still on the device.

    Attributes:
        total: Scalar to differentiate: Eq. 7, and the losses of an age method; in a step of such a method's opponent,
            the opponent's loss alone.
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

    The prototypes start as rows of independent uniform(-1, 1) numbers scaled to length 1, as in the official code.

    Args:
        config: Settings of the training.
        image_size: Height and width of the images in pixels.
        is_child: (n,) bool, which identities count as child identities; n is the number of prototypes.

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
        rows = torch.empty(n_identities, config.embedding_dim).uniform_(-1, 1)
        self.prototypes = nn.Parameter(nn.functional.normalize(rows))
        self.head = build_head(config)
        self.method: AgeMethod | None = None
        if config.age_method != "none":
            self.method = METHODS[config.age_method](config, self.backbone)
        self.register_buffer("pushed_apart", torch.from_numpy(scope), persistent=False)

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
    ) -> StepLosses:
        """Compute the losses of a batch.

        Args:
            images: (b, h, w, 3) uint8.
            labels: (b,) integers, rows of the prototypes.
            ages_years: (b,) float32, NaN where unknown; None where all are.
            step: Steps made so far, for methods that alternate.
            autocast_dtype: Lower precision of the networks; None keeps float32. The losses are float32 in any case.

        Returns:
            The losses.
        """
        method, device = self.method, images.device.type
        inputs = images_to_input(images, channels_last=self.config.channels_last)
        if method is None:
            with torch.autocast(device, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                outputs = MethodOutputs(self.backbone(inputs), {})
            return self._losses(outputs, labels, {})
        ages = torch.full_like(labels, torch.nan, dtype=torch.float32) if ages_years is None else ages_years
        opposes = method.opposes(step)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not opposes):
            with torch.autocast(device, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                outputs = method(self.backbone, inputs)
            self.head.train(self.training and not opposes)  # what it remembers is not to hold what it does not train on
            losses = self._losses(outputs, labels, method.losses(outputs, ages))
        return replace(losses, total=method.opposing_loss(outputs)) if opposes else losses

    def _losses(self, outputs: MethodOutputs, labels: Tensor, of_method: Mapping[str, Tensor]) -> StepLosses:
        config = self.config
        margin, predicted = self.head(outputs.embeddings, self.prototypes, labels)
        total, pushed = margin, margin.new_zeros(())
        if config.inter_prototype != "none":
            pushed = inter_prototype_loss(self.prototypes[self.pushed_apart], reduction=config.ip_reduction)
            total = total + config.ip_weight * pushed
        for loss in of_method.values():
            total = total + loss
        return StepLosses(
            total=total,
            margin=margin.detach(),
            inter_prototype=pushed.detach(),
            accuracy=(predicted == labels).float().mean(),
            method=tuple(of_method[name].detach() for name in self.method_loss_names),
        )


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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
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
