"""Finds the part of a response that answers: text after the reasoning, boxes, sentences.

Every function is linear in the length of the text, whatever the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SPECIAL_TOKEN = re.compile(r"<\|[A-Za-z_]{1,30}\|>|</?s>|<(?:end_of_turn|start_of_turn|eos|bos|pad)>")
_ROLE = re.compile(r"\s*(?:assistant|model)?\s*")
_ROLE_NAME = re.compile(r"^\s*(?:system|user|assistant|model)\s*\n")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?P<brace>\{)|(?P<bare>[A-Za-z0-9]+))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# ``\\boxed{185\\}``, a slip that models make.
_ESCAPED_CLOSING = re.compile(r"([^{}\\\n]{1,60})\\\}")
_MIN_ECHO = 20


class Span(NamedTuple):
    """A piece of the text: ``text[start:end]`` holds it with its delimiters, ``content`` without."""

    start: int
    end: int
    content: str


def final_text(response: str, *, prompt: str = "", max_chars: int) -> str:
    """What the response says after its reasoning: no echo of the prompt, nothing beyond the end of the turn.

    The text after the last ``</think>``, all of it where there is none; of that the last ``max_chars`` characters.
    """
    text = response.rpartition("</think>")[2][-max_chars:]
    if "<" in text:
        text = _own_turn(text)
    for segment in _SPECIAL_TOKEN.split(prompt):
        segment = _ROLE_NAME.sub("", segment).strip()
        if len(segment) >= _MIN_ECHO:
            text = text.replace(segment, "\n")
    return text


def _own_turn(text: str) -> str:
    """Up to the first special token that follows any text: a model that goes on writes the next turn of the chat."""
    start = 0
    for match in _SPECIAL_TOKEN.finditer(text):
        if _ROLE.fullmatch(text, start, match.start()) is None:
            return text[start : match.start()]
        start = match.end()
    role = _ROLE.match(text, start) if start else None
    return text[role.end() if role else start :]


def boxed(text: str) -> list[Span]:
    """Every outermost ``\\boxed{...}`` that is closed, in order; also ``\\boxed 5`` and ``\\fbox{...}``."""
    if "boxed" not in text and "\\fbox" not in text:
        return []
    closing = _matching_braces(text)
    spans: list[Span] = []
    for match in _BOX.finditer(text):
        if spans and match.start() < spans[-1].end:
            continue
        if match["bare"] is not None:
            spans.append(Span(match.start(), match.end(), match["bare"]))
        elif (end := closing.get(match.start("brace"))) is not None:
            spans.append(Span(match.start(), end + 1, text[match.end() : end].strip()))
        elif (slip := _ESCAPED_CLOSING.match(text, match.end())) is not None:
            spans.append(Span(match.start(), slip.end(), slip[1].strip()))
    return spans


def unclosed_box(text: str) -> int | None:
    """Where the last box begins if nothing closes it; ``None`` otherwise."""
    last = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    return last if last >= 0 and not boxed(text[last:]) else None


def _matching_braces(text: str) -> dict[int, int]:
    """The closing brace of every opening one, in one pass; escaped braces do not count."""
    closing: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    return closing
