"""Which piece of a response is its answer to a mathematical question. Knows how answers are announced, not judged.

The rungs, first that yields something wins:

1. ``boxed``: the last box. Boxes that follow each other with nothing but "and", "or", commas or names between them are
   one answer with several parts, so listing guesses in boxes next to each other answers with the list.
2. ``announced``: what follows the last "the answer is", "Answer:", "####" or ``<answer>``.
3. ``last_expression``: a response that is nothing but an expression; else the last number or formula of the text, with
   everything that is listed with it.
"""

# ruff: noqa: RUF001 (the characters of answers, as models write them)
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from insight_rl.reward.extract import Span, boxed, unclosed_box
from insight_rl.reward.math.vocabulary import FUNCTIONS, SHORT_WORDS, is_unit, words

MAX_DISTINCT_BOXES = 8
_MAX_WHOLE = 400
_MAX_CLAUSE = 4_000
_MAX_ANNOUNCEMENTS = 20
_MAX_TEXT_ANSWER = 60


class Extraction(NamedTuple):
    rung: str
    answer: str


class Rungs(NamedTuple):
    """Which rungs are used."""

    boxed: bool = True
    announced: bool = True
    last_expression: bool = True


_ANNOUNCEMENT = re.compile(
    r"\banswers?\b[*_\"']{0,4}"
    r"(?:\s{0,20}(?:[:=：]|\s(?:is|are|was|equals|becomes|comes\s+to)\b)|[^.\n:=$\\?!]{0,60}?\s(?:is|are)\b\s*:?|\s{0,20}(?=\\\[|\$\$|\\\())"
    r"|final\s{1,5}answer[*_#:.\s]{0,6}\n"
    r"|^[ \t]{0,8}#{4}(?!#)"
    r"|<answer>"
    r"|答案[^。\n]{0,10}?(?:是|为|：|:)",
    re.IGNORECASE | re.MULTILINE,
)
_OPENING = re.compile(r"[\s*_:：=>\"“'`]*")
_DENIAL = re.compile(r"(?:definitely |certainly )?(?:not|never|neither|no longer)\b", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|n't|\bnever|\bneither|\bnor)\s{1,3}$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|\*|$|[A-Z])|</answer>|。|;\s", re.MULTILINE)
_ATOM = (
    r"(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+|\\?sqrt\s?[({][^(){}\n]{1,40}[)}]|√\d+|\\?pi\b|π"
    r"|\\[dt]?frac\s?\{[^{}\n]{1,40}\}\s?\{[^{}\n]{1,40}\})"
)
_PLAIN = re.compile(
    rf"(?<![\w.\\])(?<![\w\]]\[)(?:(?<![)\d])[-−+])?[(]{{0,3}}[-−]?[$€£¥]?{_ATOM}[)]{{0,3}}"
    rf"(?:(?: ?(?:\*\*|[-+*/^×÷·−]) ?|(?=\\))[(]{{0,3}}[-−]?{_ATOM}[)]{{0,3}}){{0,40}}(?: ?(?:\\?%|percent\b|pct\b|°))?"
)
_MATH = re.compile(r"\\\[|\\\(|\$\$|\$")
_CLOSING = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "$": "$"}
_PROSE_IN_DOLLARS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}[ ,]+(?:[A-Za-z]{2,}|[a-z])\b")
_TEXT_MACRO = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}")
_LONE_SYMBOL = re.compile(r"\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?'*\s*")
_CONNECTOR_WORDS = words(
    "and or either maybe perhaps possibly also alternatively answer option case solution possibility quad qquad"
)
_CONNECTOR = re.compile(r"[A-Za-z]+|[^A-Za-z]+")
_NAME_EQUALS = re.compile(r"\\?[A-Za-z]{1,8}(?:_\{?\w{1,4}\}?)?\s*=\s*$")


def extract(text: str, rungs: Rungs) -> Extraction | None:
    """The answer in ``text`` (see :func:`~insight_rl.reward.extract.final_text`), or ``None`` if it has none."""
    if rungs.boxed and (answer := last_boxed(text)) is not None:
        return Extraction("boxed", answer)
    # A box that was cut off holds no answer, and neither does what was written of it.
    text = text[: unclosed_box(text)]
    if rungs.announced and (answer := _announced(text)) is not None:
        return Extraction("announced", answer)
    if rungs.last_expression and (answer := _last(text)) is not None:
        return Extraction("last_expression", answer)
    return None


# -- boxes


def last_boxed(text: str) -> str | None:
    """The content of the last box of ``text``, with those that belong to it; ``None`` without a box."""
    boxes = boxed(text)
    return _last_boxes(text, boxes) if boxes else None


def _last_boxes(text: str, boxes: Sequence[Span]) -> str:
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _is_connector(text[box.end : run[0].start]):
            break
        run.insert(0, box)
    if len({box.content for box in boxes}) > MAX_DISTINCT_BOXES:
        run = list(boxes)
    return _joined(box.content for box in run)


def _joined(contents: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(contents))
    return distinct[0] if len(distinct) == 1 else " , ".join(distinct)


