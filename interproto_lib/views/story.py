"""The comparison of methods in words and tables: what was trained, and what came out, for notebook 00."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from interproto_lib.analysis.statistics import mean_and_std
from interproto_lib.config import TrainConfig
from interproto_lib.runs import RunFolder
from interproto_lib.views.wording import compared, listed, number

_OF_THE_RUN = ("seed", "threads", "device", "log_every_steps", "checkpoint_every_steps", "keep_every_epoch", "wandb")
_SPLIT_WORDS = {"train": "on training images", "heldout": "on held-out people"}


def methods_table(runs: Mapping[str, Sequence[RunFolder]]) -> pd.DataFrame:
    """Tell what each method trained.

    Args:
        runs: Method -> its runs.

    Returns:
        One row a method: loss, scope, reduction and weight of the Inter-Prototype loss (a dash where it is off),
        prototypes pushed apart, seeds, and training accuracy and images a second, mean over the seeds.
    """
    rows = []
    for method, of_method in runs.items():
        config, summaries = of_method[0].config, [run.summary for run in of_method]
        is_on = config.inter_prototype != "none"
        rows.append(
            {
                "method": method,
                "loss": _margin_words(config),
                "scope": config.inter_prototype if is_on else "–",
                "reduction": config.ip_reduction if is_on else "–",
                "λ": f"{config.ip_weight:g}" if is_on else "–",
                "pushed apart": str(summaries[0]["n_pushed_apart"]) if is_on else "–",
                "seeds": ", ".join(str(run.seed) for run in of_method),
                "training accuracy": f"{mean_and_std([s['accuracy'] for s in summaries]).mean:.1%}",
                "images/s": f"{mean_and_std([s['images_per_second'] for s in summaries]).mean:,.0f}",
            }
        )
    return pd.DataFrame(rows)


def describe_methods(runs: Mapping[str, Sequence[RunFolder]]) -> str:
    """Say how many runs there are, on what, and in which settings the methods differ.

    Args:
        runs: Method -> its runs.

    Returns:
        The sentences; settings that differ beyond the loss are named, since they would make the comparison unequal.
    """
    every = [run for of_method in runs.values() for run in of_method]
    classes = every[0].classes
    settings = [
        {name: value for name, value in run.config.to_dict().items() if name not in _OF_THE_RUN} for run in every
    ]
    differing = [name for name in settings[0] if any(s[name] != settings[0][name] for s in settings)]
    text = (
        f"{len(every)} trainings of {len(runs)} methods, each on {classes['n_images'].sum():,} images of "
        f"{len(classes):,} identities, {classes['is_child'].sum():,} of them child identities."
    )
    if not differing:
        return f"{text} All settings but the seed are equal."
    return f"{text} The methods differ in {listed([f'`{name}`' for name in differing])}; all other settings are equal."


def measures_table(measures: pd.DataFrame, *, decimals: int) -> pd.DataFrame:
    """Lay measures out for a person: a row a measure, a column a method, mean ± standard deviation over seeds.

    Args:
        measures: As `interproto_lib.analysis.measure_runs` gives it.
        decimals: Digits after the point.

    Returns:
        Text cells; a dash where a method lacks a measure, no deviation where there is one seed.
    """
    methods = list(dict.fromkeys(measures["method"]))
    cells = {
        (measure, method): _mean_text(group["value"].tolist(), decimals)
        for (measure, method), group in measures.groupby(["measure", "method"], sort=False)
    }
    names = list(dict.fromkeys(measures["measure"]))
    return pd.DataFrame(
        [{"measure": name, **{method: cells.get((name, method), "–") for method in methods}} for name in names]
    )


def describe_similarities(measures: pd.DataFrame, baseline: str) -> str:
    """Say whether the baseline puts children closer together than adults, on training images and held-out people.

    Args:
        measures: Measures of `interproto_lib.analysis.similarity_measures` for all runs.
        baseline: The method to describe.

    Returns:
        A sentence a split; one that says so where there are no two identities with child images.
    """
    of_baseline = measures[measures["method"] == baseline].groupby("measure")["value"].mean()
    sentences = []
    for split, words in _SPLIT_WORDS.items():
        child, adult = f"child-child, {split}", f"adult-adult, {split}"
        if child in of_baseline and adult in of_baseline:
            difference = float(of_baseline[child] - of_baseline[adult])
            sentences.append(
                f"With {baseline}, two different children have a mean similarity of {number(of_baseline[child])} "
                f"{words}, two different adults {number(of_baseline[adult])}: that of children is "
                f"{compared(difference)}."
            )
    if not sentences:
        return "Children and adults cannot be compared: that needs two identities of each with images of a known age."
    return " ".join(sentences)


def _margin_words(config: TrainConfig) -> str:
    if config.margin_loss == "softmax":
        return "softmax"
    words = f"{config.margin_loss}, s = {config.scale:g}"
    return f"{words}, m = {config.margin:g}" if config.margin_loss != "normface" else words


def _mean_text(values: list[float], decimals: int) -> str:
    summary = mean_and_std(values)
    mean = number(summary.mean, decimals=decimals)
    return mean if summary.std is None else f"{mean} ± {number(summary.std, decimals=decimals)}"
