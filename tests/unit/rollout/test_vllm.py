"""What the vLLM engine checks and promises before vLLM is ever imported."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from insight_rl.child_process import ChildLost
from insight_rl.errors import UsageError
from insight_rl.rollout import vllm
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm import VllmEngine, _WorkerProcess


def test_importing_the_engine_imports_neither_vllm_nor_torch():
    code = "import sys, insight_rl.rollout.vllm; print(sorted({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("key", "value"), [("num_threads", 0), ("deadline_s", 0), ("deadline_s", float("inf"))])
def test_a_wrong_setting_is_named(key, value):
    with pytest.raises(UsageError, match=rf"rollout\.{key}={value}"):
        VllmEngine(**{key: value})


def test_without_vllm_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'insight-rl\[cpu\]'"):
        VllmEngine().start(RolloutSpec(model_path=tmp_path, dtype="float32", max_length=64, seed=0))


STUB = """
import os, subprocess, sys, time
from insight_rl.rollout import vllm_worker

class Worker:
    def start(self):
        yield "cpu", 1

    def count(self, *, number, pause_s, sign=False):
        for i in range(number):
            time.sleep(pause_s)
            yield vllm_worker.ALIVE if sign else i

    def be_read_only(self):
        print("Free memory on device is less than desired", file=sys.stderr, flush=True)
        raise OSError(30, "Read-only file system", "/dev/shm/psm_1")

    def refuse(self):
        raise vllm_worker.RefusedError("no_such_setting is not known")
        yield

    def fork(self):
        # A grandchild with a copy of the socket, as a forked engine core has.
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        yield pid

    def environment(self, *, name):
        yield os.environ.get(name)

    def shut_down(self):
        pass

vllm_worker._Worker = Worker
serve = vllm_worker.serve
"""


@pytest.fixture
def make_process(tmp_path, monkeypatch):
    """The rollout process with another thing than vLLM in it."""
    (tmp_path / "stub_worker.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(vllm, "_TARGET", "stub_worker:serve")
    processes = []

    def make(deadline_s=120.0):
        processes.append(_WorkerProcess(num_threads=1, show_log=False, deadline_s=deadline_s))
        processes[-1].start()
        return processes[-1]

    yield make
    for process in processes:
        process.close()


def test_results_come_one_by_one_and_a_caller_may_stop_early(make_process):
    process = make_process()
    assert process.device == "cpu"
    assert next(process.stream("count", number=5, pause_s=0)) == 0
    assert list(process.stream("count", number=3, pause_s=0)) == [0, 1, 2]


def test_the_death_of_the_process_is_noticed_while_a_grandchild_holds_its_socket(make_process):
    process = make_process()
    (grandchild,) = process.stream("fork")
    stream = process.stream("count", number=1000, pause_s=0.1)
    next(stream)
    os.kill(process.pid, signal.SIGKILL)
    try:
        with pytest.raises(ChildLost, match=r"the vLLM process died in count \(killed by SIGKILL\)"):
            list(stream)
        os.kill(grandchild, 0)  # it was there all the time
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_signs_of_life_keep_long_work_going_and_silence_ends_it(make_process):
    process = make_process(deadline_s=1.5)
    assert list(process.stream("count", number=8, pause_s=0.5, sign=True)) == []
    with pytest.raises(
        ChildLost, match=r"the vLLM process gave no sign of life .* in count; .*rollout\.deadline_s=1\.5"
    ):
        list(process.stream("count", number=1, pause_s=600))


def test_a_failure_quotes_the_log_and_is_no_silent_exit(make_process):
    """Also an OSError, which is not the socket's."""
    process = make_process()
    with pytest.raises(
        RuntimeError, match=r"vLLM failed in be_read_only:[\s\S]*Read-only file system[\s\S]*Free memory"
    ):
        process.call("be_read_only")
    process.call("count", number=1, pause_s=0)


def test_settings_that_vllm_refuses_are_reported_in_its_words(make_process):
    with pytest.raises(UsageError, match=r"rollout: vLLM refused .*engine_args.*: no_such_setting is not known"):
        make_process().call("refuse")


def test_a_process_in_the_middle_of_a_generation_is_not_waited_for_at_the_end(make_process):
    process = make_process()
    stream = process.stream("count", number=2, pause_s=0)
    next(stream)
    os.kill(process.pid, signal.SIGSTOP)
    process._child.end(grace_s=10**6)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_vllm_spawns_its_own_processes_and_does_not_meet_the_learners_ranks(make_process, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1234")
    process = make_process()
    assert list(process.stream("environment", name="VLLM_WORKER_MULTIPROC_METHOD")) == ["spawn"]
    assert list(process.stream("environment", name="MASTER_PORT")) == [None]
