"""What a person sees while long work runs: a bar where one can be drawn, plain lines where it would be garbled."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

from interproto_lib.errors import ConfigError

ProgressStyle = Literal["auto", "bar", "lines", "none"]
"""`auto` follows the environment variable INTERPROTO_PROGRESS and else draws a bar."""

_SHORTEST_WAIT, _LONGEST_WAIT, _WAITED_SHARE = 2.0, 60.0, 0.1
"""Seconds between plain lines at first and at most, and the share of the time so far that they grow to."""


def resolve_style(style: ProgressStyle) -> ProgressStyle:
    """Give the style that `auto` stands for.

    Args:
        style: The style asked for.

    Returns:
        `bar`, `lines` or `none`.

    Raises:
        ConfigError: The style, or the one that INTERPROTO_PROGRESS names, is unknown.
    """
    chosen = os.environ.get("INTERPROTO_PROGRESS", "bar") if style == "auto" else style
    if chosen not in ("bar", "lines", "none"):
        raise ConfigError(f"progress={chosen!r}: must be 'auto', 'bar', 'lines' or 'none' (or INTERPROTO_PROGRESS so)")
    return cast(ProgressStyle, chosen)


def seconds_between_lines(elapsed_seconds: float) -> float:
    """Give how long plain lines wait for one another: longer as the work goes on, so that a log stays readable.

    Args:
        elapsed_seconds: How long the work has been going on.

    Returns:
        Seconds: a tenth of the time so far, at least 2, at most 60.

    Example:
        >>> [seconds_between_lines(elapsed) for elapsed in (1, 100, 36000)]
        [2.0, 10.0, 60.0]
    """
    return min(_LONGEST_WAIT, max(_SHORTEST_WAIT, _WAITED_SHARE * elapsed_seconds))


def count_progress(
    description: str, unit: str = "image", *, style: ProgressStyle = "auto"
) -> Callable[[int, int], None]:
    """Make a report for work that counts things, such as drawing or embedding images.

    Args:
        description: What is done.
        unit: What is counted, in the singular.
        style: See `ProgressStyle`.

    Returns:
        A function to be called with the number done and the number of all.
    """
    chosen = resolve_style(style)
    if chosen == "bar":
        return _Bar(description, unit)
    if chosen == "lines":
        return _Lines(description, unit)
    return lambda done, of: None


@contextmanager
def shown_progress(
    description: str, unit: str = "image", *, style: ProgressStyle = "auto"
) -> Iterator[Callable[[int, int], None]]:
    """Make a report as `count_progress` does, whose bar ends with the block: an error then stands on a line of its own.

    Args:
        description: What is done.
        unit: What is counted, in the singular.
        style: See `ProgressStyle`.

    Yields:
        A function to be called with the number done and the number of all.
    """
    report = count_progress(description, unit, style=style)
    try:
        yield report
    finally:
        if isinstance(report, _Bar):
            report.close()


class _Bar:
    def __init__(self, description: str, unit: str) -> None:
        self._description = description
        self._unit = unit
        self._bar: Any = None

    def __call__(self, done: int, of: int) -> None:
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(total=of, desc=self._description, unit=self._unit)
        self._bar.update(done - self._bar.n)
        if done >= of:
            self.close()

    def close(self) -> None:
        """End the bar as it stands; nothing draws it again."""
        if self._bar is not None:
            self._bar.close()


class _Lines:
    def __init__(self, description: str, unit: str) -> None:
        self._description = description
        self._unit = unit
        self._started = time.monotonic()
        self._said = self._started

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._said < seconds_between_lines(now - self._started) and done < of:
            return
        self._said = now
        rate = done / max(1e-9, now - self._started)
        sys.stdout.write(f"{self._description}: {done:,} of {of:,} {self._unit}s, {rate:,.0f} a second\n")
        sys.stdout.flush()
