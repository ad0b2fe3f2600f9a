"""Identification sets: who is searched for among whom, by a published rule."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.manifests import CHILD_BELOW_YEARS, SPLITS, validate_manifest
from interproto_lib.data.pair_rules import ADULT_FROM_YEARS, PairRule
from interproto_lib.data.seeded_draws import text_hash
from interproto_lib.data.test_sets import IMAGE_COLUMNS, VerificationSet
from interproto_lib.errors import ConfigError, DatasetError

IntArray = NDArray[np.int64]

IDENTIFICATION_COLUMNS = ("role", *IMAGE_COLUMNS)
"""Columns of a published identification set; a role is "probe" or "gallery"."""

_DRAWS = "Each draw takes the image with the smallest SHA-256 of '<seed> <probe, mate or distractor> <path>'."


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentificationSet:
    """Probes, and the gallery in which each has exactly one image of the same person.

    The paper's own probe and gallery files (Table 3) were never published, so results on these sets are not comparable
    to its numbers.

    Attributes:
        name: What it is called in tables.
        images: n images with the columns path (unique), identity, age in years (NaN where unknown).
        probes: Positions (p,) in `images`.
        gallery: Positions (g,) in `images`, one image of each identity.
        rule: How probes and gallery were chosen, in words.
        settings: The numbers of the rule; anything JSON can hold.

    Raises:
        DatasetError: A column is missing, a path stands twice, an identity is missing, a position is outside the
            images, an image is not used exactly once, there is no probe, the gallery has two images of one person or
            only one image, or a probe's person is not in the gallery.
    """

    name: str
    images: pd.DataFrame
    probes: IntArray
    gallery: IntArray
    rule: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        what = f"identification set {self.name!r}"
        missing = [column for column in IMAGE_COLUMNS if column not in self.images.columns]
        if missing:
            raise DatasetError(f"The images of {what} have no column {', '.join(missing)}.")
        paths, identities = self.images["path"], self.images["identity"]
        if paths.duplicated().any():
            raise DatasetError(f"The image {paths[paths.duplicated()].iloc[0]!r} of {what} stands twice.")
        if identities.isna().any():
            raise DatasetError(f"The image {paths[identities.isna()].iloc[0]!r} of {what} has no identity.")
        used = np.sort(np.concatenate([self.probes, self.gallery]))
        if not np.array_equal(used, np.arange(len(self.images))):
            raise DatasetError(
                f"Probes and gallery of {what} are {len(used)} positions in {len(self.images)} images; each image must "
                "be one probe, or one image of the gallery."
            )
        searched, known = identities.iloc[self.probes], identities.iloc[self.gallery]
        if len(self.probes) == 0:
            raise DatasetError(f"There is no probe in {what}.")
        if known.duplicated().any():
            raise DatasetError(f"The gallery of {what} has two images of {known[known.duplicated()].iloc[0]!r}.")
        if not searched.isin(known).all():
            raise DatasetError(f"The gallery of {what} has no image of {searched[~searched.isin(known)].iloc[0]!r}.")
        if len(known) < 2:
            raise DatasetError(
                f"The gallery of {what} has one person, {known.iloc[0]!r}: nobody could be mistaken for another. Add "
                "identities."
            )

    @property
    def table(self) -> pd.DataFrame:
        """The set as it is published: columns `IDENTIFICATION_COLUMNS`, probes first, then the gallery."""
        table = self.images.iloc[np.concatenate([self.probes, self.gallery])].reset_index(drop=True)
        table.insert(0, "role", np.repeat(["probe", "gallery"], [len(self.probes), len(self.gallery)]))
        return table[list(IDENTIFICATION_COLUMNS)]

    @property
    def csv_text(self) -> str:
        """The published file: the table as CSV, one header line, lines end in a line feed, unknown ages are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(IDENTIFICATION_COLUMNS)
        for role, path, identity, age in self.table.itertuples(index=False, name=None):
            writer.writerow([role, path, identity, "" if math.isnan(age) else repr(float(age))])
        return text.getvalue()

    @property
    def sha256(self) -> str:
        """Hash of the protocol: of the published file in UTF-8."""
        return hashlib.sha256(self.csv_text.encode("utf-8")).hexdigest()


