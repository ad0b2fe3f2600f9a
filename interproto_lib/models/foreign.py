"""Other people's checkpoints as backbones of ours: recognised by their keys, converted exactly.

Whatever order of channels a network was trained with, the converted one takes RGB, like every backbone here: where it
was BGR, the input channels of its first convolution are put in the opposite order, which gives the same sums.

What else could differ and how it is met: all four codes leave the epsilon of batch normalisation at 1e-5 and give PReLU
one slope a channel, as ours do; squeeze-excitation has no biases in any; dropout acts in training only, and each
backbone has its source's share; the codes of the Inter-Prototype loss, InsightFace_Pytorch and AdaFace divide the
embedding by its length at the end, here that is done where embeddings are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interproto_lib.errors import CheckpointError, ConfigError
from interproto_lib.models.backbone import Backbone
from interproto_lib.models.building import build_backbone
from interproto_lib.models.foreign_keys import (
    COUNTER,
    IR,
    IRESNET,
    MOBILEFACENET,
    NORMALISED_IR,
    Layout,
    closest_backbone,
    describe_unknown,
    find_networks,
    foreign_keys,
    some,
)
from interproto_lib.models.foreign_tensors import as_float32, find_state_dict, require_plain
from interproto_lib.models.restricted_loading import read_checkpoint

CHANNEL_ORDERS = ("rgb", "bgr")
N_LEFT_OUT_NAMED = 50


@dataclass(frozen=True, kw_only=True)
class ForeignKind:
    """One source of checkpoints.

    Attributes:
        title: What it is.
        layouts: How its files name their weights.
        channel_order: What its networks take: "rgb" or "bgr".
    """

    title: str
    layouts: tuple[Layout, ...]
    channel_order: str


FOREIGN_KINDS: dict[str, ForeignKind] = {
    "adaface": ForeignKind(title="AdaFace", layouts=(NORMALISED_IR,), channel_order="bgr"),
    "arcface_torch": ForeignKind(title="insightface's arcface_torch", layouts=(IRESNET,), channel_order="rgb"),
    "insightface_pytorch": ForeignKind(
        title="TreB1eN's InsightFace_Pytorch", layouts=(IR, MOBILEFACENET), channel_order="bgr"
    ),
    "inter_prototype": ForeignKind(title="the official Inter-Prototype code", layouts=(IR,), channel_order="rgb"),
}
"""Sources of checkpoints that are known, by name."""

_WRAPPERS = ("state_dict", "state_dict_backbone", "model_state_dict", "backbone_state_dict", "model", "backbone", "net")
_HEADS = ("head", "kernel", "weight", "fc7", "classifier", "margin_softmax")
"""First parts of the keys of a classification head, which may stand beside a backbone and is left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignCheckpoint:
    """Somebody else's network as one of ours.

    Attributes:
        kind: Where it comes from, a key of `FOREIGN_KINDS`.
        backbone_name: Which of `interproto_lib.models.BACKBONES` it is.
        backbone: The network, in evaluation mode, float32 on the CPU. It takes RGB whatever `channel_order` says.
        channel_order: What the original took: "rgb" or "bgr".
        embedding_dim: Length d of an embedding.
        image_size: Side of the images, in pixels.
        metadata: Texts on where the weights come from and what was changed: `source_file`, `source_sha256`,
            `source_dtype`, `conversion`, `left_out`.
    """

    kind: str
    backbone_name: str
    backbone: Backbone
    channel_order: str
    embedding_dim: int
    image_size: int
    metadata: Mapping[str, str]


