"""The pair explorer without a page: counts against numpy and scikit-learn, hardest pairs, figure, code, pictures."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from PIL import Image

from interproto_lib.analysis.evaluation import Judgement
from interproto_lib.analysis.scored_runs import JudgedRun
from interproto_lib.errors import ConfigError, DatasetError
from interproto_lib.views import JudgedScores, score_distribution_figure
from interproto_lib.views.explorer.live_view import figure_bytes
from interproto_lib.views.explorer.pair_counts import PAIR_COHORTS, SortedScores, hardest_pairs, pair_cohorts
from interproto_lib.views.explorer.pair_explorer import HARDEST_SHOWN, PairExplorer

RUNS = ("ArcFace", "Inter-Prototype")


def some_pairs(m=400, seed=0):
    rng = np.random.default_rng(seed)
    same = rng.random(m) < 0.4
    ages = rng.uniform(1, 60, (2, m))
    ages[:, rng.random(m) < 0.1] = np.nan
    left = rng.integers(0, 30, m)
    right = np.where(same, left, (left + 1 + rng.integers(0, 29, m)) % 30)
    return pd.DataFrame(
        {
            "left": [f"id{i:02d}/{k}.png" for k, i in enumerate(left)],
            "right": [f"id{i:02d}/{k}b.png" for k, i in enumerate(right)],
            "left_identity": [f"id{i:02d}" for i in left],
            "right_identity": [f"id{i:02d}" for i in right],
            "left_age_years": ages[0],
            "right_age_years": ages[1],
            "same": same,
            "camera": 1,
        }
    )


def some_scores(pairs, seed=1):
    rng = np.random.default_rng(seed)
    return {run: (0.4 * pairs["same"] + 0.2 * rng.normal(size=len(pairs))).to_numpy(np.float32) for run in RUNS}


def explorer(**options):
    pairs = {"C20": some_pairs(), "any": some_pairs(251, seed=5)}
    scores = {name: some_scores(table, seed=len(table)) for name, table in pairs.items()}
    thresholds = {"C20": {"ArcFace": 0.21, "Inter-Prototype": None}}
    return PairExplorer(pairs, scores, **{"thresholds": thresholds, **options})


@pytest.fixture
def answers(monkeypatch):
    def ask(widget, message):
        sent = []
        monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append((content, buffers)))
        widget._handle_custom_msg(message, [])
        return sent

    return ask


# --- counting -------------------------------------------------------------------------------------


def cohort_of(a, b):
    if np.isnan(a) or np.isnan(b):
        return "other"
    kinds = sorted("child" if age < 13 else "adult" if age >= 18 else "between" for age in (a, b))
    return {
        ("child", "child"): "child-child",
        ("adult", "child"): "child-adult",
        ("adult", "adult"): "adult-adult",
    }.get(tuple(kinds), "other")


def test_cohorts_equal_the_rule_pair_by_pair():
    ages = [1.0, 12.99, 13.0, 17.99, 18.0, 40.0, np.nan]
    left, right = (side.ravel() for side in np.meshgrid(ages, ages))
    found = [PAIR_COHORTS[code] for code in pair_cohorts(left, right)]
    assert found == [cohort_of(a, b) for a, b in zip(left, right, strict=True)]


def test_cohorts_with_ages_of_ones_own_and_ages_that_overlap():
    assert pair_cohorts([14], [15], child_below_years=16, adult_from_years=16).tolist() == [0]
    with pytest.raises(ConfigError, match="overlap"):
        pair_cohorts([1], [2], child_below_years=20)
    with pytest.raises(ConfigError, match="do not fit"):
        pair_cohorts([1], [2, 3])


def brute_force(scores, same, cohorts, threshold):
    """Rates by loops over the pairs, in float64."""
    result = {}
    for name in ("all", *PAIR_COHORTS):
        counts = dict.fromkeys(("n_genuine", "n_impostor", "n_false_matches", "n_false_non_matches"), 0)
        for score, genuine, code in zip(scores.tolist(), same, cohorts, strict=True):
            if name not in ("all", PAIR_COHORTS[code]):
                continue
            counts["n_genuine" if genuine else "n_impostor"] += 1
            if genuine and score < threshold:
                counts["n_false_non_matches"] += 1
            if not genuine and score >= threshold:
                counts["n_false_matches"] += 1
        result[name] = counts
    return result


@pytest.mark.parametrize("threshold", [-2.0, -0.1, 0.0, 0.2, 0.333, 2.0])
def test_rates_equal_brute_force_and_scikit_learn(threshold):
    pairs = some_pairs()
    scores, same = some_scores(pairs)["ArcFace"], pairs["same"].to_numpy()
    cohorts = pair_cohorts(pairs["left_age_years"], pairs["right_age_years"])
    table = SortedScores.of(scores, same, cohorts).rates(threshold).set_index("cohort")
    for name, counts in brute_force(scores, same, cohorts, threshold).items():
        row = table.loc[name]
        assert {key: row[key] for key in counts} == counts
        members = np.ones(len(pairs), bool) if name == "all" else cohorts == PAIR_COHORTS.index(name)
        matches = scores[members].astype(np.float64) >= threshold
        assert row["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(same[members], matches))
        (tn, fp), (fn, tp) = sklearn.metrics.confusion_matrix(same[members], matches, labels=[False, True])
        assert row["fmr"] == pytest.approx(fp / (fp + tn))
        assert row["fnmr"] == pytest.approx(fn / (fn + tp))


def test_a_score_that_equals_the_threshold_matches_and_the_next_does_not():
    scores = np.array([0.3, np.nextafter(np.float32(0.3), np.float32(1))], np.float32)
    scores = np.concatenate([scores, scores])
    same = np.array([True, True, False, False])
    sorted_scores = SortedScores.of(scores, same, np.zeros(4, np.int8))
    at = sorted_scores.rates(float(scores[0])).iloc[0]
    assert (at["n_false_non_matches"], at["n_false_matches"]) == (0, 2)
    above = sorted_scores.rates(float(scores[1])).iloc[0]
    assert (above["n_false_non_matches"], above["n_false_matches"]) == (1, 1)


def test_a_cohort_without_pairs_has_no_rate():
    table = SortedScores.of(np.array([0.1, 0.9]), np.array([False, True]), np.array([2, 2])).rates(0.5)
    table = table.set_index("cohort")
    assert table.loc["child-child", ["accuracy", "fmr", "fnmr"]].isna().all()
    assert table.loc["adult-adult", ["accuracy", "fmr", "fnmr"]].tolist() == [1, 0, 0]


def test_scores_that_cannot_be_sorted_are_refused():
    with pytest.raises(ConfigError, match="finite"):
        SortedScores.of([0.1, np.nan], [True, False], np.zeros(2, int))
    with pytest.raises(DatasetError):
        SortedScores.of([0.1, 0.2], [True, True], np.zeros(2, int))
    with pytest.raises(ConfigError, match="cohorts do not fit"):
        SortedScores.of([0.1, 0.2], [True, False], np.zeros(3, int))


@pytest.mark.parametrize("kind", ["false_match", "false_non_match"])
def test_the_hardest_pairs_come_first_and_ties_keep_their_order(kind):
    scores = np.array([0.5, 0.1, 0.5, 0.9, 0.3, 0.5, 0.2, 0.1])
    same = np.array([False, True, False, True, False, True, True, True])
    expected = {"false_match": [0, 2, 4], "false_non_match": [1, 7, 6, 5, 3]}[kind]
    assert hardest_pairs(scores, same, kind).tolist() == expected
    assert hardest_pairs(scores, same, kind, n=2).tolist() == expected[:2]


def test_an_unknown_kind_of_error_is_refused():
    with pytest.raises(ConfigError, match="false_match, false_non_match"):
        hardest_pairs(np.zeros(2), np.array([True, False]), "mistake")


# --- what the page gets ---------------------------------------------------------------------------


def test_the_page_gets_every_score_sorted_in_its_group():
    one = explorer()
    packed = np.frombuffer(one.view.scores, "<f4")
    seen = np.zeros(len(packed), int)
    for name, table in one.pairs.items():
        cohorts = pair_cohorts(table["left_age_years"], table["right_age_years"])
        for place, run in enumerate(RUNS):
            for code, (impostor, n_impostor, genuine, n_genuine) in enumerate(one.view.groups[name][place]):
                for start, n, is_same in ((impostor, n_impostor, False), (genuine, n_genuine, True)):
                    members = (table["same"] == is_same).to_numpy() & (cohorts == code)
                    np.testing.assert_array_equal(packed[start : start + n], np.sort(one.cosines[name][run][members]))
                    seen[start : start + n] += 1
    assert (seen == 1).all()


def test_the_page_lists_the_hardest_of_every_cohort():
    one = explorer()
    table, scores = one.pairs["C20"], one.cosines["C20"]["Inter-Prototype"]
    cohorts = pair_cohorts(table["left_age_years"], table["right_age_years"])
    listed = one.view.hardest["C20"][1]["false_match"]
    assert listed["cosine"] == sorted(listed["cosine"], reverse=True)
    for code in range(len(PAIR_COHORTS)):
        order = [row for row in np.argsort(-scores, kind="stable") if not table["same"][row] and cohorts[row] == code]
        shown = [row for row, of in zip(listed["row"], listed["cohort"], strict=True) if of == code]
        assert shown[:HARDEST_SHOWN] == order[: len(shown)][:HARDEST_SHOWN]
        assert len(shown) >= min(HARDEST_SHOWN, len(order))
    first = listed["row"][0]
    assert listed["left"][0] == table["left_identity"][first]
    assert listed["right_age"][0] == (
        None if np.isnan(table["right_age_years"][first]) else table["right_age_years"][first]
    )


def test_thresholds_begin_where_the_evaluation_chose_or_between_the_means():
    one = explorer()
    assert one.view.thresholds["C20"][0] == 0.21
    scores, same = one.cosines["C20"]["Inter-Prototype"], one.pairs["C20"]["same"]
    middle = (scores[same].mean() + scores[~same].mean()) / 2
    assert one.view.thresholds["C20"][1] == pytest.approx(middle, abs=1e-4)
    assert one.view.chosen_thresholds == {"C20": [0.21, None], "any": [None, None]}


def test_rates_and_errors_follow_the_thresholds_of_the_page():
    one = explorer()
    one.view.thresholds = {**one.view.thresholds, "any": [0.1, 0.35]}
    one.view.test_set = "any"
    assert one.threshold == {"ArcFace": 0.1, "Inter-Prototype": 0.35}
    table, scores = one.pairs["any"], one.cosines["any"]["Inter-Prototype"].astype(np.float64)
    rates = one.rates().set_index(["run", "cohort"])
    wrong = ~table["same"].to_numpy() & (scores >= 0.35)
    assert rates.loc[("Inter-Prototype", "all"), "n_false_matches"] == wrong.sum()
    assert rates.loc[("Inter-Prototype", "all"), "threshold"] == 0.35
    matches = one.errors_table("false_match", "Inter-Prototype")
    assert set(matches.index) == set(np.flatnonzero(wrong))
    assert matches["cosine"].is_monotonic_decreasing
    assert matches["camera"].eq(1).all()
    missed = one.errors_table("false_non_match", "Inter-Prototype", "any")
    assert set(missed.index) == set(np.flatnonzero(table["same"] & (scores < 0.35)))
    assert missed["cohort"].isin(PAIR_COHORTS).all()
    for bad in ({"run": "nobody"}, {"test_set": "LFW"}):
        with pytest.raises(ConfigError, match="There is no"):
            one.errors_table("false_match", **bad)


def test_state_survives_in_another_explorer():
    first = explorer()
    first.view.set_trait("test_set", "any")
    first.view.set_trait("cohort", "child-child")
    first.view.set_trait("together", "fmr")
    first.view.set_trait("table_run", "Inter-Prototype")
    first.view.set_trait("thresholds", {"C20": [0.1, 0.2], "any": [0.3, 0.4]})
    again = explorer(state=first)
    assert again.state == first.state
    only = PairExplorer(
        {"any": first.pairs["any"]}, {"any": {"ArcFace": first.cosines["any"]["ArcFace"]}}, state=first.state
    )
    assert (only.view.test_set, only.view.table_run) == ("any", "ArcFace")
    assert len(only.view.thresholds["any"]) == 1


# --- figure, code, pictures -----------------------------------------------------------------------


def test_the_copied_code_draws_the_figure_that_is_saved(tmp_path, monkeypatch, answers):
    monkeypatch.chdir(tmp_path)
    one = explorer()
    one.view.thresholds = {**one.view.thresholds, "C20": [0.125, 0.3]}
    space = {"explorer": one}
    exec(one.view.code, space)
    same = one.pairs["C20"]["same"].to_numpy()
    of_runs = {
        run: JudgedScores(cosine=one.cosines["C20"][run], same=same, threshold=threshold)
        for run, threshold in zip(RUNS, (0.125, 0.3), strict=True)
    }
    expected = figure_bytes(score_distribution_figure({"C20": of_runs}), "svg")
    assert figure_bytes(space["figure"], "svg") == expected
    [(content, buffers)] = answers(one.view, {"type": "save_figure", "format": "svg"})
    assert content["name"] == "pair_scores.svg"
    assert buffers == [expected]


def picture(path):
    return np.full((8, 6, 3), 7 if path.endswith("b.png") else 200, dtype=np.uint8)


def test_pictures_are_sent_only_where_they_may_be_shown(answers):
    asked = {"type": "faces", "test_set": "C20", "row": 3}
    assert answers(explorer(read_image=picture).view, asked) == []
    one = explorer(read_image=picture, show_faces=True)
    [(content, buffers)] = answers(one.view, asked)
    assert content == asked
    pictures = [np.asarray(Image.open(io.BytesIO(buffer))) for buffer in buffers]
    np.testing.assert_array_equal(pictures[0], picture("a.png"))
    np.testing.assert_array_equal(pictures[1], picture("b.png"))


@pytest.mark.parametrize("change", [{"row": -1}, {"row": 400}, {"row": "3"}, {"row": None}, {"test_set": "LFW"}])
def test_pictures_of_pairs_that_are_not_there_are_not_sent(answers, change):
    one = explorer(read_image=picture, show_faces=True)
    assert answers(one.view, {"type": "faces", "test_set": "C20", "row": 3, **change}) == []


def test_a_picture_that_cannot_be_read_is_a_message_on_the_page(answers):
    def fail(path):
        raise DatasetError(f"{path} cannot be read")

    [(content, _)] = answers(
        explorer(read_image=fail, show_faces=True).view, {"type": "faces", "test_set": "C20", "row": 0}
    )
    assert content["type"] == "problem"
    assert "cannot be read" in content["text"]


def test_runs_as_notebook_5_judges_them():
    pairs = some_pairs()
    scores = some_scores(pairs)
    judged = {
        method: [
            JudgedRun(
                run=f"{method}-s{seed}",
                seed=seed,
                judgements={
                    "C20": Judgement(
                        test_set="C20",
                        pairs=pairs,
                        epoch=1,
                        scores=scores[name] + np.float32(seed),
                        threshold=0.2 + seed,
                        correct=None,
                    )
                },
            )
            for seed in (0, 1)
        ]
        for method, name in (("arcface", "ArcFace"), ("interproto", "Inter-Prototype"))
    }
    names = {"arcface": "ArcFace", "interproto": "Inter-Prototype"}
    one = PairExplorer.of_judged(judged, names, 1)
    assert one.threshold == {"ArcFace": 1.2, "Inter-Prototype": 1.2}
    np.testing.assert_array_equal(one.cosines["C20"]["Inter-Prototype"], scores["Inter-Prototype"] + np.float32(1))
    with pytest.raises(ConfigError, match="same test sets"):
        PairExplorer.of_judged(judged, names, 7)


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "scores", "match"),
    [
        ({}, {}, "at least one"),
        ({"a": some_pairs()}, {"b": some_scores(some_pairs())}, "pairs of a and scores of b"),
        ({"a": some_pairs().drop(columns="same")}, {"a": some_scores(some_pairs())}, "no column same"),
        ({"a": some_pairs().iloc[:0]}, {"a": {}}, "has no pairs"),
        ({"a": some_pairs()}, {"a": {}}, "scores of the runs none"),
        ({"a": some_pairs()}, {"a": {"ArcFace": np.zeros(3)}}, r"\(3,\) do not fit 400 pairs"),
        ({"a": some_pairs()}, {"a": {"ArcFace": np.full(400, np.nan)}}, "finite"),
    ],
)
def test_what_does_not_fit_is_refused(pairs, scores, match):
    with pytest.raises(ConfigError, match=match):
        PairExplorer(pairs, scores)


def test_faces_need_a_reader():
    with pytest.raises(ConfigError, match="read_image"):
        explorer(show_faces=True)
