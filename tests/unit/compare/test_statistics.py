"""The statistics of a comparison, against scipy, published figures and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from insight_rl.compare import statistics as st

DIFFERENCES = np.array([0.012, 0.004, 0.020, -0.003, 0.009, 0.015, 0.001, 0.011])


def test_t_interval_and_p_are_those_of_scipy():
    reference = stats.ttest_1samp(DIFFERENCES, 0.0)
    assert st.t_test(DIFFERENCES) == pytest.approx(reference.pvalue, rel=1e-12)
    interval = st.mean_interval(DIFFERENCES)
    assert (interval.low, interval.high) == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-12)


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02])
def test_equivalence_is_the_larger_p_of_two_one_sided_tests(margin):
    below = stats.ttest_1samp(DIFFERENCES, margin, alternative="less").pvalue
    above = stats.ttest_1samp(DIFFERENCES, -margin, alternative="greater").pvalue
    assert st.equivalence_test(DIFFERENCES, margin) == pytest.approx(max(below, above), rel=1e-12)
    narrow = st.mean_interval(DIFFERENCES, level=0.9)
    assert (st.equivalence_test(DIFFERENCES, margin) < 0.05) == (-margin < narrow.low and narrow.high < margin)


def test_differences_without_spread():
    same = np.full(5, 0.1) + 0.1 - 0.1
    assert st.t_test(np.zeros(5)) == 1.0 and st.equivalence_test(np.zeros(5), 0.01) == 0.0
    assert st.t_test(same) == 0.0 and st.equivalence_test(same, 0.01) == 1.0
    assert st.mean_interval(np.zeros(5)) == st.Interval(0.0, 0.0)


def test_one_seed_tells_nothing():
    one = np.array([0.3])
    assert math.isnan(st.t_test(one)) and math.isnan(st.equivalence_test(one, 0.01))
    unknown = [st.mean_interval(one), st.seed_bootstrap(one), st.improvement_interval(one, one)]
    assert all(interval.holds(-1e9) and interval.holds(1e9) for interval in unknown)


def test_holm_on_a_worked_example():
    # Wikipedia, Holm-Bonferroni method, "Example": p 0.01, 0.04, 0.03, 0.005; H1 and H4 rejected at 0.05.
    adjusted = st.holm({"H1": 0.01, "H2": 0.04, "H3": 0.03, "H4": 0.005})
    assert adjusted == pytest.approx({"H1": 0.03, "H2": 0.06, "H3": 0.06, "H4": 0.02})


def test_holm_leaves_out_what_is_unknown():
    adjusted = st.holm({"a": math.nan, "b": 0.02})
    assert math.isnan(adjusted["a"]) and adjusted["b"] == 0.02


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.1, size=6)
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (len(p) - rank):
                break
            rejected.add(int(index))
        assert {name for name, value in st.holm(dict(enumerate(p))).items() if value <= 0.05} == rejected


# Cohen's small, medium and large effect as every power table of the paired t test has them: 199, 34 and 15 pairs.
@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_power_tables(effect, seeds):
    assert st.seeds_needed(1.0, effect) == seeds
    assert st.seeds_needed(3.0, -3 * effect) == seeds


def test_seeds_needed_at_the_ends():
    assert st.seeds_needed(0.0, 0.01) == 2
    assert st.seeds_needed(1.0, 1e-6) is None
    # The normal distribution's (1.96 + 0.8416)^2 / effect^2, from which t differs little there.
    assert st.seeds_needed(1.0, 0.05) == pytest.approx((1.959964 + 0.841621) ** 2 / 0.05**2, abs=3)


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    samples = rng.normal(0.5, 1.0, size=(2000, st.seeds_needed(1.0, 0.5)))
    found = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_interquartile_mean_is_that_of_the_middle_half():
    values = np.array([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert st.interquartile_mean(values) == np.mean([3.0, 4.0, 5.0, 6.0])
    assert st.interquartile_mean(np.stack([values, values + 1])).tolist() == [4.5, 5.5]


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 12).astype(float), rng.integers(0, 5, 12).astype(float)
    reference = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert st.probability_of_improvement(x, y) == pytest.approx(reference)
    assert st.probability_of_improvement(x, x) == 0.5
    interval = st.improvement_interval(x, y)
    assert interval.low < reference < interval.high


def _coverage(draw, interval_of, truth, repetitions=300):
    rng = np.random.default_rng(0)
    return np.mean([interval_of(draw(rng)).holds(truth) for _ in range(repetitions)])


@pytest.mark.parametrize("num_seeds", [5, 10, 20])
def test_seed_bootstrap_covers_the_truth(num_seeds):
    coverage = _coverage(lambda rng: rng.normal(0.3, 1.0, num_seeds), st.seed_bootstrap, 0.3)
    assert 0.9 <= coverage <= 0.985


def test_plain_percentiles_would_not_cover_it():
    def plain(values):
        return st.Interval(*np.quantile(values[st.resample(5, 1000)].mean(axis=1), [0.025, 0.975]))

    assert _coverage(lambda rng: rng.normal(0.3, 1.0, 5), plain, 0.3) < 0.88


def test_the_interval_of_a_normal_bootstrap_is_that_of_t():
    # Replicates as the bootstrap of a mean has them in the limit: their spread lacks the factor n / (n - 1).
    values = np.array([0.1, 0.5, 0.2, 0.9, 0.4, 0.7])
    spread = np.std(values) / math.sqrt(len(values))
    replicates = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000, values.mean(), spread)
    interval, reference = st.percentile_interval(replicates, len(values)), st.mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-3)


@pytest.mark.parametrize("shared_problems", [True, False])
def test_seed_and_problem_bootstrap_covers_the_truth(shared_problems, monkeypatch):
    monkeypatch.setattr(st, "NUM_RESAMPLES", 300)

    def draw(rng):
        problems = rng.normal(0, 0.3, size=(1 if shared_problems else 12, 40))
        return 0.05 + problems + rng.normal(0, 0.05, size=(12, 1)) + rng.normal(0, 0.3, size=(12, 40))

    coverage = _coverage(draw, lambda d: st.seed_and_problem_bootstrap(d, shared_problems=shared_problems), 0.05, 100)
    assert coverage >= 0.93


def test_problems_shared_by_all_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    differences = 0.05 + rng.normal(0, 0.3, size=(1, 40)) + rng.normal(0, 0.02, size=(12, 40))
    shared = st.seed_and_problem_bootstrap(differences, shared_problems=True)
    nested = st.seed_and_problem_bootstrap(differences, shared_problems=False)
    seeds_only = st.seed_bootstrap(differences.mean(axis=1))
    assert shared.high - shared.low > 3 * (nested.high - nested.low)
    # The noise of a mean of 40 values with deviation 0.3, as a 95 % interval.
    assert shared.high - shared.low == pytest.approx(2 * 2.7 * 0.3 / math.sqrt(40), rel=0.35)
    assert seeds_only.high - seeds_only.low < nested.high - nested.low


def test_stratified_bootstrap_draws_within_strata():
    low, high = np.zeros(10), np.ones(10)
    interval = st.stratified_bootstrap([low, high], lambda values: values.mean(axis=-1))
    assert interval == st.Interval(0.5, 0.5)


def test_stratified_bootstrap_of_the_interquartile_mean_covers_it():

    def draw(rng):
        return [rng.normal(0.3, 0.1, 12), rng.normal(0.3, 0.1, 12)]

    def interval_of(strata):
        return st.stratified_bootstrap(strata, st.interquartile_mean)

    assert _coverage(draw, interval_of, 0.3, 60) >= 0.9


def test_area_is_the_mean_height_up_to_the_budget():
    x, y = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 1.0])
    assert st.area(x, y, 20.0) == pytest.approx(0.75)
    assert st.area(x, y, 10.0) == pytest.approx(0.5)
    assert st.area(x, y, 15.0) == pytest.approx((5 + 5) / 15)
    assert st.area(x + 5, y, 25.0) == pytest.approx(0.75)


def test_no_value_is_made_up_beyond_the_end():
    x, y = np.array([0.0, 10.0]), np.array([0.2, 0.4])
    assert st.value_at(x, y, 2.5) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="budget=11"):
        st.area(x, y, 11.0)
