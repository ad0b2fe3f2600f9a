"""The reason of a cell, the most confused pairs, orders and names, against brute force over all image pairs."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from explored_runs import manifest_of, write_run

from interproto_lib.errors import ConfigError, DatasetNotFoundError
from interproto_lib.views.explorer import (
    CellReasons,
    cell_figure,
    describe_cell,
    find_confused_pairs,
    may_draw_faces,
    open_explored,
    similarity_view_figure,
)
from interproto_lib.views.explorer import cell_details as details
from interproto_lib.views.explorer.closest_faces import closest_faces
from interproto_lib.views.explorer.confused_pairs import most_confused_cells
from interproto_lib.views.explorer.matrix_orders import find_identity, order_sides
from interproto_lib.views.explorer.tiles import LinkedMatrices

NAN = float("nan")
AGES = {
    "ann": [4.0, 8.0, 30.0, NAN],
    "bob": [40.0, 41.0],
    "cy": [3.0, 5.0, 12.9],
    "dee": [13.0, 60.0, NAN],
    "eve": [NAN, NAN],
    "Bobby": [2.0, 33.0, 34.0],
    "gus": [6.0, 7.0, 20.0],
}
NAMES = sorted(AGES)
GROUPS = {"child": lambda age: age < 13, "adult": lambda age: age >= 13, "all": lambda age: True}
COHORTS = {"child-child": ("child", "child"), "child-adult": ("child", "adult"), "all": ("all", "all")}


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    manifest = manifest_of(AGES)
    return open_explored(write_run(folder, "arcface-s0", manifest), write_run(folder, "interproto-s0", manifest))


def image_pairs(run, cohort, names):
    """(row identity, column identity, row of one image, row of the other, cosine) of all pairs, in Python's loops."""
    row_group, column_group = COHORTS[cohort]
    images = list(run.manifest[["identity", "age_years"]].itertuples(index=True))
    for a, b in itertools.product(images, images):
        if (
            a.Index != b.Index
            and a.identity in names[0]
            and b.identity in names[1]
            and GROUPS[row_group](a.age_years)
            and GROUPS[column_group](b.age_years)
        ):
            yield a.identity, b.identity, a.Index, b.Index, float(run.vectors[a.Index] @ run.vectors[b.Index])


@pytest.mark.parametrize(
    ("cohort", "row", "column"),
    [("all", "ann", "dee"), ("child-adult", "ann", "bob"), ("child-adult", "gus", "gus"), ("child-child", "cy", "cy")],
)
def test_the_pairs_of_a_cell_are_all_its_image_pairs(explored, cohort, row, column):
    reason = CellReasons(explored, cohort).of_names(row, column)
    for run, pairs in zip(explored.runs, reason.pairs, strict=True):
        expected = {
            (a, b): cosine
            for left, right, a, b, cosine in image_pairs(run, cohort, (NAMES, NAMES))
            if (left, right) == (row, column) and (row != column or cohort == "child-adult" or a < b)
        }
        shown = {
            (int(a), int(b)): pairs.cosines[i, j]
            for i, a in enumerate(pairs.row_images)
            for j, b in enumerate(pairs.column_images)
            if np.isfinite(pairs.cosines[i, j])
        }
        assert shown == pytest.approx(expected, abs=1e-6)
        assert pairs.closest == max(expected, key=expected.get)
        assert pairs.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
        k = [list(run.run.classes["identity"]).index(name) for name in (row, column)]
        unit = run.run.prototypes / np.linalg.norm(run.run.prototypes, axis=1, keepdims=True)
        assert pairs.prototypes == pytest.approx(unit[k[0]] @ unit[k[1]], abs=1e-6)


@pytest.mark.parametrize("cohort", list(COHORTS))
def test_impostor_pairs_are_counted_once_each(explored, cohort):
    rows, columns = explored.sides(cohort)
    names = [set(explored.names[side]) for side in (rows, columns)]
    for run in explored.runs:
        found = details.impostor_pairs(run, rows, columns, cohort=cohort)
        pairs = [p for p in image_pairs(run, cohort, names) if p[0] != p[1]]
        if cohort != "child-adult":
            pairs = [p for p in pairs if p[2] < p[3]]
        assert found.n_pairs == len(pairs) == found.counts.sum()
        assert not found.sampled
        expected, _ = np.histogram([p[4] for p in pairs], details.COSINE_BINS)
        assert np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max() <= 1  # a cosine on the edge of a bin
        assert found.share_above(-1.0) == 1.0
        assert found.share_above(0.5) == pytest.approx(np.mean([p[4] >= 0.5 for p in pairs]), abs=2 / len(pairs))


