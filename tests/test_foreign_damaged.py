"""Checkpoints that are damaged, hostile or no checkpoints: a named error, nothing run, bounded memory."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_networks import mobilefacenet_state
from fuzzing import assert_only_named_errors, mutations
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors

from interproto_lib.errors import CheckpointError
from interproto_lib.models import load_foreign, load_foreign_head
from interproto_lib.models.restricted_loading import read_checkpoint

HEAD = {"kernel": torch.arange(1.0, 41.0).reshape(8, 5)}


def saved(content, **settings):
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def rezipped(content, change):
    """The same archive of torch.save with its pickle changed, and every size and checksum right again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for record in old.infolist():
            data = old.read(record)
            new.writestr(record.filename, change(data) if record.filename.endswith("data.pkl") else data)
    return buffer.getvalue()


def pickle_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "weights.pth"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def refused(path, message, load=read_checkpoint):
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("n_tensors", ["one", "many"])
@pytest.mark.parametrize("form", ["zip", "before 1.6", "safetensors"])
def test_damaged_copies_of_a_head_give_only_named_errors(write, form, n_tensors):
    content = HEAD if n_tensors == "one" else HEAD | {f"{i}.weight": torch.ones(i) for i in range(1, 9)}
    if form == "safetensors":
        whole = to_safetensors(content)
    else:
        whole = saved(content, _use_new_zipfile_serialization=form == "zip")
    inputs = mutations(whole, n=400, seed=len(form) + len(content))
    n_refused = assert_only_named_errors(lambda changed: load_foreign_head(write(changed)), inputs)
    assert n_refused > 100


def test_damaged_pickles_in_whole_archives_give_only_named_errors(write):
    whole = saved(HEAD | {"name": "x", "list": [1, 2.5, None], "big": torch.ones(3, 2, dtype=torch.float64)})
    inputs = (rezipped(whole, lambda _, new=new: new) for new in mutations(pickle_of(whole), n=800, seed=5))
    assert assert_only_named_errors(lambda changed: load_foreign_head(write(changed)), inputs) > 300


def test_damaged_copies_of_a_network_give_only_named_errors(write):
    whole = saved(mobilefacenet_state())
    for kind, order in (("auto", None), ("insightface_pytorch", "rgb")):
        inputs = mutations(whole, n=150, seed=len(kind))
        n_refused = assert_only_named_errors(
            lambda changed: load_foreign(write(changed), kind=kind, channel_order=order, image_size=16),  # noqa: B023
            inputs,
        )
        assert n_refused > 120  # the checksums tell nearly everything


class Canary:
    """Unpickling this writes a file."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        if self.function is eval:
            return eval, (f"open({str(self.path)!r}, 'w')",)
        return self.function, (self.path,)


@pytest.mark.parametrize("function", [Path.touch, Path.mkdir, eval, open])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["value", "key", "inside"])
def test_nothing_in_a_file_is_run(write, tmp_path, function, legacy, place):
    path = tmp_path / "canary"
    bait = Canary(path if function is not open else str(path) + "'w'", function)
    content = {"value": HEAD | {"x": bait}, "key": {(bait,): 1}, "inside": {"state_dict": HEAD, "callbacks": [bait]}}
    file = write(saved(content[place], _use_new_zipfile_serialization=not legacy))
    for load in (read_checkpoint, load_foreign, load_foreign_head):
        message = refused(file, "Nothing was run", load)
        assert "asks for" in message
        assert "torch.save(model.state_dict()" in message
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_that_are_not_of_torch_are_not_opened(write, tmp_path, protocol):
    path = tmp_path / "canary"
    refused(write(pickle.dumps(Canary(path, Path.touch), protocol=protocol)), "not one of torch.save|neither a file")
    assert not path.exists()


@pytest.fixture
def foreign_module(monkeypatch):
    """Define classes under the names of other codes' modules for saving; they cannot be imported afterwards."""

    def define(module, name, base=object):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            whole = ".".join(parts[:end])
            if whole not in sys.modules:
                monkeypatch.setitem(sys.modules, whole, types.ModuleType(whole))
        cls = type(name, (base,), {"__module__": module})
        monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
        return cls

    return define


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_model_is_refused_by_name(write, foreign_module):
    backbone = foreign_module("model", "Backbone", torch.nn.Module)()
    backbone.conv = torch.nn.Conv2d(3, 3, 1)
    for legacy in (False, True):
        file = write(saved(backbone, _use_new_zipfile_serialization=not legacy))
        assert "asks for model.Backbone" in refused(file, "a whole model was pickled", load_foreign)


