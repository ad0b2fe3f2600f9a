"""MTLFace, the part that recognises: attention takes age out of the feature map, and a reversed age loss keeps it out.

Source: Huang, Zhang and Shan, *When Age-Invariant Face Recognition Meets Face Age Synthesis: A Multi-Task Learning
Framework* (CVPR 2021), and its authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interproto_lib.config import TrainConfig
from interproto_lib.losses.cosines import at_least_float32, autocast_off
from interproto_lib.methods.age_method import AgeMethod, MethodOutputs, age_group_loss, labelled_mean
from interproto_lib.methods.attention import AttentiveBackbone
from interproto_lib.methods.gradient_reversal import reverse_gradient
from interproto_lib.models import Backbone

N_AGES = 101
"""Ages 0 to 100 years, each with a logit of its own."""

MTLFACE_GROUP_STARTS: tuple[int, ...] = (0, 11, 21, 31, 41, 51, 61)
"""First whole age in years of each of MTLFace's seven groups: 0-10, 11-20, ..., 51-60, 61 and more."""

HIDDEN_WIDTH = 512


def expected_age(logits: Tensor) -> Tensor:
    """Mean age of the distribution over whole ages that logits stand for.

    Formula: sum_k k softmax(logits)_k, k = 0, 1, 2, ... years.
    Source: Rothe, Timofte and Van Gool, "Deep expectation of real and apparent age from a single image without facial
    landmarks", IJCV 2018.

    Args:
        logits: (b, k) one logit a year of age.

    Returns:
        (b,) ages in years, at least float32.

    Example:
        >>> expected_age(torch.tensor([[0.0, 0.0, 0.0], [0.0, 50.0, 0.0]]))
        tensor([1., 1.])
    """
    with autocast_off(logits):
        shares = at_least_float32(logits).softmax(dim=1)
        years = torch.arange(shares.shape[1], device=shares.device, dtype=shares.dtype)
        # Not a matrix product, which a GPU may round to ten bits.
        return (shares * years).sum(dim=1)


class AgeEstimator(nn.Module):
    """Age and age group of a feature map: BN, flatten, linear to 512, ReLU, linear to 101 ages, linear to 7 groups.

    The group's logits are a linear map of the ages' logits. Computed in float32 whatever autocast says, as in the
    authors' code.

    Args:
        feature_shape: (c, h, w) of a feature map.
    """

    def __init__(self, feature_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = feature_shape
        self.age_layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(channels * height * width, HIDDEN_WIDTH),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN_WIDTH, N_AGES),
        )
        self.group_layer = nn.Linear(N_AGES, len(MTLFACE_GROUP_STARTS))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (b, c, h, w) to ages in years (b,) and logits of the groups (b, 7)."""
        with autocast_off(features):
            logits = self.age_layers(at_least_float32(features))
            return expected_age(logits), self.group_layer(logits)


class AttentiveSeparation(AgeMethod):
    """MTLFace: x_age = x (channel + spatial attention) / 2 and x_id = x - x_age of the last feature map x.

    Formula: L = L_margin(embedding of x_id) + `age_weight` L_age(x_age) + `mtl_reversed_weight` L_age'(R(x_id)), where
    L_age is the mean of (expected age - age)^2, plus the cross-entropy of seven age groups. Each of the two has an
    `AgeEstimator` of its own. R reverses the gradient: the second estimator learns the age from the identity part, and
    attention and backbone learn to leave none in it.
    Source: see the module. Published: weights 0.001 and 0.002, CosFace with s = 64 and m = 0.35, the backbone
    `mtlface_ir50` with dropout 0.5.

    Deviations: weight decay acts as with every other method, so also on biases and on the second estimator, which the
    authors' code leaves out of it. An age between two groups, such as 10.5 years, is that of a ten-year-old; the
    authors' ages are whole. Theirs is trained in turns with a network that synthesises faces of other ages; that
    network learns from the recogniser, the recogniser nothing from it.

    The recogniser is backbone and attention; the estimators are for training only. Parameters at 112x112 with 512
    channels: backbone 43,586,624 (`mtlface_ir50`), attention 3,441,764, two estimators of 12,899,119 each. The
    Inter-Prototype paper states 134.05 million for "MTL" (Table 3) and not what it counts. Its own backbone `ir_se50`
    (43,797,696), the attention, both estimators, and generator (54,041,920) and discriminator (6,973,889) as in the
    authors' code are together 134,053,507; with `mtlface_ir50` it would be 133.84 million. By that count the
    prototypes are left out, which OE-CNN's and DAL's numbers hold. 47.24 million of it embed an image.
    """

    title = "MTLFace"
    loss_names = ("age", "reversed_age")

    starts: Tensor

    def __init__(self, config: TrainConfig, recogniser: Backbone) -> None:
        super().__init__(config, recogniser)
        self.age_estimator = AgeEstimator(recogniser.feature_shape)
        self.reversed_age_estimator = AgeEstimator(recogniser.feature_shape)
        self.register_buffer("starts", torch.tensor(MTLFACE_GROUP_STARTS[1:], dtype=torch.float32), persistent=False)

    @classmethod
    def recogniser_of(cls, backbone: Backbone) -> Backbone:
        """Give the backbone with the attention in it: at test time x_id is embedded."""
        return AttentiveBackbone(backbone)

    def forward(self, recogniser: Backbone, images: Tensor) -> MethodOutputs:
        """Separate the feature maps of a batch and estimate ages from either part."""
        assert isinstance(recogniser, AttentiveBackbone)
        identity, age = recogniser.separate(images)
        ages, groups = self.age_estimator(age)
        reversed_ages, reversed_groups = self.reversed_age_estimator(reverse_gradient(identity))
        parts = {
            "ages": ages,
            "age_groups": groups,
            "reversed_ages": reversed_ages,
            "reversed_age_groups": reversed_groups,
        }
        return MethodOutputs(recogniser.embed_feature_map(identity), parts)

    def losses(self, outputs: MethodOutputs, ages_years: Tensor) -> dict[str, Tensor]:
        """Give the age loss of either part."""
        parts, config = outputs.parts, self.config
        of_age = self._age_loss(parts["ages"], parts["age_groups"], ages_years)
        of_identity = self._age_loss(parts["reversed_ages"], parts["reversed_age_groups"], ages_years)
        return {"age": config.age_weight * of_age, "reversed_age": config.mtl_reversed_weight * of_identity}

    def _age_loss(self, ages: Tensor, groups: Tensor, ages_years: Tensor) -> Tensor:
        squares = (ages - ages_years.nan_to_num(0)).square()
        return labelled_mean(squares, ages_years) + age_group_loss(groups, ages_years, self.starts)
