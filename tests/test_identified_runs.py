"""Identification of runs: ranks against brute force, which epoch, which sets, what is told, what it costs."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from toy import tiny, toy_dataset

from interproto_lib.analysis import (
    chosen_epoch,
    embed_paths,
    identification_rates,
    identification_trials,
    identify_methods,
    load_backbone,
    model_costs,
    rank_table,
    score_test_sets,
    trial_cells,
    trial_differences,
)
from interproto_lib.analysis import identified_runs as module
from interproto_lib.analysis.identified_runs import IdentifiedRun, ModelCosts, cmc_curves, cost_results
from interproto_lib.config import EvaluationConfig
from interproto_lib.data import (
    EvaluationSets,
    IdentificationTest,
    VerificationSet,
    evaluation_sets,
    identification_tests,
    publish_identification_tests,
    read_identification_set,
)
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.training import train
from interproto_lib.views import (
    costs_table,
    describe_costs,
    describe_identification_differences,
    describe_identification_rates,
    describe_identification_rules,
    describe_identification_tests,
    describe_judged_epochs,
    describe_published_identification,
    identification_cells,
    identification_rates_table,
    identification_tests_table,
    paper_table,
)

EPOCHS = 3
NAMES = {"arcface": "ArcFace", "other": "Other"}


@pytest.fixture(scope="module")
def dataset():
    """Images of held-out people are mostly noise, so that not everybody is found."""
    toy = toy_dataset(n_identities=8, n_heldout=6, n_validation=4, n_images=6)
    images = toy.images.copy()
    heldout = np.flatnonzero(toy.manifest["split"] == "heldout")
    noise = np.random.default_rng(5).integers(0, 255, (len(heldout), 7, 7, 3)).repeat(8, 1).repeat(8, 2)
    images[heldout] = (0.3 * images[heldout] + 0.7 * noise).astype(np.uint8)
    return replace(toy, images=images)


@pytest.fixture(scope="module")
def sets(dataset):
    return evaluation_sets(dataset)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(tiny(epochs=EPOCHS), dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "arcface-s0")
    return type(trained)(tmp_path / "arcface-s0")


@pytest.fixture(scope="module")
def tests(dataset, sets):
    """The held-out people, a smaller gap of the same people, and a set of other people of the same source."""
    own = identification_tests(dataset, sets).tests
    again = replace(own["C20"].identification, name="again")
    return {**own, "again": IdentificationTest(identification=again, source=own["C20"].source)}


def ranks_by_hand(run, dataset, test, epoch):
    """One probe at a time in float64 after the network: 1 + images of others at least as near as the mate."""
    backbone = load_backbone(run, epoch=None if epoch == EPOCHS else epoch)
    row_of = {path: row for row, path in enumerate(dataset.manifest["path"])}

    def embedded(path):
        values = torch.from_numpy(dataset.images[[row_of[path]]]).permute(0, 3, 1, 2)
        with torch.inference_mode():
            vector = backbone((values / 255 - 0.5) / 0.5).double().numpy()[0]
        return vector / np.linalg.norm(vector)

    table = test.identification.table
    gallery = [(row.identity, embedded(row.path)) for row in table.itertuples() if row.role == "gallery"]
    ranks = []
    for probe in table[table["role"] == "probe"].itertuples():
        vector = embedded(probe.path)
        mate = max(vector @ other for identity, other in gallery if identity == probe.identity)
        ranks.append(1 + sum(vector @ other >= mate for identity, other in gallery if identity != probe.identity))
    return ranks


def test_ranks_are_those_of_brute_force_at_every_epoch(run, dataset, tests, sets):
    of_epochs = {epoch: ranks_by_hand(run, dataset, tests["C20"], epoch) for epoch in (1, 2, EPOCHS)}
    assert len(set(of_epochs[EPOCHS])) > 2, "not everybody is found, so that ranks can be wrong"
    last = EvaluationConfig(epoch_choice="last")
    found = identify_methods({"arcface": [run]}, tests, validation={}, evaluation=last)["arcface"][0]
    assert (found.run, found.seed) == ("arcface-s0", 0)
    assert found.epochs == {"C20": EPOCHS, "again": EPOCHS}
    assert found.ranks["C20"].tolist() == of_epochs[EPOCHS]

    best = EvaluationConfig(epoch_choice="best_on_test")
    found = identify_methods({"arcface": [run]}, tests, validation={}, evaluation=best)["arcface"][0]
    hits = {epoch: np.mean(np.array(ranks) == 1) for epoch, ranks in of_epochs.items()}
    wanted = max(epoch for epoch in hits if hits[epoch] == max(hits.values()))
    assert found.epochs["C20"] == wanted, "the best, of equally good ones the latest"
    assert found.ranks["C20"].tolist() == of_epochs[wanted]


def test_the_best_epoch_of_a_set_is_the_latest_of_those_with_most_hits():
    ranks = {1: np.array([1, 1, 5]), 2: np.array([1, 2, 1]), 3: np.array([2, 2, 1])}
    assert module._best_epoch(ranks) == 2


def test_by_default_the_epoch_is_the_one_that_verification_chooses(run, dataset, tests, sets):
    scores = score_test_sets(run, list(sets.validation.values()))
    by_name = {name: scores[one.name] for name, one in sets.validation.items()}
    wanted = chosen_epoch(by_name, (1, 2, EPOCHS), EvaluationConfig())
    found = identify_methods({"arcface": [run]}, tests, validation=sets.validation)["arcface"][0]
    assert set(found.epochs.values()) == {wanted}
    assert found.ranks["C20"].tolist() == ranks_by_hand(run, dataset, tests["C20"], wanted)


def test_images_that_sets_share_are_embedded_once_an_epoch(run, tests, sets, monkeypatch):
    calls, said = [], []

    def counted(backbone, source, paths, **options):
        calls.append(len(paths))
        return embed_paths(backbone, source, paths, **options)

    monkeypatch.setattr(module, "embed_paths", counted)
    n_unique = len(tests["C20"].identification.images)
    for choice, n_epochs in (("last", 1), ("best_on_test", EPOCHS)):
        calls.clear()
        identify_methods(
            {"arcface": [run]},
            tests,
            validation={},
            evaluation=EvaluationConfig(epoch_choice=choice),
            progress=lambda what: lambda done, of: said.append((what, done, of)),
        )
        assert calls == [n_unique] * n_epochs
        assert said[-1] == ("arcface-s0, probes and gallery", n_epochs * n_unique, n_epochs * n_unique)


def test_epochs_that_cannot_be_chosen_are_told(run, dataset, tests, tmp_path):
    with pytest.raises(RunError, match="no validation identities"):
        identify_methods({"arcface": [run]}, tests, validation={})
    held_out = evaluation_sets(dataset).tests
    with pytest.raises(RunError, match="no validation identities"):
        identify_methods({"arcface": [run]}, tests, validation=held_out)  # the very people searched for
    bare = train(tiny(epochs=2, keep_every_epoch=False), dataset, tmp_path / "bare-s0", progress="none")
    with pytest.raises(RunError, match="'bare-s0' kept no epochs"):
        identify_methods(
            {"bare": [bare]}, tests, validation={}, evaluation=EvaluationConfig(epoch_choice="best_on_test")
        )
    with pytest.raises(RunError, match="kept no epochs"):
        identify_methods({"bare": [bare]}, tests, validation={})
    last = EvaluationConfig(epoch_choice="last")
    found = identify_methods({"bare": [bare]}, tests, validation={}, evaluation=last)["bare"][0]
    assert found.epochs["C20"] == 2


def test_sets_are_of_held_out_people_and_what_is_missing_says_why(dataset, sets):
    found = identification_tests(dataset, sets)
    assert list(found.tests) == ["C20"]
    assert "No identity has" in found.missing["C30"], "the toy's gaps are 25 to 29 years"
    probes, gallery = found.tests["C20"].probe_images, found.tests["C20"].gallery_images
    manifest = dataset.manifest.set_index("path")
    assert set(manifest.loc[probes["path"], "split"]) | set(manifest.loc[gallery["path"], "split"]) == {"heldout"}
    assert list(probes["identity"]) == list(gallery["identity"])
    assert ((gallery["age_years"] - probes["age_years"]) >= 20).all()
    other = identification_tests(dataset, sets, seed=1).tests["C20"].identification
    assert other.sha256 != found.tests["C20"].identification.sha256
    young = identification_tests(dataset, sets, child_below_years=7.0).tests["C20"].probe_images
    assert (young["age_years"] < 7).all()


def test_without_ages_anybody_is_searched_for_and_that_is_said(dataset, sets):
    manifest = dataset.manifest.assign(age_years=np.nan)
    lonely = manifest["identity"] == manifest.loc[manifest["split"] == "heldout", "identity"].iloc[0]
    keep = ~lonely | ~manifest["identity"].duplicated()
    ageless = replace(dataset, manifest=manifest[keep].reset_index(drop=True), images=dataset.images[keep.to_numpy()])
    found = identification_tests(ageless, EvaluationSets(tests={}, validation={}, missing={"mine": "gone."}))
    assert list(found.tests) == ["any age"]
    assert set(found.missing) == {"C20", "C30", "mine"}
    one = found.tests["any age"]
    assert (len(one.probe_images), len(one.gallery_images)) == (5, 6)
    assert set(one.gallery_images["identity"]) - set(one.probe_images["identity"]) == {
        manifest.loc[lonely, "identity"].iloc[0]
    }
    assert not set(one.probe_images["path"]) & set(one.gallery_images["path"])
    shuffled = replace(
        ageless,
        manifest=ageless.manifest.iloc[::-1].reset_index(drop=True),
        images=ageless.images[::-1],
    )
    again = identification_tests(shuffled, EvaluationSets(tests={}, validation={}, missing={})).tests["any age"]
    pairs_of = [dict(zip(t.probe_images["identity"], t.probe_images["path"], strict=True)) for t in (one, again)]
    assert pairs_of[0] == pairs_of[1], "the draw does not depend on the order of the rows"
    said = describe_identification_tests(found)
    assert "1 identification set could be made." in said
    assert "This is no child-adult search" in said
    assert "1 of them a distractor" in said
    assert "**C20** is left out: " in said
    assert "**mine** is left out: gone." in said
    nobody = replace(ageless, manifest=ageless.manifest.assign(split="train"))
    none = identification_tests(nobody, EvaluationSets(tests={}, validation={}, missing={}))
    assert none.tests == {}
    assert "nobody is searched for" in describe_identification_tests(none)


class Patches:
    """Images of a list of one's own: one colour a person, kept under another key than the dataset's."""

    key, image_size = "patches", 56

    def read(self, paths):
        return np.stack([np.full((56, 56, 3), 60 * int(path[1]) + int(path[3]), dtype=np.uint8) for path in paths])


def own_list(**changes):
    paths = [f"p{person}_{image}" for person in range(3) for image in range(2)]
    images = pd.DataFrame({"path": paths, "identity": [path[:2] for path in paths], "age_years": np.nan})
    pairs = pd.DataFrame({"left": [0, 2, 0], "right": [1, 3, 5], "same": [True, True, False]})
    return VerificationSet(**{"name": "mine", "images": images, "pairs": pairs, "source": Patches(), **changes})


def with_own(sets, *more):
    return EvaluationSets(
        tests={**sets.tests, **{one.name: one for one in more}}, validation=sets.validation, missing={}
    )


def test_pair_lists_of_ones_own_become_sets_from_their_own_images(run, dataset, sets):
    nameless = own_list(name="nameless", images=own_list().images.assign(identity=["p0", None, *["p1"] * 4]))
    single = own_list(name="single", pairs=pd.DataFrame({"left": [0, 0], "right": [1, 5], "same": [True, False]}))
    found = identification_tests(dataset, with_own(sets, own_list(), nameless, single))
    assert list(found.tests) == ["C20", "mine"]
    assert found.missing["nameless"].startswith("1 of its 6 images have no identity")
    assert "one person only" in found.missing["single"]
    table = found.tests["mine"].identification.table
    assert list(table["role"] + " " + table["path"]) == [
        *("probe p0_0", "probe p1_0"),
        *("gallery p0_1", "gallery p1_1", "gallery p2_1"),
    ]
    with pytest.raises(ConfigError, match="cannot be called 'C20'"):
        identification_tests(dataset, with_own(sets, own_list(name="C20")))
    identified = identify_methods({"arcface": [run]}, found.tests, validation=sets.validation)["arcface"][0]
    assert set(identified.ranks) == {"C20", "mine"}
    assert len(identified.ranks["mine"]) == 2


def test_sets_are_published_and_read_back(tests, tmp_path):
    files = publish_identification_tests(tests, tmp_path / "protocols")
    assert files["C20"].name == "identification_C20.csv"
    assert read_identification_set(files["C20"]).sha256 == tests["C20"].identification.sha256
    table = identification_tests_table(tests, files)
    row = table[table["set"] == "C20"].iloc[0]
    assert (row["probes"], row["gallery"], row["distractors"]) == (6, 6, 0)
    assert row["sha256"] == tests["C20"].identification.sha256
    years = tests["C20"].probe_images["age_years"].astype(int)
    assert row["probe_ages"] == f"{years.min()} to {years.max()} years old"
    clash = {"my set": tests["C20"], "my_set": tests["C20"]}
    with pytest.raises(ConfigError, match="'my set' and 'my_set' would both"):
        publish_identification_tests(clash, tmp_path)


def fake_runs(tests, **of_methods):
    """Method -> runs with the ranks given, seed by seed."""
    return {
        method: [
            IdentifiedRun(
                run=f"{method}-s{seed}", seed=seed, epochs={"C20": 7}, ranks={"C20": np.array(ranks, dtype=np.int64)}
            )
            for seed, ranks in enumerate(of_seeds)
        ]
        for method, of_seeds in of_methods.items()
    }


@pytest.fixture
def compared(tests):
    only = {"C20": tests["C20"]}
    return only, fake_runs(
        only, arcface=[[1, 2, 6, 1, 3, 5], [2, 2, 6, 1, 3, 5]], other=[[1, 1, 1, 1, 3, 1], [1, 1, 1, 1, 1, 6]]
    )


def test_trials_and_rates_are_shares_of_probes(compared):
    only, identified = compared
    trials = identification_trials(identified, only)
    cells = trial_cells(trials).set_index("method")
    assert cells.loc["arcface", "mean"] == pytest.approx(100 * (2 / 6 + 1 / 6) / 2)
    assert cells.loc["arcface", "std"] == pytest.approx(100 / 6 / np.sqrt(2))
    assert (cells["n_pairs"] == 6).all()
    assert (cells["n_identities"] == 6).all()
    differences = trial_differences(trials, "arcface", n_permutations=200)
    assert differences["difference"].item() == pytest.approx(100 * (10 / 12 - 3 / 12))
    rates = identification_rates(identified, only, n_resamples=200)
    assert set(rates["rank"]) == {1, 5}, "ten are more than the six people of the gallery"
    of_rank = rates.set_index(["method", "rank"])["mean"]
    assert of_rank["arcface", 5] == pytest.approx(100 * 5 / 6)
    assert of_rank["other", 5] == pytest.approx(100 * 11 / 12)
    assert (rates["low"] <= rates["mean"]).all()
    assert (rates["mean"] <= rates["high"]).all()
    curves = cmc_curves(identified, "C20", max_rank=6)
    assert curves["arcface"][0] == pytest.approx(np.array([2, 3, 4, 4, 5, 6]) / 6)


def test_every_probe_is_listed_with_its_rank(compared):
    only, identified = compared
    table = rank_table(identified, only)
    assert len(table) == 4 * 6
    one = table[(table["method"] == "other") & (table["seed"] == 1)]
    assert one["rank"].tolist() == [1, 1, 1, 1, 1, 6]
    assert one["path"].tolist() == only["C20"].probe_images["path"].tolist()
    assert set(one["epoch"]) == {7}
    assert rank_table({}, {}).empty


def test_costs_are_counted_apart(run):
    costs = model_costs(run)
    weights = load_file(run.path / "backbone.safetensors")
    learned = {name: parameter.numel() for name, parameter in load_backbone(run).named_parameters()}
    assert costs.inference_parameters == sum(weights[name].size for name in learned)
    assert costs.training_parameters == run.prototypes.size
    assert costs.multiply_adds > costs.inference_parameters / 2
    records = {one.name: one.value for one in cost_results({"arcface": costs}, {"arcface": [run]})}
    assert records == {
        "inference parameters/arcface": costs.inference_parameters,
        "training parameters/arcface": costs.training_parameters,
        "multiply adds/arcface": costs.multiply_adds,
    }


def test_table_3_holds_rates_and_costs(compared):
    only, identified = compared
    cells = trial_cells(identification_trials(identified, only, n_resamples=200))
    costs = dict.fromkeys(identified, ModelCosts(inference_parameters=43_797_696, training_parameters=5_412_864,
                                                 multiply_adds=6_320_000_000))  # fmt: skip
    measured = identification_cells(cells, costs, {"arcface": "ArcFace", "other": "Inter-Prototype"})
    table = paper_table(3, measured, own_columns=["C20"], experiment="toy")
    ours = table.frame[table.frame["source"] == "ours"].set_index(["row", "column"])["mean"]
    assert ours["Inter-Prototype", "C20"] == pytest.approx(100 * 10 / 12)
    assert ours["ArcFace", "Multiply-adds (billion)"] == pytest.approx(6.32)
    assert ours["Inter-Prototype", "Inference parameters (million)"] == pytest.approx(43.797696)
    assert ours["Inter-Prototype", "Training-only parameters (million)"] == pytest.approx(5.412864)
    assert np.isnan(ours["Inter-Prototype", "AgeDB-C20"]), "what was not measured stays empty"


def test_what_is_said_follows_the_numbers(compared):
    only, identified = compared
    rates = identification_rates(identified, only, n_resamples=200)
    assert describe_identification_rates(rates, NAMES) == (
        "- C20: between 25.00 % (ArcFace) and 83.33 % (Other) of the probes are found at rank 1; guessing would find "
        "16.67 %."
    )
    alone = describe_identification_rates(rates[rates["method"] == "other"], NAMES)
    assert alone == "- C20: Other finds 83.33 % of the probes at rank 1; guessing would find 16.67 %."
    assert "nobody was searched for" in describe_identification_rates(rates.iloc[:0], NAMES)
    cell = identification_rates_table(rates, NAMES).set_index("method").loc["ArcFace", "rank 1"]
    assert re.fullmatch(r"25\.00 ± 11\.79 \[\d+\.\d, \d+\.\d\]", cell)
    told = pd.DataFrame(
        {
            "test_set": ["C20", "C20"],
            "method": ["other", "arcface"],
            "difference": [58.3, -1.0],
            "low": [25.0, -3.0],
            "high": [83.0, 1.0],
            "p_value": [0.03, 0.5],
            "n_seeds": [2, 1],
            "n_pairs": [6, 6],
        }
    )
    said = describe_identification_differences(told, baseline="arcface", names=NAMES)
    assert "1 of 2 leave out zero. With one seed," in said
    assert "C20, Other: +58.30 points [25.0, 83.0]" in said
    assert (
        "ArcFace: −1.00 points [−3.0, 1.0], permutation p = 0.500 (6 probes, one seed): the interval holds zero."
        in said
    )
    assert "Where p is small" not in said
    split = describe_identification_differences(told.assign(p_value=0.01), baseline="arcface", names=NAMES)
    assert "Where p is small and the interval holds zero nonetheless" in split
    assert describe_identification_differences(told.iloc[:0], baseline="arcface", names=NAMES).startswith("There is no")
    assert describe_judged_epochs(identified).startswith("Epochs judged: arcface-s0 7, arcface-s1 7,")
    assert "optimistic" in describe_identification_rules(EvaluationConfig(epoch_choice="best_on_test"))
    assert "optimistic" not in describe_identification_rules(EvaluationConfig())
    assert "bfloat16" in describe_identification_rules(EvaluationConfig(embedding_precision="bfloat16"))


def test_costs_and_comparability_are_said():
    small = ModelCosts(inference_parameters=1000, training_parameters=20, multiply_adds=5000)
    same = describe_costs({"arcface": small, "other": small}, NAMES)
    assert same.startswith("ArcFace and Other each need 1,000 parameters and 5,000 multiply-adds")
    assert "no difference between these methods comes from the size" in same
    large = replace(small, inference_parameters=2000)
    assert "comes from the size" not in describe_costs({"arcface": small, "other": large}, NAMES)
    assert costs_table({"other": large}, NAMES)["inference_parameters"].tolist() == [2000]
    said = describe_published_identification(["C20", "LAG"])
    assert "never published, so no number of ours is comparable" in said
    assert "On LAG the images are of the same collections" in said
    assert "C20 is a set of ours" in said
    assert "no number of ours but the costs" in describe_published_identification([])
