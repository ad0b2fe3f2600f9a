"""Identification: how often the right person is among the first so many of a gallery (Table 3 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError
from interproto_lib.views.layout import METHODS_IN_A_LEGEND, legend_above, seed_handles, wrapped
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, method_styles, new_figure
from interproto_lib.views.wording import listed

_LOGARITHMIC_FROM_RANKS = 50
_MARKED_UP_TO_RANKS = 10


def cmc_figure(
    curves: Mapping[str, Sequence[NDArray[np.floating]]], *, title: str = "", n_gallery: int | None = None
) -> LabelledFigure:
    """Draw cumulative match characteristics: the mean over seeds as a thick line, of few methods also each seed.

    Args:
        curves: Method -> one curve a seed, (k,): share of the probes, in [0, 1], whose person is among the first 1, 2,
            ..., k of the gallery. All have the same length.
        title: Above the figure, such as the name of the test set and its counts.
        n_gallery: People in the gallery; then chance, rank / n_gallery, is drawn.

    Returns:
        The figure; with many ranks their axis is logarithmic.

    Raises:
        ConfigError: There is nothing to draw, lengths differ, a curve falls or leaves [0, 1].
    """
    drawn, n_ranks = _checked(curves)
    styles = method_styles(drawn)
    n_seeds = max(len(of_method) for of_method in drawn.values())
    description = f"Cumulative match characteristics of {listed(list(styles))} up to rank {n_ranks:,}."
    ranks = np.arange(1, n_ranks + 1)
    with figure_style():
        many = len(styles) > METHODS_IN_A_LEGEND
        width = PAGE_WIDTH_INCHES if many else PAGE_WIDTH_INCHES * 0.7
        figure = new_figure(width, 3.6 if many else 3.1, description=description)
        axes = figure.subplots()
        markers = {name: style.marker if n_ranks <= _MARKED_UP_TO_RANKS else "" for name, style in styles.items()}
        for method, of_seeds in drawn.items():
            style = styles[method]
            if len(of_seeds) > 1 and not many:
                axes.plot(ranks, of_seeds.T, color=style.colour, linewidth=0.5, alpha=0.55)
            axes.plot(ranks, of_seeds.mean(axis=0), color=style.colour, linestyle=style.line, linewidth=1.7,
                      marker=markers[method], markersize=4.5)  # fmt: skip
        handles = [
            Line2D([], [], color=s.colour, linestyle=s.line, marker=markers[name], markersize=4.5, label=name)
            for name, s in styles.items()
        ]
        handles += seed_handles(n_seeds, drawn=not many)
        if n_gallery is not None:
            axes.plot(ranks, np.minimum(1, ranks / n_gallery), color="#7F7F7F", linewidth=0.9, linestyle=":")
            handles.append(Line2D([], [], color="#7F7F7F", linewidth=0.9, linestyle=":", label="chance"))
        if n_ranks >= _LOGARITHMIC_FROM_RANKS:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        axes.set(xlabel="Rank", ylabel="Identified within rank", ylim=(0, 1.02))
        axes.set_xlim((1 - 0.3, n_ranks + 0.3) if n_ranks <= _MARKED_UP_TO_RANKS else (1, n_ranks))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}%"))
        axes.grid(visible=True)
        axes.set_title(wrapped(title, width - 0.8), loc="left")
        if many:
            for handle in handles:
                handle.set_label(wrapped(str(handle.get_label()), 1.8))
            figure.legend(handles=handles, loc="outside right upper", handlelength=3.2)
        else:
            legend_above(figure, handles, handlelength=3.2)
    return figure


def describe_identification(
    curves: Mapping[str, Sequence[NDArray[np.floating]]],
    *,
    n_probes: int,
    n_gallery: int,
    ranks: Sequence[int] = (1, 5, 10),
) -> str:
    """Say how many probes are identified within given ranks, and what chance gives.

    Args:
        curves: As for `cmc_figure`.
        n_probes: Images looked for.
        n_gallery: People in the gallery.
        ranks: Ranks told of, as far as the curves go.

    Returns:
        A sentence on the counts and chance, then a Markdown list of one line a method: mean and range over seeds.

    Raises:
        ConfigError: As for `cmc_figure`, or none of the ranks is within the curves.
    """
    drawn, n_ranks = _checked(curves)
    told = [rank for rank in ranks if 1 <= rank <= n_ranks]
    if not told:
        raise ConfigError(f"The curves end at rank {n_ranks}: none of the ranks {list(ranks)} is within.")
    chance = listed([f"{min(1.0, rank / n_gallery):.1%} (rank {rank})" for rank in told])
    probes = f"{n_probes:,} probe{'' if n_probes == 1 else 's'}"
    people = f"{n_gallery:,} {'person' if n_gallery == 1 else 'people'}"
    lines = []
    for method, of_seeds in drawn.items():
        found = [_share(of_seeds[:, rank - 1], f"rank {rank}") for rank in told]
        seeds = "one seed" if len(of_seeds) == 1 else f"mean and range of {len(of_seeds)} seeds"
        lines.append(f"- {method}: {listed(found)} ({seeds}).")
    return (
        f"{probes} against a gallery of {people}; by chance {chance} would be identified. One probe is "
        f"{1 / n_probes:.1%}.\n\n" + "\n".join(lines)
    )


def _share(of_seeds: NDArray[np.float64], rank: str) -> str:
    spread = f", {of_seeds.min():.1%} to {of_seeds.max():.1%}" if len(of_seeds) > 1 else ""
    return f"{of_seeds.mean():.1%} ({rank}{spread})"


def _checked(curves: Mapping[str, Sequence[NDArray[np.floating]]]) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Method -> (seeds, ranks), and the number of ranks."""
    lengths = {len(curve) for of_method in curves.values() for curve in of_method}
    if not lengths or 0 in lengths:
        raise ConfigError("There are no identification rates to draw.")
    if len(lengths) > 1:
        raise ConfigError(f"Curves must have the same number of ranks; they have {sorted(lengths)}.")
    drawn = {method: np.asarray(list(of), dtype=np.float64) for method, of in curves.items() if len(of)}
    for method, of_seeds in drawn.items():
        inside = np.all((of_seeds >= 0) & (of_seeds <= 1))
        if not inside or np.any(np.diff(of_seeds, axis=1) < 0):
            raise ConfigError(f"{method}: shares must be in [0, 1] and must not fall with the rank.")
    return drawn, lengths.pop()
