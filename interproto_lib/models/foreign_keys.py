"""How other people's checkpoints name their weights: which network a file holds, and our name for each of its keys.

Sources: the code of the Inter-Prototype paper and InsightFace_Pytorch (one layout, they share their keys), AdaFace,
insightface's arcface_torch, and InsightFace_Pytorch's MobileFaceNet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache

import torch

from interproto_lib.models.building import build_backbone

N_KEYS_SHOWN = 5
COUNTER = "num_batches_tracked"
"""Ending of the keys that count batches in training and have no effect on an embedding; old files lack them."""

_PREFIX = re.compile(r"^((module|model|net|backbone|_orig_mod)\.)*$")
_LEADING_PREFIX = re.compile(r"^((module|model|net|backbone|_orig_mod)\.)+")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names of the weights in one family of checkpoints.

    Attributes:
        title: What the family is, for messages.
        backbones: Our backbones that have these weights.
        marks: Keys that every file of the family has and no other family has all of; the first is the first
            convolution.
        absent: A key that would make it another family.
        last_norm: The running mean of the last batch normalisation, whose length is that of an embedding.
        side_key: The weight whose last axis tells the image size.
        to_foreign: Our key -> the family's key.
    """

    title: str
    backbones: tuple[str, ...]
    marks: tuple[str, ...]
    absent: str = ""
    last_norm: str
    side_key: str
    to_foreign: Callable[[str], str]

    def image_size(self, last_axis: int) -> int | None:
        """Side of the images, in pixels, by the length of the last axis of `side_key`; None if no size gives it."""
        if self.side_key.startswith("conv_6_dw"):
            return 16 * last_axis
        side = round((last_axis / 512) ** 0.5)
        return 16 * side if 512 * side * side == last_axis else None


def _same_name(key: str) -> str:
    return key


