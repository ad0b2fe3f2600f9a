"""Mean embeddings that are kept: right, read instead of computed, and never believed once what they are of changed."""

from __future__ import annotations

import itertools
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from explored_runs import manifest_of, write_run
from safetensors.numpy import load_file, save_file

from interproto_lib.analysis import load_embeddings
from interproto_lib.data.manifests import read_manifest, write_manifest
from interproto_lib.errors import ConfigError
from interproto_lib.runs import RunFolder
from interproto_lib.views.explorer import open_explored
from interproto_lib.views.explorer import stored_means as stored

NAN = float("nan")
AGES = {
    "ann": [4.0, 8.0, 30.0, NAN],
    "bob": [40.0, 41.0],
    "cy": [3.0, 5.0, 12.9],
    "eve": [NAN, NAN],
    "gus": [6.0, 7.0, 20.0],
}
GROUPS = {
    "all": lambda age, below: True,
    "child": lambda age, below: age < below,
    "adult": lambda age, below: age >= below,
}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "drawn", "arcface-s0", manifest_of(AGES))


def expected(run: RunFolder, names, group: str, below: float = 13.0):
    """Means in Python's own loops."""
    embeddings = load_embeddings(run)
    images = list(embeddings.manifest[["identity", "age_years"]].itertuples(index=False))
    rows = []
    for name in names:
        some = [v for v, (who, age) in zip(embeddings.vectors, images, strict=True)
                if who == name and GROUPS[group](age, below)]  # fmt: skip
        rows.append(np.mean(np.array(some, dtype=np.float64), axis=0) if some else np.full(6, NAN))
    return np.array(rows)


def shown(run: RunFolder):
    """Group -> means, of a run opened anew."""
    explored = open_explored(run)
    return {group: explored.runs[0].means(group) for group in GROUPS}


def check(run: RunFolder, below: float = 13.0):
    names = sorted(run.classes["identity"])
    for group, means in shown(run).items():
        np.testing.assert_allclose(means, expected(run, names, group, below), atol=1e-7, err_msg=group)


def kept_files(run: RunFolder) -> list[Path]:
    return sorted((run.path / "embeddings" / "class_means").iterdir())


@pytest.fixture
def count(monkeypatch):
    """How often all embeddings were read."""
    calls = []
    compute = stored.group_means
    monkeypatch.setattr(stored, "group_means", lambda *a, **k: calls.append(1) or compute(*a, **k))
    return calls


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 8192])
def test_means_of_groups_are_those_of_their_images(rows_at_a_time, monkeypatch):
    monkeypatch.setattr(stored, "_ROWS_AT_A_TIME", rows_at_a_time)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = rng.integers(-1, 9, 50)
    labels[labels == 4] = 3  # one without an image
    vectors[labels < 0] = NAN  # what does not count is not looked at
    ages = np.where(rng.random(50) < 0.3, NAN, rng.uniform(0, 40, 50))
    found = stored.group_means(vectors, stored.group_codes(labels, ages, 13.0), 9, name="drawn")
    for group, counts in GROUPS.items():
        means = {}
        for who in range(9):
            some = [k for k in range(50) if labels[k] == who and counts(ages[k], 13.0)]
            if some:
                means[who] = vectors[some].astype(np.float64).mean(axis=0)
        assert found[group][0].tolist() == sorted(means)
        np.testing.assert_allclose(found[group][1], [means[who] for who in sorted(means)], atol=1e-7)


def test_embeddings_are_read_once(run, count):
    check(run)
    assert [path.name for path in kept_files(run)] == [f"train-{g}.safetensors" for g in ("adult", "all", "child")]
    assert len(count) == 1
    check(run)
    open_explored(run, names=["A"]).matrices("child-adult")
    assert len(count) == 1


def test_other_embeddings_are_read_anew(run, count):
    check(run)
    path = run.path / "embeddings" / "vectors.safetensors"
    vectors = load_file(path)["vectors"]
    save_file({"vectors": vectors[::-1].copy()}, path)  # of the same size
    check(run)
    assert len(count) == 2
    state = path.stat()
    save_file({"vectors": vectors}, path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # of the same size and age
    check(run)
    assert len(count) == 3


def test_another_manifest_gives_other_means(run, count):
    check(run)
    path = run.path / "embeddings" / "manifest.parquet"
    manifest = read_manifest(path)
    who, age = manifest["identity"].to_numpy(dtype=object), manifest["age_years"].to_numpy()
    for changed in (
        manifest.assign(age_years=np.where(age == 8.0, 14.0, age)),
        manifest.assign(identity=np.where((who == "ann") & (age == 4.0), "bob", who)),
        manifest.assign(split=np.where(age == 41.0, "heldout", manifest["split"])),
    ):
        before = len(count)
        write_manifest(changed, path)
        explored = open_explored(run)
        assert len(explored.names) == 5
        counted = changed[changed["split"] == "train"]
        vectors = load_embeddings(run).vectors
        rows = counted.index[(counted["identity"] == "bob") & (counted["age_years"] >= 13)]
        np.testing.assert_allclose(explored.runs[0].means("adult")[1], vectors[rows].mean(axis=0), atol=1e-7)
        assert len(count) == before + 1


def test_an_age_that_moves_nobody_changes_nothing(run, count):
    check(run)
    path = run.path / "embeddings" / "manifest.parquet"
    manifest = read_manifest(path)
    write_manifest(manifest.assign(age_years=manifest["age_years"].replace(40.0, 44.0)), path)
    check(run)
    assert len(count) == 1


def test_another_rule_of_who_is_a_child_gives_other_means(run, count):
    check(run)
    config = run.path / "config.json"
    text = config.read_text()
    assert '"child_below_years": 13.0' in text
    config.write_text(text.replace('"child_below_years": 13.0', '"child_below_years": 6.0'))
    check(run, below=6.0)
    assert len(count) == 2


def damaged_contents(content: bytes, rng: np.random.Generator):
    """The content with a bit flipped, cut off, with a huge length in front, and with a byte more."""
    place = int(rng.integers(len(content)))
    flipped = bytearray(content)
    flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped), content[:place], rng.bytes(8) + content[8:], content + b"x"


