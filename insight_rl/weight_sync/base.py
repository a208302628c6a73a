"""How new weights get from the learner into a rollout engine's process: what is sent, and the ways to send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
    """The rollout engine's process, as a weight channel sees it."""

    @property
    def device(self) -> str:
        """vLLM's name for the kind of device that the engine runs on, e.g. ``cpu`` or ``cuda``."""
        ...

    def call(self, method: str, /, **arguments: Any) -> None:
        """Call a method of the process (:mod:`insight_rl.rollout.vllm_worker`) and wait for it; raises if it fails."""
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

    def send(self, weights: WeightSource, process: RolloutProcess) -> None:
        """Replace the weights in ``process``; when it returns, the next completion uses them."""
        ...
