"""The Countdown verdict against an independent evaluator on Python's own syntax tree, and against hostile text."""

from __future__ import annotations

import ast
import operator
import pickle
import re
import warnings
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.reward.countdown import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_LENGTH,
    CountdownReward,
    evaluate_expression,
    judge_countdown,
    plain_from_latex,
)
from insight_rl.types import Completion, Prompt

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def reference_value(node: ast.AST, used: list[int]) -> Fraction:
    """Slow and plain; ``ValueError`` for syntax outside the grammar, ``ZeroDivisionError`` as it comes."""
    match node:
        case ast.Expression(body=body):
            return reference_value(body, used)
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            used.append(value)
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -reference_value(operand, used)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return reference_value(operand, used)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            # both sides are walked before a division can fail, so that bad syntax on the right is still found
            values = []
            is_defined = True
            for side in (left, right):
                try:
                    values.append(reference_value(side, used))
                except ZeroDivisionError:
                    is_defined = False
            if not is_defined:
                raise ZeroDivisionError
            return OPERATIONS[type(op)](*values)
    raise ValueError(f"{node!r} is outside the grammar")


def reference(text: str) -> tuple[Fraction | None, list[int]] | None:
    """What :func:`evaluate_expression` must return."""
    # Python reads 1_0, 00 and numbers of any length, the grammar does not.
    if re.search(rf"_|(?<![0-9])00|[0-9]{{{MAX_DIGITS + 1}}}", text):
        return None
    used: list[int] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval")
        return reference_value(tree, used), used
    except ZeroDivisionError:
        return None, used
    except (ValueError, SyntaxError):
        return None


def judge(text: str, numbers: list[int], target: int, **settings: object) -> str:
    return judge_countdown(text, numbers, target, **settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# the parser


number_text = st.integers(0, 999).map(str)
sign = st.sampled_from(["", "", "", "-", "+", "- ", "--"])
expression_text = st.recursive(
    number_text,
    lambda inner: st.one_of(
        st.builds("{}{}{}".format, inner, st.sampled_from(["+", "-", "*", "/", " + ", " - ", " * ", " / "]), inner),
        st.builds("{}({})".format, sign, inner),
        st.builds("{}{}".format, sign, inner),
    ),
    max_leaves=8,
)


@given(expression_text)
def test_well_formed_expressions_have_the_reference_value(text: str) -> None:
    assert evaluate_expression(text) == reference(text)
    assert reference(text) is not None


@settings(max_examples=500)
@given(st.text(alphabet="0123456789+-*/() .e=_", max_size=14))
@example("1" + "0" * MAX_DIGITS)
def test_any_short_text_is_read_as_the_reference_reads_it(text: str) -> None:
    assert evaluate_expression(text) == reference(text)


@settings(max_examples=300)
@given(expression_text, st.data())
def test_a_damaged_expression_is_read_as_the_reference_reads_it(text: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(text)))
    num_removed = data.draw(st.integers(0, 2))
    inserted = data.draw(st.sampled_from(["", "*", "/", "(", ")", "-", "0", " ", "1", "+*"]))
    damaged = text[:position] + inserted + text[position + num_removed :]
    assert evaluate_expression(damaged) == reference(damaged)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3*(7+1)", 24),
        ("  ( 3 + 7 )\n* 2\t", 20),
        ("8/3", Fraction(8, 3)),
        ("8/(3-8/3)", 24),
        ("1/3*3", 1),
        ("2-3-4", -5),
        ("2-(3-4)", 3),
        ("16/4/2", 2),
        ("-3+-(-4)", 1),
        ("-(2-5)*3", 9),
        ("2*-3/+6", -1),
        ("0", 0),
        ("999999999*999999999", 999999998000000001),
    ],
)
def test_values(text: str, value: Fraction) -> None:
    evaluated = evaluate_expression(text)
    assert evaluated is not None
    assert evaluated[0] == value


