"""The runs of several methods, each searching the same galleries: ranks, rank-1 trials, rank-k rates, CMC, costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interproto_lib.analysis.bootstrap import CONFIDENCE, bootstrap_identification
from interproto_lib.analysis.embedding import embed_paths, load_backbone
from interproto_lib.analysis.evaluation import chosen_epoch
from interproto_lib.analysis.identification import cmc_curve, identification_ranks, rank_accuracy
from interproto_lib.analysis.scores import kept_epochs, score_test_sets
from interproto_lib.analysis.statistics import mean_and_std
from interproto_lib.analysis.trials import Trials
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.identification_tests import IdentificationTest
from interproto_lib.data.test_sets import VerificationSet
from interproto_lib.devices import resolve_device
from interproto_lib.errors import RunError
from interproto_lib.methods import METHODS, build_recogniser
from interproto_lib.models import count_multiply_adds, count_parameters
from interproto_lib.runs import Result, RunFolder

IDENTIFICATION_RATE_COLUMNS = (
    "test_set",
    "method",
    "rank",
    "mean",
    "std",
    "n_seeds",
    "low",
    "high",
    "n_probes",
    "n_gallery",
)
"""Columns of `identification_rates`."""

RANK_COLUMNS = ("test_set", "method", "seed", "epoch", "path", "identity", "age_years", "rank")
"""Columns of `rank_table`."""

Ranks = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentifiedRun:
    """The ranks of all probes, as one run sees them.

    Attributes:
        run: Name of the run.
        seed: Its seed.
        epochs: Name of the identification set -> the epoch judged.
        ranks: Name of the identification set -> (p,) rank of each probe, from 1.
    """

    run: str
    seed: int
    epochs: Mapping[str, int]
    ranks: Mapping[str, Ranks]


@dataclass(frozen=True, kw_only=True)
class ModelCosts:
    """What a run costs to use, and what only its training needed.

    Attributes:
        inference_parameters: Parameters of the network that embeds images: the backbone, with what an age-invariant
            method adds to it.
        training_parameters: Parameters that are thrown away after training: the prototypes, and parts of a method.
        multiply_adds: Multiply-adds of that network for one image.
        method_parameters: Of `training_parameters`, those of an age-invariant method; the others are the prototypes.
    """

    inference_parameters: int
    training_parameters: int
    multiply_adds: int
    method_parameters: int = 0


def identify_methods(
    methods: Mapping[str, Sequence[RunFolder]],
    tests: Mapping[str, IdentificationTest],
    *,
    validation: Mapping[str, VerificationSet],
    evaluation: EvaluationConfig | None = None,
    device: str | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> dict[str, list[IdentifiedRun]]:
    """Let every run search every gallery.

    The epoch is the one that verification judges too (`chosen_epoch`): by default it is best on pairs of validation
    people. Only `best_on_test` takes for each identification set the epoch with the highest rank-1 rate on that very
    set, the latest of equally good ones. Validation pairs of people who are in a gallery choose nothing. Images that
    several sets share are embedded once an epoch.

    Args:
        methods: Method -> its runs.
        tests: Name -> identification set with its images.
        validation: Name of a test set -> the validation pairs that it is calibrated on, as in `EvaluationSets`; scores
            that a run has already are read from its folder.
        evaluation: How the epoch is chosen and how images are embedded; None takes the defaults. A rank needs no
            threshold: `verification_threshold` is not used.
        device: Where to compute; None takes each run's own setting.
        progress: Gives for a description of the work what is called with images done and all images, as
            `interproto_lib.progress.count_progress` does.

    Returns:
        Method -> its runs, by seed.

    Raises:
        ConfigError: The machine has no such device.
        DatasetError: An image cannot be read.
        RunError: An epoch is to be chosen, but a run kept none or there are no validation pairs.
        WriteError: The scores of validation pairs cannot be written.
    """
    evaluation = evaluation or EvaluationConfig()
    return {
        method: [
            _identify(run, tests, validation, evaluation, device, progress)
            for run in sorted(runs, key=lambda run: run.seed)
        ]
        for method, runs in methods.items()
    }


def identification_trials(
    identified: Mapping[str, Sequence[IdentifiedRun]],
    tests: Mapping[str, IdentificationTest],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[Trials]:
    """Give for each identification set which probes each method finds at rank 1.

    Args:
        identified: Method -> its runs, as `identify_methods` gives them.
        tests: Name -> identification set.
        n_resamples: Resamples of people and seeds, see `bootstrap_identification`.
        seed: Seed of the resampling.

    Returns:
        The trials of each set; a trial is a probe, its cluster the probe's identity.
    """
    return [_trials(identified, name, test.probe_images, n_resamples, seed) for name, test in tests.items()]


def identification_rates(
    identified: Mapping[str, Sequence[IdentifiedRun]],
    tests: Mapping[str, IdentificationTest],
    *,
    ranks: Sequence[int] = (1, 5, 10),
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Give how many probes each method finds within the first so many of the gallery.

    Args:
        identified: Method -> its runs.
        tests: Name -> identification set.
        ranks: The ranks asked for; one that the gallery does not exceed is left out, as every probe is within it.
        n_resamples: Resamples of people and seeds, see `bootstrap_identification`.
        seed: Seed of the resampling.

    Returns:
        One row a set, method and rank with the columns `IDENTIFICATION_RATE_COLUMNS`: mean and standard deviation over
        seeds (NaN for one seed) in percent, and the interval of the mean that resamples people and seeds.
    """
    rows: list[tuple[object, ...]] = []
    for name, test in tests.items():
        counts = (len(test.probe_images), len(test.gallery_images))
        identities = test.probe_images["identity"]
        for method, runs in identified.items():
            for rank in (rank for rank in ranks if rank < counts[1]):
                hits = np.stack([run.ranks[name] <= rank for run in runs])
                over = mean_and_std(100 * hits.mean(axis=1))
                interval = bootstrap_identification(
                    hits, identities, n_resamples=n_resamples, confidence=CONFIDENCE, seed=seed
                )
                std = np.nan if over.std is None else over.std
                rows.append(
                    (name, method, rank, over.mean, std, over.n, 100 * interval.low, 100 * interval.high, *counts)
                )
    return pd.DataFrame(rows, columns=list(IDENTIFICATION_RATE_COLUMNS))


