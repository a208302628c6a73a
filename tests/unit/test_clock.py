from __future__ import annotations

import threading

import pytest

from insight_rl import clock
from insight_rl.clock import PerThreadClock, Stopwatch


@pytest.fixture
def now(monkeypatch):
    times = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: times[0])
    return times


def test_a_stopwatch_is_read_in_the_middle_of_a_block(now):
    busy = Stopwatch()
    assert busy.take() == 0.0
    with busy:
        now[0] = 3.0
        assert busy.take() == 3.0
        now[0] = 5.0
    now[0] = 9.0
    with busy:
        now[0] = 10.0
    assert busy.take() == 3.0
    assert busy.take() == 0.0


def test_each_thread_has_a_clock_of_its_own():
    own = PerThreadClock()
    own.add("learn", 2.0)
    seen = []

    def elsewhere():
        own.add("rollout", 1.0)
        own.running = "rollout"
        seen.append(own.take())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [{"rollout": 1.0}]
    assert own.running is None
    assert own.take() == {"learn": 2.0}
    assert own.take() == {}
