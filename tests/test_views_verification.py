"""Figures and sentences of verification: ROC, DET, scores, accuracies, the official choice beside the leak-free one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_curve

from interproto_lib.errors import ConfigError, ManifestError
from interproto_lib.views.accuracies import (
    accuracy_figure,
    describe_accuracies,
    describe_optimism,
    optimism_figure,
)
from interproto_lib.views.paper_tables import MEASURED_COLUMNS
from interproto_lib.views.verification import (
    RESOLVED_FROM_ERRORS,
    JudgedScores,
    RocCurves,
    describe_roc,
    describe_scores,
    roc_figure,
    score_distribution_figure,
)

NAN = float("nan")


def scores(n_same=200, n_different=300, seed=0, gap=0.3):
    rng = np.random.default_rng(seed)
    cosine = np.concatenate([rng.normal(0.05 + gap, 0.12, n_same), rng.normal(0.05, 0.12, n_different)])
    return cosine, np.arange(n_same + n_different) < n_same


def curve(*args, **more):
    cosine, same = scores(*args, **more)
    return roc_curve(same, cosine, drop_intermediate=False)[:2]


def curves_of(methods, n_seeds=1, n_same=200, n_different=300):
    return RocCurves(
        curves={
            m: [curve(n_same, n_different, seed=10 * i + s) for s in range(n_seeds)] for i, m in enumerate(methods)
        },
        n_same=n_same,
        n_different=n_different,
    )


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def cells(*rows):
    defaults = {"std": 0.3, "n_seeds": 3, "low": NAN, "high": NAN, "n_pairs": 400, "n_identities": 60, "bold": False}
    table = [defaults | {"method": m, "test_set": t, "mean": mean, **dict(*more)} for m, t, mean, *more in rows]
    return pd.DataFrame(table)[list(MEASURED_COLUMNS)]


# --- ROC and DET ----------------------------------------------------------------------------------


def test_roc_shows_the_highest_true_match_rate_within_each_false_match_rate():
    cosine, same = scores()
    roc, det = roc_figure({"C20": curves_of(["ArcFace"])}).axes
    rates, shown = roc.lines[-1].get_data()
    for place in range(0, len(rates), 37):
        allowed = int(np.floor(rates[place] * 300 + 1e-6))
        strongest = np.sort(cosine[~same])[::-1]
        expected = np.mean(cosine[same] > (strongest[allowed] if allowed < 300 else -np.inf))
        assert shown[place] == pytest.approx(expected)
    assert rates[0] == pytest.approx(1 / 300)
    assert shown[-1] == 1
    # The DET curve holds the same pairs of rates, as normal deviates.
    x, y = det.lines[-1].get_data()
    for place in range(0, len(x), 37):
        false_match = norm.cdf(x[place])
        expected = 1 - shown[np.searchsorted(rates, false_match * (1 + 1e-9), side="right") - 1]
        if np.isfinite(y[place]):
            # The ROC is drawn at other rates: at most one step of a positive pair apart here.
            assert norm.cdf(y[place]) == pytest.approx(expected, abs=0.02)


def test_seeds_are_thin_and_the_mean_is_thick():
    of_set = curves_of(["ArcFace", "IP"], n_seeds=3)
    figure = roc_figure({"C20": of_set})
    roc = figure.axes[0]
    assert [line.get_linewidth() for line in roc.lines] == [0.5, 0.5, 0.5, 1.7] * 2
    for start in (0, 4):
        single = np.stack([line.get_ydata() for line in roc.lines[start : start + 3]])
        assert roc.lines[start + 3].get_ydata() == pytest.approx(single.mean(axis=0))
    assert len({line.get_color() for line in roc.lines}) == 2
    assert "single seeds (up to 3)" in legend_texts(figure)
    assert not any("single seeds" in text for text in legend_texts(roc_figure({"C20": curves_of(["ArcFace"])})))


def test_axes_end_at_one_error_and_the_ground_is_grey_below_ten():
    figure = roc_figure({"C20": curves_of(["ArcFace"]), "C30": curves_of(["ArcFace"], n_same=50, n_different=2000)})
    for row, (n_same, n_different) in enumerate([(200, 300), (50, 2000)]):
        roc, det = figure.axes[2 * row : 2 * row + 2]
        assert roc.get_xlim() == pytest.approx((1 / n_different, 1))
        box = roc.patches[0].get_extents().transformed(roc.transData.inverted())
        assert (box.x0, box.x1) == pytest.approx((1 / n_different, RESOLVED_FROM_ERRORS / n_different))
        assert det.get_xlim()[0] == pytest.approx(norm.ppf(1 / n_different))
        assert det.get_ylim()[0] == pytest.approx(norm.ppf(1 / n_same))
        edges = [patch.get_extents().transformed(det.transData.inverted()) for patch in det.patches]
        assert edges[0].x1 == pytest.approx(norm.ppf(10 / n_different))
        assert edges[1].y1 == pytest.approx(norm.ppf(10 / n_same))
        labels = {tick.get_position()[0]: tick.get_text() for tick in det.get_xticklabels()}
        assert labels[norm.ppf(0.05)] == "5%"
    assert figure.axes[0].get_title(loc="left") == "C20: ROC\n200 pairs of one person, 300 of two"


def test_perfect_and_reversed_scores_can_be_drawn():
    perfect = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    wrong = (np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0]))
    of_set = RocCurves(curves={"perfect": [perfect], "wrong": [wrong]}, n_same=20, n_different=20)
    figure = roc_figure({"x": of_set})
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(np.ones(400))
    assert figure._repr_mimebundle_()[0]["image/png"]


def test_where_there_is_nothing_to_draw_the_figure_says_so():
    nothing = RocCurves(curves={"ArcFace": []}, n_same=1, n_different=1)
    for figure in (roc_figure({}), roc_figure({"C20": nothing})):
        assert [text.get_text() for text in figure.texts] == ["There are no pairs, hence no curves."]
    for figure in (score_distribution_figure({}), score_distribution_figure({"C20": {}})):
        assert [text.get_text() for text in figure.texts] == ["There are no pairs, hence no scores."]


def test_curves_that_are_none_are_refused():
    falling = (np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    with pytest.raises(ConfigError, match="ArcFace on C20: rates must rise"):
        roc_figure({"C20": RocCurves(curves={"ArcFace": [falling]}, n_same=1, n_different=1)})


def test_sentence_tells_the_smallest_rate_that_is_resolved():
    steps = (np.array([0.0, 0.005, 0.01, 0.1, 1.0]), np.array([0.0, 0.2, 0.5, 0.7, 1.0]))
    higher = (np.array([0.0, 0.01, 1.0]), np.array([0.0, 0.6, 1.0]))

    def sentence(n_different):
        curves = {"ArcFace": [steps, higher], "IP": [steps]}
        return describe_roc({"C20": RocCurves(curves=curves, n_same=200, n_different=n_different)})

    at_hundredth = sentence(1000)
    assert "at a false match rate of 1 % (the smallest of 10 %, 1 % and 0.1 % that 1,000 pairs" in at_hundredth
    assert "match 55.0 % (ArcFace, 50.0 to 60.0 over 2 seeds) and 50.0 % (IP, one seed)." in at_hundredth
    assert "at a false match rate of 10 %" in sentence(999)
    assert "99 pairs of two people are too few for a false match rate of 10 % (it takes 100)." in sentence(99)


# --- scores ---------------------------------------------------------------------------------------


def judged(threshold=0.2, **more):
    cosine, same = scores(**more)
    return JudgedScores(cosine=cosine, same=same, threshold=threshold)


def test_histograms_of_both_kinds_have_area_one_and_share_their_bins():
    figure = score_distribution_figure(
        {"C20": {"ArcFace": judged(), "IP": judged(seed=1)}, "C30": {"ArcFace": judged()}}
    )
    grid = np.array(figure.axes).reshape(2, 2)
    for axes in (grid[0, 0], grid[1, 0], grid[0, 1]):
        for patch in axes.patches:
            heights, edges, _ = patch.get_data()
            assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)
        different, same = axes.patches
        assert different.get_fill()
        assert not same.get_fill()
        centres = (edges[1:] + edges[:-1]) / 2
        assert np.average(centres, weights=same.get_data()[0]) > np.average(centres, weights=different.get_data()[0])
        assert axes.lines[0].get_xdata() == [0.2, 0.2]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert [text.get_text() for text in grid[1, 1].texts] == ["not measured"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["ArcFace", "IP"]
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["C20", "C30"]


def test_without_a_threshold_no_line_is_drawn():
    figure = score_distribution_figure({"C20": {"ArcFace": judged(threshold=None)}})
    assert not figure.axes[0].lines
    assert "threshold" not in describe_scores({"C20": {"ArcFace": judged(threshold=None)}})


def test_sentence_on_scores_counts_both_errors():
    cosine = np.array([0.9, 0.5, 0.1, 0.0, 0.4, 0.5])
    same = np.array([True, True, True, False, False, False])
    text = describe_scores({"C20": {"ArcFace": JudgedScores(cosine=cosine, same=same, threshold=0.5)}})
    assert "mean cosine is 0.500 for pairs of one person and 0.300 for pairs of two" in text
    assert "33.3% of the pairs of one person are missed and 33.3% of those of two match" in text


# --- accuracies -----------------------------------------------------------------------------------


def test_accuracies_are_dots_with_their_intervals():
    table = cells(
        ("ArcFace", "C20", 80.0, {"low": 70.0, "high": 88.0}),
        ("IP", "C20", 82.0, {"low": 72.0, "high": 89.0}),
        ("IP", "C30", 81.0),
    )
    figure = accuracy_figure(table, confidence=0.9)
    (axes,) = figure.axes
    dots = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 1]
    assert dots == [(80.0,), (82.0,), (81.0,)]
    whiskers = {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2}
    assert whiskers == {(70.0, 88.0), (72.0, 89.0)}
    places = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert places == sorted(places)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["C20\n(400 pairs, 60 people)", "C30\n(400 pairs, 60 people)"]
    assert "90% interval over people and seeds" in legend_texts(figure)
    assert "mean over 3 seeds" in axes.get_xlabel()


def test_chance_is_drawn_only_in_range():
    def has_chance(low):
        figure = accuracy_figure(cells(("ArcFace", "C20", 80.0, {"low": low, "high": 90.0})))
        drawn = any(line.get_linestyle() == ":" and line.get_xdata()[0] == 50 for line in figure.axes[0].lines)
        assert drawn == ("chance" in legend_texts(figure))
        return drawn

    assert has_chance(45.0)
    assert not has_chance(70.0)


def test_nothing_measured_is_said():
    empty = pd.DataFrame()
    unjudged = cells(("ArcFace", "C20", NAN))
    for table in (empty, unjudged):
        assert accuracy_figure(table).texts[0].get_text() == "No accuracy is measured."
        assert describe_accuracies(table) == "No accuracy is measured."
    one = accuracy_figure(cells(("ArcFace", "C20", 80.0, {"n_seeds": 1, "n_pairs": pd.NA, "n_identities": pd.NA})))
    assert one.axes[0].get_xlabel().endswith("one seed")
    assert [label.get_text() for label in one.axes[0].get_yticklabels()] == ["C20"]


def test_sentence_orders_methods_and_says_what_stands_out():
    table = cells(
        ("ArcFace", "C20", 80.0, {"low": 70.0, "high": 88.0}),
        ("IP", "C20", 82.0, {"low": 72.0, "high": 89.0, "bold": True}),
        ("ArcFace", "C30", 79.0),
        ("IP", "C30", 79.0),
        ("ArcFace", "adult-adult", 90.0),
    )
    text = describe_accuracies(table)
    assert "- C20 (400 pairs, 60 people): IP 82.00 [72.0, 89.0], ArcFace 80.00 [70.0, 88.0]; IP stands out" in text
    assert "- C30 (400 pairs, 60 people): ArcFace 79.00, IP 79.00; none stands out" in text
    assert "- adult–adult (400 pairs, 60 people): ArcFace 90.00.\n" in f"{text}\n"
    assert "interval of their paired difference" in text
    assert "interval" not in describe_accuracies(cells(("ArcFace", "C30", 79.0)))


def test_wrong_tables_of_accuracies_are_refused():
    table = cells(("ArcFace", "C20", 80.0))
    with pytest.raises(ManifestError, match="no column bold"):
        accuracy_figure(table.drop(columns="bold"))
    with pytest.raises(ManifestError, match="holds ArcFace, C20 twice"):
        describe_accuracies(pd.concat([table, table]))


# --- the official choice --------------------------------------------------------------------------

NAMES = {"leak_free": "validation", "official": "official"}


def procedures(*rows):
    return pd.DataFrame(
        [
            {"method": method, "test_set": test_set, "procedure": procedure, "mean": mean}
            for method, test_set, *means in rows
            for procedure, mean in zip(("validation", "official"), means, strict=True)
        ]
    )


def test_optimism_is_drawn_from_the_leak_free_to_the_official_number():
    figure = optimism_figure(procedures(("ArcFace", "C20", 80.0, 81.5), ("IP", "C20", 82.0, 81.75)), **NAMES)
    (axes,) = figure.axes
    lines = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert lines == [(80.0, 81.5), (82.0, 81.75)]
    hollow = [line.get_xdata()[0] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [80.0, 82.0]
    assert [text.get_text() for text in axes.texts] == ["+1.50", "−0.25"]
    assert [text.xy[0] for text in axes.texts] == [81.5, 82.0]
    assert {"validation", "official"} <= set(legend_texts(figure))


def test_sentence_on_optimism_follows_the_numbers():
    text = describe_optimism(procedures(("ArcFace", "C20", 80.0, 83.0), ("IP", "C20", 82.0, 82.0)), **NAMES)
    assert "- C20: ArcFace +3.00, IP 0.00" in text
    assert "The mean is +1.50." in text
    assert text.endswith("is another by the two procedures on C20.")
    same_order = describe_optimism(procedures(("ArcFace", "C20", 80.0, 81.0), ("IP", "C20", 82.0, 82.5)), **NAMES)
    assert "another" not in same_order
    tie = describe_optimism(procedures(("ArcFace", "C20", 80.0, 80.0), ("IP", "C20", 80.0, 79.0)), **NAMES)
    assert "another" not in tie
    single = describe_optimism(procedures(("ArcFace", "C20", 80.0, 79.0)), **NAMES)
    assert "ArcFace −1.00" in single
    assert "mean" not in single


def test_only_what_both_procedures_judged_is_compared():
    table = procedures(("ArcFace", "C20", 80.0, 81.0), ("ArcFace", "C30", NAN, 81.0))
    assert "C30" not in describe_optimism(table, **NAMES)
    alone = table[table["procedure"] == "official"]
    assert "Nothing is judged by both procedures (validation and official)" in describe_optimism(alone, **NAMES)
    assert optimism_figure(alone, **NAMES).texts
    assert optimism_figure(pd.DataFrame(), **NAMES).texts
    with pytest.raises(ConfigError, match="name two procedures"):
        describe_optimism(table, leak_free="official", official="official")
    with pytest.raises(ManifestError, match="holds ArcFace, C20, validation twice"):
        optimism_figure(pd.concat([table, table]), **NAMES)
