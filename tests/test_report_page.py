"""The report as a page: whole, numbered, linked within itself, and safe whatever names and notebooks hold."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_cells import code, markdown, picture, said, write_copy

from interproto_lib.errors import ConfigError, RunError
from interproto_lib.files import write_json
from interproto_lib.presets import NOTEBOOK_SECTIONS
from interproto_lib.views.report import (
    Appendix,
    EmbeddedView,
    bind_notebooks,
    chapters_table,
    describe_report,
    environment_appendix,
    report_page,
    report_results,
    write_report,
)
from interproto_lib.views.report.chapters import HtmlTable, PlainText, Prose, read_chapter
from interproto_lib.views.report.markdown import markdown_html
from interproto_lib.views.report.offline import remote_loads
from interproto_lib.views.report.pictures import compact_picture
from interproto_lib.views.report.tables import table_html

EVIL = "<img src=https://host/x onerror=alert(1)>"
WIDGET = "function render({model, el}) { el.textContent = '</script>'; }\nexport default { render };\n"


class Places(HTMLParser):
    """Ids of a page, what its links point to, its tags and their attributes."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.links, self.tags, self.attributes = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes += given
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"][1:]] if tag == "a" and given.get("href", "").startswith("#") else []


@pytest.fixture
def story(tmp_path):
    path = write_copy(
        tmp_path / "notebooks" / "00_start_here.ipynb",
        markdown(
            "## In short\n\nSee [three](03_similarity.ipynb) and [none](12_none.ipynb). $s_i < 1$ " + EVIL, "a-text"
        ),
        code("x", picture(1), said("Same words."), name="a"),
        title="# 0. Start here: what changed?\n\n**Question.** What?",
    )
    return read_chapter([path], "00_start_here", with_faces=False)


@pytest.fixture
def third(tmp_path):
    path = write_copy(
        tmp_path / "notebooks" / "03_similarity.ipynb",
        markdown("## In short", "b-text"),
        code("x", picture(1), said("Same words."), picture(2), said("Other words."), name="b"),
        code("t", {"text/html": '<table id="T_9"><caption>Numbers</caption><tr><td>4</td></tr></table>'}, name="t"),
        title="# 3. How similar?",
    )
    return read_chapter([path], "03_similarity", with_faces=False)


def view(**changes):
    return EmbeddedView(**{"anchor": "live", "title": "Look", "text": "Who.", "script": WIDGET, "state": {}, **changes})


def page_of(*chapters, views=None, appendices=()):
    return report_page(chapters, views or {}, appendices, title="Report of <x>", opening="Opened.")


def test_links_lead_somewhere_and_ids_are_given_once(story, third):
    page = page_of(
        story, third, views={("03_similarity", "b"): view()}, appendices=[Appendix(title="In short", blocks=())]
    )
    places = Places(page.html)
    assert len(places.ids) == len(set(places.ids))
    assert set(places.links) <= set(places.ids)
    assert '<a href="#chapter-3">three</a> and none' in page.html
    contents = page.html[page.html.index("<nav") : page.html.index("</nav>")]
    assert re.findall(r">([^<]+)</a>", contents) == ["In short", "3. How similar?", "In short", "In short"]
    assert places.tags.count("h1") == 1
    assert page.html.index("<h2") < page.html.index("<h3")


def test_a_figure_is_shown_once_and_numbers_run_through(story, third):
    page = page_of(story, third)
    assert (page.n_figures, page.n_tables) == (2, 1)
    assert page.html.count("<img ") == 2
    assert re.findall(r"<b>Figure (\d+)\.</b>", page.html) == ["1", "2"]
    assert 'See <a href="#figure-1">Figure 1</a>, shown above' in page.html
    assert page.html.count("Same words.") == 1
    assert "Other words." in page.html
    assert "Table 1." in page.html
    assert 'alt="What it shows."' in page.html


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pictures_are_made_smaller_without_losing_a_pixel(mode):
    rng = np.random.default_rng(0)
    drawn = Image.fromarray(rng.integers(0, 4, (60, 80, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8) * 60, "RGBA")
    buffer = io.BytesIO()
    drawn.convert(mode).save(buffer, format="png")
    content, media_type = compact_picture(buffer.getvalue(), "image/png")
    assert (media_type, len(content) < len(buffer.getvalue())) == ("image/webp", True)
    before, after = (np.array(Image.open(io.BytesIO(one)).convert("RGBA")) for one in (buffer.getvalue(), content))
    np.testing.assert_array_equal(before, after)
    assert compact_picture(b"<svg/>", "image/svg+xml") == (b"<svg/>", "image/svg+xml")


def test_the_page_loads_nothing_and_says_so_to_the_browser(story, third):
    page = page_of(story, third, views={("03_similarity", "b"): view()})
    assert remote_loads(page.html) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.html)[1]
    assert "default-src &#x27;none&#x27;" in policy
    assert "connect-src" not in policy
    assert "<math" in page.html
    assert "$s_i" not in page.html


def test_html_in_notebooks_and_names_is_text(story):
    page = page_of(story, appendices=[Appendix(title=EVIL, blocks=(Prose(text=EVIL), PlainText(text=EVIL)))])
    places = Places(page.html)
    assert places.tags.count("img") == page.n_figures
    assert [name for name in places.attributes if name.startswith("on")] == []
    assert "onerror=alert(1)&gt;" in page.html
    assert "<title>Report of &lt;x&gt;</title>" in page.html


