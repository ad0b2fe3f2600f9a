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
from toy import toy_dataset

from interproto_lib import presets
from interproto_lib.analysis import published_table
from interproto_lib.config import TrainConfig
from interproto_lib.data import evaluation_sets
from interproto_lib.deciding_settings import deciding_settings
from interproto_lib.errors import ConfigError
from interproto_lib.presets import list_presets, read_preset

REPO = Path(__file__).resolve().parents[1]
COMPARING = ("03_similarity", "04_prototype_projection", "05_verification", "06_identification", "00_start_here")


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


SWEEPS = {
    "scope": {
        "arcface": None,
        "interproto": {},
        "interproto-all": {"like": "interproto", "inter_prototype": "all"},
    },
    "ip_weight": {
        "interproto": None,
        "interproto-10": {"like": "interproto", "ip_weight": 10.0},
        "interproto-all": None,
    },
}


def test_sweeps_share_runs_and_train_the_rest(tmp_path: Path):
    preset = read_preset(write_preset(tmp_path, seeds=[0, 1], ablations={"seeds": [1, 2], "sweeps": SWEEPS}))
    assert preset.sweeps == {name: tuple(methods) for name, methods in SWEEPS.items()}
    assert preset.ablation_methods == {
        "interproto-all": {"inter_prototype": "all"},
        "interproto-10": {"inter_prototype": "child", "ip_weight": 10.0},
    }
    assert set(preset.runs) == {"arcface-s0", "interproto-s0", "arcface-s1", "interproto-s1"}
    added = {f"{method}-s{seed}" for method in ("interproto-all", "interproto-10") for seed in (1, 2)}
    assert set(preset.ablation_runs) == added | {"arcface-s2", "interproto-s2"}
    assert preset.ablation_runs["interproto-10-s2"] == ("interproto-10", 2)
    given = preset.parameters("02_train", method="interproto-10", seed=2)
    assert {key: given[key] for key in ("run", "seed", "epochs", "inter_prototype", "ip_weight")} == {
        "run": "interproto-10-s2",
        "seed": 2,
        "epochs": 3,
        "inter_prototype": "child",
        "ip_weight": 10.0,
    }


def test_sweeps_stay_out_of_the_other_comparisons(tmp_path: Path):
    plain = read_preset(write_preset(tmp_path, seeds=[0, 1]))
    preset = read_preset(write_preset(tmp_path, seeds=[0, 1], ablations={"seeds": [1], "sweeps": SWEEPS}))
    for notebook in COMPARING:
        assert preset.parameters(notebook) == plain.parameters(notebook)
    assert preset.parameters("07_ablations") == {
        "experiment": "fake",
        "runs_dir": "runs",
        "baseline": "arcface",
        "sweeps": {name: list(methods) for name, methods in SWEEPS.items()},
        "seeds": [1],
    }


def test_without_sweeps_the_methods_stand_side_by_side(tmp_path: Path):
    for ablations in ({}, {"ablations": {"confidence": 0.9}}):
        preset = read_preset(write_preset(tmp_path, seeds=[3], **ablations))
        assert preset.ablation_runs == {}
        assert preset.parameters("07_ablations")["sweeps"] == {"methods": ["arcface", "interproto"]}
        assert preset.parameters("07_ablations")["seeds"] == [3]
    assert preset.parameters("07_ablations")["confidence"] == 0.9


def test_a_section_of_ablations_names_another_baseline(tmp_path: Path):
    sweeps = {"scope": SWEEPS["scope"]}
    preset = read_preset(write_preset(tmp_path, ablations={"baseline": "interproto", "sweeps": sweeps}))
    assert preset.parameters("07_ablations")["baseline"] == "interproto"


