"""Identification sets against brute force and the published lists; published protocols are read back or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from interproto_lib.data import (
    IdentificationSet,
    identification_set,
    identification_set_from_pairs,
    read_identification_set,
    read_verification_set,
    write_identification_set,
    write_verification_set,
)
from interproto_lib.data.test_sets import VerificationSet
from interproto_lib.errors import ConfigError, DatasetError, DatasetNotFoundError

REPO = Path(__file__).resolve().parents[1]
PAIR_LISTS = REPO.parent / "shared" / "reference" / "child_adult_pairs"
needs_lists = pytest.mark.skipif(not PAIR_LISTS.is_dir(), reason=f"the official pair lists are not at {PAIR_LISTS}")


class NoImages:
    """A source that is asked for nothing."""

    key = "none"
    image_size = 8

    def read(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        raise AssertionError(f"asked for {len(paths)} images")


def random_manifest(seed: int, n: int = 70, n_identities: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ages = rng.choice([1, 5, 9.5, 12.5, 13, 15, 17.5, 18, 25, 29.5, 32.5, 35, 42.5, 60], n)
    ages[rng.random(n) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "path": [f"{row:03d} ü.png" for row in range(n)],
            "identity": [f"p {number}" for number in rng.integers(0, n_identities, n)],
            "age_years": ages,
            "split": rng.choice(["train", "validation", "heldout"], n),
            "source": "x",
        }
    )


def first_by_hash(paths: Sequence[str], seed: int, role: str) -> str:
    return min(paths, key=lambda path: hashlib.sha256(f"{seed} {role} {path}".encode()).hexdigest())


def brute_force(
    manifest: pd.DataFrame, *, gap: float, child_below: float, inclusive: bool, split: str | None, seed: int
) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Identity -> probe and mate, and identity -> distractor, image by image."""
    rows = [row for row in manifest.to_dict("records") if split is None or row["split"] == split]
    found: dict[str, tuple[str, str]] = {}
    distractors: dict[str, str] = {}
    for name in {row["identity"] for row in rows}:
        own = [row for row in rows if row["identity"] == name]

        def mates(child: dict[str, Any], own: list[dict[str, Any]] = own) -> list[str]:
            def is_far(years: float) -> bool:
                return years >= gap if inclusive else years > gap

            return [
                row["path"]
                for row in own
                if row["age_years"] >= child_below and is_far(row["age_years"] - child["age_years"])
            ]

        children = {row["path"]: mates(row) for row in own if row["age_years"] < child_below and mates(row)}
        adults = [row["path"] for row in own if row["age_years"] >= 18]
        if children:
            probe = first_by_hash(list(children), seed, "probe")
            found[name] = (probe, first_by_hash(children[probe], seed, "mate"))
        elif adults:
            distractors[name] = first_by_hash(adults, seed, "distractor")
    return found, distractors


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_gap_years": 30.0},
        {"gap_inclusive": False},
        {"child_below_years": 15.5},
        {"split": "heldout"},
        {"min_gap_years": 0.0, "split": "validation"},
    ],
)
def test_probes_and_gallery_are_those_of_brute_force(seed: int, settings: dict[str, Any]):
    manifest = random_manifest(seed)
    mated, distractors = brute_force(
        manifest,
        gap=settings.get("min_gap_years", 20.0),
        child_below=settings.get("child_below_years", 13.0),
        inclusive=settings.get("gap_inclusive", True),
        split=settings.get("split"),
        seed=seed,
    )
    if not mated or len(mated) + len(distractors) < 2:
        with pytest.raises(DatasetError):
            identification_set(manifest, seed=seed, **settings)
        return
    found = identification_set(manifest, seed=seed, **settings)
    images = found.images
    probes, gallery = images.iloc[found.probes], images.iloc[found.gallery]
    assert dict(zip(probes["identity"], probes["path"], strict=True)) == {k: v[0] for k, v in mated.items()}
    expected = {k: v[1] for k, v in mated.items()} | distractors
    assert dict(zip(gallery["identity"], gallery["path"], strict=True)) == expected
    assert len(gallery) == len(expected)
    assert gallery["identity"].tolist()[: len(probes)] == probes["identity"].tolist(), "mates in the order of probes"
    assert found.settings["seed"] == seed
    ages = manifest.set_index("path")["age_years"]
    assert images["age_years"].tolist() == ages[images["path"]].tolist()


