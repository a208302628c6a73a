"""Pools of known difficulty: the same problems everywhere, at the level that they state."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.countdown import evaluate_expression
from insight_rl.reward.reasoning_gym_review import ALLOWED
from insight_rl.task import reasoning_gym
from insight_rl.task.reasoning_gym import ReasoningGymTask

pytest.importorskip("reasoning_gym", reason="the extra gym is not installed")


class Encoder:
    def encode(self, prompt):
        text = prompt if isinstance(prompt, str) else prompt[0]["content"]
        return text, tuple(text.encode())


def part(generator="chain_sum", level=1, share=1.0, **settings):
    return {"generator": generator, "level": level, "share": share, "settings": settings}


def make(num_train=12, num_test=4, style="bare", seed=0, **parts):
    return ReasoningGymTask(
        style=style, num_train=num_train, num_test=num_test, seed=seed, parts=parts or {"only": part()}
    )


def sums(terms, **more):
    return part(min_terms=terms, max_terms=terms, **more)


DIGESTS = {
    "aiw": "ebd24048",
    "base_conversion": "81110153",
    "basic_arithmetic": "c7661248",
    "binary_alternation": "339c95f4",
    "caesar_cipher": "6cca58e8",
    "chain_sum": "d7f9ade9",
    "circuit_logic": "e772f271",
    "color_cube_rotation": "8043f147",
    "count_bits": "b84ff224",
    "count_primes": "f504f45e",
    "countdown": "d4714aff",
    "course_schedule": "69ed8bdb",
    "decimal_chain_sum": "c8272224",
    "dice": "68a20981",
    "family_relationships": "cd119d66",
    "gcd": "da4cc1ee",
    "largest_island": "569b31af",
    "lcm": "009804f7",
    "leg_counting": "3525b107",
    "letter_counting": "5dd10e15",
    "maze": "d2333d18",
    "modulo_grid": "98a579f7",
    "number_filtering": "d505ef3e",
    "number_sequence": "b9e22283",
    "path_star": "3d8ea41b",
    "products": "2d87a629",
    "rotate_matrix": "68df15d9",
    "rotten_oranges": "224fa7d3",
    "self_reference": "89379cb1",
    "sentence_reordering": "a3d91907",
    "simple_equations": "e89931de",
    "simple_geometry": "8d75e0dd",
    "string_manipulation": "a06133dd",
    "string_splitting": "609d0475",
    "string_synthesis": "b2cd66b2",
    "syllogism": "6b153e88",
    "word_sequence_reversal": "22da8640",
}
"""Of the first five problems by seed 7 and the default settings, in the reviewed version."""


def digest(generator: str) -> str:
    drawn = reasoning_gym._draw("only", generator, "{}", 7, 5)
    return hashlib.blake2b(json.dumps([(p.key, p.answer) for p in drawn]).encode(), digest_size=4).hexdigest()


@pytest.mark.parametrize("generator", ALLOWED)
def test_the_same_problems_in_every_process_and_on_every_machine(generator):
    assert digest(generator) == DIGESTS[generator]


def test_prompts_state_a_level_that_is_theirs():
    task = make(two=sums(2, share=0.25), five=sums(5, share=0.75, level=2.5))
    train, test = task.train_prompts(Encoder()), task.test_prompts(Encoder())
    assert (len(train), len(test)) == (12, 4)
    for prompt in train + test:
        num_terms = len(re.findall(r"\d+", prompt.text))
        wanted = {2: ("two", 1), 5: ("five", 2.5)}[num_terms]
        assert (prompt.metadata["part"], prompt.metadata["level"]) == wanted
        assert prompt.metadata["generator"] == "chain_sum"
    assert [prompt.metadata["part"] for prompt in train].count("two") == 3


def test_a_larger_pool_and_another_part_leave_the_held_out_problems_as_they_are():
    before = make(a=sums(2)).test_prompts(Encoder())
    assert make(a=sums(2), num_train=40).test_prompts(Encoder()) == before
    assert make(a=sums(2), seed=1).test_prompts(Encoder()) != before


def test_styles():
    bare = make().train_prompts(Encoder())[0]
    chat = make(style="chat").train_prompts(Encoder())[0]
    assert bare.id == chat.id and bare.answer == chat.answer
    assert bare.text.endswith("=\n\nAnswer:\n") and "<answer>" not in bare.text
    assert chat.text.endswith("inside <answer> </answer> tags.")


def test_countdown_problems_can_be_solved_and_none_is_held_out_in_another_order():
    settings = {"min_numbers": 2, "max_numbers": 2, "max_value": 9, "min_target": 1, "max_target": 20}
    task = make(num_train=50, num_test=20, two=part("countdown", **settings))
    train, test = task.train_prompts(Encoder()), task.test_prompts(Encoder())
    keys = [(tuple(sorted(p.answer["numbers"])), p.answer["target"]) for p in train + test]
    assert len(set(keys)) == len(keys) == 70
    assert train[0].text == f"{','.join(map(str, train[0].answer['numbers']))}={train[0].answer['target']}:"
    dataset = reasoning_gym._dataset("settings", "countdown", settings, 3)
    for number in range(40):
        entry = dataset[number]["metadata"]
        value, used = evaluate_expression(entry["expression"])
        assert value == entry["target"] and sorted(used) == sorted(entry["numbers"])


def test_a_problem_that_two_parts_make_belongs_to_the_first():
    task = make(num_train=20, num_test=20, one=sums(2, share=0.5, max_digits=1), two=sums(2, share=0.5, max_digits=1))
    train, test = task.train_prompts(Encoder()), task.test_prompts(Encoder())
    ids = [prompt.id for prompt in train + test]
    assert len(set(ids)) == len(ids) < 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"a": part("puzzle24")},
            r"task\.parts\.a\.generator='puzzle24': its scorer evaluates text as Python; take one of",
        ),
        (
            {"a": part("zebra_puzzles")},
            r"task\.parts\.a\.generator='zebra_puzzles': is not among those whose scorer was",
        ),
        ({"a": part(share=0.5)}, r"task\.parts\.\*\.share=.*add up to 1"),
        ({"a": part(level="hard")}, r"task\.parts\.a\.level='hard': use a number"),
        ({"a": {"generator": "gcd"}}, r"task\.parts\.a=.*give exactly generator, level, settings, share"),
        ({"style": "prose"}, r"task\.style='prose'"),
        ({"num_train": 0}, r"task\.num_train=0"),
    ],
)
def test_what_is_refused_before_anything_is_drawn(change, message):
    with pytest.raises(UsageError, match=message):
        make(**change)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (part(terms=3), r"task\.parts\.a\.settings\.terms=3: chain_sum has m\w+_terms"),
        (part(seed=3), r"task\.parts\.a\.settings\.seed=3"),
        (part(min_terms=5, max_terms=2), r"task\.parts\.a\.settings=.*chain_sum does not take them: max_terms"),
        (sums(1, max_digits=1), r"chain_sum makes only 10 different problems .*16 are wanted; widen them"),
    ],
)
def test_settings_of_the_generator_that_do_not_fit(wrong, message):
    with pytest.raises(UsageError, match=message):
        make(a=wrong).train_prompts(Encoder())
