"""``runtime=ray``: ranks and rollout workers are actors of a Ray cluster, on one machine or many.

Ray is imported only here and in the modules beside this one, and only when a run connects.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insight_rl.errors import UsageError, check
from insight_rl.learner.processes import MakeWorker, Ranks
from insight_rl.placement import Placement
from insight_rl.rollout.pool import WorkerHost, WorkerPlan
from insight_rl.rollout.vllm_process import WORKER_DEFAULTS
from insight_rl.runtime.ray_bundles import bundles_of
from insight_rl.runtime.settings import RuntimeSettings

if TYPE_CHECKING:
    from insight_rl.runtime.ray_cluster import Reservation

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


class RayRuntime(RuntimeSettings):
    """See :class:`~insight_rl.runtime.base.Runtime`. The comments on its settings are in ``conf/runtime/ray.yaml``.

    Multi-GPU placement is written from Ray's documentation and has not yet been run on a GPU.
    """

    @property
    def is_here(self) -> bool:
        return False

    def __init__(
        self,
        *,
        address: str | None = None,
        cpus_per_process: int = 1,
        wait_s: float = 60.0,
        max_restarts: int = 1,
        heartbeat_deadline_s: float = 120.0,
        grace_s: float | None = None,
    ) -> None:
        super().__init__(max_restarts=max_restarts, heartbeat_deadline_s=heartbeat_deadline_s, grace_s=grace_s)
        check(
            address is None or address == "auto" or _HOST_AND_PORT.fullmatch(address) is not None,
            "runtime.address",
            address,
            "must be auto, HOST:PORT (as `ray start --head` prints it, no ray://), or null to start a cluster here",
        )
        check(cpus_per_process >= 1, "runtime.cpus_per_process", cpus_per_process, "must be at least 1")
        check(0 < wait_s < float("inf"), "runtime.wait_s", wait_s, "must be a number of seconds above 0")
        self.address = address
        self.cpus_per_process = cpus_per_process
        self.wait_s = wait_s
        self._has_connected = False
        self._reservation: Reservation | None = None
        self._rank_devices: tuple[str, ...] = ()

    def count_gpus(self) -> int:
        _check_installed()
        if self.address is None:
            import torch

            return torch.cuda.device_count()
        from insight_rl.runtime.ray_cluster import count_gpus

        self._connect()
        return count_gpus()

    def reserve(self, placement: Placement, folders: Sequence[Path]) -> None:
        _check_installed()
        from insight_rl.runtime.ray_cluster import Reservation

        bundles = bundles_of(placement)
        num_processes = len(placement.ranks) + len(placement.workers)
        cores = len(os.sched_getaffinity(0))
        self._connect(num_cpus=max(cores, num_processes * self.cpus_per_process))
        self._reservation = Reservation(bundles, cpus_per_process=self.cpus_per_process, wait_s=self.wait_s)
        self._rank_devices = placement.ranks
        self._reservation.check_nodes(folders)

    def _connect(self, *, num_cpus: int | None = None) -> None:
        from insight_rl.runtime.ray_cluster import connect

        self._has_connected = connect(self.address, num_cpus=num_cpus) or self._has_connected

    def start_ranks(self, make_worker: MakeWorker, num_ranks: int, *, deadline_s: float) -> Ranks:
        from insight_rl.runtime.ray_cluster import end_actor
        from insight_rl.runtime.ray_pulse import BESIDE
        from insight_rl.runtime.ray_ranks import RayRanks

        reservation = self._reserved()

        def start_actor(kind: type, rank: int) -> Any:
            return reservation.start_actor(kind, reservation.bundle_of_rank(rank), groups={BESIDE: 3})

        return RayRanks(
            make_worker,
            num_ranks,
            start_actor=start_actor,
            end_actor=end_actor,
            visible_gpus=partial(reservation.gpus_of_ranks, devices=self._rank_devices),
            environment={"OMP_NUM_THREADS": str(self.cpus_per_process)},
            deadline_s=deadline_s,
        )

    def make_host(self, plan: WorkerPlan) -> WorkerHost[Any]:
        from insight_rl.runtime.ray_cluster import end_actor
        from insight_rl.runtime.ray_pulse import BESIDE
        from insight_rl.runtime.ray_workers import RayWorkers

        reservation = self._reserved()

        def start_actor(kind: type, number: int) -> Any:
            actor = reservation.start_actor(kind, reservation.bundle_of_worker(number), groups={BESIDE: 1})
            threads = {"OMP_NUM_THREADS": str(plan.num_threads or self.cpus_per_process)}
            actor.set_environment.remote(threads | reservation.gpus_of_worker(number), WORKER_DEFAULTS)
            return actor

        return RayWorkers(plan=plan, start_actor=start_actor, end_actor=end_actor)

    def _reserved(self) -> Reservation:
        assert self._reservation is not None, "nothing has been reserved"
        return self._reservation

    def close(self) -> None:
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        if self._has_connected:
            import ray

            ray.shutdown()
            self._has_connected = False


def _check_installed() -> None:
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "runtime=ray: Ray is not installed; install it with `pip install 'insight-rl[ray]'`, or take runtime=local"
        )
