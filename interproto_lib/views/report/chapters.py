"""What executed notebooks say, as chapters of a report: headings, prose, pictures and tables, without their code."""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from interproto_lib.errors import ConfigError

_ABOUT = re.compile(r"\*\*(Reads|Writes|Takes)\*\*")
_PICTURES = ("image/svg+xml", "image/png", "image/jpeg", "image/webp")
_RECORD = "record"  # the last section of a notebook: what it writes to files, and the environment
_ASKS_FOR_FACES = "show_faces"
_NO_FACES = "A picture of photographs is left out here: `show_faces` of notebook 09 asks for it."


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Markdown.

    Attributes:
        text: The Markdown.
        is_computed: Whether a code cell wrote it, from numbers.
        label: As of a picture.
    """

    text: str
    is_computed: bool = False
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure.

    Attributes:
        content: The file.
        media_type: As in `image/png`.
        width: Width to show it at, in CSS pixels; None for its own.
        height: Height likewise.
        description: What it shows.
        said: What follows from its numbers, Markdown.
        label: Which of several copies of the notebook it is from, as in `arcface-s0`; empty for a single one.
    """

    content: bytes
    media_type: str
    width: int | None
    height: int | None
    description: str
    said: str = ""
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class HtmlTable:
    """A table as the HTML that pandas writes.

    Attributes:
        html: One `<table>`, with a `<style>` of its own.
        label: As of a picture.
    """

    html: str
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class PlainText:
    """An output that is nothing but text."""

    text: str


Block = Prose | Picture | HtmlTable | PlainText


