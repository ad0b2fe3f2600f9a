"""Face age synthesis: a face at every age, how much of the identity stays, how far the age moves, and both in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interproto_lib.analysis.bootstrap import BootstrapInterval
from interproto_lib.analysis.synthesis import SynthesisEvaluation
from interproto_lib.errors import DatasetError
from interproto_lib.views.layout import legend_above
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, new_figure
from interproto_lib.views.wording import age_group_words, number, signed

SYNTHESIS_QUANTITIES = {
    "discriminator_loss": "Loss of the discriminator",
    "adversarial_loss": "Adversarial loss of the generator",
    "identity_loss": "Identity loss of the generator",
    "age_loss": "Age loss of the generator",
}
"""Columns of the metrics of face age synthesis and how they are called; before their weights."""

MADE_COLOUR = "#AA3377"
REAL_COLOUR = "#1A1A1A"
OTHER_COLOUR = "#7F7F7F"

_LABEL_INCHES = 0.24
_GAP_INCHES = 0.12


def ageing_figure(
    images: np.ndarray, ages_years: np.ndarray, made: np.ndarray, group_names: Sequence[str]
) -> LabelledFigure:
    """Draw faces at every age: a row is a person, the first column the real image, the others what was made of it.

    Args:
        images: (n, h, w, 3) uint8, the real images.
        ages_years: (n,) ages in them.
        made: (n, g, h, w, 3) uint8, the synthesised faces.
        group_names: Names of the g age groups.

    Returns:
        The figure.

    Raises:
        DatasetError: There is no face, or numbers of faces, ages or groups differ.
    """
    n, n_groups = len(images), len(group_names)
    if n == 0 or len(ages_years) != n or made.shape[:2] != (n, n_groups):
        raise DatasetError(
            f"A sheet of aged faces needs one age an image and one made face a group; got {n} images, "
            f"{len(ages_years)} ages, {n_groups} groups and faces of shape {made.shape}."
        )
    side = (PAGE_WIDTH_INCHES - _GAP_INCHES) / (n_groups + 1)
    height = n * (side + _LABEL_INCHES / 2) + _LABEL_INCHES
    description = f"{n} faces, each as it is and at {n_groups} ages, from {group_names[0]} to {group_names[-1]} years."
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, height, description=description)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # one panel in inches, as in a contact sheet
        axes.set(xlim=(0, PAGE_WIDTH_INCHES), ylim=(height, 0), autoscale_on=False)
        axes.set_axis_off()
        for row in range(n):
            top = _LABEL_INCHES + row * (side + _LABEL_INCHES / 2)
            _draw_face(axes, images[row], left=0.0, top=top, side=side)
            at: Any = {"ha": "center", "va": "bottom", "fontsize": 7.5}
            axes.text(side / 2, top, f"real, {int(ages_years[row])} y", **at)
            for group, name in enumerate(group_names):
                left = side * (group + 1) + _GAP_INCHES
                _draw_face(axes, made[row, group], left=left, top=top, side=side)
                if row == 0:
                    axes.text(left + side / 2, top, f"{age_group_words(name)} y", **at, fontweight="bold")
    return figure


def identity_kept_figure(evaluation: SynthesisEvaluation) -> LabelledFigure:
    """Draw the cosine between an image and the faces made of it, beside those of real images.

    Args:
        evaluation: The evaluation.

    Returns:
        The figure: a point with its interval for each age group, bands for two real images of one person and of two.
    """
    description = (
        "Cosine between a face and what was made of it by age group, against two real images of the same person and of "
        "different people."
    )
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 2.7, description=description)
        axes = figure.subplots()
        places = np.arange(len(evaluation.group_names))
        _band(axes, evaluation.same_mean, "two real images of one person", colour=REAL_COLOUR, line="--")
        _band(axes, evaluation.different_mean, "real images of two people", colour=OTHER_COLOUR, line=":")
        _points(axes, places, evaluation.kept_by_group, "an image and the face made of it")
        axes.set_xticks(places, [age_group_words(name) for name in evaluation.group_names])
        axes.set(
            xlabel=_asked_for(evaluation), ylabel="Cosine of embeddings", ylim=(min(-0.05, axes.get_ylim()[0]), 1.02)
        )
        axes.yaxis.grid(visible=True)
        legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure


def age_moved_figure(evaluation: SynthesisEvaluation) -> LabelledFigure:
    """Draw the estimated age of the synthesised faces against the age asked for.

    Args:
        evaluation: The evaluation.

    Returns:
        The figure: thin lines are people, points their means with intervals, a dashed line what the estimator sees in
        real images of each age group.
    """
    description = (
        "Estimated age of synthesised faces against the age asked for, by an estimator the generator never saw; beside "
        "it the estimates of real images of each age group."
    )
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 3.0, description=description)
        axes = figure.subplots()
        centres = evaluation.centres_years
        for person in evaluation.judged:
            axes.plot(centres, person, color=MADE_COLOUR, linewidth=0.4, alpha=0.3)
        axes.plot(
            centres,
            evaluation.real_by_group,
            color=REAL_COLOUR,
            linestyle="--",
            marker="s",
            markersize=4,
            label="real images of that age, mean",
        )
        _points(axes, centres, evaluation.judged_by_group, "made faces, mean of people")
        axes.set_xticks(centres, [age_group_words(name) for name in evaluation.group_names])
        axes.set(xlabel=_asked_for(evaluation), ylabel="Estimated age (years)")
        axes.yaxis.grid(visible=True)
        one = Line2D([], [], color=MADE_COLOUR, linewidth=0.6, alpha=0.6, label="made faces, one person")
        legend_above(figure, [*axes.get_legend_handles_labels()[0], one])
    return figure


def describe_synthesis(summary: Mapping[str, Any]) -> str:
    """Say what a training of face age synthesis learned from and how it ended.

    Args:
        summary: `SynthesisFolder.summary`.

    Returns:
        Three sentences.
    """
    of_groups = summary["images_of_groups"]
    fewest = min(of_groups, key=of_groups.__getitem__)
    return (
        f"{summary['steps']:,} steps after those of the estimators; all together took {summary['seconds']:,.0f} s. "
        f"{summary['n_images']:,} training images have a known age; the smallest age group is "
        f"{age_group_words(fewest)} with {of_groups[fewest]:,}. At the end the head that the generator "
        f"learns from sees the age group asked for in {summary['age_accuracy']:.0%} of the made "
        "faces; how old they look to a judge it never saw is told below."
    )


def describe_identity_kept(evaluation: SynthesisEvaluation) -> str:
    """Say how much of the identity stays, beside what two real images of a person share.

    Args:
        evaluation: The evaluation.

    Returns:
        Two or three sentences.
    """
    kept, same, different = evaluation.kept_mean, evaluation.same_mean, evaluation.different_mean
    weakest = int(np.argmin([interval.estimate for interval in evaluation.kept_by_group]))
    if kept.low > same.high:
        verdict = "The identity stays: a made face is nearer to its image than another real image of the person is"
    elif kept.estimate >= same.estimate:
        verdict = "The identity stays about as well as between two real images of a person"
    elif kept.low > different.high:
        verdict = "Part of the identity is lost: a made face is less near to its image than another real image is"
    else:
        verdict = "The identity is lost: a made face is no nearer to its image than an image of somebody else"
    return (
        f"{verdict}. Over {len(evaluation.rows)} held-out people the cosine is {_with_interval(kept)} between an image "
        f"and the faces made of it, {_with_interval(same)} between two real images of one person and "
        f"{_with_interval(different)} between two people. It is lowest for the age group "
        f"{age_group_words(evaluation.group_names[weakest])}, "
        f"{_with_interval(evaluation.kept_by_group[weakest])}. "
        "The recogniser is the one that the generator was trained with; a generator that changes nothing would reach 1."
    )


def describe_age_moved(evaluation: SynthesisEvaluation) -> str:
    """Say whether and how far the age moves, a failure as plainly as a success.

    Args:
        evaluation: The evaluation.

    Returns:
        Three or four sentences.
    """
    slope, n_steps = evaluation.slope, len(evaluation.group_names) - 1
    if slope.low > 0:
        verdict = "The age moves in the right direction"
    elif slope.high < 0:
        verdict = "The age moves in the wrong direction"
    else:
        verdict = "The age does not move measurably"
    rising = "at every step" if evaluation.n_rising == n_steps else f"at {evaluation.n_rising} of {n_steps} steps"
    real = (
        f"; on real images of these ages it rises by {signed(evaluation.real_slope, decimals=2)}"
        if np.isfinite(evaluation.real_slope)
        else ""
    )
    youngest, oldest = evaluation.judged_by_group[0], evaluation.judged_by_group[-1]
    first, *_, last = map(age_group_words, evaluation.group_names)
    return (
        f"{verdict}: for each year asked for, the estimated age changes by {signed(slope.estimate, decimals=2)} years "
        f"[{signed(slope.low, decimals=2)}, {signed(slope.high, decimals=2)}] ({slope.confidence:.0%}, "
        f"{len(evaluation.rows)} people){real}. The mean estimate goes from {number(youngest.estimate, decimals=1)} "
        f"years where {first} were asked for to {number(oldest.estimate, decimals=1)} where "
        f"{last} were, and rises {rising} between neighbouring groups; "
        f"{evaluation.share_older:.0%} of the people are judged older at the last than at the first. The estimator, "
        f"which the generator never saw, is off by {evaluation.judge_error_years:.1f} years on average on "
        f"{evaluation.n_judged_real:,} real held-out images."
    )


def _asked_for(evaluation: SynthesisEvaluation) -> str:
    level = f"{evaluation.kept_mean.confidence:.0%}"
    return f"Age asked for (years); n = {len(evaluation.rows)} people, intervals and bands {level}"


def _with_interval(interval: BootstrapInterval) -> str:
    return f"{number(interval.estimate)} [{number(interval.low)}, {number(interval.high)}]"


def _points(axes: Axes, places: np.ndarray, intervals: Sequence[BootstrapInterval], label: str) -> None:
    means = np.array([interval.estimate for interval in intervals])
    reach = np.array([[i.estimate - i.low, i.high - i.estimate] for i in intervals]).T.clip(min=0)
    axes.errorbar(places, means, yerr=reach, color=MADE_COLOUR, marker="D", markersize=4.5, capsize=3, label=label)


def _band(axes: Axes, interval: BootstrapInterval, label: str, *, colour: str, line: str) -> None:
    axes.axhspan(interval.low, interval.high, color=colour, alpha=0.13, linewidth=0)
    axes.axhline(interval.estimate, color=colour, linestyle=line, linewidth=1.1, label=label)


def _draw_face(axes: Axes, image: np.ndarray, *, left: float, top: float, side: float) -> None:
    extent = (left + 0.02, left + side - 0.02, top + side - 0.02, top + 0.02)
    axes.imshow(image, interpolation="lanczos", extent=extent, aspect="auto")
