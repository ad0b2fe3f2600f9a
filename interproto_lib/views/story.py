"""What was trained, and in short what came out of it: the opening of notebook 00."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from interproto_lib.analysis.comparison import paired_with_baseline
from interproto_lib.analysis.statistics import mean_and_std
from interproto_lib.config import TrainConfig
from interproto_lib.runs import RunFolder
from interproto_lib.views.comparison import SPLIT_WORDS
from interproto_lib.views.seeds import interval_verdict, paired_differences
from interproto_lib.views.style import display_names
from interproto_lib.views.wording import compared, listed, number

_OF_THE_RUN = ("seed", "threads", "device", "log_every_steps", "checkpoint_every_steps", "keep_every_epoch", "wandb")


def methods_table(runs: Mapping[str, Sequence[RunFolder]]) -> pd.DataFrame:
    """Tell what each method trained.

    Args:
        runs: Method -> its runs.

    Returns:
        One row a method: its spelling and the name that parameters know it by, loss, scope, reduction and weight of the
        Inter-Prototype loss (a dash where it is off), prototypes pushed apart, seeds, and training accuracy and images
        a second, mean over the seeds.
    """
    rows = []
    for method, spelling in display_names(runs).items():
        config, summaries = runs[method][0].config, [run.summary for run in runs[method]]
        is_on = config.inter_prototype != "none"
        rows.append(
            {
                "method": spelling,
                "name": method,
                "loss": _margin_words(config),
                "scope": config.inter_prototype if is_on else "–",
                "reduction": config.ip_reduction if is_on else "–",
                "λ": f"{config.ip_weight:g}" if is_on else "–",
                "pushed apart": str(summaries[0]["n_pushed_apart"]) if is_on else "–",
                "seeds": ", ".join(str(run.seed) for run in runs[method]),
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
        f"{_counted(len(every), 'training')} of {_counted(len(runs), 'method')}, each on "
        f"{classes['n_images'].sum():,} images of {len(classes):,} identities, {classes['is_child'].sum():,} of them "
        "child identities."
    )
    if not differing:
        return f"{text} All settings but the seed are equal."
    return f"{text} The methods differ in {listed([f'`{name}`' for name in differing])}; all other settings are equal."


def describe_in_short(similarities: pd.DataFrame, accuracies: pd.DataFrame, *, baseline: str) -> str:
    """Say in a few sentences what an experiment found, and what it could not find out.

    Args:
        similarities: As `interproto_lib.analysis.similarity_measures` gives it.
        accuracies: As `interproto_lib.analysis.measure_runs` gives it for `held_out_accuracies`.
        baseline: The method that the others are compared with.

    Returns:
        A Markdown list: whether the baseline puts children closer together than adults; then, for each other method,
        what became of the prototypes and of the features of children, and of the accuracy on child-adult pairs, with
        the verdict of the interval over seeds. Every word follows from the numbers.
    """
    spelt = display_names(dict.fromkeys([baseline, *similarities["method"], *accuracies["method"]]))
    of_similarities = _Against(similarities, baseline, spelt)
    of_accuracies = _Against(accuracies, baseline, spelt, decimals=2, unit=" points")
    parts = [
        _phenomenon(similarities, baseline, spelt[baseline]),
        _prototypes(of_similarities),
        _features(of_similarities),
        _verification(of_accuracies),
    ]
    n_seeds = {difference.n for against in (of_similarities, of_accuracies) for difference in against.differences}
    if len(spelt) == 1:
        parts.append(f"No other method was trained, so there is nothing to compare {spelt[baseline]} with.")
    elif n_seeds == {1}:
        parts.append("There is a single seed, so how much of any difference is chance cannot be judged.")
    elif 1 in n_seeds:
        parts.append("A difference without an interval comes from a single seed: chance cannot be judged there.")
    return "\n".join(f"- {part}" for part in parts)


class _Against:
    """Measures of the baseline, and how each other method differs from it, in words."""

    def __init__(
        self, measures: pd.DataFrame, baseline: str, spelt: Mapping[str, str], *, decimals: int = 3, unit: str = ""
    ) -> None:
        self.means = measures[measures["method"] == baseline].groupby("measure")["value"].mean().to_dict()
        self.name = spelt[baseline]
        self._by_method = paired_differences(paired_with_baseline(measures, baseline))
        self.differences = list(self._by_method.values())
        self._spelt, self._decimals, self._unit = spelt, decimals, unit

    def text(self, measure: str, after: str = "") -> str:
        """Value of the baseline, and how each other method differs from it."""
        value = number(self.means[measure], decimals=self._decimals)
        changes = [
            f"{compared(difference.mean, decimals=self._decimals, unit=self._unit)} with {self._spelt[method]}"
            + (f" ({verdict})" if (verdict := interval_verdict(difference)) else "")
            for (of, method), difference in self._by_method.items()
            if of == measure
        ]
        return f"{value}{after} with {self.name}" + (f", and {listed(changes)}" if changes else "")


def _phenomenon(similarities: pd.DataFrame, baseline: str, name: str) -> str:
    of_baseline = similarities[similarities["method"] == baseline].groupby("measure")["value"].mean().to_dict()
    found: dict[str, list[str]] = {}
    for split, words in SPLIT_WORDS.items():
        child, adult = (of_baseline.get(f"{cohort}, {split}") for cohort in ("child-child", "adult-adult"))
        if child is None or adult is None:
            continue
        difference = round(child - adult, 3)
        verdict = "as alike as" if difference == 0 else f"{'more' if difference > 0 else 'less'} alike than"
        found.setdefault(verdict, []).append(f"{words} (mean similarity {number(child)} against {number(adult)})")
    if not found:
        return (
            "**Are children confused?** This cannot be asked here: it needs two child and two adult identities with "
            "images of a known age."
        )
    verdicts = [f"{verdict} different adults {listed(where)}" for verdict, where in found.items()]
    return f"**Are children confused?** With {name}, different children are {listed(verdicts)}."


def _prototypes(against: _Against) -> str:
    for cohort, whose in (("child-child", "child identities"), ("all", "all identities")):
        key = f"{cohort}, prototypes (rms)"
        if key in against.means:
            return f"**Prototypes.** The root mean square cosine between those of {whose} is {against.text(key)}."
    return "**Prototypes.** There are no two to compare."


def _features(against: _Against) -> str:
    for cohort, whose in (("child-child", "different children"), ("all", "different people (all images)")):
        found = [
            f"{against.text(key)}, {words}"
            for split, words in SPLIT_WORDS.items()
            if (key := f"{cohort}, {split}") in against.means
        ]
        if found:
            return f"**Features.** The mean similarity of {whose} is {'; '.join(found)}."
    return "**Features.** There are no two identities to compare."


def _verification(against: _Against) -> str:
    years = {"C20": 20, "C30": 30}
    found = [
        f"{against.text(kind, ' %')}, {gap} years or more apart ({kind})"
        for kind, gap in years.items()
        if kind in against.means
    ]
    if found:
        return (
            "**Verification.** On held-out people, accuracy on pairs of a child and an adult image is "
            f"{'; '.join(found)}."
        )
    missing = "**Verification.** No pairs of a child and an adult image of held-out people could be judged (C20, C30)"
    if "any" in against.means:
        return f"{missing}; on any two images accuracy is {against.text('any', ' %')}."
    return f"{missing}."


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _margin_words(config: TrainConfig) -> str:
    if config.margin_loss == "softmax":
        return "softmax"
    words = f"{config.margin_loss}, s = {config.scale:g}"
    return f"{words}, m = {config.margin:g}" if config.margin_loss != "normface" else words
