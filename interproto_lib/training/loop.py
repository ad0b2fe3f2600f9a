"""The training loop: settings and a dataset in, a run folder out; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import FaceDataset, training_labels
from interproto_lib.devices import torch_threads
from interproto_lib.errors import TrainingDivergedError, TrainingStoppedError
from interproto_lib.files import file_lock, write_json
from interproto_lib.losses.ranks import average_over_ranks, max_over_ranks, rank, world_size
from interproto_lib.models import save_backbone
from interproto_lib.progress import ProgressStyle
from interproto_lib.runs import RunFolder, environment, write_table
from interproto_lib.training.batches import Batch, EpochBatches
from interproto_lib.training.checkpoints import CHECKPOINT_FOLDER, CheckpointStore, TrainingState
from interproto_lib.training.memory import held_by_process, keep_freed_memory, predict_memory
from interproto_lib.training.metrics import MetricsLog, available_memory_bytes, peak_memory_bytes
from interproto_lib.training.parts import PartedBatch
from interproto_lib.training.processes import (
    StopRequest,
    any_process,
    device_of_rank,
    ending_together,
    first_process_says,
    lost_processes_named,
    processes_here,
    raise_together,
    require_equal,
    require_whole_parts,
)
from interproto_lib.training.progress import Progress, clock, make_progress
from interproto_lib.training.prototype_file import write_prototypes
from interproto_lib.training.recognizer import Recognizer, build_optimizers
from interproto_lib.training.run_records import checked_training, known_ages, record_environment, require_same_run
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
    from its newest whole checkpoint and, on the CPU with the same number of threads, ends with the same bits as if it
    had never stopped. Settings of `UNDECISIVE_SETTINGS` may differ from before; what differs on the machine, such as
    threads, device or versions, is added to `environment.json` under `resumed_with`. The global random state, that of
    the CPU and of the device it trains on, is left as it was.

    A finished run is not trained on: `epochs` is a setting that decides its result, through the schedule as well, so
    that a run of more epochs is another run. Nothing reads its checkpoints any more, and they may be removed. The two
    newest stay as they were: where a file of the run is lost, removing `summary.json` has it written anew from them.

    In a process group (see `interproto_lib.training.processes`) all processes call it with the same arguments, and
    find the folder on a file system that they share. They share out the parts of each batch and the prototypes; the
    first one alone writes metrics and files other than checkpoints. How many they are changes the result by rounding
    only, and a run may go on with another number of them.

    SIGTERM ends the training after the step that it finds it in, with a checkpoint.

    Args:
        config: The settings.
        dataset: The images; its split `train` is used.
        folder: The run folder; made if missing.
        progress: `bar`, `lines`, `none`, or `auto`.

    Returns:
        The finished run.

    Raises:
        ConfigError: The settings do not fit the dataset, the machine or the number of processes.
        DatasetError: There are fewer than two identities to train on.
        RunError: The folder holds a run with other settings or of another dataset, or another process trains in it.
        CheckpointError: No checkpoint in the folder is whole.
        TrainingDivergedError: The loss or a weight became non-finite; the last checkpoint is kept.
        TrainingStoppedError: SIGTERM asked it to stop; a checkpoint is written.
        WriteError: The folder cannot be written.
    """
    with lost_processes_named():
        return _train(config, dataset, RunFolder(Path(folder)), progress)


def _train(config: TrainConfig, dataset: FaceDataset, run: RunFolder, progress: ProgressStyle) -> RunFolder:
    with ending_together():
        require_whole_parts(config)
        classes, identity = checked_training(config, dataset)
    require_equal(identity)
    with ExitStack() as held:
        with ending_together():
            if rank() == 0:
                busy = f"Another process is training in {run.path}. Wait for it, or use another run name."
                held.enter_context(file_lock(run.path / ".lock", busy=busy, wait_seconds=LOCK_WAIT_SECONDS))
                if (run.path / "config.json").is_file():
                    require_same_run(run, identity)
        if first_process_says(run.is_finished):
            return run
        with ending_together():
            device = device_of_rank(config.device)
        if device.type == "cpu":
            keep_freed_memory()
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch_threads(config.threads or None):
            with ending_together():
                trainer = _Trainer(config, dataset, classes, run.path, device)
            trainer.restore()
            with ending_together():
                if rank() == 0:
                    write_table(classes, run.path / "classes.csv")
                    now = {**environment(), **trainer.environment()}
                    if trainer.checkpoints.passed_over:
                        now["damaged_checkpoints"] = trainer.checkpoints.passed_over
                    record_environment(run, now, step=trainer.step)
                    write_json(run.path / "config.json", identity)
            trainer.run(progress)
    return run


