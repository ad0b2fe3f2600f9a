"""What a figure looks like: nothing overlaps or is cut off, letters can be read, many methods stay readable."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from interproto_lib.analysis.statistics import PAIRED_COLUMNS
from interproto_lib.views import accuracy_figure, difference_figure, optimism_figure, paired_difference_figure
from interproto_lib.views.layout import METHODS_IN_A_LEGEND, legend_above, trim_height, wrapped
from interproto_lib.views.style import PAGE_WIDTH_INCHES, figure_style, method_styles, new_figure

SMALLEST_POINTS = 6.0
LONG_NAME = "Inter-Prototype of the authors, with a weight of 0.5 and the sum of Eq. 5"
TWELVE = ["method 0", LONG_NAME, *(f"method {i}" for i in range(1, 11))]


def texts(figure):
    """All texts that are drawn, with their boxes in pixels."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        if not (axes.get_visible() and axes.axison):
            hidden |= {id(text) for text in axes.findobj(Text) if text not in axes.texts}
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {id(tick.label1), id(tick.label2)}
    found = [t for t in figure.findobj(Text) if id(t) not in hidden and t.get_visible() and t.get_text().strip()]
    return [(text, text.get_window_extent()) for text in found]


def assert_well_laid_out(figure, *, overlap_pixels=1.5):
    """No text is cut off, too small, or over another one; the background is opaque white."""
    found = texts(figure)
    width, height = figure.bbox.size
    for text, box in found:
        assert text.get_fontsize() >= SMALLEST_POINTS, text
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text.get_text()!r} is cut off: {box} in {width} x {height}"
    for i, (one, a) in enumerate(found):
        for other, b in found[i + 1 :]:
            across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            both = min(across, down) > overlap_pixels
            assert not both, f"{one.get_text()!r} lies over {other.get_text()!r}"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    buffer.seek(0)
    assert np.all(imread(buffer)[[0, -1]][:, [0, -1]] == 1)


def cells(methods, test_sets=("C20", "C30", "adult-adult", "child-child", "a list of pairs of my own, long of name")):
    return pd.DataFrame(
        [
            {"method": method, "test_set": test_set, "mean": 80.0 + i, "low": 78.0 + i, "high": 83.0 + i, "std": 0.5,
             "bold": False, "n_pairs": 6000, "n_identities": 120, "n_seeds": 3}
            for test_set in test_sets
            for i, method in enumerate(methods)
        ]
    )  # fmt: skip


def differences(methods):
    table = cells(methods)
    return table.assign(difference=table["mean"] - 85, low=table["low"] - 85, high=table["high"] - 85)


def paired(methods, seeds=(0, 1, 2)):
    rows = [
        (measure, method, seed, 0.01 * i + 0.001 * seed)
        for measure in ("child–child, train", "child–child, prototypes (rms)", "adult–adult, held-out")
        for i, method in enumerate(methods)
        for seed in seeds
    ]
    table = pd.DataFrame(rows, columns=["measure", "method", "seed", "difference"])
    return table.assign(baseline=0.0, treated=table["difference"])[list(PAIRED_COLUMNS)]


def optimism(methods):
    both = [
        cells(methods).assign(procedure=name, mean=lambda t, d=d: t["mean"] + d) for name, d in (("a", 0), ("b", 1))
    ]
    return pd.concat(both)


FIGURES = {
    "accuracies": lambda methods: accuracy_figure(cells(methods)),
    "differences": lambda methods: difference_figure(differences(methods), baseline="ArcFace"),
    "optimism": lambda methods: optimism_figure(optimism(methods), leak_free="a", official="b"),
    "paired": lambda methods: paired_difference_figure(paired(methods), baseline="ArcFace", unit="cosine"),
}


@pytest.mark.parametrize("methods", [TWELVE[1:2], TWELVE[1:4], TWELVE], ids=["one", "three", "twelve"])
@pytest.mark.parametrize("name", FIGURES)
def test_rows_of_methods_are_laid_out_well(name, methods):
    figure = FIGURES[name](methods)
    assert_well_laid_out(figure)
    assert figure.get_figwidth() == PAGE_WIDTH_INCHES


@pytest.mark.parametrize("name", FIGURES)
def test_many_methods_stand_before_their_rows_and_fit_a_page(name):
    figure = FIGURES[name](TWELVE)
    named = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert named == TWELVE
    assert figure.get_figheight() < 12
    legend = [text.get_text() for of in figure.legends for text in of.get_texts()]
    assert not set(TWELVE) & set(legend)
    few = FIGURES[name](TWELVE[:METHODS_IN_A_LEGEND])
    assert {"method 0", "method 1"} <= {text.get_text() for of in few.legends for text in of.get_texts()}
    assert len({axes.get_xlim() for axes in figure.axes if axes.axison}) == 1


def test_each_row_holds_its_own_method():
    figure = difference_figure(differences(TWELVE), baseline="ArcFace")
    for axes in figure.axes[:5]:
        dots = [line for line in axes.lines if len(line.get_xdata()) == 1]
        means = [line.get_xdata()[0] for line in sorted(dots, key=lambda line: line.get_ydata()[0])]
        assert means == pytest.approx([row - 5 for row in range(len(TWELVE))])


def test_seeds_do_not_hide_mean_and_interval():
    figure = paired_difference_figure(paired(["b"]), baseline="a", unit="cosine")
    filled = [
        line for line in figure.axes[0].lines if line.get_marker() == "s" and line.get_markerfacecolor() != "white"
    ]
    hollow = [
        line for line in figure.axes[0].lines if line.get_marker() == "s" and line.get_markerfacecolor() == "white"
    ]
    assert {line.get_ydata()[0] for line in filled}.isdisjoint(line.get_ydata()[0] for line in hollow)
    one = paired_difference_figure(paired(["b"], seeds=(0,)), baseline="a", unit="cosine")
    assert [line.get_ydata()[0] for line in one.axes[0].lines if line.get_marker() == "s"] == pytest.approx(
        [0.0, 1.8, 3.6]
    )


def test_a_legend_takes_as_many_columns_as_fit():
    def columns(names):
        with figure_style():
            figure = new_figure(5.0, 2.0, description="")
            figure.subplots()
            from interproto_lib.views.layout import method_handles

            legend = legend_above(figure, method_handles(method_styles(names)))
        assert len(figure.legends) == 1
        assert legend.get_window_extent().width <= figure.bbox.width
        return legend._ncols

    assert columns(["a", "b", "c", "d", "e"]) == 4
    assert columns(["a", LONG_NAME[:30]]) == 2
    assert columns([LONG_NAME[:40], LONG_NAME[:41], LONG_NAME[:42]]) == 1
    assert columns([LONG_NAME * 3]) == 1


def test_wrapped_lines_are_not_wider_than_asked_and_lose_nothing():
    lines = wrapped(LONG_NAME + "x" * 60, 2.0).split("\n")
    assert "".join(lines).replace(" ", "") == (LONG_NAME + "x" * 60).replace(" ", "")
    assert max(map(len, lines)) <= 2.0 * 72 / (0.58 * 9)


def test_idle_margins_are_cut_and_panels_stay_as_large():
    with figure_style():
        figure = new_figure(4.0, 5.0, description="", layout="compressed")
        axes = figure.subplots(1, 2)
        for panel in axes:
            panel.imshow(np.eye(3))
        figure.draw_without_rendering()
        before = axes[0].get_window_extent().width
        trim_height(figure)
        figure.draw_without_rendering()
    assert figure.get_figheight() < 2.6
    assert axes[0].get_window_extent().width == pytest.approx(before, rel=0.03)
