"""Names, equal images and near images in two sets, against counting by hand, Pillow and brute force."""

from __future__ import annotations

import hashlib
import io
import itertools
import unicodedata
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy import toy_dataset

from interproto_lib.data import duplicates
from interproto_lib.data.duplicates import (
    difference_hashes,
    image_digests,
    name_key,
    nearest_hashes,
    shared_identities,
    shared_images,
)
from interproto_lib.errors import ConfigError, ManifestError


def people(names: dict[str, int], source: str = "a") -> pd.DataFrame:
    return pd.DataFrame({"identity": [name for name, n in names.items() for _ in range(n)], "source": source})


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("JohnnyCash", "Johnny_Cash"),
        ("Johnny Cash", "johnny-cash"),
        ("Renée_Zellweger", unicodedata.normalize("NFD", "renéezellweger")),
        ("GROSS", "groß"),
        ("O'Neal", "ONeal"),
        ("Иван_Иванов", "иванИванов"),
    ],
)
def test_spellings_of_one_name(one: str, other: str):
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(("one", "other"), [("JohnnyCash", "JuneCash"), ("Renee", "Renée"), ("?", "!"), ("a1", "a11")])
def test_other_names(one: str, other: str):
    assert name_key(one) != name_key(other)


def test_shared_identities():
    train = people({"JohnnyCash": 3, "Johnny_Cash": 1, "June Carter": 2, "Élan": 1})
    test = people({"johnny_cash": 5, "Nobody": 1, unicodedata.normalize("NFD", "élan"): 2}, "b")
    found = shared_identities(train, test)
    assert found.to_dict("list") == {
        "key": ["johnnycash", "johnnycash", "élan"],
        "first_identity": ["JohnnyCash", "Johnny_Cash", "Élan"],
        "second_identity": ["johnny_cash", "johnny_cash", unicodedata.normalize("NFD", "élan")],
        "n_first": [3, 1, 1],
        "n_second": [5, 5, 2],
    }
    assert len(shared_identities(test, train)) == 3
    assert len(shared_identities(people({"A B": 1}), people({"C D": 1}))) == 0
    assert list(shared_identities(people({"A": 1}), people({}))) == list(found)


def test_numbers_are_people_within_one_source_only():
    train, test = (
        people({"000012": 2, "s3": 1, "m.0abc12": 1}, "casia"),
        people({"12": 1, "S03": 4, "M.0ABC12": 1}, "lag"),
    )
    assert shared_identities(train, test)["key"].tolist() == ["m0abc12"]
    same = shared_identities(train, test.assign(source="casia"))
    assert same["key"].tolist() == ["12 of casia", "m0abc12", "s3 of casia"]
    assert same["n_second"].tolist() == [1, 1, 4]
    both = pd.concat([train, test])
    assert shared_identities(both, test)["n_first"].tolist() == [1, 1, 1, 4]


def test_a_table_without_its_columns():
    with pytest.raises(ManifestError, match="second table has no column source"):
        shared_identities(people({"A": 1}), people({"A": 1}).drop(columns="source"))


# --- images ---------------------------------------------------------------------------------------


