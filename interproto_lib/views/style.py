"""What every figure shares: colours, line styles, type sizes, how it is shown in a notebook and how it is saved."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from interproto_lib.files import atomic_write

CHILD_COLOUR = "#E69F00"
"""Children and child identities, always doubled by a triangle or a solid line."""

ADULT_COLOUR = "#0072B2"
"""Adults and identities without child images, always doubled by a circle or a dashed line."""

UNLABELLED_COLOUR = "#9A9A9A"
"""Images without an age, always doubled by hatching."""

PAGE_WIDTH_INCHES = 7.2
"""Width of a figure over two columns of a printed page; type sizes are real at this width."""

FIGURE_FORMATS = ("png", "svg", "pdf")
"""The formats that `save_figure` writes."""

_SAVED_DPI = 200
_SHOWN_DPI = 100

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#404040",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": "#1A1A1A",
    "axes.labelcolor": "#1A1A1A",
    "xtick.color": "#404040",
    "ytick.color": "#404040",
    "xtick.labelcolor": "#1A1A1A",
    "ytick.labelcolor": "#1A1A1A",
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "mathtext.default": "regular",
}

_SAVE_STYLE: Any = {"svg.hashsalt": "interproto_lib", "svg.fonttype": "path", "pdf.fonttype": 42}

_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": "interproto_lib"},
    "svg": {"Date": None, "Creator": "interproto_lib"},
    "pdf": {"CreationDate": None, "Creator": "interproto_lib", "Producer": "interproto_lib"},
}


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """How one method is drawn in every figure.

    Attributes:
        colour: Hex colour, distinct from those of children and adults.
        line: Line style of matplotlib.
        marker: Marker of matplotlib.
    """

    colour: str
    line: Any
    marker: str


_METHOD_CYCLE = (
    MethodStyle(colour="#1A1A1A", line="-", marker="o"),
    MethodStyle(colour="#009E73", line=(0, (5, 1.6)), marker="s"),
    MethodStyle(colour="#AA3377", line=(0, (1.2, 1.2)), marker="D"),
    MethodStyle(colour="#D55E00", line=(0, (6, 1.5, 1.2, 1.5)), marker="^"),
    MethodStyle(colour="#56B4E9", line=(0, (3, 1, 1, 1, 1, 1)), marker="v"),
    MethodStyle(colour="#7F7F7F", line=(0, (10, 3)), marker="P"),
    MethodStyle(colour="#332288", line=(0, (2, 2)), marker="*"),
    MethodStyle(colour="#999933", line=(0, (7, 1, 2, 1)), marker="<"),
    MethodStyle(colour="#882255", line=(0, (4, 1, 1, 1)), marker="X"),
    MethodStyle(colour="#44AA99", line=(0, (1, 2.2)), marker=">"),
    MethodStyle(colour="#CC79A7", line=(0, (8, 1.5, 1, 1.5, 1, 1.5)), marker="h"),
    MethodStyle(colour="#8C510A", line=(0, (3, 3)), marker="d"),
)


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """Give each method a colour, a line style and a marker, by its place in the order.

    The first method (by convention the baseline) is a solid near-black line. After twelve methods the styles repeat.

    Args:
        methods: Names of the methods, baseline first; repeated names count once.

    Returns:
        Name to style, in the given order.

    Example:
        >>> method_styles(["arcface", "inter_prototype"])["inter_prototype"].marker
        's'
    """
    names = dict.fromkeys(methods)
    return {name: _METHOD_CYCLE[i % len(_METHOD_CYCLE)] for i, name in enumerate(names)}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw within the style of the project, and leave the settings of matplotlib as they were afterwards."""
    with mpl.rc_context(_STYLE):
        yield


class LabelledFigure(Figure):
    """A matplotlib figure that knows what it shows, and shows itself sharply in a notebook.

    It is made without pyplot: nothing has to be closed, and a notebook does not draw it twice. Its background is
    opaque white, so that it also reads on a dark page.

    Attributes:
        description: What the figure shows in one or two sentences; becomes the alternative text of the image.
    """

    description: str = ""

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        buffer = io.BytesIO()
        with mpl.rc_context(_SAVE_STYLE):
            _space_once(self)
            self.savefig(buffer, format="png", dpi=2 * _SHOWN_DPI, metadata=_METADATA["png"])
        width, height = (round(side * _SHOWN_DPI) for side in self.get_size_inches())
        metadata = {"width": width, "height": height, "alt": self.description}
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii"), "text/plain": self.description}
        return data, {"image/png": metadata}


def new_figure(
    width_inches: float,
    height_inches: float,
    *,
    description: str,
    layout: Literal["constrained", "compressed"] = "constrained",
) -> LabelledFigure:
    """Make an empty white figure that spaces its panels itself.

    Args:
        width_inches: Width; `PAGE_WIDTH_INCHES` fills a page.
        height_inches: Height.
        description: What the figure will show, for readers who cannot see it.
        layout: `compressed` puts panels of fixed aspect close together.

    Returns:
        The figure, without axes.
    """
    figure = LabelledFigure(figsize=(width_inches, height_inches), dpi=_SHOWN_DPI, facecolor="white")
    figure.set_layout_engine(layout, w_pad=0.06, h_pad=0.06)
    figure.description = description
    return figure


