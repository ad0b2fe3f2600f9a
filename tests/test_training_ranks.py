"""Training in parts and in several processes: against a plain loop, one process, and processes that end badly."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_ranks import forked_ranks
from safetensors.torch import save
from toy import assert_same_run, tiny, toy_dataset

from interproto_lib.analysis.embedding import load_backbone
from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import save_dataset
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.losses import MARGIN_DEFAULTS
from interproto_lib.models import build_backbone
from interproto_lib.runs import RunFolder
from interproto_lib.training import train, train_in_processes
from interproto_lib.training.batches import EpochBatches
from interproto_lib.training.processes import TIMEOUT_VARIABLE, joined_processes, step_timeout_seconds
from interproto_lib.training.prototype_file import write_prototypes

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def ranks():
    return forked_ranks()


def settings(**changes):
    """Small steps, because large ones amplify rounding."""
    usual = {"batch_size": 24, "batch_parts": 6, "epochs": 2, "log_every_steps": 1, "learning_rate": 1e-3}
    return tiny(**{**usual, "schedule": "milestones", "inter_prototype": "child", **changes})


def run_toys(ranks, n, runs, **disturbance):
    ranks.run(n, "rank_jobs:train_toys", runs={str(f): c.to_dict() for f, c in runs.items()}, **disturbance)
    return [RunFolder(Path(folder)) for folder in runs]


def heard(folder, n):
    return [json.loads(Path(f"{folder}.said-{rank}").read_text()) for rank in range(n)]


def assert_same_training(one, other, *, rtol=2e-5):
    """The same losses, and the same way of the prototypes, to float32 rounding."""
    columns = [name for name in one.metrics() if name.endswith("loss")]
    for column in [*columns, "accuracy", "learning_rate"]:
        np.testing.assert_allclose(other.metrics()[column], one.metrics()[column], rtol=rtol, atol=1e-6, err_msg=column)
    np.testing.assert_allclose(other.prototypes, one.prototypes, atol=rtol / 10)
    for wanted, found in zip(*(load_backbone(run).state_dict().values() for run in (one, other)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=rtol)


def test_a_batch_in_parts_is_the_mean_over_its_parts(tmp_path):
    """A plain loop, with formulas written out: each part normalised by itself, running statistics averaged."""
    dataset = toy_dataset(image_size=28)
    config = settings(batch_parts=3, ip_reduction="sum", ip_weight=5.0, weight_decay=1.0, epochs=1, warmup_epochs=0.0)
    run = train(config, dataset, tmp_path / "run", progress="none")

    torch.manual_seed(config.seed)
    backbone = build_backbone("tiny", embedding_dim=16, image_size=28, dropout=0.0).train()
    prototypes = torch.nn.functional.normalize(torch.empty(12, 16).uniform_(-1, 1)).requires_grad_()
    norms = [m for m in backbone.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    spared = {id(p) for m in norms for p in m.parameters()}
    parameters = [*backbone.parameters(), prototypes]
    momentum = [torch.zeros_like(p) for p in parameters]
    kwargs = {"batch_size": 24, "flip": True, "seed": config.seed, "device": torch.device("cpu")}
    losses = []
    for images, labels, _ in EpochBatches(dataset.images, np.arange(96), np.arange(96) // 8, **kwargs).epoch(0):
        x = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        before, after = [b.clone() for b in backbone.buffers()], []
        c = torch.nn.functional.normalize(prototypes)[:4]
        apart = 5.0 * ((c @ c.T) ** 2).masked_fill(torch.eye(4, dtype=torch.bool), 0).sum()
        gradients = [torch.zeros_like(p) for p in parameters]
        gradients[-1] += torch.autograd.grad(apart, prototypes)[0]
        losses.append(0.0)
        for part in (slice(0, 8), slice(8, 16), slice(16, 24)):
            with torch.no_grad():
                for buffer, old in zip(backbone.buffers(), before, strict=True):
                    buffer.copy_(old)
            f = torch.nn.functional.normalize(backbone(x[part]))
            after.append([b.double().clone() for b in backbone.buffers()])
            theta = (f @ torch.nn.functional.normalize(prototypes).T).clamp(-1 + 1e-7, 1 - 1e-7).arccos()
            own = torch.nn.functional.one_hot(labels[part], 12).bool()
            loss = torch.nn.functional.cross_entropy(32.0 * (theta + 0.3 * own).cos(), labels[part]) / 3
            losses[-1] += loss.item()
            for gradient, of_part in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
                gradient += of_part
        with torch.no_grad():
            for buffer, *of_parts in zip(backbone.buffers(), *after, strict=True):
                buffer.copy_(sum(of_parts) / 3)
            for p, g, v in zip(parameters, gradients, momentum, strict=True):
                v.mul_(0.9).add_(g + (0.0 if id(p) in spared else 1.0) * p)
                p.sub_(1e-3 * v)
    np.testing.assert_allclose(run.metrics()["margin_loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(run.prototypes, prototypes.detach().numpy(), atol=1e-5)
    found = load_backbone(run).state_dict()
    assert int(found["input_layer.1.num_batches_tracked"]) == 4
    for name, wanted in backbone.state_dict().items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=2e-5)


DIVISIONS = {
    "dense": {"dropout": 0.2},
    "all pushed apart": {"inter_prototype": "all", "ip_reduction": "sum", "ip_weight": 0.01},
    "chunks": {"softmax_chunk": 5},
    "partial FC": {"partial_fc_rate": 0.5},
    "kept epochs, odd steps between rows": {"keep_every_epoch": True, "log_every_steps": 3},
}


@pytest.fixture(scope="module")
def divided(ranks, tmp_path_factory):
    """Name -> number of processes -> the run."""
    folder = tmp_path_factory.mktemp("divided")
    found = {name: {} for name in DIVISIONS}
    for n in (1, 2, 3):
        configs = {folder / f"{name}-{n}": settings(**changes) for name, changes in DIVISIONS.items()}
        for name, run in zip(DIVISIONS, run_toys(ranks, n, configs), strict=True):
            found[name][n] = run
    return found


@pytest.mark.parametrize("name", DIVISIONS)
def test_any_number_of_processes_trains_the_same(divided, name):
    one, two, three = divided[name].values()
    assert len(one.metrics()) == -(-8 // one.config.log_every_steps)
    assert one.metrics()["loss"].iloc[-1] != one.metrics()["loss"].iloc[0]
    assert_same_training(one, two)
    assert_same_training(one, three)
    assert [run.summary["processes"] for run in (one, two, three)] == [1, 2, 3]
    for run in (two, three):
        assert run.summary["n_pushed_apart"] == one.summary["n_pushed_apart"] > 0
        assert run.environment["processes"] == run.summary["processes"]
        assert run.summary["peak_memory_bytes"] > 1e8
        assert run.classes.equals(one.classes)
        assert sorted(path.name for path in run.path.iterdir()) == sorted(path.name for path in one.path.iterdir())


def test_chunks_change_nothing(divided):
    plain = train(settings(), toy_dataset(image_size=28), divided["chunks"][1].path.parent / "plain", progress="none")
    for run in divided["chunks"].values():
        assert_same_training(plain, run)


EVERYTHING = {
    **{
        loss: {"margin_loss": loss, "scale": d.scale, "margin": d.margin, "broadface_queue": 40}
        for loss, d in MARGIN_DEFAULTS.items()
    },
    **{method: {"age_method": method, "age_weight": 0.01} for method in ("oe_cnn", "ae_cnn", "mtlface")},
    "dal": {"age_method": "dal", "dal_opponent_steps": 1, "dal_steps": 1, "age_weight": 0.1},
}


def test_every_head_and_method_trains_the_same_in_two_processes(ranks, tmp_path):
    """Four parts, so that each process makes two rounds of a step."""
    runs = {}
    for n in (1, 2):
        configs = {
            tmp_path / f"{name}-{n}": settings(batch_size=32, batch_parts=4, epochs=1, **changes)
            for name, changes in EVERYTHING.items()
        }
        runs[n] = run_toys(ranks, n, configs)
    for one, two in zip(*runs.values(), strict=True):
        assert two.is_finished, heard(two.path, 2)
        assert len(one.metrics()) == 3
        assert_same_training(one, two, rtol=1e-4)


def test_told_to_stop_in_one_process_all_stop_and_any_number_goes_on(ranks, tmp_path, divided):
    """SIGTERM to one of two processes, then to one of three; the last third in one process."""
    folder = tmp_path / "dense-s0"
    config = settings(**DIVISIONS["dense"])
    run_toys(ranks, 2, {folder: config}, disturb="terminate", at_step=1, by_rank=1)
    for said in heard(folder, 2):
        assert said["error"] == "TrainingStoppedError"
        assert "stopped by SIGTERM after step 3 of 8; its checkpoint is" in said["message"], "known one step later"
        assert "step-00000003" in said["message"]
    assert not RunFolder(folder).is_finished
    run_toys(ranks, 3, {folder: config}, disturb="terminate", at_step=5, by_rank=2)
    assert [said["error"] for said in heard(folder, 3)] == ["TrainingStoppedError"] * 3
    run = train(config, toy_dataset(image_size=28), folder, progress="none")
    assert_same_training(divided["dense"][1], run)
    assert [entry["processes"] for entry in run.environment["resumed_with"]] == [3, 1]


def test_one_process_stops_at_the_next_boundary_and_goes_on_with_the_same_bits(ranks, tmp_path, divided):
    folder = tmp_path / "dense-s0"
    config = settings(**DIVISIONS["dense"])
    run_toys(ranks, 1, {folder: config}, disturb="terminate", at_step=4)
    (said,) = heard(folder, 1)
    assert "stopped by SIGTERM after step 5 of 8" in said["message"]
    assert_same_run(divided["dense"][1], train(config, toy_dataset(image_size=28), folder, progress="none"))


def test_a_process_that_is_killed_ends_the_others_who_say_so(ranks, tmp_path, divided):
    folder = tmp_path / "dense-s0"
    config = settings(**DIVISIONS["dense"])
    runs = {str(folder): config.to_dict()}
    started = time.monotonic()
    ranks.start(3, "rank_jobs:train_toys", runs=runs, disturb="kill", at_step=5, by_rank=1)
    codes = ranks.exit_codes()
    assert time.monotonic() - started < 60
    assert codes[1] == -signal.SIGKILL
    for rank in (0, 2):
        message = json.loads(Path(f"{folder}.said-{rank}").read_text())["message"]
        assert f"Process {rank} of 3: another process of this training has ended or does not answer" in message
        assert "The same command goes on from the last checkpoint." in message
    assert_same_training(divided["dense"][1], run_toys(ranks, 2, {folder: config})[0])


def test_a_process_that_hangs_is_not_waited_for_without_end(ranks, tmp_path):
    folder = tmp_path / "run"
    run_toys(ranks, 2, {folder: settings()}, disturb="hang", at_step=3, by_rank=1, timeout="3")
    first, second = heard(folder, 2)
    assert "has ended or does not answer" in first["message"]
    assert 3 < first["after"] < second["after"]


def options_of(config):
    return [
        text for name, value in config.to_dict().items() if value is not None for text in ("--set", f"{name}={value}")
    ]


@pytest.mark.parametrize(
    ("disturb", "codes", "wanted", "unwanted"),
    [
        (
            "bug",
            [2, 1],
            (
                r"\[rank1\]: Traceback",
                r"\[rank1\]: ValueError: a bug that nobody foresaw",
                r"interproto: Process 0 of 2: another process of this training has ended",
            ),
            r"\[rank0\]: ",
        ),
        ("interrupt", [130, 130], (r"interproto: interrupted; the same command goes on from the last",), "Traceback"),
    ],
)
def test_a_process_with_a_bug_or_ctrl_c_ends_all_and_the_run_goes_on(
    ranks, tmp_path, divided, disturb, codes, wanted, unwanted
):
    """In process 1 within a step, while process 0 waits for its gradients."""
    save_dataset(toy_dataset(image_size=28), tmp_path / "dataset")
    folder, config = tmp_path / "dense-s0", settings(**DIVISIONS["dense"])
    command = ["train", str(tmp_path / "dataset"), str(folder), "--progress", "none", *options_of(config)]
    started = time.monotonic()
    ranks.start(2, "rank_jobs:run_command", arguments=command, disturb=disturb, at_step=5, by_rank=1)
    assert ranks.exit_codes() == codes, ranks.said()
    assert time.monotonic() - started < 60
    said = ranks.said()
    assert all(len(re.findall(text, said)) == 1 for text in wanted), said
    assert not re.search(unwanted, said), said
    run = train(config, toy_dataset(image_size=28), folder, progress="none")
    assert_same_training(divided["dense"][1], run)
    assert run.environment["resumed_with"][0]["step"] == 4


def test_a_file_that_the_first_process_cannot_write_is_said_in_all(ranks, tmp_path):
    """More rows than go at a time, so that the second process sends some after the first has failed."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a file").write_text("")
    ranks.run(2, "rank_jobs:write_where_there_is_no_place", folder=str(tmp_path / "run"), n_rows=140_000)
    first, second = heard(tmp_path / "run", 2)
    assert (first["error"], second["error"]) == ("WriteError", "EndedElsewhereError")
    assert "a file is a file, expected a folder" in second["message"]


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_timeout_that_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{TIMEOUT_VARIABLE}='{text}': must be a number of seconds above 0"):
        step_timeout_seconds()


