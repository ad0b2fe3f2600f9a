"""Run folders to explore, with drawn embeddings, and a small trained experiment, for the tests of the explorer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file
from toy import tiny

from interproto_lib.analysis import (
    Embeddings,
    JudgingRules,
    embed_dataset,
    held_out_check,
    held_out_results,
    held_out_scores,
    save_embeddings,
)
from interproto_lib.config import EvaluationConfig
from interproto_lib.data import class_table
from interproto_lib.data.datasets import save_dataset
from interproto_lib.data.synthetic import SyntheticSettings, make_synthetic_dataset
from interproto_lib.files import write_json
from interproto_lib.runs import RunFolder, run_folder, write_results
from interproto_lib.training import train

DIMENSION = 6


def manifest_of(ages_of: dict[str, list[float]], *, split: str = "train", source: str = "synthetic") -> pd.DataFrame:
    """Identity -> ages of its images; NaN for unlabelled. Images of different people alternate."""
    rows = [
        {"path": f"{name}/{k}.png", "identity": name, "age_years": age, "split": split, "source": source}
        for name, ages in ages_of.items()
        for k, age in enumerate(ages)
    ]
    return pd.DataFrame(rows).sample(frac=1.0, random_state=3).reset_index(drop=True)


def write_run(folder: Path, name: str, manifest: pd.DataFrame, *, prototypes: bool = True, **settings) -> RunFolder:
    """A finished run as training leaves it, its vectors drawn from the name."""
    rng = np.random.default_rng(list(name.encode()))
    config = tiny(seed=int(name[-1]), **{"min_child_images": 2, **settings})
    path = folder / name
    path.mkdir(parents=True)
    imported = {} if prototypes else {"imported": {"prototypes": "none"}}
    write_json(path / "config.json", {"train": config.to_dict(), "dataset": {"name": "drawn"}, **imported})
    write_json(path / "summary.json", {})
    classes = class_table(manifest, min_child_images=config.min_child_images)
    classes.to_csv(path / "classes.csv", index=False)
    if prototypes:
        rows = rng.normal(size=(len(classes), DIMENSION)).astype(np.float32)
        save_file({"prototypes": rows}, path / "prototypes.safetensors")
    vectors = rng.normal(size=(len(manifest), DIMENSION)) + rng.normal(size=DIMENSION)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    save_embeddings(Embeddings(vectors=vectors.astype(np.float32), manifest=manifest), RunFolder(path))
    return RunFolder(path)


def train_experiment(folder: Path) -> None:
    """Draw a few built-in faces and train two runs on them in seconds, judged as notebook 02 does."""
    settings = SyntheticSettings(
        n_identities=40, images_per_identity=8, n_child_identities=14, child_images=(3, 5), n_heldout_identities=16,
        n_validation_identities=8, heldout_child_images=3, heldout_adult_images=3, image_size=56,
        child_identity_adult_age_years=26.0, nuisance=0.4, amplitude=1.4,
    )  # fmt: skip
    dataset = save_dataset(make_synthetic_dataset(settings), folder / "dataset")
    evaluation = EvaluationConfig()
    for method, changes in {
        "arcface": {},
        "interproto-sum": {"inter_prototype": "child", "ip_reduction": "sum", "ip_weight": 0.01},
    }.items():
        config = tiny(seed=0, epochs=6, batch_size=32, keep_every_epoch=True, **changes)
        run = train(config, dataset, run_folder(folder, f"{method}-s0", seed=0))
        save_embeddings(embed_dataset(run, dataset), run)
        table = held_out_check(*held_out_scores(run, dataset, evaluation=evaluation), evaluation=evaluation)
        rules = JudgingRules(evaluation=evaluation, child_below_years=config.child_below_years)
        results = held_out_results(table, run=run.name, rules=rules)
        write_results(run.path, "held_out", results, parameters={**asdict(evaluation), **rules.to_dict()})
