"""``reward=multiple_choice``: whether a response picks the right option. Knows nothing of training or of the question.

Claims are collected in the order of the text (boxes, "the answer is C" in several languages, "C is correct", "settled
on C"), and the last one counts. What a claim names is a letter with its markup, or the text of an option. A list of
letters is not an answer, and neither is a denied one ("the answer is not B"). A box or a "final answer" that a later
final answer contradicts without taking it back leaves two final answers, which is wrong. Only where nothing is claimed
does a lone letter count: a response that is nothing else, or the last capital that stands by itself. The article "A"
and the pronoun "I" never do.
"""

# ruff: noqa: RUF001 (the characters of answers, as models write them)
from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from insight_rl.errors import check
from insight_rl.reward.extract import boxed
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

_CLOSERS = r"[\s*_`\"'”’»)\]}$.]*"
_LETTER = re.compile(
    r"[\s*_`\"'“‘«\[({$:：=~>\-]*(?:\\(?:text|textbf|textit|mathrm|mathbf|mathit|boxed)\s*\{[\s*_(\[]*)*"
    r"(?:(?i:option|choice|answer|letter|opci[oó]n|choix|选项)\s*[:：]?\s*)?[*_(\[{$\"'“]*"
    r"(?P<letter>[A-Za-z])(?![A-Za-z0-9'’]|-[A-Za-z])"
)
_ANOTHER = re.compile(
    _CLOSERS + r"(?:(?P<word>\b(?:and|or|und|oder|y|o|et|ou|e)\b|和|或|&|\+)|(?P<mark>[,/;、，]))\s*"
    r"(?i:and\s+|or\s+|option\s+)?[*_(\[{$\"]*(?:\\text\{\s*)?(?P<letter>[A-Z])(?![A-Za-z0-9'’])(?P<rest>.?.?)",
    re.DOTALL,
)
_DENIED = re.compile(
    _CLOSERS + r"(?i:(?:is|was|seems|looks|would be|must be|can be)\s+(?:clearly\s+|definitely\s+|also\s+)?"
    r"(?:wrong|incorrect|not|false|ruled|out|impossible|invalid|eliminated)|isn't|wasn't|cannot|can't)\b"
)
_DENIAL_BEFORE = re.compile(r"(?i:\bnot|n't|\bnor)\s{1,3}$")
_NEGATION = re.compile(r"[\s*_:]*(?i:not|n't|never|neither|no)\b")
_ARTICLE_USE = re.compile(r"[ ]+(?!(?i:because|since|as|is|was|and|or|for|due|which|with|based|by|in|–|—)\b)[a-z]")
_ANNOUNCEMENT = re.compile(
    r"(?P<final>(?i:\bfinal)\s+)?(?:"
    r"\b(?i:answer|choice|option|solution|response)s?\b[*_\"')\]]{0,4}"
    r"(?:\s{0,3}[:：=]|\s{1,3}(?i:is|was|would\s+be|should\s+be|must\s+be|to\s+choose\s+is)\b\s{0,3}:?"
    r"|[^.\n:：?!]{0,60}?\s(?i:is)\b\s{0,3}:?)"
    r"|^[ \t]{0,8}####(?!#)|<answer>"
    r"|(?:正确)?(?:答案|选项)[^。\n:：A-Z]{0,10}?(?:是|为|：|:|选)|(?:故|应|应该|因此|所以)?选(?:择|项)?[:：]?(?=\s{0,3}[（(]?[A-Z])"
    r"|(?:答え|正解|解答)[^。\nA-Z]{0,6}?(?:は|:|：)|(?:정답|답)[^.\nA-Z]{0,6}?(?:은|는|:|：)"
    r"|\b(?i:respuesta|resposta|risposta|réponse|reponse|antwort|lösung|ответ|вариант|odpowiedź|odpověď|cevap|yanıt|jawaban"
    r"|svar|antwoord|vastaus|απάντηση|răspuns\w*|válasz|відповідь)\b(?:[^.\n:：A-Z]{0,30}?)"
    r"(?:[:：=—–-]|\b(?:est|es|é|è|ist|is|adalah|to|jest|je|är|er|on|este|είναι|это)\b)"
    r"|(?i:đáp\s+án)[^.\n:：A-Z]{0,20}?(?:là|:|：)|(?:الإجابة|الجواب)[^.\n:：A-Z]{0,20}?(?:هي|هو|:|：)|(?:उत्तर)[^.\n:：A-Z]{0,10}?(?:है|:|：)"
    r")",
    re.MULTILINE,
)
_CHOSEN = re.compile(
    r"\b(?i:choose|chose|pick|picked|select|selected|settled?\s+on|go(?:ing)?\s+with|went\s+with|opt\s+for|choisis|elijo|wähle"
    r"|выбираю|escolho)\b(?=[^A-Za-z]|\s)"
)
_CONFIRMED = re.compile(
    r"(?<![A-Za-z0-9'’])[*_(\[\"]{0,4}(?P<letter>[A-Z])[*_)\]\".]{0,4}\s+(?i:is|must\s+be|would\s+be)\s+"
    r"(?i:(?:the|my|clearly|therefore|thus|indeed|definitely|then)\s+){0,3}(?i:correct|right|best|answer|true)\b"
)
_TAKEN_BACK = re.compile(
    r"\b(?i:wrong|incorrect|actually|wait|instead|correction|mistake|mistaken|no|sorry|however|but|reconsider|rather|revis\w+"
    r"|reflection|not|changed?)\b"
)
_LONE = re.compile(
    r"(?<![A-Za-z0-9'’\\_^])(?P<open>[(\[*_\"]{0,4})(?P<letter>[A-Z])(?![A-Za-z0-9'’_^])(?P<close>[)\]*_\".,:;!]{0,4})"
)
_WHOLE = re.compile(r"[\s*_`\"'(\[{$]*(?P<letter>[A-Za-z])[\s*_`\"')\]}$.,:;!]*")
# "C: text", "(C) text", "C, D"
_LABELLED = re.compile(r"[\s*_(\[{$]*[A-Z](?:\s*[).:\]–—,/&]|\s+-|\s+(?:and|or)\b)")
_ENDS = re.compile(r"[\s*_`\"'”’)\]}$.,;:!]*(?:\n|$|</)|[)*\]}]")
_MACRO = re.compile(r"\\(?:text\w*|math\w+|mbox|operatorname)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[*_`$\"'“”]|\\[(){}\[\],;!%$ ]|[{}]")


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
        letter, rung = found
        if letter == SEVERAL:
            return Verdict(success=False, status="wrong", rung=rung)
        success = letter == gold.letter
        return Verdict(success=success, status="correct" if success else "wrong", answer=letter, rung=rung)


