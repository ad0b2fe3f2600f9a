"""The losses of face age synthesis: least-squares adversarial losses, identity kept, age group reached."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from interproto_lib.losses.cosines import at_least_float32, autocast_off


class GeneratorLosses(NamedTuple):
    """What the generator minimises.

    Attributes:
        total: Weighted sum, a scalar.
        adversarial: 1/2 mean (D(made) - 1)^2, unweighted.
        identity: Mean squared difference of the identity maps, unweighted.
        age: Cross-entropy of the age group wanted, unweighted.
    """

    total: Tensor
    adversarial: Tensor
    identity: Tensor
    age: Tensor


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Least-squares loss of the discriminator.

    Formula: 1/2 [mean (D(real) - 1)^2 + mean D(made)^2].
    Source: Mao et al., "Least squares generative adversarial networks", ICCV 2017; with these targets in MTLFace.

    Args:
        real: Values of the patches of real faces, any shape.
        made: Values of the patches of synthesised faces, any shape.

    Returns:
        A scalar, float32 even under autocast.

    Example:
        >>> import torch
        >>> discriminator_loss(torch.tensor([1.0, 0.0]), torch.tensor([1.0]))
        tensor(0.7500)
    """
    with autocast_off(real):
        return 0.5 * ((at_least_float32(real) - 1).square().mean() + at_least_float32(made).square().mean())


def generator_losses(
    made: Tensor,
    identity: Tensor,
    identity_of_made: Tensor,
    group_logits: Tensor,
    groups: Tensor,
    *,
    gan_weight: float,
    identity_weight: float,
    age_weight: float,
) -> GeneratorLosses:
    """Losses of the generator.

    Formula: w_gan 1/2 mean (D(made) - 1)^2 + w_id mean (x_id - x_id(made))^2 + w_age CE(group(made), group).
    Source: MTLFace, with the weights 75, 0.002 and 10. The mean over identity maps is over all values.

    Args:
        made: Values of the patches of synthesised faces, any shape.
        identity: (b, c, h, w), x_id of the faces that were aged.
        identity_of_made: (b, c, h, w), x_id of the synthesised faces.
        group_logits: (b, g) of the synthesised faces.
        groups: (b,) int64, the age groups wanted.
        gan_weight: w_gan.
        identity_weight: w_id.
        age_weight: w_age.

    Returns:
        The losses, float32 even under autocast.
    """
    with autocast_off(made):
        adversarial = 0.5 * (at_least_float32(made) - 1).square().mean()
        kept = F.mse_loss(at_least_float32(identity_of_made), at_least_float32(identity))
        age = F.cross_entropy(at_least_float32(group_logits), groups)
    total = gan_weight * adversarial + identity_weight * kept + age_weight * age
    return GeneratorLosses(total, adversarial, kept, age)
