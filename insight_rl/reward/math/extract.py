"""Which piece of a response is its answer to a mathematical question. Whether it is right is decided elsewhere.

The stages, first that yields something wins:

1. ``boxed``: the last box. Boxes that follow each other with nothing but "and", "or", commas or names between them are
   one answer with several parts, so listing guesses in boxes next to each other answers with the list.
2. ``announced``: what follows the last "the answer is", "Answer:", "####" or ``<answer>``.
3. ``last_expression``: a response that is nothing but an expression; else the last number or formula of the text, with
   everything that is listed with it.

A number in prose counts where it stands by itself: not as part of a word, a path, a time, a date, a version or another
identifier. Numbers next to each other, with commas, "or" or dots between them, are a list and not the last of them.
"""

# ruff: noqa: RUF001 (the characters of answers, as models write them)
from __future__ import annotations

import itertools
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
    stage: str
    answer: str
    whole: str
    """The announced sentence that the answer was taken from, for golds that are sentences; else the answer."""


class Stages(NamedTuple):
    """Which stages are used."""

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
    r"(?:(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?|\\?sqrt\s?[({][^(){}\n]{1,40}[)}]|√\d+|\\?pi\b|π"
    r"|\\[dt]?frac\s?\{[^{}\n]{1,40}\}\s?\{[^{}\n]{1,40}\})"
)
_OPERATION = r"(?: ?(?:\*\*|[-+*/^×÷·−]) ?|(?=[\\√π]))"
_PLAIN = re.compile(
    rf"(?<![\w.\\])(?<![\w\]]\[)(?:(?<![)\d])[-−+])?[(]{{0,3}}[-−]?[$€£¥]?{_ATOM}[)]{{0,3}}"
    rf"(?:{_OPERATION}[(]{{0,3}}[-−]?{_ATOM}[)]{{0,3}}){{0,40}}(?: ?(?:\\?%|percent\b|pct\b|°))?"
)
# What stands before or after a number that is part of a longer word, path, time, date, version, identifier or formula.
_JOINED_BEFORE = re.compile(r"(?:[A-Za-z0-9_)\]}][-−+*/^.@_~'’]|\d:|[/\\@]|(?<!#)#)$")
_JOINED_AFTER = re.compile(
    r"(?P<letters>[A-Za-z]+)|_|[:.]\d|[-−+*^@](?!\{?\\circ)[A-Za-z_({\\]|\.[a-z]|:[A-Za-z]|/(?P<per>[A-Za-z]+)|/[({\\]|['’][A-Za-z]"
)
_DATE = re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}[-/]\d{1,2}[-/]\d{4}")
_RATIO = re.compile(r"(?<![\w.:/-])\d+(?: : |:)\d+(?:(?: : |:)\d+)*(?![\w:]|[.]\d)")
_TIME = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
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
_SEPARATOR = re.compile(r"[,;&\s\"'“”]|\.{2,}|…|\\[cl]?dots(?![A-Za-z])")
_LISTING_WORDS = words("and or maybe perhaps possibly also alternatively either even")
_MAX_GAP = 30
_FRACTION = re.compile(r"\d+/\d+")
# "So 43 = 42": both sides are complete. In "log 100 = 2" and "x + 3 = 7" the number before the sign is not a side.
_BEGINS_EQUATION = re.compile(
    r"(?:^|[.:;,!?\n]|\b(?i:so|thus|hence|then|therefore|is|get|gives|have|that|we|because|since|as))\s*\Z"
)
_NAME_EQUALS = re.compile(r"\\?[A-Za-z]{1,8}(?:_\{?\w{1,4}\}?)?\s*=\s*$")


