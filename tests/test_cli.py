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
from intake_sources import N_CASIA, casia, jpeg, put, verification_bin
from PIL import Image
from toy import tiny, toy_dataset

import interproto_lib
from interproto_lib import cli
from interproto_lib.analysis.embedding import load_backbone
from interproto_lib.data.datasets import load_dataset, save_dataset
from interproto_lib.data.test_set_files import read_test_set
from interproto_lib.doctor import check_torch_pair
from interproto_lib.errors import BrokenEnvironmentError
from interproto_lib.models import build_backbone, export_safetensors
from interproto_lib.presets import read_preset
from interproto_lib.training import train

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
    for command in ("reproduce", "run-notebook", "preset", "html", "doctor", "prepare", "check", "export"):
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


# --- datasets --------------------------------------------------------------------------------------------------------


def test_prepare_and_check_say_what_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERPROTO_PROGRESS", "lines")
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    arguments = ["prepare", "casia_webface", tmp_path / "source", tmp_path / "out", "--ages", tmp_path / "ages.txt"]
    assert cli.main([*map(str, arguments)]) == 0
    text = capsys.readouterr().out
    before, progress, report = text.partition(f"casia_webface: preparing: {N_CASIA} of {N_CASIA} images")
    assert progress
    assert f"holds {N_CASIA} images as identity_folders" in before
    assert "25 of 26 images (96.2 %) have an age" in before
    assert "identities: 4, the card says 10,572: 10,568 fewer." in report
    assert "Rejected: none." in report

    assert cli.main(["check", str(tmp_path / "out"), "--source", str(tmp_path / "source")]) == 0
    text = capsys.readouterr().out
    assert "out: checking: " in text
    assert "is as it was written" in text
    assert "has not changed since" in text
    for command in ([*map(str, arguments)], ["check", str(tmp_path / "out")]):
        assert cli.main([*command, "--strict"]) == 2
        told = capsys.readouterr()
        assert "identities: 4, the card says" in told.out
        assert "which --strict refuses" in told.err

    (tmp_path / "out" / "images.npy").write_bytes(b"x")
    assert cli.main(["check", str(tmp_path / "out")]) == 2
    assert "images.npy" in capsys.readouterr().err


