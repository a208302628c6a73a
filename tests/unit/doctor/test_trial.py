"""What sixteen prompts tell, counted by hand; the real engine runs in the documented command."""

import math

import pytest

from insight_rl.doctor.trial import describe, summarise
from insight_rl.types import Completion, Group, Prompt, Reward


def group(number, successes, *, length=4, cut_off=0):
    prompt = Prompt(id=f"p/{number}", task="p", text="", token_ids=(1, 2), answer="1")
    completions = tuple(
        Completion(
            token_ids=[3] * length,
            logprobs=[-1.0] * length,
            text="",
            finish_reason="length" if j < cut_off else "stop",
            policy_version=0,
        )
        for j in range(len(successes))
    )
    status = {True: "correct", False: "wrong", None: "timeout"}
    rewards = tuple(Reward(value=float(bool(s)), success=s, status=status[s]) for s in successes)
    return Group(prompt=prompt, completions_G=completions, rewards_G=rewards)


def test_the_figures():
    groups = [group(0, [True, False], cut_off=1), group(1, [True, True]), group(2, [False, None], length=10)]
    trial = summarise(groups, seconds=2.0)
    assert trial.truncated == pytest.approx(1 / 6)
    assert trial.accuracy == pytest.approx(3 / 5)
    assert trial.informative == pytest.approx(1 / 3)
    assert trial.unjudged == pytest.approx(1 / 6)
    assert (trial.mean_tokens, trial.tokens_per_s) == (6.0, 18.0)
    text = " ".join(describe(trial))
    assert "3 prompts x 2 rollouts: 60% right, 33% of the prompts informative" in text
    assert "could not be judged" in text and "more than half" not in text


def test_what_bodes_ill_is_said():
    (_, cut, flat) = describe(summarise([group(0, [False, False], cut_off=2)], seconds=1.0))
    assert "trainer.max_completion_tokens" in cut and "nothing can be learned" in flat
    assert math.isnan(summarise([group(0, [None, None])], seconds=1.0).accuracy)
