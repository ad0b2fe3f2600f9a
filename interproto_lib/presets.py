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
from interproto_lib.deciding_settings import deciding_settings
from interproto_lib.errors import ConfigError

PRESETS_DIR = Path(__file__).resolve().parents[1] / "notebooks" / "presets"
"""Folder of the presets that come with the project."""

TRAINING_NOTEBOOK = "02_train"
"""The notebook that is executed once for each method and seed."""

VERIFICATION_NOTEBOOK = "05_verification"
"""The notebook that scores the runs on further test sets; its section names them for 06 and 07 too."""

ABLATIONS_NOTEBOOK = "07_ablations"
"""The notebook that reads the runs of a preset's ablations beside those of its methods."""

STORY_NOTEBOOK = "00_start_here"
"""The notebook that tells what the runs found; its HTML is the report, which links to those of the others."""

AGEING_NOTEBOOK = "10_face_ageing"
NOTEBOOK_SECTIONS: dict[str, str] = {
    "01_datasets_and_ages": "dataset",
    TRAINING_NOTEBOOK: "train",
    "03_similarity": "similarity",
    "04_prototype_projection": "projection",
    VERIFICATION_NOTEBOOK: "verification",
    "06_identification": "identification",
    ABLATIONS_NOTEBOOK: "ablations",
    AGEING_NOTEBOOK: "ageing",
    STORY_NOTEBOOK: "story",
}
"""Notebook -> the section of a preset that holds its parameters, in the order of the batch graph. The first prepares
the dataset, the last tells the story; those between the training and the last are analyses of the finished runs and
may run side by side. Faces are aged only where a preset has a section `ageing`, which names the `run` to do it with."""

ANALYSIS_NOTEBOOKS: tuple[str, ...] = tuple(NOTEBOOK_SECTIONS)[2:-2]
"""The notebooks that read finished runs, each on its own."""

LIKE = "like"
"""Key of an ablation's settings that names the method whose other settings it has; at the top of a preset, key of the
preset whose other parameters it has."""

_COMPARING_NOTEBOOKS = (*ANALYSIS_NOTEBOOKS, STORY_NOTEBOOK)
_JUDGING_NOTEBOOKS = (VERIFICATION_NOTEBOOK, "06_identification")
_TEST_SETS = ("test_sets", "on_missing")
_EVALUATION_SETTINGS = tuple(field.name for field in dataclasses.fields(EvaluationConfig))
_SET_BY_THE_GRAPH = ("experiment", "runs_dir")
_SET_FOR_EACH_TRAINING = (*_SET_BY_THE_GRAPH, "run", "seed")
_TOP_LEVEL = ("description", "experiment", LIKE, "methods", "seeds", *NOTEBOOK_SECTIONS.values())
_EXPONENT_AS_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")


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
            identification and ablations which further test sets the section of verification names.

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
        if notebook not in _JUDGING_NOTEBOOKS:
            return compared
        of_training = self.sections[NOTEBOOK_SECTIONS[TRAINING_NOTEBOOK]]
        rules = {
            name: of_training[name] for name in (*_EVALUATION_SETTINGS, "child_below_years") if name in of_training
        }
        return {**compared, **rules, **handed_on}


