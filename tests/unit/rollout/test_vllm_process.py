"""Rollout workers as real processes and a pool of them, with another thing than vLLM inside (``stub_worker``)."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.rollout.pool import WorkerFailed, WorkerLost, WorkerPlan, WorkerPool
from insight_rl.rollout.vllm_process import VllmProcesses
from insight_rl.supervision import Supervision, supervise
from tests.unit.rollout.stub_worker import DEADLY, ENDLESS, FAILING, NUM_CACHE_TOKENS, samples_of
from tests.unit.rollout.test_pool import Channel, Weights, check_answers, make_requests

ROOT = Path(__file__).parents[3]


@pytest.fixture
def make_host(monkeypatch):
    """Hosts of processes with the stub in them, all of which are ended."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    hosts = []

    class Host(VllmProcesses):
        def make(self, index):
            made.append(super().make(index))
            return made[-1]

    made = []

    def make(deadline_s=120.0, num_workers=2, **start_arguments):
        devices = [(f"cuda:{index}",) for index in range(num_workers)]
        plan = WorkerPlan(
            module="tests.unit.rollout.stub_worker",
            start_arguments=start_arguments,
            devices=devices,
            num_threads=1,
            show_log=False,
            deadline_s=deadline_s,
        )
        hosts.append(Host(plan))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close(made)


@pytest.fixture
def make_process(make_host):
    def make(deadline_s=120.0, **start_arguments):
        process = make_host(deadline_s, **start_arguments).make(0)
        process.finish()
        return process

    return make


def make_pool(host, num_workers=2, say=lambda text: None, **settings):
    return WorkerPool(host, num_workers=num_workers, max_tokens=60, max_replaced=8, say=say, **settings)


def with_tokens(request, token):
    return dataclasses.replace(request, token_ids=[token])


def answers_of(process, number):
    answers, deadline = [], time.monotonic() + 60
    while len(answers) < number and time.monotonic() < deadline:
        answers += filter(None, [process.poll()])
    return answers


def test_requests_can_be_added_while_others_are_at_work(make_process):
    process = make_process(pause_s=0.02)
    assert (process.device, process.num_cache_tokens) == ("cpu", NUM_CACHE_TOKENS)
    requests = make_requests(6)
    process.submit({10: requests[4]})
    process.submit({11: requests[0], 12: requests[5]})
    answers = answers_of(process, 3)
    given = {10: requests[4], 11: requests[0], 12: requests[5]}
    assert sorted(answers) == [(key, samples_of(request, 0), 0) for key, request in given.items()]


def test_what_is_at_work_can_be_dropped(make_process):
    process = make_process()
    process.submit({0: with_tokens(make_requests(1)[0], ENDLESS), 1: make_requests(2)[1]})
    assert [answer.key for answer in answers_of(process, 1)] == [1]
    process.call("abort")
    process.submit({2: make_requests(1)[0]})
    assert [answer.key for answer in answers_of(process, 1)] == [2]


def test_settings_that_vllm_refuses_are_reported_in_its_words(make_process):
    with pytest.raises(UsageError, match=r"rollout\.engine_args.*float8 is no dtype"):
        make_process(dtype="float8")


def test_the_death_of_the_process_is_noticed_while_a_grandchild_holds_its_socket(make_process):
    process = make_process()
    process.call("fork")
    (grandchild,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.submit({0: with_tokens(make_requests(1)[0], ENDLESS)})
    os.kill(process.pid, signal.SIGKILL)
    try:
        with pytest.raises(WorkerLost, match=r"rollout worker 0 died in generate \(killed by SIGKILL\)") as error:
            answers_of(process, 1)
        assert error.value.reason == "rollout worker 0 died in generate (killed by SIGKILL)"
        os.kill(int(grandchild), 0)  # it was there all the time
        with pytest.raises(WorkerLost):
            process.check()
    finally:
        os.kill(int(grandchild), signal.SIGKILL)


def test_a_death_while_there_is_nothing_to_do_shows_in_a_check(make_process):
    process = make_process()
    process.check()
    os.kill(process.pid, signal.SIGKILL)
    process._child._process.wait()
    with pytest.raises(WorkerLost, match="rollout worker 0 died in waiting for work"):
        process.check()


def test_signs_of_life_keep_long_work_going_and_silence_ends_it(make_process):
    process = make_process(deadline_s=2.5, pause_s=0.05)
    process.submit({0: with_tokens(make_requests(1)[0], ENDLESS)})
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.2)
    process.call("abort")
    with pytest.raises(
        WorkerLost, match=r"rollout worker 0 gave no sign of life .* in hang; .*raise rollout\.deadline_s=2\.5"
    ):
        process.call("hang")


