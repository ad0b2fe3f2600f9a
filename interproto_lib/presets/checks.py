"""What may stand in a preset: small checks that say which file and which line of it is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from interproto_lib.errors import ConfigError

_EXPONENT_AS_TEXT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")


def checked_mapping(value: Any, where: str) -> dict[str, Any]:
    """Give a value that must hold `name: value` lines.

    Args:
        value: What YAML read.
        where: File and place in it, for the message.

    Returns:
        The value.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold `name: value` lines, found {type(value).__name__}")
    return value


def checked_parameters(value: Any, where: str, set_elsewhere: Sequence[str]) -> dict[str, Any]:
    """Give the parameters of one notebook, and refuse what cannot be meant.

    Args:
        value: What YAML read; None is no parameters.
        where: File and place in it, for the message.
        set_elsewhere: Parameters that the batch graph sets.

    Returns:
        Parameter -> value.

    Raises:
        ConfigError: A parameter of the batch graph, or a number that YAML reads as text.
    """
    parameters = {} if value is None else checked_mapping(value, where)
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


def checked_seeds(value: Any, where: str) -> tuple[int, ...]:
    """Give seeds as a tuple.

    Args:
        value: What YAML read.
        where: File and place in it, for the message.

    Returns:
        The seeds, in their order.

    Raises:
        ConfigError: No list of different whole numbers from 0 on.
    """
    if not isinstance(value, list) or not value or any(type(seed) is not int or seed < 0 for seed in value):
        raise ConfigError(f"{where}={value!r} must be a list of whole numbers from 0 on")
    if len(set(value)) != len(value):
        raise ConfigError(f"{where}={value!r} names a seed twice")
    return tuple(value)


def checked_method_name(name: Any, where: str) -> str:
    """Give the name of a method, which becomes that of run folders.

    Args:
        name: What YAML read.
        where: File and place in it, for the message.

    Returns:
        The name.

    Raises:
        ConfigError: It cannot be a folder's name.
    """
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
        raise ConfigError(f"{where}: method {name!r} must be letters, digits, '.', '_' and '-'")
    return str(name)


def check_keys(content: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that nothing knows.

    Args:
        content: The keys that are there.
        known: Those that may be there.
        where: File and place in it, for the message.

    Raises:
        ConfigError: A key is unknown; the message names a close one.
    """
    known = list(known)
    for key in content:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown section {key!r}{close_names(str(key), known)} Known: {', '.join(known)}."
            )


def close_names(name: str, known: Iterable[str]) -> str:
    """Give the end of a sentence about an unknown name: names like it, or a full stop.

    Example:
        >>> close_names("arc-face", ["arcface", "dal"])
        "; did you mean 'arcface'?"
    """
    matches = difflib.get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else "."
