"""Settings: every difference between paper and official code is carried, and wrong values are named."""

import ast
import dataclasses

import pytest

from interproto_lib.config import (
    EVALUATION_PRESETS,
    PAPER_SEEDS,
    TRAINING_PRESETS,
    UNDECISIVE_SETTINGS,
    EvaluationConfig,
    TrainConfig,
    from_namespace,
)
from interproto_lib.errors import ConfigError


def test_paper_preset_follows_the_text():
    config = TrainConfig.preset("paper")
    assert (config.backbone, config.embedding_dim) == ("ir50", 512)
    assert (config.margin_loss, config.scale, config.margin) == ("arcface", 64.0, 0.5)
    assert (config.inter_prototype, config.ip_reduction, config.ip_weight) == ("child", "sum", 1.0)
    assert (config.epochs, config.batch_size, config.milestones) == (50, 64, (28, 36, 46))
    assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
    assert config.min_child_images == 1
    assert config.unlabelled_as_years is None
    assert EVALUATION_PRESETS["paper"].gap_inclusive is False


def test_official_preset_follows_the_code():
    config = TrainConfig.preset("official")
    assert (config.backbone, config.dropout) == ("ir_se50", 0.6)
    assert (config.ip_reduction, config.min_child_images) == ("mean", 10)
    assert (config.epochs, config.milestones) == (50, (28, 38, 46))
    assert (config.momentum, config.flip) == (0.9, True)
    assert config.unlabelled_as_years == 30.0
    on_ms1mv2 = TrainConfig.preset("official_ms1mv2")
    assert (on_ms1mv2.epochs, on_ms1mv2.milestones) == (25, (14, 19, 23))
    evaluation = EVALUATION_PRESETS["official"]
    assert evaluation.verification_threshold == evaluation.epoch_choice == "best_on_test"
    assert evaluation.gap_inclusive is True
    assert config.keep_every_epoch, "choosing an epoch afterwards needs every epoch"
    assert PAPER_SEEDS == (4885, 1234, 5678)


@pytest.mark.parametrize("name", TRAINING_PRESETS)
def test_published_settings_are_trained_in_float32(name):
    assert TrainConfig.preset(name).precision == "float32"


def test_what_decides_nothing_is_a_setting_and_nothing_that_the_loss_or_the_seed_needs():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert fields >= UNDECISIVE_SETTINGS
    assert not UNDECISIVE_SETTINGS & {*TRAINING_PRESETS["official"], "seed", "channels_last"}


def test_the_training_notebook_opened_by_hand_goes_on_with_the_demos_first_run(repo):
    """Its defaults are the demo's arcface-s0 in all that decides a result, so a batch run can be stepped through."""
    from interproto_lib.batch import notebook_parameters
    from interproto_lib.presets import read_preset

    declared = notebook_parameters(repo / "notebooks" / "02_train.ipynb")
    by_hand = {name: ast.literal_eval(entry["default"]) for name, entry in declared.items()}
    in_batch = {**by_hand, **read_preset("demo").parameters("02_train", method="arcface", seed=0)}
    assert by_hand["run"] == in_batch["run"] == "arcface-s0"
    first, second = (from_namespace(TrainConfig, values).to_dict() for values in (by_hand, in_batch))
    assert {name for name in first if first[name] != second[name]} <= UNDECISIVE_SETTINGS
    assert by_hand["experiment"] == in_batch["experiment"]


def test_settings_survive_the_way_through_json():
    config = TrainConfig.preset("official", seed=3)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_every_setting_is_explained():
    text = TrainConfig.__doc__
    missing = [field.name for field in dataclasses.fields(TrainConfig) if f"        {field.name}: " not in text]
    assert not missing


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epocs": 3}, "did you mean 'epochs'"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"epochs": "3"}, "must be of type int"),
        ({"epochs": True}, "must be of type int"),
        ({"learning_rate": "1e-3"}, "write 1.0e-3"),
        ({"learning_rate": float("nan")}, "must be finite"),
        ({"margin": 2.0}, r"\[0, pi/2\)"),
        ({"margin_loss": "sphere"}, "must be one of 'softmax'"),
        ({"margin_loss": "softmax", "margin": 0.0}, "scale=32.0: must be 1"),
        ({"margin_loss": "normface"}, "margin=0.3: must be 0"),
        ({"schedule": "milestones", "milestones": [5, 3]}, "rising"),
        ({"schedule": "cosine", "milestones": [5]}, "mean nothing"),
        ({"warmup_epochs": 99.0}, "between 0 and epochs"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
        ({"batch_parts": 0}, "batch_parts=0: must be at least 1"),
        ({"batch_size": 16, "batch_parts": 3}, "divides batch_size=16"),
        ({"batch_size": 16, "batch_parts": 16}, "parts of two images or more"),
        ({"softmax_chunk": -1}, "softmax_chunk=-1: must be 0 or more"),
        ({"partial_fc_rate": 0.0}, "partial_fc_rate=0.0: must be above 0"),
        ({"partial_fc_rate": 1.5}, "above 0, up to 1"),
    ],
)
def test_wrong_settings_are_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        TrainConfig.from_dict(wrong)


def test_unknown_presets_and_choices_are_named():
    with pytest.raises(ConfigError, match="Known presets: paper, official"):
        TrainConfig.preset("papr")
    with pytest.raises(ConfigError, match="verification_threshold='best'"):
        EvaluationConfig(verification_threshold="best")
