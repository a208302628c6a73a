from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import expit

from insight_rl.errors import UsageError
from insight_rl.selector import features
from insight_rl.selector.feature_prior import FeaturePoolPrior, FeaturePrior
from insight_rl.selector.features import prompt_features, standardised
from insight_rl.selector.field_prior import FieldPrior
from insight_rl.selector.learnt_prior import LearntPrior
from insight_rl.selector.pool import BeliefPool
from insight_rl.selector.prior import Prior
from insight_rl.types import Prompt

K = 8
TOPICS = ("What is the sum of {} and {}?", "Prove that $x^{} + y^{}$ has no root.", "Count the trees: {}, {}!")


def prompt(i, *, text="", answer=None, task="toy", **metadata):
    return Prompt(id=str(i), task=task, text=text, token_ids=(i,), answer=answer, metadata=metadata)


def written_pool(size, rng):
    """Problems on three topics, which alone decide how hard they are; and their success rates."""
    topics = rng.integers(0, 3, size)
    pool = [prompt(i, text=TOPICS[topic].format(i, i % 7), answer=str(i)) for i, topic in enumerate(topics)]
    return pool, np.clip(np.array([0.9, 0.02, 0.4])[topics] + rng.uniform(-0.02, 0.02, size), 0, 1)


def predictive(pool_prior, rates, rng, steps=20, per_step=64):
    """Mean log-likelihood of each step's first visits under the prior before them, without the first two steps."""
    order, total = rng.permutation(len(rates)), []
    for step in range(steps):
        indices = order[step * per_step : (step + 1) * per_step]
        successes = rng.binomial(K, rates[indices]).astype(float)
        alpha, beta = pool_prior.counts(indices)
        total.append(stats.betabinom.logpmf(successes, K, alpha, beta).mean())
        pool_prior.observe(indices, successes, np.full(per_step, float(K)))
    return np.mean(total[2:])


def by_source(source, pool, rates):
    return predictive(Prior(source=source).of(pool, K), rates, np.random.default_rng(5))


def test_topics_that_decide_are_learnt_and_shuffled_ones_do_no_harm():
    pool, rates = written_pool(1500, np.random.default_rng(0))
    flat, learnt, by_features = (by_source(each, pool, rates) for each in (None, LearntPrior(), FeaturePrior()))
    assert by_features > learnt + 0.3 > flat + 0.3
    shuffled = np.random.default_rng(1).permutation(rates)  # the texts no longer tell anything
    assert by_source(FeaturePrior(), pool, shuffled) > by_source(LearntPrior(), pool, shuffled) - 0.05


def test_the_regression_approaches_the_maximum_of_its_posterior():
    rng = np.random.default_rng(3)
    z = standardised(rng.standard_normal((4000, 3)))
    true = np.array([-0.5, 1.2, -0.8, 0.0])
    rates = expit(np.c_[np.ones(4000), z] @ true)
    prior = FeaturePoolPrior(z, Prior().of([prompt(0)], K), memory=1.0)
    predictive(prior, rates, rng, steps=60)
    found = prior._weights / np.array([1.0, *[np.sqrt(3)] * 3])
    np.testing.assert_allclose(found, true, atol=0.12)
    assert prior._strength > 8.0  # nothing scatters about the regression


def test_one_step_is_the_laplace_approximation():
    rng = np.random.default_rng(4)
    z = standardised(rng.standard_normal((50, 2)))
    prior = FeaturePoolPrior(z, Prior().of([prompt(0)], K), memory=1.0)
    inputs, before = prior._inputs.astype(float), prior._precision.copy()
    successes, strength = rng.binomial(K, 0.3, 50).astype(float), prior._strength
    worth = K / (1 + (K - 1) / (prior._strength + 1))
    prior.observe(np.arange(50), successes, np.full(50, float(K)))
    strength = prior._strength  # w is learnt at the strength before the step
    assert strength > 1.5

    def loss(w):
        m = expit(inputs @ w)
        return -worth * (successes / K * np.log(m) + (1 - successes / K) * np.log1p(-m)).sum() + 0.5 * w @ before @ w

    best = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(prior._weights, best, atol=2e-3)  # two Newton steps
    hessian = before + (inputs.T * (worth * expit(inputs @ best) * expit(-inputs @ best))) @ inputs
    np.testing.assert_allclose(prior._precision, hessian, rtol=1e-2, atol=0.05)


def test_a_strength_about_right_is_found():
    rng = np.random.default_rng(6)
    prior = FeaturePoolPrior(np.empty((8000, 0), np.float32), Prior().of([prompt(0)], K), memory=1.0)
    predictive(prior, rng.beta(0.6, 1.4, 8000), rng, steps=100)
    assert prior._strength == pytest.approx(2.0, rel=0.15)
    assert prior.alphas[0] / prior._strength == pytest.approx(0.3, abs=0.03)


