"""Style, saving and wording: what every figure and sentence stands on."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from interproto_lib.errors import WriteError
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    display_names,
    figure_style,
    method_styles,
    new_figure,
    save_figure,
    similarity_colours,
    symmetric_limit,
)
from interproto_lib.views.tables import styled_table
from interproto_lib.views.wording import compared, listed, number, signed


def small_figure(height=3.0):
    with figure_style():
        figure = new_figure(2.0, 1.5, description="Two bars.")
        axes = figure.subplots()
        axes.bar([0, 1], [1, height], color=[CHILD_COLOUR, ADULT_COLOUR])
        axes.scatter([0, 1], [1, 2])
        axes.set_title("Two bars")
    return figure


def test_styles_tell_methods_apart_without_colour_and_keep_the_colours_of_ages_free():
    styles = method_styles([*"abcdefghijkl", "b"])
    assert list(styles) == list("abcdefghijkl")
    assert len({str(style.line) for style in styles.values()}) == 12
    assert len({style.marker for style in styles.values()}) == 12
    assert len({style.colour for style in styles.values()}) == 12
    assert not {style.colour for style in styles.values()} & {CHILD_COLOUR, ADULT_COLOUR}
    assert method_styles(["a", "b"])["b"] == styles["b"]


def luminance(colour):
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_child_and_adult_differ_in_grey_print():
    assert luminance(CHILD_COLOUR) / luminance(ADULT_COLOUR) > 2


def test_map_is_white_in_the_middle_blue_below_red_above():
    colours = similarity_colours()
    low, middle, high = (colours(x) for x in (0.0, 0.5, 1.0))
    assert min(middle[:3]) > 0.9
    assert low[2] > low[0] + 0.3
    assert high[0] > high[2] + 0.3
    assert colours(np.ma.masked_invalid([np.nan]))[0][:3] == pytest.approx([0xD9 / 255] * 3)


def test_symmetric_limit_covers_all_panels_and_ignores_missing_values():
    panels = [np.array([0.01, np.nan]), np.array([[-0.42]])]
    assert symmetric_limit(panels, quantile=1.0) == 0.45
    assert symmetric_limit(panels[::-1], quantile=1.0) == 0.45
    assert symmetric_limit([np.array([0.3])], quantile=1.0) == 0.3
    assert symmetric_limit([np.array([np.nan])]) == 0.05
    many = np.concatenate([np.full(9999, 0.1), [5.0]])
    assert symmetric_limit([many]) == 0.1


def test_style_leaves_no_trace():
    before = dict(mpl.rcParams)
    small_figure()
    assert dict(mpl.rcParams) == before


def test_views_do_not_load_pyplot():
    code = "import sys, interproto_lib.views; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_saving_gives_three_formats_with_the_same_bytes_each_time(tmp_path):
    first = save_figure(small_figure(), tmp_path / "a", "bars")
    second = save_figure(small_figure(), tmp_path / "b", "bars")
    assert [path.name for path in first] == ["bars.png", "bars.svg", "bars.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[2].read_bytes().startswith(b"%PDF")
    other = save_figure(small_figure(height=4.0), tmp_path / "c", "bars")
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(first, other, strict=True))


def test_saved_files_carry_no_date(tmp_path):
    png, svg, pdf = save_figure(small_figure(), tmp_path, "bars")
    assert b"dc:date" not in svg.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    assert b"tIME" not in png.read_bytes()


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path):
    paths = save_figure(small_figure(), tmp_path, "bars")
    before = [path.read_bytes() for path in paths]
    broken = small_figure()
    broken.axes[0].set_title("$\\nosuchcommand$")
    with pytest.raises(ValueError):
        save_figure(broken, tmp_path, "bars")
    assert [path.read_bytes() for path in paths] == before
    assert len(list(tmp_path.iterdir())) == 3


def test_saving_into_a_file_says_so(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(WriteError, match="taken"):
        save_figure(small_figure(), tmp_path / "taken", "bars")


def test_a_notebook_gets_a_sharp_opaque_picture_with_alternative_text():
    data, metadata = small_figure()._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    shown = metadata["image/png"]
    assert (width, height) == (2 * shown["width"], 2 * shown["height"])
    assert shown["alt"] == data["text/plain"] == "Two bars."
    assert small_figure().get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_names_of_methods():
    names = display_names(["arcface", "inter_prototype", "interprototype_sum", "my_own"], given={"my_own": "Mine"})
    assert list(names.values()) == ["ArcFace", "Inter-Prototype", "Inter-Prototype sum", "Mine"]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (0.0161, "0.016 higher"),
        (-0.0161, "0.016 lower"),
        (0.0004, "the same to 3 decimals"),
        (-0.0, "the same to 3 decimals"),
    ],
)
def test_comparison_follows_the_sign(difference, text):
    assert compared(difference) == text


def test_numbers_have_true_minus_signs_and_no_minus_zero():
    assert [number(x) for x in (-0.5, -0.0001, 1234.5)] == ["−0.500", "0.000", "1,234.500"]
    assert [signed(x, decimals=2) for x in (-0.5, 0.5, 0.001, -0.001)] == ["−0.50", "+0.50", "0.00", "0.00"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"])] == ["", "a", "a and b"]


def test_table_is_formatted_without_colours():
    table = pd.DataFrame({"method": ["a"], "mean_cosine": [0.12345], "n": [1770], "share": [0.5], "gap": [np.nan]})
    html = styled_table(table, "What was found", formats={"share": "{:.1%}"}, names={"gap": "the gap"}).to_html()
    for text in ("What was found", "mean cosine", "0.123", "1,770", "50.0%", "the gap", "–"):
        assert text in html
    assert "color" not in html
