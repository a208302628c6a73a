"""A Ray cluster: connected to, looked at, and a placement group in it. The only module that speaks of Ray's nodes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

import insight_rl
from insight_rl.errors import UsageError
from insight_rl.runtime.ray_bundles import Bundle

_ADDRESS_KEY = "runtime.address"
_PROBE_S = 5.0
_ASK_S = 300.0


def connect(address: str | None, *, num_cpus: int | None = None) -> bool:
    """Connect to the cluster at ``address``, or start one; whether it was not connected already.

    Raises ``UsageError`` where nobody answers, or Ray refuses.
    """
    if ray.is_initialized():
        return False
    if address not in (None, "auto"):
        assert address is not None
        _check_answer(address)
    options: dict[str, Any] = {"address": address}
    if address is None:
        # As many as asked for: on one machine Ray's CPUs are a count of processes, and not of cores.
        options = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _own_signals():
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises plain ones where a node does not start
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"{_ADDRESS_KEY}={'null' if address is None else address}: Ray does not let this process in ({reason}); "
            f"{_remedy(address)}"
        ) from error
    return True


def _remedy(address: str | None) -> str:
    if address is None:
        return "free memory and room in /dev/shm, or give the address of a running cluster"
    if address == "auto":
        return "start a cluster with `ray start --head` on this machine, give HOST:PORT, or null to start one here"
    return "the command has to run on a machine of the cluster, with the same versions of Ray and Python"


def _check_answer(address: str) -> None:
    """Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        raise UsageError(
            f"{_ADDRESS_KEY}={address}: no Ray cluster answers there ({error.strerror or error}); `ray start --head` "
            "prints the address of a cluster, and null starts one here"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes over SIGTERM, which is a request to finish the step; a closed terminal must not end its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def count_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


class Reservation:
    """A placement group with one bundle for each of ``bundles``; it is given back by :meth:`release`.

    Raises ``UsageError`` where the cluster has not enough within ``wait_s`` seconds.
    """

    def __init__(self, bundles: Sequence[Bundle], *, cpus_per_process: int, wait_s: float) -> None:
        self._bundles = list(bundles)
        self._cpus_per_process = cpus_per_process
        wanted = [bundle.resources(cpus_per_process=cpus_per_process) for bundle in bundles]
        self._group = placement_group(wanted, strategy="PACK")
        if not self._group.wait(timeout_seconds=wait_s):
            self.release()
            raise UsageError(_too_little(wanted, wait_s))

    def release(self) -> None:
        remove_placement_group(self._group)

    # -- where things are

    def _node_of(self, bundle: int) -> str:
        return str(placement_group_table(self._group)["bundles_to_node_id"][bundle])

    def check_nodes(self, folders: Sequence[Path]) -> None:
        """Raise ``UsageError`` for a machine without this version of the package, or without one of ``folders``."""
        nodes = sorted({self._node_of(index) for index in range(len(self._bundles))})
        look = ray.remote(num_cpus=0)(_look_around)
        names = [str(folder) for folder in folders]
        strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        answers = [look.options(scheduling_strategy=strategy).remote(names) for strategy in strategies]
        for node, reference in zip(nodes, answers, strict=True):
            try:
                host, version, missing = ray.get(reference, timeout=_ASK_S)
            except (RayError, GetTimeoutError) as error:
                reason = str(error).strip().splitlines()[-1]
                raise UsageError(
                    f"runtime=ray: node {node[:8]} cannot run this package ({reason}); install insight-rl there, in "
                    "the environment that `ray start` was called in"
                ) from error
            if version != insight_rl.__version__:
                raise UsageError(
                    f"runtime=ray: {host} has insight-rl {version} and this machine {insight_rl.__version__}; install "
                    "the same on both"
                )
            if missing:
                raise UsageError(
                    f"runtime=ray: {host} does not see {missing[0]}, which every machine needs under the same path; "
                    "put it on a shared file system (run_dir=..., model.path=...)"
                )

    def _gpus_of(self, bundle: int) -> list[str]:
        """Their numbers on their machine, in the order of the bundle's devices."""
        ask = ray.remote(num_cpus=0, num_gpus=len(self._bundles[bundle].devices))(_own_gpus)
        return sorted(ray.get(ask.options(scheduling_strategy=self._strategy(bundle)).remote(), timeout=_ASK_S))

    def _strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)

    # -- ranks and workers

    def bundle_of_rank(self, rank: int) -> int:
        return next(index for index, bundle in enumerate(self._bundles) if rank in bundle.ranks)

    def bundle_of_worker(self, number: int) -> int:
        return next(index for index, bundle in enumerate(self._bundles) if number in bundle.workers)

    def gpus_of_worker(self, number: int) -> dict[str, str]:
        """What makes the GPUs of a worker visible to its process; nothing on a CPU."""
        bundle = self.bundle_of_worker(number)
        return _visible(self._gpus_of(bundle)) if self._bundles[bundle].devices else {}

    def gpus_of_ranks(self, ranks: Sequence[int], devices: Sequence[str]) -> dict[str, str]:
        """As :meth:`gpus_of_worker`, for the one GPU each of ``ranks``, which are on one machine, in their order."""
        found = []
        for rank in ranks:
            index = self.bundle_of_rank(rank)
            bundle = self._bundles[index]
            if bundle.devices:
                found.append(self._gpus_of(index)[bundle.devices.index(devices[rank])])
        return _visible(found) if found else {}

    def start_actor(self, kind: type, bundle: int, *, groups: Mapping[str, int]) -> Any:
        """An actor in the bundle, made as ``kind(None)``.

        ``groups``: numbers of methods that run at the same time as its others, by the group's name.
        """
        # No record of each call: the head node keeps the newest 100,000 in memory, and a run makes several a prompt.
        options = {"num_cpus": self._cpus_per_process, "enable_task_events": False}
        make = ray.remote(**options, concurrency_groups=dict(groups))(kind)
        strategy = self._strategy(bundle)
        # Ray takes a while to see that a machine is gone: until then an actor that is to start on it dies at once, but
        # a task is tried again, and comes to where the bundle is then.
        is_there = ray.remote(num_cpus=0, max_retries=-1)(_answer).options(scheduling_strategy=strategy).remote()
        # Which GPUs it sees is set by gpus_of_*: ranks and workers share them, which Ray does not count in whole ones.
        return make.options(scheduling_strategy=strategy, max_restarts=0).remote(is_there)