def test_processes_that_torchrun_did_not_start_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is set but RANK is not"), joined_processes("cpu"):
        pass


def test_a_number_of_processes_that_does_not_divide_the_parts_is_refused(ranks, tmp_path):
    folder = tmp_path / "run"
    run_toys(ranks, 2, {folder: settings(batch_parts=3)})
    first, second = heard(folder, 2)
    assert first["error"] == "ConfigError"
    assert "batch_parts=3 cannot be spread over 2 processes: set batch_parts=2 or a multiple" in first["message"]
    assert second["error"] == "EndedElsewhereError", "only one of them is to be read"
    assert not folder.exists()


def test_what_one_process_refuses_all_refuse(ranks, tmp_path):
    """No child identities, another run in the folder, a weight that became non-finite in one process."""
    config = settings(batch_parts=2)
    run_toys(ranks, 2, {tmp_path / "scope": config}, n_children=1)
    assert [said["error"] for said in heard(tmp_path / "scope", 2)] == ["ConfigError", "EndedElsewhereError"]
    (tmp_path / "other").mkdir()
    train(settings(batch_parts=2, seed=9), toy_dataset(image_size=28), tmp_path / "other", progress="none")
    run_toys(ranks, 2, {tmp_path / "other": config})
    first, second = heard(tmp_path / "other", 2)
    assert "seed was 9, now 0" in first["message"]
    assert "Process 0 of 2:" in second["message"]
    run_toys(ranks, 2, {tmp_path / "nan": config}, disturb="spoil", at_step=5, by_rank=1)
    first, second = heard(tmp_path / "nan", 2)
    assert first["error"] == "TrainingDivergedError"
    assert "non-finite by step 6" in first["message"]
    assert "step-00000004" in first["message"]
    assert second["error"] == "EndedElsewhereError"


