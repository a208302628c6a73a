"""The command of a card composes to the recorded settings, or says that it does not."""

from __future__ import annotations

import shlex

import pytest
from omegaconf import OmegaConf

from insight_rl.config import compose_config
from insight_rl.nested import flatten
from insight_rl.run_command import command_of


def recorded(*overrides: str) -> dict:
    return OmegaConf.to_container(compose_config(list(overrides)), resolve=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=quickstart", "selector=mopps", "seed=3", "run_dir=runs/x"],
        [
            *("task=gsm8k", "task.train_hub.revision=abc", "task.instruction='it\\'s {a}: \"b\", c'", "trainer=async"),
            *("selector=expected_signal", "selector/prior=features", "+selector.chance_levels.gsm8k=0.25"),
            *("task.test_path='/data/my rows.jsonl'", "learner.lora.rank=8", "learner.lora.target_modules=[a,b]"),
        ],
    ],
    ids=lambda overrides: overrides[0],
)
def test_the_command_gives_the_recorded_settings(overrides):
    config = recorded(*overrides)
    command = command_of(config)
    assert command.is_exact
    words = shlex.split(str(command))
    assert words[:2] == ["insight-rl", "train"]
    again = recorded(*words[2:])
    ours, theirs = (
        {key: value for key, value in flatten(each).items() if not key.startswith(("run_dir", "monitor", "doctor"))}
        for each in (config, again)
    )
    assert ours == theirs


def test_the_bundled_data_of_another_installation_are_the_bundled_data():
    config = recorded("experiment=quickstart")
    config["model"]["path"] = "/opt/elsewhere/insight_rl/data/tiny_countdown"
    assert str(command_of(config)) == "insight-rl train experiment=quickstart" and command_of(config).is_exact


@pytest.mark.parametrize(
    "change",
    [
        {"selector_name": "my_own"},
        {"run_group": None, "task": {"_target_": "x.Y", "text": "${oc.env:HOME}"}},
        {"learner": {"lr": "a\nb"}},
    ],
    ids=["own option", "interpolation", "newline"],
)
def test_what_a_command_cannot_say_is_not_called_exact(change):
    command = command_of(recorded() | change)
    assert not command.is_exact
    assert "oc.env" not in str(command) and "\n" not in str(command)


def test_an_option_is_a_name_and_brings_no_other_word():
    command = command_of(recorded() | {"selector_name": "insight seed=7", "gate_name": "admit_all -m"})
    assert command.overrides == ()
