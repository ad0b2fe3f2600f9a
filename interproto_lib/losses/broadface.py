"""BroadFace: the classifier learns from a queue of past embeddings, compensated for how prototypes have moved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from interproto_lib.losses.arcface import arcface_logits
from interproto_lib.losses.cosines import ZERO_LENGTH, at_least_float32, autocast_off, cosine_similarities


def compensated(embeddings: Tensor, prototypes_then: Tensor, prototypes_now: Tensor) -> Tensor:
    """Move past embeddings by as much as their prototypes have moved since.

    Formula: e* = e- + (|e-| / |W-_y|) (W_y - W-_y).
    Source: Kim et al., "BroadFace: looking at tens of thousands of people at once for face recognition", ECCV 2020.

    Args:
        embeddings: (q, d) e-, as they were, not normalised.
        prototypes_then: (q, d) W-_y, the prototype of each one's identity at that time.
        prototypes_now: (q, d) W_y, the same prototypes now.

    Returns:
        (q, d) e*, without gradient; a prototype that had no length moves nothing.

    Example:
        >>> e, w = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> compensated(e, w, torch.tensor([[1.0, 0.5]]))
        tensor([[2., 1.]])
    """
    with torch.no_grad():
        lengths = torch.linalg.vector_norm(prototypes_then, dim=1, keepdim=True)
        ratios = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True) / lengths.clamp_min(ZERO_LENGTH)
        moved = ratios * (prototypes_now.detach() - prototypes_then)
        return embeddings + moved.masked_fill(lengths <= ZERO_LENGTH, 0)


def broadface_loss(
    embeddings: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    queued: Tensor,
    queued_labels: Tensor,
    scale: float = 64.0,
    margin_rad: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """The loss of BroadFace: the batch trains the backbone, batch and queue together train the prototypes.

    Formula: ArcFace cross-entropy of the batch with W held fixed, plus ArcFace cross-entropy of queue and batch with
    the embeddings held fixed. The gradient of the first goes to the backbone alone, that of the second to W alone.
    With an empty queue both gradients are those of ArcFace, and the value is twice its.
    Source: Kim et al., ECCV 2020, sections 3.2 and 3.3.

    Args:
        embeddings: (b, d) floating point, any length.
        prototypes: (n, d) floating point.
        labels: (b,) integers in [0, n).
        queued: (q, d) compensated embeddings of the past (see `compensated`); q may be 0.
        queued_labels: (q,) their identities.
        scale: s > 0.
        margin_rad: m in [0, pi], radians.

    Returns:
        The loss, a scalar, float32 (float64 for float64 input), and the (b, n) cosines of the batch, without gradient.

    Raises:
        ConfigError: shapes that do not fit, or a scale or margin out of range.
    """
    with autocast_off(embeddings):
        embeddings, prototypes = at_least_float32(embeddings), at_least_float32(prototypes)
        cosines = cosine_similarities(embeddings, prototypes.detach())
        of_batch = arcface_logits(cosines, labels, scale=scale, margin_rad=margin_rad)
        everybody = torch.cat([queued.to(embeddings.dtype), embeddings.detach()])
        identities = torch.cat([queued_labels, labels.to(queued_labels.dtype)])
        of_all = arcface_logits(
            cosine_similarities(everybody, prototypes), identities, scale=scale, margin_rad=margin_rad
        )
        loss = F.cross_entropy(of_batch, labels.long()) + F.cross_entropy(of_all, identities.long())
        return loss, cosines.detach()
