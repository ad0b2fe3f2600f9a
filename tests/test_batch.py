"""Presets, one notebook in batch, and the whole graph with small notebooks in place of the real ones."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import yaml
from fake_graph import PRESET, write_fake_notebooks

from interproto_lib.batch import (
    NOTEBOOKS_DIR,
    check_parameters,
    notebook_parameters,
    parse_parameter,
    reproduce,
    run_notebook,
)
from interproto_lib.config import EVALUATION_PRESETS, PAPER_SEEDS, TRAINING_PRESETS, EvaluationConfig
from interproto_lib.errors import ConfigError, NotebookError, RunError, WriteError
from interproto_lib.presets import AGEING_NOTEBOOK, ANALYSIS_NOTEBOOKS, NOTEBOOK_SECTIONS, list_presets, read_preset

REPO = Path(__file__).resolve().parents[1]
PARAMETERS = """from typing import Optional
n: int = 3  # how many
rate: float = 0.1  # learning rate
name: str = "a"  # a name
flag: bool = False  # a switch
ages: list = []  # ages in years
limit: Optional[int] = None  # at most
free = 1  # no type
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, write_notebook) -> Path:
    cells = [
        'import os\nfrom pathlib import Path\nprint("step 1", flush=True)\nprint("half a line", end="")',
        'print("\\rbar 50%\\rbar 100%")\nprint(n, rate, Path.cwd(), os.environ["INTERPROTO_PROGRESS"])',
    ]
    return write_notebook(tmp_path_factory.mktemp("notebooks") / "small.ipynb", PARAMETERS, cells)


# --- presets -----------------------------------------------------------------------------------------


def write_preset(tmp_path: Path, **changes: object) -> Path:
    content = yaml.safe_load(PRESET)
    content.update(changes)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not ...}))
    return path


def test_preset_gives_flat_parameters(tmp_path):
    preset = read_preset(write_preset(tmp_path, seeds=[4, 7], train={"epochs": 3, "inter_prototype": "all"}))
    assert preset.name == "mine"
    assert preset.runs == {
        "arcface-s4": ("arcface", 4),
        "interproto-s4": ("interproto", 4),
        "arcface-s7": ("arcface", 7),
        "interproto-s7": ("interproto", 7),
    }
    assert preset.parameters("02_train", method="interproto", seed=7, runs_dir="elsewhere") == {
        "experiment": "fake",
        "runs_dir": "elsewhere",
        "run": "interproto-s7",
        "epochs": 3,
        "inter_prototype": "child",
        "seed": 7,
    }
    assert preset.parameters("03_similarity") == {
        "experiment": "fake",
        "runs_dir": "runs",
        "baseline": "arcface",
        "treated": ["interproto"],
        "seeds": [4, 7],
    }


def test_a_seed_of_an_analysis_is_its_own(tmp_path):
    preset = read_preset(write_preset(tmp_path, projection={"seed": 1}))
    assert preset.parameters("04_prototype_projection")["seed"] == 1


