"""Maps of error rates by age, and the sentences computed from them."""

from __future__ import annotations

import dataclasses
import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from interproto_lib.analysis.cohort_errors import ChildFactor, CohortErrors
from interproto_lib.data import AGE_GROUPS
from interproto_lib.errors import ConfigError
from interproto_lib.views import cohort_error_figure, describe_child_factors, describe_cohort_errors


def make_errors(cells, *, threshold=0.3, n_unlabelled=0):
    """Impostor counts and false matches of some cells (a, b) -> (pairs, matches); genuine pairs all match."""
    n_pairs, matches = np.zeros((8, 8), dtype=np.int64), np.zeros((8, 8), dtype=np.int64)
    for (a, b), (n, wrong) in cells.items():
        n_pairs[a, b] = n_pairs[b, a] = n
        matches[a, b] = matches[b, a] = wrong
    return CohortErrors(
        groups=AGE_GROUPS,
        threshold=threshold,
        n_impostor=n_pairs,
        n_false_matches=matches,
        n_genuine=np.eye(8, dtype=np.int64),
        n_false_non_matches=np.zeros((8, 8), dtype=np.int64),
        n_images=100,
        n_unlabelled=n_unlabelled,
    )


ONE = {(0, 0): (1000, 12), (0, 4): (5000, 0), (4, 4): (20_000, 5)}
TWO = {(0, 0): (1000, 1), (0, 4): (5000, 1), (4, 4): (20_000, 20)}


def texts(axes):
    return {tuple(round(x) for x in text.get_position()): text for text in axes.texts}


def test_map_shows_every_rate_in_one_range():
    figure = cohort_error_figure({"ArcFace": make_errors(ONE), "CosFace": make_errors(TWO)})
    one, two, bar = figure.axes
    assert [label.get_text() for label in one.get_xticklabels()] == ["0–12", "36–45"]
    assert {at: text.get_text() for at, text in texts(one).items()} == {
        (0, 0): "1.2", (1, 1): "0.025", (0, 1): "0", (1, 0): "0",
    }  # fmt: skip
    assert texts(two)[1, 0].get_text() == texts(two)[0, 1].get_text() == "0.020"
    # Rates from 0.02% to 1.2%: from 0.02% to 2%, the same for both.
    for axes in (one, two):
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == pytest.approx((2e-4, 0.02))
    ticks = [tick.get_text() for tick in bar.get_yticklabels()]
    assert ticks == ["0.02%", "0.05%", "0.1%", "0.2%", "0.5%", "1%", "2%"]
    assert one.get_title() == "(a) ArcFace\nover all ages 0.065%, threshold 0.300"
    assert figure.description == (
        "False match rate by the ages of both images, colours logarithmic from 0.02% to 2%; over all ages: "
        "ArcFace 0.065%, CosFace 0.085%."
    )


@pytest.mark.parametrize(
    ("rates", "ticks"),
    [
        ((0.065, 0.99), ["5%", "10%", "20%", "50%", "100%"]),
        ((7e-6, 0.0068), ["0.001%", "0.01%", "0.1%", "1%"]),
        ((4e-9, 0.5), ["1e−6%", "0.00001%", "0.0001%", "0.001%", "0.01%", "0.1%", "1%", "10%"]),
        ((0.3, 0.3), ["5%", "10%", "20%", "50%"]),
    ],
)
def test_colours_end_close_to_the_rates(rates, ticks):
    cells = {(0, 0): (10**9, round(1e9 * rates[0])), (4, 4): (10**9, round(1e9 * rates[1]))}
    figure = cohort_error_figure({"ArcFace": make_errors(cells)})
    norm = figure.axes[0].images[0].norm
    assert norm.vmin <= rates[0] * (1 + 1e-6) < 10.1 * norm.vmin
    assert norm.vmax / 2.51 <= rates[1] <= norm.vmax * (1 + 1e-6)
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ticks


