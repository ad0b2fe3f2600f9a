"""What one comparison runs: the parameters that a preset gives each notebook, and the runs that it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interproto_lib.config import EvaluationConfig
from interproto_lib.errors import ConfigError
from interproto_lib.presets.checks import close_names
from interproto_lib.presets.notebooks import (
    ABLATIONS_NOTEBOOK,
    ANALYSIS_NOTEBOOKS,
    NOTEBOOK_SECTIONS,
    PROJECTION_NOTEBOOK,
    REPORT_NOTEBOOK,
    STORY_NOTEBOOK,
    TRAINING_NOTEBOOK,
    VERIFICATION_NOTEBOOK,
)

PROCESSES = "processes"
"""Parameter of the training notebook that decides no result, and is one for all trainings of a preset."""

_COMPARING_NOTEBOOKS = (*ANALYSIS_NOTEBOOKS, STORY_NOTEBOOK, REPORT_NOTEBOOK)
_JUDGING_NOTEBOOKS = (VERIFICATION_NOTEBOOK, "06_identification")
_TEST_SETS = ("test_sets", "on_missing")
_PLANES = ("seed", "projections", "projection_seed")
EVALUATION_SETTINGS = tuple(field.name for field in dataclasses.fields(EvaluationConfig))
"""Parameters of a training that say how it is judged."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What one comparison runs: parameters of the notebooks, methods and seeds, and the sweeps of its ablations.

    Attributes:
        name: Name of the preset, its file name without `.yaml`.
        path: The file it was read from.
        description: One sentence on what it is for.
        experiment: Name of the experiment; its folder is `runs/<experiment>/`.
        methods: Method -> training parameters in which it differs from the common ones.
        seeds: Seeds that each method is trained with.
        sections: Section -> parameters of its notebook, see `NOTEBOOK_SECTIONS`; only what the file sets.
        sweeps: Sweep -> the methods that it sets side by side, of `methods` or of `ablation_methods`.
        ablation_methods: Method that only sweeps name -> training parameters in which it differs from the common ones.
        ablation_seeds: Seeds that each method of a sweep is trained with.
    """

    name: str
    path: Path
    description: str
    experiment: str
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    sections: Mapping[str, Mapping[str, Any]]
    sweeps: Mapping[str, tuple[str, ...]]
    ablation_methods: Mapping[str, Mapping[str, Any]]
    ablation_seeds: tuple[int, ...]

    @property
    def processes(self) -> int:
        """Processes that share each training on a machine, one a GPU; they change a result by rounding only."""
        return int(self.sections[NOTEBOOK_SECTIONS[TRAINING_NOTEBOOK]].get(PROCESSES, 1))

    @property
    def trains_on_gpus(self) -> bool:
        """Whether trainings take several GPUs where there are some: with several processes, not all kept on CPUs."""
        section = self.sections[NOTEBOOK_SECTIONS[TRAINING_NOTEBOOK]]
        methods = {**self.methods, **self.ablation_methods}
        devices = {{**section, **own}.get("device", "auto") for own in methods.values()}
        return self.processes > 1 and devices != {"cpu"}

    @property
    def runs(self) -> dict[str, tuple[str, int]]:
        """Run name -> its method and seed, one for each training, as in `{"arcface-s0": ("arcface", 0)}`."""
        return _runs(self.methods, self.seeds)

    @property
    def ablation_runs(self) -> dict[str, tuple[str, int]]:
        """Run name -> its method and seed, for what the sweeps need beyond `runs`."""
        named = dict.fromkeys(method for methods in self.sweeps.values() for method in methods)
        return {run: of for run, of in _runs(named, self.ablation_seeds).items() if run not in self.runs}

    def parameters(
        self, notebook: str, *, method: str | None = None, seed: int | None = None, runs_dir: str | Path = "runs"
    ) -> dict[str, Any]:
        """Give the flat parameters of one notebook, as papermill takes them.

        Args:
            notebook: Name of the notebook without `.ipynb`, a key of `NOTEBOOK_SECTIONS`.
            method: Method to train; for the training notebook only, where it is needed.
            seed: Seed to train with; likewise.
            runs_dir: Folder of all experiments.

        Returns:
            Parameter -> value: what the preset sets, the experiment and `runs_dir`; for training also the run's name;
            for the analyses and the story, where their section does not set them, `baseline` (the first method),
            `treated` (the others) and `seeds`, so that other runs in the experiment's folder stay out; for the
            ablations `baseline`, `sweeps` and their `seeds`. A preset without sweeps sets its methods side by side.
            Verification and identification are told by which rules to judge, as the section of the training sets them;
            identification and ablations which further test sets the section of verification names, and the report
            which planes the section of the projection sets.

        Raises:
            ConfigError: The notebook, the method or the seed is not in the preset, or one is missing or too many.
        """
        if notebook not in NOTEBOOK_SECTIONS:
            raise ConfigError(
                f"No preset section belongs to notebook {notebook!r}{close_names(notebook, NOTEBOOK_SECTIONS)} "
                f"Notebooks with one: {', '.join(NOTEBOOK_SECTIONS)}."
            )
        common: dict[str, Any] = {"experiment": self.experiment, "runs_dir": str(runs_dir)}
        section = self.sections[NOTEBOOK_SECTIONS[notebook]]
        if notebook != TRAINING_NOTEBOOK:
            if method is not None or seed is not None:
                raise ConfigError(f"A method and a seed belong to {TRAINING_NOTEBOOK} only, not to {notebook}.")
            compared = self._compared(notebook, section) if notebook in _COMPARING_NOTEBOOKS else {}
            return {**common, **compared, **section}
        methods = {**self.methods, **self.ablation_methods}
        if method is None or method not in methods:
            raise ConfigError(
                f"{TRAINING_NOTEBOOK} needs a method of preset {self.name!r}, got {method!r}. "
                f"Its methods: {', '.join(methods)}."
            )
        if seed is None:
            raise ConfigError(f"{TRAINING_NOTEBOOK} needs a seed; preset {self.name!r} has {list(self.seeds)}.")
        return {**common, "run": f"{method}-s{seed}", **section, **methods[method], "seed": seed}

    def _compared(self, notebook: str, section: Mapping[str, Any]) -> dict[str, Any]:
        baseline = section.get("baseline", next(iter(self.methods)))
        of_verification = self.sections[NOTEBOOK_SECTIONS[VERIFICATION_NOTEBOOK]]
        handed_on = {name: of_verification[name] for name in _TEST_SETS if name in of_verification}
        if notebook == ABLATIONS_NOTEBOOK:
            sweeps = {name: list(methods) for name, methods in self.sweeps.items()}
            return {
                **handed_on,
                "baseline": baseline,
                "sweeps": sweeps or {"methods": list(self.methods)},
                "seeds": list(self.ablation_seeds),
            }
        compared = {
            "baseline": baseline,
            "treated": [method for method in self.methods if method != baseline],
            "seeds": list(self.seeds),
        }
        if notebook == REPORT_NOTEBOOK:
            planes = self.sections[NOTEBOOK_SECTIONS[PROJECTION_NOTEBOOK]]
            return {**compared, **{name: planes[name] for name in _PLANES if name in planes}}
        if notebook not in _JUDGING_NOTEBOOKS:
            return compared
        of_training = self.sections[NOTEBOOK_SECTIONS[TRAINING_NOTEBOOK]]
        rules = {name: of_training[name] for name in (*EVALUATION_SETTINGS, "child_below_years") if name in of_training}
        return {**compared, **rules, **handed_on}


def _runs(methods: Iterable[str], seeds: Sequence[int]) -> dict[str, tuple[str, int]]:
    methods = list(methods)
    return {f"{method}-s{seed}": (method, seed) for seed in seeds for method in methods}
