"""What was trained, and in short what came out of it: the opening of notebook 00."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from interproto_lib.analysis.bootstrap import CONFIDENCE
from interproto_lib.analysis.comparison import paired_with_baseline
from interproto_lib.analysis.held_out import JudgingRules
from interproto_lib.analysis.statistics import PairedDifference, mean_and_std, paired_differences
from interproto_lib.config import UNDECISIVE_SETTINGS, TrainConfig
from interproto_lib.methods import METHODS
from interproto_lib.runs import RunFolder
from interproto_lib.views.comparison import SPLIT_WORDS
from interproto_lib.views.held_out import CHILD_ADULT_GAPS, gap_words
from interproto_lib.views.imported_runs import describe_imported
from interproto_lib.views.style import display_names
from interproto_lib.views.wording import compared, listed, number

_NOT_KNOWN = "?"
BUILT_IN_SOURCE = "synthetic"
"""What the column `source` of a manifest says of the built-in faces."""


def methods_table(runs: Mapping[str, Sequence[RunFolder]]) -> pd.DataFrame:
    """Tell what each method trained.

    Args:
        runs: Method -> its runs.

    Returns:
        One row a method: its spelling and the name that parameters know it by, loss, scope, reduction and weight of the
        Inter-Prototype loss (a dash where it is off), prototypes pushed apart, seeds, and training accuracy and images
        a second, mean over the seeds. Of an imported network a question mark stands for what is not known.
    """
    rows = []
    for method, spelling in display_names(runs).items():
        if any(run.imported is not None for run in runs[method]):
            rows.append(_imported_row(method, spelling, runs[method]))
            continue
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
        The sentences. Settings that differ are named, since one that differs beyond the loss makes the comparison
        unequal; those that only say where a training runs and what it records (`UNDECISIVE_SETTINGS`) do not count.
        Imported networks are told apart.
    """
    imported = describe_imported(runs)
    trained = {method: [run for run in of if run.imported is None] for method, of in runs.items()}
    trained = {method: of for method, of in trained.items() if of}
    if not trained:
        return imported
    said = _describe_trained(trained)
    return f"{said} {imported}" if imported else said


def _describe_trained(runs: Mapping[str, Sequence[RunFolder]]) -> str:
    every = [run for of_method in runs.values() for run in of_method]
    classes = every[0].classes
    settings = [
        {n: value for n, value in run.config.to_dict().items() if n != "seed" and n not in UNDECISIVE_SETTINGS}
        for run in every
    ]
    differing = [name for name in settings[0] if any(s[name] != settings[0][name] for s in settings)]
    text = (
        f"{_counted(len(every), 'training')} of {_counted(len(runs), 'method')}, each on "
        f"{classes['n_images'].sum():,} images of {len(classes):,} identities, {classes['is_child'].sum():,} of them "
        "child identities."
    )
    if not differing:
        return f"{text} All settings that decide the result are equal, but for the seed."
    return (
        f"{text} The runs differ in {listed([f'`{name}`' for name in differing])}; all other settings that decide the "
        "result are equal, but for the seed."
    )


def describe_bounds(manifest: pd.DataFrame, runs: Mapping[str, Sequence[RunFolder]]) -> str:
    """Say how far the findings of an experiment reach: what they were measured on, and what they cannot tell.

    Args:
        manifest: Manifest of the experiment's dataset; its column `source` tells drawings from photographs.
        runs: Method -> its runs.

    Returns:
        A few sentences that are true of this dataset, these networks and these seeds.
    """
    every = [run for of_method in runs.values() for run in of_method]
    n_train = manifest.loc[manifest["split"] == "train", "identity"].nunique()
    n_validation = manifest.loc[manifest["split"] == "validation", "identity"].nunique()
    n_held_out = manifest.loc[manifest["split"] == "heldout", "identity"].nunique()
    validation = f", {n_validation:,} to choose epochs and thresholds on" if n_validation else ""
    networks = _networks(every)
    of_source = manifest["source"] == BUILT_IN_SOURCE
    is_drawn = bool(of_source.all())
    pictures = "drawn faces" if is_drawn else "drawn faces and photographs" if of_source.any() else "photographs"
    text = (
        f"All of this was measured on {pictures}: {n_train:,} people to train on{validation} and {n_held_out:,} to "
        f"test on, with {networks}."
    )
    if is_drawn:
        text += (
            " The built-in faces are drawings by formula, so it need not hold for photographs; the gains published for "
            "CASIA-WebFace (ArcFace 82.65 → 83.55 % on AgeDB-C20) are neither confirmed nor refuted by it."
        )
    else:
        text += " It need not hold for other people, other pictures, more identities or a deeper network."
    n_seeds = {len({run.seed for run in of_method}) for of_method in runs.values()}
    if max(n_seeds) == 1:
        return f"{text} Each method was trained with one seed: how much of a difference is chance is not known."
    few, many = min(n_seeds), max(n_seeds)
    over = f"{few}" if few == many else f"{few} to {many}"
    return f"{text} There are {over} seeds a method: a difference smaller than its interval may be there unseen."


