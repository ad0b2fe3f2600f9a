"""What a figure looks like: nothing overlaps or is cut off, letters can be read, many methods stay readable."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.text import Text

from interproto_lib.analysis.cohort_errors import CohortErrors
from interproto_lib.analysis.similarity import SimilarityMatrix
from interproto_lib.analysis.statistics import PAIRED_COLUMNS
from interproto_lib.data import AGE_GROUPS
from interproto_lib.views import (
    accuracy_figure,
    cmc_figure,
    cohort_error_figure,
    describe_differences,
    describe_paired_differences,
    difference_figure,
    optimism_figure,
    paired_difference_figure,
    prototype_vs_feature_figure,
    similarity_distribution_figure,
    similarity_figure,
    similarity_summary_figure,
)
from interproto_lib.views.layout import METHODS_IN_A_LEGEND, legend_above, trim_height, wrapped
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    figure_style,
    method_styles,
    new_figure,
)
from interproto_lib.views.verification import JudgedScores, RocCurves, roc_figure, score_distribution_figure

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
            slanted = one.get_rotation() % 90 and other.get_rotation() % 90  # their boxes overlap, they do not
            both = min(across, down) > overlap_pixels and not slanted
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

    assert columns(["a", "b", "c", "d", "e", "f"]) == 4
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


def test_many_methods_are_told_in_a_line_a_test_set():
    table = differences(TWELVE).assign(p_value=0.5, seed_low=np.nan, seed_high=np.nan)
    head, _, *lines = describe_differences(table, baseline="ArcFace").split("\n")
    assert len(lines) == 5
    assert "Of 60 comparisons 3.0 would exclude zero" in head
    # Means from −5 to +6, intervals from 2 below to 3 above.
    assert lines[2].startswith("- **adult–adult** – higher: method 10 +6.00 [+4.00, +9.00], ")
    assert "; lower: method 0 −5.00 [−7.00, −2.00], " in lines[2]
    assert lines[2].endswith("method 4 0.00 [−2.00, +3.00].")
    few = describe_differences(table[table["method"].isin(TWELVE[:4])], baseline="ArcFace").split("\n")
    assert len(few) == 2 + 4 * 5
    assert "permutation test" in few[0]


def test_many_paired_differences_are_told_in_a_line_a_measure():
    text = describe_paired_differences(paired(TWELVE), baseline="ArcFace", unit="cosine", decimals=3)
    lines = text.split("\n")[2:]
    assert [line.split(" – ")[0] for line in lines] == [
        "- **child–child, train**", "- **child–child, prototypes (rms)**", "- **adult–adult, held-out**",
    ]  # fmt: skip
    assert lines[0].endswith("; not told from chance: method 0 +0.001 [−0.001, +0.003].")
    one = describe_paired_differences(paired(TWELVE, seeds=(0,)), baseline="ArcFace", unit="cosine")
    assert one.count("\n- ") == 36


def roc(methods, n_seeds=2):
    rates = np.linspace(0, 1, 50)
    curves = {m: [(rates, rates ** (1 / (2 + i + seed))) for seed in range(n_seeds)] for i, m in enumerate(methods)}
    return {name: RocCurves(curves=curves, n_same=300, n_different=300) for name in ("C20", "adult-adult")}


def scores(methods):
    generator = np.random.default_rng(0)
    judged = JudgedScores(cosine=generator.normal(0.2, 0.2, 200), same=np.arange(200) < 100, threshold=0.2)
    return {name: dict.fromkeys(methods, judged) for name in ("C20", "C30", "adult-adult", "child-child", "any")}


def similarities(methods):
    generator = np.random.default_rng(0)
    return {cohort: {m: generator.normal(0.1, 0.1, 300) for m in methods} for cohort in ("child-child", "adult-adult")}


def summary(methods):
    rows = [
        {"method": m, "seed": seed, "what": what, "mean": 0.1, "rms": 0.2, "p95": 0.3, "share_above": 0.12}
        for m in methods
        for seed in (0, 1)
        for what in ("features", "prototypes")
    ]
    return pd.DataFrame(rows)


def clouds(methods):
    values = {m: np.random.default_rng(0).normal(0.1, 0.1, 100) for m in methods}
    return prototype_vs_feature_figure(values, values, pairs="pairs")


def maps(methods):
    generator = np.random.default_rng(0)
    values = generator.uniform(-1, 1, (40, 40))
    values[3], values[:, 3] = np.nan, np.nan
    ones = np.ones(40)
    matrix = SimilarityMatrix(
        cohort="all", values=values, intra=ones, row_identities=ones, column_identities=ones, n_row_images=ones,
        n_column_images=ones,
    )  # fmt: skip
    return similarity_figure([matrix] * len(methods), methods, n_columns=3, n_child_first=12)


def errors(methods):
    generator = np.random.default_rng(0)
    n_pairs = np.full((8, 8), 1000)
    n_pairs[2, 3] = n_pairs[3, 2] = 0
    wrong = np.triu(generator.integers(0, 400, (8, 8)))
    of = CohortErrors(
        groups=AGE_GROUPS, threshold=0.3, n_impostor=n_pairs, n_false_matches=(wrong + wrong.T) * (n_pairs > 0) // 2,
        n_genuine=n_pairs, n_false_non_matches=0 * n_pairs, n_images=100, n_unlabelled=0,
    )  # fmt: skip
    return cohort_error_figure(dict.fromkeys(methods, of))


OTHER_FIGURES = {
    "roc": lambda methods: roc_figure(roc(methods)),
    "scores": lambda methods: score_distribution_figure(scores(methods)),
    "cmc": lambda methods: cmc_figure(
        {m: [np.linspace(0.1, 1, 60)] * 2 for m in methods}, title="C20: 120 probes, 120 people", n_gallery=120
    ),
    "distributions": lambda methods: similarity_distribution_figure(similarities(methods)),
    "summary": lambda methods: similarity_summary_figure(summary(methods), pairs="child–child"),
    "clouds": clouds,
    "maps": maps,
    "errors": errors,
}


@pytest.mark.parametrize("methods", [TWELVE[1:2], TWELVE[:3], TWELVE], ids=["one", "three", "twelve"])
@pytest.mark.parametrize("name", OTHER_FIGURES)
def test_other_figures_of_methods_are_laid_out_well(name, methods):
    figure = OTHER_FIGURES[name](methods)
    assert_well_laid_out(figure)
    assert figure.get_figwidth() <= PAGE_WIDTH_INCHES + 0.2


def test_strips_tell_child_identities_from_others():
    axes = maps(["a"]).axes[0]
    found = {to_hex(patch.get_facecolor()).upper(): patch for patch in axes.patches if patch.get_width() > 1}
    assert (found[CHILD_COLOUR].get_x(), found[CHILD_COLOUR].get_width()) == (0, 12)
    assert (found[ADULT_COLOUR].get_x(), found[ADULT_COLOUR].get_width()) == (12, 28)


def test_of_many_methods_only_means_are_drawn_and_that_is_said():
    for draw in (OTHER_FIGURES["roc"], OTHER_FIGURES["cmc"]):
        few, many = draw(TWELVE[:3]), draw(TWELVE)
        assert sum(line.get_linewidth() < 0.6 for line in few.axes[0].lines) == 6
        assert not any(line.get_linewidth() < 0.6 for line in many.axes[0].lines)
        labels = [text.get_text() for legend in many.legends for text in legend.get_texts()]
        assert "means over up to 2 seeds" in labels


def test_means_above_the_densities_do_not_hide_each_other():
    axes = similarity_distribution_figure(similarities(TWELVE[:3])).axes[0]
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    highest = max(max(patch.get_data()[0]) for patch in axes.patches)
    heights = [line.get_ydata()[0] for line in marks]
    assert len(set(heights)) == 3
    assert highest < min(heights)
    assert max(heights) < axes.get_ylim()[1]
