"""Rules of our own that compare an answer with the right one, for generators of reasoning-gym.

They stand in for scorers that evaluate text, give full marks to wrong answers or need more than the right answer. Each
takes the answer and the right one as text and says whether they are the same. Nothing is evaluated, digits are ASCII
digits, numbers and nesting are bounded, and the time is nearly linear in the text.

Library: https://github.com/open-thought/reasoning-gym . Rules that play a puzzle:
:mod:`insight_rl.reward.reasoning_gym_puzzles`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

MAX_LENGTH = 10_000
"""Characters of an answer, outer blanks not counted; a longer one is unparsable."""

_UNSIGNED = r"(?:[0-9]{1,200}(?:\.[0-9]{0,200})?|\.[0-9]{1,200})(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(rf"[+-]?{_UNSIGNED}")
_RATIO = re.compile(r"([+-]?[0-9]{1,200}) ?/ ?([0-9]{1,200})")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3}){1,60}(?:\.[0-9]{0,200})?")
_INTEGER = re.compile(r"[+-]?(?:0x[0-9a-f]{1,200}|[0-9]{1,200})", re.IGNORECASE)
_COMPLEX = (
    re.compile(rf"(?P<real>[+-]?{_UNSIGNED})(?P<imaginary>[+-](?:{_UNSIGNED})?)[ij]"),
    re.compile(rf"(?P<imaginary>[+-]?(?:{_UNSIGNED})?)[ij]"),
    re.compile(rf"(?P<real>[+-]?{_UNSIGNED})"),
)
_FRACTIONS = (
    re.compile(r"\\d?frac ?\{ ?([0-9]{1,60}) ?\} ?\{ ?([0-9]{1,60}) ?\}"),
    re.compile(r"([0-9]{1,60}) ?/ ?([0-9]{1,60})"),
)
_ROLE = re.compile(r"(?:and )?([a-z'-]{1,60}) is an? ([a-z-]{1,60})")
_ROWS = re.compile(r"[0-9<>\u2227\u2228^v \t\r\n]*")

Rule = Callable[[str, str], bool]


def number(text: str) -> Fraction | None:
    """The exact value of a decimal number, a ratio or a number with commas every three digits; ``None`` otherwise."""
    text = text.strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if ratio := _RATIO.fullmatch(text):
        return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None
    return Fraction(text) if _NUMBER.fullmatch(text) else None


def read_json(text: str) -> Any:
    """The value of a JSON text; ``None`` where it is none, is nested too deeply, or holds NaN or Infinity."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def lines(text: str) -> list[list[str]]:
    """The words of each line that has any."""
    return [words for line in text.splitlines() if (words := line.split())]


def same_text(answer: str, right: str) -> bool:
    """The same words in the same lines."""
    return lines(answer) == lines(right)


def same_text_in_any_case(answer: str, right: str) -> bool:
    return same_text(answer.casefold(), right.casefold())


def same_letters(answer: str, right: str) -> bool:
    """The same letters, whatever their case and the blanks between them."""
    return "".join(answer.casefold().split()) == "".join(right.casefold().split())


def same_number(answer: str, right: str) -> bool:
    value = number(answer)
    return value is not None and value == number(right)


def same_integer(answer: str, right: str) -> bool:
    """Integers, decimal or as ``0x1f``."""
    if not (_INTEGER.fullmatch(answer) and _INTEGER.fullmatch(right)):
        return False
    return _integer(answer) == _integer(right)


def _integer(text: str) -> int:
    return int(text, 16 if "x" in text.lower() else 10)


def _near(tolerance: Fraction) -> Rule:
    def rule(answer: str, right: str) -> bool:
        return _are_near([answer], [right], tolerance)

    return rule


def _are_near(answers: Sequence[str], rights: Sequence[str], tolerance: Fraction) -> bool:
    values, wanted = [number(text) for text in answers], [number(text) for text in rights]
    if len(values) != len(wanted):
        return False
    return all(
        value is not None and goal is not None and abs(value - goal) <= tolerance
        for value, goal in zip(values, wanted, strict=True)
    )


def same_three_figures(answer: str, right: str) -> bool:
    """The same number after rounding to three significant figures."""
    if not (_NUMBER.fullmatch(answer) and _NUMBER.fullmatch(right)):
        return False
    return f"{Decimal(answer):.2e}" == f"{Decimal(right):.2e}"


def same_complex(answer: str, right: str) -> bool:
    value = _complex(answer)
    return value is not None and value == _complex(right)


def _complex(text: str) -> tuple[Fraction, Fraction] | None:
    text = "".join(text.split()).lower()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    for pattern in _COMPLEX:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            imaginary = parts.get("imaginary", "0")
            imaginary += "1" if imaginary in ("", "+", "-") else ""
            return Fraction(parts.get("real", "0")), Fraction(imaginary)
    return None


def same_fraction_as_written(answer: str, right: str) -> bool:
    r"""Numerator and denominator both, as ``2/3`` or ``\frac{2}{3}``: whether it was simplified is the question."""
    pair = _fraction(answer)
    return pair is not None and pair == _fraction(right)


def _fraction(text: str) -> tuple[int, int] | None:
    text = text.strip("$ ")
    for pattern in _FRACTIONS:
        if match := pattern.fullmatch(text):
            return int(match[1]), int(match[2])
    return None


def same_factors(answer: str, right: str) -> bool:
    """The same integers, multiplied in any order."""
    factors = [_INTEGER.fullmatch(part.strip()) for part in re.split("[\u00d7*x]", answer)]
    if not all(factors):
        return False
    wanted = sorted(int(part) for part in right.split("\u00d7"))
    return sorted(int(match[0]) for match in factors if match is not None and "x" not in match[0]) == wanted


