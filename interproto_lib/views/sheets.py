"""Contact sheets: what the images of a few identities look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.errors import DatasetError
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    UNLABELLED_COLOUR,
    LabelledFigure,
    figure_style,
    new_figure,
)

_NAME_INCHES = 0.8
_LABEL_INCHES = 0.19
_LEGEND_INCHES = 0.26
_CHILD_FRAME, _FRAME = 2.6, 1.0


def contact_sheet_rows(
    ages_years: np.ndarray,
    identities: Sequence[str],
    *,
    n_identities: int = 6,
    n_images: int = 9,
    seed: int = 0,
    child_below_years: float = CHILD_BELOW_YEARS,
) -> np.ndarray:
    """Choose images for a contact sheet: few identities, each over its whole range of ages.

    Identities with child images come first, so that a dataset with few children shows some.

    Args:
        ages_years: Age of each image in years, shape (n,), NaN where unlabelled.
        identities: Identity of each image, length n.
        n_identities: Identities to choose.
        n_images: Images an identity to choose, evenly over its images sorted by age.
        seed: Seed of the choice of identities.
        child_below_years: An image is a child's below this age.

    Returns:
        Row positions, identity by identity, each by rising age; at most `n_identities` x `n_images`.
    """
    ages = np.asarray(ages_years, dtype=np.float64)
    names = np.asarray(identities, dtype=object)
    generator = np.random.default_rng(seed)
    with_children = {name for name, age in zip(names, ages, strict=True) if age < child_below_years}
    shuffled = generator.permutation(np.array(sorted(set(names)), dtype=object))
    chosen = sorted(shuffled, key=lambda name: name not in with_children)[:n_identities]
    rows = []
    for name in chosen:
        of_identity = np.flatnonzero(names == name)
        by_age = of_identity[np.argsort(ages[of_identity], kind="stable")]
        picks = np.linspace(0, len(by_age) - 1, min(n_images, len(by_age))).round().astype(np.int64)
        rows.append(by_age[picks])
    return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


def contact_sheet_figure(
    images: np.ndarray,
    ages_years: np.ndarray,
    identities: Sequence[str],
    *,
    max_columns: int = 9,
    child_below_years: float = CHILD_BELOW_YEARS,
) -> LabelledFigure:
    """Draw images with their ages, one row an identity; children have a thick orange frame, adults a thin blue one.

    Args:
        images: The images, shape (n, height, width, 3), uint8 RGB.
        ages_years: Age of each image in years, shape (n,), NaN where unlabelled.
        identities: Identity of each image, length n; equal names stand in one row, in the order given.
        max_columns: Images an identity to show; the others are left out and counted at the end of the row's name.
        child_below_years: An image is a child's below this age.

    Returns:
        The figure.

    Raises:
        DatasetError: There is no image, or lengths differ.
    """
    ages = np.asarray(ages_years, dtype=np.float64)
    if len(images) == 0 or not len(images) == len(ages) == len(identities):
        raise DatasetError(
            f"A contact sheet needs one age and one identity an image; got {len(images)} images, {len(ages)} ages, "
            f"{len(identities)} identities."
        )
    rows: dict[str, list[int]] = {}
    for position, identity in enumerate(identities):
        rows.setdefault(str(identity), []).append(position)
    n_columns = min(max_columns, max(map(len, rows.values())))
    side = (PAGE_WIDTH_INCHES - _NAME_INCHES) / max(n_columns, 6)
    is_child = ages < child_below_years
    description = f"Contact sheet of {len(rows)} identities, {is_child.sum()} of {len(images)} images show a child."
    width, height = _NAME_INCHES + side * n_columns, (side + _LABEL_INCHES) * len(rows) + _LEGEND_INCHES
    with figure_style():
        figure = new_figure(width, height, description=description)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # one panel in inches: far faster to draw than one an image
        axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        axes.set_axis_off()
        for line, (identity, positions) in enumerate(rows.items()):
            top = line * (side + _LABEL_INCHES) + _LABEL_INCHES
            hidden = len(positions) - n_columns
            name = f"{_shortened(identity)}\n+{hidden} more" if hidden > 0 else _shortened(identity)
            axes.text(_NAME_INCHES - 0.08, top + side / 2, name, ha="right", va="center", fontsize=7.5)
            for column, position in enumerate(positions[:n_columns]):
                left = _NAME_INCHES + column * side
                _draw_face(
                    axes, images[position], ages[position], left=left, top=top, side=side, is_child=is_child[position]
                )
        handles = _frames(ages, is_child, child_below_years)
        figure.legend(handles=handles, loc="lower center", ncols=3, handlelength=1.2, borderaxespad=0.3)
    return figure


def _frames(ages_years: np.ndarray, is_child: np.ndarray, child_below_years: float) -> list[Patch]:
    """Say what the frames mean that are there."""
    unlabelled = np.isnan(ages_years)
    kinds = (
        (is_child, CHILD_COLOUR, f"child, below {child_below_years:g} years", _CHILD_FRAME),
        (~is_child & ~unlabelled, ADULT_COLOUR, "older", _FRAME),
        (unlabelled, UNLABELLED_COLOUR, "age not known", _FRAME),
    )
    return [
        Patch(facecolor="none", edgecolor=colour, linewidth=width, label=label)
        for there, colour, label, width in kinds
        if there.any()
    ]


def _draw_face(
    axes: Axes, image: np.ndarray, age_years: float, *, left: float, top: float, side: float, is_child: bool
) -> None:
    colour = UNLABELLED_COLOUR if np.isnan(age_years) else CHILD_COLOUR if is_child else ADULT_COLOUR
    label = "age ?" if np.isnan(age_years) else f"{int(age_years)} y"
    left, right, top, bottom = left + 0.03, left + side - 0.03, top + 0.03, top + side - 0.03
    axes.imshow(image, interpolation="lanczos", extent=(left, right, bottom, top), aspect="auto")
    frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour)
    frame.set_linewidth(_CHILD_FRAME if is_child else _FRAME)
    axes.add_patch(frame)
    weight = "bold" if is_child else "normal"
    axes.text((left + right) / 2, top - 0.03, label, ha="center", va="bottom", fontsize=7.5, fontweight=weight)


def _shortened(name: str, length: int = 14) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
