from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.bots import BotsSelector
from insight_rl.types import Completion, Group, Prompt, Reward

COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)
WEAK, STRONG = [0.1, 0.2, 0.0, 0.5], [0.5, 0.6, 0.2, 1.0]


def opened(**settings):
    rates = [{"weak": weak, "strong": strong} for weak, strong in zip(WEAK, STRONG, strict=True)]
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(), answer=None, metadata=rates[i]) for i in range(4)]
    selector = BotsSelector(weak_field="weak", strong_field="strong", **settings)
    selector.open(pool, num_rollouts=4, seed=0)
    return pool, selector


def group(prompt, successes, judged=4):
    rewards_G = tuple(Reward(value=0.0, success=i < successes) for i in range(judged))
    return Group(prompt=prompt, completions_G=(COMPLETION,) * judged, rewards_G=rewards_G)


def test_explicit_evidence_and_forgetting_for_everyone():
    pool, selector = opened(forgetting=0.5)
    selector.observe([group(pool[0], 3), group(pool[1], 0)])
    assert selector.belief("0") == (4.0, 2.0)
    selector.observe([group(pool[1], 4)])
    assert selector.belief("0") == (2.5, 1.5)  # not rolled out, but it forgets
    assert selector.belief("1") == (5.0, 3.0)
    assert selector.belief("2") == (1.0, 1.0)


def test_implicit_evidence_by_hand():
    pool, selector = opened(forgetting=0.5, rho=0.25)
    selector.observe([group(pool[0], 2), group(pool[1], 0)])
    capability = (0.25 - 0.15) / (0.55 - 0.15 + 1e-6)
    expected = [0.0 + capability * 0.2, 0.5 + capability * 0.5]
    for prompt_id, p in zip("23", expected, strict=True):
        assert selector.belief(prompt_id) == pytest.approx((1 + 0.25 * 4 * p, 1 + 0.25 * 4 * (1 - p)))
    assert selector.belief("0") == (3.0, 3.0)
    selector.observe([group(pool[3], 4)])
    moved = 0.9 * capability + 0.1 * (1.0 - 0.5) / (0.5 + 1e-6)
    p = 0.1 + moved * 0.4
    assert selector.belief("0") == pytest.approx((2.0 + p, 2.0 + (1 - p)))


def test_state_holds_the_implicit_evidence():
    pool, selector = opened(rho=0.25)
    selector.observe([group(pool[0], 2)])
    _, resumed = opened(rho=0.25)
    resumed.load_state_dict(selector.state_dict())
    for each in (selector, resumed):
        each.observe([group(pool[1], 3)])
    assert [resumed.belief(prompt.id) for prompt in pool] == [selector.belief(prompt.id) for prompt in pool]


def test_missing_pass_rates_are_named():
    selector = BotsSelector(rho=0.1)
    with pytest.raises(UsageError, match="weak_pass_rate"):
        selector.open([Prompt(id="9", task="toy", text="", token_ids=(), answer=None)], num_rollouts=4, seed=0)
