"""``runtime=local`` gives learner and pool the processes of this machine."""

import os

from insight_rl.build import build_part
from insight_rl.learner.processes import RankProcesses
from insight_rl.rollout.pool import WorkerPlan
from insight_rl.rollout.vllm_process import VllmProcesses
from insight_rl.runtime.local import LocalRuntime


class Rank:
    def pid_and_rank(self):
        return os.getpid(), int(os.environ["RANK"])

    def close(self):
        pass


def test_ranks_are_processes_and_workers_those_of_the_plan():
    runtime = build_part("runtime", {"_target_": "insight_rl.runtime.local.LocalRuntime"})
    assert isinstance(runtime, LocalRuntime) and runtime.is_here
    plan = WorkerPlan(
        module="module", start_arguments={}, devices=[()], num_threads=None, show_log=False, deadline_s=1.0
    )
    assert runtime.make_host(plan) == VllmProcesses(plan)
    ranks = runtime.start_ranks(Rank, 2, deadline_s=60.0)
    assert isinstance(ranks, RankProcesses)
    try:
        (one, first), (other, second) = ranks.call("pid_and_rank", [(), ()])
    finally:
        ranks.close()
    assert (first, second) == (0, 1) and len({one, other, os.getpid()}) == 3