def test_preset_without_a_section_leaves_the_notebook_its_defaults(tmp_path):
    preset = read_preset(write_preset(tmp_path, dataset=..., projection=..., story=None))
    assert preset.parameters("01_datasets_and_ages") == {"experiment": "fake", "runs_dir": "runs"}
    compared = {"baseline": "arcface", "treated": ["interproto"], "seeds": [0]}
    for notebook in ("04_prototype_projection", "00_start_here"):
        assert preset.parameters(notebook) == {"experiment": "fake", "runs_dir": "runs", **compared}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ...}, "'methods' is missing or empty"),
        ({"experiment": "a/b"}, "experiment='a/b'"),
        ({"trian": {}}, "unknown section 'trian'; did you mean 'train'"),
        ({"seeds": [0, 0]}, "names a seed twice"),
        ({"seeds": [True]}, "whole numbers"),
        ({"seeds": 3}, "whole numbers"),
        ({"train": {"seed": 1}}, "'seed' is set by the batch graph"),
        ({"dataset": {"experiment": "x"}}, "'experiment' is set by the batch graph"),
        ({"train": {"learning_rate": "1e-3"}}, "YAML reads 1e-3 as text"),
        ({"similarity": {"thresholds": [0.1, "3e-1"]}}, "thresholds: YAML reads 3e-1 as text"),
        ({"train": {"epochs": 0}}, "method 'arcface': epochs=0"),
        ({"train": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"methods": {"arcface": {"margin_loss": "arcfase"}}}, "arcfase"),
        ({"train": {"epoch_choice": "best"}}, "epoch_choice='best'"),
        ({"methods": {"arc face": {}}}, "method 'arc face'"),
        ({"methods": ["arcface"]}, "methods must hold `name: value` lines, found list"),
        ({"similarity": {"treated": ["interprot"]}}, "similarity.treated names 'interprot'"),
        ({"story": {"baseline": "arc"}}, "story.baseline names 'arc'"),
    ],
)
def test_wrong_preset_is_refused(tmp_path, changes, message):
    if "methods" in changes and isinstance(changes["methods"], dict):
        changes = {"similarity": {}, "projection": {}, "story": {}, **changes}
    path = write_preset(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        read_preset(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_preset_with_a_key_twice_or_broken_yaml_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET + "seeds: [1]\n")
    with pytest.raises(ConfigError, match=r"'seeds' stands twice(.|\n)*line"):
        read_preset(path)
    path.write_text("experiment: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_preset(path)
    path.write_text("")
    with pytest.raises(ConfigError, match="must hold"):
        read_preset(path)


def test_unknown_preset_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError) as error:
        read_preset("dmo")
    assert "did you mean 'demo'" in str(error.value)
    assert all(name in str(error.value) for name in ("tiny", "demo", "att_faces", "paper", "official"))
    with pytest.raises(ConfigError, match="There is no preset file"):
        read_preset(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"must end in \.yaml"):
        read_preset("some/folder")


def test_parameters_asks_for_what_belongs_to_the_notebook(tmp_path):
    preset = read_preset(write_preset(tmp_path))
    with pytest.raises(ConfigError, match="did you mean '03_similarity'"):
        preset.parameters("03_similarty")
    with pytest.raises(ConfigError, match="needs a method of preset 'mine', got 'cosface'"):
        preset.parameters("02_train", method="cosface", seed=0)
    with pytest.raises(ConfigError, match="needs a seed"):
        preset.parameters("02_train", method="arcface")
    with pytest.raises(ConfigError, match="belong to 02_train only"):
        preset.parameters("03_similarity", seed=0)


@pytest.mark.parametrize("name", list_presets())
def test_the_projects_presets_fit_the_notebooks(name):
    preset = read_preset(name)
    assert preset.experiment == name
    assert preset.description
    for notebook, section in NOTEBOOK_SECTIONS.items():
        if notebook == AGEING_NOTEBOOK and not preset.sections[section]:
            continue
        path = NOTEBOOKS_DIR / f"{notebook}.ipynb"
        for method in [*preset.methods, *preset.ablation_methods] if notebook == "02_train" else [None]:
            seed = preset.seeds[0] if method else None
            check_parameters(path, preset.parameters(notebook, method=method, seed=seed))


@pytest.mark.parametrize("name", ["paper", "official"])
def test_the_published_presets_are_the_librarys(name):
    preset = read_preset(name)
    assert preset.seeds == PAPER_SEEDS
    given = {**preset.sections["train"], **preset.methods["interproto"]}
    evaluation = {key: given.pop(key) for key in asdict(EvaluationConfig()) if key in given}
    assert given == {key: list(v) if isinstance(v, tuple) else v for key, v in TRAINING_PRESETS[name].items()}
    assert EvaluationConfig(**evaluation) == EVALUATION_PRESETS[name]


@pytest.mark.parametrize("name", list_presets())
def test_child_identities_are_counted_by_one_rule(name):
    sections = read_preset(name).sections
    assert sections["dataset"].get("min_child_images") == sections["train"].get("min_child_images")


# --- one notebook ------------------------------------------------------------------------------------


def test_notebook_parameters(notebook):
    read = notebook_parameters(notebook)
    assert list(read) == ["n", "rate", "name", "flag", "ages", "limit", "free"]
    assert read["limit"]["inferred_type_name"] == "Optional[int]"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nn": 1}, "unknown parameter 'nn'; did you mean 'n'"),
        ({"quite_other": 1}, "unknown parameter 'quite_other'. Its parameters: n, rate"),
        ({"n": "3"}, "n='3' is of type str, declared as int"),
        ({"n": 3.0}, "n=3.0 is of type float"),
        ({"n": True}, "n=True is of type bool"),
        ({"rate": "1e-3"}, "write 1.0e-3"),
        ({"flag": "false"}, "flag='false' is of type str, declared as bool"),
        ({"flag": 0}, "flag=0 is of type int"),
        ({"ages": "[1, 2]"}, "declared as list"),
        ({"limit": "3"}, "declared as Optional[int]"),
        ({"name": None}, "name=None is of type NoneType"),
        ({"nn": 1, "flag": 0}, "unknown parameter 'nn'; did you mean 'n'?; flag=0"),
    ],
)
def test_wrong_parameters_are_refused(notebook, parameters, message):
    with pytest.raises(ConfigError) as error:
        check_parameters(notebook, parameters)
    assert message in str(error.value)


