"""Verification of pairs: the trade-off of the two errors (ROC and DET), and the scores with the threshold in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import METHODS_IN_A_LEGEND, legend_above, method_handles, seed_handles, wrapped
from interproto_lib.views.style import (
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    MethodStyle,
    figure_style,
    method_styles,
    new_figure,
    sentence_figure,
)
from interproto_lib.views.wording import cohort_words, listed, number

RESOLVED_FROM_ERRORS = 10
"""A rate counts as resolved from this many errors on: with fewer its standard error is more than a third of it."""

_GRID_POINTS = 400
_PROBIT_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
_UNRESOLVED_COLOUR = "#EDEDED"
_DIFFERENT_COLOUR = "#9A9A9A"
_LINE_COLOUR = "#404040"
_NAME_INCHES = 1.1

Curve = tuple[NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True, eq=False)
class RocCurves:
    """The curves of one test set.

    Attributes:
        curves: Method -> one curve a seed: (t,) false match rate and (t,) true match rate, both rising from 0 to 1.
        n_same: Pairs of one person.
        n_different: Pairs of two people.
    """

    curves: Mapping[str, Sequence[Curve]]
    n_same: int
    n_different: int


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedScores:
    """The scores of one run on one test set.

    Attributes:
        cosine: (m,) cosines of the pairs.
        same: (m,) whether a pair shows one person.
        threshold: The cosine from which on two images are said to show one person; None where there is none.
    """

    cosine: NDArray[np.floating]
    same: NDArray[np.bool_]
    threshold: float | None = None


def roc_figure(test_sets: Mapping[str, RocCurves]) -> LabelledFigure:
    """Draw ROC (left) and DET curves (right), one row a test set.

    The thick line is the mean over the seeds of the true match rate at each false match rate; of up to four methods
    seeds are thin lines.
    Axes begin at one error in all pairs. Where a rate is made of fewer than `RESOLVED_FROM_ERRORS` errors, the ground
    is grey: curves there are mostly chance. The DET curve shows the same on normal-deviate axes, where scores that are
    normally distributed give a straight line.

    Args:
        test_sets: Name of the test set -> its curves.

    Returns:
        The figure; where there is nothing to draw, a line that says so.

    Raises:
        ConfigError: A curve does not rise from (0, 0) to (1, 1).
    """
    if not any(curves for of_set in test_sets.values() for curves in of_set.curves.values()):
        return sentence_figure("There are no pairs, hence no curves.")
    _check_curves(test_sets)
    styles = method_styles(method for of_set in test_sets.values() for method in of_set.curves)
    n_seeds = max(len(curves) for of_set in test_sets.values() for curves in of_set.curves.values())
    with_seeds = len(styles) <= METHODS_IN_A_LEGEND
    description = f"ROC and DET curves of {listed(list(styles))} on {listed(list(test_sets))}."
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 0.75 + 2.35 * len(test_sets), description=description)
        grid = figure.subplots(len(test_sets), 2, squeeze=False)
        for (roc, det), (name, of_set) in zip(grid, test_sets.items(), strict=True):
            for method, curves in of_set.curves.items():
                _draw_roc(roc, curves, of_set, styles[method], with_seeds=with_seeds)
                _draw_det(det, curves, of_set, styles[method], with_seeds=with_seeds)
            _set_roc_axes(roc, of_set)
            _set_det_axes(det, of_set)
            counts = f"{of_set.n_same:,} pairs of one person, {of_set.n_different:,} of two"
            roc.set_title(f"{wrapped(cohort_words(name), 2.7)}: ROC\n{counts}", loc="left", linespacing=1.3)
            det.set_title(f"{wrapped(cohort_words(name), 2.7)}: DET", loc="left")
        handles: list[Any] = [*method_handles(styles, line=True, marker=False), *seed_handles(n_seeds, with_seeds)]
        handles.append(Patch(color=_UNRESOLVED_COLOUR, label=f"fewer than {RESOLVED_FROM_ERRORS} errors"))
        legend_above(figure, handles, handlelength=3.2)
    return figure


def _check_curves(test_sets: Mapping[str, RocCurves]) -> None:
    for name, of_set in test_sets.items():
        for method, curves in of_set.curves.items():
            for false_match, true_match in curves:
                ends = [false_match[0], false_match[-1], true_match[0], true_match[-1]]
                rises = bool(np.all(np.diff(false_match) >= 0) and np.all(np.diff(true_match) >= 0))
                if ends != [0, 1, 0, 1] or not rises:
                    raise ConfigError(f"{method} on {name}: rates must rise from 0 to 1; they go {ends}.")


def _true_match_rate(curves: Sequence[Curve], false_match_rate: NDArray[np.floating]) -> NDArray[np.float64]:
    """Seeds x rates: the highest true match rate whose false match rate is not above the one asked for."""
    rows = [tmr[np.searchsorted(fmr, false_match_rate * (1 + 1e-9), side="right") - 1] for fmr, tmr in curves]
    return np.asarray(rows, dtype=np.float64)


def _draw_roc(axes: Axes, curves: Sequence[Curve], of_set: RocCurves, style: MethodStyle, *, with_seeds: bool) -> None:
    rates = np.geomspace(1 / of_set.n_different, 1, _GRID_POINTS)
    of_seeds = _true_match_rate(curves, rates)
    if with_seeds and len(of_seeds) > 1:
        axes.plot(rates, of_seeds.T, color=style.colour, linewidth=0.5, alpha=0.55)
    axes.plot(rates, of_seeds.mean(axis=0), color=style.colour, linestyle=style.line, linewidth=1.7)


def _draw_det(axes: Axes, curves: Sequence[Curve], of_set: RocCurves, style: MethodStyle, *, with_seeds: bool) -> None:
    from scipy.special import ndtr, ndtri

    rates = ndtr(np.linspace(ndtri(1 / of_set.n_different), ndtri(1 - 1 / of_set.n_different), _GRID_POINTS))
    of_seeds = 1 - _true_match_rate(curves, rates)
    with np.errstate(divide="ignore"):
        if with_seeds and len(of_seeds) > 1:
            axes.plot(ndtri(rates), _finite(ndtri(of_seeds)).T, color=style.colour, linewidth=0.5, alpha=0.55)
        mean = _finite(ndtri(of_seeds.mean(axis=0)))
    axes.plot(ndtri(rates), mean, color=style.colour, linestyle=style.line, linewidth=1.7)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Error rates of 0 and 1 lie at infinity on a normal-deviate axis and are not drawn."""
    return np.where(np.isfinite(values), values, np.nan)


