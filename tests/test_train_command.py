"""`interproto train`: where its settings come from, its exit statuses, and how a notebook hears of its processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from toy import assert_same_run, tiny, toy_dataset

from interproto_lib import cli
from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import load_dataset, save_dataset
from interproto_lib.errors import ConfigError, RunError, TrainingStoppedError
from interproto_lib.presets import read_preset
from interproto_lib.runs import RunFolder
from interproto_lib.train_command import settings_of
from interproto_lib.training import loop, torchrun, train, train_in_processes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "dataset"
    save_dataset(toy_dataset(image_size=28), folder)
    return folder


def options(config):
    return torchrun._as_options(config)


def test_settings_come_from_a_preset_and_the_command_line():
    preset = read_preset("demo").parameters("02_train", method="interproto-sum", seed=1)
    config = settings_of(preset="demo", method="interproto-sum", seed=1)
    fields = TrainConfig().to_dict()
    assert {name: value for name, value in preset.items() if name in fields}.items() <= config.to_dict().items()
    assert config.seed == 1
    changed = settings_of(preset="demo", method="interproto-sum", seed=1, changes=["epochs=3", "warmup_epochs=1e-1"])
    assert changed.to_dict() == {**config.to_dict(), "epochs": 3, "warmup_epochs": 0.1}
    assert settings_of(changes=["inter_prototype=all"]) == TrainConfig(inter_prototype="all")


def test_every_setting_goes_through_the_command_line_unchanged():
    config = TrainConfig.preset("official", seed=7, learning_rate=1e-5, wandb=True, device="cuda:1", batch_parts=8)
    given = options(config)
    assert settings_of(changes=given[1::2]) == config
    assert set(given[::2]) == {"--set"}
    none = TrainConfig(unlabelled_as_years=None)
    assert settings_of(changes=["unlabelled_as_years=None"]) == settings_of(changes=options(none)[1::2]) == none


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"changes": ["epocs=3"]}, "did you mean 'epochs'"),
        ({"changes": ["epochs"]}, "--set epochs: write NAME=VALUE"),
        ({"changes": ["epochs=many"]}, "epochs='many': must be of type int"),
        ({"changes": ["epochs=[1"]}, r"--set epochs=\[1: cannot be read"),
        ({"changes": ["schedule=linear"]}, "must be one of 'milestones', 'cosine'"),
        ({"method": "arcface"}, "give --preset too"),
        ({"preset": "demo", "method": "arcfac", "seed": 0}, "needs a method of preset 'demo'"),
        ({"preset": "demo", "method": "arcface"}, "needs a seed"),
    ],
)
def test_wrong_settings_are_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        settings_of(**wrong)


def test_the_command_trains_as_the_library_does(dataset, tmp_path, capsys):
    config = tiny(epochs=1, seed=4)
    assert cli.main(["train", str(dataset), str(tmp_path / "a-s4"), "--progress", "lines", *options(config)]) == 0
    assert "a-s4: finished, 6 steps" in capsys.readouterr().out
    assert_same_run(
        train(config, load_dataset(dataset), tmp_path / "b-s4", progress="none"), RunFolder(tmp_path / "a-s4")
    )


def test_errors_are_one_message_and_status_2(dataset, tmp_path, capsys):
    assert cli.main(["train", str(tmp_path / "none"), str(tmp_path / "run")]) == 2
    assert (
        cli.main(["train", str(dataset), str(tmp_path / "run"), "--set", "batch_size=500", "--set", "device=cpu"]) == 2
    )
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("interproto: ") for line in said] == [True, True]
    assert "larger than the 96 training images" in said[1]


def test_sigterm_ends_it_with_a_checkpoint_and_status_143(dataset, tmp_path, capsys, monkeypatch):
    optimise = loop._Trainer._optimise

    def told_to_stop(self, batch):
        optimise(self, batch)
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    command = ["train", str(dataset), str(tmp_path / "run"), "--progress", "none", *options(tiny())]
    with monkeypatch.context() as patched:
        patched.setattr(loop._Trainer, "_optimise", told_to_stop)
        with pytest.raises(SystemExit) as end:
            cli.main(command)
    assert end.value.code == 143
    assert capsys.readouterr().err.startswith("interproto: run: stopped by SIGTERM after step 8 of 18; its checkpoint")
    assert signal.getsignal(signal.SIGTERM) is before
    assert cli.main(command) == 0
    whole = train(tiny(), load_dataset(dataset), tmp_path / "whole", progress="none")
    assert_same_run(whole, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(("processes", "said"), [(0, "at least 1"), (2, "set batch_parts=2 or a multiple")])
def test_processes_that_cannot_share_the_parts_are_not_started(dataset, tmp_path, processes, said):
    with pytest.raises(ConfigError, match=said):
        train_in_processes(tiny(), dataset, tmp_path / "run", processes=processes)


STARTED = """
import sys
print("toy: epoch 1", flush=True)
print("toy: epoch 2, and more", flush=True)
print("W1123 some warning of torchrun", file=sys.stderr)
"""


@pytest.fixture
def instead_of_torchrun(monkeypatch):
    """Has a few lines of Python run where torchrun would be started."""

    def replace(code):
        whole = subprocess.Popen
        monkeypatch.setattr(torchrun.subprocess, "Popen", lambda command, **k: whole([command[0], "-c", code], **k))

    return replace


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (
            "print('interproto: no such dataset\\n' + 'x\\n' * 999, file=sys.stderr); sys.exit(2)",
            RunError,
            "^The training ended with status 2. no such dataset$",
        ),
        (
            "print('[rank1]: ValueError: oh\\n' + 'x\\n' * 999 + 'Signal 15 (SIGTERM)', file=sys.stderr); sys.exit(1)",
            RunError,
            r"^The training ended with status 1. The last that was heard:\n\[rank1\]: ValueError: oh$",
        ),
        (
            "print('x: Signal 9 (SIGKILL) received', file=sys.stderr); sys.exit(1)",
            RunError,
            r"status 1\. A process was ended by Signal 9 \(SIGKILL\)\. The last that was heard:\nW.*\nx: .*received$",
        ),
        (
            "print('interproto: Process 0 of 2: another has ended\\n[rank1]: ValueError: oh\\n[rank0]: KeyError: no', "
            "file=sys.stderr); sys.exit(1)",
            RunError,
            r"status 1\. Process 0 of 2: another has ended The last that was heard:\n\[rank1\]: ValueError: oh$",
        ),
        ("sys.exit(3)", RunError, "status 3. The last that was heard:\nW1123 some warning of torchrun$"),
        (
            "print('interproto: a: stopped by SIGTERM after step 4', file=sys.stderr); sys.exit(1)",
            TrainingStoppedError,
            "^a: stopped by SIGTERM after step 4$",
        ),
    ],
)
def test_what_a_process_said_last_reaches_the_notebook(dataset, tmp_path, instead_of_torchrun, code, error, said):
    instead_of_torchrun(STARTED + code)
    with pytest.raises(error, match=said):
        train_in_processes(tiny(), dataset, tmp_path / "run", processes=1, progress="none")


def test_progress_is_shown_line_by_line_or_in_one_line(dataset, tmp_path, instead_of_torchrun, capsys):
    instead_of_torchrun(STARTED + "sys.exit(2)")
    shown = {"lines": "toy: epoch 1\ntoy: epoch 2, and more\n", "bar": "\rtoy: epoch 1\rtoy: epoch 2, and more\n"}
    for style, wanted in shown.items():
        with pytest.raises(RunError):
            train_in_processes(tiny(), dataset, tmp_path / "run", processes=1, progress=style)
        assert capsys.readouterr().out == wanted


def test_a_notebook_that_is_interrupted_has_the_processes_stop(
    dataset, tmp_path, instead_of_torchrun, monkeypatch, capsys
):
    said = "interproto: run: stopped by SIGTERM after step 7"
    wait = "import signal, time\n"
    wait += f"signal.signal(signal.SIGTERM, lambda *_: (print({said!r}, file=sys.stderr), sys.exit(1)))\n"
    instead_of_torchrun(STARTED + wait + "print('ready', flush=True)\ntime.sleep(60)")

    def interrupted(lines, *, over_one_another):
        for line in lines:
            if line == "ready\n":
                raise KeyboardInterrupt

    monkeypatch.setattr(torchrun, "_show", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_in_processes(tiny(), dataset, tmp_path / "run", processes=1)
    assert capsys.readouterr().out == "run: stopped by SIGTERM after step 7\n"


def test_a_process_whose_starter_is_gone_is_told_to_stop(tmp_path):
    """A process starts another and dies; the other notices, as a rank does whose torchrun or notebook was killed."""
    told = tmp_path / "told"
    code = f"""
import os, pathlib, signal, subprocess, sys, time
child = '''
import pathlib, signal, sys, time
from interproto_lib.training.torchrun import stop_without_starter
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(told)!r}).touch(), sys.exit(0)))
stop_without_starter()
print("ready", flush=True)
time.sleep(60)
'''
started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
started.stdout.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told.exists()
