"""The pair explorer as a person sees it: moving thresholds, rates, hardest pairs, pictures, dark pages, large text."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from test_projection_map import show  # noqa: F401 (a fixture)

from interproto_lib.views.explorer.pair_counts import PAIR_COHORTS, SortedScores, pair_cohorts
from interproto_lib.views.explorer.pair_explorer import PairExplorer

RUNS = ("ArcFace", "Inter-Prototype")


def some_pairs(m, seed):
    rng = np.random.default_rng(seed)
    same = rng.random(m) < 0.4
    ages = rng.uniform(1, 60, (2, m))
    ages[0, ::9] = np.nan
    return pd.DataFrame(
        {
            "left": [f"{i}a.png" for i in range(m)],
            "right": [f"{i}b.png" for i in range(m)],
            "left_identity": [f"id{i % 41}" for i in range(m)],
            "right_identity": [f"id{i % 41 if same[i] else (i + 3) % 41}" for i in range(m)],
            "left_age_years": ages[0],
            "right_age_years": ages[1],
            "same": same,
        }
    )


def explorer(m=2000, **options):
    pairs = {"C20": some_pairs(m, 0), "any": some_pairs(m // 2, 1)}
    rng = np.random.default_rng(2)
    spread = {"ArcFace": 0.2, "Inter-Prototype": 0.15}
    scores = {
        name: {run: 0.5 * table["same"] + spread[run] * rng.normal(size=len(table)) for run in RUNS}
        for name, table in pairs.items()
    }
    thresholds = {"C20": {"ArcFace": 0.25, "Inter-Prototype": 0.3}}
    return PairExplorer(pairs, scores, **{"thresholds": thresholds, **options})


def shown_rates(page, run):
    """Cohort -> (false matches, pairs of two), (false non-matches, pairs of one), as the table's cells say."""
    rows = page.evaluate(
        """(run) => here.pairsView.columns[run].rows.map(({name, fmr, fnmr, accuracy}) =>
            [name, fmr.title, fnmr.title, accuracy.textContent])""",
        run,
    )
    numbers = [(name, *(re.findall(r"[\d,]+", text) for text in titles), acc) for name, *titles, acc in rows]
    return {
        name: ([int(n.replace(",", "")) for n in fm], [int(n.replace(",", "")) for n in fnm], acc)
        for name, fm, fnm, acc in numbers
    }


def move(page, run, value):
    page.evaluate("([run, value]) => here.pairsView.moveThreshold(run, value)", [run, value])
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def thresholds(page, test_set="C20"):
    return page.evaluate("(name) => window.model.get('thresholds')[name]", test_set)


# --- numbers --------------------------------------------------------------------------------------


def test_the_page_counts_as_numpy_does_at_any_threshold(show):  # noqa: F811
    one = explorer()
    page = show(one.view)
    table = one.pairs["C20"]
    cohorts = pair_cohorts(table["left_age_years"], table["right_age_years"])
    for place, run in enumerate(RUNS):
        scores = one.cosines["C20"][run].to_numpy(np.float32)
        counted = SortedScores.of(scores, table["same"], cohorts)
        for threshold in (-1.0, 0.1234, float(scores[17]), 0.5, 3.0):
            move(page, place, threshold)
            shown = shown_rates(page, place)
            for row in counted.rates(threshold).itertuples():
                matches, missed, accuracy = shown[row.cohort]
                assert matches == [row.n_false_matches, row.n_impostor]
                assert missed == [row.n_false_non_matches, row.n_genuine]
                assert float(accuracy.split()[0]) == pytest.approx(100 * row.accuracy, abs=0.051)


@pytest.mark.parametrize("cohort", ["all", "child-adult"])
def test_the_distributions_are_the_histograms_of_numpy(show, cohort):  # noqa: F811
    one = explorer()
    page = show(one.view)
    page.get_by_label("Show", exact=True).select_option(cohort)
    page.wait_for_timeout(100)
    low, high = page.evaluate("() => [here.pairsView.low, here.pairsView.high]")
    table = one.pairs["C20"]
    codes = pair_cohorts(table["left_age_years"], table["right_age_years"])
    members = np.ones(len(table), bool) if cohort == "all" else codes == PAIR_COHORTS.index(cohort)
    scores = one.cosines["C20"]["ArcFace"].to_numpy(np.float32).astype(np.float64)
    edges = np.linspace(low, high, 61)
    expected = []
    for is_same in (False, True):
        counts, _ = np.histogram(scores[members & (table["same"] == is_same)], edges)
        expected.append(counts / counts.sum())
    top = max(part.max() for part in expected)
    for name, shares in zip((".ip-chart .ip-impostor", ".ip-chart .ip-genuine"), expected, strict=True):
        path = page.locator(name).first.get_attribute("d")
        heights = [float(y) for y in re.findall(r"L[\d.]+ ([\d.]+)", path)]
        heights = heights[: 2 * 60 : 2]
        np.testing.assert_allclose((166 - np.array(heights)) / 140, shares / top, atol=0.002)


