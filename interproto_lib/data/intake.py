"""From what lies on a disk to a dataset folder: recognised, given its ages, packed, and laid beside its card."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from interproto_lib.data.card_counts import CardCount, compare_with_card, count_images
from interproto_lib.data.collections import ImageCollection
from interproto_lib.data.datasets import FaceDataset, load_dataset, verify_dataset
from interproto_lib.data.formats.image_files import FITS, Fit, decode_image_bytes, fit_image
from interproto_lib.data.intake_report import (
    IntakeReport,
    RejectedImage,
    count_lines,
    split_line,
    write_rejected,
)
from interproto_lib.data.manifests import SPLITS
from interproto_lib.data.packed_images import Decode, DecodedImage
from interproto_lib.data.packing import RejectedImagesError, pack_collection
from interproto_lib.data.registry import DatasetCard, not_found_message, read_card
from interproto_lib.data.shapes import SHAPES, Shape, open_collection
from interproto_lib.data.splits import check_shares, choose_splits
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

Progress = Callable[[int, int], None]

_SHARES = {"train": (0.0, 0.0), "evaluate": (1.0, 0.0), "both": (0.25, 0.1)}
"""Shares held out and validating where none are asked for, by the role on the card."""

_OWN_IMAGES = "identity_folder"
_DRAWN = "builtin"


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
    """

    folder: Path
    name: str
    shape: str
    image_size: int
    counts: tuple[CardCount, ...]
    splits: dict[str, dict[str, int]]
    source: str

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


