"""What the trainer asks of a learner: it takes scored groups and makes a better policy of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from insight_rl.checkpoint import PartWriting
from insight_rl.learner.processes import RankHost
from insight_rl.learner.settings import StartSpec
from insight_rl.types import Group, Metrics, Prompt
from insight_rl.weight_sync.base import WeightSource


class Learner(Protocol):
    """Trains the policy. Constructed by the config with keyword-only settings, then :meth:`start` loads the model.

    Any method but :meth:`close` may raise :class:`~insight_rl.errors.RanksLost`, also while weights are read or sent.
    """

    def start(self, spec: StartSpec) -> None:
        """Load the model and build optimizer and schedule. Started again, it begins anew."""
        ...

    def step(self, groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray]) -> Metrics:
        """One or more optimizer updates on the groups of a step (``spec.prompts_per_update`` groups each).

        Advantages are float64 arrays of length G; NaN marks a rollout that was not judged, which is left out.
        Returns ``learner/*`` and ``rollout/logprob_gap_*`` (learner against rollout before the first update); a step
        without an update has no means, only counts: see :func:`~insight_rl.learner.step_sums.to_metrics`.
        """
        ...

    def weights(self) -> WeightSource:
        """The weights as they are when they are asked for, not when this is called."""
        ...

    def save_checkpoint(self, folder: Path) -> PartWriting | None:
        """Model, optimizer, schedule and generators as they are now, for an exact resume.

        ``None``: all of it is in the folder. Else it is written in the background, whatever is learnt meanwhile, and
        is whole once :meth:`~insight_rl.checkpoint.PartWriting.write` of what is returned has come back.
        """
        ...

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint. Executes nothing that the files contain.

        Raises ``UsageError`` for a checkpoint that is damaged or of another kind of learner.
        """
        ...

    def save_model(self, folder: Path) -> None:
        """A Hugging Face folder (weights, config, tokenizer) that ``from_pretrained`` and vLLM load.

        With LoRA it holds the merged model, and ``adapter/`` beside it the adapter, which peft and vLLM load.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class HasRanks(Learner, Protocol):
    """A learner whose work is done by ranks, which can run elsewhere."""

    num_ranks: int

    def run_on(self, host: RankHost) -> None:
        """Have ``host`` start the ranks, when :meth:`start` comes; without it they are processes of this machine."""
        ...


@runtime_checkable
class ScoresCompletions(Learner, Protocol):
    """A learner that can be asked for log-probs, with which a weight sync is checked."""

    def logprobs(self, completions: Sequence[tuple[Prompt, np.ndarray]]) -> list[np.ndarray]:
        """Of every token of each completion (int32 (T,), a few and short) after its prompt: float32 (T,), in nats.

        Under the present weights and at the temperature of the rollouts. Nothing is learnt from it.
        """
        ...


@runtime_checkable
class MeasuresCompletions(Learner, Protocol):
    """A learner that can tell of the completions of a step by themselves."""

    def completion_gaps(self) -> Mapping[str, np.ndarray]:
        """Of the last :meth:`step`, by prompt id: float64 (G,), in nats.

        The mean, over a completion's tokens, of how far the log-prob of the rollout and the learner's before the step
        lie apart. NaN where it was not computed: a completion without a gradient (not judged, or an advantage of 0).
        """
        ...


@runtime_checkable
class ReleasesMemory(Learner, Protocol):
    """A learner that can leave its GPUs to a rollout engine meanwhile."""

    def release_memory(self) -> None:
        """Give the memory on the device back until the next call of anything else, which takes it again."""
        ...
