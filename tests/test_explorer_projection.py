"""The projection explorer without a page: what is sent, what is selected, and the figure and code that it gives."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from interproto_lib.analysis.projection import projection_quality
from interproto_lib.errors import ConfigError
from interproto_lib.views import projection_figure
from interproto_lib.views.explorer import projection_explorer
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.explored_run import ExploredRun
from interproto_lib.views.explorer.live_view import figure_bytes, read_script
from interproto_lib.views.explorer.projection_explorer import ProjectionExplorer, highest_similarities
from interproto_lib.views.explorer.projection_map import quantise_points

RUNS = ("ArcFace", "Inter-Prototype")


def identities(n=40, seed=0):
    rng = np.random.default_rng(seed)
    ages = rng.uniform(3, 60, n)
    ages[1] = np.nan
    return pd.DataFrame(
        {
            "identity": [f"id{i:03d}" for i in range(n)],
            "is_child": np.arange(n) % 3 == 0,
            "age_years": ages,
            "n_images": rng.integers(2, 50, n),
            "country": ["nowhere"] * n,
        }
    )


def some_points(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: {run: rng.normal(size=(n, 2)).astype(np.float32) for run in RUNS} for name in ("t-SNE", "UMAP")
    }  # fmt: skip


def some_prototypes(n=40, d=7, seed=1):
    rng = np.random.default_rng(seed)
    return {run: rng.normal(size=(n, d)).astype(np.float32) for run in RUNS}


def explorer(**options):
    return ProjectionExplorer(some_points(), identities(), **{"prototypes": some_prototypes(), **options})


@pytest.fixture
def answers(monkeypatch):
    """A function that hands a message of the page to a widget and gives what it sends back."""

    def ask(widget, message):
        sent = []
        monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
        widget._handle_custom_msg(message, [])
        return sent

    return ask


# --- what the page gets ---------------------------------------------------------------------------


def test_points_keep_their_shape_and_every_place_to_a_screens_precision():
    points = np.random.default_rng(3).normal(size=(500, 2)) * (8, 3) + (100, -40)
    points[7] = np.nan
    points[9, 1] = np.inf
    steps = quantise_points(points)
    missing = (steps == 65_535).all(axis=1)
    assert set(np.flatnonzero(missing)) == {7, 9}
    kept = points[~missing]
    side = np.ptp(kept, axis=0).max()
    again = steps[~missing] / 65_000 * side
    error = (again - again.mean(axis=0)) - (kept - kept.mean(axis=0))
    assert np.abs(error).max() <= side / 65_000
    assert steps[~missing].max() == 65_000
    assert steps[~missing].min(axis=0)[0] == 0


@pytest.mark.parametrize("points", [np.ones((3, 2)), np.full((3, 2), np.nan), np.zeros((1, 2))])
def test_points_without_extent_lie_in_the_middle_or_nowhere(points):
    steps = quantise_points(points)
    assert set(steps.ravel()) == {65_535 if np.isnan(points).any() else 32_500}


def test_the_page_gets_runs_projections_and_identities_in_order():
    of_page = explorer().map
    points = np.frombuffer(of_page.points, dtype="<u2").reshape(2, 2, 40, 2)
    given = some_points()
    for q, projection in enumerate(("t-SNE", "UMAP")):
        for p, run in enumerate(RUNS):
            np.testing.assert_array_equal(points[q, p], quantise_points(given[projection][run]))
    table = identities()
    assert of_page.names.split("\n") == table["identity"].tolist()
    kinds = np.frombuffer(of_page.kinds, dtype=np.uint8)
    assert [kinds[0], kinds[1], kinds[2]] == [1, 2, 0]
    np.testing.assert_array_equal(np.frombuffer(of_page.age_years, "<f4"), table["age_years"].to_numpy(np.float32))
    np.testing.assert_array_equal(np.frombuffer(of_page.n_images, "<f4"), table["n_images"])


@pytest.mark.parametrize("odd", ["two\nlines", "two\r\nlines", "two\rlines"])
def test_a_name_of_two_lines_takes_one(odd):
    names = [odd, "", "last"]
    points = {"t-SNE": {"one": np.zeros((3, 2))}}
    table = pd.DataFrame({"identity": names, "is_child": False, "age_years": 30.0, "n_images": 1})
    assert ProjectionExplorer(points, table).map.names.split("\n") == ["two lines", "", "last"]


def test_confusion_equals_brute_force_with_rows_left_out():
    prototypes = np.random.default_rng(5).normal(size=(60, 9)).astype(np.float32) * 3
    prototypes[[4, 31]] = np.nan
    cosines, rows = highest_similarities(prototypes)
    for i in range(60):
        best, who = -np.inf, -1
        for j in range(60):
            if i == j or np.isnan(prototypes[[i, j]]).any():
                continue
            a, b = prototypes[i].astype(np.float64), prototypes[j].astype(np.float64)
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            if cosine > best:
                best, who = cosine, j
        assert rows[i] == who
        assert np.isnan(cosines[i]) if who < 0 else cosines[i] == pytest.approx(best, abs=1e-6)


def test_one_prototype_has_no_other():
    cosines, rows = highest_similarities(np.array([[1.0, 0.0], [np.nan, 1.0]]))
    assert np.isnan(cosines).all()
    assert rows.tolist() == [-1, -1]


# --- selection ------------------------------------------------------------------------------------


def test_the_selection_becomes_a_table_with_all_columns_and_the_confusion_of_each_run():
    one = explorer()
    one.map.selected = [3, 17, 20]
    table = one.selected_table()
    assert table.index.tolist() == one.selected.tolist() == [3, 17, 20]
    assert table["identity"].tolist() == ["id003", "id017", "id020"]
    assert table["country"].tolist() == ["nowhere"] * 3
    for run in RUNS:
        cosines, rows = highest_similarities(some_prototypes()[run])
        np.testing.assert_array_equal(table[f"confusion ({run})"], cosines[[3, 17, 20]])
        assert table[f"most_like ({run})"].tolist() == [f"id{row:03d}" for row in rows[[3, 17, 20]]]


def test_without_prototypes_the_table_has_no_confusion_and_asking_for_it_says_why():
    one = explorer(prototypes=None)
    one.select(["id002"])
    assert list(one.selected_table()) == list(identities())
    assert one.map.confusion == b""
    with pytest.raises(ConfigError, match="prototypes"):
        one.find_confusion()


def test_confusion_that_takes_long_is_found_while_the_explorer_is_shown(monkeypatch):
    may_go_on = threading.Event()

    def slow(*arguments, **options):
        assert may_go_on.wait(30)
        return highest_similarities(*arguments, **options)

    monkeypatch.setattr(projection_explorer, "CONFUSION_AT_ONCE", 10)
    monkeypatch.setattr(projection_explorer, "highest_similarities", slow)
    one = explorer()
    assert one.map.confusion == b""
    one.select(["id004"])
    threading.Timer(0.2, may_go_on.set).start()
    table = one.selected_table()  # waits
    assert table["confusion (ArcFace)"].tolist() == highest_similarities(some_prototypes()["ArcFace"])[0][[4]].tolist()
    assert len(one.map.confusion) == 2 * 40 * 4
    one.find_confusion()  # is there already
    may_go_on.clear()
    threading.Timer(0.2, may_go_on.set).start()
    assert len(explorer(live=False).map.confusion) == 2 * 40 * 4  # a page without a kernel gets no second word


def test_nothing_selected_is_an_empty_table():
    assert explorer().selected_table().empty


def test_selecting_by_name_sorts_and_refuses_strangers():
    one = explorer()
    one.select(["id009", "id001", "id009"])
    assert one.map.selected == [1, 9]
    with pytest.raises(ConfigError, match="'nobody'"):
        one.select(["id001", "nobody"])
    assert one.map.selected == [1, 9]


def test_state_survives_in_another_explorer_by_names():
    first = explorer()
    first.select(["id004", "id039", "id010"])
    first.map.set_trait("chosen", 10)
    first.map.set_trait("projection", "UMAP")
    first.map.set_trait("colouring", "age_years")
    first.map.set_trait("views", [[0.2, 0.3, 4.0], [0.5, 0.5, 1.0]])
    keep = np.array([i for i in range(40) if i != 39])[::-1]
    points = {p: {run: of_run[keep] for run, of_run in by_run.items()} for p, by_run in some_points().items()}
    again = ProjectionExplorer(points, identities().iloc[keep], state=first)
    assert set(again.selected_table()["identity"]) == {"id004", "id010"}
    assert again.map.names.split("\n")[again.map.chosen] == "id010"
    assert (again.map.projection, again.map.colouring) == ("UMAP", "age_years")
    assert again.map.views[0] == [0.2, 0.3, 4.0]
    assert again.state["selected"] == ["id010", "id004"]


def test_state_of_other_projections_and_panels_is_left_out():
    first = explorer()
    first.map.set_trait("projection", "UMAP")
    points = {"t-SNE": {"ArcFace": some_points()["t-SNE"]["ArcFace"]}}
    again = ProjectionExplorer(points, identities(), state=first.state)
    assert again.map.projection == "t-SNE"
    assert again.map.views == [[0.5, 0.5, 1.0]]


# --- figure, code, messages -----------------------------------------------------------------------


def test_the_copied_code_draws_the_figure_that_is_saved(tmp_path, monkeypatch, answers):
    monkeypatch.chdir(tmp_path)
    one = explorer(name="prototypes_seen")
    one.map.set_trait("projection", "UMAP")
    space = {"prototypes_seen": one}
    exec(one.map.code, space)
    points, is_child = some_points()["UMAP"], identities()["is_child"].to_numpy()
    quality = {run: projection_quality(some_prototypes()[run], points[run], is_child) for run in RUNS}
    expected = figure_bytes(projection_figure({"UMAP": points}, is_child, {"UMAP": quality}), "svg")
    assert figure_bytes(space["figure"], "svg") == expected
    assert (tmp_path / "figures" / "projection.svg").is_file()
    [(content, buffers)] = answers(one.map, {"type": "save_figure", "format": "svg"})
    assert content == {"type": "figure", "name": "projection.svg"}
    assert buffers == [expected]


def test_code_that_makes_the_explorer_stands_in_the_copied_code():
    assert "\nexplorer = make_it()\n" in explorer(made_by="explorer = make_it()").map.code


def test_png_is_sent_too_and_an_unknown_format_becomes_svg(answers):
    quality = {p: {run: explorer().quality(p)[run] for run in RUNS} for p in ("t-SNE", "UMAP")}
    one = explorer(quality=quality)
    [(_, [png])] = answers(one.map, {"type": "save_figure", "format": "png"})
    assert png.startswith(b"\x89PNG")
    [(_, [other])] = answers(one.map, {"type": "save_figure", "format": "../../etc/passwd"})
    assert b"<svg" in other


def test_a_figure_that_cannot_be_drawn_is_a_message_on_the_page(answers):
    [(content, _)] = answers(explorer(prototypes=None).map, {"type": "save_figure", "format": "svg"})
    assert content["type"] == "problem"
    assert "there are no prototypes" in content["text"]
    points = some_points()
    points["t-SNE"]["ArcFace"][5] = np.nan
    [(content, _)] = answers(
        ProjectionExplorer(points, identities(), prototypes=some_prototypes()).map, {"type": "save_figure"}
    )
    assert "1 identity has no place in ArcFace" in content["text"]


@pytest.mark.parametrize("message", [None, [], {}, {"type": "other"}, "ping"])
def test_messages_that_mean_nothing_are_not_answered(answers, message):
    assert answers(explorer().map, message) == []


def test_the_kernel_says_that_it_lives(answers):
    assert answers(explorer().map, {"type": "ping"}) == [({"type": "pong"}, None)]


def test_a_script_is_one_module_without_imports():
    for name in ("projection_map.js", "pair_explorer.js"):
        text = read_script(name)
        assert "import {" not in text
        assert text.count("export default") == 1
        assert text.count("export ") == 1 + sum(line.startswith("export ") for line in own_lines(name))


def own_lines(name):
    from interproto_lib.views.explorer import live_view

    lines = (live_view._FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("export default")]


# --- explored runs --------------------------------------------------------------------------------


def test_explored_runs_are_projected_once_and_read_back(tmp_path):
    table = identities(30).drop(columns="country").assign(child_share=0.5)
    runs = tuple(
        ExploredRun(
            name=name,
            run=SimpleNamespace(path=tmp_path / name, name=name),
            prototypes=some_prototypes(30)[name] / np.linalg.norm(some_prototypes(30)[name], axis=1, keepdims=True),
            vectors=np.empty((0, 7), np.float32),
            manifest=pd.DataFrame(),
            positions=np.empty(0, np.int64),
            n_identities=30,
            child_below_years=13.0,
        )
        for name in RUNS
    )
    explored = ExploredRuns(runs=runs, identities=table, split="train", notes=())
    one = ProjectionExplorer.of_explored(explored, n_threads=1)
    assert list(one.points) == ["t-SNE"]
    assert one.map.runs == list(RUNS)
    assert len(one.map.confusion) == 2 * 30 * 4
    again = ProjectionExplorer.of_explored(explored, state=one)
    np.testing.assert_array_equal(again.points["t-SNE"]["ArcFace"], one.points["t-SNE"]["ArcFace"])


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"identities": identities().drop(columns=["is_child", "n_images"])}, "no column is_child, n_images"),
        ({"identities": identities().assign(identity="one")}, "'one' stands twice"),
        ({"identities": identities(39)}, r"\(40, 2\) do not fit 39 identities"),
        ({"points": {}}, "There are no points"),
        ({"points": {"t-SNE": {}}}, "There are no points"),
        ({"points": {**some_points(), "PCA": {"ArcFace": np.zeros((40, 2))}}}, "PCA has the runs ArcFace, not"),
        ({"prototypes": {"ArcFace": np.ones((40, 3))}}, "no prototypes of Inter-Prototype"),
        ({"prototypes": some_prototypes(39)}, r"\(39, 7\) do not fit 40 identities"),
        (
            {"prototypes": {run: np.eye(40)[::-1] * (np.arange(40) != 12) for run in RUNS}},
            "prototype 27 has length zero",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    arguments = {"points": some_points(), "identities": identities(), "prototypes": None, **change}
    with pytest.raises(ConfigError, match=match):
        ProjectionExplorer(arguments["points"], arguments["identities"], prototypes=arguments["prototypes"])