class _Trainer:
    """One training in progress: the state that Algorithm 1 changes, and where it is recorded."""

    def __init__(
        self, config: TrainConfig, dataset: FaceDataset, classes: pd.DataFrame, folder: Path, device: torch.device
    ) -> None:
        torch.manual_seed(config.seed)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.config = config
        self.held_before = held_by_process(device)
        self.image_size = dataset.image_size
        self.n_identities = len(classes)
        self.folder = folder
        self.device = device
        rows, labels = training_labels(dataset, classes)
        self.batches = EpochBatches(
            dataset.images,
            rows,
            labels,
            ages_years=known_ages(dataset, rows, config),
            batch_size=config.batch_size,
            flip=config.flip,
            seed=config.seed,
            device=device,
            share=(rank(), world_size()),
            sharers=processes_here(),
        )
        is_child = classes["is_child"].to_numpy(dtype=bool)
        self.recognizer = Recognizer(config, image_size=dataset.image_size, is_child=is_child).to(device)
        if config.channels_last:
            self.recognizer.to(memory_format=torch.channels_last)
        self.optimizers = build_optimizers(self.recognizer)
        self.checkpoints = CheckpointStore(
            folder / CHECKPOINT_FOLDER,
            self.recognizer,
            self.optimizers,
            sharded={"prototypes": self.n_identities},
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
            "processes": world_size(),
            "threads": torch.get_num_threads(),
            "backbone_precision": str(self.autocast_dtype or torch.float32).removeprefix("torch."),
        }

    def run(self, progress_style: ProgressStyle) -> None:
        """Train to the end."""
        per_epoch = self.batches.steps_per_epoch
        total_steps = self.config.epochs * per_epoch
        is_first = rank() == 0
        with ending_together():
            metrics = MetricsLog(self.folder, self.config, resume_step=self.step) if is_first else None
            expected = self._expect_memory() if is_first else ""
        progress = make_progress(
            progress_style if is_first else "none",
            name=self.folder.name,
            total_steps=total_steps,
            first_step=self.step,
            n_epochs=self.config.epochs,
        )
        progress.say(expected)
        self.parted = PartedBatch(self.recognizer, self.config, autocast_dtype=self.autocast_dtype)
        last_words = ""
        try:
            try:
                with StopRequest() as stop:
                    while self.step < total_steps:
                        self._train_epoch(self.step // per_epoch, self.step % per_epoch, metrics, progress, stop)
                    stop.answer()
            finally:
                if metrics is not None:
                    metrics.close()
            last_words = self._finish()
        finally:
            progress.close(last_words)

    def _expect_memory(self) -> str:
        """Predict the memory of the largest process, and say it in one line."""
        expected = predict_memory(
            self.config,
            image_size=self.image_size,
            n_identities=self.n_identities,
            n_images=self.batches.n_resident,
            world_size=world_size(),
            autocast_dtype=self.autocast_dtype,
            held=self.held_before,
        )
        self.expected_memory_bytes = expected.total
        return expected.describe(available=available_memory_bytes(self.device, sharers=processes_here()))

    def _train_epoch(
        self, epoch: int, first_step: int, metrics: MetricsLog | None, progress: Progress, stop: StopRequest
    ) -> None:
        config, per_epoch = self.config, self.batches.steps_per_epoch
        total = config.epochs * per_epoch
        self.recognizer.train()
        since, steps_since, waited = time.monotonic(), 0, 0.0
        with closing(self.batches.epoch(epoch, first_step=first_step)) as batches:
            while self.step < (epoch + 1) * per_epoch:
                asked = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - asked
                self._optimise(batch)
                self.step += 1
                steps_since += 1
                row = None
                if self.step % config.log_every_steps == 0 or self.step == total:
                    row = self._row()
                    seconds = max(1e-9, time.monotonic() - since)
                    speed = steps_since * config.batch_size / seconds
                    row |= {"images_per_second": speed, "data_wait": waited / seconds}
                    if metrics is not None:
                        metrics.write(row)
                    since, steps_since, waited = time.monotonic(), 0, 0.0
                progress.update(self.step, row)
                ends_epoch = self.step % per_epoch == 0
                if ends_epoch and config.keep_every_epoch:
                    self._check_finite(everything=True)
                    self._save_backbone(self.folder / "epochs" / f"backbone-{epoch + 1:04d}.safetensors")
                stops = self.step < total and stop.agreed()
                is_due = config.checkpoint_every_steps and self.step % config.checkpoint_every_steps == 0
                if stops or ends_epoch or is_due:
                    self._save()
                if stops:
                    raise TrainingStoppedError(
                        f"{self.folder.name}: stopped by SIGTERM after step {self.step:,} of {total:,}; its checkpoint "
                        f"is {self.checkpoints.newest}. The same command goes on from there."
                    )

    def _optimise(self, batch: Batch) -> None:
        rate = learning_rate_at(self.config, self.step, steps_per_epoch=self.batches.steps_per_epoch)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        self.window += self.parted.backward(batch, step=self.step)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.window_steps += 1

    def _row(self) -> dict[str, float]:
        """Mean losses since the last row; the only place where the device is waited for between checkpoints."""
        self.window = average_over_ranks(self.window)
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
        }

    def _check_finite(self, *, everything: bool = False) -> None:
        """Look at losses and prototypes, which every step changes; before anything is written, at every weight."""
        state = [self.window, self.recognizer.prototypes.detach()]
        if everything:
            state += itertools.chain(self.recognizer.parameters(), self.recognizer.buffers())
        is_finite = torch.stack([torch.isfinite(values).all() for values in state]).all()
        if any_process(not bool(is_finite), self.device):
            last = self.checkpoints.newest
            kept = f"The last good checkpoint is kept in {last}." if last else "No checkpoint was made yet."
            raise_together(
                TrainingDivergedError(
                    f"The loss or a weight of run {self.folder.name!r} became non-finite by step {self.step}. {kept} "
                    f"Use a lower learning_rate (now {self.config.learning_rate:g}), a longer warm-up, or a smaller "
                    "scale or margin."
                )
            )

    def _save(self) -> None:
        self._check_finite(everything=True)
        self.window = average_over_ranks(self.window)  # the checkpoint is of all processes
        self.checkpoints.save(
            TrainingState(
                step=self.step,
                window=self.window,
                window_steps=self.window_steps,
                seconds=self._seconds(),
            )
        )

    def restore(self) -> None:
        """Go to where the newest whole checkpoint was made, where there is one."""
        state = self.checkpoints.load_newest()
        if state is None:
            return
        self.step = state.step
        self.window, self.window_steps = state.window.to(self.device), state.window_steps
        self.seconds_before = state.seconds

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _save_backbone(self, path: Path) -> None:
        """All processes call it, the first one writes: the backbone is the same in all."""
        config = self.config
        network = {"backbone": config.backbone, "embedding_dim": config.embedding_dim, "channels": "RGB"}
        if config.age_method != "none":
            network["age_method"] = config.age_method
        # One entry, because safetensors keeps several in no fixed order and equal runs are to be equal bytes.
        with ending_together():
            if rank() == 0:
                save_backbone(self.recognizer.backbone, path, metadata={"network": json.dumps(network)})

    def _finish(self) -> str:
        """Write what a finished run has, and say it in one line."""
        self._check_finite(everything=True)
        self._save_backbone(self.folder / "backbone.safetensors")
        write_prototypes(
            self.folder / "prototypes.safetensors", self.recognizer.prototypes.detach(), n=self.n_identities
        )
        peak = torch.tensor(peak_memory_bytes(self.device), dtype=torch.float64, device=self.device)
        peak_bytes = int(max_over_ranks(peak))
        seconds = self._seconds()
        speed = self.step * self.config.batch_size / seconds
        with ending_together():
            if rank() == 0:
                self._write_summary(seconds, speed, peak_bytes)
        held = "on the GPU" if self.device.type == "cuda" else "of main memory"
        each = " in the largest process" if world_size() > 1 else ""
        return (
            f"finished, {self.step:,} steps in {clock(seconds)}, {speed:,.0f} images/s, at most "
            f"{peak_bytes / 2**30:.2f} GiB {held}{each}"
        )

    def _write_summary(self, seconds: float, images_per_second: float, peak_bytes: int) -> None:
        metrics = RunFolder(self.folder).metrics()
        summary = {
            "steps": self.step,
            "seconds": round(seconds, 2),
            "images_per_second": round(images_per_second, 1),
            "data_wait": round(float(metrics["data_wait"].mean()), 4) if "data_wait" in metrics else None,
            "processes": world_size(),
            "peak_memory_bytes": peak_bytes,
            "expected_memory_bytes": self.expected_memory_bytes,
            "n_identities": self.n_identities,
            "n_pushed_apart": self.recognizer.n_pushed_apart,
            **{name: float(metrics[name].iloc[-1]) for name in self.columns},
        }
        write_json(self.folder / "summary.json", summary)


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    is_fast = False
    if precision == "auto" and device.type == "cuda":
        with torch.cuda.device(device):  # cards before Ampere only imitate it, slower than float32
            is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif precision == "auto":
        is_fast = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if precision == "bfloat16" or is_fast else None
