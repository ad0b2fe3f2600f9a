"""Scores of a run: the cosine of every pair of a test set, at the end of training and at every epoch that was kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.embedding import embed_paths, load_backbone
from interproto_lib.analysis.verification import pair_scores
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.datasets import FaceDataset, hash_images
from interproto_lib.data.test_sets import DatasetSource, VerificationSet
from interproto_lib.devices import resolve_device
from interproto_lib.errors import RunError
from interproto_lib.files import atomic_write
from interproto_lib.runs import RunFolder

SCORED_PAIR_COLUMNS = (
    "left",
    "right",
    "left_identity",
    "right_identity",
    "left_age_years",
    "right_age_years",
    "same",
)
"""Columns that tell of each pair who and what is compared."""

_EPOCH_COLUMN = re.compile(r"cosine_epoch_(\d+)")


@dataclass(frozen=True, kw_only=True, eq=False)
class PairScores:
    """The cosines of the pairs of a test set, as one run sees them.

    Attributes:
        test_set: Name of the test set.
        pairs: m rows with the columns `SCORED_PAIR_COLUMNS`; left and right are paths.
        epochs: The epochs scored, rising; the last is the end of training.
        cosines: (number of epochs, m) float32.
        made_from: What the cosines were computed from: hash of the protocol, image source and its state,
            `embedding_flip`, `embedding_precision`.
    """

    test_set: str
    pairs: pd.DataFrame
    epochs: tuple[int, ...]
    cosines: NDArray[np.float32]
    made_from: Mapping[str, str]

    @property
    def same(self) -> NDArray[np.bool_]:
        """Whether each pair (m,) shows one person."""
        return self.pairs["same"].to_numpy(dtype=bool)

    def at(self, epoch: int) -> NDArray[np.float32]:
        """Give the cosines (m,) of one epoch.

        Args:
            epoch: One of `epochs`.

        Raises:
            RunError: The epoch was not scored.
        """
        if epoch not in self.epochs:
            raise RunError(
                f"Test set {self.test_set!r} was not scored at epoch {epoch}, only at "
                f"{', '.join(map(str, self.epochs))}."
            )
        return np.asarray(self.cosines[self.epochs.index(epoch)])


def kept_epochs(run: RunFolder) -> tuple[int, ...]:
    """Give the epochs of a run that can be judged: all of them where they were kept, otherwise the last."""
    last = run.config.epochs
    return tuple(range(1, last + 1)) if run.config.keep_every_epoch else (last,)


def score_test_sets(
    run: RunFolder,
    test_sets: Sequence[VerificationSet],
    *,
    evaluation: EvaluationConfig | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PairScores]:
    """Score test sets with a run, keep the scores in its folder `scores`, and read back those that are there already.

    An image that several pairs or several test sets of one source share is embedded once an epoch. Scores on disk are
    taken where they were made from the same pairs in the same way and epochs; others are made anew.

    Args:
        run: A finished run.
        test_sets: The test sets, of different names.
        evaluation: `embedding_flip` and `embedding_precision` are used; None takes the defaults.
        device: Where to compute: `auto`, `cpu`, `cuda`; None takes the run's own setting.
        progress: Called with images done and all images after each batch, where any are to be embedded.

    Returns:
        Name of the test set -> its scores, in the order given.

    Raises:
        ConfigError: The machine has no such device.
        DatasetError: An image cannot be read, or has another size than the network takes.
        RunError: Two test sets have one name, the run is not finished, or a test set is of the people of a dataset that
            is no longer the one that the run was trained on.
        WriteError: The scores cannot be written.
    """
    evaluation = evaluation or EvaluationConfig()
    names = [test_set.name for test_set in test_sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"Two test sets are called {twice[0]!r}; give them different names.")
    for test_set in test_sets:
        if isinstance(test_set.source, DatasetSource):
            _check_trained_on(run, test_set.source.dataset)
    epochs = kept_epochs(run)
    made_from = {test_set.name: _made_from(test_set, evaluation) for test_set in test_sets}
    found = {
        # Who is in the pairs, and how old, is taken from the test set: cosines do not depend on it.
        one.name: replace(scores, pairs=_scored_pairs(one))
        for one in test_sets
        if (scores := _stored(run, one.name)) and scores.made_from == made_from[one.name] and scores.epochs == epochs
    }
    missing = [test_set for test_set in test_sets if test_set.name not in found]
    by_source: dict[str, list[VerificationSet]] = {}
    for test_set in missing:
        by_source.setdefault(test_set.source.key, []).append(test_set)
    unique = {key: _unique_paths(sets) for key, sets in by_source.items()}
    counted = _Counted(progress, len(epochs) * sum(map(len, unique.values())))
    for key, sets in by_source.items():
        cosines: dict[str, list[NDArray[np.float32]]] = {test_set.name: [] for test_set in sets}
        for epoch in epochs:
            vectors = embed_paths(
                load_backbone(run, epoch=None if epoch == run.config.epochs else epoch),
                sets[0].source,
                unique[key],
                flip=evaluation.embedding_flip,
                precision=evaluation.embedding_precision,
                device=resolve_device(run.config.device if device is None else device),
                channels_last=run.config.channels_last,
                progress=counted.part(len(unique[key])),
            )
            for test_set in sets:
                cosines[test_set.name].append(pair_scores(vectors, _positions(test_set, unique[key])))
        for test_set in sets:
            scores = PairScores(
                test_set=test_set.name,
                pairs=_scored_pairs(test_set),
                epochs=epochs,
                cosines=np.stack(cosines[test_set.name]),
                made_from=made_from[test_set.name],
            )
            _save(run, scores)
            found[test_set.name] = scores
    return {name: found[name] for name in names}


def load_scores(run: RunFolder, test_set: str) -> PairScores:
    """Read the scores of a test set that `score_test_sets` kept.

    Args:
        run: The run.
        test_set: Name of the test set.

    Returns:
        The scores.

    Raises:
        RunError: There are none; the message says what to run first.
    """
    scores = _stored(run, test_set)
    if scores is None:
        raise RunError(
            f"{_file(run, test_set)} is missing. Run notebooks/02_train.ipynb for run {run.name!r} first; a test set "
            "of your own is scored by notebooks/05_verification.ipynb."
        )
    return scores


class _Counted:
    """Progress over several embeddings, as one count."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def part(self, n: int) -> Callable[[int, int], None] | None:
        """Report the next n images."""
        progress, start = self.progress, self.before
        self.before += n
        return None if progress is None else lambda done, of: progress(start + done, self.total)