def list_presets(folder: str | Path = PRESETS_DIR) -> list[str]:
    """Give the names of the presets in a folder, sorted."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def read_preset(path_or_name: str | Path) -> Preset:
    """Read a preset and check its sections and numbers, and the training settings of every method.

    A preset with a line `like: <other>` has the parameters, methods and seeds of the other one, a name or a path beside
    it, except for what it sets itself: single parameters of a section, or all methods. Its experiment is its own.

    Args:
        path_or_name: Name of a preset of the project, as in `demo`, or the path of a YAML file.

    Returns:
        The preset.

    Raises:
        ConfigError: The preset is unknown, is not YAML, has unknown or missing sections, sets a parameter that the
            batch graph sets, holds a number that YAML reads as text, training settings that cannot be, or a sweep that
            sets nothing side by side, names a method that is not there or trains something twice.

    Example:
        >>> read_preset("tiny").experiment
        'tiny'
    """
    path = _preset_file(path_or_name)
    where = f"Preset {path}"
    content = _content(path)
    for key in ("experiment", "methods", "seeds"):
        if not content.get(key):
            raise ConfigError(f"{where}: {key!r} is missing or empty")
    experiment = content["experiment"]
    if not isinstance(experiment, str) or not re.fullmatch(r"\w[\w.-]*", experiment):
        raise ConfigError(f"{where}: experiment={experiment!r} must be letters, digits, '.', '_' and '-'")
    seeds = _seeds(content["seeds"], f"{where}: seeds")
    methods = {
        _method_name(name, where): _parameters(values, f"{where}: methods.{name}", _SET_FOR_EACH_TRAINING)
        for name, values in _mapping(content["methods"], f"{where}: methods").items()
    }
    ablations = dict(_mapping(content.get("ablations", {}), f"{where}: ablations"))
    sweeping = {key: ablations.pop(key) for key in ("seeds", "sweeps") if key in ablations}
    sections = {
        section: _parameters(
            ablations if notebook == ABLATIONS_NOTEBOOK else content.get(section),
            f"{where}: {section}",
            _SET_FOR_EACH_TRAINING if notebook == TRAINING_NOTEBOOK else _SET_BY_THE_GRAPH,
        )
        for notebook, section in NOTEBOOK_SECTIONS.items()
    }
    sweeps, ablation_methods = _sweeps(sweeping.get("sweeps", {}), methods, where)
    if "seeds" in sweeping and not sweeps:
        raise ConfigError(f"{where}: ablations.seeds without ablations.sweeps trains nothing; name the sweeps")
    _check_methods_named(sections, methods, where)
    configs = {
        name: _checked_settings({**sections["train"], **values}, f"{where}: method {name!r}")
        for name, values in {**methods, **ablation_methods}.items()
    }
    _check_sweeps(sweeps, configs, ablation_methods, where)
    return Preset(
        name=path.stem,
        path=path.resolve(),
        description=str(content.get("description", "")),
        experiment=experiment,
        methods=methods,
        seeds=seeds,
        sections=sections,
        sweeps=sweeps,
        ablation_methods=ablation_methods,
        ablation_seeds=_seeds(sweeping["seeds"], f"{where}: ablations.seeds") if "seeds" in sweeping else seeds,
    )


def _preset_file(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.suffix in (".yaml", ".yml"):
        return path
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
    return path


def _content(path: Path, liked_by: Sequence[Path] = ()) -> dict[str, Any]:
    """Read a file, and where it is like another preset, what it does not say from there."""
    where = f"Preset {path}"
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no preset file {path}. Known presets by name: {', '.join(list_presets())}."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Preset {path} cannot be read: {error}") from error
    content = _mapping(read, where)
    _known_keys(content, _TOP_LEVEL, where)
    if LIKE not in content:
        return content
    others = [*liked_by, path.resolve()]
    model = path.parent / _preset_file(str(content.pop(LIKE)))  # a path starts at the file that names it
    if model.resolve() in others:
        raise ConfigError(f"{where}: {LIKE}: leads back to {model}")
    base = {key: value for key, value in _content(model, others).items() if key not in ("description", "experiment")}
    for section in NOTEBOOK_SECTIONS.values():
        if isinstance(content.get(section), dict) and isinstance(base.get(section), dict):
            content[section] = {**base[section], **content[section]}
    return {**base, **content}


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


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or any(type(seed) is not int or seed < 0 for seed in value):
        raise ConfigError(f"{where}={value!r} must be a list of whole numbers from 0 on")
    if len(set(value)) != len(value):
        raise ConfigError(f"{where}={value!r} names a seed twice")
    return tuple(value)


def _method_name(name: Any, where: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise ConfigError(f"{where}: method {name!r} must be letters, digits, '.', '_' and '-'")
    return str(name)


def _runs(methods: Iterable[str], seeds: Sequence[int]) -> dict[str, tuple[str, int]]:
    methods = list(methods)
    return {f"{method}-s{seed}": (method, seed) for seed in seeds for method in methods}


def _checked_settings(settings: Mapping[str, Any], where: str) -> TrainConfig:
    training = {name: value for name, value in settings.items() if name not in _EVALUATION_SETTINGS}
    evaluation = {name: value for name, value in settings.items() if name in _EVALUATION_SETTINGS}
    try:
        EvaluationConfig(**evaluation)
        return TrainConfig.from_dict(training)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _sweeps(
    value: Any, methods: Mapping[str, Mapping[str, Any]], where: str
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, Any]]]:
    """Read the sweeps: what each sets side by side, and the settings of methods that are not among `methods`."""
    sweeps: dict[str, list[str]] = {}
    defined: dict[str, dict[str, Any]] = {}
    referred: dict[str, str] = {}
    for sweep, members in _mapping(value, f"{where}: ablations.sweeps").items():
        if not re.fullmatch(r"\w[\w-]*", str(sweep)):
            raise ConfigError(f"{where}: sweep {sweep!r} must be letters, digits, '_' and '-'")
        sweeps[str(sweep)] = []
        for entry, given in _mapping(members, f"{where}: ablations.sweeps.{sweep}").items():
            here = f"{where}: ablations.sweeps.{sweep}.{entry}"
            name = _method_name(entry, f"{where}: ablations.sweeps.{sweep}")
            sweeps[str(sweep)].append(name)
            if not given:
                referred.setdefault(name, here)
                continue
            settings = _like(_parameters(given, here, _SET_FOR_EACH_TRAINING), methods, here)
            if settings != {**methods, **defined}.get(name, settings):
                raise ConfigError(
                    f"{here}: {name!r} has other settings elsewhere in this preset. Give it another name, or no "
                    "settings here to share those runs."
                )
            if name not in methods:
                defined[name] = settings
    for name, here in referred.items():
        if name not in {**methods, **defined}:
            known = [*methods, *defined]
            raise ConfigError(
                f"{here}: {name!r} has no settings and is no method of this preset{_close(name, known)} "
                f"Known: {', '.join(known)}."
            )
    return {sweep: tuple(members) for sweep, members in sweeps.items()}, defined


def _like(settings: dict[str, Any], methods: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    if LIKE not in settings:
        return settings
    model = settings[LIKE]
    if model not in methods:
        raise ConfigError(
            f"{where}: {LIKE}: {model!r} is no method of this preset{_close(str(model), methods)} "
            f"Its methods: {', '.join(methods)}."
        )
    return {**methods[model], **{name: value for name, value in settings.items() if name != LIKE}}


def _check_sweeps(
    sweeps: Mapping[str, Sequence[str]],
    configs: Mapping[str, TrainConfig],
    added: Iterable[str],
    where: str,
) -> None:
    for sweep, members in sweeps.items():
        if len(members) < 2:
            raise ConfigError(
                f"{where}: ablations.sweeps.{sweep} sets nothing side by side: it names only {', '.join(members)!r}"
            )
    deciding = {name: deciding_settings(config) for name, config in configs.items()}
    for name in added:
        twin = next((other for other in deciding if other != name and deciding[other] == deciding[name]), None)
        if twin is not None:
            raise ConfigError(
                f"{where}: {name!r} trains the same as {twin!r}: settings that differ mean nothing there. "
                f"Name {twin!r} in the sweep instead, without settings, to share its runs."
            )


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
