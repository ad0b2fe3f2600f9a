"""Checkpoints of trainings: whole, damaged, half-written, of other networks and of other numbers of processes."""

import errno
import hashlib
import json
import os
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from checkpoint_jobs import Toy, state_of
from forked_ranks import forked_ranks
from fuzzing import assert_only_named_errors, mutations
from safetensors.torch import load_file

from interproto_lib.errors import CheckpointError, WriteError
from interproto_lib.training import checkpoint_storage
from interproto_lib.training.checkpoint_record import RECORD_FILE, read_record


@pytest.fixture(scope="module")
def ranks():
    return forked_ranks()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of the steps 3 and 12, and what they hold."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    toy = Toy(folder)
    contents = {step: toy.save(step).content() for step in (3, 12)}
    return folder, contents


@pytest.fixture
def copied(saved, tmp_path):
    folder, contents = saved
    shutil.copytree(folder, tmp_path / "checkpoints")
    return tmp_path / "checkpoints", contents


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def signed(folder, content):
    """Write a record with a checksum that fits, as only somebody who knows the format can."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    record = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": content}
    (folder / RECORD_FILE).write_text(json.dumps(record))


# --- whole ----------------------------------------------------------------------------------------


def test_every_tensor_comes_back_bit_for_bit(saved):
    folder, contents = saved
    toy = Toy(folder)
    state = toy.store.load_newest()
    assert toy.content() == contents[12]
    assert contents[12] != contents[3]
    wanted = state_of(12)
    assert (state.step, state.window_steps, state.seconds) == (wanted.step, wanted.window_steps, wanted.seconds)
    assert state.window.numpy().tobytes() == wanted.window.numpy().tobytes()
    assert toy.store.passed_over == []
    momentum = toy.optimizers["sgd"].state[toy.net.conv.weight]["momentum_buffer"]
    assert momentum.stride() == toy.net.conv.weight.stride() != torch.empty(4, 3, 3, 3).stride()


def test_optimisers_go_on_as_if_they_had_never_stopped(saved, tmp_path):
    first = Toy(tmp_path).save(5)
    second = Toy(tmp_path)
    second.store.load_newest()
    for toy in (first, second):
        for parameter in toy.net.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in toy.optimizers.values():
            optimizer.step()
    assert first.content() == second.content()


def test_a_folder_without_checkpoints_has_none(tmp_path):
    toy = Toy(tmp_path / "none")
    before = toy.content()
    assert toy.store.load_newest() is None
    assert toy.store.newest is None
    assert toy.content() == before
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    toy = Toy(tmp_path, keep=keep)
    for step in (2, 4, 99_999_999, 100_000_000):
        toy.save(step)
    names = ["step-00000004", "step-100000000", "step-99999999"]
    assert names_in(tmp_path) == sorted({1: names[1:2], 2: names[1:], 3: names}[keep])
    assert toy.store.newest.name == "step-100000000"
    assert Toy(tmp_path).store.load_newest().step == 100_000_000


def test_a_step_is_written_once(tmp_path):
    toy = Toy(tmp_path).save(4)
    record = tmp_path / "step-00000004" / RECORD_FILE
    before = record.stat().st_mtime_ns
    toy.store.save(state_of(4))
    again = Toy(tmp_path)
    again.store.load_newest()
    again.store.save(state_of(4))
    assert record.stat().st_mtime_ns == before


def test_the_files_are_safetensors_with_the_bytes_of_the_record(saved):
    folder, contents = saved
    record = read_record(folder / "step-00000012")
    (name, stored), *others = record.files.items()
    path = folder / "step-00000012" / name
    assert not others
    assert hashlib.sha256(path.read_bytes()).hexdigest() == stored.sha256
    tensors = load_file(path)
    assert set(tensors) == set(record.tensors)
    for key, (dtype, shape, content) in contents[12].items():
        name = f"network/{key}" if "/" not in key else f"optimizer/{key}"
        tensor = tensors[name]
        assert (str(tensor.dtype), tuple(tensor.shape)) == (dtype, shape)
        assert bytes(tensor.flatten().view(torch.uint8).numpy()) == content


def test_large_tensors_go_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_storage, "_BLOCK_BYTES", 100)
    toy = Toy(tmp_path, n_rows=51, width=7).save(1)
    again = Toy(tmp_path, n_rows=51, width=7)
    again.store.load_newest()
    assert again.content() == toy.content()


# --- half-written ---------------------------------------------------------------------------------


def test_a_half_written_checkpoint_does_not_count_and_is_removed(copied, capsys):
    folder, contents = copied
    (folder / "step-00000012" / RECORD_FILE).unlink()
    (folder / "step-00000012" / ".part-00000-abcdefgh.safetensors").write_bytes(b"half")
    toy = Toy(folder)
    assert toy.store.load_newest().step == 3
    assert toy.content() == contents[3]
    assert toy.store.passed_over == []
    assert capsys.readouterr().out == ""
    toy.save(12)
    assert names_in(folder / "step-00000012") == [RECORD_FILE, "part-00000.safetensors"]
    assert Toy(folder).store.load_newest().step == 12


def test_what_else_is_in_the_folder_is_left(copied):
    folder, _ = copied
    for name in ("notes.txt", "step-1.txt", "step-abc", "mystep-00000099"):
        (folder / name).write_text("mine")
    toy = Toy(folder)
    assert toy.store.load_newest().step == 12
    toy.save(20)
    assert {"notes.txt", "step-1.txt", "step-abc", "mystep-00000099"} <= set(names_in(folder))


def fail_at(monkeypatch, number, error):
    """Let the block of this number fail to be written."""
    blocks = checkpoint_storage._blocks

    def failing(*args):
        for n, block in enumerate(blocks(*args)):
            if n == number:
                raise error
            yield block

    monkeypatch.setattr(checkpoint_storage, "_blocks", failing)


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_full_disk_is_said_and_keeps_what_was(copied, monkeypatch, number):
    folder, contents = copied
    toy = Toy(folder)
    toy.store.load_newest()
    with monkeypatch.context() as patched:
        fail_at(patched, number, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(WriteError, match=r"step-00000020.*No space left on device \(\d+ MiB free.*Free some space"):
            toy.save(20)
    assert names_in(folder) == ["step-00000003", "step-00000012"]
    again = Toy(folder)
    assert again.store.load_newest().step == 12
    assert again.content() == contents[12]
    toy.save(20)
    assert names_in(folder) == ["step-00000012", "step-00000020"]


def test_a_disk_that_is_full_for_the_record_keeps_what_was(copied, monkeypatch):
    folder, contents = copied

    def full(*_):
        raise WriteError("Cannot write: No space left on device.")

    toy = Toy(folder)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_storage, "write_record", full)
        with pytest.raises(WriteError, match="No space"):
            toy.save(20)
    assert names_in(folder) == ["step-00000003", "step-00000012"]
    again = Toy(folder)
    again.store.load_newest()
    assert again.content() == contents[12]


@pytest.mark.parametrize("n", [1, 2])
def test_a_real_limit_of_the_system_is_a_write_error_in_every_process(ranks, tmp_path, n):
    ranks.run(n, "checkpoint_jobs:save_beyond_a_limit", folder=str(tmp_path / "c"))
    assert names_in(tmp_path / "c") == ["step-00000001"]


def test_an_interruption_leaves_nothing_behind(copied, monkeypatch):
    folder, _ = copied
    with monkeypatch.context() as patched:
        fail_at(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            Toy(folder).save(20)
    assert names_in(folder) == ["step-00000003", "step-00000012"]


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(WriteError, match="Cannot write"):
        Toy(tmp_path / "checkpoints").save(1)


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    toy = Toy(tmp_path)
    toy.fill(1)
    toy.optimizers["sgd"].state[toy.net.conv.weight]["count"] = 3
    with pytest.raises(CheckpointError, match="keeps count, a int"):
        toy.store.save(state_of(1))


# --- damaged --------------------------------------------------------------------------------------


def damages(path):
    """Damaged contents of a file: cut short, emptied, longer, with a bit flipped at many places."""
    content = path.read_bytes()
    draw = random.Random(path.name)
    for end in (0, 1, 8, len(content) // 2, len(content) - 1):
        yield f"cut to {end} bytes", content[:end]
    yield "longer", content + b"\0"
    places = [0, 5, 7, 8, 9, len(content) - 1, *(draw.randrange(len(content)) for _ in range(25))]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield f"a bit of byte {place} flipped", bytes(changed)


@pytest.mark.parametrize("name", [RECORD_FILE, "part-00000.safetensors"])
def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(copied, name, capsys):
    folder, contents = copied
    path = folder / "step-00000012" / name
    whole = path.read_bytes()
    n_damaged = 0
    for what, content in damages(path):
        path.write_bytes(content)
        toy = Toy(folder)
        step = toy.store.load_newest().step
        said = capsys.readouterr().out
        if step == 12:  # a byte between the words of the record, or the case of a letter of the checksum: nothing lost
            assert name == RECORD_FILE, what
            assert toy.content() == contents[12], what
            assert said == ""
            continue
        n_damaged += 1
        assert toy.content() == contents[3], what
        (damage,) = toy.store.passed_over
        assert str(folder / "step-00000012") in damage
        assert "damaged" in damage
        assert said == f"{damage}. The run goes on from step-00000003, which is whole.\n"
    assert n_damaged >= 25
    path.write_bytes(whole)
    assert Toy(folder).store.load_newest().step == 12


def test_a_missing_file_is_damage(copied):
    folder, _ = copied
    (folder / "step-00000012" / "part-00000.safetensors").unlink()
    toy = Toy(folder)
    assert toy.store.load_newest().step == 3
    assert "part-00000.safetensors cannot be read (No such file or directory)" in toy.store.passed_over[0]


def test_damaged_ones_go_once_a_run_has_written_another(copied):
    folder, _ = copied
    (folder / "step-00000012" / "part-00000.safetensors").write_bytes(b"")
    toy = Toy(folder)
    toy.store.load_newest()
    toy.save(7)
    assert names_in(folder) == ["step-00000003", "step-00000007"]


def test_damaged_ones_are_written_anew(copied):
    folder, contents = copied
    (folder / "step-00000012" / "part-00000.safetensors").write_bytes(b"")
    toy = Toy(folder)
    toy.store.load_newest()
    toy.save(12)
    again = Toy(folder)
    assert again.store.load_newest().step == 12
    assert again.content() == contents[12]


def test_where_all_are_damaged_each_is_named(copied):
    folder, _ = copied
    (folder / "step-00000012" / "part-00000.safetensors").write_bytes(b"12")
    (folder / "step-00000003" / RECORD_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole: .*has 2 bytes.*step-00000003.*Remove"):
        Toy(folder).store.load_newest()


def test_a_damaged_record_is_refused_or_reads_the_same(copied):
    folder, _ = copied
    folder /= "step-00000012"
    whole = read_record(folder)

    def read(content):
        (folder / RECORD_FILE).write_bytes(content)
        assert read_record(folder) == whole

    assert assert_only_named_errors(read, mutations((folder / RECORD_FILE).read_bytes(), n=1000, seed=1)) > 850


def changed_records(content, *, n, seed):
    """Records with one value or key changed to something that was never written, at any depth."""
    odd = [
        None,
        True,
        -1,
        2**63,
        10**400,
        1.5,
        float("nan"),
        "",
        "../../x",
        "float32",
        "object",
        [],
        {},
        [[]],
        [2**62] * 3,
    ]
    draw = random.Random(seed)
    for _ in range(n):
        changed = json.loads(json.dumps(content))
        place = changed
        while True:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.1:
                break
            place = place[key]
        what = draw.random()
        if what < 0.7:
            place[key] = draw.choice(odd)
        elif what < 0.9:
            del place[key]
        elif isinstance(place, dict):
            place[str(draw.choice(odd))] = place.pop(key)
        yield changed


def test_a_record_made_up_by_somebody_is_refused_by_name(copied):
    folder, _ = copied
    shutil.rmtree(folder / "step-00000003")
    content = json.loads((folder / "step-00000012" / RECORD_FILE).read_text())["content"]
    toy = Toy(folder)

    def load(changed):
        signed(folder / "step-00000012", changed)
        toy.store.load_newest()

    assert assert_only_named_errors(load, changed_records(content, n=400, seed=2)) > 200


def test_no_file_outside_of_the_folder_is_read(copied):
    folder, _ = copied
    content = json.loads((folder / "step-00000012" / RECORD_FILE).read_text())["content"]
    (folder / "step-00000012" / "part-00000.safetensors").rename(folder / "part-00000.safetensors")
    text = json.dumps(content).replace("part-00000.safetensors", "../part-00000.safetensors")
    signed(folder / "step-00000012", json.loads(text))
    toy = Toy(folder)
    assert toy.store.load_newest().step == 3
    assert "is no name of a file of it" in toy.store.passed_over[0]


def test_nothing_in_a_checkpoint_is_unpickled(copied, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    folder, contents = copied
    evil = pickle.dumps(Evil())
    newest = folder / "step-00000012"
    (newest / ".metadata").write_bytes(evil)  # where torch.distributed.checkpoint itself keeps a pickle
    assert Toy(folder).store.load_newest().step == 12
    content = json.loads((newest / RECORD_FILE).read_text())["content"]
    part = newest / "part-00000.safetensors"
    size = part.stat().st_size
    torch.save({"window": Evil(), "padding": torch.zeros(size)}, part)
    for bad in (evil + bytes(size), part.read_bytes()):
        part.write_bytes(bad)
        assert Toy(folder).store.load_newest().step == 3
        signed(
            newest, {**content, "files": {part.name: {"n_bytes": len(bad), "sha256": hashlib.sha256(bad).hexdigest()}}}
        )
        with pytest.raises(CheckpointError, match="does not hold what it should"):
            Toy(folder).store.load_newest()
    (newest / RECORD_FILE).write_bytes(evil)
    toy = Toy(folder)
    assert toy.store.load_newest().step == 3
    assert toy.content() == contents[3]
    assert not (tmp_path / "owned").exists()


# --- of another training --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"n_rows": 8}, r"prototypes.* is float32 \(7, 5\), expected float32 \(8, 5\)"), ({"width": 6}, r"\(7, 6\)")],
)
def test_other_sizes_are_of_another_training(saved, changes, reason):
    folder, _ = saved
    with pytest.raises(CheckpointError, match=rf"step-00000012 is of another training \(.*{reason}"):
        Toy(folder, **changes).store.load_newest()


def test_other_networks_are_of_another_training(saved):
    folder, _ = saved
    more, fewer, typed = (Toy(folder) for _ in range(3))
    more.net.register_buffer("more", torch.zeros(1))
    del fewer.net.short
    typed.net.number = typed.net.number.float()
    cases = [
        (more, "without network/more"),
        (fewer, "with network/short"),
        (typed, "expected float32"),
    ]
    for toy, reason in cases:
        with pytest.raises(CheckpointError, match=f"of another training.*{reason}"):
            toy.store.load_newest()


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_saving", [1, 2, 3])
def test_any_number_of_processes_reads_what_any_number_wrote(ranks, tmp_path, n_saving):
    """Four rows: three processes hold 2, 2 and none. All numbers are compared with those of one process."""
    folder, n_rows = tmp_path / "checkpoints", 4
    ranks.run(n_saving, "checkpoint_jobs:save", folder=str(folder), steps=[2, 6, 8], n_rows=n_rows)
    assert names_in(folder) == ["step-00000006", "step-00000008"]
    record = read_record(folder / "step-00000008")
    assert len(record.files) == n_saving
    chunks = record.tensors["optimizer/sgd/prototypes/momentum_buffer"].chunks
    assert [chunk.shape[0] for chunk in chunks] == {1: [4], 2: [2, 2], 3: [2, 2]}[n_saving]
    assert len(record.tensors["network/conv.weight"].chunks) == 1, "what all processes have is written once"
    wanted = Toy(tmp_path / "alone", n_rows=n_rows).save(8).tensors()
    for n_loading in (1, 2, 3):
        out = tmp_path / f"out-{n_loading}"
        out.mkdir()
        ranks.run(n_loading, "checkpoint_jobs:load", folder=str(folder), n_rows=n_rows, out=str(out))
        found = [np.load(out / f"rank-{rank}.npz") for rank in range(n_loading)]
        for name, tensor in wanted.items():
            parts = [of_rank[name.replace("/", "|")] for of_rank in found]
            whole = [np.concatenate(parts)] if "prototypes" in name else parts
            assert all(one.tobytes() == tensor.float().numpy().tobytes() for one in whole), name
        assert [int(of_rank["step"]) for of_rank in found] == [8] * n_loading


def test_all_processes_fall_back_together(ranks, tmp_path):
    folder = tmp_path / "checkpoints"
    ranks.run(3, "checkpoint_jobs:save", folder=str(folder), steps=[2, 6], n_rows=9)
    part = folder / "step-00000006" / "part-00002.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    wanted = Toy(tmp_path / "alone", n_rows=9).save(2).tensors()["prototypes"]
    for n_loading in (1, 2, 3):
        ranks.run(n_loading, "checkpoint_jobs:load", folder=str(folder), n_rows=9, out=str(tmp_path))
        found = [np.load(tmp_path / f"rank-{rank}.npz") for rank in range(n_loading)]
        assert [int(of_rank["step"]) for of_rank in found] == [2] * n_loading
        assert np.concatenate([of_rank["prototypes"] for of_rank in found]).tobytes() == wanted.numpy().tobytes()
        said = [line for line in ranks.said().splitlines() if str(folder) in line]
        assert len(said) == 1, "the first process alone says it"
        assert "part-00002.safetensors holds other bytes than were written" in said[0]


def test_nobody_waits_in_the_group_of_steps_while_one_reads_or_writes(ranks, tmp_path):
    """The groups of steps are broken on purpose, so that whoever asks anything of them fails."""
    ranks.run(2, "checkpoint_jobs:save_and_load_in_the_patient_group_alone", folder=str(tmp_path / "checkpoints"))


@pytest.mark.slow
def test_a_process_slower_than_a_step_may_be_is_waited_for(ranks, tmp_path):
    """Each of two is slow in turn to write, to compare and to read; a step may take 3 s, they take 5."""
    folder = tmp_path / "checkpoints"
    for slow in (0, 1):
        ranks.run(2, "checkpoint_jobs:save_and_load_slowly", folder=str(folder), slow=slow, seconds=5, timeout="3")
