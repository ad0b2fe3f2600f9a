"""What is explored, against brute force over image pairs: cohorts, NaN, non-square matrices, runs that differ."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
from explored_runs import manifest_of, write_run

from interproto_lib.analysis import kept_projection, load_embeddings
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.runs import RunFolder
from interproto_lib.views.explorer import describe_view, mean_similarities, open_explored, stored_projections
from interproto_lib.views.explorer.tiles import LinkedMatrices

NAN = float("nan")
AGES = {
    "ann": [4.0, 8.0, 30.0, NAN],
    "bob": [40.0, 41.0],
    "cy": [3.0, 5.0, 12.9],
    "dee": [13.0, 60.0, NAN],
    "eve": [NAN, NAN],
    "fay": [2.0, 33.0, 34.0],  # one child image only: no child identity
    "gus": [6.0, 7.0, 20.0],
}
CHILDREN = ["ann", "cy", "gus"]
GROUPS = {
    "child": lambda age: age < 13,
    "adult": lambda age: age >= 13,
    "all": lambda age: True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    manifest = pd.concat([manifest_of(AGES), manifest_of({"held": [3.0, 4.0], "out": [30.0]}, split="heldout")])
    manifest = manifest.reset_index(drop=True)
    write_run(folder, "arcface-s0", manifest)
    write_run(folder, "interproto-sum-s0", manifest)
    return folder


@pytest.fixture(scope="module")
def explored(folder):
    return open_explored(folder / "arcface-s0", folder / "interproto-sum-s0")


def brute_force(run: RunFolder, row: str, column: str, row_group: str, column_group: str) -> float:
    """Mean cosine over image pairs by Eq. 2, in Python's own loops."""
    embeddings = load_embeddings(run)
    images = embeddings.manifest[embeddings.manifest["split"] == "train"]
    left, right = (
        [k for k, one in images.iterrows() if one["identity"] == name and GROUPS[group](one["age_years"])]
        for name, group in ((row, row_group), (column, column_group))
    )
    cosines = [float(embeddings.vectors[a] @ embeddings.vectors[b]) for a, b in itertools.product(left, right)]
    return float(np.mean(cosines)) if cosines else NAN


@pytest.mark.parametrize(
    ("cohort", "rows", "columns"),
    [
        ("child-child", CHILDREN, CHILDREN),
        ("child-adult", CHILDREN, ["ann", "bob", "dee", "fay", "gus"]),
        ("adult-adult", ["ann", "bob", "dee", "fay", "gus"], ["ann", "bob", "dee", "fay", "gus"]),
        ("all", list(AGES), list(AGES)),
    ],
)
def test_matrices_of_features_are_eq_2(explored, cohort, rows, columns):
    matrices = explored.matrices(cohort)
    assert list(explored.names[matrices.rows]) == rows
    assert list(explored.names[matrices.columns]) == columns
    assert matrices.is_symmetric == (cohort != "child-adult")
    linked = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns)
    shown = linked.values(np.arange(len(rows)), np.arange(len(columns)))
    groups = {"all": ("all", "all")}.get(cohort, tuple(cohort.split("-")))
    for which, run in enumerate(explored.runs):
        expected = np.array([[brute_force(run.run, a, b, *groups) for b in columns] for a in rows])
        for i, name in enumerate(rows):
            if name in columns and groups[0] == groups[1]:  # Eq. 1 on the diagonal
                k = list(run.run.classes["identity"]).index(name)
                prototype = run.run.prototypes[k] / np.linalg.norm(run.run.prototypes[k])
                expected[i, columns.index(name)] = run.means(groups[0])[explored.names == name][0] @ prototype
        np.testing.assert_allclose(shown[which], expected, atol=2e-6)
    np.testing.assert_allclose(shown[2], shown[1] - shown[0], atol=2e-6)


def test_prototypes_and_their_difference_to_features(explored):
    of_features, of_prototypes, difference = (
        LinkedMatrices(m.matrices, own_columns=m.own_columns).values(range(3), range(5))
        for m in (explored.matrices("child-adult", q) for q in ("features", "prototypes", "difference"))
    )
    run = explored.runs[1].run
    unit = run.prototypes / np.linalg.norm(run.prototypes, axis=1, keepdims=True)
    rows = [list(run.classes["identity"]).index(name) for name in CHILDREN]
    columns = [list(run.classes["identity"]).index(name) for name in ("ann", "bob", "dee", "fay", "gus")]
    np.testing.assert_allclose(of_prototypes[1], unit[rows] @ unit[columns].T, atol=1e-6)
    np.testing.assert_allclose(difference, of_prototypes - of_features, atol=2e-6)


