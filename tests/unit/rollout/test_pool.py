"""The pool over workers that die, hang and fail at every possible moment.

The workers run the real code of both sides (``rollout/vllm_process.py`` and ``vllm_worker.py``, messages and versions);
replaced are vLLM, the socket and the process. As with real ones, what was answered before a death can still be read, a
new worker has the weights of the model's folder and not those of the run, and answers come in any order.
"""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.child_process import ChildLost
from insight_rl.errors import RanksLost, RunStopped
from insight_rl.rollout import vllm_worker
from insight_rl.rollout.pool import WorkerFailed, WorkerLost, WorkerPool
from insight_rl.rollout.vllm_process import VllmProcess
from insight_rl.rollout.vllm_worker import Request
from insight_rl.weight_sync.base import call_all
from tests.unit.rollout import stub_worker


@pytest.fixture(scope="module", autouse=True)
def stub_engine():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stub_worker.STUBS.items():
            patch.setattr(vllm_worker, name, value)
        for name, module in stub_worker.MODULES.items():
            patch.setitem(sys.modules, name, module)
        yield


class InProcessChild:
    """Both ends of a child process, without the process: it does one thing at a time, when it is told to."""

    def __init__(self, name, *, dies_after=None, hangs_after=None):
        self.name, self.dies_after, self.hangs_after = name, dies_after, hangs_after
        self.channel = SimpleNamespace(has_message=lambda: bool(self._out), fileno=lambda: -1)
        self.is_dead = self.is_closed = False
        self._worker, self._in, self._out, self._answers = stub_worker.Worker(), deque(), deque(), iter(())
        self._num_done = 0

    @property
    def is_silent(self):
        return self.hangs_after is not None and self._num_done >= self.hangs_after

    def advance(self):
        """Answer one thing more, if there is anything to do; between any two answers it may die or hang."""
        if self.is_dead or self.is_closed or self.is_silent:
            return
        if self._num_done == self.dies_after:
            self.is_dead = True
            return
        self._num_done += 1
        for answer in self._answers:
            self._out.append(pickle.dumps(answer))
            return
        if self._in or self._worker.is_generating:
            inbox = SimpleNamespace(
                has_message=lambda: bool(self._in), receive=lambda: pickle.loads(self._in.popleft())
            )
            self._answers = vllm_worker.next_answers(self._worker, inbox)

    def send(self, message, *, doing):
        if self.is_dead:
            self.fail_as_dead(doing, None)
        self._in.append(pickle.dumps(message))

    def receive(self, *, doing, patience):
        while not self._out:
            self.look(patience, doing=doing)
            self.advance()
        return pickle.loads(self._out.popleft())

    def look(self, patience, *, doing):
        if self.is_dead and not self._out:
            self.fail_as_dead(doing, None)
        if self.is_silent:
            raise ChildLost(f"{self.name} gave no sign of life for 60 s in {doing}", "")

    def fail_as_dead(self, doing, cause):
        raise ChildLost(f"{self.name} died in {doing} (killed by SIGKILL)", "")

    def answered(self):
        assert not self._worker.is_generating or self.is_dead, "something is still at work"

    def log_tail(self):
        return ""


class Host:
    """``faults`` are those of each worker in the order in which they are made; ``choose(n)`` says who goes on next."""

    def __init__(self, faults=(), choose=None):
        turns = itertools.count()
        self.choose = choose or (lambda n: next(turns) % n)
        self.faults, self.made, self.closed = deque(faults), [], []

    def make(self, index):
        assert all(worker in self.closed for at, worker in self.made if at == index), "the one before is ended first"
        child = InProcessChild(f"rollout worker {index}", **(self.faults.popleft() if self.faults else {}))
        process = VllmProcess(child)
        self.made.append((index, process))
        process.begin("start")
        return process

    def wait(self, workers):
        workers[self.choose(len(workers))]._child.advance()

    def close(self, workers):
        for worker in workers:
            worker._child.is_closed = True
            self.closed.append(worker)


class Weights:
    """Whole numbers as weights."""

    def __init__(self, value):
        self.value = value


@dataclass
class Channel:
    """As ``weight_sync=shared_memory``: a folder that every worker reads."""

    folder: object

    def send(self, weights, processes):
        (self.folder / "weights.txt").write_text(str(weights.value))
        call_all(processes, "reload", folder=str(self.folder))
        return {"time/sync_write_s": 0.0}


