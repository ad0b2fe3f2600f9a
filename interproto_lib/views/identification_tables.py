"""Identification in tables and words: the sets, the rules, rank-k rates, differences, costs and the paper's Table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from interproto_lib.analysis.identified_runs import IdentifiedRun, ModelCosts
from interproto_lib.analysis.paper_costs import NETWORK, PAPER_IDENTITIES, PAPER_IMAGE_SIZE, counted_costs
from interproto_lib.analysis.published import MTL, MULTIPLY_ADDS, PUBLISHED_PARAMETERS, published_table
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.identification_tests import ANY_AGE, IdentificationTest, IdentificationTests
from interproto_lib.views.paper_tables import INFERENCE_PARAMETERS, MEASURED_COLUMNS, TRAINING_PARAMETERS
from interproto_lib.views.wording import embedding_words, listed, number, signed

IDENTIFICATION_TABLE = 3
"""Number of the paper's table of identification."""

_SHOWN_OF_HASH = 16


def identification_tests_table(tests: Mapping[str, IdentificationTest], files: Mapping[str, Path]) -> pd.DataFrame:
    """List identification sets: who is searched for among whom, and under which hash the set is published.

    Args:
        tests: Name -> identification set.
        files: Name -> its published file.

    Returns:
        One row a set: `set`, `probes`, `gallery`, `distractors` (people of the gallery nobody searches for), ages of
        probes and of gallery in words, `file`, `sha256`.
    """
    rows = []
    for name, test in tests.items():
        searched, known = set(test.probe_images["identity"]), set(test.gallery_images["identity"])
        rows.append(
            {
                "set": name,
                "probes": len(test.probe_images),
                "gallery": len(test.gallery_images),
                "distractors": len(known - searched),
                "probe_ages": _ages(test.probe_images["age_years"]),
                "gallery_ages": _ages(test.gallery_images["age_years"]),
                "file": files[name].name,
                "sha256": test.identification.sha256,
            }
        )
    columns = ["set", "probes", "gallery", "distractors", "probe_ages", "gallery_ages", "file", "sha256"]
    return pd.DataFrame(rows, columns=columns)


def describe_identification_tests(found: IdentificationTests) -> str:
    """Say which searches are made, which are no child-adult ones, and which could not be made and why.

    Args:
        found: The sets, as `interproto_lib.data.identification_tests` gathers them.

    Returns:
        A Markdown list after a sentence.
    """
    lines = []
    for name, test in found.tests.items():
        n_probes, n_gallery = len(test.probe_images), len(test.gallery_images)
        n_others = n_gallery - test.probe_images["identity"].nunique()
        line = (
            f"- **{name}**: {_counted(n_probes, 'probe')} ({_ages(test.probe_images['age_years'])}), searched among "
            f"{_counted(n_gallery, 'image')} of {n_gallery:,} people ({_ages(test.gallery_images['age_years'])}), "
            f"{'none' if n_others == 0 else f'{n_others:,}'} of them a distractor. "
            f"Hash {test.identification.sha256[:_SHOWN_OF_HASH]}…"
        )
        if name == ANY_AGE:
            line += " This is no child-adult search: ages are not looked at, and nothing follows from it for children."
        lines.append(line)
    lines += [f"- **{name}** is left out: {reason}" for name, reason in found.missing.items()]
    if found.tests:
        head = f"{_counted(len(found.tests), 'identification set')} could be made."
    else:
        head = "No identification set could be made, so nobody is searched for; only the costs are known."
    return "\n".join([head, "", *lines])


def describe_identification_rules(evaluation: EvaluationConfig) -> str:
    """Say by what rules ranks come about.

    Args:
        evaluation: How the epoch was chosen and how images were embedded.

    Returns:
        A few sentences; a choice that looks at the probes judged is called optimistic.
    """
    epoch = {
        "validation": "Of all epochs the one is judged that is best at telling pairs of validation people, who are "
        "neither trained on nor judged; it is the same for all sets.",
        "last": "The last epoch is judged.",
        "best_on_test": "Of all epochs the one is judged that finds the most probes of a set, for each set its own: it "
        "is optimistic, because it looks at the very probes judged.",
    }[evaluation.epoch_choice]
    return (
        "A probe is found at rank 1 when the image of its person in the gallery is nearer to it, by the cosine of "
        "their embeddings, than the image of anybody else; a tie counts as not found. No threshold is needed. "
        f"{epoch}{embedding_words(evaluation)}"
    )


