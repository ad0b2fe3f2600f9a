"""What a person sees while a training runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from interproto_lib.progress import SECONDS_BETWEEN_LINES, ProgressStyle, resolve_style


class Progress(Protocol):
    """How the training loop reports."""

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        """Say that `step` steps are made; `row` holds the latest metrics when there are new ones."""

    def close(self) -> None:
        """Say that nothing more will come."""


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

        self._bar: Any = tqdm(total=total_steps, initial=first_step, desc=name, unit="step", dynamic_ncols=True)

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        self._bar.update(step - self._bar.n)
        if row is not None:
            self._bar.set_postfix_str(_summary(row), refresh=False)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, name: str, total_steps: int, first_step: int, n_epochs: int) -> None:
        self._name = name
        self._total_steps = total_steps
        self._first_step = first_step
        self._n_epochs = n_epochs
        self._started = time.monotonic()
        self._said = self._started - SECONDS_BETWEEN_LINES

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if row is None or (now - self._said < SECONDS_BETWEEN_LINES and step < self._total_steps):
            return
        self._said = now
        left = (now - self._started) / max(1, step - self._first_step) * (self._total_steps - step)
        epochs = step * self._n_epochs / self._total_steps
        sys.stdout.write(f"{self._name}: epoch {epochs:.1f}/{self._n_epochs}, {_summary(row)}, {_clock(left)} left\n")
        sys.stdout.flush()

    def close(self) -> None:
        pass


class _Silence:
    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        pass

    def close(self) -> None:
        pass


def _summary(row: Mapping[str, float]) -> str:
    text = f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.0%}"
    if row["inter_prototype_loss"] > 0:
        text += f", inter-prototype {row['inter_prototype_loss']:.3g}"
    return f"{text}, {row['images_per_second']:.0f} images/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