def _mobilefacenet_name(key: str) -> str:
    """InsightFace_Pytorch's name of a weight of our MobileFaceNet."""
    part, *rest = key.split(".")
    position, ending = int(rest[-2]), rest[-1]
    if part == "body":
        block = ("conv", "conv_dw", "project")[position // 3]
        stage = _MOBILE_UNITS[int(rest[0])]
        return f"{stage}.{block}.{_mobile_layer(position % 3)}.{ending}"
    if part == "input_layer":
        return f"{('conv1', 'conv2_dw')[position // 3]}.{_mobile_layer(position % 3)}.{ending}"
    if position < 5:
        return f"{('conv_6_sep', 'conv_6_dw')[position // 3]}.{_mobile_layer(position % 3)}.{ending}"
    return f"{'linear' if position == 7 else 'bn'}.{ending}"


def _mobile_layer(position: int) -> str:
    return ("conv", "bn", "prelu")[position]


_MOBILE_UNITS = (
    "conv_23",
    *(f"conv_3.model.{i}" for i in range(4)),
    "conv_34",
    *(f"conv_4.model.{i}" for i in range(6)),
    "conv_45",
    *(f"conv_5.model.{i}" for i in range(2)),
)

IR = Layout(
    title="IR or IR-SE of the Inter-Prototype code and of InsightFace_Pytorch",
    backbones=("ir50", "ir100", "ir152", "ir_se50", "ir_se100", "ir_se152"),
    marks=("input_layer.0.weight", "body.0.res_layer.1.weight"),
    absent="body.0.res_layer.2.running_mean",
    last_norm="output_layer.4.running_mean",
    side_key="output_layer.3.weight",
    to_foreign=_same_name,
)
NORMALISED_IR = Layout(
    title="IR of AdaFace",
    backbones=("adaface_ir18", "adaface_ir34", "adaface_ir50", "adaface_ir101", "adaface_ir_se50"),
    marks=("input_layer.0.weight", "body.0.res_layer.2.running_mean"),
    last_norm="output_layer.4.running_mean",
    side_key="output_layer.3.weight",
    to_foreign=_same_name,
)
IRESNET = Layout(
    title="iresnet of arcface_torch",
    backbones=("iresnet18", "iresnet34", "iresnet50", "iresnet100"),
    marks=("conv1.weight", "layer1.0.conv1.weight"),
    last_norm="features.running_mean",
    side_key="fc.weight",
    to_foreign=_same_name,
)
MOBILEFACENET = Layout(
    title="MobileFaceNet of InsightFace_Pytorch",
    backbones=("mobilefacenet",),
    marks=("conv1.conv.weight", "conv2_dw.conv.weight"),
    last_norm="bn.running_mean",
    side_key="conv_6_dw.conv.weight",
    to_foreign=_mobilefacenet_name,
)
LAYOUTS: tuple[Layout, ...] = (IR, NORMALISED_IR, IRESNET, MOBILEFACENET)


def find_networks(keys: Collection[str]) -> list[tuple[Layout, str]]:
    """Find the networks among keys: their layouts, and what stands before each of their keys.

    Args:
        keys: All keys of a state dict.

    Returns:
        Layout and prefix of each; the prefix is made of `module.` (DataParallel), `model.`, `net.`, `backbone.` and
        `_orig_mod.` (torch.compile).

    Example:
        >>> keys = ["module.conv1.weight", "module.layer1.0.conv1.weight"]
        >>> [(layout.title, prefix) for layout, prefix in find_networks(keys)]
        [('iresnet of arcface_torch', 'module.')]
    """
    present = set(keys)
    found = []
    for layout in LAYOUTS:
        for key in sorted(present):
            if not key.endswith(layout.marks[0]):
                continue
            prefix = key.removesuffix(layout.marks[0])
            is_other = bool(layout.absent) and prefix + layout.absent in present
            if _PREFIX.match(prefix) and not is_other and all(prefix + mark in present for mark in layout.marks):
                found.append((layout, prefix))
    return found


@cache
def foreign_keys(layout: Layout, backbone: str) -> frozenset[str]:
    """All keys of a network in its own layout, but for the counters of batches."""
    with torch.device("meta"):
        names = build_backbone(backbone).state_dict()
    return frozenset(layout.to_foreign(name) for name in names if not name.endswith(COUNTER))


def closest_backbone(layouts: Iterable[Layout], keys: Collection[str]) -> tuple[Layout, str]:
    """Give the network whose keys differ least from `keys` (without prefix and counters), and its layout."""
    present = frozenset(keys)
    candidates = [(layout, backbone) for layout in layouts for backbone in layout.backbones]
    return min(candidates, key=lambda candidate: len(foreign_keys(*candidate) ^ present))


def describe_unknown(keys: Collection[str]) -> str:
    """Say why no network was found among keys, and which known one comes closest."""
    if any(re.search(r"(^|\.)block1\.0\.res_layer\.", key) for key in keys):
        return (
            "It is a network of MTLFace, whose embedding passes a separation of age and identity that no backbone here "
            "has."
        )
    if any(re.search(r"\.res_layer\.7\.weight$", key) for key in keys):
        return "It is an IR network with units of three convolutions (AdaFace's IR-152 or IR-200), which is not here."
    bare = {_LEADING_PREFIX.sub("", key) for key in keys if not key.endswith(COUNTER)}
    layout, backbone = closest_backbone(LAYOUTS, bare)
    wanted = foreign_keys(layout, backbone)
    common = len(wanted & bare)
    if not common:
        families = "; ".join(known.title for known in LAYOUTS)
        return f"None of its {len(keys)} keys is one of a known network ({families}). Its first keys: {some(keys)}."
    return (
        f"Closest is {layout.title} ({backbone}), of whose {len(wanted)} keys {common} are there. First missing: "
        f"{some(sorted(wanted - bare))}. First unknown: {some(sorted(bare - wanted)) or 'none'}."
    )


def some(keys: Iterable[str], *, n: int = N_KEYS_SHOWN) -> str:
    """Write the first `n` keys, each made readable, and how many more there are."""
    listed = list(keys)
    rest = len(listed) - n
    return ", ".join(map(readable, listed[:n])) + (f" and {rest} more" if rest > 0 else "")


def readable(key: str) -> str:
    r"""Cut a name out of a file to 100 characters, and put "?" for those that do not print (or steer a terminal).

    Example:
        >>> readable("conv1.weight\x1b[2J")
        'conv1.weight?[2J'
    """
    printed = "".join(letter if letter.isprintable() else "?" for letter in key[:100])
    return printed if len(key) <= 100 else printed + "..."
