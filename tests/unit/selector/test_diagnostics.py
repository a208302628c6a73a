from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from insight_rl.selector.diagnostics import covered, gini, spearman, step_metrics


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_equals_scipy(pairs):
    x, y = np.array(pairs, float).T
    expected = stats.spearmanr(x, y).statistic if np.ptp(x) and np.ptp(y) else None
    found = spearman(x, y)
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected, abs=1e-12)


def test_gini_of_equal_and_of_lone_visits():
    assert gini(np.array([3, 3, 3, 3]), 0) == pytest.approx(0.0)
    assert gini(np.array([8]), 3) == pytest.approx(0.75)
    assert gini(np.array([], np.int64), 3) == 0.0


def test_gini_equals_the_mean_absolute_difference():
    visits = np.array([5, 1, 2, 9])
    everyone = np.array([5, 1, 2, 9, 0, 0, 0])
    expected = np.abs(everyone[:, None] - everyone).mean() / (2 * everyone.mean())
    assert gini(visits, 3) == pytest.approx(expected)


def test_coverage_is_the_central_predictive_interval():
    """A belief sure of 0.5: of 8 rollouts, 2 to 6 lie within the 90 % interval of Binomial(8, 0.5), 1 and 7 do not."""
    alpha = np.full(9, 1e7)
    assert covered(alpha, alpha, np.arange(9.0), np.full(9, 8.0)).tolist() == [False] * 2 + [True] * 5 + [False] * 2


def test_step_metrics_by_hand():
    metrics = step_metrics(
        np.array([1.0, 3.0]), np.array([1.0, 1.0]), np.array([4.0, 4.0]), np.array([8.0, 4.0]), np.array([-1, 5])
    )
    assert metrics["selector/informative_fraction"] == 0.5
    assert metrics["selector/belief_age"] == 5.0
    assert metrics["selector/brier"] == pytest.approx((8 * 0.25 + 4 * 0.0625) / 12)
    assert metrics["selector/spearman"] == pytest.approx(1.0)
    reliability = {key: value for key, value in metrics.items() if "reliability" in key}
    assert reliability == {"selector/reliability_5": 0.5, "selector/reliability_7": 1.0}


def test_a_step_without_verdicts_says_nothing_of_calibration():
    metrics = step_metrics(np.ones(2), np.ones(2), np.zeros(2), np.zeros(2), np.array([-1, -1]))
    assert metrics == {"selector/informative_fraction": 0.0}
