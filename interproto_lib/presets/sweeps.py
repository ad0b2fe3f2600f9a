"""The sweeps of a preset's ablations: what each sets side by side, and the methods that only they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interproto_lib.config import TrainConfig
from interproto_lib.deciding_settings import deciding_settings
from interproto_lib.errors import ConfigError
from interproto_lib.presets.checks import checked_mapping, checked_method_name, checked_parameters, close_names

LIKE = "like"
"""Key of an ablation's settings that names the method whose other settings it has; at the top of a preset, key of the
preset whose other parameters it has."""

SET_FOR_EACH_TRAINING = ("experiment", "runs_dir", "run", "seed")
"""Parameters of a training that the batch graph sets."""


def read_sweeps(
    value: Any, methods: Mapping[str, Mapping[str, Any]], where: str
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, Any]]]:
    """Read the sweeps: what each sets side by side, and the settings of methods that are not among `methods`.

    Args:
        value: What YAML read of `ablations.sweeps`.
        methods: Methods of the preset with their settings.
        where: The preset, for messages.

    Returns:
        Sweep -> its methods, and method that only sweeps name -> its settings.

    Raises:
        ConfigError: A name that cannot be, settings that contradict others, or a method that nothing defines.
    """
    sweeps: dict[str, list[str]] = {}
    defined: dict[str, dict[str, Any]] = {}
    referred: dict[str, str] = {}
    for sweep, members in checked_mapping(value, f"{where}: ablations.sweeps").items():
        if not re.fullmatch(r"\w[\w-]*", str(sweep)):
            raise ConfigError(f"{where}: sweep {sweep!r} must be letters, digits, '_' and '-'")
        sweeps[str(sweep)] = []
        for entry, given in checked_mapping(members, f"{where}: ablations.sweeps.{sweep}").items():
            here = f"{where}: ablations.sweeps.{sweep}.{entry}"
            name = checked_method_name(entry, f"{where}: ablations.sweeps.{sweep}")
            sweeps[str(sweep)].append(name)
            if not given:
                referred.setdefault(name, here)
                continue
            settings = _like(checked_parameters(given, here, SET_FOR_EACH_TRAINING), methods, here)
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
                f"{here}: {name!r} has no settings and is no method of this preset{close_names(name, known)} "
                f"Known: {', '.join(known)}."
            )
    return {sweep: tuple(members) for sweep, members in sweeps.items()}, defined


def check_sweeps(
    sweeps: Mapping[str, Sequence[str]],
    configs: Mapping[str, TrainConfig],
    added: Iterable[str],
    where: str,
) -> None:
    """Refuse sweeps of one method, and methods of sweeps that train the same as another.

    Args:
        sweeps: As `read_sweeps` gives them.
        configs: Training settings of every method.
        added: Methods that only sweeps name.
        where: The preset, for messages.

    Raises:
        ConfigError: See above.
    """
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


def _like(settings: dict[str, Any], methods: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    if LIKE not in settings:
        return settings
    model = settings[LIKE]
    if model not in methods:
        raise ConfigError(
            f"{where}: {LIKE}: {model!r} is no method of this preset{close_names(str(model), methods)} "
            f"Its methods: {', '.join(methods)}."
        )
    return {**methods[model], **{name: value for name, value in settings.items() if name != LIKE}}
