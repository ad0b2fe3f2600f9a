"""The paper's tables with our numbers beside the published ones: layout, text of the cells, captions, formats."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace

import pandas as pd
import pytest

from interproto_lib.analysis.published import COST_COLUMNS, MULTIPLY_ADDS, published_table
from interproto_lib.batch import NOTEBOOKS_DIR, run_notebook
from interproto_lib.data import prepare_dataset
from interproto_lib.data.synthetic import SyntheticSettings
from interproto_lib.errors import ConfigError, ManifestError
from interproto_lib.presets import read_preset
from interproto_lib.views.paper_tables import (
    CELL_COLUMNS,
    INFERENCE_PARAMETERS,
    MEASURED_COLUMNS,
    TRAINING_PARAMETERS,
    paper_table,
)
from interproto_lib.views.table_files import write_table_files

NAN = float("nan")
NOTHING = pd.DataFrame()


def measured(*cells):
    """Rows of method, test set, mean; further values as for three seeds unless given."""
    defaults = {"std": 0.3, "n_seeds": 3, "low": NAN, "high": NAN, "n_pairs": 400, "n_identities": 60, "bold": False}
    rows = [
        defaults | {"method": method, "test_set": test_set, "mean": mean, **dict(*more)}
        for method, test_set, mean, *more in cells
    ]
    return pd.DataFrame(rows)[list(MEASURED_COLUMNS)]


def cell(table, row, column, source):
    frame = table.frame
    found = frame[(frame["row"] == row) & (frame["column"] == column) & (frame["source"] == source)]
    assert len(found) == 1
    return found.iloc[0]


def markdown_grid(table):
    """Row name -> heading -> text of the cell."""
    lines = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    rows = [[text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


def html_cells(table):
    """Texts of the data cells, row by row, of the table that a notebook shows."""
    text = table.to_styler().to_html()
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [row for row in cells if row]


@pytest.mark.parametrize("number", range(1, 7))
def test_with_nothing_measured_the_published_table_stands_with_empty_places(number):
    published = published_table(number)
    table = paper_table(number, NOTHING)
    assert list(dict.fromkeys(table.frame["row"])) == list(published.rows)
    assert tuple(table.frame.columns) == CELL_COLUMNS
    for row in published.rows:
        for column in published.columns:
            assert cell(table, row, column, "published")["mean"] == published.cell(row, column).mean
            if column not in COST_COLUMNS:
                assert pd.isna(cell(table, row, column, "ours")["mean"])
    ours = {heading: text for cells in markdown_grid(table).values() for heading, text in cells.items()}
    assert {text for heading, text in ours.items() if heading.endswith(", ours")} == {"–"}
    assert "nothing is measured yet" in table.caption
    assert table.title.startswith(f"Table {number} of the paper: ")


def test_published_and_ours_stand_side_by_side():
    table = paper_table(
        1,
        measured(
            ("ArcFace", "AgeDB-C20", 80.126, {"low": 71.04, "high": 88.96}),
            ("Inter-Prototype", "AgeDB-C20", 81.0, {"std": NAN, "n_seeds": 1, "bold": True}),
        ),
    )
    assert list(table.columns()) == list(published_table(1).columns)
    assert set(table.columns().values()) == {("published", "ours")}
    grid = markdown_grid(table)
    assert grid["ArcFace"]["AgeDB-C20, published"] == "82.65 ± 0.31"
    assert grid["ArcFace"]["AgeDB-C20, ours"] == "80.13 ± 0.30 \\[71.0, 89.0]"
    assert grid["Inter-Prototype"]["AgeDB-C20, published"] == "**83.55 ± 0.20**"
    assert grid["Inter-Prototype"]["AgeDB-C20, ours"] == "**81.00**"
    assert grid["Inter-Prototype"]["LAG, ours"] == "–"
    arcface = html_cells(table)[list(published_table(1).rows).index("ArcFace")]
    assert arcface[:3] == [
        "82.65 <small>± 0.31</small>",
        "80.13 <small>± 0.30</small><br><small>[71.0, 89.0]</small>",
        "80.37 <small>± 1.05</small>",
    ]


def test_our_methods_and_test_sets_come_after_those_of_the_paper():
    table = paper_table(
        6,
        measured(("IP strong", "C20", 70.0), ("ArcFace", "C20", 71.0), ("ArcFace", "LFW", 99.0), ("b", "LFW", 99.0)),
        own_columns=["C20", "C30"],
    )
    assert list(table.columns()) == ["AgeDB-C20", "AgeDB-C30", "LAG", "C20", "C30"]
    assert table.columns()["C30"] == ("ours",)
    rows = list(dict.fromkeys(table.frame["row"]))
    assert rows == ["CosFace", "Inter-Prototype + CosFace", "ArcFace", "Inter-Prototype", "IP strong"]
    assert pd.isna(cell(table, "IP strong", "LAG", "published")["mean"])
    assert cell(table, "ArcFace", "C20", "ours")["mean"] == 71.0
    assert "LFW" not in table.to_csv()
    assert "C20 and C30 are test sets of ours that the paper does not have" in table.caption
    assert "IP strong has no row in the paper's table." in table.caption
    assert "Inter-Prototype + CosFace “Ours + CosFace”" in table.caption


def test_costs_of_table_3_have_no_intervals_and_no_bold():
    nothing = {"std": NAN, "low": NAN, "high": NAN, "n_seeds": 1, "n_pairs": pd.NA, "n_identities": pd.NA}
    table = paper_table(
        3,
        measured(
            ("Inter-Prototype", "C20", 45.0, {"n_pairs": 63, "n_identities": 63}),
            ("Inter-Prototype", MULTIPLY_ADDS, 6.2967, nothing),
            ("Inter-Prototype", INFERENCE_PARAMETERS, 43.797696, nothing),
            ("Inter-Prototype", TRAINING_PARAMETERS, 5.412864, nothing),
        ),
        own_columns=["C20"],
    )
    columns = table.columns()
    assert list(columns)[3:] == ["C20", *COST_COLUMNS, INFERENCE_PARAMETERS, TRAINING_PARAMETERS]
    assert columns[COST_COLUMNS[0]] == ("published", "ours")
    assert columns[COST_COLUMNS[1]] == ("published",)
    assert columns[INFERENCE_PARAMETERS] == columns[TRAINING_PARAMETERS] == ("ours",)
    grid = markdown_grid(table)["Inter-Prototype"]
    assert grid[f"{MULTIPLY_ADDS}, published"] == "6.32"
    assert grid[f"{MULTIPLY_ADDS}, ours"] == "6.30"
    assert grid[f"{INFERENCE_PARAMETERS}, ours"] == "43.80"
    assert "C20 (63 probes of 63 people)" in table.caption
    assert "not like for like" in table.caption
    units = table.frame.drop_duplicates("column").set_index("column")["unit"]
    assert units[MULTIPLY_ADDS] == "billion"
    assert units[TRAINING_PARAMETERS] == "million"
    assert units["C20"] == "percent"


def test_starred_cells_are_explained():
    table = paper_table(4, NOTHING)
    assert markdown_grid(table)["ArcFace"]["LFW, published"] == "**99.53**\\*"
    assert "* The best run, as ArcFace's own paper gives it" in table.caption
    assert r"\textbf{99.53}\textsuperscript{*}" in table.to_latex()
    assert "*" not in paper_table(1, NOTHING).caption


def test_captions_say_how_many_seeds_and_what_is_bold():
    def caption(*cells, **more):
        return paper_table(1, measured(*cells), **more).caption

    three = caption(("ArcFace", "LAG", 80.0, {"low": 70.0, "high": 90.0}), experiment="demo", confidence=0.9)
    assert "Ours (experiment demo): mean ± standard deviation of 3 seeds, in percent; in brackets the 90%" in three
    assert "LAG (400 pairs of 60 people)" in three
    assert "of ours" not in three.lower(), "a single method is compared with nothing"
    two = caption(("ArcFace", "LAG", 80.0, {}), ("CosFace", "LAG", 81.0, {}))
    assert "of ours none: no method differs from every other beyond chance" in two
    one = caption(("ArcFace", "LAG", 80.0, {"std": NAN, "n_seeds": 1}))
    assert "Ours: value of 1 seed, in percent. Measured" in one
    assert "brackets" not in one
    assert "of 2 to 3 seeds" in caption(("ArcFace", "LAG", 80.0, {"n_seeds": 2}), ("CosFace", "LAG", 80.0))
    assert "of ours the best" in caption(("ArcFace", "LAG", 80.0, {"bold": True}))
    assert "400 to 410 pairs" in caption(("ArcFace", "LAG", 80.0), ("CosFace", "LAG", 80.0, {"n_pairs": 410}))


def test_csv_is_tidy_and_has_all_digits():
    value = 80.12345678901234
    table = paper_table(1, measured(("ArcFace", "LAG", value)))
    read = pd.read_csv(io.StringIO(table.to_csv()))
    assert tuple(read.columns) == CELL_COLUMNS
    assert len(read) == 9 * 5 * 2
    ours = read[read["source"] == "ours"].set_index(["row", "column"])
    assert ours.loc[("ArcFace", "LAG"), "mean"] == value
    assert ours["mean"].notna().sum() == 1
    assert ours.loc[("ArcFace", "LAG"), "n_seeds"] == 3


@pytest.mark.parametrize("number", range(1, 7))
def test_latex_is_balanced_and_every_line_fills_the_columns(number):
    first = published_table(number).columns[0]
    table = paper_table(
        number,
        measured(("a_b & 50 %", first, 80.0, {"low": 70.0, "high": 90.0}), ("ArcFace", "C_20", 81.0)),
        own_columns=["C_20"],
    )
    latex = table.to_latex()
    count = {sign: len(re.findall(rf"(?<!\\){re.escape(sign)}", latex)) for sign in "{}$%#_"}
    assert count["{"] == count["}"]
    assert count["$"] % 2 == 0
    assert count["%"] == count["#"] == count["_"] == 0
    n_columns = 1 + sum(len(sources) for sources in table.columns().values())
    assert f"{{@{{}}l{'r' * (n_columns - 1)}@{{}}}}" in latex
    body = latex.split(r"\toprule")[1].split(r"\bottomrule")[0].strip().splitlines()
    lines = [line for line in body if line.endswith(r"\\")]
    for line in lines:
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert len(re.findall(r"(?<!\\)&", line)) + 1 - len(spans) + sum(spans) == n_columns
    rules = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", latex)
    covered = [place for start, end in rules for place in range(int(start), int(end) + 1)]
    assert covered == list(range(2, n_columns + 1))
    assert any(r"a\_b \& 50 \%" in line for line in lines)
    # Every other line is a rule; our own methods stand under one of their own.
    others = [line for line in body if not line.endswith(r"\\")]
    assert all(line.startswith((r"\cmidrule", r"\midrule")) for line in others)
    own = next(place for place, line in enumerate(body) if line.startswith(r"a\_b"))
    assert r"\midrule" in body[own - 1]
    assert r"{\tiny [70.0, 90.0]}" in body[own + 1]


def test_names_cannot_become_html():
    table = paper_table(1, measured(("<script>x</script>", "<i>", 80.0)), own_columns=["<i>"], experiment="<u>")
    text = table.to_styler().to_html()
    assert "<script>" not in text
    assert "<i>" not in text
    assert "<u>" not in text
    assert html.escape("<script>x</script>") in text


def test_no_colour_is_set():
    assert "color" not in paper_table(1, measured(("ArcFace", "LAG", 80.0))).to_styler().to_html()


def test_numbers_are_aligned_where_the_page_styles_cells():
    """A rule for cells by class weighs more than one by the id of a cell, and stands after the one for all cells."""
    style = paper_table(1, NOTHING).to_styler().to_html().split("</style>")[0]
    assert style.index("td.data {") > style.index(" td {")
    assert "text-align: right" in style.split("td.data {")[1]


def test_a_cell_that_could_not_be_judged_is_empty():
    table = paper_table(1, measured(("ArcFace", "LAG", NAN, {"std": NAN, "n_pairs": 3})))
    assert markdown_grid(table)["ArcFace"]["LAG, ours"] == "–"
    assert "nothing is measured yet" in table.caption


def test_files_of_a_table(tmp_path):
    table = paper_table(5, measured(("ArcFace", "LAG", 80.0)))
    paths = write_table_files(table, tmp_path, "table5")
    assert paths["latex"].read_text(encoding="utf-8") == table.to_latex()
    assert paths["markdown"].read_text(encoding="utf-8") == table.to_markdown()
    assert paths["csv"].read_text(encoding="utf-8") == table.to_csv()


def test_wrong_tables_are_refused():
    with pytest.raises(ConfigError, match="no Table 8"):
        paper_table(8, NOTHING)
    with pytest.raises(ConfigError, match="'LAG' is named twice, or is a column of Table 1"):
        paper_table(1, NOTHING, own_columns=["LAG"])
    with pytest.raises(ConfigError, match="'C20' is named twice"):
        paper_table(1, NOTHING, own_columns=["C20", "C20"])
    one = measured(("ArcFace", "LAG", 80.0))
    with pytest.raises(ManifestError, match="no column low and bold"):
        paper_table(1, one.drop(columns=["low", "bold"]))
    with pytest.raises(ManifestError, match="ArcFace on LAG is there twice"):
        paper_table(1, pd.concat([one, one]))
    with pytest.raises(ManifestError, match=r"ArcFace on LAG: 180\.0 is no percentage"):
        paper_table(1, measured(("ArcFace", "LAG", 180.0)))


def test_methods_that_the_paper_does_not_have_stand_below_its_rows():
    """As of the preset `methods`: every row of the paper, then SphereFace, AdaFace and AE-CNN."""
    ours = [*published_table(1).rows, "SphereFace", "AdaFace", "AE-CNN"]
    table = paper_table(
        1, measured(*((name, "C20", 60.0 + place) for place, name in enumerate(ours))), own_columns=["C20"]
    )
    assert list(dict.fromkeys(table.frame["row"])) == ours
    grid = markdown_grid(table)
    assert [grid[name]["C20, ours"] for name in ours] == [f"{60 + place}.00 ± 0.30" for place in range(len(ours))]
    for name in ours[-3:]:
        assert grid[name]["AgeDB-C20, published"] == "–"
    assert "SphereFace, AdaFace and AE-CNN have no row in the paper's table." in table.caption
    # Table 2 has neither BroadFace nor MTL: there they are further rows of ours.
    second = list(
        dict.fromkeys(paper_table(2, measured(*((n, "C20", 60.0) for n in ours)), own_columns=["C20"]).frame["row"])
    )
    assert second == [*published_table(2).rows, "BroadFace", "MTL", "SphereFace", "AdaFace", "AE-CNN"]


FEW_METHODS = """
like: tiny
experiment: few
dataset:
  n_identities: 24
  n_child_identities: 8
  n_heldout_identities: 24
  n_validation_identities: 12
