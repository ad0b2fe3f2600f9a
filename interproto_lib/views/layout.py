"""Where things stand in a figure: legends and names that fit, no idle margins, rows of methods under their names."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, MethodStyle, new_figure

METHODS_IN_A_LEGEND = 4
"""Of more methods a figure of rows writes the name before each row, a panel a group; seeds are not drawn one by one."""

_MARGIN_INCHES = 0.06
_NAME_POINTS = 7.5
_NAME_CHARACTERS = 26
_CHARACTER_WIDTH = 0.58
_LABEL_INCHES = 2.2
_MOST_IN_A_LINE = 5


def wrapped(text: str, inches: float, *, points: float = 9.0) -> str:
    r"""Break a text into lines that fit a width; words that are wider on their own are broken too.

    Args:
        text: The text.
        inches: Width.
        points: Size of the letters.

    Returns:
        The text with line breaks.

    Example:
        >>> wrapped("Inter-Prototype with a long name", 1.5)
        'Inter-Prototype with\na long name'
    """
    characters = max(8, int(72 * inches / (_CHARACTER_WIDTH * points)))
    return textwrap.fill(text, characters, break_on_hyphens=False)


def legend_above(figure: Figure, handles: Sequence[Any], **options: Any) -> Legend | None:
    """Put a legend above all panels, in as many columns as are not wider than the figure.

    Args:
        figure: The figure.
        handles: What it explains; long labels are broken into lines.
        options: Passed on to matplotlib.

    Returns:
        The legend; None where there is nothing to explain.
    """
    if not handles:
        return None
    for handle in handles:
        handle.set_label(wrapped(str(handle.get_label()), figure.get_figwidth() - 1.0, points=8.0))
    for n_columns in range(len(handles) if len(handles) <= _MOST_IN_A_LINE else 4, 0, -1):
        legend = figure.legend(handles=list(handles), loc="outside upper center", ncols=n_columns, **options)
        width = legend.get_window_extent().width
        if n_columns == 1 or width <= figure.bbox.width:
            break
        legend.remove()
    return legend


def method_handles(styles: Mapping[str, MethodStyle], *, line: bool = False, marker: bool = True) -> list[Line2D]:
    """Make the entries of methods in a legend.

    Args:
        styles: Method -> style.
        line: Show the line style.
        marker: Show the marker.

    Returns:
        One entry a method.
    """
    return [
        Line2D([], [], color=s.colour, linestyle=s.line if line else "", marker=s.marker if marker else "",
               markersize=5, label=name)
        for name, s in styles.items()
    ]  # fmt: skip


def seed_handles(n_seeds: int, drawn: bool) -> list[Line2D]:
    """Make the entry of a legend that says what became of several seeds.

    Args:
        n_seeds: Most seeds of a method.
        drawn: Whether each is drawn as a thin line; otherwise there are only means.

    Returns:
        One entry; none for a single seed.
    """
    if n_seeds == 1:
        return []
    if drawn:
        return [Line2D([], [], color="#9A9A9A", linewidth=0.6, label=f"single seeds (up to {n_seeds})")]
    return [Line2D([], [], color="#9A9A9A", linewidth=1.7, label=f"means over up to {n_seeds} seeds")]


def trim_height(figure: Figure) -> None:
    """Make a figure as high as what is drawn in it: panels of fixed aspect leave a margin above and below.

    Args:
        figure: The figure, finished.
    """
    figure.draw_without_rendering()
    used = figure.get_tightbbox().height + 2 * _MARGIN_INCHES
    if used < figure.get_figheight():
        figure.set_figheight(used)


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodRows:
    """A figure of rows, one a method, in groups.

    Attributes:
        figure: The figure.
        panels: One panel of all groups, or a panel a group.
        places: (group, method) -> the panel and the place on its vertical axis.
        named: Whether the name of the method stands before each row; otherwise a legend has to tell the methods.
    """

    figure: LabelledFigure
    panels: list[Axes]
    places: dict[tuple[str, str], tuple[Axes, float]]
    named: bool

    def finish(self, label: str, styles: Mapping[str, MethodStyle], handles: Sequence[Any]) -> None:
        """Name the horizontal axis and put the legend above.

        Args:
            label: Name and unit of the horizontal axis.
            styles: Method -> style; in the legend where the rows do not carry their names.
            handles: Further entries of the legend.
        """
        if len(self.panels) == 1:
            self.panels[0].set_xlabel(label)
        else:
            self.figure.supxlabel(label, fontsize=8.5)
        legend_above(self.figure, [*([] if self.named else method_handles(styles)), *handles])


def method_rows(
    groups: Mapping[str, Sequence[str]], labels: Mapping[str, str], description: str, *, row_inches: float = 0.2
) -> MethodRows:
    """Make a figure with a row for each method in groups, such as test sets.

    With few methods all groups stand one below the other and a legend tells the methods. With more than
    `METHODS_IN_A_LEGEND` each group has its own panel, with the names of the methods before the rows.

    Args:
        groups: Group -> its methods, in the order of the rows.
        labels: Group -> what it is called, of one line or two.
        description: What the figure shows, for those who cannot see it.
        row_inches: Height of a row.

    Returns:
        The figure and its places; all panels have one range.
    """
    methods = list(dict.fromkeys(method for of in groups.values() for method in of))
    if len(methods) > METHODS_IN_A_LEGEND:
        return _panel_a_group(groups, labels, methods, description, row_inches)
    places, centres, row = {}, [], 0.0
    for group, of in groups.items():
        centres.append(row + (len(of) - 1) / 2)
        for method in of:
            places[group, method] = row
            row += 1
        row += 0.8
    figure = new_figure(PAGE_WIDTH_INCHES, 0.95 + row_inches * row, description=description)
    axes = figure.subplots()
    axes.set_yticks(centres, [_lines(labels[group], _LABEL_INCHES) for group in groups])
    axes.set_ylim(row - 0.9, -0.9)
    _open(axes)
    return MethodRows(
        figure=figure, panels=[axes], places={at: (axes, place) for at, place in places.items()}, named=False
    )


def _panel_a_group(
    groups: Mapping[str, Sequence[str]],
    labels: Mapping[str, str],
    methods: list[str],
    description: str,
    row_inches: float,
) -> MethodRows:
    names = [textwrap.fill(name, _NAME_CHARACTERS, break_on_hyphens=False) for name in methods]
    longest = max(len(line) for name in names for line in name.split("\n"))
    n_columns = min(len(groups), 2 if longest > 17 else 3)
    n_rows = -(-len(groups) // n_columns)
    row_inches *= 0.85
    heights = [max(row_inches, 0.04 + 0.13 * (name.count("\n") + 1)) / row_inches for name in names]
    at = [sum(heights[:i]) + height / 2 - 0.5 for i, height in enumerate(heights)]
    panel_inches = (PAGE_WIDTH_INCHES - longest * _NAME_POINTS * _CHARACTER_WIDTH / 72) / n_columns - 0.15
    headings = {group: _lines(labels[group], panel_inches) for group in groups}
    titles = 1 + max(heading.count("\n") for heading in headings.values())
    height = 0.75 + n_rows * (row_inches * (sum(heights) + 0.6) + 0.2 + 0.16 * titles)
    figure = new_figure(PAGE_WIDTH_INCHES, height, description=description)
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    places, panels = {}, list(grid.flat[: len(groups)])
    for axes, (group, of) in zip(panels, groups.items(), strict=True):
        axes.set_title(headings[group], loc="left", linespacing=1.25, fontsize=8.5)
        _open(axes)
        axes.yaxis.grid(visible=True, linestyle=(0, (1, 3)))
        for method in of:
            places[group, method] = (axes, at[methods.index(method)])
    panels[0].set_yticks(at, names, fontsize=_NAME_POINTS)
    panels[0].set_ylim(sum(heights) - 0.4, -0.6)
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    for axes in panels[-n_columns:]:
        axes.tick_params(axis="x", labelbottom=True)
    return MethodRows(figure=figure, panels=panels, places=places, named=True)


def _lines(label: str, inches: float) -> str:
    return "\n".join(wrapped(line, inches, points=8.5) for line in label.split("\n"))


def _open(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.grid(visible=True)
