"""Verdicts from curves: known truths, equal budgets, runs that are left out, and what may never be said."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import stats

from insight_rl.compare import words
from insight_rl.compare.analysis import analyse, difference
from insight_rl.compare.report import pooled_curves
from insight_rl.compare.results import load_results
from insight_rl.errors import UsageError


def primary(analysis):
    return {each.selector: each for each in analysis.primary}


def test_known_truths_get_their_verdicts(comparison):
    analysis = analyse(load_results(comparison()))
    verdicts = {name: each.verdict for name, each in primary(analysis).items()}
    assert verdicts == {"quick": "better", "same": "level", "slow": "worse"}
    # Straight lines: half of the gain by the end, 0.04 * (2.5 - 1) / 2.
    assert primary(analysis)["quick"].mean == pytest.approx(0.03, abs=0.002)
    assert words.answer(analysis).startswith("Better than random: quick (+3.0")
    assert "Level with random within 1 point: same." in words.answer(analysis)
    assert "Worse: slow (-1.2" in words.answer(analysis)


def test_numbers_are_those_of_scipy(comparison):
    folder = comparison()
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = {}
    for name in ("random", "quick", "same", "slow"):
        for seed in range(8):
            own = [row for row in rows if (row["selector"], row["seed"]) == (name, str(seed))]
            x, y = ([float(row[key]) for row in own] for key in ("tokens", "accuracy"))
            scores.setdefault(name, []).append(np.trapezoid(y, x) / 100_000)
    found = primary(analyse(load_results(folder)))
    p = {name: stats.ttest_rel(scores[name], scores["random"]).pvalue for name in found}
    for name, each in found.items():
        assert each.mean == pytest.approx(np.mean(scores[name]) - np.mean(scores["random"]), abs=1e-9)
        assert each.p == pytest.approx(p[name], rel=1e-6)
        assert each.p_holm >= each.p
        assert each.deviation == pytest.approx(np.std(np.subtract(scores[name], scores["random"]), ddof=1))


def test_budgets_are_equal_on_every_axis(comparison):
    folder = comparison(tokens_per_step={"quick": 4000.0, "slow": 800.0})
    analysis = analyse(load_results(folder))
    assert analysis.budgets == {"steps": 100.0, "rollouts": 800.0, "tokens": 80_000.0, "seconds": 50.0}
    assert analysis.limits == {"tokens": "slow"}
    final = {axis: {d.selector: d for d in analysis.differences["final", axis]} for axis in analysis.budgets}
    # At 80k tokens quick is at step 20 and the baseline at step 80.
    assert final["tokens"]["quick"].mean == pytest.approx(0.04 * (2.5 * 0.2 - 0.8), abs=0.004)
    assert final["steps"]["quick"].mean == pytest.approx(0.04 * 1.5, abs=0.004)
    assert final["tokens"]["quick"].verdict == "worse" and final["steps"]["quick"].verdict == "better"


def test_an_arm_that_ends_long_before_the_others_does_not_shorten_them(comparison):
    analysis = analyse(load_results(comparison(tokens_per_step={"slow": 250.0})))
    assert analysis.budgets["tokens"] == 100_000 and analysis.early["tokens"] == {"slow": 25_000.0}
    found = primary(analysis)
    assert (found["slow"].budget, found["quick"].budget) == (25_000, 100_000)
    # slow has done 100 steps there, the baseline 25: areas of straight lines from the same start.
    assert found["slow"].mean == pytest.approx(0.04 * (0.4 - 0.25) / 2, abs=0.002)
    assert any("slow ends at 25k generated tokens" in text for text in words.warnings(analysis))


def test_a_simulation_has_neither_tokens_nor_seconds(comparison):
    folder = comparison(kind="simulate", primary={"metric": "final", "axis": "rollouts"})
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "tokens": ""} for row in rows)
    analysis = analyse(load_results(folder))
    assert set(analysis.budgets) == {"steps", "rollouts"}
    assert {each.axis for each in analysis.speed_ups} == {"steps", "rollouts"}
    assert primary(analysis)["quick"].verdict == "better"
    text = pooled_curves([analysis])
    assert text.splitlines()[1].startswith("b,random,0,0,0,,0,0.3")


def test_a_planned_axis_that_was_not_measured_is_refused(comparison):
    with pytest.raises(
        UsageError, match=r"primary\.axis='seconds': was not measured; there are steps, rollouts, tokens"
    ):
        analyse(load_results(comparison(kind="simulate", primary={"metric": "area", "axis": "seconds"})))


def test_failed_excluded_short_and_missing_runs_are_in_no_number_and_all_named(comparison):
    folder = comparison(exclusions={"quick_seed1": "the disk was full"})
    (folder / "status.json").write_text(json.dumps({"failed": {"same_seed2": "it stopped itself"}, "changes": ["x"]}))
    lines = (folder / "curves.csv").read_text().splitlines(keepends=True)
    gone = {("slow", "3"): lambda step: False, ("slow", "4"): lambda step: step <= 50}
    kept = [
        line for line in lines[1:] if gone.get(tuple(line.split(",")[1:3]), lambda _: True)(int(line.split(",")[3]))
    ]
    (folder / "curves.csv").write_text("".join([lines[0], *kept]))
    analysis = analyse(load_results(folder))
    assert words.missing_runs(analysis) == {
        "quick_seed1": "excluded by the plan: the disk was full",
        "same_seed2": "failed: it stopped itself",
        "slow_seed3": "not run, or not finished",
        "slow_seed4": "ended at 50% of its budget",
    }
    assert {name: each.num_seeds for name, each in primary(analysis).items()} == {"quick": 7, "same": 7, "slow": 6}
    assert analysis.budgets["steps"] == 100
    assert any("4 of 32 planned runs" in text for text in words.warnings(analysis))


def test_a_changed_plan_makes_everything_exploratory(comparison):
    folder = comparison()
    assert not any("Exploratory" in text for text in words.warnings(analyse(load_results(folder))))
    with (folder / "plan.yaml").open("a") as file:
        file.write("# changed\n")
    assert words.warnings(analyse(load_results(folder)))[0].startswith("Exploratory: plan.yaml does not have the hash")


def test_few_seeds_and_a_baseline_that_learns_nothing_are_warned_of(comparison):
    found = words.warnings(analyse(load_results(comparison(num_seeds=4, gain=0.0, noise=0.01))))
    assert any("Only 4 seeds" in text for text in found)
    assert any("did not clearly rise" in text for text in found)


def test_one_seed_settles_nothing(comparison):
    analysis = analyse(load_results(comparison(num_seeds=1)))
    assert {each.verdict for each in analysis.primary} == {"not settled"}
    assert words.answer(analysis) == (
        "No arm is shown to be better than random. Not settled by 1 seed: quick, same and slow."
    )


def test_arms_are_compared_with_insight_too(comparison):
    speeds = {"random": 1.0, "insight": 2.0, "expected_signal": 3.0}
    analysis = analyse(load_results(comparison(speeds=speeds)))
    against = {each.selector: each for each in analysis.against_insight}
    assert set(against) == {"random", "expected_signal"}
    assert against["expected_signal"].mean == pytest.approx(0.02, abs=0.002)
    assert analysis.speed_up("expected_signal", "steps", over="insight").ratio == pytest.approx(1.5, abs=0.1)
    assert analyse(load_results(comparison("d"))).against_insight == []


def test_the_interval_over_problems_is_wider_than_that_over_seeds(comparison):
    mean, interval, shared = analyse(load_results(comparison())).problem_intervals["quick"]
    assert shared and interval.low < mean < interval.high


def test_problem_intervals_need_the_same_problems_in_a_pair(comparison):
    folder = comparison()
    text = (folder / "problems.csv").read_text()
    (folder / "problems.csv").write_text(text.replace("b,quick,0,100,p3,", "b,quick,0,100,other,"))
    assert "quick" not in analyse(load_results(folder)).problem_intervals


DIFFERENCES = hs.lists(hs.floats(-0.05, 0.05), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(DIFFERENCES)
def test_better_is_never_said_of_an_interval_that_holds_0(differences):
    arm = dict(enumerate(0.3 + np.array(differences)))
    each = difference("arm", arm, dict.fromkeys(arm, 0.3), "area", "tokens", 1.0, 0.01)
    each = replace(each, p_holm=each.p, p_equivalent_holm=each.p_equivalent)
    if each.interval.holds(0.0) or each.bootstrap.holds(0.0):
        assert each.verdict in ("level", "not settled")
        assert "better" not in words.verdict_in_words(each) and "worse" not in words.verdict_in_words(each)
    if each.verdict == "better":
        assert each.interval.low > 0 and each.bootstrap.low > 0


def test_holm_can_take_a_verdict_back(comparison):
    each = primary(analyse(load_results(comparison())))["quick"]
    assert replace(each, p_holm=0.06).verdict == "not settled"


def test_an_unsettled_arm_says_how_many_seeds_it_needs():
    rng = np.random.default_rng(0)
    arm = dict(enumerate(0.3 + rng.normal(0.004, 0.02, 10)))
    each = difference("arm", arm, dict.fromkeys(arm, 0.3), "area", "tokens", 1.0, 0.01)
    each = replace(each, p_holm=each.p, p_equivalent_holm=each.p_equivalent)
    needed = each.seeds_needed
    # (1.96 + 0.84)^2 * (sd / effect)^2, plus about two for Student's t.
    assert needed == pytest.approx(7.85 * (each.deviation / 0.01) ** 2 + 2, abs=1.5)
    assert words.verdict_in_words(each) == f"not settled: {needed} seeds needed"


def test_what_is_wrong_in_a_folder_is_named(comparison, tmp_path):
    with pytest.raises(UsageError, match=r"report=.*is not a folder"):
        load_results(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"plan\.yaml: cannot be read \(FileNotFoundError\)"):
        load_results(tmp_path / "empty")
    folder = comparison()
    good = (folder / "curves.csv").read_text()
    for old, new, message in (
        ("accuracy", "accurate", "lacks the columns accuracy"),
        ("b,random,0,0,0,0.0,", "b,random,0,0,0,many,", r"line 2: tokens='many': must be a finite number"),
        ("b,random,0,0,0,0.0,", "b,random,0,0,0,,", "tokens of random, seed 0=.*must be known at every evaluation"),
        ("b,random,0,0,", "b,random,0,,", r"line 2: step=''.*is empty"),
        ("b,random,0,0,", "b,random,0.5,0,", r"line 2: seed='0.5'"),
        ("b,random,0,0,0,0.0,", "b,random,0,0,0,99.0e9,", "tokens of random, seed 0=.*not fall along a run"),
    ):
        (folder / "curves.csv").write_text(good.replace(old, new, 1))
        with pytest.raises(UsageError, match=message):
            load_results(folder)
    (folder / "curves.csv").write_text(good.splitlines()[0])
    with pytest.raises(UsageError, match="no run of setting b has come to an end"):
        load_results(folder)


def test_a_comparison_without_its_baseline_is_refused(comparison):
    folder = comparison()
    lines = (folder / "curves.csv").read_text().splitlines(keepends=True)
    (folder / "curves.csv").write_text("".join(line for line in lines if ",random," not in line))
    with pytest.raises(UsageError, match="baseline='random': has no run"):
        analyse(load_results(folder))
    (folder / "curves.csv").write_text("".join(line for line in lines if line is lines[0] or ",random," in line))
    with pytest.raises(UsageError, match="no other arm has a whole run at a seed of random yet"):
        analyse(load_results(folder))


def test_numbers_in_words():
    assert [words.count(value) for value in (7, 850.0, 12_345, 4_500_000)] == ["7", "850", "12.35k", "4.5M"]
    assert words.points(0.0124) == "+1.24" and words.points(math.nan) == "?"
    assert words.margin_name(0.01) == "1 point" and words.margin_name(0.005) == "0.5 points"
    assert words.p_value(0.0004) == "<0.001"
