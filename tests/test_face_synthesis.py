"""Face age synthesis: which channels an age group uses, shapes, spectral norm, losses and gradients, by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from toy import tiny

from interproto_lib.errors import ConfigError
from interproto_lib.methods import build_recogniser
from interproto_lib.methods.age_estimators import AgeGroupHead, AgeJudge
from interproto_lib.methods.face_synthesis import (
    FaceEncoder,
    FaceGenerator,
    IdentityConditionalModule,
    PatchDiscriminator,
    age_groups,
    group_masks,
)
from interproto_lib.methods.synthesis_losses import discriminator_loss, generator_losses
from interproto_lib.methods.synthesis_settings import SynthesisConfig
from interproto_lib.models import build_backbone, count_parameters


def encoder(backbone: str = "tiny", *, image_size: int = 56) -> FaceEncoder:
    torch.manual_seed(0)
    config = tiny(age_method="mtlface", backbone=backbone, embedding_dim=16)
    return FaceEncoder(build_recogniser(config, image_size=image_size))


def faces(n: int = 3, *, image_size: int = 56) -> torch.Tensor:
    return torch.rand(n, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- age groups and their channels ----------------------------------------------------------------


def test_masks_are_mtlfaces():
    masks = group_masks(7, 128, 0.1)
    assert masks.shape == (7, 819), "512 channels become 819"
    assert masks.sum(1).tolist() == [128] * 7
    starts = [int(row.nonzero()[0]) for row in masks]
    assert starts == [math.floor(115.2 * group) for group in range(7)]
    assert int((masks.sum(0) == 0).sum()) == 0, "each channel is some group's"
    assert masks.sum(0).max() == 2, "and of two groups at most"
    overlaps = [int((one * other).sum()) for one, other in pairwise(masks)]
    assert set(overlaps) <= {12, 13}, "a tenth of 128"
    assert int((masks[0] * masks[2]).sum()) == 0


def test_masks_without_overlap_and_of_narrow_networks():
    assert group_masks(3, 2, 0.0).tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    assert group_masks(7, 16, 0.1).shape == (7, 86 + 16)
    assert group_masks(1, 4, 0.5).tolist() == [[1, 1, 1, 1]]


def test_a_group_uses_its_own_channels_alone():
    torch.manual_seed(0)
    module = IdentityConditionalModule(8, n_groups=3, overlap=0.0, n_blocks=2).eval()
    seen = []
    module.leave.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(torch.randn(3, 8, 4, 4), torch.tensor([0, 1, 2]))
    used = seen[0].abs().amax((2, 3)) > 0
    assert used.tolist() == [[True] * 2 + [False] * 4, [False] * 2 + [True] * 2 + [False] * 2, [False] * 4 + [True] * 2]


def test_what_one_group_learns_leaves_the_own_channels_of_others():
    torch.manual_seed(0)
    module = IdentityConditionalModule(8, n_groups=3, overlap=0.0, n_blocks=1)
    module(torch.randn(4, 8, 4, 4), torch.zeros(4, dtype=torch.int64)).square().sum().backward()
    gradient = module.leave[0].weight.grad.abs().amax((0, 2, 3))
    assert (gradient[:2] > 0).all()
    assert (gradient[2:] == 0).all()


def test_age_groups_are_mtlfaces():
    """In the code of its authors a group is how many of 10, 20 ... 60 an age in whole years exceeds."""
    ages = torch.arange(0, 101, dtype=torch.float32)
    assert age_groups(ages).tolist() == [sum(age > bound for bound in range(10, 61, 10)) for age in range(101)]
    assert age_groups(torch.tensor([10.9, 11.0])).tolist() == [0, 1]


def test_names_and_centres_of_groups():
    config = SynthesisConfig(group_starts_years=(13, 19))
    assert config.group_names == ("0-12", "13-18", ">=19")
    assert config.group_centres_years == (6.5, 16.0, 22.0)
    assert (config.n_groups, SynthesisConfig().n_groups) == (3, 7)
    assert SynthesisConfig().group_names[::6] == ("0-10", ">=61")


# --- networks -------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_published_networks():
    """54,041,920 and 6,973,889 parameters, counted in the code of MTLFace's authors."""
    with torch.device("meta"):
        config = tiny(age_method="mtlface", backbone="mtlface_ir50", embedding_dim=512)
        published = FaceEncoder(build_recogniser(config, image_size=112))
        shapes = published.shapes()
        assert [skip.shape[1:] for skip in shapes.skips] == [(256, 14, 14), (128, 28, 28), (64, 56, 56), (3, 112, 112)]
        assert shapes.identity.shape[1:] == shapes.age.shape[1:] == (512, 7, 7)
        generator = FaceGenerator(shapes, n_groups=7)
        discriminator = PatchDiscriminator(image_size=112, n_groups=7)
    assert count_parameters(generator) == 54_041_920
    assert count_parameters(discriminator) == 6_973_889


