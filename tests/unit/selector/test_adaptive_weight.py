from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from insight_rl.errors import UsageError
from insight_rl.selector.acquisition import information_only, weighted_mutual_information
from insight_rl.selector.adaptive_weight import DECAY, ETA, GAIN_SPREAD, MU, AdaptiveWeight, weights_on_grid
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.types import Counts, Prompt


def feed(weight, rates, gains, *, first=0):
    """Two visits of fresh prompts each: the first with share 0, the second with the gain; both had been seen before."""
    indices = np.arange(first, first + len(rates))
    seen = np.ones(len(rates), bool)
    weight.observe(indices, rates, np.zeros(len(rates)), seen)
    return weight.observe(indices, rates, gains, seen)


def test_the_evidence_is_that_of_the_gaussian_model():
    """Against the density of the gains less their mean under each point of the grid, up to a constant."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.05, 0.95, 12)
    gains = 0.1 * rates * (1 - rates) + 0.05 * rng.standard_normal(12)
    weight = AdaptiveWeight(mu=0.3, eta=3.0)
    feed(weight, rates, gains)
    noise = gains.var()
    # An orthonormal basis of what is left once the mean is taken out.
    basis = np.linalg.svd(np.eye(12) - 1.0 / 12.0)[0][:, :11]
    centred = basis.T @ gains
    expected = np.array(
        [
            stats.multivariate_normal.logpdf(
                centred, cov=noise * np.eye(11) + GAIN_SPREAD**2 * np.outer(basis.T @ w, basis.T @ w)
            )
            for w in weights_on_grid(rates)
        ]
    )
    got = weight.log_evidence()
    np.testing.assert_allclose(got - got[0], expected - expected[0], atol=1e-9)


@pytest.mark.parametrize("true_mu", [0.15, 0.7])
def test_it_moves_to_where_the_gains_are(true_mu):
    rng = np.random.default_rng(1)
    weight = AdaptiveWeight(mu=0.4, eta=5.0)
    for step in range(40):
        rates = rng.uniform(0.05, 0.95, 500)
        shape = rates * (1 - rates) * np.exp(-5.0 * (rates - true_mu) ** 2)
        noise = rng.binomial(8, rates) / 8 - rng.binomial(8, rates) / 8
        metrics = feed(weight, rates, 0.15 * shape / shape.max() + 0.02 + noise, first=500 * step)
    assert abs(metrics["selector/mu"] - true_mu) < 0.1
    assert 2.0 < metrics["selector/eta"] <= 10.0


def test_without_a_signal_it_stays():
    rng = np.random.default_rng(2)
    weight = AdaptiveWeight(mu=0.3, eta=3.0)
    nothing = np.empty(0)
    assert weight.observe(nothing.astype(int), nothing, nothing, nothing.astype(bool)) == {
        "selector/mu": 0.3,
        "selector/eta": 3.0,
    }
    for step in range(10):
        rates = rng.uniform(0.05, 0.95, 100)
        metrics = feed(weight, rates, rng.binomial(8, rates) / 8 - rates, first=100 * step)
    assert abs(metrics["selector/mu"] - 0.3) < 0.1
    assert 1.5 < metrics["selector/eta"] < 6.0


def test_a_lucky_visit_is_no_gain_lost():
    """Shares scatter about rates that do not move: selection by the belief must not see a slope in them."""
    rng = np.random.default_rng(3)
    weight = AdaptiveWeight(mu=0.5, eta=3.0)
    rates = rng.uniform(0.0, 1.0, 2000)
    beliefs = rng.binomial(8, rates) / 8
    seen = np.ones(2000, bool)
    for _ in range(12):
        metrics = weight.observe(np.arange(2000), beliefs, rng.binomial(8, rates) / 8, seen)
    assert abs(metrics["selector/mu"] - 0.5) < 0.08


def test_gains_are_forgotten():
    weight = AdaptiveWeight(mu=0.3, eta=3.0)
    feed(weight, np.full(10, 0.3), np.full(10, 0.1))
    assert weight.state_dict()["sums"][0] == 10
    feed(weight, np.full(1, 0.3), np.full(1, 0.1), first=10)
    assert weight.state_dict()["sums"][0] == pytest.approx(10 * DECAY**2 + 1)


def opened(**settings):
    selector = BeliefSelector(score=weighted_mutual_information, forgetting=0.5, candidate_ratio=100, **settings)
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(40)]
    selector.open(pool, num_rollouts=8, seed=0)
    return selector


def step(selector, rng):
    prompts = selector.select(20)
    counts = rng.binomial(8, 0.5, len(prompts)).tolist()
    selector.observe(
        [Counts(prompt_id=p.id, num_judged=8, num_successes=s) for p, s in zip(prompts, counts, strict=True)]
    )
    return [prompt.id for prompt in prompts], list(selector.last_scores())


def test_the_score_uses_them_and_a_checkpoint_keeps_them():
    adapting, fixed = opened(adapt_weight=True), opened()
    rng, same = np.random.default_rng(1), np.random.default_rng(1)
    for number in range(12):
        traces = step(adapting, rng), step(fixed, same)
        assert number > 0 or traces[0] == traces[1]
    metrics = adapting.metrics()
    assert MU[0] <= metrics["selector/mu"] <= MU[-1]
    assert metrics["selector/mu"] != 0.3
    assert ETA[0] <= metrics["selector/eta"] <= ETA[-1]
    belief = np.array([2.0]), np.array([3.0])
    expected = weighted_mutual_information(*belief, 8, mu=metrics["selector/mu"], eta=metrics["selector/eta"])
    assert adapting.score_candidates(np.array([0]), *belief) == pytest.approx(expected)
    resumed = opened(adapt_weight=True)
    resumed.load_state_dict(adapting.state_dict())
    again, once_more = np.random.default_rng(2), np.random.default_rng(2)
    for _ in range(3):
        assert step(adapting, again) == step(resumed, once_more)
    assert resumed.metrics() == adapting.metrics()
    resumed.open([Prompt(id="0", task="toy", text="", token_ids=(1,), answer=None)], num_rollouts=8, seed=0)
    assert resumed.score_candidates(np.array([0]), *belief) == pytest.approx(weighted_mutual_information(*belief, 8))


def test_bad_settings_are_named():
    with pytest.raises(UsageError, match=r"selector\.adapt_weight=True: needs a score with the settings mu and eta"):
        BeliefSelector(score=information_only, adapt_weight=True)
    with pytest.raises(UsageError, match=r"selector\.adapt_weight=1"):
        opened(adapt_weight=1)
    with pytest.raises(UsageError, match=r"selector\.mu=0\.95"):
        opened(adapt_weight=True, mu=0.95)