train: {epochs: 2, margin_loss: cosface, margin: 0.2}
methods:
  oe-cnn: {age_method: oe_cnn}
  sphereface: {margin_loss: sphereface, margin: 4.0, scale: 1.0}
ablations: {sweeps: {}}
verification: {n_resamples: 100, n_permutations: 100}
"""


@pytest.mark.slow
def test_notebooks_fill_the_rows_of_the_methods_trained(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(FEW_METHODS)
    preset, runs_dir = read_preset(path), tmp_path / "runs"
    made = SyntheticSettings.tiny()
    fewer = {name: value for name, value in preset.sections["dataset"].items() if hasattr(made, name)}
    prepare_dataset(runs_dir / "few" / "dataset", replace(made, **fewer))
    trainings = [("02_train", {"method": method, "seed": seed}) for method, seed in preset.runs.values()]
    for name, of in [*trainings, ("05_verification", {})]:
        parameters = preset.parameters(name, runs_dir=runs_dir, **of)
        run_notebook(NOTEBOOKS_DIR / f"{name}.ipynb", tmp_path / f"{name}.ipynb", parameters, stream=io.StringIO())
    table = pd.read_csv(runs_dir / "few" / "tables" / "05_table1.csv")
    rows = list(dict.fromkeys(table["row"]))
    assert rows[:-1] == list(published_table(1).rows), "SphereFace is no row of the paper"
    own = table[(table["source"] == "ours") & table["mean"].notna()]
    assert set(own["row"]) == {"OE-CNN", rows[-1]}
    assert set(own["column"]) == {"C20", "C30"}
    published = table[(table["source"] == "published") & table["mean"].notna()]
    assert rows[-1] not in set(published["row"])
