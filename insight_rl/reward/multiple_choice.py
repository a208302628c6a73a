"""``reward=multiple_choice``: whether a response picks the right option.

Claims are collected in the order of the text (boxes, "the answer is C" in several languages, "C is correct", "settled
on C"), and the last one counts. What a claim names is a letter with its markup, or the text of an option. Several
options are no answer, however they are joined ("C or D", "C|D", "C = D", "any of A-C", "Paris and Oslo"), and neither
is a denied one ("the answer is not B"). A box or a "final answer" that a later final answer contradicts without taking
it back leaves two final answers, which is wrong. Only where nothing is claimed does a lone letter count: a response
that is nothing else, or the last capital that stands by itself. The article "A", the pronoun "I" and a letter that is
part of a name ("vitamin C") never do.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from insight_rl.errors import check
from insight_rl.reward.extract import boxed
from insight_rl.reward.multiple_choice_phrases import (
    ANNOUNCEMENT,
    ANOTHER,
    ANOTHER_AT_THE_END,
    ARTICLE_USE,
    BETWEEN_LONE,
    CHOSEN,
    CONFIRMED,
    DENIAL_BEFORE,
    DENIED,
    ENDS,
    LABELLED,
    LEADS,
    LETTER,
    LONE,
    MACRO,
    MARKUP,
    MAX_GAP,
    NEGATION,
    RANGE,
    SEPARATOR,
    SEVERAL_OF,
    TAKEN_BACK,
    WHOLE,
    WORD_BEFORE,
)
from insight_rl.reward.shaping import Shaping, Verdict
from insight_rl.reward.verifier import Verifier

_MAX_CLAIMS = 200
_MAX_CLAUSE = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a response is held against.

    Example::

        Question(letter="C", letters="ABCD", choices=("Rome", "Oslo", "Paris", "Bern"))
    """

    letter: str
    letters: str
    choices: tuple[str, ...] = ()
    """The options' texts, normalised; empty where they are not known."""


class _Claim(NamedTuple):
    position: int
    end: int
    letter: str
    """A letter; ``?`` for several, or for one that is no option."""
    is_final: bool
    """A box or a "final answer"."""


SEVERAL = "?"


class MultipleChoiceReward(Verifier[Question]):
    """1 for the letter or text of the right option, 0 otherwise. See the module and ``docs/rewards.md`` for the rules.

    ``lone_letter``: whether a letter that nothing announces counts. ``option_text``: whether an option's text does.
    """

    bounded = True
    """It bounds its own time, so it may judge in the trainer's process."""

    def __init__(
        self,
        *,
        lone_letter: bool = True,
        option_text: bool = True,
        max_response_chars: int = 100_000,
        shaping: Sequence[Shaping] = (),
    ) -> None:
        super().__init__(max_response_chars=max_response_chars, shaping=shaping)
        self._lone_letter = lone_letter
        self._option_text = option_text

    def read_gold(self, answer: Any) -> Question:
        return read_question(answer, use_choices=self._option_text)

    def judge_text(self, text: str, gold: Question) -> Verdict:
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        found = find_answer(text, gold, lone_letter=self._lone_letter)
        if found is None:
            return Verdict(success=False, status="no_answer")
        letter, stage = found
        if letter == SEVERAL:
            return Verdict(success=False, status="wrong", stage=stage)
        success = letter == gold.letter
        return Verdict(success=success, status="correct" if success else "wrong", answer=letter, stage=stage)


def read_question(answer: Any, *, use_choices: bool = True) -> Question:
    """``{"letter": "C", "num_choices": 4, "choices": [...]}``, choices optional. Raises ``UsageError``."""
    check(isinstance(answer, Mapping), "answer", answer, 'must be {"letter": ..., "num_choices": ...}')
    choices = answer.get("choices") or ()
    check(
        isinstance(choices, (list, tuple)) and all(isinstance(choice, (str, int, float)) for choice in choices),
        "answer.choices",
        choices,
        "must be a list of texts",
    )
    num_choices = answer.get("num_choices", len(choices))
    is_count = isinstance(num_choices, int) and not isinstance(num_choices, bool) and 2 <= num_choices <= 26
    check(is_count, "answer.num_choices", num_choices, "must be a whole number from 2 to 26")
    check(len(choices) in (0, num_choices), "answer.choices", choices, f"must be as many as num_choices={num_choices}")
    letters = string.ascii_uppercase[:num_choices]
    letter = answer.get("letter")
    is_letter = isinstance(letter, str) and len(letter) == 1 and letter.upper() in letters
    check(is_letter, "answer.letter", letter, f"must be one of {letters}")
    texts = tuple(_plain(str(choice)) for choice in choices) if use_choices else ()
    return Question(letter=str(letter).upper(), letters=letters, choices=texts)


