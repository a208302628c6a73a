"""What every task of conf/task promises, on tiny files in place of the hub's data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.paths import conf_dir
from insight_rl.types import Prompt

OPTIONS = sorted(file.stem for file in (conf_dir() / "task").glob("*.yaml"))


ENVIRONMENTS = Path(__file__).parents[1] / "support" / "environments"
SETTINGS = {"verifiers": ["task.env=countdown-env", "task.num_test=5"]}
"""What an option does not say itself."""


class Encoder:
    """One token a character; remembers what it gave out."""

    def __init__(self):
        self.given = {}

    def encode(self, prompt):
        text = prompt if isinstance(prompt, str) else "\n".join(f"{each['role']}: {each['content']}" for each in prompt)
        self.given[text] = tuple(map(ord, text))
        return text, self.given[text]


class Made:
    """A task and the reward that its option brings, with the files that it reads, which are written afterwards."""

    def __init__(self, option, folder, config_dir=None):
        tree = compose_config([f"task={option}", *SETTINGS.get(option, [])], config_dir=config_dir)
        node = OmegaConf.to_container(tree.task, resolve=True)
        self.folder = folder
        self.files = {}
        self._give_files(node)
        self.reward = build_part("reward", OmegaConf.to_container(tree.reward, resolve=True))
        self.task = build_part("task", node)

    def write_files(self):
        for path, rows in self.files.items():
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def prompts(self):
        encoder = Encoder()
        test = list(self.task.test_prompts(encoder))
        train = list(self.task.train_prompts(encoder)) if self.trains else []
        return train, test, encoder

    def _give_files(self, node):
        """A path in the place of each of the hub's data sets; both where an option names none."""
        if "train_hub" in node:
            names_none = node["train_hub"] is None and node["test_hub"] is None
            for first, name in ((0, "train"), (100, "test")):
                if names_none or node[f"{name}_hub"] is not None:
                    path = self.folder / f"{node['name']}_{name}.jsonl"
                    node[f"{name}_path"] = str(path)
                    self.files[path] = [row_for(node, first + number) for number in range(6)]
            self.trains = node["train_path"] is not None
            return
        self.trains = True
        for part in node.get("parts", {}).values():
            if "task" in part:
                self._give_files(part["task"])


def row_for(node, number):
    """A row in the plain form that every data set task reads, and the fields that this one carries along."""
    row = dict.fromkeys(node["metadata"], "easy") | {field: only[0] for field, only in (node["only"] or {}).items()}
    if "choices" in node["rows"]:
        return row | {"question": f"Which is {number}?", "choices": [str(number + i) for i in range(4)], "answer": 0}
    return row | {"question": f"What is {number} + 1?", "answer": str(number + 1)}


def reads_nothing_before_it_is_asked(made):
    """The files are not there yet."""
    assert not any(path.exists() for path in made.files)
    assert isinstance(made.task.name, str) and made.task.name


def makes_prompts_with_the_models_own_encoder(made):
    made.write_files()
    train, test, encoder = made.prompts()
    assert len(test) >= 1 and (len(train) >= 1) is made.trains
    for prompt in train + test:
        assert type(prompt) is Prompt
        assert prompt.token_ids == encoder.given[prompt.text]
        assert prompt.task


def holds_out_what_it_does_not_train_on(made):
    made.write_files()
    train, test, _ = made.prompts()
    assert not {prompt.id for prompt in train} & {prompt.id for prompt in test}
    assert not {prompt.text for prompt in train} & {prompt.text for prompt in test}


def names_each_prompt_once(made):
    made.write_files()
    for prompts in made.prompts()[:2]:
        assert len({prompt.id for prompt in prompts}) == len(prompts)


def makes_the_same_prompts_again(made):
    made.write_files()
    assert made.prompts()[:2] == made.prompts()[:2]


def brings_a_reward_that_can_judge_its_answers(made):
    made.write_files()
    train, test, _ = made.prompts()
    assert {made.reward.explain_unusable(prompt.answer) for prompt in train + test} == {None}
    # Answers go to the judging processes and into files.
    assert all(json.loads(json.dumps(prompt.answer)) == prompt.answer for prompt in train + test)


# The library takes seconds to import: all tests of it in one process.
VERIFIERS = pytest.param("verifiers", marks=pytest.mark.xdist_group("verifiers"))
PROMISES = (
    reads_nothing_before_it_is_asked,
    makes_prompts_with_the_models_own_encoder,
    holds_out_what_it_does_not_train_on,
    names_each_prompt_once,
    makes_the_same_prompts_again,
    brings_a_reward_that_can_judge_its_answers,
)


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("option", [VERIFIERS if option == "verifiers" else option for option in OPTIONS])
def test_a_task(option, promise, tmp_path, allow_folder):
    allow_folder(ENVIRONMENTS)
    promise(Made(option, tmp_path))


GOOD = """
import random
from insight_rl.types import Prompt

class Bad:
    name = "bad"
    def _prompts(self, encoder, numbers):
        prompts = []
        for n in numbers:
            text, ids = encoder.encode(f"{n},1={n + 1}:")
            answer = {"numbers": [n, 1], "target": n + 1}
            prompts.append(Prompt(id=f"bad/{n}", task="bad", text=text, token_ids=ids, answer=answer))
        return prompts
    def train_prompts(self, encoder):
        return self._prompts(encoder, range(2, 9))
    def test_prompts(self, encoder):
        return self._prompts(encoder, range(10, 15))
"""
BROKEN = {
    reads_nothing_before_it_is_asked: ('name = "bad"', 'name = "bad"\n    def __init__(self): open("none.jsonl")'),
    makes_prompts_with_the_models_own_encoder: ("token_ids=ids", "token_ids=(1, 2)"),
    holds_out_what_it_does_not_train_on: ("range(10, 15)", "range(8, 15)"),
    names_each_prompt_once: ('id=f"bad/{n}"', 'id=f"bad/{n % 2}"'),
    makes_the_same_prompts_again: ("range(10, 15)", "random.sample(range(10, 99), 5)"),
    brings_a_reward_that_can_judge_its_answers: ('"numbers": [n, 1]', '"numbers": None'),
}


@pytest.mark.parametrize("promise", [None, *PROMISES])
def test_a_task_that_breaks_a_promise_is_found(promise, tmp_path, allow_folder):
    old, new = BROKEN.get(promise, ("", ""))
    assert old in GOOD
    (tmp_path / f"bad_task_{getattr(promise, '__name__', 'none')}.py").write_text(GOOD.replace(old, new, 1))
    option = tmp_path / "conf" / "task" / "bad.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(f"_target_: bad_task_{getattr(promise, '__name__', 'none')}.Bad\n")
    allow_folder(tmp_path)

    def keeps(each):
        try:
            each(Made("bad", tmp_path, config_dir=tmp_path / "conf"))
        except Exception:
            return False
        return True

    assert [each.__name__ for each in PROMISES if not keeps(each) and promise is None] == []
    assert promise is None or not keeps(promise)