def prepare_source(
    dataset: str,
    source: str | Path,
    out: str | Path,
    *,
    shape: Shape = "auto",
    ages: str | Path | None = None,
    bad_ages: Literal["error", "count"] = "error",
    image_size: int = 112,
    fit: Fit = "error",
    heldout_share: float | None = None,
    validation_share: float | None = None,
    seed: int = 0,
    on_rejected: Literal["error", "drop"] = "error",
    landmarks: str | Path | None = None,
    detector: str | Path | None = None,
    follow_links: bool = False,
    n_threads: int = 2,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> IntakeReport:
    """Make a dataset folder of images as they lie on the disk, and compare it with the dataset's card.

    The images are streamed: memory does not grow with their number. A preparation that was interrupted, at whatever
    moment, goes on where it was when it is called again with the same arguments, and gives the same files. What it
    found is written beside the dataset as `preparation.json`, images that could not be used as `rejected.csv`.

    Args:
        dataset: The dataset, as its card in `data_manifests/` is called; "identity_folder" for images of your own.
        source: The folder, or the .rec file.
        out: The dataset folder to make; not inside the source.
        shape: How the source lies, a key of `interproto_lib.data.shapes.SHAPES`; "auto" recognises it.
        ages: A list of age labels (.txt, see `read_age_labels`), or a .csv or .parquet with the columns `path` and
            `age_years`. None leaves the ages that the names tell, if any; no age is ever assumed.
        bad_ages: What to do with rows of that table that hold no age or name an image twice: "error" names the first,
            "count" leaves the images concerned without an age (see `bad_rows` of `label_ages`).
        image_size: Height and width of the images to make, in pixels.
        fit: What to do with images of another size (see `FITS`); not with `landmarks` or `detector`.
        heldout_share: Share of the identities to hold out. None goes by the role on the card: nobody of a training
            set, everybody of an evaluation set, a quarter where it is both.
        validation_share: Share of the identities that validate. None: nobody, or a tenth where the role is both.
        seed: Chooses which identities are held out and which validate.
        on_rejected: "error" refuses a source with images that cannot be used; "drop" leaves them out.
        landmarks: Align the faces with the five points of this file (see `interproto_lib.data.face_decoding`).
        detector: Align the faces that this ONNX network finds.
        follow_links: Follow links that lead out of the source.
        n_threads: How many threads decode, >= 1.
        progress: Called with the number of images done and the number of all.
        say: Told before the images are decoded what was recognised and how many ages there are.

    Returns:
        Counts, ages, rejected images and times.

    Raises:
        ConfigError: An argument is wrong, or there is nothing to prepare.
        DatasetNotFoundError: The source is not there, or there is no such card.
        DatasetError: The source is not recognised, or images cannot be used; with "error" all are in `rejected.csv`.
        ManifestError: The ages are malformed or belong to other images.
        RunError: Another process prepares the same folder.
        WriteError: The folder cannot be written.
    """
    started = time.perf_counter()
    card = read_card(dataset)
    place, folder = Path(source), Path(out)
    _check_arguments(card, place, folder, ages, image_size, fit, landmarks, detector)
    heldout, validation = _shares(card, heldout_share, validation_share)
    name = place.resolve().name if dataset == _OWN_IMAGES else dataset
    collection = open_collection(place, name=name, shape=shape, follow_links=follow_links)
    say(f"{collection.place} holds {len(collection):,} images as {collection.shape}: {SHAPES[collection.shape]}.")
    collection, found_ages, coverage = _with_ages(collection, ages, bad_ages, card)
    say(coverage)
    split = _split(collection, heldout, validation, seed)
    n_decoded = itertools.count()
    decode = _decoder(collection, image_size, fit, landmarks, detector)

    def counted(row: int, content: bytes) -> NDArray[np.uint8] | DecodedImage:
        next(n_decoded)
        return decode(row, content)

    try:
        prepared = pack_collection(
            collection,
            folder,
            split=split,
            image_size=image_size,
            decode=counted,
            settings={
                "format": collection.shape,
                "card": dataset,
                "root": str(place),
                "follow_links": follow_links,
                "image_size": image_size,
                "fit": fit,
                "landmarks": None if landmarks is None else str(landmarks),
                "detector": None if detector is None else str(detector),
            },
            on_rejected=on_rejected,
            n_threads=n_threads,
            progress=progress,
        )
    except RejectedImagesError as error:
        paths = collection.table["path"]
        rejected = [RejectedImage(path=str(paths.iloc[image.row]), reason=image.reason) for image in error.rejected]
        file = write_rejected(rejected, folder)
        raise DatasetError(
            f"{error}\nAll are listed with their reasons in {file}; on the command line, --on-rejected drop leaves "
            "them out."
        ) from error
    dropped = tuple(RejectedImage(**image) for image in prepared.settings["dropped"])
    report = IntakeReport(
        dataset=dataset,
        source=place,
        folder=folder,
        shape=collection.shape,
        image_size=image_size,
        counts=_counts(card, prepared, n_rejected=len(dropped)),
        splits=_members(prepared),
        ages=found_ages,
        rejected=dropped,
        contact_sheet=None,
        others=collection.others,
        notes=collection.notes,
        seconds=time.perf_counter() - started,
        n_decoded=next(n_decoded),
    )
    report.write()
    return report


def check_prepared(
    folder: str | Path, *, source: str | Path | None = None, progress: Progress | None = None
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
    named = settings.get("card")
    shape = str(settings.get("format", "made by this library"))
    counts: tuple[CardCount, ...] = ()
    if named:
        counts = _counts(read_card(named), dataset, n_rejected=len(settings.get("dropped", [])))
    return PreparedReport(
        folder=place,
        name=dataset.name,
        shape=shape,
        image_size=dataset.image_size,
        counts=counts,
        splits=_members(dataset),
        source="" if source is None else _compare_source(Path(source), dataset),
    )


def _compare_source(source: Path, dataset: FaceDataset) -> str:
    recorded = dataset.settings.get("packing", {}).get("fingerprint")
    if recorded is None:
        raise DatasetError(
            f"{dataset.folder} does not say what its source held: it was not made by interproto prepare, so whether "
            f"{source} has changed cannot be told."
        )
    now = open_collection(
        source,
        name=dataset.name,
        shape=dataset.settings["format"],
        follow_links=dataset.settings.get("follow_links", False),
    )
    if now.fingerprint == recorded:
        return f"{source} has not changed since: the same files, sizes and times."
    n_before = len(dataset) + len(dataset.settings.get("dropped", []))
    listed = f"it holds {len(now):,} images, then {n_before:,}" if len(now) != n_before else "as many images as then"
    return (
        f"{source} has changed since ({listed}): files were added, removed or written anew. Prepare it again into "
        "another folder to work with it as it is now."
    )


def _check_arguments(
    card: DatasetCard,
    source: Path,
    out: Path,
    ages: str | Path | None,
    image_size: int,
    fit: str,
    landmarks: str | Path | None,
    detector: str | Path | None,
) -> None:
    if card.name == _DRAWN:
        raise ConfigError(f"The built-in faces are drawn, not prepared. {card.how_to_obtain[0]}")
    if fit not in FITS:
        raise ConfigError(f"fit is {fit!r}; choose one of: {', '.join(FITS)}.")
    if image_size < 1:
        raise ConfigError(f"image_size is {image_size}; it must be at least 1 pixel.")
    if landmarks is not None and detector is not None:
        raise ConfigError("Both landmarks and detector are given: faces are aligned by one of them.")
    if fit != "error" and (landmarks is not None or detector is not None):
        raise ConfigError(f"fit is {fit!r}, but aligned faces have the wanted size. Leave out fit.")
    if not source.exists():
        raise DatasetNotFoundError(not_found_message(card, f"was looked for in {source}, which does not exist"))
    for what, file in (("ages", ages), ("landmarks", landmarks), ("detector", detector)):
        if file is not None and not Path(file).is_file():
            raise DatasetNotFoundError(f"There is no file {file} ({what}). Check the path.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out} lies inside the source {source}, which is only read. Choose a folder beside it.")


def _shares(card: DatasetCard, heldout_share: float | None, validation_share: float | None) -> tuple[float, float]:
    """Give the shares held out and validating, those not asked for by the role on the card."""
    usual_heldout, usual_validation = _SHARES[card.role]
    if heldout_share is None:
        heldout_share = usual_heldout if usual_heldout < 1 else 1 - (validation_share or 0.0)
    if validation_share is None:
        validation_share = min(usual_validation, max(0.0, 1 - heldout_share))
    check_shares(heldout_share, validation_share)
    return heldout_share, validation_share


def _split(
    collection: ImageCollection, heldout_share: float, validation_share: float, seed: int
) -> NDArray[np.object_]:
    if heldout_share == 1 or heldout_share == validation_share == 0:
        # Nobody is chosen, so that people with a single image may be among them.
        return np.full(len(collection), "heldout" if heldout_share else "train", dtype=object)
    return choose_splits(
        collection.table["identity"],
        heldout_share=heldout_share,
        validation_share=validation_share,
        seed=seed,
        where=collection.place,
    )


def _with_ages(
    collection: ImageCollection, ages: str | Path | None, bad_ages: Literal["error", "count"], card: DatasetCard
) -> tuple[ImageCollection, dict[str, Any], str]:
    """Join the ages, and say for machines and for people how many there are."""
    if ages is not None:
        from interproto_lib.data.age_coverage import label_ages

        labelled, coverage = label_ages(collection, ages, bad_rows=bad_ages)
        return labelled, coverage.to_dict(), str(coverage)
    n_images = len(collection)
    n_labelled = int(collection.table["age_years"].notna().sum())
    found = {"table": None, "n_images": n_images, "n_labelled": n_labelled}
    if n_labelled:
        return collection, found, f"{n_labelled:,} of {n_images:,} images have an age, by their names."
    return (
        collection,
        found,
        f"No ages were given: all {n_images:,} images are unlabelled, no age is assumed, and child images and child "
        f"identities cannot be counted. Give those that you have with --ages FILE. Of the ages of {card.name} its card "
        f"says: {card.age_labels.rstrip()}",
    )


def _decoder(
    collection: ImageCollection, image_size: int, fit: Fit, landmarks: str | Path | None, detector: str | Path | None
) -> Decode:
    def decode(row: int, content: bytes) -> DecodedImage:
        image = decode_image_bytes(content)
        return DecodedImage(np.asarray(fit_image(image, image_size, fit)), image.size)

    return decode


def _counts(card: DatasetCard, dataset: FaceDataset, *, n_rejected: int) -> tuple[CardCount, ...]:
    return compare_with_card(
        card,
        count_images(dataset.manifest),
        n_rejected=n_rejected,
        n_unlabelled=int(dataset.manifest["age_years"].isna().sum()),
    )


def _members(dataset: FaceDataset) -> dict[str, dict[str, int]]:
    by_split = dataset.manifest.groupby("split")["identity"]
    images, identities = by_split.size(), by_split.nunique()
    return {
        split: {"images": int(images.get(split, 0)), "identities": int(identities.get(split, 0))} for split in SPLITS
    }
