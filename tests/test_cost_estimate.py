"""What a preset will cost: multiply-adds against torch's own counter, rates and their sources, images, what is told."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fake_graph import PRESET, write_fake_notebooks
from torch.utils.flop_counter import FlopCounterMode
from toy import tiny, toy_dataset

from interproto_lib.analysis import training_rates
from interproto_lib.analysis.cost_estimate import estimate_costs
from interproto_lib.analysis.training_costs import training_multiply_adds
from interproto_lib.analysis.training_rates import stated_rate
from interproto_lib.batch import reproduce
from interproto_lib.config import TrainConfig
from interproto_lib.data.datasets import save_dataset
from interproto_lib.errors import DatasetNotFoundError
from interproto_lib.presets import read_preset
from interproto_lib.runs import environment
from interproto_lib.training.recognizer import Recognizer

REPO = Path(__file__).resolve().parents[1]
N_IDENTITIES, BATCH, IMAGE_SIZE = 40, 16, 56


# --- multiply-adds --------------------------------------------------------------------------------


def counted_by_torch(config: TrainConfig, steps: range) -> float:
    """Multiply-adds for each image of training steps that are really made, by torch's counter of operations."""
    torch.manual_seed(0)
    recognizer = Recognizer(config, image_size=IMAGE_SIZE, is_child=np.zeros(N_IDENTITIES, dtype=bool)).train()
    images = torch.randint(0, 256, (BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    labels, ages = torch.randint(0, N_IDENTITIES, (BATCH,)), torch.rand(BATCH) * 80
    if config.margin_loss == "broadface":
        for _ in range(config.broadface_queue // BATCH):  # until the queue is full
            recognizer(images, labels, ages)
    with FlopCounterMode(display=False) as counter:
        for step in steps:
            recognizer(images, labels, ages, step=step).total.backward()
    return counter.get_total_flops() / 2 / BATCH / len(steps)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, range(1)),
        ({"margin_loss": "curricularface"}, range(1)),
        ({"margin_loss": "mv_am"}, range(1)),
        ({"margin_loss": "sphereface", "scale": 1.0, "margin": 4.0}, range(1)),
        ({"margin_loss": "broadface", "broadface_queue": 512, "embedding_dim": 256}, range(1)),
        ({"age_method": "oe_cnn"}, range(1)),
        ({"age_method": "ae_cnn"}, range(1)),
        ({"age_method": "dal", "dal_opponent_steps": 2, "dal_steps": 3}, range(5)),
        ({"age_method": "mtlface"}, range(1)),
    ],
)
def test_multiply_adds_of_a_step_are_torchs(changes: dict[str, object], steps: range):
    config = tiny(**{"batch_size": BATCH, **changes})
    ours = training_multiply_adds(config, image_size=IMAGE_SIZE, n_identities=N_IDENTITIES)
    # The first layer needs no gradient of the images, which we count: a few per cent of so small a network.
    assert counted_by_torch(config, steps) == pytest.approx(ours, rel=0.06)
    assert counted_by_torch(config, steps) <= ours * 1.001


def test_what_costs_more_costs_more():
    def cost(**changes: object) -> float:
        return training_multiply_adds(tiny(**changes), image_size=IMAGE_SIZE, n_identities=1000)

    plain = cost()
    assert cost(margin_loss="broadface", broadface_queue=100) < cost(margin_loss="broadface", broadface_queue=5000)
    assert cost(age_method="dal") < plain < cost(age_method="mtlface")
    assert cost(margin_loss="cosface") == cost(inter_prototype="child") == plain


# --- rates ----------------------------------------------------------------------------------------


def write_run(
    place: Path,
    config: TrainConfig,
    speed: float,
    *,
    image_size: int = IMAGE_SIZE,
    processes: int = 1,
    **machine: object,
):
    """The three files of a finished run that a rate is read from."""
    place.mkdir(parents=True)
    here = {"cpus": environment()["cpus"], "device": "cpu", "gpu": None, **machine}
    info = {"train": config.to_dict(), "dataset": {"image_size": image_size}}
    summary = {"images_per_second": speed, "n_identities": N_IDENTITIES, "processes": processes}
    for name, content in (("config", info), ("environment", here), ("summary", summary)):
        (place / f"{name}.json").write_text(json.dumps(content))


