"""The pipe of a heartbeat, without a process: nobody ever waits for the other side."""

import os

import pytest

from insight_rl.child_main import beat
from insight_rl.heartbeat import Heartbeat, Patience


@pytest.fixture
def heartbeat():
    heartbeat = Heartbeat()
    yield heartbeat
    heartbeat.close()


def test_a_beat_is_seen_once_and_before_the_first_one_nothing_has_begun(heartbeat):
    assert (heartbeat.has_beaten(), heartbeat.has_begun) == (False, False)
    os.write(heartbeat.writer, b"..")
    assert (heartbeat.has_beaten(), heartbeat.has_begun) == (True, True)
    assert (heartbeat.has_beaten(), heartbeat.has_begun) == (False, True)
    heartbeat.release_writer()
    assert not heartbeat.has_beaten(), "the other side has closed it"


def test_a_full_pipe_holds_nobody_up_and_one_look_empties_it(heartbeat):
    with pytest.raises(BlockingIOError):
        while True:
            os.write(heartbeat.writer, b"." * 4096)
    assert heartbeat.has_beaten()
    os.write(heartbeat.writer, b".")
    heartbeat.release_writer()


def test_who_beats_stops_when_nobody_is_there_to_see_it(heartbeat, monkeypatch):
    beats = []
    monkeypatch.setattr("insight_rl.child_main.time.sleep", beats.append)

    class Thread:
        def __init__(self, target, **options):
            assert options["daemon"]
            self.start = target

    monkeypatch.setattr("insight_rl.child_main.threading.Thread", Thread)
    heartbeat.close()
    beat(heartbeat.writer)  # returns: the pipe is broken
    assert beats == []
    heartbeat.release_writer()


def test_a_wait_does_not_count_the_time_in_which_this_process_was_stopped(monkeypatch):
    now = 100.0
    monkeypatch.setattr("insight_rl.heartbeat.time.monotonic", lambda: now)
    patience = Patience()
    for now in (100.4, 100.8, 4000.0, 4000.5):  # noqa: B007 (read by the clock)
        patience.look()
    assert patience.waited_s == pytest.approx(0.8 + 1.0 + 0.5)
