"""PReLU: the values and gradients of its formula, in every type and layout, under PyTorch's own names."""

import numpy as np
import pytest
import torch
from torch import nn

from interproto_lib.models import BACKBONES, build_backbone
from interproto_lib.models.prelu import PReLU


def reference(x, weight, gradient):
    """Value and gradients in float64, value by value."""
    shape = (-1, *[1] * (x.ndim - 2))
    x, slopes, gradient = (np.asarray(t.detach().double()) for t in (x, weight.reshape(shape), gradient))
    axes = tuple(range(x.ndim)) if slopes.size == 1 else tuple(axis for axis in range(x.ndim) if axis != 1)
    towards_weight = np.where(x > 0, 0, gradient * x).sum(axes).reshape(-1)
    return np.where(x > 0, x, slopes * x), np.where(x > 0, gradient, gradient * slopes), towards_weight


@pytest.mark.parametrize("n_weights", [1, 6])
@pytest.mark.parametrize("shape", [(5, 6), (3, 6, 7, 7)], ids=["rows", "maps"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
def test_values_and_gradients_are_those_of_the_formula(n_weights, shape, dtype, tolerance):
    torch.manual_seed(0)
    layer = PReLU(n_weights).double()
    with torch.no_grad():
        layer.weight.uniform_(-0.5, 0.75).copy_(layer.weight.to(dtype))
    x = torch.randn(shape).to(dtype)
    x.view(-1)[:3] = torch.tensor([0.0, -0.0, 2.0])
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    gradient = torch.randn(shape).to(dtype)
    output = layer(x)
    assert output.dtype == dtype
    found = output, *torch.autograd.grad(output, (x, layer.weight), gradient)
    for ours, wanted in zip(found, reference(x, layer.weight, gradient), strict=True):
        np.testing.assert_allclose(ours.detach().double().numpy(), wanted, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_the_input_is_pytorchs_to_the_last_bit():
    torch.manual_seed(0)
    ours, theirs = PReLU(8), nn.PReLU(8)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(4, 8, 9, 9).to(dtype).requires_grad_()
        gradient = torch.randn_like(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            pairs = [torch.autograd.grad(layer(x), x, gradient)[0] for layer in (ours, theirs)]
        assert torch.equal(*pairs)


def test_second_derivatives():
    layer = PReLU(3).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def applied(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(applied, (x, layer.weight))
    assert torch.autograd.gradgradcheck(applied, (x, layer.weight))


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_takes_it_and_keeps_pytorchs_names(name):
    with torch.device("meta"):
        backbone = build_backbone(name, image_size=32)
    found = [module for module in backbone.modules() if isinstance(module, nn.PReLU)]
    assert all(type(module) is PReLU and list(module.state_dict()) == ["weight"] for module in found)
    assert bool(found) == (name not in ("small", "tiny"))