def test_very_many_pairs_are_sampled_and_it_is_said(explored, monkeypatch):
    rows, columns = explored.sides("all")
    exact = details.impostor_pairs(explored.runs[0], rows, columns, cohort="all")
    monkeypatch.setattr(details, "MOST_PAIRS_COUNTED", 10)
    monkeypatch.setattr(details, "PAIRS_SAMPLED", 225)
    sampled = details.impostor_pairs(explored.runs[0], rows, columns, cohort="all")
    assert sampled.sampled
    assert sampled.n_pairs == exact.n_pairs
    assert 0 < sampled.counts.sum() <= 225
    reason = CellReasons(explored, "all").of(0, 1)
    assert "of a sample" in " ".join(describe_cell(explored, reason))


def test_a_cell_without_images_says_whose(explored):
    texts = describe_cell(explored, CellReasons(explored, "child-adult").of_names("cy", "cy"))
    assert all("cy has no image in this cohort" in text for text in texts)
    figure = cell_figure(explored, CellReasons(explored, "child-adult").of_names("cy", "cy"))
    assert len(figure.axes) == 2
    with pytest.raises(ConfigError, match="no identity 'nobody'"):
        CellReasons(explored, "all").of_names("ann", "nobody")
    with pytest.raises(ConfigError, match="there are 7 identities"):
        CellReasons(explored, "all").of(0, 7)


def test_the_figure_shows_the_numbers(explored):
    reason = CellReasons(explored, "all").of_names("ann", "dee")
    points = [np.arange(14, dtype=np.float32).reshape(7, 2), None]
    figure = cell_figure(explored, reason, points=points)
    above, below = figure.axes[0], figure.axes[2]
    means = [line.get_xdata()[0] for line in above.lines if line.get_label() == "their mean"]
    assert means == [pytest.approx(reason.pairs[0].mean)]
    assert {text.get_text() for text in below.texts} == {"ann", "dee"}
    assert figure.axes[3].texts[0].get_text() == "no prototypes"
    figure.draw_without_rendering()


def test_faces_of_real_people_are_drawn_only_when_asked_for(explored, tmp_path):
    assert may_draw_faces(explored, show_faces=False)
    real = open_explored(write_run(tmp_path, "arcface-s0", manifest_of(AGES, source="photographs")))
    assert not may_draw_faces(real, show_faces=False)
    assert may_draw_faces(real, show_faces=True)
    with pytest.raises(DatasetNotFoundError):
        closest_faces(explored, CellReasons(explored, "all").of(0, 1))


# --- confused pairs -------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", ["child-child", "child-adult", "adult-adult", "all"])
@pytest.mark.parametrize(
    ("quantity", "which"), [("features", 0), ("features", 2), ("prototypes", 1), ("difference", 2)]
)
@pytest.mark.parametrize("cells_at_a_time", [7, 10**6])
def test_most_confused_pairs_are_the_highest_cells(explored, cohort, quantity, which, cells_at_a_time, monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.confused_pairs._CELLS_AT_A_TIME", cells_at_a_time)
    matrices = explored.matrices(cohort, quantity)
    values = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns).values(
        range(len(matrices.rows)), range(len(matrices.columns))
    )
    rows, columns = explored.names[matrices.rows], explored.names[matrices.columns]
    expected = sorted(
        (
            (-values[which, i, j], a, b)
            for i, a in enumerate(rows)
            for j, b in enumerate(columns)
            if np.isfinite(values[which, i, j]) and a != b and (cohort == "child-adult" or i < j)
        ),
    )[:5]
    table = find_confused_pairs(explored, cohort=cohort, quantity=quantity, which=which, top=5)
    assert list(zip(table["row_identity"], table["column_identity"], strict=True)) == [(a, b) for _, a, b in expected]
    title = matrices.titles[which]
    np.testing.assert_allclose(table[title], [-value for value, *_ in expected], atol=2e-6)
    ages = explored.identities.set_index("identity")["age_years"]
    np.testing.assert_array_equal(table["row_age_years"], ages[table["row_identity"]])
    np.testing.assert_array_equal(table["column_age_years"], ages[table["column_identity"]])