def test_processes_with_other_settings_are_refused(ranks, tmp_path):
    config = settings(batch_parts=3)
    ranks.run(3, "rank_jobs:train_each_its_own", folder=str(tmp_path / "run"), settings=config.to_dict())
    said = heard(tmp_path / "run", 3)
    assert [entry["error"] for entry in said] == ["EndedElsewhereError", "RunError", "EndedElsewhereError"]
    assert "Process 1 of 3 was started with other settings or data than process 0" in said[1]["message"]


def test_each_process_takes_its_share_of_a_batch():
    dataset = toy_dataset(image_size=28)
    kwargs = {"batch_size": 24, "flip": True, "seed": 3, "device": torch.device("cpu")}
    rows, labels = np.arange(96), np.arange(96) // 8
    whole = list(EpochBatches(dataset.images, rows, labels, **kwargs).epoch(1, first_step=1))
    shares = [
        list(EpochBatches(dataset.images, rows, labels, share=(k, 3), sharers=3, **kwargs).epoch(1, first_step=1))
        for k in range(3)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        for values, *of_parts in zip(batch, *parts, strict=True):
            torch.testing.assert_close(torch.cat(of_parts), values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(3, 2), (12, 16), (1, 5)])
def test_the_file_of_prototypes_is_that_of_safetensors(tmp_path, shape):
    rows = torch.randn(shape)
    write_prototypes(tmp_path / "prototypes.safetensors", rows, n=len(rows))
    assert (tmp_path / "prototypes.safetensors").read_bytes() == save({"prototypes": rows})


