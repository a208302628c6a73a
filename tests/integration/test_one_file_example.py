"""The example to read does what the trainer does: with the same seed it selects the same prompts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.build import build_part, find_model
from insight_rl.config import compose_config, parse_config
from insight_rl.reward.countdown import judge_countdown
from insight_rl.run import train
from insight_rl.tokenizer import ModelTokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_in_one_file.py"
POOL = Path(__file__).parents[2] / "data" / "countdown" / "train.jsonl"
POOL_SIZE, PROMPTS_PER_STEP, NUM_STEPS = 32, 8, 9


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_needs_none_of_the_package():
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) < 200
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports and not [line for line in imports if "insight_rl" in line]


def _join(parts):
    return st.lists(parts, max_size=7).map("".join)


ATOMS = st.sampled_from([*"0123456789+-*/()=,: ", "12", "007", "00", "**", "//", "()", "1234567890", "3/0", "(8-5)"])
WELL_FORMED = st.recursive(
    st.integers(0, 20).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda each: f"({''.join(each)})"),
    max_leaves=4,
)
VALUES = {"correct": (True, 1.0), "wrong": (False, 0.1), "unparsable": (False, 0.0), "no_answer": (False, 0.0)}


@settings(max_examples=500, deadline=None)
@given(text=_join(ATOMS) | WELL_FORMED | st.permutations(["(", "3", "+", "7", ")", "*", "1"]).map("".join))
def test_it_judges_as_the_reward_does(example, text):
    assert example.judge(text, [3, 7, 1], 10) == VALUES[judge_countdown(text, [3, 7, 1], 10)]


@pytest.mark.parametrize("seed", [0, pytest.param(7, marks=pytest.mark.slow)])
def test_it_selects_what_the_trainer_selects(example, tmp_path, seed):
    """A small pool: from step 5 on the prompts are seen again, so that the selection follows from the verdicts."""
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(POOL.read_text().splitlines(keepends=True)[:POOL_SIZE]))
    run_dir = tmp_path / "run"
    overrides = [
        "experiment=quickstart",
        "evaluation.every=0",
        "monitor=jsonl",
        f"task.train_path={pool}",
        f"seed={seed}",
        f"trainer.num_steps={NUM_STEPS}",
        f"trainer.prompts_per_step={PROMPTS_PER_STEP}",
        f"run_dir={run_dir}",
    ]
    train(compose_config(overrides))
    by_trainer = [json.loads(line)["prompt_ids"] for line in (run_dir / "selections.jsonl").read_text().splitlines()]

    steps = list(example.train(pool, num_steps=NUM_STEPS, prompts_per_step=PROMPTS_PER_STEP, seed=seed))
    ids = _prompt_ids(pool)
    by_example = [[ids[position] for position in chosen] for chosen, _ in steps]

    assert by_example == by_trainer
    assert [rate for _, rate in steps] == [
        pytest.approx(json.loads(line)["reward/accuracy"])
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
        if json.loads(line)["step"] > 0
    ]
    seen_again = [prompt for chosen in by_example[POOL_SIZE // PROMPTS_PER_STEP :] for prompt in chosen]
    assert len(set(seen_again)) < len(seen_again), "the pool is too large for beliefs to matter"


def _prompt_ids(pool: Path) -> list[str]:
    config = parse_config(compose_config(["experiment=quickstart", f"task.train_path={pool}"]))
    prompts = build_part("task", config.task).train_prompts(ModelTokenizer(find_model(config.model)))
    return [prompt.id for prompt in prompts]
