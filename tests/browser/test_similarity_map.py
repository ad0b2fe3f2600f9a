"""The similarity map in a browser: what a person sees, points at and chooses, with the mouse and by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from answered_page import AnsweredPage, answered_page
from playwright.sync_api import Browser, expect

from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.matrix_colours import palette_bytes, value_codes
from interproto_lib.views.explorer.similarity_map import Side, SimilarityMap
from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix

N, M = 90, 60
TITLES = ["ArcFace", "Inter-Prototype", "ArcFace minus Inter-Prototype"]
PALETTE = np.frombuffer(palette_bytes(), np.uint8).reshape(256, 3)


def made(n: int = N, m: int = M, **settings) -> SimilarityMap:
    """A map of n against m identities in three pictures; row 11 has no value in the first and the last."""
    rng = np.random.default_rng(5)
    tables = [rng.normal(size=(count, 16)).astype(np.float32) for count in (n, m, n, m)]
    tables = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in tables]
    tables[0][11] = np.nan
    a = MatrixTerm(rows=tables[0], columns=tables[1])
    b = MatrixTerm(rows=tables[2], columns=tables[3])
    minus_b = MatrixTerm(rows=b.rows, columns=b.columns, weight=-1.0)
    matrices = LinkedMatrices([TermMatrix(terms=terms) for terms in ((a,), (b,), (a, minus_b))])
    rows = Side(
        names=[f"row-{i:03d}" for i in range(n)],
        notes=[f"mean age {i} years" for i in range(n)],
        kinds=(np.arange(n) < n // 3).astype(np.uint8),
        words="identities, child images",
    )
    columns = Side(names=[f"column-{i:03d}" for i in range(m)], words="identities, adult images")
    return SimilarityMap(matrices, TITLES, rows, columns, limit=0.6, **settings)


def settle(shown: AnsweredPage) -> None:
    """Wait until everything asked for is drawn, and the kernel knows the view."""
    view = "document.querySelector('.ip-view').dataset"
    shown.page.wait_for_function(f"{view}.waiting === 'false' && {view}.moving !== 'true'")
    shown.page.wait_for_timeout(350)


def canvas(shown: AnsweredPage, number: int = 0):
    return shown.page.locator("canvas.ip-matrix").nth(number)


def plot(shown: AnsweredPage, number: int = 0) -> tuple[float, float, float, float]:
    """Left, top, width and height of the matrix on the page, found by its frame as a person finds it: by looking."""
    box = canvas(shown, number).bounding_box()
    assert box is not None
    margin = 18
    return box["x"] + margin, box["y"] + margin, box["width"] - margin - 1, box["height"] - margin - 1


def point_of(shown: AnsweredPage, row: float, column: float, number: int = 0) -> tuple[float, float]:
    """Where the middle of a cell is, by the view that the kernel knows."""
    view = shown.widget.view or {"rows": [0, shown.widget.n_rows], "columns": [0, shown.widget.n_columns]}
    left, top, width, height = plot(shown, number)
    share = [
        (place + 0.5 - low) / (high - low) for place, (low, high) in zip((row, column), view.values(), strict=True)
    ]
    return left + share[1] * width, top + share[0] * height


def colour_at(shown: AnsweredPage, row: int, column: int, number: int) -> list[int]:
    """Colour of the page's picture of a cell."""
    x, y = point_of(shown, row, column, number)
    box = canvas(shown, number).bounding_box()
    assert box is not None
    return canvas(shown, number).evaluate(
        """(canvas, [x, y, width]) => {
            const scale = canvas.width / width;
            return [...canvas.getContext('2d').getImageData(x * scale, y * scale, 1, 1).data].slice(0, 3);
        }""",
        [x - box["x"], y - box["y"], box["width"]],
    )


def line(shown: AnsweredPage) -> str:
    return shown.page.locator(".ip-cell-line").inner_text()


def expect_colours(shown: AnsweredPage, cells: list[tuple[int, int]]) -> None:
    """The colours on all three canvases are those of the cells' values, by the places at which they stand."""
    linked = shown.widget._matrices
    for row, column in cells:
        values = linked.values(linked.row_order[row], linked.column_order[column])[:, 0, 0]
        for number, value in enumerate(values):
            code = value_codes(np.array([value]), 0.6)[0]
            assert np.abs(np.array(colour_at(shown, row, column, number)) - PALETTE[code]).max() <= 3