# --- torchrun -------------------------------------------------------------------------------------


def torchrun(dataset, folder, options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "interproto_lib.cli", "train", str(dataset), str(folder), "--progress", "lines", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPO, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def wait_for_rows(folder, n, job):
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and job.poll() is None:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.01)
    raise AssertionError(job.communicate()[0])


def children_of(process):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = status.read_text().partition(" (")
            if int(rest.rpartition(") ")[2].split()[1]) == process:
                found.append(int(number))
    return sorted(found)


@pytest.mark.slow
def test_torchrun_told_to_stop_then_with_a_process_killed_then_from_a_notebook(tmp_path, capsys):
    dataset = toy_dataset(image_size=28)
    save_dataset(dataset, tmp_path / "dataset")
    config = settings(batch_parts=2, epochs=60)
    names = ("batch_parts", "epochs", "batch_size", "learning_rate", "backbone", "embedding_dim", "min_child_images")
    names += ("threads", "log_every_steps", "device", "precision", "schedule", "inter_prototype")
    options = [text for name in names for text in ("--set", f"{name}={getattr(config, name)}")]
    folder = tmp_path / "toy-s0"

    job = torchrun(tmp_path / "dataset", folder, options)
    wait_for_rows(folder, 30, job)
    job.terminate()
    said = job.communicate(timeout=60)[0]
    assert job.returncode != 0
    assert "toy-s0: epoch " in said
    assert said.count("interproto: toy-s0: stopped by SIGTERM after step") == 1, said
    assert not (folder / "summary.json").exists()

    rows = len((folder / "metrics.jsonl").read_text().splitlines())
    job = torchrun(tmp_path / "dataset", folder, options)
    wait_for_rows(folder, rows + 30, job)
    killed = time.monotonic()
    os.kill(children_of(job.pid)[-1], signal.SIGKILL)
    said = job.communicate(timeout=60)[0]
    assert time.monotonic() - killed < 60
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in said
    assert not (folder / "summary.json").exists()

    no_child = TrainConfig.from_dict({**config.to_dict(), "min_child_images": 9})
    with pytest.raises(RunError, match=r"^The training ended with status 1\. inter_prototype='child' needs two child"):
        train_in_processes(no_child, tmp_path / "dataset", tmp_path / "none-s0", processes=2, progress="none")
    run = train_in_processes(config, tmp_path / "dataset", folder, processes=2, progress="lines")
    assert "toy-s0: finished, 240 steps in" in capsys.readouterr().out
    assert run.summary["processes"] == 2
    whole = train(config, dataset, tmp_path / "whole-s0", progress="none")
    np.testing.assert_allclose(run.metrics()["loss"][:40], whole.metrics()["loss"][:40], rtol=1e-3)
    np.testing.assert_allclose(run.prototypes, whole.prototypes, atol=1e-2)


