"""Counting a dataset and laying the counts beside those on its card, each difference with what it usually means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.data.registry import MIN_CHILD_IMAGES, DatasetCard

COUNTED = ("identities", "images", "child_images", "child_classes")
"""What can be counted in images and ages; pairs are counted in lists of pairs and in verification files."""

_WORDS = {
    "identities": "identities",
    "images": "images",
    "child_images": "child images",
    "child_classes": f"child identities ({MIN_CHILD_IMAGES} child images or more)",
    "pairs": "pairs",
}


@dataclass(frozen=True, kw_only=True)
class CardCount:
    """One count, and the number on the card.

    Attributes:
        key: What is counted: one of `COUNTS` of `interproto_lib.data.registry`.
        found: How many there are; None where it cannot be counted.
        expected: How many the card names; None where it names no number.
        meaning: Why the two differ, or why nothing could be counted; empty otherwise.
    """

    key: str
    found: int | None
    expected: int | None
    meaning: str = ""

    @property
    def differs(self) -> bool:
        """Whether the card names a number and another one was found, or none."""
        return self.expected is not None and self.found != self.expected

    def to_dict(self) -> dict[str, Any]:
        """Give the count as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        found = "unknown" if self.found is None else f"{self.found:,}"
        line = f"{_WORDS.get(self.key, self.key)}: {found}"
        if self.expected is None:
            return f"{line} (the card names no number)" if not self.meaning else f"{line}. {self.meaning}"
        if self.found == self.expected:
            return f"{line}, as on the card"
        if self.found is None:
            return f"{line}, the card says {self.expected:,}. {self.meaning}"
        apart = self.found - self.expected
        more = "more" if apart > 0 else "fewer"
        return f"{line}, the card says {self.expected:,}: {abs(apart):,} {more}. {self.meaning}"


def count_images(table: pd.DataFrame) -> dict[str, int | None]:
    """Count identities, images and children of a table, whatever their splits.

    Args:
        table: One row an image, with the columns `identity` and `age_years` (NaN is unlabelled).

    Returns:
        For each of `COUNTED` how many there are. A child image is one below 13 years, a child class an identity with
        at least ten of them (the official code's rule); both are None where not one image is labelled.

    Example:
        >>> count_images(pd.DataFrame({"identity": ["a"] * 11 + ["b"], "age_years": [5.0] * 10 + [40.0, 12.5]}))
        {'identities': 2, 'images': 12, 'child_images': 11, 'child_classes': 1}
    """
    counts: dict[str, int | None] = {"identities": int(table["identity"].nunique()), "images": len(table)}
    if not table["age_years"].notna().any():
        return {**counts, "child_images": None, "child_classes": None}
    children = table["identity"][(table["age_years"] < CHILD_BELOW_YEARS).to_numpy(dtype=bool)]
    return {
        **counts,
        "child_images": len(children),
        "child_classes": int((children.value_counts() >= MIN_CHILD_IMAGES).sum()),
    }


def count_dataset(card: DatasetCard, manifest: pd.DataFrame, *, n_rejected: int) -> tuple[CardCount, ...]:
    """Count a prepared dataset and lay the counts beside its card.

    Args:
        card: The card.
        manifest: The dataset's manifest.
        n_rejected: How many further images were listed but could not be used.

    Returns:
        One comparison for each of `COUNTED`.
    """
    n_unlabelled = int(manifest["age_years"].isna().sum())
    return compare_with_card(card, count_images(manifest), n_rejected=n_rejected, n_unlabelled=n_unlabelled)


def compare_with_card(
    card: DatasetCard, found: Mapping[str, int | None], *, n_rejected: int = 0, n_unlabelled: int = 0
) -> tuple[CardCount, ...]:
    """Lay counts beside those on a card.

    Args:
        card: The card.
        found: What was counted, see `count_images`; or `{"pairs": n}`.
        n_rejected: How many further images were listed but could not be used.
        n_unlabelled: How many of the images have no age.

    Returns:
        One comparison a count, in the order of `found`.
    """
    rows = []
    for key, count in found.items():
        expected = card.expected[key]
        meaning = ""
        if count is None:
            meaning = "No image has an age, and none is assumed."
        elif expected is not None and count != expected:
            meaning = _meaning(key, count, expected, n_rejected, n_unlabelled)
        rows.append(CardCount(key=key, found=count, expected=expected, meaning=meaning))
    return tuple(rows)


def _meaning(key: str, found: int, expected: int, n_rejected: int, n_unlabelled: int) -> str:
    if key == "pairs":
        return "Usually another release of the file, or one that was made from another list of pairs."
    if key in ("child_images", "child_classes"):
        if n_unlabelled and found < expected:
            return f"Images without an age ({n_unlabelled:,}) count as no child's."
        return "Usually other age labels than the card's, or images that differ as above."
    if key == "identities":
        if found < expected:
            return "Usually a copy or an export that stopped early, or folders that hold no image."
        return "Usually the collection before it was cleaned, or folders that are no people."
    if found < expected:
        if found + n_rejected == expected:
            return f"The {n_rejected:,} rejected images are the difference."
        return "Usually a copy or an export that stopped early, or a selection of the whole."
    return "Usually the collection before it was cleaned, or copies and thumbnails among the images."