def test_right_parameters_pass(notebook):
    check_parameters(
        notebook, {"n": 4, "rate": 1, "name": "b", "flag": True, "ages": [1.5], "limit": None, "free": "any"}
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "12", 12),
        ("rate", "1e-3", 1e-3),
        ("name", "1e-3", "1e-3"),
        ("name", "true", "true"),
        ("flag", "True", True),
        ("flag", "false", False),
        ("ages", "[1, 2.5]", [1, 2.5]),
        ("limit", "7", 7),
        ("limit", "null", None),
        ("free", "[1]", [1]),
    ],
)
def test_parse_parameter(notebook, name, text, value):
    parsed = parse_parameter(notebook, name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("name", "text"), [("n", "1.5"), ("rate", "fast"), ("flag", "1"), ("ages", "3"), ("nn", "1")])
def test_parse_parameter_refuses(notebook, name, text):
    with pytest.raises(ConfigError, match=name):
        parse_parameter(notebook, name, text)


def test_what_is_no_notebook_is_refused(tmp_path, write_notebook):
    with pytest.raises(ConfigError, match="There is no notebook"):
        notebook_parameters(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(ConfigError, match="is not a notebook"):
        notebook_parameters(tmp_path / "text.ipynb")
    plain = write_notebook(tmp_path / "plain.ipynb", None, ["1"])
    with pytest.raises(ConfigError, match="no cell tagged 'parameters'"):
        run_notebook(plain, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_run_notebook_streams_lines_and_leaves_one_copy(notebook, tmp_path):
    output = tmp_path / "new" / "folder" / "out.ipynb"
    output.parent.mkdir(parents=True)
    (output.parent / "out.failed.ipynb").write_text("of an earlier call")
    stream = io.StringIO()
    before = dict(os.environ)
    assert run_notebook(notebook, output, {"n": 5, "rate": 2}, label="run-s0", stream=stream) == output
    assert os.environ == before
    assert stream.getvalue().splitlines() == [
        "[run-s0] step 1",
        "[run-s0] half a line",
        "[run-s0] bar 50%",
        "[run-s0] bar 100%",
        f"[run-s0] 5 2 {REPO} lines",
    ]
    assert [path.name for path in output.parent.iterdir()] == ["out.ipynb"]
    executed = nbformat.read(output, as_version=4)
    assert executed.metadata.papermill.parameters == {"n": 5, "rate": 2}
    assert executed.metadata.papermill.output_path == str(output)


def test_failed_notebook_names_the_cell_and_keeps_its_copy(tmp_path, write_notebook):
    cells = ["print('fine')", "\n\nvalue = {}['no such key']\nprint(value)", "print('never')"]
    source = write_notebook(tmp_path / "bad.ipynb", "n: int = 1  # how many", cells)
    output = tmp_path / "out.ipynb"
    with pytest.raises(NotebookError) as error:
        run_notebook(source, output, {"n": 2}, stream=io.StringIO())
    message = str(error.value)
    failed = tmp_path / "out.failed.ipynb"
    # Cells of the source: title, parameters, then three code cells.
    assert "bad.ipynb failed in cell 4 of 5 (`value = {}['no such key']`):\nKeyError: 'no such key'" in message
    assert str(failed) in message
    assert not output.exists()
    assert not (tmp_path / "out.partial.ipynb").exists()
    outputs = [output for cell in nbformat.read(failed, as_version=4).cells for output in cell.get("outputs", [])]
    assert [output.get("ename") for output in outputs] == [None, "KeyError"]


def test_dead_kernel_is_a_failure_with_a_copy(tmp_path, write_notebook):
    source = write_notebook(tmp_path / "dead.ipynb", "n: int = 1  # how many", ["import os\nos._exit(1)", "1"])
    with pytest.raises(NotebookError, match=r"failed in cell 3 of 4 \(`import os`\):\nDeadKernelError"):
        run_notebook(source, tmp_path / "out.ipynb", stream=io.StringIO())
    assert (tmp_path / "out.failed.ipynb").is_file()
    assert not (tmp_path / "out.ipynb").exists()


def test_output_that_cannot_be_written(notebook, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="Cannot write"):
        run_notebook(notebook, tmp_path / "file" / "out.ipynb")
    with pytest.raises(ConfigError, match=r"must end in \.ipynb"):
        run_notebook(notebook, tmp_path / "out.html")


# --- the graph ---------------------------------------------------------------------------------------


class Graph:
    """One experiment of the small notebooks, run by the command in a process of its own."""

    def __init__(self, folder: Path, write_notebook) -> None:
        self.folder = folder
        self.preset = folder / "fake.yaml"
        self.notebooks = write_fake_notebooks(folder / "notebooks", write_notebook)
        self.experiment = folder / "runs" / "fake"
        self.experiment.mkdir(parents=True)
        self.set_preset()

    def set_preset(self, **changes: object) -> None:
        self.preset.write_text(yaml.safe_dump({**yaml.safe_load(PRESET), **changes}))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "interproto_lib.cli", "reproduce", "--preset", str(self.preset)]
        command += ["--runs-dir", str(self.folder / "runs"), "--notebooks-dir", str(self.folder / "notebooks")]
        environment = {**os.environ, "PYTHONPATH": str(REPO), "INTERPROTO_TEST": str(self.folder)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, *arguments], cwd=REPO, env=environment, start_new_session=True, **pipes)

    def call(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def log(self) -> list[str]:
        path = self.experiment / "log.txt"
        return path.read_text().splitlines() if path.exists() else []


def wait_until(condition, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


@pytest.mark.slow
def test_the_graph_from_a_kill_to_the_report(tmp_path, write_notebook):
    graph = Graph(tmp_path, write_notebook)
    at_top = set(REPO.iterdir())

    # A failing cell stops it, with a message and no stack trace.
    (graph.experiment / "fail").touch()
    code, out, err = graph.call()
    assert code == 2
    assert "02_train.ipynb failed in cell 4 of 6" in err
    assert "ValueError: the file fail is here" in err
    assert "Traceback" not in out + err
    failed = sorted(path.name for path in graph.experiment.glob("notebooks/*.failed.ipynb"))
    assert failed
    assert all(name in err for name in failed)
    (graph.experiment / "fail").unlink()

    # Killed while it trains.
    (graph.experiment / "seconds").write_text("2")
    process = graph.start()
    wait_until(lambda: list(graph.experiment.glob("*/epoch.txt")), "the first epoch")
    assert running_under(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert graph.log() == ["01_datasets_and_ages"]
    assert not list(graph.experiment.glob("notebooks/02_train.*-s0.ipynb"))

    # Started again at once, it goes on: the dataset is not made again, a training starts where it was, after what the
    # kill left behind has ended.
    code, out, err = graph.call()
    assert code == 0, out + err
    assert "interproto: " not in err  # a kernel that ends may complain of its own closed sockets
    wait_until(lambda: not running_under(tmp_path), "the notebooks' processes to end", seconds=30)
    assert graph.log()[0] == "01_datasets_and_ages"
    starts = dict(line.removeprefix("02_train ").split(" from ") for line in graph.log()[1:3])
    assert set(starts) == {"arcface-s0", "interproto-s0"}
    assert max(int(start) for start in starts.values()) >= 1
    assert sorted(graph.log()[3:-1]) == sorted([*ANALYSIS_NOTEBOOKS, "00_start_here"])
    assert graph.log()[-1] == "09_report", "it binds what all others found"
    assert not list(graph.experiment.glob("notebooks/*.failed.ipynb"))

    # Progress names the run, and the end says where the report is.
    lines = out.splitlines()
    assert "[arcface-s0] started" in lines
    assert "[arcface-s0] epoch 3/3" in lines
    report = graph.experiment / "report.html"
    assert lines[-1] == f"Report: {report}"
    assert report.read_text(encoding="utf-8") == "the report"

    # A second call does nothing; after a change in one section its notebook would run, and the report that binds it.
    # The Snakefile is always the project's own, not the one that Snakemake remembers of an earlier call.
    done = graph.log()
    remembered = [path for path in graph.experiment.glob(".snakemake/source-cache/**/*") if path.is_file()]
    assert remembered
    for path in remembered:
        path.write_text("this is no Snakefile")
    code, out, err = graph.call()
    assert (code, out, err) == (0, f"Report: {report}\n", "")
    graph.set_preset(train={"epochs": 3, "processes": 1})  # decides no result
    assert graph.call() == (0, f"Report: {report}\n", "")
    assert graph.log() == done
    graph.set_preset(projection={"baseline": "interproto"})
    code, out, err = graph.call("--dry-run")
    assert code == 0
    outputs = re.findall(r"output: .*/(\w+)\.ipynb(?:,|$)", out, flags=re.M)
    assert outputs == ["04_prototype_projection", "09_report"]
    assert graph.log() == done

    # Sweeps train what is not there yet; only the notebook of ablations reads it, and the report binds that anew.
    sweeps = {"scope": {"interproto": None, "all": {"inter_prototype": "all"}}}
    graph.set_preset(ablations={"sweeps": sweeps})
    code, out, err = graph.call()
    assert code == 0, out + err
    assert graph.log()[len(done) :] == ["02_train all-s0 from 0", "07_ablations", "09_report"]
    assert set(REPO.iterdir()) - at_top == set()


def dry_run(tmp_path, write_notebook, capfd, *arguments, cores=2, **train) -> dict[str, str]:
    """Rule -> what Snakemake says that it would run of it, with the fake notebooks."""
    notebooks = write_fake_notebooks(tmp_path / "notebooks", write_notebook)
    preset = write_preset(tmp_path, train={"epochs": 3, **train}, methods={"arcface": {"inter_prototype": "none"}})
    places = {"runs_dir": tmp_path / "runs", "notebooks_dir": notebooks, "snakemake_arguments": arguments}
    capfd.readouterr()
    reproduce(preset, dry_run=True, cores=cores, **places)
    texts = re.split(r"^(?:local)?rule ", capfd.readouterr().out, flags=re.M)[1:]
    return {text.partition(":")[0]: text for text in texts}


@pytest.mark.parametrize(("cores", "threads"), [(1, None), (2, 2), (8, 2)])
def test_a_training_counts_as_the_cores_of_its_processes(tmp_path, write_notebook, capfd, cores, threads):
    """Snakemake says no number where it is 1, which is all there is with one core."""
    plans = dry_run(tmp_path, write_notebook, capfd, cores=cores, processes=2, batch_parts=4)
    found = {rule: re.search(r"^ +threads: (\d+)$", text, flags=re.M) for rule, text in plans.items()}
    assert (found["training"] and int(found["training"][1])) == threads
    assert found["analysis"] is None
    assert "gpu=2" in plans["training"]
    assert "gpu=" not in plans["analysis"]


def test_a_training_of_one_process_asks_for_nothing_more(tmp_path, write_notebook, capfd):
    plan = dry_run(tmp_path, write_notebook, capfd)["training"]
    assert "threads:" not in plan
    assert "gpu=" not in plan


@pytest.mark.parametrize(
    ("gpus", "train", "arguments", "limit"),
    [
        (True, {"processes": 2, "batch_parts": 2}, [], ["gpu=2"]),
        (True, {"processes": 2, "batch_parts": 2, "device": "cpu"}, [], []),
        (True, {}, [], []),
        (False, {"processes": 2, "batch_parts": 2}, [], []),
        (True, {"processes": 2, "batch_parts": 2}, ["--executor", "slurm"], []),
        (True, {"processes": 2, "batch_parts": 2}, ["--executor=slurm"], []),
    ],
)
def test_on_the_gpus_of_this_machine_such_trainings_follow_one_another(
    tmp_path, write_notebook, monkeypatch, gpus, train, arguments, limit
):
    """Each would take the first GPUs; other machines have GPUs of their own."""
    import snakemake.cli
    import torch

    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(snakemake.cli, "main", lambda arguments: (given.extend(arguments), sys.exit(0)))
    notebooks = write_fake_notebooks(tmp_path / "notebooks", write_notebook)
    preset = write_preset(tmp_path, train={"epochs": 3, **train})
    reproduce(preset, runs_dir=tmp_path / "runs", notebooks_dir=notebooks, snakemake_arguments=arguments)
    assert [given[i + 1] for i, argument in enumerate(given) if argument == "--resources"] == limit


def running_under(folder: Path) -> list[str]:
    """Command lines of the processes whose command or environment names the folder: runners and their kernels."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if "pytest" not in command and (str(folder) in command or f"INTERPROTO_TEST={folder}" in environment):
            found.append(command)
    return found


def test_ctrl_c_is_told_from_a_failure(tmp_path, write_notebook, monkeypatch):
    import snakemake.cli

    def interrupted(arguments: list[str]) -> None:
        """Snakemake on Ctrl-C: it swallows the exception and reports a failure."""
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        sys.exit(1)

    graph = Graph(tmp_path, write_notebook)
    places = {"runs_dir": tmp_path / "runs", "notebooks_dir": tmp_path / "notebooks"}
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(snakemake.cli, "main", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(graph.preset, **places)
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(snakemake.cli, "main", lambda arguments: sys.exit(1))
    with pytest.raises(NotebookError, match="stopped before its end"):
        reproduce(graph.preset, **places)


def test_two_calls_for_one_experiment_exclude_each_other(tmp_path):
    import fcntl

    preset = tmp_path / "fake.yaml"
    preset.write_text(PRESET)
    folder = tmp_path / "runs" / "fake"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="'fake' is being run by another call"):
            reproduce(preset, runs_dir=tmp_path / "runs")


def test_the_graph_checks_every_parameter_before_it_starts(tmp_path, write_notebook):
    graph = Graph(tmp_path, write_notebook)
    graph.set_preset(story={"baseline": "arcface", "colour": "red"})
    code, out, err = graph.call()
    assert (code, out) == (2, "")
    assert "00_start_here.ipynb: unknown parameter 'colour'" in err
    assert graph.log() == []


def test_what_papermill_leaves_in_a_copy_has_no_widget_state(notebook, tmp_path, write_notebook):
    source = write_notebook(
        tmp_path / "widget.ipynb",
        "n: int = 1  # how many",
        ["import ipywidgets\nfrom IPython.display import display\ndisplay(ipywidgets.IntSlider())"],
    )
    run_notebook(source, tmp_path / "out.ipynb", stream=io.StringIO())
    assert "widgets" not in json.loads((tmp_path / "out.ipynb").read_text())["metadata"]
