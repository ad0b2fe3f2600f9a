"""What is explored: one or two runs on the identities that they share, and the matrices of these identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.class_similarity import unit_prototypes
from interproto_lib.analysis.similarity import COHORTS
from interproto_lib.errors import ConfigError, RunError
from interproto_lib.runs import RunFolder, open_run
from interproto_lib.views.explorer.cohort_matrices import QUANTITIES, CohortMatrices, matrix_difference, term_matrix
from interproto_lib.views.explorer.explored_run import ExploredRun, Floats32, Positions
from interproto_lib.views.explorer.stored_means import StoredMeans, group_codes
from interproto_lib.views.explorer.stored_vectors import embeddings_path, map_embeddings
from interproto_lib.views.style import display_names

IDENTITY_COLUMNS = ("identity", "is_child", "child_share", "age_years", "n_images")


@dataclass(frozen=True, eq=False, kw_only=True)
class ExploredRuns:
    """One or two runs on the identities that they share.

    Attributes:
        runs: The runs; the second is compared with the first.
        identities: n rows, sorted by name, with the columns `IDENTITY_COLUMNS`: by the first run, over the images
            that count here. `child_share` is the share of child images among those with an age, `age_years`
            their mean age; NaN where no image has an age.
        split: `train` or `heldout`.
        notes: What a reader must know: identities left out, runs that differ in their images or in who is a child.
    """

    runs: tuple[ExploredRun, ...]
    identities: pd.DataFrame
    split: str
    notes: tuple[str, ...]

    @property
    def names(self) -> NDArray[np.object_]:
        """(n,) names of the identities."""
        return self.identities["identity"].to_numpy(dtype=object)

    @property
    def is_child(self) -> NDArray[np.bool_]:
        """(n,) whether each identity is a child identity."""
        return self.identities["is_child"].to_numpy(dtype=bool)

    @cached_property
    def cohorts(self) -> tuple[str, ...]:
        """Cohorts with at least one pair of different identities, `all` last."""
        found = []
        for cohort in COHORTS:
            rows, columns = self.sides(cohort)
            if min(len(rows), len(columns)) >= 1 and len(np.union1d(rows, columns)) >= 2:
                found.append(cohort)
        return tuple(found)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What can be shown: without prototypes only `features`."""
        return tuple(QUANTITIES) if all(run.prototypes is not None for run in self.runs) else ("features",)

    def sides(self, cohort: str) -> tuple[Positions, Positions]:
        """Identities that stand in the rows and in the columns of a cohort.

        On a child side stand the child identities, on an adult side everyone with an adult image, in `all` everyone.

        Args:
            cohort: A name of `COHORTS`.

        Raises:
            ConfigError: An unknown cohort.
        """
        if cohort not in COHORTS:
            raise ConfigError(f"unknown cohort {cohort!r}: choose one of {', '.join(COHORTS)}.")
        rows, columns = COHORTS[cohort]
        return self._of_side[rows], self._of_side[columns]

    @cached_property
    def _of_side(self) -> dict[str, Positions]:
        """Identities that stand on a side of each kind."""
        has_adult = np.zeros(len(self.identities), dtype=bool)
        first = self.runs[0]
        has_adult[first.positions[first.in_group("adult")]] = True
        return {
            "child": np.flatnonzero(self.is_child),
            "adult": np.flatnonzero(has_adult),
            "all": np.arange(len(self.identities)),
        }

    def matrices(self, cohort: str = "all", quantity: str = "features") -> CohortMatrices:
        """Give the matrices of a cohort by their terms; nothing of the size of a matrix is computed.

        A cell that pairs an identity with itself shows Eq. 1 for features where rows and columns show the same images,
        the similarity of its own child and adult images in `child-adult`, and 1 for prototypes; such cells count in no
        mean and no maximum.

        Args:
            cohort: A name of `cohorts`.
            quantity: A name of `quantities`.

        Returns:
            The matrices of the runs and, of two runs, the second minus the first.

        Raises:
            ConfigError: The runs have no such cohort or quantity.
        """
        if cohort not in self.cohorts:
            raise ConfigError(f"cohort {cohort!r} has no pair of identities here: choose {', '.join(self.cohorts)}.")
        if quantity not in self.quantities:
            raise ConfigError(f"cannot show {quantity!r} here: choose {', '.join(self.quantities)}.")
        rows, columns = self.sides(cohort)
        places = np.full(len(self.identities), -1, dtype=np.int64)
        places[columns] = np.arange(len(columns))
        of_runs = [term_matrix(run, rows, columns, cohort, quantity) for run in self.runs]
        titles = [run.name for run in self.runs]
        if len(of_runs) == 2:
            of_runs.append(matrix_difference(of_runs[1], of_runs[0]))
            titles.append(f"{titles[1]} − {titles[0]}")
        return CohortMatrices(
            matrices=tuple(of_runs),
            titles=tuple(titles),
            rows=rows,
            columns=columns,
            own_columns=places[rows],
            cohort=cohort,
            quantity=quantity,
        )