def test_draws_depend_on_seed_and_paths_alone():
    manifest = random_manifest(2, n=200, n_identities=10)
    before = identification_set(manifest)
    shuffled = identification_set(manifest.sample(frac=1, random_state=1))
    newcomer = manifest.iloc[[0]].assign(path="new.png", identity="new", age_years=50.0)
    larger = identification_set(pd.concat([newcomer, manifest]))
    table = before.table.set_index(["role", "identity"])["path"].sort_index()
    pd.testing.assert_series_equal(shuffled.table.set_index(["role", "identity"])["path"].sort_index(), table)
    more = larger.table.set_index(["role", "identity"])["path"].drop([("gallery", "new")]).sort_index()
    pd.testing.assert_series_equal(more, table)
    assert identification_set(manifest).sha256 == before.sha256
    assert identification_set(manifest, seed=1).sha256 != before.sha256


def test_every_image_is_drawn_as_often():
    rows = [(f"a/{k}", "a", age) for k, age in enumerate([3.0, 4.0, 5.0, 40.0, 41.0, 42.0, 43.0])]
    rows += [(f"b/{k}", "b", 30.0) for k in range(3)]
    manifest = pd.DataFrame(rows, columns=["path", "identity", "age_years"]).assign(split="heldout", source="x")
    counts: dict[str, int] = dict.fromkeys(manifest["path"], 0)
    n_seeds = 300
    for seed in range(n_seeds):
        for path in identification_set(manifest, seed=seed).images["path"]:
            counts[path] += 1
    expected = np.array([n_seeds / 3] * 3 + [n_seeds / 4] * 4 + [n_seeds / 3] * 3)
    assert np.abs(np.array(list(counts.values())) - expected).max() < 5 * np.sqrt(n_seeds * 0.25)


def tiny(ages: list[float], identities: str) -> pd.DataFrame:
    columns = {"path": [f"{row}.png" for row in range(len(ages))], "identity": list(identities), "age_years": ages}
    return pd.DataFrame(columns | {"split": "heldout", "source": "x"})


@pytest.mark.parametrize(
    ("manifest", "settings", "message"),
    [
        (tiny([30, 40, 50, 20], "aabb"), {}, "The manifest has no child image: none of its 4 images with an age"),
        (tiny([np.nan] * 4, "aabb"), {}, "None of the 4 images has an age"),
        (tiny([5, 40, 6, 50], "abcd"), {}, "No identity has a child and, 20 years later or more, an adult: of 4"),
        (tiny([5, 24, 6, 25], "aabb"), {}, "2 have child images.*smaller min_gap_years"),
        (tiny([5, 40], "aa"), {}, "has one person, 'a': nobody could be mistaken"),
        (tiny([5, 40, 9, 15], "aabb"), {}, "has one person, 'a'"),  # b has neither a mate nor an image at 18 or above
        (tiny([5, 40, 9, 50], "aabb"), {"split": "validation"}, "The split 'validation' has no images"),
    ],
)
def test_the_reason_is_told_when_nobody_can_be_searched_for(
    manifest: pd.DataFrame, settings: dict[str, Any], message: str
):
    with pytest.raises(DatasetError, match=message):
        identification_set(manifest, **settings)


