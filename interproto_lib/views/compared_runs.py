"""From judged runs to what figures and tables take: curves, scores of one seed, rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from interproto_lib.analysis.published import paper_row, published_table
from interproto_lib.analysis.roc import roc_curve
from interproto_lib.analysis.scored_runs import JudgedRun
from interproto_lib.data.evaluation_sets import EvaluationSets
from interproto_lib.runs import RunFolder
from interproto_lib.views.verification import JudgedScores, RocCurves
from interproto_lib.views.wording import listed, number

CHILD_ADULT_ENDINGS = ("C20", "C30")
"""Ends of the names of test sets of child-adult pairs."""

GENERAL_KINDS = ("adult-adult", "any")
"""Kinds of pairs of held-out people that compare with general test sets."""

_GENERAL = 4


def roc_curves_of(judged: Mapping[str, Sequence[JudgedRun]], names: Mapping[str, str]) -> dict[str, RocCurves]:
    """Compute the ROC curve of every run on every test set.

    Args:
        judged: Method -> its judged runs.
        names: Method -> spelling.

    Returns:
        Test set -> curves by method.
    """
    curves: dict[str, RocCurves] = {}
    for test_set, first in next(iter(judged.values()))[0].judgements.items():
        same = first.pairs["same"].to_numpy(dtype=bool)
        curves[test_set] = RocCurves(
            curves={
                names[method]: [roc_curve(run.judgements[test_set].scores, same)[:2] for run in runs]
                for method, runs in judged.items()
            },
            n_same=int(same.sum()),
            n_different=int((~same).sum()),
        )
    return curves


def scores_of_seed(
    judged: Mapping[str, Sequence[JudgedRun]], names: Mapping[str, str], seed: int
) -> dict[str, dict[str, JudgedScores]]:
    """Give the scores of the runs of one seed.

    Args:
        judged: Method -> its judged runs.
        names: Method -> spelling.
        seed: The seed; a method without it is left out.

    Returns:
        Test set -> method -> scores and threshold.
    """
    scores: dict[str, dict[str, JudgedScores]] = {}
    for method, runs in judged.items():
        for run in runs:
            for test_set, one in run.judgements.items() if run.seed == seed else ():
                scores.setdefault(test_set, {})[names[method]] = JudgedScores(
                    cosine=one.scores, same=one.pairs["same"].to_numpy(dtype=bool), threshold=one.threshold
                )
    return scores


def paper_rows(runs: Mapping[str, Sequence[RunFolder]], names: Mapping[str, str]) -> dict[str, str]:
    """Say in which row of the paper's tables each method stands.

    Args:
        runs: Method -> its runs.
        names: Method -> spelling.

    Returns:
        Method -> the paper's row where it is the only one of these methods that the row stands for, else its spelling.
    """
    rows = {method: paper_row(of_method[0].config) for method, of_method in runs.items()}
    named = [row for row in rows.values() if row is not None]
    return {method: row if row is not None and named.count(row) == 1 else names[method] for method, row in rows.items()}


def table_of_test_sets(sets: EvaluationSets) -> pd.DataFrame:
    """Tell of each test set what is in it, and on whom thresholds and epochs are chosen for it.

    Args:
        sets: The test sets of a comparison.

    Returns:
        Columns test_set, n_pairs, n_same, n_images, n_identities, calibrated_on, protocol (the first 12 digits of the
        hash of its pairs).
    """
    rows = [
        {
            "test_set": name,
            "n_pairs": len(one.pairs),
            "n_same": int(one.pairs["same"].sum()),
            "n_images": len(one.images),
            "n_identities": int(one.images["identity"].nunique()),
            "calibrated_on": (
                f"{sets.validation[name].name} ({len(sets.validation[name].pairs):,} pairs)"
                if name in sets.validation
                else "–"
            ),
            "protocol": one.sha256[:12],
        }
        for name, one in sets.tests.items()
    ]
    columns = ["test_set", "n_pairs", "n_same", "n_images", "n_identities", "calibrated_on", "protocol"]
    return pd.DataFrame(rows, columns=columns)


def protocol_words(sets: EvaluationSets, rules: str) -> dict[str, str]:
    """Say of each test set what its numbers are judged on and by what rules, for records.

    Args:
        sets: The test sets of a comparison.
        rules: The rules, as `describe_rules` tells them.

    Returns:
        Test set -> hash of its pairs, what it is calibrated on, and the rules.
    """
    return {
        name: f"pairs {one.sha256}; validation pairs: "
        + (f"{sets.validation[name].name} {sets.validation[name].sha256}" if name in sets.validation else "none")
        + f". {rules}"
        for name, one in sets.tests.items()
    }


def describe_test_sets(sets: EvaluationSets, epochs: Mapping[str, Sequence[int]]) -> str:
    """Say which test sets there are and which are missing, and which epoch of each run is judged.

    Args:
        sets: The test sets of a comparison.
        epochs: Method, as it is to be called -> the epochs judged, one a run; several where test sets differ.

    Returns:
        A few sentences.
    """
    text = f"{len(sets.tests)} test set{'' if len(sets.tests) == 1 else 's'}: {listed(list(sets.tests))}. "
    if not sets.tests:
        text = (
            "There is no test set: no held-out identities with two images, and no list in `test_sets`. Nothing can be "
            "judged. "
        )
    for name, why in sets.missing.items():
        text += f"**{name} is missing** and stays empty: {why} "
    judged = [f"{method} {listed([str(epoch) for epoch in of])}" for method, of in epochs.items() if of]
    return text + (f"Epochs judged: {'; '.join(judged)}." if judged else "")


def operating_table(points: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Lay out operating points for people: a row a test set and measure, a column a method.

    Args:
        points: As `interproto_lib.analysis.operating_points` gives them, in percent.
        names: Method -> spelling.

    Returns:
        Text cells, mean ± standard deviation over seeds; a dash where the pairs are too few to resolve a rate.
    """
    rows = []
    for (test_set, measure), group in points.groupby(["test_set", "measure"], sort=False):
        row = {"test set": test_set, "measure": measure}
        for cell in group.to_dict("records"):
            text = "–" if pd.isna(cell["mean"]) else number(cell["mean"], decimals=2)
            row[names[cell["method"]]] = text if pd.isna(cell["std"]) else f"{text} ± {number(cell['std'], decimals=2)}"
        rows.append(row)
    return pd.DataFrame(rows, columns=["test set", "measure", *names.values()])


def own_columns(cells: pd.DataFrame, number: int) -> list[str]:
    """Choose the test sets of ours that stand beside those of a table of the paper.

    Args:
        cells: As `interproto_lib.analysis.trial_cells` gives them.
        number: Number of the table.

    Returns:
        Test sets that the paper does not have: for Table 4, which is on general test sets, those whose pairs are not of
        children; for the others those whose names end in C20 or C30, and where none was judged, all.
    """
    published = published_table(number).columns
    ours = [name for name in dict.fromkeys(cells["test_set"]) if name not in published]
    child_adult = [name for name in ours if name.endswith(CHILD_ADULT_ENDINGS)]
    if number == _GENERAL:
        return [name for name in ours if name in GENERAL_KINDS]
    return child_adult or ours
