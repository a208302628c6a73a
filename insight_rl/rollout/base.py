"""What a rollout engine is: prompts in, completions with their log-probs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from insight_rl.errors import UsageError
from insight_rl.rollout.pool import MakeHost
from insight_rl.types import Completion, Metrics, Prompt, Sampling
from insight_rl.weight_sync.base import WeightChannel, WeightSource

Finished = list[tuple[Prompt, tuple[Completion, ...]]]
"""Prompts with their completions, in the order in which the engine finished them."""


def _say_nothing(text: str) -> None:
    """For a run that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """What a rollout engine has to know to start.

    Example::

        RolloutSpec(model_path=Path("data/tiny_model"), dtype="float32", max_length=128, seed=7)
    """

    model_path: Path
    """A Hugging Face folder."""

    dtype: str
    """As torch names it, one of ``insight_rl.types.DTYPES``."""

    max_length: int
    """Tokens of a prompt and its completion together."""

    seed: int

    weight_channel: WeightChannel | None = None
    """How new weights will come; ``None`` leaves the choice to the engine."""

    worker_devices: tuple[tuple[str, ...], ...] = ()
    """The devices of each worker (``insight_rl.placement``); empty leaves them to the engine."""

    adapter_rank: int | None = None
    """Rank of the LoRA adapters that will come instead of weights; ``None``: whole weights will."""

    make_host: MakeHost | None = None
    """Where workers run; ``None``: they are processes of this machine."""

    say: Callable[[str], None] = _say_nothing
    """Tells the user, in one sentence, of something that the engine has mended by itself."""


class RolloutEngine(Protocol):
    """Samples completions from the current policy.

    Constructed by the config with keyword-only settings (cheap and validated), then :meth:`start` loads the model.
    """

    def start(self, spec: RolloutSpec) -> None:
        """Load the model. Raises ``UsageError`` for settings with which it cannot."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        """Yield each prompt with its ``sampling.num_rollouts`` completions as soon as they are complete.

        The order is the engine's; the prompt comes with its completions so that nothing can be paired wrongly. Raises
        ``UsageError`` naming a prompt that does not fit (:func:`check_lengths`), before anything is generated.
        """
        ...

    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        """Load the learner's weights; later completions carry ``policy_version=version``. Drops cached prefixes.

        Returns what it has measured, for the log: keys of docs/metrics.md, or none.
        """
        ...

    def close(self) -> None:
        """Free the model and every process that belongs to it."""
        ...


@runtime_checkable
class SamplesOnEach(RolloutEngine, Protocol):
    """An engine with several workers, each with weights of its own."""

    def generate_on_each(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> Sequence[Finished]:
        """What every worker samples from all of ``prompts``, worker by worker."""
        ...


@runtime_checkable
class UpdatesWhileGenerating(RolloutEngine, Protocol):
    """An engine that takes new weights from one thread while another iterates over :meth:`generate`."""

    def update_while_generating(self, weights: WeightSource, *, version: int) -> Metrics:
        """As :meth:`update_weights`, but what has been begun goes on with the new weights.

        A completion carries the version that it was begun with; each log-prob is of the weights that sampled its token.
        """
        ...

    def end_generation(self) -> None:
        """Drop what is at work; the iterator over it raises ``RuntimeError``."""
        ...


@runtime_checkable
class Sleeps(RolloutEngine, Protocol):
    """An engine that can leave its GPUs to the learner meanwhile."""

    sleep: bool
    """Whether it shall."""

    def release_memory(self) -> None:
        """Give the memory on the device back, for as long as nothing is generated. Weights are kept elsewhere.

        :meth:`update_weights` takes the memory of the weights again, :meth:`generate` all of it.
        """
        ...


@runtime_checkable
class HasWorkers(Protocol):
    """A rollout engine whose workers have to be placed on GPUs before it starts; the fields are its settings."""

    num_workers: int
    tensor_parallel_size: int
    placement: str


def check_lengths(prompts: Sequence[Prompt], sampling: Sampling, *, max_length: int) -> None:
    """Raise ``UsageError`` naming a prompt that is empty, or that leaves no room for a whole completion."""
    for prompt in prompts:
        if not prompt.token_ids:
            raise UsageError(f"prompt {prompt.id}: it has no tokens; drop it from the data")
        if len(prompt.token_ids) + sampling.max_tokens > max_length:
            raise UsageError(
                f"prompt {prompt.id}: {len(prompt.token_ids)} tokens and a completion of {sampling.max_tokens} do not "
                f"fit in model.max_length={max_length}; raise it or lower the completion's length"
            )
