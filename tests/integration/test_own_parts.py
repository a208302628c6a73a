"""The parts of docs/extending.md, from outside the package, in whole runs of two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from insight_rl.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["trainer.num_steps=2", "trainer.prompts_per_step=4", "trainer.rollouts_per_prompt=4", "evaluation.every=0"]


@pytest.fixture
def train(tmp_path):
    def run(*overrides: str) -> tuple[list[dict], list[dict]]:
        """Metrics and selections of the steps."""
        run_dir = tmp_path / "run"
        options = ["--config-dir", str(EXAMPLES / "conf")]
        assert main(["train", *options, *SMALL, "monitor=jsonl", f"run_dir={run_dir}", *overrides]) == 0
        metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        selections = [json.loads(line) for line in (run_dir / "selections.jsonl").read_text().splitlines()]
        return [record for record in metrics if record["step"] > 0], selections

    return run


def test_reward(train):
    metrics, _ = train("reward=no_parentheses")
    assert len(metrics) == 2


def test_a_wrong_setting_is_one_line(capsys):
    assert main(["train", "--config-dir", str(EXAMPLES / "conf"), "reward=no_parentheses", "reward.near_miss=2"]) == 2
    assert "reward.near_miss=2: must be from 0 to below 1" in capsys.readouterr().err


def test_task(train):
    _, selections = train("task=two_numbers")
    assert all(prompt.startswith("two_numbers/") for step in selections for prompt in step["prompt_ids"])


def test_score(train):
    _, selections = train("selector=hardest_first", "selector.power=3")
    assert selections[0]["scores"] == [0.125] * 4


def test_selector(train):
    metrics, selections = train("selector=in_order", "task=two_numbers")
    assert len({prompt for step in selections for prompt in step["prompt_ids"]}) == 8
    assert [record["selector/position"] for record in metrics] == [4, 8]


def test_gate(train):
    metrics, _ = train("gate=few_right", "gate.most=0.25", "task=two_numbers")
    assert all(record["gate/num_groups"] >= record["gate/num_kept"] for record in metrics)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_loss(train, num_ranks):
    """In ranks of their own too: the loss travels there."""
    metrics, _ = train("algorithm=soft_clip", "algorithm.kl_coef=0.1", f"learner.num_ranks={num_ranks}")
    assert len(metrics) == 2
    assert any(record["learner/num_updates"] > 0 for record in metrics)


def test_a_loss_that_has_no_methods_is_one_line(capsys):
    assert main(["train", "algorithm.loss={_target_: insight_rl.gate.admit_all.AdmitAll}"]) == 2
    assert "algorithm.loss=" in (message := capsys.readouterr().err) and "has no ratio" in message