def find_answer(text: str, question: Question, *, lone_letter: bool) -> tuple[str, str] | None:
    """The letter that ``text`` settles on (or :data:`SEVERAL`) and how it was found; ``None`` if it names none."""
    claims = sorted([*_boxes(text, question), *_announced(text, question), *_statements(text, question)])
    if claims:
        last = claims[-1]
        for earlier in claims[:-1]:
            is_contradicted = earlier.is_final and earlier.letter not in (last.letter, SEVERAL)
            if is_contradicted and not TAKEN_BACK.search(text, earlier.end, last.position):
                return SEVERAL, "claimed"
        return last.letter, "claimed"
    stripped = text.strip()
    if stripped and len(stripped) <= _MAX_CLAUSE and (letter := _option(stripped, question)) is not None:
        return letter, "whole"
    return _lone(stripped[-_MAX_CLAUSE:], question) if lone_letter else None


# -- claims


def _boxes(text: str, question: Question) -> list[_Claim]:
    claims = [
        _Claim(box.start, box.end, letter, True)
        for box in boxed(text)[-_MAX_CLAIMS:]
        if (letter := _option(box.content[:_MAX_CLAUSE], question)) is not None
    ]
    return claims


def _announced(text: str, question: Question) -> list[_Claim]:
    claims: list[_Claim] = []
    for match in list(ANNOUNCEMENT.finditer(text))[-_MAX_CLAIMS:]:
        clause = text[match.end() : match.end() + _MAX_CLAUSE]
        letter = _named(clause, question)
        if letter is not None:
            claims.append(_Claim(match.start(), match.end() + 1, letter, match["final"] is not None))
    return claims


def _statements(text: str, question: Question) -> list[_Claim]:
    claims: list[_Claim] = []
    for match in list(CHOSEN.finditer(text))[-_MAX_CLAIMS:]:
        letter = _letter(text[match.end() : match.end() + _MAX_CLAUSE], question)
        if letter is not None:
            claims.append(_Claim(match.start(), match.end() + 1, letter, False))
    for match in list(CONFIRMED.finditer(text))[-_MAX_CLAIMS:]:
        if match["letter"] in question.letters and not _is_part_of_a_name(text, match.start()):
            claims.append(_Claim(match.start(), match.end(), match["letter"], False))
    return claims


# -- what a claim names


def _named(clause: str, question: Question) -> str | None:
    """The option that ``clause`` names: one whose text it is, its letter, or one with whose text it begins."""
    if not _is_label(clause, question) and (letter := _by_text(clause, question, whole=True)) is not None:
        return letter
    if NEGATION.match(clause):
        return None
    letter = _letter(clause, question) or _by_text(clause, question, whole=False)
    return SEVERAL if letter is None and SEVERAL_OF.match(clause) else letter


def _is_label(clause: str, question: Question) -> bool:
    """Whether ``clause`` is nothing but the letter of an option."""
    whole = WHOLE.fullmatch(clause.strip())
    return whole is not None and whole["letter"].upper() in question.letters


def _letter(clause: str, question: Question) -> str | None:
    """The letter that ``clause`` begins with; :data:`SEVERAL` for a list of them or a letter that is no option."""
    between = RANGE.match(clause)
    if between is not None and {between["first"], between["last"]} <= set(question.letters):
        return SEVERAL if between["first"] != between["last"] else between["first"]
    match = LETTER.match(clause)
    if match is None:
        return None
    letter, rest = match["letter"], clause[match.end() :]
    if letter.islower() and not ENDS.match(rest):
        return None
    if ARTICLE_USE.match(rest) and letter in "AI" and not _is_marked(match, clause):
        return None
    if DENIED.match(rest):
        return None
    letter = letter.upper()
    return SEVERAL if letter not in question.letters or _lists_another(letter, rest, question) else letter


