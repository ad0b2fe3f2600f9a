"""The built-in dataset: settings, manifest, drawing by one or several processes."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from interproto_lib.data import available_pair_kinds, class_table, load_dataset, save_dataset, validate_manifest
from interproto_lib.data.synthetic import (
    SyntheticSettings,
    draw_faces,
    make_synthetic_dataset,
    synthetic_manifest,
)
from interproto_lib.errors import ConfigError


@pytest.fixture(scope="module")
def demo():
    return synthetic_manifest(SyntheticSettings.demo())


def test_manifest_is_valid_and_named_by_index(demo):
    checked = validate_manifest(demo)
    assert {"path", "identity", "age_years", "split", "source", "identity_index", "image_index"} <= set(checked)
    assert demo["path"].is_unique
    assert demo.loc[0, "path"] == "id0000/000.png"
    assert (demo["source"] == "synthetic").all()
    for _, group in demo.groupby("identity"):
        assert group["image_index"].tolist() == list(range(len(group)))
        assert group["identity_index"].nunique() == 1
    assert (demo["age_years"] * 10 == np.rint(demo["age_years"] * 10)).all()
    assert demo["age_years"].between(1.0, 80.0).all()


def test_splits_share_no_identity_and_have_the_numbers_asked_for(demo):
    assert (demo.groupby("identity")["split"].nunique() == 1).all()
    by_split = demo.groupby("split")["identity"].nunique()
    assert by_split.to_dict() == {"train": 400, "heldout": 120, "validation": 40}
    counts = demo[demo["split"] == "train"].groupby("identity").size()
    assert 11.0 < counts.mean() < 13.0
    assert counts.min() >= 7
    assert counts.max() <= 16
    assert counts.nunique() > 5


def test_few_training_identities_have_child_images(demo):
    classes = class_table(demo, min_child_images=7)
    assert classes["is_child"].sum() == 60
    assert set(classes.loc[classes["is_child"], "n_child_images"]) == {7, 8, 9, 10}
    assert (classes.loc[~classes["is_child"], "n_child_images"] == 0).all()


@pytest.mark.parametrize("split", ["heldout", "validation"])
def test_unseen_identities_have_all_ages_and_all_pairs(demo, split):
    heldout = demo[demo["split"] == split]
    child = heldout["age_years"] < 13
    assert (heldout[child].groupby("identity").size() == 4).all()
    assert (heldout[~child].groupby("identity").size() == 8).all()
    assert heldout.loc[~child, "age_years"].min() >= 18
    oldest = heldout.groupby("identity")["age_years"].max()
    youngest = heldout.groupby("identity")["age_years"].min()
    assert ((oldest - youngest) >= 30).all()
    for settings in (SyntheticSettings.demo(), SyntheticSettings.tiny()):
        kinds = available_pair_kinds(synthetic_manifest(settings), split=split)
        least = 100 if split == "heldout" else 40
        assert min(kinds[kind] for kind in ("C20", "C30", "adult-adult", "child-child", "any")) >= least


def test_mean_ages_are_those_asked_for():
    settings = SyntheticSettings(n_identities=400, n_child_identities=200, child_identity_adult_age_years=34.0)
    manifest = synthetic_manifest(settings)
    train = manifest[(manifest["split"] == "train") & (manifest["age_years"] >= 13)]
    assert train["age_years"].mean() == pytest.approx(34.0, abs=1.5)
    assert train.groupby("identity")["age_years"].mean().std() == pytest.approx(8.0, abs=1.5)
    young = synthetic_manifest(SyntheticSettings.demo())
    later = young[(young["identity_index"] < 60) & (young["age_years"] >= 13)]
    assert later["age_years"].mean() == pytest.approx(18.6, abs=1.5)  # 16, cut off below 14


def test_seeds_and_only_seeds_change_the_people():
    first, again, other = (synthetic_manifest(SyntheticSettings.tiny(seed=seed)) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first["age_years"].equals(other["age_years"])
    assert synthetic_manifest(SyntheticSettings.tiny(image_size=112)).equals(first)


def test_without_unseen_identities():
    nobody = {"n_heldout_identities": 0, "n_validation_identities": 0}
    manifest = synthetic_manifest(SyntheticSettings(n_identities=5, n_child_identities=0, **nobody))
    assert (manifest["split"] == "train").all()
    assert manifest["age_years"].min() >= 14


SMALL = SyntheticSettings(
    n_identities=8,
    images_per_identity=9,
    n_child_identities=3,
    child_images=(2, 4),
    n_heldout_identities=4,
    n_validation_identities=2,
)


def test_validation_identities_change_no_other_image():
    """Rows and pixels of training and held-out identities are those drawn when there was no validation split yet."""
    for n_validation in (0, 2, 5):
        dataset = make_synthetic_dataset(replace(SMALL, n_validation_identities=n_validation))
        others = (dataset.manifest["split"] != "validation").to_numpy()
        assert others.tolist() == [True] * 106 + [False] * 12 * n_validation
        table = dataset.manifest[others].to_csv(index=False, lineterminator="\n").encode()
        found = [hashlib.sha256(content).hexdigest() for content in (table, dataset.images[others].tobytes())]
        assert found == [
            "4431ef072119cccc6b7dbe92abf044db1589940733c0f23fb05cfa9e5da3488b",
            "58338573c801b0c1173cb7e3e1e6887eff22ea7b53dda46be8555843d6674267",
        ]
    many = synthetic_manifest(SyntheticSettings(n_identities=9_990, n_heldout_identities=5, n_validation_identities=9))
    assert many["identity"].iloc[0] == "id0000", "names of the others do not change with the number of digits"
    assert many["path"].is_unique
    assert many["identity"].nunique() == 10_004


def test_dataset_holds_the_drawn_faces_and_keeps_them(tmp_path):
    steps = []
    dataset = make_synthetic_dataset(SMALL, progress=lambda done, total: steps.append((done, total)))
    assert dataset.images.shape == (len(dataset), 56, 56, 3)
    assert steps[-1] == (len(dataset), len(dataset))
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    rows = dataset.manifest.iloc[[3, 50, -1]]
    faces = draw_faces(rows["identity_index"], rows["image_index"], rows["age_years"], settings=SMALL)
    assert np.array_equal(dataset.images[[3, 50, -1]], faces)
    assert SyntheticSettings(**json.loads(json.dumps(dataset.settings))) == SMALL
    kept = load_dataset(save_dataset(dataset, tmp_path / "faces").folder)
    assert np.array_equal(kept.images, dataset.images)
    assert kept.manifest.equals(dataset.manifest)


def test_two_processes_draw_the_same_bytes():
    steps = []
    alone = make_synthetic_dataset(SMALL)
    shared = make_synthetic_dataset(SMALL, n_processes=2, progress=lambda done, total: steps.append(done))
    assert len(steps) > 1
    assert np.array_equal(alone.images, shared.images)


@pytest.mark.parametrize("n_processes", [0, -1, 1.5, True])
def test_number_of_processes_is_checked(n_processes):
    with pytest.raises(ConfigError, match="n_processes"):
        make_synthetic_dataset(SMALL, n_processes=n_processes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_identities": 1}, "n_identities"),
        ({"n_identities": 5.0}, "n_identities"),
        ({"n_identities": 10, "n_child_identities": 11}, "must not exceed"),
        ({"images_per_identity": 0}, "images_per_identity"),
        ({"child_images": (5, 3)}, "child_images"),
        ({"child_images": (0, 3)}, "child_images"),
        ({"child_images": 4}, "child_images"),
        ({"n_heldout_identities": -1}, "n_heldout_identities"),
        ({"n_validation_identities": 2.0}, "n_validation_identities"),
        ({"heldout_child_images": 0, "heldout_adult_images": 0}, "Held-out and validation identities need images"),
        ({"image_size": 64}, "image_size"),
        ({"adult_age_years": 90.0}, "adult_age_years"),
        ({"child_identity_adult_age_years": 9.0}, "child_identity_adult_age_years"),
        ({"adult_age_spread_years": -1.0}, "adult_age_spread_years"),
        ({"nuisance": float("nan")}, "nuisance"),
        ({"nuisance": 2.5}, "nuisance"),
        ({"amplitude": -0.1}, "amplitude"),
        ({"amplitude": "1"}, "amplitude"),
        ({"child_amplitude_floor": 1.1}, "child_amplitude_floor"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticSettings(**values)


def test_recipes():
    tiny, demo = SyntheticSettings.tiny(), SyntheticSettings.demo(seed=4)
    assert (tiny.n_identities, tiny.n_child_identities, tiny.child_images) == (80, 20, (4, 6))
    assert (tiny.n_validation_identities, demo.n_validation_identities) == (16, 40)
    assert (tiny.n_heldout_identities, tiny.heldout_child_images, tiny.heldout_adult_images) == (40, 3, 5)
    assert (demo.n_identities, demo.n_child_identities, demo.child_images, demo.nuisance) == (400, 60, (7, 10), 0.7)
    assert demo.seed == 4
