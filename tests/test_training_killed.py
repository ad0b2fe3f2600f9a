"""Trainings killed at any moment, above all while they write: each ends with the bits of one that was not killed."""

import json
import random
import time

import pytest
from forked_ranks import forked_ranks
from toy import assert_same_run, tiny, toy_dataset

from interproto_lib.runs import RunFolder
from interproto_lib.training import train
from interproto_lib.training.checkpoint_record import RECORD_FILE, read_record


@pytest.fixture(scope="module")
def ranks():
    return forked_ranks()


def settings(n, **changes):
    return tiny(dropout=0.2, inter_prototype="all", batch_parts=n, **changes)


def newest_step(folder):
    found = [path for path in folder.glob("checkpoints/step-*") if (path / RECORD_FILE).is_file()]
    return read_record(max(found)).values["step"]


def test_killed_inside_a_write_a_run_ends_with_the_same_bits(ranks, tmp_path):
    """Inside a checkpoint's bytes, around each rename of a checkpoint and of the files of a finished run."""
    config = settings(1, epochs=4)
    whole = train(config, toy_dataset(image_size=28), tmp_path / "whole-s0", progress="none")
    folder = tmp_path / "killed-s0"
    n_blocks = 1 + len(read_record(whole.path / "checkpoints" / "step-00000024").tensors)
    kills = [
        ("amid", n_blocks + 9, 6),  # epoch 1 is kept, the checkpoint of epoch 2 cut
        ("before part-00000.safetensors", 1, 6),
        ("after part-00000.safetensors", 1, 6),
        (f"before {RECORD_FILE}", 1, 6),
        (f"after {RECORD_FILE}", 2, 18),
        ("before backbone.safetensors", 1, 24),
        ("after backbone.safetensors", 1, 24),
        ("before prototypes.safetensors", 1, 24),
        ("before summary.json", 1, 24),
    ]
    for moment, countdown, step in kills:
        ranks.start(
            1, "training_jobs:train_toy", settings=config.to_dict(), folder=str(folder), die=[0, moment, countdown]
        )
        assert ranks.exit_codes() == [-9], moment
        assert not (folder / "summary.json").exists()
        if not moment.startswith("after"):
            assert [path for path in folder.rglob(".*-*") if path.is_file()], f"{moment}: the kill hit no write"
        assert newest_step(folder) == step, moment
    assert_same_run(whole, train(config, toy_dataset(image_size=28), folder, progress="none"))
    assert not list(folder.rglob(".*-*")), "what the killed writers left is removed"
    assert sorted(path.name for path in folder.glob("checkpoints/*")) == ["step-00000018", "step-00000024"]


@pytest.mark.parametrize(
    ("n", "n_kills"),
    [(1, 6), pytest.param(1, 20, marks=pytest.mark.slow), (2, 2), pytest.param(2, 20, marks=pytest.mark.slow)],
)
def test_killed_at_random_moments_a_run_ends_with_the_same_bits(ranks, tmp_path, n, n_kills):
    """Half of the kills come at a random time, half at a random operation on the disk; of two processes one is killed.

    A run that ends before it is killed is compared, and the next one begins.
    """
    draw = random.Random(f"{n}-{n_kills}")
    config = settings(n, epochs=4, checkpoint_every_steps=2)
    whole = tmp_path / "whole-s0"
    ranks.run(n, "training_jobs:start_up")
    start = time.monotonic()
    ranks.run(n, "training_jobs:train_toy", settings=config.to_dict(), folder=str(whole))
    seconds = time.monotonic() - start
    folders, n_killed = [tmp_path / "killed-0-s0"], 0
    while n_killed < n_kills:
        if (folders[-1] / "summary.json").exists():
            folders.append(tmp_path / f"killed-{len(folders)}-s0")
        victim = draw.randrange(n)
        moment = ["seconds", draw.uniform(0, seconds)] if n_killed % 2 else ["any", draw.randint(1, 600)]
        job = {"settings": config.to_dict(), "folder": str(folders[-1]), "die": [victim, *moment]}
        ranks.start(n, "training_jobs:train_toy", **job)
        codes = ranks.exit_codes()
        assert codes == [0] * n or (codes[victim] == -9 and 0 not in codes), codes
        n_killed += codes[victim] == -9
    ranks.run(n, "training_jobs:train_toy", settings=config.to_dict(), folder=str(folders[-1]))
    for folder in folders:
        assert_same_run(RunFolder(whole), RunFolder(folder))
        assert not list(folder.rglob(".*-*")), "what the killed writers left is removed"


def test_a_line_of_the_metrics_cut_short_by_a_kill_is_written_anew(ranks, tmp_path):
    config = settings(1, epochs=2, checkpoint_every_steps=3)
    whole = train(config, toy_dataset(image_size=28), tmp_path / "whole-s0", progress="none")
    folder = tmp_path / "killed-s0"
    die = [0, f"after {RECORD_FILE}", 3]
    ranks.start(1, "training_jobs:train_toy", settings=config.to_dict(), folder=str(folder), die=die)
    assert ranks.exit_codes() == [-9]
    assert newest_step(folder) == 9
    rows = (folder / "metrics.jsonl").read_text()
    assert [json.loads(row)["step"] for row in rows.splitlines()] == [4, 8]
    (folder / "metrics.jsonl").write_text(rows + '{"step": 99, "lo')
    assert_same_run(whole, train(config, toy_dataset(image_size=28), folder, progress="none"))


def test_a_damaged_newest_checkpoint_costs_a_part_of_the_run_and_is_on_record(tmp_path, capsys):
    config, dataset = settings(1), toy_dataset(image_size=28)
    whole = train(config, dataset, tmp_path / "whole-s0", progress="none")
    folder = tmp_path / "damaged-s0"
    train(config, dataset, folder, progress="none")
    for name in ("summary.json", "backbone.safetensors", "prototypes.safetensors"):
        (folder / name).unlink()
    part = folder / "checkpoints" / "step-00000018" / "part-00000.safetensors"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 16
    part.write_bytes(content)
    run = train(config, dataset, folder, progress="none")
    damage = f"{part.parent} is damaged (part-00000.safetensors holds other bytes than were written)"
    assert f"{damage}. The run goes on from step-00000012, which is whole.\n" in capsys.readouterr().out
    assert_same_run(whole, run)
    (resumed,) = run.environment["resumed_with"]
    assert resumed["step"] == 12
    assert resumed["damaged_checkpoints"] == [damage]
    (folder / "summary.json").unlink()
    assert len(train(config, dataset, folder, progress="none").environment["resumed_with"]) == 1, "said once"
