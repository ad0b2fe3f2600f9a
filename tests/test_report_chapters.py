"""What a report takes of executed notebooks: what is said and shown, nothing of code, faces only if asked for."""

from __future__ import annotations

import datetime

import pytest
from report_cells import code, markdown, picture, png, said, write_copy

from interproto_lib.errors import ConfigError
from interproto_lib.views.report.chapters import HtmlTable, Picture, PlainText, Prose, read_chapter

TABLE = {"text/html": '<style>#T_1 td {padding: 0}</style><table id="T_1"><tr><td>1</td></tr></table>'}


def blocks(chapter, title):
    return next(section.blocks for section in chapter.sections if section.title == title)


def test_a_chapter_has_what_the_notebook_tells(tmp_path):
    path = write_copy(
        tmp_path / "03_similarity.ipynb",
        code("n: int = 1", name="parameters"),
        markdown("## First\n\nSome *words*.", "first-text"),
        code("secret()", picture(), name="first", stream="progress 3 of 4\n"),
        code("Markdown(x)", said("It is 0.5."), name="first-said"),
        markdown("More words.\n\n## Second\n", "second-text"),
        code("table", TABLE, said("After the table."), {"text/plain": "just text"}, name="second"),
        markdown("## Record\n\nFiles.", "record-text"),
        code("write()", {"text/plain": "{'python': '3'}"}, name="record"),
        title="# 3. How alike?\n\n**Question.** Who?\n\n**Reads** this.\n**Writes** that.\n\n**Takes** long.\n\nMore.",
    )
    chapter = read_chapter([path], "03_similarity", with_faces=False)
    assert (chapter.number, chapter.title) == (3, "How alike?")
    assert chapter.about == "**Reads** this.\n\n**Writes** that.\n\n**Takes** long."
    assert [section.title for section in chapter.sections] == ["", "First", "Second"]
    assert blocks(chapter, "")[0] == Prose(text="**Question.** Who?\n\nMore.")
    words, shown, more = blocks(chapter, "First")
    assert words == Prose(text="Some *words*.")
    assert (shown.content, shown.said, shown.description) == (png(), "It is 0.5.", "What it shows.")
    assert (shown.width, shown.height) == (6, 4)
    assert more == Prose(text="More words.")
    assert [type(block) for block in blocks(chapter, "Second")] == [HtmlTable, Prose, PlainText]
    assert (chapter.n_pictures, chapter.n_tables) == (1, 1)
    assert chapter.parameters["experiment"] == "made"
    assert chapter.seconds == 12.5
    assert chapter.executed.replace(microsecond=0) == datetime.datetime(2026, 11, 22, 22, 3, 34, tzinfo=datetime.UTC)
    assert "secret" not in repr(chapter)
    assert "progress" not in repr(chapter)
    assert "'python'" not in repr(chapter)


@pytest.mark.parametrize("with_faces", [True, False])
def test_faces_are_taken_over_only_when_asked_for(tmp_path, with_faces):
    path = write_copy(
        tmp_path / "01_datasets.ipynb",
        markdown("## Faces", "faces-text"),
        code("if show_faces:\n    faces = sheet()\nfaces", picture(10, alt="Contact sheet."), name="faces"),
        code("plot()", picture(20), name="plot"),
        title="# 1. Data",
    )
    shown = blocks(read_chapter([path], "01_datasets", with_faces=with_faces), "Faces")
    pictures = [block.content for block in shown if isinstance(block, Picture)]
    assert pictures == ([png(10), png(20)] if with_faces else [png(20)])
    if not with_faces:
        assert "show_faces" in shown[0].text, "what is left out is said"


def test_captions_belong_to_the_picture_before_and_headings_to_none(tmp_path):
    path = write_copy(
        tmp_path / "07_ablations.ipynb",
        markdown("## Sweeps", "sweeps-text"),
        code(
            "show()",
            said("### one"),
            picture(1),
            said("of one"),
            said("and more"),
            said("### two"),
            picture(2),
            name="s",
        ),
        markdown("Prose of the author.", "next-text"),
        code("show()", picture(3), name="late"),
        markdown("This is no caption.", "late-text"),
    )
    shown = blocks(read_chapter([path], "07_ablations", with_faces=False), "Sweeps")
    assert [b.said if isinstance(b, Picture) else b.text for b in shown] == [
        *("### one", "of one", "and more", "### two", "", "Prose of the author.", "", "This is no caption.")
    ]


def test_of_several_copies_the_prose_stands_once_and_each_shows_its_own(tmp_path):
    copies = [
        write_copy(
            tmp_path / f"02_train.{run}.ipynb",
            code("x", name=f"injected{i}"),
            markdown("## Training\n\nProse.", "training-text"),
            code("curves", picture(i, alt=f"Curves of {run}."), name="curves"),
            code("Markdown(x)", said(f"{run} learns."), name="curves-said"),
            title="# 2. Train",
        )
        for i, run in enumerate(("arcface-s0", "interproto-s0"))
    ]
    chapter = read_chapter(copies, "02_train", with_faces=False)
    prose, *pictures = blocks(chapter, "Training")
    assert prose == Prose(text="Prose.")
    assert [(p.label, p.said, p.content) for p in pictures] == [
        ("arcface-s0", "arcface-s0 learns.", png(0)),
        ("interproto-s0", "interproto-s0 learns.", png(1)),
    ]
    assert chapter.copies == ("02_train.arcface-s0", "02_train.interproto-s0")
    assert chapter.seconds == 25


def test_what_is_no_executed_notebook_is_refused(tmp_path):
    (tmp_path / "03_x.ipynb").write_text("hello")
    with pytest.raises(ConfigError, match="is not a notebook"):
        read_chapter([tmp_path / "03_x.ipynb"], "03_x", with_faces=False)
    with pytest.raises(ConfigError, match="does not begin with a heading"):
        read_chapter([write_copy(tmp_path / "04_x.ipynb", title="words")], "04_x", with_faces=False)
