"""Networks trained elsewhere become finished runs: right numbers, nothing claimed that is not known."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from toy import tiny, toy_dataset

from interproto_lib.analysis import (
    JudgingRules,
    embed_dataset,
    held_out_check,
    held_out_results,
    held_out_scores,
    judge_run,
    judging_rules,
    load_embeddings,
    save_embeddings,
)
from interproto_lib.analysis.published import paper_row
from interproto_lib.config import EvaluationConfig
from interproto_lib.data import FaceDataset, load_dataset, save_dataset
from interproto_lib.errors import CheckpointError, ConfigError, RunError
from interproto_lib.files import file_lock
from interproto_lib.models import build_backbone
from interproto_lib.runs import RunFolder, list_runs, open_run, runs_by_method, write_results
from interproto_lib.training import import_run, train
from interproto_lib.training import imported as imported_module
from interproto_lib.views import describe_bounds, describe_methods, methods_table
from interproto_lib.views.imported_runs import describe_imported

REPO = Path(__file__).resolve().parents[1]
MIN_CHILD_IMAGES = 3


def named_by_numbers(dataset):
    """The same people under the names "0", "1", ... "10", which are in another order as text than as numbers."""
    manifest = dataset.manifest.copy()
    manifest["identity"] = manifest["identity"].str.removeprefix("id").astype(int).astype(str)
    return FaceDataset(name="toy", folder=None, manifest=manifest, images=dataset.images, settings={})


def of_splits(dataset, change):
    manifest = dataset.manifest.assign(split=dataset.manifest["split"].replace(change))
    return FaceDataset(name="toy", folder=None, manifest=manifest, images=dataset.images, settings={})


@pytest.fixture(scope="module")
def dataset():
    return named_by_numbers(toy_dataset(n_identities=12, n_heldout=6, n_validation=5, n_images=6))


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return train(tiny(epochs=12), dataset, tmp_path_factory.mktemp("exp") / "arcface-s0", progress="none")


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    """The network alone, away from its run."""
    return Path(
        shutil.copy(trained.path / "backbone.safetensors", tmp_path_factory.mktemp("theirs") / "net.safetensors")
    )


@pytest.fixture(scope="module")
def with_means(dataset, checkpoint, tmp_path_factory):
    return import_toy(checkpoint, tmp_path_factory.mktemp("exp") / "theirs-s3", dataset)


def import_toy(checkpoint, folder, dataset, **settings):
    return import_run(checkpoint, folder, dataset, min_child_images=MIN_CHILD_IMAGES, device="cpu", **settings)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded_directly(checkpoint, images):
    """By the definition: the network in evaluation mode, one image after the other, in float64."""
    backbone = build_backbone("tiny", embedding_dim=16, image_size=images.shape[1], dropout=0.0)
    backbone.load_state_dict({key: torch.from_numpy(value) for key, value in load_file(checkpoint).items()})
    backbone.eval().double()
    with torch.inference_mode():
        rows = [
            backbone((torch.from_numpy(i.copy()).double().permute(2, 0, 1)[None] / 255 - 0.5) / 0.5) for i in images
        ]
    return unit(torch.cat(rows).numpy())


def record_of(run):
    return json.loads((run.path / "config.json").read_text())["imported"]


def assert_same_import(run, other):
    """The same bytes; of records the results, for they name the time; of scores the values, for batches round them."""
    of_run, of_other = ({str(p.relative_to(r.path)) for p in r.path.rglob("*") if p.is_file()} for r in (run, other))
    assert of_run == of_other
    for name in sorted(of_run - {".lock", "environment.json"}):
        if name.startswith("scores"):
            pd.testing.assert_frame_equal(
                pd.read_parquet(run.path / name), pd.read_parquet(other.path / name), atol=1e-6
            )
        elif name == "results/held_out.json":
            found, expected = (json.loads((r.path / name).read_text())["results"] for r in (run, other))
            assert found == expected
        else:
            assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name


# --- what an imported run holds ---------------------------------------------------------------------


def test_embeddings_are_those_of_the_network(with_means, checkpoint, dataset):
    found = load_embeddings(with_means)
    np.testing.assert_allclose(found.vectors, embedded_directly(checkpoint, dataset.images), atol=1e-5)
    assert list(found.manifest["path"]) == list(dataset.manifest["path"])


def test_without_a_head_prototypes_are_the_mean_directions_of_training_images(with_means, checkpoint, dataset):
    vectors = embedded_directly(checkpoint, dataset.images)
    manifest = dataset.manifest
    expected = [
        vectors[(manifest["split"] == "train") & (manifest["identity"] == name)].mean(axis=0)
        for name in with_means.classes["identity"]
    ]
    np.testing.assert_allclose(with_means.prototypes, unit(np.stack(expected)), atol=1e-5)
    assert with_means.prototypes.dtype == np.float32
    assert with_means.prototypes_from == record_of(with_means)["prototypes"] == with_means.summary["prototypes"]
    assert with_means.prototypes_from == "class_means"


def test_the_run_is_like_a_trained_one_but_says_what_it_is(with_means, trained, checkpoint):
    assert open_run(with_means.path).is_finished
    assert (with_means.method, with_means.seed) == ("theirs", 3)
    config = with_means.config
    assert (config.backbone, config.embedding_dim, config.epochs) == ("tiny", 16, 1)
    assert with_means.classes.equals(trained.classes)
    assert with_means.dataset_info == trained.dataset_info
    assert with_means.environment["packages"]["torch"] == torch.__version__.split("+")[0]
    record = record_of(with_means)
    assert (record["file"], record["kind"], record["channel_order"]) == ("net.safetensors", "interproto", "rgb")
    assert record["head"] is None
    assert record["known_settings"] == []
    assert "not known on whose images" in record["training_data"]
    digest = subprocess.run(["sha256sum", checkpoint], capture_output=True, text=True, check=True).stdout.split()[0]
    assert record["sha256"] == digest
    assert trained.imported is None
    assert trained.prototypes_from == "training"


def test_the_held_out_check_is_that_of_a_training(with_means, dataset):
    evaluation = EvaluationConfig()
    table = held_out_check(*held_out_scores(with_means, dataset, evaluation=evaluation), evaluation=evaluation)
    written = json.loads((with_means.path / "results" / "held_out.json").read_text())
    rules = JudgingRules(evaluation=evaluation, child_below_years=13.0)
    expected = held_out_results(table, run="theirs-s3", rules=rules)
    assert [one["name"] for one in written["results"]] == [one.name for one in expected]
    assert [one["value"] for one in written["results"]] == [one.value for one in expected]
    assert all(value is not None for value in (one["value"] for one in written["results"]))
    assert judging_rules(with_means) == rules


def test_there_are_no_metrics_and_the_message_says_why(with_means):
    with pytest.raises(RunError, match="was imported, not trained here, so it has no metrics"):
        with_means.metrics()


@pytest.mark.parametrize("epoch_choice", ["validation", "last", "best_on_test"])
def test_every_rule_takes_the_only_epoch(with_means, dataset, epoch_choice):
    evaluation = EvaluationConfig(epoch_choice=epoch_choice)
    judged = judge_run(*held_out_scores(with_means, dataset, evaluation=evaluation), evaluation)
    assert {one.epoch for one in judged.values()} == {1}
    assert all(one.accuracy is not None for one in judged.values())


def test_a_single_epoch_is_judged_also_on_people_that_others_would_choose_on(with_means, dataset):
    tests, _ = held_out_scores(with_means, dataset)
    same_people = {"another": tests["C20"]}
    procedure = EvaluationConfig(verification_threshold="ten_fold")
    judged = judge_run({"C20": tests["C20"]}, same_people, procedure)["C20"]
    assert (judged.epoch, judged.reason) == (1, "")
    three = replace(tests["C20"], epochs=(1, 2, 3), cosines=np.repeat(tests["C20"].cosines, 3, axis=0))
    assert judge_run({"C20": three}, {"another": three}, procedure)["C20"].accuracy is None


# --- heads ------------------------------------------------------------------------------------------


def by_number(run):
    """The prototypes of a run in the order of the numbers that its identities are named by."""
    return run.prototypes[np.argsort(run.classes["identity"].astype(int).to_numpy())]


def write_head(path, rows):
    """As the official code writes it: a tensor `kernel` with one column an identity."""
    torch.save({"kernel": torch.from_numpy(rows.T.copy())}, path)
    return path


@pytest.mark.parametrize("asked", ["auto", "number"])
def test_a_head_in_the_order_of_numbers_is_put_into_that_of_the_classes(trained, checkpoint, dataset, tmp_path, asked):
    assert list(trained.classes["identity"][:4]) == ["0", "1", "10", "11"], "as text"
    head = write_head(tmp_path / "head.pth", by_number(trained))
    run = import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=head, head_order=asked)
    np.testing.assert_array_equal(run.prototypes, trained.prototypes)
    assert run.prototypes_from == run.summary["prototypes"] == "head"
    record = record_of(run)
    assert (record["head_order"], record["head"]["file"], record["head"]["asked"]) == ("number", "head.pth", asked)
    assert record["head_agreement"] >= 0.9
    assert describe_imported({"theirs": [run]}).count("stand in for") == 0


def test_a_head_of_a_run_of_ours_is_in_the_order_of_text(trained, checkpoint, dataset, tmp_path):
    head = trained.path / "prototypes.safetensors"
    run = import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=head)
    np.testing.assert_array_equal(run.prototypes, trained.prototypes)
    assert record_of(run)["head_order"] == "text"


def test_a_head_in_an_order_that_images_do_not_agree_with_is_refused(trained, checkpoint, dataset, tmp_path):
    head = write_head(tmp_path / "head.pth", by_number(trained)[::-1])
    with pytest.raises(CheckpointError, match=r"% in the order by text and .*% in the order by number .*at least 50%"):
        import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=head)
    assert not (tmp_path / "theirs-s0" / "config.json").exists(), "the same folder can be imported into again"
    run = import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=head, head_order="text", lowest_agreement=0)
    np.testing.assert_array_equal(run.prototypes, by_number(trained)[::-1])


def test_a_head_with_another_number_of_rows_is_refused_with_both_numbers(trained, checkpoint, dataset, tmp_path):
    head = write_head(tmp_path / "head.pth", np.vstack([trained.prototypes, trained.prototypes[:5]]))
    with pytest.raises(CheckpointError, match=r"holds 17 prototypes, the dataset has 12 training identities.*heldout"):
        import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=head)
    assert not (tmp_path / "theirs-s0").exists()


def test_a_head_of_another_length_is_refused_with_both_numbers(checkpoint, dataset, tmp_path):
    head = write_head(tmp_path / "head.pth", np.ones((12, 20), dtype=np.float32))
    with pytest.raises(CheckpointError, match="length 20, the network gives embeddings of length 16"):
        import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=head)


def test_the_order_by_number_needs_numbers(trained, checkpoint, dataset, tmp_path):
    named = of_splits(dataset, {})
    named.manifest["identity"] = "p" + named.manifest["identity"]
    with pytest.raises(ConfigError, match=r"head_order='number'.* where all identities are numbers"):
        import_toy(
            checkpoint,
            tmp_path / "theirs-s0",
            named,
            head=trained.path / "prototypes.safetensors",
            head_order="number",
        )


def test_a_damaged_head_is_refused(trained, checkpoint, dataset, tmp_path):
    rows = trained.prototypes.copy()
    rows[3, 2] = np.nan
    save_file({"prototypes": rows}, tmp_path / "nan.safetensors")
    content = (trained.path / "prototypes.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    for name in ("nan.safetensors", "cut.safetensors", "missing.pth"):
        with pytest.raises(CheckpointError):
            import_toy(checkpoint, tmp_path / "theirs-s0", dataset, head=tmp_path / name)


# --- checkpoints ------------------------------------------------------------------------------------


def test_a_foreign_network_is_converted_with_its_order_of_channels(tmp_path):
    """arcface_torch's smallest network, once more trained on BGR: embeddings are those of images read backwards."""
    toy = toy_dataset(n_identities=4, n_heldout=2, n_images=4)
    dataset = FaceDataset(name="toy", folder=None, manifest=toy.manifest, images=toy.images[:, :16, :16], settings={})
    torch.manual_seed(0)
    network = build_backbone("iresnet18", embedding_dim=16, image_size=16).eval()
    torch.save(network.half().state_dict(), tmp_path / "backbone.pth")
    network.float()
    run = import_toy(tmp_path / "backbone.pth", tmp_path / "bgr-s0", dataset, channel_order="bgr")
    backwards = torch.from_numpy(dataset.images[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = unit(network((backwards / 255 - 0.5) / 0.5).numpy())
    np.testing.assert_allclose(load_embeddings(run).vectors, expected, atol=1e-4)
    record = record_of(run)
    assert (run.config.backbone, record["kind"], record["channel_order"]) == ("iresnet18", "arcface_torch", "bgr")
    assert "float16" in record["conversion"]["source_dtype"]
    assert "BGR to RGB" in record["conversion"]["conversion"]
    assert load_file(run.path / "backbone.safetensors")["conv1.weight"].dtype == np.float32


def test_damaged_checkpoints_are_refused_and_leave_nothing(checkpoint, dataset, tmp_path):
    content = checkpoint.read_bytes()
    weights = load_file(checkpoint)
    weights["input_layer.0.weight"][0, 0, 0, 0] = np.inf
    metadata = {"network": json.dumps({"backbone": "tiny", "embedding_dim": 16, "channels": "RGB"})}
    save_file(weights, tmp_path / "inf.safetensors", metadata=metadata)
    (tmp_path / "cut.safetensors").write_bytes(content[:-1000])
    (tmp_path / "text.pth").write_text("no network")
    (tmp_path / "empty.pth").touch()
    for name in ("inf.safetensors", "cut.safetensors", "text.pth", "empty.pth", "missing.pth", "."):
        with pytest.raises(CheckpointError):
            import_toy(tmp_path / name, tmp_path / "theirs-s0", dataset)
        assert not (tmp_path / "theirs-s0").exists()


def test_images_of_another_size_are_refused(checkpoint, tmp_path):
    small = toy_dataset(n_identities=3, n_images=2, image_size=28)
    with pytest.raises(CheckpointError, match=r"does not fit|take"):
        import_toy(checkpoint, tmp_path / "theirs-s0", small)


def test_a_run_can_be_imported_from_an_imported_run(with_means, dataset, tmp_path):
    again = import_toy(with_means.path / "backbone.safetensors", tmp_path / "again-s3", dataset)
    np.testing.assert_array_equal(load_embeddings(again).vectors, load_embeddings(with_means).vectors)


# --- folders ----------------------------------------------------------------------------------------


def test_a_finished_import_is_given_back_untouched(with_means, checkpoint, dataset):
    before = {path: path.stat().st_mtime_ns for path in with_means.path.rglob("*") if path.is_file()}
    import_toy(checkpoint, with_means.path, dataset)
    after = {path: path.stat().st_mtime_ns for path in with_means.path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {with_means.path / ".lock"}


def test_other_rules_judge_a_finished_import_anew(checkpoint, dataset, tmp_path):
    folder = tmp_path / "theirs-s0"
    run = import_toy(checkpoint, folder, dataset)
    vectors = (folder / "embeddings" / "vectors.safetensors").stat().st_mtime_ns
    evaluation = EvaluationConfig(verification_threshold="ten_fold", gap_inclusive=False)
    import_toy(checkpoint, folder, dataset, evaluation=evaluation)
    assert judging_rules(run).evaluation == evaluation
    assert (folder / "embeddings" / "vectors.safetensors").stat().st_mtime_ns == vectors


def test_the_folder_of_another_run_is_left_alone(trained, with_means, checkpoint, dataset, tmp_path):
    with pytest.raises(RunError, match="holds a run that was trained here"):
        import_toy(checkpoint, trained.path, dataset)
    other = tiny(epochs=1)
    net = train(other, dataset, tmp_path / "other-s0", progress="none").path / "backbone.safetensors"
    with pytest.raises(RunError, match=r"holds another import: file was 'net.safetensors', now 'backbone.safetensors'"):
        import_toy(net, with_means.path, dataset)
    with pytest.raises(RunError, match=r"other settings: child_below_years was 13.0, now 12.0"):
        import_toy(checkpoint, with_means.path, dataset, child_below_years=12.0)
    changed = FaceDataset(
        name="toy", folder=None, manifest=dataset.manifest, images=255 - dataset.images, settings=dataset.settings
    )
    with pytest.raises(RunError, match="other data: images_sha256"):
        import_toy(checkpoint, with_means.path, changed)
    with pytest.raises(RunError, match="holds a run with other settings"):
        train(tiny(), dataset, with_means.path, progress="none")
    with pytest.raises(RunError, match=r"was imported with other images .* Import it anew"):
        held_out_scores(with_means, changed)


def test_a_second_process_waits_or_says_so(checkpoint, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(imported_module, "LOCK_WAIT_SECONDS", 0.0)
    with (
        file_lock(tmp_path / "theirs-s0" / ".lock", busy=""),
        pytest.raises(RunError, match=r"Another process works in .*theirs-s0"),
    ):
        import_toy(checkpoint, tmp_path / "theirs-s0", dataset)


@pytest.fixture(scope="module")
def with_head(trained, checkpoint, dataset, tmp_path_factory):
    place = tmp_path_factory.mktemp("exp")
    return import_toy(checkpoint, place / "theirs-s0", dataset, head=write_head(place / "head.pth", by_number(trained)))


def files_of(run):
    return [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]


def check_stopped_after(n_files, whole, checkpoint, dataset, folder):
    """Stop an import when so many files are written, import again, and compare with one that was never stopped."""
    run, head, replace_file = RunFolder(folder), whole.path.parent / "head.pth", Path.replace
    left = n_files

    def stop_after_so_many(self, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace_file(self, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", stop_after_so_many)
        with pytest.raises(KeyboardInterrupt):
            import_toy(checkpoint, folder, dataset, head=head)
    assert len(files_of(run)) == n_files
    assert not run.is_finished
    if (folder / "config.json").is_file() and not (folder / "prototypes.safetensors").is_file():
        with pytest.raises(RunError, match=r"is not wholly imported: .* goes on from there"):
            _ = run.prototypes
    import_toy(checkpoint, folder, dataset, head=head)
    assert_same_import(run, whole)


@pytest.mark.parametrize("n_files", [2, 5, 7])
def test_stopped_between_two_files_it_goes_on_to_the_same_run(with_head, checkpoint, dataset, tmp_path, n_files):
    check_stopped_after(n_files, with_head, checkpoint, dataset, tmp_path / "theirs-s0")


@pytest.mark.slow
def test_stopped_before_any_file_it_goes_on_to_the_same_run(with_head, checkpoint, dataset, tmp_path):
    for n_files in range(len(files_of(with_head))):
        check_stopped_after(n_files, with_head, checkpoint, dataset, tmp_path / str(n_files) / "theirs-s0")


def test_the_name_of_the_folder_is_that_of_a_run(checkpoint, dataset, tmp_path):
    assert import_toy(checkpoint, tmp_path / "plain", dataset).seed == 0
    assert import_toy(checkpoint, tmp_path / "plain-too", dataset, seed=7).seed == 7
    with pytest.raises(ConfigError, match="says seed 3, but seed=4"):
        import_toy(checkpoint, tmp_path / "theirs-s3", dataset, seed=4)
    with pytest.raises(ConfigError, match="keeps its dataset under that name"):
        import_toy(checkpoint, tmp_path / "dataset", dataset)


# --- what is known ----------------------------------------------------------------------------------


def test_an_unknown_training_stands_in_no_row_of_the_paper(with_means, checkpoint, dataset, tmp_path):
    assert paper_row(with_means.config) is None
    stated = {"margin_loss": "arcface", "scale": 64.0, "margin": 0.5, "inter_prototype": "child"}
    official = import_toy(checkpoint, tmp_path / "official-s0", dataset, trained_with=stated)
    assert paper_row(official.config) == "Inter-Prototype"
    assert record_of(official)["known_settings"] == sorted(stated)
    row = methods_table({"official": [official]}).iloc[0]
    assert (row["loss"], row["scope"], row["reduction"]) == ("arcface, s = 64, m = 0.5", "child", "?")
    for wrong in ({"epochs": 50}, {"loss": "arcface"}, {"margin_loss": "arc"}):
        with pytest.raises(ConfigError):
            import_toy(checkpoint, tmp_path / "wrong-s0", dataset, trained_with=wrong)


def test_the_story_says_what_is_not_known(with_means, trained, dataset):
    runs = {"arcface": [trained], "theirs": [with_means]}
    table = methods_table(runs).set_index("name")
    assert table.loc["theirs", "loss"] == table.loc["theirs", "training accuracy"] == "?"
    assert table.loc["arcface", "training accuracy"].endswith("%")
    said = describe_methods(runs)
    assert said.startswith("1 training of 1 method, each on 72 images of 12 identities")
    assert "theirs-s3 (`tiny` from net.safetensors)" in said
    assert "not known on whose images it was trained" in said
    assert "mean embeddings of the training images stand in for the prototypes of theirs-s3" in said
    assert describe_methods({"theirs": [with_means]}).startswith("**Imported")
    bounds = describe_bounds(dataset.manifest, runs)
    assert "the network `tiny` trained for 12 epochs and the imported network `tiny`" in bounds
    assert "epoch" not in describe_bounds(dataset.manifest, {"theirs": [with_means]}).split("test on, with")[1]
    assert describe_imported({"arcface": [trained]}) == ""
    both = describe_imported({"a": [with_means, with_means]})
    assert "on whose images they were trained: people that they are judged on here" in both


# --- a dataset to be judged on alone ----------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation_only(checkpoint, dataset, tmp_path_factory):
    judged_on = of_splits(dataset, {"train": "heldout"})
    return judged_on, import_toy(checkpoint, tmp_path_factory.mktemp("exp") / "theirs-s0", judged_on)


def test_without_training_images_there_are_no_classes_and_no_prototypes(evaluation_only, checkpoint):
    judged_on, run = evaluation_only
    assert list_runs(run.path.parent) == [run]
    assert len(run.classes) == 0
    assert list(run.classes.columns) == ["identity", "n_images", "n_child_images", "n_unlabelled", "is_child"]
    assert run.prototypes_from == run.summary["prototypes"] == "none"
    with pytest.raises(RunError, match="dataset 'toy', which has no training images and so no classes") as error:
        _ = run.prototypes
    assert "\n" not in str(error.value)
    assert "no prototypes" in describe_imported({"theirs": [run]})
    np.testing.assert_allclose(load_embeddings(run).vectors, embedded_directly(checkpoint, judged_on.images), atol=1e-5)
    assert json.loads((run.path / "results" / "held_out.json").read_text())["results"][0]["value"] is not None


def test_a_head_needs_classes(trained, checkpoint, evaluation_only, tmp_path):
    with pytest.raises(CheckpointError, match="holds 12 prototypes, the dataset has 0 training identities"):
        import_toy(checkpoint, tmp_path / "x-s0", evaluation_only[0], head=trained.path / "prototypes.safetensors")


# --- notebooks --------------------------------------------------------------------------------------


def finish_as_notebook_02(run, dataset):
    evaluation = EvaluationConfig()
    rules = JudgingRules(evaluation=evaluation, child_below_years=run.config.child_below_years)
    save_embeddings(embed_dataset(run, dataset), run)
    table = held_out_check(*held_out_scores(run, dataset, evaluation=evaluation), evaluation=evaluation)
    results = held_out_results(table, run=run.name, rules=rules)
    write_results(run.path, "held_out", results, parameters=rules.to_dict())


@pytest.fixture(scope="module")
def experiments(trained, checkpoint, dataset, tmp_path_factory):
    """Folder with the experiments `mixed`, `imported` and `judged`, the last on a dataset without training images."""
    runs_dir = tmp_path_factory.mktemp("runs")
    head = write_head(runs_dir / "head.pth", by_number(trained))
    for name in ("mixed", "imported", "judged"):
        own = of_splits(dataset, {"train": "heldout"}) if name == "judged" else dataset
        save_dataset(own, runs_dir / name / "dataset")
        own = load_dataset(runs_dir / name / "dataset")
        if name == "mixed":
            folder = runs_dir / name / trained.name
            shutil.copytree(trained.path, folder)
            finish_as_notebook_02(RunFolder(folder), own)
        import_toy(checkpoint, runs_dir / name / "means-s0", own)
        if name != "judged":
            import_toy(checkpoint, runs_dir / name / "head-s0", own, head=head)
    return runs_dir


def run_notebook(notebook, experiment, runs_dir, **parameters):
    output = runs_dir / experiment / "notebooks" / f"{notebook}.ipynb"
    given = {"experiment": experiment, "runs_dir": runs_dir, **parameters}
    call = subprocess.run(
        [
            *(sys.executable, "-m", "interproto_lib.cli", "run-notebook", f"notebooks/{notebook}.ipynb", str(output)),
            *(word for name, value in given.items() for word in ("-p", name, str(value))),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return call, output


NOTEBOOKS = {
    "00_start_here": {},
    "03_similarity": {"n_sampled": 6},
    "04_prototype_projection": {"projections": "[tsne]"},
    "05_verification": {"n_resamples": 50, "n_permutations": 100},
    "06_identification": {"n_resamples": 50, "n_permutations": 100},
}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", [*NOTEBOOKS, "07_ablations", "08_explore"])
@pytest.mark.parametrize(("experiment", "baseline"), [("mixed", "arcface"), ("imported", "means")])
def test_notebooks_run_on_imported_runs(experiments, experiment, baseline, notebook):
    call, output = run_notebook(notebook, experiment, experiments, baseline=baseline, **NOTEBOOKS.get(notebook, {}))
    assert call.returncode == 0, call.stderr
    told = nbformat.read(output, as_version=4)
    complaints = [
        o.text
        for cell in told.cells
        for o in cell.get("outputs", [])
        if o.output_type == "stream" and o.name == "stderr"
    ]
    assert complaints == []
    results = json.loads((experiments / experiment / "results" / f"{notebook}.json").read_text())["results"]
    methods = {name.rpartition("-s")[0] for result in results for name in result["runs"]}
    if notebook == "08_explore":  # two runs side by side
        assert len(methods) == 2
        assert baseline in methods
        assert methods & {"means", "head"}
        return
    assert methods == set(runs_by_method(experiments / experiment, baseline)) or notebook in ("03_similarity",)
    assert methods >= {"means", "head"}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["00_start_here", "05_verification", "06_identification"])
def test_a_dataset_without_training_images_is_judged(experiments, notebook):
    call, _ = run_notebook(notebook, "judged", experiments, baseline="means", **NOTEBOOKS[notebook])
    assert call.returncode == 0, call.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        ("03_similarity", "no identity of split 'train'"),
        ("04_prototype_projection", "no training images and so no classes"),
        ("07_ablations", "no training images and so no classes"),
    ],
)
def test_what_needs_classes_says_so_in_one_line(experiments, notebook, said):
    call, output = run_notebook(notebook, "judged", experiments, baseline="means", **NOTEBOOKS.get(notebook, {}))
    assert call.returncode == 2
    assert not output.exists()
    (line,) = [line for line in call.stderr.splitlines() if re.match(r"\w+Error: ", line)]
    assert said in line