def test_thresholds_move_together_as_chosen(show):  # noqa: F811
    page = show(explorer().view)
    move(page, 0, 0.1)
    assert thresholds(page) == [0.1, 0.3]
    page.get_by_label("Thresholds move").select_option("threshold")
    move(page, 1, 0.22)
    assert thresholds(page) == [0.22, 0.22]
    page.get_by_label("Thresholds move").select_option("fmr")
    for value in (0.05, 0.4, 2.0):
        move(page, 0, value)
        matches = [shown_rates(page, run)["all"][0] for run in (0, 1)]
        assert matches[0] == matches[1]


# --- moving the threshold -------------------------------------------------------------------------


def test_slider_number_box_chart_and_the_way_back(show):  # noqa: F811
    page = show(explorer().view)
    slider = page.get_by_label("Threshold of ArcFace", exact=True)
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert thresholds(page)[0] == pytest.approx(0.261)
    box = page.get_by_label("Threshold of ArcFace as a number")
    expect(box).to_have_value("0.261")
    box.fill("0.4")
    box.press("Enter")
    assert thresholds(page)[0] == 0.4
    expect(page.locator(".ip-chart text", has_text="threshold 0.400")).to_be_visible()
    chart = page.locator(".ip-chart").first
    area = chart.bounding_box()
    page.mouse.click(area["x"] + 14 + 0.75 * (area["width"] - 28), area["y"] + 80)
    low, high = page.evaluate("() => [here.pairsView.low, here.pairsView.high]")
    assert thresholds(page)[0] == pytest.approx(low + 0.75 * (high - low), abs=0.01)
    page.get_by_role("button", name="Back to the evaluation's 0.250").click()
    assert thresholds(page)[0] == 0.25
    assert "accuracy" in chart.get_attribute("aria-label")
    page.get_by_label("Test set").select_option("any")
    expect(page.get_by_role("button", name="The evaluation chose none").first).to_be_disabled()


def test_a_hundred_thousand_pairs_follow_the_hand(show):  # noqa: F811
    page = show(explorer(m=100_000).view)
    times = []
    for threshold in np.linspace(-0.3, 0.8, 40):
        move(page, 0, float(threshold))
        times.append(page.evaluate("() => here.pairsView.lastUpdateMs"))
    assert np.median(times) < 50


# --- hardest pairs --------------------------------------------------------------------------------


def test_hardest_pairs_are_listed_sorted_filtered_and_chosen(show):  # noqa: F811
    one = explorer()
    page = show(one.view)
    page.get_by_label("Hardest pairs of").select_option("Inter-Prototype")
    move(page, 1, 0.2)
    listed = page.get_by_role("table", name="False matches").locator("tbody tr")
    scores = one.cosines["C20"]["Inter-Prototype"].to_numpy(np.float32)
    table = one.pairs["C20"]
    order = [row for row in np.argsort(-scores, kind="stable") if not table["same"][row] and scores[row] >= 0.2]
    assert listed.count() == 50
    expect(page.get_by_text(f"False matches: the 50 hardest of {len(order)}")).to_be_visible()
    assert listed.nth(1).locator("td").nth(1).inner_text() == table["left_identity"][order[1]]
    page.get_by_role("table", name="False matches").get_by_role("button", name="left").click()
    names = listed.locator("td:nth-child(2)").all_inner_texts()
    assert names == sorted(names, key=lambda name: int(name[2:]))
    assert page.get_by_role("columnheader", name="left").first.get_attribute("aria-sort") == "ascending"
    page.get_by_label("Show", exact=True).select_option("child-child")
    page.wait_for_timeout(100)
    assert set(listed.locator("td:nth-child(6)").all_inner_texts()) == {"child – child"}
    listed.first.focus()
    page.keyboard.press("Enter")
    pair = page.evaluate("() => window.model.get('pair')")
    assert (pair["test_set"], pair["run"]) == ("C20", "Inter-Prototype")
    assert table["left_identity"][pair["row"]] == pair["left"]
    assert not table["same"][pair["row"]]
    expect(page.get_by_text("Pictures are drawn only with show_faces=True.")).to_be_visible()
    assert not [message for message in page.evaluate("() => window.sent") if message["type"] == "faces"]


def test_no_errors_are_said_to_be_none(show):  # noqa: F811
    page = show(explorer().view)
    move(page, 0, 5.0)
    expect(page.get_by_role("table", name="False matches")).to_contain_text("None at this threshold.")


# --- how it looks, and the kernel -----------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "zoom"), [("light", 1), ("dark", 2)])
def test_dark_pages_and_large_text(show, screenshots, scheme, zoom):  # noqa: F811
    page = show(explorer().view, scheme=scheme, zoom=zoom)
    page.wait_for_timeout(150)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for text in ("accuracy", "FNMR", "child – adult"):
        expect(page.locator("table").get_by_text(text, exact=True).first).to_be_visible()
    screenshots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=screenshots / f"pairs_{scheme}.png", full_page=True)
