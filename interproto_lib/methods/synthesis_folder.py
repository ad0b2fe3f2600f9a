"""What one training of face age synthesis leaves in a run folder, and the networks rebuilt from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interproto_lib.errors import RunError
from interproto_lib.methods.age_estimators import AgeJudge
from interproto_lib.methods.face_synthesis import FaceEncoder, FaceGenerator
from interproto_lib.methods.synthesis_settings import SynthesisConfig
from interproto_lib.models import load_backbone_weights
from interproto_lib.runs import RunFolder

SYNTHESIS_FOLDER = "synthesis"
"""Name of the folder in that of a run."""

GENERATOR_FILE = "generator.safetensors"
JUDGE_FILE = "judge.safetensors"


@dataclass(frozen=True)
class SynthesisFolder:
    """One training of face age synthesis on disk. Attributes are read when they are asked for.

    Files: `config.json` (settings, run, dataset), `environment.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`
    (the two newest, to resume) and, once finished, `generator.safetensors`, `judge.safetensors`, `summary.json`.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> SynthesisConfig:
        """The settings of the training."""
        return SynthesisConfig.from_dict(self.record["synthesis"])

    @property
    def record(self) -> dict[str, Any]:
        """What the training depends on: settings, weights of the recogniser, dataset."""
        return self._json("config.json")

    @property
    def summary(self) -> dict[str, Any]:
        """What the finished training reported: steps, seconds, last losses, images of each age group."""
        return self._json("summary.json")

    @property
    def is_finished(self) -> bool:
        """Whether the training reached its end."""
        return (self.path / "summary.json").is_file()

    def metrics(self) -> pd.DataFrame:
        """Read the metrics of generator and discriminator, one row a log step; see `interproto_lib.training`."""
        rows = pd.read_json(self._file("metrics.jsonl"), lines=True)
        return rows[rows["discriminator_loss"].notna()].reset_index(drop=True)

    def generator(self, encoder: FaceEncoder) -> FaceGenerator:
        """Rebuild the trained generator, in evaluation mode on the CPU.

        Args:
            encoder: Of the recogniser that it was trained with.

        Raises:
            RunError: The training is not finished.
            CheckpointError: The weights do not fit the settings or the encoder.
        """
        generator = build_generator(encoder, self.config)
        load_backbone_weights(generator, self._file(GENERATOR_FILE))
        return generator.eval()

    def judge(self) -> AgeJudge:
        """Rebuild the age estimator that the generator was not trained against, in evaluation mode on the CPU.

        Raises:
            RunError: The training is not finished.
            CheckpointError: The weights do not fit.
        """
        judge = AgeJudge()
        load_backbone_weights(judge, self._file(JUDGE_FILE))
        return judge.eval()

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            state = "is not finished" if self.path.is_dir() else "does not exist"
            raise RunError(
                f"The face age synthesis of run {self.path.parent.name!r} {state}: {path} is missing. "
                "Run notebooks/10_face_ageing.ipynb for it first."
            )
        return path

    def _json(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}). Remove the folder {self.path} and train again.") from error


def synthesis_folder(run: RunFolder) -> SynthesisFolder:
    """Give the folder of a run's face age synthesis. It need not exist."""
    return SynthesisFolder(run.path / SYNTHESIS_FOLDER)


def build_generator(encoder: FaceEncoder, config: SynthesisConfig) -> FaceGenerator:
    """Build the generator of the settings, with fresh weights, in training mode.

    Args:
        encoder: What gives it identity maps and skips.
        config: Age groups, overlap and blocks.

    Returns:
        The generator.
    """
    return FaceGenerator(
        encoder.shapes(), n_groups=config.n_groups, overlap=config.group_overlap, n_blocks=config.n_blocks
    )
