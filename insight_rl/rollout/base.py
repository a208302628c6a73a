"""What a rollout engine is: prompts in, completions with their log-probs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from insight_rl.errors import UsageError
from insight_rl.types import Completion, Prompt, Sampling
from insight_rl.weight_sync.base import WeightChannel, WeightSource


class RolloutEngine(Protocol):
    """Samples completions from the current policy.

    Constructed by the config with keyword-only settings (cheap and validated), then :meth:`start` loads the model.
    """

    def start(
        self,
        *,
        model_path: Path,
        dtype: str,
        max_length: int,
        seed: int,
        weight_channel: WeightChannel | None = None,
    ) -> None:
        """Load the model (a Hugging Face folder), ``dtype`` as torch names it, context of ``max_length`` tokens.

        ``weight_channel`` is how new weights will come; ``None`` leaves the choice to the engine.
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        """Yield each prompt with its ``sampling.num_rollouts`` completions as soon as they are complete.

        The order is the engine's; the prompt comes with its completions so that nothing can be paired wrongly. Raises
        ``UsageError`` naming a prompt that does not fit (:func:`check_lengths`), before anything is generated.
        """
        ...

    def update_weights(self, weights: WeightSource, *, version: int) -> None:
        """Load the learner's weights; later completions carry ``policy_version=version``. Drops cached prefixes."""
        ...

    def close(self) -> None:
        """Free the model and every process that belongs to it."""
        ...


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
