"""Test sets: which images are compared in pairs, and where these images are read from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.datasets import FaceDataset, hash_images
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.data.pair_rules import PAIR_KINDS
from interproto_lib.data.protocols import Negatives, verification_pairs
from interproto_lib.errors import DatasetError

IMAGE_COLUMNS = ("path", "identity", "age_years")
"""Columns of the images of a test set."""

PAIR_COLUMNS = ("left", "right", "same")
"""Columns of the pairs of a test set."""

AGE_MATCHED = ", age-matched"
"""What follows the kind in the name of a test set whose pairs of two people have the ages of those of one."""


class ImageSource(Protocol):
    """Where the images of test sets are read from, by their paths.

    Attributes:
        key: The same for all test sets that share images, so that each image is embedded once for all of them.
        image_size: Height and width of the images, in pixels.
    """

    @property
    def key(self) -> str:
        """Say what the images are a part of."""
        ...

    @property
    def image_size(self) -> int:
        """Give height and width of the images, in pixels."""
        ...

    def read(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        """Read the images of these paths, (k, size, size, 3) RGB, in their order."""
        ...

    def state(self, paths: Sequence[str]) -> str:
        """Describe these images without reading them, so that a change of them changes the description."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationSet:
    """Pairs of images, each of one person or of two.

    Attributes:
        name: What it is called in tables, as in "AgeDB-C20"; sets made of a manifest are called by their kind, as in
            "C20".
        images: n images with the columns `IMAGE_COLUMNS`: path (unique), identity (missing where unknown), age in years
            (NaN where unknown).
        pairs: m pairs with the columns `PAIR_COLUMNS`: positions of the two images, and whether they show one person.
        source: Where the images are read from.

    Raises:
        DatasetError: A column is missing, a path stands twice, a position is outside the images, or the pairs are of
            one class only.
    """

    name: str
    images: pd.DataFrame
    pairs: pd.DataFrame
    source: ImageSource

    def __post_init__(self) -> None:
        what = f"test set {self.name!r}"
        for table, columns, called in ((self.images, IMAGE_COLUMNS, "images"), (self.pairs, PAIR_COLUMNS, "pairs")):
            missing = [column for column in columns if column not in table.columns]
            if missing:
                raise DatasetError(f"The {called} of {what} have no column {', '.join(missing)}.")
        if self.images["path"].duplicated().any():
            twice = self.images.loc[self.images["path"].duplicated(), "path"].iloc[0]
            raise DatasetError(f"The image {twice!r} of {what} stands twice; each image is listed once.")
        for side in ("left", "right"):
            positions = self.pairs[side].to_numpy()
            wrong = np.flatnonzero((positions < 0) | (positions >= len(self.images)))
            if len(wrong):
                raise DatasetError(
                    f"Pair {wrong[0]} of {what} has {side} {positions[wrong[0]]}, outside its {len(self.images)} "
                    "images."
                )
        n_same = int(self.pairs["same"].sum())
        if n_same in (0, len(self.pairs)):
            raise DatasetError(
                f"The {len(self.pairs)} pairs of {what} hold {n_same} of one person: both classes are needed."
            )

    @property
    def sha256(self) -> str:
        """Hash of the protocol: of the lines `1 left path<tab>right path` (0 for two people), in their order."""
        paths = self.images["path"].to_numpy(dtype=object)
        lines = (
            f"{int(same)} {left}\t{right}\n"
            for same, left, right in zip(
                self.pairs["same"], paths[self.pairs["left"]], paths[self.pairs["right"]], strict=True
            )
        )
        return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSource:
    """The images of a dataset as a source for test sets; see `ImageSource`."""

    dataset: FaceDataset

    @property
    def key(self) -> str:
        """Name and folder of the dataset."""
        return f"{self.dataset.name} {self.dataset.folder or id(self.dataset)}"

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.dataset.image_size

    def read(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        """Read the images of these paths, (k, size, size, 3) RGB, in their order."""
        rows = self._row_of_path.get_indexer(pd.Index(list(paths)))
        if (rows < 0).any():
            raise DatasetError(
                f"Dataset {self.dataset.name!r} has no image {paths[int(np.flatnonzero(rows < 0)[0])]!r}."
            )
        return np.asarray(self.dataset.images[rows])

    def state(self, paths: Sequence[str]) -> str:
        """Describe the images: by the hash of all images of the dataset."""
        return hash_images(self.dataset)

    @cached_property
    def _row_of_path(self) -> pd.Index:
        return pd.Index(self.dataset.manifest["path"])


def held_out_sets(
    dataset: FaceDataset,
    *,
    split: str = "heldout",
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
    negatives: Negatives = "age_rule",
    seed: int = 0,
) -> dict[str, VerificationSet]:
    """Make the test sets that the people of one split allow: one for each kind of pair.

    Args:
        dataset: The dataset.
        split: Whose images are compared.
        child_below_years: An image is a child's when its age in years is below this.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough for "C20" ("C30").
        negatives: How pairs of two people are drawn, see `verification_pairs`; "age_matched" needs ages, so that the
            kind "any" is left out.
        seed: Seed of the negative pairs.

    Returns:
        Kind, a key of `interproto_lib.data.PAIR_KINDS` -> test set, named by its kind, for other splits than "heldout"
        with the split before it, with matched ages with these words after it. A kind without a pair of one person or
        without one of two is left out.

    Raises:
        ConfigError: An argument is out of range.
    """
    manifest = dataset.manifest
    source, sets = DatasetSource(dataset=dataset), {}
    before = "" if split == "heldout" else f"{split} "
    after = AGE_MATCHED if negatives == "age_matched" else ""
    for kind in PAIR_KINDS:
        if after and kind == "any":
            continue
        try:
            pairs = verification_pairs(
                manifest,
                kind,
                split=split,
                seed=seed,
                child_below_years=child_below_years,
                gap_inclusive=gap_inclusive,
                negatives=negatives,
            )
        except DatasetError:  # no pair of one person, or none of two, under this rule
            continue
        rows, place = np.unique(np.concatenate([pairs["left"], pairs["right"]]), return_inverse=True)
        sets[kind] = VerificationSet(
            name=f"{before}{kind}{after}",
            images=manifest.loc[rows, list(IMAGE_COLUMNS)].reset_index(drop=True),
            pairs=pd.DataFrame({"left": place[: len(pairs)], "right": place[len(pairs) :], "same": pairs["same"]}),
            source=source,
        )
    return sets
