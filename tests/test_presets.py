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
from interproto_lib.analysis.published import paper_row
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
    ("name", "card"),
    [
        ("paper", "casia_webface"),
        ("official", "casia_webface"),
        ("methods_casia", "casia_webface"),
        ("methods_ms1mv2", "ms1mv2"),
        ("att_faces", "att_faces"),
    ],
)
def test_presets_of_published_photographs_name_their_card(name: str, card: str):
    assert read_preset(name).sections["dataset"]["card"] == card


def test_without_a_checkout_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(presets.reading, "PRESETS_DIR", tmp_path / "notebooks" / "presets")
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


@pytest.mark.parametrize("name", ["paper", "official", "methods_casia", "methods_ms1mv2"])
def test_published_presets_name_the_test_sets_of_tables_1_2_and_4_and_say_which_are_missing(name: str):
    verification = read_preset(name).sections["verification"]
    named = verification["test_sets"]
    assert set(named) == {*published_table(1).columns, *published_table(4).columns}
    sets = evaluation_sets(toy_dataset(n_heldout=0), named, on_missing=verification["on_missing"])
    assert set(sets.missing) == set(named), "nobody has these files here, and none is left out in silence"
    assert sets.tests == {}


# --- the comparison of all methods ----------------------------------------------------------------

OF_A_METHOD = {
    *("margin_loss", "scale", "margin", "mv_hard_weight", "mv_adaptive", "mv_easy_margin", "broadface_queue"),
    *("sphereface_lambda_decay", "inter_prototype", "age_method", "age_weight", "dal_weight", "dal_opponent_steps"),
    *("dal_steps", "mtl_reversed_weight", "adaface_concentration", "adaface_ema", "curricular_momentum"),
    *("sphereface_lambda_start", "sphereface_lambda_min", "dal_measure", "ip_reduction", "ip_weight"),
    *("min_child_images", "child_below_years", "unlabelled_as_years"),
}
# Scale and margin as published, by method.
PUBLISHED_MARGINS = {
    **dict.fromkeys(("arcface", "interproto", "curricularface", "broadface"), (64.0, 0.5)),
    **dict.fromkeys(("cosface", "oe-cnn", "ae-cnn", "dal", "mtlface"), (64.0, 0.35)),
    "mv-am": (32.0, 0.5),
    "adaface": (64.0, 0.4),
    "sphereface": (1.0, 4.0),
}


def configs_of(name: str) -> dict[str, TrainConfig]:
    preset = read_preset(name)
    of_training = preset.sections["train"]
    return {
        method: TrainConfig.from_dict(
            {k: v for k, v in {**of_training, **settings}.items() if k in TrainConfig.__dataclass_fields__}
        )
        for method, settings in {**preset.methods, **preset.ablation_methods}.items()
    }


@pytest.mark.parametrize("name", ["methods", "methods_casia", "methods_ms1mv2"])
def test_the_comparison_has_every_method_three_times(name: str):
    preset, configs = read_preset(name), configs_of(name)
    assert set(preset.methods) == set(PUBLISHED_MARGINS)
    assert next(iter(preset.methods)) == "arcface"
    assert len(preset.seeds) == len(preset.ablation_seeds) == 3
    rows = [paper_row(configs[method]) for method in preset.methods]
    assert {row for row in rows if row is not None} == set(published_table(1).rows)
    assert sorted(m for m, row in zip(preset.methods, rows, strict=True) if row is None) == [
        *("adaface", "ae-cnn", "sphereface")
    ]
    assert [paper_row(configs[method]) for method in preset.sweeps["margin_loss"]] == [
        *("ArcFace", "Inter-Prototype", "CosFace", "Inter-Prototype + CosFace")
    ]
    heads = [(configs[method].margin_loss, configs[method].inter_prototype) for method in preset.sweeps["other_heads"]]
    others = ("curricularface", "mv_am", "broadface", "sphereface", "adaface")
    assert heads == [(head, scope) for head in others for scope in ("none", "child")]


@pytest.mark.parametrize("name", ["methods", "methods_casia", "methods_ms1mv2"])
def test_the_schedule_is_equal(name: str):
    settings = {method: config.to_dict() for method, config in configs_of(name).items()}
    differing = {key for key in settings["arcface"] if len({str(of[key]) for of in settings.values()}) > 1}
    own_backbone = {"backbone", "dropout"} if name != "methods" else set()
    assert differing <= OF_A_METHOD | own_backbone
    ordinary = {m: of for m, of in settings.items() if m != "mtlface"}
    assert {of["backbone"] for of in ordinary.values()} == {"small" if name == "methods" else "ir_se50"}
    with_loss = [of for of in settings.values() if of["inter_prototype"] == "child"]
    assert {(of["ip_reduction"], of["ip_weight"]) for of in with_loss} == {("mean", 1.0)}


@pytest.mark.parametrize("name", ["methods_casia", "methods_ms1mv2"])
def test_at_the_papers_size_the_settings_are_the_published_ones(name: str):
    configs = configs_of(name)
    assert {m: (configs[m].scale, configs[m].margin) for m in PUBLISHED_MARGINS} == PUBLISHED_MARGINS
    mv, broad, dal, mtl = (configs[m] for m in ("mv-am", "broadface", "dal", "mtlface"))
    assert (mv.mv_hard_weight, mv.mv_adaptive, mv.mv_easy_margin, broad.broadface_queue) == (0.2, True, False, 32_000)
    assert (dal.age_weight, dal.dal_weight, dal.dal_opponent_steps, dal.dal_steps) == (0.1, 0.1, 20, 50)
    assert (mtl.backbone, mtl.dropout, mtl.age_weight, mtl.mtl_reversed_weight) == ("mtlface_ir50", 0.5, 0.001, 0.002)
    assert configs["oe-cnn"].age_weight == 0.001
    official = TrainConfig.preset("official" if name == "methods_casia" else "official_ms1mv2").to_dict()
    allowed = {"unlabelled_as_years", "keep_every_epoch", "seed"}
    ours = configs["interproto"].to_dict()
    assert {key for key in official if official[key] != ours[key]} <= allowed