def _is_marked(match: re.Match[str], clause: str) -> bool:
    """Whether the letter stands in brackets, in bold or in a macro: then it is no word."""
    return clause[: match.start("letter")].rstrip()[-1:] in ("(", "*", "[", "{", "$")


def _lists_another(letter: str, rest: str, question: Question) -> bool:
    at_the_end = ANOTHER_AT_THE_END.match(rest)
    if at_the_end is not None and at_the_end["letter"] in set(question.letters) - {letter, "I"}:
        return True
    match = ANOTHER.match(rest)
    if match is None or match["letter"] == letter or match["letter"] not in question.letters:
        return False
    begins_words = re.match(r"\s[a-z]", match["rest"]) is not None
    return not begins_words or (match["word"] is not None and match["letter"] not in "AI")


def _option(content: str, question: Question) -> str | None:
    """What a box, or a response that is nothing else, names."""
    content = _unwrapped(content)
    whole = WHOLE.fullmatch(content)
    if whole is not None and _is_label(content, question):
        return whole["letter"].upper()
    by_text = _by_text(content, question, whole=True)
    if by_text is not None or whole is not None:
        return by_text or SEVERAL
    if LABELLED.match(content):
        return _letter(content, question)
    announced = _announced(content, question)
    return announced[-1].letter if announced else None


def _unwrapped(content: str) -> str:
    for _ in range(3):
        content, count = MACRO.subn(r" \1 ", content)
        if not count:
            break
    return content.strip()


def _by_text(clause: str, question: Question, *, whole: bool) -> str | None:
    """The option whose text ``clause`` is, or begins with; ``None`` if there is none, or more than one."""
    if not question.choices:
        return None
    plain = _plain(clause.strip().split("\n")[0])
    matches = [
        (len(choice), letter)
        for letter, choice in zip(question.letters, question.choices, strict=True)
        if choice and (plain == choice or (not whole and plain.startswith(choice) and not plain[len(choice)].isalnum()))
    ]
    longest = max((length for length, _ in matches), default=0)
    letters = [letter for length, letter in matches if length == longest]
    if len(letters) != 1:
        return None
    separator = SEPARATOR.match(plain, longest)
    rest = plain[separator.end() :] if separator else ""
    others = [choice for choice in question.choices if choice and rest.startswith(choice)]
    return SEVERAL if others else letters[0]


def _plain(text: str) -> str:
    """Text without markup, in lower case, for comparing options."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = MARKUP.sub("", _unwrapped(text.replace("\\(", "").replace("\\)", "")))
    return " ".join(text.casefold().split()).strip(" .:,;")


# -- letters that nothing announces


def _lone(text: str, question: Question) -> tuple[str, str] | None:
    """The last capital that stands by itself; :data:`SEVERAL` if it is listed with another."""
    found = [match for match in LONE.finditer(text) if match["letter"] in question.letters and _is_choice(match, text)]
    while found:
        last = found.pop()
        if found and found[-1]["letter"] != last["letter"]:
            gap = text[found[-1].end("letter") : last.start("letter")]
            if len(gap) <= MAX_GAP and BETWEEN_LONE.fullmatch(gap):
                return SEVERAL, "lone"
        if _is_bracketed(last) or not _is_part_of_a_name(text, last.start()):
            return last["letter"], "lone"
    return None


def _is_bracketed(match: re.Match[str]) -> bool:
    return bool(match["open"].strip('"'))


def _is_choice(match: re.Match[str], text: str) -> bool:
    """Whether a capital is a letter of its own: no article, no pronoun, and not denied."""
    follows = text[match.end() : match.end() + 5]
    begins_phrase = not match["close"] and re.match(r"\s(?!(?:and|or|to)\b)[a-z]", follows) is not None
    is_word = match["letter"] == "I" or (match["letter"] == "A" and begins_phrase)
    before = text[max(match.start() - 20, 0) : match.start()]
    is_denied = DENIED.match(text, match.end("letter")) or DENIAL_BEFORE.search(before)
    return not is_denied and (_is_bracketed(match) or not is_word)


def _is_part_of_a_name(text: str, start: int) -> bool:
    """Whether the word before a letter makes one name with it, such as "vitamin C"."""
    before = WORD_BEFORE.search(text[max(start - 30, 0) : start])
    return before is not None and before["word"].lower() not in LEADS
