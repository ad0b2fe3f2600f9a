"""The runs of several methods, scored on all test sets of a comparison, and judged by one procedure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from interproto_lib.analysis.evaluation import Judgement, judge_run
from interproto_lib.analysis.scores import PairScores, score_test_sets
from interproto_lib.config import EvaluationConfig
from interproto_lib.data.evaluation_sets import EvaluationSets
from interproto_lib.runs import RunFolder


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRun:
    """The scores of one run on all test sets of a comparison.

    Attributes:
        run: Name of the run.
        seed: Its seed.
        tests: Name of the test set -> its scores.
        validation: Name of the test set -> scores of the pairs that it is calibrated on.
    """

    run: str
    seed: int
    tests: Mapping[str, PairScores]
    validation: Mapping[str, PairScores]


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedRun:
    """What one run says of all test sets of a comparison.

    Attributes:
        run: Name of the run.
        seed: Its seed.
        judgements: Name of the test set -> judgement.
    """

    run: str
    seed: int
    judgements: Mapping[str, Judgement]


def score_methods(
    methods: Mapping[str, Sequence[RunFolder]],
    sets: EvaluationSets,
    *,
    evaluation: EvaluationConfig | None = None,
    device: str | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> dict[str, list[ScoredRun]]:
    """Score every run on every test set; scores that a run has already are read from its folder.

    Args:
        methods: Method -> its runs.
        sets: The test sets and what they are calibrated on.
        evaluation: How images are embedded; None takes the defaults.
        device: Where to compute; None takes each run's own setting.
        progress: Gives for the name of a run what is called with images done and all images, as
            `interproto_lib.progress.count_progress` does.

    Returns:
        Method -> its scored runs.

    Raises:
        ConfigError, DatasetError, RunError, WriteError: See `score_test_sets`.
    """
    scored: dict[str, list[ScoredRun]] = {}
    for method, runs in methods.items():
        scored[method] = []
        for run in runs:
            scores = score_test_sets(
                run,
                sets.all_sets,
                evaluation=evaluation,
                device=device,
                progress=None if progress is None else progress(run.name),
            )
            scored[method].append(
                ScoredRun(
                    run=run.name,
                    seed=run.seed,
                    tests={name: scores[one.name] for name, one in sets.tests.items()},
                    validation={name: scores[one.name] for name, one in sets.validation.items()},
                )
            )
    return scored


def judge_methods(
    scored: Mapping[str, Sequence[ScoredRun]], evaluation: EvaluationConfig
) -> dict[str, list[JudgedRun]]:
    """Judge every run by the same procedure.

    Args:
        scored: Method -> its scored runs.
        evaluation: How threshold and epoch are chosen.

    Returns:
        Method -> its judged runs.

    Raises:
        RunError: An epoch is to be chosen, but a run kept none or there are no validation pairs.
    """
    return {
        method: [
            JudgedRun(run=one.run, seed=one.seed, judgements=judge_run(one.tests, one.validation, evaluation))
            for one in runs
        ]
        for method, runs in scored.items()
    }
