"""Tables from records whose figures are counted by hand."""

import csv

import pytest

from insight_rl.compare.tables import (
    CURVES,
    cost_row,
    curve_rows,
    primary_value,
    problem_rows,
    simulated_cost_row,
    write_csv,
)

NAMES = {"setting": "b", "arm": "insight", "seed": 3}


def record(step, *, groups=0, informative=None, accuracy=None, **more):
    found = (
        {"step": step, "gate/num_groups": groups, "selector/informative_fraction": informative} if step else {"step": 0}
    )
    return found | ({"eval/accuracy": accuracy} if accuracy is not None else {}) | more


RECORDS = [
    record(0, accuracy=0.25),
    record(
        1,
        groups=8,
        informative=0.5,
        **{"rollout/num_rollouts": 32, "rollout/num_tokens": 300, "time/device_s": 1.5, "time/select_s": 0.25},
    ),
    # A step of dynamic sampling rolls out three times as many groups: they count by their number.
    record(
        2,
        groups=24,
        informative=0.25,
        accuracy=0.5,
        **{
            "rollout/num_rollouts": 128,
            "rollout/num_tokens": 1200,
            "time/device_s": 4.0,
            "time/select_s": 0.5,
            "selector/brier": 0.2,
            "learner/num_extra_forwards": 7,
        },
    ),
    record(
        3,
        groups=8,
        informative=0.0,
        accuracy=0.75,
        **{"rollout/num_rollouts": 160, "rollout/num_tokens": 1500, "time/device_s": 5.0, "selector/brier": 0.1},
    ),
]


def test_a_curve_has_a_row_per_evaluation():
    rows = curve_rows(RECORDS, **NAMES)
    assert [tuple(row[key] for key in CURVES) for row in rows] == [
        ("b", "insight", 3, 0, 0, 0, 0.0, 0.25, None),
        # (0.5 * 8 + 0.25 * 24) / 32
        ("b", "insight", 3, 2, 128, 1200, 4.0, 0.5, 0.3125),
        ("b", "insight", 3, 3, 160, 1500, 5.0, 0.75, 0.0),
    ]


def test_costs_are_totals_and_means_by_groups():
    row = cost_row(RECORDS, **NAMES)
    assert (row["steps"], row["rollouts"], row["tokens"], row["device_seconds"]) == (3, 160, 1500, 5.0)
    assert (row["extra_forwards"], row["select_seconds"], row["coverage"]) == (7, 0.75, None)
    assert row["brier"] == pytest.approx((0.2 * 24 + 0.1 * 8) / 32)
    assert row["wasted_fraction"] == pytest.approx(1 - (0.5 * 8 + 0.25 * 24) / 40)


def test_a_simulated_run_has_the_costs_that_it_knows():
    rows = [
        {"step": 0, "rollouts": 0, "tokens": None, "seconds": 0.0, "accuracy": 0.1, "informative_fraction": None},
        {"step": 5, "rollouts": 100, "tokens": None, "seconds": 0.5, "accuracy": 0.2, "informative_fraction": 0.8},
        {"step": 10, "rollouts": 400, "tokens": None, "seconds": 0.9, "accuracy": 0.3, "informative_fraction": 0.4},
    ]
    row = simulated_cost_row(rows, **NAMES)
    assert (row["steps"], row["rollouts"], row["select_seconds"], row["tokens"]) == (10, 400, 0.9, None)
    assert row["wasted_fraction"] == pytest.approx(0.5)


def test_problems_are_those_of_the_last_evaluation():
    evaluations = [
        {"step": 0, "samples": 4, "successes": {"x": 0, "y": 1}},
        {"step": 3, "samples": 4, "successes": {"x": 4, "y": 2}},
    ]
    rows = problem_rows(evaluations, **NAMES)
    assert [(row["step"], row["problem"], row["successes"], row["samples"]) for row in rows] == [
        (3, "x", 4, 4),
        (3, "y", 2, 4),
    ]
    assert problem_rows([], **NAMES) == []


def test_the_area_is_the_mean_over_the_axis():
    rows = curve_rows(RECORDS, **NAMES)
    # Steps 0, 2, 3: (0.375 * 2 + 0.625 * 1) / 3
    assert primary_value(rows, metric="area", axis="steps") == pytest.approx(1.375 / 3)
    assert primary_value(rows, metric="area", axis="tokens") == pytest.approx((0.375 * 1200 + 0.625 * 300) / 1500)
    assert primary_value(rows, metric="final", axis="tokens") == 0.75
    assert primary_value(rows[:1], metric="area", axis="steps") == 0.25


def test_an_unknown_cell_is_empty(tmp_path):
    write_csv(tmp_path / "t.csv", ("a", "b"), [{"a": None, "b": 1 / 3}, {"a": "x,y", "b": 2}])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["", "0.333333"], ["x,y", "2"]]
