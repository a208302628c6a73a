"""Simulated runs of a comparison, in this process."""

import json
from dataclasses import replace

import pytest

from insight_rl.compare.jobs import Job, OwnCode, read_outcome
from insight_rl.compare.plan import BudgetPlan
from insight_rl.compare.simulations import check_simulation, read_curve, simulate_job
from insight_rl.errors import UsageError

SMALL = ("num_prompts=60", "prompts_per_step=8", "rollouts_per_prompt=4", "record_every=2")


@pytest.fixture
def job(tmp_path):
    return Job(
        name="insight_seed0",
        arm="insight",
        seed=0,
        overrides=(*SMALL, "selector=insight"),
        budget=BudgetPlan(axis="steps", size=5),
        run_dir=tmp_path / "insight_seed0",
        starts=tmp_path,
        own_code=OwnCode(),
    )


def test_a_run_leaves_its_curve(job):
    simulate_job(job)
    assert read_outcome(job.run_dir)["state"] == "finished"
    assert [(row["step"], row["rollouts"]) for row in read_curve(job.run_dir)] == [(0, 0), (2, 64), (4, 128), (5, 160)]


def test_a_budget_of_rollouts_counts_those_of_rejected_groups(job):
    gated = replace(job, overrides=(*SMALL, "selector=dynamic_sampling"), budget=BudgetPlan(axis="rollouts", size=320))
    simulate_job(gated)
    rows = read_curve(gated.run_dir)
    # Ten steps without a gate; with one they cost more, and none beyond the budget is kept.
    assert rows[-1]["step"] < 10
    assert rows[-1]["rollouts"] <= 320
    assert all(row["rollouts"] >= 32 * row["step"] for row in rows)


def test_a_failed_run_says_why(job):
    simulate_job(replace(job, overrides=("num_prompts=0",)))
    outcome = read_outcome(job.run_dir)
    assert outcome["state"] == "failed"
    assert "num_prompts=0" in outcome["reason"]
    assert not (job.run_dir / "curve.json").exists()


def test_arms_are_checked_before_the_first_run(job):
    assert check_simulation(job)["num_prompts"] == 60
    json.dumps(check_simulation(job))
    with pytest.raises(UsageError, match=r"arm insight: selector\.nu=1"):
        check_simulation(replace(job, overrides=(*job.overrides, "selector.nu=1")))
