"""Errors by age of the runs of several methods, each at its own threshold of one false match rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from interproto_lib.analysis.all_pairs import threshold_at_fmr
from interproto_lib.analysis.cohort_errors import ChildFactor, CohortErrors, child_factor, cohort_error_rates
from interproto_lib.analysis.embedding import embed_paths, load_backbone
from interproto_lib.analysis.scored_runs import JudgedRun
from interproto_lib.config import EvaluationConfig
from interproto_lib.data import ADULT_FROM_YEARS
from interproto_lib.data.evaluation_sets import EvaluationSets
from interproto_lib.data.test_sets import IMAGE_COLUMNS, ImageSource, VerificationSet
from interproto_lib.devices import resolve_device
from interproto_lib.runs import Result, RunFolder


@dataclass(frozen=True, kw_only=True, eq=False)
class AgedImages:
    """Images of test sets with known people and ages, and those of other people that set the threshold.

    Attributes:
        name: The test sets that they come from.
        images: The images judged, with the columns `IMAGE_COLUMNS`, each with an identity and an age.
        source: Where they are read from.
        calibration: Images of other people; None where there are none, so that the images judged set the threshold.
        calibration_source: Where these are read from.
    """

    name: str
    images: pd.DataFrame
    source: ImageSource
    calibration: pd.DataFrame | None
    calibration_source: ImageSource | None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunCohortErrors:
    """Errors by age of one run.

    Attributes:
        run: Name of the run.
        seed: Its seed.
        epoch: The epoch judged.
        errors: Rates by the age groups of both images.
        factor: How many times as often two children are confused as two adults.
    """

    run: str
    seed: int
    epoch: int
    errors: CohortErrors
    factor: ChildFactor


def aged_images(sets: EvaluationSets, *, target_fmr: float = 1e-3) -> list[AgedImages]:
    """Gather the images of test sets whose people and ages are known: one group for each source of images.

    Args:
        sets: The test sets of a comparison.
        target_fmr: The false match rate that the pairs of images must resolve.

    Returns:
        The groups with images of known age, and pairs of two people enough for the target; none where ages are unknown.
    """
    by_source: dict[str, list[VerificationSet]] = {}
    for test in sets.tests.values():
        by_source.setdefault(test.source.key, []).append(test)
    groups = []
    for tests in by_source.values():
        images = _known(tests)
        if _n_impostor(images) * target_fmr < 1:
            continue
        calibrating = [sets.validation[test.name] for test in tests if test.name in sets.validation]
        sources = {one.source.key: one.source for one in calibrating}
        calibration = _known(calibrating) if len(sources) == 1 else None
        enough = _n_impostor(calibration) * target_fmr >= 1
        groups.append(
            AgedImages(
                name=", ".join(test.name for test in tests),
                images=images,
                source=tests[0].source,
                calibration=calibration if enough else None,
                calibration_source=next(iter(sources.values())) if enough else None,
            )
        )
    return groups


def cohort_errors_of_runs(
    methods: Mapping[str, Sequence[RunFolder]],
    judged: Mapping[str, Sequence[JudgedRun]],
    group: AgedImages,
    *,
    target_fmr: float = 1e-3,
    child_below_years: float,
    evaluation: EvaluationConfig | None = None,
    device: str | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> dict[str, list[RunCohortErrors]]:
    """Count errors by age for every run, at the threshold where a given share of all pairs of two people match.

    The threshold is set on the images of other people where these have pairs enough for the target, so that the rates
    of the images judged come out higher or lower than the target; all age groups are judged by this one threshold.

    Args:
        methods: Method -> its runs.
        judged: Method -> the same runs judged; each run is taken at the epoch it was judged at first.
        group: The images, as `aged_images` gives them.
        target_fmr: Share of pairs of two people that match.
        child_below_years: An image is a child's below this age in years.
        evaluation: How images are embedded; None takes the defaults.
        device: Where to compute; None takes each run's own setting.
        progress: Gives for the name of a run what is called with images done and all images.

    Returns:
        Method -> errors of its runs.

    Raises:
        ConfigError: `target_fmr` is not in (0, 1), or the machine has no such device.
        DatasetError: There are too few pairs of two people for the target.
    """
    evaluation = evaluation or EvaluationConfig()
    found: dict[str, list[RunCohortErrors]] = {}
    for method, runs in methods.items():
        found[method] = []
        for run, of_run in zip(runs, judged[method], strict=True):
            epoch = next(iter(of_run.judgements.values())).epoch
            where = str(resolve_device(run.config.device if device is None else device))
            count = None if progress is None else progress(run.name)
            judged_images = _embed(run, epoch, group.images, group.source, evaluation, where, count)
            if group.calibration is not None and group.calibration_source is not None:
                calibrating = group.calibration["identity"]
                vectors = _embed(run, epoch, group.calibration, group.calibration_source, evaluation, where, None)
            else:
                calibrating, vectors = group.images["identity"], judged_images
            threshold = threshold_at_fmr(
                vectors, calibrating.to_numpy(dtype=object), target_fmr=target_fmr, device=where
            )
            found[method].append(
                RunCohortErrors(
                    run=run.name,
                    seed=run.seed,
                    epoch=epoch,
                    errors=cohort_error_rates(judged_images, group.images, threshold=threshold, device=where),
                    factor=child_factor(
                        judged_images,
                        group.images,
                        threshold=threshold,
                        child_below_years=child_below_years,
                        adult_from_years=max(ADULT_FROM_YEARS, child_below_years),
                        device=where,
                    ),
                )
            )
    return found


def cohort_results(
    errors: Mapping[str, Sequence[RunCohortErrors]], group: AgedImages, *, target_fmr: float
) -> list[Result]:
    """Turn the factors by which children are confused more often than adults into records.

    Args:
        errors: As `cohort_errors_of_runs` gives them.
        group: The images judged.
        target_fmr: As given there.

    Returns:
        One result a run; a factor or a bound that is not a finite number is None, and the note says why.
    """
    set_on = "other people" if group.calibration is not None else "the same images"
    results = []
    for method, of_runs in errors.items():
        for one in of_runs:
            factor, interval = one.factor, None
            if factor.low is not None and factor.high is not None and np.isfinite([factor.low, factor.high]).all():
                interval = (float(factor.low), float(factor.high))
            results.append(
                Result(
                    name=f"FMR of children over adults/{group.name}/{method}/seed {one.seed}",
                    value=factor.factor,
                    unit="times",
                    n=factor.n_child_pairs + factor.n_adult_pairs,
                    n_of="pairs of images of two people",
                    interval=interval,
                    confidence=factor.confidence if interval else None,
                    runs=(one.run,),
                    protocol=f"cosine >= {one.errors.threshold:.4f}, FMR {target_fmr:g} of {set_on}; epoch {one.epoch}",
                    note=factor.note or ("" if interval else f"The interval is {factor.low} to {factor.high}."),
                )
            )
    return results


def _known(tests: Sequence[VerificationSet]) -> pd.DataFrame:
    """The different images of test sets of one source whose identity and age are known."""
    if not tests:
        return pd.DataFrame(columns=list(IMAGE_COLUMNS))
    images = pd.concat([test.images[list(IMAGE_COLUMNS)] for test in tests], ignore_index=True)
    images = images.dropna().drop_duplicates("path")
    return images.reset_index(drop=True)


def _n_impostor(images: pd.DataFrame | None) -> int:
    """Pairs of images of two people."""
    if images is None:
        return 0
    return (len(images) ** 2 - int((images["identity"].value_counts() ** 2).sum())) // 2


def _embed(
    run: RunFolder,
    epoch: int,
    images: pd.DataFrame,
    source: ImageSource,
    evaluation: EvaluationConfig,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    return embed_paths(
        load_backbone(run, epoch=None if epoch == run.config.epochs else epoch),
        source,
        list(images["path"]),
        flip=evaluation.embedding_flip,
        precision=evaluation.embedding_precision,
        device=device,
        channels_last=run.config.channels_last,
        progress=progress,
    )
