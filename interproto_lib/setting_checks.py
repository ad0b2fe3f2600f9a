"""Checks that settings share: their types, and the ranges of their values."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from interproto_lib.errors import ConfigError


def require(holds: bool, name: str, value: Any, rule: str) -> None:
    """Raise ConfigError unless a setting keeps to its rule.

    Args:
        holds: Whether it does.
        name: The setting.
        value: Its value.
        rule: What it must be, as in "at least 1".

    Raises:
        ConfigError: It does not; the message names setting, value and rule.
    """
    if not holds:
        raise ConfigError(f"{name}={value!r}: must be {rule}")


def checked_type(name: str, value: Any, hint: Any) -> Any:
    """Give a value as the type of its field: whole numbers pass for floats, lists for tuples.

    Args:
        name: The setting.
        value: Its value.
        hint: The type of the field: a plain type, a Literal, a tuple of whole numbers, or one of these or None.

    Returns:
        The value in that type.

    Raises:
        ConfigError: It has another type, is not among the choices, or is not finite.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)) or not all(type(v) is int for v in value):
            raise ConfigError(f"{name}={value!r}: must be a list of whole numbers")
        return tuple(value)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        advice = " (YAML reads 1e-3 as text: write 1.0e-3)" if hint is float and isinstance(value, str) else ""
        raise ConfigError(f"{name}={value!r}: must be of type {hint.__name__}, not {type(value).__name__}{advice}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{name}={value!r}: must be finite")
    return value


def refuse_unknown(given: Iterable[str], known: Iterable[str], *, what: str) -> None:
    """Refuse names that do not exist.

    Args:
        given: The names given.
        known: All names there are.
        what: What they name, as in "training setting".

    Raises:
        ConfigError: A name is unknown; the message names it, the closest one and all there are.
    """
    names = list(known)
    unknown = sorted(set(given) - set(names))
    if unknown:
        close = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ConfigError(f"Unknown {what} {unknown[0]!r}{hint} Known: {', '.join(names)}.")
