"""Where a run's processes live: the learner's ranks and the rollout workers. The trainer itself never asks.

    runtime.reserve(placement, folders)             room for every rank and worker, or one line on what is missing
    ranks = runtime.start_ranks(make_worker, 2, deadline_s=7200)
    host = runtime.make_host(plan)                  makes the workers of a rollout pool

What a rank or a worker does is the same everywhere (:mod:`insight_rl.learner.worker`, the classes that a
:class:`~insight_rl.rollout.pool.WorkerPlan` names); a runtime says where it is done and how it is spoken to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from insight_rl.learner.processes import RankHost
from insight_rl.placement import Placement
from insight_rl.rollout.pool import WorkerHost, WorkerPlan


class Runtime(RankHost, Protocol):
    """Constructed by the config (``runtime=...``) with keyword-only settings, which start nothing.

    Those that all have in common are :class:`~insight_rl.runtime.settings.RuntimeSettings`.
    """

    @property
    def max_restarts(self) -> int:
        """How often lost ranks are started again."""
        ...

    @property
    def heartbeat_deadline_s(self) -> float:
        """Seconds of silence after which a process counts as lost."""
        ...

    @property
    def grace_s(self) -> float | None:
        """Seconds from SIGTERM or SIGHUP until the run gives up its step; ``None``: it finishes it."""
        ...

    def count_gpus(self) -> int:
        """GPUs that ranks and workers can be given. Raises ``UsageError`` for a cluster that cannot be reached."""
        ...

    def reserve(self, placement: Placement, folders: Sequence[Path]) -> None:
        """Make sure of room for every rank and worker of ``placement``, before any model loads.

        ``folders``: those that every process must see under the same path (the run's own, the model's). Raises
        ``UsageError`` naming what is missing.
        """
        ...

    def make_host(self, plan: WorkerPlan) -> WorkerHost[Any]:
        """Where the workers of a rollout pool run."""
        ...

    def close(self) -> None:
        """Give back what was reserved. Ranks and workers have been ended before, by those who had them started."""
        ...
