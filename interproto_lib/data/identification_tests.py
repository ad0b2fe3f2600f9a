"""Whom a comparison searches for, among whom, and where the images are read from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.evaluation_sets import EvaluationSets
from interproto_lib.data.identification_sets import (
    IdentificationSet,
    identification_set,
    identification_set_from_pairs,
)
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.data.protocol_files import write_identification_set
from interproto_lib.data.seeded_draws import text_hash
from interproto_lib.data.test_sets import IMAGE_COLUMNS, DatasetSource, ImageSource
from interproto_lib.errors import ConfigError, DatasetError

ANY_AGE = "any age"
"""Name of the identification set of people whose ages allow no child-adult set; it says nothing of children."""

_GAPS_YEARS = {"C20": 20.0, "C30": 30.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentificationTest:
    """An identification set that can be embedded.

    Attributes:
        identification: Probes and gallery.
        source: Where their images are read from.
    """

    identification: IdentificationSet
    source: ImageSource

    @property
    def name(self) -> str:
        """What the set is called in tables."""
        return self.identification.name

    @property
    def probe_images(self) -> pd.DataFrame:
        """The p probe images with the columns `IMAGE_COLUMNS`, in the order of the probes."""
        return self.identification.images.iloc[self.identification.probes].reset_index(drop=True)

    @property
    def gallery_images(self) -> pd.DataFrame:
        """The g gallery images with the columns `IMAGE_COLUMNS`, in the order of the gallery."""
        return self.identification.images.iloc[self.identification.gallery].reset_index(drop=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentificationTests:
    """The identification sets of a comparison, and those that could not be made.

    Attributes:
        tests: Name -> identification set with its images.
        missing: Name -> why there is no such set.
    """

    tests: Mapping[str, IdentificationTest]
    missing: Mapping[str, str]


def identification_tests(
    dataset: FaceDataset,
    sets: EvaluationSets,
    *,
    child_below_years: float = CHILD_BELOW_YEARS,
    gap_inclusive: bool = True,
    seed: int = 0,
) -> IdentificationTests:
    """Gather the identification sets of a comparison: of the dataset's held-out people, and of pair lists from files.

    The held-out people give "C20" and "C30": a child's image is searched for among adult images, the person's own is at
    least 20 (30) years older. Where their ages allow neither, they give "any age": one probe and one gallery image of
    each person, drawn whatever the ages are, which says nothing of children.

    Args:
        dataset: The dataset of the experiment.
        sets: Its test sets; those read from files give an identification set each (`identification_set_from_pairs`).
        child_below_years: An image of the dataset is a child's below this age in years.
        gap_inclusive: Whether a gap of exactly 20 (30) years is enough.
        seed: Seed of the draws of probes, mates and distractors.

    Returns:
        The sets. A set that the ages do not allow, that has images without identity, or probes of one person only, is
        not among them; `missing` says why.

    Raises:
        ConfigError: A test set from a file has the name of a set of held-out people.
        DatasetError: A pair list contradicts its identities.
    """
    source = DatasetSource(dataset=dataset)
    found: dict[str, IdentificationTest] = {}
    missing: dict[str, str] = {}
    for name, gap in _GAPS_YEARS.items():
        try:
            own = identification_set(
                dataset.manifest,
                min_gap_years=gap,
                child_below_years=child_below_years,
                split="heldout",
                seed=seed,
                gap_inclusive=gap_inclusive,
                name=name,
            )
        except DatasetError as error:  # the ages, or the people, allow none
            missing[name] = str(error)
        else:
            found[name] = IdentificationTest(identification=own, source=source)
    if not found:
        try:
            found[ANY_AGE] = IdentificationTest(identification=_any_age_set(dataset.manifest, seed), source=source)
        except DatasetError as error:
            missing[ANY_AGE] = str(error)
    for name, one in sets.tests.items():
        if isinstance(one.source, DatasetSource):
            continue
        if name in found:
            raise ConfigError(f"A test set cannot be called {name!r}: that is a set of the held-out people.")
        n_nameless = int(one.images["identity"].isna().sum())
        if n_nameless:
            missing[name] = (
                f"{n_nameless:,} of its {len(one.images):,} images have no identity, which a search needs of all."
            )
            continue
        try:
            made = identification_set_from_pairs(one, seed=seed)
        except DatasetError as error:
            missing[name] = str(error)
            continue
        found[name] = IdentificationTest(identification=made, source=one.source)
    for name in [name for name, test in found.items() if test.probe_images["identity"].nunique() < 2]:
        found.pop(name)
        missing[name] = "it has probes of one person only, which says nothing of others."
    return IdentificationTests(tests=found, missing={**missing, **sets.missing})


def publish_identification_tests(tests: Mapping[str, IdentificationTest], folder: str | Path) -> dict[str, Path]:
    """Publish identification sets: each as `identification_<name>.csv` with a JSON beside it that holds its hash.

    Args:
        tests: Name -> identification set.
        folder: Where to write; made if missing.

    Returns:
        Name -> its CSV, see `write_identification_set`.

    Raises:
        ConfigError: Two names would give one file.
        WriteError: A file cannot be written.
    """
    paths: dict[str, Path] = {}
    for name, test in tests.items():
        path = Path(folder) / f"identification_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.csv"
        other = next((before for before, taken in paths.items() if taken == path), None)
        if other is not None:
            raise ConfigError(f"Test sets {other!r} and {name!r} would both be published as {path.name}: rename one.")
        write_identification_set(test.identification, path)
        paths[name] = path
    return paths


def _any_age_set(manifest: pd.DataFrame, seed: int) -> IdentificationSet:
    images = manifest.loc[manifest["split"] == "heldout", list(IMAGE_COLUMNS)].reset_index(drop=True)
    paths = images["path"].tolist()
    probes: list[int] = []
    mates: list[int] = []
    others: list[int] = []
    for rows in images.groupby("identity", sort=False).indices.values():
        of_one = [int(row) for row in rows]
        probe = min(of_one, key=lambda row: text_hash(seed, "probe", paths[row]))
        rest = [row for row in of_one if row != probe]
        if rest:
            probes.append(probe)
            mates.append(min(rest, key=lambda row: text_hash(seed, "mate", paths[row])))
        else:
            others.append(probe)
    if not probes:
        raise DatasetError("No held-out identity has two images, so nobody can be searched for.")
    chosen = [*probes, *mates, *others]
    return IdentificationSet(
        name=ANY_AGE,
        images=images.iloc[chosen].reset_index(drop=True),
        probes=np.arange(len(probes), dtype=np.int64),
        gallery=np.arange(len(probes), len(chosen), dtype=np.int64),
        rule=(
            "Not child against adult: ages are not looked at. Each identity with two images gives one of them as the "
            "probe and another one to the gallery; each identity with one image gives it to the gallery. Each draw "
            "takes the image with the smallest SHA-256 of '<seed> <probe or mate> <path>'."
        ),
        settings={"split": "heldout", "seed": seed},
    )
