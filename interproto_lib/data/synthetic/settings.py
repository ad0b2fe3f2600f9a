"""Settings of the built-in dataset."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from interproto_lib.errors import ConfigError

IMAGE_SIZES = (56, 112)
YOUNGEST_ADULT_YEARS = 14.0
OLDEST_YEARS = 80.0


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """What a built-in dataset holds and how it looks; the same settings give the same bytes on every machine.

    The defaults are the recipe of the demonstration, see `demo`.

    Attributes:
        n_identities: Identities of the training split, >= 2.
        images_per_identity: Mean number of images of a training identity, >= 2; each has 0.6 to 1.4 times as many.
        n_child_identities: How many of the training identities, the first ones, have child images.
        child_images: Fewest and most child images (1 to 12.9 years) of such an identity, >= 1.
        n_heldout_identities: Identities of the held-out split, none of them in training; may be 0.
        n_validation_identities: Identities of the validation split, again others; may be 0. They come last: what the
            other identities are and how they look does not depend on how many these are.
        heldout_child_images: Child images of each held-out and each validation identity, >= 0.
        heldout_adult_images: Adult images (18 to 80 years) of each held-out and each validation identity, >= 0; one of
            them, two from four on, at 44 to 70 years, so that gaps of 30 years and more exist.
        image_size: Height and width in pixels, 56 or 112.
        adult_age_years: Mean age of the adult images, 14 to 80, of held-out and validation identities and of
            training identities without child images.
        child_identity_adult_age_years: Mean age, 14 to 80, of the images that are no child's of training identities
            with child images, before ages below 14 are raised to it: 16 are people photographed mostly when young,
            34 people like the others.
        adult_age_spread_years: Standard deviation, between identities, of their mean adult age, >= 0; within an
            identity ages spread by 7 years. For identities with child images it is 5/8 of it when their mean age is
            30 or less.
        nuisance: Scale of pose, light, expression, accessories and camera, 0 to 2; 1 is a mixed collection.
        amplitude: Scale of the differences of shape between identities, 0 to 2.
        child_amplitude_floor: Scale of an identity's deviation at birth, for shape parameters of persistence 0,
            relative to adulthood: 0 to 1. At 1 children differ as much as adults.
        seed: Other seeds give other people and other images, >= 0.

    Raises:
        ConfigError: A value is out of range, or there are more child identities than identities.

    Example:
        >>> SyntheticSettings(n_identities=10, n_child_identities=2, image_size=112).images_per_identity
        12
    """

    n_identities: int = 400
    images_per_identity: int = 12
    n_child_identities: int = 60
    child_images: tuple[int, int] = (7, 10)
    n_heldout_identities: int = 120
    n_validation_identities: int = 40
    heldout_child_images: int = 4
    heldout_adult_images: int = 8
    image_size: int = 56
    adult_age_years: float = 34.0
    child_identity_adult_age_years: float = 16.0
    adult_age_spread_years: float = 8.0
    nuisance: float = 0.7
    amplitude: float = 1.0
    child_amplitude_floor: float = 0.30
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (
            ("n_identities", 2),
            ("images_per_identity", 2),
            ("n_child_identities", 0),
            ("n_heldout_identities", 0),
            ("n_validation_identities", 0),
            ("heldout_child_images", 0),
            ("heldout_adult_images", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < lowest:
                raise ConfigError(f"{name}={value!r} must be a whole number, at least {lowest}.")
        for name, low, high in (
            ("adult_age_years", YOUNGEST_ADULT_YEARS, OLDEST_YEARS),
            ("child_identity_adult_age_years", YOUNGEST_ADULT_YEARS, OLDEST_YEARS),
            ("adult_age_spread_years", 0.0, 30.0),
            ("nuisance", 0.0, 2.0),
            ("amplitude", 0.0, 2.0),
            ("child_amplitude_floor", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"{name}={value!r} must be a number.")
            if not low <= value <= high:
                raise ConfigError(f"{name}={value!r} must lie in [{low:g}, {high:g}].")
        if self.image_size not in IMAGE_SIZES:
            raise ConfigError(f"image_size={self.image_size!r} must be 56 or 112.")
        if self.n_child_identities > self.n_identities:
            raise ConfigError(
                f"n_child_identities={self.n_child_identities} must not exceed n_identities={self.n_identities}."
            )
        pair = self.child_images
        if isinstance(pair, list):
            pair = tuple(pair)
            object.__setattr__(self, "child_images", pair)
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(type(v) is int for v in pair)):
            raise ConfigError(f"child_images={pair!r} must be two whole numbers, the fewest and the most.")
        if not 1 <= pair[0] <= pair[1]:
            raise ConfigError(f"child_images={pair!r} must be the fewest, at least 1, and the most, not fewer.")
        n_unseen = self.n_heldout_identities + self.n_validation_identities
        if n_unseen and not self.heldout_child_images + self.heldout_adult_images:
            raise ConfigError(
                "Held-out and validation identities need images: raise heldout_child_images or heldout_adult_images, "
                "or set n_heldout_identities=0 and n_validation_identities=0."
            )

    @classmethod
    def tiny(cls, *, image_size: int = 56, seed: int = 0) -> SyntheticSettings:
        """Give the recipe of the tests: 80 identities, drawn in about two seconds, trained in about twenty."""
        return cls(
            n_identities=80,
            n_child_identities=20,
            child_images=(4, 6),
            n_heldout_identities=40,
            n_validation_identities=16,
            heldout_child_images=3,
            heldout_adult_images=5,
            image_size=image_size,
            child_identity_adult_age_years=20.0,
            nuisance=0.5,
            amplitude=1.3,
            child_amplitude_floor=0.35,
            seed=seed,
        )

    @classmethod
    def demo(cls, *, image_size: int = 56, seed: int = 0) -> SyntheticSettings:
        """Give the recipe of the demonstration: 400 identities, 60 with 7 to 10 child images, nuisance 0.7."""
        return cls(image_size=image_size, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON can hold them; `SyntheticSettings(**...)` takes them back."""
        return {**asdict(self), "child_images": list(self.child_images)}