def read_question(answer: Any, *, use_choices: bool = True) -> Question:
    """``{"letter": "C", "num_choices": 4, "choices": [...]}``, choices optional. Raises :class:`UsageError`."""
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
            if is_contradicted and not _TAKEN_BACK.search(text, earlier.end, last.position):
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
    for match in list(_ANNOUNCEMENT.finditer(text))[-_MAX_CLAIMS:]:
        clause = text[match.end() : match.end() + _MAX_CLAUSE]
        letter = _named(clause, question)
        if letter is not None:
            claims.append(_Claim(match.start(), match.end() + 1, letter, match["final"] is not None))
    return claims


def _statements(text: str, question: Question) -> list[_Claim]:
    claims: list[_Claim] = []
    for match in list(_CHOSEN.finditer(text))[-_MAX_CLAIMS:]:
        letter = _letter(text[match.end() : match.end() + _MAX_CLAUSE], question)
        if letter is not None:
            claims.append(_Claim(match.start(), match.end() + 1, letter, False))
    for match in list(_CONFIRMED.finditer(text))[-_MAX_CLAIMS:]:
        if match["letter"] in question.letters:
            claims.append(_Claim(match.start(), match.end(), match["letter"], False))
    return claims


# -- what a claim names


def _named(clause: str, question: Question) -> str | None:
    """The option that ``clause`` names: one whose text it is, its letter, or one with whose text it begins."""
    if not _is_label(clause, question) and (letter := _by_text(clause, question, whole=True)) is not None:
        return letter
    if _NEGATION.match(clause):
        return None
    letter = _letter(clause, question)
    return letter if letter is not None else _by_text(clause, question, whole=False)


