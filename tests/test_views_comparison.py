"""What the notebooks say about runs beside each other: tables, measures, verdicts that follow the numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import MEASURE_COLUMNS, SimilarityMatrix
from interproto_lib.config import TrainConfig
from interproto_lib.views import (
    describe_available_cohorts,
    describe_in_short,
    describe_methods,
    describe_similarities,
    measures_table,
    methods_table,
    readable_measures,
    similarity_figure,
    styled_table,
)
from interproto_lib.views.ages import describe_child_identities, describe_pair_kinds

BASE = {
    "child-child, train": 0.1,
    "adult-adult, train": 0.0,
    "child-child, held-out": 0.3,
    "adult-adult, held-out": 0.1,
    "child-child, prototypes (rms)": 0.4,
}
ACCURACY = {"C20": 80.0, "C30": 75.0, "any": 90.0}


def measures(by_method, noise=0.0, seeds=(0, 1, 2)):
    """Measures of methods; `noise` spreads the treated methods over seeds."""
    rows = [
        (measure, method, seed, value + (noise * (seed - 1) if method != "arcface" else 0.0))
        for method, values in by_method.items()
        for seed in seeds
        for measure, value in values.items()
    ]
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


def changed(values, **changes):
    keys = {"train": "child-child, train", "heldout": "child-child, held-out", "rms": "child-child, prototypes (rms)"}
    return values | {keys.get(name, name): values[keys.get(name, name)] + change for name, change in changes.items()}


def in_short(treated, accuracy, *, base=BASE, **options):
    similarities = measures({"arcface": base, "interproto-sum": treated}, **options)
    accuracies = measures({"arcface": ACCURACY, "interproto-sum": accuracy}, **options)
    return describe_in_short(similarities, accuracies, baseline="arcface").split("\n")


def test_in_short_names_what_fell_and_what_rose():
    first, prototypes, features, verification = in_short(
        changed(BASE, rms=-0.2, heldout=0.05, train=-0.03), changed(ACCURACY, C20=1.5, C30=-2.0)
    )
    assert "With ArcFace, different children are more alike than different adults on held-out people" in first
    assert "0.300 against 0.100" in first
    below, above = ("the interval lies below zero", "the interval lies above zero")
    assert f"0.400 with ArcFace, and 0.200 lower with Inter-Prototype sum ({below})" in prototypes
    assert f"0.300 with ArcFace, and 0.050 higher with Inter-Prototype sum ({above}), on held-out people" in features
    assert f"0.100 with ArcFace, and 0.030 lower with Inter-Prototype sum ({below}), on training images" in features
    assert f"80.00 % with ArcFace, and 1.50 points higher with Inter-Prototype sum ({above}), 20 years" in verification
    assert f"75.00 % with ArcFace, and 2.00 points lower with Inter-Prototype sum ({below}), 30 years" in verification


def test_in_short_flips_with_the_numbers():
    base = BASE | {"child-child, train": -0.2, "child-child, held-out": 0.1}
    first, prototypes, features, verification = in_short(
        changed(base, rms=0.2, heldout=-0.05, train=0.03), changed(ACCURACY, C20=-1.5), base=base
    )
    assert "as alike as different adults on held-out people" in first
    assert "and less alike than different adults on training images (mean similarity −0.200 against 0.000)" in first
    assert "0.200 higher with Inter-Prototype sum (the interval lies above zero)" in prototypes
    assert "0.050 lower" in features
    assert "0.030 higher" in features
    assert "1.50 points lower with Inter-Prototype sum (the interval lies below zero)" in verification
    assert "and the same to 2 decimals with Inter-Prototype sum (the interval holds zero" in verification


def test_in_short_tells_chance_from_difference():
    noisy = in_short(changed(BASE, rms=-0.2), changed(ACCURACY, C20=1.5), noise=5.0)
    assert "1.50 points higher with Inter-Prototype sum (the interval holds zero: not told from chance)" in noisy[3]
    assert len(noisy) == 4
    single = in_short(changed(BASE, rms=-0.2), ACCURACY, seeds=(1,))
    assert "interval" not in "".join(single)
    assert single[4] == "- There is a single seed, so how much of any difference is chance cannot be judged."


def test_in_short_says_what_is_not_there():
    base = {"all, train": 0.1, "all, held-out": 0.2, "all, prototypes (rms)": 0.3}
    similarities = measures({"arcface": base})
    accuracies = measures({"arcface": {"any": 90.0}})
    lines = describe_in_short(similarities, accuracies, baseline="arcface").split("\n")
    assert "This cannot be asked here" in lines[0]
    assert "between those of all identities is 0.300 with ArcFace." in lines[1]
    assert "different people (all images) is 0.200 with ArcFace, on held-out people" in lines[2]
    assert "(C20, C30); on any two images accuracy is 90.00 % with ArcFace." in lines[3]
    assert lines[4] == "- No other method was trained, so there is nothing to compare ArcFace with."
    nothing = describe_in_short(similarities, accuracies.iloc[:0], baseline="arcface").split("\n")
    assert nothing[3].endswith("could be judged (C20, C30).")


def test_sentence_on_the_phenomenon_follows_the_numbers():
    text = describe_similarities(measures({"arcface": BASE}), "arcface")
    assert "With ArcFace, two different children have a mean similarity of 0.300 on held-out people" in text
    assert "that of children is 0.200 higher" in text
    less = describe_similarities(measures({"arcface": BASE | {"child-child, held-out": 0.05}}), "arcface")
    assert "that of children is 0.050 lower" in less
    assert "cannot be compared" in describe_similarities(measures({"arcface": {"all, train": 0.1}}), "arcface")


def test_tables_spell_methods_and_measures():
    table = measures({"arcface": BASE, "interproto-sum": BASE}, noise=0.1)
    shown = measures_table(readable_measures(table, {"arcface": "ArcFace", "interproto-sum": "IP"}), decimals=3)
    assert list(shown.columns) == ["measure", "ArcFace", "IP"]
    assert shown["measure"].tolist()[2] == "child–child, held-out"
    assert shown.iloc[2].tolist()[1:] == ["0.300 ± 0.000", "0.300 ± 0.100"]
    one = measures_table(measures({"a": {"C20": 1.0}, "b": {"C30": 2.0}}, seeds=(0,)), decimals=1)
    assert one.to_numpy().tolist() == [["C20", "1.0", "–"], ["C30", "–", "2.0"]]
    nothing = measures_table(table.iloc[:0], decimals=1)
    assert list(nothing.columns) == ["measure"]
    assert "Nothing" in styled_table(nothing, "Nothing").to_html()


def test_methods_are_named_as_people_and_as_parameters_know_them():
    summary = {"accuracy": 0.9, "images_per_second": 1234.5, "n_pushed_apart": 7}
    runs = {
        "arcface": [SimpleNamespace(config=TrainConfig(inter_prototype="none"), summary=summary, seed=0)],
        "interproto-sum": [
            SimpleNamespace(config=TrainConfig(inter_prototype="child", seed=s), summary=summary, seed=s)
            for s in (0, 2)
        ],
    }
    table = methods_table(runs).set_index("name")
    assert table["method"].to_dict() == {"arcface": "ArcFace", "interproto-sum": "Inter-Prototype sum"}
    assert table["pushed apart"].to_dict() == {"arcface": "–", "interproto-sum": "7"}
    assert table.loc["interproto-sum", "seeds"] == "0, 2"
    assert table.loc["arcface", "training accuracy"] == "90.0%"


def test_sentence_on_cohorts_says_when_there_are_no_children():
    assert "no two child identities" in describe_available_cohorts(["all"])
    assert "child–child and adult–adult" in describe_available_cohorts(["child-child", "adult-adult"])


def test_maps_mark_where_child_identities_end():
    values = np.array([[np.nan, 0.1, 0.2], [0.1, np.nan, 0.3], [0.2, 0.3, np.nan]], dtype=np.float32)
    names = np.array(["a", "b", "c"], dtype=object)
    matrix = SimilarityMatrix(
        values=values,
        row_identities=names,
        column_identities=names,
        cohort="all",
        intra=np.ones(3, np.float32),
        n_row_images=np.ones(3, np.int64),
        n_column_images=np.ones(3, np.int64),
    )
    axes = similarity_figure([matrix], ["ArcFace"], n_child_first=2).axes[0]
    assert axes.get_title() == "ArcFace\nall images, mean 0.200"
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("Identity i, all images", "Identity j, all images")
    assert np.diag(np.asarray(axes.images[0].get_array())) == pytest.approx(1.0)
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1], [2, 2]]
    assert not similarity_figure([matrix], ["ArcFace"]).axes[0].lines


def test_sentence_on_child_identities():
    classes = pd.DataFrame({"n_child_images": [0, 1, 7, 12]})
    assert "2 of 4 do, 3 have at least one" in describe_child_identities(classes, min_child_images=5)
    assert "needs two" not in describe_child_identities(classes, min_child_images=5)
    assert "needs two" in describe_child_identities(classes, min_child_images=10)


def test_sentence_on_pairs():
    text = describe_pair_kinds({"C20": 3, "any": 1000, "C30": 0})
    assert "allow C20 (3 pairs of one person) and any (1,000 pairs of one person)." in text
    assert text.endswith("They do not allow C30.")
    assert "nothing can be verified" in describe_pair_kinds({"any": 0})


def test_settings_that_differ_are_named():
    classes = pd.DataFrame({"n_images": [3, 4], "is_child": [True, False]})

    def run(**settings):
        return SimpleNamespace(config=TrainConfig(**settings), classes=classes)

    alone = describe_methods({"arcface": [run()]})
    assert alone.startswith("1 training of 1 method, each on 7 images of 2 identities, 1 of them child identities.")
    text = describe_methods({"arcface": [run(), run(seed=1)], "other": [run(margin=0.1)]})
    assert text.startswith("3 trainings of 2 methods")
    assert "The methods differ in `margin`; all other settings are equal." in text