def open_explored(
    run_a: str | Path | RunFolder,
    run_b: str | Path | RunFolder | None = None,
    *,
    split: Literal["train", "heldout"] = "train",
    names: Sequence[str] | None = None,
) -> ExploredRuns:
    """Open one run, or two to be compared, on the identities that they share.

    Args:
        run_a: A finished run, trained here or imported: its folder.
        run_b: The run to be compared with it.
        split: `train` for the identities that were trained on, which have prototypes; `heldout` for the others.
        names: What to call the runs; None writes their methods as the paper does.

    Returns:
        The runs. Where they know different identities, those in common are taken and `notes` says so.

    Raises:
        RunError: A run or its embeddings are missing; the message says what to run first.
        ConfigError: The runs share no two identities, or there is not one name a run.
    """
    folders = [_opened(run) for run in (run_a, run_b) if run is not None]
    shown = _shown_names(folders) if names is None else list(names)
    if len(shown) != len(folders) or len(set(shown)) != len(shown):
        raise ConfigError(f"{len(folders)} runs need as many different names; got {', '.join(map(repr, shown))}.")
    embedded = [map_embeddings(run) for run in folders]
    known = [_known_identities(run, manifest, split) for run, (_, manifest) in zip(folders, embedded, strict=True)]
    common = known[0].intersection(known[-1]).sort_values()
    if len(common) < 2:
        who = " and ".join(run.name for run in folders)
        raise ConfigError(
            f"{who} share {len(common)} identities of split {split!r}; at least two are needed. The first of "
            f"{folders[0].name}: {', '.join(map(repr, known[0][:3]))}; of {folders[-1].name}: "
            f"{', '.join(map(repr, known[-1][:3]))}."
        )
    runs = tuple(
        _explored(run, name, vectors, manifest, of_run, common, split)
        for run, name, (vectors, manifest), of_run in zip(folders, shown, embedded, known, strict=True)
    )
    tables = [_identity_table(run, common, split) for run in runs]
    return ExploredRuns(
        runs=runs, identities=tables[0], split=split, notes=tuple(_notes(runs, tables, [len(k) for k in known]))
    )


def _opened(run: str | Path | RunFolder) -> RunFolder:
    path = run.path if isinstance(run, RunFolder) else Path(run)
    if path.is_file():
        raise RunError(
            f"{path} is a file. To explore a checkpoint, make a run folder of it first: "
            "`interproto import-checkpoint --help` says how."
        )
    return open_run(path)


def _shown_names(runs: Sequence[RunFolder]) -> list[str]:
    spelt = display_names([run.method for run in runs])
    names = [spelt[run.method] for run in runs]
    if len(set(names)) == len(names):
        return names
    seeded = [f"{name}, seed {run.seed}" for name, run in zip(names, runs, strict=True)]
    if len(set(seeded)) == len(seeded):
        return seeded
    return [f"{name}, {run.path.parent.name}" for name, run in zip(seeded, runs, strict=True)]


def _known_identities(run: RunFolder, manifest: pd.DataFrame, split: str) -> pd.Index:
    """Identities of a run by name: its classes, or those that have images in the split."""
    if split == "train":
        return pd.Index(run.classes["identity"].to_numpy(dtype=object)).sort_values()
    return pd.Index(manifest.loc[manifest["split"] == split, "identity"].unique().astype(object)).sort_values()