@pytest.mark.parametrize(("backbone", "size"), [("tiny", 56), ("tiny", 112), ("small", 56), ("mobilefacenet", 112)])
def test_faces_keep_their_shape_and_range(backbone, size):
    frozen = encoder(backbone, image_size=size)
    generator = FaceGenerator(frozen.shapes(), n_groups=7)
    images, groups = faces(2, image_size=size), torch.tensor([0, 6])
    made = generator(frozen(images), groups)
    assert made.shape == images.shape
    assert made.abs().max() <= 1
    torch.nn.init.constant_(generator.to_image.bias, 5.0)
    assert (generator(frozen(images), groups) == 1).all(), "values beyond those of an image are cut off"


def test_a_generator_that_adds_nothing_gives_the_image_back():
    frozen = encoder()
    generator = FaceGenerator(frozen.shapes(), n_groups=7)
    torch.nn.init.zeros_(generator.to_image.weight)
    assert torch.equal(generator(frozen(faces()), torch.tensor([0, 3, 6])), faces())


def test_the_age_asked_for_changes_the_face():
    frozen = encoder()
    generator = FaceGenerator(frozen.shapes(), n_groups=7).eval()
    torch.nn.init.normal_(generator.to_image.weight)
    for layer in generator.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.1)
    same = faces(1).expand(2, -1, -1, -1)
    young, old = generator(frozen(same), torch.tensor([0, 6]))
    assert (young - old).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("size", "widths", "patches"),
    [(112, [64, 128, 256, 512, 512, 1], 5), (56, [64, 128, 256, 512, 1], 5), (32, [64, 128, 256, 1], 6)],
)
def test_discriminator_by_size(size, widths, patches):
    discriminator = PatchDiscriminator(image_size=size, n_groups=7)
    convolutions = [layer for layer in discriminator.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == widths
    assert convolutions[1].in_channels == 64 + 7, "the group joins after the first layer"
    assert discriminator(faces(2, image_size=size), torch.tensor([0, 6])).shape == (2, 1, patches, patches)


def test_discriminator_is_told_the_group():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(image_size=56, n_groups=7, width=8).eval()
    same = faces(1).expand(2, -1, -1, -1)
    one, other = discriminator(same, torch.tensor([0, 6]))
    assert not torch.equal(one, other)
    with pytest.raises(ConfigError, match="16 pixels"):
        PatchDiscriminator(image_size=8, n_groups=7)


def test_spectral_norm_bounds_the_layers():
    """By numpy's singular values, of weights that were blown up a hundredfold."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(image_size=56, n_groups=7, width=8)
    for layer in discriminator.layers:
        if hasattr(layer, "parametrizations"):
            layer.parametrizations.weight.original.data *= 100
    for _ in range(60):  # power iterations, one a pass in training mode
        discriminator(faces(2), torch.tensor([0, 6]))
    norms = [
        np.linalg.svd(layer.weight.detach().double().flatten(1).numpy(), compute_uv=False)[0]
        for layer in discriminator.layers
        if hasattr(layer, "parametrizations")
    ]
    assert len(norms) == 3
    assert norms == pytest.approx([1.0] * 3, abs=0.05)


def test_estimators_have_the_shapes_asked_for():
    assert AgeGroupHead(64, 4, n_groups=7)(torch.randn(3, 64, 4, 4)).shape == (3, 7)
    for size in (56, 112):
        assert AgeJudge()(faces(2, image_size=size)).shape == (2,)


# --- the frozen recogniser ------------------------------------------------------------------------


def test_skips_are_the_last_maps_of_their_size():
    """Computed again stage by stage."""
    frozen = encoder()
    backbone = frozen.recogniser.backbone
    with torch.no_grad():
        stem = backbone.input_layer(faces())
        wanted = [stem, backbone.body[0](stem)]
        wanted.append(backbone.body[1](wanted[-1]))
        last = backbone.body[2](wanted[-1])
        found = frozen(faces())
    for skip, stage in zip(found.skips, reversed(wanted), strict=False):
        assert torch.equal(skip, stage)
    assert torch.equal(found.skips[-1], faces())
    assert torch.allclose(found.identity + found.age, last, atol=1e-6), "the two parts make up the whole"


def test_gradients_reach_the_generator_and_not_the_recogniser():
    frozen = encoder()
    torch.nn.Sequential(frozen).train()
    assert not any(module.training for module in frozen.modules())
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    generator = FaceGenerator(frozen.shapes(), n_groups=7)
    groups = torch.tensor([0, 3, 6])
    with torch.no_grad():
        encoded = frozen(faces())
    again = frozen(generator(encoded, groups))
    torch.nn.functional.mse_loss(again.identity, encoded.identity).backward()
    assert all(parameter.grad is None for parameter in frozen.parameters())
    reached = [parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in generator.parameters()]
    assert np.mean(reached) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_hooks_are_gone_afterwards_even_if_encoding_fails():
    frozen = encoder()
    with pytest.raises(Exception, match="resize"):
        frozen(faces(image_size=32))
    assert all(not module._forward_hooks for module in frozen.modules())


def test_a_recogniser_that_separates_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"02_train.ipynb with age_method='mtlface'"):
        FaceEncoder(build_backbone("tiny", embedding_dim=16, image_size=56, dropout=0.0))
    dal = build_recogniser(tiny(age_method="dal"), image_size=56)
    with pytest.raises(ConfigError, match="SeparatedBackbone does not separate its feature map"):
        FaceEncoder(dal)


# --- losses ---------------------------------------------------------------------------------------


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(2, 5, 1, 4, 4))
    x, y = rng.normal(size=(2, 5, 3, 2, 2))
    logits, groups = rng.normal(size=(5, 7)), np.array([0, 6, 3, 3, 1])
    wanted_d = 0.5 * (np.mean((real - 1) ** 2) + np.mean(made**2))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    parts = (
        0.5 * np.mean((made - 1) ** 2),
        np.mean((x - y) ** 2),
        -np.log(shares[np.arange(5), groups]).mean(),
    )
    wanted = 75 * parts[0] + 0.002 * parts[1] + 10 * parts[2]
    weights = {"gan_weight": 75.0, "identity_weight": 0.002, "age_weight": 10.0}
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        given = [torch.tensor(values, dtype=dtype) for values in (made, x, y, logits)]
        found = generator_losses(*given, torch.tensor(groups), **weights)
        assert found.total.item() == pytest.approx(wanted, rel=tolerance)
        assert [value.item() for value in found[1:]] == pytest.approx(parts, rel=tolerance)
        assert found.total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        of_discriminator = discriminator_loss(torch.tensor(real, dtype=dtype), given[0])
        assert of_discriminator.item() == pytest.approx(wanted_d, rel=tolerance)


def test_gradients_of_the_losses():
    given = [torch.randn(2, 1, 2, 2).double(), *torch.randn(2, 2, 3, 2, 2).double(), torch.randn(2, 7).double()]
    given = [values.requires_grad_() for values in given]
    weights = {"gan_weight": 2.0, "identity_weight": 3.0, "age_weight": 5.0}
    groups = torch.tensor([0, 6])
    assert torch.autograd.gradcheck(lambda *values: generator_losses(*values, groups, **weights).total, given)
    assert torch.autograd.gradcheck(discriminator_loss, (given[0], given[0].detach().clone().requires_grad_()))


# --- settings -------------------------------------------------------------------------------------


def test_the_published_settings():
    paper = SynthesisConfig.preset("paper")
    assert (paper.gan_weight, paper.identity_weight, paper.age_weight) == (75, 0.002, 10)
    assert (paper.learning_rate, paper.discriminator_learning_rate, paper.beta1, paper.beta2) == (1e-4, 1e-4, 0.5, 0.99)
    assert (paper.steps, paper.discriminator_width, paper.n_blocks, paper.group_overlap) == (36_000, 64, 4, 0.1)
    assert paper.group_starts_years == (11, 21, 31, 41, 51, 61)
    assert SynthesisConfig.from_dict(paper.to_dict()) == paper


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"group_starts_years": ()}, "group_starts_years"),
        ({"group_starts_years": (20, 10)}, "rising"),
        ({"group_starts_years": (0, 10)}, "from 1 on"),
        ({"group_overlap": 1.0}, "group_overlap"),
        ({"batch_size": 1}, "batch_size"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"age_weight": -1.0}, "age_weight"),
        ({"beta2": 1.0}, "beta2"),
        ({"steps": "many"}, "of type int"),
    ],
)
def test_settings_out_of_range_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        SynthesisConfig(**change)


def test_unknown_settings_and_presets_are_named():
    with pytest.raises(ConfigError, match="did you mean 'gan_weight'"):
        SynthesisConfig.from_dict({"gan_wieght": 1.0})
    with pytest.raises(ConfigError, match="Known presets: paper"):
        SynthesisConfig.preset("papers")
