"""Live views of a report: values against brute force, on matrices with holes that are not square."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from explored_runs import manifest_of, write_run

from interproto_lib.analysis import load_embeddings
from interproto_lib.errors import ConfigError
from interproto_lib.views.report import (
    describe_planes,
    matrices_view,
    plane_explorer,
    planes_figure,
    planes_view,
    report_matrices,
    report_matrices_figure,
)
from interproto_lib.views.report.embedded import embedded_html
from interproto_lib.views.report.matrices import pack_values

NAN = float("nan")
AGES = {
    "ann": [4.0, 8.0, 30.0, NAN],
    "bob": [40.0, 41.0],
    "cy": [3.0, 5.0, 12.9],  # no adult image
    "dee": [13.0, 60.0, NAN],
    "eve": [NAN, NAN],
    "fay": [2.0, 33.0, 34.0],  # one child image only: no child identity
    "gus": [6.0, 7.0, 20.0],
}
CHILDREN, WITH_ADULT_IMAGES = ["ann", "cy", "gus"], ["ann", "bob", "dee", "fay", "gus"]
MANY = {**AGES, **{f"x{k}": [30.0 + k, 31.0] for k in range(6)}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    return {name: write_run(folder, f"{name}-s0", manifest_of(AGES)) for name in ("arcface", "interproto")}


@pytest.fixture(scope="module")
def matrices(runs):
    return report_matrices(runs)


def brute_force(run, row, column, of_rows, of_columns):
    """Mean cosine over image pairs, in Python's own loops."""
    embeddings = load_embeddings(run)
    groups = {"child": lambda age: age < 13, "adult": lambda age: age >= 13, "all": lambda age: True}
    left, right = (
        [k for k, one in embeddings.manifest.iterrows() if one["identity"] == name and groups[group](one["age_years"])]
        for name, group in ((row, of_rows), (column, of_columns))
    )
    pairs = [float(embeddings.vectors[a] @ embeddings.vectors[b]) for a, b in itertools.product(left, right)]
    return np.mean(pairs) if pairs else NAN


@pytest.mark.parametrize(
    ("cohort", "rows", "columns"),
    [
        ("all", sorted(AGES), sorted(AGES)),
        ("child-child", CHILDREN, CHILDREN),
        ("child-adult", CHILDREN, WITH_ADULT_IMAGES),
        ("adult-adult", WITH_ADULT_IMAGES, WITH_ADULT_IMAGES),
    ],
)
def test_cells_are_eq_2(runs, matrices, cohort, rows, columns):
    names = matrices.identities["identity"].to_numpy()
    assert [list(names[side]) for side in matrices.sides[cohort]] == [rows, columns]
    groups = ("all", "all") if cohort == "all" else cohort.split("-")
    for method, run in runs.items():
        shown = matrices.cells["features", cohort, method]
        assert shown.shape == (len(rows), len(columns))
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
            if row != column:
                assert shown[i, j] == pytest.approx(brute_force(run, row, column, *groups), abs=1e-6, nan_ok=True)


def test_prototypes_are_cosines_of_rows(runs, matrices):
    for method, run in runs.items():
        classes = pd.read_csv(run.path / "classes.csv")
        rows = run.prototypes[[list(classes["identity"]).index(name) for name in sorted(AGES)]].astype(float)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(matrices.cells["prototypes", "all", method], unit @ unit.T, atol=1e-6)


def unpacked(content, rows, columns, is_symmetric):
    """The matrix as the page's script reads it, cell by cell."""
    steps = np.frombuffer(content, dtype="<i2")
    values = np.full((rows, columns), np.nan)
    cells = [(i, j) for i in range(rows) for j in range(i if is_symmetric else 0, columns)]
    assert len(cells) == len(steps)
    for (i, j), step in zip(cells, steps, strict=True):
        values[i, j] = np.nan if step == -32768 else step / 32767
        if is_symmetric:
            values[j, i] = values[i, j]
    return values


def test_packed_values_are_exact_to_the_fourth_digit():
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (5, 9))
    values[1, 2] = np.nan
    np.testing.assert_allclose(unpacked(pack_values(values, is_symmetric=False), 5, 9, False), values, atol=2e-5)
    square = (values[:, :5] + values[:, :5].T) / 2
    square[0, 0] = 1.0000001
    expected = np.clip(square, -1, 1)
    np.testing.assert_allclose(unpacked(pack_values(square, is_symmetric=True), 5, 5, True), expected, atol=2e-5)