def end_actor(actor: Any) -> None:
    """End it now, with its process."""
    ray.kill(actor, no_restart=True)


def _visible(gpus: Sequence[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def _too_little(wanted: Sequence[Mapping[str, float]], wait_s: float) -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    needed = {name: sum(bundle.get(name, 0) for bundle in wanted) for name in ("CPU", "GPU")}
    parts = [
        f"{needed[name]:g} {name}s are needed, {free.get(name, 0):g} are free of {total.get(name, 0):g} in the cluster"
        for name in ("CPU", "GPU")
        if needed[name]
    ]
    largest = max(sum(bundle.values()) for bundle in wanted)
    return (
        f"runtime=ray: no room within runtime.wait_s={wait_s:g} seconds ({'; '.join(parts)}; the largest part, "
        f"{largest:g} of them, has to be on one machine); take fewer (learner.num_ranks, rollout.num_workers, "
        "rollout.tensor_parallel_size, runtime.cpus_per_process), or add machines"
    )


# -- what is asked on a node


def _look_around(folders: Sequence[str]) -> tuple[str, str, list[str]]:
    return socket.gethostname(), insight_rl.__version__, [folder for folder in folders if not os.path.isdir(folder)]


def _answer() -> None:
    """Says by its end that the machine is there."""


def _own_gpus() -> list[str]:
    return [str(number) for number in ray.get_gpu_ids()]
