"""Budget to the baseline's accuracy: known truths, arms that never get there, and a baseline against itself."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from scipy import optimize

from insight_rl.compare import speedup
from insight_rl.compare.results import AXES, Curve
from insight_rl.compare.speedup import COLUMNS, kaplan_meier_median, speed_up_csv, speed_ups


def curve(accuracy, selector="arm", seed=0, scale=1.0):
    steps = 10.0 * np.arange(len(accuracy))
    budgets = {"steps": steps, "rollouts": 8 * steps, "tokens": 100 * scale * steps, "seconds": 0.5 * steps}
    nothing = np.full(len(accuracy), math.nan)
    return Curve(
        selector=selector, seed=seed, budgets=budgets, accuracy=np.array(accuracy), informative_fraction=nothing
    )


def noisy(rng, speed, *, num_seeds=10, gain=0.05, noise=0.01, selector="arm"):
    x = np.linspace(0, 1, 16)
    heights = 0.3 + gain * speed * x + rng.normal(0, noise, (num_seeds, 16))
    return {seed: curve(row, selector, seed) for seed, row in enumerate(heights)}


def find(found, axis="steps", target="final"):
    return next(each for each in found if (each.axis, each.target) == (axis, target))


def test_straight_lines_of_twice_the_slope_have_speed_up_two():
    baseline = {seed: curve(np.linspace(0.2, 0.4, 11), "base", seed) for seed in range(3)}
    arm = {seed: curve(np.linspace(0.2, 0.6, 11), "arm", seed, scale=4.0) for seed in range(3)}
    found = speed_ups(arm, baseline)
    assert [(each.axis, each.target) for each in found] == [(axis, t) for t in ("final", "best") for axis in AXES]
    for axis, ratio in {"steps": 2.0, "rollouts": 2.0, "tokens": 0.5, "seconds": 2.0}.items():
        each = find(found, axis)
        assert each.ratio == pytest.approx(ratio)
        assert (each.interval.low, each.interval.high) == pytest.approx((ratio, ratio))
    steps = find(found)
    assert (steps.level, steps.budget, steps.baseline_budget) == pytest.approx((0.4, 50.0, 100.0))
    assert (steps.num_reached, steps.seed_median, steps.verdict) == (3, pytest.approx(50.0), "faster")


def test_an_arm_that_never_reaches_the_level_has_a_bound_and_no_ratio():
    baseline = {seed: curve(np.linspace(0.2, 0.4, 11), "base", seed) for seed in range(3)}
    arm = {seed: curve(np.linspace(0.2, 0.3, 11), "arm", seed) for seed in range(3)}
    each = find(speed_ups(arm, baseline))
    assert (each.ratio, each.budget, each.seed_median, each.num_reached) == (None, None, None, 0)
    assert each.bound == pytest.approx(1.0)
    assert (each.interval.low, each.interval.high) == pytest.approx((0.0, 1.0))
    assert each.verdict == "not reached"


def test_only_seeds_of_both_arms_count():
    baseline = {seed: curve(np.linspace(0.2, 0.4, 11), "base", seed) for seed in (0, 1, 2)}
    arm = {seed: curve(np.linspace(0.2, 0.6, 11), "arm", seed) for seed in (1, 2, 7)}
    assert find(speed_ups(arm, baseline)).num_seeds == 2
    assert speed_ups({7: arm[7]}, baseline) == []


def test_one_seed_has_a_ratio_and_no_interval():
    each = find(speed_ups({0: curve(np.linspace(0.2, 0.6, 11))}, {0: curve(np.linspace(0.2, 0.4, 11), "base")}))
    assert each.ratio == pytest.approx(2.0)
    assert math.isnan(each.interval.low) and each.verdict == "not settled"


def test_a_level_that_the_start_has_counts_as_reached_at_the_first_evaluation():
    flat = {seed: curve(np.full(11, 0.3), "base", seed) for seed in range(3)}
    each = find(speed_ups({seed: curve(np.linspace(0.3, 0.5, 11), "arm", seed) for seed in range(3)}, flat))
    assert (each.budget, each.baseline_budget, each.ratio) == (10.0, 10.0, 1.0)


def test_the_baseline_against_itself_has_no_speed_up_where_raw_curves_show_one(monkeypatch):
    monkeypatch.setattr(speedup, "NUM_RESAMPLES", 200)
    rng = np.random.default_rng(0)
    raw, fitted, false_alarms = [], [], 0
    for _ in range(40):
        baseline = noisy(rng, 1, gain=0.015, selector="base")
        arm = noisy(rng, 1, gain=0.015)
        each = find(speed_ups(arm, baseline))
        fitted.append(each.ratio or 0.0)
        false_alarms += each.verdict == "faster"
        reached = [np.flatnonzero(arm[s].accuracy >= baseline[s].accuracy[-1]) for s in arm]
        raw.append(np.median([15 / max(index[0], 1) if len(index) else 0.0 for index in reached]))
    assert np.median(raw) > 2.5
    assert np.median(fitted) == pytest.approx(1.0, abs=0.25)
    assert false_alarms <= 3


def test_a_known_speed_up_is_found_and_covered(monkeypatch):
    monkeypatch.setattr(speedup, "NUM_RESAMPLES", 200)
    rng = np.random.default_rng(1)
    found = [find(speed_ups(noisy(rng, 2), noisy(rng, 1, selector="base"))) for _ in range(30)]
    assert np.median([each.ratio for each in found]) == pytest.approx(2.0, abs=0.12)
    assert sum(each.interval.holds(2.0) for each in found) >= 26
    assert sum(each.verdict == "faster" for each in found) >= 28


def test_seeds_may_have_other_numbers_of_evaluations_and_longer_curves_are_thinned():
    baseline = {seed: curve(np.linspace(0.2, 0.4, 101), "base", seed) for seed in range(3)}
    arm = {seed: curve(np.linspace(0.2, 0.6, 101), "arm", seed) for seed in range(2)}
    arm[2] = curve(np.linspace(0.2, 0.56, 91), "arm", 2)
    assert find(speed_ups(arm, baseline)).ratio == pytest.approx(2.0, rel=0.02)


def test_the_fit_is_the_nearest_non_decreasing_curve():
    # By the min-max formula: max over i <= k of the min over j >= k of the mean of values i..j.
    y = np.random.default_rng(0).normal(size=12)
    by_formula = [max(min(y[i : j + 1].mean() for j in range(k, 12)) for i in range(k + 1)) for k in range(12)]
    np.testing.assert_allclose(optimize.isotonic_regression(y).x, by_formula)


def test_kaplan_meier_median_on_a_worked_example():
    # Product limit by hand: deaths at 1, 3, 4 and 6 of 6, losses at 2 and 7: S = 5/6, 5/6 * 3/4 = .625, .4167 at 4.
    budgets = np.array([1.0, math.inf, 3.0, 4.0, 6.0, math.inf])
    ends = np.array([9.0, 2.0, 9.0, 9.0, 9.0, 7.0])
    assert kaplan_meier_median(budgets, ends) == 4.0
    assert kaplan_meier_median(np.array([1.0, math.inf, math.inf]), np.full(3, 9.0)) is None
    assert kaplan_meier_median(np.full(3, math.inf), np.full(3, 9.0)) is None


def test_the_csv_has_the_agreed_columns_and_empty_cells_where_nothing_is_known():
    baseline = {seed: curve(np.linspace(0.2, 0.4, 11), "base", seed) for seed in range(3)}
    quick = {seed: curve(np.linspace(0.2, 0.6, 11), "quick", seed) for seed in range(3)}
    slow = {seed: curve(np.linspace(0.2, 0.3, 11), "slow", seed) for seed in range(3)}
    text = speed_up_csv([("a", each) for arm in (quick, slow) for each in speed_ups(arm, baseline)])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 8
    assert rows[0] == {
        "setting": "a",
        "selector": "quick",
        "baseline": "base",
        "axis": "steps",
        "median": "2.0000",
        "low": "2.0000",
        "high": "2.0000",
        "seeds": "3",
    }
    assert (rows[4]["median"], rows[4]["low"], rows[4]["high"]) == ("", "0.0000", "1.0000")