@pytest.fixture
def shown(browser: Browser, tmp_path: Path):
    with answered_page(browser, made(), tmp_path) as page:
        settle(page)
        yield page


def test_three_linked_pictures_show_the_values_in_their_colours(shown, screenshots):
    assert shown.page.locator("canvas.ip-matrix").count() == 3
    assert [title.inner_text() for title in shown.page.locator(".ip-title").all()] == TITLES
    expect_colours(shown, [(0, 0), (89, 0), (0, 59), (11, 30), (40, 17), (17, 40)])
    assert colour_at(shown, 11, 5, 0) == [0xD9] * 3, "an identity without a value is grey"
    screenshots.mkdir(parents=True, exist_ok=True)
    shown.page.screenshot(path=screenshots / "similarity_map.png")


def test_hovering_names_both_identities_and_the_values(shown):
    shown.page.mouse.move(*point_of(shown, 70, 8, 1))
    expect(shown.page.locator(".ip-cell-line")).to_contain_text("row-070 (mean age 70 years)")
    assert "column-008" in line(shown)
    numbers = [float(text.replace("−", "-")) for text in re.findall(r"[−]?\d\.\d{3}", line(shown))]
    assert numbers == pytest.approx(shown.widget._matrices.values(70, 8)[:, 0, 0].tolist(), abs=6e-4)
    shown.page.mouse.move(*point_of(shown, 11, 8, 1))
    expect(shown.page.locator(".ip-cell-line")).to_contain_text("ArcFace –")


def test_a_click_chooses_the_cell_and_a_drag_does_not(shown):
    shown.page.mouse.click(*point_of(shown, 33, 51, 2))
    expect(shown.page.locator(".ip-cell-line")).to_contain_text("row-033")
    settle(shown)
    assert shown.widget.chosen == (33, 51)
    shown.page.mouse.dblclick(*point_of(shown, 45, 30))
    settle(shown)
    view, chosen = shown.widget.view, shown.widget.chosen
    left, top, width, height = plot(shown)
    shown.page.mouse.move(left + width / 2, top + height / 2)
    shown.page.mouse.down()
    shown.page.mouse.move(left + width / 2 + 60, top + height / 2 + 20, steps=4)
    shown.page.mouse.up()
    settle(shown)
    moved = shown.widget.view
    rows, columns = (np.diff(view[side])[0] for side in ("rows", "columns"))
    assert moved["rows"][0] == pytest.approx(view["rows"][0] - 20 / height * rows, abs=0.02 * rows)
    assert moved["columns"][0] == pytest.approx(view["columns"][0] - 60 / width * columns, abs=0.02 * columns)
    assert shown.widget.chosen == chosen
    expect_colours(shown, [(int(moved["rows"][0]) + 3, int(moved["columns"][0]) + 5)])


def test_the_wheel_zooms_about_the_pointer_once_the_map_is_in_use(shown):
    x, y = point_of(shown, 60, 15)
    shown.page.mouse.move(x, y)
    shown.page.mouse.wheel(0, -300)
    settle(shown)
    assert shown.widget.view == {}, "before, the wheel scrolls the page"
    shown.page.mouse.click(x, y)
    shown.page.mouse.wheel(0, -300)
    settle(shown)
    view = shown.widget.view
    assert np.diff(view["rows"])[0] == pytest.approx(N / 1.25**3)
    assert np.diff(view["columns"])[0] == pytest.approx(M / 1.25**3)
    assert point_of(shown, 60, 15) == pytest.approx((x, y), abs=1)
    for _ in range(20):
        shown.page.mouse.wheel(0, 300)
    settle(shown)
    assert shown.widget.view == {"rows": [0, N], "columns": [0, M]}


