"""Training: against a plain loop written here, and against wrong use."""

import contextlib
import json
import re
import sys

import numpy as np
import pytest
import torch
from toy import assert_same_run, tiny, toy_dataset

from interproto_lib.analysis.embedding import load_backbone
from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.losses import cosine_similarities
from interproto_lib.models import build_backbone
from interproto_lib.runs import RunFolder, list_runs, open_run, runs_by_method
from interproto_lib.training import learning_rate_at, loop, train
from interproto_lib.training.batches import EpochBatches
from interproto_lib.training.recognizer import Recognizer, inter_prototype_scope, parameter_groups


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset()


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "interproto-s0"
    config = tiny(inter_prototype="child", ip_reduction="sum", ip_weight=0.01, dropout=0.1)
    return train(config, dataset, folder, progress="none"), config


def test_the_loop_is_sgd_on_eq_7(dataset, tmp_path):
    """Six steps of a plain loop, with formulas written out, move every weight the same way.

    Small steps and a strong decay: large ones would amplify rounding, a weak decay would not be seen.
    """
    config = tiny(
        inter_prototype="child",
        ip_reduction="sum",
        ip_weight=5.0,
        epochs=1,
        schedule="milestones",
        learning_rate=1e-3,
        weight_decay=1.0,
    )
    run = train(config, dataset, tmp_path / "run", progress="none")

    torch.manual_seed(config.seed)
    backbone = build_backbone("tiny", embedding_dim=16, image_size=56, dropout=0.0).train()
    prototypes = torch.nn.functional.normalize(torch.empty(12, 16).uniform_(-1, 1)).requires_grad_()
    norms = [m for m in backbone.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    spared = {id(p) for m in norms for p in m.parameters()}
    parameters = [*backbone.parameters(), prototypes]
    start = [p.detach().clone() for p in parameters]
    momentum = [torch.zeros_like(p) for p in parameters]
    batches = EpochBatches(
        dataset.images,
        np.arange(96),
        np.arange(96) // 8,
        batch_size=16,
        flip=True,
        seed=config.seed,
        device=torch.device("cpu"),
    )
    for step, (images, labels, _) in enumerate(batches.epoch(0)):
        x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        f = torch.nn.functional.normalize(backbone(x))
        w = torch.nn.functional.normalize(prototypes)
        theta = (f @ w.T).clamp(-1 + 1e-7, 1 - 1e-7).arccos()
        own = torch.nn.functional.one_hot(labels, 12).bool()
        loss_m = torch.nn.functional.cross_entropy(32.0 * (theta + 0.3 * own).cos(), labels)
        c = w[:4] @ w[:4].T
        loss = loss_m + 5.0 * (c**2).masked_fill(torch.eye(4, dtype=torch.bool), 0).sum()
        gradients = torch.autograd.grad(loss, parameters)
        rate = 1e-3 * min(1.0, (step + 1) / 3)
        with torch.no_grad():
            for p, g, v in zip(parameters, gradients, momentum, strict=True):
                v.mul_(0.9).add_(g + (0.0 if id(p) in spared else 1.0) * p)
                p.sub_(rate * v)
    ours = [*load_backbone(run).parameters(), torch.from_numpy(run.prototypes)]
    for before, plain, trained in zip(start, parameters, ours, strict=True):
        moved, wanted = trained.detach() - before, plain.detach() - before
        # A bias that a normalisation follows has no gradient but rounding, hence the second term.
        assert float((moved - wanted).norm()) < 0.02 * float(wanted.norm()) + 1e-6


def test_a_run_learns_and_records(finished):
    run, config = finished
    metrics = run.metrics()
    assert metrics["loss"].iloc[-1] < 0.5 * metrics["loss"].iloc[0]
    assert list(metrics["step"]) == [4, 8, 12, 16, 18]
    assert run.config == config
    assert run.summary["n_pushed_apart"] == 4
    assert list(run.classes["is_child"]) == [True] * 4 + [False] * 8
    assert list((run.path / "tensorboard").iterdir())
    assert json.loads((run.path / "environment.json").read_text())["threads"] == 1
    weighted = metrics["margin_loss"] + config.ip_weight * metrics["inter_prototype_loss"]
    np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-5)


def test_the_loss_separates_the_prototypes_it_is_asked_to(dataset, tmp_path):
    def spread(scope, weight):
        run = train(
            tiny(inter_prototype=scope, ip_reduction="sum", ip_weight=weight, epochs=6),
            dataset,
            tmp_path / f"{scope}{weight}",
            progress="none",
        )
        rows = torch.from_numpy(run.prototypes[:4])
        c = cosine_similarities(rows, rows).numpy()
        return float((c[~np.eye(4, dtype=bool)] ** 2).sum())

    assert spread("child", 5.0) < 0.05 * spread("none", 0.0) + 1e-3


