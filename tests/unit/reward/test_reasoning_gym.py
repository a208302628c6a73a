"""Only what is safe on hostile text ever judges, and the review says the truth about the library."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import random
import textwrap

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.judge import judge_one
from insight_rl.reward.reasoning_gym import ReasoningGymReward
from insight_rl.reward.reasoning_gym_answers import MAX_LENGTH, RULES
from insight_rl.reward.reasoning_gym_puzzles import RULES as PUZZLE_RULES
from insight_rl.reward.reasoning_gym_review import ALLOWED, COUNTDOWN, LIBRARY, OWN, REFUSED, check_installed
from insight_rl.task.reasoning_gym import _dataset as make_dataset
from insight_rl.task.reasoning_gym import _read as read_entry
from insight_rl.types import Completion, Prompt, Reward

pytest.importorskip("reasoning_gym", reason="the extra gym is not installed")

HARMLESS = {
    # Built in, and bounded by the length of a text.
    *("str", "len", "isinstance", "float", "range", "zip", "sum", "min", "max", "enumerate", "Exception"),
    *("strip", "lower", "split", "replace", "join", "Decimal"),
    # The library's own comparison of decimal numbers, which is read as well.
    *("utils", "compute_decimal_reward"),
    # Types that annotations name.
    *("Optional", "dict", "Any", "bool"),
}


def _words(function) -> set[str]:
    """Every global name and attribute in a function's source, without its parameters and the names it assigns."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return (names - assigned - parameters) | attributes


def _fields_of_the_entry(function) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    subscripts = [node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and _is_entry(node.value)]
    return {ast.literal_eval(node.slice) for node in subscripts}


def _is_entry(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "entry"


def _scorer(generator):
    from reasoning_gym.factory import DATASETS

    return DATASETS[generator][0].score_answer


@pytest.mark.parametrize("generator", LIBRARY)
def test_an_allowed_scorer_compares_and_does_nothing_else(generator):
    assert _words(_scorer(generator)) <= HARMLESS
    assert _fields_of_the_entry(_scorer(generator)) == {"answer"}


def test_so_does_the_function_that_several_of_them_call():
    from reasoning_gym.utils import compute_decimal_reward

    assert _words(compute_decimal_reward) <= HARMLESS


@pytest.mark.parametrize("generator", sorted(name for name, reason in (REFUSED | OWN).items() if "evaluates" in reason))
def test_the_same_look_finds_what_evaluates(generator):
    assert not _words(_scorer(generator)) <= HARMLESS


# A wrong answer, and what the library's scorer may read of the problem.
LENIENT = {
    "calendar_arithmetic": ("-3", {"answer": "-4", "metadata": {"task": "count_days"}}),
    "complex_arithmetic": ("nan", {"answer": "1.0 + 2.0i", "metadata": {"result": (1, 2)}}),
    "decimal_arithmetic": ("1.3780001", {"answer": "1.378"}),
    "figlet_font": ("abcdefghijx", {"answer": "abcdefghijk"}),
    "game_of_life": ("[[0,1],[1,0],[1,1]]", {"answer": "[[0,1],[1,0]]"}),
    "game_of_life_halting": ("anything", {"answer": "False"}),
    "gsm_symbolic": ("-5 or 7", {"answer": "5"}),
    "knights_knaves": ("nobody: Al is a saint", {"answer": "Al is a saint."}),
    "letter_jumble": ("you can not", {"answer": "you can"}),
    "number_sorting": ("[1.5, 3]", {"answer": "['1.0', '2.0']", "metadata": {"direction": "ascending"}}),
    "polynomial_equations": ("2.0, x", {"answer": "2.0"}),
    "pool_matrix": ("5.76 6.25", {"answer": "5.75 6.25"}),
    "power_function": ("\u0661.5e+2", {"answer": "150.0"}),
    "prime_factorization": ("\u0663 \u00d7 2", {"answer": "2 \u00d7 3"}),
    "quantum_lock": ("lAmB", {"answer": "A \u2192 B"}),
    "rectangle_count": ("\u0661", {"answer": "1"}),
    "spell_backward": ("abcdefghiX", {"answer": "abcdefghi"}),
    "survo": ("1 x 2\n3 4", {"answer": "1 2\n3 4", "metadata": {"board_size": 2, "solution": [[1, 2], [3, 4]]}}),
    "word_sorting": ("a, b, c", {"answer": "a, b", "metadata": {"sorted_words": ["a", "b"]}}),
}


@pytest.mark.parametrize("generator", LENIENT)
def test_why_the_librarys_scorer_is_not_called(generator):
    from reasoning_gym.factory import get_score_answer_fn

    wrong, entry = LENIENT[generator]
    assert get_score_answer_fn(generator)(wrong, entry) >= 1
    if generator in RULES:
        assert judge({"generator": generator, "answer": entry["answer"]}, entry["answer"]).success is True
        assert judge({"generator": generator, "answer": entry["answer"]}, wrong).success is False


def test_every_generator_of_the_library_was_read():
    from reasoning_gym.factory import DATASETS

    assert sorted([*LIBRARY, *OWN, *REFUSED]) == sorted(DATASETS)
    assert {*RULES, *PUZZLE_RULES, COUNTDOWN} == set(OWN)


def judge(answer, text: str, style: str = "bare") -> Reward:
    reward = ReasoningGymReward(style=style, format_value=0.1)
    prompt = Prompt(id="a", task="reasoning_gym", text="?", token_ids=(1,), answer=answer)
    completion = Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0)
    return judge_one(reward, prompt, completion)[0]