def broken_rows(n_panels: int, n_columns: int, *, at_most: int = 3) -> tuple[list[tuple[int, int]], int, int]:
    """Place panels row by row, and break rows that are too wide for a page.

    The parts of a broken row are equally wide, but for the last, and each part stands with the same part of all other
    rows: so panels of one method, say, stay one below the other.

    Args:
        n_panels: How many panels there are, given row by row.
        n_columns: Panels in a row.
        at_most: Panels that fit side by side.

    Returns:
        Row and column of each panel, and how many rows and columns there are then.

    Example:
        >>> broken_rows(8, 4)
        ([(0, 0), (0, 1), (2, 0), (2, 1), (1, 0), (1, 1), (3, 0), (3, 1)], 4, 2)
    """
    n_rows, n_parts = -(-n_panels // n_columns), -(-n_columns // at_most)
    width = -(-n_columns // n_parts)
    places = []
    for index in range(n_panels):
        row, column = divmod(index, n_columns)
        part, column = divmod(column, width)
        places.append((part * n_rows + row, column))
    return places, n_rows * n_parts, width


def axes_at(grid: np.ndarray, place: tuple[int, ...]) -> Axes:
    """Give the axes of a place (row, column) of what `Figure.subplots` made with `squeeze=False`."""
    axes: Axes = grid[place]
    return axes


def sentence_figure(sentence: str) -> LabelledFigure:
    """Make a figure of one line of text, for where there is nothing to draw.

    Args:
        sentence: The text.

    Returns:
        The figure, without axes.
    """
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 0.4, description=sentence)
        figure.text(0.01, 0.5, sentence, verticalalignment="center")
    return figure


def save_figure(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG, SVG and PDF.

    Each file is written atomically and carries no date, so the same figure gives the same bytes.

    Args:
        figure: The figure.
        folder: Where to write; made if missing.
        name: File name without suffix.

    Returns:
        The three paths, in the order of `FIGURE_FORMATS`.

    Raises:
        WriteError: A file cannot be written.
    """
    paths = [Path(folder) / f"{name}.{suffix}" for suffix in FIGURE_FORMATS]
    with mpl.rc_context(_SAVE_STYLE):
        _space_once(figure)
        for path, suffix in zip(paths, FIGURE_FORMATS, strict=True):
            with atomic_write(path) as temporary:
                figure.savefig(temporary, format=suffix, dpi=_SAVED_DPI, metadata=_METADATA[suffix])
    return paths


def _space_once(figure: Figure) -> None:
    """Let the layout engine place the panels, then let it go: it would work as long again for each file format."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def similarity_colours() -> Colormap:
    """Give the map of similarities: seaborn's `vlag`, blue below 0, white at 0, red above; grey where missing.

    Returns:
        A colour map to be used with a range that is symmetric about 0.
    """
    import seaborn as sns

    return sns.color_palette("vlag", as_cmap=True).with_extremes(bad="#D9D9D9")


def symmetric_limit(arrays: Iterable[np.ndarray], *, quantile: float = 0.995, step: float = 0.05) -> float:
    """Choose one colour range [-limit, limit] for all arrays compared.

    Args:
        arrays: Values of every panel, of any shape; NaN is ignored.
        quantile: Share of absolute values that the range must hold, in (0, 1]; the rest is drawn in the end colours.
        step: The limit is rounded up to a multiple of it.

    Returns:
        The limit, at least `step`.

    Example:
        >>> symmetric_limit([np.array([0.02, -0.31]), np.array([0.1])], quantile=1.0)
        0.35
    """
    absolute = np.concatenate([np.abs(array[np.isfinite(array)]).ravel() for array in map(np.asarray, arrays)])
    if absolute.size == 0:
        return step
    return max(step, round(float(np.ceil(np.quantile(absolute, quantile) / step - 1e-9)) * step, 10))


_SPELT = {
    "arcface": "ArcFace",
    "cosface": "CosFace",
    "normface": "NormFace",
    "softmax": "Softmax",
    "sphereface": "SphereFace",
    "curricularface": "CurricularFace",
    "adaface": "AdaFace",
    "broadface": "BroadFace",
    "dal": "DAL",
    "mtlface": "MTLFace",
}


def display_names(names: Iterable[str], *, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Write the names of methods for people: those of the paper are spelt as there, others keep their words.

    Args:
        names: Names as in run folders, such as `inter_prototype_strong`.
        given: Spellings that take precedence.

    Returns:
        Name to spelling, in the given order.

    Example:
        >>> display_names(["arcface", "inter_prototype_strong"])
        {'arcface': 'ArcFace', 'inter_prototype_strong': 'Inter-Prototype strong'}
        >>> list(display_names(["mv-am-interproto", "oe-cnn", "dal"]).values())
        ['MV-AM Inter-Prototype', 'OE-CNN', 'DAL']
    """
    result = {}
    for name in names:
        text = re.sub("inter_?proto(type)?", "Inter-Prototype", name.replace("-", "_"))
        for spelling in ("MV-AM", "MV-Arc", "OE-CNN", "AE-CNN"):
            text = re.sub(rf"\b{spelling.replace('-', '_')}(?=_|$)", spelling, text, flags=re.IGNORECASE)
        text = " ".join(_SPELT.get(word, word) for word in text.split("_") if word)
        result[name] = (given or {}).get(name, text)
    return result
