"""Training: against a plain loop written here, against itself after kills, and against wrong use."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_dataset

from interproto_lib.config import UNDECISIVE_SETTINGS, TrainConfig
from interproto_lib.data.datasets import save_dataset
from interproto_lib.errors import CheckpointError, ConfigError, RunError, TrainingDivergedError
from interproto_lib.files import file_lock
from interproto_lib.losses import cosine_similarities
from interproto_lib.models import build_backbone
from interproto_lib.runs import list_runs, open_run, runs_by_method
from interproto_lib.training import learning_rate_at, loop, recognizer, train
from interproto_lib.training.batches import EpochBatches
from interproto_lib.training.recognizer import Recognizer, inter_prototype_scope, parameter_groups

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


TRAINEES = """
import json, os, pathlib, signal, sys
sys.path.insert(0, "tests")
import torch, torch._dynamo, torch.utils.tensorboard  # the optimiser imports torch._dynamo
from toy import toy_dataset
from interproto_lib.config import TrainConfig
from interproto_lib.training import train

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_writing(name, place, countdown):
    left = [countdown]
    replace, save = pathlib.Path.replace, torch.save

    def dying_replace(self, target):
        left[0] -= pathlib.Path(target).name == name
        if place == "before" and left[0] == 0:
            die()
        result = replace(self, target)
        if place == "after" and left[0] == 0:
            die()
        return result

    def dying_save(content, path):
        save(content, path)
        left[0] -= 1
        if left[0] == 0:
            os.truncate(path, path.stat().st_size // 2)
            die()

    if place == "amid":
        torch.save = dying_save
    else:
        pathlib.Path.replace = dying_replace

dataset = toy_dataset()
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        if order["die"]:
            die_writing(*order["die"])
        train(TrainConfig.from_dict(order["settings"]), dataset, order["folder"], progress="none")
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Trainees:
    """Processes that train and are killed: forked from one that has imported everything, which takes seconds."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", TRAINEES]
        pipe = subprocess.PIPE
        self.parent = subprocess.Popen(command, cwd=REPO, env=environment, stdin=pipe, stdout=pipe, text=True)

    def start(self, settings, folder, *, die=None):
        """Start to train and give the process id; `die` says in writing which file, where, and which time."""
        order = {"settings": settings.to_dict(), "folder": str(folder), "die": die}
        self.parent.stdin.write(json.dumps(order) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def exit_code(self):
        return int(self.parent.stdout.readline())


@pytest.fixture(scope="module")
def trainees():
    started = Trainees()
    yield started
    started.parent.communicate()


@pytest.mark.parametrize("checkpoint_every_steps", [0, 3])
def test_killed_again_and_again_a_run_ends_with_the_same_bits(dataset, tmp_path, trainees, checkpoint_every_steps):
    settings = tiny(dropout=0.2, epochs=6, checkpoint_every_steps=checkpoint_every_steps, inter_prototype="all")
    whole = train(settings, dataset, tmp_path / "whole-s0", progress="none")

    folder = tmp_path / "killed-s0"
    metrics = folder / "metrics.jsonl"
    kills = 0
    for n_rows in (2, 4, 6):
        process = trainees.start(settings, folder)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if metrics.is_file() and metrics.read_bytes().count(b"\n") >= n_rows:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += trainees.exit_code() == -signal.SIGKILL
    assert kills >= 1, "no kill hit the training"
    assert not (folder / "summary.json").exists()
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 99, "lo')  # a line cut short by a kill
    resumed = train(settings, dataset, folder, progress="none")
    assert_same_run(whole, resumed)


def test_killed_inside_a_write_a_run_ends_with_the_same_bits(dataset, tmp_path, trainees):
    """Inside the checkpoint's bytes, around each rename of a checkpoint and of the files of a finished run."""
    settings = tiny(dropout=0.2, epochs=4, inter_prototype="all")
    whole = train(settings, dataset, tmp_path / "whole-s0", progress="none")
    folder = tmp_path / "killed-s0"
    kills = [
        ("checkpoint.pt", "amid", 2),  # epoch 1 is kept
        ("checkpoint.pt", "before", 1),  # as epoch 2 is to take its place
        ("checkpoint.pt", "after", 2),  # epoch 3 is kept
        ("backbone.safetensors", "before", 1),
        ("backbone.safetensors", "after", 1),
        ("prototypes.safetensors", "before", 1),
        ("summary.json", "before", 1),
    ]
    steps = []
    for name, place, countdown in kills:
        trainees.start(settings, folder, die=(name, place, countdown))
        assert trainees.exit_code() == -signal.SIGKILL, (name, place)
        assert not (folder / "summary.json").exists()
        if place != "after":
            assert list(folder.glob(".*-*")), "the kill hit no write"
        steps.append(torch.load(folder / "checkpoint.pt", weights_only=True)["step"])
    assert steps == [6, 6, 18, 24, 24, 24, 24]
    assert_same_run(whole, train(settings, dataset, folder, progress="none"))
    assert not list(folder.glob(".*-*")), "what the killed writers left is removed"


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
    other = {"device": "auto", "threads": 2, "log_every_steps": 7, "checkpoint_every_steps": 5, "wandb": True}[name]
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    assert train(replace(config, **{name: other}), dataset, run.path, progress="none") == run
    assert before == {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}


def stopped_in_the_second_epoch(config, dataset, folder, monkeypatch):
    """A run whose training ended by an exception in step 11, after the checkpoint of step 6 (or a later one)."""
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    whole = recognizer.margin_softmax_loss
    with monkeypatch.context() as patched:
        patched.setattr(recognizer, "margin_softmax_loss", interrupted)
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


@pytest.mark.parametrize("keep_every_epoch", [False, True])
def test_weights_that_became_non_finite_never_reach_the_disk(dataset, tmp_path, monkeypatch, keep_every_epoch):
    """Running statistics of batch normalisation do not act on the training loss, which stays finite here."""
    optimise = loop._Trainer._optimise

    def breaks_a_statistic(self, images, labels):
        optimise(self, images, labels)
        if self.step == 8:
            norm = next(m for m in self.recognizer.modules() if isinstance(m, torch.nn.BatchNorm2d))
            norm.running_var[0] = float("inf")

    monkeypatch.setattr(loop._Trainer, "_optimise", breaks_a_statistic)
    folder = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=r"a weight of run 'run' became non-finite by step 12"):
        train(tiny(keep_every_epoch=keep_every_epoch), dataset, folder, progress="none")
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 6
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
    metrics = run.metrics().set_index("step").drop(columns="images_per_second")
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