@pytest.mark.parametrize("text", ["1/0", "1/(2-2)", "(1/0)*0", "0/(1/0)", "1/(3-6/2)+5", "1/-0"])
def test_division_by_zero_is_well_formed_without_a_value(text: str) -> None:
    evaluated = evaluate_expression(text)
    assert evaluated is not None
    assert evaluated[0] is None


def test_bad_syntax_after_a_division_by_zero_is_still_bad_syntax() -> None:
    assert evaluate_expression("1/0+") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "+",
        "3+",
        "*3",
        "()",
        "(3",
        "3)",
        ")3(",
        "3 7",
        "3(7)",
        "(3)(7)",
        "2**3",
        "7//2",
        "7%2",
        "3.0",
        "1e3",
        "0x10",
        "1_000",
        "07",
        "00",
        "3,7",
        "3*8=24",
        "= 24",
        "3x8",
        "abs(3)",
        "__import__('os')",
        "\u0663+\u0664",  # Arabic-Indic digits
        "\uff13+4",  # full-width digit
        "\u00b2",  # superscript two, a digit to str.isdigit
        "3\u22124",  # minus sign
        "3\u00d78",  # multiplication sign
        "3\u00a0+4",  # no-break space
        "3+4\x00",
        "<b>3+4</b>",
        "3&#43;4",
        "3 # 4",
    ],
)
def test_text_outside_the_grammar(text: str) -> None:
    assert evaluate_expression(text) is None


def test_limits() -> None:
    longest = "9" * MAX_DIGITS
    assert evaluate_expression(longest) == (int(longest), [int(longest)])
    assert evaluate_expression(longest + "9") is None
    nested = "(" * MAX_DEPTH + "7" + ")" * MAX_DEPTH
    assert evaluate_expression(nested) == (7, [7])
    assert evaluate_expression(f"({nested})") is None
    assert evaluate_expression("-" * MAX_DEPTH + "7") == (7, [7])
    assert evaluate_expression("-" * (MAX_DEPTH + 1) + "7") is None
    chain = "1" + "+1" * ((MAX_LENGTH - 1) // 2)
    assert evaluate_expression(chain) == (len(chain) // 2 + 1, [1] * (len(chain) // 2 + 1))
    assert evaluate_expression(chain + "+1") is None


# ---------------------------------------------------------------------------------------------------------------------
# the verdict


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("3*(7+1)", "correct"),
        ("(1+7)*3", "correct"),
        ("-3*-(1+7)", "correct"),
        ("3*7+1", "wrong"),
        ("3*8", "wrong"),  # 8 was not given
        ("3*(7+1)*1", "wrong"),  # 1 used twice
        ("24", "wrong"),
        ("7/(3-3)+1", "wrong"),
        ("31-7", "wrong"),  # digits joined
        ("3*(7+1)=24", "unparsable"),
        ("the answer is 3*(7+1)", "unparsable"),
        ("", "no_answer"),
        (" \n", "no_answer"),
        ("</think>", "no_answer"),
        ("7</think>3*(7+1)", "correct"),
        ("3*(7+1)</think>7", "wrong"),
        ("so: <answer> 3*(7+1) </answer> done", "correct"),
        ("<answer>3*(7+1)", "unparsable"),
    ],
)
def test_bare_verdicts(text: str, status: str) -> None:
    assert judge(text, [3, 7, 1], 24, style="bare") == status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("<think>hm</think> <answer>3*(7+1)</answer>", "correct"),
        ("<answer>3*(7+1)</answer>", "correct"),
        ("<answer>7</answer> no: <answer>\n3*(7+1)\n</answer>", "correct"),
        ("<answer>3*(7+1)</answer> no: <answer>7</answer>", "wrong"),
        ("<answer>3*(7+1)</answer> or <answer>7", "correct"),  # the last complete one
        ("<answer>7 <answer>3*(7+1)</answer>", "correct"),
        ("<answer>3*(7+1)</answer></answer>", "correct"),
        ("<think><answer>3*(7+1)</answer></think>", "no_answer"),
        ("<think><answer>3*(7+1)</answer></think><answer>3</answer>", "wrong"),
        ("<answer>7</answer></think>a</think><answer>3*(7+1)</answer>", "correct"),
        ("<think>never closed <answer>3*(7+1)</answer>", "correct"),
        ("3*(7+1)", "no_answer"),
        ("", "no_answer"),
        ("<answer></answer>", "unparsable"),
        ("</answer>3*(7+1)<answer>", "no_answer"),
        ("<ANSWER>3*(7+1)</ANSWER>", "no_answer"),
        ("<answer>3*(7+1)=24</answer>", "unparsable"),
        ("<answer><b>3*(7+1)</b></answer>", "unparsable"),
        (r"<answer>3 \times (7+1)</answer>", "unparsable"),
        (r"\boxed{3*(7+1)}", "no_answer"),
    ],
)
def test_chat_verdicts(text: str, status: str) -> None:
    assert judge(text, [3, 7, 1], 24, style="chat") == status


