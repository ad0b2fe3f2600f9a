"""Ages of a dataset's images: Fig. 1 of the paper, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from interproto_lib.data.manifests import CHILD_BELOW_YEARS, summarise_manifest
from interproto_lib.views.style import (
    ADULT_COLOUR,
    CHILD_COLOUR,
    PAGE_WIDTH_INCHES,
    UNLABELLED_COLOUR,
    LabelledFigure,
    figure_style,
    new_figure,
)
from interproto_lib.views.wording import age_group_words, listed

SPLIT_TITLES = {"train": "Training images", "validation": "Validation images", "heldout": "Held-out images"}
"""How the splits of a manifest are called in a figure, in the order of the panels."""


def age_distribution_figure(manifest: pd.DataFrame) -> LabelledFigure:
    """Draw how many images each age group has, one panel a split that has images.

    Source: Fig. 1, with the age groups of section 3. Unlike there, images without an age label are not counted with
    any group; they have a bar of their own.

    Args:
        manifest: A manifest, one row an image (see `interproto_lib.data.validate_manifest`).

    Returns:
        The figure; each bar carries its count and its share of the split.

    Raises:
        ManifestError: The manifest breaks a rule.
    """
    counts = summarise_manifest(manifest).to_frame()
    counts = counts.loc[:, counts.sum() > 0]
    description = "Bar chart of the number of images in each age group. " + describe_ages(manifest)
    with figure_style():
        figure = new_figure(PAGE_WIDTH_INCHES, 0.55 + 1.75 * counts.shape[1], description=description)
        panels = figure.subplots(counts.shape[1], 1, sharex=True, squeeze=False)[:, 0]
        for panel, split in zip(panels, counts.columns, strict=True):
            _draw_age_bars(panel, counts[split])
            panel.set_title(f"{SPLIT_TITLES[split]}, n = {counts[split].sum():,}", loc="left")
            panel.set_ylabel("Images")
        panels[-1].set_xlabel("Age group (years)")
    return figure


def _draw_age_bars(panel: Axes, counts: pd.Series) -> None:
    colours = [CHILD_COLOUR, *[ADULT_COLOUR] * (len(counts) - 2), "white"]
    positions = np.arange(len(counts), dtype=float)
    positions[-1] += 0.35
    bars = panel.bar(positions, counts.to_numpy(), width=0.72, color=colours, edgecolor=colours, linewidth=0.8)
    bars[0].set(edgecolor="#1A1A1A", linewidth=1.2)
    bars[-1].set(edgecolor=UNLABELLED_COLOUR, hatch="////")
    labels = [f"{count:,}\n{count / counts.sum():.1%}" if count else "0" for count in counts]
    panel.bar_label(bars, labels=labels, padding=2, fontsize=7.5, linespacing=1.05)
    names = [age_group_words(str(name)) for name in counts.index]
    panel.set_xticks(positions, [f"{names[0]}\n(child)", *names[1:-1], "no age\nlabel"])
    panel.tick_params(axis="x", length=0)
    panel.set_ylim(0, 1.36 * float(counts.max()))
    panel.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    panel.yaxis.set_major_formatter("{x:,.0f}")


def describe_ages(manifest: pd.DataFrame) -> str:
    """Say in words how many images show children and how many have no age.

    Args:
        manifest: As for `age_distribution_figure`.

    Returns:
        One sentence a split that has images.
    """
    sentences = []
    for split, title in SPLIT_TITLES.items():
        ages = manifest.loc[manifest["split"] == split, "age_years"]
        if ages.empty:
            continue
        n_labelled, n_child = int(ages.notna().sum()), int((ages < CHILD_BELOW_YEARS).sum())
        n_unlabelled = len(ages) - n_labelled
        if n_labelled == 0:
            sentences.append(
                f"{title}: none of the {len(ages):,} has an age label, so children cannot be told from adults."
            )
            continue
        children = f"none shows a child under {CHILD_BELOW_YEARS:.0f}"
        if n_child:
            verb = "shows" if n_child == 1 else "show"
            share = f"{n_child / n_labelled:.1%} of the {n_labelled:,} labelled ones"
            children = f"{n_child:,} {verb} a child under {CHILD_BELOW_YEARS:.0f} ({share})"
        unlabelled = f"{n_unlabelled:,} of {len(ages):,} have no age label" if n_unlabelled else "all have an age label"
        sentences.append(f"{title}: {children}; {unlabelled}.")
    return " ".join(sentences)


def describe_child_identities(classes: pd.DataFrame, *, min_child_images: int) -> str:
    """Say how many training identities count as child identities.

    Args:
        classes: One row a training identity, as `interproto_lib.data.class_table` gives it.
        min_child_images: Child images that make a child identity.

    Returns:
        One or two sentences; where there are fewer than two, also what the loss can still act on.
    """
    n_child = int((classes["n_child_images"] >= min_child_images).sum())
    n_some = int((classes["n_child_images"] > 0).sum())
    text = (
        f"With at least {min_child_images} child images an identity counts as a child identity: {n_child:,} of "
        f"{len(classes):,} do, {n_some:,} have at least one child image."
    )
    if n_child < 2:
        text += " The Inter-Prototype loss needs two; it can only act on all prototypes here (`inter_prototype = all`)."
    return text


def describe_pair_kinds(kinds: Mapping[str, int], *, split: str = "heldout") -> str:
    """Say which kinds of verification the images of a split allow.

    Args:
        kinds: Kind of pair -> pairs of one person, as `interproto_lib.data.available_pair_kinds` gives it.
        split: The split they were counted in, a key of `SPLIT_TITLES`.

    Returns:
        One or two sentences.
    """
    title = SPLIT_TITLES[split]
    possible = [f"{kind} ({n:,} pairs of one person)" for kind, n in kinds.items() if n]
    missing = [kind for kind, n in kinds.items() if not n]
    if not possible:
        return f"{title}: no identity has two, so nothing can be verified."
    text = f"{title} allow {listed(possible)}."
    return f"{text} They do not allow {listed(missing)}." if missing else text
