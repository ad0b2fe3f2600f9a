"""Dataset cards: what each dataset is, where it comes from, how its files lie, and what must be found in it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from interproto_lib.errors import DatasetNotFoundError, ManifestError

CARDS_VARIABLE = "INTERPROTO_DATA_MANIFESTS"
"""The environment variable that names another folder of cards."""

ROLES = ("train", "evaluate", "both")
COUNTS = ("identities", "images", "child_images", "child_classes", "pairs", "pairs_c20", "pairs_c30")
"""What `DatasetCard.expected` counts; `child_classes` are identities with `MIN_CHILD_IMAGES` images below 13 years."""

MIN_CHILD_IMAGES = 10
"""From so many child images on the cards count an identity as a child class (the official code's rule)."""


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """One dataset, as its file in `data_manifests/` describes it.

    Attributes:
        name: The name of its file, without the ending.
        title: Its full name.
        role: What it is for: "train", "evaluate" or "both".
        source: The paper or the people it comes from.
        home_page: Its own page; None where none is known.
        terms: Who may use it, for what.
        how_to_obtain: The steps to get it, in order.
        layout: How folders and files lie.
        naming: How files are named, and what the names say.
        expected: For each of `COUNTS` how many there must be; None where no reliable number is known.
        age_labels: Where the ages come from, and what they are worth.
        notes: What goes wrong with it.
    """

    name: str
    title: str
    role: str
    source: str
    home_page: str | None
    terms: str
    how_to_obtain: tuple[str, ...]
    layout: str
    naming: str
    expected: Mapping[str, int | None]
    age_labels: str
    notes: tuple[str, ...]

    def steps(self) -> str:
        """Return the steps to obtain the dataset, numbered, one a line."""
        return "\n".join(f"  {number}. {step}" for number, step in enumerate(self.how_to_obtain, start=1))

    def __str__(self) -> str:
        known = [f"{count} {key.replace('_', ' ')}" for key, count in self.expected.items() if count is not None]
        lines = [
            f"{self.name}: {self.title} ({self.role})",
            f"Source: {self.source}",
            *([f"Home page: {self.home_page}"] if self.home_page else []),
            f"Terms: {self.terms}",
            "How to obtain it:",
            self.steps(),
            "Layout:",
            textwrap.indent(self.layout.rstrip(), "  "),
            f"Names: {self.naming}",
            f"Expected: {', '.join(known) or 'no fixed numbers'}",
            f"Ages: {self.age_labels}",
            *(f"Note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def read_card(name: str, *, folder: str | Path | None = None) -> DatasetCard:
    """Read the card of a dataset.

    Args:
        name: The dataset, such as "casia_webface".
        folder: Where the cards are; None takes the folder that the environment variable INTERPROTO_DATA_MANIFESTS
            names, or else `data_manifests/` beside the library.

    Returns:
        The card.

    Raises:
        DatasetNotFoundError: There is no card of that name; the message lists the names there are.
        ManifestError: The folder is missing, or the card is malformed; the message names file and key.
    """
    cards = _cards_folder(folder)
    known = sorted(file.stem for file in cards.glob("*.yaml"))
    if name not in known:
        raise DatasetNotFoundError(f"There is no dataset card {name!r} in {cards}. Known: {', '.join(known)}.")
    return _parse_card(cards / f"{name}.yaml")


def list_cards(*, folder: str | Path | None = None) -> tuple[DatasetCard, ...]:
    """Read the cards of all known datasets, sorted by name.

    Args:
        folder: Where the cards are (see `read_card`).

    Returns:
        The cards.

    Raises:
        ManifestError: The folder is missing or empty, or a card is malformed.
    """
    cards = _cards_folder(folder)
    files = sorted(cards.glob("*.yaml"))
    if not files:
        raise ManifestError(f"There are no dataset cards (*.yaml) in {cards}.")
    return tuple(_parse_card(file) for file in files)


def require_dataset(
    name: str, folder: str | Path, *, files: Sequence[str | Path] = (), cards: str | Path | None = None
) -> Path:
    """Return the folder of a dataset, or say how to obtain the dataset when it is not there.

    Args:
        name: The dataset, as its card is called.
        folder: Where it should lie.
        files: Files that belong to it and lie elsewhere, such as a table of ages.
        cards: Where the cards are (see `read_card`).

    Returns:
        The folder.

    Raises:
        DatasetNotFoundError: The folder is missing or empty, a file is missing, or the name is unknown; the message
            holds what was looked for, the expected layout and the numbered steps.
        ManifestError: The card is malformed.
    """
    card = read_card(name, folder=cards)
    place = Path(folder)
    missing = None
    if not place.is_dir() or not any(place.iterdir()):
        found = "is not a folder" if place.is_file() else "is empty" if place.is_dir() else "does not exist"
        missing = f"was looked for in {place}, which {found}"
    else:
        absent = next((file for file in map(Path, files) if not file.is_file()), None)
        missing = None if absent is None else f"was found in {place}, but its file {absent} does not exist"
    if missing is None:
        return place
    raise DatasetNotFoundError(not_found_message(card, missing))


def not_found_message(card: DatasetCard, missing: str) -> str:
    """Write the message that a dataset is not there: what was looked for, the numbered steps, terms and layout.

    Args:
        card: Its card.
        missing: What is missing, as in "was looked for in data/lfw, which does not exist".

    Returns:
        The message.
    """
    return (
        f"{card.title} ({card.name}) {missing}. To obtain it:\n{card.steps()}\n"
        f"Terms: {card.terms}\nExpected layout:\n{textwrap.indent(card.layout.rstrip(), '  ')}"
    )


def _cards_folder(folder: str | Path | None) -> Path:
    named = os.environ.get(CARDS_VARIABLE)
    place = Path(folder or named or Path(__file__).parents[2] / "data_manifests")
    if not place.is_dir():
        origin = "the argument" if folder else f"the variable {CARDS_VARIABLE}" if named else "the default"
        raise ManifestError(
            f"The folder of dataset cards {place} (from {origin}) does not exist. Install the library from a checkout "
            f"of its repository with `pip install -e .`, or set {CARDS_VARIABLE} to its data_manifests folder."
        )
    return place


def _parse_card(file: Path) -> DatasetCard:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file} is not readable YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ManifestError(f"{file} holds a {type(content).__name__}, expected keys with values.")
    keys = [field.name for field in fields(DatasetCard)]
    missing = [key for key in keys if key not in content]
    unknown = [str(key) for key in content if key not in keys]
    if missing or unknown:
        raise ManifestError(
            f"{file}: missing keys: {', '.join(missing) or 'none'}; unknown keys: {', '.join(unknown) or 'none'}. "
            f"The keys of a card are: {', '.join(keys)}."
        )
    for key in keys:
        _check_value(file, key, content[key])
    if content["name"] != file.stem:
        raise ManifestError(f"{file}, key name: found {content['name']!r}, expected the file's own name {file.stem!r}.")
    return DatasetCard(
        **{
            **content,
            "how_to_obtain": tuple(content["how_to_obtain"]),
            "notes": tuple(content["notes"]),
            "expected": {key: content["expected"][key] for key in COUNTS},
        }
    )


def _check_value(file: Path, key: str, value: Any) -> None:
    if key == "expected":
        if not isinstance(value, dict) or sorted(map(str, value)) != sorted(COUNTS):
            raise ManifestError(
                f"{file}, key expected: needed are just the counts {', '.join(COUNTS)} (null: unknown)."
            )
        for count, number in value.items():
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
                raise ManifestError(f"{file}, key expected.{count}: found {number!r}, expected a whole number or null.")
    elif key in ("how_to_obtain", "notes"):
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise ManifestError(f"{file}, key {key}: found {value!r}, expected a list of sentences.")
        if key == "how_to_obtain" and not value:
            raise ManifestError(f"{file}, key {key}: it is empty, expected at least one step.")
    elif key == "home_page" and value is None:
        return
    elif not isinstance(value, str) or not value.strip():
        raise ManifestError(f"{file}, key {key}: found {value!r}, expected text.")
    elif key == "role" and value not in ROLES:
        raise ManifestError(f"{file}, key role: found {value!r}, expected one of: {', '.join(ROLES)}.")
