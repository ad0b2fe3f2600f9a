"""What a step of training computes for each image, counted in multiply-adds: network, prototypes, queue, age parts."""

from __future__ import annotations

from functools import cache

import torch

from interproto_lib.config import TrainConfig
from interproto_lib.methods import METHODS, build_recogniser
from interproto_lib.models import count_multiply_adds, count_parameters

_FORWARD_AND_BACKWARD = 3
"""Products a layer computes: its outputs, and the gradients of its inputs and of its weights."""


def training_multiply_adds(config: TrainConfig, *, image_size: int, n_identities: int) -> float:
    """Multiply-adds of a step of training, for each image of its batch, averaged over the steps of a round.

    Formula: 3 (R + A + n d), where R are the multiply-adds of the network that embeds, A those of the parts that only
    training needs, and n d those of the cosines. BroadFace computes cosines twice, of the batch for the network and of
    queue and batch for the prototypes, and each needs one of the two gradients: 2 n d + 2 n d (b + q) / b instead of
    3 n d, with a full queue of q and batches of b. A step of DAL's opponent computes R + A + n d alone.

    Not counted: what is no product of a layer, such as normalisations, the softmax and the update of the weights, and
    the Inter-Prototype loss, which takes little beside all these.

    Args:
        config: Settings of the training.
        image_size: Height and width of the images in pixels.
        n_identities: Identities to train on, n.

    Returns:
        The number, from settings alone: no network is computed, only its shapes.

    Raises:
        ConfigError: There is no such backbone or age method, or it does not take images of that size.

    Example:
        >>> plain = TrainConfig(backbone="tiny", embedding_dim=16, threads=1)
        >>> few, many = (training_multiply_adds(plain, image_size=56, n_identities=n) for n in (10, 20))
        >>> many - few
        480.0
    """
    network, training_only = _of_network(
        config.backbone, config.embedding_dim, config.dropout, config.age_method, image_size
    )
    cosines = n_identities * config.embedding_dim
    if config.margin_loss == "broadface":
        queued = config.broadface_queue / config.batch_size
        of_head = 2 * cosines + 2 * cosines * (1 + queued)
    else:
        of_head = _FORWARD_AND_BACKWARD * cosines
    whole = _FORWARD_AND_BACKWARD * (network + training_only) + of_head
    if config.age_method != "dal":
        return float(whole)
    opponent = network + training_only + cosines
    steps = config.dal_steps + config.dal_opponent_steps
    return float((config.dal_steps * whole + config.dal_opponent_steps * opponent) / steps)


@cache
def _of_network(backbone: str, embedding_dim: int, dropout: float, age_method: str, image_size: int) -> tuple[int, int]:
    """Multiply-adds of the network that embeds, and of what only training needs: linear layers, one a parameter."""
    config = TrainConfig.from_dict(
        {"backbone": backbone, "embedding_dim": embedding_dim, "dropout": dropout, "age_method": age_method}
    )
    with torch.device("meta"):
        network = build_recogniser(config, image_size=image_size)
        method = METHODS[age_method](config, network) if age_method != "none" else None
    return count_multiply_adds(network, image_size), count_parameters(method) if method else 0
