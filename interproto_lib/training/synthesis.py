"""Training of face age synthesis: a finished MTLFace run in, a generator in a folder of it out; stopped, it goes on."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interproto_lib.analysis.embedding import load_backbone
from interproto_lib.data.datasets import FaceDataset, hash_images
from interproto_lib.data.image_arrays import file_sha256
from interproto_lib.devices import resolve_device, torch_threads
from interproto_lib.errors import RunError, TrainingDivergedError
from interproto_lib.files import file_lock, write_json
from interproto_lib.methods.age_estimators import AgeGroupHead, AgeJudge
from interproto_lib.methods.face_synthesis import FaceEncoder, PatchDiscriminator
from interproto_lib.methods.synthesis_folder import (
    GENERATOR_FILE,
    JUDGE_FILE,
    SynthesisFolder,
    build_generator,
    synthesis_folder,
)
from interproto_lib.methods.synthesis_losses import discriminator_loss, generator_losses
from interproto_lib.methods.synthesis_settings import UNDECISIVE_SYNTHESIS_SETTINGS, SynthesisConfig
from interproto_lib.models import save_backbone
from interproto_lib.progress import ProgressStyle, count_progress
from interproto_lib.runs import RunFolder, environment, table_hash
from interproto_lib.training.checkpoints import CHECKPOINT_FOLDER, CheckpointStore, TrainingState
from interproto_lib.training.metrics import MetricsLog
from interproto_lib.training.synthesis_batches import SynthesisBatch, SynthesisDraws

ESTIMATOR_COLUMNS = ("group_loss", "group_accuracy", "judge_error_years")
"""Recorded while the estimators train: cross-entropy and accuracy of the group head, absolute error of the judge."""

SYNTHESIS_COLUMNS = ("discriminator_loss", "adversarial_loss", "identity_loss", "age_loss", "age_accuracy")
"""Recorded afterwards: the losses before their weights, and how often the group head sees the group wanted."""

LOCK_WAIT_SECONDS = 30.0

_WINDOW = max(len(ESTIMATOR_COLUMNS), len(SYNTHESIS_COLUMNS))


def train_synthesis(
    config: SynthesisConfig,
    run: RunFolder,
    dataset: FaceDataset,
    folder: str | Path | None = None,
    *,
    progress: ProgressStyle = "auto",
) -> SynthesisFolder:
    """Train the generator of MTLFace on a finished run, and leave it in a folder of that run.

    First the two age estimators learn, then generator and discriminator in every step: the discriminator on real faces
    of the group wanted and on synthesised ones, then the generator on its losses (`generator_losses`). A finished
    training in the folder is given back as it is; an unfinished one goes on from its newest whole checkpoint and ends,
    on the CPU with the same number of threads, with the same bits as if it had never stopped.

    Deviation from MTLFace: the recogniser is trained before and stays as it is, where MTLFace trains both in turns; its
    recogniser learns nothing from the synthesis either, but changes under it.

    Args:
        config: The settings.
        run: A finished run with `age_method="mtlface"`.
        dataset: The images it was trained on; those of the split `train` with a known age are used.
        folder: Where to; None takes the folder `synthesis` of the run.
        progress: `bar`, `lines`, `none`, or `auto`.

    Returns:
        The finished training.

    Raises:
        ConfigError: The run has another method, the settings do not fit the machine, no training image has an age, or
            an age group has no training image.
        RunError: The run is not finished, was trained on other images, the folder holds a training with other
            settings, or another process trains in it.
        CheckpointError: No checkpoint in the folder is whole.
        TrainingDivergedError: A loss or a weight became non-finite; the last checkpoint is kept.
        WriteError: The folder cannot be written.
    """
    found = synthesis_folder(run) if folder is None else SynthesisFolder(Path(folder))
    identity = {"synthesis": config.to_dict(), **_described(run, dataset)}
    busy = f"Another process is training in {found.path}. Wait for it to end."
    with file_lock(found.path / ".lock", busy=busy, wait_seconds=LOCK_WAIT_SECONDS):
        if (found.path / "config.json").is_file():
            _check_same(found, identity)
        if found.is_finished:
            return found
        device = resolve_device(config.device)
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch_threads(config.threads or None):
            encoder = FaceEncoder(load_backbone(run))
            trainer = _Trainer(config, run, encoder, dataset, found.path, device)
            trainer.restore()
            write_json(found.path / "environment.json", {**environment(), "device": str(device)})
            write_json(found.path / "config.json", identity)
            trainer.run(progress)
    return found


class _Trainer:
    """One training in progress: its networks, and where it is recorded."""

    def __init__(
        self,
        config: SynthesisConfig,
        run: RunFolder,
        encoder: FaceEncoder,
        dataset: FaceDataset,
        folder: Path,
        device: torch.device,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.folder = folder
        self.device = device
        self.recorded_as = replace(run.config, wandb=False)  # MetricsLog reads it for Weights & Biases alone
        self.draws = SynthesisDraws(dataset, config, device)
        self.encoder = encoder.to(device).to(memory_format=torch.channels_last)
        n_groups = config.n_groups
        channels, side = encoder.shapes().age.shape[1:3]
        self.generator = build_generator(encoder, config).to(device)
        self.discriminator = PatchDiscriminator(
            image_size=dataset.image_size, n_groups=n_groups, width=config.discriminator_width
        ).to(device)
        self.head = AgeGroupHead(channels, side, n_groups=n_groups).to(device)
        self.judge = AgeJudge().to(device)
        self.networks = nn.ModuleDict(
            {
                "generator": self.generator,
                "discriminator": self.discriminator,
                "head": self.head,
                "judge": self.judge,
            }
        ).to(memory_format=torch.channels_last)
        momenta = (config.beta1, config.beta2)
        rates = {"generator": config.learning_rate, "discriminator": config.discriminator_learning_rate}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(self.networks[name].parameters(), lr=rate, betas=momenta, fused=True)
            for name, rate in rates.items()
        }
        for name in ("head", "judge"):
            self.optimizers[name] = torch.optim.Adam(
                self.networks[name].parameters(), lr=config.estimator_learning_rate, fused=True
            )
        self.checkpoints = CheckpointStore(folder / CHECKPOINT_FOLDER, self.networks, self.optimizers)
        self.window = torch.zeros(_WINDOW, device=device)
        self.window_steps = 0
        self.step = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()

    @property
    def total_steps(self) -> int:
        return self.config.estimator_steps + self.config.steps

    def run(self, progress_style: ProgressStyle) -> None:
        """Train to the end."""
        config = self.config
        report = count_progress("face age synthesis", "step", style=progress_style)
        metrics = MetricsLog(self.folder, self.recorded_as, resume_step=self.step)
        try:
            since, steps_since = time.monotonic(), 0
            while self.step < self.total_steps:
                batch = self.draws.batch(self.step)
                if self.step < config.estimator_steps:
                    self._record(self._train_estimators(batch))
                else:
                    self._record(self._train_synthesis(batch))
                self.step += 1
                steps_since += 1
                ends_part = self.step in (config.estimator_steps, self.total_steps)
                if ends_part or self.step % config.log_every_steps == 0:
                    speed = steps_since * config.batch_size / max(1e-9, time.monotonic() - since)
                    metrics.write({**self._row(), "images_per_second": speed})
                    since, steps_since = time.monotonic(), 0
                report(self.step, self.total_steps)
                if ends_part or self.step % config.checkpoint_every_steps == 0:
                    self._save()
        finally:
            metrics.close()
        self._finish()

    def _train_estimators(self, batch: SynthesisBatch) -> tuple[Tensor, ...]:
        self.networks.train()
        with torch.no_grad():
            age_maps = self.encoder(batch.real).age
        logits = self.head(age_maps)
        group_loss = nn.functional.cross_entropy(logits, batch.groups)
        errors = (self.judge(batch.real) - batch.ages_years).abs()
        self._optimise("head", group_loss)
        self._optimise("judge", errors.mean())
        return group_loss, (logits.argmax(1) == batch.groups).float().mean(), errors.mean()

    def _train_synthesis(self, batch: SynthesisBatch) -> tuple[Tensor, ...]:
        config, groups = self.config, batch.groups
        self.networks.train()
        self.head.eval().requires_grad_(requires_grad=False)
        with torch.no_grad():
            encoded = self.encoder(batch.sources)
        made = self.generator(encoded, groups)
        real_patches = self.discriminator(batch.real, groups)
        of_discriminator = discriminator_loss(real_patches, self.discriminator(made.detach(), groups))
        self._optimise("discriminator", of_discriminator)
        self.discriminator.requires_grad_(requires_grad=False)  # its gradient is not needed in the generator's step
        again = self.encoder(made)
        logits = self.head(again.age)
        losses = generator_losses(
            self.discriminator(made, groups),
            encoded.identity,
            again.identity,
            logits,
            groups,
            gan_weight=config.gan_weight,
            identity_weight=config.identity_weight,
            age_weight=config.age_weight,
        )
        self._optimise("generator", losses.total)
        self.discriminator.requires_grad_(requires_grad=True)
        right = (logits.argmax(1) == groups).float().mean()
        return of_discriminator, losses.adversarial, losses.identity, losses.age, right

    def _optimise(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _record(self, values: tuple[Tensor, ...]) -> None:
        self.window[: len(values)] += torch.stack([value.detach() for value in values])
        self.window_steps += 1

    def _row(self) -> dict[str, float]:
        """Means since the last row; the only place where the device is waited for between checkpoints."""
        self._check_finite([self.window])
        of_estimators = self.step <= self.config.estimator_steps
        columns = ESTIMATOR_COLUMNS if of_estimators else SYNTHESIS_COLUMNS
        means = (self.window / self.window_steps).tolist()
        self.window.zero_()
        self.window_steps = 0
        epoch = self.step * self.config.batch_size / len(self.draws)
        return {"step": self.step, "epoch": epoch, **dict(zip(columns, means, strict=False))}

    def _check_finite(self, values: Iterator[Tensor] | list[Tensor]) -> None:
        if not bool(torch.stack([torch.isfinite(value).all() for value in values]).all()):
            last = self.checkpoints.newest
            kept = f"The last good checkpoint is kept in {last}." if last else "No checkpoint was made yet."
            raise TrainingDivergedError(
                f"A loss or a weight of the face age synthesis in {self.folder} became non-finite by step {self.step}. "
                f"{kept} Use a lower learning_rate (now {self.config.learning_rate:g})."
            )

    def _save(self) -> None:
        self._check_finite(itertools.chain(self.networks.parameters(), self.networks.buffers(), [self.window]))
        self.checkpoints.save(
            TrainingState(step=self.step, window=self.window, window_steps=self.window_steps, seconds=self._seconds())
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

    def _finish(self) -> None:
        self._check_finite(itertools.chain(self.networks.parameters(), self.networks.buffers()))
        of = {
            "network": json.dumps({"part": "face age synthesis", "n_groups": self.config.n_groups, "channels": "RGB"})
        }
        save_backbone(self.generator, self.folder / GENERATOR_FILE, metadata=of)
        save_backbone(self.judge, self.folder / JUDGE_FILE, metadata=of)
        last = SynthesisFolder(self.folder).metrics().iloc[-1]
        summary = {
            "steps": self.config.steps,
            "seconds": round(self._seconds(), 2),
            "n_images": len(self.draws),
            "images_of_groups": dict(zip(self.config.group_names, self.draws.counts.tolist(), strict=True)),
            **{name: float(last[name]) for name in SYNTHESIS_COLUMNS},
        }
        write_json(self.folder / "summary.json", summary)


def _described(run: RunFolder, dataset: FaceDataset) -> dict[str, Any]:
    """What the result depends on beside the settings; refuses images other than those of the run."""
    images = hash_images(dataset)
    trained_on = run.dataset_info
    if images != trained_on["images_sha256"]:
        raise RunError(
            f"Run {run.name!r} was trained on other images than those of dataset {dataset.name!r}: its people may be "
            f"among the held-out ones here. Give the dataset {trained_on['name']!r} that it was trained on."
        )
    columns = ["path", "identity", "age_years", "split"]
    return {
        "run": {"name": run.name, "backbone_sha256": file_sha256(run.path / "backbone.safetensors")},
        "dataset": {
            "name": dataset.name,
            "image_size": dataset.image_size,
            "images_sha256": images,
            "manifest_sha256": table_hash(dataset.manifest[columns]),
        },
    }


def _check_same(folder: SynthesisFolder, identity: Mapping[str, Mapping[str, Any]]) -> None:
    there = folder.record
    for part, wanted in identity.items():
        found = there.get(part, {})
        compared = [name for name in wanted if part != "synthesis" or name not in UNDECISIVE_SYNTHESIS_SETTINGS]
        differing = [name for name in compared if found.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            raise RunError(
                f"{folder.path} holds a face age synthesis with another {part}: {name} was {found.get(name)!r}, now "
                f"{wanted[name]!r}. Remove the folder to train it anew."
            )
