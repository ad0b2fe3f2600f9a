"""Checkpoints of other codes, in their true formats: the same embeddings, and words for what does not fit."""

import os
import subprocess
import sys
from collections import Counter, OrderedDict

import pytest
import torch
from foreign_networks import Functional, ir_state, iresnet_state, mobilefacenet_state
from safetensors.torch import save_file

from interproto_lib.errors import CheckpointError, ConfigError
from interproto_lib.models import load_foreign
from interproto_lib.models.foreign_keys import IR, closest_backbone, find_networks, foreign_keys


def rgb_images(n, size, seed=0):
    return torch.rand((n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def unit(embeddings):
    return torch.nn.functional.normalize(embeddings.double())


def assert_same_embeddings(checkpoint, expected_of, *, size=16, n=3):
    """Our network on RGB gives what the original gives on its own order of channels."""
    rgb = rgb_images(n, size)
    expected = unit(expected_of(rgb if checkpoint.channel_order == "rgb" else rgb.flip(1)))
    in_wrong_order = unit(expected_of(rgb.flip(1) if checkpoint.channel_order == "rgb" else rgb))
    with torch.no_grad():
        found = unit(checkpoint.backbone(rgb.float()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - in_wrong_order).abs().max() > 1e-2
    assert (found[0] - found[1]).abs().max() > 1e-2


def prefixed(state, prefix):
    return {prefix + key: tensor for key, tensor in state.items()}


def refused(path, message, **settings):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_foreign(path, **({"image_size": 16} | settings))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2500
    return str(caught.value)


@pytest.fixture(scope="module")
def mobile():
    return mobilefacenet_state()


@pytest.fixture(scope="module")
def r18():
    return iresnet_state(18)


@pytest.fixture(scope="module")
def ir_se50():
    return ir_state(50, squeeze=True)


@pytest.fixture
def mobile_file(mobile, tmp_path):
    path = tmp_path / "mobile.pth"
    torch.save(mobile, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
def test_arcface_torch(r18, tmp_path, prefix):
    path = tmp_path / "backbone.pth"
    torch.save(OrderedDict(prefixed(r18, prefix)), path)
    checkpoint = load_foreign(path, image_size=16)
    assert (checkpoint.kind, checkpoint.backbone_name, checkpoint.channel_order) == (
        "arcface_torch",
        "iresnet18",
        "rgb",
    )
    assert (checkpoint.embedding_dim, checkpoint.image_size, checkpoint.backbone.training) == (16, 16, False)
    assert checkpoint.metadata["prefix"] == prefix
    assert checkpoint.metadata["conversion"] == "none"
    assert_same_embeddings(checkpoint, lambda x: Functional(r18).iresnet(x, 18))


def test_arcface_torchs_training_checkpoint_holds_backbone_and_head(r18, tmp_path):
    path = tmp_path / "checkpoint_gpu_0.pt"
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    content = {
        "epoch": 3,
        "global_step": 700,
        "state_dict_backbone": r18,
        "state_dict_softmax_fc": {"weight": torch.randn(5, 16)},
        "state_optimizer": optimiser.state_dict(),
    }
    torch.save(content, path)
    checkpoint = load_foreign(path, image_size=16)
    assert checkpoint.metadata["wrapper"] == "state_dict_backbone"
    assert checkpoint.metadata["left_out"] == "epoch, global_step, state_dict_softmax_fc, state_optimizer"
    assert torch.equal(checkpoint.backbone.fc.weight, r18["fc.weight"])


@pytest.fixture(scope="module")
def ir_se50_file(ir_se50, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "casia_best_model.pth"
    torch.save(ir_se50, path)
    return path


@pytest.mark.parametrize("kind", ["inter_prototype", "insightface_pytorch"])
def test_official_networks_and_those_of_insightface_pytorch(ir_se50, ir_se50_file, kind):
    checkpoint = load_foreign(ir_se50_file, kind=kind, image_size=16)
    order = "rgb" if kind == "inter_prototype" else "bgr"
    assert (checkpoint.kind, checkpoint.backbone_name, checkpoint.channel_order) == (kind, "ir_se50", order)
    assert ("BGR to RGB" in checkpoint.metadata["conversion"]) == (order == "bgr")
    assert_same_embeddings(checkpoint, lambda x: Functional(ir_se50).ir(x, 50), n=2)


@pytest.mark.parametrize(
    ("settings", "kind", "order"),
    [
        ({"channel_order": "rgb"}, "inter_prototype", "rgb"),
        ({"channel_order": "bgr"}, "insightface_pytorch", "bgr"),
        ({"kind": "insightface_pytorch", "channel_order": "rgb"}, "insightface_pytorch", "rgb"),
    ],
)
def test_the_order_of_channels_can_be_said(ir_se50, ir_se50_file, settings, kind, order):
    checkpoint = load_foreign(ir_se50_file, image_size=16, **settings)
    assert (checkpoint.kind, checkpoint.channel_order) == (kind, order)
    first = ir_se50["input_layer.0.weight"]
    assert torch.equal(checkpoint.backbone.input_layer[0].weight, first if order == "rgb" else first.flip(1))


def test_the_order_of_channels_is_not_guessed(ir_se50_file):
    message = refused(ir_se50_file, "this is not guessed")
    for advice in ("kind='inter_prototype'", "(RGB)", "kind='insightface_pytorch'", "(BGR)", "channel_order="):
        assert advice in message


@pytest.mark.parametrize(("depth", "squeeze"), [(50, False), (50, True), (100, False), (100, True)])
def test_depth_and_squeeze_excitation_are_told_by_the_keys(depth, squeeze):
    keys = [key for key in ir_state(depth, squeeze=squeeze) if not key.endswith("num_batches_tracked")]
    assert find_networks(keys) == [(IR, "")]
    assert closest_backbone((IR,), keys)[1] == f"ir{'_se' if squeeze else ''}{depth}"
    assert foreign_keys(IR, f"ir{'_se' if squeeze else ''}{depth}") == set(keys)


def lightning_content(state):
    """What Lightning writes for AdaFace's trainer: weights and head, callbacks by class, settings, optimiser."""
    weights = OrderedDict(prefixed(state, "model."))
    weights["head.kernel"] = torch.randn(16, 7)
    weights |= {"head.t": torch.zeros(1), "head.batch_mean": torch.ones(1), "head.batch_std": torch.ones(1)}
    return {
        "epoch": 25,
        "global_step": 1000,
        "pytorch-lightning_version": "1.4.4",
        "state_dict": weights,
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []}],
        "lr_schedulers": [{"milestones": Counter({12: 1}), "_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"arch": "ir_18", "m": 0.4},
    }


def test_adaface(tmp_path):
    state = ir_state(18, normalised=True, side=2)
    path = tmp_path / "adaface_ir18.ckpt"
    torch.save(lightning_content(state), path)
    checkpoint = load_foreign(path, image_size=32)
    assert (checkpoint.kind, checkpoint.backbone_name, checkpoint.channel_order) == ("adaface", "adaface_ir18", "bgr")
    assert checkpoint.metadata["left_out"].startswith("head.kernel, head.t, head.batch_mean, head.batch_std, epoch")
    assert checkpoint.backbone.dropout == 0.4
    assert_same_embeddings(checkpoint, lambda x: Functional(state).ir(x, 18), size=32)


def test_adafaces_keys_without_their_prefix_do_not_tell_the_order(tmp_path):
    state = ir_state(18, normalised=True)
    torch.save(state, tmp_path / "stripped.pth")
    assert "kind='adaface'" in refused(tmp_path / "stripped.pth", "RGB or BGR")
    save_file(prefixed(state, "net."), tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", "RGB or BGR")
    for order in ("rgb", "bgr"):
        checkpoint = load_foreign(tmp_path / "model.safetensors", channel_order=order, image_size=16)
        assert_same_embeddings(checkpoint, lambda x: Functional(state).ir(x, 18))


@pytest.mark.slow
def test_adafaces_squeeze_excitation(tmp_path):
    state = ir_state(50, normalised=True, squeeze=True)
    torch.save({"state_dict": prefixed(state, "model.")}, tmp_path / "a.ckpt")
    checkpoint = load_foreign(tmp_path / "a.ckpt", image_size=16)
    assert checkpoint.backbone_name == "adaface_ir_se50"
    assert_same_embeddings(checkpoint, lambda x: Functional(state).ir(x, 50))


@pytest.mark.parametrize("side", [1, 2])
def test_mobilefacenet_of_insightface_pytorch(tmp_path, side):
    state = mobilefacenet_state(side=side, embedding_dim=24)
    torch.save(state, tmp_path / "mobile.pth")
    checkpoint = load_foreign(tmp_path / "mobile.pth", image_size=16 * side)
    assert (checkpoint.kind, checkpoint.backbone_name, checkpoint.channel_order) == (
        "insightface_pytorch",
        "mobilefacenet",
        "bgr",
    )
    assert checkpoint.embedding_dim == 24
    assert_same_embeddings(checkpoint, Functional(state).mobilefacenet, size=16 * side)


@pytest.mark.parametrize("written", ["zip", "before 1.6", "safetensors", "no checksums", "parameters"])
def test_every_format_gives_the_same_weights(mobile, tmp_path, written):
    path = tmp_path / "weights"
    if written == "safetensors":
        save_file(mobile, path)
    elif written == "no checksums":
        torch.serialization.set_crc32_options(False)
        torch.save(mobile, path)
        torch.serialization.set_crc32_options(True)
    elif written == "parameters":
        torch.save({k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in mobile.items()}, path)
    else:
        torch.save(mobile, path, _use_new_zipfile_serialization=written == "zip")
    checkpoint = load_foreign(path, image_size=16)
    path.unlink()  # the weights do not depend on the file
    assert_same_embeddings(checkpoint, Functional(mobile).mobilefacenet)
    assert len(checkpoint.metadata["source_sha256"]) == 64


def test_the_network_can_be_trained_on(mobile_file):
    backbone = load_foreign(mobile_file, image_size=16).backbone.train()
    backbone(rgb_images(4, 16).float()).square().sum().backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in backbone.parameters())


def test_the_fixed_scale_of_arcface_torch_stays_fixed(r18, tmp_path):
    torch.save(r18, tmp_path / "r18.pth")
    backbone = load_foreign(tmp_path / "r18.pth", image_size=16).backbone
    assert [key for key, p in backbone.named_parameters() if not p.requires_grad] == ["features.weight"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(mobile, tmp_path, dtype):
    changed = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in mobile.items()}
    torch.save(changed, tmp_path / "a.pth")
    checkpoint = load_foreign(tmp_path / "a.pth", image_size=16)
    assert {p.dtype for p in checkpoint.backbone.parameters()} == {torch.float32}
    assert checkpoint.metadata["source_dtype"] == str(dtype).removeprefix("torch.")
    assert "all weights to float32" in checkpoint.metadata["conversion"]
    assert_same_embeddings(checkpoint, Functional(changed).mobilefacenet)


def test_old_files_lack_the_counters_of_batches(mobile, tmp_path):
    torch.save({key: tensor for key, tensor in mobile.items() if "num_batches" not in key}, tmp_path / "a.pth")
    checkpoint = load_foreign(tmp_path / "a.pth", image_size=16)
    n_norms = sum(key.endswith("running_mean") for key in mobile)
    assert f"{n_norms} missing num_batches_tracked set to 0" in checkpoint.metadata["conversion"]
    assert_same_embeddings(checkpoint, Functional(mobile).mobilefacenet)


def test_a_head_beside_the_weights_is_left_out_and_said(mobile, tmp_path):
    torch.save(mobile | {"kernel": torch.ones(16, 3), "head.weight": torch.ones(3, 16)}, tmp_path / "a.pth")
    assert load_foreign(tmp_path / "a.pth", image_size=16).metadata["left_out"] == "kernel, head.weight"


def test_arguments(mobile_file):
    with pytest.raises(ConfigError, match="adaface, arcface_torch, insightface_pytorch, inter_prototype, found 'arc'"):
        load_foreign(mobile_file, kind="arc")
    with pytest.raises(ConfigError, match="'rgb' or 'bgr', found 'RGB'"):
        load_foreign(mobile_file, channel_order="RGB")
    with pytest.raises(CheckpointError, match="for images of 16 pixels, asked for were 112: pass image_size=16"):
        load_foreign(mobile_file)


def test_a_file_of_another_kind_than_asked_for(mobile_file):
    refused(mobile_file, "not of the kind 'arcface_torch'. Pass kind='insightface_pytorch'", kind="arcface_torch")


def test_missing_and_unknown_keys_are_named(mobile, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({key: tensor for key, tensor in mobile.items() if not key.startswith("conv_45.project.bn.b")}, path)
    refused(path, "Missing: conv_45.project.bn.bias. Unknown: none")
    torch.save(mobile | {"conv_6_dw.prelu.weight": torch.ones(512)}, path)
    refused(path, "Missing: none. Unknown: conv_6_dw.prelu.weight")
    torch.save(mobile | {"conv_6_dw.num_batches_tracked": torch.tensor(1)}, path)
    refused(path, "Unknown: conv_6_dw.num_batches_tracked")
    torch.save(prefixed(mobile, "model.") | {"discriminator.weight": torch.ones(3)}, path)
    refused(path, "belong to no network known here: discriminator.weight")


def test_a_network_of_no_known_depth_names_the_closest(r18, tmp_path):
    torch.save({key: tensor for key, tensor in r18.items() if not key.startswith("layer3.1.")}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", r"closest to iresnet18.*Missing: layer3.1.bn1.bias.*Known are iresnet18, iresnet34")


def test_two_networks_in_one_file(mobile, tmp_path):
    torch.save(prefixed(mobile, "model.") | prefixed(mobile, "net."), tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "holds 2 networks")


def test_networks_that_are_not_known(mobile, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({key: tensor for key, tensor in mobile.items() if not key.startswith("conv1.conv")}, path)
    refused(path, r"Closest is MobileFaceNet.*First missing: conv1.conv.weight. First unknown: none")
    torch.save({"stem.weight": torch.ones(3)}, path)
    refused(path, "None of its 1 keys")
    torch.save({"block1.0.res_layer.0.weight": torch.ones(3), "fsm.channel.0.weight": torch.ones(3)}, path)
    refused(path, "MTLFace")
    torch.save({f"model.body.0.res_layer.{i}.weight": torch.ones(3) for i in range(9)}, path)
    refused(path, "three convolutions")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no tensors by name. It holds: nothing"),
        ({"epoch": 3, "state_dict": {}}, "It holds: epoch, state_dict"),
        ([torch.ones(2)], "a list of 1"),
        (torch.ones(2), "holds one tensor"),
        ("weights", "type str"),
        ({1: torch.ones(2)}, "no tensors by name"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", message)


def test_shapes_that_do_not_fit_are_named(mobile, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(mobile | {"conv1.conv.weight": torch.ones(64, 1, 3, 3)}, path)
    refused(path, r"conv1.conv.weight is \(64, 1, 3, 3\), expected \(64, 3, 3, 3\)")
    torch.save(mobile | {"bn.running_mean": torch.ones(17)}, path)
    refused(path, r"bn.bias is \(16,\), expected \(17,\)")
    torch.save(mobile | {"conv1.prelu.weight": torch.tensor(1.0)}, path)
    refused(path, r"conv1.prelu.weight is \(\), expected \(64,\)")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("conv_3.model.1.project.bn.weight", torch.full((64,), float("nan")), "64 of 64 in conv_3.model.1.project.bn"),
        ("linear.weight", torch.full((16, 512), 1e300, dtype=torch.float64), "not finite"),
        ("conv1.bn.running_var", torch.full((64,), -1.0), "negative variance in conv1.bn.running_var"),
        ("linear.weight", torch.ones(16, 512, dtype=torch.int8), "torch.int8, expected floating point"),
        ("conv1.bn.weight", torch.ones(1).expand(64), "no plain array"),
        ("conv1.bn.weight", torch.ones(64).to_sparse(), "no plain array"),
        ("conv1.bn.weight", torch.ones(64, device="meta"), "no plain array"),
    ],
)
def test_values_that_do_not_fit_are_named(mobile, tmp_path, key, value, message):
    torch.save(mobile | {key: value}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", message)


MEASURE = """
import sys, torch
from pathlib import Path
from interproto_lib.models import load_foreign
from interproto_lib.models.foreign_keys import IR, closest_backbone, find_networks, foreign_keys

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

load_foreign(sys.argv[2], image_size=16)
before = peak()
checkpoint = load_foreign(sys.argv[1])
print(peak() - before)
torch.save(checkpoint.backbone(torch.load(sys.argv[3])).detach(), sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of memory from /proc")  # noqa: PTH110
def test_a_full_r50_in_bounded_memory(mobile_file, tmp_path):
    state = iresnet_state(50, embedding_dim=512, side=7)
    path, exchange = tmp_path / "r50.pth", tmp_path / "images.pt"
    torch.save(state, path)
    rgb = rgb_images(1, 112)
    torch.save(rgb.float(), exchange)
    command = [sys.executable, "-c", MEASURE, str(path), str(mobile_file), str(exchange)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2.5 * path.stat().st_size
    torch.testing.assert_close(unit(torch.load(exchange)), unit(Functional(state).iresnet(rgb, 50)), rtol=0, atol=1e-5)
