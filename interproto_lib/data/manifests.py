"""Manifests: the table that says of every image whose face it is, how old the person was, and what it is used for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from interproto_lib.data.tables import MAX_AGE_YEARS, SourceTable, read_table
from interproto_lib.errors import ConfigError, ManifestError
from interproto_lib.files import atomic_write

MANIFEST_COLUMNS = ("path", "identity", "age_years", "split", "source")
SPLITS = ("train", "validation", "heldout")
"""The splits of a manifest: training images, those that choose epoch and threshold, and those that are judged."""

CHILD_BELOW_YEARS = 13.0
"""An image shows a child when `age_years < CHILD_BELOW_YEARS` (paper, sections 3 and 5.1: the group 0-12)."""

AGE_GROUPS = ("0-12", "13-18", "19-25", "26-35", "36-45", "46-55", "56-65", ">=66")
"""The eight age groups of the paper (section 3), in completed years."""

AGE_GROUP_STARTS = (0, 13, 19, 26, 36, 46, 56, 66)
"""First age in years of each group."""

_TEXT_COLUMNS = ("path", "identity", "split", "source")


@dataclass(frozen=True, kw_only=True)
class ManifestSummary:
    """What a manifest holds, counted.

    Attributes:
        n_images: Rows.
        n_identities: Different identities.
        n_train_images: Rows of the split "train".
        n_validation_images: Rows of the split "validation".
        n_heldout_images: Rows of the split "heldout".
        n_train_identities: Identities with a training image.
        n_validation_identities: Identities with a validation image.
        n_heldout_identities: Identities with a held-out image.
        n_shared_identities: Identities with images in several splits; above 0, held-out results are not open-set.
        n_child_images: Rows with `age_years < 13`.
        n_child_identities: Identities with at least one such row.
        n_unlabelled: Rows without an age.
        sources: Rows of each source.
        group_counts: For each age group and "unlabelled", the rows of each split.
    """

    n_images: int
    n_identities: int
    n_train_images: int
    n_validation_images: int
    n_heldout_images: int
    n_train_identities: int
    n_validation_identities: int
    n_heldout_identities: int
    n_shared_identities: int
    n_child_images: int
    n_child_identities: int
    n_unlabelled: int
    sources: dict[str, int] = field(default_factory=dict)
    group_counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return the counts as a table: one row an age group and one "unlabelled", one column a split."""
        frame = pd.DataFrame.from_dict(self.group_counts, orient="index", columns=list(SPLITS))
        frame.index.name = "age_group"
        return frame

    def __str__(self) -> str:
        shared = f"; {self.n_shared_identities} identities are in several splits" if self.n_shared_identities else ""
        lines = [
            f"{self.n_images} images of {self.n_identities} identities",
            f"  train       {self.n_train_images} images of {self.n_train_identities} identities",
            f"  validation  {self.n_validation_images} images of {self.n_validation_identities} identities",
            f"  heldout     {self.n_heldout_images} images of {self.n_heldout_identities} identities{shared}",
            f"  children (below {CHILD_BELOW_YEARS:.0f} years): {self.n_child_images} images of "
            f"{self.n_child_identities} identities",
            f"  unlabelled (no age): {self.n_unlabelled} images",
            "  sources: " + ", ".join(f"{name} ({count})" for name, count in self.sources.items()),
            *("  " + line for line in self.to_frame().to_string().splitlines()),
        ]
        return "\n".join(lines)