def identification_set(
    manifest: pd.DataFrame,
    *,
    min_gap_years: float = 20.0,
    child_below_years: float = CHILD_BELOW_YEARS,
    split: str | None = None,
    seed: int = 0,
    gap_inclusive: bool = True,
    name: str = "children among adults",
) -> IdentificationSet:
    """Choose children to be found among adults: one probe an identity, one adult image of everybody in the gallery.

    Source: paper section 5.1 (Table 3) searches adults by a child image; its lists were never published. The rule here:
    an identity gives a probe when it has a child image and a later image at least the gap older that is no child's. The
    probe is drawn among its child images that have such a mate, its gallery image among the mates of that probe. Every
    other identity that has an image at 18 years or above adds one such image to the gallery, a distractor.

    Args:
        manifest: A manifest of n images; images without an age are not used.
        min_gap_years: Years between probe and mate, >= 0.
        child_below_years: An image is a child's when its age in years is below this.
        split: Which images to use, one of `SPLITS`; None uses all.
        seed: Decides the draws; any integer. They depend on nothing but seed and paths: another identity, or another
            order of the rows, changes no draw among these.
        gap_inclusive: Whether a gap of exactly `min_gap_years` is enough.
        name: What to call the set.

    Returns:
        The set, in the order of the manifest: gallery image i is the mate of probe i, distractors follow.

    Raises:
        ConfigError: An argument is out of range.
        DatasetError: There is no child, no identity with a child and a mate, or nobody else in the gallery.
        ManifestError: The manifest breaks a rule.

    Example:
        >>> table = pd.DataFrame({"path": ["a1", "a2", "b1"], "identity": ["a", "a", "b"],
        ...                       "age_years": [5, 40, 33], "split": "heldout", "source": "mine"})
        >>> found = identification_set(table)
        >>> found.images["path"].iloc[found.probes].tolist(), found.images["path"].iloc[found.gallery].tolist()
        (['a1'], ['a2', 'b1'])
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"{split!r} is not a split; choose one of: {', '.join(SPLITS)}.")
    rule = PairRule.child_adult(
        min_gap_years=min_gap_years, child_below_years=child_below_years, gap_inclusive=gap_inclusive
    )
    checked = validate_manifest(manifest)
    chosen = checked if split is None else checked[checked["split"] == split]
    _check_ages(chosen, rule, split)
    paths, ages = checked["path"].tolist(), checked["age_years"].to_numpy(dtype=np.float64)
    probes, mates, distractors = [], [], []
    for rows in chosen.groupby("identity", sort=False).indices.values():
        images = chosen.index.to_numpy()[rows]
        children = images[ages[images] < child_below_years]
        mates_of = {child: found for child in children.tolist() if (found := _mates(images, ages, child, rule))}
        adults = images[ages[images] >= ADULT_FROM_YEARS].tolist()
        if mates_of:
            probes.append(_drawn(paths, list(mates_of), seed, "probe"))
            mates.append(_drawn(paths, mates_of[probes[-1]], seed, "mate"))
        elif adults:
            distractors.append(_drawn(paths, adults, seed, "distractor"))
    if not probes:
        raise DatasetError(
            f"No identity has {rule.words}: of {chosen['identity'].nunique()} identities "
            f"{chosen.loc[chosen['age_years'] < child_below_years, 'identity'].nunique()} have child images. Choose "
            "a smaller min_gap_years, or add images."
        )
    gap = f"at least {min_gap_years:g}" if gap_inclusive else f"more than {min_gap_years:g}"
    return _made_of(
        checked,
        probes,
        mates,
        distractors,
        name=name,
        rule=(
            f"Each identity with an image below {child_below_years:g} years and a mate, an image {gap} years older at "
            f"{child_below_years:g} years or above, gives one probe, drawn among its child images that have a mate, "
            "and one gallery image, drawn among the mates of the probe. Each other identity with an image at "
            f"{ADULT_FROM_YEARS:.0f} years or above gives one of these to the gallery, a distractor. {_DRAWS}"
        ),
        settings={
            "min_gap_years": float(min_gap_years),
            "gap_inclusive": gap_inclusive,
            "child_below_years": float(child_below_years),
            "adult_from_years": ADULT_FROM_YEARS,
            "split": split,
            "seed": seed,
        },
    )


def identification_set_from_pairs(verification_set: VerificationSet, *, seed: int = 0) -> IdentificationSet:
    """Choose children to be found among adults from an official pair list (AgeDB-C20, AgeDB-C30, LAG).

    Each identity with a pair of one person gives one of these pairs: its left image, the child, is the probe, its
    right image stands in the gallery. Every other identity with a right image adds one of them. The AgeDB lists give
    63 and 62 probes, as many as the values of the paper's Table 3 fit; its own files were never published, so results
    are not comparable to it.

    Args:
        verification_set: The pairs, left the child; all identities must be known.
        seed: Decides the draws; any integer. They depend on nothing but seed and paths.

    Returns:
        The set: gallery image i is the mate of probe i, distractors follow, in the order of the images.

    Raises:
        DatasetError: An identity is unknown, the pairs contradict the identities, or the gallery has one person only.
    """
    images, pairs = verification_set.images, verification_set.pairs
    what = f"test set {verification_set.name!r}"
    if images["identity"].isna().any():
        nameless = images.loc[images["identity"].isna(), "path"]
        raise DatasetError(
            f"{len(nameless)} of {len(images)} images of {what} have no identity (first: {nameless.iloc[0]!r}); an "
            "identification set needs all of them."
        )
    identities = images["identity"].to_numpy(dtype=object)
    left, right = (pairs[side].to_numpy(dtype=np.int64) for side in ("left", "right"))
    same = pairs["same"].to_numpy(dtype=bool)
    wrong = np.flatnonzero((identities[left] == identities[right]) != same)
    if len(wrong):
        names = f"{identities[left[wrong[0]]]!r} and {identities[right[wrong[0]]]!r}"
        raise DatasetError(
            f"Pair {wrong[0]} of {what} is said to show {'one person' if same[wrong[0]] else 'two people'}, but its "
            f"images are of {names}."
        )
    partners: dict[object, list[tuple[int, int]]] = {}
    for child, adult in sorted(set(zip(left[same].tolist(), right[same].tolist(), strict=True))):
        partners.setdefault(identities[child], []).append((child, adult))
    paths = images["path"].tolist()
    drawn = [
        min(of_one, key=lambda pair: text_hash(seed, "pair", f"{paths[pair[0]]}\t{paths[pair[1]]}"))
        for of_one in partners.values()
    ]
    others: dict[object, list[int]] = {}
    for adult in np.unique(right).tolist():
        if identities[adult] not in partners:
            others.setdefault(identities[adult], []).append(adult)
    return _made_of(
        images,
        [child for child, _ in drawn],
        [adult for _, adult in drawn],
        [_drawn(paths, of_one, seed, "distractor") for of_one in others.values()],
        name=verification_set.name,
        rule=(
            "Each identity with a pair of one person gives one of these pairs, drawn: its left image is the probe, its "
            "right image stands in the gallery. Each other identity with a right image gives one of these to the "
            "gallery, a distractor. Each draw takes the smallest SHA-256 of '<seed> pair <left path><tab><right path>' "
            "or '<seed> distractor <path>'."
        ),
        settings={"pairs": verification_set.name, "pairs_sha256": verification_set.sha256, "seed": seed},
    )


def _check_ages(chosen: pd.DataFrame, rule: PairRule, split: str | None) -> None:
    where = "The manifest" if split is None else f"The split {split!r}"
    n_labelled = int(chosen["age_years"].notna().sum())
    if len(chosen) == 0:
        raise DatasetError(f"{where} has no images, so nobody can be searched for.")
    if n_labelled == 0:
        raise DatasetError(f"None of the {len(chosen)} images has an age; give age labels when the dataset is made.")
    if not (chosen["age_years"] < rule.child_below_years).any():
        raise DatasetError(
            f"{where} has no child image: none of its {n_labelled} images with an age is below "
            f"{rule.child_below_years:g} years, so there are no probes."
        )


def _mates(images: IntArray, ages: NDArray[np.float64], child: int, rule: PairRule) -> list[int]:
    """Give those of one person's images (m,) that are a mate of one of them, a child's."""
    grown = images[ages[images] >= rule.child_below_years]
    ascending = grown[np.argsort(ages[grown], kind="stable")]
    first = rule.first_partner(ages[ascending], ages[[child]])[0]
    return [int(row) for row in ascending[first:]]


def _drawn(paths: Sequence[str], rows: Sequence[int], seed: int, role: str) -> int:
    return min(rows, key=lambda row: text_hash(seed, role, paths[row]))


def _made_of(
    table: pd.DataFrame,
    probes: Sequence[int],
    mates: Sequence[int],
    distractors: Sequence[int],
    *,
    name: str,
    rule: str,
    settings: dict[str, Any],
) -> IdentificationSet:
    rows = [*probes, *mates, *distractors]
    return IdentificationSet(
        name=name,
        images=table[list(IMAGE_COLUMNS)].iloc[rows].reset_index(drop=True),
        probes=np.arange(len(probes), dtype=np.int64),
        gallery=np.arange(len(probes), len(rows), dtype=np.int64),
        rule=rule,
        settings=settings,
    )
