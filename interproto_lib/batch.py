"""Executing notebooks in batch: one notebook with papermill, and a preset's whole graph with Snakemake."""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import yaml

from interproto_lib.errors import ConfigError, NotebookError, WriteError
from interproto_lib.files import file_lock
from interproto_lib.presets import (
    AGEING_NOTEBOOK,
    NOTEBOOK_SECTIONS,
    PRESETS_DIR,
    REPORT_FILE,
    TRAINING_NOTEBOOK,
    Preset,
    read_preset,
)

NOTEBOOKS_DIR = PRESETS_DIR.parent
"""Folder of the project's notebooks and of the batch graph."""

_INSERTED_TAGS = {"injected-parameters", "papermill-error-cell-tag"}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
    "tuple": (list, tuple),
    "dict": (dict,),
}


def notebook_parameters(notebook: str | Path) -> dict[str, dict[str, str]]:
    """Read the parameters that a notebook declares.

    Args:
        notebook: The `.ipynb` file.

    Returns:
        Parameter -> `name`, `inferred_type_name` (the text "None" where it is not annotated), `default`, `help`, as
        `papermill.inspect_notebook` gives them.

    Raises:
        ConfigError: The file is missing, is no notebook, or has no cell tagged `parameters`.
    """
    import nbformat
    import papermill

    path = Path(notebook)
    if not path.is_file():
        raise ConfigError(f"There is no notebook {path}.")
    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:
        raise ConfigError(f"{path} is not a notebook: {error}") from error
    if not any("parameters" in cell.metadata.get("tags", []) for cell in cells):
        raise ConfigError(
            f"{path} has no cell tagged 'parameters', so nothing can be set in it. Tag the cell with its settings."
        )
    return {str(name): dict(entry) for name, entry in papermill.inspect_notebook(str(path)).items()}


def check_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> None:
    """Check that a notebook declares every parameter given, and that the types fit.

    papermill itself only warns about a name that it does not know, and then runs with the default.

    Args:
        notebook: The `.ipynb` file.
        parameters: Parameter -> value.

    Raises:
        ConfigError: A name is unknown or a value is not of the declared type; all of them are listed.
    """
    declared = notebook_parameters(notebook)
    problems = []
    for name, value in parameters.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=2)
            advice = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            problems.append(f"unknown parameter {name!r}{advice}")
            continue
        wanted = declared[name]["inferred_type_name"]
        if not _fits(wanted, value):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if wanted == "float" and isinstance(value, str) else ""
            problems.append(f"{name}={value!r} is of type {type(value).__name__}, declared as {wanted}{hint}")
    if problems:
        raise ConfigError(f"{notebook}: {'; '.join(problems)}. Its parameters: {', '.join(declared) or 'none'}.")


def parse_parameter(notebook: str | Path, name: str, text: str) -> Any:
    """Read the text of a command-line parameter as the type that the notebook declares.

    Args:
        notebook: The `.ipynb` file.
        name: The parameter.
        text: Its value as typed: `1e-3` for a float, `true` or `false` for a bool, `[1, 2]` for a list, `null` for
            nothing where the type is `Optional[...]`.

    Returns:
        The value.

    Raises:
        ConfigError: The parameter is unknown or the text does not read as its type.
    """
    declared = notebook_parameters(notebook)
    if name not in declared:
        check_parameters(notebook, {name: text})
    wanted = declared[name]["inferred_type_name"]
    kind = _optional(wanted)
    if kind != wanted and text in ("null", "None", "none"):
        return None
    try:
        if kind == "str":
            return text
        if kind in ("int", "float"):
            return int(text) if kind == "int" else float(text)
        value = {"True": True, "False": False}.get(text, yaml.safe_load(text))
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{notebook}: {name}={text!r} does not read as {wanted}") from error
    if not _fits(wanted, value):
        raise ConfigError(f"{notebook}: {name}={text!r} does not read as {wanted}")
    return value


