"""Notebook 08 as a person uses it: one page of JupyterLab, one test after the other."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from lab_pages import colours_of
from playwright.sync_api import expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from explored_runs import train_experiment

from interproto_lib.views.explorer import find_confused_pairs, open_explored
from interproto_lib.views.explorer.matrix_orders import order_sides
from interproto_lib.views.explorer.tiles import LinkedMatrices

RUN_ALL_S = 240
EXPLORER_CELL = "similarity = SimilarityExplorer("


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "seen"
    train_experiment(folder)
    return folder


@pytest.fixture(scope="module")
def explored(experiment):
    return open_explored(experiment / "arcface-s0", experiment / "interproto-sum-s0")


@pytest.fixture(scope="module")
def notebook(open_for_module, experiment):
    page = open_for_module("08_explore", experiment=experiment.name, runs_dir=str(experiment.parent), n_threads=1)
    page.run_all(timeout_s=RUN_ALL_S)
    return page


@pytest.fixture
def similarity(notebook):
    """The similarity explorer on the page."""
    part = notebook.page.locator(".interproto-similarity").last
    part.locator(".ip-matrix").first.scroll_into_view_if_needed()
    expect(part.locator("[data-waiting=false]")).to_be_visible(timeout=20_000)
    return part


def cell_line(part):
    """What the line under the maps says of the cell pointed at: names of row and column, values."""
    text = part.locator(".ip-cell-line").inner_text()
    names = re.findall(r"^(id\d+) \(", text, flags=re.M)
    values = [float(value.replace("−", "-")) for value in re.findall(r"(−?\d\.\d{3})", text)]
    return names, values


def point_at(part, x, y):
    """Point at a place of the first map, given as shares of it, and wait for the words."""
    canvas = part.locator(".ip-matrix").first
    box = canvas.bounding_box()
    canvas.hover(position={"x": x * box["width"], "y": y * box["height"]})
    expect(part.locator(".ip-cell-line")).to_contain_text(re.compile(r"Row\s*id\d+"), timeout=10_000)


def values_of(explored, cohort, row, column):
    """The values of a cell in all maps, computed here."""
    matrices = explored.matrices(cohort)
    linked = LinkedMatrices(matrices.matrices, own_columns=matrices.own_columns)
    place = list(explored.names[matrices.rows]).index(row), list(explored.names[matrices.columns]).index(column)
    return linked.values([place[0]], [place[1]])[:, 0, 0]


def test_all_cells_run_and_draw(notebook, similarity):
    pictures = notebook.page.locator(".jp-RenderedImage img")
    expect(pictures).to_have_count(4, timeout=20_000)
    expect(similarity.locator(".ip-view").first).to_have_attribute("data-waiting", "false", timeout=20_000)
    notebook.page.wait_for_timeout(500)  # what was asked for last is drawn
    for canvas in similarity.locator(".ip-matrix").all():
        assert colours_of(canvas) > 5
    plane = notebook.page.locator(".jp-OutputArea-output").filter(has_text="Drag to").last.locator("canvas").first
    corner = plane.evaluate("canvas => [...canvas.getContext('2d').getImageData(2, 2, 1, 1).data]")
    assert min(corner[:3]) > 240 or corner[3] == 0, "the plane is as light as the page, though drawn out of sight"
    notebook.check()
    notebook.picture("explore_similarity_light", similarity)


def test_pointing_names_the_identities_and_the_values(notebook, similarity, explored):
    seen = set()
    for x, y in ((0.3, 0.3), (0.9, 0.4), (0.5, 0.9)):
        point_at(similarity, x, y)
        notebook.page.wait_for_timeout(500)
        (row, column), values = cell_line(similarity)
        np.testing.assert_allclose(values[-3:], values_of(explored, "child-child", row, column), atol=6e-4)
        seen.add((row, column))
    assert len(seen) == 3


def test_a_click_shows_the_reason_of_the_cell(notebook, similarity):
    point_at(similarity, 0.62, 0.41)
    notebook.page.mouse.down()
    notebook.page.mouse.up()
    expect(similarity.locator(".ip-said")).to_have_count(2, timeout=20_000)
    (row, column), _ = cell_line(similarity)
    reason = similarity.locator("img.ip-reason")
    assert f"{row} and {column}" in reason.get_attribute("alt")
    assert "image pairs" in similarity.locator(".ip-said").first.inner_text()
    expect(similarity.locator(".ip-faces img")).to_have_count(4)  # built-in faces are drawn without being asked for
    notebook.picture("explore_cell_light", similarity)


def test_the_wheel_and_the_keys_zoom(notebook, similarity):
    whole = similarity.locator(".ip-bar [role=status]").first
    canvas = similarity.locator(".ip-matrix").first
    canvas.click(position={"x": 150, "y": 150})
    notebook.page.mouse.wheel(0, -500)
    code = code_of(similarity)
    expect(code).to_have_value(re.compile(r"rows=\(\S+, \S+\)"), timeout=20_000)
    rows = [float(number) for number in re.search(r"rows=\((.+), (.+)\)", code.input_value()).groups()]
    assert 0 < rows[1] - rows[0] < 14
    canvas.press("0")
    expect(code).not_to_have_value(re.compile("rows="), timeout=20_000)
    canvas.press("ArrowDown")
    expect(similarity.locator(".ip-cell-line")).to_contain_text("Row")
    assert "pair" in whole.inner_text()


def code_of(part):
    """The box with the code of the static figure, opened."""
    box = part.locator("textarea[aria-label='Code of the static figure']").first
    if not box.is_visible():
        part.get_by_role("button", name="Copy code").first.click()
        box.wait_for(state="visible")
    return box


def test_other_orders_move_the_identities(notebook, similarity, explored):
    matrices = explored.matrices("child-child")
    for order, words in (("age", "mean age"), ("cluster", "hierarchical cluster")):
        similarity.get_by_label("Order by").select_option(label=words)
        notebook.page.wait_for_timeout(700)
        rows, columns = order_sides(explored, matrices, order)
        point_at(similarity, 0.06, 0.06)
        notebook.page.wait_for_timeout(500)
        first = [
            explored.names[side[places[0]]] for side, places in ((matrices.rows, rows), (matrices.columns, columns))
        ]
        assert cell_line(similarity)[0] == first


def test_an_identity_is_gone_to_by_name_and_a_cell_by_number(notebook, similarity, explored):
    box = similarity.get_by_label("Identity", exact=True)
    box.fill("nobody")
    box.press("Enter")
    expect(similarity.get_by_role("alert").filter(has_text="No identity is called")).to_be_visible()
    box.fill("id0007")
    box.press("Enter")
    expect(similarity.locator("img.ip-reason")).to_have_attribute("alt", re.compile("id0007 and"), timeout=20_000)
    expect(similarity.get_by_role("alert").filter(has_text="No identity")).to_have_count(0)
    similarity.get_by_label("Row", exact=True).fill("2")
    similarity.get_by_label("Column", exact=True).fill("5")
    similarity.get_by_label("Column", exact=True).press("Enter")
    similarity.get_by_role("button", name="Choose cell").click()
    matrices = explored.matrices("child-child")
    rows, columns = order_sides(explored, matrices, "cluster")
    row, column = explored.names[matrices.rows[rows[2]]], explored.names[matrices.columns[columns[5]]]
    expect(similarity.locator("img.ip-reason")).to_have_attribute(
        "alt", re.compile(f"{row} and {column}"), timeout=20_000
    )


def test_the_most_confused_pairs_lead_to_their_cells(notebook, similarity, explored, tmp_path):
    expected = find_confused_pairs(explored, cohort="child-child", top=50)
    table = similarity.locator("table.ip-pairs")
    lines = table.locator("tbody tr")
    assert lines.count() == len(expected) == 50
    first = lines.first.locator("td").all_inner_texts()
    assert first[:2] == [expected["row_identity"][0], expected["column_identity"][0]]
    assert first[2].replace("−", "-") == f"{expected['ArcFace'][0]:.3f}"
    lines.nth(3).click()
    names = f"{expected['row_identity'][3]} and {expected['column_identity'][3]}"
    expect(similarity.locator("img.ip-reason")).to_have_attribute("alt", re.compile(names), timeout=20_000)
    table.get_by_role("button", name="Column, years").click()
    ages = [float(line.locator("td").nth(6).inner_text()) for line in lines.all()[:8]]
    assert ages == sorted(ages, reverse=True)
    with notebook.page.expect_download() as download:
        similarity.get_by_role("button", name="Export as CSV").click()
    saved = tmp_path / "pairs.csv"
    download.value.save_as(saved)
    rows = list(csv.DictReader(saved.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 50
    by_pair = expected.set_index(["row_identity", "column_identity"])
    for row in rows:
        of_pair = by_pair.loc[(row["row_identity"], row["column_identity"])]
        assert float(row["ArcFace"]) == pytest.approx(of_pair["ArcFace"], abs=1e-6)


def test_the_figure_is_saved_and_the_copied_code_draws_it(notebook, similarity, tmp_path):
    with notebook.page.expect_download(timeout=60_000) as download:
        similarity.get_by_role("button", name="Save figure (SVG)").first.click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.suffix == ".svg"
    assert "<svg" in saved.read_text()
    drawn = {}
    similarity.get_by_role("button", name="Copy code").first.click()  # closes the box
    similarity.get_by_role("button", name="Copy code").first.click()
    code = code_of(similarity).input_value()
    assert notebook.page.evaluate("navigator.clipboard.readText()") == code
    exec(code.replace('"figures"', repr(str(tmp_path))), drawn)
    assert [axes.get_title() for axes in drawn["figure"].axes[:2]] == ["ArcFace", "Inter-Prototype sum"]
    assert (tmp_path / "similarity.svg").read_bytes() == saved.read_bytes()


def test_a_lasso_marks_the_maps_and_fills_the_next_cell(notebook, similarity):
    plane = notebook.page.locator(".jp-OutputArea-output").filter(has_text="Drag to").last
    plane.get_by_label("Drag to").select_option("lasso")
    canvas = plane.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    notebook.page.mouse.move(0, 0)
    box = canvas.bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.55), (0.02, 0.55), (0.02, 0.03)]
    for k, (x, y) in enumerate(corners):
        notebook.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        if k == 0:
            notebook.page.mouse.down()
    notebook.page.mouse.up()
    marked = similarity.locator(".ip-key-marked")
    expect(marked).to_contain_text("selected", timeout=20_000)
    notebook.picture("explore_lasso_light", plane)
    notebook.run_cell_with("selected = projection.selected_table()")
    assert notebook.cell_errors() == []
    table = notebook.page.locator(".jp-OutputArea-output").filter(has_text="Identities selected in the plane").last
    names = table.locator("tbody tr").all_inner_texts()
    assert 0 < len(names) < 40
    children = sum("True" in name for name in names)
    assert f"selected ({children} rows, {children} columns)" in marked.inner_text()


def test_the_threshold_moves_the_rates(notebook):
    part = notebook.page.locator(".jp-OutputArea-output").filter(has_text="False matches").last
    part.scroll_into_view_if_needed()

    def rates():
        return part.locator("table").first.locator("tr").filter(has_text="all ages").inner_text().split()

    before = rates()
    slider = part.get_by_role("slider").first
    slider.focus()
    for _ in range(15):
        slider.press("ArrowLeft")
    notebook.page.wait_for_timeout(500)
    after = rates()
    fmr, fnmr = (float(after[k].rstrip("%")) for k in (-4, -2))
    assert fmr >= float(before[-4].rstrip("%"))
    assert fnmr <= float(before[-2].rstrip("%"))
    assert after != before
    notebook.picture("explore_pairs_light", part)


def test_the_dark_theme_and_twice_the_size_are_readable(notebook, similarity):
    notebook.theme("dark")
    notebook.page.mouse.move(0, 0)
    notebook.picture("explore_similarity_dark", similarity)
    plane = notebook.page.locator(".jp-OutputArea-output").filter(has_text="Drag to").last
    notebook.picture("explore_projection_dark", plane)
    notebook.theme("light")
    notebook.picture("explore_projection_light", plane)
    notebook.page.set_viewport_size({"width": 700, "height": 500})  # what zooming to 200 % leaves of 1400 x 1000
    notebook.page.wait_for_timeout(800)
    notebook.picture("explore_similarity_200_percent", similarity)
    width = similarity.evaluate("part => [part.scrollWidth, part.clientWidth]")
    assert width[0] <= width[1] + 1
    for canvas in similarity.locator(".ip-matrix").all():
        assert canvas.bounding_box()["width"] >= 180
    notebook.page.set_viewport_size({"width": 1400, "height": 1000})
    notebook.page.wait_for_timeout(500)


def test_running_the_cell_again_keeps_what_is_shown(notebook, similarity):
    before = similarity.locator("img.ip-reason").get_attribute("alt")
    notebook.run_cell_with(EXPLORER_CELL)
    again = notebook.page.locator(".interproto-similarity").last
    expect(again.locator("img.ip-reason")).to_have_attribute("alt", before, timeout=30_000)
    expect(again.get_by_label("Order by")).to_have_value("hierarchical cluster")
    expect(again.locator(".ip-key-marked")).to_have_count(0)  # the plane's cell is to be run again, too


def test_a_restarted_kernel_is_said(notebook, similarity):
    notebook.check()
    notebook.restart_kernel()
    point_at_anything = similarity.locator(".ip-matrix").first
    point_at_anything.hover(position={"x": 90, "y": 90})
    notebook.page.wait_for_timeout(300)
    point_at_anything.hover(position={"x": 120, "y": 120})
    expect(similarity.locator(".ip-notice").first).to_contain_text("kernel", timeout=15_000)
    notebook.picture("explore_kernel_gone", similarity)
    assert notebook.outside == []
    notebook.errors.clear()  # JupyterLab itself complains of the comms that are gone
