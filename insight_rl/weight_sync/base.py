"""How new weights get from the learner into a rollout engine's process: what is sent, and the ways to send it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from insight_rl.types import Metrics

if TYPE_CHECKING:
    import torch


class WeightSource(Protocol):
    """The learner's current weights under their Hugging Face names; a tied ``lm_head`` is not listed."""

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, whole (gathered if sharded), detached; valid only until the next one is asked for."""
        ...

    def save(self, folder: Path) -> None:
        """Write a safetensors checkpoint that a model loader can read into ``folder``."""
        ...


class RolloutProcess(Protocol):
    """One process of the rollout engine, as a weight channel sees it.

    Its methods are those of :mod:`insight_rl.rollout.vllm_worker`. All raise if the process died, was silent past its
    deadline, or failed.
    """

    @property
    def device(self) -> str:
        """vLLM's name for the kind of device that the engine runs on, e.g. ``cpu`` or ``cuda``."""
        ...

    def call(self, method: str, /, **arguments: Any) -> None:
        """Call a method of the process and wait for it."""
        ...

    def begin(self, method: str, /, **arguments: Any) -> None:
        """Call a method of the process and do not wait for it; :meth:`finish` does."""
        ...

    def finish(self) -> None:
        """Wait for the method that :meth:`begin` has called."""
        ...


class WeightChannel(Protocol):
    """One way of moving weights, constructed by the config (``weight_sync=...``) and used for every sync of a run."""

    @property
    def vllm_backend(self) -> str | None:
        """vLLM's name for its side of the transfer, which it has to know when it starts; ``None``: it needs none."""
        ...

    def check_device(self, device: str) -> None:
        """Raise ``UsageError`` if weights cannot go to an engine on this kind of device (as in ``RolloutProcess``)."""
        ...

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        """Replace the weights in every one of ``processes``; when it returns, the next completion uses them.

        They need not be those of the call before: one that has died is replaced, and the new one gets the same
        weights alone. Returns what it has measured, for the log: keys of docs/metrics.md, or none.
        """
        ...


def call_all(processes: Sequence[RolloutProcess], method: str, /, **arguments: Any) -> None:
    """Call a method of every process at the same time and wait for all of them, also if one fails."""
    errors: list[Exception] = []
    begun = []
    for process in processes:
        try:
            process.begin(method, **arguments)
            begun.append(process)
        except Exception as error:
            errors.append(error)
    for process in begun:
        try:
            process.finish()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
