"""Checking a verification file of insightface (.bin) whole: every image, and the number of pairs on its card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interproto_lib.data.card_counts import CardCount, compare_with_card
from interproto_lib.data.formats.verification_bin import decode_image, read_verification_bin
from interproto_lib.data.registry import DatasetCard, list_cards
from interproto_lib.errors import ConfigError, DatasetError

VERIFICATION_ENDING = ".bin"

_MAX_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class VerificationFileReport:
    """What a verification file holds; all its images can be read.

    Attributes:
        dataset: The name of the card.
        title: What to call the test set in tables, as in "CFP-FP".
        file: The file.
        n_pairs: Its pairs.
        n_same: How many of them show one person.
        image_size: Height and width of its images, in pixels.
        counts: The pairs beside the number on the card.
    """

    dataset: str
    title: str
    file: Path
    n_pairs: int
    n_same: int
    image_size: int
    counts: tuple[CardCount, ...]

    def __str__(self) -> str:
        place = json.dumps(str(self.file), ensure_ascii=False)
        return "\n".join(
            [
                f"{self.dataset}: {self.file} is a verification file of {self.n_pairs:,} pairs, {self.n_same:,} of "
                f"them of one person; all {2 * self.n_pairs:,} images can be read.",
                *(f"  {count}" for count in self.counts),
                "It needs no preparation. Name it in a preset, or in the parameter test_sets of notebook 05:",
                "  verification:",
                "    test_sets:",
                f"      {self.title}: {{bin: {place}, validation: any}}",
            ]
        )


def check_verification_file(
    card: DatasetCard, file: str | Path, *, image_size: int = 112, progress: Callable[[int, int], None] | None = None
) -> VerificationFileReport:
    """Decode every image of a verification file and count its pairs.

    Args:
        card: The card of the dataset.
        file: The file (see `interproto_lib.data.read_verification_bin`).
        image_size: Height and width that its images must have, in pixels.
        progress: Called with the number of images decoded and the number of all.

    Returns:
        What it holds.

    Raises:
        ConfigError: The card is of a dataset that has no verification file.
        DatasetError: The file is damaged or asks for an import, or images cannot be read; the first ten are named.
    """
    if f"{card.name}{VERIFICATION_ENDING}" not in card.layout:
        known = [other.name for other in list_cards() if f"{other.name}{VERIFICATION_ENDING}" in other.layout]
        raise ConfigError(
            f"{file} is a verification file, but the card {card.name} describes a dataset that has none. Cards with "
            f"one: {', '.join(known)}."
        )
    path = Path(file)
    images, same = read_verification_bin(path)
    problems = []
    for number, content in enumerate(images):
        try:
            decode_image(content, image_size)
        except DatasetError as error:
            problems.append(f"image {number} {error}")
        if progress is not None:
            progress(number + 1, len(images))
    if problems:
        named = "\n".join(f"  {problem}" for problem in problems[:_MAX_NAMED])
        more = f"\n  and {len(problems) - _MAX_NAMED:,} more" if len(problems) > _MAX_NAMED else ""
        raise DatasetError(
            f"{len(problems):,} of {len(images):,} images of {path} cannot be used:\n{named}{more}\n"
            "Get the file anew from where it came."
        )
    return VerificationFileReport(
        dataset=card.name,
        title=_title(card),
        file=path.resolve(),
        n_pairs=len(same),
        n_same=int(same.sum()),
        image_size=image_size,
        counts=compare_with_card(card, {"pairs": len(same)}),
    )


def _title(card: DatasetCard) -> str:
    """Give the short name of a dataset: what its title has in brackets at the end, or before the first comma."""
    short = re.search(r"\(([^()]+)\)$", card.title)
    return short[1] if short else card.title.split(",")[0]
