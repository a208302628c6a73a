from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.acquisition import weighted_mutual_information
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.pool import BeliefPool
from insight_rl.selector.prior import Prior
from insight_rl.types import Prompt


def prompt(i, task, **metadata):
    return Prompt(id=f"{task}/{i}", task=task, text="", token_ids=(i,), answer=None, metadata=metadata)


def test_priors_by_task_hold_until_and_beneath_the_observations():
    prompts = [prompt(0, "math"), prompt(1, "toy"), prompt(2, "math")]
    pool = BeliefPool(prompts, prior=Prior(alpha=2.0, beta=2.0, by_task={"math": [1.0, 5.0]}), num_rollouts=8)
    pool.update(np.array([0]), np.array([3.0]), np.array([8.0]), forgetting=0.5, step=1)
    alpha, beta = pool.beliefs(np.arange(3))
    assert alpha.tolist() == [4.0, 2.0, 1.0]
    assert beta.tolist() == [10.0, 2.0, 5.0]
    assert pool.unseen_priors()[2].tolist() == [1, 1]
    pool.update(np.array([0]), np.array([0.0]), np.array([1.0]), forgetting=0.0, step=2)
    assert [float(counts[0]) for counts in pool.beliefs(np.array([0]))] == [1.0, 6.0]  # back to its own prior, and S, K


def test_metrics_count_each_prior_with_its_prompts():
    selector = BeliefSelector(score=None, prior_alpha=3.0, prior_beta=1.0, task_priors={"math": [1.0, 7.0]})
    selector.open([prompt(0, "math"), prompt(1, "toy"), prompt(2, "math"), prompt(3, "toy")], num_rollouts=8, seed=0)
    metrics = selector.metrics()
    assert metrics["selector/mean_belief"] == pytest.approx((2 * 0.125 + 2 * 0.75) / 4)
    assert metrics["selector/mean_evidence"] == pytest.approx((2 * 8 + 2 * 4) / 4)
    assert sum(metrics["selector/belief_histogram"].counts) == 4


def test_correction_for_guessing():
    prompts = [prompt(0, "mmlu", num_choices=4), prompt(1, "mmlu", num_choices=2), prompt(2, "math")]
    prior = Prior(chance_levels={"mmlu": "num_choices"}).of(prompts, 8)
    alpha, beta = prior.beyond_chance(np.array([40.0, 75.0, 25.0]), np.array([60.0, 25.0, 75.0]), np.arange(3))
    np.testing.assert_allclose(alpha + beta, 100.0)
    np.testing.assert_allclose(alpha / 100.0, [(0.40 - 0.25) / 0.75, (0.75 - 0.5) / 0.5, 0.25])


def test_guessing_does_not_look_learnable():
    """Of a prompt that is guessed (1 in 4) and one that is half known, only the level tells which to take."""
    guessed, known = prompt(0, "mmlu"), prompt(1, "mmlu")
    score = partial(weighted_mutual_information, mu=0.3, eta=3.0)
    ranks = {}
    for level in (0.0, 0.25):
        selector = BeliefSelector(score=score, chance_levels={"mmlu": level})
        selector.open([guessed, known], num_rollouts=8, seed=0)
        selector._pool.update(np.arange(2), np.array([16.0, 40.0]), np.array([64.0, 64.0]), forgetting=1.0, step=1)
        first = selector.select(1)[0]
        ranks[level] = first.id
        weights = selector.last_decision.scores[np.argsort(selector.last_decision.candidates)]
    assert ranks == {0.0: guessed.id, 0.25: known.id}
    assert weights[0] < 0.1 * weights[1]
    assert selector.belief(guessed.id) == (17.0, 49.0)  # the belief itself goes on counting the verifier's verdicts


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"task_priors": {"math": [1.0]}}, r"task_priors\.math"),
        ({"task_priors": {"math": [1.0, 0.0]}}, r"task_priors\.math"),
        ({"chance_levels": {"mmlu": 1.0}}, r"chance_levels\.mmlu"),
    ],
)
def test_bad_settings_are_named(settings, key):
    with pytest.raises(UsageError, match=key):
        BeliefSelector(score=None, **settings)


def test_a_prompt_without_its_number_of_choices_is_named():
    selector = BeliefSelector(score=None, chance_levels={"mmlu": "num_choices"})
    with pytest.raises(UsageError, match="mmlu/7"):
        selector.open([prompt(7, "mmlu")], num_rollouts=8, seed=0)
