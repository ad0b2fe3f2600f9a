"""Run folders: everything one training left, the results computed from it, and where they lie."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from interproto_lib.config import TrainConfig
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.files import atomic_write, write_json

PrototypeOrigin = Literal["training", "head", "class_means", "none"]

PROJECT_ROOT = Path(__file__).resolve().parents[1]
"""The checkout that the package is run from; relative `runs_dir` settings are relative to it."""

RESERVED_FOLDERS: frozenset[str] = frozenset(
    {"dataset", "notebooks", "figures", "tables", "results", "protocols", "html"}
)
"""Folders of an experiment that hold something else than a run."""

_STAMPED_PACKAGES = (
    "interproto-lib",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "umap-learn",
    "seaborn",
)


def resolve_runs_dir(runs_dir: str | Path = "runs") -> Path:
    """Give the absolute folder of all experiments.

    Args:
        runs_dir: A path; a relative one is relative to the project's root, wherever the notebook was started.

    Returns:
        The absolute path. It need not exist.
    """
    path = Path(runs_dir).expanduser()
    return path if path.is_absolute() else PROJECT_ROOT / path


def experiment_folder(experiment: str, runs_dir: str | Path = "runs") -> Path:
    """Give the folder of one experiment: its dataset, its runs, its figures and results.

    Args:
        experiment: Name of the experiment: letters, digits, `.`, `_` and `-`.
        runs_dir: Folder of all experiments, see `resolve_runs_dir`.

    Returns:
        The absolute path. It need not exist.

    Raises:
        ConfigError: The name cannot be a folder name.
    """
    return resolve_runs_dir(runs_dir) / _checked_name(experiment, "experiment")


def run_folder(folder: str | Path, run: str, *, seed: int) -> Path:
    """Give the folder of one run, and refuse a name that would mislead or take another folder's place.

    Args:
        folder: The experiment's folder, see `experiment_folder`.
        run: Name of the run: letters, digits, `.`, `_` and `-`; what stands before `-s<seed>` is its method.
        seed: Seed of the training.

    Returns:
        The path. It need not exist.

    Raises:
        ConfigError: The name cannot be a folder name, is that of a folder with other content, or ends in another seed.

    Example:
        >>> run_folder("runs/demo", "arcface-s1", seed=1).as_posix()
        'runs/demo/arcface-s1'
    """
    _checked_name(run, "run")
    if run.lower() in RESERVED_FOLDERS:
        raise ConfigError(
            f"run={run!r}: an experiment keeps its {run.lower()} under that name. "
            f"Choose a name such as 'arcface-s{seed}'."
        )
    method, mark, number = run.rpartition("-s")
    if mark and number.isdecimal() and number != str(seed):
        raise ConfigError(
            f"run={run!r} says seed {number}, but seed={seed}. Set seed={int(number)}, or run='{method}-s{seed}'."
        )
    return Path(folder) / run


@dataclass(frozen=True)
class RunFolder:
    """One training on disk. Attributes are read when they are asked for; nothing is kept in memory.

    Files: `config.json` (settings, dataset), `classes.csv` (one row a prototype), `environment.json`, `metrics.jsonl`
    (one row a log step), `tensorboard/`, `checkpoints/` (the two newest, to resume), `epochs/` (backbones, where kept),
    `wandb.json` (where used) and, once finished, `prototypes.safetensors`, `backbone.safetensors`, `summary.json`. A
    finished run is not resumed, and nothing reads its checkpoints: they may be removed.

    A run may also be somebody else's network, imported (`interproto_lib.training.imported`): then `config.json` says
    where it comes from, there are no metrics, and of the settings only those named in `imported` are known.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """The run's name, as in `arcface-s0`."""
        return self.path.name

    @property
    def method(self) -> str:
        """The run's name without its seed, as in `arcface`."""
        return re.sub(r"-s\d+$", "", self.name)

    @property
    def seed(self) -> int:
        """The seed the run was trained with."""
        return self.config.seed

    @property
    def config(self) -> TrainConfig:
        """The settings of the training."""
        return TrainConfig.from_dict(self._json("config.json")["train"])

    @property
    def dataset_info(self) -> dict[str, Any]:
        """The dataset the run was trained on: name, sizes, settings, SHA-256 of manifest, classes and images."""
        return dict(self._json("config.json")["dataset"])

    @property
    def summary(self) -> dict[str, Any]:
        """What the finished training reported: steps, seconds, images a second, last losses."""
        return dict(self._json("summary.json"))

    @property
    def environment(self) -> dict[str, Any]:
        """The machine and software of the training; `resumed_with` lists what differed when it went on elsewhere."""
        return dict(self._json("environment.json"))

    @property
    def is_finished(self) -> bool:
        """Whether the training reached its end."""
        return (self.path / "summary.json").is_file()

    @property
    def classes(self) -> pd.DataFrame:
        """The identities, row i for prototype i, as `interproto_lib.data.class_table` made them."""
        table = pd.read_csv(self._file("classes.csv"), dtype={"identity": str}, keep_default_na=False)
        return table.astype({"is_child": bool})

    @property
    def imported(self) -> dict[str, Any] | None:
        """Where the network of an imported run comes from, and what is known of it; None for a run trained here."""
        record = self._json("config.json").get("imported")
        return None if record is None else dict(record)

    @property
    def prototypes_from(self) -> PrototypeOrigin:
        """What the prototypes are.

        `training`: rows of the last layer, trained here; `head`: those of an imported network; `class_means`: mean
        embeddings of the training images, which only stand in for prototypes; `none`: there are none.
        """
        record = self.imported
        origin: PrototypeOrigin = "training" if record is None else record["prototypes"]
        return origin

    @property
    def prototypes(self) -> np.ndarray:
        """Rows of the last layer, not normalised, (n_identities, d), float32; see `prototypes_from`."""
        from safetensors.numpy import load_file

        return load_file(self._file("prototypes.safetensors"))["prototypes"]

    def metrics(self) -> pd.DataFrame:
        """Read the metrics, one row a log step: step, epoch, losses, accuracy, learning rate, images a second."""
        return pd.read_json(self._file("metrics.jsonl"), lines=True)

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            state = "is not finished" if self.path.is_dir() else "does not exist"
            advice = "Run notebooks/02_train.ipynb with the same experiment and run name first."
            if name != "config.json" and (self.path / "config.json").is_file() and self.imported is not None:
                state, advice = self._lacks_as_imported(name)
            raise RunError(f"Run {self.name!r} {state}: {path} is missing. {advice}")
        return path

    def _lacks_as_imported(self, name: str) -> tuple[str, str]:
        """Why an imported run lacks a file, and what to do."""
        if name == "metrics.jsonl":
            return "was imported, not trained here, so it has no metrics", "They can be shown of trained runs only."
        if name == "prototypes.safetensors" and self.prototypes_from == "none":
            return (
                "has no prototypes",
                f"It was imported on dataset {self.dataset_info['name']!r}, which has no training images and so no "
                "classes: verification and identification (notebooks 05 and 06) need none; for the others import the "
                "network on a dataset with training identities.",
            )
        return "is not wholly imported", "Import the same network into the same folder again: it goes on from there."

    def _json(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{path} is damaged ({error}). Remove the run folder and train again.") from error


def open_run(path: str | Path) -> RunFolder:
    """Open the folder of a finished run.

    Args:
        path: The run folder.

    Returns:
        The run.

    Raises:
        RunError: The folder is missing or its training has not reached its end.
    """
    run = RunFolder(Path(path))
    run._file("summary.json")
    return run


def list_runs(folder: str | Path) -> list[RunFolder]:
    """List the finished runs of an experiment.

    Args:
        folder: The experiment's folder, see `experiment_folder`.

    Returns:
        The finished runs, by method and seed.

    Raises:
        RunError: There is none.
    """
    folder = Path(folder)
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/summary.json"))]
    if not runs:
        raise RunError(
            f"No finished run in {folder}. Run notebooks/02_train.ipynb for experiment {folder.name!r} first, "
            "or `make reproduce`."
        )
    return sorted(runs, key=lambda run: (run.method, run.seed))


def runs_by_method(folder: str | Path, baseline: str, treated: Sequence[str] = ()) -> dict[str, list[RunFolder]]:
    """Group the finished runs of an experiment by method, baseline first.

    Args:
        folder: The experiment's folder.
        baseline: Method that the others are compared with.
        treated: The other methods, in the order wanted; empty means all that are there.

    Returns:
        Method -> its runs by seed; the baseline is the first key.

    Raises:
        RunError: A method named has no finished run.
    """
    found: dict[str, list[RunFolder]] = {}
    for run in list_runs(folder):
        found.setdefault(run.method, []).append(run)
    wanted = [baseline, *(treated or [method for method in found if method != baseline])]
    missing = [method for method in wanted if method not in found]
    if missing:
        raise RunError(
            f"No finished run of {', '.join(map(repr, missing))} in {folder}; methods there: {', '.join(found)}. "
            "Set `baseline` (or `treated`) to methods that are there, or run notebooks/02_train.ipynb for it first."
        )
    return {method: found[method] for method in wanted}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number that an analysis found, with what is needed to judge it.

    Attributes:
        name: What was measured, as in `inter_class_similarity_mean`.
        value: The number; None where it could not be measured, `note` says why.
        unit: Unit of the value, as in `cosine`, `percent`, `percentage points`.
        n: How many things it was computed from.
        n_of: What `n` counts, as in `pairs`, `seeds`.
        interval: Lower and upper bound, or None where none was computed.
        confidence: Confidence of the interval.
        runs: Names of the runs it comes from.
        protocol: Pairs or cohort and split it was measured on.
        note: Anything a reader must know.
    """

    name: str
    value: float | None
    unit: str
    n: int
    n_of: str
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    runs: Sequence[str] = field(default_factory=tuple)
    protocol: str = ""
    note: str = ""


def write_results(folder: str | Path, name: str, results: Sequence[Result], *, parameters: Mapping[str, Any]) -> Path:
    """Write what a notebook found as JSON, with its parameters and the environment.

    Args:
        folder: An experiment's folder or a run's; the file is `results/<name>.json` in it.
        name: Name of the notebook or analysis.
        results: The numbers.
        parameters: The parameters they were computed with.

    Returns:
        The file written.

    Raises:
        WriteError: The file cannot be written.
    """
    path = Path(folder) / "results" / f"{_checked_name(name, 'name')}.json"
    records = [asdict(result) for result in results]
    write_json(path, {"parameters": dict(parameters), "results": records, "environment": environment()})
    return path


def read_results(folder: str | Path, name: str, *, made_by: str) -> list[Result]:
    """Read what `write_results` wrote.

    Args:
        folder: The folder it was written for: an experiment's or a run's.
        name: Name of the notebook or analysis.
        made_by: The notebook that writes it, for the message where it is missing, as in `02_train`.

    Returns:
        The numbers.

    Raises:
        RunError: The file is not there; the message names the notebook to run.
    """
    path = Path(folder) / "results" / f"{name}.json"
    if not path.is_file():
        raise RunError(f"{path} is missing. Run notebooks/{made_by}.ipynb for {Path(folder).name!r} first.")
    records = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [Result(**{**r, "interval": tuple(r["interval"]) if r["interval"] else None}) for r in records]


def environment() -> dict[str, Any]:
    """Describe the machine and the software, for the record beside a result.

    Returns:
        Time (UTC), Python, platform, CPU count and package versions; the commit of the checkout where git knows it.
    """
    versions = {}
    for package in _STAMPED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": versions,
        "commit": _commit(),
    }


def table_hash(table: pd.DataFrame) -> str:
    """Give the SHA-256 of a table's CSV text, to tell whether two tables are the same."""
    return hashlib.sha256(table.to_csv(index=False).encode("utf-8")).hexdigest()


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV (UTF-8), atomically.

    Raises:
        WriteError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


def _checked_name(name: str, what: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise ConfigError(f"{what}={name!r}: use letters, digits, '.', '_' and '-' only")
    return name


def _commit() -> str | None:
    try:
        call = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return call.stdout.strip()
