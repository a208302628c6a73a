"""What one rank's update loop asks of the library that shards the model, accumulates gradients and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from insight_rl.learner.settings import Kernel, LearnerSettings, StartSpec
from insight_rl.learner.shards import Fragment
from insight_rl.weight_sync.base import TensorInfo

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
    kernel: Kernel
    """Of the attention: says how rows must be laid out."""
    model: PreTrainedModel

    def start(self, spec: StartSpec) -> None:
        """Load the model at ``spec.model_path`` and build the optimizer. Collective."""
        ...

    @property
    def settings(self) -> LearnerSettings: ...

    @property
    def scorer(self) -> Scorer: ...

    def set_calls_head(self, calls_head: bool) -> None:
        """See :attr:`~insight_rl.learner.logprobs.TokenScorer.calls_head`."""
        ...

    def load_reference(self) -> Scorer:
        """A scorer with the weights at ``spec.model_path``: a frozen copy, or with LoRA the adapter off. Collective."""
        ...

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Surrounds forward and backward of a micro-batch; ranks talk to each other only in the last of an update."""
        ...

    def backward(self, loss: torch.Tensor) -> None: ...

    def update(self, lr: float) -> float:
        """Clip, step the optimizer, clear the gradients; returns the global gradient norm before clipping."""
        ...

    def describe(self) -> list[TensorInfo]:
        """What :meth:`named_tensors` will yield. Not collective: nothing is gathered."""
        ...

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter, whole, in :attr:`dtype`, tied ones once, adapters merged. Collective: all exhaust it."""
        ...

    def adapter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The adapter's parameters, whole, under peft's names; none without LoRA. Collective, as above."""
        ...

    def fragments(self, *, owned: bool) -> list[Fragment]:
        """What is trained (with LoRA the adapter alone) and the optimizer's state, exactly; nothing is gathered.

        ``owned``: this rank's share, so that the shares of all ranks are the whole; else all that this rank holds.
        """
        ...

    def take_over_fragments(self) -> None:
        """The fragments that this rank holds have been filled from a checkpoint: train on with them. Collective."""
        ...

    def close(self) -> None: ...
