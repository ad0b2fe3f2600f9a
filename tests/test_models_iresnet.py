"""Networks of arcface_torch, AdaFace and MTLFace: published sizes, names, a second implementation, training."""

import math

import numpy as np
import pytest
import torch
from foreign_networks import Functional
from torch import nn

from interproto_lib.models import build_backbone, count_multiply_adds, count_parameters
from interproto_lib.models.inference import for_inference

# Parameters and 1e9 multiply-adds at 112x112 and d = 512 (reference/methods.md, section 2).
IRESNET_FACTS = {
    "iresnet18": (24_025_600, 2.610),
    "iresnet34": (34_139_328, 4.460),
    "iresnet50": (43_590_848, 6.309),
    "iresnet100": (65_156_160, 12.090),
}
# Units per stage, and squeeze-excitation, of the networks with batch normalisation inside the unit.
NORMALISED = {
    "adaface_ir18": ((2, 2, 2, 2), False),
    "adaface_ir34": ((3, 4, 6, 3), False),
    "adaface_ir50": ((3, 4, 14, 3), False),
    "adaface_ir101": ((3, 13, 30, 3), False),
    "adaface_ir_se50": ((3, 4, 14, 3), True),
    "mtlface_ir50": ((3, 4, 14, 3), False),
}
WIDTHS = (64, 128, 256, 512)
NAMES = [*IRESNET_FACTS, *NORMALISED]


def on_meta(name, **settings):
    with torch.device("meta"):
        return build_backbone(name, **settings)


def batch_norm(prefix, *, affine=True):
    parts = ("running_mean", "running_var", "num_batches_tracked", *(("weight", "bias") if affine else ()))
    return {f"{prefix}.{part}" for part in parts}


def images(n, size):
    values = np.random.default_rng(0).uniform(-1, 1, (n, 3, size, size))
    return torch.from_numpy(values)


