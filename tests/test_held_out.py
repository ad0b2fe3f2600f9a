"""The held-out check: only what is needed is embedded, by the run's own rules, and the record names them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from toy import toy_dataset

from interproto_lib.analysis import JudgingRules, embed_dataset, held_out_check, held_out_results, judging_rules
from interproto_lib.analysis import held_out as module
from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.data import FaceDataset
from interproto_lib.errors import RunError
from interproto_lib.runs import RunFolder, write_results
from interproto_lib.training import train

OFFICIAL = EvaluationConfig(verification_threshold="best_on_test", epoch_choice="best_on_test")
EPOCHS = 3


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(n_identities=8, n_heldout=6, n_images=6)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A run for which a child is below 8 years, so that of the toy's ages 6, 7, 8 and 33 on one falls out."""
    config = TrainConfig(
        backbone="tiny",
        embedding_dim=8,
        epochs=EPOCHS,
        batch_size=16,
        threads=1,
        device="cpu",
        precision="float32",
        keep_every_epoch=True,
        child_below_years=8.0,
    )
    return train(config, dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


@pytest.fixture(scope="module")
def embeddings(run, dataset):
    return embed_dataset(run, dataset)


@pytest.fixture
def embedded(monkeypatch):
    """The rows that were asked for, call by call."""
    calls: list[np.ndarray] = []
    original = module.embed_images

    def counted(backbone, images, **options):
        calls.append(options["rows"])
        return original(backbone, images, **options)

    monkeypatch.setattr(module, "embed_images", counted)
    return calls


def with_manifest(dataset, **columns):
    manifest = dataset.manifest.assign(**columns)
    return FaceDataset(name="toy", folder=None, manifest=manifest, images=dataset.images, settings={})


def test_nothing_is_embedded_where_there_is_no_pair(run, dataset, embeddings, embedded):
    table = held_out_check(run, with_manifest(dataset, split="train"), embeddings, evaluation=OFFICIAL)
    assert table.empty
    assert list(table.columns) == list(module.HELD_OUT_COLUMNS)
    assert embedded == []


def test_kept_epochs_embed_the_images_of_pairs_alone(run, dataset, embeddings, embedded):
    ages = dataset.manifest["age_years"].where(dataset.manifest["split"] == "train")
    splits = dataset.manifest["split"].mask(dataset.manifest["path"].str.startswith("id013/"), "train")
    said: list[tuple[int, int]] = []
    held_out_check(
        run,
        with_manifest(dataset, age_years=ages, split=splits),
        embeddings,
        evaluation=OFFICIAL,
        progress=lambda done, of: said.append((done, of)),
    )
    held_out_rows = np.flatnonzero(splits == "heldout")
    assert len(embedded) == EPOCHS - 1, "the last epoch is embedded already"
    for rows in embedded:
        assert set(rows) <= set(held_out_rows)
        assert len(rows) == len(set(rows))
    n = len(embedded[0])
    assert said == [(n, 2 * n), (2 * n, 2 * n)]


def test_a_chosen_epoch_has_the_accuracy_of_all_images_embedded(run, dataset, embeddings):
    """Against the definition: embed everything at each epoch, judge it as if it were the last, take the best."""
    best = held_out_check(run, dataset, embeddings, evaluation=OFFICIAL).set_index("pairs")
    threshold_on_test = EvaluationConfig(verification_threshold="best_on_test")
    by_epoch = {EPOCHS: held_out_check(run, dataset, embeddings, evaluation=threshold_on_test)}
    for epoch in range(1, EPOCHS):
        vectors = module.embed_images(module.load_backbone(run, epoch=epoch), dataset.images)
        everything = module.Embeddings(vectors, dataset.manifest)
        by_epoch[epoch] = held_out_check(run, dataset, everything, evaluation=threshold_on_test)
    accuracies = pd.DataFrame({e: t.set_index("pairs")["accuracy_percent"] for e, t in by_epoch.items()})
    assert list(best.index) == list(accuracies.index), "kinds keep their order, whichever epoch each is best at"
    pd.testing.assert_series_equal(best["accuracy_percent"], accuracies.max(axis=1), check_names=False)
    for kind, epoch in best["epoch"].items():
        if accuracies.loc[kind].isna().all():
            assert epoch == EPOCHS, "a kind with too few pairs has no best epoch"
        else:
            assert accuracies.loc[kind, epoch] == accuracies.loc[kind].max()
    assert best["accuracy_percent"].notna().sum() >= 3


def test_judging_on_the_test_pairs_never_looks_worse(run, dataset, embeddings):
    honest = held_out_check(run, dataset, embeddings).set_index("pairs")
    on_test = EvaluationConfig(verification_threshold="best_on_test")
    optimistic = held_out_check(run, dataset, embeddings, evaluation=on_test).set_index("pairs")
    most = held_out_check(run, dataset, embeddings, evaluation=OFFICIAL).set_index("pairs")
    assert (honest["epoch"] == EPOCHS).all()
    judged = honest.index[honest["accuracy_percent"].notna()]
    for better, worse in ((optimistic, honest), (most, optimistic)):
        assert (better.loc[judged, "accuracy_percent"] >= worse.loc[judged, "accuracy_percent"]).all()


def test_choosing_an_epoch_needs_kept_epochs(run, dataset, embeddings, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"]["keep_every_epoch"] = False
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"'run' kept no epochs.*keep_every_epoch=True"):
        held_out_check(RunFolder(tmp_path / "run"), dataset, embeddings, evaluation=OFFICIAL)


def test_without_ages_any_two_images_are_paired(run, dataset, embeddings):
    table = held_out_check(run, with_manifest(dataset, age_years=np.nan), embeddings)
    assert table[["pairs", "n_pairs"]].to_numpy().tolist() == [["any", 2 * 6 * 15]]


def test_who_is_a_child_follows_the_run(run, dataset, embeddings):
    counts = held_out_check(run, dataset, embeddings).set_index("pairs")["n_pairs"]
    # 6 held-out people with images at 6, 7, 8 years and 33, 34, 35: below 8 years are two of them
    assert counts["child-child"] == 2 * 6 * 1
    assert counts["C20"] == 2 * 6 * 2 * 3
    assert counts["adult-adult"] == 2 * 6 * 3


def test_gaps_follow_the_rules(run, dataset, embeddings):
    years = {5: 26.0, 4: 26.0, 3: 27.0}  # of a child at 6: 20, 20 and 21 years later
    last = dataset.manifest["path"].str[-5].astype(int)
    manifest = {"age_years": dataset.manifest["age_years"].mask(last.isin(list(years)), last.map(years))}
    changed = with_manifest(dataset, **manifest)
    inclusive = held_out_check(run, changed, embeddings).set_index("pairs")["n_pairs"]
    more_than = EvaluationConfig(gap_inclusive=False)
    exclusive = held_out_check(run, changed, embeddings, evaluation=more_than).set_index("pairs")["n_pairs"]
    # children at 6 and 7: 6 -> 26, 26, 27 and 7 -> 27 are 20 years or more; 6 -> 27 alone is more than 20
    assert (inclusive["C20"], exclusive["C20"]) == (2 * 6 * 4, 2 * 6 * 1)


def test_the_record_names_the_rules_and_gives_them_back(run, dataset, embeddings, tmp_path):
    rules = JudgingRules(evaluation=OFFICIAL, child_below_years=8.0)
    table = held_out_check(run, dataset, embeddings, evaluation=OFFICIAL)
    results = held_out_results(table, run=run.name, rules=rules)
    assert [r.name for r in results] == [f"accuracy/{kind}" for kind in table["pairs"]]
    for result, epoch in zip(results, table["epoch"], strict=True):
        for said in ("verification_threshold='best_on_test'", "gap_inclusive=True", "child_below_years=8.0"):
            assert said in result.protocol
        assert f"epoch {epoch};" in result.protocol
    write_results(tmp_path, "held_out", results, parameters={"run": run.name, **rules.to_dict()})
    assert judging_rules(RunFolder(tmp_path)) == rules
    path = tmp_path / "results" / "held_out.json"
    record = json.loads(path.read_text())
    del record["parameters"]["gap_inclusive"]
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"gap_inclusive missing\. Run notebooks/02_train\.ipynb"):
        judging_rules(RunFolder(tmp_path))
