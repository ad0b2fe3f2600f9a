"""Dataset cards: the ones that ship are complete and agree with the published facts; malformed ones are refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from interproto_lib import cli
from interproto_lib.data.registry import CARDS_VARIABLE, COUNTS, list_cards, read_card, require_dataset
from interproto_lib.errors import DatasetNotFoundError, ManifestError

REPO = Path(__file__).resolve().parents[1]
SHIPPED = {
    *("builtin", "identity_folder", "att_faces", "casia_webface", "ms1mv2", "agedb", "fgnet", "lag"),
    *("lfw", "cfp_fp", "cplfw", "agedb_30", "calfw", "ms1mv3", "glint360k", "webface42m"),
}


def good_card() -> dict[str, Any]:
    return {
        "name": "mine",
        "title": "My faces",
        "role": "both",
        "source": "Me",
        "home_page": None,
        "terms": "Ask me.",
        "how_to_obtain": ["Ask me nicely.", "Unpack it."],
        "layout": "<root>/\n  <identity>/\n",
        "naming": "Any.",
        "expected": dict.fromkeys(COUNTS) | {"images": 12},
        "age_labels": "None.",
        "notes": [],
    }


def write_card(folder: Path, card: Any, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    return folder


# --- the cards that ship ---------------------------------------------------------------------------------------------


def test_every_dataset_of_the_paper_has_a_card():
    cards = list_cards()
    assert {card.name for card in cards} == SHIPPED
    assert [card.name for card in cards] == sorted(SHIPPED)
    for card in cards:
        assert read_card(card.name) == card
        assert card.title in str(card)
        assert "1. " in card.steps()


def test_expected_counts_are_the_published_ones():
    published = {
        "casia_webface": {"identities": 10_572, "images": 490_623, "child_images": 9_326, "child_classes": 229},
        "ms1mv2": {"identities": 85_742, "images": 5_822_653, "child_classes": 1_148},
        "ms1mv3": {"identities": 93_431, "images": 5_179_510},
        "glint360k": {"identities": 360_232, "images": 17_091_657},
        "webface42m": {"identities": 2_059_906, "images": 42_474_557},
        "agedb": {"pairs_c20": 3_786, "pairs_c30": 2_778},
        "fgnet": {"pairs_c20": 1_034, "pairs_c30": 372},
        "lag": {"pairs": 3_400},
        "cfp_fp": {"pairs": 7_000},
        "att_faces": {"identities": 40, "images": 400},
        **{name: {"pairs": 6_000} for name in ("lfw", "calfw", "cplfw", "agedb_30")},
    }
    for card in list_cards():
        known = {key: count for key, count in card.expected.items() if count is not None}
        assert known == published.get(card.name, {}), card.name


@pytest.mark.parametrize(("name", "list_file"), [("agedb", "agedb"), ("fgnet", "fgnet"), ("lag", "lag")])
def test_expected_pairs_are_the_lines_of_the_official_lists(name: str, list_file: str):
    folder = REPO.parent / "shared" / "reference" / "child_adult_pairs"
    if not folder.is_dir():
        pytest.skip(f"the official pair lists are not at {folder}")
    for key, ending in (("pairs_c20", "20_child"), ("pairs_c30", "30_child"), ("pairs", "")):
        file = folder / f"{list_file}{ending}.txt"
        n_lines = len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else None
        assert read_card(name).expected[key] == n_lines


def test_the_lag_card_names_the_broken_lines():
    note = next(note for note in read_card("lag").notes if "blank" in note)
    named = [int(number) for number in re.findall(r"\d+", note)][1:]
    file = REPO.parent / "shared" / "reference" / "child_adult_pairs" / "lag.txt"
    if not file.is_file():
        pytest.skip(f"the official pair list is not at {file}")
    lines = file.read_text(encoding="utf-8").splitlines()
    paths = [line.split()[1:] for line in lines]
    broken = [number for number, both in enumerate(paths, start=1) if not all("/LAG-aligned/" in path for path in both)]
    assert named == broken
    assert len(broken) == 17


def test_cards_lead_to_no_package_registry_and_hold_no_machine_paths():
    for file in (REPO / "data_manifests").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        for host in re.findall(r"https?://([^/\s)]+)", text):
            assert not re.search(r"pypi|pythonhosted|anaconda|npmjs|conda", host), file.name
        assert "/work" not in text
        assert "/home" not in text


@pytest.mark.parametrize("name", sorted(SHIPPED - {"builtin"}))
def test_the_last_step_is_the_command_that_prepares_the_dataset(name: str):
    """Each command is one that the command line takes, for this dataset."""
    last = read_card(name).how_to_obtain[-1]
    (command,) = re.findall(r"`(interproto prepare [^`]+)`", last)
    options = cli.parser().parse_args(command.split()[1:])
    assert options.dataset == name
    assert (options.out is None) == (options.source.suffix == ".bin")


# --- finding and reading ---------------------------------------------------------------------------------------------


def test_a_card_is_frozen_and_has_all_its_fields(tmp_path: Path):
    card = read_card("mine", folder=write_card(tmp_path, good_card()))
    assert card.how_to_obtain == ("Ask me nicely.", "Unpack it.")
    assert card.expected["images"] == 12
    assert card.home_page is None
    assert "12 images" in str(card)
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.title = "other"  # type: ignore[misc]


def test_the_folder_comes_from_argument_variable_or_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_card(tmp_path / "a", good_card())
    write_card(tmp_path / "b", good_card() | {"name": "other"}, "other")
    monkeypatch.setenv(CARDS_VARIABLE, str(tmp_path / "a"))
    assert [card.name for card in list_cards()] == ["mine"]
    assert [card.name for card in list_cards(folder=tmp_path / "b")] == ["other"]
    monkeypatch.setenv(CARDS_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ManifestError, match=r"nowhere \(from the variable INTERPROTO_DATA_MANIFESTS\) does not exist"):
        read_card("lfw")
    monkeypatch.delenv(CARDS_VARIABLE)
    monkeypatch.chdir(tmp_path)
    assert read_card("lfw").name == "lfw"
    with pytest.raises(ManifestError, match=r"nowhere \(from the argument\) does not exist"):
        list_cards(folder=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"no dataset cards"):
        list_cards(folder=tmp_path / "empty")


@pytest.mark.parametrize("name", ["casia", "../data_manifests/lfw", ""])
def test_an_unknown_name_lists_the_known_ones(name: str):
    with pytest.raises(DatasetNotFoundError, match=r"no dataset card .*Known: agedb, agedb_30, att_faces"):
        read_card(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, "key title: found None, expected text"),
        ({"title": "  "}, "key title"),
        ({"terms": 5}, "key terms: found 5, expected text"),
        ({"role": "test"}, "key role: found 'test', expected one of: train, evaluate, both"),
        ({"home_page": 3}, "key home_page: found 3"),
        ({"how_to_obtain": "Ask."}, "key how_to_obtain: found 'Ask.', expected a list of sentences"),
        ({"how_to_obtain": []}, "key how_to_obtain: it is empty"),
        ({"notes": [1]}, r"key notes: found \[1\]"),
        ({"notes": None}, "key notes: found None"),
        ({"expected": None}, "key expected: needed are just the counts"),
        ({"expected": {"images": 3}}, "key expected: needed are just the counts"),
        ({"expected": dict.fromkeys(COUNTS) | {"faces": 3}}, "key expected: needed are just the counts"),
        ({"expected": dict.fromkeys(COUNTS) | {"images": "12"}}, r"key expected\.images: found '12', expected a whole"),
        ({"expected": dict.fromkeys(COUNTS) | {"images": -1}}, r"key expected\.images: found -1"),
        ({"expected": dict.fromkeys(COUNTS) | {"images": True}}, r"key expected\.images: found True"),
        ({"name": "other"}, "key name: found 'other', expected the file's own name 'mine'"),
        ({"licence": "BSD"}, "missing keys: none; unknown keys: licence"),
    ],
)
def test_a_malformed_card_is_refused(tmp_path: Path, change: dict[str, Any], message: str):
    write_card(tmp_path, good_card() | change)
    for read in (lambda: read_card("mine", folder=tmp_path), lambda: list_cards(folder=tmp_path)):
        with pytest.raises(ManifestError, match=message) as caught:
            read()
        assert str(tmp_path / "mine.yaml") in str(caught.value)


def test_missing_keys_and_files_that_are_no_cards_are_refused(tmp_path: Path):
    for key in good_card():
        write_card(tmp_path, {name: value for name, value in good_card().items() if name != key})
        with pytest.raises(ManifestError, match=rf"mine\.yaml: missing keys: {key}; unknown keys: none"):
            read_card("mine", folder=tmp_path)
    for content, message in (
        (b"name: [", "is not readable YAML"),
        (b"\xff\xfe", "is not readable YAML"),
        (b"- a\n- b\n", "holds a list, expected keys with values"),
        (b"", "holds a NoneType"),
        (b"name: !!python/object/apply:os.getcwd []\n", "is not readable YAML"),
    ):
        (tmp_path / "mine.yaml").write_bytes(content)
        with pytest.raises(ManifestError, match=message):
            read_card("mine", folder=tmp_path)


# --- requiring a dataset ---------------------------------------------------------------------------------------------


def test_a_missing_dataset_comes_with_numbered_steps(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for place, found in (("nowhere", "does not exist"), ("empty", "is empty"), ("file", "is not a folder")):
        with pytest.raises(DatasetNotFoundError) as caught:
            require_dataset("fgnet", tmp_path / place)
        message = str(caught.value)
        assert f"was looked for in {tmp_path / place}, which {found}" in message
        for number, step in enumerate(read_card("fgnet").how_to_obtain, start=1):
            assert f"  {number}. {step}" in message
        assert "FGNET-aligned/" in message
        assert read_card("fgnet").terms in message
    with pytest.raises(DatasetNotFoundError, match=r"no dataset card 'fg-net'"):
        require_dataset("fg-net", tmp_path)


def test_a_present_dataset_gives_its_folder(tmp_path: Path):
    assert require_dataset("fgnet", str(tmp_path.parent)) == tmp_path.parent
    cards = tmp_path / "cards"
    cards.mkdir()
    assert require_dataset("mine", tmp_path, cards=write_card(cards, good_card())) == tmp_path
