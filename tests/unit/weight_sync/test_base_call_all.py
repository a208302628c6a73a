"""One call to every process at a time."""

from __future__ import annotations

import pytest

from insight_rl.weight_sync.base import call_all


class Process:
    device = "cpu"

    def __init__(self, name, events, fails_in=None):
        self.name, self.events, self.fails_in = name, events, fails_in

    def begin(self, method, /, **arguments):
        self._do("begin", method, arguments)

    def finish(self):
        self._do("finish")

    def _do(self, what, *details):
        self.events.append((self.name, what, *details))
        if what == self.fails_in:
            raise RuntimeError(f"{self.name} fails in {what}")


def test_all_processes_work_at_the_same_time():
    events = []
    call_all([Process("a", events), Process("b", events)], "reload", folder="f")
    begun = [(name, "begin", "reload", {"folder": "f"}) for name in "ab"]
    assert events == [*begun, ("a", "finish"), ("b", "finish")]


@pytest.mark.parametrize("fails_in", ["begin", "finish"])
def test_one_that_fails_does_not_leave_the_others_in_the_middle(fails_in):
    events = []
    with pytest.raises(RuntimeError, match=f"a fails in {fails_in}"):
        call_all([Process("a", events, fails_in), Process("b", events)], "reload")
    assert events[-1] == ("b", "finish")
    assert (("a", "finish") in events) == (fails_in == "finish"), "there is nothing to wait for where nothing began"
