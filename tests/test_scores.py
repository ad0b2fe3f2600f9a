"""Scores of runs: right for every pair and epoch, each image embedded once, never those of other pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from toy import tiny, toy_dataset

from interproto_lib.analysis import embed_images, embed_paths, load_backbone, load_scores, score_test_sets
from interproto_lib.analysis import scores as module
from interproto_lib.analysis.scores import SCORED_PAIR_COLUMNS, kept_epochs
from interproto_lib.config import EvaluationConfig
from interproto_lib.data import DatasetSource, FaceDataset, VerificationSet, held_out_sets
from interproto_lib.errors import DatasetError, RunError
from interproto_lib.training import train

EPOCHS = 3


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(n_identities=8, n_heldout=6, n_validation=4, n_images=6)


@pytest.fixture
def run(trained, tmp_path):
    """A fresh copy, so that no test finds the scores of another."""
    import shutil

    shutil.copytree(trained.path, tmp_path / "arcface-s0")
    return type(trained)(tmp_path / "arcface-s0")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(tiny(epochs=EPOCHS), dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


@pytest.fixture
def embedded(monkeypatch):
    """How many images were embedded, call by call."""
    calls: list[int] = []

    def counted(backbone, source, paths, **options):
        calls.append(len(paths))
        return embed_paths(backbone, source, paths, **options)

    monkeypatch.setattr(module, "embed_paths", counted)
    return calls


def pair_by_pair(run, dataset, test_set, epoch):
    """Two images at a time, in float64 after the network: what the official code does, written anew."""
    backbone = load_backbone(run, epoch=None if epoch == EPOCHS else epoch)
    rows = {path: row for row, path in enumerate(dataset.manifest["path"])}
    cosines = []
    with torch.inference_mode():
        for pair in test_set.pairs.itertuples():
            paths = test_set.images["path"].iloc[[pair.left, pair.right]]
            images = torch.from_numpy(dataset.images[[rows[path] for path in paths]]).permute(0, 3, 1, 2)
            left, right = backbone((images / 255 - 0.5) / 0.5).double().numpy()
            cosines.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
    return np.array(cosines)


def test_scores_are_those_of_the_pairs_one_by_one_at_every_epoch(run, dataset):
    sets = held_out_sets(dataset)

    scored = score_test_sets(run, [sets["C20"], sets["child-child"]])
    assert list(scored) == ["C20", "child-child"]
    for name, scores in scored.items():
        assert scores.epochs == (1, 2, EPOCHS)
        for epoch in scores.epochs:
            np.testing.assert_allclose(scores.at(epoch), pair_by_pair(run, dataset, sets[name], epoch), atol=1e-5)
    with pytest.raises(RunError, match="not scored at epoch 9, only at 1, 2, 3"):
        scored["C20"].at(9)


def test_pairs_carry_who_and_how_old(run, dataset):
    scores = score_test_sets(run, [held_out_sets(dataset)["C20"]])["C20"]
    manifest = dataset.manifest.set_index("path")
    assert list(scores.pairs.columns) == list(SCORED_PAIR_COLUMNS)
    for side in ("left", "right"):
        of_side = manifest.loc[scores.pairs[side]]
        assert list(of_side["identity"]) == list(scores.pairs[f"{side}_identity"])
        assert list(of_side["age_years"]) == list(scores.pairs[f"{side}_age_years"])
        assert set(of_side["split"]) == {"heldout"}
    assert list(scores.same) == list(scores.pairs["left_identity"] == scores.pairs["right_identity"])


def test_an_image_is_embedded_once_an_epoch_however_many_pairs_and_sets_it_is_in(run, dataset, embedded):
    sets = list(held_out_sets(dataset).values())
    said: list[tuple[int, int]] = []
    score_test_sets(run, sets, progress=lambda done, of: said.append((done, of)))
    n_unique = len({path for one in sets for path in one.images["path"]})
    assert sum(len(one.pairs) for one in sets) * 2 > 3 * n_unique
    assert embedded == [n_unique] * EPOCHS
    assert said[-1] == (EPOCHS * n_unique, EPOCHS * n_unique)


def test_scores_on_disk_are_read_back_and_never_those_of_other_pairs(run, dataset, embedded):
    first = score_test_sets(run, [held_out_sets(dataset)["C20"]])["C20"]
    assert len(embedded) == EPOCHS
    again = score_test_sets(run, [held_out_sets(dataset)["C20"]])["C20"]
    assert len(embedded) == EPOCHS, "nothing is embedded again"
    np.testing.assert_array_equal(first.cosines, again.cosines)
    pd.testing.assert_frame_equal(first.pairs, again.pairs)
    np.testing.assert_array_equal(load_scores(run, "C20").cosines, first.cosines)
    other = score_test_sets(run, [held_out_sets(dataset, seed=1)["C20"]])["C20"]
    assert len(embedded) == 2 * EPOCHS, "other negatives are other pairs"
    assert not other.pairs.equals(first.pairs)
    flipped = EvaluationConfig(embedding_flip="sum")
    score_test_sets(run, [held_out_sets(dataset, seed=1)["C20"]], evaluation=flipped)
    assert len(embedded) == 3 * EPOCHS, "the same pairs, embedded in another way"


def test_a_run_that_kept_no_epochs_is_scored_at_its_last(dataset, tmp_path):
    run = train(tiny(epochs=2, keep_every_epoch=False), dataset, tmp_path / "arcface-s0", progress="none")
    assert kept_epochs(run) == (2,)
    assert score_test_sets(run, [held_out_sets(dataset)["C20"]])["C20"].epochs == (2,)


def test_missing_scores_are_told_and_names_that_look_alike_kept_apart(run, dataset):
    with pytest.raises(RunError, match=r"AgeDB-C20\.parquet is missing.*02_train"):
        load_scores(run, "AgeDB-C20")
    one = held_out_sets(dataset)["C20"]
    with pytest.raises(RunError, match="Two test sets are called 'C20'"):
        score_test_sets(run, [one, one])
    spaced, underscored = (
        VerificationSet(name=name, images=one.images, pairs=one.pairs, source=one.source)
        for name in ("my set", "my_set")
    )
    score_test_sets(run, [spaced])
    score_test_sets(run, [underscored])
    assert [load_scores(run, name).test_set for name in ("my set", "my_set")] == ["my set", "my_set"]


def test_who_is_in_the_pairs_is_what_the_test_set_says_now(run, dataset, embedded):
    one = held_out_sets(dataset)["C20"]
    parts = {"name": one.name, "pairs": one.pairs, "source": one.source}
    nameless = VerificationSet(images=one.images.assign(identity=None, age_years=np.nan), **parts)
    before = score_test_sets(run, [nameless])["C20"]
    assert before.pairs["left_identity"].isna().all()
    now = score_test_sets(run, [one])["C20"]
    assert len(embedded) == EPOCHS, "the cosines are the same"
    assert now.pairs["left_identity"].notna().all()


def test_people_who_were_trained_on_are_not_judged(run, dataset):
    """After the dataset was made anew with another division of the people, or other images."""
    swapped = {"train": "heldout", "heldout": "train", "validation": "validation"}
    manifest = dataset.manifest.assign(split=dataset.manifest["split"].map(swapped))
    divided = FaceDataset(name="toy", folder=None, manifest=manifest, images=dataset.images, settings={})
    with pytest.raises(RunError, match=r"trained on 8 people who are now held out .*\(first: 'id000'"):
        score_test_sets(run, [next(iter(held_out_sets(divided).values()))])
    images = dataset.images.copy()
    images[0] += 1
    redrawn = FaceDataset(name="toy", folder=None, manifest=dataset.manifest, images=images, settings={})
    with pytest.raises(RunError, match="trained on other images"):
        score_test_sets(run, [held_out_sets(redrawn)["C20"]])


@pytest.mark.parametrize("flip", ["none", "sum", "concatenate"])
def test_embeddings_with_the_mirror_image(run, dataset, flip):
    backbone = load_backbone(run)
    paths = list(dataset.manifest["path"][:5])
    vectors = embed_paths(backbone, DatasetSource(dataset=dataset), paths, flip=flip, batch_size=2)
    with torch.inference_mode():
        values = (torch.from_numpy(dataset.images[:5]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        plain, mirrored = (backbone(v).double().numpy() for v in (values, values.flip(3)))
    expected = {"none": plain, "sum": plain + mirrored, "concatenate": np.concatenate([plain, mirrored], axis=1)}[flip]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(embed_images(backbone, dataset.images[:5], flip=flip), vectors, atol=1e-6)


def test_bfloat16_is_close_and_not_the_same(run, dataset):
    backbone = load_backbone(run)
    exact, rounded = (embed_images(backbone, dataset.images[:8], precision=p) for p in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.05


def test_a_test_set_is_checked_when_it_is_made(dataset):
    one = held_out_sets(dataset)["C20"]
    parts = {"name": "x", "images": one.images, "pairs": one.pairs, "source": one.source}
    wrong = {
        r"no column age_years": {"images": one.images.drop(columns="age_years")},
        r"stands twice": {"images": pd.concat([one.images, one.images.iloc[:1]], ignore_index=True)},
        r"Pair 0 of test set 'x' has left 9999": {"pairs": one.pairs.assign(left=9999)},
        r"hold 0 of one person": {"pairs": one.pairs.assign(same=False)},
    }
    for message, change in wrong.items():
        with pytest.raises(DatasetError, match=message):
            VerificationSet(**{**parts, **change})
    with pytest.raises(DatasetError, match=r"no image 'nowhere\.png'"):
        one.source.read(["nowhere.png"])
    swapped = VerificationSet(**{**parts, "pairs": one.pairs.rename(columns={"left": "right", "right": "left"})})
    assert swapped.sha256 != one.sha256
    assert VerificationSet(**{**parts, "name": "y"}).sha256 == one.sha256, "the protocol is the pairs, not the name"
