"""Training that is stopped, killed, resumed or started twice: against itself without any of that."""

import contextlib
import errno
import io
import json
import shutil
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import assert_same_run, tiny, toy_dataset

from interproto_lib.config import UNDECISIVE_SETTINGS, TrainConfig
from interproto_lib.data.datasets import save_dataset
from interproto_lib.errors import CheckpointError, RunError, TrainingDivergedError, WriteError
from interproto_lib.files import file_lock
from interproto_lib.training import loop, train
from interproto_lib.training.metrics import MetricsLog
from interproto_lib.training.recognizer import Recognizer


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset()


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "interproto-s0"
    config = tiny(inter_prototype="child", ip_reduction="sum", ip_weight=0.01, dropout=0.1)
    return train(config, dataset, folder, progress="none"), config


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


def test_a_finished_run_is_not_trained_on_and_needs_its_checkpoints_only_where_a_file_is_lost(
    finished, dataset, tmp_path
):
    run, config = finished
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    with pytest.raises(RunError, match="other settings: epochs was 3, now 4"):
        train(TrainConfig.from_dict({**config.to_dict(), "epochs": 4}), dataset, folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000012", "step-00000018"]
    for name in ("prototypes.safetensors", "summary.json"):
        (folder / name).unlink()
    assert_same_run(run, train(config, dataset, folder, progress="none"))
    shutil.rmtree(folder / "checkpoints")
    assert_same_run(run, train(config, dataset, folder, progress="none"))
    assert not (folder / "checkpoints").exists()


def test_a_full_disk_is_said_where_a_row_of_metrics_is_written(tmp_path):
    class Full(io.TextIOBase):
        """What is kept until it is written fails once more when it is closed, as a file of the system does."""

        def write(self, text):
            return len(text)

        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    log = MetricsLog(tmp_path, tiny(), resume_step=0)
    log._file.close()
    log._file = Full()
    with pytest.raises(WriteError, match=r"Cannot write .*metrics\.jsonl: No space left on device\."):
        log.write({"step": 1, "loss": 2.0})
    log.close()


def test_the_same_manifest_with_other_pixels_is_refused(finished, dataset, tmp_path):
    run, config = finished
    images = dataset.images.copy()
    images[50, 20, 20, 1] ^= 1
    with pytest.raises(RunError, match="other data: images_sha256 was"):
        train(config, replace(dataset, images=images), run.path)
    saved = save_dataset(replace(dataset, images=images), tmp_path / "other")
    with pytest.raises(RunError, match="other data: images_sha256 was"):
        train(config, saved, run.path)
    assert train(config, save_dataset(dataset, tmp_path / "same"), run.path) == run, "saved or not, it is the same"


@pytest.mark.parametrize("name", sorted(UNDECISIVE_SETTINGS))
def test_settings_that_decide_nothing_may_differ(finished, dataset, name):
    run, config = finished
    other = {
        "device": "auto",
        "threads": 2,
        "softmax_chunk": 5,
        "log_every_steps": 7,
        "checkpoint_every_steps": 5,
        "wandb": True,
    }[name]
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    assert train(replace(config, **{name: other}), dataset, run.path, progress="none") == run
    assert before == {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}


def stopped_in_the_second_epoch(config, dataset, folder, monkeypatch):
    """A run whose training ended by an exception in step 11, after the checkpoint of step 6 (or a later one)."""
    optimise = loop._Trainer._optimise

    def interrupted(self, batch):
        if self.step == 10:
            raise KeyboardInterrupt
        optimise(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Trainer, "_optimise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, dataset, folder, progress="none")


def test_a_run_goes_on_with_settings_that_decide_nothing_and_says_so(dataset, tmp_path, monkeypatch):
    folder, config = tmp_path / "run-s0", tiny(inter_prototype="all")
    stopped_in_the_second_epoch(config, dataset, folder, monkeypatch)
    first = json.loads((folder / "environment.json").read_text())
    assert "resumed_with" not in first
    others = {"threads": 2, "log_every_steps": 5, "checkpoint_every_steps": 4, "device": "auto"}
    run = train(replace(config, **others), dataset, folder, progress="none")
    resumed = run.environment.pop("resumed_with")
    assert [entry["threads"] for entry in resumed] == [2]
    assert resumed[0]["step"] == 6
    assert {name: value for name, value in run.environment.items() if name != "resumed_with"} == first
    plain = train(config, dataset, tmp_path / "plain-s0", progress="none")
    np.testing.assert_allclose(run.prototypes, plain.prototypes, atol=1e-3)
    # Rows keep their steps; each is the mean over the steps since the row before it.
    every = train(replace(config, log_every_steps=1), dataset, tmp_path / "every-s0", progress="none").metrics()["loss"]
    metrics = run.metrics()
    assert list(metrics["step"]) == [4, 10, 15, 18]
    wanted = [every[a:b].mean() for a, b in ((0, 4), (4, 10), (10, 15), (15, 18))]
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-2)


def test_a_run_that_goes_on_as_it_was_says_nothing(dataset, tmp_path, monkeypatch):
    stopped_in_the_second_epoch(tiny(), dataset, tmp_path / "run", monkeypatch)
    assert "resumed_with" not in train(tiny(), dataset, tmp_path / "run", progress="none").environment


def test_two_processes_cannot_train_in_one_folder(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LOCK_WAIT_SECONDS", 0.3)
    with (
        file_lock(tmp_path / "run" / ".lock", busy="x"),
        pytest.raises(RunError, match="Another process is training"),
    ):
        train(tiny(), dataset, tmp_path / "run")
    assert capsys.readouterr().out.count("is in use by another process; waiting up to") == 1


def test_a_process_that_lets_go_is_waited_for(dataset, tmp_path, capsys):
    first = contextlib.ExitStack()
    first.enter_context(file_lock(tmp_path / "run" / ".lock", busy="x"))
    letting_go = threading.Timer(0.5, first.close)
    letting_go.start()
    assert train(tiny(epochs=1), dataset, tmp_path / "run", progress="none").is_finished
    letting_go.join()
    assert "waiting up to 30 s" in capsys.readouterr().out


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_kept(dataset, tmp_path, finished):
    run, config = finished
    folder = tmp_path / "run"
    shutil.copytree(run.path / "checkpoints", folder / "checkpoints")
    parts = sorted(folder.glob("checkpoints/*/part-00000.safetensors"))
    for part, content in zip(parts, (b"hello", b""), strict=True):
        part.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole: .*step-00000018.*step-00000012.*Remove"):
        train(config, dataset, folder, progress="none")
    assert [part.read_bytes() for part in parts] == [b"hello", b""]


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(dataset, tmp_path, monkeypatch):
    whole = Recognizer.forward

    def breaks_in_the_second_epoch(self, *batch, step, **options):
        losses = whole(self, *batch, step=step, **options)
        return replace(losses, total=losses.total * torch.nan) if step >= 8 else losses

    monkeypatch.setattr(Recognizer, "forward", breaks_in_the_second_epoch)
    with pytest.raises(TrainingDivergedError, match=r"non-finite by step 12.*last good checkpoint is kept"):
        train(tiny(log_every_steps=100), dataset, tmp_path / "run", progress="none")
    monkeypatch.undo()
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert kept.name == "step-00000006"
    tensors = load_file(kept / "part-00000.safetensors")
    assert len(tensors) > 10
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    run = train(tiny(log_every_steps=100), dataset, tmp_path / "run", progress="none")
    assert_same_run(run, train(tiny(log_every_steps=100), dataset, tmp_path / "clean", progress="none"))


@pytest.mark.parametrize("keep_every_epoch", [False, True])
def test_weights_that_became_non_finite_never_reach_the_disk(dataset, tmp_path, monkeypatch, keep_every_epoch):
    """Running statistics of batch normalisation do not act on the training loss, which stays finite here."""
    optimise = loop._Trainer._optimise

    def breaks_a_statistic(self, batch):
        optimise(self, batch)
        if self.step == 8:
            norm = next(m for m in self.recognizer.modules() if isinstance(m, torch.nn.BatchNorm2d))
            norm.running_var[0] = float("inf")

    monkeypatch.setattr(loop._Trainer, "_optimise", breaks_a_statistic)
    folder = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=r"a weight of run 'run' became non-finite by step 12"):
        train(tiny(keep_every_epoch=keep_every_epoch), dataset, folder, progress="none")
    assert [path.name for path in folder.glob("checkpoints/*")] == ["step-00000006"]
    assert [path.name for path in folder.glob("epochs/*")] == ["backbone-0001.safetensors"] * keep_every_epoch
    assert not (folder / "backbone.safetensors").exists()


def test_the_end_of_a_training_looks_at_all_weights_again(dataset, tmp_path, monkeypatch):
    finish = loop._Trainer._finish

    def broken(self):
        with torch.no_grad():
            next(self.recognizer.backbone.parameters()).fill_(float("nan"))
        finish(self)

    monkeypatch.setattr(loop._Trainer, "_finish", broken)
    with pytest.raises(TrainingDivergedError, match="non-finite by step 18"):
        train(tiny(), dataset, tmp_path / "run", progress="none")
    assert not (tmp_path / "run" / "backbone.safetensors").exists()


class FakeWandb:
    """Weights & Biases as far as the training sees it: runs by id, whose steps only rise."""

    def __init__(self):
        self.inits, self.logged, self.finished = [], {}, 0

    def init(self, **arguments):
        self.inits.append(arguments)
        logged = self.logged.setdefault(arguments["id"], [])
        return FakeWandbRun(self, logged, step=logged[-1][0] + 1 if logged else 0)


class FakeWandbRun:
    def __init__(self, service, logged, *, step):
        self._service, self._logged, self.step = service, logged, step

    def log(self, values, *, step, commit):
        assert commit
        assert step >= self.step, "Weights & Biases drops such a row with a warning"
        self._logged.append((step, values))
        self.step = step + 1

    def finish(self):
        self._service.finished += 1


def test_weights_and_biases_gets_each_row_once_and_knows_a_resumed_run(dataset, tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config, folder = tiny(wandb=True), tmp_path / "demo" / "arcface-s0"
    stopped_in_the_second_epoch(config, dataset, folder, monkeypatch)
    assert wandb.finished == 1, "an exception ends the run there, too"
    run = train(config, dataset, folder, progress="none")
    assert wandb.finished == 2
    first, second = wandb.inits
    assert first == second
    run_id = first.pop("id")
    assert first == {
        "project": "interproto",
        "group": "demo",
        "name": "arcface-s0",
        "dir": str(folder),
        "config": config.to_dict(),
        "resume": "allow",
    }
    assert json.loads((folder / "wandb.json").read_text()) == {"id": run_id}
    metrics = run.metrics().set_index("step").drop(columns=["images_per_second", "data_wait"])
    assert [step for step, _ in wandb.logged[run_id]] == list(metrics.index) == [4, 8, 12, 16, 18]
    for step, values in wandb.logged[run_id]:
        wanted = metrics.loc[step].to_dict()
        assert {name: values[name] for name in wanted} == pytest.approx(wanted, rel=1e-9, abs=1e-12)

    train(config, dataset, tmp_path / "elsewhere" / "demo" / "arcface-s0", progress="none")
    assert wandb.inits[-1]["id"] != run_id, "the same names elsewhere are another run"


def test_a_damaged_id_of_weights_and_biases_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    (tmp_path / "run").mkdir()
    for content in ("", "[]", "{}"):
        (tmp_path / "run" / "wandb.json").write_text(content)
        with pytest.raises(RunError, match=r"wandb\.json is damaged.*Remove it"):
            train(tiny(wandb=True), dataset, tmp_path / "run", progress="none")
