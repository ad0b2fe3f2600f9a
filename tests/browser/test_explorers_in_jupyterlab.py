"""The pair and the projection explorer in JupyterLab: what is done on the page reaches the next cell, and back.

One notebook and one kernel serve the tests, one after the other: opening them and the first import take half a minute
where others compute.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect
from test_projection_map import draw_path, on_screen, panel

LONGEST_IMPORT_S = 300  # a notebook's first import takes eight seconds, many times as long where others compute

IMPORTS = """
import numpy as np, pandas as pd
from interproto_lib.views.explorer.pair_explorer import PairExplorer
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer
"""

PAIRS = """
rng = np.random.default_rng(0)
m = 900
same = rng.random(m) < 0.5
pairs = pd.DataFrame({"left": [f"{i}a" for i in range(m)], "right": [f"{i}b" for i in range(m)],
    "left_identity": [f"id{i % 40:02d}" for i in range(m)], "right_identity": [f"id{i % 37:02d}" for i in range(m)],
    "left_age_years": rng.uniform(2, 60, m), "right_age_years": rng.uniform(2, 60, m), "same": same})
scores = {run: 0.5 * same + 0.2 * rng.normal(size=m) for run in ("ArcFace", "Inter-Prototype")}
def read_image(path):
    return np.full((40, 40, 3), 200 if path.endswith("a") else 30, dtype=np.uint8)
pairs_explorer = PairExplorer({"C20": pairs}, {"C20": scores}, thresholds={"C20": {"ArcFace": 0.3}}, show_faces=True,
    read_image=read_image, state=globals().get("pairs_explorer"))
pairs_explorer
"""

POINTS = """
rng = np.random.default_rng(0)
n = 120
prototypes = {run: rng.normal(size=(n, 8)).astype(np.float32) for run in ("ArcFace", "Inter-Prototype")}
identities = pd.DataFrame({"identity": [f"id{i:03d}" for i in range(n)], "is_child": np.arange(n) % 4 == 0,
    "age_years": rng.uniform(3, 60, n), "n_images": rng.integers(2, 90, n)})
points = {"t-SNE": {run: rows[:, :2].copy() for run, rows in prototypes.items()}}
explorer = ProjectionExplorer(points, identities, prototypes=prototypes, state=globals().get("explorer"))
explorer
"""

CELLS = [
    IMPORTS,
    PAIRS,
    "pairs_explorer.threshold",
    "len(pairs_explorer.errors_table('false_match', 'ArcFace'))",
    POINTS,
    "explorer.selected_table()",
]
IMPORTING, PAIR_VIEW, THRESHOLDS, N_ERRORS, POINT_VIEW, SELECTED = range(len(CELLS))


@pytest.fixture(scope="module")
def notebook(open_for_module):
    page = open_for_module(CELLS)
    page.run_cell(IMPORTING, timeout_s=LONGEST_IMPORT_S)
    return page


def cell(notebook, number):
    return notebook.page.locator(".jp-CodeCell").nth(number)


def test_the_kernel_knows_the_threshold_and_sends_pictures(notebook):
    notebook.run_cell(PAIR_VIEW)
    view = cell(notebook, PAIR_VIEW)
    box = view.get_by_label("Threshold of ArcFace as a number")
    box.fill("0.1")
    box.press("Enter")
    told = cell(notebook, THRESHOLDS).locator(".jp-OutputArea-output", has_text="{'ArcFace': 0.1")
    for _ in range(20):  # the kernel hears of it when it has time
        notebook.run_cell(THRESHOLDS)
        if told.count():
            break
        notebook.page.wait_for_timeout(300)
    expect(told).to_be_visible()
    notebook.run_cell(N_ERRORS)
    errors = int(cell(notebook, N_ERRORS).locator(".jp-OutputArea-output pre").inner_text())
    expect(view.get_by_text(f"of {errors}")).to_be_visible()
    view.get_by_role("table", name="False matches").locator("tbody tr").first.click()
    expect(view.locator(".ip-faces img")).to_have_count(2)
    notebook.theme("dark")
    notebook.picture("pairs_lab_dark", view.locator(".ip-view"))
    with notebook.page.expect_download() as saved:
        view.get_by_role("button", name="Save figure (PNG)").click()
    assert saved.value.suggested_filename == "pair_scores.png"
    notebook.run_cell(PAIR_VIEW)
    expect(view.get_by_label("Threshold of ArcFace as a number")).to_have_value("0.1")
    assert notebook.cell_errors() == []


def test_the_selection_reaches_the_next_cell_and_a_restart_is_said(notebook):
    notebook.run_cell(POINT_VIEW)
    view = cell(notebook, POINT_VIEW)
    panel(view).scroll_into_view_if_needed()
    view.get_by_label("Drag to").select_option("rectangle")
    corners = on_screen(view, np.array([[0.3, 0.3], [0.6, 0.7]]))
    draw_path(notebook.page, corners.tolist())
    selected = view.locator("[role=status]", has_text="selected")
    count = int(re.match(r"(\d+) selected", selected.inner_text())[1])
    assert count > 5
    notebook.run_cell(SELECTED)
    expect(cell(notebook, SELECTED).locator("table tbody tr")).to_have_count(count)
    notebook.theme("dark")
    notebook.picture("projection_lab_dark", view.locator(".ip-view"))
    with notebook.page.expect_download() as saved:
        view.get_by_role("button", name="Save figure (SVG)").click()
    assert saved.value.suggested_filename == "projection.svg"
    view.get_by_role("button", name="Copy code").click()
    assert "projection_figure(" in view.get_by_label("Code of the static figure").input_value()
    notebook.run_cell(POINT_VIEW)
    expect(view.locator("[role=status]", has_text=f"{count} selected")).to_have_count(1)
    assert notebook.cell_errors() == []
    notebook.restart_kernel()
    panel(view).hover()
    expect(view.locator(".ip-notice")).to_contain_text("The kernel does not answer", timeout=20_000)
