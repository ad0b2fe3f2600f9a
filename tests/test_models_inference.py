"""Backbones made ready for inference: the embeddings of the plain ones, with fewer layers; the plain ones untouched."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from interproto_lib.models import build_backbone
from interproto_lib.models.inference import for_inference, inference_batch_size

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SIZES = {"adaface_ir18": 32, "ir50": 32, "ir_se50": 32, "mobilefacenet": 32, "small": 56, "tiny": 56}


def trained(name):
    """A network whose batch normalisations are not the identity, as after training."""
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_dim=32, image_size=SIZES[name], dropout=0.4)
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            if module.weight is None:
                continue
            with torch.no_grad():
                module.weight.normal_(1, 0.3, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return backbone


def images(size, n=5):
    return torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (n, 3, size, size)))


def n_norms(module):
    return sum(isinstance(part, NORMS) for part in module.modules())


@pytest.mark.parametrize(
    ("name", "n_left"),
    # What stands before a convolution, or before dropout and the linear layer.
    [
        ("adaface_ir18", 8 + 1),
        ("ir50", 24 + 1),
        ("ir_se50", 24 + 1),
        ("mobilefacenet", 0),
        ("small", 3 + 1),
        ("tiny", 3 + 1),
    ],
)
def test_embeddings_stay_and_layers_go(name, n_left):
    backbone, x = trained(name), images(SIZES[name])
    folded = for_inference(backbone)
    assert n_norms(folded) == n_left < n_norms(backbone)
    with torch.inference_mode():
        plain64 = copy.deepcopy(backbone).double().eval()(x)
        torch.testing.assert_close(for_inference(copy.deepcopy(backbone).double())(x), plain64, rtol=1e-9, atol=1e-9)
        unit = nn.functional.normalize(plain64)
        for values in (x.float(), x.float().to(memory_format=torch.channels_last)):
            found = nn.functional.normalize(folded(values)).double()
            assert (found @ found.T - unit @ unit.T).abs().max() < 1e-5


def test_the_network_given_is_left_as_it_is():
    backbone = trained("tiny").train()
    before = copy.deepcopy(backbone.state_dict())
    folded = for_inference(backbone)
    with torch.inference_mode():
        folded(images(56).float())
    assert backbone.training
    assert not any(module.training for module in folded.modules())
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)],
        [nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.BatchNorm2d(4)],
        [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
    ],
    ids=["before", "not next", "of the batch"],
)
def test_what_cannot_be_folded_stays(layers):
    plain = nn.Sequential(*layers)
    for module in plain:
        if isinstance(module, NORMS) and module.running_mean is not None:
            module.running_mean.fill_(0.5)
    x = images(8).float()
    folded = for_inference(plain)
    assert n_norms(folded) == 1
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), plain.eval()(x))


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)],
        lambda: [nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4, affine=False)],
        lambda: [nn.Flatten(), nn.Linear(192, 4, bias=False), nn.BatchNorm1d(4, affine=False)],
    ],
    ids=["convolution", "linear", "linear without bias"],
)
def test_a_batch_normalisation_without_scale_and_shift_is_folded(layers):
    torch.manual_seed(3)
    plain = nn.Sequential(*layers())
    plain[-1].running_mean.uniform_(-1, 1)
    plain[-1].running_var.uniform_(0.5, 2)
    folded = for_inference(plain)
    assert n_norms(folded) == 0
    assert plain[-1].weight is None
    x = images(8).float()
    before = plain[:-1](x)
    shape = (4, 1, 1) if before.ndim == 4 else (4,)
    mean, deviation = plain[-1].running_mean.view(shape), (plain[-1].running_var + 1e-5).sqrt().view(shape)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), (before - mean) / deviation, rtol=1e-5, atol=1e-5)


def test_images_at_a_time():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert inference_batch_size("cpu") == inference_batch_size("cpu", torch.bfloat16) == 16
        torch.set_num_threads(2)
        assert inference_batch_size(torch.device("cpu")) == 8
        assert inference_batch_size("cpu", torch.bfloat16) == 16
    finally:
        torch.set_num_threads(threads)
    assert inference_batch_size("cuda:0") == inference_batch_size("cuda:0", torch.bfloat16) == 256
