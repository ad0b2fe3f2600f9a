"""Figures and sentences of the analysis: similarity maps, distributions, projections, paired differences."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis.projection import ProjectionQuality
from interproto_lib.analysis.similarity import SimilarityMatrix
from interproto_lib.analysis.similarity_summary import summarise_similarity
from interproto_lib.errors import ConfigError
from interproto_lib.views.distributions import (
    describe_gaps,
    describe_prototypes_and_features,
    prototype_vs_feature_figure,
    similarity_distribution_figure,
    similarity_summary_figure,
)
from interproto_lib.views.projection import describe_projections, describe_purity, projection_figure
from interproto_lib.views.seeds import describe_paired_differences, paired_difference_figure
from interproto_lib.views.similarity import (
    MAX_PIXELS,
    block_means,
    describe_cohorts,
    describe_similarity,
    similarity_figure,
)
from interproto_lib.views.style import ADULT_COLOUR, CHILD_COLOUR

NAN = float("nan")


def matrix(n=6, *, mean=0.1, cohort="child-child", seed=0):
    generator = np.random.default_rng(seed)
    values = generator.normal(mean, 0.05, (n, n)).astype(np.float32)
    if cohort != "child-adult":
        values = np.triu(values, 1) + np.triu(values, 1).T
        np.fill_diagonal(values, np.nan)
    names = np.array([f"id{i:05d}" for i in range(n)], dtype=object)
    intra = np.full(n, 0.8, dtype=np.float32)
    counts = np.full(n, 4)
    return SimilarityMatrix(
        values=values,
        row_identities=names,
        column_identities=names,
        cohort=cohort,
        intra=intra,
        n_row_images=counts,
        n_column_images=counts,
    )


def eq_2(panel):
    return panel.values  # noqa: PD011 (not a pandas object)


def off_diagonal(values):
    return values[~np.eye(len(values), dtype=bool)]


def drawn(figure):
    return [axes for axes in figure.axes if axes.images]


def test_maps_show_eq_1_on_the_diagonal_and_eq_2_elsewhere_in_one_range():
    panels = [matrix(mean=0.3), matrix(mean=-0.1, cohort="child-adult", seed=1)]
    axes = drawn(similarity_figure(panels, ["ArcFace", "IP"]))
    for ax, panel in zip(axes, panels, strict=True):
        shown = np.asarray(ax.images[0].get_array())
        assert np.diag(shown) == pytest.approx(panel.intra)
        assert off_diagonal(shown) == pytest.approx(off_diagonal(eq_2(panel)))
    limits = {ax.images[0].get_clim() for ax in axes}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert high >= 0.3


def test_maps_take_a_given_range_and_mark_values_beyond_it():
    def extend(limit):
        figure = similarity_figure([matrix()], ["ArcFace"], limit=limit)
        assert drawn(figure)[0].images[0].get_clim() == (-limit, limit)
        return drawn(figure)[0].images[0].colorbar.extend

    assert extend(1.0) == "neither"
    assert extend(0.5) == "both"


def test_maps_name_method_cohort_and_mean_of_eq_2():
    panel = matrix(mean=0.2, cohort="child-adult")
    axes = drawn(similarity_figure([panel, panel, panel], ["ArcFace", "IP", "IP strong"], n_columns=3))
    mean = off_diagonal(eq_2(panel).astype(np.float64)).mean()
    assert axes[1].get_title() == f"(b) IP\nchild–adult, mean {mean:.3f}"
    assert (axes[0].get_ylabel(), axes[0].get_xlabel()) == ("Identity i, child images", "Identity j, adult images")


def test_rows_of_many_maps_are_broken_and_keep_their_order():
    """Four methods, two cohorts, at most three maps side by side: two methods of both cohorts, then the other two."""
    names = ["a", "b", "c", "d"]
    panels = [matrix(mean=0.1 * i, cohort=cohort) for cohort in ("child-child", "child-adult") for i in range(4)]
    axes = drawn(similarity_figure(panels, names * 2, n_columns=4))
    told = [ax.get_title().split("\n")[0] + " " + ax.get_title().split("\n")[1].split(",")[0] for ax in axes]
    assert told == [
        *("(a) a child–child", "(b) b child–child", "(c) a child–adult", "(d) b child–adult"),
        *("(e) c child–child", "(f) d child–child", "(g) c child–adult", "(h) d child–adult"),
    ]
    for ax, index in zip(axes, (0, 1, 4, 5, 2, 3, 6, 7), strict=True):
        assert off_diagonal(np.asarray(ax.images[0].get_array())) == pytest.approx(off_diagonal(eq_2(panels[index])))


def test_missing_values_are_not_drawn_as_zero():
    panel = matrix()
    eq_2(panel)[2, :] = np.nan
    shown = drawn(similarity_figure([panel], ["ArcFace"]))[0].images[0].get_array()
    assert shown.mask[2, 3]
    assert not shown.mask[1, 3]


def test_large_matrices_are_averaged_in_blocks_and_say_so():
    panel = matrix(2 * MAX_PIXELS + 1)
    axes = drawn(similarity_figure([panel], ["ArcFace"]))[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (201, 201)
    block = eq_2(panel)[:3, :3].astype(np.float64)
    assert shown[0, 0] == pytest.approx(off_diagonal(block).mean(), rel=1e-5)
    assert shown[0, 1] == pytest.approx(eq_2(panel)[:3, 3:6].astype(np.float64).mean(), rel=1e-5)
    assert "mean of 3 × 3 pairs" in axes.get_xlabel()
    assert "mean of" not in drawn(similarity_figure([matrix()], ["ArcFace"]))[0].get_xlabel()


def test_block_means_against_loops():
    values = np.random.default_rng(0).normal(size=(7, 5))
    values[0, 0] = values[3:6, 3:] = np.nan
    means = block_means(values, 3)
    for i in range(3):
        for j in range(2):
            block = values[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
            finite = block[np.isfinite(block)]
            expected = finite.mean() if finite.size else NAN
            assert means[i, j] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(means[1, 1])


def test_maps_refuse_titles_that_do_not_fit():
    with pytest.raises(ConfigError, match="2 panels, 1 titles"):
        similarity_figure([matrix(), matrix()], ["ArcFace"])


def summary(mean, n=5):
    values = np.full((n, n), mean)
    return summarise_similarity(values, threshold=0.3)


def test_sentence_on_methods_follows_the_numbers():
    lower = describe_similarity({"ArcFace": summary(0.25), "IP": summary(0.2)}, pairs="pairs")
    higher = describe_similarity({"ArcFace": summary(0.2), "IP": summary(0.25)}, pairs="pairs")
    assert "Against ArcFace the mean is 0.050 lower with IP." in lower
    assert "Against ArcFace the mean is 0.050 higher with IP." in higher
    equal = describe_similarity({"ArcFace": summary(0.2), "IP": summary(0.2)}, pairs="pairs")
    assert "the same to 3 decimals with IP" in equal
    assert "Against" not in describe_similarity({"ArcFace": summary(0.2)}, pairs="pairs")


def test_sentence_on_cohorts_follows_the_numbers():
    above = describe_cohorts({"child-child": summary(0.2), "adult-adult": summary(0.05)})
    below = describe_cohorts({"child-child": summary(0.05), "adult-adult": summary(0.2)})
    assert "child–child is 0.150 higher" in above
    assert "child–child is 0.150 lower" in below


def test_distributions_integrate_to_one_and_end_at_the_shares():
    values = np.random.default_rng(0).normal(0.1, 0.1, 5000)
    values[0] = np.nan
    figure = similarity_distribution_figure({"child-child": {"ArcFace": values}}, threshold=0.3)
    density, above = figure.axes
    heights, edges, _ = density.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)
    x, share = above.lines[0].get_data()
    for position in (0, len(x) // 2, len(x) - 1):
        assert share[position] == pytest.approx(np.mean(values[1:] >= x[position]))
    assert density.lines[0].get_xdata()[0] == pytest.approx(np.nanmean(values))


def test_distributions_of_all_cohorts_share_their_range():
    generator = np.random.default_rng(0)
    values = {c: {m: generator.normal(mu, 0.1, 400) for m in "ab"} for c, mu in (("child-child", 0.3), ("x-y", -0.3))}
    figure = similarity_distribution_figure(values)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    styles = [str(patch.get_linestyle()) for patch in figure.axes[0].patches]
    assert len(set(styles)) == 2
    with pytest.raises(ConfigError):
        similarity_distribution_figure({"child-child": {"a": np.array([NAN])}})


def test_prototypes_against_features_counts_every_pair_once():
    generator = np.random.default_rng(0)
    x = {name: generator.normal(0.1, 0.05, 300) for name in ("ArcFace", "IP")}
    y = {name: values + 0.1 for name, values in x.items()}
    figure = prototype_vs_feature_figure(x, y, pairs="pairs of child identities")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["ArcFace\nr = 1.00, n = 300", "IP\nr = 1.00, n = 300"]
    clouds = [axes.collections[0] for axes in panels]
    assert [cloud.get_array().sum() for cloud in clouds] == [300, 300]
    assert clouds[0].norm is clouds[1].norm
    assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in panels}) == 1
    with pytest.raises(ConfigError, match="same methods"):
        prototype_vs_feature_figure(x, {"ArcFace": y["ArcFace"]}, pairs="pairs")


def summary_table(prototypes, features):
    rows = [
        {"method": m, "seed": s, "what": w, "mean": v, "rms": abs(v), "p95": v, "share_above": 0.1}
        for w, values in (("prototypes", prototypes), ("features", features))
        for m, v in zip(("ArcFace", "IP"), values, strict=True)
        for s in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_summary_draws_each_seed():
    table = summary_table((0.2, 0.1), (0.2, 0.3))
    figure = similarity_summary_figure(table, threshold=0.4)
    assert [axes.get_title() for axes in figure.axes][-1] == "Share above 0.4"
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[0.2, 0.2], [0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]


@pytest.mark.parametrize(
    ("prototypes", "features", "verdict"),
    [
        ((0.2, 0.1), (0.2, 0.3), "By the mean they do not move together"),
        ((0.2, 0.1), (0.2, 0.1), "By the mean they both fall, by the rms they both fall"),
        ((0.2, 0.3), (0.2, 0.3), "By the mean they both rise"),
        ((-0.2, -0.3), (-0.2, -0.3), "By the mean they both fall, by the rms they both rise"),
        ((0.2, 0.2), (0.2, 0.2), "By the mean they stay as they are"),
        ((0.2, 0.1), (0.2, 0.2), "By the mean they do not move together"),
    ],
)
def test_sentence_on_prototypes_and_features(prototypes, features, verdict):
    text = describe_prototypes_and_features(summary_table(prototypes, features))
    assert verdict in text
    assert "(2 seeds)" in text


def gap_table(gaps, prototype_mean=0.1):
    return pd.DataFrame(
        {
            "method": "IP",
            "seed": range(len(gaps)),
            "prototype_mean": prototype_mean,
            "feature_mean": [prototype_mean - gap for gap in gaps],
            "gap_mean": gaps,
            "gap_rms": 0.25,
            "correlation": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("gaps", "texts"),
    [
        ([-0.1, -0.3], ["on average 0.200 lower than the similarity", "(0.100 against 0.300)", "(mean of 2 seeds)"]),
        ([0.05], ["on average 0.050 higher than the similarity", "this gap is 0.250; over", "is 0.50 (one seed)"]),
        ([0.0001], ["on average the same to 3 decimals as the similarity"]),
    ],
)
def test_sentence_on_gaps_follows_the_numbers(gaps, texts):
    sentence = describe_gaps(gap_table(gaps))
    assert sentence.startswith("- IP: the cosine of two prototypes is on average ")
    for text in texts:
        assert text in sentence
    assert "correlation" not in describe_gaps(gap_table(gaps).assign(correlation=NAN))


def quality(purity=0.5):
    return ProjectionQuality(
        child_purity_original=purity,
        child_purity_plane=purity - 0.1,
        base_rate=0.15,
        recall=0.6,
        trustworthiness=0.9,
        k_purity=5,
        k_recall=15,
        n=20,
        n_child=5,
        n_queries=20,
    )


def projected(n=20, n_child=5, methods=("ArcFace", "IP")):
    generator = np.random.default_rng(0)
    is_child = np.arange(n) % 4 == 0 if n_child else np.zeros(n, dtype=bool)
    points = {m: generator.normal(size=(n, 2)) for m in methods}
    return points, is_child


def test_projection_draws_children_above_adults_in_their_own_marker():
    points, is_child = projected()
    figure = projection_figure(
        {"t-SNE": points, "UMAP": points}, is_child, {p: dict.fromkeys(points, quality()) for p in ("t-SNE", "UMAP")}
    )
    assert len(figure.axes) == 4
    for axes, method in zip(figure.axes, ["ArcFace", "IP"] * 2, strict=True):
        adults, children = axes.collections
        assert np.array_equal(adults.get_offsets(), points[method][~is_child])
        assert np.array_equal(children.get_offsets(), points[method][is_child])
        assert mpl.colors.same_color(adults.get_facecolor()[0, :3], ADULT_COLOUR)
        assert mpl.colors.same_color(children.get_facecolor()[0], CHILD_COLOUR)
        assert children.get_zorder() > adults.get_zorder()
        assert len(children.get_paths()[0].vertices) != len(adults.get_paths()[0].vertices)
        assert not list(axes.get_xticks())
        for number in ("0.50", "0.40", "0.15", "0.60", "0.90"):
            assert number in axes.get_xlabel()


def test_projection_without_children_has_one_colour_and_no_purity():
    points, is_child = projected(n_child=0)
    figure = projection_figure({"t-SNE": points}, is_child, {"t-SNE": dict.fromkeys(points, quality(NAN))})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["identities, n = 20"]
    assert figure.axes[0].get_xlabel() == "recall 0.60, trustworthiness 0.90"


def test_projection_refuses_what_does_not_fit():
    points, is_child = projected()
    with pytest.raises(ConfigError, match="do not fit 19 prototypes"):
        projection_figure({"t-SNE": points}, is_child[1:], {"t-SNE": dict.fromkeys(points, quality())})
    with pytest.raises(ConfigError, match="quality must be given"):
        projection_figure({"t-SNE": points}, is_child, {"t-SNE": {"ArcFace": quality()}})


def test_sentence_on_purity_follows_the_numbers():
    falls = describe_purity({"ArcFace": [0.5, 0.4], "IP": [0.1, 0.2]}, base_rate=0.15, k=5, n_child=60)
    rises = describe_purity({"ArcFace": [0.1, 0.2], "IP": [0.5, 0.4]}, base_rate=0.15, k=5, n_child=60)
    assert "0.45 (ArcFace, 3.0 times chance)" in falls
    assert "mean of 2 seeds" in falls
    assert "0.30 lower with IP" in falls
    assert "0.30 higher with IP" in rises
    assert "No identity counts as a child" in describe_purity({}, base_rate=NAN, k=5, n_child=0)


def paired(differences, measure="C20"):
    rows = [
        {"measure": measure, "method": "IP", "seed": seed, "baseline": 0.8, "treated": 0.8 + difference}
        for seed, difference in enumerate(differences)
    ]
    return pd.DataFrame(rows)


OPTIONS = {"baseline": "ArcFace", "unit": "points", "scale": 100.0}


@pytest.mark.parametrize(
    ("differences", "texts"),
    [
        (
            [0.010, 0.011, 0.012],
            ["to ArcFace in points, mean of 3 seeds with its 95%", "- C20: IP +1.10 (0.85 to 1.35)"],
        ),
        ([-0.010, -0.011, -0.012], ["- C20: IP −1.10 (−1.35 to −0.85)"]),
        ([0.0092, -0.01, -0.0079], ["- C20: IP −0.29 (−2.91 to 2.33), not told from chance"]),
        ([0.02], ["With a single seed it cannot be said", "to ArcFace in points:", "- C20: IP +2.00"]),
    ],
)
def test_sentence_on_paired_differences(differences, texts):
    """The intervals by hand: t quantile 4.3027, so 0.1 x 4.3027 / sqrt(3) = 0.248 around 1.10."""
    sentence = describe_paired_differences(paired(differences), **OPTIONS)
    for text in texts:
        assert text in sentence
    assert sentence.endswith(texts[-1]), "no more is said"


def test_a_single_seed_is_said_once_before_its_lines():
    alone = pd.concat([paired([0.02]), paired([-0.01], "C30")])
    text = describe_paired_differences(alone, **OPTIONS)
    assert text.count("single seed") == 1
    assert text.endswith("Difference to ArcFace in points:\n\n- C20: IP +2.00\n- C30: IP −1.00")
    both = describe_paired_differences(pd.concat([paired([0.01, 0.02]), paired([-0.01], "C30")]), **OPTIONS)
    first, interval, said, line = both.split("\n\n")
    assert "mean of 2 seeds" in first
    assert interval.startswith("- C20: IP +1.50 (")
    assert "single seed" in said
    assert line == "- C30: IP −1.00"


def test_methods_stand_together_under_each_measure():
    table = pd.concat([paired([0.01]).assign(method=m, measure=k) for m in ("a", "b") for k in ("C20", "C30")])
    lines = [line for line in describe_paired_differences(table, **OPTIONS).split("\n") if line.startswith("-")]
    assert lines == ["- C20: a +1.00", "- C20: b +1.00", "- C30: a +1.00", "- C30: b +1.00"]


def test_interval_in_the_figure_is_students():
    differences = np.array([0.0092, -0.0100, -0.0079])
    figure = paired_difference_figure(paired(differences), **OPTIONS)
    axes = figure.axes[0]
    seeds = next(line for line in axes.lines if line.get_markerfacecolor() == "white")
    assert seeds.get_xdata() == pytest.approx(100 * differences)
    whisker = next(line for line in axes.lines if line.get_marker() == "|")
    half = 4.302653 * 100 * differences.std(ddof=1) / np.sqrt(3)  # t quantile 0.975 with 2 degrees of freedom
    mean = 100 * differences.mean()
    assert whisker.get_xdata() == pytest.approx([mean - half, mean + half], rel=1e-5)
    assert list(axes.lines[0].get_xdata()) == [0, 0]
    assert "n = 3 seeds" in axes.get_xlabel()


def test_one_seed_has_no_interval():
    axes = paired_difference_figure(paired([0.01]), **OPTIONS).axes[0]
    assert not [line for line in axes.lines if line.get_marker() == "|"]
    assert "n = 1 seed" in axes.get_xlabel()


def test_paired_tables_are_checked():
    table = paired([0.01, 0.02])
    with pytest.raises(ConfigError, match="no column treated"):
        paired_difference_figure(table.drop(columns="treated"), **OPTIONS)
    with pytest.raises(ConfigError, match="twice"):
        paired_difference_figure(pd.concat([table, table]), **OPTIONS)


def test_sentence_on_projections_compares_plane_and_space():
    text = describe_projections({"t-SNE": {"ArcFace": quality(0.5)}})
    assert "t-SNE keeps 60% (ArcFace) of the 15 nearest neighbours" in text
    assert "0.10 lower (ArcFace)" in text
    assert "children" not in describe_projections({"t-SNE": {"ArcFace": quality(NAN)}})


def test_nothing_to_pair_is_said():
    empty = paired([0.01]).iloc[:0]
    assert "to compare with ArcFace" in describe_paired_differences(empty, **OPTIONS)
    figure = paired_difference_figure(empty, **OPTIONS)
    assert not figure.axes
    assert figure.texts[0].get_text() == figure.description == describe_paired_differences(empty, **OPTIONS)