def make_requests(number, num_tokens=5):
    return [
        Request(
            prompt_id=f"prompt/{seed}",
            token_ids=[1] * num_tokens,
            num_rollouts=2,
            max_tokens=10,
            temperature=1.0,
            top_p=1.0,
            seed=seed,
            stop_token_ids=[2],
        )
        for seed in range(number)
    ]


def make_pool(host, *, num_workers=2, max_tokens=60, max_replaced=8, say=lambda text: None):
    return WorkerPool(host, num_workers=num_workers, max_tokens=max_tokens, max_replaced=max_replaced, say=say)


def check_answers(pool, requests, weights, **settings):
    answers = list(pool.generate(requests, **settings))
    assert sorted(index for index, _ in answers) == list(range(len(requests)))
    for index, answer in answers:
        assert answer.samples == stub_worker.samples_of(requests[index], weights)
        assert answer.version == pool.version
    return answers


# Faults come after the three things that a worker does in order to start.
FAULT = st.one_of(
    st.just({}),
    st.builds(lambda after: {"dies_after": 3 + after}, st.integers(0, 60)),
    st.builds(lambda after: {"hangs_after": 3 + after}, st.integers(0, 60)),
)


@settings(deadline=None)
@given(
    num_workers=st.integers(1, 3),
    faults=st.lists(FAULT, max_size=8),
    choices=st.randoms(use_true_random=False),
    plan=st.lists(st.sampled_from(["generate", "update", "stop early", "call"]), min_size=1, max_size=6),
)
def test_whatever_dies_and_whenever_each_prompt_is_answered_once_with_the_right_weights(
    num_workers, faults, choices, plan, tmp_path_factory
):
    """Or the run ends and names the prompt that was at work in both losses."""
    host = Host(faults, choices.randrange)
    said = []
    pool = make_pool(host, num_workers=num_workers, max_replaced=100, say=said.append)
    channel, weights, version = Channel(tmp_path_factory.mktemp("w")), 0, 0
    requests = make_requests(7)
    try:
        for action in plan:
            if action == "generate":
                check_answers(pool, requests, weights)
            elif action == "stop early":
                next(pool.generate(requests))
            elif action == "call":
                pool.call("sleep")
            else:
                weights, version = weights + 10, version + 1
                assert pool.update(channel, Weights(weights), version=version) == {"time/sync_write_s": 0.0}
            assert pool.version == version
    except RunStopped as error:
        assert str(error).startswith("prompt prompt/") and "each time when 2 rollout workers were lost" in str(error)
    assert len(host.made) == num_workers + pool.num_replaced
    assert len(said) == pool.num_replaced <= len(faults)
    pool.close()
    assert len(host.closed) == len({id(worker) for worker in host.closed}) == len(host.made)


def test_all_workers_sample_and_a_prompt_is_handed_out_once_one_has_room():
    pool = make_pool(Host(), num_workers=3, max_tokens=60)
    loads = []
    for worker in pool.workers:
        engine = worker._child._worker._llm
        engine.step = lambda engine=engine, step=engine.step: loads.append(len(engine.at_work)) or step()
    check_answers(pool, make_requests(30), weights=0)
    # Each request may come to 25 tokens: a third one still begins below 60.
    assert set(loads) == {1, 2, 3}
    assert loads.count(3) > len(loads) / 2


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_answers_do_not_depend_on_how_many_workers_there_are(num_workers):
    pool = make_pool(Host(), num_workers=num_workers)
    answers = check_answers(pool, make_requests(12), weights=0)
    assert len(answers) == 12


def test_one_worker_can_be_asked_for_all_of_it(tmp_path):
    pool = make_pool(Host())
    pool.update(Channel(tmp_path), Weights(10), version=1)
    pool.workers[0]._child.hangs_after = 0
    check_answers(pool, make_requests(5), 10, only=1)