def test_axes_are_named_once_and_groups_where_they_are_looked_for():
    for n, low in ((3, [False, True, True]), (6, [True] * 6)):
        maps = cohort_error_figure({str(i): make_errors(ONE) for i in range(n)}).axes[:n]
        assert [bool(axes.get_ylabel()) for axes in maps] == [i % 2 == 0 for i in range(n)]
        assert [bool(axes.get_xlabel()) for axes in maps] == [i + 2 >= n for i in range(n)]
        assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in maps] == low


def test_no_error_and_no_pair_look_different():
    figure = cohort_error_figure({"ArcFace": make_errors({(0, 0): (10, 1), (0, 4): (5, 0)})})
    axes = figure.axes[0]
    assert set(texts(axes)) == {(0, 0), (0, 1), (1, 0)}  # adults were never compared with adults
    (hatched,) = axes.patches
    assert (hatched.get_xy(), hatched.get_hatch()) == ((0.5, 0.5), "////")
    np.testing.assert_array_equal(axes.images[0].get_array().mask, [[False, True], [True, True]])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["0: no false match", "no pair of two people"]


def test_text_can_be_read_on_every_cell():
    cells = {(a, b): (10**6, round(10 ** (6 * (a + b) / 14))) for a in range(8) for b in range(a, 8)}
    axes = cohort_error_figure({"ArcFace": make_errors(cells)}).axes[0]
    image = axes.images[0]

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05

    for (column, row), text in texts(axes).items():
        pair = sorted([luminance(image.cmap(image.norm(image.get_array()[row, column]))), luminance(text.get_color())])
        assert pair[1] / pair[0] >= 4
    lowest = luminance(image.cmap(image.norm(1e-6)))
    assert 1.05 / lowest > 1.3  # the palest colour is told from white, which means 0


def test_nothing_wrong_anywhere_has_no_colours():
    figure = cohort_error_figure({"ArcFace": make_errors(ONE)}, rate="fnmr")
    assert len(figure.axes) == 1
    assert {text.get_text() for text in figure.axes[0].texts} == {"0"}
    assert figure.description == "False non-match rate by the ages of both images; over all ages: ArcFace 0%."


def test_everything_wrong_stays_within_a_range():
    figure = cohort_error_figure({"ArcFace": make_errors({(0, 0): (7, 7)})})
    image = figure.axes[0].images[0]
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0.1, 1.0))
    assert figure.axes[0].texts[0].get_text() == "100"


def test_no_pairs_at_all_are_drawn_and_said():
    nothing = make_errors({})
    assert len(cohort_error_figure({"ArcFace": nothing}).axes[0].patches) == 64
    assert "there is no pair of two people." in describe_cohort_errors({"ArcFace": nothing})


def test_figure_leaves_settings_alone_and_draws(tmp_path):
    before = dict(mpl.rcParams)
    figure = cohort_error_figure({f"method {i}": make_errors(ONE) for i in range(3)})
    assert dict(mpl.rcParams) == before
    figure.savefig(tmp_path / "figure.png")
    assert len([axes for axes in figure.axes if axes.images]) == 3


def test_sentences_on_rates_follow_the_numbers():
    text = describe_cohort_errors({"ArcFace": make_errors(ONE, n_unlabelled=7), "CosFace": make_errors(TWO)})
    assert text == (
        "Share of pairs of two people that match, by the age groups of both images:\n\n"
        "- ArcFace (threshold 0.300): 0.065% of 26,000 pairs; highest in 0–12 with 0–12 (1.2% of 1,000 pairs), none in "
        "1 of 3 cells (5,000 pairs).\n"
        "- CosFace (threshold 0.300): 0.085% of 26,000 pairs; highest in 0–12 with 0–12 and 1 more (0.10% of 21,000 "
        "pairs), lowest in 0–12 with 36–45 (0.020% of 5,000 pairs).\n\n"
        "Left out because they have no age: 7 images."
    )


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ({(0, 0): (1000, 0), (4, 4): (500, 0)}, "no false match in 1,500 pairs."),
        ({(0, 0): (1, 0)}, "no false match in 1 pair."),
        ({(0, 0): (10, 1), (4, 7): (20, 2)}, "10% of 30 pairs, the same share in every two groups."),
        ({(4, 7): (20, 2)}, "10% of 20 pairs, all of the groups 36–45 with ≥ 66."),
        ({(0, 0): (10**7, 1), (7, 7): (10**7, 2)}, "lowest in 0–12 with 0–12 (1e−5% of 10,000,000 pairs)."),
    ],
)
def test_sentence_on_special_rates(cells, sentence):
    assert describe_cohort_errors({"A": make_errors(cells)}).endswith(sentence)


