"""Child processes in general; the learner's ranks and the rollout process have tests of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insight_rl.child_process import Child, ChildLost, end_all_at_once, start_process
from insight_rl.errors import UsageError
from insight_rl.heartbeat import Patience
from insight_rl.supervision import Supervision, supervise

TARGETS = """
import ctypes, multiprocessing, os, sys, time
from insight_rl.child_process import Channel

def echo(fd):
    channel = Channel.from_fd(fd)
    while True:
        channel.send(channel.receive())

def deaf(fd):
    print("nobody is listening", file=sys.stderr, flush=True)
    time.sleep(600)

def busy(fd):
    channel = Channel.from_fd(fd)
    while True:
        if channel.receive() == "keep the lock":
            ctypes.PyDLL(None).sleep(600)  # unlike CDLL, it does not give the lock up
        end = time.monotonic() + 4
        while time.monotonic() < end:
            sum(range(1000))
        channel.send("counted")

def doze():
    time.sleep(600)

def parent(fd):
    channel = Channel.from_fd(fd)
    process = multiprocessing.get_context("spawn").Process(target=doze)
    process.start()
    channel.send(process.pid)
    channel.receive()

def short(fd):
    channel = Channel.from_fd(fd)
    channel.send("the last word")
    sys.exit(3)

def verbose(fd):
    # As vLLM with two workers: the cause stands in a worker's log, the engine's own traceback follows.
    print("(Worker_TP0) ERROR [worker.py:7] RuntimeError: Cannot find any model weights", file=sys.stderr)
    print("  File engine.py, line 1\\n" * 200, file=sys.stderr)
    sys.exit("Exception: WorkerProc initialization failed, see the root cause above")
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "targets.py").write_text(TARGETS)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    children = []

    def start(function, *, deadline_s=60.0, log=False):
        env = {**os.environ, "PYTHONPATH": path}
        child = Child(
            "the child", f"targets:{function}", key="some.deadline_s", deadline_s=deadline_s, env=env, log=log
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.end(grace_s=0)


@pytest.mark.parametrize(
    "message", [b"", "text", {"a": [1, 2.5, None]}, bytes(range(256)) * 40_000], ids=["none", "text", "plain", "10 MB"]
)
def test_messages_arrive_as_they_were(message, start):
    child = start("echo")
    child.send(message, doing="echo")
    assert child.receive(doing="echo") == message


def test_the_last_words_of_a_child_are_received_before_its_death_is(start):
    child = start("short")
    wait_for(lambda: child.is_dead)
    child.look(Patience(), doing="speak")  # as after a wait in which it spoke and ended
    assert child.receive(doing="speak") == "the last word"
    with pytest.raises(ChildLost, match=r"the child died in speak \(exit code 3\)"):
        child.receive(doing="speak")


def test_a_child_that_does_not_answer_is_reported_with_the_end_of_its_log(start):
    child = start("deaf", deadline_s=0.5, log=True)
    wait_for(lambda: "nobody" in child.log_tail())
    with pytest.raises(
        ChildLost, match=r"no sign of life .*some\.deadline_s=0\.5.*\nThe end of its log:\nnobody is li"
    ):
        child.receive(doing="answer")


def test_an_error_far_up_in_the_log_is_quoted_before_its_end(start):
    with pytest.raises(ChildLost) as lost:
        start("verbose", log=True).receive(doing="start")
    first, error, end, *_ = str(lost.value).splitlines()
    assert "the child died in start (exit code 1)" in first
    assert (error, end) == ("Its log has: RuntimeError: Cannot find any model weights", "The end of its log:")
    assert str(lost.value).endswith("Exception: WorkerProc initialization failed, see the root cause above")


def test_a_file_of_stacks_that_cannot_be_written_does_not_hide_the_reason(start, tmp_path):
    child = start("deaf", deadline_s=0.5)
    message = r"the child gave no sign of life .* could not be written to .*/gone"
    with supervise(Supervision(run_dir=tmp_path / "gone")), pytest.raises(ChildLost, match=message):
        child.receive(doing="answer")


def test_a_stopped_child_is_found_by_its_heartbeat_long_before_its_work_is_due(start, tmp_path):
    child = start("echo", deadline_s=3600)
    child.send("once", doing="echo")
    assert child.receive(doing="echo") == "once"
    os.kill(child.pid, signal.SIGSTOP)
    supervision = Supervision(run_dir=tmp_path, heartbeat_deadline_s=1.0)
    with supervise(supervision), pytest.raises(ChildLost) as lost:
        child.receive(doing="echo")
    assert "the child gave no sign of life for 1 s in echo; it is stopped, e.g. by SIGSTOP" in str(lost.value)
    assert "raise runtime.heartbeat_deadline_s=1" in str(lost.value)
    assert "in echo" in next(tmp_path.glob("stacks-*.txt")).read_text()


def test_a_child_that_computes_for_long_shows_a_heartbeat_and_one_that_keeps_pythons_lock_none(start):
    with supervise(Supervision(heartbeat_deadline_s=2.5)):
        child = start("busy")
        child.send("count", doing="count")
        assert child.receive(doing="count") == "counted"
        child.send("keep the lock", doing="count")
        with pytest.raises(ChildLost, match=r"in count; the stacks .* raise runtime\.heartbeat_deadline_s=2\.5"):
            child.receive(doing="count")


def test_a_grandchild_that_is_stopped_counts_as_its_parent_stopped(start):
    child = start("parent")
    os.kill(child.receive(doing="start"), signal.SIGSTOP)
    with supervise(Supervision(heartbeat_deadline_s=1.0)), pytest.raises(ChildLost, match="it is stopped"):
        child.receive(doing="work")


def test_children_of_a_run_have_logs_in_its_folder_and_a_new_one_appends(start, tmp_path):
    with supervise(Supervision(run_dir=tmp_path)):
        for _ in range(2):
            with pytest.raises(ChildLost) as lost:
                start("verbose", log=True).receive(doing="start")
    text = (tmp_path / "logs" / "the_child.log").read_text()
    assert text.count("---- the child is started, ") == 2 and text.count("Cannot find any model weights") == 2
    assert "is started" not in str(lost.value), "it quotes what the child itself has printed"


def test_what_a_child_spawns_ends_with_it_even_when_stopped_and_shows_its_stack(start):
    child = start("parent")
    grandchild = child.receive(doing="start")
    wait_for(lambda: "in doze" in child.dump_stacks())
    os.kill(grandchild, signal.SIGSTOP)
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(grandchild))


def test_signals_are_blocked_from_the_first_moment_of_a_process():
    code = "import os, signal; [os.kill(os.getpid(), n) for n in (1, 2, 15)]; print(len(signal.sigpending()))"
    process = start_process([sys.executable, "-c", code], stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, b"3\n")
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {1, 2, 15}, "here they are as they were"


def test_all_children_can_be_ended_at_once(start):
    children = [start("deaf"), start("echo")]
    os.kill(children[0].pid, signal.SIGSTOP)
    end_all_at_once()
    wait_for(lambda: all(child.is_dead for child in children))


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_deadline_that_is_none_is_refused(value):
    with pytest.raises(UsageError, match=r"some\.deadline_s="):
        Child("the child", "targets:echo", key="some.deadline_s", deadline_s=value, env={}, log=False)


def wait_for(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