def test_a_link_of_markdown_cannot_run_anything():
    assert "javascript:" not in markdown_html("[x](javascript:alert(1))", chapters={})


def test_a_live_view_stands_in_its_section_and_its_state_cannot_end_its_script(story, third):
    live = view(state={"names": "</script><script>alert(1)</script>", "points": b"\x00\xff"}, answers={"kind": "x"})
    page = page_of(story, third, views={("03_similarity", "b"): live})
    chapter = page.html[page.html.index('id="chapter-3"') :]
    state = re.search(r'<script type="application/json" id="live-state">(.*?)</script>', chapter, re.S)[1]
    assert json.loads(state)["state"] == {"names": "</script><script>alert(1)</script>", "points": {"base64": "AP8="}}
    assert "const widget = { render };" in chapter
    assert "'<\\/script>'" in chapter
    assert page.n_views == 1
    assert 'href="#live"' in page.html[: page.html.index('id="chapter-0"')]


def test_a_view_without_its_section_stands_behind_the_chapters(story):
    page = page_of(story, views={("03_similarity", "whole"): view()})
    assert page.html.index("Look closer</h2>") < page.html.index('id="live"')


@pytest.mark.parametrize("script", ["const x = 1;", 'import {a} from "./b.js";\n' + WIDGET, WIDGET + WIDGET])
def test_a_script_that_the_page_cannot_hold_is_refused(story, script):
    with pytest.raises(ConfigError, match="must import nothing and have one"):
        page_of(story, views={("00_start_here", "a"): view(script=script)})


def test_tables_keep_their_shape_and_lose_what_is_none_of_theirs():
    html = (
        "<style>#T_a td {text-align: right} #T_a_row0 {font-weight: bold}</style>"
        f'<table id="T_a" onclick="x()"><caption>Words<br><span style="color: red">more</span></caption>'
        f'<tr><th colspan="2" class="c">{EVIL}</th></tr><tr><td id="T_a_row0">&lt;b&gt; 1 < 2</td></tr></table>'
    )
    written, words = table_html(html, name="table-7", caption_opening="Table 7. ")
    assert "<caption><span>Table 7. </span>Words<br><span>more</span></caption>" in written
    assert '<th colspan="2" class="c">&lt;img' in written
    assert '<td id="table-7_row0">&lt;b&gt; 1 &lt; 2</td>' in written
    assert "#table-7 td {text-align: right} #table-7_row0 {" in written
    assert "onclick" not in written
    assert "T_a" not in written
    assert words == "Wordsmore"


def test_a_style_that_could_load_is_left_out():
    html = "<style>td {background: url(//host/x)}</style><table><tr><td>1</td></tr></table>"
    written, _ = table_html(html, name="table-1", caption_opening="Table 1. ")
    assert "host" not in written
    assert "<caption>Table 1. </caption>" in written


def test_the_file_and_what_is_missing(tmp_path, story, third):
    folder = tmp_path
    for run in ("arcface-s0", "other-s0"):
        write_copy(folder / "notebooks" / f"02_train.{run}.ipynb", title="# 2. Train")
    bound = bind_notebooks(folder, ["arcface-s0"], with_faces=False)
    assert [chapter.notebook for chapter in bound.chapters] == ["00_start_here", "02_train", "03_similarity"]
    assert bound.chapters[1].copies == ("02_train.arcface-s0",)
    assert set(bound.missing) == set(NOTEBOOK_SECTIONS) - {
        *("00_start_here", "02_train", "03_similarity", "09_report", "10_face_ageing")
    }
    assert list(chapters_table(bound.chapters)["figures"]) == [1, 0, 2]
    written = write_report(folder, bound, {("03_similarity", "b"): None}, [], opening="Opened.")
    assert written.path == folder / "report.html"
    assert written.n_bytes == written.path.stat().st_size
    assert (written.n_chapters, written.n_figures, written.n_tables, written.n_views) == (3, 2, 1, 0)
    assert "`05_verification`" in describe_report(written)
    assert report_results(written)[0].value == written.n_bytes / 1e6


def test_environments_are_told_apart(tmp_path):
    record = {"python": "3.11.7", "platform": "Linux", "cpus": 2, "commit": "abc", "packages": {"torch": "2.15.0"}}
    for name, changes in {"00_x": {}, "03_y": {"time_utc": "later"}, "04_z": {"python": "3.12.1"}}.items():
        write_json(tmp_path / "results" / f"{name}.json", {"environment": {**record, **changes}})
    prose, table = environment_appendix(tmp_path, []).blocks
    assert "2 environments" in prose.text
    assert "- environment 1: 00_x and 03_y" in prose.text
    assert "- environment 2: 04_z" in prose.text
    assert isinstance(table, HtmlTable)
    assert "3.12.1" in table.html
    (tmp_path / "results" / "04_z.json").unlink()
    assert "one environment" in environment_appendix(tmp_path, []).blocks[0].text
    (tmp_path / "results" / "05_bad.json").write_text("[]")
    with pytest.raises(RunError, match=r"05_bad\.json holds no record"):
        environment_appendix(tmp_path, [])
