"""Age-invariant methods that the paper compares with: what each adds to backbone and loss."""

from __future__ import annotations

from interproto_lib.methods.ae_cnn import AgeEstimationGuided
from interproto_lib.methods.age_method import AgeMethod, MethodOutputs
from interproto_lib.methods.dal import DecorrelatedLearning, canonical_correlation
from interproto_lib.methods.oe_cnn import OrthogonalEmbedding
from interproto_lib.methods.separation import SeparatedBackbone

METHODS: dict[str, type[AgeMethod]] = {
    "oe_cnn": OrthogonalEmbedding,
    "ae_cnn": AgeEstimationGuided,
    "dal": DecorrelatedLearning,
}
"""Name of an age method, as in `TrainConfig.age_method` -> the method."""

__all__ = [
    "METHODS",
    "AgeEstimationGuided",
    "AgeMethod",
    "DecorrelatedLearning",
    "MethodOutputs",
    "OrthogonalEmbedding",
    "SeparatedBackbone",
    "canonical_correlation",
]
