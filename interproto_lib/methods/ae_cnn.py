"""AE-CNN, reinterpreted: an age factor learned by estimating the age is taken away from the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.methods.age_method import AgeMethod, MethodOutputs, labelled_mean
from interproto_lib.methods.separation import SeparatedBackbone
from interproto_lib.models import Backbone

AGE_UNIT_YEARS = 100.0
"""Ages are estimated in this unit, so that the estimator starts near its targets."""


class AgeEstimationGuided(AgeMethod):
    """AE-CNN as far as it is known: x_id = x - A(x_age), x_age learned by estimating the age, A linear.

    **A reinterpretation.** Of Zheng et al., "Age estimation guided convolutional neural network for age-invariant face
    recognition", CVPR Workshops 2017, only the abstract is public here: an age factor is learned by age estimation and
    separated from the identity feature. Layers, loss and weight are ours.

    Formula: L = L_margin(x_id) + `age_weight` smooth-L1(estimated age, age), in units of 100 years.

    The recogniser is the backbone, the age part and A; the age estimator is for training only.
    """

    title = "AE-CNN (reinterpreted)"

    def __init__(self, config: TrainConfig, recogniser: Backbone) -> None:
        super().__init__(config, recogniser)
        self.age_estimator = nn.Linear(recogniser.embedding_dim, 1)

    @classmethod
    def recogniser_of(cls, backbone: Backbone) -> Backbone:
        """Give the backbone with the age part and A around it; A starts at zero, so that x_id starts as x."""
        dim = backbone.embedding_dim
        separation = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(separation.weight)
        return SeparatedBackbone(backbone, nn.Sequential(nn.Linear(dim, dim), nn.ReLU()), separation)

    def forward(self, recogniser: Backbone, images: Tensor) -> MethodOutputs:
        """Separate a batch and estimate ages from the age factor."""
        assert isinstance(recogniser, SeparatedBackbone)
        identity, age = recogniser.separate(images)
        return MethodOutputs(identity, {"ages": self.age_estimator(age).squeeze(1).float() * AGE_UNIT_YEARS})

    def losses(self, outputs: MethodOutputs, ages_years: Tensor) -> dict[str, Tensor]:
        """Give the age loss."""
        wanted = torch.nan_to_num(ages_years, 0.0) / AGE_UNIT_YEARS
        errors = F.smooth_l1_loss(outputs.parts["ages"] / AGE_UNIT_YEARS, wanted, reduction="none")
        return {"age": self.config.age_weight * labelled_mean(errors, ages_years)}
