"""Rank processes with a worker made of plain functions, so that nothing of training is needed."""

from __future__ import annotations

import functools
import gc
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from insight_rl.child_process import ChildLost
from insight_rl.errors import RanksLost, UsageError, check
from insight_rl.learner.processes import RankFailed, RankProcesses
from insight_rl.supervision import Supervision, supervise

RankProcesses = functools.partial(RankProcesses, deadline_s=120.0)

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
    with pytest.raises(RanksLost, match=r"learner rank 1 died in divide \(killed by SIGKILL\); the run can be resumed"):
        ranks.call("divide", [(1, 1), (1, 1)])
    assert not is_alive(other)


def test_a_rank_that_is_gone_before_the_call_is_named() -> None:
    ranks = RankProcesses(make_worker, 1)
    (pid,) = ranks.call("pid", [()])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RanksLost, match="learner rank 0 died in pid"):
        ranks.call("pid", [()])


def test_ranks_end_when_the_trainer_is_killed() -> None:
    code = (
        "import functools, gc, os, time, types\n"
        "from insight_rl.learner.processes import RankProcesses\n"
        "make = functools.partial(types.SimpleNamespace, pid=os.getpid, close=gc.collect)\n"
        "ranks = RankProcesses(make, 2, deadline_s=60)\n"
        "print(*ranks.call('pid', [(), ()]), flush=True)\n"
        "time.sleep(600)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGSTOP)  # one that cannot notice anything by itself
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in pids)


def test_a_rank_that_hangs_ends_the_run_with_one_sentence_and_the_stacks_of_all(tmp_path: Path) -> None:
    ranks = RankProcesses(make_worker, 2, deadline_s=1.5)
    pids = ranks.call("pid", [(), ()])
    with pytest.raises(RanksLost) as caught, supervise(Supervision(run_dir=tmp_path)):
        ranks.call("sleep", [(0,), (600,)])
    assert str(caught.value).startswith("learner rank 1 gave no sign of life for ")
    assert "in sleep; the stacks" in str(caught.value) and "raise learner.deadline_s=1.5" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(is_alive(pid) for pid in pids)
    (file,) = tmp_path.glob("stacks-*.txt")
    text = file.read_text()
    assert str(file) in str(caught.value)
    assert "the trainer" in text and "test_a_rank_that_hangs" in text
    assert all(f"learner rank {rank}, process {pid}" in text for rank, pid in enumerate(pids))
    assert len(re.findall(r"processes\.py\", line \d+ in serve\n", text)) == 2, "the stack of each rank"


def test_a_stopped_rank_is_named_as_stopped_and_its_stack_is_had_all_the_same(tmp_path: Path) -> None:
    ranks = RankProcesses(make_worker, 1, deadline_s=1.5)
    (pid,) = ranks.call("pid", [()])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RanksLost, match=r"it is stopped, e\.g\. by SIGSTOP"), supervise(Supervision(run_dir=tmp_path)):
        ranks.call("pid", [()])
    (file,) = tmp_path.glob("stacks-*.txt")
    assert "state T" in file.read_text() and "in serve" in file.read_text()
    assert not is_alive(pid)


def test_the_stopped_rank_is_named_and_not_the_one_that_waits_for_it() -> None:
    ranks = RankProcesses(make_worker, 2, deadline_s=1.5)
    pids = ranks.call("pid", [(), ()])
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(RanksLost, match=r"^learner rank 1 gave no sign of life .* it is stopped"):
        ranks.call("sleep", [(600,), (600,)])


def test_where_none_is_stopped_all_that_do_not_answer_are_named() -> None:
    ranks = RankProcesses(make_worker, 3, deadline_s=1.5)
    ranks.call("pid", [(), (), ()])
    with pytest.raises(RanksLost, match=r"^learner rank 0, learner rank 2 gave no sign of life"):
        ranks.call("sleep", [(600,), (0,), (600,)])


def test_what_a_rank_raises_because_another_died_is_not_taken_for_the_cause() -> None:
    """The others notice a death by a broken collective, perhaps before the trainer sees the death itself."""
    ranks = RankProcesses(make_worker, 2)
    pids = ranks.call("pid", [(), ()])
    subprocess.Popen([sys.executable, "-S", "-c", f"import time, os; time.sleep(0.2); os.kill({pids[1]}, 9)"])
    with pytest.raises(ChildLost, match="learner rank 1 died"):
        ranks._result(ranks._ranks[0], "step", "failed", None, "Connection closed by peer")


