"""``task=reasoning_gym_levels``: generators of reasoning-gym by name, at levels that the library's curricula define.

A curriculum gives a list of values for each knob of a generator. Level ``n`` takes value number ``n`` of every knob, or
the last where a knob has fewer; a knob that is a range begins at this value and ends at the next, or is this one alone.
So level ``n`` does not contain the levels below it. ``gsm_symbolic`` has no levels.

Library: https://github.com/open-thought/reasoning-gym , ``coaching/base_curriculum.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from insight_rl.errors import check
from insight_rl.reward.reasoning_gym_review import check_generator, check_installed
from insight_rl.task.base import PromptEncoder
from insight_rl.task.reasoning_gym import INSTRUCTION, NAME, ReasoningGymTask
from insight_rl.types import Prompt

MAX_LEVEL = 99


class ReasoningGymLevelsTask:
    """A pool in equal parts of each of ``generators`` at each of ``levels``.

    A prompt has ``metadata={"part": "chain_sum_2", "generator": "chain_sum", "level": 2}``, and its ``pass_rate`` where
    ``pass_rates`` gives one for each of the levels. The other arguments are those of
    :class:`~insight_rl.task.reasoning_gym.ReasoningGymTask`.
    """

    name = NAME

    def __init__(
        self,
        *,
        style: str,
        num_train: int,
        num_test: int,
        seed: int,
        generators: Sequence[str],
        levels: Sequence[int],
        pass_rates: Sequence[float] | None,
        instruction: str = INSTRUCTION,
    ) -> None:
        for key, values in (("generators", generators), ("levels", levels)):
            is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
            check(is_list, f"task.{key}", values, "use a list with at least one entry")
            check(len({*map(str, values)}) == len(values), f"task.{key}", values, "name each only once")
        for generator in generators:
            check_generator("task.generators", generator)
        for level in levels:
            is_level = type(level) is int and 0 <= level <= MAX_LEVEL
            check(is_level, "task.levels", level, f"use integers from 0 to {MAX_LEVEL}")
        is_list = pass_rates is None or (isinstance(pass_rates, Sequence) and len(pass_rates) == len(levels))
        check(is_list, "task.pass_rates", pass_rates, "give one for each of task.levels, or null")
        check_installed("task")
        self.generators = tuple(generators)
        self.levels = tuple(levels)
        rates = [{"pass_rate": rate} for rate in pass_rates] if pass_rates is not None else [{}] * len(levels)
        share = 1 / (len(generators) * len(levels))
        parts = {
            f"{generator}_{level}": {"generator": generator, "level": level, "share": share, "settings": {}} | known
            for generator in generators
            for level, known in zip(levels, rates, strict=True)
        }
        # Made here to check the arguments; the settings of the levels follow with the library, which loads for seconds.
        self._make = functools.partial(
            ReasoningGymTask,
            style=style,
            num_train=num_train,
            num_test=num_test,
            seed=seed,
            instruction=instruction,
        )
        self._parts = self._make(parts=parts).parts

    @functools.cached_property
    def pool(self) -> ReasoningGymTask:
        """The same pool as parts with settings."""
        for part in self._parts.values():
            part["settings"] = level_settings(part["generator"], part["level"])
        return self._make(parts=self._parts)

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self.pool.train_prompts(encoder)

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self.pool.test_prompts(encoder)


def num_levels(generator: str) -> int:
    """How many levels the library's curriculum has for it; 0 without one."""
    from reasoning_gym.factory import CURRICULA

    if generator not in CURRICULA:
        return 0
    return max((len(knob.levels) for knob in CURRICULA[generator]().attributes.values()), default=0)


def level_settings(generator: str, level: int) -> dict[str, Any]:
    """The generator's settings at a level of its curriculum. ``UsageError`` where it has none, or not so many."""
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode
    from reasoning_gym.factory import CURRICULA

    number = num_levels(generator)
    check(number > 0, "task.generators", generator, "has no levels; give its settings in task=reasoning_gym")
    check(level < number, "task.levels", level, f"{generator} has the levels 0 to {number - 1}")
    curriculum = CURRICULA[generator]()
    curriculum.set_global_level(level)
    config = curriculum.generate_configuration(
        context=DefaultCurriculumContext(mode=RangeAttributeMode.UPPER_BOUND), defaults={}
    )
    names: list[str] = []
    for knob in curriculum.attributes.values():
        is_range = hasattr(knob, "lower_field_name")
        names += [knob.lower_field_name, knob.upper_field_name] if is_range else [knob.field_name]
    return {name: getattr(config, name) for name in names}
