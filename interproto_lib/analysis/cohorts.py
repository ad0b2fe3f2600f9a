"""Who is compared with whom in a run: one definition of child identities for every notebook.

An image is a child's below the run's `child_below_years`, and an adult's from there on. On training images a child
cohort is made of the run's child identities (`is_child` of its classes), which are those that the Inter-Prototype loss
acts on where its scope is `child`. Held-out identities are no classes of any run; each counts from its first child
image on. Adults need no such rule: every identity with an adult image counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import prototype_similarity
from interproto_lib.analysis.embedding import Embeddings
from interproto_lib.analysis.similarity import (
    COHORTS,
    SimilarityMatrix,
    class_positions,
    cohort_identities,
    cohort_similarity,
    sample_identities,
)
from interproto_lib.errors import DatasetError
from interproto_lib.runs import RunFolder


def child_identities(run: RunFolder) -> list[str]:
    """List the child identities of a run: the classes with enough child images, by the run's own settings.

    Args:
        run: The run.

    Returns:
        The identities, in the order of the classes; empty where there is none.
    """
    classes = run.classes
    return [str(name) for name in classes.loc[classes["is_child"], "identity"]]


def identities_child_first(run: RunFolder) -> tuple[list[str], int]:
    """Order the training identities of a run: child identities first, each group by name.

    Args:
        run: The run; its classes say who is a child identity.

    Returns:
        The identities, and how many of them are child identities.
    """
    classes = run.classes.sort_values("is_child", ascending=False, kind="stable")
    return [str(name) for name in classes["identity"]], int(classes["is_child"].sum())


def available_cohorts(run: RunFolder, manifest: pd.DataFrame, *, split: str = "train") -> list[str]:
    """List the cohorts of a split in which there are at least two identities with images on both sides.

    Args:
        run: The run; its settings say what a child image is, its classes who is a child identity in training.
        manifest: The manifest.
        split: Which of its rows count.

    Returns:
        Names of `COHORTS` but `all`; or only `all` where no two child identities can be compared.
    """
    found = []
    for cohort in COHORTS:
        identities = set(
            cohort_identities(manifest, cohort, child_below_years=run.config.child_below_years, split=split)
        )
        if _is_of_children(cohort, split):
            identities &= set(child_identities(run))
        if cohort != "all" and len(identities) >= 2:
            found.append(cohort)
    return found if "child-child" in found else ["all"]


def choose_identities(run: RunFolder, manifest: pd.DataFrame, cohort: str, *, n: int, seed: int = 0) -> list[str]:
    """Draw training identities of a cohort for a map.

    Args:
        run: The run; its settings say what a child image is, its classes who is a child identity.
        manifest: The manifest.
        cohort: A name of `COHORTS`.
        n: How many at most.
        seed: Seed of the draw.

    Returns:
        The identities, sorted.

    Raises:
        ConfigError: An unknown cohort, or n below 1.
        DatasetError: No identity has such images.
    """
    among = child_identities(run) if _is_of_children(cohort, "train") else None
    drawn = sample_identities(
        manifest, cohort=cohort, n=n, seed=seed, child_below_years=run.config.child_below_years, among=among
    )
    return [str(name) for name in drawn]


def cohort_matrix(
    run: RunFolder,
    embeddings: Embeddings,
    cohort: str,
    *,
    split: str = "train",
    identities: Sequence[str] | None = None,
) -> SimilarityMatrix:
    """Compute Eq. 2 for a cohort of a run, with Eq. 1 where there are prototypes.

    Args:
        run: The run, for its prototypes, its child identities and what it takes for a child image.
        embeddings: Its embeddings.
        cohort: A name of `COHORTS`.
        split: `train`, or `heldout`, which has no prototypes.
        identities: Rows and columns. None takes, on training images of a cohort with children, the run's child
            identities, and else all with images on both sides of the cohort.

    Returns:
        The matrix.

    Raises:
        ConfigError: An unknown cohort, or a training identity that is not a class.
        DatasetError: There is no such identity.
    """
    if identities is None and _is_of_children(cohort, split):
        identities = child_identities(run)
        if not identities:
            raise DatasetError(
                f"Run {run.name!r} has no child identity (min_child_images={run.config.min_child_images}), so there is "
                f"no cohort {cohort!r} of training images. Compare all images with cohort 'all'."
            )
    prototypes, classes = (run.prototypes, run.classes) if split == "train" else (None, None)
    return cohort_similarity(
        embeddings.vectors,
        embeddings.manifest,
        prototypes,
        classes,
        cohort=cohort,
        identities=identities,
        child_below_years=run.config.child_below_years,
        split=split,
    )


def prototypes_of(run: RunFolder, identities: Sequence[str] | NDArray[np.object_]) -> np.ndarray:
    """Give the prototypes of some identities, in their order.

    Args:
        run: The run.
        identities: Identities that it was trained on.

    Returns:
        (k, d) float32, not normalised.

    Raises:
        ConfigError: An identity is not a class of the run.
    """
    return run.prototypes[class_positions(np.asarray(identities, dtype=object), run.classes)]


def different_pairs(matrix: SimilarityMatrix) -> NDArray[np.float32]:
    """Give the similarities of different identities, each pair once, in a fixed order.

    Args:
        matrix: A matrix whose rows and columns are the same identities.

    Returns:
        (p,) values above the diagonal, or off it where (i, j) and (j, i) differ; NaN where an identity has no image.
    """
    return matrix.values[_pair_cells(matrix)]  # noqa: PD011 (not a pandas object)


def prototype_pairs(run: RunFolder, matrix: SimilarityMatrix) -> NDArray[np.float32]:
    """Give the cosines of the prototypes for the pairs of identities of a matrix.

    Args:
        run: The run whose prototypes are compared.
        matrix: A matrix of training identities, rows and columns the same.

    Returns:
        (p,) cosines, pair by pair in the order of `different_pairs`.

    Raises:
        ConfigError: An identity is not a class of the run.
    """
    rows = prototypes_of(run, matrix.row_identities)
    return prototype_similarity(rows)[_pair_cells(matrix)]


def _pair_cells(matrix: SimilarityMatrix) -> NDArray[np.bool_]:
    n = len(matrix.row_identities)
    return ~np.eye(n, dtype=bool) if matrix.both_orders else np.triu(np.ones((n, n), dtype=bool), k=1)


def _is_of_children(cohort: str, split: str) -> bool:
    """Whether a cohort is made of the run's child identities."""
    return split == "train" and "child" in COHORTS.get(cohort, ())