def cmc_curves(
    identified: Mapping[str, Sequence[IdentifiedRun]], test_set: str, *, max_rank: int
) -> dict[str, list[NDArray[np.float64]]]:
    """Give the cumulative match characteristics of all runs on one identification set.

    Args:
        identified: Method -> its runs.
        test_set: Name of the set.
        max_rank: Largest rank, at least 1.

    Returns:
        Method -> one curve (max_rank,) a seed, shares in [0, 1].

    Raises:
        ConfigError: `max_rank` is below 1.
    """
    return {
        method: [cmc_curve(run.ranks[test_set], max_rank=max_rank) for run in runs]
        for method, runs in identified.items()
    }


def rank_table(
    identified: Mapping[str, Sequence[IdentifiedRun]], tests: Mapping[str, IdentificationTest]
) -> pd.DataFrame:
    """List the rank of every probe in every run.

    Args:
        identified: Method -> its runs.
        tests: Name -> identification set.

    Returns:
        One row a set, method, seed and probe with the columns `RANK_COLUMNS`; path, identity and age are the probe's.
    """
    parts = [
        test.probe_images.assign(
            test_set=name, method=method, seed=run.seed, epoch=run.epochs[name], rank=run.ranks[name]
        )
        for name, test in tests.items()
        for method, runs in identified.items()
        for run in runs
    ]
    if not parts:
        return pd.DataFrame(columns=list(RANK_COLUMNS))
    return pd.concat(parts, ignore_index=True)[list(RANK_COLUMNS)]


def model_costs(run: RunFolder) -> ModelCosts:
    """Count what a run costs: parameters that embed images, parameters that only training needed, multiply-adds.

    Source: paper, Table 3, which mixes the two kinds of parameters; here they stand apart.

    Args:
        run: A finished run.

    Returns:
        The counts, from settings and classes alone: no weights are read.

    Raises:
        RunError: The run is not finished.
    """
    config, image_size = run.config, int(run.dataset_info["image_size"])
    with torch.device("meta"):
        backbone = build_recogniser(config, image_size=image_size)
        method = METHODS[config.age_method](config, backbone) if config.age_method != "none" else None
    of_method = count_parameters(method) if method else 0
    n_prototypes = len(run.classes) if run.prototypes_from in ("training", "head") else 0  # means are no parameters
    return ModelCosts(
        inference_parameters=count_parameters(backbone),
        training_parameters=n_prototypes * config.embedding_dim + of_method,
        multiply_adds=count_multiply_adds(backbone, image_size),
        method_parameters=of_method,
    )


def cost_results(costs: Mapping[str, ModelCosts], methods: Mapping[str, Sequence[RunFolder]]) -> list[Result]:
    """Turn costs into records.

    Args:
        costs: Method -> its costs.
        methods: Method -> its runs.

    Returns:
        Three results a method, as counts.
    """
    return [
        Result(
            name=f"{name.replace('_', ' ')}/{method}",
            value=float(getattr(of_method, name)),
            unit="multiply-adds" if name == "multiply_adds" else "parameters",
            n=1,
            n_of="networks",
            runs=[run.name for run in methods[method]],
            protocol="an image of the size trained with",
        )
        for method, of_method in costs.items()
        for name in ("inference_parameters", "training_parameters", "multiply_adds")
    ]


