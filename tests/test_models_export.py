"""Exported backbones compute what the original computes, say what they are, and come back from the file alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fuzzing import assert_only_named_errors, mutations
from safetensors.torch import save_file

from interproto_lib import __version__
from interproto_lib.errors import CheckpointError, ConfigError
from interproto_lib.models import BACKBONES, build_backbone, save_backbone
from interproto_lib.models import export as export_module
from interproto_lib.models.export import (
    backbone_name,
    export_onnx,
    export_safetensors,
    is_own_file,
    open_backbone,
)
from interproto_lib.models.inference import for_inference


def trained_like(name, *, embedding_dim=16, image_size=32, seed=0):
    """A network whose batch normalisations have scales of their own and the statistics of what they see.

    Folding shows then, and deep networks stay finite: with statistics at random an iresnet of 100 layers overflows.
    """
    torch.manual_seed(seed)
    backbone = build_backbone(name, embedding_dim=embedding_dim, image_size=image_size).train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():
        backbone(torch.rand(4, 3, image_size, image_size) * 2 - 1)
    return backbone.eval()


def in_onnx_runtime(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (put,), (got,) = session.get_inputs(), session.get_outputs()
    assert (put.name, put.type, put.shape[1:]) == ("images", "tensor(float)", list(images.shape[1:]))
    assert (got.name, got.type) == ("embeddings", "tensor(float)")
    assert isinstance(put.shape[0], str), "the batch is free"
    return session.run(["embeddings"], {"images": images})[0]


def assert_equal_in_onnx_runtime(path, backbone, *, normalise=True):
    draw = np.random.default_rng(1)
    size = backbone.image_size
    for n in (1, 2, 7):
        images = draw.uniform(-1, 1, (n, 3, size, size)).astype(np.float32)
        with torch.inference_mode():
            expected = backbone(torch.from_numpy(images)).numpy().astype(np.float64)
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        found = in_onnx_runtime(path, images)
        assert found.shape == (n, backbone.embedding_dim)
        if normalise:
            np.testing.assert_allclose(found, expected / lengths, atol=1e-4, rtol=0)
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        else:
            np.testing.assert_allclose(found / lengths, expected / lengths, atol=1e-4, rtol=0)
            assert np.abs(lengths - 1).max() > 0.01, "the test tells the two apart"


@pytest.fixture(scope="module")
def tiny_onnx(tmp_path_factory):
    backbone = trained_like("tiny")
    return backbone, export_onnx(backbone, tmp_path_factory.mktemp("onnx") / "new" / "tiny.onnx")


def test_onnx_runtime_gives_what_torch_gives_at_any_batch(tiny_onnx):
    backbone, path = tiny_onnx
    assert_equal_in_onnx_runtime(path, backbone)
    assert [file.name for file in path.parent.iterdir()] == ["tiny.onnx"], "no external data, nothing left behind"


def test_embeddings_keep_their_length_where_asked(tmp_path):
    backbone = trained_like("tiny")
    path = export_onnx(backbone, tmp_path / "x.onnx", normalise=False)
    assert_equal_in_onnx_runtime(path, backbone, normalise=False)
    assert {p.key: p.value for p in onnx.load(path).metadata_props}["normalised"] == "false"


def test_the_onnx_file_says_what_it_is_and_nothing_of_this_machine(tiny_onnx):
    _, path = tiny_onnx
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "backbone": "tiny",
        "embedding_dim": "16",
        "image_size": "32",
        "channels": "RGB",
        "pixels": "(x / 255 - 0.5) / 0.5",
        "normalised": "true",
        "library": __version__,
    }
    content = path.read_bytes()
    for part in Path(export_module.__file__).resolve().parts[1:-1]:
        assert f"/{part}/".encode() not in content
    assert b"File " not in content


def test_equal_networks_give_equal_bytes_in_any_memory_order_and_mode(tiny_onnx, tmp_path):
    backbone, path = tiny_onnx
    other = trained_like("tiny").to(memory_format=torch.channels_last).train()
    assert export_onnx(other, tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert other.training, "the network given is left as it is"
    before = backbone.state_dict()
    assert all(torch.equal(tensor, before[key]) for key, tensor in other.state_dict().items())


def test_an_older_operator_set_is_written_where_asked(tmp_path):
    backbone = trained_like("tiny")
    path = export_onnx(backbone, tmp_path / "x.onnx", opset=18)
    assert [entry.version for entry in onnx.load(path).opset_import if entry.domain == ""] == [18]
    assert_equal_in_onnx_runtime(path, backbone)
    for wrong in (17, 18.0, True):
        with pytest.raises(ConfigError, match="at least 18"):
            export_onnx(backbone, tmp_path / "y.onnx", opset=wrong)


def test_a_model_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    there = tmp_path / "x.onnx"
    there.write_bytes(b"what was there")

    def folded_wrongly(backbone):
        changed = for_inference(backbone)
        with torch.no_grad():
            changed.input_layer[0].weight.mul_(1.01)
        return changed

    monkeypatch.setattr(export_module, "for_inference", folded_wrongly)
    with pytest.raises(CheckpointError, match=r"differs from the original by .* Nothing was written"):
        export_onnx(trained_like("tiny"), there)
    assert there.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    export_onnx(trained_like("tiny"), there, check=False)
    assert there.read_bytes() != b"what was there"


def test_weights_that_are_not_finite_are_noticed(tmp_path):
    backbone = trained_like("tiny")
    with torch.no_grad():
        backbone.input_layer[0].weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="differs from the original by nan"):
        export_onnx(backbone, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_packages_the_message_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=rf'needs {missing}: .*pip install "interproto-lib\[onnx\]"'):
        export_onnx(trained_like("tiny"), tmp_path / "x.onnx")


@pytest.mark.parametrize("name", ["small", "mobilefacenet"])
def test_small_networks_export(name, tmp_path):
    backbone = trained_like(name)
    assert_equal_in_onnx_runtime(export_onnx(backbone, tmp_path / "x.onnx"), backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ir_se50", "ir152", "iresnet18", "iresnet100", "adaface_ir18", "adaface_ir_se50", "mtlface_ir50"]
)
def test_large_networks_export(name, tmp_path):
    backbone = trained_like(name, image_size=112 if name == "ir_se50" else 32)
    assert_equal_in_onnx_runtime(export_onnx(backbone, tmp_path / "x.onnx"), backbone)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_network_is_known_by_its_weights(name):
    with torch.device("meta"):
        backbone = build_backbone(name, embedding_dim=24, image_size=48)
    assert backbone_name(backbone) == name


def test_a_changed_network_is_not_taken_for_one_of_ours(tmp_path):
    folded = for_inference(trained_like("tiny"))
    for export in (export_onnx, export_safetensors):
        with pytest.raises(ConfigError, match="has the weights of none of the backbones"):
            export(folded, tmp_path / "x")


def test_safetensors_comes_back_from_the_file_alone(tmp_path):
    backbone = trained_like("tiny")
    path = export_safetensors(backbone, tmp_path / "x.safetensors")
    name, again = open_backbone(path)
    assert (name, again.embedding_dim, again.image_size, again.training) == ("tiny", 16, 32, False)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(again(images), backbone(images))
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["network"])["image_size"] == 32
    assert is_own_file(path)
    with pytest.raises(CheckpointError, match="takes images of 32 pixels, not of 112"):
        open_backbone(path, image_size=112)


def test_a_file_of_a_training_says_no_image_size(tmp_path):
    network = {"backbone": "tiny", "embedding_dim": 16, "channels": "RGB"}
    path = save_backbone(trained_like("tiny"), tmp_path / "x.safetensors", metadata={"network": json.dumps(network)})
    assert open_backbone(path, image_size=32)[0] == "tiny"
    with pytest.raises(CheckpointError, match="give image_size"):
        open_backbone(path)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        open_backbone(path, image_size=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "ir9"}, "cannot be built: There is no backbone named 'ir9'"),
        ({"backbone": ["tiny"]}, "cannot be built"),
        ({"embedding_dim": 10**9}, "has .* bytes, but the weights .* take"),
        ({"embedding_dim": 2**62}, "cannot be built|take"),
        ({"embedding_dim": "16"}, "cannot be built"),
        ({"embedding_dim": None}, "cannot be built"),
        ({"image_size": 10**6}, "has .* bytes, but the weights .* take"),
        ({"image_size": -32}, "cannot be built"),
        ({"channels": "BGR"}, "takes channels 'BGR'; expected 'RGB'"),
    ],
)
def test_what_a_file_claims_is_held_against_what_it_holds(tmp_path, changes, message):
    network = {"backbone": "tiny", "embedding_dim": 16, "image_size": 32, "channels": "RGB"} | changes
    path = save_backbone(trained_like("tiny"), tmp_path / "x.safetensors", metadata={"network": json.dumps(network)})
    with pytest.raises(CheckpointError, match=message):
        open_backbone(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, "1e999"])
def test_metadata_of_another_kind_are_an_error(tmp_path, text):
    path = save_backbone(trained_like("tiny"), tmp_path / "x.safetensors", metadata={"network": text})
    with pytest.raises(CheckpointError, match="'network'"):
        open_backbone(path)


def test_other_files_are_not_ours(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    for name in ("plain.safetensors", "x.pth", "missing", "."):
        assert not is_own_file(tmp_path / name)
        with pytest.raises(CheckpointError):
            open_backbone(tmp_path / name)


def test_damaged_files_give_named_errors(tmp_path):
    path = export_safetensors(trained_like("tiny"), tmp_path / "x.safetensors")
    content = path.read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    damaged = [
        *(part + content[head:] for part in mutations(content[:head], n=900, seed=1)),
        *mutations(content, n=300, seed=2),
    ]
    file = tmp_path / "damaged.safetensors"

    def read(changed):
        file.write_bytes(changed)
        open_backbone(file)

    assert assert_only_named_errors(read, damaged) > 700
