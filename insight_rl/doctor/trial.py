"""Sixteen prompts rolled out with the run's own engine, reward and settings, before hours are spent on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from insight_rl.build import build_judge, build_part, find_model, load_data
from insight_rl.config import RunConfig
from insight_rl.reward.base import check_start
from insight_rl.reward_fit import check_reward_fits
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.groups import collect_groups, roll_out
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Group, Sampling

NUM_PROMPTS = 16
TOO_MANY_CUT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What sixteen prompts tell. Shares are of all completions, or of all groups.

    Example: ``Trial(num_groups=16, num_completions=128, truncated=0.02, accuracy=0.31, informative=0.62, unjudged=0.0,
    mean_tokens=212.0, tokens_per_s=1800.0)``.
    """

    num_groups: int
    num_completions: int
    truncated: float
    accuracy: float
    """Of the judged completions; NaN if there are none."""
    informative: float
    """Groups with right and wrong completions: the only ones that teach."""
    unjudged: float
    mean_tokens: float
    tokens_per_s: float


def try_out(config: RunConfig) -> Trial:
    """Load model and engine, roll out, judge. Raises as `insight-rl train` would at the same places."""
    reward, task = build_part("reward", config.reward), build_part("task", config.task)
    model_path = find_model(config.model)
    # Without the problems of evaluations, and with whatever pool there is.
    trainer = replace(config.trainer, prompts_per_step=1, prompts_per_update=None)
    evaluation = replace(config.evaluation, every=0)
    data = load_data(task, ModelTokenizer(model_path), replace(config, trainer=trainer, evaluation=evaluation))
    check_reward_fits(reward, data.pool, target=config.reward["_target_"])
    check_start(reward, judge_deadline_s=config.judge.deadline_s)
    drawn = np.random.default_rng(derive_seed(config.seed, "doctor")).permutation(len(data.pool))[:NUM_PROMPTS]
    prompts = [data.pool[index] for index in drawn]
    sampling = Sampling(
        num_rollouts=config.trainer.rollouts_per_prompt,
        max_tokens=config.trainer.max_completion_tokens,
        temperature=config.trainer.temperature,
        seed=config.seed,
    )
    engine = build_part("rollout", config.rollout)
    judge = build_judge(reward, config.judge)
    spec = RolloutSpec(
        model_path=model_path,
        dtype=config.model.dtype,
        max_length=config.model.max_length,
        seed=derive_seed(config.seed, "rollout"),
    )
    try:
        engine.start(spec)
        started = time.perf_counter()
        finished = roll_out(engine, judge, prompts, sampling)
        seconds = time.perf_counter() - started
        groups = collect_groups(judge, prompts, finished)
    finally:
        engine.close()
        judge.close()
    return summarise(groups, seconds=seconds)


def summarise(groups: Sequence[Group], *, seconds: float) -> Trial:
    completions = [completion for group in groups for completion in group.completions_G]
    successes = [reward.success for group in groups for reward in group.rewards_G]
    judged = [success for success in successes if success is not None]
    mixed = [len({reward.success for reward in group.rewards_G if reward.success is not None}) == 2 for group in groups]
    num_tokens = sum(len(completion.token_ids) for completion in completions)
    return Trial(
        num_groups=len(groups),
        num_completions=len(completions),
        truncated=float(np.mean([completion.is_truncated for completion in completions])),
        accuracy=float(np.mean(judged)) if judged else float("nan"),
        informative=float(np.mean(mixed)),
        unjudged=1 - len(judged) / len(successes),
        mean_tokens=num_tokens / len(completions),
        tokens_per_s=num_tokens / seconds,
    )


def describe(trial: Trial) -> list[str]:
    """The figures in words, and a sentence for each that bodes ill."""
    lines = [
        f"{trial.num_groups} prompts x {trial.num_completions // trial.num_groups} rollouts: {trial.accuracy:.0%} "
        f"right, {trial.informative:.0%} of the prompts informative (right and wrong rollouts), {trial.truncated:.0%} "
        f"cut off, {trial.mean_tokens:.0f} tokens in the mean, {trial.tokens_per_s:.0f} tokens/s."
    ]
    if trial.truncated > TOO_MANY_CUT:
        lines.append(
            "! more than half are cut off before they answer: raise trainer.max_completion_tokens with model.max_length"
        )
    if trial.informative == 0:
        lines.append(
            "! no prompt has both right and wrong rollouts, so nothing can be learned from them: look at the answers "
            "(`insight-rl data inspect`, samples.jsonl of a short run), or take easier or harder problems"
        )
    if trial.unjudged > 0:
        lines.append(f"! {trial.unjudged:.0%} of the completions could not be judged: see judge.deadline_s")
    return lines
