"""One HTML page of chapters and live views: contents, anchors, numbered figures and tables, everything inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from interproto_lib.views.report.chapters import Block, Chapter, HtmlTable, Picture, PlainText, Section
from interproto_lib.views.report.embedded import EmbeddedView, embedded_html
from interproto_lib.views.report.markdown import Anchors, markdown_html, plain_words
from interproto_lib.views.report.pictures import compact_picture
from interproto_lib.views.report.tables import table_html
from interproto_lib.views.wording import listed

_FOLDER = Path(__file__).parent

_LONG_TABLE = 30  # rows; more are scrolled on a screen

_SCRIPTS = ("report.js", "matrices.js")

# Nothing may be loaded: a browser that follows this asks no host for anything, whatever is in the page.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Appendix:
    """A last chapter of plain Markdown and tables.

    Attributes:
        title: Its heading.
        blocks: What it shows.
    """

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """The page, and what it holds.

    Attributes:
        html: The text of the file.
        n_figures: Figures in it; one that is shown twice counts once.
        n_tables: Tables in it.
        n_views: Live views in it.
    """

    html: str
    n_figures: int
    n_tables: int
    n_views: int


def report_page(
    chapters: Sequence[Chapter],
    views: Mapping[tuple[str, str], EmbeddedView],
    appendices: Sequence[Appendix],
    *,
    title: str,
    opening: str,
) -> ReportPage:
    """Bind chapters to a page.

    Args:
        chapters: In the order wanted. The sections of one with the number 0 open the report and stand beside the
            chapters in the contents.
        views: Notebook and cell -> the live view that stands at the end of the section with this cell; a view whose
            section is not there stands behind the chapters.
        appendices: Stand at the end.
        title: Heading of the page.
        opening: Markdown under the title.

    Returns:
        The page; nothing in it is loaded from anywhere.
    """
    writer = _Writer(chapters, [view.anchor for view in views.values()])
    waiting = dict(views)
    body = [writer.chapter(chapter, waiting) for chapter in chapters]
    if waiting:
        section = Section(title="", cells=tuple(cell for _, cell in waiting), blocks=())
        body.append(writer.part("Look closer", [section], {("", cell): view for (_, cell), view in waiting.items()}))
    body += [
        writer.part(appendix.title, [Section(title="", cells=(), blocks=appendix.blocks)], {})
        for appendix in appendices
    ]
    page = _PAGE.format(
        policy=escape(_POLICY),
        title=escape(title),
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
        script="\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        opening=markdown_html(opening, chapters=writer.anchors_of_chapters, below=1) + _live(list(views.values())),
        contents=writer.contents(),
        body="\n".join(body),
    )
    return ReportPage(html=page, n_figures=len(writer.figures), n_tables=writer.n_tables, n_views=len(views))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#report">Skip to the report</a>
<script>
{script}</script>
<div class="sheet">
<nav aria-label="Contents"><details id="contents"><summary>Contents</summary>
{contents}
</details></nav>
<script>
openContents();
</script>
<main id="report">
<header>
<h1>{title}</h1>
{opening}</header>
{body}
</main>
</div>
</body>
</html>
"""


