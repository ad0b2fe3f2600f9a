"""Backbones: published parameter counts, multiply-adds, names and strides; behaviour in training; errors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from interproto_lib.errors import ConfigError, DatasetError
from interproto_lib.models import (
    BACKBONES,
    build_backbone,
    count_multiply_adds,
    count_parameters,
    mobilefacenet,
)

# Parameters and 1e9 multiply-adds at 112x112 and d = 512 (reference/methods.md, section 2).
IR_FACTS = {
    "ir50": (43_574_976, 6.2965),
    "ir_se50": (43_797_696, 6.2967),
    "ir100": (65_129_792, 12.0768),
    "ir_se100": (65_502_016, 12.0771),
    "ir152": (70_737_600, 12.3080),
    "ir_se152": (71_148_736, 12.3084),
}
UNITS = {"50": (3, 4, 14, 3), "100": (3, 13, 30, 3), "152": (3, 8, 36, 3)}
# The cheapest size that each backbone takes, for tests that compute.
CHEAP_SIZE = dict.fromkeys(BACKBONES, 32) | {"small": 56, "tiny": 56}
# Share that each family has by itself; 0 for the others.
OWN_DROPOUT = {"ir": 0.6, "adaface": 0.4, "mtlface": 0.5}
ONE_OF_EACH_KIND = ["ir_se50", "mobilefacenet", "small", "tiny"]


def on_meta(name, **settings):
    with torch.device("meta"):
        return build_backbone(name, **settings)


def images(n, size, seed=0):
    values = np.random.default_rng(seed).uniform(-1, 1, (n, 3, size, size))
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("name", IR_FACTS)
def test_ir_sizes_are_the_published_ones(name):
    parameters, giga = IR_FACTS[name]
    backbone = on_meta(name)
    assert count_parameters(backbone) == parameters
    assert round(count_multiply_adds(backbone, 112) / 1e9, 4) == giga


def test_mobilefacenet_sizes_are_the_papers():
    with torch.device("meta"):
        backbone = mobilefacenet(embedding_dim=128)
    assert round(count_multiply_adds(backbone, 112) / 1e6) == 221
    # The paper's 0.99 M are those of a deployed network: every batch normalisation folded into one bias a channel.
    normalised = sum(m.num_features for m in backbone.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d))
    assert round((count_parameters(backbone) - normalised) / 1e6, 2) == 0.99
    assert count_parameters(backbone) < 1.01e6


def expected_ir_keys(name):
    """Every state-dict key of the official code, written out from methods.md."""

    def batch_norm(prefix):
        return {f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    keys = {"input_layer.0.weight", "input_layer.2.weight"} | batch_norm("input_layer.1")
    units = UNITS[name.removeprefix("ir_se").removeprefix("ir")]
    grows_at = {sum(units[:stage]) for stage in (1, 2, 3)}
    for i in range(sum(units)):
        res = f"body.{i}.res_layer"
        keys |= batch_norm(f"{res}.0") | batch_norm(f"{res}.4")
        keys |= {f"{res}.1.weight", f"{res}.2.weight", f"{res}.3.weight"}
        if name.startswith("ir_se"):
            keys |= {f"{res}.5.fc1.weight", f"{res}.5.fc2.weight"}
        if i in grows_at:
            keys |= {f"body.{i}.shortcut_layer.0.weight"} | batch_norm(f"body.{i}.shortcut_layer.1")
    keys |= {"output_layer.3.weight", "output_layer.3.bias"}
    return keys | batch_norm("output_layer.0") | batch_norm("output_layer.4")


@pytest.mark.parametrize("name", IR_FACTS)
def test_ir_state_dict_keys_are_the_official_ones(name):
    assert set(on_meta(name).state_dict()) == expected_ir_keys(name)


def test_shortcut_convolutions_of_depth_50_stand_at_3_7_and_21():
    shortcuts = {key.split(".")[1] for key in on_meta("ir_se50").state_dict() if "shortcut" in key}
    assert shortcuts == {"3", "7", "21"}


def test_ir_se50_tensor_shapes():
    state = {key: tuple(tensor.shape) for key, tensor in on_meta("ir_se50").state_dict().items()}
    assert state["input_layer.0.weight"] == (64, 3, 3, 3)
    assert state["body.3.res_layer.1.weight"] == (128, 64, 3, 3)
    assert state["body.3.res_layer.2.weight"] == (128,)
    assert state["body.3.res_layer.5.fc1.weight"] == (8, 128, 1, 1)
    assert state["body.3.res_layer.5.fc2.weight"] == (128, 8, 1, 1)
    assert state["body.21.shortcut_layer.0.weight"] == (512, 256, 1, 1)
    assert state["output_layer.3.weight"] == (512, 25088)
    assert state["output_layer.3.bias"] == (512,)


@pytest.mark.parametrize("name", IR_FACTS)
def test_ir_strides_stand_in_the_second_convolution_of_each_first_unit(name):
    backbone = on_meta(name)
    units = UNITS[name.removeprefix("ir_se").removeprefix("ir")]
    first_units = {sum(units[:stage]) for stage in range(4)}
    for i, unit in enumerate(backbone.body):
        assert unit.res_layer[1].stride == (1, 1)
        assert unit.res_layer[3].stride == ((2, 2) if i in first_units else (1, 1))


def test_ir_feature_maps_shrink_from_112_to_7():
    backbone = on_meta("ir50")
    shapes = []
    for position in (0, 3, 7, 21):
        backbone.body[position].register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    backbone.eval()(torch.empty(1, 3, 112, 112, device="meta"))
    assert shapes == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


@pytest.mark.parametrize("name", ["small", "tiny"])
@pytest.mark.parametrize(("size", "sides"), [(56, [28, 14, 7, 4]), (112, [56, 28, 14, 7])])
def test_small_feature_maps_halve_rounding_up(name, size, sides):
    backbone = on_meta(name, image_size=size, embedding_dim=64)
    seen = []
    for part in (backbone.input_layer, *backbone.body):
        part.register_forward_hook(lambda _m, _i, output: seen.append(output.shape[-1]))
    assert backbone.eval()(torch.empty(1, 3, size, size, device="meta")).shape == (1, 64)
    assert seen == sides


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_small_multiply_adds_by_hand(name):
    w1, w2, w3 = (24, 48, 96) if name == "small" else (16, 32, 64)
    stem = 28**2 * 27 * w1
    first = 14**2 * 9 * (w1 * w1 + w1 * w1)
    second = 7**2 * (9 * (w1 * w2 + w2 * w2) + w1 * w2)
    third = 4**2 * (9 * (w2 * w3 + w3 * w3) + w2 * w3)
    linear = 4**2 * w3 * 128
    backbone = on_meta(name, image_size=56, embedding_dim=128)
    assert count_multiply_adds(backbone, 56) == stem + first + second + third + linear


# Channels of the last feature map where they are not 512; all backbones halve the image four times on the way to it.
LAST_CHANNELS = {"mobilefacenet": 128, "small": 96, "tiny": 64}


@pytest.mark.parametrize("name", BACKBONES)
def test_an_embedding_is_made_of_the_last_feature_map(name):
    size = CHEAP_SIZE[name]
    backbone = on_meta(name, embedding_dim=24, image_size=size).eval()
    batch = torch.empty(2, 3, size, size, device="meta")
    side = math.ceil(size / 16)
    assert backbone.feature_shape == (LAST_CHANNELS.get(name, 512), side, side)
    features = backbone.feature_map(batch)
    assert features.shape == (2, *backbone.feature_shape)
    assert backbone.embed_feature_map(features).shape == (2, 24)


@pytest.mark.parametrize("name", [*ONE_OF_EACH_KIND, "iresnet18", "mtlface_ir50"])
def test_the_feature_map_is_all_that_the_embedding_sees(name):
    torch.manual_seed(0)
    size = CHEAP_SIZE[name]
    backbone = build_backbone(name, embedding_dim=16, image_size=size).eval()
    batch = images(3, size)
    with torch.no_grad():
        features = backbone.feature_map(batch)
        assert torch.equal(backbone.embed_feature_map(features), backbone(batch))
        assert torch.equal(backbone.embed(batch), backbone(batch))
        moved = backbone.embed_feature_map(features * 0.5)
    assert not torch.allclose(moved, backbone(batch))


def test_counting_leaves_the_module_as_it_was():
    backbone = build_backbone("tiny", image_size=56)
    backbone.body[0].eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    modes = [part.training for part in backbone.modules()]
    count_multiply_adds(backbone, 56)
    assert [part.training for part in backbone.modules()] == modes
    assert all(not part._forward_hooks for part in backbone.modules())
    for key, value in backbone.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", BACKBONES)
def test_embedding_dim_and_image_size_are_taken_and_remembered(name):
    size = CHEAP_SIZE[name]
    backbone = on_meta(name, embedding_dim=40, image_size=size, dropout=0.25)
    assert (backbone.embedding_dim, backbone.image_size, backbone.dropout) == (40, size, 0.25)
    assert backbone.eval()(torch.empty(2, 3, size, size, device="meta")).shape == (2, 40)


@pytest.mark.parametrize(("size", "features"), [(112, 512 * 49), (64, 512 * 16), (224, 512 * 196)])
def test_ir_linear_layer_adapts_to_the_image_size(size, features):
    assert on_meta("ir50", image_size=size).output_layer[3].in_features == features


@pytest.mark.parametrize("name", BACKBONES)
def test_one_dropout_layer_with_the_asked_share(name):
    def shares(**settings):
        backbone = on_meta(name, image_size=CHEAP_SIZE[name], **settings)
        return [part.p for part in backbone.modules() if isinstance(part, nn.Dropout)]

    assert shares() == [0.6]
    assert shares(dropout=0.1) == [0.1]
    assert shares(dropout=None) == [OWN_DROPOUT.get(name.split("_")[0].rstrip("0123456789"), 0.0)]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_dropout_acts_only_in_training(name):
    torch.manual_seed(0)
    size = CHEAP_SIZE[name]
    backbone = build_backbone(name, embedding_dim=16, image_size=size, dropout=0.6)
    kept = []
    (dropout,) = (part for part in backbone.modules() if isinstance(part, nn.Dropout))
    dropout.register_forward_hook(lambda _m, inputs, output: kept.append((inputs[0], output)))
    batch = images(4, size)
    with torch.no_grad():
        backbone.train()(batch)
        backbone.eval()(batch)
    (before, trained), (before_eval, evaluated) = kept
    zeroed = ((trained == 0) & (before != 0)).sum().item() / (before != 0).sum().item()
    assert zeroed == pytest.approx(0.6, abs=0.06)
    survivors = trained != 0
    torch.testing.assert_close(trained[survivors], before[survivors] / 0.4)
    assert torch.equal(before_eval, evaluated)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_evaluation_embeds_each_image_alone_and_does_not_normalise(name):
    torch.manual_seed(0)
    size = CHEAP_SIZE[name]
    backbone = build_backbone(name, embedding_dim=16, image_size=size)
    batch = images(3, size)
    with torch.no_grad():
        backbone(batch)  # moves the running statistics off their initial values
        backbone.eval()
        together = backbone(batch)
        alone = torch.cat([backbone(batch[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-2)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_channels_last_gives_the_same_embeddings_and_gradients(name):
    torch.manual_seed(0)
    size = CHEAP_SIZE[name]
    backbone = build_backbone(name, embedding_dim=16, image_size=size, dropout=0.0).double()
    batch = images(4, size).double()
    target = torch.linspace(-1, 1, 4 * 16, dtype=torch.float64).reshape(4, 16)

    def step(memory_format):
        backbone.to(memory_format=memory_format)
        backbone.zero_grad()
        embeddings = backbone(batch.contiguous(memory_format=memory_format))
        (embeddings * target).sum().backward()
        return embeddings.detach().clone(), [parameter.grad.clone() for parameter in backbone.parameters()]

    contiguous, contiguous_gradients = step(torch.contiguous_format)
    channels_last, channels_last_gradients = step(torch.channels_last)
    torch.testing.assert_close(contiguous, channels_last, rtol=1e-7, atol=1e-8)
    for left, right in zip(contiguous_gradients, channels_last_gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_bfloat16_autocast_stays_finite_and_close(name):
    torch.manual_seed(0)
    size = CHEAP_SIZE[name]
    backbone = build_backbone(name, embedding_dim=16, image_size=size, dropout=0.0)
    backbone.to(memory_format=torch.channels_last)
    batch = images(16, size).contiguous(memory_format=torch.channels_last)
    reference = backbone(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = backbone(batch)
    embeddings.float().square().mean().backward()
    assert torch.isfinite(embeddings).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())
    cosines = torch.nn.functional.cosine_similarity(embeddings.float(), reference)
    assert cosines.min() > 0.9


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    size = CHEAP_SIZE[name]
    backbone = build_backbone(name, embedding_dim=16, image_size=size, dropout=0.0)
    target = torch.linspace(-1, 1, 4 * 16).reshape(4, 16)
    (backbone(images(4, size)) * target).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    # Of vectors only the presence is checked: a bias just before a batch normalisation has no effect by rights.
    weights = [parameter for parameter in backbone.parameters() if parameter.ndim > 1]
    assert all(parameter.grad.abs().max() > 0 for parameter in weights)


def test_initialisation_follows_the_seed_and_pytorchs_defaults():
    torch.manual_seed(3)
    one = build_backbone("ir_se50", image_size=32)
    torch.manual_seed(3)
    again = build_backbone("ir_se50", image_size=32)
    for left, right in zip(one.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    # Kaiming-uniform with a = sqrt(5): uniform in +-1/sqrt(fan-in).
    weight = one.body[3].res_layer[3].weight
    bound = 1 / math.sqrt(128 * 9)
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=1e-2)
    assert torch.equal(one.input_layer[2].weight, torch.full((64,), 0.25))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="resnet50") as caught:
        build_backbone("resnet50")
    assert all(name in str(caught.value) for name in BACKBONES)


@pytest.mark.parametrize("name", ["adaface_ir18", "ir50", "ir_se152", "iresnet18", "mobilefacenet", "mtlface_ir50"])
def test_image_size_must_be_a_multiple_of_16(name):
    with pytest.raises(ConfigError, match="multiple of 16, found 56: take 48 or 64"):
        on_meta(name, image_size=56)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"embedding_dim": 12.5}, "embedding_dim"),
        ({"embedding_dim": True}, "embedding_dim"),
        ({"image_size": 8}, "image_size"),
        ({"image_size": "112"}, "image_size"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
    ],
)
@pytest.mark.parametrize("name", ["ir50", "mobilefacenet", "tiny"])
def test_settings_out_of_range_are_named(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        on_meta(name, **settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 56, 56, 3), r"found \(2, 56, 56, 3\): the colours come last"),
        ((3, 56, 56), "add the batch axis"),
        ((2, 3, 112, 112), "image_size=112"),
        ((2, 3, 56, 57), r"\(b, 3, 56, 56\), found \(2, 3, 56, 57\)"),
        ((2, 1, 56, 56), r"found \(2, 1, 56, 56\)"),
    ],
)
def test_images_of_another_shape_are_refused(shape, message):
    with pytest.raises(DatasetError, match=message):
        on_meta("tiny", image_size=56)(torch.zeros(shape))


def test_integer_images_are_refused():
    with pytest.raises(DatasetError, match="uint8"):
        on_meta("tiny", image_size=56)(torch.zeros(2, 3, 56, 56, dtype=torch.uint8))


def test_forward_is_one_graph_for_the_compiler():
    torch.manual_seed(0)
    backbone = build_backbone("tiny", embedding_dim=8, image_size=56).eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    batch = images(2, 56)
    torch.testing.assert_close(compiled(batch), backbone(batch))
