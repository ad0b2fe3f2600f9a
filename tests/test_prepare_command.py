"""The commands prepare and check as a person types them: what is said, refused and advised."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from intake_sources import N_CASIA, att_like, casia, jpeg, put

from interproto_lib import cli


@pytest.fixture(autouse=True)
def no_bar(monkeypatch):
    monkeypatch.setenv("INTERPROTO_PROGRESS", "none")


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was said as an error."""
    code = cli.main([*map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def preparation(folder: Path) -> dict:
    return json.loads((folder / "preparation.json").read_text(encoding="utf-8"))


def test_a_first_run_with_an_empty_file_speaks_of_no_interruption(tmp_path, capsys):
    casia(tmp_path / "source")
    put(tmp_path / "source", "000001/00000014.jpg", b"")
    arguments = ["prepare", "casia_webface", tmp_path / "source", tmp_path / "out", "--on-rejected", "drop"]
    code, told, _ = run(capsys, *arguments)
    assert code == 0
    assert "interruption" not in told
    assert preparation(tmp_path / "out")["time"]["images_decoded"] == N_CASIA
    _, told, _ = run(capsys, *arguments)
    assert "the images were prepared before" in told


def test_photographs_of_other_sizes_come_with_what_brings_them_to_one(tmp_path, capsys):
    att_like(tmp_path / "source", people=6)
    arguments = ["prepare", "identity_folder", tmp_path / "source", tmp_path / "out"]
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert "None of the 18 images" in error
    for advice in ("18 of them can be read", "--fit pad", "--landmarks FILE", "--detector MODEL.onnx"):
        assert advice in error
    assert run(capsys, *arguments, "--fit", "pad")[0] == 0
    put(tmp_path / "few", "a/1.png", jpeg(1, size=(112, 112), encoding="PNG"))
    put(tmp_path / "few", "a/2.png", b"x")
    _, _, error = run(capsys, "prepare", "casia_webface", tmp_path / "few", tmp_path / "other")
    assert "--fit" not in error, "no image has another size"


def test_the_ages_of_the_report_are_those_of_the_images_kept(tmp_path, capsys):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    put(tmp_path / "source", "000001/00000014.jpg", b"")
    arguments = ["prepare", "casia_webface", tmp_path / "source", tmp_path / "out", "--on-rejected", "drop"]
    _, told, _ = run(capsys, *arguments, "--ages", tmp_path / "ages.txt")
    assert "25 of 26 images (96.2 %) have an age" in told  # said before an image is read
    assert "Ages: 24 of 25 images have one" in told
    ages = preparation(tmp_path / "out")["ages"]
    assert (ages["n_labelled"], ages["n_images"]) == (24, 25)
    assert (ages["in_source"]["n_labelled"], ages["in_source"]["n_images"]) == (25, 26)


def test_check_fails_where_the_source_is_another(tmp_path, capsys):
    casia(tmp_path / "source")
    run(capsys, "prepare", "casia_webface", tmp_path / "source", tmp_path / "out")
    arguments = ["check", tmp_path / "out", "--source", tmp_path / "source"]
    assert run(capsys, *arguments)[0] == 0
    index = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    recorded = index["settings"]["packing"]["fingerprint"]
    index["settings"]["packing"]["fingerprint"] = recorded.partition(":")[0]  # as before it had two parts
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(index), encoding="utf-8")
    assert run(capsys, *arguments)[0] == 0
    index["settings"]["packing"]["fingerprint"] = recorded
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(index), encoding="utf-8")

    image = tmp_path / "source" / "000000" / "00000001.jpg"
    os.utime(image, (1, 1))
    code, told, error = run(capsys, *arguments)
    assert code == 2
    assert "as many images as then" in told
    assert "same names and sizes, only times of change differ" in told
    assert f"{tmp_path / 'source'} is not what {tmp_path / 'out'} was made of" in error
    image.write_bytes(image.read_bytes() + b"x")
    code, told, _ = run(capsys, *arguments)
    assert code == 2
    assert "files were added, removed or written anew" in told
