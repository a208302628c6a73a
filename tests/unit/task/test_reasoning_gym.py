"""Pools of known difficulty: the same problems everywhere, at the level that they state."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.countdown import evaluate_expression
from insight_rl.reward.reasoning_gym_review import ALLOWED, COUNTDOWN, LIBRARY
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


DIGESTS = """
ab=e30f5e3d advanced_geometry=7a9868b1 aiw=ebd24048 arc_1d=286fdf58 arc_agi=59993805 base_conversion=81110153
basic_arithmetic=c7661248 bf=ca91c69b binary_alternation=339c95f4 binary_matrix=e54959b9 bitwise_arithmetic=584918a2
caesar_cipher=6cca58e8 calendar_arithmetic=d6e89c3b chain_sum=d7f9ade9 circuit_logic=e772f271 coin_flip=d9477bd1
color_cube_rotation=8043f147 complex_arithmetic=1014d334 count_bits=b84ff224 count_primes=f504f45e countdown=d4714aff
course_schedule=69ed8bdb cryptarithm=6ee9802d decimal_arithmetic=945c91bf decimal_chain_sum=c8272224 dice=68a20981
emoji_mystery=0580171a family_relationships=cd119d66 figlet_font=d06dc6af fraction_simplification=4ec234cf
futoshiki=d33e528f game_of_life=660fc576 game_of_life_halting=39b385d0 gcd=da4cc1ee graph_color=e745751c
group_anagrams=4a95001a gsm_symbolic=c0603e9d jugs=a702b484 kakurasu=afadb18b knights_knaves=831c8e49
largest_island=569b31af lcm=009804f7 leg_counting=3525b107 letter_counting=5dd10e15 letter_jumble=deee2751
mahjong_puzzle=f5003927 manipulate_matrix=6323e5d4 maze=d2333d18 mini_sudoku=21d85f0d modulo_grid=98a579f7
n_queens=9550df0c needle_haystack=499009c0 number_filtering=d505ef3e number_format=e4af1323 number_sequence=b9e22283
number_sorting=d19fbc21 palindrome_generation=90bce9ca palindrome_partitioning=ceb70d9e path_star=3d8ea41b
polynomial_equations=c5e7b6bc pool_matrix=09d77f8d power_function=187d683c prime_factorization=67dec4de
products=2d87a629 puzzle24=4276eea0 quantum_lock=dffac356 rearc=acf1a38c rectangle_count=dc805325
rotate_matrix=68df15d9 rotten_oranges=224fa7d3 self_reference=89379cb1 sentence_reordering=a3d91907
shortest_path=557666ee simple_equations=e89931de simple_geometry=8d75e0dd sokoban=132d33d9 spell_backward=6c2aa341
spiral_matrix=5149ca8c string_insertion=a4a13407 string_manipulation=a06133dd string_splitting=609d0475
string_synthesis=b2cd66b2 sudoku=93f0657d survo=c55990b0 syllogism=6b153e88 tower_of_hanoi=8a1f5e7a tsumego=f01cd88d
word_sequence_reversal=22da8640 word_sorting=43688e28 zebra_puzzles=fa1d684a
"""
"""Of the first two problems by seed 7 and the default settings, in the reviewed version; of the first five where the
library's scorer judges."""


def digest(generator: str) -> str:
    number = 5 if generator in (*LIBRARY, COUNTDOWN) else 2
    drawn = reasoning_gym._draw("only", generator, "{}", 7, number)
    return hashlib.blake2b(json.dumps([(p.key, p.answer) for p in drawn]).encode(), digest_size=4).hexdigest()


@pytest.mark.parametrize("generator", ALLOWED)
def test_the_same_problems_in_every_process_and_on_every_machine(generator):
    assert digest(generator) == dict(item.split("=") for item in DIGESTS.split())[generator]


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
            {"a": part("simple_integration")},
            r"task\.parts\.a\.generator='simple_integration': its scorer evaluates text as Python.*; take one of",
        ),
        (
            {"a": part("zebra")},
            r"task\.parts\.a\.generator='zebra': reasoning-gym has no such generator",
        ),
        ({"a": part(share=0.5)}, r"task\.parts\.\*\.share=.*add up to 1"),
        ({"a": part() | {"pass_rate": 1.5}}, r"task\.parts\.a\.pass_rate=1\.5: use a share"),
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
