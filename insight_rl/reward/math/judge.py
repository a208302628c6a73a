"""The verdict on one extracted answer: as text, then by value, algebra last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from insight_rl.reward.math.compare import same
from insight_rl.reward.math.cursor import read_decimal
from insight_rl.reward.math.errors import NotMath, OutOfBounds
from insight_rl.reward.math.extract import is_expression, last_boxed
from insight_rl.reward.math.latex import clean
from insight_rl.reward.math.nodes import Node, Number
from insight_rl.reward.math.parser import parse

MAX_ANSWER_CHARS = 4_000
_PLAIN_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,5})?")
_GROUPED = re.compile(r"(?<!\d)\d{1,3},\d{3}(?!\d)")
_DECIMAL_COMMA = re.compile(r"(-?)(\d+),(\d{1,2}|\d{4,15})")
_TEXT_MACRO = re.compile(r"\\text\{([^{}]*)\}")
# "12 apples", "64 square feet"
_COUNTED = re.compile(
    r"([^A-Za-z]*\d[^A-Za-z]*?)\s+(?!(?:and|or|not)\b)[A-Za-z]{2,20}(?:\s+(?!(?:and|or|not)\b)[A-Za-z]{2,20}){0,3}\.?"
)
_UNEVALUATED = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")
# Numbers without a sign between them, which algebra would multiply ("3 4", "1.2 .5", "1.2.0"), and what ends in dots.
_ROW_OF_NUMBERS = re.compile(r"\d\s+\.?\d+(?!\s*/|\d)|\.\d+\.\d|\.\.\.|…|\\[cl]?dots(?![A-Za-z])")
_LAST_SIDE = re.compile(r".*(?:=|\\approx)", re.DOTALL)
_DELIMITERS = re.compile(r"\\[()\[\]]|\$")
_SPACE_AT_SIGNS = re.compile(r" (?![A-Za-z0-9])|(?<![A-Za-z0-9]) ")
_SPACE_IN_THOUSANDS = re.compile(r"(?<=\d)\s(?=\d{3}(?!\d))")
_SPACE_OUTSIDE_NUMBERS = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_MAX_DELIMITERS = 40
_WORDS = re.compile(r"[A-Za-z][A-Za-z\s,.'-]*")
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
_ARTICLE = re.compile(r"(?:the|an?) +")


@lru_cache(maxsize=16_384)
def judge_answer(gold: str, answer: str, tolerance: float = 0.0) -> bool | None:
    """Whether ``answer`` is ``gold``; ``None`` if the answer cannot be read.

    Both are single answers as written, with or without math delimiters. ``tolerance`` is relative. Raises whatever the
    algebra system raises where it fails on a comparison.
    """
    gold, answer = gold.strip(), answer.strip()
    if not gold or not answer:
        return False
    if is_same_text(gold, answer):
        return True
    if tolerance == 0 and _PLAIN_NUMBER.fullmatch(gold) and _PLAIN_NUMBER.fullmatch(answer):
        return _plain_value(gold) == _plain_value(answer)
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    gold = last_boxed(gold) or gold
    try:
        verdict = _by_value(gold, answer, tolerance)
    except OutOfBounds:
        return None
    if verdict is not None:
        return verdict
    gold_text, answer_text = as_text(gold), as_text(answer)
    if gold_text == answer_text:
        return True
    if _WORDS.fullmatch(gold_text) and len(gold_text) > 1:
        return False if is_expression(answer_text) or _WORDS.fullmatch(answer_text) else None
    return _by_algebra(gold, answer) if _is_fit_for_algebra(gold, answer) else None


def is_text_only(gold: str) -> bool:
    """Whether ``gold`` is words, or mathematics that the parser cannot read: its text is then all that counts."""
    try:
        return not _readings(last_boxed(gold) or gold)
    except OutOfBounds:
        return True


def is_same_text(gold: str, answer: str) -> bool:
    """Whether both are the same but for space, math delimiters, markup and the final point, whatever they contain."""
    if not gold.strip() or abs(len(gold) - len(answer)) > _MAX_DELIMITERS:
        return False
    return gold == answer or _undelimited(gold) == _undelimited(answer)


def _undelimited(text: str) -> str:
    text = _DELIMITERS.sub(" ", text).strip(" \n\t.*_`")
    return _SPACE_AT_SIGNS.sub("", " ".join(text.split()))


def _is_fit_for_algebra(gold: str, answer: str) -> bool:
    """An expression with its brackets closed, evaluated where the gold is, and no row of numbers."""
    is_closed = answer.count("{") == answer.count("}")
    is_closed &= sum(map(answer.count, "([")) == sum(map(answer.count, ")]"))
    is_evaluated = _UNEVALUATED.search(answer) is None or _UNEVALUATED.search(gold) is not None
    return is_closed and is_evaluated and not _ROW_OF_NUMBERS.search(answer) and is_expression(clean(answer))


def _plain_value(text: str) -> object:
    value, _ = read_decimal(text.lstrip("-"))
    return -value if text.startswith("-") else value


def as_text(answer: str) -> str:
    """For answers that are words or that no parser reads: without text macros and space; words in lower case."""
    text = _TEXT_MACRO.sub(r" \1 ", clean(answer)).strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if _WORDS.fullmatch(text):
        words = _ARTICLE.sub("", " ".join(text.casefold().split()), count=1).rstrip(".")
        return _NUMBER_WORDS.get(words, words)
    return _SPACE_OUTSIDE_NUMBERS.sub("", _SPACE_IN_THOUSANDS.sub("", text))


# -- by value


def _by_value(gold: str, answer: str, tolerance: float) -> bool | None:
    gold_readings = _readings(gold)
    answer_readings, is_whole = _readings(answer), True
    if not answer_readings and "=" in answer:
        # An equation in words, such as "\\text{so } x = 2".
        answer_readings = _readings(_TEXT_MACRO.sub(" ", clean(answer)))
    if not answer_readings:
        # The rest cannot be read, so the last side decides for the gold only.
        answer_readings, is_whole = _readings(_LAST_SIDE.sub("", clean(answer))), False
    if not gold_readings or not answer_readings:
        return None
    answer_readings = (*answer_readings, *_decimal_comma(gold_readings, answer))
    verdicts = [_same(g, a, tolerance) for g in gold_readings for a in answer_readings]
    if True in verdicts:
        return True
    return None if None in verdicts or not is_whole else False


@lru_cache(maxsize=8_192)
def _readings(text: str) -> tuple[Node, ...]:
    """Every way to read ``text``: ``100,200`` is a number and a list of two. Empty if there is none."""
    nodes: list[Node] = []
    words = as_text(text)
    text = words if words.isdigit() else text
    for grouped_digits in (True, False) if _GROUPED.search(text) else (True,):
        try:
            nodes.append(parse(text, grouped_digits=grouped_digits))
        except NotMath:
            continue
    if not nodes and (counted := _COUNTED.fullmatch(text.strip())) is not None:
        return _readings(counted[1])
    return tuple(dict.fromkeys(nodes))


def _decimal_comma(gold_readings: Sequence[Node], answer: str) -> tuple[Node, ...]:
    """``3,14`` as a decimal, where the gold is one."""
    match = _DECIMAL_COMMA.fullmatch(answer)
    if match is None or not any(isinstance(gold, Number) and gold.num_decimals for gold in gold_readings):
        return ()
    value, num_decimals = read_decimal(f"{match[2]}.{match[3]}")
    return (Number(-value if match[1] else value, num_decimals),)


def _same(gold: Node, answer: Node, tolerance: float) -> bool | None:
    try:
        return same(gold, answer, tolerance=tolerance)
    except NotMath:
        return None


def _by_algebra(gold: str, answer: str) -> bool | None:
    # Half a second of imports that most answers never need.
    from insight_rl.reward.math.algebra import same_by_algebra

    return same_by_algebra(clean(gold), clean(answer))
