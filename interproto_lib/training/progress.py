"""What a person sees while a training runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from interproto_lib.progress import ProgressStyle, resolve_style, seconds_between_lines


class Progress(Protocol):
    """How the training loop reports."""

    def say(self, text: str) -> None:
        """Say something on a line of its own."""

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        """Say that `step` steps are made; `row` holds the latest metrics when there are new ones."""

    def close(self, last_words: str = "") -> None:
        """Say that nothing more will come, and how it ended."""


def make_progress(style: ProgressStyle, *, name: str, total_steps: int, first_step: int, n_epochs: int) -> Progress:
    """Make the report of one training.

    Args:
        style: `bar` (tqdm), `lines` (at most one line each two seconds, for logs and batch runs), `none`, or `auto`.
        name: Name of the run.
        total_steps: Steps of the whole training.
        first_step: Steps already made, where a run is resumed.
        n_epochs: Epochs of the whole training.

    Returns:
        The report.

    Raises:
        ConfigError: The style is unknown.
    """
    chosen = resolve_style(style)
    if chosen == "bar":
        return _Bar(name, total_steps, first_step)
    return _Lines(name, total_steps, first_step, n_epochs) if chosen == "lines" else _Silence()


class _Bar:
    def __init__(self, name: str, total_steps: int, first_step: int) -> None:
        from tqdm.auto import tqdm

        self._name = name
        self._bar: Any = tqdm(total=total_steps, initial=first_step, desc=name, unit="step", dynamic_ncols=True)

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        self._bar.update(step - self._bar.n)
        if row is not None:
            self._bar.set_postfix_str(_summary(row), refresh=False)

    def say(self, text: str) -> None:
        self._bar.write(f"{self._name}: {text}")

    def close(self, last_words: str = "") -> None:
        self._bar.close()
        _say(self._name, last_words)


class _Lines:
    def __init__(self, name: str, total_steps: int, first_step: int, n_epochs: int) -> None:
        self._name = name
        self._total_steps = total_steps
        self._first_step = first_step
        self._n_epochs = n_epochs
        self._started = time.monotonic()
        self._said = self._started - seconds_between_lines(0)

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        waits = now - self._said < seconds_between_lines(now - self._started)
        if row is None or (waits and step < self._total_steps):
            return
        self._said = now
        left = (now - self._started) / max(1, step - self._first_step) * (self._total_steps - step)
        epochs = step * self._n_epochs / self._total_steps
        _say(self._name, f"epoch {epochs:.1f}/{self._n_epochs}, {_summary(row)}, {clock(left)} left")

    def say(self, text: str) -> None:
        _say(self._name, text)

    def close(self, last_words: str = "") -> None:
        _say(self._name, last_words)


class _Silence:
    def say(self, text: str) -> None:
        pass

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        pass

    def close(self, last_words: str = "") -> None:
        pass


def _say(name: str, text: str) -> None:
    if text:
        sys.stdout.write(f"{name}: {text}\n")
        sys.stdout.flush()


def _summary(row: Mapping[str, float]) -> str:
    parts = {name.removesuffix("_loss"): value for name, value in row.items() if name.endswith("_loss") and value}
    of_loss = ", ".join(f"{name.replace('_', '-')} {value:.3g}" for name, value in parts.items())
    text = f"loss {row['loss']:.3f}{f' ({of_loss})' if len(parts) > 1 else ''}, accuracy {row['accuracy']:.0%}"
    return f"{text}, {row['images_per_second']:,.0f} images/s, data wait {row['data_wait']:.1%}"


def clock(seconds: float) -> str:
    """Write a time span as hours, minutes and seconds.

    Args:
        seconds: The time span.

    Example:
        >>> clock(59.7), clock(3725)
        ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
