"""Similarity matrices for a page without a kernel: their values, two bytes a cell, and the orders to stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.similarity import COHORTS, SimilarityMatrix
from interproto_lib.errors import ConfigError
from interproto_lib.runs import RunFolder
from interproto_lib.views.explorer.cohort_matrices import QUANTITIES, term_matrix
from interproto_lib.views.explorer.explored import ExploredRuns, open_explored
from interproto_lib.views.explorer.live_view import read_script
from interproto_lib.views.explorer.matrix_colours import palette_bytes
from interproto_lib.views.explorer.orders import ORDERS, cluster_order, name_order, value_order
from interproto_lib.views.explorer.tiles import LinkedMatrices
from interproto_lib.views.report.embedded import EmbeddedView
from interproto_lib.views.similarity import similarity_figure
from interproto_lib.views.style import LabelledFigure
from interproto_lib.views.wording import cohort_words, listed

MATRICES = "matrices"
"""Anchor of the matrices in a report."""

_STEPS = 32_767
_MISSING = -32_768
_MOST = 1000  # identities a side; a matrix of 1,000 takes 1.3 MB in the page

Positions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportMatrices:
    """The matrices of some identities in some runs.

    Attributes:
        identities: n rows: identity, is_child, age_years, n_images and child_share, by the first run.
        sides: Cohort -> rows and columns, positions among the n.
        cells: (quantity, cohort, run) -> (r, c) float32, NaN for a missing value. Prototypes know no images, so
            they are there for the cohort `all` only.
        orders: Name of an order -> (n,) place -> identity.
        runs: Names of the runs.
        n_known: Identities that all runs know; more than n where a sample was taken.
        n_known_child: Child identities among them.
    """

    identities: pd.DataFrame
    sides: Mapping[str, tuple[Positions, Positions]]
    cells: Mapping[tuple[str, str, str], NDArray[np.float32]]
    orders: Mapping[str, Positions]
    runs: tuple[str, ...]
    n_known: int
    n_known_child: int


def report_matrices(runs: Mapping[str, RunFolder], *, n_most: int = 400, seed: int = 0) -> ReportMatrices:
    """Compute the matrices of a report.

    Args:
        runs: What a run is called -> the run, the first of which says who is a child.
        n_most: Identities to show; where the runs know more, half of them are child identities (or all, where there
            are fewer) and the rest others, drawn at random.
        seed: Of the draw.

    Returns:
        The matrices: images of every cohort that has a pair, and prototypes where every run has them.

    Raises:
        ConfigError: `n_most` out of range, or the runs share no two identities.
        RunError: A run has no embeddings.
    """
    if not 2 <= n_most <= _MOST:
        raise ConfigError(f"n_most is {n_most}; the page holds between 2 and {_MOST} identities a side.")
    opened = {name: open_explored(run) for name, run in runs.items()}
    first = next(iter(opened.values()))
    common = pd.Index(first.names)
    for explored in opened.values():
        common = common.intersection(pd.Index(explored.names))
    if len(common) < 2:
        raise ConfigError(f"{listed(list(runs))} share {len(common)} identities; at least two are needed.")
    known = first.identities[first.identities["identity"].isin(common)].reset_index(drop=True)
    chosen = _sample(known["is_child"].to_numpy(dtype=bool), n_most, seed)
    identities = known.iloc[chosen].reset_index(drop=True)
    places = {name: pd.Index(e.names).get_indexer(pd.Index(identities["identity"])) for name, e in opened.items()}
    sides = _sides(first, places[next(iter(opened))])
    return ReportMatrices(
        identities=identities,
        sides=sides,
        cells=_cells(opened, places, sides),
        orders=_orders(identities, first, places[next(iter(opened))]),
        runs=tuple(runs),
        n_known=len(known),
        n_known_child=int(known["is_child"].sum()),
    )


def matrices_view(matrices: ReportMatrices) -> EmbeddedView:
    """Make the view of a page.

    Args:
        matrices: As `report_matrices` gives them.

    Returns:
        The view; the text says who is in it.
    """
    table = matrices.identities
    ages = table["age_years"].to_numpy(dtype=np.float64)
    kinds = np.where(table["is_child"], 1, np.where(np.isnan(ages), 2, 0)).astype(np.uint8)
    answers: dict[str, Any] = {
        "kind": "matrices",
        "runs": list(matrices.runs),
        "names": [str(name) for name in table["identity"]],
        "notes": [_note(age, n) for age, n in zip(ages, table["n_images"], strict=True)],
        "kinds": kinds.tobytes(),
        "cohorts": {cohort: cohort_words(cohort) for cohort in matrices.sides},
        "words": {cohort: [f"identities, {images} images" for images in COHORTS[cohort]] for cohort in matrices.sides},
        "quantities": {q: QUANTITIES[q] for q in dict.fromkeys(q for q, _, _ in matrices.cells)},
        "orders": {name: ORDERS[name] for name in (*matrices.orders, "similarity")},
    }
    for cohort, (rows, columns) in matrices.sides.items():
        answers[f"rows {cohort}"] = rows.astype("<u2").tobytes()
        answers[f"columns {cohort}"] = columns.astype("<u2").tobytes()
    for name, order in matrices.orders.items():
        answers[f"order {name}"] = order.astype("<u2").tobytes()
    for (quantity, cohort, run), values in matrices.cells.items():
        is_symmetric = len(set(COHORTS[cohort])) == 1
        packed = pack_values(values, is_symmetric=is_symmetric)
        answers[f"{quantity} {cohort} {matrices.runs.index(run)}"] = packed
    return EmbeddedView(
        anchor=MATRICES,
        title="The similarity matrix, to walk around in",
        text=describe_matrices(matrices),
        script=read_script("similarity_map.js"),
        state={"palette": palette_bytes(), **_EMPTY_STATE},
        answers=answers,
    )


def report_matrices_figure(matrices: ReportMatrices) -> LabelledFigure:
    """Draw what the view shows first: all images, children first.

    Args:
        matrices: As `report_matrices` gives them.

    Returns:
        One map a run.
    """
    order = matrices.orders["child_share"]
    names = matrices.identities["identity"].to_numpy(dtype=object)[order]
    n_images = matrices.identities["n_images"].to_numpy(dtype=np.int64)[order]
    panels = []
    for run in matrices.runs:
        values = matrices.cells["features", "all", run][np.ix_(order, order)].copy()
        intra = np.diag(values).copy()
        np.fill_diagonal(values, np.nan)
        panels.append(
            SimilarityMatrix(
                values=values,
                row_identities=names,
                column_identities=names,
                cohort="all",
                intra=intra,
                n_row_images=n_images,
                n_column_images=n_images,
            )
        )
    return similarity_figure(panels, matrices.runs, n_columns=3)


def describe_matrices(matrices: ReportMatrices) -> str:
    """Say who is in the matrices, and what can be chosen.

    Args:
        matrices: As `report_matrices` gives them.

    Returns:
        A few sentences.
    """
    n, n_child = len(matrices.identities), int(matrices.identities["is_child"].sum())
    if n == matrices.n_known:
        who = f"All {n:,} identities that the runs know, {n_child:,} of them child identities."
    else:
        who = (
            f"A sample of {n:,} of the {matrices.n_known:,} identities that the runs know, so that the page stays "
            f"small: {n_child:,} of the {matrices.n_known_child:,} child identities and {n - n_child:,} of the others, "
            "drawn at random; children are a larger share here than in the data. Every cell is computed from all "
            "images of its two identities."
        )
    cohorts = listed([cohort_words(cohort) for cohort in matrices.sides])
    runs = listed(list(matrices.runs))
    shown = (
        f"Two of {runs} stand side by side, with their difference" if len(matrices.runs) > 1 else f"The run is {runs}"
    )
    return f"{who} {shown}. To choose from: {cohorts}. Values are exact to the third digit."


def pack_values(values: NDArray[np.floating], *, is_symmetric: bool) -> bytes:
    """Pack a matrix into two bytes a cell.

    Args:
        values: (r, c) in [-1, 1]; what lies beyond by rounding is cut, NaN stays missing.
        is_symmetric: Keep the upper triangle with the diagonal only, row by row.

    Returns:
        Little-endian signed numbers: 32,767 for 1, -32,768 for a missing value.
    """
    finite = np.isfinite(values)
    steps = np.where(finite, np.rint(np.clip(np.where(finite, values, 0), -1, 1) * _STEPS), _MISSING).astype("<i2")
    return (steps[np.triu_indices(len(steps))] if is_symmetric else steps).tobytes()


_EMPTY_STATE: dict[str, Any] = {
    "titles": [],
    "n_rows": 1,
    "n_columns": 1,
    "row_words": "",
    "column_words": "",
    "limits": [],
    "view": {},
    "cell": [],
    "pooling": "mean",
    "revision": 0,
    "matrices_revision": 0,
    "progress": -1,
    "has_figure": False,
    "row_kinds": b"",
    "column_kinds": b"",
    "row_marks": b"",
    "column_marks": b"",
    "code": "",
}
"""What the model of the widget holds before the page has chosen matrices."""


def _sample(is_child: NDArray[np.bool_], n_most: int, seed: int) -> Positions:
    n = len(is_child)
    if n <= n_most:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    children, others = rng.permutation(np.flatnonzero(is_child)), rng.permutation(np.flatnonzero(~is_child))
    n_child = min(len(children), max(n_most // 2, n_most - len(others)))
    return np.sort(np.concatenate([children[:n_child], others[: n_most - n_child]]))


def _sides(first: ExploredRuns, places: Positions) -> dict[str, tuple[Positions, Positions]]:
    """Rows and columns of each cohort that has a pair, as positions among the identities shown."""
    sides = {}
    for cohort in reversed(COHORTS):
        rows, columns = (np.flatnonzero(np.isin(places, side)) for side in first.sides(cohort))
        if min(len(rows), len(columns)) >= 1 and len(np.union1d(rows, columns)) >= 2:
            sides[cohort] = (rows, columns)
    return sides


def _cells(
    opened: Mapping[str, ExploredRuns],
    places: Mapping[str, Positions],
    sides: Mapping[str, tuple[Positions, Positions]],
) -> dict[tuple[str, str, str], NDArray[np.float32]]:
    wanted = [("features", cohort) for cohort in sides]
    if all(explored.runs[0].prototypes is not None for explored in opened.values()):
        wanted.append(("prototypes", "all"))
    cells = {}
    for quantity, cohort in wanted:
        rows, columns = sides[cohort]
        own = np.full(len(places[next(iter(places))]), -1, dtype=np.int64)
        own[columns] = np.arange(len(columns))
        for name, explored in opened.items():
            of_run = places[name]
            matrix = term_matrix(explored.runs[0], of_run[rows], of_run[columns], cohort, quantity)
            linked = LinkedMatrices([matrix], own_columns=own[rows])
            cells[quantity, cohort, name] = linked.values(np.arange(len(rows)), np.arange(len(columns)))[0]
    return cells


def _orders(identities: pd.DataFrame, first: ExploredRuns, places: Positions) -> dict[str, Positions]:
    return {
        "child_share": value_order(identities["child_share"], descending=True),
        "cluster": cluster_order(first.runs[0].means("all")[places]),
        "age": value_order(identities["age_years"]),
        "identity": name_order(identities["identity"].to_numpy(dtype=object)),
    }


def _note(age_years: float, n_images: int) -> str:
    images = f"{n_images:,} image{'' if n_images == 1 else 's'}"
    return images if np.isnan(age_years) else f"mean age {age_years:.1f} years, {images}"
