"""Figures and sentences of identification."""

from __future__ import annotations

import numpy as np
import pytest

from interproto_lib.analysis.identified_runs import ModelCosts
from interproto_lib.analysis.paper_costs import counted_costs
from interproto_lib.analysis.published import PUBLISHED_PARAMETERS, published_table
from interproto_lib.errors import ConfigError
from interproto_lib.views.identification import cmc_figure, describe_identification
from interproto_lib.views.identification_tables import costs_table, describe_costs, describe_published_costs


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


PLAIN = ModelCosts(inference_parameters=1000, training_parameters=20, multiply_adds=5000)
AGED = ModelCosts(inference_parameters=1000, training_parameters=27, multiply_adds=5000, method_parameters=7)


def test_parts_of_a_method_that_only_training_needs_are_told_apart():
    names = {"arcface": "ArcFace", "oe_cnn": "OE-CNN"}
    said = describe_costs({"arcface": PLAIN, "oe_cnn": AGED}, names)
    assert "ArcFace needs 1,000 parameters" in said
    assert "20 further parameters, the prototypes, are only for training" in said
    assert "27 further parameters, the prototypes (20) and parts of the method (7), are only for training" in said
    assert "no difference between these methods comes from the size of the network" in said
    rows = costs_table({"arcface": PLAIN, "oe_cnn": AGED}, names).set_index("method")
    assert rows["training_only_parameters"].tolist() == [20, 27]
    assert rows["of_which_method_parts"].tolist() == [0, 7]


def test_the_papers_numbers_of_parameters_come_out_of_parts():
    """By hand: IR-SE-50 43,797,696; prototypes 512 x 10,572; R of DAL two layers 512 to 512."""
    network, prototypes, linear = 43_797_696, 512 * 10_572, 512 * 512 + 512
    by_hand = {
        "OE-CNN": network + prototypes + 2,
        "DAL": network + prototypes + 4 * linear + (512 * 8 + 8) + 2 * 512,
        "Inter-Prototype": network,
    }
    counted = counted_costs()
    assert list(counted) == list(published_table(3).rows)
    for row, total in by_hand.items():
        assert sum(counted[row].parameters[part] for part in counted[row].counted) == total
    for row, costs in counted.items():
        assert costs.counted_millions == published_table(3).cell(row, PUBLISHED_PARAMETERS).mean
        assert costs.multiply_adds["network"] == pytest.approx(6.30e9, abs=5e6)
    said = describe_published_costs()
    assert "which is not the" not in said, "every printed number comes out"
    assert "MTL 134.05 million (network 47,239,460, parts of the method 25,798,238, generator 54,041,920" in said
    assert "OE-CNN 43.80 million, DAL 44.32 million, MTL 47.24 million and Inter-Prototype 43.80 million" in said
    assert "each with 6.30 billion multiply-adds" in said
