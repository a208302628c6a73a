import pytest

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.reward.base import BaseReward
from insight_rl.reward.by_task import ByTaskReward
from insight_rl.types import Completion, Prompt


def judge(reward, task, answer, text):
    prompt = Prompt(id=f"{task}/1", task=task, text="", token_ids=(1,), answer=answer)
    completion = Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0)
    return reward(prompt, completion)


def test_each_prompt_is_judged_by_its_own_task():
    config = parse_config(compose_config(["reward=by_task"]))
    reward = build_part("reward", config.reward)
    cases = [
        ("gsm8k", "6", "\\boxed{6}", "\\boxed{7}"),
        ("mmlu", {"letter": "B", "num_choices": 4}, "\\boxed{B}", "\\boxed{C}"),
        ("countdown", {"numbers": [2, 3], "target": 6}, "2*3", "2+3"),
    ]
    for task, answer, right, wrong in cases:
        assert judge(reward, task, answer, right).success is True
        assert judge(reward, task, answer, wrong).success is False


def test_it_needs_processes_if_one_of_the_rewards_in_use_does():
    class Bounded(BaseReward):
        bounded = True

        def __call__(self, prompt, completion):
            raise NotImplementedError

    class Unbounded(Bounded):
        bounded = False
        worker_modules = ("json",)

    rewards = {"quick": Bounded(), "slow": Unbounded()}
    assert ByTaskReward(rewards=rewards, reward_of_task={"a": "quick"}).bounded
    both = ByTaskReward(rewards=rewards, reward_of_task={"a": "quick", "b": "slow"})
    assert not both.bounded
    assert both.worker_modules == ("json",)


def test_a_task_without_a_reward_is_named():
    reward = build_part("reward", parse_config(compose_config(["reward=by_task"])).reward)
    with pytest.raises(UsageError, match=r"no reward for task trivia.*add reward.reward_of_task.trivia="):
        judge(reward, "trivia", "6", "6")
    with pytest.raises(UsageError, match=r"reward.reward_of_task.a='none'"):
        ByTaskReward(rewards={}, reward_of_task={"a": "none"})
