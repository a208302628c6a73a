from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from insight_rl.selector.belief import predictive_mass, updated

positive = st.floats(1e-3, 1e6)


def test_update_by_hand():
    alpha, beta = updated(
        np.array([1.0, 4.0, 4.0]),
        np.array([1.0, 2.0, 2.0]),
        np.array([3.0, 0.0, 0.0]),
        np.array([5.0, 5.0, 0.0]),
        has_verdict=np.array([True, True, False]),
        prior_alpha=1.0,
        prior_beta=1.0,
        forgetting=0.5,
    )
    assert alpha.tolist() == [4.0, 2.5, 4.0]
    assert beta.tolist() == [6.0, 6.5, 2.0]


@given(alpha=positive, beta=positive, num_rollouts=st.integers(1, 64))
def test_predictive_mass_is_the_beta_binomial(alpha, beta, num_rollouts):
    mass = predictive_mass(np.array([alpha]), np.array([beta]), num_rollouts)[0]
    expected = stats.betabinom(num_rollouts, alpha, beta).pmf(np.arange(num_rollouts + 1))
    np.testing.assert_allclose(mass, expected, rtol=1e-5, atol=1e-12)


def test_predictive_mass_survives_extreme_beliefs():
    mass = predictive_mass(np.array([1e-3, 1e9]), np.array([1e9, 1e-3]), 64)
    assert mass[0, 0] > 1 - 1e-9
    assert mass[1, 64] > 1 - 1e-9
    assert np.isfinite(mass).all()
