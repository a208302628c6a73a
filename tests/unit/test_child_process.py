"""Child processes in general; the learner's ranks and the rollout process have tests of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insight_rl.child_process import Child, ChildLost, Patience, end_all_at_once, start_process
from insight_rl.errors import UsageError

TARGETS = """
import multiprocessing, os, sys, time
from insight_rl.child_process import Channel

def echo(fd):
    channel = Channel.from_fd(fd)
    while True:
        channel.send(channel.receive())

def deaf(fd):
    print("nobody is listening", file=sys.stderr, flush=True)
    time.sleep(600)

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


def test_a_file_of_stacks_that_cannot_be_written_does_not_hide_the_reason(start, monkeypatch):
    monkeypatch.setattr("insight_rl.child_process._stacks_folder", Path("/no/such/folder"))
    with pytest.raises(ChildLost, match=r"the child gave no sign of life .* could not be written to /no/such/folder"):
        start("deaf", deadline_s=0.5).receive(doing="answer")


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
