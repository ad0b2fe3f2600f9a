"""The course of trainings: losses, accuracy and learning rate over the epochs (Algorithm 1), method beside method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import legend_above, method_handles, seed_handles
from interproto_lib.views.style import (
    PAGE_WIDTH_INCHES,
    LabelledFigure,
    MethodStyle,
    figure_style,
    method_styles,
    new_figure,
)
from interproto_lib.views.wording import listed

TRAINING_QUANTITIES = {
    "margin_loss": "Margin loss (Eq. 3)",
    "inter_prototype_loss": "Inter-Prototype loss (Eq. 5), unweighted",
    "accuracy": "Training accuracy",
    "learning_rate": "Learning rate",
}
"""Columns of the metrics that are drawn, one panel each, and how they are called."""


def training_curves_figure(
    metrics: Mapping[str, Sequence[pd.DataFrame]],
    *,
    quantities: Mapping[str, str] = TRAINING_QUANTITIES,
    over: str = "epoch",
) -> LabelledFigure:
    """Draw the course of training: each seed as a thin line, the mean over seeds as a thick one.

    A curve that is 0 throughout belongs to a loss that is off and is not drawn. The Inter-Prototype loss is drawn as
    each run computes it: as a sum or as a mean over pairs, so its height compares only between runs of one reduction.

    Args:
        metrics: Method -> metrics of its runs (`RunFolder.metrics()`), one table a seed, with the column `over` and
            those of `quantities`.
        quantities: Column -> title of its panel. A quantity that spans more than two powers of ten, and is never 0, is
            drawn on a logarithmic axis.
        over: Column of the horizontal axis, `epoch` or `step`.

    Returns:
        The figure, one panel a quantity.

    Raises:
        ConfigError: There are no metrics, or a column is missing.
    """
    tables = {method: list(of_method) for method, of_method in metrics.items() if len(of_method)}
    if not tables:
        raise ConfigError("There are no metrics to draw.")
    for method, of_method in tables.items():
        missing = [c for table in of_method for c in (over, *quantities) if c not in table.columns]
        if missing:
            raise ConfigError(f"The metrics of {method} have no column {listed(list(dict.fromkeys(missing)))}.")
    styles = method_styles(tables)
    n_seeds = max(len(of_method) for of_method in tables.values())
    description = f"Training curves of {listed(list(tables))}: {listed(list(quantities.values()))}."
    with figure_style():
        n_rows = -(-len(quantities) // 2)
        figure = new_figure(PAGE_WIDTH_INCHES, 0.7 + 1.85 * n_rows, description=description)
        grid = figure.subplots(n_rows, min(2, len(quantities)), sharex=True, squeeze=False)
        for axes, (column, title) in zip(grid.flat, quantities.items(), strict=False):
            drawn = {m: [t for t in of_method if t[column].any()] for m, of_method in tables.items()}
            drawn = {method: of_method for method, of_method in drawn.items() if of_method}
            for method, of_method in drawn.items():
                _draw_runs(axes, of_method, column, styles[method], over=over)
            axes.set_title(title, loc="left")
            axes.yaxis.grid(visible=True)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            if drawn:
                _scale(axes, np.concatenate([t[column].to_numpy(dtype=float) for of in drawn.values() for t in of]))
            else:
                axes.set(yticks=[])
                axes.text(0.5, 0.5, "off in all runs", transform=axes.transAxes, ha="center", va="center")
        for axes in grid.flat[len(quantities) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel(over.capitalize())
        if len(tables) > 1 or n_seeds > 1:
            handles = [*method_handles(styles, line=True, marker=False), *seed_handles(n_seeds, drawn=True)]
            legend_above(figure, handles, handlelength=3.2)
    return figure


def _draw_runs(axes: Axes, runs: Sequence[pd.DataFrame], column: str, style: MethodStyle, *, over: str) -> None:
    places = np.unique(np.concatenate([run[over].to_numpy(dtype=float) for run in runs]))
    curves = [
        np.interp(places, run[over].to_numpy(dtype=float), run[column].to_numpy(dtype=float), right=np.nan)
        for run in runs
    ]
    if len(curves) > 1:
        for curve in curves:
            axes.plot(places, curve, color=style.colour, linewidth=0.5, alpha=0.55)
    axes.plot(places, np.mean(curves, axis=0), color=style.colour, linestyle=style.line, linewidth=1.7)


def _scale(axes: Axes, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() / values.min() > 100:
        axes.set_yscale("log")
    else:
        axes.set_ylim(min(0.0, float(values.min())), axes.get_ylim()[1])


def describe_training(metrics: Mapping[str, Sequence[pd.DataFrame]]) -> str:
    """Say where each method's training ended: accuracy and Inter-Prototype loss, mean and range over seeds.

    Args:
        metrics: As for `training_curves_figure`.

    Returns:
        One sentence a method.
    """
    sentences = []
    for method, runs in metrics.items():
        last = pd.DataFrame([run.iloc[-1] for run in runs])
        accuracy, value = last["accuracy"], float(last["inter_prototype_loss"].mean())
        spread = f" ({accuracy.min():.1%} to {accuracy.max():.1%} over {len(last)} seeds)" if len(last) > 1 else ""
        pushed = f" and an Inter-Prototype loss of {value:.3g}" if value else "; its Inter-Prototype loss is off"
        sentences.append(f"{method} ends at a training accuracy of {accuracy.mean():.1%}{spread}{pushed}.")
    return " ".join(sentences)