def _is_connector(gap: str) -> bool:
    """Whether nothing but separators, names and words such as "or" stand in ``gap``."""
    if len(gap) > 80:
        return False
    gap = _NAME_EQUALS.sub("", gap.rstrip(" $(\\["))
    return not any(
        (part[0].isalpha() and part.lower() not in _CONNECTOR_WORDS) or "=" in part for part in _CONNECTOR.findall(gap)
    )


# -- announcements


def _announced(text: str) -> str | None:
    for match in reversed(list(_ANNOUNCEMENT.finditer(text))[-_MAX_ANNOUNCEMENTS:]):
        clause = text[match.end() : match.end() + _MAX_CLAUSE]
        opening = _OPENING.match(clause)
        clause = clause[opening.end() :] if opening else clause
        if not clause or _DENIAL.match(clause):
            continue
        answer = _in_clause(clause)
        if answer is not None:
            return answer
    return None


def _in_clause(text: str) -> str | None:
    """The answer at the start of ``text``, or else the last expression of its first sentence."""
    groups = _groups(text)
    if groups and groups[0].start <= 1:
        sentence_end = _end_of_sentence(text, groups[0].end)
        whole = text[:sentence_end].strip()
        if is_expression(whole):
            return whole
        return groups[0].content
    end = _end_of_sentence(text, 0)
    sentence = text[:end].strip()
    if is_expression(sentence):
        return sentence
    inside = [group for group in groups if group.start < end]
    if inside:
        return _preferred(inside).content
    is_short = len(sentence) <= _MAX_TEXT_ANSWER and len(sentence.split()) <= 5
    return sentence.strip(" *_\"'`") if is_short and sentence.strip() else None


def _end_of_sentence(text: str, start: int) -> int:
    match = _SENTENCE_END.search(text, start)
    return match.start() if match else len(text)


# -- expressions in prose


def _last(text: str) -> str | None:
    stripped = text.strip()
    if not stripped:
        return None
    if len(stripped) <= _MAX_WHOLE and "\n\n" not in stripped and is_expression(stripped):
        return stripped
    tail = stripped[-_MAX_CLAUSE:]
    groups = [group for group in _groups(tail) if not _DENIED.search(tail[max(group.start - 12, 0) : group.start])]
    if groups:
        return _preferred(groups[-4:]).content
    if len(stripped) <= _MAX_TEXT_ANSWER and "\n" not in stripped:
        return stripped
    return None


def _preferred(groups: Sequence[Span]) -> Span:
    """The last one that is more than the name of a variable, if any is."""
    return next((group for group in reversed(groups) if not _LONE_SYMBOL.fullmatch(group.content)), groups[-1])


def is_expression(text: str) -> bool:
    """Whether ``text`` holds no prose: words only inside commands, or names of functions."""
    bare = _COMMAND.sub(" ", _TEXT_MACRO.sub(" ", text.strip().strip("*_`.")))
    if not bare.strip() and "\\" not in text:
        return False
    words = _WORD.findall(bare)
    if not SHORT_WORDS.isdisjoint(bare.lower().split()):
        return False
    return bool(re.search(r"[\dA-Za-z\\]", text)) and all(_is_mathematical(word) for word in words)


def _is_mathematical(word: str) -> bool:
    return word.lower() in FUNCTIONS or word in ("pi", "infty", "and") or is_unit(word)


def _groups(text: str) -> list[Span]:
    """Formulas and numbers in order, those joined by commas, "and" or "or" as one."""
    groups: list[Span] = []
    for span in _expressions(text):
        if groups and _is_listed(text[groups[-1].end : span.start]):
            groups[-1] = Span(groups[-1].start, span.end, f"{groups[-1].content} , {span.content}")
        else:
            groups.append(span)
    return groups


def _is_listed(gap: str) -> bool:
    words = gap.replace(",", " ").replace(";", " ").strip(" \"'").split()
    return len(gap) <= 12 and bool(gap.strip(" \"'")) and (not words or words in (["and"], ["or"]))


def _expressions(text: str) -> list[Span]:
    spans: list[Span] = []
    at = 0
    for formula in _formulas(text):
        spans += _numbers(text, at, formula.start)
        spans.append(formula)
        at = formula.end
    return spans + _numbers(text, at, len(text))


def _numbers(text: str, start: int, end: int) -> list[Span]:
    return [Span(m.start(), m.end(), _balanced(m[0])) for m in _PLAIN.finditer(text, start, end)]


def _balanced(run: str) -> str:
    return run if run.count("(") == run.count(")") else run.strip("() ")


def _formulas(text: str) -> list[Span]:
    """Everything between math delimiters; a dollar sign before a price is not one."""
    spans: list[Span] = []
    at = 0
    last_end: dict[str, int] = {}
    while (match := _MATH.search(text, at)) is not None:
        opening = match[0]
        closing = _CLOSING[opening]
        at = match.end()
        if last_end.get(closing) == -1:
            continue
        end = text.find(closing, at)
        last_end[closing] = end
        content = text[at:end]
        if end < 0 or (opening == "$" and _is_price(content)) or not content.strip():
            continue
        at = end + len(closing)
        spans.append(Span(match.start(), at, content.strip()))
    return spans


def _is_price(content: str) -> bool:
    if len(content) > 1_000 or "\n\n" in content:
        return True
    return bool(_PROSE_IN_DOLLARS.search(_TEXT_MACRO.sub(" ", content)))
