from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from insight_rl.cli.main import main
from insight_rl.errors import UsageError
from insight_rl.gate.mixed_outcomes import MixedOutcomes
from insight_rl.selector.random import RandomSelector
from insight_rl.simulation.experiment import CURVES, Size, run
from insight_rl.simulation.settings import load
from insight_rl.simulation.study import ORACLE, Study, estimate, run_study
from insight_rl.simulation.synthetic_learner import SyntheticLearner

SMALL = ["num_seeds=4", "num_prompts=200", "num_steps=12", "prompts_per_step=16", "num_processes=1"]


@pytest.fixture(scope="module")
def study():
    return run_study(*load([*SMALL, "selectors=random,mopps,insight:forgetting=0.5:mu=0.4"]))


def test_curves_are_shares_and_regret_is_never_negative(study):
    assert study.labels == ["random", "mopps", "insight:forgetting=0.5:mu=0.4", ORACLE]
    for label in study.labels:
        assert study.curves[label].shape == (4, len(CURVES), 12)
        for name in CURVES[:-1]:
            assert np.all((study.curve(label, name) >= 0.0) & (study.curve(label, name) <= 1.0)), name
        assert np.all(study.curve(label, "num_groups") == 16)
        assert np.all(np.diff(study.curve(label, "mean_success")) >= 0.0)  # nothing is ever unlearnt
    assert study.figures(ORACLE)["regret"] == pytest.approx(0.0)
    assert np.all(study.figures("random")["regret"] > 0.1)


def test_an_unseen_first_selector_goes_through_the_pool_once(study):
    visited = study.curve("insight:forgetting=0.5:mu=0.4", "visited_fraction")
    assert np.allclose(visited, np.minimum(16 * np.arange(1, 13) / 200, 1.0))
    assert np.all(study.curve("mopps", "visited_fraction")[:, -1] < 0.9)


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_seed_fixes_the_study_whatever_the_number_of_processes(study, num_processes):
    again = run_study(*load([*SMALL, "selectors=random,mopps", f"num_processes={num_processes}"]))
    for label in ("random", "mopps", ORACLE):
        assert np.array_equal(again.curves[label], study.curves[label])


def test_another_seed_is_another_study(study):
    other = run_study(*load([*SMALL, "selectors=mopps", "seed=1"]))
    assert not np.array_equal(other.curves["mopps"], study.curves["mopps"])


def test_all_selectors_meet_the_same_pools(study):
    first_step = study.curve("random", "mean_success")[:, 0]
    assert np.ptp(first_step) > 0.0
    assert np.corrcoef(first_step, study.curve("mopps", "mean_success")[:, 0])[0, 1] > 0.99


def test_settings_reach_the_selector_they_were_given_to():
    _, variants = load(["selectors=insight,insight:forgetting=0.5:mu=0.4", "selector.prior_beta=2.0"])
    plain, varied = (variant.selector for variant in variants)
    assert (plain["forgetting"], plain["mu"], plain["prior_beta"]) == (1.0, 0.3, 2.0)
    assert (varied["forgetting"], varied["mu"], varied["prior_beta"]) == (0.5, 0.4, 2.0)


def test_dynamic_sampling_brings_its_gate_and_pays_for_it():
    config, variants = load([*SMALL, "selectors=random,dynamic_sampling"])
    assert variants[1].gate["_target_"].endswith("MixedOutcomes")
    study = run_study(config, variants)
    assert np.all(study.figures("dynamic_sampling")["num_groups"] > study.figures("random")["num_groups"])


def test_a_gate_trains_on_informative_groups_only():
    learner = SyntheticLearner(easy=0.0, learnable=0.2, hopeless=0.8, transfer=0.0)
    learner.open(num_prompts=100, seed=0)
    before = learner.success_rates()
    size = Size(num_prompts=100, num_steps=1, prompts_per_step=10, rollouts_per_prompt=8)
    curves = run(RandomSelector(), MixedOutcomes(max_rounds=20), learner, size=size, seed=1)
    num_groups, informative = curves[CURVES.index("num_groups"), 0], curves[CURVES.index("informative_fraction"), 0]
    assert num_groups > 10
    assert np.sum(learner.success_rates() > before) == 10 == round(num_groups * informative)


