"""What fails where nobody would be told: in threads and in answers to the page. Each failure is made and read there."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import torch
from explored_runs import manifest_of, write_run

from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer import SimilarityExplorer, open_explored
from interproto_lib.views.explorer import cell_pane as panes
from interproto_lib.views.explorer import confused_pane as pairs
from interproto_lib.views.explorer import matrix_orders as orders
from interproto_lib.views.explorer.failures import failure_words
from interproto_lib.views.explorer.matrix_side import Side
from interproto_lib.views.explorer.ordered_matrix import OrderedMatrix
from interproto_lib.views.explorer.similarity_map import SimilarityMap
from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix
from interproto_lib.views.style import sentence_figure

NO_MEMORY = "there is not enough memory"


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    manifest = manifest_of({f"id{k:02d}": [4.0 + k, 9.0, 30.0 + k] if k < 5 else [30.0, 40.0] for k in range(12)})
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    return open_explored(write_run(folder, "arcface-s0", manifest), write_run(folder, "interproto-s0", manifest))


def fail(problem: BaseException):
    def failing(*_, **__):
        raise problem

    return failing


def wait_until(is_so, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


def test_problems_are_said_in_words():
    assert NO_MEMORY in failure_words(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert NO_MEMORY in failure_words(caught.value)
    assert failure_words(ConfigError("Choose another.")) == "Choose another."
    assert failure_words(KeyError("x")) == "KeyError: 'x'."
    assert failure_words(ZeroDivisionError()) == "ZeroDivisionError."


@pytest.fixture
def shown(monkeypatch):
    """A map of a matrix whose maxima are always computed in the thread, and what it sends."""
    monkeypatch.setattr("interproto_lib.views.explorer.tiles._MOST_CELLS_AT_ONCE", 0)
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    matrices = LinkedMatrices([TermMatrix(terms=(MatrixTerm(rows=rows, columns=rows[:30]),))])
    sides = Side(names=[f"r{k}" for k in range(40)]), Side(names=[f"c{k}" for k in range(30)])
    view = SimilarityMap(matrices, ["run"], *sides, pooling="max", draw_figure=lambda: sentence_figure("drawn"))
    view.sent = []
    view.send = lambda message, buffers=None: view.sent.append(message)
    return view


def ask_for_tiles(view) -> dict:
    question = {"type": "tiles", "rows": [0, 40], "columns": [0, 30], "size": [5, 5], "number": 3, "revision": 1}
    view._answer(view, question, [])
    return view.sent[-1]


def test_maxima_that_fail_are_said_and_means_are_shown(shown, monkeypatch):
    compute = OrderedMatrix.maxima
    calls = []

    def failing(*arguments):
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(OrderedMatrix, "maxima", failing)
    assert ask_for_tiles(shown)["pooling"] == "mean"
    wait_until(lambda: shown.problem)
    assert NO_MEMORY in shown.problem
    assert "Means are shown instead" in shown.problem
    assert shown.progress == -1.0
    assert ask_for_tiles(shown)["pooling"] == "mean"  # and not tried again with each tile
    assert len(calls) == 1
    with pytest.raises(ConfigError, match=f"cannot be computed: {NO_MEMORY}"):
        shown._matrices.wait_for_maxima(5)
    monkeypatch.setattr(OrderedMatrix, "maxima", compute)
    shown.pooling = "mean"
    assert shown.problem == ""  # it is no longer asked for
    shown.pooling = "max"
    ask_for_tiles(shown)
    assert shown._matrices.wait_for_maxima(20)
    assert ask_for_tiles(shown)["pooling"] == "max"
    assert shown.problem == ""


def test_maxima_fail_again_in_another_order_and_it_is_said_again(shown, monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.block_maxima.torch.empty", fail(MemoryError()))
    ask_for_tiles(shown)
    wait_until(lambda: shown.problem)
    shown.reorder(np.arange(40)[::-1], np.arange(30)[::-1])
    assert shown.problem == ""
    ask_for_tiles(shown)
    wait_until(lambda: shown.problem)


def test_a_static_figure_of_maxima_that_fail_is_refused(explored, monkeypatch):
    explorer = SimilarityExplorer(explored, cohort="all")
    monkeypatch.setattr("interproto_lib.views.explorer.tiles._MOST_CELLS_AT_ONCE", 0)
    monkeypatch.setattr("interproto_lib.views.explorer.similarity_explorer.FIGURE_PIXELS", 3)
    explorer.controls["pooling"].value = "max"
    explorer.figure()
    explorer.map.reorder(np.arange(12)[::-1])
    monkeypatch.setattr(OrderedMatrix, "maxima", fail(MemoryError()))
    with pytest.raises(ConfigError, match=NO_MEMORY):
        explorer.figure()


@pytest.mark.parametrize(("problem", "words"), [(ConfigError("no place"), "no place"), (MemoryError(), NO_MEMORY)])
@pytest.mark.parametrize("kind", ["tiles", "description", "figure"])
def test_an_answer_that_fails_is_said_under_its_kind(shown, monkeypatch, kind, problem, words):
    def ask():
        if kind == "tiles":
            ask_for_tiles(shown)
        elif kind == "description":
            shown._answer(shown, {"type": "describe", "row": 1, "column": 2, "number": 3}, [])
        else:
            shown._answer(shown, {"type": "save_figure", "format": "png"}, [])

    if kind == "figure":
        shown.draw_figure = fail(problem)
    else:
        monkeypatch.setattr(shown._matrices, "tile" if kind == "tiles" else "values", fail(problem))
    if isinstance(problem, ConfigError):
        ask()
    else:
        with pytest.raises(MemoryError):  # for the log of the kernel
            ask()
    said = shown.sent[-1]
    assert (said["type"], said["about"]) == ("problem", kind)
    assert words in said["text"]
    assert said.get("number") == (None if kind == "figure" else 3)


def test_an_order_that_fails_is_said_and_the_old_one_stands(explored, monkeypatch):
    monkeypatch.setattr(orders, "_CLUSTERED_AT_ONCE", 1)
    explorer = SimilarityExplorer(explored)
    explorer.controls["order"].value = "age"
    before = explorer._linked.row_order.tolist()
    with monkeypatch.context() as patched:
        patched.setattr(orders, "order_sides", fail(MemoryError()))
        explorer.controls["order"].value = "cluster"
        wait_until(lambda: "cannot be brought together" in explorer._said.value)
    assert NO_MEMORY in explorer._said.value
    assert explorer.controls["order"].value == "age"
    assert explorer._linked.row_order.tolist() == before
    explorer.controls["order"].value = "cluster"  # and may be tried again
    wait_until(lambda: explorer._standing == "cluster")
    assert explorer._said.value == ""


def test_confused_pairs_that_cannot_be_found_are_said(explored, monkeypatch):
    explorer = SimilarityExplorer(explored)
    assert len(explorer.confused_pairs()) == 10
    with monkeypatch.context() as patched:
        patched.setattr(pairs, "most_confused_cells", fail(MemoryError()))
        explorer.confused.find(asked=True)
        wait_until(lambda: explorer.confused.table.problem)
    assert NO_MEMORY in explorer.confused.table.problem
    assert explorer.confused_pairs().empty
    assert explorer.confused.table.rows == []  # those of before are not left to be taken for the new ones
    explorer.confused.find(asked=True)
    wait_until(lambda: len(explorer.confused.table.rows) == 10)
    assert explorer.confused.table.problem == ""


def test_an_unexpected_fault_of_an_input_is_said_and_raised(explored, monkeypatch):
    explorer = SimilarityExplorer(explored)
    monkeypatch.setattr(explorer, "_go_to", fail(ZeroDivisionError("by zero")))
    do = explorer._guarded(explorer._go_to)
    with pytest.raises(ZeroDivisionError):
        do(None)
    assert "ZeroDivisionError: by zero." in explorer._said.value


# --- drawing of a chosen cell ---------------------------------------------------------------------


def test_in_a_notebook_only_the_cell_chosen_last_is_drawn(explored, monkeypatch):
    drawn = []
    draw = panes.cell_figure
    monkeypatch.setattr(panes, "cell_figure", lambda *a, **k: drawn.append(a[1].column) or draw(*a, **k))
    monkeypatch.setattr(panes, "_kernel_loop", asyncio.get_running_loop)
    pane = panes.CellPane(explored)

    async def choose_quickly():
        for column in (1, 2, 3):
            pane.show(0, column, cohort="all")
            assert "Drawing …</p>" in pane.widget.value
            assert 'class="ip-said"' in pane.widget.value  # the words are there at once
        await asyncio.sleep(0.5)
        assert drawn == [3]
        assert 'class="ip-reason" alt="Image pairs of id00 and id03' in pane.widget.value
        pane.show(0, 4, cohort="all")
        pane.clear()
        await asyncio.sleep(0.2)

    asyncio.run(choose_quickly())
    assert drawn == [3]
    assert "Choose a cell" in pane.widget.value


def test_a_figure_that_cannot_be_drawn_is_said(explored, monkeypatch):
    monkeypatch.setattr(panes, "cell_figure", fail(MemoryError()))
    monkeypatch.setattr(panes, "_kernel_loop", asyncio.get_running_loop)
    pane = panes.CellPane(explored)

    async def choose():
        pane.show(0, 1, cohort="all")
        await asyncio.sleep(0.2)

    asyncio.run(choose())
    assert f"The figure cannot be drawn: {NO_MEMORY}" in pane.widget.value
    assert 'class="ip-said"' in pane.widget.value


def test_panels_stand_where_the_layout_places_them(explored, monkeypatch):
    drawn = []
    draw = panes.cell_figure
    monkeypatch.setattr(panes, "cell_figure", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    pane = panes.CellPane(explored, points=[np.random.default_rng(k).normal(size=(12, 2)) for k in (0, 1)])
    for column in (1, 2, 3):
        pane.show(0, column, cohort="all")
    spaced = draw(explored, pane.reason, points=pane.points)
    spaced.draw_without_rendering()
    for axes, expected in zip(drawn[-1].axes, spaced.axes, strict=True):
        np.testing.assert_allclose(axes.get_position().bounds, expected.get_position().bounds, atol=0.02)
