"""Shows after a weight sync that every rollout worker samples from the learner's weights: by their log-probs.

In every step the learner compares the log-probs of all rollouts, but it sees one mean over all workers, and only after
a step's rollouts were made. Here every worker samples a few short completions, the learner scores them without
gradients, and each worker's own mean counts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from insight_rl.errors import RunStopped
from insight_rl.learner.base import Learner, ScoresCompletions
from insight_rl.rollout.base import Finished, RolloutEngine, SamplesOnEach
from insight_rl.seeding import derive_seed
from insight_rl.types import Metrics, Prompt, Sampling

_NUM_PROMPTS = 8
_NUM_TOKENS = 16


class SyncCheck:
    """Called after each sync; compares after the first one that it is called for, and every ``every`` steps (0: never).

    ``prompts``: those of the run, of which the shortest are taken. ``sampling``: how the run samples. A learner that
    cannot score completions (:class:`~insight_rl.learner.base.ScoresCompletions`) is not asked.
    """

    def __init__(
        self,
        *,
        rollout: RolloutEngine,
        learner: Learner,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        every: int,
        max_mean_gap: float,
    ) -> None:
        self._rollout = rollout
        self._learner = learner
        # Without their first token: rollouts of the same prompts must find no prefix of theirs in an engine's cache,
        # or a run that is resumed, and so checked at other steps, would differ in rounding.
        self._prompts = [
            dataclasses.replace(prompt, id=f"sync-check/{number}", token_ids=prompt.token_ids[1:])
            for number, prompt in enumerate(sorted(prompts, key=lambda p: len(p.token_ids)))
            if len(prompt.token_ids) > 1
        ][:_NUM_PROMPTS]
        self._sampling = dataclasses.replace(sampling, num_rollouts=1, max_tokens=min(_NUM_TOKENS, sampling.max_tokens))
        self._every = every
        self._max_mean_gap = max_mean_gap
        self.start_again()

    def start_again(self) -> None:
        """Take the next sync for the first one: the learner's ranks have been started again."""
        self._is_first = True

    def is_due(self, version: int) -> bool:
        """Whether a call for this version compares anything."""
        return self._is_first or (self._every > 0 and version % self._every == 0)

    def __call__(self, version: int) -> Metrics:
        """Raises ``RunStopped`` naming the worker whose log-probs are too far from the learner's."""
        is_due, self._is_first = self.is_due(version), False
        learner = self._learner
        if not is_due or not self._prompts or not isinstance(learner, ScoresCompletions):
            return {}
        started = time.perf_counter()
        samples_W = self._sample(version)
        scores = iter(learner.logprobs([(p, np.asarray(c.token_ids)) for samples in samples_W for p, (c,) in samples]))
        gaps_W = [
            np.concatenate([np.abs(np.asarray(completion.logprobs) - next(scores)) for _, (completion,) in samples])
            for samples in samples_W
        ]
        means_W = [float(gaps.mean()) for gaps in gaps_W]
        worst = int(np.argmax(means_W))
        if not means_W[worst] <= self._max_mean_gap:
            raise RunStopped(
                f"after the sync of step {version} rollout worker {worst} of {len(means_W)} does not sample from the "
                f"learner's weights: mean log-prob gap {means_W[worst]:.3g} over {gaps_W[worst].size} tokens exceeds "
                f"trainer.max_mean_logprob_gap={self._max_mean_gap}; try weight_sync=shared_memory, and compare "
                "model.dtype with the engine's settings"
            )
        return {
            "sync/logprob_gap_mean": means_W[worst],
            "sync/logprob_gap_max": max(float(gaps.max()) for gaps in gaps_W),
            "time/sync_check_s": time.perf_counter() - started,
        }

    def _sample(self, version: int) -> Sequence[Finished]:
        """What each worker has sampled, every one of them from all prompts."""
        sampling = dataclasses.replace(self._sampling, seed=derive_seed(self._sampling.seed, "sync check", version))
        if isinstance(self._rollout, SamplesOnEach):
            return self._rollout.generate_on_each(self._prompts, sampling=sampling)
        return [list(self._rollout.generate(self._prompts, sampling=sampling))]
