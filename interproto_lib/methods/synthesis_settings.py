"""The settings of a training of face age synthesis, checked when they are made, and the published ones as a preset."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from interproto_lib.errors import ConfigError
from interproto_lib.methods.face_synthesis import GROUP_STARTS_YEARS
from interproto_lib.setting_checks import checked_type, refuse_unknown, require

UNDECISIVE_SYNTHESIS_SETTINGS: frozenset[str] = frozenset(
    {"device", "threads", "log_every_steps", "checkpoint_every_steps"}
)
"""Settings that do not decide what a training computes; it may go on with other values of these."""


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Everything that decides what one training of face age synthesis computes, beside the recogniser.

    The defaults are sized for the drawn faces on a CPU; `SynthesisConfig.preset("paper")` is what MTLFace publishes.
    Their weights differ, because the feature maps of the small recognisers have other sizes and values: in one run each
    of 300 steps on drawn faces of 56 pixels, the published weights of identity and age left a cosine of 0.26 to 0.57
    between a face and what was made of it, those here 0.64 to 0.77 (two real images of a person: 0.47).

    Attributes:
        group_starts_years: First whole age in years of each age group but the youngest.
        group_overlap: Share of its channels that an age group has in common with the next, in [0, 1).
        n_blocks: Residual blocks of the identity-conditional module.
        discriminator_width: Channels of the discriminator's first layer; 64 in MTLFace.
        estimator_steps: Steps that train the two age estimators, before generator and discriminator.
        estimator_learning_rate: Of Adam for the age estimators; with its usual momenta 0.9 and 0.999.
        steps: Steps that train generator and discriminator; 36,000 in MTLFace.
        batch_size: Faces aged in a step, and real faces beside them.
        learning_rate: Of Adam for the generator; 0.0001 in MTLFace.
        discriminator_learning_rate: Of Adam for the discriminator; 0.0001 in MTLFace.
        beta1: First momentum of Adam for generator and discriminator.
        beta2: Second momentum of Adam for generator and discriminator.
        gan_weight: Weight of the generator's adversarial loss; 75 in MTLFace.
        identity_weight: Weight of the identity loss; 0.002 in MTLFace.
        age_weight: Weight of the age loss; 10 in MTLFace.
        flip: Mirror each image with probability one half.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:0` and so on.
        threads: CPU threads; 0 leaves PyTorch's choice.
        seed: Seed of initialisation, draws and flips.
        log_every_steps: Steps between two rows of metrics.
        checkpoint_every_steps: Steps between checkpoints.
    """

    group_starts_years: tuple[int, ...] = GROUP_STARTS_YEARS
    group_overlap: float = 0.1
    n_blocks: int = 4
    discriminator_width: int = 32
    estimator_steps: int = 400
    estimator_learning_rate: float = 0.002
    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 0.0005
    discriminator_learning_rate: float = 0.001
    beta1: float = 0.5
    beta2: float = 0.99
    gan_weight: float = 75.0
    identity_weight: float = 10.0
    age_weight: float = 3.0
    flip: bool = True
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    log_every_steps: int = 20
    checkpoint_every_steps: int = 200

    def __post_init__(self) -> None:
        """Check types and ranges."""
        for field in dataclasses.fields(self):
            object.__setattr__(
                self, field.name, checked_type(field.name, getattr(self, field.name), _HINTS[field.name])
            )
        starts = self.group_starts_years
        rising = len(starts) >= 1 and list(starts) == sorted(set(starts)) and starts[0] >= 1
        require(rising, "group_starts_years", starts, "one or more rising ages from 1 on")
        require(0 <= self.group_overlap < 1, "group_overlap", self.group_overlap, "in [0, 1)")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2 (for batch normalisation)")
        for name in ("discriminator_width", "estimator_steps", "steps", "log_every_steps", "checkpoint_every_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("estimator_learning_rate", "learning_rate", "discriminator_learning_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("n_blocks", "gan_weight", "identity_weight", "age_weight", "threads", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

    @property
    def n_groups(self) -> int:
        """Age groups."""
        return len(self.group_starts_years) + 1

    @property
    def group_names(self) -> tuple[str, ...]:
        """The age groups in whole years, as in `0-10`, `11-20`, `>=61`."""
        starts = (0, *self.group_starts_years)
        inner = (f"{start}-{after - 1}" for start, after in pairwise(starts))
        return (*inner, f">={starts[-1]}")

    @property
    def group_centres_years(self) -> tuple[float, ...]:
        """The middle of each age group in years; the oldest is taken to be as wide as the one before."""
        starts = (0, *self.group_starts_years)
        ends = (*starts[1:], 2 * starts[-1] - starts[-2])
        return tuple((start + end) / 2 for start, end in zip(starts, ends, strict=True))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SynthesisConfig:
        """Make settings from a mapping, refusing names that do not exist.

        Args:
            settings: Field names and values; a list is taken for a tuple.

        Returns:
            The settings.

        Raises:
            ConfigError: A name is unknown or a value is wrong.
        """
        refuse_unknown(settings, _HINTS, what="synthesis setting")
        return cls(**settings)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SynthesisConfig:
        """Make published settings.

        Args:
            name: A name of `SYNTHESIS_PRESETS`.
            **changes: Fields to set differently.

        Returns:
            The settings.

        Raises:
            ConfigError: The name is unknown or a change is wrong.

        Example:
            >>> SynthesisConfig.preset("paper").steps
            36000
        """
        if name not in SYNTHESIS_PRESETS:
            raise ConfigError(f"Unknown synthesis preset {name!r}. Known presets: {', '.join(SYNTHESIS_PRESETS)}.")
        return cls.from_dict({**SYNTHESIS_PRESETS[name], **changes})

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as a dict that JSON and `from_dict` understand."""
        return {**dataclasses.asdict(self), "group_starts_years": list(self.group_starts_years)}


_HINTS: dict[str, Any] = typing.get_type_hints(SynthesisConfig)

SYNTHESIS_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "discriminator_width": 64,
        "steps": 36_000,
        "learning_rate": 1e-4,
        "discriminator_learning_rate": 1e-4,
        "gan_weight": 75.0,
        "identity_weight": 0.002,
        "age_weight": 10.0,
        "checkpoint_every_steps": 1_000,
    },
}
"""MTLFace's settings. The age estimators are ours (MTLFace's is trained with the recogniser), so they have none."""
