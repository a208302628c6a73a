"""A comparison from plan to report, with runs that only write what a run would have written."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from insight_rl.compare import comparison, report
from insight_rl.compare.comparison import Comparison, finish
from insight_rl.compare.jobs import CheckedRun, Ended
from insight_rl.compare.plan import load_plan
from insight_rl.compare.plan_record import read_status
from insight_rl.errors import RunStopped, UsageError
from insight_rl.nested import flatten
from insight_rl.run_identity import RunIdentity


def config_of(job):
    """``learner.lr`` and the selector are what the overrides say; everything else is the same everywhere."""
    settings = dict(override.split("=") for override in job.overrides)
    return {
        "selector_name": settings["selector"],
        "selector": {"_target_": settings["selector"]},
        "learner": {"lr": float(settings.get("learner.lr", 1e-4))},
        "trainer": {"num_steps": job.budget.size},
    }


def identity_of(job):
    return RunIdentity(model="m", pool="p", problems="q", evaluation=f"seed {job.seed}")


class Stage:
    """Stands for the processes: what was run, and with which result."""

    def __init__(self):
        self.ran, self.said, self.broken = [], [], set()

    def check_jobs(self, jobs, processes):
        return [CheckedRun(identity=identity_of(job), config=flatten(config_of(job))) for job in jobs]

    def run_jobs(self, jobs, slots, on_end, say):
        ended = []
        for job in jobs:
            self.ran.append(job.name)
            job.run_dir.mkdir(parents=True, exist_ok=True)
            reason = "the gradient norm is nan" if job.name in self.broken else ""
            if not reason:
                self.write(job)
            outcome = {"state": "failed" if reason else "finished", "reason": reason}
            (job.run_dir / "outcome.json").write_text(json.dumps(outcome))
            ended.append(Ended(job=job, reason=reason, wall_s=2.0))
            on_end(ended[-1])
        return ended

    def write(self, job):
        config = config_of(job)
        # insight is better, and each arm is best at a learning rate of its own.
        best = 2e-4 if config["selector_name"] == "insight" else 1e-4
        gain = 0.1 + 0.1 * (config["selector_name"] == "insight") - 0.05 * (config["learner"]["lr"] != best)
        records = [
            {
                "step": step,
                "eval/accuracy": 0.3 + gain * step / 2 + 0.001 * (job.seed % 3) * step,
                "rollout/num_rollouts": 32 * step,
                "rollout/num_tokens": 300 * step,
                "time/device_s": 0.5 * step,
                "gate/num_groups": 8 if step else 0,
                "selector/informative_fraction": 0.5,
            }
            for step in range(3)
        ]
        (job.run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (job.run_dir / "evaluations.jsonl").write_text('{"step": 2, "samples": 2, "successes": {"x": 1, "y": 2}}\n')
        (job.run_dir / "config.yaml").write_text(yaml.safe_dump({"seed": job.seed} | config))
        (job.run_dir / "identity.json").write_text(json.dumps(asdict(identity_of(job))))


@pytest.fixture
def stage(monkeypatch):
    stage = Stage()
    monkeypatch.setattr(comparison, "check_jobs", stage.check_jobs)
    monkeypatch.setattr(comparison, "run_jobs", stage.run_jobs)
    # The report has tests of its own, and takes seconds.
    monkeypatch.setattr(comparison, "write_report", lambda analyses: [analyses[0].results.folder / "report.html"])
    return stage


def compare(stage, folder, *overrides):
    return Comparison(load_plan(["compare=smoke", "base=[]", *overrides]), folder, stage.said.append).run()


def rows(path: Path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_from_plan_to_tables_seed_by_seed(stage, tmp_path):
    files = compare(stage, tmp_path)
    assert stage.ran == ["random_seed0", "insight_seed0", "random_seed1", "insight_seed1"]
    assert {"curves.csv", "problems.csv", "costs.csv", "report.html"} == {file.name for file in files}
    assert len(rows(tmp_path / "curves.csv")) == 4 * 3
    assert len(rows(tmp_path / "problems.csv")) == 4 * 2
    assert [row["rollouts"] for row in rows(tmp_path / "costs.csv")] == ["64"] * 4
    assert read_status(tmp_path)["plan_intact"] is True
    assert any("only 2 seeds" in text for text in stage.said)
    assert "[4/4] insight_seed1: accuracy 0.4520, 2 s; 0 s left" in stage.said


def test_the_report_and_the_headline_rest_on_one_analysis(stage, tmp_path, monkeypatch):
    analysed, analyse = [], report.analyse
    monkeypatch.setattr(report, "analyse", lambda results: analysed.append(results.folder) or analyse(results))
    compare(stage, tmp_path)
    assert analysed == [tmp_path]
    assert any(text.startswith("setting smoke: ") for text in stage.said)


def test_nothing_is_written_of_a_plan_that_cannot_run(stage, tmp_path, monkeypatch):
    def refuse(jobs, processes):
        raise UsageError("arm insight: selector.mu=2: must lie in [0, 1]")

    monkeypatch.setattr(comparison, "check_jobs", refuse)
    with pytest.raises(UsageError, match=r"selector\.mu=2"):
        compare(stage, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert stage.ran == []


def test_more_seeds_later_and_nothing_twice(stage, tmp_path):
    compare(stage, tmp_path)
    stage.ran.clear()
    compare(stage, tmp_path, "seeds.number=3")
    assert stage.ran == ["random_seed2", "insight_seed2"]
    assert "changed since the first run: seeds.number was changed from 2 to 3 after the first run" in stage.said
    assert {row["seed"] for row in rows(tmp_path / "curves.csv")} == {"0", "1", "2"}
    with pytest.raises(UsageError, match=r"budget\.size=5: the comparison in .* was planned with 2"):
        compare(stage, tmp_path, "seeds.number=3", "budget.size=5")


def test_a_failed_run_is_told_and_left_out_and_tried_again(stage, tmp_path):
    stage.broken = {"insight_seed0"}
    compare(stage, tmp_path)
    assert stage.ran[-1] == "insight_seed1"
    assert read_status(tmp_path)["failed"] == {"insight_seed0": "the gradient norm is nan"}
    assert "insight_seed0 failed and is left out: the gradient norm is nan" in stage.said
    assert ("insight", "0") not in {(row["selector"], row["seed"]) for row in rows(tmp_path / "curves.csv")}
    stage.broken, stage.ran = set(), []
    compare(stage, tmp_path)
    assert stage.ran == ["insight_seed0"]
    assert read_status(tmp_path)["failed"] == {}


def test_an_excluded_run_is_left_out(stage, tmp_path):
    compare(stage, tmp_path, "+exclusions.random_seed1=the disk was full")
    assert ("random", "1") not in {(row["selector"], row["seed"]) for row in rows(tmp_path / "curves.csv")}


def test_every_arm_is_tuned_by_the_same_trials_on_other_seeds(stage, tmp_path):
    compare(stage, tmp_path, "tuning={key: learner.lr, values: [1.0e-4, 2.0e-4], seeds: [100, 101]}")
    trials = rows(tmp_path / "tuning.csv")
    assert len(trials) == 2 * 2 * 2
    assert {row["seed"] for row in trials} == {"100", "101"}
    assert {(row["selector"], row["value"]) for row in trials if row["chosen"] == "1"} == {
        ("random", "0.0001"),
        ("insight", "0.0002"),
    }
    config = yaml.safe_load((tmp_path / "runs" / "insight_seed1" / "config.yaml").read_text())
    assert config["learner"]["lr"] == 2e-4
    assert all(name.endswith(("seed100", "seed101")) for name in stage.ran[:8])
    assert stage.ran[8:] == ["random_seed0", "insight_seed0", "random_seed1", "insight_seed1"]


def test_a_value_that_fails_everywhere_ends_it_with_a_reason(stage, tmp_path):
    stage.broken = {f"insight_value{index}_seed100" for index in (0, 1)}
    with pytest.raises(RunStopped, match=r"arm insight: every value of learner\.lr had a trial that failed"):
        compare(stage, tmp_path, "tuning={key: learner.lr, values: [1.0e-4, 2.0e-4], seeds: [100]}")


def test_no_report_of_runs_that_do_not_match_or_of_an_edited_plan(stage, tmp_path):
    compare(stage, tmp_path)
    file = tmp_path / "runs" / "insight_seed1" / "config.yaml"
    content = file.read_text()
    file.write_text(content.replace("lr: 0.0001", "lr: 0.0003"))
    with pytest.raises(UsageError, match=r"learner\.lr: 0\.0001 in .*, but 0\.0003 in .*insight_seed1"):
        finish(tmp_path, stage.said.append)
    file.write_text(content)
    finish(tmp_path, stage.said.append)
    plan = tmp_path / "plan.yaml"
    plan.write_text(plan.read_text().replace("axis: tokens", "axis: seconds"))
    with pytest.raises(UsageError, match="the plan was edited after the first run"):
        finish(tmp_path, stage.said.append)


def test_a_folder_is_used_by_one_comparison_at_a_time(stage, tmp_path, monkeypatch):
    def start_another(jobs, processes):
        with pytest.raises(UsageError, match="another comparison is running in it now"):
            compare(stage, tmp_path)
        return Stage.check_jobs(stage, jobs, processes)

    monkeypatch.setattr(comparison, "check_jobs", start_another)
    compare(stage, tmp_path)