def _explored(
    run: RunFolder, name: str, vectors: Floats32, manifest: pd.DataFrame, known: pd.Index, common: pd.Index, split: str
) -> ExploredRun:
    numbers, spelt = pd.factorize(manifest["identity"])
    labels = np.where(manifest["split"] == split, known.get_indexer(spelt.astype(object))[numbers], -1)
    positions = np.append(common.get_indexer(known), -1)[labels]
    ages, child_below_years = manifest["age_years"].to_numpy(dtype=np.float64), run.config.child_below_years
    prototypes = None
    if split == "train" and run.prototypes_from != "none":
        rows = pd.Index(run.classes["identity"].to_numpy(dtype=object)).get_indexer(common)
        prototypes = unit_prototypes(run.prototypes[rows]).astype(np.float32)
    return ExploredRun(
        name=name,
        run=run,
        prototypes=prototypes,
        vectors=vectors,
        manifest=manifest,
        positions=positions.astype(np.int64),
        n_identities=len(common),
        child_below_years=child_below_years,
        own_rows=known.get_indexer(common),
        stored_means=StoredMeans(
            embeddings_path(run),
            vectors,
            group_codes(labels, ages, child_below_years),
            known.to_numpy(dtype=object),
            split=split,
            run=run.name,
        ),
    )


def _identity_table(run: ExploredRun, common: pd.Index, split: str) -> pd.DataFrame:
    n = len(common)
    counted = run.positions >= 0
    who = run.positions[counted]
    ages = run.manifest["age_years"].to_numpy(dtype=np.float64)[counted]
    aged, is_child_image = ~np.isnan(ages), ages < run.child_below_years
    n_aged = np.bincount(who[aged], minlength=n)
    with np.errstate(invalid="ignore"):
        child_share = np.bincount(who[is_child_image], minlength=n) / n_aged
        mean_age = np.bincount(who[aged], weights=ages[aged], minlength=n) / n_aged
    if split == "train":
        classes = run.run.classes.set_index("identity")
        is_child = classes["is_child"].reindex(common).to_numpy(dtype=bool)
    else:
        is_child = np.bincount(who[is_child_image], minlength=n) > 0
    columns = (common.to_numpy(dtype=object), is_child, child_share, mean_age, np.bincount(who, minlength=n))
    return pd.DataFrame(dict(zip(IDENTITY_COLUMNS, columns, strict=True)))


def _notes(runs: Sequence[ExploredRun], tables: Sequence[pd.DataFrame], n_known: Sequence[int]) -> list[str]:
    """Say in which ways the runs are not of the same people, images and settings."""
    n = len(tables[0])
    notes = [
        f"{run.name} knows {known:,} identities; shown are the {n:,} that both runs know."
        for run, known in zip(runs, n_known, strict=True)
        if known != n
    ]
    if len(runs) == 2:
        a, b = tables
        others = int((a["n_images"] != b["n_images"]).sum())
        if others:
            notes.append(
                f"{others:,} of them have another number of images in {runs[1].name}; counted here are those of "
                f"{runs[0].name}."
            )
        moved = int((a["is_child"] != b["is_child"]).sum())
        if moved:
            notes.append(
                f"The runs differ in whether {moved:,} of them are child identities; {runs[0].name}'s view is taken."
            )
        if runs[0].child_below_years != runs[1].child_below_years:
            notes.append(
                f"A child is younger than {runs[0].child_below_years:g} years in {runs[0].name}, and younger than "
                f"{runs[1].child_below_years:g} in {runs[1].name}."
            )
    without = [run.name for run in runs if run.prototypes is None]
    if without and runs[0].run.prototypes_from != "none":
        notes.append("People that were not trained on have no prototypes, so only their images are compared.")
    elif without:
        notes.append(f"{' and '.join(without)} has no prototypes, so only images are compared.")
    stand_in = [run.name for run in runs if run.prototypes is not None and run.run.prototypes_from == "class_means"]
    if stand_in:
        notes.append(f"Mean embeddings stand in for the prototypes of {' and '.join(stand_in)}.")
    return notes
