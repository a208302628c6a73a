"""Data that a run cannot use, or should not use as it is, is explained before a model loads."""

import json
import re

import pytest

from insight_rl.build import build_part, find_model, load_data
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.tokenizer import ModelTokenizer

SUMS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(1, 9)]


def load(tmp_path, *overrides, rows=SUMS):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["task=dataset", f"task.train_path={path}", "trainer.prompts_per_step=2", "evaluation.every=0"]
    config = parse_config(compose_config([*fixed, *overrides]))
    return load_data(build_part("task", config.task), ModelTokenizer(find_model(config.model)), config)


def countdown_problems(*overrides):
    config = parse_config(compose_config(["evaluation.max_problems=10", *overrides]))
    data = load_data(build_part("task", config.task), ModelTokenizer(find_model(config.model)), config)
    return [problem.id for problem in data.problems]


def test_every_seed_is_evaluated_on_the_same_problems():
    assert countdown_problems("seed=1") == countdown_problems("seed=2")


def test_prompts_that_never_fit_get_only_the_ways_that_are_open(tmp_path):
    with pytest.raises(UsageError, match=r"model\.max_length=128: .*leaves 104 .*has 130; ") as error:
        load(tmp_path)
    message = str(error.value)
    assert "raise model.max_length" not in message, "the model has no more"
    assert "another model" in message and re.search(r"shorter task\.instruction.*takes 104", message)
    assert len(load(tmp_path, "task.instruction=Answer:").pool) == len(SUMS), "the way out is one"


def test_a_context_that_can_be_longer_may_be_raised(tmp_path):
    with pytest.raises(UsageError, match=r"raise model\.max_length \(this model takes up to 128\)"):
        load(tmp_path, "model.max_length=30", "task.instruction=Answer:")


def test_a_question_with_two_answers_is_dropped_and_told(tmp_path):
    data = load(tmp_path, "task.instruction=Answer:", rows=[*SUMS, {**SUMS[0], "answer": "3"}, SUMS[1]])
    assert [prompt.answer for prompt in data.pool] == [row["answer"] for row in SUMS[1:]]
    conflict, duplicate = data.notices
    assert "1 training prompts" in conflict and "'2' and '3'" in conflict
    assert "1 of 8 training prompts were duplicates" in duplicate


def test_the_folder_of_a_run_says_where_its_model_is(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config = parse_config(compose_config([f"model.path={tmp_path}"]))
    with pytest.raises(UsageError, match=rf"model\.path={tmp_path}/model .*evaluate run_dir={tmp_path}"):
        find_model(config.model)
