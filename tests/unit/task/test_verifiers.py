"""Environments of the real verifiers library: which ones can be trained on, and the prompts that they give."""

from __future__ import annotations

import importlib.metadata
import json
import textwrap
from pathlib import Path
from unittest.mock import Mock

import pytest

from insight_rl.allowed_code import allowed
from insight_rl.errors import UsageError
from insight_rl.task.verifiers import VerifiersTask

pytest.importorskip("verifiers", reason="the extra verifiers is not installed")
# Its import takes seconds: once for all tests of it.
pytestmark = pytest.mark.xdist_group("verifiers")

ENVIRONMENTS = Path(__file__).parents[2] / "support" / "environments"
SETTINGS = {
    "env": "countdown-env",
    "settings": {},
    "test_settings": None,
    "style": "bare",
    "max_tasks": None,
    "num_test": 4,
    "seed": 0,
}


class Encoder:
    """Keeps what it was given."""

    def encode(self, prompt):
        text = prompt if isinstance(prompt, str) else json.dumps(list(prompt))
        return text, tuple(map(ord, text))


@pytest.fixture(autouse=True)
def environments(allow_folder):
    allow_folder(ENVIRONMENTS)


@pytest.fixture
def write(tmp_path, allow_folder):
    """``write(name, source)`` makes an environment of that name; the source goes on where the imports end."""
    allow_folder(tmp_path)

    def write(name: str, source: str) -> str:
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text("import verifiers.v1 as vf\n\n" + textwrap.dedent(source))
        return name

    return write


def make(**changes) -> VerifiersTask:
    return VerifiersTask(**SETTINGS | changes)


def test_its_tasks_are_the_prompts():
    task = make()
    pool, held_out = task.train_prompts(Encoder()), task.test_prompts(Encoder())
    assert (len(pool), len(held_out)) == (36, 4)
    prompt = pool[0]
    data = prompt.answer["data"]
    assert prompt.text == f"{','.join(map(str, data['numbers']))}={data['target']}:" == data["prompt"]
    assert prompt.token_ids == tuple(map(ord, prompt.text))
    assert prompt.task == "countdown_env" and prompt.id.startswith("countdown_env/")
    assert {each.id for each in pool}.isdisjoint(each.id for each in held_out)


def test_ids_follow_from_the_content_and_what_is_held_out_from_the_seed():
    ids = {each.id for each in make(max_tasks=20).train_prompts(Encoder())}
    held_out = [each.id for each in make().test_prompts(Encoder())]
    assert ids - {*held_out} <= {each.id for each in make().train_prompts(Encoder())}
    assert [each.id for each in make(env="someone/countdown-env@1.2").test_prompts(Encoder())] == held_out
    assert [each.id for each in make(seed=1).test_prompts(Encoder())] != held_out


def test_held_out_problems_of_settings_of_their_own():
    task = make(settings={"num_tasks": 10}, test_settings={"seed": 5}, num_test=None)
    other = make(settings={"num_tasks": 10, "seed": 5}, num_test=0).train_prompts(Encoder())
    assert [each.id for each in task.test_prompts(Encoder())] == [each.id for each in other]
    assert len(task.train_prompts(Encoder())) == 10
    # The same problems in both: none is left to train on.
    same = make(settings={"num_tasks": 10}, test_settings={}, num_test=None)
    assert (len(same.train_prompts(Encoder())), len(same.test_prompts(Encoder()))) == (0, 10)


CHAT = """
    class Data(vf.TaskData):
        answer: str = ""

    class Ask(vf.Task[Data]):
        @vf.reward
        async def right(self, trace) -> float:
            return float(trace.last_reply == self.data.answer)

    class Asks(vf.Taskset[Ask, vf.TasksetConfig]):
        def load(self):
            yield Ask(Data(prompt="1+1?", system_prompt="Be brief.", answer="2"), self.config.task)
            shot = [vf.UserMessage(content="2+2?"), vf.AssistantMessage(content="4"), vf.UserMessage(content=[
                vf.TextContentPart(text="3+3"), vf.TextContentPart(text="?")])]
            yield Ask(Data(prompt=shot, system_prompt="Be brief.", answer="6"), self.config.task)

    __all__ = ["Asks"]
"""


