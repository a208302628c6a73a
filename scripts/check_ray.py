"""The same run with runtime=local and over two Ray nodes on this machine: do they decide the same?

    python scripts/check_ray.py                                         transformers workers, Accelerate, 10 steps
    python scripts/check_ray.py --steps 30 learner=deepspeed learner.zero_stage=3
    python scripts/check_ray.py rollout=vllm rollout.num_workers=2      log-probs alone: vLLM packs its weights

Countdown with the tiny model, two learner ranks, two rollout workers; further overrides hold for both runs. Every sync
is checked on every worker by log-probs (trainer.sync_check_every=1), and over Ray by a checksum of the loaded weights
against rank 0's. Prints a table and ends with 1 if the runs differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from insight_rl.child_process import free_port
from insight_rl.config import compose_config
from insight_rl.run import RunOutput, train
from insight_rl.weight_sync.object_store import ObjectStoreChannel

RUN = (
    "task=countdown",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=16",
    "trainer.sync_check_every=1",
    "learner.num_ranks=2",
    "learner.lr=1.0e-4",
    "rollout=transformers_workers",
    "rollout.num_threads=1",
    "evaluation.every=0",
    "checkpoint.every=1000",
    "monitor=jsonl",
)
MAX_LOGPROB_GAP = 1e-4
FOR_A_BUSY_MACHINE = {
    "health_check_timeout_ms": 60_000,
    "health_check_failure_threshold": 20,
    "worker_register_timeout_seconds": 600,
    "agent_register_timeout_ms": 600_000,
    "prestart_worker_first_driver": False,
    "enable_metrics_collection": False,
}
"""A slow node must not be taken for a dead one where others want its cores; and nothing is started that is not used."""
START_S = 300.0
NODES = ({"num_cpus": 2}, {"num_cpus": 2})


@dataclass(frozen=True)
class Comparison:
    same_selections: bool
    num_steps: int
    largest_gap: dict[str, float]
    """By runtime: over all steps, syncs and workers, in nats."""
    checksums: list[list[str]] = field(default_factory=list)
    """Of every sync over Ray: rank 0's, then each worker's."""

    @property
    def same_weights(self) -> bool:
        return all(len(set(of_sync)) == 1 for of_sync in self.checksums)

    @property
    def has_passed(self) -> bool:
        return self.same_selections and self.same_weights and max(self.largest_gap.values()) <= MAX_LOGPROB_GAP


@contextmanager
def two_nodes(nodes: Sequence[dict[str, int]] = NODES) -> Iterator[str]:
    """The address of a cluster whose nodes are groups of processes of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": 80 << 20, "include_log_monitor": False}
    head = {**nodes[0], **common, "include_dashboard": False, "no_monitor": True, "_system_config": FOR_A_BUSY_MACHINE}
    with patience_with_nodes():
        cluster = Cluster(initialize_head=True, head_node_args=head | ports())
        for node in nodes[1:]:
            cluster.add_node(**node, **common, **ports(), wait=False)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


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


@contextmanager
def noting_checksums(checksums: list[list[str]]) -> Iterator[None]:
    """Within the block every sync through the object store adds a list to ``checksums``."""
    original = ObjectStoreChannel.send

    def send(self: ObjectStoreChannel, weights: Any, processes: Any) -> Any:
        measured = original(self, weights, processes)
        of_learner = weights._learner._everywhere("checksum")
        checksums.append([of_learner, *(process.ask("checksum") for process in processes)])
        return measured

    ObjectStoreChannel.send = send  # type: ignore[method-assign]
    try:
        yield
    finally:
        ObjectStoreChannel.send = original  # type: ignore[method-assign]


def run_local(folder: Path, overrides: Sequence[str]) -> None:
    train(compose_config([*RUN, *overrides, f"run_dir={folder / 'local'}"]), RunOutput(keeps_model=False))


def compare(folder: Path, address: str, overrides: Sequence[str]) -> Comparison:
    """With the local run in ``folder``, which is made where it is not there."""
    if not (folder / "local").is_dir():
        run_local(folder, overrides)
    checksums: list[list[str]] = []
    over_ray = ["runtime=ray", f"runtime.address={address}", f"run_dir={folder / 'ray'}"]
    with nullcontext() if "rollout=vllm" in overrides else noting_checksums(checksums):
        train(compose_config([*RUN, *over_ray, *overrides]), RunOutput(keeps_model=False))
    runs = (folder / "local", folder / "ray")
    return Comparison(
        same_selections=len({(run / "selections.jsonl").read_bytes() for run in runs}) == 1,
        num_steps=len(_read(folder / "ray" / "selections.jsonl")),
        largest_gap={run.name: _largest_gap(_read(run / "metrics.jsonl")) for run in runs},
        checksums=checksums,
    )


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _largest_gap(records: Sequence[dict[str, Any]]) -> float:
    keys = ("rollout/logprob_gap_max", "sync/logprob_gap_max")
    return max(record[key] for record in records for key in keys if key in record)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path, help="folder for the two runs; by default one that is removed")
    parser.add_argument("--only-local", action="store_true", help="make the local run in --output alone, for later")
    parser.add_argument("--address", help="of a running cluster with four free CPUs; by default two nodes are started")
    arguments, overrides = parser.parse_known_args(argv)
    overrides = [f"trainer.num_steps={arguments.steps}", *overrides]
    if arguments.only_local:
        run_local(arguments.output, overrides)
        return 0
    nodes = nullcontext(arguments.address) if arguments.address else two_nodes()
    with tempfile.TemporaryDirectory() as temporary, nodes as address:
        result = compare(arguments.output or Path(temporary), address, overrides)
    print(f"steps                        {result.num_steps}")
    print(f"selections.jsonl             {'the same' if result.same_selections else 'DIFFERENT'}")
    for name, gap in result.largest_gap.items():
        print(f"largest log-prob gap, {name:6} {gap:.2g} nats (limit {MAX_LOGPROB_GAP:g})")
    equal = sum(len(set(of_sync)) == 1 for of_sync in result.checksums)
    print(f"syncs with equal checksums   {equal} of {len(result.checksums)}")
    return 0 if result.has_passed else 1


if __name__ == "__main__":
    sys.exit(main())
