"""Age labels as published with MTLFace: read, matched to a folder, and refused line by line where they are not so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from interproto_lib.data import load_dataset, prepare_source, read_age_labels, read_card, read_identity_folder
from interproto_lib.errors import ManifestError
from interproto_lib.presets import PRESETS_DIR

EXAMPLE = "0 casia-webface/000000/00000001.jpg 26.0 1"  # the line that the card of CASIA-WebFace shows


def write_list(folder: Path, *lines: str) -> Path:
    file = folder / "casia-webface.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def make_export(root: Path, n_identities: int = 4, n_images: int = 2) -> Path:
    """Write an export as the card lays it out: identities with 6 digits, files with 8, counted through from 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (n_identities * n_images, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels, start=1):
        file = root / f"{(number - 1) // n_images:06d}" / f"{number:08d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root


def test_the_cards_example_line_is_read(tmp_path: Path):
    assert EXAMPLE in " ".join(read_card("casia_webface").naming.split())
    table = read_age_labels(write_list(tmp_path, EXAMPLE, "", "12 casia-webface/000012/00000700.jpg 7 0"))
    expected = pd.DataFrame({"path": ["000000/00000001.jpg", "000012/00000700.jpg"], "age_years": [26.0, 7.0]})
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert table["age_years"].dtype == np.float64


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_preset_card_and_command_agree_on_the_layout(tmp_path: Path, preset: str):
    """The steps of the card, with the layout it shows, leave the dataset that the preset reads."""
    section = yaml.safe_load((PRESETS_DIR / f"{preset}.yaml").read_text(encoding="utf-8"))["dataset"]
    card = read_card(section["card"])
    command = re.findall(r"`(interproto prepare [^`]+)`", card.how_to_obtain[-1])[0].split()
    name, source, out, ages = command[2], command[3], command[4], command[command.index("--ages") + 1]
    assert (name, out, section["dataset"]) == (section["card"], section["root"], "prepared")
    layouts = [text for text in card.layout.split("or\n") if "000000/" in text]
    layout = [line.strip() for line in layouts[0].splitlines()]
    assert layout[:4] == ["<datasets>/", f"{Path(source).name}/", "000000/", "00000001.jpg"]
    assert layout[-2:] == [f"{Path(ages).parent.name}/", Path(ages).name]
    root = make_export(tmp_path / Path(source).name)
    lines = [f"{k // 2} casia-webface/{k // 2:06d}/{k + 1:08d}.jpg {10 + k}.0 1" for k in range(8)]
    prepare_source(name, root, tmp_path / "out", ages=write_list(tmp_path, *lines), image_size=8)
    dataset = load_dataset(tmp_path / "out")
    assert dataset.manifest["age_years"].tolist() == [10.0 + k for k in range(8)]
    assert set(dataset.manifest["split"]) == {"train"}


def test_rows_without_an_image_are_named_or_dropped_when_asked(tmp_path: Path):
    root = make_export(tmp_path / "casia-webface")
    rows = [EXAMPLE, "1 casia-webface/000001/00000099.jpg 5.0 0", "9 casia-webface/000009/00000003.jpg 6.0 1"]
    labels = write_list(tmp_path, *rows)
    named = r"2 of 3 rows match no image in .*: 000001/00000099.jpg \(row 2\), 000009/00000003.jpg \(row 3\)\."
    with pytest.raises(ManifestError, match=rf"{named}.*unmatched_ages='drop'"):
        read_identity_folder(root, ages=labels, image_size=8, validation_share=0.0)
    with pytest.warns(UserWarning, match=rf"{named} They are left out"):
        dataset = read_identity_folder(root, ages=labels, image_size=8, unmatched_ages="drop", validation_share=0.0)
    found = dataset.settings["ages"]
    assert (found["n_labelled"], found["n_unlabelled"], found["n_rows"], found["n_rows_unmatched"]) == (1, 7, 3, 2)
    assert dataset.manifest.loc[dataset.manifest["path"] == "000000/00000001.jpg", "age_years"].item() == 26.0


def test_a_list_of_another_dataset_is_refused_even_when_rows_may_be_dropped(tmp_path: Path):
    root = make_export(tmp_path / "casia-webface")
    labels = write_list(tmp_path, "0 ms1m/0/1.jpg 26.0 1")
    with pytest.raises(ManifestError, match="1 of 1 rows match no image"):
        read_identity_folder(root, ages=labels, image_size=8, unmatched_ages="drop", validation_share=0.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("id path age gender", r"line 2: the path 'path' is not of the form <dataset>/<identity>/<image>"),
        ("0 casia-webface/000000/00000002.jpg 26.0", r"line 2: found '0 casia-webface.* expected `id path age gender`"),
        ("0  casia-webface/000000/00000002.jpg 26.0 1", "line 2: found .*single spaces"),
        ("0 casia-webface/000000 26.0 1", "line 2: the path 'casia-webface/000000' is not of the form"),
        ("0 ms1m/000000/00000002.jpg 26.0 1", "line 2: the path .* starts with 'ms1m', the lines before with 'casia"),
        ("0 casia-webface/000000/00000002.jpg old 1", r"row 2 \(line 2\), column age_years: 'old' is not a number"),
        ("0 casia-webface/000000/00000002.jpg -1.0 1", r"row 2 \(line 2\), column age_years: -1.0 is not an age"),
        ("0 casia-webface/000000/00000001.jpg 27.0 1", r"row 2 \(line 2\), column path: .* is already in row 1"),
        ("0 casia-webface/../00000001.jpg 27.0 1", r"row 2 \(line 2\), column path: .* contains '\.\.'"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str, message: str):
    file = write_list(tmp_path, EXAMPLE, line)
    with pytest.raises(ManifestError, match=message) as caught:
        read_age_labels(file)
    assert str(file) in str(caught.value)


def test_no_file_no_line_no_utf8(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"There is no list of age labels .*none\.txt"):
        read_age_labels(tmp_path / "none.txt")
    with pytest.raises(ManifestError, match="is empty; expected one line"):
        read_age_labels(write_list(tmp_path, ""))
    file = tmp_path / "latin.txt"
    file.write_bytes(f"{EXAMPLE}\n0 casia-webface/Jos\xe9/1.jpg 3.0 1\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="line 2: the text is not UTF-8"):
        read_age_labels(file)
