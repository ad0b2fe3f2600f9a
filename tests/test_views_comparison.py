"""What the notebooks say about runs beside each other: tables, measures, verdicts that follow the numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis import (
    MEASURE_COLUMNS,
    JudgingRules,
    SimilarityMatrix,
    paired_differences,
    paired_with_baseline,
)
from interproto_lib.analysis.held_out import HELD_OUT_COLUMNS
from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.views import (
    describe_available_cohorts,
    describe_bounds,
    describe_held_out,
    describe_in_short,
    describe_methods,
    describe_rules,
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


def rules(*, child_below_years=13.0, **evaluation):
    return JudgingRules(evaluation=EvaluationConfig(**evaluation), child_below_years=child_below_years)


def over_people(accuracies):
    """Differences as of trials, their interval the one over seeds; that of a single seed is a point either way."""
    return pd.DataFrame(
        [
            (measure, method, one.mean, *(one.interval or (one.mean - 1, one.mean + 1)), one.n)
            for (measure, method), one in paired_differences(paired_with_baseline(accuracies, "arcface")).items()
        ],
        columns=["test_set", "method", "difference", "low", "high", "n_seeds"],
    )


def described(similarities, accuracies, **evaluation):
    told = describe_in_short(
        similarities, accuracies, over_people(accuracies), baseline="arcface", rules=rules(**evaluation)
    )
    return told.split("\n")


def in_short(treated, accuracy, *, base=BASE, **options):
    similarities = measures({"arcface": base, "interproto-sum": treated}, **options)
    accuracies = measures({"arcface": ACCURACY, "interproto-sum": accuracy}, **options)
    return described(similarities, accuracies)


def test_in_short_names_what_fell_and_what_rose():
    first, prototypes, _, unseen, seen, _, c20, c30, chance = in_short(
        changed(BASE, rms=-0.2, heldout=0.05, train=-0.03), changed(ACCURACY, C20=1.5, C30=-2.0)
    )
    assert "With ArcFace, different children are more alike than different adults on held-out people" in first
    assert "0.300 against 0.100" in first
    one = "With Inter-Prototype sum it is"
    assert prototypes.endswith(f": 0.400 with ArcFace. {one} 0.200 lower (interval −0.200 to −0.200).")
    assert unseen == f"  - On held-out people: 0.300 with ArcFace. {one} 0.050 higher (interval 0.050 to 0.050)."
    assert seen == f"  - On training images: 0.100 with ArcFace. {one} 0.030 lower (interval −0.030 to −0.030)."
    assert c20.startswith("  - 20 years or more apart (C20): 80.00 % with ArcFace. ")
    assert c20.endswith(f"{one} 1.50 points higher (interval 1.50 to 1.50).")
    assert c30.endswith(f"75.00 % with ArcFace. {one} 2.00 points lower (interval −2.00 to −2.00).")
    assert "its 95% interval over 3 seeds (that of an accuracy over people and seeds) holds zero" in chance


def test_in_short_flips_with_the_numbers():
    base = BASE | {"child-child, train": -0.2, "child-child, held-out": 0.1}
    first, prototypes, _, unseen, seen, _, c20, c30, _ = in_short(
        changed(base, rms=0.2, heldout=-0.05, train=0.03), changed(ACCURACY, C20=-1.5), base=base
    )
    assert "as alike as different adults on held-out people" in first
    assert "and less alike than different adults on training images (mean similarity −0.200 against 0.000)" in first
    assert "it is 0.200 higher (interval" in prototypes
    assert "0.050 lower" in unseen
    assert "0.030 higher" in seen
    assert "1.50 points lower (interval" in c20
    assert c30.endswith("75.00 % with ArcFace. With Inter-Prototype sum it is the same to 2 decimals.")


def test_in_short_gives_each_method_a_sentence():
    similarities = measures({"arcface": BASE, "interproto-sum": changed(BASE, rms=-0.2), "b": changed(BASE, rms=0.1)})
    prototypes = described(similarities, measures({"arcface": ACCURACY}))[1]
    assert "With Inter-Prototype sum it is 0.200 lower (interval −0.200 to −0.200). With b it is 0.100 hi" in prototypes


def test_in_short_tells_chance_from_difference():
    noisy = in_short(changed(BASE, rms=-0.2), changed(ACCURACY, C20=1.5), noise=5.0)
    assert "With Inter-Prototype sum it is 1.50 points higher, not told from chance." in noisy[6]
    single = in_short(changed(BASE, rms=-0.2), changed(ACCURACY, C20=1.5, C30=0.5), seeds=(1,))
    assert "interval" not in "".join(single[:6])
    assert single[6].endswith("1.50 points higher (interval 0.50 to 2.50).")
    assert single[7].endswith("0.50 points higher, not told from chance.")
    assert single[-1] == (
        "- **Chance.** There is a single seed, so how much trainings differ by chance cannot be judged; the intervals "
        "of accuracies are over people alone."
    )
    both = pd.concat([measures({"arcface": BASE, "b": BASE}), measures({"c": BASE}, seeds=(0,))])
    assert "With a single seed a similarity has no interval" in described(both, measures({"arcface": ACCURACY}))[-1]


def test_in_short_says_what_is_not_there():
    base = {"all, train": 0.1, "all, held-out": 0.2, "all, prototypes (rms)": 0.3}
    similarities = measures({"arcface": base})
    accuracies = measures({"arcface": {"any": 90.0}})
    lines = described(similarities, accuracies)
    assert "This cannot be asked here" in lines[0]
    assert "between the prototypes of all identities" in lines[1]
    assert lines[2].endswith("different people (all images).")
    assert lines[3] == "  - On held-out people: 0.200 with ArcFace."
    assert "could be judged (C20 and C30). Accuracy on pairs of any two images (chance is 50 %)." in lines[5]
    assert lines[6] == "  - On held-out people: 90.00 % with ArcFace."
    assert lines[7] == "- **Chance.** No other method was trained, so there is nothing to compare ArcFace with."
    nothing = described(similarities, accuracies.iloc[:0])
    assert nothing[5].endswith("could be judged (C20 and C30).")


def test_in_short_says_by_what_rules_people_were_verified():
    similarities, accuracies = measures({"arcface": BASE}), measures({"arcface": ACCURACY})
    strict = "\n".join(described(similarities, accuracies, gap_inclusive=False))
    assert "More than 20 years apart (C20): 80.00 %" in strict
    assert "optimistic" not in strict
    best = {"verification_threshold": "best_on_test", "epoch_choice": "best_on_test"}
    assert "optimistic, threshold and epoch being chosen" in "\n".join(described(similarities, accuracies, **best))
    best["verification_threshold"] = "ten_fold"
    assert "optimistic, epoch being chosen" in "\n".join(described(similarities, accuracies, **best))


@pytest.mark.parametrize(
    ("choices", "said", "not_said"),
    [
        (
            {},
            ["at least 20 (C20) or 30 (C30) years apart", "of validation people, who", "Of all epochs"],
            "optimistic",
        ),
        (
            {"verification_threshold": "ten_fold", "epoch_choice": "last", "embedding_flip": "sum"},
            ["10 folds", "The last epoch is judged.", "mirror image are added"],
            "optimistic",
        ),
        ({"gap_inclusive": False}, ["more than 20 (C20) or 30 (C30) years apart"], "at least"),
        ({"verification_threshold": "best_on_test"}, ["best on the very pairs judged", "optimistic"], "folds"),
        ({"epoch_choice": "best_on_test"}, ["Of all epochs", "optimistic", "validation people"], "last epoch"),
        ({"child_below_years": 16.0}, ["A child is below 16 years."], "13"),
    ],
)
def test_rules_are_told_from_the_settings(choices, said, not_said):
    text = describe_rules(rules(**choices))
    for words in said:
        assert words in text
    assert not_said not in text


NO_AGES = "the ages of the held-out images, as far as known, allow none."


def checked(accuracy_of):
    rows = [
        (
            kind,
            100,
            7,
            accuracy,
            accuracy - 3,
            accuracy + 3,
            0.9,
            0.3,
            4,
            "only 3 test pairs" if np.isnan(accuracy) else "",
        )
        for kind, accuracy in accuracy_of.items()
    ]
    return pd.DataFrame(rows, columns=list(HELD_OUT_COLUMNS))


@pytest.mark.parametrize(
    ("accuracy_of", "ending"),
    [
        ({"C20": 80.0, "C30": 70.0, "any": 90.0}, "The hardest kind for this run is C30."),
        ({"C20": 80.0, "any": 75.0}, f"There are no C30 pairs: {NO_AGES}"),
        ({"any": 75.0}, f"There are no child-adult pairs (C20 and C30): {NO_AGES}"),
        ({"C20": 80.0, "C30": np.nan}, "C30 could not be judged: only 3 test pairs."),
        ({}, "so nothing could be verified."),
    ],
)
def test_sentence_on_the_held_out_check_names_what_is_missing(accuracy_of, ending):
    text = describe_held_out(checked(accuracy_of))
    assert text.endswith(ending)
    for kind, accuracy in accuracy_of.items():
        of_kind = f"{kind} {accuracy:.2f} % [{accuracy - 3:.1f}, {accuracy + 3:.1f}] (100 pairs)"
        assert np.isnan(accuracy) or of_kind in text


def bounds(source, *, seeds=(0,), epochs=14):
    manifest = pd.DataFrame(
        {"identity": ["a", "b", "c"], "split": ["train", "train", "heldout"], "source": source}, dtype=object
    )
    runs = {"arcface": [SimpleNamespace(imported=None, config=TrainConfig(epochs=epochs), seed=seed) for seed in seeds]}
    return describe_bounds(manifest, runs)


def test_how_far_findings_go_depends_on_the_pictures():
    drawn = bounds("synthetic", seeds=(0, 1, 2))
    assert "measured on drawn faces: 2 people to train on and 1 to test on, with the network `small`" in drawn
    assert "drawings by formula" in drawn
    assert "There are 3 seeds a method" in drawn
    real = bounds("mine", epochs=1)
    assert "measured on photographs: 2 people" in real
    assert "trained for 1 epoch." in real
    assert "drawing" not in real
    assert "82.65" not in real
    assert real.endswith("with one seed: how much of a difference is chance is not known.")
    assert "measured on drawn faces and photographs:" in bounds(["synthetic", "mine", "mine"])


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
        "arcface": [
            SimpleNamespace(imported=None, config=TrainConfig(inter_prototype="none"), summary=summary, seed=0)
        ],
        "interproto-sum": [
            SimpleNamespace(imported=None, config=TrainConfig(inter_prototype="child", seed=s), summary=summary, seed=s)
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
        return SimpleNamespace(imported=None, config=TrainConfig(**settings), classes=classes)

    alone = describe_methods({"arcface": [run()]})
    assert alone.startswith("1 training of 1 method, each on 7 images of 2 identities, 1 of them child identities.")
    text = describe_methods({"arcface": [run(), run(seed=1)], "other": [run(margin=0.1)]})
    assert text.startswith("3 trainings of 2 methods")
    assert "The runs differ in `margin`; all other settings that decide the result are equal" in text
    where = describe_methods({"arcface": [run(threads=1, wandb=True, device="cpu"), run(threads=2, seed=1)]})
    assert where.endswith("All settings that decide the result are equal, but for the seed.")
    assert "`keep_every_epoch`" in describe_methods({"arcface": [run(), run(keep_every_epoch=False)]})


def test_many_methods_stand_one_below_the_other():
    several = measures({f"m{i}": {"C20": 80.0 + i, "C30": 70.0 + i} for i in range(7)}, seeds=(0,))
    table = measures_table(several, decimals=1)
    assert list(table.columns) == ["method", "C20", "C30"]
    assert table.iloc[3].tolist() == ["m3", "83.0", "73.0"]
    few = measures_table(several[several["method"] != "m6"], decimals=1)
    assert few.iloc[1].tolist() == ["C30", *(f"{70 + i:.1f}" for i in range(6))]