def identification_rates_table(rates: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Lay rank-k rates out for a person: a row a set and method, a column a rank.

    Args:
        rates: As `interproto_lib.analysis.identification_rates` gives it.
        names: Method -> its name for people.

    Returns:
        Text cells: mean ± standard deviation over seeds and the interval, in percent; a dash where the gallery is too
        small for a rank to say anything.
    """
    ranks = sorted(set(rates["rank"]))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rates.to_dict("records"):
        std = "" if np.isnan(row["std"]) else f" ± {row['std']:.2f}"
        place = cells.setdefault((row["test_set"], row["method"]), {})
        place[f"rank {row['rank']}"] = f"{row['mean']:.2f}{std} [{row['low']:.1f}, {row['high']:.1f}]"
    rows = [
        {"set": test_set, "method": names[method], **{f"rank {k}": of.get(f"rank {k}", "–") for k in ranks}}
        for (test_set, method), of in cells.items()
    ]
    return pd.DataFrame(rows, columns=["set", "method", *(f"rank {k}" for k in ranks)])


def describe_judged_epochs(identified: Mapping[str, Sequence[IdentifiedRun]]) -> str:
    """Say which epoch of each run is judged.

    Args:
        identified: Method -> its runs, as `interproto_lib.analysis.identify_methods` gives them.

    Returns:
        A sentence; where sets chose epochs of their own, one each.
    """
    told = []
    for run in (run for runs in identified.values() for run in runs):
        epochs = set(run.epochs.values())
        of_sets = [f"{epoch} ({name})" for name, epoch in run.epochs.items()]
        if epochs:
            told.append(f"{run.run} {epochs.pop() if len(epochs) == 1 else listed(of_sets)}")
    return f"Epochs judged: {', '.join(told)}." if told else "No run was judged."


def describe_identification_rates(rates: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Say for each set between which methods the rank-1 rates lie, and what guessing would give.

    Args:
        rates: As `interproto_lib.analysis.identification_rates` gives it.
        names: Method -> its name for people.

    Returns:
        A Markdown list of one line a set; a sentence where there is none.
    """
    first = rates[rates["rank"] == 1]
    if first.empty:
        return "There are no rates, as nobody was searched for."
    lines = []
    for test_set, of_set in first.groupby("test_set", sort=False):
        ordered = of_set.sort_values("mean", kind="stable").to_dict("records")
        low, high = ordered[0], ordered[-1]
        if low["mean"] == high["mean"]:
            who = names[low["method"]] if len(ordered) == 1 else "every method"
            found = f"{who} finds {low['mean']:.2f} % of the probes at rank 1"
        else:
            found = (
                f"between {low['mean']:.2f} % ({names[low['method']]}) and {high['mean']:.2f} % "
                f"({names[high['method']]}) of the probes are found at rank 1"
            )
        lines.append(f"- {test_set}: {found}; guessing would find {100 / low['n_gallery']:.2f} %.")
    return "\n".join(lines)


def describe_identification_differences(
    differences: pd.DataFrame, *, baseline: str, names: Mapping[str, str], confidence: float = 0.95
) -> str:
    """Say whether methods find more or fewer probes at rank 1 than the baseline, and whether chance explains it.

    Args:
        differences: As `interproto_lib.analysis.trial_differences` gives it.
        baseline: The method that the others are compared with.
        names: Method -> its name for people.
        confidence: Confidence of the intervals.

    Returns:
        A sentence on what is compared, then a Markdown list of one line a set and method.
    """
    if differences.empty:
        return f"There is nothing to compare with {names[baseline]}."
    lines, n_told = [], 0
    for row in differences.to_dict("records"):
        told = row["low"] > 0 or row["high"] < 0
        n_told += told
        seeds = "one seed" if row["n_seeds"] == 1 else f"{row['n_seeds']} seeds"
        lines.append(
            f"- {row['test_set']}, {names[row['method']]}: {signed(row['difference'], decimals=2)} points "
            f"[{number(row['low'], decimals=1)}, {number(row['high'], decimals=1)}], permutation p = "
            f"{row['p_value']:.3f} ({_counted(row['n_pairs'], 'probe')}, {seeds}): "
            f"{'the interval leaves out zero' if told else 'the interval holds zero'}."
        )
    several = (differences["n_seeds"] > 1).any()
    text = (
        f"Rank-1 rate minus that of {names[baseline]}, on the same probes and seeds, with the {confidence:.0%} "
        f"interval over people{' and seeds' if several else ''}; {n_told} of {len(differences)} leave out zero."
    )
    if (differences["n_seeds"] == 1).any():
        text += " With one seed, how much a method differs from training to training is not in it."
    split = (differences["p_value"] < 1 - confidence) & (differences["low"] <= 0) & (differences["high"] >= 0)
    if split.any():
        text += (
            " Where p is small and the interval holds zero nonetheless, the two answer different questions: the "
            "permutation exchanges the methods person by person and takes the trainings as they are, the interval asks "
            "for other people and other seeds too. Such a difference is there in these trainings and need not be in "
            "others."
        )
    return f"{text}\n\n" + "\n".join(lines)


def identification_cells(
    cells: pd.DataFrame, costs: Mapping[str, ModelCosts], row_names: Mapping[str, str]
) -> pd.DataFrame:
    """Put rank-1 rates and costs together, as `paper_table` takes them.

    Args:
        cells: As `interproto_lib.analysis.trial_cells` gives it.
        costs: Method -> its costs.
        row_names: Method -> name of its row, see `interproto_lib.views.paper_rows`.

    Returns:
        A table with the columns `MEASURED_COLUMNS`; costs in millions and billions.
    """
    rows = [{**cell, "method": row_names[cell["method"]]} for cell in cells.to_dict("records")]
    for method, of_method in costs.items():
        measured = {
            MULTIPLY_ADDS: of_method.multiply_adds / 1e9,
            INFERENCE_PARAMETERS: of_method.inference_parameters / 1e6,
            TRAINING_PARAMETERS: of_method.training_parameters / 1e6,
        }
        rows += [
            {"method": row_names[method], "test_set": cost, "mean": value, "n_seeds": 1, "bold": False}
            for cost, value in measured.items()
        ]
    return pd.DataFrame(rows, columns=list(MEASURED_COLUMNS))


def costs_table(costs: Mapping[str, ModelCosts], names: Mapping[str, str]) -> pd.DataFrame:
    """List what methods cost.

    Args:
        costs: Method -> its costs.
        names: Method -> its name for people.

    Returns:
        One row a method: `method`, `inference_parameters`, `training_only_parameters`, `of_which_method_parts` (the
        others are the prototypes), `multiply_adds`, as counts.
    """
    rows = [
        (names[method], of.inference_parameters, of.training_parameters, of.method_parameters, of.multiply_adds)
        for method, of in costs.items()
    ]
    training_only = ["training_only_parameters", "of_which_method_parts"]
    return pd.DataFrame(rows, columns=["method", "inference_parameters", *training_only, "multiply_adds"])


def describe_costs(costs: Mapping[str, ModelCosts], names: Mapping[str, str]) -> str:
    """Say what methods cost in use and in training, and whether they differ in it.

    Args:
        costs: Method -> its costs.
        names: Method -> its name for people.

    Returns:
        The sentences.
    """
    groups: dict[ModelCosts, list[str]] = {}
    for method, of_method in costs.items():
        groups.setdefault(of_method, []).append(names[method])
    sentences = [
        f"{listed(methods)} {'needs' if len(methods) == 1 else 'each need'} {of.inference_parameters:,} parameters "
        f"and {of.multiply_adds:,} multiply-adds to embed an image; {of.training_parameters:,} further parameters, "
        f"{_training_parts(of)}, are only for training."
        for of, methods in groups.items()
    ]
    if len(costs) > 1 and len({(of.inference_parameters, of.multiply_adds) for of in groups}) == 1:
        sentences.append("So no difference between these methods comes from the size of the network.")
    return " ".join(sentences)


def describe_published_identification(columns: Sequence[str]) -> str:
    """Say how far our numbers compare with those of the paper's Table 3: the rates, and the numbers of parameters.

    Args:
        columns: Names of our identification sets.

    Returns:
        Two paragraphs; the second is counted from our networks at the paper's size.
    """
    printed = published_table(IDENTIFICATION_TABLE).columns
    shared = [column for column in columns if column in printed]
    own = [column for column in columns if column not in printed]
    sentences = ["The paper's files of probes and galleries were never published, so no number of ours is comparable."]
    if shared:
        sentences.append(
            f"On {listed(shared)} the images are of the same collections as the paper's, but which of them are probes "
            "and who is in the gallery is decided by our own published rule."
        )
    if own:
        be = "is a set" if len(own) == 1 else "are sets"
        sentences.append(f"{listed(own)} {be} of ours that the paper does not have.")
    if not columns:
        sentences.append("Here there is no number of ours but the costs.")
    return f"{' '.join(sentences)}\n\n{describe_published_costs()}"


def describe_published_costs() -> str:
    """Say which parts of each method the paper's numbers of parameters hold, and what embedding an image takes.

    Returns:
        The sentences, counted from our networks at the paper's size.
    """
    table, counted = published_table(IDENTIFICATION_TABLE), counted_costs()
    told = []
    for row, costs in counted.items():
        printed = table.cell(row, PUBLISHED_PARAMETERS).mean
        parts = listed([f"{part} {costs.parameters[part]:,}" for part in costs.counted])
        agrees = "" if printed == costs.counted_millions else f", which is not the {costs.counted_millions:.2f} counted"
        told.append(f"{row} {printed:.2f} million ({parts}{agrees})")
    in_use = [f"{row} {costs.parameters[NETWORK] / 1e6:.2f} million" for row, costs in counted.items()]
    multiply_adds = [f"{costs.multiply_adds[NETWORK] / 1e9:.2f}" for costs in counted.values()]
    each = " to ".join(sorted({min(multiply_adds), max(multiply_adds)}))
    mtl = [f"{part} {count / 1e9:.2f}" for part, count in counted[MTL].multiply_adds.items()]
    return (
        f"The paper's numbers of parameters hold different parts, as counting ours at its size shows (IR-SE-50, "
        f"{PAPER_IMAGE_SIZE} x {PAPER_IMAGE_SIZE}, {PAPER_IDENTITIES:,} identities; cut after two decimals): "
        f"{'; '.join(told)}. To embed an image the networks need {listed(in_use)}, each with {each} billion "
        f"multiply-adds. The {table.cell(MTL, MULTIPLY_ADDS).mean:.2f} billion printed for MTL must hold networks that "
        f"are for training only, too (ours in billions: {listed(mtl)}); which, the paper does not say."
    )


def _training_parts(costs: ModelCosts) -> str:
    if costs.method_parameters == 0:
        return "the prototypes"
    n_prototypes = costs.training_parameters - costs.method_parameters
    return f"the prototypes ({n_prototypes:,}) and parts of the method ({costs.method_parameters:,})"


def _ages(years: pd.Series) -> str:
    known = years.dropna()
    if known.empty:
        return "ages unknown"
    low, high = int(known.min()), int(known.max())  # completed years: 12.9 is below 13
    told = f"{low} years old" if low == high else f"{low} to {high} years old"
    n_unknown = len(years) - len(known)
    return f"{told}, {n_unknown:,} of unknown age" if n_unknown else told


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
