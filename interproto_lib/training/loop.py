"""The training loop: settings and a dataset in, a run folder out; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import FaceDataset, training_labels
from interproto_lib.data.manifests import class_table
from interproto_lib.errors import ConfigError, DatasetError, RunError, TrainingDivergedError
from interproto_lib.files import atomic_write, file_lock, write_json
from interproto_lib.models import save_backbone
from interproto_lib.progress import ProgressStyle
from interproto_lib.runs import RunFolder, environment, table_hash, write_table
from interproto_lib.training.batches import EpochBatches
from interproto_lib.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from interproto_lib.training.metrics import MetricsLog
from interproto_lib.training.progress import Progress, make_progress
from interproto_lib.training.recognizer import Recognizer, parameter_groups
from interproto_lib.training.schedule import learning_rate_at

WINDOW = ("loss", "margin_loss", "inter_prototype_loss", "accuracy")
"""Losses summed on the device between two logged rows."""


def train(
    config: TrainConfig, dataset: FaceDataset, folder: str | Path, *, progress: ProgressStyle = "auto"
) -> RunFolder:
    """Train a recogniser (Algorithm 1 of the paper) and leave everything it was and became in a run folder.

    A finished run in the folder is given back as it is; an unfinished one with the same settings and dataset goes on
    from its last checkpoint and, on the CPU with the same number of threads, ends with the same bits as if it had
    never stopped. The global random state is left as it was.

    Args:
        config: The settings.
        dataset: The images; its split `train` is used.
        folder: The run folder; made if missing.
        progress: `bar`, `lines`, `none`, or `auto`.

    Returns:
        The finished run.

    Raises:
        ConfigError: The settings do not fit the dataset or the machine.
        DatasetError: There are fewer than two identities to train on.
        RunError: The folder holds a run with other settings or of another dataset, or another process trains in it.
        CheckpointError: The checkpoint in the folder is damaged.
        TrainingDivergedError: The loss became non-finite; the last checkpoint is kept.
        WriteError: The folder cannot be written.
    """
    run = RunFolder(Path(folder))
    classes = class_table(
        dataset.manifest,
        min_child_images=config.min_child_images,
        child_below_years=config.child_below_years,
        unlabelled_as_years=config.unlabelled_as_years,
    )
    if len(classes) < 2:
        raise DatasetError(f"Dataset {dataset.name!r} has {len(classes)} training identities; training needs two.")
    identity = {"train": config.to_dict(), "dataset": _describe(dataset, classes)}
    busy = f"Another process is training in {run.path}. Wait for it, or use another run name."
    with file_lock(run.path / ".lock", busy=busy):
        if (run.path / "config.json").is_file():
            _check_same(run, identity)
        if run.is_finished:
            return run
        device = _device(config.device)
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), _threads(config.threads):
            trainer = _Trainer(config, dataset, classes, run.path, device)
            write_table(classes, run.path / "classes.csv")
            write_json(run.path / "environment.json", {**environment(), **trainer.environment()})
            write_json(run.path / "config.json", identity)
            trainer.run(progress)
    return run


class _Trainer:
    """One training in progress: the state that Algorithm 1 changes, and where it is recorded."""

    def __init__(
        self, config: TrainConfig, dataset: FaceDataset, classes: pd.DataFrame, folder: Path, device: torch.device
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.folder = folder
        self.device = device
        rows, labels = training_labels(dataset, classes)
        self.batches = EpochBatches(
            dataset.images,
            rows,
            labels,
            batch_size=config.batch_size,
            flip=config.flip,
            seed=config.seed,
            device=device,
        )
        is_child = classes["is_child"].to_numpy(dtype=bool)
        self.recognizer = Recognizer(config, image_size=dataset.image_size, is_child=is_child).to(device)
        if config.channels_last:
            self.recognizer.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.recognizer, config.weight_decay),
            lr=config.learning_rate,
            momentum=config.momentum,
            fused=True,
        )
        self.autocast_dtype = _autocast_dtype(config.precision, device)
        self.window = torch.zeros(len(WINDOW), device=device)
        self.step = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()

    def environment(self) -> dict[str, object]:
        """What the settings left to the machine, as it was chosen."""
        card = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {
            "device": str(self.device),
            "gpu": card,
            "threads": torch.get_num_threads(),
            "backbone_precision": str(self.autocast_dtype or torch.float32).removeprefix("torch."),
        }

    def run(self, progress_style: ProgressStyle) -> None:
        """Train to the end, from the checkpoint where there is one."""
        checkpoint = self.folder / "checkpoint.pt"
        if checkpoint.is_file():
            self._restore(load_checkpoint(checkpoint, device=self.device))
        per_epoch = self.batches.steps_per_epoch
        total_steps = self.config.epochs * per_epoch
        metrics = MetricsLog(self.folder, self.config, resume_step=self.step)
        progress = make_progress(
            progress_style,
            name=self.folder.name,
            total_steps=total_steps,
            first_step=self.step,
            n_epochs=self.config.epochs,
        )
        try:
            while self.step < total_steps:
                self._train_epoch(self.step // per_epoch, self.step % per_epoch, metrics, progress)
        finally:
            metrics.close()
            progress.close()
        self._finish()

    def _train_epoch(self, epoch: int, first_step: int, metrics: MetricsLog, progress: Progress) -> None:
        config, per_epoch = self.config, self.batches.steps_per_epoch
        self.recognizer.train()
        since, steps_since = time.monotonic(), 0
        for images, labels in self.batches.epoch(epoch, first_step=first_step):
            self._optimise(images, labels)
            self.step += 1
            steps_since += 1
            row = None
            ends_epoch = self.step % per_epoch == 0
            if self.step % config.log_every_steps == 0 or self.step == config.epochs * per_epoch:
                row = self._row(steps_since * config.batch_size / max(1e-9, time.monotonic() - since))
                metrics.write(row)
                since, steps_since = time.monotonic(), 0
            progress.update(self.step, row)
            if ends_epoch and config.keep_every_epoch:
                self._save_backbone(self.folder / "epochs" / f"backbone-{epoch + 1:04d}.safetensors")
            if ends_epoch or (config.checkpoint_every_steps and self.step % config.checkpoint_every_steps == 0):
                self._save()

    def _optimise(self, images: Tensor, labels: Tensor) -> None:
        rate = learning_rate_at(self.config, self.step, steps_per_epoch=self.batches.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.recognizer(images, labels, autocast_dtype=self.autocast_dtype)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimizer.step()
        parts = (losses.total.detach(), losses.margin, losses.inter_prototype, losses.accuracy)
        self.window += torch.stack(parts)

    def _row(self, images_per_second: float) -> dict[str, float]:
        """Mean losses since the last row; the only place where the device is waited for between checkpoints."""
        self._check_finite()
        config, per_epoch = self.config, self.batches.steps_per_epoch
        n_steps = (self.step - 1) % config.log_every_steps + 1
        means = (self.window / n_steps).tolist()
        self.window.zero_()
        return {
            "step": self.step,
            "epoch": self.step / per_epoch,
            **dict(zip(WINDOW, means, strict=True)),
            "learning_rate": learning_rate_at(config, self.step - 1, steps_per_epoch=per_epoch),
            "images_per_second": images_per_second,
        }

    def _check_finite(self) -> None:
        state = torch.stack([self.window.sum(), self.recognizer.prototypes.detach().sum()])
        if not bool(torch.isfinite(state).all()):
            last = self.folder / "checkpoint.pt"
            kept = f"The last good checkpoint is kept in {last}." if last.is_file() else "No checkpoint was made yet."
            raise TrainingDivergedError(
                f"The loss of run {self.folder.name!r} became non-finite by step {self.step}. {kept} Use a lower "
                f"learning_rate (now {self.config.learning_rate:g}), a longer warm-up, or a smaller scale or margin."
            )

    def _save(self) -> None:
        self._check_finite()
        state = TrainingState(
            step=self.step,
            recognizer=self.recognizer.state_dict(),
            optimizer=self.optimizer.state_dict(),
            window=self.window,
            random_state=torch.get_rng_state(),
            cuda_random_state=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            seconds=self._seconds(),
        )
        save_checkpoint(state, self.folder / "checkpoint.pt")

    def _restore(self, state: TrainingState) -> None:
        self.step = state.step
        self.recognizer.load_state_dict(state.recognizer)
        self.optimizer.load_state_dict(state.optimizer)
        self.window = state.window
        torch.set_rng_state(state.random_state)
        if state.cuda_random_state is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state.cuda_random_state, self.device)
        self.seconds_before = state.seconds

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _save_backbone(self, path: Path) -> None:
        config = self.config
        network = {"backbone": config.backbone, "embedding_dim": config.embedding_dim, "channels": "RGB"}
        # One entry, because safetensors keeps several in no fixed order and equal runs are to be equal bytes.
        save_backbone(self.recognizer.backbone, path, metadata={"network": json.dumps(network)})

    def _finish(self) -> None:
        from safetensors.numpy import save_file

        self._save_backbone(self.folder / "backbone.safetensors")
        prototypes = self.recognizer.prototypes.detach().cpu().numpy()
        with atomic_write(self.folder / "prototypes.safetensors") as temporary:
            save_file({"prototypes": np.ascontiguousarray(prototypes)}, temporary)
        last = RunFolder(self.folder).metrics().iloc[-1]
        seconds = self._seconds()
        summary = {
            "steps": self.step,
            "seconds": round(seconds, 2),
            "images_per_second": round(self.step * self.config.batch_size / seconds, 1),
            "n_identities": len(prototypes),
            "n_pushed_apart": len(self.recognizer.pushed_apart),
            **{name: float(last[name]) for name in WINDOW},
        }
        write_json(self.folder / "summary.json", summary)


def _describe(dataset: FaceDataset, classes: pd.DataFrame) -> dict[str, object]:
    columns = ["path", "identity", "age_years", "split"]
    return {
        "name": dataset.name,
        "image_size": dataset.image_size,
        "n_images": len(dataset),
        "manifest_sha256": table_hash(dataset.manifest[columns]),
        "classes_sha256": table_hash(classes),
        "settings": dataset.settings,
    }


def _check_same(run: RunFolder, identity: dict[str, dict[str, object]]) -> None:
    there = {"train": run.config.to_dict(), "dataset": run.dataset_info}
    for part, wanted in identity.items():
        found = there[part]
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            others = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise RunError(
                f"{run.path} holds a run with other {'settings' if part == 'train' else 'data'}: {name} was "
                f"{found.get(name)!r}, now {wanted[name]!r}{others}. Choose another run name, or remove the folder."
            )


@contextlib.contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r} is not a device: use 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name!r}: this machine has no usable GPU. Use 'cpu' or 'auto'.")
    return device


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    fast_cpu = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    if precision == "bfloat16" or (precision == "auto" and (device.type == "cuda" or fast_cpu)):
        return torch.bfloat16
    return None
