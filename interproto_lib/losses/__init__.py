"""Margin losses on cosines and the Inter-Prototype loss on prototypes; pure functions, float32 even under autocast.

A loss that remembers something between batches is a small module (`MarginHead`) around them.
"""

from interproto_lib.losses.adaface import NormStatistics, adaface_logits, batch_statistics, updated_statistics
from interproto_lib.losses.arcface import arcface_logits
from interproto_lib.losses.broadface import broadface_loss, compensated
from interproto_lib.losses.cosface import cosface_logits
from interproto_lib.losses.cosines import cosine_similarities, inner_products, unit_rows
from interproto_lib.losses.curricularface import curricularface_logits, updated_progress
from interproto_lib.losses.heads import HEADS, build_head
from interproto_lib.losses.inter_prototype import inter_prototype_loss, welch_bound
from interproto_lib.losses.margin_head import HeadOutput, MarginHead
from interproto_lib.losses.margin_softmax import (
    MARGIN_DEFAULTS,
    MARGIN_RULES,
    MarginDefaults,
    class_scores,
    margin_logits,
    margin_softmax_loss,
)
from interproto_lib.losses.mv_softmax import mv_softmax_logits
from interproto_lib.losses.row_sgd import RowSGD
from interproto_lib.losses.softmax import normface_logits, softmax_logits
from interproto_lib.losses.sphereface import sphereface_annealing, sphereface_logits

__all__ = [
    "HEADS",
    "MARGIN_DEFAULTS",
    "MARGIN_RULES",
    "HeadOutput",
    "MarginDefaults",
    "MarginHead",
    "NormStatistics",
    "RowSGD",
    "adaface_logits",
    "arcface_logits",
    "batch_statistics",
    "broadface_loss",
    "build_head",
    "class_scores",
    "compensated",
    "cosface_logits",
    "cosine_similarities",
    "curricularface_logits",
    "inner_products",
    "inter_prototype_loss",
    "margin_logits",
    "margin_softmax_loss",
    "mv_softmax_logits",
    "normface_logits",
    "softmax_logits",
    "sphereface_annealing",
    "sphereface_logits",
    "unit_rows",
    "updated_progress",
    "updated_statistics",
    "welch_bound",
]
