"""The rules of ``reward=math``: what is taken for the answer, and what is taken for equal."""

from __future__ import annotations

import pickle

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.math.reward import GoldAnswer, MathReward, read_gold
from insight_rl.reward.shaping import FormatBonus, OverlongPenalty
from insight_rl.types import Completion, Prompt

EQUAL = [
    ("\\frac12", "0.5"),
    ("0.5", "50\\%"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("\\sqrt[3]{5/12}", "(5/12)^{1/3}"),
    ("3\\frac{1}{2}", "7/2"),
    ("3.5", "3 1/2"),
    ("1,234,567", "1234567"),
    ("9,\\!000", "9000"),
    ("14{,}916", "14916"),
    ("25", "025"),
    (".7", "0.70"),
    ("1.5 \\times 10^{-3}", "0.0015"),
    ("4.5e33", "4.5 \\times 10^{33}"),
    ("0.1\\overline{6}", "\\frac16"),
    ("\\$32,348", "32348"),
    ("5\\text{ cm}", "5"),
    ("64 square feet", "64"),
    ("45^\\circ", "45 degrees"),
    ("10\\%", "10"),
    ("10\\%", "0.1"),
    ("\\sin 30^\\circ", "\\frac{1}{2}"),
    ("e^{i\\pi}", "-1"),
    ("\\ln 4", "2\\ln 2"),
    ("\\binom{5}{2}", "10"),
    ("\\frac{(n-1)!}{k!} \\frac{n}{(n-k)!}", "\\frac{n!}{k!(n-k)!}"),
    ("(x-1)(x+1)", "x^2-1"),
    ("\\frac{a}{b+c}", "a/(c+b)"),
    ("\\cos^2 x", "1-\\sin^2 x"),
    ("x = 5", "5"),
    ("5", "x = 5"),
    ("f(x) = 2x+1", "2x+1"),
    ("x^2+y^2=1", "1-x^2-y^2=0"),
    ("y=2x+1", "2x - y + 1 = 0"),
    ("x < 5", "5 > x"),
    ("-1 < x \\le 2", "(-1, 2]"),
    ("x < 1 \\text{ or } x > 2", "(-\\infty,1) \\cup (2,\\infty)"),
    ("(0,2) \\cup (1,3]", "(0,3]"),
    ("(1, 2)", "x > 1, x < 2"),
    ("\\begin{cases} x = 1 \\\\ y = 2 \\end{cases}", "y=2, x=1"),
    ("\\{1, 2, 3\\}", "3, 2 and 1"),
    ("(1,2),(3,4)", "(3,4), (1,2)"),
    ("a=1, b=2", "b=2, a=1"),
    ("a=1, b=2", "1, 2"),
    ("\\pm 3", "-3, 3"),
    ("\\pm\\frac12 x", "\\pm\\frac{1}{2} x"),
    ("\\frac12 \\pm \\frac\\sqrt32", "\\frac{1-\\sqrt3}{2}, \\frac{1+\\sqrt3}{2}"),
    ("\\sin(30^\\circ + 60^\\circ)", "1"),
    ("2:3", "\\frac23"),
    ("\\begin{pmatrix} 1 & 1/2 \\\\ 0 & 1 \\end{pmatrix}", "\\begin{bmatrix} 1 & 0.5 \\\\ 0 & 1 \\end{bmatrix}"),
    ("(3, \\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)"),
    ("2516_8", "2516_{8}"),
    ("\\text{Monday}", "monday"),
    ("\\text{(C)}", "C"),
    ("\\frac{\\pi}{2}", "1.570796"),
    ("\\emptyset", "\\varnothing"),
    ("12\\text{ and }13", "13, 12"),
    ("2\\sqrt{5}", "2√5"),
]
UNEQUAL = [
    # No products: a version, a date, two numbers.
    ("0", "1.2.0"),
    ("0.6", "1.2.5"),
    ("2.5", "12.5.2"),
    ("0.25", ".5.5"),
    ("0.6", "1.2 .5"),
    ("5", "-5"),
    ("12", "(1, 2)"),
    ("12", "1,23"),
    ("(1,2)", "(2,1)"),
    ("[0,1]", "(0,1)"),
    ("1", "1, 2"),
    ("1, 2", "1"),
    ("x = 3", "y = 3"),
    ("a=1, b=2", "2, 1"),
    ("a^2 + b = 0", "0"),
    ("x < 5", "x \\le 5"),
    ("x < 5", "x > 5"),
    ("(1, 2)", "x < 1 \\text{ or } x > 2"),
    ("\\mathbb{R}", "x > 1, x < 2"),
    ("5\\text{ cm}", "5\\text{ m}"),
    ("75\\%", "75^\\circ"),
    ("10\\%", "1000\\%"),
    ("\\frac23", "0.67"),
    ("\\sqrt{3}", "1.732"),
    ("3.14", "3.14159"),
    ("17.001", "17"),
    ("5.89 \\times 10^{-7}", "7 \\times 10^{-7}"),
    ("100000000001000000000", "100000000000000000000"),
    ("10^{1000}", "10^{1000}+1"),
    ("\\sqrt{x^2}", "x"),
    ("x^2+2x+1", "y^2+2y+1"),
    ("(a+5)(b+2)", "(+5)(b+2)"),
    ("1+2i", "1-2i"),
    ("\\frac{dx}{dt} = kx", "\\frac{x}{t} = kx"),
    ("I(0)", "0"),
    ("0.64N", "0.64"),
    ("12:00", "1:00"),
    ("1_6", "1_7"),
    ("CBAD", "ABCD"),
    ("odd", "oddd"),
    ("\\text{even}", "The number of even terms is odd"),
    ("-\\infty", "\\infty"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
    ("", ""),
    ("", "42"),
    ("2", "[]"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
@pytest.mark.parametrize("form", ["%s", "\\boxed{%s}", "So the answer is $%s$."])
def test_equal_answers(gold, answer, form):
    assert MathReward().judge(form % answer, gold).status == "correct"


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
@pytest.mark.parametrize("form", ["%s", "\\boxed{%s}"])
def test_unequal_answers(gold, answer, form):
    verdict = MathReward().judge(form % answer, gold)
    assert verdict.success is False
    assert verdict.status in ("wrong", "unparsable", "no_answer")


@pytest.mark.parametrize(
    ("response", "answer", "stage"),
    [
        ("<think>\\boxed{1}</think> 2 and \\boxed{3}, no: \\boxed{4}", "4", "boxed"),
        ("The answer is 5. But \\boxed{7} is what I box", "7", "boxed"),
        ("\\boxed 6", "6", "boxed"),
        ("The answer is 5. No, the final answer is: $8$, as 2+6=8.", "8", "announced"),
        ("**Final Answer**\n\n12", "12", "announced"),
        ("#### 1,234", "1,234", "announced"),
        ("<answer> 3/4 </answer>", "3/4", "announced"),
        ("答案是 17。", "17", "announced"),
        ("The answer is 42 because 6*7 gives it", "42", "announced"),
        ("Final Answer: the largest $n$ is 34.", "34", "announced"),
        ("The answer is not 5, as 7 is more. The answer is not 6.", "7", "last_expression"),
        ("we find that x = 3 and pay $12 for 2 of them, $20 for the rest", "20", "last_expression"),
        ("it is not 10 but 1,000.99m²", "1,000.99", "last_expression"),
        ("-1 + sqrt(3)", "-1 + sqrt(3)", "last_expression"),
    ],
)
def test_which_piece_is_the_answer(response, answer, stage):
    verdict = MathReward().judge(response, "nothing like it")
    assert (verdict.answer, verdict.stage) == (answer, stage)


@pytest.mark.parametrize("off", ["boxed", "announced", "last_expression"])
def test_rungs_can_be_switched_off(off):
    responses = {"boxed": "\\boxed{7}", "announced": "The answer is 7 of course", "last_expression": "this makes 7"}
    all_stages, reward = MathReward(), MathReward(**{off: False})
    assert all_stages.judge(responses[off], "7").stage == off
    others = MathReward(**{stage: stage == off for stage in responses})
    assert others.judge(responses[off], "7").stage == off
    assert reward.judge(responses[off], "7").stage != off


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{41} \\boxed{42}",
        "\\boxed{42} or \\boxed{41}",
        "$\\boxed{41}$, $\\boxed{42}$",
        "Option 1: \\boxed{41}\nOption 2: \\boxed{42}",
        "\\boxed{41, 42}",
        "\\boxed{41 \\text{ or } 42}",
        "The answer is 41 or 42.",
        "It is one of 40, 41, 42.",
        "x = 41, x = 42",
        " then ".join(f"\\boxed{{{guess}}}" for guess in range(30, 43)),
    ],
)
def test_a_list_that_holds_the_gold_is_not_the_gold(response):
    assert MathReward().judge(response, "42").status == "wrong"


@pytest.mark.parametrize(
    "response", ["\\boxed{42", "\\boxed{\\frac{4", "<think>\\boxed{42}</think>", "<think>42</think>\n", "", "   "]
)
def test_cut_off_and_hidden_answers_do_not_count(response):
    assert MathReward().judge(response, "42").status == "no_answer"


def test_an_echo_of_the_prompt_is_no_answer():
    question = "Worked example: the answer is \\boxed{42}. What do six times seven make?"
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert MathReward().judge(f"{question}\n", "42", prompt=prompt).status == "no_answer"
    assert MathReward().judge(f"{question}\n\\boxed{{42}}", "42", prompt=prompt).status == "correct"


def test_what_follows_the_end_of_the_turn_is_not_the_response():
    text = "<|im_start|>assistant\nIt is \\boxed{1}.<|im_end|>\n<|im_start|>user\nIs it \\boxed{2}?"
    assert MathReward().judge(text, "1").status == "correct"


def test_several_golds_and_tolerance():
    reward = MathReward()
    assert reward.judge("\\boxed{0.5}", ["7", "1/2"]).success is True
    assert reward.judge("\\boxed{8}", ["7", "1/2"]).success is False
    assert reward.judge("\\boxed{3.1}", {"gold": "3.14", "tolerance": 0.02}).success is True
    assert reward.judge("\\boxed{3.0}", {"gold": "3.14", "tolerance": 0.02}).success is False
    assert MathReward(tolerance=0.05).judge("\\boxed{0.34}", "1/3").success is True
    assert reward.judge("\\boxed{0.34}", "1/3").success is False
    assert read_gold({"gold": ["a", 2], "tolerance": 0.1}) == GoldAnswer(texts=("a", "2"), tolerance=0.1)


@pytest.mark.parametrize("answer", [None, [], [None], {"answer": "3"}, {"gold": "3", "tolerance": -1}, True])
def test_an_unusable_gold_is_an_error_and_no_verdict(answer):
    verdict = MathReward().judge("\\boxed{3}", answer)
    assert (verdict.success, verdict.status) == (None, "error")
    assert verdict.reason.startswith("answer")


def test_an_answer_that_nobody_can_read_is_unparsable():
    assert MathReward().judge("\\boxed{\\$#@ ((}", "3").status == "unparsable"
    assert MathReward().judge("\\boxed{9^{9^{9^{9}}}}", "3").status == "unparsable"


def test_algebra_decides_what_values_cannot():
    assert MathReward().judge("\\boxed{\\sum_{i=1}^{4} i}", "\\sum_{k=1}^{4} k").status == "correct"


def test_reward_of_a_completion_and_its_parts():
    shaping = [FormatBonus(weight=0.25), OverlongPenalty(max_tokens=4, buffer_tokens=2)]
    reward = pickle.loads(pickle.dumps(MathReward(shaping=shaping)))
    prompt = Prompt(id="p", task="math", text="?", token_ids=(1,), answer="12")
    completion = Completion(
        token_ids=(1, 2, 3), logprobs=(0.0,) * 3, text="\\boxed{13}", finish_reason="stop", policy_version=0
    )
    result = reward(prompt, completion)
    assert (result.success, result.status) == (False, "wrong")
    assert result.parts == {"verdict": 0.0, "format": 0.25, "overlong": -0.5}
    assert result.value == pytest.approx(-0.25)


@pytest.mark.parametrize(
    "arguments",
    [{"boxed": False, "announced": False, "last_expression": False}, {"tolerance": 1.0}, {"max_response_chars": 5}],
)
def test_bad_settings_are_refused(arguments):
    with pytest.raises(UsageError, match="reward"):
        MathReward(**arguments)
