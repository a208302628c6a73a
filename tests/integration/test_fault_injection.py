"""A verifier that times out on one rollout in twenty teaches the beliefs exactly what it judged, and nothing else."""

import hashlib

import pytest

from insight_rl.config import compose_config
from insight_rl.reward.countdown import CountdownReward
from insight_rl.run import train
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.types import Group, Reward

SMALL = [
    "trainer.num_steps=4",
    "trainer.prompts_per_step=16",
    "trainer.rollouts_per_prompt=8",
    "trainer.max_completion_tokens=24",
    "evaluation.every=0",
    "monitor=jsonl",
]


def judged_only(group: Group) -> Group:
    judged = [(c, r) for c, r in zip(group.completions_G, group.rewards_G, strict=True) if r.is_judged]
    completions, rewards = zip(*judged, strict=True) if judged else ((), ())
    return Group(prompt=group.prompt, completions_G=tuple(completions), rewards_G=tuple(rewards))


@pytest.mark.parametrize("forgetting", [1.0, 0.5])
def test_timeouts_leave_the_beliefs_as_if_those_rollouts_had_not_been(forgetting, tmp_path, monkeypatch):
    judge, observe = CountdownReward.__call__, BeliefSelector.observe
    steps, selectors = [], []

    def flaky(self, prompt, completion):
        digest = hashlib.sha256(f"{prompt.id} {completion.text}".encode()).digest()
        if digest[0] < 256 / 20:
            return Reward(value=0.0, success=None, status="timeout")
        return judge(self, prompt, completion)

    def remember(self, groups):
        steps.append(list(groups))
        selectors.append(self)
        observe(self, groups)

    monkeypatch.setattr(CountdownReward, "__call__", flaky)
    monkeypatch.setattr(BeliefSelector, "observe", remember)
    train(compose_config([*SMALL, f"run_dir={tmp_path}/run", f"selector.forgetting={forgetting}"]))

    pools = list({group.prompt.id: group.prompt for groups in steps for group in groups}.values())
    rollouts = [reward for groups in steps for group in groups for reward in group.rewards_G]
    num_timeouts = sum(not reward.is_judged for reward in rollouts)
    assert 0.01 < num_timeouts / len(rollouts) < 0.12, "the faults were injected"

    clean = BeliefSelector(score=None, forgetting=forgetting)
    clean.open(pools, num_rollouts=8, seed=0)
    for groups in steps:
        observe(clean, [judged_only(group) for group in groups])
    assert {p.id: clean.belief(p.id) for p in pools} == {p.id: selectors[-1].belief(p.id) for p in pools}