def extract(text: str, stages: Stages) -> Extraction | None:
    """The answer in ``text`` (see :func:`~insight_rl.reward.extract.final_text`), or ``None`` if it has none."""
    if stages.boxed and (answer := last_boxed(text)) is not None:
        return Extraction("boxed", answer, answer)
    # A box that was cut off holds no answer, and neither does what was written of it.
    text = text[: unclosed_box(text)]
    if stages.announced and (found := _announced(text)) is not None:
        return found
    if stages.last_expression and (answer := _last(text)) is not None:
        return Extraction("last_expression", answer, answer)
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


def _announced(text: str) -> Extraction | None:
    for match in reversed(list(_ANNOUNCEMENT.finditer(text))[-_MAX_ANNOUNCEMENTS:]):
        clause = text[match.end() : match.end() + _MAX_CLAUSE]
        opening = _OPENING.match(clause)
        clause = clause[opening.end() :] if opening else clause
        if not clause or _DENIAL.match(clause):
            continue
        answer = _in_clause(clause)
        if answer is not None:
            return Extraction("announced", answer, clause[: _end_of_sentence(clause, 0)])
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
    """Formulas and numbers in order, those that are listed as one, and an equation between two of them as one."""
    spans = _expressions(text)
    gaps = [text[left.end : right.start] for left, right in itertools.pairwise(spans)]
    groups: list[Span] = []
    for index, span in enumerate(spans):
        join = _join(text, groups[-1], span, gaps, index - 1) if groups else None
        if join is None:
            groups.append(span)
        else:
            groups[-1] = Span(groups[-1].start, span.end, f"{groups[-1].content}{join}{span.content}")
    return groups


def _join(text: str, left: Span, right: Span, gaps: Sequence[str], index: int) -> str | None:
    """What joins two neighbours into one group, ``gaps[index]`` standing between them; ``None`` if nothing does."""
    gap = gaps[index]
    if gap == " " and left.content.isdigit() and _FRACTION.fullmatch(right.content):
        return " "
    if gap.strip() == "=" and _BEGINS_EQUATION.search(text[max(left.start - _MAX_GAP, 0) : left.start]):
        return " = "
    if not gap.strip():
        # Space alone lists numbers of one line, and three or more of whatever lines.
        around = (*gaps[max(index - 1, 0) : index], *gaps[index + 1 : index + 2])
        is_sequence = "\n" not in gap or any(other and not other.strip() for other in around)
        return " , " if gap and is_sequence and _is_plain(text, left) and _is_plain(text, right) else None
    is_short = len(gap) <= _MAX_GAP
    return " , " if is_short and all(word in _LISTING_WORDS for word in _SEPARATOR.sub(" ", gap).split()) else None


def _is_plain(text: str, span: Span) -> bool:
    """Whether the expression is written without math delimiters."""
    return text[span.start] == span.content[:1]


def _expressions(text: str) -> list[Span]:
    spans: list[Span] = []
    at = 0
    for formula in _formulas(text):
        spans += _numbers(text, at, formula.start)
        spans.append(formula)
        at = formula.end
    return spans + _numbers(text, at, len(text))


def _numbers(text: str, start: int, end: int) -> list[Span]:
    """Numbers, expressions of numbers, and ratios, that stand by themselves."""
    ratios = [Span(m.start(), m.end(), m[0]) for m in _RATIO.finditer(text, start, end) if not _TIME.fullmatch(m[0])]
    numbers = [
        Span(m.start(), m.end(), _balanced(m[0]))
        for m in _PLAIN.finditer(text, start, end)
        if not _is_part_of_a_word(text, m.start(), m.end())
    ]
    return sorted(ratios + numbers) if ratios else numbers


def _is_part_of_a_word(text: str, start: int, end: int) -> bool:
    if _DATE.fullmatch(text, start, end) or _JOINED_BEFORE.search(text[max(start - 2, 0) : start]):
        return True
    after = _JOINED_AFTER.match(text, end)
    if after is None:
        return False
    letters = after["letters"] or after["per"]
    is_unit_after = letters is not None and (is_unit(letters) or (text[end - 1] == "°" and letters in ("C", "F", "K")))
    return not is_unit_after


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
