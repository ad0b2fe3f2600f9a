"""Who is confused with whom: maps of error rates by the ages of both images, and what they say in words."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from interproto_lib.analysis.cohort_errors import ChildFactor, CohortErrors
from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import trim_height, wrapped
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, new_figure
from interproto_lib.views.wording import age_group_words, listed, number

_DARK_TEXT, _LIGHT_TEXT = "#1A1A1A", "#FFFFFF"
_NO_PAIR_COLOUR = "#E2E2E2"
_MAX_BAR_INCHES = 4.0
_ROWS_OF_ONE_SCALE = 2


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """Words for one kind of error."""

    title: str
    error: str
    pairs: str


_RATES = {
    "fmr": _Rate(title="False match rate", error="false match", pairs="of two people"),
    "fnmr": _Rate(title="False non-match rate", error="false non-match", pairs="of one person"),
}


def cohort_error_figure(errors: Mapping[str, CohortErrors], *, rate: str = "fmr") -> LabelledFigure:
    """Draw error rates by the age groups of both images, one map a method, in one logarithmic colour range.

    Source: NIST FRVT part 3 (NISTIR 8280, 2019) shows false match rates of two groups so, at one threshold for all.

    Args:
        errors: Method, as it is to be called, to its errors.
        rate: `fmr`, false matches among pairs of two people, or `fnmr`, false non-matches among pairs of one person.

    Returns:
        The figure: in every cell the rate in percent; white with a 0 where no pair is wrong, hatched where there is no
        pair. Groups in which no method has a pair are left out.

    Raises:
        ConfigError: There is no method, the methods have different groups, or the rate is unknown.
    """
    words = _words(rate)
    groups, shown = _shown_groups(errors, rate)
    values = {method: getattr(of, rate)[np.ix_(shown, shown)] for method, of in errors.items()}
    positive = np.concatenate([of[of > 0] for of in values.values()])
    low, high = _range(positive)
    norm = LogNorm(low, high)
    n_columns = min(2, len(errors))
    n_rows = -(-len(errors) // n_columns)
    side = 4.0 if n_columns == 1 else (PAGE_WIDTH_INCHES - 0.9) / 2
    parts = [f"{method} {_percent(_overall(of, rate))}" for method, of in errors.items()]
    colours = f", colours logarithmic from {_plain_percent(low)} to {_plain_percent(high)}" if len(positive) else ""
    description = f"{words.title} by the ages of both images{colours}; over all ages: {', '.join(parts)}."
    with figure_style():
        figure = new_figure(
            0.9 + side * n_columns, 0.35 + n_rows * (side + 0.35), description=description, layout="compressed"
        )
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for index, (axes, (method, of)) in enumerate(zip(grid.flat, errors.items(), strict=False)):
            image = _draw_map(axes, values[method], groups, norm)
            letter = f"({string.ascii_lowercase[index]}) " if 1 < len(errors) <= 26 else ""
            heading = wrapped(letter + method, side)
            below = f"over all ages {_percent(_overall(of, rate))}, threshold {number(of.threshold)}"
            axes.set_title(f"{heading}\n{below}", linespacing=1.3)
            is_lowest = index + n_columns >= len(errors)
            _name_axes(
                axes, left=index % n_columns == 0, bottom=is_lowest, groups=is_lowest or n_rows > _ROWS_OF_ONE_SCALE
            )
        for axes in grid.flat[len(errors) :]:
            axes.set_axis_off()
        if len(positive):
            shrink = 0.9 if n_rows == 1 else min(0.6, _MAX_BAR_INCHES / figure.get_figheight())
            bar = figure.colorbar(image, ax=grid, shrink=shrink, aspect=30, pad=0.02)
            ticks = _ticks(low, high)
            bar.set_ticks(ticks, labels=[_plain_percent(tick) for tick in ticks])
            bar.ax.minorticks_off()
            bar.set_label(f"{words.title} (logarithmic)")
            bar.outline.set_visible(False)
        everything = np.concatenate([of.ravel() for of in values.values()])
        handles = []
        if (everything == 0).any():
            handles.append(Patch(facecolor="white", edgecolor="#8C8C8C", label=f"0: no {words.error}"))
        if np.isnan(everything).any():
            handles.append(
                Patch(facecolor=_NO_PAIR_COLOUR, edgecolor="#8C8C8C", hatch="////", label=f"no pair {words.pairs}")
            )
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=2)
        trim_height(figure)
    return figure


def describe_cohort_errors(errors: Mapping[str, CohortErrors], *, rate: str = "fmr") -> str:
    """Say how often each method errs at its threshold, and in which two age groups most and least often.

    Args:
        errors: Method, as it is to be called, to its errors.
        rate: `fmr` or `fnmr`, as for `cohort_error_figure`.

    Returns:
        A Markdown list of one line a method, after a sentence that says what is counted; images without an age are
        named at the end.

    Raises:
        ConfigError: There is no method, the methods have different groups, or the rate is unknown.
    """
    words = _words(rate)
    _shown_groups(errors, rate)
    verb = "match" if rate == "fmr" else "do not match"
    lines = [f"- {method} (threshold {number(of.threshold)}): {_extremes(of, rate, words)}" for method, of in
             errors.items()]  # fmt: skip
    text = f"Share of pairs {words.pairs} that {verb}, by the age groups of both images:\n\n" + "\n".join(lines)
    left_out = {of.n_unlabelled for of in errors.values()} - {0}
    if left_out:
        counts = listed([f"{count:,}" for count in sorted(left_out)])
        text += f"\n\nLeft out because they have no age: {counts} image{'' if left_out == {1} else 's'}."
    return text


def describe_child_factors(factors: Mapping[str, ChildFactor]) -> str:
    """Say how many times as often two children are confused as two adults, and whether that is told from chance.

    Args:
        factors: Method, as it is to be called, to its factor.

    Returns:
        A Markdown list of one line a method, after a sentence that says what is compared.

    Raises:
        ConfigError: There is no method.
    """
    if not factors:
        raise ConfigError("There is no method to describe.")
    lines = [f"- {method}: {_factor_words(factor)}" for method, factor in factors.items()]
    return (
        "How often two children are taken for one person, at the same threshold as two adults; the interval resamples "
        "people:\n\n" + "\n".join(lines)
    )


def _draw_map(axes: Axes, values: NDArray[np.float64], groups: list[str], norm: LogNorm) -> Any:
    colours = _colours()
    image = axes.imshow(np.ma.masked_where(~(values > 0), values), cmap=colours, norm=norm, interpolation="none")
    n = len(groups)
    size = 6.0 if n > 5 else 7.5
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=_NO_PAIR_COLOUR, edgecolor="#B5B5B5",
                          hatch="////", linewidth=0)
            )  # fmt: skip
            continue
        background = colours(norm(value))[:3] if value > 0 else (1.0, 1.0, 1.0)
        text = _short_percent(value)
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=_readable_on(background))
    axes.set_xticks(range(n), groups, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), groups)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#D9D9D9", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#8C8C8C")
    return image


def _name_axes(axes: Axes, *, left: bool, bottom: bool, groups: bool) -> None:
    """Name the axes where no other map stands below or to the left; groups below more maps, where the rows are many."""
    axes.tick_params(labelleft=left, labelbottom=groups)
    if left:
        axes.set_ylabel("Age in one image (years)")
    if bottom:
        axes.set_xlabel("Age in the other image (years); cells in %")


def _extremes(errors: CohortErrors, rate: str, words: _Rate) -> str:
    n_pairs, values = _pairs(errors, rate), getattr(errors, rate)
    total = int(np.triu(n_pairs).sum())
    if total == 0:
        return f"there is no pair {words.pairs}."
    cells = [(a, b) for a, b in itertools.combinations_with_replacement(range(len(errors.groups)), 2) if n_pairs[a, b]]
    of_cells = [float(values[a, b]) for a, b in cells]
    overall = _overall(errors, rate)
    if overall == 0:
        return f"no {words.error} in {_counted(total)}."
    start = f"{_percent(overall)} of {_counted(total)}"
    if len(cells) == 1:
        return f"{start}, all of the groups {_two(errors, *cells[0])}."
    if min(of_cells) == max(of_cells):
        return f"{start}, the same share in every two groups."
    ends = []
    for word, extreme in (("highest", max(of_cells)), ("lowest", min(of_cells))):
        chosen = [cell for cell, value in zip(cells, of_cells, strict=True) if value == extreme]
        pairs = _counted(sum(int(n_pairs[cell]) for cell in chosen))
        if extreme == 0:
            ends.append(f"none in {len(chosen)} of {len(cells)} cells ({pairs})")
            continue
        more = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
        ends.append(f"{word} in {_two(errors, *chosen[0])}{more} ({_percent(extreme)} of {pairs})")
    return f"{start}; {', '.join(ends)}."


def _factor_words(result: ChildFactor) -> str:
    rates = listed(
        [
            f"{_percent(fmr)} of {_counted(n_pairs)} of {n_people:,} {people}"
            for fmr, n_pairs, n_people, people in (
                (result.child_fmr, result.n_child_pairs, result.n_child_identities, "people as children"),
                (result.adult_fmr, result.n_adult_pairs, result.n_adult_identities, "as adults"),
            )
            if fmr is not None
        ]
    )
    if result.factor is None:
        return f"{result.note}{f' ({rates})' if rates else ''}."
    often = _times(result.factor)
    words = "as often" if often == "1.0" else f"{often} times as often"
    sentence = f"{words} as two adults ({rates})"
    if result.low is None or result.high is None:
        return f"{sentence}; {result.note}."
    level = f"{result.confidence:.0%} interval"
    if math.isinf(result.high):
        sentence += f"; {level} {_times(result.low)} to infinity"
    else:
        sentence += f"; {level} {_times(result.low)} to {_times(result.high)}"
    if result.low <= 1 <= result.high:
        sentence += ", not told from equally often"
    return f"{sentence}{f'; {result.note}' if result.note else ''}."


def _shown_groups(errors: Mapping[str, CohortErrors], rate: str) -> tuple[list[str], NDArray[np.int64]]:
    """Groups in which some method has a pair, by name and by position; all where there is none."""
    if not errors:
        raise ConfigError("There is no method to show.")
    (first, of_first), *others = errors.items()
    for method, of in others:
        if of.groups != of_first.groups:
            raise ConfigError(f"{method} has the age groups {of.groups}, {first} has {of_first.groups}.")
    with_pairs = np.any([_pairs(of, rate).any(axis=0) for of in errors.values()], axis=0)
    shown = np.flatnonzero(with_pairs) if with_pairs.any() else np.arange(len(with_pairs))
    return [age_group_words(of_first.groups[i]) for i in shown], shown


def _pairs(errors: CohortErrors, rate: str) -> NDArray[np.int64]:
    return errors.n_impostor if rate == "fmr" else errors.n_genuine


def _overall(errors: CohortErrors, rate: str) -> float:
    return errors.overall_fmr if rate == "fmr" else errors.overall_fnmr


def _words(rate: str) -> _Rate:
    if rate not in _RATES:
        raise ConfigError(f"unknown rate {rate!r}: choose one of {', '.join(_RATES)}.")
    return _RATES[rate]


def _two(errors: CohortErrors, a: int, b: int) -> str:
    return f"{age_group_words(errors.groups[a])} with {age_group_words(errors.groups[b])}"


def _counted(n_pairs: int) -> str:
    return f"{n_pairs:,} pair{'' if n_pairs == 1 else 's'}"


def _percent(rate: float) -> str:
    """Write a rate in percent with two digits that count: 12%, 0.34%, 1.2e−4%; a missing one as a dash."""
    if math.isnan(rate):
        return "–"
    percent = float(f"{100 * rate:.2g}")
    if percent == 0 or percent >= 10:
        return f"{percent:.0f}%"
    if percent < 0.001:
        return f"{percent:.1e}%".replace("e-0", "e−").replace("e-", "e−").replace(".0e", "e")
    return f"{percent:.{1 - math.floor(math.log10(percent))}f}%"


def _short_percent(rate: float) -> str:
    """A percentage that fits into a cell."""
    percent = 100 * rate
    if percent == 0 or percent >= 0.01:
        return _percent(rate).rstrip("%") if percent else "0"
    return "<.001" if percent < 0.0005 else f"{percent:.3f}"


def _times(factor: float) -> str:
    """Write a factor with two digits that count, or all before the point."""
    if factor == 0:
        return "0"
    rounded = float(f"{factor:.2g}")
    return f"{factor:,.0f}" if rounded >= 10 else f"{rounded:.{1 - math.floor(math.log10(rounded))}f}"


def _range(positive: NDArray[np.float64]) -> tuple[float, float]:
    """Choose a range that ends at 1, 2 or 5 times a power of ten, spans one at least and holds all rates above 0."""
    if not len(positive):
        return 1e-3, 1.0
    steps = [float(f"{digit}e{exponent}") for exponent in range(-12, 1) for digit in (1, 2, 5)]
    high = min(step for step in steps if step >= positive.max() * (1 - 1e-9))
    low = max(step for step in steps if step <= positive.min() * (1 + 1e-9))
    return min(low, high / 10), high


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and over up to two of them their double and fivefold."""
    digits = (1, 2, 5) if high / low < 150 else (1,)
    ticks = [float(f"{digit}e{exponent}") for exponent in range(-12, 1) for digit in digits]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def _plain_percent(rate: float) -> str:
    """Write a rate of one digit in percent: 10%, 0.001%, 1e−6%."""
    exponent = math.floor(math.log10(100 * rate) + 1e-9)
    return f"{100 * rate:.{max(0, -exponent)}f}%" if exponent >= -5 else f"{100 * rate:.0e}%".replace("e-0", "e−")


def _colours() -> Colormap:
    """Give seaborn's `rocket` from pale (low) to nearly black (high), without its palest part: that is for 0."""
    import seaborn as sns

    rocket = sns.color_palette("rocket_r", as_cmap=True)
    return LinearSegmentedColormap.from_list("rates", rocket(np.linspace(0.1, 1, 256))).with_extremes(bad="#FFFFFF")


def _readable_on(background: tuple[float, ...]) -> str:
    """Choose the text colour with the higher contrast (WCAG 2) on a background."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    on = luminance(background)
    contrast = {text: max(on, luminance(to_rgb(text))) / min(on, luminance(to_rgb(text))) for text in
                (_DARK_TEXT, _LIGHT_TEXT)}  # fmt: skip
    return max(contrast, key=lambda text: contrast[text])
