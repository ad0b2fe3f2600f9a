"""Networks of other codes for tests: their weights under their own names, and what they compute.

Written from the descriptions in methods.md, AdaFace's and MobileFaceNet's papers and the codes' documented names, with
functions of PyTorch alone: nothing of the library.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

WIDTHS = (64, 128, 256, 512)
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
# Stage, its units, hidden channels, channels out, stride of its first unit.
MOBILE_STAGES = (
    ("conv_23", 128, 64, 2),
    *((f"conv_3.model.{i}", 128, 64, 1) for i in range(4)),
    ("conv_34", 256, 128, 2),
    *((f"conv_4.model.{i}", 256, 128, 1) for i in range(6)),
    ("conv_45", 512, 128, 2),
    *((f"conv_5.model.{i}", 256, 128, 1) for i in range(2)),
)


class States:
    """Draws weights for names."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.state = {}

    def weight(self, key, *shape):
        fan_in = max(1, torch.Size(shape[1:]).numel())
        self.state[f"{key}.weight"] = torch.randn(shape, generator=self.generator) * (1.5 / fan_in) ** 0.5

    def prelu(self, key, channels):
        self.state[f"{key}.weight"] = torch.rand(channels, generator=self.generator) * 0.5

    def bias(self, key, channels):
        self.state[f"{key}.bias"] = torch.randn(channels, generator=self.generator) * 0.1

    def norm(self, key, channels, *, affine=True):
        if affine:
            self.state[f"{key}.weight"] = torch.rand(channels, generator=self.generator) + 0.5
            self.bias(key, channels)
        self.state[f"{key}.running_mean"] = torch.randn(channels, generator=self.generator) * 0.1
        self.state[f"{key}.running_var"] = torch.rand(channels, generator=self.generator) + 0.5
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(12345)