def _identify(
    run: RunFolder,
    tests: Mapping[str, IdentificationTest],
    validation: Mapping[str, VerificationSet],
    evaluation: EvaluationConfig,
    device: str | None,
    progress: Callable[[str], Callable[[int, int], None]] | None,
) -> IdentifiedRun:
    by_source: dict[str, list[str]] = {}
    for name, test in tests.items():
        by_source.setdefault(test.source.key, []).append(name)
    images = {
        key: list(dict.fromkeys(path for name in names for path in tests[name].identification.images["path"]))
        for key, names in by_source.items()
    }
    searched = {name for test in tests.values() for name in test.identification.images["identity"]}
    of_others = {name: one for name, one in validation.items() if not searched & set(one.images["identity"])}
    epochs = _epochs_to_judge(run, of_others, evaluation, device, progress) if tests else ()
    n_images, report = sum(map(len, images.values())), None
    if progress is not None and n_images:
        report = progress(f"{run.name}, probes and gallery")
    ranks: dict[str, dict[int, Ranks]] = {name: {} for name in tests}
    done = 0
    for epoch in epochs:
        backbone = load_backbone(run, epoch=None if epoch == run.config.epochs else epoch)
        for key, names in by_source.items():
            vectors = embed_paths(
                backbone,
                tests[names[0]].source,
                images[key],
                flip=evaluation.embedding_flip,
                precision=evaluation.embedding_precision,
                device=resolve_device(run.config.device if device is None else device),
                channels_last=run.config.channels_last,
                progress=None if report is None else partial(_report, report, done, n_images * len(epochs)),
            )
            done += len(images[key])
            place = pd.Index(images[key])
            for name in names:
                ranks[name][epoch] = _ranks(tests[name], vectors, place)
    judged = {name: _best_epoch(of_epochs) for name, of_epochs in ranks.items()}
    return IdentifiedRun(
        run=run.name, seed=run.seed, epochs=judged, ranks={name: ranks[name][judged[name]] for name in tests}
    )


def _epochs_to_judge(
    run: RunFolder,
    validation: Mapping[str, VerificationSet],
    evaluation: EvaluationConfig,
    device: str | None,
    progress: Callable[[str], Callable[[int, int], None]] | None,
) -> tuple[int, ...]:
    """The one epoch chosen without the identification sets, or all of them where each set is to choose its own."""
    epochs = kept_epochs(run)
    if evaluation.epoch_choice == "best_on_test":
        if len(epochs) == 1 and epochs[0] > 1:
            raise RunError(
                f"Run {run.name!r} kept no epochs to choose from. Train it with keep_every_epoch=True, or judge with "
                "epoch_choice='last'."
            )
        return epochs
    scores = {}
    if evaluation.epoch_choice == "validation" and len(epochs) > 1:
        unique = list({one.name: one for one in validation.values()}.values())
        report = None if progress is None else progress(f"{run.name}, validation pairs")
        by_name = score_test_sets(run, unique, evaluation=evaluation, device=device, progress=report)
        scores = {name: by_name[one.name] for name, one in validation.items()}
    chosen = chosen_epoch(scores, epochs, evaluation)
    return epochs if chosen is None else (chosen,)


def _best_epoch(ranks: Mapping[int, Ranks]) -> int:
    """The epoch with the most probes at rank 1, the latest of equally good ones."""
    return max((rank_accuracy(of_probes, (1,))[1], epoch) for epoch, of_probes in ranks.items())[1]


def _ranks(test: IdentificationTest, vectors: NDArray[np.floating], place: pd.Index) -> Ranks:
    probes, gallery = test.probe_images, test.gallery_images
    return identification_ranks(
        vectors[place.get_indexer(pd.Index(probes["path"]))],
        probes["identity"].to_numpy(dtype=object),
        vectors[place.get_indexer(pd.Index(gallery["path"]))],
        gallery["identity"].to_numpy(dtype=object),
    )


def _report(report: Callable[[int, int], None], before: int, total: int, done: int, of: int) -> None:
    report(before + done, total)


def _trials(
    identified: Mapping[str, Sequence[IdentifiedRun]],
    name: str,
    probes: pd.DataFrame,
    n_resamples: int,
    seed: int,
) -> Trials:
    identities = probes["identity"].to_numpy(dtype=object)
    return Trials(
        test_set=name,
        outcomes={method: {run.seed: run.ranks[name] == 1 for run in runs} for method, runs in identified.items()},
        notes=dict.fromkeys(identified, ""),
        clusters=identities,
        n_identities=len(set(identities)),
        interval=lambda values: bootstrap_identification(
            values, identities, n_resamples=n_resamples, confidence=CONFIDENCE, seed=seed
        ),
    )
