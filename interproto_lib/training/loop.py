"""The training loop: settings and a dataset in, a run folder out; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interproto_lib.config import UNDECISIVE_SETTINGS, TrainConfig
from interproto_lib.data.datasets import FaceDataset, hash_images, training_labels
from interproto_lib.data.manifests import class_table
from interproto_lib.devices import resolve_device, torch_threads
from interproto_lib.errors import DatasetError, RunError, TrainingDivergedError
from interproto_lib.files import file_lock, write_arrays, write_json
from interproto_lib.methods import METHODS
from interproto_lib.models import save_backbone
from interproto_lib.progress import ProgressStyle
from interproto_lib.runs import RunFolder, environment, table_hash, write_table
from interproto_lib.training.batches import Batch, EpochBatches
from interproto_lib.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from interproto_lib.training.metrics import MetricsLog
from interproto_lib.training.progress import Progress, make_progress
from interproto_lib.training.recognizer import Recognizer, parameter_groups
from interproto_lib.training.schedule import learning_rate_at

WINDOW = ("loss", "margin_loss", "inter_prototype_loss", "accuracy")
"""Losses summed on the device between two logged rows."""

LOCK_WAIT_SECONDS = 30.0
"""How long to wait for a process that trains in the same folder; one that is being stopped ends within seconds."""


def train(
    config: TrainConfig, dataset: FaceDataset, folder: str | Path, *, progress: ProgressStyle = "auto"
) -> RunFolder:
    """Train a recogniser (Algorithm 1 of the paper) and leave everything it was and became in a run folder.

    A finished run in the folder is given back as it is; an unfinished one with the same settings and dataset goes on
    from its last checkpoint and, on the CPU with the same number of threads, ends with the same bits as if it had
    never stopped. Settings of `UNDECISIVE_SETTINGS` may differ from before; what differs on the machine, such as
    threads, device or versions, is added to `environment.json` under `resumed_with`. The global random state is left
    as it was.

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
        TrainingDivergedError: The loss or a weight became non-finite; the last checkpoint is kept.
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
    if config.age_method != "none":
        METHODS[config.age_method].check(config, _known_ages(dataset, dataset.rows("train"), config))
    identity = {"train": config.to_dict(), "dataset": dataset_record(dataset, classes)}
    busy = f"Another process is training in {run.path}. Wait for it, or use another run name."
    with file_lock(run.path / ".lock", busy=busy, wait_seconds=LOCK_WAIT_SECONDS):
        if (run.path / "config.json").is_file():
            require_same_run(run, identity)
        if run.is_finished:
            return run
        device = resolve_device(config.device)
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch_threads(config.threads or None):
            trainer = _Trainer(config, dataset, classes, run.path, device)
            trainer.restore()
            write_table(classes, run.path / "classes.csv")
            _record_environment(run, {**environment(), **trainer.environment()}, step=trainer.step)
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
            ages_years=_known_ages(dataset, rows, config),
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
        self.columns = (*WINDOW, *(f"{name}_loss" for name in self.recognizer.method_loss_names))
        self.window = torch.zeros(len(self.columns), device=device)
        self.window_steps = 0
        self.step = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()

    def environment(self) -> dict[str, Any]:
        """What the settings left to the machine, as it was chosen."""
        card = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {
            "device": str(self.device),
            "gpu": card,
            "threads": torch.get_num_threads(),
            "backbone_precision": str(self.autocast_dtype or torch.float32).removeprefix("torch."),
        }

    def run(self, progress_style: ProgressStyle) -> None:
        """Train to the end."""
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
        for batch in self.batches.epoch(epoch, first_step=first_step):
            self._optimise(batch)
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
                self._check_finite(everything=True)
                self._save_backbone(self.folder / "epochs" / f"backbone-{epoch + 1:04d}.safetensors")
            if ends_epoch or (config.checkpoint_every_steps and self.step % config.checkpoint_every_steps == 0):
                self._save()

    def _optimise(self, batch: Batch) -> None:
        rate = learning_rate_at(self.config, self.step, steps_per_epoch=self.batches.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.recognizer(*batch, step=self.step, autocast_dtype=self.autocast_dtype)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimizer.step()
        parts = (losses.total.detach(), losses.margin, losses.inter_prototype, losses.accuracy, *losses.method)
        self.window += torch.stack(parts)
        self.window_steps += 1

    def _row(self, images_per_second: float) -> dict[str, float]:
        """Mean losses since the last row; the only place where the device is waited for between checkpoints."""
        self._check_finite()
        config, per_epoch = self.config, self.batches.steps_per_epoch
        means = (self.window / self.window_steps).tolist()
        self.window.zero_()
        self.window_steps = 0
        return {
            "step": self.step,
            "epoch": self.step / per_epoch,
            **dict(zip(self.columns, means, strict=True)),
            "learning_rate": learning_rate_at(config, self.step - 1, steps_per_epoch=per_epoch),
            "images_per_second": images_per_second,
        }

    def _check_finite(self, *, everything: bool = False) -> None:
        """Look at losses and prototypes, which every step changes; before anything is written, at every weight."""
        state = [self.window, self.recognizer.prototypes.detach()]
        if everything:
            state += itertools.chain(self.recognizer.parameters(), self.recognizer.buffers())
        if not bool(torch.stack([torch.isfinite(values).all() for values in state]).all()):
            last = self.folder / "checkpoint.pt"
            kept = f"The last good checkpoint is kept in {last}." if last.is_file() else "No checkpoint was made yet."
            raise TrainingDivergedError(
                f"The loss or a weight of run {self.folder.name!r} became non-finite by step {self.step}. {kept} "
                f"Use a lower learning_rate (now {self.config.learning_rate:g}), a longer warm-up, or a smaller scale "
                "or margin."
            )

    def _save(self) -> None:
        self._check_finite(everything=True)
        state = TrainingState(
            step=self.step,
            recognizer=self.recognizer.state_dict(),
            optimizer=self.optimizer.state_dict(),
            window=self.window,
            window_steps=self.window_steps,
            random_state=torch.get_rng_state(),
            cuda_random_state=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            seconds=self._seconds(),
        )
        save_checkpoint(state, self.folder / "checkpoint.pt")

    def restore(self) -> None:
        """Go to where the checkpoint was made, where there is one."""
        checkpoint = self.folder / "checkpoint.pt"
        if not checkpoint.is_file():
            return
        state = load_checkpoint(checkpoint, device=self.device)
        self.step = state.step
        self.recognizer.load_state_dict(state.recognizer)
        self.optimizer.load_state_dict(state.optimizer)
        self.window, self.window_steps = state.window, state.window_steps
        torch.set_rng_state(state.random_state)
        if state.cuda_random_state is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state.cuda_random_state, self.device)
        self.seconds_before = state.seconds

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _save_backbone(self, path: Path) -> None:
        config = self.config
        network = {"backbone": config.backbone, "embedding_dim": config.embedding_dim, "channels": "RGB"}
        if config.age_method != "none":
            network["age_method"] = config.age_method
        # One entry, because safetensors keeps several in no fixed order and equal runs are to be equal bytes.
        save_backbone(self.recognizer.backbone, path, metadata={"network": json.dumps(network)})

    def _finish(self) -> None:
        self._check_finite(everything=True)
        self._save_backbone(self.folder / "backbone.safetensors")
        prototypes = self.recognizer.prototypes.detach().cpu().numpy()
        write_arrays(self.folder / "prototypes.safetensors", {"prototypes": prototypes})
        last = RunFolder(self.folder).metrics().iloc[-1]
        seconds = self._seconds()
        summary = {
            "steps": self.step,
            "seconds": round(seconds, 2),
            "images_per_second": round(self.step * self.config.batch_size / seconds, 1),
            "n_identities": len(prototypes),
            "n_pushed_apart": len(self.recognizer.pushed_apart),
            **{name: float(last[name]) for name in self.columns},
        }
        write_json(self.folder / "summary.json", summary)


