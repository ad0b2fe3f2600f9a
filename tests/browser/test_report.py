"""The report in a real browser, opened as a file: complete without any request, live without a kernel."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored_runs import manifest_of, write_run
from playwright.sync_api import Browser, Page, expect
from report_cells import code, markdown, picture, said, write_copy

from interproto_lib.views.report import (
    bind_notebooks,
    environment_appendix,
    matrices_view,
    plane_explorer,
    planes_view,
    report_matrices,
    write_report,
)

AGES = {
    **{f"child{k}": [4.0, 8.0, 30.0 + k] for k in range(4)},
    **{f"grown{k:02d}": [30.0 + k, 40.0] for k in range(12)},
    "small": [3.0, 5.0],  # no adult image: no column in child-adult
}
WIDE_TABLE = "<table id='T_1'><caption>Wide</caption><tr>" + "<td>0.12345678</td>" * 60 + "</tr></table>"


@pytest.fixture(scope="module")
def matrices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "drawn"
    runs = {name: write_run(folder, f"{name}-s0", manifest_of(AGES)) for name in ("arcface", "interproto")}
    return folder, runs, report_matrices(runs)


@pytest.fixture(scope="module")
def report(matrices) -> Path:
    folder, runs, computed = matrices
    write_copy(
        folder / "notebooks" / "00_start_here.ipynb",
        markdown("## In short\n\nThe cosine $\\cos\\theta_{ij}$; see [three](03_similarity.ipynb).", "short-text"),
        title="# 0. Start here: what changed?\n\n**Question.** What?",
    )
    write_copy(
        folder / "notebooks" / "03_similarity.ipynb",
        markdown("## The whole", "whole-text"),
        code("x", picture(), said("It is so."), {"text/html": WIDE_TABLE}, name="whole"),
    )
    write_copy(
        folder / "notebooks" / "04_prototype_projection.ipynb", markdown("## Plane", "plane"), title="# 4. Plane"
    )
    explorer = plane_explorer(runs, projections=["tsne"], n_threads=1)
    views = {
        ("03_similarity", "whole"): matrices_view(computed),
        ("04_prototype_projection", "plane"): planes_view(explorer),
    }
    bound = bind_notebooks(folder, [], with_faces=False)
    return write_report(folder, bound, views, [environment_appendix(folder, [])], opening="Opened.").path


@pytest.fixture
def open_report(browser: Browser, report: Path, screenshots: Path) -> Iterator[Callable[..., Page]]:
    """A function that opens the report as a file; anything asked for, and any error, fails the test at its end."""
    asked, errors, contexts = [], [], []

    def open_it(anchor: str = "", **context) -> Page:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **context}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{report.as_uri()}{anchor}")
        expect(page.locator(".place[data-shown=yes]")).to_have_count(2)
        expect(page.locator("#matrices .ip-view")).to_have_attribute("data-waiting", "false")
        return page

    yield open_it
    for context in contexts:
        screenshots.mkdir(parents=True, exist_ok=True)
        width = context.pages[0].viewport_size["width"]
        context.pages[0].screenshot(path=screenshots / f"report_{width}_{len(asked)}.png")
        context.close()
    allowed = {report.as_uri()}
    assert [url for url in asked if url.split("#")[0] not in allowed and not url.startswith("data:image/")] == []
    assert [error for error in errors if "Content Security Policy" not in error] == []


def shown(page: Page, name: str) -> Any:
    """What the model of the matrices holds."""
    return page.evaluate(f"document.getElementById('matrices-place').model.get('{name}')")


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Ask again and again: the page's own policy forbids playwright to do it there."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it does not come to hold"
        time.sleep(0.1)


def hover_cell(page: Page, row: int, column: int) -> None:
    """Point at a cell of the whole first matrix, by its places."""
    canvas = page.locator("#matrices canvas.ip-matrix").first
    box = canvas.bounding_box()
    margin = 18
    n_rows = shown(page, "n_rows")
    n_columns = shown(page, "n_columns")
    x = margin + (column + 0.5) * (box["width"] - margin - 1) / n_columns
    y = margin + (row + 0.5) * (box["height"] - margin - 1) / n_rows
    canvas.hover(position={"x": x, "y": y})


def test_it_is_whole_and_asks_for_nothing(open_report):
    page = open_report()
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    formula = page.locator("math").bounding_box()
    assert formula["width"] > 20
    assert page.locator("main").get_by_text("three").get_attribute("href") == "#chapter-3"
    page.locator("nav").get_by_role("link", name="3. A title").click()
    assert page.evaluate("Math.abs(document.getElementById('chapter-3').getBoundingClientRect().top) < 60")


def test_a_host_cannot_be_asked_even_by_a_script(open_report):
    page = open_report()
    assert page.evaluate("fetch('https://example.org/').then(() => 'loaded', () => 'refused')") == "refused"


def test_pointing_at_a_cell_tells_whose_it_is(open_report, matrices):
    _, _, computed = matrices
    page = open_report("#matrices")
    order = computed.orders["child_share"]
    names = computed.identities["identity"].to_numpy()[order]
    for row, column in ((0, 5), (7, 2), (16, 3)):
        hover_cell(page, row, column)
        line = page.locator("#matrices .ip-cell-line")
        expect(line).to_contain_text(f"{names[row]} (")
        expect(line).to_contain_text(f"{names[column]} (")
        for run in ("arcface", "interproto"):
            value = computed.cells["features", "all", run][order[row], order[column]]
            expect(line).to_contain_text(f"{run} {value:.3f}".replace("-", "−"))


def test_other_pairs_other_orders_and_a_name(open_report, matrices):
    _, _, computed = matrices
    page = open_report("#matrices")
    page.get_by_label("Pairs").select_option("child-adult")
    rows, columns = computed.sides["child-adult"]
    assert (len(rows), len(columns)) == (5, 16)
    page.get_by_label("Order").select_option("identity")
    names = computed.identities["identity"].to_numpy()
    hover_cell(page, 4, 0)
    line = page.locator("#matrices .ip-cell-line")
    expect(line).to_contain_text("small (mean age 4.0 years, 2 images)")
    value = computed.cells["features", "child-adult", "interproto"][4, 0]
    expect(line).to_contain_text(f"interproto {value:.3f}".replace("-", "−"))
    page.get_by_label("Values of").select_option("prototypes")
    page.get_by_label("against").select_option("1")
    expect(page.locator("#matrices canvas.ip-matrix")).to_have_count(3)
    hover_cell(page, 1, 3)
    i, j = list(names).index(names[rows[1]]), list(names).index(names[columns[3]])
    expect(line).to_contain_text(f"{computed.cells['prototypes', 'all', 'arcface'][i, j]:.3f}".replace("-", "−"))
    page.get_by_label("Pairs").select_option("all")
    page.locator("#matrices").get_by_label("Go to").fill("grown03")
    page.keyboard.press("Enter")
    place = np.sort(names).tolist().index("grown03")
    assert shown(page, "cell") == [place, place]


def test_the_matrix_is_walked_by_keyboard(open_report):
    page = open_report("#matrices")
    canvas = page.locator("#matrices canvas.ip-matrix").first
    canvas.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert len(shown(page, "cell")) == 2
    for _ in range(3):
        page.keyboard.press("+")
    wait_until(lambda: np.ptp(shown(page, "view").get("rows", [0, 17])) < 12)
    page.keyboard.press("0")
    wait_until(lambda: shown(page, "view")["rows"] == [0, 17])


def test_ordering_by_similarity_puts_the_chosen_first(open_report, matrices):
    _, _, computed = matrices
    page = open_report("#matrices")
    page.locator("#matrices").get_by_label("Go to").fill("grown03")
    page.keyboard.press("Enter")
    page.get_by_label("Order").select_option("similarity")
    names = computed.identities["identity"].to_numpy()
    own = list(names).index("grown03")
    row = computed.cells["features", "all", "arcface"][own].copy()
    row[own] = np.inf
    order = np.argsort(-row)
    hover_cell(page, 0, 1)
    expect(page.locator("#matrices .ip-cell-line")).to_contain_text("grown03 (")
    expect(page.locator("#matrices .ip-cell-line")).to_contain_text(f"{names[order[1]]} (")


def test_the_planes_find_an_identity_in_every_run(open_report):
    page = open_report("#planes")
    expect(page.locator("#planes .ip-title")).to_have_text(["arcface", "interproto"])
    page.locator("#planes").get_by_label("Go to").fill("child2")
    page.keyboard.press("Enter")
    expect(page.locator("#planes .ip-view")).to_contain_text("child2 · child identity · mean age 14.7 years")
    page.locator("#planes").get_by_label("Colour by").select_option("n_images")
    expect(page.locator("#planes .ip-view")).to_contain_text("number of images")


@pytest.mark.parametrize(
    "context",
    [
        {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
        {"viewport": {"width": 640, "height": 500}, "device_scale_factor": 2},
        {"viewport": {"width": 1600, "height": 900}},
    ],
    ids=["phone", "200 %", "wide"],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_fits_the_page_in_every_width_and_scheme(open_report, context, scheme):
    page = open_report(color_scheme=scheme, **context)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "only tables and figures scroll"
    paper, ink = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (paper, ink)]
    assert (
        (lightness[0] > 0.9 and lightness[1] < 0.2) if scheme == "light" else (lightness[0] < 0.2 < 0.8 < lightness[1])
    )
    beside = context["viewport"]["width"] >= 1120
    assert page.evaluate("document.getElementById('contents').open") == beside


def test_printed_it_is_light_and_has_no_inputs(open_report):
    page = open_report(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("#matrices .place").is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.locator("#matrices .only-print").is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 26, 26)"


def test_every_input_has_a_name_and_can_be_reached(open_report):
    page = open_report()
    nameless = page.evaluate(
        "[...document.querySelectorAll('.view :is(input, select, button, textarea)')]"
        ".filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim())).length"
    )
    assert nameless == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
