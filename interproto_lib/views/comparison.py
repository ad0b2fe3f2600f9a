"""Runs beside each other: the matrices and tables that the similarity figures are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interproto_lib.analysis.embedding import Embeddings, load_embeddings
from interproto_lib.analysis.similarity import (
    COHORTS,
    SimilarityMatrix,
    cohort_similarity,
    inter_class_similarity,
    intra_class_similarity,
    prototype_similarity,
    sample_identities,
)
from interproto_lib.analysis.similarity_summary import most_confused_pairs, summarise_similarity
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.runs import RunFolder
from interproto_lib.views.wording import cohort_words, listed

ALL_IMAGES = "all"
"""Stands for a cohort where ages are missing: every image of an identity, with an age or without."""


def runs_of_seed(methods: Mapping[str, Sequence[RunFolder]], seed: int | None = None) -> dict[str, RunFolder]:
    """Choose the run of each method that is drawn: the same seed for all.

    Args:
        methods: Method -> its runs.
        seed: The seed; None takes the first that every method has.

    Returns:
        Method -> run.

    Raises:
        RunError: The methods share no seed, or not the one asked for.
    """
    seeds = {method: [run.seed for run in runs] for method, runs in methods.items()}
    shared = sorted(set.intersection(*(set(of_method) for of_method in seeds.values())))
    if not shared or (seed is not None and seed not in shared):
        wanted = (
            "no seed is shared by all methods" if seed is None or not shared else f"not all methods have seed {seed}"
        )
        there = "; ".join(f"{method}: {of_method}" for method, of_method in seeds.items())
        raise RunError(f"Cannot draw methods side by side: {wanted} ({there}). Train the missing runs with 02_train.")
    chosen = shared[0] if seed is None else seed
    return {method: runs[seeds[method].index(chosen)] for method, runs in methods.items()}


def available_cohorts(manifest: pd.DataFrame, *, split: str = "train") -> list[str]:
    """List the cohorts that the ages of a split allow: those with at least two identities in both groups.

    Args:
        manifest: The manifest.
        split: Which of its rows count.

    Returns:
        Names of `COHORTS`, or only `ALL_IMAGES` where no pair of children can be compared.
    """
    of_split = manifest[manifest["split"] == split]
    is_child = of_split["age_years"] < CHILD_BELOW_YEARS
    groups = {
        "child": set(of_split.loc[is_child, "identity"]),
        "adult": set(of_split.loc[of_split["age_years"] >= CHILD_BELOW_YEARS, "identity"]),
    }
    found = [cohort for cohort, (rows, columns) in COHORTS.items() if len(groups[rows] & groups[columns]) >= 2]
    return found if "child-child" in found else [ALL_IMAGES]


def choose_identities(run: RunFolder, manifest: pd.DataFrame, cohort: str, *, n: int, seed: int = 0) -> list[str]:
    """Draw training identities for a map: child identities first where all images are compared.

    Args:
        run: The run; its classes say who is a child identity.
        manifest: The manifest.
        cohort: A name of `COHORTS`, or `ALL_IMAGES`.
        n: How many at most.
        seed: Seed of the draw.

    Returns:
        The identities.
    """
    if cohort != ALL_IMAGES:
        return [str(name) for name in sample_identities(manifest, cohort=cohort, n=n, seed=seed)]
    classes = run.classes
    drawn = np.sort(np.random.default_rng(seed).permutation(len(classes))[:n])
    return list(classes.iloc[drawn].sort_values("is_child", ascending=False, kind="stable")["identity"])


def identities_child_first(run: RunFolder) -> tuple[list[str], int]:
    """Order the training identities of a run: child identities first, each group by name.

    Args:
        run: The run; its classes say who is a child identity.

    Returns:
        The identities, and how many of them are child identities.
    """
    classes = run.classes.sort_values("is_child", ascending=False, kind="stable")
    return [str(name) for name in classes["identity"]], int(classes["is_child"].sum())


def child_identities(run: RunFolder) -> list[str] | None:
    """Give the child identities of a run, or None where there are fewer than two to compare."""
    names = list(run.classes.loc[run.classes["is_child"], "identity"])
    return names if len(names) >= 2 else None


def cohort_matrix(
    run: RunFolder,
    embeddings: Embeddings,
    cohort: str,
    *,
    split: str = "train",
    identities: Sequence[str] | None = None,
) -> SimilarityMatrix | np.ndarray:
    """Compute Eq. 2 for a cohort, with Eq. 1 where there are prototypes.

    Args:
        run: The run, for its prototypes.
        embeddings: Its embeddings.
        cohort: A name of `COHORTS`, or `ALL_IMAGES`.
        split: `train`, or `heldout`, which has no prototypes.
        identities: Rows and columns; None takes all with images in the cohort.

    Returns:
        The matrix; for `ALL_IMAGES` a plain array with Eq. 1 on its diagonal (NaN for held-out identities).
    """
    prototypes, classes = (run.prototypes, run.classes) if split == "train" else (None, None)
    if cohort != ALL_IMAGES:
        return cohort_similarity(
            embeddings.vectors, embeddings.manifest, prototypes, classes, cohort=cohort, split=split,
            identities=None if identities is None else list(identities),
        )  # fmt: skip
    of_split = (embeddings.manifest["split"] == split).to_numpy(dtype=bool)
    names = embeddings.manifest["identity"].to_numpy(dtype=object)
    chosen = pd.Index(sorted(set(names[of_split])) if identities is None else list(identities))
    labels = np.where(of_split, chosen.get_indexer(pd.Index(names)), -1)
    values = inter_class_similarity(embeddings.vectors, labels, n_classes=len(chosen))
    if prototypes is not None and classes is not None:
        own = prototypes[pd.Index(classes["identity"]).get_indexer(chosen)]
        np.fill_diagonal(values, intra_class_similarity(embeddings.vectors, labels, own))
    return values


def different_pairs(matrix: SimilarityMatrix | np.ndarray) -> np.ndarray:
    """Give the similarities of different identities, each pair once, in a fixed order.

    Args:
        matrix: A square matrix; rows and columns are the same identities.

    Returns:
        (p,) values above the diagonal, or off it where (i, j) and (j, i) differ; NaN where an identity has no image.
    """
    values = matrix if isinstance(matrix, np.ndarray) else matrix.values  # noqa: PD011
    if not isinstance(matrix, np.ndarray) and matrix.both_orders:
        return values[~np.eye(len(values), dtype=bool)]
    return values[np.triu_indices(len(values), k=1)]


def prototypes_of(run: RunFolder, identities: Sequence[str]) -> np.ndarray:
    """Give the prototypes of some identities, in their order, shape (k, d).

    Raises:
        ConfigError: An identity is not a class of the run.
    """
    rows = pd.Index(run.classes["identity"]).get_indexer(pd.Index(list(identities)))
    if (rows < 0).any():
        raise ConfigError(f"Identity {list(identities)[int(np.argmin(rows))]!r} is no class of run {run.name!r}.")
    return run.prototypes[rows]


def similarity_table(methods: Mapping[str, Sequence[RunFolder]], *, threshold: float = 0.3) -> pd.DataFrame:
    """Summarise the similarity of different identities for every run: features of all cohorts, and prototypes.

    Child cohorts of training identities are those of the run's child identities, on which the Inter-Prototype loss
    acts; prototypes are theirs too. Held-out identities, which have no prototypes, count from one child image on.
    Where ages allow no child cohort all identities and images count.

    Args:
        methods: Method -> its runs; embeddings are read run by run.
        threshold: Cosine above which a pair counts in `share_above`.

    Returns:
        One row a method, seed, split, cohort and `what` (`prototypes` or `features`), with `n_pairs`, `mean`, `rms`,
        `p05`, `median`, `p95`, `max`, `share_above` and `threshold`.

    Raises:
        RunError: A run has no embeddings.
    """
    rows = []
    for method, runs in methods.items():
        for run in runs:
            embeddings, children = load_embeddings(run), child_identities(run)
            names = {"method": method, "seed": run.seed}
            for split in ("train", "heldout"):
                if embeddings.manifest.loc[embeddings.manifest["split"] == split, "identity"].nunique() < 2:
                    continue
                for cohort in available_cohorts(embeddings.manifest, split=split):
                    identities = children if split == "train" and "child" in cohort else None
                    matrix = cohort_matrix(run, embeddings, cohort, split=split, identities=identities)
                    features = summarise_similarity(matrix, threshold=threshold).to_dict()
                    rows.append({**names, "split": split, "cohort": cohort, "what": "features", **features})
                    if split == "train" and cohort in ("child-child", ALL_IMAGES):
                        own = run.classes["identity"] if isinstance(matrix, np.ndarray) else matrix.row_identities
                        cosines = prototype_similarity(prototypes_of(run, list(own)))
                        prototypes = summarise_similarity(cosines, threshold=threshold).to_dict()
                        rows.append({**names, "split": split, "cohort": cohort, "what": "prototypes", **prototypes})
    return pd.DataFrame(rows)


def similarity_measures_table(table: pd.DataFrame) -> pd.DataFrame:
    """Name one number of each row of `similarity_table` as a measure, ready to be paired with a baseline.

    Args:
        table: As `similarity_table` gives it.

    Returns:
        The columns `measure` (as in `child–child, train`), `method`, `seed` and `value`: of features the mean, of
        prototypes the root mean square, which is what the Inter-Prototype loss lowers.
    """
    cohort = table["cohort"].map(cohort_words)
    of_prototypes = table["what"] == "prototypes"
    what = table["split"].replace({"heldout": "held-out"}).mask(of_prototypes, "prototypes (rms)")
    value = table["mean"].mask(of_prototypes, table["rms"])
    return pd.DataFrame(
        {"measure": cohort + ", " + what, "method": table["method"], "seed": table["seed"], "value": value}
    )


def confused_table(
    matrices: Mapping[str, SimilarityMatrix | np.ndarray], identities: Sequence[str], *, top: int = 10
) -> pd.DataFrame:
    """List the most similar pairs of different identities of each method.

    Args:
        matrices: Method -> similarity of the images of identities (Eq. 2).
        identities: The identities of the rows of a plain array.
        top: Pairs a method.

    Returns:
        One row a method and pair, most similar first: `method`, `row_identity`, `column_identity`, `similarity`.
    """
    parts = []
    for method, matrix in matrices.items():
        if isinstance(matrix, np.ndarray):
            rows, columns = np.triu_indices(len(matrix), k=1)
            values = matrix[rows, columns]
            best = np.argsort(-np.nan_to_num(values, nan=-2.0), kind="stable")[:top]
            names = np.asarray(identities, dtype=object)
            pairs = pd.DataFrame(
                {"row_identity": names[rows[best]], "column_identity": names[columns[best]], "similarity": values[best]}
            )
        else:
            pairs = most_confused_pairs(matrix, top=top)[["row_identity", "column_identity", "similarity"]]
        parts.append(pairs.assign(method=method))
    return pd.concat(parts, ignore_index=True)[["method", "row_identity", "column_identity", "similarity"]]


def describe_available_cohorts(cohorts: Sequence[str]) -> str:
    """Say what the ages of the training images allow.

    Args:
        cohorts: As `available_cohorts` gives them.

    Returns:
        One sentence.
    """
    if list(cohorts) == [ALL_IMAGES]:
        return (
            "There are no two identities with child images among the training images, so children cannot be told from "
            "adults: every map below is over all images of all identities."
        )
    return f"The ages allow the cohorts {listed([cohort_words(cohort) for cohort in cohorts])}."
