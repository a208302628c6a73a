from __future__ import annotations

import numpy as np
import pytest

from insight_rl.errors import UsageError
from insight_rl.integration.selection import (
    SELECTOR_FOLDER,
    Selection,
    count_verdicts,
    first_reward_is_full,
    make_pool,
    make_selector,
    prompt_id,
)

PROMPTS = [f"{a}+{b}=" for a in range(10) for b in range(3)]
K = 4


def open_selection(prompts=PROMPTS, **changes):
    return Selection(make_pool({"prompt": prompts}), **({"num_rollouts": K, "seed": 5} | changes))


def verdicts_of(row, step):
    return [(row * 7 + step * 3 + k) % 3 == 0 if (row + k + step) % 5 else None for k in range(K)]


def run(selection, steps):
    chosen = []
    for step in steps:
        rows = selection.select(6)
        chosen.append(rows)
        selection.observe({row: verdicts_of(row, step) for row in rows})
    return chosen


def test_unjudged_is_no_failure_and_a_reward_is_no_verdict():
    counts = count_verdicts("p", [True, None, np.True_, np.False_, False])
    assert (counts.num_judged, counts.num_successes) == (4, 2)
    with pytest.raises(UsageError, match=r"verdict=0\.1 of prompt p"):
        count_verdicts("p", [0.1])
    assert [first_reward_is_full([value, 1.0]) for value in (1.0, 0.9, float("nan"))] == [True, False, None]


def test_beliefs_count_what_was_judged_and_only_that():
    selection = open_selection()
    first, second = selection.select(2)
    selection.observe({first: [True, None, False, False], second: [None] * K})
    assert selection.selector.belief(selection.id_of(first)) == (2.0, 3.0)
    assert selection.selector.belief(selection.id_of(second)) == (1.0, 1.0)


def test_what_is_being_rolled_out_is_not_selected_again_and_observed_once():
    selection = open_selection()
    early, late = selection.select(20), selection.select(10)
    assert sorted(early + late) == list(range(30))
    assert selection.outstanding == early + late
    with pytest.raises(UsageError, match=r"num_prompts=1: .* of 30 different ones 30 are being rolled out"):
        selection.select(1)
    selection.observe({row: [True] * K for row in late})
    assert sorted(selection.select(10)) == sorted(late)
    selection.observe({early[0]: [False] * K})
    with pytest.raises(ValueError, match=f"row {early[0]} was not selected"):
        selection.observe({early[0]: [False] * K})
    assert selection.selector.belief(selection.id_of(early[0])) == (1.0, 1.0 + K)


def test_goes_on_from_its_folder_as_if_uninterrupted(tmp_path):
    whole = open_selection()
    run(whole, range(4))
    in_flight = whole.select(3)
    whole.save(tmp_path)
    loaded = open_selection(seed=99)
    loaded.load(tmp_path)
    assert loaded.outstanding == in_flight
    for each in (whole, loaded):
        each.observe({row: verdicts_of(row, 4) for row in in_flight})
    assert run(loaded, range(5, 9)) == run(whole, range(5, 9))


def test_a_checkpoint_without_selection_or_of_other_data_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"trainer\.resume_mode=.* holds no selector state"):
        open_selection().load(tmp_path, key="trainer.resume_mode")
    open_selection().save(tmp_path)
    with pytest.raises(ValueError, match="belong to another pool"):
        open_selection(PROMPTS[1:]).load(tmp_path)
    assert [path.name for path in (tmp_path / SELECTOR_FOLDER).iterdir()] == ["state.npz"]


def test_equal_prompts_are_one_prompt_in_its_first_row():
    chat = [{"role": "user", "content": "1+1"}]
    reordered = [{"content": "1+1", "role": "user"}]
    pool = make_pool({"prompt": ["a", chat, reordered, "a", "b"]})
    assert pool.rows == [0, 1, 4]
    assert pool.prompts[1].id == prompt_id(chat)
    columns = {"prompt": ["a", "a", "b"], "id": [7, 8, 8], "task": ["x", "y", "y"], "num_choices": [4, 5, 5]}
    pool = make_pool(columns)
    assert [(prompt.id, prompt.task, prompt.metadata) for prompt in pool.prompts] == [
        ("7", "x", {"num_choices": 4}),
        ("8", "y", {"num_choices": 5}),
    ]


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match="no_such"):
        make_selector("insight", {"no_such": 1})
    with pytest.raises(UsageError, match="slime rolls out every prompt K times"):
        open_selection(selector_settings={"rollout_budget": "knapsack"}, framework="slime")


def test_metrics_are_finite_numbers():
    selection = open_selection(selector="random")
    run(selection, range(2))
    metrics = selection.metrics()
    assert metrics["selector/visited_fraction"] == pytest.approx(12 / 30, abs=0.2)
    assert np.isfinite(list(metrics.values())).all()