def test_two_trainings_with_one_seed_are_equal_and_another_seed_differs(finished, dataset, tmp_path):
    run, config = finished
    again = train(config, dataset, tmp_path / "again", progress="none")
    assert_same_run(run, again)
    other = train(TrainConfig.from_dict({**config.to_dict(), "seed": 1}), dataset, tmp_path / "o", progress="none")
    assert not np.array_equal(run.prototypes, other.prototypes)


def test_training_leaves_the_global_random_state_alone(dataset, tmp_path):
    before = torch.get_rng_state()
    train(tiny(epochs=1), dataset, tmp_path / "run", progress="none")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 97}, "larger than the 96 training images"),
        ({"device": "cuda:99"}, "this machine has (no usable GPU|[0-9]+ GPUs)"),
        ({"device": "gpu"}, "is not a device"),
        ({"inter_prototype": "child", "min_child_images": 9}, "needs two child identities, found 0"),
        ({"wandb": True}, r"pip install 'interproto-lib\[wandb\]'"),
        ({"backbone": "resnet"}, "no backbone named 'resnet'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(dataset, tmp_path, monkeypatch, changes, said):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=said):
        train(tiny(**changes), dataset, tmp_path / "run", progress="none")


def test_one_identity_is_refused(tmp_path):
    from interproto_lib.errors import DatasetError

    with pytest.raises(DatasetError, match="has 1 training identities"):
        train(tiny(), toy_dataset(n_identities=1, n_child=0, n_images=20), tmp_path / "run", progress="none")


def test_a_loss_on_all_prototypes_needs_two_of_them():
    with pytest.raises(ConfigError, match=r"inter_prototype='all' needs two identities, found 1"):
        inter_prototype_scope(tiny(inter_prototype="all"), np.array([True]))
    with pytest.raises(ConfigError, match=r"inter_prototype='child' needs two child identities, found 1 with"):
        inter_prototype_scope(tiny(inter_prototype="child"), np.array([True, False]))
    assert list(inter_prototype_scope(tiny(inter_prototype="all"), np.array([True, False]))) == [0, 1]


def test_schedules_by_hand():
    config = tiny(epochs=10, schedule="milestones", milestones=[4, 8], warmup_epochs=1.0)
    rates = [learning_rate_at(config, step, steps_per_epoch=2) for step in range(20)]
    expected = [0.05, 0.1] + [0.1] * 6 + [0.01] * 8 + [0.001] * 4
    np.testing.assert_allclose(rates, expected)
    config = tiny(epochs=2, schedule="cosine", warmup_epochs=0.0)
    rates = [learning_rate_at(config, step, steps_per_epoch=2) for step in range(4)]
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(4) / 4)))


def test_weight_decay_spares_batch_normalisation_alone():
    model = Recognizer(tiny(), image_size=56, is_child=np.zeros(5, dtype=bool))
    decayed, spared = parameter_groups(model, 5e-4)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert sum(p.numel() for g in (decayed, spared) for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert any(p is model.prototypes for p in decayed["params"])
    norms = [m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    assert {id(p) for p in spared["params"]} == {id(p) for m in norms for p in m.parameters()}
    assert norms


@pytest.mark.parametrize("backbone", ["mobilefacenet", "ir50"])
def test_weight_decay_acts_on_prelu(backbone):
    config = tiny(backbone=backbone, embedding_dim=512)
    with torch.device("meta"):
        model = Recognizer(config, image_size=112, is_child=np.zeros(5, dtype=bool))
    decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model, 5e-4))
    prelu = {id(p) for m in model.modules() if isinstance(m, torch.nn.PReLU) for p in m.parameters()}
    assert len(prelu) > 10
    assert prelu <= decayed
    assert not prelu & spared


def test_prototypes_start_as_the_official_code_has_them():
    torch.manual_seed(0)
    model = Recognizer(tiny(embedding_dim=512), image_size=56, is_child=np.zeros(50, dtype=bool))
    rows = model.prototypes.detach()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(50))
    # Uniform(-1, 1) scaled to unit length in 512 dimensions: entries stay near sqrt(3 / 512) or below.
    assert float(rows.abs().max()) < 1.1 * (3 / 512) ** 0.5


def test_an_epoch_shows_each_image_once_and_mirrors_half(dataset):
    kwargs = {"batch_size": 16, "seed": 3, "device": torch.device("cpu")}
    rows, labels = np.arange(96), np.arange(96) // 8
    plain = EpochBatches(dataset.images, rows, labels, flip=False, **kwargs)
    seen = torch.cat([images for images, _, _ in plain.epoch(0)]).numpy()
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in dataset.images)
    flipped = EpochBatches(dataset.images, rows, labels, flip=True, **kwargs)
    mirrored = torch.cat([images for images, _, _ in flipped.epoch(0)]).numpy()
    same = np.array([np.array_equal(a, b) for a, b in zip(seen, mirrored, strict=True)])
    turned = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(seen, mirrored, strict=True)])
    assert (same ^ turned).all()
    assert 25 < same.sum() < 71
    order = [label.tolist() for _, label, _ in plain.epoch(0)]
    assert order != [label.tolist() for _, label, _ in plain.epoch(1)]
    assert [label.tolist() for _, label, _ in plain.epoch(0, first_step=4)] == order[4:]


