"""Somebody else's trained network as a finished run: the notebooks from 03 on judge it without any training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interproto_lib.analysis import class_means
from interproto_lib.analysis.embedding import (
    Embeddings,
    embed_dataset,
    load_embeddings,
    save_embeddings,
)
from interproto_lib.analysis.held_out import (
    JudgingRules,
    held_out_check,
    held_out_results,
    held_out_scores,
    judging_rules,
)
from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.data.datasets import FaceDataset, training_labels
from interproto_lib.data.manifests import class_table
from interproto_lib.devices import resolve_device
from interproto_lib.errors import CheckpointError, ConfigError, RunError
from interproto_lib.files import file_lock, write_arrays, write_json
from interproto_lib.models.backbone import Backbone
from interproto_lib.models.export import export_safetensors, is_own_file, open_backbone
from interproto_lib.models.foreign import load_foreign
from interproto_lib.runs import RunFolder, environment, run_folder, write_results, write_table
from interproto_lib.training.imported_head import LOWEST_AGREEMENT, HeadOrder, arranged, order_of_head, read_head
from interproto_lib.training.loop import LOCK_WAIT_SECONDS
from interproto_lib.training.run_records import dataset_record, require_same_run

ChannelOrder = Literal["rgb", "bgr"]

SETTINGS_THAT_MAY_BE_KNOWN = frozenset(
    {"margin_loss", "scale", "margin", "inter_prototype", "ip_reduction", "ip_weight"}
)
"""Training settings that `trained_with` takes: those that put a run beside others in a table of the paper."""

OWN_KIND = "interproto"
"""Kind of the files that this library writes itself."""

UNKNOWN_TRAINING = (
    "It is not known on whose images the network was trained: people that it is judged on here may be among them."
)

_EPOCHS = 1
_SHORTEST = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class _Network:
    """A network read from a file, and what the record of the run says of it."""

    name: str
    backbone: Backbone
    record: dict[str, Any]


def import_run(
    checkpoint: str | Path,
    folder: str | Path,
    dataset: FaceDataset,
    *,
    head: str | Path | None = None,
    head_order: HeadOrder = "auto",
    lowest_agreement: float = LOWEST_AGREEMENT,
    kind: str = "auto",
    channel_order: ChannelOrder | None = None,
    seed: int | None = None,
    min_child_images: int = 5,
    child_below_years: float = 13.0,
    unlabelled_as_years: float | None = None,
    trained_with: Mapping[str, Any] | None = None,
    evaluation: EvaluationConfig | None = None,
    device: str = "auto",
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> RunFolder:
    """Make a finished run of a network that was trained elsewhere, on a dataset of ours.

    Written is what a training leaves and notebook 02 adds: settings, classes, prototypes, backbone, the embeddings of
    all images, the scores of held-out and validation pairs and the held-out check; there are no metrics. The record
    `imported` in `config.json` says where the network comes from and what of its training is known. The run has one
    epoch, so that every rule to choose one takes it.

    Prototypes are the rows of `head`; without one, the mean embedding of each identity's training images, scaled to
    length 1, which only stands in for a prototype (`RunFolder.prototypes_from` tells them apart). A dataset without
    training images has no classes and gives a run without prototypes, for verification and identification alone.

    An import that was stopped goes on with the files that are missing; a finished one is given back as it is, and
    judged anew where `evaluation` is another.

    **The order of a head.** Row i of a head belongs to label i of its training. Where folders are named by numbers,
    padded or not, published training lists take the number for the label, and the rows are in the order of the numbers;
    where a program made the labels of the sorted names, in the order of the names as text, in which "10" stands before
    "2". The two orders are one where all names are equally long. Which it is, is found out by images of up to 256
    identities: of at least half of these they must be nearest to their own row, or the head is refused.

    Args:
        checkpoint: The file of the backbone: one that `interproto_lib.models.foreign.load_foreign` knows, or a
            safetensors file of this library.
        folder: The run folder to make, as in `runs/<experiment>/<name>-s<seed>`.
        dataset: The images.
        head: The file of the prototypes, one row a training identity of the dataset; None takes means.
        head_order: Order of the identities in the head: `number`, `text` (sorted as text, as `class_table` does), or
            `auto`: the one that the images agree with.
        lowest_agreement: Share of identities in [0, 1] whose images must be nearest to their own row of the head.
        kind: Where the checkpoint comes from: a key of `interproto_lib.models.foreign.FOREIGN_KINDS`, `interproto` for
            a file of this library, or `auto` to go by its keys.
        channel_order: Channels that the original network takes, `rgb` or `bgr`; None leaves it to the kind.
        seed: Number by which the run is set beside others; None takes it from the folder's name, else 0.
        min_child_images: An identity counts as a child identity from this many child images on.
        child_below_years: An image shows a child below this age in years.
        unlabelled_as_years: Age in years given to images without an age label; None leaves them unlabelled.
        trained_with: Settings that the network is known to have been trained with, of `SETTINGS_THAT_MAY_BE_KNOWN`.
        evaluation: How the held-out check judges; None takes the defaults.
        device: Where to compute: `auto` (a GPU where there is one), `cpu`, `cuda`.
        progress: Gives for a description of the work what is called with images done and all images, as
            `interproto_lib.progress.count_progress` does.

    Returns:
        The finished run.

    Raises:
        ConfigError: An argument is out of range.
        CheckpointError: A file cannot be read, the network takes images of another size than the dataset has, or the
            head does not fit the backbone or the dataset.
        RunError: The folder holds another run, or another process works in it.
        WriteError: The folder cannot be written.
    """
    run = RunFolder(Path(folder))
    evaluation = evaluation or EvaluationConfig()
    where = resolve_device(device)
    classes = _classes(dataset, min_child_images, child_below_years, unlabelled_as_years)
    network = _read_network(Path(checkpoint), kind, channel_order, dataset.image_size)
    known = _checked_settings(trained_with or {})
    config = TrainConfig(
        backbone=network.name,
        embedding_dim=network.backbone.embedding_dim,
        # What is not known of the training reads as the plainest there is, a row of none of the paper's tables.
        **{"margin_loss": "softmax", "scale": 1.0, "margin": 0.0, **known},
        min_child_images=min_child_images,
        child_below_years=child_below_years,
        unlabelled_as_years=unlabelled_as_years,
        epochs=_EPOCHS,
        precision="float32",
        device=device,
        seed=_checked_seed(run.path, seed),
    )
    rows = None
    if head is not None:
        rows = read_head(Path(head), embedding_dim=config.embedding_dim, n_classes=len(classes))
    imported = {
        **network.record,
        "head": None if head is None else {"file": Path(head).name, "sha256": _sha256(Path(head)), "asked": head_order},
        "prototypes": "head" if head is not None else "class_means" if len(classes) else "none",
        "known_settings": sorted(known),
        "training_data": UNKNOWN_TRAINING,
    }
    identity = {"train": config.to_dict(), "dataset": dataset_record(dataset, classes), "imported": imported}
    busy = f"Another process works in {run.path}. Wait for it, or import under another name."
    with file_lock(run.path / ".lock", busy=busy, wait_seconds=LOCK_WAIT_SECONDS):
        _check_folder(run, identity)
        if not (run.path / "config.json").is_file():
            if rows is not None:
                imported["head_order"], imported["head_agreement"] = order_of_head(
                    rows,
                    network.backbone,
                    dataset,
                    classes,
                    asked=head_order,
                    lowest_agreement=lowest_agreement,
                    device=where,
                    where=str(head),
                )
            machine = {"device": str(where), "threads": torch.get_num_threads(), "backbone_precision": "float32"}
            write_table(classes, run.path / "classes.csv")
            write_json(run.path / "environment.json", {**environment(), **machine})
            write_json(run.path / "config.json", identity)
        if not (run.path / "backbone.safetensors").is_file():
            export_safetensors(network.backbone, run.path / "backbone.safetensors")
        # The vectors are written last, so that where they are the manifest is too.
        if not (run.path / "embeddings" / "vectors.safetensors").is_file():
            report = None if progress is None else progress(f"{run.name}, embedding")
            save_embeddings(embed_dataset(run, dataset, device=device, progress=report), run)
        if len(classes) and not (run.path / "prototypes.safetensors").is_file():
            if rows is None:
                prototypes = _unit_means(load_embeddings(run), dataset, classes)
            else:
                order = (run.imported or {})["head_order"]
                prototypes = arranged(rows, [str(name) for name in classes["identity"]], order=order)
            write_arrays(run.path / "prototypes.safetensors", {"prototypes": prototypes})
        _judge(run, dataset, evaluation, device, progress)
        if not run.is_finished:
            summary = {"n_identities": len(classes), "n_images": len(dataset), "prototypes": imported["prototypes"]}
            write_json(run.path / "summary.json", summary)
    return run


def _classes(
    dataset: FaceDataset, min_child_images: int, child_below_years: float, unlabelled_as_years: float | None
) -> pd.DataFrame:
    """The classes; none, in a table of the same columns, where the dataset has no training images."""
    manifest = dataset.manifest
    has_training = bool((manifest["split"] == "train").any())
    classes = class_table(
        manifest if has_training else manifest.head(1).assign(split="train"),
        min_child_images=min_child_images,
        child_below_years=child_below_years,
        unlabelled_as_years=unlabelled_as_years,
    )
    return classes if has_training else classes.iloc[:0]


def _read_network(path: Path, kind: str, channel_order: str | None, image_size: int) -> _Network:
    record: dict[str, Any] = {"file": path.name, "sha256": _sha256(path)}
    if kind == OWN_KIND or (kind == "auto" and is_own_file(path)):
        if channel_order not in (None, "rgb"):
            raise ConfigError(f"channel_order={channel_order!r}: {path.name} is of this library, which takes RGB.")
        name, backbone = open_backbone(path, image_size=image_size)
        record |= {"kind": OWN_KIND, "channel_order": "rgb", "conversion": {}}
    else:
        foreign = load_foreign(path, kind=kind, channel_order=channel_order, image_size=image_size)
        name, backbone = foreign.backbone_name, foreign.backbone
        conversion = {key: text for key, text in foreign.metadata.items() if not key.startswith("source_sha")}
        record |= {"kind": foreign.kind, "channel_order": foreign.channel_order, "conversion": conversion}
    if backbone.image_size != image_size:
        raise CheckpointError(
            f"{path} takes images of {backbone.image_size} pixels, the dataset has images of {image_size}. Prepare the "
            f"dataset with image_size={backbone.image_size}."
        )
    for key, tensor in backbone.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {key} holds values that are not finite; the file is damaged.")
    return _Network(name=name, backbone=backbone, record=record)


def _checked_settings(known: Mapping[str, Any]) -> dict[str, Any]:
    others = sorted(set(known) - SETTINGS_THAT_MAY_BE_KNOWN)
    if others:
        raise ConfigError(
            f"trained_with={others[0]!r}: of a training elsewhere these may be stated: "
            f"{', '.join(sorted(SETTINGS_THAT_MAY_BE_KNOWN))}."
        )
    return dict(known)


def _checked_seed(path: Path, seed: int | None) -> int:
    match = re.search(r"-s(\d+)$", path.name)
    chosen = seed if seed is not None else int(match[1]) if match else 0
    run_folder(path.parent, path.name, seed=chosen)
    return chosen


def _check_folder(run: RunFolder, identity: dict[str, Any]) -> None:
    if not (run.path / "config.json").is_file():
        return
    there = run.imported
    if there is None:
        raise RunError(f"{run.path} holds a run that was trained here. Import under another name.")
    wanted = identity["imported"]
    differing = [name for name in wanted if there.get(name) != wanted[name]]
    if differing:
        name = differing[0]
        raise RunError(
            f"{run.path} holds another import: {name} was {there.get(name)!r}, now {wanted[name]!r}. Import under "
            "another name, or remove the folder."
        )
    require_same_run(run, {part: identity[part] for part in ("train", "dataset")})


def _unit_means(embeddings: Embeddings, dataset: FaceDataset, classes: pd.DataFrame) -> NDArray[np.float32]:
    rows, of_rows = training_labels(dataset, classes)
    labels = np.full(len(dataset), -1, dtype=np.int64)
    labels[rows] = of_rows
    means, _ = class_means(embeddings.vectors, labels, len(classes))
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _SHORTEST)
    return unit.astype(np.float32)


def _judge(
    run: RunFolder,
    dataset: FaceDataset,
    evaluation: EvaluationConfig,
    device: str,
    progress: Callable[[str], Callable[[int, int], None]] | None,
) -> None:
    """The held-out check, as notebook 02 records it."""
    rules = JudgingRules(evaluation=evaluation, child_below_years=run.config.child_below_years)
    if (run.path / "results" / "held_out.json").is_file() and judging_rules(run) == rules:
        return
    report = None if progress is None else progress(f"{run.name}, held-out pairs")
    tests, validation = held_out_scores(run, dataset, evaluation=evaluation, device=device, progress=report)
    table = held_out_check(tests, validation, evaluation=evaluation)
    parameters = {"experiment": run.path.parent.name, "run": run.name, **run.config.to_dict(), **rules.to_dict()}
    results = held_out_results(table, run=run.name, rules=rules)
    write_results(run.path, "held_out", results, parameters=parameters)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