def test_repeated_numbers_count_as_often_as_given() -> None:
    assert judge("4+4+4", [4, 4, 4], 12) == "correct"
    assert judge("4+4", [4, 4, 4], 8) == "wrong"
    assert judge("8/(3-8/3)", [3, 3, 8, 8], 24) == "correct"


@settings(max_examples=300)
@given(expression_text, st.integers(-5, 50), st.booleans())
def test_correct_exactly_when_numbers_and_value_match(text: str, target: int, use_own_value: bool) -> None:
    evaluated = reference(text)
    assert evaluated is not None
    value, used = evaluated
    if use_own_value and value is not None and value.denominator == 1:
        target = value.numerator
    expected = "correct" if value == target else "wrong"
    assert judge(f"<answer>{text}</answer>", used[::-1], target, style="chat") == expected
    assert judge(text, [*used, 1], target) == "wrong"
    assert judge(text, used[1:], target) == "wrong"


@settings(max_examples=100)
@given(st.text(max_size=200), st.booleans(), st.sampled_from(["bare", "chat"]))
def test_arbitrary_text_gets_a_verdict(text: str, allow_latex: bool, style: str) -> None:
    status = judge(text, [3, 7, 1], 24, style=style, allow_latex=allow_latex)
    assert status in {"wrong", "unparsable", "no_answer"}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("1" * 300_000, "unparsable"),
        ("(" * 300_000, "unparsable"),
        ("-" * 300_000 + "1", "unparsable"),
        ("3*" * 150_000 + "1", "unparsable"),
        ("<answer>" * 20_000, "unparsable"),
        ("</answer>" * 20_000, "unparsable"),
        ("<answer>" * 20_000 + "3*(7+1)</answer>", "correct"),
        ("<think>" * 20_000 + "<answer>3*(7+1)</answer>", "correct"),
        ("<answer>3*(7+1)</answer>" + "<answer>" * 20_000, "correct"),
        ("x" * 300_000 + "<answer>3*(7+1)</answer>", "correct"),
        ("<answer>" + " " * 300_000 + "3*(7+1)</answer>", "correct"),
        ("<answer>" + "9**" * 100_000 + "9</answer>", "unparsable"),
        ("<answer>" + "\\boxed{" * 20_000 + "</answer>", "unparsable"),
        ("\\frac{" * 50_000, "unparsable"),
    ],
)
@pytest.mark.parametrize("allow_latex", [False, True])
def test_hostile_sizes(text: str, status: str, allow_latex: bool) -> None:
    assert judge(text, [3, 7, 1], 24, style="bare", allow_latex=allow_latex) == status
    in_chat = status if "<answer>" in text and "</answer>" in text else "no_answer"
    assert judge(text, [3, 7, 1], 24, style="chat", allow_latex=allow_latex) == in_chat


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"3 \times 8", "3 * 8"),
        (r"48 \div 2 \cdot 1", "48 / 2 * 1"),
        (r"\frac{48}{2}", "((48)/(2))"),
        (r"\dfrac{1+\frac{4}{2}}{3}", "((1+((4)/(2)))/(3))"),
        (r"\left(3+5\right)", "(3+5)"),
        (r"$3+5$", " 3+5 "),
        (r"\boxed{3+5}", "(3+5)"),
        (r"\sqrt{4}", r"\sqrt(4)"),
    ],
)
def test_latex(latex: str, plain: str) -> None:
    assert plain_from_latex(latex) == plain


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (r"<answer>3 \times (7+1)</answer>", "correct"),
        (r"<answer>$\boxed{3\cdot\left(7+1\right)}$</answer>", "correct"),
        (r"so \boxed{7} no, \boxed{3 \times (7 + 1)}.", "correct"),
        (r"<answer>7</answer> \boxed{3 \times (7+1)}", "wrong"),
        (r"<answer>\boxed{3 \times (7+1)} = 24</answer>", "correct"),
        (r"<answer>3 \times (7+1) = 24</answer>", "unparsable"),
        (r"<answer>\frac{7+1}{3}</answer>", "wrong"),
        (r"<answer>\frac{7+1}3</answer>", "unparsable"),
        (r"<answer>\frac{7+1</answer>", "unparsable"),
        (r"<answer>}{</answer>", "unparsable"),
        (r"\boxed{3*(7+1)", "no_answer"),
    ],
)
def test_latex_verdicts(text: str, status: str) -> None:
    assert judge(text, [3, 7, 1], 24, style="chat", allow_latex=True) == status


