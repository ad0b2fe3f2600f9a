"""Age-invariant methods that the paper compares with: what each adds to backbone and loss."""

from __future__ import annotations

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.methods.ae_cnn import AgeEstimationGuided
from interproto_lib.methods.age_method import AgeMethod, MethodOutputs
from interproto_lib.methods.attention import AgeAttention, AttentiveBackbone
from interproto_lib.methods.dal import DecorrelatedLearning, canonical_correlation
from interproto_lib.methods.gradient_reversal import reverse_gradient
from interproto_lib.methods.mtlface import MTLFACE_GROUP_STARTS, AgeEstimator, AttentiveSeparation, expected_age
from interproto_lib.methods.oe_cnn import OrthogonalEmbedding
from interproto_lib.methods.separation import SeparatedBackbone
from interproto_lib.models import Backbone, build_backbone

METHODS: dict[str, type[AgeMethod]] = {
    "oe_cnn": OrthogonalEmbedding,
    "ae_cnn": AgeEstimationGuided,
    "dal": DecorrelatedLearning,
    "mtlface": AttentiveSeparation,
}
"""Name of an age method, as in `TrainConfig.age_method` -> the method."""


def build_recogniser(config: TrainConfig, *, image_size: int) -> Backbone:
    """Build the network of a run that is embedded with at test time: the backbone, with what its age method adds.

    Args:
        config: Settings of the training.
        image_size: Height and width of the images in pixels.

    Returns:
        The network in training mode, with fresh weights.

    Raises:
        ConfigError: There is no age method or backbone of that name, or the backbone does not suit the method.
    """
    if config.age_method != "none" and config.age_method not in METHODS:
        raise ConfigError(f"There is no age method {config.age_method!r}; known are none, {', '.join(METHODS)}.")
    backbone = build_backbone(
        config.backbone, embedding_dim=config.embedding_dim, image_size=image_size, dropout=config.dropout
    )
    return backbone if config.age_method == "none" else METHODS[config.age_method].recogniser_of(backbone)


__all__ = [
    "METHODS",
    "MTLFACE_GROUP_STARTS",
    "AgeAttention",
    "AgeEstimationGuided",
    "AgeEstimator",
    "AgeMethod",
    "AttentiveBackbone",
    "AttentiveSeparation",
    "DecorrelatedLearning",
    "MethodOutputs",
    "OrthogonalEmbedding",
    "SeparatedBackbone",
    "build_recogniser",
    "canonical_correlation",
    "expected_age",
    "reverse_gradient",
]
