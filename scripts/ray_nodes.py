"""Ray nodes on one machine, for checks: each is a group of processes of its own, and one of them can be lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from processes_of_a_run import descendants

from insight_rl.child_process import free_port

FOR_A_BUSY_MACHINE = {
    "health_check_timeout_ms": 60_000,
    "health_check_failure_threshold": 20,
    "worker_register_timeout_seconds": 600,
    "agent_register_timeout_ms": 600_000,
    "prestart_worker_first_driver": False,
    "enable_metrics_collection": False,
}
"""A slow node must not be taken for a dead one where others want its cores; and nothing is started that is not used."""
FOR_LOST_NODES = FOR_A_BUSY_MACHINE | {"health_check_timeout_ms": 5_000, "health_check_failure_threshold": 3}
"""A stopped node is to be taken for a dead one after about half a minute, as Ray does by itself."""
START_S = 300.0


class RayNodes:
    """A head node and others behind it, each with two CPUs; :meth:`close` ends them all.

    Example: ``nodes = RayNodes(2)``, then ``runtime.address={nodes.address}``.
    """

    def __init__(self, number: int = 2, *, settings: dict[str, Any] = FOR_A_BUSY_MACHINE) -> None:
        from ray.cluster_utils import Cluster

        head = {**self._common(), "include_dashboard": False, "no_monitor": True, "_system_config": settings}
        with patience_with_nodes():
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others: list[Any] = []
        self._lost: list[Any] = []
        for _ in range(number - 1):
            self.add()

    @staticmethod
    def _common() -> dict[str, Any]:
        return {"num_cpus": 2, "object_store_memory": 80 << 20, "include_log_monitor": False, **ports()}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        """Another node, as an operator gives in the place of one that is lost."""
        with patience_with_nodes():
            self._others.append(self._cluster.add_node(**self._common(), wait=False))

    def pids(self) -> set[int]:
        """Of the nodes that are not lost, with all they have started."""
        return {pid for node in (self._cluster.head_node, *self._others) for pid in _pids_of(node)}

    def lose(self, number: signal.Signals) -> set[int]:
        """Send a signal to every process of a node that is not the head, the youngest; returns their numbers."""
        node = self._others.pop()
        self._lost.append(node)
        pids = _pids_of(node)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def end_lost(self) -> None:
        """End what still is there of lost nodes, stopped processes too."""
        for node in self._lost:
            for pid in _pids_of(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._cluster.remove_node(node, allow_graceful=False)
        self._lost.clear()

    def close(self) -> None:
        import ray

        self.end_lost()
        ray.shutdown()
        self._cluster.shutdown()


def _pids_of(node: Any) -> set[int]:
    own = {each.process.pid for processes in node.all_processes.values() for each in processes}
    return own | {pid for parent in own for pid in descendants(parent)}


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two."""
    nodes = RayNodes(2)
    try:
        yield nodes.address
    finally:
        nodes.close()


def ports() -> dict[str, int]:
    """Those of a node's agents. A node that is left to choose them waits 20 s for its agents to say which, and dies."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    numbers: set[int] = set()
    while len(numbers) < len(names):  # the same one may be free twice
        numbers.add(free_port())
    return dict(zip(names, numbers, strict=True))


@contextmanager
def patience_with_nodes() -> Iterator[None]:
    """Ray gives a node 30 s to start, whatever it is told; on a busy machine that is not enough."""
    from ray._private import services

    get_node = services.get_node

    def wait_for_node(gcs_address: str, node_id: str) -> Any:
        end = time.monotonic() + START_S
        while True:
            try:
                return get_node(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node
