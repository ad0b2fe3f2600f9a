"""What the held-out check found, and by what rules, in words that follow from the settings and the numbers."""

from __future__ import annotations

import pandas as pd

from interproto_lib.analysis.bootstrap import CONFIDENCE
from interproto_lib.analysis.evaluation import N_FOLDS
from interproto_lib.analysis.held_out import JudgingRules
from interproto_lib.views.wording import embedding_words, listed

CHILD_ADULT_GAPS = {"C20": 20, "C30": 30}
"""Kind of child-adult pair -> years between its two images."""


def gap_words(kind: str, rules: JudgingRules) -> str:
    """Say how far apart the images of a child-adult pair are.

    Args:
        kind: A key of `CHILD_ADULT_GAPS`.
        rules: By what rules pairs were made.

    Returns:
        The words.

    Example:
        >>> from interproto_lib.config import EvaluationConfig
        >>> gap_words("C20", JudgingRules(evaluation=EvaluationConfig(), child_below_years=13.0))
        '20 years or more apart'
    """
    years = CHILD_ADULT_GAPS[kind]
    return f"{years} years or more apart" if rules.evaluation.gap_inclusive else f"more than {years} years apart"


def describe_rules(rules: JudgingRules) -> str:
    """Say by what rules runs are judged on held-out people.

    Args:
        rules: The rules, as of `interproto_lib.analysis.common_rules`.

    Returns:
        Four sentences: the pairs, who is a child, where the threshold and the epoch come from; a choice that looks at
        the pairs judged is called optimistic.
    """
    evaluation = rules.evaluation
    years = " or ".join(f"{gap} ({kind})" for kind, gap in CHILD_ADULT_GAPS.items())
    apart = f"{'at least' if evaluation.gap_inclusive else 'more than'} {years} years apart"
    threshold = {
        "validation": "Accuracy is taken at the threshold that is best on pairs of the same kind of validation people, "
        "who are neither trained on nor judged.",
        "ten_fold": f"Accuracy is the mean over {N_FOLDS} folds of the pairs, each judged at the threshold best "
        "on the others, never on the pairs judged.",
        "best_on_test": "Accuracy is taken at the threshold that is best on the very pairs judged, as in the official "
        "code: it is optimistic.",
    }[evaluation.verification_threshold]
    epoch = {
        "validation": "Of all epochs the one is judged that is best on pairs of validation people.",
        "last": "The last epoch is judged.",
        "best_on_test": "Of all epochs the one is judged that is best on the very pairs judged, for each kind of its "
        "own, as in the official code: it is optimistic.",
    }[evaluation.epoch_choice]
    return (
        f"Pairs of held-out people are judged by the cosine of their embeddings, as far as the ages allow: a child and "
        f"an adult image {apart}, two adults, two children, any two images. A child is below "
        f"{rules.child_below_years:g} years. {threshold} {epoch}{embedding_words(evaluation)}"
    )


def describe_held_out(table: pd.DataFrame) -> str:
    """Say in a few sentences how well each kind of pair is verified, and which kinds could not be.

    Args:
        table: As `interproto_lib.analysis.held_out_check` gives it.

    Returns:
        The sentences; they say so where there was nothing to verify and where the ages allow no child-adult pair, or
        none of one of its two kinds.
    """
    if table.empty:
        return "There are no held-out identities with two images, so nothing could be verified."
    judged = table.dropna(subset="accuracy_percent")
    parts = [
        f"{r['pairs']} {r['accuracy_percent']:.2f} % [{r['low_percent']:.1f}, {r['high_percent']:.1f}] "
        f"({r['n_pairs']:,} pairs)"
        for r in judged.to_dict("records")
    ]
    sentences = []
    if parts:
        sentences.append(
            f"Accuracy on held-out identities, with its {CONFIDENCE:.0%} interval over {judged['n_identities'].max()} "
            f"people: {', '.join(parts)}; chance is 50 %."
        )
    if len(judged) > 1:
        hardest = judged.sort_values("accuracy_percent", kind="stable")["pairs"].iloc[0]
        sentences.append(f"The hardest kind for this run is {hardest}.")
    for row in table[table["accuracy_percent"].isna()].to_dict("records"):
        sentences.append(f"{row['pairs']} could not be judged: {row['note']}.")
    missing = [kind for kind in CHILD_ADULT_GAPS if kind not in set(table["pairs"])]
    if missing:
        which = (
            f"child-adult pairs ({listed(missing)})" if len(missing) == len(CHILD_ADULT_GAPS) else f"{missing[0]} pairs"
        )
        sentences.append(f"There are no {which}: the ages of the held-out images, as far as known, allow none.")
    return " ".join(sentences)
