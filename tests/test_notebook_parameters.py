"""The notebooks' parameters are the library's settings: same names, same defaults, every one of them explained."""

import ast
import dataclasses
from pathlib import Path

import papermill
import pytest

from interproto_lib.config import EvaluationConfig, TrainConfig
from interproto_lib.data import DATASETS, IdentityFolderSettings
from interproto_lib.data.synthetic import SyntheticSettings
from interproto_lib.presets import read_preset

REPO = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def parameters(name):
    return papermill.inspect_notebook(str(REPO / "notebooks" / f"{name}.ipynb"))


def default(entry):
    return ast.literal_eval(entry["default"])


def settings_of(config):
    return {
        f.name: list(v) if isinstance(v := getattr(config, f.name), tuple) else v for f in dataclasses.fields(config)
    }


def test_training_parameters_are_the_settings():
    found = parameters("02_train")
    wanted = {**settings_of(TrainConfig()), **settings_of(EvaluationConfig())}
    assert {name: default(entry) for name, entry in found.items() if name in wanted} == wanted
    assert set(found) - set(wanted) == {"experiment", "runs_dir", "run", "processes"}


def test_dataset_parameters_are_the_settings_of_the_built_in_faces():
    found = parameters("01_datasets_and_ages")
    wanted = settings_of(SyntheticSettings())
    wanted["data_seed"] = wanted.pop("seed")
    assert {name: default(found[name]) for name in wanted} == wanted


def test_dataset_parameters_are_the_settings_of_photographs():
    found = parameters("01_datasets_and_ages")
    wanted = settings_of(IdentityFolderSettings(root="-", image_size=56))
    wanted |= {"data_seed": wanted.pop("seed"), "root": ""}
    assert {name: default(found[name]) for name in wanted} == wanted
    assert all(name in found["dataset"]["help"] for name in DATASETS)


@pytest.mark.parametrize("recipe", ["tiny", "demo"])
def test_presets_draw_the_recipes_of_the_library(recipe):
    section = {
        k: v for k, v in read_preset(recipe).sections["dataset"].items() if k in settings_of(SyntheticSettings())
    }
    assert SyntheticSettings(**section) == getattr(SyntheticSettings, recipe)()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_explained_and_typed(notebook):
    for name, entry in papermill.inspect_notebook(str(notebook)).items():
        assert entry["help"], f"{name} has no help"
        assert entry["inferred_type_name"] in {
            "str",
            "int",
            "float",
            "bool",
            "list",
            "dict",
            "Optional[float]",
            "Optional[int]",
        }, f"{name}: {entry['inferred_type_name']}"