def test_bad_arguments_are_refused():
    manifest = tiny([5, 40, 9, 50], "aabb")
    for wrong in ({"min_gap_years": -1.0}, {"child_below_years": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            identification_set(manifest, **wrong)
    with pytest.raises(ConfigError, match="'test' is not a split"):
        identification_set(manifest, split="test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probes": [0], "gallery": [1]}, "2 positions in 3 images"),
        ({"probes": [0], "gallery": [1, 1]}, "each image must be one probe"),
        ({"probes": [], "gallery": [0, 1, 2]}, "There is no probe"),
        ({"probes": [2], "gallery": [0, 1]}, "two images of 'a'"),
        ({"probes": [0, 2], "gallery": [1]}, "no image of 'b'"),
        ({"paths": ["x", "x", "y"]}, "'x' .* stands twice"),
        ({"identities": ["a", "a", None]}, "'z' .* has no identity"),
    ],
)
def test_impossible_sets_are_refused(change: dict[str, Any], message: str):
    images = {"path": change.get("paths", ["x", "y", "z"]), "identity": change.get("identities", ["a", "a", "b"])}
    with pytest.raises(DatasetError, match=message):
        IdentificationSet(
            name="made",
            images=pd.DataFrame(images | {"age_years": [5.0, 40.0, 30.0]}),
            probes=np.array(change.get("probes", [0]), dtype=np.int64),
            gallery=np.array(change.get("gallery", [1, 2]), dtype=np.int64),
            rule="by hand",
            settings={},
        )


# --- from pairs ------------------------------------------------------------------------------------------------------


def pair_set(rows: list[tuple[bool, str, str]], identity: Callable[[str], str | None], name: str) -> VerificationSet:
    paths = sorted({path for _, *both in rows for path in both})
    place = {path: number for number, path in enumerate(paths)}
    images = pd.DataFrame({"path": paths, "identity": [identity(path) for path in paths], "age_years": np.nan})
    pairs = pd.DataFrame(
        {
            "left": [place[left] for _, left, _ in rows],
            "right": [place[right] for _, _, right in rows],
            "same": [same for same, _, _ in rows],
        }
    )
    return VerificationSet(name=name, images=images, pairs=pairs, source=NoImages())


def small_pairs() -> VerificationSet:
    rows = [(True, "a/1", "a/2"), (True, "a/1", "a/3"), (True, "b/1", "b/2")]
    rows += [(False, "a/1", "c/1"), (False, "a/1", "c/2"), (False, "d/1", "b/2"), (False, "b/1", "e/1")]
    return pair_set(rows, lambda path: path[0], "small")


def test_a_pair_list_gives_one_probe_an_identity():
    pairs = small_pairs()
    for seed in range(8):
        found = identification_set_from_pairs(pairs, seed=seed)
        mate = min(("a/2", "a/3"), key=lambda path: hashlib.sha256(f"{seed} pair a/1\t{path}".encode()).hexdigest())
        # d stands left only: nothing of it can be in the gallery
        gallery = [mate, "b/2", first_by_hash(["c/1", "c/2"], seed, "distractor"), "e/1"]
        assert found.images["path"].iloc[found.probes].tolist() == ["a/1", "b/1"]
        assert found.images["path"].iloc[found.gallery].tolist() == gallery
        assert found.settings == {"pairs": "small", "pairs_sha256": pairs.sha256, "seed": seed}
    assert len({identification_set_from_pairs(pairs, seed=seed).sha256 for seed in range(8)}) > 1


def test_pair_lists_that_cannot_be_searched_are_refused():
    nameless = pair_set([(True, "a/1", "a/2"), (False, "a/1", "b/1")], lambda path: None, "nameless")
    with pytest.raises(DatasetError, match=r"3 of 3 images of test set 'nameless' have no identity \(first: 'a/1'\)"):
        identification_set_from_pairs(nameless)
    wrong = pair_set([(True, "a/1", "a/2"), (False, "a/1", "a/3")], lambda path: path[0], "wrong")
    with pytest.raises(DatasetError, match=r"Pair 1 of test set 'wrong' is said to show two people.* 'a' and 'a'"):
        identification_set_from_pairs(wrong)
    alone = pair_set([(True, "a/1", "a/2"), (False, "b/1", "a/2")], lambda path: path[0], "alone")
    with pytest.raises(DatasetError, match="has one person, 'a'"):
        identification_set_from_pairs(alone)