def test_everything_by_keyboard(shown, screenshots):
    shown.page.keyboard.press("Tab")
    for _ in range(6):
        if shown.page.evaluate("document.activeElement.className") == "ip-matrix":
            break
        shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.className") == "ip-matrix"
    for key in ["ArrowDown"] * 4 + ["ArrowRight"] * 7 + ["ArrowUp", "ArrowLeft"]:
        shown.page.keyboard.press(key)
    expect(shown.page.locator(".ip-unseen")).to_contain_text("row-002 (mean age 2 years); column-006")
    shown.page.keyboard.press("Enter")
    settle(shown)
    assert shown.widget.chosen == (2, 6)
    for _ in range(5):
        shown.page.keyboard.press("+")
    settle(shown)
    assert np.diff(shown.widget.view["rows"])[0] == pytest.approx(N / 1.25**5)
    before = shown.widget.view
    shown.page.keyboard.press("Shift+ArrowDown")
    settle(shown)
    assert shown.widget.view["rows"][0] == pytest.approx(before["rows"][0] + np.diff(before["rows"])[0] / 4)
    assert shown.widget.view["columns"] == before["columns"]
    shown.page.screenshot(path=screenshots / "similarity_map_keyboard.png")
    shown.page.keyboard.press("-")
    shown.page.keyboard.press("0")
    settle(shown)
    assert shown.widget.view == {"rows": [0, N], "columns": [0, M]}
    shown.page.keyboard.press("Escape")
    settle(shown)
    assert shown.widget.chosen == ()


def test_buttons_zoom_and_have_names(shown):
    shown.page.get_by_role("button", name="Zoom in").click()
    settle(shown)
    assert np.diff(shown.widget.view["rows"])[0] == pytest.approx(N / 1.25**2)
    shown.page.get_by_role("button", name="Zoom out").click()
    settle(shown)
    assert np.diff(shown.widget.view["columns"])[0] == pytest.approx(M)
    shown.page.get_by_role("button", name="Zoom in").click()
    shown.page.get_by_role("button", name="Show the whole matrix").click()
    settle(shown)
    assert shown.widget.view == {"rows": [0, N], "columns": [0, M]}
    assert shown.page.get_by_role("button", name="Save").count() == 0, "there is no static figure to save"


def test_another_order_is_drawn_and_the_choice_moves_along(shown):
    shown.page.mouse.click(*point_of(shown, 80, 50))
    settle(shown)
    rng = np.random.default_rng(2)
    shown.widget.reorder(rng.permutation(N), rng.permutation(M))
    shown.push()
    settle(shown)
    expect_colours(shown, [(0, 0), (20, 33), (66, 7), (89, 59)])
    assert shown.widget.chosen == (80, 50)
    place = shown.widget.cell
    shown.page.mouse.move(*point_of(shown, *place))
    expect(shown.page.locator(".ip-cell-line")).to_contain_text("row-080")
    assert "column-050" in line(shown)


def test_going_to_a_cell_and_marks_from_the_kernel(shown, screenshots):
    shown.widget.mark([5, 40, 41], [])
    shown.widget.go_to(40, 30, n_places=20)
    shown.push()
    settle(shown)
    expect(shown.page.locator(".ip-key-marked")).to_have_text("selected (3 rows, 0 columns)")
    expect_colours(shown, [(35, 25), (44, 38)])
    shown.page.screenshot(path=screenshots / "similarity_map_marks.png")


def test_other_matrices_take_the_place(shown):
    term = MatrixTerm(rows=np.eye(8, dtype=np.float32), columns=np.eye(8, dtype=np.float32)[:4])
    shown.widget.show(
        LinkedMatrices([TermMatrix(terms=(term,))]),
        ["identity"],
        Side(names=list("abcdefgh"), kinds=np.ones(8, dtype=np.uint8)),
        Side(names=list("wxyz"), kinds=np.array([1, 1, 2, 1], dtype=np.uint8)),
        limit=0.6,
    )
    shown.push()
    settle(shown)
    assert shown.page.locator("canvas.ip-matrix").count() == 1
    shown.widget.view = {"rows": [0, 8], "columns": [0, 4]}
    expect_colours(shown, [(0, 0), (3, 3), (7, 3), (3, 1)])
    expect(shown.page.locator(".ip-key")).to_have_text(["child identity", "no age"])  # only what is there


def test_a_kernel_that_is_gone_is_said(shown):
    shown.answering = False
    shown.page.mouse.move(*point_of(shown, 10, 10))
    expect(shown.page.get_by_role("alert")).to_contain_text("The kernel does not answer", timeout=9000)


