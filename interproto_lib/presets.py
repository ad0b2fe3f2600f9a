"""Presets: one YAML file that says what a whole comparison runs, read and checked before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.errors import ConfigError

PRESETS_DIR = Path(__file__).resolve().parents[1] / "notebooks" / "presets"
"""Folder of the presets that come with the project."""

TRAINING_NOTEBOOK = "02_train"
"""The notebook that is executed once for each method and seed."""

STORY_NOTEBOOK = "00_start_here"
"""The notebook that comes last in a batch run and reads what all others found; its HTML is the report."""

NOTEBOOK_SECTIONS: dict[str, str] = {
    "01_datasets_and_ages": "dataset",
    TRAINING_NOTEBOOK: "train",
    "03_similarity": "similarity",
    "04_prototype_projection": "projection",
    STORY_NOTEBOOK: "story",
}
"""Notebook -> the section of a preset that holds its parameters, in the order of the batch graph. The first prepares
the dataset, the last tells the story; those between the training and the last are analyses of the finished runs and
may run side by side."""

ANALYSIS_NOTEBOOKS: tuple[str, ...] = tuple(NOTEBOOK_SECTIONS)[2:-1]
"""The notebooks that read finished runs, each on its own."""

_COMPARING_NOTEBOOKS = (*ANALYSIS_NOTEBOOKS, STORY_NOTEBOOK)
_EVALUATION_SETTINGS = tuple(field.name for field in dataclasses.fields(EvaluationConfig))
_SET_BY_THE_GRAPH = ("experiment", "runs_dir")
_SET_FOR_EACH_TRAINING = (*_SET_BY_THE_GRAPH, "run", "seed")
_TOP_LEVEL = ("description", "experiment", "methods", "seeds", *NOTEBOOK_SECTIONS.values())
_EXPONENT_AS_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What one comparison runs: parameters of the notebooks, methods and seeds.

    Attributes:
        name: Name of the preset, its file name without `.yaml`.
        path: The file it was read from.
        description: One sentence on what it is for.
        experiment: Name of the experiment; its folder is `runs/<experiment>/`.
        methods: Method -> training parameters in which it differs from the common ones.
        seeds: Seeds that each method is trained with.
        sections: Section -> parameters of its notebook, see `NOTEBOOK_SECTIONS`; only what the file sets.
    """

    name: str
    path: Path
    description: str
    experiment: str
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    sections: Mapping[str, Mapping[str, Any]]

    @property
    def runs(self) -> dict[str, tuple[str, int]]:
        """Run name -> its method and seed, one for each training, as in `{"arcface-s0": ("arcface", 0)}`."""
        return {f"{method}-s{seed}": (method, seed) for seed in self.seeds for method in self.methods}

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
            `treated` (the others) and `seeds`, so that other runs in the experiment's folder stay out.

        Raises:
            ConfigError: The notebook, the method or the seed is not in the preset, or one is missing or too many.
        """
        if notebook not in NOTEBOOK_SECTIONS:
            raise ConfigError(
                f"No preset section belongs to notebook {notebook!r}{_close(notebook, NOTEBOOK_SECTIONS)} "
                f"Notebooks with one: {', '.join(NOTEBOOK_SECTIONS)}."
            )
        common: dict[str, Any] = {"experiment": self.experiment, "runs_dir": str(runs_dir)}
        section = self.sections[NOTEBOOK_SECTIONS[notebook]]
        if notebook != TRAINING_NOTEBOOK:
            if method is not None or seed is not None:
                raise ConfigError(f"A method and a seed belong to {TRAINING_NOTEBOOK} only, not to {notebook}.")
            return {**common, **(self._compared(section) if notebook in _COMPARING_NOTEBOOKS else {}), **section}
        if method is None or method not in self.methods:
            raise ConfigError(
                f"{TRAINING_NOTEBOOK} needs a method of preset {self.name!r}, got {method!r}. "
                f"Its methods: {', '.join(self.methods)}."
            )
        if seed is None:
            raise ConfigError(f"{TRAINING_NOTEBOOK} needs a seed; preset {self.name!r} has {list(self.seeds)}.")
        return {**common, "run": f"{method}-s{seed}", **section, **self.methods[method], "seed": seed}

    def _compared(self, section: Mapping[str, Any]) -> dict[str, Any]:
        baseline = section.get("baseline", next(iter(self.methods)))
        treated = [method for method in self.methods if method != baseline]
        return {"baseline": baseline, "treated": treated, "seeds": list(self.seeds)}


def list_presets(folder: str | Path = PRESETS_DIR) -> list[str]:
    """Give the names of the presets in a folder, sorted."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def read_preset(path_or_name: str | Path) -> Preset:
    """Read a preset and check its sections and numbers, and the training settings of every method.

    Args:
        path_or_name: Name of a preset of the project, as in `demo`, or the path of a YAML file.

    Returns:
        The preset.

    Raises:
        ConfigError: The preset is unknown, is not YAML, has unknown or missing sections, sets a parameter that the
            batch graph sets, holds a number that YAML reads as text, or training settings that cannot be.

    Example:
        >>> read_preset("tiny").experiment
        'tiny'
    """
    path = Path(path_or_name)
    if path.suffix not in (".yaml", ".yml"):
        if path.name != str(path_or_name):
            raise ConfigError(f"Preset {str(path_or_name)!r}: a path must end in .yaml")
        path = PRESETS_DIR / f"{path_or_name}.yaml"
        if not PRESETS_DIR.is_dir():
            raise ConfigError(
                f"The project's presets are not at {PRESETS_DIR}: the library is not run from a checkout of its "
                "repository. Install it from one with `pip install -e .`, or give your own preset as a path that ends "
                "in .yaml."
            )
        if not path.is_file():
            known = list_presets()
            raise ConfigError(
                f"Unknown preset {str(path_or_name)!r}{_close(str(path_or_name), known)} "
                f"Known presets: {', '.join(known)}. Your own preset is given as a path that ends in .yaml."
            )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no preset file {path}. Known presets by name: {', '.join(list_presets())}."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Preset {path} cannot be read: {error}") from error
    where = f"Preset {path}"
    content = _mapping(content, where)
    _known_keys(content, _TOP_LEVEL, where)
    for key in ("experiment", "methods", "seeds"):
        if not content.get(key):
            raise ConfigError(f"{where}: {key!r} is missing or empty")
    experiment = content["experiment"]
    if not isinstance(experiment, str) or not re.fullmatch(r"\w[\w.-]*", experiment):
        raise ConfigError(f"{where}: experiment={experiment!r} must be letters, digits, '.', '_' and '-'")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise ConfigError(f"{where}: seeds={seeds!r} must be a list of whole numbers from 0 on")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"{where}: seeds={seeds!r} names a seed twice")
    methods = {
        str(name): _parameters(values, f"{where}: methods.{name}", _SET_FOR_EACH_TRAINING)
        for name, values in _mapping(content["methods"], f"{where}: methods").items()
    }
    for name in methods:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ConfigError(f"{where}: method {name!r} must be letters, digits, '.', '_' and '-'")
    sections = {
        section: _parameters(
            content.get(section),
            f"{where}: {section}",
            _SET_FOR_EACH_TRAINING if notebook == TRAINING_NOTEBOOK else _SET_BY_THE_GRAPH,
        )
        for notebook, section in NOTEBOOK_SECTIONS.items()
    }
    _check_methods_named(sections, methods, where)
    for name, values in methods.items():
        settings = {**sections["train"], **values}
        evaluation = {key: settings.pop(key) for key in _EVALUATION_SETTINGS if key in settings}
        try:
            TrainConfig.from_dict(settings)
            EvaluationConfig(**evaluation)
        except ConfigError as error:
            raise ConfigError(f"{where}: method {name!r}: {error}") from error
    return Preset(
        name=path.stem,
        path=path.resolve(),
        description=str(content.get("description", "")),
        experiment=experiment,
        methods=methods,
        seeds=tuple(seeds),
        sections=sections,
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold `name: value` lines, found {type(value).__name__}")
    return value


def _parameters(value: Any, where: str, set_elsewhere: Sequence[str]) -> dict[str, Any]:
    parameters = {} if value is None else _mapping(value, where)
    for name, entry in parameters.items():
        if name in set_elsewhere:
            raise ConfigError(f"{where}: {name!r} is set by the batch graph; remove it here")
        for element in entry if isinstance(entry, list) else [entry]:
            if isinstance(element, str) and _EXPONENT_AS_TEXT.fullmatch(element):
                raise ConfigError(
                    f"{where}: {name}: YAML reads {element} as text; write it with a point and a sign in the exponent, "
                    "as in 1.0e-3"
                )
    return parameters


def _check_methods_named(
    sections: Mapping[str, Mapping[str, Any]], methods: Mapping[str, Mapping[str, Any]], where: str
) -> None:
    for section, values in sections.items():
        for key in ("baseline", "treated"):
            named = values.get(key, [])
            for method in [named] if isinstance(named, str) else named:
                if method not in methods:
                    raise ConfigError(
                        f"{where}: {section}.{key} names {method!r}, which is no method of this preset"
                        f"{_close(str(method), methods)} Its methods: {', '.join(methods)}."
                    )


def _known_keys(content: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown section {key!r}{_close(str(key), known)} Known: {', '.join(known)}.")


def _close(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else "."