def test_a_worker_that_samples_with_other_weights_than_the_run_is_a_defect(tmp_path):
    """Every worker holds the version that it was given; here one was given another behind the pool's back."""
    pool = make_pool(Host())
    pool.update(Channel(tmp_path), Weights(10), version=1)
    Channel(tmp_path).send(Weights(20), [pool.workers[0]])
    pool.workers[0].call("set_version", version=7)
    with pytest.raises(RuntimeError, match="rollout worker 0 sampled with weights of version 7, and the run is at 1"):
        list(pool.generate(make_requests(1)))


def test_a_channel_that_forgets_a_worker_is_noticed_in_the_sync(tmp_path):
    class Forgetful(Channel):
        def send(self, weights, processes):
            return super().send(weights, processes[:1])

    pool = make_pool(Host())
    with pytest.raises(WorkerFailed, match=r"rollout worker 1 failed in set_version[\s\S]*no weights have arrived"):
        pool.update(Forgetful(tmp_path), Weights(10), version=1)


def test_a_replacement_is_told_of_with_the_reason_and_what_is_issued_again(tmp_path):
    said = []
    pool = make_pool(Host([{"dies_after": 5}]), num_workers=1, say=said.append)
    check_answers(pool, make_requests(3), weights=0)
    assert said == [
        "rollout worker 0 died in generate (killed by SIGKILL); it is replaced (loss 1 of at most 8), and what it had "
        "not finished is issued again (3 of the prompts)"
    ]


def test_a_worker_that_fails_while_it_samples_is_replaced_and_the_reason_is_the_exceptions(tmp_path, monkeypatch):
    """Out of memory, say. The new one has the weights of the run."""
    said, steps = [], iter([None, MemoryError("CUDA out of memory")])
    pool = make_pool(Host(), num_workers=1, say=said.append)
    pool.update(Channel(tmp_path), Weights(10), version=4)
    step = pool.workers[0]._child._worker._llm.step

    def fail_once():
        error = next(steps, None)
        if error is not None:
            raise error
        return step()

    monkeypatch.setattr(pool.workers[0]._child._worker._llm, "step", fail_once)
    check_answers(pool, make_requests(4), weights=10)
    assert said[0].startswith("rollout worker 0 failed in generate: MemoryError: CUDA out of memory; it is replaced")


def test_a_prompt_that_two_workers_were_lost_with_ends_the_run_by_its_name():
    pool = make_pool(Host([{"dies_after": 5}] * 2), num_workers=1)
    with pytest.raises(RunStopped, match=r"prompt prompt/0 \(and 3 more\) was at work each time .*killed by SIGKILL"):
        list(pool.generate(make_requests(4)))


def test_a_prompt_is_not_given_to_a_worker_that_was_lost_together_with_its_first_one(monkeypatch):
    """With their machine; of a worker elsewhere that is noticed late."""
    said = []

    def say(text):
        said.append(text)
        mate._child.is_dead = True

    pool = make_pool(Host([{"dies_after": 5}]), say=say)
    mate = pool.workers[1]
    monkeypatch.setattr(mate, "poll", lambda: None)
    check_answers(pool, make_requests(1), weights=0)
    assert ["worker 0 died" in said[0], "worker 1 died" in said[1]] == [True, True] and pool.num_replaced == 2


def test_the_number_of_replacements_has_a_limit(tmp_path):
    pool = make_pool(Host([{"dies_after": 3}] * 3), num_workers=1, max_replaced=2)
    with pytest.raises(RunStopped, match=r"2 rollout workers have been lost.*raise rollout\.max_replaced_workers=2"):
        pool.update(Channel(tmp_path), Weights(10), version=1)


def test_without_replacements_a_loss_is_the_end_in_its_own_words():
    pool = make_pool(Host([{"dies_after": 5}]), max_replaced=0)
    with pytest.raises(WorkerLost, match=r"rollout worker 0 died in generate \(killed by SIGKILL\); the run can be"):
        list(pool.generate(make_requests(4)))


def test_a_worker_that_does_not_start_at_all_is_not_tried_again():
    host = Host([{}, {"dies_after": 1}])
    with pytest.raises(WorkerLost, match="rollout worker 1 died in start"):
        make_pool(host)
    assert len(host.made) == len(host.closed) == 2


def test_a_failing_sync_is_an_error_and_no_loss(tmp_path):
    class Failing(Channel):
        def send(self, weights, processes):
            call_all(processes, "reload", folder="/no/such/folder")
            return {}

    pool = make_pool(Host())
    with pytest.raises(WorkerFailed, match="No such file"):
        pool.update(Failing(tmp_path), Weights(10), version=1)
    assert pool.num_replaced == 0