def test_what_is_wrong_is_said_and_taken_back_once_it_is_not(shown, screenshots):
    notice, page = shown.page.get_by_role("alert"), shown.page
    expect(notice).to_be_hidden()
    shown.answering = False
    page.mouse.move(*point_of(shown, 10, 10))
    expect(notice).to_contain_text("The kernel does not answer", timeout=9000)
    tile = shown.widget._matrices.tile

    def failing(*_, **__):
        raise ConfigError("Tiles are out of order.")

    shown.widget._matrices.tile = failing
    shown.answering = True
    shown.widget.problem = "The highest values cannot be computed."
    shown.push("problem")
    page.get_by_role("button", name="Zoom in").click()
    expect(notice).to_contain_text("Tiles are out of order.")
    expect(notice).not_to_contain_text("The kernel does not answer")  # it did
    expect(notice.locator("div")).to_have_count(2)
    assert page.locator(".ip-view").get_attribute("data-waiting") == "false"
    page.screenshot(path=screenshots / "similarity_map_problems.png")
    page.wait_for_timeout(2500)  # the question that was not answered holds up the next one no longer
    page.mouse.move(*point_of(shown, 12, 15))  # an answer of another kind says nothing of tiles
    expect(page.locator(".ip-cell-line")).to_contain_text("row-0")
    expect(notice.locator("div")).to_have_count(2)
    shown.widget._matrices.tile = tile
    page.get_by_role("button", name="Zoom out").click()
    expect(notice.locator("div")).to_have_count(1)
    shown.widget.problem = ""
    shown.push("problem")
    expect(notice).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "scale"), [(1100, 1), (620, 2), (330, 2)])
def test_nothing_is_cut_off_in_narrow_and_magnified_windows(browser, tmp_path, screenshots, width, scale, scheme):
    with answered_page(browser, made(), tmp_path, width=width, scale=scale, scheme=scheme) as shown:
        settle(shown)
        assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        pixels, size = canvas(shown).evaluate("canvas => [canvas.width, canvas.getBoundingClientRect().width]")
        assert pixels == pytest.approx(scale * size, abs=1), "as many pixels as the screen has"
        shown.page.mouse.move(*point_of(shown, 2, 2))
        expect(shown.page.locator(".ip-cell-line")).to_contain_text("row-002")
        shown.page.screenshot(path=screenshots / f"similarity_map_{scheme}_{width}.png", full_page=True)


CELLS = [
    """import numpy as np
from interproto_lib.views.explorer.similarity_map import Side, SimilarityMap
from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix
rows = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
term = MatrixTerm(rows=rows, columns=rows)
matrices = LinkedMatrices([TermMatrix(terms=(term,))])
shown = SimilarityMap(matrices, ["run"], Side(names=[str(i) for i in range(300)]))""",
    "shown",
    "print(shown.chosen)",
]


def test_in_jupyterlab_the_choice_reaches_the_next_cell_and_a_restart_is_said(open_notebook):
    notebook = open_notebook(CELLS)
    notebook.run_all()
    page = notebook.page
    page.wait_for_function("document.querySelector('.ip-view')?.dataset.waiting === 'false'")
    box = page.locator("canvas.ip-matrix").bounding_box()
    page.mouse.click(box["x"] + 18 + (box["width"] - 19) * 0.505, box["y"] + 18 + (box["height"] - 19) * 0.255)
    expect(page.locator(".ip-cell-line")).to_contain_text("Similarity")
    page.keyboard.press("0")  # twice, this key restarts the kernel where JupyterLab hears it
    page.keyboard.press("0")
    page.wait_for_timeout(500)
    notebook.run_cell(2)
    chosen = page.locator(".jp-OutputArea-output pre").last.inner_text()
    row, column = (int(number) for number in re.findall(r"\d+", chosen))
    assert abs(row - 76) <= 1
    assert abs(column - 151) <= 1
    notebook.picture("similarity_map_lab")
    notebook.restart_kernel()
    expect(page.get_by_role("alert").first).to_contain_text("The kernel does not answer", timeout=15_000)
    notebook.picture("similarity_map_restarted")
