"""The belief about a prompt that was never rolled out, and the part of its successes that blind guessing explains.

Neither is in InSight's paper, which starts every prompt at Beta(1, 1); both are off by default.

A belief is its prior plus evidence, and the evidence is kept apart (:mod:`insight_rl.selector.pool`). So a prior may
move during the run, and every belief moves with it. Where the prior of each prompt comes from is a :class:`PriorSource`
(``conf/selector/prior``): :class:`FlatPrior` takes the configured numbers, the others learn or look up better ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.types import Prompt

MIN_COUNT, MAX_COUNT = 1e-3, 1e6
"""Of a prior's alpha and beta: scores are shown to be exact from here on, and a run's evidence can still move them."""


class Prior:
    """Settings of the prior: one for all prompts, others by task, and the chance level of guessing by task."""

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        by_task: Mapping[str, Sequence[float]] | None = None,
        chance_levels: Mapping[str, float | str] | None = None,
        source: PriorSource | None = None,
    ) -> None:
        self._source = FlatPrior() if source is None else source
        for name, value in (("prior_alpha", alpha), ("prior_beta", beta)):
            check(_is_count(value), f"selector.{name}", value, f"must be a number from {MIN_COUNT:g} to {MAX_COUNT:g}")
        self.alpha, self.beta = float(alpha), float(beta)
        self.by_task = dict(by_task or {})
        for task, counts in self.by_task.items():
            valid = isinstance(counts, Sequence) and len(counts) == 2 and all(map(_is_count, counts))
            remedy = f"must be two numbers from {MIN_COUNT:g} to {MAX_COUNT:g}: [alpha, beta]"
            check(valid, f"selector.task_priors.{task}", counts, remedy)
        self.chance_levels = dict(chance_levels or {})
        for task, level in self.chance_levels.items():
            check(
                isinstance(level, str) or (is_number(level) and 0 <= level < 1),
                f"selector.chance_levels.{task}",
                level,
                "must be a rate in [0, 1), or the metadata field that holds the number of choices",
            )

    @property
    def is_flat(self) -> bool:
        """Whether the configured numbers hold for the whole run: they are neither learnt nor looked up."""
        return isinstance(self._source, FlatPrior)

    def of(self, prompts: Sequence[Prompt] | IndexedPool, num_rollouts: int) -> PoolPrior:
        """The prior of each prompt of the pool, before anything is observed. Reads the prompts only where their priors
        differ."""
        return self._source.of(prompts, self._configured(prompts, len(prompts)), num_rollouts)

    def _configured(self, prompts: Iterable[Prompt], size: int) -> PoolPrior:
        if not self.by_task and not self.chance_levels:
            return PoolPrior(np.array([self.alpha]), np.array([self.beta]), None, None)
        tasks = list(self.by_task)
        codes = np.zeros(size, np.uint16)
        chance = np.zeros(size, np.float32) if self.chance_levels else None
        for index, prompt in enumerate(prompts):
            if prompt.task in self.by_task:
                codes[index] = tasks.index(prompt.task) + 1
            if chance is not None and prompt.task in self.chance_levels:
                chance[index] = _chance(prompt, self.chance_levels[prompt.task])
        counts = np.array([(self.alpha, self.beta), *(self.by_task[task] for task in tasks)], np.float64)
        return PoolPrior(counts[:, 0], counts[:, 1], codes, chance)


class PriorSource(Protocol):
    """Where the prior of each prompt comes from."""

    def of(self, prompts: Sequence[Prompt] | IndexedPool, configured: PoolPrior, num_rollouts: int) -> PoolPrior:
        """The priors of a pool that is opened; ``configured`` are those of the settings. Called anew for each pool."""
        ...


class FlatPrior:
    """The configured numbers as they are: Beta(prior_alpha, prior_beta), and ``task_priors``."""

    def of(self, prompts: Sequence[Prompt] | IndexedPool, configured: PoolPrior, num_rollouts: int) -> PoolPrior:
        return configured


class PoolPrior:
    """The priors that occur in a pool, and which of them each prompt has. Subclasses may have them move."""

    def __init__(self, alphas: Floats, betas: Floats, codes: np.ndarray | None, chance: np.ndarray | None) -> None:
        self.alphas, self.betas = alphas, betas
        self.codes, self.chance = codes, chance

    def counts(self, indices: np.ndarray) -> tuple[Floats | float, Floats | float]:
        """Prior alpha and beta of the prompts at ``indices``; plain numbers where all have the same."""
        if self.codes is None:
            return float(self.alphas[0]), float(self.betas[0])
        return self.alphas[self.codes[indices]], self.betas[self.codes[indices]]

    def of_unseen(self, visited: np.ndarray, size: int) -> tuple[Floats, Floats, np.ndarray]:
        """The priors of the prompts of a pool of ``size`` that are not at ``visited``: alpha, beta, and how many
        prompts have each."""
        if self.codes is None:
            return self.alphas, self.betas, np.array([size - len(visited)])
        numbers = [np.bincount(codes, minlength=len(self.alphas)) for codes in (self.codes, self.codes[visited])]
        return self.alphas, self.betas, numbers[0] - numbers[1]

    def observe(self, indices: np.ndarray, successes: Floats, judged: Floats) -> None:
        """Learn from one step: the prompts at ``indices`` were rolled out for the first time, with these outcomes.

        Called once a step, also where ``indices`` is empty; every ``judged`` is above 0. Successes may be fractions.
        """

    def metrics(self) -> dict[str, float]:
        """What was learnt, keyed ``selector/prior_*``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, as JSON-able values and NumPy arrays; empty for a prior that does not move."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""

    def beyond_chance(self, alpha: Floats, beta: Floats, indices: np.ndarray) -> tuple[Floats, Floats]:
        """The belief with what guessing explains taken out: the classical correction for guessing.

        Whoever guesses is right with probability c, so F failures come with c / (1 - c) F lucky successes. Taking those
        from alpha leaves the evidence n as it is and maps the mean phi to (phi - c) / (1 - c): pure guessing, 1 in 4
        right, becomes a success rate of 0, which no score rates as learnable. At least a thousandth of n stays.
        """
        if self.chance is None:
            return alpha, beta
        chance = self.chance[indices].astype(np.float64)
        evidence = alpha + beta
        corrected: Floats = np.where(
            chance > 0.0, np.maximum(alpha - beta * chance / (1.0 - chance), 1e-3 * evidence), alpha
        )
        return corrected, np.where(chance > 0.0, evidence - corrected, beta)


def _is_count(value: object) -> bool:
    return is_number(value) and MIN_COUNT <= float(value) <= MAX_COUNT  # type: ignore[arg-type]


def _chance(prompt: Prompt, level: float | str) -> float:
    if not isinstance(level, str):
        return level
    num_choices: Any = prompt.metadata.get(level)
    check(
        is_number(num_choices) and num_choices > 1,
        f"selector.chance_levels.{prompt.task}",
        level,
        f"prompt {prompt.id} has metadata {level}={num_choices!r}; it must hold the number of choices, 2 or more",
    )
    return float(1.0 / num_choices)