def _is_label(clause: str, question: Question) -> bool:
    """Whether ``clause`` is nothing but the letter of an option."""
    whole = _WHOLE.fullmatch(clause.strip())
    return whole is not None and whole["letter"].upper() in question.letters


def _letter(clause: str, question: Question) -> str | None:
    """The letter that ``clause`` begins with; :data:`SEVERAL` for a list of them or a letter that is no option."""
    match = _LETTER.match(clause)
    if match is None:
        return None
    letter, rest = match["letter"], clause[match.end() :]
    if letter.islower() and not _ENDS.match(rest):
        return None
    if _ARTICLE_USE.match(rest) and letter in "AI" and not _is_marked(match, clause):
        return None
    if _DENIED.match(rest):
        return None
    letter = letter.upper()
    return SEVERAL if letter not in question.letters or _lists_another(letter, rest, question) else letter


def _is_marked(match: re.Match[str], clause: str) -> bool:
    """Whether the letter stands in brackets, in bold or in a macro: then it is no word."""
    return clause[: match.start("letter")].rstrip()[-1:] in ("(", "*", "[", "{", "$")


def _lists_another(letter: str, rest: str, question: Question) -> bool:
    match = _ANOTHER.match(rest)
    if match is None or match["letter"] == letter or match["letter"] not in question.letters:
        return False
    begins_words = re.match(r"\s[a-z]", match["rest"]) is not None
    return not begins_words or (match["word"] is not None and match["letter"] not in "AI")


def _option(content: str, question: Question) -> str | None:
    """What a box, or a response that is nothing else, names."""
    content = _unwrapped(content)
    whole = _WHOLE.fullmatch(content)
    if whole is not None and _is_label(content, question):
        return whole["letter"].upper()
    by_text = _by_text(content, question, whole=True)
    if by_text is not None or whole is not None:
        return by_text or SEVERAL
    if _LABELLED.match(content):
        return _letter(content, question)
    announced = _announced(content, question)
    return announced[-1].letter if announced else None


def _unwrapped(content: str) -> str:
    for _ in range(3):
        content, count = _MACRO.subn(r" \1 ", content)
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
    return letters[0] if len(letters) == 1 else None


def _plain(text: str) -> str:
    """Text without markup, in lower case, for comparing options."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = _MARKUP.sub("", _unwrapped(text.replace("\\(", "").replace("\\)", "")))
    return " ".join(text.casefold().split()).strip(" .:,;")


# -- letters that nothing announces


def _lone(text: str, question: Question) -> tuple[str, str] | None:
    """The last capital that stands by itself, unless it is listed with another."""
    found: list[re.Match[str]] = []
    for match in _LONE.finditer(text):
        is_marked = bool(match["open"].strip('"'))
        follows = text[match.end() : match.end() + 5]
        is_word = not match["close"] and re.match(r"\s(?!and\b|or\b)[a-z]", follows) is not None
        is_pronoun = match["letter"] == "I" and not is_marked
        is_article = match["letter"] == "A" and is_word and not is_marked
        is_denied = _DENIED.match(text, match.end("letter")) or _DENIAL_BEFORE.search(
            text[max(match.start() - 8, 0) : match.start()]
        )
        if match["letter"] in question.letters and not (is_pronoun or is_article or is_denied):
            found.append(match)
    if not found:
        return None
    last = found[-1]
    if len(found) > 1 and found[-2]["letter"] != last["letter"]:
        gap = text[found[-2].end("letter") : last.start("letter")]
        if re.fullmatch(r"[\s,/&()*_]*(?:and|or)?[\s,/&()*_]*", gap):
            return SEVERAL, "lone"
    return last["letter"], "lone"