def _set_roc_axes(axes: Axes, of_set: RocCurves) -> None:
    axes.set(xscale="log", xlim=(1 / of_set.n_different, 1), ylim=(0, 1.02))
    axes.axvspan(
        1 / of_set.n_different, min(1.0, RESOLVED_FROM_ERRORS / of_set.n_different), color=_UNRESOLVED_COLOUR, zorder=0
    )
    axes.grid(visible=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:.4g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:.0f}%"))
    axes.set(xlabel="False match rate", ylabel="True match rate")


def _set_det_axes(axes: Axes, of_set: RocCurves) -> None:
    """Axes from one error in all pairs to the tick beyond the last point drawn."""
    from scipy.special import ndtri

    lowest = (ndtri(1 / of_set.n_different), ndtri(1 / of_set.n_same))
    points = np.concatenate([np.asarray(line.get_xydata()) for line in axes.get_lines()])
    points = points[np.isfinite(points).all(axis=1) & (points[:, 1] >= lowest[1])]
    parts: Any = (
        (axes.xaxis, of_set.n_different, axes.axvspan, points[:, 0]),
        (axes.yaxis, of_set.n_same, axes.axhspan, points[:, 1]),
    )
    for (axis, n, span, drawn), low in zip(parts, lowest, strict=True):
        farthest = max([ndtri(0.2), low + 1, *drawn])
        high = min((ndtri(tick) for tick in _PROBIT_TICKS if ndtri(tick) >= farthest), default=farthest)
        span(low, ndtri(min(0.999, RESOLVED_FROM_ERRORS / n)), color=_UNRESOLVED_COLOUR, zorder=0)
        ticks = [tick for tick in _PROBIT_TICKS if low <= ndtri(tick) <= high]
        axis.set_ticks(ndtri(ticks), [f"{100 * tick:.4g}%" for tick in ticks])
        axis.set_minor_locator(NullLocator())
        (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(low, high)
    axes.grid(visible=True)
    axes.set(xlabel="False match rate", ylabel="False non-match rate")


def describe_roc(test_sets: Mapping[str, RocCurves], *, rates: Sequence[float] = (0.1, 0.01, 0.001)) -> str:
    """Say how many pairs of one person match at given false match rates, where the pairs can resolve them.

    Args:
        test_sets: As for `roc_figure`.
        rates: False match rates; the smallest one that `RESOLVED_FROM_ERRORS` errors resolve is told of.

    Returns:
        One line a test set, as a Markdown list; means over seeds.
    """
    lines = []
    asked = listed([f"{100 * rate:g} %" for rate in rates])
    for name, of_set in test_sets.items():
        words = cohort_words(name)
        resolved = [rate for rate in rates if rate * of_set.n_different >= RESOLVED_FROM_ERRORS]
        if not resolved:
            lines.append(
                f"- {words}: {of_set.n_different:,} pairs of two people are too few for a false match rate of "
                f"{100 * max(rates):g} % (it takes {RESOLVED_FROM_ERRORS / max(rates):,.0f})."
            )
            continue
        rate = min(resolved)
        found = []
        for method, curves in of_set.curves.items():
            if curves:
                of_seeds = 100 * _true_match_rate(curves, np.array([rate]))[:, 0]
                found.append(f"{of_seeds.mean():.1f} % ({method}{_spread(of_seeds)})")
        lines.append(
            f"- {words}: at a false match rate of {100 * rate:g} % (the smallest of {asked} that "
            f"{of_set.n_different:,} pairs of two people resolve) of the {of_set.n_same:,} pairs of one person match "
            f"{listed(found)}."
        )
    return "\n".join(lines)


def _spread(of_seeds: NDArray[np.float64]) -> str:
    if len(of_seeds) == 1:
        return ", one seed"
    return f", {of_seeds.min():.1f} to {of_seeds.max():.1f} over {len(of_seeds)} seeds"


def score_distribution_figure(scores: Mapping[str, Mapping[str, JudgedScores]]) -> LabelledFigure:
    """Draw the cosines of pairs of one person and of two, one column a test set and one row a method.

    Args:
        scores: Name of the test set -> method -> scores of one run; a method may miss on a test set.

    Returns:
        The figure: grey areas are pairs of two people, lines pairs of one person, both of area one; the dashed vertical
        line is the threshold in use. Where there is nothing to draw, a line that says so.
    """
    everything = [judged for of_set in scores.values() for judged in of_set.values()]
    if not everything:
        return sentence_figure("There are no pairs, hence no scores.")
    styles = method_styles(method for of_set in scores.values() for method in of_set)
    low, high = (float(f(f(j.cosine) for j in everything)) for f in (min, max))
    smallest = min(int(min(j.same.sum(), (~j.same).sum())) for j in everything)
    edges = np.linspace(low, high, int(np.clip(2 * smallest**0.5, 12, 50)) + 1)
    description = f"Cosines of pairs of one and of two people for {listed(list(styles))} on {listed(list(scores))}."
    with figure_style():
        high_inches = 1.3 if len(styles) <= METHODS_IN_A_LEGEND else 0.8
        figure = new_figure(PAGE_WIDTH_INCHES, 0.9 + high_inches * len(styles), description=description)
        grid = figure.subplots(len(styles), len(scores), sharex=True, sharey="col", squeeze=False)
        panel_inches = (PAGE_WIDTH_INCHES - _NAME_INCHES) / len(scores) - 0.1
        for column, (name, of_set) in enumerate(scores.items()):
            for row, (method, style) in enumerate(styles.items()):
                axes = grid[row, column]
                axes.set(yticks=[], xlim=(edges[0], edges[-1]))
                axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
                if method in of_set:
                    _draw_scores(axes, of_set[method], edges, style)
                else:
                    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center")
                if column == 0:
                    axes.set_ylabel(wrapped(method, _NAME_INCHES), rotation=0, ha="right", va="center")
            grid[0, column].set_title(wrapped(cohort_words(name), panel_inches), loc="left")
            grid[0, column].set_ylim(bottom=0)
            grid[-1, column].set_xlabel("Cosine")
        handles: list[Any] = [
            Patch(color=_DIFFERENT_COLOUR, alpha=0.55, label="density of pairs of two people"),
            Line2D([], [], color="#1A1A1A", label="density of pairs of one person"),
            Line2D([], [], color=_LINE_COLOUR, linewidth=0.9, linestyle=(0, (4, 2)), label="threshold"),
        ]
        legend_above(figure, handles, handlelength=3.2)
    return figure


def _draw_scores(axes: Axes, judged: JudgedScores, edges: NDArray[np.floating], style: MethodStyle) -> None:
    different, _ = np.histogram(judged.cosine[~judged.same], edges, density=True)
    same, _ = np.histogram(judged.cosine[judged.same], edges, density=True)
    axes.stairs(different, edges, fill=True, color=_DIFFERENT_COLOUR, alpha=0.55)
    axes.stairs(same, edges, color=style.colour, linewidth=1.3)
    if judged.threshold is not None:
        axes.axvline(judged.threshold, color=_LINE_COLOUR, linewidth=0.9, linestyle=(0, (4, 2)))


def describe_scores(scores: Mapping[str, Mapping[str, JudgedScores]]) -> str:
    """Say how far apart the two kinds of pairs are and how many lie on the wrong side of the threshold.

    Args:
        scores: As for `score_distribution_figure`.

    Returns:
        One line a test set and method, as a Markdown list.
    """
    lines = []
    for name, of_set in scores.items():
        for method, judged in of_set.items():
            same, different = judged.cosine[judged.same], judged.cosine[~judged.same]
            line = (
                f"- {cohort_words(name)}, {method}: the mean cosine is {number(float(same.mean()))} for pairs of one "
                f"person and {number(float(different.mean()))} for pairs of two"
            )
            if judged.threshold is not None:
                missed, matched = np.mean(same < judged.threshold), np.mean(different >= judged.threshold)
                line += (
                    f"; at the threshold {number(judged.threshold)}, {missed:.1%} of the pairs of one person are "
                    f"missed and {matched:.1%} of those of two match"
                )
            lines.append(f"{line}.")
    return "\n".join(lines)
