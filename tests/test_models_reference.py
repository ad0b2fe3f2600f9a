"""Backbones against a second, functional implementation in float64, and against committed golden outputs.

The functional versions are written from the text of reference/methods.md (IR, IR-SE), from Table 1 of the MobileFaceNet
paper and from the description in `models/small.py`; they see only a state dict. Weights and images come from an integer
hash, so that they do not depend on any random number generator. `python tests/test_models_reference.py` writes the
golden files from the functional versions, never from the backbones.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from interproto_lib.models import build_backbone
from interproto_lib.models.ir import IRUnit

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "ir_se50": {"embedding_dim": 512, "image_size": 112},
    "ir50": {"embedding_dim": 16, "image_size": 32},
    "mobilefacenet": {"embedding_dim": 128, "image_size": 112},
    "small": {"embedding_dim": 128, "image_size": 56},
    "tiny": {"embedding_dim": 64, "image_size": 56},
}


def hashed(n, seed):
    """n float64 values in [0, 1): splitmix64 of a counter."""
    with np.errstate(over="ignore"):
        x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float64) / 2**24  # 24 bits: exact in float32 as well


def fill(module):
    """Give every parameter and running statistic a value of its own that float32 holds exactly."""
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            u = torch.from_numpy(hashed(tensor.numel(), zlib.crc32(key.encode()))).reshape(tensor.shape)
            if key.endswith("running_var"):
                value = 0.5 + u
            elif key.endswith(("running_mean", "bias")):
                value = 0.25 * (u - 0.5)
            elif tensor.ndim == 1:
                value = 0.5 + u
            else:
                value = (u - 0.5) * 2.5 / (tensor[0].numel() ** 0.5)
            tensor.copy_(value.float())
    return module


def hashed_images(n, size):
    """Images of 8x8 hashed squares: pure noise would average out and make all images alike."""
    squares = torch.from_numpy(hashed(n * 3 * 64, 7) * 2 - 1).reshape(n, 3, 8, 8)
    return squares.repeat_interleave(size // 8, dim=2).repeat_interleave(size // 8, dim=3)


class Reference:
    """Layers as plain functions of a float64 state dict."""

    def __init__(self, state):
        self.state = {key: tensor.double() for key, tensor in state.items()}

    def conv(self, x, key, stride=1, padding=0, groups=1):
        return F.conv2d(x, self.state[f"{key}.weight"], None, stride, padding, 1, groups)

    def norm(self, x, key):
        mean, var, weight, bias = (
            self.state[f"{key}.{part}"].reshape((1, -1) + (1,) * (x.ndim - 2))
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def prelu(self, x, key):
        return torch.where(x >= 0, x, x * self.state[f"{key}.weight"].reshape(1, -1, 1, 1))

    def ir_unit(self, x, i, stride):
        p = f"body.{i}"
        if f"{p}.shortcut_layer.0.weight" in self.state:
            shortcut = self.norm(self.conv(x, f"{p}.shortcut_layer.0", stride), f"{p}.shortcut_layer.1")
        else:
            shortcut = x[:, :, ::stride, ::stride]
        r = self.norm(x, f"{p}.res_layer.0")
        r = self.conv(r, f"{p}.res_layer.1", 1, 1)
        r = self.prelu(r, f"{p}.res_layer.2")
        r = self.conv(r, f"{p}.res_layer.3", stride, 1)
        r = self.norm(r, f"{p}.res_layer.4")
        if f"{p}.res_layer.5.fc1.weight" in self.state:
            w1 = self.state[f"{p}.res_layer.5.fc1.weight"][:, :, 0, 0]
            w2 = self.state[f"{p}.res_layer.5.fc2.weight"][:, :, 0, 0]
            gate = torch.sigmoid(torch.relu(r.mean(dim=(2, 3)) @ w1.T) @ w2.T)
            r = r * gate[:, :, None, None]
        return shortcut + r

    def ir(self, x, units=(3, 4, 14, 3)):
        x = self.prelu(self.norm(self.conv(x, "input_layer.0", 1, 1), "input_layer.1"), "input_layer.2")
        i = 0
        for n in units:
            for position in range(n):
                x = self.ir_unit(x, i, 2 if position == 0 else 1)
                i += 1
        x = self.norm(x, "output_layer.0").reshape(len(x), -1)
        x = x @ self.state["output_layer.3.weight"].T + self.state["output_layer.3.bias"]
        return self.norm(x, "output_layer.4")

    def small(self, x):
        x = torch.relu(self.norm(self.conv(x, "input_layer.0", 2, 1), "input_layer.1"))
        for i in range(3):
            p = f"body.{i}"
            if i == 0:
                shortcut = x[:, :, ::2, ::2]
            else:
                shortcut = self.norm(self.conv(x, f"{p}.shortcut_layer.0", 2), f"{p}.shortcut_layer.1")
            r = self.conv(self.norm(x, f"{p}.res_layer.0"), f"{p}.res_layer.1", 2, 1)
            r = torch.relu(self.norm(r, f"{p}.res_layer.2"))
            x = shortcut + self.norm(self.conv(r, f"{p}.res_layer.4", 1, 1), f"{p}.res_layer.5")
        x = self.norm(x, "output_layer.0").reshape(len(x), -1)
        return self.norm(x @ self.state["output_layer.3.weight"].T, "output_layer.4")

    def mobilefacenet(self, x):
        x = self.prelu(self.norm(self.conv(x, "input_layer.0", 2, 1), "input_layer.1"), "input_layer.2")
        x = self.conv(x, "input_layer.3", 1, 1, groups=64)
        x = self.prelu(self.norm(x, "input_layer.4"), "input_layer.5")
        i, channels = 0, 64
        table = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]
        for t, c, n, s in table:
            for position in range(n):
                p, stride, hidden = f"body.{i}.layers", s if position == 0 else 1, channels * t
                y = self.prelu(self.norm(self.conv(x, f"{p}.0"), f"{p}.1"), f"{p}.2")
                y = self.prelu(self.norm(self.conv(y, f"{p}.3", stride, 1, hidden), f"{p}.4"), f"{p}.5")
                y = self.norm(self.conv(y, f"{p}.6"), f"{p}.7")
                x = x + y if stride == 1 and channels == c else y
                channels = c
                i += 1
        x = self.prelu(self.norm(self.conv(x, "output_layer.0"), "output_layer.1"), "output_layer.2")
        assert x.shape[1:] == (512, 7, 7)
        x = (x * self.state["output_layer.3.weight"][None, :, 0]).sum(dim=(2, 3))  # linear GDConv7x7
        x = self.norm(x, "output_layer.4")
        return self.norm(x @ self.state["output_layer.7.weight"].T, "output_layer.8")

    def embed(self, name, x):
        forward = {"ir50": self.ir, "ir_se50": self.ir, "mobilefacenet": self.mobilefacenet}
        return forward.get(name, self.small)(x)


def summary(embeddings):
    """The numbers that a golden file keeps."""
    return {
        "first": embeddings[0, :6].tolist(),
        "last": embeddings[-1, -3:].tolist(),
        "mean": embeddings.mean().item(),
        "rms": embeddings.square().mean().sqrt().item(),
    }


@pytest.mark.parametrize("name", CASES)
def test_backbones_equal_the_functional_reference_and_the_golden_outputs(name):
    backbone = fill(build_backbone(name, **CASES[name], dropout=0.6)).eval()
    x = hashed_images(2 if name != "ir_se50" else 1, CASES[name]["image_size"])
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert golden["settings"] == CASES[name]
    with torch.no_grad():
        single = backbone(x.float())
        reference = Reference(backbone.state_dict()).embed(name, x)
        double = backbone.double()(x)
    torch.testing.assert_close(double, reference, rtol=1e-9, atol=1e-9)
    for key, value in summary(double).items():
        assert value == pytest.approx(golden["outputs"][key], rel=1e-8, abs=1e-9), key
    rms = golden["outputs"]["rms"]
    torch.testing.assert_close(single.double(), reference, rtol=0, atol=golden["float32_tolerance"] * rms)
    # The comparison is sharp only where the embedding depends on the image and is of moderate size.
    assert 0.05 < rms < 50
    assert len(x) == 1 or (reference[0] - reference[1]).square().mean().sqrt() > 0.05 * rms


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(64, 64, 2), (64, 64, 1), (32, 64, 2)])
def test_ir_se_unit_in_training_has_the_reference_gradients(in_channels, out_channels, stride):
    unit = fill(IRUnit(in_channels, out_channels, stride=stride, squeeze_excitation=True)).double().train()
    x = torch.from_numpy(hashed(3 * in_channels * 64, 5) - 0.5).reshape(3, in_channels, 8, 8).requires_grad_()
    weight = torch.from_numpy(hashed(3 * out_channels * (8 // stride) ** 2, 6) - 0.5)
    own = unit(x)
    own_gradient = torch.autograd.grad((own.reshape(-1) * weight).sum(), x)[0]

    state = {f"body.0.{key}": tensor for key, tensor in unit.state_dict().items()}

    class BatchStatistics(Reference):
        def norm(self, x, key):
            mean = x.mean(dim=(0, 2, 3), keepdim=True)
            var = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
            scale, shift = (self.state[f"{key}.{part}"].reshape(1, -1, 1, 1) for part in ("weight", "bias"))
            return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    expected = BatchStatistics(state).ir_unit(x, 0, stride)
    expected_gradient = torch.autograd.grad((expected.reshape(-1) * weight).sum(), x)[0]
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(own_gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def test_the_fill_is_splitmix64():
    def value(counter, seed):
        mask = 2**64 - 1
        x = (counter * 0x9E3779B97F4A7C15 + seed) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return ((x ^ (x >> 31)) >> 40) / 2**24

    assert hashed(5, 7).tolist() == [value(counter, 7) for counter in range(1, 6)]


def write_golden():
    for name, settings in CASES.items():
        state = fill(build_backbone(name, **settings)).state_dict()
        x = hashed_images(2 if name != "ir_se50" else 1, settings["image_size"])
        outputs = summary(Reference(state).embed(name, x))
        content = {"backbone": name, "settings": settings, "float32_tolerance": 1e-4, "outputs": outputs}
        (GOLDEN / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    write_golden()