def test_own_cells_count_in_no_mean(explored):
    for cohort, rows, columns in (("all", 7, 7), ("child-adult", 3, 5)):
        matrices = explored.matrices(cohort)
        linked = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns)
        values = linked.values(range(rows), range(columns)).astype(np.float64)
        for row, column in enumerate(matrices.own_columns):
            if column >= 0:
                values[:, row, column] = NAN
        means = mean_similarities(explored, cohort=cohort)
        np.testing.assert_allclose(list(means.values()), np.nanmean(values, axis=(1, 2)), atol=2e-6)
        assert f"{means['ArcFace']:.3f}".replace("-", "−") in describe_view(explored, cohort=cohort)


def test_table_of_identities(explored):
    table = explored.identities.set_index("identity")
    assert list(table.index) == sorted(AGES)
    assert list(table.index[table["is_child"]]) == CHILDREN
    assert table.loc["ann", "child_share"] == pytest.approx(2 / 3)
    assert table.loc["dee", "age_years"] == pytest.approx(36.5)
    assert np.isnan(table.loc["eve", ["child_share", "age_years"]].astype(float)).all()
    assert table["n_images"].to_dict() == {name: len(ages) for name, ages in AGES.items()}
    assert explored.notes == ()


def test_held_out_people_have_no_prototypes(folder):
    explored = open_explored(folder / "arcface-s0", split="heldout")
    assert list(explored.names) == ["held", "out"]
    assert list(explored.is_child) == [True, False]
    assert explored.quantities == ("features",)
    assert explored.cohorts == ("child-adult", "all")
    assert "no prototypes" in " ".join(explored.notes)
    assert stored_projections(explored, ["tsne"]) == {}
    with pytest.raises(ConfigError, match="choose features"):
        explored.matrices("all", "prototypes")


def test_runs_of_other_people_show_those_in_common_and_say_so(folder, tmp_path):
    ages = {**{name: some for name, some in AGES.items() if name not in ("bob", "eve")}, "zoe": [30.0, 31.0]}
    ages["dee"] = [13.0, 60.0, 61.0, 62.0]
    ages["gus"] = [6.0, 19.0, 20.0]
    other = write_run(tmp_path / "other", "arcface-s0", manifest_of(ages))
    explored = open_explored(folder / "arcface-s0", other)
    assert list(explored.names) == ["ann", "cy", "dee", "fay", "gus"]
    notes = " ".join(explored.notes)
    assert "knows 7 identities; shown are the 5" in notes
    assert "knows 6 identities" in notes
    assert "1 of them have another number of images" in notes
    assert "whether 1 of them are child identities" in notes
    assert [run.name for run in explored.runs] == ["ArcFace, seed 0, drawn", "ArcFace, seed 0, other"]
    shown = LinkedMatrices(explored.matrices("all").matrices).values([1], [2])[:, 0, 0]
    assert shown[1] == pytest.approx(brute_force(other, "cy", "dee", "all", "all"), abs=2e-6)
    assert shown[0] == pytest.approx(brute_force(RunFolder(folder / "arcface-s0"), "cy", "dee", "all", "all"), abs=2e-6)


def test_runs_without_common_people_are_refused(folder, tmp_path):
    other = write_run(tmp_path, "arcface-s1", manifest_of({"x": [3.0, 4.0], "y": [30.0]}))
    with pytest.raises(ConfigError, match=r"arcface-s0 and arcface-s1 share 0 identities .*'ann'.*'x', 'y'"):
        open_explored(folder / "arcface-s0", other)


def test_what_is_missing_is_said_with_what_to_run(folder, tmp_path):
    with pytest.raises(RunError, match="02_train"):
        open_explored(tmp_path / "nothing")
    copy = tmp_path / "arcface-s0"
    shutil.copytree(folder / "arcface-s0", copy)
    vectors = copy / "embeddings" / "vectors.safetensors"
    whole = vectors.read_bytes()
    for content in (whole[:-1], whole[:5], b"\xff" * 8 + whole[8:], b"", whole.replace(b"F32", b"F64")):
        vectors.write_bytes(content)
        with pytest.raises(RunError, match=r"damaged.*02_train"):
            open_explored(copy)
    vectors.unlink()
    with pytest.raises(RunError, match=r"embeddings of run 'arcface-s0' are missing: .*02_train"):
        open_explored(copy)
    checkpoint = tmp_path / "model.pth"
    checkpoint.write_bytes(b"x")
    with pytest.raises(RunError, match="import-checkpoint"):
        open_explored(checkpoint)