def describe_in_short(
    similarities: pd.DataFrame,
    accuracies: pd.DataFrame,
    differences: pd.DataFrame,
    *,
    baseline: str,
    rules: JudgingRules,
) -> str:
    """Say in a few sentences what an experiment found, and what it could not find out.

    Args:
        similarities: As `interproto_lib.analysis.similarity_measures` gives it.
        accuracies: As `interproto_lib.analysis.held_out_accuracies` gives it.
        differences: Of these accuracies, as `interproto_lib.analysis.trial_differences` gives them.
        baseline: The method that the others are compared with.
        rules: By what rules the runs were judged, as `interproto_lib.analysis.common_rules` gives them.

    Returns:
        A Markdown list: whether the baseline puts children closer together than adults; then what became of the
        prototypes and of the features of children, and of the accuracy on child-adult pairs, one sentence a method.
        Every word follows from the numbers; a difference whose interval (over seeds, that of an accuracy over people
        and seeds) holds zero is called not told from chance.
    """
    spelt = display_names(dict.fromkeys([baseline, *similarities["method"], *accuracies["method"]]))
    of_similarities = _Against(
        similarities, baseline, spelt, paired_differences(paired_with_baseline(similarities, baseline))
    )
    of_accuracies = _Against(
        accuracies, baseline, spelt, _over_people(differences), decimals=2, unit=" points", of_value=" %"
    )
    parts = [
        _phenomenon(similarities, baseline, spelt[baseline]),
        _prototypes(of_similarities),
        _features(of_similarities),
        _verification(of_accuracies, rules),
        _certainty(of_similarities.differences, of_accuracies.differences, spelt[baseline], n_methods=len(spelt)),
    ]
    return "\n".join(f"- {part}" for part in parts)


class _Against:
    """Measures of the baseline, and how each other method differs from it, in words."""

    def __init__(
        self,
        measures: pd.DataFrame,
        baseline: str,
        spelt: Mapping[str, str],
        differences: Mapping[tuple[str, str], PairedDifference],
        *,
        decimals: int = 3,
        unit: str = "",
        of_value: str = "",
    ) -> None:
        self.means = measures[measures["method"] == baseline].groupby("measure")["value"].mean().to_dict()
        self._by_method, self.differences = differences, list(differences.values())
        self._name, self._spelt = spelt[baseline], spelt
        self._decimals, self._unit, self._of_value = decimals, unit, of_value

    def text(self, measure: str) -> str:
        """Value of the baseline, then a sentence for each other method on how it differs."""
        sentences = [f"{number(self.means[measure], decimals=self._decimals)}{self._of_value} with {self._name}."]
        for (of, method), difference in self._by_method.items():
            if of == measure:
                change = compared(difference.mean, decimals=self._decimals, unit=self._unit)
                sentences.append(f"With {self._spelt[method]} it is {change}{self._verdict(difference)}.")
        return " ".join(sentences)

    def _verdict(self, difference: PairedDifference) -> str:
        if difference.interval is None or round(difference.mean, self._decimals) == 0:
            return ""
        if not difference.excludes_zero:
            return ", not told from chance"
        low, high = (number(bound, decimals=self._decimals) for bound in difference.interval)
        return f" (interval {low} to {high})"


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
            return (
                f"**Prototypes.** Root mean square cosine between the prototypes of {whose} (0 if all are at right "
                f"angles): {against.text(key)}"
            )
    return "**Prototypes.** There are no two to compare."


def _features(against: _Against) -> str:
    for cohort, whose in (("child-child", "different children"), ("all", "different people (all images)")):
        found = [
            f"{_capital(words)}: {against.text(key)}"
            for split, words in SPLIT_WORDS.items()
            if (key := f"{cohort}, {split}") in against.means
        ]
        if found:
            return _nested(f"**Features.** Mean similarity of the images of {whose}.", found)
    return "**Features.** There are no two identities to compare."


