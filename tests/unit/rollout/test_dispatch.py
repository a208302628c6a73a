"""Which worker gets which request: nothing is lost, nothing is done twice, whatever happens in whatever order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.rollout.dispatch import Dispatch


def test_the_least_loaded_worker_is_served_first_up_to_its_limit():
    dispatch = Dispatch(dict.fromkeys(range(6), 100))
    assert dispatch.hand_out({0: 150, 1: 150}) == {0: [0, 2], 1: [1, 3]}
    assert dispatch.hand_out({0: 150, 1: 150}) == {}
    dispatch.finish(1, 1)
    assert dispatch.hand_out({0: 150, 1: 150}) == {1: [4]}


def test_a_request_that_is_larger_than_any_limit_is_served_too():
    dispatch = Dispatch({0: 10**9, 1: 1})
    assert dispatch.hand_out({0: 100}) == {0: [0]}
    dispatch.finish(0, 0)
    assert dispatch.hand_out({0: 100}) == {0: [1]}


def test_a_single_worker_without_a_limit_gets_everything_at_once_in_order():
    assert Dispatch(dict.fromkeys(range(50), 1000)).hand_out({0: math.inf}) == {0: list(range(50))}


def test_what_is_lost_comes_before_what_has_waited():
    dispatch = Dispatch(dict.fromkeys(range(5), 1))
    assert dispatch.hand_out({0: 3}) == {0: [0, 1, 2]}
    dispatch.finish(0, 1)
    assert dispatch.lose(0) == [0, 2]
    assert dispatch.hand_out({1: math.inf}) == {1: [0, 2, 3, 4]}
    assert [dispatch.num_losses(key) for key in range(5)] == [1, 0, 1, 0, 0]


def test_an_answer_to_what_a_worker_does_not_have_is_refused():
    dispatch = Dispatch({0: 1, 1: 1})
    dispatch.hand_out({0: 1, 1: 1})
    dispatch.finish(0, 0)
    for worker, key in ((0, 0), (0, 1), (2, 1)):
        with pytest.raises(RuntimeError, match=f"rollout worker {worker} answered request {key}"):
            dispatch.finish(worker, key)


@given(st.data())
def test_every_request_is_finished_exactly_once_whichever_workers_are_lost(data):
    sizes = dict(enumerate(data.draw(st.lists(st.integers(1, 50), max_size=12))))
    num_workers = data.draw(st.integers(1, 3))
    limits = {worker: data.draw(st.integers(1, 80)) for worker in range(num_workers)}
    dispatch, at_work, finished = Dispatch(sizes), {worker: [] for worker in limits}, []
    num_losses_left = 4
    while not dispatch.is_done:
        for worker, keys in dispatch.hand_out(limits).items():
            at_work[worker] += keys
            load = [sizes[key] for key in at_work[worker]]
            assert sum(load[:-1]) < limits[worker], "it had room before the last one"
        busy = [worker for worker in limits if at_work[worker]]
        assert busy, "something is waiting, so somebody is at work"
        worker = data.draw(st.sampled_from(busy))
        if num_losses_left and data.draw(st.booleans()):
            num_losses_left -= 1
            assert dispatch.lose(worker) == sorted(at_work[worker])
            at_work[worker] = []
        else:
            key = at_work[worker].pop(data.draw(st.integers(0, len(at_work[worker]) - 1)))
            dispatch.finish(worker, key)
            finished.append(key)
    assert sorted(finished) == list(sizes)
    assert not any(at_work.values())
