"""The seam of learning: scored groups in, a better policy out. Knows nothing of selection or of where rollouts run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from insight_rl.algorithm.loss_settings import PolicyLoss
from insight_rl.types import Group, Metrics
from insight_rl.weight_sync.base import WeightSource


class Learner(Protocol):
    """Trains the policy. Constructed by the config with keyword-only settings, then :meth:`start` loads the model."""

    def start(
        self,
        *,
        model_path: Path,
        dtype: str,
        loss: PolicyLoss,
        temperature: float,
        max_completion_tokens: int,
        prompts_per_update: int,
        num_epochs: int,
        num_steps: int,
        seed: int,
    ) -> None:
        """Load the model and build optimizer and schedule.

        ``temperature`` divides the logits as in the rollout; a step makes ``num_epochs`` passes over its groups, one
        update per ``prompts_per_update`` of them; ``num_steps`` of the whole run shape the learning-rate schedule.
        """
        ...

    def step(self, groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray]) -> Metrics:
        """One or more optimizer updates on the groups of a step (``prompts_per_update`` groups each).

        Advantages are float64 arrays of length G; NaN marks a rollout that was not judged, which is left out.
        Returns ``learner/*`` and ``rollout/logprob_gap_*`` (learner against rollout before the first update).
        """
        ...

    def weights(self) -> WeightSource: ...

    def save_checkpoint(self, folder: Path) -> None:
        """Model, optimizer, schedule and generators, for an exact resume."""
        ...

    def load_checkpoint(self, folder: Path) -> None: ...

    def save_model(self, folder: Path) -> None:
        """A Hugging Face folder (weights, config, tokenizer) that ``from_pretrained`` and vLLM load."""
        ...

    def close(self) -> None: ...
