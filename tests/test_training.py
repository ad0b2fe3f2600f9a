"""Training: against a plain loop written here, against itself after kills, and against wrong use."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_dataset

from interproto_lib.config import TrainConfig
from interproto_lib.errors import CheckpointError, ConfigError, RunError, TrainingDivergedError
from interproto_lib.losses import cosine_similarities
from interproto_lib.models import build_backbone
from interproto_lib.runs import list_runs, open_run, runs_by_method
from interproto_lib.training import learning_rate_at, train
from interproto_lib.training.batches import EpochBatches
from interproto_lib.training.recognizer import Recognizer, parameter_groups

REPO = Path(__file__).resolve().parents[1]
TINY = {
    "backbone": "tiny",
    "embedding_dim": 16,
    "epochs": 3,
    "batch_size": 16,
    "min_child_images": 3,
    "threads": 1,
    "log_every_steps": 4,
    "device": "cpu",
    "precision": "float32",
}


def tiny(**changes):
    return TrainConfig(**{**TINY, **changes})


def files_of(run):
    losses = run.metrics().drop(columns="images_per_second")
    return [(run.path / name).read_bytes() for name in ("backbone.safetensors", "prototypes.safetensors")] + [losses]


def assert_same_run(first, second):
    for one, other in zip(files_of(first)[:2], files_of(second)[:2], strict=True):
        assert one == other
    assert files_of(first)[2].equals(files_of(second)[2])


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset()


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "interproto-s0"
    config = tiny(inter_prototype="child", ip_reduction="sum", ip_weight=0.01, dropout=0.1)
    return train(config, dataset, folder, progress="none"), config


def test_the_loop_is_sgd_on_eq_7(dataset, tmp_path):
    """Three steps of a plain loop, with formulas written out, give the same weights to rounding."""
    config = tiny(inter_prototype="child", ip_reduction="sum", ip_weight=0.5, epochs=1, schedule="milestones")
    run = train(config, dataset, tmp_path / "run", progress="none")

    torch.manual_seed(config.seed)
    backbone = build_backbone("tiny", embedding_dim=16, image_size=56, dropout=0.0).train()
    prototypes = torch.nn.functional.normalize(torch.empty(12, 16).uniform_(-1, 1)).requires_grad_()
    norms = [m for m in backbone.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    spared = {id(p) for m in norms for p in m.parameters()}
    parameters = [*backbone.parameters(), prototypes]
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
    for step, (images, labels) in enumerate(batches.epoch(0)):
        x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        f = torch.nn.functional.normalize(backbone(x))
        w = torch.nn.functional.normalize(prototypes)
        theta = (f @ w.T).clamp(-1 + 1e-7, 1 - 1e-7).arccos()
        own = torch.nn.functional.one_hot(labels, 12).bool()
        loss_m = torch.nn.functional.cross_entropy(32.0 * (theta + 0.3 * own).cos(), labels)
        c = w[:4] @ w[:4].T
        loss = loss_m + 0.5 * (c**2).masked_fill(torch.eye(4, dtype=torch.bool), 0).sum()
        gradients = torch.autograd.grad(loss, parameters)
        rate = 0.1 * min(1.0, (step + 1) / 3)
        with torch.no_grad():
            for p, g, v in zip(parameters, gradients, momentum, strict=True):
                v.mul_(0.9).add_(g + (0.0 if id(p) in spared else 5e-4) * p)
                p.sub_(rate * v)
    np.testing.assert_allclose(run.prototypes, prototypes.detach().numpy(), atol=2e-4)


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


CHILD = """
import sys
sys.path.insert(0, "tests")
from toy import toy_dataset
from interproto_lib.config import TrainConfig
from interproto_lib.training import train
import json
train(TrainConfig.from_dict(json.loads(sys.argv[1])), toy_dataset(), sys.argv[2], progress="none")
"""


@pytest.mark.parametrize("checkpoint_every_steps", [0, 3])
def test_killed_again_and_again_a_run_ends_with_the_same_bits(dataset, tmp_path, checkpoint_every_steps):
    settings = tiny(dropout=0.2, epochs=6, checkpoint_every_steps=checkpoint_every_steps, inter_prototype="all")
    whole = train(settings, dataset, tmp_path / "whole-s0", progress="none")

    folder = tmp_path / "killed-s0"
    command = [sys.executable, "-c", CHILD, json.dumps(settings.to_dict()), str(folder)]
    kills = 0
    for n_rows in (2, 4, 6):
        process = subprocess.Popen(command, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"})
        metrics = folder / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.is_file() and metrics.read_bytes().count(b"\n") >= n_rows:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1, "no kill hit the training"
    assert not (folder / "summary.json").exists()
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 99, "lo')  # a line cut short by a kill
    resumed = train(settings, dataset, folder, progress="none")
    assert_same_run(whole, resumed)


def test_a_finished_run_is_given_back_untouched(finished, dataset):
    run, config = finished
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir() if path.is_file()}
    again = train(config, dataset, run.path, progress="none")
    after = {path.name: path.stat().st_mtime_ns for path in again.path.iterdir() if path.is_file()}
    assert before == after


def test_other_settings_or_data_in_the_folder_are_refused(finished, dataset):
    run, config = finished
    with pytest.raises(RunError, match=r"other settings: seed was 0, now 5"):
        train(TrainConfig.from_dict({**config.to_dict(), "seed": 5}), dataset, run.path)
    with pytest.raises(RunError, match="other data"):
        train(config, toy_dataset(n_images=9), run.path)


def test_two_processes_cannot_train_in_one_folder(dataset, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="Another process is training"):
            train(tiny(), dataset, tmp_path / "run")


def test_a_damaged_checkpoint_is_named_and_kept(dataset, tmp_path, finished):
    run, config = finished
    folder = tmp_path / "run"
    folder.mkdir()
    whole = (run.path / "checkpoint.pt").read_bytes()
    for name, content in [("truncated", whole[: len(whole) // 2]), ("text", b"hello"), ("empty", b"")]:
        (folder / "checkpoint.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read"):
            train(config, dataset, folder, progress="none")
        assert (folder / "checkpoint.pt").read_bytes() == content, name


def test_a_checkpoint_cannot_run_code(dataset, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"format": 1, "step": Evil()}, folder / "checkpoint.pt")
    with pytest.raises(CheckpointError):
        train(tiny(), dataset, folder, progress="none")
    assert not (tmp_path / "owned").exists()


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(dataset, tmp_path, monkeypatch):
    from interproto_lib.training import recognizer

    whole = recognizer.margin_softmax_loss
    calls = []

    def breaks_in_the_second_epoch(*args, **kwargs):
        calls.append(1)
        return whole(*args, **kwargs) * (float("nan") if len(calls) > 8 else 1.0)

    monkeypatch.setattr(recognizer, "margin_softmax_loss", breaks_in_the_second_epoch)
    with pytest.raises(TrainingDivergedError, match=r"non-finite by step 12.*last good checkpoint is kept"):
        train(tiny(log_every_steps=100), dataset, tmp_path / "run", progress="none")
    monkeypatch.undo()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 6
    assert all(torch.isfinite(value).all() for value in state["recognizer"].values())
    run = train(tiny(log_every_steps=100), dataset, tmp_path / "run", progress="none")
    assert_same_run(run, train(tiny(log_every_steps=100), dataset, tmp_path / "clean", progress="none"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 97}, "larger than the 96 training images"),
        ({"device": "cuda:0"} if not torch.cuda.is_available() else {"device": "cuda:99"}, "no usable GPU"),
        ({"device": "gpu"}, "is not a device"),
        ({"inter_prototype": "child", "min_child_images": 9}, "needs two child identities, found 0"),
        ({"backbone": "resnet"}, "no backbone named 'resnet'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(dataset, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        train(tiny(**changes), dataset, tmp_path / "run", progress="none")


def test_one_identity_is_refused(tmp_path):
    from interproto_lib.errors import DatasetError

    with pytest.raises(DatasetError, match="has 1 training identities"):
        train(tiny(), toy_dataset(n_identities=1, n_child=0, n_images=20), tmp_path / "run", progress="none")


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
    assert any(m.weight is p for m in model.modules() if isinstance(m, torch.nn.PReLU) for p in decayed["params"]) or (
        not any(isinstance(m, torch.nn.PReLU) for m in model.modules())
    )
    assert all(p.ndim == 1 for p in spared["params"])


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
    seen = torch.cat([images for images, _ in plain.epoch(0)]).numpy()
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in dataset.images)
    flipped = EpochBatches(dataset.images, rows, labels, flip=True, **kwargs)
    mirrored = torch.cat([images for images, _ in flipped.epoch(0)]).numpy()
    same = np.array([np.array_equal(a, b) for a, b in zip(seen, mirrored, strict=True)])
    turned = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(seen, mirrored, strict=True)])
    assert (same ^ turned).all()
    assert 25 < same.sum() < 71
    order = [label.tolist() for _, label in plain.epoch(0)]
    assert order != [label.tolist() for _, label in plain.epoch(1)]
    assert [label.tolist() for _, label in plain.epoch(0, first_step=4)] == order[4:]


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


def test_lines_of_progress_name_the_run(dataset, tmp_path, capsys):
    train(tiny(), dataset, tmp_path / "arcface-s7", progress="lines")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("arcface-s7: epoch ") and "images/s" in line and "left" in line for line in lines)
    assert "epoch 3.0/3" in lines[-1]


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
