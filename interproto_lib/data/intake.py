"""From what lies on a disk to a dataset folder: recognised, given its ages, packed, and laid beside its card."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.age_coverage import label_ages
from interproto_lib.data.card_counts import count_dataset
from interproto_lib.data.collections import ImageCollection
from interproto_lib.data.detection import FaceDetector
from interproto_lib.data.face_decoding import AlignmentOptions, aligned_decode
from interproto_lib.data.formats.image_files import FITS, Fit
from interproto_lib.data.formats.landmarks import LandmarkFile, read_landmarks
from interproto_lib.data.intake_report import (
    IntakeReport,
    RejectedImage,
    dropped_images,
    split_members,
    write_rejected,
)
from interproto_lib.data.packed_folders import MISFIT, fitting_decoder
from interproto_lib.data.packed_images import Decode
from interproto_lib.data.packing import RejectedImagesError, pack_collection
from interproto_lib.data.registry import DatasetCard, not_found_message, read_card
from interproto_lib.data.shapes import SHAPES, Shape, open_collection
from interproto_lib.data.splits import check_shares, choose_splits
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

Progress = Callable[[int, int], None]

DrawRejected = Callable[[Sequence[RejectedImage], Callable[[int], bytes]], Path]
"""Draws rejected images and gives the file: takes them, and what gives the encoded bytes of the one at a position."""

_SHARES = {"train": (0.0, 0.0), "evaluate": (1.0, 0.0), "both": (0.25, 0.1)}
"""Shares held out and validating where none are asked for, by the role on the card."""

_OWN_IMAGES = "identity_folder"
_DRAWN = "builtin"


def prepare_source(
    dataset: str,
    source: str | Path,
    out: str | Path,
    *,
    shape: Shape = "auto",
    ages: str | Path | None = None,
    bad_ages: Literal["error", "count"] = "error",
    few_ages: Literal["error", "count"] = "error",
    image_size: int = 112,
    fit: Fit = "error",
    heldout_share: float | None = None,
    validation_share: float | None = None,
    seed: int = 0,
    on_rejected: Literal["error", "drop"] = "error",
    landmarks: str | Path | None = None,
    detector: str | Path | None = None,
    alignment: AlignmentOptions | None = None,
    follow_links: bool = False,
    n_threads: int = 2,
    relabel: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda text: None,
    draw_rejected: DrawRejected | None = None,
) -> IntakeReport:
    """Make a dataset folder of images as they lie on the disk, and compare it with the dataset's card.

    The images are streamed: memory does not grow with their number. A preparation that was interrupted, at whatever
    moment, goes on where it was when it is called again with the same arguments, and gives the same files; the
    same source may then have another path. What it found is written beside the dataset as `preparation.json`, images
    that could not be used as `rejected.csv`.

    Args:
        dataset: The dataset, as its card in `data_manifests/` is called; "identity_folder" for images of your own.
        source: The folder, or the .rec file.
        out: The dataset folder to make; not inside the source.
        shape: How the source lies, a key of `interproto_lib.data.shapes.SHAPES`; "auto" recognises it.
        ages: A list of age labels (.txt, see `read_age_labels`), or a .csv or .parquet with the columns `path` and
            `age_years`. None leaves the ages that the names tell, if any; no age is ever assumed.
        bad_ages: What to do with rows of that table that hold no age or name an image twice: "error" names the first,
            "count" leaves the images concerned without an age (see `bad_rows` of `label_ages`).
        few_ages: What to do with a table of which most rows name no image while most images are not named: "error"
            refuses it as that of another dataset, "count" takes what matches.
        image_size: Height and width of the images to make, in pixels.
        fit: What to do with images of another size (see `FITS`); not with `landmarks` or `detector`.
        heldout_share: Share of the identities to hold out. None goes by the role on the card: nobody of a training
            set, everybody of an evaluation set, a quarter where it is both.
        validation_share: Share of the identities that validate. None: nobody, or a tenth where the role is both.
        seed: Chooses which identities are held out and which validate.
        on_rejected: "error" refuses a source with images that cannot be used; "drop" leaves them out.
        landmarks: Align the faces with the five points of this file (see `interproto_lib.data.face_decoding`).
        detector: Align the faces that this ONNX network finds.
        alignment: Which face is taken and how it is aligned; None takes the defaults.
        follow_links: Follow links that lead out of the source.
        n_threads: How many threads decode, >= 1.
        relabel: Write the manifest of a finished dataset anew, with these ages and shares, and keep its images (see
            `pack_collection`).
        progress: Called with the number of images done and the number of all.
        say: Told before the images are decoded what was recognised and how many ages there are.
        draw_rejected: Draws the images that could not be aligned; None draws none.

    Returns:
        Counts, ages, rejected images and times.

    Raises:
        ConfigError: An argument is wrong, or there is nothing to prepare.
        DatasetNotFoundError: The source is not there, or there is no such card.
        DatasetError: The source is not recognised, or images cannot be used; with "error" all are in `rejected.csv`.
        CheckpointError: The detector is missing, with the steps to get one, or cannot be used.
        ManifestError: Ages or landmarks are malformed or belong to other images.
        RunError: Another process prepares the same folder.
        WriteError: The folder cannot be written.
    """
    started = time.perf_counter()
    card = read_card(dataset)
    place, folder = Path(source), Path(out)
    _check_arguments(card, place, folder, ages, image_size, fit, landmarks, detector)
    _refuse_alignment_without_effect(alignment, landmarks, detector)
    heldout, validation = _shares(card, heldout_share, validation_share)
    # Read before a folder of millions is listed.
    options = AlignmentOptions() if alignment is None else alignment
    faces = _face_source(landmarks, detector, options)
    name = place.resolve().name if dataset == _OWN_IMAGES else dataset
    collection = open_collection(place, name=name, shape=shape, follow_links=follow_links)
    say(f"{collection.place} holds {len(collection):,} images as {collection.shape}: {SHAPES[collection.shape]}.")
    collection, found_ages, coverage = _with_ages(collection, ages, bad_ages, few_ages, card)
    say(coverage)
    split = _split(collection, heldout, validation, seed)
    n_before = len(collection)  # of a finished dataset
    decode, decoding, alignment_notes = _decoder(collection, image_size, fit, faces, options)

    def begun(n_done: int) -> None:
        nonlocal n_before
        n_before = n_done

    try:
        prepared = pack_collection(
            collection,
            folder,
            split=split,
            image_size=image_size,
            decode=decode,
            settings={
                "format": collection.shape,
                "card": dataset,
                "root": str(place.resolve()),
                "follow_links": follow_links,
                "image_size": image_size,
                **decoding,
            },
            on_rejected=on_rejected,
            n_threads=n_threads,
            progress=progress,
            begun=begun,
            relabel=relabel,
        )
    except RejectedImagesError as error:
        paths = collection.table["path"]
        rejected = [RejectedImage(path=str(paths.iloc[image.row]), reason=image.reason) for image in error.rejected]
        file = write_rejected(rejected, folder)
        sheet = None if faces is None else _draw(draw_rejected, collection, rejected)
        shown = "" if sheet is None else f" Some are shown in {sheet}."
        raise DatasetError(
            f"{error}\nAll are listed with their reasons in {file}; on the command line, --on-rejected drop leaves "
            f"them out.{shown}{_ways_to_fit(error, image_size)}"
        ) from error
    dropped = dropped_images(prepared)
    report = IntakeReport(
        dataset=dataset,
        source=place,
        folder=folder,
        shape=collection.shape,
        image_size=image_size,
        counts=count_dataset(card, prepared.manifest, n_rejected=len(dropped)),
        splits=split_members(prepared.manifest),
        ages=_kept_ages(found_ages, prepared.manifest),
        rejected=dropped,
        contact_sheet=None if faces is None else _draw(draw_rejected, collection, dropped),
        others=collection.others,
        notes=(*collection.notes, *alignment_notes),
        seconds=time.perf_counter() - started,
        n_decoded=len(collection) - n_before,
    )
    report.write()
    return report


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
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; the dataset is made as a folder. Choose another name.")
    if ages is not None and not Path(ages).is_file():
        raise DatasetNotFoundError(f"There is no table of ages {ages}. Check the path.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out} lies inside the source {source}, which is only read. Choose a folder beside it.")


def _refuse_alignment_without_effect(
    alignment: AlignmentOptions | None, landmarks: str | Path | None, detector: str | Path | None
) -> None:
    """Refuse options of aligning that nothing reads: of images taken as they are, all; with landmarks, the score."""
    if alignment is None or detector is not None:
        return
    given = {name: value for name, value in vars(alignment).items() if value != getattr(AlignmentOptions(), name)}
    if landmarks is None and given:
        named = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ConfigError(f"{named} is for aligned faces: give landmarks or a detector, or leave it out.")
    if "score_threshold" in given:
        raise ConfigError(
            f"score_threshold={given['score_threshold']} is for faces that a detector finds, not for landmarks of a "
            "file: leave it out, or remove these rows from the file."
        )


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
    collection: ImageCollection,
    ages: str | Path | None,
    bad_ages: Literal["error", "count"],
    few_ages: Literal["error", "count"],
    card: DatasetCard,
) -> tuple[ImageCollection, dict[str, Any], str]:
    """Join the ages, and say for machines and for people how many there are."""
    if ages is not None:
        labelled, coverage = label_ages(collection, ages, bad_rows=bad_ages, few=few_ages)
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


def _kept_ages(found: Mapping[str, Any], manifest: pd.DataFrame) -> dict[str, Any]:
    """Give the ages for the report: those of the images that were kept, and what there was in the source."""
    kept = {"n_images": len(manifest), "n_labelled": int(manifest["age_years"].notna().sum())}
    return {"table": found["table"], **kept, "in_source": {key: found[key] for key in found if key != "table"}}


def _ways_to_fit(error: RejectedImagesError, image_size: int) -> str:
    """Say how images of another size are made to fit; empty where none is rejected for its size."""
    n_misfits = sum(image.kind == MISFIT for image in error.rejected)
    if not n_misfits:
        return ""
    ways = "; ".join(f"--fit {name}: {what}" for name, what in FITS.items() if name != "error")
    return (
        f"\n{n_misfits:,} of them can be read and are not {image_size} x {image_size} pixels. If they are photographs, "
        "align their faces with --landmarks FILE or --detector MODEL.onnx. If they show aligned faces, say how to "
        f"bring them to this size ({ways})."
    )


def _draw(
    draw_rejected: DrawRejected | None, collection: ImageCollection, rejected: Sequence[RejectedImage]
) -> Path | None:
    if draw_rejected is None or not rejected:
        return None
    # In the order of the collection, as the rejected images are.
    rows = np.flatnonzero(collection.table["path"].isin([image.path for image in rejected]))
    return draw_rejected(rejected, lambda position: collection.encoded.read(int(rows[position])))


def _face_source(
    landmarks: str | Path | None, detector: str | Path | None, options: AlignmentOptions
) -> LandmarkFile | FaceDetector | None:
    if landmarks is not None:
        return read_landmarks(landmarks)
    # One thread an image: as many images at once as there are threads.
    if detector is None:
        return None
    return FaceDetector(detector, score_threshold=options.score_threshold, n_threads=1)


def _decoder(
    collection: ImageCollection,
    image_size: int,
    fit: Fit,
    faces: LandmarkFile | FaceDetector | None,
    options: AlignmentOptions,
) -> tuple[Decode, dict[str, Any], tuple[str, ...]]:
    """Give what decodes, all that its pixels depend on beside the images, and what a reader must know of it."""
    if faces is not None:
        aligned = aligned_decode(
            faces,
            image_size=image_size,
            paths=collection.table["path"],
            choose=options.choose,
            min_face_pixels=options.min_face_pixels,
            antialias=options.antialias,
        )
        return aligned, {"alignment": aligned.settings}, aligned.notes

    return fitting_decoder(image_size, fit), {"fit": fit}, ()