def test_the_interval_is_students():
    values = np.array([0.1, 0.4, 0.2, 0.5, 0.35])
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert estimate(values).mean == pytest.approx(values.mean())
    assert estimate(values).half_width == pytest.approx((high - low) / 2)


def test_differences_are_taken_pool_by_pool():
    base = np.array([0.2, 0.6, 0.4])
    curves = np.zeros((3, len(CURVES), 2))
    curves[:, CURVES.index("num_groups")] = 1.0
    better = curves.copy()
    curves[:, 0, -1], better[:, 0, -1] = base, base + 0.01
    difference = Study({"a": curves, "b": better}).difference("b", "a")
    assert difference.mean == pytest.approx(0.01)
    assert difference.half_width == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selectors=insihgt"], "selector=insihgt"),
        (["selectors=insight:forgeting=0.5"], "forgeting"),
        (["selectors=insight,insight"], "named twice"),
        (["synthetic_learner=no_such_learner"], "synthetic_learner=no_such_learner"),
        (["synthetic_learner.no_such=1"], "no_such"),
        (["num_seeds=1"], "num_seeds=1"),
        (["prompts_per_step=5000"], "prompts_per_step=5000"),
        (["num_step=3"], "num_step"),
    ],
)
def test_mistakes_are_named_on_the_command_line(overrides, message, capsys):
    assert main(["simulate", *overrides]) == 2
    assert message in capsys.readouterr().err


def test_a_selector_that_breaks_its_own_rules_is_named():
    with pytest.raises(UsageError, match=r"selector\.forgetting=3"):
        load(["selectors=insight:forgetting=3"])


def test_the_command_writes_table_picture_and_numbers(tmp_path, capsys):
    selectors = "selectors=random,insight,insight:forgetting=0.5"
    assert main(["simulate", *SMALL, selectors, f"output_dir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    for word in ("random", "insight", "oracle", "less", "±"):
        assert word in printed
    assert (tmp_path / "simulation.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "simulation.json").read_text())
    assert numbers["settings"]["num_steps"] == 12
    insight = numbers["selectors"]["insight"]
    assert len(insight["figures"]["mean_success_at_end"]) == 4
    assert insight["curves"]["mean_success"]["mean"][-1] == pytest.approx(
        np.mean(insight["figures"]["mean_success_at_end"]), abs=1e-4
    )


@pytest.mark.slow
def test_insight_cycles_where_most_prompts_are_hopeless():
    """Why anyone would simulate before a run: see docs/simulation.md."""
    selectors = "selectors=random,insight,insight:forgetting=0.5,mapp:greedy=true,mopps,expected_difficulty"
    study = run_study(*load(["synthetic_learner=hopeless80", "num_seeds=3", selectors]))

    def informative(label, first, last):
        return study.curve(label, "informative_fraction")[:, first:last].mean()

    assert informative("insight", 0, 60) == pytest.approx(0.13, abs=0.03)  # each prompt once: 2,000 / 32 = 62.5 steps
    assert informative("insight", 72, 76) > 0.8
    assert informative("insight", 100, 125) < 0.1
    assert study.curve("insight", "hopeless_fraction")[:, 100:125].mean() > 0.9
    assert informative("insight", 150, 170) > 0.8
    assert informative("insight:forgetting=0.5", 72, 130) > 0.85
    assert informative("mapp:greedy=true", 30, 200) > 0.6
    for above, below in (("insight", "random"), ("expected_difficulty", "mopps")):
        difference = study.difference(above, below)
        assert difference.mean > difference.half_width
