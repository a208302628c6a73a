from __future__ import annotations

import pytest

from insight_rl.reward.judge import InProcessJudge
from insight_rl.rollout.groups import collect_groups, roll_out
from insight_rl.types import Completion, Prompt, Reward, Sampling

SAMPLING = Sampling(num_rollouts=4, max_tokens=3, temperature=1.0, seed=11)
PROMPTS = [Prompt(id=f"p{i}", task="t", text="", token_ids=(1,), answer=i) for i in range(5)]


class Engine:
    """Finishes prompts in reverse order and keeps the calls."""

    def __init__(self):
        self.calls = []

    def generate(self, prompts, *, sampling):
        self.calls.append(([prompt.id for prompt in prompts], sampling))
        for prompt in reversed(prompts):
            completion = Completion(
                token_ids=(5,), logprobs=(-0.5,), text=prompt.id, finish_reason="stop", policy_version=0
            )
            yield prompt, (completion,) * sampling.num_rollouts


class Echo:
    bounded = True
    worker_modules = ()

    def __call__(self, prompt, completion):
        return Reward(value=1.0, success=completion.text == prompt.id)


@pytest.mark.parametrize("rollouts_P", [None, [4] * 5])
def test_the_same_number_for_all_is_one_call(rollouts_P):
    engine, judge = Engine(), InProcessJudge(Echo(), max_unjudged_fraction=1.0)
    roll_out(engine, judge, PROMPTS, SAMPLING, rollouts_P)
    assert engine.calls == [([prompt.id for prompt in PROMPTS], SAMPLING)]


def test_groups_of_different_sizes_come_back_in_order():
    engine, judge = Engine(), InProcessJudge(Echo(), max_unjudged_fraction=1.0)
    finished = roll_out(engine, judge, PROMPTS, SAMPLING, [2, 6, 4, 2, 6])
    groups = collect_groups(judge, PROMPTS, finished)
    assert [group.prompt.id for group in groups] == ["p0", "p1", "p2", "p3", "p4"]
    assert [group.num_judged for group in groups] == [2, 6, 4, 2, 6]
    assert all(group.num_successes == group.num_judged for group in groups)
    assert [(ids, sampling.num_rollouts) for ids, sampling in engine.calls] == [
        (["p1", "p4"], 6),
        (["p2"], 4),
        (["p0", "p3"], 2),
    ]
    assert len({sampling.seed for _, sampling in engine.calls}) == 3
