"""Binding the report of an experiment: which executed notebooks it holds, on what machine they ran, the file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interproto_lib import __version__
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.files import atomic_write
from interproto_lib.presets import (
    AGEING_NOTEBOOK,
    NOTEBOOK_SECTIONS,
    REPORT_FILE,
    REPORT_NOTEBOOK,
    STORY_NOTEBOOK,
    TRAINING_NOTEBOOK,
)
from interproto_lib.runs import Result
from interproto_lib.views.report.chapters import Chapter, HtmlTable, Prose, read_chapter
from interproto_lib.views.report.embedded import EmbeddedView
from interproto_lib.views.report.offline import remote_loads
from interproto_lib.views.report.page import Appendix, report_page
from interproto_lib.views.tables import styled_table
from interproto_lib.views.wording import listed

_MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class BoundNotebooks:
    """The executed notebooks of an experiment.

    Attributes:
        chapters: What they say, the story first.
        missing: Notebooks without an executed copy.
    """

    chapters: tuple[Chapter, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """The report's file, and what it holds.

    Attributes:
        path: The file.
        n_bytes: Its size.
        n_figures: Figures in it.
        n_tables: Tables in it.
        n_views: Live views in it.
        n_chapters: Notebooks in it.
        missing: Notebooks that are not in it.
    """

    path: Path
    n_bytes: int
    n_figures: int
    n_tables: int
    n_views: int
    n_chapters: int
    missing: tuple[str, ...]


def bind_notebooks(folder: str | Path, trainings: Sequence[str], *, with_faces: bool) -> BoundNotebooks:
    """Read the executed copies that a batch leaves in `<experiment>/notebooks/`.

    Args:
        folder: The experiment's folder.
        trainings: Runs whose training is told, as in `arcface-s0`.
        with_faces: Whether pictures of faces may be shown, see `read_chapter`.

    Returns:
        The story, then the others by their numbers. That of face ageing is not missed: few experiments have it.

    Raises:
        ConfigError: A copy cannot be read.
    """
    others = sorted(set(NOTEBOOK_SECTIONS) - {STORY_NOTEBOOK, REPORT_NOTEBOOK})
    chapters, missing = [], []
    for name in (STORY_NOTEBOOK, *others):
        stems = [f"{name}.{run}" for run in trainings] if name == TRAINING_NOTEBOOK else [name]
        copies = [path for stem in stems if (path := Path(folder) / "notebooks" / f"{stem}.ipynb").is_file()]
        if copies:
            chapters.append(read_chapter(copies, name, with_faces=with_faces))
        elif name != AGEING_NOTEBOOK:
            missing.append(name)
    return BoundNotebooks(chapters=tuple(chapters), missing=tuple(missing))


def chapters_table(chapters: Sequence[Chapter]) -> pd.DataFrame:
    """List the chapters.

    Args:
        chapters: As `bind_notebooks` gives them.

    Returns:
        One row a chapter: notebook, title, figures, tables, when it was executed (UTC) and how long that took.
    """
    return pd.DataFrame(
        [
            {
                "notebook": chapter.notebook,
                "title": chapter.title,
                "figures": chapter.n_pictures,
                "tables": chapter.n_tables,
                "executed": f"{chapter.executed:%Y-%m-%d %H:%M}" if chapter.executed else "",
                "seconds": chapter.seconds,
            }
            for chapter in chapters
        ],
        columns=["notebook", "title", "figures", "tables", "executed", "seconds"],
    )


def describe_missing(missing: Sequence[str], experiment: str) -> str:
    """Say which notebooks are not in the report, and how to have them in it.

    Args:
        missing: Notebooks without an executed copy.
        experiment: Name of the experiment.

    Returns:
        A sentence or two.
    """
    if not missing:
        return "All notebooks of the sequence are in this report."
    names = listed([f"`{name}`" for name in missing])
    return (
        f"Not in this report, because no executed copy lies in `{experiment}/notebooks/`: {names}. "
        "`interproto reproduce` leaves one of each; so does `interproto run-notebook` for a single notebook."
    )


def describe_opening(bound: BoundNotebooks, experiment: str) -> str:
    """Say what a report is, for under its title.

    Args:
        bound: As `bind_notebooks` gives them.
        experiment: Name of the experiment.

    Returns:
        Markdown: when and by what it was bound, how to read it, what is missing.
    """
    days = sorted({f"{chapter.executed:%Y-%m-%d}" for chapter in bound.chapters if chapter.executed})
    when = f", executed {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    now = datetime.datetime.now(datetime.UTC)
    return (
        f"{len(bound.chapters)} notebooks of experiment `{experiment}`{when}, bound on {now:%Y-%m-%d %H:%M} UTC by "
        f"interproto-lib {__version__}. This file holds everything and loads nothing. Chapters are numbered as the "
        "notebooks that they were; sentences with numbers were computed from this experiment's results. "
        f"{describe_missing(bound.missing, experiment)}"
    )


def environment_appendix(folder: str | Path, trainings: Sequence[str]) -> Appendix:
    """Tell on what machines and with what software an experiment was computed.

    Args:
        folder: The experiment's folder; the records in `results/` hold the environment of each notebook.
        trainings: Runs whose own records count too.

    Returns:
        A table with a column for each environment that differs from the others, and what was computed there.
    """
    places = sorted(Path(folder).glob("results/*.json"))
    places += [path for run in trainings for path in sorted((Path(folder) / run).glob("results/*.json"))]
    seen: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for path in places:
        name = path.stem if path.parent.parent == Path(folder) else f"{path.parent.parent.name}, {path.stem}"
        if name != REPORT_NOTEBOOK:
            facts = _facts(path)
            seen.setdefault(json.dumps(facts, sort_keys=True), (facts, []))[1].append(name)
    if not seen:
        return Appendix(title="Environment", blocks=(Prose(text="No notebook has left a record in `results/` yet."),))
    columns = [f"environment {i + 1}" if len(seen) > 1 else "value" for i in range(len(seen))]
    rows = dict.fromkeys(key for facts, _ in seen.values() for key in facts)
    table = pd.DataFrame(
        [[key, *(str(facts.get(key, "–")) for facts, _ in seen.values())] for key in rows], columns=["what", *columns]
    )
    same = (
        "All of it was computed in one environment."
        if len(seen) == 1
        else (
            f"It was computed in {len(seen)} environments, which differ in software, machine or commit:\n\n"
            + "\n".join(
                f"- {column}: {listed(names)}" for column, (_, names) in zip(columns, seen.values(), strict=True)
            )
        )
    )
    html = styled_table(table, "Software and machine").to_html()
    return Appendix(title="Environment", blocks=(Prose(text=same, is_computed=True), HtmlTable(html=html)))


def write_report(
    folder: str | Path,
    bound: BoundNotebooks,
    views: Mapping[tuple[str, str], EmbeddedView | None],
    appendices: Sequence[Appendix],
    *,
    opening: str,
) -> WrittenReport:
    """Write the report of an experiment as one HTML file that needs nothing else.

    Args:
        folder: The experiment's folder; the file is `report.html` in it.
        bound: As `bind_notebooks` gives them.
        views: Notebook and cell -> the live view that stands with it; None for one that cannot be made.
        appendices: Stand at the end.
        opening: Markdown under the title.

    Returns:
        The file, and what it holds.

    Raises:
        ConfigError: The page would load something from a host.
        WriteError: The file cannot be written.
    """
    experiment = Path(folder).name
    there = {place: view for place, view in views.items() if view is not None}
    page = report_page(bound.chapters, there, appendices, title=f"Report of experiment {experiment}", opening=opening)
    loads = remote_loads(page.html)
    if loads:
        raise ConfigError(f"the report would load {', '.join(loads[:5])}; it must hold everything itself.")
    path = Path(folder) / REPORT_FILE
    with atomic_write(path) as temporary:
        temporary.write_text(page.html, encoding="utf-8")
    return WrittenReport(
        path=path,
        n_bytes=path.stat().st_size,
        n_figures=page.n_figures,
        n_tables=page.n_tables,
        n_views=page.n_views,
        n_chapters=len(bound.chapters),
        missing=bound.missing,
    )


def describe_report(written: WrittenReport) -> str:
    """Say what was written.

    Args:
        written: The report.

    Returns:
        One or two sentences.
    """
    return (
        f"`{written.path}`: {written.n_bytes / _MEGABYTE:.1f} MB, {written.n_chapters} notebooks, {written.n_figures} "
        f"figures, {written.n_tables} tables and {written.n_views} live views. "
        f"{describe_missing(written.missing, written.path.parent.name)}"
    )


def report_results(written: WrittenReport) -> list[Result]:
    """Give the size of a report as a result.

    Args:
        written: The report.
    """
    return [
        Result(
            name="report/size",
            value=written.n_bytes / _MEGABYTE,
            unit="MB",
            n=written.n_chapters,
            n_of="notebooks",
            note=describe_missing(written.missing, written.path.parent.name),
        )
    ]


def _facts(path: Path) -> dict[str, Any]:
    """The environment that a record was made in, flat, without its time."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["environment"]
        packages = dict(record.get("packages", {}))
        return {k: record[k] for k in ("python", "platform", "cpus", "commit") if k in record} | packages
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} holds no record of an environment ({error!r}). Run its notebook again.") from error