def test_prepare_refuses_and_drops_images(tmp_path, capsys):
    casia(tmp_path / "source")
    put(tmp_path / "source", "000000/00000003.jpg", b"x")
    arguments = ["prepare", "casia_webface", str(tmp_path / "source"), str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "000000/00000003.jpg: not an image" in error
    assert f"All are listed with their reasons in {tmp_path / 'out' / 'rejected.csv'}" in error
    assert cli.main([*arguments, "--on-rejected", "drop"]) == 0
    assert "Rejected: 1 image, listed in" in capsys.readouterr().out


def test_what_cannot_be_aligned_is_drawn(tmp_path, capsys):
    names = [f"{person}/{number}.png" for person in "ab" for number in range(3)]
    for seed, name in enumerate(names):
        put(tmp_path / "source", name, jpeg(seed, size=(150, 140), encoding="PNG"))
    put(tmp_path / "source", "b/2.png", b"x")
    points = "60 70 95 70 78 90 63 110 93 110"
    (tmp_path / "points.txt").write_text("".join(f"{name} {points}\n" for name in names[1:]))
    arguments = ["prepare", "identity_folder", str(tmp_path / "source"), str(tmp_path / "out")]
    arguments += ["--landmarks", str(tmp_path / "points.txt"), "--heldout-share", "0", "--validation-share", "0"]
    sheet = tmp_path / "out" / "rejected.png"
    assert cli.main(arguments) == 2
    assert "Some are shown" not in capsys.readouterr().err
    assert not sheet.exists(), "real people's faces are drawn only where that is asked for"
    arguments.append("--contact-sheet")
    assert cli.main(arguments) == 2
    assert f"Some are shown in {sheet}." in capsys.readouterr().err
    sheet.unlink()
    assert cli.main([*arguments, "--on-rejected", "drop"]) == 0
    told = capsys.readouterr().out
    assert "a/0.png: not in the landmark file" in told
    assert "b/2.png: not an image" in told
    assert f"Some are shown in {sheet}." in told
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_how_faces_are_chosen_is_checked(tmp_path, capsys):
    put(tmp_path / "source", "a/0.png", jpeg(0, encoding="PNG"))
    (tmp_path / "points.txt").write_text("a/0.png 60 70 95 70 78 90 63 110 93 110\n")
    arguments = ["prepare", "identity_folder", str(tmp_path / "source"), str(tmp_path / "out")]
    arguments += ["--landmarks", str(tmp_path / "points.txt"), "--heldout-share", "0", "--validation-share", "0"]
    assert cli.main([*arguments, "--choose-face", "prettiest"]) == 2
    assert "central" in capsys.readouterr().err


def test_a_single_notebook_takes_the_folder_of_runs(tmp_path, write_notebook):
    source = write_notebook(tmp_path / "probe.ipynb", 'runs_dir: str = "runs"  # folder', ["print(runs_dir)"])
    output = tmp_path / "out.ipynb"
    assert cli.main(["run-notebook", str(source), str(output), "--runs-dir", str(tmp_path / "elsewhere")]) == 0
    assert str(tmp_path / "elsewhere") in output.read_text()


def test_a_verification_file_is_checked_and_named(tmp_path, capsys):
    verification_bin(tmp_path / "lfw.bin")
    before = sorted(tmp_path.iterdir())
    assert cli.main(["prepare", "lfw", str(tmp_path / "lfw.bin")]) == 0
    text = capsys.readouterr().out
    assert "pairs: 6, the card says 6,000" in text
    section = yaml.safe_load("\n".join(text.splitlines()[-3:]))
    specification = section["verification"]["test_sets"]["LFW"]
    assert specification.pop("validation") == "any"
    assert len(read_test_set("LFW", specification, image_size=112).pairs) == 6
    assert sorted(tmp_path.iterdir()) == before
    assert cli.main(["prepare", "lfw", str(tmp_path / "lfw.bin"), "--strict"]) == 2
    assert cli.main(["prepare", "lfw", str(tmp_path / "lfw.bin"), "--ages", "a.csv"]) == 2
    assert "leave out --ages" in capsys.readouterr().err
    assert cli.main(["prepare", "lfw", str(tmp_path / "none.bin")]) == 2
    assert cli.main(["prepare", "lag", str(tmp_path)]) == 2
    assert "Say where to make the dataset folder" in capsys.readouterr().err


# --- networks --------------------------------------------------------------------------------------------------------


def test_a_network_goes_in_as_a_run_and_out_as_files(tmp_path, capsys, monkeypatch):
    import torch
    from safetensors.torch import load_file

    monkeypatch.setenv("INTERPROTO_PROGRESS", "none")
    torch.manual_seed(3)
    network = build_backbone("tiny", embedding_dim=16, image_size=56, dropout=None).eval()
    export_safetensors(network, tmp_path / "network.safetensors")
    save_dataset(toy_dataset(n_heldout=4, n_validation=4), tmp_path / "faces")
    arguments = ["import-checkpoint", "network.safetensors", "--experiment", "e", "--run", "theirs-s0"]
    arguments += ["--runs-dir", str(tmp_path / "runs")]
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert f"There is no dataset in {tmp_path / 'runs' / 'e'} yet" in capsys.readouterr().err
    assert cli.main([*arguments, "--dataset", "faces"]) == 0
    text = capsys.readouterr().out
    assert "theirs-s0 is a finished run: tiny from network.safetensors (interproto, trained on RGB)" in text
    assert "prototypes: means of the training images" in text
    assert "-p experiment e -p baseline theirs" in text
    linked = tmp_path / "runs" / "e" / "dataset"
    assert (linked / "images.npy").samefile(tmp_path / "faces" / "images.npy")
    assert len(load_dataset(linked)) == len(load_dataset(tmp_path / "faces"))
    assert cli.main(arguments) == 0, "the experiment has its dataset now"
    assert cli.main([*arguments, "--dataset", str(linked)]) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "--dataset", "faces", "--run", "../theirs"]) == 2
    capsys.readouterr()

    run = str(tmp_path / "runs" / "e" / "theirs-s0")
    assert cli.main(["export", run, "out/network.safetensors"]) == 0
    assert "takes RGB images of 56 x 56 pixels" in capsys.readouterr().out
    written = load_file("out/network.safetensors")
    assert written.keys() == network.state_dict().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in network.state_dict().items())
    assert cli.main(["export", run, "network.pt"]) == 2
    assert "ends in .pt; choose .onnx or .safetensors" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "nowhere"), "network.onnx"]) == 2


def test_an_epoch_is_exported_as_onnx(tmp_path, capsys, monkeypatch):
    """That the ONNX file computes the same is tested where it is written; here, which network is."""
    given = []
    monkeypatch.setattr(
        "interproto_lib.models.export_onnx", lambda network, file: given.append((network, file)) or file
    )
    run = train(tiny(epochs=2), toy_dataset(), tmp_path / "run-s0")
    assert cli.main(["export", str(run.path), "network.ONNX", "--epoch", "1"]) == 0
    said = capsys.readouterr().out.splitlines()  # the training speaks before
    assert said[-1].startswith("network.ONNX: takes RGB images of 56 x 56 pixels")
    ((network, file),) = given
    assert file == Path("network.ONNX")
    first, last = load_backbone(run, epoch=1).state_dict(), load_backbone(run).state_dict()
    assert all(network.state_dict()[name].equal(tensor) for name, tensor in first.items())
    assert any(not first[name].equal(tensor) for name, tensor in last.items())


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