def test_chats_go_through_the_chat_template_and_stay_in_order_without_one(write):
    write("chat_env", CHAT)
    first, second = make(env="chat-env", style="chat", num_test=0).train_prompts(Encoder())
    assert json.loads(first.text) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    ]
    assert [(each["role"], each["content"]) for each in json.loads(second.text)] == [
        ("system", "Be brief."),
        ("user", "2+2?"),
        ("assistant", "4"),
        ("user", "3+3\n?"),
    ]
    assert json.loads(json.dumps(second.answer)) == second.answer
    bare = make(env="chat-env", num_test=0).train_prompts(Encoder())
    assert [each.text for each in bare] == ["Be brief.\n\n1+1?", "Be brief.\n\n2+2?\n\n4\n\n3+3\n?"]


def test_an_endless_environment_needs_a_number(write):
    endless = CHAT.replace("def load(self):", "INFINITE = True\n\n        def load(self):\n            while True:", 1)
    endless = endless.replace(
        '            yield Ask(Data(prompt="1+1?"', '                yield Ask(Data(prompt="1+1?"', 1
    )
    write("endless_env", endless.split("            shot =")[0] + '\n    __all__ = ["Asks"]\n')
    with pytest.raises(UsageError, match=r"task\.max_tasks=None: .* never ends; say how many"):
        make(env="endless_env").train_prompts(Encoder())
    assert len(make(env="endless_env", max_tasks=3, num_test=0).train_prompts(Encoder())) == 3


REFUSED = {
    "tools": (
        "class Asks(vf.Taskset",
        "class Box(vf.Toolset[vf.ToolsetConfig]):\n        pass\n\n    class Asks(vf.Taskset",
        "yield Ask(Data(prompt",
        "return\n            yield Ask(Data(prompt",
        "def load(self):",
        "@classmethod\n        def toolsets(cls, config):\n            return [Box(vf.ToolsetConfig())]\n\n"
        "        def load(self):",
        "it gives the model tools",
    ),
    "runtime": ("(self, trace)", "(self, trace, runtime)", "right needs a sandbox"),
    "container": ("@vf.reward", "NEEDS_CONTAINER = True\n\n        @vf.reward", "it needs a sandbox (NEEDS_CONTAINER)"),
    "setup": (
        "@vf.reward",
        "async def setup(self, trace, runtime):\n            pass\n\n        @vf.reward",
        "its tasks have setup, for which they need a sandbox",
    ),
    "intercept": (
        "@vf.reward",
        "@vf.intercept\n        def change(self, request: vf.Request):\n            pass\n\n        @vf.reward",
        "it changes what the model is asked or says",
    ),
    "no_reward": ("@vf.reward\n", "@vf.metric\n", "it has no reward"),
    "judge": (
        "class Ask(vf.Task[Data])",
        "class Knobs(vf.TaskConfig):\n        judge: vf.JudgeConfig = vf.JudgeConfig()\n\n"
        "    class Ask(vf.Task[Data, vf.State, Knobs])",
        "TasksetConfig]",
        "Config]",
        "class Asks(",
        "class Config(vf.TasksetConfig):\n        task: Knobs = Knobs()\n\n    class Asks(",
        "vf.Config]",
        "Config]",
        "its rewards ask a judge model (judge; reward=llm_judge can do that)",
    ),
    "own_env": (
        '__all__ = ["Asks"]',
        "class Play(vf.SingleAgentEnv):\n        pass\n\n    __all__ = ['Asks', 'Play']",
        "it brings an Env of its own, for several agents or turns",
    ),
    "user": ('prompt="1+1?", ', "", "task 0: it has no prompt: a user opens the conversation"),
    "image": ('answer="2"', 'answer="2", image="ubuntu"', "task 0: it needs a sandbox (image)"),
    "picture": (
        'vf.TextContentPart(text="?")',
        'vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url="data:,"))',
        "task 1: its prompt is more than text",
    ),
    "last": (
        ", vf.UserMessage(content=[\n",
        ', vf.AssistantMessage(content="6")]; [vf.UserMessage(content=[\n',
        "end with",
    ),
    "lost": (
        "yield Ask(Data(",
        "class More(Data):\n                x: int = 1\n            yield Ask(More(",
        "made again",
    ),
    "fails": (
        "yield Ask(Data(",
        "raise OSError('no such data set')\n            yield Ask(Data(",
        "load() failed: OSError",
    ),
    "two": ('["Asks"]', '["Asks", "More"]\n    class More(Asks):\n        pass', "exports 2 Tasksets by its __all__"),
    "old": ('__all__ = ["Asks"]', "def load_environment():\n        pass", "written for verifiers before 0.4"),
    "broken": ("class Data", "import no_such_module\n\n    class Data", "No module named 'no_such_module'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_reply_cannot_answer_is_refused_with_the_reason(name, write):
    *changes, reason = REFUSED[name]
    source = CHAT
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source
        source = source.replace(old, new, 1)
    write(f"refused_{name}", source)
    with pytest.raises(UsageError) as raised:
        make(env=f"refused_{name}", num_test=0).train_prompts(Encoder())
    assert reason in str(raised.value) and f"task.env='refused_{name}'" in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_task": 3}, r"task\.settings\.num_task: .*countdown_env.* Extra inputs"),
        ({"num_tasks": "many"}, r"task\.settings\.num_tasks: .*valid integer"),
        (
            {"task": {"rewards": {"hits": {"fn": "os.system"}}}},
            r"task\.settings\.task\.rewards\.hits\.fn='os\.system': ",
        ),
        ({"task": {"judges": [{"id": "os"}]}}, r"task\.settings\.task\.judges=.*names code to import"),
        ({"id": "os", "num_tasks": 3}, r"task\.settings\.id='os'"),
        ({"x": [{"y": {"fn": "os.system"}}]}, r"task\.settings\.x\[0\]\.y\.fn"),
    ],
)
def test_settings_that_do_not_fit_or_name_code(settings, message):
    with pytest.raises(UsageError, match=message):
        make(settings=settings).train_prompts(Encoder())


