"""Only scorers that are safe on hostile text are ever called, and the list of them says the truth about the library."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import textwrap

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.judge import judge_one
from insight_rl.reward.reasoning_gym import MAX_LENGTH, ReasoningGymReward
from insight_rl.reward.reasoning_gym_review import ALLOWED, COUNTDOWN, REFUSED, check_installed
from insight_rl.types import Completion, Prompt, Reward

pytest.importorskip("reasoning_gym", reason="the extra gym is not installed")

EXACT = sorted(set(ALLOWED) - {COUNTDOWN})

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


@pytest.mark.parametrize("generator", EXACT)
def test_an_allowed_scorer_compares_and_does_nothing_else(generator):
    assert _words(_scorer(generator)) <= HARMLESS
    assert _fields_of_the_entry(_scorer(generator)) == {"answer"}


def test_so_does_the_function_that_several_of_them_call():
    from reasoning_gym.utils import compute_decimal_reward

    assert _words(compute_decimal_reward) <= HARMLESS


@pytest.mark.parametrize("generator", sorted(name for name, reason in REFUSED.items() if "evaluates" in reason))
def test_the_same_look_finds_what_evaluates(generator):
    assert not _words(_scorer(generator)) <= HARMLESS


def test_why_the_others_are_refused():
    from reasoning_gym.factory import get_score_answer_fn

    assert get_score_answer_fn("spell_backward")("abcdefghiX", {"answer": "abcdefghi"}) > 1
    assert get_score_answer_fn("game_of_life_halting")("anything", {"answer": "False"}) == 1
    assert "game_of_life_halting" in REFUSED and "spell_backward" in REFUSED
    assert not set(REFUSED) & set(ALLOWED)


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


@pytest.mark.parametrize("generator", ALLOWED)
def test_hostile_text_is_data(generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = {"generator": generator} | (
        {"numbers": [3, 4], "target": 7} if generator == COUNTDOWN else {"answer": "17"}
    )
    for text in HOSTILE:
        verdict = judge(answer, text)
        assert verdict.success is False and 0 <= verdict.value < 1, text[:60]
    # The right answer comes from a file, too.
    for gold in (CODE, f"[{CODE}]", "(" * 3_000):
        assert judge({"generator": generator, "answer": gold}, "17").success is not True
    assert list(tmp_path.iterdir()) == []


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