def load_foreign(
    path: str | Path, *, kind: str = "auto", channel_order: str | None = None, image_size: int = 112
) -> ForeignCheckpoint:
    """Load the backbone of a checkpoint of another code, with nothing in the file being run.

    Read are files of torch.save of any age and safetensors files; a state dict by itself or under `state_dict` and the
    like; the prefixes of DataParallel, Lightning and torch.compile are taken off. Weights of 16 and 64 bit become
    float32. A head in the file is left out (see `load_foreign_head`).

    Memory: the network once, and the file's own tensors, which stay in the file where it allows that.

    Args:
        path: The file.
        kind: A key of `FOREIGN_KINDS`, or "auto" to go by the keys. The files of "inter_prototype" (RGB) and
            "insightface_pytorch" (BGR) have the same keys, so there "auto" needs `channel_order`.
        channel_order: Order of the channels that the network was trained with, "rgb" or "bgr"; None takes that of the
            kind.
        image_size: Side of the images that it was trained with, in pixels.

    Returns:
        The network as a backbone that takes RGB, and what is known of it.

    Raises:
        ConfigError: An argument has an unknown value.
        CheckpointError: The file cannot be read, holds no known network or another kind than asked for, does not tell
            its order of channels, or has keys, shapes or values that do not fit; the message names them.
    """
    if kind != "auto" and kind not in FOREIGN_KINDS:
        raise ConfigError(f"kind must be auto, {', '.join(FOREIGN_KINDS)}, found {kind!r}.")
    if channel_order is not None and channel_order not in CHANNEL_ORDERS:
        raise ConfigError(f"channel_order must be 'rgb' or 'bgr', found {channel_order!r}.")
    file = Path(path)
    content = read_checkpoint(file)
    try:
        found = _convert(content, kind=kind, channel_order=channel_order, image_size=image_size)
    except CheckpointError as error:
        raise CheckpointError(f"{file} {error}") from error
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    origin = {"source_file": file.name, "source_sha256": digest}
    return ForeignCheckpoint(**{**found, "metadata": origin | found["metadata"]})


def _convert(content: Any, *, kind: str, channel_order: str | None, image_size: int) -> dict[str, Any]:
    tensors, wrapper, left_out = find_state_dict(content, _WRAPPERS)
    del content
    networks = find_networks(tensors)
    if not networks:
        raise CheckpointError(f"holds no known network. {describe_unknown(list(tensors))}")
    if len(networks) > 1:
        listed = ", ".join(f"{layout.title} under {prefix or 'no prefix'!r}" for layout, prefix in networks)
        raise CheckpointError(f"holds {len(networks)} networks ({listed}). Save the one that is meant by itself.")
    layout, prefix = networks[0]
    kind, channel_order = _kind_and_order(layout, prefix, kind=kind, channel_order=channel_order)
    weights, strangers = {}, []
    for key in list(tensors):
        inside = key.startswith(prefix) and key.removeprefix(prefix).split(".")[0] not in _HEADS
        if inside:
            weights[key.removeprefix(prefix)] = tensors.pop(key)
        else:
            strangers.append(key)
    unknown = [key for key in strangers if key.removeprefix(prefix).split(".")[0] not in _HEADS]
    if unknown:
        raise CheckpointError(
            f"holds, beside {layout.title}, keys that belong to no network known here: {some(unknown)}. Save the "
            "backbone by itself."
        )
    del tensors
    _, name = closest_backbone((layout,), [key for key in weights if not key.endswith(COUNTER)])
    _require_keys(layout, name, weights)
    backbone = _empty_backbone(layout, name, weights, image_size=image_size)
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values() if weight.ndim})
    changes = _fill(backbone, layout, weights, flip=channel_order == "bgr")
    metadata = {
        "source_dtype": ", ".join(dtypes),
        "conversion": "; ".join([*(["all weights to float32"] if dtypes != ["float32"] else []), *changes] or ["none"]),
        "left_out": some([*strangers, *left_out], n=N_LEFT_OUT_NAMED) or "nothing",
        "wrapper": wrapper,
        "prefix": prefix,
    }
    return {
        "kind": kind,
        "backbone_name": name,
        "backbone": backbone.eval(),
        "channel_order": channel_order,
        "embedding_dim": backbone.embedding_dim,
        "image_size": backbone.image_size,
        "metadata": metadata,
    }


