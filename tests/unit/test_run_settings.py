"""A run's own task, reward and settings, with what the command line changes of them."""

import pytest
from omegaconf import OmegaConf

from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.run_settings import compose_from_run

SETTINGS = [
    "seed=7",
    "selector=random",
    "task=dataset",
    "task.train_path=mine.jsonl",
    "+task.rows.unit=[unit]",
    "evaluation.samples_per_problem=4",
    "trainer.max_completion_tokens=31",
]


@pytest.fixture
def run_dir(tmp_path):
    OmegaConf.save(compose_config(SETTINGS), tmp_path / "config.yaml")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def compose(run_dir, *overrides):
    return parse_config(compose_from_run(run_dir, overrides))


def test_a_run_brings_its_task_reward_model_and_settings(run_dir):
    config = compose(run_dir)
    assert config.seed == 7
    assert config.task["train_path"] == "mine.jsonl" and config.task["rows"]["unit"] == ["unit"]
    assert config.reward["_target_"].endswith("MathReward")
    assert config.evaluation.samples_per_problem == 4 and config.trainer.max_completion_tokens == 31
    assert config.model.path == str(run_dir / "model")
    assert (config.task_name, config.reward_name) == ("dataset", "math")


def test_settings_that_only_one_trainer_has_come_with_the_run(run_dir):
    OmegaConf.save(compose_config([*SETTINGS, "trainer=async", "trainer.max_staleness=3"]), run_dir / "config.yaml")
    config = compose(run_dir)
    assert (config.trainer_name, config.trainer.max_staleness) == ("async", 3)
    assert config.trainer.max_completion_tokens == 31


def test_the_command_line_wins(run_dir):
    config = compose(run_dir, "seed=1", "task.test_path=t.jsonl", "evaluation.samples_per_problem=2", "rollout=vllm")
    assert (config.seed, config.task["test_path"], config.evaluation.samples_per_problem) == (1, "t.jsonl", 2)
    assert config.task["train_path"] == "mine.jsonl"
    assert config.rollout["_target_"].endswith("VllmEngine")


def test_another_task_brings_its_own_reward_and_none_of_the_old_keys(run_dir):
    config = compose(run_dir, "task=countdown", "task.num_test=9", "reward=countdown")
    assert "train_hub" not in config.task and config.task["num_test"] == 9
    assert config.reward["_target_"].endswith("CountdownReward")
    assert config.model.path == str(run_dir / "model")


def test_a_suite_takes_the_place_of_the_runs_evaluation(run_dir):
    config = compose(run_dir, "evaluation=math_suite", "~evaluation.benchmarks.olympiadbench")
    assert "aime24" in config.evaluation.benchmarks and "olympiadbench" not in config.evaluation.benchmarks
    one = compose(run_dir, "+benchmark@evaluation.benchmarks.gsm8k=gsm8k")
    assert list(one.evaluation.benchmarks) == ["gsm8k"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.max_problem=8", r"evaluation\.max_problem=8: does not fit .*did you mean max_problems"),
        ("trainer.num_steps=many", r"trainer\.num_steps=many: does not fit"),
        ("task.train_pat=x", r"did you mean train_path"),
        ("experiment=quickstart", r"experiment=quickstart.*does not go with run_dir"),
        ("~seed", "does not go with run_dir"),
        ("seed", "not a valid override"),
    ],
)
def test_an_override_that_does_not_fit_is_named(override, message, run_dir):
    with pytest.raises(UsageError, match=message):
        compose(run_dir, override)


@pytest.mark.parametrize("content", ["[1, 2]", "a: 1", "a: [", "model: !!python/object/apply:os.system [id]", "\x00"])
def test_a_folder_that_holds_no_configuration_is_named(content, run_dir):
    (run_dir / "config.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"config\.yaml: .*restore"):
        compose(run_dir)


def test_a_run_without_a_model_says_when_it_gets_one(run_dir):
    (run_dir / "model" / "config.json").unlink()
    with pytest.raises(UsageError, match="no model yet"):
        compose(run_dir)
