"""What every gate of conf/gate promises; a new option file is found and held to it by being there."""

from __future__ import annotations

import itertools

import pytest

from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir
from insight_rl.types import Completion, Group, Prompt, Reward

OPTIONS = sorted(file.stem for file in (conf_dir() / "gate").glob("*.yaml"))
COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)
VERDICTS = list(itertools.product((True, False, None), repeat=4))


def groups(value=lambda verdict: float(verdict is True)):
    """A group for every four verdicts, with shaped values that follow from them by ``value``."""
    for number, verdicts in enumerate(VERDICTS):
        prompt = Prompt(id=f"p{number}", task="toy", text="", token_ids=(1,), answer=None)
        rewards_G = tuple(Reward(value=value(verdict), success=verdict) for verdict in verdicts)
        yield Group(prompt=prompt, completions_G=(COMPLETION,) * 4, rewards_G=rewards_G)


def bounds_the_rounds_of_a_step(gate):
    assert type(gate.max_rounds) is int and gate.max_rounds >= 1


def says_yes_or_no(gate):
    assert {type(gate.admit(group)) for group in groups()} == {bool}


def goes_by_the_group_alone(gate):
    once = [gate.admit(group) for group in groups()]
    assert [gate.admit(group) for group in reversed(list(groups()))] == once[::-1]


def goes_by_verdicts_and_not_by_shaped_values(gate):
    once = [gate.admit(group) for group in groups()]
    assert [gate.admit(group) for group in groups(value=lambda verdict: -3.0 * bool(verdict))] == once


def admits_something(gate):
    assert any(gate.admit(group) for group in groups())


PROMISES = (
    bounds_the_rounds_of_a_step,
    says_yes_or_no,
    goes_by_the_group_alone,
    goes_by_verdicts_and_not_by_shaped_values,
    admits_something,
)


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_gate(option, promise, build_option):
    promise(build_option(f"gate={option}"))


BROKEN = {
    bounds_the_rounds_of_a_step: "class Bad:\n    max_rounds = 0\n    def admit(self, group): return True",
    says_yes_or_no: "class Bad:\n    max_rounds = 1",
    goes_by_the_group_alone: (
        "class Bad:\n    max_rounds, seen = 1, 0\n    def admit(self, group):\n        self.seen += 1\n"
        "        return self.seen % 2 == 0"
    ),
    goes_by_verdicts_and_not_by_shaped_values: (
        "class Bad:\n    max_rounds = 1\n"
        "    def admit(self, group): return sum(r.value for r in group.rewards_G) > 0 or group.is_informative"
    ),
    admits_something: "class Bad:\n    max_rounds = 1\n    def admit(self, group): return False",
}


@pytest.mark.parametrize("promise", PROMISES)
def test_a_gate_that_breaks_a_promise_is_found(promise, own_option):
    with pytest.raises((AssertionError, AttributeError)):
        promise(own_option("gate", BROKEN[promise]))


def test_a_setting_that_the_class_does_not_take_is_found(own_option):
    with pytest.raises(UsageError, match=r"gate\.most=1"):
        own_option("gate", BROKEN[says_yes_or_no], "most: 1\n")