def scramble(module):
    """Values with an effect of their own for every parameter and running statistic."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            if key.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return module


@pytest.mark.parametrize("name", IRESNET_FACTS)
def test_iresnet_sizes_are_the_published_ones(name):
    parameters, giga = IRESNET_FACTS[name]
    assert count_parameters(on_meta(name)) == parameters
    assert round(count_multiply_adds(on_meta(name), 112) / 1e9, 3) == giga


def test_mtlfaces_size_is_the_published_one():
    assert count_parameters(on_meta("mtlface_ir50")) == 43_586_624


@pytest.mark.parametrize("name", NORMALISED)
def test_sizes_by_hand(name):
    units, squeeze = NORMALISED[name]
    total = 3 * 9 * 64 + 3 * 64
    width_in, side, adds = 64, 112, 112**2 * 27 * 64
    for width, n in zip(WIDTHS, units, strict=True):
        for position in range(n):
            total += 2 * width_in + 9 * width_in * width + 2 * width + width + 9 * width * width + 2 * width
            adds += side**2 * 9 * width_in * width
            side //= 2 if position == 0 else 1
            adds += side**2 * 9 * width * width
            if width_in != width:
                total += width_in * width + 2 * width
                adds += side**2 * width_in * width
            total += 2 * width * width // 16 if squeeze else 0
            adds += 2 * width * width // 16 if squeeze else 0
            width_in = width
    total += 2 * 512 + 512 * 49 * 512 + 512 + (2 * 512 if name.startswith("mtlface") else 0)
    assert count_parameters(on_meta(name)) == total
    assert count_multiply_adds(on_meta(name), 112) == adds + 512 * 49 * 512


@pytest.mark.parametrize(("name", "units"), [("iresnet18", (2, 2, 2, 2)), ("iresnet100", (3, 13, 30, 3))])
def test_iresnet_names_are_arcface_torchs(name, units):
    keys = {"conv1.weight", "prelu.weight", "fc.weight", "fc.bias"}
    keys |= batch_norm("bn1") | batch_norm("bn2") | batch_norm("features")
    for stage, n in enumerate(units, start=1):
        for i in range(n):
            unit = f"layer{stage}.{i}"
            keys |= {f"{unit}.conv1.weight", f"{unit}.conv2.weight", f"{unit}.prelu.weight"}
            keys |= batch_norm(f"{unit}.bn1") | batch_norm(f"{unit}.bn2") | batch_norm(f"{unit}.bn3")
        keys |= {f"layer{stage}.0.downsample.0.weight"} | batch_norm(f"layer{stage}.0.downsample.1")
    assert set(on_meta(name).state_dict()) == keys


@pytest.mark.parametrize("name", ["adaface_ir18", "adaface_ir_se50", "adaface_ir101", "mtlface_ir50"])
def test_names_of_networks_with_normalisation_inside_the_unit(name):
    units, squeeze = NORMALISED[name]
    keys = {"input_layer.0.weight", "input_layer.2.weight", "output_layer.3.weight", "output_layer.3.bias"}
    keys |= batch_norm("input_layer.1") | batch_norm("output_layer.0")
    keys |= batch_norm("output_layer.4", affine=name.startswith("mtlface"))
    for i in range(sum(units)):
        unit = f"body.{i}.res_layer"
        keys |= {f"{unit}.1.weight", f"{unit}.3.weight", f"{unit}.4.weight"}
        keys |= batch_norm(f"{unit}.0") | batch_norm(f"{unit}.2") | batch_norm(f"{unit}.5")
        keys |= {f"{unit}.se_block.fc1.weight", f"{unit}.se_block.fc2.weight"} if squeeze else set()
    for i in (sum(units[:1]), sum(units[:2]), sum(units[:3])):
        keys |= {f"body.{i}.shortcut_layer.0.weight"} | batch_norm(f"body.{i}.shortcut_layer.1")
    assert set(on_meta(name).state_dict()) == keys


@pytest.mark.parametrize("name", ["iresnet18", "iresnet34", "adaface_ir18", "adaface_ir_se50", "mtlface_ir50"])
def test_embeddings_are_those_of_a_second_implementation(name):
    backbone = scramble(build_backbone(name, embedding_dim=24, image_size=32, dropout=0.5)).eval()
    x = images(2, 32)
    functional = Functional(backbone.state_dict())
    expected = (functional.iresnet if name in IRESNET_FACTS else functional.ir)(x, int(name[-2:]))
    assert expected[0].sub(expected[1]).square().mean() > 1e-3 * expected.square().mean()
    with torch.no_grad():
        folded = for_inference(backbone)(x.float())
        single = backbone(x.float())
        double = backbone.double()(x)
    torch.testing.assert_close(double, expected, rtol=1e-9, atol=1e-9)
    scale = expected.square().mean().sqrt().item()
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(folded.double(), expected, rtol=0, atol=1e-4 * scale)


def test_inference_folds_the_norms_inside_iresnet_units():
    backbone = build_backbone("iresnet18", embedding_dim=8, image_size=16).eval()

    def n_norms(module):
        return sum(isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) for part in module.modules())

    # Two of three in each of 8 units, and one in each of 4 shortcuts.
    assert n_norms(backbone) - n_norms(for_inference(backbone)) == 8 * 2 + 4


@pytest.mark.parametrize("name", ["iresnet18", "adaface_ir18", "mtlface_ir50"])
def test_a_step_of_training_moves_every_weight_but_the_fixed_scale(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_dim=16, image_size=16, dropout=0.0).train()
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    target = torch.linspace(-1, 1, 4 * 16).reshape(4, 16)
    (backbone(images(4, 16).float()) * target).sum().backward()
    optimiser.step()
    still = {key for key, tensor in backbone.state_dict().items() if torch.equal(tensor, before[key])}
    expected = {"features.weight"} if name == "iresnet18" else set()
    # A bias just before a batch normalisation has no effect by rights.
    assert still - {"fc.bias", "output_layer.3.bias"} == expected
    assert all(torch.isfinite(tensor).all() for tensor in backbone.state_dict().values())


def test_the_scale_of_iresnets_last_normalisation_is_fixed_at_one():
    backbone = build_backbone("iresnet18", embedding_dim=8, image_size=16)
    assert torch.equal(backbone.features.weight, torch.ones(8))
    assert [key for key, p in backbone.named_parameters() if not p.requires_grad] == ["features.weight"]


@pytest.mark.parametrize(
    ("name", "key", "deviation"),
    [
        ("iresnet18", "layer3.1.conv1.weight", 0.1),
        ("adaface_ir18", "body.5.res_layer.1.weight", math.sqrt(2 / (256 * 9))),
        ("mtlface_ir50", "body.9.res_layer.1.weight", math.sqrt(2 / (2 * 256 * 9))),
    ],
)
def test_initialisation_is_the_sources(name, key, deviation):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_dim=8, image_size=16)
    weight = backbone.state_dict()[key]
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * deviation)
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    bounded = weight.abs().max().item() < 1.8 * deviation
    assert bounded == (name == "mtlface_ir50")  # uniform ends at sqrt(3) deviations, normal does not
