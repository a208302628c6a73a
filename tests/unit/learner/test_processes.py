"""Rank processes with a worker made of plain functions, so that nothing of training is needed."""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from insight_rl.errors import UsageError, check
from insight_rl.learner.processes import RankFailed, RankProcesses

make_worker = functools.partial(
    SimpleNamespace,
    pid=os.getpid,
    env=os.getenv,
    divide=divmod,
    check=check,
    exit=os._exit,
    sleep=time.sleep,
    close=gc.collect,
)


def test_each_rank_is_a_process_with_its_own_place_in_the_rendezvous() -> None:
    ranks = RankProcesses(make_worker, 2)
    pids = ranks.call("pid", [(), ()])
    assert len({*pids, os.getpid()}) == 3
    assert ranks.call("divide", [(7, 2), (9, 5)]) == [(3, 1), (1, 4)]
    assert ranks.call("env", [("RANK",), ("RANK",)]) == ["0", "1"]
    assert ranks.call("env", [("WORLD_SIZE",), ("WORLD_SIZE",)]) == ["2", "2"]
    ports = ranks.call("env", [("MASTER_PORT",), ("MASTER_PORT",)])
    assert ports[0] == ports[1]
    ranks.close()
    assert not any(is_alive(pid) for pid in pids)


def test_what_a_rank_raises_arrives_with_its_traceback_and_ends_the_others() -> None:
    ranks = RankProcesses(make_worker, 2)
    pids = ranks.call("pid", [(), ()])
    with pytest.raises(RankFailed, match=r"rank 1 failed in divide:\nTraceback[\s\S]*ZeroDivisionError"):
        ranks.call("divide", [(1, 1), (1, 0)])
    assert not any(is_alive(pid) for pid in pids)


def test_a_mistake_of_the_user_arrives_as_such() -> None:
    ranks = RankProcesses(make_worker, 1)
    with pytest.raises(UsageError, match=r"learner\.lr=0: must be above 0"):
        ranks.call("check", [(False, "learner.lr", 0, "must be above 0")])


def test_a_rank_that_dies_in_a_call_is_named_and_the_others_are_not_waited_for() -> None:
    ranks = RankProcesses(make_worker, 2)
    other, dying = ranks.call("pid", [(), ()])
    os.kill(dying, signal.SIGSTOP)  # so that the call is under way when it dies
    subprocess.Popen([sys.executable, "-c", f"import time, os; time.sleep(0.5); os.kill({dying}, 9)"])
    with pytest.raises(RankFailed, match=r"rank 1 died in divide \(exit code -9\)"):
        ranks.call("divide", [(1, 1), (1, 1)])
    assert not is_alive(other)


def test_a_rank_that_is_gone_before_the_call_is_named() -> None:
    ranks = RankProcesses(make_worker, 1)
    (pid,) = ranks.call("pid", [()])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RankFailed, match="rank 0 died in pid"):
        ranks.call("pid", [()])


def test_ranks_end_when_the_trainer_is_killed() -> None:
    code = (
        "import functools, gc, os, time, types\n"
        "from insight_rl.learner.processes import RankProcesses\n"
        "make = functools.partial(types.SimpleNamespace, pid=os.getpid, close=gc.collect)\n"
        "print(*RankProcesses(make, 2).call('pid', [(), ()]), flush=True)\n"
        "time.sleep(600)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    """Whether the process still runs: a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
