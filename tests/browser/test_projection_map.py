"""The projection explorer as a person sees it: pointing, selecting, keyboard, dark pages, large text, a lost kernel."""

from __future__ import annotations

import base64
import itertools

import numpy as np
import pandas as pd
import pytest
from lab_pages import colours_of
from matplotlib.path import Path as PlanePath
from playwright.sync_api import expect
from shimmed_page import write_page

from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer

RUNS = ("ArcFace", "Inter-Prototype")
N = 600


def explorer(n=N, **options):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "identity": [f"id{i:04d}" for i in range(n)],
            "is_child": np.arange(n) % 5 == 0,
            "age_years": np.where(np.arange(n) % 50 == 3, np.nan, rng.uniform(2, 70, n)),
            "n_images": rng.integers(2, 400, n),
        }
    )
    points = {p: {run: rng.normal(size=(n, 2)) for run in RUNS} for p in ("t-SNE", "UMAP")}
    points["t-SNE"]["Inter-Prototype"][7] = np.nan
    prototypes = {run: rng.normal(size=(n, 6)) for run in RUNS}
    return ProjectionExplorer(points, table, **{"prototypes": prototypes, **options})


@pytest.fixture
def show(browser, tmp_path):
    """A function that shows a widget in a page of its own and fails the test, at its end, for errors on the page."""
    errors, contexts = [], []

    def show_it(widget, *, zoom=1.0, scheme="light"):
        context = browser.new_context(
            viewport={"width": round(1300 / zoom), "height": round(1000 / zoom)}, device_scale_factor=zoom
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(write_page(widget, tmp_path / f"{len(contexts)}.html", scheme=scheme).as_uri())
        page.wait_for_function("window.ready")
        page.wait_for_timeout(150)
        return page

    yield show_it
    for context in contexts:
        context.close()
    assert errors == []


def unit_points(one, projection="t-SNE", run=0):
    """Places (n, 2) in the unit square as the page has them."""
    steps = np.frombuffer(one.map.points, "<u2").reshape(2, 2, -1, 2)[list(one.points).index(projection), run]
    return np.where(steps == 65_535, np.nan, steps / 65_000)


def panel(page, run=0):
    return page.locator("[role=application]").nth(run)


def on_screen(page, places, run=0):
    """Pixels of places of the unit square, at the first view of a panel."""
    box = panel(page, run).bounding_box()
    side = 0.94 * box["width"]
    x = box["x"] + box["width"] / 2 + (places[..., 0] - 0.5) * side
    return np.stack([x, box["y"] + box["height"] / 2 - (places[..., 1] - 0.5) * side], axis=-1)


def selected(page):
    return page.evaluate("() => window.model.get('selected')")


def draw_path(page, corners):
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=3)
    page.mouse.up()


# --- pointing -------------------------------------------------------------------------------------


def test_hovering_names_the_nearest_identity_and_rings_it_in_both_panels(show):
    one = explorer()
    page = show(one.map)
    places = on_screen(page, unit_points(one))
    row = int(np.nanargmax(places[:, 1]))  # the lowest on the page: nothing is nearer
    page.mouse.move(*(places[row] + 1))
    line = page.locator(".ip-line").first
    expect(line).to_contain_text(f"id{row:04d}")
    table = one.identities.iloc[row]
    expect(line).to_contain_text(f"{table['n_images']} images")
    expect(line).to_contain_text("ArcFace: most like id")
    hovered = page.evaluate("() => here.projectionView.panels.map(({ panel }) => panel.hovered)")
    assert hovered == [row, row]
    for run in (0, 1):
        place = on_screen(page, unit_points(one, run=run), run)[row]
        assert ring(page, run) == pytest.approx(place, abs=1)
    page.mouse.move(0, 0)
    expect(panel(page).locator("g:visible")).to_have_count(0)


def ring(page, run):
    """Middle of the one ring of a panel, in pixels of the page."""
    box = panel(page, run).locator("g:visible").bounding_box()
    return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]


def test_a_lasso_is_seen_while_it_is_drawn(show):
    page = show(explorer().map)
    page.get_by_label("Drag to").select_option("lasso")
    corners = on_screen(page, np.array([[0.2, 0.3], [0.7, 0.4], [0.4, 0.8]]))
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner)
    outline = (
        panel(page)
        .locator("path")
        .first.evaluate("(path) => { const b = path.getBBox(); return [b.x, b.y, b.width, b.height]; }")
    )
    corner = panel(page).bounding_box()
    assert [corner["x"] + outline[0], corner["y"] + outline[1]] == pytest.approx(corners.min(axis=0), abs=2)
    assert outline[2:] == pytest.approx(np.ptp(corners, axis=0), abs=1)
    page.mouse.up()
    expect(panel(page).locator("path").first).to_have_attribute("d", "")


