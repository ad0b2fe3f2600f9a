"""What must be said of runs whose network was imported, wherever their numbers are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from interproto_lib.runs import RunFolder
from interproto_lib.views.wording import listed


def describe_imported(runs: Mapping[str, Sequence[RunFolder]]) -> str:
    """Say which runs were imported, what is not known of them, and what stands in for their prototypes.

    Args:
        runs: Method -> its runs.

    Returns:
        A few sentences; empty where every run was trained here.
    """
    imported = [run for of_method in runs.values() for run in of_method if run.imported is not None]
    if not imported:
        return ""
    what = [f"{run.name} (`{run.config.backbone}` from {(run.imported or {})['file']})" for run in imported]
    one = len(imported) == 1
    it_was, it_is, it_has = ("it was", "it is", "It has") if one else ("they were", "they are", "Each has")
    sentences = [
        f"**Imported, not trained here:** {listed(what)}. It is not known on whose images {it_was} trained: people "
        f"that {it_is} judged on here may be among them. {it_has} a single state, which counts as epoch 1 and "
        "is judged by whatever rule epochs are chosen.",
        *(_of_prototypes(imported, origin) for origin in _PROTOTYPE_WORDS),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


_PROTOTYPE_WORDS = {
    "class_means": (
        "Without a head, mean embeddings of the training images stand in for the prototypes of {runs}: what is said of "
        "these prototypes is said of images, not of a last layer, and images are compared with their own mean."
    ),
    "none": "{runs}: no prototypes, for the dataset has no training images and so no classes.",
}


def _of_prototypes(imported: Sequence[RunFolder], origin: str) -> str:
    names = [run.name for run in imported if run.prototypes_from == origin]
    return _PROTOTYPE_WORDS[origin].format(runs=listed(names)) if names else ""
