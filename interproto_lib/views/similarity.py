"""Similarity of identities: the maps of Fig. 2 and Fig. 4, and what they say in words."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from interproto_lib.analysis.similarity import COHORTS, SimilarityMatrix
from interproto_lib.analysis.similarity_summary import SimilaritySummary, summarise_similarity
from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import trim_height, wrapped
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    axes_at,
    broken_rows,
    figure_style,
    new_figure,
    similarity_colours,
    symmetric_limit,
)
from interproto_lib.views.wording import cohort_words, compared, listed, number

MAX_PIXELS = 300
"""Cells a side that a map shows one by one; of larger matrices it shows block means."""


_MAX_BAR_INCHES = 5.0


def block_means(values: np.ndarray, block: int, *, without_diagonal: bool = False) -> np.ndarray:
    """Average a matrix over square blocks; the last block of a row or column may be smaller.

    Args:
        values: The matrix, shape (n, m); NaN does not count.
        block: Rows and columns in a block, at least 1.
        without_diagonal: Leave cells (i, i) out.

    Returns:
        The means, shape (ceil(n / block), ceil(m / block)), float64; NaN where a block has no number.

    Example:
        >>> block_means(np.array([[1.0, 3.0, 5.0]]), 2)
        array([[2., 5.]])
    """
    columns = np.arange(0, values.shape[1], block)
    means = []
    for start in range(0, len(values), block):
        strip = np.array(values[start : start + block], dtype=np.float64)
        if without_diagonal:
            on_diagonal = np.arange(start, min(start + len(strip), values.shape[1]))
            strip[on_diagonal - start, on_diagonal] = np.nan
        finite = np.isfinite(strip)
        sums = np.add.reduceat(np.where(finite, strip, 0).sum(axis=0), columns)
        counts = np.add.reduceat(finite.sum(axis=0), columns)
        means.append(np.divide(sums, counts, out=np.full(len(columns), np.nan), where=counts > 0))
    return np.stack(means)


def similarity_figure(
    panels: Sequence[SimilarityMatrix],
    titles: Sequence[str],
    *,
    n_columns: int = 2,
    limit: float | None = None,
    n_child_first: int = 0,
) -> LabelledFigure:
    """Draw maps of inter-class similarity side by side, in one colour range.

    Source: Fig. 2 and Fig. 4. Cell (i, j) is the mean similarity between the images of identity i and identity j
    (Eq. 2), a diagonal cell the mean similarity of an identity's images to its prototype (Eq. 1). Of a matrix with more
    than `MAX_PIXELS` rows or columns each pixel is the mean of Eq. 2 over a block; there the diagonal is left out.

    Args:
        panels: The matrices, row by row.
        titles: What each panel shows, usually the method; cohort and mean are added below it.
        n_columns: Panels in a row. Of more than three the figure shows equal parts one below the other, each
            with its part of every row.
        limit: Colours run from -limit to limit. Chosen from all panels if None: 99.5% of what is drawn of Eq. 2 fits;
            values beyond are drawn in the end colours, as the points of the colour bar tell.
        n_child_first: Where above 0, so many first rows and columns are child identities; lines mark their end, and
            strips in the colours of children and adults tell the two.

    Returns:
        The figure; under each title stands the mean of Eq. 2 over all its pairs.

    Raises:
        ConfigError: There is no panel, or not one title a panel.
    """
    if not panels or len(panels) != len(titles):
        raise ConfigError(
            f"A similarity figure needs one title a panel; got {len(panels)} panels, {len(titles)} titles."
        )
    drawn = [_drawn_values(panel) for panel in panels]
    chosen = symmetric_limit([off_diagonal for _, off_diagonal, _ in drawn]) if limit is None else limit
    places, n_rows, n_columns = broken_rows(len(panels), min(n_columns, len(panels)))
    side = min(3.2, (PAGE_WIDTH_INCHES - 0.9) / n_columns)
    shown = [f"{title}, {cohort_words(panel.cohort)}" for title, panel in zip(titles, panels, strict=True)]
    description = f"Similarity maps, colours from {number(-chosen, decimals=2)} to {chosen:.2f}: {'; '.join(shown)}."
    with figure_style():
        height = 0.6 + n_rows * (side + 0.55)
        figure = new_figure(0.9 + side * n_columns, height, description=description, layout="compressed")
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for letter, index in enumerate(sorted(range(len(panels)), key=places.__getitem__)):
            axes, panel = axes_at(grid, places[index]), panels[index]
            image = _draw_map(axes, panel, drawn[index], limit=chosen, n_child_first=n_child_first)
            lettered = f"({string.ascii_lowercase[letter]}) " if 1 < len(panels) <= 26 else ""
            heading = wrapped(lettered + titles[index], side)
            mean = summarise_similarity(panel).mean
            below = f"{cohort_words(panel.cohort)}, mean {number(mean)}"
            axes.set_title(f"{heading}\n{below}", linespacing=1.3, pad=9 if _marked(panel, n_child_first) else None)
        for place in set(np.ndindex(n_rows, n_columns)) - set(places):
            axes_at(grid, place).set_axis_off()
        beyond = any(np.nanmax(np.abs(values), initial=0.0) > chosen for values, _, _ in drawn)
        bar = figure.colorbar(
            image,
            ax=grid,
            extend="both" if beyond else "neither",
            shrink=0.9 if n_rows == 1 else min(0.6, _MAX_BAR_INCHES / height),
            aspect=30,
            pad=0.02,
        )
        ticks = np.linspace(-chosen, chosen, 5)
        bar.set_ticks(list(ticks), labels=[number(tick, decimals=3).rstrip("0").rstrip(".") for tick in ticks])
        bar.set_label("Mean cosine similarity")
        bar.outline.set_visible(False)
        if any(_marked(panel, n_child_first) for panel in panels):
            kinds = {"child identities": CHILD_COLOUR, "other identities": ADULT_COLOUR}
            handles = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
            figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=1.2)
        trim_height(figure)
    return figure


def _marked(panel: SimilarityMatrix, n_child_first: int) -> bool:
    return 0 < n_child_first < min(panel.values.shape)


def _drawn_values(panel: SimilarityMatrix) -> tuple[np.ndarray, np.ndarray, int]:
    """Give the values to draw, those of Eq. 2 among them, and the block they are averaged over."""
    block = -(-max(panel.values.shape) // MAX_PIXELS)
    same = np.array_equal(panel.row_identities, panel.column_identities)
    pairs = block_means(panel.values, block, without_diagonal=same)
    return (pairs if block > 1 or not same else panel.with_diagonal()), pairs, block


def _draw_map(
    axes: Axes,
    panel: SimilarityMatrix,
    drawn: tuple[np.ndarray, np.ndarray, int],
    *,
    limit: float,
    n_child_first: int,
) -> Any:
    values, _, block = drawn
    n_rows, n_columns = panel.values.shape
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=similarity_colours(),
        vmin=-limit,
        vmax=limit,
        interpolation="none",
        extent=(0, n_columns, n_rows, 0),
        aspect="equal",
    )
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#8C8C8C")
    axes.set_xticks(_index_ticks(n_columns))
    axes.set_yticks(_index_ticks(n_rows))
    axes.tick_params(length=2.5)
    row_images, column_images = COHORTS[panel.cohort]
    pixel = f"\n(pixel: mean of {block} × {block} pairs)" if block > 1 else ""
    axes.set_xlabel(f"Identity j, {column_images} images{pixel}")
    axes.set_ylabel(f"Identity i, {row_images} images")
    if _marked(panel, n_child_first):
        for draw in (axes.axhline, axes.axvline):
            draw(n_child_first, color="#1A1A1A", linewidth=0.7, linestyle=(0, (3, 2)))
        _mark_kinds(axes, n_child_first, n_rows, n_columns)
    return image


def _mark_kinds(axes: Axes, n_child: int, n_rows: int, n_columns: int) -> None:
    """Draw beside the map which rows and columns are child identities."""
    outside: dict[str, Any] = {"clip_on": False, "linewidth": 0}
    top, right = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    for colour, start, width, height in (
        (CHILD_COLOUR, 0, n_child, n_child),
        (ADULT_COLOUR, n_child, n_columns - n_child, n_rows - n_child),
    ):
        axes.add_patch(Rectangle((start, 1.012), width, 0.028, color=colour, transform=top, **outside))
        axes.add_patch(Rectangle((1.012, start), 0.028, height, color=colour, transform=right, **outside))


def _index_ticks(n: int) -> list[int]:
    step = next((s for e in range(7) for s in (10**e, 2 * 10**e, 5 * 10**e) if n / s <= 5), n)
    return list(range(0, n + 1, step))


def describe_similarity(summaries: Mapping[str, SimilaritySummary], *, pairs: str) -> str:
    """Compare the mean similarity of the methods with that of the first, in words.

    Args:
        summaries: Method to summary of its Eq. 2 values, baseline first.
        pairs: What was compared, as in `pairs of child identities`.

    Returns:
        A few sentences with mean and share above the threshold; the wording follows sign and size of the differences.
    """
    (baseline, first), *others = summaries.items()
    means = listed([f"{number(s.mean)} ({name})" for name, s in summaries.items()])
    shares = listed([f"{s.share_above:.1%} ({name})" for name, s in summaries.items()])
    sentences = [
        f"Over {first.n_pairs:,} {pairs} the mean similarity is {means}; above {first.threshold:g} lie {shares}."
    ]
    if others:
        changes = [f"{compared(s.mean - first.mean)} with {name}" for name, s in others]
        sentences.append(f"Against {baseline} the mean is {listed(changes)}.")
    return " ".join(sentences)


def describe_cohorts(summaries: Mapping[str, SimilaritySummary]) -> str:
    """Compare the mean similarity of the cohorts of one method with that of the last cohort, in words.

    Args:
        summaries: Cohort (as in `child-child`) to summary of its Eq. 2 values; the last one is compared with.

    Returns:
        One or two sentences; the wording follows sign and size of the differences.
    """
    *others, reference = summaries
    means = [f"{number(s.mean)} ({cohort_words(cohort)}, {s.n_pairs:,} pairs)" for cohort, s in summaries.items()]
    sentences = [f"The mean similarity of different identities is {listed(means)}."]
    if others:
        base = summaries[reference].mean
        changes = [f"{cohort_words(c)} is {compared(summaries[c].mean - base)}" for c in others]
        sentences.append(f"Against {cohort_words(reference)}, {listed(changes)}.")
    return " ".join(sentences)
