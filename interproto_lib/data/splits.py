"""Who trains, who validates and who is held out: people are drawn, not images, by nothing but seed and name."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.errors import ConfigError, DatasetError

MIN_IDENTITIES = 2
"""The fewest people that a split can do with: one person alone gives no pair of two people."""

_MIN_IMAGES = 2  # that a held-out or validating person needs for a pair
_MAX_NAMED = 10


def choose_splits(
    identities: pd.Series,
    *,
    heldout_share: float = 0.25,
    validation_share: float = 0.1,
    seed: int = 0,
    where: str | Path = "the dataset",
) -> NDArray[np.object_]:
    """Choose a split for every image, the same for all images of a person.

    Identities are ordered by the SHA-256 of seed and name (letters composed, NFC), and the first `heldout_share` of
    them, at least two, become the split "heldout", the next `validation_share` of them, again at least two, the split
    "validation". Which ones depends on nothing but seed and names. Only identities with at least two images are taken
    for either, since a person with one image gives no pair.

    Args:
        identities: Who is on each image (n,), a column of text. Takes some 30 bytes an image beside it.
        heldout_share: Share of the identities to hold out, 0 to 1; 0 holds out none, 1 holds out all.
        validation_share: Share of the identities, of all of them, that choose epoch and threshold, 0 to 1; 0 takes
            none. Together with `heldout_share` at most 1. Which identities are held out does not depend on it.
        seed: Chooses which identities are held out and which validate.
        where: The folder or file, for messages.

    Returns:
        "train", "validation" or "heldout" for each image (n,).

    Raises:
        ConfigError: A share is out of range.
        DatasetError: There are too few identities, or too few with two images, for what the shares ask; or an image has
            no identity.

    Example:
        >>> people = pd.Series(["a", "a", "b", "b", "c", "c", "d", "d"])
        >>> choose_splits(people, heldout_share=0.5, validation_share=0).tolist()
        ['heldout', 'heldout', 'train', 'train', 'train', 'train', 'heldout', 'heldout']
    """
    check_shares(heldout_share, validation_share)
    rows, found = pd.factorize(identities)
    if (rows < 0).any():
        raise DatasetError(f"{int((rows < 0).sum())} of {len(rows)} images in {where} have no identity.")
    names = [str(name) for name in found]
    pairable = np.bincount(rows, minlength=len(names)) >= _MIN_IMAGES
    n_heldout, n_validation = _how_many(where, names, heldout_share, validation_share)
    if pairable.sum() < n_heldout + n_validation:
        raise DatasetError(
            f"{n_heldout} of the {len(names)} identities in {where} are to be held out and {n_validation} are to "
            f"validate, but only {pairable.sum()} have the two images that a pair needs. Add images or identities, or "
            "choose a smaller heldout_share or validation_share."
        )
    drawn = sorted(np.flatnonzero(pairable).tolist(), key=lambda number: _draw(names[number], seed))
    splits = np.full(len(names), "train", dtype=object)
    splits[drawn[:n_heldout]] = "heldout"
    splits[drawn[n_heldout : n_heldout + n_validation]] = "validation"
    chosen: NDArray[np.object_] = splits[rows]
    return chosen


def check_shares(heldout_share: float, validation_share: float) -> None:
    """Raise a ConfigError unless both are shares, 0 to 1, and together no more than all."""
    for name, share in (("heldout_share", heldout_share), ("validation_share", validation_share)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share}; it is a share of the identities, 0 to 1.")
    if _together(heldout_share, validation_share) > 1:
        raise ConfigError(
            f"heldout_share {heldout_share:g} and validation_share {validation_share:g} together are more than all "
            "identities. Choose a smaller validation_share (0 for none) or a smaller heldout_share."
        )


def _how_many(where: str | Path, names: list[str], heldout_share: float, validation_share: float) -> tuple[int, int]:
    """Return how many identities are held out and how many validate."""
    n_all = len(names)
    train_on_none = _together(heldout_share, validation_share) == 1
    n_heldout = _share_of(n_all, heldout_share)
    n_validation = n_all - n_heldout if train_on_none else _share_of(n_all, validation_share)
    uses = (
        (not train_on_none, n_all - n_heldout - n_validation, "to train on"),
        (validation_share > 0, n_validation, "to validate"),
        (heldout_share > 0, n_heldout, "to hold out"),
    )
    if any(wanted and n < MIN_IDENTITIES for wanted, n, _ in uses):
        needed = [f"two {use}" for wanted, _, use in uses if wanted]
        more = f" and {n_all - _MAX_NAMED} more" if n_all > _MAX_NAMED else ""
        people = f"{n_all} {'identity' if n_all == 1 else 'identities'} ({', '.join(names[:_MAX_NAMED])}{more})"
        shares = f"heldout_share={heldout_share:g} and validation_share={validation_share:g}"
        raise DatasetError(
            f"{where} has {people}; with {shares} there must be {' and '.join(needed)}. Add folders of more people, or "
            "choose other shares (0 takes nobody)."
        )
    return n_heldout, n_validation


def _together(heldout_share: float, validation_share: float) -> float:
    return round(heldout_share + validation_share, 12)  # so that 0.7 and 0.3 are all, whatever their last bits


def _share_of(n_all: int, share: float) -> int:
    return 0 if share == 0 else n_all if share == 1 else max(MIN_IDENTITIES, int(share * n_all + 0.5))


def _draw(identity: str, seed: int) -> str:
    composed = unicodedata.normalize("NFC", identity)
    return hashlib.sha256(f"{seed}:{composed}".encode()).hexdigest()