def test_a_pool_without_contents_has_no_features_and_one_prior():
    pool = [prompt(i) for i in range(30)]
    assert prompt_features(pool).shape == (30, 0)
    prior = Prior(alpha=1.0, beta=3.0, source=FeaturePrior()).of(pool, K)
    np.testing.assert_allclose(prior.alphas / (prior.alphas + prior.betas), 0.25, rtol=1e-6)


def test_features_are_standardised_the_same_each_time_and_blind_to_ignored_fields(monkeypatch):
    rng = np.random.default_rng(0)
    pool = [
        prompt(i, text=TOPICS[i % 3].format(i, i), answer=i / 2, task="ab"[i % 2], level=i, source="xyz"[i % 3], leak=x)
        for i, x in enumerate(rng.random(60))
    ]
    first = prompt_features(pool, ignore=["leak"])
    monkeypatch.setattr(features, "_cache", {})
    again = prompt_features(pool, ignore=["leak"])
    assert again is not first and np.array_equal(first, again)
    assert prompt_features(list(pool), ignore=["leak"]) is again
    np.testing.assert_allclose(first.mean(axis=0), 0.0, atol=0.05)  # not quite 0, by what is cut off
    assert (first.std(axis=0) <= 1.0 + 1e-5).all() and np.abs(first).max() <= 6.0
    leaks = np.array([each.metadata["leak"] for each in pool])

    def correlation(matrix):
        return np.abs(np.corrcoef(np.c_[leaks, matrix], rowvar=False)[0, 1:]).max()

    assert correlation(prompt_features(pool)) == pytest.approx(1.0, abs=1e-5) and correlation(first) < 0.6


def test_strange_contents_are_features_too():
    odd = [None, float("inf"), 10**400, "x" * 100, True, {"a": [1]}, -1e300]
    pool = [prompt(i, text="\x00\ud800" * i, answer=value, value=value) for i, value in enumerate(odd)]
    matrix = prompt_features(pool)
    assert len(matrix) == len(odd) and np.isfinite(matrix).all()


def test_embeddings_take_the_place_of_the_text(tmp_path):
    rng = np.random.default_rng(0)
    pool = [prompt(i, text="the same") for i in range(100)]
    vectors = rng.standard_normal((100, 80))
    np.save(tmp_path / "e.npy", vectors)
    matrix = prompt_features(pool, embeddings=str(tmp_path / "e.npy"))
    assert matrix.shape == (100, 64)
    explained = np.linalg.svd(vectors - vectors.mean(axis=0))[0][:, :64]
    residual = matrix - explained @ (explained.T @ matrix)
    assert np.abs(residual).max() < 0.2  # the span of the principal components, but for what is cut off


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((3, 2)), "3 rows and the pool has 2 prompts"),
        (np.zeros(2), r"\[prompts, width\]"),
        (np.array([[np.nan], [1.0]]), "not finite"),
        (np.array([["a"], ["b"]]), "numbers"),
        (np.array([[{}], [{}]]), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(tmp_path, array, complaint):
    if array is not None:
        np.save(tmp_path / "e.npy", array, allow_pickle=True)
    with pytest.raises(UsageError, match=rf"selector\.prior\.embeddings=.*e\.npy.*{complaint}"):
        prompt_features([prompt(0), prompt(1)], embeddings=str(tmp_path / "e.npy"))


def test_a_field_is_a_prior_worth_its_strength():
    pool = [prompt(0, pass_rate=0.25), prompt(1, pass_rate=0), prompt(2), prompt(3, pass_rate=1.0)]
    beliefs = BeliefPool(pool, prior=Prior(alpha=2.0, beta=3.0, source=FieldPrior(strength=8.0)), num_rollouts=K)
    beliefs.update(np.array([0]), np.array([2.0]), np.array([8.0]), forgetting=1.0, step=1)
    alpha, beta = beliefs.beliefs(np.arange(4))
    np.testing.assert_allclose(alpha, [4.0, 0.04, 2.0, 7.96])
    np.testing.assert_allclose(beta, [12.0, 7.96, 3.0, 0.04])
    assert [each.tolist() for each in beliefs.unseen_priors()][2] == [1, 1, 1]


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [({"pass_rate": 1.5}, "prompt 0 has pass_rate=1.5"), ({"rate": 0.5}, "those there are: rate"), ({}, "no metadata")],
)
def test_a_field_that_is_not_there_or_no_rate_is_named(metadata, complaint):
    with pytest.raises(UsageError, match=rf"selector\.prior\.field='pass_rate': .*{complaint}"):
        Prior(source=FieldPrior()).of([prompt(0, **metadata)], K)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: FeaturePrior(memory=2), "memory"),
        (lambda: FeaturePrior(embeddings=3), "embeddings"),
        (lambda: FeaturePrior(ignore="pass_rate"), "ignore"),
        (lambda: FieldPrior(field=""), "field"),
        (lambda: FieldPrior(strength=0), "strength"),
    ],
)
def test_bad_settings_are_named(make, key):
    with pytest.raises(UsageError, match=rf"selector\.prior\.{key}"):
        make()
