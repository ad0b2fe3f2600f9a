"""Prototypes in the plane, kept in the run's folder: a projection takes from seconds to minutes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interproto_lib.analysis.kept_projections import kept_projection
from interproto_lib.analysis.projection import SMALLEST_PROJECTION
from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.explored_run import ExploredRun
from interproto_lib.views.projection import PROJECTION_NAMES


def stored_projections(
    explored: ExploredRuns, methods: Sequence[str], *, seed: int = 0, n_threads: int | None = None
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Place the prototypes of all runs in the plane, see `stored_projection`.

    Args:
        explored: The runs.
        methods: Ways into the plane, of `tsne` and `umap`.
        seed: Of the projections.
        n_threads: Threads.

    Returns:
        Name of the projection, as in `t-SNE` -> name of the run -> (n, 2) points. Empty where a run has no prototypes,
        and where there are too few identities to project.
    """
    too_few = len(explored.identities) < SMALLEST_PROJECTION
    if too_few or any(run.prototypes is None for run in explored.runs):
        return {}
    return {
        PROJECTION_NAMES.get(method, method): {
            run.name: stored_projection(run, method=method, seed=seed, n_threads=n_threads) for run in explored.runs
        }
        for method in methods
    }


def stored_projection(
    run: ExploredRun, *, method: str = "tsne", seed: int = 0, n_threads: int | None = None
) -> NDArray[np.float32]:
    """Place the prototypes of a run in the plane, or read the places that were kept, also by notebook 04.

    Args:
        run: A run with prototypes.
        method: `tsne` or `umap`, see `project_prototypes`.
        seed: Of the projection.
        n_threads: Threads; None takes those torch and OpenMP are set to.

    Returns:
        (n, 2) float32, row i for identity i; see `kept_projection`.

    Raises:
        ConfigError: The run has no prototypes, or they cannot be projected in this way.
    """
    if run.prototypes is None:
        raise ConfigError(f"{run.name} has no prototypes here, so there is nothing to project.")
    return kept_projection(run.run.path, run.prototypes, method=method, seed=seed, n_threads=n_threads)