class _Writer:
    """Writes blocks one after the other, and remembers numbers and anchors."""

    def __init__(self, chapters: Sequence[Chapter], reserved: Iterable[str]) -> None:
        self._anchors = Anchors()
        for anchor in ("report", *reserved):
            self._anchors.new(anchor)
        self.anchors_of_chapters = {
            chapter.notebook: self._anchors.new(f"chapter-{chapter.number}") for chapter in chapters
        }
        self.figures: dict[str, int] = {}
        self.n_tables = 0
        self._said: set[str] = set()
        self._contents: list[tuple[str, str, list[tuple[str, str]]]] = []

    def chapter(self, chapter: Chapter, views: dict[tuple[str, str], EmbeddedView]) -> str:
        anchor = self.anchors_of_chapters[chapter.notebook]
        about = _about(chapter, self.anchors_of_chapters)
        if chapter.number > 0:
            title = f"{chapter.number}. {plain_words(chapter.title)}"
            return self._part(title, anchor, chapter.sections, chapter.notebook, views, about)
        sections = [self._section(section, 2, chapter.notebook, views) for section in chapter.sections]
        self._contents += [(name, words, []) for name, words in (entry for _, entry in sections) if name]
        text = "\n".join(html for html, _ in sections)
        return f'<section id="{anchor}" class="story">\n{text}\n{about}</section>'

    def part(self, title: str, sections: Sequence[Section], views: dict[tuple[str, str], EmbeddedView]) -> str:
        return self._part(plain_words(title), self._anchors.new(title), sections, "", views, "")

    def _part(
        self,
        title: str,
        anchor: str,
        sections: Sequence[Section],
        notebook: str,
        views: dict[tuple[str, str], EmbeddedView],
        about: str,
    ) -> str:
        written = [self._section(section, 3, notebook, views) for section in sections]
        self._contents.append((anchor, title, [entry for _, entry in written if entry[0]]))
        text = "\n".join(html for html, _ in written)
        return f'<section id="{anchor}" class="chapter">\n<h2>{title}</h2>\n{text}\n{about}</section>'

    def _section(
        self, section: Section, level: int, notebook: str, views: dict[tuple[str, str], EmbeddedView]
    ) -> tuple[str, tuple[str, str]]:
        """Write a section; beside it its anchor and heading, both empty where it has none."""
        parts, entry = [], ("", "")
        if section.title:
            entry = (self._anchors.new(section.title), plain_words(section.title))
            parts.append(f'<h{level} id="{entry[0]}">{entry[1]}</h{level}>')
        parts += [self._block(block, level) for block in section.blocks]
        for cell in section.cells:
            view = views.pop((notebook, cell), None)
            if view is not None:
                parts.append(embedded_html(view, level=min(6, level + 1)))
        return "\n".join(parts), entry

    def _block(self, block: Block, level: int) -> str:
        if isinstance(block, Picture):
            return self._figure(block, level)
        if isinstance(block, HtmlTable):
            return self._table(block)
        if isinstance(block, PlainText):
            return f'<pre class="scroll" tabindex="0">{escape(block.text)}</pre>'
        label = f'<p class="label">{escape(block.label)}</p>\n' if block.label else ""
        return label + self._markdown(block.text, level)

    def _figure(self, picture: Picture, level: int) -> str:
        digest = hashlib.sha256(picture.content).hexdigest()
        shown_before = digest in self.figures
        number = self.figures.setdefault(digest, len(self.figures) + 1)
        said = self._markdown(picture.said, level) if picture.said and picture.said not in self._said else ""
        self._said.add(picture.said)
        if shown_before:
            return f'<p>See <a href="#figure-{number}">Figure {number}</a>, shown above.</p>\n{said}'
        content, media_type = compact_picture(picture.content, picture.media_type)
        source = f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
        size = "".join(f' {side}="{n}"' for side, n in (("width", picture.width), ("height", picture.height)) if n)
        label = f" {escape(picture.label)}:" if picture.label else ""
        return (
            f'<figure class="numbered" id="figure-{number}">\n<div class="scroll picture" tabindex="0" role="group" '
            f'aria-label="Figure {number}"><img src="{source}"{size} alt="{escape(picture.description)}"></div>\n'
            f"<figcaption><p><b>Figure {number}.</b>{label} {escape(picture.description)}</p>\n{said}</figcaption>\n"
            "</figure>"
        )

    def _table(self, table: HtmlTable) -> str:
        self.n_tables += 1
        name = f"table-{self.n_tables}"
        label = f" {table.label}:" if table.label else ""
        html, caption = table_html(table.html, name=name, caption_opening=f"Table {self.n_tables}.{label} ")
        long = " long" if html.count("<tr") > _LONG_TABLE else ""
        return f'<div class="scroll{long}" tabindex="0" role="group" aria-label="{escape(caption)}">{html}</div>'

    def _markdown(self, text: str, level: int) -> str:
        return markdown_html(text, chapters=self.anchors_of_chapters, below=level)

    def contents(self) -> str:
        """Write the table of contents of all that was written."""
        entries = []
        for anchor, title, below in self._contents:
            inner = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in below)
            entries.append(f'<li><a href="#{anchor}">{title}</a>{f"<ul>{inner}</ul>" if inner else ""}</li>')
        return "<ul>" + "\n".join(entries) + "</ul>"


def _live(views: Sequence[EmbeddedView]) -> str:
    """Links to the live views, for the opening."""
    links = "".join(f'<li><a href="#{view.anchor}">{escape(view.title)}</a></li>' for view in views)
    return f"<p>Live in this page, without a kernel:</p>\n<ul>{links}</ul>\n" if links else ""


def _about(chapter: Chapter, anchors: Mapping[str, str]) -> str:
    """How a chapter came about, folded away."""
    copies = listed([f"<code>{escape(name)}</code>" for name in chapter.copies])
    when = f", {chapter.executed:%Y-%m-%d %H:%M} UTC" if chapter.executed else ""
    took = f", in {chapter.seconds:,.0f} s" if chapter.seconds else ""
    settings = ", ".join(f"{key} = {value!r}" for key, value in chapter.parameters.items() if key != "runs_dir")
    given = f"<p>Parameters set: <code>{escape(settings)}</code>.</p>" if settings else ""
    return (
        f'<details class="about"><summary>How this was made</summary>\n<p>Executed: {copies}{when}{took}.</p>\n'
        f"{given}\n{markdown_html(chapter.about, chapters=anchors)}</details>\n"
    )