def test_damaged_means_are_computed_anew(run, count):
    check(run)
    right = shown(run)
    means_of = open_explored(run).runs[0].stored_means.means
    for path, group in zip(kept_files(run), ("adult", "all", "child"), strict=True):
        content = path.read_bytes()
        for damaged in damaged_contents(content, np.random.default_rng(1)):
            path.write_bytes(damaged)
            np.testing.assert_array_equal(means_of(group), right[group])
            assert path.read_bytes() == content  # whole again
    assert len(count) == 1 + 12


def test_no_damage_is_believed(run):
    check(run)
    right = shown(run)
    kept = open_explored(run).runs[0].stored_means
    rng = np.random.default_rng(2)
    for path, group in zip(kept_files(run), ("adult", "all", "child"), strict=True):
        content = path.read_bytes()
        assert kept._read(group) is not None
        for damaged in itertools.chain.from_iterable(damaged_contents(content, rng) for _ in range(100)):
            path.write_bytes(damaged)
            found = kept._read(group)
            assert found is None or np.array_equal(found[1], right[group][found[0]])


def test_means_of_another_run_are_not_taken(run, tmp_path, count):
    other = write_run(tmp_path / "other", "arcface-s1", manifest_of(AGES))
    check(other)
    shutil.copytree(other.path / "embeddings" / "class_means", run.path / "embeddings" / "class_means")
    check(run)
    of_children = kept_files(run)[2]
    shutil.copy(kept_files(run)[0], of_children)  # those of adults under the name of children
    explored = open_explored(run)
    assert np.isnan(explored.runs[0].means("child")[1]).all()


def test_a_folder_that_cannot_be_written_is_explored_and_it_is_said(run, count):
    (run.path / "embeddings" / "class_means").write_text("in the way")
    explored = open_explored(run)
    with pytest.warns(UserWarning, match=r"'arcface-s0' are not kept, so all .* read again .*class_means is a file"):
        means = {group: explored.runs[0].means(group) for group in GROUPS}
    assert len(count) == 1
    for group, some in means.items():
        np.testing.assert_allclose(some, expected(run, sorted(AGES), group), atol=1e-7)


def test_of_runs_that_know_other_people_each_keeps_its_own(run, tmp_path, count):
    ages = {"zoe": [5.0, 30.0], "aaa": [3.0, 4.0], "gus": [6.0, 50.0], "cy": [7.0, 8.0, 60.0]}
    other = write_run(tmp_path / "other", "interproto-s0", manifest_of(ages))
    check(run)
    check(other)
    explored = open_explored(run, other)
    assert list(explored.names) == ["cy", "gus"]
    for one in explored.runs:
        for group in GROUPS:
            np.testing.assert_allclose(one.means(group), expected(one.run, ["cy", "gus"], group), atol=1e-7)
    assert len(count) == 2


def test_held_out_people_have_means_of_their_own(tmp_path):
    import pandas as pd

    held = manifest_of({"pip": [3.0, 50.0], "kim": [20.0, NAN]}, split="heldout")
    run = write_run(tmp_path, "arcface-s0", pd.concat([manifest_of(AGES), held], ignore_index=True))
    check(run)
    explored = open_explored(run, split="heldout")
    for group in GROUPS:
        np.testing.assert_allclose(explored.runs[0].means(group), expected(run, ["kim", "pip"], group), atol=1e-7)
    assert len(kept_files(run)) == 6


def test_embeddings_that_are_no_unit_rows_are_refused(run):
    path = run.path / "embeddings" / "vectors.safetensors"
    for wrong in (2.0, NAN):
        vectors = load_file(path)["vectors"]
        vectors[5] = vectors[5] * wrong
        save_file({"vectors": vectors}, path)
        with pytest.raises(ConfigError, match="row 5 of embeddings of run 'arcface-s0' has length"):
            open_explored(run).matrices("all")
        assert not (run.path / "embeddings" / "class_means").exists()


def test_memory_goes_with_the_identities_not_with_the_images(tmp_path):
    rng = np.random.default_rng(0)
    place = tmp_path / "vectors.bin"
    np.broadcast_to(np.eye(64, dtype=np.float32)[0], (200_000, 64)).tofile(place)
    vectors = np.memmap(place, dtype=np.float32, mode="r", shape=(200_000, 64))
    codes = rng.integers(0, 300, 200_000).astype(np.int32)
    tracemalloc.start()
    stored.group_means(vectors, codes, 100, name="drawn")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert vectors.nbytes > 50e6
    assert peak < 15e6
