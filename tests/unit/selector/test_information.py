"""Against mpmath's 50 digits; scripts/check_information.py does the same on 10^5 points."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.selector.information import (
    CHUNK,
    TABLE_SIZE,
    mutual_information,
)

SPEC = importlib.util.spec_from_file_location(
    "check_information", Path(__file__).parents[3] / "scripts" / "check_information.py"
)
check = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = check
SPEC.loader.exec_module(check)

counts = st.floats(1e-3, 1e9)
GRID = [1e-3, 0.3, 1.0, 7.99, 8.0, 30.0, 1e4, 1e9]


@pytest.mark.parametrize(
    ("alpha", "beta", "num_rollouts", "nats"),
    [
        (1, 1, 8, 0.766390213695079),
        (3, 7, 8, 0.289775344205419),
        (0.5, 2, 1, 0.142771245767434),
        (0.001, 1e9, 8, 5.06574666116855e-11),
        (1e9, 1e9, 64, 1.5999999744e-8),
    ],
)
def test_published_values(alpha, beta, num_rollouts, nats):
    assert mutual_information(alpha, beta, num_rollouts) == pytest.approx(nats, rel=3e-15 * 10**2)


@pytest.mark.parametrize("num_rollouts", [1, 3, 8, 20])
def test_mutual_information_on_a_grid(num_rollouts):
    points = [(a, b, num_rollouts) for a in GRID for b in GRID]
    assert max(check.information_errors(points)) < 1e-11


@given(alpha=counts, beta=counts, num_rollouts=st.integers(1, 64))
@settings(max_examples=100, deadline=None)
def test_mutual_information_anywhere(alpha, beta, num_rollouts):
    assert check.information_errors([(alpha, beta, num_rollouts)])[0] < 1e-11


def exact_entropy(a, b):
    psi = mpmath.digamma
    log_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
    return log_beta - (a - 1) * psi(a) - (b - 1) * psi(b) + (a + b - 2) * psi(a + b)


def test_the_exact_reference_is_the_definition():
    """The reference above uses the chain-free form; here the definition by entropies, in mpmath throughout."""
    for a, b, k in ((1.0, 1.0, 8), (0.3, 5.0, 3), (40.0, 2.5, 12)):
        with mpmath.workdps(50):
            after = sum(
                mpmath.binomial(k, s)
                * mpmath.beta(a + s, b + k - s)
                / mpmath.beta(a, b)
                * exact_entropy(a + s, b + k - s)
                for s in range(k + 1)
            )
            assert check.relative_error(exact_entropy(a, b) - after, check.exact_information((a, b, k))) < 1e-14


def test_table_kernel_and_threads_agree_to_the_bit():
    """One belief has one score, whether it is looked up, computed, alone or in a large array."""
    alpha = np.tile(np.arange(1.0, 201.0), 5 * CHUNK // 200 + 1)
    beta = alpha[::-1].copy()
    looked_up = mutual_information(alpha, beta, 8)
    alpha_mixed, beta_mixed = np.append(alpha, 0.5), np.append(beta, 0.5)
    assert np.array_equal(mutual_information(alpha_mixed, beta_mixed, 8)[:-1][-100:], looked_up[-100:])
    few = [float(mutual_information(a, b, 8)) for a, b in zip(alpha[:200], beta[:200], strict=True)]
    assert few == looked_up[:200].tolist()


def test_counts_beyond_the_table_are_computed():
    alpha = np.arange(1.0, 2000.0)
    beta = np.full(1999, TABLE_SIZE + 1.0)
    one_by_one = [float(mutual_information(a, TABLE_SIZE + 1.0, 8)) for a in alpha[::100]]
    assert mutual_information(alpha, beta, 8)[::100].tolist() == one_by_one


def test_broadcasting_and_memory_layout():
    alpha, beta = np.array([[1.0], [2.0], [5.0]]), np.array([1.0, 3.0])
    grid = mutual_information(alpha, beta, 4)
    assert grid.shape == (3, 2)
    assert grid[2, 1] == mutual_information(5.0, 3.0, 4)
    strided = np.arange(1.0, 21.0)[::2]
    assert np.array_equal(mutual_information(strided, strided, 4), mutual_information(strided.copy(), strided, 4))
    assert mutual_information([], [], 4).shape == (0,)


@given(alpha=counts, beta=counts, num_rollouts=st.integers(1, 63))
@settings(max_examples=50, deadline=None)
def test_more_rollouts_tell_more_and_each_tells_less(alpha, beta, num_rollouts):
    one, k, more = (float(mutual_information(alpha, beta, each)) for each in (1, num_rollouts, num_rollouts + 1))
    assert 0 < one <= k * (1 + 1e-9)
    assert k <= more * (1 + 1e-9) <= (k + one) * (1 + 1e-8)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, -1.0), (np.nan, 1.0), (1.0, np.inf)])
def test_counts_that_are_no_belief_are_refused(alpha, beta):
    with pytest.raises(ValueError, match="positive and finite"):
        mutual_information(np.array([1.0, alpha]), np.array([1.0, beta]), 8)


@pytest.mark.slow
def test_without_a_folder_for_compiled_code_it_is_compiled_anew():
    script = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "from insight_rl.selector.information import mutual_information\n"
        "print(repr(float(mutual_information(3.0, 7.0, 8))))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert float(run.stdout) == float(mutual_information(3.0, 7.0, 8))


def test_importing_scores_and_selectors_loads_no_compiler():
    script = (
        "import sys, insight_rl.selector.belief_selector, insight_rl.selector.acquisition\n"
        "print(sorted({'numba', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]"
