"""The commands prepare and check as a person types them: what is said, refused and advised."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest
from intake_sources import N_CASIA, att_like, casia, jpeg, put, verification_bin

from interproto_lib import cli
from interproto_lib.errors import CheckpointError
from interproto_lib.progress import shown_progress


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


def test_forgotten_labels_are_said_and_can_be_given_later(tmp_path, capsys):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    arguments = ["prepare", "casia_webface", tmp_path / "source", tmp_path / "out"]
    labelled = [*arguments, "--ages", tmp_path / "ages.txt"]
    run(capsys, *labelled)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert "ages: 25 images had one, now 0" in error
    assert "--relabel" in error
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    code, _, error = run(capsys, *labelled, "--heldout-share", "0.5")
    assert "splits: train 26 images, now " in error
    code, told, _ = run(capsys, *arguments, "--relabel")
    assert code == 0
    assert "the images were prepared before" in told
    run(capsys, *arguments[:-1], tmp_path / "anew")
    for name in ("dataset.json", "manifest.parquet", "images.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


def test_a_file_in_the_place_of_the_dataset_is_called_a_file(tmp_path, capsys):
    casia(tmp_path / "source")
    (tmp_path / "out").write_text("mine")
    code, _, error = run(capsys, "prepare", "casia_webface", tmp_path / "source", tmp_path / "out")
    assert code == 2
    assert f"{tmp_path / 'out'} is a file" in error
    _, _, error = run(capsys, "prepare", "casia_webface", tmp_path / "source", tmp_path / "out" / "deeper")
    assert f"{tmp_path / 'out'} is a file, expected a folder" in error
    assert "space" not in error
    assert (tmp_path / "out").read_text() == "mine"


def test_what_has_no_effect_on_a_verification_file_is_refused(tmp_path, capsys):
    verification_bin(tmp_path / "lfw.bin")
    command = ["prepare", "lfw", tmp_path / "lfw.bin"]
    assert run(capsys, *command)[0] == 0
    assert run(capsys, *command, "--image-size", "112")[0] == 0
    code, _, error = run(capsys, *command, tmp_path / "out", "--fit", "pad", "--shape", "lag", "--on-rejected", "drop")
    assert code == 2
    for given in ("OUT", "--fit", "--shape", "--on-rejected"):
        assert given in error.partition("leave out")[2]
    assert not (tmp_path / "out").exists()


def test_arguments_in_another_order_come_with_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    casia(tmp_path / "my source")
    code, _, error = run(capsys, "prepare", "my source", "casia_webface", "out")
    assert code == 2
    assert "Try: interproto prepare casia_webface 'my source' out" in error
    code, _, error = run(capsys, "prepare", "casia_webface", "out", "my source")
    assert code == 2
    assert "Try: interproto prepare casia_webface 'my source' out" in error
    assert run(capsys, "prepare", "casia_webface", "my source", "out")[0] == 0
    _, _, error = run(capsys, "prepare", "casia_webface", "gone", "out")
    assert "Try:" not in error


def test_an_error_stands_on_a_line_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERPROTO_PROGRESS", "bar")
    with shown_progress("work") as progress:
        progress(1, 3)
    drawn = capsys.readouterr().err
    assert "1/3" in drawn
    assert drawn.endswith("\n")

    casia(tmp_path / "source")

    def damaged(row: int, content: bytes) -> None:
        raise CheckpointError("the detector is gone")

    monkeypatch.setattr("interproto_lib.data.intake.fitting_decoder", lambda *arguments: damaged)
    monkeypatch.setattr("interproto_lib.data.packed_images._ROWS_AT_A_TIME", 1)
    code, _, error = run(capsys, "prepare", "casia_webface", tmp_path / "source", tmp_path / "out")
    gc.collect()
    assert code == 2
    assert "\ninterproto: the detector is gone\n" in "\n" + error
    assert error.endswith("the detector is gone\n")
    assert not capsys.readouterr().err, "nothing is drawn again"


def test_pictures_that_are_not_read_are_told_from_other_files(tmp_path, capsys):
    casia(tmp_path / "source")
    for name in ("000000/a.gif", "000001/b.HEIC", "000001/notes.txt"):
        put(tmp_path / "source", name, b"x")
    _, told, _ = run(capsys, "prepare", "casia_webface", tmp_path / "source", tmp_path / "out")
    assert "Not read: 3 other files" in told
    assert "2 pictures are of formats that are not read, such as 000000/a.gif, 000001/b.HEIC." in told
    put(tmp_path / "only", "a/1.gif", b"x")
    _, _, error = run(capsys, "prepare", "casia_webface", tmp_path / "only", tmp_path / "other")
    assert "found 1 folder and 1 other file (a/1.gif)" in error
    assert "1 picture is of a format that is not read, such as a/1.gif." in error


@pytest.mark.parametrize("options", [[], ["--shape", "identity_folders"]])
def test_the_folder_of_one_person_comes_with_its_parent(tmp_path, capsys, monkeypatch, options):
    casia(tmp_path / "source")
    monkeypatch.chdir(tmp_path / "source" / "000000")
    code, _, error = run(capsys, "prepare", "casia_webface", ".", tmp_path / "out", *options)
    assert code == 2
    assert f"the folder of one person, give the folder of all people: {tmp_path / 'source'}." in error


def test_ages_in_months_are_asked_after(tmp_path, capsys):
    casia(tmp_path / "source", labels=tmp_path / "ages.txt")
    rows = [f"{number % 4:06d}/{number:08d}.jpg,{12 * (11 + number)}" for number in range(1, 9)]
    (tmp_path / "ages.csv").write_text("path,age_years\n" + "\n".join(rows) + "\n")
    arguments = ["prepare", "casia_webface", tmp_path / "source", tmp_path / "out", "--ages", tmp_path / "ages.csv"]
    _, _, error = run(capsys, *arguments)
    assert "Most ages are above 130: are they months instead of years?" in error
    assert "--bad-ages count" in error
    (tmp_path / "ages.csv").write_text("path,age_years\n000000/00000001.jpg,131\n000000/00000002.jpg,30\n")
    _, _, error = run(capsys, *arguments)
    assert "131" in error
    assert "are they months" not in error
