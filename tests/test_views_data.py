"""Figures and sentences of data and training: ages, contact sheets, curves."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from interproto_lib.errors import ConfigError, DatasetError, ManifestError
from interproto_lib.views.ages import age_distribution_figure, describe_ages
from interproto_lib.views.sheets import contact_sheet_figure, contact_sheet_rows
from interproto_lib.views.style import ADULT_COLOUR, CHILD_COLOUR, UNLABELLED_COLOUR
from interproto_lib.views.training import describe_training, training_curves_figure

NAN = float("nan")


def manifest(ages, split="train"):
    n = len(ages)
    splits = [split] * n if isinstance(split, str) else split
    paths = [f"{i}.png" for i in range(n)]
    return pd.DataFrame({"path": paths, "identity": "a", "age_years": ages, "split": splits, "source": "made"})


def bars(axes):
    return [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]


def test_age_bars_count_each_group_of_the_paper():
    ages = [0, 12, 12.9, 13, 18, 19, 25, 26, 35, 36, 45, 46, 55, 56, 65, 66, 90, NAN, NAN]
    axes = age_distribution_figure(manifest(ages)).axes[0]
    assert [bar.get_height() for bar in bars(axes)] == [3, 2, 2, 2, 2, 2, 2, 2, 2]
    assert [text.get_text().split("\n")[0] for text in axes.texts] == ["3", *["2"] * 8]
    assert axes.texts[0].get_text().endswith("15.8%")
    assert axes.get_title(loc="left") == "Training images, n = 19"


def test_child_and_unlabelled_bars_stand_out_in_colour_and_print():
    child, *adults, unlabelled = bars(age_distribution_figure(manifest([5, 30, NAN])).axes[0])
    assert mpl.colors.same_color(child.get_facecolor(), CHILD_COLOUR)
    assert all(mpl.colors.same_color(bar.get_facecolor(), ADULT_COLOUR) for bar in adults)
    assert mpl.colors.same_color(unlabelled.get_edgecolor(), UNLABELLED_COLOUR)
    assert unlabelled.get_hatch()
    assert not child.get_hatch()


def test_one_panel_a_split_that_has_images():
    both = age_distribution_figure(manifest([5, 30, 40], ["train", "train", "heldout"]))
    assert [axes.get_title(loc="left") for axes in both.axes] == ["Training images, n = 2", "Held-out images, n = 1"]
    three = age_distribution_figure(manifest([5, 30, 40, 8], ["heldout", "train", "validation", "validation"]))
    titles = ["Training images, n = 1", "Validation images, n = 2", "Held-out images, n = 1"]
    assert [axes.get_title(loc="left") for axes in three.axes] == titles
    assert bars(three.axes[1])[0].get_height() == 1
    assert len(age_distribution_figure(manifest([5, 30])).axes) == 1


def test_ages_refuse_an_empty_manifest():
    with pytest.raises(ManifestError):
        age_distribution_figure(manifest([]))


@pytest.mark.parametrize(
    ("ages", "text"),
    [
        ([5, 30, 40, NAN], "1 shows a child under 13 (33.3% of the 3 labelled ones); 1 of 4 have no age label."),
        ([5, 6, 40, 50], "2 show a child under 13 (50.0% of the 4 labelled ones); all have an age label."),
        ([20, 30], "none shows a child under 13; all have an age label."),
        ([NAN, NAN], "none of the 2 has an age label"),
    ],
)
def test_sentence_on_ages(ages, text):
    assert text in describe_ages(manifest(ages))


def test_contact_sheet_prefers_identities_with_children_and_sorts_by_age():
    identities = [name for name in "abcd" for _ in range(5)]
    ages = np.array([30, 40, 20, 50, 60.0] * 4)
    ages[16] = 4  # the second image of d
    rows = contact_sheet_rows(ages, identities, n_identities=2, n_images=3)
    assert len(rows) == 6
    assert {identities[row] for row in rows[:3]} == {"d"}
    assert list(ages[rows[:3]]) == [4, 30, 60]
    assert np.all(np.diff(ages[rows[3:]]) > 0)
    assert np.array_equal(rows, contact_sheet_rows(ages, identities, n_identities=2, n_images=3))


def test_contact_sheet_frames_and_labels():
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    figure = contact_sheet_figure(images, np.array([3.0, 40.0, NAN, 50.0]), ["a", "a", "a", "b"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "3 y", "40 y", "age ?", "b", "50 y"]
    for frame, wanted in zip(axes.patches, [CHILD_COLOUR, ADULT_COLOUR, UNLABELLED_COLOUR, ADULT_COLOUR], strict=True):
        assert mpl.colors.same_color(frame.get_edgecolor(), wanted)
    assert axes.patches[0].get_linewidth() > 2 * axes.patches[1].get_linewidth()
    assert all(np.array_equal(drawn.get_array(), image) for drawn, image in zip(axes.images, images, strict=True))
    left, right, bottom, top = axes.images[0].get_extent()
    assert left < right
    assert top < bottom, "rows run downwards, so the first row of pixels is on top"
    assert axes.images[3].get_extent()[3] > bottom, "the second identity stands below the first"


def test_contact_sheets_know_who_is_a_child_here():
    ages = np.array([14.0, 30.0])
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert "0 of 2 images show a child" in contact_sheet_figure(images, ages, ["a", "b"]).description
    assert "1 of 2 images show a child" in contact_sheet_figure(
        images, ages, ["a", "b"], child_below_years=16.0
    ).description  # fmt: skip
    first = [contact_sheet_rows(ages, ["a", "b"], n_identities=1, seed=s, child_below_years=16.0) for s in range(9)]
    assert [list(rows) for rows in first] == [[0]] * 9


def test_contact_sheet_says_what_it_leaves_out():
    figure = contact_sheet_figure(np.zeros((5, 8, 8, 3), np.uint8), np.full(5, 30.0), ["a"] * 5, max_columns=3)
    assert figure.axes[0].texts[0].get_text() == "a\n+2 more"
    assert len(figure.axes[0].images) == 3
    with pytest.raises(DatasetError, match="2 images, 3 ages"):
        contact_sheet_figure(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3), ["a", "b"])


def run(accuracy=0.9, pushed=0.0):
    epochs = np.arange(1, 5) / 2
    return pd.DataFrame(
        {
            "epoch": epochs,
            "margin_loss": 3 - epochs,
            "inter_prototype_loss": pushed * np.array([1000.0, 100, 10, 1]),
            "accuracy": np.linspace(0, accuracy, 4),
            "learning_rate": 0.1,
        }
    )


def test_training_curves_draw_seeds_thin_and_their_mean_thick():
    figure = training_curves_figure({"ArcFace": [run(0.8), run(0.6)]})
    accuracy = next(axes for axes in figure.axes if axes.get_title(loc="left") == "Training accuracy")
    *seeds, mean = accuracy.lines
    assert [line.get_ydata()[-1] for line in seeds] == [0.8, 0.6]
    assert mean.get_ydata()[-1] == pytest.approx(0.7)
    assert mean.get_linewidth() > 2 * seeds[0].get_linewidth()


def test_a_loss_that_is_off_is_not_drawn_as_zero():
    figure = training_curves_figure({"ArcFace": [run()], "IP": [run(pushed=2.0)]})
    pushed = next(axes for axes in figure.axes if "Inter-Prototype" in axes.get_title(loc="left"))
    assert len(pushed.lines) == 1
    assert pushed.get_yscale() == "log"
    off = training_curves_figure({"ArcFace": [run()]})
    pushed = next(axes for axes in off.axes if "Inter-Prototype" in axes.get_title(loc="left"))
    assert not pushed.lines
    assert pushed.texts[0].get_text() == "off in all runs"


def test_training_refuses_metrics_without_a_column():
    with pytest.raises(ConfigError, match="ArcFace have no column accuracy"):
        training_curves_figure({"ArcFace": [run().drop(columns="accuracy")]})
    with pytest.raises(ConfigError):
        training_curves_figure({})


def test_sentence_on_training():
    text = describe_training({"ArcFace": [run(0.8), run(0.6)], "IP": [run(0.5, pushed=2.0)]})
    assert "ArcFace ends at a training accuracy of 70.0% (60.0% to 80.0% over 2 seeds); its Inter-Prototype" in text
    assert "IP ends at a training accuracy of 50.0% and an Inter-Prototype loss of 2." in text
