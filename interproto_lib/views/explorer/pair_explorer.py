"""Pairs of a test set under a threshold that moves: who is taken for whom, by age, in both runs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interproto_lib.analysis.scored_runs import JudgedRun
from interproto_lib.analysis.scores import SCORED_PAIR_COLUMNS
from interproto_lib.data.manifests import CHILD_BELOW_YEARS
from interproto_lib.data.pair_rules import ADULT_FROM_YEARS
from interproto_lib.errors import ConfigError
from interproto_lib.views.compared_runs import scores_of_seed
from interproto_lib.views.explorer.pair_counts import (
    ERROR_KINDS,
    PAIR_COHORTS,
    SortedScores,
    hardest_pairs,
    pair_cohorts,
)
from interproto_lib.views.explorer.pair_view import PairView, ReadImage
from interproto_lib.views.style import LabelledFigure
from interproto_lib.views.verification import JudgedScores, score_distribution_figure

HARDEST_SHOWN = 50
"""Pairs of each kind of error and cohort that the page can list."""

_STATE_TRAITS = ("test_set", "cohort", "together", "thresholds", "table_run")


class PairExplorer:
    """Distributions of genuine and impostor scores, a threshold for each run, rates by age, and the hardest pairs.

    The object shows itself as the last line of a cell. `view` is the widget; its trait `pair` says which
    pair is chosen.

    Attributes:
        view: The widget.
        pairs: Test set -> its pairs.
        cosines: Test set -> run -> (m,) scores.
    """

    def __init__(
        self,
        pairs: Mapping[str, pd.DataFrame],
        cosines: Mapping[str, Mapping[str, NDArray[np.floating]]],
        *,
        thresholds: Mapping[str, Mapping[str, float | None]] | None = None,
        child_below_years: float = CHILD_BELOW_YEARS,
        adult_from_years: float = ADULT_FROM_YEARS,
        show_faces: bool = False,
        read_image: ReadImage | None = None,
        state: PairExplorer | Mapping[str, Any] | None = None,
        name: str = "explorer",
        made_by: str = "",
        live: bool = True,
    ) -> None:
        """Sort the scores and make the widget.

        Args:
            pairs: Name of the test set -> m pairs with `SCORED_PAIR_COLUMNS`, as `PairScores.pairs` has them; left and
                right are paths.
            cosines: Name of the test set -> run, as it is to be called -> (m,) finite scores, row i for pair i. All
                test sets have the same runs.
            thresholds: Test set -> run -> the threshold that the evaluation chose; None or missing where there is none.
            child_below_years: An image is a child's below this age.
            adult_from_years: An image is an adult's from this age; pairs with an age between are cohort `other`.
            show_faces: Whether the pictures of a chosen pair are drawn; the pictures of real people only by consent.
            read_image: Gives the (h, w, 3) RGB uint8 picture of a path; needed to show faces.
            state: An explorer made before, or its `state`: the new one shows the same, with the same thresholds.
            name: What the explorer is called in the notebook, for the code that it shows.
            made_by: Code that makes it under this name, for the code that it shows; empty refers to the cell above.
            live: Whether a kernel answers the page.

        Raises:
            ConfigError: Tables, shapes or names that do not fit, or scores that are not finite.
        """
        self._runs = _checked_pairs(pairs, cosines)
        if show_faces and read_image is None:
            raise ConfigError("show_faces needs read_image, a function that gives the picture of a path.")
        self.pairs, self.cosines = dict(pairs), {name: dict(by_run) for name, by_run in cosines.items()}
        self._name, self._made_by = name, made_by
        self._cohorts = {
            test_set: pair_cohorts(
                table["left_age_years"], table["right_age_years"],
                child_below_years=child_below_years, adult_from_years=adult_from_years,
            )
            for test_set, table in self.pairs.items()
        }  # fmt: skip
        self._sorted = {
            (test_set, run): SortedScores.of(scores, self._same(test_set), self._cohorts[test_set])
            for test_set, by_run in self.cosines.items()
            for run, scores in by_run.items()
        }
        given = thresholds or {}
        chosen = {t: [_number_or_none(given.get(t, {}).get(run)) for run in self._runs] for t in self.pairs}
        scores, groups = self._packed()
        self.view = PairView(
            draw_figure=self.figure,
            figure_name="pair_scores",
            read_image=read_image,
            live=live,
            test_sets=list(self.pairs),
            runs=self._runs,
            scores=scores,
            groups=groups,
            chosen_thresholds=chosen,
            hardest={t: [self._hardest(t, run) for run in self._runs] for t in self.pairs},
            show_faces=show_faces,
            **self._from_state(state.state if isinstance(state, PairExplorer) else state or {}, chosen),
        )
        self.view.paths = {t: table[["left", "right"]].to_numpy(dtype=object) for t, table in self.pairs.items()}
        self.view.observe(self._write_code, ["test_set", "thresholds"])
        self._write_code()

    @classmethod
    def of_judged(
        cls, judged: Mapping[str, Sequence[JudgedRun]], names: Mapping[str, str], seed: int, **options: Any
    ) -> PairExplorer:
        """Explore the runs of one seed, as notebook 05 judges them.

        Args:
            judged: Method -> its judged runs, from `judge_methods`; the scores of the judged epoch are used.
            names: Method -> spelling.
            seed: The seed.
            options: Further arguments of the class.

        Returns:
            The explorer.

        Raises:
            ConfigError: No method has this seed, or a method misses on a test set.
        """
        scores = scores_of_seed(judged, names, seed)
        of_set = {t: j.pairs for runs in judged.values() for run in runs for t, j in run.judgements.items()}
        return cls(
            {test_set: of_set[test_set] for test_set in scores},
            {t: {run: one.cosine for run, one in by_run.items()} for t, by_run in scores.items()},
            thresholds={t: {run: one.threshold for run, one in by_run.items()} for t, by_run in scores.items()},
            **options,
        )

    @property
    def state(self) -> dict[str, Any]:
        """What is shown, as JSON holds it; give it to the next explorer."""
        return {"runs": self._runs, **{trait: getattr(self.view, trait) for trait in _STATE_TRAITS}}

    @property
    def threshold(self) -> dict[str, float]:
        """Run -> the threshold in use on the test set shown."""
        return dict(zip(self._runs, self.view.thresholds[self.view.test_set], strict=True))

    def rates(self, test_set: str | None = None) -> pd.DataFrame:
        """Give the errors of every run at the threshold in use, by cohort.

        Args:
            test_set: Name; None takes the one shown.

        Returns:
            Columns run, threshold and `RATE_COLUMNS`; one row a run and cohort, `all` first.

        Raises:
            ConfigError: An unknown test set.
        """
        name = self._test_set(test_set)
        tables = []
        for run, threshold in zip(self._runs, self.view.thresholds[name], strict=True):
            table = self._sorted[name, run].rates(threshold)
            table.insert(0, "threshold", threshold)
            table.insert(0, "run", run)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def errors_table(self, kind: str, run: str | None = None, test_set: str | None = None) -> pd.DataFrame:
        """List the pairs that a run gets wrong at the threshold in use, the most mistaken first.

        Args:
            kind: One of `ERROR_KINDS`.
            run: Name; None takes the one whose pairs are listed on the page.
            test_set: Name; None takes the one shown.

        Returns:
            The pairs with all their columns, and `cosine` and `cohort`; row numbers kept as index.

        Raises:
            ConfigError: An unknown kind, run or test set.
        """
        name, of_run = self._test_set(test_set), self.view.table_run if run is None else run
        if of_run not in self._runs:
            raise ConfigError(f"There is no run {of_run!r}; choose one of {', '.join(self._runs)}.")
        threshold = self.view.thresholds[name][self._runs.index(of_run)]
        scores = np.asarray(self.cosines[name][of_run], dtype=np.float32)
        rows = hardest_pairs(scores, self._same(name), kind)
        matches = scores[rows].astype(np.float64) >= threshold
        rows = rows[matches if kind == "false_match" else ~matches]
        cohorts = np.array(PAIR_COHORTS, dtype=object)[self._cohorts[name][rows]]
        return self.pairs[name].iloc[rows].assign(cosine=scores[rows], cohort=cohorts)

    def figure(self) -> LabelledFigure:
        """Draw the static figure of the test set shown, with the thresholds in use."""
        name, thresholds = self.view.test_set, self.threshold
        return score_distribution_figure(
            {
                name: {
                    run: JudgedScores(cosine=scores, same=self._same(name), threshold=thresholds[run])
                    for run, scores in self.cosines[name].items()
                }
            }
        )

    def _same(self, test_set: str) -> NDArray[np.bool_]:
        return self.pairs[test_set]["same"].to_numpy(dtype=bool)

    def _test_set(self, name: str | None) -> str:
        shown = self.view.test_set if name is None else name
        if shown not in self.pairs:
            raise ConfigError(f"There is no test set {shown!r}; choose one of {', '.join(self.pairs)}.")
        return shown

    def _packed(self) -> tuple[bytes, dict[str, Any]]:
        """All sorted scores in one row, and where each group begins."""
        parts: list[NDArray[np.float32]] = []
        groups: dict[str, Any] = {}
        start = 0
        for test_set in self.pairs:
            groups[test_set] = []
            for run in self._runs:
                of_run = self._sorted[test_set, run]
                places = []
                for impostor, genuine in zip(of_run.impostor, of_run.genuine, strict=True):
                    places.append([start, len(impostor), start + len(impostor), len(genuine)])
                    start += len(impostor) + len(genuine)
                    parts += [impostor, genuine]
                groups[test_set].append(places)
        return np.concatenate(parts).astype("<f4").tobytes(), groups

    def _hardest(self, test_set: str, run: str) -> dict[str, Any]:
        scores, cohorts = np.asarray(self.cosines[test_set][run], dtype=np.float32), self._cohorts[test_set]
        tables = {}
        for kind in ERROR_KINDS:
            order = hardest_pairs(scores, self._same(test_set), kind)
            first = [order[:HARDEST_SHOWN]]
            first += [order[cohorts[order] == code][:HARDEST_SHOWN] for code in range(len(PAIR_COHORTS))]
            listed = order[np.isin(order, np.concatenate(first))]
            rows = self.pairs[test_set].iloc[listed]
            tables[kind] = {
                "row": listed.tolist(),
                "cosine": [round(float(score), 6) for score in scores[listed]],
                "cohort": cohorts[listed].tolist(),
                **{side: [_text(v) for v in rows[f"{side}_identity"]] for side in ("left", "right")},
                **{
                    f"{side}_age": [_number_or_none(v) for v in rows[f"{side}_age_years"]] for side in ("left", "right")
                },
            }
        return tables

    def _from_state(self, state: Mapping[str, Any], chosen: Mapping[str, list[float | None]]) -> dict[str, Any]:
        """The traits that a state gives, without what is no longer there."""
        traits = {
            "test_set": next(iter(self.pairs)),
            "table_run": self._runs[0],
            **{trait: state[trait] for trait in ("cohort", "together") if trait in state},
        }
        if state.get("test_set") in self.pairs:
            traits["test_set"] = state["test_set"]
        if state.get("table_run") in self._runs:
            traits["table_run"] = state["table_run"]
        before = state.get("thresholds", {}) if list(state.get("runs", self._runs)) == self._runs else {}
        traits["thresholds"] = {
            t: before.get(t) or [self._begin(t, run, of) for run, of in zip(self._runs, chosen[t], strict=True)]
            for t in self.pairs
        }
        return traits

    def _begin(self, test_set: str, run: str, chosen: float | None) -> float:
        """The evaluation's threshold, or else the middle between the means of both classes."""
        if chosen is not None:
            return chosen
        scores, same = np.asarray(self.cosines[test_set][run], dtype=np.float64), self._same(test_set)
        means = [float(scores[part].mean()) for part in (same, ~same) if part.any()]
        return round(sum(means) / len(means), 4)

    def _write_code(self, _: Any = None) -> None:
        name, me = self.view.test_set, self._name
        lines = [
            "from interproto_lib.views import JudgedScores, save_figure, score_distribution_figure",
            "",
            self._made_by or f"# `{me}` is the explorer as the cell above made it.",
            f"thresholds = {self.threshold!r}",
            f'same = {me}.pairs[{name!r}]["same"].to_numpy(dtype=bool)',
            "figure = score_distribution_figure(",
            f"    {{{name!r}: {{",
            "        run: JudgedScores(cosine=cosine, same=same, threshold=thresholds[run])",
            f"        for run, cosine in {me}.cosines[{name!r}].items()",
            "    }}",
            ")",
            f'save_figure(figure, "figures", "{self.view.figure_name}")',
            "figure",
        ]
        self.view.code = "\n".join(lines)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.view._repr_mimebundle_(**kwargs)


