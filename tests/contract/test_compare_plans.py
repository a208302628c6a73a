"""Every plan in conf/compare is one, and its arms are what its page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from insight_rl.compare.plan import load_plan

ROOT = Path(__file__).parents[2]
PLANS = sorted(path.stem for path in (ROOT / "conf" / "compare").glob("*.yaml"))
PUBLISHED = {"countdown": "a", "mixed": "b", "large_pool": "c"}
TWELVE = {
    *("random", "mopps", "inverse_evidence", "expected_difficulty", "dynamic_sampling", "insight"),
    *("information_only", "weight_only", "insight_sampled"),
    *("mapp", "expected_signal", "insight_forgetting"),
}


@pytest.fixture(scope="module")
def plans():
    return {name: load_plan([f"compare={name}"]) for name in PLANS}


@pytest.mark.parametrize("name", PLANS)
def test_every_option_is_a_plan(plans, name):
    assert plans[name].arms


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings_have_the_twelve_arms_and_ten_seeds(plans, name):
    plan = plans[name]
    assert plan.setting == PUBLISHED[name]
    assert plan.arms.keys() >= TWELVE
    assert plan.seeds.number >= 10
    assert plan.baseline == "random"


def setting(plan, key):
    """The value of ``key`` among the overrides of all arms."""
    (value,) = [each.partition("=")[2] for each in plan.base if each.startswith(f"{key}=")]
    return int(value)


def test_the_countdown_plan_goes_as_often_through_its_pool_as_the_paper(plans):
    plan = plans["countdown"]
    assert plan.budget.axis == "rollouts"
    visits = plan.budget.size / 8
    assert visits / setting(plan, "task.num_train") == pytest.approx(100 * 256 / 2000)
    # All of the pool are candidates in every step, as in the paper.
    assert 16 * setting(plan, "trainer.prompts_per_step") >= setting(plan, "task.num_train")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_last_step_is_evaluated(plans, name):
    plan = plans[name]
    steps = plan.budget.size / 8 / setting(plan, "trainer.prompts_per_step")
    assert steps % setting(plan, "evaluation.every") == 0


def test_the_quick_script_knows_every_arm():
    """It leaves out the arms that it reads from the file with a pattern."""
    script = (ROOT / "scripts" / "reproduce_quick.sh").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"sed -n 's/(.*)/\\1/p'", script)
    pattern = pattern.replace(r"\(", "(").replace(r"\)", ")")
    text = (ROOT / "conf" / "compare" / "shared" / "selectors.yaml").read_text(encoding="utf-8")
    found = re.findall(pattern, text, flags=re.MULTILINE)
    assert sorted(found) == sorted(load_plan(["compare=mixed"]).arms)
