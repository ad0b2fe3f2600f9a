"""The two images of a cell that a run takes for most similar, as a page shows them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.data.datasets import FaceDataset, load_dataset
from interproto_lib.errors import DatasetError
from interproto_lib.views.explorer.cell_details import CellReason
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.explored_run import ExploredRun
from interproto_lib.views.style import ADULT_COLOUR, CHILD_COLOUR, UNLABELLED_COLOUR
from interproto_lib.views.wording import number

_WIDTH_PIXELS = 104


def may_draw_faces(explored: ExploredRuns, *, show_faces: bool) -> bool:
    """Say whether images may be drawn: those drawn by formula always, photographs of people only when asked for.

    Args:
        explored: The runs.
        show_faces: Whether photographs of real people are asked for.
    """
    return show_faces or all(bool((run.manifest["source"] == "synthetic").all()) for run in explored.runs)


def closest_faces(explored: ExploredRuns, reason: CellReason) -> str:
    """Show for each run the two images of a cell that it takes for most similar, with the ages; child images framed.

    They are written as HTML, not drawn as a figure, so that they are there at once.

    Args:
        explored: The runs.
        reason: What stands behind the cell.

    Returns:
        The HTML, which holds the images; empty where no run has a pair of images.

    Raises:
        DatasetError: The dataset is another one than the run's.
        DatasetNotFoundError: The experiment has no dataset.
    """
    of_runs = []
    for run, pairs in zip(explored.runs, reason.pairs, strict=True):
        if pairs.closest is None:
            continue
        names = (str(explored.names[position]) for position in (reason.row, reason.column))
        faces = "".join(_face(run, row, name) for row, name in zip(pairs.closest, names, strict=True))
        title = f"{html.escape(run.name)}: {number(float(np.nanmax(pairs.cosines)))}"
        of_runs.append(f'<div><div>{title}</div><div style="display:flex;gap:6px">{faces}</div></div>')
    if not of_runs:
        return ""
    return f'<div class="ip-faces" style="display:flex;flex-wrap:wrap;gap:8px 28px">{"".join(of_runs)}</div>'


def _face(run: ExploredRun, row: int, name: str) -> str:
    """One image with the age under it; the frame of a child's is thicker, and its age bold."""
    from PIL import Image

    age_years = float(run.manifest["age_years"].iloc[row])
    is_child, is_aged = age_years < run.child_below_years, not np.isnan(age_years)
    colour = CHILD_COLOUR if is_child else ADULT_COLOUR if is_aged else UNLABELLED_COLOUR
    words = f"{age_years:.0f} years" if is_aged else "age unknown"
    file = io.BytesIO()
    Image.fromarray(_image_of(run, row)).save(file, format="png")
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<div style="text-align:center;line-height:1.4"><img alt="{html.escape(f"{name}, {words}")}" '
        f'width="{_WIDTH_PIXELS}" style="display:block;border:{3 if is_child else 1}px solid {colour};'
        f'box-sizing:content-box" src="data:image/png;base64,{content}">'
        f'<span style="font-weight:{600 if is_child else 400}">{words}</span></div>'
    )


def image_reader(folder: str | Path) -> Callable[[str], NDArray[np.uint8]]:
    """Give a function that reads the image of a path from a dataset folder; the folder is opened when it is called.

    Args:
        folder: A dataset folder, such as `dataset` in an experiment.

    Returns:
        Path in the manifest -> (size, size, 3) uint8 RGB; it raises DatasetError where there is no such image.
    """
    place = Path(folder).resolve()

    def read(path: str) -> NDArray[np.uint8]:
        dataset, rows = _dataset(place)
        if path not in rows.index:
            raise DatasetError(f"{place} holds no image {path!r}: it is another dataset than the run's.")
        return np.asarray(dataset.images[int(rows[path])])

    return read


def _image_of(run: ExploredRun, row: int) -> NDArray[np.uint8]:
    return image_reader(run.run.path.parent / "dataset")(str(run.manifest["path"].iloc[row]))


@lru_cache(maxsize=4)
def _dataset(folder: Path) -> tuple[FaceDataset, pd.Series]:
    """The dataset in a folder, and the row of each of its paths."""
    dataset = load_dataset(folder)
    return dataset, pd.Series(np.arange(len(dataset.manifest)), index=dataset.manifest["path"].to_numpy(dtype=object))