def validate_manifest(
    manifest: pd.DataFrame, *, where: str = "manifest", lines: NDArray[np.int64] | None = None
) -> pd.DataFrame:
    """Check a manifest and return a clean copy of it: columns of the right type, a RangeIndex, the five columns first.

    A missing age stays missing (NaN): the image is unlabelled, no age is assumed. Further columns are kept.

    Args:
        manifest: The table, n >= 1 rows, columns `path` (relative to the image root, forward slashes, unique),
            `identity`, `age_years` (0 to 130 or missing), `split` ("train", "validation" or "heldout") and
            `source`.
        where: What to call the table in messages, usually its file.
        lines: The line of the file on which each row ends (n,), for messages about a CSV.

    Returns:
        The checked manifest, n rows in the same order.

    Raises:
        ManifestError: The table breaks one of these rules; the message names table, row and column.

    Example:
        >>> table = pd.DataFrame({"path": ["a/1.png"], "identity": ["a"], "age_years": [None],
        ...                       "split": ["train"], "source": ["mine"]})
        >>> validate_manifest(table)["age_years"].isna().item()
        True
    """
    table = SourceTable(frame=manifest, where=where, lines=lines)
    table.require_columns(MANIFEST_COLUMNS)
    table.check_paths()
    for column in ("identity", "split", "source"):
        table.check_text(column)
    table.refuse(
        (~manifest["split"].isin(SPLITS)).to_numpy(dtype=bool),
        "split",
        lambda value: f"{value!r} is not a split. Write one of: {', '.join(SPLITS)}.",
    )
    ages = table.ages()
    clean = manifest.reset_index(drop=True)
    clean["age_years"] = ages
    for column in _TEXT_COLUMNS:
        clean[column] = clean[column].astype("str")
    return clean[[*MANIFEST_COLUMNS, *(column for column in clean.columns if column not in MANIFEST_COLUMNS)]]


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read a manifest from .csv or .parquet and check it.

    Args:
        path: The file. A CSV is UTF-8, comma-separated, with one header line; an empty age is an unlabelled image.

    Returns:
        The checked manifest (see `validate_manifest`).

    Raises:
        ManifestError: The file cannot be read or breaks a rule; the message names file, row, line and column.
    """
    table = read_table(path, text_columns=MANIFEST_COLUMNS)
    return validate_manifest(table.frame, where=table.where, lines=table.lines)


def write_manifest(manifest: pd.DataFrame, path: str | Path) -> None:
    """Check a manifest and write it, atomically: `path` holds the old table or the whole new one.

    Args:
        manifest: The table (see `validate_manifest`).
        path: The file to write, ending in .parquet (keeps every type) or .csv (for people to read and edit).

    Raises:
        ManifestError: The manifest breaks a rule, or `path` has another ending.
        WriteError: The file cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise ManifestError(f"{file} ends in {file.suffix or 'nothing'}; write a manifest to .csv or .parquet.")
    checked = validate_manifest(manifest)
    with atomic_write(file) as temporary:
        if file.suffix.lower() == ".parquet":
            checked.to_parquet(temporary, index=False)
        else:
            checked.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def age_group(age_years: ArrayLike) -> pd.Categorical:
    """Put ages into the eight groups of the paper (section 3), by completed years: 12.5 is in "0-12".

    Args:
        age_years: Ages (n,) in years, 0 to 130; NaN is unlabelled.

    Returns:
        An ordered categorical (n,) with the categories `AGE_GROUPS`; missing where the age is.

    Raises:
        ManifestError: An age is negative, above 130 or infinite.

    Example:
        >>> [str(group) for group in age_group([12.5, 13, 70, float("nan")])]
        ['0-12', '13-18', '>=66', 'nan']
    """
    ages = SourceTable(frame=pd.DataFrame({"age_years": np.asarray(age_years)}), where="ages").ages()
    codes = np.searchsorted(AGE_GROUP_STARTS, ages, side="right") - 1
    names = np.array([*AGE_GROUPS, None], dtype=object)
    groups = names[np.where(np.isnan(ages), len(AGE_GROUPS), codes)]
    return pd.Categorical(groups, categories=list(AGE_GROUPS), ordered=True)


