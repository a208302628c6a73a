"""The belief about a prompt that was never rolled out, and the part of its successes that blind guessing explains.

Neither is in InSight's paper, which starts every prompt at Beta(1, 1); both are off by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats
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
    ) -> None:
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

    def of(self, prompts: Iterable[Prompt], size: int) -> PoolPrior:
        """The prior of each prompt of a pool of ``size``. Reads the prompts only where settings differ by task."""
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


class PoolPrior:
    """The priors that occur in a pool, and which of them each prompt has."""

    def __init__(self, alphas: Floats, betas: Floats, codes: np.ndarray | None, chance: np.ndarray | None) -> None:
        self.alphas, self.betas = alphas, betas
        self._codes, self._chance = codes, chance

    def counts(self, indices: np.ndarray) -> tuple[Floats | float, Floats | float]:
        """Prior alpha and beta of the prompts at ``indices``; plain numbers where all have the same."""
        if self._codes is None:
            return float(self.alphas[0]), float(self.betas[0])
        return self.alphas[self._codes[indices]], self.betas[self._codes[indices]]

    def num_of_each(self, indices: np.ndarray | None, size: int) -> np.ndarray:
        """How many prompts have each of ``alphas``: of those at ``indices``, or of all ``size``."""
        if self._codes is None:
            return np.array([size if indices is None else len(indices)])
        return np.bincount(self._codes if indices is None else self._codes[indices], minlength=len(self.alphas))

    def beyond_chance(self, alpha: Floats, beta: Floats, indices: np.ndarray) -> tuple[Floats, Floats]:
        """The belief with what guessing explains taken out: the classical correction for guessing.

        Whoever guesses is right with probability c, so F failures come with c / (1 - c) F lucky successes. Taking those
        from alpha leaves the evidence n as it is and maps the mean phi to (phi - c) / (1 - c): pure guessing, 1 in 4
        right, becomes a success rate of 0, which no score rates as learnable. At least a thousandth of n stays.
        """
        if self._chance is None:
            return alpha, beta
        chance = self._chance[indices].astype(np.float64)
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
