"""Margin losses on cosines and the Inter-Prototype loss on prototypes; pure functions, float32 even under autocast."""

from interproto_lib.losses.arcface import arcface_logits
from interproto_lib.losses.cosface import cosface_logits
from interproto_lib.losses.cosines import cosine_similarities, inner_products, unit_rows
from interproto_lib.losses.inter_prototype import inter_prototype_loss, welch_bound
from interproto_lib.losses.margin_softmax import (
    MARGIN_DEFAULTS,
    MARGIN_LOGITS,
    MarginDefaults,
    class_scores,
    margin_logits,
    margin_softmax_loss,
)
from interproto_lib.losses.softmax import normface_logits, softmax_logits

__all__ = [
    "MARGIN_DEFAULTS",
    "MARGIN_LOGITS",
    "MarginDefaults",
    "arcface_logits",
    "class_scores",
    "cosface_logits",
    "cosine_similarities",
    "inner_products",
    "inter_prototype_loss",
    "margin_logits",
    "margin_softmax_loss",
    "normface_logits",
    "softmax_logits",
    "unit_rows",
    "welch_bound",
]
