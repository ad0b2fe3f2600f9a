"""What face age synthesis does to people it was not trained on: does the identity stay, and does the age move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from interproto_lib.analysis.bootstrap import BootstrapInterval, bootstrap_accuracy, bootstrap_identification
from interproto_lib.analysis.embedding import embed_images, load_backbone
from interproto_lib.data.datasets import FaceDataset
from interproto_lib.errors import DatasetError
from interproto_lib.methods.age_estimators import AgeJudge
from interproto_lib.methods.face_synthesis import FaceEncoder, FaceGenerator, age_groups
from interproto_lib.methods.synthesis_folder import SynthesisFolder
from interproto_lib.methods.synthesis_settings import SynthesisConfig
from interproto_lib.models.inference import inference_batch_size
from interproto_lib.models.inputs import images_to_input
from interproto_lib.runs import Result, RunFolder

JUDGED_SPLIT = "heldout"


@dataclass(frozen=True, kw_only=True, eq=False)
class Synthesiser:
    """Everything that makes and judges synthesised faces, ready for inference on one device.

    Attributes:
        config: Settings of the synthesis.
        encoder: The frozen recogniser.
        generator: Ages faces.
        judge: Estimates ages; the generator was not trained against it.
        device: Where they are.
    """

    config: SynthesisConfig
    encoder: FaceEncoder
    generator: FaceGenerator
    judge: AgeJudge
    device: torch.device


def load_synthesiser(run: RunFolder, folder: SynthesisFolder, *, device: str | torch.device = "cpu") -> Synthesiser:
    """Rebuild the networks of a finished face age synthesis.

    Args:
        run: The run it was trained on.
        folder: Its folder.
        device: Where to compute.

    Returns:
        The networks in evaluation mode.

    Raises:
        RunError: Run or synthesis is not finished.
        CheckpointError: Weights do not fit the settings.
    """
    place = torch.device(device)
    encoder = FaceEncoder(load_backbone(run))
    return Synthesiser(
        config=folder.config,
        encoder=encoder.to(place),
        generator=folder.generator(encoder).to(place),
        judge=folder.judge().to(place),
        device=place,
    )


def synthesise_faces(
    synthesiser: Synthesiser, images: np.ndarray, *, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """Make every face look as old as each age group.

    Args:
        synthesiser: The networks.
        images: (n, h, w, 3) uint8 RGB.
        progress: Called with faces done and all faces.

    Returns:
        (n, g, h, w, 3) uint8 RGB: what would be stored, so that nothing is judged that an image cannot hold.
    """
    n_groups = synthesiser.config.n_groups
    made = np.empty((len(images), n_groups, *images.shape[1:]), dtype=np.uint8)
    step = inference_batch_size(synthesiser.device)
    with torch.inference_mode():
        for start in range(0, len(images), step):
            part = np.array(images[start : start + step])
            encoded = synthesiser.encoder(images_to_input(torch.from_numpy(part).to(synthesiser.device)))
            for group in range(n_groups):
                wanted = torch.full((len(part),), group, device=synthesiser.device)
                faces = synthesiser.generator(encoded, wanted)
                stored = ((faces + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
                made[start : start + step, group] = stored.permute(0, 2, 3, 1).cpu().numpy()
            if progress is not None:
                progress(min(start + step, len(images)), len(images))
    return made


def judged_ages(synthesiser: Synthesiser, images: np.ndarray) -> NDArray[np.float64]:
    """Estimate the ages (n,) in years of images (n, h, w, 3) uint8 with the independent estimator."""
    step = inference_batch_size(synthesiser.device)
    ages = []
    with torch.inference_mode():
        for start in range(0, len(images), step):
            part = torch.from_numpy(np.array(images[start : start + step])).to(synthesiser.device)
            ages.append(synthesiser.judge(images_to_input(part)).double().cpu().numpy())
    return np.concatenate(ages)


def choose_faces(dataset: FaceDataset, *, n_people: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose one image with a known age of each of some held-out people who have two or more such images.

    Args:
        dataset: The images.
        n_people: Most people to choose.
        seed: Seed of the choice.

    Returns:
        Row positions, by identity.

    Raises:
        DatasetError: There are fewer than two such people.
    """
    manifest = dataset.manifest
    rows = dataset.rows(JUDGED_SPLIT)
    rows = rows[np.isfinite(manifest["age_years"].to_numpy(dtype=np.float64)[rows])]
    names = manifest["identity"].to_numpy(dtype=object)[rows]
    people, counts = np.unique(names.astype(str), return_counts=True)
    people = people[counts >= 2]
    if len(people) < 2:
        raise DatasetError(
            f"Dataset {dataset.name!r} has {len(people)} held-out people with two images of known age; judging face "
            "age synthesis takes two or more. Hold more people out (notebook 01)."
        )
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(people)[:n_people])
    return np.array([generator.choice(rows[names == person]) for person in chosen], dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class SynthesisEvaluation:
    """Face age synthesis of one run, judged on held-out people: one image a person, made as old as each age group.

    Attributes:
        rows: (n,) manifest rows of the images.
        ages_years: (n,) ages of the people in them.
        group_names: Names of the g age groups.
        centres_years: (g,) middle of each age group.
        kept: (n, g) cosine between an image and each face made of it, by the recogniser.
        same: (n,) cosine between the image and another real image of the same person.
        kept_by_group: For each age group the mean of `kept`, with an interval over people.
        kept_mean: Mean of `kept` over groups.
        same_mean: Mean of `same`.
        different_mean: Mean cosine between images of two people.
        judged: (n, g) ages in years that the independent estimator sees in the synthesised faces.
        judged_by_group: For each age group the mean of `judged`.
        real_by_group: For each age group the mean age that the estimator sees in all real held-out images of that
            group; NaN where there is none.
        slope: Years that the estimated age moves for each year asked for: mean slope of the people's own lines.
        real_slope: Slope through `real_by_group`, so much as the estimator sees on real images; NaN where fewer than
            two groups have any.
        judge_error_years: Mean absolute error of the estimator on all real held-out images of known age.
        n_judged_real: How many these are.
    """

    rows: NDArray[np.int64]
    ages_years: NDArray[np.float64]
    group_names: tuple[str, ...]
    centres_years: NDArray[np.float64]
    kept: NDArray[np.float64]
    same: NDArray[np.float64]
    kept_by_group: tuple[BootstrapInterval, ...]
    kept_mean: BootstrapInterval
    same_mean: BootstrapInterval
    different_mean: BootstrapInterval
    judged: NDArray[np.float64]
    judged_by_group: tuple[BootstrapInterval, ...]
    real_by_group: NDArray[np.float64]
    slope: BootstrapInterval
    real_slope: float
    judge_error_years: float
    n_judged_real: int

    @property
    def n_rising(self) -> int:
        """From how many groups to the next older one the mean estimated age rises, of g - 1."""
        means = np.array([interval.estimate for interval in self.judged_by_group])
        return int((np.diff(means) > 0).sum())

    @property
    def share_older(self) -> float:
        """Share of people whose face of the oldest group is judged older than that of the youngest."""
        return float((self.judged[:, -1] > self.judged[:, 0]).mean())


def evaluate_synthesis(
    synthesiser: Synthesiser,
    dataset: FaceDataset,
    rows: NDArray[np.int64],
    made: NDArray[np.uint8],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> SynthesisEvaluation:
    """Judge synthesised faces: identity by the recogniser, age by the estimator that the generator never saw.

    All intervals resample people. The recogniser is the one that the generator was trained with, so it may see more
    identity in a synthesised face than another recogniser would.

    Args:
        synthesiser: The networks.
        dataset: The real images.
        rows: (n,) rows of the faces that were aged, as `choose_faces` gives them, one a person.
        made: (n, g, h, w, 3) uint8, as `synthesise_faces` made them.
        n_resamples: Replicates of the bootstrap.
        seed: Seed of the bootstrap, and of the choice of a second image of each person.

    Returns:
        The evaluation.
    """
    config = synthesiser.config
    ages = dataset.manifest["age_years"].to_numpy(dtype=np.float64)
    names = dataset.manifest["identity"].to_numpy(dtype=object)
    people = names[rows]
    settings = {"n_resamples": n_resamples, "seed": seed}
    second = _other_images(dataset, rows, seed=seed)
    embed = _embedder(synthesiser)
    inputs = embed(np.array(dataset.images[rows]))
    others = embed(np.array(dataset.images[second]))
    of_made = embed(made.reshape(-1, *made.shape[2:])).reshape(len(rows), config.n_groups, -1)
    kept = np.einsum("nd,ngd->ng", inputs, of_made)
    same = np.einsum("nd,nd->n", inputs, others)
    left, right = np.triu_indices(len(rows), k=1)
    different = np.einsum("nd,nd->n", inputs[left], inputs[right])
    judged = judged_ages(synthesiser, made.reshape(-1, *made.shape[2:])).reshape(len(rows), config.n_groups)
    real = dataset.rows(JUDGED_SPLIT)
    real = real[np.isfinite(ages[real])]
    judged_real = judged_ages(synthesiser, dataset.images[real])
    groups_real = age_groups(torch.from_numpy(ages[real]), config.group_starts_years).numpy()
    real_by_group = np.array([_mean(judged_real[groups_real == group]) for group in range(config.n_groups)])
    centres = np.array(config.group_centres_years)
    known = np.isfinite(real_by_group)
    real_slope = float(line_slopes(centres[known], real_by_group[None, known])[0]) if known.sum() >= 2 else np.nan
    return SynthesisEvaluation(
        rows=rows,
        ages_years=ages[rows],
        group_names=config.group_names,
        centres_years=centres,
        kept=kept,
        same=same,
        kept_by_group=tuple(bootstrap_identification(column, people, **settings) for column in kept.T),
        kept_mean=bootstrap_identification(kept.mean(axis=1), people, **settings),
        same_mean=bootstrap_identification(same, people, **settings),
        different_mean=bootstrap_accuracy(
            different, np.zeros(len(different), dtype=bool), people[left], people[right], **settings
        ),
        judged=judged,
        judged_by_group=tuple(bootstrap_identification(column, people, **settings) for column in judged.T),
        real_by_group=real_by_group,
        slope=bootstrap_identification(line_slopes(centres, judged), people, **settings),
        real_slope=real_slope,
        judge_error_years=float(np.abs(judged_real - ages[real]).mean()),
        n_judged_real=len(real),
    )


def line_slopes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slope of the least-squares line through each row.

    Args:
        x: (g,) positions, two different ones at least.
        y: (n, g) values.

    Returns:
        (n,) slopes, NaN where a value is missing.

    Example:
        >>> line_slopes(np.array([0.0, 1.0, 2.0]), np.array([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]))
        array([2., 0.])
    """
    centred = x - x.mean()
    slopes: NDArray[np.float64] = (y @ centred) / (centred @ centred)
    return slopes


def synthesis_results(evaluation: SynthesisEvaluation, *, run: str) -> list[Result]:
    """Give the numbers of an evaluation as records.

    Args:
        evaluation: The evaluation.
        run: Name of the run.

    Returns:
        Identity kept (over all and for each age group) beside real images, and the slope of the age.
    """
    people = f"one image of each of {len(evaluation.rows)} held-out people"

    def record(name: str, interval: BootstrapInterval, unit: str, note: str = "") -> Result:
        return Result(
            name=name,
            value=interval.estimate,
            unit=unit,
            n=len(evaluation.rows),
            n_of="people",
            interval=(interval.low, interval.high),
            confidence=interval.confidence,
            runs=(run,),
            protocol=people,
            note=note,
        )

    by_recogniser = "cosines of the recogniser that the generator was trained with"
    results = [
        record("identity_kept", evaluation.kept_mean, "cosine", by_recogniser),
        record("same_person", evaluation.same_mean, "cosine", "two real images"),
        record("different_people", evaluation.different_mean, "cosine", "two real images"),
    ]
    for group, name in enumerate(evaluation.group_names):
        results.append(record(f"identity_kept/{name}", evaluation.kept_by_group[group], "cosine", by_recogniser))
        results.append(record(f"estimated_age/{name}", evaluation.judged_by_group[group], "years"))
    error = (
        f"the estimator is off by {evaluation.judge_error_years:.1f} years on {evaluation.n_judged_real} real images"
    )
    results.append(record("age_slope", evaluation.slope, "years a year asked for", error))
    return results


def _embedder(synthesiser: Synthesiser) -> Callable[[np.ndarray], NDArray[np.float64]]:
    recogniser = synthesiser.encoder.recogniser
    return lambda images: embed_images(recogniser, images, device=synthesiser.device).astype(np.float64)


def _other_images(dataset: FaceDataset, rows: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Another image of each person, drawn among those of the split."""
    generator = np.random.default_rng([seed, 1])
    of_split = dataset.rows(JUDGED_SPLIT)
    names = dataset.manifest["identity"].to_numpy(dtype=object)
    return np.array(
        [generator.choice(of_split[(names[of_split] == names[row]) & (of_split != row)]) for row in rows],
        dtype=np.int64,
    )


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