def pictures(n: int, size: int = 40, seed: int = 0) -> np.ndarray:
    """Smooth random pictures."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 10, 10, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(row).resize((size, size), Image.Resampling.BICUBIC)) for row in coarse])


def test_digests(monkeypatch: pytest.MonkeyPatch):
    images = pictures(7)
    found = image_digests(images)
    for image, digest in zip(images, found, strict=True):
        assert digest.astype("<u8").tobytes() == hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(duplicates, "_BLOCK_BYTES", 3 * images[0].nbytes)
    rows = np.array([6, 0, 0, 5])
    some = image_digests(images, rows, progress=lambda done, n: calls.append((done, n)))
    np.testing.assert_array_equal(some, found[rows])
    assert calls == [(3, 4), (4, 4)]
    assert image_digests(images, rows[:0]).shape == (0, 2)
    assert difference_hashes(images, rows[:0]).shape == (0,)


def exact_hash(image: np.ndarray) -> int:
    """Means of areas in fractions, pixel by pixel."""
    height, width, _ = image.shape
    grey = [[sum(int(v) * w for v, w in zip(p, (299, 587, 114), strict=True)) for p in row] for row in image]

    def share(pixel: int, area: int, n_pixels: int, n_areas: int) -> Fraction:
        start, end = Fraction(area * n_pixels, n_areas), Fraction((area + 1) * n_pixels, n_areas)
        return max(Fraction(0), min(end, Fraction(pixel + 1)) - max(start, Fraction(pixel)))

    bits = 0
    for row in range(8):
        weights = [(y, share(y, row, height, 8)) for y in range(height) if share(y, row, height, 8)]
        means = [
            sum(wy * share(x, column, width, 9) * grey[y][x] for y, wy in weights for x in range(width))
            for column in range(9)
        ]
        for left, right in itertools.pairwise(means):
            bits = bits << 1 | (right > left)
    return bits


def test_difference_hashes_are_exact():
    for images in (
        pictures(3, size=20),
        pictures(2, size=9),
        pictures(2, size=5),
        np.full((1, 12, 12, 3), 7, np.uint8),
    ):
        assert [int(value) for value in difference_hashes(images)] == [exact_hash(image) for image in images]


def test_difference_hashes_agree_with_pillow():
    images = pictures(50, size=112)
    small = [
        np.asarray(Image.fromarray(i).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int) for i in images
    ]
    bits = np.stack([(row[:, 1:] > row[:, :-1]).ravel() for row in small])
    ours = np.unpackbits(difference_hashes(images).astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    assert (bits != ours).mean() < 0.01  # Pillow rounds its means to whole numbers


def test_a_copy_is_near_and_another_image_is_not():
    images = pictures(60, size=112)
    hashes = difference_hashes(images)
    buffers = [io.BytesIO() for _ in images]
    for image, buffer in zip(images, buffers, strict=True):
        Image.fromarray(image).resize((80, 80)).resize((112, 112)).save(buffer, "JPEG", quality=70)
    copies = np.stack([np.asarray(Image.open(buffer)) for buffer in buffers])
    darker = (images * 0.7).astype(np.uint8)
    for changed in (copies, darker):
        distances = np.bitwise_count(difference_hashes(changed)[:, None] ^ hashes[None])
        assert np.diag(distances).max() <= 4
        assert distances[~np.eye(60, dtype=bool)].min() > 8


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_queries=st.integers(0, 60),
    n_references=st.integers(0, 80),
    max_distance=st.integers(0, 16),
    n_centres=st.integers(1, 6),
    at_once=st.sampled_from([1, 7, 2**20]),
)
def test_the_search_finds_what_comparing_all_finds(
    seed: int, n_queries: int, n_references: int, max_distance: int, n_centres: int, at_once: int
):
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 2**64, n_centres, dtype=np.uint64)

    def hashes(n: int) -> np.ndarray:
        values = draw.choice(centres, n)
        for _ in range(draw.integers(0, 12)):
            values = values ^ (np.uint64(1) << draw.integers(0, 64, n).astype(np.uint64))
        return values

    queries, references = hashes(n_queries), hashes(n_references)
    expected = []
    for query, ours in enumerate(queries):
        distances = [(int(ours) ^ int(theirs)).bit_count() for theirs in references]
        within = [distance for distance in distances if distance <= max_distance]
        if within:
            expected.append((query, distances.index(min(within)), min(within), len(within)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_PAIRS_AT_ONCE", at_once)
        found = nearest_hashes(queries, references, max_distance=max_distance)
    assert [tuple(row) for row in found.to_numpy()] == expected


def test_the_search_on_many_hashes():
    draw = np.random.default_rng(3)
    references = draw.integers(0, 2**64, 20_000, dtype=np.uint64)
    queries = draw.choice(references, 500)
    for _ in range(4):
        queries = queries ^ (np.uint64(1) << draw.integers(0, 64, 500).astype(np.uint64))
    found = nearest_hashes(queries, references, max_distance=4)
    distances = np.bitwise_count(queries[:, None] ^ references[None])
    np.testing.assert_array_equal(found["query"], np.arange(500))
    np.testing.assert_array_equal(found["reference"], distances.argmin(axis=1))
    np.testing.assert_array_equal(found["distance"], distances.min(axis=1))
    np.testing.assert_array_equal(found["n"], (distances <= 4).sum(axis=1))


@pytest.mark.parametrize("max_distance", [-1, 17])
def test_distances_out_of_range(max_distance: int):
    with pytest.raises(ConfigError, match="expected 0 to 16 bits"):
        nearest_hashes(np.zeros(1, np.uint64), np.zeros(1, np.uint64), max_distance=max_distance)


def test_shared_images():
    train, test = (toy_dataset(n_identities=n, image_size=14, seed=n) for n in (3, 2))
    changed = np.array(test.images)
    changed[1] = train.images[5]
    changed[4] = train.images[5]
    changed[7] = np.clip(train.images[20].astype(int) + 1, 0, 255)
    test = replace(test, images=changed)
    doubled = np.array(train.images)
    doubled[9] = doubled[5]
    train = replace(train, images=doubled)
    hashes = [[exact_hash(image) for image in images] for images in (test.images, train.images)]
    calls: list[tuple[int, int]] = []
    found = shared_images(train, test, max_distance=1, progress=lambda done, n: calls.append((done, n)))
    expected = {}
    for row, ours in enumerate(hashes[0]):
        distances = [(ours ^ theirs).bit_count() for theirs in hashes[1]]
        equal = [i for i in range(len(train)) if np.array_equal(test.images[row], train.images[i])]
        if min(distances) <= 1:
            best = equal[0] if equal else distances.index(min(distances))
            n_near = sum(distance <= 1 for distance in distances)
            expected[row] = (best, bool(equal), min(distances), len(equal), n_near)
    assert {1, 4, 7} <= set(expected)
    columns = ["first_row", "is_equal", "distance", "n_equal", "n_near"]
    assert dict(zip(found["second_row"], found[columns].itertuples(index=False, name=None), strict=True)) == expected
    assert expected[1][:4] == (5, True, 0, 2)
    assert found["first_path"].tolist() == train.manifest["path"].iloc[found["first_row"]].tolist()
    assert found["second_identity"].tolist() == test.manifest["identity"].iloc[found["second_row"]].tolist()
    assert calls == [(24, 24), (16, 16)]


def test_splits_of_one_dataset():
    dataset = toy_dataset(n_identities=3, n_heldout=2)
    images = np.array(dataset.images)
    train, heldout = dataset.rows("train"), dataset.rows("heldout")
    images[heldout[3]] = images[train[2]]
    dataset = replace(dataset, images=images)
    found = shared_images(dataset, dataset, first_rows=train, second_rows=heldout, max_distance=0)
    equal = found[found["is_equal"]]
    assert equal[["second_row", "first_row", "n_equal"]].to_numpy().tolist() == [[heldout[3], train[2], 1]]
    with pytest.raises(ConfigError, match="on both sides"):
        shared_images(dataset, dataset, first_rows=train, second_rows=train[:1])
    none = shared_images(dataset, dataset, first_rows=train, second_rows=heldout[:0])
    assert len(none) == 0
    assert list(none) == list(found)
