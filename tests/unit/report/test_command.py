"""The command that a configuration stands for, composed again, is that configuration."""

from __future__ import annotations

import shlex

import pytest
from omegaconf import OmegaConf

from insight_rl.config import compose_config
from insight_rl.nested import flatten
from insight_rl.report.command import command_of


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=quickstart", "selector=mopps", "seed=3", "run_dir=runs/x", "trainer.num_steps=7"],
        ["task=gsm8k", "model=smollm2", r"model.path='a folder/o\'b'", "learner.lr=1e-5", "trainer.max_tokens=1000"],
        ["algorithm=dapo", "trainer=async", "gate=mixed_outcomes", "learner.lora.rank=16"],
    ],
)
def test_composed_again(overrides):
    config = OmegaConf.to_container(compose_config(overrides), resolve=True)
    command = command_of(config)
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("insight-rl", "train")
    again = flatten(OmegaConf.to_container(compose_config(arguments), resolve=True))
    left_out = ("run_dir", "monitor")
    assert {k: v for k, v in again.items() if not k.startswith(left_out)} == {
        k: v for k, v in flatten(config).items() if not k.startswith(left_out)
    }
    # A task brings its reward, which is named as well.
    assert all("=" in each for each in arguments) and len(arguments) <= len(overrides) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"selector_name": "mine"},
        {"selector_name": "../../etc/passwd"},
        {"task_name": ["a"]},
        {f"setting_{number}": number for number in range(50)},
    ],
    ids=["own option", "a path", "a list", "many settings"],
)
def test_what_is_no_command_is_none(change):
    config = OmegaConf.to_container(compose_config([]), resolve=True)
    assert command_of(config | change) is None
    assert command_of({}) is None


def test_a_value_cannot_become_another_setting():
    config = OmegaConf.to_container(compose_config([]), resolve=True)
    config["model"]["path"] = "x' run_dir=/etc \\ $(touch y) `z`"
    arguments = shlex.split(command_of(config))
    assert [each.partition("=")[0] for each in arguments[2:]] == ["model.path"]
    config["model"]["path"] = "${oc.env:HOME}"
    assert command_of(config) is None