@pytest.mark.parametrize(
    ("ablations", "message"),
    [
        ({"sweeps": []}, "ablations.sweeps must hold `name: value` lines, found list"),
        (None, "ablations must hold `name: value` lines, found NoneType"),
        ({"sweeps": ["scope"]}, "ablations.sweeps must hold `name: value` lines, found list"),
        ({"sweeps": {"scope": ["arcface", "interproto"]}}, "ablations.sweeps.scope must hold"),
        ({"sweeps": {"scope": {"arcface": None}}}, "scope sets nothing side by side: it names only 'arcface'"),
        ({"sweeps": {"a/b": {"arcface": None, "interproto": None}}}, "sweep 'a/b' must be letters"),
        ({"sweeps": {"scope": {"arcface": None, "a b": {"ip_weight": 2.0}}}}, "method 'a b' must be letters"),
        ({"sweeps": {"scope": {"arcface": None, "interprot": None}}}, "did you mean 'interproto'?"),
        ({"sweeps": {"scope": {"arcface": None, "x": {"like": "arc", "epochs": 4}}}}, "like: 'arc' is no method"),
        ({"sweeps": {"scope": {"arcface": None, "x": {"epoch": 4}}}}, "method 'x': Unknown training setting 'epoch'"),
        ({"sweeps": {"scope": {"arcface": None, "x": {"epochs": 0}}}}, "method 'x': epochs=0"),
        ({"sweeps": {"scope": {"arcface": None, "x": {"seed": 4}}}}, "'seed' is set by the batch graph"),
        ({"sweeps": {"scope": {"arcface": None, "x": {"ip_weight": "1e-3"}}}}, "YAML reads 1e-3 as text"),
        ({"sweeps": {"scope": {"interproto": None, "arcface": {"epochs": 4}}}}, "'arcface' has other settings"),
        (
            {"sweeps": {"a": {"arcface": None, "x": {"epochs": 4}}, "b": {"arcface": None, "x": {"epochs": 5}}}},
            "sweeps.b.x: 'x' has other settings elsewhere",
        ),
        ({"sweeps": {"scope": {"arcface": None, "x": {"ip_weight": 5.0}}}}, "'x' trains the same as 'arcface'"),
        (
            {"sweeps": {"scope": {"x": {"epochs": 4}, "y": {"epochs": 4, "min_child_images": 9}}}},
            "'x' trains the same as 'y'",
        ),
        ({"seeds": [1, 1], "sweeps": {"scope": SWEEPS["scope"]}}, "ablations.seeds=[1, 1] names a seed twice"),
        ({"seeds": [], "sweeps": {"scope": SWEEPS["scope"]}}, "ablations.seeds=[] must be a list of whole numbers"),
        ({"seeds": [1]}, "ablations.seeds without ablations.sweeps"),
        ({"runs_dir": "x"}, "'runs_dir' is set by the batch graph"),
        ({"baseline": "arc"}, "ablations.baseline names 'arc'"),
        (["scope"], "ablations must hold"),
    ],
)
def test_wrong_sweeps_are_refused(tmp_path: Path, ablations: object, message: str):
    path = write_preset(tmp_path, ablations=ablations)
    with pytest.raises(ConfigError) as error:
        read_preset(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_settings_that_mean_nothing_do_not_decide():
    none, child, every = ({"inter_prototype": scope} for scope in ("none", "child", "all"))

    def equal(scope: dict[str, str], **change: object) -> bool:
        one, other = TrainConfig(**scope), TrainConfig(**scope, **change)
        return deciding_settings(one) == deciding_settings(other)

    assert all(equal(none, **change) for change in ({"ip_weight": 2.0}, {"ip_reduction": "sum"}, {"seed": 4}))
    assert equal(none, min_child_images=2)
    assert equal(every, min_child_images=2)
    assert equal(child, threads=3)
    assert not equal(every, ip_weight=2.0)
    assert not equal(child, min_child_images=2)
    assert not equal(none, epochs=3)


def test_the_sweeps_of_tables_5_and_6_are_the_papers():
    for name, margin in (("paper", 0.35), ("official", 0.35), ("demo", 0.2), ("ablations", 0.2)):
        preset = read_preset(name)
        methods = {**preset.methods, **preset.ablation_methods}
        train = preset.sections["train"]
        configs = {
            sweep: [
                TrainConfig.from_dict(
                    {k: v for k, v in {**train, **methods[m]}.items() if k in TrainConfig.__dataclass_fields__}
                )
                for m in preset.sweeps[sweep]
            ]
            for sweep in ("scope", "margin_loss")
        }
        assert [c.inter_prototype for c in configs["scope"]] == ["none", "child", "all"]
        assert [(c.margin_loss, c.inter_prototype) for c in configs["margin_loss"]] == [
            *(("arcface", "none"), ("arcface", "child"), ("cosface", "none"), ("cosface", "child"))
        ]
        assert {c.margin for c in configs["margin_loss"] if c.margin_loss == "cosface"} == {margin}
        for with_loss in (configs["scope"][1:], configs["margin_loss"][1::2]):
            assert len({(c.ip_reduction, c.ip_weight, c.min_child_images) for c in with_loss}) == 1


def test_the_preset_of_ablations_has_all_six_sweeps():
    preset = read_preset("ablations")
    assert list(preset.sweeps) == [
        *("scope", "margin_loss", "reduction", "ip_weight", "min_child_images", "embedding_dim")
    ]
    assert len(preset.ablation_seeds) == 3
    assert len(preset.runs) + len(preset.ablation_runs) == 63


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


def test_rules_and_test_sets_are_said_once_and_handed_on(tmp_path: Path):
    sets = {"AgeDB-C20": {"pairs": "c20.txt", "images": "agedb", "names": "agedb"}}
    preset = read_preset(
        write_preset(
            tmp_path,
            train={"verification_threshold": "ten_fold", "epoch_choice": "last", "child_below_years": 12.0},
            verification={"test_sets": sets, "on_missing": "leave_out"},
        )
    )
    rules = {"verification_threshold": "ten_fold", "epoch_choice": "last", "child_below_years": 12.0}
    test_sets = {"test_sets": sets, "on_missing": "leave_out"}
    verification = preset.parameters("05_verification")
    assert rules.items() <= verification.items()
    assert test_sets.items() <= verification.items()
    identification = preset.parameters("06_identification")
    assert rules.items() <= identification.items()
    assert test_sets.items() <= identification.items()
    assert test_sets.items() <= preset.parameters("07_ablations").items()
    assert not rules.keys() & preset.parameters("07_ablations").keys(), "07 reads the rules from the runs"
    assert not {*rules, *test_sets} & preset.parameters("03_similarity").keys()


@pytest.mark.parametrize("name", ["paper", "official"])
def test_published_presets_name_the_test_sets_of_tables_1_2_and_4_and_say_which_are_missing(name: str):
    verification = read_preset(name).sections["verification"]
    named = verification["test_sets"]
    assert set(named) == {*published_table(1).columns, *published_table(4).columns}
    sets = evaluation_sets(toy_dataset(n_heldout=0), named, on_missing=verification["on_missing"])
    assert set(sets.missing) == set(named), "nobody has these files here, and none is left out in silence"
    assert sets.tests == {}
