"""The seam between one rank's update loop and the library that shards, accumulates and steps.

Everything here is one rank's view. Knows nothing of groups, advantages or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from insight_rl.learner.settings import StartSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scorer = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""Called like :meth:`~insight_rl.learner.logprobs.TokenScorer.forward`."""


class TrainEngine(Protocol):
    """A training back end. Gradients of a micro-batch are **summed** over :meth:`backward` calls and over ranks."""

    device: torch.device
    dtype: torch.dtype
    """Of the weights that rollout engines and saved models get."""
    rank: int
    model: PreTrainedModel

    def start(self, spec: StartSpec) -> None:
        """Load the model at ``spec.model_path`` and build the optimizer. Collective."""
        ...

    @property
    def scorer(self) -> Scorer: ...

    def set_calls_head(self, calls_head: bool) -> None:
        """See :attr:`~insight_rl.learner.logprobs.TokenScorer.calls_head`."""
        ...

    def load_reference(self) -> Scorer:
        """A frozen scorer with the weights at ``spec.model_path``. Collective."""
        ...

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Surrounds forward and backward of a micro-batch; ranks talk to each other only in the last of an update."""
        ...

    def backward(self, loss: torch.Tensor) -> None: ...

    def update(self, lr: float) -> float:
        """Clip, step the optimizer, clear the gradients; returns the global gradient norm before clipping."""
        ...

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter, whole, in :attr:`dtype`, a tied one once. Collective: every rank exhausts it."""
        ...

    def save(self, folder: Path) -> None:
        """Model and optimizer, exactly. Collective."""
        ...

    def load(self, folder: Path) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBatch:
    """A micro-batch as tensors on the rank's device; floats in the precision of the log-probs."""

    inputs: dict[str, Any]
    """Keyword arguments of the scorer."""
    sequences_N: torch.Tensor
    rollout_logprobs_N: torch.Tensor
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    num_sequences: int
    is_measured: bool
