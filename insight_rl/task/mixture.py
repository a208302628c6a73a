"""Several tasks in one pool, in the shares that are asked for. Wording and ids come from the tasks themselves."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.seeding import derive_seed
from insight_rl.task.base import PromptEncoder, Task
from insight_rl.task.shares import split_by_shares
from insight_rl.types import Prompt


class MixtureTask:
    """``parts`` maps a name to ``{task, weight}``; prompts keep their own task's name.

    The pool holds ``num_train`` prompts in the shares of the weights, or as many as go without repeating any. Which
    prompts of a part are taken depends only on ``seed``. The held-out problems are those of all parts.
    """

    name = "mixture"

    def __init__(self, *, parts: Mapping[str, Mapping[str, Any]], num_train: int | None, seed: int) -> None:
        check(len(parts) > 0, "task.parts", dict(parts), "name at least one part")
        for name, part in parts.items():
            key = f"task.parts.{name}"
            check(
                isinstance(part, Mapping) and set(part) == {"task", "weight"}, key, part, "give exactly task and weight"
            )
            weight = part["weight"]
            is_weight = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            check(is_weight and 0 < weight < math.inf, f"{key}.weight", weight, "must be a number above 0")
            check(hasattr(part["task"], "train_prompts"), f"{key}.task", part["task"], "must be a task")
        check(num_train is None or num_train >= len(parts), "task.num_train", num_train, "must be at least one a part")
        check(seed >= 0, "task.seed", seed, "must be at least 0")
        total = sum(part["weight"] for part in parts.values())
        self.tasks: dict[str, Task] = {name: part["task"] for name, part in parts.items()}
        self.shares = {name: part["weight"] / total for name, part in parts.items()}
        self.num_train = num_train
        self.seed = seed

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        pools = {name: _distinct(task.train_prompts(encoder)) for name, task in self.tasks.items()}
        sizes = self._sizes({name: len(pool) for name, pool in pools.items()})
        prompts: list[Prompt] = []
        for name, pool in pools.items():
            if sizes[name] > len(pool):
                raise UsageError(
                    f"task.num_train={self.num_train}: part {name} has {len(pool)} prompts, its share would be "
                    f"{sizes[name]}; lower task.num_train or task.parts.{name}.weight"
                )
            rng = random.Random(derive_seed(self.seed, "mixture", name))
            prompts += [pool[index] for index in sorted(rng.sample(range(len(pool)), sizes[name]))]
        return prompts

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return [prompt for task in self.tasks.values() for prompt in task.test_prompts(encoder)]

    def _sizes(self, available: Mapping[str, int]) -> dict[str, int]:
        """Prompts of each part; without ``num_train`` as many as no part has to repeat any."""
        total = self.num_train
        if total is None:
            total = min(int(available[name] / share + 1e-9) for name, share in self.shares.items())
        sizes = split_by_shares(total, self.shares)
        return {name: min(size, available[name]) if self.num_train is None else size for name, size in sizes.items()}


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({prompt.id: prompt for prompt in prompts}.values())
