"""What a preset passes to the notebooks that compare methods, and the preset for a user's own photographs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_graph import PRESET, write_fake_notebooks

from interproto_lib import presets
from interproto_lib.errors import ConfigError
from interproto_lib.presets import list_presets, read_preset

REPO = Path(__file__).resolve().parents[1]
COMPARING = ("03_similarity", "04_prototype_projection", "00_start_here")


def write_preset(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(PRESET) | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("notebook", COMPARING)
def test_methods_and_seeds_are_those_of_the_preset(tmp_path: Path, notebook: str):
    methods = {"arcface": {}, "child": {"inter_prototype": "child"}, "all": {"inter_prototype": "all"}}
    preset = read_preset(write_preset(tmp_path, methods=methods, seeds=[3, 1]))
    given = preset.parameters(notebook)
    assert given["baseline"] == "arcface"
    assert given["treated"] == ["child", "all"]
    assert given["seeds"] == [3, 1]


def test_a_section_sets_what_it_wants_otherwise(tmp_path: Path):
    methods = {"arcface": {}, "child": {"inter_prototype": "child"}, "all": {"inter_prototype": "all"}}
    sections = {"similarity": {"baseline": "child"}, "projection": {"treated": ["all"], "seeds": [1]}}
    preset = read_preset(write_preset(tmp_path, methods=methods, seeds=[3, 1], **sections))
    similarity, projection = preset.parameters("03_similarity"), preset.parameters("04_prototype_projection")
    assert (similarity["baseline"], similarity["treated"]) == ("child", ["arcface", "all"])
    assert (projection["baseline"], projection["treated"], projection["seeds"]) == ("arcface", ["all"], [1])


def test_the_dataset_and_the_trainings_are_not_told_of_methods(tmp_path: Path):
    preset = read_preset(write_preset(tmp_path))
    for given in (preset.parameters("01_datasets_and_ages"), preset.parameters("02_train", method="arcface", seed=0)):
        assert not {"baseline", "treated", "seeds"} & set(given)


@pytest.mark.parametrize("name", list_presets())
def test_the_projects_presets_do_not_repeat_their_methods(name: str):
    for notebook in COMPARING:
        assert not {"baseline", "treated", "seeds"} & set(
            read_preset(name).sections[presets.NOTEBOOK_SECTIONS[notebook]]
        )


def test_photographs_are_compared_as_published():
    preset = read_preset("photographs")
    assert list(preset.methods) == ["arcface", "interproto", "interproto-sum"]
    assert preset.methods["interproto"] == {"inter_prototype": "child", "ip_reduction": "mean", "ip_weight": 1.0}
    assert preset.methods["interproto-sum"]["inter_prototype"] == "child"
    assert preset.sections["dataset"]["root"] == ""
    assert len(preset.seeds) >= 2


@pytest.mark.parametrize(
    ("name", "card"), [("paper", "casia_webface"), ("official", "casia_webface"), ("att_faces",) * 2]
)
def test_presets_of_published_photographs_name_their_card(name: str, card: str):
    assert read_preset(name).sections["dataset"]["card"] == card


def test_without_a_checkout_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(presets, "PRESETS_DIR", tmp_path / "notebooks" / "presets")
    with pytest.raises(ConfigError, match=r"presets are not at .*not run from a checkout.*pip install -e"):
        read_preset("demo")
    assert read_preset(write_preset(tmp_path)).experiment == "fake"


@pytest.mark.slow
def test_the_graph_notices_photographs_that_changed(tmp_path: Path, write_notebook):
    write_fake_notebooks(tmp_path / "notebooks", write_notebook)
    photograph, ages = tmp_path / "faces" / "a" / "0.png", tmp_path / "ages.csv"
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b"a picture")
    ages.write_text("path,age_years\na/0.png,5\n")
    preset = write_preset(tmp_path, dataset={"root": str(photograph.parents[1]), "ages": str(ages)})

    def reproduce(*arguments: str) -> list[str]:
        """Run or plan the first notebook; give the executed copies that are planned."""
        places = ["--runs-dir", str(tmp_path / "runs"), "--notebooks-dir", str(tmp_path / "notebooks")]
        command = [sys.executable, "-m", "interproto_lib.cli", "reproduce", "--preset", str(preset), *places]
        call = subprocess.run(
            [*command, *arguments, "--", "--until", "dataset"],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert call.returncode == 0, call.stdout + call.stderr
        return re.findall(r"output: .*/(\w+)\.ipynb$", call.stdout, flags=re.M)

    reproduce()
    assert reproduce("--dry-run") == []
    photograph.write_bytes(b"another picture")
    assert reproduce("--dry-run") == ["01_datasets_and_ages"]
