"""Checking a prepared dataset: its hashes, its counts beside its card, and whether its source has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from interproto_lib.data.card_counts import CardCount, count_dataset
from interproto_lib.data.datasets import FaceDataset, load_dataset, verify_dataset
from interproto_lib.data.intake_report import count_lines, dropped_images, split_line, split_members
from interproto_lib.data.packing_journal import fingerprint_difference
from interproto_lib.data.registry import read_card
from interproto_lib.data.shapes import Shape, open_collection
from interproto_lib.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class PreparedReport:
    """What a prepared dataset holds, found as it was written.

    Attributes:
        folder: The dataset folder.
        name: What it is called.
        shape: How its source lay.
        image_size: Height and width of its images, in pixels.
        counts: Identities, images and children beside the numbers on the card; empty without a card.
        splits: For each split its images and its identities.
        source: What was found at the source; empty when it was not asked for.
        is_source_changed: Whether its files are others than those that were prepared; False when it was not asked for.
    """

    folder: Path
    name: str
    shape: str
    image_size: int
    counts: tuple[CardCount, ...]
    splits: dict[str, dict[str, int]]
    source: str
    is_source_changed: bool

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.folder} is as it was written, every byte of it: {self.name} ({self.shape}), "
                f"{self.image_size} x {self.image_size} pixels.",
                *(count_lines(self.counts) if self.counts else []),
                split_line(self.splits),
                *([self.source] if self.source else []),
            ]
        )


def check_prepared(
    folder: str | Path, *, source: str | Path | None = None, progress: Callable[[int, int], None] | None = None
) -> PreparedReport:
    """Read a prepared dataset whole, compare its hashes, and lay its counts beside its card.

    Args:
        folder: The dataset folder.
        source: Where it was made from, to be told whether that has changed since; None does not look.
        progress: Called with the number of bytes read and the number of all.

    Returns:
        What it holds.

    Raises:
        DatasetNotFoundError: There is no finished dataset.
        DatasetError: A file is not as it was written; the message names it. Or the source is not recognised.
    """
    place = Path(folder)
    verify_dataset(place, progress=progress)
    dataset = load_dataset(place)
    settings = dataset.settings
    card = settings.get("card")
    counts: tuple[CardCount, ...] = ()
    if card:
        counts = count_dataset(read_card(str(card)), dataset.manifest, n_rejected=len(dropped_images(dataset)))
    found, is_changed = ("", False) if source is None else _compare_source(Path(source), dataset)
    return PreparedReport(
        folder=place,
        name=dataset.name,
        shape=str(settings.get("format", "made by this library")),
        image_size=dataset.image_size,
        counts=counts,
        splits=split_members(dataset.manifest),
        source=found,
        is_source_changed=is_changed,
    )


def _compare_source(source: Path, dataset: FaceDataset) -> tuple[str, bool]:
    """Say whether the files of the source are those that were prepared, for people and for machines."""
    packing = dataset.settings.get("packing")
    recorded = packing.get("fingerprint") if isinstance(packing, dict) else None
    if recorded is None:
        raise DatasetError(
            f"{dataset.folder} does not say what its source held: it was not made by interproto prepare, so whether "
            f"{source} has changed cannot be told."
        )
    now = open_collection(
        source,
        name=dataset.name,
        shape=cast(Shape, str(dataset.settings.get("format", "auto"))),
        follow_links=dataset.settings.get("follow_links") is True,
    )
    difference = fingerprint_difference(str(recorded), now.fingerprint)
    if not difference:
        return f"{source} has not changed since: the same files, sizes and times.", False
    n_before = len(dataset) + len(dropped_images(dataset))
    listed = f"it holds {len(now):,} images, then {n_before:,}" if len(now) != n_before else "as many images as then"
    return (
        f"{source} has changed since ({listed}): {difference}. Prepare it again into another folder to work with it as "
        "it is now."
    ), True
