"""The seam of generation: prompts in, completions with their log-probs out. Knows nothing of rewards or selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from insight_rl.types import Completion, Prompt, Sampling
from insight_rl.weight_sync.base import WeightSource


class RolloutEngine(Protocol):
    """Samples completions from the present policy.

    Constructed by the config with keyword-only settings (cheap and validated), then :meth:`start` loads the model.
    """

    def start(self, *, model_path: Path, dtype: str, max_length: int, seed: int) -> None:
        """Load the model (a Hugging Face folder), ``dtype`` as torch names it, context of ``max_length`` tokens."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        """Yield each prompt with its ``sampling.num_rollouts`` completions as soon as they are complete.

        The order is the engine's; the prompt travels with its completions so that nothing can be paired wrongly.
        """
        ...

    def update_weights(self, weights: WeightSource, *, version: int) -> None:
        """Load the learner's weights; later completions carry ``policy_version=version``. Drops cached prefixes."""
        ...

    def close(self) -> None:
        """Free the model and every process that belongs to it."""
        ...
