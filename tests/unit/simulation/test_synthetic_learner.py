from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.simulation.oracle import OracleSelector, mixed_chance, regret
from insight_rl.simulation.synthetic_learner import KINDS, SyntheticLearner


def make(num_prompts=400, *, seed=0, **settings):
    learner = SyntheticLearner(**{"easy": 0.25, "learnable": 0.5, "hopeless": 0.25, **settings})
    learner.open(num_prompts=num_prompts, seed=seed)
    return learner


def test_the_pool_has_the_stated_shares_and_rates_to_match():
    learner = make(num_prompts=1000)
    assert np.bincount(learner.kinds).tolist() == [250, 500, 250]
    rates = learner.success_rates()
    easy, learnable, hopeless = (rates[learner.kinds == kind].mean() for kind in range(len(KINDS)))
    assert easy > 0.85
    assert 0.25 < learnable < 0.6
    assert hopeless < 0.01


def test_uniform_groups_teach_nothing():
    learner = make()
    before = learner.success_rates()
    learner.train(np.arange(100), np.where(np.arange(100) % 2, 8, 0), 8)
    assert np.array_equal(learner.success_rates(), before)


@given(successes=st.integers(1, 7), transfer=st.floats(0.0, 0.5))
def test_a_mixed_group_moves_its_own_logit_and_its_relatives_and_nobody_else(successes, transfer):
    learner = make(transfer=transfer, speed=0.3, cluster_size=40)
    before = logits(learner)
    learner.train(np.array([17]), np.array([successes]), 8)
    moved = logits(learner) - before
    gain = 0.3 * np.sqrt(successes / 8 * (1 - successes / 8))
    assert moved[17] == pytest.approx(gain * (1 + transfer))
    others = np.delete(moved, 17)
    relatives = np.isclose(others, transfer * gain, rtol=1e-6, atol=1e-9)
    if transfer > 1e-3:
        assert relatives.sum() == 39
    assert np.allclose(others[~relatives], 0.0, atol=1e-9)


def logits(learner):
    rates = learner.success_rates()
    return np.log(rates) - np.log1p(-rates)


def test_roll_outs_follow_the_rates():
    learner = make(easy=0.0, learnable=1.0, hopeless=0.0)
    indices = np.arange(50)
    drawn = np.mean([learner.roll_out(indices, 8) for _ in range(2000)], axis=0) / 8
    expected = learner.success_rates()[indices]
    error = np.sqrt(expected * (1 - expected) / 16_000)
    assert np.all(np.abs(drawn - expected) < 5 * error)


def test_a_seed_fixes_pool_and_roll_outs():
    first, second, other = make(seed=3), make(seed=3), make(seed=4)
    assert np.array_equal(first.success_rates(), second.success_rates())
    assert np.array_equal(first.roll_out(np.arange(100), 8), second.roll_out(np.arange(100), 8))
    assert not np.array_equal(first.success_rates(), other.success_rates())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"easy": 0.5}, "add up to 1"),
        ({"easy": 1.25}, r"synthetic_learner\.easy"),
        ({"speed": -0.1}, r"synthetic_learner\.speed"),
        ({"transfer": float("nan")}, r"synthetic_learner\.transfer"),
        ({"easy_logit": [1.0]}, r"synthetic_learner\.easy_logit"),
        ({"hopeless_logit": [1.0, -1.0]}, r"synthetic_learner\.hopeless_logit"),
        ({"cluster_size": 0}, r"synthetic_learner\.cluster_size"),
    ],
)
def test_bad_settings_are_named(settings, name):
    with pytest.raises(UsageError, match=name):
        make(**settings)


@given(rate=st.floats(0.0, 1.0), num_rollouts=st.integers(2, 16))
def test_mixed_chance_is_one_less_both_uniform_outcomes(rate, num_rollouts):
    chance = mixed_chance(np.array([rate, 1.0 - rate]), num_rollouts)
    assert 0.0 <= chance[0] <= 1.0
    assert chance[0] == pytest.approx(chance[1], abs=1e-12)
    if num_rollouts == 2:
        assert chance[0] == pytest.approx(2 * rate * (1 - rate), abs=1e-12)


@given(
    chances=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40),
    data=st.data(),
)
def test_regret_is_never_negative_and_zero_for_the_best(chances, data):
    chances = np.array(chances)
    size = data.draw(st.integers(1, len(chances)))
    chosen = np.array(data.draw(st.permutations(range(len(chances)))))[:size]
    assert 0.0 <= regret(chances, chosen) <= 1.0
    best = np.argsort(-chances)[:size]
    assert regret(chances, best) == pytest.approx(0.0, abs=1e-12)
    assert regret(chances, chosen) == pytest.approx(np.sort(chances)[::-1][:size].mean() - chances[chosen].mean())


def test_the_oracle_has_no_regret():
    from insight_rl.simulation.synthetic_learner import make_pool

    learner = make()
    oracle = OracleSelector(learner)
    oracle.open(make_pool(400), num_rollouts=8, seed=0)
    chosen = np.array([int(prompt.id) for prompt in oracle.select(32)])
    assert len(set(chosen.tolist())) == 32
    assert regret(mixed_chance(learner.success_rates(), 8), chosen) == pytest.approx(0.0, abs=1e-12)
