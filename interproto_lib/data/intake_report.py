"""What came of preparing a dataset, for people and as files: counts beside the card, rejected images, ages, time."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interproto_lib.data.card_counts import CardCount
from interproto_lib.data.datasets import FaceDataset
from interproto_lib.data.manifests import SPLITS
from interproto_lib.errors import DatasetError
from interproto_lib.files import atomic_write, write_json

REPORT_FILE = "preparation.json"
REJECTED_FILE = "rejected.csv"
REJECTED_SHEET = "rejected.png"

_FORMAT_VERSION = 1
_MAX_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class RejectedImage:
    """An image that could not be used.

    Attributes:
        path: Its path, as in the manifest of the others.
        reason: Why.
    """

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IntakeReport:
    """What a source held and what was made of it.

    Attributes:
        dataset: The name of the card.
        source: Where the images came from.
        folder: The dataset folder.
        shape: How the source lies, a key of `interproto_lib.data.shapes.SHAPES`.
        image_size: Height and width of the prepared images, in pixels.
        counts: Identities, images and children beside the numbers on the card.
        splits: For each split its images and its identities.
        ages: Where the ages come from and how many images have one, as JSON can hold it.
        rejected: The images left out.
        contact_sheet: A picture of images that could not be aligned; None where there are none.
        others: How many files of the source are no images of it, and the first of them.
        notes: What a reader of the source must know.
        seconds: How long it took, this time.
        n_decoded: How many images were read this time, the rejected ones included; the others were there from an
            earlier, interrupted try.
    """

    dataset: str
    source: Path
    folder: Path
    shape: str
    image_size: int
    counts: tuple[CardCount, ...]
    splits: dict[str, dict[str, int]]
    ages: dict[str, Any]
    rejected: tuple[RejectedImage, ...]
    contact_sheet: Path | None
    others: tuple[int, tuple[str, ...]]
    notes: tuple[str, ...]
    seconds: float
    n_decoded: int

    @property
    def images_per_second(self) -> float | None:
        """Images decoded a second, everything counted; None where none were decoded this time."""
        return self.n_decoded / max(self.seconds, 1e-9) if self.n_decoded else None

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON can hold it; the list of rejected images lies in a file of its own."""
        n_others, examples = self.others
        return {
            "format_version": _FORMAT_VERSION,
            "dataset": self.dataset,
            "source": str(self.source),
            "shape": self.shape,
            "image_size": self.image_size,
            "counts": [count.to_dict() for count in self.counts],
            "splits": self.splits,
            "ages": self.ages,
            "rejected": {"count": len(self.rejected), "file": REJECTED_FILE},
            "contact_sheet": None if self.contact_sheet is None else self.contact_sheet.name,
            "others": {"count": n_others, "examples": list(examples)},
            "notes": list(self.notes),
            "time": {
                "seconds": round(self.seconds, 3),
                "images_decoded": self.n_decoded,
                "images_per_second": None if self.images_per_second is None else round(self.images_per_second, 1),
            },
        }

    def write(self) -> None:
        """Write `preparation.json` and `rejected.csv` into the dataset folder; an older contact sheet is removed.

        Raises:
            WriteError: A file cannot be written.
        """
        write_rejected(self.rejected, self.folder)
        if self.contact_sheet is None:
            (self.folder / REJECTED_SHEET).unlink(missing_ok=True)
        write_json(self.folder / REPORT_FILE, self.to_dict())

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.dataset} from {self.source} ({self.shape}), prepared in {self.folder} at {self.image_size} x "
                f"{self.image_size} pixels.",
                *count_lines(self.counts),
                split_line(self.splits),
                self._ages_line(),
                *self._rejected_lines(),
                *self._other_lines(),
                *(f"Note: {note}" for note in self.notes),
                self._time_line(),
            ]
        )

    def _ages_line(self) -> str:
        n_images, n_labelled, table = (self.ages[key] for key in ("n_images", "n_labelled", "table"))
        if not n_labelled:
            return f"Ages: none, all {n_images:,} images are unlabelled."
        origin = "their names" if table is None else table
        others = "; the others are unlabelled" if n_labelled < n_images else ""
        return f"Ages: {n_labelled:,} of {n_images:,} images have one, by {origin}{others}."

    def _rejected_lines(self) -> list[str]:
        if not self.rejected:
            return ["Rejected: none."]
        sheet = [] if self.contact_sheet is None else [f"  Some are shown in {self.contact_sheet}."]
        n_rejected = "1 image" if len(self.rejected) == 1 else f"{len(self.rejected):,} images"
        where = f"listed in {self.folder / REJECTED_FILE}"
        return [f"Rejected: {n_rejected}, {where}:", named_images(self.rejected), *sheet]

    def _other_lines(self) -> list[str]:
        n_others, examples = self.others
        what = "1 other file" if n_others == 1 else f"{n_others:,} other files"
        return [f"Not read: {what}, such as {', '.join(examples[:3])}."] if n_others else []

    def _time_line(self) -> str:
        n_all = sum(members["images"] for members in self.splits.values()) + len(self.rejected)
        if not self.n_decoded:
            return f"Time: {self.seconds:.1f} s; the images were prepared before."
        before = n_all - self.n_decoded
        earlier = f" ({before:,} were there from before the interruption)" if before > 0 else ""
        return f"Time: {self.seconds:.1f} s, {self.images_per_second:,.0f} images/s{earlier}."


def count_lines(counts: Sequence[CardCount]) -> list[str]:
    """Give counts beside their card as lines for people."""
    return ["Counts, beside the dataset's card:", *(f"  {count}" for count in counts)]


def dropped_images(dataset: FaceDataset) -> tuple[RejectedImage, ...]:
    """Give the images that were left out when a dataset was packed, as its settings list them.

    Raises:
        DatasetError: The settings hold something else in that place.
    """
    listed = dataset.settings.get("dropped", [])
    try:
        images = tuple(RejectedImage(path=entry["path"], reason=entry["reason"]) for entry in listed)
    except (TypeError, KeyError):
        images = (RejectedImage(path="", reason=""),)
    if not all(isinstance(text, str) and text for image in images for text in (image.path, image.reason)):
        raise DatasetError(f"{dataset.folder}: the settings list something else than paths and reasons under dropped.")
    return images


def split_members(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count the images and identities of each split of a manifest."""
    by_split = manifest.groupby("split")["identity"]
    images, identities = by_split.size(), by_split.nunique()
    return {
        split: {"images": int(images.get(split, 0)), "identities": int(identities.get(split, 0))} for split in SPLITS
    }


def split_line(splits: Mapping[str, Mapping[str, int]]) -> str:
    """Give the images and identities of each split as a line for people, empty splits left out."""
    members = [f"{split} {of['images']:,} images of {of['identities']:,} identities" for split, of in splits.items()]
    return "Splits: " + "; ".join(line for line, of in zip(members, splits.values(), strict=True) if of["images"]) + "."


def named_images(rejected: Sequence[RejectedImage]) -> str:
    """Name the first ten of some images with the reasons, and say how many more there are."""
    lines = [f"  {image.path}: {image.reason}" for image in rejected[:_MAX_NAMED]]
    more = len(rejected) - _MAX_NAMED
    return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])])


def write_rejected(rejected: Sequence[RejectedImage], folder: str | Path) -> Path:
    """Write the list of rejected images as CSV (UTF-8, columns path and reason), atomically.

    Args:
        rejected: The images; without any, only the header is written.
        folder: The dataset folder.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    file = Path(folder) / REJECTED_FILE
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows((image.path, image.reason) for image in rejected)
    return file
