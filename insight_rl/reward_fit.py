"""Asks a reward whether it can judge a task's answers, when the pool opens and before any model loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir
from insight_rl.reward.base import RewardFn
from insight_rl.reward.by_task import ByTaskReward
from insight_rl.types import Prompt


def check_reward_fits(reward: RewardFn, prompts: Sequence[Prompt], *, target: str) -> tuple[str, ...]:
    """A notice for the prompts whose answers ``reward`` (the class named ``target``) cannot judge against.

    Raises ``UsageError`` if it can judge none of them: then it is the reward of another task.
    """
    reasons = ((prompt, reward.explain_unusable(prompt.answer)) for prompt in prompts)
    unusable = [(prompt, reason) for prompt, reason in reasons if reason is not None]
    if not unusable:
        return ()
    prompt, reason = unusable[0]
    if len(unusable) < len(prompts):
        return (
            f"{len(unusable)} of {len(prompts)} prompts have an answer that the reward cannot judge against, so their "
            f"rollouts will count as not judged ({prompt.id}: {reason}); mend their rows",
        )
    options = sorted((conf_dir() / "reward").glob("*.yaml"))
    targets = {file.stem: OmegaConf.select(OmegaConf.load(file), "_target_") for file in options}
    name = next((name for name in targets if targets[name] == target), target)
    fitting = [f"reward={name}" for name in targets if _can_judge(name, prompt.answer)]
    remedy = f"take {' or '.join(fitting)}" if fitting else "change the answers of the task, or write a reward for them"
    raise UsageError(f"reward={name}: does not fit task {prompt.task} ({prompt.id}: {reason}); {remedy}")


def _can_judge(name: str, answer: Any) -> bool:
    node = OmegaConf.to_container(compose_config([f"reward={name}"]).reward)
    try:
        reward: RewardFn = build_part("reward", node)
    except UsageError:
        # Its package is not installed: nothing to recommend.
        return False
    # That of a mixture goes by the names of tasks, which are no part of an answer.
    return not isinstance(reward, ByTaskReward) and reward.explain_unusable(answer) is None
