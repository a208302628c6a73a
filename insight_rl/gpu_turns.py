"""Rollout engine and learner on the same GPUs, one at a time: whoever works has the memory of both.

A step of a run with ``rollout.sleep=true``, in the order in which the memory changes hands:

    vLLM sleeps                      weights to host memory, cache dropped
    the learner comes back, learns
    vLLM wakes its weights alone     and takes the learner's new ones
    the learner leaves the GPU       everything to host memory, and its allocator's cache is emptied
    vLLM wakes its cache, generates  until the learner is needed again

Each of the two is asked to leave by the first use of the other, and comes back by its own first use. So vLLM sleeps
once a step, and not between the rounds of a gate or between an evaluation and the rollouts after it. Not yet run on a
GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from insight_rl.checkpoint import PartWriting
from insight_rl.errors import check
from insight_rl.learner.base import Learner, MeasuresCompletions, ReleasesMemory, ScoresCompletions
from insight_rl.learner.settings import StartSpec
from insight_rl.rollout.base import Finished, RolloutEngine, RolloutSpec, SamplesOnEach, Sleeps
from insight_rl.types import Completion, Group, Metrics, Prompt, Sampling
from insight_rl.weight_sync.base import WeightSource


def take_turns(rollout: RolloutEngine, learner: Learner) -> tuple[RolloutEngine, Learner]:
    """The two as they are, or, if the engine sleeps, so that each leaves the GPU while the other works.

    Raises ``UsageError`` for a learner that cannot leave.
    """
    if not (isinstance(rollout, Sleeps) and rollout.sleep):
        return rollout, learner
    check(
        isinstance(learner, ReleasesMemory),
        "rollout.sleep",
        True,
        f"the learner {type(learner).__name__} cannot give its GPU memory back meanwhile; take rollout.sleep=false",
    )
    assert isinstance(learner, ReleasesMemory)
    return _SleepingRollout(rollout, learner), _AlternatingLearner(rollout, learner)


class _SleepingRollout:
    """See :class:`~insight_rl.rollout.base.RolloutEngine`."""

    def __init__(self, rollout: Sleeps, learner: ReleasesMemory) -> None:
        self._rollout, self._learner = rollout, learner

    def start(self, spec: RolloutSpec) -> None:
        self._rollout.start(spec)

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        self._learner.release_memory()
        return self._rollout.generate(prompts, sampling=sampling)

    def generate_on_each(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> Sequence[Finished]:
        self._learner.release_memory()
        if isinstance(self._rollout, SamplesOnEach):
            return self._rollout.generate_on_each(prompts, sampling=sampling)
        return [list(self._rollout.generate(prompts, sampling=sampling))]

    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        self._rollout.release_memory()
        return self._rollout.update_weights(weights, version=version)

    def close(self) -> None:
        self._rollout.close()


class _AlternatingLearner:
    """See :class:`~insight_rl.learner.base.Learner`."""

    def __init__(self, rollout: Sleeps, learner: ReleasesMemory) -> None:
        self._rollout, self._learner = rollout, learner

    def start(self, spec: StartSpec) -> None:
        self._rollout.release_memory()
        self._learner.start(spec)

    def step(self, groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray]) -> Metrics:
        self._rollout.release_memory()
        return self._learner.step(groups_P, advantages_P_G)

    def completion_gaps(self) -> Mapping[str, np.ndarray]:
        return self._learner.completion_gaps() if isinstance(self._learner, MeasuresCompletions) else {}

    def weights(self) -> WeightSource:
        return self._learner.weights()

    def logprobs(self, completions: Sequence[tuple[Prompt, np.ndarray]]) -> list[np.ndarray]:
        assert isinstance(self._learner, ScoresCompletions)
        self._rollout.release_memory()
        return self._learner.logprobs(completions)

    def save_checkpoint(self, folder: Path) -> PartWriting | None:
        self._rollout.release_memory()
        return self._learner.save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        self._rollout.release_memory()
        self._learner.load_checkpoint(folder)

    def save_model(self, folder: Path) -> None:
        self._rollout.release_memory()
        self._learner.save_model(folder)

    def close(self) -> None:
        self._learner.close()
