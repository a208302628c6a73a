"""The Countdown verdict: extraction of the answer, a small exact parser, and the reward that goes with each outcome.

How problems are made is in :mod:`insight_rl.task.countdown_problems`. The text is untrusted: nothing
is evaluated by Python, every scan is linear, and length, nesting and digits are bounded.

Policy
------
* Only the text after the last ``</think>`` counts, all of it where there is none.
* The answer is the content of the last complete ``<answer>...</answer>`` (tags in lower case). Without one, style
  ``bare`` takes the whole text as the expression and style ``chat`` says ``no_answer``.
* Grammar: ASCII integers without leading zeros, ``+ - * / ( )``, signs before a number or parenthesis, ASCII
  blanks. Anything else is ``unparsable``: ``**``, ``//``, decimals, ``2(3)``, Unicode digits or signs, and also a
  trailing ``= 24``: the answer is an expression, and an equation is not one.
* ``correct``: every given number exactly once, and the exact rational value equals the target. ``wrong``: well
  formed but not correct, a division by zero included.

Values follow InSight (arXiv 2603.01907, section 5): 1 correct, 0.1 wrong but well formed, 0 otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.reward.base import BaseReward
from insight_rl.types import PROMPT_STYLES, Completion, Prompt, Reward

MAX_LENGTH = 512
"""Characters of an answer, outer blanks not counted; more is unparsable."""

MAX_DEPTH = 32
"""Parentheses, signs and operations that are open at the same time."""

MAX_DIGITS = 9
"""Digits of one integer."""


_FOREIGN = re.compile(r"[^0-9+\-*/() \t\r\n]")
_TOKEN = re.compile(r"[0-9]+|[+\-*/()]")
_BINDING = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2}

_LATEX_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|[{}]|[^\\{}]+", re.DOTALL)
_LATEX_TEXT = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "\\left": "",
    "\\right": "",
    "\\,": " ",
    "\\;": " ",
    "\\!": " ",
    "\\ ": " ",
}


class _NotAnExpression(Exception):
    """The text is outside the grammar or over a limit."""


class _Stacks:
    """State of Dijkstra's shunting yard: values so far and the operators that wait for their right side.

    ``ops`` also holds open parentheses, and ``~`` for a minus sign. Two explicit stacks, no recursion: no input can
    exhaust the interpreter's own.
    """

    __slots__ = ("divides_by_zero", "ops", "values")

    def __init__(self) -> None:
        self.values: list[int | Fraction] = []
        self.ops: list[str] = []
        self.divides_by_zero = False

    def push_value(self, value: int | Fraction) -> None:
        """Signs bind tighter than every operation, so they act on the value at once."""
        ops = self.ops
        while ops and ops[-1] == "~":
            ops.pop()
            value = -value
        self.values.append(value)

    def reduce(self, binding: int) -> None:
        """Carry out the waiting operations that bind at least as tightly as ``binding``."""
        ops, values = self.ops, self.values
        while ops and _BINDING[ops[-1]] >= binding:
            op = ops.pop()
            right = values.pop()
            left = values[-1]
            if op == "+":
                values[-1] = left + right
            elif op == "-":
                values[-1] = left - right
            elif op == "*":
                values[-1] = left * right
            elif right == 0:
                self.divides_by_zero = True  # the rest is still read, to tell wrong from unparsable
            elif type(left) is int and type(right) is int and left % right == 0:
                values[-1] = left // right
            else:
                values[-1] = Fraction(left) / right

    def close_parenthesis(self) -> None:
        self.reduce(1)
        if not self.ops:
            raise _NotAnExpression
        self.ops.pop()
        self.push_value(self.values.pop())


def evaluate_expression(text: str) -> tuple[int | Fraction | None, list[int]] | None:
    """Exact value (None where it divides by zero) and the integers used, in order; None for text that is no expression.

    E.g. ``evaluate_expression("3*(7+1)") == (24, [3, 7, 1])``.
    """
    text = text.strip(" \t\r\n")
    if len(text) > MAX_LENGTH or _FOREIGN.search(text):
        return None
    try:
        return _evaluate(_TOKEN.findall(text))
    except _NotAnExpression:
        return None


def _evaluate(tokens: list[str]) -> tuple[int | Fraction | None, list[int]]:
    stacks = _Stacks()
    ops = stacks.ops
    used: list[int] = []
    expects_operand = True
    for token in tokens:
        if expects_operand:
            if token.isdigit():
                if len(token) > MAX_DIGITS or (token[0] == "0" and token != "0"):
                    raise _NotAnExpression
                number = int(token)
                used.append(number)
                stacks.push_value(number)
                expects_operand = False
            elif token in "(-":
                ops.append("~" if token == "-" else token)
                if len(ops) > MAX_DEPTH:
                    raise _NotAnExpression
            elif token != "+":
                raise _NotAnExpression
        elif token == ")":
            stacks.close_parenthesis()
        elif token in "+-*/":
            binding = _BINDING[token]
            stacks.reduce(binding)
            ops.append(token)
            expects_operand = True
        else:
            raise _NotAnExpression
    if expects_operand or "(" in ops:
        raise _NotAnExpression
    stacks.reduce(1)
    return (None if stacks.divides_by_zero else stacks.values[0]), used


def plain_from_latex(text: str) -> str:
    r"""LaTeX arithmetic as plain text: ``\frac{a}{b}``, ``\times``, ``\cdot``, ``\div``, ``\left(``, ``\boxed{a}``.

    Braces become parentheses. What it does not know stays as it is, so the parser refuses it.
    """
    plain: list[str] = []
    open_braces: list[str] = []
    awaits = ""  # what the next opening brace begins: a "numerator", a "denominator" or, if "", a plain group
    for token in _LATEX_TOKEN.findall(text):
        if token == "{":
            plain.append("((" if awaits == "numerator" else "(")
            open_braces.append(awaits)
            awaits = ""
        elif token == "}" and open_braces:
            closed = open_braces.pop()
            plain.append({"numerator": ")/", "denominator": "))"}.get(closed, ")"))
            awaits = "denominator" if closed == "numerator" else ""
        elif token in ("\\frac", "\\dfrac", "\\tfrac"):
            awaits = "numerator"
        elif token != "\\boxed":
            plain.append(_LATEX_TEXT.get(token, token.replace("$", " ")))
            awaits = awaits if token.isspace() else ""
    return "".join(plain)


def _last_boxed(text: str) -> str | None:
    r"""The last ``\boxed{...}`` whose braces balance within the length limit, braces and all."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for offset, character in enumerate(text[start : start + 2 * MAX_LENGTH]):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return text[start : start + offset + 1]
    return None


def extract_answer(response: str, *, style: str, allow_latex: bool) -> str | None:
    r"""The answer as written, or None where the response holds none (see the policy above).

    With ``allow_latex`` a last ``\boxed{...}`` stands in for missing tags, and is preferred within them.
    """
    if "<" in response:
        thought_end = response.rfind("</think>")
        if thought_end >= 0:
            response = response[thought_end + len("</think>") :]
        start = response.rfind("<answer>", 0, max(response.rfind("</answer>"), 0))
    else:
        start = -1
    if start >= 0:
        answer = response[start + len("<answer>") : response.find("</answer>", start)]
        return (_last_boxed(answer) or answer) if allow_latex else answer
    boxed = _last_boxed(response) if allow_latex else None
    if boxed is not None or style == "chat":
        return boxed
    return response if response and not response.isspace() else None


def evaluate_answer(response: str, *, style: str, allow_latex: bool) -> tuple[int | Fraction | None, list[int]] | str:
    """As :func:`evaluate_expression`, of a response's answer; or why there is no value: unparsable | no_answer."""
    answer = extract_answer(response, style=style, allow_latex=allow_latex)
    if answer is None:
        return "no_answer"
    if allow_latex and ("\\" in answer or "$" in answer) and len(answer) <= 2 * MAX_LENGTH:
        answer = plain_from_latex(answer)
    evaluated = evaluate_expression(answer)
    return "unparsable" if evaluated is None else evaluated


def judge_countdown(
    response: str, numbers: Sequence[int], target: int, *, style: str = "bare", allow_latex: bool = False
) -> str:
    """Status of a response to the problem: correct | wrong | unparsable | no_answer."""
    evaluated = evaluate_answer(response, style=style, allow_latex=allow_latex)
    if isinstance(evaluated, str):
        return evaluated
    value, used = evaluated
    used.sort()
    return "correct" if value == target and used == sorted(numbers) else "wrong"


def read_problem(answer: Any) -> tuple[Sequence[int], int]:
    """Numbers and target of ``Prompt.answer``; ``UsageError`` for any other form."""
    if isinstance(answer, Mapping):
        numbers, target = answer.get("numbers"), answer.get("target")
        if isinstance(numbers, (list, tuple)) and numbers and type(target) is int:
            for number in numbers:
                if type(number) is not int:
                    break
            else:
                return numbers, target
    raise UsageError(
        f'Countdown answer {answer!r}: needs the form {{"numbers": [3, 7, 1], "target": 24}} with integers'
    )


class CountdownReward(BaseReward):
    """1 for a correct expression, ``format_value`` for a well-formed wrong one, 0 otherwise.

    ``success`` is the verdict alone. ``Prompt.answer`` is ``{"numbers": [...], "target": n}``; another form raises
    ``UsageError``. The policy and the limits are at the top of this file.
    """

    bounded = True
    """Its time is bounded by the length of the text, so it may run in the trainer's own process."""

    def __init__(self, *, style: str, format_value: float, allow_latex: bool) -> None:
        check(style in PROMPT_STYLES, "reward.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        check(
            isinstance(format_value, (int, float)) and 0 <= format_value < 1,
            "reward.format_value",
            format_value,
            "use a number from 0 to below 1, so that a wrong answer never pays as much as a right one",
        )
        check(isinstance(allow_latex, bool), "reward.allow_latex", allow_latex, "use true or false")
        self.style = style
        self.allow_latex = allow_latex
        self._reward_of = {
            "correct": Reward(value=1.0, success=True, status="correct"),
            "wrong": Reward(value=float(format_value), success=False, status="wrong"),
            "unparsable": Reward(value=0.0, success=False, status="unparsable"),
            "no_answer": Reward(value=0.0, success=False, status="no_answer"),
        }

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        numbers, target = read_problem(prompt.answer)
        return self._reward_of[
            judge_countdown(completion.text, numbers, target, style=self.style, allow_latex=self.allow_latex)
        ]

    def explain_unusable(self, answer: Any) -> str | None:
        try:
            read_problem(answer)
        except UsageError as error:
            return str(error)
        return None
