from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.algorithm.advantage import ADVANTAGES, beta_binomial, centered, group_std, leave_one_out, mapp
from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.types import Completion, Group, Prompt, Reward

NO_VERDICTS = np.array([])
# Spreads between the tolerance and a thousand times it are neither flat nor far from it; no reward lives there.
rewards = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, math.nan]), min_size=1, max_size=12).map(np.array)
mixed_rewards = rewards.filter(lambda r: len(set(r[~np.isnan(r)])) > 1)
BELIEF_FREE = ("group_std", "centered", "leave_one_out")


@pytest.mark.parametrize("name", BELIEF_FREE)
@settings(deadline=None)
@given(values=rewards)
def test_what_was_not_judged_comes_out_as_nan_and_changes_nothing_else(name, values) -> None:
    judged = ~np.isnan(values)
    advantages = ADVANTAGES[name](values, NO_VERDICTS, None)
    np.testing.assert_array_equal(np.isnan(advantages), ~judged)
    np.testing.assert_array_equal(advantages[judged], ADVANTAGES[name](values[judged], NO_VERDICTS, None))


@pytest.mark.parametrize("name", BELIEF_FREE)
@settings(deadline=None)
@given(values=mixed_rewards)
def test_advantages_sum_to_zero_and_keep_the_order_of_the_rewards(name, values) -> None:
    values = values[~np.isnan(values)]
    advantages = ADVANTAGES[name](values, NO_VERDICTS, None)
    assert abs(advantages.sum()) < 1e-9
    assert np.all(np.diff(advantages[np.argsort(values)]) >= -1e-12)


@pytest.mark.parametrize("name", BELIEF_FREE)
@pytest.mark.parametrize("values", [[0.1] * 8, [0.1 + 0.2, 0.3, 0.3], [0.7], [math.nan, 0.7], [1 / 3 + 1e-9, 1 / 3]])
def test_a_flat_group_has_advantages_of_exactly_zero(name, values) -> None:
    advantages = ADVANTAGES[name](np.array(values), NO_VERDICTS, None)
    assert np.all(advantages[~np.isnan(values)] == 0.0)


@settings(deadline=None)
@given(values=mixed_rewards)
def test_leave_one_out_compares_each_rollout_with_the_mean_of_the_others(values) -> None:
    values = values[~np.isnan(values)]
    expected = [value - np.delete(values, i).mean() for i, value in enumerate(values)]
    np.testing.assert_allclose(leave_one_out(values, NO_VERDICTS, None), expected, atol=1e-12)


def test_centered_and_group_std_on_numbers_worked_by_hand() -> None:
    values = np.array([1.0, 0.0, 0.0, 0.1])
    np.testing.assert_allclose(centered(values, NO_VERDICTS, None), [0.725, -0.275, -0.275, -0.175], atol=1e-15)
    std = math.sqrt((0.725**2 + 2 * 0.275**2 + 0.175**2) / 3)
    np.testing.assert_allclose(
        group_std(values, NO_VERDICTS, None), np.array([0.725, -0.275, -0.275, -0.175]) / (std + 1e-4), rtol=1e-12
    )


def test_the_smallest_spread_that_counts_is_not_blown_up() -> None:
    advantages = group_std(np.array([0.5, 0.5 + 2e-6]), NO_VERDICTS, None)
    assert 0 < np.abs(advantages).max() < 0.02


@pytest.mark.slow
@settings(deadline=None)
@given(values=mixed_rewards)
def test_group_std_equals_trl(values) -> None:
    torch = pytest.importorskip("torch")
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    tensor = torch.tensor(values)
    expected = (tensor - tensor.nanmean()) / (nanstd(tensor) + 1e-4)
    np.testing.assert_allclose(group_std(values, NO_VERDICTS, None), expected.numpy(), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(
    k=st.integers(0, 20),
    extra=st.integers(0, 43),
    a=st.floats(1e-3, 1e9),
    b=st.floats(1e-3, 1e9),
)
def test_beta_binomial_equals_mpmath(k, extra, a, b) -> None:
    m = k + extra
    with mpmath.workdps(60):
        expected = mpmath.binomial(m, k) * mpmath.beta(mpmath.mpf(a) + k, mpmath.mpf(b) + m - k) / mpmath.beta(a, b)
        # Below 1e-308 a float has fewer digits.
        assert abs(mpmath.mpf(beta_binomial(k, m, a, b)) - expected) < 1e-11 * expected + mpmath.mpf("1e-308")


def test_mapp_is_the_expected_group_normalised_advantage() -> None:
    """Draw phi from the belief without the rollout itself, then the others' verdicts, then normalise with this one."""
    rng = np.random.default_rng(0)
    verdicts = np.array([1.0, 0.0, 0.0, math.nan, 1.0])
    alpha, beta, size, draws = 4.0, 3.5, 4, 400_000
    advantages = mapp(verdicts, verdicts, (alpha, beta))
    assert np.isnan(advantages[3])
    for verdict, own_alpha, own_beta in ((1.0, alpha - 1, beta), (0.0, alpha, beta - 1)):
        wins = rng.binomial(size - 1, rng.beta(own_alpha, own_beta, draws)) + verdict
        mean = wins / size
        std = np.sqrt(mean * (1 - mean))
        simulated = np.where(std > 0, (verdict - mean) / np.where(std > 0, std, 1), 0).mean()
        for j in np.flatnonzero(verdicts == verdict):
            assert advantages[j] == pytest.approx(simulated, abs=0.01)


def test_mapp_rates_flat_groups_by_the_belief() -> None:
    all_right = np.ones(4)
    sure, unsure = mapp(all_right, all_right, (50.0, 1.0)), mapp(all_right, all_right, (5.0, 30.0))
    assert np.all(sure > 0) and np.all(unsure > sure)


def test_mapp_refuses_to_go_without_a_fitting_belief() -> None:
    verdicts = np.array([1.0, 0.0])
    with pytest.raises(ValueError, match="keeps a belief"):
        mapp(verdicts, verdicts, None)
    with pytest.raises(ValueError, match="does not contain"):
        mapp(verdicts, verdicts, (0.5, 2.0))


def test_algorithm_takes_values_for_policy_and_verdicts_for_beliefs() -> None:
    completion = Completion(token_ids=(1,), logprobs=(-1.0,), text="", finish_reason="stop", policy_version=0)
    rewards_G = (
        Reward(value=0.1, success=False),
        Reward(value=9.9, success=None),
        Reward(value=1.0, success=True),
        Reward(value=0.0, success=False),
    )
    prompt = Prompt(id="p", task="t", text="", token_ids=(1,), answer=None)
    group = Group(prompt=prompt, completions_G=(completion,) * 4, rewards_G=rewards_G)
    by_value = _algorithm(advantage="centered").advantages([group])[0]
    np.testing.assert_allclose(by_value, np.array([0.1, math.nan, 1.0, 0.0]) - 1.1 / 3)
    by_belief = _algorithm(advantage="mapp").advantages([group], [(2.0, 3.0)])[0]
    assert by_belief[0] == by_belief[3] < 0 < by_belief[2]


def _algorithm(**changes) -> Algorithm:
    return Algorithm(**{"loss": GRPO(), "advantage": "centered", "clip_low": 0.2, "clip_high": 0.2} | changes)
