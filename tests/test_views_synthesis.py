"""Figures and sentences of face age synthesis: what is drawn where, and that the words follow the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from interproto_lib.analysis.bootstrap import bootstrap_accuracy, bootstrap_identification
from interproto_lib.analysis.synthesis import SynthesisEvaluation, line_slopes
from interproto_lib.errors import DatasetError
from interproto_lib.views.synthesis import (
    SYNTHESIS_QUANTITIES,
    age_moved_figure,
    ageing_figure,
    describe_age_moved,
    describe_identity_kept,
    describe_synthesis,
    identity_kept_figure,
)

GROUPS = ("0-10", "11-20", ">=21")
CENTRES = np.array([5.5, 16.0, 26.0])
PEOPLE = [f"id{person}" for person in range(12)]


def evaluation(
    *, slope: float = 0.8, kept: float = 0.7, same: float = 0.5, spread: float = 0.02
) -> SynthesisEvaluation:
    rng = np.random.default_rng(0)
    n = len(PEOPLE)
    judged = 20 + slope * (CENTRES - CENTRES.mean()) + rng.normal(0, 10 * spread, (n, 3))
    cosines = kept + np.array([0.0, -0.05, -0.1]) + rng.normal(0, spread, (n, 3))
    of_same = same + rng.normal(0, spread, n)
    left, right = np.triu_indices(n, k=1)
    of_different = rng.normal(0.05, spread, len(left))
    names = np.array(PEOPLE)
    few = {"n_resamples": 200}
    return SynthesisEvaluation(
        rows=np.arange(n),
        ages_years=np.full(n, 20.0),
        group_names=GROUPS,
        centres_years=CENTRES,
        kept=cosines,
        same=of_same,
        kept_by_group=tuple(bootstrap_identification(column, names, **few) for column in cosines.T),
        kept_mean=bootstrap_identification(cosines.mean(1), names, **few),
        same_mean=bootstrap_identification(of_same, names, **few),
        different_mean=bootstrap_accuracy(
            of_different, np.zeros(len(left), dtype=bool), names[left], names[right], **few
        ),
        judged=judged,
        judged_by_group=tuple(bootstrap_identification(column, names, **few) for column in judged.T),
        real_by_group=np.array([7.0, 15.0, np.nan]),
        slope=bootstrap_identification(line_slopes(CENTRES, judged), names, **few),
        real_slope=0.76,
        judge_error_years=6.5,
        n_judged_real=1234,
    )


def faces(n: int = 2, g: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8),
        np.array([7.9, 40.0])[:n],
        rng.integers(0, 255, (n, g, 8, 8, 3), dtype=np.uint8),
    )


def test_a_row_is_a_person_and_the_image_comes_first():
    images, ages, made = faces()
    figure = ageing_figure(images, ages, made, GROUPS)
    (axes,) = figure.axes
    drawn = [np.asarray(image.get_array()) for image in axes.images]
    assert len(drawn) == 2 * 4
    for row in range(2):
        assert (drawn[4 * row] == images[row]).all()
        assert all((drawn[4 * row + 1 + group] == made[row, group]).all() for group in range(3))
    lefts = [image.get_extent()[0] for image in axes.images[:4]]
    assert lefts == sorted(lefts)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["real, 7 y", "0–10 y", "11–20 y", "≥ 21 y", "real, 40 y"]
    bottom = max(image.get_extent()[2] for image in axes.images)
    assert bottom <= axes.get_ylim()[0], "nothing is cut off"
    assert max(image.get_extent()[1] for image in axes.images) <= axes.get_xlim()[1]


def test_faces_that_do_not_fit_are_refused():
    images, ages, made = faces()
    for given in ((images[:0], ages[:0], made[:0]), (images, ages[:1], made), (images, ages, made[:, :2])):
        with pytest.raises(DatasetError, match="one age an image"):
            ageing_figure(*given, GROUPS)


def test_points_are_the_means_and_bars_the_intervals():
    judged = evaluation()
    for figure, intervals in (
        (identity_kept_figure(judged), judged.kept_by_group),
        (age_moved_figure(judged), judged.judged_by_group),
    ):
        (axes,) = figure.axes
        (container,) = axes.containers
        points, _, (bars,) = container
        assert points.get_ydata() == pytest.approx([interval.estimate for interval in intervals])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        assert ends == pytest.approx(np.array([(interval.low, interval.high) for interval in intervals]))
        assert figure.description
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0–10", "11–20", "≥ 21"]


def test_what_real_images_reach_stands_beside():
    judged = evaluation()
    lines = {line.get_label(): line for line in identity_kept_figure(judged).axes[0].lines}
    assert lines["two real images of one person"].get_ydata()[0] == judged.same_mean.estimate
    assert lines["real images of two people"].get_ydata()[0] == judged.different_mean.estimate
    lines = {line.get_label(): line for line in age_moved_figure(judged).axes[0].lines}
    assert lines["real images of that age, mean"].get_ydata() == pytest.approx(judged.real_by_group, nan_ok=True)
    people = [line for label, line in lines.items() if label.startswith("_child")]
    assert len(people) >= len(PEOPLE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slope": 0.8}, "The age moves in the right direction: "),
        ({"slope": -0.8}, "The age moves in the wrong direction: "),
        ({"slope": 0.0, "spread": 0.5}, "The age does not move measurably: "),
    ],
)
def test_the_age_moved_in_words(changes, said):
    judged = evaluation(**changes)
    text = describe_age_moved(judged)
    assert text.startswith(said)
    assert f"{abs(judged.slope.estimate):.2f} years" in text
    assert ("−" in text.split("years")[0]) == (judged.slope.estimate < -0.005)
    assert "on real images of these ages it rises by +0.76" in text
    assert "off by 6.5 years on average on 1,234 real held-out images" in text


def test_steps_and_people_are_counted():
    judged = evaluation(slope=0.8)
    assert (judged.n_rising, judged.share_older) == (2, 1.0)
    assert "rises at every step" in describe_age_moved(judged)
    assert "100% of the people" in describe_age_moved(judged)
    falling = evaluation(slope=-0.8)
    assert (falling.n_rising, falling.share_older) == (0, 0.0)
    assert "rises at 0 of 2 steps" in describe_age_moved(falling)
    assert "on real images" not in describe_age_moved(replace(judged, real_slope=float("nan"))).split("]")[1][:60]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kept": 0.9, "same": 0.5}, "The identity stays: a made face is nearer"),
        ({"kept": 0.55, "same": 0.49, "spread": 0.1}, "The identity stays about as well"),
        ({"kept": 0.4, "same": 0.7}, "Part of the identity is lost"),
        ({"kept": 0.09, "same": 0.7}, "The identity is lost"),
    ],
)
def test_the_identity_kept_in_words(changes, said):
    judged = evaluation(**changes)
    text = describe_identity_kept(judged)
    assert text.startswith(said)
    assert f"{judged.kept_mean.estimate:.3f}" in text
    assert f"{judged.same_mean.estimate:.3f}" in text
    lowest = np.argmin(judged.kept.mean(axis=0))
    assert f"lowest for the age group {('0–10', '11–20', '≥ 21')[lowest]}" in text


def test_the_training_in_words():
    summary = {
        "steps": 1500,
        "seconds": 61.2,
        "n_images": 4800,
        "images_of_groups": {"0-10": 600, "11-20": 4190, ">=21": 10},
        "age_accuracy": 0.84,
    }
    text = describe_synthesis(summary)
    for part in ("1,500 steps", "61 s", "4,800 training images", "smallest age group is ≥ 21 with 10", "84%"):
        assert part in text
    assert set(SYNTHESIS_QUANTITIES) == {"discriminator_loss", "adversarial_loss", "identity_loss", "age_loss"}
