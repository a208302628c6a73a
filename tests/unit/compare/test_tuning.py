"""The value of each arm is the best by the mean over the tuning seeds."""

import pytest

from insight_rl.compare.plan import TuningPlan
from insight_rl.compare.tuning import Trial, choose, tuning_rows

TUNING = TuningPlan(key="learner.lr", values=[1e-5, 1e-4, 1e-3], seeds=[100, 101])


def trials(arm, *results):
    """Results by value, then seed."""
    pairs = [(value, seed) for value in TUNING.values for seed in TUNING.seeds]
    return [Trial(arm=arm, value=v, seed=s, result=r) for (v, s), r in zip(pairs, results, strict=True)]


def test_each_arm_gets_its_own_best_value():
    found = trials("a", 0.1, 0.1, 0.3, 0.1, 0.25, 0.05) + trials("b", 0.1, 0.2, 0.1, 0.2, 0.0, 0.0)
    # a: means 0.1, 0.2, 0.15; b: the first two are equal, and the earlier one wins.
    assert choose(found, TUNING) == {"a": 1e-4, "b": 1e-5}


def test_a_value_that_failed_once_is_not_chosen():
    assert choose(trials("a", 0.1, 0.1, 0.3, 0.3, 0.9, None), TUNING) == {"a": 1e-4}
    with pytest.raises(ValueError, match=r"^a$"):
        choose(trials("a", None, 0.1, None, 0.3, 0.9, None), TUNING)


def test_all_trials_are_told():
    found = trials("a", 0.1, 0.1, 0.3, 0.1, 0.25, None)
    rows = tuning_rows(found, {"a": 1e-4}, setting="b", key="learner.lr", metric="area by tokens")
    assert [(row["value"], row["seed"], row["result"], row["chosen"]) for row in rows] == [
        (1e-5, 100, 0.1, 0),
        (1e-5, 101, 0.1, 0),
        (1e-4, 100, 0.3, 1),
        (1e-4, 101, 0.1, 1),
        (1e-3, 100, 0.25, 0),
        (1e-3, 101, None, 0),
    ]
