"""Ranks and rollout workers as actors of two Ray nodes on this machine, with a stub where a model would be."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

from insight_rl.errors import RanksLost, RunStopped, UsageError
from insight_rl.learner.processes import RankFailed
from insight_rl.paths import conf_dir, data_dir
from insight_rl.placement import Placement
from insight_rl.rollout.pool import WorkerPlan, WorkerPool
from insight_rl.runtime.ray import RayRuntime
from insight_rl.runtime.ray_arrays import RayArray
from insight_rl.supervision import Supervision, supervise
from tests.support.ray_rank import RayRank
from tests.unit.rollout.stub_worker import FAILING, samples_of
from tests.unit.rollout.test_pool import Channel, Weights, make_requests

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

ON_A_CPU = Placement(ranks=("cpu", "cpu"), workers=(("cpu",), ("cpu",)))
MODEL = data_dir() / "tiny_countdown"


@pytest.fixture(scope="module")
def nodes():
    """Two, of two CPUs each. One that is busy is waited for, and one that is gone is soon seen to be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(conf_dir().parent / "scripts")
        ray_nodes = importlib.import_module("ray_nodes")
    nodes = ray_nodes.RayNodes(settings=ray_nodes.FOR_A_BUSY_MACHINE | {"health_check_failure_threshold": 3})
    yield nodes
    nodes.close()


@pytest.fixture(scope="module")
def address(nodes):
    return nodes.address


@pytest.fixture(scope="module")
def runtime(address, tmp_path_factory):
    runtime = RayRuntime(address=address)
    handler = signal.getsignal(signal.SIGTERM)
    runtime.reserve(ON_A_CPU, [tmp_path_factory.getbasetemp()])
    assert signal.getsignal(signal.SIGTERM) is handler, "Ray puts its own in its place"
    yield runtime
    runtime.close()


@pytest.fixture
def make_ranks(runtime):
    made = []

    def make(deadline_s=120.0):
        made.append(runtime.start_ranks(RayRank, 2, deadline_s=deadline_s))
        return made[-1]

    yield make
    for ranks in made:
        ranks.close(grace_s=0)


def test_ranks_get_their_own_arguments_know_their_place_and_may_ask(make_ranks):
    ranks = make_ranks()
    (one, pid, node, first), (two, other_pid, other_node, second) = ranks.call("about", [(1,), (2,)])
    assert (one, two) == (1, 2) and len({pid, other_pid, os.getpid()}) == 3
    assert (first["RANK"], second["RANK"]) == ("0", "1") and first["WORLD_SIZE"] == second["WORLD_SIZE"] == "2"
    assert first["MASTER_ADDR"] == second["MASTER_ADDR"] and first["OMP_NUM_THREADS"] == "1"
    together = node == other_node
    assert first["LOCAL_WORLD_SIZE"] == ("2" if together else "1")
    assert second["LOCAL_RANK"] == ("1" if together else "0")
    asked = []

    def answer(request, look):
        look()
        asked.append(request)
        return request.upper()

    assert ranks.call("send", [("a",), (None,)], answer=answer) == ["A", None]
    assert ranks.call("send", [("b",), ("c",)], answer=answer) == ["B", "C"]
    assert sorted(asked) == ["a", "b", "c"]
    with pytest.raises(UsageError, match=r"learner\.lr=-1"):
        ranks.call("refuse", [(), ()])


def test_a_rank_that_raises_or_dies_is_named(make_ranks):
    with pytest.raises(RankFailed, match=r"learner rank 1 failed in send(?s:.*)no memory for the gather"):
        make_ranks().call("send", [(None,), ("raise",)], answer=lambda request, look: None)
    with pytest.raises(RanksLost, match="learner rank 0 died in send"):
        make_ranks().call("send", [("die",), (None,)], answer=lambda request, look: None)


def test_a_rank_that_raises_beside_one_that_is_out_of_reach_is_not_the_cause(make_ranks):
    """As after a machine's loss, of which Ray hears last: the others' collectives fail first."""
    ranks = make_ranks()
    (_, pid, *_), _ = ranks.call("about", [(1,), (2,)])
    os.kill(pid, signal.SIGSTOP)
    with (
        supervise(Supervision(heartbeat_deadline_s=3.0)),
        pytest.raises(RanksLost, match="learner rank 0 is stopped, or out of reach, in send"),
    ):
        ranks.call("send", [(None,), ("raise",)], answer=lambda request, look: None)