def test_the_nearest_point_is_the_nearest_of_all(show):
    one = explorer()
    page = show(one.map)
    rng = np.random.default_rng(4)
    asked = np.column_stack([rng.uniform(-0.1, 1.1, (300, 2)), rng.choice([0.005, 0.05, 0.4, 2.0], 300)])
    found = page.evaluate(
        "(asked) => asked.map(([x, y, r]) => here.projectionView.panels[1].panel.grid.nearest(x, y, r))", asked.tolist()
    )
    places = unit_points(one, run=1).astype(np.float32).astype(np.float64)
    for (x, y, radius), row in zip(asked, found, strict=True):
        distances = np.hypot(places[:, 0] - x, places[:, 1] - y)
        if np.nanmin(distances) <= radius:
            assert distances[row] == np.nanmin(distances)
        else:
            assert row == -1
    assert {-1} < set(found)
    assert 7 not in found


def test_a_click_chooses_in_both_panels_and_going_to_a_name_moves_there(show):
    one = explorer()
    page = show(one.map)
    places = on_screen(page, unit_points(one))
    row = int(np.nanargmin(places[:, 0]))
    page.mouse.click(*places[row])
    assert page.evaluate("() => window.model.get('chosen')") == row
    field = page.get_by_label("Go to identity")
    expect(field).to_have_value(f"id{row:04d}")
    field.fill("id0123")
    field.press("Enter")
    assert page.evaluate("() => window.model.get('chosen')") == 123
    view = page.evaluate("() => here.projectionView.panels[0].panel.view")
    assert [view["x"], view["y"]] == pytest.approx(unit_points(one)[123], abs=1e-5)
    field.fill("nobody")
    field.press("Enter")
    assert "no identity nobody" in field.evaluate("(input) => input.validationMessage")


def test_wheel_and_drag_move_the_view_and_the_model_hears_of_it_when_they_rest(show):
    page = show(explorer().map)
    box = panel(page).bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.wheel(0, -200)
    page.wait_for_function("() => window.model.get('views')[0][2] > 1.2")
    before = page.evaluate("() => window.model.get('views')[0]")
    draw_path(page, [(box["x"] + 200, box["y"] + 200), (box["x"] + 300, box["y"] + 200)])
    page.wait_for_function("(x) => window.model.get('views')[0][0] < x - 0.05", arg=before[0])
    assert page.evaluate("() => window.model.get('views')[1]") == [0.5, 0.5, 1]


# --- the picture ----------------------------------------------------------------------------------

PIXELS = """(run) => {
    const { canvas } = here.projectionView.panels[run].panel;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.width, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(''))];
}"""

DRAWN_ANEW = """(run) => {
    const { panel } = here.projectionView.panels[run];
    panel.picture.drawn = null;
    panel.redraw();
    return new Promise(requestAnimationFrame);
}"""


