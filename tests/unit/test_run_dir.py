"""A run goes on with its own settings; what may change is listed, and leaves a record of what was."""

from __future__ import annotations

import pytest
import yaml
from omegaconf import OmegaConf

from insight_rl.config import FREE_ON_RESUME, NAMED_GROUPS, compose_config
from insight_rl.errors import UsageError
from insight_rl.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path):
    opened = RunDir(tmp_path)
    opened.record(compose_config([]), step=0)
    yield opened
    opened.close()


@pytest.mark.parametrize("key", FREE_ON_RESUME)
def test_every_free_key_exists(key):
    parent, _, name = key.rpartition(".")
    tree = compose_config(["rollout=vllm", "learner=deepspeed", "reward=llm_judge"])
    assert name in (OmegaConf.select(tree, parent) if parent else tree)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_completion_tokens=20", r"trainer\.max_completion_tokens=20: .*\.max_completion_tokens=24; keep"),
        ("seed=3", r"seed=3: the run in .* was started with seed=0; keep that"),
        ("selector=mopps", r"selector=mopps: the run in .* was started with selector=insight"),
        ("learner.lr=1e-5", r"learner\.lr=1e-05: .* learner\.lr=0\.0001"),
        ("model.dtype=bfloat16", r"model\.dtype='bfloat16'"),
    ],
)
def test_another_run_is_refused_by_the_key_that_the_user_knows(run_dir, override, message):
    with pytest.raises(UsageError, match=message):
        run_dir.check_same_run(compose_config([override]), resume="auto")


def test_a_run_with_a_key_of_an_earlier_version_says_what_became_of_it(run_dir):
    file = run_dir.path / "config.yaml"
    recorded = yaml.safe_load(file.read_text())
    del recorded["algorithm"]["importance"], recorded["algorithm"]["importance_low"]
    recorded["algorithm"]["importance_cap"] = recorded["algorithm"].pop("importance_high")
    file.write_text(yaml.safe_dump(recorded))
    with pytest.raises(UsageError, match=r"importance_cap=2\.0: .*earlier version.*importance_high.*run_dir"):
        run_dir.check_same_run(compose_config([]), resume="auto")


def test_resume_never_wants_an_empty_folder(run_dir):
    with pytest.raises(UsageError, match="resume=never"):
        run_dir.check_same_run(compose_config([]), resume="never")


def test_a_free_setting_leaves_the_record_of_the_steps_before(run_dir):
    now = compose_config(["trainer.num_steps=7"])
    run_dir.check_same_run(now, resume="auto")
    (notice,) = run_dir.record(now, step=4)
    assert "after step 4: trainer.num_steps=7 (was 100)" in notice and "config_000004.yaml" in notice
    assert yaml.safe_load((run_dir.path / "config_000004.yaml").read_text())["trainer"]["num_steps"] == 100
    assert yaml.safe_load((run_dir.path / "config.yaml").read_text())["trainer"]["num_steps"] == 7
    assert run_dir.record(now, step=4) == []


def test_a_second_change_at_one_step_keeps_what_the_steps_had(run_dir):
    for num_steps in (7, 8):
        run_dir.record(compose_config([f"trainer.num_steps={num_steps}"]), step=4)
    assert yaml.safe_load((run_dir.path / "config_000004.yaml").read_text())["trainer"]["num_steps"] == 100


def test_names_and_folder_are_no_change(run_dir):
    tree = compose_config(["run_dir=elsewhere"])
    tree.selector_name = "mine"
    run_dir.check_same_run(tree, resume="auto")
    assert run_dir.record(tree, step=4) == []
    assert {f"{group}_name" for group in NAMED_GROUPS} <= set(tree)