def test_a_failure_quotes_the_log_and_names_the_exception(make_process):
    process = make_process()
    process.submit({0: with_tokens(make_requests(1)[0], FAILING)})
    with pytest.raises(WorkerFailed, match=r"failed in generate:[\s\S]*out of memory[\s\S]*tried to allocate") as error:
        answers_of(process, 1)
    assert error.value.reason == "rollout worker 0 failed in generate: MemoryError: CUDA out of memory"
    with pytest.raises(WorkerFailed, match="No such file"):
        process.call("reload", folder="/no/such/folder")
    process.call("sleep")


def test_a_process_in_the_middle_of_a_generation_is_not_waited_for_at_the_end(make_process):
    process = make_process()
    process.submit({0: with_tokens(make_requests(1)[0], ENDLESS)})
    process.finish()
    os.kill(process.pid, signal.SIGSTOP)
    process._child.end(grace_s=10**6)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_each_process_has_its_own_gpus_and_does_not_meet_the_learners_ranks(make_host, tmp_path, monkeypatch):
    """And it spawns what vLLM starts: a fork would keep the socket."""
    monkeypatch.setenv("MASTER_PORT", "1234")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    host = make_host()
    for index, gpu in ((0, "4"), (1, "6")):
        process = host.make(index)
        process.call("write_environment", file=str(tmp_path / gpu))
        environment = dict(line.split("=", 1) for line in (tmp_path / gpu).read_text().splitlines() if "=" in line)
        assert environment["CUDA_VISIBLE_DEVICES"] == gpu
        assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert environment["OMP_NUM_THREADS"] == "1"
        assert "MASTER_PORT" not in environment


def test_a_worker_whose_engine_core_has_died_ends_and_counts_as_lost(make_process):
    """Whatever it was asked for: vLLM says so at the next call, which may be that of new weights."""
    process = make_process()
    with pytest.raises(WorkerLost, match=r"rollout worker 0 died in lose_engine \(exit code 1\)[\s\S]*EngineDeadError"):
        process.call("lose_engine")


def test_a_killed_and_a_stopped_worker_are_replaced_with_the_last_weights(make_host, tmp_path):
    said = []
    pool = make_pool(make_host(deadline_s=2.0, pause_s=0.05), say=said.append)
    pool.update(Channel(tmp_path), Weights(30), version=3)
    requests = make_requests(12)
    for worker, number in ((0, signal.SIGKILL), (1, signal.SIGSTOP)):
        stream = pool.generate(requests)
        answers = [next(stream)]
        os.kill(pool.workers[worker].pid, number)
        with supervise(Supervision(run_dir=tmp_path)):
            answers += stream
        assert sorted(index for index, _ in answers) == list(range(12))
        assert {answer.version for _, answer in answers} == {3}
        assert all(answer.samples == samples_of(requests[index], 30) for index, answer in answers)
    assert pool.num_replaced == 2
    assert "killed by SIGKILL" in said[0] and "gave no sign of life for 2 s in generate" in said[1]
    assert list(tmp_path.glob("stacks-*.txt"))
    pool.close()


def test_a_death_between_two_generations_or_in_a_sync_is_made_good(make_host, tmp_path):
    class KillingChannel(Channel):
        def send(self, weights, processes):
            os.kill(processes[0].pid, signal.SIGKILL)
            self.__class__ = Channel
            return self.send(weights, processes)

    pool = make_pool(make_host())
    pool.update(KillingChannel(tmp_path), Weights(10), version=1)
    assert pool.num_replaced == 1
    check_answers(pool, make_requests(6), 10)
    os.kill(pool.workers[1].pid, signal.SIGKILL)
    check_answers(pool, make_requests(6), 10)
    os.kill(pool.workers[0].pid, signal.SIGKILL)
    pool.workers[0]._child._process.wait()
    pool.update(Channel(tmp_path), Weights(20), version=2)
    assert pool.num_replaced == 3
    check_answers(pool, make_requests(6), 20)
    pool.close()


def test_a_prompt_that_kills_its_workers_ends_the_run_by_its_name(make_host):
    requests = make_requests(6)
    requests[4] = with_tokens(requests[4], DEADLY)
    pool = make_pool(make_host())
    with pytest.raises(RuntimeError, match=r"prompt prompt/\d .*was at work each time") as error:
        list(pool.generate(requests))
    named = re.search(r"prompt (prompt/\d)", str(error.value))
    assert named is not None and pool.num_replaced == 1
    pool.close()
