"""Class scores of a batch: cosines or inner products of embeddings and prototypes, always at full precision."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from interproto_lib.errors import ConfigError

ZERO_LENGTH = 1e-12
"""A vector this short has no direction: it counts as the zero vector, cosine 0 to everything and gradient 0."""


def autocast_off(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Context in which autocast is switched off for the device of a tensor (losses are computed in float32)."""
    device = tensor.device.type
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device_type=device, enabled=False)
    return contextlib.nullcontext()


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or unchanged where it is float64 already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows scaled to length 1, in float32 (float64 stays float64) whatever autocast says.

    A row no longer than `ZERO_LENGTH` (1e-12) has no direction. It becomes the zero row and receives a zero gradient;
    dividing by a small epsilon instead would hand it a gradient 1e12 times too large.

    Args:
        vectors: (n, d) floating point.

    Returns:
        (n, d) unit rows, float32 or float64.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    with autocast_off(vectors):
        rows = at_least_float32(vectors)
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows / lengths.masked_fill(lengths <= ZERO_LENGTH, math.inf)


def cosine_similarities(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of every embedding with every prototype.

    Formula: c[i, j] = x_i . W_j / (|x_i| |W_j|), the paper's Eq. 4 (our rows are items, so this is its transpose).
    Computed in float32 even under autocast: at s = 64 the rounding of bfloat16 (2^-9) would move a logit by 0.1.

    Args:
        embeddings: (b, d) floating point, any length.
        prototypes: (n, d) floating point, any length, on the same device.

    Returns:
        (b, n) cosines in [-1, 1] up to rounding; float32, or float64 if either input is float64.

    Raises:
        ConfigError: the shapes do not fit together.

    Example:
        >>> cosine_similarities(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
        tensor([[1., 0.]])
    """
    check_vectors(embeddings, prototypes)
    return _matrix_product(unit_rows(embeddings), unit_rows(prototypes))


def inner_products(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Inner product of every embedding with every prototype: the logits of plain softmax, without a bias.

    Args:
        embeddings: (b, d) floating point.
        prototypes: (n, d) floating point, on the same device.

    Returns:
        (b, n) inner products; float32, or float64 if either input is float64.

    Raises:
        ConfigError: the shapes do not fit together.

    Example:
        >>> inner_products(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
        tensor([[2., 0.]])
    """
    check_vectors(embeddings, prototypes)
    return _matrix_product(at_least_float32(embeddings), at_least_float32(prototypes))


def _matrix_product(left: Tensor, right: Tensor) -> Tensor:
    dtype = torch.promote_types(left.dtype, right.dtype)
    with autocast_off(left):
        return left.to(dtype) @ right.to(dtype).T


def check_vectors(embeddings: Tensor, prototypes: Tensor) -> None:
    """Raise ConfigError unless both are floating point matrices of one width."""
    for name, tensor in (("embeddings", embeddings), ("prototypes", prototypes)):
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise ConfigError(
                f"{name} must be a floating point tensor of shape (rows, dimension), "
                f"got {tuple(tensor.shape)} of {tensor.dtype}."
            )
    if embeddings.shape[1] != prototypes.shape[1]:
        raise ConfigError(
            f"embeddings have {embeddings.shape[1]} dimensions and prototypes {prototypes.shape[1]}: "
            "the backbone's embedding_dim must equal the width of the prototypes (rows are items)."
        )


def check_batch(scores: Tensor, labels: Tensor) -> Tensor:
    """Check the scores and labels of one batch and give the labels as int64.

    The range of the labels is read only on the CPU: on an accelerator it would stall the queue at every step, and the
    device's own indexing assertion stops an out-of-range label there.

    Args:
        scores: (b, n) floating point.
        labels: (b,) integers in [0, n).

    Returns:
        (b,) int64 labels.

    Raises:
        ConfigError: a wrong shape or type, or a label outside [0, n).
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ConfigError(
            f"cosines must be a floating point tensor of shape (batch, classes), got {tuple(scores.shape)} "
            f"of {scores.dtype}."
        )
    check_labels(labels, rows=len(scores))
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
        wrong = (labels < 0) | (labels >= scores.shape[1])
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ConfigError(
                f"label {int(labels[row])} in row {row} of the batch is outside [0, {scores.shape[1]}): "
                "labels are row numbers of the prototypes."
            )
    return labels.long()


def check_labels(labels: Tensor, *, rows: int) -> None:
    """Raise ConfigError unless there is one integer label for each row of a batch."""
    if labels.shape != (rows,):
        raise ConfigError(f"labels must have shape ({rows},), one a row of the batch, got {tuple(labels.shape)}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ConfigError(f"labels must be integers, got {labels.dtype}.")


def check_scale(scale: float) -> None:
    """Raise ConfigError unless the scale s is a positive finite number."""
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"scale must be a positive finite number, got {scale}.")


def check_margin(margin: float, *, name: str, upper: float) -> None:
    """Raise ConfigError unless 0 <= margin <= upper."""
    if not 0 <= margin <= upper:
        raise ConfigError(f"{name} must be in [0, {upper:.4g}], got {margin}.")


def check_lengths(norms: Tensor, *, rows: int) -> None:
    """Raise ConfigError unless there is one length of an embedding for each row of a batch."""
    if norms.shape != (rows,):
        raise ConfigError(f"norms must have shape ({rows},), one a row, got {tuple(norms.shape)}.")
