"""Dynamic sampling's gate goes by the verifier's verdicts alone."""

from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.gate.admit_all import AdmitAll
from insight_rl.gate.mixed_outcomes import MixedOutcomes
from insight_rl.types import Completion, Group, Prompt, Reward

COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)


def group(*rewards):
    prompt = Prompt(id="p", task="toy", text="", token_ids=(1,), answer=None)
    return Group(prompt=prompt, completions_G=(COMPLETION,) * len(rewards), rewards_G=rewards)


def judged(success, value=0.0):
    return Reward(value=value, success=success)


@pytest.mark.parametrize(
    ("rewards", "admitted"),
    [
        ([judged(True), judged(False)], True),
        ([judged(True), judged(True)], False),
        ([judged(False), judged(False)], False),
        ([judged(True), judged(None)], False),
        ([judged(False), judged(None)], False),
        ([judged(None), judged(None)], False),
        ([judged(True), judged(False), judged(None)], True),
        ([judged(False, value=1.0), judged(False, value=-1.0)], False),
        ([judged(True, value=0.5), judged(False, value=0.5)], True),
    ],
)
def test_only_both_verdicts_admit_a_group_whatever_its_values(rewards, admitted):
    assert MixedOutcomes().admit(group(*rewards)) is admitted
    assert AdmitAll().admit(group(*rewards)) is True


def test_a_bound_that_allows_no_round_is_named():
    with pytest.raises(UsageError, match=r"gate\.max_rounds=0"):
        MixedOutcomes(max_rounds=0)
