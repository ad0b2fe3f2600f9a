"""The costs of the paper's Table 3 counted anew: which parts of each method its numbers of parameters hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from interproto_lib.analysis.published import DAL, INTER_PROTOTYPE, MTL, OE_CNN
from interproto_lib.config import TrainConfig
from interproto_lib.methods import METHODS, build_recogniser
from interproto_lib.methods.face_synthesis import (
    GROUP_STARTS_YEARS,
    FaceEncoder,
    FaceGenerator,
    PatchDiscriminator,
)
from interproto_lib.models import count_multiply_adds, count_parameters

PAPER_IMAGE_SIZE = 112
PAPER_IDENTITIES = 10_572
"""Identities of CASIA-WebFace as its files hold them; the paper counts 10,575."""

NETWORK = "network"
METHOD_PARTS = "parts of the method"
PROTOTYPES = "prototypes"
GENERATOR = "generator"
DISCRIMINATOR = "discriminator"

_AGE_METHODS = {OE_CNN: "oe_cnn", DAL: "dal", MTL: "mtlface", INTER_PROTOTYPE: "none"}
_COUNTED = {
    OE_CNN: (NETWORK, METHOD_PARTS, PROTOTYPES),
    DAL: (NETWORK, METHOD_PARTS, PROTOTYPES),
    MTL: (NETWORK, METHOD_PARTS, GENERATOR, DISCRIMINATOR),
    INTER_PROTOTYPE: (NETWORK,),
}


@dataclass(frozen=True, kw_only=True)
class CountedCosts:
    """What one method of Table 3 holds at the paper's size, part by part.

    Attributes:
        parameters: Part -> its parameters. `NETWORK` embeds an image; all others are for training only.
        counted: The parts that together give the published number, cut after two decimals.
        multiply_adds: Part -> its multiply-adds for one image.
    """

    parameters: Mapping[str, int]
    counted: tuple[str, ...]
    multiply_adds: Mapping[str, int]

    @property
    def counted_millions(self) -> float:
        """Millions of parameters of the counted parts, cut after two decimals as the paper's are."""
        return sum(self.parameters[part] for part in self.counted) // 10_000 / 100


@cache
def counted_costs() -> Mapping[str, CountedCosts]:
    """Count what the methods of Table 3 hold at the paper's size: IR-SE-50 at 112x112, d = 512, 10,572 identities.

    The paper does not say what it counts. The parts named in `CountedCosts.counted` are those whose sum is the printed
    number. For MTL that is IR-SE-50 too, although MTLFace's own network is an IR-50 with further normalisations.

    Returns:
        Row of Table 3 -> its counts, in the printed order. No network is computed, only its shapes.

    Example:
        >>> counted_costs()["Inter-Prototype"].counted_millions
        43.79
    """
    return {row: _counted(row, method) for row, method in _AGE_METHODS.items()}


def _counted(row: str, age_method: str) -> CountedCosts:
    loss = "arcface" if age_method == "none" else "cosface"
    config = TrainConfig.preset("official", inter_prototype="none", margin_loss=loss, age_method=age_method)
    with torch.device("meta"):
        network = build_recogniser(config, image_size=PAPER_IMAGE_SIZE)
        parameters = {NETWORK: count_parameters(network)}
        multiply_adds = {NETWORK: count_multiply_adds(network, PAPER_IMAGE_SIZE)}
        if age_method != "none":
            parameters[METHOD_PARTS] = count_parameters(METHODS[age_method](config, network))
        parameters[PROTOTYPES] = PAPER_IDENTITIES * config.embedding_dim
        if row == MTL:
            encoder, n_groups = FaceEncoder(network), len(GROUP_STARTS_YEARS) + 1
            generator = FaceGenerator(encoder.shapes(), n_groups=n_groups)
            discriminator = PatchDiscriminator(image_size=PAPER_IMAGE_SIZE, n_groups=n_groups)
            parameters |= {GENERATOR: count_parameters(generator), DISCRIMINATOR: count_parameters(discriminator)}
            aged = count_multiply_adds(_Aged(encoder, generator), PAPER_IMAGE_SIZE)
            multiply_adds[GENERATOR] = aged - multiply_adds[NETWORK]
            multiply_adds[DISCRIMINATOR] = count_multiply_adds(_Judged(discriminator), PAPER_IMAGE_SIZE)
    return CountedCosts(parameters=parameters, counted=_COUNTED[row], multiply_adds=multiply_adds)


class _Aged(nn.Module):
    """Encoder and generator as one network of an image, to be counted."""

    def __init__(self, encoder: FaceEncoder, generator: FaceGenerator) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator

    def forward(self, images: Tensor) -> Tensor:
        aged: Tensor = self.generator(self.encoder(images), _first_group(images))
        return aged


class _Judged(nn.Module):
    """A discriminator as a network of an image, to be counted."""

    def __init__(self, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        judged: Tensor = self.discriminator(images, _first_group(images))
        return judged


def _first_group(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.int64, device=images.device)
