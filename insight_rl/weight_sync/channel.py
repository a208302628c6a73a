"""How weights travel from the learner into the rollout process. Knows nothing of how they came about."""

from __future__ import annotations

from typing import Any, Protocol

from insight_rl.weight_sync.base import WeightSource


class WorkerCall(Protocol):
    """Calls a method of the rollout process and waits for it; its failure is raised here."""

    def __call__(self, method: str, /, **arguments: Any) -> None: ...


class WeightChannel(Protocol):
    """One way of moving weights. Constructed by the config or chosen by device, then used for every sync of a run."""

    @property
    def vllm_backend(self) -> str | None:
        """vLLM's name for its side of the transfer, which it has to know when it starts; ``None`` needs none."""
        ...

    def send(self, weights: WeightSource, call: WorkerCall) -> None:
        """Replace the weights of the rollout process; when it returns, the next completion uses them."""
        ...