def run_notebook(
    notebook: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    label: str | None = None,
    cwd: str | Path = NOTEBOOKS_DIR.parent,
    stream: TextIO | None = None,
) -> Path:
    """Execute a notebook with papermill and write the executed copy.

    The copy appears under its name only when every cell has run. While the notebook runs it is
    `<output>.partial.ipynb`; after a failure it is `<output>.failed.ipynb`, with the traceback in it.

    Args:
        notebook: The `.ipynb` file.
        output: The executed copy to write; its folder is made.
        parameters: Parameter -> value; the rest keep their defaults.
        label: Name that stands before each line of progress; default the notebook's name.
        cwd: Working directory of the notebook; default the project's root.
        stream: Where the lines that the notebook prints go while it runs; default standard output.

    Returns:
        The executed copy.

    Raises:
        ConfigError: The notebook cannot be read or a parameter is wrong; nothing has run.
        WriteError: The output cannot be written.
        NotebookError: A cell failed or the kernel died.
    """
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    notebook, output = Path(notebook), Path(output)
    parameters = dict(parameters or {})
    if output.suffix != ".ipynb":
        raise ConfigError(f"{output}: the executed copy must end in .ipynb")
    check_parameters(notebook, parameters)
    partial = output.with_name(f"{output.stem}.partial.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    lines = _LabelledLines(stream or sys.stdout, label or notebook.stem)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # A backend chosen for the terminal, as in MPLBACKEND=Agg, would leave the copy without figures.
        with _environment(INTERPROTO_PROGRESS="lines", MPLBACKEND="module://matplotlib_inline.backend_inline"):
            executed = papermill.execute_notebook(
                str(notebook.resolve()),
                str(partial.resolve()),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                cwd=str(cwd),
                stdout_file=lines,
                store_widget_state=False,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        executed.metadata.papermill["output_path"] = str(output.resolve())
        nbformat.write(executed, partial)
        partial.replace(output)
    except PapermillExecutionError as error:
        partial.replace(failed)
        raise NotebookError(_failure(notebook, failed, f"{error.ename}: {error.evalue}")) from error
    except OSError as error:
        raise WriteError(f"Cannot write {output}: {error.strerror or error} ({error.filename or output}).") from error
    except (RuntimeError, TimeoutError) as error:  # nbclient: the kernel died, or did not start in time
        if not partial.is_file():
            raise NotebookError(f"{notebook} did not start: {error}") from error
        partial.replace(failed)
        raise NotebookError(_failure(notebook, failed, f"{type(error).__name__}: {error}")) from error
    finally:
        lines.close()
    failed.unlink(missing_ok=True)
    return output


def reproduce(
    preset: str | Path,
    *,
    cores: int = 2,
    runs_dir: str | Path = "runs",
    notebooks_dir: str | Path = NOTEBOOKS_DIR,
    dry_run: bool = False,
    snakemake_arguments: Sequence[str] = (),
) -> Path:
    """Run every notebook of a preset that is not yet done, in the order of `notebooks/Snakefile`.

    A notebook is run again when its parameters, the notebook itself or what it reads has changed since. A run that was
    killed goes on where it stopped. Two calls for one experiment exclude each other by a file lock, which the system
    lifts when its holder ends, however it ends.

    Args:
        preset: Name or path of the preset, see `interproto_lib.presets.read_preset`.
        cores: CPU cores to use; as many trainings run side by side. One of several processes (`processes` in the
            section `train`) counts as so many cores, or as all where there are fewer. On this machine's GPUs such
            trainings follow one another, for each takes the first GPUs.
        runs_dir: Folder of all experiments, relative to the project.
        notebooks_dir: Folder of the notebooks.
        dry_run: Only print what would run, and before it an estimate of what the trainings cost.
        snakemake_arguments: More arguments for Snakemake, as in `["--executor", "slurm", "--jobs", "6"]`.

    Returns:
        The report, one HTML file.

    Raises:
        ConfigError: The preset or a parameter in it is wrong; nothing has run.
        WriteError: The experiment's folder cannot be written.
        RunError: The experiment is being run by another call.
        NotebookError: A notebook failed.
        KeyboardInterrupt: Ctrl-C; the notebooks that were running have ended.
    """
    from interproto_lib.runs import experiment_folder

    chosen = read_preset(preset)
    folder = experiment_folder(chosen.experiment, runs_dir)
    source_cache = folder / ".snakemake" / "source-cache"
    arguments = [
        *("--snakefile", str(NOTEBOOKS_DIR / "Snakefile"), "--directory", str(folder), "--cores", str(cores)),
        *("--runtime-source-cache-path", str(source_cache)),
        *("--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input"),
        *("--config", f"preset={chosen.path}", f"runs_dir={Path(runs_dir)}"),
        f"notebooks_dir={Path(notebooks_dir).resolve()}",
        *(["--dry-run", "--quiet", "host", "reason"] if dry_run else ["--quiet", "all"]),
        *_one_training_on_the_gpus(chosen, snakemake_arguments),
        *snakemake_arguments,
    ]
    busy = f"Experiment {folder.name!r} is being run by another call. Wait for it, or stop it first."
    with file_lock(folder / ".lock", busy=busy):
        _check_graph(chosen, Path(notebooks_dir), runs_dir)
        if dry_run:
            from interproto_lib.analysis.cost_estimate import estimate_costs

            print(estimate_costs(chosen, runs_dir=runs_dir, cores=cores), flush=True)
        shutil.rmtree(source_cache, ignore_errors=True)  # it would keep the Snakefile of the first call for ever
        from snakemake.cli import main as snakemake

        before = {path: path.stat().st_mtime_ns for path in folder.glob("notebooks/*.failed.ipynb")}
        with _noticed_interrupt() as interrupts:
            try:
                snakemake(arguments)
            except SystemExit as end:
                code = end.code
        if interrupts:
            raise KeyboardInterrupt
        failed = [p for p in folder.glob("notebooks/*.failed.ipynb") if before.get(p) != p.stat().st_mtime_ns]
    if code:
        copies = "".join(f"\n  {path}" for path in sorted(failed))
        raise NotebookError(
            f"Experiment {chosen.experiment!r} stopped before its end; the message above says why. "
            + (f"Executed copies of what failed:{copies}\n" if failed else "")
            + "The same command goes on from here."
        )
    return folder / REPORT_FILE


def _one_training_on_the_gpus(preset: Preset, snakemake_arguments: Sequence[str]) -> list[str]:
    """Give out no more of this machine's GPUs than one training takes, for each takes the first ones."""
    import torch

    elsewhere = any(argument.partition("=")[0] in ("--executor", "-e", "--profile") for argument in snakemake_arguments)
    if elsewhere or not preset.trains_on_gpus or not torch.cuda.is_available():
        return []
    return ["--resources", f"gpu={preset.processes}"]


def _check_graph(preset: Preset, notebooks_dir: Path, runs_dir: str | Path) -> None:
    ageing = preset.sections[NOTEBOOK_SECTIONS[AGEING_NOTEBOOK]]
    if ageing and ageing.get("run") not in preset.runs:
        raise ConfigError(
            f"Preset {preset.name!r}, section ageing: run is {ageing.get('run')!r}, expected one that the preset "
            f"trains with age_method mtlface. Its runs: {', '.join(preset.runs)}."
        )
    for name in NOTEBOOK_SECTIONS:
        if name == AGEING_NOTEBOOK and not ageing:
            continue
        runs: list[dict[str, Any]] = [{}]
        if name == TRAINING_NOTEBOOK:
            methods = {**preset.methods, **preset.ablation_methods}
            runs = [{"method": method, "seed": preset.seeds[0]} for method in methods]
        for run in runs:
            check_parameters(notebooks_dir / f"{name}.ipynb", preset.parameters(name, runs_dir=runs_dir, **run))


@contextmanager
def _noticed_interrupt() -> Iterator[list[int]]:
    """Note each Ctrl-C: Snakemake takes the exception for itself and only reports that something failed."""
    noticed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noticed
        return

    def note(signal_number: int, frame: FrameType | None) -> None:
        noticed.append(signal_number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _LabelledLines:
    """A text stream that hands on whole lines, each with a label in front; a carriage return ends a line, too."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._rest = stream, label, ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            self._stream.write(f"[{self._label}] {line}\n")

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.write("\n")
        self.flush()


def _failure(notebook: Path, failed: Path, reason: str) -> str:
    """Say which cell of the source notebook failed: the last one that papermill started in the executed copy."""
    import nbformat

    cells = [
        cell
        for cell in nbformat.read(failed, as_version=4).cells
        if not _INSERTED_TAGS.intersection(cell.metadata.get("tags", []))
    ]
    started = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    place = started[-1] if started else 0
    first_line = next((line for line in cells[place].source.splitlines() if line.strip()), "")
    return (
        f"{notebook.name} failed in cell {place + 1} of {len(cells)} (`{first_line.strip()}`):\n{reason}\n"
        f"Executed copy with the traceback: {failed}"
    )


def _optional(type_name: str) -> str:
    inner = type_name.strip()
    return inner[len("Optional[") : -1].strip() if inner.startswith("Optional[") else inner


def _fits(type_name: str, value: Any) -> bool:
    kind = _optional(type_name)
    if value is None:
        return kind != type_name or kind == "None"
    wanted = _TYPES.get(kind.split("[")[0])
    if wanted is None:  # not annotated, or a type that only the notebook can judge
        return True
    return isinstance(value, wanted) and (not isinstance(value, bool) or kind == "bool")