def same_solutions(answer: str, right: str) -> bool:
    """Numbers with commas between them, in any order, to four decimals."""
    values, wanted = [number(part) for part in answer.split(",")], [number(part) for part in right.split(",")]
    if None in values or len(values) != len(wanted):
        return False
    pairs = zip(sorted(v for v in values if v is not None), sorted(v for v in wanted if v is not None), strict=True)
    return all(abs(value - goal) <= Fraction(1, 10_000) for value, goal in pairs)


def same_measure(answer: str, right: str) -> bool:
    """An angle to two decimals, a radius or a point to three: half a unit of the right answer's last decimal."""
    if right.endswith("\u00b0"):
        return _are_near([answer.removesuffix("\u00b0")], [right.removesuffix("\u00b0")], Fraction(5, 1_000))
    texts = [text.removeprefix("(").removesuffix(")") if right.startswith("(") else text for text in (answer, right)]
    return _are_near(texts[0].split(","), texts[1].split(","), Fraction(5, 10_000))


def same_pooled_matrix(answer: str, right: str) -> bool:
    """A matrix of numbers, to two decimals."""
    rows, wanted = lines(answer), lines(right)
    if len(rows) != len(wanted):
        return False
    return all(_are_near(row, goal, Fraction(5, 1_000)) for row, goal in zip(rows, wanted, strict=True))


def same_digits(answer: str, right: str) -> bool:
    """The same numbers in the same lines; signs of comparison between them are set aside."""
    return _ROWS.fullmatch(answer) is not None and _digit_rows(answer) == _digit_rows(right)


def _digit_rows(text: str) -> list[list[str]]:
    return [row for line in text.splitlines() if (row := re.findall("[0-9]+", line))]


def same_json(answer: str, right: str) -> bool:
    """The same JSON, where ``true`` is not 1."""
    value = read_json(answer)
    return value is not None and json.dumps(value) == json.dumps(read_json(right))


def same_groups(answer: str, right: str) -> bool:
    """Lists of words, the lists and the words in any order."""
    groups = _groups(answer)
    return groups is not None and sorted(map(sorted, groups)) == sorted(map(sorted, _groups(right) or []))


def same_partitions(answer: str, right: str) -> bool:
    """Lists of words, the lists in any order."""
    groups = _groups(answer)
    return groups is not None and sorted(groups) == sorted(_groups(right) or [])


def _groups(text: str) -> list[list[str]] | None:
    value = read_json(text)
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        return None
    return value if all(isinstance(word, str) for group in value for word in group) else None


def same_numbers_in_order(answer: str, right: str) -> bool:
    """A list of numbers, each of them plain or in quotation marks."""
    values, wanted = _numbers(answer), _numbers(right)
    return values is not None and values == wanted


def _numbers(text: str) -> list[Fraction] | None:
    items = read_json(text.replace("'", '"'))
    if not isinstance(items, list):
        return None
    values = [number(item if isinstance(item, str) else json.dumps(item)) for item in items]
    return None if None in values else [value for value in values if value is not None]


def same_words_between_commas(answer: str, right: str) -> bool:
    return [word.strip() for word in answer.split(",")] == [word.strip() for word in right.split(",")]


def same_roles(answer: str, right: str) -> bool:
    """Sentences "Lily is an egoist", in any order, with commas or "and" between them."""
    roles = _roles(answer)
    return roles is not None and roles == _roles(right)


def _roles(text: str) -> list[tuple[str, ...]] | None:
    sentence = " ".join(text.lower().rstrip(". ").split()).replace(" and ", ", ").replace(",,", ",")
    found = [_ROLE.fullmatch(part.strip()) for part in sentence.split(",")]
    return None if None in found else sorted(match.groups() for match in found if match is not None)


def is_palindrome_of_its_letters(answer: str, right: str) -> bool:
    """Any palindrome of the right one's letters."""
    answer = answer.lower()
    return answer == answer[::-1] and sorted(answer) == sorted(right)


RULES: dict[str, Rule] = {
    "ab": same_text,
    "advanced_geometry": same_measure,
    "arc_1d": same_text,
    "arc_agi": same_text,
    "bf": same_text,
    "binary_matrix": same_text,
    "bitwise_arithmetic": same_integer,
    "calendar_arithmetic": same_text_in_any_case,
    "coin_flip": _near(Fraction(1, 10_000)),
    "complex_arithmetic": same_complex,
    "decimal_arithmetic": same_number,
    "emoji_mystery": same_text,
    "figlet_font": same_letters,
    "fraction_simplification": same_fraction_as_written,
    "futoshiki": same_digits,
    "game_of_life": same_json,
    "game_of_life_halting": same_text,
    "group_anagrams": same_groups,
    "gsm_symbolic": same_number,
    "knights_knaves": same_roles,
    "letter_jumble": same_text_in_any_case,
    "mahjong_puzzle": same_text,
    "manipulate_matrix": same_text,
    "mini_sudoku": same_text,
    "needle_haystack": same_letters,
    "number_format": _near(Fraction(1, 100)),
    "number_sorting": same_numbers_in_order,
    "palindrome_generation": is_palindrome_of_its_letters,
    "palindrome_partitioning": same_partitions,
    "polynomial_equations": same_solutions,
    "pool_matrix": same_pooled_matrix,
    "power_function": same_three_figures,
    "prime_factorization": same_factors,
    "rearc": same_text,
    "rectangle_count": same_number,
    "spell_backward": same_text_in_any_case,
    "spiral_matrix": same_text,
    "string_insertion": same_text,
    "sudoku": same_text,
    "tsumego": same_text_in_any_case,
    "word_sorting": same_words_between_commas,
    "zebra_puzzles": same_text_in_any_case,
}
"""The rule of each generator that is judged by its right answer."""
