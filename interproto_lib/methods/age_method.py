"""What an age-invariant method adds to backbone, prototypes and margin loss, and how the two are kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.models import Backbone


@dataclass(frozen=True)
class MethodOutputs:
    """What a method computes of a batch before its losses.

    Attributes:
        embeddings: (b, d) for the margin loss, as the recogniser gives them at test time.
        parts: Name -> what the method's own losses need.
    """

    embeddings: Tensor
    parts: Mapping[str, Tensor]


class AgeMethod(nn.Module):
    """An age-invariant method beside a recogniser.

    The *recogniser* is a backbone, where needed with a part that takes age out of its embedding; it is all that is kept
    for test time. The parameters of this module are needed in training only.

    Attributes:
        title: Its name in tables.
        loss_names: Names of its losses, in the order in which they are recorded.
        needs_ages: Whether training images must have ages.
        min_batch: Images that a batch must hold.

    Args:
        config: Settings of the training.
        recogniser: What `recogniser_of` gave.
    """

    title: ClassVar[str]
    loss_names: ClassVar[tuple[str, ...]] = ("age",)
    needs_ages: ClassVar[bool] = True
    min_batch: ClassVar[int] = 2

    def __init__(self, config: TrainConfig, recogniser: Backbone) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def recogniser_of(cls, backbone: Backbone) -> Backbone:
        """Give the network that is embedded with at test time: the backbone itself, or one around it."""
        return backbone

    @classmethod
    def check(cls, config: TrainConfig, ages_years: NDArray[np.float64]) -> None:
        """Refuse a training that lacks an ingredient, before it starts.

        Args:
            config: Settings of the training.
            ages_years: (n,) ages of the training images, NaN where unknown.

        Raises:
            ConfigError: No training image has an age where ages are needed, or a batch is too small.
        """
        if cls.needs_ages and not np.isfinite(ages_years).any():
            raise ConfigError(
                f"age_method={config.age_method!r} learns from ages, but none of the {len(ages_years):,} training "
                "images has one. Give the dataset a table of ages, or use age_method='none'."
            )
        if config.batch_size < cls.min_batch:
            raise ConfigError(
                f"age_method={config.age_method!r} needs batches of {cls.min_batch} images or more, but "
                f"batch_size={config.batch_size}."
            )

    def forward(self, recogniser: Backbone, images: Tensor) -> MethodOutputs:
        """Compute embeddings and what the losses need.

        Args:
            recogniser: What `recogniser_of` gave.
            images: (b, 3, h, w) in [-1, 1].

        Returns:
            The outputs.
        """
        return MethodOutputs(recogniser(images), {})

    def losses(self, outputs: MethodOutputs, ages_years: Tensor) -> dict[str, Tensor]:
        """Compute the method's losses, weighted, to be added to margin loss and Inter-Prototype loss.

        Args:
            outputs: Of `forward`.
            ages_years: (b,) ages in years, NaN where unknown: such an image counts in no age loss.

        Returns:
            Name -> scalar, float32, one for each of `loss_names`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement losses")

    def opposes(self, step: int) -> bool:
        """Say whether a step trains the method's opponent instead of everything else.

        Args:
            step: Steps made so far.
        """
        return False

    def opposing_loss(self, outputs: MethodOutputs) -> Tensor:
        """Compute the loss of a step that trains the opponent; its gradient reaches the opponent alone.

        Args:
            outputs: Of `forward`, without gradient.

        Returns:
            A scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} has no opponent")


def labelled_mean(values: Tensor, ages_years: Tensor) -> Tensor:
    """Mean over the images whose age is known, without waiting for the device; 0 where there are none.

    Args:
        values: (b,) one value an image, finite also where the age is unknown.
        ages_years: (b,) NaN where unknown.

    Returns:
        A scalar.
    """
    known = torch.isfinite(ages_years)
    return (values * known).sum() / known.sum().clamp_min(1)


def age_group_loss(logits: Tensor, ages_years: Tensor, starts: Tensor) -> Tensor:
    """Cross-entropy of age groups over the images whose age is known.

    Args:
        logits: (b, g) one logit a group.
        ages_years: (b,) NaN where unknown.
        starts: (g - 1,) first whole age in years of each group but the youngest, rising.

    Returns:
        A scalar, float32.
    """
    groups = torch.bucketize(ages_years.nan_to_num(0).floor(), starts, right=True)
    return labelled_mean(F.cross_entropy(logits.float(), groups, reduction="none"), ages_years)