def test_a_search_can_be_stopped_and_reports(explored, monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.confused_pairs._CELLS_AT_A_TIME", 7)
    matrices, stop, told = explored.matrices("all"), threading.Event(), []

    def progress(done, of):
        told.append((done, of))
        if done == 3:
            stop.set()

    rows, columns = most_confused_cells(matrices, progress=progress, stop=stop)
    assert told == [(1, 7), (2, 7), (3, 7)]
    assert len(rows) == len(columns) == 0
    for wrong in ({"which": 3}, {"top": 0}):
        with pytest.raises(ConfigError):
            most_confused_cells(matrices, **wrong)


# --- orders and names -----------------------------------------------------------------------------


def test_orders_stand_by_what_they_say(explored):
    matrices = explored.matrices("child-adult")
    table = explored.identities
    for order, column, sign in (("age", "age_years", 1), ("child_share", "child_share", -1)):
        for side, places in zip((matrices.rows, matrices.columns), order_sides(explored, matrices, order), strict=True):
            numbers = sign * table[column].to_numpy()[side[places]]
            assert (np.diff(numbers[np.isfinite(numbers)]) >= 0).all()
    rows, columns = order_sides(explored, matrices, "identity")
    assert list(explored.names[matrices.rows[rows]]) == ["ann", "cy", "gus"]
    assert list(explored.names[matrices.columns[columns]]) == ["Bobby", "ann", "bob", "dee", "gus"]
    rows, columns = order_sides(explored, matrices, "cluster")
    assert sorted(rows) == [0, 1, 2]
    assert sorted(columns) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="unknown order"):
        order_sides(explored, matrices, "colour")


def test_order_by_similarity_to_an_identity(explored):
    matrices = explored.matrices("all")
    linked = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns)
    at = NAMES.index("dee")
    rows, columns = order_sides(explored, matrices, "similarity", identity="dee")
    assert rows[0] == columns[0] == at
    values = linked.values([at], range(7))[0, 0]
    assert (np.diff(values[columns[1:]]) <= 1e-6).all()
    one_sided = explored.matrices("child-adult")  # bob stands in the columns only
    rows, columns = order_sides(explored, one_sided, "similarity", identity="bob")
    of_bob = LinkedMatrices(one_sided.matrices).values(range(3), [2])[0, :, 0]
    assert (np.diff(of_bob[rows]) <= 1e-6).all()
    assert columns[0] == 2
    for identity in (None, "nobody", "eve"):
        with pytest.raises(ConfigError):
            order_sides(explored, one_sided, "similarity", identity=identity)


def test_identities_are_found_by_name(explored):
    matrices = explored.matrices("child-adult")
    assert find_identity(explored, matrices, "ann") == (0, 1)
    assert find_identity(explored, matrices, "bob") == (-1, 2)  # the whole name, not Bobby
    assert find_identity(explored, matrices, " bobb ") == (-1, 0)
    with pytest.raises(ConfigError, match=r"2 identities fit 'bo': 'Bobby', 'bob'"):
        find_identity(explored, matrices, "bo")
    with pytest.raises(ConfigError, match="no images of this cohort"):
        find_identity(explored, matrices, "eve")
    with pytest.raises(ConfigError, match="No identity is called"):
        find_identity(explored, matrices, "nobody")
    with pytest.raises(ConfigError, match="Type the name"):
        find_identity(explored, matrices, "  ")


def test_the_static_figure_shows_the_cells_asked_for(explored):
    matrices = explored.matrices("child-adult")
    rows, columns = order_sides(explored, matrices, "age")
    figure = similarity_view_figure(explored, cohort="child-adult", order="age", rows=(1, 3), columns=(0, 4), limit=0.5)
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == list(matrices.titles)
    expected = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns).values(rows[1:3], columns[:4])
    for axes, values in zip(panels, expected, strict=True):
        image = axes.images[0]
        assert image.get_clim() == (-0.5, 0.5)
        np.testing.assert_allclose(image.get_array().filled(np.nan), values, atol=2e-6)
    ticks = [label.get_text() for label in panels[0].get_yticklabels()]
    assert ticks == list(explored.names[matrices.rows[rows[1:3]]])
    highest = similarity_view_figure(explored, cohort="all", pooling="max", pixels=2)
    assert "highest of 4 × 4" in highest._supxlabel.get_text()
    highest.draw_without_rendering()