def agedb(name: str) -> VerificationSet:
    """An official list; its names are `<Name>/<number>_<Name>_<age>.jpg`."""
    lines = (PAIR_LISTS / name).read_text(encoding="utf-8").splitlines()
    cells = [line.split() for line in lines]
    rows = [(same == "1", left, right) for same, left, right in cells]
    made = pair_set(rows, lambda path: Path(path).parent.name, name)
    ages = [float(Path(path).stem.rsplit("_", 1)[1]) for path in made.images["path"]]
    return VerificationSet(name=name, images=made.images.assign(age_years=ages), pairs=made.pairs, source=made.source)


@needs_lists
@pytest.mark.parametrize(
    ("name", "n_probes", "n_identities", "n_gallery", "gap"),
    [("agedb20_child", 63, 530, 530, 20), ("agedb30_child", 62, 509, 508, 30)],  # one of the 509 stands left only
)
def test_the_official_lists_give_as_many_probes_as_the_papers_table(
    name: str, n_probes: int, n_identities: int, n_gallery: int, gap: int
):
    pairs = agedb(f"{name}.txt")
    found = identification_set_from_pairs(pairs)
    probes, gallery = found.images.iloc[found.probes], found.images.iloc[found.gallery]
    assert pairs.images["identity"].nunique() == n_identities
    assert len(probes) == n_probes
    assert len(gallery) == n_gallery
    assert n_gallery == pairs.images["identity"].iloc[pairs.pairs["right"]].nunique()
    assert probes["age_years"].max() < 13
    mates = gallery.iloc[:n_probes]
    assert (mates["age_years"].to_numpy() - probes["age_years"].to_numpy()).min() >= gap
    positives = {(left, right) for left, right, same in pairs.pairs.itertuples(index=False) if same}
    place = {path: number for number, path in enumerate(pairs.images["path"])}
    assert {(place[a], place[b]) for a, b in zip(probes["path"], mates["path"], strict=True)} <= positives


# --- published -------------------------------------------------------------------------------------------------------


def test_a_set_is_published_with_its_hash_and_read_back(tmp_path: Path):
    manifest = random_manifest(4)
    manifest.loc[manifest["path"] == "007 ü.png", "path"] = 'comma, "quote".png'
    found = identification_set(manifest, seed=3, name="mine")
    write_identification_set(found, tmp_path / "sets" / "mine.csv")
    content = (tmp_path / "sets" / "mine.csv").read_bytes()
    about = json.loads((tmp_path / "sets" / "mine.json").read_text(encoding="utf-8"))
    assert about["sha256"] == hashlib.sha256(content).hexdigest() == found.sha256
    assert (about["name"], about["rule"], about["settings"]) == ("mine", found.rule, found.settings)
    table = pd.read_csv(tmp_path / "sets" / "mine.csv")
    assert list(table.columns) == ["role", "path", "identity", "age_years"]
    assert table["role"].tolist() == ["probe"] * about["n_probes"] + ["gallery"] * about["n_gallery"]
    again = read_identification_set(tmp_path / "sets" / "mine.csv")
    assert again.sha256 == found.sha256
    assert (again.name, again.rule, again.settings) == (found.name, found.rule, found.settings)
    pd.testing.assert_frame_equal(again.images, found.images, check_dtype=False)
    np.testing.assert_array_equal(again.probes, found.probes)
    np.testing.assert_array_equal(again.gallery, found.gallery)


