"""The prototypes of two runs side by side in the plane: look, select, and take the selection into the next cell."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.projection import ProjectionQuality, nearest_neighbours, projection_quality
from interproto_lib.errors import ConfigError
from interproto_lib.views.explorer.explored import ExploredRuns
from interproto_lib.views.explorer.projection_map import ProjectionMap
from interproto_lib.views.explorer.projections import stored_projection
from interproto_lib.views.projection import PROJECTION_NAMES, projection_figure
from interproto_lib.views.style import LabelledFigure

IDENTITY_COLUMNS = ("identity", "is_child", "age_years", "n_images")
"""Columns that the table of identities must have; more are welcome and come back with the selection."""

CONFUSION_UP_TO = 20_000
"""Up to this many prototypes the most similar other one is found without being asked for: it takes seconds."""

CONFUSION_AT_ONCE = 1_000
"""Up to this many prototypes it is found before the explorer shows itself, for more in a thread."""

_STATE_TRAITS = ("projection", "colouring", "tool", "views")
_DATA_HINT = "# `{name}` is the explorer as the cell above made it."


class ProjectionExplorer:
    """Prototypes in the plane, linked between runs, with a selection that Python knows.

    The object shows itself as the last line of a cell. `map` is the widget: its traits `selected` (rows of the table)
    and `chosen` can be linked with other widgets, as in `traitlets.link((explorer.map, "selected"), (other, "marks"))`.

    Attributes:
        map: The widget.
        identities: The table of identities, n rows.
        points: Projection -> run -> (n, 2) points.
        is_child: (n,) booleans, as `projection_figure` takes them.
    """

    def __init__(
        self,
        points: Mapping[str, Mapping[str, NDArray[np.floating]]],
        identities: pd.DataFrame,
        *,
        prototypes: Mapping[str, NDArray[np.floating]] | None = None,
        quality: Mapping[str, Mapping[str, ProjectionQuality]] | None = None,
        state: ProjectionExplorer | Mapping[str, Any] | None = None,
        name: str = "explorer",
        made_by: str = "",
        live: bool = True,
    ) -> None:
        """Check the tables and make the widget.

        Args:
            points: Projection (as in `t-SNE`) -> run, as it is to be called -> (n, 2) points, row i for identity i; a
                row that is not finite is not drawn. All projections have the same runs.
            identities: n rows with `IDENTITY_COLUMNS`: name (each once), whether it is a child identity, mean age in
                years (NaN unknown), number of images. Further columns are kept.
            prototypes: Run -> (n, d) prototypes, any length above 0; a row that is not finite is left out. They give
                the confusion (highest cosine to another identity) and, where `quality` misses, the quality of the
                static figure.
            quality: Projection -> run -> quality, where it is known already.
            state: An explorer made before, or its `state`: the new one shows, marks and colours the same where its
                identities are there still.
            name: What the explorer is called in the notebook, for the code that it shows.
            made_by: Code that makes it under this name, for the code that it shows; empty refers to the cell above.
            live: Whether a kernel answers the page.

        Raises:
            ConfigError: Shapes, columns or keys do not fit.
        """
        self.identities = _checked_identities(identities)
        self.points = {projection: dict(by_run) for projection, by_run in points.items()}
        self._runs = _checked_points(self.points, len(self.identities))
        self._prototypes = _checked_prototypes(prototypes, self._runs, len(self.identities))
        self._quality = {projection: dict(by_run) for projection, by_run in (quality or {}).items()}
        self._name, self._made_by = name, made_by
        self.is_child = self.identities["is_child"].to_numpy(dtype=bool)
        ages = self.identities["age_years"].to_numpy(dtype=np.float64)
        self.map = ProjectionMap(
            self.points,
            identities=self._names(),
            kinds=np.where(self.is_child, 1, np.where(np.isnan(ages), 2, 0)).astype(np.uint8),
            age_years=ages,
            n_images=self.identities["n_images"].to_numpy(),
            draw_figure=self.figure,
            live=live,
            table_call=f"{name}.selected_table()",
            **self._from_state(state.state if isinstance(state, ProjectionExplorer) else state or {}),
        )
        self._confusion: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None
        self._finding = threading.Lock()
        if self._prototypes and len(self.identities) <= CONFUSION_UP_TO:
            if live and len(self.identities) > CONFUSION_AT_ONCE:
                self._finding.acquire()
                threading.Thread(target=self._find_in_thread, name="confusion", daemon=True).start()
            else:
                self.find_confusion()
        self.map.observe(self._write_code, "projection")
        self._write_code()

    @classmethod
    def of_explored(
        cls,
        explored: ExploredRuns,
        *,
        methods: Sequence[str] = ("tsne",),
        seed: int = 0,
        n_threads: int | None = None,
        **options: Any,
    ) -> ProjectionExplorer:
        """Explore the prototypes of runs; their places in the plane are read from the run folders or made.

        Args:
            explored: The runs, from `open_explored`.
            methods: Ways into the plane, see `project_prototypes`.
            seed: Of the projections.
            n_threads: Threads; None takes those torch and OpenMP are set to.
            options: Further arguments of the class.

        Returns:
            The explorer; row i is identity i of `explored`.

        Raises:
            ConfigError: A run has no prototypes, or they cannot be projected in this way.
            WriteError: The places cannot be kept.
        """
        points = {
            PROJECTION_NAMES.get(method, method): {
                run.name: stored_projection(run, method=method, seed=seed, n_threads=n_threads) for run in explored.runs
            }
            for method in methods
        }
        prototypes = {run.name: run.prototypes for run in explored.runs if run.prototypes is not None}
        return cls(points, explored.identities, **{"prototypes": prototypes, **options})

    @property
    def selected(self) -> NDArray[np.int64]:
        """Rows of the identities selected, rising."""
        return np.array(self.map.selected, dtype=np.int64)

    @property
    def state(self) -> dict[str, Any]:
        """What is shown and selected, by names of identities, as JSON holds it; give it to the next explorer."""
        names = self._names()
        shown = {trait: getattr(self.map, trait) for trait in _STATE_TRAITS}
        chosen = names[self.map.chosen] if self.map.chosen >= 0 else None
        return {**shown, "selected": [names[row] for row in self.map.selected], "chosen": chosen}

    def select(self, identities: Iterable[str]) -> None:
        """Select identities by name.

        Args:
            identities: Names.

        Raises:
            ConfigError: A name is not in the table.
        """
        names = list(identities)
        rows = pd.Index(self.identities["identity"]).get_indexer(pd.Index(names, dtype=object))
        if (rows < 0).any():
            raise ConfigError(f"There is no identity {names[int(np.flatnonzero(rows < 0)[0])]!r} in the explorer.")
        self.map.selected = sorted({int(row) for row in rows})

    def selected_table(self) -> pd.DataFrame:
        """Give the identities selected.

        Returns:
            Their rows of the table, row numbers kept as index; with confusion known, `confusion (<run>)` and
            `most_like (<run>)` for each run. Confusion that is being found is waited for.
        """
        return self._with_confusion().iloc[self.selected]

    def find_confusion(self) -> None:
        """Find for each prototype the highest cosine to another, exactly; a minute or more for 85,742 prototypes.

        Raises:
            ConfigError: The explorer was made without prototypes.
        """
        if not self._prototypes:
            raise ConfigError("Confusion needs the prototypes: make the explorer with prototypes={run: (n, d) array}.")
        with self._finding:
            if self._confusion is None:
                self._find(n_threads=None)

    def _find_in_thread(self) -> None:
        """Find the confusion on one processor: somebody looks around meanwhile. The lock is held already."""
        try:
            self._find(n_threads=1)
        finally:
            self._finding.release()

    def _find(self, *, n_threads: int | None) -> None:
        found = [highest_similarities(self._prototypes[run], n_threads=n_threads) for run in self._runs]
        self._confusion = np.stack([cosines for cosines, _ in found]), np.stack([rows for _, rows in found])
        self.map.set_confusion(*self._confusion)

    def quality(self, projection: str) -> dict[str, ProjectionQuality]:
        """Measure how far the pictures of a projection can be trusted.

        Args:
            projection: Its name.

        Returns:
            Run -> quality, computed once.

        Raises:
            ConfigError: It is not known and there are no prototypes to compute it from.
        """
        known = self._quality.setdefault(projection, {})
        for run in self._runs:
            if run not in known:
                known[run] = self._measure(projection, run)
        return {run: known[run] for run in self._runs}

    def figure(self) -> LabelledFigure:
        """Draw the static figure of the projection shown.

        Raises:
            ConfigError: An identity has no place in it, or its quality cannot be known.
        """
        projection = self.map.projection
        return projection_figure(
            {projection: self.points[projection]}, self.is_child, {projection: self.quality(projection)}
        )

    def _measure(self, projection: str, run: str) -> ProjectionQuality:
        points = self.points[projection][run]
        unplaced = int((~np.isfinite(points).all(axis=1)).sum())
        if unplaced or not self._prototypes:
            have = "identity has" if unplaced == 1 else "identities have"
            reason = f"{unplaced} {have} no place in {run}" if unplaced else "there are no prototypes"
            raise ConfigError(
                f"The static figure tells how far it can be trusted, which cannot be measured here: {reason}. Give "
                f"quality={{{projection!r}: {{{run!r}: ...}}}} or complete points and prototypes."
            )
        k_recall = min(15, (len(points) - 1) // 2)
        return projection_quality(
            self._prototypes[run], points, self.is_child, k_purity=min(5, len(points) - 1), k_recall=k_recall
        )

    def _with_confusion(self) -> pd.DataFrame:
        with self._finding:
            if self._confusion is None:
                return self.identities
        names = self.identities["identity"].to_numpy(dtype=object)
        columns: dict[str, Any] = {}
        for run, cosines, rows in zip(self._runs, *self._confusion, strict=True):
            columns[f"confusion ({run})"] = cosines
            columns[f"most_like ({run})"] = np.where(rows >= 0, names[rows], None)
        return self.identities.assign(**columns)

    def _from_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The traits that a state gives, without what is no longer there."""
        traits = {trait: state[trait] for trait in _STATE_TRAITS if trait in state}
        if traits.get("projection") not in self.points:
            traits.pop("projection", None)
        if len(traits.get("views", ())) != len(self._runs):
            traits.pop("views", None)
        selected, chosen = list(state.get("selected", ())), state.get("chosen")
        if selected or chosen is not None:
            row_of = {name: row for row, name in enumerate(self._names())}
            traits["selected"] = sorted(row_of[name] for name in selected if name in row_of)
            traits["chosen"] = row_of.get(str(chosen), -1)
        return traits

    def _names(self) -> list[str]:
        return [str(name) for name in self.identities["identity"].to_numpy(dtype=object)]

    def _write_code(self, _: Any = None) -> None:
        projection = self.map.projection
        self.map.code = "\n".join(
            [
                "from interproto_lib.views import projection_figure, save_figure",
                "",
                self._made_by or _DATA_HINT.format(name=self._name),
                "figure = projection_figure(",
                f"    {{{projection!r}: {self._name}.points[{projection!r}]}},",
                f"    {self._name}.is_child,",
                f"    {{{projection!r}: {self._name}.quality({projection!r})}},",
                ")",
                f'save_figure(figure, "figures", "{self.map.figure_name}")',
                "figure",
            ]
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.map._repr_mimebundle_(**kwargs)


def highest_similarities(
    prototypes: NDArray[np.floating], *, n_threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find for each prototype the other one that is most similar, exactly.

    Args:
        prototypes: (n, d) any length above 0; a row that is not finite is left out.
        n_threads: Threads; None takes those torch is set to.

    Returns:
        (n,) highest cosine to another prototype, and (n,) its row; NaN and -1 where a row is left out or has no other.

    Example:
        >>> highest_similarities(np.array([[1.0, 0.0], [0.8, 0.6], [np.nan, 0.0]]))
        (array([0.8, 0.8, nan], dtype=float32), array([ 1,  0, -1]))
    """
    known = np.flatnonzero(np.isfinite(prototypes).all(axis=1))
    cosines, rows = np.full(len(prototypes), np.nan, np.float32), np.full(len(prototypes), -1, np.int64)
    if len(known) > 1:
        rows_known = prototypes if len(known) == len(prototypes) else prototypes[known]
        nearest, values = nearest_neighbours(rows_known, 1, n_threads=n_threads)
        cosines[known], rows[known] = values[:, 0], known[nearest[:, 0]]
    return cosines, rows


def _checked_identities(identities: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in IDENTITY_COLUMNS if column not in identities.columns]
    if missing:
        raise ConfigError(
            f"The table of identities has no column {', '.join(missing)}; it has "
            f"{', '.join(map(str, identities.columns))}."
        )
    table = identities.reset_index(drop=True)
    twice = table["identity"][table["identity"].duplicated()]
    if len(twice):
        raise ConfigError(f"Identity {twice.iloc[0]!r} stands twice in the table; row numbers must mean one identity.")
    return table


def _checked_points(points: Mapping[str, Mapping[str, NDArray[np.floating]]], n: int) -> list[str]:
    """Give the names of the runs."""
    if not points or not next(iter(points.values())):
        raise ConfigError("There are no points: give {projection: {run: (n, 2) array}}.")
    runs = list(next(iter(points.values())))
    for projection, by_run in points.items():
        if list(by_run) != runs:
            raise ConfigError(f"{projection} has the runs {', '.join(by_run)}, not {', '.join(runs)}.")
        for run, of_run in by_run.items():
            if of_run.shape != (n, 2):
                raise ConfigError(
                    f"{projection}, {run}: points of shape {of_run.shape} do not fit {n} identities, they must be "
                    f"({n}, 2)."
                )
    return runs


def _checked_prototypes(
    prototypes: Mapping[str, NDArray[np.floating]] | None, runs: list[str], n: int
) -> Mapping[str, NDArray[np.floating]]:
    for run in runs if prototypes else ():
        if prototypes is None or run not in prototypes:
            raise ConfigError(f"There are no prototypes of {run}: give them for all runs or for none.")
        if prototypes[run].ndim != 2 or len(prototypes[run]) != n:
            raise ConfigError(f"{run}: prototypes of shape {prototypes[run].shape} do not fit {n} identities.")
        empty = ~prototypes[run].any(axis=1)
        if empty.any():
            raise ConfigError(f"{run}: prototype {int(np.flatnonzero(empty)[0])} has length zero, hence no direction.")
    return prototypes or {}
