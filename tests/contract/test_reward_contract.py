"""What every reward of conf/reward promises. A new option is found by its file; it needs a case in ``CASES``."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir
from insight_rl.reward.base import check_reward
from insight_rl.reward.judge import InProcessJudge
from insight_rl.reward.judge_processes import JudgeProcesses
from insight_rl.reward.shaping import FormatBonus, ShapedReward
from insight_rl.types import Completion, Prompt, Reward
from tests.support.judge_server import JudgeServer

ENVIRONMENTS = Path(__file__).parents[1] / "support" / "environments"
NAMES = sorted(file.stem for file in (conf_dir() / "reward").glob("*.yaml"))
STATUSES = {"correct", "wrong", "unparsable", "no_answer", "timeout", "error"}
# Task, answer, a right response and a wrong one.
CASES = {
    "math": [("math", "12", "\\boxed{12}", "\\boxed{13}"), ("math", ["1/2", "0.5"], "It is 0.5", "It is 0.6")],
    "multiple_choice": [("mmlu", {"letter": "B", "num_choices": 4}, "(B)", "(C)")],
    "countdown": [
        ("countdown", {"numbers": [2, 3], "target": 6}, "<answer>2*3</answer>", "<answer>2+3</answer>"),
    ],
}
CASES["countdown_graded"] = CASES["countdown"]
CASES["by_task"] = [case for cases in CASES.values() for case in cases]
CASES["reasoning_gym"] = [
    ("reasoning_gym", {"generator": "chain_sum", "answer": "17"}, "<answer>17</answer>", "<answer>18</answer>"),
    ("reasoning_gym", {"generator": "caesar_cipher", "answer": "SO"}, "<answer>SO</answer>", "<answer>NO</answer>"),
    ("reasoning_gym", CASES["countdown"][0][1] | {"generator": "countdown"}, *CASES["countdown"][0][2:]),
]
CASES["by_task_gym"] = CASES["by_task"] + CASES["reasoning_gym"]
SUM = {"prompt": "2,3=6:", "numbers": [2, 3], "target": 6}
CASES["verifiers"] = [("countdown_env", {"data": SUM}, "<think>2+3</think>2*3", "2+3")]
CASES["llm_judge"] = [("math", "12", "so it is</think>12", "13"), ("math", ["a", "b"], "a or b", "a")]
HOSTILE = ["", " ", "\\boxed{", "9" * 50_000, "(" * 5_000, "\\frac" * 5_000, "A" * 50_000, "\x00\ud800", "$" * 999]


# The library takes seconds to import: all tests of it in one process.
VERIFIERS = pytest.param("verifiers", marks=pytest.mark.xdist_group("verifiers"))


@pytest.fixture(params=[VERIFIERS if name == "verifiers" else name for name in NAMES])
def name(request):
    return request.param


@functools.cache
def judge_server():
    return JudgeServer()


def settings(name):
    """What an option does not say itself."""
    if name == "llm_judge":
        return [f"reward.base_url={judge_server().url}", "reward.model=m"]
    return ["reward.env=countdown-env"] if name == "verifiers" else []


@pytest.fixture(autouse=True)
def environments(allow_folder):
    """A package of the user's own for reward=verifiers."""
    allow_folder(ENVIRONMENTS)


def make(name):
    tree = compose_config([f"reward={name}", *settings(name)], config_name="judge")
    return build_part("reward", OmegaConf.to_container(tree.reward))


def prompt(task, answer):
    return Prompt(id=f"{task}/1", task=task, text="?", token_ids=(1,), answer=answer, metadata={"level": 1})


def completion(text):
    return Completion(token_ids=(1, 2), logprobs=(0.0, 0.0), text=text, finish_reason="stop", policy_version=0)


def judge(reward, task, answer, text):
    result = reward(prompt(task, answer), completion(text))
    assert isinstance(result, Reward)
    assert result.status in STATUSES
    assert (result.success is None) == (result.status in ("timeout", "error"))
    return result


def test_every_option_has_a_case(name):
    assert CASES[name]


def test_it_states_what_a_reward_states(name):
    reward = make(name)
    check_reward("reward", reward)
    assert isinstance(reward.bounded, bool)
    assert all(isinstance(module, str) for module in reward.worker_modules)


def test_right_and_wrong(name):
    reward = make(name)
    for task, answer, right, wrong in CASES[name]:
        best, worst = judge(reward, task, answer, right), judge(reward, task, answer, wrong)
        assert (best.success, best.status) == (True, "correct")
        assert (worst.success, worst.status) == (False, "wrong")
        assert best.value > worst.value


def test_equal_input_gives_an_equal_reward_also_after_pickling(name):
    reward = make(name)
    copy = pickle.loads(pickle.dumps(reward))
    for task, answer, *texts in CASES[name]:
        for text in texts:
            assert judge(reward, task, answer, text) == judge(copy, task, answer, text)


def test_an_answer_that_it_cannot_judge_against_is_told_and_never_a_verdict(name):
    reward = make(name)
    for task, answer, right, _ in CASES[name]:
        assert reward.explain_unusable(answer) is None
        for unusable in (None, [], {}, {"what": "ever"}, object()):
            reason = reward.explain_unusable(unusable)
            assert isinstance(reason, str) and reason, unusable
            judged = InProcessJudge(reward)
            judged.submit(prompt(task, unusable), [completion(right)])
            ((result,),) = judged.collect()
            assert (result.success, result.status) == (None, "error")
            assert result.reason


def test_hostile_text_gets_a_status_and_is_never_right(name):
    reward = make(name)
    for task, answer, *_ in CASES[name]:
        for text in HOSTILE:
            assert judge(reward, task, answer, text).success is not True


def test_shaping_keeps_what_it_wraps(name):
    reward = make(name)
    shaped = ShapedReward(reward=reward, shaping=[FormatBonus(pattern=".", weight=0.25)])
    assert (shaped.bounded, tuple(shaped.worker_modules)) == (reward.bounded, tuple(reward.worker_modules))
    assert shaped.explain_unusable(None) == reward.explain_unusable(None)
    task, answer, right, _ = CASES[name][0]
    plain, with_bonus = judge(reward, task, answer, right), judge(shaped, task, answer, right)
    assert with_bonus.value == pytest.approx(plain.value + 0.25)
    assert dataclasses.replace(with_bonus, value=plain.value, parts={}) == dataclasses.replace(plain, parts={})


def test_both_judges_give_the_same_rewards(name):
    reward = make(name)
    groups = [
        (prompt(task, answer), [completion(right), completion(wrong)]) for task, answer, right, wrong in CASES[name]
    ]
    here = InProcessJudge(reward)
    with JudgeProcesses(reward, num_workers=1, deadline_s=60.0) as elsewhere:
        for judges in (here, elsewhere):
            for one, completions in groups:
                judges.submit(one, completions)
        assert here.collect() == elsewhere.collect()


def test_a_setting_that_it_does_not_have_is_refused(name):
    node = OmegaConf.to_container(compose_config([f"reward={name}"], config_name="judge").reward)
    with pytest.raises(UsageError, match=r"reward\.no_such_setting"):
        build_part("reward", {**node, "no_such_setting": 1})