FACTOR = ChildFactor(
    child_fmr=0.012, adult_fmr=0.0012, factor=10.0, low=6.12, high=15.4, n_child_pairs=4950, n_adult_pairs=1_234_567,
    n_child_identities=100, n_adult_identities=400, confidence=0.95, note="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "- A: 10 times as often as two adults (1.2% of 4,950 pairs of 100 people as children and 0.12% of "
            "1,234,567 pairs of 400 as adults); 95% interval 6.1 to 15.",
        ),
        ({"factor": 0.4, "low": 0.2, "high": 0.8}, "; 95% interval 0.20 to 0.80."),
        ({"factor": 0.4, "low": 0.2, "high": 1.3}, "; 95% interval 0.20 to 1.3, not told from equally often."),
        ({"factor": 1.0, "low": 1.0, "high": 1.0}, "; 95% interval 1.0 to 1.0, not told from equally often."),
        ({"factor": 3160.0, "low": 120.0, "high": math.inf}, "; 95% interval 120 to infinity."),
        (
            {"factor": 2.0, "low": 0.0, "high": 9.0, "note": "5 of 200 replicates have no factor and are left out"},
            "95% interval 0 to 9.0, not told from equally often; 5 of 200 replicates have no factor and are left out.",
        ),
        ({"low": None, "high": None, "note": "no interval: because"}, "as adults); no interval: because."),
    ],
)
def test_sentence_on_factors(changes, sentence):
    assert describe_child_factors({"A": dataclasses.replace(FACTOR, **changes)}).endswith(sentence)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(10.0, "10 times as often as"), (0.4, "0.40 times as often as"), (1.0, "A: as often as"), (1.02, "A: as often as"),
     (0.996, "A: as often as"), (3160.0, "3,160 times as often as"), (9.96, "10 times as often as")],
)  # fmt: skip
def test_words_for_factors(factor, words):
    text = describe_child_factors({"A": dataclasses.replace(FACTOR, factor=factor)})
    assert f"{words} two adults" in text


def test_undefined_factor_says_why():
    none = {"factor": None, "low": None, "high": None}
    zero = dataclasses.replace(FACTOR, **none, adult_fmr=0.0, note="no factor: no false match in 9 pairs of adults")
    assert describe_child_factors({"A": zero}).endswith(
        "- A: no factor: no false match in 9 pairs of adults (1.2% of 4,950 pairs of 100 people as children and 0% of "
        "1,234,567 pairs of 400 as adults)."
    )
    missing = dataclasses.replace(FACTOR, **none, child_fmr=None, adult_fmr=None, note="no factor: there are no two")
    assert describe_child_factors({"A": missing}).endswith("- A: no factor: there are no two.")


def test_errors():
    errors = make_errors(ONE)
    with pytest.raises(ConfigError, match="unknown rate 'far'"):
        cohort_error_figure({"A": errors}, rate="far")
    for empty in (cohort_error_figure, describe_cohort_errors, describe_child_factors):
        with pytest.raises(ConfigError, match="no method"):
            empty({})
    other = dataclasses.replace(errors, groups=tuple("abcdefgh"))
    with pytest.raises(ConfigError, match="B has the age groups"):
        cohort_error_figure({"A": errors, "B": other})