def ir_state(depth, *, squeeze=False, normalised=False, embedding_dim=16, side=1, seed=0):
    """Weights of the official IR or IR-SE, or with `normalised` those of AdaFace's."""
    s = States(seed)
    s.weight("input_layer.0", 64, 3, 3, 3)
    s.norm("input_layer.1", 64)
    s.prelu("input_layer.2", 64)
    i, width_in = 0, 64
    for width, n in zip(WIDTHS, UNITS[depth], strict=True):
        for _ in range(n):
            p = f"body.{i}.res_layer"
            if width_in != width:
                s.weight(f"body.{i}.shortcut_layer.0", width, width_in, 1, 1)
                s.norm(f"body.{i}.shortcut_layer.1", width)
            s.norm(f"{p}.0", width_in)
            s.weight(f"{p}.1", width, width_in, 3, 3)
            after = 2
            if normalised:
                s.norm(f"{p}.2", width)
                after = 3
            s.prelu(f"{p}.{after}", width)
            s.weight(f"{p}.{after + 1}", width, width, 3, 3)
            s.norm(f"{p}.{after + 2}", width)
            if squeeze:
                block = f"{p}.se_block" if normalised else f"{p}.5"
                s.weight(f"{block}.fc1", width // 16, width, 1, 1)
                s.weight(f"{block}.fc2", width, width // 16, 1, 1)
            i, width_in = i + 1, width
    s.norm("output_layer.0", 512)
    s.weight("output_layer.3", embedding_dim, 512 * side * side)
    s.bias("output_layer.3", embedding_dim)
    s.norm("output_layer.4", embedding_dim, affine=not normalised)
    return s.state


def iresnet_state(depth, *, embedding_dim=16, side=1, seed=0):
    """Weights of arcface_torch's iresnet; the scale of its last normalisation is 1."""
    s = States(seed)
    s.weight("conv1", 64, 3, 3, 3)
    s.norm("bn1", 64)
    s.prelu("prelu", 64)
    width_in = 64
    for stage, (width, n) in enumerate(zip(WIDTHS, UNITS[depth], strict=True), start=1):
        for i in range(n):
            p = f"layer{stage}.{i}"
            s.norm(f"{p}.bn1", width_in)
            s.weight(f"{p}.conv1", width, width_in, 3, 3)
            s.norm(f"{p}.bn2", width)
            s.prelu(f"{p}.prelu", width)
            s.weight(f"{p}.conv2", width, width, 3, 3)
            s.norm(f"{p}.bn3", width)
            if i == 0:
                s.weight(f"{p}.downsample.0", width, width_in, 1, 1)
                s.norm(f"{p}.downsample.1", width)
            width_in = width
    s.norm("bn2", 512)
    s.weight("fc", embedding_dim, 512 * side * side)
    s.bias("fc", embedding_dim)
    s.norm("features", embedding_dim)
    s.state["features.weight"] = torch.ones(embedding_dim)
    return s.state


def mobilefacenet_state(*, embedding_dim=16, side=1, seed=0):
    """Weights of InsightFace_Pytorch's MobileFaceNet."""
    s = States(seed)

    def block(key, out, per_group, kernel, *, prelu=True):
        s.weight(f"{key}.conv", out, per_group, kernel, kernel)
        s.norm(f"{key}.bn", out)
        if prelu:
            s.prelu(f"{key}.prelu", out)

    block("conv1", 64, 3, 3)
    block("conv2_dw", 64, 1, 3)
    width_in = 64
    for key, hidden, out, _ in MOBILE_STAGES:
        block(f"{key}.conv", hidden, width_in, 1)
        block(f"{key}.conv_dw", hidden, 1, 3)
        block(f"{key}.project", out, hidden, 1, prelu=False)
        width_in = out
    block("conv_6_sep", 512, 128, 1)
    block("conv_6_dw", 512, 1, side, prelu=False)
    s.weight("linear", embedding_dim, 512)
    s.norm("bn", embedding_dim)
    return s.state


class Functional:
    """What the networks compute from a batch in their own order of channels, in float64; not normalised."""

    def __init__(self, state):
        self.state = {key: tensor.double() for key, tensor in state.items()}

    def conv(self, x, key, stride=1, padding=1, groups=1):
        return F.conv2d(x, self.state[f"{key}.weight"], None, stride, padding, 1, groups)

    def norm(self, x, key):
        parts = [self.state.get(f"{key}.{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, parts[0], parts[1], parts[2], parts[3], eps=1e-5)

    def prelu(self, x, key):
        return torch.where(x >= 0, x, x * self.state[f"{key}.weight"][:, None, None])

    def linear(self, x, key):
        return x @ self.state[f"{key}.weight"].T + self.state.get(f"{key}.bias", 0)

    def iresnet(self, x, depth):
        x = self.prelu(self.norm(self.conv(x, "conv1"), "bn1"), "prelu")
        for stage, n in enumerate(UNITS[depth], start=1):
            for i in range(n):
                p, stride = f"layer{stage}.{i}", 2 if i == 0 else 1
                y = self.prelu(self.norm(self.conv(self.norm(x, f"{p}.bn1"), f"{p}.conv1"), f"{p}.bn2"), f"{p}.prelu")
                y = self.norm(self.conv(y, f"{p}.conv2", stride), f"{p}.bn3")
                x = y + (self.norm(self.conv(x, f"{p}.downsample.0", 2, 0), f"{p}.downsample.1") if i == 0 else x)
        return self.norm(self.linear(self.norm(x, "bn2").flatten(1), "fc"), "features")

    def ir(self, x, depth):
        x = self.prelu(self.norm(self.conv(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
        firsts = {sum(UNITS[depth][:stage]) for stage in range(4)}
        for i in range(sum(UNITS[depth])):
            p, shortcut, stride = f"body.{i}.res_layer", f"body.{i}.shortcut_layer", 2 if i in firsts else 1
            y = self.conv(self.norm(x, f"{p}.0"), f"{p}.1")
            after = 2
            if f"{p}.2.running_mean" in self.state:
                y, after = self.norm(y, f"{p}.2"), 3
            y = self.conv(self.prelu(y, f"{p}.{after}"), f"{p}.{after + 1}", stride)
            y = self.norm(y, f"{p}.{after + 2}")
            for block in (f"{p}.se_block", f"{p}.5"):
                if f"{block}.fc1.weight" in self.state:
                    w1, w2 = (self.state[f"{block}.fc{k}.weight"][:, :, 0, 0] for k in (1, 2))
                    y = y * torch.sigmoid(torch.relu(y.mean(dim=(2, 3)) @ w1.T) @ w2.T)[:, :, None, None]
            if f"{shortcut}.0.weight" in self.state:
                x = self.norm(self.conv(x, f"{shortcut}.0", stride, 0), f"{shortcut}.1") + y
            else:
                x = x[:, :, ::stride, ::stride] + y
        return self.norm(self.linear(self.norm(x, "output_layer.0").flatten(1), "output_layer.3"), "output_layer.4")

    def mobilefacenet(self, x):
        def block(x, key, stride=1, padding=0, groups=1):
            x = self.norm(self.conv(x, f"{key}.conv", stride, padding, groups), f"{key}.bn")
            return self.prelu(x, f"{key}.prelu") if f"{key}.prelu.weight" in self.state else x

        x = block(block(x, "conv1", 2, 1), "conv2_dw", 1, 1, 64)
        for key, hidden, _, stride in MOBILE_STAGES:
            y = block(block(block(x, f"{key}.conv"), f"{key}.conv_dw", stride, 1, hidden), f"{key}.project")
            x = x + y if "model" in key else y
        x = block(block(x, "conv_6_sep"), "conv_6_dw", groups=512).flatten(1)
        return self.norm(self.linear(x, "linear"), "bn")
