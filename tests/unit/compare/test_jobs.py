"""One run of a comparison: its configuration, and how it says how it ended."""

from dataclasses import replace
from pathlib import Path

import pytest

from insight_rl.compare import jobs
from insight_rl.compare.jobs import Job, OwnCode, check_job, compose_run, read_outcome
from insight_rl.compare.plan import BudgetPlan
from insight_rl.errors import Interrupted, UsageError

JOB = Job(
    name="insight_seed3",
    arm="insight",
    seed=3,
    overrides=("trainer.prompts_per_step=8", "trainer.rollouts_per_prompt=4", "selector=insight", "selector.mu=0.4"),
    budget=BudgetPlan(axis="steps", size=7),
    run_dir=Path("runs/insight_seed3"),
    starts=Path("starts"),
    own_code=OwnCode(),
)


@pytest.mark.parametrize(
    ("axis", "size", "expected"),
    [
        ("steps", 7, (7, None, None, None)),
        # A step has at least 32 rollouts, so that more steps than these are never needed.
        ("rollouts", 100, (4, 100, None, None)),
        ("tokens", 64, (2, None, 64, None)),
        ("seconds", 60, (1_000_000, None, None, 60)),
    ],
)
def test_the_budget_becomes_settings_of_the_run(axis, size, expected):
    trainer = compose_run(replace(JOB, budget=BudgetPlan(axis=axis, size=size))).trainer
    assert (trainer.num_steps, trainer.max_rollouts, trainer.max_tokens, trainer.max_device_s) == expected


def test_a_run_is_its_arm_and_seed():
    tree = compose_run(JOB)
    assert (tree.seed, tree.selector_name, tree.selector.mu, tree.run_dir) == (3, "insight", 0.4, str(JOB.run_dir))
    assert set(tree.monitor) == {"jsonl"}
    assert set(compose_run(replace(JOB, overrides=(*JOB.overrides, "monitor=[jsonl,console]"))).monitor) == {
        "jsonl",
        "console",
    }
    with pytest.raises(UsageError, match=r"selector\.nu=1"):
        compose_run(replace(JOB, overrides=("selector.nu=1",)))


def test_a_run_is_checked_as_far_as_no_model_loads(tmp_path):
    job = replace(JOB, run_dir=tmp_path / "run", overrides=(*JOB.overrides, "evaluation.max_problems=4"))
    checked = check_job(job)
    assert (checked.config["selector.mu"], checked.config["seed"]) == (0.4, 3)
    assert checked.identity != check_job(replace(job, seed=4)).identity  # by the seed of its evaluations alone
    assert checked.identity.problems == check_job(replace(job, seed=4)).identity.problems
    with pytest.raises(UsageError, match=r"arm insight: selector\.mu=2"):
        check_job(replace(job, overrides=(*job.overrides, "selector.mu=2")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_run_without_a_whole_outcome_has_not_ended(content, tmp_path):
    if content is not None:
        (tmp_path / "outcome.json").write_text(content)
    assert read_outcome(tmp_path) == {}


def test_a_run_that_is_stopped_while_it_imports_has_not_failed(tmp_path, monkeypatch):
    def train(job):
        try:
            raise Interrupted(15)
        except Interrupted as signal:
            raise RuntimeError("Error calling __set_name__") from signal

    monkeypatch.setattr(jobs, "_train", train)
    for name in ("setsid", "dup2"):
        monkeypatch.setattr(jobs.os, name, lambda *_: None)
    monkeypatch.setattr(jobs, "prepare", lambda parent: None)
    job = replace(JOB, run_dir=tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        jobs.run_job(job, gpu=None)
    assert (ended.value.code, read_outcome(job.run_dir)) == (143, {})