# ---------------------------------------------------------------------------------------------------------------------
# the reward


def make_prompt(answer: object) -> Prompt:
    return Prompt(id="countdown/0", task="countdown", text="3,7,1=24:", token_ids=(1,), answer=answer)


def make_completion(text: str) -> Completion:
    return Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0)


PROMPT = make_prompt({"numbers": [3, 7, 1], "target": 24})


@pytest.mark.parametrize(
    ("text", "value", "success", "status"),
    [
        ("3*(7+1)", 1.0, True, "correct"),
        ("3*7+1", 0.25, False, "wrong"),
        ("3*", 0.0, False, "unparsable"),
        ("", 0.0, False, "no_answer"),
    ],
)
def test_reward_of_each_status(text: str, value: float, success: bool, status: str) -> None:
    reward_fn = CountdownReward(style="bare", format_value=0.25, allow_latex=False)
    reward = pickle.loads(pickle.dumps(reward_fn))(PROMPT, make_completion(text))
    assert (reward.value, reward.success, reward.status) == (value, success, status)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        24,
        [3, 7, 1],
        {},
        {"numbers": [3, 7]},
        {"target": 24},
        {"numbers": [], "target": 24},
        {"numbers": "371", "target": 24},
        {"numbers": [3, "7", 1], "target": 24},
        {"numbers": [3, 7.0, 1], "target": 24},
        {"numbers": [3, True, 1], "target": 24},
        {"numbers": [3, 7, 1], "target": "24"},
        {"numbers": [3, 7, 1], "target": 24.0},
    ],
)
def test_unusable_answers_are_named(answer: object) -> None:
    reward_fn = CountdownReward(style="bare", format_value=0.1, allow_latex=False)
    with pytest.raises(UsageError, match="needs the form"):
        reward_fn(make_prompt(answer), make_completion("3*(7+1)"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("style", "prose"), ("format_value", 1.0), ("format_value", -0.1), ("format_value", "a"), ("allow_latex", 1)],
)
def test_wrong_settings_are_named(key: str, value: object) -> None:
    good = {"style": "bare", "format_value": 0.1, "allow_latex": False}
    with pytest.raises(UsageError, match=f"reward.{key}"):
        CountdownReward(**{**good, key: value})  # type: ignore[arg-type]