def test_on_drawn_faces_scales_and_margins_keep_the_published_ratio():
    for method, config in configs_of("methods").items():
        scale, margin = PUBLISHED_MARGINS[method.removesuffix("-interproto")]
        if config.margin_loss == "sphereface":
            assert (config.scale, config.margin) == (scale, margin)
        else:
            assert (config.scale, config.margin) == (scale / 2, round(0.6 * margin, 1))
    queue = configs_of("methods")["broadface"].broadface_queue
    assert queue / (400 * 12) == pytest.approx(32_000 / 490_623, rel=0.03)


def test_the_preset_of_ms1mv2_differs_in_data_and_epochs_alone():
    casia, ms1m = read_preset("methods_casia"), read_preset("methods_ms1mv2")
    assert (ms1m.methods, ms1m.sweeps, ms1m.seeds) == (casia.methods, casia.sweeps, casia.seeds)
    assert ms1m.experiment == "methods_ms1mv2"
    differing = {
        (section, key) for section, of in casia.sections.items() for key in of if of[key] != ms1m.sections[section][key]
    }
    assert differing == {("dataset", "root"), ("dataset", "card"), ("train", "epochs"), ("train", "milestones")}


# --- a preset that is like another ----------------------------------------------------------------


def write(path: Path, **content: object) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_preset_is_like_another_but_for_what_it_says(tmp_path: Path):
    base = write_preset(tmp_path, seeds=[0, 1], similarity={"n_sampled": 3}, description="of the other")
    mine = write(
        tmp_path / "other.yaml",
        like=base.name,
        experiment="own",
        train={"batch_size": 8},
        methods={"arcface": {}, "all": {"inter_prototype": "all"}},
    )
    preset = read_preset(mine)
    assert (preset.experiment, preset.seeds, preset.description) == ("own", (0, 1), "")
    assert preset.sections["train"] == {"epochs": 3, "batch_size": 8}
    assert preset.sections["similarity"] == {"n_sampled": 3}
    assert preset.methods == {"arcface": {}, "all": {"inter_prototype": "all"}}, "the methods are its own"
    again = read_preset(write(tmp_path / "third.yaml", like="other.yaml", experiment="third", seeds=[7]))
    assert (again.seeds, again.sections["train"]) == ((7,), preset.sections["train"])
    assert read_preset(write(tmp_path / "by_name.yaml", like="tiny", experiment="mine")).seeds == (0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"like": "mine.yaml"}, "'experiment' is missing"),
        ({"like": "loop.yaml", "experiment": "a"}, "like: leads back to"),
        ({"like": "no_such.yaml", "experiment": "a"}, "There is no preset file"),
        ({"like": "tyni", "experiment": "a"}, "Unknown preset 'tyni'"),
        ({"like": "mine.yaml", "experiment": "a", "train": {"epocs": 3}}, "did you mean 'epochs'"),
        ({"like": "mine.yaml", "experiment": "a", "trian": {}}, "unknown section 'trian'"),
    ],
)
def test_likeness_that_cannot_be_is_refused(tmp_path: Path, content: dict[str, object], message: str):
    write_preset(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_preset(write(tmp_path / "loop.yaml", **content))


# --- processes ------------------------------------------------------------------------------------


def test_processes_reach_the_training_alone(tmp_path: Path):
    preset = read_preset(write_preset(tmp_path, train={"epochs": 3, "batch_parts": 4, "processes": 2}))
    assert (preset.processes, preset.trains_on_gpus) == (2, True)
    assert preset.parameters("02_train", method="arcface", seed=0)["processes"] == 2
    assert all("processes" not in preset.parameters(name) for name in COMPARING)
    assert read_preset(write_preset(tmp_path)).processes == 1


@pytest.mark.parametrize(
    ("train", "on_gpus"),
    [({}, False), ({"processes": 2, "device": "cpu"}, False), ({"processes": 2, "device": "cuda"}, True)],
)
def test_several_processes_take_gpus_where_they_are_not_kept_off_them(
    tmp_path: Path, train: dict[str, object], on_gpus: bool
):
    assert read_preset(write_preset(tmp_path, train={"batch_parts": 2, **train})).trains_on_gpus is on_gpus


@pytest.mark.parametrize(
    ("train", "methods", "message"),
    [
        ({"processes": 0}, {}, r"'arcface': processes=0: must be a whole number, at least 1"),
        ({"processes": True}, {}, r"processes=True: must be a whole number"),
        ({"processes": 2.0}, {}, r"processes=2\.0: must be a whole number"),
        ({"processes": "two"}, {}, r"processes='two': must be a whole number"),
        ({"processes": 2}, {}, r"processes=2: must be a divisor of batch_parts=1; set batch_parts .* a multiple of 2"),
        ({"processes": 2, "batch_parts": 4}, {"batch_parts": 3, "batch_size": 12}, r"'other': .*batch_parts=3"),
        ({}, {"processes": 2}, r"'other': 'processes' is the same for all trainings .* set it in section 'train'"),
    ],
)
def test_processes_that_cannot_be_are_refused(
    tmp_path: Path, train: dict[str, object], methods: dict[str, object], message: str
):
    path = write_preset(tmp_path, train=train, methods={"arcface": {}, "other": {"inter_prototype": "all", **methods}})
    with pytest.raises(ConfigError, match=message):
        read_preset(path)
