"""How often the ranks of a run may be started again."""

import pytest

from insight_rl.errors import RanksLost, RunStopped
from insight_rl.recovery import Restarts

LOST = RanksLost("learner rank 1 died in step (killed by SIGKILL)", "learner rank 1 died ...; the run can be resumed")


def test_each_restart_is_told_and_counted_and_one_too_many_ends_the_run():
    said = []
    restarts = Restarts(2, said.append)
    assert restarts.metrics() == {"runtime/num_restarts": 0}
    restarts.count(LOST, step=6)
    restarts.count(LOST, step=9)
    assert restarts.metrics() == {"runtime/num_restarts": 2}
    assert said[0] == (
        "learner rank 1 died in step (killed by SIGKILL) in step 7; all ranks are started again from the newest "
        "checkpoint (restart 1 of at most 2)"
    )
    with pytest.raises(RunStopped, match=r"2 times, .* raise runtime\.max_restarts=2; the last loss: learner rank 1"):
        restarts.count(LOST, step=9)


def test_where_none_is_allowed_the_loss_itself_ends_the_run():
    with pytest.raises(RanksLost) as raised:
        Restarts(0, print).count(LOST, step=3)
    assert raised.value is LOST