CODE = "__import__('pathlib').Path('mark').touch()"
HOSTILE = [
    CODE,
    f"[{CODE}]",
    f"<answer>{CODE}</answer>",
    f"<answer>eval({CODE!r})</answer>",
    "<answer>9**9**9**9</answer>",
    "<answer>1e999999999999</answer>",
    "<answer>sNaN</answer>",
    "<answer>" + "[" * 5_000 + "</answer>",
    "<answer>" + "9" * MAX_LENGTH + "</answer>",
    "<answer>" + "7 " * 50_000 + "</answer>",
    "<answer>" * 2_000,
    "\u202e17\u0000",
    "\ud800",
    "\N{MATHEMATICAL BOLD DIGIT ONE}" * 900,
]


@functools.cache
def entries(generator: str) -> tuple[object, list[dict]]:
    """A dataset of the library with two of its problems."""
    dataset = make_dataset("settings", generator, {}, 7)
    return dataset, [dataset[0], dataset[1]]


def answer_of(generator: str, entry: dict) -> dict:
    return json.loads(read_entry(generator, entry).answer)


@pytest.mark.parametrize("generator", ALLOWED)
def test_hostile_text_is_data(generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = answer_of(generator, entries(generator)[1][0])
    for text in HOSTILE:
        verdict = judge(answer, text)
        assert verdict.success is False and 0 <= verdict.value < 1, text[:60]
    # The right answer comes from a file, too.
    for gold in (CODE, f"[{CODE}]", "(" * 3_000):
        assert judge(answer | {"answer": gold}, "17").success is not True
    assert list(tmp_path.iterdir()) == []


def near(right: str, number: int) -> list[str]:
    """Texts that differ a little from the right answer, drawn with ``number`` as the seed."""
    rng = random.Random(number)
    texts = [right[::-1], right + " x", right.swapcase(), "\n".join(right.splitlines()[::-1]), f"{right},{right}"]
    for _ in range(20):
        place, character = rng.randrange(len(right)), rng.choice(right + "0123456789")
        texts += [right[:place] + right[place + 1 :], right[:place] + character + right[place + 1 :]]
    return texts


@pytest.mark.parametrize("generator", sorted({*RULES, *PUZZLE_RULES}))
def test_the_right_answer_is_right_and_what_ours_finds_right_the_library_does(generator):
    """The library's own scorer is the reference, on texts near the right one."""
    dataset, problems = entries(generator)
    # The library takes off a tenth where only the numbers are right.
    full = 0.9 if generator == "futoshiki" else 1.0
    for number, entry in enumerate(problems):
        answer = answer_of(generator, entry)
        assert judge(answer, answer["answer"]).success is True
        for text in near(answer["answer"], number):
            if judge(answer, text).success:
                score = dataset.score_answer(text, entry)
                assert score >= full - 1e-9 or same_up_to_blanks(text, answer["answer"]), text


def same_up_to_blanks(text: str, right: str) -> bool:
    return text.casefold().split() == right.casefold().split()


def test_the_value_is_the_librarys_score_and_a_success_is_a_score_of_1():
    answer = {"generator": "chain_sum", "answer": "17"}
    assert judge(answer, "so <answer>17</answer>") == Reward(value=1.0, success=True, status="correct")
    assert judge(answer, "+017.0").success is True
    assert judge(answer, "17 and 18") == Reward(value=2 / 9, success=False, status="wrong")
    assert judge(answer, "18") == Reward(value=0.0, success=False, status="wrong")
    assert judge(answer, "17", style="chat") == Reward(value=0.0, success=False, status="no_answer")
    assert judge(answer, "<answer>17</answer> no: <answer> </answer>").status == "no_answer"
    assert judge(answer, "1" * (MAX_LENGTH + 1)).status == "unparsable"


def test_a_score_outside_of_0_to_1_is_no_verdict(monkeypatch):
    from insight_rl.reward import reasoning_gym

    for score in (1.0000000000000002, -0.1, float("nan")):
        monkeypatch.setattr(reasoning_gym, "_scorer", lambda name, score=score: lambda answer, entry: score)
        verdict = judge({"generator": "chain_sum", "answer": "17"}, "17")
        assert verdict.success is None and str(score) in verdict.reason


@pytest.mark.parametrize("generator", [*sorted(REFUSED), "no_such_generator", None, ["chain_sum"]])
def test_another_generators_answer_is_never_judged(generator):
    verdict = judge({"generator": generator, "answer": "17"}, "17")
    assert verdict.success is None and "answer.generator" in verdict.reason
    if isinstance(generator, str) and generator in REFUSED:
        assert REFUSED[generator] in verdict.reason


def test_countdown_goes_to_our_own_parser(monkeypatch):
    import reasoning_gym.games.countdown

    monkeypatch.setattr(reasoning_gym.games.countdown.CountdownDataset, "score_answer", None)
    answer = {"generator": "countdown", "numbers": [3, 4], "target": 7}
    assert judge(answer, "3+4").success is True
    assert judge(answer, "3*4") == Reward(value=0.1, success=False, status="wrong")


def test_a_missing_or_another_version_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.26")
    with pytest.raises(UsageError, match=r"reasoning-gym 0\.1\.26 .*0\.1\.25.*insight-rl\[gym\]"):
        check_installed("task")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"task=reasoning_gym: .*not installed.*insight-rl\[gym\]"):
        check_installed("task")
