"""Which settings decide what a training computes, so that equal trainings are known for equal."""

from __future__ import annotations

from typing import Any

from interproto_lib.config import UNDECISIVE_SETTINGS, TrainConfig

_OF_MARGIN_LOSSES = {
    "mv_hard_weight": ("mv_am", "mv_arc"),
    "mv_adaptive": ("mv_am", "mv_arc"),
    "mv_easy_margin": ("mv_am", "mv_arc"),
    "curricular_momentum": ("curricularface",),
    "adaface_concentration": ("adaface",),
    "adaface_ema": ("adaface",),
    "broadface_queue": ("broadface",),
    "sphereface_lambda_start": ("sphereface",),
    "sphereface_lambda_decay": ("sphereface",),
    "sphereface_lambda_min": ("sphereface",),
}
_OF_AGE_METHODS = {
    "age_weight": ("oe_cnn", "ae_cnn", "dal", "mtlface"),
    "dal_weight": ("dal",),
    "dal_measure": ("dal",),
    "dal_opponent_steps": ("dal",),
    "dal_steps": ("dal",),
    "mtl_reversed_weight": ("mtlface",),
}
_OF_THE_LOSS = ("ip_reduction", "ip_weight")
_OF_CHILD_IDENTITIES = ("min_child_images", "child_below_years", "unlabelled_as_years")


def deciding_settings(config: TrainConfig) -> dict[str, Any]:
    """Give the settings that decide what a training computes, those that mean nothing in it as None.

    Settings of other margin losses and age methods mean nothing. Without the Inter-Prototype loss its reduction, its
    weight and who is a child identity mean nothing; with the loss on all prototypes the latter does not. The seed is
    left out: it tells repetitions apart, not methods.

    Args:
        config: The settings of a training.

    Returns:
        Setting -> value; two trainings of one seed that are equal in all of them compute the same.

    Example:
        >>> one, other = TrainConfig(ip_weight=1.0), TrainConfig(ip_weight=2.0)
        >>> one.inter_prototype, deciding_settings(one) == deciding_settings(other)
        ('none', True)
    """
    unused = {name for name, losses in _OF_MARGIN_LOSSES.items() if config.margin_loss not in losses}
    unused.update(name for name, methods in _OF_AGE_METHODS.items() if config.age_method not in methods)
    if config.inter_prototype != "child":
        unused.update(_OF_CHILD_IDENTITIES)
    if config.inter_prototype == "none":
        unused.update(_OF_THE_LOSS)
    return {
        name: None if name in unused else value
        for name, value in config.to_dict().items()
        if name != "seed" and name not in UNDECISIVE_SETTINGS
    }
