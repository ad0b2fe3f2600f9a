"""What was found of a dataset, in words and tables: how it lay, what its card says, labels, people seen twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from interproto_lib.data.card_counts import CardCount
from interproto_lib.data.manifests import CHILD_BELOW_YEARS, SPLITS
from interproto_lib.data.seen_twice import SeenTwice
from interproto_lib.views.wording import listed

PAPER_CHILD_IMAGES = (9_326, 490_623)
"""Child images and all images of CASIA-WebFace, by the pseudo-labels of Fig. 1."""

PAPER_CHILD_IDENTITIES = {"CASIA-WebFace": (229, 10_572), "MS1MV2": (1_148, 85_742)}
"""Identities with ten child images or more, and all identities (paper, section 5.1)."""

_MAX_NAMED = 5


def describe_layout(settings: Mapping[str, Any]) -> str:
    """Say where the images of a dataset came from, and what was left out.

    Args:
        settings: The dataset's settings, as it was made with.

    Returns:
        A few sentences.
    """
    if "root" not in settings:
        return "The faces are drawn by formula: there are no files to check, every image has its exact age."
    sentences = [f"The images were read from `{settings['root']}`, which lies as `{settings['format']}`."]
    sizes = settings.get("original_sizes") or {}
    if sizes:
        named = listed([f"{size.replace('x', ' x ')} ({count:,})" for size, count in list(sizes.items())[:_MAX_NAMED]])
        rest = "" if len(sizes) <= _MAX_NAMED else f" and {len(sizes) - _MAX_NAMED} other sizes"
        treated = settings.get("fit", "error")
        ways = {"error": "", "pad": ", scaled and padded", "crop": ", scaled and cropped", "stretch": ", stretched"}
        sentences.append(f"Their sizes in pixels: {named}{rest}{ways[treated]}.")
    others = settings.get("files_not_read") or {"count": 0, "examples": []}
    if others["count"]:
        named = ", ".join(others["examples"][:_MAX_NAMED])
        not_read = "1 other file was" if others["count"] == 1 else f"{others['count']:,} other files were"
        sentences.append(f"{not_read} not read, such as {named}.")
    dropped = settings.get("dropped") or []
    if dropped:
        named = "; ".join(f"{image['path']}: {image['reason']}" for image in dropped[:_MAX_NAMED])
        images = "1 image" if len(dropped) == 1 else f"{len(dropped):,} images"
        sentences.append(f"{images} could not be used, hence left out ({named}).")
    else:
        sentences.append("Every image could be read.")
    return " ".join(sentences)


def card_counts_table(counts: Sequence[CardCount]) -> pd.DataFrame:
    """Lay the counts of a dataset beside those of its card.

    Args:
        counts: As `interproto_lib.data.count_dataset` gives them.

    Returns:
        One row a count: `counted`, `found`, `on_the_card`, `what_a_difference_means`; what is unknown is empty.
    """
    return pd.DataFrame(
        {
            "counted": [count.key.replace("_", " ") for count in counts],
            "found": ["" if count.found is None else f"{count.found:,}" for count in counts],
            "on_the_card": ["" if count.expected is None else f"{count.expected:,}" for count in counts],
            "what_a_difference_means": [count.meaning for count in counts],
        }
    )


def label_coverage_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count images with and without an age, split by split.

    Args:
        manifest: A manifest, one row an image.

    Returns:
        One row a split that has images: `split`, `images`, `labelled`, `unlabelled`, `child_images`,
        `labelled_percent`.
    """
    rows = []
    for split in SPLITS:
        ages = manifest.loc[manifest["split"] == split, "age_years"]
        if len(ages):
            n_labelled = int(ages.notna().sum())
            rows.append(
                {
                    "split": split,
                    "images": len(ages),
                    "labelled": n_labelled,
                    "unlabelled": len(ages) - n_labelled,
                    "child_images": int((ages < CHILD_BELOW_YEARS).sum()),
                    "labelled_percent": 100 * n_labelled / len(ages),
                }
            )
    return pd.DataFrame(rows)


def describe_paper_ages(manifest: pd.DataFrame, classes: pd.DataFrame) -> str:
    """Lay the children of a training set beside those of the paper's training sets.

    Args:
        manifest: A manifest; its training images are counted.
        classes: One row a training identity, as `interproto_lib.data.class_table` gives it.

    Returns:
        Two sentences; where no training image has an age, one that says so.
    """
    n_child, n_images = PAPER_CHILD_IMAGES
    identities = listed([f"{k:,} of {n:,} ({name})" for name, (k, n) in PAPER_CHILD_IDENTITIES.items()])
    paper = (
        f"In the paper {n_child:,} of the {n_images:,} images of CASIA-WebFace ({n_child / n_images:.1%}) show a "
        f"child, and {identities} identities have ten child images or more, by pseudo-labels."
    )
    ages = manifest.loc[manifest["split"] == "train", "age_years"].dropna()
    if ages.empty:
        return f"{paper} No training image here has an age, so nothing can be laid beside that."
    n_children = int((ages < CHILD_BELOW_YEARS).sum())
    n_with_ten = int((classes["n_child_images"] >= 10).sum())
    return (
        f"{paper} Here {n_children:,} of {len(ages):,} labelled training images do ({n_children / len(ages):.1%}), and "
        f"{n_with_ten:,} of {len(classes):,} training identities have ten or more."
    )


def describe_seen_twice(found: SeenTwice) -> str:
    """Say which people and images that are judged were seen among the training images.

    Args:
        found: As `interproto_lib.data.find_seen_twice` gives it.

    Returns:
        A few sentences, with the first names and paths.
    """
    identities, images = found.identities, found.images
    n_equal = int(images["is_equal"].sum())
    near = images[~images["is_equal"].astype(bool)]
    other_people = near[near["first_identity"] != near["second_identity"]]
    sentences = [f"Among {found.where} ({found.n_images:,}):"]
    if identities.empty:
        sentences.append("no identity has the name of a training identity;")
    else:
        named = ", ".join(identities["second_identity"].head(_MAX_NAMED))
        sentences.append(f"**{len(identities):,} identities have the name of a training identity** ({named});")
    if n_equal:
        named = ", ".join(images.loc[images["is_equal"].astype(bool), "second_path"].head(_MAX_NAMED))
        sentences.append(f"**{n_equal:,} images are equal to a training image** in every pixel ({named});")
    else:
        sentences.append("no image is equal to a training image;")
    if near.empty:
        sentences.append("none looks like one.")
    else:
        named = ", ".join(near["second_path"].head(_MAX_NAMED))
        sentences.append(
            f"{len(near):,} look like one ({named}), {len(other_people):,} of them like an image of another identity: "
            "a hint to look at them, no proof."
        )
    return " ".join(sentences)
