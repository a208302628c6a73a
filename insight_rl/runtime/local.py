"""``runtime=local``: ranks and rollout workers are processes of this machine, or this process itself. Needs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insight_rl.learner.processes import MakeWorker, RankProcesses, Ranks
from insight_rl.placement import Placement
from insight_rl.rollout.pool import WorkerHost, WorkerPlan
from insight_rl.rollout.vllm_process import VllmProcesses
from insight_rl.runtime.settings import RuntimeSettings


@dataclass(frozen=True, kw_only=True)
class LocalRuntime(RuntimeSettings):
    """See :class:`~insight_rl.runtime.base.Runtime`."""

    @property
    def is_here(self) -> bool:
        return True

    def count_gpus(self) -> int:
        import torch

        return torch.cuda.device_count()

    def reserve(self, placement: Placement, folders: Sequence[Path]) -> None:
        """The placement was made for this machine, and its folders are the trainer's."""

    def start_ranks(self, make_worker: MakeWorker, num_ranks: int, *, deadline_s: float) -> Ranks:
        return RankProcesses(make_worker, num_ranks, deadline_s=deadline_s)

    def make_host(self, plan: WorkerPlan) -> WorkerHost[Any]:
        return VllmProcesses(plan)

    def close(self) -> None:
        """Every process belongs to whoever had it started."""
