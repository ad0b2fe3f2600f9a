"""Backbone checkpoints: exact round trips, and errors that name what does not fit."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from interproto_lib.errors import CheckpointError, WriteError
from interproto_lib.models import build_backbone, load_backbone_weights, save_backbone


def tiny(seed, **settings):
    torch.manual_seed(seed)
    backbone = build_backbone("tiny", **({"embedding_dim": 16, "image_size": 56} | settings))
    backbone(torch.randn(4, 3, backbone.image_size, backbone.image_size))  # running statistics of their own
    return backbone


def values(backbone):
    return {key: tensor.clone() for key, tensor in backbone.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


@pytest.fixture
def saved(tmp_path):
    backbone = tiny(1)
    path = save_backbone(backbone, tmp_path / "new" / "backbone.safetensors", metadata={"backbone": "tiny"})
    return backbone, path


def test_round_trip_is_exact_and_returns_the_metadata(saved):
    backbone, path = saved
    other = tiny(2)
    assert load_backbone_weights(other, path) == {"backbone": "tiny"}
    assert_same(values(backbone), values(other))
    batch = torch.randn(3, 3, 56, 56)
    assert torch.equal(backbone.eval()(batch), other.eval()(batch))


def test_the_file_is_plain_safetensors(saved):
    backbone, path = saved
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.pop("__metadata__") == {"backbone": "tiny"}
    assert header.keys() == backbone.state_dict().keys()
    assert header["output_layer.3.weight"]["dtype"] == "F32"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_channels_last_writes_the_same_bytes_and_stays_channels_last(saved, tmp_path):
    backbone, path = saved
    backbone.to(memory_format=torch.channels_last)
    again = save_backbone(backbone, tmp_path / "again.safetensors", metadata={"backbone": "tiny"})
    assert again.read_bytes() == path.read_bytes()
    other = tiny(2).to(memory_format=torch.channels_last)
    load_backbone_weights(other, path)
    assert other.body[1].res_layer[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert_same(values(backbone), values(other))


def test_parameters_stay_the_same_objects_and_trainable(saved):
    _, path = saved
    other = tiny(2)
    before = list(other.parameters())
    load_backbone_weights(other, path)
    assert all(left is right for left, right in zip(before, other.parameters(), strict=True))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in before)


def test_loaded_weights_do_not_depend_on_the_file(saved):
    backbone, path = saved
    other = tiny(2)
    load_backbone_weights(other, path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_same(values(backbone), values(other))


def test_modules_sharing_a_tensor_can_be_saved(tmp_path):
    shared = torch.nn.Linear(3, 3)
    path = save_backbone(torch.nn.Sequential(shared, shared), tmp_path / "shared.safetensors")
    other = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    load_backbone_weights(other, path)
    assert torch.equal(other[0].weight, shared.weight)
    assert torch.equal(other[1].weight, shared.weight)


def refuse(backbone, path, message):
    """Loading raises CheckpointError with `message`, and leaves the module as it was."""
    before = values(backbone)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone_weights(backbone, path)
    assert str(path) in str(caught.value)
    assert_same(before, values(backbone))
    return str(caught.value)


def test_other_shapes_are_named_and_nothing_is_loaded(saved):
    _, path = saved
    message = refuse(tiny(2, embedding_dim=24), path, re.escape("output_layer.3.weight is (16, 1024)"))
    assert "the model has (24, 1024)" in message
    assert "backbone=tiny" in message


def test_other_names_are_listed(saved):
    _, path = saved
    torch.manual_seed(0)
    message = refuse(
        build_backbone("mobilefacenet", image_size=32), path, "320 missing: input_layer.2.weight, input_layer.3.weight"
    )
    assert "unknown to the model: body.0.res_layer.0.bias" in message
    assert "and " in message
    assert len(message) < 3000


def test_one_missing_and_one_unknown_key(tmp_path):
    backbone = tiny(1)
    tensors = values(backbone)
    tensors["module.stem"] = tensors.pop("input_layer.0.weight")
    path = tmp_path / "renamed.safetensors"
    save_file(tensors, path)
    message = refuse(tiny(2), path, "1 missing: input_layer.0.weight; 1 unknown to the model: module.stem")
    assert "shape" not in message.split("Build")[0]


def test_other_dtypes_are_named(tmp_path):
    path = save_backbone(tiny(1).half(), tmp_path / "half.safetensors")
    refuse(tiny(2), path, r"torch\.float16, the model has torch\.float32")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_files(saved, kept):
    _, path = saved
    path.write_bytes(path.read_bytes()[:kept])
    refuse(tiny(2), path, "is empty" if kept == 0 else "cut short, damaged")


def test_other_kinds_of_file(tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("these are no weights " * 20)
    refuse(tiny(2), path, "cannot be read as a safetensors file")


class Trap:
    """Unpickling this raises."""

    def __reduce__(self):
        return (pytest.fail, ("the checkpoint was unpickled",))


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_save_files_are_recognised_and_never_unpickled(tmp_path, legacy):
    path = tmp_path / "backbone.pth"
    torch.save({"weights": Trap()}, path, _use_new_zipfile_serialization=not legacy)
    refuse(tiny(2), path, "never opened here")


def test_missing_files_and_folders(tmp_path):
    refuse(tiny(2), tmp_path / "absent.safetensors", "There is no checkpoint")
    refuse(tiny(2), tmp_path, "is a folder")


def test_metadata_must_be_text(tmp_path):
    with pytest.raises(CheckpointError, match="epoch"):
        save_backbone(tiny(1), tmp_path / "backbone.safetensors", metadata={"epoch": 3})
    assert list(tmp_path.iterdir()) == []


def test_a_module_without_values_is_refused(tmp_path):
    with torch.device("meta"):
        backbone = build_backbone("tiny", image_size=56)
    with pytest.raises(CheckpointError, match="meta device"):
        save_backbone(backbone, tmp_path / "backbone.safetensors")


def test_a_failed_write_keeps_the_old_file(saved, monkeypatch):
    backbone, path = saved
    before = path.read_bytes()

    def full_disk(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(WriteError, match="No space left"):
        save_backbone(backbone, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