def _unique_paths(test_sets: Sequence[VerificationSet]) -> list[str]:
    return list(dict.fromkeys(path for test_set in test_sets for path in test_set.images["path"]))


def _positions(test_set: VerificationSet, paths: Sequence[str]) -> pd.DataFrame:
    """The pairs as positions in the paths instead of in the test set's own images."""
    place = pd.Index(paths).get_indexer(pd.Index(test_set.images["path"]))
    return pd.DataFrame({side: place[test_set.pairs[side].to_numpy()] for side in ("left", "right")})


def _scored_pairs(test_set: VerificationSet) -> pd.DataFrame:
    sides = {
        side: test_set.images.iloc[test_set.pairs[side].to_numpy()].reset_index(drop=True) for side in ("left", "right")
    }
    return pd.DataFrame(
        {
            **{side: images["path"] for side, images in sides.items()},
            **{f"{side}_identity": images["identity"] for side, images in sides.items()},
            **{f"{side}_age_years": images["age_years"].astype(np.float64) for side, images in sides.items()},
            "same": test_set.pairs["same"].to_numpy(dtype=bool),
        }
    )


def _made_from(test_set: VerificationSet, evaluation: EvaluationConfig) -> dict[str, str]:
    return {
        "protocol": test_set.sha256,
        "source": test_set.source.key,
        "images": test_set.source.state(list(test_set.images["path"])),
        "embedding_flip": evaluation.embedding_flip,
        "embedding_precision": evaluation.embedding_precision,
    }


def _check_trained_on(run: RunFolder, dataset: FaceDataset) -> None:
    was, again = "trained on", "Train it anew with notebooks/02_train.ipynb"
    if run.imported is not None:
        was, again = "imported with", "Import it anew"
    advice = f"{again} under another name, or make the dataset as it was."
    if run.dataset_info["images_sha256"] != hash_images(dataset):
        raise RunError(f"Run {run.name!r} was {was} other images than dataset {dataset.name!r} now holds. {advice}")
    not_trained = dataset.manifest.loc[dataset.manifest["split"] != "train", "identity"]
    shared = sorted(set(run.classes["identity"]) & set(not_trained))
    if shared:
        raise RunError(
            f"Run {run.name!r} was {was} {len(shared)} people who are now held out or validate in dataset "
            f"{dataset.name!r} (first: {', '.join(map(repr, shared[:3]))}). {advice}"
        )


def _file(run: RunFolder, test_set: str) -> Path:
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", test_set)
    if plain.replace("_", " ") != test_set:  # another name may look the same
        plain += f"-{hashlib.sha256(test_set.encode('utf-8')).hexdigest()[:8]}"
    return run.path / "scores" / f"{plain}.parquet"


def _save(run: RunFolder, scores: PairScores) -> None:
    *before, last = scores.epochs
    frame = scores.pairs.assign(
        cosine=scores.at(last), **{f"cosine_epoch_{epoch:04d}": scores.at(epoch) for epoch in before}
    )
    frame.attrs = {"test_set": scores.test_set, "last_epoch": last, "made_from": dict(scores.made_from)}
    with atomic_write(_file(run, scores.test_set)) as temporary:
        frame.to_parquet(temporary, index=False)


def _stored(run: RunFolder, test_set: str) -> PairScores | None:
    path = _file(run, test_set)
    if not path.is_file():
        return None
    frame = pd.read_parquet(path)
    epochs = {int(match[1]): column for column in frame.columns if (match := _EPOCH_COLUMN.fullmatch(column))}
    epochs[int(frame.attrs["last_epoch"])] = "cosine"
    return PairScores(
        test_set=test_set,
        pairs=frame[list(SCORED_PAIR_COLUMNS)],
        epochs=tuple(sorted(epochs)),
        cosines=np.stack([frame[epochs[epoch]].to_numpy(dtype=np.float32) for epoch in sorted(epochs)]),
        made_from=frame.attrs["made_from"],
    )