def class_table(
    manifest: pd.DataFrame,
    *,
    min_child_images: int = 10,
    child_below_years: float = CHILD_BELOW_YEARS,
    unlabelled_as_years: float | None = None,
) -> pd.DataFrame:
    """List the training classes and mark those that count as child classes for the Inter-Prototype loss.

    Source: paper section 4.2 speaks of classes containing child images; the official code counts a class when it has
    at least 10 training images of age below 13, which is the default here. The official code also takes an image
    without a label as 30 years old; that is `unlabelled_as_years=30`, and not done unless asked for.

    Args:
        manifest: A manifest; only rows of the split "train" count.
        min_child_images: How many child images make a child class, >= 1.
        child_below_years: An image is a child's when its age in years is below this.
        unlabelled_as_years: The age in years to assume where none is given; None assumes nothing, and an unlabelled
            image is then no child image.

    Returns:
        One row a training identity, sorted by identity: `identity`, `n_images`, `n_child_images`, `n_unlabelled`,
        `is_child`. Row i is class label i and row i of the prototypes.

    Raises:
        ConfigError: A setting is out of range.
        ManifestError: There is no training image.
    """
    if min_child_images < 1:
        raise ConfigError(f"min_child_images is {min_child_images}; it must be at least 1.")
    if not child_below_years > 0:
        raise ConfigError(f"child_below_years is {child_below_years}; it must be above 0.")
    if unlabelled_as_years is not None and not 0 <= unlabelled_as_years <= MAX_AGE_YEARS:
        raise ConfigError(f"unlabelled_as_years is {unlabelled_as_years}; expected None or 0 to {MAX_AGE_YEARS:.0f}.")
    train = manifest[manifest["split"] == "train"]
    if len(train) == 0:
        raise ManifestError("The manifest has no training image (split 'train'), so there are no classes.")
    ages = train["age_years"]
    assumed = ages if unlabelled_as_years is None else ages.fillna(unlabelled_as_years)
    marks = pd.DataFrame(
        {"identity": train["identity"], "n_child_images": assumed < child_below_years, "n_unlabelled": ages.isna()}
    )
    grouped = marks.groupby("identity", sort=True)
    classes = grouped.sum().astype(np.int64)
    classes.insert(0, "n_images", grouped.size().astype(np.int64))
    classes["is_child"] = classes["n_child_images"] >= min_child_images
    return classes.reset_index()


def summarise_manifest(manifest: pd.DataFrame) -> ManifestSummary:
    """Count images, identities, splits, children, unlabelled images and age groups of a manifest.

    Args:
        manifest: A manifest (checked here).

    Returns:
        The counts; `print` it, or take `to_frame()` for the distribution of ages (paper, Fig. 1).

    Raises:
        ManifestError: The manifest breaks a rule.
    """
    checked = validate_manifest(manifest)
    split, identity = checked["split"], checked["identity"]
    child = checked["age_years"] < CHILD_BELOW_YEARS
    members = {name: set(identity[split == name]) for name in SPLITS}
    groups = pd.Series(age_group(checked["age_years"])).cat.add_categories("unlabelled").fillna("unlabelled")
    counts = pd.crosstab(groups, split).reindex(index=[*AGE_GROUPS, "unlabelled"], columns=SPLITS, fill_value=0)
    return ManifestSummary(
        n_images=len(checked),
        n_identities=identity.nunique(),
        n_train_images=int((split == "train").sum()),
        n_validation_images=int((split == "validation").sum()),
        n_heldout_images=int((split == "heldout").sum()),
        n_train_identities=len(members["train"]),
        n_validation_identities=len(members["validation"]),
        n_heldout_identities=len(members["heldout"]),
        n_shared_identities=sum(sum(name in of_split for of_split in members.values()) > 1 for name in set(identity)),
        n_child_images=int(child.sum()),
        n_child_identities=identity[child].nunique(),
        n_unlabelled=int(checked["age_years"].isna().sum()),
        sources={str(name): int(count) for name, count in checked["source"].value_counts(sort=False).items()},
        group_counts={str(g): {s: int(counts.loc[g, s]) for s in SPLITS} for g in counts.index},
    )
