"""What a preset will cost before it starts: trainings, images and hours, at rates measured here or stated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import torch

from interproto_lib.analysis.training_costs import training_multiply_adds
from interproto_lib.analysis.training_rates import (
    TrainingImages,
    measured_runs,
    rates_of,
    stated_rate,
    training_images,
)
from interproto_lib.config import TrainConfig
from interproto_lib.presets import Preset, read_preset
from interproto_lib.runs import RunFolder, experiment_folder

DAY_HOURS = 24.0
"""From so many hours on a CPU on, it is said what a GPU would take."""

_TRAINING_SETTINGS = frozenset(field.name for field in fields(TrainConfig))


@dataclass(frozen=True, kw_only=True)
class MethodCosts:
    """What the trainings of one method cost that are not done yet.

    Attributes:
        n_trainings: Trainings to do.
        n_images: Images seen in all of them together: epochs times training images.
        ratio: Multiply-adds of an image beside those of ArcFace on the preset's common network.
        images_per_second: The rate taken, of all processes of a training together.
        basis: Where the rate comes from, in words.
        gpu_images_per_second: The rate by what is stated for one GPU.
        gpu_basis: Where that comes from, in words.
    """

    n_trainings: int
    n_images: int
    ratio: float
    images_per_second: float
    basis: str
    gpu_images_per_second: float
    gpu_basis: str

    @property
    def hours(self) -> float:
        """Hours of all its trainings, one after the other."""
        return self.n_images / self.images_per_second / 3600

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours at the rate of the stated GPU."""
        return self.n_images / self.gpu_images_per_second / 3600


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """An estimate of what the trainings of a preset cost; `str` tells it.

    Attributes:
        preset: Name of the preset.
        n_trainings: All its trainings, those of its ablations included.
        n_finished: How many of them are done.
        epochs: Epochs of each training; several values where methods differ.
        images: What is trained on; None where nobody knows before the dataset is made.
        on_gpu: Whether this machine has a GPU to train on.
        methods: Method -> what its trainings cost that are not done; empty where `images` is None.
        n_unread: Finished runs that could not be read, and so give no rate.
        cores: Trainings of one process side by side.
        processes: Processes that share each training.
    """

    preset: str
    n_trainings: int
    n_finished: int
    epochs: tuple[int, ...]
    images: TrainingImages | None
    on_gpu: bool
    methods: Mapping[str, MethodCosts]
    n_unread: int
    cores: int
    processes: int

    @property
    def n_images(self) -> int:
        """Images seen in all trainings to do."""
        return sum(costs.n_images for costs in self.methods.values())

    @property
    def hours(self) -> float:
        """Hours of all trainings to do, one after the other, on this machine."""
        return sum(costs.hours for costs in self.methods.values())

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours of all trainings to do, on the GPU of the stated reference."""
        return sum(costs.gpu_hours for costs in self.methods.values())

    def __str__(self) -> str:
        to_do = self.n_trainings - self.n_finished
        lines = [
            f"Preset {self.preset}: {_counted(self.n_trainings, 'training')}, {self.n_finished:,} of them done, "
            f"{to_do:,} to do."
        ]
        if self.images is None:
            return f"{lines[0]}\nHow long they take cannot be estimated: {_UNKNOWN_IMAGES}"
        if not to_do:
            return lines[0]
        epochs = " or ".join(f"{n}" for n in self.epochs)
        lines.append(
            f"Each sees {self.images.n_images:,} images of {self.images.n_identities:,} identities "
            f"({self.images.source}) in {epochs} epochs: {self.n_images:,} images in all."
        )
        where = f"GPU{'s' if self.processes > 1 else ''}" if self.on_gpu else "CPU"
        lines.append(
            f"Estimate: {_duration(self.hours)} of training on this machine's {where}{self._shared()}, "
            f"one training after the other{self._side_by_side()}."
        )
        if self._tells_of_a_gpu():
            bases = " or ".join(dict.fromkeys(costs.gpu_basis for costs in self.methods.values()))
            lines.append(f"On a GPU: {self.gpu_hours:,.0f} GPU-hours ({bases}).")
        lines += ["", *self._table()]
        if self.n_unread:
            lines.append(f"{_counted(self.n_unread, 'finished run')} could not be read and gave no rate.")
        return "\n".join([*lines, *_CAVEATS])

    def _table(self) -> list[str]:
        """One line a method, then where each rate comes from."""
        bases = list(dict.fromkeys(costs.basis for costs in self.methods.values()))
        gpu = self._tells_of_a_gpu()
        head = f"{'method':28}{'trainings':>10}{'cost of an image':>18}{'images/s':>10}{'hours':>10}  rate"
        lines = [head + ("  GPU-hours" if gpu else "")]
        for method, costs in self.methods.items():
            rate, hours = _short(costs.images_per_second), _short(costs.hours)
            mark = f"({bases.index(costs.basis) + 1})"
            line = f"{method:28}{costs.n_trainings:10,}{costs.ratio:17.2f}x{rate:>10}{hours:>10}  {mark:4}"
            lines.append(f"{line}{_short(costs.gpu_hours):>11}" if gpu else line.rstrip())
        return [*lines, *(f"({number}) {basis}" for number, basis in enumerate(bases, start=1))]

    def _tells_of_a_gpu(self) -> bool:
        return not self.on_gpu and self.hours > DAY_HOURS

    def _shared(self) -> str:
        """The processes of a training, and what is taken for granted of them."""
        n = self.processes
        return "" if n == 1 else f", each shared by {n} processes that are taken to be {n} times as fast as one"

    def _side_by_side(self) -> str:
        n = min(self.cores // self.processes, self.n_trainings - self.n_finished)
        if self.on_gpu or n < 2:
            return ""
        cores = "as many cores" if self.processes == 1 else f"{n * self.processes} cores"
        return f"; {_duration(self.hours / n)} with {n} side by side on {cores}"


_CAVEATS = (
    "The cost of an image is counted in multiply-adds, that of ArcFace on the preset's common network being 1. The",
    "benchmark `methods` found that right within a fifth; MTLFace on a small network costs a fifth more than counted.",
    "This is an estimate, of the trainings alone: making the dataset, choosing epochs and the analyses come on top.",
)
_UNKNOWN_IMAGES = (
    "nobody knows how many images there are before the dataset is made. Run notebook 01 first, or name a dataset card "
    "with counts (`card:` in the section `dataset`)."
)


def estimate_costs(preset: Preset | str | Path, *, runs_dir: str | Path = "runs", cores: int = 1) -> CostEstimate:
    """Estimate what the trainings of a preset cost that are not done yet. Nothing is trained, nothing written.

    Rates come, in this order, from finished runs in `runs_dir` of the same method, network and image size on the same
    kind of machine; from such runs of other methods, scaled by multiply-adds; from the stated reference of a CPU or of
    a GPU, scaled likewise. Where there are several runs their median counts. A training is taken to go as many times as
    fast as processes share it; so are the finished runs.

    Args:
        preset: The preset, or its name or file.
        runs_dir: Folder of all experiments.
        cores: Trainings of one process side by side.

    Returns:
        The estimate.

    Raises:
        ConfigError: The preset is wrong.
    """
    chosen = preset if isinstance(preset, Preset) else read_preset(preset)
    folder = experiment_folder(chosen.experiment, runs_dir)
    settings = {**chosen.methods, **chosen.ablation_methods}
    configs = {method: _config({**chosen.sections["train"], **own}) for method, own in settings.items()}
    trainings = {**chosen.runs, **chosen.ablation_runs}
    waiting = [method for run, (method, _) in trainings.items() if not RunFolder(folder / run).is_finished]
    images = training_images(chosen, folder)
    on_gpu = torch.cuda.is_available() and any(config.device != "cpu" for config in configs.values())
    runs, n_unread = measured_runs(runs_dir, on_gpu=on_gpu)
    methods = {}
    if images is not None:
        size, n_identities = images.image_size, images.n_identities
        common = _config(chosen.sections["train"], only=("backbone", "embedding_dim", "dropout"))
        plain = training_multiply_adds(common, image_size=size, n_identities=n_identities)
        for method in dict.fromkeys(waiting):
            config = configs[method]
            own = training_multiply_adds(config, image_size=size, n_identities=n_identities)
            stated, of_gpu = (
                stated_rate(on_gpu=gpu, multiply_adds=own, precision=config.precision) for gpu in (on_gpu, True)
            )
            rates = rates_of(config, size, runs) or [stated]
            methods[method] = MethodCosts(
                n_trainings=waiting.count(method),
                n_images=waiting.count(method) * config.epochs * images.n_images,
                ratio=own / plain,
                images_per_second=chosen.processes * median(rate.of(own) for rate in rates),
                basis=rates[0].source,
                gpu_images_per_second=of_gpu.of(own),
                gpu_basis=of_gpu.source,
            )
    return CostEstimate(
        preset=chosen.name,
        n_trainings=len(trainings),
        n_finished=len(trainings) - len(waiting),
        epochs=tuple(sorted({configs[method].epochs for method in waiting})),
        images=images,
        on_gpu=on_gpu,
        methods=methods,
        n_unread=n_unread,
        cores=cores,
        processes=chosen.processes,
    )


def _config(settings: Mapping[str, Any], *, only: Collection[str] = _TRAINING_SETTINGS) -> TrainConfig:
    """The training settings among the parameters of notebook 02."""
    return TrainConfig.from_dict({name: value for name, value in settings.items() if name in only})


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _short(value: float) -> str:
    """Two digits after the point for small numbers, none for large ones."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{_counted(max(1, round(60 * hours)), 'minute')}"
    return f"{hours:,.1f} hours" if hours < DAY_HOURS else f"{hours:,.0f} hours ({hours / DAY_HOURS:,.0f} days)"