def _kind_and_order(layout: Layout, prefix: str, *, kind: str, channel_order: str | None) -> tuple[str, str]:
    """Choose where a network comes from and its order of channels, or refuse to guess."""
    possible = {name: known for name, known in FOREIGN_KINDS.items() if layout in known.layouts}
    if kind != "auto":
        if kind not in possible:
            raise CheckpointError(
                f"holds {layout.title}, which is not of the kind {kind!r}. Pass kind="
                f"{' or '.join(map(repr, possible))}."
            )
        return kind, channel_order or FOREIGN_KINDS[kind].channel_order
    if channel_order is not None:
        matching = [name for name, known in possible.items() if known.channel_order == channel_order]
        return (matching or list(possible))[0], channel_order
    # AdaFace's own files have this prefix; without it others use the same keys in either order.
    told_by_prefix = layout is not NORMALISED_IR or prefix.removeprefix("module.") == "model."
    if len(possible) == 1 and told_by_prefix:
        name, known = next(iter(possible.items()))
        return name, known.channel_order
    advice = ", ".join(
        f"kind={name!r} if it is of {known.title} ({known.channel_order.upper()})" for name, known in possible.items()
    )
    raise CheckpointError(
        f"holds {layout.title}. Its keys do not tell whether it takes RGB or BGR images, and this is not guessed. Pass "
        f"{advice}, or channel_order='rgb' or 'bgr' (on the command line --kind and --channel-order)."
    )


def _require_keys(layout: Layout, name: str, weights: Mapping[str, Tensor]) -> None:
    present = {key for key in weights if not key.endswith(COUNTER)}
    wanted = foreign_keys(layout, name)
    norms = {key.removesuffix("running_mean") + COUNTER for key in wanted if key.endswith("running_mean")}
    missing = sorted(wanted - present)
    unknown = sorted((present - wanted) | ({key for key in weights if key.endswith(COUNTER)} - norms))
    if missing or unknown:
        raise CheckpointError(
            f"holds {layout.title}, closest to {name}, but not with its keys. Missing: {some(missing) or 'none'}. "
            f"Unknown: {some(unknown) or 'none'}. Known are {', '.join(layout.backbones)}."
        )


def _empty_backbone(layout: Layout, name: str, weights: Mapping[str, Tensor], *, image_size: int) -> Backbone:
    """Build the network without values, of the size that the weights have; refuse weights that do not fit it."""
    for key, weight in weights.items():
        require_plain(key, weight)
    side_axis = weights[layout.side_key].shape[-1:]
    trained_size = layout.image_size(side_axis[0]) if side_axis else None
    if trained_size and trained_size != image_size:
        raise CheckpointError(
            f"holds {name} for images of {trained_size} pixels, asked for were {image_size}: pass "
            f"image_size={trained_size}."
        )
    embedding_dim = weights[layout.last_norm].numel() or 512
    with torch.device("meta"):
        backbone = build_backbone(name, embedding_dim=embedding_dim, image_size=image_size, dropout=None)
    wrong = []
    for own, value in backbone.state_dict().items():
        key = layout.to_foreign(own)
        if not own.endswith(COUNTER) and weights[key].shape != value.shape:
            wrong.append(f"{key} is {tuple(weights[key].shape)}, expected {tuple(value.shape)}")
    if wrong:
        raise CheckpointError(f"holds {name}, but {len(wrong)} of its weights have another shape: {some(wrong)}.")
    return backbone


def _fill(backbone: Backbone, layout: Layout, weights: dict[str, Tensor], *, flip: bool) -> list[str]:
    """Move the weights into the network, one at a time, and say what was changed."""
    state: dict[str, Tensor] = {}
    n_counters_missing = 0
    for own in backbone.state_dict():
        key = layout.to_foreign(own)
        if own.endswith(COUNTER):
            counter = weights.pop(key, None)
            n_counters_missing += counter is None
            is_count = counter is not None and counter.numel() == 1 and counter.dtype == torch.int64
            state[own] = torch.tensor(int(counter) if counter is not None and is_count else 0)
            continue
        state[own] = as_float32(key, weights.pop(key))
        if own.endswith("running_var") and bool((state[own] < 0).any()):
            raise CheckpointError(f"holds a negative variance in {key}: the file is damaged. Copy it again.")
        if flip and key == layout.marks[0]:
            state[own] = state[own].flip(1)
    backbone.load_state_dict(state, assign=True)
    changes = ["input channels of the first convolution from BGR to RGB"] if flip else []
    return changes + ([f"{n_counters_missing} missing {COUNTER} set to 0"] if n_counters_missing else [])