def test_the_view_holds_every_matrix(matrices):
    answers = matrices_view(matrices).answers
    names = sorted(AGES)
    assert answers["names"] == names
    assert np.frombuffer(answers["rows child-adult"], "<u2").tolist() == [names.index(name) for name in CHILDREN]
    shown = unpacked(answers["features child-adult 1"], 3, 5, False)
    np.testing.assert_allclose(shown, matrices.cells["features", "child-adult", "interproto"], atol=2e-5)
    order = [names[k] for k in np.frombuffer(answers["order child_share"], "<u2")]
    assert order[:3] == ["cy", "ann", "gus"], "shares 1, 2/3 and 2/3"
    assert order[-1] == "eve", "without an age"
    assert list(np.frombuffer(answers["kinds"], "u1")) == [1, 0, 1, 0, 2, 0, 1]
    assert answers["notes"][0] == "mean age 14.0 years, 4 images"


def test_of_many_identities_a_sample_is_taken_and_said(tmp_path):
    run = write_run(tmp_path, "arcface-s0", manifest_of(MANY))
    sampled = report_matrices({"ArcFace": run}, n_most=6)
    assert len(sampled.identities) == 6
    assert sampled.identities["is_child"].sum() == 3, "half of them, or all that there are"
    assert (sampled.n_known, sampled.n_known_child) == (13, 3)
    text = matrices_view(sampled).text
    assert "A sample of 6 of the 13 identities" in text
    assert "3 of the 3 child identities and 3 of the others" in text
    again = report_matrices({"ArcFace": run}, n_most=6)
    assert list(again.identities["identity"]) == list(sampled.identities["identity"])
    of_all = report_matrices({"ArcFace": run}, n_most=13)
    assert "All 13 identities" in matrices_view(of_all).text
    rows = [list(of_all.identities["identity"]).index(name) for name in sampled.identities["identity"]]
    whole = of_all.cells["features", "all", "ArcFace"][np.ix_(rows, rows)]
    np.testing.assert_allclose(sampled.cells["features", "all", "ArcFace"], whole, atol=1e-6)
    with pytest.raises(ConfigError, match="between 2 and 1000"):
        report_matrices({"ArcFace": run}, n_most=1)


def test_the_figure_shows_the_same(matrices):
    assert "arcface, all images; interproto, all images" in report_matrices_figure(matrices).description


def test_runs_that_differ_show_whom_all_know(tmp_path, runs):
    fewer = write_run(tmp_path, "other-s0", manifest_of({name: AGES[name] for name in AGES if name != "bob"}))
    shown = report_matrices({"arcface": runs["arcface"], "other": fewer})
    assert list(shown.identities["identity"]) == [name for name in sorted(AGES) if name != "bob"]


def test_planes_hold_every_run_and_leave_out_whom_one_does_not_know(tmp_path):
    first = write_run(tmp_path, "arcface-s0", manifest_of(MANY))
    fewer = write_run(tmp_path, "other-s0", manifest_of({name: MANY[name] for name in MANY if name != "dee"}))
    explorer = plane_explorer({"ArcFace": first, "other": fewer}, projections=["tsne"], n_threads=1)
    view = planes_view(explorer)
    points = np.frombuffer(view.state["points"], "<u2").reshape(1, 2, 13, 2)
    assert (points[0, 1, sorted(MANY).index("dee")] == 65535).all()
    assert (points[0, 0] != 65535).all()
    assert view.state["live"] is False
    assert "13 prototypes, 3 of child identities, of ArcFace and other; projected by t-SNE" in view.text
    assert "1 of other" in view.text
    assert "const widget" in embedded_html(view, level=3)


def test_without_prototypes_there_are_no_planes_and_it_is_said(tmp_path):
    run = write_run(tmp_path, "arcface-s0", manifest_of(MANY), prototypes=False)
    explorer = plane_explorer({"ArcFace": run})
    assert explorer is None
    assert planes_view(explorer) is None
    assert "nothing to project" in describe_planes(explorer)
    assert planes_figure(explorer).description == describe_planes(explorer)
    assert [quantity for quantity, _, _ in report_matrices({"ArcFace": run}).cells].count("prototypes") == 0
