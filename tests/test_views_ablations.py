"""Figures, tables and sentences of sweeps: what is drawn and said follows the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_ablations import CHILD, NONE, fake_runs, sweep_of

from interproto_lib.analysis import ABLATION_COLUMNS, ablation_differences, sweep_states
from interproto_lib.views import (
    describe_missing_sweeps,
    describe_sweep,
    describe_sweep_settings,
    describe_without_paper_table,
    own_columns,
    sweep_figure,
    sweep_table,
)
from interproto_lib.views.ablations import shown_measures

NAN = float("nan")
NAMES = {"arcface": "ArcFace", "low": "low", "mid": "mid", "high": "high"}
ON_AXIS = {"low": 0.1, "mid": 1.0, "high": 10.0}


def sweep_rows(values, *, setting="", at=None, lines=None, references=None, unit="percent", measure="C20"):
    """Rows of a sweep: method -> its value for each seed; the first method is what others are compared with."""
    first = next(iter(values))
    rows = [
        {
            "sweep": "x",
            "method": method,
            "reference": (references or {}).get(method, "" if method == first else first),
            "setting": setting,
            "at": (at or {}).get(method, NAN),
            "line": (lines or {}).get(method, ""),
            "seed": seed,
            "measure": measure,
            "unit": unit,
            "value": value,
        }
        for method, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    return pd.DataFrame(rows, columns=list(ABLATION_COLUMNS))


CATEGORICAL = sweep_rows({"arcface": [80.0, 81.0, 82.0], "low": [81.0, 82.0, 83.1], "high": [79.0, 84.0, 81.0]})
NUMERIC = sweep_rows(
    {"arcface": [80.0, 81.0, 82.0], "low": [79.0, 80.1, 81.0], "mid": [81.0, 80.0, 82.5], "high": [83.0, 84.1, 85.0]},
    setting="ip_weight",
    at=ON_AXIS,
)


def said(table):
    return describe_sweep(table, ablation_differences(table), names=NAMES)


def test_each_difference_has_its_verdict():
    opening, _, line = said(CATEGORICAL).partition("\n\n")
    assert opening == (
        "Each against ArcFace, seed by seed. Means over 3 seeds, in brackets the 95% interval of a difference."
    )
    # t quantile 0.975 with 2 degrees of freedom 4.302653: differences 1, 1, 1.1 and -1, 3, -1.
    half = 4.302653 * np.std([1, 1, 1.1], ddof=1) / np.sqrt(3)
    low = f"low +1.03 ({1.03333 - half:.2f} to {1.03333 + half:.2f})"
    half = 4.302653 * np.std([-1, 3, -1], ddof=1) / np.sqrt(3)
    high = f"high +0.33 (−{half - 1 / 3:.2f} to {half + 1 / 3:.2f}, not told from chance)"
    assert line == f"- C20 in %: ArcFace 81.00; {low}, {high}."


def test_a_number_is_said_by_its_range_and_what_stands_out():
    _, _, line = said(NUMERIC).partition("\n\n")
    assert line.startswith("- C20 in %: Lowest 80.03 at λ = 0.1, highest 84.03 at λ = 10; ArcFace 81.00. ")
    assert "Told from chance (2 of 3 differences): low −0.97 (" in line
    assert "high +3.03 (" in line
    assert "mid" not in line
    flipped = NUMERIC.assign(value=-NUMERIC["value"])
    _, _, line = said(flipped).partition("\n\n")
    assert line.startswith("- C20 in %: Lowest −84.03 at λ = 10, highest −80.03 at λ = 0.1; ArcFace −81.00. ")
    assert "low +0.97 (" in line


def test_nothing_that_stands_out_is_said_to():
    noisy = NUMERIC[~NUMERIC["method"].isin(["low", "high"])]
    assert said(noisy).endswith("Of 1 difference none is told from chance.")


def test_a_single_seed_gets_no_verdict():
    for table in (CATEGORICAL, NUMERIC):
        text = said(table[table["seed"] == 1])
        assert "With a single seed it cannot be said how much of a difference is chance." in text
        assert "interval" not in text
        assert "told from" not in text


def test_lines_and_several_references_are_named():
    values = {"arcface": [80.0, 81.0], "low": [70.0, 71.1], "mid": [82.0, 83.1], "high": [75.0, 76.1]}
    table = sweep_rows(
        values,
        setting="embedding_dim",
        at={"arcface": 128, "low": 64, "mid": 128, "high": 64},
        lines={m: f"inter_prototype={'none' if m in ('arcface', 'low') else 'child'}" for m in values},
        references={"low": "arcface", "mid": "arcface", "high": "low"},
    )
    text = said(table)
    assert text.startswith("Each against its own reference: ArcFace and low, seed by seed.")
    assert "Without the loss: lowest 70.55 at d = 64, highest 80.50 at d = 128; loss on child prototypes: " in text
    assert "high against low +5.00 (" in text
    assert "low against ArcFace −9.95 (" in text


def test_where_there_is_nothing_to_compare_it_says_so():
    assert "nothing to compare" in said(CATEGORICAL[CATEGORICAL["method"] == "arcface"])


def test_cosines_have_three_decimals_and_no_percent():
    table = sweep_rows({"arcface": [0.3004], "low": [0.2]}, unit="cosine", measure="child-child, prototypes (rms)")
    assert said(table).endswith("- child–child, prototypes (rms): ArcFace 0.300; low −0.100.")


def test_child_adult_pairs_come_first_and_any_pair_stands_in():
    kinds = ["adult-adult", "any", "LAG-C30", "C20"]
    rows = [sweep_rows({"arcface": [80.0]}, measure=kind) for kind in kinds]
    rows.append(sweep_rows({"arcface": [0.3]}, unit="cosine", measure="all, held-out"))
    table = pd.concat(rows, ignore_index=True)
    assert shown_measures(table) == ["C20", "LAG-C30", "all, held-out"]
    assert shown_measures(table[~table["measure"].isin(["C20", "LAG-C30"])]) == ["any", "all, held-out"]
    assert shown_measures(table[table["unit"] == "cosine"]) == ["all, held-out"]


def test_the_table_has_a_row_a_method():
    both = pd.concat([NUMERIC, NUMERIC.assign(measure="child-child, held-out", unit="cosine", value=0.25)])
    laid_out = sweep_table(both, names=NAMES)
    assert laid_out.columns.tolist() == ["method", "λ", "C20", "child–child, held-out"]
    assert laid_out["method"].tolist() == ["ArcFace", "low", "mid", "high"]
    assert laid_out["λ"].tolist() == ["–", "0.1", "1", "10"]
    assert laid_out["C20"].tolist()[0] == "81.00 ± 1.00"
    assert laid_out["child–child, held-out"].tolist()[1] == "0.250 ± 0.000"
    assert sweep_table(CATEGORICAL, names=NAMES).columns.tolist() == ["method", "C20"]


def points(axes, *, hollow):
    """Places of hollow (single seeds) or filled (means) markers."""
    return sorted(
        (float(x), float(y))
        for line in axes.get_lines()
        if line.get_marker() not in ("None", "", None) and (line.get_markerfacecolor() == "white") == hollow
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )


def test_a_categorical_figure_has_a_row_a_method():
    figure = sweep_figure(CATEGORICAL, names=NAMES)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ArcFace", "low", "high"]
    # Seeds stand a little below their mean, so that they do not hide it.
    expected = [(80, 0.3), (81, 0.3), (82, 0.3), (81, 1.3), (82, 1.3), (83.1, 1.3), (79, 2.3), (84, 2.3), (81, 2.3)]
    assert np.array(points(axes, hollow=True)) == pytest.approx(np.array(sorted(expected)))
    means = sorted([(81.0, 0), (82.0333333, 1), (81.3333333, 2)])
    assert np.array(points(axes, hollow=False)) == pytest.approx(np.array(means))
    assert axes.get_xlabel() == "C20 (%)"
    assert "C20 of 3 methods" in figure.description
    markers = {round(line.get_ydata()[0]): line.get_marker() for line in axes.get_lines() if len(line.get_xdata()) == 1}
    assert markers == {0: "o", 1: "s", 2: "s"}, "what the others are compared with is told from them"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-2:] == ["others are compared with it", "compared with another"]


def test_a_numeric_figure_runs_over_the_values():
    figure = sweep_figure(NUMERIC, names=NAMES)
    (axes,) = [panel for panel in figure.axes if panel.get_visible()]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "weight λ"
    assert axes.get_ylabel() == "C20 (%)"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "1", "10"]
    assert len(points(axes, hollow=True)) == 9
    assert (10.0, 85.0) in points(axes, hollow=True)
    means = next(line for line in axes.get_lines() if line.get_marker() == "None" and len(line.get_xdata()) == 3)
    assert list(means.get_xdata()) == [0.1, 1.0, 10.0]
    assert list(means.get_ydata()) == pytest.approx([80.0333333, 81.1666667, 84.0333333])
    assert any(list(line.get_ydata()) == [81.0, 81.0] for line in axes.get_lines()), "the level of ArcFace"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["ArcFace", "single seed", "mean of seeds"]


@pytest.mark.parametrize(
    ("setting", "values", "scale"),
    [
        ("embedding_dim", {"low": 32, "mid": 64, "high": 128}, "log"),
        ("min_child_images", {"low": 1, "mid": 5, "high": 8}, "linear"),
        ("ip_weight", {"low": 0.0, "mid": 1.0, "high": 10.0}, "linear"),
    ],
)
def test_weights_and_dimensions_are_drawn_on_a_logarithmic_axis(setting, values, scale):
    table = NUMERIC.assign(setting=setting, at=NUMERIC["method"].map(values))
    assert sweep_figure(table, names=NAMES).axes[0].get_xscale() == scale


def test_three_measures_leave_no_empty_panel_visible():
    measures = ["C20", "C30", "any"]
    table = pd.concat([NUMERIC.assign(measure=measure) for measure in measures[:2]])
    table = pd.concat([table, NUMERIC.assign(measure="all, held-out", unit="cosine")])
    panels = sweep_figure(table, names=NAMES).axes
    assert [panel.get_visible() for panel in panels] == [True, True, True, False]
    assert [panel.get_xlabel() for panel in panels[:3]] == ["", "weight λ", "weight λ"]


def test_a_sweep_says_what_it_varies():
    sweep = sweep_of(arcface=NONE, low={**CHILD, "ip_weight": 0.1}, high=CHILD)
    assert describe_sweep_settings(sweep, names=NAMES) == (
        "the weight λ at 0.1 and 1; 3 runs of ArcFace, low and high."
    )
    assert describe_sweep_settings(sweep_of(arcface=NONE, low=CHILD), names=NAMES) == (
        "2 runs of ArcFace and low, side by side."
    )


def test_missing_sweeps_are_visible_and_say_what_to_run():
    runs = fake_runs(arcface=NONE, low=CHILD)
    whole = {"a": ["arcface", "low"]}
    assert describe_missing_sweeps(sweep_states(runs, whole, [0])) == "All runs are there: 1 sweep, 2 methods."
    text = describe_missing_sweeps(sweep_states(runs, {**whole, "b": ["arcface", "x", "y"]}, [0, 1]))
    first, second = text.split("\n")
    assert first.startswith("- **a** is not trained: 2 runs missing (arcface-s1, low-s1). Run notebooks/02_train.ipynb")
    assert second.startswith("- **b** is not trained: 5 runs missing (arcface-s1, x-s0, x-s1, y-s0 and others).")


def test_child_adult_sets_of_ours_stand_beside_the_papers():
    cells = pd.DataFrame({"test_set": ["AgeDB-C20", "any", "C20", "C20", "C30", "LAG"]})
    assert own_columns(cells, 5) == ["C20", "C30"]
    assert own_columns(cells[cells["test_set"].isin(["any", "LAG"])], 6) == ["any"]
    assert own_columns(cells.iloc[:0], 5) == []
    assert describe_without_paper_table(5) == (
        "No sweep of this experiment sets the rows of Table 5 side by side (ArcFace, Inter-Prototype, all identities "
        "and Inter-Prototype)."
    )


def test_a_table_of_many_methods_has_a_row_a_method():
    several = pd.concat([CATEGORICAL.replace({"method": {m: f"{m}{i}" for m in NAMES}}) for i in range(4)])
    spelt = {method: method for method in several["method"]}
    table = sweep_table(several, names=spelt)
    assert list(table["method"]) == list(spelt)
    assert len(table) == 12
    assert list(table.columns) == list(sweep_table(CATEGORICAL, names=NAMES).columns)
    assert (
        table.iloc[:3, 1:].to_numpy().tolist() == sweep_table(CATEGORICAL, names=NAMES).iloc[:, 1:].to_numpy().tolist()
    )
