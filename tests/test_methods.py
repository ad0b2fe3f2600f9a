"""OE-CNN, AE-CNN, DAL and MTLFace: their losses by hand, who learns from what, and trainings that go on exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import tiny, toy_dataset

from interproto_lib.analysis import embed_images, load_backbone
from interproto_lib.analysis.identified_runs import model_costs
from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import FaceDataset
from interproto_lib.errors import ConfigError
from interproto_lib.methods import METHODS, MethodOutputs, build_recogniser, canonical_correlation
from interproto_lib.methods.age_method import age_group_loss, labelled_mean
from interproto_lib.models import count_parameters
from interproto_lib.training import train
from interproto_lib.training.recognizer import Recognizer

D = 16


def settings(method: str, **changes: object) -> TrainConfig:
    return tiny(age_method=method, embedding_dim=D, **changes)


def recogniser_and_method(name: str, **changes: object):
    torch.manual_seed(0)
    config = settings(name, **changes)
    recogniser = build_recogniser(config, image_size=32)
    return recogniser, METHODS[name](config, recogniser)


def images(n: int = 6) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


AGES = torch.tensor([4.0, math.nan, 30.0, 66.0, 12.9, 13.0])


def test_canonical_correlation_is_numpys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    b += 0.4 * a
    found = canonical_correlation(torch.tensor(a), torch.tensor(b)).item()
    assert found == pytest.approx(np.corrcoef(a, b)[0, 1], abs=2e-6)
    assert canonical_correlation(torch.ones(5), torch.arange(5.0)).item() == 0


def test_unknown_ages_count_in_no_mean():
    values = torch.tensor([1.0, 100.0, 3.0])
    assert labelled_mean(values, torch.tensor([1.0, math.nan, 2.0])).item() == 2
    assert labelled_mean(values, torch.full((3,), math.nan)).item() == 0


def test_age_groups_are_the_papers():
    starts = torch.tensor([13.0, 19, 26, 36, 46, 56, 66])
    groups = [0, 2, 7, 0, 1, 1, 7]
    ages = torch.tensor([12.9, 19.0, 66.0, 0.0, 13.0, 18.99, 100.0])
    logits = torch.zeros(7, 8)
    logits[range(7), groups] = 50.0
    assert age_group_loss(logits, ages, starts).item() == pytest.approx(0, abs=1e-6)
    assert age_group_loss(-logits, ages, starts).item() > 40


def test_oe_cnn_by_hand():
    recogniser, method = recogniser_and_method("oe_cnn", age_weight=0.5)
    recogniser.eval()
    x = recogniser(images()).detach().double()
    k, b = method.age_of_length.weight.item(), method.age_of_length.bias.item()
    errors = [(k * math.hypot(*row) + b - age) ** 2 for row, age in zip(x.tolist(), AGES.tolist(), strict=True)]
    known = [error for error in errors if not math.isnan(error)]
    found = method.losses(method(recogniser, images()), AGES)["age"].item()
    assert found == pytest.approx(0.5 * sum(known) / 5, rel=1e-5)


def test_dal_by_hand():
    recogniser, method = recogniser_and_method("dal", age_weight=2.0, dal_weight=3.0)
    recogniser.eval()
    outputs = method(recogniser, images())
    x = recogniser.backbone(images())
    layers = recogniser.age_part
    age = (layers[2](layers[0](x).clamp_min(0))).clamp_min(0)
    torch.testing.assert_close(outputs.parts["age"], age)
    torch.testing.assert_close(outputs.embeddings, x - age)
    torch.testing.assert_close(recogniser(images()), x - age)
    identity_values = ((x - age) @ method.identity_map.weight[0]).detach().numpy().astype(float)
    age_values = (age @ method.age_map.weight[0]).detach().numpy().astype(float)
    a, b = identity_values - identity_values.mean(), age_values - age_values.mean()
    rho = (a * b).mean() / math.sqrt(((a * a).mean() + 1e-6) * ((b * b).mean() + 1e-6))
    losses = method.losses(outputs, AGES)
    assert losses["correlation"].item() == pytest.approx(3 * abs(rho), rel=1e-3)
    squared = METHODS["dal"](replace(method.config, dal_measure="square"), recogniser)
    squared.load_state_dict(method.state_dict())
    assert squared.losses(outputs, AGES)["correlation"].item() == pytest.approx(3 * rho**2, rel=1e-3)
    assert method.opposing_loss(outputs).item() == pytest.approx(-abs(rho), rel=1e-3)


def test_dals_opponents_learn_apart():
    recogniser, method = recogniser_and_method("dal")
    outputs = method(recogniser, images())
    sum(method.losses(outputs, AGES).values()).backward()
    opponent = [method.identity_map.weight, method.age_map.weight]
    assert all(weights.grad is None for weights in opponent)
    assert all(torch.isfinite(p.grad).all() for p in recogniser.age_part.parameters())
    for module in (recogniser, method):
        module.zero_grad(set_to_none=True)
    method.opposing_loss(method(recogniser, images())).backward()
    assert all(weights.grad is not None for weights in opponent)
    assert all(p.grad is None for p in recogniser.parameters())


def test_dals_maps_find_a_correlation_and_the_rest_loses_it():
    """The maps alone raise |rho|; the network alone lowers it, whatever the maps were."""
    generator = torch.Generator().manual_seed(3)
    _, method = recogniser_and_method("dal")
    shared = torch.randn(64, 1, generator=generator)
    identity = torch.randn(64, D, generator=generator) + shared
    age = torch.randn(64, D, generator=generator) + shared
    outputs = MethodOutputs(identity, {"age": age, "age_groups": torch.zeros(64, 8)})
    optimiser = torch.optim.SGD([*method.identity_map.parameters(), *method.age_map.parameters()], lr=0.5)
    before = -method.opposing_loss(outputs).item()
    for _ in range(50):
        optimiser.zero_grad()
        method.opposing_loss(outputs).backward()
        optimiser.step()
    found = -method.opposing_loss(outputs).item()
    assert found > max(0.8, before)
    identity = identity.clone().requires_grad_()
    optimiser = torch.optim.Adam([identity], lr=0.05)
    for _ in range(60):
        losses = method.losses(MethodOutputs(identity, outputs.parts), torch.full((64,), math.nan))
        optimiser.zero_grad()
        losses["correlation"].backward()
        optimiser.step()
    after = MethodOutputs(identity, outputs.parts)
    assert -method.opposing_loss(after).item() < 0.5 * found


def test_dal_takes_turns():
    _, method = recogniser_and_method("dal", dal_opponent_steps=2, dal_steps=3)
    assert [method.opposes(step) for step in range(8)] == [True, True, False, False, False, True, True, False]


def test_ae_cnn_starts_as_its_backbone_and_learns_the_age():
    recogniser, method = recogniser_and_method("ae_cnn", age_weight=1.0)
    recogniser.eval()
    torch.testing.assert_close(recogniser(images()), recogniser.backbone(images()))
    outputs = method(recogniser, images())
    wanted = AGES[torch.isfinite(AGES)] / 100
    errors = (outputs.parts["ages"][torch.isfinite(AGES)] / 100 - wanted).abs()
    expected = torch.where(errors < 1, 0.5 * errors**2, errors - 0.5).mean()
    torch.testing.assert_close(method.losses(outputs, AGES)["age"], expected)


@pytest.mark.parametrize("name", METHODS)
def test_only_the_recogniser_is_kept(name):
    recogniser, method = recogniser_and_method(name)
    shared = {id(p) for p in recogniser.parameters()} & {id(p) for p in method.parameters()}
    assert shared == set()
    assert count_parameters(method) > 0
    assert set(method.losses(method(recogniser, images()), AGES)) == set(method.loss_names)


@pytest.mark.parametrize("name", METHODS)
def test_the_recogniser_embeds_its_feature_map(name):
    recogniser, _ = recogniser_and_method(name)
    recogniser.eval()
    features = recogniser.feature_map(images())
    assert tuple(features.shape[1:]) == recogniser.feature_shape
    torch.testing.assert_close(recogniser.embed_feature_map(features), recogniser(images()))


@pytest.mark.parametrize("name", METHODS)
def test_no_age_loss_where_no_age_is_known(name):
    recogniser, method = recogniser_and_method(name)
    losses = method.losses(method(recogniser, images()), torch.full((6,), math.nan))
    assert losses["age"].item() == 0
    losses["age"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in recogniser.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_float32_under_autocast(name):
    config = settings(name)
    model = Recognizer(config, image_size=32, is_child=np.zeros(4, dtype=bool))
    pixels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    ages = torch.tensor([5.0, 10, 20, 30, 40, 50, 60, 70])
    losses = model(pixels, torch.arange(8) % 4, ages, step=60, autocast_dtype=torch.bfloat16)
    assert {losses.total.dtype, *(loss.dtype for loss in losses.method)} == {torch.float32}
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# --- trainings --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset() -> FaceDataset:
    return toy_dataset()


@pytest.mark.parametrize("name", METHODS)
def test_a_training_goes_on_exactly(name, dataset, tmp_path):
    config = settings(name, dal_opponent_steps=2, dal_steps=3, inter_prototype="all")
    whole = train(config, dataset, tmp_path / "whole-s0", progress="none")
    stopped = tmp_path / "stopped-s0"
    with pytest.MonkeyPatch.context() as patched:
        calls = []
        forward = Recognizer.forward

        def interrupted(self, *args, **kwargs):
            calls.append(1)
            if len(calls) > 10:
                raise KeyboardInterrupt
            return forward(self, *args, **kwargs)

        patched.setattr(Recognizer, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, dataset, stopped, progress="none")
    resumed = train(config, dataset, stopped, progress="none")
    for file in ("backbone.safetensors", "prototypes.safetensors"):
        assert (whole.path / file).read_bytes() == (resumed.path / file).read_bytes()
    columns = [f"{part}_loss" for part in METHODS[name].loss_names]
    assert set(columns) <= set(whole.metrics().columns)
    assert np.isfinite(whole.metrics()[columns].to_numpy()).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_run_embeds_what_was_trained(name, dataset, tmp_path):
    run = train(settings(name, epochs=1), dataset, tmp_path / f"{name}-s0", progress="none")
    backbone = load_backbone(run)
    assert type(backbone) is type(build_recogniser(run.config, image_size=dataset.image_size))
    vectors = embed_images(backbone, dataset.images[:5])
    inputs = torch.from_numpy(dataset.images[:5].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        plain = torch.nn.functional.normalize(backbone(inputs)).numpy()
    np.testing.assert_allclose(vectors, plain, atol=1e-5)
    costs = model_costs(run)
    trained = Recognizer(run.config, image_size=dataset.image_size, is_child=np.zeros(len(run.classes), dtype=bool))
    assert costs.inference_parameters == count_parameters(backbone)
    assert costs.inference_parameters + costs.training_parameters == count_parameters(trained)


def test_without_ages_nothing_is_trained(dataset, tmp_path):
    ageless = replace(dataset, manifest=dataset.manifest.assign(age_years=np.nan), images_sha256=None)
    with pytest.raises(ConfigError, match=r"none of the .* training images has one"):
        train(settings("oe_cnn"), ageless, tmp_path / "run-s0", progress="none")
    assert not (tmp_path / "run-s0").exists()
    # An age for all unlabelled images, as the official code gives, is an age.
    train(settings("oe_cnn", unlabelled_as_years=30.0, epochs=1), ageless, tmp_path / "run-s0", progress="none")


def test_a_batch_too_small_for_a_correlation(dataset, tmp_path):
    with pytest.raises(ConfigError, match="batches of 8 images or more"):
        train(settings("dal", batch_size=4), dataset, tmp_path / "run-s0", progress="none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age_method": "ageless"}, "age_method"),
        ({"age_weight": -1.0}, "age_weight"),
        ({"dal_steps": 0}, "dal_steps"),
        ({"dal_measure": "cube"}, "dal_measure"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)
