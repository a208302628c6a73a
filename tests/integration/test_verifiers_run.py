"""Runs whose verdicts come from outside: an environment of the verifiers library, and a judge model over HTTP."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from insight_rl.allowed_code import allowed
from insight_rl.cli.main import main
from insight_rl.reward.countdown import judge_countdown
from insight_rl.selector.decision_log import read_decisions
from tests.support.judge_server import JudgeServer, says, sections_of, stall

ENVIRONMENTS = Path(__file__).parents[1] / "support" / "environments"
NUM_STEPS, NUM_PROMPTS, NUM_ROLLOUTS = 5, 8, 4
SMALL = [
    f"trainer.num_steps={NUM_STEPS}",
    f"trainer.prompts_per_step={NUM_PROMPTS}",
    f"trainer.rollouts_per_prompt={NUM_ROLLOUTS}",
    "trainer.max_completion_tokens=24",
    # Plain counts of verdicts for every prompt, so that they can be counted again.
    "selector=weight_only",
    "selector.candidate_ratio=null",
    "evaluation.every=5",
    "evaluation.samples_per_problem=1",
    "judge.num_workers=1",
    "monitor=jsonl",
]


class Run:
    """What a finished run says of its steps, counted from its record and from its beliefs."""

    def __init__(self, run_dir: Path) -> None:
        records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        self.steps = [record for record in records if record["step"] > 0]
        self.accuracy = [record["eval/accuracy"] for record in records if "eval/accuracy" in record]
        self.unjudged = [record["eval/unjudged_fraction"] for record in records if "eval/accuracy" in record]
        judged = [round((1 - step["reward/unjudged_fraction"]) * NUM_PROMPTS * NUM_ROLLOUTS) for step in self.steps]
        self.num_judged = sum(judged[:-1])
        self.num_right = sum(
            round(step["reward/accuracy"] * n) for step, n in zip(self.steps[:-1], judged, strict=False)
        )
        # As they stand before the last selection.
        beliefs = read_decisions(run_dir, NUM_STEPS)
        self.successes, self.failures = np.sum(beliefs.alpha - 1.0), np.sum(beliefs.beta - 1.0)


@pytest.mark.xdist_group("verifiers")
@pytest.mark.skipif(importlib.util.find_spec("verifiers") is None, reason="the extra verifiers is not installed")
def test_five_steps_on_an_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(allowed, "packages", set())
    monkeypatch.syspath_prepend(ENVIRONMENTS)
    arguments = ["task=verifiers", "task.env=countdown-env", "task.num_test=8", f"run_dir={tmp_path}/run", *SMALL]
    hangs_once = f"task.settings={{num_tasks: 48, task: {{hang_once: {tmp_path}/hung}}}}"
    assert main(["train", *arguments]) == 2  # nothing of it runs that is not allowed
    arguments += [hangs_once, "judge.deadline_s=2", "judge.max_unjudged_fraction=1", "--allow-package", "countdown_env"]
    assert main(["train", *arguments]) == 0
    assert (tmp_path / "hung").exists()
    run = Run(tmp_path / "run")
    assert len(run.steps) == NUM_STEPS and len(run.accuracy) == 2
    # The one that hung is the only one without a verdict. It may have been one of the evaluation before training.
    assert run.num_judged in (NUM_PROMPTS * NUM_ROLLOUTS * 4, NUM_PROMPTS * NUM_ROLLOUTS * 4 - 1)
    assert (run.successes, run.failures) == (run.num_right, run.num_judged - run.num_right)
    assert 0 < run.num_right < run.num_judged
    assert all(step["reward/part_hits"] == pytest.approx(step["reward/accuracy"]) for step in run.steps)
    assert any(step["learner/num_updates"] > 0 for step in run.steps)
    selected = [json.loads(line) for line in (tmp_path / "run" / "selections.jsonl").read_text().splitlines()]
    assert all(prompt.startswith("countdown_env/") for step in selected for prompt in step["prompt_ids"])


ANSWERED = """
from insight_rl.types import Prompt


class Answered:
    name = "answered"

    def _prompts(self, encoder, numbers):
        for n in numbers:
            text, ids = encoder.encode(f"{n % 9 + 1},{n % 7 + 1}={n % 9 + n % 7 + 2}:")
            yield Prompt(id=f"a/{n}", task="answered", text=text, token_ids=ids, answer=f"{n % 9 + 1}+{n % 7 + 1}")

    def train_prompts(self, encoder):
        return list(self._prompts(encoder, range(8, 56)))

    def test_prompts(self, encoder):
        return list(self._prompts(encoder, range(8)))
"""


def test_five_steps_with_a_judge_model_that_times_out_half_the_time(tmp_path):
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "answered_task.py").write_text(ANSWERED)
    (tmp_path / "conf" / "task" / "answered.yaml").write_text("_target_: answered_task.Answered\n")
    number = itertools.count()
    counts = {"right": 0, "wrong": 0, "timeout": 0}

    def judge(message):
        texts = sections_of(message)
        if texts["question"].startswith("What is"):  # at the start
            return says("VERDICT: RIGHT")
        if next(number) % 2:
            counts["timeout"] += 1
            return stall(5)
        numbers, _, target = texts["question"].rstrip(":").partition("=")
        status = judge_countdown(texts["response"], [int(number) for number in numbers.split(",")], int(target))
        verdict = "right" if status == "correct" else "wrong"
        counts[verdict] += 1
        return says(f"VERDICT: {verdict.upper()}")

    server = JudgeServer(judge)
    arguments = [
        "--config-dir",
        str(tmp_path / "conf"),
        "task=answered",
        "reward=llm_judge",
        f"reward.base_url={server.url}",
        "reward.model=judge",
        # The server answers from threads of this process, which trains meanwhile.
        "reward.timeout_s=3",
        "reward.deadline_s=8",
        "reward.max_retries=0",
        "reward.concurrency=32",
        "judge.max_unjudged_fraction=1",
    ]
    assert main(["train", *arguments, *SMALL, f"run_dir={tmp_path}/run"]) == 0
    server.close()
    run = Run(tmp_path / "run")
    assert len(run.steps) == NUM_STEPS and len(run.accuracy) == 2
    assert min(counts.values()) > 0
    # Half of the requests, and on a busy machine some that the server answers too late.
    assert 0.2 < np.mean([step["reward/unjudged_fraction"] for step in run.steps]) < 1
    # An evaluation counts them as wrong, and says how many they were.
    assert all(accuracy <= 1 - share < 1 for share, accuracy in zip(run.unjudged, run.accuracy, strict=True))
    # Beliefs hold verdicts, and nothing else: not one of those that timed out is a failure in them.
    assert (run.successes, run.failures) == (run.num_right, run.num_judged - run.num_right)
    assert run.failures <= counts["wrong"]
