"""The similarity explorer without a browser: what its inputs do, what it remembers, and notebook 08 by papermill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from explored_runs import manifest_of, train_experiment, write_run

from interproto_lib.analysis import ProjectionQuality
from interproto_lib.errors import ConfigError
from interproto_lib.html import export_html
from interproto_lib.views.explorer import (
    ProjectionExplorer,
    SimilarityExplorer,
    find_confused_pairs,
    open_explored,
    stored_projections,
)
from interproto_lib.views.explorer import confused_pane as panes
from interproto_lib.views.explorer import matrix_orders as orders
from interproto_lib.views.explorer.matrix_orders import order_sides

REPO = Path(__file__).resolve().parents[1]
NOTEBOOK = "08_explore"


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    """Twelve identities, five of them children; `old` has no child image, `young` no adult one."""
    ages = {f"id{k:02d}": [4.0 + k, 9.0, 30.0 + k] if k < 4 else [30.0 + k, 40.0] for k in range(10)}
    manifest = manifest_of({**ages, "young": [3.0, 5.0], "old": [80.0, float("nan")]})
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    return open_explored(write_run(folder, "arcface-s0", manifest), write_run(folder, "interproto-s0", manifest))


@pytest.fixture
def explorer(explored):
    return SimilarityExplorer(explored)


def said(explorer):
    """What the explorer complains of."""
    return explorer._said.value


def test_the_first_cohort_is_shown_with_its_most_confused_pairs(explored, explorer):
    assert explorer.controls["cohort"].value == "child-child"
    assert explorer.map.titles == ["ArcFace", "Inter-Prototype", "Inter-Prototype − ArcFace"]
    assert (explorer.map.n_rows, explorer.map.n_columns) == (5, 5)
    expected = find_confused_pairs(explored, cohort="child-child", top=50)
    assert explorer.confused_pairs().equals(expected)
    assert len(expected) == 10
    assert [row[:2] for row in explorer.confused.table.rows] == expected.iloc[:, :2].to_numpy().tolist()


def test_inputs_change_what_is_shown(explored, explorer):
    explorer.controls["cohort"].value = "child-adult"
    assert (explorer.map.n_rows, explorer.map.n_columns) == (5, 11)
    explorer.controls["quantity"].value = "difference"
    explorer.controls["order"].value = "age"
    matrices = explored.matrices("child-adult", "difference")
    rows, columns = order_sides(explored, matrices, "age")
    explorer.controls["row"].value, explorer.controls["column"].value = 1, 3
    explorer._choose_cell.click()
    names = explored.names[matrices.rows[rows[1]]], explored.names[matrices.columns[columns[3]]]
    assert explorer.chosen == names
    assert explorer.pane.reason.cohort == "child-adult"
    assert explorer.pane.reason.pairs[0].cosines.size > 0
    assert explorer.controls["row"].value == 1
    explorer.controls["limit"].value = 0.4
    assert explorer.map.limits == [0.4] * 3
    explorer.controls["pooling"].value = "max"
    assert explorer.map.pooling == "max"
    figure = explorer.figure()
    assert figure.axes[0].images[0].get_clim() == (-0.4, 0.4)
    for part in ("cohort='child-adult'", "quantity='difference'", "order='age'", "pooling='max'", "limit=0.4"):
        assert part in explorer.map.code
    drawn = {}
    exec(explorer.map.code.replace('save_figure(figure, "figures", "similarity")\n', ""), drawn)
    for axes, expected in zip(drawn["figure"].axes[:3], figure.axes[:3], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), expected.images[0].get_array())
        assert axes.get_xlim() == expected.get_xlim()


def test_the_chosen_cell_stays_with_its_identities(explored, explorer):
    explorer.choose("id01", "young")
    explorer.controls["order"].value = "cluster"
    assert explorer.chosen == ("id01", "young")
    explorer.controls["quantity"].value = "prototypes"
    assert explorer.chosen == ("id01", "young")
    explorer.controls["cohort"].value = "all"
    assert explorer.chosen == ("id01", "young")
    assert explorer.pane.reason.cohort == "all"
    explorer.controls["cohort"].value = "adult-adult"  # young has no adult image
    assert explorer.chosen is None
    assert explorer.pane.reason is None
    assert said(explorer) == ""


def test_going_to_an_identity_by_name(explored, explorer):
    explorer.controls["identity"].value = "nobody"
    assert "No identity is called" in said(explorer)
    explorer.controls["identity"].value = "id0"
    assert "4 identities fit" in said(explorer)
    explorer.controls["identity"].value = "YOU"
    assert said(explorer) == ""
    assert explorer.chosen[0] == "young"
    explorer.controls["cohort"].value = "child-adult"
    explorer.controls["identity"].value = "old"
    assert explorer.chosen[1] == "old"


def test_ordering_by_similarity_needs_somebody(explored, explorer):
    explorer.controls["order"].value = "similarity"
    assert "choose a cell or go to an identity" in said(explorer)
    explorer.choose("id02", "id00")
    explorer.controls["order"].value = "identity"
    explorer.controls["order"].value = "similarity"
    assert said(explorer) == ""
    matrices = explored.matrices("child-child")
    rows, _ = order_sides(explored, matrices, "similarity", identity="id02")
    assert explorer.controls["row"].value == list(explored.names[matrices.rows[rows]]).index("id02") == 0
    explorer.controls["identity"].value = "id03"
    assert explorer.controls["row"].value == 0
    assert explorer.chosen[0] == "id03"
    assert "identity='id03'" in explorer.map.code


def test_an_order_that_another_cohort_cannot_have_is_let_go(explorer):
    explorer.controls["cohort"].value = "child-adult"
    explorer.controls["identity"].value = "old"
    explorer.controls["order"].value = "similarity"
    assert explorer.chosen[1] == "old"
    assert "identity='old'" in explorer.map.code
    explorer.controls["identity"].value = "id09"
    assert "identity='id09'" in explorer.map.code
    explorer.controls["cohort"].value = "child-child"
    assert "no images of this cohort" in said(explorer)
    assert explorer.controls["order"].value == "identity"
    assert "order='identity'" in explorer.map.code
    assert len(explorer.confused_pairs()) == 10


def test_many_identities_are_clustered_in_the_background(explored, explorer, monkeypatch):
    monkeypatch.setattr(orders, "_CLUSTERED_AT_ONCE", 1)
    explorer.controls["order"].value = "age"
    before = explorer._linked.row_order.tolist()
    explorer.controls["order"].value = "cluster"
    rows, columns = order_sides(explored, explored.matrices("child-child"), "cluster")
    assert rows.tolist() != before
    until = time.monotonic() + 20
    while explorer._standing != "cluster" and time.monotonic() < until:
        assert explorer._linked.row_order.tolist() in (before, rows.tolist())
        time.sleep(0.01)
    assert explorer._linked.row_order.tolist() == rows.tolist()
    assert explorer._linked.column_order.tolist() == columns.tolist()
    assert said(explorer) == ""
    assert "order='cluster'" in explorer.map.code


def test_a_row_of_the_table_leads_to_its_cell(explorer):
    explorer.confused.table.chosen = 2
    pair = explorer.confused_pairs().iloc[2]
    assert explorer.chosen == (pair["row_identity"], pair["column_identity"])
    explorer.confused.listed.value = 2
    explorer.confused.n_listed.value = 3
    title = "Inter-Prototype − ArcFace"
    assert len(explorer.confused_pairs()) == 3
    assert title in explorer.confused.table.caption
    assert explorer.confused_pairs()[title].is_monotonic_decreasing


def test_very_many_pairs_are_looked_through_only_when_asked_for(explored, monkeypatch):
    monkeypatch.setattr(panes, "PAIRS_FOUND_UNASKED", 10)
    monkeypatch.setattr(panes, "PAIRS_FOUND_WHILE_WAITING", 10)
    explorer = SimilarityExplorer(explored, cohort="all")
    assert "144 pairs are not looked through unasked" in explorer.confused.table.caption
    assert explorer.confused_pairs().empty
    explorer.confused.find(asked=True)
    until = time.monotonic() + 20
    while explorer.confused_pairs().empty and time.monotonic() < until:
        time.sleep(0.02)
    assert explorer.confused_pairs().equals(find_confused_pairs(explored, cohort="all", top=50))


def test_a_new_explorer_goes_on_where_the_old_one_was(explored, explorer):
    explorer.controls["cohort"].value = "child-adult"
    explorer.controls["quantity"].value = "prototypes"
    explorer.controls["order"].value = "child_share"
    explorer.choose("id03", "old")
    state = json.loads(json.dumps(explorer.state))
    for again in (SimilarityExplorer(explored, state=explorer), SimilarityExplorer(explored, state=state)):
        assert json.loads(json.dumps(again.state)) == state
        assert again.chosen == ("id03", "old")
        assert again.pane.reason is not None
        assert again.controls["row"].value == explorer.controls["row"].value
        assert again.map.code == explorer.map.code


def test_a_state_of_other_runs_is_taken_as_far_as_it_goes(explored, explorer):
    gone = {"cohort": "none", "quantity": "features", "order": "age", "chosen": ("who", "ever"), "pooling": "max"}
    again = SimilarityExplorer(explored, state=gone)
    assert again.controls["cohort"].value == "child-child"
    assert again.controls["order"].value == "age"
    assert again.chosen is None
    assert again.map.pooling == "max"


def test_a_selection_in_the_plane_is_marked_in_every_cohort(explored, explorer):
    points = stored_projections(explored, ["tsne"], n_threads=1)
    quality = ProjectionQuality(
        child_purity_original=0.5, child_purity_plane=0.5, base_rate=0.5, recall=0.5, trustworthiness=0.5, k_purity=5,
        k_recall=5, n=12, n_child=5, n_queries=12,
    )  # fmt: skip
    projection = ProjectionExplorer(
        points, explored.identities, quality={"t-SNE": {run.name: quality for run in explored.runs}}
    )
    explorer.link_selection(projection)
    projection.select(["id02", "young", "old"])
    explorer.controls["cohort"].value = "child-adult"
    explorer.controls["order"].value = "age"
    matrices = explored.matrices("child-adult")
    for side, places, marks in zip(
        (matrices.rows, matrices.columns), order_sides(explored, matrices, "age"),
        (explorer.map.row_marks, explorer.map.column_marks), strict=True,
    ):  # fmt: skip
        names = explored.names[side[places]]
        marked = {str(names[place]) for place in np.frombuffer(marks, dtype="<u4")}
        assert marked == {"id02", "young", "old"} & set(map(str, names))
    other = ProjectionExplorer(
        {"t-SNE": {"a": np.zeros((2, 2))}}, explored.identities.head(2), quality={"t-SNE": {"a": quality}}
    )
    with pytest.raises(ConfigError, match="other identities"):
        explorer.link_selection(other)


def test_photographs_are_not_drawn_unless_asked_for(tmp_path):
    manifest = manifest_of({f"id{k}": [5.0, 6.0, 30.0] for k in range(4)}, source="photographs")
    run = write_run(tmp_path, "arcface-s0", manifest)
    explorer = SimilarityExplorer(open_explored(run))
    explorer.choose("id1", "id2")
    assert "not drawn; show_faces asks for it" in explorer.pane.widget.value
    assert "ip-faces" not in explorer.pane.widget.value
    asked = SimilarityExplorer(open_explored(run), show_faces=True)
    asked.choose("id1", "id2")
    assert "The images cannot be drawn" in asked.pane.widget.value  # there is no dataset here


def test_points_must_fit(explored):
    with pytest.raises(ConfigError, match="a place for each identity"):
        SimilarityExplorer(explored, points=[np.zeros((3, 2)), None])
    with pytest.raises(ConfigError, match="1 tables of points do not fit 2 runs"):
        SimilarityExplorer(explored, points=[np.zeros((12, 2))])


# --- the notebook ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "seen"
    train_experiment(folder)
    return folder


@pytest.mark.slow
def test_the_notebook_runs_without_a_browser(experiment, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(REPO / "notebooks" / f"{NOTEBOOK}.ipynb"),
        str(out),
        {"experiment": experiment.name, "runs_dir": str(experiment.parent), "n_threads": 1},
        progress_bar=False,
        cwd=str(tmp_path),
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
    )
    outputs = [output for cell in nbformat.read(out, as_version=4).cells for output in cell.get("outputs", [])]
    kinds = [set(output.get("data", {})) for output in outputs]
    assert sum("image/png" in kind for kind in kinds) == 4
    assert sum("application/vnd.jupyter.widget-view+json" in kind for kind in kinds) >= 3
    assert [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    page = export_html(out, tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("The similarity explorer", "The pair explorer"):
        assert f"{name} stands here in JupyterLab. It needs a running kernel" in page
    assert page.count("It needs a running kernel") == 3
    record = json.loads((experiment / "results" / f"{NOTEBOOK}.json").read_text())
    parameters = set(papermill.inspect_notebook(str(REPO / "notebooks" / f"{NOTEBOOK}.ipynb"))) - {"runs_dir"}
    assert parameters <= set(record["parameters"])
    assert len(record["results"]) == 3
    for stem in ("08_similarity", "08_cell", "08_projection", "08_pairs"):
        assert (experiment / "figures" / f"{stem}.svg").is_file()
    assert (experiment / "tables" / "08_confused.csv").read_text().count("\n") > 10


@pytest.mark.slow
def test_without_runs_the_notebook_says_what_to_run_first(tmp_path):
    call = subprocess.run(
        [
            *(sys.executable, "-m", "interproto_lib.cli", "run-notebook", f"notebooks/{NOTEBOOK}.ipynb"),
            *(tmp_path / "out.ipynb", "-p", "experiment", "nothing-here", "-p", "runs_dir", tmp_path),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert call.returncode == 2
    assert "notebooks/02_train.ipynb" in call.stderr


def test_outside_of_a_notebook_the_explorer_leaves_no_trace_of_one():
    """Progress bars look among the imported modules for the kernel's: with it they draw as in a notebook."""
    program = (
        "import sys\n"
        "from interproto_lib.views.explorer.cell_pane import _kernel_loop\n"
        "assert _kernel_loop() is None\n"
        "assert 'ipykernel.zmqshell' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
