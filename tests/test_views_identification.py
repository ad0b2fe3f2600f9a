"""Figures and sentences of identification."""

from __future__ import annotations

import numpy as np
import pytest

from interproto_lib.errors import ConfigError
from interproto_lib.views.identification import cmc_figure, describe_identification


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


FIRST = np.array([0.2, 0.4, 0.5, 0.6, 0.6, 0.7])
SECOND = np.array([0.4, 0.4, 0.7, 0.8, 1.0, 1.0])


def test_seeds_are_thin_and_their_mean_is_thick():
    figure = cmc_figure({"ArcFace": [FIRST, SECOND], "IP": [SECOND]}, title="C20")
    (axes,) = figure.axes
    assert [line.get_linewidth() for line in axes.lines] == [0.5, 0.5, 1.7, 1.7]
    assert axes.lines[2].get_xdata() == pytest.approx([1, 2, 3, 4, 5, 6])
    assert axes.lines[2].get_ydata() == pytest.approx([0.3, 0.4, 0.6, 0.7, 0.8, 0.85])
    assert axes.lines[3].get_ydata() == pytest.approx(SECOND)
    assert axes.lines[2].get_marker() != axes.lines[3].get_marker()
    assert legend_texts(figure) == ["ArcFace", "IP", "single seeds (up to 2)"]
    assert axes.get_title(loc="left") == "C20"
    assert "up to rank 6" in figure.description


def test_chance_is_drawn_where_the_gallery_is_known():
    figure = cmc_figure({"ArcFace": [FIRST]}, n_gallery=5)
    assert figure.axes[0].lines[-1].get_ydata() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert legend_texts(figure) == ["ArcFace", "chance"]
    assert legend_texts(cmc_figure({"ArcFace": [FIRST]})) == ["ArcFace"]


@pytest.mark.parametrize(("n_ranks", "scale"), [(1, "linear"), (10, "linear"), (30, "linear"), (500, "log")])
def test_many_ranks_are_drawn_on_a_logarithmic_axis(n_ranks, scale):
    figure = cmc_figure({"ArcFace": [np.linspace(0.1, 1, n_ranks)]})
    (axes,) = figure.axes
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    assert low <= 1 <= n_ranks <= high
    assert (axes.lines[0].get_marker() == "o") == (n_ranks <= 10)


def test_sentence_gives_mean_range_and_chance():
    text = describe_identification({"ArcFace": [FIRST, SECOND], "IP": [SECOND]}, n_probes=20, n_gallery=50)
    assert text.startswith("20 probes against a gallery of 50 people; by chance 2.0% (rank 1) and 10.0% (rank 5) would")
    assert "One probe is 5.0%." in text
    assert "- ArcFace: 30.0% (rank 1, 20.0% to 40.0%) and 80.0% (rank 5, 60.0% to 100.0%) (mean and range" in text
    assert "- IP: 40.0% (rank 1) and 100.0% (rank 5) (one seed)." in text


def test_chance_never_exceeds_one():
    text = describe_identification({"ArcFace": [FIRST]}, n_probes=1, n_gallery=3, ranks=(5,))
    assert text.startswith("1 probe against a gallery of 3 people; by chance 100.0% (rank 5)")


def test_wrong_curves_are_refused():
    for nothing in ({}, {"ArcFace": []}, {"ArcFace": [np.array([])]}):
        with pytest.raises(ConfigError, match="no identification rates"):
            cmc_figure(nothing)
    with pytest.raises(ConfigError, match=r"same number of ranks; they have \[3, 6\]"):
        cmc_figure({"ArcFace": [FIRST], "IP": [FIRST[:3]]})
    with pytest.raises(ConfigError, match="IP: shares must be"):
        cmc_figure({"ArcFace": [FIRST], "IP": [FIRST[::-1]]})
    with pytest.raises(ConfigError, match="ArcFace: shares must be"):
        cmc_figure({"ArcFace": [100 * FIRST]})
    with pytest.raises(ConfigError, match="end at rank 6: none of the ranks"):
        describe_identification({"ArcFace": [FIRST]}, n_probes=1, n_gallery=3, ranks=(10, 20))