def test_pairs_are_published_with_their_hash_and_read_back(tmp_path: Path):
    rows = [(True, "a b/1 2", "a b/3"), (False, "a b/3", "c, d/1"), (False, "c, d/1", "e/1"), (True, "e/1", "e/ü")]
    made = pair_set(rows, lambda path: None if path[0] == "e" else path.split("/")[0], "my pairs")
    images = made.images.assign(age_years=[5.5, 40.0, np.nan, 1 / 3, 70.0])
    pairs = VerificationSet(name="my pairs", images=images, pairs=made.pairs, source=NoImages())
    write_verification_set(pairs, tmp_path / "p.csv")
    content = (tmp_path / "p.csv").read_bytes()
    about = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert about["sha256"] == hashlib.sha256(content).hexdigest()
    assert (about["protocol_sha256"], about["n_pairs"], about["n_positives"]) == (pairs.sha256, 4, 2)
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(zip(table["same"] == 1, table["left"], table["right"], strict=True)) == rows
    source = NoImages()
    again = read_verification_set(tmp_path / "p.csv", source)
    assert again.source is source
    assert (again.name, again.sha256) == (pairs.name, pairs.sha256)
    known = again.images.set_index("path").sort_index()
    pd.testing.assert_frame_equal(known, pairs.images.set_index("path").sort_index(), check_dtype=False)


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Path]:
    files = {"identification": tmp_path / "set.csv", "verification": tmp_path / "pairs.csv"}
    write_identification_set(identification_set(random_manifest(4)), files["identification"])
    write_verification_set(small_pairs(), files["verification"])
    return files


def read(protocol: str, path: Path) -> object:
    return read_identification_set(path) if protocol == "identification" else read_verification_set(path, NoImages())


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


@pytest.mark.parametrize("protocol", ["identification", "verification"])
def test_an_edited_file_is_refused(published: dict[str, Path], protocol: str):
    path = published[protocol]
    original = path.read_bytes()
    for edited in (original + b"\n", original[:-1], original.replace(b"\n", b"\r\n"), b""):
        path.write_bytes(edited)
        with pytest.raises(DatasetError, match=rf"{path.name} has changed since it was published: SHA-256 "):
            read(protocol, path)
    path.write_bytes(original)
    read(protocol, path)


@pytest.mark.parametrize("protocol", ["identification", "verification"])
def test_a_file_without_its_record_or_with_another_is_refused(published: dict[str, Path], protocol: str):
    path = published[protocol]
    other = published["verification" if protocol == "identification" else "identification"]
    with pytest.raises(DatasetError, match=f"describes .*expected .*'{protocol}'"):
        read(protocol, other)
    beside = path.with_suffix(".json")
    text = beside.read_text(encoding="utf-8")
    for content, message in (
        ("{", "is not readable JSON"),
        ("[]", r"describes \[\]"),
        (text.replace('"format_version": 1', '"format_version": 2'), "'format_version': 2"),
        (text.replace('"name"', '"title"'), "lacks name"),
    ):
        beside.write_text(content, encoding="utf-8")
        with pytest.raises(DatasetError, match=message):
            read(protocol, path)
    beside.unlink()
    with pytest.raises(DatasetNotFoundError, match=f"There is no .*{beside.name}"):
        read(protocol, path)
    with pytest.raises(DatasetNotFoundError, match=r"There is no .*nowhere\.csv"):
        read(protocol, path.with_name("nowhere.csv"))


@pytest.mark.parametrize(
    ("protocol", "before", "after", "message"),
    [
        ("identification", "role,", "use,", "is no table of the columns role, path, identity, age_years"),
        ("identification", "\ngallery,", "\ngalery,", "line .*: 'galery' is not a role"),
        ("identification", ".0\n", ".0,1\n", "is no table of the columns"),
        ("identification", "\ngallery,", "\nprobe,", "has no image of|two images|no image"),
        ("identification", ".0\n", " years\n", "'.* years' is not an age"),
        ("verification", "\n1,", "\n2,", "line 2: same is '2'; expected 1 or 0"),
        ("verification", ",a,a,", ",z,a,", "line 3: 'a/1' has another identity or age"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_even_with_its_hash(
    published: dict[str, Path], protocol: str, before: str, after: str, message: str
):
    path = published[protocol]
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(path, before, after)
    edit(path.with_suffix(".json"), old, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DatasetError, match=message):
        read(protocol, path)


def test_protocols_are_published_as_csv(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"pairs\.txt ends in \.txt; a protocol is published as \.csv"):
        write_verification_set(small_pairs(), tmp_path / "pairs.txt")
    assert list(tmp_path.iterdir()) == []