def write_preset(folder: Path, **changes: object) -> Path:
    """Two methods, seeds 0 and 1, three epochs of the network tiny on 40 identities of 10 images."""
    content = yaml.safe_load(PRESET) | {
        "dataset": {"n_identities": N_IDENTITIES, "images_per_identity": 10},
        "train": {"epochs": 3, "backbone": "tiny", "embedding_dim": 16, "batch_size": 16, "device": "cpu"},
        "methods": {
            "arcface": {"inter_prototype": "none"},
            "mtlface": {"margin_loss": "cosface", "age_method": "mtlface"},
        },
        "seeds": [0, 1],
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path


ARCFACE = tiny(backbone="tiny", embedding_dim=16, precision="auto")
MTLFACE = tiny(backbone="tiny", embedding_dim=16, precision="auto", margin_loss="cosface", age_method="mtlface")


def multiply_adds(config: TrainConfig) -> float:
    return training_multiply_adds(config, image_size=IMAGE_SIZE, n_identities=N_IDENTITIES)


def test_without_runs_the_stated_rate_is_scaled(tmp_path: Path):
    estimate = estimate_costs(write_preset(tmp_path), runs_dir=tmp_path / "runs")
    assert (estimate.n_trainings, estimate.n_finished, estimate.epochs) == (4, 0, (3,))
    assert estimate.n_images == 4 * 3 * 400
    stated = stated_rate(on_gpu=False, multiply_adds=multiply_adds(ARCFACE), precision="auto")
    for method, config in (("arcface", ARCFACE), ("mtlface", MTLFACE)):
        costs = estimate.methods[method]
        by_hand = stated.images_per_second * stated.multiply_adds / multiply_adds(config)
        assert costs.images_per_second == pytest.approx(by_hand)
        assert costs.hours == pytest.approx(2 * 3 * 400 / by_hand / 3600)
        assert costs.basis.startswith("stated: ")
    assert estimate.methods["arcface"].ratio == 1
    assert estimate.methods["mtlface"].ratio == pytest.approx(multiply_adds(MTLFACE) / multiply_adds(ARCFACE))
    assert estimate.hours == pytest.approx(sum(costs.hours for costs in estimate.methods.values()))


def test_runs_of_this_machine_give_the_rate(tmp_path: Path):
    preset, other = write_preset(tmp_path), tmp_path / "runs" / "other"
    for seed, speed in enumerate((900.0, 1000.0, 5000.0)):
        write_run(other / f"arcface-s{seed}", ARCFACE, speed)
    # None of these says anything about the trainings of the preset.
    write_run(other / "gpu-s0", ARCFACE, 1.0, device="cuda:0", gpu="A card")
    write_run(other / "cores-s0", ARCFACE, 1.0, cpus=1 + environment()["cpus"])
    write_run(other / "size-s0", ARCFACE, 1.0, image_size=112)
    write_run(other / "network-s0", tiny(backbone="small", embedding_dim=16), 1.0)
    write_run(other / "precision-s0", tiny(backbone="tiny", embedding_dim=16, precision="bfloat16"), 1.0)
    estimate = estimate_costs(preset, runs_dir=tmp_path / "runs")
    arcface, mtlface = estimate.methods["arcface"], estimate.methods["mtlface"]
    assert arcface.images_per_second == pytest.approx(1000.0), "the median"
    assert arcface.basis.startswith("measured: 3 finished runs of this machine, same network")
    assert arcface.basis.endswith("same method")
    assert mtlface.images_per_second == pytest.approx(1000.0 * multiply_adds(ARCFACE) / multiply_adds(MTLFACE))
    assert "other methods, scaled by multiply-adds" in mtlface.basis
    write_run(other / "mtlface-s0", MTLFACE, 123.0)
    estimate = estimate_costs(preset, runs_dir=tmp_path / "runs")
    assert estimate.methods["mtlface"].images_per_second == pytest.approx(123.0)
    assert estimate.methods["mtlface"].basis.startswith("measured: 1 finished run of this machine")
    assert estimate.methods["arcface"].images_per_second == pytest.approx(1000.0)


def test_what_is_done_is_not_counted_again(tmp_path: Path):
    preset, folder = write_preset(tmp_path), tmp_path / "runs" / "fake"
    write_run(folder / "arcface-s1", ARCFACE, 1000.0)
    (folder / "mtlface-s0").mkdir()  # begun
    estimate = estimate_costs(preset, runs_dir=tmp_path / "runs", cores=2)
    assert (estimate.n_trainings, estimate.n_finished) == (4, 1)
    assert {method: costs.n_trainings for method, costs in estimate.methods.items()} == {"arcface": 1, "mtlface": 2}
    assert "4 trainings, 1 of them done, 3 to do" in str(estimate)
    for run in ("arcface-s0", "mtlface-s1"):
        write_run(folder / run, ARCFACE, 1000.0)
    (folder / "mtlface-s0").rmdir()
    write_run(folder / "mtlface-s0", MTLFACE, 1000.0)
    done = estimate_costs(preset, runs_dir=tmp_path / "runs")
    assert (done.n_images, done.hours) == (0, 0)
    assert str(done) == "Preset mine: 4 trainings, 4 of them done, 0 to do."


def test_runs_that_cannot_be_read_are_said(tmp_path: Path):
    preset, other = write_preset(tmp_path), tmp_path / "runs" / "other"
    write_run(other / "arcface-s0", ARCFACE, 1000.0)
    (other / "arcface-s0" / "config.json").write_text("{")
    write_run(other / "arcface-s1", ARCFACE, 1000.0)
    (other / "arcface-s1" / "environment.json").write_text("{}")
    estimate = estimate_costs(preset, runs_dir=tmp_path / "runs")
    assert estimate.n_unread == 2
    assert "2 finished runs could not be read and gave no rate" in str(estimate)


def test_stated_rates_are_those_of_their_sources():
    text = (REPO / "benchmarks" / "README.md").read_text(encoding="utf-8")
    arcface = next(line for line in text.split("## `demo`")[1].splitlines() if line.startswith("| ArcFace |"))
    light = stated_rate(on_gpu=False, multiply_adds=multiply_adds(ARCFACE), precision="auto")
    assert float(arcface.split("|")[3].replace(",", "")) == light.images_per_second
    heavy = stated_rate(on_gpu=False, multiply_adds=2e10, precision="auto")
    told = re.search(r"ArcFace on the large network trained ([\d.]+) images/s", text.split("## `methods`")[1])
    assert float(told[1]) == heavy.images_per_second
    # arcface_torch's table for eight A100: TF32 4760, with half precision 5400.
    gpu = {p: stated_rate(on_gpu=True, multiply_adds=2e10, precision=p) for p in ("float32", "auto")}
    assert {p: 8 * rate.images_per_second for p, rate in gpu.items()} == {"float32": 4760.0, "auto": 5400.0}
    # Its network r50 has 6.309 billion multiply-adds, its 618,000 identities 0.316 billion more.
    assert gpu["auto"].multiply_adds == pytest.approx(3 * (6.309e9 + 0.316e9), rel=1e-3)


# --- images ---------------------------------------------------------------------------------------


def images_of(folder: Path, **changes: object) -> tuple[int, int] | None:
    images = training_rates.training_images(read_preset(write_preset(folder, **changes)), folder / "runs" / "fake")
    return None if images is None else (images.n_images, images.n_identities)


def test_images_are_counted_where_there_are_some(tmp_path: Path):
    root = tmp_path / "prepared"
    prepared = {"dataset": "prepared", "root": str(root), "card": "casia_webface"}
    assert images_of(tmp_path) == (400, 40)
    assert images_of(tmp_path, dataset=prepared) == (490_623, 10_572), "by the card, before there is a folder"
    save_dataset(toy_dataset(n_identities=12, n_images=8, n_heldout=3), root)
    assert images_of(tmp_path, dataset=prepared) == (96, 12), "nobody held out is trained on"
    save_dataset(toy_dataset(n_identities=10, n_images=8), tmp_path / "runs" / "fake" / "dataset")
    assert images_of(tmp_path) == images_of(tmp_path, dataset=prepared) == (80, 10), "what is made already"


def test_a_prepared_folder_that_is_not_there_yet_has_the_usual_size(tmp_path: Path):
    def size(**section: object) -> int:
        preset = read_preset(write_preset(tmp_path, dataset={**section}))
        return training_rates.training_images(preset, tmp_path / "runs" / "fake").image_size

    prepared = {"dataset": "prepared", "root": str(tmp_path / "none"), "card": "casia_webface"}
    assert (size(), size(image_size=112), size(**prepared), size(**prepared, image_size=56)) == (56, 112, 112, 56)


def test_of_a_folder_of_photographs_the_card_knows_and_people_are_held_out(tmp_path: Path):
    folder = {"dataset": "identity_folder", "root": "somewhere"}
    with_card = {**folder, "card": "att_faces", "heldout_share": 0.25, "validation_share": 0.15}
    assert images_of(tmp_path, dataset=with_card) == (240, 24), "of 400 images of 40 people"
    assert images_of(tmp_path, dataset=folder) is None
    with pytest.raises(DatasetNotFoundError, match="no dataset card 'nowhere'"):
        images_of(tmp_path, dataset={**folder, "card": "nowhere"})


def test_without_images_there_is_no_estimate(tmp_path: Path):
    preset = write_preset(tmp_path, dataset={"dataset": "identity_folder", "root": "somewhere"})
    estimate = estimate_costs(preset, runs_dir=tmp_path / "runs")
    assert (estimate.n_trainings, estimate.methods) == (4, {})
    assert "cannot be estimated: nobody knows how many images there are" in str(estimate)


# --- what is told ---------------------------------------------------------------------------------


def test_hours_are_told_with_their_sources(tmp_path: Path):
    write_run(tmp_path / "runs" / "other" / "arcface-s0", ARCFACE, 40.0)
    said = str(estimate_costs(write_preset(tmp_path), runs_dir=tmp_path / "runs", cores=2))
    assert "Each sees 400 images of 40 identities" in said
    assert "in 3 epochs: 4,800 images in all." in said
    minutes = 2400 / 40 / 60 * (1 + multiply_adds(MTLFACE) / multiply_adds(ARCFACE))
    assert f"Estimate: {round(minutes)} minutes of training on this machine's CPU, one training after the other" in said
    assert "with 2 side by side on as many cores" in said
    assert re.search(r"^arcface +2 +1\.00x +40\.0 +0\.02  \(1\)$", said, flags=re.M)
    assert "(1) measured: 1 finished run" in said
    assert "This is an estimate, of the trainings alone" in said
    assert "GPU-hours" not in said


def test_processes_share_a_training_and_the_cores(tmp_path: Path):
    """One finished run was done by four processes, another by one: 200 and 300 images a second of each process."""
    for seed, (speed, processes) in enumerate([(800.0, 4), (300.0, 1)]):
        write_run(tmp_path / "runs" / "other" / f"arcface-s{seed}", ARCFACE, speed, processes=processes)
    common = yaml.safe_load(write_preset(tmp_path).read_text())["train"]
    alone = estimate_costs(tmp_path / "mine.yaml", runs_dir=tmp_path / "runs")
    preset = write_preset(tmp_path, train={**common, "batch_parts": 2, "processes": 2})
    estimate = estimate_costs(preset, runs_dir=tmp_path / "runs", cores=5)
    arcface = estimate.methods["arcface"]
    assert arcface.images_per_second == pytest.approx(2 * 250.0)
    assert arcface.hours == pytest.approx(2 * 3 * 400 / 500 / 3600)
    assert arcface.gpu_hours == alone.methods["arcface"].gpu_hours, "on two GPUs half as long"
    assert "CPU, each shared by 2 processes that are taken to be 2 times as fast as one, one training" in str(estimate)
    assert "with 2 side by side on 4 cores" in str(estimate)
    assert "side by side" not in str(estimate_costs(preset, runs_dir=tmp_path / "runs", cores=3))


def test_where_a_cpu_takes_days_a_gpu_is_told_of(tmp_path: Path):
    estimate = estimate_costs("methods_casia", runs_dir=tmp_path / "runs")
    said = str(estimate)
    assert estimate.n_trainings == 54
    assert estimate.n_images == 54 * 50 * 490_623
    assert "490,623 images of 10,572 identities (as the card casia_webface says)" in said
    assert f"On a GPU: {estimate.gpu_hours:,.0f} GPU-hours (stated: 595 images/s with r50" in said
    # By hand: r50 with 618,000 identities at 595 images/s against IR-SE-50 with 10,572.
    ours, stated = 3 * (6.2967e9 + 512 * 10_572), 3 * (6.309e9 + 512 * 618_000)
    assert estimate.methods["arcface"].gpu_hours == pytest.approx(
        3 * 50 * 490_623 * ours / stated / 595 / 3600, rel=1e-3
    )
    half = estimate_costs("methods_ms1mv2", runs_dir=tmp_path / "runs")
    assert half.n_images == 54 * 25 * 5_822_653
    assert half.methods["broadface"].ratio > 2 > estimate.methods["broadface"].ratio > 1.2, "more cosines a batch"


def test_a_dry_run_tells_the_estimate_before_the_graph(tmp_path, write_notebook, monkeypatch, capsys):
    import snakemake.cli

    def planned(arguments: list[str]) -> None:
        print("what the graph would do")
        sys.exit(0)

    monkeypatch.setattr(snakemake.cli, "main", planned)
    places = {"runs_dir": tmp_path / "runs", "notebooks_dir": tmp_path / "notebooks"}
    write_fake_notebooks(tmp_path / "notebooks", write_notebook)
    preset = tmp_path / "fake.yaml"
    preset.write_text(PRESET)
    reproduce(preset, dry_run=True, cores=2, **places)
    said = capsys.readouterr().out
    assert said.index("Preset fake: 2 trainings, 0 of them done") < said.index("what the graph would do")
    assert "Estimate: " in said
    reproduce(preset, **places)
    assert "Estimate" not in capsys.readouterr().out
