"""The `interproto` command: exit codes, messages, and what it prints."""

from __future__ import annotations

import importlib.abc
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

import interproto_lib
from interproto_lib import cli
from interproto_lib.doctor import check_torch_pair
from interproto_lib.errors import BrokenEnvironmentError
from interproto_lib.presets import read_preset

REPO = Path(__file__).resolve().parents[1]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interproto_lib.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"interproto {interproto_lib.__version__}\n"


def test_help_needs_nothing_heavy():
    code = "import sys; from interproto_lib import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'pandas', 'torch', 'papermill', 'snakemake'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert shown.endswith("set()\n")
    for command in ("reproduce", "run-notebook", "preset", "html", "doctor"):
        assert command in shown


def test_an_error_is_one_message_and_exit_code_2():
    done = call("reproduce", "--preset", "dmo")
    assert done.returncode == 2
    assert done.stderr.startswith("interproto: Unknown preset 'dmo'; did you mean 'demo'?")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_wrong_usage(capsys):
    for arguments in (["reproduce", "--cores", "0"], ["doctor", "--", "--forceall"], []):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
    assert cli.main(["run-notebook", "a.ipynb", "b.ipynb", "--seed", "1"]) == 2
    assert "give --preset" in capsys.readouterr().err


def test_preset_prints_what_papermill_takes(tmp_path, capsys, write_notebook):
    assert cli.main(["preset", "demo", "02_train.ipynb", "--method", "interproto-sum", "--seed", "2"]) == 0
    text = capsys.readouterr().out
    wanted = read_preset("demo").parameters("02_train", method="interproto-sum", seed=2)
    assert yaml.safe_load(text) == wanted
    assert list(yaml.safe_load(text)) == list(wanted)

    source = write_notebook(tmp_path / "n.ipynb", "\n".join(f"{name} = None" for name in wanted), ["1"])
    (tmp_path / "flat.yaml").write_text(text)
    command = [sys.executable, "-m", "papermill", "--prepare-only", "-f", "flat.yaml", source.name, "out.ipynb"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=120)
    prepared = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert prepared.metadata.papermill.parameters == wanted


def test_run_notebook_takes_parameters_from_preset_and_command_line(tmp_path, write_notebook, capsys):
    declared = """
experiment: str = ""  # a
runs_dir: str = ""  # b
baseline: str = ""  # c
treated: list = []  # d
seeds: list = []  # e
rate: float = 0.1  # f
"""
    source = write_notebook(tmp_path / "00_start_here.ipynb", declared, ["print(experiment, runs_dir, baseline, rate)"])
    arguments = ["run-notebook", str(source), str(tmp_path / "out.ipynb"), "--preset", "tiny", "--runs-dir", "here"]
    assert cli.main([*arguments, "-p", "rate", "1e-3", "-p", "baseline", "other"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[00_start_here] started"
    assert lines[1] == "[00_start_here] tiny here other 0.001"
    assert lines[2].startswith("[00_start_here] finished in ")
    assert cli.main([*arguments, "-p", "rte", "1"]) == 2
    assert "unknown parameter 'rte'; did you mean 'rate'" in capsys.readouterr().err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_kernel_and_exits_130(tmp_path, write_notebook, sent):
    cells = ["import os, time\nprint('kernel', os.getpid(), flush=True)\ntime.sleep(100)"]
    source = write_notebook(tmp_path / "long.ipynb", "n: int = 1  # how many", cells)
    process = subprocess.Popen(
        [sys.executable, "-m", "interproto_lib.cli", "run-notebook", str(source), str(tmp_path / "out.ipynb")],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background may ignore the signal, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    kernel = next(int(line.split()[-1]) for line in process.stdout if "kernel" in line)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interproto: interrupted; the same command goes on from here.\n"
    assert not (tmp_path / "out.ipynb").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


def test_html_writes_one_page_for_each_notebook(tmp_path, write_notebook, capsys):
    names = [write_notebook(tmp_path / f"{name}.ipynb", "n: int = 1  # n", ["1"], title=f"# {name}") for name in "ab"]
    assert cli.main(["html", *map(str, names), "--output-dir", str(tmp_path / "html")]) == 0
    for name in "ab":
        assert f">{name}<" in (tmp_path / "html" / f"{name}.html").read_text(encoding="utf-8")
    assert cli.main(["html", str(tmp_path / "c.ipynb"), "--output-dir", str(tmp_path)]) == 2
    assert "There is no notebook" in capsys.readouterr().err


def test_doctor_reports_this_environment(capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Python {sys.version.split()[0]}")
    assert any(line.startswith("torch 2.") for line in lines)


class _BrokenTorchvision(importlib.abc.MetaPathFinder):
    """Importing torchvision fails as it does beside a torch of another build."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")


def test_a_pair_that_cannot_work_is_explained(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_BrokenTorchvision(), *sys.meta_path])
    with pytest.raises(BrokenEnvironmentError, match="do not work together"):
        check_torch_pair()
    assert cli.main(["doctor"]) == 2
    message = capsys.readouterr().err
    assert "torchvision::nms does not exist" in message
    assert "must come as a pair" in message
