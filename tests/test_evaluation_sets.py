"""Which pairs are judged and which calibrate: the dataset's own people, lists from files, and never the same people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy import toy_dataset

from interproto_lib.analysis import aged_images
from interproto_lib.data import FaceDataset, evaluation_sets, files_of_test_sets
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(n_identities=4, n_heldout=4, n_validation=3, n_images=6)


@pytest.fixture
def lists(tmp_path):
    """Two lists in the official form over two folders of images, whose people do not overlap."""
    described = {}
    for name, people in (("mine", ("Ada", "Bea")), ("theirs", ("Cleo", "Dora"))):
        for person in people:
            (tmp_path / name / person).mkdir(parents=True)
            for number, age in ((1, 5), (2, 40)):
                pixels = np.full((56, 56, 3), 40 * number, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / person / f"{number}_{person}_{age}.jpg")
        first, second = people
        lines = [
            f"1 {first}/1_{first}_5.jpg {first}/2_{first}_40.jpg",
            f"1 {second}/1_{second}_5.jpg {second}/2_{second}_40.jpg",
            f"0 {first}/1_{first}_5.jpg {second}/2_{second}_40.jpg",
            f"0 {second}/1_{second}_5.jpg {first}/2_{first}_40.jpg",
        ]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
        described[name] = {
            "pairs": str(tmp_path / f"{name}.txt"),
            "images": str(tmp_path / name),
            "names": "agedb",
        }
    return described


def test_held_out_people_are_calibrated_on_validation_people_kind_by_kind(dataset):
    sets = evaluation_sets(dataset)
    assert list(sets.tests) == list(sets.validation)
    assert "C20" in sets.tests
    for kind, test in sets.tests.items():
        assert test.name == kind
        assert sets.validation[kind].name == f"validation {kind}"
    assert len(sets.all_sets) == 2 * len(sets.tests)
    assert sets.missing == {}


def test_age_matched_pairs_are_test_sets_of_their_own(dataset):
    plain, matched = evaluation_sets(dataset), evaluation_sets(dataset, age_matched=True)
    added = [name for name in matched.tests if name not in plain.tests]
    assert "C20, age-matched" in added
    assert "any, age-matched" not in added
    for name in added:
        one = matched.tests[name]
        assert one.name == name
        assert matched.validation[name].name == f"validation {name}"
        ages = one.images["age_years"].to_numpy()
        of_left = [sorted(ages[one.pairs["left"][one.pairs["same"] == same]]) for same in (True, False)]
        assert of_left[0] == of_left[1], "the younger ages are equal between pairs of one person and of two"


def test_a_list_of_ones_own_is_calibrated_on_another_or_on_validation_people(dataset, lists):
    on_another = evaluation_sets(
        dataset, {"mine": {**lists["mine"], "validation": "theirs"}, "theirs": lists["theirs"]}
    )
    assert "mine" in on_another.tests
    assert "theirs" in on_another.tests, "what calibrates is judged as well"
    crossed = {"mine": {**lists["mine"], "validation": "theirs"}, "theirs": {**lists["theirs"], "validation": "mine"}}
    assert {name: one.name for name, one in evaluation_sets(dataset, crossed).validation.items() if name in lists} == {
        "mine": "theirs",
        "theirs": "mine",
    }
    assert on_another.validation["mine"].name == "theirs"
    on_people = evaluation_sets(dataset, {"mine": {**lists["mine"], "validation": "C20"}})
    assert on_people.validation["mine"].name == "validation C20"
    on_nothing = evaluation_sets(dataset, {"mine": lists["mine"]})
    assert "mine" not in on_nothing.validation
    assert on_nothing.tests["mine"].images["age_years"].tolist() == [5.0, 5.0, 40.0, 40.0]


def test_people_who_are_judged_calibrate_nothing(dataset, lists):
    with pytest.raises(DatasetError, match=r"share 2 people \(first: 'Ada', 'Bea'\)"):
        evaluation_sets(dataset, {"mine": {**lists["mine"], "validation": "again"}, "again": lists["mine"]})
    manifest = dataset.manifest.assign(
        split=dataset.manifest["split"].where(dataset.manifest["identity"] != "id004", "validation")
    )
    manifest.loc[manifest.index[manifest["identity"] == "id004"][:3], "split"] = "heldout"
    torn = FaceDataset(name="torn", folder=None, manifest=manifest, images=dataset.images, settings={})
    with pytest.raises(DatasetError, match=r"share 1 people \(first: 'id004'\)"):
        evaluation_sets(torn)


def test_wrong_specifications_are_told(dataset, lists, tmp_path):
    with pytest.raises(ConfigError, match="calibrated on 'nobody', which is neither"):
        evaluation_sets(dataset, {"mine": {**lists["mine"], "validation": "nobody"}})
    with pytest.raises(ConfigError, match="cannot be called 'C20'"):
        evaluation_sets(dataset, {"C20": lists["mine"]})
    with pytest.raises(ConfigError, match="cannot be called 'validation C20'"):
        evaluation_sets(dataset, {"validation C20": lists["mine"]})
    with pytest.raises(ConfigError, match="calibrated on itself"):
        evaluation_sets(dataset, {"mine": {**lists["mine"], "validation": "mine"}})
    with pytest.raises(ConfigError, match="must be described by a mapping"):
        evaluation_sets(dataset, {"mine": "mine.txt"})
    with pytest.raises(ConfigError, match="on_missing='ignore'"):
        evaluation_sets(dataset, on_missing="ignore")


def test_missing_files_are_an_error_or_named_never_silent(dataset, lists, tmp_path):
    gone = {"gone": {**lists["mine"], "pairs": str(tmp_path / "gone.txt")}, "mine": lists["mine"]}
    with pytest.raises(DatasetNotFoundError, match="gone"):
        evaluation_sets(dataset, gone)
    sets = evaluation_sets(dataset, gone, on_missing="leave_out")
    assert "mine" in sets.tests
    assert "gone" not in sets.tests
    assert "gone" in sets.missing["gone"]


def test_a_dataset_without_ages_has_pairs_of_any_kind(dataset):
    unlabelled = FaceDataset(
        name="u",
        folder=None,
        manifest=dataset.manifest.assign(age_years=np.nan),
        images=dataset.images,
        settings={},
    )
    sets = evaluation_sets(unlabelled)
    assert list(sets.tests) == ["any"]
    assert pd.isna(sets.tests["any"].images["age_years"]).all()


def test_files_of_test_sets_that_appear_or_change_are_noticed(lists, tmp_path):
    described = {**lists, "LFW": {"bin": str(tmp_path / "lfw.bin")}}
    before = files_of_test_sets(described)
    assert before["LFW"] == []
    assert len(before["mine"]) == 2, "the list and the folder of images"
    (tmp_path / "lfw.bin").write_bytes(b"x")
    after = files_of_test_sets(described)
    assert [size for _, size, _ in after["LFW"]] == [1]
    assert after["mine"] == before["mine"]
    (tmp_path / "mine.txt").write_text("other\n")
    assert files_of_test_sets(described)["mine"] != before["mine"]


def test_errors_by_age_take_their_threshold_from_other_people_where_these_have_pairs_enough(dataset):
    sets = evaluation_sets(dataset)
    # 3 validation people with 6 images each: 18 * 17 / 2 - 3 * 15 = 108 pairs of two people; 4 held-out: 216
    (enough,) = aged_images(sets, target_fmr=1 / 108)
    assert enough.calibration["identity"].nunique() == 3
    (few,) = aged_images(sets, target_fmr=1 / 150)
    assert few.calibration is None, "the images judged set the threshold themselves"
    assert len(few.images) == 24
    assert aged_images(sets, target_fmr=1 / 300) == []