INTERRUPTED = """
import json, signal, sys
from interproto_lib.config import TrainConfig
from interproto_lib.training import train_in_processes
signal.signal(signal.SIGINT, signal.default_int_handler)
config = TrainConfig.from_dict(json.loads(sys.argv[3]))
train_in_processes(config, sys.argv[1], sys.argv[2], processes=2, progress="lines")
"""


@pytest.mark.slow
def test_a_notebook_interrupted_within_a_step_leaves_a_checkpoint_and_no_process(tmp_path):
    """Then a bug in one process, under torchrun: its traceback is heard, and nothing is left running either."""
    save_dataset(toy_dataset(image_size=28), tmp_path / "dataset")
    folder, config = tmp_path / "toy-s0", settings(batch_parts=2, epochs=60)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "dataset"), str(folder), json.dumps(config.to_dict())]
    job = subprocess.Popen(command, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipe)
    wait_for_rows(folder, 10, job)
    running = all_children_of(job.pid)
    assert len(running) >= 3, "torchrun and two processes"
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=60)[0]
    step = int(re.search(r"^toy-s0: stopped by SIGTERM after step (\d+) of 240", said, flags=re.M)[1])
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert (folder / "checkpoints" / f"step-{step:08d}").is_dir()
    assert not [process for process in running if Path(f"/proc/{process}").exists()]

    buggy = tmp_path / "buggy-s0"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "rank_jobs",
    ]
    command += ["train", str(tmp_path / "dataset"), str(buggy), "--progress", "none", *options_of(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    job = subprocess.Popen(command, cwd=REPO / "tests", env=environment, **pipe)
    said = job.communicate(timeout=110)[0]
    assert job.returncode == 1
    assert "[rank1]: ValueError: a bug that nobody foresaw" in said
    assert not re.search(r"Signal \d+ \(SIG(ABRT|SEGV|KILL)\)", said), said
    assert train(config, toy_dataset(image_size=28), buggy, progress="none").is_finished


def all_children_of(process):
    """Numbers of the processes that a process has started, and of those that they have."""
    own = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [number for child in own for number in (int(child), *all_children_of(int(child)))]
