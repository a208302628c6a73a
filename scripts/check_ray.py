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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_nodes import two_nodes

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
