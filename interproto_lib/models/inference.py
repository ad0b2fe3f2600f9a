"""A backbone made ready for inference: the same embeddings in less time."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Module = TypeVar("Module", bound=nn.Module)
Norm = TypeVar("Norm", nn.BatchNorm1d, nn.BatchNorm2d)

GPU_BATCH = 256
CPU_BATCH = 16
CPU_BATCH_FLOAT32_THREADS = 8


def for_inference(backbone: Module) -> Module:
    """Copy a network for inference: each batch normalisation becomes a part of the layer before it.

    Formula: gamma (W x - mean) / std + beta = W' x + b' with W' = gamma W / std and b' = beta - gamma mean / std. It is
    done where a convolution or linear layer and its batch normalisation follow one another in an `nn.Sequential`. A
    batch normalisation *before* a convolution stays: its shift does not reach the zeros that the convolution pads with.

    Exact but for rounding: cosines change by less than 1e-6 in float32. The copy has no batch statistics to learn from,
    so it is not for training; the network given is left as it is.

    Args:
        backbone: The network, on any device, in either mode.

    Returns:
        The copy, in evaluation mode.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
        >>> [type(layer).__name__ for layer in for_inference(layers)]
        ['Conv2d', 'Identity', 'PReLU']
    """
    copied = copy.deepcopy(backbone).eval()
    for module in copied.modules():
        if isinstance(module, nn.Sequential):
            _fold(module)
    return copied.eval()


def _fold(layers: nn.Sequential) -> None:
    for position in range(len(layers) - 1):
        layer, norm = layers[position], layers[position + 1]
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is None:
            continue  # it takes the statistics of each batch, which no layer before it can know
        if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            layers[position] = fuse_conv_bn_eval(layer, _scaled(norm))
        elif type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d:
            layers[position] = fuse_linear_bn_eval(layer, _scaled(norm))
        else:
            continue
        layers[position + 1] = nn.Identity()


def _scaled(norm: Norm) -> Norm:
    """The same batch normalisation with a scale and shift, 1 and 0 where it has none, as the fusion needs them."""
    if norm.weight is None:
        norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
        norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))
    return norm


def inference_batch_size(device: str | torch.device, dtype: torch.dtype = torch.float32) -> int:
    """Give the number of images that a network takes fastest at a time.

    On a CPU the feature maps of a few images stay in the cache, and in memory that the process holds already; larger
    ones are asked of the system at each layer, which took 2 to 5 times as long (112x112, 256 images against 16). One
    thread gets 16, for with fewer PyTorch computes 1x1 convolutions in a slower way there. Maps of two bytes a value
    are half as large: 16 of them are as much memory as 8 of float32.

    Args:
        device: Where to compute.
        dtype: What the feature maps are made of, `torch.bfloat16` under such autocast.

    Returns:
        On a CPU 8 for float32 with several threads, else 16; 256 elsewhere.
    """
    if torch.device(device).type != "cpu":
        return GPU_BATCH
    return CPU_BATCH_FLOAT32_THREADS if dtype.itemsize > 2 and torch.get_num_threads() > 1 else CPU_BATCH
