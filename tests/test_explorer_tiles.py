"""Tiles of linked matrices against matrices built cell by cell, with rows and columns of unlike number and meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.tiles import LinkedMatrices, MatrixTerm, TermMatrix


def table(n, d, seed, missing=()):
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[list(missing)] = np.nan
    return rows


def cells(matrix, own_columns):
    """Every cell in float64, term by term and pair by pair; own cells apart: True where no block counts them."""
    n, m = len(matrix.terms[0].rows), len(matrix.terms[0].columns)
    values = np.zeros((n, m))
    for term in matrix.terms:
        rows, columns = term.rows.astype(np.float64), term.columns.astype(np.float64)
        for i in range(n):
            for j in range(m):
                values[i, j] += term.weight * (rows[i] @ columns[j])
    own = np.zeros((n, m), dtype=bool)
    if matrix.own_values is not None:
        for i, j in enumerate(own_columns):
            if j >= 0:
                own[i, j] = True
                values[i, j] = matrix.own_values[i]
    return values, own


def blocks(values, own, order, rows, columns, sizes, pooling):
    """Pool cell by cell what stands at places rows x columns in blocks of the sizes."""
    row_order, column_order = order
    shown = values[np.ix_(row_order, column_order)]
    left_out = own[np.ix_(row_order, column_order)]
    result = np.full(((rows[1] - rows[0]) // sizes[0], (columns[1] - columns[0]) // sizes[1]), np.nan)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            part = (
                slice(rows[0] + i * sizes[0], rows[0] + (i + 1) * sizes[0]),
                slice(columns[0] + j * sizes[1], columns[0] + (j + 1) * sizes[1]),
            )
            some = shown[part].ravel()
            if sizes != (1, 1):
                some = some[~left_out[part].ravel()]
            some = some[~np.isnan(some)]
            if len(some):
                result[i, j] = some.max() if pooling == "max" else math.fsum(some) / len(some)
    return result


def two_runs(n=37, m=23, d=6, own=True):
    """Run a, run b and their difference: rows and columns of different number, other rows missing in each run."""
    a = MatrixTerm(rows=table(n, d, 1, missing=(3, 20)), columns=table(m, d, 2, missing=(5,)))
    b = MatrixTerm(rows=table(n, d, 3, missing=(3, 21)), columns=table(m, d, 4, missing=(0, 5)))
    minus_b = MatrixTerm(rows=b.rows, columns=b.columns, weight=-1.0)
    own_values = np.random.default_rng(5).uniform(2, 3, n).astype(np.float32) if own else None
    matrices = [TermMatrix(terms=terms, own_values=own_values) for terms in ((a,), (b,), (a, minus_b))]
    own_columns = np.full(n, -1)
    own_columns[np.random.default_rng(6).permutation(n)[: m - 4]] = np.arange(m - 4)[::-1]
    return matrices, own_columns


VIEWS = [
    ((0, 37), (0, 23), (40, 40)),
    ((0, 37), (0, 23), (12, 12)),
    ((0, 37), (0, 23), (3, 12)),
    ((0, 37), (0, 23), (2, 1)),
    ((7.3, 30.9), (2.5, 20.1), (6, 3)),
    ((-50, 90), (-3, 11), (10, 64)),
    ((36.5, 37), (22, 23), (1, 1)),
]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("seed", [None, 1])
def test_tiles_equal_blocks_of_the_whole_matrices(view, pooling, own, seed):
    matrices, own_columns = two_runs(own=own)
    linked = LinkedMatrices(matrices, own_columns=own_columns)
    order = np.arange(37), np.arange(23)
    if seed is not None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(37), rng.permutation(23)
        linked.reorder(*order)
    rows, columns, size = view
    tile = linked.tile(rows, columns, size, pooling=pooling)
    assert tile.pooling == pooling
    assert tile.rows[0] <= max(0, rows[0]) < tile.rows[0] + tile.row_block
    assert tile.columns[1] - tile.column_block < min(23, columns[1]) <= tile.columns[1]
    assert tile.values.shape[1] <= size[0] + 1
    assert tile.values.shape[2] <= size[1] + 1
    assert tile.values.dtype == np.float32
    for shown, matrix in zip(tile.values, matrices, strict=True):
        expected = blocks(
            *cells(matrix, own_columns), order, tile.rows, tile.columns, (tile.row_block, tile.column_block), pooling
        )
        np.testing.assert_allclose(shown, expected, atol=2e-6)


def test_maxima_computed_beforehand_equal_blocks(monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.tiles._MOST_CELLS_AT_ONCE", 0)
    monkeypatch.setattr("interproto_lib.views.explorer.block_maxima._CELLS_AT_ONCE", 100)
    matrices, own_columns = two_runs(n=61, m=35)
    linked = LinkedMatrices(matrices, own_columns=own_columns)
    rng = np.random.default_rng(8)
    for _ in range(2):
        order = rng.permutation(61), rng.permutation(35)
        linked.reorder(*order)
        assert linked.tile((0, 61), (0, 35), (9, 9), pooling="max").pooling == "mean"
        assert linked.needs_maxima((0, 61), (0, 35), (9, 9))
        reports = []
        assert linked.start_maxima(lambda done, of, reports=reports: reports.append((done, of)))
        assert not linked.start_maxima()
        assert linked.wait_for_maxima(20)
        assert reports[-1][0] == reports[-1][1] == len(reports) - 1
        for rows, columns, size in [
            ((0, 61), (0, 35), (9, 9)),
            ((9, 50), (3, 30), (2, 6)),
            ((0, 61), (0, 35), (50, 30)),
        ]:
            assert not linked.needs_maxima(rows, columns, size)
            tile = linked.tile(rows, columns, size, pooling="max")
            assert tile.pooling == "max"
            assert tile.row_block >= 4
            for shown, matrix in zip(tile.values, matrices, strict=True):
                sizes = tile.row_block, tile.column_block
                expected = blocks(*cells(matrix, own_columns), order, tile.rows, tile.columns, sizes, "max")
                np.testing.assert_allclose(shown, expected, atol=2e-6)


def test_symmetric_maxima_are_mirrored_rightly(monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.tiles._MOST_CELLS_AT_ONCE", 0)
    monkeypatch.setattr("interproto_lib.views.explorer.block_maxima._CELLS_AT_ONCE", 64)
    vectors = table(45, 5, 3, missing=(7, 8, 9, 10, 11))
    matrix = TermMatrix(terms=(MatrixTerm(rows=vectors, columns=vectors),), own_values=np.full(45, np.nan))
    linked = LinkedMatrices([matrix])
    order = np.random.default_rng(2).permutation(45)
    linked.reorder(order)
    linked.start_maxima()
    assert linked.wait_for_maxima(20)
    tile = linked.tile((0, 45), (0, 45), (12, 12), pooling="max")
    expected = blocks(*cells(matrix, np.arange(45)), (order, order), tile.rows, tile.columns, (4, 4), "max")
    np.testing.assert_allclose(tile.values[0], expected, atol=1e-6)


def test_maxima_of_an_order_are_kept_while_another_stands(monkeypatch):
    monkeypatch.setattr("interproto_lib.views.explorer.tiles._MOST_CELLS_AT_ONCE", 0)
    matrices, own_columns = two_runs()
    linked = LinkedMatrices(matrices, own_columns=own_columns)
    linked.start_maxima()
    assert linked.wait_for_maxima(20)
    before = linked.tile((0, 37), (0, 23), (5, 5), pooling="max").values
    linked.reorder(np.arange(37)[::-1], np.arange(23)[::-1])
    assert linked.tile((0, 37), (0, 23), (5, 5), pooling="max").pooling == "mean"
    linked.reorder(np.arange(37), np.arange(23))
    np.testing.assert_array_equal(linked.tile((0, 37), (0, 23), (5, 5), pooling="max").values, before)


def test_single_cells_are_told_by_row_and_column_whatever_the_order():
    matrices, own_columns = two_runs()
    linked = LinkedMatrices(matrices, own_columns=own_columns)
    expected = np.stack([cells(matrix, own_columns)[0] for matrix in matrices])
    linked.reorder(np.roll(np.arange(37), 3), np.roll(np.arange(23), 5))
    rows, columns = [4, 36, 0], [22, 1]
    np.testing.assert_allclose(linked.values(rows, columns), expected[:, rows][:, :, columns], atol=1e-6)
    np.testing.assert_allclose(linked.values(range(37), range(23)), expected, atol=1e-6)


def test_places_and_orders_are_inverse():
    linked = LinkedMatrices(two_runs()[0])
    rows, columns = np.random.default_rng(0).permutation(37), np.random.default_rng(1).permutation(23)
    linked.reorder(rows, columns)
    assert linked.row_places[rows].tolist() == list(range(37))
    assert linked.column_order[linked.column_places].tolist() == list(range(23))


def test_what_is_kept_beside_the_arrays_is_a_quarter_of_them():
    vectors = table(4000, 32, 0)
    linked = LinkedMatrices([TermMatrix(terms=(MatrixTerm(rows=vectors, columns=vectors),))])
    assert linked.nbytes == 0
    linked.tile((0, 4000), (0, 4000), (10, 10))
    assert vectors.nbytes / 8 < linked.nbytes <= vectors.nbytes / 4 + 10_000


def test_read_only_tables_are_taken():
    vectors = table(6, 3, 0)
    vectors.setflags(write=False)
    linked = LinkedMatrices([TermMatrix(terms=(MatrixTerm(rows=vectors, columns=vectors),))])
    np.testing.assert_allclose(linked.tile((0, 6), (0, 6), (6, 6)).values[0], vectors @ vectors.T, atol=1e-6)


def wrong_uses():
    a, short, wide, double = table(5, 3, 0), table(4, 3, 1), table(5, 4, 2), table(5, 3, 3).astype(np.float64)

    def made(*pairs, own_values=None, **settings):
        terms = [MatrixTerm(rows=rows, columns=columns) for rows, columns in pairs]
        return LinkedMatrices([TermMatrix(terms=(term,), own_values=own_values) for term in terms], **settings)

    return {
        "at least one matrix": lambda: LinkedMatrices([]),
        "at least one term": lambda: LinkedMatrices([TermMatrix(terms=())]),
        "one shape": lambda: made((a, a), (a, short)),
        "rows have 3 dimensions, columns 4": lambda: made((a, wide)),
        "float32": lambda: made((double, a)),
        "nothing to show": lambda: made((a[:0], a)),
        "own_values have shape": lambda: made((a, short), own_values=np.zeros(4)),
        "must name one of 4 columns": lambda: made((a, short), own_columns=[0, 1, 2, 3, 4]),
        "column 2 for two rows": lambda: made((a, short), own_columns=[0, 2, 2, 3, -1]),
        "order of the rows": lambda: made((a, short)).reorder([0, 1, 2, 3, 3], range(4)),
        "order of the columns": lambda: made((a, short)).reorder(range(5)),
        "hold none of the matrix's 4 columns": lambda: made((a, short)).tile((0, 5), (4, 5), (2, 2)),
        "hold none of the matrix's 5 rows": lambda: made((a, short)).tile((3, 3), (0, 4), (2, 2)),
        "shows nothing": lambda: made((a, short)).tile((0, 5), (0, 4), (2, 0)),
        "pooling 'sum'": lambda: made((a, short)).tile((0, 5), (0, 4), (2, 2), pooling="sum"),
    }


@pytest.mark.parametrize("words", wrong_uses())
def test_wrong_arguments_are_refused(words):
    with pytest.raises(ConfigError, match=words):
        wrong_uses()[words]()