def test_a_stopped_rank_that_does_not_even_read_what_it_is_sent_is_noticed() -> None:
    ranks = RankProcesses(make_worker, 1, deadline_s=1.5)
    (pid,) = ranks.call("pid", [()])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RanksLost, match="no sign of life"):
        ranks.call("divide", [(bytes(10**7), 1)])


def test_a_slow_start_is_not_held_to_the_deadline_of_a_call() -> None:
    ranks = RankProcesses(functools.partial(SimpleNamespace, start=time.sleep, close=gc.collect), 1, deadline_s=0.1)
    ranks.call("start", [(1.0,)])
    ranks.close()


def test_the_time_in_which_the_trainer_itself_was_stopped_does_not_count() -> None:
    code = (
        "import functools, gc, time, types\n"
        "from insight_rl.learner.processes import RankProcesses\n"
        "make = functools.partial(types.SimpleNamespace, start=gc.collect, sleep=time.sleep, close=gc.collect)\n"
        "ranks = RankProcesses(make, 1, deadline_s=4)\n"
        "ranks.call('start', [()])\n"
        "print('ready', flush=True)\n"
        "ranks.call('sleep', [(2.5,)])\n"
        "ranks.call('sleep', [(0,)])\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None and trainer.stdout.readline() == "ready\n"
    time.sleep(0.5)
    rank = children_of(trainer.pid)[-1]
    for pid in (rank, trainer.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    for pid in (trainer.pid, rank):
        os.kill(pid, signal.SIGCONT)
    assert trainer.wait(timeout=60) == 0


def test_signals_to_a_rank_are_no_end_of_it() -> None:
    ranks = RankProcesses(make_worker, 1)
    (pid,) = ranks.call("pid", [()])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert ranks.call("pid", [()]) == [pid]
    ranks.close()


def test_a_rank_in_the_middle_of_a_call_is_not_waited_for_at_the_end() -> None:
    """So that a second Ctrl-C ends the run at once, also where a rank hangs."""
    ranks = RankProcesses(make_worker, 2)
    pids = ranks.call("pid", [(), ()])
    for child in ranks._ranks:
        child.send(("sleep", (600,), False), doing="sleep")
    ranks.close(grace_s=10**6)
    assert not any(is_alive(pid) for pid in pids)


def test_buffers_of_deepspeed_are_not_left_in_shared_memory() -> None:
    ranks = RankProcesses(make_worker, 1)
    (port,) = ranks.call("env", [("MASTER_PORT",)])
    buffer = Path(f"/dev/shm/deepspeed_allreduce_buffer_0_127.0.0.1_{port}_0")
    buffer.write_bytes(b"x")
    ranks.close()
    assert not buffer.exists()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether the process still runs: a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def asking(monkeypatch):
    """Two ranks that can ask the trainer in the middle of a call."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "support")
    from asking_rank import AskingRank

    ranks = RankProcesses(AskingRank, 2)
    yield ranks
    ranks.close(grace_s=0)


def test_a_rank_may_ask_the_trainer_in_the_middle_of_a_call(asking) -> None:
    asked = []

    def answer(request: str, look: Any) -> str:
        look()
        asked.append(request)
        return request.upper()

    assert asking.call("send", [("a",), (None,)], answer=answer) == ["A", None]
    assert asking.call("send", [("b",), ("c",)], answer=answer) == ["B", "C"]
    assert sorted(asked) == ["a", "b", "c"]


def test_a_request_that_cannot_be_answered_ends_the_call_with_its_own_error(asking) -> None:
    """The rank would wait for ever, and the others for it."""

    def answer(request: str, look: Any) -> None:
        raise LookupError("vLLM has died")

    with pytest.raises(LookupError, match="vLLM has died"):
        asking.call("send", [("a",), (None,)], answer=answer)
    assert all(child.is_dead for child in asking._ranks)


@pytest.mark.parametrize(
    ("request_of_the_other", "error", "said"),
    [
        ("raise", RankFailed, r"learner rank 1 failed in send:\n[\s\S]*no memory for the gather"),
        ("die", RanksLost, r"learner rank 1 died in send \(exit code 7\)"),
    ],
)
def test_a_rank_that_is_lost_while_anothers_request_is_answered_is_noticed(
    asking, request_of_the_other, error, said
) -> None:
    """vLLM waits in a broadcast for the ranks, and the trainer for vLLM."""

    def answer(request: str, look: Any) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            look()
            time.sleep(0.01)

    with pytest.raises(error, match=said):
        asking.call("send", [("a",), (request_of_the_other,)], answer=answer)