def test_a_run_without_prototypes_shows_its_images(tmp_path):
    explored = open_explored(write_run(tmp_path, "theirs-s0", manifest_of(AGES), prototypes=False))
    assert explored.quantities == ("features",)
    assert "no prototypes" in " ".join(explored.notes)
    assert np.isnan(explored.matrices("all").matrices[0].own_values).all()


def test_without_ages_there_is_only_one_cohort(tmp_path):
    manifest = manifest_of({name: [NAN] * len(ages) for name, ages in AGES.items()})
    explored = open_explored(write_run(tmp_path, "arcface-s0", manifest))
    assert explored.cohorts == ("all",)
    with pytest.raises(ConfigError, match="choose all"):
        explored.matrices("child-child")


def test_names_can_be_given(folder):
    paths = (folder / "arcface-s0", folder / "interproto-sum-s0")
    assert open_explored(*paths, names=["A", "B"]).matrices().titles == ("A", "B", "B − A")
    with pytest.raises(ConfigError, match="different names"):
        open_explored(*paths, names=["A", "A"])


def test_projections_are_kept_until_the_prototypes_change(tmp_path):
    ages = {f"id{k:02d}": [5.0, 30.0] for k in range(14)}
    run = write_run(tmp_path, "arcface-s0", manifest_of(ages))
    first = stored_projections(open_explored(run), ["tsne"])["t-SNE"]["ArcFace"]
    kept = tmp_path / "arcface-s0" / "projections" / "tsne-s0.safetensors"
    before = kept.stat().st_mtime_ns
    again = stored_projections(open_explored(run), ["tsne"])["t-SNE"]["ArcFace"]
    np.testing.assert_array_equal(first, again)
    assert kept.stat().st_mtime_ns == before
    shutil.rmtree(run.path)
    changed = write_run(tmp_path, "arcface-s1", manifest_of(ages))
    (changed.path / "projections").mkdir()
    kept_content = np.zeros((14, 2), dtype=np.float32)
    from safetensors.numpy import save_file

    save_file({"points": kept_content}, changed.path / "projections" / "tsne-s0.safetensors")
    assert not np.array_equal(stored_projections(open_explored(changed), ["tsne"])["t-SNE"]["ArcFace"], kept_content)


def test_places_of_other_prototypes_and_damaged_ones_are_not_believed(tmp_path):
    run = write_run(tmp_path, "arcface-s0", manifest_of({f"id{k:02d}": [5.0, 30.0] for k in range(14)}))
    points = kept_projection(run.path, run.prototypes, n_threads=1)
    others = kept_projection(run.path, run.prototypes[::-1], n_threads=1)
    assert not np.array_equal(points, others)
    np.testing.assert_array_equal(kept_projection(run.path, run.prototypes, n_threads=1), points)
    file = run.path / "projections" / "tsne-s0.safetensors"
    content = file.read_bytes()
    place = content.index(points.tobytes())
    file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    np.testing.assert_array_equal(kept_projection(run.path, run.prototypes, n_threads=1), points)
    assert file.read_bytes() == content


def test_places_that_notebook_04_kept_are_read(tmp_path, monkeypatch):
    run = write_run(tmp_path, "arcface-s0", manifest_of({f"id{k:02d}": [5.0, 30.0] for k in range(14)}))
    kept = kept_projection(run.path, run.prototypes, n_threads=1)  # as notebook 04 asks for them, of any length
    monkeypatch.setattr("interproto_lib.analysis.kept_projections.project_prototypes", None)
    np.testing.assert_array_equal(stored_projections(open_explored(run), ["tsne"])["t-SNE"]["ArcFace"], kept)


def test_places_that_cannot_be_kept_are_made_and_it_is_said(tmp_path):
    run = write_run(tmp_path, "arcface-s0", manifest_of({f"id{k:02d}": [5.0, 30.0] for k in range(14)}))
    (run.path / "projections").write_text("in the way")
    with pytest.warns(UserWarning, match=r"not kept\. .*projections is a file"):
        assert stored_projections(open_explored(run), ["tsne"])["t-SNE"]["ArcFace"].shape == (14, 2)
