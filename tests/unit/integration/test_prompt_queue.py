from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.integration.prompt_queue import PromptQueue
from insight_rl.integration.selection import Selection, make_pool
from insight_rl.seeding import derive_seed
from tests.support.own_trainer import own_decisions
from tests.support.verdicts import by_visit, verdict_of

K, M = 4, 3
PROMPTS = [f"prompt {number}" for number in range(12)]


def open_queue(**changes):
    selection = Selection(make_pool({"prompt": PROMPTS}), num_rollouts=K, seed=derive_seed(5, "selector"))
    return PromptQueue(selection, **({"prompts_per_selection": M} | changes))


def finish(queue, row, visit=1):
    queue.finish(row, [verdict_of(PROMPTS[row], visit, k) for k in range(K)])


def test_drawn_one_by_one_and_finished_in_any_order_they_are_what_our_trainer_selects():
    queue, visits, drawn = open_queue(), dict.fromkeys(range(len(PROMPTS)), 0), []
    for _ in range(8):
        rows = [queue.draw()[0] for _ in range(M)]
        drawn.append([PROMPTS[row] for row in rows])
        for row in reversed(rows):
            visits[row] += 1
            finish(queue, row, visits[row])
    steps, _ = own_decisions(PROMPTS, by_visit(), num_steps=8, prompts_per_step=M, num_rollouts=K, seed=5)
    assert drawn == [[PROMPTS[row] for row in rows] for rows in steps]


def test_a_draw_is_never_short_and_nothing_waits_for_ever():
    queue = open_queue(patience=6)
    lost = queue.draw()[0]
    for _ in range(9):  # the selection after 6 further draws
        finish(queue, queue.draw()[0])
    assert not queue.is_under_way(lost)
    assert queue.metrics()["selector/given_up"] == 1
    queue = open_queue()
    first = queue.draw(M)
    assert sorted([*first, *queue.draw(len(PROMPTS) - M)]) == list(range(len(PROMPTS)))
    again = queue.draw(M)  # all are under way: the oldest are given up
    assert sorted(again) == sorted(first)
    assert len(queue.under_way) == len(PROMPTS)


def test_what_comes_back_after_it_was_given_up_counts_all_the_same():
    queue = open_queue(prompts_per_selection=None)
    rows = queue.draw(3)
    queue.give_up(rows)
    others = queue.draw(3)
    lost = next(row for row in rows if row not in others)
    queue.finish(lost, [True, True, True, None])
    resumed = open_queue(prompts_per_selection=None)
    resumed.load_state_dict(queue.state_dict())
    assert resumed.draw(3) == others
    for each in (queue, resumed):
        each.draw(1)
        assert each.selection.selector.belief(each.selection.id_of(lost)) == (4.0, 1.0)
        assert (each.metrics()["selector/given_up"], each.metrics()["selector/late"]) == (3, 1)
        for row in others:
            finish(each, row)
        each.draw(1)
        assert each.selection.selector.belief(each.selection.id_of(lost)) == (4.0, 1.0)  # once


def test_given_up_is_neither_success_nor_failure():
    queue = open_queue()
    rows = queue.draw(M)
    queue.give_up(rows)
    queue.draw(M)
    assert [queue.selection.selector.belief(queue.selection.id_of(row)) for row in rows] == [(1.0, 1.0)] * M


def test_what_was_under_way_at_a_checkpoint_is_drawn_again_first(tmp_path):
    queue = open_queue()
    rows = queue.draw(2)
    finish(queue, rows[0])
    queue.save(tmp_path)
    resumed = open_queue()
    resumed.load(tmp_path)
    assert resumed.under_way == []
    assert resumed.draw(2)[0] == rows[1]
    finish(queue, rows[1])
    rest = [queue.draw()[0] for _ in range(1 + M)]
    finish(resumed, rows[1])
    assert [resumed.draw()[0] for _ in range(M)] == rest[1:]


def test_more_at_a_time_than_there_are_is_refused():
    with pytest.raises(UsageError, match=r"--batch=13: must be at least 1 and at most .* different prompts, 12"):
        open_queue(prompts_per_selection=13, key="--batch")
    with pytest.raises(UsageError, match="prompts_per_selection=13"):
        open_queue(prompts_per_selection=None).draw(13)
