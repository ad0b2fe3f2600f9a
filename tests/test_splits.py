"""Who is held out: people by the hash of seed and name, whatever the order, the column's type and its length."""

from __future__ import annotations

import hashlib
import time
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from interproto_lib.data.collections import text_column
from interproto_lib.data.splits import choose_splits
from interproto_lib.errors import ConfigError, DatasetError


def by_hand(images: list[str], n_heldout: int, n_validation: int, seed: int) -> list[str]:
    people = {name for name in images if images.count(name) >= 2}
    drawn = sorted(people, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    split = dict.fromkeys(drawn[:n_heldout], "heldout")
    split |= dict.fromkeys(drawn[n_heldout : n_heldout + n_validation], "validation")
    return [split.get(name, "train") for name in images]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("heldout", "n_heldout", "validation", "n_validation"),
    [(0.25, 5, 0.1, 2), (0.0, 0, 0.1, 2), (0.01, 2, 0.0, 0), (0.7, 14, 0.3, 6), (1.0, 20, 0.0, 0), (0.5, 10, 0.12, 2)],
)
def test_people_are_drawn_by_hash(seed: int, heldout: float, n_heldout: int, validation: float, n_validation: int):
    images = [f"p{number}" for number in range(20) for _ in range(2 + number % 3)]
    np.random.default_rng(0).shuffle(images)
    expected = by_hand(images, n_heldout, n_validation, seed)
    columns = (
        pd.Series(images),
        pd.Series(images, dtype=object),
        text_column(pa.array(images)),
        pd.Categorical(images),
    )
    for column in columns:
        found = choose_splits(pd.Series(column), heldout_share=heldout, validation_share=validation, seed=seed)
        assert found.tolist() == expected


def test_people_with_one_image_train():
    images = [*"abcdefgh", *"abcd"]
    for seed in range(5):
        found = choose_splits(pd.Series(images), heldout_share=0.25, validation_share=0.25, seed=seed)
        assert found.tolist() == by_hand(images, 2, 2, seed)
    with pytest.raises(
        DatasetError, match=r"4 of the 8 identities in /data .* 2 are to validate, but only 4 have the two"
    ):
        choose_splits(pd.Series(images), heldout_share=0.5, validation_share=0.25, where="/data")


def test_letters_count_as_composed():
    names = [f"é{number}" for number in range(12)]
    images = pd.Series([name for name in names for _ in range(2)])
    apart = images.map(lambda name: unicodedata.normalize("NFD", name))
    assert (apart != images).all()
    assert choose_splits(images).tolist() == choose_splits(apart).tolist()


@pytest.mark.parametrize(
    ("images", "shares", "error", "message"),
    [
        ("aabbcc", (1.5, 0.0), ConfigError, "heldout_share is 1.5"),
        ("aabbcc", (0.2, float("nan")), ConfigError, "validation_share is nan"),
        ("aabbcc", (0.6, 0.6), ConfigError, "together are more than all"),
        ("aabb", (0.5, 0.0), DatasetError, r"/data has 2 identities \(a, b\).* two to train on and two to hold out"),
        ("", (0.0, 0.0), DatasetError, "has 0 identities"),
    ],
)
def test_what_cannot_be_is_refused(images: str, shares: tuple[float, float], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        choose_splits(
            pd.Series(list(images), dtype="str"), heldout_share=shares[0], validation_share=shares[1], where="/data"
        )


def test_an_image_without_identity_is_refused():
    with pytest.raises(DatasetError, match="1 of 3 images in the dataset have no identity"):
        choose_splits(pd.Series(["a", None, "a"]))


def test_half_a_million_images_take_a_moment():
    people = np.repeat(np.arange(10_572), 47)
    identities = text_column(pa.array([f"{number:06d}" for number in people]))
    start = time.perf_counter()
    found = choose_splits(identities)
    assert time.perf_counter() - start < 5
    heldout = np.unique(people[found == "heldout"])
    assert len(heldout) == int(0.25 * 10_572 + 0.5)
    assert len(np.unique(people[found == "validation"])) == int(0.1 * 10_572 + 0.5)
    assert (found[np.isin(people, heldout)] == "heldout").all()