def _checked_pairs(
    pairs: Mapping[str, pd.DataFrame], cosines: Mapping[str, Mapping[str, NDArray[np.floating]]]
) -> list[str]:
    """Give the names of the runs."""
    if not pairs or set(pairs) != set(cosines):
        raise ConfigError(
            f"Pairs and scores must be of the same test sets, at least one; got pairs of {', '.join(pairs) or 'none'} "
            f"and scores of {', '.join(cosines) or 'none'}."
        )
    runs = list(cosines[next(iter(pairs))])
    for test_set, table in pairs.items():
        missing = [column for column in SCORED_PAIR_COLUMNS if column not in table.columns]
        if missing:
            raise ConfigError(f"The pairs of {test_set} have no column {', '.join(missing)}.")
        if len(table) == 0:
            raise ConfigError(f"Test set {test_set} has no pairs; leave it out.")
        if not runs or list(cosines[test_set]) != runs:
            raise ConfigError(
                f"{test_set} has scores of the runs {', '.join(cosines[test_set]) or 'none'}, "
                f"not of {', '.join(runs) or 'any'}."
            )
        for run, scores in cosines[test_set].items():
            if np.shape(scores) != (len(table),):
                raise ConfigError(
                    f"{run}: scores of shape {np.shape(scores)} do not fit {len(table)} pairs of {test_set}."
                )
    return runs


def _number_or_none(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _text(value: Any) -> str:
    return "unknown" if pd.isna(value) else str(value)
