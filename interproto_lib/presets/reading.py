"""Reading a preset: one YAML file, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.errors import ConfigError
from interproto_lib.presets.checks import (
    check_keys,
    checked_mapping,
    checked_method_name,
    checked_parameters,
    checked_seeds,
    close_names,
)
from interproto_lib.presets.notebooks import ABLATIONS_NOTEBOOK, NOTEBOOK_SECTIONS, TRAINING_NOTEBOOK
from interproto_lib.presets.preset import EVALUATION_SETTINGS, PROCESSES, Preset
from interproto_lib.presets.sweeps import LIKE, SET_FOR_EACH_TRAINING, check_sweeps, read_sweeps
from interproto_lib.setting_checks import require

PRESETS_DIR = Path(__file__).resolve().parents[2] / "notebooks" / "presets"
"""Folder of the presets that come with the project."""

_SET_BY_THE_GRAPH = ("experiment", "runs_dir")
_TOP_LEVEL = ("description", "experiment", LIKE, "methods", "seeds", *NOTEBOOK_SECTIONS.values())


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
    seeds = checked_seeds(content["seeds"], f"{where}: seeds")
    methods = {
        checked_method_name(name, where): checked_parameters(values, f"{where}: methods.{name}", SET_FOR_EACH_TRAINING)
        for name, values in checked_mapping(content["methods"], f"{where}: methods").items()
    }
    ablations = dict(checked_mapping(content.get("ablations", {}), f"{where}: ablations"))
    sweeping = {key: ablations.pop(key) for key in ("seeds", "sweeps") if key in ablations}
    sections = {
        section: checked_parameters(
            ablations if notebook == ABLATIONS_NOTEBOOK else content.get(section),
            f"{where}: {section}",
            SET_FOR_EACH_TRAINING if notebook == TRAINING_NOTEBOOK else _SET_BY_THE_GRAPH,
        )
        for notebook, section in NOTEBOOK_SECTIONS.items()
    }
    sweeps, ablation_methods = read_sweeps(sweeping.get("sweeps", {}), methods, where)
    if "seeds" in sweeping and not sweeps:
        raise ConfigError(f"{where}: ablations.seeds without ablations.sweeps trains nothing; name the sweeps")
    _check_methods_named(sections, methods, where)
    configs = {
        name: _checked_settings(sections["train"], values, f"{where}: method {name!r}")
        for name, values in {**methods, **ablation_methods}.items()
    }
    check_sweeps(sweeps, configs, ablation_methods, where)
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
        ablation_seeds=checked_seeds(sweeping["seeds"], f"{where}: ablations.seeds") if "seeds" in sweeping else seeds,
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
            f"Unknown preset {str(path_or_name)!r}{close_names(str(path_or_name), known)} "
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
    content = checked_mapping(read, where)
    check_keys(content, _TOP_LEVEL, where)
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


def _checked_settings(common: Mapping[str, Any], own: Mapping[str, Any], where: str) -> TrainConfig:
    if PROCESSES in own:
        raise ConfigError(
            f"{where}: {PROCESSES!r} is the same for all trainings of a preset; set it in section 'train'"
        )
    settings = {**common, **own}
    processes = settings.pop(PROCESSES, 1)
    training = {name: value for name, value in settings.items() if name not in EVALUATION_SETTINGS}
    evaluation = {name: value for name, value in settings.items() if name in EVALUATION_SETTINGS}
    try:
        EvaluationConfig(**evaluation)
        config = TrainConfig.from_dict(training)
        _check_processes(processes, config.batch_parts)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return config


def _check_processes(processes: Any, batch_parts: int) -> None:
    require(type(processes) is int and processes >= 1, PROCESSES, processes, "a whole number, at least 1")
    rule = (
        f"a divisor of batch_parts={batch_parts}; set batch_parts (it decides the result) to a multiple of {processes}"
    )
    require(batch_parts % processes == 0, PROCESSES, processes, rule)


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
                        f"{close_names(str(method), methods)} Its methods: {', '.join(methods)}."
                    )
