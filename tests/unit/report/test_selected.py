"""What a run selected, from its logs, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from insight_rl.report.run_files import read_run
from insight_rl.report.selected import last_step_in_words, most_selected, new_by_step, reliability, stretches
from insight_rl.selector.decision_log import StepDecisions


def decisions(step, ids, *, alpha, beta, successes, judged=4):
    size = len(ids)
    return StepDecisions(
        step=np.full(size, step),
        round=np.zeros(size, int),
        prompt_id=np.array(ids, object),
        alpha=np.array(alpha, float),
        beta=np.array(beta, float),
        score=np.ones(size),
        propensity=np.full(size, np.nan),
        chosen=np.ones(size, bool),
        successes=np.array(successes),
        judged=np.full(size, judged),
    )


def test_new_and_again():
    assert new_by_step({1: ["a", "b"], 3: ["b", "c", "c"], 2: ["a"]}) == [(1, 2, 2), (2, 1, 0), (3, 3, 1)]
    assert new_by_step({}) == []


def test_foretold_and_observed_of_new_prompts_and_of_others():
    logged = [
        decisions(1, ["a", "b"], alpha=[1, 1], beta=[1, 1], successes=[4, 0]),
        decisions(2, ["a", "c", "b"], alpha=[9, 1, 1], beta=[1, 1, 9], successes=[3, 1, 0]),
        decisions(3, ["b"], alpha=[0.5], beta=[9.5], successes=[-1], judged=-1),
    ]
    (new,) = reliability(logged, new=True)
    assert (new.foretold, new.observed, new.num_groups, new.num_rollouts) == (0.5, 5 / 12, 3, 12)
    low, high = reliability(logged, new=False)
    assert (low.foretold, low.observed, low.num_groups) == (pytest.approx(0.1), 0, 1)
    assert (high.foretold, high.observed, high.num_groups) == (pytest.approx(0.9), 0.75, 1)
    assert reliability([], new=True) == []


def test_beliefs_that_are_none_count_nowhere():
    wild = decisions(1, ["a", "b", "c"], alpha=[-1, np.nan, 0], beta=[0.5, 1, 0], successes=[1, 1, 1])
    assert reliability([wild], new=True) == []


def test_a_made_run(made_run):
    run = read_run(made_run())
    parts = stretches(run, 3)
    assert [(each.first_step, each.last_step, each.num_selected) for each in parts] == [
        (1, 4, 16),
        (5, 8, 16),
        (9, 12, 16),
    ]
    assert [each.new for each in parts] == [16, 4, 0]
    assert parts[0].judged_new == 16 and parts[0].judged_again == 0 and parts[2].judged_again == 16
    most = most_selected(run, 5)
    counts = {key: sum(ids.count(key) for ids in run.selections.values()) for key in run.texts}
    assert [each.num_times for each in most] == sorted(counts.values(), reverse=True)[:5]
    for each in most:
        assert each.judged == 4 * each.num_times
        rows = [d for d in run.decisions if each.prompt_id in d.prompt_id]
        assert each.successes == sum(int(d.successes[d.prompt_id == each.prompt_id][0]) for d in rows)
        assert (each.first_step, each.last_step) == (rows[0].step[0], rows[-1].step[0])
        # What it has seen before its last selection, on top of the prior of 1 and 1.
        assert each.alpha + each.beta == 2 + 4 * (each.num_times - 1)
    assert last_step_in_words(run).startswith("Step 12: insight chose 4 of ")
