"""Rewards of environments of the real verifiers library: what they see, and that what fails in them is no verdict."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.judge import judge_one
from insight_rl.reward.verifiers import VerifiersReward, reply
from insight_rl.types import Completion, Prompt, Reward

pytest.importorskip("verifiers", reason="the extra verifiers is not installed")
# Its import takes seconds: once for all tests of it.
pytestmark = pytest.mark.xdist_group("verifiers")

ENVIRONMENTS = Path(__file__).parents[2] / "support" / "environments"
COUNTDOWN = {"idx": 3, "prompt": "3,4=12:", "numbers": [3, 4], "target": 12}

# What it is told to do stands in the reply.
SCRIPTED = '''
    class Scripted(vf.Task[vf.TaskData]):
        @vf.reward
        async def does(self, trace: vf.Trace) -> float:
            word, _, argument = trace.last_reply.partition(" ")
            if word == "raise":
                raise RuntimeError(argument)
            return {"keyed": {"a": 0.75, "b": 0.5}, "text": "much"}.get(word) or float(argument)

        @vf.metric
        async def seen(self, trace: vf.Trace) -> float:
            """1 if the trace is that of one turn: what the library's own records hold."""
            (branch,) = trace.branches
            assert [m.role for m in branch.messages] == ["system", "user", "assistant"]
            assert branch.messages[1].content == "say" and self.data.system_prompt == "You:"
            assert [m.content for m in trace.assistant_messages] == [trace.last_message.content]
            assert (trace.num_turns, trace.num_output_tokens, trace.stop_condition) == (1, 2, "agent_completed")
            assert trace.is_truncated is (trace.last_message.reasoning_content == "cut")
            assert trace.transcript.endswith("[assistant]\\n" + (trace.last_message.content or ""))
            return 1.0

    class Taskset(vf.Taskset[Scripted, vf.TasksetConfig]):
        def load(self):
            yield Scripted(vf.TaskData(prompt="say", system_prompt="You:"), self.config.task)

    __all__ = ["Taskset"]
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environments")
    (folder / "scripted_env.py").write_text("import verifiers.v1 as vf\n" + textwrap.dedent(SCRIPTED))
    return folder


@pytest.fixture(autouse=True)
def environments(allow_folder, folder):
    allow_folder(ENVIRONMENTS)
    allow_folder(folder)


def make(env="scripted-env", **changes):
    settings = {"settings": None, "success_reward": None, "success_at": 1.0, "split_reasoning": True}
    return VerifiersReward(env=env, **settings | changes)


def completion(text, finish_reason="stop"):
    return Completion(token_ids=(1, 2), logprobs=(0.0, 0.0), text=text, finish_reason=finish_reason, policy_version=0)


def prompt(data=None):
    data = data or {"prompt": "say", "system_prompt": "You:"}
    return Prompt(id="a", task="a", text="?", token_ids=(1,), answer={"data": data})


def judge(text, finish_reason="stop", data=None, **changes) -> Reward:
    return judge_one(make(**changes), prompt(data), completion(text, finish_reason))[0]


def test_the_value_is_the_weighted_sum_and_a_success_is_what_the_settings_say():
    def countdown(text, **changes):
        return judge(text, data=COUNTDOWN, env="countdown-env", **changes)

    right = Reward(value=1.0, success=True, status="correct", parts={"hits": 1.0, "form": 0.0})
    assert countdown("3*4") == right
    assert countdown("3+4") == Reward(value=0.1, success=False, status="wrong", parts={"hits": 0.0, "form": 0.1})
    assert countdown("3*4", success_at=1.5).success is False
    # A reward's or a metric's own score, without its weight.
    assert countdown("3*4", success_reward="hits", success_at=0.5).success is True
    assert countdown("3*4", success_reward="hits").success is False
    assert countdown("3+4", success_reward="length", success_at=3).success is True
    named = countdown("3*4", success_reward="hit")
    assert named.success is None and "reward.success_reward='hit': the environment has length, " in named.reason


def test_what_the_environment_is_shown():
    assert judge("return 1").success is True
    assert judge("<think>cut</think> return 0.5", finish_reason="length").value == 0.5
    assert judge("keyed") == Reward(value=1.25, success=True, status="correct", parts={"a": 0.75, "b": 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12", {"content": "12"}),
        ("<think>a </think> b</think>\n12 ", {"reasoning_content": "a </think> b", "content": "12"}),
        ("a</think>12", {"reasoning_content": "a", "content": "12"}),
        ("<think>12", {"reasoning_content": "12", "content": ""}),
    ],
)
def test_reasoning_is_split_off_or_reaches_the_environment_whole(text, message):
    assert reply(text, split_reasoning=True) == message
    assert reply(text, split_reasoning=False) == {"content": text}


@pytest.mark.parametrize("text", ["raise oh", "text", "return nan", "return inf", "return -inf", "return x", ""])
def test_what_fails_is_not_judged(text):
    result = judge(text)
    assert (result.success, result.status, result.value) == (None, "error", 0.0)
    assert result.reason


def test_data_that_is_not_the_environments_is_not_judged():
    for data in ({"prompt": "3,4=12:"}, {**COUNTDOWN, "target": "twelve"}, {**COUNTDOWN, "prompt": [{"role": "x"}]}):
        assert judge("3*4", data=data, env="countdown-env").success is None


def test_an_environment_that_cannot_be_trained_on_is_told_at_the_start(folder):
    (folder / "tool_env.py").write_text(
        (folder / "scripted_env.py")
        .read_text()
        .replace("    @vf.reward", "    NEEDS_CONTAINER = True\n\n    @vf.reward")
    )
    with pytest.raises(UsageError, match=r"reward\.env='tool_env': it needs a sandbox"):
        make(env="tool-env").check_start()
    with pytest.raises(UsageError, match=r"reward\.settings\.fn"):
        make(settings={"fn": "os.system"})
    with pytest.raises(UsageError, match=r"reward\.success_at"):
        make(success_at="1")
