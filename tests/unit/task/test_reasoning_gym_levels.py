"""Levels of the library's curricula: stated by every prompt, harder from one to the next, refused beyond the last."""

from __future__ import annotations

import itertools
import json
import re
import signal

import numpy as np
import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.reasoning_gym_review import ALLOWED
from insight_rl.task import reasoning_gym
from insight_rl.task.reasoning_gym_levels import ReasoningGymLevelsTask, level_settings, num_levels

pytest.importorskip("reasoning_gym", reason="the extra gym is not installed")


class Encoder:
    def encode(self, prompt):
        text = prompt if isinstance(prompt, str) else prompt[0]["content"]
        return text, tuple(text.encode())


def make(generators=("chain_sum",), levels=(1, 2), **more):
    settings = {"style": "bare", "num_train": 24, "num_test": 8, "seed": 0, "pass_rates": None} | more
    return ReasoningGymLevelsTask(generators=list(generators), levels=list(levels), **settings)


def test_prompts_carry_the_level_that_made_them_and_its_pass_rate():
    task = make(levels=(0, 3), pass_rates=[0.9, 0.25])
    train = task.train_prompts(Encoder())
    assert [prompt.metadata["part"] for prompt in train].count("chain_sum_3") == 12
    for prompt in train + task.test_prompts(Encoder()):
        num_terms = len(re.findall(r"\d+", prompt.text))
        assert prompt.metadata["level"] == (3 if num_terms > 2 else 0)
        assert prompt.metadata["pass_rate"] == (0.25 if num_terms > 2 else 0.9)
    assert "pass_rate" not in make().train_prompts(Encoder())[0].metadata


def test_a_level_does_not_contain_those_below_it():
    knobs = [level_settings("chain_sum", level) for level in range(num_levels("chain_sum"))]
    assert [each["max_terms"] for each in knobs] == sorted({each["max_terms"] for each in knobs})
    assert all(after["min_terms"] >= before["max_terms"] for before, after in itertools.pairwise(knobs))


def test_all_allowed_generators_but_one_have_levels_whose_settings_go_into_a_file():
    without = [generator for generator in ALLOWED if num_levels(generator) == 0]
    assert without == ["gsm_symbolic"]
    for generator in set(ALLOWED) - set(without):
        settings = level_settings(generator, num_levels(generator) - 1)
        assert settings and json.loads(json.dumps(settings)) == settings


def test_several_generators_share_the_pool_equally():
    parts = [prompt.metadata["part"] for prompt in make(("gcd", "lcm"), (0, 1)).train_prompts(Encoder())]
    assert {part: parts.count(part) for part in parts} == {"gcd_0": 6, "gcd_1": 6, "lcm_0": 6, "lcm_1": 6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generators": []}, r"task\.generators=\[\]: use a list"),
        ({"generators": ["rush_hour"]}, r"task\.generators='rush_hour': .*moves a car"),
        ({"levels": [1, 1]}, r"task\.levels=\[1, 1\]: name each only once"),
        ({"levels": [-1]}, r"task\.levels=-1: use integers from 0"),
        ({"pass_rates": [0.5]}, r"task\.pass_rates=\[0\.5\]: give one for each"),
        ({"pass_rates": [0.5, 7]}, r"pass_rate=7: use a share from 0 to 1"),
    ],
)
def test_what_is_refused_before_anything_is_drawn(change, message):
    with pytest.raises(UsageError, match=message):
        make(**change)


def test_a_generator_that_searches_for_ever_is_stopped_and_leaves_other_alarms_and_numbers_alone(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "MAX_PROBLEM_S", 0.3)
    before = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        np.random.seed(3)
        with pytest.raises(
            UsageError, match=r"task\.parts\.puzzle24_3\.settings: puzzle24 found no problem .*lower level"
        ):
            make(("puzzle24",), (3,)).train_prompts(Encoder())
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        make(("pool_matrix",), (0,), num_train=2, num_test=1).train_prompts(Encoder())
        assert np.random.randint(1000) == np.random.RandomState(3).randint(1000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_a_level_beyond_the_last_and_a_generator_without_levels():
    with pytest.raises(UsageError, match=r"task\.levels=40: chain_sum has the levels 0 to 10"):
        make(levels=(40,)).train_prompts(Encoder())
    with pytest.raises(UsageError, match=r"task\.generators='gsm_symbolic': has no levels; .*task=reasoning_gym"):
        make(("gsm_symbolic",)).train_prompts(Encoder())