def test_a_weight_of_a_reward_may_be_set():
    assert make(settings={"task": {"rewards": {"form": {"weight": 0.5}}}}).train_prompts(Encoder())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": None}, r"task\.env=None: name an installed environment"),
        ({"env": "../evil"}, r"task\.env='\.\./evil': name an installed environment"),
        ({"env": "os.path"}, r"task\.env='os\.path': name an installed environment"),
        ({"env": "harbor"}, r"task\.env='harbor': comes with verifiers and needs a sandbox"),
        ({"env": "no-such-env"}, r"task\.env='no-such-env': there is no module no_such_env"),
        ({"num_test": None}, r"task\.num_test=None: say how many"),
        ({"max_tasks": 0}, r"task\.max_tasks=0"),
        ({"style": "prose"}, r"task\.style='prose'"),
    ],
)
def test_what_is_refused_before_anything_is_imported(changes, message):
    with pytest.raises(UsageError, match=message):
        make(**changes)


def test_no_environment_runs_that_the_command_line_does_not_allow(tmp_path, monkeypatch):
    (tmp_path / "evil_env.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"task\.env='evil-env': .* add --allow-package evil_env"):
        make(env="evil-env")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(allowed, "packages", {"evil_env"})
    with pytest.raises(UsageError, match="__all__"):
        make(env="evil-env").train_prompts(Encoder())
    assert (tmp_path / "ran").exists()


def test_a_missing_or_another_version_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.3.0")
    with pytest.raises(
        UsageError, match=r"verifiers 0\.3\.0 is installed, and 0\.4 is needed.*insight-rl\[verifiers\]"
    ):
        make()
    missing = importlib.metadata.PackageNotFoundError("verifiers")
    monkeypatch.setattr(importlib.metadata, "version", Mock(side_effect=missing))
    with pytest.raises(UsageError, match=r"the package verifiers is not installed; .*insight-rl\[verifiers\]"):
        make()