def test_images_too_many_for_memory_are_read_as_they_are_needed(dataset, monkeypatch):
    from interproto_lib.training import batches

    kwargs = {"batch_size": 16, "flip": True, "seed": 3, "device": torch.device("cpu")}
    rows, labels = np.arange(10, 90), np.arange(80) // 8
    resident = list(EpochBatches(dataset.images, rows, labels, **kwargs).epoch(1))
    monkeypatch.setattr(batches, "LARGEST_IN_MEMORY", 0)
    mapped = list(EpochBatches(dataset.images, rows, labels, **kwargs).epoch(1))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(resident, mapped, strict=True))


@pytest.mark.parametrize("loss", ["softmax", "normface", "cosface"])
def test_every_margin_loss_trains(dataset, tmp_path, loss):
    settings = {"softmax": (1.0, 0.0), "normface": (16.0, 0.0), "cosface": (32.0, 0.2)}[loss]
    config = tiny(margin_loss=loss, scale=settings[0], margin=settings[1], epochs=5)
    run = train(config, dataset, tmp_path / "run", progress="none")
    assert run.summary["accuracy"] > 5 / 12


def test_bfloat16_starts_as_float32_does_and_trains(dataset, tmp_path):
    first, second = (
        train(tiny(precision=precision), dataset, tmp_path / precision, progress="none").metrics()["loss"]
        for precision in ("float32", "bfloat16")
    )
    assert not first.equals(second)
    np.testing.assert_allclose(second[0], first[0], rtol=0.1)  # later the two ways part, as rounding adds up
    assert second.iloc[-1] < 0.5 * second[0]


@pytest.mark.parametrize(
    ("precision", "is_native", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, None),
    ],
)
def test_a_gpu_that_only_imitates_bfloat16_trains_in_float32(monkeypatch, precision, is_native, dtype):
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or is_native
    )
    assert loop._autocast_dtype(precision, torch.device("cuda", 0)) == dtype


def test_lines_of_progress_name_the_run(dataset, tmp_path, capsys):
    train(tiny(), dataset, tmp_path / "arcface-s7", progress="lines")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    first, *running, last = lines
    number = r"[\d.,]+"
    line = (
        rf"arcface-s7: epoch {number}/3, loss {number}, accuracy \d+%, {number} images/s, data wait {number}%, .* left"
    )
    assert re.fullmatch(r"arcface-s7: expected memory: at most [\d.]+ GiB \(already held .*\)", first)
    assert running
    assert all(re.fullmatch(line, text) for text in running)
    assert "epoch 3.0/3" in running[-1]
    assert re.fullmatch(rf"arcface-s7: finished, 18 steps in 0:\d\d, {number} images/s, at most .* main memory", last)
    summary = RunFolder(tmp_path / "arcface-s7").summary
    assert f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB" in last
    assert 2e8 < summary["peak_memory_bytes"] < 1e11
    assert f"{summary['expected_memory_bytes'] / 2**30:.2f} GiB" in first
    assert 0 <= summary["data_wait"] < 1


def test_the_line_of_progress_has_the_parts_of_the_loss(dataset, tmp_path, capsys):
    train(tiny(inter_prototype="all", age_method="oe_cnn", epochs=1), dataset, tmp_path / "run", progress="lines")
    line = capsys.readouterr().out.splitlines()[1]
    assert re.search(r"loss [\d.]+ \(margin [\d.]+, inter-prototype [\d.]+, age [\d.]+\), accuracy", line)


def test_runs_are_found_by_method(finished, tmp_path):
    run, _ = finished
    assert open_run(run.path).name == "interproto-s0"
    assert [r.name for r in list_runs(run.path.parent)] == ["interproto-s0"]
    assert list(runs_by_method(run.path.parent, "interproto")) == ["interproto"]
    with pytest.raises(RunError, match=r"No finished run of 'arcface'.*methods there: interproto.*02_train"):
        runs_by_method(run.path.parent, "arcface")
    with pytest.raises(RunError, match=r"No finished run in .*02_train\.ipynb"):
        list_runs(tmp_path)
    with pytest.raises(RunError, match=r"does not exist.*02_train\.ipynb"):
        open_run(tmp_path / "nothing")


def test_every_epoch_is_kept_when_asked(dataset, tmp_path):
    run = train(tiny(keep_every_epoch=True), dataset, tmp_path / "run", progress="none")
    names = sorted(path.name for path in (run.path / "epochs").iterdir())
    assert names == [f"backbone-{epoch:04d}.safetensors" for epoch in (1, 2, 3)]
    assert (run.path / "epochs" / names[-1]).read_bytes() == (run.path / "backbone.safetensors").read_bytes()
