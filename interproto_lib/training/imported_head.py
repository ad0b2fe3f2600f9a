"""Prototypes of a network that was trained elsewhere: which row is whose, found out by images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from interproto_lib.analysis.embedding import embed_images
from interproto_lib.data.datasets import FaceDataset, training_labels
from interproto_lib.errors import CheckpointError, ConfigError
from interproto_lib.models.backbone import Backbone
from interproto_lib.models.foreign_head import load_foreign_head

HeadOrder = Literal["auto", "number", "text"]

LOWEST_AGREEMENT = 0.5
"""Share of identities whose images are nearest to their own row of a head, at least, where it is theirs."""

_SAMPLED_IDENTITIES = 256
_IMAGES_OF_EACH = 4
_SHORTEST = 1e-12


def read_head(path: Path, *, embedding_dim: int, n_classes: int) -> NDArray[np.float32]:
    """Read the prototypes of a head and hold their number and length against what they belong to.

    Args:
        path: A file that `load_foreign_head` knows, or `prototypes.safetensors` of a run of this library.
        embedding_dim: Length d of the embeddings of the network.
        n_classes: Number of training identities of the dataset.

    Returns:
        The rows, (n_classes, embedding_dim) float32, in the order of the file.

    Raises:
        CheckpointError: The file cannot be read, or does not fit the network or the dataset.
    """
    rows = _own_prototypes(path)
    if rows is None:
        rows = load_foreign_head(path)
    n_rows, n_columns = rows.shape
    if n_columns != embedding_dim:
        raise CheckpointError(
            f"{path} holds prototypes of length {n_columns}, the network gives embeddings of length {embedding_dim}: "
            "they are not of one training."
        )
    if n_rows != n_classes:
        raise CheckpointError(
            f"{path} holds {n_rows:,} prototypes, the dataset has {n_classes:,} training identities: which is whose "
            "cannot be told. Prepare the dataset that the head was trained on with all of its identities in training "
            "(heldout_share=0, validation_share=0), or leave the head out."
        )
    if not np.isfinite(rows).all():
        raise CheckpointError(f"{path} holds values that are not finite; the file is damaged.")
    return rows


def order_of_head(
    rows: NDArray[np.float32],
    backbone: Backbone,
    dataset: FaceDataset,
    classes: pd.DataFrame,
    *,
    asked: HeadOrder,
    lowest_agreement: float = LOWEST_AGREEMENT,
    device: torch.device,
    where: str,
) -> tuple[str, float]:
    """Find out in which order of the identities a head has its rows, and whether it is theirs at all.

    A few images of up to 256 identities are embedded; those of an identity should be nearest to its own row.

    Args:
        rows: The head, one row an identity.
        backbone: The network that it belongs to.
        dataset: The images.
        classes: The training identities, as `class_table` gives them.
        asked: `number`, `text`, or `auto` for the one that more images agree with.
        lowest_agreement: The share that must agree, in [0, 1].
        device: Where to compute.
        where: What the head is called, for the message.

    Returns:
        `number` or `text`, and the share of identities whose images are nearest to their own row.

    Raises:
        ConfigError: The order asked for is unknown, or is `number` and an identity is no number; or the share is
            outside [0, 1].
        CheckpointError: A smaller share agrees.
    """
    labels = _labels_of_classes([str(identity) for identity in classes["identity"]])
    if asked != "auto" and asked not in labels:
        raise ConfigError(
            f"head_order={asked!r}: must be one of 'auto', 'text' and, where all identities are numbers, 'number'."
        )
    if not 0 <= lowest_agreement <= 1:
        raise ConfigError(f"lowest_agreement={lowest_agreement!r}: must be a share in [0, 1].")
    possible = labels if asked == "auto" else {asked: labels[asked]}
    sample = np.unique(np.linspace(0, len(classes) - 1, _SAMPLED_IDENTITIES).astype(np.int64))
    images, means = _sampled_images(dataset, classes, sample), []
    vectors = embed_images(backbone, dataset.images, rows=np.concatenate(images), device=device)
    for of_identity in np.split(vectors, np.cumsum([len(of) for of in images])[:-1]):
        means.append(of_identity.mean(axis=0))
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SHORTEST)
    nearest = (np.stack(means) @ unit.T).argmax(axis=1)
    agreement = {order: float(np.mean(nearest == of_classes[sample])) for order, of_classes in possible.items()}
    best = max(agreement, key=lambda order: agreement[order])
    if agreement[best] < lowest_agreement:
        found = " and ".join(f"{share:.1%} in the order by {order}" for order, share in agreement.items())
        raise CheckpointError(
            f"{where} does not belong to these identities: of {len(sample)} of them only {found} have images that are "
            f"nearest to their own prototype (at least {lowest_agreement:.0%} expected). No run was made. Check "
            "dataset, channel_order and head_order, leave the head out, or lower lowest_agreement for a weak network."
        )
    return best, agreement[best]


def arranged(rows: NDArray[np.float32], identities: list[str], *, order: str) -> NDArray[np.float32]:
    """Put the rows of a head into the order of the classes.

    Args:
        rows: The head, one row an identity.
        identities: The classes, sorted as text.
        order: `number` or `text`, as `order_of_head` gives it.

    Returns:
        The rows, row i for class i.

    Example:
        >>> arranged(np.eye(3, dtype=np.float32), ["1", "10", "2"], order="number").argmax(axis=1)
        array([0, 2, 1])
    """
    return rows[_labels_of_classes(identities)[order]]


def _labels_of_classes(identities: list[str]) -> dict[str, NDArray[np.int64]]:
    """For each possible order of a head the label, hence the row, of each class; classes are sorted as text."""
    labels = {"text": np.arange(len(identities))}
    if all(re.fullmatch(r"[0-9]+", name) for name in identities):
        by_number = sorted(range(len(identities)), key=lambda place: int(identities[place]))
        labels["number"] = np.empty(len(identities), dtype=np.int64)
        labels["number"][by_number] = np.arange(len(identities))
    return labels


def _sampled_images(dataset: FaceDataset, classes: pd.DataFrame, sample: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of the first few images of each sampled class."""
    rows, labels = training_labels(dataset, classes)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(len(classes) + 1))
    return [rows[order[starts[c] : min(starts[c] + _IMAGES_OF_EACH, starts[c + 1])]] for c in sample]


def _own_prototypes(path: Path) -> NDArray[np.float32] | None:
    """The prototypes of a run of this library; None for any other file."""
    try:
        with safe_open(path, framework="np") as file:
            if list(file.keys()) != ["prototypes"]:
                return None
            rows: NDArray[np.float32] = file.get_tensor("prototypes")
    except (SafetensorError, OSError):
        return None
    return rows if rows.ndim == 2 and rows.dtype == np.float32 else None