@dataclass(frozen=True, kw_only=True)
class Section:
    """What stands under one heading.

    Attributes:
        title: The heading; empty for what stands before the first.
        cells: Ids of the cells it is made of.
        blocks: What it shows, in its order.
    """

    title: str
    cells: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One notebook.

    Attributes:
        notebook: Name of the notebook, as in `03_similarity`.
        title: Its heading, without the number.
        number: The number in its heading.
        sections: The first has no title and holds the question.
        about: What it reads and writes and how long it takes, Markdown.
        copies: Names of the executed copies, without `.ipynb`.
        parameters: Parameters of the first copy that were set.
        executed: When the last copy was finished, UTC; None where it is not known.
        seconds: How long all copies took; None where it is not known.
    """

    notebook: str
    title: str
    number: int
    sections: tuple[Section, ...]
    about: str
    copies: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    executed: datetime.datetime | None = None
    seconds: float | None = None

    @property
    def n_pictures(self) -> int:
        """How many figures it shows."""
        return sum(isinstance(block, Picture) for section in self.sections for block in section.blocks)

    @property
    def n_tables(self) -> int:
        """How many tables it shows."""
        return sum(isinstance(block, HtmlTable) for section in self.sections for block in section.blocks)


def read_chapter(copies: Sequence[Path], notebook: str, *, with_faces: bool) -> Chapter:
    """Read executed copies of one notebook as a chapter.

    Code, progress and the record at the end are left out. A figure takes what is said of it right after it, in its own
    cell or the next, as a part of its caption. Of several copies, as of the trainings, the prose stands once, and
    what the cells show stands for one copy after the other.

    Args:
        copies: The executed `.ipynb` files, at least one.
        notebook: Name of the notebook.
        with_faces: Whether pictures may be shown whose cell asks `show_faces` before it draws.

    Returns:
        The chapter.

    Raises:
        ConfigError: A copy cannot be read, or has no heading.
    """
    contents = [_read(path) for path in copies]
    first = contents[0]
    heading = _heading(first, copies[0])
    about, opening = _split_about(heading.group("rest"))
    sections = [Section(title="", cells=(), blocks=(Prose(text=opening),) if opening else ())]
    for place, cell in enumerate(first.cells):
        name = str(cell.get("id", place))
        if cell is _title_cell(first) or name.split("-")[0] == _RECORD:
            continue
        if cell.cell_type == "markdown":
            sections += _of_markdown(cell.source, name, into=sections)
            continue
        shown = [
            block
            for path, content in zip(copies, contents, strict=True)
            for block in _outputs(_same_cell(content, name, place), with_faces, path, label=len(copies) > 1)
        ]
        last = sections.pop()
        sections.append(replace(last, cells=(*last.cells, name), blocks=(*last.blocks, *shown)))
    told = [replace(section, blocks=tuple(_with_captions(section.blocks))) for section in sections]
    runs = [content.metadata.get("papermill", {}) for content in contents]
    return Chapter(
        notebook=notebook,
        title=heading.group("title").strip(),
        number=int(heading.group("number") or notebook.split("_")[0]),
        sections=tuple(section for section in told if section.blocks or section.title),
        about=about,
        copies=tuple(path.stem for path in copies),
        parameters=dict(runs[0].get("parameters") or {}),
        executed=max((_time(run["end_time"]) for run in runs if run.get("end_time")), default=None),
        seconds=sum(run["duration"] for run in runs) if all(run.get("duration") for run in runs) else None,
    )


def _read(path: Path) -> Any:
    import nbformat

    try:
        content = nbformat.read(path, as_version=4)
    except Exception as error:
        raise ConfigError(f"{path} is not a notebook: {error}. Execute the notebook again.") from error
    for cell in content.cells:
        cell.source = str(cell.source)
    return content


def _title_cell(content: Any) -> Any:
    return next((cell for cell in content.cells if cell.cell_type == "markdown"), None)


def _heading(content: Any, path: Path) -> re.Match[str]:
    cell = _title_cell(content)
    found = cell and re.match(r"\s*#\s+(?:(?P<number>\d+)\.\s+)?(?P<title>[^\n]+)\n*(?P<rest>.*)", cell.source, re.S)
    if not found:
        raise ConfigError(f"{path}: the first text does not begin with a heading, as in `# 3. How similar ...`.")
    return found


def _split_about(text: str) -> tuple[str, str]:
    """Take what a notebook reads, writes and takes out of its opening."""
    lines = re.split(r"\n(?=\s*\n|\*\*)", text.strip())
    about = [line.strip() for line in lines if _ABOUT.match(line.strip())]
    rest = [line.strip("\n") for line in lines if not _ABOUT.match(line.strip())]
    return "\n\n".join(about), "\n\n".join(line for line in rest if line.strip())


def _of_markdown(source: str, name: str, *, into: list[Section]) -> Iterator[Section]:
    """Cut a text at its headings of the second level; what stands before the first goes on with the last section."""
    before, *parts = re.split(r"(?m)^##\s+", source)
    if before.strip():
        last = into.pop()
        yield replace(last, cells=(*last.cells, name), blocks=(*last.blocks, Prose(text=before.strip())))
    for part in parts:
        title, _, text = part.partition("\n")
        blocks = (Prose(text=text.strip()),) if text.strip() else ()
        yield Section(title=title.strip(), cells=(name,), blocks=blocks)


def _same_cell(content: Any, name: str, place: int) -> Any:
    """The cell of this id: copies of one notebook differ in the cell that papermill inserts."""
    for other, cell in enumerate(content.cells):
        if str(cell.get("id", other)) == name:
            return cell
    return {"source": "", "outputs": []}


def _outputs(cell: Any, with_faces: bool, path: Path, *, label: bool) -> Iterator[Block]:
    name = path.stem.partition(".")[2] if label else ""
    for output in cell["outputs"]:
        data = output.get("data", {})
        picture = next((kind for kind in _PICTURES if kind in data), None)
        if picture:
            if _ASKS_FOR_FACES in cell["source"] and not with_faces:
                yield Prose(text=_NO_FACES, is_computed=True)
            else:
                yield _picture(data, picture, output.get("metadata", {}), name)
        elif "text/markdown" in data:
            text = str(data["text/markdown"])
            if text.strip():
                yield Prose(text=text, is_computed=True, label=name)
        elif "<table" in data.get("text/html", ""):
            yield HtmlTable(html=str(data["text/html"]), label=name)
        elif "text/plain" in data:
            yield PlainText(text=str(data["text/plain"]))


def _picture(data: Any, kind: str, metadata: Any, label: str) -> Picture:
    content = str(data[kind])
    shown = metadata.get(kind, {})
    return Picture(
        content=content.encode() if kind.endswith("xml") else base64.b64decode(content),
        media_type=kind,
        width=shown.get("width"),
        height=shown.get("height"),
        description=str(shown.get("alt") or data.get("text/plain", "")),
        label=label,
    )


def _with_captions(blocks: Iterable[Block]) -> Iterator[Block]:
    """Give each picture what was computed of it right after it; of several copies, what was computed of the same."""
    waiting: list[Picture] = []
    for block in blocks:
        if isinstance(block, Prose) and block.is_computed and not block.text.lstrip().startswith("#"):
            its = next((i for i, one in enumerate(waiting) if one.label == block.label and not one.said), None)
            if its is not None:
                waiting[its] = replace(waiting[its], said=block.text.strip())
                continue
        if isinstance(block, Picture) and (not waiting or waiting[-1].label != block.label):
            waiting.append(block)
            continue
        yield from waiting
        waiting = [block] if isinstance(block, Picture) else []
        if not waiting:
            yield block
    yield from waiting


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
