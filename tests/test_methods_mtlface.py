"""MTLFace's recogniser: attention by its formula, the reversed gradient, age losses by hand, published sizes."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from toy import tiny

from interproto_lib.errors import DatasetError
from interproto_lib.methods import (
    METHODS,
    MTLFACE_GROUP_STARTS,
    AgeAttention,
    AgeEstimator,
    MethodOutputs,
    build_recogniser,
    expected_age,
    reverse_gradient,
)
from interproto_lib.methods.age_method import age_group_loss
from interproto_lib.models import (
    build_backbone,
    count_multiply_adds,
    count_parameters,
    load_backbone_weights,
    save_backbone,
)
from interproto_lib.models.inference import for_inference

D = 16
AGES = torch.tensor([4.0, math.nan, 30.0, 66.0, 12.9, 13.0])
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def recogniser_and_method(backbone="tiny", *, size=32, **changes):
    torch.manual_seed(0)
    config = tiny(age_method="mtlface", backbone=backbone, embedding_dim=D, **changes)
    recogniser = build_recogniser(config, image_size=size)
    return recogniser, METHODS["mtlface"](config, recogniser)


def scrambled(module):
    """Values with an effect of their own for all statistics, scales and shifts of batch normalisations."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, NORMS):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.3, 2, generator=generator)
            with torch.no_grad():
                part.weight.normal_(1, 0.3, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
    return module


def images(n=6, size=32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- attention --------------------------------------------------------------------------------------


def cells(x, n):
    """The cells of a grid of n rows and columns over (b, c, h, w), each from floor(start) to ceil(end)."""
    h, w = x.shape[2:]
    for i in range(n):
        for j in range(n):
            rows = slice(i * h // n, -(-(i + 1) * h // n))
            columns = slice(j * w // n, -(-(j + 1) * w // n))
            yield x[:, :, rows, columns].reshape(*x.shape[:2], -1)


def normalised(x, norm, *, training):
    """Batch normalisation of (b, c, h, w) by batch (training) or running statistics."""
    if training:
        mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    else:
        mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    scale = norm.weight.detach().numpy() / np.sqrt(variance + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias.detach().numpy()[:, None, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def separated_slowly(x, attention, *, training):
    b, c, h, w = x.shape
    pooled = []
    for n in (1, 2, 3):
        of_grid = [cell.mean(axis=2) + cell.max(axis=2) for cell in cells(x, n)]
        pooled += [of_cell[:, channel] for channel in range(c) for of_cell in of_grid]
    first, _, second, norm, _ = attention.channel
    hidden = np.maximum(np.stack(pooled, axis=1) @ first.weight.detach().numpy()[:, :, 0, 0].T, 0)
    channel = (hidden @ second.weight.detach().numpy()[:, :, 0, 0].T)[:, :, None, None]
    channel = sigmoid(normalised(channel, norm, training=training))
    convolution, norm, _ = attention.spatial
    maps = np.pad(np.stack([x.max(axis=1), x.mean(axis=1)], axis=1), [(0, 0), (0, 0), (3, 3), (3, 3)])
    kernel = convolution.weight.detach().numpy()[0]
    spatial = np.empty((b, 1, h, w))
    for i in range(h):
        for j in range(w):
            spatial[:, 0, i, j] = (maps[:, :, i : i + 7, j : j + 7] * kernel).sum(axis=(1, 2, 3))
    spatial = sigmoid(normalised(spatial, norm, training=training))
    age = x * (channel + spatial) / 2
    return x - age, age


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "shape", [(4, 8, 7, 7), (3, 5, 4, 4), (3, 16, 2, 2), (5, 4, 1, 1), (2, 6, 5, 3), (2, 3, 14, 14)]
)
def test_attention_by_its_formula(shape, training):
    torch.manual_seed(0)
    attention = scrambled(AgeAttention(shape[1]).double()).train(training)
    x = np.random.default_rng(0).normal(size=shape)
    expected = separated_slowly(x, attention, training=training)
    for found, wanted in zip(attention(torch.from_numpy(x)), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-10)


def test_attention_splits_and_shares():
    """The parts add up to the map, and each has between nothing and all of a value."""
    torch.manual_seed(0)
    attention = scrambled(AgeAttention(8)).eval()
    x = torch.randn(4, 8, 7, 7)
    identity, age = attention(x)
    torch.testing.assert_close(identity + age, x)
    shares = age / x
    assert ((shares > 0) & (shares < 1)).all()
    assert shares.std() > 0.01, "not the same share everywhere"


def test_attention_starts_as_published():
    torch.manual_seed(0)
    attention = AgeAttention(512)
    first, _, second, norm, _ = attention.channel
    assert (first.weight.shape, second.weight.shape) == ((448, 7168, 1, 1), (512, 448, 1, 1))
    for layer, fans in ((first, 7168 + 448), (second, 448 + 512), (attention.spatial[0], 3 * 49)):
        bound = math.sqrt(6 / fans)  # Xavier-uniform
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias is None
    assert (norm.momentum, attention.spatial[1].momentum) == (0.01, 0.01)


def test_a_recogniser_embeds_the_identity_part():
    recogniser, _ = recogniser_and_method()
    scrambled(recogniser).eval()
    x = recogniser.backbone.feature_map(images())
    identity, age = recogniser.attention(x)
    wanted = recogniser.backbone.output_layer(x - age)
    torch.testing.assert_close(recogniser(images()), wanted)
    torch.testing.assert_close(recogniser.separate(images()), (identity, age))
    assert not torch.allclose(recogniser(images()), recogniser.backbone(images()), atol=1e-3)
    with pytest.raises(DatasetError, match="AttentiveBackbone takes images of shape"):
        recogniser.separate(images(size=48))


# --- reversed gradient ------------------------------------------------------------------------------


def test_reversed_gradients_are_minus_the_slopes():
    """Against central differences of a function of what comes after; weights after it keep their sign."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(4, dtype=torch.float64, generator=generator, requires_grad=True)

    def function(x, weights):
        return (weights @ x).sin().square().sum() + x.prod()

    assert torch.equal(reverse_gradient(x), x)
    function(reverse_gradient(x), weights).backward()
    for tensor, sign in ((x, -1), (weights, 1)):
        for place in np.ndindex(*tensor.shape):
            step = torch.zeros_like(tensor)
            step[place] = 1e-6
            with torch.no_grad():
                there, back = ((x + s, weights) if sign < 0 else (x, weights + s) for s in (step, -step))
                slope = (function(*there) - function(*back)).item() / 2e-6
            assert tensor.grad[place].item() == pytest.approx(sign * slope, rel=1e-5, abs=1e-8)


def test_reversal_twice_is_none_and_second_derivatives_exist():
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    reverse_gradient(reverse_gradient(x)).pow(3).sum().backward()
    assert x.grad.item() == 12
    (slope,) = torch.autograd.grad(reverse_gradient(x).pow(3).sum(), x, create_graph=True)
    assert slope.item() == -12
    (curvature,) = torch.autograd.grad(slope, x)
    assert abs(curvature.item()) == 12


def test_the_reversed_loss_is_lowered_by_its_estimator_and_raised_by_the_recogniser():
    """Slopes of the loss itself along single weights, by central differences."""
    recogniser, method = recogniser_and_method(mtl_reversed_weight=1.0, age_weight=0.0)
    for module in (recogniser, method):
        scrambled(module).double().eval()
    inputs = images().double()

    def loss():
        return method.losses(method(recogniser, inputs), AGES)["reversed_age"]

    loss().backward()
    reversed_ones = [
        recogniser.attention.channel[2].weight,
        recogniser.attention.spatial[0].weight,
        recogniser.backbone.body[2].res_layer[4].weight,
    ]
    kept = [method.reversed_age_estimator.age_layers[2].weight, method.reversed_age_estimator.group_layer.weight]
    for tensor, sign in [*((t, -1) for t in reversed_ones), *((t, 1) for t in kept)]:
        place = np.unravel_index(tensor.grad.abs().argmax().item(), tensor.shape)
        with torch.no_grad():
            tensor[place] += 1e-4
            there = loss().item()
            tensor[place] -= 2e-4
            back = loss().item()
            tensor[place] += 1e-4
        slope = (there - back) / 2e-4
        assert abs(slope) > 1e-3
        assert tensor.grad[place].item() == pytest.approx(sign * slope, rel=1e-2)
    assert all(p.grad is None or not p.grad.any() for p in method.age_estimator.parameters())
    assert all(p.grad is None for p in recogniser.backbone.output_layer.parameters())


# --- ages -------------------------------------------------------------------------------------------


def test_expected_age_by_hand():
    logits = torch.full((4, 101), -math.inf)
    logits[0, 37] = 0.0
    logits[1, [10, 20]] = torch.tensor([math.log(3.0), 0.0])  # three quarters and one quarter
    logits[2] = 5.0
    logits[3, [0, 100]] = 1e4
    torch.testing.assert_close(expected_age(logits), torch.tensor([37.0, 12.5, 50.0, 50.0]))
    assert expected_age(logits.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("age", "group"),
    [(0.0, 0), (9.99, 0), (10.0, 0), (10.9, 0), (11.0, 1), (20.0, 1), (21.0, 2), (60.0, 5), (61.0, 6), (100.0, 6)],
)
def test_groups_are_mtlfaces(age, group):
    starts = torch.tensor(MTLFACE_GROUP_STARTS[1:], dtype=torch.float32)
    logits = torch.zeros(1, 7)
    logits[0, group] = 50.0
    assert age_group_loss(logits, torch.tensor([age]), starts).item() == pytest.approx(0, abs=1e-6)
    if age == int(age):
        # The rule of the authors' code: one group up for each of these that the age is above.
        assert group == sum(age > boundary for boundary in (10, 20, 30, 40, 50, 60))


def test_losses_by_hand():
    _, method = recogniser_and_method(age_weight=0.5, mtl_reversed_weight=0.25)
    generator = torch.Generator().manual_seed(2)
    parts = {
        "ages": torch.rand(6, generator=generator) * 100,
        "age_groups": torch.randn(6, 7, generator=generator),
        "reversed_ages": torch.rand(6, generator=generator) * 100,
        "reversed_age_groups": torch.randn(6, 7, generator=generator),
    }
    groups = [0, None, 2, 6, 1, 1]
    expected = {}
    for prefix in ("", "reversed_"):
        terms = []
        for i, group in enumerate(groups):
            if group is not None:
                logits = parts[f"{prefix}age_groups"][i].double().numpy()
                entropy = math.log(np.exp(logits).sum()) - logits[group]
                terms.append((parts[f"{prefix}ages"][i].item() - AGES[i].item()) ** 2 + entropy)
        expected[prefix] = sum(terms) / 5
    found = method.losses(MethodOutputs(torch.zeros(6, D), parts), AGES)
    assert found["age"].item() == pytest.approx(0.5 * expected[""], rel=1e-5)
    assert found["reversed_age"].item() == pytest.approx(0.25 * expected["reversed_"], rel=1e-5)


def test_an_estimator_by_its_layers():
    torch.manual_seed(0)
    estimator = scrambled(AgeEstimator((4, 3, 2))).double().eval()
    x = np.random.default_rng(1).normal(size=(5, 4, 3, 2))
    norm, _, first, _, second = estimator.age_layers
    flat = normalised(x, norm, training=False).reshape(5, 24)
    hidden = np.maximum(flat @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    logits = hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ages, groups = estimator(torch.from_numpy(x))
    np.testing.assert_allclose(ages.detach().numpy(), shares @ np.arange(101))
    layer = estimator.group_layer
    wanted = logits @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(groups.detach().numpy(), wanted)


def test_each_part_has_an_estimator_of_its_own():
    """The one sees the age part and passes its gradient on, the other the identity part and passes minus it on."""
    recogniser, method = recogniser_and_method()
    for module in (recogniser, method):
        scrambled(module).eval()
    outputs = method(recogniser, images())
    identity, age = recogniser.separate(images())
    torch.testing.assert_close(outputs.embeddings, recogniser.backbone.output_layer(identity))
    torch.testing.assert_close(outputs.parts["ages"], method.age_estimator(age)[0])
    torch.testing.assert_close(outputs.parts["reversed_ages"], method.reversed_age_estimator(identity)[0])
    assert not torch.allclose(outputs.parts["ages"], outputs.parts["reversed_ages"])


def test_unlabelled_images_change_no_loss():
    recogniser, method = recogniser_and_method()
    recogniser.eval()
    method.eval()
    known = torch.isfinite(AGES)
    whole = method.losses(method(recogniser, images()), AGES)
    part = method.losses(method(recogniser, images()[known]), AGES[known])
    for name in method.loss_names:
        torch.testing.assert_close(whole[name], part[name])
    features = torch.randn(6, *recogniser.feature_shape, requires_grad=True)
    ages, groups = method.age_estimator(features)
    parts = {"ages": ages, "age_groups": groups, "reversed_ages": ages, "reversed_age_groups": groups}
    method.losses(MethodOutputs(torch.zeros(6, D), parts), AGES)["age"].backward()
    assert features.grad[~known].abs().max() == 0
    assert features.grad[known].abs().amax((1, 2, 3)).min() > 0


# --- networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "side"), [(16, 1), (32, 2), (48, 3), (56, 4), (112, 7)])
@pytest.mark.parametrize("backbone", ["tiny", "small"])
def test_maps_of_any_size(backbone, size, side):
    recogniser, method = recogniser_and_method(backbone, size=size)
    identity, age = recogniser.separate(images(4, size))
    assert identity.shape == age.shape == (4, 64 if backbone == "tiny" else 96, side, side)
    outputs = method(recogniser, images(4, size))
    assert outputs.embeddings.shape == (4, D)
    losses = method.losses(outputs, AGES[:4])
    (outputs.embeddings.square().mean() + sum(losses.values())).backward()
    for module in (recogniser, method):
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("backbone", ["mobilefacenet", "ir50", "ir_se50", "iresnet18", "adaface_ir18", "mtlface_ir50"])
def test_every_kind_of_backbone(backbone):
    with torch.device("meta"):
        recogniser, method = recogniser_and_method(backbone, size=32)
        outputs = method(recogniser, torch.empty(4, 3, 32, 32))
        channels = 128 if backbone == "mobilefacenet" else 512
        assert recogniser.feature_shape == (channels, 2, 2)
        assert outputs.embeddings.shape == recogniser(torch.empty(4, 3, 32, 32)).shape == (4, D)
        assert outputs.parts["age_groups"].shape == (4, 7)
        plain = build_backbone(backbone, embedding_dim=D, image_size=32)
    assert {f"backbone.{key}" for key in plain.state_dict()} < set(recogniser.state_dict())


def paper_sized(backbone):
    config = tiny(age_method="mtlface", backbone=backbone)
    with torch.device("meta"):
        recogniser = build_recogniser(config.from_dict({**config.to_dict(), "embedding_dim": 512}), image_size=112)
        return recogniser, METHODS["mtlface"](config, recogniser)


def test_sizes_at_the_papers_scale():
    recogniser, method = paper_sized("mtlface_ir50")
    attention = 7168 * 448 + 448 * 512 + 2 * 512 + 2 * 49 + 2
    estimator = 2 * 512 + (25088 * 512 + 512) + (512 * 101 + 101) + (101 * 7 + 7)
    assert count_parameters(recogniser) == 43_586_624 + attention == 47_028_388
    assert count_parameters(method) == 2 * estimator == 25_798_238
    adds = count_multiply_adds(recogniser, 112) - count_multiply_adds(recogniser.backbone, 112)
    assert adds == 7168 * 448 + 448 * 512 + 49 * 2 * 49


def test_the_published_number_of_parameters_can_be_made_of_these_parts():
    """134.05 million (Table 3): with the paper's own backbone and the authors' generator and discriminator."""

    def convolution(inputs, outputs, kernel):
        return inputs * outputs * kernel**2 + outputs

    def norm_and_prelu(channels):
        return 2 * channels + channels

    def up(below, inputs, outputs):
        """BN, PReLU, conv 3x3 four times, the first on the skip connection too, and a 1x1 shortcut."""
        first = norm_and_prelu(inputs) + convolution(inputs, outputs, 3)
        return first + 3 * (norm_and_prelu(outputs) + convolution(outputs, outputs, 3)) + convolution(below, outputs, 1)

    routed = int((7 - 6 * 0.1) * 128)
    generator = convolution(512, routed, 1) + norm_and_prelu(routed) + convolution(routed, 512, 1) + norm_and_prelu(512)
    generator += 4 * 2 * (convolution(routed, routed, 3) + norm_and_prelu(routed))
    for below, skip, outputs in ((512, 256, 256), (256, 128, 128), (128, 64, 64), (64, 3, 32)):
        generator += up(below, below + skip, outputs)
    generator += convolution(32, 3, 1)
    widths = (3, 64, 128, 256, 512, 512, 1)
    discriminator = sum(convolution(a + 7 * (a == 64), b, 4) for a, b in itertools.pairwise(widths))
    assert (generator, discriminator) == (54_041_920, 6_973_889)
    recogniser, method = paper_sized("ir_se50")
    total = count_parameters(recogniser) + count_parameters(method) + generator + discriminator
    assert total == 134_053_507
    assert round(total / 1e6, 2) == 134.05


@pytest.mark.parametrize("backbone", ["tiny", "mobilefacenet"])
def test_made_ready_for_inference_it_embeds_the_same(backbone):
    recogniser, _ = recogniser_and_method(backbone)
    scrambled(recogniser).eval()
    folded = for_inference(recogniser)
    assert not any(isinstance(part, NORMS) for part in folded.attention.modules())
    assert sum(isinstance(part, NORMS) for part in recogniser.attention.modules()) == 2
    with torch.inference_mode():
        plain = copy.deepcopy(recogniser).double()(images().double())
        found = for_inference(copy.deepcopy(recogniser).double())(images().double())
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
        unit = nn.functional.normalize(plain)
        for values in (images(), images().to(memory_format=torch.channels_last)):
            quick = nn.functional.normalize(folded(values)).double()
            assert (quick @ quick.T - unit @ unit.T).abs().max() < 1e-5


def test_saved_and_loaded_it_embeds_the_same(tmp_path):
    recogniser, _ = recogniser_and_method()
    scrambled(recogniser).eval()
    save_backbone(recogniser, tmp_path / "backbone.safetensors")
    torch.manual_seed(5)
    other = build_recogniser(tiny(age_method="mtlface", embedding_dim=D), image_size=32).eval()
    assert not torch.allclose(other(images()), recogniser(images()))
    load_backbone_weights(other, tmp_path / "backbone.safetensors")
    assert torch.equal(other(images()), recogniser(images()))


def test_estimators_compute_in_float32_under_autocast():
    recogniser, method = recogniser_and_method()
    reference = method(recogniser, images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method(recogniser, images().to(memory_format=torch.channels_last))
    assert outputs.embeddings.dtype == torch.bfloat16
    assert {part.dtype for part in outputs.parts.values()} == {torch.float32}
    losses = method.losses(outputs, AGES)
    wanted = method.losses(reference, AGES)
    for name in method.loss_names:
        torch.testing.assert_close(losses[name], wanted[name], rtol=0.05, atol=0)
    (outputs.embeddings.float().square().mean() + sum(losses.values())).backward()
    for module in (recogniser, method):
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    cosines = nn.functional.cosine_similarity(outputs.embeddings.float(), reference.embeddings)
    assert cosines.min() > 0.9


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
@pytest.mark.parametrize("alike", [True, False], ids=["one image", "different images"])
def test_finite_at_the_edges(scale, alike):
    """Empty and huge maps, batches without variance, and ages beyond all classes."""
    recogniser, method = recogniser_and_method()
    inputs = images(6) * scale
    if alike:
        inputs = inputs[:1].expand(6, -1, -1, -1).contiguous()
    outputs = method(recogniser, inputs)
    losses = method.losses(outputs, torch.tensor([0.0, 100.0, 130.0, math.nan, 10.0, 60.0]))
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    (outputs.embeddings.square().mean() + sum(losses.values())).backward()
    for module in (recogniser, method):
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_huge_logits_give_a_finite_age_and_gradient():
    logits = torch.zeros(2, 101)
    logits[0, 3], logits[1, 99] = 1e30, -1e30
    logits.requires_grad_()
    ages = expected_age(logits)
    assert ages[0].item() == 3
    ages.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_it_is_one_graph_for_the_compiler():
    recogniser, _ = recogniser_and_method()
    recogniser.eval()
    compiled = torch.compile(recogniser, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), recogniser(images()))