def _verification(against: _Against, rules: JudgingRules) -> str:
    settings = {"threshold": rules.evaluation.verification_threshold, "epoch": rules.evaluation.epoch_choice}
    on_test = [name for name, choice in settings.items() if choice == "best_on_test"]
    optimistic = f"; optimistic, {listed(on_test)} being chosen on the pairs judged" if on_test else ""
    found = [
        f"{_capital(gap_words(kind, rules))} ({kind}): {against.text(kind)}"
        for kind in CHILD_ADULT_GAPS
        if kind in against.means
    ]
    if found:
        return _nested(
            f"**Verification.** On held-out people, accuracy on pairs of a child and an adult image (chance is 50 %"
            f"{optimistic}).",
            found,
        )
    missing = (
        f"**Verification.** No pairs of a child and an adult image of held-out people could be judged "
        f"({listed(list(CHILD_ADULT_GAPS))})."
    )
    if "any" in against.means:
        found = [f"On held-out people: {against.text('any')}"]
        return _nested(f"{missing} Accuracy on pairs of any two images (chance is 50 %{optimistic}).", found)
    return missing


def _over_people(differences: pd.DataFrame) -> dict[tuple[str, str], PairedDifference]:
    """Differences of accuracies with the interval that resamples people and seeds."""
    return {
        (row["test_set"], row["method"]): PairedDifference(
            differences=(),
            mean=row["difference"],
            std=None,
            interval=(row["low"], row["high"]),
            confidence=CONFIDENCE,
            n=row["n_seeds"],
        )
        for row in differences.to_dict("records")
    }


def _certainty(
    of_similarities: Sequence[PairedDifference],
    of_accuracies: Sequence[PairedDifference],
    baseline: str,
    *,
    n_methods: int,
) -> str:
    n_seeds = {difference.n for difference in (*of_similarities, *of_accuracies)}
    if n_methods == 1:
        return f"**Chance.** No other method was trained, so there is nothing to compare {baseline} with."
    if n_seeds <= {1}:
        text = "**Chance.** There is a single seed, so how much trainings differ by chance cannot be judged"
        return f"{text}; the intervals of accuracies are over people alone." if of_accuracies else f"{text}."
    several = sorted(n_seeds - {1})
    over = f"{several[0]} seeds" if len(several) == 1 else f"{several[0]} to {several[-1]} seeds"
    people = " (that of an accuracy over people and seeds)" if of_accuracies else ""
    text = (
        f"**Chance.** A difference is called *not told from chance* where its {CONFIDENCE:.0%} interval over {over}"
        f"{people} holds zero; for the others the interval is given."
    )
    if 1 in n_seeds:
        text += " With a single seed a similarity has no interval, and that of an accuracy is over people alone."
    return text


def _nested(opening: str, points: Sequence[str]) -> str:
    return "\n".join([opening, *(f"  - {point}" for point in points)])


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _networks(runs: Sequence[RunFolder]) -> str:
    parts = []
    trained = [run.config for run in runs if run.imported is None]
    imported = [run.config.backbone for run in runs if run.imported is not None]
    if trained:
        names = listed([f"`{name}`" for name in dict.fromkeys(config.backbone for config in trained)])
        epochs = sorted({config.epochs for config in trained})
        over = f"{listed([str(n) for n in epochs])} epoch{'' if epochs == [1] else 's'}"
        parts.append(f"the network {names} trained for {over}")
    if imported:
        parts.append(f"the imported network {listed([f'`{name}`' for name in dict.fromkeys(imported)])}")
    return listed(parts)


def _imported_row(method: str, spelling: str, runs: Sequence[RunFolder]) -> dict[str, str]:
    config, known = runs[0].config, (runs[0].imported or {}).get("known_settings", [])
    off = "–" if "inter_prototype" in known and config.inter_prototype == "none" else ""
    return {
        "method": spelling,
        "name": method,
        "loss": _margin_words(config) if "margin_loss" in known else _NOT_KNOWN,
        "scope": off or (config.inter_prototype if "inter_prototype" in known else _NOT_KNOWN),
        "reduction": off or (config.ip_reduction if "ip_reduction" in known else _NOT_KNOWN),
        "λ": off or (f"{config.ip_weight:g}" if "ip_weight" in known else _NOT_KNOWN),
        "pushed apart": off or _NOT_KNOWN,
        "seeds": ", ".join(str(run.seed) for run in runs),
        "training accuracy": _NOT_KNOWN,
        "images/s": _NOT_KNOWN,
    }


def _margin_words(config: TrainConfig) -> str:
    words: list[str] = [config.margin_loss]
    if config.margin_loss not in ("softmax", "sphereface"):
        words.append(f"s = {config.scale:g}")
    if config.margin_loss not in ("softmax", "normface"):
        words.append(f"m = {config.margin:g}")
    if config.age_method != "none":
        words.append(f"with {METHODS[config.age_method].title}")
    return ", ".join(words)