def test_the_loss_of_a_learner_during_a_sync_is_not_taken_for_a_workers(tmp_path):
    class Losing(Channel):
        def send(self, weights, processes):
            raise RanksLost("learner rank 1 died", "learner rank 1 died in hand_over_weights")

    pool = make_pool(Host())
    with pytest.raises(RanksLost, match="learner rank 1"):
        pool.update(Losing(tmp_path), Weights(10), version=1)
    assert pool.num_replaced == 0


def test_a_transfer_never_begins_with_a_worker_that_has_died_before_it(tmp_path):
    """The others would wait for it in a collective."""

    class Looking(Channel):
        def send(self, weights, processes):
            assert not any(process._child.is_dead for process in processes)
            return super().send(weights, processes)

    pool = make_pool(Host())
    pool.workers[1]._child.is_dead = True
    pool.update(Looking(tmp_path), Weights(10), version=1)
    assert pool.num_replaced == 1


@settings(deadline=None, max_examples=40)
@given(
    num_workers=st.integers(1, 3),
    faults=st.lists(FAULT, max_size=4),
    choices=st.randoms(use_true_random=False),
    at=st.integers(0, 6),
)
def test_weights_that_come_in_the_middle_lose_no_prompt_whatever_dies(
    num_workers, faults, choices, at, tmp_path_factory
):
    pool = make_pool(Host(faults, choices.randrange), num_workers=num_workers, max_replaced=100)
    channel, requests = Channel(tmp_path_factory.mktemp("w")), make_requests(7)
    pool.update(channel, Weights(10), version=1)
    answers = []
    try:
        for index, answer in pool.generate(requests):
            answers.append(index)
            # What was begun with version 1 may end with the new weights; what was begun later has them.
            assert 1 <= answer.version <= pool.version
            of_weights = [stub_worker.samples_of(requests[index], weights) for weights in (10, 20)]
            assert answer.samples in of_weights[answer.version - 1 : pool.version]
            if len(answers) == at + 1:
                pool.update(channel, Weights(20), version=2, goes_on=True)
        assert sorted(answers) == list(range(7))
        check_answers(pool, requests, 20)
    except RunStopped as error:
        assert "each time when 2 rollout workers were lost" in str(error)
    assert len(answers) == len(set(answers))


def test_what_is_at_work_goes_on_after_an_update_and_carries_the_version_it_was_begun_with(tmp_path):
    pool = make_pool(Host(), num_workers=1)
    pool.update(Channel(tmp_path), Weights(10), version=1)
    requests = [
        dataclasses.replace(request, seed=4) for request in make_requests(3)
    ]  # all of them end in the same step
    generation = pool.generate([dataclasses.replace(requests[0], seed=0), *requests])
    first, answer = next(generation)
    assert (first, answer.version, answer.samples) == (0, 1, stub_worker.samples_of(make_requests(1)[0], 10))
    pool.update(Channel(tmp_path), Weights(20), version=2, goes_on=True)
    for _, answer in generation:
        assert (answer.version, answer.samples) == (1, stub_worker.samples_of(requests[0], 20))


def test_another_thread_may_bring_weights_and_end_a_generation(tmp_path):
    pool = make_pool(Host())
    endless = [dataclasses.replace(each, token_ids=[stub_worker.ENDLESS]) for each in make_requests(4)]
    with ThreadPoolExecutor(1) as thread:
        task = thread.submit(lambda: list(pool.generate(endless)))
        for version in (1, 2, 3):
            pool.update(Channel(tmp_path), Weights(10 * version), version=version, goes_on=True)
        assert not task.done()
        while not pool._requests:  # the thread has begun
            pass
        pool.abort()
        with pytest.raises(RuntimeError, match="this generation was ended"):
            task.result(60)
    check_answers(pool, make_requests(4), 30)


def test_a_generation_that_was_overtaken_by_another_does_not_go_on():
    pool = make_pool(Host())
    first = pool.generate(make_requests(4))
    next(first)
    check_answers(pool, make_requests(3), weights=0)
    with pytest.raises(RuntimeError, match="another generation has begun"):
        next(first)
