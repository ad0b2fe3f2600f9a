"""OE-CNN: the length of an embedding is for the age, its direction for the identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.losses.cosines import at_least_float32, autocast_off
from interproto_lib.methods.age_method import AgeMethod, MethodOutputs, labelled_mean
from interproto_lib.models import Backbone


class OrthogonalEmbedding(AgeMethod):
    """OE-CNN: age from |x|, identity from x / |x|.

    Formula: L = L_margin(x / |x|) + lambda (1/M) sum (k |x_i| + b - age_i)^2, lambda = `age_weight`, k and b learned.
    Source: Wang et al., "Orthogonal deep features decomposition for age-invariant face recognition", ECCV 2018, in the
    reading of the Inter-Prototype authors: CosFace as the margin loss, the mean of squares without the factor 1/2, and
    lambda = 0.001. The original's own lambda and schedule were not found.

    The recogniser is the backbone alone; k and b are for training only.
    """

    title = "OE-CNN"

    def __init__(self, config: TrainConfig, recogniser: Backbone) -> None:
        super().__init__(config, recogniser)
        self.age_of_length = nn.Linear(1, 1)

    def forward(self, recogniser: Backbone, images: Tensor) -> MethodOutputs:
        """Embed a batch and read the age off the lengths, in float32."""
        embeddings = recogniser(images)
        with autocast_off(embeddings):
            lengths = torch.linalg.vector_norm(at_least_float32(embeddings), dim=1, keepdim=True)
            ages = self.age_of_length(lengths).squeeze(1)
        return MethodOutputs(embeddings, {"ages": ages})

    def losses(self, outputs: MethodOutputs, ages_years: Tensor) -> dict[str, Tensor]:
        """Give the age loss."""
        squares = (outputs.parts["ages"] - ages_years.nan_to_num(0)).square()
        return {"age": self.config.age_weight * labelled_mean(squares, ages_years)}