def _known_ages(dataset: FaceDataset, rows: np.ndarray, config: TrainConfig) -> np.ndarray:
    ages = dataset.manifest["age_years"].to_numpy(dtype=np.float64)[rows]
    return ages if config.unlabelled_as_years is None else np.where(np.isnan(ages), config.unlabelled_as_years, ages)


def dataset_record(dataset: FaceDataset, classes: pd.DataFrame) -> dict[str, object]:
    """Describe the dataset of a run, as `config.json` holds it: name, sizes, settings and hashes.

    Args:
        dataset: The dataset.
        classes: Its classes, as `class_table` gives them.
    """
    columns = ["path", "identity", "age_years", "split"]
    return {
        "name": dataset.name,
        "image_size": dataset.image_size,
        "n_images": len(dataset),
        "manifest_sha256": table_hash(dataset.manifest[columns]),
        "classes_sha256": table_hash(classes),
        "images_sha256": hash_images(dataset),
        "settings": dataset.settings,
    }


def require_same_run(run: RunFolder, identity: dict[str, dict[str, object]]) -> None:
    """Refuse to go on in a folder that holds a run with other settings or of another dataset.

    Args:
        run: The run that is there.
        identity: The settings under `train` and the dataset's record under `dataset`, as wanted now.

    Raises:
        RunError: They differ; the message names the first difference.
    """
    there = {"train": run.config.to_dict(), "dataset": run.dataset_info}
    for part, wanted in identity.items():
        found = there[part]
        compared = wanted if part == "dataset" else {n: v for n, v in wanted.items() if n not in UNDECISIVE_SETTINGS}
        differing = [name for name in compared if found.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            others = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise RunError(
                f"{run.path} holds a run with other {'settings' if part == 'train' else 'data'}: {name} was "
                f"{found.get(name)!r}, now {wanted[name]!r}{others}. Choose another run name, or remove the folder."
            )


def _record_environment(run: RunFolder, now: dict[str, Any], *, step: int) -> None:
    """Describe the machine of a new run; of a resumed one add what differs from when it last went on."""
    if step == 0 or not (run.path / "environment.json").is_file():
        write_json(run.path / "environment.json", now)
        return
    record = run.environment
    resumptions = record.get("resumed_with", [])
    last = {**record, **{name: value for resumption in resumptions for name, value in resumption.items()}}
    differing = {name: value for name, value in now.items() if name != "time_utc" and value != last.get(name)}
    if differing:
        resumption = {"step": step, "time_utc": now["time_utc"], **differing}
        write_json(run.path / "environment.json", {**record, "resumed_with": [*resumptions, resumption]})


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    fast_cpu = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    if precision == "bfloat16" or (precision == "auto" and (device.type == "cuda" or fast_cpu)):
        return torch.bfloat16
    return None