def test_rollouts_that_are_gone_are_a_loss_of_the_ranks(make_ranks):
    class Keeper:
        def keep(self, seconds):
            time.sleep(seconds)
            return (np.arange(3),)

    keeper = ray.remote(num_cpus=0)(Keeper).remote()
    kept = RayArray(keeper.keep.remote(0), 0, 1, 3)
    ranks = make_ranks()
    assert ranks.call("total", [(kept,), (kept,)]) == [3, 3]
    gone = RayArray(keeper.keep.remote(600), 0, 1, 3)
    ray.kill(keeper)
    with pytest.raises(RanksLost, match="rollouts are gone with the machine that kept them"):
        np.asarray(gone)
    with pytest.raises(RanksLost, match="rollouts are gone with the machine that kept them") as error:
        ranks.call("total", [(gone,), (kept,)])
    assert "\n" not in error.value.reason


def make_pool(runtime, say, **settings):
    plan = WorkerPlan(
        module="tests.unit.rollout.stub_worker",
        start_arguments={"model_path": str(MODEL), **settings},
        devices=[(), ()],
        num_threads=1,
        show_log=False,
        deadline_s=120.0,
    )
    return WorkerPool(runtime.make_host(plan), num_workers=2, max_tokens=60, max_replaced=3, say=say)


def check_answers(pool, requests, weights):
    """Every request once, with its own samples, which lie in the store until somebody looks at them."""
    answers = list(pool.generate(requests))
    assert sorted(index for index, _ in answers) == list(range(len(requests)))
    for index, answer in answers:
        assert answer.version == pool.version
        for sample, wanted in zip(answer.samples, samples_of(requests[index], weights), strict=True):
            assert not isinstance(sample.token_ids, np.ndarray) and len(sample.token_ids) == len(wanted.token_ids)
            assert np.asarray(sample.token_ids).tolist() == list(wanted.token_ids)
            assert np.asarray(sample.logprobs).tolist() == list(wanted.logprobs)
            assert (sample.finish_reason, type(sample.text)) == ("stop", str)


@pytest.fixture
def said():
    return []


@pytest.fixture
def pool(runtime, said):
    pool = make_pool(runtime, said.append)
    yield pool
    pool.close()


def test_a_pool_of_actors_answers_every_request_once_and_replaces_what_is_lost(pool, said, tmp_path, monkeypatch):
    def sleep(seconds):
        pytest.fail("nobody waited for the worker, which has work and was not told to go on")

    with monkeypatch.context() as patch:
        patch.setattr("insight_rl.runtime.ray_workers.time", SimpleNamespace(sleep=sleep))
        check_answers(pool, make_requests(20), 0)
    pool.update(Channel(tmp_path), Weights(5), version=1)
    next(iter(pool.generate(make_requests(8))))  # a caller that does not listen to the end
    check_answers(pool, make_requests(8), 5)

    os.kill(ray.get(pool.workers[1].actor.where.remote()).pid, signal.SIGKILL)
    check_answers(pool, make_requests(8), 5)
    assert pool.num_replaced == 1 and len(said) == 1 and "rollout worker 1 died in" in said[0]

    # Alone: which prompts share a worker with it when the second one is lost depends on how fast the first one starts.
    (fatal,) = make_requests(1)
    with pytest.raises(RunStopped, match=r"prompt prompt/0 was (?s:.*)CUDA out of memory"):
        list(pool.generate([dataclasses.replace(fatal, token_ids=[FAILING])]))


def test_what_the_cluster_cannot_give_is_said_in_one_line(runtime, address, tmp_path):
    greedy = RayRuntime(address=address, cpus_per_process=3, wait_s=0.1)
    with pytest.raises(UsageError, match=r"runtime\.wait_s=0\.1 .*12 CPUs are needed, \d are free of 4") as error:
        greedy.reserve(ON_A_CPU, [])
    assert "\n" not in str(error.value)
    missing = tmp_path / "nowhere"
    with pytest.raises(UsageError, match=f"does not see {missing}, which every machine needs"):
        runtime._reserved().check_nodes([tmp_path, missing])


def test_what_ran_on_a_lost_machine_starts_on_the_next_one(nodes, pool, make_ranks, said):
    ranks = make_ranks()
    check_answers(pool, make_requests(4), 0)
    nodes.lose(signal.SIGKILL)
    nodes.add()
    lost_ranks = False
    try:
        ranks.call("about", [(1,), (2,)])
    except RanksLost:
        lost_ranks = True
    (one, *_), (two, *_) = make_ranks().call("about", [(1,), (2,)]) if lost_ranks else ranks.call("about", [(1,), (2,)])
    check_answers(pool, make_requests(8), 0)
    assert (one, two) == (1, 2)
    # Two CPUs each: of the four processes, two were there.
    assert 2 * lost_ranks + pool.num_replaced >= 2 and pool.num_replaced <= 2, said
