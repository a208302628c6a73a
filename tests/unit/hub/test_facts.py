"""Figures of a model card against independent references, and records that no run writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from insight_rl.errors import UsageError
from insight_rl.hub.facts import paired_change, read_facts, wilson
from insight_rl.hub.run_files import RunFiles
from tests.unit.hub.conftest import MIXTURE, write_lines


@pytest.mark.parametrize(("successes", "number"), [(0, 7), (3, 10), (512, 512), (25, 40)])
def test_wilson_is_the_published_interval(successes, number):
    expected = stats.binomtest(successes, number).proportion_ci(0.95, method="wilson")
    assert wilson(successes, number) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_change_is_paired():
    generator = np.random.default_rng(0)
    before = generator.random(200)
    after = before + 0.1 + 0.01 * generator.standard_normal(200)
    change = paired_change(before, after)
    error = (after - before).std() / np.sqrt(200)
    assert change.value == pytest.approx((after - before).mean())
    assert (change.low, change.high) == pytest.approx(
        (change.value - 1.96 * error, change.value + 1.96 * error), abs=3e-4
    )


def test_facts_are_those_of_the_records(make_run):
    facts = read_facts(RunFiles(make_run()), step=None)
    assert (facts.num_steps, facts.num_rollouts, facts.num_tokens, facts.device_s) == (2, 1024, 9000, 61.5)
    assert facts.before and facts.after and facts.change
    assert (facts.before.value, facts.after.value, facts.change.value) == (0.25, 0.5, 0.25)
    assert facts.change.low > 0 and facts.after.num_problems == 40
    assert facts.base_model is None and facts.base_folder == "tiny_countdown"
    assert facts.command.is_exact


def test_an_earlier_checkpoint_has_the_figures_of_its_own_step(make_run):
    run = make_run()
    write_lines(
        run / "metrics.jsonl",
        [{"step": step, "rollout/num_rollouts": 8 * step, "rollout/num_tokens": 64 * step} for step in range(5)],
    )
    facts = read_facts(RunFiles(run), step=1)
    assert (facts.num_steps, facts.num_rollouts, facts.num_tokens) == (1, 8, 64)
    assert facts.before and facts.after is None and facts.change is None


def test_data_sets_of_a_mixture_are_all_named_with_their_revision(make_run):
    facts = read_facts(RunFiles(make_run(*MIXTURE)), step=None)
    assert facts.is_lora
    assert facts.base_model == "Qwen/Qwen3-0.6B"
    assert ("openai/gsm8k", "config main, split train, revision abc") in [
        (each.hub, each.detail) for each in facts.data
    ]
    assert {each.hub for each in facts.data} == {
        "openai/gsm8k",
        "DigitalLearningGmbH/MATH-lighteval",
        "HuggingFaceH4/MATH-500",
    }


@pytest.mark.parametrize(
    "record",
    [
        {"step": 0, "samples": 4, "successes": {}},
        {"step": 0, "samples": 0, "successes": {"a": 0}},
        {"step": 0, "samples": 4, "successes": {"a": 5}},
        {"step": 0, "samples": 4, "successes": {"a": "3"}},
        {"step": 0, "samples": "4", "successes": {"a": 3}},
    ],
)
def test_a_record_that_no_run_writes_is_refused(record, make_run):
    run = make_run()
    write_lines(run / "evaluations.jsonl", [record])
    with pytest.raises(UsageError, match=r"evaluations\.jsonl step 0: is no record of an evaluation"):
        read_facts(RunFiles(run), step=None)


def test_a_run_without_steps_has_no_card(make_run):
    run = make_run()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 0}))  # torn: no newline
    with pytest.raises(UsageError, match="no step is recorded"):
        read_facts(RunFiles(run), step=None)
