"""The kernel's side of the similarity map, driven by the messages and traits that the page sends, without a browser."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import traitlets

from interproto_lib.errors import ConfigError
from interproto_lib.views import similarity_colours, symmetric_limit
from interproto_lib.views.explorer.matrix_colours import palette_bytes, sampled_limit, value_codes
from interproto_lib.views.explorer.similarity_map import Side, SimilarityMap
from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix

N, M = 31, 19  # rows and columns of unlike number, so that none is taken for the other


def table(n, seed, missing=()):
    rows = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[list(missing)] = np.nan
    return rows


ROWS, COLUMNS = table(N, 1, missing=(4,)), table(M, 2, missing=(0, 7))
OTHER_ROWS, OTHER_COLUMNS = table(N, 3), table(M, 4)
EXPECTED = np.stack([ROWS @ COLUMNS.T, OTHER_ROWS @ OTHER_COLUMNS.T, ROWS @ COLUMNS.T - OTHER_ROWS @ OTHER_COLUMNS.T])


def linked():
    a = MatrixTerm(rows=ROWS, columns=COLUMNS)
    b = MatrixTerm(rows=OTHER_ROWS, columns=OTHER_COLUMNS)
    minus_b = MatrixTerm(rows=OTHER_ROWS, columns=OTHER_COLUMNS, weight=-1.0)
    return LinkedMatrices([TermMatrix(terms=terms) for terms in ((a,), (b,), (a, minus_b))])


def sides():
    rows = Side(
        names=[f"r{i:02d}" for i in range(N)],
        notes=[f"age {i}" for i in range(N)],
        kinds=(np.arange(N) % 3).astype(np.uint8),
        words="identities, child images",
    )
    return rows, Side(names=[f"c{i:02d}" for i in range(M)])


@pytest.fixture
def shown():
    widget = SimilarityMap(linked(), ["a", "b", "a - b"], *sides(), limit=0.5)
    widget.sent = []
    widget.send = lambda message, buffers=None: widget.sent.append((json.loads(json.dumps(message)), buffers))
    return widget


def ask(widget, **message):
    """What the page would hear."""
    widget.sent.clear()
    widget._handle_custom_msg(message, [])
    return widget.sent


def pictures(widget, **changes):
    asked = {
        "type": "tiles",
        "number": 5,
        "revision": widget.revision,
        "rows": [0, N],
        "columns": [0, M],
        "size": [64, 64],
    }
    ((message, buffers),) = ask(widget, **{**asked, **changes})
    return message, np.stack([np.frombuffer(b, np.uint8).reshape(message["shape"]) for b in buffers])


def codes_by_hand(values, limit):
    codes = np.zeros(values.shape, dtype=int)
    for place, value in np.ndenumerate(values):
        if not np.isnan(value):
            codes[place] = round(max(-1.0, min(1.0, float(value) / limit)) * 127) + 128
    return codes


def test_tiles_hold_the_codes_of_the_cells_in_their_order(shown):
    rows, columns = np.random.default_rng(0).permutation(N), np.random.default_rng(1).permutation(M)
    shown.reorder(rows, columns)
    message, codes = pictures(shown, rows=[3, 20.5], columns=[1.2, 9])
    assert (message["type"], message["number"], message["revision"]) == ("tiles", 5, shown.revision)
    assert (message["rows"], message["columns"], message["shape"]) == ([3, 21], [1, 9], [18, 8])
    assert (message["blocks"], message["pooling"]) == ([1, 1], "mean")
    expected = EXPECTED[:, rows][:, :, columns][:, 3:21, 1:9]
    assert np.abs(codes.astype(int) - codes_by_hand(expected, 0.5)).max() <= 1
    assert np.array_equal(codes == 0, np.isnan(expected))


def test_maxima_are_sent_where_asked_for(shown):
    shown.pooling = "max"
    message, codes = pictures(shown, size=[16, 40])
    assert (message["pooling"], message["blocks"], message["shape"]) == ("max", [2, 1], [16, 19])
    pairs = np.concatenate([EXPECTED, np.full((3, 1, M), np.nan)], axis=1).reshape(3, 16, 2, M)
    highest = np.fmax(pairs[:, :, 0], pairs[:, :, 1])
    assert np.abs(codes.astype(int) - codes_by_hand(highest, 0.5)).max() <= 1


def test_maxima_that_take_long_are_computed_behind_means_and_then_drawn(shown, monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.tiles._MOST_CELLS_AT_ONCE", 0)
    shown.pooling = "max"
    before = shown.revision
    assert pictures(shown, size=[8, 8])[0]["pooling"] == "mean"
    assert shown._matrices.wait_for_maxima(20)
    until = time.monotonic() + 5
    while shown.revision == before and time.monotonic() < until:
        time.sleep(0.01)
    assert shown.revision == before + 1
    assert shown.progress == -1
    message, codes = pictures(shown, size=[8, 8])
    assert (message["pooling"], message["blocks"]) == ("max", [4, 4])
    corner = np.nanmax(EXPECTED[:, :4, :4], axis=(1, 2))
    np.testing.assert_array_equal(codes[:, 0, 0], value_codes(corner, 0.5))


def test_a_cell_is_told_by_the_names_at_its_places(shown):
    rows, columns = np.roll(np.arange(N), 5), np.roll(np.arange(M), 3)
    shown.reorder(rows, columns)
    ((message, _),) = ask(shown, type="describe", number=9, row=6, column=4)
    assert (message["row_text"], message["column_text"], message["number"]) == ("r01 (age 1)", "c01", 9)
    assert message["values"] == pytest.approx(EXPECTED[:, 1, 1], abs=1e-6)
    ((message, _),) = ask(shown, type="describe", number=10, row=9, column=2)
    assert message["row_text"] == "r04 (age 4)"
    assert message["values"][0] is None
    assert message["values"][2] is None


def test_the_chosen_cell_stays_with_its_identities_in_every_order(shown):
    heard = []
    shown.observe(lambda change: heard.append(change["new"]), "chosen")
    shown.cell = [30, 2]  # as the page sets it
    assert shown.chosen == (30, 2)
    shown.reorder(np.arange(N)[::-1], np.roll(np.arange(M), 1))
    assert shown.chosen == (30, 2)
    assert shown.cell == [0, 3]
    shown.cell = [2, 0]
    assert shown.chosen == (28, 18)
    shown.chosen = (0, 18)
    assert shown.cell == [30, 0]
    shown.cell = []
    assert shown.chosen == ()
    assert heard == [(30, 2), (28, 18), (0, 18), ()]


def test_going_to_a_cell_shows_its_surroundings(shown):
    shown.reorder(np.arange(N)[::-1], np.arange(M)[::-1])
    shown.go_to(10, 18, n_places=8)
    assert shown.chosen == (10, 18)
    assert shown.cell == [20, 0]
    assert shown.view == {"rows": [16.0, 24.0], "columns": [0.0, 8.0]}
    shown.go_to(0, 0, n_places=1000)
    assert shown.view == {"rows": [0.0, float(N)], "columns": [0.0, float(M)]}


def test_marks_and_kinds_follow_the_order(shown):
    shown.mark([2, 30, 2], [5])
    assert np.frombuffer(shown.row_marks, "<u4").tolist() == [2, 30]
    order = np.random.default_rng(3).permutation(N)
    shown.reorder(order, np.roll(np.arange(M), -5))
    assert sorted(order[np.frombuffer(shown.row_marks, "<u4")].tolist()) == [2, 30]
    assert np.frombuffer(shown.column_marks, "<u4").tolist() == [0]
    assert np.frombuffer(shown.row_kinds, np.uint8).tolist() == [int(i) % 3 for i in order]
    assert shown.column_kinds == b""
    shown.mark([], [])
    assert shown.row_marks == shown.column_marks == b""


def test_pictures_are_asked_for_anew_when_they_are_out_of_date(shown):
    for change in (
        lambda: shown.reorder(np.arange(N)[::-1], np.arange(M)),
        lambda: setattr(shown, "pooling", "max"),
        lambda: shown.set_limit([0.1, 0.2, 0.3]),
    ):
        before = shown.revision
        change()
        assert shown.revision > before
    before = shown.revision
    shown.mark([1], [1])
    shown.chosen = (1, 1)
    shown.view = {"rows": [0, 2], "columns": [0, 2]}
    assert shown.revision == before


def test_each_matrix_can_have_its_own_limit(shown):
    shown.set_limit([0.5, 0.25, 1.0])
    _, codes = pictures(shown)
    for code, values, limit in zip(codes, EXPECTED, (0.5, 0.25, 1.0), strict=True):
        assert np.abs(code.astype(int) - codes_by_hand(values, limit)).max() <= 1


def test_state_goes_over_to_a_new_widget_by_name(shown):
    shown.reorder(np.arange(N)[::-1], np.arange(M))
    shown.go_to(7, 3, n_places=6)
    shown.pooling = "max"
    state = json.loads(json.dumps(shown.state()))
    again = SimilarityMap(linked(), ["a", "b", "a - b"], *sides(), state=state)
    assert (again.chosen, again.pooling, again.view) == ((7, 3), "max", shown.view)
    assert again.cell == [7, 3]
    less = Side(names=[f"r{i:02d}" for i in range(8, 8 + M)])
    square = MatrixTerm(rows=COLUMNS, columns=COLUMNS)
    matrices = LinkedMatrices([TermMatrix(terms=(square,))])
    assert SimilarityMap(matrices, ["x"], less, state=state).chosen == ()


def test_other_matrices_keep_the_chosen_identities_and_drop_what_does_not_fit(shown):
    shown.chosen = (20, 6)
    shown.mark([1], [2])
    shown.view = {"rows": [4, 9], "columns": [4, 9]}
    before = shown.matrices_revision
    rows, columns = sides()
    rows = Side(names=rows.names[10:])
    term = MatrixTerm(rows=np.ascontiguousarray(ROWS[10:]), columns=COLUMNS)
    shown.show(LinkedMatrices([TermMatrix(terms=(term,))]), ["one"], rows, columns, limit=0.3)
    assert (shown.titles, shown.n_rows, shown.n_columns, shown.limits) == (["one"], N - 10, M, [0.3])
    assert (shown.chosen, shown.cell, shown.view) == ((10, 6), [10, 6], {})
    assert shown.row_marks == shown.row_kinds == b""
    assert shown.matrices_revision == before + 1
    _, codes = pictures(shown, rows=[0, N - 10])
    assert np.abs(codes.astype(int) - codes_by_hand(EXPECTED[:1, 10:], 0.3)).max() <= 1


def test_what_is_wrong_is_said_on_the_page(shown):
    ((message, _),) = ask(shown, type="tiles", number=3, revision=1, rows=[50, 60], columns=[0, 3], size=[8, 8])
    assert (message["type"], message["number"]) == ("problem", 3)
    assert "rows" in message["text"]
    ((message, _),) = ask(shown, type="describe", number=4, row=M, column=M)
    assert (message["type"], message["number"]) == ("problem", 4)
    assert f"{N} x {M}" in message["text"]
    assert ask(shown, type="ping") == [({"type": "pong"}, None)]


def test_wrong_arguments_are_refused(shown):
    rows, columns = sides()
    for call, words in (
        (lambda: SimilarityMap(linked(), ["a"], rows, columns), "titles"),
        (lambda: SimilarityMap(linked(), ["a", "b", "c"], rows), "19 columns"),
        (lambda: SimilarityMap(linked(), ["a", "b", "c"], Side(names=rows.names, notes=["x"]), columns), "31 rows"),
        (lambda: shown.mark([31], []), "row 31 of 31"),
        (lambda: shown.mark([0], [-1]), "column -1 of 19"),
        (lambda: shown.mark([0, 20]), "column 20 of 19"),
        (lambda: shown.go_to(3, 19), "no cell"),
        (lambda: shown.set_limit(0), "above 0"),
        (lambda: setattr(shown, "chosen", (19, 31)), "no cell"),
        (lambda: setattr(shown, "chosen", (1, 2, 3)), "row and a column"),
        (lambda: shown.reorder(np.arange(N)), "order of the columns"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
    with pytest.raises(traitlets.TraitError):
        shown.pooling = "sum"


def test_codes_and_colours_fit_the_static_figures():
    palette = np.frombuffer(palette_bytes(), np.uint8).reshape(256, 3)
    static = similarity_colours()
    for value in np.linspace(-0.5, 0.5, 301):
        code = int(value_codes(np.array([value]), 0.4)[0])
        np.testing.assert_allclose(palette[code], 255 * np.array(static((value / 0.4 + 1) / 2)[:3]), atol=5)
    np.testing.assert_allclose(palette[0], 255 * np.array(static.get_bad()[:3]), atol=0.5)
    middle = palette[int(value_codes(np.zeros(1), 0.4)[0])]
    assert middle.min() > 240
    blue, red = palette[1], palette[255]
    assert blue[2] > blue[0]
    assert red[0] > red[2]


def test_the_limit_is_chosen_without_own_cells():
    vectors = table(50, 8)
    own = np.full(50, 40.0, dtype=np.float32)
    term = MatrixTerm(rows=vectors, columns=vectors)
    cells = vectors @ vectors.T
    expected = symmetric_limit([cells[~np.eye(50, dtype=bool)]])
    assert sampled_limit(LinkedMatrices([TermMatrix(terms=(term,), own_values=own)])) == pytest.approx(expected)
