"""Turning numbers into words, so that a sentence under a figure can never say something else than the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interproto_lib.config import EvaluationConfig

METHODS_TOLD_ONE_BY_ONE = 4
"""Of more methods a list of differences has one line a test set or measure, not one a method."""


def number(value: float, *, decimals: int = 3) -> str:
    """Write a number with a true minus sign, and never as minus zero.

    Args:
        value: The number.
        decimals: Digits after the point.

    Returns:
        The text.

    Example:
        >>> number(-0.0001), number(-0.25, decimals=2)
        ('0.000', '−0.25')
    """
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float, *, decimals: int = 3) -> str:
    """Write a number with its sign, plus included; what rounds to zero has none.

    Args:
        value: The number.
        decimals: Digits after the point.

    Returns:
        The text.

    Example:
        >>> signed(0.5, decimals=1), signed(-0.5, decimals=1), signed(0.01, decimals=1)
        ('+0.5', '−0.5', '0.0')
    """
    text = number(value, decimals=decimals)
    return text if text.startswith("−") or not any(digit in text for digit in "123456789") else f"+{text}"


def compared(difference: float, *, decimals: int = 3, unit: str = "", more: str = "higher", less: str = "lower") -> str:
    """Say by how much something is higher or lower; a difference that rounds to zero is called none.

    Args:
        difference: Second value minus first.
        decimals: Digits after the point.
        unit: Written after the number, with its leading space.
        more: Word for a positive difference.
        less: Word for a negative difference.

    Returns:
        As in `0.016 lower` or `the same to 3 decimals`.

    Example:
        >>> compared(-0.0162), compared(0.4, decimals=1, unit=" points"), compared(0.0)
        ('0.016 lower', '0.4 points higher', 'the same to 3 decimals')
    """
    if round(difference, decimals) == 0:
        return f"the same to {decimals} decimal{'' if decimals == 1 else 's'}"
    return f"{abs(difference):,.{decimals}f}{unit} {more if difference > 0 else less}"


def differences_in_a_line(differences: Iterable[tuple[float, tuple[float, float], str]], *, decimals: int) -> str:
    """Say which differences are told from chance and which are not, the largest first.

    Args:
        differences: Difference, interval and name of each.
        decimals: Digits after the point.

    Returns:
        The words, without a full stop.

    Example:
        >>> differences_in_a_line([(-0.2, (-0.5, 0.1), "a"), (1.0, (0.5, 1.5), "b")], decimals=1)
        'higher: b +1.0 [+0.5, +1.5]; not told from chance: a −0.2 [−0.5, +0.1]'
    """
    told: dict[str, list[str]] = {"higher": [], "lower": [], "not told from chance": []}
    for difference, (low, high), name in sorted(differences, key=lambda one: -abs(one[0])):
        word = "higher" if low > 0 else "lower" if high < 0 else "not told from chance"
        interval = f"[{signed(low, decimals=decimals)}, {signed(high, decimals=decimals)}]"
        told[word].append(f"{name} {signed(difference, decimals=decimals)} {interval}")
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in told.items() if names)


def listed(words: Sequence[str]) -> str:
    """Join words as in a sentence.

    Args:
        words: The words.

    Returns:
        `a`, `a and b`, or `a, b and c`.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(words) <= 1:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def resampled_words(n_identities: Iterable[float], n_seeds: Iterable[float]) -> str:
    """Say what the intervals of a table resample.

    Args:
        n_identities: Identities of each row; 0 or missing where they are unknown.
        n_seeds: Seeds of each row.

    Returns:
        As in `people and seeds`.

    Example:
        >>> resampled_words([120, 120], [3, 3]), resampled_words([120, 0], [1, 1])
        ('people and seeds', 'people, or pairs where people are unknown')
    """
    people = "people" if all(n > 0 for n in n_identities) else "people, or pairs where people are unknown"
    return f"{people}{'' if max(n_seeds, default=1) <= 1 else ' and seeds' if people == 'people' else ', and seeds'}"


def cohort_words(cohort: str) -> str:
    """Write the name of a cohort for people.

    Args:
        cohort: As in `child-child`, or `all`.

    Returns:
        The words.

    Example:
        >>> cohort_words("child-adult"), cohort_words("all")
        ('child–adult', 'all images')
    """
    return "all images" if cohort == "all" else cohort.replace("-", "–")


def age_group_words(group: str) -> str:
    """Write the name of an age group for people.

    Args:
        group: As in `13-18` or `>=66`.

    Returns:
        The words.

    Example:
        >>> age_group_words("13-18"), age_group_words(">=66")
        ('13–18', '≥ 66')
    """
    return group.replace("-", "–").replace(">=", "≥ ")


def embedding_words(evaluation: EvaluationConfig) -> str:
    """Say how images were embedded where that is not the plain way, in sentences to put behind others.

    Args:
        evaluation: By what rules runs are judged.

    Returns:
        Sentences with a blank before each; empty where images were embedded once each, in float32.
    """
    flip = {
        "none": "",
        "sum": " The embeddings of an image and of its mirror image are added.",
        "concatenate": " The embeddings of an image and of its mirror image are put one after the other.",
    }[evaluation.embedding_flip]
    return flip + (" Images are embedded in bfloat16." if evaluation.embedding_precision == "bfloat16" else "")
