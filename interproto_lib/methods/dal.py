"""DAL: age and identity parts of an embedding, decorrelated against an opponent that looks for their correlation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.data.manifests import AGE_GROUP_STARTS
from interproto_lib.losses.cosines import at_least_float32, autocast_off
from interproto_lib.methods.age_method import AgeMethod, MethodOutputs, age_group_loss
from interproto_lib.methods.separation import SeparatedBackbone, age_classifier, residual_mapping
from interproto_lib.models import Backbone

VARIANCE_FLOOR = 1e-6
"""Added to each variance: a map that gives one value for all images has no correlation with anything."""


def canonical_correlation(left: Tensor, right: Tensor) -> Tensor:
    """Correlation coefficient of two variables over a batch.

    Formula: rho = mean((a - mean a)(b - mean b)) / sqrt((var a + eps)(var b + eps)), all with 1 / b, eps = 1e-6.

    Args:
        left: (b,) floating point.
        right: (b,) floating point.

    Returns:
        A scalar in [-1, 1], float32 (float64 for float64 input).

    Example:
        >>> canonical_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([6.0, 4.0, 2.0])).round(decimals=3)
        tensor(-1.)
    """
    with autocast_off(left):
        a, b = at_least_float32(left), at_least_float32(right)
        a, b = a - a.mean(), b - b.mean()
        floor = VARIANCE_FLOOR
        return (a * b).mean() / ((a.square().mean() + floor) * (b.square().mean() + floor)).sqrt()


class DecorrelatedLearning(AgeMethod):
    """DAL: x_age = R(x) and x_id = x - x_age, made uncorrelated by adversarial training.

    Two linear maps give v_id = w_id . x_id and v_age = w_age . x_age; rho is their correlation over the batch. The maps
    are trained to maximise |rho| (or rho^2), backbone and R to minimise it, in turns: `dal_opponent_steps` steps of the
    maps, `dal_steps` steps of everything else.

    Formula: L = L_margin(x_id) + `age_weight` CE(age group of x_age) + `dal_weight` |rho|.
    Source: Wang et al., "Decorrelated adversarial learning for age-invariant face recognition", CVPR 2019: R, the two
    maps, 20 steps against 50, both weights 0.1, CosFace; |rho| is the text's, rho^2 (`dal_measure="square"`) that of
    the code. The age head over the eight groups of the paper is the Inter-Prototype authors'.

    The recogniser is backbone and R; age head and maps are for training only.
    """

    title = "DAL"
    loss_names = ("age", "correlation")
    min_batch = 8

    starts: Tensor

    def __init__(self, config: TrainConfig, recogniser: Backbone) -> None:
        super().__init__(config, recogniser)
        dim = recogniser.embedding_dim
        self.age_head = age_classifier(dim, len(AGE_GROUP_STARTS))
        self.identity_map = nn.Linear(dim, 1, bias=False)
        self.age_map = nn.Linear(dim, 1, bias=False)
        self.register_buffer("starts", torch.tensor(AGE_GROUP_STARTS[1:], dtype=torch.float32), persistent=False)

    @classmethod
    def recogniser_of(cls, backbone: Backbone) -> Backbone:
        """Give the backbone with R around it: at test time x_id is embedded."""
        return SeparatedBackbone(backbone, residual_mapping(backbone.embedding_dim))

    def forward(self, recogniser: Backbone, images: Tensor) -> MethodOutputs:
        """Separate a batch into x_id and x_age."""
        assert isinstance(recogniser, SeparatedBackbone)
        identity, age = recogniser.separate(images)
        return MethodOutputs(identity, {"age": age, "age_groups": self.age_head(age)})

    def losses(self, outputs: MethodOutputs, ages_years: Tensor) -> dict[str, Tensor]:
        """Give the age loss and the decorrelation loss; the maps get no gradient from it."""
        measure = self._measure(outputs.embeddings, outputs.parts["age"], opponent=False)
        return {
            "age": self.config.age_weight * age_group_loss(outputs.parts["age_groups"], ages_years, self.starts),
            "correlation": self.config.dal_weight * measure,
        }

    def opposes(self, step: int) -> bool:
        """Say whether a step is the maps': they come first in each round."""
        config = self.config
        return step % (config.dal_opponent_steps + config.dal_steps) < config.dal_opponent_steps

    def opposing_loss(self, outputs: MethodOutputs) -> Tensor:
        """Give minus the measure of correlation, which only the maps can lower."""
        return -self._measure(outputs.embeddings.detach(), outputs.parts["age"].detach(), opponent=True)

    def _measure(self, identity: Tensor, age: Tensor, *, opponent: bool) -> Tensor:
        maps = (self.identity_map.weight[0], self.age_map.weight[0])
        with autocast_off(identity):
            of_identity, of_age = maps if opponent else (weights.detach() for weights in maps)
            rho = canonical_correlation(at_least_float32(identity) @ of_identity, at_least_float32(age) @ of_age)
        return rho.abs() if self.config.dal_measure == "absolute" else rho.square()
