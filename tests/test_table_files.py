"""Tables as files: escaping, alignment, missing values, and the three formats against one another."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest

from interproto_lib.errors import ConfigError, WriteError
from interproto_lib.views.table_files import (
    TABLE_FORMATS,
    frame_to_latex,
    frame_to_markdown,
    latex_escape,
    markdown_escape,
    write_table_files,
)


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "method": ["ip_sum & 50 %", "a|b {c} #1", "x^2 ~ $y$ \\z"],
            "accuracy": [82.6512345, np.nan, -0.5],
            "n_pairs": [3786, 10, 0],
            "bold": [True, False, False],
        }
    )


def cells_of(line):
    """Cells of a Markdown row: bars that are not escaped divide them."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def unescaped(text, sign):
    return len(re.findall(rf"(?<!\\){re.escape(sign)}", text))


def test_markdown_has_one_cell_a_column_and_shows_missing_values(frame):
    lines = frame_to_markdown(frame, decimals=2).splitlines()
    rows = [cells_of(line) for line in lines]
    assert [len(row) for row in rows] == [4] * 5
    assert rows[1] == [":---", "---:", "---:", ":---"]
    assert rows[2] == ["ip\\_sum & 50 %", "82.65", "3,786", "yes"]
    assert rows[3][:2] == ["a\\|b {c} #1", "–"]
    assert rows[4][1:] == ["−0.50", "0", "no"]


def test_caption_and_formats(frame):
    text = frame_to_markdown(frame, caption="All *three*", formats={"accuracy": "{:.1f} %"})
    assert text.startswith("All \\*three\\*\n\n| method")
    assert "| 82.7 % |" in text
    latex = frame_to_latex(frame, caption="50 %", label="tab:x", formats={"accuracy": "{:.1f} %"})
    assert "\\caption{50 \\%}\n\\label{tab:x}" in latex
    assert "& 82.7 \\% &" in latex
    with pytest.raises(ConfigError, match="no column 'acuracy' to format"):
        frame_to_latex(frame, formats={"acuracy": "{}"})


def test_latex_is_balanced_and_has_one_cell_a_column(frame):
    latex = frame_to_latex(frame, caption="A_B & 5 %")
    assert unescaped(latex, "{") == unescaped(latex, "}")
    assert unescaped(latex, "$") % 2 == 0
    assert "\\begin{tabular}{@{}lrrl@{}}" in latex
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4
    assert all(unescaped(line, "&") == 3 for line in lines)
    assert all(unescaped(line, sign) == 0 for line in lines for sign in "%#_")
    for environment in ("table", "tabular"):
        assert latex.count(rf"\begin{{{environment}}}") == latex.count(rf"\end{{{environment}}}") == 1
    order = [latex.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert order == sorted(order)


def test_every_special_sign_of_latex_is_escaped():
    """Against the ten signs that LaTeX reserves, and the letters that its plain fonts lack."""
    for sign in "&%$#_{}":
        assert latex_escape(f"a{sign}b") == f"a\\{sign}b"
    assert latex_escape("~") == r"\textasciitilde{}"
    assert latex_escape("^") == r"\textasciicircum{}"
    assert latex_escape("\\") == r"\textbackslash{}"
    for sign in "±–−<>×≥λ[|":
        assert sign not in latex_escape(sign).replace("{[}", "").replace("$<$", "").replace("$>$", "").replace(
            "$|$", ""
        )
    assert latex_escape("82.65 ± 0.31") == r"82.65 $\pm$ 0.31"
    assert latex_escape("Кирилл, Müller") == "Кирилл, Müller"


def test_markdown_stays_one_line():
    assert markdown_escape("a\nb | c") == "a b \\| c"
    assert markdown_escape("<b>[x]`_*\\") == "\\<b>\\[x]\\`\\_\\*\\\\"


def test_an_index_with_a_name_and_columns_of_two_levels_are_written():
    table = pd.DataFrame(
        [[1.0, 2.0]],
        index=pd.Index(["ArcFace"], name="method"),
        columns=pd.MultiIndex.from_product([["C20"], ["a", "b"]]),
    )
    flat = table.set_axis(["C20 a", "C20 b"], axis=1)
    assert cells_of(frame_to_markdown(flat).splitlines()[0]) == ["method", "C20 a", "C20 b"]
    header = cells_of(frame_to_markdown(table.reset_index(drop=True)).splitlines()[0])
    assert header == ["C20 a", "C20 b"]


def test_missing_values_of_every_kind_are_an_en_dash():
    table = pd.DataFrame(
        {
            "float32": np.array([np.nan, 1], dtype=np.float32),
            "whole": pd.array([None, 2], dtype="Int64"),
            "text": pd.Series([None, "a"], dtype=object),
            "when": pd.to_datetime([None, "2020-01-01"]),
        }
    )
    assert cells_of(frame_to_markdown(table).splitlines()[2]) == ["–"] * 4
    assert cells_of(frame_to_markdown(table).splitlines()[3])[:3] == ["1.000", "2", "a"]


def test_an_empty_frame_is_a_header():
    table = pd.DataFrame({"method": pd.Series([], dtype=str)})
    assert frame_to_markdown(table) == "| method |\n| :--- |\n"
    assert frame_to_latex(table).count(r" \\") == 1


def test_files_are_written_whole_with_all_digits(frame, tmp_path):
    paths = write_table_files(frame, tmp_path / "new", "table1", caption="A caption")
    assert {name: path.name for name, path in paths.items()} == {n: f"table1{s}" for n, s in TABLE_FORMATS.items()}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["table1.csv", "table1.md", "table1.tex"]
    pd.testing.assert_frame_equal(pd.read_csv(paths["csv"]), frame)
    assert paths["markdown"].read_text(encoding="utf-8").startswith("A caption\n\n| method |")
    assert r"\caption{A caption}" in paths["latex"].read_text(encoding="utf-8")


def test_a_table_that_writes_itself(tmp_path):
    class Own:
        def to_csv(self):
            return "a\n1\n"

        def to_markdown(self):
            return "| ä |\n"

        def to_latex(self):
            return "\\begin\n"

    paths = write_table_files(Own(), tmp_path, "own")
    assert [paths[name].read_text(encoding="utf-8") for name in TABLE_FORMATS] == ["a\n1\n", "| ä |\n", "\\begin\n"]


def test_wrong_names_and_folders_are_refused(frame, tmp_path):
    for stem in ("", "../x", "a/b"):
        with pytest.raises(ConfigError, match="file name"):
            write_table_files(frame, tmp_path, stem)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        write_table_files(frame, tmp_path / "file", "x")


def test_markdown_and_csv_hold_the_same_numbers():
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=5), "b": range(5)})
    lines = frame_to_markdown(table, decimals=6).replace("−", "-").splitlines()
    text = "\n".join(",".join(cells_of(line)) for line in (lines[0], *lines[2:]))
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), table, atol=1e-6, rtol=0)