def pixels(page, run=0):
    """The picture (side, side, 3) of a panel."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    side, coded = page.evaluate(PIXELS, run)
    return np.frombuffer(base64.b64decode(coded), np.uint8).reshape(side, side, 4)[..., :3]


@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_each_point_has_its_colour_at_its_place_also_after_moving(show, zoom):
    points = {"PCA": {run: np.array([[-1.0, -0.6], [0.2, 0.1], [1.0, 0.9], [-0.5, 1.0], [0.6, -1.0]]) for run in RUNS}}
    table = pd.DataFrame(
        {"identity": list("abcde"), "is_child": [1, 0, 0, 1, 0], "age_years": [5, 40, np.nan, 9, 33], "n_images": 3}
    )
    expected = np.array([[230, 159, 0], [0, 114, 178], [154, 154, 154], [230, 159, 0], [0, 114, 178]])
    page = show(ProjectionExplorer(points, table.astype({"is_child": bool})).map, zoom=zoom)
    places = (points["PCA"][RUNS[0]] + 1) / 2
    box = panel(page).bounding_box()
    for shift in ([0, 0], [60, 35], [-90, -20]):
        if any(shift):
            start = np.array([box["x"] + 100, box["y"] + 100])
            draw_path(page, [start, start + shift])
        view = page.evaluate("() => here.projectionView.panels[0].panel.view")
        picture = pixels(page)
        side = len(picture)
        x = side / 2 + (places[:, 0] - view["x"]) * 0.94 * side
        y = side / 2 - (places[:, 1] - view["y"]) * 0.94 * side
        for (column, row), colour in zip(np.rint([x, y]).astype(int).T, expected, strict=True):
            if 0 <= column < side and 0 <= row < side:
                assert np.abs(picture[row, column] - colour).max() < 25
        paper = (picture == 255).all(axis=2).mean()
        assert 0.98 < paper < 1


@pytest.mark.parametrize("some_selected", [False, True])
def test_a_picture_that_was_moved_is_the_picture_drawn_anew(show, some_selected):
    one = explorer(3000)
    one.map.selected = list(range(0, 3000, 7)) if some_selected else []
    page = show(one.map)
    before = pixels(page)
    box = panel(page).bounding_box()
    corner = np.array([box["x"] + 150, box["y"] + 150])
    for to in ([230, 120], [90, 300], [300, 305], [150, 80]):
        draw_path(page, [corner, corner + to, corner + np.array(to) / 3])
        moved = pixels(page)
        page.evaluate(DRAWN_ANEW, 0)
        np.testing.assert_array_equal(pixels(page), moved)
        assert (moved != before).any()


# --- selecting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [0, 1])
def test_a_lasso_selects_what_lies_in_it(show, run):
    one = explorer()
    page = show(one.map)
    page.get_by_label("Drag to").select_option("lasso")
    star = np.array([[0.3, 0.2], [0.75, 0.35], [0.5, 0.5], [0.8, 0.8], [0.35, 0.7], [0.45, 0.45]])
    draw_path(page, on_screen(page, star, run).tolist())
    places = unit_points(one, run=run)
    inside = set(np.flatnonzero(PlanePath(star).contains_points(np.nan_to_num(places, nan=-9))))
    to_edge = np.abs(places[:, None] - along(star)).max(axis=2).min(axis=1)
    edge = set(np.flatnonzero(to_edge < 0.01))
    found = selected(page)
    assert found == sorted(found)
    assert set(found) ^ inside <= edge
    assert len(inside) > 20
    assert page.locator("[role=status]", has_text=f"{len(found)} selected").count() == 1


def along(corners, steps=200):
    closed = np.vstack([corners, corners[:1]])
    shares = np.linspace(0, 1, steps)[:, None]
    return np.concatenate([a + shares * (b - a) for a, b in itertools.pairwise(closed)])


def test_a_rectangle_by_numbers_replaces_adds_and_takes_away(show):
    one = explorer()
    page = show(one.map)
    page.get_by_text("Select a rectangle by numbers").click()
    places = unit_points(one, run=1)

    def choose(left, right, bottom, top, mode):
        for name, value in (("left", left), ("right", right), ("bottom", bottom), ("top", top)):
            page.get_by_label(name, exact=True).fill(str(value))
        page.get_by_label("New selection").select_option(mode)
        page.get_by_role("button", name="Select", exact=True).click()
        within = (places >= (left / 100, bottom / 100)) & (places <= (right / 100, top / 100))
        return set(np.flatnonzero(within.all(axis=1)))

    page.get_by_label("in panel").select_option("1")
    first = choose(20, 60, 30, 70, "replace")
    assert set(selected(page)) == first
    second = choose(50, 90, 50, 90, "add")
    assert set(selected(page)) == first | second
    third = choose(55, 65, 0, 100, "remove")
    assert set(selected(page)) == (first | second) - third
    assert min(map(len, (first, second, third))) > 5
    choose(0, 100, 0, 100, "replace")
    assert set(selected(page)) == set(range(N)) - {7}  # the outermost too, which lie at exactly 0 and 100
    page.get_by_role("button", name="Clear").click()
    assert selected(page) == []


def test_everything_by_keyboard(show):
    one = explorer()
    page = show(one.map)
    panel(page).focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowDown", "Space", *["ArrowRight"] * 5, *["ArrowUp"] * 4):
        page.keyboard.press(key)
    page.keyboard.press("Space")
    corner, step = 0.5 - 2 * 0.08, 0.08
    places = unit_points(one)
    within = (places >= corner) & (places <= (corner + 5 * step, corner + 4 * step))
    assert set(selected(page)) == set(np.flatnonzero(within.all(axis=1)))
    page.keyboard.press("Enter")
    view = page.evaluate("() => here.projectionView.panels[0].panel.view")
    nearest = int(np.nanargmin(np.hypot(places[:, 0] - view["x"], places[:, 1] - view["y"])))
    assert page.evaluate("() => window.model.get('chosen')") == nearest
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.evaluate("() => here.projectionView.panels[0].panel.view.zoom") == pytest.approx(1.96)
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    assert page.evaluate("() => here.projectionView.panels[0].panel.view") == {"x": 0.5, "y": 0.5, "zoom": 1}
    assert page.evaluate("() => window.model.get('chosen')") == -1


def test_marks_from_outside_are_drawn(show):
    page = show(explorer().map)
    before = colours_of(page.locator("canvas").first)
    page.evaluate("() => window.model.set('selected', [1, 2, 3])")
    page.wait_for_timeout(100)
    expect(page.get_by_text("3 selected")).to_be_visible()
    assert page.evaluate("() => here.projectionView.panels.map(({ panel }) => panel.nFaded)") == [N - 3, N - 3]
    assert colours_of(page.locator("canvas").first) != before


# --- how it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "zoom", "colouring"), [("light", 1, "confusion"), ("dark", 2, "age_years")])
def test_colours_shapes_and_large_text(show, screenshots, scheme, zoom, colouring):
    one = explorer()
    one.map.selected = list(range(30))
    page = show(one.map, scheme=scheme, zoom=zoom)
    page.get_by_label("Colour by").select_option(colouring)
    page.wait_for_timeout(150)
    canvas = page.locator("canvas").first
    assert colours_of(canvas) > 100
    background = canvas.evaluate("(c) => [...c.getContext('2d').getImageData(2, 2, 1, 1).data.slice(0, 3)]")
    assert (sum(background) < 200) == (scheme == "dark")
    expect(page.get_by_text("child identity (120)")).to_be_visible()
    expect(page.get_by_text("no age (")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    screenshots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=screenshots / f"projection_{scheme}_{colouring}.png", full_page=True)


def test_confusion_that_comes_later_can_be_chosen_then(show):
    one, later = explorer(prototypes=None), explorer()
    one.map.colouring = "confusion"
    page = show(one.map)
    choice = page.get_by_label("Colour by")
    expect(choice.locator("[value=confusion]")).to_be_disabled()
    before = pixels(page)
    plain = show(explorer(prototypes=None).map)
    np.testing.assert_array_equal(before, pixels(plain))
    page.evaluate(
        """(values) => {
            for (const [name, text] of Object.entries(values)) {
                window.model.set(name, new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer));
            }
        }""",
        {name: base64.b64encode(getattr(later.map, name)).decode() for name in ("confused_with", "confusion")},
    )
    expect(choice.locator("[value=confusion]")).to_be_enabled()
    expect(choice).to_have_value("confusion")
    expect(page.locator(".ip-quiet", has_text="confusion (highest cosine")).to_be_visible()
    after = pixels(page)
    assert (after != before).any(axis=2).mean() > 0.5 * (before != 255).any(axis=2).mean()


def test_another_projection_moves_the_points(show):
    one = explorer()
    page = show(one.map)
    page.get_by_label("Projection").select_option("UMAP")
    x = page.evaluate("() => [...here.projectionView.panels[1].panel.x]")
    np.testing.assert_allclose(x, unit_points(one, "UMAP", 1)[:, 0], atol=1e-6)


# --- the kernel -----------------------------------------------------------------------------------


def test_a_kernel_that_does_not_answer_is_said_and_taken_back_when_it_does(show):
    page = show(explorer().map)
    page.clock.install()
    notice = page.locator(".ip-notice")
    expect(notice).to_have_text("")
    panel(page).hover()
    assert {"type": "ping"} in page.evaluate("() => window.sent")
    page.clock.fast_forward(7000)
    expect(notice).to_contain_text("The kernel does not answer")
    page.evaluate("() => window.trigger('msg:custom', { type: 'pong' })")
    expect(notice).to_have_text("")
    page.evaluate("() => window.trigger('comm:close')")
    expect(notice).to_contain_text("run the cell again")


def test_without_a_kernel_nothing_is_asked_of_it(show):
    page = show(explorer(live=False).map)
    panel(page).hover()
    assert page.evaluate("() => window.sent") == []
    expect(page.get_by_text("Save figure")).to_have_count(0)
    expect(page.get_by_role("button", name="Copy code")).to_be_visible()
