"""Contact sheet of the images that could not be used: what they look like, and why."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from interproto_lib.data.formats.image_files import decode_image_bytes
from interproto_lib.errors import ConfigError, DatasetError
from interproto_lib.files import atomic_write
from interproto_lib.views.style import PAGE_WIDTH_INCHES, LabelledFigure, figure_style, new_figure

MAX_REJECTS_SHOWN = 60
"""How many images a sheet shows at most."""

_N_COLUMNS = 6
_MARGIN = 0.1
_HEADING_INCHES = 0.34
_LINE_INCHES = 0.115
_REASON_LINES = 4
_NAME_CHARACTERS, _REASON_CHARACTERS = 19, 23
_THUMBNAIL_PIXELS = 240
_DPI = 200
_REASON_COLOUR = "#9A3B00"  # dark enough to be read on white
_KIND_ENDS = re.compile(r" \(|[:;]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def rejects_to_show(reasons: Sequence[str], *, n: int = MAX_REJECTS_SHOWN) -> list[int]:
    """Choose rejected images for a contact sheet: of every kind of reason some, as far as there is room.

    Kinds take turns, so that a rare kind is not crowded out by a frequent one.

    Args:
        reasons: Why each image was rejected (k,); reasons are of one kind when they are alike up to the first bracket,
            colon or semicolon, whatever their numbers.
        n: How many to choose at most.

    Returns:
        Positions of the chosen ones, at most `n`, ascending.

    Example:
        >>> rejects_to_show(["no face found (0.1)", "no face found (0.2)", "no face found (0.3)", "too small"], n=2)
        [0, 3]
    """
    by_kind: dict[str, list[int]] = {}
    for position, reason in enumerate(reasons):
        by_kind.setdefault(_kind(reason), []).append(position)
    turns = [position for turn in zip_longest(*by_kind.values()) for position in turn if position is not None]
    return sorted(turns[:n])


def rejects_figure(
    rejected: Sequence[tuple[str, str, bytes]], *, n_more: int = 0, max_images: int = MAX_REJECTS_SHOWN
) -> LabelledFigure:
    """Draw rejected images with their names and reasons, the most frequent kind of reason first.

    Args:
        rejected: Path, reason and encoded bytes of each image (k); where the bytes cannot be read, a crossed square
            stands for the image.
        n_more: How many further images were rejected that are not among them.
        max_images: How many to draw at most (see `rejects_to_show`); the figure says how many there are beside them.

    Returns:
        The figure.

    Raises:
        ConfigError: Nothing was rejected, or a number is out of range.
    """
    if not rejected or n_more < 0 or max_images < 1:
        raise ConfigError(
            f"A sheet of rejected images needs at least one image; got {len(rejected)}, n_more {n_more}, max_images "
            f"{max_images}."
        )
    shown = rejects_to_show([reason for _, reason, _ in rejected], n=max_images)
    kinds: dict[str, list[int]] = {}
    for position in shown:
        kinds.setdefault(_kind(rejected[position][1]), []).append(position)
    counts = {kind: sum(_kind(reason) == kind for _, reason, _ in rejected) for kind in kinds}
    order = sorted(kinds, key=lambda kind: -counts[kind])
    n_all = len(rejected) + n_more
    title = f"{n_all:,} {'image was' if n_all == 1 else 'images were'} rejected"
    if n_all > len(shown):
        title += f": {len(shown):,} are shown, {n_all - len(shown):,} more are not"
    side = (PAGE_WIDTH_INCHES - 2 * _MARGIN) / _N_COLUMNS
    row_heights = {kind: _row_height([rejected[position][1] for position in kinds[kind]], side) for kind in order}
    rows_height = sum(row_heights[kind] * -(-len(kinds[kind]) // _N_COLUMNS) for kind in order)
    height = _HEADING_INCHES * (len(order) + 1) + rows_height + _MARGIN
    description = f"Contact sheet of rejected images. {title}: " + ", ".join(
        f"{len(kinds[kind])} x {kind}" for kind in order
    )
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, height, description=description + ".")
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # one panel in inches: far faster to draw than one an image
        axes.set(xlim=(0, PAGE_WIDTH_INCHES), ylim=(height, 0), autoscale_on=False)
        axes.set_axis_off()
        _write(axes, _MARGIN, 0.24, title, fontsize=10, fontweight="bold")
        top = _HEADING_INCHES
        for kind in order:
            n_of_kind = f"{len(kinds[kind])} shown" if n_more else f"{len(kinds[kind])} of {counts[kind]:,}"
            _write(axes, _MARGIN, top + 0.22, f"{_line(kind, 90)}  ({n_of_kind})", fontsize=8.5, fontweight="bold")
            axes.plot([_MARGIN, PAGE_WIDTH_INCHES - _MARGIN], [top + 0.275] * 2, color="#C8C8C8", linewidth=0.6)
            top += _HEADING_INCHES
            for number, position in enumerate(kinds[kind]):
                row, column = divmod(number, _N_COLUMNS)
                left, upper = _MARGIN + column * side, top + row * row_heights[kind]
                _draw_reject(axes, rejected[position], left=left, top=upper, side=side)
            top += row_heights[kind] * -(-len(kinds[kind]) // _N_COLUMNS)
    return figure


def write_rejects_sheet(
    rejected: Sequence[tuple[str, str, bytes]],
    file: str | Path,
    *,
    n_more: int = 0,
    max_images: int = MAX_REJECTS_SHOWN,
) -> Path:
    """Write a contact sheet of rejected images as a PNG, for the person who prepares the data.

    It may show faces of real people. Nothing writes it unless asked to, and it belongs into the folder of the prepared
    dataset alone: not into a report, not into a notebook, and not where others read.

    Args:
        rejected: Path, reason and encoded bytes of each image (see `rejects_figure`).
        file: The PNG to write.
        n_more: How many further images were rejected that are not among them.
        max_images: How many to draw at most.

    Returns:
        The file.

    Raises:
        ConfigError: Nothing was rejected, a number is out of range, or `file` does not end in .png.
        WriteError: The file cannot be written.
    """
    target = Path(file)
    if target.suffix.lower() != ".png":
        raise ConfigError(f"{target} does not end in .png, the format of the sheet.")
    figure = rejects_figure(rejected, n_more=n_more, max_images=max_images)
    with warnings.catch_warnings(), atomic_write(target) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": "interproto_lib"})
    return target


def _draw_reject(axes: Axes, reject: tuple[str, str, bytes], *, left: float, top: float, side: float) -> None:
    path, reason, content = reject
    space = 0.05
    inner = side - 2 * space
    left, top = left + space, top + space
    pixels = _thumbnail(content)
    if pixels is None:
        axes.add_patch(Rectangle((left, top), inner, inner, facecolor="#F0F0F0", edgecolor="#B0B0B0", linewidth=0.7))
        for start, end in ((top, top + inner), (top + inner, top)):
            axes.plot([left, left + inner], [start, end], color="#B0B0B0", linewidth=0.7)
    else:
        height, width = pixels.shape[:2]
        scale = inner / max(height, width)
        x, y = left + (inner - width * scale) / 2, top + (inner - height * scale) / 2
        extent = (x, x + width * scale, y + height * scale, y)
        axes.imshow(pixels, interpolation="lanczos", extent=extent, aspect="auto")
        frame = Rectangle((x, y), width * scale, height * scale, fill=False, edgecolor="#808080", linewidth=0.6)
        axes.add_patch(frame)
    name = _CONTROL.sub("?", path)
    shortened = name if len(name) <= _NAME_CHARACTERS else "…" + name[1 - _NAME_CHARACTERS :]
    _write(axes, left, top + inner + _LINE_INCHES, shortened, fontsize=6.5)
    for number, line in enumerate(_reason_lines(reason)):
        _write(axes, left, top + inner + (number + 2) * _LINE_INCHES, line, fontsize=6.5, color=_REASON_COLOUR)


def _row_height(reasons: Sequence[str], side: float) -> float:
    return side + (1 + max(len(_reason_lines(reason)) for reason in reasons)) * _LINE_INCHES + 0.08


def _reason_lines(reason: str) -> list[str]:
    lines = textwrap.wrap(_CONTROL.sub("?", reason), _REASON_CHARACTERS) or [""]
    if len(lines) > _REASON_LINES:
        lines = [*lines[: _REASON_LINES - 1], _line(" ".join(lines[_REASON_LINES - 1 :]), _REASON_CHARACTERS)]
    return lines


def _thumbnail(content: bytes) -> np.ndarray | None:
    try:
        image = decode_image_bytes(content)
    except DatasetError:
        return None
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image)


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, ha="left", va="baseline", parse_math=False, **style)


def _line(text: str, length: int) -> str:
    plain = _CONTROL.sub("?", text)
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def _kind(reason: str) -> str:
    return re.sub(r"\d[\d.,]*", "#", _KIND_ENDS.split(reason, maxsplit=1)[0])