def test_lightnings_callbacks_and_settings_are_passed_over_and_never_imported(write, foreign_module, monkeypatch):
    callback = foreign_module("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    settings = foreign_module("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    dotted = foreign_module("utils", "dotdict", dict)
    state = mobilefacenet_state()
    content = {
        "epoch": 3,
        "state_dict": {f"model.{key}": tensor for key, tensor in state.items()},
        "callbacks": {callback: {"best_model_score": torch.tensor(0.9), "dirpath": Path("runs")}},
        "hyper_parameters": settings(lr=0.1, place=Path("x"), args=dotted(m=0.4)),
        "scores": [np.float64(0.97), np.float32(1)],
        "object": callback(),
    }
    file = write(saved(content))
    allowed_before = set(torch.serialization.get_safe_globals())
    for name in ("pytorch_lightning", "utils"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it from here on fails
    checkpoint = load_foreign(file, image_size=16)
    assert checkpoint.metadata["left_out"] == "epoch, callbacks, hyper_parameters, scores, object"
    assert torch.equal(checkpoint.backbone.output_layer[7].weight, state["linear.weight"])
    assert set(torch.serialization.get_safe_globals()) == allowed_before


def test_truncated_files(write):
    for form in ({}, {"_use_new_zipfile_serialization": False}):
        whole = saved(mobilefacenet_state(), **form)
        for kept in (1, 9, 100, len(whole) // 2, len(whole) - 1):
            refused(write(whole[:kept]), "cut short|damaged", load_foreign)
    refused(write(b""), "is empty")


def test_a_flipped_bit_in_the_weights_is_noticed_by_the_checksum(write):
    whole = bytearray(saved(mobilefacenet_state()))
    whole[len(whole) // 2] ^= 1
    refused(write(bytes(whole)), "Bad CRC-32", load_foreign)


def test_other_files(write, tmp_path):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "absent.pth", "There is no checkpoint")
    refused(write(b"\x08\x07\x12\x07pytorch" * 9), "ONNX, MXNet, TensorFlow")
    archive = io.BytesIO()
    np.savez(archive, weights=np.ones(3))
    refused(write(archive.getvalue()), "not one of torch.save")


def test_torchscript_is_not_opened(write):
    program = io.BytesIO()
    with zipfile.ZipFile(program, "w") as archive:  # what torch.jit.save writes has this beside the data
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    refused(write(program.getvalue()), "TorchScript program, which runs when it is opened")


def archive_of(size, **settings):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **settings) as archive:
        archive.writestr("a/data.pkl", b"\0" * size)
    return buffer.getvalue()


def test_sizes_are_checked_before_they_are_believed(write):
    refused(write(archive_of(10**7, compression=zipfile.ZIP_DEFLATED)), "compressed zip archive")
    refused(write(archive_of(5 * 2**20)), "describes its content in 5242880 bytes")
    lying = bytearray(archive_of(100))
    place = lying.index(b"PK\x01\x02") + 24  # the size in the archive's list
    lying[place : place + 4] = struct.pack("<I", 2**31)
    refused(write(bytes(lying)), "states more bytes than it has|cannot be read")


def test_storages_of_old_files_cannot_claim_more_than_the_file_has(write):
    whole = saved(HEAD, _use_new_zipfile_serialization=False)
    count = b"K" + bytes([40]) + b"N"  # forty values, no view
    assert whole.count(count) == 1
    refused(write(whole.replace(count, b"J" + struct.pack("<i", 2**31 - 1) + b"N")), "more values than it has bytes")


def test_pickles_of_endless_work_end(write, monkeypatch):
    monkeypatch.setattr("interproto_lib.models.restricted_loading.MAX_INSTRUCTIONS", 1000)
    whole = saved([0] * 5000, _use_new_zipfile_serialization=False)
    refused(write(whole), "more than 1000 instructions")


def test_tensors_larger_than_their_storage_are_not_copied(write):
    huge = torch.ones(1).expand(2**20, 2**20)  # 4 TB, were it copied
    refused(write(saved({"kernel": huge})), "no plain array", load_foreign_head)
    whole = saved(HEAD)
    size = b"K\x08K\x05\x86"  # (8, 5)
    assert pickle_of(whole).count(size) == 1
    beyond = rezipped(whole, lambda data: data.replace(size, b"M\xff\xffM\xff\xff\x86"))
    refused(write(beyond), "cannot be read as a file of torch.save", load_foreign_head)


NAME_PARTS = (
    *("module", "model", "net", "head", "kernel", "weight", "conv1", "bn1", "layer1", "0", "input_layer", "body"),
    *("res_layer", "1", "2", "7", "running_mean", "conv2_dw", "conv"),
)


@given(
    st.lists(
        st.lists(
            st.sampled_from((*NAME_PARTS, "\x1b[2J", "\ud800", "", "é" * 200)),
            min_size=1,
            max_size=5,
        ).map(".".join),
        max_size=8,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_the_names_only_named_errors_that_print(names):
    for load in (_convert_names, _head_of_names):
        with pytest.raises(CheckpointError) as caught:
            load({name: torch.ones(2) for name in names})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 2500


def _convert_names(content):
    from interproto_lib.models.foreign import _convert

    _convert(content, kind="auto", channel_order="rgb", image_size=16)


def _head_of_names(content):
    from interproto_lib.models.foreign_head import _find_head

    key, tensor, _ = _find_head(content)
    raise CheckpointError(f"holds {key} of shape {tuple(tensor.shape)}")


def test_attributes_in_a_file_hide_no_methods(write):
    state = OrderedDict(mobilefacenet_state())
    weight = torch.nn.Parameter(state["linear.weight"])
    weight.numel = weight.detach = weight.untyped_storage = "hidden"
    state["linear.weight"] = weight
    state.get = state.keys = "hidden"
    checkpoint = load_foreign(write(saved(state)), image_size=16)
    assert torch.equal(checkpoint.backbone.output_layer[7].weight, weight)
    # What is read does carry them, so the plain types' own methods were needed.
    read = read_checkpoint(write(saved(state)))
    assert "hidden" in (read.get, read["linear.weight"].numel)
