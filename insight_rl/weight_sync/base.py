"""How new weights get from the learner into a rollout engine's process: what is sent, and the ways to send it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from insight_rl.types import Metrics

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor of the weights: ``TensorInfo(name="model.norm.weight", dtype=torch.bfloat16, shape=(1024,))``."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True, kw_only=True)
class SyncSeconds:
    """Where the time of a sync went, in seconds of the wall clock."""

    gather_s: float = 0.0
    """Getting whole tensors from the ranks that hold them, in the precision of the rollout."""
    transfer_s: float = 0.0
    """Carrying them over."""
    load_s: float = 0.0
    """Waiting for the rollout engine to load them."""

    def metrics(self) -> Metrics:
        return {
            "time/sync_gather_s": self.gather_s,
            "time/sync_transfer_s": self.transfer_s,
            "time/sync_load_s": self.load_s,
        }

    def gathering(self, tensors: Iterator[T]) -> Iterator[T]:
        """The same items; the time until each of them is there is added to ``gather_s``."""
        while True:
            started = time.perf_counter()
            try:
                item = next(tensors)
            except StopIteration:
                return
            finally:
                self.gather_s += time.perf_counter() - started
            yield item


class Weights(Protocol):
    """Weights under their Hugging Face names; a tied ``lm_head`` is not listed."""

    def describe(self) -> list[TensorInfo]:
        """Every tensor that :meth:`named_tensors` yields, in its order. Cheap: nothing is gathered."""
        ...

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, whole (gathered if sharded), detached. To keep several at a time takes the memory of all."""
        ...


class RankWeights(Weights, Protocol):
    """What one rank of the learner sees of the weights. All ranks go through ``named_tensors`` together."""

    rank: int


class Sender(Protocol):
    """A rank's end of a transfer; the other end is in the rollout processes."""

    def send_weights(self) -> SyncSeconds:
        """Send the weights as they are now. Every rank calls it at the same time."""
        ...


Call = Callable[[str, Any], None]
"""``call(method, argument)``: call a method of vLLM's transfer API in every rollout process, and wait for them all."""


class SenderSpec(Protocol):
    """From what every rank builds its :class:`Sender`; it is pickled on its way to the rank."""

    def open(self, weights: RankWeights, call: Call) -> Sender:
        """Meet the rollout processes. Every rank calls it at the same time; only rank 0 uses ``call``."""
        ...


CallAll = Callable[[str, Any, Callable[[], None]], None]
""":data:`Call` as the trainer carries it out; the third argument is called now and then during the wait."""


class WeightSource(Weights, Protocol):
    """The learner's current weights, as the trainer's process sees them."""

    def save(self, folder: Path) -> SyncSeconds:
        """Write a safetensors checkpoint that a model loader can read into ``folder``."""
        ...

    def describe_adapter(self) -> list[TensorInfo]:
        """Every tensor that :meth:`save_adapter` writes; none where the whole model is trained."""
        ...

    def save_adapter(self, folder: Path) -> SyncSeconds:
        """Write the LoRA adapter into ``folder``, as peft and vLLM load it."""
        ...

    def send(self, spec: SenderSpec | None, call_all: CallAll) -> SyncSeconds:
        """Have every rank that holds weights send them, from its own process.

        ``spec``: open new senders, and close those of an earlier call; ``None``: the ones that are open. Raises what
        ``call_all`` raises, and whatever stopped a rank.
        """
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

    @property
    def is_here(self) -> bool:
        """Whether it runs on the trainer's machine, and so can read files in its memory."""
        ...

    @property
    def num_devices(self) -> int:
        """On how many devices it runs: vLLM's tensor times its pipeline parallel size."""
        ...

    def call(self, method: str, /, **arguments: Any) -> None:
        """Call a method of the process and wait for it."""
        ...

    def begin(self, method: str, /, **arguments: Any) -> None:
        """Call a method of the process and do not wait for it; :meth:`finish` does."""
        ...

    def is_ready(self) -> bool:
        """Whether :meth:`finish` need not wait any more; waits a moment for it."""
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

    def check_placement(self, placement: str) -> None:
        """Raise ``UsageError`` if weights cannot go to workers that are placed so (``rollout.placement``) on GPUs.

        Called before anything is started, and before ``vllm_backend`` is read.
        """
        ...

    def check_device(self, device: str) -> None:
        """Raise ``UsageError`` if weights cannot go to an engine on this kind of device (as in ``RolloutProcess``)."""
        ...

    def reopen(self) -> None:
        """Have the next :meth:`send` open anew what it opens in the learner's ranks: they have been started again."""
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
